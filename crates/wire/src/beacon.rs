//! A frame by which nodes find out that they hear each other without the tunnel: that the bridges behind their devices are one segment already.
//!
//! ```text
//! destination 6 | source 6 | 0x88b5 | "adit" | version 1 | zero 3 | node 16 | nonce 16
//! ```
//!
//! A node gives it to its device, whose bridge floods it. No node carries it to another: where one reads it from its own device, there is a way
//! beside the tunnel. 0x88b5 is the EtherType for local experiments (IEEE Std 802, clause 9.2.3).

use crate::ethernet::{self, EthernetHeader, MacAddress};
use crate::frame::Frame;

/// The group that beacons are sent to, of locally administered addresses. Bridges flood it as they do any group that they know nothing of.
pub const GROUP: MacAddress = MacAddress([0x03, b'a', b'd', b'i', b't', 0]);

/// The EtherType.
pub const ETHERTYPE: u16 = 0x88b5;

/// Bytes of the frame.
pub const LEN: usize = ethernet::HEADER_LEN + 40;

const HEAD: [u8; 8] = *b"adit\x01\0\0\0";

/// Who sent it, and a number that nobody else knows who has not heard it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Beacon {
    /// What its sender is known by.
    pub node: [u8; 16],
    /// Another one in each beacon.
    pub nonce: [u8; 16],
}

impl Beacon {
    /// Whether a frame is one, well-formed or not.
    #[inline]
    #[must_use]
    pub fn is_one(frame: &Frame<'_>) -> bool {
        frame.destination() == GROUP && frame.ethertype() == ETHERTYPE
    }

    /// Reads the beacon in a frame; `None` if it is none, or of another version.
    #[must_use]
    pub fn parse(frame: &Frame<'_>) -> Option<Self> {
        let body = frame.payload().strip_prefix(&HEAD).filter(|_| Self::is_one(frame))?;
        let (node, rest) = body.split_first_chunk()?;
        Some(Self { node: *node, nonce: *rest.first_chunk()? })
    }

    /// The frame, from `source`.
    #[must_use]
    pub fn emit(&self, source: MacAddress) -> [u8; LEN] {
        let mut frame = [0; LEN];
        // LEN has room for the header.
        let _ = EthernetHeader { destination: GROUP, source, ethertype: ETHERTYPE }.emit(&mut frame);
        frame[14..22].copy_from_slice(&HEAD);
        frame[22..38].copy_from_slice(&self.node);
        frame[38..].copy_from_slice(&self.nonce);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beacon_is_read_back_and_nothing_else_is_one() {
        let beacon = Beacon { node: [7; 16], nonce: [9; 16] };
        let bytes = beacon.emit(MacAddress([2, 0, 0, 0, 0, 1]));
        assert_eq!(bytes[..22], *b"\x03adit\0\x02\0\0\0\0\x01\x88\xb5adit\x01\0\0\0");
        assert_eq!(Beacon::parse(&Frame::parse(&bytes).unwrap()), Some(beacon));
        let padded = [&bytes[..], &[0; 6]].concat();
        assert_eq!(Beacon::parse(&Frame::parse(&padded).unwrap()), Some(beacon));
        for at in (0..6).chain(12..22) {
            let mut other = bytes;
            other[at] ^= 0x20;
            assert_eq!(Beacon::parse(&Frame::parse(&other).unwrap()), None, "byte {at}");
        }
        for length in 14..LEN {
            assert_eq!(Beacon::parse(&Frame::parse(&bytes[..length]).unwrap()), None);
        }
        assert!(GROUP.is_group());
    }
}
