//! One daemon per device: a lock that ends with its process, and the directory it lies in.
//!
//! The lock is taken before anything is touched and given back after everything is cleaned up. Since the kernel gives it
//! back even after SIGKILL, whoever holds it knows that sockets of the same name are left over.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::client::{control_socket, status_socket};
use crate::{Failure, Result};

/// How often a lock file may vanish between opening and locking it before we give up: each time a daemon ended just then.
const ATTEMPTS: usize = 16;

/// Said in a lock file in place of a daemon's process, by whoever removes what one left.
const CLEANING: &str = "cleaning";

/// Said in a lock file when the daemon made the runtime directory, so that the last one out removes it.
const MADE_DIRECTORY: &str = "made-directory";

/// The right to be the daemon of a device. Dropping it removes the lock file, leftover sockets, and the runtime directory
/// if a daemon made it and nothing else is in it.
#[derive(Debug)]
pub struct Claim {
    directory: PathBuf,
    device: String,
    made_directory: bool,
    // Held for its lock.
    _file: File,
}

impl Claim {
    /// Claims `device` in `runtime_dir`, which is made (0755) if it does not exist.
    ///
    /// # Errors
    /// Another daemon has it; or the directory is not ours alone to write to.
    pub fn take(runtime_dir: &Path, device: &str) -> Result<Self> {
        Self::take_as(&std::process::id().to_string(), runtime_dir, device)
    }

    /// The same for somebody who is no daemon: nobody is to be one while what one left is removed.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_to_clean(runtime_dir: &Path, device: &str) -> Result<Self> {
        Self::take_as(CLEANING, runtime_dir, device)
    }

    fn take_as(who: &str, runtime_dir: &Path, device: &str) -> Result<Self> {
        let path = runtime_dir.join(format!("{device}.lock"));
        let failed = |error: io::Error| {
            Failure::failed(format!("cannot lock {}: {error}", path.display()))
                .with_remedy("run as root, or choose another directory with --runtime-dir")
        };
        for _ in 0..ATTEMPTS {
            let made_now = prepare(runtime_dir)?;
            let mut file = match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(device, &mut file)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // A daemon that ended in the meantime may have removed the file that we locked.
            if !is_at(&file, &path) {
                continue;
            }
            let made_directory = made_now || read(&mut file).contains(MADE_DIRECTORY);
            let mark = if made_directory { MADE_DIRECTORY } else { "" };
            write(&mut file, &format!("{who}\n{mark}\n")).map_err(failed)?;
            return Ok(Self { directory: runtime_dir.into(), device: device.into(), made_directory, _file: file });
        }
        Err(failed(io::Error::other("it vanished again and again")))
    }
}

/// Whether a daemon of `device` runs, or is still cleaning up. Where we may not look into the lock file, its presence decides.
pub fn is_claimed(runtime_dir: &Path, device: &str) -> bool {
    let path = runtime_dir.join(format!("{device}.lock"));
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The process of the daemon of `device` that runs, starts or is still ending: what the lock file says, if the kernel says that this process holds the
/// lock (`/proc/locks`). One in another process namespace has another number here, and is not it.
pub fn claimant(runtime_dir: &Path, device: &str) -> Option<u32> {
    let path = runtime_dir.join(format!("{device}.lock"));
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let (pid, inode) = (process(&read(&mut file))?, file.metadata().ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().any(|line| is_held_by(line, pid, inode)).then_some(pid)
}

/// Whether a line of `/proc/locks` (proc(5)) says that this process holds the lock of this file: `1: FLOCK ADVISORY WRITE 708 fe:00:1234 0 EOF`.
fn is_held_by(line: &str, pid: u32, inode: u64) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, "FLOCK", "ADVISORY", "WRITE", holder, place, ..] = words.as_slice() else { return false };
    holder.parse() == Ok(pid) && place.rsplit(':').next().is_some_and(|number| number.parse() == Ok(inode))
}

/// Daemons that have no sockets yet, since they wait for a registry: their devices and processes.
pub fn starting(runtime_dir: &Path) -> Vec<(String, u32)> {
    let names = fs::read_dir(runtime_dir).into_iter().flatten().flatten();
    let devices = names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".lock")?.to_owned()));
    let mut found: Vec<_> = devices
        .filter(|device| !control_socket(runtime_dir, device).exists())
        .filter_map(|device| claimant(runtime_dir, &device).map(|pid| (device, pid)))
        .collect();
    found.sort_unstable();
    found
}

/// What a lock file says of its holder.
fn process(text: &str) -> Option<u32> {
    text.lines().next()?.parse().ok()
}

impl Drop for Claim {
    fn drop(&mut self) {
        let lock = self.directory.join(format!("{}.lock", self.device));
        let sockets = [control_socket(&self.directory, &self.device), status_socket(&self.directory, &self.device)];
        // The lock file goes last, while we still hold its lock: nobody can hold one that has no name.
        for path in sockets.iter().chain([&lock]) {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
        if self.made_directory {
            // Fails, rightly, while another daemon has its sockets there.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.take(256).read_to_string(&mut text));
    text
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

fn taken(device: &str, file: &mut File) -> Failure {
    let text = read(file);
    if text.starts_with(CLEANING) {
        return Failure::failed(format!("somebody is removing what the daemon of {device} left"))
            .with_remedy("wait until that `adit down` has ended, and try again");
    }
    let process = process(&text).map_or_else(String::new, |pid| format!(" (process {pid})"));
    Failure::failed(format!("adit is running for device {device} already{process}"))
        .with_remedy(format!("stop it with `adit down --device {device}`, or choose another name under [device]"))
}

/// Makes the directory if need be, and refuses one in which others could plant or exchange sockets. True if it was made.
fn prepare(directory: &Path) -> Result<bool> {
    let remedy = "run as root, or choose another directory with --runtime-dir";
    let failed = |verb: &str, error: io::Error| {
        Failure::failed(format!("cannot {verb} the runtime directory {}: {error}", directory.display()))
            .with_remedy(remedy)
    };
    let made = match fs::DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o755).recursive(true).create(directory).map_err(|e| failed("make", e))?;
            true
        }
        Err(error) => return Err(failed("make", error)),
    };
    if made {
        // Whatever the umask says: others must reach the status socket.
        fs::set_permissions(directory, Permissions::from_mode(0o755)).map_err(|e| failed("open up", e))?;
    }
    let metadata = fs::symlink_metadata(directory).map_err(|e| failed("look at", e))?;
    if !metadata.is_dir() {
        return Err(Failure::failed(format!("the runtime directory {} is not a directory", directory.display()))
            .with_remedy("remove it, or choose another with --runtime-dir"));
    }
    let own = fs::metadata("/proc/self").map_err(|e| failed("look at", e))?.uid();
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(Failure::failed(format!(
            "the runtime directory {} belongs to user {}",
            directory.display(),
            metadata.uid()
        ))
        .with_remedy("choose another with --runtime-dir"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(Failure::failed(format!("others may write to the runtime directory {}", directory.display()))
            .with_remedy(format!("run `chmod 755 {}`, or choose another with --runtime-dir", directory.display())));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::symlink, net::UnixListener};

    #[test]
    fn a_device_has_one_claim_and_nothing_stays_behind() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("a/run");
        let claim = Claim::take(&directory, "adit0").unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o755);
        let refused = Claim::take(&directory, "adit0").unwrap_err();
        assert!(refused.sentence().contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.sentence().contains("adit down --device adit0"), "{refused}");
        let other = Claim::take(&directory, "adit1").unwrap();
        assert!(is_claimed(&directory, "adit0"));
        drop(claim);
        assert!(!is_claimed(&directory, "adit0"));
        let again = Claim::take(&directory, "adit0").unwrap();
        drop(other);
        assert!(directory.exists());
        drop(again);
        // Its last daemon knew from nobody that the first one had made the directory.
        assert_eq!(fs::read_dir(&directory).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn a_daemon_without_sockets_is_known_by_the_lock_that_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert_eq!((claimant(at, "adit0"), starting(at)), (None, Vec::new()));
        let claim = Claim::take(at, "adit0").unwrap();
        let this = std::process::id();
        assert_eq!((claimant(at, "adit0"), starting(at)), (Some(this), vec![("adit0".into(), this)]));
        drop(UnixListener::bind(control_socket(at, "adit0")).unwrap());
        assert_eq!(starting(at), []);
        // One that says so and holds nothing, and one that holds it and is another.
        fs::write(at.join("adit1.lock"), format!("{this}\n")).unwrap();
        assert_eq!(claimant(at, "adit1"), None);
        fs::write(at.join("adit0.lock"), "1\n").unwrap();
        assert_eq!(claimant(at, "adit0"), None);
        drop(claim);
        let cleaning = Claim::take_to_clean(at, "adit0").unwrap();
        assert_eq!(claimant(at, "adit0"), None);
        let refused = Claim::take(at, "adit0").unwrap_err();
        assert!(refused.sentence().contains("wait until that `adit down` has ended"), "{refused}");
        drop(cleaning);
        Claim::take(at, "adit0").unwrap();
    }

    #[test]
    fn a_directory_that_was_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        drop(Claim::take(directory.path(), "adit0").unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_daemon_left_is_taken_over() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("run");
        let claim = Claim::take(&directory, "adit0").unwrap();
        drop(UnixListener::bind(control_socket(&directory, "adit0")).unwrap());
        // As after SIGKILL: the lock is free, and everything else is still there.
        let text = fs::read_to_string(directory.join("adit0.lock")).unwrap();
        std::mem::forget(claim);
        fs::remove_file(directory.join("adit0.lock")).unwrap();
        fs::write(directory.join("adit0.lock"), text).unwrap();
        drop(Claim::take(&directory, "adit0").unwrap());
        assert!(!directory.exists());
    }

    #[test]
    fn directories_that_others_could_use_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let open = top.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        assert!(Claim::take(&open, "adit0").unwrap_err().sentence().contains("chmod 755"));
        let file = top.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Claim::take(&file, "adit0").unwrap_err().sentence().contains("not a directory"));
        let link = top.path().join("link");
        symlink(top.path(), &link).unwrap();
        assert!(Claim::take(&link, "adit0").unwrap_err().sentence().contains("not a directory"));
        let planted = top.path().join("planted");
        fs::create_dir(&planted).unwrap();
        symlink("/etc/hostname", planted.join("adit0.lock")).unwrap();
        assert!(Claim::take(&planted, "adit0").unwrap_err().sentence().contains("cannot lock"));
    }
}
