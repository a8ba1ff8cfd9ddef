//! How large a packet the way to a peer takes at this moment, for a person who asks: seconds instead of the half minute that
//! `MtuSearch` (`probe.rs`) takes its time for, which nobody waits for.
//!
//! 1. The largest size and the smallest are tried at the same time, three times each. If both come back, that is all.
//! 2. If only the smallest does, something on the way swallows large ones: four sizes at a time divide what is left, twice each, until it is
//!    narrow enough.
//! 3. If none does, nothing can be said of sizes.
//!
//! A peer answers ten probes in a second, of which some are others'; so no round has more than eight.

use std::time::Duration;

use crate::time::Time;

/// Packets of this size pass everywhere: IPv6 needs 1280 bytes outside (RFC 8200, section 5), of which headers take 80.
const BASE: usize = 1200;

/// Below this it is exact enough.
const PRECISION: usize = 8;

/// Between two tries of the same probe. The first waits a little less, since it may be lost by chance.
const PAUSE: Duration = Duration::from_millis(400);

/// Tries in the first round, and in each after it.
const TRIES: (u32, u32) = (3, 2);

/// Sizes in a round after the first.
const WIDTH: usize = 4;

/// What was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The largest inner packet that went there and was answered, in bytes; 0 if none was.
    pub size: usize,
    /// The largest that was tried: what the first link permits.
    pub target: usize,
    /// The shortest time from a probe to its answer.
    pub round_trip: Option<Duration>,
    /// Whether it is over.
    pub done: bool,
}

impl Measured {
    /// Whether large packets vanish where small ones pass.
    #[must_use]
    pub fn is_black_hole(&self) -> bool {
        self.size != 0 && self.size < self.target
    }
}

#[derive(Debug)]
struct Probe {
    id: u64,
    size: usize,
    answered: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gauge {
    passed: usize,
    lost: usize,
    found: Measured,
    probes: Vec<Probe>,
    sent: Time,
    tries: u32,
}

impl Gauge {
    /// Begins to measure sizes up to `target`; `number` gives numbers that nobody can guess.
    pub(crate) fn new(target: usize, now: Time, mut number: impl FnMut() -> u64) -> Self {
        let mut sizes = vec![target, BASE.min(target)];
        sizes.dedup();
        let probes = sizes.into_iter().map(|size| Probe { id: number(), size, answered: false }).collect();
        let found = Measured { target, ..Measured::default() };
        // Due at once.
        Self { passed: 0, lost: target + 1, found, probes, sent: now - PAUSE, tries: TRIES.0 }
    }

    /// What is known by now.
    pub(crate) fn measured(&self) -> Measured {
        self.found
    }

    /// When [`step`](Self::step) has something to do.
    pub(crate) fn due(&self) -> Option<Time> {
        (!self.found.done).then_some(self.sent + PAUSE)
    }

    /// Takes an answer; says whether it was one.
    pub(crate) fn answered(&mut self, id: u64, now: Time) -> bool {
        let Some(probe) = self.probes.iter_mut().find(|probe| probe.id == id) else { return false };
        probe.answered = true;
        self.passed = self.passed.max(probe.size);
        self.found.size = self.found.size.max(probe.size);
        // The time since the latest try, which is too short rather than too long where an earlier one was answered.
        let since = now.since(self.sent);
        self.found.round_trip = Some(self.found.round_trip.map_or(since, |known| known.min(since)));
        if self.passed >= self.found.target {
            self.found.done = true;
        }
        true
    }

    /// The probes to send now, by size and number.
    pub(crate) fn step(&mut self, now: Time, number: impl FnMut() -> u64) -> Vec<(usize, u64)> {
        if self.found.done || now.since(self.sent) < PAUSE {
            return Vec::new();
        }
        let waiting = self.probes.iter().any(|probe| !probe.answered);
        if self.tries == 0 || !waiting {
            self.conclude(number);
            if self.found.done {
                return Vec::new();
            }
        }
        self.sent = now;
        self.tries = self.tries.saturating_sub(1);
        self.probes.iter().filter(|probe| !probe.answered).map(|probe| (probe.size, probe.id)).collect()
    }

    /// Chooses the sizes of another round, or ends.
    fn conclude(&mut self, mut number: impl FnMut() -> u64) {
        // A size above one that passed and was lost all the same is what is looked for; one below was lost by chance.
        let lost =
            self.probes.iter().filter(|probe| !probe.answered && probe.size > self.passed).map(|probe| probe.size);
        self.lost = lost.min().unwrap_or(self.lost).min(self.lost);
        let left = self.lost.saturating_sub(self.passed);
        if self.passed == 0 || left <= PRECISION {
            self.found.done = true;
            return;
        }
        let passed = self.passed;
        let sizes = (1..=WIDTH).map(|part| passed + left * part / (WIDTH + 1)).filter(|size| *size > passed);
        self.probes = sizes.map(|size| Probe { id: number(), size, answered: false }).collect();
        self.tries = TRIES.1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time::from_nanos(1_000_000_000_000);

    /// Measures a path that takes packets up to `path` (none if 0); answers what was found, how many probes went and how long it took.
    fn measure(target: usize, path: usize) -> (Measured, usize, Duration) {
        let (mut now, mut id, mut sent) = (NOW, 0, 0);
        let mut number = move || {
            id += 1;
            id
        };
        let mut gauge = Gauge::new(target, now, &mut number);
        while let Some(due) = gauge.due() {
            now = now.max(due);
            let probes = gauge.step(now, &mut number);
            assert!(probes.len() <= WIDTH.max(2));
            sent += probes.len();
            now = now + Duration::from_millis(20);
            for (_, id) in probes.into_iter().filter(|(size, _)| *size <= path) {
                assert!(gauge.answered(id, now));
                assert!(!gauge.answered(id + 1_000_000, now));
            }
        }
        (gauge.measured(), sent, now.since(NOW))
    }

    #[test]
    fn an_open_path_takes_one_round_trip() {
        let (found, sent, took) = measure(1440, 1440);
        assert_eq!((found.size, found.done, found.is_black_hole(), sent), (1440, true, false, 2));
        assert_eq!((found.round_trip, took), (Some(Duration::from_millis(20)), Duration::from_millis(20)));
    }

    #[test]
    fn a_dead_peer_says_nothing_about_sizes() {
        let (found, sent, took) = measure(1440, 0);
        assert_eq!((found.size, found.done, found.is_black_hole(), sent), (0, true, false, 6));
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn a_black_hole_is_measured_within_seconds() {
        let (found, _, took) = measure(8940, 1352);
        assert!(found.is_black_hole() && (1344..=1352).contains(&found.size), "{found:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }

    proptest! {
        #[test]
        fn whatever_the_path_takes_is_found(target in 600usize..9000, path in 0usize..9000) {
            let (found, sent, took) = measure(target, path);
            prop_assert!(found.done && sent < 60 && took < Duration::from_secs(10), "{:?}", took);
            if path >= target {
                prop_assert_eq!(found.size, target);
            } else if path < BASE.min(target) {
                prop_assert_eq!(found.size, 0);
            } else {
                prop_assert!(found.size <= path && path - found.size <= PRECISION, "{}", found.size);
            }
        }
    }
}
