//! What must hold for any bytes: one function per fuzz target, named like it. The tests of `wire` run the same functions
//! over the committed corpora.
#![allow(clippy::unwrap_used, reason = "a failed expectation is what a fuzzer looks for")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::arp::{self, ArpPacket};
use wire::checksum::Sum;
use wire::coalesce::{Coalescer, Joins, MAX_UDP_SEGMENTS};
use wire::describe::{LinkLayer, TunnelPorts, describe as describe_layers};
use wire::ecn::{self, Ecn};
use wire::ethernet::{EthernetFrame, MacAddress};
use wire::fragment::fragment_v4;
use wire::icmp::{self, Unreachable};
use wire::ip::{Fragment, IpPacket, Version, protocol};
use wire::message::payload::{ANSWER, HELLO};
use wire::message::{
    Answer, Control, CookieReply, DataHeader, Handshake, HandshakeHeader, Hello, Message, classify, handshake,
};
use wire::segment::{InPlace, SuperPacket};
use wire::tcp::TcpSegment;
use wire::udp::{self, UdpDatagram};
use wire::vnet::{self, VnetHdr};

/// Input: one IP packet. Headers, ECN, fragments and TCP options agree with each other.
pub fn ip_packet(data: &[u8]) {
    let Ok(packet) = IpPacket::parse(data) else {
        if let Ok(cut) = IpPacket::parse_cut(data) {
            assert!(cut.total_len() > data.len() && cut.bytes() == data);
        }
        return;
    };
    assert_eq!(packet.bytes(), &data[..packet.total_len()]);
    assert_eq!([packet.headers(), packet.payload()].concat(), packet.bytes());
    assert_eq!(IpPacket::parse_cut(data).unwrap().bytes(), packet.bytes());
    assert_eq!(packet.flow_hash(), steering(packet.bytes()));
    let cut = IpPacket::parse_cut(&packet.bytes()[..packet.header_len()]).unwrap();
    assert_eq!((cut.source(), cut.destination()), (packet.source(), packet.destination()));
    assert!(cut.payload().is_empty());

    let valid = packet.header_checksum_ok();
    for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
        let mut marked = packet.bytes().to_vec();
        ecn::set(&mut marked, ecn);
        let again = IpPacket::parse(&marked).unwrap();
        assert_eq!((again.ecn(), again.traffic_class() >> 2), (ecn, packet.traffic_class() >> 2));
        assert!(!valid || again.header_checksum_ok());
    }
    for mtu in [28, 68, 577, 1500] {
        fragments(&packet, mtu);
    }
    if let Ok(segment) = TcpSegment::parse(packet.payload()) {
        assert!(segment.options().count() <= 20);
        assert_eq!(segment.header().len() + segment.payload().len(), packet.payload().len());
    }
    if let Ok(datagram) = UdpDatagram::parse(packet.payload()) {
        assert!(datagram.payload().len() + 8 <= packet.payload().len());
    }
}

/// What the steering program on a socket computes before it spreads the ports, from the bytes alone.
fn steering(bytes: &[u8]) -> u32 {
    let ports = |at: usize| match bytes.get(at..at + 4) {
        Some(ports) => u32::from(ports[0] ^ ports[2]) << 8 | u32::from(ports[1] ^ ports[3]),
        None => 0,
    };
    match bytes[0] >> 4 {
        4 if matches!(bytes[9], 6 | 17) && bytes[6] & 0x3f == 0 && bytes[7] == 0 => {
            ports(usize::from(bytes[0] & 15) * 4)
        }
        6 if matches!(bytes[6], 6 | 17) => ports(40),
        _ => 0,
    }
}

/// Fragments fit, are valid, and together are the packet.
fn fragments(packet: &IpPacket<'_>, mtu: usize) {
    let mut payload = Vec::new();
    let mut pieces = Vec::new();
    let Ok(count) = fragment_v4(packet, mtu, &mut |header, piece| {
        assert!(header.len() + piece.len() <= mtu);
        let bytes = [header, piece].concat();
        let fragment = IpPacket::parse(&bytes).unwrap();
        assert_eq!(fragment.addresses(), packet.addresses());
        assert_eq!(fragment.headers(), header);
        pieces.push((fragment.fragment(), fragment.header_checksum_ok()));
        payload.extend_from_slice(piece);
    }) else {
        return assert!(pieces.is_empty());
    };
    assert_eq!(count, pieces.len());
    assert_eq!(payload, packet.payload());
    if count > 1 {
        assert!(pieces.iter().all(|(fragment, valid)| *valid && *fragment != Fragment::None));
    }
}

/// Input: a virtio header and a packet. Every segment is a valid packet with right checksums, and together they are the
/// payload. Made in place they are the same.
pub fn super_packet(data: &[u8]) {
    let Some((header, bytes)) = data.split_first_chunk::<{ VnetHdr::LEN }>() else { return };
    let vnet = VnetHdr::parse(header);
    assert_eq!(vnet.emit(), *header);
    let Ok(packet) = IpPacket::parse(bytes) else { return };
    let Ok(whole) = SuperPacket::parse(vnet, packet) else { return };
    let is_split = vnet.gso_type != vnet::GSO_NONE;
    assert!(whole.count() >= 1 && (is_split || whole.count() == 1));
    assert_eq!(whole.len_of(0), whole.segment_len());

    let (mut buffer, mut buffer_partial) = (bytes.to_vec(), bytes.to_vec());
    let mut in_place = InPlace::parse(vnet, &mut buffer).unwrap();
    let mut in_place_partial = whole.layout().in_place(&mut buffer_partial);
    let mut payload = Vec::new();
    let (mut out, mut partial) = (vec![0xee; whole.segment_len() + 1], vec![0xee; whole.segment_len() + 1]);
    for index in 0..whole.count() {
        let length = whole.emit(index, &mut out);
        assert_eq!((length, out[length]), (whole.len_of(index), 0xee));
        assert!(length > 0 && length <= whole.segment_len());
        assert_eq!(whole.emit_partial(index, &mut partial), length);
        if let (Some(complete), Some(left)) = (&mut in_place, &mut in_place_partial) {
            assert_eq!(complete.next_complete().unwrap(), &out[..length]);
            assert_eq!(left.next_partial().unwrap(), &partial[..length]);
        }
        assert_eq!(whole.emit(index, &mut vec![0; length - 1]), 0);
        let segment = IpPacket::parse(&out[..length]).unwrap();
        assert_eq!(segment.bytes().len(), length);
        assert_eq!((segment.addresses(), segment.protocol()), (packet.addresses(), packet.protocol()));
        if is_split {
            assert!(segment.header_checksum_ok() && upper_checksum_ok(&segment));
            let header_len = upper_header_len(&segment).unwrap();
            assert_eq!(partial[segment.header_len() + header_len..length], segment.payload()[header_len..]);
            payload.extend_from_slice(&segment.payload()[header_len..]);
        }
        out.fill(0xee);
    }
    assert_eq!((whole.emit(whole.count(), &mut out), whole.len_of(whole.count())), (0, 0));
    if is_split {
        assert_eq!(payload, packet.payload()[upper_header_len(&packet).unwrap()..]);
    } else if !vnet.needs_csum() {
        assert_eq!(whole.emit(0, &mut out), packet.bytes().len());
        assert_eq!(out[..packet.bytes().len()], *packet.bytes());
    }
}

fn upper_header_len(packet: &IpPacket<'_>) -> Option<usize> {
    match packet.protocol() {
        protocol::TCP => Some(TcpSegment::parse(packet.payload()).ok()?.header().len()),
        _ => UdpDatagram::parse(packet.payload()).ok().map(|_| 8),
    }
}

fn upper_checksum_ok(packet: &IpPacket<'_>) -> bool {
    packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16).add(packet.payload()).is_valid()
}

/// Input: a byte that says what the device accepts, then packets, each behind a byte of [`Step`] bits and a 16-bit
/// length. Joining and splitting again gives the same packets in the same order within each flow.
pub fn coalesce(data: &[u8]) {
    let Some((&joins, mut rest)) = data.split_first() else { return };
    let joins = Joins {
        tcp4: joins & 1 == 0,
        tcp6: joins & 2 == 0,
        udp4: joins & 4 == 0,
        udp6: joins & 8 == 0,
        partial: joins & 16 == 0,
    };
    let mut coalescer = Coalescer::new(joins);
    let (mut pushed, mut written) = (Vec::<Vec<u8>>::new(), Vec::<Vec<u8>>::new());
    let mut out = |vnet: &VnetHdr, bytes: &[u8]| split_written(joins, *vnet, bytes, &mut written);
    while let Some(([step, high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(length);
        rest = after;
        let bytes = prepare(*step, bytes, pushed.last());
        if step & step::PARTIAL != 0 {
            let (bytes, complete) = partial(&bytes);
            if let Ok(packet) = IpPacket::parse(&bytes)
                && coalescer.push_partial(&packet, step & step::CONTINUES != 0, &mut out).is_ok()
            {
                pushed.push(complete[..packet.bytes().len()].to_vec());
            }
        } else if let Ok(packet) = IpPacket::parse(&bytes) {
            coalescer.push(&packet, &mut out);
            pushed.push(packet.bytes().to_vec());
        }
        if step & step::FLUSH != 0 {
            coalescer.flush(&mut out);
            assert!(coalescer.is_empty());
        }
    }
    coalescer.flush(&mut out);
    assert_eq!(pushed.len(), written.len());
    let (before, after) = (by_flow(&pushed), by_flow(&written));
    assert_eq!(before.len(), after.len());
    for (flow, packets) in before {
        let again = &after[&flow];
        assert_eq!(packets.len(), again.len());
        for (a, b) in packets.iter().zip(again) {
            assert!(a == b || a.len() == b.len() && without_id(a) == without_id(b), "{a:02x?}\n{b:02x?}");
        }
    }
}

/// How [`coalesce`] turns bytes into the next packet: a fuzzer would hardly guess two checksums and a sequence number.
pub mod step {
    /// Make the checksums right.
    pub const FIX: u8 = 1;
    /// The bytes are the payload of a packet that continues the one before.
    pub const NEXT: u8 = 2;
    /// Flush after this packet.
    pub const FLUSH: u8 = 4;
    /// With [`NEXT`]: set PSH.
    pub const PUSH: u8 = 8;
    /// The packet comes without a transport checksum.
    pub const PARTIAL: u8 = 16;
    /// With [`PARTIAL`]: its sender says that it continues the one before.
    pub const CONTINUES: u8 = 32;
}

/// The packet with something else for a TCP or UDP checksum, and with the right one.
fn partial(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut complete = bytes.to_vec();
    fix(&mut complete);
    let mut partial = complete.clone();
    if let Ok(packet) = IpPacket::parse(bytes)
        && let Some(field) = checksum_at(&packet).and_then(|at| partial.get_mut(at..at + 2))
    {
        field.copy_from_slice(b"??");
    }
    (partial, complete)
}

/// Where the TCP or UDP checksum lies in a packet that is long enough for one.
fn checksum_at(packet: &IpPacket<'_>) -> Option<usize> {
    match packet.protocol() {
        protocol::TCP if packet.payload().len() >= 20 => Some(packet.header_len() + 16),
        protocol::UDP if packet.payload().len() >= 8 => Some(packet.header_len() + 6),
        _ => None,
    }
}

fn prepare(step: u8, bytes: &[u8], previous: Option<&Vec<u8>>) -> Vec<u8> {
    let mut packet = match previous {
        Some(previous) if step & step::NEXT != 0 => continuation(previous, bytes, step & step::PUSH != 0),
        _ => bytes.to_vec(),
    };
    if step & (step::FIX | step::NEXT) != 0 {
        fix(&mut packet);
    }
    packet
}

/// A packet with the headers of `previous`, the next sequence number and id, and another payload.
fn continuation(previous: &[u8], payload: &[u8], push: bool) -> Vec<u8> {
    let packet = IpPacket::parse(previous).unwrap();
    let (ip_len, is_tcp) = (packet.header_len(), packet.protocol() == protocol::TCP);
    let Some(upper_len) = upper_header_len(&packet) else { return payload.to_vec() };
    let before = packet.payload().len() - upper_len;
    let room = 65_535 - ip_len - upper_len;
    let payload = &payload[..payload.len().min(room)];
    let mut next = [&previous[..ip_len + upper_len], payload].concat();
    let length = next.len();
    match packet.version() {
        Version::V4 => {
            next[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            if !(packet.dont_fragment() && packet.v4_id() == 0) {
                next[4..6].copy_from_slice(&packet.v4_id().wrapping_add(1).to_be_bytes());
            }
        }
        Version::V6 => next[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes()),
    }
    if is_tcp {
        let sequence = TcpSegment::parse(packet.payload()).unwrap().sequence().wrapping_add(before as u32);
        next[ip_len + 4..ip_len + 8].copy_from_slice(&sequence.to_be_bytes());
        next[ip_len + 13] |= u8::from(push) << 3;
    } else {
        next[ip_len + 4..ip_len + 6].copy_from_slice(&((length - ip_len) as u16).to_be_bytes());
    }
    next
}

/// Makes the checksums of an IP packet right, as far as it is one.
fn fix(bytes: &mut [u8]) {
    let Ok(packet) = IpPacket::parse(bytes) else { return };
    let (ip_len, version, length) = (packet.header_len(), packet.version(), packet.bytes().len());
    let at = checksum_at(&packet);
    let is_udp = packet.protocol() == protocol::UDP;
    let pseudo = packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16);
    if version == Version::V4 {
        bytes[10..12].fill(0);
        let checksum = Sum::default().add(&bytes[..ip_len]).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    if let Some(at) = at {
        bytes[at..at + 2].fill(0);
        let sum = pseudo.add(&bytes[ip_len..length]);
        let checksum = if is_udp { udp::finish(sum) } else { sum.finish() };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn split_written(joins: Joins, vnet: VnetHdr, bytes: &[u8], written: &mut Vec<Vec<u8>>) {
    let packet = IpPacket::parse(bytes).unwrap();
    assert_eq!(packet.bytes().len(), bytes.len());
    let whole = SuperPacket::parse(vnet, packet).unwrap();
    if vnet == VnetHdr::NONE {
        return written.push(bytes.to_vec());
    }
    let accepted = match (packet.protocol(), packet.version()) {
        (protocol::TCP, Version::V4) => joins.tcp4,
        (protocol::TCP, Version::V6) => joins.tcp6,
        (_, Version::V4) => joins.udp4,
        (_, Version::V6) => joins.udp6,
    };
    assert!(vnet.needs_csum() && packet.header_checksum_ok());
    if vnet.gso_type == vnet::GSO_NONE {
        assert!(joins.partial && whole.has_partial());
        let mut single = vec![0; bytes.len()];
        whole.emit(0, &mut single);
        // Whoever completes a single one writes 0 as UDP must.
        if packet.protocol() == protocol::TCP
            && let Some(field) = checksum_at(&packet).and_then(|at| single.get_mut(at..at + 2))
            && field == [0xff, 0xff]
        {
            field.fill(0);
        }
        return written.push(single);
    }
    assert!(accepted && whole.count() > 1);
    assert!(packet.protocol() == protocol::TCP || whole.count() <= MAX_UDP_SEGMENTS);
    assert_eq!(usize::from(vnet.hdr_len), packet.header_len() + upper_header_len(&packet).unwrap());
    let mut out = vec![0; whole.segment_len()];
    for index in 0..whole.count() {
        let length = whole.emit(index, &mut out);
        written.push(out[..length].to_vec());
    }
}

/// What must keep its order: addresses, protocol, and ports if there are any.
type Flow = (Vec<u8>, u8, Option<[u8; 4]>);

fn by_flow(packets: &[Vec<u8>]) -> HashMap<Flow, Vec<&[u8]>> {
    let mut flows: HashMap<Flow, Vec<_>> = HashMap::new();
    for bytes in packets {
        let packet = IpPacket::parse(bytes).unwrap();
        let has_ports =
            packet.fragment() == Fragment::None && matches!(packet.protocol(), protocol::TCP | protocol::UDP);
        let ports = packet.payload().first_chunk().copied().filter(|_| has_ports);
        flows.entry((packet.addresses().to_vec(), packet.protocol(), ports)).or_default().push(&bytes[..]);
    }
    flows
}

/// The packet with an id that means nothing, because DF is set, written as zero.
fn without_id(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes[0] == 0x45 && bytes[6..8] == [0x40, 0] {
        bytes[4..6].fill(0);
        bytes[10..12].fill(0);
        let checksum = Sum::default().add(&bytes[..20]).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// Input: a frame. What ARP reads it writes, and its reply is answered by nobody.
pub fn ethernet_arp(data: &[u8]) {
    let Ok(frame) = EthernetFrame::parse(data) else { return };
    assert_eq!(frame.header_len() + frame.payload().len(), data.len());
    assert_eq!(frame.vlans().count() * 4 + 14, frame.header_len());
    let Ok(arp) = ArpPacket::parse(frame.payload()) else { return };
    assert_eq!(arp.emit(), frame.payload()[..arp::LEN]);
    let mac = MacAddress([2, 0, 0, 0, 0, 9]);
    if let Some(reply) = arp.reply(mac) {
        assert_eq!((reply.sender, reply.target, reply.sender_mac), (arp.target, arp.sender, mac));
        let bytes = reply.emit_frame();
        let frame = EthernetFrame::parse(&bytes).unwrap();
        assert_eq!((frame.source(), frame.destination()), (mac, arp.sender_mac));
        assert_eq!(ArpPacket::parse(frame.payload()), Ok(reply));
        assert_eq!(reply.reply(mac), None);
    }
}

/// Input: a byte that chooses the error, four of MTU, and the packet that gets it. Answers are valid, bounded, go back
/// to the sender, and are never answered themselves.
pub fn icmp_error(data: &[u8]) {
    let Some(([what, a, b, c, d], bytes)) = data.split_first_chunk() else { return };
    let Ok(original) = IpPacket::parse(bytes) else { return };
    let what = match what % 3 {
        0 => Unreachable::NoRoute,
        1 => Unreachable::Prohibited,
        _ => Unreachable::TooBig { mtu: u32::from_be_bytes([*a, *b, *c, *d]) },
    };
    let (source, longest) = match original.version() {
        Version::V4 => (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), icmp::V4_ERROR_MAX),
        Version::V6 => (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), icmp::ERROR_MAX),
    };
    let mut out = vec![0; icmp::ERROR_MAX];
    if let Some(length) = icmp::error_reply(&original, source, what, &mut out) {
        assert!(length <= longest);
        let error = IpPacket::parse(&out[..length]).unwrap();
        assert_eq!((error.source(), error.destination(), error.ttl()), (source, original.source(), 64));
        assert!(error.header_checksum_ok() && icmp_checksum_ok(&error));
        let quote = &error.payload()[icmp::HEADER_LEN..];
        assert!(original.bytes().starts_with(quote) && !quote.is_empty());
        assert_eq!(icmp::error_reply(&original, source, what, &mut vec![0; length - 1]), None);
        assert_eq!(icmp::error_reply(&error, source, what, &mut vec![0; 2000]), None);
        assert_eq!(icmp::echo_reply(&error, &mut vec![0; 2000]), None);
    }
    let mut out = vec![0; bytes.len()];
    if let Some(length) = icmp::echo_reply(&original, &mut out) {
        let reply = IpPacket::parse(&out[..length]).unwrap();
        assert_eq!((reply.source(), reply.destination()), (original.destination(), original.source()));
        assert_eq!(reply.payload()[4..], original.payload()[4..]);
        assert!(reply.header_checksum_ok() && icmp_checksum_ok(&reply));
        assert_eq!(icmp::echo_reply(&reply, &mut vec![0; length]), None);
    }
}

fn icmp_checksum_ok(packet: &IpPacket<'_>) -> bool {
    match packet.version() {
        Version::V4 => Sum::default().add(packet.payload()).is_valid(),
        Version::V6 => upper_checksum_ok(packet),
    }
}

/// Input: a byte that chooses the link layer (modulo 3), then the capture; the tunnels' ports are 8285 and 4789.
pub fn describe(data: &[u8]) {
    let Some((link, bytes)) = data.split_first() else { return };
    let link = match link % 3 {
        0 => LinkLayer::Ethernet,
        1 => LinkLayer::Ip,
        _ => LinkLayer::Message,
    };
    let layers = describe_layers(link, bytes, &TunnelPorts { adit: Some(8285), vxlan: Some(4789) });
    assert!(!layers.is_empty() && layers.len() < 64);
    assert!(layers.iter().all(|layer| !layer.name.is_empty() && !layer.summary.is_empty()));
}

/// Input: a datagram. Its kind follows from the first four bytes, no byte is lost, and what is read of it writes the same
/// bytes. As a payload of a handshake or a control message it is read likewise.
pub fn message(data: &[u8]) {
    let (bytes, expected) = match classify(data) {
        Message::Plain(bytes) => (bytes, matches!(data[0] >> 4, 4 | 6)),
        Message::Sealed(_, bytes) => (bytes, matches!(data[0], 0xa1..=0xa4)),
        Message::WireGuard(_, bytes) => (bytes, matches!(data, [1..=4, 0, 0, 0, ..])),
        Message::Unknown(bytes) => {
            (bytes, !matches!(data, [0x40..=0x4f | 0x60..=0x6f | 0xa1..=0xa4, ..] | [1..=4, 0, 0, 0, ..]))
        }
    };
    assert!(expected && bytes == data);

    if let Ok(view) = Handshake::parse(data) {
        let (protocol, step, sender, receiver) = (view.protocol(), view.step(), view.sender(), view.receiver());
        let mut again = HandshakeHeader { protocol, step, sender, receiver }.emit(view.noise()).unwrap();
        handshake::set_mac1(&mut again, view.mac1());
        handshake::set_mac2(&mut again, view.mac2());
        assert_eq!(again, data);
        assert_eq!([view.mac1_covered(), view.mac1(), view.mac2()].concat(), data);
        assert_eq!([view.mac2_covered(), view.mac2()].concat(), data);
    }
    if let Ok(reply) = CookieReply::parse(data) {
        assert_eq!(reply.emit(), data);
    }
    if let Ok(header) = DataHeader::parse(data) {
        assert_eq!(header.emit(), data[..16]);
    }
    if let Some(hello) = data.first_chunk::<HELLO>().and_then(|bytes| Hello::parse(bytes).ok()) {
        assert_eq!(hello.emit(), data[..HELLO]);
    }
    if let Some(answer) = data.first_chunk::<ANSWER>().and_then(|bytes| Answer::parse(bytes).ok()) {
        assert_eq!(answer.emit(), data[..ANSWER]);
    }
    if let Ok(control) = Control::parse(data) {
        let mut again = vec![0xff; data.len()];
        assert_eq!(control.emit(&mut again), Some(data.len()));
        assert_eq!(again, data);
    }
}
