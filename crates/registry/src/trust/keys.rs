//! Keys: of the authority, and of a node.

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use super::{TrustError, label};

/// 32 bytes: the length of every key and secret here.
pub(super) const KEY: usize = 32;
/// The length of an Ed25519 signature (RFC 8032, section 5.1.6).
pub(super) const SIGNATURE: usize = 64;

/// 2^255 − 19, little endian: coordinates are smaller.
const P: [u8; KEY] = {
    let mut p = [0xff; KEY];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};
/// p − 1.
const P_MINUS_1: [u8; KEY] = {
    let mut value = P;
    value[0] = 0xec;
    value
};
const ONE: [u8; KEY] = {
    let mut value = [0; KEY];
    value[0] = 1;
    value
};
/// u-coordinates of the points of low order (RFC 7748, section 6.1), each in its one proper encoding.
const LOW_ORDER_U: [[u8; KEY]; 5] = [
    [0; KEY],
    ONE,
    P_MINUS_1,
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
];
/// y-coordinates of the points of low order on edwards25519: under such a key anybody can sign.
const LOW_ORDER_Y: [[u8; KEY]; 5] = [
    [0; KEY],
    ONE,
    P_MINUS_1,
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Which network: what keeps the words of one from being taken for those of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(pub [u8; 16]);

impl NetworkId {
    /// That of an authority: the first 16 bytes of SHA-256 over `adit network v1`, a zero byte and its public key.
    pub fn of_authority(public: &[u8; KEY]) -> Self {
        Self::cut(&super::sha256(&[label::NETWORK, public]))
    }

    pub(super) fn cut(hash: &[u8; KEY]) -> Self {
        let mut id = [0; 16];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
        Self(id)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ed25519 key pair and the seed that it was made of.
pub(super) struct Signer {
    seed: Zeroizing<[u8; KEY]>,
    pair: Ed25519KeyPair,
    public: [u8; KEY],
}

impl Signer {
    pub(super) fn from_seed(seed: Zeroizing<[u8; KEY]>) -> Result<Self, TrustError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| TrustError::Crypto)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| TrustError::Crypto)?;
        Ok(Self { seed, pair, public })
    }

    pub(super) fn seed(&self) -> &[u8; KEY] {
        &self.seed
    }

    pub(super) fn public(&self) -> [u8; KEY] {
        self.public
    }

    /// Signs `body` as a message of the kind `label`.
    pub(super) fn sign(&self, label: &[u8], body: &[u8]) -> [u8; SIGNATURE] {
        let signature = self.pair.sign(&[label, body].concat());
        let mut bytes = [0; SIGNATURE];
        bytes.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
        bytes
    }
}

/// Whether `signature` is that of `public` on `body` as a message of the kind `label`.
pub(super) fn verify(public: &[u8; KEY], label: &[u8], body: &[u8], signature: &[u8]) -> Result<(), TrustError> {
    signature::UnparsedPublicKey::new(&signature::ED25519, public)
        .verify(&[label, body].concat(), signature)
        .map_err(|_| TrustError::Signature)
}

/// A node's two keys, of which the second follows from the first: X25519 for `sealed`, and Ed25519 for what it says of itself.
pub struct NodeKeys {
    private: Zeroizing<[u8; KEY]>,
    sealed_public: [u8; KEY],
    record: Signer,
}

impl NodeKeys {
    /// New keys.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn generate() -> Result<Self, TrustError> {
        let mut private = random()?;
        // As RFC 7748 (section 5) says, so that the text of the key is what `adit keygen` would print.
        private[0] &= 0b1111_1000;
        private[KEY - 1] = (private[KEY - 1] & 0b0111_1111) | 0b0100_0000;
        Self::from_private(private)
    }

    /// The keys that follow from an X25519 private key.
    ///
    /// # Errors
    /// All zeros are no key.
    pub fn from_private(private: Zeroizing<[u8; KEY]>) -> Result<Self, TrustError> {
        if private.iter().all(|byte| *byte == 0) {
            return Err(TrustError::Field("private key"));
        }
        let sealed_public = public_of(&private)?;
        let record = Signer::from_seed(hkdf(&[], private.as_ref(), label::RECORD_KEY))?;
        Ok(Self { private, sealed_public, record })
    }

    /// The public X25519 key, by which `sealed` knows the node.
    pub fn sealed_public(&self) -> [u8; KEY] {
        self.sealed_public
    }

    /// The private X25519 key.
    pub fn sealed_private(&self) -> &Zeroizing<[u8; KEY]> {
        &self.private
    }

    /// The public Ed25519 key, by which records are known to be the node's.
    pub fn record_public(&self) -> [u8; KEY] {
        self.record.public()
    }

    /// Signs `body` as a message of the kind `label`.
    pub fn sign(&self, label: &[u8], body: &[u8]) -> [u8; SIGNATURE] {
        self.record.sign(label, body)
    }
}

/// 32 random bytes.
///
/// # Errors
/// The random generator failed.
pub fn random() -> Result<Zeroizing<[u8; KEY]>, TrustError> {
    let mut bytes = Zeroizing::new([0; KEY]);
    rand::fill(bytes.as_mut()).map_err(|_| TrustError::Crypto)?;
    Ok(bytes)
}

/// HKDF-SHA256 (RFC 5869) for 32 bytes: one block of the expansion.
pub(super) fn hkdf(salt: &[u8], ikm: &[u8], info: &[u8]) -> Zeroizing<[u8; KEY]> {
    let extracted = mac(salt, &[ikm]);
    mac(extracted.as_ref(), &[info, &[1]])
}

/// HMAC-SHA256 over parts in order.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; KEY]> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut out = Zeroizing::new([0; KEY]);
    out.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// The public half of an X25519 key.
pub(super) fn public_of(private: &[u8; KEY]) -> Result<[u8; KEY], TrustError> {
    let private = PrivateKey::from_private_key(&agreement::X25519, private).map_err(|_| TrustError::Crypto)?;
    let public = private.compute_public_key().map_err(|_| TrustError::Crypto)?;
    public.as_ref().try_into().map_err(|_| TrustError::Crypto)
}

/// The shared secret of X25519; none with a point of low order.
pub(super) fn agree(private: &[u8; KEY], public: &[u8; KEY]) -> Result<Zeroizing<[u8; KEY]>, TrustError> {
    let private = PrivateKey::from_private_key(&agreement::X25519, private).map_err(|_| TrustError::Crypto)?;
    let public = UnparsedPublicKey::new(&agreement::X25519, public);
    agreement::agree(&private, public, TrustError::Field("sealed key"), |secret| {
        secret.try_into().map(Zeroizing::new).map_err(|_| TrustError::Crypto)
    })
}

/// Whether these bytes are an X25519 public key in its one proper encoding, with which an agreement has a secret.
pub(super) fn is_sealed_key(key: &[u8; KEY]) -> bool {
    is_below_p(key) && !LOW_ORDER_U.contains(key)
}

/// Whether these bytes can be an Ed25519 public key in its one proper encoding, under which only its owner signs.
pub(super) fn is_record_key(key: &[u8; KEY]) -> bool {
    // The topmost bit is the sign of x.
    let mut y = *key;
    y[KEY - 1] &= 0x7f;
    is_below_p(&y) && !LOW_ORDER_Y.contains(&y)
}

fn is_below_p(value: &[u8; KEY]) -> bool {
    value.iter().rev().lt(P.iter().rev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hkdf_is_that_of_the_rfc() {
        // RFC 5869, appendix A.1: the first 32 of its 42 bytes.
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let okm = hkdf(&salt, &[0x0b; 22], &info);
        let text: String = okm.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    }

    #[test]
    fn sealed_keys_without_a_secret_or_in_another_encoding_are_refused() {
        let any = NodeKeys::generate().unwrap();
        for key in LOW_ORDER_U {
            assert!(!is_sealed_key(&key));
            assert!(agree(any.sealed_private(), &key).is_err(), "{key:?} has a secret");
        }
        let mut above = P;
        above[0] = 0xff;
        let mut high = any.sealed_public();
        high[31] |= 0x80;
        for key in [P, above, [0xff; KEY], high] {
            assert!(!is_sealed_key(&key), "{key:?}");
        }
        assert!(is_sealed_key(&any.sealed_public()));
        let mut nine = [0; KEY];
        nine[0] = 9;
        assert!(is_sealed_key(&nine));
    }

    #[test]
    fn record_keys_under_which_anybody_signs_are_refused() {
        // Under the neutral element, (R = neutral, S = 0) signs everything.
        let mut forged = [0; SIGNATURE];
        forged[0] = 1;
        for key in LOW_ORDER_Y {
            let mut negative = key;
            negative[31] |= 0x80;
            assert!(!is_record_key(&key) && !is_record_key(&negative));
        }
        assert!(!is_record_key(&P));
        assert!(verify(&ONE, b"any", b"thing", &forged).is_ok(), "the check of keys closes nothing");
        assert!(is_record_key(&NodeKeys::generate().unwrap().record_public()));
    }

    #[test]
    fn the_record_key_follows_from_the_private_key() {
        let keys = |byte| NodeKeys::from_private(Zeroizing::new([byte; KEY])).unwrap();
        assert_eq!(keys(7).record_public(), keys(7).record_public());
        assert_ne!(keys(7).record_public(), keys(8).record_public());
        assert_ne!(keys(7).record_public(), keys(7).sealed_public());
        assert!(NodeKeys::from_private(Zeroizing::new([0; KEY])).is_err());
    }

    #[test]
    fn a_signature_is_of_its_kind_and_in_one_form_only() {
        let signer = Signer::from_seed(Zeroizing::new([3; KEY])).unwrap();
        let signature = signer.sign(b"kind one\0", b"body");
        let check = |label: &[u8], signature: &[u8]| verify(&signer.public(), label, b"body", signature);
        assert_eq!(check(b"kind one\0", &signature), Ok(()));
        assert_eq!(check(b"kind two\0", &signature), Err(TrustError::Signature));
        assert_eq!(check(b"kind one\0", &signature[..63]), Err(TrustError::Signature));
        assert_eq!(check(b"kind one\0", &super::super::tests::with_another_s(&signature)), Err(TrustError::Signature));
    }
}
