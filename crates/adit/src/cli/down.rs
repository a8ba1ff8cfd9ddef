//! `adit down`

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use linux::netlink::Netlink;

use super::{Places, find, output};
use crate::{
    Directories, Failure, Result,
    api::{self, CallError, Claim, Request, Response},
    apply, config, dns,
};

/// How long a daemon may take to remove everything.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often to look whether it is gone.
const LOOK: Duration = Duration::from_millis(20);

const AFTER_HELP: &str = "\
Examples:
  adit down                        the only daemon there is
  adit down --device adit0         one of several
  adit down --config tunnel.toml   the one that was started with this file

A daemon that was killed cannot clean up; then this removes what it left behind.";

/// Stop a daemon and wait until everything it set up is removed
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The device of the daemon
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    device: Option<String>,

    /// The configuration that the daemon was started with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    places: Places,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let directories = self.places.directories();
        let device = device(self.device, self.config, &directories)?;
        let said = stop(&device, &directories)?;
        output::print(&format!("{said}\n")).map(drop)
    }
}

/// The device of the daemon that is meant: by name, by the file it was started with, or as the only one there is.
pub(super) fn device(name: Option<String>, file: Option<PathBuf>, directories: &Directories) -> Result<String> {
    match (name, file) {
        (Some(device), _) => {
            config::check_device(&device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
            Ok(device)
        }
        (None, Some(file)) => Ok(config::device_name(&find::file(&file))?),
        (None, None) => only_daemon(&directories.runtime),
    }
}

fn only_daemon(runtime_dir: &Path) -> Result<String> {
    let mut devices = api::daemons(runtime_dir)?;
    match (devices.pop(), devices.is_empty()) {
        (None, _) => Err(Failure::failed(format!(
            "no adit daemon is running in {}; name what a killed one left behind with `adit down --device NAME`",
            runtime_dir.display()
        ))),
        (Some(device), true) => Ok(device),
        (Some(last), false) => Err(Failure::usage(format!(
            "several daemons are running: name one with --device ({}, {last})",
            devices.join(", ")
        ))),
    }
}

/// Stops the daemon of `device`, or cleans up after it. What was done, in a sentence.
fn stop(device: &str, directories: &Directories) -> Result<String> {
    let path = api::control_socket(&directories.runtime, device);
    match api::call(&path, Request::Stop) {
        Ok(Response::Done) => wait(device, directories),
        Ok(Response::Error { sentence } | Response::Fault { sentence }) => {
            Err(Failure::failed(format!("{device} stays up: {sentence}")))
        }
        Ok(Response::Status(_) | Response::Changed { .. }) => {
            Err(Failure::failed(format!("the daemon of {device} answered something else")))
        }
        Err(CallError::Absent(_) | CallError::Dead(_)) => clean_up(device, directories),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the daemon has removed everything, its sockets and its lock last.
fn wait(device: &str, directories: &Directories) -> Result<String> {
    let path = api::control_socket(&directories.runtime, device);
    let deadline = Instant::now() + DEADLINE;
    while path.exists() || api::is_claimed(&directories.runtime, device) {
        if Instant::now() < deadline {
            thread::sleep(LOOK);
        } else if api::is_claimed(&directories.runtime, device) {
            return Err(Failure::failed(format!(
                "the daemon of {device} was asked to stop but is still there after {} s: look at its log",
                DEADLINE.as_secs()
            )));
        } else {
            return clean_up(device, directories);
        }
    }
    Ok(format!("{device} is down"))
}

/// Removes what a killed daemon left: on the host, and in the runtime directory.
fn clean_up(device: &str, directories: &Directories) -> Result<String> {
    // Nobody else may be the daemon of this device while its remains are removed.
    let had_sockets = api::daemons(&directories.runtime)?.iter().any(|name| name == device);
    let claim = Claim::take(&directories.runtime, device)?;
    // First: questions for the tunnel's resolvers would go out in the clear without it. A daemon that holds the device (with another
    // runtime directory) keeps them; it is refused below.
    let is_held = apply::observe(&mut Netlink::open()?, device)?.device.is_some_and(|device| device.running);
    let resolvers = if is_held { Ok(false) } else { dns::remove_leftovers(device, &directories.state) };
    let mut removed = apply::remove_leftovers(device, &directories.state)?;
    if resolvers? {
        removed.0.push("DNS servers".into());
    }
    drop(claim);
    match (removed.is_empty(), had_sockets) {
        (false, _) => Ok(format!("{device} was down; removed what its daemon had left: {removed}")),
        (true, true) => Ok(format!("{device} was down; removed the sockets that its daemon had left")),
        (true, false) => Err(Failure::failed(format!(
            "no adit daemon is running for device {device} in {}, and nothing of one is left",
            directories.runtime.display()
        ))),
    }
}
