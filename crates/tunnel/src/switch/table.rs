//! Which address is where: a table of fixed size that all workers share without a lock.
//!
//! Buckets of eight, found by a keyed hash, so that nobody can choose addresses that fall into one. An entry is one atomic word, address and owner, with the second in
//! which it was heard last beside it; what two workers write at the same moment is one of the two. An owner has at most its share: whoever sends from a
//! million addresses pushes out none but its own. Where there is no room any more, who has most gives way to who has less.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use wire::ethernet::MacAddress;

use crate::snapshot::PeerId;
use crate::time::Time;

/// Entries of a bucket.
const WAYS: usize = 8;

/// Buckets: a power of two.
const BUCKETS: usize = 2048;

/// Addresses that the table holds.
pub const CAPACITY: usize = WAYS * BUCKETS;

/// Addresses on this host's side that are held at most.
pub const LOCAL_SHARE: usize = CAPACITY / 2;

/// Peers that may own addresses: numbers below this.
pub const MAX_PEERS: usize = 4096;

/// How often an entry that others change meanwhile is tried again.
const TRIES: usize = 4;

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Behind this host's device.
    Local,
    /// With a peer.
    Peer(PeerId),
}

impl Owner {
    const LOCAL: u16 = u16::MAX;

    #[inline]
    fn number(self) -> Option<u16> {
        match self {
            Self::Local => Some(Self::LOCAL),
            Self::Peer(PeerId(id)) => u16::try_from(id).ok().filter(|id| usize::from(*id) < MAX_PEERS),
        }
    }

    #[inline]
    fn of(number: u16) -> Self {
        if number == Self::LOCAL { Self::Local } else { Self::Peer(PeerId(number.into())) }
    }
}

/// What became of an address that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known to be there.
    Known,
    /// It is known now.
    New,
    /// It was with another one until now.
    Moved(Owner),
    /// There is no room for it, or its owner has all that it may have.
    Refused,
}

#[derive(Default)]
struct Bucket {
    /// Address and owner; 0 if free.
    entries: [AtomicU64; WAYS],
    /// The second in which it was heard last.
    seen: [AtomicU32; WAYS],
}

/// See the module.
pub struct MacTable {
    buckets: Box<[Bucket]>,
    hash: RandomState,
    /// How many each peer has; the last one is this host's side.
    counts: Box<[AtomicU32]>,
    share: u32,
    /// Seconds after which what was not heard again counts no more.
    age: u32,
}

#[inline]
fn word(mac: MacAddress, owner: u16) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    let [h, l] = owner.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, h, l])
}

#[inline]
fn owner_of(entry: u64) -> u16 {
    entry as u16
}

#[inline]
fn mac_of(entry: u64) -> MacAddress {
    let [a, b, c, d, e, f, _, _] = entry.to_be_bytes();
    MacAddress([a, b, c, d, e, f])
}

/// The second of a time.
#[inline]
fn second(now: Time) -> u32 {
    (now.as_nanos() / 1_000_000_000) as u32
}

impl MacTable {
    /// An empty table, of which a peer has `share` addresses at most.
    #[must_use]
    pub fn new(share: u32, age: Duration) -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            hash: RandomState::new(),
            counts: (0..=MAX_PEERS).map(|_| AtomicU32::new(0)).collect(),
            share,
            age: u32::try_from(age.as_secs()).unwrap_or(u32::MAX),
        }
    }

    #[inline]
    fn bucket(&self, mac: MacAddress) -> Option<&Bucket> {
        self.buckets.get(self.hash.hash_one(word(mac, 0)) as usize % BUCKETS)
    }

    #[inline]
    fn count(&self, owner: u16) -> Option<&AtomicU32> {
        self.counts.get(usize::from(owner).min(MAX_PEERS))
    }

    fn share(&self, owner: u16) -> u32 {
        if owner == Owner::LOCAL { LOCAL_SHARE as u32 } else { self.share }
    }

    #[inline]
    fn is_fresh(&self, seen: u32, now: u32) -> bool {
        // Another worker may be a moment ahead.
        now.saturating_sub(seen) <= self.age
    }

    /// Where `mac` is, if that was heard of lately enough.
    #[inline]
    #[must_use]
    pub fn find(&self, mac: MacAddress, now: Time) -> Option<Owner> {
        let (now, wanted) = (second(now), word(mac, 0) >> 16);
        let bucket = self.bucket(mac)?;
        let mut both = bucket.entries.iter().zip(&bucket.seen);
        both.find_map(|(entry, seen)| {
            let entry = entry.load(Ordering::Relaxed);
            let is_it = entry >> 16 == wanted && entry != 0 && self.is_fresh(seen.load(Ordering::Relaxed), now);
            is_it.then(|| Owner::of(owner_of(entry)))
        })
    }

    /// Notes that a frame of `mac`'s came from `owner`. An address that moves is with its new owner from this frame on.
    #[inline]
    pub fn learn(&self, mac: MacAddress, owner: Owner, now: Time) -> Learned {
        let Some((number, bucket)) = owner.number().zip(self.bucket(mac)) else { return Learned::Refused };
        let (now, new) = (second(now), word(mac, number));
        for (entry, seen) in bucket.entries.iter().zip(&bucket.seen) {
            if entry.load(Ordering::Relaxed) == new {
                let fresh = self.is_fresh(seen.load(Ordering::Relaxed), now);
                if seen.load(Ordering::Relaxed) != now {
                    seen.store(now, Ordering::Relaxed);
                }
                return if fresh { Learned::Known } else { Learned::New };
            }
        }
        self.change(bucket, new, now)
    }

    #[cold]
    fn change(&self, bucket: &Bucket, new: u64, now: u32) -> Learned {
        for _ in 0..TRIES {
            if let Some(learned) = self.try_change(bucket, new, now) {
                return learned;
            }
        }
        Learned::Refused
    }

    /// `None` if another worker was faster.
    fn try_change(&self, bucket: &Bucket, new: u64, now: u32) -> Option<Learned> {
        let number = owner_of(new);
        let has = self.count(number)?.load(Ordering::Relaxed);
        let is_full = has >= self.share(number);
        let (mut free, mut own, mut oldest) = (None, None, u32::MAX);
        // In a full bucket whoever has most makes room for whoever has less.
        let (mut richest, mut most) = (None, has.saturating_add(1));
        for (at, (entry, seen)) in bucket.entries.iter().zip(&bucket.seen).enumerate() {
            let (held, seen) = (entry.load(Ordering::Relaxed), seen.load(Ordering::Relaxed));
            let fresh = held != 0 && self.is_fresh(seen, now);
            if held != 0 && held >> 16 == new >> 16 {
                // An owner that has its share is not given more; but what has moved away from where it was is unknown then, not there.
                let put = if is_full && owner_of(held) != number { 0 } else { new };
                self.put(bucket, at, (held, put), now)?;
                return Some(match (put, fresh) {
                    (0, _) => Learned::Refused,
                    (_, true) => Learned::Moved(Owner::of(owner_of(held))),
                    (_, false) => Learned::New,
                });
            }
            if !fresh && free.is_none() {
                free = Some((at, held));
            }
            if owner_of(held) == number && held != 0 && seen <= oldest {
                (own, oldest) = (Some((at, held)), seen);
            }
            let theirs = self.count(owner_of(held))?.load(Ordering::Relaxed);
            if held != 0 && theirs > most {
                (richest, most) = (Some((at, held)), theirs);
            }
        }
        let place = if is_full { own } else { free.or(richest).or(own) };
        let Some((at, held)) = place else { return Some(Learned::Refused) };
        self.put(bucket, at, (held, new), now)?;
        Some(Learned::New)
    }

    /// Puts a word in place of another; `None` if that was another one meanwhile.
    fn put(&self, bucket: &Bucket, at: usize, (old, new): (u64, u64), now: u32) -> Option<()> {
        let (entry, seen) = (bucket.entries.get(at)?, bucket.seen.get(at)?);
        entry.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        seen.store(now, Ordering::Relaxed);
        if old != 0 {
            self.count(owner_of(old))?.fetch_sub(1, Ordering::Relaxed);
        }
        if new != 0 {
            self.count(owner_of(new))?.fetch_add(1, Ordering::Relaxed);
        }
        Some(())
    }

    /// How many addresses an owner has, as far as they were swept.
    #[must_use]
    pub fn held_by(&self, owner: Owner) -> usize {
        let count = owner.number().and_then(|number| self.count(number));
        count.map_or(0, |count| count.load(Ordering::Relaxed) as usize)
    }

    /// Lets go of what was not heard of for too long.
    pub fn sweep(&self, now: Time) {
        let now = second(now);
        self.clear(|_, seen| !self.is_fresh(seen, now));
    }

    /// Lets go of all that an owner has: its number will be another one's.
    pub fn forget(&self, owner: Owner) {
        if let Some(number) = owner.number() {
            self.clear(|held, _| held == number);
        }
    }

    /// Lets go of everything.
    pub fn forget_all(&self) {
        self.clear(|_, _| true);
    }

    fn clear(&self, is_over: impl Fn(u16, u32) -> bool) {
        for bucket in &self.buckets {
            for (at, (entry, seen)) in bucket.entries.iter().zip(&bucket.seen).enumerate() {
                let (held, seen) = (entry.load(Ordering::Relaxed), seen.load(Ordering::Relaxed));
                if held != 0 && is_over(owner_of(held), seen) {
                    // Whoever was faster heard of it just now.
                    let _ = self.put(bucket, at, (held, 0), seen);
                }
            }
        }
    }

    /// Every address that counts, for people.
    #[must_use]
    pub fn entries(&self, now: Time) -> Vec<(MacAddress, Owner)> {
        let now = second(now);
        let words = self.buckets.iter().flat_map(|bucket| bucket.entries.iter().zip(&bucket.seen));
        let mut all: Vec<_> = words
            .map(|(entry, seen)| (entry.load(Ordering::Relaxed), seen.load(Ordering::Relaxed)))
            .filter(|(entry, seen)| *entry != 0 && self.is_fresh(*seen, now))
            .map(|(entry, _)| (mac_of(entry), Owner::of(owner_of(entry))))
            .collect();
        all.sort_unstable_by_key(|(mac, owner)| (*owner, mac.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const AGE: Duration = Duration::from_secs(300);

    fn table(share: u32) -> MacTable {
        MacTable::new(share, AGE)
    }

    fn mac(number: u32) -> MacAddress {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddress([2, 0, a, b, c, d])
    }

    fn at(second: u64) -> Time {
        Time::from_nanos(second * 1_000_000_000)
    }

    const BERLIN: Owner = Owner::Peer(PeerId(0));
    const PARIS: Owner = Owner::Peer(PeerId(1));

    #[test]
    fn an_address_is_where_it_was_heard_last() {
        let table = table(10);
        assert_eq!(table.find(mac(1), at(1)), None);
        assert_eq!(table.learn(mac(1), BERLIN, at(1)), Learned::New);
        assert_eq!(table.learn(mac(1), BERLIN, at(2)), Learned::Known);
        assert_eq!(table.learn(mac(1), PARIS, at(2)), Learned::Moved(BERLIN));
        assert_eq!(table.find(mac(1), at(2)), Some(PARIS));
        assert_eq!(table.learn(mac(1), Owner::Local, at(2)), Learned::Moved(PARIS));
        assert_eq!(table.find(mac(1), at(2)), Some(Owner::Local));
        assert_eq!([BERLIN, PARIS, Owner::Local].map(|owner| table.held_by(owner)), [0, 0, 1]);
        assert_eq!(table.entries(at(2)), [(mac(1), Owner::Local)]);
    }

    #[test]
    fn what_is_not_heard_again_is_forgotten() {
        let table = table(10);
        table.learn(mac(1), BERLIN, at(1));
        assert_eq!(table.find(mac(1), at(301)), Some(BERLIN));
        assert_eq!(table.find(mac(1), at(302)), None);
        assert_eq!(table.learn(mac(1), PARIS, at(302)), Learned::New, "no move: nobody knew any more");
        table.learn(mac(2), BERLIN, at(302));
        table.sweep(at(602));
        assert_eq!((table.held_by(BERLIN), table.held_by(PARIS)), (1, 1));
        table.sweep(at(603));
        assert_eq!((table.held_by(BERLIN), table.held_by(PARIS), table.entries(at(603)).len()), (0, 0, 0));
    }

    #[test]
    fn whoever_sends_from_a_million_addresses_pushes_out_none_but_its_own() {
        let table = table(1024);
        let others = |table: &MacTable| (0..1000).filter(|n| table.find(mac(*n), at(9)) == Some(PARIS)).count();
        (0..1000).for_each(|n| assert_eq!(table.learn(mac(n), PARIS, at(1)), Learned::New));
        table.learn(mac(5000), Owner::Local, at(1));
        for n in 0..1_000_000 {
            let learned = table.learn(mac(0x1000_0000 + n), BERLIN, at(9));
            assert!(matches!(learned, Learned::New | Learned::Refused));
        }
        assert_eq!(others(&table), 1000);
        assert_eq!(table.find(mac(5000), at(9)), Some(Owner::Local));
        assert_eq!(table.held_by(BERLIN), 1024);
        assert_eq!(table.entries(at(9)).len(), 1000 + 1 + 1024);
        // Also when it sends from theirs: they are unknown then, or with it, as on every switch; but no more than it may have.
        (0..1000).for_each(|n| assert_ne!(table.learn(mac(n), BERLIN, at(9)), Learned::Known));
        assert!(table.held_by(BERLIN) <= 1024);
        assert_eq!(table.learn(mac(7), PARIS, at(9)), Learned::New, "and it is theirs again with the next frame");
    }

    #[test]
    fn many_owners_share_a_table_that_stays_as_large_as_it_is() {
        let table = table(1024);
        for owner in 0..100 {
            let learn = |n| table.learn(mac(owner * 100_000 + n), Owner::Peer(PeerId(owner)), at(1));
            assert!((0..2000).map(learn).filter(|learned| *learned == Learned::New).count() > 0);
            assert!(table.held_by(Owner::Peer(PeerId(owner))) > 80, "{owner}");
        }
        let held: usize = (0..100).map(|owner| table.held_by(Owner::Peer(PeerId(owner)))).sum();
        assert_eq!(held, table.entries(at(1)).len());
        assert!(held <= CAPACITY);
        assert_eq!(table.learn(mac(1), Owner::Peer(PeerId(MAX_PEERS as u32)), at(1)), Learned::Refused);
        table.forget(Owner::Peer(PeerId(3)));
        assert_eq!(table.held_by(Owner::Peer(PeerId(3))), 0);
    }

    #[test]
    fn workers_that_write_at_once_leave_counts_that_are_right() {
        let table = Arc::new(table(64));
        std::thread::scope(|scope| {
            for owner in 0..4 {
                let table = Arc::clone(&table);
                scope.spawn(move || {
                    for n in 0..20_000u32 {
                        table.learn(mac(n % 300), Owner::Peer(PeerId(owner)), at(1));
                    }
                });
            }
        });
        let entries = table.entries(at(1));
        for owner in (0..4).map(|owner| Owner::Peer(PeerId(owner))) {
            assert_eq!(table.held_by(owner), entries.iter().filter(|(_, held)| *held == owner).count());
        }
    }

    proptest! {
        /// Against a map, as long as nobody is at a limit.
        #[test]
        fn it_says_what_a_map_says(steps in prop::collection::vec((0u32..40, 0u32..3, 0u64..400), 1..200)) {
            let table = table(1024);
            let mut model: HashMap<u32, (u32, u64)> = HashMap::new();
            let mut now = 1;
            for (number, owner, wait) in steps {
                now += wait / 4;
                for asked in 0..40 {
                    let expected = model.get(&asked).filter(|(_, seen)| now - seen <= 300);
                    prop_assert_eq!(table.find(mac(asked), at(now)), expected.map(|(owner, _)| Owner::Peer(PeerId(*owner))));
                }
                table.learn(mac(number), Owner::Peer(PeerId(owner)), at(now));
                model.insert(number, (owner, now));
            }
        }
    }
}
