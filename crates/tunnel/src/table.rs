//! Sessions by the index that their datagrams carry, found without a lock.
//!
//! We choose the indices of what we receive. Each claims one slot of a fixed table, named by some of its bits; the others
//! are random, so that nobody off the path can guess an index that is in use. The four lowest bits are those that steer
//! a datagram to a worker ([`LANE_MASK`]): in the data messages of `sealed` the sender writes the lane of a flow there, and they are zero
//! in our index; WireGuard sends our index as it is, and they are random, so that sessions spread over the workers.
//!
//! Workers read; control alone claims, inserts, releases and grows, which only this crate can. To grow is to publish a copy twice as
//! large: who holds the former one does so for one look, and finds there what was true when the look began. What has a slot of its own
//! in a table has one in every larger one too, since a slot is named by the low bits of the index.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use wire::message::Protocol;
use wire::message::data::LANE_MASK;

use crate::session::Session;

/// Slots per peer: it has four sessions at most (asked for, next, current, previous), so that every fourth slot is taken at most
/// and a free one is found within a few tries.
const SLOTS_PER_PEER: usize = 16;

/// Tries to find a free slot. With a quarter of them taken, all of these fail once in 2^64.
const TRIES: usize = 32;

/// The sessions of a node.
pub struct SessionTable {
    slots: ArcSwap<Slots>,
}

/// As many as a power of two.
struct Slots(Box<[Slot]>);

#[derive(Default)]
struct Slot {
    /// The index that claims it; 0 if it is free.
    index: AtomicU32,
    session: ArcSwapOption<Session>,
}

impl Slots {
    fn for_peers(peers: usize) -> Self {
        let count = peers.max(1).saturating_mul(SLOTS_PER_PEER).next_power_of_two();
        Self((0..count).map(|_| Slot::default()).collect())
    }

    #[inline]
    fn of(&self, index: u32) -> Option<&Slot> {
        // A power of two, so that the mask keeps every number below the length.
        self.0.get((index >> LANE_MASK.count_ones()) as usize & (self.0.len() - 1))
    }

    /// The slot that this index claims.
    #[inline]
    fn claimed_by(&self, index: u32) -> Option<&Slot> {
        self.of(index).filter(|slot| index != 0 && slot.index.load(Ordering::Acquire) == index)
    }
}

impl SessionTable {
    /// A table for as many peers.
    #[must_use]
    pub fn new(peers: usize) -> Self {
        Self { slots: ArcSwap::from_pointee(Slots::for_peers(peers)) }
    }

    /// Makes room for as many peers, if there is less. It never becomes smaller.
    pub(crate) fn grow(&self, peers: usize) {
        let former = self.slots.load();
        if peers.saturating_mul(SLOTS_PER_PEER) <= former.0.len() {
            return;
        }
        let larger = Slots::for_peers(peers);
        for slot in &former.0 {
            let index = slot.index.load(Ordering::Acquire);
            if index != 0
                && let Some(place) = larger.of(index)
            {
                place.index.store(index, Ordering::Release);
                place.session.store(slot.session.load_full());
            }
        }
        self.slots.store(Arc::new(larger));
    }

    /// Claims an index for a session to come; `random` gives numbers nobody can guess. `None` if the table is crowded.
    pub(crate) fn claim(&self, protocol: Protocol, mut random: impl FnMut() -> Option<u32>) -> Option<u32> {
        let fixed = if protocol == Protocol::Sealed { LANE_MASK } else { 0 };
        let slots = self.slots.load();
        for _ in 0..TRIES {
            let index = random()? & !fixed;
            // 0 marks a free slot.
            if index == 0 {
                continue;
            }
            let slot = slots.of(index)?;
            if slot.index.compare_exchange(0, index, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(index);
            }
        }
        None
    }

    /// How many indices are claimed.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn claimed(&self) -> usize {
        self.slots.load().0.iter().filter(|slot| slot.index.load(Ordering::Acquire) != 0).count()
    }

    /// Whether somebody claims `index`.
    #[inline]
    #[must_use]
    pub fn is_claimed(&self, index: u32) -> bool {
        self.slots.load().claimed_by(index).is_some()
    }

    /// Puts the session under its own index, which must have been claimed.
    pub(crate) fn insert(&self, session: Arc<Session>) {
        if let Some(slot) = self.slots.load().claimed_by(session.index()) {
            slot.session.store(Some(session));
        }
    }

    /// Frees an index; its session is not found any more.
    pub(crate) fn release(&self, index: u32) {
        if let Some(slot) = self.slots.load().claimed_by(index) {
            slot.session.store(None);
            slot.index.store(0, Ordering::Release);
        }
    }

    /// The session with this index, which is [`DataHeader::index`](wire::message::DataHeader::index) of a data message.
    #[inline]
    #[must_use]
    pub fn find(&self, index: u32) -> Found {
        Found(self.slots.load().of(index).map(|slot| slot.session.load()), index)
    }
}

/// What [`SessionTable::find`] found: holds the session for as long as it is looked at.
pub struct Found(Option<Guard<Option<Arc<Session>>>>, u32);

impl Found {
    /// The session, if there is one.
    #[inline]
    #[must_use]
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.0.as_ref()?.as_ref().filter(|session| session.index() == self.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::session::tests::session_with;

    #[test]
    fn a_session_is_found_under_its_index_alone() {
        let table = SessionTable::new(2);
        let index = table.claim(Protocol::Sealed, || Some(0xdead_beef)).unwrap();
        assert_eq!(index, 0xdead_bee0);
        assert!(table.is_claimed(index) && table.find(index).session().is_none());
        table.insert(Arc::new(session_with(index)));
        assert_eq!(table.find(index).session().unwrap().index(), index);
        // The same slot, another index.
        for other in [index ^ 0x8000_0000, index | 1] {
            assert!(table.find(other).session().is_none());
            table.release(other);
        }
        assert!(table.find(index).session().is_some());
        table.release(index);
        assert!(table.find(index).session().is_none() && !table.is_claimed(index));
        assert_eq!(table.claim(Protocol::WireGuard, || Some(0xdead_beef)), Some(0xdead_beef));
    }

    #[test]
    fn slots_are_claimed_once_and_zero_never() {
        let table = SessionTable::new(1);
        let mut numbers = [0, 5, 0x0001_0000, 0x0002_0000, 0x0002_0010].into_iter();
        let mut claim = || table.claim(Protocol::Sealed, || numbers.next());
        assert_eq!(claim(), Some(0x0001_0000));
        assert_eq!(claim(), Some(0x0002_0010), "0x20000 has the slot of 0x10000");
        assert_eq!(claim(), None);
        assert!(!table.is_claimed(0));
    }

    #[test]
    fn growing_keeps_what_there_is_and_makes_room() {
        let table = SessionTable::new(1);
        let mut numbers = (1..).map(|number: u32| number.wrapping_mul(0x9e37_79b0));
        let mut indices = Vec::new();
        for peers in [1, 2, 3, 5, 40, 40, 7, 1000] {
            table.grow(peers);
            while indices.len() < 4 * peers {
                let index = table.claim(Protocol::Sealed, || numbers.next()).unwrap();
                // Half of them are claimed for sessions to come.
                if index & 0x10 == 0 {
                    table.insert(Arc::new(session_with(index)));
                }
                indices.push(index);
            }
            assert_eq!(table.claimed(), indices.len());
            for index in &indices {
                assert!(table.is_claimed(*index));
                assert_eq!(
                    table.find(*index).session().map(|session| session.index()),
                    Some(*index).filter(|i| i & 0x10 == 0)
                );
            }
        }
        let found = table.find(indices[0]);
        for index in indices {
            table.release(index);
        }
        assert_eq!(table.claimed(), 0);
        drop(found);
    }

    #[test]
    fn who_reads_while_it_grows_finds_what_is_there_all_the_time() {
        let table = SessionTable::new(1);
        let kept = table.claim(Protocol::Sealed, || Some(0x1230)).unwrap();
        table.insert(Arc::new(session_with(kept)));
        let over = std::sync::atomic::AtomicBool::new(false);
        let held = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut looks = 0;
                        while !over.load(Ordering::Relaxed) || looks == 0 {
                            let found = table.find(kept);
                            assert_eq!(found.session().map(|session| session.index()), Some(kept));
                            looks += 1;
                        }
                        looks
                    })
                })
                .collect();
            let mut number = 1;
            for peers in 2..400 {
                table.grow(peers);
                let next = || {
                    number += 1;
                    Some(number << 4)
                };
                let index = table.claim(Protocol::Sealed, next).unwrap();
                table.insert(Arc::new(session_with(index)));
                if peers % 2 == 0 {
                    table.release(index);
                    assert!(table.find(index).session().is_none());
                }
            }
            over.store(true, Ordering::Relaxed);
            readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>()
        });
        assert!(held > 0);
    }

    #[test]
    fn a_session_that_is_released_after_growing_is_held_by_nobody() {
        let table = SessionTable::new(1);
        let index = table.claim(Protocol::Sealed, || Some(0x1230)).unwrap();
        let session = Arc::new(session_with(index));
        table.insert(Arc::clone(&session));
        table.grow(100);
        table.release(index);
        assert_eq!(Arc::strong_count(&session), 1, "its keys are erased with the last who holds it");
    }

    #[test]
    fn a_session_that_claimed_nothing_is_not_kept() {
        let table = SessionTable::new(1);
        table.insert(Arc::new(session_with(0x30)));
        assert!(table.find(0x30).session().is_none());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim(u32),
        Insert(usize),
        Release(usize),
        Grow(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Few indices, so that slots are asked for twice.
        prop_oneof![
            4 => (0u32..256).prop_map(|index| Step::Claim(index << 4)),
            2 => (0usize..64).prop_map(Step::Insert),
            2 => (0usize..64).prop_map(Step::Release),
            1 => (1usize..20).prop_map(Step::Grow),
        ]
    }

    proptest! {
        #[test]
        fn it_knows_what_a_plain_map_knows(steps in prop::collection::vec(step(), 1..200)) {
            let table = SessionTable::new(1);
            let (mut model, mut size) = (BTreeMap::<u32, bool>::new(), 16);
            for step in steps {
                let nth = |n: usize| model.keys().nth(n % model.len().max(1)).copied();
                match step {
                    Step::Claim(index) => {
                        let taken = index == 0 || model.keys().any(|other| (other >> 4) % size == (index >> 4) % size);
                        let mut once = Some(index);
                        let claimed = table.claim(Protocol::Sealed, || once.take());
                        prop_assert_eq!(claimed, Some(index).filter(|_| !taken));
                        model.extend(claimed.map(|index| (index, false)));
                    }
                    Step::Insert(n) => if let Some(index) = nth(n) {
                        table.insert(Arc::new(session_with(index)));
                        model.insert(index, true);
                    },
                    Step::Release(n) => if let Some(index) = nth(n) {
                        table.release(index);
                        model.remove(&index);
                    },
                    Step::Grow(peers) => {
                        table.grow(peers);
                        size = size.max((16 * peers as u32).next_power_of_two());
                    }
                }
                prop_assert_eq!(table.claimed(), model.len());
                for index in (0..256).map(|index| index << 4) {
                    prop_assert_eq!(table.is_claimed(index), model.contains_key(&index));
                    prop_assert_eq!(table.find(index).session().is_some(), model.get(&index) == Some(&true));
                }
            }
        }
    }
}
