//! The order of hops: by time, except where the way of a packet says better what came first.
//!
//! Time stamps alone do not do. The kernel stamps a packet once for several devices, and a worker stamps a batch; so packets appear at
//! two places at one time, or even before they were handed on. What the kernel stamped counts more.

use super::journey::Hop;
use super::links::{Sighting, arrives, leaves};
use super::observation::{DeviceKind, Direction, Place, Step};

/// Puts the hops of one way in order.
pub(super) fn ordered(mut hops: Vec<Hop>, seen: &[Sighting<'_>]) -> Vec<Hop> {
    let is_tap = |hop: &Hop| matches!(hop.place, Place::Device { kind: DeviceKind::Tap, .. });
    let seen = &Seen { sightings: seen, routed: !hops.iter().any(is_tap) };
    let times: Vec<i64> = hops.iter().map(|hop| no_later_than_devices(hop, &hops, seen)).collect();
    for (hop, at) in hops.iter_mut().zip(times) {
        hop.at = at;
    }
    // Of what may come next, the earliest is taken; at one time, what lies nearer to where packets come from.
    hops.sort_by_key(|hop| (hop.at, rank(&hop.place), std::cmp::Reverse(hop.ttl)));
    let mut waiting: Vec<(Hop, Vec<usize>)> = Vec::with_capacity(hops.len());
    for (number, hop) in hops.iter().enumerate() {
        let before = |(other, earlier): (usize, &Hop)| {
            (other != number && precedes(earlier, hop, seen)).then(|| earlier.observations.first().copied()).flatten()
        };
        waiting.push((hop.clone(), hops.iter().enumerate().filter_map(before).collect()));
    }
    let mut ordered = Vec::with_capacity(hops.len());
    while !waiting.is_empty() {
        // Contradictory observations may all wait for each other: then time alone decides.
        let next = waiting.iter().position(|(_, before)| before.is_empty()).unwrap_or(0);
        let (hop, _) = waiting.remove(next);
        if let Some(done) = hop.observations.first() {
            for (_, before) in &mut waiting {
                before.retain(|other| other != done);
            }
        }
        ordered.push(hop);
    }
    ordered
}

/// What is known of all of them.
struct Seen<'s, 't> {
    sightings: &'s [Sighting<'t>],
    /// Whether each host that the packet passes takes one from its hop limit. Between bridges none does.
    routed: bool,
}

/// The time of a hop. A worker may note a step when its whole batch is done; no step was later than the device behind it, which the kernel
/// stamped for this packet. (That none was earlier than the device before it, the order sees to.)
fn no_later_than_devices(hop: &Hop, hops: &[Hop], seen: &Seen<'_, '_>) -> i64 {
    if matches!(hop.place, Place::Device { .. }) {
        return hop.at;
    }
    let devices = hops.iter().filter(|other| matches!(other.place, Place::Device { .. }));
    let behind = devices.filter(|other| precedes(hop, other, seen)).map(|other| other.at).min();
    behind.map_or(hop.at, |behind| hop.at.min(behind))
}

/// Whether it is certain that a packet was at `first` before it was at `then`.
fn precedes(first: &Hop, then: &Hop, seen: &Seen<'_, '_>) -> bool {
    if first.host != then.host {
        return leaves(&first.place)
            && arrives(&then.place)
            && (share(first, then, seen) || (seen.routed && is_next(first, then)));
    }
    if first.ttl != then.ttl {
        return false;
    }
    match (station(&first.place), station(&then.place)) {
        (Some(first_at), Some(then_at)) if first_at < then_at => {
            let one_way = leaves(&first.place) == leaves(&then.place);
            // On the card only what is known to carry the probe: its other packets may be on their way to elsewhere.
            let on_card = |hop: &Hop| matches!(hop.place, Place::Device { kind: DeviceKind::Card, .. });
            one_way
                && (!(on_card(first) || on_card(then))
                    || share(first, then, seen)
                    || first.outer.or(then.outer).is_none())
        }
        _ => false,
    }
}

/// Whether a packet in the clear went from the card of one host to that of the next, without a router between them.
fn is_next(first: &Hop, then: &Hop) -> bool {
    let on_card = |hop: &Hop| {
        hop.outer.is_none() && matches!(hop.place, Place::Device { kind: DeviceKind::Card | DeviceKind::Veth, .. })
    };
    on_card(first) && on_card(then) && first.ttl.is_some() && first.ttl == then.ttl
}

/// Whether both saw one sealed datagram.
fn share(first: &Hop, then: &Hop, seen: &Seen<'_, '_>) -> bool {
    let others = |hop: &Hop| {
        hop.observations
            .iter()
            .filter_map(|index| seen.sightings.get(*index))
            .flat_map(|s| s.others.clone())
            .collect::<Vec<_>>()
    };
    others(first).iter().any(|other| then.observations.contains(other))
}

/// Where on the way through the daemon a place is; `None` if it is none of it.
fn station(place: &Place) -> Option<u8> {
    use DeviceKind::{Card, Tap, Tun};
    match place {
        Place::Device { kind: Tun | Tap, direction: Direction::Out, .. } => Some(0),
        Place::Worker { step: Step::Read, .. } => Some(1),
        Place::Worker { step: Step::Sealed, .. } => Some(2),
        Place::Worker { step: Step::Sent, .. } => Some(3),
        Place::Device { kind: Card, direction: Direction::Out, .. } => Some(4),
        Place::Device { kind: Card, direction: Direction::In, .. } => Some(0),
        Place::Worker { step: Step::Received, .. } => Some(1),
        Place::Worker { step: Step::Opened, .. } => Some(2),
        Place::Worker { step: Step::Written, .. } => Some(3),
        Place::Device { kind: Tun | Tap, direction: Direction::In, .. } => Some(4),
        Place::Device { .. } => None,
    }
}

/// Where a place lies between a container and another one, for what has one time.
fn rank(place: &Place) -> u8 {
    match place {
        Place::Device { kind, direction: Direction::In, .. } => match kind {
            DeviceKind::Veth => 0,
            DeviceKind::Bridge => 1,
            DeviceKind::Loopback | DeviceKind::Other => 2,
            DeviceKind::Card => 9,
            DeviceKind::Tun | DeviceKind::Tap => 13,
        },
        Place::Device { kind, direction: Direction::Out, .. } => match kind {
            DeviceKind::Tun | DeviceKind::Tap => 3,
            DeviceKind::Card => 7,
            DeviceKind::Loopback | DeviceKind::Other => 8,
            DeviceKind::Bridge => 14,
            DeviceKind::Veth => 15,
        },
        Place::Worker { step, .. } => match step {
            Step::Read => 4,
            Step::Sealed => 5,
            Step::Sent => 6,
            Step::Received => 10,
            Step::Opened => 11,
            Step::Written => 12,
        },
    }
}
