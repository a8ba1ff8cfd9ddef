//! A world that bytes drive, for the fuzzer.
//!
//! The first byte chooses who is there; then come operations: a byte that names one, and as many for its arguments as it takes. Nothing
//! arrives by itself: what is sent waits until an operation delivers, drops, repeats or changes it. What must hold is what
//! [`check`](super::check) says; bytes that make it fail are a bug.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use wire::message::{Control, Mode, Protocol};

use super::network::{Sent, Weather};
use super::people::Change;
use super::plan::{HostPlan, LinkPlan, NetworkPlan, Plan};
use super::world::World;
use crate::node::Notice;
use crate::snapshot::PeerId;

/// No input does more than this: a fuzzer would rather have many short ones.
const OPERATIONS: usize = 400;

/// Bits of the first byte.
pub mod choice {
    /// The link between the first two nodes is WireGuard's.
    pub const WIREGUARD: u8 = 1;
    /// There is a third node, and a link of the other protocol to it.
    pub const THREE: u8 = 2;
    /// The second node does not know where the first is.
    pub const BLIND: u8 = 4;
    /// The first two have different pre-shared keys.
    pub const STRANGERS: u8 = 8;
    /// The second node carries frames.
    pub const TAP: u8 = 16;
    /// The first node sends keepalives.
    pub const KEEPALIVE: u8 = 32;
    /// The second node has no AES.
    pub const NO_AES: u8 = 64;
    /// All are in a network, whose secret changes instead of pre-shared keys.
    pub const NETWORK: u8 = 128;
}

/// Operations: the low four bits of a byte; the others are its first argument.
pub mod op {
    /// Delivers the oldest datagram that waits.
    pub const DELIVER: u8 = 0;
    /// Loses it.
    pub const DROP: u8 = 1;
    /// Delivers a datagram that was sent earlier; argument: which. Every second one comes from an attacker's address.
    pub const REPLAY: u8 = 2;
    /// Delivers one with a bit changed; arguments: which, where.
    pub const MUTATE: u8 = 3;
    /// Delivers these bytes; arguments: how many, then they.
    pub const RAW: u8 = 4;
    /// Lets up to 4 s pass, by 16 ms; argument: how many of these.
    pub const MILLIS: u8 = 5;
    /// Lets up to 255 s pass; argument: seconds.
    pub const SECONDS: u8 = 6;
    /// A node has a packet for another.
    pub const OFFER: u8 = 7;
    /// A node has a packet with the address of the next one.
    pub const POSE: u8 = 8;
    /// A node restarts.
    pub const RESTART: u8 = 9;
    /// A node sleeps; argument: seconds.
    pub const SLEEP: u8 = 10;
    /// A node moves; argument: where to.
    pub const MOVE: u8 = 11;
    /// The wall clock of a node jumps; argument: by how much.
    pub const JUMP: u8 = 12;
    /// A node is told something; arguments: what, and about which session. From [`CHANGE`](super::CHANGE) on it is configured anew
    /// instead; arguments: what, and with which of a few values.
    pub const NOTICE: u8 = 13;
    /// The disk of a node is full, or not any more.
    pub const DISK: u8 = 14;
    /// All that waits is delivered.
    pub const FLUSH: u8 = 15;
}

/// See [`op::NOTICE`].
pub const CHANGE: u8 = 128;

/// Drives a world.
///
/// # Panics
/// If something does not hold that must.
pub fn drive(data: &[u8]) {
    let Some((&choices, rest)) = data.split_first() else { return };
    let mut world = World::new(plan(choices), u64::from(choices));
    // Everything that is sent waits.
    world.network.weather = Weather { loss: 1000, ..Weather::FAIR };
    let mut driver = Driver { taken: 0, world, rest };
    for _ in 0..OPERATIONS {
        if driver.operate().is_none() {
            break;
        }
    }
    driver.world.run(Duration::from_secs(1));
}

fn plan(choices: u8) -> Plan {
    let has = |choice| choices & choice != 0;
    let (one, other) = if has(choice::WIREGUARD) {
        (Protocol::WireGuard, Protocol::Sealed)
    } else {
        (Protocol::Sealed, Protocol::WireGuard)
    };
    let mut hosts: Vec<_> = (0..if has(choice::THREE) { 3 } else { 2 }).map(HostPlan::new).collect();
    hosts[1].mode = if has(choice::TAP) { Mode::Tap } else { Mode::Tun };
    hosts[1].aes = !has(choice::NO_AES);
    for host in &mut hosts {
        host.network = has(choice::NETWORK).then(|| NetworkPlan::first(1));
    }
    let mut link = LinkPlan::new(one, [0, 1]);
    link.knows[1] = !has(choice::BLIND);
    link.keepalive[0] = has(choice::KEEPALIVE).then(|| Duration::from_secs(3));
    link.preshared[1][0] = u8::from(has(choice::STRANGERS));
    let mut links = vec![link];
    if has(choice::THREE) {
        links.push(LinkPlan::new(other, [0, 2]));
    }
    Plan { hosts, links }
}

struct Driver<'a> {
    world: World,
    rest: &'a [u8],
    /// How many of the datagrams were delivered or lost.
    taken: usize,
}

impl Driver<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn operate(&mut self) -> Option<()> {
        let byte = self.byte()?;
        let (operation, argument) = (byte & 15, usize::from(byte >> 4));
        let host = argument % self.world.hosts.len();
        let next = (host + 1) % self.world.hosts.len();
        match operation {
            op::DELIVER => {
                if let Some(sent) = self.oldest() {
                    self.deliver(sent.datagram, sent.from, sent.to);
                }
            }
            op::DROP => {
                self.oldest();
            }
            op::REPLAY | op::MUTATE => {
                let which = usize::from(self.byte()?);
                let place = if operation == op::MUTATE { self.byte()? } else { 0 };
                let sent = &self.world.network.sent;
                let Sent { mut datagram, from, to, .. } = sent.get(sent.len().checked_sub(which + 1)?)?.clone();
                if operation == op::MUTATE {
                    let at = usize::from(place) % datagram.len();
                    datagram[at] ^= 1 << (argument % 8);
                }
                self.deliver(datagram, if argument % 2 == 1 { attacker(argument) } else { from }, to);
            }
            op::RAW => {
                let length = usize::from(self.byte()?).min(self.rest.len());
                let (datagram, rest) = self.rest.split_at(length);
                self.rest = rest;
                let from = if argument >= 8 { self.world.hosts[next].address } else { attacker(argument) };
                self.world.give(host, datagram.to_vec(), from);
            }
            op::MILLIS => {
                let span = Duration::from_millis(16 * u64::from(self.byte()?));
                self.world.run(span);
            }
            op::SECONDS => {
                let span = Duration::from_secs(u64::from(self.byte()?));
                self.world.run(span);
            }
            op::OFFER => {
                self.world.offer(host, if argument >= 8 { (next + 1) % self.world.hosts.len() } else { next });
            }
            op::POSE => {
                self.world.offer_as(host, next, Some(next), 40);
            }
            op::RESTART => self.world.restart(host),
            op::SLEEP => {
                let span = Duration::from_secs(u64::from(self.byte()?));
                self.world.sleep(host, span);
            }
            op::MOVE => {
                let port = 4000 + u16::from(self.byte()?);
                self.world.relocate(host, (Ipv4Addr::new(198, 51, 100, host as u8), port).into());
            }
            op::JUMP => {
                // Up to ten years either way.
                let by = i64::from(self.byte()? as i8);
                self.world.hosts[host].skew = by * by.abs() * 19_000_000_000_000;
            }
            op::NOTICE => self.notice(host)?,
            op::DISK => self.world.hosts[host].disk_full ^= true,
            _ => {
                while let Some(sent) = self.oldest() {
                    self.deliver(sent.datagram, sent.from, sent.to);
                }
            }
        }
        Some(())
    }

    /// What was sent first of all that waits. What was sent meanwhile in answer waits behind it; no more than some hundreds do.
    fn oldest(&mut self) -> Option<Sent> {
        let network = &self.world.network;
        let forgotten = network.count - network.sent.len();
        let sent = network.sent.get(self.taken.checked_sub(forgotten)?)?.clone();
        self.taken += 1;
        Some(sent)
    }

    fn deliver(&mut self, datagram: Vec<u8>, from: SocketAddr, to: SocketAddr) {
        if let Some(host) = self.world.host_at(to) {
            self.world.give(host, datagram, from);
        }
    }

    /// Tells something that may be untrue, since it is about a session that is over by now; never that bytes came which did not.
    fn notice(&mut self, host: usize) -> Option<()> {
        let (what, which) = (self.byte()?, self.byte()?);
        if let Some(what) = what.checked_sub(CHANGE) {
            self.change(host, what, which);
            return Some(());
        }
        let peer = PeerId(u32::from(which) % 4);
        let sent = &self.world.network.sent;
        // An index of this node's, most of the time: what another one sent to it begins with one.
        let index = sent.iter().rev().filter(|sent| sent.host != host).nth(usize::from(which));
        let index =
            index.and_then(|sent| sent.datagram.get(4..8)?.first_chunk().copied()).map_or(0, u32::from_le_bytes);
        let from = self.world.hosts[(host + 1) % self.world.hosts.len()].address;
        let id = u64::from(which);
        // A probe would be answered, though nobody sent it.
        let message = Control::Ack { id, length: 56 };
        let notice = match what % 6 {
            0 => Notice::Wanted(peer),
            1 => Notice::Renew(peer),
            2 => Notice::Watch(peer),
            3 => Notice::Roamed { index, from, bytes: 0 },
            4 => Notice::Confirmed { index, from, bytes: 0 },
            _ => Notice::Control { index, from, message, bytes: 0 },
        };
        self.world.tell(host, notice);
        Some(())
    }

    fn change(&mut self, host: usize, what: u8, which: u8) {
        let hosts = self.world.hosts.len();
        let other = (host + 1 + usize::from(what >> 3) % (hosts - 1)) % hosts;
        let protocol = [Protocol::Sealed, Protocol::WireGuard][usize::from(which % 2)];
        let change = match what % 8 {
            0 => Change::Remove(other),
            1 => Change::Add(other),
            2 => Change::Learn(other),
            3 => match self.world.plan.hosts[host].network {
                None => Change::Preshared(other, [which % 3; 32]),
                // Epochs 1 to 4, each with or without one before; now and then another network.
                Some(_) => {
                    let newest = 1 + u32::from(which) % 4;
                    let previous = Some(newest - 1).filter(|_| which & 4 != 0);
                    let id = if which < 240 { 1 } else { 2 };
                    Change::Membership(Some(NetworkPlan { id, newest, previous }))
                }
            },
            4 => Change::Endpoint(other, Some(self.world.hosts[other].address)),
            5 => Change::Endpoint(other, (which % 2 != 1).then(|| (Ipv4Addr::new(198, 51, 100, 250), 9).into())),
            6 => Change::Keepalive(other, Some(Duration::from_secs(u64::from(which % 16))).filter(|s| !s.is_zero())),
            _ => Change::Identity(protocol, u32::from(which % 8)),
        };
        self.world.change(host, change);
    }
}

fn attacker(number: usize) -> SocketAddr {
    (Ipv4Addr::new(203, 0, 113, number as u8), 666).into()
}
