//! From the configuration in force and the one that is wanted, what is to change between them: pure, so that every case is a table test.
//! How it is done is in `control/change.rs`.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use crate::config::{Mtu, Network, Overlay, Peer, Tunnel};
use crate::key::PrivateKey;
use crate::request::Summary;
use crate::roster::Identity;
use crate::switchboard::membership;
use crate::{Failure, Result};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A peer is new.
    Add(Identity),
    /// A peer is gone.
    Remove(Identity),
    /// Something of a peer is other than before.
    Peer(Identity, Aspect),
    /// Something beside the peers is.
    Setting(Setting),
}

/// What may change of a peer that stays who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aspect {
    /// What it is called.
    Name,
    /// Where the configuration says that it is.
    Endpoint,
    /// What lives behind it.
    AllowedIps,
    /// The link-layer addresses that it may have.
    Macs,
    /// The secret beside the keys.
    PresharedKey,
    /// How often it hears from us.
    Keepalive,
}

/// What may change beside the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "each is the field of `config::Device`, `config::Transport`, `config::Network` or `config::Tunnel` that has its name, but for the last"
)]
pub enum Setting {
    Name,
    Addresses,
    Mtu,
    PrivateKey,
    WireguardPrivateKey,
    Table,
    Dns,
    Listen,
    Workers,
    Offload,
    BusyPoll,
    Fwmark,
    Network,
    Bridge,
    Domain,
    Overlay,
    Ethernet,
    Observe,
    /// What sealed handshakes of the overlay are bound to.
    Membership,
}

impl Setting {
    /// Its word in a file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Addresses => "addresses",
            Self::Mtu => "mtu",
            Self::PrivateKey => "private key",
            Self::WireguardPrivateKey => "wireguard private key",
            Self::Table => "table",
            Self::Dns => "dns",
            Self::Listen => "listen",
            Self::Workers => "workers",
            Self::Offload => "offload",
            Self::BusyPoll => "busy-poll",
            Self::Fwmark => "fwmark",
            Self::Network => "network",
            Self::Bridge => "bridge",
            Self::Domain => "domain",
            Self::Overlay => "overlay",
            Self::Ethernet => "mode, bridge, reserve or switch",
            Self::Observe => "observe",
            Self::Membership => "membership",
        }
    }

    /// Whether it is a property of the device or of the threads, all of which last as long as the daemon.
    fn needs_restart(self) -> bool {
        matches!(self, Self::Name | Self::Workers | Self::Offload | Self::BusyPoll | Self::Network | Self::Ethernet)
    }
}

/// What is to change from `old` to `new`. The order of peers, and of a peer's prefixes, is no difference, nor is who says that somebody is one.
pub fn difference(old: &Tunnel, new: &Tunnel) -> Vec<Change> {
    let mut changes: Vec<Change> = settings(old, new).into_iter().map(Change::Setting).collect();
    let wanted: HashSet<Identity> = new.peers.iter().map(Identity::of).collect();
    let present: HashMap<Identity, &Peer> = old.peers.iter().map(|peer| (Identity::of(peer), peer)).collect();
    let gone = old.peers.iter().map(Identity::of).filter(|identity| !wanted.contains(identity));
    changes.extend(gone.map(Change::Remove));
    for peer in &new.peers {
        let identity = Identity::of(peer);
        match present.get(&identity) {
            None => changes.push(Change::Add(identity)),
            Some(before) => {
                changes.extend(aspects(before, peer).map(|aspect| Change::Peer(identity.clone(), aspect)));
            }
        }
    }
    changes
}

fn settings(old: &Tunnel, new: &Tunnel) -> Vec<Setting> {
    let (from, to) = (&old.device, &new.device);
    let (way, other) = (&old.transport, &new.transport);
    let differs = [
        (Setting::Name, from.name != to.name),
        (Setting::Addresses, !same_nets(&from.addresses, &to.addresses)),
        (Setting::Mtu, from.mtu != to.mtu),
        (Setting::PrivateKey, !same_key(from.private_key.as_ref(), to.private_key.as_ref())),
        (
            Setting::WireguardPrivateKey,
            !same_key(from.wireguard_private_key.as_ref(), to.wireguard_private_key.as_ref()),
        ),
        (Setting::Table, from.table != to.table),
        (Setting::Dns, from.dns != to.dns),
        (Setting::Listen, (way.listen, way.listen_is_default) != (other.listen, other.listen_is_default)),
        (Setting::Workers, way.workers != other.workers),
        (Setting::Offload, way.offload != other.offload),
        (Setting::BusyPoll, way.busy_poll != other.busy_poll),
        (Setting::Fwmark, way.fwmark != other.fwmark),
        (Setting::Network, !same_network(old.network.as_ref(), new.network.as_ref())),
        (Setting::Bridge, both(old, new).is_some_and(|(from, to)| from.bridge != to.bridge)),
        (Setting::Domain, both(old, new).is_some_and(|(from, to)| from.domain != to.domain)),
        (Setting::Overlay, !same_overlay(old.overlay.as_ref(), new.overlay.as_ref())),
        (Setting::Ethernet, old.ethernet != new.ethernet),
        (Setting::Observe, old.observe != new.observe),
        (Setting::Membership, membership(old) != membership(new)),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
}

fn aspects(old: &Peer, new: &Peer) -> impl Iterator<Item = Aspect> {
    let differs = [
        (Aspect::Name, old.name != new.name),
        (Aspect::Endpoint, old.endpoint != new.endpoint),
        (Aspect::AllowedIps, !same_nets(&old.allowed_ips, &new.allowed_ips)),
        (Aspect::Macs, old.macs != new.macs),
        (Aspect::PresharedKey, old.preshared_key != new.preshared_key),
        (Aspect::Keepalive, old.keepalive != new.keepalive),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(aspect, _)| aspect)
}

/// The networks of two nodes.
fn both<'a>(old: &'a Tunnel, new: &'a Tunnel) -> Option<(&'a Network, &'a Network)> {
    old.network.as_ref().zip(new.network.as_ref())
}

/// Whether this host takes part in a network in the same way, whatever its containers hang on and are called.
pub fn same_network(a: Option<&Network>, b: Option<&Network>) -> bool {
    let part = |network: &Network| Network { bridge: String::new(), domain: None, ..network.clone() };
    a.map(part) == b.map(part)
}

/// The keys under `[network]` that differ between two nodes and need another start.
pub fn network_keys(a: &Network, b: &Network) -> Vec<&'static str> {
    let differs = [
        ("registry", a.registry != b.registry),
        ("node-name", a.node_name != b.node_name),
        ("prefix", a.prefix != b.prefix),
        ("public-ip", a.public_ip != b.public_ip),
        ("lease-ttl", a.lease_ttl != b.lease_ttl),
        ("tls-ca", a.tls_ca != b.tls_ca),
        ("tls-cert", a.tls_cert != b.tls_cert),
        ("tls-key", a.tls_key != b.tls_key),
        ("user", a.user != b.user),
        ("password-file", a.password_file != b.password_file),
        ("secret-file", a.secret_file != b.secret_file),
        ("plain", a.plain != b.plain),
        ("plain-from", a.plain_from != b.plain_from),
        ("ip-masq", a.ip_masq != b.ip_masq),
        ("forward-rules", a.forward_rules != b.forward_rules),
        ("subnet-files", a.subnet_files != b.subnet_files),
        ("registry-listen", a.registry_listen != b.registry_listen),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// Whether addresses and rules of an overlay are the same, whatever handshakes are bound to.
fn same_overlay(a: Option<&Overlay>, b: Option<&Overlay>) -> bool {
    let parts = |overlay: &Overlay| {
        let Overlay { networks, subnets, masquerade, forward, port: _, membership: _ } = overlay.clone();
        (networks, subnets, masquerade, forward)
    };
    a.map(parts) == b.map(parts)
}

/// Private keys are told apart by the public ones that they make.
fn same_key(a: Option<&PrivateKey>, b: Option<&PrivateKey>) -> bool {
    a.map(PrivateKey::public_key) == b.map(PrivateKey::public_key)
}

fn same_nets(a: &[IpNet], b: &[IpNet]) -> bool {
    let sorted = |nets: &[IpNet]| {
        let mut nets = nets.to_vec();
        nets.sort_unstable();
        nets
    };
    a == b || (a.len() == b.len() && sorted(a) == sorted(b))
}

/// Checks what no change may break, before anything is touched.
///
/// # Errors
/// What can only be had by a restart, and a configuration that contradicts itself.
pub fn check(changes: &[Change], new: &Tunnel) -> Result<()> {
    let restart: Vec<&str> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Setting(setting) if setting.needs_restart() => Some(setting.word()),
            _ => None,
        })
        .collect();
    if !restart.is_empty() {
        let verb = if restart.len() == 1 { "needs" } else { "need" };
        return Err(Failure::usage(format!(
            "another {} {verb} a restart, and nothing was changed",
            restart.join(" and ")
        ))
        .with_remedy("run `adit down` and `adit up`, or write what it was before"));
    }
    check_mtu(new)?;
    let (mut owners, mut identities, mut names) = (HashMap::new(), HashSet::new(), HashSet::new());
    for peer in &new.peers {
        if !identities.insert(Identity::of(peer)) || !names.insert(peer.name.to_ascii_lowercase()) {
            return Err(Failure::usage(format!("there are two peers {}", peer.name)));
        }
        for prefix in &peer.allowed_ips {
            match owners.insert(prefix.trunc(), &peer.name) {
                Some(other) if *other != peer.name => {
                    return Err(Failure::usage(format!("{prefix} belongs to {other} and to {}", peer.name)));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The least that a device takes which has IPv6 (RFC 8200, section 5).
const LEAST_OF_IPV6: u16 = 1280;

/// Checks that the device takes packets of IPv6, if its network has any: a file does not say so.
///
/// # Errors
/// It does not.
pub fn check_mtu(tunnel: &Tunnel) -> Result<()> {
    let overlay = tunnel.overlay.as_ref();
    let has_ipv6 = overlay.is_some_and(|overlay| overlay.subnets.iter().any(|subnet| subnet.addr().is_ipv6()));
    match tunnel.device.mtu {
        Mtu::Fixed(mtu) if has_ipv6 && mtu < LEAST_OF_IPV6 => {
            Err(Failure::usage(format!("mtu = {mtu} is too small for IPv6, which this network has"))
                .with_remedy(format!("write {LEAST_OF_IPV6} at least, or \"auto\", under [device]")))
        }
        _ => Ok(()),
    }
}

/// What there is to say of the changes.
pub fn summary(changes: &[Change]) -> Summary {
    let mut summary = Summary::default();
    let mut changed = HashSet::new();
    for change in changes {
        match change {
            Change::Add(_) => summary.added += 1,
            Change::Remove(_) => summary.removed += 1,
            Change::Peer(identity, _) => summary.changed += usize::from(changed.insert(identity)),
            Change::Setting(setting) => summary.settings.push(setting.word()),
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;

    const KEYS: [&str; 3] = [
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",
    ];

    fn peer(name: &str, key: &str, prefixes: &str, more: &str) -> String {
        format!("[[peer]]\nname = {name:?}\npublic-key = {key:?}\nallowed-ips = [{prefixes}]\n{more}\n")
    }

    fn tunnel(head: &str, peers: &[String]) -> Tunnel {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n").unwrap();
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(&key, mode).unwrap();
        let text = format!(
            "[device]\nprivate-key-file = {:?}\naddresses = [\"10.77.0.1/24\"]\n{head}\n{}",
            key,
            peers.concat()
        );
        config::parse(&directory.path().join("t.toml"), text).unwrap()
    }

    fn key(number: usize) -> Identity {
        Identity::Key(config::TransportKind::Sealed, KEYS[number].parse().unwrap())
    }

    fn said(old: &Tunnel, new: &Tunnel) -> String {
        let changes = difference(old, new);
        check(&changes, new).unwrap();
        summary(&changes).to_string()
    }

    #[test]
    fn the_order_of_things_is_no_difference() {
        let a = peer("a", KEYS[0], "'10.1.0.0/16', '10.2.0.0/16'", "");
        let turned = peer("a", KEYS[0], "'10.2.0.0/16', '10.1.0.0/16'", "");
        let b = peer("b", KEYS[1], "'10.3.0.0/16'", "");
        let (old, new) = (tunnel("", &[a, b.clone()]), tunnel("", &[b, turned]));
        assert_eq!(difference(&old, &new), []);
        assert_eq!(said(&old, &new), "nothing changed");
    }

    #[test]
    fn peers_are_known_by_key_and_transport() {
        let old = tunnel("", &[peer("a", KEYS[0], "'10.1.0.0/16'", ""), peer("b", KEYS[1], "'10.2.0.0/16'", "")]);
        let new = tunnel("", &[peer("b", KEYS[0], "'10.1.0.0/16'", ""), peer("c", KEYS[2], "'10.2.0.0/16'", "")]);
        let expected = [Change::Remove(key(1)), Change::Peer(key(0), Aspect::Name), Change::Add(key(2))];
        assert_eq!(difference(&old, &new), expected);
        assert_eq!(said(&old, &new), "1 peer added, 1 removed, 1 changed");
        let plain = tunnel(
            "",
            &[peer("a", KEYS[0], "'10.1.0.0/16'", "transport = 'plain'\nendpoint = '192.0.2.1:1'"), new_b()],
        );
        assert_eq!(
            difference(&old, &plain),
            [Change::Remove(key(0)), Change::Add(Identity::Name("a".into()))],
            "another transport is another peer"
        );
    }

    fn new_b() -> String {
        peer("b", KEYS[1], "'10.2.0.0/16'", "")
    }

    #[test]
    fn every_aspect_of_a_peer_is_seen() {
        let old = tunnel("", &[peer("a", KEYS[0], "'10.1.0.0/16'", "")]);
        let changed = |text: String| difference(&old, &tunnel("", &[text]));
        for (text, aspect) in [
            (peer("a", KEYS[0], "'10.1.0.0/16'", "endpoint = '192.0.2.1:1'"), Aspect::Endpoint),
            (peer("a", KEYS[0], "'10.1.0.0/17'", ""), Aspect::AllowedIps),
            (peer("a", KEYS[0], "'10.1.0.0/16'", "keepalive = '5s'"), Aspect::Keepalive),
            (peer("z", KEYS[0], "'10.1.0.0/16'", ""), Aspect::Name),
        ] {
            assert_eq!(changed(text), [Change::Peer(key(0), aspect)]);
        }
        let mut locked = old.clone();
        locked.peers[0].preshared_key = Some(crate::key::PresharedKey::generate().unwrap());
        assert_eq!(difference(&old, &locked), [Change::Peer(key(0), Aspect::PresharedKey)]);
        assert_eq!(difference(&locked, &locked.clone()), []);
    }

    fn overlay() -> Overlay {
        let (networks, subnets) = (vec!["10.42.0.0/16".parse().unwrap()], vec!["10.42.7.0/24".parse().unwrap()]);
        Overlay { networks, subnets, masquerade: true, forward: true, port: None, membership: None }
    }

    fn membership(number: u32) -> tunnel::network::Membership {
        let epoch = tunnel::network::Epoch { number, secret: zeroize::Zeroizing::new([number as u8; 32]) };
        tunnel::network::Membership { id: [1; 16], epochs: vec![epoch] }
    }

    fn network() -> config::Network {
        config::Network {
            registry: config::RegistryAt::Embedded,
            node_name: "one".into(),
            prefix: "/coreos.com/network".into(),
            public_ip: config::PublicIp::Auto,
            lease_ttl: Duration::from_secs(60),
            bridge: "adit-br0".into(),
            domain: Some("adit".into()),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            user: None,
            password_file: None,
            secret_file: None,
            plain: false,
            plain_from: Vec::new(),
            ip_masq: true,
            forward_rules: true,
            subnet_files: Vec::new(),
            registry_listen: "[::]:7778".parse().unwrap(),
        }
    }

    #[test]
    fn who_says_that_somebody_is_a_peer_is_no_difference() {
        let old = tunnel("", &[new_b()]);
        for origin in [config::Origin::Network, config::Origin::Client] {
            let mut new = old.clone();
            new.peers[0].origin = origin;
            assert_eq!(difference(&old, &new), []);
        }
    }

    #[test]
    fn every_part_of_an_overlay_is_seen_once() {
        let mut old = tunnel("", &[new_b()]);
        old.overlay = Some(overlay());
        let edits: [fn(&mut Overlay); 4] = [
            |o| o.networks.clear(),
            |o| o.subnets.push("10.42.8.0/24".parse().unwrap()),
            |o| o.masquerade = false,
            |o| o.forward = false,
        ];
        for edit in edits {
            let mut new = old.clone();
            edit(new.overlay.as_mut().unwrap());
            assert_eq!(difference(&old, &new), [Change::Setting(Setting::Overlay)]);
        }
        let mut new = old.clone();
        new.overlay = None;
        assert_eq!(difference(&old, &new), [Change::Setting(Setting::Overlay)]);
    }

    #[test]
    fn every_setting_is_seen_and_some_need_a_restart() {
        let old = tunnel("", &[new_b()]);
        type Edit = fn(&mut Tunnel);
        let cases: [(Edit, &str, bool); 14] = [
            (|t| t.device.name = "other".into(), "name", true),
            (|t| t.device.addresses.push("10.9.0.1/24".parse().unwrap()), "addresses", false),
            (|t| t.device.mtu = config::Mtu::Fixed(1300), "mtu", false),
            (|t| t.device.private_key = Some(PrivateKey::generate().unwrap()), "private key", false),
            (|t| t.device.wireguard_private_key = t.device.private_key.clone(), "wireguard private key", false),
            (|t| t.device.table = config::Table::Off, "table", false),
            (|t| t.device.dns.domains.push("x".into()), "dns", false),
            (|t| t.transport.listen.set_port(1), "listen", false),
            (|t| t.transport.offload = false, "offload", true),
            (|t| t.transport.busy_poll = Duration::from_micros(1), "busy-poll", true),
            (|t| t.transport.fwmark = std::num::NonZero::new(1), "fwmark", false),
            (|t| t.network = Some(network()), "network", true),
            (|t| t.overlay = Some(overlay()), "overlay", false),
            (|t| t.overlay.as_mut().unwrap().membership = Some(membership(2)), "membership", false),
        ];
        for (edit, word, restart) in cases {
            let mut old = old.clone();
            old.overlay = (word == "membership").then(|| Overlay { membership: Some(membership(1)), ..overlay() });
            let mut new = old.clone();
            assert_eq!(difference(&old, &new), []);
            edit(&mut new);
            let changes = difference(&old, &new);
            assert_eq!(summary(&changes).settings, [word]);
            match check(&changes, &new) {
                Ok(()) => assert!(!restart, "{word}"),
                Err(failure) => assert!(restart && failure.sentence().contains(word), "{failure}"),
            }
        }
    }

    #[test]
    fn what_containers_hang_on_and_are_called_changes_while_it_runs() {
        let mut old = tunnel("", &[new_b()]);
        old.network = Some(network());
        let mut new = old.clone();
        let of = new.network.as_mut().unwrap();
        (of.bridge, of.domain) = ("adit-br1".into(), None);
        assert_eq!(said(&old, &new), "changed: bridge, domain");
        new.network.as_mut().unwrap().prefix = "/other".into();
        assert!(check(&difference(&old, &new), &new).is_err());
    }

    #[test]
    fn a_prefix_has_one_owner() {
        let old = tunnel("", &[peer("a", KEYS[0], "'10.1.0.0/16'", ""), new_b()]);
        let mut new = old.clone();
        new.peers[0].allowed_ips.push("10.2.0.0/16".parse().unwrap());
        let failure = check(&difference(&old, &new), &new).unwrap_err();
        assert_eq!(failure.sentence(), "10.2.0.0/16 belongs to a and to b");
        new.peers[1].allowed_ips.clear();
        assert_eq!(said(&old, &new), "2 peers changed");
    }
}
