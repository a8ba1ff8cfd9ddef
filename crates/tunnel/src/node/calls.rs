//! Asking peers for sessions: when it may be done, with which timestamp, and what becomes of it if nobody answers.

use std::sync::Arc;
use std::time::Duration;

use wire::message::{Hello, Protocol};

use super::terms::{Terms, network};
use super::{Node, Now, Output, Settings, fresh_cookie, identity};
use crate::handshake;
use crate::peer::{Attempt, Problem};
use crate::snapshot::PeerId;
use crate::time::Time;
use crate::timers::REKEY_TIMEOUT;

/// How long after one peer the next one is called, if nothing hurries.
const BETWEEN_CALLS: Duration = Duration::from_millis(5);

/// The longest pause between two calls of a peer that has never answered.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a mark is waited for before it is asked for again: the disk may have been full.
const MARK_AGAIN: Duration = Duration::from_secs(5);

impl Node {
    /// Calls whom there was no timestamp to call with before, unless that is being done.
    pub(super) fn call_wanted(&mut self, now: Now) {
        let wanted = self.peers.iter().flatten().filter(|peer| peer.wanted && !peer.is_calling());
        let wanted: Vec<_> = wanted.map(|peer| peer.id).collect();
        self.next_call = now.time;
        for id in wanted {
            let turn = self.turn(now);
            self.schedule(id, Some(turn));
        }
        self.handle_timeout(now);
    }

    /// When the next peer may be called: a few at a time, since each costs Diffie-Hellman here and there.
    pub(super) fn turn(&mut self, now: Now) -> Time {
        let turn = self.next_call.max(now.time);
        self.next_call = turn + BETWEEN_CALLS;
        turn
    }

    /// Says that this mark is on disk.
    pub fn marked(&mut self, mark: Duration, now: Now) {
        self.stamps.marked(mark);
        self.mark_asked = None;
        self.call_wanted(now);
    }

    pub(super) fn want_mark(&mut self, now: Now) {
        let asked = self.mark_asked.is_some_and(|at| now.time.since(at) < MARK_AGAIN);
        // Without peers there is nobody to stamp anything for.
        if !self.by_public.is_empty()
            && !asked
            && let Some(mark) = self.stamps.wanted_mark(now.wall)
        {
            self.mark_asked = Some(now.time);
            self.outputs.push_back(Output::Mark(mark));
        }
    }

    /// Ends the handshake that we began; `in_vain`: nobody answered.
    pub(super) fn abandon(&mut self, id: PeerId, in_vain: bool) {
        let table = Arc::clone(&self.table);
        let Some(peer) = self.peer(id) else { return };
        let Some(attempt) = peer.attempt.take() else { return };
        table.release(attempt.index);
        if in_vain {
            peer.problem = Some(Problem::NoAnswer);
            peer.wanted = false;
            peer.remote.activity.forgive();
            if let Some(session) = &peer.current {
                session.renewal_failed();
            }
            self.outputs.extend([Output::Failed(id, Problem::NoAnswer), Output::GaveUp(id)]);
        }
        self.attempts.remove(&attempt.index);
    }

    /// There will be no session, for a reason that does not go away by asking again at once.
    pub(super) fn give_up(&mut self, id: PeerId, problem: Problem, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        peer.problem = Some(problem);
        peer.wanted = false;
        peer.not_before = now.time + REKEY_TIMEOUT;
        peer.remote.activity.forgive();
        if let Some(session) = &peer.current {
            session.renewal_failed();
        }
        self.outputs.extend([Output::Failed(id, problem), Output::GaveUp(id)]);
    }

    /// Asks for a session, unless we asked a moment ago. If that is not possible now, it is done as soon as it is.
    pub(super) fn call(&mut self, id: PeerId, now: Now) {
        let alternates = self.settings.network.as_ref().is_some_and(|network| network.accepted().count() > 1);
        let Some(peer) = self.peer(id) else { return };
        let alternates = alternates && peer.settings.protocol == Protocol::Sealed;
        if peer.remote.session.load().as_ref().is_some_and(|session| !session.is_alive(now.time)) {
            // It is too old; or a worker put it there while it was ended.
            peer.remote.session.store(None);
        }
        if peer.attempt.as_ref().is_some_and(|a| !a.settled && now.time < a.due) {
            return;
        }
        peer.wanted = true;
        if now.time < peer.not_before {
            return;
        }
        let (mut to, mut tries) = (peer.endpoint(), 0);
        let again = peer.attempt.as_ref().filter(|attempt| !attempt.settled);
        if let Some(attempt) = again {
            tries = attempt.tries;
            // Nobody answered where the peer was last, or where somebody made us believe it was. It may be where the configuration
            // says by now.
            to = peer.settings.endpoint.filter(|_| elsewhere(tries, alternates)).or(to);
        }
        let Some(to) = to else {
            return self.give_up(id, Problem::NoEndpoint, now);
        };
        let began = again.map_or(now.time, |attempt| attempt.began);
        let Some(timestamp) = self.stamps.next(now.wall) else {
            // The disk is slow, or does not take the mark.
            return self.want_mark(now);
        };
        let Some(protocol) = self.peer_ref(id).map(|peer| peer.settings.protocol) else { return };
        let (Some(index), Some(ephemeral)) = (self.claim(protocol), self.ephemeral()) else { return };
        let jitter = self.jitter();
        let Some(peer) = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let pause = network(&self.settings, protocol).and(peer.unheard).map_or(REKEY_TIMEOUT, pause);
        let due = now.time + pause + jitter;
        peer.jitter = jitter;
        if let Some(old) = peer.attempt.take() {
            self.attempts.remove(&old.index);
            self.table.release(old.index);
        }
        let begun = Terms::new(&self.settings, &peer.settings, |network| network.attempt(tries)).and_then(|terms| {
            let Settings { mode, mtu, aes, .. } = self.settings;
            let hello = Hello { timestamp, epoch: terms.epoch, mtu, mode, aes };
            let identity = identity(&self.settings, protocol).ok_or(Problem::NoIdentity)?;
            let public = &peer.settings.public;
            let begun = handshake::initiate(protocol, identity, public, terms.shared(), index, &hello, ephemeral);
            begun.map(|(initiator, datagram)| (initiator, datagram, terms)).map_err(|_| Problem::Key)
        });
        let (initiator, mut datagram, Terms { epoch, macs, .. }) = match begun {
            Ok(begun) => begun,
            Err(problem) => {
                self.table.release(index);
                return self.give_up(id, problem, now);
            }
        };
        peer.wanted = false;
        let cookie = fresh_cookie(peer, now.time);
        let mac1 = macs.sign(&mut datagram, cookie.as_ref());
        if peer.may_get(to, datagram.len()) {
            self.outputs.push_back(Output::Transmit { peer: Some(id), to, reply: false, datagram: datagram.clone() });
        }
        self.attempts.insert(index, id);
        peer.unheard = peer.unheard.map(|calls| calls.saturating_add(1));
        let (again, settled, tries) = (false, false, tries + 1);
        peer.attempt =
            Some(Attempt { initiator, epoch, macs, index, mac1, datagram, to, began, due, tries, again, settled });
    }
}

/// Whether a try goes to where the configuration says that the peer is, rather than to where it was last: every other one. Where epochs
/// alternate as well, four tries are one of each kind.
fn elsewhere(tries: u32, epochs_alternate: bool) -> bool {
    let turn = if epochs_alternate { tries.div_ceil(2) } else { tries };
    turn % 2 == 1
}

/// How long an answer is waited for at an endpoint of the network's that has never given one: 5 s, and twice as long with each call.
fn pause(calls: u32) -> Duration {
    (REKEY_TIMEOUT * (1 << calls.min(4))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_tries_try_each_endpoint_in_each_epoch() {
        let two = |tries: u32| (tries % 2, elsewhere(tries, true));
        for first in [0, 4, 8] {
            assert_eq!(
                std::array::from_fn(|at| two(first + at as u32)),
                [(0, false), (1, true), (0, true), (1, false)]
            );
        }
        assert_eq!(std::array::from_fn(|at| elsewhere(at as u32, false)), [false, true, false, true]);
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let seconds = std::array::from_fn(|calls| pause(calls as u32).as_secs());
        assert_eq!((seconds, pause(u32::MAX).as_secs()), ([5, 10, 20, 40, 60, 60, 60], 60));
    }
}
