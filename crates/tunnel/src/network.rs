//! The network that a node is in: its id, and the epochs of its secret.
//!
//! The secret makes two things. It keys the first MAC and cookies of sealed handshakes, so that who does not have it gets no answer and
//! makes nobody compute; and it gives each pair of nodes a key of its own, which the handshake mixes in. It is a hedge, not the proof of which
//! member speaks: that is the static key.
//!
//! A secret is replaced by that of the next *epoch*. For a while the one before is accepted too, since nodes do not hear of it all at
//! once: see [`Membership::attempt`]. The formats are in docs/WIRE.md.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

/// How many epochs are accepted at once.
pub const MOST_EPOCHS: usize = 2;

/// What the key of a pair is for.
const PAIR: &[u8] = b"adit network v1 pair";
/// What the key of the first MAC is for.
const MAC1: &[u8] = b"adit network v1 mac1";
/// What the key of cookies is for.
const COOKIE: &[u8] = b"adit network v1 cookie";

/// A secret that all nodes of a network have at one time.
#[derive(Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Counts from 1, up with each new secret.
    pub number: u32,
    /// 32 random bytes.
    pub secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What sealed handshakes of a network are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The network.
    pub id: [u8; 16],
    /// The secrets that are accepted, newest first: that of now, and for a while the one before. Any further ones are not looked at; without
    /// any there is no session with anybody.
    pub epochs: Vec<Epoch>,
}

impl Membership {
    /// The epochs that are accepted, newest first.
    pub fn accepted(&self) -> impl Iterator<Item = &Epoch> {
        self.epochs.iter().take(MOST_EPOCHS)
    }

    /// The epoch that an attempt to reach a peer is made in; `number` counts the attempts from 0. The first one is made in the newest, and then
    /// they alternate: whoever has not heard yet that the secret was replaced knows only the one before.
    #[must_use]
    pub fn attempt(&self, number: u32) -> Option<&Epoch> {
        let count = u32::try_from(self.accepted().count()).ok()?;
        self.epochs.get(number.checked_rem(count)? as usize)
    }

    /// The key of two nodes in an epoch, by their public keys in either order; `None` if the cryptographic library fails.
    #[must_use]
    pub fn pair(&self, epoch: &Epoch, one: &[u8; 32], other: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        self.derive(epoch, PAIR, &[one.min(other), one.max(other)])
    }

    /// The keys of the first MAC and of cookies, for messages in an epoch to the owner of a public key.
    pub(crate) fn mac_keys(&self, epoch: &Epoch, receiver_public: &[u8; 32]) -> Option<[Zeroizing<[u8; 32]>; 2]> {
        Some([self.derive(epoch, MAC1, &[receiver_public])?, self.derive(epoch, COOKIE, &[receiver_public])?])
    }

    /// HKDF-SHA256 (RFC 5869) without a salt, over the secret.
    fn derive(&self, epoch: &Epoch, label: &[u8], publics: &[&[u8; 32]]) -> Option<Zeroizing<[u8; 32]>> {
        let number = epoch.number.to_le_bytes();
        let mut info = vec![label, &self.id, &number];
        info.extend(publics.iter().map(|public| &public[..]));
        let mut key = Zeroizing::new([0; 32]);
        let secret = Salt::new(HKDF_SHA256, &[]).extract(&epoch.secret[..]);
        secret.expand(&info, HKDF_SHA256).ok()?.fill(&mut key[..]).ok()?;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(number: u32, secret: u8) -> Epoch {
        Epoch { number, secret: Zeroizing::new([secret; 32]) }
    }

    fn network(id: u8, epochs: &[(u32, u8)]) -> Membership {
        Membership { id: [id; 16], epochs: epochs.iter().map(|(number, secret)| epoch(*number, *secret)).collect() }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed by Python's `hmac` and `hashlib` from the text of docs/WIRE.md.
    #[test]
    fn derived_keys_are_those_of_the_description() {
        let secret: [u8; 32] = std::array::from_fn(|at| at as u8);
        let id: [u8; 16] = std::array::from_fn(|at| 0xa0 + at as u8);
        let epoch = Epoch { number: 0x0102_0304, secret: Zeroizing::new(secret) };
        let network = Membership { id, epochs: vec![epoch.clone()] };
        let (one, other) = ([0x11; 32], [0xee; 32]);
        let pair = "9f4108a37fdaa60b961c38a5ab376abe488f563275f78353d68cc3c52279a0eb";
        assert_eq!(hex(&network.pair(&epoch, &one, &other).unwrap()[..]), pair);
        assert_eq!(hex(&network.pair(&epoch, &other, &one).unwrap()[..]), pair);
        let [mac1, cookie] = network.mac_keys(&epoch, &one).unwrap();
        assert_eq!(hex(&mac1[..]), "2a297c27bed1dd07c8b339b4379c6e515212871b66fd8a20eeedf157b547bb0d");
        assert_eq!(hex(&cookie[..]), "bea80a46133aad1ae447999518023bbe89e2bbf0d19f3e0a3812559c438e8c09");
    }

    #[test]
    fn attempts_begin_with_the_newest_epoch_and_alternate() {
        let numbers = |epochs: &[(u32, u8)]| {
            let network = network(1, epochs);
            (0..5).map(|number| network.attempt(number).map(|epoch| epoch.number)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[(8, 2), (7, 1)]), [8, 7, 8, 7, 8].map(Some));
        assert_eq!(numbers(&[(8, 2)]), [8; 5].map(Some));
        assert_eq!(numbers(&[(8, 2), (7, 1), (6, 0)]), [8, 7, 8, 7, 8].map(Some), "a third one is not looked at");
        assert_eq!(numbers(&[]), [None; 5]);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", network(1, &[(8, 0xab)]));
        assert!(shown.contains('8') && !shown.contains("171") && !shown.contains("ab"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_pair_has_one_key_and_shares_it_with_nobody(
            one in any::<[u8; 32]>(), other in any::<[u8; 32]>(), third in any::<[u8; 32]>(), number in any::<u32>(),
        ) {
            prop_assume!(one != other && other != third && one != third);
            let (network, elsewhere) = (network(1, &[]), network(2, &[]));
            let epoch = epoch(number, 1);
            let key = network.pair(&epoch, &one, &other).unwrap();
            prop_assert_eq!(&key, &network.pair(&epoch, &other, &one).unwrap());
            let next = self::epoch(number.wrapping_add(1), 1);
            let secret = self::epoch(number, 2);
            for foreign in [
                network.pair(&epoch, &one, &third), network.pair(&epoch, &third, &other), elsewhere.pair(&epoch, &one, &other),
                network.pair(&next, &one, &other), network.pair(&secret, &one, &other),
            ] {
                prop_assert!(key != foreign.unwrap());
            }
        }
    }
}
