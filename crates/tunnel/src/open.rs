//! The data messages of one receive, opened together: a worker's step from the wire to packets.
//!
//! For each run of datagrams of one session: look which counters may be fresh (one lock), open those, mark what opened (one lock). Only a
//! datagram whose mark is fresh is delivered, so that the same counter twice in a run, or at the same time on another socket, is
//! delivered once; and one that is not authentic costs none of its neighbours.

use std::ops::Range;
use std::sync::Arc;

use wire::message::{DataHeader, Flags, Message, Step, classify};

use crate::replay::Mark;
use crate::session::{Session, Unopened};
use crate::table::SessionTable;
use crate::time::Time;
use crate::verdict::Reason;

/// What became of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is no data message.
    Other,
    /// It is not to be delivered.
    Dropped(Reason),
    /// It was opened, and its counter is fresh.
    Opened {
        /// Which of the batch's sessions opened it: see [`Batch::session`].
        session: usize,
        /// Where the plaintext begins and ends in the run.
        plaintext: (usize, usize),
        /// What the sender says about it.
        flags: Flags,
        /// Whether its counter is the one after that of the datagram delivered before it in this batch, in the same session.
        follows: bool,
        /// Whether its counter is the highest yet.
        newest: bool,
    },
}

/// The datagrams of one run, with their outcomes; reused from run to run.
#[derive(Default)]
pub struct Batch {
    sessions: Vec<Arc<Session>>,
    headers: Vec<Option<DataHeader>>,
    outcomes: Vec<Outcome>,
    /// The index and the counter of the datagram that was delivered last.
    last: Option<(u32, u64)>,
}

impl Batch {
    /// Begins a receive: what follows continues nothing that came before.
    pub fn begin(&mut self) {
        self.last = None;
    }

    /// Opens the data messages among the datagrams in `bytes`, each `stride` bytes long but for the last.
    pub fn open(&mut self, table: &SessionTable, bytes: &mut [u8], stride: usize, now: Time) {
        let stride = stride.max(1);
        self.outcomes.clear();
        self.headers.clear();
        self.sessions.clear();
        for datagram in bytes.chunks(stride) {
            let (header, outcome) = match DataHeader::parse(datagram) {
                Ok(header) => (Some(header), self.find(table, header.index())),
                Err(_) if is_data(datagram) => (None, Outcome::Dropped(Reason::Forged)),
                Err(_) => (None, Outcome::Other),
            };
            self.headers.push(header);
            self.outcomes.push(outcome);
        }
        let mut from = 0;
        while from < self.outcomes.len() {
            let session = self.session_of(from);
            let alike = self.outcomes.iter().skip(from).take_while(|outcome| session_in(outcome) == session).count();
            let group = from..from + alike;
            from = group.end;
            if let Some(session) = session.and_then(|session| self.sessions.get(session)).map(Arc::clone) {
                self.open_group(&session, group, bytes, stride, now);
            }
        }
    }

    /// The outcomes, in the order of the datagrams.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Forgets outcomes and sessions: what an idle worker still held of a peer that was removed would keep its keys.
    pub fn let_go(&mut self) {
        self.outcomes.clear();
        self.sessions.clear();
    }

    /// One of the sessions that outcomes name.
    pub fn session(&self, number: usize) -> Option<&Arc<Session>> {
        self.sessions.get(number)
    }

    fn find(&mut self, table: &SessionTable, index: u32) -> Outcome {
        if self.sessions.last().is_none_or(|session| session.index() != index) {
            match table.find(index).session() {
                Some(session) => self.sessions.push(Arc::clone(session)),
                None => return Outcome::Dropped(Reason::UnknownSession),
            }
        }
        let session = self.sessions.len() - 1;
        Outcome::Opened { session, plaintext: (0, 0), flags: Flags::NONE, follows: false, newest: false }
    }

    fn session_of(&self, number: usize) -> Option<usize> {
        session_in(self.outcomes.get(number)?)
    }

    fn open_group(&mut self, session: &Session, group: Range<usize>, bytes: &mut [u8], stride: usize, now: Time) {
        let (Some(headers), Some(outcomes)) = (self.headers.get(group.clone()), self.outcomes.get_mut(group.clone()))
        else {
            return;
        };
        let window = session.window();
        for (header, outcome) in headers.iter().zip(outcomes.iter_mut()) {
            if header.is_none_or(|header| !window.permits(header.counter)) {
                *outcome = Outcome::Dropped(Reason::Replayed);
            }
        }
        drop(window);
        let first = group.start * stride;
        let run = bytes.get_mut(first..).unwrap_or_default().chunks_mut(stride);
        for ((number, datagram), (header, outcome)) in run.enumerate().zip(headers.iter().zip(outcomes.iter_mut())) {
            let (Some(header), Outcome::Opened { plaintext, flags, .. }) = (header, &mut *outcome) else { continue };
            match session.open(header, datagram, now) {
                Ok(opened) => {
                    let start = first + number * stride;
                    (*plaintext, *flags) =
                        ((start + opened.plaintext.start, start + opened.plaintext.end), opened.flags);
                }
                Err(Unopened::Forged) => *outcome = Outcome::Dropped(Reason::Forged),
                Err(Unopened::Old) => *outcome = Outcome::Dropped(Reason::UnknownSession),
            }
        }
        let mut window = session.window();
        for (header, outcome) in headers.iter().zip(outcomes.iter_mut()) {
            let (Some(header), Outcome::Opened { follows, newest, .. }) = (header, &mut *outcome) else { continue };
            match window.mark(header.counter) {
                Mark::Replay => *outcome = Outcome::Dropped(Reason::Replayed),
                mark => {
                    *newest = mark == Mark::Newest;
                    *follows = header.counter > 0 && self.last == Some((session.index(), header.counter - 1));
                    self.last = Some((session.index(), header.counter));
                }
            }
        }
    }
}

fn session_in(outcome: &Outcome) -> Option<usize> {
    match outcome {
        Outcome::Opened { session, .. } => Some(*session),
        Outcome::Other | Outcome::Dropped(_) => None,
    }
}

fn is_data(datagram: &[u8]) -> bool {
    matches!(classify(datagram), Message::Sealed(Step::Data, _) | Message::WireGuard(Step::Data, _))
}

#[cfg(test)]
mod tests {
    use wire::message::{Protocol, Suite};
    use zeroize::Zeroizing;

    use super::*;
    use crate::handshake::Keys;
    use crate::session::Parts;
    use crate::snapshot::PeerId;

    const NOW: Time = Time::from_nanos(5_000_000_000);

    fn end(index: u32, peer_index: u32, forth: bool) -> Session {
        let (send, receive) = if forth { ([1; 32], [2; 32]) } else { ([2; 32], [1; 32]) };
        let keys = Keys { send: Zeroizing::new(send), receive: Zeroizing::new(receive), suite: Suite::Aes256Gcm };
        let (protocol, peer) = (Protocol::Sealed, PeerId(index >> 4));
        Session::new(Parts { protocol, peer, index, peer_index, keys, initiator: true, since: NOW }).unwrap()
    }

    /// A table with sessions 0x10 and 0x20, and the other ends of them.
    fn world() -> (SessionTable, Session, Session) {
        let table = SessionTable::new(1);
        for index in [0x10, 0x20] {
            assert_eq!(table.claim(Protocol::Sealed, || Some(index)), Some(index));
            table.insert(Arc::new(end(index, index + 0x100, false)));
        }
        (table, end(0x110, 0x10, true), end(0x120, 0x20, true))
    }

    fn seal(session: &Session, counter: u64, text: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; session.datagram_len(text.len(), 0)];
        assert!(session.seal(counter, Flags::NONE, 3, text, &mut datagram));
        datagram
    }

    fn open(batch: &mut Batch, table: &SessionTable, datagrams: &[Vec<u8>]) -> Vec<Result<(Vec<u8>, bool), Reason>> {
        let stride = datagrams[0].len();
        let mut bytes = datagrams.concat();
        batch.open(table, &mut bytes, stride, NOW);
        let text = |outcome: &Outcome| match outcome {
            Outcome::Opened { plaintext: (from, to), follows, .. } => Ok((bytes[*from..*to].to_vec(), *follows)),
            Outcome::Dropped(reason) => Err(*reason),
            Outcome::Other => Ok((b"other".to_vec(), false)),
        };
        batch.outcomes().iter().map(text).collect()
    }

    #[test]
    fn what_was_let_go_is_held_by_nobody() {
        let (table, a, _) = world();
        let held = table.find(0x10).session().map(Arc::clone).unwrap();
        let mut batch = Batch::default();
        assert!(open(&mut batch, &table, &[seal(&a, 0, b"one")])[0].is_ok());
        table.release(0x10);
        assert_eq!(Arc::strong_count(&held), 2);
        batch.let_go();
        assert_eq!((Arc::strong_count(&held), batch.outcomes().len()), (1, 0));
    }

    #[test]
    fn the_same_counter_twice_in_one_train_is_delivered_once() {
        let (table, a, _) = world();
        let twice = seal(&a, 0, b"once");
        let mut batch = Batch::default();
        let got = open(&mut batch, &table, &[twice.clone(), twice.clone(), seal(&a, 1, b"next"), twice.clone()]);
        let replayed = Err(Reason::Replayed);
        assert_eq!(
            got,
            [Ok((b"once".to_vec(), false)), replayed.clone(), Ok((b"next".to_vec(), true)), replayed.clone()]
        );
        assert_eq!(open(&mut batch, &table, &[twice]), [replayed], "and not in the next train either");
    }

    #[test]
    fn one_bad_datagram_costs_none_of_its_neighbours() {
        let (table, a, b) = world();
        let mut bad = seal(&a, 1, b"evil");
        bad[20] ^= 1;
        let mut unknown = seal(&a, 2, b"lost");
        unknown[4] = 0x70;
        let mut flags = seal(&a, 3, b"flag");
        flags[1] = 8;
        let other = vec![0xa1; 36];
        let got = open(
            &mut Batch::default(),
            &table,
            &[
                seal(&a, 0, b"one "),
                bad,
                unknown,
                flags,
                other,
                seal(&b, 0, b"two "),
                seal(&a, 9, b"nine"),
                seal(&a, 1, b"late"),
            ],
        );
        let expected = [
            Ok((b"one ".to_vec(), false)),
            Err(Reason::Forged),
            Err(Reason::UnknownSession),
            Err(Reason::Forged),
            Ok((b"other".to_vec(), false)),
            Ok((b"two ".to_vec(), false)),
            Ok((b"nine".to_vec(), false)),
            Ok((b"late".to_vec(), false)),
        ];
        assert_eq!(got, expected, "a forged counter is still free for the true one");
    }

    #[test]
    fn the_last_datagram_may_be_shorter_and_a_new_receive_continues_nothing() {
        let (table, a, _) = world();
        let mut batch = Batch::default();
        let got = open(&mut batch, &table, &[seal(&a, 0, b"long"), seal(&a, 1, b"s")]);
        assert_eq!(got, [Ok((b"long".to_vec(), false)), Ok((b"s".to_vec(), true))]);
        assert_eq!(open(&mut batch, &table, &[seal(&a, 2, b"same")])[0], Ok((b"same".to_vec(), true)));
        batch.begin();
        assert_eq!(open(&mut batch, &table, &[seal(&a, 3, b"next")])[0], Ok((b"next".to_vec(), false)));
    }
}
