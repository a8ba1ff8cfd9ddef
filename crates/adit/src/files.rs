//! Files that are replaced as a whole, so that whoever reads one finds the old or the new one, also after a crash.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts `content` in the place of a file, with these rights. Directories on the way are made.
///
/// # Errors
/// The kernel's; then what was there is there still.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, true)
}

/// The same without waiting for the disk: after a crash of the host it may be the old one, or empty.
///
/// # Errors
/// As [`replace`].
pub fn replace_lightly(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, false)
}

fn put(path: &Path, content: &[u8], mode: u32, durably: bool) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(directory)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.new", std::process::id()));
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
