//! A whole life out of a seed: who is there, a while in which everything goes wrong and people change what they can, and a while in which
//! nothing does. After that every pair that can speak must do so again.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use wire::message::{HandshakeHeader, Mode, Protocol, Step};

use super::network::{Sent, Weather};
use super::people::Change;
use super::plan::{self, HostPlan, LinkPlan, NetworkPlan, Plan};
use super::random::Rng;
use super::world::{Event, World};
use crate::mac::MacKeys;

/// How long recovery may take: an attempt may be in its pause when the faults end, a dead path takes 15 s to be noticed, and who
/// answers to a dead address is given up after 90 s.
pub const RECOVERY: Duration = Duration::from_secs(100);

/// The same in a network: where nobody has ever answered, pauses grow to a minute, and of four attempts one may be with the right endpoint in the
/// right epoch.
const RECOVERY_OF_A_NETWORK: Duration = Duration::from_secs(100 + 4 * 60);

const TEN_YEARS: i64 = 10 * 365 * 86_400 * 1_000_000_000;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// See [`World::trace`].
    pub trace: u64,
    /// Datagrams that were sent.
    pub sent: usize,
    /// How long recovery took.
    pub recovery: Duration,
    /// What happened, in words, if that was asked for.
    pub diary: Option<String>,
}

/// Lives the life of a seed. `diary`: whether to write it down.
///
/// # Panics
/// If something does not hold that must.
#[must_use]
pub fn run(seed: u64, diary: bool) -> Report {
    let mut rng = Rng::new(seed);
    let (mut plan, mobile) = plan(&mut rng);
    // Every third life is that of a network, with chances of its own, so that the others are what they were.
    let secrets = (seed % 3 == 1).then(|| (Rng::new(!seed), 1));
    if secrets.is_some() {
        plan.hosts.iter_mut().for_each(|host| host.network = Some(NetworkPlan::first(1)));
    }
    let first = plan.clone();
    let mut life = Life { world: World::new(plan, rng.number()), first, mobile, rng, secrets };
    life.world.diary = diary.then(String::new);
    // The last words are worth the most.
    let life_and_death = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        life.trouble();
        life.recover()
    }));
    let World { trace, network, diary, .. } = life.world;
    match life_and_death {
        Ok(recovery) => Report { trace, sent: network.count, recovery, diary },
        Err(panic) => {
            let diary = diary.unwrap_or_default();
            let tail = diary.len().saturating_sub(400_000);
            eprintln!("{}seed {seed} fails; ADIT_SEED={seed} replays it alone", diary.get(tail..).unwrap_or_default());
            std::panic::resume_unwind(panic);
        }
    }
}

fn plan(rng: &mut Rng) -> (Plan, Option<usize>) {
    let count = 2 + rng.index(3);
    // Two that both move while they cannot hear each other do not find each other again; so at most one does.
    let mobile = rng.happens(500).then(|| rng.index(count));
    let hosts = (0..count).map(|number| {
        let mode = if rng.happens(40) { Mode::Tap } else { Mode::Tun };
        let disk = Duration::from_micros(100 + rng.below(50_000));
        HostPlan { aes: rng.happens(700), mode, disk, ..HostPlan::new(number) }
    });
    let hosts: Vec<_> = hosts.collect();
    let mut links = Vec::new();
    for other in 1..count {
        for one in 0..other {
            if one != 0 && rng.happens(500) {
                continue;
            }
            let protocol = if rng.happens(600) { Protocol::Sealed } else { Protocol::WireGuard };
            let mut link = LinkPlan::new(protocol, [one, other]);
            if rng.happens(300) {
                link.preshared = [[7; 32]; 2];
            }
            if rng.happens(50) {
                link.preshared[1] = [8; 32];
            }
            for keepalive in &mut link.keepalive {
                *keepalive = rng.happens(200).then(|| rng.millis(1000..25_000));
            }
            // Who moves must know the other, who in turn need not.
            let blind = usize::from(rng.happens(500));
            if rng.happens(400) && mobile != Some(link.ends[blind]) {
                link.knows[blind] = false;
            }
            links.push(link);
        }
    }
    (Plan { hosts, links }, mobile)
}

struct Life {
    world: World,
    /// How all were configured at first.
    first: Plan,
    mobile: Option<usize>,
    rng: Rng,
    /// What becomes of the network's secret, and its newest epoch.
    secrets: Option<(Rng, u32)>,
}

impl Life {
    fn trouble(&mut self) {
        let end = self.world.now + self.rng.millis(60_000..400_000);
        while self.world.now < end {
            let span = self.rng.millis(100..20_000);
            self.traffic(span);
            self.world.run(span);
            self.fault();
            self.rotate();
        }
    }

    /// Another secret for the network, which some hear of sooner than others; and who is in none, or in another one.
    fn rotate(&mut self) {
        let Some((rng, newest)) = &mut self.secrets else { return };
        if rng.happens(150) {
            *newest += 1;
        }
        for number in 0..self.world.hosts.len() {
            let now = self.world.plan.hosts[number].network;
            let told = NetworkPlan { id: 1, newest: *newest, previous: Some(newest.saturating_sub(1)) };
            let next = match (now, rng.below(100)) {
                (_, 0) => None,
                (_, 1) => Some(NetworkPlan::first(2)),
                (_, 2..40) => Some(told),
                // The grace is over.
                (Some(now), 40..50) => Some(NetworkPlan { previous: None, ..now }),
                (now, _) => now,
            };
            self.world.change(number, Change::Membership(next));
        }
    }

    /// Some packets within the next `span`.
    fn traffic(&mut self, span: Duration) {
        for [one, other] in self.directions() {
            if self.rng.happens(600) {
                for _ in 0..=self.rng.below(3) {
                    let after = self.rng.millis(0..span.as_millis() as u64);
                    self.world.plan_event(after, Event::Offer(one, other));
                }
            }
        }
    }

    fn directions(&self) -> Vec<[usize; 2]> {
        let ends = self.world.plan.links.iter().map(|link| link.ends);
        ends.flat_map(|[one, other]| [[one, other], [other, one]]).collect()
    }

    fn some_host(&mut self) -> usize {
        self.rng.index(self.world.hosts.len())
    }

    fn some_direction(&mut self) -> [usize; 2] {
        let directions = self.directions();
        directions[self.rng.index(directions.len())]
    }

    fn attacker(&mut self) -> SocketAddr {
        let last = self.rng.below(200) as u8;
        (Ipv4Addr::new(203, 0, 113, last), 1024 + self.rng.below(3) as u16).into()
    }

    // ---- what goes wrong -----------------------------------------------------------------------------------------------

    fn fault(&mut self) {
        match self.rng.below(24) {
            0 | 1 => self.world.network.weather = self.weather(),
            2 => self.world.network.weather = Weather::FAIR,
            3 => {
                let [one, other] = self.some_direction();
                self.world.network.cut.insert((one, other));
            }
            4 => self.world.network.cut.clear(),
            5 => {
                let host = self.some_host();
                self.world.restart(host);
            }
            6 => self.rebind(),
            7 => self.jump(),
            8 => {
                let (host, span) = (self.some_host(), self.rng.millis(100..250_000));
                self.world.sleep(host, span);
            }
            9 | 10 => self.replay(),
            11 => self.mutate(),
            12 => {
                let [one, other] = self.some_direction();
                self.world.offer(one, other);
                self.world.offer(other, one);
            }
            13 => {
                let [one, other] = self.some_direction();
                let third = self.some_host();
                if third != one {
                    self.world.offer_as(one, other, Some(third), 64);
                }
            }
            14 => {
                let host = self.some_host();
                self.world.hosts[host].disk_full = self.rng.happens(500);
            }
            15 => self.garbage(),
            16 => self.flood(),
            17 => self.divert(),
            _ => self.change(),
        }
    }

    // ---- what people change --------------------------------------------------------------------------------------------

    fn change(&mut self) {
        let [one, other] = self.some_direction();
        match self.rng.below(14) {
            0 | 1 => self.world.change(one, Change::Remove(other)),
            2 => self.world.part(one, other),
            3 | 4 => {
                for [one, other] in self.directions() {
                    if self.rng.happens(700) {
                        self.world.change(one, Change::Add(other));
                    }
                }
            }
            5 => {
                self.world.change(one, Change::Remove(other));
                self.world.change(one, Change::Add(other));
            }
            6 | 7 => {
                let preshared = [self.rng.below(4) as u8; 32];
                self.world.change(one, Change::Preshared(other, preshared));
                if self.rng.happens(700) {
                    let span = self.rng.millis(0..500);
                    self.world.run(span);
                    self.world.change(other, Change::Preshared(one, preshared));
                }
            }
            8 => {
                let endpoint = match self.rng.below(4) {
                    0 => None,
                    1 => Some(self.world.plan.hosts[other].address),
                    2 => Some(self.world.hosts[other].address),
                    // Nobody is there.
                    _ => Some((Ipv4Addr::new(198, 51, 100, 251), 9).into()),
                };
                self.world.change(one, Change::Endpoint(other, endpoint));
            }
            9 => {
                let keepalive = self.rng.happens(500).then(|| self.rng.millis(1000..25_000));
                self.world.change(one, Change::Keepalive(other, keepalive));
            }
            10 => {
                let protocol = if self.rng.happens(500) { Protocol::Sealed } else { Protocol::WireGuard };
                let generation = self.world.plan.hosts[one].key(protocol) + 1;
                self.world.change(one, Change::Identity(protocol, generation));
                if self.rng.happens(500) {
                    self.learn(500);
                }
            }
            11 => self.learn(700),
            _ => {
                // Some that come together.
                for _ in 0..=self.rng.below(3) {
                    self.change();
                }
            }
        }
    }

    /// Some of all learn the keys that their peers have by now.
    fn learn(&mut self, per_mille: u64) {
        for [one, other] in self.directions() {
            if self.rng.happens(per_mille) {
                self.world.change(one, Change::Learn(other));
            }
        }
    }

    /// Most of what was changed is put right: who finds whom where, who has whom as a peer, and with which keys.
    fn put_right(&mut self) {
        if let Some((rng, newest)) = &mut self.secrets {
            for number in 0..self.world.hosts.len() {
                // Some are late, and some have no grace for them.
                let late = u32::from(rng.happens(200));
                let newest = newest.saturating_sub(late).max(1);
                let previous = rng.happens(700).then(|| newest.saturating_sub(1));
                let network = NetworkPlan { id: 1, newest, previous };
                self.world.change(number, Change::Membership(Some(network)));
            }
        }
        self.learn(1000);
        for [one, other] in self.directions() {
            let mut first = self.first.clone();
            if let Some(link) = first.link_mut(one, other) {
                link.present = [true; 2];
            }
            self.world.change(one, Change::Endpoint(other, first.endpoint(one, other)));
            if one < other && self.rng.happens(800) {
                self.world.unite(one, other);
            }
            if one < other && self.rng.happens(800) {
                for [one, other] in [[one, other], [other, one]] {
                    self.world.change(one, Change::Preshared(other, [9; 32]));
                }
            }
        }
    }

    fn weather(&mut self) -> Weather {
        let rng = &mut self.rng;
        Weather {
            delay: rng.millis(0..200),
            jitter: rng.millis(0..300),
            loss: rng.below(500),
            duplicate: rng.below(300),
            corrupt: rng.below(100),
            truncate: rng.below(50),
            mtu: rng.happens(200).then(|| 1280 + rng.index(200)),
        }
    }

    fn rebind(&mut self) {
        let Some(host) = self.mobile else { return };
        let port = 2000 + self.rng.below(1000) as u16;
        let address = match self.rng.below(3) {
            0 => self.world.plan.hosts[host].address,
            1 => (self.world.hosts[host].address.ip(), port).into(),
            _ => (Ipv4Addr::new(198, 51, 100, self.rng.below(250) as u8), port).into(),
        };
        self.world.relocate(host, address);
    }

    fn jump(&mut self) {
        let host = self.some_host();
        self.world.hosts[host].skew = match self.rng.below(4) {
            0 => 0,
            1 => TEN_YEARS,
            2 => -TEN_YEARS,
            _ => self.rng.below(7_200_000_000_000) as i64 - 3_600_000_000_000,
        };
    }

    fn some_sent(&mut self) -> Option<Sent> {
        let sent = &self.world.network.sent;
        // What is recent is tried as often as all the rest.
        let length = sent.len();
        let from = if self.rng.happens(500) { length.saturating_sub(20) } else { 0 };
        sent.get(from + self.rng.index(length - from)).cloned()
    }

    fn replay(&mut self) {
        for _ in 0..=self.rng.below(20) {
            let Some(sent) = self.some_sent() else { return };
            let to = if self.rng.happens(100) { self.some_host() } else { self.world.host_at(sent.to).unwrap_or(0) };
            let from = if self.rng.happens(500) { self.attacker() } else { sent.from };
            self.world.give(to, sent.datagram, from);
        }
    }

    fn mutate(&mut self) {
        for _ in 0..=self.rng.below(10) {
            let Some(mut sent) = self.some_sent() else { return };
            match self.rng.below(4) {
                0 => sent.datagram.truncate(self.rng.index(sent.datagram.len())),
                1 => sent.datagram.extend([0; 3]),
                2 => sent.datagram[0] ^= 1 << self.rng.below(8),
                _ => {
                    let at = self.rng.index(sent.datagram.len());
                    sent.datagram[at] ^= 1 << self.rng.below(8);
                }
            }
            let to = self.world.host_at(sent.to).unwrap_or(0);
            let from = if self.rng.happens(300) { self.attacker() } else { sent.from };
            self.world.give(to, sent.datagram, from);
        }
    }

    fn garbage(&mut self) {
        for _ in 0..=self.rng.below(10) {
            let mut datagram = vec![0; self.rng.index(200)];
            self.rng.fill_bytes(&mut datagram);
            if self.rng.happens(500)
                && let Some(first) = datagram.first_mut()
            {
                *first = [1, 2, 3, 4, 0xa1, 0xa2, 0xa3, 0xa4][self.rng.index(8)];
            }
            let (to, from) = (self.some_host(), self.attacker());
            self.world.give(to, datagram, from);
        }
    }

    /// Initiations that look right from outside, from everywhere, some of them from where a peer is.
    fn flood(&mut self) {
        let (host, count) = (self.some_host(), self.rng.below(60));
        let protocol = if self.rng.happens(500) { Protocol::Sealed } else { Protocol::WireGuard };
        let generation = self.world.plan.hosts[host].key(protocol);
        let public = *plan::key(host, protocol, generation).public();
        let network = self.world.plan.hosts[host].network.filter(|_| protocol == Protocol::Sealed);
        let keys = match network.map(NetworkPlan::membership) {
            Some(network) => MacKeys::of_network(&network, &network.epochs[0], &public).expect("keys"),
            None => MacKeys::new(protocol, &public),
        };
        for _ in 0..count {
            let mut noise = vec![0; protocol.noise_len(Step::Initiation)];
            self.rng.fill_bytes(&mut noise);
            let header =
                HandshakeHeader { protocol, step: Step::Initiation, sender: self.rng.number() as u32, receiver: 0 };
            let mut datagram = header.emit(&noise).expect("it has the length of one");
            keys.sign(&mut datagram, None);
            let other = self.some_host();
            let from = if self.rng.happens(200) { self.world.hosts[other].address } else { self.attacker() };
            self.world.give(host, datagram, from);
        }
    }

    /// All that one node says to another comes from an attacker's address for a while, and first from there.
    fn divert(&mut self) {
        let [one, other] = self.some_direction();
        let attacker = self.attacker();
        self.world.network.cut.insert((one, other));
        for _ in 0..=self.rng.below(4) {
            let before = self.world.network.count;
            self.world.offer(one, other);
            let span = self.rng.millis(10..2000);
            self.world.run(span);
            let fresh = (self.world.network.count - before).min(self.world.network.sent.len());
            let at = self.world.network.sent.len() - fresh;
            let sent: Vec<_> = self.world.network.sent.range(at..).filter(|sent| sent.host == one).cloned().collect();
            for sent in sent {
                if self.world.host_at(sent.to) == Some(other) {
                    self.world.give(other, sent.datagram, attacker);
                }
            }
        }
        self.world.network.cut.remove(&(one, other));
    }

    // ---- what must come right again ------------------------------------------------------------------------------------

    fn recover(&mut self) -> Duration {
        self.world.note(|| "the faults end".to_owned());
        self.world.network.weather = Weather::FAIR;
        self.world.network.cut.clear();
        for host in 0..self.world.hosts.len() {
            self.world.hosts[host].disk_full = false;
            if self.world.hosts[host].asleep.is_some() {
                self.world.hosts[host].asleep = Some(self.world.now);
                self.world.plan_event(Duration::ZERO, Event::Awake(host));
            }
        }
        self.world.run(Duration::from_millis(1));
        self.put_right();
        let since = self.world.now;
        let passing = |[one, other]: &[usize; 2]| self.world.plan.can_pass(*one, *other);
        let mut waiting: Vec<_> = self.directions().into_iter().filter(passing).collect();
        while !waiting.is_empty() {
            for [one, other] in &waiting {
                self.world.offer(*one, *other);
            }
            self.world.run(Duration::from_secs(1));
            waiting.retain(|[one, other]| !self.world.check.passed(*one, *other, since));
            let spent = self.world.now.since(since);
            let most = if self.secrets.is_some() { RECOVERY_OF_A_NETWORK } else { RECOVERY };
            assert!(spent <= most, "after {spent:?} without faults, nothing passes in {waiting:?}");
        }
        self.world.now.since(since)
    }
}
