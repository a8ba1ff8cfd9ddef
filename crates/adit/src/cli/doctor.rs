//! `adit doctor`

use super::{Places, output};
use crate::observe::doctor::{self, CHECKS, gather, report};
use crate::{Failure, Result, config};

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
        let facts = gather::gather(&self.places.directories(), self.device.as_deref())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_every_check() {
        let help = after_help();
        for check in CHECKS {
            assert!(help.lines().any(|line| line.trim_start().starts_with(check.id)), "{}: {help}", check.id);
        }
    }
}
