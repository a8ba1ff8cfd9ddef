//! The hops of a way in columns, as both drawings have them: on each host down from a container to the card, and up from the card to a
//! container, so that hosts meet at the foot.

use super::crossings::Crossing;
use super::journey::{Hop, Leg};
use super::observation::{DeviceKind, Direction, Place, Step};

/// A column.
#[derive(Debug)]
pub(super) struct Lane<'l> {
    /// An index into the journey's hosts.
    pub(super) host: usize,
    /// Whether it goes up, from the card to a container.
    pub(super) rising: bool,
    /// In the order in which they happened.
    pub(super) items: Vec<Item<'l>>,
}

/// What stands in a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'l> {
    Hop(&'l Hop),
    Crossing(&'l Crossing),
}

/// The columns of `leg`.
pub(super) fn lanes(leg: &Leg) -> Vec<Lane<'_>> {
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for (index, hop) in leg.hops.iter().enumerate() {
        let before = leg.crossings.iter().filter(|crossing| crossing.before == index);
        let (ends, begins): (Vec<_>, Vec<_>) = before.partition(|crossing| crossing.host != hop.host);
        if let Some(lane) = lanes.last_mut() {
            lane.items.extend(ends.into_iter().map(Item::Crossing));
        }
        let rising = match lanes.last() {
            Some(lane) if lane.host == hop.host => turn(hop).unwrap_or(lane.rising),
            _ => turn(hop).unwrap_or(false),
        };
        if lanes.last().is_none_or(|lane| lane.host != hop.host || lane.rising != rising) {
            lanes.push(Lane { host: hop.host, rising, items: Vec::new() });
        }
        if let Some(lane) = lanes.last_mut() {
            lane.items.extend(begins.into_iter().map(Item::Crossing));
            lane.items.push(Item::Hop(hop));
        }
    }
    if let Some(lane) = lanes.last_mut() {
        let after = leg.crossings.iter().filter(|crossing| crossing.before >= leg.hops.len());
        lane.items.extend(after.map(Item::Crossing));
    }
    lanes
}

/// Whether a hop says itself that it goes up, or down.
fn turn(hop: &Hop) -> Option<bool> {
    match &hop.place {
        Place::Worker { step, .. } => Some(matches!(step, Step::Received | Step::Opened | Step::Written)),
        Place::Device { kind: DeviceKind::Tun | DeviceKind::Tap | DeviceKind::Card, direction, .. } => {
            Some(*direction == Direction::In)
        }
        Place::Device { direction, .. } => hop.outer.is_some().then_some(*direction == Direction::In),
    }
}

impl<'l> Lane<'l> {
    /// The first of its hops.
    pub(super) fn first(&self) -> Option<&'l Hop> {
        self.items.iter().find_map(|item| match item {
            Item::Hop(hop) => Some(*hop),
            Item::Crossing(_) => None,
        })
    }

    /// Its contents from top to bottom.
    pub(super) fn downwards(&self) -> Vec<Item<'l>> {
        let mut items = self.items.clone();
        if self.rising {
            items.reverse();
        }
        items
    }
}
