//! One node with its data side, which does what a worker does, by the same functions. What its people do is in [`people`](super::people).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use wire::ip::IpPacket;
use wire::message::{Control, DataHeader, Flags, Message, Protocol, Step, classify};
use zeroize::Zeroizing;

use super::check::Check;
use super::plan::{self, MTU, NetworkPlan, Plan};
use super::random::Rng;
use crate::admission::{Admission, Verdict};
use crate::node::{Node, Notice, Now, Output, Settings};
use crate::remote::Remote;
use crate::replay::Mark;
use crate::snapshot::PeerId;
use crate::table::SessionTable;
use crate::verdict::Reason;
use crate::{RouteTable, Time};

/// How many packets wait for a session with one peer.
const STAGED: usize = 128;

/// What a node wants of the world.
#[derive(Debug)]
pub enum Effect {
    /// A datagram leaves.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Its bytes.
        datagram: Vec<u8>,
        /// Whether it answers the datagram that was handled.
        reply: bool,
        /// Whom it is for, if that is known.
        peer: Option<PeerId>,
    },
    /// A packet enters the device.
    Deliver(PeerId, Vec<u8>),
    /// A mark goes to the disk.
    Write(Duration),
}

/// One node.
pub struct Host {
    /// Its number.
    pub number: usize,
    /// Where it is now.
    pub address: SocketAddr,
    /// What decides.
    pub node: Node,
    /// Who its peers are: their numbers, by those of their nodes.
    pub peers: BTreeMap<usize, PeerId>,
    /// When the numbers of removed peers are free again.
    pub left: BTreeMap<PeerId, Time>,
    /// What its workers share of each peer, as they see it: a moment later than control.
    pub remotes: BTreeMap<PeerId, Arc<Remote>>,
    /// Packets that wait for a session.
    pub staged: BTreeMap<PeerId, VecDeque<Vec<u8>>>,
    /// What is on its disk.
    pub disk: Duration,
    /// Marks on their way to the disk.
    pub writing: VecDeque<Duration>,
    /// Whether the disk takes nothing.
    pub disk_full: bool,
    /// How far its wall clock is ahead of the true time, in nanoseconds.
    pub skew: i64,
    /// Until when it sleeps.
    pub asleep: Option<Time>,
    /// How often it was started.
    pub incarnation: u32,
    /// What control said, for scripts: everything but datagrams and marks.
    pub said: Vec<(Time, Output)>,
    /// Why packets and datagrams were dropped.
    pub drops: BTreeMap<Reason, u32>,
    pub(super) admission: Admission,
    pub(super) network: Option<NetworkPlan>,
    table: Arc<SessionTable>,
    pub(super) owners: RouteTable<PeerId>,
    notices: VecDeque<Notice>,
    effects: Vec<Effect>,
    rng: Rng,
}

impl Host {
    /// A node of the plan that starts with what an earlier run left on its disk.
    #[must_use]
    pub fn new(plan: &Plan, number: usize, disk: Duration, mut rng: Rng) -> Self {
        let host = &plan.hosts[number];
        let protocols = [Protocol::Sealed, Protocol::WireGuard];
        let identities = || protocols.map(|protocol| (protocol, plan::key(number, protocol, host.key(protocol))));
        let settings = Settings {
            identities: identities().into_iter().collect(),
            mode: host.mode,
            mtu: MTU,
            aes: host.aes,
            mark: disk,
            network: host.network.map(NetworkPlan::membership),
        };
        let others = (0..plan.hosts.len()).filter_map(|other| Some((other, plan.settings(number, other)?)));
        let peers: Vec<_> = others.map(|(other, settings)| (PeerId(other as u32), settings)).collect();
        let ids: Vec<_> = peers.iter().map(|(id, _)| *id).collect();
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let publics = identities().map(|(protocol, identity)| (protocol, *identity.public()));
        let mut node = Node::new(settings, peers, Box::new(rng.fork()));
        for id in &ids {
            node.set_path(*id, usize::from(MTU));
        }
        let admission = Admission::new(&publics, Zeroizing::new(secret));
        admission.set_membership(host.network.map(NetworkPlan::membership).as_ref());
        let mut host = Self {
            number,
            address: host.address,
            peers: ids.into_iter().map(|id| (plan::node(id), id)).collect(),
            left: BTreeMap::new(),
            remotes: BTreeMap::new(),
            table: node.table(),
            node,
            staged: BTreeMap::new(),
            disk,
            writing: VecDeque::new(),
            disk_full: false,
            skew: 0,
            asleep: None,
            incarnation: 0,
            said: Vec::new(),
            drops: BTreeMap::new(),
            admission,
            network: plan.hosts[number].network,
            owners: RouteTable::default(),
            notices: VecDeque::new(),
            effects: Vec::new(),
            rng,
        };
        host.publish();
        host
    }

    /// The sessions that datagrams are opened with.
    #[must_use]
    pub fn table(&self) -> &SessionTable {
        &self.table
    }

    /// How many dropped packets had this reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u32 {
        self.drops.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn drop(&mut self, reason: Reason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    // ---- inputs --------------------------------------------------------------------------------------------------------

    /// Begins.
    pub fn start(&mut self, now: Now) -> Vec<Effect> {
        self.node.start(now);
        self.settle(now)
    }

    /// Its timers are due.
    pub fn wake(&mut self, now: Now) -> Vec<Effect> {
        self.node.handle_timeout(now);
        self.settle(now)
    }

    /// The machine slept.
    pub fn gap(&mut self, now: Now) -> Vec<Effect> {
        self.node.handle_gap(now);
        self.settle(now)
    }

    /// A mark is on disk.
    pub fn written(&mut self, mark: Duration, now: Now) -> Vec<Effect> {
        self.node.marked(mark, now);
        self.settle(now)
    }

    /// A worker tells something.
    pub fn tell(&mut self, notice: Notice, now: Now) -> Vec<Effect> {
        self.notices.push_back(notice);
        self.settle(now)
    }

    /// A packet of the device's.
    pub fn egress(&mut self, packet: Vec<u8>, now: Now) -> Vec<Effect> {
        let owner = IpPacket::parse(&packet).ok().and_then(|packet| self.owners.longest_match(packet.destination()));
        match owner {
            Some(id) => self.seal(id, packet, now),
            None => self.drop(Reason::NoRoute),
        }
        self.settle(now)
    }

    /// A datagram of the network's.
    pub fn ingress(&mut self, datagram: Vec<u8>, from: SocketAddr, now: Now, check: &mut Check) -> Vec<Effect> {
        match classify(&datagram) {
            Message::Sealed(Step::Data, _) | Message::WireGuard(Step::Data, _) => {
                if let Err(reason) = self.open(datagram, from, now, check) {
                    self.drop(reason);
                }
            }
            _ => {
                let known = self.remotes.values().any(|r| r.path.load().as_ref().is_some_and(|p| p.endpoint == from));
                let rng = &mut self.rng;
                let nonce = || {
                    let mut nonce = [0; 24];
                    rng.fill_bytes(&mut nonce);
                    nonce
                };
                match self.admission.admit(&datagram, from, known, now.time, nonce) {
                    Verdict::Pass => {
                        if let Err(reason) = self.node.handle_datagram(&datagram, from, known, now) {
                            self.drop(reason);
                        }
                    }
                    Verdict::Cookie(reply) => {
                        self.effects.push(Effect::Send { to: from, datagram: reply.to_vec(), reply: true, peer: None });
                    }
                    Verdict::Drop(reason) => self.drop(reason),
                }
            }
        }
        self.settle(now)
    }

    // ---- the data side -------------------------------------------------------------------------------------------------

    fn seal(&mut self, id: PeerId, packet: Vec<u8>, now: Now) {
        let Some(remote) = self.remotes.get(&id).map(Arc::clone) else { return };
        let session = remote.session.load_full().filter(|session| session.is_alive(now.time));
        // Blocks are larger than what is sent now and then; the rest is lost.
        let count = if self.rng.happens(100) { 4 } else { 1 };
        let reserved = session.and_then(|session| session.reserve(count, now.time).ok().map(|first| (session, first)));
        let Some((session, counter)) = reserved else {
            let staged = self.staged.entry(id).or_default();
            if staged.len() < STAGED {
                staged.push_back(packet);
            } else {
                self.drop(Reason::NoSession);
            }
            return self.notices.push_back(Notice::Wanted(id));
        };
        if session.wants_renewal(now.time, true) {
            self.notices.push_back(Notice::Renew(id));
        }
        let mut datagram = vec![0; session.datagram_len(packet.len(), usize::from(MTU))];
        let lane = self.rng.below(16) as u32;
        assert!(session.seal(counter, Flags::NONE, lane, &packet, &mut datagram), "a packet that fits is sealed");
        match remote.path.load_full() {
            Some(path) if path.permits(datagram.len()) => {
                if remote.activity.sent(now.time, true) {
                    self.notices.push_back(Notice::Watch(id));
                }
                self.effects.push(Effect::Send { to: path.endpoint, datagram, reply: false, peer: Some(id) });
            }
            _ => self.drop(Reason::Unproven),
        }
    }

    fn open(&mut self, mut datagram: Vec<u8>, from: SocketAddr, now: Now, check: &mut Check) -> Result<(), Reason> {
        let header = DataHeader::parse(&datagram).map_err(|_| Reason::Forged)?;
        let session = self.table.find(header.index()).session().map(Arc::clone).ok_or(Reason::UnknownSession)?;
        if !session.window().permits(header.counter) {
            return Err(Reason::Replayed);
        }
        let bytes = datagram.len();
        let opened = session.open(&header, &mut datagram, now.time).map_err(|_| Reason::Forged)?;
        let mark = session.mark(opened.counter);
        if mark == Mark::Replay {
            return Err(Reason::Replayed);
        }
        check.opened(self.number, self.incarnation, &session, opened.counter);
        let (id, index) = (session.peer(), session.index());
        let remote = self.remotes.get(&id).map(Arc::clone).ok_or(Reason::UnknownSession)?;
        let path = remote.path.load_full();
        match path.as_ref().filter(|path| path.endpoint == from) {
            Some(path) => {
                if let Some(budget) = &path.budget {
                    budget.earn(bytes);
                }
            }
            None if mark == Mark::Newest => self.notices.push_back(Notice::Roamed { index, from, bytes }),
            None => {}
        }
        if session.confirm() {
            self.notices.push_back(Notice::Confirmed { index, from, bytes });
        }
        let plaintext = datagram.get(opened.plaintext.clone()).unwrap_or_default();
        let is_packet = !opened.flags.contains(Flags::CONTROL) && !plaintext.is_empty();
        if remote.activity.received(now.time, is_packet) {
            self.notices.push_back(Notice::Watch(id));
        }
        if session.wants_renewal(now.time, false) {
            self.notices.push_back(Notice::Renew(id));
        }
        if opened.flags.contains(Flags::CONTROL) {
            let message = Control::parse(plaintext).map_err(|_| Reason::Malformed)?;
            self.notices.push_back(Notice::Control { index, from, message, bytes });
        } else if is_packet {
            let packet = IpPacket::parse(plaintext).map_err(|_| Reason::Malformed)?;
            if self.owners.longest_match(packet.source()) != Some(id) {
                return Err(Reason::WrongSource);
            }
            if packet.destination() != IpAddr::V4(plan::inner(self.number)) {
                return Err(Reason::NotForUs);
            }
            self.effects.push(Effect::Deliver(id, packet.bytes().to_vec()));
        }
        Ok(())
    }

    /// Does all that follows, until there is nothing more.
    pub(super) fn settle(&mut self, now: Now) -> Vec<Effect> {
        let mut outputs = 0;
        loop {
            if let Some(output) = self.node.next_output() {
                outputs += 1;
                assert!(outputs < 10_000, "one input has no end of outputs: {output:?}");
                self.obey(output, now);
            } else if let Some(notice) = self.notices.pop_front() {
                self.node.handle_notice(notice, now);
            } else {
                return std::mem::take(&mut self.effects);
            }
        }
    }

    fn obey(&mut self, output: Output, now: Now) {
        match output {
            Output::Transmit { to, datagram, reply, peer } => {
                self.effects.push(Effect::Send { to, datagram, reply, peer });
            }
            Output::Mark(mark) => self.effects.push(Effect::Write(mark)),
            Output::SessionUp(id) => {
                for packet in self.staged.get_mut(&id).map(std::mem::take).unwrap_or_default() {
                    self.seal(id, packet, now);
                }
                self.said.push((now.time, output));
            }
            Output::GaveUp(id) => {
                for _ in self.staged.get_mut(&id).map(std::mem::take).unwrap_or_default() {
                    self.drop(Reason::NoSession);
                }
                self.said.push((now.time, output));
            }
            Output::PathMtu(..) | Output::Moved(..) | Output::Failed(..) | Output::RoundTrip(..) => {
                self.said.push((now.time, output))
            }
        }
    }
}
