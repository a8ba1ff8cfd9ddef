//! Who is in the network, by all records and all we remember. A state machine without I/O: what the registry says goes in, nodes come out.
//!
//! Records are untrusted. Each is read alone and skipped alone: whatever is wrong with one is counted and named ([`View::problems`]), and changes nothing for
//! the others. What signed words cannot settle is settled by these rules:
//!
//! - *Sequence.* Of a node's records the one with the highest number counts, and is remembered: a registry that was set back lowers nothing.
//! - *Subnets* have one holder. It changes by the holder's own word (a newer record, a release), by its tombstone, or after it had no record for one TTL of
//!   leases, seen in listings without error, and nothing was heard from it for as long. Otherwise it stays, and what claims the same waits, in the order of
//!   revisions. The same goes for names and keys.
//! - *Removal* is a tombstone, for good. A record that is gone removes nobody, one that is there brings nobody back. Tombstones are numbered, and bundles of the
//!   secret count them: one that is withheld is noticed ([`Alarm::Withheld`]).
//! - *The configuration* is the one we started with. Another one in the registry is an alarm ([`Alarm::Configuration`]).
//!
//! | file | what |
//! |---|---|
//! | `read.rs` | one entry, by itself |
//! | `known.rs` | nodes that we know of, and who may claim what |
//! | `ranges.rs` | who holds which addresses |
//! | `removals.rs` | tombstones and bundles |
//! | `report.rs` | nodes, problems, alarms |
//! | `memory.rs` | what outlives a restart |

mod known;
mod memory;
mod ranges;
mod read;
mod removals;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::client::{Event, KeyValue, Listing, Update};
use crate::schema::{Backend, Key, NetworkConfig, Prefix, Subnets};
use crate::trust::{Anchor, Bundle, Record, Serial, Tombstone, TrustError, sha256};
use known::Nodes;
use read::{Entry, What};
use removals::Removals;

pub use memory::{Memory, MemoryError};
pub use report::{Alarm, Problem, Problems};

/// Longer keys mean nothing, in bytes.
const MAX_KEY: usize = 512;
/// As many entries are remembered by what was read of them. Beyond it they are counted only, or read again each time.
const MAX_ENTRIES: usize = 262_144;

/// When something was last heard from a node, on the clock of `now`: an authenticated packet.
pub type Heard<'a> = &'a dyn Fn(Serial) -> Option<Duration>;

/// What a view has to know beforehand.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Where the network's keys stand.
    pub prefix: Prefix,
    /// Whose word counts.
    pub anchor: Anchor,
    /// The configuration that the network runs with.
    pub network: NetworkConfig,
    /// Our own certificate's number, if we have one.
    pub own: Option<Serial>,
    /// How long a lease lives without being renewed.
    pub lease_ttl: Duration,
}

/// A node of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The number of its certificate.
    pub serial: Serial,
    /// What it is called.
    pub name: String,
    /// Its public X25519 key.
    pub sealed_key: [u8; 32],
    /// What it holds.
    pub subnets: Subnets,
    /// Where it says it is, the best first: never inside of the network, and never where we are.
    pub endpoints: Vec<SocketAddr>,
    /// Whether it has to call first.
    pub behind_nat: bool,
}

/// A node that signs nothing: flannel's own, in a udp network. Anybody who can write the registry can be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainNode {
    /// What it holds.
    pub subnets: Subnets,
    /// Where it is, on the network's port.
    pub public_ip: Ipv4Addr,
}

/// Who is in the network.
pub struct View {
    setting: Setting,
    leases: BTreeMap<Subnets, Entry>,
    /// Everything else under the prefix that should be ours: what was read of it, by its hash, and what is wrong with it.
    others: BTreeMap<String, Other>,
    /// Entries that were too many to be remembered, since the last listing.
    untold: usize,
    nodes: Nodes,
    removals: Removals,
    bundles: BTreeMap<u32, Bundle>,
    contradiction: Option<String>,
    /// When something was last taken in.
    now: Duration,
    /// When all was last listed, if the registry was there since.
    listed: Option<Duration>,
    was_listed: bool,
    changed: bool,
    unsaved: bool,
}

struct Other {
    hash: [u8; 32],
    fault: Option<Box<str>>,
}

impl View {
    /// A view that begins with what was remembered. Whatever of it is not signed for this network is left out.
    pub fn new(setting: Setting, memory: Memory) -> Self {
        let nodes = Nodes::new(setting.own);
        let mut view = Self {
            setting,
            leases: BTreeMap::new(),
            others: BTreeMap::new(),
            untold: 0,
            nodes,
            removals: Removals::default(),
            bundles: BTreeMap::new(),
            contradiction: None,
            now: Duration::ZERO,
            listed: None,
            was_listed: false,
            changed: false,
            unsaved: false,
        };
        view.recall(memory);
        view
    }

    /// Takes in what the registry says at `now`, on any clock that never goes back. Answers whether nodes, removals or bundles changed.
    pub fn handle(&mut self, update: &Update, now: Duration, heard: Heard<'_>) -> bool {
        self.changed = false;
        self.now = now;
        self.nodes.begin(now);
        match update {
            Update::Listing(listing) => self.listing(listing, now, heard),
            Update::Events { events, .. } => events.iter().for_each(|event| self.event(event, now, heard)),
            // While the registry is away nobody could have a record: that time counts against nobody.
            Update::Lost { .. } => self.listed = None,
            Update::Back => {}
        }
        self.changed
    }

    /// Takes in our own record, before it is put into the registry. Whatever others say in our name is measured by it.
    ///
    /// # Errors
    /// It is not ours, or not believed.
    pub fn publish(&mut self, signed: &[u8]) -> Result<(), TrustError> {
        let record = Record::open(signed, &self.setting.anchor)?;
        if Some(record.certificate.serial) != self.setting.own {
            return Err(TrustError::Keys);
        }
        self.changed |= self.nodes.publish(record, signed.to_vec());
        self.unsaved = true;
        self.settle_all_heard();
        Ok(())
    }

    /// Takes in that a node was removed, as the registry tells one that it refuses; answers whether that is news.
    ///
    /// # Errors
    /// The authority did not say it.
    pub fn bury(&mut self, signed: &[u8]) -> Result<bool, TrustError> {
        let tombstone = Tombstone::open(signed, &self.setting.anchor)?;
        Ok(self.put_out(tombstone, signed.to_vec()))
    }

    fn put_out(&mut self, tombstone: Tombstone, signed: Vec<u8>) -> bool {
        let is_new = self.removals.add(tombstone, signed);
        if is_new {
            self.nodes.forget(tombstone.serial);
            self.changed = true;
            self.unsaved = true;
        }
        is_new
    }

    /// Takes in that we hold nothing any more.
    pub fn unpublish(&mut self) {
        if let Some(own) = self.setting.own {
            self.nodes.forget(own);
            self.changed = true;
            self.unsaved = true;
            self.settle_all_heard();
        }
    }

    /// The highest sequence number seen of our own records: the next one must be above.
    pub fn own_sequence(&self) -> u64 {
        self.setting.own.map_or(0, |own| self.nodes.highest(own))
    }

    fn listing(&mut self, listing: &Listing, now: Duration, heard: Heard<'_>) {
        self.untold = 0;
        let passed = self.listed.and_then(|before| now.checked_sub(before));
        self.listed = Some(now);
        self.was_listed = true;
        let keys: BTreeSet<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
        self.others.retain(|key, _| keys.contains(key.as_str()));
        let prefix = self.setting.prefix.clone();
        let mut leases: Vec<(Subnets, &KeyValue)> = Vec::new();
        // Removals first: who is out claims nothing.
        for entry in &listing.entries {
            match prefix.read(&entry.key) {
                Some(Key::Subnets(subnets)) => leases.push((subnets, entry)),
                key => self.other(key, entry),
            }
        }
        let there: BTreeSet<Subnets> = leases.iter().map(|(subnets, _)| *subnets).collect();
        let gone: Vec<Subnets> = self.leases.keys().filter(|subnets| !there.contains(subnets)).copied().collect();
        gone.iter().for_each(|subnets| self.gone(subnets, now));
        // First what each node says of itself now, then who gets what: where a node left a subnet and another took it, the order of keys says nothing.
        leases.sort_by_key(|(_, entry)| (entry.create_revision, entry.mod_revision));
        for (subnets, entry) in leases {
            self.lease(subnets, entry, true);
        }
        self.nodes.grow_absent(now, passed);
        self.settle(now, heard);
        if self.nodes.expire(now, self.setting.lease_ttl, heard) {
            self.changed = true;
            self.unsaved = true;
            self.settle(now, heard);
        }
    }

    fn event(&mut self, event: &Event, now: Duration, heard: Heard<'_>) {
        match event {
            Event::Put(entry) => match self.setting.prefix.read(&entry.key) {
                Some(Key::Subnets(subnets)) => self.lease(subnets, entry, false),
                key => self.other(key, entry),
            },
            Event::Delete { key, .. } => match self.setting.prefix.read(key) {
                Some(Key::Subnets(subnets)) => self.gone(&subnets, now),
                _ => {
                    self.others.remove(key);
                }
            },
        }
        self.settle(now, heard);
    }

    /// What stands for subnets now.
    fn lease(&mut self, subnets: Subnets, entry: &KeyValue, is_listed: bool) {
        let hash = sha256(&[&entry.value]);
        let before = self.leases.get(&subnets).filter(|before| before.hash == hash);
        let is_settled = |what: &What| {
            what.serial().is_some_and(|serial| self.removals.is_removed(serial))
                || !self.nodes.is_to_be_read_again(what)
        };
        if before.is_some_and(|before| is_settled(&before.what)) {
            if let Some(before) = self.leases.get_mut(&subnets).filter(|_| is_listed) {
                before.create_revision = entry.create_revision;
            }
            return;
        }
        let (what, record) = read::lease(&subnets, entry, &self.setting);
        let was_plain = self.leases.get(&subnets).is_some_and(|before| matches!(before.what, What::Plain(_)));
        self.changed |= was_plain || matches!(what, What::Plain(_));
        let what = match record {
            Some((record, signed)) => {
                let serial = record.certificate.serial;
                if self.removals.is_removed(serial) {
                    What::Signed { serial, sequence: record.sequence, counts: true }
                } else {
                    self.unsaved = true;
                    let (what, changed) = self.nodes.take(record, signed, entry.create_revision);
                    self.changed |= changed;
                    what
                }
            }
            None => what,
        };
        if let Some(before) = self.leases.get(&subnets) {
            // What stood there before is gone, unless it is the same node's.
            let before = before.what.serial().filter(|serial| what.serial() != Some(*serial));
            if let Some(serial) = before {
                self.nodes.set_absent(serial, &subnets, self.now);
            }
        }
        if self.leases.len() >= MAX_ENTRIES && what.serial().is_none() && !self.leases.contains_key(&subnets) {
            self.untold += 1;
            return;
        }
        self.leases.insert(subnets, Entry { create_revision: entry.create_revision, hash, what });
    }

    /// Nothing stands for subnets any more.
    fn gone(&mut self, subnets: &Subnets, now: Duration) {
        match self.leases.remove(subnets).map(|entry| entry.what) {
            Some(What::Signed { serial, .. }) => self.nodes.set_absent(serial, subnets, now),
            Some(What::Plain(_)) => self.changed = true,
            _ => {}
        }
    }

    /// An entry that is no lease.
    fn other(&mut self, key: Option<Key>, entry: &KeyValue) {
        let prefix = &self.setting.prefix;
        if key.is_none()
            && !entry.key.starts_with(&prefix.subnets())
            && !entry.key.starts_with(&format!("{}adit/", prefix.all()))
        {
            // Somebody else's, such as other tools' under the same prefix.
            return;
        }
        if entry.key.len() > MAX_KEY {
            self.untold += 1;
            return;
        }
        let hash = sha256(&[&entry.value]);
        if self.others.get(&entry.key).is_some_and(|before| before.hash == hash) {
            return;
        }
        let fault = match key {
            Some(Key::Config) => {
                self.contradiction = match NetworkConfig::parse(&entry.value) {
                    Ok(there) => contradiction(&self.setting.network, &there),
                    Err(error) => Some(format!("the network configuration in the registry {error}")),
                };
                None
            }
            Some(Key::Removed(number)) => self.tombstone(number, &entry.value),
            Some(Key::Epoch(epoch)) => self.bundle(epoch, &entry.value),
            Some(Key::Release(serial)) => self.release(serial, &entry.value),
            Some(Key::Subnets(_)) | None => Some("its key is not one that means anything".into()),
        };
        if self.others.len() < MAX_ENTRIES || fault.is_none() || self.others.contains_key(&entry.key) {
            self.others.insert(entry.key.clone(), Other { hash, fault });
        } else {
            self.untold += 1;
        }
    }

    fn tombstone(&mut self, number: u64, value: &[u8]) -> Option<Box<str>> {
        match read::tombstone(number, value, &self.setting.anchor) {
            Ok((tombstone, signed)) => {
                self.put_out(tombstone, signed);
                None
            }
            Err(fault) => Some(fault),
        }
    }

    fn bundle(&mut self, epoch: u32, value: &[u8]) -> Option<Box<str>> {
        match read::bundle(epoch, value, &self.setting.anchor) {
            Ok(bundle) => {
                self.unsaved |= self.removals.claim(bundle.removals);
                if self.bundles.insert(epoch, bundle.clone()).is_none_or(|before| before != bundle) {
                    self.changed = true;
                }
                while self.bundles.len() > crate::trust::KEPT_BUNDLES as usize {
                    self.bundles.pop_first();
                }
                None
            }
            Err(fault) => Some(fault),
        }
    }

    fn release(&mut self, serial: Serial, value: &[u8]) -> Option<Box<str>> {
        match read::release(serial, value, &self.setting.anchor) {
            Ok(release) => {
                if !self.removals.is_removed(serial) && self.nodes.release(&release) {
                    self.changed = true;
                    self.unsaved = true;
                }
                None
            }
            Err(fault) => Some(fault),
        }
    }

    /// [`settle`](Self::settle) where nobody can be asked what was heard: nobody's time is over.
    fn settle_all_heard(&mut self) {
        let now = self.now;
        self.settle(now, &|_| Some(now));
    }

    /// Gives what is free to those who wait for it.
    fn settle(&mut self, now: Duration, heard: Heard<'_>) {
        if self.nodes.settle(now, self.setting.lease_ttl, heard) {
            self.changed = true;
            self.unsaved = true;
        }
    }
}

/// What of another configuration cannot be followed while the network runs: a sentence, or nothing if both say the same.
pub fn contradiction(ours: &NetworkConfig, there: &NetworkConfig) -> Option<String> {
    let backend = |config: &NetworkConfig| match &config.backend {
        Backend::Adit => "adit".to_owned(),
        Backend::Udp { port } if config.backend_is_written => format!("udp on port {port}"),
        Backend::Udp { .. } => "none, which means udp".to_owned(),
        // Whoever wrote it may have meant to write to a terminal.
        Backend::Other(kind) => kind.escape_debug().to_string(),
    };
    let networks = |config: &NetworkConfig| {
        let pools = [&config.v4, &config.v6].into_iter().flatten();
        let texts: Vec<_> = pools
            .map(|pool| {
                format!("{} in subnets of /{} from {} to {}", pool.network, pool.subnet_len, pool.min, pool.max)
            })
            .collect();
        texts.join(" and ")
    };
    let differs = |what: &str, ours: String, theirs: String| {
        (ours != theirs).then(|| {
            format!("the registry's configuration now has the {what} {theirs}, and this network runs with {ours}: nothing was changed")
        })
    };
    differs("backend", backend(ours), backend(there)).or_else(|| differs("network", networks(ours), networks(there)))
}
