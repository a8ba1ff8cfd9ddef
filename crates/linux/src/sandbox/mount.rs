//! Mounts of a process that has a namespace of mounts for itself.
//!
//! These functions change the view that all processes of the namespace have of the file system: [`keep_to_oneself`] comes first.

use std::ffi::{CStr, CString};
use std::io;
use std::path::Path;

use crate::syscall::syscall;
use crate::{Error, Result};

/// What a file system of the kernel's own cannot do: run programs, be devices, give rights.
const INERT: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// From now on what is mounted here is seen nowhere else. What is unmounted elsewhere still goes from here, so that nobody's disk is held.
///
/// # Errors
/// The process has no namespace of mounts that it may change.
pub fn keep_to_oneself() -> Result<()> {
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_SLAVE, None)
}

/// Mounts a fresh `proc`, which shows the processes of our namespace.
///
/// # Errors
/// There is no such directory, or the kernel refuses.
pub fn processes(target: &Path) -> Result<()> {
    mount(Some(Path::new("proc")), target, Some(c"proc"), INERT, None)
}

/// Mounts a fresh `sysfs`, which shows the devices of our network namespace; nothing can be written there.
///
/// # Errors
/// There is no such directory, or the kernel refuses.
pub fn devices(target: &Path) -> Result<()> {
    mount(Some(Path::new("sysfs")), target, Some(c"sysfs"), INERT | libc::MS_RDONLY, None)
}

/// Mounts an empty file system in memory, of at most 1 MiB.
///
/// # Errors
/// There is no such directory, or the kernel refuses.
pub fn memory(target: &Path) -> Result<()> {
    mount(Some(Path::new("tmpfs")), target, Some(c"tmpfs"), INERT, Some(c"mode=0755,size=1m"))
}

/// Lets a file, or a directory with all that is mounted in it, appear at another place too.
///
/// # Errors
/// One of them is not there.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None, libc::MS_BIND | libc::MS_REC, None)
}

/// Takes away what was mounted last at a place. What is in use of it stays until it is not.
///
/// # Errors
/// Nothing is mounted there.
pub fn unmount(target: &Path) -> Result<()> {
    let failed = |source| Error::new(format!("unmount {}", target.display()), source);
    let name = c_string(target).map_err(failed)?;
    // The pointer is to a string that outlives the call.
    syscall!(umount2(name.as_ptr(), libc::MNT_DETACH)).map(drop).map_err(failed)
}

/// Names the host, for processes of our namespace of host names.
///
/// # Errors
/// It is longer than 64 bytes, or we may not.
pub fn set_host_name(name: &str) -> Result<()> {
    // Pointer and length describe `name`.
    syscall!(sethostname(name.as_ptr().cast(), name.len()))
        .map(drop)
        .map_err(|source| Error::new(format!("set the host name {name}"), source))
}

fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> Result<()> {
    let operation = || match (kind, source) {
        (Some(kind), _) => format!("mount {} at {}", kind.to_string_lossy(), target.display()),
        (None, Some(source)) => format!("mount {} at {}", source.display(), target.display()),
        (None, None) => format!("change the mount {}", target.display()),
    };
    let failed = |error| Error::new(operation(), error);
    let source = c_string(source.unwrap_or(Path::new("none"))).map_err(failed)?;
    let place = c_string(target).map_err(failed)?;
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    let options = options.map_or(std::ptr::null(), CStr::as_ptr).cast();
    // All pointers are null or to strings that outlive the call.
    syscall!(mount(source.as_ptr(), place.as_ptr(), kind, flags, options)).map(drop).map_err(failed)
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}
