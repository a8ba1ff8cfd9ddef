//! Which subnet is ours: acquiring one, keeping it, and knowing when it is another's.
//!
//! A [`Keeper`] has one lease. It never writes blindly: each write is a transaction on what it last saw, so that of two nodes that
//! want a subnet one gets it, and a node that slept past its time finds out instead of overwriting its successor. Who writes over a lease that
//! lives keeps to no rule, and gets nothing by it: the entry is put there again.
//!
//! Who drives it feeds it what a [`Watcher`](crate::client::Watcher) tells, and lets it work when it wants to:
//!
//! ```no_run
//! # use registry::{client::Watcher, lease::{Change, Keeper}};
//! # async fn f(mut keeper: Keeper, mut watcher: Watcher) {
//! loop {
//!     tokio::select! {
//!         update = watcher.next() => keeper.observe(&update),
//!         () = tokio::time::sleep_until(keeper.due()) => match keeper.maintain().await {
//!             Change::Nothing => {}
//!             Change::Taken { .. } => break, // leave the subnet, then `acquire` another one
//!             Change::Reclaimed(_) | Change::Failing(_) | Change::Working => {}
//!         },
//!     }
//! }
//! # }
//! ```

mod acquire;
mod choice;
mod write;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::client::{Backoff, Client, ClientError, Event, KeyValue, Update, jitter};
use crate::schema::{LeaseValue, NetworkConfig, Prefix, Subnets};
use acquire::{Refused, Tried};
use write::{Expect, Outcome};

/// How often another subnet is tried after somebody else was faster.
const TRIES: usize = 50;

/// What a keeper has to know of its node.
pub trait Describe: Send + Sync {
    /// What stands in the registry for these subnets, made anew: a later value counts before an earlier one.
    fn value(&self, subnets: &Subnets) -> Vec<u8>;
    /// Whether an entry is this node's, written by it at any time, or reserved for it.
    fn is_ours(&self, entry: &KeyValue) -> bool;
    /// Whether an entry stands for nobody, so that its subnets may be taken, if there are no others: that of a node that was removed, or one that
    /// does not prove whose it is where that is asked for.
    fn is_free(&self, entry: &KeyValue) -> bool;
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// All are taken.
    #[error("no subnet is free in {}: set a larger Network or a longer SubnetLen, or remove nodes that are gone", list(.0))]
    OutOfSubnets(Vec<IpNet>),
    /// Others were faster every time.
    #[error("others took each of {TRIES} subnets first: try again")]
    Contended,
    /// The registry did not answer, or refused.
    #[error(transparent)]
    Registry(#[from] ClientError),
}

fn list(networks: &[IpNet]) -> String {
    networks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" and ")
}

/// A lease that we have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it is for.
    pub subnets: Subnets,
    /// The revision that made the entry: of two claims to the same addresses the lower one counts.
    pub create_revision: i64,
    /// The registry's lease that the entry ends with; 0 for a reservation.
    pub lease: i64,
    /// Whether an administrator reserved the subnets for us: then nothing ends it, and nothing is renewed.
    pub reserved: bool,
    /// When others may take the subnets if we are not heard of; never for a reservation.
    pub expires: Option<Instant>,
}

/// What came of maintenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// All is as it was.
    Nothing,
    /// The entry or its lease was gone, and is there again: the same subnets with another revision.
    Reclaimed(Held),
    /// Somebody else has the subnets, and we have none: leave them at once, and [`acquire`](Keeper::acquire) others.
    Taken {
        /// Their entry.
        by: KeyValue,
    },
    /// The registry did not do what it was asked for. It goes on being asked; this is said once, until another change is.
    Failing(LeaseError),
    /// It does again.
    Working,
}

/// Acquires one lease, and keeps it.
pub struct Keeper {
    client: Client,
    prefix: Prefix,
    config: NetworkConfig,
    ttl: Duration,
    describe: Arc<dyn Describe>,
    previous: Vec<Subnets>,
    avoid: Vec<Subnets>,
    mine: Option<Mine>,
    due: Instant,
    /// After failures.
    backoff: Backoff,
    is_failing: bool,
    /// After writes that did not last.
    calm: Backoff,
    /// Whether something may have happened to the entry.
    is_doubtful: bool,
}

/// The lease that we have, and what we last saw of it.
struct Mine {
    held: Held,
    key: String,
    value: Vec<u8>,
    mod_revision: i64,
    /// How long the registry lets the lease live.
    ttl: Duration,
    /// Whether the value is to be written again.
    is_stale: bool,
}

impl Keeper {
    /// A keeper without a lease. `ttl` is how long one lives unless renewed, at least a second; `previous` are the subnets that this
    /// node had before, the preferred ones first.
    #[must_use]
    pub fn new(
        client: Client,
        prefix: Prefix,
        config: NetworkConfig,
        ttl: Duration,
        describe: Arc<dyn Describe>,
        previous: Vec<Subnets>,
    ) -> Self {
        let (mine, due) = (None, Instant::now());
        let backoff = Backoff::default();
        Self {
            client,
            prefix,
            config,
            ttl,
            describe,
            previous,
            avoid: Vec::new(),
            mine,
            due,
            backoff,
            is_failing: false,
            calm: Backoff::default(),
            is_doubtful: false,
        }
    }

    /// Subnets that are only taken when there are no others: somebody had them a moment ago, and may still be heard of.
    pub fn avoid(&mut self, subnets: Vec<Subnets>) {
        self.avoid = subnets;
    }

    /// The lease that we have.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.mine.as_ref().map(|mine| &mine.held)
    }

    /// When [`maintain`](Self::maintain) wants to be called next.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Acquires a lease: the one that the registry has for us; else the subnets that we had before; else free ones, at random. Whatever we
    /// held is forgotten first, so that it is found again like any other.
    ///
    /// # Errors
    /// [`LeaseError`]. A try that failed leaves nothing in the registry, or what ends by itself.
    pub async fn acquire(&mut self) -> Result<Held, LeaseError> {
        self.mine = None;
        let mut refused = Refused::default();
        for _ in 0..TRIES {
            let claims = self.claims().await?;
            let tried = match self.own(&claims).await? {
                Some(tried) => tried,
                None => self.fresh(&claims, &mut refused).await?,
            };
            if let Tried::Mine(mine) = tried {
                return Ok(self.keep(mine));
            }
        }
        Err(LeaseError::Contended)
    }

    fn keep(&mut self, mine: Mine) -> Held {
        let held = mine.held.clone();
        let now = Instant::now();
        self.due = now + jitter(mine.ttl / 3);
        self.calm.began(now);
        self.mine = Some(mine);
        held
    }

    /// Takes notice of what the registry says of our entry. [`due`](Self::due) is now, or soon, if that is to be looked at.
    pub fn observe(&mut self, update: &Update) {
        let Some(mine) = &self.mine else { return };
        let is_doubtful = match update {
            Update::Listing(listing) => {
                let entry = listing.entries.iter().find(|entry| entry.key == mine.key);
                entry.is_none_or(|entry| entry.mod_revision != mine.mod_revision)
            }
            Update::Events { events, .. } => {
                events.iter().filter(|event| event.key() == mine.key).any(|event| match event {
                    Event::Put(entry) => entry.mod_revision > mine.mod_revision,
                    Event::Delete { mod_revision, .. } => *mod_revision > mine.mod_revision,
                })
            }
            Update::Back => true,
            Update::Lost { .. } => false,
        };
        // Where two hosts are by mistake the same node, each would put right what the other wrote, as fast as they can.
        if is_doubtful && !std::mem::replace(&mut self.is_doubtful, true) {
            let now = Instant::now();
            self.due = self.due.min(now + self.calm.pause(now));
        }
    }

    /// Does what is due: finds out whether the subnets are ours still, which they may not be if we were stopped for a while, and
    /// renews the lease. Run it to its end; it takes as long as the registry's endpoints take to answer or to fail.
    pub async fn maintain(&mut self) -> Change {
        let mut result = self.look_after().await;
        for _ in 0..3 {
            match result {
                Err(LeaseError::Contended) => result = self.look_after().await,
                _ => break,
            }
        }
        self.settle(result)
    }

    /// Writes our value anew: for other endpoints, say. Where the registry cannot be reached, [`maintain`](Self::maintain) goes on
    /// trying.
    pub async fn republish(&mut self) -> Change {
        let Some(mine) = &mut self.mine else { return Change::Nothing };
        mine.is_stale = true;
        self.maintain().await
    }

    fn settle(&mut self, result: Result<Change, LeaseError>) -> Change {
        let now = Instant::now();
        self.is_doubtful = false;
        match result {
            Ok(change) => {
                self.backoff = Backoff::default();
                let ttl = self.mine.as_ref().map_or(self.ttl, |mine| mine.ttl);
                self.due = now + jitter(ttl / 3);
                match (change, std::mem::take(&mut self.is_failing)) {
                    (Change::Nothing, true) => Change::Working,
                    (change, _) => change,
                }
            }
            Err(error) => {
                self.due = now + self.backoff.pause(now);
                match std::mem::replace(&mut self.is_failing, true) {
                    true => Change::Nothing,
                    false => Change::Failing(error),
                }
            }
        }
    }

    async fn look_after(&mut self) -> Result<Change, LeaseError> {
        let Some(mine) = &self.mine else { return Ok(Change::Nothing) };
        let (subnets, key, asked) = (mine.held.subnets, mine.key.clone(), Instant::now());
        // Ownership first: a renewal would say nothing of it.
        let Some(entry) = self.client.get(&key).await? else { return self.reclaim(subnets).await };
        if self.describe.is_ours(&entry) {
            return self.renew(entry, asked).await;
        }
        if self.describe.is_free(&entry) {
            return match write::delete(&self.client, &key, entry.mod_revision).await? {
                true => self.reclaim(subnets).await,
                false => Err(LeaseError::Contended),
            };
        }
        self.contest(entry, asked).await
    }

    /// Another's entry stands where ours did. By the rules an entry is made where there is none and never written over: while our lease lives, who
    /// did that is answered. An entry that was made anew, or a lease that ended, says that the subnets are the other's.
    async fn contest(&mut self, entry: KeyValue, asked: Instant) -> Result<Change, LeaseError> {
        let Some(mine) = &self.mine else { return Ok(Change::Nothing) };
        let (subnets, lease, ttl) = (mine.held.subnets, mine.held.lease, mine.ttl);
        if lease == 0 || entry.create_revision != mine.held.create_revision {
            return Ok(self.taken(entry));
        }
        match self.client.keep_alive_once(lease).await {
            Ok(_) => {}
            Err(ClientError::NoLease) => return Ok(self.taken(entry)),
            Err(error) => return Err(error.into()),
        }
        let value = self.describe.value(&subnets);
        match write::put(&self.client, &entry.key, Expect::Revision(entry.mod_revision), &value, lease).await {
            Ok(Outcome::Done(written)) => {
                let (key, ttl) = (entry.key, i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
                Ok(Change::Reclaimed(self.keep(acquire::mine(subnets, key, value, written, (lease, ttl), asked))))
            }
            Ok(Outcome::Other(_)) => Err(LeaseError::Contended),
            // A registry that asks says whose they are.
            Err(ClientError::Denied { .. }) => Ok(self.taken(entry)),
            Err(error) => Err(error.into()),
        }
    }

    /// The entry is ours. Its lease begins again, and it gets our value if it has another.
    async fn renew(&mut self, entry: KeyValue, asked: Instant) -> Result<Change, LeaseError> {
        let Some(mine) = &mut self.mine else { return Ok(Change::Nothing) };
        let is_same = entry.lease == mine.held.lease && entry.create_revision == mine.held.create_revision;
        let is_alive = match entry.lease {
            0 => true,
            lease if is_same => match self.client.keep_alive_once(lease).await {
                Ok(_) => true,
                Err(ClientError::NoLease) => false,
                Err(error) => return Err(error.into()),
            },
            _ => false,
        };
        if is_same && is_alive && entry.value == mine.value && !mine.is_stale {
            mine.mod_revision = entry.mod_revision;
            mine.held.expires = mine.held.expires.map(|_| asked + mine.ttl);
            return Ok(Change::Nothing);
        }
        let subnets = mine.held.subnets;
        match self.take_up(subnets, &entry).await? {
            Tried::Mine(mine) => {
                let held = self.keep(mine);
                Ok(if is_same && is_alive { Change::Nothing } else { Change::Reclaimed(held) })
            }
            Tried::Outrun => Err(LeaseError::Contended),
        }
    }

    /// The entry is gone: it is made again, unless somebody is there now.
    async fn reclaim(&mut self, subnets: Subnets) -> Result<Change, LeaseError> {
        match self.create(subnets).await? {
            Ok(mine) => Ok(Change::Reclaimed(self.keep(mine))),
            Err(entry) if entry.create_revision == 0 || self.describe.is_ours(&entry) => Err(LeaseError::Contended),
            Err(entry) => Ok(self.taken(entry)),
        }
    }

    fn taken(&mut self, by: KeyValue) -> Change {
        self.mine = None;
        Change::Taken { by }
    }

    /// Gives the lease back. A reservation stays, and says no more than for whom it is.
    ///
    /// # Errors
    /// [`ClientError`]: then the lease ends by itself.
    pub async fn release(&mut self) -> Result<(), ClientError> {
        let Some(mine) = self.mine.take() else { return Ok(()) };
        let mut known = mine.mod_revision;
        for _ in 0..3 {
            let other = if mine.held.reserved {
                let plain = reservation(&mine.value);
                let expect = Expect::Revision(known);
                match write::put(&self.client, &mine.key, expect, &plain, 0).await? {
                    Outcome::Done(_) => return Ok(()),
                    Outcome::Other(other) => other,
                }
            } else if write::delete(&self.client, &mine.key, known).await? {
                None
            } else {
                self.client.get(&mine.key).await?
            };
            match other {
                Some(entry) if self.describe.is_ours(&entry) => known = entry.mod_revision,
                _ => break,
            }
        }
        match mine.held.lease {
            0 => Ok(()),
            lease => match self.client.revoke(lease).await {
                Err(ClientError::NoLease) => Ok(()),
                other => other,
            },
        }
    }
}

/// What a reservation says when its node is not there: the addresses alone.
fn reservation(value: &[u8]) -> Vec<u8> {
    let LeaseValue { public_ip, public_ipv6, .. } = LeaseValue::parse(value).unwrap_or_default();
    LeaseValue { public_ip, public_ipv6, ..LeaseValue::default() }.to_json()
}
