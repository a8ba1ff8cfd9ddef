//! What control knows of one peer: its keys, the handshake under way, and the sessions it has.
//!
//! Of sessions there are three at most, as in WireGuard (whitepaper, section 6.2): *current* is what we send with; *previous* still opens
//! what was on its way when the current one came; *next* is one that the peer asked for and has not shown to have yet, so that nothing
//! may be sent with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::message::{Protocol, Tai64n};
use zeroize::Zeroizing;

use crate::gauge::Gauge;
use crate::handshake::Initiator;
use crate::mac::MacKeys;
use crate::probe::{MtuSearch, Validation};
use crate::remote::{Path, Remote};
use crate::session::Session;
use crate::snapshot::PeerId;
use crate::table::SessionTable;
use crate::time::Time;

/// What a peer is, from the configuration.
pub struct PeerSettings {
    /// How packets travel between us, for the life of the peer.
    pub protocol: Protocol,
    /// Its static public key.
    pub public: [u8; 32],
    /// The key that only the two of us know; zeros if there is none. In a network the key of a sealed peer follows from its secret, and this
    /// one is not looked at.
    pub preshared: Zeroizing<[u8; 32]>,
    /// How often something is sent, so that a NAT keeps its mapping.
    pub keepalive: Option<Duration>,
    /// Where it is, if that is known.
    pub endpoint: Option<SocketAddr>,
}

impl PeerSettings {
    /// Whether it is called as soon as we know of it, so that it hears of us before it notices that we were away. WireGuard's peers are
    /// called when there is something to say, as its own implementations do; and so are those of a network, which may be thousands.
    pub(crate) fn is_eager(&self, in_network: bool) -> bool {
        let named = self.protocol == Protocol::Sealed && !in_network;
        self.endpoint.is_some() && (named || self.keepalive.is_some())
    }
}

/// A handshake that we began.
pub(crate) struct Attempt {
    pub(crate) initiator: Initiator,
    /// The epoch that it is made in; 0 without a network.
    pub(crate) epoch: u32,
    /// For messages to the peer, in that epoch.
    pub(crate) macs: MacKeys,
    /// The index that the session will have.
    pub(crate) index: u32,
    /// Of the message that was sent; a cookie names it.
    pub(crate) mac1: [u8; 16],
    pub(crate) datagram: Vec<u8>,
    pub(crate) to: SocketAddr,
    /// When the first of its messages was sent.
    pub(crate) began: Time,
    /// When the next one is to be sent.
    pub(crate) due: Time,
    /// How many of its messages were sent.
    pub(crate) tries: u32,
    /// Whether a cookie has made us send this one again.
    pub(crate) again: bool,
    /// Whether there is another way to the peer meanwhile, so that no further message is to be sent.
    pub(crate) settled: bool,
}

/// A response of ours.
pub(crate) struct Responded {
    /// The index of the session.
    pub(crate) index: u32,
    pub(crate) mac1: [u8; 16],
    /// For messages to the peer, in the epoch of its initiation.
    pub(crate) macs: MacKeys,
}

/// Why there is no session with a peer, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It does not answer.
    NoAnswer,
    /// Nobody knows where it is.
    NoEndpoint,
    /// We have no private key for this transport.
    NoIdentity,
    /// We have no secret of the network.
    NoSecret,
    /// No agreement is possible with its public key: it is of low order, or our own.
    Key,
    /// The two ends are configured for different layers: one for packets (`tun`), one for frames (`tap`).
    Mode,
    /// The peer has another epoch of the network's secret.
    Epoch,
}

impl Problem {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::NoAnswer, Self::NoEndpoint, Self::NoIdentity, Self::NoSecret, Self::Key, Self::Mode, Self::Epoch];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NoEndpoint => "no_endpoint",
            Self::NoIdentity => "no_identity",
            Self::NoSecret => "no_secret",
            Self::Key => "key",
            Self::Mode => "mode",
            Self::Epoch => "epoch",
        }
    }

    /// One sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoAnswer => {
                "the peer does not answer: is it up, does it have our public key, and is its UDP port open?"
            }
            Self::NoEndpoint => {
                "nobody knows where the peer is: wait until it calls, as a node behind NAT does, or write its `endpoint`"
            }
            Self::NoSecret => "we have no secret of the network yet: the registry has it",
            Self::NoIdentity => "we have no private key for this transport: write one",
            Self::Key => "no session is possible with the peer's public key: was it copied whole?",
            Self::Mode => {
                "the handshake was refused: one end has mode \"tun\" and the other \"tap\"; write the same on both"
            }
            Self::Epoch => "the handshake was refused: the two ends have different epochs of the network's secret",
        }
    }
}

/// Where two nodes are with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No session, and none asked for.
    Idle,
    /// Asking.
    Calling,
    /// There is a session.
    Up,
    /// Refused, by one of the two.
    Refused,
}

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) settings: PeerSettings,
    pub(crate) remote: Arc<Remote>,
    pub(crate) cookie: Option<([u8; 16], Time)>,
    /// The latest timestamp of an initiation from it, and when that came.
    pub(crate) greatest: Tai64n,
    pub(crate) asked: Time,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) current: Option<Arc<Session>>,
    pub(crate) previous: Option<Arc<Session>>,
    pub(crate) next: Option<Arc<Session>>,
    /// The last response; a cookie may name it.
    pub(crate) responded: Option<Responded>,
    /// Where the initiation of the next session came from, and our answer went.
    pub(crate) next_from: Option<SocketAddr>,
    /// Addresses where it has proved to be: the last one.
    pub(crate) proven: Option<SocketAddr>,
    pub(crate) validation: Option<Validation>,
    pub(crate) search: MtuSearch,
    /// What a person has asked for.
    pub(crate) gauge: Option<Gauge>,
    /// The inner MTU that the initiation of the next session names.
    pub(crate) next_mtu: Option<usize>,
    /// The inner MTU that it said it has.
    pub(crate) peer_mtu: Option<usize>,
    pub(crate) handshake: Option<Time>,
    pub(crate) problem: Option<Problem>,
    /// When its timers are looked at next.
    pub(crate) deadline: Option<Time>,
    /// When probes of its were answered in the last second: how many, since when.
    pub(crate) answered: (u32, Time),
    /// The same of notes.
    pub(crate) told: (u32, Time),
    /// When a keepalive was sent last, or was due.
    pub(crate) kept_alive: Time,
    /// The last keepalive that is a probe and was not answered yet, by its number, and when it was sent.
    pub(crate) probe: Option<(u64, Time)>,
    /// Added to time-outs on which both ends may be in step.
    pub(crate) jitter: Duration,
    /// Whether a session is wanted that could not be asked for yet.
    pub(crate) wanted: bool,
    /// It is not asked for before that.
    pub(crate) not_before: Time,
    /// How often it was called in vain where it is now, if nothing authentic has come from it since it is there.
    pub(crate) unheard: Option<u32>,
    /// The MTU that was told last.
    pub(crate) reported_mtu: usize,
}

impl Peer {
    pub(crate) fn new(id: PeerId, settings: PeerSettings) -> Self {
        let remote = Arc::new(Remote::default());
        remote.path.store(settings.endpoint.map(|endpoint| Arc::new(Path::proven(endpoint))));
        Self {
            id,
            remote,
            cookie: None,
            greatest: Tai64n([0; 12]),
            asked: Time::NEVER,
            attempt: None,
            current: None,
            previous: None,
            next: None,
            responded: None,
            next_from: None,
            proven: settings.endpoint,
            validation: None,
            search: MtuSearch::default(),
            gauge: None,
            next_mtu: None,
            peer_mtu: None,
            handshake: None,
            problem: None,
            deadline: None,
            answered: (0, Time::NEVER),
            told: (0, Time::NEVER),
            kept_alive: Time::NEVER,
            probe: None,
            jitter: Duration::ZERO,
            wanted: false,
            not_before: Time::NEVER,
            unheard: Some(0),
            reported_mtu: 0,
            settings,
        }
    }

    /// The largest packet that the path takes, as far as probes and the peer's own device permit; 0 if nobody said what the first
    /// link permits.
    pub(crate) fn mtu(&self) -> usize {
        self.search.mtu().min(self.peer_mtu.filter(|mtu| *mtu > 0).unwrap_or(usize::MAX))
    }

    /// Whether we are asking for a session.
    pub(crate) fn is_calling(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| !attempt.settled)
    }

    /// Whether there is a session to send with.
    pub(crate) fn is_up(&self, now: Time) -> bool {
        self.current.as_ref().is_some_and(|session| session.is_alive(now))
    }

    /// When the first of its sessions was agreed on, that has not been erased.
    pub(crate) fn oldest(&self) -> Option<Time> {
        [&self.current, &self.previous, &self.next].into_iter().flatten().map(|session| session.since()).min()
    }

    /// Where its datagrams go.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.remote.path.load().as_ref().map(|path| path.endpoint)
    }

    /// Where control was told last that it is. A worker moves the path of a WireGuard peer before it says so, and every address of such
    /// a peer is one that was proved.
    pub(crate) fn known_at(&self) -> Option<SocketAddr> {
        if self.settings.protocol == Protocol::WireGuard { self.proven } else { self.endpoint() }
    }

    /// Whether `bytes` may be sent to `address`: what goes to the peer's address while that has proved nothing is counted, whoever
    /// sends it.
    pub(crate) fn may_get(&self, address: SocketAddr, bytes: usize) -> bool {
        let path = self.remote.path.load();
        path.as_ref().is_none_or(|path| path.endpoint != address || path.permits(bytes))
    }

    /// Whether its address has proved that it is there.
    pub(crate) fn is_proven(&self) -> bool {
        self.remote.path.load().as_ref().is_some_and(|path| path.budget.is_none())
    }

    /// Whether sizes can be tried on the path: somebody who answers probes is there.
    pub(crate) fn can_search(&self, now: Time) -> bool {
        self.settings.protocol == Protocol::Sealed && self.is_up(now) && self.is_proven()
    }

    pub(crate) fn standing(&self, now: Time) -> Standing {
        if self.is_up(now) {
            Standing::Up
        } else if self.is_calling() {
            Standing::Calling
        } else if matches!(self.problem, Some(Problem::Mode | Problem::Epoch)) {
            Standing::Refused
        } else {
            Standing::Idle
        }
    }

    /// One of its sessions, by our index.
    pub(crate) fn session(&self, index: u32) -> Option<&Arc<Session>> {
        let mut all = [&self.current, &self.previous, &self.next].into_iter().flatten();
        all.find(|session| session.index() == index)
    }

    /// A session that we asked for: the peer has its keys already.
    pub(crate) fn adopt(&mut self, session: Arc<Session>, table: &SessionTable) {
        // A session the peer asked for at the same time may be what it sends with.
        let previous = match self.next.take() {
            Some(next) => {
                release(table, self.current.take());
                Some(next)
            }
            None => self.current.take(),
        };
        release(table, std::mem::replace(&mut self.previous, previous));
        self.install(session);
    }

    /// The next session becomes the current one: the peer has shown that it has its keys.
    pub(crate) fn promote(&mut self, table: &SessionTable) {
        if let Some(session) = self.next.take() {
            let previous = self.current.take();
            release(table, std::mem::replace(&mut self.previous, previous));
            self.install(session);
        }
    }

    fn install(&mut self, session: Arc<Session>) {
        self.handshake = Some(session.since());
        self.remote.session.store(Some(Arc::clone(&session)));
        self.current = Some(session);
        self.problem = None;
        self.wanted = false;
    }

    /// Ends all of its sessions: whoever still holds one neither seals nor opens with it any more.
    pub(crate) fn end(&self) {
        for session in [&self.current, &self.previous, &self.next].into_iter().flatten() {
            session.end();
        }
    }

    /// Forgets the keys of sessions that neither seal nor open any more.
    pub(crate) fn erase(&mut self, table: &SessionTable, now: Time) {
        for slot in [&mut self.current, &mut self.previous, &mut self.next] {
            if slot.as_ref().is_some_and(|session| !session.is_alive(now)) {
                release(table, slot.take());
            }
        }
        if self.current.is_none() {
            self.remote.session.store(None);
        }
    }
}

fn release(table: &SessionTable, session: Option<Arc<Session>>) {
    if let Some(session) = session {
        table.release(session.index());
    }
}
