//! Sockets of the standard library that speak by one device only (SO_BINDTODEVICE, socket(7)): whatever routes say, what they send leaves by
//! it, and of what comes from other hosts only what came by it reaches them. Programs of this host reach them by its addresses, as if by it.
//!
//! Since Linux 5.7 no right is needed for it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::syscall::syscall;
use crate::udp::RawAddress;
use crate::{Error, Result};

/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 16;

/// Takes TCP connections to an address, by a device.
///
/// # Errors
/// EADDRINUSE: the port is taken; EADDRNOTAVAIL: the address is not ours; ENODEV: there is no such device.
pub fn listen(device: &str, address: SocketAddr) -> Result<TcpListener> {
    let failed = |source| Error::new(format!("listen on TCP {address} of {device}"), source);
    let fd = open(libc::SOCK_STREAM, device, address).map_err(failed)?;
    // No pointers are passed.
    syscall!(listen(fd.as_raw_fd(), BACKLOG)).map_err(failed)?;
    Ok(fd.into())
}

/// A UDP socket on an address, by a device.
///
/// # Errors
/// As [`listen`].
pub fn datagrams(device: &str, address: SocketAddr) -> Result<UdpSocket> {
    let failed = |source| Error::new(format!("listen on UDP {address} of {device}"), source);
    Ok(open(libc::SOCK_DGRAM, device, address).map_err(failed)?.into())
}

/// Connects from an address of ours by a device. `patience` is more than zero.
///
/// # Errors
/// ETIMEDOUT: nobody answered; ECONNREFUSED: nobody takes connections there; those of [`listen`].
pub fn connect(device: &str, from: IpAddr, to: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let failed = |source| Error::new(format!("connect to TCP {to} by {device}"), source);
    let stream = TcpStream::from(open(libc::SOCK_STREAM, device, SocketAddr::new(from, 0)).map_err(failed)?);
    // It is also how long connect(2) waits.
    stream.set_write_timeout(Some(patience)).map_err(failed)?;
    let raw = RawAddress::new(to, to.is_ipv6());
    // The address is a sockaddr of the stated length that lives on this stack frame.
    let connected = syscall!(connect(stream.as_raw_fd(), raw.as_ptr(), raw.len()));
    match connected.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => {}
        Err((Some(libc::EINPROGRESS | libc::EAGAIN), _)) => {
            return Err(failed(io::Error::from_raw_os_error(libc::ETIMEDOUT)));
        }
        Err((_, error)) => return Err(failed(error)),
    }
    stream.set_write_timeout(None).map_err(failed)?;
    Ok(stream)
}

fn open(kind: libc::c_int, device: &str, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // No pointers are passed.
    let fd = syscall!(socket(family, kind | libc::SOCK_CLOEXEC, 0))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = device.len() as libc::socklen_t;
    // The name lives during the call and has the stated length; the kernel needs no zero at its end (sock_setbindtodevice).
    syscall!(setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_ptr().cast(), length))?;
    let raw = RawAddress::new(address, address.is_ipv6());
    // The address is a sockaddr of the stated length that lives on this stack frame.
    syscall!(bind(fd.as_raw_fd(), raw.as_ptr(), raw.len()))?;
    Ok(fd)
}
