//! What control and workers both know of a peer, as it changes: the session to send with, where to, and what happened when.
//!
//! Control writes the session and the path; workers read both once per packet or batch. Workers write the times; control looks at them
//! when a timer may be due. Each field is one word that is swapped or stored whole: nobody waits for anybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use crossbeam_utils::CachePadded;

use crate::session::Session;
use crate::time::Time;

/// How much more goes to an address that has not answered a probe than came from it.
const AMPLIFICATION: i64 = 3;

/// One peer.
#[derive(Default)]
pub struct Remote {
    /// What to seal with; none before the first handshake, and after the last one's time.
    pub session: ArcSwapOption<Session>,
    /// Where datagrams go; none while the peer has not been heard of.
    pub path: ArcSwapOption<Path>,
    /// What happened when.
    pub activity: CachePadded<Activity>,
}

/// Where a peer is.
#[derive(Debug)]
pub struct Path {
    /// Its address.
    pub endpoint: SocketAddr,
    /// How much may be sent there; without one, anything.
    pub budget: Option<Budget>,
}

/// How many bytes may be sent to an address that has not shown that somebody there wants them.
#[derive(Debug)]
pub struct Budget(AtomicI64);

impl Budget {
    /// What `received` bytes from the address permit.
    #[must_use]
    pub fn new(received: usize) -> Self {
        let budget = Self(AtomicI64::new(0));
        budget.earn(received);
        budget
    }

    /// Adds what `received` more bytes permit.
    #[inline]
    pub fn earn(&self, received: usize) {
        self.0.fetch_add(AMPLIFICATION.saturating_mul(i64::try_from(received).unwrap_or(i64::MAX)), Ordering::Relaxed);
    }

    /// Takes `bytes`; answers whether they were there.
    #[inline]
    #[must_use]
    pub fn spend(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left >= bytes).then(|| left - bytes)).is_ok()
    }
}

impl Path {
    /// A path on which anything may be sent.
    #[must_use]
    pub fn proven(endpoint: SocketAddr) -> Self {
        Self { endpoint, budget: None }
    }

    /// A path to an address that `received` bytes came from, and nothing else is known of.
    #[must_use]
    pub fn unproven(endpoint: SocketAddr, received: usize) -> Self {
        Self { endpoint, budget: Some(Budget::new(received)) }
    }

    /// Whether `bytes` may be sent there now.
    #[inline]
    #[must_use]
    pub fn permits(&self, bytes: usize) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.spend(bytes))
    }
}

/// When what happened; all of it authentic. Times are nanoseconds, 0 is "not since".
#[derive(Debug, Default)]
pub struct Activity {
    /// The first packet sent that nothing of the peer's followed.
    unanswered: AtomicU64,
    /// The first packet received that nothing of ours followed.
    owed: AtomicU64,
    last_sent: AtomicU64,
    last_received: AtomicU64,
    watched: AtomicBool,
}

impl Activity {
    /// Notes that something was sent: a packet, or (`packet` is false) a keepalive or another control message. Answers whether control
    /// is to be told, since it does not look at this peer by itself.
    #[inline]
    pub fn sent(&self, now: Time, packet: bool) -> bool {
        set(&self.last_sent, now.as_nanos());
        set(&self.owed, 0);
        if packet && self.unanswered.load(Ordering::Relaxed) == 0 {
            self.unanswered.store(now.as_nanos(), Ordering::Relaxed);
            return !self.watched.swap(true, Ordering::AcqRel);
        }
        false
    }

    /// Notes that something was received; otherwise as [`sent`](Self::sent).
    #[inline]
    pub fn received(&self, now: Time, packet: bool) -> bool {
        set(&self.last_received, now.as_nanos());
        set(&self.unanswered, 0);
        if packet && self.owed.load(Ordering::Relaxed) == 0 {
            self.owed.store(now.as_nanos(), Ordering::Relaxed);
            return !self.watched.swap(true, Ordering::AcqRel);
        }
        false
    }

    /// Since when a packet of ours has been without anything of the peer's.
    pub(crate) fn unanswered(&self) -> Option<Time> {
        time(&self.unanswered)
    }

    /// Since when a packet of the peer's has been without anything of ours.
    pub(crate) fn owed(&self) -> Option<Time> {
        time(&self.owed)
    }

    /// When something was sent or received last.
    pub(crate) fn last(&self) -> Option<Time> {
        time(&self.last_sent).max(time(&self.last_received))
    }

    /// When something was received last.
    #[must_use]
    pub fn last_received(&self) -> Option<Time> {
        time(&self.last_received)
    }

    /// What was sent is forgotten: another handshake takes care of it.
    pub(crate) fn forgive(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Says that control looks by itself from now on, or that it has stopped. After stopping, look once more: a worker may have
    /// relied on it a moment ago.
    pub(crate) fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }
}

/// Stores only what differs, so that the line stays shared while nothing changes.
#[inline]
fn set(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

fn time(word: &AtomicU64) -> Option<Time> {
    Some(word.load(Ordering::Acquire)).filter(|nanos| *nanos != 0).map(Time::from_nanos)
}

/// The peers of a node, by number.
pub type Remotes = Vec<Arc<Remote>>;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn control_is_told_once_and_looks_by_itself_then() {
        let activity = Activity::default();
        assert!(activity.sent(at(1), true));
        assert!(!activity.sent(at(2), true));
        assert_eq!(activity.unanswered(), Some(at(1)), "the first one counts");
        assert!(!activity.received(at(3), true), "control looks already");
        assert_eq!((activity.unanswered(), activity.owed()), (None, Some(at(3))));
        assert!(!activity.sent(at(4), false));
        assert_eq!((activity.unanswered(), activity.owed(), activity.last()), (None, None, Some(at(4))));
        activity.watch(false);
        assert!(activity.received(at(5), true));
        assert!(!activity.received(at(6), true));
        assert_eq!((activity.owed(), activity.last_received()), (Some(at(5)), Some(at(6))));
    }

    #[test]
    fn keepalives_owe_nothing_and_want_no_answer() {
        let activity = Activity::default();
        assert!(!activity.sent(at(1), false) && !activity.received(at(2), false));
        assert_eq!((activity.unanswered(), activity.owed(), activity.last()), (None, None, Some(at(2))));
    }

    #[test]
    fn an_unproven_address_gets_three_times_what_it_sent() {
        let path = Path::unproven("192.0.2.1:7".parse().unwrap(), 100);
        assert!(path.permits(200) && path.permits(100) && !path.permits(1));
        path.budget.as_ref().unwrap().earn(1);
        assert!(!path.permits(4) && path.permits(3));
        assert!(Path::proven("192.0.2.1:7".parse().unwrap()).permits(usize::MAX));
    }
}
