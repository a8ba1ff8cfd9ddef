//! The timestamps of initiations: always later than the last one, also after a restart and when the wall clock goes back.
//!
//! A responder takes an initiation only if it is later than all before it from the same key. So a node must never fall back: it keeps a
//! *mark* on disk that is ahead of every timestamp in use, and begins above it. That way the file is written once in ten minutes
//! and not once per handshake.

use std::time::Duration;

use wire::message::Tai64n;

/// Seconds of TAI64 at the start of UNIX time, 10 leap seconds included (WireGuard's own offset; later leap seconds are ignored
/// by all its implementations).
const EPOCH: u64 = (1 << 62) + 10;

/// Timestamps are cut to 2^24 ns, so that they say little about the load of a machine (WireGuard whitepaper, section 5.4.2 names
/// the leak; drivers/net/wireguard/noise.c the remedy). It is also the step between two that would be equal.
const TICK: u64 = 1 << 24;

const SECOND: u64 = 1_000_000_000;

/// How far a new mark lies ahead of the clock.
const AHEAD: Duration = Duration::from_secs(600);

/// A mark nearer than this is replaced in good time.
const LEAST_AHEAD: Duration = Duration::from_secs(300);

/// The last timestamp that was used, and the mark that none may pass. Both in nanoseconds since 1970.
#[derive(Debug)]
pub struct Stamps {
    last: u64,
    mark: u64,
}

impl Stamps {
    /// Timestamps above `mark`, which an earlier run left (zero if there was none).
    #[must_use]
    pub fn after(mark: Duration) -> Self {
        let mark = nanos(mark);
        Self { last: mark, mark }
    }

    /// The mark that should be on disk by now, if it is another than the one there. `wall` is the time since 1970.
    #[must_use]
    pub fn wanted_mark(&self, wall: Duration) -> Option<Duration> {
        let base = nanos(wall).max(self.last);
        let near = self.mark < base.saturating_add(nanos(LEAST_AHEAD));
        near.then(|| Duration::from_nanos(base.saturating_add(nanos(AHEAD))))
    }

    /// Says that `mark` is on disk.
    pub fn marked(&mut self, mark: Duration) {
        self.mark = self.mark.max(nanos(mark));
    }

    /// The next timestamp; `None` while it would pass the mark.
    pub fn next(&mut self, wall: Duration) -> Option<Tai64n> {
        let next = (nanos(wall) / TICK * TICK).max((self.last / TICK + 1).saturating_mul(TICK));
        if next > self.mark {
            return None;
        }
        self.last = next;
        let mut bytes = [0; 12];
        let (seconds, rest) = bytes.split_at_mut(8);
        seconds.copy_from_slice(&(EPOCH + next / SECOND).to_be_bytes());
        rest.copy_from_slice(&((next % SECOND) as u32).to_be_bytes());
        Some(Tai64n(bytes))
    }
}

fn nanos(span: Duration) -> u64 {
    // The year 2554.
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_000_000);

    fn ready(mark: Duration, wall: Duration) -> Stamps {
        let mut stamps = Stamps::after(mark);
        if let Some(mark) = stamps.wanted_mark(wall) {
            stamps.marked(mark);
        }
        stamps
    }

    #[test]
    fn nothing_is_used_before_its_mark_is_on_disk() {
        let mut stamps = Stamps::after(Duration::ZERO);
        assert_eq!(stamps.next(NOW), None);
        let mark = stamps.wanted_mark(NOW).unwrap();
        assert_eq!(mark, NOW + AHEAD);
        stamps.marked(mark);
        assert!(stamps.next(NOW).is_some());
        assert_eq!(stamps.wanted_mark(NOW), None);
        assert!(stamps.wanted_mark(NOW + AHEAD / 2 + Duration::from_secs(1)).is_some());
        assert_eq!(stamps.next(NOW + AHEAD + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_restart_and_a_clock_in_1970_go_on_above() {
        let mut before = ready(Duration::ZERO, NOW);
        let last = before.next(NOW).unwrap();
        let mut after = ready(NOW + AHEAD, Duration::from_secs(5));
        let first = after.next(Duration::from_secs(5)).unwrap();
        assert!(first > last);
        assert!(after.next(Duration::from_secs(5)).unwrap() > first);
        // And when the clock is right again nothing jumps.
        assert!(after.next(NOW).unwrap() > first);
    }

    #[test]
    fn the_form_is_that_of_tai64n() {
        let Tai64n(bytes) = ready(Duration::ZERO, Duration::from_secs(1)).next(Duration::from_secs(1)).unwrap();
        assert_eq!(bytes[..8], [0x40, 0, 0, 0, 0, 0, 0, 0x0a], "cut to the tick before 1 s: 0.99 s");
        assert_eq!(u32::from_be_bytes(bytes[8..].try_into().unwrap()), 59 * (1 << 24));
    }

    proptest! {
        #[test]
        fn timestamps_only_grow(walls in prop::collection::vec(0u64..4_000_000_000_000, 1..200)) {
            let mut stamps = Stamps::after(Duration::ZERO);
            let mut last = None;
            for wall in walls.into_iter().map(Duration::from_millis) {
                if let Some(mark) = stamps.wanted_mark(wall) {
                    stamps.marked(mark);
                }
                let next = stamps.next(wall);
                prop_assert!(next.is_some() && next > last);
                last = next;
            }
        }

        #[test]
        fn no_clock_makes_it_panic(mark: u64, wall: u64) {
            let mut stamps = ready(Duration::from_nanos(mark), Duration::from_nanos(wall));
            let _ = stamps.next(Duration::from_nanos(wall));
        }
    }
}
