//! Files that only their owner may see: made whole, replaced whole, and read only if nobody else could have read or changed them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::keys::KEY;

/// No file of these is longer.
const MAX_LEN: u64 = 256 * 1024 * 1024;

/// Why a file or directory is not used: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The kernel said no.
    #[error("cannot {verb} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// It is there already, and is not written over.
    #[error("{} exists already, and is not written over", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// A symbolic link, directory, device or pipe in place of a file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// A symbolic link or a file in place of a directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Others have rights to it: permission bits.
    #[error("{} is open to other users (mode {:04o}): run `chmod go= {}`", .0.display(), .1, .0.display())]
    Open(PathBuf, u32),
    /// Somebody else could exchange it: user id.
    #[error("{} belongs to user {}, who could change it: run `chown root {}`", .0.display(), .1, .0.display())]
    Owner(PathBuf, u32),
    /// It does not hold what it should.
    #[error("{} does not hold {what}", .path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
}

impl FileError {
    /// Whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Missing(path),
        io::ErrorKind::AlreadyExists => FileError::Exists(path),
        _ => FileError::Io { verb, path, error },
    }
}

/// A directory of such files.
#[derive(Debug, Clone)]
pub(super) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Makes the directory (0700), unless it is there and right.
    pub(super) fn create(path: &Path) -> Result<Self, FileError> {
        match DirBuilder::new().recursive(false).mode(0o700).create(path) {
            Ok(()) => {
                if let Some(parent) = path.parent() {
                    sync_directory(parent)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("make the directory", path)(e)),
        }
        Self::open(path)
    }

    /// The directory, if nobody but us and root can look into it.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let metadata = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
        if !metadata.is_dir() {
            return Err(FileError::NotADirectory(path.into()));
        }
        // The directory /proc/self itself belongs to the user that the process acts as, also where it cannot be dumped.
        let own = fs::metadata("/proc/self").map_err(io_error("look at", Path::new("/proc/self")))?.uid();
        check_rights(path, &metadata, own)?;
        Ok(Self(path.into()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether there is anything of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.at(name)).is_ok()
    }

    /// Waits for the lock (flock) of this name, which is ours until the file is dropped.
    pub(super) fn lock(&self, name: &str) -> Result<File, FileError> {
        let path = self.at(name);
        let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        open().and_then(|file| file.lock().map(|()| file)).map_err(|error| FileError::Io { verb: "lock", path, error })
    }

    /// Reads a file, none if there is none.
    pub(super) fn read(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let path = self.at(name);
        let seen = fs::symlink_metadata(&path).map_err(io_error("look at", &path))?;
        if !seen.is_file() {
            return Err(FileError::NotAFile(path));
        }
        let directory = fs::metadata(&self.0).map_err(io_error("look at", &self.0))?;
        let file = File::open(&path).map_err(io_error("read", &path))?;
        let metadata = file.metadata().map_err(io_error("look at", &path))?;
        // What was opened is what was looked at, and no link.
        if (metadata.dev(), metadata.ino()) != (seen.dev(), seen.ino()) || metadata.len() > MAX_LEN {
            return Err(FileError::NotAFile(path));
        }
        check_rights(&path, &metadata, directory.uid())?;
        // One allocation, so that no piece of a secret stays behind in a smaller one.
        let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
        file.take(MAX_LEN).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        Ok(bytes)
    }

    /// Writes a new file (0600), whole and on disk when this returns; what is there already stays.
    pub(super) fn create_new(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.at(name);
        let temporary = self.write_aside(name, bytes)?;
        let linked = fs::hard_link(&temporary, &path).map_err(io_error("make", &path));
        let _ = fs::remove_file(&temporary);
        linked?;
        sync_directory(&self.0)
    }

    /// Writes a file (0600) in place of the one that is there; whole and on disk when this returns.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.at(name);
        let temporary = self.write_aside(name, bytes)?;
        if let Err(error) = fs::rename(&temporary, &path) {
            let _ = fs::remove_file(&temporary);
            return Err(io_error("replace", &path)(error));
        }
        sync_directory(&self.0)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), FileError> {
        let path = self.at(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&self.0),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("remove", &path)(e)),
        }
    }

    /// Moves a file that cannot be understood out of the way.
    pub(super) fn set_aside(&self, name: &str) -> Result<(), FileError> {
        let path = self.at(name);
        let aside = self.at(&format!("{name}.corrupt"));
        tracing::warn!("{} is damaged and was moved to {}", path.display(), aside.display());
        fs::rename(&path, &aside).map_err(io_error("set aside", &path))
    }

    fn write_aside(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, FileError> {
        let temporary = self.at(&format!(".{name}.{}.new", std::process::id()));
        let write = || {
            match fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&temporary);
            return Err(io_error("write", &temporary)(error));
        }
        Ok(temporary)
    }

    /// Reads 32 bytes as a line of base64.
    pub(super) fn read_key(&self, name: &str, what: &'static str) -> Result<Zeroizing<[u8; KEY]>, FileError> {
        let text = self.read(name)?;
        decode_key(&text).ok_or_else(|| FileError::Content { path: self.at(name), what })
    }

    /// Writes 32 bytes as a line of base64, into a new file.
    pub(super) fn create_key(&self, name: &str, key: &[u8; KEY]) -> Result<(), FileError> {
        self.create_new(name, &key_line(key))
    }
}

/// 32 bytes as a line of base64, without a buffer that would keep a copy.
pub(super) fn key_line(key: &[u8; KEY]) -> Zeroizing<Vec<u8>> {
    let mut line = Zeroizing::new(vec![b'\n'; 45]);
    if let Some(text) = line.get_mut(..44) {
        // 32 bytes are 44 characters.
        let _ = STANDARD.encode_slice(key, text);
    }
    line
}

/// 32 bytes from a line of base64, white space around it allowed.
pub(super) fn decode_key(text: &[u8]) -> Option<Zeroizing<[u8; KEY]>> {
    let mut room = Zeroizing::new([0; KEY + 1]);
    let length = STANDARD.decode_slice(text.trim_ascii(), room.as_mut()).ok()?;
    let (key, _) = room.split_first_chunk::<KEY>()?;
    (length == KEY).then(|| Zeroizing::new(*key))
}

fn check_rights(path: &Path, metadata: &fs::Metadata, own: u32) -> Result<(), FileError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        Err(FileError::Open(path.into(), mode))
    } else if metadata.uid() != 0 && metadata.uid() != own {
        Err(FileError::Owner(path.into(), metadata.uid()))
    } else {
        Ok(())
    }
}

fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("write to", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn directory() -> (tempfile::TempDir, PrivateDirectory) {
        let outside = tempfile::tempdir().unwrap();
        let directory = PrivateDirectory::create(&outside.path().join("state")).unwrap();
        (outside, directory)
    }

    #[test]
    fn files_are_made_once_replaced_whole_and_closed_to_others() {
        let (_outside, directory) = directory();
        assert!(directory.read("a").unwrap_err().is_missing());
        directory.create_new("a", b"one").unwrap();
        assert!(matches!(directory.create_new("a", b"two"), Err(FileError::Exists(_))));
        assert_eq!(directory.read("a").unwrap().as_slice(), b"one");
        directory.replace("a", b"three").unwrap();
        assert_eq!(directory.read("a").unwrap().as_slice(), b"three");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&directory.at("a")), mode(directory.path())), (0o600, 0o700));
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a"], "something is left over");
        directory.remove("a").unwrap();
        directory.remove("a").unwrap();
        assert!(!directory.has("a"));
    }

    #[test]
    fn what_others_could_read_or_change_is_refused() {
        let (outside, directory) = directory();
        directory.create_key("key", &[9; KEY]).unwrap();
        assert_eq!(*directory.read_key("key", "a key").unwrap(), [9; KEY]);
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(directory.at("key"), fs::Permissions::from_mode(mode)).unwrap();
            let error = directory.read("key").unwrap_err().to_string();
            assert!(error.contains("chmod") && error.contains(&format!("{mode:04o}")), "{error}");
        }
        fs::set_permissions(directory.at("key"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink(directory.at("key"), directory.at("link")).unwrap();
        assert!(matches!(directory.read("link"), Err(FileError::NotAFile(_))));
        fs::create_dir(directory.at("folder")).unwrap();
        assert!(matches!(directory.read("folder"), Err(FileError::NotAFile(_))));

        let link = outside.path().join("link");
        symlink(directory.path(), &link).unwrap();
        assert!(matches!(PrivateDirectory::open(&link), Err(FileError::NotADirectory(_))));
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(PrivateDirectory::create(directory.path()), Err(FileError::Open(_, 0o755))));
    }

    #[test]
    fn a_stale_half_of_a_file_is_in_nobodys_way() {
        let (_outside, directory) = directory();
        fs::write(directory.at(&format!(".a.{}.new", std::process::id())), b"half").unwrap();
        directory.create_new("a", b"whole").unwrap();
        assert_eq!(directory.read("a").unwrap().as_slice(), b"whole");
    }

    #[test]
    fn keys_are_one_line_of_base64() {
        assert_eq!(decode_key(&key_line(&[5; KEY])).as_deref(), Some(&[5; KEY]));
        for bad in ["", "AAAA", &"A".repeat(44), &"A".repeat(43), &format!("{}A=", "A".repeat(43))] {
            assert!(decode_key(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
