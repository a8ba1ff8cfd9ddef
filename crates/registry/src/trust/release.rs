//! A node's word that it gave subnets up.

use super::bytes::{Reader, put_subnets};
use super::keys::NodeKeys;
use super::record::{Ending, check_subnets, flags, plain_flags, seal};
use super::{Anchor, Certificate, Serial, TrustError, VERSION, label};
use crate::schema::Subnets;

/// That a node no longer holds subnets: its records up to a sequence number count for nothing if they name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Who speaks.
    pub certificate: Certificate,
    /// The last record that it takes back.
    pub sequence: u64,
    /// What is free.
    pub subnets: Subnets,
}

impl Release {
    /// Whose it is.
    pub fn serial(&self) -> Serial {
        self.certificate.serial
    }

    /// The signed bytes of it.
    ///
    /// # Errors
    /// A field that cannot be in a release, or a certificate of other keys.
    pub fn sign(&self, keys: &NodeKeys, anchor: &Anchor) -> Result<Vec<u8>, TrustError> {
        self.certificate.check_keys(keys)?;
        check_subnets(&self.subnets)?;
        let mut bytes = vec![VERSION, plain_flags(anchor)];
        let certificate = self.certificate.encode();
        bytes.extend((certificate.len() as u16).to_le_bytes());
        bytes.extend(certificate);
        bytes.extend(self.sequence.to_le_bytes());
        put_subnets(&mut bytes, &self.subnets);
        seal(bytes, label::RELEASE, keys, anchor)
    }

    /// Reads a release and believes it, if its certificate is of this network and the node itself signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], anchor: &Anchor) -> Result<Self, TrustError> {
        let mut reader = Reader::new(bytes);
        reader.version()?;
        flags(&mut reader, anchor, 0)?;
        let length = reader.u16()?;
        let certificate = reader.take(length.into())?;
        let sequence = reader.u64()?;
        let subnets = reader.subnets()?;
        let ending = Ending::read(reader, anchor)?;
        let certificate = Certificate::open(certificate, anchor)?;
        ending.check(bytes, label::RELEASE, &certificate.record_key, anchor)?;
        Ok(Self { certificate, sequence, subnets })
    }
}
