//! Receiving: many datagrams per system call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use wire::ecn::Ecn;

use super::Socket;
use super::address::{LocalAddress, RawAddress};
use crate::syscall::syscall;

/// Receives in one system call at most. Datagrams that a sender without segmentation offload sends, and that no card joins,
/// arrive one per receive, so this is also the number of small datagrams per call.
pub const BATCH: usize = 32;

/// Bytes of one receive: the longest UDP payload, and so the longest run that the kernel joins.
const RECEIVE: usize = 65_536;

/// Room for the control messages that our sockets ask for: packet info (IPv6, the larger), TOS or traffic class, GRO size.
/// CMSG_SPACE of 20, 4 and 4 bytes is 40 + 24 + 24.
const CONTROL: usize = 128;

#[repr(align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Buffers for one `recvmmsg`. Its memory is touched only as far as traffic needs it.
pub struct ReceiveBatch {
    payload: Vec<u8>,
    addresses: Vec<RawAddress>,
    controls: Vec<Control>,
    received: Vec<Received>,
    size: usize,
}

/// What one receive brought: one or more datagrams of one sender.
pub struct Datagrams<'a> {
    /// Who sent them.
    pub source: SocketAddr,
    /// Where they came to; absent if the kernel did not say.
    pub local: Option<LocalAddress>,
    /// The ECN bits of the outer IP header.
    pub ecn: Ecn,
    /// Bytes of each datagram; only the last one may be shorter.
    pub stride: usize,
    /// The datagrams, one after the other.
    pub bytes: &'a mut [u8],
}

impl Datagrams<'_> {
    /// How many there are: one at least, which may be empty.
    #[inline]
    pub fn count(&self) -> usize {
        // Most are alone, and need no division.
        if self.bytes.len() <= self.stride { 1 } else { self.bytes.len().div_ceil(self.stride.max(1)) }
    }
}

#[derive(Clone, Copy)]
struct Received {
    length: usize,
    control: usize,
}

impl ReceiveBatch {
    /// Buffers for up to `size` receives per call (at most [`BATCH`], at least 1).
    pub fn new(size: usize) -> Self {
        let size = size.clamp(1, BATCH);
        Self {
            // Zero pages straight from the kernel: not resident until a datagram is written there.
            payload: vec![0; size * RECEIVE],
            addresses: vec![RawAddress::EMPTY; size],
            controls: vec![Control([0; CONTROL]); size],
            received: Vec::with_capacity(size),
            size,
        }
    }

    /// Receives what is there, at most `limit` times (at least once); answers the number of receives.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there.
    pub fn receive(&mut self, socket: &Socket, limit: usize) -> io::Result<usize> {
        self.received.clear();
        let limit = limit.clamp(1, self.size);
        // SAFETY: iovec and mmsghdr are plain integers and pointers, for which all zeros is a valid value.
        let (mut parts, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { std::mem::zeroed() };
        let receives = self.payload.chunks_exact_mut(RECEIVE).zip(&mut self.addresses).zip(&mut self.controls);
        let prepared = receives.zip(parts.iter_mut().zip(&mut messages)).take(limit);
        for (((payload, address), control), (part, message)) in prepared {
            *part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = address.as_mut_ptr().cast();
            header.msg_namelen = address.capacity();
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
        }
        let count = if limit == 1 {
            let Some(only) = messages.first_mut() else { return Ok(0) };
            // The message points to one payload, address and control buffer of `self`, which outlive the call.
            let length = syscall!(recvmsg(socket.fd.as_raw_fd(), &raw mut only.msg_hdr, 0))?;
            only.msg_len = length as libc::c_uint;
            1
        } else {
            let limit = limit as libc::c_uint;
            // `limit` messages were prepared above, each of which points to buffers of its own in `self`.
            syscall!(recvmmsg(socket.fd.as_raw_fd(), messages.as_mut_ptr(), limit, 0, std::ptr::null_mut()))? as usize
        };
        self.received.extend(messages.iter().take(count).map(|message| Received {
            length: (message.msg_len as usize).min(RECEIVE),
            control: message.msg_hdr.msg_controllen.min(CONTROL),
        }));
        Ok(count)
    }

    /// What the last [`receive`](Self::receive) brought, in order of arrival. Receives without a usable source address are
    /// left out (there are none on the sockets of this module).
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagrams<'_>> {
        let receives = self.payload.chunks_exact_mut(RECEIVE).zip(&self.addresses).zip(&self.controls);
        receives.zip(&self.received).filter_map(|(((payload, address), control), received)| {
            let bytes = payload.get_mut(..received.length)?;
            let facts = Facts::read(control.0.get(..received.control)?);
            let stride = if facts.stride == 0 { bytes.len() } else { facts.stride };
            Some(Datagrams { source: address.decode()?, local: facts.local, ecn: facts.ecn, stride, bytes })
        })
    }
}

/// What the control messages of a receive say.
struct Facts {
    local: Option<LocalAddress>,
    ecn: Ecn,
    stride: usize,
}

impl Facts {
    fn read(control: &[u8]) -> Self {
        let mut facts = Self { local: None, ecn: Ecn::NotEct, stride: 0 };
        for (level, kind, data) in ControlMessages(control) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    facts.ecn = Ecn::from_bits(data.first().copied().unwrap_or(0));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    facts.ecn =
                        Ecn::from_bits(integer(data).to_ne_bytes()[if cfg!(target_endian = "big") { 3 } else { 0 }]);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => facts.stride = usize::try_from(integer(data)).unwrap_or(0),
                // struct in_pktinfo: device, local address to answer from, destination address of the header (which may be a
                // broadcast address)
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    if let Some(ip) = data.get(4..8).and_then(|b| <[u8; 4]>::try_from(b).ok()) {
                        facts.local = Some(LocalAddress { ip: Ipv4Addr::from(ip).into(), device: device(data) });
                    }
                }
                // struct in6_pktinfo: address, device. IPv4 addresses come mapped.
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    if let Some(ip) = data.get(..16).and_then(|b| <[u8; 16]>::try_from(b).ok()) {
                        let ip = IpAddr::V6(Ipv6Addr::from(ip)).to_canonical();
                        let device = device(data.get(16..).unwrap_or_default());
                        // Nothing can be sent from a group.
                        facts.local = (!ip.is_multicast()).then_some(LocalAddress { ip, device });
                    }
                }
                _ => {}
            }
        }
        facts
    }
}

fn integer(data: &[u8]) -> i32 {
    data.get(..4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map_or(0, i32::from_ne_bytes)
}

fn device(data: &[u8]) -> u32 {
    u32::try_from(integer(data)).unwrap_or(0)
}

/// Walks over `struct cmsghdr` records (cmsg(3)): length (usize), level, type (int), data, padding to a usize.
struct ControlMessages<'a>(&'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 8;
        let length = usize::from_ne_bytes(self.0.get(..WORD)?.try_into().ok()?);
        let level = integer(self.0.get(WORD..)?);
        let kind = integer(self.0.get(WORD + 4..)?);
        let data = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        Some((level, kind, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let length = size_of::<usize>() + 8 + data.len();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    #[test]
    fn control_messages_are_read_in_any_order() {
        let mut control = message(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes());
        control.extend(message(libc::IPPROTO_IP, libc::IP_TOS, &[3]));
        let mut info = 4i32.to_ne_bytes().to_vec();
        info.extend([192, 0, 2, 1, 192, 0, 2, 9]);
        control.extend(message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info));
        let facts = Facts::read(&control);
        assert_eq!(facts.stride, 1472);
        assert_eq!(facts.ecn, Ecn::Ce);
        assert_eq!(facts.local, Some(LocalAddress { ip: "192.0.2.1".parse().unwrap(), device: 4 }));
    }

    #[test]
    fn damaged_control_messages_end_the_walk() {
        let good = message(libc::SOL_UDP, libc::UDP_GRO, &1472i32.to_ne_bytes());
        for cut in 0..good.len() {
            let _ = Facts::read(&good[..cut]);
        }
        let mut long = good.clone();
        long[..size_of::<usize>()].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(Facts::read(&long).stride, 0);
        let mut short = good;
        short[..size_of::<usize>()].copy_from_slice(&0usize.to_ne_bytes());
        assert_eq!(Facts::read(&short).stride, 0);
    }
}
