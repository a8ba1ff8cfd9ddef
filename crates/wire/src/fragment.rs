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
