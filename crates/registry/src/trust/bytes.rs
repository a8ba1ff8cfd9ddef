//! Reading and writing the fixed formats: little-endian integers, no padding, nothing after the end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::TrustError;
use crate::schema::Subnets;

/// Bits of the byte before subnets: which families follow.
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;

/// What of a value was not read yet.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], TrustError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TrustError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], TrustError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(TrustError::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, TrustError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, TrustError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TrustError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, TrustError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The first byte of every value.
    pub(super) fn version(&mut self) -> Result<(), TrustError> {
        match self.u8()? {
            super::VERSION => Ok(()),
            other => Err(TrustError::Version(other)),
        }
    }

    pub(super) fn subnets(&mut self) -> Result<Subnets, TrustError> {
        const FAULT: TrustError = TrustError::Field("subnets");
        let families = self.u8()?;
        if families == 0 || families & !(HAS_V4 | HAS_V6) != 0 {
            return Err(FAULT);
        }
        let mut subnets = Subnets { v4: None, v6: None };
        if families & HAS_V4 != 0 {
            let net = Ipv4Net::new(self.array().map(Ipv4Addr::from)?, self.u8()?).map_err(|_| FAULT)?;
            subnets.v4 = Some(net).filter(|net| *net == net.trunc() && net.prefix_len() > 0);
        }
        if families & HAS_V6 != 0 {
            let net = Ipv6Net::new(self.array().map(Ipv6Addr::from)?, self.u8()?).map_err(|_| FAULT)?;
            subnets.v6 = Some(net).filter(|net| *net == net.trunc() && net.prefix_len() > 0);
        }
        let read = u8::from(subnets.v4.is_some()) * HAS_V4 + u8::from(subnets.v6.is_some()) * HAS_V6;
        if read == families { Ok(subnets) } else { Err(FAULT) }
    }

    pub(super) fn endpoint(&mut self) -> Result<SocketAddr, TrustError> {
        let address = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return Err(TrustError::Field("endpoints")),
        };
        Ok(SocketAddr::new(address, self.u16()?))
    }

    /// Nothing may follow.
    pub(super) fn end(self) -> Result<(), TrustError> {
        if self.0.is_empty() { Ok(()) } else { Err(TrustError::Length) }
    }
}

/// Writes what [`Reader::subnets`] reads.
pub(super) fn put_subnets(out: &mut Vec<u8>, subnets: &Subnets) {
    out.push(u8::from(subnets.v4.is_some()) * HAS_V4 + u8::from(subnets.v6.is_some()) * HAS_V6);
    if let Some(net) = subnets.v4 {
        out.extend(net.network().octets());
        out.push(net.prefix_len());
    }
    if let Some(net) = subnets.v6 {
        out.extend(net.network().octets());
        out.push(net.prefix_len());
    }
}

/// Writes what [`Reader::endpoint`] reads.
pub(super) fn put_endpoint(out: &mut Vec<u8>, endpoint: &SocketAddr) {
    match endpoint.ip() {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend(address.octets());
        }
    }
    out.extend(endpoint.port().to_le_bytes());
}
