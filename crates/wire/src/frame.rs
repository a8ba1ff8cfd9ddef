//! A frame as a switch sees it: two addresses, a header whose length is known, and whatever is inside.
//!
//! Unlike [`crate::ethernet::EthernetFrame`] this takes every frame that a device delivers, IEEE 802.3 with its length field and unknown
//! protocols included: a switch carries them as they are. Of IP packets behind at most two VLAN tags (IEEE 802.1Q, 802.1ad) it knows what is needed
//! to split and to join them.

use crate::Malformed;
use crate::ethernet::{HEADER_LEN, MacAddress, TAG_LEN, ethertype};
use crate::ip::{IpPacket, Version};

/// Tags behind which a packet is looked for.
const MAX_TAGS: usize = 2;

/// Bytes of the longest header that a packet is looked for behind.
pub const MAX_LINK: usize = HEADER_LEN + MAX_TAGS * TAG_LEN;

/// Bytes of the longest frame with an IP packet in it.
pub const MAX_LEN: usize = MAX_LINK + crate::ip::MAX_LEN;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    addresses: &'a [u8; 12],
    link_len: usize,
    ethertype: u16,
}

impl<'a> Frame<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] for fewer than 14 bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (addresses, rest) = bytes.split_first_chunk::<12>().ok_or(Malformed::Truncated)?;
        let kind = |rest: &[u8]| rest.first_chunk().map(|kind| u16::from_be_bytes(*kind));
        let (mut ethertype, mut link_len) = (kind(rest).ok_or(Malformed::Truncated)?, HEADER_LEN);
        while matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) && link_len < MAX_LINK {
            // A tag that is cut short is whatever its bytes are.
            let Some(next) = rest.get(link_len - 12 + 2..).and_then(kind) else { break };
            ethertype = next;
            link_len += TAG_LEN;
        }
        Ok(Self { bytes, addresses, link_len, ethertype })
    }

    /// All of it.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Destination and source, one after the other.
    #[inline]
    #[must_use]
    pub fn addresses(&self) -> &'a [u8; 12] {
        self.addresses
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> MacAddress {
        let [a, b, c, d, e, f, ..] = *self.addresses;
        MacAddress([a, b, c, d, e, f])
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> MacAddress {
        let [.., a, b, c, d, e, f] = *self.addresses;
        MacAddress([a, b, c, d, e, f])
    }

    /// What is inside, behind the tags; smaller than [`ethertype::MIN`]: the length of an IEEE 802.3 frame.
    #[inline]
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        self.ethertype
    }

    /// The header with its tags.
    #[inline]
    #[must_use]
    pub fn link(&self) -> &'a [u8] {
        self.bytes.get(..self.link_len).unwrap_or_default()
    }

    /// What follows the header, with the padding of a short frame.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.link_len..).unwrap_or_default()
    }

    /// Whether it has a VLAN tag.
    #[inline]
    #[must_use]
    pub fn is_tagged(&self) -> bool {
        self.link_len > HEADER_LEN
    }

    /// The IP packet inside, if there is one that is whole. Bytes may follow it.
    #[inline]
    #[must_use]
    pub fn packet(&self) -> Option<IpPacket<'a>> {
        let version = match self.ethertype {
            ethertype::IPV4 => Version::V4,
            ethertype::IPV6 => Version::V6,
            _ => return None,
        };
        IpPacket::parse(self.payload()).ok().filter(|packet| packet.version() == version)
    }

    /// A number by which frames of one flow are told: of the packet inside, or of the addresses. The same in both directions.
    #[inline]
    #[must_use]
    pub fn flow_hash(&self) -> u32 {
        match self.packet() {
            Some(packet) => packet.flow_hash(),
            None => {
                let [a, b, c, d, e, f] = self.destination().0;
                let [g, h, i, j, k, l] = self.source().0;
                u32::from_be_bytes([a ^ g, b ^ h, c ^ i, d ^ j]) ^ u32::from_be_bytes([e ^ k, f ^ l, 0, 0])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&[0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2][..], rest].concat()
    }

    const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

    #[test]
    fn a_packet_is_found_behind_up_to_two_tags() {
        for tags in [&[][..], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]] {
            let bytes = frame(&[tags, &[8, 0], &PACKET, &[0; 6]].concat());
            let frame = Frame::parse(&bytes).unwrap();
            assert_eq!(frame.link().len(), 14 + tags.len());
            assert_eq!((frame.ethertype(), frame.is_tagged()), (ethertype::IPV4, !tags.is_empty()));
            assert_eq!(frame.packet().unwrap().bytes(), PACKET, "without what follows");
            assert_eq!(frame.destination().to_string(), "02:00:00:00:00:01");
            assert_eq!(frame.source().to_string(), "02:00:00:00:00:02");
        }
        let three = frame(&[&[0x81, 0, 0, 5].repeat(3)[..], &[8, 0], &PACKET].concat());
        assert!(Frame::parse(&three).unwrap().packet().is_none());
    }

    #[test]
    fn whatever_a_device_delivers_is_a_frame() {
        for length in 0..14 {
            assert_eq!(Frame::parse(&frame(&[8, 0])[..length]).unwrap_err(), Malformed::Truncated);
        }
        for rest in
            [&[0, 38, 0x42, 0x42, 3][..], &[8, 0], &[0x81, 0], &[0x81, 0, 0, 1], &[8, 6, 1], &[0x86, 0xdd, 0x45]]
        {
            let bytes = frame(rest);
            let frame = Frame::parse(&bytes).unwrap();
            assert!(frame.packet().is_none());
            assert_eq!([frame.link(), frame.payload()].concat(), bytes);
        }
        // An IPv4 packet that says it is IPv6.
        let bytes = frame(&[&[0x86, 0xdd], &PACKET[..]].concat());
        assert!(Frame::parse(&bytes).unwrap().packet().is_none());
    }

    proptest! {
        #[test]
        fn header_and_payload_are_the_frame(bytes in prop::collection::vec(any::<u8>(), 0..80), tagged in any::<bool>()) {
            let mut bytes = bytes;
            if tagged && bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&[0x81, 0]);
            }
            if let Ok(frame) = Frame::parse(&bytes) {
                prop_assert_eq!([frame.link(), frame.payload()].concat(), bytes.clone());
                prop_assert!(frame.link().len() <= MAX_LINK);
                let _ = (frame.packet(), frame.flow_hash());
            }
        }
    }
}
