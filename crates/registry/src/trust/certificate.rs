//! Certificates, and the authority that signs them.

use zeroize::Zeroizing;

use super::bytes::Reader;
use super::keys::{self, KEY, NetworkId, NodeKeys, SIGNATURE, Signer, is_record_key, is_sealed_key};
use super::{Anchor, SELF_CERTIFIED, Serial, TrustError, VERSION, label, sha256};

/// The role of a node that holds the registry, or lets others in.
pub const ROLE_REGISTRY: u8 = 1;

const MAX_NAME: usize = 63;

/// Whether this can be a node's name: 1 to 63 letters, digits, `-`, `_` and `.`, as names of peers in a configuration.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Who is to be certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The number of the certificate, from 1.
    pub serial: Serial,
    /// What the node is called.
    pub name: String,
    /// Its public Ed25519 key.
    pub record_key: [u8; KEY],
    /// Its public X25519 key.
    pub sealed_key: [u8; KEY],
    /// Bits such as [`ROLE_REGISTRY`].
    pub roles: u8,
}

/// Who a node is, by the word of its network's authority, or by its own where there is none.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Which network.
    pub network: NetworkId,
    /// Who signed: the authority, or the node's own record key in a network without one.
    pub authority: [u8; KEY],
    /// The number of the certificate.
    pub serial: Serial,
    /// What the node is called: 1 to 63 letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its public Ed25519 key.
    pub record_key: [u8; KEY],
    /// Its public X25519 key.
    pub sealed_key: [u8; KEY],
    /// Bits such as [`ROLE_REGISTRY`]; others mean nothing here.
    pub roles: u8,
    signature: [u8; SIGNATURE],
}

impl Certificate {
    /// The length of the longest, in bytes.
    pub const MAX_LEN: usize = 123 + MAX_NAME + SIGNATURE;

    /// A certificate by its own keys, for a network without authority.
    ///
    /// # Errors
    /// The name is none, or the network has an authority.
    pub fn self_certified(name: &str, keys: &NodeKeys, anchor: &Anchor) -> Result<Self, TrustError> {
        if !anchor.is_shared() {
            return Err(TrustError::Network);
        }
        let record_key = keys.record_public();
        let subject = Subject {
            serial: self_serial(&record_key),
            name: name.to_owned(),
            record_key,
            sealed_key: keys.sealed_public(),
            roles: 0,
        };
        Self::issue(subject, anchor.network_id(), record_key, |body| keys.sign(label::CERTIFICATE, body))
    }

    fn issue(
        subject: Subject,
        network: NetworkId,
        authority: [u8; KEY],
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE],
    ) -> Result<Self, TrustError> {
        let Subject { serial, name, record_key, sealed_key, roles } = subject;
        let signature = [0; SIGNATURE];
        let mut certificate = Self { network, authority, serial, name, record_key, sealed_key, roles, signature };
        certificate.check()?;
        certificate.signature = sign(&certificate.body());
        Ok(certificate)
    }

    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend(self.signature);
        bytes
    }

    /// Reads a certificate and believes it, if `anchor` is whose word counts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], anchor: &Anchor) -> Result<Self, TrustError> {
        let certificate = Self::parse(bytes)?;
        if certificate.network != anchor.network_id() {
            return Err(TrustError::Network);
        }
        let is_self_certified = certificate.serial & SELF_CERTIFIED != 0;
        match anchor {
            Anchor::Authority(_) if certificate.authority != *anchor.authority()? => return Err(TrustError::Network),
            Anchor::Authority(_) if is_self_certified => return Err(TrustError::Field("serial")),
            Anchor::Authority(_) => {}
            Anchor::Shared(_) if certificate.authority != certificate.record_key => return Err(TrustError::Network),
            Anchor::Shared(_) if certificate.serial != self_serial(&certificate.record_key) => {
                return Err(TrustError::Field("serial"));
            }
            Anchor::Shared(_) => {}
        }
        keys::verify(&certificate.authority, label::CERTIFICATE, &certificate.body(), &certificate.signature)?;
        Ok(certificate)
    }

    /// Reads a certificate of whichever network, whose signature is checked against the authority that it names itself: for one's own file, where there is
    /// nothing else to compare it with.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open_own(bytes: &[u8], keys: &NodeKeys) -> Result<Self, TrustError> {
        let authority = Self::parse(bytes)?.authority;
        let certificate = Self::open(bytes, &Anchor::Authority(authority))?;
        certificate.check_keys(keys)?;
        Ok(certificate)
    }

    /// Whether it is for these keys.
    ///
    /// # Errors
    /// [`TrustError::Keys`] if not.
    pub fn check_keys(&self, keys: &NodeKeys) -> Result<(), TrustError> {
        let same = (self.record_key, self.sealed_key) == (keys.record_public(), keys.sealed_public());
        if same { Ok(()) } else { Err(TrustError::Keys) }
    }

    /// Whose certificate this claims to be.
    pub(super) fn claimed_serial(bytes: &[u8]) -> Option<Serial> {
        Self::parse(bytes).ok().map(|certificate| certificate.serial)
    }

    fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let mut reader = Reader::new(bytes);
        reader.version()?;
        let roles = reader.u8()?;
        let network = NetworkId(reader.array()?);
        let authority = reader.array()?;
        let serial = reader.u64()?;
        let record_key = reader.array()?;
        let sealed_key = reader.array()?;
        let length = reader.u8()?;
        let name = reader.take(length.into())?;
        let name = std::str::from_utf8(name).map_err(|_| TrustError::Field("name"))?.to_owned();
        let signature = reader.array()?;
        reader.end()?;
        let certificate = Self { network, authority, serial, name, record_key, sealed_key, roles, signature };
        certificate.check()?;
        Ok(certificate)
    }

    /// Rules for single fields.
    fn check(&self) -> Result<(), TrustError> {
        let fault = if !is_name(&self.name) {
            "name"
        } else if self.serial == 0 {
            "serial"
        } else if !is_record_key(&self.record_key) {
            "record key"
        } else if !is_sealed_key(&self.sealed_key) {
            "sealed key"
        } else if !is_record_key(&self.authority) {
            "authority"
        } else {
            return Ok(());
        };
        Err(TrustError::Field(fault))
    }

    /// What is signed.
    fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(Self::MAX_LEN);
        body.extend([VERSION, self.roles]);
        body.extend(self.network.0);
        body.extend(self.authority);
        body.extend(self.serial.to_le_bytes());
        body.extend(self.record_key);
        body.extend(self.sealed_key);
        body.push(self.name.len() as u8);
        body.extend(self.name.as_bytes());
        body
    }
}

/// By content: the same words signed again are the same certificate.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.body() == other.body()
    }
}

impl Eq for Certificate {}

/// The serial of a node that certifies itself: the first 8 bytes of SHA-256 over its record key, with the topmost bit set.
fn self_serial(record_key: &[u8; KEY]) -> Serial {
    let [a, b, c, d, e, f, g, h, ..] = sha256(&[record_key]);
    Serial::from_be_bytes([a, b, c, d, e, f, g, h]) | SELF_CERTIFIED
}

/// A network's authority: the key that says who is in it.
pub struct Authority(pub(super) Signer);

impl Authority {
    /// A new authority, and with it a new network.
    ///
    /// # Errors
    /// The random generator failed.
    pub fn generate() -> Result<Self, TrustError> {
        Self::from_seed(keys::random()?)
    }

    /// The authority of this private key (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn from_seed(seed: Zeroizing<[u8; KEY]>) -> Result<Self, TrustError> {
        Signer::from_seed(seed).map(Self)
    }

    /// The private key.
    pub fn seed(&self) -> &[u8; KEY] {
        self.0.seed()
    }

    /// The public key.
    pub fn public(&self) -> [u8; KEY] {
        self.0.public()
    }

    /// What the network's nodes measure everything by.
    pub fn anchor(&self) -> Anchor {
        Anchor::Authority(self.public())
    }

    /// Which network.
    pub fn network_id(&self) -> NetworkId {
        NetworkId::of_authority(&self.public())
    }

    /// Says who a node is. That serials, names and keys are given once is the [ledger](super::Ledger)'s duty.
    ///
    /// # Errors
    /// A field that cannot be in a certificate.
    pub fn certify(&self, subject: Subject) -> Result<Certificate, TrustError> {
        if subject.serial & SELF_CERTIFIED != 0 {
            return Err(TrustError::Field("serial"));
        }
        Certificate::issue(subject, self.network_id(), self.public(), |body| self.0.sign(label::CERTIFICATE, body))
    }
}
