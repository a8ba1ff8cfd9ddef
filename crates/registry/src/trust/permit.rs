//! What a node may write to a registry that asks.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ledger::node_of;
use super::signed::open_value;
use super::{Anchor, Ledger, Record, Release, Serial};
use crate::schema::{Key, LeaseValue, NetworkConfig, Prefix, Subnets};

/// Of a write: a key's new value and lease (0: none), or that it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A value.
    Put {
        /// The bytes.
        value: &'a [u8],
        /// The lease that the key ends with; 0 for none.
        lease: i64,
    },
    /// Nothing.
    Delete,
}

/// What a key holds at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present<'a> {
    /// The bytes.
    pub value: &'a [u8],
    /// The lease that the key ends with; 0 for none.
    pub lease: i64,
}

/// The rules: `root` may everything, `node-SERIAL` its own record on a free subnet or its own, and its own release. Everybody who is in reads everything of the
/// network.
pub struct LedgerPolicy {
    ledger: Arc<Ledger>,
    anchor: Anchor,
    prefix: Prefix,
    network: NetworkConfig,
}

impl LedgerPolicy {
    /// The rules of a network.
    pub fn new(ledger: Arc<Ledger>, prefix: Prefix, network: NetworkConfig) -> Self {
        let anchor = ledger.anchor();
        Self { ledger, anchor, prefix, network }
    }

    /// Whether this is a user with its password.
    pub fn is_user(&self, user: &str, password: &str) -> bool {
        self.ledger.has_password(user, password).unwrap_or_else(unreadable)
    }

    /// Whether a user still counts.
    pub fn is_valid(&self, user: &str) -> bool {
        user == "root" || node_of(user).is_some_and(|serial| self.ledger.is_in(serial).unwrap_or_else(unreadable))
    }

    /// The tombstone of a user that is a removed node. It holds two numbers, and every node has it.
    pub fn farewell(&self, user: &str) -> Option<Vec<u8>> {
        node_of(user).and_then(|serial| self.ledger.tombstone(serial).unwrap_or_else(unreadable))
    }

    /// Whether a user may read a range, whose ends are as in etcd's requests.
    pub fn may_read(&self, user: &str, key: &[u8], range_end: &[u8]) -> bool {
        if user == "root" {
            return true;
        }
        let all = self.prefix.all().into_bytes();
        let mut end = all.clone();
        // The slash at the end, and what comes after it.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let inside =
            key.starts_with(&all) && (range_end.is_empty() || (range_end > key && range_end <= end.as_slice()));
        inside && self.is_valid(user)
    }

    /// Whether a user may make this change.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn may_write(
        &self,
        user: &str,
        key: &str,
        wanted: Wanted<'_>,
        present: Option<Present<'_>>,
    ) -> Result<(), String> {
        if user == "root" {
            return Ok(());
        }
        let serial = node_of(user).ok_or("the user is no node of this network")?;
        if !self.is_valid(user) {
            return Err(format!("node {serial} was removed"));
        }
        match (self.prefix.read(key), wanted) {
            (Some(Key::Subnets(subnets)), Wanted::Put { value, lease }) => {
                self.may_put(serial, &subnets, Present { value, lease }, present)
            }
            (Some(Key::Subnets(subnets)), Wanted::Delete) => match present {
                None => Ok(()),
                Some(present) if present.lease == 0 => Err(format!("{subnets} is a reservation")),
                Some(present) => match self.owner(&present, &subnets) {
                    Some(owner) if owner.certificate.serial == serial => Ok(()),
                    _ => Err(format!("{subnets} is not held by node {serial}")),
                },
            },
            (Some(Key::Release(of)), Wanted::Put { value, .. }) if of == serial => {
                let signed = STANDARD.decode(value).map_err(|_| "the release is not base64")?;
                let release =
                    Release::open(&signed, &self.anchor).map_err(|e| format!("the release is not believed: {e}"))?;
                if release.serial() == serial { Ok(()) } else { Err("the release is another node's".to_owned()) }
            }
            (Some(Key::Release(of)), Wanted::Delete) if of == serial => Ok(()),
            _ => Err(format!("node {serial} may write its own record and release only")),
        }
    }

    fn may_put(
        &self,
        serial: Serial,
        subnets: &Subnets,
        wanted: Present<'_>,
        present: Option<Present<'_>>,
    ) -> Result<(), String> {
        let value = LeaseValue::parse(wanted.value).map_err(|e| format!("the value {e}"))?;
        let before = present.and_then(|present| self.owner(&present, subnets));
        let was_ours = before.as_ref().is_some_and(|before| before.certificate.serial == serial);
        if value.backend_data.is_none() && value.backend_v6_data.is_none() && value.backend_type.is_none() {
            // A reservation that its node leaves says again for whom it is.
            let same =
                present.filter(|p| p.lease == 0 && wanted.lease == 0).and_then(|p| LeaseValue::parse(p.value).ok());
            let same = same.is_some_and(|old| (old.public_ip, old.public_ipv6) == (value.public_ip, value.public_ipv6));
            return if was_ours && same { Ok(()) } else { Err("the value has no signature".to_owned()) };
        }
        let record =
            open_value(&value, subnets, &self.anchor).map_err(|e| format!("the value is not believed: {e}"))?;
        if record.certificate.serial != serial {
            return Err(format!("the record is that of node {}", record.certificate.serial));
        }
        if !self.network.permits(subnets) {
            return Err(format!("{subnets} is not among the subnets of the network"));
        }
        let is_reservation = present.is_some_and(|present| present.lease == 0);
        if wanted.lease == 0 && !is_reservation {
            return Err(format!("{subnets} is no reservation: bind the record to a lease"));
        }
        match (present, before) {
            (None, _) => Ok(()),
            (Some(_), Some(before)) if was_ours && before.sequence <= record.sequence => Ok(()),
            (Some(_), Some(before)) if was_ours => Err(format!("record {} stands there already", before.sequence)),
            (Some(_), Some(before)) if !self.ledger.is_in(before.certificate.serial).unwrap_or(true) => Ok(()),
            (Some(present), None) if present.lease == 0 && is_for(&present, &record) => Ok(()),
            _ => Err(format!("{subnets} is held by another")),
        }
    }

    /// Whose record a key holds, if it is one.
    fn owner(&self, present: &Present<'_>, subnets: &Subnets) -> Option<Record> {
        open_value(&LeaseValue::parse(present.value).ok()?, subnets, &self.anchor).ok()
    }
}

/// Whether a reservation, which names addresses alone, is for the node of a record.
fn is_for(reservation: &Present<'_>, record: &Record) -> bool {
    let Ok(value) = LeaseValue::parse(reservation.value) else { return false };
    let reserved = [value.public_ip.map(Into::into), value.public_ipv6.map(Into::into)];
    let named = |address: &std::net::IpAddr| record.endpoints.iter().any(|endpoint| endpoint.ip() == *address);
    value.signed().is_none() && reserved.iter().flatten().next().is_some() && reserved.iter().flatten().all(named)
}

/// Books that cannot be read let nobody in.
fn unreadable<T: Default>(error: super::LedgerError) -> T {
    tracing::warn!("{error}");
    T::default()
}
