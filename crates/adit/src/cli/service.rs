//! A configuration that was just written: started by systemd where that runs, else by a command that is said.

use std::path::Path;
use std::process::Command;

use crate::{Directories, Failure, Result};

/// Where systemd says that it is the one that runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Where its unit finds configurations by name.
const CONFIGURATIONS: &str = "/etc/adit";

/// Starts the daemon, or says how: a paragraph for the reader, and whether systemd did it. What was made stands in any case, so that the
/// reader is told all of it before a failure.
pub(super) fn start(config: &Path, directories: &Directories, only_say: bool) -> (String, Result<()>) {
    if let Some(unit) = unit(config, directories).filter(|_| Path::new(BOOTED).is_dir()) {
        let command = format!("systemctl enable --now {unit}");
        let by_hand = format!("Start it:\n\n  {command}\n");
        if only_say {
            return (by_hand, Ok(()));
        }
        return match enable(&unit, &command) {
            Ok(()) => (format!("It is started, and will be at each boot ({unit}).\n"), Ok(())),
            Err(failure) => (by_hand, Err(failure)),
        };
    }
    let mut command = "adit up".to_owned();
    if config != Path::new("/etc/adit/adit.toml") {
        command.push_str(&format!(" --config {}", config.display()));
    }
    let defaults = Directories::default();
    for (directory, default, option) in [
        (&directories.runtime, &defaults.runtime, "--runtime-dir"),
        (&directories.state, &defaults.state, "--state-dir"),
    ] {
        if directory != default {
            command.push_str(&format!(" {option} {}", directory.display()));
        }
    }
    (format!("Start it:\n\n  {command}\n"), Ok(()))
}

fn enable(unit: &str, command: &str) -> Result<()> {
    let output = Command::new("systemctl").args(["enable", "--now", unit]).output();
    let output = output.map_err(|e| Failure::failed(format!("cannot run systemctl: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::failed(format!("`{command}` failed: {}", said.trim()))
            .with_remedy(format!("see `journalctl -u {unit}`")));
    }
    Ok(())
}

/// The unit that would start just this configuration, if there is one.
fn unit(config: &Path, directories: &Directories) -> Option<String> {
    let is_named = config.parent() == Some(Path::new(CONFIGURATIONS)) && config.extension()? == "toml";
    let name = config.file_stem()?.to_str()?;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    // The node of this host has a unit of its own.
    let unit = if name == "adit" { "adit.service".to_owned() } else { format!("adit@{name}.service") };
    (is_named && plain && *directories == Directories::default()).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_unit_finds_is_started_by_it() {
        let default = Directories::default();
        assert_eq!(unit("/etc/adit/adit.toml".as_ref(), &default).as_deref(), Some("adit.service"));
        assert_eq!(unit("/etc/adit/lab.toml".as_ref(), &default).as_deref(), Some("adit@lab.service"));
        assert_eq!(unit("/etc/adit/a b.toml".as_ref(), &default), None);
        assert_eq!(unit("/root/adit.toml".as_ref(), &default), None);
        let elsewhere = Directories { state: "/x".into(), ..default };
        assert_eq!(unit("/etc/adit/adit.toml".as_ref(), &elsewhere), None);
    }

    #[test]
    fn the_command_says_what_is_not_as_usual() {
        let elsewhere = Directories { state: "/x".into(), ..Directories::default() };
        let (said, _) = start("/tmp/a.toml".as_ref(), &elsewhere, true);
        assert_eq!(said, "Start it:\n\n  adit up --config /tmp/a.toml --state-dir /x\n");
    }
}
