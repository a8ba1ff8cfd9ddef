//! Ethernet II frames, with the VLAN tags of IEEE 802.1Q and 802.1ad.

use std::fmt;
use std::str::FromStr;

use crate::Malformed;

/// Bytes of a header without tags.
pub const HEADER_LEN: usize = 14;
/// Bytes of one VLAN tag.
pub const TAG_LEN: usize = 4;
/// Tags accepted in one frame; 802.1ad has two.
const MAX_TAGS: usize = 4;

/// EtherTypes (IANA "IEEE 802 Numbers") this crate knows by name.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address resolution protocol.
    pub const ARP: u16 = 0x0806;
    /// VLAN tag, 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Service VLAN tag, 802.1ad.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Smaller values are the length of an IEEE 802.3 frame.
    pub const MIN: u16 = 0x0600;
}

/// A hardware address. Displayed as six hexadecimal pairs joined by colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address names a group of stations, broadcast included.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = Malformed;

    /// Reads six hexadecimal pairs joined by colons or hyphens.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(Malformed::Value)?;
        }
        if pairs.next().is_some() { Err(Malformed::Value) } else { Ok(Self(bytes)) }
    }
}

/// A view of an Ethernet frame that passed [`EthernetFrame::parse`].
#[derive(Clone, Copy, Debug)]
pub struct EthernetFrame<'a> {
    fixed: &'a [u8; HEADER_LEN],
    tags: &'a [u8],
    ethertype: u16,
    payload: &'a [u8],
}

impl<'a> EthernetFrame<'a> {
    /// Finds the payload behind at most four VLAN tags.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], or [`Malformed::Value`] for more tags and for IEEE 802.3 frames, whose type field is
    /// a length.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, after) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let mut ethertype = u16::from_be_bytes([fixed[12], fixed[13]]);
        let mut payload = after;
        while matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            let ([_, _, high, low], rest) = payload.split_first_chunk::<TAG_LEN>().ok_or(Malformed::Truncated)?;
            ethertype = u16::from_be_bytes([*high, *low]);
            payload = rest;
        }
        let tags = &after[..after.len() - payload.len()];
        if ethertype < ethertype::MIN || tags.len() > MAX_TAGS * TAG_LEN {
            return Err(Malformed::Value);
        }
        Ok(Self { fixed, tags, ethertype, payload })
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> MacAddress {
        let [a, b, c, d, e, f, ..] = *self.fixed;
        MacAddress([a, b, c, d, e, f])
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> MacAddress {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.fixed;
        MacAddress([a, b, c, d, e, f])
    }

    /// VLAN identifiers (12 bits), outermost first.
    pub fn vlans(&self) -> impl Iterator<Item = u16> + use<'a> {
        let (tags, _) = self.tags.as_chunks::<TAG_LEN>();
        tags.iter().map(|tag| u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff)
    }

    /// What the payload is, after all tags.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        self.ethertype
    }

    /// Bytes of the header with its tags.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.tags.len()
    }

    /// What follows the header and tags; padding of short frames is part of it.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The header of an untagged frame to be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EthernetHeader {
    /// Destination address.
    pub destination: MacAddress,
    /// Source address.
    pub source: MacAddress,
    /// What the payload is.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// Writes the header to the front of `out` and returns its length, or `None` if it does not fit.
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let fixed = out.first_chunk_mut::<HEADER_LEN>()?;
        fixed[..6].copy_from_slice(&self.destination.0);
        fixed[6..12].copy_from_slice(&self.source.0);
        fixed[12..].copy_from_slice(&self.ethertype.to_be_bytes());
        Some(HEADER_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGGED: [u8; 24] = [
        0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, // addresses
        0x88, 0xa8, 0x20, 0x05, 0x81, 0x00, 0x00, 0x07, // service tag 5 with a priority, tag 7
        0x08, 0x00, 0xca, 0xfe,
    ];

    #[test]
    fn literal_bytes_parse() {
        let frame = EthernetFrame::parse(&TAGGED).unwrap();
        assert_eq!(frame.destination(), MacAddress([2, 0, 0, 0, 0, 1]));
        assert_eq!(frame.source().to_string(), "02:00:00:00:00:02");
        assert_eq!(frame.vlans().collect::<Vec<_>>(), [5, 7]);
        assert_eq!((frame.ethertype(), frame.header_len()), (ethertype::IPV4, 22));
        assert_eq!(frame.payload(), [0xca, 0xfe]);
        assert!(MacAddress::BROADCAST.is_group() && !frame.source().is_group());
    }

    #[test]
    fn emitted_header_parses_back() {
        let header = EthernetHeader {
            destination: MacAddress::BROADCAST,
            source: MacAddress([2, 4, 6, 8, 10, 12]),
            ethertype: ethertype::ARP,
        };
        let mut bytes = [0; HEADER_LEN];
        assert_eq!(header.emit(&mut bytes), Some(HEADER_LEN));
        assert_eq!(bytes, [255, 255, 255, 255, 255, 255, 2, 4, 6, 8, 10, 12, 8, 6]);
        let frame = EthernetFrame::parse(&bytes).unwrap();
        assert_eq!((frame.destination(), frame.source()), (header.destination, header.source));
        assert_eq!(header.emit(&mut bytes[..13]), None);
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0xff]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!("52-54-00-12-34-FF".parse(), Ok(mac));
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:ff:00",
            "5254.0012.34ff",
            "52:54:00:12:34:f",
            "+2:54:00:12:34:ff",
            "5:254:00:12:34:ff",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(Malformed::Value), "{text}");
        }
    }

    #[test]
    fn cut_short_is_truncated() {
        for length in 0..22 {
            assert_eq!(EthernetFrame::parse(&TAGGED[..length]).unwrap_err(), Malformed::Truncated, "{length}");
        }
    }

    #[test]
    fn lengths_and_endless_tags_are_refused() {
        let mut llc = TAGGED;
        llc[12..14].copy_from_slice(&[0, 38]);
        assert_eq!(EthernetFrame::parse(&llc).unwrap_err(), Malformed::Value);
        let mut tags = vec![0; 12];
        tags.extend([0x81, 0, 0, 1].repeat(5));
        tags.extend([8, 0]);
        assert_eq!(EthernetFrame::parse(&tags).unwrap_err(), Malformed::Value);
        tags.drain(12..16);
        assert_eq!(EthernetFrame::parse(&tags).unwrap().vlans().count(), 4);
    }
}
