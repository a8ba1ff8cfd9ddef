//! Sockets of a service that listens on one address: the address may come and go while they stand (IP_FREEBIND), and who sends much fills a
//! queue that few others share.
//!
//! Structures and constants: include/uapi/linux/filter.h, in.h, in6.h; ip(7), socket(7).

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::syscall::syscall;
use crate::udp::RawAddress;
use crate::{Error, Result};

/// Connections that wait to be taken.
const BACKLOG: libc::c_int = 64;

/// `BPF_LD | BPF_B | BPF_ABS`: A = packet[k].
const LOAD_BYTE: u16 = 0x30;
/// `BPF_ALU | BPF_MOD | BPF_K`: A %= k.
const MODULO: u16 = 0x94;
/// `BPF_RET | BPF_A`: answer A.
const RETURN_A: u16 = 0x16;
/// `SKF_NET_OFF`, -0x100000: from here on, k counts from the network header.
const NETWORK_HEADER: u32 = 0xfff0_0000;

/// Where the last byte of the source is in the header of IPv4 and IPv6.
const LAST_OF_SOURCE: [u32; 2] = [15, 23];

/// Non-blocking UDP sockets that share `address`, each with a queue of its own: a datagram goes to the one whose number, from 0, is the last byte
/// of its source address modulo `lanes`.
///
/// # Errors
/// EADDRINUSE: somebody else listens there; EACCES: a port below 1024 without the right to it; EAFNOSUPPORT: no IPv6 here.
pub fn udp(address: SocketAddr, lanes: u8) -> Result<Vec<UdpSocket>> {
    let failed = |e| Error::new(format!("listen on UDP {address}"), e);
    let mut sockets = Vec::new();
    for _ in 0..lanes.max(1) {
        let fd = open(address, libc::SOCK_DGRAM)?;
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(failed)?;
        bind(&fd, address).map_err(failed)?;
        if sockets.is_empty() {
            steer(&fd, address.is_ipv6(), lanes.max(1)).map_err(failed)?;
        }
        sockets.push(UdpSocket::from(fd));
    }
    Ok(sockets)
}

/// A non-blocking TCP listener.
///
/// # Errors
/// As [`udp`].
pub fn tcp(address: SocketAddr) -> Result<TcpListener> {
    let failed = |e| Error::new(format!("listen on TCP {address}"), e);
    let fd = open(address, libc::SOCK_STREAM)?;
    // Connections of a former one may still be ending.
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(failed)?;
    bind(&fd, address).map_err(failed)?;
    // The call takes numbers only.
    syscall!(listen(fd.as_raw_fd(), BACKLOG)).map_err(failed)?;
    Ok(TcpListener::from(fd))
}

fn open(address: SocketAddr, kind: libc::c_int) -> Result<OwnedFd> {
    let failed = |e| Error::new(format!("open a socket for {address}"), e);
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // No pointers are passed.
    let fd = syscall!(socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)).map_err(failed)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if address.is_ipv6() {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).map_err(failed)?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1).map_err(failed)?;
    } else {
        set(&fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1).map_err(failed)?;
    }
    Ok(fd)
}

fn set(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> std::io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // The value is one int on this stack frame, of the stated size.
    syscall!(setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size)).map(drop)
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> std::io::Result<()> {
    let raw = RawAddress::new(address, address.is_ipv6());
    // The address is a sockaddr of the stated length that lives on this stack frame.
    syscall!(bind(fd.as_raw_fd(), raw.as_ptr(), raw.len())).map(drop)
}

/// Attaches the program that chooses a socket to the group of this one (SO_ATTACH_REUSEPORT_CBPF).
fn steer(fd: &OwnedFd, six: bool, lanes: u8) -> std::io::Result<()> {
    let op = |code: u16, k: u32| libc::sock_filter { code, jt: 0, jf: 0, k };
    let [four_at, six_at] = LAST_OF_SOURCE;
    let at = NETWORK_HEADER + if six { six_at } else { four_at };
    let mut filters = [op(LOAD_BYTE, at), op(MODULO, lanes.into()), op(RETURN_A, 0)];
    let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_mut_ptr() };
    let size = size_of_val(&program) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // The program points to the instructions above, which outlive the call; the kernel copies and checks them.
    syscall!(setsockopt(fd.as_raw_fd(), level, name, (&raw const program).cast(), size)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_sender_has_its_lane() {
        const LANES: u8 = 16;
        let first = udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 1).unwrap();
        let at = first[0].local_addr().unwrap();
        drop(first);
        let sockets = udp(at, LANES).unwrap();
        for last in 2..40 {
            let sender = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
            sender.send_to(&[last], at).unwrap();
            let mut buffer = [0; 8];
            for (n, socket) in sockets.iter().enumerate() {
                let received = socket.recv_from(&mut buffer);
                assert_eq!(received.is_ok(), n == usize::from(last % LANES), "{last} on {n}");
            }
        }
    }

    #[test]
    fn an_address_that_is_not_there_yet_can_be_listened_on() {
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let (sockets, listener) = (udp(address, 2).unwrap(), tcp(address).unwrap());
            assert_eq!(sockets[0].local_addr().unwrap().ip(), address.ip());
            assert_eq!(listener.local_addr().unwrap().ip(), address.ip());
        }
    }

    #[test]
    fn connections_are_taken_and_a_second_listener_is_refused() {
        let listener = tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let at = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap();
        listener.set_nonblocking(false).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(tcp(at).unwrap_err().errno(), Some(libc::EADDRINUSE));
    }
}
