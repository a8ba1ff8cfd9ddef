//! Nodes that we know of, and who may claim what.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::Heard;
use super::ranges::Ranges;
use super::read::What;
use crate::schema::Subnets;
use crate::trust::{Record, Release, Serial};

/// As many nodes are known, and as many serials by their numbers. An authority certifies fewer; who has a shared secret can make up any number.
const MAX_NODES: usize = 65_536;
const MAX_SEQUENCES: usize = 2 * MAX_NODES;
/// After a start nobody's time is over before this: nodes that are there need a while to be heard.
const GRACE: Duration = Duration::from_secs(600);

/// A node, by the newest of its records.
pub(super) struct Known {
    pub(super) record: Record,
    /// The record's bytes.
    pub(super) signed: Vec<u8>,
    /// The revision that made its entry: who claims what was free first gets it.
    pub(super) order: i64,
    /// Why it holds nothing, if so.
    pub(super) standing: Standing,
    /// Whether the record is in the registry.
    pub(super) present: bool,
    /// How long it was not, while the registry was there.
    pub(super) absent_for: Duration,
    /// Until when that is counted.
    counted: Duration,
    /// Whether it held what it claims when we last ran.
    held_before: bool,
}

/// Whether a node has what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Holds,
    /// Not looked at yet.
    Waits,
    /// Another node has addresses of it.
    Addresses(Serial),
    /// Another node has the name.
    Name(Serial),
    /// Another node has one of the keys.
    Key(Serial),
    /// It gave up what the record names.
    Released,
}

/// The numbers of a node's words, which never go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sequences {
    pub(super) highest: u64,
    pub(super) released: Option<(u64, Subnets)>,
}

/// All nodes.
#[derive(Default)]
pub(super) struct Nodes {
    own: Option<Serial>,
    /// The number of our own record, once there is one.
    published: Option<u64>,
    /// Whether somebody else speaks in our name.
    pub(super) is_doubled: bool,
    known: BTreeMap<Serial, Known>,
    sequences: BTreeMap<Serial, Sequences>,
    addresses: Ranges<Serial>,
    /// In small letters: two names that differ in nothing else are one to people, and to a configuration.
    names: HashMap<String, Serial>,
    keys: HashMap<[u8; 32], Serial>,
    /// Those who hold nothing, in the order in which they are asked again.
    waiting: BTreeSet<(i64, Serial)>,
    /// Those who came since they were last asked.
    fresh: Vec<(i64, Serial)>,
    /// Whether something became free since all were asked.
    is_due: bool,
    /// When we began.
    began: Option<Duration>,
}

impl Nodes {
    pub(super) fn new(own: Option<Serial>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Takes in when we began: before that nothing could be heard.
    pub(super) fn begin(&mut self, now: Duration) {
        self.began.get_or_insert(now);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Serial, &Known)> {
        self.known.iter()
    }

    pub(super) fn get(&self, serial: Serial) -> Option<&Known> {
        self.known.get(&serial)
    }

    /// Which node has addresses of these subnets.
    pub(super) fn holder(&self, subnets: &Subnets) -> Option<Serial> {
        subnets.iter().find_map(|net| self.addresses.holders(&net).next())
    }

    pub(super) fn sequences(&self) -> &BTreeMap<Serial, Sequences> {
        &self.sequences
    }

    pub(super) fn highest(&self, serial: Serial) -> u64 {
        self.sequences.get(&serial).map_or(0, |sequences| sequences.highest)
    }

    /// Whether an entry should be read again although it is the same: something that kept it from counting is gone.
    pub(super) fn is_to_be_read_again(&self, what: &What) -> bool {
        match what {
            What::Signed { serial, sequence, counts } => match self.known.get(serial) {
                Some(known) => *counts && !known.present && *sequence == known.record.sequence,
                None => *sequence >= self.highest(*serial),
            },
            _ => false,
        }
    }

    /// Takes in a record that is in the registry. Answers what its entry is, and whether a node changed.
    pub(super) fn take(&mut self, record: Record, signed: Vec<u8>, order: i64) -> (What, bool) {
        let (serial, sequence) = (record.certificate.serial, record.sequence);
        let what = |counts| What::Signed { serial, sequence, counts };
        if self.own == Some(serial)
            && let Some(published) = self.published
        {
            return (what(self.take_own(&record, published)), false);
        }
        if let Some(known) = self.known.get(&serial) {
            // Who gave everything up may come back otherwise.
            if known.record.certificate != record.certificate && known.standing != Standing::Released {
                return (what(false), false);
            }
            if sequence < known.record.sequence {
                return (what(true), false);
            }
            if sequence == known.record.sequence {
                let same = known.record == record;
                if let Some(known) = self.known.get_mut(&serial).filter(|_| same) {
                    if !known.present && known.standing == Standing::Waits {
                        self.fresh.push((known.order, serial));
                    }
                    known.present = true;
                    known.absent_for = Duration::ZERO;
                }
                return (what(same), false);
            }
        } else if sequence < self.highest(serial) || self.known.len() >= MAX_NODES {
            return (what(true), false);
        }
        (what(true), self.replace(record, signed, order, true))
    }

    /// Compares a record in our name with what we said.
    fn take_own(&mut self, record: &Record, published: u64) -> bool {
        let ours = self.known.get(&record.certificate.serial);
        let same = ours.is_none_or(|ours| ours.record == *record);
        if record.sequence > published || (record.sequence == published && !same) {
            self.is_doubled = true;
            self.raise(record.certificate.serial, record.sequence);
            return false;
        }
        if let Some(ours) = self.known.get_mut(&record.certificate.serial).filter(|_| record.sequence == published) {
            ours.present = true;
        }
        true
    }

    /// Takes in our own record.
    pub(super) fn publish(&mut self, record: Record, signed: Vec<u8>) -> bool {
        self.published = Some(record.sequence);
        // Whatever was said in our name before is answered by this one.
        self.is_doubled = false;
        self.replace(record, signed, i64::MAX, false)
    }

    /// Puts a node's newest record in place of the one before.
    fn replace(&mut self, record: Record, signed: Vec<u8>, order: i64, present: bool) -> bool {
        let serial = record.certificate.serial;
        self.raise(serial, record.sequence);
        let released = self.is_released(&record);
        if let Some(known) = self.known.get_mut(&serial) {
            let stays = known.record.subnets == record.subnets && known.record.certificate == record.certificate;
            if stays && !released && known.standing != Standing::Released {
                let says_more =
                    (&known.record.endpoints, known.record.behind_nat) != (&record.endpoints, record.behind_nat);
                let changed = says_more && known.standing == Standing::Holds;
                (known.record, known.signed, known.present) = (record, signed, present);
                known.absent_for = Duration::ZERO;
                return changed;
            }
        }
        let changed = self.withdraw(serial);
        let standing = if released { Standing::Released } else { Standing::Waits };
        let (absent_for, counted, held_before) = (Duration::ZERO, Duration::ZERO, false);
        let known = Known { record, signed, order, standing, present, absent_for, counted, held_before };
        self.known.insert(serial, known);
        if !released {
            self.waiting.insert((order, serial));
            self.fresh.push((order, serial));
        }
        changed
    }

    fn is_released(&self, record: &Record) -> bool {
        let released = self.sequences.get(&record.certificate.serial).and_then(|sequences| sequences.released);
        released.is_some_and(|(sequence, subnets)| record.sequence <= sequence && record.subnets.overlaps(&subnets))
    }

    fn raise(&mut self, serial: Serial, sequence: u64) {
        if self.sequences.len() >= MAX_SEQUENCES && !self.sequences.contains_key(&serial) {
            // The numbers of those who are not there any more go first.
            let past = self.sequences.keys().find(|serial| !self.known.contains_key(serial)).copied();
            past.and_then(|past| self.sequences.remove(&past));
        }
        let sequences = self.sequences.entry(serial).or_default();
        sequences.highest = sequences.highest.max(sequence);
    }

    /// Sets numbers from memory.
    pub(super) fn recall_sequences(&mut self, serial: Serial, recalled: Sequences) {
        if self.sequences.len() < MAX_SEQUENCES {
            self.sequences.insert(serial, recalled);
        }
    }

    /// Takes in a node from memory, which held what it claims or did not.
    pub(super) fn recall(&mut self, record: Record, signed: Vec<u8>, order: i64, held: bool, absent_for: Duration) {
        let serial = record.certificate.serial;
        if self.known.len() < MAX_NODES && !self.known.contains_key(&serial) {
            self.replace(record, signed, order, false);
            if let Some(known) = self.known.get_mut(&serial) {
                (known.absent_for, known.held_before) = (absent_for, held);
            }
        }
    }

    /// Takes in that a node gave subnets up; whether that changes anything.
    pub(super) fn release(&mut self, release: &Release) -> bool {
        let serial = release.serial();
        if self.known.get(&serial).is_some_and(|known| known.record.certificate != release.certificate) {
            return false;
        }
        self.raise(serial, release.sequence);
        if let Some(sequences) = self.sequences.get_mut(&serial) {
            if sequences.released.is_some_and(|(before, _)| before > release.sequence) {
                return false;
            }
            sequences.released = Some((release.sequence, release.subnets));
        }
        if !self.known.get(&serial).is_some_and(|known| self.is_released(&known.record)) {
            return false;
        }
        let changed = self.withdraw(serial);
        if let Some(known) = self.known.get_mut(&serial) {
            self.waiting.remove(&(known.order, serial));
            known.standing = Standing::Released;
        }
        changed
    }

    /// Takes in that no entry has the node's record any more.
    pub(super) fn set_absent(&mut self, serial: Serial, subnets: &Subnets, now: Duration) {
        if let Some(known) =
            self.known.get_mut(&serial).filter(|known| known.present && known.record.subnets == *subnets)
        {
            known.present = false;
            known.absent_for = Duration::ZERO;
            known.counted = now;
        }
    }

    /// Lets the time since the last listing count against those who were not in the registry, if it was there all that time.
    pub(super) fn grow_absent(&mut self, now: Duration, passed: Option<Duration>) {
        for known in self.known.values_mut().filter(|known| !known.present) {
            let since = now.saturating_sub(known.counted);
            known.absent_for += passed.map_or(Duration::ZERO, |passed| passed.min(since));
            known.counted = now;
        }
    }

    /// Whether what a node holds may go to another: it has had no record for one TTL, and was not heard for as long.
    fn is_over(&self, serial: Serial, now: Duration, ttl: Duration, heard: Heard<'_>) -> bool {
        let had_time = self.began.is_some_and(|began| now.saturating_sub(began) >= ttl.min(GRACE));
        self.own != Some(serial)
            && had_time
            && self.known.get(&serial).is_some_and(|known| !known.present && known.absent_for >= ttl)
            && heard(serial).is_none_or(|last| now.saturating_sub(last) >= ttl)
    }

    /// Forgets those whose time is over; whether there were any.
    pub(super) fn expire(&mut self, now: Duration, ttl: Duration, heard: Heard<'_>) -> bool {
        let over: Vec<_> = self.known.keys().copied().filter(|serial| self.is_over(*serial, now, ttl, heard)).collect();
        over.iter().for_each(|serial| self.forget(*serial));
        !over.is_empty()
    }

    /// Forgets a node, but for the numbers of its words.
    pub(super) fn forget(&mut self, serial: Serial) {
        self.withdraw(serial);
        if let Some(known) = self.known.remove(&serial) {
            self.waiting.remove(&(known.order, serial));
        }
        if self.own == Some(serial) {
            self.published = None;
        }
    }

    /// Takes from a node what it holds; whether it held anything.
    fn withdraw(&mut self, serial: Serial) -> bool {
        let Some(known) = self.known.get_mut(&serial) else { return false };
        let held = known.standing == Standing::Holds;
        if held {
            known.standing = Standing::Waits;
            for net in known.record.subnets.iter() {
                self.addresses.give_back(&net, serial);
            }
            let certificate = &known.record.certificate;
            self.names.remove(&certificate.name.to_ascii_lowercase());
            self.keys.remove(&certificate.record_key);
            self.keys.remove(&certificate.sealed_key);
            self.is_due = true;
        }
        self.waiting.remove(&(known.order, serial));
        held
    }

    /// Takes from a node what it holds, and lets it wait for it.
    fn displace(&mut self, serial: Serial) {
        self.withdraw(serial);
        if let Some(known) = self.known.get(&serial) {
            self.waiting.insert((known.order, serial));
        }
    }

    /// Asks those who wait, in their order, whether what they claim is free; whether anybody got anything.
    pub(super) fn settle(&mut self, now: Duration, ttl: Duration, heard: Heard<'_>) -> bool {
        let mut changed = false;
        loop {
            let mut fresh = std::mem::take(&mut self.fresh);
            let asked: Vec<_> = if std::mem::take(&mut self.is_due) {
                self.waiting.iter().copied().collect()
            } else {
                // What the others wait for is as little free as before.
                fresh.sort_unstable();
                fresh.retain(|entry| self.waiting.contains(entry));
                fresh
            };
            if asked.is_empty() {
                return changed;
            }
            for (order, serial) in asked {
                let standing = self.claim(serial, now, ttl, heard);
                if standing == Standing::Holds {
                    self.waiting.remove(&(order, serial));
                    changed = true;
                }
                if let Some(known) = self.known.get_mut(&serial) {
                    known.standing = standing;
                }
            }
        }
    }

    /// Gives a node what it claims, if nobody else has any of it, or only nodes whose time is over.
    fn claim(&mut self, serial: Serial, now: Duration, ttl: Duration, heard: Heard<'_>) -> Standing {
        let Some(known) = self.known.get(&serial) else { return Standing::Waits };
        if !known.present && !known.held_before && self.own != Some(serial) {
            // Who is not there gets nothing new.
            return Standing::Waits;
        }
        let certificate = &known.record.certificate;
        let (record_key, sealed_key) = (certificate.record_key, certificate.sealed_key);
        let name = certificate.name.to_ascii_lowercase();
        let subnets = known.record.subnets;
        let mut against: Vec<Standing> = Vec::new();
        against.extend(self.keys.get(&record_key).or_else(|| self.keys.get(&sealed_key)).map(|by| Standing::Key(*by)));
        against.extend(self.names.get(&name).map(|by| Standing::Name(*by)));
        for net in subnets.iter() {
            against.extend(self.addresses.holders(&net).map(Standing::Addresses));
        }
        let by = |standing: &Standing| match standing {
            Standing::Addresses(by) | Standing::Name(by) | Standing::Key(by) => Some(*by),
            _ => None,
        };
        if self.own == Some(serial) {
            // What we have is in use here, whoever else claims it.
            against.iter().filter_map(by).for_each(|other| self.displace(other));
        } else {
            let stays = |standing: &&Standing| by(standing).is_some_and(|by| !self.is_over(by, now, ttl, heard));
            if let Some(standing) = against.iter().find(stays) {
                return *standing;
            }
            against.iter().filter_map(by).for_each(|over| self.forget(over));
        }
        for net in subnets.iter() {
            self.addresses.take(&net, serial);
        }
        self.names.insert(name, serial);
        self.keys.insert(record_key, serial);
        self.keys.insert(sealed_key, serial);
        Standing::Holds
    }
}
