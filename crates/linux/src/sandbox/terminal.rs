//! The terminal, whose foreground is lent to a child.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::signal::without_ttou;
use crate::syscall::syscall;
use crate::{Error, Result};

/// The terminal that controls this process. Its keys (Ctrl-C, Ctrl-Z) reach the group of processes that is in its foreground.
#[derive(Debug)]
pub struct Terminal {
    file: File,
}

impl Terminal {
    /// That of this process, if it has one.
    pub fn controlling() -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { file })
    }

    /// Whether the group of this process is in the foreground.
    pub fn is_ours(&self) -> bool {
        self.shows(own_group())
    }

    /// Whether the group that this child leads is in the foreground.
    pub fn is_lent_to(&self, group: u32) -> bool {
        i32::try_from(group).is_ok_and(|group| self.shows(group))
    }

    fn shows(&self, group: libc::pid_t) -> bool {
        // The descriptor is open.
        syscall!(tcgetpgrp(self.file.as_raw_fd())).is_ok_and(|foreground| foreground == group)
    }

    /// Puts another group into the foreground: that of a child, which leads it.
    ///
    /// # Errors
    /// There is no such group in the session, or the terminal is gone.
    pub fn lend(&self, group: u32) -> Result<()> {
        self.put(i32::try_from(group).unwrap_or(-1))
    }

    /// Starts a program as the leader of a group of its own, which is in the foreground before its first instruction.
    pub fn lent_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let number = self.file.as_raw_fd();
        // In the child, which is in its own group by then. The descriptor is that of the parent's terminal, which is open until exec.
        let take = move || without_ttou(|| syscall!(tcsetpgrp(number, own_group()))).and_then(|put| put).map(drop);
        command.process_group(0);
        // SAFETY: the closure makes system calls only; between fork and exec it neither allocates nor takes a lock.
        unsafe { command.pre_exec(take) }
    }

    /// Puts the group of this process into the foreground.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn take_back(&self) -> Result<()> {
        self.put(own_group())
    }

    fn put(&self, group: libc::pid_t) -> Result<()> {
        // The descriptor is open.
        without_ttou(|| syscall!(tcsetpgrp(self.file.as_raw_fd(), group)))
            .and_then(|put| put)
            .map(drop)
            .map_err(|source| Error::new("change the foreground of the terminal", source))
    }
}

/// Stops all processes of our group as the terminal does on Ctrl-Z, and returns when we are continued; at once, where nobody could do that.
///
/// # Errors
/// The kernel's.
pub fn stop_own_group() -> Result<()> {
    // The call takes numbers only; 0 is our group.
    syscall!(kill(0, libc::SIGTSTP)).map(drop).map_err(|source: io::Error| Error::new("stop", source))
}

fn own_group() -> libc::pid_t {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::getpgrp() }
}
