//! UDP sockets that move many datagrams per system call.
//!
//! * [`Socket`]: one UDP socket, IPv4 only or both families, with buffers of a stated size and packet info switched on.
//! * [`ReceiveBatch`]: up to [`BATCH`] receives in one `recvmmsg`, each of them up to 64 KiB of joined datagrams (UDP_GRO).
//! * [`SendQueue`]: reserve a slot, write a datagram into it, commit; equal-sized datagrams to one destination become a
//!   *train* that leaves as one message (UDP_SEGMENT), and several trains leave in one `sendmmsg`.
//! * [`steer`]: a classic BPF program that keeps each inner flow, or lane of encrypted data, on one socket of a group that
//!   shares a port.
//!
//! Constants and structures: include/uapi/linux/udp.h, in.h, in6.h; udp(7), ip(7), ipv6(7).

mod address;
mod receive;
mod send;
mod steering;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub use address::LocalAddress;
pub use receive::{BATCH, Datagrams, ReceiveBatch};
pub use send::{Flow, Full, SendError, SendQueue, Sent};

pub(crate) use self::address::RawAddress;
use crate::syscall::syscall;
use crate::{Error, Result};

/// How a socket is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where to listen. `[::]` takes IPv4 as well.
    pub listen: SocketAddr,
    /// Shares the port with other sockets of the same user that ask for it as well (SO_REUSEPORT).
    pub share_port: bool,
    /// UDP_SEGMENT and UDP_GRO; without, every datagram is a system call of its own.
    pub offload: bool,
    /// Datagrams over the path MTU are refused (EMSGSIZE). Without, the network may fragment them on the way, as WireGuard
    /// lets it.
    pub dont_fragment: bool,
    /// Asked-for size of the receive and of the send buffer in bytes, as far as the kernel permits.
    pub buffer: usize,
}

/// A bound, non-blocking UDP socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    local: SocketAddr,
    /// AF_INET6: addresses are written in IPv6 form, IPv4 ones as mapped addresses.
    six: bool,
    /// Whether trains may leave as one message. Cleared for good when the kernel says EIO: the card of the route cannot
    /// compute checksums (udp_send_skb in net/ipv4/udp.c).
    segmentation: AtomicBool,
    dont_fragment: AtomicBool,
}

impl Socket {
    /// Opens and binds a socket.
    ///
    /// # Errors
    /// EADDRINUSE: the port is taken; EADDRNOTAVAIL: the address is not ours; EAFNOSUPPORT: no IPv6 here; EACCES: a port below 1024 without the right to it.
    pub fn bind(options: Options) -> Result<Self> {
        let six = options.listen.is_ipv6();
        let family = if six { libc::AF_INET6 } else { libc::AF_INET };
        let flags = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // No pointers are passed.
        let fd = syscall!(socket(family, flags, 0)).map_err(|e| Error::new("open a UDP socket", e))?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let segmentation = AtomicBool::new(options.offload);
        let dont_fragment = AtomicBool::new(options.dont_fragment);
        let mut socket = Self { fd, local: options.listen, six, segmentation, dont_fragment };

        let must = |socket: &Self, level, name, value: libc::c_int, what: &str| {
            socket.set(level, name, value).map_err(|e| Error::new(format!("set {what} on a UDP socket"), e))
        };
        // Answers leave from the address that was written to; ECN bits are carried over (RFC 6040).
        must(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1, "IP_RECVTOS")?;
        socket.set_dont_fragment(options.dont_fragment)?;
        if six {
            must(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0, "IPV6_V6ONLY")?;
            must(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")?;
            must(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS")?;
        } else {
            must(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1, "IP_PKTINFO")?;
        }
        if options.share_port {
            must(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1, "SO_REUSEPORT")?;
        }
        if options.offload {
            // Kernels before 5.0 have no UDP_GRO; datagrams then arrive one by one, which works as well.
            let _ = socket.set(libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        socket.size_buffers(options.buffer);

        let address = RawAddress::new(options.listen, six);
        // The address is a sockaddr of the stated length that lives on this stack frame.
        syscall!(bind(socket.fd.as_raw_fd(), address.as_ptr(), address.len()))
            .map_err(|e| Error::new(format!("listen on UDP {}", options.listen), e))?;
        socket.local = socket.bound_address()?;
        Ok(socket)
    }

    /// The address it is bound to, with the port that the kernel chose if none was given.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Whether datagrams over the path MTU are refused from now on: see [`Options::dont_fragment`].
    ///
    /// # Errors
    /// Those of setsockopt(2), which does not fail for a socket of ours.
    pub fn set_dont_fragment(&self, dont_fragment: bool) -> Result<()> {
        // DO keeps the path MTU and refuses a datagram over it with EMSGSIZE; DONT leaves DF clear and fragments it.
        let (four, six) = if dont_fragment {
            (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO)
        } else {
            (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT)
        };
        let failed = |e| Error::new("set the discovery of path MTUs on a UDP socket", e);
        self.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, four).map_err(failed)?;
        if self.six {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, six).map_err(failed)?;
        }
        self.dont_fragment.store(dont_fragment, Ordering::Relaxed);
        Ok(())
    }

    /// Whether trains leave as one message at present.
    pub fn segmentation(&self) -> bool {
        self.segmentation.load(Ordering::Relaxed)
    }

    /// The sizes of the receive and the send buffer in bytes as the kernel counts them (it doubles what was asked).
    pub fn buffers(&self) -> (usize, usize) {
        let size = |name| self.get(libc::SOL_SOCKET, name).ok().and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
        (size(libc::SO_RCVBUF), size(libc::SO_SNDBUF))
    }

    /// The FORCE forms go over the limits of net.core.*mem_max, and need CAP_NET_ADMIN in the first user namespace.
    fn size_buffers(&self, size: usize) {
        let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
        for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            if self.set(libc::SOL_SOCKET, force, size).is_err() {
                // Never fails: the kernel cuts the value to its limit.
                let _ = self.set(libc::SOL_SOCKET, plain, size);
            }
        }
    }

    /// Marks every datagram that leaves from here on (SO_MARK), for rules and filters of this host to tell them by; `None` takes
    /// the mark away. Needs CAP_NET_ADMIN.
    pub fn set_mark(&self, mark: Option<NonZero<u32>>) -> Result<()> {
        let value = mark.map_or(0, NonZero::get).cast_signed();
        self.set(libc::SOL_SOCKET, libc::SO_MARK, value).map_err(|e| Error::new("set SO_MARK on a UDP socket", e))
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let size = size_of_val(&value) as libc::socklen_t;
        // The value is one int on this stack frame, of the stated size.
        syscall!(setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), size)).map(drop)
    }

    fn get(&self, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
        let mut value: libc::c_int = 0;
        let mut size = size_of_val(&value) as libc::socklen_t;
        // Value and size are on this stack frame; the kernel writes at most `size` bytes.
        syscall!(getsockopt(self.fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size))?;
        Ok(value)
    }

    fn bound_address(&self) -> Result<SocketAddr> {
        let mut address = RawAddress::EMPTY;
        let mut length = address.capacity();
        // The kernel writes at most `length` bytes into the address.
        syscall!(getsockname(self.fd.as_raw_fd(), address.as_mut_ptr(), &raw mut length))
            .map_err(|e| Error::new("read the address of a UDP socket", e))?;
        address.decode().ok_or_else(|| Error::from_errno("read the address of a UDP socket", libc::EAFNOSUPPORT))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes the sockets that share the port of `group` choose by inner flow: both directions of a flow carry the same ports, so
/// they land on the same socket, and with it on the same worker and device queue. Encrypted data goes to the socket of its
/// lane (the low 4 bits of the receiver index) modulo `group`, and handshakes to the first. `group` is the number of sockets, bound in
/// the order of their workers; call it with any one of them, after all are bound.
///
/// The program looks at the start of the payload (SO_ATTACH_REUSEPORT_CBPF, include/uapi/linux/filter.h).
pub fn steer(socket: &Socket, group: usize) -> Result<()> {
    let program = steering::program(u32::try_from(group.max(1)).unwrap_or(1));
    let mut filters: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_mut_ptr() };
    let size = size_of_val(&program) as libc::socklen_t;
    // The program points to the instructions above, which outlive the call; the kernel copies and checks them.
    syscall!(setsockopt(
        socket.fd.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        (&raw const program).cast(),
        size
    ))
    .map(drop)
    .map_err(|e| Error::new("attach the program that steers datagrams to workers", e))
}
