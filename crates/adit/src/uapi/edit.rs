//! The configuration that a `set` makes of the present one.
//!
//! As WireGuard does it: the lines of a request take effect one after the other, a peer comes into being by being named, a prefix
//! belongs to the peer that got it last, and whoever has our own key is no peer. Peers of other transports, and those that a network's records
//! name, are out of reach: what would change them, take addresses from them, or make one key serve two transports, is refused. Of a
//! network's addresses a peer gets single ones of this node's own subnets and no others.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use tunnel::RouteTable;

use super::{Errno, PeerSet, PrefixChange, Set};
use crate::{
    config::{Origin, Overlay, Peer, TransportKind, Tunnel},
    key::{PrivateKey, PublicKey},
    switchboard::is_node,
};

/// Letters of a public key by which people tell peers apart, as `wg` users know them.
const NAME: usize = 8;

/// Our key towards `wireguard` peers. Beside sealed peers it is always one of its own.
pub(super) fn private_key(tunnel: &Tunnel) -> Option<&PrivateKey> {
    let main = tunnel.device.private_key.as_ref().filter(|_| !has_sealed(tunnel));
    tunnel.device.wireguard_private_key.as_ref().or(main)
}

/// Whether there are sealed peers, or may be at any time.
fn has_sealed(tunnel: &Tunnel) -> bool {
    is_node(tunnel) || tunnel.peers.iter().any(|peer| peer.transport == TransportKind::Sealed)
}

/// What `set` makes of `present`.
///
/// # Errors
/// EPERM: it would concern peers of other transports, or peers or addresses of a network.
pub fn edit(present: &Tunnel, set: Set) -> Result<Tunnel, Errno> {
    let Set { private_key: key, listen_port, fwmark, replace_peers, peers } = set;
    let mut tunnel = present.clone();
    if let Some(key) = key {
        set_private_key(&mut tunnel, key)?;
    }
    if let Some(port) = listen_port {
        tunnel.transport.listen.set_port(port);
    }
    if let Some(mark) = fwmark {
        tunnel.transport.fwmark = mark;
    }
    let own = private_key(&tunnel).map(PrivateKey::public_key);
    // A key that has become ours is no peer's any more.
    tunnel.peers.retain(|peer| !is_theirs(peer) || (!replace_peers && (own.is_none() || peer.public_key != own)));
    let mut table = Table::new(std::mem::take(&mut tunnel.peers), present.overlay.as_ref());
    for change in peers {
        if Some(change.public_key) != own {
            table.apply(change)?;
        }
    }
    tunnel.peers = table.into_peers();
    Ok(tunnel)
}

/// Whether a peer is one that WireGuard's tools may change.
fn is_theirs(peer: &Peer) -> bool {
    peer.transport == TransportKind::WireGuard && peer.origin != Origin::Network
}

fn set_private_key(tunnel: &mut Tunnel, key: Option<PrivateKey>) -> Result<(), Errno> {
    let is_shared = !has_sealed(tunnel);
    let device = &mut tunnel.device;
    if !is_shared {
        let is_theirs = |key: &PrivateKey| {
            device.private_key.as_ref().is_some_and(|sealed| sealed.public_key() == key.public_key())
        };
        // Without a key of their own, `wireguard` peers would be met with that of the sealed ones.
        if key.as_ref().is_none_or(is_theirs) {
            return Err(Errno::EPERM);
        }
        device.wireguard_private_key = key;
    } else {
        // One slot is enough; whatever was in the other served nobody.
        device.wireguard_private_key = None;
        device.private_key = key;
    }
    Ok(())
}

/// Peers while they change: by number, with holes.
struct Table<'a> {
    overlay: Option<&'a Overlay>,
    /// What the network's records give to nodes.
    nodes: RouteTable<()>,
    peers: Vec<Option<Peer>>,
    by_key: HashMap<PublicKey, usize>,
    names: HashSet<String>,
    /// Whose each prefix is; only there once prefixes change. The lists of the peers may hold more until the end.
    owners: Option<HashMap<IpNet, usize>>,
}

impl<'a> Table<'a> {
    fn new(peers: Vec<Peer>, overlay: Option<&'a Overlay>) -> Self {
        let mut nodes = RouteTable::default();
        for prefix in peers.iter().filter(|peer| peer.origin == Origin::Network).flat_map(|peer| &peer.allowed_ips) {
            nodes.insert(*prefix, ());
        }
        let ours = |(number, peer): (usize, &Peer)| {
            let key = peer.public_key.filter(|_| peer.transport == TransportKind::WireGuard)?;
            Some((key, number))
        };
        let by_key = peers.iter().enumerate().filter_map(ours).collect();
        let names = peers.iter().map(|peer| peer.name.to_ascii_lowercase()).collect();
        Self { overlay, nodes, peers: peers.into_iter().map(Some).collect(), by_key, names, owners: None }
    }

    fn apply(&mut self, change: PeerSet) -> Result<(), Errno> {
        let PeerSet { public_key, remove, update_only, preshared_key, endpoint, keepalive, prefixes } = change;
        let known = self.by_key.get(&public_key).copied();
        let before = known.and_then(|number| self.peers.get(number)).and_then(Option::as_ref);
        if before.is_some_and(|peer| !is_theirs(peer)) {
            return Err(Errno::EPERM);
        }
        if remove {
            if let Some(number) = known {
                self.remove(public_key, number);
            }
            return Ok(());
        }
        let number = match known {
            Some(number) => number,
            None if update_only => return Ok(()),
            None => self.add(public_key),
        };
        if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) {
            if let Some(key) = preshared_key {
                peer.preshared_key = key;
            }
            if endpoint.is_some() {
                peer.endpoint = endpoint;
            }
            if let Some(keepalive) = keepalive {
                peer.keepalive = keepalive;
            }
        }
        prefixes.into_iter().try_for_each(|prefix| self.change_prefix(number, prefix))
    }

    fn add(&mut self, key: PublicKey) -> usize {
        let number = self.peers.len();
        self.by_key.insert(key, number);
        let name = self.name(key);
        self.peers.push(Some(Peer {
            name,
            public_key: Some(key),
            endpoint: None,
            origin: Origin::File,
            allowed_ips: Vec::new(),
            transport: TransportKind::WireGuard,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
        }));
        number
    }

    /// The first letters of the key, or all of them where another peer begins alike.
    fn name(&mut self, key: PublicKey) -> String {
        // The letters of base64 for file names (RFC 4648, section 5): all of them may stand in a name.
        let letters = key.to_string().replace('+', "-").replace('/', "_").replace('=', "");
        let short: String = letters.chars().take(NAME).collect();
        if self.names.insert(short.to_ascii_lowercase()) { short } else { letters }
    }

    fn remove(&mut self, key: PublicKey, number: usize) {
        self.by_key.remove(&key);
        let Some(peer) = self.peers.get_mut(number).and_then(Option::take) else { return };
        self.names.remove(&peer.name.to_ascii_lowercase());
        if let Some(owners) = &mut self.owners {
            release(owners, &peer.allowed_ips, number);
        }
    }

    fn change_prefix(&mut self, number: usize, change: PrefixChange) -> Result<(), Errno> {
        let peers = &self.peers;
        let owners = self.owners.get_or_insert_with(|| {
            let numbered = peers.iter().enumerate();
            numbered
                .flat_map(|(number, peer)| {
                    peer.iter().flat_map(move |p| p.allowed_ips.iter().map(move |net| (*net, number)))
                })
                .collect()
        });
        match change {
            PrefixChange::Clear => {
                if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) {
                    release(owners, &peer.allowed_ips, number);
                    peer.allowed_ips.clear();
                }
            }
            PrefixChange::Remove(net) => {
                if owners.get(&net) == Some(&number) {
                    owners.remove(&net);
                }
            }
            PrefixChange::Add(net) => {
                let before = owners.get(&net).copied();
                if before == Some(number) {
                    return Ok(());
                }
                let other = before.and_then(|number| self.peers.get(number)).and_then(Option::as_ref);
                let is_nodes = self.nodes.covering(net).is_some();
                if is_nodes || other.is_some_and(|peer| !is_theirs(peer)) || !is_free(self.overlay, net) {
                    return Err(Errno::EPERM);
                }
                owners.insert(net, number);
                if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) {
                    peer.allowed_ips.push(net);
                }
            }
        }
        Ok(())
    }

    fn into_peers(mut self) -> Vec<Peer> {
        if let Some(owners) = &mut self.owners {
            for (number, peer) in self.peers.iter_mut().enumerate() {
                let Some(peer) = peer else { continue };
                // Each prefix is taken once, so that one that went and came again stands there once.
                peer.allowed_ips.retain(|net| owners.get(net) == Some(&number) && owners.remove(net).is_some());
            }
        }
        self.peers.into_iter().flatten().collect()
    }
}

/// Whether a peer of WireGuard's tools may have a prefix beside a network: outside of it, or one address of this node's.
fn is_free(overlay: Option<&Overlay>, net: IpNet) -> bool {
    let inside = |nets: &[IpNet]| nets.iter().any(|other| other.contains(&net));
    let is_host = net.prefix_len() == net.max_prefix_len();
    overlay.is_none_or(|overlay| !inside(&overlay.networks) || (is_host && inside(&overlay.subnets)))
}

fn release(owners: &mut HashMap<IpNet, usize>, prefixes: &[IpNet], number: usize) {
    for net in prefixes {
        if owners.get(net) == Some(&number) {
            owners.remove(net);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZero;
    use std::time::Duration;

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{Device, Dns, Mtu, Table as Routes, Transport, Workers};
    use crate::key::PresharedKey;

    pub(in crate::uapi) fn tunnel() -> Tunnel {
        Tunnel {
            device: Device {
                name: "wg0".into(),
                addresses: Vec::new(),
                mtu: Mtu::Fixed(1420),
                private_key: None,
                wireguard_private_key: None,
                table: Routes::Off,
                dns: Dns::default(),
            },
            transport: Transport {
                listen: "[::]:0".parse().unwrap(),
                listen_is_default: true,
                workers: Workers::Auto,
                offload: true,
                busy_poll: Duration::ZERO,
                fwmark: None,
            },
            network: None,
            overlay: None,
            observe: crate::config::Observe::default(),
            ethernet: None,
            peers: Vec::new(),
            open: true,
            source: std::path::PathBuf::new(),
        }
    }

    pub(in crate::uapi) fn key(byte: u8) -> PrivateKey {
        PrivateKey::from_bytes(Zeroizing::new([byte; 32])).unwrap()
    }

    fn public(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    pub(in crate::uapi) fn peer(byte: u8, nets: &[&str]) -> Peer {
        Peer {
            name: format!("peer{byte}"),
            public_key: Some(public(byte)),
            endpoint: None,
            origin: crate::config::Origin::File,
            allowed_ips: nets.iter().map(|text| net(text)).collect(),
            transport: TransportKind::WireGuard,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
        }
    }

    fn overlay(networks: &[&str], subnets: &[&str]) -> Overlay {
        let nets = |texts: &[&str]| texts.iter().map(|text| net(text)).collect();
        let (networks, subnets) = (nets(networks), nets(subnets));
        Overlay { networks, subnets, masquerade: false, forward: false, port: None, membership: None }
    }

    /// A node with a sealed node, a client, and a node's record that is, against all rules, of a `wireguard` peer.
    fn node() -> Tunnel {
        let sealed = Peer {
            transport: TransportKind::Sealed,
            origin: Origin::Network,
            ..peer(1, &["10.42.1.0/24", "fd42:0:0:1::/64"])
        };
        let client = Peer { origin: Origin::Client, ..peer(2, &["10.42.7.200/32"]) };
        let strange = Peer { origin: Origin::Network, ..peer(3, &["172.20.0.0/16"]) };
        let mut node = with(vec![sealed, client, strange]);
        node.overlay = Some(overlay(&["10.42.0.0/16", "fd42::/48"], &["10.42.7.0/24", "fd42:0:0:7::/64"]));
        (node.device.private_key, node.device.wireguard_private_key) = (Some(key(0x40)), Some(key(0x48)));
        node
    }

    fn refused(present: &Tunnel, peers: Vec<PeerSet>) {
        assert_eq!(edit(present, Set { peers, ..Set::default() }).err(), Some(Errno::EPERM));
    }

    #[test]
    fn what_a_networks_records_name_is_out_of_reach() {
        let node = node();
        // What a node has, a part of it, and a part that something else is nearer to.
        for taken in
            ["10.42.1.0/24", "10.42.1.128/25", "10.42.1.7/32", "fd42:0:0:1::/64", "172.20.0.0/16", "172.20.3.0/24"]
        {
            refused(&node, vec![change(9, &[add(taken)])]);
            refused(&node, vec![change(2, &[add(taken)])]);
        }
        // What is around it leaves it what it has.
        let wide = edited(&node, vec![change(9, &[add("0.0.0.0/0"), add("10.0.0.0/8"), add("172.16.0.0/12")])]);
        assert_eq!(wide.peers[..3], node.peers[..]);
        let gone = PeerSet { remove: true, ..change(3, &[]) };
        refused(&node, vec![gone]);
        refused(&node, vec![change(3, &[PrefixChange::Clear])]);
        refused(&node, vec![change(3, &[PrefixChange::Remove(net("172.20.0.0/16"))])]);
        refused(&node, vec![PeerSet { keepalive: Some(None), ..change(3, &[]) }]);
        let set = Set { replace_peers: true, ..Set::default() };
        let left = edit(&node, set).unwrap().peers;
        assert_eq!(left, [node.peers[0].clone(), node.peers[2].clone()]);
    }

    #[test]
    fn of_a_networks_addresses_a_peer_gets_single_ones_of_ours() {
        let node = node();
        for prefix in
            ["10.42.7.9/32", "10.42.7.200/32", "fd42:0:0:7::9/128", "192.168.0.0/16", "0.0.0.0/0", "10.42.0.0/15"]
        {
            let new = edited(&node, vec![change(9, &[add(prefix)])]);
            assert_eq!(new.peers[3].allowed_ips, [net(prefix)], "{prefix}");
        }
        for prefix in [
            "10.42.7.0/24",
            "10.42.7.8/31",
            "10.42.9.9/32",
            "10.42.0.0/16",
            "fd42:0:0:7::/64",
            "fd42::/48",
            "fd42:0:0:9::1/128",
        ] {
            refused(&node, vec![change(9, &[add(prefix)])]);
        }
        // Without a lease, none.
        let early = Tunnel { overlay: Some(overlay(&["10.42.0.0/16"], &[])), ..node };
        refused(&early, vec![change(9, &[add("10.42.7.9/32")])]);
    }

    #[test]
    fn the_key_of_a_node_is_neither_shown_nor_replaced_even_while_it_is_alone() {
        let mut node = Tunnel { peers: Vec::new(), ..node() };
        let shown = |node: &Tunnel| private_key(node).map(PrivateKey::public_key);
        assert_eq!(shown(&node), Some(key(0x48).public_key()));
        let set = Set { private_key: Some(Some(key(0x50))), ..Set::default() };
        let new = edit(&node, set).unwrap();
        assert_eq!(new.device.private_key.unwrap().public_key(), key(0x40).public_key());
        for same in [None, Some(key(0x40))] {
            let set = Set { private_key: Some(same), ..Set::default() };
            assert_eq!(edit(&node, set).err(), Some(Errno::EPERM));
        }
        node.device.wireguard_private_key = None;
        assert_eq!(shown(&node), None);
    }

    fn with(peers: Vec<Peer>) -> Tunnel {
        Tunnel { peers, ..tunnel() }
    }

    fn change(byte: u8, prefixes: &[PrefixChange]) -> PeerSet {
        PeerSet { prefixes: prefixes.to_vec(), ..PeerSet::new(public(byte)) }
    }

    fn add(text: &str) -> PrefixChange {
        PrefixChange::Add(net(text))
    }

    fn edited(present: &Tunnel, peers: Vec<PeerSet>) -> Tunnel {
        edit(present, Set { peers, ..Set::default() }).unwrap()
    }

    /// Each peer with its prefixes.
    fn prefixes(tunnel: &Tunnel) -> Vec<(u8, Vec<String>)> {
        let list = |peer: &Peer| {
            let texts = peer.allowed_ips.iter().map(ToString::to_string).collect();
            (peer.public_key.unwrap().as_bytes()[0], texts)
        };
        tunnel.peers.iter().map(list).collect()
    }

    #[test]
    fn a_device_changes_only_what_was_said() {
        let mut before = with(vec![peer(1, &["10.0.0.0/8"])]);
        before.device.private_key = Some(key(0x40));
        let same = edit(&before, Set::default()).unwrap();
        assert_eq!((same.peers.clone(), same.transport.clone()), (before.peers.clone(), before.transport.clone()));
        assert_eq!(same.device.private_key.unwrap().public_key(), key(0x40).public_key());
        let set = Set {
            listen_port: Some(51820),
            fwmark: Some(NonZero::new(7)),
            private_key: Some(Some(key(0x48))),
            ..Set::default()
        };
        let new = edit(&before, set).unwrap();
        assert_eq!((new.transport.listen.port(), new.transport.fwmark), (51820, NonZero::new(7)));
        assert_eq!(new.device.private_key.as_ref().unwrap().public_key(), key(0x48).public_key());
        let set = Set { fwmark: Some(None), private_key: Some(None), ..Set::default() };
        let none = edit(&new, set).unwrap();
        assert!(none.device.private_key.is_none() && none.transport.fwmark.is_none());
        assert_eq!(none.peers, before.peers);
    }

    #[test]
    fn a_peer_comes_into_being_with_its_name_and_changes_step_by_step() {
        let mut first = change(0xfb, &[add("10.0.0.0/8")]);
        first.endpoint = Some("192.0.2.2:7".parse().unwrap());
        first.preshared_key = Some(PresharedKey::from_bytes(Zeroizing::new([3; 32])).ok());
        first.keepalive = Some(Some(Duration::from_secs(25)));
        let new = edited(&tunnel(), vec![first]);
        let [peer] = &new.peers[..] else { panic!("one peer") };
        assert_eq!((peer.name.as_str(), peer.transport), ("-_v7-_v7", TransportKind::WireGuard));
        assert_eq!(peer.endpoint, "192.0.2.2:7".parse().ok());
        assert!(peer.preshared_key.is_some() && peer.keepalive.is_some());
        let mut second = change(0xfb, &[]);
        second.preshared_key = Some(None);
        second.keepalive = Some(None);
        let new = edited(&new, vec![second]);
        let [peer] = &new.peers[..] else { panic!("one peer") };
        assert!(peer.preshared_key.is_none() && peer.keepalive.is_none());
        assert_eq!(
            (peer.endpoint.clone(), peer.allowed_ips.clone()),
            ("192.0.2.2:7".parse().ok(), vec![net("10.0.0.0/8")])
        );
    }

    #[test]
    fn names_of_peers_differ() {
        let mut almost = [0xfb; 32];
        almost[31] = 0;
        let changes = vec![change(0xfb, &[]), PeerSet::new(PublicKey::from_bytes(almost))];
        let new = edited(&tunnel(), changes);
        assert_eq!(new.peers[0].name, "-_v7-_v7");
        assert_eq!(new.peers[1].name.len(), 43);
    }

    #[test]
    fn a_prefix_has_the_peer_that_got_it_last() {
        let before = with(vec![peer(1, &["10.0.0.0/8", "10.1.0.0/16"]), peer(2, &["::/0"])]);
        // Also where a new peer takes it, and within a request.
        let new = edited(
            &before,
            vec![
                change(2, &[add("10.0.0.0/8")]),
                change(3, &[add("10.0.0.0/8"), add("::/0")]),
                change(3, &[add("::/0")]),
            ],
        );
        let expected = [(1, vec!["10.1.0.0/16"]), (2, vec![]), (3, vec!["10.0.0.0/8", "::/0"])];
        assert_eq!(prefixes(&new), expected.map(|(key, nets)| (key, nets.into_iter().map(str::to_owned).collect())));
    }

    #[test]
    fn a_prefix_that_goes_and_comes_stands_there_once() {
        let before = with(vec![peer(1, &["10.0.0.0/8"]), peer(2, &[])]);
        let remove = PrefixChange::Remove(net("10.0.0.0/8"));
        let new = edited(&before, vec![change(1, &[remove, add("10.0.0.0/8"), add("10.0.0.0/8")])]);
        assert_eq!(new.peers[0].allowed_ips, [net("10.0.0.0/8")]);
        let there_and_back = vec![change(2, &[add("10.0.0.0/8")]), change(1, &[add("10.0.0.0/8")])];
        let new = edited(&before, there_and_back);
        assert_eq!((new.peers[0].allowed_ips.len(), new.peers[1].allowed_ips.len()), (1, 0));
        // Another's is not taken away by "not mine".
        let new = edited(&before, vec![change(2, &[remove])]);
        assert_eq!(new.peers[0].allowed_ips, [net("10.0.0.0/8")]);
        let new = edited(&before, vec![change(1, &[PrefixChange::Clear, add("::/0")])]);
        assert_eq!(new.peers[0].allowed_ips, [net("::/0")]);
    }

    #[test]
    fn peers_go() {
        let before = with(vec![peer(1, &["10.0.0.0/8"]), peer(2, &["::/0"]), peer(3, &[])]);
        let gone = |byte| PeerSet { remove: true, ..change(byte, &[add("::/0")]) };
        let new = edited(&before, vec![gone(1), gone(9)]);
        assert_eq!(prefixes(&new), [(2, vec!["::/0".to_owned()]), (3, vec![])]);
        // And come anew, without what they had.
        let new = edited(&before, vec![change(3, &[add("10.0.0.0/8")]), gone(1), change(1, &[])]);
        assert_eq!(prefixes(&new), [(2, vec!["::/0".to_owned()]), (3, vec!["10.0.0.0/8".to_owned()]), (1, vec![])]);
        let set = Set { replace_peers: true, peers: vec![change(2, &[])], ..Set::default() };
        assert_eq!(prefixes(&edit(&before, set).unwrap()), [(2, vec![])]);
    }

    #[test]
    fn an_update_makes_no_peer() {
        let update = PeerSet { update_only: true, ..change(1, &[add("10.0.0.0/8")]) };
        assert!(edited(&tunnel(), vec![update]).peers.is_empty());
        let before = with(vec![peer(1, &["::/0"])]);
        let update = PeerSet { update_only: true, ..change(1, &[add("10.0.0.0/8")]) };
        assert_eq!(edited(&before, vec![update]).peers[0].allowed_ips.len(), 2);
    }

    #[test]
    fn whoever_has_our_key_is_no_peer() {
        let own = key(0x40).public_key();
        let mut before = with(vec![peer(1, &["::/0"])]);
        before.device.private_key = Some(key(0x40));
        let ourselves = PeerSet { prefixes: vec![add("::/0")], ..PeerSet::new(own) };
        let new = edited(&before, vec![ourselves]);
        assert_eq!(prefixes(&new), [(1, vec!["::/0".to_owned()])]);
        // A peer whose key becomes ours goes.
        let other = Peer { public_key: Some(key(0x48).public_key()), ..peer(2, &[]) };
        before.peers.push(other);
        let set = Set { private_key: Some(Some(key(0x48))), ..Set::default() };
        assert_eq!(edit(&before, set).unwrap().peers.len(), 1);
    }

    #[test]
    fn peers_of_other_transports_are_out_of_reach() {
        let mut before = with(vec![peer(1, &["10.0.0.0/8"]), peer(2, &["fd00::/8"]), peer(3, &[])]);
        before.peers[0].transport = TransportKind::Plain;
        before.peers[1].transport = TransportKind::Sealed;
        (before.device.private_key, before.device.wireguard_private_key) = (Some(key(0x40)), Some(key(0x48)));
        for prefix in ["10.0.0.0/8", "fd00::/8"] {
            let set = Set { peers: vec![change(3, &[add(prefix)])], ..Set::default() };
            assert_eq!(edit(&before, set).err(), Some(Errno::EPERM));
        }
        // Theirs are not ours to take away, nor are they peers of ours.
        let mut gone = change(2, &[]);
        gone.remove = true;
        let set = Set { replace_peers: true, peers: vec![gone], ..Set::default() };
        let new = edit(&before, set).unwrap();
        assert_eq!(new.peers, before.peers[..2]);
        // The same public key is another peer by another transport.
        let new = edited(&before, vec![change(2, &[add("::/0")])]);
        assert_eq!(new.peers.len(), 4);
        // One key does not serve two transports.
        for key in [None, Some(key(0x40))] {
            let set = Set { private_key: Some(key), ..Set::default() };
            assert_eq!(edit(&before, set).err(), Some(Errno::EPERM));
        }
        let set = Set { private_key: Some(Some(key(0x50))), ..Set::default() };
        let new = edit(&before, set).unwrap();
        assert_eq!(new.device.private_key.unwrap().public_key(), key(0x40).public_key());
        assert_eq!(new.device.wireguard_private_key.unwrap().public_key(), key(0x50).public_key());
    }

    /// A step of a request, as small as there is.
    fn steps() -> impl Strategy<Value = Vec<PeerSet>> {
        let nets = prop::sample::select(vec!["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "::/0", "fd00::1/128"]);
        let prefix = (0..6u8, nets).prop_map(|(kind, text)| match kind {
            0 => PrefixChange::Clear,
            1 => PrefixChange::Remove(net(text)),
            _ => add(text),
        });
        let step = (1..5u8, 0..12u8, prop::collection::vec(prefix, 0..4)).prop_map(|(byte, kind, prefixes)| PeerSet {
            remove: kind == 0,
            update_only: kind == 1,
            ..change(byte, &prefixes)
        });
        prop::collection::vec(step, 0..24)
    }

    proptest! {
        /// Against the plainest way to do the same, in requests of one step and in one request.
        #[test]
        fn as_if_done_one_by_one(steps in steps()) {
            let mut peers: BTreeMap<u8, ()> = BTreeMap::new();
            let mut owners: BTreeMap<IpNet, u8> = BTreeMap::new();
            let mut single = tunnel();
            let mut whole = Vec::new();
            for step in steps {
                let byte = step.public_key.as_bytes()[0];
                let again = || PeerSet { remove: step.remove, update_only: step.update_only, ..change(byte, &step.prefixes) };
                whole.push(again());
                single = edited(&single, vec![again()]);
                if step.remove {
                    peers.remove(&byte);
                    owners.retain(|_, owner| *owner != byte);
                } else if !step.update_only || peers.contains_key(&byte) {
                    peers.insert(byte, ());
                    for prefix in &step.prefixes {
                        match prefix {
                            PrefixChange::Clear => owners.retain(|_, owner| *owner != byte),
                            PrefixChange::Add(net) => drop(owners.insert(*net, byte)),
                            PrefixChange::Remove(net) => {
                                if owners.get(net) == Some(&byte) {
                                    owners.remove(net);
                                }
                            }
                        }
                    }
                }
            }
            for new in [single, edited(&tunnel(), whole)] {
                let mut found: Vec<u8> = new.peers.iter().map(|peer| peer.public_key.unwrap().as_bytes()[0]).collect();
                found.sort_unstable();
                prop_assert_eq!(found, peers.keys().copied().collect::<Vec<_>>());
                let list = new.peers.iter().flat_map(|p| p.allowed_ips.iter().map(|net| (*net, p.public_key.unwrap().as_bytes()[0])));
                let list: Vec<_> = list.collect();
                prop_assert_eq!(list.len(), owners.len());
                prop_assert_eq!(list.into_iter().collect::<BTreeMap<_, _>>(), owners.clone());
                let names: HashSet<_> = new.peers.iter().map(|peer| peer.name.to_ascii_lowercase()).collect();
                prop_assert_eq!(names.len(), new.peers.len());
            }
        }
    }

    /// As many as in WireGuard's own test, all of them moved to another peer.
    #[test]
    fn many_prefixes_move_at_once() {
        let nets = || (0..255u32).flat_map(|a| (0..=255u32).map(move |b| (a, b)));
        let four = nets().map(|(a, b)| format!("{a}.{b}.0.0/16"));
        let six = nets().map(|(a, b)| format!("{a:x}:{b:x}::/32"));
        let all: Vec<_> = four.chain(six).map(|text| add(&text)).collect();
        assert_eq!(all.len(), 130_560);
        let one = edited(&tunnel(), vec![change(1, &all)]);
        assert_eq!(one.peers[0].allowed_ips.len(), all.len());
        let two = edited(&one, vec![change(2, &all)]);
        assert_eq!((two.peers[0].allowed_ips.len(), two.peers[1].allowed_ips.len()), (0, all.len()));
    }
}
