//! What a node says of itself: where it is, and which subnets it holds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::bytes::{Reader, put_endpoint, put_subnets};
use super::keys::{self, KEY, NodeKeys, SIGNATURE};
use super::{Anchor, Certificate, Serial, TrustError, VERSION, label};
use crate::schema::Subnets;

/// How many endpoints a record can name.
pub const MAX_ENDPOINTS: usize = 8;

/// Flags of a record.
const BEHIND_NAT: u8 = 1;
const TAGGED: u8 = 2;

/// A node's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who speaks.
    pub certificate: Certificate,
    /// The higher one of two counts.
    pub sequence: u64,
    /// What the node holds.
    pub subnets: Subnets,
    /// Where it can be reached, the best first; at most [`MAX_ENDPOINTS`], all of them [endpoints](is_endpoint).
    pub endpoints: Vec<SocketAddr>,
    /// Whether it is behind a NAT, so that it has to call first.
    pub behind_nat: bool,
}

/// Whether a node can be reached at this address at all: not loopback, unspecified, multicast, broadcast, link-local, written as another family's, or without
/// a port.
pub fn is_endpoint(endpoint: &SocketAddr) -> bool {
    let reachable = match endpoint.ip() {
        IpAddr::V4(address) => {
            address.octets()[0] != 0
                && !address.is_loopback()
                && !address.is_multicast()
                && !address.is_link_local()
                && address != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && !address.is_unicast_link_local()
                && address.to_ipv4().is_none()
        }
    };
    let has_scope = matches!(endpoint, SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.flowinfo() != 0);
    reachable && !has_scope && endpoint.port() != 0
}

impl Record {
    /// The signed bytes of it.
    ///
    /// # Errors
    /// A field that cannot be in a record, or a certificate of other keys.
    pub fn sign(&self, keys: &NodeKeys, anchor: &Anchor) -> Result<Vec<u8>, TrustError> {
        self.certificate.check_keys(keys)?;
        self.check()?;
        let mut bytes = vec![VERSION];
        let nat = if self.behind_nat { BEHIND_NAT } else { 0 };
        bytes.push(nat | if anchor.is_shared() { TAGGED } else { 0 });
        let certificate = self.certificate.encode();
        bytes.extend((certificate.len() as u16).to_le_bytes());
        bytes.extend(certificate);
        bytes.extend(self.sequence.to_le_bytes());
        put_subnets(&mut bytes, &self.subnets);
        bytes.push(self.endpoints.len() as u8);
        self.endpoints.iter().for_each(|endpoint| put_endpoint(&mut bytes, endpoint));
        seal(bytes, label::RECORD, keys, anchor)
    }

    /// Whose record this claims to be, before anything of it is believed.
    pub fn claimed_serial(bytes: &[u8]) -> Option<Serial> {
        let mut reader = Reader::new(bytes);
        reader.version().ok()?;
        reader.u8().ok()?;
        let length = reader.u16().ok()?;
        Certificate::claimed_serial(reader.take(length.into()).ok()?)
    }

    /// Reads a record and believes it, if its certificate is of this network and the node itself signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(bytes: &[u8], anchor: &Anchor) -> Result<Self, TrustError> {
        let mut reader = Reader::new(bytes);
        reader.version()?;
        let flags = flags(&mut reader, anchor, BEHIND_NAT)?;
        let length = reader.u16()?;
        let certificate = reader.take(length.into())?;
        let sequence = reader.u64()?;
        let subnets = reader.subnets()?;
        let count = reader.u8()?;
        if usize::from(count) > MAX_ENDPOINTS {
            return Err(TrustError::Field("endpoints"));
        }
        let endpoints = (0..count).map(|_| reader.endpoint()).collect::<Result<_, _>>()?;
        let ending = Ending::read(reader, anchor)?;
        // The dearest last: a signature costs a hundred times what everything before it does.
        let certificate = Certificate::open(certificate, anchor)?;
        let behind_nat = flags & BEHIND_NAT != 0;
        let record = Self { certificate, sequence, subnets, endpoints, behind_nat };
        record.check()?;
        ending.check(bytes, label::RECORD, &record.certificate.record_key, anchor)?;
        Ok(record)
    }

    /// Rules for single fields.
    fn check(&self) -> Result<(), TrustError> {
        let mut rest = self.endpoints.as_slice();
        if rest.len() > MAX_ENDPOINTS {
            return Err(TrustError::Field("endpoints"));
        }
        while let [first, others @ ..] = rest {
            if !is_endpoint(first) || others.contains(first) {
                return Err(TrustError::Field("endpoints"));
            }
            rest = others;
        }
        check_subnets(&self.subnets)
    }
}

/// Subnets as they can be written: at least one, without host bits.
pub(super) fn check_subnets(subnets: &Subnets) -> Result<(), TrustError> {
    let mut bytes = Vec::new();
    put_subnets(&mut bytes, subnets);
    match Reader::new(&bytes).subnets() {
        Ok(same) if same == *subnets => Ok(()),
        _ => Err(TrustError::Field("subnets")),
    }
}

/// The flags of what a node says: those of `known`, and whether a MAC follows, which must be so without an authority and only then.
pub(super) fn flags(reader: &mut Reader<'_>, anchor: &Anchor, known: u8) -> Result<u8, TrustError> {
    let flags = reader.u8()?;
    if flags & !(known | TAGGED) != 0 {
        return Err(TrustError::Field("flags"));
    }
    if (flags & TAGGED != 0) == anchor.is_shared() { Ok(flags) } else { Err(TrustError::Network) }
}

/// The flags that [`flags`] expects where there are no others.
pub(super) fn plain_flags(anchor: &Anchor) -> u8 {
    if anchor.is_shared() { TAGGED } else { 0 }
}

/// Appends the MAC of a network without authority, and the node's signature.
pub(super) fn seal(mut bytes: Vec<u8>, label: &[u8], keys: &NodeKeys, anchor: &Anchor) -> Result<Vec<u8>, TrustError> {
    if let Some(tag) = anchor.tag(label, &bytes) {
        bytes.extend(tag.as_ref());
    }
    let signature = keys.sign(label, &bytes);
    bytes.extend(signature);
    Ok(bytes)
}

/// How what a node says ends.
pub(super) struct Ending {
    tag: Option<[u8; KEY]>,
    signature: [u8; SIGNATURE],
}

impl Ending {
    /// Reads MAC and signature, after which nothing may follow.
    pub(super) fn read(mut reader: Reader<'_>, anchor: &Anchor) -> Result<Self, TrustError> {
        let tag = if anchor.is_shared() { Some(reader.array()?) } else { None };
        let signature = reader.array()?;
        reader.end()?;
        Ok(Self { tag, signature })
    }

    /// Checks both over `bytes`, all of the value.
    pub(super) fn check(
        &self,
        bytes: &[u8],
        label: &[u8],
        record_key: &[u8; KEY],
        anchor: &Anchor,
    ) -> Result<(), TrustError> {
        let (signed, _) = bytes.split_at_checked(bytes.len().saturating_sub(SIGNATURE)).ok_or(TrustError::Length)?;
        if let Some(tag) = &self.tag {
            let (body, _) = signed.split_at_checked(signed.len().saturating_sub(KEY)).ok_or(TrustError::Length)?;
            anchor.check_tag(label, body, tag)?;
        }
        keys::verify(record_key, label, signed, &self.signature)
    }
}
