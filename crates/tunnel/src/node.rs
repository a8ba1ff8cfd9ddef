//! The core that decides: who may speak with us, with which keys, and when a handshake, a keepalive or a probe is due.
//!
//! It has no socket, no clock and no source of randomness of its own. One input goes in (`handle_…`), then everything that follows from
//! it comes out ([`Node::next_output`]) until there is nothing more, then [`Node::deadline`] says how long to wait. The same input at
//! the same time with the same randomness gives the same output, so that a failure in the simulated world replays from its seed.
//!
//! Data never passes here: workers seal and open by themselves with the sessions they find in [`Remote`] and [`SessionTable`], and
//! tell what control must know as a [`Notice`].

mod changes;
mod inside;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::message::data::ACK;
use wire::message::{Answer, Control, CookieReply, Handshake, Hello, Mode, Outcome, Protocol, Step, Suite};
use zeroize::Zeroizing;

use crate::handshake::{self, Finished, Identity, Keys};
use crate::peer::{Attempt, Peer, PeerSettings, Problem, Standing};
use crate::probe::Validation;
use crate::remote::{Path, Remote};
use crate::session::{Parts, Session};
use crate::snapshot::PeerId;
use crate::stamp::Stamps;
use crate::table::SessionTable;
use crate::time::Time;
use crate::timers::{self, REKEY_TIMEOUT};
use crate::verdict::Reason;
use crate::work::Work;

/// A peer may ask for a handshake this often (drivers/net/wireguard/messages.h, INITIATIONS_PER_SECOND).
const BETWEEN_INITIATIONS: Duration = Duration::from_millis(20);

/// How long after one peer the next one is called, if nothing hurries.
const BETWEEN_CALLS: Duration = Duration::from_millis(5);

/// Probes of one peer that are answered in a second.
const ANSWERS_PER_SECOND: u32 = 10;

/// When what could not be done now is tried again.
const SOON: Duration = Duration::from_secs(1);

/// How long a mark is waited for before it is asked for again: the disk may have been full.
const MARK_AGAIN: Duration = Duration::from_secs(5);

/// How long a cookie is used (whitepaper, section 5.4.7).
const COOKIE_LIFE: Duration = Duration::from_secs(120);

/// Random bytes that nobody can guess.
pub trait Random {
    /// Fills `bytes`; answers whether it could.
    fn fill(&mut self, bytes: &mut [u8]) -> bool;
}

/// What a node is made of.
pub struct Settings {
    /// Our key for each transport that is in use.
    pub identities: Vec<(Protocol, Identity)>,
    /// What our device carries.
    pub mode: Mode,
    /// The largest packet of our device, in bytes.
    pub mtu: u16,
    /// Whether this CPU has instructions for AES-GCM.
    pub aes: bool,
    /// The mark that an earlier run left: no timestamp at or below it is used. See [`Stamps`].
    pub mark: Duration,
}

/// A moment: the time that timers go by, and the time since 1970 that initiations are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Never goes back.
    pub time: Time,
    /// Since 1970; may jump either way.
    pub wall: Duration,
}

/// What workers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A packet waits for a session with this peer.
    Wanted(PeerId),
    /// It is time for another session with this peer.
    Renew(PeerId),
    /// Something happened with this peer that timers depend on.
    Watch(PeerId),
    /// The first datagram of the session with this index was opened.
    Confirmed {
        /// Our index.
        index: u32,
        /// Where it came from.
        from: SocketAddr,
        /// Its length.
        bytes: usize,
    },
    /// A datagram with the highest counter yet came from another address than the peer's.
    Roamed {
        /// Our index of its session.
        index: u32,
        /// Where it came from.
        from: SocketAddr,
        /// Its length.
        bytes: usize,
    },
    /// A control message was opened.
    Control {
        /// Our index of its session.
        index: u32,
        /// Where it came from.
        from: SocketAddr,
        /// What it says.
        message: Control,
        /// Bytes of its datagram.
        bytes: usize,
    },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Whom to; nobody we know in a refusal.
        peer: Option<PeerId>,
        /// Where to.
        to: SocketAddr,
        /// Whether it answers the datagram that was handled last, and so leaves from the address where that arrived.
        reply: bool,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// There is a session to send with: packets that wait for it may go.
    SessionUp(PeerId),
    /// Nobody answered: packets that wait are in vain.
    GaveUp(PeerId),
    /// Put this mark on disk, then say so ([`Node::marked`]).
    Mark(Duration),
    /// The largest packet that the path to this peer takes changed, in bytes.
    PathMtu(PeerId, usize),
    /// The peer's endpoint changed.
    Moved(PeerId, SocketAddr),
}

/// What people are told of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Where we are with it.
    pub standing: Standing,
    /// When the last handshake was complete.
    pub handshake: Option<Time>,
    /// The cipher of the current session.
    pub suite: Option<Suite>,
    /// Why there is no session.
    pub problem: Option<Problem>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// The largest packet that the path takes, as far as probes found out; 0 if nobody said what the first link permits.
    pub mtu: usize,
}

/// See the module.
pub struct Node {
    settings: Settings,
    peers: Vec<Option<Peer>>,
    by_public: HashMap<(Protocol, [u8; 32]), PeerId>,
    /// The handshakes that we began, by the index that their answers carry.
    attempts: HashMap<u32, PeerId>,
    table: Arc<SessionTable>,
    stamps: Stamps,
    /// When a mark was asked for that is not on disk yet.
    mark_asked: Option<Time>,
    work: [Work; 2],
    random: Box<dyn Random + Send>,
    pub(crate) deadlines: BTreeSet<(Time, PeerId)>,
    /// When the next peer may be called of those that nothing hurries with.
    next_call: Time,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node with these peers; numbers that are left out belong to peers of other kinds.
    #[must_use]
    pub fn new(settings: Settings, peers: Vec<(PeerId, PeerSettings)>, random: Box<dyn Random + Send>) -> Self {
        let mut node = Self {
            table: Arc::new(SessionTable::new(peers.len())),
            stamps: Stamps::after(settings.mark),
            mark_asked: None,
            settings,
            peers: Vec::new(),
            by_public: HashMap::new(),
            attempts: HashMap::new(),
            work: Default::default(),
            random,
            deadlines: BTreeSet::new(),
            next_call: Time::NEVER,
            outputs: VecDeque::new(),
        };
        for (id, settings) in peers {
            node.place(id, settings);
        }
        node
    }

    /// The sessions, for workers.
    #[must_use]
    pub fn table(&self) -> Arc<SessionTable> {
        Arc::clone(&self.table)
    }

    /// What workers share of a peer.
    #[must_use]
    pub fn remote(&self, id: PeerId) -> Option<Arc<Remote>> {
        self.peer_ref(id).map(|peer| Arc::clone(&peer.remote))
    }

    /// What people are told of a peer.
    #[must_use]
    pub fn state(&self, id: PeerId, now: Time) -> Option<PeerState> {
        let peer = self.peer_ref(id)?;
        // Who looks is told as soon as there has been time for an answer, and not when all attempts are over.
        let unanswered = peer.attempt.as_ref().is_some_and(|a| !a.settled && now >= a.began + REKEY_TIMEOUT);
        Some(PeerState {
            standing: peer.standing(now),
            handshake: peer.handshake,
            suite: peer.current.as_ref().map(|session| session.suite()),
            problem: peer.problem.or(unanswered.then_some(Problem::NoAnswer)).filter(|_| !peer.is_up(now)),
            endpoint: peer.endpoint(),
            mtu: peer.mtu(),
        })
    }

    /// The next thing to do, if there is one.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(time, _)| *time)
    }

    /// Begins: asks for the mark of its timestamps, and calls the peers whose configuration says where they are, so that a restarted
    /// node is heard of before its peers notice. WireGuard's peers are called when there is something to say, as its own
    /// implementations do.
    pub fn start(&mut self, now: Now) {
        self.want_mark(now);
        for peer in self.peers.iter_mut().flatten().filter(|peer| peer.settings.is_eager()) {
            peer.wanted = true;
        }
        self.call_wanted(now);
    }

    /// Calls whom there was no timestamp to call with before, unless that is being done.
    fn call_wanted(&mut self, now: Now) {
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
    fn turn(&mut self, now: Now) -> Time {
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

    /// Says how large a packet our device takes; peers are told with the next handshake.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.settings.mtu = mtu;
    }

    /// Says how large a packet the first link towards a peer permits.
    pub fn set_path(&mut self, id: PeerId, mtu: usize) {
        if let Some(peer) = self.peer(id) {
            peer.search.set_target(mtu);
            self.report_mtu(id);
            // A probe may be due; what else is due is looked at too.
            self.schedule(id, Some(Time::from_nanos(1)));
        }
    }

    /// How many handshakes are under way, timers set and sessions held: what must stay bounded.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn census(&self) -> (usize, usize, usize) {
        (self.attempts.len(), self.deadlines.len(), self.table.claimed())
    }

    // ---- datagrams -----------------------------------------------------------------------------------------------------

    /// Takes a message of a handshake, or a cookie, that [`Admission`](crate::admission::Admission) let pass. `known`: it came from
    /// where a peer is known to be.
    ///
    /// # Errors
    /// Why it came to nothing. Nobody is told.
    pub fn handle_datagram(&mut self, datagram: &[u8], from: SocketAddr, known: bool, now: Now) -> Result<(), Reason> {
        if let Ok(message) = Handshake::parse(datagram) {
            return match message.step() {
                Step::Initiation => self.initiation(&message, from, known, now),
                _ => self.response(&message, now),
            };
        }
        self.cookie(&CookieReply::parse(datagram).map_err(|_| Reason::Forged)?, now)
    }

    fn initiation(&mut self, message: &Handshake<'_>, from: SocketAddr, known: bool, now: Now) -> Result<(), Reason> {
        let protocol = message.protocol();
        if !self.work_for(protocol).take(now.time, known) {
            return Err(Reason::RateLimited);
        }
        let identity = identity(&self.settings, protocol).ok_or(Reason::Forged)?;
        let incoming = handshake::read_initiation(protocol, identity, message).map_err(|_| Reason::Forged)?;
        let id = self.speaker(protocol, incoming.remote())?;
        let hello = *incoming.hello();
        let (mode, mtu, aes) = (self.settings.mode, self.settings.mtu, self.settings.aes);
        let peer = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Reason::Forged)?;
        if hello.timestamp <= peer.greatest {
            return Err(Reason::Replayed);
        }
        if peer.asked != Time::NEVER && now.time.since(peer.asked) < BETWEEN_INITIATIONS {
            return Err(Reason::RateLimited);
        }
        peer.greatest = hello.timestamp;
        peer.asked = now.time;
        let outcome = match protocol {
            Protocol::Sealed if hello.mode != mode => Outcome::RefusedMode,
            // There are no epochs without a network.
            Protocol::Sealed if hello.epoch != 0 => Outcome::RefusedEpoch,
            Protocol::Sealed | Protocol::WireGuard => Outcome::Accepted(Suite::of(hello.aes, aes)),
        };
        let answer = Answer { outcome, mode, aes, mtu };
        let preshared = Zeroizing::new(*peer.settings.preshared);
        let index = self.claim(protocol).ok_or(Reason::RateLimited)?;
        let done = self.ephemeral().and_then(|ephemeral| incoming.respond(&preshared, index, &answer, ephemeral).ok());
        let Some((keys, mut datagram)) = done else {
            self.table.release(index);
            return Err(Reason::Forged);
        };
        let Some(peer) = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut) else { return Err(Reason::Forged) };
        let cookie = fresh_cookie(peer, now.time);
        let mac1 = peer.macs.sign(&mut datagram, cookie.as_ref());
        peer.responded = Some((index, mac1));
        match keys {
            Some(keys) => {
                peer.next_mtu = (protocol == Protocol::Sealed).then(|| usize::from(hello.mtu));
                let parts = parts(peer, index, message.sender(), keys, false, now.time);
                let session = Arc::new(Session::new(parts).map_err(|_| Reason::Forged)?);
                self.table.insert(Arc::clone(&session));
                if let Some(unused) = peer.next.replace(session) {
                    self.table.release(unused.index());
                }
                peer.next_from = Some(from);
            }
            None => {
                self.table.release(index);
                peer.problem = refusal(outcome);
            }
        }
        self.outputs.push_back(Output::Transmit { peer: Some(id), to: from, reply: true, datagram });
        self.review(id, now);
        Ok(())
    }

    /// The peer with this key.
    fn speaker(&self, protocol: Protocol, public: &[u8; 32]) -> Result<PeerId, Reason> {
        let known = |protocol| self.by_public.get(&(protocol, *public)).copied();
        let elsewhere = || [Protocol::Sealed, Protocol::WireGuard].into_iter().find_map(known);
        known(protocol).ok_or_else(|| if elsewhere().is_some() { Reason::WrongTransport } else { Reason::Forged })
    }

    fn response(&mut self, message: &Handshake<'_>, now: Now) -> Result<(), Reason> {
        let id = *self.attempts.get(&message.receiver()).ok_or(Reason::UnknownSession)?;
        if !self.work_for(message.protocol()).take(now.time, true) {
            return Err(Reason::RateLimited);
        }
        let peer = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Reason::UnknownSession)?;
        if peer.settings.protocol != message.protocol() {
            return Err(Reason::WrongTransport);
        }
        let attempt = peer.attempt.as_mut().filter(|a| a.index == message.receiver()).ok_or(Reason::UnknownSession)?;
        // A forged response leaves the attempt as it was: the true one may still come.
        let finished = attempt.initiator.finish(message).map_err(|_| Reason::Forged)?;
        let (index, asked_at, again) = (attempt.index, attempt.to, attempt.tries > 1);
        self.attempts.remove(&index);
        peer.attempt = None;
        let (keys, peer_index, answer) = match finished {
            Finished::Established { keys, receiver_index, answer } => (keys, receiver_index, answer),
            Finished::Refused(answer) => {
                let problem = refusal(answer.outcome).unwrap_or(Problem::NoAnswer);
                self.table.release(index);
                self.give_up(id, problem, now);
                self.review(id, now);
                return Ok(());
            }
        };
        if let Some(answer) = answer {
            peer.peer_mtu = Some(usize::from(answer.mtu));
        }
        let parts = parts(peer, index, peer_index, keys, true, now.time);
        let session = Arc::new(Session::new(parts).map_err(|_| Reason::Forged)?);
        self.table.insert(Arc::clone(&session));
        peer.adopt(session, &self.table);
        peer.remote.activity.forgive();
        if again && peer.settings.endpoint == Some(asked_at) && peer.endpoint() != Some(asked_at) {
            // It was not where we believed it to be, but where the configuration says.
            self.settle_at(id, asked_at);
        }
        // It shows the peer that we have the keys, so that it may send.
        self.keepalive(id, now);
        self.session_is_up(id, now);
        Ok(())
    }

    fn cookie(&mut self, reply: &CookieReply<'_>, now: Now) -> Result<(), Reason> {
        let id = self.attempts.get(&reply.receiver).copied().or_else(|| self.owner(reply.receiver));
        let id = id.ok_or(Reason::UnknownSession)?;
        let peer = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Reason::UnknownSession)?;
        if peer.settings.protocol != reply.protocol {
            return Err(Reason::WrongTransport);
        }
        // WireGuard under load wants a cookie in responses too. The next one will have it.
        if let Some((_, mac1)) = peer.responded.filter(|(index, _)| *index == reply.receiver) {
            let cookie = peer.macs.open_cookie(reply.nonce, &mac1, reply.sealed).ok_or(Reason::Forged)?;
            peer.cookie = Some((cookie, now.time));
            return Ok(());
        }
        let attempt = peer.attempt.as_mut().filter(|a| a.index == reply.receiver).ok_or(Reason::UnknownSession)?;
        let cookie = peer.macs.open_cookie(reply.nonce, &attempt.mac1, reply.sealed).ok_or(Reason::Forged)?;
        peer.cookie = Some((cookie, now.time));
        // The message was not looked at, so that it may be said once more, now with the cookie. WireGuard waits for its timer.
        if peer.settings.protocol == Protocol::Sealed && !std::mem::replace(&mut attempt.again, true) {
            peer.macs.sign(&mut attempt.datagram, Some(&cookie));
            let (to, datagram) = (attempt.to, attempt.datagram.clone());
            if peer.may_get(to, datagram.len()) {
                self.outputs.push_back(Output::Transmit { peer: Some(id), to, reply: false, datagram });
            }
        }
        Ok(())
    }

    // ---- what workers tell ---------------------------------------------------------------------------------------------

    /// Takes what a worker tells.
    pub fn handle_notice(&mut self, notice: Notice, now: Now) {
        match notice {
            Notice::Wanted(id) | Notice::Renew(id) => {
                self.call(id, now);
                self.review(id, now);
            }
            Notice::Watch(id) => self.review(id, now),
            Notice::Confirmed { index, from, bytes } => self.confirmed(index, from, bytes, now),
            Notice::Roamed { index, from, bytes } => self.roamed(index, from, bytes, now),
            Notice::Control { index, from, message, bytes } => self.control(index, from, message, bytes, now),
        }
    }

    fn confirmed(&mut self, index: u32, from: SocketAddr, bytes: usize, now: Now) {
        let Some(id) = self.owner(index) else { return };
        let table = Arc::clone(&self.table);
        let Some(peer) = self.peer(id).filter(|peer| peer.next.as_ref().is_some_and(|next| next.index() == index))
        else {
            return;
        };
        peer.promote(&table);
        peer.peer_mtu = peer.next_mtu.or(peer.peer_mtu);
        // There is a way now, whatever becomes of what we asked for ourselves.
        if let Some(attempt) = &mut peer.attempt {
            attempt.settled = true;
        }
        if peer.next_from == Some(from) {
            // What we answered to that address arrived there.
            self.settle_at(id, from);
        } else {
            self.roamed(index, from, bytes, now);
        }
        self.session_is_up(id, now);
    }

    fn session_is_up(&mut self, id: PeerId, now: Now) {
        let number = self.number();
        if let Some(peer) = self.peer(id).filter(|peer| peer.can_search(now.time)) {
            peer.search.begin(number, now.time);
        }
        self.report_mtu(id);
        self.outputs.push_back(Output::SessionUp(id));
        self.review(id, now);
    }

    fn roamed(&mut self, index: u32, from: SocketAddr, bytes: usize, now: Now) {
        let Some(id) = self.owner(index) else { return };
        let number = self.number();
        let Some(peer) = self.peer(id) else { return };
        if peer.endpoint() == Some(from) {
            return;
        }
        let trusted = peer.settings.protocol == Protocol::WireGuard
            || peer.proven == Some(from)
            || peer.settings.endpoint == Some(from);
        if trusted {
            self.settle_at(id, from);
            return self.review(id, now);
        }
        let fallback = match peer.validation.take() {
            Some(earlier) => earlier.fallback,
            None => peer.remote.path.load_full(),
        };
        peer.remote.path.store(Some(Arc::new(Path::unproven(from, bytes))));
        peer.validation = Some(Validation::new(from, fallback, number, now.time));
        self.send_probe(id, number, 0, now);
        self.outputs.push_back(Output::Moved(id, from));
        self.review(id, now);
    }

    /// The peer is at this address, and has proved it.
    fn settle_at(&mut self, id: PeerId, address: SocketAddr) {
        let Some(peer) = self.peer(id) else { return };
        let moved = peer.endpoint() != Some(address);
        if moved || !peer.is_proven() {
            peer.search.forget();
        }
        peer.validation = None;
        peer.proven = Some(address);
        peer.remote.path.store(Some(Arc::new(Path::proven(address))));
        if moved {
            self.outputs.push_back(Output::Moved(id, address));
        }
    }

    fn control(&mut self, index: u32, from: SocketAddr, message: Control, bytes: usize, now: Now) {
        let Some(id) = self.owner(index) else { return };
        let next = self.number();
        let Some(peer) = self.peer(id) else { return };
        match message {
            Control::Probe { id: number } => {
                let (count, since) = peer.answered;
                let (count, since) =
                    if now.time.since(since) >= Duration::from_secs(1) { (0, now.time) } else { (count, since) };
                peer.answered = (count + 1, since);
                if count < ANSWERS_PER_SECOND {
                    let ack = Control::Ack { id: number, length: u16::try_from(bytes).unwrap_or(u16::MAX) };
                    self.send_control(id, &ack, Some(from), ACK, now);
                }
            }
            Control::Ack { id: number, .. } => {
                if peer.validation.as_ref().is_some_and(|v| v.is_answered_by(number, from)) {
                    self.settle_at(id, from);
                } else if peer.search.answered(number, next, now.time) {
                    self.report_mtu(id);
                }
            }
        }
        self.review(id, now);
    }

    /// The machine slept, or was restored from a copy of itself: counters may have been used by another copy. No session that there
    /// was is used again.
    pub fn handle_gap(&mut self, now: Now) {
        let ids: Vec<_> = self.peers.iter().flatten().map(|peer| peer.id).collect();
        for id in ids {
            let Some(peer) = self.peer(id) else { continue };
            let had = peer.current.is_some() || peer.is_calling();
            // Another copy may hold the handshake under way too, and would get the same keys from its answer.
            self.end_sessions(id, now.time);
            if had {
                self.call(id, now);
            }
            self.review(id, now);
        }
    }

    // ---- timers --------------------------------------------------------------------------------------------------------

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.want_mark(now);
        while let Some((time, id)) = self.deadlines.first().copied().filter(|(time, _)| *time <= now.time) {
            self.deadlines.remove(&(time, id));
            if let Some(peer) = self.peer(id) {
                peer.deadline = None;
            }
            self.review(id, now);
        }
    }

    fn want_mark(&mut self, now: Now) {
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

    /// Does what is due for one peer, and finds out when to look again.
    fn review(&mut self, id: PeerId, now: Now) {
        let table = Arc::clone(&self.table);
        let Some(peer) = self.peer(id) else { return };
        let due = timers::review(peer, now.time);
        if due.erase {
            peer.erase(&table, now.time);
        }
        if due.abandon {
            self.abandon(id, due.give_up);
        }
        if due.call {
            self.call(id, now);
        }
        if due.keepalive {
            self.keepalive(id, now);
        }
        self.look_at_probes(id, now);
        let Some(peer) = self.peer(id) else { return };
        if due.call || due.keepalive {
            peer.kept_alive = now.time;
        }
        let (mut next, recent) = timers::next(peer, now.time);
        peer.remote.activity.watch(recent);
        if !recent {
            // A worker may have relied on us until a moment ago.
            let (again, recent) = timers::next(peer, now.time);
            next = again;
            if recent {
                peer.remote.activity.watch(true);
            }
        }
        // What is due and could not be done now (the disk is slow, the path takes no more) is tried again soon, not at once.
        self.schedule(id, next.map(|next| if next <= now.time { now.time + SOON } else { next }));
    }

    fn schedule(&mut self, id: PeerId, deadline: Option<Time>) {
        let Some(peer) = self.peer(id) else { return };
        let before = std::mem::replace(&mut peer.deadline, deadline);
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }

    /// Ends the handshake that we began; `in_vain`: nobody answered.
    fn abandon(&mut self, id: PeerId, in_vain: bool) {
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
            self.outputs.push_back(Output::GaveUp(id));
        }
        self.attempts.remove(&attempt.index);
    }

    /// There will be no session, for a reason that does not go away by asking again at once.
    fn give_up(&mut self, id: PeerId, problem: Problem, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        peer.problem = Some(problem);
        peer.wanted = false;
        peer.not_before = now.time + REKEY_TIMEOUT;
        peer.remote.activity.forgive();
        if let Some(session) = &peer.current {
            session.renewal_failed();
        }
        self.outputs.push_back(Output::GaveUp(id));
    }

    /// Asks for a session, unless we asked a moment ago. If that is not possible now, it is done as soon as it is.
    fn call(&mut self, id: PeerId, now: Now) {
        let Some(peer) = self.peer(id) else { return };
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
            to = peer.settings.endpoint.filter(|_| tries % 2 == 1).or(to);
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
        let due = now.time + REKEY_TIMEOUT + jitter;
        let Some(peer) = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        peer.jitter = jitter;
        if let Some(old) = peer.attempt.take() {
            self.attempts.remove(&old.index);
            self.table.release(old.index);
        }
        let Settings { mode, mtu, aes, .. } = self.settings;
        let hello = Hello { timestamp, epoch: 0, mtu, mode, aes };
        let PeerSettings { public, preshared, .. } = &peer.settings;
        let begun = identity(&self.settings, protocol).ok_or(Problem::NoIdentity).and_then(|identity| {
            let begun = handshake::initiate(protocol, identity, public, preshared, index, &hello, ephemeral);
            begun.map_err(|_| Problem::Key)
        });
        let (initiator, mut datagram) = match begun {
            Ok(begun) => begun,
            Err(problem) => {
                self.table.release(index);
                return self.give_up(id, problem, now);
            }
        };
        peer.wanted = false;
        let cookie = fresh_cookie(peer, now.time);
        let mac1 = peer.macs.sign(&mut datagram, cookie.as_ref());
        if peer.may_get(to, datagram.len()) {
            self.outputs.push_back(Output::Transmit { peer: Some(id), to, reply: false, datagram: datagram.clone() });
        }
        self.attempts.insert(index, id);
        let (again, settled, tries) = (false, false, tries + 1);
        peer.attempt = Some(Attempt { initiator, index, mac1, datagram, to, began, due, tries, again, settled });
    }

    // ---- small things --------------------------------------------------------------------------------------------------

    fn peer(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.0 as usize)?.as_mut()
    }

    fn peer_ref(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_ref()
    }

    /// Whose session an index is.
    fn owner(&self, index: u32) -> Option<PeerId> {
        let id = self.table.find(index).session()?.peer();
        self.peer_ref(id)?.session(index).map(|_| id)
    }

    fn work_for(&mut self, protocol: Protocol) -> &mut Work {
        let [sealed, wireguard] = &mut self.work;
        match protocol {
            Protocol::Sealed => sealed,
            Protocol::WireGuard => wireguard,
        }
    }

    fn claim(&mut self, protocol: Protocol) -> Option<u32> {
        let random = &mut self.random;
        self.table.claim(protocol, || {
            let mut bytes = [0; 4];
            random.fill(&mut bytes).then(|| u32::from_le_bytes(bytes))
        })
    }

    fn ephemeral(&mut self) -> Option<Zeroizing<[u8; 32]>> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.random.fill(bytes.as_mut()).then_some(bytes)
    }

    /// A number for a probe. Without randomness there is none that nobody can guess; a probe then proves nothing, and is not answered.
    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Up to a third of a second, so that two that lost each other do not call at the same moment for ever.
    fn jitter(&mut self) -> Duration {
        let mut byte = [0; 2];
        self.random.fill(&mut byte);
        Duration::from_millis(u64::from(u16::from_le_bytes(byte)) % 334)
    }
}

fn identity(settings: &Settings, protocol: Protocol) -> Option<&Identity> {
    settings.identities.iter().find(|(p, _)| *p == protocol).map(|(_, identity)| identity)
}

fn fresh_cookie(peer: &Peer, now: Time) -> Option<[u8; 16]> {
    peer.cookie.filter(|(_, at)| now.since(*at) < COOKIE_LIFE).map(|(cookie, _)| cookie)
}

fn parts(peer: &Peer, index: u32, peer_index: u32, keys: Keys, initiator: bool, since: Time) -> Parts {
    Parts { protocol: peer.settings.protocol, peer: peer.id, index, peer_index, keys, initiator, since }
}

fn refusal(outcome: Outcome) -> Option<Problem> {
    match outcome {
        Outcome::Accepted(_) => None,
        Outcome::RefusedMode => Some(Problem::Mode),
        Outcome::RefusedEpoch => Some(Problem::Epoch),
    }
}
