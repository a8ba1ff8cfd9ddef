//! The clock: certificates, tokens and leases have dates, and logs of two hosts are read together.

use std::time::Duration;

use super::super::{Check, Facts, Finding, Kind};
use crate::observe::human;

/// 2025-01-01, before which no version of this program was made.
const BEGINNING: Duration = Duration::from_secs(1_735_689_600);

/// How far apart clocks may be before it is told, in nanoseconds.
const APART: i64 = 2_000_000_000;

static PAST: Kind = Kind::broken("clock-past", "the clock is years behind: certificates are not valid yet");
static APART_KIND: Kind =
    Kind::warning("clock-apart", "the clock of this host and those of its peers are more than two seconds apart");
static ALONE: Kind =
    Kind::note("clock-unsynchronised", "no time service keeps the clock, and no peer could be compared with");

/// The clock.
pub(in super::super) const CHECK: Check = Check {
    id: "clock",
    title: "the clock is right (compared with peers)",
    kinds: &[&PAST, &APART_KIND, &ALONE],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let keep = || facts.as_root("timedatectl set-ntp true");
    if host.now < BEGINNING {
        let at = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + host.now);
        return vec![PAST.found(format!("the clock of this host says {at}")).run(keep())];
    }
    let mut findings = Vec::new();
    let mut compared = false;
    for (daemon, status) in facts.up() {
        let told = status.peers.iter().filter_map(|peer| Some((peer, daemon.measured(peer)?.told?)));
        let told: Vec<_> = told.collect();
        compared |= !told.is_empty();
        let apart: Vec<_> = told
            .iter()
            .filter(|(_, told)| told.ahead_ns.saturating_abs().saturating_sub(told.uncertain_ns) > APART)
            .collect();
        let Some((peer, first)) = apart.first() else { continue };
        let by = human::duration(first.ahead_ns.unsigned_abs() / 1_000_000_000);
        let direction = if first.ahead_ns > 0 { "behind" } else { "ahead of" };
        // Of several peers that agree with each other, we are the one who is wrong.
        let whose = if apart.len() == told.len() && told.len() > 1 {
            format!("the clock of this host is {by} {direction} those of all {} peers that were asked", told.len())
        } else {
            format!("the clock of this host is {by} {direction} that of {}", peer.name)
        };
        let mut finding = APART_KIND.found(whose).on(&daemon.device);
        for (peer, told) in apart.iter().take(4) {
            let (ahead, uncertain) = (told.ahead_ns as f64 / 1e9, told.uncertain_ns as f64 / 1e9);
            finding = finding.seen(format!("{}: {ahead:+.3} s, give or take {uncertain:.3} s", peer.name));
        }
        let advice = match host.synchronised {
            Some(true) => "a time service keeps the clock of this host: look at the other one",
            _ => "no time service keeps the clock of this host",
        };
        findings.push(finding.advise(advice).run(keep()));
    }
    if !compared && host.synchronised == Some(false) {
        findings.push(ALONE.found("no time service keeps the clock of this host").run(keep()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::measured;
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_told() {
        assert_eq!(ids(&found(&CHECK, |facts| facts.host.now = Duration::from_secs(1000))), ["clock-past"]);
        for (ahead, uncertain, is_found) in
            [(3_000_000_000, 1_000_000, true), (-3_000_000_000, 1_000_000, true), (3_000_000_000, 2_000_000_000, false)]
        {
            let findings = found(&CHECK, |facts| {
                let told = measured(facts).told.as_mut().unwrap();
                (told.ahead_ns, told.uncertain_ns) = (ahead, uncertain);
            });
            assert_eq!(findings.len(), usize::from(is_found), "{findings:?}");
            if let [finding] = &findings[..] {
                assert!(
                    finding.sentence.contains(if ahead > 0 { "3 s behind that" } else { "3 s ahead of" }),
                    "{finding:?}"
                );
            }
        }
    }

    #[test]
    fn who_agrees_with_a_peer_needs_no_service() {
        assert_eq!(ids(&found(&CHECK, |facts| facts.host.synchronised = Some(false))), [""; 0]);
        let alone = found(&CHECK, |facts| {
            facts.host.synchronised = Some(false);
            measured(facts).told = None;
        });
        assert_eq!(ids(&alone), ["clock-unsynchronised"]);
    }
}
