//! The registry of a network, and this node's lease in it.

use super::super::{Check, Facts, Finding, Kind, word};
use crate::observe::human;

/// A lease that ends sooner was not renewed for most of its life: it lives a day, and is renewed each hour.
const SOON: u64 = 3600;

static REMOVED: Kind = Kind::broken(
    "registry-removed",
    "this node is in its network no more: the authority has removed it, or the registry does not know it any more",
);
static AWAY: Kind =
    Kind::broken("registry-away", "the registry cannot be reached: nobody joins, and the lease runs out");
static LEASE: Kind = Kind::broken("registry-lease", "this node does not hold its subnet");
static OLD: Kind = Kind::warning("registry-lease-old", "the lease ends within an hour");
static PROBLEM: Kind = Kind::warning("registry-problem", "what the node itself says to be wrong with the network");
static SKIPPED: Kind = Kind::warning(
    "registry-skipped",
    "there are records in the registry that are not used: they are not signed, or not valid",
);

/// The registry.
pub(in super::super) const CHECK: Check = Check {
    id: "registry",
    title: "the registry answers, and the lease is held",
    kinds: &[&REMOVED, &AWAY, &LEASE, &OLD, &PROBLEM, &SKIPPED],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let Some(network) = &status.network else { continue };
        let device = daemon.device.as_str();
        if let Some(removed) = &network.removed {
            // What to do follows below.
            let what = removed.split_once("; ").map_or(removed.as_str(), |(what, _)| what);
            let mut finding = REMOVED.found(what).on(device);
            finding.evidence.extend(network.registry_problem.clone());
            findings.push(
                finding
                    .advise("a token is made on the host of the authority, by `adit token create`")
                    .run(facts.as_root(format!("adit down --device {} --purge", word(device))))
                    .run(facts.as_root("adit join TOKEN")),
            );
            // What else there is follows from that.
            continue;
        }
        let dead: Vec<_> = daemon.registries.iter().filter_map(|(url, why)| Some((url, why.as_ref()?))).collect();
        let all_dead = !daemon.registries.is_empty() && dead.len() == daemon.registries.len();
        if network.registry_problem.is_some() || all_dead {
            let mut finding = AWAY.found(format!("the registry of {} cannot be reached", network.node)).on(device);
            finding.evidence.extend(network.registry_problem.clone());
            finding.evidence.extend(dead.iter().map(|(url, why)| format!("{url}: {why}")));
            if let Some(left) = network.lease_s {
                finding = finding.seen(format!("the lease ends in {}", human::duration(left)));
            }
            let advice = if network.embedded {
                "the registry is in this daemon: look into its log"
            } else if dead.iter().any(|(_, why)| why.contains("refused")) {
                "nobody listens there: on the host of the registry, start the daemon again, by `systemctl start adit` or `adit up`"
            } else {
                "on the host of the registry: is it up, is the daemon running, and is that TCP port open to this host?"
            };
            findings.push(finding.advise(advice).run(format!("adit status --device {}", word(device))));
        }
        match (network.lease.as_str(), network.lease_s) {
            ("held" | "reserved", Some(left)) if left < SOON && network.lease == "held" => findings.push(
                OLD.found(format!("the lease of {} ends in {}", network.node, human::duration(left)))
                    .on(device)
                    .advise("it is renewed as soon as the registry can be reached"),
            ),
            ("held" | "reserved", _) => {}
            (state, _) => {
                let what = match state {
                    "taken" => "another node has the subnet of this one",
                    "lost" => "the lease was lost, and is being reclaimed",
                    _ => "this node waits for a subnet",
                };
                findings.push(
                    LEASE
                        .found(what)
                        .on(device)
                        .seen(format!("lease: {state}"))
                        .advise(
                            "see what else is found of the registry; a network without a free subnet needs a wider one",
                        )
                        .run(format!("adit status --device {}", word(device))),
                );
            }
        }
        findings.extend(network.problems.iter().map(|problem| PROBLEM.found(problem.clone()).on(device)));
        if network.skipped > 0 {
            findings.push(
                SKIPPED.found(format!("{} records of the registry are not used", network.skipped)).on(device).advise(
                    "whoever may write there wrote something that no node has signed; the network goes on without it",
                ),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::status;
    use super::super::tests::{found_on_node, ids};
    use super::*;
    use crate::api::status::NetworkStatus;

    fn after(change: impl FnOnce(&mut NetworkStatus)) -> Vec<&'static str> {
        ids(&found_on_node(&CHECK, |facts| change(status(facts).network.as_mut().unwrap())))
    }

    #[test]
    fn each_trouble_has_its_name() {
        assert_eq!(after(|network| network.registry_problem = Some("no answer".into())), ["registry-away"]);
        for lease in ["lost", "taken", "waiting"] {
            assert_eq!(after(|network| network.lease = lease.into()), ["registry-lease"]);
        }
        assert_eq!(after(|network| network.lease = "reserved".into()), [""; 0]);
        assert_eq!(after(|network| network.lease_s = Some(600)), ["registry-lease-old"]);
        assert_eq!(after(|network| network.problems = vec!["a".into(), "b".into()]), ["registry-problem"; 2]);
        assert_eq!(after(|network| network.skipped = 1), ["registry-skipped"]);
    }

    #[test]
    fn a_node_that_is_out_is_told_that_alone() {
        let findings = found_on_node(&CHECK, |facts| {
            let network = status(facts).network.as_mut().unwrap();
            (network.registry_problem, network.lease) = (Some("it refuses the user".into()), "lost".into());
            network.removed = Some("this node is out".into());
            network.problems.push("this node is out".into());
        });
        assert_eq!(ids(&findings), ["registry-removed"]);
        assert_eq!(findings[0].commands, ["adit down --device adit0 --purge", "adit join TOKEN"]);
    }

    #[test]
    fn nobody_who_listens_is_told_from_nobody_who_answers() {
        for (why, words) in [("connection refused", "start the daemon"), ("timed out", "port open")] {
            let findings = found_on_node(&CHECK, |facts| {
                facts.daemons[0].registries.values_mut().for_each(|answer| *answer = Some(why.into()));
            });
            assert_eq!(ids(&findings), ["registry-away"]);
            assert!(findings[0].advice.contains(words), "{findings:?}");
        }
    }
}
