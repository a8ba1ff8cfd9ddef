//! `adit wireguard`, also as `adit-wireguard`: an implementation of WireGuard that its own tools start and configure.

use std::{
    env, io,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use linux::daemon::{self, Stream};

use super::Places;
use crate::{Directories, Failure, Result, config, uapi, up};

const AFTER_HELP: &str = "\
Example:
  adit wireguard wg0
  wg set wg0 private-key private.key listen-port 51820

  and with a file of wg-quick, in the place of its kernel module:
  WG_QUICK_USERSPACE_IMPLEMENTATION=adit-wireguard wg-quick up wg0

The device is gone when its socket in /var/run/wireguard is removed, `ip link delete` deletes it, or
the process ends by SIGTERM.";

/// The name by which the program is this verb.
const ALIAS: &str = "adit-wireguard";

/// What this process was told to be by the one that it was started from.
const DETACHED: &str = "--detached";

/// Make a device that `wg` and `wg-quick` take for WireGuard's
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The device to make, such as wg0
    #[arg(value_name = "DEVICE")]
    device: String,

    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,

    #[command(flatten)]
    places: Places,

    /// We are what was left behind to run
    #[arg(long, hide = true, conflicts_with = "foreground")]
    detached: bool,
}

/// The command line of `adit` that this one means, if it is that of [`ALIAS`].
pub(super) fn expand(mut arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let is_alias = arguments.first().is_some_and(|name| Path::new(name).file_name().is_some_and(|name| name == ALIAS));
    // What implementations of WireGuard say to that, and what `adit` says.
    let asks_version = matches!(&arguments[..], [_, only] if only == "--version" || only == "-V");
    if is_alias && !asks_version {
        arguments.insert(1, "wireguard".into());
    }
    arguments
}

/// The level of LOG_LEVEL, by which other implementations of WireGuard are told what to log.
pub(super) fn log_level() -> Option<&'static str> {
    match env::var("LOG_LEVEL").ok()?.as_str() {
        "verbose" | "debug" => Some("debug"),
        "error" => Some("error"),
        "silent" => Some("off"),
        _ => None,
    }
}

impl Arguments {
    /// `log_wanted`: whether somebody has asked for a log, and will read it.
    pub(super) fn run(self, log_wanted: bool) -> Result<()> {
        config::check_device(&self.device).map_err(|fault| Failure::usage(format!("{:?} {fault}", self.device)))?;
        for name in ["WG_TUN_FD", "WG_UAPI_FD"] {
            if env::var_os(name).is_some() {
                return Err(Failure::usage(format!("{name} hands over an open file, and adit opens its own"))
                    .with_remedy(format!("run `unset {name}`")));
            }
        }
        if self.detached {
            daemon::leave_session()?;
            // Whoever started us may want to unmount the place where he did.
            let directories = absolute(&self.places.directories());
            env::set_current_dir("/").map_err(|e| Failure::failed(format!("cannot enter /: {e}")))?;
            return run(&self.device, &directories, !log_wanted);
        }
        if self.foreground || env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1") {
            return run(&self.device, &self.places.directories(), false);
        }
        leave_behind()
    }
}

fn absolute(directories: &Directories) -> Directories {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let Directories { runtime, state, wireguard } = directories;
    Directories { runtime: absolute(runtime), state: absolute(state), wireguard: absolute(wireguard) }
}

fn run(device: &str, directories: &Directories, silent: bool) -> Result<()> {
    up::run_bare(device, directories, up::Lifetime::UntilStopped, |handle| {
        let server = uapi::serve(handle, &directories.wireguard, device, uapi::Abandoned::End)?;
        if silent {
            // Whoever waits for the end of what we say need not wait for ours.
            daemon::silence(&[Stream::Error])?;
        }
        Ok(server)
    })
}

/// Starts this program once more, without a terminal, and waits until that one says on its standard output that it is ready, or ends.
fn leave_behind() -> Result<()> {
    let failed = |what: &str, error: io::Error| Failure::failed(format!("cannot {what}: {error}"));
    let mut arguments = env::args_os();
    // By its name, which is then that of the process; where that is another program's by now, as what it is.
    let this = env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into());
    let mut command = Command::new(this);
    command.arg0(arguments.next().unwrap_or_else(|| ALIAS.into())).args(arguments).arg(DETACHED);
    // The first words of its life may be why it ended.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| failed("start the daemon", error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(|error| failed("hear from the daemon", error))?;
    }
    if !line.is_empty() {
        return Ok(());
    }
    let status = child.wait().map_err(|error| failed("wait for the daemon", error))?;
    // It has said why, in a sentence of its own.
    match status.code() {
        Some(code) => Err(Failure::told(u8::try_from(code).unwrap_or(1))),
        None => Err(Failure::failed(format!("the daemon ended before it was ready: {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn expanded(line: &str) -> String {
        let words = expand(line.split(' ').map(OsString::from).collect());
        words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_name_of_the_program_is_a_verb() {
        for (line, meant) in [
            ("adit-wireguard wg0", "adit-wireguard wireguard wg0"),
            ("/usr/bin/adit-wireguard -f wg0", "/usr/bin/adit-wireguard wireguard -f wg0"),
            ("adit-wireguard", "adit-wireguard wireguard"),
            ("adit-wireguard --help", "adit-wireguard wireguard --help"),
            ("adit-wireguard --version", "adit-wireguard --version"),
            ("adit wireguard wg0", "adit wireguard wg0"),
            ("/adit-wireguard/adit up", "/adit-wireguard/adit up"),
        ] {
            assert_eq!(expanded(line), meant);
        }
    }
}
