//! How many handshakes a node computes per second: each costs Diffie-Hellman operations, which strangers can ask for.
//!
//! There is one budget per transport, so that neither can starve the other, and half of it is kept for addresses where a peer is
//! known to be: a flood from everywhere leaves them room.

use crate::time::Time;

/// Handshakes per second and transport. One costs about 0.2 ms, so that a budget that is used up costs a twelfth of a core.
const PER_SECOND: u64 = 400;

/// How many may come at once: a tenth of a second's.
const BURST: u64 = PER_SECOND / 10;

const NANOS: u64 = 1_000_000_000;

/// The budget of one transport.
#[derive(Debug, Default)]
pub(crate) struct Work {
    open: Bucket,
    reserved: Bucket,
}

impl Work {
    /// Takes one handshake; answers whether it may be computed.
    pub(crate) fn take(&mut self, now: Time, known: bool) -> bool {
        (known && self.reserved.take(now)) || self.open.take(now)
    }
}

/// Half of the budget: the time until which it is used up (a leaky bucket in nanoseconds).
#[derive(Debug, Default)]
struct Bucket {
    used_until: u64,
}

impl Bucket {
    fn take(&mut self, now: Time) -> bool {
        const EACH: u64 = NANOS / (PER_SECOND / 2);
        let (now, from) = (now.as_nanos(), self.used_until.max(now.as_nanos()));
        let fits = from - now <= (BURST / 2 - 1) * EACH;
        if fits {
            self.used_until = from.saturating_add(EACH);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(work: &mut Work, known: bool, millis: std::ops::Range<u64>) -> u64 {
        // A hundred asked for in every millisecond.
        let mut ask = |milli: u64| {
            (0..100).filter(|_| work.take(Time::from_nanos((1 + milli) * 1_000_000), known)).count() as u64
        };
        millis.map(&mut ask).sum()
    }

    #[test]
    fn a_flood_gets_its_half_and_known_addresses_both() {
        let mut work = Work::default();
        let flood = taken(&mut work, false, 0..1000);
        assert!((PER_SECOND / 2..=PER_SECOND / 2 + BURST).contains(&flood), "{flood}");
        let mut known = Work::default();
        let both = taken(&mut known, true, 0..1000);
        assert!((PER_SECOND..=PER_SECOND + BURST).contains(&both), "{both}");
        // With the open half gone, what is reserved is there.
        assert!(!work.take(Time::from_nanos(1_000_000_000), false) && work.take(Time::from_nanos(1_000_000_000), true));
    }
}
