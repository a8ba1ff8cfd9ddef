//! How large a packet the way to each peer takes, as probes have just measured: authentic ones of the daemon, which only the peer can answer.

use super::super::facts::endpoint;
use super::super::{Check, Facts, Finding, Kind, word};
use crate::api::PeerExamination;
use crate::api::status::PeerStatus;
use crate::config::TransportKind;
use crate::underlay;

/// As exact as a measurement is, in bytes.
const PRECISION: u64 = 8;

static HOLE: Kind =
    Kind::broken("mtu-black-hole", "large packets to a peer vanish, and the daemon had not noticed yet");
static NARROW: Kind = Kind::warning(
    "mtu-narrow",
    "the way to a peer swallows large packets; the daemon knows it, and sends smaller ones",
);
static SILENT: Kind = Kind::warning("mtu-silent", "a peer with a session answered no probe of any size");
static LEFT_OUT: Kind = Kind::note("mtu-left-out", "there are more peers with a session than are measured at once");

/// Path MTUs.
pub(in super::super) const CHECK: Check = Check {
    id: "path-mtu",
    title: "large packets get to each peer (measured)",
    kinds: &[&HOLE, &NARROW, &SILENT, &LEFT_OUT],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let Ok(examination) = &daemon.examination else { continue };
        for peer in &status.peers {
            let Some(measured) = daemon.measured(peer) else { continue };
            let PeerExamination { size, target, in_use, .. } = *measured;
            let finding = match (size, target) {
                (0, _) => SILENT.found(format!("{} has a session and answered no probe", peer.name)).seen(format!(
                    "probes as large as packets of {target} and 1200 bytes were sent three times each"
                )),
                (size, target) if size >= target => continue,
                (size, _) if in_use > size + PRECISION => mend(
                    HOLE.found(format!("packets of more than {size} bytes vanish on the way to {}", peer.name)),
                    facts,
                    (daemon.way(peer), peer, size),
                )
                .seen(format!("a probe of {size} bytes was answered, of {target} none; {in_use} are in use"))
                .advise(
                    "the daemon looks for the right size now, half a minute long. For good: tell the kernel what the way takes, or \
                     let ICMP \"fragmentation needed\" pass there",
                ),
                (size, _) => mend(
                    NARROW.found(format!("the way to {} swallows packets of more than {size} bytes", peer.name)),
                    facts,
                    (daemon.way(peer), peer, size),
                )
                .seen(format!("a probe of {size} bytes was answered, of {target} none; {in_use} are in use"))
                .advise("senders are told, so that traffic goes on. To spare them: tell the kernel what the way takes"),
            };
            findings.push(finding.on(&daemon.device));
        }
        if examination.left_out > 0 {
            let (measured, more) = (examination.peers.len(), examination.left_out);
            findings.push(
                LEFT_OUT.found(format!("{measured} peers were measured, {more} more were not")).on(&daemon.device),
            );
        }
    }
    findings
}

/// A route to the peer alone, which says how much it takes.
fn mend(
    finding: Finding,
    facts: &Facts,
    (way, peer, size): (Option<linux::netlink::RouteLookup>, &PeerStatus, u64),
) -> Finding {
    let (Some(at), Some(way)) = (endpoint(peer), way) else { return finding };
    let outer = size + underlay::overhead(TransportKind::Sealed, at.ip()) as u64;
    let six = if at.is_ipv6() { "-6 " } else { "" };
    let gateway = way.gateway.map_or(String::new(), |gateway| format!("via {gateway} "));
    let device = word(facts.host.device(way.device));
    finding.run(facts.as_root(format!("ip {six}route replace {} {gateway}dev {device} mtu {outer}", at.ip())))
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::measured;
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn a_black_hole_is_told_by_whether_the_daemon_knows_it() {
        for (size, in_use, id) in [(1320, 1440, "mtu-black-hole"), (1320, 1316, "mtu-narrow"), (0, 1440, "mtu-silent")]
        {
            let findings = found(&CHECK, |facts| {
                let peer = measured(facts);
                (peer.size, peer.in_use) = (size, in_use);
            });
            assert_eq!(ids(&findings), [id]);
            let expected: &[&str] = if size == 0 { &[] } else { &["ip route replace 192.0.2.2 dev eth0 mtu 1380"] };
            assert_eq!(findings[0].commands, expected);
        }
        let findings = found(&CHECK, |facts| facts.daemons[0].examination.as_mut().unwrap().left_out = 9);
        assert_eq!(ids(&findings), ["mtu-left-out"]);
    }

    #[test]
    fn the_way_by_a_gateway_stays() {
        let findings = found(&CHECK, |facts| {
            measured(facts).size = 1320;
            facts.daemons[0].ways.values_mut().flatten().for_each(|way| way.gateway = "192.0.2.254".parse().ok());
        });
        assert_eq!(findings[0].commands, ["ip route replace 192.0.2.2 via 192.0.2.254 dev eth0 mtu 1380"]);
    }
}
