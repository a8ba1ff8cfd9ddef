//! The signed record in the value of a lease, and what must agree with it.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Anchor, Record, TrustError};
use crate::schema::{LeaseValue, Subnets};

/// What a lease of a signed record has for its `BackendType`.
pub const BACKEND_TYPE: &str = "adit";

/// Why the value of a lease is not believed, as the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// There is no signed record in it.
    #[error("it has no signature")]
    NotSigned,
    /// What should be the record is not base64.
    #[error("its signed record is not base64")]
    Text,
    /// The record is not believed.
    #[error("its signed record is not believed: {0}")]
    Trust(#[from] TrustError),
    /// The key is for other subnets than the record.
    #[error("its key names other subnets than its signed record")]
    Subnets,
    /// `PublicIP` or `PublicIPv6` is an address that the record does not name.
    #[error("its address is not one of its signed record")]
    Address,
    /// `BackendType` names another backend.
    #[error("its BackendType is not \"adit\"")]
    BackendType,
}

/// The record in the value of a lease of `subnets`, if it is believed and flannel's fields agree with it. flannel's nodes act on those fields, and tools
/// show them: they must not say something that nobody signed.
///
/// # Errors
/// What is wrong with it.
pub fn open_value(value: &LeaseValue, subnets: &Subnets, anchor: &Anchor) -> Result<Record, SignedError> {
    open_signed(&decode_value(value)?, value, subnets, anchor)
}

/// The bytes of the signed record in the value of a lease.
pub(crate) fn decode_value(value: &LeaseValue) -> Result<Vec<u8>, SignedError> {
    let text = value.signed().ok_or(SignedError::NotSigned)?;
    STANDARD.decode(text).map_err(|_| SignedError::Text)
}

/// [`open_value`], with the bytes of the signed record.
pub(crate) fn open_signed(
    signed: &[u8],
    value: &LeaseValue,
    subnets: &Subnets,
    anchor: &Anchor,
) -> Result<Record, SignedError> {
    if value.backend_type.as_deref() != Some(BACKEND_TYPE) {
        return Err(SignedError::BackendType);
    }
    let record = Record::open(signed, anchor)?;
    if record.subnets != *subnets {
        return Err(SignedError::Subnets);
    }
    // A node behind a NAT that cannot be called names no endpoint: what stands outside is then where it was seen from, and nobody goes by it.
    let unnamed = record.behind_nat && record.endpoints.is_empty();
    let named = |address: IpAddr| unnamed || record.endpoints.iter().any(|endpoint| endpoint.ip() == address);
    let v4 = value.public_ip.is_none_or(|address| named(address.into()));
    let v6 = value.public_ipv6.is_none_or(|address| named(address.into()));
    if v4 && v6 { Ok(record) } else { Err(SignedError::Address) }
}
