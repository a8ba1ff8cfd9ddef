//! Address translation: where peers see this host, and whether the way back stays open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::super::{Check, Facts, Finding, Kind, word};

static KEEPALIVE: Kind =
    Kind::warning("nat-keepalive", "this host is behind NAT, and nothing keeps the way from a peer to it open");
static PUBLIC: Kind =
    Kind::warning("nat-public", "other nodes are told to reach this one at an address that is not where it is seen");
static MOVING: Kind =
    Kind::note("nat-moving", "the NAT shows each peer another port: two hosts behind such NATs cannot call each other");

/// NAT.
pub(in super::super) const CHECK: Check = Check {
    id: "nat",
    title: "where peers see this host (asked), and what keeps that open",
    kinds: &[&KEEPALIVE, &PUBLIC, &MOVING],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        let port = status.transport.listen.port();
        let seen = status.peers.iter().filter_map(|peer| Some((peer, daemon.measured(peer)?.told?.seen_at?)));
        let translated: Vec<_> = seen.filter(|(_, at)| !host.owns(at.ip())).collect();
        let Some((_, first)) = translated.first() else { continue };
        let open: Vec<_> = translated.iter().filter(|(peer, _)| peer.keepalive_s.is_none()).collect();
        // Nodes of a network keep their ways open by themselves.
        if let (Some((peer, at)), None) = (open.first(), &status.network) {
            let names: Vec<&str> = open.iter().map(|(peer, _)| peer.name.as_str()).collect();
            findings.push(
                KEEPALIVE
                    .found(format!(
                        "this host is behind NAT, and {} cannot call it once it was silent for a while",
                        names.join(", ")
                    ))
                    .on(device)
                    .seen(format!("{} sees us at {at}, and UDP port {port} is ours", peer.name))
                    .advise(format!(
                        "write `keepalive = \"25s\"` under [[peer]] of {} in {}",
                        names.join(", "),
                        daemon.file()
                    ))
                    .run(facts.as_root(format!("adit reload --device {}", word(device)))),
            );
        }
        if let Some(network) = &status.network {
            let told: Vec<IpAddr> =
                network.public.iter().filter_map(|at| at.parse().ok()).map(|at: SocketAddr| at.ip()).collect();
            if !network.behind_nat && !translated.iter().any(|(_, at)| told.contains(&at.ip())) {
                findings.push(
                    PUBLIC
                        .found(format!(
                            "other nodes are told to reach {} at {}, and see it at {first}",
                            network.node,
                            network.public.join(", ")
                        ))
                        .on(device)
                        .advise(format!(
                            "lead UDP port {port} of {} to this host, and write `public-ip = \"{}\"` under [network] in {}; a node that nobody can \
                             call reaches only those that it can call itself",
                            first.ip(),
                            first.ip(),
                            daemon.file()
                        )),
                );
            }
        }
        let mut ports: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
        for (_, at) in &translated {
            ports.entry(at.ip()).or_default().insert(at.port());
        }
        if let Some((ip, ports)) = ports.iter().find(|(_, ports)| ports.len() > 1) {
            let list: Vec<String> = ports.iter().map(u16::to_string).collect();
            findings.push(
                MOVING
                    .found(format!("the NAT at {ip} shows each peer another port ({})", list.join(", ")))
                    .on(device)
                    .advise("others behind NAT cannot reach this host: lead a UDP port of the NAT here if they should"),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::{measured, status};
    use super::super::tests::{found, found_on_node, ids};
    use super::*;

    fn translate(facts: &mut Facts) {
        measured(facts).told.as_mut().unwrap().seen_at = Some("203.0.113.9:40000".parse().unwrap());
    }

    #[test]
    fn whoever_is_seen_elsewhere_needs_a_keepalive() {
        let findings = found(&CHECK, translate);
        assert_eq!(ids(&findings), ["nat-keepalive"]);
        assert_eq!(findings[0].commands, ["adit reload --device adit0"]);
        let kept = found(&CHECK, |facts| {
            translate(facts);
            status(facts).peers[0].keepalive_s = Some(25);
        });
        assert_eq!(ids(&kept), [""; 0]);
    }

    #[test]
    fn a_node_that_is_announced_elsewhere_is_told() {
        let node = |behind_nat, public: &str| {
            ids(&found_on_node(&CHECK, |facts| {
                translate(facts);
                let status = status(facts);
                status.peers[0].keepalive_s = Some(25);
                let network = status.network.as_mut().unwrap();
                (network.behind_nat, network.public) = (behind_nat, vec![public.into()]);
            }))
        };
        assert_eq!(node(false, "192.0.2.1:7777"), ["nat-public"]);
        assert_eq!(node(true, "192.0.2.1:7777"), [""; 0]);
        assert_eq!(node(false, "203.0.113.9:7777"), [""; 0]);
    }

    #[test]
    fn ports_that_differ_are_told() {
        let findings = found(&CHECK, |facts| {
            translate(facts);
            let mut other = measured(facts).clone();
            other.name = "paris".into();
            other.told.as_mut().unwrap().seen_at = Some("203.0.113.9:40001".parse().unwrap());
            facts.daemons[0].examination.as_mut().unwrap().peers.push(other);
            let peer = crate::api::status::PeerStatus { name: "paris".into(), ..status(facts).peers[0].clone() };
            status(facts).peers.push(peer);
            status(facts).peers.iter_mut().for_each(|peer| peer.keepalive_s = Some(25));
        });
        assert_eq!(ids(&findings), ["nat-moving"]);
    }
}
