//! Offloads: super-packets between kernel and daemon, trains between daemon and wire. Without, each packet is a system call.

use super::super::{Check, Facts, Finding, Kind};

static OFF: Kind = Kind::note("offload-off", "super-packets are switched off in the configuration");
static REFUSED: Kind = Kind::warning("offload-refused", "the kernel does not offer, or refuses, some super-packets");
static TRAINS: Kind = Kind::warning("offload-trains", "the kernel refuses trains of datagrams on a socket");

/// Offloads.
pub(in super::super) const CHECK: Check =
    Check { id: "offloads", title: "super-packets are in use", kinds: &[&OFF, &REFUSED, &TRAINS], check };

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let device = daemon.device.as_str();
        let reason = status.device.reason.as_deref();
        if !status.transport.offload {
            let mut finding =
                OFF.found(format!("{device} works without offloads: one packet per system call")).on(device);
            finding.evidence.extend(reason.map(str::to_owned));
            findings.push(
                finding
                    .advise(format!("take `offload = false` out of {}, and start the daemon again", daemon.file()))
                    .restart(facts, daemon),
            );
            continue;
        }
        if let Some(reason) = reason {
            let have =
                if status.device.offloads.is_empty() { "none".into() } else { status.device.offloads.join(", ") };
            findings.push(
                REFUSED
                    .found(format!("{device} does not have all offloads"))
                    .on(device)
                    .seen(format!("{reason}; in use: {have}"))
                    .advise("a newer kernel has them all (Linux 6.2 and later)"),
            );
        }
        if !status.transport.segmentation {
            findings.push(
                TRAINS
                    .found(format!("datagrams of {device} leave one by one"))
                    .on(device)
                    .seen("UDP_SEGMENT was refused on the way to a peer: its card, or an IPsec policy, cannot do it")
                    .advise("if checksums are switched off on the card, switch them on again")
                    .run(facts.as_root("ethtool -K CARD tx on")),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::tests::status;
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn whatever_is_off_has_its_reason() {
        let findings = found(&CHECK, |facts| {
            status(facts).transport.offload = false;
            status(facts).device.reason = Some("switched off in the configuration".into());
        });
        assert_eq!((ids(&findings), findings[0].evidence.len()), (vec!["offload-off"], 1));
        let findings = found(&CHECK, |facts| status(facts).device.reason = Some("USO needs Linux 6.2".into()));
        assert_eq!(ids(&findings), ["offload-refused"]);
        assert!(findings[0].evidence[0].contains("USO needs"));
        assert_eq!(ids(&found(&CHECK, |f| status(f).transport.segmentation = false)), ["offload-trains"]);
    }
}
