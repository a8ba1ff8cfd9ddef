//! What the books say, for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::join::seconds;
use super::{Ledger, LedgerError};
use crate::trust::Serial;

/// A node in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The number of its certificate.
    pub serial: Serial,
    /// What it is called.
    pub name: String,
    /// Its public Ed25519 key.
    pub record_key: [u8; 32],
    /// Its public X25519 key.
    pub sealed_key: [u8; 32],
    /// Bits such as [`ROLE_REGISTRY`](crate::trust::ROLE_REGISTRY).
    pub roles: u8,
    /// When it was certified.
    pub joined: SystemTime,
    /// The number of its tombstone, if it was removed.
    pub removed: Option<u64>,
}

/// A token in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenState {
    /// Which: 16 hexadecimal digits.
    pub id: String,
    /// When it was made.
    pub created: SystemTime,
    /// Until when it can be used.
    pub expires: SystemTime,
    /// By how many nodes.
    pub uses: u32,
    /// The names of those that used it.
    pub used_by: Vec<String>,
    /// Whether it was taken back.
    pub revoked: bool,
    /// Whether it can still be used.
    pub is_open: bool,
}

impl Ledger {
    /// All nodes that were ever certified, by ascending serial.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn members(&self) -> Result<Vec<Member>, LedgerError> {
        let books = self.books()?;
        let member = |entry: &super::books::MemberEntry| Member {
            serial: entry.serial,
            name: entry.name.clone(),
            record_key: entry.record_key.0,
            sealed_key: entry.sealed_key.0,
            roles: entry.roles,
            joined: time(entry.joined),
            removed: entry.removed,
        };
        Ok(books.members.iter().map(member).collect())
    }

    /// All tokens, the oldest first; those that expired a month ago are forgotten.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn tokens(&self, now: SystemTime) -> Result<Vec<TokenState>, LedgerError> {
        let books = self.books()?;
        let name = |serial: &Serial| books.member(*serial).map_or_else(String::new, |member| member.name.clone());
        let token = |entry: &super::books::TokenEntry| TokenState {
            id: entry.id.clone(),
            created: time(entry.created),
            expires: time(entry.expires),
            uses: entry.uses,
            used_by: entry.used_by.iter().map(name).collect(),
            revoked: entry.revoked,
            is_open: entry.is_open(seconds(now)),
        };
        Ok(books.tokens.iter().map(token).collect())
    }
}

/// A time that the books have in seconds since 1970.
fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
