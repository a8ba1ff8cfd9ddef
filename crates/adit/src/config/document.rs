//! Reading TOML so that every fault names its place: values with their span, sections that know their keys.

use std::{ops::Range, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use zeroize::Zeroizing;

use super::{
    error::{Error, Position, quoted},
    nearest::nearest,
};

/// A text and the name of its file. The text is erased when it is dropped: that of a wg-quick file has keys in it.
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) text: Zeroizing<String>,
}

/// A value and the bytes of the file it was read from.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// What may stand where either a word or a number may stand.
#[derive(Debug, Clone)]
pub(super) enum WordOrNumber {
    Word(String),
    Number(i64),
}

impl Document {
    /// An error at a place of this text.
    pub(super) fn error(&self, span: &Range<usize>, sentence: impl Into<String>) -> Error {
        Error::new(&self.path, Some(self.position(span.start)), sentence)
    }

    /// An error of the file as a whole.
    pub(super) fn error_of_file(&self, sentence: impl Into<String>) -> Error {
        Error::new(&self.path, None, sentence)
    }

    /// The place of a byte. A byte beyond the text, or within a character, counts as the nearest before.
    pub(super) fn position(&self, byte: usize) -> Position {
        let before = self.text.get(..self.text.floor_char_boundary(byte)).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        Position { line: before.matches('\n').count() + 1, column }
    }

    /// The document as its outermost section.
    pub(super) fn parse(&self) -> Result<Section<'_>, Error> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
            let sentence = format!("this is not TOML: {message}");
            match error.span() {
                Some(span) => self.error(&span, sentence),
                None => self.error_of_file(sentence),
            }
        })?;
        Ok(Section::new(self, None, table))
    }
}

/// A table of which keys are taken one by one; what is left at the end is unknown.
pub(super) struct Section<'d> {
    document: &'d Document,
    name: Option<&'static str>,
    span: Range<usize>,
    table: DeTable<'d>,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    fn new(document: &'d Document, name: Option<&'static str>, table: Spanned<DeTable<'d>>) -> Self {
        Self { document, name, span: table.span(), table: table.into_inner(), known: Vec::new() }
    }

    /// Where the section begins.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'d>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn wrong_type(&self, key: &str, expected: &str, value: &Spanned<DeValue<'_>>) -> Error {
        let place = self.name.map_or_else(String::new, |name| format!(" in {name}"));
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.document.error(&value.span(), format!("\"{key}\"{place} must be {expected}, not {found}"))
    }

    /// A string; `expected` describes it with its article and an example.
    pub(super) fn string(&mut self, key: &'static str, expected: &str) -> Result<Option<Located<String>>, Error> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::String(text) => Ok(Some(Located { value: text.clone().into_owned(), span: value.span() })),
            _ => Err(self.wrong_type(key, expected, &value)),
        }
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &'static str) -> Result<Option<Located<bool>>, Error> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Boolean(truth) => Ok(Some(Located { value: *truth, span: value.span() })),
            _ => Err(self.wrong_type(key, "true or false, without quotes", &value)),
        }
    }

    /// A word or a whole number.
    pub(super) fn word_or_number(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Located<WordOrNumber>>, Error> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let found = match value.get_ref() {
            DeValue::String(text) => WordOrNumber::Word(text.clone().into_owned()),
            // A number that does not fit is out of range wherever it stands.
            DeValue::Integer(number) => WordOrNumber::Number(
                i64::from_str_radix(number.as_str(), number.radix())
                    .map_err(|_| self.document.error(&value.span(), format!("\"{key}\" is a number out of range")))?,
            ),
            _ => return Err(self.wrong_type(key, expected, &value)),
        };
        Ok(Some(Located { value: found, span: value.span() }))
    }

    /// A list of strings.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Located<Vec<Located<String>>>>, Error> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let DeValue::Array(list) = value.get_ref() else { return Err(self.wrong_type(key, expected, &value)) };
        let mut strings = Vec::with_capacity(list.len());
        for item in list.iter() {
            let DeValue::String(text) = item.get_ref() else { return Err(self.wrong_type(key, expected, item)) };
            strings.push(Located { value: text.clone().into_owned(), span: item.span() });
        }
        Ok(Some(Located { value: strings, span: value.span() }))
    }

    /// A list of strings, or one alone.
    pub(super) fn string_or_strings(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Located<Vec<Located<String>>>>, Error> {
        match self.table.get(key).map(|value| value.get_ref()) {
            Some(DeValue::String(_)) => Ok(self.string(key, expected)?.map(|text| {
                let span = text.span.clone();
                Located { value: vec![text], span }
            })),
            _ => self.strings(key, expected),
        }
    }

    /// A table `[key]`, of which errors speak as `name`.
    pub(super) fn table(&mut self, key: &'static str, name: &'static str) -> Result<Option<Self>, Error> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Ok(Some(Self::new(self.document, Some(name), Spanned::new(span, table)))),
            other => Err(self.wrong_type(key, &format!("a table, written {name}"), &Spanned::new(span, other))),
        }
    }

    /// Tables `[[key]]`, of which errors speak as `name`, in the order of the file.
    pub(super) fn tables(&mut self, key: &'static str, name: &'static str) -> Result<Vec<Self>, Error> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let expected = format!("tables, each written {name}");
        let span = value.span();
        let list = match value.into_inner() {
            DeValue::Array(list) => list,
            other => return Err(self.wrong_type(key, &expected, &Spanned::new(span, other))),
        };
        let mut sections = Vec::with_capacity(list.len());
        for item in list {
            let span = item.span();
            match item.into_inner() {
                DeValue::Table(table) => {
                    sections.push(Self::new(self.document, Some(name), Spanned::new(span, table)));
                }
                other => return Err(self.wrong_type(key, &expected, &Spanned::new(span, other))),
            }
        }
        Ok(sections)
    }

    /// Refuses the first key that nobody took. `elsewhere` names the section of a key that belongs to another one.
    pub(super) fn finish(self, elsewhere: impl Fn(&str) -> Option<&'static str>) -> Result<(), Error> {
        let Some((key, _)) = self.table.iter().min_by_key(|(key, _)| key.span().start) else { return Ok(()) };
        let typed: &str = key.get_ref();
        let place = self.name.map_or_else(String::new, |name| format!(" in {name}"));
        let hint = if let Some(section) = elsewhere(typed) {
            format!("it belongs in {section}")
        } else if let Some(word) = nearest(typed, &self.known) {
            format!("did you mean \"{word}\"?")
        } else {
            format!("known here: {}", self.known.join(", "))
        };
        Err(self.document.error(&key.span(), format!("unknown key {}{place}; {hint}", quoted(typed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(text: &str) -> Document {
        Document { path: "test.toml".into(), text: Zeroizing::new(text.into()) }
    }

    #[test]
    fn positions_count_characters_from_one() {
        let text = document("a = 1\nü = 2\n\nb");
        assert_eq!(text.position(0), Position { line: 1, column: 1 });
        assert_eq!(text.position(4), Position { line: 1, column: 5 });
        assert_eq!(text.position(6), Position { line: 2, column: 1 });
        // Byte 7 is the second half of "ü".
        assert_eq!(text.position(7), Position { line: 2, column: 1 });
        assert_eq!(text.position(8), Position { line: 2, column: 2 });
        assert_eq!(text.position(14), Position { line: 4, column: 1 });
        assert_eq!(text.position(1000), Position { line: 4, column: 2 });
    }

    #[test]
    fn a_number_too_large_is_out_of_range() {
        let text = document("n = 99999999999999999999");
        let error = text.parse().unwrap().word_or_number("n", "a number").unwrap_err();
        assert!(error.to_string().ends_with("\"n\" is a number out of range"), "{error}");
    }

    #[test]
    fn the_first_unknown_key_is_reported_with_its_place() {
        let text = document("[t]\nzeta = 1\nalpha = 2\n");
        let section = text.parse().unwrap().table("t", "[t]").unwrap().unwrap();
        let error = section.finish(|_| None).unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 2, column: 1 }));
        assert!(error.sentence().starts_with("unknown key \"zeta\" in [t]"), "{error}");
    }

    proptest! {
        #[test]
        fn every_byte_has_a_position(text in "(?s).{0,80}", byte in 0_usize..400) {
            let at = document(&text).position(byte);
            prop_assert!(at.line >= 1 && at.column >= 1);
        }
    }
}
