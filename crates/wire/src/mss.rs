//! The maximum segment size of a TCP connection, lowered where a tunnel is narrower than its ends know.
//!
//! Each end says in its SYN how large a segment it takes (RFC 9293, section 3.7.1). A node that lowers the option on the way
//! spares the connection the path-MTU messages that firewalls like to drop.

use crate::checksum;
use crate::ip::{Fragment, IpPacket, V4_HEADER_LEN, V6_HEADER_LEN, Version, protocol};
use crate::tcp::{self, TcpOption, TcpSegment, flags};

/// What the checksum field of a packet holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// The checksum, which is kept right.
    Complete,
    /// The sum of the pseudo-header, which covers no options.
    Partial,
}

/// Lowers the option of a TCP SYN to what fits a packet of `mtu` bytes, and answers whether it did. The option counts the
/// fixed headers only: 40 bytes over IPv4, 60 over IPv6 (RFC 6691, section 2). Nothing happens to other packets and
/// fragments, to a SYN without the option, and where not even the headers fit.
#[inline]
pub fn clamp_mss(packet: &mut [u8], mtu: usize, checksum: Checksum) -> bool {
    may_be_syn(packet) && clamp(packet, mtu, checksum)
}

/// Sorts out by a few bytes what is no SYN; IPv6 with extension headers may be one.
#[inline]
fn may_be_syn(packet: &[u8]) -> bool {
    let flags_at = match packet {
        [first, _, _, _, _, _, _, _, _, protocol::TCP, ..] if first >> 4 == 4 => usize::from(first & 0x0f) * 4 + 13,
        [first, _, _, _, _, _, next, ..] if first >> 4 == 6 => match *next {
            protocol::TCP => V6_HEADER_LEN + 13,
            next => return !matches!(next, protocol::UDP | protocol::ICMPV6),
        },
        _ => return false,
    };
    packet.get(flags_at).is_some_and(|flags| flags & flags::SYN != 0)
}

#[cold]
fn clamp(packet: &mut [u8], mtu: usize, checksum: Checksum) -> bool {
    let mut changed = false;
    // One option is usual; of several, each is lowered in a turn of its own.
    while let Some((start, at, old, new)) = find(packet, mtu) {
        if !replace(packet, start, at, old, new, checksum) {
            break;
        }
        changed = true;
    }
    changed
}

/// The first size in the options of a SYN that is too large for `mtu`: where the TCP header starts, where the size lies in it,
/// what it is, and what fits.
fn find(packet: &[u8], mtu: usize) -> Option<(usize, usize, u16, u16)> {
    let ip = IpPacket::parse(packet).ok()?;
    if ip.fragment() != Fragment::None || ip.protocol() != protocol::TCP {
        return None;
    }
    let segment = TcpSegment::parse(ip.payload()).ok()?;
    if segment.flags() & flags::SYN == 0 {
        return None;
    }
    let headers = tcp::HEADER_LEN + if ip.version() == Version::V4 { V4_HEADER_LEN } else { V6_HEADER_LEN };
    let fits = mtu.checked_sub(headers).filter(|fits| *fits > 0)?;
    let fits = u16::try_from(fits).unwrap_or(u16::MAX);
    let mut options = segment.options();
    while let Some(option) = options.next() {
        if let TcpOption::MaximumSegmentSize(size) = option
            && size > fits
        {
            // The size is the end of the option.
            let at = segment.header().len() - options.rest().len() - 2;
            return Some((ip.header_len(), at, size, fits));
        }
    }
    None
}

fn replace(packet: &mut [u8], start: usize, at: usize, old: u16, new: u16, checksum: Checksum) -> bool {
    let Some(header) = packet.get_mut(start..) else { return false };
    let Some(size) = header.get_mut(at..at + 2) else { return false };
    size.copy_from_slice(&new.to_be_bytes());
    if checksum == Checksum::Complete {
        let Some(field) = header.get_mut(tcp::CHECKSUM_AT..).and_then(<[u8]>::first_chunk_mut) else { return false };
        // At an odd place each byte lies in the other half of a word (RFC 1071, section 2 (B)).
        let (old, new) = if at.is_multiple_of(2) { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
        *field = checksum::update(u16::from_be_bytes(*field), old, new).to_be_bytes();
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::ip::IpHeader;
    use crate::tcp::TcpHeader;

    /// A TCP packet; `extension` puts destination options of 8 bytes before it, in IPv6.
    fn packet(v6: bool, extension: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let address = |last: u8| if v6 { IpAddr::from([last; 16]) } else { IpAddr::from([10, 0, 0, last]) };
        let ip = IpHeader::new(address(1), address(2), protocol::TCP);
        let tcp = TcpHeader { source_port: 40_000, destination_port: 443, flags, options, ..TcpHeader::default() };
        let mut upper = vec![0; tcp.header_len() + payload.len()];
        tcp.emit(ip.pseudo_header(), payload, &mut upper).unwrap();
        let (protocol, between) = match v6 && extension {
            true => (protocol::DESTINATION_OPTIONS, &[protocol::TCP, 0, 1, 4, 0, 0, 0, 0][..]),
            false => (protocol::TCP, &[][..]),
        };
        let mut bytes = vec![0; ip.header_len()];
        IpHeader { protocol, ..ip }.emit(between.len() + upper.len(), &mut bytes).unwrap();
        bytes.extend(between);
        bytes.extend(upper);
        bytes
    }

    fn mss(bytes: &[u8]) -> Option<u16> {
        TcpSegment::parse(IpPacket::parse(bytes).unwrap().payload()).unwrap().mss()
    }

    #[test]
    fn a_syn_is_lowered_to_what_fits() {
        for (v6, extension, fits) in [(false, false, 1380), (true, false, 1360), (true, true, 1360)] {
            let before = packet(v6, extension, flags::SYN, &[2, 4, 0x05, 0xb4], &[]);
            let mut bytes = before.clone();
            assert!(clamp_mss(&mut bytes, 1420, Checksum::Complete));
            assert_eq!(mss(&bytes), Some(fits));
            assert_eq!(bytes, packet(v6, extension, flags::SYN, &[2, 4, (fits >> 8) as u8, fits as u8], &[]));
            assert!(!clamp_mss(&mut bytes, 1420, Checksum::Complete), "once is enough");
            assert!(!clamp_mss(&mut bytes, 1500, Checksum::Complete), "never raised");
            let mut partial = before.clone();
            assert!(clamp_mss(&mut partial, 1420, Checksum::Partial));
            let field = IpPacket::parse(&before).unwrap().header_len() + 16;
            bytes[field..field + 2].copy_from_slice(&before[field..field + 2]);
            assert_eq!(partial, bytes);
        }
    }

    #[test]
    fn every_option_is_lowered_and_no_mtu_makes_it_zero() {
        let mut bytes = packet(false, false, flags::SYN | flags::ACK, &[2, 4, 255, 255, 1, 2, 4, 0, 200], &[]);
        assert!(clamp_mss(&mut bytes, 140, Checksum::Complete));
        assert_eq!(bytes, packet(false, false, flags::SYN | flags::ACK, &[2, 4, 0, 100, 1, 2, 4, 0, 100], &[]));
        for mtu in [0, 39, 40] {
            assert!(!clamp_mss(&mut bytes, mtu, Checksum::Complete));
        }
        assert!(clamp_mss(&mut bytes, 41, Checksum::Complete));
        assert!(!clamp_mss(&mut bytes, usize::MAX, Checksum::Complete));
    }

    #[test]
    fn nothing_else_is_touched() {
        let option = [2, 4, 0x05, 0xb4];
        let mut fragment = packet(false, false, flags::SYN, &option, &[]);
        fragment[6] = 0x20;
        let mut udp = packet(false, false, flags::SYN, &option, &[]);
        udp[9] = protocol::UDP;
        let mut cut = packet(false, false, flags::SYN, &option, &[]);
        cut.truncate(30);
        for mut bytes in [
            packet(false, false, flags::ACK, &option, b"data"),
            packet(true, true, flags::ACK, &option, b"data"),
            packet(true, false, flags::SYN, &[], &[]),
            packet(false, false, flags::SYN, &[2, 3, 5, 0, 8, 3, 2, 4], &[]),
            packet(false, false, flags::SYN, &[0, 2, 4, 5, 0xb4], &[]),
            fragment,
            udp,
            cut,
            vec![],
            vec![0x45],
        ] {
            let before = bytes.clone();
            assert!(!clamp_mss(&mut bytes, 1000, Checksum::Complete), "{before:02x?}");
            assert_eq!(bytes, before);
        }
    }

    proptest! {
        #[test]
        fn the_checksum_is_that_of_a_new_packet(
            (v6, extension) in any::<(bool, bool)>(),
            padding in 0..5usize,
            old in any::<u16>(),
            mtu in 0..70_000usize,
            payload in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let options = |size: u16| {
                let mut options = vec![1; padding];
                options.extend([2, 4]);
                options.extend(size.to_be_bytes());
                options.extend([3, 3, 7]);
                options
            };
            let mut bytes = packet(v6, extension, flags::SYN, &options(old), &payload);
            let changed = clamp_mss(&mut bytes, mtu, Checksum::Complete);
            let fits = mtu.saturating_sub(if v6 { 60 } else { 40 });
            let new = if fits == 0 { old } else { usize::from(old).min(fits) as u16 };
            prop_assert_eq!(changed, new != old);
            prop_assert_eq!(bytes, packet(v6, extension, flags::SYN, &options(new), &payload));
        }

        #[test]
        fn any_bytes_stay_as_they_are_but_for_size_and_checksum(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120),
            first in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
            (next, syn) in (prop::sample::select(vec![0u8, 6, 60]), any::<bool>()),
            mtu in 0..2000usize,
        ) {
            if bytes.len() >= 60 {
                let length = bytes.len() as u8;
                bytes[0] = first;
                (bytes[2], bytes[3]) = (0, length);
                if first == 0x60 {
                    (bytes[4], bytes[5], bytes[6]) = (0, length - 40, next);
                } else {
                    (bytes[6], bytes[7], bytes[9]) = (0, 0, protocol::TCP);
                    bytes[33] |= u8::from(syn) << 1;
                }
            }
            let before = bytes.clone();
            let changed = clamp_mss(&mut bytes, mtu, Checksum::Complete);
            prop_assert_eq!(changed, bytes != before);
            prop_assert!(bytes.iter().zip(&before).filter(|(a, b)| a != b).count() <= 2 + 20);
        }
    }
}
