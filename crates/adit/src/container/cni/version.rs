//! Versions of the protocol that we speak.

use std::fmt;

use serde::Deserialize;

use super::{Code, Error, Verb};

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The first with results of this form.
    V0_3_1,
    /// CHECK, and `prevResult` for DEL.
    V0_4_0,
    /// Addresses without the number of their family.
    V1_0_0,
    /// STATUS and GC.
    V1_1_0,
}

impl Version {
    /// All that we speak, the oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The one in which we answer who has not said any.
    pub const LATEST: Self = Self::V1_1_0;

    /// Whether there is such a command in it.
    fn has(self, verb: Verb) -> bool {
        match verb {
            Verb::Add | Verb::Del | Verb::Version => true,
            Verb::Check => self >= Self::V0_4_0,
            Verb::Status | Verb::Gc => self >= Self::V1_1_0,
        }
    }

    fn find(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.to_string() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        })
    }
}

#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
}

/// What a configuration names as its version, whether we speak it or not; that which has none is older than the key.
///
/// # Errors
/// It is no JSON object, or the version is no text.
pub(super) fn asked(configuration: &[u8]) -> Result<String, Error> {
    let asked: Asked = super::config::decode(configuration)?;
    Ok(asked.version.filter(|version| !version.is_empty()).unwrap_or_else(|| "0.1.0".into()))
}

/// The version in which this command is to be done.
///
/// # Errors
/// We do not speak it, or it has no such command.
pub(super) fn agree(asked: &str, verb: Verb) -> Result<Version, Error> {
    let version = Version::find(asked).ok_or_else(|| {
        let ours: Vec<_> = Version::ALL.iter().map(ToString::to_string).collect();
        let details = format!(
            "the configuration is of version {asked}, and this plugin speaks {}; set cniVersion to one of them",
            ours.join(", ")
        );
        Error::new(Code::IncompatibleVersion, details)
    })?;
    if version.has(verb) {
        return Ok(version);
    }
    let details = format!("there is no {verb} in version {version}; set cniVersion to a later one");
    Err(Error::new(Code::IncompatibleVersion, details))
}

/// The version in which to answer who asked in this one.
pub(super) fn to_answer(asked: &str) -> Version {
    Version::find(asked).unwrap_or(Version::LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_there_from_the_version_on_that_has_them() {
        for (verb, since) in [
            (Verb::Add, "0.3.1"),
            (Verb::Del, "0.3.1"),
            (Verb::Check, "0.4.0"),
            (Verb::Status, "1.1.0"),
            (Verb::Gc, "1.1.0"),
        ] {
            for version in Version::ALL {
                let text = version.to_string();
                assert_eq!(agree(&text, verb).is_ok(), text.as_str() >= since, "{verb} in {text}");
            }
        }
    }

    #[test]
    fn what_we_do_not_speak_is_refused_with_what_we_do() {
        for text in ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "1.0", "one", "", " 1.0.0"] {
            let error = agree(text, Verb::Add).unwrap_err();
            assert_eq!(error.code, Code::IncompatibleVersion);
            assert!(error.details.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error:?}");
        }
        assert_eq!(asked(b"{}").unwrap(), "0.1.0");
        assert_eq!(asked(br#"{"cniVersion":null}"#).unwrap(), "0.1.0");
        assert_eq!(asked(br#"{"cniVersion":1}"#).unwrap_err().code, Code::Decode);
    }
}
