//! Pauses between tries, of which no two are alike, so that many nodes do not come back at the same moment.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest, unless it is given.
const LONGEST: Duration = Duration::from_secs(5);
/// What has worked for so long was no false start.
const STEADY: Duration = Duration::from_secs(5);

/// How long to wait before the next try.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    since: Option<Instant>,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// Pauses that are never longer than this.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { failures: 0, since: None, longest }
    }

    /// Something began to work.
    pub(crate) fn began(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// It ended, or did not begin: the pause before the next try. The first one is none, if it had worked for a while.
    pub(crate) fn pause(&mut self, now: Instant) -> Duration {
        if self.since.take().is_some_and(|since| now.duration_since(since) >= STEADY) {
            self.failures = 0;
            return Duration::ZERO;
        }
        let pause = SHORTEST.saturating_mul(1 << self.failures.min(10)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        jitter(pause)
    }
}

/// Between half of it and all of it.
pub(crate) fn jitter(duration: Duration) -> Duration {
    duration / 2 + (duration / 2).mul_f64(random() as f64 / u64::MAX as f64)
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness pauses are merely equal.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_again_after_a_while_that_worked() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let mut last = Duration::ZERO;
        for doubling in 0..6 {
            let pause = backoff.pause(start);
            let whole = SHORTEST * (1 << doubling);
            assert!(pause.min(LONGEST) >= whole.min(LONGEST) / 2 && pause <= whole.min(LONGEST), "{pause:?}");
            last = pause;
        }
        assert!(last >= LONGEST / 4);
        backoff.began(start);
        assert!(backoff.pause(start + STEADY / 2) >= LONGEST / 2, "a false start changes nothing");
        backoff.began(start);
        assert_eq!(backoff.pause(start + STEADY), Duration::ZERO);
        assert!(backoff.pause(start + STEADY) <= SHORTEST);
        for _ in 0..100 {
            assert!(backoff.pause(start) <= LONGEST);
        }
    }
}
