//! Capabilities: of the daemons, and ours.

use super::super::{Check, Facts, Finding, Kind};

/// `CAP_NET_ADMIN` (capabilities(7)).
const NET_ADMIN: u64 = 1 << 12;

static DAEMON: Kind =
    Kind::broken("rights-daemon", "a daemon has no CAP_NET_ADMIN, and can neither change nor repair anything");
static OURS: Kind =
    Kind::unseen("rights-ours", "the doctor has no CAP_NET_ADMIN, so firewall and daemons were not asked");

/// Capabilities.
pub(in super::super) const CHECK: Check =
    Check { id: "rights", title: "capabilities of the daemons, and of the doctor", kinds: &[&DAEMON, &OURS], check };

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        if let Some(capabilities) = daemon.capabilities.filter(|capabilities| capabilities & NET_ADMIN == 0) {
            findings.push(
                DAEMON
                    .found(format!("the daemon of {} has no CAP_NET_ADMIN", daemon.device))
                    .on(&daemon.device)
                    .seen(format!("process {}: CapEff {capabilities:016x}", status.pid))
                    .advise("start it as root, or by the unit that comes with adit")
                    .restart(facts, daemon),
            );
        }
    }
    if !facts.host.root {
        findings.push(OURS.found("some things need root to be looked at").run("sudo adit doctor"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn whoever_lacks_a_right_is_named() {
        assert_eq!(ids(&found(&CHECK, |facts| facts.daemons[0].capabilities = Some(1 << 13))), ["rights-daemon"]);
        assert_eq!(ids(&found(&CHECK, |facts| facts.daemons[0].capabilities = None)), [""; 0]);
        assert_eq!(ids(&found(&CHECK, |facts| facts.host.root = false)), ["rights-ours"]);
    }
}
