//! What `adit status` shows of the network.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use registry::trust::Serial;
use registry::view::View;

use super::clients::Client;
use super::lease::Lease;
use super::member::Member;
use super::peers::Wanted;
use crate::api::status::{ClientStatus, NetworkStatus, NodeStatus};
use crate::config::{self, Origin, TransportKind};

/// Pairs of nodes that cannot meet, named one by one; more are counted.
const NAMED: usize = 8;

/// What there is to say.
pub(super) struct Situation<'a> {
    pub(super) member: &'a Member,
    pub(super) view: Option<&'a View>,
    pub(super) wanted: Option<&'a Wanted>,
    pub(super) lease: Option<&'a Lease>,
    pub(super) clients: &'a [Client],
    pub(super) public: &'a [IpAddr],
    pub(super) port: u16,
    pub(super) behind_nat: bool,
    pub(super) lost: Option<&'a str>,
    pub(super) removed: Option<&'a str>,
    /// What revision the registry spoke of last, and when.
    pub(super) said: Option<(i64, Instant)>,
    pub(super) embedded: bool,
    pub(super) alarms: Vec<&'a String>,
    pub(super) refused: &'a [String],
    /// Who was heard, and when.
    pub(super) heard: &'a HashMap<Serial, Duration>,
}

/// The state at this moment.
pub(super) fn status(situation: &Situation<'_>) -> NetworkStatus {
    let Situation { member, view, wanted, lease, .. } = situation;
    let mut problems: Vec<String> = situation.removed.iter().map(ToString::to_string).collect();
    problems.extend(situation.alarms.iter().map(ToString::to_string));
    problems.extend_from_slice(situation.refused);
    let mut nodes: Vec<NodeStatus> = Vec::new();
    let mut skipped = 0;
    if let Some(view) = view {
        problems.extend(view.alarms().iter().map(ToString::to_string));
        let bad = view.problems();
        problems.extend(bad.named.iter().map(|problem| format!("{} is not used: {}", problem.key, problem.reason)));
        skipped = bad.count as u64;
        let known = view.nodes();
        nodes.extend(known.iter().map(|node| NodeStatus {
            name: node.name.clone(),
            serial: Some(node.serial),
            subnets: node.subnets.iter().collect(),
            endpoints: node.endpoints.iter().map(SocketAddr::to_string).collect(),
            behind_nat: node.behind_nat,
            transport: TransportKind::Sealed.to_string(),
        }));
        if situation.behind_nat {
            let both = known.iter().filter(|node| node.behind_nat && !situation.heard.contains_key(&node.serial));
            problems.extend(unreachable(both.map(|node| node.name.as_str())));
        }
    }
    let peers = || wanted.iter().flat_map(|wanted| &wanted.peers);
    nodes.extend(peers().filter(|peer| peer.origin == Origin::Network && !peer.transport.is_secure()).map(plain));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    NetworkStatus {
        id: hexadecimal(&member.network_id()),
        node: member.name().to_owned(),
        serial: member.serial(),
        trust: member.trust().into(),
        networks: wanted.map(|wanted| wanted.overlay.networks.clone()).unwrap_or_default(),
        subnets: wanted.map(|wanted| wanted.overlay.subnets.clone()).unwrap_or_default(),
        lease: lease.map_or("waiting", |lease| lease.state()).into(),
        lease_s: lease.and_then(|lease| lease.remaining()).map(|left| left.as_secs()),
        lease_age_s: lease.and_then(|lease| lease.age()).map(|age| age.as_secs()),
        registry: member.registry_urls.clone(),
        embedded: situation.embedded,
        registry_problem: situation.lost.map(str::to_owned),
        removed: situation.removed.map(str::to_owned),
        registry_revision: situation.said.map(|(revision, _)| revision),
        registry_age_s: situation.said.map(|(_, at)| at.elapsed().as_secs()),
        epoch: member.epoch(),
        public: situation.public.iter().map(|ip| SocketAddr::new(*ip, situation.port).to_string()).collect(),
        behind_nat: situation.behind_nat,
        nodes,
        clients: situation
            .clients
            .iter()
            .map(|client| ClientStatus {
                name: client.name.clone(),
                addresses: client.addresses.clone(),
                public_key: client.public_key.to_string(),
            })
            .collect(),
        // They are added when somebody asks.
        containers: Vec::new(),
        skipped,
        problems,
    }
}

/// Two nodes that both cannot be called.
fn unreachable<'a>(others: impl Iterator<Item = &'a str>) -> Vec<String> {
    let others: Vec<&str> = others.collect();
    if others.is_empty() {
        return Vec::new();
    }
    let mut named = others.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if others.len() > NAMED {
        named.push_str(&format!(" and {} more", others.len() - NAMED));
    }
    vec![format!("behind NAT, as we are, and so out of reach: {named}")]
}

fn plain(peer: &config::Peer) -> NodeStatus {
    NodeStatus {
        name: peer.name.clone(),
        serial: None,
        subnets: peer.allowed_ips.clone(),
        endpoints: peer.endpoint.iter().map(ToString::to_string).collect(),
        behind_nat: false,
        transport: peer.transport.to_string(),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
