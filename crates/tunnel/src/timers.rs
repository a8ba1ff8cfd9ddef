//! When something is due with a peer: WireGuard's timers (whitepaper, section 6), the same for `sealed`.
//!
//! | what happened | what follows |
//! |---|---|
//! | we asked for a session, no answer | asked again after 5 s and up to 1/3 s, until 90 s after the first time |
//! | a packet was sent, nothing came for 15 s | another session is asked for |
//! | a packet came, nothing was sent for 10 s | a keepalive is sent |
//! | nothing went either way for the time of the configuration | a keepalive is sent |
//! | a session is 180 s old | its keys are erased |
//!
//! Pure: looks at a peer and the time, and says what is to be done. Workers note what happened in the peer's
//! [`Activity`](crate::remote::Activity) without telling control each time: it looks at a peer with traffic every ten seconds, which is
//! in time for every timer, since none that a packet starts is shorter.

use std::time::Duration;

use crate::peer::Peer;
use crate::session::REJECT_AFTER_TIME;
use crate::time::Time;

/// How long an answer to an initiation is waited for.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a session is asked for until it is given up.
pub(crate) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);

/// After this long without a word of ours, a packet that came is answered by a keepalive.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a packet of ours may be without a word of the peer's.
pub(crate) const NEW_HANDSHAKE: Duration = Duration::from_secs(10 + 5);

/// How often a peer with traffic is looked at.
const LOOK: Duration = KEEPALIVE_TIMEOUT;

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Some session is too old: erase its keys.
    pub(crate) erase: bool,
    /// The handshake that we began is in vain, or not needed any more.
    pub(crate) abandon: bool,
    /// It was in vain: say so.
    pub(crate) give_up: bool,
    /// Ask for a session.
    pub(crate) call: bool,
    /// Say that we are there.
    pub(crate) keepalive: bool,
}

/// What is due.
pub(crate) fn review(peer: &Peer, now: Time) -> Due {
    let (up, calling, activity) = (peer.is_up(now), peer.is_calling(), &peer.remote.activity);
    let mut due = Due { erase: peer.oldest().is_some_and(|since| now >= since + REJECT_AFTER_TIME), ..Due::default() };
    if let Some(attempt) = peer.attempt.as_ref().filter(|attempt| now >= attempt.due) {
        due.give_up = !attempt.settled && now >= attempt.began + REKEY_ATTEMPT_TIME;
        due.abandon = attempt.settled || due.give_up;
        due.call = !due.abandon;
    }
    let silent = keepalive_at(peer, now).is_some_and(|at| now >= at);
    let unanswered = unanswered_at(peer).is_some_and(|at| now >= at);
    due.call |= !calling && now >= peer.not_before && (peer.wanted || unanswered || (!up && silent));
    due.keepalive = up && (silent || activity.owed().is_some_and(|since| now >= since + KEEPALIVE_TIMEOUT));
    due
}

/// When to look again at the latest; and whether that is soon enough for whatever workers note until then.
pub(crate) fn next(peer: &Peer, now: Time) -> (Option<Time>, bool) {
    let (up, calling, activity) = (peer.is_up(now), peer.is_calling(), &peer.remote.activity);
    let recent = activity.last().is_some_and(|last| now.since(last) < LOOK)
        || activity.owed().is_some()
        || activity.unanswered().is_some();
    let times = [
        peer.attempt.as_ref().map(|attempt| attempt.due),
        peer.oldest().map(|since| since + REJECT_AFTER_TIME),
        unanswered_at(peer).filter(|_| !calling).map(|at| at.max(peer.not_before)),
        Some(peer.not_before).filter(|_| peer.wanted && !calling),
        activity.owed().filter(|_| up).map(|since| since + KEEPALIVE_TIMEOUT),
        keepalive_at(peer, now).filter(|_| up || !calling),
        peer.validation.as_ref().map(|validation| validation.due()),
        peer.search.due().filter(|_| peer.can_search(now)),
        peer.gauge.as_ref().and_then(|gauge| gauge.due()),
        recent.then_some(now + LOOK),
    ];
    (times.into_iter().flatten().min(), recent)
}

fn unanswered_at(peer: &Peer) -> Option<Time> {
    peer.remote.activity.unanswered().map(|since| since + NEW_HANDSHAKE + peer.jitter)
}

/// When the keepalive of the configuration is due.
fn keepalive_at(peer: &Peer, now: Time) -> Option<Time> {
    let every = peer.settings.keepalive?;
    // What happened outside of a session (an attempt that was given up) counts too: otherwise it would be due for ever.
    let last = peer.remote.activity.last().unwrap_or(Time::NEVER).max(peer.kept_alive);
    Some(if last == Time::NEVER { now } else { last + every })
}
