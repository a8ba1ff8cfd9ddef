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
use super::plan::{self, Plan};
use crate::handshake::{Identity, read_initiation};
use crate::mac::MacKeys;
use crate::session::Session;
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
    /// Whether its source is the sender's own.
    honest: bool,
    at: Time,
    delivered: bool,
}

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
    identities: HashMap<(usize, Protocol), Identity>,
    macs: HashMap<(usize, Protocol), MacKeys>,
    offered: Vec<Offered>,
    /// What was opened: node, its incarnation, session (index and age), counter.
    opened: HashSet<(usize, u32, u32, Time, u64)>,
    /// What was sealed: node, protocol, the other's index, counter.
    sealed: HashSet<(usize, Protocol, u32, u64)>,
    /// The last timestamp of each node, and the Noise message around it.
    stamps: HashMap<usize, (u64, Vec<u8>)>,
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
        let each = || (0..plan.hosts.len()).flat_map(|n| [Protocol::Sealed, Protocol::WireGuard].map(|p| (n, p)));
        let mut check = Self {
            identities: each().map(|(n, p)| ((n, p), plan::identity(n, p))).collect(),
            macs: each().map(|(n, p)| ((n, p), MacKeys::new(p, plan::identity(n, p).public()))).collect(),
            plan: plan.clone(),
            offered: Vec::new(),
            opened: HashSet::new(),
            sealed: HashSet::new(),
            stamps: HashMap::new(),
            received: HashMap::new(),
            sent: HashMap::new(),
            proven: HashSet::new(),
            seconds: vec![Second::default(); plan.hosts.len()],
        };
        (0..plan.hosts.len()).for_each(|number| check.restarted(number));
        check
    }

    /// A node knows nothing any more but what its configuration says.
    pub fn restarted(&mut self, number: usize) {
        self.proven.retain(|(host, _)| *host != number);
        self.received.retain(|(host, _), _| *host != number);
        self.sent.retain(|(host, _), _| *host != number);
        for link in self.plan.links.iter().filter(|link| link.ends.contains(&number)) {
            let end = usize::from(link.ends[1] == number);
            if link.knows[end] {
                self.proven.insert((number, self.plan.hosts[link.ends[1 - end]].address));
            }
        }
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
        let honest = posing.is_none_or(|posing| posing == from || self.speaks_for(from, posing, to));
        self.offered.push(Offered { from, to, bytes: bytes.clone(), honest, at, delivered: false });
        (number, bytes)
    }

    /// Whether `from` owns the address of `posing` in the eyes of `to`: the first node owns what nobody owns more closely.
    fn speaks_for(&self, from: usize, posing: usize, to: usize) -> bool {
        from == 0 && posing != to && self.plan.link(posing, to).is_none()
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

    fn delivered(&mut self, host: usize, peer: PeerId, bytes: &[u8]) {
        let number = bytes.get(20..28).map(|b| u64::from_le_bytes(b.try_into().unwrap())).unwrap() as usize;
        let packet = self.offered.get_mut(number).expect("a packet that nobody offered was delivered");
        assert_eq!(packet.bytes, bytes, "packet {number} was changed");
        assert_eq!((packet.to, packet.from), (host, peer.0 as usize), "packet {number} went astray");
        assert!(packet.honest, "packet {number} has a source that its sender does not own");
        assert!(!std::mem::replace(&mut packet.delivered, true), "packet {number} was delivered twice");
        let (from, to) = (packet.from, packet.to);
        assert!(self.plan.can_pass(from, to), "packet {number} passed between nodes that cannot have a session");
    }

    // ---- datagrams -----------------------------------------------------------------------------------------------------

    /// A counter was opened and is to be delivered.
    pub fn opened(&mut self, host: usize, incarnation: u32, session: &Session, counter: u64) {
        let fresh = self.opened.insert((host, incarnation, session.index(), session.since(), counter));
        assert!(fresh, "node {host} accepted counter {counter} twice");
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
            _ => Handshake::parse(datagram).is_ok_and(|m| self.macs[&(host, m.protocol())].verify_mac1(&m)),
        };
        assert!(may_act || effects.is_empty(), "node {host} answers somebody who does not know it: {effects:?}");
    }

    /// What a node does.
    pub fn effect(&mut self, host: &Host, effect: &Effect, now: Time) {
        match effect {
            Effect::Deliver(peer, bytes) => self.delivered(host.number, *peer, bytes),
            Effect::Send { to, datagram, reply } => {
                if !reply {
                    let second = self.second(host.number, now);
                    second.sent += 1;
                    assert!(second.sent <= SENT_PER_SECOND, "node {} floods", host.number);
                }
                self.sending(host, *to, datagram);
            }
            Effect::Write(_) => {}
        }
    }

    fn sending(&mut self, host: &Host, to: SocketAddr, datagram: &[u8]) {
        let number = host.number;
        if !self.proven.contains(&(number, to)) {
            let sent = self.sent.entry((number, to)).or_default();
            *sent += datagram.len();
            let received = self.received.get(&(number, to)).copied().unwrap_or(0);
            assert!(*sent <= 3 * received, "node {number} sends {sent} bytes to {to}, which sent {received}");
        }
        if let Ok(header) = DataHeader::parse(datagram) {
            let fresh = self.sealed.insert((number, header.protocol, header.index(), header.counter));
            assert!(fresh, "node {number} sealed counter {} twice", header.counter);
        } else if let Ok(message) = Handshake::parse(datagram)
            && message.step() == Step::Initiation
        {
            self.stamp(host, &message);
        }
    }

    fn stamp(&mut self, host: &Host, message: &Handshake<'_>) {
        let protocol = message.protocol();
        let other = self.macs.iter().find(|((_, p), macs)| *p == protocol && macs.verify_mac1(message));
        let ((other, _), _) = other.expect("an initiation is for somebody");
        if self.stamps.get(&host.number).is_some_and(|(_, noise)| noise == message.noise()) {
            // Said again, with a cookie.
            return;
        }
        let incoming = read_initiation(protocol, &self.identities[&(*other, protocol)], message).expect("it opens");
        let stamp = incoming.hello().timestamp.0;
        let (seconds, nanos) = stamp.split_at(8);
        let seconds = u64::from_be_bytes(seconds.try_into().unwrap()) - ((1 << 62) + 10);
        let nanos = u64::from(u32::from_be_bytes(nanos.try_into().unwrap()));
        let stamp = seconds * 1_000_000_000 + nanos;
        assert!(Duration::from_nanos(stamp) <= host.disk, "node {} stamps beyond its mark", host.number);
        let last = self.stamps.insert(host.number, (stamp, message.noise().to_vec()));
        assert!(last.is_none_or(|(last, _)| last < stamp), "node {} stamps in the past", host.number);
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
        let (peers, number) = (host.remotes.len(), host.number);
        let (attempts, deadlines, sessions) = host.node.census();
        assert!(attempts <= peers && deadlines <= peers, "node {number}: {attempts} handshakes, {deadlines} deadlines");
        assert!(sessions <= 4 * peers, "node {number} has {sessions} sessions");
        assert!(host.staged.values().all(|staged| staged.len() <= 128), "node {number} stages without end");
        for (id, remote) in &host.remotes {
            let path = remote.path.load();
            let Some(path) = path.as_ref().filter(|path| path.budget.is_none()) else { continue };
            self.proven.insert((number, path.endpoint));
            let sealed = self.plan.link(number, id.0 as usize).is_some_and(|l| l.protocol == Protocol::Sealed);
            assert!(!sealed || !is_attacker(path.endpoint), "node {number} believes an attacker to be node {}", id.0);
        }
    }
}
