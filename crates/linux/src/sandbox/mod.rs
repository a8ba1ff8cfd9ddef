//! Programs in namespaces of their own: network, mounts, processes, host name and IPC, with the file system of the host.
//!
//! ```text
//!  this process ── spawn ──► first process of the namespaces ── runs ──► the program
//!  waits, passes signals     die_with_parent, mounts, reap               what else it starts
//! ```
//!
//! The kernel kills everything in a process namespace when its first process ends. So whoever [spawns](spawn) that one and has it call
//! [`die_with_parent`] leaves no process behind, however it ends itself.

pub mod mount;
mod signal;
mod terminal;

pub use signal::{Arrival, Change, Signals, reap, send};
pub use terminal::{Terminal, stop_own_group};

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::syscall::syscall;
use crate::{Error, Result};

/// What the first process has of its own from its first instruction on; that of processes is said apart, since it holds for children only.
const OWN: libc::c_int = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// Starts a program as the first process of new namespaces. The descriptor is handed over to it under the same number, for [`inherited`].
///
/// The calling thread counts as its parent: see [`die_with_parent`]. The process must be able to make namespaces (CAP_SYS_ADMIN).
///
/// # Errors
/// A namespace cannot be made, or the program cannot be started. Then nothing of it is left.
pub fn spawn(mut command: Command, hand_over: BorrowedFd<'_>) -> Result<Child> {
    let failed = |source| Error::new("make namespaces of its own", source);
    let own = File::open("/proc/thread-self/ns/pid").map_err(failed)?;
    let number = hand_over.as_raw_fd();
    let enter = move || {
        // The call takes flags only.
        syscall!(unshare(OWN))?;
        // The number is that of a descriptor of the parent, which is borrowed until the child was made.
        syscall!(fcntl(number, libc::F_SETFD, 0)).map(drop)
    };
    // SAFETY: the closure makes system calls only; between fork and exec it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) };
    // The call takes flags only. From here on, children of this thread are born into the new namespace, and it can start no thread.
    syscall!(unshare(libc::CLONE_NEWPID)).map_err(failed)?;
    let child = command.spawn();
    // The descriptor is open; the namespace is the one that this thread is in, so that its children are born there again.
    let restored = syscall!(setns(own.as_raw_fd(), libc::CLONE_NEWPID));
    let mut child = child.map_err(failed)?;
    if let Err(source) = restored {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(source));
    }
    Ok(child)
}

/// The descriptor that [`spawn`] has handed over to this process, which was told its number. Programs that this one starts do not get it.
///
/// # Errors
/// There is none with this number, or it is a standard stream.
pub fn inherited(number: i32) -> Result<OwnedFd> {
    let failed = |source| Error::new(format!("take descriptor {number} over"), source);
    if (0..=libc::STDERR_FILENO).contains(&number) {
        return Err(failed(io::Error::from_raw_os_error(libc::EBADF)));
    }
    // The call takes numbers only, and refuses what is no descriptor. One that is closed at exec was not handed over: it is ours already.
    if syscall!(fcntl(number, libc::F_GETFD)).map_err(failed)? & libc::FD_CLOEXEC != 0 {
        return Err(failed(io::Error::from_raw_os_error(libc::EBADF)));
    }
    // The call takes numbers only.
    syscall!(fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC)).map_err(failed)?;
    // SAFETY: it is open, and was made by whoever started this program: what this program opens itself is closed at exec, and so was refused
    // above, as is one that was taken over already. So nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Has the kernel kill this process (SIGKILL) when the thread that started it ends. If that happened before the call, nothing does: whoever needs to
/// know holds something of the parent that ends with it, such as the other end of a socket.
///
/// # Errors
/// The kernel's.
pub fn die_with_parent() -> Result<()> {
    // The call takes numbers only.
    syscall!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))
        .map(drop)
        .map_err(|source| Error::new("die with the parent", source))
}

/// Lets a program die with the thread that starts it, as [`die_with_parent`] says; one whose parent has ended already does not run.
///
/// # Errors
/// The kernel's.
pub fn dying_with_parent(command: &mut Command) -> Result<&mut Command> {
    let failed = |source| Error::new("die with the parent", source);
    // The call takes numbers only; in another process namespace the number of the parent would say nothing.
    let parent =
        i32::try_from(syscall!(syscall(libc::SYS_pidfd_open, std::process::id(), 0)).map_err(failed)?).unwrap_or(-1);
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    let parent = unsafe { OwnedFd::from_raw_fd(parent) };
    let die = move || {
        // The call takes numbers only.
        syscall!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        let mut entry = libc::pollfd { fd: parent.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // The pointer is to one entry on this stack frame. The descriptor of a process is readable once that has ended.
        if syscall!(poll(&raw mut entry, 1, 0))? != 0 {
            // Nobody is there to be told. SAFETY: the call takes a number, and runs nothing of the parent's in this copy of it.
            unsafe { libc::_exit(1) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; between fork and exec it neither allocates nor takes a lock.
    Ok(unsafe { command.pre_exec(die) })
}

/// The namespaces of a process that [`spawn`] has started, held open.
#[derive(Debug)]
pub struct Namespaces {
    /// In the order in which they are entered: that of mounts is last, since it takes the root and the directory along.
    files: [(File, libc::c_int); 5],
}

impl Namespaces {
    /// Those of a process. Whoever has the number from elsewhere checks afterwards that the process is still the one that is meant: then so are these.
    ///
    /// # Errors
    /// There is no such process, or its namespaces may not be seen.
    pub fn of(pid: u32) -> Result<Self> {
        let open = |(name, kind): (&str, libc::c_int)| {
            let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
            let file = File::open(&path).map_err(|source| Error::new(format!("open {}", path.display()), source))?;
            Ok::<_, Error>((file, kind))
        };
        Ok(Self {
            files: [
                open(("ipc", libc::CLONE_NEWIPC))?,
                open(("uts", libc::CLONE_NEWUTS))?,
                open(("net", libc::CLONE_NEWNET))?,
                open(("pid", libc::CLONE_NEWPID))?,
                open(("mnt", libc::CLONE_NEWNS))?,
            ],
        })
    }

    /// Takes this process there; of the namespace of processes only what it starts from now on is a member. Its directory is then the root.
    ///
    /// It must have no other thread, and can start none afterwards.
    ///
    /// # Errors
    /// It may not be entered (it needs CAP_SYS_ADMIN). The process is then in some of them and should end.
    pub fn enter(self) -> Result<()> {
        let failed = |source| Error::new("enter namespaces", source);
        // The call takes flags only. A thread that has ended may share root and directory with us for a moment yet, which forbids to enter mounts.
        syscall!(unshare(libc::CLONE_FS)).map_err(failed)?;
        for (file, kind) in &self.files {
            // The descriptor is open as long as `self` lives.
            syscall!(setns(file.as_fd().as_raw_fd(), *kind)).map_err(failed)?;
        }
        Ok(())
    }
}
