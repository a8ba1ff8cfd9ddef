//! What people do to the configuration of nodes that run: peers come and go, keys and addresses change.
//!
//! After each change all that a node has with its *other* peers must be as before, to the byte; and with what a slow worker still holds
//! of a peer that went, nothing can be sealed or opened.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wire::message::Protocol;

use super::host::{Effect, Host};
use super::plan::{self, MOST, MTU, NetworkPlan, Plan};
use super::world::{Event, World};
use crate::RouteTable;
use crate::node::Now;
use crate::session::{REJECT_AFTER_TIME, Spent};
use crate::snapshot::PeerId;
use crate::verdict::Reason;

/// How much later workers see a change than control, at most, in microseconds.
const PUBLISHED_WITHIN: u64 = 3000;

/// What may change of a node. Other nodes are named by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has a peer no more.
    Remove(usize),
    /// It has a peer again that was removed.
    Add(usize),
    /// It has another pre-shared key with a peer.
    Preshared(usize, [u8; 32]),
    /// It is configured to find a peer elsewhere, or not told.
    Endpoint(usize, Option<SocketAddr>),
    /// It says so often that it is there.
    Keepalive(usize, Option<Duration>),
    /// It has another key itself, of which nobody else knows yet.
    Identity(Protocol, u32),
    /// It learns which key a peer has by now, and so has another peer in its place.
    Learn(usize),
    /// It is told another secret of its network, or is in another network, or in none.
    Membership(Option<NetworkPlan>),
}

impl Change {
    /// The node that it is about, if it is about one.
    #[must_use]
    pub fn other(self) -> Option<usize> {
        match self {
            Self::Remove(other) | Self::Add(other) | Self::Preshared(other, _) | Self::Endpoint(other, _) => {
                Some(other)
            }
            Self::Keepalive(other, _) | Self::Learn(other) => Some(other),
            Self::Identity(..) | Self::Membership(_) => None,
        }
    }

    /// Whether no session of before may be used after it with this node; `plan` is that of before.
    #[must_use]
    pub fn parts(self, plan: &Plan, one: usize, other: usize) -> bool {
        match self {
            Self::Identity(protocol, _) => plan.link(one, other).is_some_and(|link| link.protocol == protocol),
            Self::Membership(network) => {
                let id = |network: Option<NetworkPlan>| network.map(|network| network.id);
                let sealed = plan.link(one, other).is_some_and(|link| link.protocol == Protocol::Sealed);
                sealed && id(network) != id(plan.hosts[one].network)
            }
            Self::Remove(_) | Self::Add(_) | Self::Learn(_) => self.other() == Some(other),
            Self::Preshared(..) | Self::Endpoint(..) | Self::Keepalive(..) => false,
        }
    }

    /// Writes it into a plan; answers whether anything is different then.
    fn write(self, plan: &mut Plan, number: usize) -> bool {
        if let Self::Identity(protocol, generation) = self {
            let key = &mut plan.hosts[number].keys[plan::index(protocol)];
            return std::mem::replace(key, generation) != generation;
        }
        if let Self::Membership(network) = self {
            return std::mem::replace(&mut plan.hosts[number].network, network) != network;
        }
        let Some(other) = self.other() else { return false };
        let hosts: Vec<_> = plan.hosts.iter().map(|host| host.keys).collect();
        let Some(link) = plan.link_mut(number, other) else { return false };
        let end = link.end(number);
        let before = link.clone();
        match self {
            Self::Remove(_) => link.present[end] = false,
            Self::Add(_) => link.present[end] = true,
            Self::Preshared(_, preshared) => link.preshared[end] = preshared,
            Self::Endpoint(_, endpoint) => {
                link.knows[end] = endpoint.is_some();
                link.at[end] = endpoint;
            }
            Self::Keepalive(_, keepalive) => link.keepalive[end] = keepalive,
            Self::Learn(_) => link.believes[end] = hosts[other][plan::index(link.protocol)],
            Self::Identity(..) | Self::Membership(_) => {}
        }
        *link != before
    }
}

impl World {
    /// Changes the configuration of a node that runs. Who sleeps is changed by nobody.
    pub fn change(&mut self, number: usize, change: Change) {
        let before = self.plan.clone();
        if self.hosts[number].asleep.is_some() || !change.write(&mut self.plan, number) {
            return;
        }
        self.note(|| format!("node {number} is changed: {change:?}"));
        let now = self.moment(number);
        let host = &self.hosts[number];
        // Whom it was asking it asks anew.
        let asking: Vec<_> = host.peers.iter().filter(|(_, id)| host.node.is_asking(**id)).map(|(n, _)| *n).collect();
        let concerned = |other: usize| match change {
            Change::Identity(..) => change.parts(&before, number, other),
            Change::Membership(_) => change.parts(&before, number, other) || asking.contains(&other),
            _ => change.other() == Some(other),
        };
        let kept = host
            .peers
            .iter()
            .filter(|(other, _)| matches!(change, Change::Membership(_)) && !change.parts(&before, number, **other));
        let kept: Vec<_> = kept.flat_map(|(_, id)| host.node.sessions(*id)).filter(|s| s.is_alive(now.time)).collect();
        let others = |host: &Host| -> BTreeMap<usize, String> {
            let others = host.peers.iter().filter(|(other, _)| !concerned(**other));
            others.map(|(other, id)| (*other, host.node.fingerprint(*id).expect("a peer"))).collect()
        };
        let undisturbed = others(host);
        self.hosts[number].change(&self.plan, change, now);
        assert_eq!(others(&self.hosts[number]), undisturbed, "node {number}: {change:?} is no matter of theirs");
        let lives = |session: &std::sync::Arc<crate::session::Session>| {
            session.is_alive(now.time) && self.hosts[number].table().find(session.index()).session().is_some()
        };
        assert!(kept.iter().all(lives), "node {number}: {change:?} ends a session");
        self.check.changed(&self.plan, &self.hosts[number], change, self.now);
        let effects = self.hosts[number].settle(now);
        self.perform(number, effects);
        let after = Duration::from_micros(self.rng.below(PUBLISHED_WITHIN));
        let incarnation = self.hosts[number].incarnation;
        self.plan_event(after, Event::Publish(number, incarnation));
    }

    /// Two nodes are peers of each other no more.
    pub fn part(&mut self, one: usize, other: usize) {
        self.change(one, Change::Remove(other));
        self.change(other, Change::Remove(one));
    }

    /// Two nodes are peers of each other again.
    pub fn unite(&mut self, one: usize, other: usize) {
        self.change(one, Change::Add(other));
        self.change(other, Change::Add(one));
    }
}

impl Host {
    /// Does to control what the change asks for; `plan` has it already. Workers do not see it yet.
    fn change(&mut self, plan: &Plan, change: Change, now: Now) {
        let id = change.other().and_then(|other| self.peers.get(&other).copied());
        match (change, id) {
            (Change::Remove(other), Some(id)) => self.remove(other, id, now),
            (Change::Add(other), None) => self.add(plan, other, now),
            (Change::Learn(other), Some(id)) => {
                self.remove(other, id, now);
                self.add(plan, other, now);
            }
            (Change::Preshared(_, preshared), Some(id)) => self.node.set_preshared(id, preshared.into()),
            (Change::Endpoint(_, endpoint), Some(id)) => self.node.set_endpoint(id, endpoint, now),
            (Change::Keepalive(_, keepalive), Some(id)) => self.node.set_keepalive(id, keepalive, now),
            (Change::Identity(protocol, generation), _) => self.become_another(protocol, generation, now),
            (Change::Membership(network), _) => self.join(network, now),
            // Who is not a peer is one with that configuration when it is added.
            _ => {}
        }
    }

    fn add(&mut self, plan: &Plan, other: usize, now: Now) {
        let Some(settings) = plan.settings(self.number, other) else { return };
        self.left.retain(|_, free| *free > now.time);
        let mut numbers = (other as u32..).step_by(MOST as usize).map(PeerId);
        let id = numbers.find(|id| !self.left.contains_key(id)).expect("there is no end of numbers");
        self.node.add_peer(id, settings, now);
        self.node.set_path(id, usize::from(MTU));
        self.peers.insert(other, id);
    }

    fn remove(&mut self, other: usize, id: PeerId, now: Now) {
        let held = self.node.sessions(id);
        self.node.remove_peer(id);
        self.peers.remove(&other);
        self.left.insert(id, now.time + REJECT_AFTER_TIME);
        self.over(&held, now);
    }

    fn become_another(&mut self, protocol: Protocol, generation: u32, now: Now) {
        let identity = plan::key(self.number, protocol, generation);
        let public = *identity.public();
        let concerned = self.peers.values().filter(|id| self.node.protocol(**id) == Some(protocol));
        let held: Vec<_> = concerned.flat_map(|id| self.node.sessions(*id)).collect();
        self.node.set_identity(protocol, Some(identity), now);
        self.admission.set_identity(protocol, Some(&public));
        self.over(&held, now);
    }

    fn join(&mut self, network: Option<NetworkPlan>, now: Now) {
        let before = self.network.map(|network| network.id);
        let sealed = self.peers.values().filter(|id| self.node.protocol(**id) == Some(Protocol::Sealed));
        let held: Vec<_> = sealed.flat_map(|id| self.node.sessions(*id)).collect();
        self.admission.set_membership(network.map(NetworkPlan::membership).as_ref());
        self.node.set_membership(network.map(NetworkPlan::membership), now);
        if before != network.map(|network| network.id) {
            self.over(&held, now);
        }
        self.network = network;
    }

    /// A worker may hold these until its turn ends.
    fn over(&self, held: &[std::sync::Arc<crate::session::Session>], now: Now) {
        for session in held {
            assert_eq!(session.reserve(1, now.time), Err(Spent::Old), "a session of a peer that went seals");
            assert!(!session.is_alive(now.time), "a session of a peer that went opens");
            assert!(self.table().find(session.index()).session().is_none(), "a session of a peer that went is found");
            assert!(!self.table().is_claimed(session.index()), "the index of a peer that went is taken");
        }
    }

    /// Shows workers the peers as they are now.
    pub fn publish(&mut self) {
        let mut owners = RouteTable::default();
        // Our own address, which is no peer's.
        owners.insert(IpAddr::V4(plan::inner(self.number)).into(), PeerId(self.number as u32));
        for (other, id) in &self.peers {
            // The first node also owns what nobody owns more closely.
            let length = if *other == 0 { 16 } else { 24 };
            owners.insert(ipnet::IpNet::new(plan::inner(*other).into(), length).expect("a length below 32"), *id);
        }
        self.owners = owners;
        let remotes = self.peers.values().filter_map(|id| self.node.remote(*id).map(|remote| (*id, remote)));
        self.remotes = remotes.collect();
        let gone: Vec<_> = self.staged.keys().filter(|id| !self.remotes.contains_key(id)).copied().collect();
        for id in gone {
            for _ in self.staged.remove(&id).unwrap_or_default() {
                self.drop(Reason::NoSession);
            }
        }
    }

    /// Workers see what control knows.
    pub fn shown(&mut self, now: Now) -> Vec<Effect> {
        self.publish();
        self.settle(now)
    }
}
