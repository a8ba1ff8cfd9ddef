//! Packets for tests against the kernel, built and taken apart by etherparse: an implementation that shares no code with ours.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::net::SocketAddr;

use etherparse::{
    IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetHeaders, PacketHeaders, TcpHeader, TransportHeader, UdpHeader,
};
use wire::vnet::{self, VnetHdr};

/// A TCP segment, a UDP datagram, or a super-packet of either.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    /// DSCP and ECN.
    pub(crate) class: u8,
    /// IPv4 only.
    pub(crate) id: u16,
    /// IPv4 only.
    pub(crate) dont_fragment: bool,
    /// `None` for UDP.
    pub(crate) tcp: Option<Tcp>,
    pub(crate) payload: Vec<u8>,
}

/// What is TCP's own in a [`Packet`]. ACK is always set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) psh: bool,
    pub(crate) cwr: bool,
    pub(crate) ece: bool,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl Packet {
    /// A packet without specialities.
    pub(crate) fn new(from: &str, to: &str, tcp: Option<Tcp>, payload: Vec<u8>) -> Self {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Self { from, to, ttl: 64, class: 0, id: 7, dont_fragment: true, tcp, payload }
    }

    /// The bytes with all checksums right, those of a super-packet as if it were one packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let protocol = if self.tcp.is_some() { IpNumber::TCP } else { IpNumber::UDP };
        let upper_len = u16::try_from(self.upper_header_len() + self.payload.len()).unwrap();
        let mut bytes = Vec::new();
        let (from, to) = (self.from.port(), self.to.port());
        match (self.from, self.to) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                let (source, destination) = (source.ip().octets(), destination.ip().octets());
                let mut ip = Ipv4Header::new(upper_len, self.ttl, protocol, source, destination).unwrap();
                ip.dscp = (self.class >> 2).try_into().unwrap();
                ip.ecn = (self.class & 3).try_into().unwrap();
                ip.identification = self.id;
                ip.dont_fragment = self.dont_fragment;
                ip.header_checksum = ip.calc_header_checksum();
                ip.write(&mut bytes).unwrap();
                if let Some(mut tcp) = self.tcp_header() {
                    tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
                    tcp.write(&mut bytes).unwrap();
                } else {
                    UdpHeader::with_ipv4_checksum(from, to, &ip, &self.payload).unwrap().write(&mut bytes).unwrap();
                }
            }
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(0x54321).unwrap(),
                    payload_length: upper_len,
                    next_header: protocol,
                    hop_limit: self.ttl,
                    source: source.ip().octets(),
                    destination: destination.ip().octets(),
                };
                ip.write(&mut bytes).unwrap();
                if let Some(mut tcp) = self.tcp_header() {
                    tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
                    tcp.write(&mut bytes).unwrap();
                } else {
                    UdpHeader::with_ipv6_checksum(from, to, &ip, &self.payload).unwrap().write(&mut bytes).unwrap();
                }
            }
            _ => panic!("both addresses are of one family"),
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// As a device with offloads hands it over, to be split into segments of `size` bytes of payload.
    pub(crate) fn super_packet(&self, size: u16) -> (VnetHdr, Vec<u8>) {
        let mut bytes = self.bytes();
        let ip_len = self.ip_len();
        let (checksum_at, protocol) = if self.tcp.is_some() { (16, 6) } else { (6, 17) };
        // The pseudo-header's sum, word by word.
        let addresses = if self.from.is_ipv6() { &bytes[8..40] } else { &bytes[12..20] };
        let words = addresses.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let mut sum = words.sum::<u32>() + protocol + (bytes.len() - ip_len) as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[ip_len + checksum_at..][..2].copy_from_slice(&(sum as u16).to_be_bytes());
        let gso_type = match (&self.tcp, self.from.is_ipv6()) {
            (None, _) => vnet::GSO_UDP_L4,
            (Some(tcp), six) => {
                let ecn = if tcp.cwr { vnet::GSO_ECN } else { 0 };
                (if six { vnet::GSO_TCPV6 } else { vnet::GSO_TCPV4 }) | ecn
            }
        };
        let header = VnetHdr {
            flags: vnet::NEEDS_CSUM,
            gso_type,
            hdr_len: (ip_len + self.upper_header_len()) as u16,
            gso_size: size,
            csum_start: ip_len as u16,
            csum_offset: checksum_at as u16,
        };
        (header, bytes)
    }

    fn ip_len(&self) -> usize {
        if self.from.is_ipv6() { 40 } else { 20 }
    }

    fn upper_header_len(&self) -> usize {
        self.tcp.as_ref().map_or(8, |tcp| 20 + tcp.options.len())
    }

    /// Bytes of all headers.
    pub(crate) fn header_len(&self) -> usize {
        self.ip_len() + self.upper_header_len()
    }

    fn tcp_header(&self) -> Option<TcpHeader> {
        let from = self.tcp.as_ref()?;
        let mut tcp = TcpHeader::new(self.from.port(), self.to.port(), from.sequence, 65_000);
        tcp.ack = true;
        tcp.acknowledgment_number = from.acknowledgement;
        (tcp.syn, tcp.fin, tcp.psh, tcp.cwr, tcp.ece) = (from.syn, from.fin, from.psh, from.cwr, from.ece);
        tcp.set_options_raw(&from.options).unwrap();
        Some(tcp)
    }
}

/// What a complete packet says, after its length fields and all its checksums were found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) ports: (u16, u16),
    /// `None` for UDP.
    pub(crate) tcp: Option<TcpHeader>,
    pub(crate) payload: Vec<u8>,
}

/// Takes a complete TCP or UDP packet apart; fails if anything about it is wrong.
pub(crate) fn examine(bytes: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ip_slice(bytes).unwrap();
    let payload = headers.payload.slice().to_vec();
    let ip = headers.net.unwrap();
    match &ip {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 header checksum");
            assert_eq!(usize::from(ip.total_len), bytes.len(), "IPv4 length");
        }
        NetHeaders::Ipv6(ip, _) => assert_eq!(usize::from(ip.payload_length) + 40, bytes.len(), "IPv6 length"),
        NetHeaders::Arp(_) => panic!("not IP"),
    }
    match headers.transport.unwrap() {
        TransportHeader::Tcp(tcp) => {
            let sum = match &ip {
                NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, &payload).unwrap(),
                NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, &payload).unwrap(),
                NetHeaders::Arp(_) => panic!("not IP"),
            };
            assert_eq!(tcp.checksum, sum, "TCP checksum");
            Seen { ports: (tcp.source_port, tcp.destination_port), tcp: Some(tcp), payload }
        }
        TransportHeader::Udp(udp) => {
            let sum = match &ip {
                NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, &payload).unwrap(),
                NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, &payload).unwrap(),
                NetHeaders::Arp(_) => panic!("not IP"),
            };
            assert_eq!(udp.checksum, sum, "UDP checksum");
            assert_eq!(usize::from(udp.length), 8 + payload.len(), "UDP length");
            Seen { ports: (udp.source_port, udp.destination_port), tcp: None, payload }
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}

/// Bytes in which every shift and every exchange shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ length as u64;
    let mut next = || {
        // xorshift64 (Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
