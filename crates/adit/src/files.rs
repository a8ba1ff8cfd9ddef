//! Files that are replaced as a whole, so that whoever reads one finds the old or the new one, also after a crash.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts `content` in the place of a file that nobody else writes, with these rights; it is on disk when this returns. Directories on the way are made.
///
/// # Errors
/// The kernel's; then what was there is there still.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, "new", true)
}

/// The same for a file that several programs may write at once, without waiting for the disk: after a crash of the host it may be the old one, or empty.
/// What a killed writer leaves has its number in its name: `.NAME.PID.new`.
///
/// # Errors
/// As [`replace`].
pub fn replace_lightly(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, &format!("{}.new", std::process::id()), false)
}

fn put(path: &Path, content: &[u8], mode: u32, suffix: &str, durably: bool) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(directory)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{suffix}"));
    let temporary = directory.join(temporary);
    let write = || {
        // Whatever is there is not followed.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::create_new(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        if durably {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durably { File::open(directory)?.sync_all() } else { Ok(()) }
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/down/file");
        for (content, mode, put) in
            [("one", 0o644, replace as fn(&Path, &[u8], u32) -> io::Result<()>), ("two", 0o600, replace_lightly)]
        {
            put(&path, content.as_bytes(), mode).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        // What stands where it is written aside is not written to.
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "another's").unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory.path().join("deep/down/.file.new")).unwrap();
        replace(&path, b"three", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "another's");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert!(replace(&path.join("below"), b"four", 0o644).is_err());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
