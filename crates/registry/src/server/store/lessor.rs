//! Leases while the registry runs: who has which, and when each ends. Times are monotonic, so that no clock that is set ends one.
//!
//! Keeping a lease alive writes nothing: after a restart every lease has its whole time again, as in etcd after a change of leader.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Leases in all.
const LEASES: usize = 16_384;

/// Leases of anybody but `root`: a node needs one, and may have forgotten some in restarts.
pub(super) const LEASES_OF_ONE: usize = 32;

#[derive(Debug)]
pub(super) struct Lease {
    /// Seconds.
    pub(super) ttl: i64,
    pub(super) owner: String,
    pub(super) ends: Instant,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct Left {
    /// Seconds, both.
    pub(in crate::server) granted: i64,
    pub(in crate::server) left: i64,
}

#[derive(Default)]
pub(super) struct Lessor {
    leases: HashMap<i64, Lease>,
}

impl Lessor {
    pub(super) fn is_full(&self) -> bool {
        self.leases.len() >= LEASES
    }

    pub(super) fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(super) fn grant(&mut self, id: i64, ttl: i64, owner: String, now: Instant) {
        self.leases.insert(id, Lease { ttl, owner, ends: end(ttl, now) });
    }

    pub(super) fn forget(&mut self, id: i64) {
        self.leases.remove(&id);
    }

    /// Begins a lease's time anew; None where there is none, or its time is over.
    pub(super) fn keep_alive(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.ends > now)?;
        lease.ends = end(lease.ttl, now);
        Some(lease.ttl)
    }

    pub(super) fn left(&self, id: i64, now: Instant) -> Option<Left> {
        let lease = self.leases.get(&id).filter(|lease| lease.ends > now)?;
        let left = lease.ends.saturating_duration_since(now).as_secs();
        Some(Left { granted: lease.ttl, left: i64::try_from(left).unwrap_or(lease.ttl) })
    }

    /// All leases, the one that ends first in front.
    pub(super) fn all(&self) -> Vec<i64> {
        let mut all: Vec<(Instant, i64)> = self.leases.iter().map(|(id, lease)| (lease.ends, *id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Leases of one owner, the one that ends first in front.
    pub(super) fn of(&self, owner: &str) -> Vec<i64> {
        self.all().into_iter().filter(|id| self.get(*id).is_some_and(|lease| lease.owner == owner)).collect()
    }

    /// Leases whose time is over.
    pub(super) fn over(&self, now: Instant) -> Vec<i64> {
        self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect()
    }
}

fn end(ttl: i64, now: Instant) -> Instant {
    let ttl = Duration::from_secs(ttl.unsigned_abs());
    // etcd allows 285 years, which every clock of ours can add.
    now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_it_is_kept_alive_and_not_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lessor = Lessor::default();
        lessor.grant(7, 10, "node-1".into(), start);
        assert_eq!(lessor.left(7, at(4)), Some(Left { granted: 10, left: 6 }));
        assert_eq!(lessor.keep_alive(7, at(9)), Some(10));
        assert_eq!(lessor.over(at(18)), Vec::<i64>::new());
        assert_eq!(lessor.over(at(19)), vec![7]);
        assert_eq!(lessor.keep_alive(7, at(19)), None, "a lease that is over does not come back");
        assert_eq!(lessor.left(7, at(19)), None);
    }
}
