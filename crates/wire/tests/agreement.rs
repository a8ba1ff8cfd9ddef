//! Our parsers and etherparse's read the same from the same bytes.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

use etherparse::err::Layer;
use etherparse::{
    ArpPacketSlice, EtherType, Ethernet2Slice, Icmpv4Slice, IpNumber, IpSlice, LaxSlicedPacket, TcpSlice, UdpSlice,
};
use proptest::prelude::*;
use wire::arp::{ArpPacket, Operation};
use wire::checksum::Sum;
use wire::ethernet::{EthernetFrame, MacAddress};
use wire::icmp::{IcmpHeader, IcmpMessage};
use wire::ip::{Fragment, IpPacket, V6_HEADER_LEN, protocol};
use wire::tcp::{TcpOption, TcpSegment};
use wire::udp::UdpDatagram;

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

fn same_ip(bytes: &[u8]) {
    let ours = IpPacket::parse(bytes);
    let theirs = IpSlice::from_slice(bytes);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?} {theirs:?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.source(), ours.destination()), (theirs.source_addr(), theirs.destination_addr()));
    assert_eq!(ours.payload(), theirs.payload().payload);
    assert_eq!(ours.protocol(), theirs.payload().ip_number.0);
    assert_eq!(ours.fragment() != Fragment::None, theirs.is_fragmenting_payload());
    if let Some(theirs) = theirs.ipv4() {
        let theirs = theirs.header();
        assert_eq!((ours.ttl(), ours.v4_id()), (theirs.ttl(), theirs.identification()));
        assert_eq!(ours.dont_fragment(), theirs.dont_fragment());
        assert_eq!(ours.traffic_class(), theirs.dcp().value() << 2 | theirs.ecn().value());
        assert_eq!(ours.fragment() == Fragment::Later, theirs.fragments_offset().value() != 0);
        let checksum = theirs.to_header().calc_header_checksum();
        assert_eq!(ours.header_checksum_ok(), (ours.v4_header_checksum() % 0xffff) == checksum % 0xffff);
    }
    if let Some(theirs) = theirs.ipv6() {
        let theirs = theirs.header();
        assert_eq!((ours.ttl(), ours.flow_label()), (theirs.hop_limit(), theirs.flow_label().value()));
        assert_eq!(ours.traffic_class(), theirs.traffic_class());
    }
}

/// An extension header of the given kind, its next-header field still to be set.
fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let options = (prop::sample::select(vec![protocol::ROUTING, protocol::DESTINATION_OPTIONS]), 0..3u8);
    prop_oneof![
        options.prop_map(|(kind, units)| {
            let mut header = vec![0; (usize::from(units) + 1) * 8];
            header[1] = units;
            (kind, header)
        }),
        (0..4u8).prop_map(|units| {
            let mut header = vec![0; (usize::from(units) + 2) * 4];
            header[1] = units;
            (protocol::AUTHENTICATION, header)
        }),
        // Not a later fragment: what follows is no header, but etherparse would go on.
        any::<bool>().prop_map(|more| (protocol::FRAGMENT, vec![0, 0, 0, u8::from(more), 0, 0, 0, 7])),
    ]
}

proptest! {
    #[test]
    fn ipv4(mut packet in bytes(90), ihl in 4..16u8, total in 0..100u16) {
        if packet.len() >= 20 {
            packet[0] = 0x40 | ihl;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            // etherparse goes on into the authentication header.
            prop_assume!(packet[9] != protocol::AUTHENTICATION);
            same_ip(&packet);
        } else if let Some(first) = packet.first_mut() {
            *first = 0x45;
            same_ip(&packet);
        }
    }

    #[test]
    fn ipv6_with_extensions(
        extensions in prop::collection::vec(extension(), 0..7),
        by_hop in any::<bool>(),
        last in prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::ICMPV6, protocol::NO_NEXT_HEADER]),
        payload in bytes(20),
        fixed in prop::array::uniform::<_, V6_HEADER_LEN>(any::<u8>()),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut chain: Vec<_> = if by_hop { vec![(protocol::HOP_BY_HOP, vec![0; 8])] } else { vec![] };
        chain.extend(extensions);
        let mut kinds: Vec<_> = chain.iter().map(|(kind, _)| *kind).chain([last]).collect();
        let mut packet = fixed.to_vec();
        packet[0] = 0x60 | packet[0] & 0x0f;
        packet[6] = kinds.remove(0);
        for ((_, mut header), next) in chain.into_iter().zip(kinds) {
            header[0] = next;
            packet.extend(header);
        }
        packet.extend(payload);
        if let Some(cut) = cut {
            packet.truncate(V6_HEADER_LEN + cut.index(packet.len() - V6_HEADER_LEN + 1));
        }
        let length = (packet.len() - V6_HEADER_LEN) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        same_ip(&packet);
    }

    #[test]
    fn tcp(mut bytes in bytes(80), offset in 0..16u8) {
        if let Some(byte) = bytes.get_mut(12) {
            *byte = offset << 4;
        }
        let (ours, theirs) = (TcpSegment::parse(&bytes), TcpSlice::from_slice(&bytes));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok());
        let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return Ok(()) };
        prop_assert_eq!((ours.source_port(), ours.destination_port()), (theirs.source_port(), theirs.destination_port()));
        prop_assert_eq!(ours.sequence(), theirs.sequence_number());
        prop_assert_eq!(ours.acknowledgement(), theirs.acknowledgment_number());
        prop_assert_eq!((ours.window(), ours.urgent()), (theirs.window_size(), theirs.urgent_pointer()));
        prop_assert_eq!((ours.checksum(), ours.option_bytes()), (theirs.checksum(), theirs.options()));
        prop_assert_eq!((ours.header(), ours.payload()), (theirs.header_slice(), theirs.payload()));
        let flags = [
            theirs.fin(), theirs.syn(), theirs.rst(), theirs.psh(), theirs.ack(), theirs.urg(), theirs.ece(), theirs.cwr(),
        ];
        let bits = flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum::<u8>();
        prop_assert_eq!(ours.flags(), bits);
    }

    #[test]
    fn tcp_options(mss in any::<u16>(), scale in any::<u8>(), times in any::<(u32, u32)>()) {
        use etherparse::TcpOptionElement::*;
        let mut tcp = etherparse::TcpHeader::new(1, 2, 3, 4);
        let options = [Noop, MaximumSegmentSize(mss), SelectiveAcknowledgementPermitted, Timestamp(times.0, times.1),
            WindowScale(scale)];
        tcp.set_options(&options).unwrap();
        let bytes = tcp.to_bytes();
        let ours: Vec<_> = TcpSegment::parse(&bytes).unwrap().options().collect();
        let expected = [TcpOption::MaximumSegmentSize(mss), TcpOption::SackPermitted,
            TcpOption::Timestamps(times.0, times.1), TcpOption::WindowScale(scale)];
        prop_assert_eq!(ours, expected);
    }

    #[test]
    fn udp(mut bytes in bytes(40), length in 0..50u16) {
        if let Some(field) = bytes.get_mut(4..6) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        // etherparse takes a length of 0 for "all there is", as in jumbograms.
        prop_assume!(length != 0);
        let (ours, theirs) = (UdpDatagram::parse(&bytes), UdpSlice::from_slice(&bytes));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok());
        let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return Ok(()) };
        prop_assert_eq!((ours.source_port(), ours.destination_port()), (theirs.source_port(), theirs.destination_port()));
        prop_assert_eq!((ours.checksum(), ours.payload()), (theirs.checksum(), theirs.payload()));
    }

    #[test]
    fn icmp(
        kind in prop_oneof![Just(8), any::<u8>()],
        code in prop_oneof![Just(0), any::<u8>()], rest in any::<[u8; 4]>(), payload in bytes(40)) {
        let mut bytes = vec![0; 8 + payload.len()];
        IcmpHeader { kind, code, rest }.emit(None, &payload, &mut bytes).unwrap();
        // Timestamps have a fixed length that etherparse insists on.
        prop_assume!(!matches!(kind, 13 | 14));
        let (ours, theirs) = (IcmpMessage::parse(&bytes).unwrap(), Icmpv4Slice::from_slice(&bytes).unwrap());
        prop_assert_eq!((ours.kind(), ours.code(), ours.rest()), (theirs.type_u8(), theirs.code_u8(), theirs.bytes5to8()));
        prop_assert_eq!((ours.checksum(), ours.payload()), (theirs.checksum(), &payload[..]));
        // Of other types it forgets the unused bytes.
        if matches!((kind, code), (0 | 8, 0)) {
            prop_assert_eq!(theirs.header().icmp_type.calc_checksum(theirs.payload()), ours.checksum());
        }
        prop_assert!(Sum::default().add(&bytes).is_valid());
    }

    #[test]
    fn ethernet(mut frame in bytes(60), kinds in prop::collection::vec(prop::sample::select(vec![0x8100u16, 0x88a8]), 0..3)) {
        let mut at = 12;
        for kind in kinds.into_iter().chain([0x0806]) {
            if let Some(field) = frame.get_mut(at..at + 2) {
                field.copy_from_slice(&kind.to_be_bytes());
            }
            at += 4;
        }
        let ours = EthernetFrame::parse(&frame);
        let theirs = Ethernet2Slice::from_slice_without_fcs(&frame);
        let lax = LaxSlicedPacket::from_ethernet(&frame);
        let stopped = lax.as_ref().map_or(true, |lax| matches!(lax.stop_err, Some((_, Layer::VlanHeader))));
        prop_assert_eq!(ours.is_err(), stopped);
        let (Ok(ours), Ok(theirs), Ok(lax)) = (ours, theirs, lax) else { return Ok(()) };
        prop_assert_eq!(ours.source(), MacAddress(theirs.source()));
        prop_assert_eq!(ours.destination(), MacAddress(theirs.destination()));
        let vlans: Vec<_> = lax.vlan_ids().iter().map(|id| id.value()).collect();
        prop_assert_eq!(ours.vlans().collect::<Vec<_>>(), vlans);
        prop_assert_eq!(EtherType(ours.ethertype()), EtherType::ARP);
    }

    #[test]
    fn arp(sender in any::<([u8; 6], [u8; 4])>(), target in any::<([u8; 6], [u8; 4])>(), is_request in any::<bool>()) {
        let operation = if is_request { Operation::Request } else { Operation::Reply };
        let packet = ArpPacket {
            operation,
            sender_mac: MacAddress(sender.0),
            sender: sender.1.into(),
            target_mac: MacAddress(target.0),
            target: target.1.into(),
        };
        let bytes = packet.emit();
        let theirs = ArpPacketSlice::from_slice(&bytes).unwrap().to_packet().try_eth_ipv4().unwrap();
        prop_assert_eq!((theirs.sender_mac, theirs.sender_ipv4), sender);
        prop_assert_eq!((theirs.target_mac, theirs.target_ipv4), target);
        prop_assert_eq!(theirs.operation.0, if is_request { 1 } else { 2 });
        prop_assert_eq!(theirs.to_bytes(), bytes);
        prop_assert_eq!(ArpPacket::parse(&bytes), Ok(packet));
    }
}

#[test]
fn protocol_numbers() {
    assert_eq!(IpNumber::TCP.0, protocol::TCP);
    assert_eq!(IpNumber::UDP.0, protocol::UDP);
    assert_eq!(IpNumber::ICMP.0, protocol::ICMP);
    assert_eq!(IpNumber::IPV6_ICMP.0, protocol::ICMPV6);
    assert_eq!(IpNumber::IPV6_HEADER_HOP_BY_HOP.0, protocol::HOP_BY_HOP);
    assert_eq!(IpNumber::IPV6_ROUTE_HEADER.0, protocol::ROUTING);
    assert_eq!(IpNumber::IPV6_FRAGMENTATION_HEADER.0, protocol::FRAGMENT);
    assert_eq!(IpNumber::IPV6_DESTINATION_OPTIONS.0, protocol::DESTINATION_OPTIONS);
    assert_eq!(IpNumber::AUTHENTICATION_HEADER.0, protocol::AUTHENTICATION);
    assert_eq!(IpNumber::IPV6_NO_NEXT_HEADER.0, protocol::NO_NEXT_HEADER);
}
