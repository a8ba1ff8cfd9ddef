//! Signals that are passed on, and children that change.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use crate::syscall::syscall;
use crate::{Error, Result};

/// What people and service managers send to a program in the foreground.
const PASSED_ON: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Signals that are asked for instead of interrupting: those that are passed on to a child, and SIGCHLD. Its descriptor is readable while one waits.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its number.
    pub number: i32,
    /// Whether a process has sent it. The kernel sends those of a terminal to all processes of its foreground.
    pub sent: bool,
}

impl Signals {
    /// Takes them out of normal delivery. To be called before any other thread starts, since threads inherit that; so do child processes, for which
    /// there is [`delivered_to`](Self::delivered_to).
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_over() -> Result<Self> {
        let set = taken();
        change_mask(libc::SIG_BLOCK, &set).map_err(|e| Error::new("block signals", e))?;
        // The set was initialised above.
        let fd = syscall!(signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
            .map_err(|e| Error::new("make a signalfd", e))?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal that waits, if one does.
    pub fn take(&self) -> Option<Arrival> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        // The buffer has the size of one signalfd_siginfo, the unit of a read.
        let read = syscall!(read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), info.len())).ok()?;
        if read as usize != info.len() {
            return None;
        }
        // The first three fields are numbers of four bytes: the signal, an error, and what sent it (sigaction(2)): above zero, it is the kernel.
        let [a, b, c, d, _, _, _, _, e, f, g, h, ..] = info;
        Some(Arrival { number: i32::from_ne_bytes([a, b, c, d]), sent: i32::from_ne_bytes([e, f, g, h]) <= 0 })
    }

    /// Lets a program that is started from here have them as usual.
    pub fn delivered_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let set = taken();
        // SAFETY: the closure makes a system call only; between fork and exec it neither allocates nor takes a lock.
        unsafe { command.pre_exec(move || change_mask(libc::SIG_UNBLOCK, &set)) }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn taken() -> libc::sigset_t {
    set_of(PASSED_ON.into_iter().chain([libc::SIGCHLD]))
}

/// A set of signals.
fn set_of(numbers: impl IntoIterator<Item = libc::c_int>) -> libc::sigset_t {
    // SAFETY: sigset_t is plain integers, for which all zeros is a valid value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // The set is ours and initialised; these calls fail only for signal numbers that do not exist.
    let _ = syscall!(sigemptyset(&raw mut set));
    for number in numbers {
        let _ = syscall!(sigaddset(&raw mut set, number));
    }
    set
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // The set is initialised; the old mask is not asked for. pthread functions return the error instead of setting errno.
    match syscall!(pthread_sigmask(how, std::ptr::from_ref(set), std::ptr::null_mut()))? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Does something while SIGTTOU is blocked: a process in the background may then change the terminal's foreground.
pub(super) fn without_ttou<T>(f: impl FnOnce() -> T) -> io::Result<T> {
    let set = set_of([libc::SIGTTOU]);
    change_mask(libc::SIG_BLOCK, &set)?;
    let result = f();
    change_mask(libc::SIG_UNBLOCK, &set)?;
    Ok(result)
}

/// Sends a signal to a process; to its whole group, which it leads, if `group` says so.
///
/// # Errors
/// There is none.
pub fn send(pid: u32, group: bool, number: i32) -> Result<()> {
    let failed = |source| Error::new(format!("send signal {number} to process {pid}"), source);
    // 0 and 1 would mean others than a child of ours.
    let id = i32::try_from(pid)
        .ok()
        .filter(|id| *id > 1)
        .ok_or_else(|| failed(io::Error::from_raw_os_error(libc::ESRCH)))?;
    // The call takes numbers only.
    syscall!(kill(if group { -id } else { id }, number)).map(drop).map_err(failed)
}

/// What became of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ended; its number may be another's from now on.
    Ended(ExitStatus),
    /// It was stopped, by the terminal or by a signal, and may go on.
    Stopped,
}

/// Asks for a child that ended or was stopped, without waiting: any of this process, also one that came to it when its parent ended.
pub fn reap() -> Option<(u32, Change)> {
    let mut status = 0;
    // The pointer is to an integer that outlives the call.
    let pid = syscall!(waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED)).ok()?;
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    let status = ExitStatus::from_raw(status);
    Some((pid, if status.stopped_signal().is_some() { Change::Stopped } else { Change::Ended(status) }))
}
