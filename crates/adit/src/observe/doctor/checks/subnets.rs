//! Whether the networks behind the tunnel are somebody else's too: routes of the host that lead there by another device, and networks of the host
//! that the tunnel takes a part of. Of policy routing, whose rules may go by what nobody can foresee, the kernel itself is asked.

use ipnet::IpNet;
use linux::netlink::{PROTOCOL, Route, RouteKind};

use super::super::facts::{Answer, Daemon};
use super::super::policy;
use super::super::{Check, Facts, Finding, Kind, word};
use super::neighbours::owner;
use crate::api::Status;
use crate::plan::{ALIAS, MAIN};

/// Prefixes as short as this one take everything, or a large share of it: whatever is on this host is meant to be within them.
const WIDE: u8 = 3;

/// Who made a route: the kernel, for an address (`RTPROT_KERNEL`).
const KERNEL: u8 = 2;

static STOLEN: Kind =
    Kind::broken("subnet-stolen", "a route or rule of others takes a network behind the tunnel away from it");
static SHARED: Kind = Kind::warning(
    "subnet-shared",
    "a network of this host and one behind the tunnel overlap: some hosts of the former cannot be reached",
);

/// Overlaps.
pub(in super::super) const CHECK: Check = Check {
    id: "subnets",
    title: "networks behind the tunnel are nobody else's on this host",
    kinds: &[&STOLEN, &SHARED],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let mut findings: Vec<Finding> = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        let tunnel = host.index(device);
        let network = status.network.as_ref();
        let own: Vec<IpNet> = network.map(|network| network.subnets.clone()).unwrap_or_default();
        let peers = status.peers.iter().flat_map(|peer| peer.allowed_ips.iter().map(|net| (*net, peer.name.as_str())));
        let networks = network.into_iter().flat_map(|network| network.networks.iter().map(|net| (*net, "the network")));
        // A tunnel that takes everything has its own table, and shares it with nobody.
        let behind: Vec<(IpNet, &str)> = peers.chain(networks).filter(|(net, _)| net.prefix_len() > WIDE).collect();
        let is_foreign = |route: &&Route| {
            let by_us = route.protocol == PROTOCOL || route.device == tunnel || route.device.is_none();
            // Containers of this node: on its bridge, or on one that a plugin made for the lease.
            let of_ours = own.iter().any(|subnet| subnet.contains(&route.destination));
            let is_bridge =
                daemon.bridge.as_deref().is_none_or(|bridge| route.device.map(|i| host.device(i)) == Some(bridge));
            route.table == MAIN && route.kind == RouteKind::Unicast && !by_us && !(of_ours && is_bridge)
        };
        for route in host.routes.iter().filter(is_foreign) {
            let (to, via) = (route.destination, route.device.map_or("?", |index| host.device(index)));
            let inside = behind.iter().filter(|(net, _)| net.contains(&to)).max_by_key(|(net, _)| net.prefix_len());
            let around = || behind.iter().find(|(net, _)| to.contains(net) && to.prefix_len() > 0 && to != *net);
            if let Some((net, whose)) = inside {
                // Of two routes to the same network the kernel has said which it takes.
                let leaves = daemon.behind.get(net).and_then(|answers| answers.first()?.way.ok()).map(|way| way.device);
                let ours_wins = *net == to && leaves.is_some() && leaves == tunnel;
                let kind = if ours_wins { &SHARED } else { &STOLEN };
                let what = if ours_wins { "leads there too" } else { "wins" };
                findings.push(
                    explain(
                        kind.found(format!("{net} of {whose} is behind {device}, and a route to {to} by {via} {what}")),
                        facts,
                        route,
                    )
                    .on(device),
                );
            } else if let (Some((net, whose)), KERNEL) = (around(), route.protocol) {
                findings.push(
                    SHARED
                        .found(format!("{net} of {whose} is behind {device}, and lies within {to}, the network on {via}"))
                        .on(device)
                        .seen(format!("route to {to} by {via}; {device} wins for {net}"))
                        .advise(format!(
                            "hosts of {to} that have addresses of {net} cannot be reached from here: number one of the two anew"
                        )),
                );
            }
        }
        let is_told = |answer: &Answer| {
            let device = answer.way.ok().map(|way| way.device);
            host.routes.iter().filter(is_foreign).any(|route| {
                route.device == device
                    && route.destination.contains(&answer.to)
                    && behind.iter().any(|(net, _)| net.contains(&route.destination))
            })
        };
        // A device that carries frames is one port of many: where packets go is the business of whoever is on the bridge.
        if status.switch.is_none() {
            findings.extend(led_past(facts, daemon, status, is_told));
        }
    }
    findings
}

/// Networks of peers to which the kernel would not send by the tunnel, though there is a route into it.
fn led_past(facts: &Facts, daemon: &Daemon, status: &Status, is_told: impl Fn(&Answer) -> bool) -> Vec<Finding> {
    let host = &facts.host;
    let device = daemon.device.as_str();
    let Some(tunnel) = host.index(device) else { return Vec::new() };
    // Another tunnel of ours, which has the same network or a part of it.
    let is_ours =
        |index: u32| index == tunnel || host.link(index).is_some_and(|link| link.alias.as_deref() == Some(ALIAS));
    let mut findings: Vec<Finding> = Vec::new();
    for (net, answers) in &daemon.behind {
        let mut into = host.routes.iter().filter(|route| route.table == MAIN && route.device == Some(tunnel));
        if !into.any(|route| route.destination.contains(net)) {
            continue;
        }
        let goes_past = |answer: &&Answer| answer.way.map_or(true, |way| !is_ours(way.device)) && !is_told(answer);
        for answer in answers.iter().filter(goes_past) {
            let whose = status.peers.iter().find(|peer| peer.allowed_ips.contains(net));
            let whose = whose.map_or("a peer", |peer| peer.name.as_str());
            let culprits = policy::culprits(host, answer);
            let (what, seen) = match answer.way {
                Ok(way) => {
                    let (by, to) = (host.device(way.device), answer.to);
                    let gateway = way.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
                    (format!("goes by {by} past it"), format!("a packet to {to} would leave{gateway} dev {by}"))
                }
                Err(errno) => {
                    let why = std::io::Error::from_raw_os_error(errno);
                    ("is refused".to_owned(), format!("a packet to {} is refused: {why}", answer.to))
                }
            };
            let mut finding = STOLEN
                .found(format!("{net} of {whose} is behind {device}, and what this host sends to {} {what}", answer.to))
                .on(device)
                .seen(seen);
            finding.evidence.extend(culprits.iter().map(|culprit| culprit.describe(host)));
            finding = match culprits.as_slice() {
                [one] => {
                    finding.run(facts.as_root(one.remove(host))).advise("find out who made it, or it may come back")
                }
                _ => finding
                    .run(facts.as_root(policy::show(answer)))
                    .advise("policy routing does this: find the rule, and take it away or leave the network out of it"),
            };
            // One culprit may have several networks.
            if culprits.is_empty() || !findings.iter().any(|known| known.commands == finding.commands) {
                findings.push(finding);
            }
        }
    }
    findings
}

fn explain(finding: Finding, facts: &Facts, route: &Route) -> Finding {
    let via = route.device.map_or("?", |index| facts.host.device(index));
    let six = if route.destination.addr().is_ipv6() { "-6 " } else { "" };
    let by = route.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
    let metric = route.metric.filter(|metric| *metric > 0).map_or(String::new(), |metric| format!(" metric {metric}"));
    let whose = owner(via, facts).map_or(String::new(), |owner| format!(", which is {owner}'s"));
    let finding = finding
        .seen(format!("{}{by} dev {via}{metric}{whose}", route.destination))
        .run(facts.as_root(format!("ip {six}route del {}{by} dev {}{metric}", route.destination, word(via))));
    match (owner(via, facts), route.protocol) {
        (Some("Docker"), _) => finding.advise(
            "it comes back with the network: make that anew with another `--subnet` (`docker network ls` has its name), or set \
             `default-address-pools` in /etc/docker/daemon.json",
        ),
        (_, KERNEL) => finding.advise(format!("it comes back with the address on {via}: choose another for good")),
        _ => finding.advise("find out who made it, or it may come back"),
    }
}

#[cfg(test)]
mod tests {
    use linux::netlink::{Family, Rule, RuleAction};

    use super::super::super::facts::tests::{answer, link, route, status};
    use super::super::tests::{found, found_on_node, ids};
    use super::*;

    #[test]
    fn routes_of_others_are_told_by_whether_they_win() {
        for (destination, protocol, id) in [
            ("10.77.0.2/32", 3, Some("subnet-shared")),
            ("10.77.0.128/25", 3, None),
            ("10.77.0.0/24", 3, None),
            ("10.0.0.0/8", 3, None),
            ("10.0.0.0/8", KERNEL, Some("subnet-shared")),
            ("172.16.0.0/12", KERNEL, None),
        ] {
            let findings = found(&CHECK, |facts| facts.host.routes.push(route(destination, 2, protocol)));
            assert_eq!(ids(&findings), id.into_iter().collect::<Vec<_>>(), "{destination}");
        }
        let findings = found(&CHECK, |facts| {
            facts.host.routes.push(route("10.77.0.2/32", 2, 3));
            facts.daemons[0].behind.values_mut().for_each(|way| *way = vec![answer("10.77.0.2", 2)]);
        });
        assert_eq!(ids(&findings), ["subnet-stolen"]);
        assert_eq!(findings[0].commands, ["ip route del 10.77.0.2/32 dev eth0"]);
    }

    /// What is found where the kernel says that packets for the peer go this way, with a rule and routes of others.
    fn by_policy(way: Answer, rules: &[Rule], routes: Vec<Route>) -> Vec<Finding> {
        found(&CHECK, |facts| {
            facts.daemons[0].behind.values_mut().for_each(|answers| *answers = vec![way]);
            facts.host.rules.extend_from_slice(rules);
            facts.host.routes.extend(routes);
        })
    }

    fn rule(priority: u32, action: RuleAction) -> Rule {
        Rule { protocol: 0, ..Rule::new(Family::V4, priority, action) }
    }

    #[test]
    fn what_policy_routing_takes_past_the_tunnel_is_stolen() {
        let past = answer("10.77.0.2", 2);
        let lookup = rule(5, RuleAction::Lookup(77));
        for (destination, command) in [
            ("10.77.0.2/32", "ip route del 10.77.0.2/32 dev eth0 table 77"),
            ("10.0.0.0/8", "ip route del 10.0.0.0/8 dev eth0 table 77"),
            ("0.0.0.0/0", "ip rule del prio 5 lookup 77"),
        ] {
            let stolen = Route { table: 77, ..route(destination, 2, 3) };
            let findings = by_policy(past, std::slice::from_ref(&lookup), vec![stolen]);
            assert_eq!(ids(&findings), ["subnet-stolen"], "{destination}");
            assert_eq!(findings[0].commands, [command]);
            assert!(findings[0].sentence.contains("goes by eth0 past it"), "{findings:?}");
        }
        for (errno, number, word) in [(libc::EINVAL, 6, "blackhole"), (libc::EACCES, 8, "prohibit")] {
            let refused = Answer { way: Err(errno), ..past };
            let findings = by_policy(refused, &[lookup.clone(), rule(9, RuleAction::Other(number))], vec![]);
            assert_eq!(ids(&findings), ["subnet-stolen"]);
            assert_eq!(findings[0].commands, [format!("ip rule del prio 9 {word}")]);
        }
        // Where two fit, none is to be removed; where none does, the kernel's word is still true.
        for rules in [&[rule(9, RuleAction::Other(6)), rule(10, RuleAction::Other(6))][..], &[]] {
            let findings = by_policy(Answer { way: Err(libc::EINVAL), ..past }, rules, vec![]);
            assert_eq!(
                (ids(&findings), &findings[0].commands[..]),
                (vec!["subnet-stolen"], &["ip rule show".to_owned()][..])
            );
            assert_eq!(findings[0].evidence.len(), 1 + rules.len());
        }
        let blackhole = Route { kind: RouteKind::Blackhole, device: None, ..route("10.77.0.2/32", 2, 3) };
        let main = rule(32766, RuleAction::Lookup(MAIN));
        let findings = by_policy(Answer { way: Err(libc::EINVAL), ..past }, &[main], vec![blackhole]);
        assert_eq!(findings[0].commands, ["ip route del blackhole 10.77.0.2/32"]);
    }

    #[test]
    fn what_is_meant_to_go_elsewhere_is_not_stolen() {
        let by = |device: u32, change: &dyn Fn(&mut Facts)| {
            let findings = found(&CHECK, |facts| {
                facts.daemons[0].behind.values_mut().for_each(|answers| *answers = vec![answer("10.77.0.2", device)]);
                change(facts);
            });
            ids(&findings).len()
        };
        let second = |facts: &mut Facts| {
            let mut link = link(9, "adit1", Some("tun"));
            link.alias = Some(ALIAS.into());
            facts.host.links.push(link);
        };
        assert_eq!(by(9, &second), 0, "another tunnel of ours has it");
        assert_eq!(
            by(2, &|facts| facts.host.routes.retain(|route| route.device != Some(3))),
            0,
            "no route into the tunnel"
        );
        let switched = |facts: &mut Facts| status(facts).switch = Some(crate::api::status::SwitchStatus::default());
        assert_eq!(by(2, &switched), 0, "a device that carries frames");
        assert_eq!(by(2, &|_| ()), 1);
        // Halves of the world have the networks of this host within them, as the whole has.
        let halves = found(&CHECK, |facts| {
            status(facts).peers[0].allowed_ips = vec!["0.0.0.0/1".parse().unwrap(), "128.0.0.0/1".parse().unwrap()];
        });
        assert_eq!(ids(&halves), [""; 0]);
    }

    #[test]
    fn a_device_whose_name_is_a_command_is_quoted() {
        let findings = found(&CHECK, |facts| {
            facts.host.links.push(link(8, "b\u{1b};$(id)", Some("dummy")));
            facts.host.routes.push(route("10.77.0.2/32", 8, 3));
            facts.daemons[0].behind.clear();
        });
        assert_eq!(findings[0].commands, ["ip route del 10.77.0.2/32 dev 'b\u{1b};$(id)'"]);
    }

    #[test]
    fn docker_within_the_network_is_named() {
        let findings = found_on_node(&CHECK, |facts| {
            facts.host.links.push(link(8, "docker0", Some("bridge")));
            facts.host.routes.push(route("10.42.9.0/24", 8, KERNEL));
        });
        assert_eq!(ids(&findings), ["subnet-stolen"]);
        assert!(findings[0].evidence[0].contains("Docker's") && findings[0].advice.contains("docker network"));
        let same = found_on_node(&CHECK, |facts| {
            facts.host.links.push(link(8, "docker0", Some("bridge")));
            facts.host.routes.push(route("10.42.7.0/24", 8, KERNEL));
        });
        assert_eq!(ids(&same), ["subnet-stolen"], "our own subnet on another bridge");
    }
}
