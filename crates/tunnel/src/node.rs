//! The core that decides: who may speak with us, with which keys, and when a handshake, a keepalive or a probe is due.
//!
//! It has no socket, no clock and no source of randomness of its own. One input goes in (`handle_…`), then everything that follows from
//! it comes out ([`Node::next_output`]) until there is nothing more, then [`Node::deadline`] says how long to wait. The same input at
//! the same time with the same randomness gives the same output, so that a failure in the simulated world replays from its seed.
//!
//! Data never passes here: workers seal and open by themselves with the sessions they find in [`Remote`] and [`SessionTable`], and
//! tell what control must know as a [`Notice`].
//!
//! | module | what |
//! |---|---|
//! | `messages` | what comes from nodes without a session |
//! | `heard` | what workers tell of sessions |
//! | `calls` | asking peers for sessions |
//! | `inside` | what is said inside of sessions |
//! | `changes` | peers that come, change and go, and what changes of ourselves |
//! | `terms` | what a handshake is made with |

mod calls;
mod changes;
mod heard;
mod inside;
mod messages;
mod terms;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::message::{Control, Mode, Protocol, Suite};
use zeroize::Zeroizing;

use crate::handshake::Identity;
use crate::network::Membership;
use crate::peer::{Peer, PeerSettings, Problem, Standing};
use crate::remote::Remote;
use crate::snapshot::PeerId;
use crate::stamp::Stamps;
use crate::table::SessionTable;
use crate::time::Time;
use crate::timers::{self, REKEY_TIMEOUT};
use crate::work::Work;

/// When what could not be done now is tried again.
const SOON: Duration = Duration::from_secs(1);

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
    /// The network that all sealed peers are of, if they are of one.
    pub network: Option<Membership>,
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
    /// A handshake with this peer came to nothing. Whether that is the end of it is another matter.
    Failed(PeerId, Problem),
    /// A probe that we sent to this peer was answered so long after.
    RoundTrip(PeerId, Duration),
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
    /// node is heard of before its peers notice. WireGuard's peers, and those of a network, are called when there is something to say.
    pub fn start(&mut self, now: Now) {
        self.want_mark(now);
        let in_network = self.settings.network.is_some();
        for peer in self.peers.iter_mut().flatten().filter(|peer| peer.settings.is_eager(in_network)) {
            peer.wanted = true;
        }
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

    /// The sessions of a peer.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn sessions(&self, id: PeerId) -> Vec<Arc<crate::session::Session>> {
        let peer = self.peer_ref(id).into_iter();
        peer.flat_map(|peer| [&peer.current, &peer.previous, &peer.next]).flatten().cloned().collect()
    }

    /// Whether a handshake with a peer is under way, or is to be begun.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_asking(&self, id: PeerId) -> bool {
        self.peer_ref(id).is_some_and(|peer| peer.attempt.is_some() || peer.wanted)
    }

    /// How packets travel to a peer.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn protocol(&self, id: PeerId) -> Option<Protocol> {
        self.peer_ref(id).map(|peer| peer.settings.protocol)
    }

    /// All that there is with a peer, in words: what changes of others must leave as it is.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn fingerprint(&self, id: PeerId) -> Option<String> {
        let peer = self.peer_ref(id)?;
        let sessions = [&peer.current, &peer.previous, &peer.next].map(|session| {
            session.as_ref().map(|s| (s.index(), s.since(), self.table.find(s.index()).session().is_some()))
        });
        let attempt = peer.attempt.as_ref().map(|attempt| (attempt.index, attempt.due, attempt.tries, attempt.to));
        let begun = peer.attempt.as_ref().map(|attempt| self.attempts.get(&attempt.index) == Some(&id));
        let shared = peer.remote.session.load().as_ref().map(|session| session.index());
        let (path, endpoint) = (peer.remote.path.load_full(), peer.settings.endpoint);
        let (deadline, wanted, problem) = (peer.deadline, peer.wanted, peer.problem);
        let known = self.by_public.get(&(peer.settings.protocol, peer.settings.public)) == Some(&id);
        Some(format!(
            "{sessions:?} {attempt:?} {begun:?} {shared:?} {path:?} {endpoint:?} {deadline:?} {wanted} {problem:?} {known} {:?} {:?}",
            peer.greatest, peer.remote.activity
        ))
    }

    // ---- timers --------------------------------------------------------------------------------------------------------

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
        self.look_at_gauge(id, now);
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
