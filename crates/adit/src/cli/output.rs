//! Standard output, whose reader may leave at any time.

use std::io::{self, Write};

use crate::{Failure, Result};

/// Writes text to standard output. `adit status | head` is no failure, so a closed pipe is taken for success; the answer
/// is false then, and there is no use in writing more.
///
/// # Errors
/// Any other fault of the output, such as a full disk.
pub(super) fn print(text: &str) -> Result<bool> {
    write(text.as_bytes())
}

/// [`print()`] for bytes.
pub(super) fn write(bytes: &[u8]) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    outcome(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// What a failed write to standard output means.
pub(super) fn outcome(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}
