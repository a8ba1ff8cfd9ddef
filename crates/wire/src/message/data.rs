//! Data messages of both protocols, and what a sealed control message says.
//!
//! ```text
//! type 1 | flags 1 | zero 2 | receiver 4 | counter 8 | ciphertext | tag 16
//! ```
//!
//! WireGuard has no flags. The sealed transport authenticates all 16 bytes of the header, and uses the low four bits of
//! the receiver index as the *lane*: the sender chooses it for each inner flow, the receiver spreads lanes over its
//! workers and masks it off.

use super::{Protocol, Step, TAG};
use crate::Malformed;

/// Bytes of the header.
pub const DATA_HEADER: usize = 16;
/// Bytes that a data message adds to its plaintext.
pub const DATA_OVERHEAD: usize = DATA_HEADER + TAG;
/// The bits of a sealed receiver index that are the lane.
pub const LANE_MASK: u32 = 0xf;
/// Bytes of an ack, and the fewest of a probe: an ack is never larger than what it answers.
pub const ACK: usize = 24;

/// The flags of a sealed data message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// The transport checksum is that of the pseudo header; who needs the rest computes it.
    pub const CHECKSUM_PARTIAL: Self = Self(1);
    /// The packet continues that of the counter before.
    pub const CONTINUES: Self = Self(2);
    /// A [`Control`] message, not a packet.
    pub const CONTROL: Self = Self(4);

    /// Whether all of `other` are set.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The byte in the header.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    #[inline]
    const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !0b111 == 0 { Some(Self(bits)) } else { None }
    }
}

/// The header of a data message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHeader {
    /// Whose message it is.
    pub protocol: Protocol,
    /// What is inside; none in WireGuard.
    pub flags: Flags,
    /// The index by which the receiver knows the session, with the lane if sealed.
    pub receiver: u32,
    /// The number of the message in its session and direction.
    pub counter: u64,
}

impl DataHeader {
    /// Takes the header at the front of `datagram`, which has at least a tag behind it.
    ///
    /// # Errors
    /// [`Malformed::Truncated`]; [`Malformed::Value`] for another message, an unknown flag or a reserved bit.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        if datagram.len() < DATA_OVERHEAD {
            return Err(Malformed::Truncated);
        }
        let (head, _) = datagram.split_first_chunk::<DATA_HEADER>().ok_or(Malformed::Truncated)?;
        let [kind, flags, 0, 0, r0, r1, r2, r3, counter @ ..] = *head else { return Err(Malformed::Value) };
        let (protocol, flags) = match (kind, flags) {
            (SEALED, flags) => (Protocol::Sealed, Flags::from_bits(flags).ok_or(Malformed::Value)?),
            (WIREGUARD, 0) => (Protocol::WireGuard, Flags::NONE),
            _ => return Err(Malformed::Value),
        };
        let receiver = u32::from_le_bytes([r0, r1, r2, r3]);
        Ok(Self { protocol, flags, receiver, counter: u64::from_le_bytes(counter) })
    }

    /// The receiver's index without the lane.
    #[inline]
    #[must_use]
    pub const fn index(&self) -> u32 {
        match self.protocol {
            Protocol::Sealed => self.receiver & !LANE_MASK,
            Protocol::WireGuard => self.receiver,
        }
    }

    /// The header's bytes. WireGuard's have no flags, whatever is set.
    #[inline]
    #[must_use]
    pub const fn emit(&self) -> [u8; DATA_HEADER] {
        let (kind, flags) = match self.protocol {
            Protocol::Sealed => (SEALED, self.flags.0),
            Protocol::WireGuard => (WIREGUARD, 0),
        };
        let [r0, r1, r2, r3] = self.receiver.to_le_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.counter.to_le_bytes();
        [kind, flags, 0, 0, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7]
    }
}

const SEALED: u8 = 0xa0 | Step::Data.number();
const WIREGUARD: u8 = Step::Data.number();

/// The plaintext of a sealed message with [`Flags::CONTROL`]: `kind 1 | zero 7 | id 8`, then zeros up to the size under
/// test in a probe, `length 2 | zero 6` in an ack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Asks for an ack: to keep a path alive, to validate it, or to learn whether a datagram of this size passes.
    Probe {
        /// What the ack repeats.
        id: u64,
    },
    /// Answers a probe, and is never answered.
    Ack {
        /// The probe's.
        id: u64,
        /// Bytes of the probe's datagram, its UDP payload.
        length: u16,
    },
}

impl Control {
    const PROBE: u8 = 1;
    const ACK: u8 = 2;

    /// Reads a plaintext.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] for fewer than [`ACK`] bytes, [`Malformed::TotalLength`] for an ack of more,
    /// [`Malformed::Value`] for another kind or a byte that should be zero.
    pub fn parse(plaintext: &[u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = plaintext.split_first_chunk::<ACK>().ok_or(Malformed::Truncated)?;
        let [kind, 0, 0, 0, 0, 0, 0, 0, i0, i1, i2, i3, i4, i5, i6, i7, l0, l1, 0, 0, 0, 0, 0, 0] = *fixed else {
            return Err(Malformed::Value);
        };
        let id = u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
        let length = u16::from_le_bytes([l0, l1]);
        match kind {
            Self::PROBE if length == 0 && rest.iter().all(|byte| *byte == 0) => Ok(Self::Probe { id }),
            Self::ACK if rest.is_empty() => Ok(Self::Ack { id, length }),
            Self::ACK => Err(Malformed::TotalLength),
            _ => Err(Malformed::Value),
        }
    }

    /// Writes the plaintext to the front of `out` and returns its length: a probe fills all of it, which is the size under
    /// test, an ack takes [`ACK`] bytes. `None` if `out` is shorter than that.
    #[must_use]
    pub fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let whole = out.len();
        let (fixed, rest) = out.split_first_chunk_mut::<ACK>()?;
        let (kind, id, length, total) = match *self {
            Self::Probe { id } => {
                rest.fill(0);
                (Self::PROBE, id, 0, whole)
            }
            Self::Ack { id, length } => (Self::ACK, id, length, ACK),
        };
        let [i0, i1, i2, i3, i4, i5, i6, i7] = id.to_le_bytes();
        let [l0, l1] = u16::to_le_bytes(length);
        *fixed = [kind, 0, 0, 0, 0, 0, 0, 0, i0, i1, i2, i3, i4, i5, i6, i7, l0, l1, 0, 0, 0, 0, 0, 0];
        Some(total)
    }
}

/// What two daemons tell each other inside a session beside probes, also with [`Flags::CONTROL`]: `kind 1 | topic 1 | zero 6 | body`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note<'a> {
    /// What it is about.
    pub topic: u8,
    /// What is said, which those who know the topic understand: at most [`Note::MAX_BODY`] bytes.
    pub body: &'a [u8],
}

impl<'a> Note<'a> {
    /// Bytes of the longest body: any way by IPv6 takes it whole.
    pub const MAX_BODY: usize = 1000;
    const KIND: u8 = 3;

    /// Whether a plaintext is one, well-formed or not.
    #[inline]
    #[must_use]
    pub fn is_one(plaintext: &[u8]) -> bool {
        plaintext.first() == Some(&Self::KIND)
    }

    /// Reads a plaintext.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] for fewer than 8 bytes, [`Malformed::TotalLength`] for a body that is too long, [`Malformed::Value`] for another
    /// kind or a byte that should be zero.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, Malformed> {
        let (head, body) = plaintext.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
        let [Self::KIND, topic, 0, 0, 0, 0, 0, 0] = *head else { return Err(Malformed::Value) };
        if body.len() > Self::MAX_BODY {
            return Err(Malformed::TotalLength);
        }
        Ok(Self { topic, body })
    }

    /// The plaintext; `None` if the body is too long.
    #[must_use]
    pub fn emit(&self) -> Option<Vec<u8>> {
        let head = [Self::KIND, self.topic, 0, 0, 0, 0, 0, 0];
        (self.body.len() <= Self::MAX_BODY).then(|| [&head, self.body].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED_EXAMPLE: DataHeader = DataHeader {
        protocol: Protocol::Sealed,
        flags: Flags::CHECKSUM_PARTIAL.with(Flags::CONTINUES),
        receiver: 0x1122_3347,
        counter: 0x0102_0304_0506_0708,
    };

    fn message(header: &DataHeader) -> Vec<u8> {
        [&header.emit()[..], &[0x55; 16]].concat()
    }

    #[test]
    fn bytes_are_those_of_the_format() {
        let sealed = [0xa4, 3, 0, 0, 0x47, 0x33, 0x22, 0x11, 8, 7, 6, 5, 4, 3, 2, 1];
        let wireguard = [4, 0, 0, 0, 0x47, 0x33, 0x22, 0x11, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(SEALED_EXAMPLE.emit(), sealed);
        assert_eq!(DataHeader::parse(&message(&SEALED_EXAMPLE)), Ok(SEALED_EXAMPLE));
        assert_eq!(SEALED_EXAMPLE.index(), 0x1122_3340);
        let other = DataHeader { protocol: Protocol::WireGuard, ..SEALED_EXAMPLE };
        assert_eq!(other.emit(), wireguard);
        let other = DataHeader { flags: Flags::NONE, ..other };
        assert_eq!(DataHeader::parse(&message(&other)), Ok(other));
        assert_eq!(other.index(), 0x1122_3347);
    }

    #[test]
    fn flags_are_a_set() {
        let all = Flags::CHECKSUM_PARTIAL.with(Flags::CONTINUES).with(Flags::CONTROL);
        assert_eq!(all.bits(), 7);
        for flag in [Flags::CHECKSUM_PARTIAL, Flags::CONTINUES, Flags::CONTROL] {
            assert!(all.contains(flag) && !Flags::NONE.contains(flag) && flag.contains(Flags::NONE));
        }
        assert!(!Flags::CONTROL.contains(all));
    }

    #[test]
    fn a_tag_is_always_there() {
        let bytes = message(&SEALED_EXAMPLE);
        assert!((0..32).all(|length| DataHeader::parse(&bytes[..length]) == Err(Malformed::Truncated)));
    }

    #[test]
    fn unknown_flags_and_reserved_bits_are_refused() {
        for bit in 0..32 {
            let mut sealed = message(&SEALED_EXAMPLE);
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(DataHeader::parse(&sealed).is_ok(), (8..11).contains(&bit), "sealed bit {bit}");
            let mut wireguard =
                message(&DataHeader { protocol: Protocol::WireGuard, flags: Flags::NONE, ..SEALED_EXAMPLE });
            wireguard[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(DataHeader::parse(&wireguard), Err(Malformed::Value), "wireguard bit {bit}");
        }
    }

    #[test]
    fn control_has_the_bytes_of_the_format() {
        let mut out = [0xff; 40];
        let id = 0x0102_0304_0506_0708;
        assert_eq!(Control::Probe { id }.emit(&mut out), Some(40));
        assert_eq!(out[..16], [1, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(out[16..], [0; 24]);
        assert_eq!(Control::parse(&out), Ok(Control::Probe { id }));
        out.fill(0xff);
        let ack = Control::Ack { id, length: 1440 };
        assert_eq!(ack.emit(&mut out), Some(24));
        assert_eq!(out[..24], [2, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0xa0, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Control::parse(&out[..24]), Ok(ack));
        assert_eq!(Control::parse(&out[..25]), Err(Malformed::TotalLength));
    }

    #[test]
    fn a_note_has_the_bytes_of_the_format() {
        let note = Note { topic: 9, body: b"hello" };
        let bytes = note.emit().unwrap();
        assert_eq!(bytes, *b"\x03\x09\0\0\0\0\0\0hello");
        assert_eq!((Note::parse(&bytes), Note::is_one(&bytes)), (Ok(note), true));
        assert_eq!(Control::parse(&[bytes.clone(), vec![0; 30]].concat()), Err(Malformed::Value), "no probe");
        for at in [0, 2, 3, 4, 5, 6, 7] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Note::parse(&changed), Err(Malformed::Value), "byte {at}");
        }
        assert!((0..8).all(|length| Note::parse(&bytes[..length]) == Err(Malformed::Truncated)));
        let long = vec![0; Note::MAX_BODY + 1];
        assert_eq!(Note { topic: 1, body: &long }.emit(), None);
        assert_eq!(Note::parse(&[&bytes[..8], &long].concat()), Err(Malformed::TotalLength));
        assert_eq!(
            Note::parse(&Note { topic: 1, body: &long[1..] }.emit().unwrap()).unwrap().body.len(),
            Note::MAX_BODY
        );
    }

    #[test]
    fn control_of_another_shape_is_refused() {
        let mut out = [0; 30];
        Control::Probe { id: 9 }.emit(&mut out).unwrap();
        for length in 0..24 {
            assert_eq!(Control::parse(&out[..length]), Err(Malformed::Truncated));
            assert_eq!(Control::Probe { id: 9 }.emit(&mut out[..length]), None);
            Control::Probe { id: 9 }.emit(&mut out).unwrap();
        }
        for at in (0..8).chain(16..30) {
            let mut changed = out;
            changed[at] = 3;
            assert_eq!(Control::parse(&changed), Err(Malformed::Value), "byte {at}");
        }
    }
}
