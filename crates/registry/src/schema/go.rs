//! JSON as Go's `encoding/json` reads and writes it.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The longest value that is looked at, in bytes: etcd itself takes up to 1.5 MiB.
pub const MAX_LEN: usize = 16 * 1024;

/// Why a text is no JSON object of use, as the end of a sentence that began with what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Longer than [`MAX_LEN`].
    #[error("is longer than {MAX_LEN} bytes")]
    TooLong,
    /// Not JSON, or not an object.
    #[error("is not a JSON object ({0})")]
    Malformed(String),
    /// A field has a value of another type than its name asks for.
    #[error("has a \"{field}\" that is not {expected}")]
    Type {
        /// Its name as flannel writes it.
        field: &'static str,
        /// What it should be, with an example.
        expected: &'static str,
    },
}

/// An object in the order of its text.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, Value)>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Result<Self, JsonError> {
        if text.len() > MAX_LEN {
            return Err(JsonError::TooLong);
        }
        serde_json::from_slice(text).map_err(|error| JsonError::Malformed(error.to_string()))
    }

    /// The fields of an object that stood inside another one.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let object = value.as_object()?;
        Some(Self(object.iter().map(|(name, value)| (name.clone(), value.clone())).collect()))
    }

    /// The value of a field. `null` is as if it were not there.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.written(name).filter(|value| !value.is_null())
    }

    /// The value of a field, `null` included.
    pub(super) fn written(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(written, _)| written.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn text(&self, field: &'static str, expected: &'static str) -> Result<Option<&str>, JsonError> {
        self.get(field).map(|value| value.as_str().ok_or(JsonError::Type { field, expected })).transpose()
    }

    pub(super) fn switch(&self, field: &'static str, default: bool) -> Result<bool, JsonError> {
        let expected = "true or false";
        self.get(field).map_or(Ok(default), |value| value.as_bool().ok_or(JsonError::Type { field, expected }))
    }

    pub(super) fn number(&self, field: &'static str) -> Result<Option<u64>, JsonError> {
        let expected = "a whole number";
        self.get(field).map(|value| value.as_u64().ok_or(JsonError::Type { field, expected })).transpose()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The text that Go makes of it. These five characters stand in strings only, and Go escapes them.
pub(super) fn write(value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut written = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => written.push_str("\\u003c"),
            '>' => written.push_str("\\u003e"),
            '&' => written.push_str("\\u0026"),
            '\u{2028}' => written.push_str("\\u2028"),
            '\u{2029}' => written.push_str("\\u2029"),
            other => written.push(other),
        }
    }
    written.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_go_matches_them() {
        let fields = Fields::parse(br#"{"network":"a","NETWORK":"b","Other":1,"subnetlen":null}"#).unwrap();
        assert_eq!(fields.text("Network", "a text"), Ok(Some("b")));
        assert_eq!(fields.number("SubnetLen"), Ok(None));
        assert!(fields.written("SubnetLen").is_some());
        assert_eq!(fields.number("Other"), Ok(Some(1)));
        assert!(fields.switch("Other", true).is_err());
    }

    #[test]
    fn only_objects_of_bounded_size() {
        for text in ["", "[]", "1", "{", "null", "\"a\"", "{} {}", "\u{feff}{}"] {
            assert!(matches!(Fields::parse(text.as_bytes()), Err(JsonError::Malformed(_))), "{text}");
        }
        let long = format!("{{}}{}", " ".repeat(MAX_LEN));
        assert_eq!(Fields::parse(long.as_bytes()).unwrap_err(), JsonError::TooLong);
        let deep = format!("{{\"a\":{}", "[".repeat(MAX_LEN - 100));
        assert!(Fields::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn go_escapes_what_a_browser_could_misread() {
        assert_eq!(write(&"a<b>&\u{2028}\u{2029}ü"), "\"a\\u003cb\\u003e\\u0026\\u2028\\u2029ü\"".as_bytes());
    }
}
