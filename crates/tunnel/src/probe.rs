//! What a sealed session's probes find out: whether a new address wants what is sent to it, and how large a packet a path takes.
//!
//! Both ask and wait: a probe carries a random number, which only the peer can send back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::remote::Path;
use crate::time::Time;

/// How long a probe is waited for. Longer than any usual round trip.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often one is sent before it counts as lost for a reason.
const TRIES: u32 = 3;

/// Inner packets of this size pass everywhere: IPv6 needs 1280 bytes outside (RFC 8200, section 5), of which headers take 80.
const BASE: usize = 1200;

/// Below this the search is exact enough.
const PRECISION: usize = 8;

/// How long a result below what the first link permits is believed (PMTU_RAISE_TIMER of RFC 8899, section 5.1.1).
const RAISE: Duration = Duration::from_secs(600);

/// A probe on its way.
#[derive(Debug)]
struct Flight {
    id: u64,
    sent: Time,
    tries: u32,
}

impl Flight {
    fn new(id: u64, now: Time) -> Self {
        Self { id, sent: now, tries: 1 }
    }

    fn is_due(&self, now: Time) -> bool {
        now.since(self.sent) >= PATIENCE
    }
}

/// Whether somebody at a new address wants what is sent there.
#[derive(Debug)]
pub(crate) struct Validation {
    /// The new address.
    pub(crate) address: SocketAddr,
    /// Where to go back to if nobody answers.
    pub(crate) fallback: Option<Arc<Path>>,
    flight: Flight,
}

/// What a [`Validation`] wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait until then.
    Wait(Time),
    /// Send the probe (again), with this number.
    Send(u64),
    /// Nobody answers.
    Failed,
}

impl Validation {
    /// Begins; the probe with number `id` is to be sent now.
    pub(crate) fn new(address: SocketAddr, fallback: Option<Arc<Path>>, id: u64, now: Time) -> Self {
        Self { address, fallback, flight: Flight::new(id, now) }
    }

    /// Whether this is the answer.
    pub(crate) fn is_answered_by(&self, id: u64, from: SocketAddr) -> bool {
        id == self.flight.id && from == self.address
    }

    /// When [`step`](Self::step) has something to do.
    pub(crate) fn due(&self) -> Time {
        self.flight.sent + PATIENCE
    }

    /// What is to be done.
    pub(crate) fn step(&mut self, now: Time) -> Step {
        if !self.flight.is_due(now) {
            return Step::Wait(self.flight.sent + PATIENCE);
        }
        if self.flight.tries >= TRIES {
            return Step::Failed;
        }
        self.flight = Flight { sent: now, tries: self.flight.tries + 1, ..self.flight };
        Step::Send(self.flight.id)
    }
}

/// How large a packet the path to a peer takes: what the first link permits, unless probes of that size are lost where small ones are
/// not (a *black hole*: RFC 8899). All sizes are of inner packets.
#[derive(Debug, Default)]
pub(crate) struct MtuSearch {
    /// What the first link permits; 0 while nobody said.
    target: usize,
    /// The largest size that an answer came to, and the smallest that none came to.
    passed: usize,
    lost: usize,
    size: usize,
    flight: Option<Flight>,
    /// What was found.
    found: usize,
    at: Time,
}

/// What an [`MtuSearch`] wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing.
    Rest,
    /// Wait until then.
    Wait(Time),
    /// Send a probe of this many bytes, as large as an inner packet, with this number.
    Send(usize, u64),
}

impl MtuSearch {
    /// What is known now: the largest packet that the path takes.
    pub(crate) fn mtu(&self) -> usize {
        if self.found == 0 { self.target } else { self.found.min(self.target) }
    }

    /// What the first link permits; 0 while nobody said.
    pub(crate) fn target(&self) -> usize {
        self.target
    }

    /// Says what the first link permits.
    pub(crate) fn set_target(&mut self, target: usize) {
        if target != self.target {
            *self = Self { target, ..Self::default() };
        }
    }

    /// Forgets what was found: the path is another one.
    pub(crate) fn forget(&mut self) {
        *self = Self { target: self.target, ..Self::default() };
    }

    /// Whether nobody looked yet.
    pub(crate) fn is_untried(&self) -> bool {
        self.target != 0 && self.flight.is_none() && self.at == Time::NEVER
    }

    /// Begins to look, if nothing is known or what is known is old.
    pub(crate) fn begin(&mut self, id: u64, now: Time) {
        let fresh = self.found != 0 && self.found < self.target && now.since(self.at) < RAISE;
        if self.target == 0 || self.flight.is_some() || fresh {
            return;
        }
        (self.passed, self.lost) = (0, self.target + 1);
        self.send(self.target, id, now);
    }

    fn send(&mut self, size: usize, id: u64, now: Time) {
        self.size = size;
        // Due at once.
        self.flight = Some(Flight { id, sent: now - PATIENCE, tries: 0 });
    }

    /// How long the probe with this number was under way that is answered now; nothing if it was sent more than once, since nobody knows which
    /// of them is meant.
    pub(crate) fn round_trip(&self, id: u64, now: Time) -> Option<Duration> {
        let flight = self.flight.as_ref().filter(|flight| flight.id == id && flight.tries == 1)?;
        Some(now.since(flight.sent))
    }

    /// Takes an answer; says whether it was one, and continues with a probe of number `next`.
    pub(crate) fn answered(&mut self, id: u64, next: u64, now: Time) -> bool {
        if self.flight.as_ref().is_none_or(|flight| flight.id != id) {
            return false;
        }
        self.flight = None;
        self.passed = self.passed.max(self.size);
        self.go_on(next, now);
        true
    }

    /// When [`look`](Self::look) has something to do.
    pub(crate) fn due(&self) -> Option<Time> {
        self.flight.as_ref().map(|flight| flight.sent + PATIENCE)
    }

    /// What is to be done; `next` is the number of a further probe.
    pub(crate) fn look(&mut self, next: u64, now: Time) -> Look {
        let Some(flight) = &mut self.flight else { return Look::Rest };
        if !flight.is_due(now) {
            return Look::Wait(flight.sent + PATIENCE);
        }
        if flight.tries < TRIES {
            *flight = Flight { id: flight.id, sent: now, tries: flight.tries + 1 };
            return Look::Send(self.size, flight.id);
        }
        self.flight = None;
        self.lost = self.lost.min(self.size);
        if self.size <= BASE {
            // Nothing passes: that is no matter of size.
            (self.found, self.at) = (0, now);
            return Look::Rest;
        }
        self.go_on(next, now);
        self.look(next, now)
    }

    /// Chooses the next size, or ends.
    fn go_on(&mut self, next: u64, now: Time) {
        let (passed, lost) = (self.passed, self.lost);
        self.at = now;
        if passed == 0 {
            self.send(BASE.min(self.target), next, now);
        } else if lost - passed <= PRECISION || passed == self.target {
            self.found = passed;
        } else {
            // What is proved already counts at once.
            self.found = passed;
            self.send(passed + (lost - passed) / 2, next, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time::from_nanos(1_000_000_000_000);

    /// Looks until the end on a path that takes packets up to `path` (none if 0); answers the probes sent and the time it took.
    fn search(mtu: &mut MtuSearch, path: usize) -> (Vec<usize>, Duration) {
        let (mut now, mut id, mut sizes) = (NOW, 0, Vec::new());
        mtu.begin(id, now);
        loop {
            id += 1;
            match mtu.look(id, now) {
                Look::Rest => return (sizes, now.since(NOW)),
                Look::Wait(until) => now = until,
                Look::Send(size, number) => {
                    sizes.push(size);
                    if size <= path {
                        now = now + Duration::from_millis(20);
                        assert_eq!(mtu.round_trip(number, now), Some(Duration::from_millis(20)));
                        assert_eq!(mtu.round_trip(number.wrapping_add(1000), now), None);
                        assert!(!mtu.answered(number.wrapping_add(1000), 0, now));
                        assert!(mtu.answered(number, id + 500, now));
                        assert!(!mtu.answered(number, 0, now), "an answer counts once");
                    }
                }
            }
        }
    }

    fn target(target: usize) -> MtuSearch {
        let mut search = MtuSearch::default();
        search.set_target(target);
        search
    }

    #[test]
    fn an_open_path_takes_one_probe() {
        let mut mtu = target(1440);
        assert_eq!(search(&mut mtu, 1440).0, [1440]);
        assert_eq!(mtu.mtu(), 1440);
    }

    #[test]
    fn a_black_hole_is_found_and_looked_at_again_later() {
        let mut mtu = target(8940);
        search(&mut mtu, 1440);
        assert!((1433..=1440).contains(&mtu.mtu()), "{}", mtu.mtu());
        mtu.begin(1, NOW + Duration::from_secs(300));
        assert_eq!(mtu.look(2, NOW + Duration::from_secs(300)), Look::Rest, "known");
        mtu.begin(1, NOW + Duration::from_secs(1000));
        assert_eq!(mtu.look(2, NOW + Duration::from_secs(1000)), Look::Send(8940, 1));
        assert_eq!(mtu.look(2, NOW + Duration::from_secs(1002)), Look::Send(8940, 1));
        assert_eq!(mtu.round_trip(1, NOW + Duration::from_secs(1002)), None, "nobody knows which of the two");
        mtu.set_target(1300);
        assert_eq!(mtu.mtu(), 1300);
    }

    #[test]
    fn a_dead_peer_says_nothing_about_sizes() {
        let mut mtu = target(1440);
        assert_eq!(search(&mut mtu, 0).0, [1440, 1440, 1440, 1200, 1200, 1200]);
        assert_eq!(mtu.mtu(), 1440);
        let mut narrow = target(1000);
        assert_eq!(search(&mut narrow, 0).0, [1000; 3]);
        assert_eq!(narrow.mtu(), 1000);
    }

    #[test]
    fn an_address_is_asked_three_times() {
        let address = "192.0.2.7:7".parse().unwrap();
        let mut validation = Validation::new(address, None, 42, NOW);
        assert_eq!(validation.step(NOW), Step::Wait(NOW + PATIENCE));
        assert_eq!(validation.step(NOW + PATIENCE), Step::Send(42));
        assert_eq!(validation.step(NOW + PATIENCE * 2), Step::Send(42));
        assert_eq!(validation.step(NOW + PATIENCE * 3), Step::Failed);
        assert!(validation.is_answered_by(42, address));
        assert!(
            !validation.is_answered_by(43, address) && !validation.is_answered_by(42, "192.0.2.7:8".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn whatever_the_path_takes_is_found(goal in 600usize..9000, path in 0usize..9000) {
            let mut mtu = target(goal);
            let (sizes, spent) = search(&mut mtu, path);
            prop_assert!(sizes.len() < 60 && spent < Duration::from_secs(90));
            if path >= goal || path < BASE.min(goal) {
                prop_assert_eq!(mtu.mtu(), goal);
            } else {
                prop_assert!(mtu.mtu() <= path && path - mtu.mtu() <= PRECISION);
            }
        }
    }
}
