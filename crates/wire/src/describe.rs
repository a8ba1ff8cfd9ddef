//! The headers of a captured frame or packet in words, outermost first, as `adit demo` and `adit trace` show them.
//!
//! Captures are often cut short and may hold anything, so this reads as far as it can and says where it ended. It is for
//! people, not for the packet's way: it allocates.

use std::fmt::Write as _;

use crate::Malformed;
use crate::arp::{ArpPacket, Operation};
use crate::ecn::Ecn;
use crate::ethernet::{EthernetFrame, MacAddress, ethertype};
use crate::icmp::{self, IcmpMessage};
use crate::ip::{Fragment, IpPacket, Version, protocol};
use crate::message::data::{DATA_OVERHEAD, LANE_MASK};
use crate::message::{self, CookieReply, DataHeader, Flags, Handshake, Message, Protocol, Step};
use crate::tcp::{TcpSegment, flags};
use crate::udp::UdpDatagram;

/// Tunnels looked into, one inside the other.
const MAX_DEPTH: usize = 4;
/// Bytes of a VXLAN header (RFC 7348, section 5).
const VXLAN_HEADER_LEN: usize = 8;

/// What the first byte of a capture belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// An IP header, as on a TUN device.
    Ip,
    /// A message between daemons, which follows a UDP header: what a worker hands to its socket.
    Message,
}

/// The UDP ports behind which a tunnel is expected, as source or destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TunnelPorts {
    /// Where adit listens: datagrams are what [`message::classify`] says.
    pub adit: Option<u16>,
    /// VXLAN: 4789 by RFC 7348, 8472 by the kernel's default.
    pub vxlan: Option<u16>,
}

/// One header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// The protocol's name.
    pub name: &'static str,
    /// Its fields, for reading.
    pub summary: String,
}

/// Describes the headers in `bytes`, outermost first. Never empty; the last layer says so if the bytes ended early or
/// made no sense.
#[must_use]
pub fn describe(link: LinkLayer, bytes: &[u8], tunnels: &TunnelPorts) -> Vec<Layer> {
    let mut stack = Stack { layers: Vec::new(), tunnels, depth: 0 };
    match link {
        LinkLayer::Ethernet => stack.ethernet(bytes),
        LinkLayer::Ip => stack.ip(bytes),
        LinkLayer::Message => stack.message(bytes),
    }
    stack.layers
}

struct Stack<'t> {
    layers: Vec<Layer>,
    tunnels: &'t TunnelPorts,
    depth: usize,
}

impl Stack<'_> {
    fn push(&mut self, name: &'static str, summary: impl Into<String>) {
        self.layers.push(Layer { name, summary: summary.into() });
    }

    fn broken(&mut self, name: &'static str, bytes: &[u8], why: Malformed) {
        self.push(name, format!("{why} ({} B)", bytes.len()));
    }

    fn ethernet(&mut self, bytes: &[u8]) {
        let frame = match EthernetFrame::parse(bytes) {
            Ok(frame) => frame,
            Err(why) => return self.broken("Ethernet", bytes, why),
        };
        self.push("Ethernet", format!("{} → {}", frame.source(), station(frame.destination())));
        for vlan in frame.vlans() {
            self.push("VLAN", format!("id {vlan}"));
        }
        match frame.ethertype() {
            ethertype::IPV4 | ethertype::IPV6 => self.ip(frame.payload()),
            ethertype::ARP => self.arp(frame.payload()),
            other => self.push("data", format!("EtherType {other:#06x}, {} B", frame.payload().len())),
        }
    }

    fn arp(&mut self, bytes: &[u8]) {
        match ArpPacket::parse(bytes) {
            Ok(arp) if arp.operation == Operation::Request => {
                self.push("ARP", format!("who has {}? tell {}", arp.target, arp.sender));
            }
            Ok(arp) => self.push("ARP", format!("{} is at {}", arp.sender, arp.sender_mac)),
            Err(why) => self.broken("ARP", bytes, why),
        }
    }

    fn ip(&mut self, bytes: &[u8]) {
        let packet = match IpPacket::parse_cut(bytes) {
            Ok(packet) => packet,
            Err(why) => return self.broken("IP", bytes, why),
        };
        let name = match packet.version() {
            Version::V4 => "IPv4",
            Version::V6 => "IPv6",
        };
        self.push(name, ip_summary(&packet));
        if packet.fragment() == Fragment::Later {
            return self.push("data", format!("from the middle of a packet, {} B", packet.payload().len()));
        }
        match (packet.protocol(), packet.version()) {
            (protocol::TCP, _) => self.tcp(packet.payload()),
            (protocol::UDP, _) => self.udp(packet.payload()),
            (protocol::ICMP, Version::V4) => self.icmp("ICMP", packet.payload(), icmp_v4_meaning),
            (protocol::ICMPV6, Version::V6) => self.icmp("ICMPv6", packet.payload(), icmp_v6_meaning),
            (other, _) => self.push("data", format!("protocol {other}, {} B", packet.payload().len())),
        }
    }

    fn tcp(&mut self, bytes: &[u8]) {
        let segment = match TcpSegment::parse(bytes) {
            Ok(segment) => segment,
            Err(why) => return self.broken("TCP", bytes, why),
        };
        let mut summary = format!("{} → {}", segment.source_port(), segment.destination_port());
        for (bit, name) in [
            (flags::SYN, "SYN"),
            (flags::FIN, "FIN"),
            (flags::RST, "RST"),
            (flags::PSH, "PSH"),
            (flags::ACK, "ACK"),
            (flags::URG, "URG"),
            (flags::ECE, "ECE"),
            (flags::CWR, "CWR"),
        ] {
            if segment.flags() & bit != 0 {
                let _ = write!(summary, " {name}");
            }
        }
        let _ = write!(
            summary,
            ", seq {}, ack {}, window {}",
            segment.sequence(),
            segment.acknowledgement(),
            segment.window()
        );
        if let Some(mss) = segment.mss() {
            let _ = write!(summary, ", mss {mss}");
        }
        let _ = write!(summary, ", {} B", segment.payload().len());
        self.push("TCP", summary);
    }

    fn udp(&mut self, bytes: &[u8]) {
        let datagram = match UdpDatagram::parse_cut(bytes) {
            Ok(datagram) => datagram,
            Err(why) => return self.broken("UDP", bytes, why),
        };
        let ports = [datagram.source_port(), datagram.destination_port()];
        self.push("UDP", format!("{} → {}, {} B", ports[0], ports[1], datagram.payload().len()));
        let to = |port: Option<u16>| port.is_some_and(|port| ports.contains(&port));
        if self.depth == MAX_DEPTH || datagram.payload().is_empty() {
            return;
        }
        self.depth += 1;
        if to(self.tunnels.vxlan) {
            self.vxlan(datagram.payload());
        } else if to(self.tunnels.adit) {
            self.message(datagram.payload());
        }
    }

    fn vxlan(&mut self, bytes: &[u8]) {
        let Some(([flags, _, _, _, a, b, c, _], frame)) = bytes.split_first_chunk::<VXLAN_HEADER_LEN>() else {
            return self.broken("VXLAN", bytes, Malformed::Truncated);
        };
        // The I flag: the identifier is valid.
        if flags & 0x08 == 0 {
            return self.broken("VXLAN", bytes, Malformed::Value);
        }
        self.push("VXLAN", format!("network {}", u32::from_be_bytes([0, *a, *b, *c])));
        self.ethernet(frame);
    }

    fn message(&mut self, bytes: &[u8]) {
        match message::classify(bytes) {
            Message::Plain(packet) => self.ip(packet),
            Message::Sealed(step, bytes) => self.encrypted("sealed", step, bytes),
            Message::WireGuard(step, bytes) => self.encrypted("WireGuard", step, bytes),
            Message::Unknown(bytes) => self.push("data", format!("{} B", bytes.len())),
        }
    }

    /// What those see of an encrypted message who do not have its keys: all that is said here lies in the clear.
    fn encrypted(&mut self, name: &'static str, step: Step, bytes: &[u8]) {
        let said = match step {
            Step::Initiation | Step::Response => Handshake::parse(bytes).map(|message| handshake_meaning(&message)),
            Step::Cookie => {
                CookieReply::parse(bytes).map(|reply| format!("cookie reply, receiver {:#010x}", reply.receiver))
            }
            Step::Data => DataHeader::parse(bytes).map(|header| data_meaning(&header, bytes.len())),
        };
        match said {
            Ok(meaning) => self.push(name, meaning),
            Err(why) => self.broken(name, bytes, why),
        }
    }

    fn icmp(&mut self, name: &'static str, bytes: &[u8], meaning: fn(&IcmpMessage<'_>) -> String) {
        match IcmpMessage::parse(bytes) {
            Ok(message) => self.push(name, meaning(&message)),
            Err(why) => self.broken(name, bytes, why),
        }
    }
}

fn station(address: MacAddress) -> String {
    if address == MacAddress::BROADCAST { "broadcast".to_owned() } else { address.to_string() }
}

fn handshake_meaning(message: &Handshake<'_>) -> String {
    let (sender, length) = (message.sender(), message.noise().len());
    let mut meaning = match message.step() {
        Step::Response => format!("handshake response, sender {sender:#010x}, receiver {:#010x}", message.receiver()),
        _ => format!("handshake initiation, sender {sender:#010x}"),
    };
    let _ = write!(meaning, ", {length} B of Noise");
    meaning
}

/// `length` is that of the whole message, as far as it was captured.
fn data_meaning(header: &DataHeader, length: usize) -> String {
    let mut meaning = format!("data, receiver {:#010x}", header.index());
    if header.protocol == Protocol::Sealed {
        let _ = write!(meaning, ", lane {}", header.receiver & LANE_MASK);
    }
    let _ = write!(meaning, ", counter {}, encrypted {} B", header.counter, length.saturating_sub(DATA_OVERHEAD));
    for (flag, word) in
        [(Flags::CHECKSUM_PARTIAL, "checksum partial"), (Flags::CONTINUES, "continues"), (Flags::CONTROL, "control")]
    {
        if header.flags.contains(flag) {
            let _ = write!(meaning, ", {word}");
        }
    }
    meaning
}

fn ip_summary(packet: &IpPacket<'_>) -> String {
    let mut summary = format!("{} → {}, {} B", packet.source(), packet.destination(), packet.total_len());
    if packet.bytes().len() < packet.total_len() {
        let _ = write!(summary, " ({} captured)", packet.bytes().len());
    }
    let _ = write!(summary, ", ttl {}", packet.ttl());
    if packet.version() == Version::V4 {
        let _ = write!(summary, ", id {}", packet.v4_id());
        summary.push_str(if packet.dont_fragment() { ", DF" } else { "" });
    }
    summary.push_str(match packet.fragment() {
        Fragment::None => "",
        Fragment::First => ", first fragment",
        Fragment::Later => ", later fragment",
    });
    summary.push_str(match packet.ecn() {
        Ecn::NotEct => "",
        Ecn::Ect0 => ", ECT(0)",
        Ecn::Ect1 => ", ECT(1)",
        Ecn::Ce => ", congestion experienced",
    });
    summary
}

fn echo(what: &str, message: &IcmpMessage<'_>) -> String {
    let [a, b, c, d] = message.rest();
    let (id, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    format!("echo {what}, id {id}, sequence {sequence}, {} B", message.payload().len())
}

fn icmp_v4_meaning(message: &IcmpMessage<'_>) -> String {
    use icmp::v4;
    let [_, _, high, low] = message.rest();
    match (message.kind(), message.code()) {
        (v4::ECHO_REQUEST, 0) => echo("request", message),
        (v4::ECHO_REPLY, 0) => echo("reply", message),
        (v4::UNREACHABLE, v4::NET_UNREACHABLE) => "network unreachable".to_owned(),
        (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => {
            format!("packet too big, mtu {}", u16::from_be_bytes([high, low]))
        }
        (v4::UNREACHABLE, v4::PROHIBITED) => "prohibited".to_owned(),
        (v4::UNREACHABLE, code) => format!("destination unreachable, code {code}"),
        (v4::TIME_EXCEEDED, _) => "time exceeded".to_owned(),
        (kind, code) => format!("type {kind}, code {code}"),
    }
}

fn icmp_v6_meaning(message: &IcmpMessage<'_>) -> String {
    use icmp::v6;
    match (message.kind(), message.code()) {
        (v6::ECHO_REQUEST, 0) => echo("request", message),
        (v6::ECHO_REPLY, 0) => echo("reply", message),
        (v6::UNREACHABLE, v6::NO_ROUTE) => "no route to destination".to_owned(),
        (v6::UNREACHABLE, v6::PROHIBITED) => "prohibited".to_owned(),
        (v6::UNREACHABLE, code) => format!("destination unreachable, code {code}"),
        (v6::PACKET_TOO_BIG, _) => format!("packet too big, mtu {}", u32::from_be_bytes(message.rest())),
        (v6::TIME_EXCEEDED, _) => "time exceeded".to_owned(),
        (v6::ROUTER_SOLICITATION, _) => "router solicitation".to_owned(),
        (v6::ROUTER_ADVERTISEMENT, _) => "router advertisement".to_owned(),
        (v6::NEIGHBOUR_SOLICITATION, _) => "neighbour solicitation".to_owned(),
        (v6::NEIGHBOUR_ADVERTISEMENT, _) => "neighbour advertisement".to_owned(),
        (kind, code) => format!("type {kind}, code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icmp::{IcmpHeader, Unreachable, error_reply};
    use crate::ip::IpHeader;
    use crate::message::HandshakeHeader;
    use crate::tcp::TcpHeader;
    use crate::udp::UdpHeader;

    const PORTS: TunnelPorts = TunnelPorts { adit: Some(8285), vxlan: Some(4789) };

    fn ip(host: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = IpHeader::new([10, host, 0, 1].into(), [10, host, 0, 2].into(), protocol);
        let mut bytes = vec![0; 20];
        header.emit(payload.len(), &mut bytes).unwrap();
        bytes.extend(payload);
        bytes
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 8 + payload.len()];
        UdpHeader { source_port: 40_000, destination_port: port }
            .emit(Default::default(), payload, &mut bytes)
            .unwrap();
        bytes
    }

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let header = TcpHeader {
            source_port: 1,
            destination_port: 2,
            sequence: 3,
            acknowledgement: 4,
            flags: flags::SYN | flags::ACK,
            window: 5,
            options: &[2, 4, 5, 0xb4],
        };
        let mut bytes = vec![0; 24 + payload.len()];
        header.emit(Default::default(), payload, &mut bytes).unwrap();
        bytes
    }

    fn text(link: LinkLayer, bytes: &[u8]) -> Vec<String> {
        let layers = describe(link, bytes, &PORTS);
        layers.into_iter().map(|layer| format!("{}: {}", layer.name, layer.summary)).collect()
    }

    #[test]
    fn a_packet_in_a_plain_tunnel() {
        let inner = ip(1, protocol::TCP, &tcp(b"xy"));
        let bytes = ip(0, protocol::UDP, &udp(8285, &inner));
        let expected = [
            "IPv4: 10.0.0.1 → 10.0.0.2, 74 B, ttl 64, id 0, DF",
            "UDP: 40000 → 8285, 46 B",
            "IPv4: 10.1.0.1 → 10.1.0.2, 46 B, ttl 64, id 0, DF",
            "TCP: 1 → 2 SYN ACK, seq 3, ack 4, window 5, mss 1460, 2 B",
        ];
        assert_eq!(text(LinkLayer::Ip, &bytes), expected);
        // A capture cut in the inner TCP header.
        let cut = text(LinkLayer::Ip, &bytes[..60]);
        assert_eq!(cut[0], "IPv4: 10.0.0.1 → 10.0.0.2, 74 B (60 captured), ttl 64, id 0, DF");
        assert_eq!(cut[3], "TCP: too short for its header (12 B)");
    }

    #[test]
    fn a_frame_in_vxlan() {
        let request = ArpPacket {
            operation: Operation::Request,
            sender_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            sender: [10, 0, 0, 1].into(),
            target_mac: MacAddress::default(),
            target: [10, 0, 0, 2].into(),
        };
        let vxlan = [&[8, 0, 0, 0, 0, 1, 2, 0][..], &request.emit_frame()].concat();
        let bytes = ip(0, protocol::UDP, &udp(4789, &vxlan));
        let expected =
            ["VXLAN: network 258", "Ethernet: 02:00:00:00:00:01 → broadcast", "ARP: who has 10.0.0.2? tell 10.0.0.1"];
        assert_eq!(text(LinkLayer::Ip, &bytes)[2..], expected);
        let reply = request.reply(MacAddress([2, 0, 0, 0, 0, 2])).unwrap();
        let tagged = [&reply.emit_frame()[..12], &[0x81, 0, 0, 5], &reply.emit_frame()[12..]].concat();
        let expected =
            ["Ethernet: 02:00:00:00:00:02 → 02:00:00:00:00:01", "VLAN: id 5", "ARP: 10.0.0.2 is at 02:00:00:00:00:02"];
        assert_eq!(text(LinkLayer::Ethernet, &tagged), expected);
    }

    #[test]
    fn icmp_in_words() {
        let mut echo = [0; 12];
        IcmpHeader { kind: 8, code: 0, rest: [0, 7, 0, 9] }.emit(None, &[0; 4], &mut echo).unwrap();
        let bytes = ip(0, protocol::ICMP, &echo);
        assert_eq!(text(LinkLayer::Ip, &bytes)[1], "ICMP: echo request, id 7, sequence 9, 4 B");
        let mut error = [0; 600];
        let original = ip(0, protocol::UDP, &udp(1, &[]));
        let original = IpPacket::parse(&original).unwrap();
        error_reply(&original, [10, 0, 0, 9].into(), Unreachable::TooBig { mtu: 1400 }, &mut error).unwrap();
        assert_eq!(text(LinkLayer::Ip, &error)[1], "ICMP: packet too big, mtu 1400");
    }

    #[test]
    fn of_encrypted_datagrams_their_headers_are_told() {
        let last = |payload: &[u8]| text(LinkLayer::Ip, &ip(0, protocol::UDP, &udp(8285, payload))).pop().unwrap();
        let header = DataHeader {
            protocol: Protocol::Sealed,
            flags: Flags::CHECKSUM_PARTIAL.with(Flags::CONTINUES),
            receiver: 0x0122_3347,
            counter: 9,
        };
        let data = |header: DataHeader| last(&[&header.emit()[..], &[0x45; 56]].concat());
        assert_eq!(
            data(header),
            "sealed: data, receiver 0x01223340, lane 7, counter 9, encrypted 40 B, checksum partial, continues"
        );
        let control = DataHeader { flags: Flags::CONTROL, ..header };
        assert_eq!(data(control), "sealed: data, receiver 0x01223340, lane 7, counter 9, encrypted 40 B, control");
        let wireguard = DataHeader { protocol: Protocol::WireGuard, flags: Flags::NONE, ..header };
        assert_eq!(data(wireguard), "WireGuard: data, receiver 0x01223347, counter 9, encrypted 40 B");
        let handshake = |protocol: Protocol, step| {
            let header = HandshakeHeader { protocol, step, sender: 0x10, receiver: 0x20 };
            last(&header.emit(&vec![7; protocol.noise_len(step)]).unwrap())
        };
        assert_eq!(
            handshake(Protocol::Sealed, Step::Initiation),
            "sealed: handshake initiation, sender 0x00000010, 120 B of Noise"
        );
        assert_eq!(
            handshake(Protocol::WireGuard, Step::Response),
            "WireGuard: handshake response, sender 0x00000010, receiver 0x00000020, 48 B of Noise"
        );
        let reply = CookieReply { protocol: Protocol::Sealed, receiver: 0x30, nonce: &[1; 24], sealed: &[2; 32] };
        assert_eq!(last(&reply.emit()), "sealed: cookie reply, receiver 0x00000030");
        assert_eq!(last(&[0xa4, 0, 0, 0, 9]), "sealed: too short for its header (5 B)");
        assert_eq!(last(&[1, 0, 0, 0, 9]), "WireGuard: too short for its header (5 B)");
        assert_eq!(last(&[0xff]), "data: 1 B");
        let message = [&header.emit()[..], &[0x45; 56]].concat();
        assert_eq!(text(LinkLayer::Message, &message), [data(header)]);
        assert_eq!(text(LinkLayer::Message, &ip(1, 99, &[]))[1], "data: protocol 99, 0 B");
        assert_eq!(last(&[]), "UDP: 40000 → 8285, 0 B");
    }

    #[test]
    fn tunnels_in_tunnels_end() {
        let mut bytes = ip(0, protocol::UDP, &udp(8285, &[0x45]));
        for _ in 0..20 {
            bytes = ip(0, protocol::UDP, &udp(8285, &bytes));
        }
        assert_eq!(text(LinkLayer::Ip, &bytes).len(), 2 * (MAX_DEPTH + 1));
    }

    #[test]
    fn every_cut_says_something() {
        let inner = ip(1, protocol::TCP, &tcp(b"xy"));
        let bytes = ip(0, protocol::UDP, &udp(8285, &inner));
        for length in 0..bytes.len() {
            for link in [LinkLayer::Ip, LinkLayer::Ethernet, LinkLayer::Message] {
                assert!(!describe(link, &bytes[..length], &PORTS).is_empty());
            }
        }
        assert_eq!(text(LinkLayer::Ip, &[]), ["IP: too short for its header (0 B)"]);
        assert_eq!(text(LinkLayer::Ethernet, &[0; 20]), ["Ethernet: undefined value in a header field (20 B)"]);
    }
}
