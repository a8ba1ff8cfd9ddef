//! One error type: which operation failed, on what, and what the kernel said.

use std::{fmt, io};

/// A failed operation on the kernel: what was tried, the errno, and the kernel's own words where it gave some
/// (netlink's extended acknowledgement).
#[derive(Debug)]
pub struct Error {
    operation: String,
    source: io::Error,
    detail: Option<String>,
}

/// The result of an operation on the kernel.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `operation` (a verb and its object: `create device adit0`).
    pub fn new(operation: impl Into<String>, source: io::Error) -> Self {
        Self { operation: operation.into(), source, detail: None }
    }

    /// The last errno of the calling thread as an error of `operation`.
    pub fn last(operation: impl Into<String>) -> Self {
        Self::new(operation, io::Error::last_os_error())
    }

    /// An error of `operation` with an errno of our choosing.
    pub fn from_errno(operation: impl Into<String>, errno: i32) -> Self {
        Self::new(operation, io::Error::from_raw_os_error(errno))
    }

    /// The same error with the kernel's explanation.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The errno, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The kind of the underlying I/O error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// What was tried.
    pub fn operation(&self) -> &str {
        &self.operation
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: ", self.operation)?;
        match (&self.detail, self.source.raw_os_error()) {
            (Some(detail), Some(errno)) => write!(f, "{detail} ({})", io::Error::from_raw_os_error(errno)),
            (Some(detail), None) => f.write_str(detail),
            (None, _) => write!(f, "{}", self.source),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
