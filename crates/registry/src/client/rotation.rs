//! Which of several endpoints is asked: the one that answered last, then the others; those that failed lately last.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::jitter;

/// How long an endpoint is avoided after its first failure.
const SHORTEST: Duration = Duration::from_secs(1);
/// And after many.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) struct Rotation {
    current: usize,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Copy, Default)]
struct Endpoint {
    failures: u32,
    avoid_until: Option<Instant>,
}

impl Rotation {
    /// `seed` chooses the first one, so that not all nodes ask the same.
    pub(super) fn new(count: usize, seed: usize) -> Self {
        Self { current: seed.checked_rem(count).unwrap_or(0), endpoints: vec![Endpoint::default(); count] }
    }

    /// All endpoints, in the order in which they are asked. The avoided ones come last, not never: they may be all there are.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let count = self.endpoints.len();
        let mut order: Vec<usize> = (0..count).map(|step| (self.current + step) % count).collect();
        let avoided = |index: &usize| self.endpoints.get(*index)?.avoid_until.filter(|until| *until > now);
        order.sort_by_key(avoided);
        order
    }

    pub(super) fn worked(&mut self, index: usize) {
        if let Some(endpoint) = self.endpoints.get_mut(index) {
            *endpoint = Endpoint::default();
            self.current = index;
        }
    }

    pub(super) fn failed(&mut self, index: usize, now: Instant) {
        if let Some(endpoint) = self.endpoints.get_mut(index) {
            // Calls that were under way together count as one failure.
            if endpoint.avoid_until.is_some_and(|until| until > now) {
                return;
            }
            let pause = SHORTEST.saturating_mul(1 << endpoint.failures.min(10)).min(LONGEST);
            endpoint.failures = endpoint.failures.saturating_add(1);
            endpoint.avoid_until = Some(now + jitter(pause));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_answered_last_is_asked_first() {
        let now = Instant::now();
        let mut rotation = Rotation::new(3, 7);
        assert_eq!(rotation.order(now), [1, 2, 0]);
        rotation.worked(2);
        assert_eq!(rotation.order(now), [2, 0, 1]);
    }

    #[test]
    fn one_that_fails_is_avoided_for_a_growing_time() {
        let mut now = Instant::now();
        let mut rotation = Rotation::new(3, 0);
        let mut longest = Duration::ZERO;
        for _ in 0..12 {
            rotation.failed(0, now);
            rotation.failed(0, now);
            assert_eq!(rotation.order(now), [1, 2, 0]);
            let before = now;
            while rotation.order(now) != [0, 1, 2] {
                now += SHORTEST / 4;
            }
            assert!(now - before + SHORTEST * 31 >= longest / 2 && now - before <= LONGEST + SHORTEST);
            longest = longest.max(now - before);
        }
        assert!(longest >= LONGEST / 2);
        rotation.worked(0);
        rotation.failed(0, now);
        assert_eq!(rotation.order(now + SHORTEST), [0, 1, 2], "it worked: the time begins anew");
    }

    #[test]
    fn when_all_fail_the_first_to_be_forgiven_is_asked_first() {
        let now = Instant::now();
        let mut rotation = Rotation::new(2, 0);
        rotation.failed(1, now);
        rotation.failed(0, now + SHORTEST * 3);
        assert_eq!(rotation.order(now + SHORTEST * 3), [1, 0]);
        assert_eq!(Rotation::new(0, 5).order(now), Vec::<usize>::new());
    }
}
