//! The primitives under snow's Noise: aws-lc for keys and ciphers, BLAKE2s from the `blake2` crate.
//!
//! Nothing here is random: the one ephemeral key of a handshake comes from outside, once. A static key lies in aws-lc's
//! memory, which erases what it frees, and nowhere else: snow gets a handle.
//!
//! What snow itself holds while a handshake lasts (chaining key, pre-shared key) it does not erase; sessions' keys are
//! derived from it, and are erased where they end.

use std::mem;
use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use blake2::Blake2s256;
use blake2::digest::{FixedOutput, Update};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use zeroize::Zeroizing;

const KEY: usize = 32;
const TAG: usize = 16;
const HASH: usize = 32;
/// BLAKE2s works on blocks of this many bytes.
const BLOCK: usize = 64;

/// A key pair for X25519.
pub(crate) struct KeyPair {
    private: PrivateKey,
    public: [u8; KEY],
}

impl KeyPair {
    pub(crate) fn new(private: &[u8; KEY]) -> Result<Self, Error> {
        let private = PrivateKey::from_private_key(&agreement::X25519, private).map_err(|_| Error::Dh)?;
        let public = private.compute_public_key().map_err(|_| Error::Dh)?;
        let public = public.as_ref().try_into().map_err(|_| Error::Dh)?;
        Ok(Self { private, public })
    }

    pub(crate) fn public(&self) -> &[u8; KEY] {
        &self.public
    }

    /// The shared secret; an error if it would be zero, as low-order points make it (RFC 7748, section 6.1).
    fn agree(&self, public: &[u8; KEY], out: &mut [u8; KEY]) -> Result<(), Error> {
        let public = UnparsedPublicKey::new(&agreement::X25519, public);
        agreement::agree(&self.private, public, Error::Dh, |secret| {
            *out = *secret.first_chunk().ok_or(Error::Dh)?;
            Ok(())
        })
    }
}

/// The ephemeral private key that a handshake will use when it comes to it, if it is there by then.
#[derive(Clone, Default)]
pub(crate) struct Ephemeral(Arc<Mutex<Option<Zeroizing<[u8; KEY]>>>>);

impl Ephemeral {
    pub(crate) fn put(&self, key: Zeroizing<[u8; KEY]>) {
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some(key);
        }
    }
}

impl Random for Ephemeral {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let key = self.0.lock().map_err(|_| Error::Rng)?.take().ok_or(Error::Rng)?;
        let out: &mut [u8; KEY] = out.try_into().map_err(|_| Error::Rng)?;
        *out = *key;
        Ok(())
    }
}

/// How a handshake begins.
pub(crate) struct Start<'a> {
    /// The Noise protocol's name, an IKpsk2.
    pub(crate) name: &'a str,
    /// What both sides must agree on beforehand.
    pub(crate) prologue: &'a [u8],
    /// Our static key.
    pub(crate) identity: &'a Arc<KeyPair>,
    /// Our ephemeral key.
    pub(crate) ephemeral: &'a Ephemeral,
}

impl Start<'_> {
    /// The initiator's side, which knows whom it speaks to.
    pub(crate) fn initiator(&self, remote: &[u8; KEY], psk: &[u8; KEY]) -> Result<HandshakeState, Error> {
        self.builder()?.remote_public_key(remote)?.psk(2, psk)?.build_initiator()
    }

    /// The responder's side. Its pre-shared key follows by [`HandshakeState::set_psk`] once it knows who asks.
    pub(crate) fn responder(&self) -> Result<HandshakeState, Error> {
        self.builder()?.build_responder()
    }

    fn builder(&self) -> Result<Builder<'_>, Error> {
        let resolver = Resolver { identity: Arc::clone(self.identity), ephemeral: self.ephemeral.clone() };
        // No bytes for the private key: the resolver has it.
        Builder::with_resolver(self.name.parse()?, Box::new(resolver)).local_private_key(&[])?.prologue(self.prologue)
    }
}

struct Resolver {
    identity: Arc<KeyPair>,
    ephemeral: Ephemeral,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(self.ephemeral.clone()))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519 { identity: Arc::clone(&self.identity), pair: None })),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(Blake2s(Blake2s256::default()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let (name, algorithm, nonce): (_, _, fn(u64) -> [u8; 8]) = match choice {
            CipherChoice::AESGCM => ("AESGCM", &AES_256_GCM, u64::to_be_bytes),
            CipherChoice::ChaChaPoly => ("ChaChaPoly", &CHACHA20_POLY1305, u64::to_le_bytes),
        };
        Some(Box::new(Aead { name, algorithm, nonce, key: None }))
    }
}

/// A static or an ephemeral key pair, once it is there.
struct X25519 {
    identity: Arc<KeyPair>,
    pair: Option<Arc<KeyPair>>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY
    }

    fn priv_len(&self) -> usize {
        KEY
    }

    /// snow sets static keys only.
    fn set(&mut self, _: &[u8]) {
        self.pair = Some(Arc::clone(&self.identity));
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; KEY]);
        rng.try_fill_bytes(&mut private[..])?;
        self.pair = Some(Arc::new(KeyPair::new(&private)?));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; KEY], |pair| pair.public())
    }

    /// snow asks for it when it makes key pairs for others, which nobody does here.
    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // snow keeps public keys in arrays that a longer curve's would fill.
        let public = public.first_chunk().ok_or(Error::Dh)?;
        let out = out.first_chunk_mut().ok_or(Error::Dh)?;
        self.pair.as_ref().ok_or(Error::Dh)?.agree(public, out)
    }
}

struct Aead {
    name: &'static str,
    algorithm: &'static Algorithm,
    /// The byte order of the counter in the last eight bytes of the nonce (Noise, sections 12.3 and 12.4).
    nonce: fn(u64) -> [u8; 8],
    key: Option<LessSafeKey>,
}

impl Aead {
    fn nonce(&self, counter: u64) -> Nonce {
        let [a, b, c, d, e, f, g, h] = (self.nonce)(counter);
        Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
    }

    fn seal(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> Option<usize> {
        let length = plaintext.len() + TAG;
        let (ciphertext, tag) = out.get_mut(..length)?.split_last_chunk_mut::<TAG>()?;
        let key = self.key.as_ref()?;
        let sealed =
            key.seal_out_of_place_scatter(self.nonce(counter), Aad::from(authtext), plaintext, ciphertext, &[], tag);
        sealed.ok().map(|()| length)
    }
}

impl Cipher for Aead {
    fn name(&self) -> &'static str {
        self.name
    }

    fn set(&mut self, key: &[u8; KEY]) {
        self.key = UnboundKey::new(self.algorithm, key).ok().map(LessSafeKey::new);
    }

    /// Nothing at all if the library fails, which it has no cause to: the message is then too short to be sent.
    fn encrypt(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        self.seal(counter, authtext, plaintext, out).unwrap_or_default()
    }

    fn decrypt(&self, counter: u64, authtext: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..ciphertext.len()).ok_or(Error::Decrypt)?;
        self.key
            .as_ref()
            .and_then(|key| {
                key.open_separate_gather(self.nonce(counter), Aad::from(authtext), ciphertext, tag, out).ok()
            })
            .ok_or(Error::Decrypt)?;
        Ok(ciphertext.len())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        BLOCK
    }

    fn hash_len(&self) -> usize {
        HASH
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = mem::take(&mut self.0).finalize_fixed();
        if let Some(out) = out.get_mut(..HASH) {
            out.copy_from_slice(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    fn key(text: &str) -> [u8; 32] {
        unhex(text).try_into().unwrap()
    }

    fn side(private: &str, ephemeral: &str) -> (Arc<KeyPair>, Ephemeral) {
        let slot = Ephemeral::default();
        slot.put(Zeroizing::new(key(ephemeral)));
        (Arc::new(KeyPair::new(&key(private)).unwrap()), slot)
    }

    /// One of the published vectors of cacophony: name, handshake hash, messages with payloads, the first message of
    /// either side after the handshake. The keys are the same in all of them.
    struct Vector {
        name: &'static str,
        hash: &'static str,
        messages: [&'static str; 2],
        transport: [&'static str; 2],
    }

    const VECTORS: [Vector; 2] = [
        Vector {
            name: "Noise_IKpsk2_25519_AESGCM_BLAKE2s",
            hash: "60f2139120264f109f2bd525a8d94877d7896d64394c34a7abedbc114154a6d5",
            messages: [
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944f70d65fedfd7ad294f4c8f5c1324c7c9\
                 0e54cd8af05652112a27b261e11ce99d9d517c4a1e0753038edb26066b4087b4c230aafa22b0552550b723eb69374a67\
                 4d306a84e1852e30af2e2dbefeb4fd2f",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088434190dae84b6887641a5f81e03d83f7be\
                 91fa1134c18dde966e18fc404b97a8",
            ],
            transport: [
                "061b631b380a639a0801920ddf205e2dbf6606c3328683c6af50fc",
                "c4b5ecd181f80279f2cc41217d490ed56459e3e3fb5e758e522d0d",
            ],
        },
        Vector {
            name: "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
            hash: "f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5",
            messages: [
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5\
                 6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985\
                 464cf17e51ee93109008399a21f7e13f",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222\
                 17755c0632f365717edbf34d33e87a",
            ],
            transport: [
                "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7",
                "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef",
            ],
        },
    ];

    #[test]
    fn published_vectors_hold() {
        let psk = key("54686973206973206d7920417573747269616e20706572737065637469766521");
        let (one, one_ephemeral) = side(
            "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        );
        let (other, other_ephemeral) = side(
            "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        );
        for vector in VECTORS {
            one_ephemeral.put(Zeroizing::new(key("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a")));
            other_ephemeral
                .put(Zeroizing::new(key("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b")));
            let start = |identity, ephemeral| Start { name: vector.name, prologue: b"John Galt", identity, ephemeral };
            let mut initiator = start(&one, &one_ephemeral).initiator(other.public(), &psk).unwrap();
            let mut responder = start(&other, &other_ephemeral).responder().unwrap();
            let (mut message, mut payload) = ([0; 200], [0; 200]);

            let length = initiator.write_message(b"Ludwig von Mises", &mut message).unwrap();
            assert_eq!(message[..length], unhex(vector.messages[0]), "{}", vector.name);
            let read = responder.read_message(&message[..length], &mut payload).unwrap();
            assert_eq!(&payload[..read], b"Ludwig von Mises");
            responder.set_psk(2, &psk).unwrap();
            let length = responder.write_message(b"Murray Rothbard", &mut message).unwrap();
            assert_eq!(message[..length], unhex(vector.messages[1]), "{}", vector.name);
            let read = initiator.read_message(&message[..length], &mut payload).unwrap();
            assert_eq!(&payload[..read], b"Murray Rothbard");

            for state in [&initiator, &responder] {
                assert_eq!(state.get_handshake_hash(), unhex(vector.hash));
            }
            let mut initiator = initiator.into_transport_mode().unwrap();
            let mut responder = responder.into_transport_mode().unwrap();
            let length = initiator.write_message(b"F. A. Hayek", &mut message).unwrap();
            assert_eq!(message[..length], unhex(vector.transport[0]));
            responder.read_message(&message[..length], &mut payload).unwrap();
            let length = responder.write_message(b"Carl Menger", &mut message).unwrap();
            assert_eq!(message[..length], unhex(vector.transport[1]));
            initiator.read_message(&message[..length], &mut payload).unwrap();
        }
    }

    #[test]
    fn an_ephemeral_key_is_used_once() {
        let mut slot = Ephemeral::default();
        let mut out = [0; 32];
        assert_eq!(slot.try_fill_bytes(&mut out), Err(Error::Rng));
        slot.clone().put(Zeroizing::new([7; 32]));
        assert_eq!(slot.try_fill_bytes(&mut out), Ok(()));
        assert_eq!(out, [7; 32]);
        assert_eq!(slot.try_fill_bytes(&mut out), Err(Error::Rng));
    }

    #[test]
    fn points_of_low_order_agree_on_nothing() {
        let pair = KeyPair::new(&[0x42; 32]).unwrap();
        // The points of order 1, 2, 4 and 8 in both of their encodings below 2^255, and with the bit above it.
        let low_order = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in low_order {
            let mut point = key(point);
            for _ in 0..2 {
                assert_eq!(pair.agree(&point, &mut [0; 32]), Err(Error::Dh), "{point:02x?}");
                point[31] ^= 0x80;
            }
        }
        let other = KeyPair::new(&[0x24; 32]).unwrap();
        let (mut one_way, mut other_way) = ([0; 32], [1; 32]);
        pair.agree(other.public(), &mut one_way).unwrap();
        other.agree(pair.public(), &mut other_way).unwrap();
        assert_eq!(one_way, other_way);
    }
}
