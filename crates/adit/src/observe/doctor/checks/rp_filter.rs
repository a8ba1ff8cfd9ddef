//! The reverse-path filter: where it is strict (1), a card takes no packet whose answer would leave by another one. That bites where datagrams
//! come by another card than they go, and where a route of somebody else's leads to a network that is behind the tunnel.

use std::net::IpAddr;

use super::super::facts::{Daemon, Host, endpoint};
use super::super::{Check, Facts, Finding, Kind, word};

static UNDERLAY: Kind = Kind::broken(
    "rp-filter-underlay",
    "the card by which a peer's datagrams come drops them, since answers leave by another",
);
static INNER: Kind = Kind::broken(
    "rp-filter-inner",
    "the tunnel's device drops packets of a peer, since a route of others leads to where they come from",
);
static DROPS: Kind =
    Kind::warning("rp-filter-drops", "the reverse-path filter dropped packets while peers were asked for an answer");

/// rp_filter.
pub(in super::super) const CHECK: Check = Check {
    id: "rp-filter",
    title: "no strict reverse-path filter is in the way",
    kinds: &[&UNDERLAY, &INNER, &DROPS],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let mut findings: Vec<Finding> = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        for peer in status.peers.iter().filter(|peer| peer.session != "up") {
            let Some(way) = daemon.way(peer) else { continue };
            let Some(IpAddr::V4(at)) = endpoint(peer).map(|at| at.ip()) else { continue };
            let Some(arrival) = arrival(host, daemon, status.transport.listen.ip(), at.into()) else { continue };
            if arrival == way.device || !is_strict(host, host.device(arrival)) {
                continue;
            }
            let (by, out) = (host.device(arrival), host.device(way.device));
            findings.push(
                loosen(
                    UNDERLAY.found(format!(
                        "{by} drops the datagrams of {}: they come by it, and answers to {at} leave by {out}",
                        peer.name
                    )),
                    facts,
                    by,
                )
                .on(device),
            );
        }
        let tunnel = host.index(device);
        let strange =
            daemon.behind.iter().filter(|(prefix, _)| prefix.addr().is_ipv4()).find_map(|(prefix, answers)| {
                let mut ways = answers.iter().filter_map(|answer| answer.way.ok());
                Some((prefix, ways.find(|way| Some(way.device) != tunnel)?.device))
            });
        if let (Some((prefix, way)), true) = (strange, is_strict(host, device)) {
            let sentence =
                format!("{device} drops what comes from {prefix}: a route leads there by {}", host.device(way));
            findings.push(loosen(INNER.found(sentence), facts, device).on(device));
        }
    }
    if let (true, Some((before, after))) = (findings.is_empty(), host.reverse_filtered)
        && after > before
    {
        let strict: Vec<&str> =
            host.links.iter().map(|link| link.name.as_str()).filter(|name| is_strict(host, name)).collect();
        let mut finding = DROPS
            .found(format!("{} packets were dropped by a strict reverse-path filter just now", after - before))
            .seen(format!("IPReversePathFilter in /proc/net/netstat went from {before} to {after}"));
        for name in strict {
            finding = finding.run(facts.as_root(format!("sysctl -w net/ipv4/conf/{}/rp_filter=2", word(name))));
        }
        findings.push(finding);
    }
    findings
}

fn loosen(finding: Finding, facts: &Facts, device: &str) -> Finding {
    let value = |name: &str| facts.host.setting(&["net", "ipv4", "conf", name, "rp_filter"]).unwrap_or(0);
    finding
        .seen(format!("rp_filter of {device} is {}, of all {}: the larger counts", value(device), value("all")))
        .run(facts.as_root(format!("sysctl -w net/ipv4/conf/{}/rp_filter=2", word(device))))
}

/// The larger of the device's and that of all counts (ip-sysctl.rst of the kernel).
fn is_strict(host: &Host, device: &str) -> bool {
    let value = |name: &str| host.setting(&["net", "ipv4", "conf", name, "rp_filter"]).unwrap_or(0);
    value("all").max(value(device)) == 1
}

/// By which card a peer's datagrams come, as far as one can know: that which has the address we listen on; or else one that is in the peer's own
/// network.
fn arrival(host: &Host, daemon: &Daemon, listen: IpAddr, at: IpAddr) -> Option<u32> {
    if !listen.is_unspecified() {
        return host.card_of(listen);
    }
    let tunnel = host.index(&daemon.device);
    host.addresses.iter().find(|own| own.net.contains(&at) && Some(own.index) != tunnel).map(|own| own.index)
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::{answer, link, status};
    use super::super::tests::{found, ids};
    use super::*;

    fn asymmetric(facts: &mut Facts) {
        facts.host.links.push(link(9, "eth1", None));
        let peer = &mut status(facts).peers[0];
        peer.session = "handshaking".into();
        facts.daemons[0].ways.values_mut().flatten().for_each(|way| way.device = 9);
    }

    fn strict(facts: &mut Facts, device: &str) {
        facts.host.settings.insert(format!("net.ipv4.conf.{device}.rp_filter"), 1);
    }

    #[test]
    fn a_card_that_is_not_the_way_back_drops() {
        for (device, value) in [("eth0", 1), ("all", 1), ("eth0", 2)] {
            let findings = found(&CHECK, |facts| {
                asymmetric(facts);
                facts.host.settings.insert(format!("net.ipv4.conf.{device}.rp_filter"), value);
            });
            assert_eq!(ids(&findings).len(), usize::from(value == 1), "{device} {value}");
            if let [finding] = &findings[..] {
                assert_eq!(finding.commands, ["sysctl -w net/ipv4/conf/eth0/rp_filter=2"]);
            }
        }
        assert_eq!(ids(&found(&CHECK, asymmetric)), [""; 0]);
        assert_eq!(ids(&found(&CHECK, |facts| strict(facts, "all"))), [""; 0], "strict and straight is fine");
    }

    #[test]
    fn a_route_of_others_makes_the_tunnel_drop() {
        let steal = |facts: &mut Facts| {
            facts.daemons[0].behind.values_mut().for_each(|way| *way = vec![answer("10.77.0.2", 2)])
        };
        assert_eq!(ids(&found(&CHECK, steal)), [""; 0]);
        let findings = found(&CHECK, |facts| {
            steal(facts);
            strict(facts, "adit0");
        });
        assert_eq!(ids(&findings), ["rp-filter-inner"]);
    }

    #[test]
    fn what_was_dropped_just_now_is_told() {
        let findings = found(&CHECK, |facts| {
            facts.host.reverse_filtered = Some((7, 9));
            strict(facts, "eth0");
        });
        assert_eq!(ids(&findings), ["rp-filter-drops"]);
        assert_eq!(findings[0].commands.len(), 1);
    }
}
