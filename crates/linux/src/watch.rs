//! Being told when something happens to a file (inotify(7)).

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::syscall::syscall;
use crate::{Error, Result};

/// A watch over one file, whatever its type, or over what a directory holds. It says no more than that something happened: who wants to know
/// looks.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    /// Watches the file that is at `path` now. The descriptor is readable when it may have lost its name: it was removed, moved or replaced,
    /// or its attributes changed.
    ///
    /// # Errors
    /// There is none; or this user has as many watches as the system gives him.
    pub fn new(path: &Path) -> Result<Self> {
        // A file that somebody has open is not deleted when its last name goes; the count of its names is an attribute.
        Self::over(path, libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF | libc::IN_DONT_FOLLOW)
    }

    /// Watches the directory that is at `path` now. The descriptor is readable when a file in it came, went, was written or replaced, and when
    /// it went itself.
    ///
    /// # Errors
    /// There is none; or this user has as many watches as the system gives him.
    pub fn directory(path: &Path) -> Result<Self> {
        let of_files =
            libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO | libc::IN_CLOSE_WRITE;
        Self::over(path, of_files | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF | libc::IN_ONLYDIR)
    }

    fn over(path: &Path, events: u32) -> Result<Self> {
        let failed = |source| Error::new(format!("watch {}", path.display()), source);
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::from_errno(format!("watch {}", path.display()), libc::EINVAL))?;
        // The call takes numbers only.
        let fd = syscall!(inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK)).map_err(failed)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // The name ends with a zero byte and outlives the call.
        syscall!(inotify_add_watch(fd.as_raw_fd(), name.as_ptr(), events)).map_err(failed)?;
        Ok(Self { fd })
    }

    /// Makes the descriptor unreadable again, until something more happens; answers whether something had.
    pub fn reset(&self) -> bool {
        // An event takes 16 bytes, and in a directory the name of the file: 256 at most.
        let mut events = [0u8; 1024];
        let mut happened = false;
        // The buffer has the length that is said; the descriptor does not block.
        while matches!(syscall!(read(self.fd.as_raw_fd(), events.as_mut_ptr().cast(), events.len())), Ok(1..)) {
            happened = true;
        }
        happened
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::poll::readable;

    fn is_readable(watch: &Watch) -> bool {
        readable([watch.as_fd()], Some(Duration::ZERO)).unwrap()[0]
    }

    /// A socket with its listener open, as its owner watches it.
    fn scene(test: &str) -> (std::path::PathBuf, UnixListener, Watch) {
        let directory = std::env::temp_dir().join(format!("watch-{}-{test}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let watch = Watch::new(&path).unwrap();
        assert!(!is_readable(&watch));
        (path, listener, watch)
    }

    fn end(path: &Path) {
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_removed_socket_is_told_though_it_is_open() {
        let (path, _listener, watch) = scene("removed");
        fs::remove_file(&path).unwrap();
        assert!(is_readable(&watch));
        watch.reset();
        assert!(!is_readable(&watch));
        end(&path);
    }

    #[test]
    fn a_moved_and_a_replaced_socket_are_told() {
        let (path, _listener, watch) = scene("moved");
        fs::rename(&path, path.with_extension("old")).unwrap();
        assert!(is_readable(&watch));
        end(&path);
        let (path, _listener, watch) = scene("replaced");
        let other = path.with_extension("new");
        fs::write(&other, "").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(is_readable(&watch));
        end(&path);
    }

    #[test]
    fn what_a_directory_holds_is_told() {
        let (path, _listener, _watch) = scene("directory");
        let directory = path.parent().unwrap();
        let watch = Watch::directory(directory).unwrap();
        assert!(!watch.reset());
        let (file, new) = (directory.join("one.json"), directory.join(".new"));
        fs::write(&new, "1").unwrap();
        assert!(watch.reset() && !watch.reset());
        fs::rename(&new, &file).unwrap();
        assert!(watch.reset() && !watch.reset());
        fs::remove_file(&file).unwrap();
        assert!(is_readable(&watch));
        assert!(watch.reset() && !watch.reset());
        end(&path);
        assert!(watch.reset());
        assert!(Watch::directory(directory).is_err());
        assert!(Watch::directory(Path::new("/proc/self/comm")).is_err());
    }

    #[test]
    fn what_is_not_there_cannot_be_watched() {
        let error = Watch::new(Path::new("/nonexistent/a.sock")).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert!(Watch::new(Path::new("a\0b")).is_err());
    }
}
