//! br_netfilter: with it, frames that a bridge only passes on are led through the filters of forwarded packets as if they were routed.

use super::super::firewall::{Owner, Packet, Pass, Place, place, remedy, walk};
use super::super::{Check, Facts, Finding, Kind};

static DROPS: Kind = Kind::broken(
    "bridge-filtered",
    "the firewall drops what containers of one bridge say to each other (br_netfilter)",
);

/// br_netfilter.
pub(in super::super) const CHECK: Check = Check {
    id: "br-netfilter",
    title: "containers of one bridge hear each other (br_netfilter)",
    kinds: &[&DROPS],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let Ok(listing) = &facts.host.filters else { return Vec::new() };
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let Some(bridge) = daemon.bridge.as_deref().filter(|_| !daemon.containers.is_empty()) else { continue };
        for (v6, setting) in [(false, "bridge-nf-call-iptables"), (true, "bridge-nf-call-ip6tables")] {
            let subnets = status.network.iter().flat_map(|network| &network.subnets);
            let mut own = subnets.filter(|subnet| subnet.addr().is_ipv6() == v6);
            let (Some(own), Some(1)) = (own.next(), facts.host.setting(&["net", "bridge", setting])) else { continue };
            let device = facts.host.index(bridge).map(|index| (bridge.to_owned(), index));
            if device.is_none() {
                continue;
            }
            let packet = Packet {
                v6,
                established: false,
                input: device.clone(),
                output: device,
                from: Some(own.addr()),
                to: Some(own.addr()),
                protocol: libc::IPPROTO_TCP as u8,
                source_port: None,
                port: None,
                icmp: None,
            };
            let Some(end) = walk(listing, &packet, &[Place::Forward]).filter(|end| end.certain) else { continue };
            let owner = Owner::of(&end, listing);
            let finding = DROPS
                .found(format!("{} drops what containers on {bridge} say to each other", owner.name()))
                .on(&daemon.device)
                .seen(format!("net.bridge.{setting} = 1"))
                .seen(place(&end))
                .advise(format!(
                    "where nobody relies on filtered bridges (Kubernetes does), this helps as well: `sysctl -w net.bridge.{setting}=0`"
                ));
            findings.push(remedy(finding, facts, listing, &end, Pass::Between(bridge, bridge)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use linux::nft::{Family, Listing};

    use super::super::super::firewall::tests::chain;
    use super::super::tests::{found_on_node, ids};
    use super::*;

    #[test]
    fn a_bridge_that_is_filtered_is_told() {
        for (on, expected) in [(1, vec!["bridge-filtered"]), (0, vec![])] {
            let findings = found_on_node(&CHECK, |facts| {
                facts.host.settings.insert("net.bridge.bridge-nf-call-iptables".into(), on);
                let forward = chain((Family::Ip, "filter"), "FORWARD", Some((2, true)), vec![]);
                facts.host.filters = Ok(Listing { chains: vec![forward], ..Listing::default() });
            });
            assert_eq!(ids(&findings), expected);
            if let [finding] = &findings[..] {
                assert_eq!(finding.commands, ["iptables -I FORWARD -i adit-br0 -o adit-br0 -j ACCEPT"]);
            }
        }
    }
}
