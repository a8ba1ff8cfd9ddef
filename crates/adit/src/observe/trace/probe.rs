//! What probes look like, and how they are known again wherever they pass.
//!
//! Of ICMP and UDP each packet carries, right behind the eight bytes of its header, the trace's random number of 64 bits and the number of
//! the probe; a super-packet carries both at the start of every segment. A TCP SYN has no room for that: there the sequence number, and the
//! port that it is sent from, follow from the number.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use wire::icmp::{self, IcmpHeader, IcmpMessage, v4, v6};
use wire::ip::{Fragment, IpHeader, IpPacket, V4_HEADER_LEN, V6_HEADER_LEN, Version, protocol};
use wire::tcp::{self, TcpHeader, TcpSegment, flags};
use wire::udp::UdpDatagram;

use super::observation::Protocol;

/// Probes of one trace at most: as many as the low bits of a TCP sequence number tell apart.
pub(super) const MAX_PROBES: u32 = 32;

/// How many sequence numbers belong to a trace: a power of two, of which [`MAX_PROBES`] are used.
pub(super) const NUMBERS: u32 = 64;

/// Bytes of marker and number.
pub(super) const STAMP: usize = 12;

/// The smallest probes, as they leave, with the payload that ping(8) sends by default.
pub(super) const SMALL: u32 = 84;

/// The bytes of one super-packet, headers not counted.
pub(super) const SUPER_PACKET: usize = 32 << 10;

/// Bytes of a TCP header before the sequence number.
const PORTS: usize = 4;

/// The codes of "port unreachable" (RFC 792, RFC 4443).
const PORT_V4: u8 = 3;
const PORT_V6: u8 = 4;

/// What tells the probes of one trace from all other packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sought {
    /// What they are.
    pub protocol: Protocol,
    /// The trace's random number.
    pub marker: u64,
    /// Where they go, of UDP and TCP.
    pub port: u16,
    /// Their destination, where nothing else is to be seen: a peer that asks chooses the number, which may be what others' packets begin
    /// with. This host's own operator may follow a probe whose destination is changed on its way.
    #[serde(default)]
    pub only: Option<IpAddr>,
}

/// Which way a packet of the trace goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// To the destination.
    Forth,
    /// Its answer; that of a closed UDP port is one as well.
    Back,
    /// An ICMP error about it, which says why it does not arrive.
    Error,
}

/// A probe that was known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spotted {
    /// Its number.
    pub probe: u32,
    /// Which way it goes.
    pub course: Course,
}

impl Sought {
    /// The lowest sequence number of a TCP probe.
    pub(super) fn sequence(&self) -> u32 {
        (self.marker >> 32) as u32 & !(NUMBERS - 1)
    }

    /// The port that the first TCP probe is sent from.
    fn source_port(&self) -> u16 {
        0x8000 | (self.marker as u16 & 0x3fc0)
    }

    /// Which probe a packet is, from its IP header on; its end may be missing.
    #[must_use]
    pub fn spot(&self, packet: &[u8]) -> Option<Spotted> {
        let packet = IpPacket::parse_cut(packet).ok()?;
        if packet.fragment() == Fragment::Later {
            return None;
        }
        let spotted = self.spot_any(&packet)?;
        let Some(only) = self.only else { return Some(spotted) };
        let about = match spotted.course {
            Course::Forth => packet.destination(),
            Course::Back => packet.source(),
            Course::Error => {
                let message = IcmpMessage::parse(packet.payload()).ok()?;
                IpPacket::parse_cut(message.payload()).ok()?.destination()
            }
        };
        (about == only).then_some(spotted)
    }

    fn spot_any(&self, packet: &IpPacket<'_>) -> Option<Spotted> {
        let payload = packet.payload();
        match packet.protocol() {
            protocol::ICMP | protocol::ICMPV6 => self.spot_icmp(packet),
            protocol::UDP if self.protocol == Protocol::Udp => {
                let datagram = UdpDatagram::parse_cut(payload).ok()?;
                let course = if datagram.destination_port() == self.port { Course::Forth } else { Course::Back };
                Some(Spotted { probe: self.number(datagram.payload())?, course })
            }
            protocol::TCP if self.protocol == Protocol::Tcp => self.spot_tcp(payload),
            _ => None,
        }
    }

    fn spot_icmp(&self, packet: &IpPacket<'_>) -> Option<Spotted> {
        let message = IcmpMessage::parse(packet.payload()).ok()?;
        let course = match (packet.version(), message.kind()) {
            (Version::V4, v4::ECHO_REQUEST) | (Version::V6, v6::ECHO_REQUEST) => Course::Forth,
            (Version::V4, v4::ECHO_REPLY) | (Version::V6, v6::ECHO_REPLY) => Course::Back,
            _ => {
                let quoted = IpPacket::parse_cut(message.payload()).ok()?;
                // An error about an error does not exist.
                let probe = match quoted.protocol() {
                    protocol::ICMP | protocol::ICMPV6 if self.protocol == Protocol::Icmp => {
                        self.number(quoted.payload().get(icmp::HEADER_LEN..)?)?
                    }
                    protocol::UDP if self.protocol == Protocol::Udp => {
                        self.number(quoted.payload().get(wire::udp::HEADER_LEN..)?)?
                    }
                    protocol::TCP if self.protocol == Protocol::Tcp => {
                        let sequence = quoted.payload().get(PORTS..)?.first_chunk()?;
                        self.numbered(u32::from_be_bytes(*sequence))?
                    }
                    _ => return None,
                };
                let is_closed = matches!(
                    (packet.version(), message.kind(), message.code()),
                    (Version::V4, v4::UNREACHABLE, PORT_V4) | (Version::V6, v6::UNREACHABLE, PORT_V6)
                );
                // A closed port is an answer of UDP alone: to others a firewall says so.
                let is_udp = quoted.protocol() == protocol::UDP;
                let answers = is_closed && is_udp && packet.source() == quoted.destination();
                let course = if answers { Course::Back } else { Course::Error };
                return Some(Spotted { probe, course });
            }
        };
        let probe = self.number(message.payload()).filter(|_| self.protocol == Protocol::Icmp)?;
        Some(Spotted { probe, course })
    }

    pub(super) fn spot_tcp(&self, segment: &[u8]) -> Option<Spotted> {
        let segment = TcpSegment::parse(segment).ok()?;
        let (syn, ack) = (segment.flags() & flags::SYN != 0, segment.flags() & flags::ACK != 0);
        if ack && segment.source_port() == self.port && (syn || segment.flags() & flags::RST != 0) {
            let probe = self.numbered(segment.acknowledgement().wrapping_sub(1))?;
            return Some(Spotted { probe, course: Course::Back });
        }
        let is_probe = syn && !ack && segment.destination_port() == self.port;
        let probe = is_probe.then(|| self.numbered(segment.sequence())).flatten()?;
        Some(Spotted { probe, course: Course::Forth })
    }

    /// The number behind the marker, if that is ours.
    pub(super) fn number(&self, payload: &[u8]) -> Option<u32> {
        let stamp = payload.first_chunk::<STAMP>()?;
        let (marker, number) = stamp.split_first_chunk::<8>()?;
        let number = u32::from_be_bytes(*number.first_chunk()?);
        (u64::from_be_bytes(*marker) == self.marker && number < MAX_PROBES).then_some(number)
    }

    fn numbered(&self, sequence: u32) -> Option<u32> {
        Some(sequence.wrapping_sub(self.sequence())).filter(|number| *number < MAX_PROBES)
    }

    /// The payload of ICMP and UDP probes: `length` bytes, with a stamp at the start of every `segment` of them.
    #[must_use]
    pub(super) fn payload(&self, probe: u32, length: usize, segment: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let (marker, number) = (self.marker.to_be_bytes(), probe.to_be_bytes());
        for part in bytes.chunks_mut(segment.max(STAMP)) {
            part.iter_mut().zip(marker.iter().chain(&number)).for_each(|(to, from)| *to = *from);
        }
        bytes
    }

    /// An echo request of an IP packet of `size` bytes.
    #[must_use]
    pub(super) fn echo_request(&self, probe: u32, size: u32, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let header = if to.is_ipv4() { V4_HEADER_LEN } else { V6_HEADER_LEN };
        let length = (size as usize).saturating_sub(header + icmp::HEADER_LEN).max(STAMP);
        let payload = self.payload(probe, length, length);
        let [a, b] = (self.marker as u16).to_be_bytes();
        let [c, d] = (probe as u16).to_be_bytes();
        let (kind, pseudo) = if to.is_ipv4() {
            (v4::ECHO_REQUEST, None)
        } else {
            (v6::ECHO_REQUEST, Some(pseudo(from, to, protocol::ICMPV6)))
        };
        let mut message = vec![0; icmp::HEADER_LEN + length];
        // The buffer is as long as header and payload: it always fits.
        let _ = IcmpHeader { kind, code: 0, rest: [a, b, c, d] }.emit(pseudo, &payload, &mut message);
        message
    }

    /// The segment that opens a connection.
    #[must_use]
    pub(super) fn syn(&self, probe: u32, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let header = TcpHeader {
            source_port: self.source_port().wrapping_add(probe as u16),
            destination_port: self.port,
            sequence: self.sequence().wrapping_add(probe),
            flags: flags::SYN,
            window: 64240,
            ..TcpHeader::default()
        };
        let mut segment = vec![0; tcp::HEADER_LEN];
        // The buffer is as long as the header: it always fits.
        let _ = header.emit(pseudo(from, to, protocol::TCP), &[], &mut segment);
        segment
    }
}

/// The sum over the addresses that checksums begin with.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8) -> wire::checksum::Sum {
    IpHeader::new(from, to, protocol).pseudo_header()
}
