//! Going out: tombstones, and secrets that those who are out do not get.

use super::{Books, Ledger, LedgerError};
use crate::trust::{Epoch, ROLE_REGISTRY, Tombstone};

/// As many bundles are kept, so that a node that was away for as many epochs finds its way back.
pub const KEPT_BUNDLES: u32 = 32;

/// What a removal puts into the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Who is out.
    pub tombstone: Tombstone,
    /// The signed bytes that say so.
    pub signed: Vec<u8>,
    /// The number of the next epoch and its bundle, if one was made.
    pub bundle: Option<(u32, Vec<u8>)>,
}

impl Ledger {
    /// Removes a node, for good: its name is free again, its keys are not, and its credential for the registry is void. With `rotate` the others get another secret.
    /// What was entered comes back by [`tombstones`](Self::tombstones) and [`bundles`](Self::bundles), so that a crash before it was published loses nothing.
    ///
    /// # Errors
    /// There is no such node, it holds the registry, or the books cannot be written.
    pub fn remove(&self, name: &str, rotate: bool) -> Result<Removal, LedgerError> {
        self.change(|books| {
            let found = books.present().find(|member| member.name == name);
            let member = found.ok_or_else(|| LedgerError::NoSuchNode(name.to_owned()))?;
            if member.roles & ROLE_REGISTRY != 0 {
                return Err(LedgerError::HoldsRegistry(name.to_owned()));
            }
            let tombstone = Tombstone { number: books.removals.len() as u64 + 1, serial: member.serial };
            books.removals.push(tombstone.serial);
            if let Some(member) = books.member_mut(tombstone.serial) {
                member.removed = Some(tombstone.number);
                member.password = None;
            }
            let bundle = if rotate { Some(self.next_bundle(books)?) } else { None };
            Ok(Removal { tombstone, signed: self.authority.bury(&tombstone), bundle })
        })
    }

    /// Makes the next epoch of the secret, for all that are in.
    ///
    /// # Errors
    /// The books cannot be written.
    pub fn rotate(&self) -> Result<(u32, Vec<u8>), LedgerError> {
        self.change(|books| self.next_bundle(books))
    }

    /// All tombstones with their numbers, to publish what the registry lacks.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn tombstones(&self) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
        let books = self.books()?;
        let numbered = books.removals.iter().zip(1..);
        Ok(numbered
            .map(|(serial, number)| (number, self.authority.bury(&Tombstone { number, serial: *serial })))
            .collect())
    }

    /// The bundles of the last 32 epochs, by ascending number. The first epoch has none: everybody in it got it when he joined.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn bundles(&self) -> Result<Vec<(u32, Vec<u8>)>, LedgerError> {
        let newest = self.books()?.epoch().number;
        let mut bundles = Vec::new();
        for epoch in oldest_kept(newest)..=newest {
            match self.directory.read(&bundle_file(epoch)) {
                Ok(bytes) => bundles.push((epoch, bytes.to_vec())),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bundles)
    }

    /// Makes the next epoch and writes its bundle. Until the books name the epoch, the file counts for nothing.
    fn next_bundle(&self, books: &mut Books) -> Result<(u32, Vec<u8>), LedgerError> {
        let present = books.epoch();
        let next = present.next()?;
        let nodes: Vec<_> = books.present().map(|member| (member.serial, member.sealed_key.0)).collect();
        let bundle = self.authority.bundle(&next, Some(&present), books.removals.len() as u64, &nodes)?;
        self.directory.replace(&bundle_file(next.number), &bundle)?;
        if let Some(old) = oldest_kept(next.number).checked_sub(1) {
            self.directory.remove(&bundle_file(old))?;
        }
        let Epoch { number, .. } = next;
        books.set_epoch(&next);
        Ok((number, bundle))
    }
}

fn bundle_file(epoch: u32) -> String {
    format!("bundle-{epoch:010}")
}

fn oldest_kept(newest: u32) -> u32 {
    newest.saturating_sub(KEPT_BUNDLES - 1)
}
