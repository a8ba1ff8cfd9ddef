//! Who is at the other end of a Unix socket, and whether he belongs to a group.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use crate::syscall::syscall;
use crate::{Error, Result};

/// Beyond this an entry of the user database is taken to be broken, in bytes.
const LARGEST_ENTRY: usize = 1 << 20;

/// A process as the kernel vouches for it, at the time it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its process id; 0 if it is in a process namespace that we do not see.
    pub pid: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// Who connected to us (`SO_PEERCRED`, unix(7)).
pub fn peer_credentials(stream: &UnixStream) -> Result<Credentials> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut credentials).cast();
    // Pointer and length describe a structure that outlives the call.
    syscall!(getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, pointer, &mut length))
        .map_err(|source| Error::new("ask who is at the other end of a socket", source))?;
    Ok(Credentials { pid: u32::try_from(credentials.pid).unwrap_or(0), uid: credentials.uid, gid: credentials.gid })
}

/// Whether the user belongs to the group, as the user database says; no if either does not exist.
pub fn user_in_group(uid: u32, group: &str) -> Result<bool> {
    let failed = |source| Error::new(format!("look up group {group}"), source);
    let Ok(name) = CString::new(group) else { return Ok(false) };
    let Some(gid) = group_id(&name).map_err(failed)? else { return Ok(false) };
    let Some((user, primary)) = user_of(uid).map_err(failed)? else { return Ok(false) };
    Ok(primary == gid || groups_of(&user, primary).contains(&gid))
}

/// The number of a user, as the user database says; none if there is none of this name.
pub fn user_id(name: &str) -> Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    // SAFETY: an all-zero passwd (null pointers, numbers) is a valid value of this plain structure.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let found = look_up(|buffer| {
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to things that outlive the call, and the length is that of the buffer.
        let errno =
            unsafe { libc::getpwnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) };
        (errno, !found.is_null())
    });
    let found = found.map_err(|source| Error::new(format!("look up user {}", name.to_string_lossy()), source))?;
    Ok(found.then_some(entry.pw_uid))
}

/// The name of a user, as the user database says; none if there is no user of this number.
pub fn user_name(uid: u32) -> Result<Option<String>> {
    let user = user_of(uid).map_err(|source| Error::new(format!("look up user {uid}"), source))?;
    Ok(user.map(|(name, _)| name.to_string_lossy().into_owned()))
}

fn group_id(name: &CStr) -> io::Result<Option<u32>> {
    // SAFETY: an all-zero group (null pointers, numbers) is a valid value of this plain structure.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    look_up(|buffer| {
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to things that outlive the call, and the length is that of the buffer.
        let errno =
            unsafe { libc::getgrnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) };
        (errno, !found.is_null())
    })
    .map(|found| found.then_some(entry.gr_gid))
}

/// A user's name and his primary group.
fn user_of(uid: u32) -> io::Result<Option<(CString, u32)>> {
    let mut user = None;
    look_up(|buffer| {
        // SAFETY: an all-zero passwd (null pointers, numbers) is a valid value of this plain structure.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to things that outlive the call, and the length is that of the buffer.
        let errno = unsafe { libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) };
        if errno == 0 && !found.is_null() && !entry.pw_name.is_null() {
            // SAFETY: on success the name is a string within the buffer, which is still alive.
            user = Some((unsafe { CStr::from_ptr(entry.pw_name) }.to_owned(), entry.pw_gid));
        }
        (errno, !found.is_null())
    })?;
    Ok(user)
}

/// Calls one of the `get…_r` family with a buffer that grows until it is large enough.
fn look_up(mut call: impl FnMut(&mut [libc::c_char]) -> (libc::c_int, bool)) -> io::Result<bool> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            (0, found) => return Ok(found),
            (libc::ERANGE, _) if buffer.len() < LARGEST_ENTRY => buffer.resize(buffer.len() * 2, 0),
            (libc::EINTR, _) => {}
            // What getpwnam(3) lists for "no such entry" in some implementations.
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(false),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn groups_of(user: &CStr, primary: u32) -> Vec<u32> {
    let mut groups = vec![0; 64];
    // The kernel allows 65,536 groups (NGROUPS_MAX).
    while groups.len() <= 1 << 17 {
        let mut count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
        // SAFETY: the name is a string; the array has as many elements as `count` says.
        let result = unsafe { libc::getgrouplist(user.as_ptr(), primary, groups.as_mut_ptr(), &mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return groups;
        }
        groups.resize(groups.len() * 2, 0);
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(user_id("nobody of this name").unwrap(), None);
        assert_eq!(user_id("a\0b").unwrap(), None);
    }

    #[test]
    fn the_other_end_of_our_own_socket_is_us() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let credentials = peer_credentials(&ours).unwrap();
        // SAFETY: the call takes nothing and cannot fail.
        let uid = unsafe { libc::geteuid() };
        // SAFETY: the call takes nothing and cannot fail.
        let gid = unsafe { libc::getegid() };
        assert_eq!(credentials, Credentials { pid: std::process::id(), uid, gid });
    }

    #[test]
    fn root_is_in_its_group_and_nobody_in_one_that_does_not_exist() {
        assert!(user_in_group(0, "root").unwrap());
        assert!(!user_in_group(0, "no-such-group-here").unwrap());
        assert!(!user_in_group(0, "nul\0byte").unwrap());
        assert!(!user_in_group(4_000_000_000, "root").unwrap());
    }
}
