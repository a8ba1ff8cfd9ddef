//! Readiness of file descriptors, wake-ups between threads, and signals as a descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::syscall::syscall;
use crate::{Error, Result};

/// Waits until one of `fds` is readable or has an error, or until `timeout` has passed (`None`: without limit).
/// Answers which of them are ready, in order. An interrupted wait answers "none".
pub fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> Result<[bool; N]> {
    let mut entries = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // The pollfd array and the timespec live on this stack frame for the whole call; the mask is absent.
    match syscall!(ppoll(entries.as_mut_ptr(), N as libc::nfds_t, timeout, std::ptr::null())) {
        Ok(_) => Ok(entries.map(|e| e.revents != 0)),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(e) => Err(Error::new("wait for file descriptors", e)),
    }
}

/// Wakes a thread that waits in [`readable`] (eventfd(2)).
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
    woken: AtomicBool,
}

impl Waker {
    /// A waker that nobody has woken yet.
    pub fn new() -> Result<Self> {
        // No pointers are passed.
        let fd = syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))
            .map_err(|e| Error::new("make an eventfd", e))?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, woken: AtomicBool::new(false) })
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        let one = 1u64.to_ne_bytes();
        // The buffer is the eight bytes that an eventfd takes. A full counter (EAGAIN) is readable already.
        let _ = syscall!(write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()));
    }

    /// Whether it has been woken; costs no system call, for threads that have no time to wait.
    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Makes the descriptor unreadable again; answers whether it had been woken.
    pub fn reset(&self) -> bool {
        self.woken.store(false, Ordering::Release);
        let mut count = [0u8; 8];
        // The buffer is the eight bytes that an eventfd gives.
        syscall!(read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len())).is_ok()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Signals that arrive by a descriptor instead of interrupting (signalfd(2)).
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Takes SIGINT, SIGTERM and SIGHUP (a closed terminal) out of normal delivery. To be called before any other thread starts,
    /// since threads inherit the mask; child processes inherit it too.
    pub fn termination() -> Result<Self> {
        let set = termination_set();
        // The set was initialised above; the old mask is not asked for.
        let code = syscall!(pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()));
        // pthread functions return the error instead of setting errno.
        match code {
            Ok(0) => {}
            Ok(errno) => return Err(Error::from_errno("block signals", errno)),
            Err(e) => return Err(Error::new("block signals", e)),
        }
        // The set was initialised above.
        let fd = syscall!(signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
            .map_err(|e| Error::new("make a signalfd", e))?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The number of a signal that has arrived, if one has.
    pub fn take(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        // The buffer has the size of one signalfd_siginfo, the unit of a read.
        let read = syscall!(read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), info.len())).ok()?;
        // ssi_signo is the first field, a u32.
        (read as usize == info.len()).then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn termination_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain integers, for which all zeros is a valid value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // The set is ours and initialised; these calls fail only for signal numbers that do not exist.
    let _ = syscall!(sigemptyset(&raw mut set));
    let _ = syscall!(sigaddset(&raw mut set, libc::SIGINT));
    let _ = syscall!(sigaddset(&raw mut set, libc::SIGTERM));
    let _ = syscall!(sigaddset(&raw mut set, libc::SIGHUP));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_is_readable_until_it_is_reset() {
        let waker = Waker::new().unwrap();
        assert_eq!(readable([waker.as_fd()], Some(Duration::ZERO)).unwrap(), [false]);
        assert!(!waker.is_woken());
        waker.wake();
        waker.wake();
        assert!(waker.is_woken());
        assert_eq!(readable([waker.as_fd()], Some(Duration::from_secs(5))).unwrap(), [true]);
        assert!(waker.reset() && !waker.is_woken());
        assert!(!waker.reset());
        assert_eq!(readable([waker.as_fd()], Some(Duration::ZERO)).unwrap(), [false]);
    }
}
