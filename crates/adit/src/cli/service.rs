//! A configuration that was just written: started by systemd where that runs, else by a command that is said.

use std::path::Path;
use std::process::Command;

use crate::{Directories, Failure, Result, unit};

/// Starts the daemon, or says how: a paragraph for the reader, and whether systemd did it. What was made stands in any case, so that the
/// reader is told all of it before a failure.
pub(super) fn start(config: &Path, directories: &Directories, only_say: bool) -> (String, Result<()>) {
    let is_usual = *directories == Directories::default();
    if let Some(unit) = unit::of_file(config).filter(|_| is_usual && unit::is_booted()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_says_what_is_not_as_usual() {
        let elsewhere = Directories { state: "/x".into(), ..Directories::default() };
        let (said, _) = start("/tmp/a.toml".as_ref(), &elsewhere, true);
        assert_eq!(said, "Start it:\n\n  adit up --config /tmp/a.toml --state-dir /x\n");
    }
}
