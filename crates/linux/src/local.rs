//! Sockets in the file system (unix(7)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::syscall::syscall;

/// Whether somebody listens on the socket of this path. Does not wait: one whose queue is full counts as listening.
#[must_use]
pub fn is_listening(path: &Path) -> bool {
    match connect(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn connect(path: &Path) -> io::Result<()> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // The call takes numbers only.
    let fd = syscall!(socket(libc::AF_UNIX, kind, 0))?;
    // SAFETY: the descriptor is new, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero sockaddr_un (numbers) is a valid value of this plain structure.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // The last byte stays zero.
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    address.sun_path.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from as libc::c_char);
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // The address is a whole sockaddr_un that outlives the call.
    syscall!(connect(socket.as_raw_fd(), (&raw const address).cast(), length))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn whoever_listens_is_noticed_also_with_a_full_queue() {
        let place = std::env::temp_dir().join(format!("adit-local-{}", std::process::id()));
        let _ = std::fs::remove_file(&place);
        assert!(!is_listening(&place));
        let listener = UnixListener::bind(&place).unwrap();
        assert!(is_listening(&place));
        // Connections that are gone stay in the queue until they are accepted, and there is an end to that.
        for _ in 0..100_000 {
            if let Err(error) = connect(&place) {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(connect(&place).is_err() && is_listening(&place));
        drop(listener);
        assert!(!is_listening(&place) && UnixStream::connect(&place).is_err());
        std::fs::remove_file(&place).unwrap();
    }
}
