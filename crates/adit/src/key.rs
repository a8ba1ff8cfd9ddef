//! X25519 keys as text: 32 bytes in base64, the same text that `wg genkey` and `wg pubkey` print.

use std::{fmt, str::FromStr};

use aws_lc_rs::agreement;
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The length of either key, in bytes (RFC 7748, section 5).
pub const LENGTH: usize = 32;

/// Characters of a key in base64, padding included.
pub const TEXT_LENGTH: usize = 44;

/// Why a text or file is not a key. Says nothing of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 32 bytes in base64 (44 characters, ending in '='), as `adit keygen` prints them")]
pub struct NotAKey;

/// A private key. It is erased when dropped and cannot be copied, compared, or printed by accident.
pub struct PrivateKey {
    bytes: Zeroizing<[u8; LENGTH]>,
    public: PublicKey,
}

impl PrivateKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// All zeros is no key: it is what an empty disk or a failed generator gives.
    pub fn from_bytes(bytes: Zeroizing<[u8; LENGTH]>) -> Result<Self, NotAKey> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(NotAKey);
        }
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, bytes.as_ref()).map_err(|_| NotAKey)?;
        let public = key.compute_public_key().map_err(|_| NotAKey)?;
        let public = PublicKey(public.as_ref().try_into().map_err(|_| NotAKey)?);
        Ok(Self { bytes, public })
    }

    /// The key's bytes, for key agreement.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.bytes
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }
}

/// A public key: who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; LENGTH]);

impl PublicKey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they travel in a handshake.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let mut bytes = [0; LENGTH];
        decode(text.as_bytes(), &mut bytes)?;
        // No private key has this public half, and an agreement with it has no secret.
        if bytes == [0; LENGTH] { Err(NotAKey) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Decodes exactly one key, without an allocation that would keep a copy.
fn decode(text: &[u8], key: &mut [u8; LENGTH]) -> Result<(), NotAKey> {
    if text.len() != TEXT_LENGTH {
        return Err(NotAKey);
    }
    // base64 estimates room by groups of four characters: one byte more than a key.
    let mut room = Zeroizing::new([0; LENGTH + 1]);
    let length = STANDARD.decode_slice(text, room.as_mut()).map_err(|_| NotAKey)?;
    if length != LENGTH {
        return Err(NotAKey);
    }
    key.copy_from_slice(room.get(..LENGTH).ok_or(NotAKey)?);
    Ok(())
}
