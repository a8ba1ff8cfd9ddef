//! What a daemon owns on the host beyond its device, those of earlier runs included.

use std::collections::HashSet;

use linux::netlink::{Route, RouteKind, Rule};

use super::{Actual, Desired, Known, Prefix, Road};

/// What is not known again by a mark of its own: it is written down before it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// The prefixes whose blackholes are ours, sorted.
    pub blackholes: Vec<Prefix>,
    /// Tables and rules of a tunnel that takes everything.
    pub roads: Vec<Road>,
    /// Whether `net.ipv4.conf.all.src_valid_mark` is set because of us.
    pub valid_mark: bool,
}

impl Owned {
    /// Whether there is nothing to write down.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what will be ours once `desired` stands. A blackhole that stands already and is not ours is another daemon's: it serves us,
    /// but is not ours to remove.
    pub fn claim(&mut self, desired: &Desired, actual: &Actual) {
        let standing = Known::standing(actual);
        self.blackholes.extend(desired.prefixes.iter().filter(|p| !standing.has(&p.blackhole())));
        self.blackholes.sort_unstable();
        self.blackholes.dedup();
        if let Some(full) = &desired.full {
            self.roads.extend(Some(full.road).filter(|road| !self.roads.contains(road)));
            self.valid_mark |= !actual.valid_mark;
        }
    }

    /// Forgets what is no longer ours once `desired` stands.
    pub fn keep(&mut self, desired: &Desired) {
        let wanted: HashSet<_> = desired.prefixes.iter().collect();
        self.blackholes.retain(|prefix| wanted.contains(prefix));
        let road = desired.full.as_ref().map(|full| full.road);
        self.roads.retain(|ours| Some(*ours) == road);
        self.valid_mark &= road.is_some();
    }

    /// Whether a route of an unusual kind is ours.
    pub(super) fn owns(&self, route: &Route) -> bool {
        match route.kind {
            RouteKind::Unicast => true,
            RouteKind::Blackhole => {
                self.blackholes.binary_search(&Prefix { net: route.destination, table: route.table }).is_ok()
            }
            _ => self.roads.iter().any(|road| road.table == route.table),
        }
    }

    pub(super) fn owns_rule(&self, rule: &Rule) -> bool {
        self.roads.iter().any(|road| road.owns(rule))
    }

    /// Whether the setting may go back to what it was: no other rule goes by marks, whose owner could rely on it.
    pub(super) fn may_reset_valid_mark(&self, actual: &Actual) -> bool {
        let is_foreign = |rule: &Rule| rule.mark.is_some() && !self.owns_rule(rule);
        self.valid_mark && actual.valid_mark && !actual.rules.iter().any(is_foreign)
    }
}
