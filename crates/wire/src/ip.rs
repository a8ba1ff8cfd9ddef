//! IP packets, version 4 (RFC 791) and 6 (RFC 8200, extension headers included).
//!
//! [`IpPacket::parse`] is the one door: it validates every length once, and all accessors are total after it.

mod header;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Malformed;
use crate::checksum::Sum;
use crate::ecn::Ecn;

pub use header::IpHeader;

/// Protocol numbers (IANA "Protocol Numbers") this crate knows by name.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Bytes of an IPv4 header without options.
pub const V4_HEADER_LEN: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const V6_HEADER_LEN: usize = 40;
/// The largest IPv4 packet, and the largest packet this crate builds.
pub const MAX_LEN: usize = 65_535;
/// IPv4 flags and fragment offset: don't fragment.
pub(crate) const V4_DONT_FRAGMENT: u16 = 0x4000;
/// IPv4 flags and fragment offset: more fragments follow.
pub(crate) const V4_MORE_FRAGMENTS: u16 = 0x2000;
/// IPv4 flags and fragment offset: the offset, in units of 8 bytes.
pub(crate) const V4_OFFSET: u16 = 0x1fff;
/// Extension headers accepted in one IPv6 packet; RFC 8200, section 4.1 recommends an order of at most seven.
const MAX_EXTENSIONS: usize = 8;

/// IP version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whether a packet is a piece of a larger one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fragment {
    /// A whole packet; an IPv6 "atomic" fragment (RFC 6946) too.
    None,
    /// The first piece, which has the upper-layer header.
    First,
    /// A later piece: the payload is data from the middle.
    Later,
}

#[derive(Clone, Copy, Debug)]
enum Fixed<'a> {
    V4(&'a [u8; V4_HEADER_LEN]),
    V6(&'a [u8; V6_HEADER_LEN]),
}

/// A view of one IP packet that passed [`IpPacket::parse`].
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    fixed: Fixed<'a>,
    header_len: u16,
    protocol: u8,
    fragment: Fragment,
}

impl<'a> IpPacket<'a> {
    /// Validates version, header length, total length and the IPv6 extension headers. Bytes after the packet's own
    /// length are cut off the view. Checksums are not looked at.
    ///
    /// # Errors
    /// The first of these rules that does not hold.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_with(bytes, false)
    }

    /// As [`IpPacket::parse`], but a packet whose tail was cut off, by a capture's length limit or as the quote in an
    /// ICMP error, is accepted if all its IP headers are there.
    ///
    /// # Errors
    /// As [`IpPacket::parse`].
    pub fn parse_cut(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_with(bytes, true)
    }

    #[inline]
    fn parse_with(bytes: &'a [u8], cut: bool) -> Result<Self, Malformed> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes, cut),
            Some(6) => Self::parse_v6(bytes, cut),
            Some(_) => Err(Malformed::Version),
            None => Err(Malformed::Truncated),
        }
    }

    #[inline]
    fn parse_v4(bytes: &'a [u8], cut: bool) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<V4_HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        if header_len < V4_HEADER_LEN {
            return Err(Malformed::HeaderLength);
        }
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if total < header_len {
            return Err(Malformed::TotalLength);
        }
        let bytes = Self::trim(bytes, total, cut)?;
        if bytes.len() < header_len {
            return Err(Malformed::HeaderLength);
        }
        let pieces = u16::from_be_bytes([fixed[6], fixed[7]]);
        let fragment = match (pieces & V4_OFFSET, pieces & V4_MORE_FRAGMENTS) {
            (0, 0) => Fragment::None,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Self { bytes, fixed: Fixed::V4(fixed), header_len: header_len as u16, protocol: fixed[9], fragment })
    }

    #[inline]
    fn parse_v6(bytes: &'a [u8], cut: bool) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<V6_HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let total = V6_HEADER_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let bytes = Self::trim(bytes, total, cut)?;
        let mut packet = Self {
            bytes,
            fixed: Fixed::V6(fixed),
            header_len: V6_HEADER_LEN as u16,
            protocol: fixed[6],
            fragment: Fragment::None,
        };
        packet.skip_extensions()?;
        Ok(packet)
    }

    #[inline]
    fn trim(bytes: &'a [u8], total: usize, cut: bool) -> Result<&'a [u8], Malformed> {
        match bytes.get(..total) {
            Some(packet) => Ok(packet),
            None if cut => Ok(bytes),
            None => Err(Malformed::TotalLength),
        }
    }

    /// Walks the extension headers (RFC 8200, section 4) to the upper layer. What follows the header of a later
    /// fragment is data, so the walk ends there.
    #[inline]
    fn skip_extensions(&mut self) -> Result<(), Malformed> {
        for _ in 0..=MAX_EXTENSIONS {
            if self.fragment == Fragment::Later {
                return Ok(());
            }
            let rest = self.bytes.get(usize::from(self.header_len)..).ok_or(Malformed::ExtensionHeaders)?;
            let length = match self.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    let [_, units] = rest.first_chunk().ok_or(Malformed::ExtensionHeaders)?;
                    (usize::from(*units) + 1) * 8
                }
                // RFC 4302, section 2.2: in units of 4 bytes, minus 2; the fixed fields are 12 bytes.
                protocol::AUTHENTICATION => match rest.first_chunk() {
                    Some([_, units]) if *units > 0 => (usize::from(*units) + 2) * 4,
                    _ => return Err(Malformed::ExtensionHeaders),
                },
                protocol::FRAGMENT => {
                    let [_, _, high, low, ..] = rest.first_chunk::<8>().ok_or(Malformed::ExtensionHeaders)?;
                    // RFC 8200, section 4.5: 13 bits of offset, 2 reserved, the "more" flag.
                    self.fragment = match u16::from_be_bytes([*high, *low]) & 0xfff9 {
                        // A second such header may be atomic, the packet is not.
                        0 => self.fragment,
                        1 => Fragment::First,
                        _ => Fragment::Later,
                    };
                    8
                }
                _ => return Ok(()),
            };
            if rest.len() < length {
                return Err(Malformed::ExtensionHeaders);
            }
            // Lossless: at most 8 extensions of at most 2,048 bytes after the fixed 40.
            self.header_len += length as u16;
            self.protocol = rest[0];
        }
        Err(Malformed::ExtensionHeaders)
    }

    /// The packet, headers and all, without what followed it.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The packet's length by its header: that of [`IpPacket::bytes`], or more after [`IpPacket::parse_cut`].
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        match self.fixed {
            Fixed::V4(h) => usize::from(u16::from_be_bytes([h[2], h[3]])),
            Fixed::V6(h) => V6_HEADER_LEN + usize::from(u16::from_be_bytes([h[4], h[5]])),
        }
    }

    /// IP version.
    #[inline]
    #[must_use]
    pub fn version(&self) -> Version {
        match self.fixed {
            Fixed::V4(_) => Version::V4,
            Fixed::V6(_) => Version::V6,
        }
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self.fixed {
            Fixed::V4(h) => IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            Fixed::V6(h) => IpAddr::V6(Ipv6Addr::from(array_at(h, 8))),
        }
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self.fixed {
            Fixed::V4(h) => IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            Fixed::V6(h) => IpAddr::V6(Ipv6Addr::from(array_at(h, 24))),
        }
    }

    /// Source and destination address as they lie in the header: 8 bytes in IPv4, 32 in IPv6.
    #[inline]
    #[must_use]
    pub fn addresses(&self) -> &'a [u8] {
        match self.fixed {
            Fixed::V4(h) => &h[12..20],
            Fixed::V6(h) => &h[8..40],
        }
    }

    /// [`IpPacket::addresses`] as words, for comparison; IPv4 fills the first.
    #[inline]
    pub(crate) fn address_words(&self) -> [u64; 4] {
        let word = |bytes: [u8; 8]| u64::from_ne_bytes(bytes);
        match self.fixed {
            Fixed::V4(h) => [word(array_at(h, 12)), 0, 0, 0],
            Fixed::V6(h) => [8, 16, 24, 32].map(|at| word(array_at(h, at))),
        }
    }

    /// The upper-layer protocol: what the payload is, after all extension headers.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Bytes of all IP headers: IPv4 with options, IPv6 with extension headers.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.header_len)
    }

    /// All IP headers.
    #[inline]
    #[must_use]
    pub fn headers(&self) -> &'a [u8] {
        &self.bytes[..usize::from(self.header_len)]
    }

    /// What follows the IP headers.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[usize::from(self.header_len)..]
    }

    /// Whether the packet is a piece of a larger one.
    #[inline]
    #[must_use]
    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// The TOS byte or traffic class: DSCP and ECN.
    #[inline]
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        match self.fixed {
            Fixed::V4(h) => h[1],
            Fixed::V6(h) => h[0] << 4 | h[1] >> 4,
        }
    }

    /// The ECN field.
    #[inline]
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.traffic_class())
    }

    /// Time to live or hop limit.
    #[inline]
    #[must_use]
    pub fn ttl(&self) -> u8 {
        match self.fixed {
            Fixed::V4(h) => h[8],
            Fixed::V6(h) => h[7],
        }
    }

    /// Whether routers must not fragment the packet; always so in IPv6.
    #[inline]
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        match self.fixed {
            Fixed::V4(_) => self.v4_fragment_word() & V4_DONT_FRAGMENT != 0,
            Fixed::V6(_) => true,
        }
    }

    /// IPv4 identification; 0 for IPv6.
    #[inline]
    #[must_use]
    pub fn v4_id(&self) -> u16 {
        match self.fixed {
            Fixed::V4(h) => u16::from_be_bytes([h[4], h[5]]),
            Fixed::V6(_) => 0,
        }
    }

    /// IPv4 header checksum field; 0 for IPv6.
    #[inline]
    #[must_use]
    pub fn v4_header_checksum(&self) -> u16 {
        match self.fixed {
            Fixed::V4(h) => u16::from_be_bytes([h[10], h[11]]),
            Fixed::V6(_) => 0,
        }
    }

    /// IPv4 flags and fragment offset as one word; 0 for IPv6.
    #[inline]
    pub(crate) fn v4_fragment_word(&self) -> u16 {
        match self.fixed {
            Fixed::V4(h) => u16::from_be_bytes([h[6], h[7]]),
            Fixed::V6(_) => 0,
        }
    }

    /// The IPv6 flow label (20 bits); 0 for IPv4.
    #[inline]
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        match self.fixed {
            Fixed::V4(_) => 0,
            Fixed::V6(h) => u32::from_be_bytes([0, h[1] & 0x0f, h[2], h[3]]),
        }
    }

    /// Whether IPv4's header checksum is right; IPv6 has none.
    #[inline]
    #[must_use]
    pub fn header_checksum_ok(&self) -> bool {
        match self.fixed {
            Fixed::V4(h) => Sum::default().add(h).add(&self.headers()[V4_HEADER_LEN..]).is_valid(),
            Fixed::V6(_) => true,
        }
    }

    /// The sum over source, destination and `protocol` that starts a TCP, UDP or ICMPv6 checksum (RFC 9293 section
    /// 3.1, RFC 8200 section 8.1). The upper-layer length is still to be added. The destination is the one in the header:
    /// not the final one that a routing header may name.
    #[inline]
    #[must_use]
    pub fn pseudo_header(&self, protocol: u8) -> Sum {
        // Two arms, so that each has a length the compiler knows.
        let addresses = match self.fixed {
            Fixed::V4(h) => Sum::default().add(&h[12..20]),
            Fixed::V6(h) => Sum::default().add(&h[8..40]),
        };
        addresses.add_u16(u16::from(protocol))
    }

    /// Which flow this is, alike in both directions, for choosing a queue: the ports XORed for whole TCP and UDP
    /// packets, 0 for all else and for IPv6 with extension headers.
    ///
    /// A classic BPF program on the receiving socket computes the same from the datagram's bytes, so this must stay
    /// simple: see `linux::udp`.
    #[inline]
    #[must_use]
    pub fn flow_hash(&self) -> u32 {
        let direct = match self.fixed {
            Fixed::V4(_) => self.fragment == Fragment::None,
            Fixed::V6(_) => usize::from(self.header_len) == V6_HEADER_LEN,
        };
        match self.payload().first_chunk() {
            Some(&[a, b, c, d]) if direct && matches!(self.protocol, protocol::TCP | protocol::UDP) => {
                u32::from(u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d]))
            }
            _ => 0,
        }
    }
}

/// `N` bytes of a fixed header, which the caller's constants place inside it.
#[inline]
fn array_at<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 28] = [
        0x46, 0xb9, 0, 26, 0x12, 0x34, 0x40, 0, 63, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // header
        1, 1, 1, 0, // options
        0xca, 0xfe, // payload
        0xff, 0xff, // beyond
    ];

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x6b, 0x91, 0x23, 0x45, 0, payload.len() as u8, next, 62];
        bytes.extend([0xfd; 16]);
        bytes.extend([0xfc; 16]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn literal_ipv4_parses() {
        let packet = IpPacket::parse(&V4).unwrap();
        assert_eq!((packet.version(), packet.protocol(), packet.header_len()), (Version::V4, protocol::UDP, 24));
        assert_eq!(packet.source().to_string(), "10.0.0.1");
        assert_eq!(packet.destination().to_string(), "10.0.0.2");
        assert_eq!(packet.addresses(), [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!((packet.bytes().len(), packet.total_len(), packet.payload()), (26, 26, &[0xca, 0xfe][..]));
        assert_eq!((packet.traffic_class(), packet.ecn(), packet.ttl()), (0xb9, Ecn::Ect1, 63));
        assert_eq!((packet.v4_id(), packet.dont_fragment(), packet.fragment()), (0x1234, true, Fragment::None));
        assert!(!packet.header_checksum_ok());
    }

    #[test]
    fn literal_ipv6_parses() {
        let bytes = v6(protocol::TCP, &[0xca, 0xfe]);
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!((packet.version(), packet.protocol(), packet.header_len()), (Version::V6, protocol::TCP, 40));
        assert_eq!(packet.source(), IpAddr::from([0xfd; 16]));
        assert_eq!(packet.destination(), IpAddr::from([0xfc; 16]));
        assert_eq!((packet.total_len(), packet.payload()), (42, &[0xca, 0xfe][..]));
        assert_eq!((packet.traffic_class(), packet.ecn(), packet.ttl()), (0xb9, Ecn::Ect1, 62));
        assert_eq!((packet.flow_label(), packet.dont_fragment()), (0x1_2345, true));
        assert!(packet.header_checksum_ok());
    }

    #[test]
    fn cut_short_is_refused_unless_asked_for() {
        for length in 0..26 {
            let why = if length < 20 { Malformed::Truncated } else { Malformed::TotalLength };
            assert_eq!(IpPacket::parse(&V4[..length]).unwrap_err(), why);
            assert_eq!(IpPacket::parse_cut(&V4[..length]).is_ok(), length >= 24, "{length}");
        }
        let bytes = v6(protocol::FRAGMENT, &[17, 0, 0, 0, 0, 0, 0, 1, 9]);
        for length in 0..bytes.len() {
            let why = if length < 40 { Malformed::Truncated } else { Malformed::TotalLength };
            assert_eq!(IpPacket::parse(&bytes[..length]).unwrap_err(), why);
            assert_eq!(IpPacket::parse_cut(&bytes[..length]).is_ok(), length >= 48, "{length}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = V4;
            bytes[at] = value;
            IpPacket::parse(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, 0x56), Malformed::Version);
        assert_eq!(with(0, 0x44), Malformed::HeaderLength);
        assert_eq!(with(0, 0x47), Malformed::TotalLength);
        assert_eq!(with(3, 23), Malformed::TotalLength);
        assert_eq!(with(3, 29), Malformed::TotalLength);
        assert_eq!(with(2, 1), Malformed::TotalLength);
    }

    #[test]
    fn ipv4_fragments_are_told_apart() {
        let fragment = |word: u16| {
            let mut bytes = V4;
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            let packet = IpPacket::parse(&bytes).unwrap();
            (packet.fragment(), packet.dont_fragment())
        };
        assert_eq!(fragment(0x0000), (Fragment::None, false));
        assert_eq!(fragment(0xc000), (Fragment::None, true));
        assert_eq!(fragment(0x2000), (Fragment::First, false));
        assert_eq!(fragment(0x2001), (Fragment::Later, false));
        assert_eq!(fragment(0x0001), (Fragment::Later, false));
    }

    #[test]
    fn extension_headers_are_walked() {
        let chain = [
            &[43, 0, 1, 4, 0, 0, 0, 0][..],                     // hop-by-hop
            &[60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // routing, 16 bytes
            &[51, 0, 1, 4, 0, 0, 0, 0],                         // destination options
            &[44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],             // authentication, 12 bytes
            &[17, 0, 0, 6, 0, 0, 0, 7],                         // atomic fragment, reserved bits set
            &[0, 1, 0, 2, 0, 8, 0, 0],
        ]
        .concat();
        let bytes = v6(protocol::HOP_BY_HOP, &chain);
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!((packet.header_len(), packet.protocol()), (92, protocol::UDP));
        assert_eq!((packet.payload(), packet.fragment()), (&[0, 1, 0, 2, 0, 8, 0, 0][..], Fragment::None));
        assert_eq!(packet.flow_hash(), 0, "ports behind extensions are out of the steering program's reach");
        // Every cut within the chain leaves a length field that contradicts it.
        for length in 0..52 {
            let cut = v6(protocol::HOP_BY_HOP, &chain[..length]);
            assert_eq!(IpPacket::parse(&cut).unwrap_err(), Malformed::ExtensionHeaders, "{length}");
        }
    }

    #[test]
    fn the_walk_ends_at_data_and_is_bounded() {
        let bytes = v6(protocol::FRAGMENT, &[43, 0, 0, 8, 0, 0, 0, 7, 0xff, 0xff]);
        let later = IpPacket::parse(&bytes).unwrap();
        assert_eq!((later.fragment(), later.protocol(), later.header_len()), (Fragment::Later, protocol::ROUTING, 48));
        let bytes = v6(protocol::FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, 7]);
        assert_eq!(IpPacket::parse(&bytes).unwrap().fragment(), Fragment::First);
        let bytes = v6(protocol::FRAGMENT, &[44, 0, 0, 1, 0, 0, 0, 7, 17, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(IpPacket::parse(&bytes).unwrap().fragment(), Fragment::First);
        let bytes = v6(protocol::NO_NEXT_HEADER, &[1, 2]);
        assert_eq!(IpPacket::parse(&bytes).unwrap().protocol(), protocol::NO_NEXT_HEADER);

        let options = |count: usize| {
            let mut chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
            let last = chain.len() - 8;
            chain[last] = protocol::UDP;
            v6(protocol::DESTINATION_OPTIONS, &chain)
        };
        assert!(IpPacket::parse(&options(MAX_EXTENSIONS)).is_ok());
        assert_eq!(IpPacket::parse(&options(MAX_EXTENSIONS + 1)).unwrap_err(), Malformed::ExtensionHeaders);
    }

    #[test]
    fn flow_hash_is_alike_in_both_directions() {
        let hash = |source: u16, destination: u16| {
            let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            IpPacket::parse(&v6(protocol::TCP, &ports)).unwrap().flow_hash()
        };
        assert_eq!(hash(0x1234, 0x0001), 0x1235);
        assert_eq!(hash(0x0001, 0x1234), 0x1235);
        let icmp = v6(protocol::ICMPV6, &[1, 2, 3, 4]);
        assert_eq!(IpPacket::parse(&icmp).unwrap().flow_hash(), 0);
        assert_eq!(IpPacket::parse(&v6(protocol::UDP, &[1, 2, 3])).unwrap().flow_hash(), 0);
    }
}
