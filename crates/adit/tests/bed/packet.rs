//! Packets made by hand, by etherparse: an implementation that shares no code with ours.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, UdpHeader};
use wire::ecn::Ecn;

/// In all payloads of 16 bytes or more, again and again, so that they are known wherever they are seen in the clear.
pub(crate) const MARK: &[u8; 16] = b"adit-must-hide-!";

/// Bytes from one mark to the next: each packet of a stream holds some.
const MARK_SPACING: usize = 64;

/// A UDP packet and what tests vary about it.
#[derive(Clone, Debug)]
pub(crate) struct UdpPacket {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) ecn: Ecn,
    pub(crate) dont_fragment: bool,
    pub(crate) payload: Vec<u8>,
}

impl UdpPacket {
    pub(crate) fn new(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Self {
        let (from, to) = (from.into(), to.into());
        Self { from, to, ttl: 64, ecn: Ecn::NotEct, dont_fragment: true, payload: payload.to_vec() }
    }

    /// Its bytes, checksums right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let length = u16::try_from(8 + self.payload.len()).unwrap();
        let (from, to) = (self.from.port(), self.to.port());
        match (self.from, self.to) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                let (source, destination) = (source.ip().octets(), destination.ip().octets());
                let mut ip = Ipv4Header::new(length, self.ttl, IpNumber::UDP, source, destination).unwrap();
                ip.ecn = self.ecn.bits().try_into().unwrap();
                ip.dont_fragment = self.dont_fragment;
                ip.identification = 4711;
                ip.header_checksum = ip.calc_header_checksum();
                ip.write(&mut bytes).unwrap();
                UdpHeader::with_ipv4_checksum(from, to, &ip, &self.payload).unwrap().write(&mut bytes).unwrap();
            }
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    traffic_class: self.ecn.bits(),
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length,
                    next_header: IpNumber::UDP,
                    hop_limit: self.ttl,
                    source: source.ip().octets(),
                    destination: destination.ip().octets(),
                };
                ip.write(&mut bytes).unwrap();
                UdpHeader::with_ipv6_checksum(from, to, &ip, &self.payload).unwrap().write(&mut bytes).unwrap();
            }
            _ => panic!("both addresses are of one family"),
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// An Ethernet frame with a UDP datagram over IPv4, from and to whomever.
pub(crate) fn frame(macs: ([u8; 6], [u8; 6]), from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { panic!("IPv4") };
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(source.octets(), destination.octets(), 64);
    let mut frame = Vec::with_capacity(14 + 20 + 8 + payload.len());
    builder.udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
    frame
}

/// Random numbers that are the same in every run.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// xorshift64 (Marsaglia, 2003).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 16) % limit as u64) as usize
    }

    /// A payload: random bytes, with the [`MARK`] in between.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = self.noise(length);
        for piece in bytes.chunks_mut(MARK_SPACING) {
            if let Some(start) = piece.first_chunk_mut() {
                *start = *MARK;
            }
        }
        bytes
    }

    /// Random bytes, and nothing else.
    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
