//! Packets for tests, built by etherparse: an implementation that shares no code with ours.
#![allow(dead_code, reason = "each test crate uses its part")]
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};
use proptest::prelude::*;
use wire::ip::IpPacket;
use wire::segment::SuperPacket;
use wire::vnet::{self, VnetHdr};

/// One TCP segment or UDP datagram by its fields.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// Last byte of the addresses.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) class: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) label: u32,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// The lowest of the reserved bits beside the header length.
    pub(crate) reserved: bool,
    pub(crate) push: bool,
    pub(crate) fin: bool,
    pub(crate) syn: bool,
    pub(crate) congestion_echo: bool,
    pub(crate) window_reduced: bool,
    /// TCP options; a multiple of four.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// The packet's bytes, all checksums right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let protocol = if self.tcp { IpNumber::TCP } else { IpNumber::UDP };
        let upper_header = if self.tcp { 20 + self.options.len() } else { 8 };
        let upper_len = upper_header + self.payload.len();
        let mut bytes = Vec::new();
        if self.v6 {
            let mut source = [0xfd; 16];
            source[15] = self.hosts.0;
            let mut destination = [0xfd; 16];
            destination[15] = self.hosts.1;
            let ip = Ipv6Header {
                traffic_class: self.class,
                flow_label: Ipv6FlowLabel::try_new(self.label).unwrap(),
                payload_length: u16::try_from(upper_len).unwrap(),
                next_header: protocol,
                hop_limit: self.ttl,
                source,
                destination,
            };
            ip.write(&mut bytes).unwrap();
            if self.tcp {
                let mut tcp = self.tcp_header();
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
                tcp.write(&mut bytes).unwrap();
            } else {
                let (from, to) = self.ports;
                UdpHeader::with_ipv6_checksum(from, to, &ip, &self.payload).unwrap().write(&mut bytes).unwrap();
            }
        } else {
            let payload_len = u16::try_from(upper_len).unwrap();
            let source = [10, 0, 0, self.hosts.0];
            let mut ip = Ipv4Header::new(payload_len, self.ttl, protocol, source, [10, 0, 0, self.hosts.1]).unwrap();
            ip.dscp = (self.class >> 2).try_into().unwrap();
            ip.ecn = (self.class & 3).try_into().unwrap();
            ip.identification = self.id;
            ip.dont_fragment = self.dont_fragment;
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut bytes).unwrap();
            if self.tcp {
                let mut tcp = self.tcp_header();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
                tcp.write(&mut bytes).unwrap();
            } else {
                let (from, to) = self.ports;
                UdpHeader::with_ipv4_checksum(from, to, &ip, &self.payload).unwrap().write(&mut bytes).unwrap();
            }
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn tcp_header(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.ports.0, self.ports.1, self.sequence, self.window);
        tcp.ack = true;
        tcp.acknowledgment_number = self.acknowledgement;
        (tcp.psh, tcp.fin, tcp.syn) = (self.push, self.fin, self.syn);
        (tcp.urgent_pointer, tcp.ns) = (self.urgent, self.reserved);
        (tcp.ece, tcp.cwr) = (self.congestion_echo, self.window_reduced);
        tcp.set_options_raw(&self.options).unwrap();
        tcp
    }
}

/// A TCP segment or UDP datagram between two hosts, with `payload`.
pub(crate) fn plain(v6: bool, tcp: bool, payload: &[u8]) -> Segment {
    Segment {
        v6,
        tcp,
        hosts: (1, 2),
        ports: (40_000, 5201),
        class: 2,
        ttl: 63,
        id: 0xfffe,
        dont_fragment: tcp,
        label: 0x12345,
        sequence: 0xffff_fff0,
        acknowledgement: 1,
        window: 512,
        urgent: 0,
        reserved: false,
        push: false,
        fin: false,
        syn: false,
        congestion_echo: false,
        window_reduced: false,
        options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        payload: payload.to_vec(),
    }
}

/// A run of segments as one sender's segmentation makes it: equal sizes, then perhaps a shorter one with PSH or FIN.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) first: Segment,
    pub(crate) size: usize,
    pub(crate) full: usize,
    /// Bytes of the shorter last segment, 0 for none.
    pub(crate) last: usize,
    pub(crate) push: bool,
    pub(crate) fin: bool,
}

impl Stream {
    pub(crate) fn payload_len(&self) -> usize {
        self.size * self.full + self.last
    }

    pub(crate) fn header_len(&self) -> usize {
        (if self.first.v6 { 40 } else { 20 }) + if self.first.tcp { 20 + self.first.options.len() } else { 8 }
    }

    pub(crate) fn count(&self) -> usize {
        self.full + usize::from(self.last > 0)
    }

    fn payload(&self) -> Vec<u8> {
        let seed = self.first.sequence as usize;
        (0..self.payload_len()).map(|at| ((at * 31 + seed) ^ (at >> 8)) as u8).collect()
    }

    /// The segments as the sender's segmentation makes them.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let payload = self.payload();
        let count = self.count();
        let pieces = payload.chunks(self.size).enumerate();
        pieces
            .map(|(index, piece)| Segment {
                id: self.first.id.wrapping_add(index as u16),
                sequence: self.first.sequence.wrapping_add((index * self.size) as u32),
                push: self.push && index + 1 == count,
                fin: self.fin && index + 1 == count,
                window_reduced: self.first.window_reduced && index == 0,
                payload: piece.to_vec(),
                ..self.first.clone()
            })
            .collect()
    }

    /// The same data under one set of headers, as a device hands it over.
    pub(crate) fn super_packet(&self) -> (VnetHdr, Vec<u8>) {
        let whole = Segment { push: self.push, fin: self.fin, payload: self.payload(), ..self.first.clone() };
        let mut bytes = whole.bytes();
        let ip_len = if whole.v6 { 40 } else { 20 };
        let checksum_at = if whole.tcp { 16 } else { 6 };
        let gso_type = match (whole.tcp, whole.v6) {
            (false, _) => vnet::GSO_UDP_L4,
            (true, false) => vnet::GSO_TCPV4,
            (true, true) => vnet::GSO_TCPV6,
        };
        // The pseudo-header's sum, word by word.
        let addresses = if whole.v6 { &bytes[8..40] } else { &bytes[12..20] };
        let words = addresses.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let mut sum = words.sum::<u32>() + if whole.tcp { 6 } else { 17 } + (bytes.len() - ip_len) as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let field = ip_len + checksum_at;
        bytes[field..field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        let vnet = VnetHdr {
            flags: vnet::NEEDS_CSUM,
            gso_type,
            hdr_len: self.header_len() as u16,
            gso_size: self.size as u16,
            csum_start: ip_len as u16,
            csum_offset: checksum_at as u16,
        };
        (vnet, bytes)
    }
}

prop_compose! {
    fn segment()(
        (v6, tcp) in any::<(bool, bool)>(),
        hosts in (1..5u8, 5..9u8),
        ports in (1..4u16, 4..8u16),
        (class, ttl, id, dont_fragment) in any::<(u8, u8, u16, bool)>(),
        label in 0..1u32 << 20,
        (sequence, acknowledgement, window, congestion_echo) in any::<(u32, u32, u16, bool)>(),
        (urgent, reserved) in any::<(u16, bool)>(),
        options in prop_oneof![
            Just(vec![]),
            Just(vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            (0..=10usize).prop_map(|words| vec![1; words * 4]),
        ],
    ) -> Segment {
        Segment {
            v6, tcp, hosts, ports, class, ttl, id, dont_fragment, label, sequence, acknowledgement, window, urgent, reserved,
            push: false, fin: false, syn: false, congestion_echo, window_reduced: false, options, payload: vec![],
        }
    }
}

/// Streams that fit one super-packet: at least two segments, at most 64 datagrams and 65,535 bytes.
pub(crate) fn stream() -> impl Strategy<Value = Stream> {
    let shape = (1..2_000usize, 1..=63usize, any::<prop::sample::Index>(), any::<[bool; 3]>());
    (segment(), shape).prop_map(|(first, (size, full, last, [has_last, push, fin]))| {
        let mut stream = Stream { first, size, full, last: 0, push, fin };
        if !stream.first.tcp {
            (stream.push, stream.fin) = (false, false);
        }
        stream.full = full.min((60_000 - stream.header_len()) / size).max(2);
        if has_last && size > 1 {
            stream.last = 1 + last.index(size - 1);
        }
        stream
    })
}

/// The packets that a device's reader gets from what was written to it.
pub(crate) fn split(vnet: VnetHdr, bytes: &[u8]) -> Vec<Vec<u8>> {
    let packet = SuperPacket::parse(vnet, IpPacket::parse(bytes).unwrap()).unwrap();
    let mut out = vec![0; packet.segment_len()];
    (0..packet.count())
        .map(|index| {
            let length = packet.emit(index, &mut out);
            assert_eq!(length, packet.len_of(index));
            out[..length].to_vec()
        })
        .collect()
}

/// A packet as it arrives with a partial checksum: what is in the field means nothing.
pub(crate) fn without_checksum(bytes: &[u8], garbage: u16) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let packet = IpPacket::parse(&bytes).unwrap();
    let at = packet.header_len() + if packet.protocol() == 6 { 16 } else { 6 };
    bytes[at..at + 2].copy_from_slice(&garbage.to_be_bytes());
    bytes
}

/// A packet with a checksum of 0 in one of the two ways to write it: who completes a single one cannot know which was meant.
pub(crate) fn with_one_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    let packet = IpPacket::parse(&bytes).unwrap();
    let at = packet.header_len() + if packet.protocol() == 6 { 16 } else { 6 };
    if bytes[at..at + 2] == [0xff, 0xff] {
        bytes[at..at + 2].fill(0);
    }
    bytes
}
