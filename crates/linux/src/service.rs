//! Sockets of a service that listens on one address: the address may come and go while they stand (IP_FREEBIND), and who sends much fills a
//! queue that few others share, strangers one that nobody else does.
//!
//! Structures and constants: include/uapi/linux/filter.h, in.h, in6.h; ip(7), socket(7).

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use ipnet::IpNet;

use crate::syscall::syscall;
use crate::udp::RawAddress;
use crate::{Error, Result};

/// Connections that wait to be taken.
const BACKLOG: libc::c_int = 64;

/// Instructions of the classic BPF machine.
const LOAD_BYTE: u16 = 0x30; // A = packet[k]
const LOAD_WORD: u16 = 0x20; // A = packet[k..k + 4]
const AND: u16 = 0x54; // A &= k
const MODULO: u16 = 0x94; // A %= k
const EQUAL: u16 = 0x15; // skip jt instructions if A == k, else jf
const RETURN: u16 = 0x06; // answer k
const RETURN_A: u16 = 0x16; // answer A

/// `SKF_NET_OFF`, -0x100000: from here on, k counts from the network header.
const NETWORK_HEADER: u32 = 0xfff0_0000;

/// Where the source is in the header of IPv4 and IPv6.
const SOURCE: [u32; 2] = [12, 8];

/// As many prefixes of members are told apart.
const MOST_MEMBERS: usize = 64;

/// Non-blocking UDP sockets that share `address`, each with a queue of its own: what comes from an address of `members` goes to the one whose number,
/// from 0, is the last byte of that address modulo `lanes`, and what comes from elsewhere to the last one, behind these. Of more than 64 prefixes of
/// members the others are elsewhere.
///
/// # Errors
/// EADDRINUSE: somebody else listens there; EACCES: a port below 1024 without the right to it; EAFNOSUPPORT: no IPv6 here.
pub fn udp(address: SocketAddr, lanes: u8, members: &[IpNet]) -> Result<Vec<UdpSocket>> {
    let failed = |e| Error::new(format!("listen on UDP {address}"), e);
    let lanes = lanes.clamp(1, u8::MAX - 1);
    let mut sockets = Vec::new();
    for _ in 0..=lanes {
        let fd = open(address, libc::SOCK_DGRAM)?;
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(failed)?;
        bind(&fd, address).map_err(failed)?;
        if sockets.is_empty() {
            steer(&fd, program(address.is_ipv6(), lanes, members)).map_err(failed)?;
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
fn steer(fd: &OwnedFd, mut filters: Vec<libc::sock_filter>) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_mut_ptr() };
    let size = size_of_val(&program) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // The program points to the instructions above, which outlive the call; the kernel copies and checks them.
    syscall!(setsockopt(fd.as_raw_fd(), level, name, (&raw const program).cast(), size)).map(drop)
}

/// The number of the socket for a datagram: see [`udp`].
fn program(six: bool, lanes: u8, members: &[IpNet]) -> Vec<libc::sock_filter> {
    let op = |code: u16, k: u32| libc::sock_filter { code, jt: 0, jf: 0, k };
    let [four_at, six_at] = SOURCE;
    let at = NETWORK_HEADER + if six { six_at } else { four_at };
    let words: u32 = if six { 4 } else { 1 };
    let lane = [op(LOAD_BYTE, at + 4 * words - 1), op(MODULO, lanes.into()), op(RETURN_A, 0)];
    let mut filters = Vec::new();
    for member in members.iter().filter(|member| member.addr().is_ipv6() == six).take(MOST_MEMBERS) {
        let (prefix, mask) = (number(member.network()), number(member.netmask()));
        let compared = (0..words).filter(|word| part(mask, *word, words) != 0).collect::<Vec<_>>();
        for (n, word) in compared.iter().enumerate() {
            // Over what compares the words that are left, and what answers the lane.
            let over = 3 * (compared.len() - n - 1) + lane.len();
            filters.extend([op(LOAD_WORD, at + 4 * word), op(AND, part(mask, *word, words))]);
            let k = part(prefix, *word, words);
            filters.push(libc::sock_filter { code: EQUAL, jt: 0, jf: over as u8, k });
        }
        filters.extend(lane);
    }
    filters.push(op(RETURN, lanes.into()));
    filters
}

/// An address as a number.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// One of so many words of such a number, from the first on.
fn part(of: u128, word: u32, words: u32) -> u32 {
    (of >> (32 * (words - 1 - word))) as u32
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    /// The number of the socket that gets what `from` sends, of those with this program.
    fn lane(from: IpAddr, lanes: u8, members: &[&str]) -> usize {
        let members: Vec<IpNet> = members.iter().map(|text| text.parse().unwrap()).collect();
        let local: IpAddr = if from.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        let first = UdpSocket::bind((local, 0)).unwrap();
        let at = first.local_addr().unwrap();
        drop(first);
        let sockets = udp(at, lanes, &members).unwrap();
        assert_eq!(sockets.len(), usize::from(lanes) + 1);
        let sender = UdpSocket::bind((from, 0)).unwrap();
        sender.send_to(&[1], at).unwrap();
        let received: Vec<bool> = sockets.iter().map(|socket| socket.recv_from(&mut [0; 8]).is_ok()).collect();
        assert_eq!(received.iter().filter(|received| **received).count(), 1);
        received.iter().position(|received| *received).unwrap()
    }

    #[test]
    fn each_member_has_a_lane_and_strangers_have_the_last() {
        for last in [2, 3, 15, 16, 17, 63] {
            let from = IpAddr::from([127, 0, 0, last]);
            assert_eq!(
                lane(from, 16, &["10.42.0.0/16", "127.0.0.0/26", "fd42::/48"]),
                usize::from(last % 16),
                "{last}"
            );
            assert_eq!(lane(from, 5, &["127.0.0.0/8", "127.0.0.0/26"]), usize::from(last % 5), "{last}");
        }
        for from in [[127, 0, 0, 64], [127, 1, 0, 2]] {
            assert_eq!(lane(from.into(), 16, &["127.0.0.0/26", "10.42.0.0/16"]), 16);
        }
        assert_eq!(lane([127, 0, 0, 2].into(), 16, &[]), 16);
        assert_eq!(lane([127, 0, 0, 2].into(), 16, &["0.0.0.0/0"]), 2);
    }

    #[test]
    fn prefixes_of_ipv6_are_compared_to_their_length() {
        let from = IpAddr::from(Ipv6Addr::LOCALHOST);
        for (member, expected) in [
            ("::1/128", 1),
            ("::/127", 1),
            ("::/96", 1),
            ("::/64", 1),
            ("::/48", 1),
            ("::/0", 1),
            ("::2/128", 7),
            ("::1:0:0/96", 7),
            ("0:0:0:1::/64", 7),
            ("1::/16", 7),
            ("0.0.0.0/0", 7),
        ] {
            assert_eq!(lane(from, 7, &[member]), expected, "{member}");
            assert_eq!(lane(from, 7, &["fd42::/48", member]), expected, "{member}");
        }
        let many: Vec<String> = (0..200).map(|n| format!("fd{n:02x}::/126")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["::1/128"]).collect();
        assert_eq!(lane(from, 7, &many), 7, "too many, and none of the first");
    }

    #[test]
    fn an_address_that_is_not_there_yet_can_be_listened_on() {
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let (sockets, listener) = (udp(address, 2, &[]).unwrap(), tcp(address).unwrap());
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
