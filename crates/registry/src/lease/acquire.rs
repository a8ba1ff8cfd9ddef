//! The ways to an entry of our own.

use std::time::Duration;

use tokio::time::Instant;

use super::choice::Choice;
use super::write::{self, Expect, Outcome, Written};
use super::{Held, Keeper, LeaseError, Mine};
use crate::client::{ClientError, KeyValue};
use crate::schema::{Key, Subnets};

/// How often another subnet is tried after the registry did not permit one.
const DENIALS: usize = 8;

/// What others got first, or the registry did not give.
#[derive(Default)]
pub(super) struct Refused {
    subnets: Vec<Subnets>,
    denials: usize,
}

/// What came of one try.
pub(super) enum Tried {
    Mine(Mine),
    /// Somebody was faster: the registry is to be read again.
    Outrun,
}

/// What stands in the registry.
pub(super) struct Claim {
    subnets: Subnets,
    entry: KeyValue,
}

impl Keeper {
    /// All keys of subnets. What else stands there is none of ours.
    pub(super) async fn claims(&self) -> Result<Vec<Claim>, ClientError> {
        let listing = self.client.list(&self.prefix.subnets()).await?;
        let claim = |entry: KeyValue| match self.prefix.read(&entry.key) {
            Some(Key::Subnets(subnets)) => Some(Claim { subnets, entry }),
            _ => None,
        };
        Ok(listing.entries.into_iter().filter_map(claim).collect())
    }

    /// Whose claim to some of these addresses is older than this revision.
    fn elder<'a>(&self, claims: &'a [Claim], subnets: &Subnets, create_revision: i64) -> Option<&'a Claim> {
        claims.iter().find(|claim| {
            claim.entry.create_revision < create_revision
                && claim.subnets.overlaps(subnets)
                && !self.describe.is_ours(&claim.entry)
                && !self.describe.is_free(&claim.entry)
        })
    }

    /// Takes up the entry that is ours already, and gives up those that do not fit. Reservations are never given up: an administrator
    /// made them.
    pub(super) async fn own(&self, claims: &[Claim]) -> Result<Option<Tried>, LeaseError> {
        let mut ours: Vec<&Claim> = claims.iter().filter(|claim| self.describe.is_ours(&claim.entry)).collect();
        let before = |claim: &Claim| self.previous.iter().position(|subnets| *subnets == claim.subnets);
        ours.sort_by_key(|claim| {
            (claim.entry.lease != 0, before(claim).unwrap_or(usize::MAX), claim.entry.create_revision)
        });
        let fits = |claim: &&&Claim| {
            self.config.permits(&claim.subnets)
                && self.elder(claims, &claim.subnets, claim.entry.create_revision).is_none()
        };
        let chosen = ours.iter().find(fits).copied();
        let is_chosen = |claim: &Claim| chosen.is_some_and(|chosen| chosen.subnets == claim.subnets);
        for claim in ours.iter().filter(|claim| claim.entry.lease != 0 && !is_chosen(claim)) {
            write::delete(&self.client, &claim.entry.key, claim.entry.mod_revision).await?;
        }
        match chosen {
            Some(claim) => Ok(Some(self.take_up(claim.subnets, &claim.entry).await?)),
            None => Ok(None),
        }
    }

    /// Writes our value over an entry that is ours.
    pub(super) async fn take_up(&self, subnets: Subnets, entry: &KeyValue) -> Result<Tried, ClientError> {
        let asked = Instant::now();
        let (lease, ttl, is_new) = match entry.lease {
            0 => (0, self.seconds(), false),
            lease => self.lease_again(lease).await?,
        };
        let value = self.describe.value(&subnets);
        let expect = Expect::Revision(entry.mod_revision);
        let written = match write::put(&self.client, &entry.key, expect, &value, lease).await? {
            Outcome::Done(written) => written,
            Outcome::Other(_) => {
                if is_new {
                    self.drop_lease(lease).await;
                }
                return Ok(Tried::Outrun);
            }
        };
        Ok(Tried::Mine(mine(subnets, entry.key.clone(), value, written, (lease, ttl), asked)))
    }

    /// The lease of a former life if it is as long as it should be, or else a new one.
    async fn lease_again(&self, lease: i64) -> Result<(i64, i64, bool), ClientError> {
        match self.client.keep_alive_once(lease).await {
            Ok(ttl) if ttl == self.seconds() => Ok((lease, ttl, false)),
            Ok(_) | Err(ClientError::NoLease | ClientError::Denied { .. } | ClientError::Refused { .. }) => {
                let (lease, ttl) = self.client.grant(self.seconds()).await?;
                Ok((lease, ttl, true))
            }
            Err(error) => Err(error),
        }
    }

    /// Subnets that nobody has.
    pub(super) async fn fresh(&self, claims: &[Claim], refused: &mut Refused) -> Result<Tried, LeaseError> {
        let is_free = |claim: &&Claim| self.describe.is_free(&claim.entry);
        let taken: Vec<Subnets> = claims.iter().filter(|claim| !is_free(claim)).map(|claim| claim.subnets).collect();
        // What stands for nobody may stand for somebody elsewhere: another secret, a registry that was set back.
        let nobodys = claims.iter().filter(is_free).map(|claim| claim.subnets);
        let avoid: Vec<Subnets> = self.avoid.iter().copied().chain(nobodys).collect();
        let choice = Choice { config: &self.config, taken: &taken, avoid: &avoid, refused: &refused.subnets };
        let Some(subnets) = choice.choose(&self.previous) else {
            return Err(LeaseError::OutOfSubnets(self.config.networks()));
        };
        match self.replace(subnets, claims).await {
            Ok(Some(mine)) => return Ok(Tried::Mine(mine)),
            Ok(None) => {}
            // It may know of an owner that we do not see.
            Err(error @ ClientError::Denied { .. }) => {
                refused.denials += 1;
                if refused.denials >= DENIALS {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        refused.subnets.push(subnets);
        Ok(Tried::Outrun)
    }

    /// Makes an entry where there is none, or nobody's: that one goes first, so that the new one has a revision of its own.
    async fn replace(&self, subnets: Subnets, claims: &[Claim]) -> Result<Option<Mine>, ClientError> {
        if let Some(Claim { entry, .. }) = claims.iter().find(|claim| claim.subnets == subnets)
            && !write::delete(&self.client, &entry.key, entry.mod_revision).await?
        {
            return Ok(None);
        }
        Ok(self.create(subnets).await?.ok())
    }

    /// Makes an entry where there is none. Otherwise says whose it is; so too if somebody had claimed an overlapping subnet before.
    pub(super) async fn create(&self, subnets: Subnets) -> Result<Result<Mine, KeyValue>, ClientError> {
        let key = self.prefix.subnet(&subnets);
        let asked = Instant::now();
        let (lease, ttl) = self.client.grant(self.seconds()).await?;
        let value = self.describe.value(&subnets);
        let put = write::put(&self.client, &key, Expect::Absent, &value, lease).await;
        let written = match put {
            Ok(Outcome::Done(written)) => written,
            Ok(Outcome::Other(other)) => {
                self.drop_lease(lease).await;
                // An entry that vanished since is nobody's; its key is named all the same.
                return Ok(Err(other.unwrap_or_else(|| nobody(key))));
            }
            Err(error) => {
                self.drop_lease(lease).await;
                return Err(error);
            }
        };
        let claims = self.claims().await;
        let elder = match &claims {
            Ok(claims) => self.elder(claims, &subnets, written.create_revision).map(|claim| claim.entry.clone()),
            Err(_) => None,
        };
        if claims.is_err() || elder.is_some() {
            self.drop_lease(lease).await;
        }
        claims?;
        match elder {
            Some(elder) => Ok(Err(elder)),
            None => Ok(Ok(mine(subnets, key, value, written, (lease, ttl), asked))),
        }
    }

    /// Ends a lease with all that is bound to it. If that fails it ends by itself.
    async fn drop_lease(&self, lease: i64) {
        if let Err(error) = self.client.revoke(lease).await {
            tracing::debug!(%error, "a lease is left to end by itself");
        }
    }

    fn seconds(&self) -> i64 {
        i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX).max(1)
    }
}

pub(super) fn mine(
    subnets: Subnets,
    key: String,
    value: Vec<u8>,
    written: Written,
    (lease, ttl): (i64, i64),
    asked: Instant,
) -> Mine {
    let ttl = Duration::from_secs(ttl.unsigned_abs());
    let Written { create_revision, mod_revision } = written;
    let reserved = lease == 0;
    let expires = (!reserved).then(|| asked + ttl);
    let held = Held { subnets, create_revision, lease, reserved, expires };
    Mine { held, key, value, mod_revision, ttl, is_stale: false }
}

fn nobody(key: String) -> KeyValue {
    KeyValue { key, value: Vec::new(), create_revision: 0, mod_revision: 0, version: 0, lease: 0 }
}
