//! Forwarding: packets of containers and clients go through this host only if the kernel forwards them, per family.

use super::super::facts::{Daemon, Host, carries};
use super::super::{Check, Facts, Finding, Kind};

static OFF: Kind = Kind::broken(
    "forwarding-off",
    "a node with containers or clients does not forward what comes in by its device or its bridge",
);
static BEHIND: Kind = Kind::warning(
    "forwarding-behind",
    "there are networks behind this host, and it does not forward what the tunnel brings for them",
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
                // A tunnel from a file says nothing of what lives behind this host; bridges and veth pairs with addresses do.
                let leads_behind = |index: u32| {
                    let kind = facts.host.link(index).and_then(|link| link.kind.as_deref());
                    matches!(kind, Some("bridge" | "veth")) && !is_underlay(daemon, index)
                };
                let behind: Vec<_> = facts
                    .host
                    .addresses
                    .iter()
                    .filter(|own| leads_behind(own.index) && own.net.prefix_len() != own.net.max_prefix_len())
                    .collect();
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
                    findings.push(switch_on(BEHIND.found(sentence).on(device), facts, &[device, via], v6));
                }
            }
        }
    }
    findings
}

/// Whether peers are reached by this device.
fn is_underlay(daemon: &Daemon, index: u32) -> bool {
    daemon.ways.values().flatten().any(|way| way.device == index)
}

fn is_link_local(own: &linux::netlink::Address) -> bool {
    matches!(own.net.addr(), std::net::IpAddr::V6(ip) if ip.is_unicast_link_local())
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
    use super::super::super::facts::tests::{address, link};
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

    #[test]
    fn what_is_behind_a_tunnel_from_a_file_has_to_be_forwarded() {
        let behind = |on: i64| {
            found(&CHECK, |facts| {
                facts.host.links.push(link(5, "br0", Some("bridge")));
                facts.host.addresses.push(address(5, "10.41.0.1/24"));
                set(facts, "net.ipv4.conf.adit0.forwarding", on);
                set(facts, "net.ipv4.conf.br0.forwarding", on);
            })
        };
        assert_eq!((ids(&behind(0)), ids(&behind(1))), (vec!["forwarding-behind"], vec![]));
        let bridged = found(&CHECK, |facts| {
            facts.host.links.push(link(5, "br0", Some("bridge")));
            facts.host.addresses.push(address(5, "10.41.0.1/24"));
            set(facts, "net.ipv4.conf.adit0.forwarding", 0);
            super::super::super::facts::tests::status(facts).switch = Some(crate::api::status::SwitchStatus::default());
        });
        assert_eq!(ids(&bridged), [""; 0], "a device that carries frames forwards nothing");
    }
}
