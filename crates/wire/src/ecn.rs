//! Explicit congestion notification: the two low bits of the IPv4 TOS byte and the IPv6 traffic class (RFC 3168), and
//! how a tunnel carries them (RFC 6040).

use std::fmt;

use crate::checksum;

/// The ECN field of an IP header (RFC 3168, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Ecn {
    /// The transport does not understand ECN.
    #[default]
    NotEct,
    /// ECN-capable, codepoint 1 (L4S, RFC 9331).
    Ect1,
    /// ECN-capable, codepoint 0.
    Ect0,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// From a TOS byte or traffic class; the upper six bits are ignored.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }
}

/// The outer header says congestion, the inner transport could not be told: the packet has to be dropped, which such a
/// transport understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MustDrop;

impl fmt::Display for MustDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("congestion was marked on the way, and the inner transport does not understand ECN")
    }
}

impl std::error::Error for MustDrop {}

/// The ECN field with which a packet leaves the tunnel (RFC 6040, section 4.2, figure 4).
///
/// # Errors
/// [`MustDrop`] when the outer field is CE and the inner one Not-ECT.
#[inline]
pub fn decapsulate(outer: Ecn, inner: Ecn) -> Result<Ecn, MustDrop> {
    match (outer, inner) {
        (Ecn::Ce, Ecn::NotEct) => Err(MustDrop),
        (Ecn::Ce, _) => Ok(Ecn::Ce),
        (Ecn::Ect1, Ecn::Ect0) => Ok(Ecn::Ect1),
        (_, inner) => Ok(inner),
    }
}

/// Rewrites the ECN field of the IP packet at the front of `packet`; an IPv4 header checksum follows by incremental
/// update, so that a wrong one stays wrong. What is not an IP header is left as it is.
#[inline]
pub fn set(packet: &mut [u8], ecn: Ecn) {
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let Some(header) = packet.first_chunk_mut::<20>() else { return };
            let old = u16::from_be_bytes([header[0], header[1]]);
            header[1] = header[1] & !0b11 | ecn.bits();
            let new = u16::from_be_bytes([header[0], header[1]]);
            if old != new {
                let checksum = u16::from_be_bytes([header[10], header[11]]);
                [header[10], header[11]] = checksum::update(checksum, old, new).to_be_bytes();
            }
        }
        Some(6) => {
            if let Some(second) = packet.get_mut(1) {
                *second = *second & !0x30 | ecn.bits() << 4;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::Ecn::{Ce, Ect0, Ect1, NotEct};
    use super::*;
    use crate::checksum::Sum;

    #[test]
    fn bits_both_ways() {
        for bits in 0..=255 {
            assert_eq!(Ecn::from_bits(bits).bits(), bits & 3);
        }
        assert_eq!([0, 1, 2, 3].map(Ecn::from_bits), [NotEct, Ect1, Ect0, Ce]);
    }

    /// RFC 6040, figure 4: a row for each inner field, columns Not-ECT, ECT(0), ECT(1), CE of the outer.
    #[test]
    fn table_of_the_rfc() {
        let table = [
            (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), Err(MustDrop)]),
            (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
            (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
            (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
        ];
        for (inner, row) in table {
            assert_eq!([NotEct, Ect0, Ect1, Ce].map(|outer| decapsulate(outer, inner)), row, "{inner:?}");
        }
    }

    #[test]
    fn set_in_ipv4_keeps_the_checksum_right() {
        let mut packet = [0x45, 0xb8, 0, 20, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let checksum = Sum::default().add(&packet).finish();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        for ecn in [Ce, Ect0, Ect1, NotEct, NotEct, Ce] {
            set(&mut packet, ecn);
            assert_eq!(packet[1], 0xb8 | ecn.bits());
            assert!(Sum::default().add(&packet).is_valid());
        }
    }

    #[test]
    fn set_in_ipv6_touches_two_bits() {
        let mut packet = [0; 40];
        packet[..4].copy_from_slice(&[0x6b, 0x8f, 0xff, 0xff]);
        set(&mut packet, Ce);
        assert_eq!(packet[..4], [0x6b, 0xbf, 0xff, 0xff]);
        set(&mut packet, NotEct);
        assert_eq!(packet[..4], [0x6b, 0x8f, 0xff, 0xff]);
    }

    #[test]
    fn garbage_stays_as_it_is() {
        for bytes in [&[][..], &[0x45; 19], &[0x60], &[0x00, 0xff], &[0xff; 40]] {
            let mut copy = bytes.to_vec();
            set(&mut copy, Ect0);
            assert_eq!(copy, bytes);
        }
    }
}
