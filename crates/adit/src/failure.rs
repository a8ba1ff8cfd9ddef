//! Why a verb did not do what it was asked: one sentence for a person, one exit code for a script.

use std::fmt;

/// The result of everything that a verb calls.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure as its reader meets it: one sentence that says what failed, why, and what to do.
///
/// The program prints it as `adit: SENTENCE` on standard error and ends with [`Failure::exit_code`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    sentence: String,
    exit_code: u8,
}

impl Failure {
    /// The request was sound but could not be carried out (exit code 1).
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), exit_code: 1 }
    }

    /// The request itself was wrong: arguments or configuration (exit code 2).
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), exit_code: 2 }
    }

    /// Somebody else has told the reader already what failed, and with this code.
    pub fn told(exit_code: u8) -> Self {
        Self { sentence: String::new(), exit_code }
    }

    /// The same failure with `remedy`, a clause that says what to do: `SENTENCE; REMEDY`.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.sentence = format!("{}; {remedy}", self.sentence);
        self
    }

    /// The same failure with another exit code, for verbs whose codes others have settled.
    #[must_use]
    pub fn with_exit_code(self, exit_code: u8) -> Self {
        Self { exit_code, ..self }
    }

    /// The sentence, without a final full stop; empty if the reader has been [told](Self::told).
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// 1 (failed) or 2 (wrong usage or configuration), unless the verb has codes of its own.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

impl From<linux::Error> for Failure {
    fn from(error: linux::Error) -> Self {
        Self::failed(error.to_string())
    }
}
