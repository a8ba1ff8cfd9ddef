//! Forwarding: packets of containers and clients go through this host only if the kernel forwards them, per family.

use std::net::IpAddr;

use ipnet::IpNet;
use linux::netlink::Address;

use super::super::facts::{Daemon, Host, carries};
use super::super::{Check, Facts, Finding, Kind};

static OFF: Kind = Kind::broken(
    "forwarding-off",
    "a node with containers or clients does not forward what comes in by its device or its bridge",
);
static BEHIND: Kind = Kind::note(
    "forwarding-behind",
    "somebody lives behind this host, as it seems, and it does not forward what the tunnel brings for him",
);

/// Forwarding.
pub(in super::super) const CHECK: Check =
    Check { id: "forwarding", title: "the kernel forwards for those who need it", kinds: &[&OFF, &BEHIND], check };

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        match &status.network {
            Some(network) if carries(network) => {
                let ways = || [Some(device), daemon.bridge.as_deref()].into_iter().flatten();
                for v6 in [false, true] {
                    if !network.subnets.iter().any(|subnet| subnet.addr().is_ipv6() == v6) {
                        continue;
                    }
                    let off: Vec<&str> = ways().filter(|way| forwards(&facts.host, way, v6) == Some(false)).collect();
                    if off.is_empty() {
                        continue;
                    }
                    let family = if v6 { "IPv6" } else { "IPv4" };
                    let sentence = format!("{family} that comes in by {} is not forwarded", off.join(" and "));
                    let finding = OFF.found(sentence).on(device).advise(
                        "a daemon switches this on by itself: if it cannot, /proc/sys is read-only for it, or somebody \
                         switches it off again and again",
                    );
                    findings.push(switch_on(finding, facts, &off, v6));
                }
            }
            Some(_) => {}
            // What is on a bridge beside a device that carries frames is neighbour to what the tunnel brings.
            None if status.switch.is_some() => {}
            None => {
                let is_behind = |own: &&Address| seems_behind(&facts.host, daemon, own);
                let behind: Vec<_> = facts.host.addresses.iter().filter(is_behind).collect();
                for v6 in [false, true] {
                    let mut nets = behind.iter().filter(|own| own.net.addr().is_ipv6() == v6 && !is_link_local(own));
                    let Some(net) = nets.next() else { continue };
                    if forwards(&facts.host, device, v6) != Some(false) {
                        continue;
                    }
                    let (via, family) = (facts.host.device(net.index), if v6 { "IPv6" } else { "IPv4" });
                    let sentence = format!(
                        "{family} that comes in by {device} is not forwarded, though {} is behind this host on {via}",
                        net.net.trunc()
                    );
                    let finding = BEHIND.found(sentence).on(device);
                    let finding = finding.advise("if peers are not meant to reach it through this host, all is well");
                    findings.push(switch_on(finding, facts, &[device, via], v6));
                }
            }
        }
    }
    findings
}

/// Whether others live in the network of an address and reach the world through this host, as far as one can know: a tunnel from a file does not say.
///
/// It is on a bridge or a veth pair that is in use, the address is one that gateways have, and somebody else of that network was heard there. By the
/// device there is neither the way to peers nor that to the world, for then this host is itself one of those who live there.
fn seems_behind(host: &Host, daemon: &Daemon, own: &Address) -> bool {
    let Some(link) = host.link(own.index) else { return false };
    let is_in_use = match link.kind.as_deref() {
        Some("veth") => link.running,
        Some("bridge") => host
            .links
            .iter()
            .any(|port| port.controller == Some(link.index) && port.running && port.name != daemon.device),
        _ => false,
    };
    let is_gateway = match own.net {
        IpNet::V4(net) => {
            let (first, at, last) = (net.network().to_bits(), net.addr().to_bits(), net.broadcast().to_bits());
            net.prefix_len() < 31 && (at - first == 1 || last - at == 1)
        }
        IpNet::V6(net) => net.prefix_len() < 127 && net.addr().to_bits() - net.network().to_bits() == 1,
    };
    let leads_on =
        host.routes.iter().any(|route| route.device == Some(link.index) && route.destination.prefix_len() == 0);
    let is_heard = host
        .neighbours
        .iter()
        .any(|other| other.index == link.index && other.mac.is_some() && own.net.contains(&other.address));
    is_in_use && is_gateway && is_heard && !leads_on && !is_underlay(daemon, link.index)
}

/// Whether peers are reached by this device.
fn is_underlay(daemon: &Daemon, index: u32) -> bool {
    daemon.ways.values().flatten().any(|way| way.device == index)
}

fn is_link_local(own: &Address) -> bool {
    matches!(own.net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Whether what comes in by a device is forwarded; nothing where the kernel does not say.
fn forwards(host: &Host, device: &str, v6: bool) -> Option<bool> {
    if v6 {
        let all = host.setting(&["net", "ipv6", "conf", "all", "forwarding"])?;
        let forced = host.setting(&["net", "ipv6", "conf", device, "force_forwarding"]);
        return Some(all != 0 || forced.is_some_and(|value| value != 0));
    }
    host.setting(&["net", "ipv4", "conf", device, "forwarding"]).map(|value| value != 0)
}

fn switch_on(mut finding: Finding, facts: &Facts, devices: &[&str], v6: bool) -> Finding {
    if v6 {
        finding = finding.seen("net.ipv6.conf.all.forwarding = 0");
        return finding.run(facts.as_root("sysctl -w net.ipv6.conf.all.forwarding=1"));
    }
    for device in devices.iter().filter(|device| forwards(&facts.host, device, false) == Some(false)) {
        finding = finding.seen(format!("net.ipv4.conf.{device}.forwarding = 0"));
    }
    finding.run(facts.as_root("sysctl -w net.ipv4.ip_forward=1"))
}

#[cfg(test)]
mod tests {
    use linux::netlink::{Link, Neighbour, NeighbourState};

    use super::super::super::facts::tests::{address, link, route};
    use super::super::tests::{found, found_on_node, ids};
    use super::*;

    fn set(facts: &mut Facts, setting: &str, value: i64) {
        facts.host.settings.insert(setting.into(), value);
    }

    #[test]
    fn a_node_with_containers_has_to_forward() {
        for device in ["adit0", "adit-br0"] {
            let findings = found_on_node(&CHECK, |facts| set(facts, &format!("net.ipv4.conf.{device}.forwarding"), 0));
            assert_eq!(ids(&findings), ["forwarding-off"]);
            assert!(findings[0].sentence.contains(device));
            assert_eq!(findings[0].commands, ["sysctl -w net.ipv4.ip_forward=1"]);
        }
        let six = |force: i64| {
            found_on_node(&CHECK, |facts| {
                let network = super::super::super::facts::tests::status(facts).network.as_mut().unwrap();
                network.subnets.push("fd42:0:0:7::/64".parse().unwrap());
                set(facts, "net.ipv6.conf.all.forwarding", 0);
                for device in ["adit0", "adit-br0"] {
                    set(facts, &format!("net.ipv6.conf.{device}.force_forwarding"), force);
                }
            })
        };
        assert_eq!((ids(&six(0)), ids(&six(1))), (vec!["forwarding-off"], vec![]));
    }

    /// A bridge with a machine behind one of its ports.
    fn bridge(facts: &mut Facts) {
        facts.host.links.push(link(5, "br0", Some("bridge")));
        facts.host.links.push(Link { controller: Some(5), ..link(6, "vm0", Some("tun")) });
        facts.host.addresses.push(address(5, "10.41.0.1/24"));
        facts.host.neighbours.push(Neighbour {
            index: 5,
            address: "10.41.0.9".parse().unwrap(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            state: NeighbourState::Stale,
        });
    }

    #[test]
    fn a_network_that_nobody_reaches_through_this_host_is_not_told_of() {
        let is_told = |change: &dyn Fn(&mut Facts)| {
            let findings = found(&CHECK, |facts| {
                bridge(facts);
                set(facts, "net.ipv4.conf.adit0.forwarding", 0);
                change(facts);
            });
            !findings.is_empty()
        };
        assert!(is_told(&|_| ()));
        let own = |facts: &mut Facts| facts.host.addresses.pop();
        assert!(!is_told(&|facts| facts.host.links.retain(|link| link.name != "vm0")), "a bridge without ports");
        assert!(!is_told(&|facts| facts.host.neighbours.clear()), "nobody was heard");
        assert!(!is_told(&|facts| facts.host.routes.push(route("0.0.0.0/0", 5, 3))), "the way to the world");
        let as_others = |facts: &mut Facts| {
            own(facts);
            facts.host.addresses.push(address(5, "10.41.0.5/24"));
        };
        assert!(!is_told(&as_others), "an address as any machine has");
        let underlay = |facts: &mut Facts| facts.daemons[0].ways.values_mut().flatten().for_each(|way| way.device = 5);
        assert!(!is_told(&underlay), "the way to peers");
    }

    #[test]
    fn what_is_behind_a_tunnel_from_a_file_has_to_be_forwarded() {
        let behind = |on: i64| {
            found(&CHECK, |facts| {
                bridge(facts);
                set(facts, "net.ipv4.conf.adit0.forwarding", on);
                set(facts, "net.ipv4.conf.br0.forwarding", on);
            })
        };
        assert_eq!((ids(&behind(0)), ids(&behind(1))), (vec!["forwarding-behind"], vec![]));
        let bridged = found(&CHECK, |facts| {
            bridge(facts);
            set(facts, "net.ipv4.conf.adit0.forwarding", 0);
            super::super::super::facts::tests::status(facts).switch = Some(crate::api::status::SwitchStatus::default());
        });
        assert_eq!(ids(&bridged), [""; 0], "a device that carries frames forwards nothing");
    }
}
