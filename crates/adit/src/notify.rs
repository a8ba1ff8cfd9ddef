//! What the service manager is told (sd_notify(3)), where there is one: ready, reloading, stopping, and that control is alive.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The tunnel is up, or what was asked for on the way is done; `status` is for people.
pub fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again. [`ready`] follows, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!("cannot notify the service manager: {e}"),
    }
}

/// The end has begun.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {e}");
    }
}

/// Who must hear from us from time to time, or ends us as dead (WatchdogSec= of a unit).
pub struct Watchdog {
    every: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// As the environment says; without, nobody waits.
    pub fn of_environment() -> Self {
        // Half of what it waits for, so that being late once does no harm.
        Self::every(sd_notify::watchdog_enabled().map(|patience| patience / 2), Instant::now())
    }

    fn every(every: Option<Duration>, now: Instant) -> Self {
        Self { every, next: now }
    }

    /// How long it may still be until the next [`look`](Self::look).
    pub fn wait(&self, now: Instant) -> Duration {
        self.every.map_or(Duration::MAX, |_| self.next.saturating_duration_since(now))
    }

    /// Says that we live, if it is time.
    pub fn look(&mut self, now: Instant) {
        if self.is_due(now) {
            say(&[NotifyState::Watchdog]);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(every) = self.every.filter(|_| now >= self.next) else { return false };
        self.next = now + every;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_half_the_time_and_not_without_a_watchdog() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut dog = Watchdog::every(Some(second), start);
        assert!(dog.is_due(start) && !dog.is_due(start));
        assert_eq!(dog.wait(start + second / 4), second * 3 / 4);
        assert!(!dog.is_due(start + second / 2) && dog.is_due(start + second));
        let mut none = Watchdog::every(None, start);
        assert!(!none.is_due(start + second) && none.wait(start) == Duration::MAX);
    }
}
