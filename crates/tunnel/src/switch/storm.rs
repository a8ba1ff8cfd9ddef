//! How much is flooded: a share per source and tenth of a second, so that a storm of one of them leaves room for the rest.

use std::sync::atomic::{AtomicU64, Ordering};

use super::table::{MAX_PEERS, Owner};
use crate::time::Time;

/// Windows in a second.
const WINDOWS: u32 = 10;

/// See the module.
pub struct StormLimit {
    /// By peer, the last one for this host's side: the window in the upper half, what it had in the lower.
    taken: Box<[AtomicU64]>,
    per_window: u32,
}

impl StormLimit {
    /// So many frames per second and source.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let taken = (0..=MAX_PEERS).map(|_| AtomicU64::new(0)).collect();
        Self { taken, per_window: (per_second / WINDOWS).max(1) }
    }

    /// Whether `frames` more of a source may be flooded.
    pub fn permits(&self, source: Owner, frames: usize, now: Time) -> bool {
        let place = match source {
            Owner::Local => MAX_PEERS,
            Owner::Peer(id) => (id.0 as usize).min(MAX_PEERS - 1),
        };
        let Some(taken) = self.taken.get(place) else { return false };
        let window = now.as_nanos() / u64::from(1_000_000_000 / WINDOWS) & u64::from(u32::MAX);
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        let take = |word: u64| {
            let had = if word >> 32 == window { word as u32 } else { 0 };
            // A super-packet of more than there ever is room for passes alone.
            let fits = had == 0 || had.saturating_add(frames) <= self.per_window;
            fits.then(|| window << 32 | u64::from(had.saturating_add(frames)))
        };
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::PeerId;

    #[test]
    fn each_source_has_its_share_of_each_tenth_of_a_second() {
        let limit = StormLimit::new(100);
        let at = |ms: u64| Time::from_nanos(1_000_000_000 + ms * 1_000_000);
        let (berlin, paris) = (Owner::Peer(PeerId(0)), Owner::Peer(PeerId(1)));
        let passed = (0..1000).filter(|ms| limit.permits(berlin, 1, at(*ms))).count();
        assert_eq!(passed, 100);
        assert_eq!((0..20).filter(|_| limit.permits(paris, 1, at(999))).count(), 10);
        assert_eq!((0..20).filter(|_| limit.permits(Owner::Local, 1, at(999))).count(), 10);
        // By their packets, and one that is larger than the limit passes alone.
        assert_eq!((0..20).filter(|_| limit.permits(berlin, 4, at(1000))).count(), 2);
        assert_eq!((0..20).filter(|_| limit.permits(berlin, 45, at(1100))).count(), 1);
    }
}
