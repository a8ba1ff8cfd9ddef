//! Whether peers answer.

use super::super::facts::endpoint;
use super::super::{Check, Facts, Finding, Kind};
use crate::api::status::PeerStatus;

/// As many are named.
const NAMED: usize = 8;

static NOBODY: Kind =
    Kind::broken("peer-nobody", "none of the encrypted peers answers, whether there seems to be a session or not");
static SILENT: Kind = Kind::warning("peer-silent", "a peer does not answer while others do");
static LOOP: Kind = Kind::broken("peer-loop", "the way to a peer's endpoint leads into the tunnel itself");
static NO_WAY: Kind = Kind::broken("peer-no-way", "this host has no route to a peer's endpoint");

/// Peers.
pub(in super::super) const CHECK: Check =
    Check { id: "peers", title: "peers can be called, and answer", kinds: &[&NOBODY, &SILENT, &LOOP, &NO_WAY], check };

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        let tunnel = facts.host.index(device);
        for peer in &status.peers {
            let Some(at) = endpoint(peer) else { continue };
            match daemon.ways.get(&at.ip()) {
                Some(Some(way)) if Some(way.device) == tunnel => findings.push(
                    LOOP.found(format!("the way to {at}, where {} is, leads into {device} itself", peer.name))
                        .on(device)
                        .advise(format!(
                            "take the address out of `allowed-ips` in {}, or add a route to it outside of the tunnel",
                            daemon.file()
                        )),
                ),
                Some(None) => findings.push(
                    NO_WAY
                        .found(format!("this host has no route to {at}, where {} is", peer.name))
                        .on(device)
                        .run(facts.as_root(format!("ip route get {}", at.ip())))
                        .advise("add a route, or a default route, by the card that leads there"),
                ),
                Some(Some(_)) | None => {}
            }
        }
        let silent = daemon.examination.as_ref().map_or(&[][..], |examination| &examination.silent);
        let some_up = status.peers.iter().any(|peer| peer.session == "up" && !daemon.is_unanswered(peer));
        // One with a session that answers nothing while others do is told of with its path.
        let is_bad = |peer: &&PeerStatus| {
            peer.problem.is_some() || silent.contains(&peer.name) || (!some_up && daemon.is_unanswered(peer))
        };
        let bad: Vec<_> = status.peers.iter().filter(is_bad).collect();
        let (kind, sentence) = match (bad.len(), some_up) {
            (0, _) => continue,
            (1, true) => (&SILENT, "one peer does not answer".to_owned()),
            (n, true) => (&SILENT, format!("{n} peers do not answer")),
            (1, false) => (&NOBODY, "no peer answers".to_owned()),
            (n, false) => (&NOBODY, format!("no peer answers, of {n} that were called")),
        };
        let mut finding = kind.found(sentence).on(device);
        for peer in bad.iter().take(NAMED) {
            let at = peer.endpoint.as_deref().unwrap_or("an unknown address");
            let problem = peer.problem.as_deref().unwrap_or(if daemon.is_unanswered(peer) {
                "it has a session, and answered nothing that was sent within it just now"
            } else {
                "it was called, and did not answer within three seconds"
            });
            finding = finding.seen(format!("{} at {at}: {problem}", peer.name));
        }
        if bad.len() > NAMED {
            finding = finding.seen(format!("and {} more", bad.len() - NAMED));
        }
        findings.push(finding.advise("have `adit doctor` look on the other host too, and at what else is found here"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::{mute, status};
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn peers_that_cannot_be_reached_are_named() {
        let findings = found(&CHECK, |facts| {
            let peer = &mut status(facts).peers[0];
            (peer.session, peer.problem) = ("handshaking".into(), Some("the peer does not answer".into()));
        });
        assert_eq!(ids(&findings), ["peer-nobody"]);
        assert!(findings[0].evidence[0].starts_with("berlin at 192.0.2.2:7777"), "{findings:?}");
        let findings = found(&CHECK, |facts| {
            let mut other = status(facts).peers[0].clone();
            other.problem = Some("no".into());
            other.session = "none".into();
            status(facts).peers.push(other);
        });
        assert_eq!(ids(&findings), ["peer-silent"]);
        let quiet = |facts: &mut Facts| {
            status(facts).peers[0].session = "none".into();
            facts.daemons[0].examination.as_mut().unwrap().silent = vec!["berlin".into()];
        };
        assert_eq!(ids(&found(&CHECK, quiet)), ["peer-nobody"]);
        let findings = found(&CHECK, mute);
        assert_eq!(ids(&findings), ["peer-nobody"]);
        assert!(findings[0].evidence[0].contains("has a session"), "{findings:?}");
        let one_of_two = |facts: &mut Facts| {
            mute(facts);
            let other = PeerStatus { name: "rome".into(), ..status(facts).peers[0].clone() };
            status(facts).peers.push(other);
        };
        assert_eq!(ids(&found(&CHECK, one_of_two)), [""; 0], "its path is what is told");
        let no_way = |facts: &mut Facts| facts.daemons[0].ways.values_mut().for_each(|way| *way = None);
        assert_eq!(ids(&found(&CHECK, no_way)), ["peer-no-way"]);
        let around = |facts: &mut Facts| facts.daemons[0].ways.values_mut().flatten().for_each(|way| way.device = 3);
        assert_eq!(ids(&found(&CHECK, around)), ["peer-loop"]);
    }
}
