//! What a handshake says under its encryption: the initiator's [`Hello`] and the responder's [`Answer`].
//!
//! ```text
//! Hello    TAI64N 12 | epoch 4 | mtu 2 | mode 1 | flags 1 | zero 4
//! Answer   verdict 1 | suite 1 | mode 1 | flags 1 | mtu 2 | zero 2
//! ```
//!
//! These are the sealed transport's. WireGuard says only the timestamp, and nothing.

use crate::Malformed;

/// Bytes of a [`Hello`].
pub const HELLO: usize = 24;
/// Bytes of an [`Answer`].
pub const ANSWER: usize = 8;
/// Bytes of a [`Tai64n`].
pub const TIMESTAMP: usize = 12;

/// Bit of the flags of both: the CPU has AES instructions.
const AES: u8 = 1;

/// A TAI64N label, as it is on the wire: big-endian seconds and nanoseconds, so that later ones compare greater.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Tai64n(pub [u8; TIMESTAMP]);

/// What a tunnel carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// IP packets.
    #[default]
    Tun,
    /// Ethernet frames.
    Tap,
}

impl Mode {
    const fn number(self) -> u8 {
        match self {
            Self::Tun => 0,
            Self::Tap => 1,
        }
    }

    const fn from_number(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Tun),
            1 => Ok(Self::Tap),
            _ => Err(Malformed::Value),
        }
    }
}

/// The AEAD of a session's data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Suite {
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl Suite {
    /// The rule of the sealed transport: AES-256-GCM if and only if both CPUs have instructions for it.
    #[must_use]
    pub const fn of(initiator_has_aes: bool, responder_has_aes: bool) -> Self {
        if initiator_has_aes && responder_has_aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// Its number in an answer and in the derivation of data keys.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }
}

/// What the initiator says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hello {
    /// When; greater than in every earlier initiation of the same key.
    pub timestamp: Tai64n,
    /// The epoch of the network secret that it uses.
    pub epoch: u32,
    /// The longest inner packet it takes, in bytes.
    pub mtu: u16,
    /// What it wants to carry.
    pub mode: Mode,
    /// Whether its CPU has AES instructions.
    pub aes: bool,
}

impl Hello {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Malformed::Value`]: an unknown mode or flag, or a reserved byte that is not zero.
    pub fn parse(bytes: &[u8; HELLO]) -> Result<Self, Malformed> {
        let [time @ .., e0, e1, e2, e3, m0, m1, mode, flags, 0, 0, 0, 0] = *bytes else {
            return Err(Malformed::Value);
        };
        if flags & !AES != 0 {
            return Err(Malformed::Value);
        }
        Ok(Self {
            timestamp: Tai64n(time),
            epoch: u32::from_le_bytes([e0, e1, e2, e3]),
            mtu: u16::from_le_bytes([m0, m1]),
            mode: Mode::from_number(mode)?,
            aes: flags & AES != 0,
        })
    }

    /// The payload.
    #[must_use]
    pub fn emit(&self) -> [u8; HELLO] {
        let [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11] = self.timestamp.0;
        let [e0, e1, e2, e3] = self.epoch.to_le_bytes();
        let [m0, m1] = self.mtu.to_le_bytes();
        let (mode, flags) = (self.mode.number(), if self.aes { AES } else { 0 });
        [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, e0, e1, e2, e3, m0, m1, mode, flags, 0, 0, 0, 0]
    }
}

/// What the responder decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// There is a session, and this is how its data is sealed.
    Accepted(Suite),
    /// The modes differ.
    RefusedMode,
    /// The epochs of the network secret differ by more than is accepted.
    RefusedEpoch,
}

/// What the responder says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Answer {
    /// Its decision.
    pub outcome: Outcome,
    /// What it carries.
    pub mode: Mode,
    /// Whether its CPU has AES instructions, so that the initiator can tell which suite is due.
    pub aes: bool,
    /// The longest inner packet it takes, in bytes.
    pub mtu: u16,
}

impl Answer {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Malformed::Value`]: an unknown verdict, suite, mode or flag, a suite beside a refusal or none beside an acceptance,
    /// or a reserved byte that is not zero.
    pub fn parse(bytes: &[u8; ANSWER]) -> Result<Self, Malformed> {
        let [verdict, suite, mode, flags, m0, m1, 0, 0] = *bytes else { return Err(Malformed::Value) };
        if flags & !AES != 0 {
            return Err(Malformed::Value);
        }
        let outcome = match (verdict, suite) {
            (0, 1) => Outcome::Accepted(Suite::Aes256Gcm),
            (0, 2) => Outcome::Accepted(Suite::ChaCha20Poly1305),
            (1, 0) => Outcome::RefusedMode,
            (2, 0) => Outcome::RefusedEpoch,
            _ => return Err(Malformed::Value),
        };
        let (mode, aes) = (Mode::from_number(mode)?, flags & AES != 0);
        Ok(Self { outcome, mode, aes, mtu: u16::from_le_bytes([m0, m1]) })
    }

    /// The payload.
    #[must_use]
    pub fn emit(&self) -> [u8; ANSWER] {
        let (verdict, suite) = match self.outcome {
            Outcome::Accepted(suite) => (0, suite.number()),
            Outcome::RefusedMode => (1, 0),
            Outcome::RefusedEpoch => (2, 0),
        };
        let [m0, m1] = self.mtu.to_le_bytes();
        [verdict, suite, self.mode.number(), if self.aes { AES } else { 0 }, m0, m1, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO_EXAMPLE: Hello = Hello {
        timestamp: Tai64n([0x40, 0, 0, 0, 0x68, 1, 2, 3, 0, 0, 0x10, 0]),
        epoch: 0x0102_0304,
        mtu: 1420,
        mode: Mode::Tap,
        aes: true,
    };

    #[test]
    fn hello_has_the_bytes_of_the_format() {
        let bytes = [0x40, 0, 0, 0, 0x68, 1, 2, 3, 0, 0, 0x10, 0, 4, 3, 2, 1, 0x8c, 0x05, 1, 1, 0, 0, 0, 0];
        assert_eq!(HELLO_EXAMPLE.emit(), bytes);
        assert_eq!(Hello::parse(&bytes), Ok(HELLO_EXAMPLE));
        assert_eq!(Hello::default().emit(), [0; 24]);
    }

    #[test]
    fn answer_has_the_bytes_of_the_format() {
        for (outcome, aes, start) in [
            (Outcome::Accepted(Suite::Aes256Gcm), true, [0, 1, 0, 1]),
            (Outcome::Accepted(Suite::ChaCha20Poly1305), false, [0, 2, 0, 0]),
            (Outcome::Accepted(Suite::ChaCha20Poly1305), true, [0, 2, 0, 1]),
            (Outcome::RefusedMode, false, [1, 0, 0, 0]),
            (Outcome::RefusedEpoch, true, [2, 0, 0, 1]),
        ] {
            let [verdict, suite, mode, flags] = start;
            let bytes = [verdict, suite, mode, flags, 0x8c, 0x05, 0, 0];
            let answer = Answer { outcome, mode: Mode::Tun, aes, mtu: 1420 };
            assert_eq!(answer.emit(), bytes);
            assert_eq!(Answer::parse(&bytes), Ok(answer));
        }
    }

    #[test]
    fn undefined_values_are_refused() {
        let hello = HELLO_EXAMPLE.emit();
        for (at, value) in [(18, 2), (19, 2), (19, 0x81), (20, 1), (21, 1), (22, 1), (23, 1)] {
            let mut changed = hello;
            changed[at] = value;
            assert_eq!(Hello::parse(&changed), Err(Malformed::Value), "byte {at}");
        }
        for bytes in [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 3, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],
            [3, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 2, 0, 0, 0, 0, 0],
            [0, 1, 0, 2, 0, 0, 0, 0],
            [0, 1, 0, 0x81, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 1, 0],
            [0, 1, 0, 0, 0, 0, 0, 1],
        ] {
            assert_eq!(Answer::parse(&bytes), Err(Malformed::Value), "{bytes:?}");
        }
    }

    #[test]
    fn aes_needs_both() {
        assert_eq!(Suite::of(true, true), Suite::Aes256Gcm);
        for (initiator, responder) in [(true, false), (false, true), (false, false)] {
            assert_eq!(Suite::of(initiator, responder), Suite::ChaCha20Poly1305);
        }
    }

    #[test]
    fn later_timestamps_are_greater() {
        let at = |second: u8, nano: u8| Tai64n([0x40, 0, 0, 0, 0, 0, 0, second, 0, 0, 0, nano]);
        assert!(at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1));
    }
}
