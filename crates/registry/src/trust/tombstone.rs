//! The authority's word that a node is out.

use super::bytes::Reader;
use super::keys::{self, NetworkId};
use super::{Anchor, Authority, Serial, TrustError, VERSION, label};

/// That a node is removed, for good. Numbered without gaps from 1, so that a missing one is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tombstone {
    /// Which removal of the network.
    pub number: u64,
    /// Who is removed.
    pub serial: Serial,
}

impl Tombstone {
    fn body(&self, network: NetworkId) -> Vec<u8> {
        let mut body = vec![VERSION];
        body.extend(network.0);
        body.extend(self.number.to_le_bytes());
        body.extend(self.serial.to_le_bytes());
        body
    }

    /// Reads a tombstone and believes it, if the network's authority signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], anchor: &Anchor) -> Result<Self, TrustError> {
        let authority = anchor.authority()?;
        let mut reader = Reader::new(bytes);
        reader.version()?;
        let network = NetworkId(reader.array()?);
        let tombstone = Self { number: reader.u64()?, serial: reader.u64()? };
        let signature: [u8; keys::SIGNATURE] = reader.array()?;
        reader.end()?;
        if network != anchor.network_id() {
            return Err(TrustError::Network);
        }
        if tombstone.number == 0 || tombstone.serial == 0 {
            return Err(TrustError::Field("number"));
        }
        keys::verify(authority, label::TOMBSTONE, &tombstone.body(network), &signature)?;
        Ok(tombstone)
    }
}

impl Authority {
    /// The signed bytes of a tombstone.
    pub fn bury(&self, tombstone: &Tombstone) -> Vec<u8> {
        let mut bytes = tombstone.body(self.network_id());
        let signature = self.0.sign(label::TOMBSTONE, &bytes);
        bytes.extend(signature);
        bytes
    }
}
