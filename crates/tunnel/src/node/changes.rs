//! What people change while a node runs: peers come and go, and are configured anew.
//!
//! None of it touches any other peer. Each costs as much with ten thousand peers as with one, but for [`Node::set_identity`], which
//! concerns all peers of its protocol, and [`Node::set_membership`]. Outputs follow as after any input, and workers are shown another
//! [`Snapshot`](crate::Snapshot) by the caller, once for as many changes as come together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::message::Protocol;
use zeroize::Zeroizing;

use super::{Node, Now, Output};
use crate::handshake::Identity;
use crate::network::Membership;
use crate::peer::{Peer, PeerSettings, Problem};
use crate::snapshot::PeerId;
use crate::time::Time;

impl Node {
    /// Adds a peer; what workers share of it is its [`remote`](Self::remote). `id` is a free number of the caller's choice, small since
    /// there is a place for every smaller one: see [`PeerId`] for when that of a removed peer is free again. Whoever had the number, or
    /// the key in the same protocol, is removed.
    pub fn add_peer(&mut self, id: PeerId, settings: PeerSettings, now: Now) {
        self.remove_peer(id);
        if let Some(twin) = self.by_public.get(&(settings.protocol, settings.public)).copied() {
            self.remove_peer(twin);
        }
        let eager = settings.is_eager(self.settings.network.is_some());
        self.place(id, settings);
        self.want_mark(now);
        if eager {
            self.call_in_turn(id, now);
        }
    }

    /// Removes a peer. With its sessions nothing is sealed or opened any more, also not by workers that still hold them, whose
    /// keys are erased when the last one lets go; the handshake under way with it is forgotten.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.end_sessions(id, Time::NEVER);
        self.schedule(id, None);
        let Some(peer) = self.peers.get_mut(id.0 as usize).and_then(Option::take) else { return };
        let key = (peer.settings.protocol, peer.settings.public);
        if self.by_public.get(&key) == Some(&id) {
            self.by_public.remove(&key);
        }
        peer.remote.session.store(None);
        peer.remote.path.store(None);
        self.outputs.retain(|output| output.peer() != Some(id));
    }

    /// Says where a peer is by its configuration, which is where it is from now on, until it is heard from elsewhere. Without an address
    /// it stays where it is.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: Option<SocketAddr>, now: Now) {
        let in_network = self.settings.network.is_some();
        let Some(peer) = self.peer(id) else { return };
        peer.settings.endpoint = endpoint;
        let Some(endpoint) = endpoint else { return };
        if peer.endpoint() == Some(endpoint) && peer.is_proven() {
            return;
        }
        peer.not_before = Time::NEVER;
        if peer.endpoint() != Some(endpoint) {
            peer.unheard = Some(0);
        }
        // Whatever was in vain was so elsewhere, or nowhere.
        peer.problem = peer.problem.filter(|problem| !matches!(problem, Problem::NoEndpoint | Problem::NoAnswer));
        let asking = peer.attempt.as_mut().filter(|attempt| !attempt.settled && attempt.to != endpoint);
        // Whom we are asking may be nobody.
        let again = asking.map(|attempt| (attempt.began, attempt.due) = (now.time, attempt.due.min(now.time)));
        let eager = peer.settings.is_eager(in_network) && !peer.is_up(now.time) && !peer.is_calling();
        self.settle_at(id, endpoint);
        if again.is_some() || eager {
            self.call_in_turn(id, now);
        } else {
            self.review(id, now);
        }
    }

    /// Changes the key that only we and a peer know; zeros for none. Sessions that there are go on; the next handshake has the new key,
    /// and so has one that is under way. With a sealed peer of a network it counts for nothing.
    pub fn set_preshared(&mut self, id: PeerId, preshared: Zeroizing<[u8; 32]>) {
        let in_network = self.settings.network.is_some();
        let Some(peer) = self.peer(id) else { return };
        let in_network = in_network && peer.settings.protocol == Protocol::Sealed;
        if let Some(attempt) = peer.attempt.as_mut().filter(|_| !in_network) {
            attempt.initiator.set_preshared(&preshared);
        }
        peer.settings.preshared = preshared;
    }

    /// Says how often a peer hears of us, from now on; not at all without a time.
    pub fn set_keepalive(&mut self, id: PeerId, keepalive: Option<Duration>, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        peer.settings.keepalive = keepalive;
        self.review(id, now);
    }

    /// Our key of a protocol is another one from now on, or none. Sessions and handshakes of that protocol end, since they were ours
    /// by the former key: the next packet to a peer makes a handshake at once. Whom we were asking is asked anew. Say so to
    /// [`Admission`](crate::admission::Admission::set_identity) too.
    pub fn set_identity(&mut self, protocol: Protocol, identity: Option<Identity>, now: Now) {
        let public = |identity: &Identity| *identity.public();
        if super::identity(&self.settings, protocol).map(public) == identity.as_ref().map(public) {
            return;
        }
        self.settings.identities.retain(|(other, _)| *other != protocol);
        self.settings.identities.extend(identity.map(|identity| (protocol, identity)));
        self.begin_anew(protocol, now);
    }

    /// Sealed peers are those of this network from now on, in its epochs, or of no network. Say so to
    /// [`Admission`](crate::admission::Admission::set_membership) too.
    ///
    /// Another network ends all sealed sessions, as another key of ours does. Another secret ends none: they go on, and the next handshake is made
    /// in the newest epoch. So when an epoch is accepted no more, the last session that was agreed on in it ends within
    /// [`REJECT_AFTER_TIME`](crate::session::REJECT_AFTER_TIME), as every session does. Whom we were asking is asked anew, in the newest epoch.
    pub fn set_membership(&mut self, network: Option<Membership>, now: Now) {
        let former = std::mem::replace(&mut self.settings.network, network);
        let (Some(former), Some(network)) = (&former, &self.settings.network) else {
            if former.is_some() || self.settings.network.is_some() {
                self.begin_anew(Protocol::Sealed, now);
            }
            return;
        };
        if former.id != network.id {
            return self.begin_anew(Protocol::Sealed, now);
        }
        let newer = former.accepted().next() != network.accepted().next();
        let gone = former.accepted().filter(|epoch| !network.accepted().any(|other| other == *epoch));
        let gone: Vec<_> = gone.map(|epoch| epoch.number).collect();
        for id in self.ids(Protocol::Sealed) {
            let Some(peer) = self.peer(id) else { continue };
            if matches!(peer.problem, Some(Problem::NoSecret | Problem::Epoch)) {
                (peer.problem, peer.not_before) = (None, Time::NEVER);
            }
            let Some(attempt) = peer.attempt.as_ref().filter(|attempt| newer || gone.contains(&attempt.epoch)) else {
                continue;
            };
            let asking = !attempt.settled;
            peer.unheard = peer.unheard.map(|_| 0);
            self.abandon(id, false);
            if asking {
                self.call_in_turn(id, now);
            } else {
                self.review(id, now);
            }
        }
    }

    /// Asks a peer for a session if there is none, as if a packet waited for it: whoever was spoken with before a restart is to hear of
    /// us before it notices. Of many each has its turn.
    pub fn call_soon(&mut self, id: PeerId, now: Now) {
        if self.peer_ref(id).is_some_and(|peer| !peer.is_up(now.time) && !peer.is_calling() && !peer.wanted) {
            self.call_in_turn(id, now);
        }
    }

    // ---- small things --------------------------------------------------------------------------------------------------

    /// Gives a peer its place, and room in the table.
    pub(super) fn place(&mut self, id: PeerId, settings: PeerSettings) {
        let number = id.0 as usize;
        if self.peers.len() <= number {
            self.peers.resize_with(number + 1, || None);
        }
        self.by_public.insert((settings.protocol, settings.public), id);
        self.table.grow(self.by_public.len());
        if let Some(place) = self.peers.get_mut(number) {
            *place = Some(Peer::new(id, settings));
        }
    }

    /// Whatever was agreed on or asked for in a protocol counts no more.
    fn begin_anew(&mut self, protocol: Protocol, now: Now) {
        for id in self.ids(protocol) {
            let Some(peer) = self.peer(id) else { continue };
            peer.wanted |= peer.is_calling();
            // What was in vain so far need not be from now on.
            (peer.problem, peer.not_before) = (None, Time::NEVER);
            peer.unheard = peer.unheard.map(|_| 0);
            peer.remote.activity.forgive();
            let calls = peer.wanted || peer.settings.keepalive.is_some();
            self.end_sessions(id, now.time);
            if calls {
                self.call_in_turn(id, now);
            } else {
                self.review(id, now);
            }
        }
    }

    /// The peers of a protocol.
    fn ids(&self, protocol: Protocol) -> Vec<PeerId> {
        let peers = self.peers.iter().flatten().filter(|peer| peer.settings.protocol == protocol);
        peers.map(|peer| peer.id).collect()
    }

    /// Ends all sessions of a peer, and the handshake that we began.
    pub(super) fn end_sessions(&mut self, id: PeerId, now: Time) {
        let table = Arc::clone(&self.table);
        let Some(peer) = self.peer(id) else { return };
        peer.end();
        peer.erase(&table, now);
        self.abandon(id, false);
    }

    /// Calls a peer when it is its turn, which is now if there are no others.
    fn call_in_turn(&mut self, id: PeerId, now: Now) {
        let turn = self.turn(now);
        let Some(peer) = self.peer(id) else { return };
        peer.wanted |= !peer.is_calling();
        let deadline = peer.deadline.map_or(turn, |before| before.min(turn));
        self.schedule(id, Some(deadline));
        if turn <= now.time {
            self.review(id, now);
        }
    }
}

impl Output {
    /// The peer that it is about.
    fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Transmit { peer, .. } => *peer,
            Self::SessionUp(id)
            | Self::GaveUp(id)
            | Self::PathMtu(id, _)
            | Self::Moved(id, _)
            | Self::Failed(id, _)
            | Self::RoundTrip(id, _) => Some(*id),
            Self::Mark(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;
    use wire::message::{Handshake, Mode};

    use super::*;
    use crate::mac::MacKeys;
    use crate::node::{Notice, Settings};
    use crate::sim::plan::{self, NetworkPlan};
    use crate::sim::random::Rng;

    #[derive(Clone, Debug)]
    enum Step {
        Add(PeerId, Protocol, usize, Option<u8>, Option<u64>),
        Remove(PeerId),
        Endpoint(PeerId, Option<u8>),
        Preshared(PeerId, u8),
        Keepalive(PeerId, Option<u64>),
        Identity(Protocol, Option<usize>),
        Membership(Option<NetworkPlan>),
        Notice(Notice),
        Pass(u64),
    }

    /// A peer as it should be: its key, where it is, and where it is configured to be.
    #[derive(Clone, Debug)]
    struct Expected {
        protocol: Protocol,
        key: usize,
        path: Option<SocketAddr>,
        configured: Option<SocketAddr>,
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        prop_oneof![Just(Protocol::Sealed), Just(Protocol::WireGuard)]
    }

    fn id() -> impl Strategy<Value = PeerId> {
        (0u32..12).prop_map(PeerId)
    }

    fn step() -> impl Strategy<Value = Step> {
        let (place, every) = (|| prop::option::of(1u8..5), || prop::option::of(1u64..20));
        // Few keys, so that they meet.
        prop_oneof![
            4 => (id(), protocol(), 0usize..6, place(), every()).prop_map(|(i, p, k, e, s)| Step::Add(i, p, k, e, s)),
            2 => id().prop_map(Step::Remove),
            2 => (id(), place()).prop_map(|(id, place)| Step::Endpoint(id, place)),
            1 => (id(), any::<u8>()).prop_map(|(id, key)| Step::Preshared(id, key)),
            1 => (id(), every()).prop_map(|(id, every)| Step::Keepalive(id, every)),
            1 => (protocol(), prop::option::of(0usize..8)).prop_map(|(p, key)| Step::Identity(p, key)),
            1 => prop::option::of((0u8..2, 1u32..4, prop::option::of(1u32..4))).prop_map(|network| {
                Step::Membership(network.map(|(id, newest, previous)| NetworkPlan { id, newest, previous }))
            }),
            3 => id().prop_map(|id| Step::Notice(Notice::Wanted(id))),
            1 => id().prop_map(|id| Step::Notice(Notice::Watch(id))),
            3 => (0u64..30_000).prop_map(Step::Pass),
        ]
    }

    fn address(place: u8) -> SocketAddr {
        ([192, 0, 2, place], 7777).into()
    }

    struct Trial {
        node: Node,
        millis: u64,
        peers: BTreeMap<PeerId, Expected>,
        ours: HashMap<Protocol, usize>,
        network: Option<NetworkPlan>,
    }

    impl Trial {
        fn new() -> Self {
            let settings = Settings {
                identities: Vec::new(),
                mode: Mode::Tun,
                mtu: 1440,
                aes: true,
                mark: Duration::ZERO,
                network: None,
            };
            let mut node = Node::new(settings, Vec::new(), Box::new(Rng::new(1)));
            node.start(at(0));
            Self { node, millis: 0, peers: BTreeMap::new(), ours: HashMap::new(), network: None }
        }

        fn take(&mut self, step: Step) {
            let now = at(self.millis);
            match step {
                Step::Add(id, protocol, key, place, every) => {
                    let endpoint = place.map(address);
                    let settings = PeerSettings {
                        protocol,
                        public: *plan::identity(key, protocol).public(),
                        preshared: Zeroizing::new([0; 32]),
                        keepalive: every.map(Duration::from_secs),
                        endpoint,
                    };
                    self.node.add_peer(id, settings, now);
                    // One key, one peer.
                    self.peers.retain(|_, peer| (peer.protocol, peer.key) != (protocol, key));
                    self.peers.insert(id, Expected { protocol, key, path: endpoint, configured: endpoint });
                }
                Step::Remove(id) => {
                    self.node.remove_peer(id);
                    self.peers.remove(&id);
                }
                Step::Endpoint(id, place) => {
                    self.node.set_endpoint(id, place.map(address), now);
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.configured = place.map(address);
                        peer.path = peer.configured.or(peer.path);
                    }
                }
                Step::Preshared(id, key) => self.node.set_preshared(id, Zeroizing::new([key; 32])),
                Step::Keepalive(id, every) => self.node.set_keepalive(id, every.map(Duration::from_secs), now),
                Step::Identity(protocol, key) => {
                    self.node.set_identity(protocol, key.map(|key| plan::identity(key, protocol)), now);
                    self.ours.remove(&protocol);
                    self.ours.extend(key.map(|key| (protocol, key)));
                }
                Step::Membership(network) => {
                    self.node.set_membership(network.map(NetworkPlan::membership), now);
                    self.network = network;
                }
                Step::Notice(notice) => self.node.handle_notice(notice, now),
                Step::Pass(span) => {
                    let until = self.millis + span;
                    while let Some(due) = self.node.deadline().filter(|due| *due <= at(until).time) {
                        self.millis = self.millis.max((due.since(at(0).time).as_nanos() as u64).div_ceil(1_000_000));
                        self.node.handle_timeout(at(self.millis));
                        self.obey();
                    }
                    self.millis = until;
                }
            }
            self.obey();
            self.compare();
        }

        fn obey(&mut self) {
            while let Some(output) = self.node.next_output() {
                if let Output::Mark(mark) = output {
                    self.node.marked(mark, at(self.millis));
                    continue;
                }
                let id = output.peer().unwrap();
                let peer = self.peers.get(&id).unwrap_or_else(|| panic!("{output:?} is about nobody"));
                if let Output::Transmit { to, datagram, .. } = output {
                    assert!([peer.path, peer.configured].contains(&Some(to)), "{peer:?} is not at {to}");
                    assert!(
                        self.ours.get(&peer.protocol).is_some_and(|own| *own != peer.key),
                        "{peer:?} cannot be asked"
                    );
                    let message = Handshake::parse(&datagram).unwrap();
                    let public = *plan::identity(peer.key, peer.protocol).public();
                    let network =
                        self.network.filter(|_| peer.protocol == Protocol::Sealed).map(NetworkPlan::membership);
                    let verifies = match &network {
                        None => MacKeys::new(peer.protocol, &public).verify_mac1(&message),
                        Some(network) => network
                            .accepted()
                            .any(|epoch| MacKeys::of_network(network, epoch, &public).unwrap().verify_mac1(&message)),
                    };
                    assert!(verifies, "{peer:?} is asked in an epoch that is over");
                }
            }
        }

        fn compare(&self) {
            for id in (0..12).map(PeerId) {
                let state = self.node.state(id, at(self.millis).time);
                assert_eq!(state.map(|state| state.endpoint), self.peers.get(&id).map(|peer| peer.path));
                assert_eq!(self.node.remote(id).is_some(), self.peers.contains_key(&id));
            }
            let (attempts, deadlines, claimed) = self.node.census();
            let count = self.peers.len();
            assert_eq!(self.node.by_public.len(), count);
            assert!(attempts <= count && deadlines <= count && claimed == attempts);
        }
    }

    fn at(millis: u64) -> Now {
        let since = Duration::from_millis(millis);
        Now { time: Time::from_nanos(1_000_000_000) + since, wall: Duration::from_secs(1_795_000_000) + since }
    }

    proptest! {
        #[test]
        fn whatever_is_changed_it_is_as_if_it_had_been_so_from_the_start(steps in prop::collection::vec(step(), 1..60)) {
            let mut trial = Trial::new();
            for step in steps {
                trial.take(step);
            }
            for id in (0..12).map(PeerId) {
                trial.take(Step::Remove(id));
            }
            prop_assert_eq!((trial.node.census(), trial.node.deadline()), ((0, 0, 0), None));
        }
    }
}
