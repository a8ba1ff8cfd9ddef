//! Nodes and clients as peers of the tunnel: pure.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use registry::view::{Node, PlainNode};

use super::clients::Client;
use crate::config::{Endpoint, Host, Origin, Overlay, Peer, TransportKind, Tunnel};
use crate::key::PublicKey;
use crate::underlay;

/// How often a node behind NAT says something, so that its mapping lives: the shortest that is common for UDP is 30 s (RFC 4787, REQ-5).
const KEEPALIVE: Duration = Duration::from_secs(25);

/// What is to be in force.
#[derive(Clone, PartialEq)]
pub(super) struct Wanted {
    /// Ours by the lease.
    pub(super) overlay: Overlay,
    /// Nodes and clients.
    pub(super) peers: Vec<Peer>,
}

impl Wanted {
    /// The configuration that it makes of the present one; what the file says stays.
    pub(super) fn of(&self, present: &Tunnel) -> Tunnel {
        let file: Vec<Peer> = present.peers.iter().filter(|peer| peer.origin == Origin::File).cloned().collect();
        let Local { mut names, keys, prefixes } = Local::of(&file);
        let mut tunnel = Tunnel { peers: file.clone(), overlay: Some(self.overlay.clone()), ..present.clone() };
        tunnel.peers.reserve(self.peers.len());
        for peer in &self.peers {
            let mut peer = peer.clone();
            if peer.public_key.as_ref().is_some_and(|key| keys.contains(key)) {
                continue;
            }
            peer.allowed_ips.retain(|prefix| !prefixes.contains(prefix));
            if peer.allowed_ips.is_empty() {
                continue;
            }
            // A client and a node, or a node and a peer of the file, know nothing of each other's names.
            while !names.insert(peer.name.to_ascii_lowercase()) {
                peer.name.push_str(if peer.origin == Origin::Client { ".client" } else { ".node" });
            }
            tunnel.peers.push(peer);
        }
        tunnel
    }

    /// What the file of `present` keeps from being in force, as sentences.
    pub(super) fn conflicts(&self, present: &Tunnel) -> Vec<String> {
        let Local { keys, prefixes, .. } = Local::of(present.peers.iter().filter(|peer| peer.origin == Origin::File));
        let mut conflicts = Vec::new();
        for peer in &self.peers {
            if peer.public_key.as_ref().is_some_and(|key| keys.contains(key)) {
                conflicts.push(format!("{}: its key is that of a [[peer]] of the file, which counts", peer.name));
            }
            for prefix in peer.allowed_ips.iter().filter(|prefix| prefixes.contains(prefix)) {
                conflicts.push(format!("{}: {prefix} belongs to a [[peer]] of the file, which counts", peer.name));
            }
        }
        conflicts
    }
}

/// What the file gives to its peers.
struct Local {
    /// In small letters.
    names: HashSet<String>,
    keys: HashSet<PublicKey>,
    prefixes: HashSet<IpNet>,
}

impl Local {
    fn of<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> Self {
        let (mut names, mut keys, mut prefixes) = (HashSet::new(), HashSet::new(), HashSet::new());
        for peer in peers {
            names.insert(peer.name.to_ascii_lowercase());
            keys.extend(peer.public_key);
            prefixes.extend(peer.allowed_ips.iter().copied());
        }
        Self { names, keys, prefixes }
    }
}

/// Which of several endpoints of each node is tried.
#[derive(Default)]
pub(super) struct Turns(HashMap<String, usize>);

impl Turns {
    /// The next one, since nobody answers at the present one.
    pub(super) fn advance(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// Forgets those who are not there any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_there(name));
    }

    fn choose<'a>(&self, name: &str, endpoints: &[&'a SocketAddr]) -> Option<&'a SocketAddr> {
        let turn = self.0.get(name).copied().unwrap_or(0);
        endpoints.get(turn.checked_rem(endpoints.len())?).copied()
    }
}

/// A node as a peer. `listen` is where our socket is, `behind_nat` whether we cannot be called ourselves.
pub(super) fn of_node(node: &Node, listen: SocketAddr, behind_nat: bool, turns: &Turns) -> Peer {
    let usable: Vec<&SocketAddr> =
        node.endpoints.iter().filter(|address| underlay::is_usable(address, listen)).collect();
    Peer {
        name: node.name.clone(),
        public_key: Some(PublicKey::from_bytes(node.sealed_key)),
        endpoint: turns.choose(&node.name, &usable).map(at),
        allowed_ips: node.subnets.iter().collect(),
        transport: TransportKind::Sealed,
        preshared_key: None,
        keepalive: (behind_nat && !node.behind_nat && !usable.is_empty()).then_some(KEEPALIVE),
        macs: Vec::new(),
        origin: Origin::Network,
    }
}

/// How many endpoints of a node we could try.
pub(super) fn choices(node: &Node, listen: SocketAddr) -> usize {
    node.endpoints.iter().filter(|address| underlay::is_usable(address, listen)).count()
}

/// A node of flannel's own as a peer, on the port that all of a `udp` network use.
pub(super) fn of_plain_node(node: &PlainNode, port: u16) -> Peer {
    let address = SocketAddr::new(node.public_ip.into(), port);
    Peer {
        name: node.public_ip.to_string(),
        public_key: None,
        endpoint: Some(at(&address)),
        allowed_ips: node.subnets.iter().collect(),
        transport: TransportKind::Plain,
        preshared_key: None,
        keepalive: None,
        macs: Vec::new(),
        origin: Origin::Network,
    }
}

/// A client as a peer: it calls us.
pub(super) fn of_client(client: &Client) -> Peer {
    Peer {
        name: client.name.clone(),
        public_key: Some(client.public_key),
        endpoint: None,
        allowed_ips: client.addresses.clone(),
        transport: TransportKind::WireGuard,
        preshared_key: Some(client.preshared_key.clone()),
        keepalive: None,
        macs: Vec::new(),
        origin: Origin::Client,
    }
}

fn at(address: &SocketAddr) -> Endpoint {
    Endpoint { host: Host::Address(address.ip()), port: address.port() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn peer(name: &str, key: u8, prefix: &str, origin: Origin) -> Peer {
        Peer {
            name: name.into(),
            public_key: Some(PublicKey::from_bytes([key; 32])),
            endpoint: None,
            allowed_ips: vec![prefix.parse().unwrap()],
            transport: TransportKind::Sealed,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
            origin,
        }
    }

    fn wanted(peers: Vec<Peer>) -> Wanted {
        let overlay = Overlay {
            networks: Vec::new(),
            subnets: Vec::new(),
            masquerade: true,
            forward: true,
            port: None,
            membership: None,
        };
        Wanted { overlay, peers }
    }

    fn names(tunnel: &Tunnel) -> Vec<&str> {
        tunnel.peers.iter().map(|peer| peer.name.as_str()).collect()
    }

    #[test]
    fn who_has_the_name_of_another_is_called_otherwise_and_the_file_counts() {
        let network = config::Network::new(config::RegistryAt::Embedded, "here".into());
        let mut present = crate::up::node("adit0", network, None).unwrap();
        present.peers =
            vec![peer("Paris", 1, "10.1.0.0/16", Origin::File), peer("old", 2, "10.2.0.0/16", Origin::Network)];
        let wanted = wanted(vec![
            peer("berlin", 3, "10.3.0.0/24", Origin::Network),
            peer("berlin", 4, "10.4.0.1/32", Origin::Client),
            peer("paris", 5, "10.5.0.0/24", Origin::Network),
            peer("paris.node", 6, "10.6.0.0/24", Origin::Network),
            peer("thief", 1, "10.7.0.0/24", Origin::Network),
            peer("other", 7, "10.1.0.0/16", Origin::Network),
        ]);
        let tunnel = wanted.of(&present);
        assert_eq!(names(&tunnel), ["Paris", "berlin", "berlin.client", "paris.node", "paris.node.node"]);
        assert_eq!(names(&wanted.of(&tunnel)), names(&tunnel), "made twice it is the same");
        assert_eq!(wanted.conflicts(&present).len(), 2);
    }
}
