//! What a datagram between two nodes is, told by its first byte: one UDP port serves all transports.
//!
//! | first byte | transport | what it is |
//! |---|---|---|
//! | `0x01`–`0x04`, 3 zero bytes | wireguard | a WireGuard message |
//! | `0xa1`–`0xa4` | sealed | adit's own encrypted transport |
//! | `0x4_`, `0x6_` | plain | one raw IP packet, as flannel's UDP backend sends it |
//!
//! The kind says nothing about validity: a plain packet is still to be parsed, the others to be authenticated. The
//! formats of both encrypted protocols are the same but for their first four bytes, their lengths and what the sealed
//! transport says inside; all of their integers are little endian.
//!
//! | module | what |
//! |---|---|
//! | [`handshake`] | initiations and responses |
//! | [`payload`] | what a handshake says under its encryption |
//! | [`cookie`] | cookie replies |
//! | [`data`] | data messages, and control messages inside of them |

pub mod cookie;
pub mod data;
pub mod handshake;
pub mod payload;

pub use cookie::CookieReply;
pub use data::{Control, DataHeader, Flags, Note};
pub use handshake::{Handshake, HandshakeHeader};
pub use payload::{Answer, Hello, Mode, Outcome, Suite, Tai64n};

/// The version of the sealed transport, byte 1 of its handshake and cookie messages.
pub const SEALED_VERSION: u8 = 1;
/// Bytes of an authentication tag.
pub const TAG: usize = 16;
/// Bytes of a MAC, and of a cookie.
pub const MAC: usize = 16;
/// Bytes of a public key.
pub const KEY: usize = 32;

/// An encrypted protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// adit's own.
    Sealed,
    /// WireGuard, bit for bit.
    WireGuard,
}

impl Protocol {
    /// The first four bytes of a handshake or cookie message.
    const fn head(self, step: Step) -> [u8; 4] {
        match self {
            Self::Sealed => [0xa0 | step.number(), SEALED_VERSION, 0, 0],
            Self::WireGuard => [step.number(), 0, 0, 0],
        }
    }
}

/// A datagram by its kind, with all of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// One IP packet.
    Plain(&'a [u8]),
    /// A message of the sealed transport, and which.
    Sealed(Step, &'a [u8]),
    /// A WireGuard message, and which.
    WireGuard(Step, &'a [u8]),
    /// None of ours.
    Unknown(&'a [u8]),
}

/// The four messages that the sealed transport and WireGuard have in common, numbered from 1 in the first byte's low
/// four bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// First message of the handshake.
    Initiation,
    /// Second message of the handshake.
    Response,
    /// Proof of address asked for under load.
    Cookie,
    /// Encrypted packet.
    Data,
}

impl Step {
    /// The low four bits of a message's first byte.
    const fn number(self) -> u8 {
        match self {
            Self::Initiation => 1,
            Self::Response => 2,
            Self::Cookie => 3,
            Self::Data => 4,
        }
    }

    #[inline]
    fn from_low_bits(byte: u8) -> Option<Self> {
        match byte & 0x0f {
            1 => Some(Self::Initiation),
            2 => Some(Self::Response),
            3 => Some(Self::Cookie),
            4 => Some(Self::Data),
            _ => None,
        }
    }
}

/// Tells the kind of a datagram.
#[inline]
#[must_use]
pub fn classify(datagram: &[u8]) -> Message<'_> {
    let unknown = Message::Unknown(datagram);
    let Some(&first) = datagram.first() else { return unknown };
    match (first >> 4, Step::from_low_bits(first)) {
        (4 | 6, _) => Message::Plain(datagram),
        (0xa, Some(step)) => Message::Sealed(step, datagram),
        (0, Some(step)) if datagram.get(1..4) == Some(&[0; 3]) => Message::WireGuard(step, datagram),
        _ => unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_its_kind() {
        for first in 0..=255 {
            let datagram = [first, 0, 0, 0, 9];
            let expected = match first {
                0x01 => Message::WireGuard(Step::Initiation, &datagram),
                0x02 => Message::WireGuard(Step::Response, &datagram),
                0x03 => Message::WireGuard(Step::Cookie, &datagram),
                0x04 => Message::WireGuard(Step::Data, &datagram),
                0xa1 => Message::Sealed(Step::Initiation, &datagram),
                0xa2 => Message::Sealed(Step::Response, &datagram),
                0xa3 => Message::Sealed(Step::Cookie, &datagram),
                0xa4 => Message::Sealed(Step::Data, &datagram),
                0x40..=0x4f | 0x60..=0x6f => Message::Plain(&datagram),
                _ => Message::Unknown(&datagram),
            };
            assert_eq!(classify(&datagram), expected, "{first:#04x}");
        }
    }

    #[test]
    fn wireguard_needs_three_zero_bytes() {
        assert_eq!(classify(&[1, 0, 0]), Message::Unknown(&[1, 0, 0]));
        for at in 1..4 {
            let mut datagram = [4, 0, 0, 0];
            datagram[at] = 1;
            assert_eq!(classify(&datagram), Message::Unknown(&datagram));
        }
    }

    #[test]
    fn nothing_is_unknown() {
        assert_eq!(classify(&[]), Message::Unknown(&[]));
        assert_eq!(classify(&[0x45]), Message::Plain(&[0x45]));
    }
}
