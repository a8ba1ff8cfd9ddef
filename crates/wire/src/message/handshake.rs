//! The two messages of a handshake, of the sealed transport (160 and 100 bytes) and of WireGuard (148 and 92 bytes).
//!
//! ```text
//! initiation   type 4 | sender 4 | Noise: ephemeral 32, static 32 + 16, payload n + 16 | mac1 16 | mac2 16
//! response     type 4 | sender 4 | receiver 4 | Noise: ephemeral 32, payload n + 16    | mac1 16 | mac2 16
//! ```
//!
//! The payloads are [`Hello`](super::Hello) and [`Answer`](super::Answer) in the sealed transport, a timestamp and
//! nothing in WireGuard. `mac1` covers all that is before it, and so does `mac2`.

use super::{KEY, MAC, Protocol, Step, TAG, payload};
use crate::Malformed;

/// Bytes of type and sender index, which the sealed transport's prologue ends with.
pub const HEAD: usize = 8;
/// Bytes of an index.
const INDEX: usize = 4;

impl Protocol {
    /// The length of a message in bytes; `None` for data, which has many.
    #[inline]
    #[must_use]
    pub const fn message_len(self, step: Step) -> Option<usize> {
        match step {
            Step::Initiation => Some(HEAD + self.noise_len(step) + 2 * MAC),
            Step::Response => Some(HEAD + INDEX + self.noise_len(step) + 2 * MAC),
            Step::Cookie => Some(super::cookie::LEN),
            Step::Data => None,
        }
    }

    /// The length of the Noise message in an initiation or a response, in bytes; 0 for other messages.
    #[inline]
    #[must_use]
    pub const fn noise_len(self, step: Step) -> usize {
        match (step, self) {
            (Step::Initiation, Self::Sealed) => KEY + KEY + TAG + payload::HELLO + TAG,
            (Step::Initiation, Self::WireGuard) => KEY + KEY + TAG + payload::TIMESTAMP + TAG,
            (Step::Response, Self::Sealed) => KEY + payload::ANSWER + TAG,
            (Step::Response, Self::WireGuard) => KEY + TAG,
            (Step::Cookie | Step::Data, _) => 0,
        }
    }
}

/// The longest handshake message in bytes.
pub const MAX_LEN: usize = 160;

/// A view of an initiation or a response that passed [`Handshake::parse`]. Nothing in it is authentic yet.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    protocol: Protocol,
    step: Step,
    head: &'a [u8; HEAD],
    receiver: u32,
    noise: &'a [u8],
    mac1: &'a [u8; MAC],
    mac2: &'a [u8; MAC],
    mac1_covered: &'a [u8],
    mac2_covered: &'a [u8],
}

impl<'a> Handshake<'a> {
    /// Takes the message that is the whole of `datagram`.
    ///
    /// # Errors
    /// [`Malformed::Value`] for another message, version or reserved bit, [`Malformed::Truncated`] and
    /// [`Malformed::TotalLength`] for another length.
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, _) = datagram.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
        let (protocol, step) = [
            (Protocol::Sealed, Step::Initiation),
            (Protocol::Sealed, Step::Response),
            (Protocol::WireGuard, Step::Initiation),
            (Protocol::WireGuard, Step::Response),
        ]
        .into_iter()
        .find(|(protocol, step)| *kind == protocol.head(*step))
        .ok_or(Malformed::Value)?;
        let length = protocol.message_len(step).unwrap_or_default();
        if datagram.len() > length {
            return Err(Malformed::TotalLength);
        }
        if datagram.len() < length {
            return Err(Malformed::Truncated);
        }
        let (mac2_covered, mac2) = datagram.split_last_chunk().ok_or(Malformed::Truncated)?;
        let (mac1_covered, mac1) = mac2_covered.split_last_chunk().ok_or(Malformed::Truncated)?;
        let (head, rest) = mac1_covered.split_first_chunk().ok_or(Malformed::Truncated)?;
        let (receiver, noise) = match step {
            Step::Response => {
                let (receiver, noise) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
                (u32::from_le_bytes(*receiver), noise)
            }
            _ => (0, rest),
        };
        Ok(Self { protocol, step, head, receiver, noise, mac1, mac2, mac1_covered, mac2_covered })
    }

    /// Whose message it is.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// [`Step::Initiation`] or [`Step::Response`].
    #[inline]
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// The index by which its sender knows the session.
    #[inline]
    #[must_use]
    pub fn sender(&self) -> u32 {
        let [_, _, _, _, a, b, c, d] = *self.head;
        u32::from_le_bytes([a, b, c, d])
    }

    /// The index by which the receiver of a response knows the session; 0 in an initiation.
    #[inline]
    #[must_use]
    pub fn receiver(&self) -> u32 {
        self.receiver
    }

    /// The Noise message.
    #[inline]
    #[must_use]
    pub fn noise(&self) -> &'a [u8] {
        self.noise
    }

    /// The first eight bytes: type and sender.
    #[inline]
    #[must_use]
    pub fn head(&self) -> &'a [u8; HEAD] {
        self.head
    }

    /// The MAC under a key that all who know the receiver's public key can compute.
    #[inline]
    #[must_use]
    pub fn mac1(&self) -> &'a [u8; MAC] {
        self.mac1
    }

    /// The MAC under a cookie, zeros without one.
    #[inline]
    #[must_use]
    pub fn mac2(&self) -> &'a [u8; MAC] {
        self.mac2
    }

    /// What [`mac1`](Self::mac1) covers.
    #[inline]
    #[must_use]
    pub fn mac1_covered(&self) -> &'a [u8] {
        self.mac1_covered
    }

    /// What [`mac2`](Self::mac2) covers.
    #[inline]
    #[must_use]
    pub fn mac2_covered(&self) -> &'a [u8] {
        self.mac2_covered
    }
}

/// The fixed fields of a message to be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeHeader {
    /// Whose message it is.
    pub protocol: Protocol,
    /// [`Step::Initiation`] or [`Step::Response`].
    pub step: Step,
    /// The index by which the sender knows the session.
    pub sender: u32,
    /// The index by which the receiver of a response knows the session; an initiation has none.
    pub receiver: u32,
}

impl HandshakeHeader {
    /// The first eight bytes of the message.
    #[must_use]
    pub fn head(&self) -> [u8; HEAD] {
        let [a, b, c, d] = self.protocol.head(self.step);
        let [e, f, g, h] = self.sender.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// The message around `noise`, both MACs zero; `None` if there is no such message of that length.
    #[must_use]
    pub fn emit(&self, noise: &[u8]) -> Option<Vec<u8>> {
        let length = self.protocol.message_len(self.step)?;
        if noise.is_empty() || noise.len() != self.protocol.noise_len(self.step) {
            return None;
        }
        let mut message = Vec::with_capacity(length);
        message.extend(self.head());
        if self.step == Step::Response {
            message.extend(self.receiver.to_le_bytes());
        }
        message.extend(noise);
        message.resize(length, 0);
        Some(message)
    }
}

/// Writes the first MAC of a handshake message; nothing if `message` is too short for its MACs.
pub fn set_mac1(message: &mut [u8], mac: &[u8; MAC]) {
    if let Some((covered, _)) = message.split_last_chunk_mut::<MAC>()
        && let Some((_, field)) = covered.split_last_chunk_mut()
    {
        *field = *mac;
    }
}

/// Writes the second MAC of a handshake message; nothing if `message` is too short for it.
pub fn set_mac2(message: &mut [u8], mac: &[u8; MAC]) {
    if let Some((_, field)) = message.split_last_chunk_mut() {
        *field = *mac;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: [(Protocol, Step, usize); 4] = [
        (Protocol::Sealed, Step::Initiation, 160),
        (Protocol::Sealed, Step::Response, 100),
        (Protocol::WireGuard, Step::Initiation, 148),
        (Protocol::WireGuard, Step::Response, 92),
    ];

    fn example(protocol: Protocol, step: Step) -> Vec<u8> {
        let noise: Vec<u8> = (0..protocol.noise_len(step)).map(|i| i as u8).collect();
        let header = HandshakeHeader { protocol, step, sender: 0x1122_3340, receiver: 0x5566_7780 };
        let mut message = header.emit(&noise).unwrap();
        assert!(message[message.len() - 32..].iter().all(|byte| *byte == 0), "both MACs are zero");
        set_mac1(&mut message, &[0xaa; 16]);
        set_mac2(&mut message, &[0xbb; 16]);
        message
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let noise = |length: u8| hex(&(0..length).collect::<Vec<_>>());
        let macs = "aa".repeat(16) + &"bb".repeat(16);
        let expected = [
            format!("a101000040332211{}{macs}", noise(120)),
            format!("a20100004033221180776655{}{macs}", noise(56)),
            format!("0100000040332211{}{macs}", noise(108)),
            format!("020000004033221180776655{}{macs}", noise(48)),
        ];
        for ((protocol, step, length), expected) in MESSAGES.into_iter().zip(expected) {
            let message = example(protocol, step);
            assert_eq!(message.len(), length);
            assert!(length <= MAX_LEN);
            assert_eq!(hex(&message), expected);
        }
    }

    #[test]
    fn every_field_is_read_where_it_was_written() {
        for (protocol, step, length) in MESSAGES {
            let message = example(protocol, step);
            let view = Handshake::parse(&message).unwrap();
            assert_eq!((view.protocol(), view.step(), view.sender()), (protocol, step, 0x1122_3340));
            let (receiver, noise_at) = if step == Step::Response { (0x5566_7780, 12) } else { (0, 8) };
            assert_eq!(view.receiver(), receiver);
            assert_eq!(view.noise(), &message[noise_at..length - 32]);
            assert_eq!(view.head(), &message[..8]);
            assert_eq!((view.mac1(), view.mac2()), (&[0xaa; 16], &[0xbb; 16]));
            assert_eq!(view.mac1_covered(), &message[..length - 32]);
            assert_eq!(view.mac2_covered(), &message[..length - 16]);
        }
    }

    #[test]
    fn no_other_length_version_or_reserved_bit_is_a_message() {
        for (protocol, step, length) in MESSAGES {
            let message = example(protocol, step);
            for shorter in 0..length {
                assert_eq!(Handshake::parse(&message[..shorter]).unwrap_err(), Malformed::Truncated);
            }
            let longer = [&message[..], &[0]].concat();
            assert_eq!(Handshake::parse(&longer).unwrap_err(), Malformed::TotalLength);
            for bit in 0..32 {
                let mut changed = message.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(Handshake::parse(&changed).is_err(), "{protocol:?} {step:?} bit {bit}");
            }
        }
    }

    #[test]
    fn nothing_is_emitted_around_a_noise_message_of_another_length() {
        for (protocol, step, _) in MESSAGES {
            let header = HandshakeHeader { protocol, step, sender: 1, receiver: 2 };
            for length in (0..200).filter(|length| *length != protocol.noise_len(step)) {
                assert_eq!(header.emit(&vec![0; length]), None);
            }
        }
        for step in [Step::Cookie, Step::Data] {
            assert_eq!(HandshakeHeader { protocol: Protocol::Sealed, step, sender: 1, receiver: 2 }.emit(&[]), None);
        }
    }

    #[test]
    fn macs_need_their_room() {
        let mut short = [7; 15];
        set_mac1(&mut short, &[1; 16]);
        set_mac2(&mut short, &[1; 16]);
        assert_eq!(short, [7; 15]);
        let mut one = [7; 17];
        set_mac1(&mut one, &[1; 16]);
        assert_eq!(one, [7; 17]);
    }
}
