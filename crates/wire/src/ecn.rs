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
