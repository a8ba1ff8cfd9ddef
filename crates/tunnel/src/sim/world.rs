//! Time, and what happens next.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::check::Check;
use super::host::{Effect, Host};
use super::network::{Network, Sent};
use super::plan::{self, Plan};
use super::random::Rng;
use crate::node::{Notice, Now};
use crate::time::Time;

/// When the world begins: neither zero, which is never, nor a time that any timer would reach backwards from.
const BEGINNING: Time = Time::from_nanos(1_000_000_000_000);

/// The true time at [`BEGINNING`], in nanoseconds since 1970: a day in 2026.
const WALL: i64 = 1_780_000_000_000_000_000;

/// What is to happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A datagram arrives.
    Arrive {
        /// Where it came from.
        from: SocketAddr,
        /// Where it goes.
        to: SocketAddr,
        /// Its bytes.
        datagram: Vec<u8>,
    },
    /// The oldest mark on its way to the disk of this node is there, if the node still is in this incarnation.
    Written(usize, u32),
    /// One node has something to say to another.
    Offer(usize, usize),
    /// A node wakes up.
    Awake(usize),
    /// The workers of a node see its peers as they are by now, if it still is in this incarnation.
    Publish(usize, u32),
}

/// All of it.
pub struct World {
    /// What time it is.
    pub now: Time,
    /// The nodes.
    pub hosts: Vec<Host>,
    /// What is between them.
    pub network: Network,
    /// What must hold.
    pub check: Check,
    /// How they are configured.
    pub plan: Plan,
    /// What is random.
    pub rng: Rng,
    /// A sum over all that happened: the same seed gives the same.
    pub trace: u64,
    /// What happened, in words, if somebody wants to read it.
    pub diary: Option<String>,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
}

impl World {
    /// The world of a plan, in which all nodes have just started.
    #[must_use]
    pub fn new(plan: Plan, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let hosts = (0..plan.hosts.len()).map(|n| Host::new(&plan, n, Duration::ZERO, rng.fork())).collect();
        let mut world = Self {
            now: BEGINNING,
            hosts,
            network: Network::default(),
            check: Check::new(&plan),
            plan,
            rng,
            trace: 0,
            diary: None,
            events: BTreeMap::new(),
            sequence: 0,
        };
        for number in 0..world.hosts.len() {
            world.start(number);
        }
        world
    }

    fn start(&mut self, number: usize) {
        let now = self.moment(number);
        let effects = self.hosts[number].start(now);
        self.perform(number, effects);
    }

    /// What a node's clocks say.
    #[must_use]
    pub fn moment(&self, number: usize) -> Now {
        let elapsed = i64::try_from(self.now.since(BEGINNING).as_nanos()).unwrap_or(i64::MAX);
        let wall = WALL.saturating_add(elapsed).saturating_add(self.hosts[number].skew).max(0);
        Now { time: self.now, wall: Duration::from_nanos(wall as u64) }
    }

    // ---- what happens --------------------------------------------------------------------------------------------------

    /// Lets something happen later.
    pub fn plan_event(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.step(until) {}
    }

    /// Lets time pass until something is the case, for `most` at the longest; answers whether it is.
    pub fn run_until(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + most;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    /// Does what comes next, unless that is after `until`; then it is that time, and nothing was done.
    pub fn step(&mut self, until: Time) -> bool {
        let awake = self.hosts.iter().filter(|host| host.asleep.is_none());
        let timer = awake.filter_map(|host| host.node.deadline().map(|at| (at.max(self.now), host.number))).min();
        let event = self.events.first_key_value().map(|(key, _)| *key);
        match (event, timer) {
            (Some((at, sequence)), timer) if at <= until && timer.is_none_or(|(due, _)| at <= due) => {
                self.now = at;
                if let Some(event) = self.events.remove(&(at, sequence)) {
                    self.happen(event);
                }
                true
            }
            (_, Some((due, number))) if due <= until => {
                self.now = due;
                let now = self.moment(number);
                self.note(|| format!("node {number} is due"));
                let effects = self.hosts[number].wake(now);
                self.check.woken(&self.hosts[number], due);
                self.perform(number, effects);
                true
            }
            _ => {
                self.now = until;
                false
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, datagram } => {
                if let Some(number) = self.host_at(to) {
                    self.give(number, datagram, from);
                }
            }
            Event::Written(number, incarnation) => {
                let host = &mut self.hosts[number];
                if host.incarnation != incarnation {
                    return;
                }
                let Some(mark) = host.writing.pop_front() else { return };
                if host.disk_full {
                    return;
                }
                host.disk = mark;
                if let Some(until) = host.asleep {
                    // It is there; the node hears of it when it wakes up.
                    host.writing.push_front(mark);
                    let after = until.since(self.now);
                    return self.plan_event(after, Event::Written(number, incarnation));
                }
                let now = self.moment(number);
                let effects = self.hosts[number].written(mark, now);
                self.perform(number, effects);
            }
            Event::Offer(from, to) => {
                self.offer(from, to);
            }
            Event::Publish(number, incarnation) => {
                if self.hosts[number].incarnation == incarnation {
                    let now = self.moment(number);
                    let effects = self.hosts[number].shown(now);
                    self.perform(number, effects);
                }
            }
            Event::Awake(number) => {
                if self.hosts[number].asleep.is_some_and(|until| until <= self.now) {
                    self.hosts[number].asleep = None;
                    let now = self.moment(number);
                    let effects = self.hosts[number].gap(now);
                    self.perform(number, effects);
                }
            }
        }
    }

    /// The node at an address.
    #[must_use]
    pub fn host_at(&self, address: SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.address == address)
    }

    /// Gives a node a datagram, as if it came from `from`.
    pub fn give(&mut self, number: usize, datagram: Vec<u8>, from: SocketAddr) {
        if self.hosts[number].asleep.is_some() {
            return;
        }
        self.mix(&datagram);
        self.note(|| format!("node {number} gets {} bytes {:02x?} from {from}", datagram.len(), head(&datagram)));
        let now = self.moment(number);
        let effects = self.hosts[number].ingress(datagram.clone(), from, now, &mut self.check);
        self.check.received(number, &datagram, from, &effects);
        self.perform(number, effects);
    }

    pub(super) fn perform(&mut self, number: usize, effects: Vec<Effect>) {
        self.check.settled(&self.hosts[number]);
        for effect in effects {
            self.check.effect(&self.hosts[number], &effect, self.now);
            match effect {
                Effect::Send { to, datagram, .. } => self.transmit(number, to, datagram),
                Effect::Deliver(peer, packet) => {
                    self.mix(&packet);
                    let other = plan::node(peer);
                    self.note(|| format!("node {number} delivers {} bytes of node {other}", packet.len()));
                }
                Effect::Write(mark) => {
                    let host = &mut self.hosts[number];
                    host.writing.push_back(mark);
                    assert!(host.writing.len() < 10, "node {number} asks for a mark again and again");
                    let incarnation = host.incarnation;
                    self.plan_event(self.plan.hosts[number].disk, Event::Written(number, incarnation));
                }
            }
        }
    }

    fn transmit(&mut self, number: usize, to: SocketAddr, datagram: Vec<u8>) {
        self.mix(&datagram);
        self.note(|| format!("node {number} sends {} bytes {:02x?} to {to}", datagram.len(), head(&datagram)));
        let from = self.hosts[number].address;
        let sent = Sent { time: self.now, host: number, from, to, datagram };
        let cut = self.host_at(to).is_some_and(|other| self.network.cut.contains(&(number, other)));
        if !cut {
            for (after, datagram) in self.network.carry(sent.datagram.clone(), &mut self.rng) {
                self.plan_event(after, Event::Arrive { from, to, datagram });
            }
        }
        self.network.remember(sent);
    }

    // ---- what people do ------------------------------------------------------------------------------------------------

    /// One node has a packet for another; answers the packet's number.
    pub fn offer(&mut self, from: usize, to: usize) -> usize {
        let length = 28 + self.rng.index(500);
        self.offer_as(from, to, None, length)
    }

    /// As [`offer`](Self::offer), with this length, and with the source address of a third node if one is given.
    pub fn offer_as(&mut self, from: usize, to: usize, posing: Option<usize>, length: usize) -> usize {
        let (packet, bytes) = self.check.packet(from, to, posing, length, self.now);
        if self.hosts[from].asleep.is_none() {
            self.note(|| format!("node {from} has packet {packet} for node {to}"));
            let now = self.moment(from);
            let effects = self.hosts[from].egress(bytes, now);
            self.perform(from, effects);
        }
        packet
    }

    /// Tells a node something, as a worker would.
    pub fn tell(&mut self, number: usize, notice: Notice) {
        let now = self.moment(number);
        let effects = self.hosts[number].tell(notice, now);
        self.perform(number, effects);
    }

    /// Pulls the plug of a node and starts it again: all is lost but what its disk has.
    pub fn restart(&mut self, number: usize) {
        self.note(|| format!("node {number} restarts"));
        let rng = self.rng.fork();
        // What was being written may have made it.
        if self.rng.happens(500)
            && let Some(mark) = self.hosts[number].writing.front().copied()
        {
            self.hosts[number].disk = mark;
        }
        let old = &self.hosts[number];
        let mut host = Host::new(&self.plan, number, old.disk, rng);
        (host.address, host.skew, host.disk_full) = (old.address, old.skew, old.disk_full);
        host.incarnation = old.incarnation + 1;
        self.hosts[number] = host;
        self.check.restarted(number);
        self.start(number);
    }

    /// A node is somewhere else from now on, and nothing reaches its old address.
    pub fn relocate(&mut self, number: usize, address: SocketAddr) {
        if self.host_at(address).is_none() {
            self.note(|| format!("node {number} moves to {address}"));
            self.hosts[number].address = address;
        }
    }

    /// A node sleeps.
    pub fn sleep(&mut self, number: usize, span: Duration) {
        if self.hosts[number].asleep.is_none() {
            self.note(|| format!("node {number} sleeps for {span:?}"));
            self.hosts[number].asleep = Some(self.now + span);
            self.plan_event(span, Event::Awake(number));
        }
    }

    // ---- the trace -----------------------------------------------------------------------------------------------------

    fn mix(&mut self, bytes: &[u8]) {
        let time = self.now.as_nanos();
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.trace = (self.trace ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        self.trace = (self.trace ^ time).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Writes a line into the diary, if there is one.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(diary) = &mut self.diary {
            let millis = self.now.since(BEGINNING).as_secs_f64();
            let _ = writeln!(diary, "{millis:>10.4} {}", line());
        }
    }
}

fn head(datagram: &[u8]) -> &[u8] {
    datagram.get(..16).unwrap_or(datagram)
}
