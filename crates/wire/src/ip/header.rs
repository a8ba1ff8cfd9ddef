//! Headers of packets that are built here.

use std::net::IpAddr;

use super::{V4_DONT_FRAGMENT, V4_HEADER_LEN, V6_HEADER_LEN};
use crate::checksum::Sum;

/// The header of a packet to be built, without options or extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpHeader {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same version.
    pub destination: IpAddr,
    /// What follows the header.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TOS byte or traffic class.
    pub traffic_class: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4: forbid fragmentation.
    pub dont_fragment: bool,
    /// IPv6 flow label, 20 bits.
    pub flow_label: u32,
}

impl IpHeader {
    /// A header with TTL 64, DF set, and zeros elsewhere.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self { source, destination, protocol, ttl: 64, traffic_class: 0, id: 0, dont_fragment: true, flow_label: 0 }
    }

    /// Bytes of the header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        match self.source {
            IpAddr::V4(_) => V4_HEADER_LEN,
            IpAddr::V6(_) => V6_HEADER_LEN,
        }
    }

    /// As [`IpPacket::pseudo_header`](super::IpPacket::pseudo_header).
    #[must_use]
    pub fn pseudo_header(&self) -> Sum {
        let add = |sum: Sum, address: IpAddr| match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        };
        add(add(Sum::default(), self.source), self.destination).add_u16(u16::from(self.protocol))
    }

    /// Writes the header of a packet with `payload_len` bytes behind it to the front of `out`, and returns the header's
    /// length. `None` if the addresses are of different versions, the packet would be too long for its length field, or
    /// `out` is too short for the header.
    pub fn emit(&self, payload_len: usize, out: &mut [u8]) -> Option<usize> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let h = out.first_chunk_mut::<V4_HEADER_LEN>()?;
                let total = u16::try_from(V4_HEADER_LEN.checked_add(payload_len)?).ok()?;
                let fragment = if self.dont_fragment { V4_DONT_FRAGMENT } else { 0 };
                h[0] = 0x45;
                h[1] = self.traffic_class;
                h[2..4].copy_from_slice(&total.to_be_bytes());
                h[4..6].copy_from_slice(&self.id.to_be_bytes());
                h[6..8].copy_from_slice(&fragment.to_be_bytes());
                h[8] = self.ttl;
                h[9] = self.protocol;
                h[10..12].fill(0);
                h[12..16].copy_from_slice(&source.octets());
                h[16..20].copy_from_slice(&destination.octets());
                let checksum = Sum::default().add(h).finish();
                h[10..12].copy_from_slice(&checksum.to_be_bytes());
                Some(V4_HEADER_LEN)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let h = out.first_chunk_mut::<V6_HEADER_LEN>()?;
                let length = u16::try_from(payload_len).ok()?;
                let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
                h[0..4].copy_from_slice(&first.to_be_bytes());
                h[4..6].copy_from_slice(&length.to_be_bytes());
                h[6] = self.protocol;
                h[7] = self.ttl;
                h[8..24].copy_from_slice(&source.octets());
                h[24..40].copy_from_slice(&destination.octets());
                Some(V6_HEADER_LEN)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::{IpPacket, Version, protocol};

    #[test]
    fn emitted_headers_parse_back() {
        for (source, destination) in
            [([10, 0, 0, 1].into(), [10, 0, 0, 2].into()), (IpAddr::from([0xfd; 16]), IpAddr::from([0xfc; 16]))]
        {
            let header = IpHeader {
                traffic_class: 0xb9,
                id: 7,
                ttl: 3,
                dont_fragment: false,
                flow_label: 0xf_edcb,
                ..IpHeader::new(source, destination, protocol::UDP)
            };
            let mut out = [0xee; 50];
            let length = header.emit(4, &mut out).unwrap();
            assert_eq!(length, header.header_len());
            let packet = IpPacket::parse(&out[..length + 4]).unwrap();
            assert_eq!((packet.source(), packet.destination()), (source, destination));
            assert_eq!((packet.protocol(), packet.ttl(), packet.traffic_class()), (protocol::UDP, 3, 0xb9));
            assert_eq!(packet.pseudo_header(protocol::UDP).fold(), header.pseudo_header().fold());
            assert!(packet.header_checksum_ok());
            assert_eq!(packet.payload(), [0xee; 4]);
            match packet.version() {
                Version::V4 => assert_eq!((packet.v4_id(), packet.dont_fragment()), (7, false)),
                Version::V6 => assert_eq!(packet.flow_label(), 0xf_edcb),
            }
            assert_eq!(header.emit(4, &mut out[..length - 1]), None);
            assert_eq!(header.emit(65_536, &mut out), None);
        }
        let mixed = IpHeader::new([10, 0, 0, 1].into(), [0xfd; 16].into(), protocol::UDP);
        assert_eq!(mixed.emit(4, &mut [0; 50]), None);
    }
}
