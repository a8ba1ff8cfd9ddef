//! Sessions by the index that their datagrams carry, found without a lock.
//!
//! We choose the indices of what we receive. Each claims one slot of a fixed table, named by some of its bits; the others
//! are random, so that nobody off the path can guess an index that is in use. The four lowest bits are those that steer
//! a datagram to a worker ([`LANE_MASK`]): in the data messages of `sealed` the sender writes the lane of a flow there, and they are zero
//! in our index; WireGuard sends our index as it is, and they are random, so that sessions spread over the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwapOption, Guard};
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
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    /// The index that claims it; 0 if it is free.
    index: AtomicU32,
    session: ArcSwapOption<Session>,
}

impl SessionTable {
    /// A table for as many peers.
    #[must_use]
    pub fn new(peers: usize) -> Self {
        let slots = (peers.max(1) * SLOTS_PER_PEER).next_power_of_two();
        Self { slots: (0..slots).map(|_| Slot::default()).collect() }
    }

    /// Claims an index for a session to come; `random` gives numbers nobody can guess. `None` if the table is crowded.
    pub fn claim(&self, protocol: Protocol, mut random: impl FnMut() -> Option<u32>) -> Option<u32> {
        let fixed = if protocol == Protocol::Sealed { LANE_MASK } else { 0 };
        for _ in 0..TRIES {
            let index = random()? & !fixed;
            // 0 marks a free slot.
            if index == 0 {
                continue;
            }
            let slot = self.slot(index)?;
            if slot.index.compare_exchange(0, index, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(index);
            }
        }
        None
    }

    /// How many indices are claimed.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn claimed(&self) -> usize {
        self.slots.iter().filter(|slot| slot.index.load(Ordering::Acquire) != 0).count()
    }

    /// Whether somebody claims `index`.
    #[inline]
    #[must_use]
    pub fn is_claimed(&self, index: u32) -> bool {
        index != 0 && self.slot(index).is_some_and(|slot| slot.index.load(Ordering::Acquire) == index)
    }

    /// Puts the session under its own index, which must have been claimed.
    pub fn insert(&self, session: Arc<Session>) {
        let index = session.index();
        if let Some(slot) = self.slot(index).filter(|slot| slot.index.load(Ordering::Acquire) == index) {
            slot.session.store(Some(session));
        }
    }

    /// Frees an index; its session is not found any more.
    pub fn release(&self, index: u32) {
        if self.is_claimed(index)
            && let Some(slot) = self.slot(index)
        {
            slot.session.store(None);
            slot.index.store(0, Ordering::Release);
        }
    }

    /// The session with this index, which is [`DataHeader::index`](wire::message::DataHeader::index) of a data message.
    #[inline]
    #[must_use]
    pub fn find(&self, index: u32) -> Found {
        Found(self.slot(index).map(|slot| slot.session.load()), index)
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot> {
        // A power of two, so that the mask keeps every number below the length.
        self.slots.get((index >> LANE_MASK.count_ones()) as usize & (self.slots.len() - 1))
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
    fn a_session_that_claimed_nothing_is_not_kept() {
        let table = SessionTable::new(1);
        table.insert(Arc::new(session_with(0x30)));
        assert!(table.find(0x30).session().is_none());
    }
}
