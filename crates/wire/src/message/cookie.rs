//! Cookie replies: what a node under load sends instead of a response, 64 bytes in both protocols.
//!
//! ```text
//! type 4 | receiver 4 | nonce 24 | cookie 16 + 16
//! ```
//!
//! The cookie is sealed with XChaCha20-Poly1305; the first MAC of the message that it answers is the associated data.

use super::{MAC, Protocol, Step, TAG};
use crate::Malformed;

/// Bytes of the message.
pub const LEN: usize = 8 + NONCE + SEALED;
/// Bytes of the nonce.
pub const NONCE: usize = 24;
/// Bytes of the cookie with its tag.
pub const SEALED: usize = MAC + TAG;

/// A cookie reply. It refers to the datagram when parsed, and owns nothing when built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CookieReply<'a> {
    /// Whose message it is.
    pub protocol: Protocol,
    /// The sender index of the message it answers.
    pub receiver: u32,
    /// Under which nonce the cookie is sealed.
    pub nonce: &'a [u8; NONCE],
    /// The cookie and its tag.
    pub sealed: &'a [u8; SEALED],
}

impl<'a> CookieReply<'a> {
    /// Takes the message that is the whole of `datagram`.
    ///
    /// # Errors
    /// [`Malformed::Value`] for another message, version or reserved bit, [`Malformed::Truncated`] and
    /// [`Malformed::TotalLength`] for another length.
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, rest) = datagram.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
        let protocol = [Protocol::Sealed, Protocol::WireGuard]
            .into_iter()
            .find(|protocol| *kind == protocol.head(Step::Cookie))
            .ok_or(Malformed::Value)?;
        let (receiver, rest) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        let (sealed, rest) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        if !rest.is_empty() {
            return Err(Malformed::TotalLength);
        }
        Ok(Self { protocol, receiver: u32::from_le_bytes(*receiver), nonce, sealed })
    }

    /// The message.
    #[must_use]
    pub fn emit(&self) -> [u8; LEN] {
        let mut message = [0; LEN];
        message[..4].copy_from_slice(&self.protocol.head(Step::Cookie));
        message[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        message[8..8 + NONCE].copy_from_slice(self.nonce);
        message[8 + NONCE..].copy_from_slice(self.sealed);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(protocol: Protocol) -> [u8; LEN] {
        CookieReply { protocol, receiver: 0x1122_3340, nonce: &[0x33; 24], sealed: &[0x44; 32] }.emit()
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let expected = |kind: [u8; 4]| [&kind[..], &[0x40, 0x33, 0x22, 0x11], &[0x33; 24], &[0x44; 32]].concat();
        assert_eq!(&example(Protocol::Sealed)[..], expected([0xa3, 1, 0, 0]));
        assert_eq!(&example(Protocol::WireGuard)[..], expected([3, 0, 0, 0]));
        assert_eq!(LEN, 64);
    }

    #[test]
    fn what_was_written_is_read() {
        for protocol in [Protocol::Sealed, Protocol::WireGuard] {
            let message = example(protocol);
            let reply = CookieReply::parse(&message).unwrap();
            assert_eq!((reply.protocol, reply.receiver), (protocol, 0x1122_3340));
            assert_eq!((reply.nonce, reply.sealed), (&[0x33; 24], &[0x44; 32]));
            assert_eq!(reply.emit(), message);
        }
    }

    #[test]
    fn no_other_length_version_or_reserved_bit_is_a_message() {
        for protocol in [Protocol::Sealed, Protocol::WireGuard] {
            let message = example(protocol);
            for shorter in 0..LEN {
                assert_eq!(CookieReply::parse(&message[..shorter]), Err(Malformed::Truncated));
            }
            assert_eq!(CookieReply::parse(&[&message[..], &[0]].concat()), Err(Malformed::TotalLength));
            for bit in 0..32 {
                let mut changed = message;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(CookieReply::parse(&changed), Err(Malformed::Value), "bit {bit}");
            }
        }
    }
}
