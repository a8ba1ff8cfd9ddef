//! A conversation with one peer about one trace: questions that are repeated until they are answered, clocks, and parts put together.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tunnel::PeerId;

use super::blob;
use super::capture::Run;
use super::observation::ClockOffset;
use super::remote::{HOPS, MAX_RUNS, Message, PART};
use super::watch::now;
use crate::key::PublicKey;
use crate::notes::topic;
use crate::request::Handle;

/// How long a note is waited for before it is sent again; and how often it is, per host that may have to be asked in turn.
const NOTE_PATIENCE: Duration = Duration::from_millis(250);
const NOTE_TRIES: u32 = 6;

/// How long a session may take to come about.
const SESSION_PATIENCE: Duration = Duration::from_millis(1500);

/// How often that is looked at.
const SESSION_GLANCE: Duration = Duration::from_millis(25);

/// How often a clock is compared: the quickest answer counts.
const CLOCK_TRIES: usize = 8;

/// Parts that are asked for at once: a peer's notes are limited to a hundred in a second.
const WINDOW: usize = 8;
const WINDOW_PAUSE: Duration = Duration::from_millis(100);

/// Answers that wait for who asked.
const ANSWERS: usize = 64;

/// Who waits for answers, by the number of the trace.
#[derive(Default)]
pub(super) struct Replies(Mutex<HashMap<u64, SyncSender<(PeerId, Message)>>>);

impl Replies {
    /// Begins to talk with a peer about a trace. While the answer lives, what that peer answers is kept.
    pub(super) fn talk<'a>(&'a self, handle: &'a Handle, id: u64, peer: PeerId) -> Talk<'a> {
        let (sender, answers) = sync_channel(ANSWERS);
        self.lock().insert(id, sender);
        Talk { replies: self, handle, id, peer, answers }
    }

    /// An answer has come. One that nobody waits for, or has room for, is lost.
    pub(super) fn hand_over(&self, id: u64, from: PeerId, answer: Message) {
        if let Some(asker) = self.lock().get(&id) {
            let _ = asker.try_send((from, answer));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, SyncSender<(PeerId, Message)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One peer, asked about one trace.
pub(super) struct Talk<'a> {
    replies: &'a Replies,
    handle: &'a Handle,
    id: u64,
    peer: PeerId,
    answers: Receiver<(PeerId, Message)>,
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        self.replies.lock().remove(&self.id);
    }
}

impl Talk<'_> {
    /// Tells it something; answers whether there is a session to do so.
    pub(super) fn tell(&self, message: &Message) -> bool {
        self.handle.tell(self.peer, topic::TRACE, message.emit(self.id)).is_ok()
    }

    /// Waits until something can be told to it.
    pub(super) fn await_session(&self, key: Option<PublicKey>) -> Result<(), String> {
        let deadline = Instant::now() + SESSION_PATIENCE;
        let mut called = false;
        while !self.tell(&Message::Clock(now())) {
            if !std::mem::replace(&mut called, true) {
                let _ = self.handle.call(key);
            }
            if Instant::now() > deadline {
                return Err("there is no session with it: it does not answer, or may not".into());
            }
            thread::sleep(SESSION_GLANCE);
        }
        Ok(())
    }

    /// The first answer that `take` has something for, within this time.
    fn await_answer<T>(&self, within: Duration, mut take: impl FnMut(Message) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        loop {
            let (peer, answer) = self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            if peer == self.peer
                && let Some(taken) = take(answer)
            {
                return Some(taken);
            }
        }
    }

    /// Asks until there is an answer. A host that asks others in turn takes longer than one note.
    pub(super) fn ask<T>(&self, question: &Message, mut take: impl FnMut(Message) -> Option<T>) -> Option<T> {
        let beyond = if let Message::Begin(begin) = question { begin.ttl.min(HOPS) } else { 0 };
        (0..NOTE_TRIES * (1 + u32::from(beyond))).find_map(|_| {
            self.tell(question);
            self.await_answer(NOTE_PATIENCE, &mut take)
        })
    }

    /// By how much its clock differs, of several tries the one with the quickest answer.
    pub(super) fn compare_clocks(&self) -> ClockOffset {
        let mut best: Option<ClockOffset> = None;
        for _ in 0..CLOCK_TRIES {
            let sent = now();
            self.tell(&Message::Clock(sent));
            let times = self.await_answer(NOTE_PATIENCE, |answer| match answer {
                Message::Time([asked, received, answered]) if asked == sent => Some((received, answered)),
                _ => None,
            });
            let Some((received, answered)) = times else { continue };
            let offset = offset([sent, received, answered, now()]);
            if best.is_none_or(|best| offset.uncertainty < best.uncertainty) {
                best = Some(offset);
            }
        }
        best.unwrap_or(ClockOffset { ns: 0, uncertainty: u64::MAX })
    }

    /// All parts of what it has.
    pub(super) fn collect(&self, runs: &[Run], deadline: Instant) -> Option<Vec<u8>> {
        let runs = runs.get(..runs.len().min(MAX_RUNS)).unwrap_or_default().to_vec();
        let mut parts: Vec<Option<Vec<u8>>> = vec![None];
        while Instant::now() < deadline {
            let missing = parts.iter().enumerate().filter(|(_, part)| part.is_none()).map(|(number, _)| number);
            let asked: Vec<usize> = missing.take(WINDOW).collect();
            if asked.is_empty() {
                return Some(parts.into_iter().flatten().flatten().collect());
            }
            for part in &asked {
                self.tell(&Message::Collect(u16::try_from(*part).ok()?, runs.clone()));
            }
            let mut left = asked.len();
            self.await_answer(WINDOW_PAUSE, |answer| {
                let Message::Part(part, of, bytes) = answer else { return None };
                if of > 0 && usize::from(of) <= blob::MAX_BLOB.div_ceil(PART) {
                    parts.resize(of.into(), None);
                    if let Some(room) = parts.get_mut(usize::from(part)) {
                        *room = Some(bytes);
                    }
                    left = left.saturating_sub(1);
                }
                (left == 0).then_some(())
            });
        }
        None
    }
}

/// When a question was sent and came, and its answer was sent and came: how another clock differs from ours (RFC 5905, section 8).
fn offset([sent, received, answered, came]: [i64; 4]) -> ClockOffset {
    let ahead = (i128::from(received) - i128::from(sent) + i128::from(answered) - i128::from(came)) / 2;
    let on_the_way = (i128::from(came) - i128::from(sent)) - (i128::from(answered) - i128::from(received));
    ClockOffset {
        ns: i64::try_from(-ahead).unwrap_or(0),
        uncertainty: u64::try_from(on_the_way.max(0) / 2).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_is_put_back() {
        // A second ahead, 10 ns each way, 5 ns to answer.
        let second = 1_000_000_000;
        let told = offset([100, 110 + second, 115 + second, 125]);
        assert_eq!(told, ClockOffset { ns: -second, uncertainty: 10 });
        // Whatever a peer says, there is an answer.
        for odd in [[i64::MIN, i64::MAX, 0, 0], [0, i64::MIN, i64::MAX, 0], [i64::MAX, 0, 0, i64::MIN]] {
            let _ = offset(odd);
        }
    }
}
