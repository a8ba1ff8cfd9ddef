//! What is checked before any agreement of keys: the two MACs of a handshake message, and cookies.
//!
//! The first MAC shows that the sender knows whom it speaks to, the second that it receives at the address it sends from.
//! Both are WireGuard's (the paper, sections 5.4.4 and 5.4.7); the sealed transport has its own labels, so that no message
//! and no cookie of one passes in the other. In a [network](crate::network) the keys of `sealed` also depend on its secret, so that
//! the first MAC shows that the sender is, or once was, in it.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Blake2sMac256};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use subtle::ConstantTimeEq;
use wire::message::cookie::{NONCE, SEALED};
use wire::message::{Handshake, MAC, Protocol, handshake};
use zeroize::Zeroizing;

use crate::network::{Epoch, Membership};

/// What all know who know the receiver's public key; and the secret of its network, if it is in one.
#[derive(Clone)]
pub struct MacKeys {
    mac1: Zeroizing<[u8; 32]>,
    cookie: Zeroizing<[u8; 32]>,
}

impl MacKeys {
    /// The keys for messages to the owner of `receiver_public`, and for cookies from it.
    #[must_use]
    pub fn new(protocol: Protocol, receiver_public: &[u8; 32]) -> Self {
        let (mac1, cookie): (&[u8], &[u8]) = match protocol {
            Protocol::Sealed => (b"adit mac1", b"adit cookie"),
            Protocol::WireGuard => (b"mac1----", b"cookie--"),
        };
        let [mac1, cookie] = [mac1, cookie].map(|label| Zeroizing::new(hash(&[label, receiver_public])));
        Self { mac1, cookie }
    }

    /// The same for sealed messages in one epoch of a network; `None` if the cryptographic library fails.
    #[must_use]
    pub fn of_network(network: &Membership, epoch: &Epoch, receiver_public: &[u8; 32]) -> Option<Self> {
        let [mac1, cookie] = network.mac_keys(epoch, receiver_public)?;
        Some(Self { mac1, cookie })
    }

    /// The first MAC over what it covers.
    #[must_use]
    pub fn mac1(&self, covered: &[u8]) -> [u8; MAC] {
        mac(&self.mac1, &[covered])
    }

    /// Whether the first MAC of `message` is right.
    #[must_use]
    pub fn verify_mac1(&self, message: &Handshake<'_>) -> bool {
        self.mac1(message.mac1_covered()).ct_eq(message.mac1()).into()
    }

    /// Writes the MACs of a handshake message, the second one if there is a cookie from its receiver. Returns the first one,
    /// with which [`open_cookie`](Self::open_cookie) opens the reply.
    pub fn sign(&self, message: &mut [u8], cookie: Option<&[u8; MAC]>) -> [u8; MAC] {
        let covered = message.get(..message.len().saturating_sub(2 * MAC)).unwrap_or_default();
        let mac1 = self.mac1(covered);
        handshake::set_mac1(message, &mac1);
        let covered = message.get(..message.len().saturating_sub(MAC)).unwrap_or_default();
        let mac2 = cookie.map_or([0; MAC], |cookie| mac2(cookie, covered));
        handshake::set_mac2(message, &mac2);
        mac1
    }

    /// Seals a cookie for the sender of the message with this first MAC. A nonce is used once.
    #[must_use]
    pub fn seal_cookie(&self, nonce: &[u8; NONCE], mac1: &[u8; MAC], cookie: &[u8; MAC]) -> [u8; SEALED] {
        let mut sealed = [0; SEALED];
        let mut text = *cookie;
        // It cannot fail, and if it did a reply of zeros, which nobody opens, is better than the cookie in the clear.
        if let Ok(tag) = self.aead().encrypt_inout_detached(nonce.into(), mac1, text.as_mut_slice().into()) {
            sealed[..MAC].copy_from_slice(&text);
            sealed[MAC..].copy_from_slice(&tag);
        }
        sealed
    }

    /// Opens a cookie that was sealed for the message with this first MAC; `None` if it is not authentic.
    #[must_use]
    pub fn open_cookie(&self, nonce: &[u8; NONCE], mac1: &[u8; MAC], sealed: &[u8; SEALED]) -> Option<[u8; MAC]> {
        let (mut text, tag) = sealed.split_first_chunk::<MAC>().map(|(text, tag)| (*text, tag))?;
        let tag = Tag::try_from(tag).ok()?;
        let opened = self.aead().decrypt_inout_detached(nonce.into(), mac1, text.as_mut_slice().into(), &tag);
        opened.ok().map(|()| text)
    }

    fn aead(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.cookie).into())
    }
}

/// The second MAC over what it covers.
#[must_use]
pub fn mac2(cookie: &[u8; MAC], covered: &[u8]) -> [u8; MAC] {
    mac(cookie, &[covered])
}

/// Whether the second MAC of `message` was made with `cookie`.
#[must_use]
pub fn verify_mac2(cookie: &[u8; MAC], message: &Handshake<'_>) -> bool {
    mac2(cookie, message.mac2_covered()).ct_eq(message.mac2()).into()
}

/// The cookie of a source, whose description is `parts`.
pub(crate) fn cookie_of(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; MAC] {
    mac(secret, parts)
}

/// Keyed BLAKE2s of 16 bytes.
fn mac<const KEY: usize>(key: &[u8; KEY], parts: &[&[u8]]) -> [u8; MAC] {
    const { assert!(KEY <= 32, "BLAKE2s takes keys of up to 32 bytes") };
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else { return [0; MAC] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize_fixed().into()
}

/// Keyed BLAKE2s of 32 bytes, to derive one secret from another.
pub(crate) fn derive(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Blake2sMac256::new(secret.into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize_fixed().into()
}

/// BLAKE2s of 32 bytes.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::default();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::message::{HandshakeHeader, Step};

    const BOTH: [Protocol; 2] = [Protocol::Sealed, Protocol::WireGuard];

    fn initiation(protocol: Protocol) -> Vec<u8> {
        let header = HandshakeHeader { protocol, step: Step::Initiation, sender: 16, receiver: 0 };
        header.emit(&vec![7; protocol.noise_len(Step::Initiation)]).unwrap()
    }

    #[test]
    fn the_first_mac_is_for_one_receiver_and_one_protocol() {
        for protocol in BOTH {
            let keys = MacKeys::new(protocol, &[1; 32]);
            let mut message = initiation(protocol);
            assert!(!keys.verify_mac1(&Handshake::parse(&message).unwrap()));
            let mac = keys.sign(&mut message, None);
            let view = Handshake::parse(&message).unwrap();
            assert_eq!((view.mac1(), view.mac2()), (&mac, &[0; 16]));
            assert!(keys.verify_mac1(&view));
            assert!(!MacKeys::new(protocol, &[2; 32]).verify_mac1(&view));
            for other in BOTH.into_iter().filter(|other| *other != protocol) {
                assert!(!MacKeys::new(other, &[1; 32]).verify_mac1(&view));
            }
            for at in 4..message.len() - 16 {
                let mut changed = message.clone();
                changed[at] ^= 0x80;
                assert!(!keys.verify_mac1(&Handshake::parse(&changed).unwrap()), "byte {at}");
            }
        }
    }

    #[test]
    fn the_second_mac_is_made_with_the_cookie() {
        let keys = MacKeys::new(Protocol::Sealed, &[1; 32]);
        let mut message = initiation(Protocol::Sealed);
        keys.sign(&mut message, Some(&[9; 16]));
        assert!(verify_mac2(&[9; 16], &Handshake::parse(&message).unwrap()));
        assert!(!verify_mac2(&[8; 16], &Handshake::parse(&message).unwrap()));
        keys.sign(&mut message, None);
        assert!(!verify_mac2(&[9; 16], &Handshake::parse(&message).unwrap()));
    }

    #[test]
    fn a_cookie_opens_for_the_message_it_answers() {
        for protocol in BOTH {
            let keys = MacKeys::new(protocol, &[1; 32]);
            let sealed = keys.seal_cookie(&[2; 24], &[3; 16], &[4; 16]);
            assert_eq!(keys.open_cookie(&[2; 24], &[3; 16], &sealed), Some([4; 16]));
            assert_eq!(keys.open_cookie(&[0; 24], &[3; 16], &sealed), None);
            assert_eq!(keys.open_cookie(&[2; 24], &[0; 16], &sealed), None);
            assert_eq!(MacKeys::new(protocol, &[5; 32]).open_cookie(&[2; 24], &[3; 16], &sealed), None);
            for at in 0..32 {
                let mut changed = sealed;
                changed[at] ^= 1;
                assert_eq!(keys.open_cookie(&[2; 24], &[3; 16], &changed), None);
            }
        }
    }

    #[test]
    fn nothing_is_signed_where_there_is_no_room() {
        let keys = MacKeys::new(Protocol::Sealed, &[1; 32]);
        let mut short = [7; 15];
        keys.sign(&mut short, Some(&[9; 16]));
        assert_eq!(short, [7; 15]);
        keys.sign(&mut [], None);
    }

    /// RFC 7693 has no short keyed vector of BLAKE2s; this is the last of the reference implementation's.
    #[test]
    fn keyed_hash_is_the_published_one() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let input: Vec<u8> = (0..=254).collect();
        let expected = [
            0x3f, 0xb7, 0x35, 0x06, 0x1a, 0xbc, 0x51, 0x9d, 0xfe, 0x97, 0x9e, 0x54, 0xc1, 0xee, 0x5b, 0xfa, 0xd0, 0xa9,
            0xd8, 0x58, 0xb3, 0x31, 0x5b, 0xad, 0x34, 0xbd, 0xe9, 0x99, 0xef, 0xd7, 0x24, 0xdd,
        ];
        assert_eq!(derive(&key, &[&input[..100], &input[100..]]), expected);
    }
}
