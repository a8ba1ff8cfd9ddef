//! `adit doctor`

use super::{Places, output};
use crate::observe::doctor::{self, CHECKS, gather, report};
use crate::{Failure, Result, api, config};

/// Find out what is wrong with this host and its tunnels, and what to type
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(super) struct Arguments {
    /// Only the daemon of this device, and the host
    #[arg(long, value_name = "NAME")]
    device: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    places: Places,
}

/// Examples, and the list of what is looked at.
fn after_help() -> String {
    let mut text = String::from(
        "Nothing is changed; probes go to the peers, and packets through a namespace made for it. It works without a\n\
         daemon and without root, and says what it could not look at.\n\n\
         It ends with 1 if something is broken; warnings and notes do not count.\n\n\
         Examples:\n  \
         sudo adit doctor\n  \
         sudo adit doctor --json | jq -r '.findings[] | .id + \": \" + .commands[]'\n\n\
         What is looked at (docs/DOCTOR.md has all that can be found):\n",
    );
    for check in CHECKS {
        text += &format!("  {:<13} {}\n", check.id, check.title.replace('`', ""));
    }
    text.trim_end().to_owned()
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        if let Some(device) = &self.device {
            config::check_device(device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        }
        let directories = self.places.directories();
        if let Some(device) = &self.device {
            check_presence(device, &api::daemons(&directories.runtime)?)?;
        }
        let facts = gather::gather(&directories, self.device.as_deref())?;
        let outcomes = doctor::judge(&facts);
        let text = if self.json {
            report::json(&facts, &outcomes).map_err(|e| Failure::failed(format!("cannot say it in JSON: {e}")))?
        } else {
            report::text(&facts, &outcomes)
        };
        output::print(&text)?;
        if doctor::is_broken(&outcomes) { Err(Failure::told(1)) } else { Ok(()) }
    }
}

/// That a daemon which is asked for is there. Where none runs at all, the host is looked at.
fn check_presence(device: &str, daemons: &[String]) -> Result<()> {
    if daemons.is_empty() || daemons.iter().any(|daemon| daemon == device) {
        return Ok(());
    }
    Err(Failure::failed(format!("no adit daemon is running for device {device}"))
        .with_remedy(format!("name one that is: {}", daemons.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_not_there_is_missed_among_others() {
        let present = ["adit0".to_owned(), "adit1".to_owned()];
        assert_eq!(check_presence("adit1", &present), Ok(()));
        assert_eq!(check_presence("nosuch", &[]), Ok(()));
        let failure = check_presence("nosuch", &present).unwrap_err();
        assert!(failure.exit_code() == 1 && failure.sentence().contains("adit0, adit1"), "{failure}");
    }

    #[test]
    fn the_help_has_every_check() {
        let help = after_help();
        for check in CHECKS {
            assert!(help.lines().any(|line| line.trim_start().starts_with(check.id)), "{}: {help}", check.id);
        }
    }
}
