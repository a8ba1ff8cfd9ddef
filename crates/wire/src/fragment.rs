//! IPv4 fragmentation (RFC 791, section 3.2): a packet too large for the link becomes several that fit.
//!
//! No byte of payload is copied: a fragment is a header built here and a slice of the original.

use std::fmt;

use crate::checksum::Sum;
use crate::ip::{IpPacket, V4_HEADER_LEN, V4_MORE_FRAGMENTS, V4_OFFSET, Version};

/// Bytes of the longest IPv4 header.
const MAX_HEADER_LEN: usize = 60;
/// Fragment offsets count in units of this many bytes.
const UNIT: usize = 8;
/// The first bit of an option's type: it belongs into every fragment.
const COPIED: u8 = 0x80;

/// Why a packet cannot be fragmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFragmentable {
    /// IPv6 is fragmented by its sender only (RFC 8200, section 5).
    Version6,
    /// DF is set.
    DontFragment,
    /// The MTU leaves no room for 8 bytes of payload.
    Mtu,
    /// The pieces would lie beyond the largest offset.
    Offset,
}

impl fmt::Display for NotFragmentable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version6 => "IPv6 packets are fragmented by their sender only",
            Self::DontFragment => "the packet forbids fragmentation",
            Self::Mtu => "the MTU is smaller than a header and 8 bytes",
            Self::Offset => "the fragments would reach beyond the largest packet",
        })
    }
}

impl std::error::Error for NotFragmentable {}

/// Splits `packet` into fragments of at most `mtu` bytes and calls `sink` for each with its header and its payload, in
/// order. A packet that fits comes out as it is; a fragment is fragmented further. Returns how many there were.
///
/// A partial checksum (`NEEDS_CSUM`) must have been completed before.
///
/// # Errors
/// Before the first call of `sink`, if the packet cannot be fragmented.
pub fn fragment_v4(
    packet: &IpPacket<'_>,
    mtu: usize,
    sink: &mut impl FnMut(&[u8], &[u8]),
) -> Result<usize, NotFragmentable> {
    let (headers, payload) = (packet.headers(), packet.payload());
    if packet.bytes().len() <= mtu {
        sink(headers, payload);
        return Ok(1);
    }
    let fixed = match headers.first_chunk::<V4_HEADER_LEN>() {
        Some(fixed) if packet.version() == Version::V4 => fixed,
        _ => return Err(NotFragmentable::Version6),
    };
    if packet.dont_fragment() {
        return Err(NotFragmentable::DontFragment);
    }
    if mtu < headers.len() + UNIT {
        return Err(NotFragmentable::Mtu);
    }
    let word = packet.v4_fragment_word();
    let start = usize::from(word & V4_OFFSET) * UNIT;
    if start + payload.len() > usize::from(V4_OFFSET) * UNIT + UNIT {
        return Err(NotFragmentable::Offset);
    }

    let mut header = [0; MAX_HEADER_LEN];
    header[..headers.len()].copy_from_slice(headers);
    let mut header_len = headers.len();
    let (mut done, mut count) = (0, 0);
    while done < payload.len() {
        // At least a unit: the first header is the longest, and it left room.
        let room = mtu - header_len;
        let rest = &payload[done..];
        let is_last = rest.len() <= room;
        let piece = if is_last { rest } else { &rest[..room / UNIT * UNIT] };
        // Later fragments of a fragment that was not the last have more behind them.
        let more = if is_last { word & V4_MORE_FRAGMENTS } else { V4_MORE_FRAGMENTS };
        let flags = word & !(V4_OFFSET | V4_MORE_FRAGMENTS) | more;
        finish_header(&mut header[..header_len], piece.len(), flags | ((start + done) / UNIT) as u16);
        sink(&header[..header_len], piece);
        done += piece.len();
        count += 1;
        if count == 1 {
            header_len = later_header(fixed, &headers[V4_HEADER_LEN..], &mut header);
        }
    }
    Ok(count)
}

fn finish_header(header: &mut [u8], payload_len: usize, fragment_word: u16) {
    // Lossless: a piece is shorter than the packet it comes from.
    let total = (header.len() + payload_len) as u16;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&fragment_word.to_be_bytes());
    header[10..12].fill(0);
    let checksum = Sum::default().add(header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Builds the header of all fragments but the first: the fixed part, and the options that say they belong into every
/// fragment, padded with end-of-list. Returns its length. A malformed option ends the list.
fn later_header(fixed: &[u8; V4_HEADER_LEN], options: &[u8], header: &mut [u8; MAX_HEADER_LEN]) -> usize {
    header.fill(0);
    header[..V4_HEADER_LEN].copy_from_slice(fixed);
    let mut length = V4_HEADER_LEN;
    let mut rest = options;
    // Types 0 and 1, end of list and no operation, are a single byte.
    while let Some((&kind, after)) = rest.split_first().filter(|(kind, _)| **kind != 0) {
        let size = if kind == 1 { 1 } else { after.first().map_or(0, |size| usize::from(*size)) };
        let Some((option, after)) = rest.split_at_checked(size).filter(|_| kind == 1 || size >= 2) else { break };
        if kind & COPIED != 0 {
            header[length..length + size].copy_from_slice(option);
            length += size;
        }
        rest = after;
    }
    length = length.next_multiple_of(4);
    header[0] = 0x40 | (length / 4) as u8;
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of 68 bytes: options no-operation, record route (not copied), loose source route (copied).
    fn packet(fragment_word: u16) -> Vec<u8> {
        let mut bytes = vec![0x48, 0xb9, 0, 68, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes[6..8].copy_from_slice(&fragment_word.to_be_bytes());
        bytes.extend([1, 7, 3, 4, 131, 3, 4, 0, 0, 0, 0, 0]);
        bytes.extend(0..36);
        bytes
    }

    fn fragments(bytes: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, NotFragmentable> {
        let mut fragments = Vec::new();
        let packet = IpPacket::parse(bytes).unwrap();
        let count = fragment_v4(&packet, mtu, &mut |header, piece| fragments.push([header, piece].concat()))?;
        assert_eq!(count, fragments.len());
        Ok(fragments)
    }

    #[test]
    fn literal_fragments() {
        let all = fragments(&packet(0), 48).unwrap();
        // 16 bytes behind the whole header of 32, then 20 behind one of 24 with the copied option.
        let lengths: Vec<_> = all.iter().map(Vec::len).collect();
        assert_eq!(lengths, [48, 44]);
        for fragment in &all {
            let view = IpPacket::parse(fragment).unwrap();
            assert!(view.header_checksum_ok());
            assert_eq!((view.v4_id(), view.traffic_class(), view.ttl()), (0x1234, 0xb9, 64));
        }
        assert_eq!((all[0][0], &all[0][6..8]), (0x48, &[0x20, 0][..]));
        assert_eq!(all[0][20..], packet(0)[20..48]);
        assert_eq!((all[1][0], &all[1][6..8]), (0x46, &[0, 2][..]));
        assert_eq!(all[1][20..24], [131, 3, 4, 0]);
        assert_eq!(all[1][24..], packet(0)[48..]);
    }

    #[test]
    fn a_fragment_keeps_its_place() {
        let all = fragments(&packet(0x2000 | 100), 48).unwrap();
        assert_eq!(all[0][6..8], (0x2000u16 | 100).to_be_bytes());
        assert_eq!(all[1][6..8], (0x2000u16 | 102).to_be_bytes());
        let all = fragments(&packet(100), 48).unwrap();
        assert_eq!(all[1][6..8], 102u16.to_be_bytes());
    }

    #[test]
    fn what_fits_stays_whole() {
        assert_eq!(fragments(&packet(V4_OFFSET), 68).unwrap(), [packet(V4_OFFSET)]);
        assert_eq!(fragments(&packet(0x4000), 1500).unwrap(), [packet(0x4000)]);
    }

    #[test]
    fn refusals() {
        assert_eq!(fragments(&packet(0x4000), 67), Err(NotFragmentable::DontFragment));
        assert_eq!(fragments(&packet(0), 39), Err(NotFragmentable::Mtu));
        assert!(fragments(&packet(0), 40).is_ok());
        assert_eq!(fragments(&packet(V4_OFFSET), 48), Err(NotFragmentable::Offset));
        let mut v6 = vec![0; 60];
        (v6[0], v6[5], v6[6]) = (0x60, 20, 17);
        assert_eq!(fragments(&v6, 59), Err(NotFragmentable::Version6));
    }

    #[test]
    fn malformed_options_end_the_list() {
        for option in [[131, 0], [131, 1], [131, 200]] {
            let mut bytes = packet(0);
            bytes[20..22].copy_from_slice(&option);
            assert_eq!(fragments(&bytes, 48).unwrap()[1][0], 0x45);
        }
    }
}
