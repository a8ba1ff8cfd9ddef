//! What a view says: who is in, what is wrong with single entries, and what somebody should look at.

use std::fmt;

use ipnet::IpNet;

use super::known::{Known, Standing};
use super::ranges::Ranges;
use super::read::{What, reason};
use super::{Node, PlainNode, View};
use crate::schema::Subnets;
use crate::trust::{Bundle, Serial};

/// As many problems, and as many disputes, are named.
const NAMED: usize = 64;

/// An entry that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The part of its key after the network's prefix; without control characters, and cut.
    pub key: String,
    /// Why, as the end of a sentence.
    pub reason: String,
}

/// All entries that are not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// How many.
    pub count: usize,
    /// The first 64 of them, by their keys.
    pub named: Vec<Problem>,
}

/// What somebody should look at: the registry, or who writes to it, is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// Removals that are known to be there and are not in the registry: the first 16 of their numbers.
    Withheld(Vec<u64>),
    /// The registry's configuration contradicts ours: a sentence.
    Configuration(String),
    /// Another machine speaks with our certificate.
    Doubled,
    /// A node claims what another one holds.
    Dispute {
        /// Who claims.
        claimant: String,
        /// What.
        subnets: Subnets,
        /// Who holds some of it.
        holder: String,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Withheld(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
                let (word, verb) = if numbers.len() == 1 { ("removal", "is") } else { ("removals", "are") };
                let numbers = numbers.join(", ");
                write!(
                    f,
                    "{word} {numbers} {verb} withheld: the registry lacks what the authority said, and a node that was removed may still be in"
                )
            }
            Self::Configuration(sentence) => f.write_str(sentence),
            Self::Doubled => f.write_str(
                "another machine speaks with this node's certificate: stop it, or remove this node and join both anew",
            ),
            Self::Dispute { claimant, subnets, holder } => {
                write!(f, "{claimant} claims {subnets}, which {holder} holds: it stays where it is")
            }
        }
    }
}

impl View {
    /// All nodes but ourselves, by ascending serial.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes
            .iter()
            .filter(|(serial, known)| self.is_shown(**serial, known))
            .map(|(serial, known)| self.node(*serial, known))
            .collect()
    }

    /// Nodes that sign nothing, in the order of their subnets: none where a signed node holds or claims any of their addresses, and of two that overlap the older one.
    pub fn plain_nodes(&self) -> Vec<PlainNode> {
        let mut plain: Vec<_> = self
            .leases
            .values()
            .filter_map(|entry| match entry.what {
                What::Plain(node) => Some((entry.create_revision, node)),
                _ => None,
            })
            .collect();
        plain.sort_unstable();
        let mut taken = Ranges::default();
        let mut nodes = Vec::new();
        for (_, node) in plain {
            let free = |net: IpNet| taken.holders(&net).next().is_none();
            if self.nodes.holder(&node.subnets).is_none() && node.subnets.iter().all(free) {
                node.subnets.iter().for_each(|net| taken.take(&net, ()));
                nodes.push(node);
            }
        }
        nodes.sort_unstable();
        nodes
    }

    /// Whether a node was removed.
    pub fn removed(&self, serial: Serial) -> bool {
        self.removals.is_removed(serial)
    }

    /// All who were removed, by ascending number of the removal.
    pub fn removals(&self) -> impl Iterator<Item = Serial> {
        self.removals.known().map(|(tombstone, _)| tombstone.serial)
    }

    /// The highest number of the records that were seen of each node, by ascending serial.
    pub fn sequences(&self) -> impl Iterator<Item = (Serial, u64)> {
        self.nodes.sequences().iter().map(|(serial, sequences)| (*serial, sequences.highest))
    }

    /// The newest bundles of the secret, by ascending epoch.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.bundles.values()
    }

    /// Which node holds any of these addresses, ourselves included.
    pub fn holder(&self, subnets: &Subnets) -> Option<Serial> {
        self.nodes.holder(subnets)
    }

    /// The certificate's name of a node that is known, whether it holds anything or not.
    pub fn name(&self, serial: Serial) -> Option<&str> {
        self.nodes.get(serial).map(|known| known.record.certificate.name.as_str())
    }

    /// Whether an entry that is not a lease stands in the registry, and is believed: for whoever puts back what got lost.
    pub fn stands(&self, key: &str) -> bool {
        self.others.get(key).is_some_and(|other| other.fault.is_none())
    }

    /// Whether the registry was ever listed whole.
    pub fn was_listed(&self) -> bool {
        self.was_listed
    }

    /// What is wrong with single entries.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems { count: self.untold, named: Vec::new() };
        let mut add = |key: &dyn fmt::Display, why: String| {
            problems.count += 1;
            if problems.named.len() < NAMED {
                problems.named.push(Problem { key: reason(key).into(), reason: why });
            }
        };
        for (key, other) in &self.others {
            if let Some(fault) = &other.fault {
                let key = key.strip_prefix(&self.setting.prefix.all()).unwrap_or(key);
                add(&key, fault.to_string());
            }
        }
        let plain = self.plain_nodes();
        for (subnets, entry) in &self.leases {
            let fault = match &entry.what {
                What::Bad(fault) => Some(fault.to_string()),
                What::Reservation => None,
                What::Plain(node) => {
                    plain.binary_search(node).is_err().then(|| "another node holds some of its addresses".to_owned())
                }
                What::Signed { serial, sequence, counts } => self.fault(*serial, *sequence, *counts),
            };
            if let Some(fault) = fault {
                add(&format_args!("subnets/{}", subnets.to_key()), fault);
            }
        }
        problems
    }

    /// What somebody should look at.
    pub fn alarms(&self) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        // Who is out himself is told of that removal alone, and of no other.
        let is_out = self.setting.own.is_some_and(|own| self.removals.is_removed(own));
        let missing = self.removals.missing();
        if !missing.is_empty() && !is_out {
            alarms.push(Alarm::Withheld(missing));
        }
        alarms.extend(self.contradiction.clone().map(Alarm::Configuration));
        if self.nodes.is_doubled {
            alarms.push(Alarm::Doubled);
        }
        let disputes = self.nodes.iter().filter_map(|(_, known)| match known.standing {
            Standing::Addresses(by) if known.present => Some(Alarm::Dispute {
                claimant: known.record.certificate.name.clone(),
                subnets: known.record.subnets,
                holder: self.called(by),
            }),
            _ => None,
        });
        alarms.extend(disputes.take(NAMED));
        alarms
    }

    fn is_shown(&self, serial: Serial, known: &Known) -> bool {
        known.standing == Standing::Holds && self.setting.own != Some(serial)
    }

    fn node(&self, serial: Serial, known: &Known) -> Node {
        let own = self.setting.own.and_then(|own| self.nodes.get(own)).map_or(&[][..], |own| &own.record.endpoints);
        let networks = self.setting.network.networks();
        let record = &known.record;
        let usable = |endpoint: &&std::net::SocketAddr| {
            !own.contains(endpoint) && !networks.iter().any(|network| network.contains(&endpoint.ip()))
        };
        Node {
            serial,
            name: record.certificate.name.clone(),
            sealed_key: record.certificate.sealed_key,
            subnets: record.subnets,
            endpoints: record.endpoints.iter().filter(usable).copied().collect(),
            behind_nat: record.behind_nat,
        }
    }

    /// What is wrong with a signed record by what is known of its node.
    fn fault(&self, serial: Serial, sequence: u64, counts: bool) -> Option<String> {
        if self.removals.is_removed(serial) {
            return Some(format!("node {serial} was removed"));
        }
        let highest = self.nodes.highest(serial);
        let Some(known) = self.nodes.get(serial) else {
            let older = format!("it is older than record {highest} of node {serial}, which was seen");
            return Some(if sequence < highest { older } else { "there are too many nodes".to_owned() });
        };
        let name = &known.record.certificate.name;
        if !counts {
            return Some(if self.setting.own == Some(serial) {
                "another machine speaks with our certificate".to_owned()
            } else if sequence == known.record.sequence {
                format!("{name} is known by another record {sequence}, or by another certificate")
            } else {
                format!("{name} is known by another certificate")
            });
        }
        if sequence < known.record.sequence {
            return Some(format!("it is older than record {} of {name}, which was seen", known.record.sequence));
        }
        match known.standing {
            Standing::Holds | Standing::Waits => {
                let shown = self.node(serial, known).endpoints.len();
                (shown < known.record.endpoints.len() && self.setting.own != Some(serial))
                    .then(|| "it names an address inside of the network, or our own, which is not used".to_owned())
            }
            Standing::Released => Some(format!("{name} gave it up")),
            Standing::Addresses(by) => Some(format!("{} holds some of its addresses", self.called(by))),
            Standing::Name(by) => Some(format!("node {by} is called {name} already")),
            Standing::Key(by) => Some(format!("{} has one of its keys", self.called(by))),
        }
    }

    fn called(&self, serial: Serial) -> String {
        if self.setting.own == Some(serial) {
            return "this node".to_owned();
        }
        self.name(serial).map_or_else(|| format!("node {serial}"), str::to_owned)
    }
}
