//! Who is out, for good, and whether we were told of everybody.

use std::collections::{BTreeMap, BTreeSet};

use crate::trust::{Serial, Tombstone};

/// As many missing numbers are named.
const NAMED: usize = 16;

/// All removals that we know of.
#[derive(Default)]
pub(super) struct Removals {
    /// With the signed bytes.
    known: BTreeMap<Tombstone, Vec<u8>>,
    serials: BTreeSet<Serial>,
    /// As many there are, by the word of a bundle.
    claimed: u64,
}

impl Removals {
    /// Takes in a tombstone; whether it is a new one. Two with one number count both: what was said once is not unsaid.
    pub(super) fn add(&mut self, tombstone: Tombstone, signed: Vec<u8>) -> bool {
        self.serials.insert(tombstone.serial);
        self.known.insert(tombstone, signed).is_none()
    }

    /// Takes in how many there are; whether that is more than was known.
    pub(super) fn claim(&mut self, count: u64) -> bool {
        let more = count > self.claimed;
        self.claimed = self.claimed.max(count);
        more
    }

    pub(super) fn is_removed(&self, serial: Serial) -> bool {
        self.serials.contains(&serial)
    }

    pub(super) fn known(&self) -> impl Iterator<Item = (&Tombstone, &Vec<u8>)> {
        self.known.iter()
    }

    pub(super) fn claimed(&self) -> u64 {
        self.claimed
    }

    /// The first numbers that should be there and are not.
    pub(super) fn missing(&self) -> Vec<u64> {
        let mut missing = Vec::new();
        let mut next = 1;
        let numbers = self.known.keys().map(|tombstone| tombstone.number);
        for number in numbers.chain(self.claimed.checked_add(1)) {
            missing.extend((next..number).take(NAMED.saturating_sub(missing.len())));
            next = next.max(number.saturating_add(1));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_missing_and_so_is_what_a_bundle_counted() {
        let mut removals = Removals::default();
        assert!(removals.missing().is_empty());
        let tombstone = |number| Tombstone { number, serial: number.wrapping_add(100) };
        assert!(removals.add(tombstone(2), Vec::new()));
        assert_eq!(removals.missing(), [1]);
        assert!(removals.claim(4));
        assert!(!removals.claim(3));
        assert_eq!(removals.missing(), [1, 3, 4]);
        for number in [1, 3, 4] {
            assert!(removals.add(tombstone(number), Vec::new()));
            assert!(!removals.add(tombstone(number), Vec::new()));
        }
        assert!(removals.missing().is_empty());
        removals.add(tombstone(u64::MAX), Vec::new());
        assert_eq!(removals.missing(), (5..21).collect::<Vec<_>>());
        assert!(removals.is_removed(104) && !removals.is_removed(4));
    }
}
