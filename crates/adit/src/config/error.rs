//! What is wrong with a configuration, and where.

use std::{fmt, path::PathBuf};

use crate::Failure;

/// One fault of a configuration file: `FILE:LINE:COLUMN: SENTENCE`, always a single line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    file: PathBuf,
    position: Option<Position>,
    sentence: String,
}

/// A place in a text, counted from one; columns are characters, not bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Error {
    pub(super) fn new(file: impl Into<PathBuf>, position: Option<Position>, sentence: impl Into<String>) -> Self {
        Self { file: file.into(), position, sentence: sentence.into() }
    }

    /// Where the fault is; `None` if it is the file as a whole.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// What is wrong and what to do.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(at) => write!(f, "{}:{}:{}: {}", self.file.display(), at.line, at.column, self.sentence),
            None => write!(f, "{}: {}", self.file.display(), self.sentence),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::usage(error.to_string())
    }
}

/// The characters of a quoted text that an error shows.
const SHOWN: usize = 64;

/// A text of the file as an error may show it: in quotes, escaped, on one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        format!("{text:?}")
    } else {
        let start: String = text.chars().take(SHOWN).collect();
        format!("{:?}", start + "…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_stays_short_and_on_one_line() {
        assert_eq!(quoted("a\nb\u{1b}[2J"), r#""a\nb\u{1b}[2J""#);
        assert_eq!(quoted(&"x".repeat(64)), format!("\"{}\"", "x".repeat(64)));
        assert_eq!(quoted(&"x".repeat(65)), format!("\"{}…\"", "x".repeat(64)));
    }
}
