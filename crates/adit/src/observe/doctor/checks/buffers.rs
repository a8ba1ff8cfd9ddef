//! Socket buffers: smaller ones than asked lose datagrams of fast streams.

use super::super::{Check, Facts, Finding, Kind};
use crate::data_path::SOCKET_BUFFER;
use crate::observe::human;

static SMALL: Kind =
    Kind::warning("buffer-small", "the kernel gave the sockets smaller buffers than they were asked to have");
static FULL: Kind = Kind::note("buffer-full", "datagrams were lost since a socket's buffer was full");

/// Buffers.
pub(in super::super) const CHECK: Check =
    Check { id: "buffers", title: "socket buffers are as large as asked", kinds: &[&SMALL, &FULL], check };

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (daemon, status) in facts.up() {
        let asked = daemon.examination.as_ref().map_or(SOCKET_BUFFER as u64, |examination| examination.asked_buffer);
        let transport = &status.transport;
        // The kernel counts its own bookkeeping too, and so doubles what was asked.
        for (which, limit, given) in
            [("receive", "rmem_max", transport.receive_buffer / 2), ("send", "wmem_max", transport.send_buffer / 2)]
        {
            if given < asked {
                findings.push(
                    SMALL
                        .found(format!("each socket of {} has {} to {which}", daemon.device, human::bytes(given)))
                        .on(&daemon.device)
                        .seen(format!("{} were asked for", human::bytes(asked)))
                        .run(facts.as_root(format!("sysctl -w net.core.{limit}={asked}")))
                        .restart(facts, daemon),
                );
            }
        }
        if let Some(lost) = daemon.lost_datagrams.filter(|lost| *lost > 0) {
            findings.push(
                FULL.found(format!("{} lost {lost} datagrams, since nobody took them in time", daemon.device))
                    .on(&daemon.device)
                    .seen("drops of its sockets in /proc/net/udp and /proc/net/udp6")
                    .advise("a few are normal under load; if they grow, this host is too slow for what it is sent, or has too few `workers`"),
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
    fn small_and_full_buffers_are_told() {
        let findings = found(&CHECK, |facts| status(facts).transport.receive_buffer = 425_984);
        assert_eq!(ids(&findings), ["buffer-small"]);
        assert_eq!(findings[0].commands[0], "sysctl -w net.core.rmem_max=8388608");
        let findings = found(&CHECK, |facts| status(facts).transport.send_buffer = 425_984);
        assert!(findings[0].commands[0].contains("wmem_max"));
        assert_eq!(ids(&found(&CHECK, |facts| facts.daemons[0].lost_datagrams = Some(17))), ["buffer-full"]);
    }
}
