//! Crossings between kernel and user space, and the sums of a way: what this journey took, and what the classic path would have.

use super::journey::{Hop, Host};
use super::links::leaves;
use super::observation::{DeviceKind, Direction, Place, Step};

/// A crossing between kernel and user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// It happened before the hop of this index in its leg; with the number of hops, after the last.
    pub before: usize,
    /// An index into the journey's hosts.
    pub host: usize,
    /// Whether it goes into the kernel.
    pub into_kernel: bool,
    /// The system call.
    pub call: &'static str,
    /// Whether the packet was seen on both sides of it, in the daemon and on the device; else it follows from where it was seen.
    pub seen: bool,
    /// How many calls it took.
    pub calls: u32,
    /// How many packets they carried.
    pub packets: u32,
}

/// The sums of one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls that crossed between kernel and user space.
    pub crossings: u32,
    /// Of these, how many were seen on both sides.
    pub crossings_seen: u32,
    /// How often each byte of the payload was copied, by this model: once at each crossing, as read(), write(), sendmsg() and recvmsg()
    /// copy; and once into the train, if the tunnel is plain, while sealing writes there itself and opening stays where it is. Not
    /// measured. What programs and cards copy is not in it.
    pub copies_by_model: u32,
    /// From the first hop to the last, in nanoseconds.
    pub took: i64,
    /// As how many pieces the packet travelled where it was whole.
    pub pieces: u32,
    /// What the classic path, with one packet in each call, would have taken.
    pub classic: Classic,
}

/// The classic path: what programs on TUN devices do that neither read super-packets nor send trains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classic {
    /// Its crossings: at each one that was taken here, one per packet.
    pub crossings: u32,
    /// Its packets.
    pub packets: u32,
}

/// Which side of the socket or the device something is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// In the daemon.
    User,
    /// On the tunnel's device.
    Tunnel,
    /// On what goes to other hosts.
    Underlay,
    /// Elsewhere in the kernel.
    Kernel,
}

fn side(hop: &Hop) -> Side {
    match &hop.place {
        Place::Worker { .. } => Side::User,
        Place::Device { kind: DeviceKind::Tun | DeviceKind::Tap, .. } => Side::Tunnel,
        Place::Device { .. } if hop.outer.is_some() => Side::Underlay,
        Place::Device { kind: DeviceKind::Card, .. } => Side::Underlay,
        Place::Device { .. } => Side::Kernel,
    }
}

/// The crossings of hops that are in order.
pub(super) fn crossings(hops: &[Hop], hosts: &[Host]) -> Vec<Crossing> {
    let mut found = Vec::new();
    for before in 0..=hops.len() {
        let last = before.checked_sub(1).and_then(|last| hops.get(last));
        let next = hops.get(before);
        let mut add = |hop: &Hop, into_kernel: bool, call: &'static str, seen: bool| {
            // Of a worker's step it is known how often it was taken; else each piece is a call.
            let here = || [last, next].into_iter().flatten().filter(|other| other.host == hop.host);
            let calls = here().find(|hop| side(hop) == Side::User).map_or(hop.pieces, |user| user.times);
            let packets = here().map(|hop| hop.packets).max().unwrap_or(hop.packets);
            found.push(Crossing { before, host: hop.host, into_kernel, call, seen, calls, packets });
        };
        match (last, next) {
            (Some(last), Some(next)) if last.host == next.host => match (side(last), side(next)) {
                // It went through the kernel unseen, where the device is not watched.
                (Side::User, Side::User) if written_and_read(last, next) => {
                    add(last, true, "write()", false);
                    add(next, false, "read()", false);
                }
                (Side::User, Side::User) => {}
                (Side::User, to) => add(last, true, into(last, to), true),
                (from, Side::User) => add(next, false, out_of(next, from), true),
                (Side::Tunnel, Side::Underlay) if tunnelled(last, next, Direction::Out) => {
                    add(last, false, "read()", false);
                    add(next, true, "sendmsg()", false);
                }
                (Side::Underlay, Side::Tunnel) if tunnelled(last, next, Direction::In) => {
                    add(last, false, "recvmsg()", false);
                    add(next, true, "write()", false);
                }
                _ => {}
            },
            (last, next) => {
                // At the edge of a host: what was in the daemon must have come there and gone from there.
                if let Some(hop) = last.filter(|_| next.is_some()) {
                    match side(hop) {
                        Side::User => add(hop, true, into(hop, Side::Kernel), false),
                        Side::Tunnel if goes(hop, Direction::Out) => {
                            add(hop, false, "read()", false);
                            add(hop, true, "sendmsg()", false);
                        }
                        _ => {}
                    }
                }
                let looks = |hop: &&Hop| hosts.get(hop.host).is_some_and(|host| host.permitted);
                if let Some(hop) = next.filter(looks) {
                    match side(hop) {
                        Side::User => add(hop, false, out_of(hop, Side::Kernel), false),
                        Side::Tunnel if goes(hop, Direction::In) && last.is_some() => {
                            add(hop, false, "recvmsg()", false);
                            add(hop, true, "write()", false);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn written_and_read(last: &Hop, next: &Hop) -> bool {
    let step = |hop: &Hop| match hop.place {
        Place::Worker { step, .. } => Some(step),
        Place::Device { .. } => None,
    };
    step(last) == Some(Step::Written) && step(next) == Some(Step::Read)
}

fn goes(hop: &Hop, which: Direction) -> bool {
    matches!(hop.place, Place::Device { direction, .. } if direction == which)
}

fn tunnelled(last: &Hop, next: &Hop, which: Direction) -> bool {
    goes(last, which) && goes(next, which)
}

/// The call by which it goes from a step of the worker into the kernel.
fn into(hop: &Hop, to: Side) -> &'static str {
    match to {
        Side::Tunnel => "write()",
        Side::Underlay => "sendmsg()",
        _ if leaves(&hop.place) => "sendmsg()",
        _ => "write()",
    }
}

/// The call by which it comes out of the kernel to a step of the worker.
fn out_of(hop: &Hop, from: Side) -> &'static str {
    match from {
        Side::Tunnel => "read()",
        Side::Underlay => "recvmsg()",
        _ if leaves(&hop.place) => "read()",
        _ => "recvmsg()",
    }
}

/// The sums of a way.
pub(super) fn totals(hops: &[Hop], crossings: &[Crossing]) -> Totals {
    let sum = |of: fn(&Crossing) -> u32| crossings.iter().map(of).fold(0u32, u32::saturating_add);
    let took = hops.first().zip(hops.last()).map_or(0, |(first, last)| last.at.saturating_sub(first.at));
    // Into each train that leaves a host: sealing writes there itself, a plain tunnel copies.
    let sends = |crossing: &&Crossing| crossing.into_kernel && crossing.call == "sendmsg()";
    let sealed = |host: usize| hops.iter().any(|hop| hop.host == host && hop.outer.is_some());
    let into_trains = crossings.iter().filter(sends).filter(|crossing| !sealed(crossing.host)).count();
    let at_crossings = crossings.len();
    Totals {
        crossings: sum(|crossing| crossing.calls),
        crossings_seen: sum(|crossing| if crossing.seen { crossing.calls } else { 0 }),
        copies_by_model: u32::try_from(at_crossings + into_trains).unwrap_or(u32::MAX),
        took,
        pieces: hops.iter().map(|hop| hop.pieces).min().unwrap_or(0),
        classic: Classic {
            crossings: sum(|crossing| crossing.calls.max(crossing.packets)),
            packets: hops.iter().map(|hop| hop.packets).max().unwrap_or(0),
        },
    }
}
