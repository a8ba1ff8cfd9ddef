//! The daemons themselves.

use super::super::facts::State;
use super::super::{Check, Facts, Finding, Kind, word};
use crate::api::START;

static DEAD: Kind = Kind::broken("daemon-dead", "a daemon was killed, and its device is still there");
static SILENT: Kind = Kind::broken("daemon-silent", "a daemon does not answer");
static VERSION: Kind =
    Kind::warning("daemon-version", "a daemon is of another version than this program: it was not restarted");
static NONE: Kind = Kind::note("daemon-none", "no daemon runs, so only the host was looked at");
static UNMEASURED: Kind = Kind::unseen("daemon-unmeasured", "a daemon would not measure the ways to its peers");

/// Daemons.
pub(in super::super) const CHECK: Check = Check {
    id: "daemon",
    title: "daemons are alive and of this version",
    kinds: &[&DEAD, &SILENT, &VERSION, &NONE, &UNMEASURED],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    if facts.daemons.is_empty() {
        return vec![NONE.found("no adit daemon runs here").advise(START)];
    }
    let mut findings = Vec::new();
    for daemon in &facts.daemons {
        let device = &daemon.device;
        match &daemon.state {
            State::Dead => findings.push(
                DEAD.found(format!("the daemon of {device} was killed"))
                    .on(device)
                    .advise("start it again with `adit up`, which takes over what is there; or have it removed")
                    .run(facts.as_root(format!("adit down --device {}", word(device)))),
            ),
            State::Silent(why) => {
                let finding =
                    SILENT.found(format!("the daemon of {device} does not answer")).on(device).seen(why.clone());
                findings.push(match &daemon.unit {
                    Some(_) => finding.restart(facts, daemon),
                    None => finding
                        .advise("end its process, and start it again with `adit up`, which takes over what is there"),
                });
            }
            State::Up(status) => {
                let ours = env!("CARGO_PKG_VERSION");
                if status.version != ours {
                    findings.push(
                        VERSION
                            .found(format!(
                                "the daemon of {device} is of version {}, this program {ours}",
                                status.version
                            ))
                            .on(device)
                            .restart(facts, daemon),
                    );
                }
                if let Err(why) = &daemon.examination {
                    findings.push(
                        UNMEASURED
                            .found(format!("the ways to the peers of {device} were not measured"))
                            .on(device)
                            .seen(why.clone()),
                    );
                }
            }
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
    fn daemons_that_are_not_as_they_should_be() {
        assert_eq!(ids(&found(&CHECK, |facts| facts.daemons.clear())), ["daemon-none"]);
        assert_eq!(ids(&found(&CHECK, |facts| facts.daemons[0].state = State::Dead)), ["daemon-dead"]);
        assert_eq!(ids(&found(&CHECK, |f| f.daemons[0].state = State::Silent("no".into()))), ["daemon-silent"]);
        assert_eq!(ids(&found(&CHECK, |facts| status(facts).version = "0.0.1".into())), ["daemon-version"]);
        assert_eq!(ids(&found(&CHECK, |f| f.daemons[0].examination = Err("no".into()))), ["daemon-unmeasured"]);
    }

    #[test]
    fn it_is_started_again_by_its_unit_or_with_its_file() {
        let commands = |unit: Option<&str>| {
            let findings = found(&CHECK, |facts| {
                facts.daemons[0].unit = unit.map(str::to_owned);
                status(facts).version = "0.0.1".into();
            });
            findings[0].commands.join("; ")
        };
        assert_eq!(commands(Some("adit.service")), "systemctl restart adit.service");
        assert_eq!(commands(None), "adit down --device adit0; adit up --config /etc/adit/adit.toml");
    }
}
