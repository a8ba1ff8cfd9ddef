//! Others on this host who carry packets too: Docker, other VPNs and tunnels. That they are there is no fault; that our datagrams go through
//! another tunnel costs twice.

use super::super::{Check, Facts, Finding, Kind};
use crate::plan::ALIAS;

static NESTED: Kind = Kind::warning("neighbour-nested", "datagrams to a peer leave by another tunnel or VPN");
static PRESENT: Kind = Kind::note("neighbour-present", "Docker, another VPN or another tunnel is on this host too");

/// Others.
pub(in super::super) const CHECK: Check =
    Check { id: "neighbours", title: "Docker, other VPNs and tunnels", kinds: &[&NESTED, &PRESENT], check };

/// Whose a device is, if it is one of others who are well known; by its name and kind.
pub(super) fn owner(device: &str, facts: &Facts) -> Option<&'static str> {
    let link = facts.host.links.iter().find(|link| link.name == device)?;
    let is_hex = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let known = match device {
        "docker0" => Some("Docker"),
        name if name.strip_prefix("br-").is_some_and(is_hex) => Some("Docker"),
        name if name.starts_with("virbr") => Some("libvirt"),
        name if name.starts_with("podman") => Some("Podman"),
        name if name.starts_with("tailscale") => Some("Tailscale"),
        name if name.starts_with("nebula") => Some("Nebula"),
        name if name.starts_with("zt") && link.kind.as_deref() == Some("tun") => Some("ZeroTier"),
        name if name.starts_with("cilium_") => Some("Cilium"),
        name if name.starts_with("flannel") => Some("flannel"),
        "cni0" => Some("Kubernetes"),
        _ => None,
    };
    known.or(match link.kind.as_deref() {
        Some("wireguard") => Some("WireGuard"),
        Some("tun") if link.alias.as_deref() != Some(ALIAS) => Some("another VPN"),
        Some("vxlan" | "geneve" | "gre" | "gretap" | "ip6gre" | "ipip" | "sit" | "ip6tnl" | "vti" | "xfrm") => {
            Some("another tunnel")
        }
        _ => None,
    })
}

fn check(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        for peer in &status.peers {
            let Some(way) = daemon.way(peer) else { continue };
            let by = host.device(way.device);
            let Some(owner) = owner(by, facts).filter(|owner| *owner != "Docker" && *owner != "libvirt") else {
                continue;
            };
            let at = peer.endpoint.as_deref().unwrap_or_default();
            findings.push(
                NESTED
                    .found(format!("datagrams to {} leave by {by}, which is {owner}'s: a tunnel within a tunnel", peer.name))
                    .on(&daemon.device)
                    .seen(format!("the route to {at} leads by {by}"))
                    .advise("if that is not meant: give the other one fewer networks, or add a route to the peer's address by the card"),
            );
        }
    }
    let ours = |name: &str| facts.daemons.iter().any(|daemon| daemon.device == name);
    // The kernel makes fallback devices of tunnels in each namespace by itself; they are down.
    let others: Vec<String> = host
        .links
        .iter()
        .filter(|link| (link.up || link.kind.as_deref() == Some("bridge")) && !ours(&link.name))
        .filter_map(|link| Some(format!("{} ({})", link.name, owner(&link.name, facts)?)))
        .collect();
    if !others.is_empty() {
        findings.push(PRESENT.found(format!("also on this host: {}", others.join(", "))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::link;
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn others_are_recognized_by_name_and_kind() {
        for (name, kind, whose) in [
            ("docker0", Some("bridge"), Some("Docker")),
            ("br-0123456789ab", Some("bridge"), Some("Docker")),
            ("br-lan", Some("bridge"), None),
            ("wg0", Some("wireguard"), Some("WireGuard")),
            ("tailscale0", Some("tun"), Some("Tailscale")),
            ("tun0", Some("tun"), Some("another VPN")),
            ("vx", Some("vxlan"), Some("another tunnel")),
            ("eth7", None, None),
        ] {
            let findings = found(&CHECK, |facts| facts.host.links.push(link(20, name, kind)));
            match whose {
                None => assert_eq!(ids(&findings), [""; 0], "{name}"),
                Some(whose) => {
                    assert_eq!(ids(&findings), ["neighbour-present"], "{name}");
                    assert!(findings[0].sentence.contains(&format!("{name} ({whose})")), "{findings:?}");
                }
            }
        }
    }

    #[test]
    fn a_tunnel_within_a_tunnel_is_told() {
        let findings = found(&CHECK, |facts| {
            facts.host.links.push(link(20, "wg0", Some("wireguard")));
            facts.daemons[0].ways.values_mut().flatten().for_each(|way| way.device = 20);
        });
        assert_eq!(ids(&findings), ["neighbour-nested", "neighbour-present"]);
    }
}
