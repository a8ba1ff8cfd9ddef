//! ICMP (RFC 792) and ICMPv6 (RFC 4443): messages, answers to echo requests, and the errors a router owes a sender.

use std::net::IpAddr;

use crate::Malformed;
use crate::checksum::Sum;
use crate::ip::{Fragment, IpHeader, IpPacket, Version, protocol};

/// Bytes of a message's header: type, code, checksum, and four bytes whose meaning depends on the type.
pub const HEADER_LEN: usize = 8;
/// The longest packet [`error_reply`] writes for IPv4 (RFC 1812, section 4.3.2.3).
pub const V4_ERROR_MAX: usize = 576;
/// The longest packet [`error_reply`] writes: the smallest IPv6 MTU (RFC 4443, section 2.4 (c)).
pub const ERROR_MAX: usize = 1280;

/// Message types and codes of ICMP for IPv4.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench, an error (deprecated by RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect, an error.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Code of [`UNREACHABLE`]: no route to the network.
    pub const NET_UNREACHABLE: u8 = 0;
    /// Code of [`UNREACHABLE`]: fragmentation needed and DF set (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of [`UNREACHABLE`]: communication administratively prohibited (RFC 1812).
    pub const PROHIBITED: u8 = 13;
}

/// Message types and codes of ICMPv6.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Types below this one are errors.
    pub const INFORMATIONAL: u8 = 128;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation (RFC 4861), as are the next four.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Code of [`UNREACHABLE`]: no route to destination.
    pub const NO_ROUTE: u8 = 0;
    /// Code of [`UNREACHABLE`]: communication administratively prohibited.
    pub const PROHIBITED: u8 = 1;
}

/// A view of an ICMP or ICMPv6 message that passed [`IcmpMessage::parse`].
#[derive(Clone, Copy, Debug)]
pub struct IcmpMessage<'a> {
    fixed: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> IcmpMessage<'a> {
    /// Takes the message that fills `bytes`, an IP packet's payload.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, payload) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
        Ok(Self { fixed, payload })
    }

    /// Message type.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.fixed[0]
    }

    /// Code, a detail of the type.
    #[inline]
    #[must_use]
    pub fn code(&self) -> u8 {
        self.fixed[1]
    }

    /// The checksum field.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// Bytes 4 to 8 of the header: identifier and sequence of an echo, the MTU of a "too big".
    #[inline]
    #[must_use]
    pub fn rest(&self) -> [u8; 4] {
        [self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]]
    }

    /// What follows the header.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The header of a message to be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IcmpHeader {
    /// Message type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Bytes 4 to 8.
    pub rest: [u8; 4],
}

impl IcmpHeader {
    /// Writes header and payload to the front of `out` and completes the checksum over `pseudo`: the empty sum for
    /// IPv4, [`IpPacket::pseudo_header`] (length not yet added) for IPv6. Returns the message's length, or `None` if
    /// it does not fit `out` or is longer than an IP packet may be.
    pub fn emit(&self, pseudo: Option<Sum>, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let length = HEADER_LEN + payload.len();
        let length_field = u16::try_from(length).ok()?;
        let (fixed, body) = out.get_mut(..length)?.split_first_chunk_mut::<HEADER_LEN>()?;
        let [a, b, c, d] = self.rest;
        *fixed = [self.kind, self.code, 0, 0, a, b, c, d];
        let pseudo = pseudo.map_or(Sum::default(), |sum| sum.add_u16(length_field));
        let checksum = pseudo.add(fixed).copy(body, payload).finish();
        fixed[2..4].copy_from_slice(&checksum.to_be_bytes());
        Some(length)
    }
}

/// Why a packet cannot go where it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// No route to the destination.
    NoRoute,
    /// The packet is larger than the link carries and must not be fragmented.
    TooBig {
        /// The largest IP packet the link carries, in bytes.
        mtu: u32,
    },
    /// A rule forbids it.
    Prohibited,
}

/// Writes to the front of `out` the whole IP packet that tells the sender of `original` why it was not delivered, and
/// returns its length. `source` is the address of the node that answers. [`ERROR_MAX`] bytes are always enough.
///
/// `None` where no error may be sent (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)): about
/// an ICMP error, about a later fragment, to or about an address that is not that of one host. Also if `source` is of
/// the other IP version, or `out` is too short.
pub fn error_reply(original: &IpPacket<'_>, source: IpAddr, what: Unreachable, out: &mut [u8]) -> Option<usize> {
    if !may_complain(original, what) {
        return None;
    }
    let (kind, code, rest, longest) = match original.version() {
        Version::V4 => {
            let (code, rest) = match what {
                Unreachable::NoRoute => (v4::NET_UNREACHABLE, [0; 4]),
                Unreachable::Prohibited => (v4::PROHIBITED, [0; 4]),
                Unreachable::TooBig { mtu } => {
                    let [high, low] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
                    (v4::FRAGMENTATION_NEEDED, [0, 0, high, low])
                }
            };
            (v4::UNREACHABLE, code, rest, V4_ERROR_MAX)
        }
        Version::V6 => match what {
            Unreachable::NoRoute => (v6::UNREACHABLE, v6::NO_ROUTE, [0; 4], ERROR_MAX),
            Unreachable::Prohibited => (v6::UNREACHABLE, v6::PROHIBITED, [0; 4], ERROR_MAX),
            Unreachable::TooBig { mtu } => (v6::PACKET_TOO_BIG, 0, mtu.to_be_bytes(), ERROR_MAX),
        },
    };
    // RFC 1812, section 4.3.2.5: errors have precedence "internetwork control"; RFC 4443 asks for nothing.
    let (protocol, traffic_class) = match original.version() {
        Version::V4 => (protocol::ICMP, 0xc0),
        Version::V6 => (protocol::ICMPV6, 0),
    };
    let ip = IpHeader { traffic_class, ..IpHeader::new(source, original.source(), protocol) };
    let quote_max = longest - ip.header_len() - HEADER_LEN;
    let quote = original.bytes().get(..quote_max).unwrap_or(original.bytes());
    emit_packet(&ip, IcmpHeader { kind, code, rest }, quote, out)
}

/// Writes to the front of `out` the packet that answers an echo request, and returns its length. Options and extension
/// headers of the request are not returned.
///
/// `None` if the packet is no echo request to and from a single host, is a fragment or has a wrong checksum, or `out` is
/// too short.
pub fn echo_reply(request: &IpPacket<'_>, out: &mut [u8]) -> Option<usize> {
    let (protocol, asked, answer) = match request.version() {
        Version::V4 => (protocol::ICMP, v4::ECHO_REQUEST, v4::ECHO_REPLY),
        Version::V6 => (protocol::ICMPV6, v6::ECHO_REQUEST, v6::ECHO_REPLY),
    };
    let message = IcmpMessage::parse(request.payload()).ok()?;
    let is_request = request.protocol() == protocol
        && request.fragment() == Fragment::None
        && (message.kind(), message.code()) == (asked, 0)
        && is_one_host(request.source())
        && is_one_host(request.destination())
        && checksum_sum(request).is_valid();
    if !is_request {
        return None;
    }
    let ip = IpHeader::new(request.destination(), request.source(), protocol);
    emit_packet(&ip, IcmpHeader { kind: answer, code: 0, rest: message.rest() }, message.payload(), out)
}

/// The sum over all that the checksum of an ICMP or ICMPv6 packet covers.
fn checksum_sum(packet: &IpPacket<'_>) -> Sum {
    let pseudo = match packet.version() {
        Version::V4 => Sum::default(),
        // A packet's payload length is a 16-bit field.
        Version::V6 => packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16),
    };
    pseudo.add(packet.payload())
}

fn emit_packet(ip: &IpHeader, icmp: IcmpHeader, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let header_len = ip.emit(HEADER_LEN + payload.len(), out)?;
    let pseudo = matches!(ip.source, IpAddr::V6(_)).then(|| ip.pseudo_header());
    Some(header_len + icmp.emit(pseudo, payload, out.get_mut(header_len..)?)?)
}

fn may_complain(original: &IpPacket<'_>, what: Unreachable) -> bool {
    // RFC 4443, section 2.4 (e.3): "too big" may be said about a multicast packet, so that path MTU discovery works.
    let to_group_is_fine =
        matches!((what, original.destination()), (Unreachable::TooBig { .. }, IpAddr::V6(to)) if to.is_multicast());
    original.fragment() != Fragment::Later
        && is_one_host(original.source())
        && (is_one_host(original.destination()) || to_group_is_fine)
        && !is_icmp_error(original)
}

/// Whether an address names a single host elsewhere: not unspecified, loopback, multicast, broadcast or reserved.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_loopback() || address.is_multicast()),
    }
}

/// Whether a packet is an ICMP error, or ICMP too short to tell. A redirect counts as one (RFC 4443, section 2.4 (e.2)).
fn is_icmp_error(packet: &IpPacket<'_>) -> bool {
    let kind = packet.payload().first().copied();
    match (packet.version(), packet.protocol()) {
        (Version::V4, protocol::ICMP) => kind.is_none_or(|kind| {
            matches!(
                kind,
                v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::REDIRECT | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM
            )
        }),
        (Version::V6, protocol::ICMPV6) => kind.is_none_or(|kind| kind < v6::INFORMATIONAL || kind == v6::REDIRECT),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4_ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol, payload)
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet([0xfd; 16].into(), [0xfc; 16].into(), protocol, payload)
    }

    fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        let length = IpHeader::new(source, destination, protocol).emit(payload.len(), &mut bytes).unwrap();
        bytes.truncate(length);
        bytes.extend(payload);
        bytes
    }

    fn reply_to(bytes: &[u8], what: Unreachable) -> Option<Vec<u8>> {
        let original = IpPacket::parse(bytes).unwrap();
        let source = match original.version() {
            Version::V4 => V4_ROUTER,
            Version::V6 => IpAddr::from([0xfe; 16]),
        };
        let mut out = vec![0xee; ERROR_MAX];
        let length = error_reply(&original, source, what, &mut out)?;
        out.truncate(length);
        let reply = IpPacket::parse(&out).unwrap();
        assert!(reply.header_checksum_ok() && checksum_sum(&reply).is_valid());
        assert_eq!((reply.source(), reply.destination(), reply.ttl()), (source, original.source(), 64));
        Some(out)
    }

    #[test]
    fn literal_bytes_both_ways() {
        let header = IcmpHeader { kind: 8, code: 0, rest: [0x12, 0x34, 0, 1] };
        let mut out = [0; 10];
        assert_eq!(header.emit(None, &[0xab, 0xcd], &mut out), Some(10));
        assert_eq!(out, [8, 0, 0x39, 0xfd, 0x12, 0x34, 0, 1, 0xab, 0xcd]);
        let message = IcmpMessage::parse(&out).unwrap();
        assert_eq!((message.kind(), message.code(), message.checksum()), (8, 0, 0x39fd));
        assert_eq!((message.rest(), message.payload()), ([0x12, 0x34, 0, 1], &[0xab, 0xcd][..]));
        assert_eq!(header.emit(None, &[0xab, 0xcd], &mut out[..9]), None);
        for length in 0..8 {
            assert_eq!(IcmpMessage::parse(&out[..length]).unwrap_err(), Malformed::Truncated);
        }
    }

    #[test]
    fn too_big_names_the_mtu_and_quotes_the_packet() {
        let original = v4(protocol::UDP, &[7; 1000]);
        let reply = reply_to(&original, Unreachable::TooBig { mtu: 1280 }).unwrap();
        assert_eq!((reply.len(), reply[1]), (V4_ERROR_MAX, 0xc0));
        assert_eq!((&reply[20..22], &reply[24..28]), (&[3, 4][..], &[0, 0, 5, 0][..]));
        assert_eq!(reply[28..], original[..548]);
        let reply = reply_to(&original, Unreachable::TooBig { mtu: 70_000 }).unwrap();
        assert_eq!(reply[24..28], [0, 0, 0xff, 0xff]);

        let original = v6(protocol::UDP, &[7; 2000]);
        let reply = reply_to(&original, Unreachable::TooBig { mtu: 70_000 }).unwrap();
        assert_eq!(reply.len(), ERROR_MAX);
        assert_eq!((&reply[40..42], &reply[44..48]), (&[2, 0][..], &70_000u32.to_be_bytes()[..]));
        assert_eq!(reply[48..], original[..1232]);
    }

    #[test]
    fn other_errors_have_their_codes() {
        let code = |bytes: &[u8], what, at: usize| {
            let reply = reply_to(bytes, what).unwrap();
            assert_eq!(reply[at + 8..], *bytes);
            (reply[at], reply[at + 1])
        };
        let (four, six) = (v4(protocol::UDP, &[1, 2]), v6(protocol::UDP, &[1, 2]));
        assert_eq!(code(&four, Unreachable::NoRoute, 20), (3, 0));
        assert_eq!(code(&four, Unreachable::Prohibited, 20), (3, 13));
        assert_eq!(code(&six, Unreachable::NoRoute, 40), (1, 0));
        assert_eq!(code(&six, Unreachable::Prohibited, 40), (1, 1));
    }

    #[test]
    fn errors_are_not_answered_but_queries_are() {
        for kind in 0..=255u8 {
            let message = [kind, 0, 0, 0, 0, 0, 0, 0];
            let answered = reply_to(&v4(protocol::ICMP, &message), Unreachable::NoRoute).is_some();
            assert_eq!(answered, !matches!(kind, 3 | 4 | 5 | 11 | 12), "{kind}");
            let answered = reply_to(&v6(protocol::ICMPV6, &message), Unreachable::NoRoute).is_some();
            assert_eq!(answered, !matches!(kind, 0..=127 | 137), "{kind}");
        }
        assert_eq!(reply_to(&v4(protocol::ICMP, &[]), Unreachable::NoRoute), None);
        assert_eq!(reply_to(&v6(protocol::ICMPV6, &[]), Unreachable::NoRoute), None);
    }

    #[test]
    fn later_fragments_are_not_answered() {
        for (word, answered) in [(0x2000u16, true), (0x2001, false), (1, false)] {
            let mut original = v4(protocol::UDP, &[0; 8]);
            original[6..8].copy_from_slice(&word.to_be_bytes());
            assert_eq!(reply_to(&original, Unreachable::NoRoute).is_some(), answered);
        }
    }

    #[test]
    fn only_single_hosts_are_answered() {
        let no_route = Unreachable::NoRoute;
        let host = IpAddr::from([10, 0, 0, 1]);
        for other in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert_eq!(reply_to(&packet(other.into(), host, protocol::UDP, &[]), no_route), None);
            assert_eq!(reply_to(&packet(host, other.into(), protocol::UDP, &[]), no_route), None);
        }
        let host = IpAddr::from([0xfd; 16]);
        let group = "ff02::1".parse().unwrap();
        for other in ["::".parse().unwrap(), "::1".parse().unwrap(), group] {
            assert_eq!(reply_to(&packet(other, host, protocol::UDP, &[]), no_route), None);
            assert_eq!(reply_to(&packet(host, other, protocol::UDP, &[]), no_route), None);
        }
        let too_big = Unreachable::TooBig { mtu: 1280 };
        assert!(reply_to(&packet(host, group, protocol::UDP, &[]), too_big).is_some());
    }

    #[test]
    fn no_answer_without_room_or_from_the_other_version() {
        let bytes = v4(protocol::UDP, &[1, 2]);
        let original = IpPacket::parse(&bytes).unwrap();
        let mut out = [0; 50];
        assert_eq!(error_reply(&original, V4_ROUTER, Unreachable::NoRoute, &mut out), Some(50));
        assert_eq!(error_reply(&original, V4_ROUTER, Unreachable::NoRoute, &mut out[..49]), None);
        assert_eq!(error_reply(&original, [0xfd; 16].into(), Unreachable::NoRoute, &mut [0; 999]), None);
    }

    #[test]
    fn an_echo_comes_back() {
        let four = IpHeader::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol::ICMP);
        let six = IpHeader::new([0xfd; 16].into(), [0xfc; 16].into(), protocol::ICMPV6);
        for (ip, asked, answer) in [(four, 8, 0), (six, 128, 129)] {
            let mut request = [0; 54];
            let icmp = IcmpHeader { kind: asked, code: 0, rest: [1, 2, 3, 4] };
            let length = emit_packet(&ip, icmp, b"hello!", &mut request).unwrap();
            let mut request = request[..length].to_vec();
            let mut out = vec![0; length];
            let packet = IpPacket::parse(&request).unwrap();
            assert_eq!(echo_reply(&packet, &mut out), Some(length));
            let reply = IpPacket::parse(&out).unwrap();
            assert_eq!((reply.source(), reply.destination()), (ip.destination, ip.source));
            assert!(reply.header_checksum_ok() && checksum_sum(&reply).is_valid());
            assert_eq!(reply.payload()[0], answer);
            assert_eq!(reply.payload()[4..], *b"\x01\x02\x03\x04hello!");
            assert_eq!(echo_reply(&reply, &mut vec![0; length]), None, "an answer is not answered");
            assert_eq!(echo_reply(&packet, &mut out[..length - 1]), None);
            request[length - 1] ^= 1;
            assert_eq!(echo_reply(&IpPacket::parse(&request).unwrap(), &mut out), None, "a wrong checksum");
        }
    }

    #[test]
    fn echoes_to_groups_and_in_pieces_are_not_answered() {
        let host = IpAddr::from([10, 0, 0, 1]);
        let icmp = IcmpHeader { kind: v4::ECHO_REQUEST, code: 0, rest: [1, 2, 3, 4] };
        let answered = |source, destination, fragment_word: u16| {
            let mut request = [0; 28];
            emit_packet(&IpHeader::new(source, destination, protocol::ICMP), icmp, &[], &mut request).unwrap();
            request[6..8].copy_from_slice(&fragment_word.to_be_bytes());
            echo_reply(&IpPacket::parse(&request).unwrap(), &mut [0; 28]).is_some()
        };
        assert!(answered(host, [10, 0, 0, 2].into(), 0));
        assert!(!answered(host, [224, 0, 0, 1].into(), 0));
        assert!(!answered(host, [255; 4].into(), 0));
        assert!(!answered([0; 4].into(), host, 0));
        assert!(!answered(host, [10, 0, 0, 2].into(), 0x2000));
        assert!(!answered(host, [10, 0, 0, 2].into(), 0x0001));
    }
}
