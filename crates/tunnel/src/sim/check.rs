//! What must hold, whatever happens. A violation is a panic.
//!
//! All of it is seen from outside: from datagrams, packets and what a node says, with books of its own, so that an error in the code
//! that is tested does not hide itself.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use wire::ip::IpPacket;
use wire::message::{DataHeader, Handshake, Message, Protocol, Step, classify};

use super::host::{Effect, Host};
use super::people::Change;
use super::plan::{self, NetworkPlan, Plan};
use crate::handshake::{Identity, NO_NETWORK, read_initiation};
use crate::mac::MacKeys;
use crate::session::{REJECT_AFTER_TIME, Session};
use crate::snapshot::PeerId;
use crate::time::Time;

/// How often timers of one node may be due in a second.
const WAKES_PER_SECOND: u32 = 100;

/// How many datagrams one node may send in a second without that anybody asked it to.
const SENT_PER_SECOND: u32 = 2000;

/// The network that attackers send from.
pub const ATTACKERS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);

/// Whether an address is an attacker's.
#[must_use]
pub fn is_attacker(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(four) if four.octets()[..3] == ATTACKERS.octets()[..3])
}

/// A packet that somebody gave to its node.
struct Offered {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
    /// Whose source address it has.
    source: usize,
    at: Time,
    delivered: bool,
}

/// Which key of which node.
type KeyOf = (usize, Protocol, u32);

/// One second of one node.
#[derive(Clone, Copy, Default)]
struct Second {
    number: u64,
    wakes: u32,
    sent: u32,
}

/// The books.
pub struct Check {
    plan: Plan,
    /// The keys that each node has had.
    identities: HashMap<KeyOf, Identity>,
    macs: HashMap<KeyOf, MacKeys>,
    /// The same in each epoch that was needed of each network.
    network_macs: HashMap<(KeyOf, u8, u32), MacKeys>,
    /// By which number each node has another as its peer.
    present: HashMap<(usize, usize), PeerId>,
    /// When one node ended all that it had with another, and how often.
    ended: HashMap<(usize, usize), (Time, u32)>,
    /// Since when two nodes cannot agree on keys that could once.
    parted: HashMap<(usize, usize), Time>,
    /// Under what each node sealed: node, protocol, the other's index; and for whom, after how many ends.
    used: HashMap<(usize, Protocol, u32), (PeerId, u32)>,
    offered: Vec<Offered>,
    /// What was opened: node, its incarnation, session (index and age), counter.
    opened: HashSet<(usize, u32, u32, Time, u64)>,
    /// What was sealed: node, protocol, the other's index, counter.
    sealed: HashSet<(usize, Protocol, u32, u64)>,
    /// The last timestamp of each node.
    stamps: HashMap<usize, u64>,
    /// The Noise message of its last initiation to each key.
    calls: HashMap<(usize, KeyOf), Vec<u8>>,
    /// What came from and went to an address that proved nothing, in bytes.
    received: HashMap<(usize, SocketAddr), usize>,
    sent: HashMap<(usize, SocketAddr), usize>,
    /// Addresses that anything may be sent to.
    proven: HashSet<(usize, SocketAddr)>,
    seconds: Vec<Second>,
}

impl Check {
    /// Books in which nothing has happened.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let mut check = Self {
            identities: HashMap::new(),
            macs: HashMap::new(),
            network_macs: HashMap::new(),
            present: HashMap::new(),
            ended: HashMap::new(),
            parted: HashMap::new(),
            used: HashMap::new(),
            plan: plan.clone(),
            offered: Vec::new(),
            opened: HashSet::new(),
            sealed: HashSet::new(),
            stamps: HashMap::new(),
            calls: HashMap::new(),
            received: HashMap::new(),
            sent: HashMap::new(),
            proven: HashSet::new(),
            seconds: vec![Second::default(); plan.hosts.len()],
        };
        for number in 0..plan.hosts.len() {
            check.restarted(number);
            check.note_key(number, Protocol::Sealed);
            check.note_key(number, Protocol::WireGuard);
        }
        check
    }

    /// Notes the key that a node has now.
    fn note_key(&mut self, number: usize, protocol: Protocol) {
        let generation = self.plan.hosts[number].key(protocol);
        let identity = plan::key(number, protocol, generation);
        self.macs.insert((number, protocol, generation), MacKeys::new(protocol, identity.public()));
        self.identities.insert((number, protocol, generation), identity);
    }

    /// A node knows nothing any more but what its configuration says.
    pub fn restarted(&mut self, number: usize) {
        self.proven.retain(|(host, _)| *host != number);
        self.received.retain(|(host, _), _| *host != number);
        self.sent.retain(|(host, _), _| *host != number);
        self.present.retain(|(host, _), _| *host != number);
        for other in 0..self.plan.hosts.len() {
            self.proven.extend(self.plan.endpoint(number, other).map(|address| (number, address)));
            if self.plan.peer(number, other).is_some() {
                self.present.insert((number, other), PeerId(other as u32));
            }
        }
    }

    /// The configuration of a node was changed.
    pub fn changed(&mut self, plan: &Plan, host: &Host, change: Change, now: Time) {
        let number = host.number;
        let before = std::mem::replace(&mut self.plan, plan.clone());
        if let Change::Identity(protocol, _) = change {
            self.note_key(number, protocol);
        }
        self.present.retain(|(host, _), _| *host != number);
        self.present.extend(host.peers.iter().map(|(other, id)| ((number, *other), *id)));
        for other in 0..plan.hosts.len() {
            self.proven.extend(plan.endpoint(number, other).map(|address| (number, address)));
            if change.parts(&before, number, other) {
                let (at, times) = self.ended.entry((number, other)).or_default();
                (*at, *times) = (now, *times + 1);
            }
            let pair = (number.min(other), number.max(other));
            match (before.can_pass(number, other), plan.can_pass(number, other)) {
                (true, false) => drop(self.parted.insert(pair, now)),
                (_, true) => drop(self.parted.remove(&pair)),
                (false, false) => {}
            }
        }
    }

    fn times_ended(&self, one: usize, other: usize) -> u32 {
        self.ended.get(&(one, other)).map_or(0, |(_, times)| *times)
    }

    // ---- packets -------------------------------------------------------------------------------------------------------

    /// Makes a packet from one node to another; `posing` as a third one if that is given. Answers its number too.
    pub fn packet(
        &mut self,
        from: usize,
        to: usize,
        posing: Option<usize>,
        length: usize,
        at: Time,
    ) -> (usize, Vec<u8>) {
        let number = self.offered.len();
        let length = length.max(28);
        let mut bytes = vec![number as u8; length];
        let header = [0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0, 0, 64, 253, 0, 0];
        bytes[..12].copy_from_slice(&header);
        bytes[12..16].copy_from_slice(&plan::inner(posing.unwrap_or(from)).octets());
        bytes[16..20].copy_from_slice(&plan::inner(to).octets());
        bytes[20..28].copy_from_slice(&(number as u64).to_le_bytes());
        assert!(IpPacket::parse(&bytes).is_ok(), "a packet of ours");
        let source = posing.unwrap_or(from);
        self.offered.push(Offered { from, to, bytes: bytes.clone(), source, at, delivered: false });
        (number, bytes)
    }

    /// Whether `from` owns the address of `source` in the eyes of `to`: the first node owns what nobody owns more closely. Workers see
    /// a moment later what has changed.
    fn speaks_for(&self, from: usize, source: usize, to: usize, now: Time) -> bool {
        let changed = self.ended.get(&(to, source)).is_some_and(|(at, _)| now.since(*at) < Duration::from_millis(10));
        source == from || (from == 0 && source != to && (self.plan.peer(to, source).is_none() || changed))
    }

    /// Whether a packet arrived.
    #[must_use]
    pub fn is_delivered(&self, number: usize) -> bool {
        self.offered[number].delivered
    }

    /// Whether some packet that was offered from one node to another at `since` or later arrived.
    #[must_use]
    pub fn passed(&self, from: usize, to: usize, since: Time) -> bool {
        self.offered.iter().rev().any(|p| p.delivered && p.from == from && p.to == to && p.at >= since)
    }

    fn delivered(&mut self, host: usize, peer: PeerId, bytes: &[u8], now: Time) {
        let number = bytes.get(20..28).map(|b| u64::from_le_bytes(b.try_into().unwrap())).unwrap() as usize;
        let packet = self.offered.get_mut(number).expect("a packet that nobody offered was delivered");
        assert_eq!(packet.bytes, bytes, "packet {number} was changed");
        assert_eq!((packet.to, packet.from), (host, plan::node(peer)), "packet {number} went astray");
        assert!(!std::mem::replace(&mut packet.delivered, true), "packet {number} was delivered twice");
        let (from, to, source) = (packet.from, packet.to, packet.source);
        assert!(self.speaks_for(from, source, to, now), "packet {number} has a source that its sender does not own");
        let parted = self.parted.get(&(from.min(to), from.max(to)));
        let lately = parted.is_some_and(|at| now.since(*at) < REJECT_AFTER_TIME);
        assert!(
            lately || self.plan.can_pass(from, to),
            "packet {number} passed between nodes that cannot have a session"
        );
    }

    // ---- datagrams -----------------------------------------------------------------------------------------------------

    /// A counter was opened and is to be delivered.
    pub fn opened(&mut self, host: usize, incarnation: u32, session: &Session, counter: u64) {
        let fresh = self.opened.insert((host, incarnation, session.index(), session.since(), counter));
        assert!(fresh, "node {host} accepted counter {counter} twice");
        let other = plan::node(session.peer());
        assert_eq!(self.present.get(&(host, other)), Some(&session.peer()), "node {host} opens what {other} sealed");
        let ended = self.ended.get(&(host, other)).map_or(Time::NEVER, |(at, _)| *at);
        assert!(session.since() >= ended, "node {host} opens with a session of before it parted with node {other}");
    }

    /// A node was given a datagram, and this is what it does.
    pub fn received(&mut self, host: usize, datagram: &[u8], from: SocketAddr, effects: &[Effect]) {
        *self.received.entry((host, from)).or_default() += datagram.len();
        let replies = effects.iter().filter_map(|effect| match effect {
            Effect::Send { datagram, reply: true, .. } => Some(datagram.len()),
            _ => None,
        });
        let replied: usize = replies.sum();
        assert!(replied <= datagram.len(), "node {host} answers {} bytes with {replied}", datagram.len());
        let may_act = match classify(datagram) {
            Message::Sealed(Step::Data, _) | Message::WireGuard(Step::Data, _) => DataHeader::parse(datagram).is_ok(),
            Message::Sealed(Step::Cookie, _) | Message::WireGuard(Step::Cookie, _) => datagram.len() == 64,
            _ => Handshake::parse(datagram).is_ok_and(|m| self.is_for(host, &m)),
        };
        assert!(may_act || effects.is_empty(), "node {host} answers somebody who does not know it: {effects:?}");
    }

    /// Whether a message is for this node, by the key that it has now, and in an epoch that it accepts.
    fn is_for(&mut self, host: usize, message: &Handshake<'_>) -> bool {
        let generation = self.plan.hosts[host].key(message.protocol());
        let network = self.plan.hosts[host].network;
        self.epoch_of((host, message.protocol(), generation), network, message).is_some()
    }

    /// In which of the epochs of a network a message is for the owner of a key: 0 without a network.
    fn epoch_of(&mut self, whose: KeyOf, network: Option<NetworkPlan>, message: &Handshake<'_>) -> Option<u32> {
        let Some(plan) = network.filter(|_| message.protocol() == Protocol::Sealed) else {
            return self.macs[&whose].verify_mac1(message).then_some(0);
        };
        let (network, public) = (plan.membership(), *self.identities[&whose].public());
        network.epochs.iter().map(|epoch| epoch.number).zip(&network.epochs).find_map(|(number, epoch)| {
            let keys = self.network_macs.entry((whose, plan.id, number));
            let keys = keys.or_insert_with(|| MacKeys::of_network(&network, epoch, &public).expect("keys"));
            keys.verify_mac1(message).then_some(number)
        })
    }

    /// What a node does.
    pub fn effect(&mut self, host: &Host, effect: &Effect, now: Time) {
        match effect {
            Effect::Deliver(peer, bytes) => self.delivered(host.number, *peer, bytes, now),
            Effect::Send { to, datagram, reply, peer } => {
                if !reply {
                    let second = self.second(host.number, now);
                    second.sent += 1;
                    assert!(second.sent <= SENT_PER_SECOND, "node {} floods", host.number);
                }
                self.sending(host, *to, *peer, datagram);
            }
            Effect::Write(_) => {}
        }
    }

    fn sending(&mut self, host: &Host, to: SocketAddr, peer: Option<PeerId>, datagram: &[u8]) {
        let number = host.number;
        let present = |id: &PeerId| self.present.get(&(number, plan::node(*id))) == Some(id);
        assert!(peer.as_ref().is_none_or(present), "node {number} sends to {peer:?}, which was removed");
        if !self.proven.contains(&(number, to)) {
            let sent = self.sent.entry((number, to)).or_default();
            *sent += datagram.len();
            let received = self.received.get(&(number, to)).copied().unwrap_or(0);
            assert!(*sent <= 3 * received, "node {number} sends {sent} bytes to {to}, which sent {received}");
        }
        if let Ok(header) = DataHeader::parse(datagram) {
            let fresh = self.sealed.insert((number, header.protocol, header.index(), header.counter));
            assert!(fresh, "node {number} sealed counter {} twice", header.counter);
            let id = peer.expect("what is sealed is for a peer");
            let now = (id, self.times_ended(number, plan::node(id)));
            let first = *self.used.entry((number, header.protocol, header.index())).or_insert(now);
            assert_eq!(first, now, "node {number} seals with a session of before it parted with that peer");
        } else if let Ok(message) = Handshake::parse(datagram)
            && message.step() == Step::Initiation
        {
            self.stamp(host, &message);
        }
    }

    fn stamp(&mut self, host: &Host, message: &Handshake<'_>) {
        let protocol = message.protocol();
        let network = self.plan.hosts[host.number].network;
        let all: Vec<_> = self.macs.keys().filter(|(_, p, _)| *p == protocol).copied().collect();
        let whose = all.into_iter().find_map(|whose| Some((whose, self.epoch_of(whose, network, message)?)));
        let (whose, epoch) = whose.expect("an initiation is for somebody, in an epoch that its sender accepts");
        let last = self.calls.insert((host.number, whose), message.noise().to_vec());
        if last.is_some_and(|noise| noise == message.noise()) {
            // Said again, with a cookie.
            return;
        }
        let network = network.filter(|_| protocol == Protocol::Sealed).map_or(NO_NETWORK, |n| n.membership().id);
        let incoming = read_initiation(protocol, &self.identities[&whose], &network, message).expect("it opens");
        assert!(protocol == Protocol::WireGuard || incoming.hello().epoch == epoch, "a hello of another epoch");
        let stamp = incoming.hello().timestamp.0;
        let (seconds, nanos) = stamp.split_at(8);
        let seconds = u64::from_be_bytes(seconds.try_into().unwrap()) - ((1 << 62) + 10);
        let nanos = u64::from(u32::from_be_bytes(nanos.try_into().unwrap()));
        let stamp = seconds * 1_000_000_000 + nanos;
        assert!(Duration::from_nanos(stamp) <= host.disk, "node {} stamps beyond its mark", host.number);
        let last = self.stamps.insert(host.number, stamp);
        assert!(last.is_none_or(|last| last < stamp), "node {} stamps in the past", host.number);
    }

    // ---- nodes ---------------------------------------------------------------------------------------------------------

    fn second(&mut self, number: usize, now: Time) -> &mut Second {
        let second = &mut self.seconds[number];
        let this = now.as_nanos() / 1_000_000_000;
        if second.number != this {
            *second = Second { number: this, ..Second::default() };
        }
        second
    }

    /// The timers of a node were due.
    pub fn woken(&mut self, host: &Host, now: Time) {
        let number = host.number;
        assert!(host.node.deadline().is_none_or(|at| at > now), "node {number} is due again at once");
        let second = self.second(number, now);
        second.wakes += 1;
        assert!(second.wakes <= WAKES_PER_SECOND, "node {number} is busy with nothing");
    }

    /// Something happened to a node.
    pub fn settled(&mut self, host: &Host) {
        let (peers, number) = (host.peers.len(), host.number);
        let (attempts, deadlines, sessions) = host.node.census();
        assert!(attempts <= peers && deadlines <= peers, "node {number}: {attempts} handshakes, {deadlines} deadlines");
        assert!(sessions <= 4 * peers, "node {number} has {sessions} sessions");
        assert!(host.staged.values().all(|staged| staged.len() <= 128), "node {number} stages without end");
        for (id, remote) in &host.remotes {
            let path = remote.path.load();
            let Some(path) = path.as_ref().filter(|path| path.budget.is_none()) else { continue };
            self.proven.insert((number, path.endpoint));
            let other = plan::node(*id);
            let sealed = self.plan.link(number, other).is_some_and(|l| l.protocol == Protocol::Sealed);
            assert!(!sealed || !is_attacker(path.endpoint), "node {number} believes an attacker to be node {other}");
        }
    }
}
