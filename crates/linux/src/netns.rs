//! Network namespaces: named ones as `ip netns` knows them, anonymous ones that live as long as somebody holds them, and
//! running code inside.
//!
//! A thread is in one network namespace at a time, and what it opens (sockets, netlink connections, TUN queues) stays in the
//! namespace where it was opened. So no thread of ours ever changes namespace and goes on: [`NetNs::run`] starts a fresh one
//! for the purpose, which ends with it.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crate::syscall::syscall;
use crate::{Error, Result};

/// Where `ip netns` keeps its namespaces: each a file with the namespace mounted upon it.
pub const DIRECTORY: &str = "/run/netns";

/// A network namespace, held open. It lives at least as long as this value or a clone of it.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<OwnedFd>,
    id: (u64, u64),
}

impl NetNs {
    /// That of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// That which is mounted at `path`, or that of a process (`/proc/PID/ns/net`).
    pub fn open(path: &Path) -> Result<Self> {
        let operation = || format!("open network namespace {}", path.display());
        // Whatever else may stand there (a pipe, a device) is not to block us.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| Error::new(operation(), source))?;
        // The call takes no argument.
        match syscall!(ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE)) {
            Ok(libc::CLONE_NEWNET) => Self::of_file(file).map_err(|source| Error::new(operation(), source)),
            _ => Err(Error::from_errno(operation(), libc::EINVAL).with_detail("this is not a network namespace")),
        }
    }

    fn of_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { file: Arc::new(file.into()), id: (metadata.dev(), metadata.ino()) })
    }

    /// The namespace that `ip netns` calls `name`.
    pub fn named(name: &str) -> Result<Self> {
        Self::open(&path_of(name)?)
    }

    /// Makes a namespace that nobody else can find; it ends with its last holder.
    pub fn anonymous() -> Result<Self> {
        on_fresh_thread(|| {
            // The call takes flags only; it concerns the calling thread alone.
            syscall!(unshare(libc::CLONE_NEWNET)).map_err(|source| Error::new("create a network namespace", source))?;
            Self::current()
        })?
    }

    /// Makes a namespace as `ip netns add` does, so that `ip netns` sees it. It stays until [`delete_named`](Self::delete_named).
    pub fn create_named(name: &str) -> Result<Self> {
        let path = path_of(name)?;
        let failed = |source| Error::new(format!("create network namespace {name}"), source);
        let _lock = prepare_directory().map_err(failed)?;
        OpenOptions::new().write(true).create_new(true).mode(0o000).open(&path).map_err(failed)?;
        let mounted = Self::anonymous().and_then(|namespace| {
            let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
            mount(Path::new(&source), &path, libc::MS_BIND).map_err(failed)?;
            Ok(namespace)
        });
        if mounted.is_err() {
            let _ = fs::remove_file(&path);
        }
        mounted
    }

    /// Removes the name. The namespace itself ends when nothing is in it and nobody holds it any more.
    pub fn delete_named(name: &str) -> Result<()> {
        let path = path_of(name)?;
        let failed = |source| Error::new(format!("delete network namespace {name}"), source);
        let c_path = c_string(&path).map_err(failed)?;
        // The pointer is to a string that outlives the call. That nothing is mounted there (a half-made name) is no obstacle.
        let unmounted = syscall!(umount2(c_path.as_ptr(), libc::MNT_DETACH));
        fs::remove_file(&path).map_err(|source| {
            let source = match unmounted {
                Err(unmount) if source.raw_os_error() == Some(libc::EBUSY) => unmount,
                _ => source,
            };
            failed(source)
        })
    }

    /// The names that `ip netns` lists, sorted.
    pub fn list_named() -> Result<Vec<String>> {
        let failed = |source| Error::new(format!("list {DIRECTORY}"), source);
        let entries = match fs::read_dir(DIRECTORY) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Runs `f` inside the namespace, on a thread of its own that ends with it, and waits. What `f` opens stays in the
    /// namespace, also after it is handed out; so do child processes. A panic in `f` goes on in the caller.
    ///
    /// Entering needs CAP_SYS_ADMIN here and over the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_fresh_thread(|| {
            // The descriptor is open as long as `self` lives; the call concerns this thread alone.
            syscall!(setns(self.file.as_raw_fd(), libc::CLONE_NEWNET))
                .map_err(|source| Error::new("enter a network namespace", source))?;
            Ok(f())
        })?
    }

    /// Device and inode of the namespace: two are the same if these are. A number is used again once a namespace has ended, so
    /// it identifies only while somebody holds the namespace.
    pub fn id(&self) -> (u64, u64) {
        self.id
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for NetNs {}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Runs `f` on a new thread and waits for it; a panic goes on here.
fn on_fresh_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, f)
            .map_err(|source| Error::new("start a thread for a network namespace", source))?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

/// The path of a name, which must be one component.
fn path_of(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.contains(['/', '\0']) {
        let error = Error::from_errno(format!("use network namespace {name:?}"), libc::EINVAL);
        return Err(error.with_detail("a name has 1 to 255 bytes, without '/', and is not '.' or '..'"));
    }
    Ok(Path::new(DIRECTORY).join(name))
}

/// Makes the directory and turns it into a shared mount, as `ip netns` does: a namespace deleted in one mount namespace then
/// goes from all of them. The answer is a lock (the one `ip netns` takes) that keeps two from doing so at once.
fn prepare_directory() -> io::Result<File> {
    let directory = Path::new(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let lock = File::open(directory)?;
    // The descriptor is open; the lock ends when it is closed.
    syscall!(flock(lock.as_raw_fd(), libc::LOCK_EX))?;
    let share = || mount(Path::new(""), directory, libc::MS_SHARED | libc::MS_REC);
    match share() {
        // Not a mount yet: make it one.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            mount(directory, directory, libc::MS_BIND | libc::MS_REC)?;
            share()?;
        }
        result => result?,
    }
    Ok(lock)
}

fn mount(source: &Path, target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target) = (c_string(source)?, c_string(target)?);
    let none: &CStr = c"none";
    // All pointers are to strings that outlive the call; no data is passed.
    syscall!(mount(source.as_ptr(), target.as_ptr(), none.as_ptr(), flags, std::ptr::null())).map(drop)
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\0b", &"x".repeat(256)] {
            assert_eq!(NetNs::named(name).unwrap_err().errno(), Some(libc::EINVAL), "{name:?}");
        }
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        for path in ["/dev/null", "/", "/proc/self/ns/mnt"] {
            let error = NetNs::open(Path::new(path)).unwrap_err();
            assert_eq!(
                error.to_string().split(": ").nth(1),
                Some("this is not a network namespace (Invalid argument (os error 22))")
            );
        }
    }

    #[test]
    fn the_current_one_is_itself() {
        assert_eq!(NetNs::current().unwrap(), NetNs::current().unwrap());
    }
}
