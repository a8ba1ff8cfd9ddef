//! Between which two places a packet was when it was last seen. What can have happened to it there is another matter at each.

use std::collections::BTreeSet;

use super::journey::{Hop, Leg, Way};
use super::observation::{DeviceKind, Direction, Place, Step};

/// Where a packet was when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was not seen at all.
    Unseen,
    /// In the stack of a host: it had come from a device, or stood before one that does not lead out.
    Stack,
    /// Given to the tunnel's device, not read by the daemon.
    Queue,
    /// In the worker, on its way out.
    Egress,
    /// Given to the socket, not on the card.
    Socket,
    /// On its way to another host.
    Cable,
    /// On the card of another host, not read by its daemon.
    Arrived,
    /// In the worker, on its way in.
    Ingress,
    /// Written to the tunnel's device, not seen on it.
    Written,
    /// Given to a container, or to whoever has the address.
    Delivered,
}

/// The stage of `leg` at its last hop, where the devices of these hosts are watched.
pub(super) fn stage(leg: Option<&Leg>, watched: &BTreeSet<usize>) -> Stage {
    let Some((leg, hop)) = leg.and_then(|leg| leg.hops.last().map(|hop| (leg, hop))) else { return Stage::Unseen };
    match &hop.place {
        Place::Worker { step, .. } => match step {
            Step::Read | Step::Sealed => Stage::Egress,
            // Where nobody watches the card, or a datagram has no number to be known by, it may have left the host.
            Step::Sent if hop.outer.is_none() || !watched.contains(&hop.host) => Stage::Cable,
            Step::Sent => Stage::Socket,
            Step::Received | Step::Opened => Stage::Ingress,
            Step::Written => Stage::Written,
        },
        Place::Device { kind, direction, .. } => match (kind, direction) {
            (_, Direction::In) if hop.outer.is_some() => Stage::Arrived,
            (_, Direction::Out) if hop.outer.is_some() => Stage::Cable,
            (DeviceKind::Card, Direction::Out) => Stage::Cable,
            (DeviceKind::Tun | DeviceKind::Tap, Direction::Out) => Stage::Queue,
            (DeviceKind::Bridge, Direction::Out) | (_, Direction::In) => Stage::Stack,
            (DeviceKind::Veth, Direction::Out) if begins(leg, hop) => Stage::Stack,
            (_, Direction::Out) => Stage::Delivered,
        },
    }
}

/// Whether the packet has only just left a container, by its own end of the cable.
fn begins(leg: &Leg, hop: &Hop) -> bool {
    leg.way == Way::There && leg.hops.first().is_some_and(|first| first.place == hop.place && first.host == hop.host)
}

/// The place in words, to follow "on HOST".
pub(super) fn place(place: &Place) -> String {
    match place {
        Place::Device { name, kind, direction, .. } => {
            let way = match direction {
                Direction::In => "coming from",
                Direction::Out => "going to",
            };
            let kind = match kind {
                DeviceKind::Veth => "veth ",
                DeviceKind::Bridge => "bridge ",
                DeviceKind::Tun => "TUN device ",
                DeviceKind::Tap => "TAP device ",
                DeviceKind::Card => "card ",
                DeviceKind::Loopback | DeviceKind::Other => "",
            };
            format!("{way} {kind}{name}")
        }
        Place::Worker { number, step } => {
            let done = match step {
                Step::Read => "read from the device",
                Step::Sealed => "sealed",
                Step::Sent => "given to the socket",
                Step::Received => "taken from the socket",
                Step::Opened => "opened",
                Step::Written => "about to be written to the device",
            };
            format!("{done} by worker-{number}")
        }
    }
}
