//! Epochs of the network's secret, and how each node gets its own copy of the next one.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::bytes::Reader;
use super::keys::{self, KEY, NetworkId, NodeKeys, SIGNATURE, is_sealed_key};
use super::{Anchor, Authority, Serial, TrustError, VERSION, label};

/// How many nodes a bundle can be for, so that it fits a registry's value of 1 MiB in base64.
pub const MAX_BUNDLE_NODES: usize = 14_000;

const TAG: usize = 16;
const WRAPPED: usize = KEY + TAG;

/// A secret of the network, and its number.
#[derive(Clone, PartialEq, Eq)]
pub struct Epoch {
    /// From 1.
    pub number: u32,
    /// 32 random bytes.
    pub secret: Zeroizing<[u8; KEY]>,
}

impl Epoch {
    /// The first epoch of a network.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn first() -> Result<Self, TrustError> {
        Ok(Self { number: 1, secret: keys::random()? })
    }

    /// Another secret, with the next number.
    ///
    /// # Errors
    /// The random generator failed, or there were 2^32 epochs.
    pub fn next(&self) -> Result<Self, TrustError> {
        let number = self.number.checked_add(1).ok_or(TrustError::Field("epoch"))?;
        Ok(Self { number, secret: keys::random()? })
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({}, ..)", self.number)
    }
}

/// The secret of an epoch, wrapped for each node that is in the network.
///
/// Each copy is encrypted under a key that follows from X25519 (a key of the bundle and the node's sealed key) and from the secret before: who breaks
/// X25519 one day needs that too. So nodes that were away unwrap the bundles they missed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The number of the wrapped secret.
    pub epoch: u32,
    /// How many tombstones there are.
    pub removals: u64,
    ephemeral: [u8; KEY],
    /// By ascending serial.
    entries: Vec<(Serial, [u8; WRAPPED])>,
}

impl Bundle {
    /// Reads a bundle and believes it, if the network's authority signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], anchor: &Anchor) -> Result<Self, TrustError> {
        let authority = anchor.authority()?;
        let mut reader = Reader::new(bytes);
        reader.version()?;
        let network = NetworkId(reader.array()?);
        let epoch = reader.u32()?;
        let removals = reader.u64()?;
        let ephemeral = reader.array()?;
        let count = reader.u32()? as usize;
        if count > MAX_BUNDLE_NODES {
            return Err(TrustError::Length);
        }
        let entries: Vec<_> =
            (0..count).map(|_| Ok((reader.u64()?, reader.array()?))).collect::<Result<_, TrustError>>()?;
        let signature: [u8; SIGNATURE] = reader.array()?;
        reader.end()?;
        if network != anchor.network_id() {
            return Err(TrustError::Network);
        }
        if epoch == 0 || !is_sealed_key(&ephemeral) {
            return Err(TrustError::Field("epoch"));
        }
        if !entries.is_sorted_by(|(before, _), (after, _)| before < after) {
            return Err(TrustError::Field("entries"));
        }
        let bundle = Self { epoch, removals, ephemeral, entries };
        keys::verify(authority, label::BUNDLE, &bundle.body(network), &signature)?;
        Ok(bundle)
    }

    /// The node's copy of the secret. `previous` is the epoch before this one, which all but the first bundle need.
    ///
    /// # Errors
    /// There is nothing for this node, `previous` is another epoch than the one before, or keys do not fit.
    pub fn unwrap(
        &self,
        network: NetworkId,
        keys: &NodeKeys,
        serial: Serial,
        previous: Option<&Epoch>,
    ) -> Result<Epoch, TrustError> {
        let at = self.entries.binary_search_by_key(&serial, |(serial, _)| *serial);
        let (_, wrapped) = at.ok().and_then(|at| self.entries.get(at)).ok_or(TrustError::NoEntry(serial))?;
        let previous = self.previous(previous)?;
        let shared = keys::agree(keys.sealed_private(), &self.ephemeral)?;
        let context = self.context(network, serial, &keys.sealed_public());
        let mut room = Zeroizing::new(*wrapped);
        let key = wrapping_key(&shared, previous, &context)?;
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let opened = key.open_in_place(nonce, Aad::from(&context), room.as_mut()).map_err(|_| TrustError::Secret)?;
        let secret = Zeroizing::new(opened.try_into().map_err(|_| TrustError::Length)?);
        Ok(Epoch { number: self.epoch, secret })
    }

    /// Whether there is a copy for this node.
    pub fn is_for(&self, serial: Serial) -> bool {
        self.entries.binary_search_by_key(&serial, |(serial, _)| *serial).is_ok()
    }

    /// Checks that the epoch before is that, and gives its secret.
    fn previous<'a>(&self, previous: Option<&'a Epoch>) -> Result<&'a [u8], TrustError> {
        match previous {
            Some(epoch) if epoch.number.checked_add(1) == Some(self.epoch) => Ok(epoch.secret.as_ref()),
            None if self.epoch == 1 => Ok(&[]),
            _ => Err(TrustError::Field("epoch before")),
        }
    }

    /// What a copy is bound to.
    fn context(&self, network: NetworkId, serial: Serial, sealed_key: &[u8; KEY]) -> Vec<u8> {
        let mut context = label::WRAP.to_vec();
        context.extend(network.0);
        context.extend(self.epoch.to_le_bytes());
        context.extend(serial.to_le_bytes());
        context.extend(self.ephemeral);
        context.extend(sealed_key);
        context
    }

    fn body(&self, network: NetworkId) -> Vec<u8> {
        let mut body = Vec::with_capacity(65 + self.entries.len() * (8 + WRAPPED) + SIGNATURE);
        body.push(VERSION);
        body.extend(network.0);
        body.extend(self.epoch.to_le_bytes());
        body.extend(self.removals.to_le_bytes());
        body.extend(self.ephemeral);
        body.extend((self.entries.len() as u32).to_le_bytes());
        for (serial, wrapped) in &self.entries {
            body.extend(serial.to_le_bytes());
            body.extend(wrapped);
        }
        body
    }
}

/// The key that one copy is encrypted under. It is used once, since the bundle's key is new and the context names the node: the nonce can be zero.
fn wrapping_key(shared: &[u8; KEY], previous: &[u8], context: &[u8]) -> Result<LessSafeKey, TrustError> {
    let key = keys::hkdf(previous, shared, context);
    UnboundKey::new(&AES_256_GCM, key.as_ref()).map(LessSafeKey::new).map_err(|_| TrustError::Crypto)
}

impl Authority {
    /// The signed bytes of the bundle that gives `epoch` to `nodes` (serial and sealed key, each serial once). `previous` is the epoch before it, if there is one.
    ///
    /// # Errors
    /// Too many nodes, the same serial twice, an epoch that does not follow, or a failure of the cryptographic library.
    pub fn bundle(
        &self,
        epoch: &Epoch,
        previous: Option<&Epoch>,
        removals: u64,
        nodes: &[(Serial, [u8; KEY])],
    ) -> Result<Vec<u8>, TrustError> {
        if nodes.len() > MAX_BUNDLE_NODES {
            return Err(TrustError::Length);
        }
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        if !nodes.is_sorted_by(|(before, _), (after, _)| before < after) {
            return Err(TrustError::Field("entries"));
        }
        let private = keys::random()?;
        let ephemeral = keys::public_of(&private)?;
        let mut bundle = Bundle { epoch: epoch.number, removals, ephemeral, entries: Vec::with_capacity(nodes.len()) };
        let previous = bundle.previous(previous)?;
        let network = self.network_id();
        for (serial, sealed_key) in nodes {
            let shared = keys::agree(&private, &sealed_key)?;
            let context = bundle.context(network, serial, &sealed_key);
            let mut wrapped = [0; WRAPPED];
            let (secret, tag) = wrapped.split_at_mut(KEY);
            secret.copy_from_slice(epoch.secret.as_ref());
            let key = wrapping_key(&shared, previous, &context)?;
            let made = key
                .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(&context), secret)
                .map_err(|_| TrustError::Crypto)?;
            tag.copy_from_slice(made.as_ref());
            bundle.entries.push((serial, wrapped));
        }
        let mut bytes = bundle.body(network);
        let signature = self.0.sign(label::BUNDLE, &bytes);
        bytes.extend(signature);
        Ok(bytes)
    }
}
