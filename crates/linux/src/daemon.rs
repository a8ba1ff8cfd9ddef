//! What a process does to become a daemon.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use crate::syscall::syscall;
use crate::{Error, Result};

/// Makes this process the leader of a session of its own (setsid(2)), which no terminal and no closed terminal reaches.
///
/// # Errors
/// EPERM: it leads a process group already.
pub fn leave_session() -> Result<()> {
    // The call takes nothing.
    syscall!(setsid()).map(drop).map_err(|e| Error::new("begin a session", e))
}

/// A stream that every process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Puts `/dev/null` in the place of standard streams, so that whoever waits for their end waits no longer.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn silence(streams: &[Stream]) -> Result<()> {
    let failed = |e| Error::new("open /dev/null", e);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
    for stream in streams {
        let number = match stream {
            Stream::Input => libc::STDIN_FILENO,
            Stream::Output => libc::STDOUT_FILENO,
            Stream::Error => libc::STDERR_FILENO,
        };
        // Both are descriptors; what the second was is closed, and nobody owns the number of a standard stream.
        syscall!(dup2(null.as_raw_fd(), number)).map_err(failed)?;
    }
    Ok(())
}
