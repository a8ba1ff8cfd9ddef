//! Sockets that send single packets whose answers are waited for: ICMP echoes, UDP datagrams and trains of them, TCP SYNs.
//!
//! What is sent may not be fragmented, and the kernel's memory of narrow paths does not keep it from leaving (`IP_PMTUDISC_PROBE`): where a
//! packet is too large it is to be lost, or answered, at the place where it does not fit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::syscall::syscall;
use crate::udp::RawAddress;
use crate::{Error, Result};

/// What a socket sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ICMP messages. With CAP_NET_RAW as they are; without, by a socket whose identifier the kernel chooses, where `net.ipv4.ping_group_range`
    /// permits it.
    Icmp,
    /// UDP datagrams.
    Udp,
    /// TCP segments with headers of the sender's making. Needs CAP_NET_RAW.
    Tcp,
}

/// A socket towards one destination.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    destination: SocketAddr,
    /// The kernel hands over packets with their IP header.
    with_header: bool,
    local: IpAddr,
    mtu: u32,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread. The port of `destination` counts for UDP.
    ///
    /// # Errors
    /// EPERM, EACCES: no right to it; ENETUNREACH and the like: no route.
    pub fn open(kind: Kind, destination: SocketAddr) -> Result<Self> {
        let failed = |source| Error::new(format!("send to {}", destination.ip()), source);
        let six = destination.is_ipv6();
        let family = if six { libc::AF_INET6 } else { libc::AF_INET };
        let icmp = if six { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
        let (fd, raw) = match kind {
            Kind::Udp => (open(family, libc::SOCK_DGRAM, 0), false),
            Kind::Tcp => (open(family, libc::SOCK_RAW, libc::IPPROTO_TCP), true),
            Kind::Icmp => match open(family, libc::SOCK_RAW, icmp) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                    (open(family, libc::SOCK_DGRAM, icmp), false)
                }
                opened => (opened, true),
            },
        };
        let fd = fd.map_err(failed)?;
        let (level, option, value) = if six {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
        };
        set(&fd, level, option, value).map_err(failed)?;
        // A socket of its own tells the way, since a connected one would not hear of errors from others.
        let route = open(family, libc::SOCK_DGRAM, 0).map_err(failed)?;
        connect(&route, SocketAddr::new(destination.ip(), destination.port().max(1))).map_err(failed)?;
        let local = local_address(&route).map_err(failed)?;
        let mtu = get(&route, level, if six { libc::IPV6_MTU } else { libc::IP_MTU }).map_err(failed)?;
        if kind == Kind::Udp {
            // What is refused comes back as an error of a connected socket.
            connect(&fd, destination).map_err(failed)?;
        }
        let mtu = u32::try_from(mtu).unwrap_or(0);
        Ok(Self { fd, destination, with_header: raw && !six, local, mtu })
    }

    /// The address that packets leave from.
    #[must_use]
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// The largest packet that the route takes, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Whether [`Socket::receive`] answers packets from their IP header on; otherwise from the header of the transport on, or, for UDP, the
    /// payload alone.
    #[must_use]
    pub fn with_header(&self) -> bool {
        self.with_header
    }

    /// Sends a message from the header of the transport on; for UDP its payload.
    ///
    /// # Errors
    /// EMSGSIZE: longer than the device takes; ENETUNREACH and the like; EPERM: a filter of this host.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        // The port of a raw address must be 0, or the protocol.
        let to = RawAddress::new(SocketAddr::new(self.destination.ip(), 0), self.destination.is_ipv6());
        let connected = self.is_udp();
        let (address, length) = if connected { (std::ptr::null(), 0) } else { (to.as_ptr(), to.len()) };
        // Pointers and lengths are of the message and of an address on this stack frame.
        syscall!(sendto(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0, address, length)).map(drop)
    }

    /// Sends a train: the kernel makes a datagram of every `segment` bytes of `payload`, as late as it can (UDP_SEGMENT, udp(7)).
    ///
    /// # Errors
    /// As those of [`Socket::send`]; EINVAL for a segment that the route does not take.
    pub fn send_train(&self, payload: &[u8], segment: u16) -> io::Result<()> {
        set(&self.fd, libc::SOL_UDP, libc::UDP_SEGMENT, segment.into())?;
        let sent = self.send(payload);
        set(&self.fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0)?;
        sent
    }

    /// Takes what came, without waiting: its length.
    ///
    /// # Errors
    /// EAGAIN: nothing; ECONNREFUSED and the like: what ICMP said about a UDP datagram.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Pointer and length describe the buffer.
        let received =
            syscall!(recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT))?;
        Ok(usize::try_from(received).unwrap_or(0))
    }

    fn is_udp(&self) -> bool {
        get(&self.fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).is_ok_and(|protocol| protocol == libc::IPPROTO_UDP)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // No pointers are passed.
    let fd = syscall!(socket(family, kind | libc::SOCK_CLOEXEC, protocol))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn connect(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let address = RawAddress::new(to, to.is_ipv6());
    // The address is a sockaddr of the stated length that lives on this stack frame.
    syscall!(connect(fd.as_raw_fd(), address.as_ptr(), address.len())).map(drop)
}

fn local_address(fd: &OwnedFd) -> io::Result<IpAddr> {
    let mut address = RawAddress::EMPTY;
    let mut length = address.capacity();
    // The kernel writes at most `length` bytes into the address.
    syscall!(getsockname(fd.as_raw_fd(), address.as_mut_ptr(), &raw mut length))?;
    let local = address.decode().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok(local.ip())
}

fn set(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // The value is one int on this stack frame, of the stated size.
    syscall!(setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size)).map(drop)
}

fn get(fd: &OwnedFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    // Value and size are on this stack frame; the kernel writes at most `size` bytes.
    syscall!(getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size))?;
    Ok(value)
}
