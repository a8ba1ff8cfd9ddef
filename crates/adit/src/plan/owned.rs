//! What a daemon owns on the host beyond its device, those of earlier runs included.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use linux::netlink::{Route, RouteKind, Rule};

use super::{Actual, Desired, Known, Prefix, Road, Setting, Territory, forwarding};

/// What is not known again by a mark of its own: it is written down before it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// The prefixes whose blackholes are ours, sorted.
    pub blackholes: Vec<Prefix>,
    /// Tables and rules of a tunnel that takes everything.
    pub roads: Vec<Road>,
    /// Whether `net.ipv4.conf.all.src_valid_mark` is set because of us.
    pub valid_mark: bool,
    /// What the names of endpoints came to last, while the tunnel takes everything: whoever is to resolve them may be behind it.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// What is ours in a network, so that a restart keeps it before the network is heard of.
    pub territory: Option<Territory>,
    /// Settings that were changed, and what they were.
    pub settings: BTreeMap<Setting, u8>,
    /// The name of the bridge that is made for the device, and made again where it is gone.
    pub bridge: Option<String>,
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
        if desired.territory.is_some() {
            self.territory.clone_from(&desired.territory);
        }
        self.claim_settings(desired, actual);
    }

    /// Notes whether the bridge is ours to make, at a start: it is not there, or is that of an earlier start.
    pub fn claim_bridge(&mut self, desired: &Desired, actual: &Actual) {
        let ours = actual.bridge.as_ref().is_none_or(|there| there.ours);
        self.bridge = desired.bridge.as_ref().filter(|_| ours).map(|bridge| bridge.name.clone());
    }

    /// Whether the bridge of this name is ours to make.
    pub(super) fn is_bridge(&self, name: &str) -> bool {
        self.bridge.as_deref() == Some(name)
    }

    /// Notes the settings that will be changed; answers whether there are new ones.
    pub fn claim_settings(&mut self, desired: &Desired, actual: &Actual) -> bool {
        let Some(switches) = &actual.switches else { return false };
        forwarding::claim(desired.territory.as_ref(), switches, &mut self.settings)
    }

    /// Forgets settings that were taken back, since nobody needs them any more; answers whether there were such.
    pub fn keep_settings(&mut self, desired: &Desired, actual: &Actual) -> bool {
        let Some(switches) = &actual.switches else { return false };
        forwarding::keep(desired.territory.as_ref(), switches, &mut self.settings)
    }

    /// Forgets what is no longer ours once `desired` stands.
    pub fn keep(&mut self, desired: &Desired) {
        let wanted: HashSet<_> = desired.prefixes.iter().collect();
        self.blackholes.retain(|prefix| wanted.contains(prefix));
        self.territory.clone_from(&desired.territory);
        let road = desired.full.as_ref().map(|full| full.road);
        self.roads.retain(|ours| Some(*ours) == road);
        if road.is_none() {
            self.valid_mark = false;
            self.addresses.clear();
        }
    }

    /// Whether one of the [actual](Actual::routes) routes is ours.
    pub(super) fn owns(&self, route: &Route) -> bool {
        let prefix = Prefix { net: route.destination, table: route.table };
        route.kind == RouteKind::Unicast
            || (route.kind == RouteKind::Blackhole && self.blackholes.binary_search(&prefix).is_ok())
            || self.roads.iter().any(|road| [road.table, road.stop].contains(&route.table))
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
