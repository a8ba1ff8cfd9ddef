//! What is a node's in a network, as far as its host has to know: addresses, packet filters.
//!
//! | Chain | Where | What it does |
//! |---|---|---|
//! | `guard` | prerouting, before connection tracking | drops what claims to come from the network but came by a way that leads elsewhere: a neighbour on a card is no member |
//! | `forward` | forward | accepts from and to the network, as flannel's `--iptables-forward-rules` |
//! | `postrouting` | postrouting | flannel's `--ip-masq`, with the rules of its iptables mode in their order |
//!
//! An accept of ours ends our chain only: another table that drops goes on dropping.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use linux::nft::{Action, Base, Chain, ChainKind, Hook, Match, Policy, Rule, Ruleset, Set};
use serde::{Deserialize, Serialize};

use super::{Prefix, table_name};

/// The mark of what kube-proxy masquerades itself.
const KUBE_PROXY: u32 = 0x4000;

/// A network and our part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Territory {
    /// All addresses of the network: at most one prefix per family as a rule.
    pub networks: Vec<IpNet>,
    /// Those of this node.
    pub subnets: Vec<IpNet>,
    /// Whether what leaves the network for elsewhere is masqueraded, and what enters it.
    pub masquerade: bool,
    /// Whether forwarding to and from the network is accepted.
    pub forward: bool,
    /// Addresses of our subnets that are behind the tunnel: clients.
    #[serde(default)]
    pub clients: Vec<IpAddr>,
}

impl Territory {
    /// The addresses of the device: the first of each subnet, which no container has, alone. So the route to the subnet is free for
    /// whatever containers hang on.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.subnets.iter().map(|subnet| IpNet::from(subnet.network()))
    }

    /// As whom the host itself speaks to the network: as the first address of its subnet, in whatever order the device got its addresses. Of
    /// IPv6 the kernel chooses so by itself (RFC 6724, section 5, rule 8), and would not take one that is not in use yet.
    pub(super) fn source(&self, prefix: &IpNet) -> Option<IpAddr> {
        let is_network = prefix.addr().is_ipv4() && self.networks.iter().any(|network| network.contains(prefix));
        let subnet = self.subnets.iter().find(|subnet| subnet.addr().is_ipv4()).filter(|_| is_network)?;
        Some(subnet.network())
    }

    /// Whether a peer's prefix has the network's route already. One within our own subnet has not: there the route to the containers would
    /// hide it.
    pub fn covers(&self, prefix: &IpNet) -> bool {
        self.networks.iter().any(|network| network.contains(prefix))
            && !self.subnets.iter().any(|subnet| subnet.contains(prefix))
    }

    /// Whether addresses of this family are in it.
    pub fn has(&self, v6: bool) -> bool {
        self.networks.iter().any(|network| network.addr().is_ipv6() == v6)
    }

    /// Our packet filters. None if neither is asked for: that is how to do without nf_tables.
    pub(super) fn filters(&self, device: &str) -> Option<Ruleset> {
        if !self.masquerade && !self.forward {
            return None;
        }
        let families: Vec<bool> = [false, true].into_iter().filter(|v6| self.has(*v6)).collect();
        let sets = families.iter().flat_map(|v6| {
            [("network", &self.networks), ("subnet", &self.subnets)].map(|(name, nets)| Set {
                name: set(name, *v6),
                v6: *v6,
                prefixes: nets.iter().filter(|net| net.addr().is_ipv6() == *v6).copied().collect(),
            })
        });
        let chain = |name: &str, kind, hook, priority, rules| Chain {
            name: name.into(),
            base: Some(Base { kind, hook, priority, device: None, policy: Policy::Accept }),
            rules,
        };
        let each = |rules: &dyn Fn(bool) -> Vec<Rule>| families.iter().flat_map(|v6| rules(*v6)).collect::<Vec<_>>();
        let mut chains = vec![chain("guard", ChainKind::Filter, Hook::Prerouting, -300, each(&|v6| guard(device, v6)))];
        if self.forward {
            chains.push(chain("forward", ChainKind::Filter, Hook::Forward, 0, each(&forward)));
        }
        if self.masquerade {
            chains.push(chain("postrouting", ChainKind::Nat, Hook::Postrouting, 100, each(&masquerade)));
        }
        Some(Ruleset { family: linux::nft::Family::Inet, table: table_name(device), sets: sets.collect(), chains })
    }
}

fn set(name: &str, v6: bool) -> String {
    format!("{name}{}", if v6 { 6 } else { 4 })
}

fn from(name: &str, v6: bool) -> Match {
    Match::SourceIn(set(name, v6))
}

fn to(name: &str, v6: bool) -> Match {
    Match::DestinationIn(set(name, v6))
}

fn guard(device: &str, v6: bool) -> Vec<Rule> {
    let claims =
        |comment: &str| Rule::new(comment).when(Match::InputDevice("lo".into()).not()).when(from("network", v6));
    let by_another = claims("from another node, but not by the tunnel")
        .when(Match::InputDevice(device.into()).not())
        .when(Match::WayBackBy(device.into()));
    let astray = claims("from the network, by a way that leads elsewhere").when(Match::WayBack.not());
    [by_another, astray].map(|rule| rule.then(Action::Counter).then(Action::Drop)).into()
}

fn forward(v6: bool) -> Vec<Rule> {
    vec![
        Rule::new("from the network").when(from("network", v6)).then(Action::Accept),
        Rule::new("to the network").when(to("network", v6)).then(Action::Accept),
    ]
}

/// The rules of flannel's chain FLANNEL-POSTRTG (pkg/trafficmngr/iptables), in their order.
fn masquerade(v6: bool) -> Vec<Rule> {
    let all_groups = if v6 {
        Ipv6Net::new([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8).map(IpNet::V6)
    } else {
        Ipv4Net::new([224, 0, 0, 0].into(), 4).map(IpNet::V4)
    };
    let groups = all_groups.ok().map(|net| Match::Destination(net).not());
    let family =
        Match::Source(super::everywhere(if v6 { linux::netlink::Family::V6 } else { linux::netlink::Family::V4 }));
    let masquerade = Action::Masquerade { random_fully: true };
    let leaving = groups.into_iter().fold(Rule::new("out of the network").when(from("network", v6)), Rule::when);
    vec![
        Rule::new("kube-proxy masquerades it")
            .when(family)
            .when(Match::Mark(KUBE_PROXY, KUBE_PROXY))
            .then(Action::Return),
        Rule::new("ours to the network").when(from("subnet", v6)).when(to("network", v6)).then(Action::Return),
        Rule::new("the network to ours").when(from("network", v6)).when(to("subnet", v6)).then(Action::Return),
        Rule::new("others to ours").when(from("subnet", v6).not()).when(to("subnet", v6)).then(Action::Return),
        leaving.then(masquerade.clone()),
        Rule::new("into the network").when(from("network", v6).not()).when(to("network", v6)).then(masquerade),
    ]
}

/// The prefixes that lead into the tunnel: those of the network, and of peers what these do not cover; in `table` as far as that has one
/// for a prefix of such a length.
pub fn prefixes(
    territory: Option<&Territory>,
    peers: impl Iterator<Item = IpNet>,
    table: impl Fn(u8) -> Option<u32>,
) -> Vec<Prefix> {
    let networks = territory.into_iter().flat_map(|territory| territory.networks.iter().map(IpNet::trunc));
    let beyond = peers.filter(|net| !territory.is_some_and(|territory| territory.covers(net)));
    networks.chain(beyond).filter_map(|net| Some(Prefix { net, table: table(net.prefix_len())? })).collect()
}
