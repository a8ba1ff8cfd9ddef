//! Lives out of seeds, and scripts for what has a name: W and R numbers are those of the project's list of cases.

mod attacks;
mod changes;
mod driven;
mod handshakes;
mod lives;
mod networks;
mod paths;
mod timers;

use std::net::SocketAddr;
use std::time::Duration;

use wire::message::{Message, Protocol, Step, classify};

use super::network::Sent;
use super::{Plan, World};
use crate::node::{Output, PeerState};
use crate::snapshot::PeerId;
use crate::time::Time;

const BOTH: [Protocol; 2] = [Protocol::Sealed, Protocol::WireGuard];

/// A round trip in fair weather.
const ROUND_TRIP: Duration = Duration::from_millis(20);

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn attacker(last: u8) -> SocketAddr {
    ([203, 0, 113, last], 666).into()
}

fn pair(protocol: Protocol, change: impl FnOnce(&mut Plan)) -> World {
    let mut plan = Plan::pair(protocol);
    change(&mut plan);
    World::new(plan, 1)
}

/// A pair of which the first has called and both have spoken. The second does not know where the first is.
fn connected(protocol: Protocol) -> World {
    let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
    let there = world.offer(0, 1);
    world.run(seconds(1));
    let back = world.offer(1, 0);
    world.run(seconds(1));
    assert!(world.check.is_delivered(there) && world.check.is_delivered(back));
    world
}

fn step(datagram: &[u8]) -> Option<Step> {
    match classify(datagram) {
        Message::Sealed(step, _) | Message::WireGuard(step, _) => Some(step),
        _ => None,
    }
}

/// What a node sent since `since`.
fn sent(world: &World, host: usize, since: Time) -> Vec<Sent> {
    world.network.sent.iter().filter(|sent| sent.host == host && sent.time >= since).cloned().collect()
}

/// What a node sent of one kind since `since`.
fn sent_as(world: &World, host: usize, kind: Step, since: Time) -> Vec<Sent> {
    sent(world, host, since).into_iter().filter(|sent| step(&sent.datagram) == Some(kind)).collect()
}

/// The last datagram of one kind that a node sent.
fn last(world: &World, host: usize, kind: Step) -> Sent {
    sent_as(world, host, kind, Time::NEVER).pop().unwrap()
}

/// Whether a packet from one to the other arrives within a second.
fn passes(world: &mut World, from: usize, to: usize) -> bool {
    let packet = world.offer(from, to);
    world.run_until(seconds(1), |world| world.check.is_delivered(packet))
}

/// What one of two nodes says of the other.
fn state(world: &World, host: usize) -> PeerState {
    let host = &world.hosts[host];
    host.node.state(host.peers[&(1 - host.number)], world.now).unwrap()
}

/// Where one of two nodes believes the other to be, and whether that is proved.
fn path(world: &World, host: usize) -> Option<(SocketAddr, bool)> {
    let host = &world.hosts[host];
    let path = host.node.remote(host.peers[&(1 - host.number)])?.path.load_full()?;
    Some((path.endpoint, path.budget.is_none()))
}

fn said(world: &World, host: usize, what: &Output) -> usize {
    world.hosts[host].said.iter().filter(|(_, output)| output == what).count()
}

/// Cuts both directions of a pair.
fn cut(world: &mut World) {
    world.network.cut.extend([(0, 1), (1, 0)]);
}
