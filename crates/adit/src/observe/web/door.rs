//! The socket that the page is served at.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net;

use crate::config::ObserveAt;
use crate::{Failure, Result, api};

/// A socket that listens. One of unix is gone from its directory when this is dropped.
pub struct Door {
    at: ObserveAt,
    listener: Listener,
    file: Option<SocketFile>,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// The same, to be waited for.
pub(super) enum Waiting {
    Tcp(net::TcpListener),
    Unix(net::UnixListener),
}

/// Somebody who came.
pub(super) enum Visitor {
    Tcp(net::TcpStream),
    Unix(net::UnixStream),
}

impl Door {
    /// Listens there. A unix socket is open to root and to the members of group adit.
    ///
    /// # Errors
    /// With a remedy: somebody else listens there, or the place cannot be used.
    pub fn open(at: &ObserveAt) -> Result<Self> {
        let failed = |e: &io::Error| Failure::failed(format!("cannot serve the page: {}", explain(at, e)));
        match at {
            ObserveAt::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).map_err(|e| failed(&e))?;
                listener.set_nonblocking(true).map_err(|e| failed(&e))?;
                Ok(Self { at: at.clone(), listener: Listener::Tcp(listener), file: None })
            }
            ObserveAt::Unix(path) => {
                let (listener, file) = bind(path).map_err(|e| failed(&e))?;
                Ok(Self { at: at.clone(), listener: Listener::Unix(listener), file: Some(file) })
            }
        }
    }

    /// Where it is.
    pub(super) fn at(&self) -> &ObserveAt {
        &self.at
    }

    /// The socket to be waited for, and what keeps its name.
    ///
    /// # Errors
    /// There is no reactor to wait with.
    pub(super) fn wait(self) -> io::Result<(Waiting, Option<SocketFile>)> {
        let waiting = match self.listener {
            Listener::Tcp(listener) => Waiting::Tcp(net::TcpListener::from_std(listener)?),
            Listener::Unix(listener) => Waiting::Unix(net::UnixListener::from_std(listener)?),
        };
        Ok((waiting, self.file))
    }
}

impl Waiting {
    /// The next one who comes.
    pub(super) async fn accept(&self) -> io::Result<Visitor> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Visitor::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Visitor::Unix(stream)),
        }
    }
}

fn explain(at: &ObserveAt, error: &io::Error) -> String {
    match (at, error.kind()) {
        (ObserveAt::Tcp(address), io::ErrorKind::AddrInUse) => format!(
            "another program listens on TCP port {} at {}; stop it, or choose another port in `listen` under [observe]",
            address.port(),
            address.ip()
        ),
        (ObserveAt::Tcp(address), io::ErrorKind::PermissionDenied) => {
            format!(
                "no permission to listen on TCP port {}; choose a port above 1023 in `listen` under [observe]",
                address.port()
            )
        }
        (ObserveAt::Tcp(address), io::ErrorKind::AddrNotAvailable) => {
            format!(
                "{} is not an address of this host; is its loopback device up? try `ip link set lo up`",
                address.ip()
            )
        }
        (ObserveAt::Unix(path), io::ErrorKind::AddrInUse) => format!(
            "another program serves {} already; stop it, or choose another path in `listen` under [observe]",
            path.display()
        ),
        (ObserveAt::Unix(path), io::ErrorKind::AlreadyExists) => format!(
            "{} is there and no socket; remove it, or choose another path in `listen` under [observe]",
            path.display()
        ),
        (ObserveAt::Unix(path), _) => format!(
            "cannot make the socket {}: {error}; choose a directory that is there and belongs to adit, such as /run/adit, in `listen` under [observe]",
            path.display()
        ),
        (ObserveAt::Tcp(address), _) => format!("cannot listen on {address}: {error}"),
    }
}

/// Makes a socket that never has a wider mode than it should, in the place of one that nobody listens on any more.
fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) if linux::local::is_listening(path) => return Err(io::ErrorKind::AddrInUse.into()),
        _ => {}
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    // Removes it under its first name, should a step fail.
    let mut file = SocketFile { path: new, number: (0, 0) };
    let there = fs::symlink_metadata(&file.path)?;
    file.number = (there.dev(), there.ino());
    // A daemon that has given its rights up may not give the socket away; then it is root's.
    if let Some(group) = api::group_id().filter(|group| there.gid() != *group)
        && let Err(e) = chown(&file.path, None, Some(group))
    {
        tracing::debug!("the page's socket is not open to group adit: {e}");
    }
    fs::set_permissions(&file.path, Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    fs::rename(&file.path, path)?;
    file.path = path.into();
    Ok((listener, file))
}

/// A socket's name, removed when this is dropped unless another file has it by then.
pub(super) struct SocketFile {
    path: PathBuf,
    number: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.number);
        if is_ours && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
