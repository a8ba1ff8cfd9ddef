//! Neighbour solicitations and advertisements of IPv6 (RFC 4861, sections 4.3 and 4.4): what ARP is to IPv4.

use std::net::{IpAddr, Ipv6Addr};

use crate::Malformed;
use crate::ethernet::{self, EthernetHeader, MacAddress, ethertype};
use crate::icmp::IcmpHeader;
use crate::ip::{Fragment, IpHeader, IpPacket, V6_HEADER_LEN, protocol};

/// The ICMPv6 types.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options: the link-layer address of the source, and of the target (section 4.6.1).
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
/// Nobody but a neighbour can send a packet that arrives with this hop limit (section 7.1).
const HOP_LIMIT: u8 = 255;
/// Type, code, checksum, flags, target.
const FIXED_LEN: usize = 24;
/// An advertisement with the address of its target, in a frame.
pub const ADVERTISEMENT_FRAME_LEN: usize = ethernet::HEADER_LEN + V6_HEADER_LEN + FIXED_LEN + 8;

/// One of the two messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Neighbour {
    /// Who has the target?
    Solicitation {
        /// Who asks; unspecified in duplicate address detection.
        source: Ipv6Addr,
        /// Whom it asks: a group, or the target alone.
        destination: Ipv6Addr,
        /// The address that is looked for.
        target: Ipv6Addr,
        /// Where the source is, if it says so.
        link: Option<MacAddress>,
    },
    /// The target is there.
    Advertisement {
        /// The address that it is about.
        target: Ipv6Addr,
        /// Where it is, if it says so.
        link: Option<MacAddress>,
        /// Whether it is a router.
        router: bool,
    },
}

impl Neighbour {
    /// Reads the message in a packet.
    ///
    /// # Errors
    /// [`Malformed::Value`] for another packet, and for one that a neighbour did not send; [`Malformed::Truncated`]; [`Malformed::HeaderLength`] for
    /// an option without a length.
    pub fn parse(packet: &IpPacket<'_>) -> Result<Self, Malformed> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source(), packet.destination()) else {
            return Err(Malformed::Value);
        };
        if packet.protocol() != protocol::ICMPV6 || packet.ttl() != HOP_LIMIT || packet.fragment() != Fragment::None {
            return Err(Malformed::Value);
        }
        let (fixed, options) = packet.payload().split_first_chunk::<FIXED_LEN>().ok_or(Malformed::Truncated)?;
        let [kind, 0, _, _, flags, _, _, _, target @ ..] = *fixed else { return Err(Malformed::Value) };
        let target = Ipv6Addr::from(target);
        match kind {
            SOLICITATION => {
                let link = option(options, SOURCE_ADDRESS)?;
                Ok(Self::Solicitation { source, destination, target, link })
            }
            ADVERTISEMENT => {
                let link = option(options, TARGET_ADDRESS)?;
                Ok(Self::Advertisement { target, link, router: flags & 0x80 != 0 })
            }
            _ => Err(Malformed::Value),
        }
    }
}

/// The link-layer address in an option of this kind.
fn option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddress>, Malformed> {
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 {
            return Err(Malformed::HeaderLength);
        }
        let whole = options.get(..length).ok_or(Malformed::Truncated)?;
        if kind == wanted && length == 8 {
            return Ok(whole.get(2..).and_then(<[u8]>::first_chunk).map(|mac| MacAddress(*mac)));
        }
        options = options.get(length..).unwrap_or_default();
    }
    Ok(None)
}

/// The frame that answers a solicitation: `target` is at `mac`. It is solicited and overrides nothing.
#[must_use]
pub fn advertisement(
    (target, mac): (Ipv6Addr, MacAddress),
    (asker, asker_mac): (Ipv6Addr, MacAddress),
    router: bool,
) -> Option<Vec<u8>> {
    let mut frame = vec![0; ADVERTISEMENT_FRAME_LEN];
    let at = EthernetHeader { destination: asker_mac, source: mac, ethertype: ethertype::IPV6 }.emit(&mut frame)?;
    let ip = IpHeader { ttl: HOP_LIMIT, ..IpHeader::new(target.into(), asker.into(), protocol::ICMPV6) };
    let at = at + ip.emit(FIXED_LEN + 8, frame.get_mut(at..)?)?;
    let mut body = [0; FIXED_LEN + 8 - 8];
    body[..16].copy_from_slice(&target.octets());
    body[16..18].copy_from_slice(&[TARGET_ADDRESS, 1]);
    body[18..].copy_from_slice(&mac.0);
    let flags = if router { 0xc0 } else { 0x40 };
    let header = IcmpHeader { kind: ADVERTISEMENT, code: 0, rest: [flags, 0, 0, 0] };
    header.emit(Some(ip.pseudo_header()), &body, frame.get_mut(at..)?)?;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn packet(kind: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv6(A.octets(), B.octets(), ttl);
        builder.icmpv6_raw(kind, 0, [0x80, 0, 0, 0]).write(&mut bytes, body).unwrap();
        bytes
    }

    fn parse(kind: u8, ttl: u8, body: &[u8]) -> Result<Neighbour, Malformed> {
        Neighbour::parse(&IpPacket::parse(&packet(kind, ttl, body)).unwrap())
    }

    #[test]
    fn both_messages_are_read_with_and_without_their_option() {
        let target = B.octets();
        let link = [&target[..], &[14, 1, 0, 0, 0, 0, 0, 0], &[1, 1], &MAC.0].concat();
        let solicitation = |link| Neighbour::Solicitation { source: A, destination: B, target: B, link };
        assert_eq!(parse(135, 255, &link), Ok(solicitation(Some(MAC))));
        assert_eq!(parse(135, 255, &target), Ok(solicitation(None)));
        assert_eq!(parse(136, 255, &link), Ok(Neighbour::Advertisement { target: B, link: None, router: true }));
        let link = [&target[..], &[2, 1], &MAC.0].concat();
        assert_eq!(parse(136, 255, &link), Ok(Neighbour::Advertisement { target: B, link: Some(MAC), router: true }));
    }

    #[test]
    fn what_no_neighbour_sent_is_refused() {
        let target = B.octets();
        assert_eq!(parse(135, 254, &target), Err(Malformed::Value));
        assert_eq!(parse(134, 255, &target), Err(Malformed::Value));
        assert_eq!(parse(135, 255, &target[..15]), Err(Malformed::Truncated));
        assert_eq!(parse(135, 255, &[&target[..], &[1, 0]].concat()), Err(Malformed::HeaderLength));
        assert_eq!(parse(135, 255, &[&target[..], &[1, 2, 0, 0, 0, 0, 0, 0]].concat()), Err(Malformed::Truncated));
    }

    #[test]
    fn an_advertisement_is_one_for_another_program_too() {
        let asker = MacAddress([2, 0, 0, 0, 0, 1]);
        let frame = advertisement((B, MAC), (A, asker), true).unwrap();
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd]);
        let packet = IpPacket::parse(&frame[14..]).unwrap();
        assert_eq!((packet.source(), packet.destination(), packet.ttl()), (B.into(), A.into(), 255));
        let read = Neighbour::parse(&packet).unwrap();
        assert_eq!(read, Neighbour::Advertisement { target: B, link: Some(MAC), router: true });
        assert!(Icmpv6Slice::from_slice(packet.payload()).unwrap().is_checksum_valid(B.octets(), A.octets()));
        assert_eq!(packet.payload()[4], 0xc0);
    }

    proptest! {
        #[test]
        fn any_options_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..80), kind in 134u8..=137) {
            let _ = parse(kind, 255, &body);
        }
    }
}
