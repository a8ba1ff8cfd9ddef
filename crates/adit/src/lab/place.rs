//! That there is one run of a kind at a time, and where it keeps its files.
//!
//! The lock stands where every run of a user finds it, and goes with its holder, however that ends. Whoever holds it may
//! remove what else there is: it can only be of a run that was killed.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Failure, Result};

/// The lock; released and removed with this value.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Held open, since re-entering a user namespace hides the path that leads there.
    directory: File,
    name: String,
    _file: File,
}

impl Lock {
    /// Takes the lock of `kind`: `demo` or `bench`.
    ///
    /// # Errors
    /// One is running already (its process is named), or there is no directory for the lock.
    pub(crate) fn take(kind: &'static str) -> Result<Self> {
        // /proc/self belongs to the user whose process it is.
        let uid = fs::metadata("/proc/self").map_or(u32::MAX, |metadata| metadata.uid());
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        if uid == 0 && Path::new("/run").is_dir() {
            return Self::take_in(kind, Path::new("/run"), &format!("adit-{kind}.lock"));
        }
        match own.filter(|directory| directory.is_dir()) {
            Some(directory) => Self::take_in(kind, &directory, &format!("adit-{kind}.lock")),
            None => Self::take_in(kind, &std::env::temp_dir(), &format!("adit-{kind}-{uid}.lock")),
        }
    }

    fn take_in(kind: &str, directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(name);
        let failed = |error: io::Error| {
            Failure::failed(format!("the {kind} cannot lock {}: {error}", path.display()))
                .with_remedy("remove that file, or set XDG_RUNTIME_DIR to a directory of your own")
        };
        let directory = File::open(directory).map_err(failed)?;
        loop {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(already_running(kind, &mut file)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Its last holder may have removed the file between our opening and locking it: then it protects nothing.
            let ours = file.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
                return Ok(Self { directory, name: name.into(), _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name));
    }
}

fn already_running(kind: &str, file: &mut File) -> Failure {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    let who = text.trim().parse::<u32>().map_or_else(|_| String::new(), |pid| format!(" (pid {pid})"));
    Failure::failed(format!("a {kind} is already running{who}")).with_remedy("wait for it, or stop it with Ctrl-C")
}

/// How long the daemons of a killed run may take to end and to let go of their files.
const LETTING_GO: Duration = Duration::from_secs(5);

/// The directory of a kind of run with one for the files of this run in it; removed with this value. In a re-entered namespace `/run`
/// is ours alone.
#[derive(Debug)]
pub(crate) struct Place {
    base: PathBuf,
    run: PathBuf,
    removed: bool,
}

impl Place {
    /// Makes the directory anew; answers whether there was one of a killed run. Only for who holds the lock.
    ///
    /// # Errors
    /// It cannot be made, or that of the killed run cannot be removed.
    pub(crate) fn make(kind: &str) -> Result<(Self, bool)> {
        Self::make_at(Path::new("/run").join(format!("adit-{kind}")))
    }

    fn make_at(base: PathBuf) -> Result<(Self, bool)> {
        let failed =
            |error: io::Error| Failure::failed(format!("cannot make the directory {}: {error}", base.display()));
        if base.exists() {
            await_users(&base);
        }
        let had_leftovers = remove_patiently(&base).map_err(failed)?;
        // A name that differs from run to run: a daemon of a killed one must not remove the sockets of its successor.
        let run = base.join(std::process::id().to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&run).map_err(failed)?;
        Ok((Self { base, run, removed: false }, had_leftovers))
    }

    /// Where files of this run go.
    pub(crate) fn path(&self) -> &Path {
        &self.run
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// What could not be removed.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.removed = true;
        remove_patiently(&self.base).map(drop).map_err(|error| {
            Failure::failed(format!("cannot remove {}: {error}", self.base.display())).with_remedy("remove it by hand")
        })
    }
}

/// Waits for the daemons of a killed run, which have its files on their command line: one that is just starting would make them anew.
fn await_users(path: &Path) {
    let deadline = Instant::now() + LETTING_GO;
    while is_used(path) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process was started with a path within this one.
fn is_used(path: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .into_iter()
        .any(|line| line.split(|byte| *byte == 0).any(|word| Path::new(OsStr::from_bytes(word)).starts_with(path)))
}

/// Removes a directory in which others may still be removing their own; answers whether there was one.
fn remove_patiently(path: &Path) -> io::Result<bool> {
    let deadline = Instant::now() + LETTING_GO;
    let mut was_there = false;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(was_there),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => was_there = true,
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.removed {
            let _ = remove_patiently(&self.base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_at_a_time_and_no_lock_is_left() {
        let outer = tempfile::tempdir().unwrap();
        let first = Lock::take_in("demo", outer.path(), "lock").unwrap();
        let refused = Lock::take_in("demo", outer.path(), "lock").unwrap_err();
        assert!(refused.sentence().starts_with(&format!("a demo is already running (pid {})", std::process::id())));
        drop(first);
        drop(Lock::take_in("demo", outer.path(), "lock").unwrap());
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("target");
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, outer.path().join("lock")).unwrap();
        Lock::take_in("demo", outer.path(), "lock").unwrap_err();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_daemon_that_is_about_to_end_is_waited_for() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("adit-demo");
        fs::create_dir_all(&path).unwrap();
        // It makes a directory of its own anew, as it ends; and it does not end before it is told to.
        let script = "read x; sleep 0.2; mkdir -p \"$0\"";
        let mut late = std::process::Command::new("sh");
        late.args(["-c", script]).arg(path.join("1/run")).stdin(std::process::Stdio::piped());
        let mut late = late.spawn().unwrap();
        // A program that has just begun has no arguments to be read for a moment.
        let deadline = std::time::Instant::now() + LETTING_GO;
        while !is_used(&path) {
            assert!(std::time::Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_used(&outer.path().join("adit")));
        drop(late.stdin.take());
        let (place, _) = Place::make_at(path.clone()).unwrap();
        assert!(late.try_wait().unwrap().is_some(), "it was waited for");
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("adit-demo");
        fs::create_dir_all(path.join("berlin-adit0/state")).unwrap();
        let (place, had_leftovers) = Place::make_at(path.clone()).unwrap();
        assert!(had_leftovers);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        place.remove().unwrap();
        assert!(!path.exists());
        let (place, had_leftovers) = Place::make_at(path.clone()).unwrap();
        assert!(!had_leftovers);
        drop(place);
        assert!(!path.exists());
    }
}
