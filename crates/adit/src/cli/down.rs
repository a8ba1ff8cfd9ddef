//! `adit down`

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use linux::netlink::Netlink;

use super::{Places, find, output};
use crate::{
    Directories, Failure, Result,
    api::{self, CallError, Claim, Request, Response, START},
    apply, config,
    container::{self, Node},
    dns,
    subnet_env::SubnetFiles,
    uapi, unit,
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
  adit down --purge                a node leaves its network for good

A daemon that was killed cannot clean up, and that of a node of a network leaves all in place when it is stopped by a signal, so that
nothing leaves in the clear; then this removes what is left. A node keeps its keys and may come back with `adit up`, until --purge.
Containers stay on their bridge, and speak to each other; --purge unplugs them.";

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

    /// Also remove keys and all that is known of the network, and unplug containers. On the host that made the network, its authority
    /// goes too: nobody can join it any more. The configuration file stays
    #[arg(long)]
    purge: bool,

    #[command(flatten)]
    places: Places,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        let directories = self.places.directories();
        let file = self.config.as_deref().map(find::file).transpose()?;
        let device = match (self.device, self.config) {
            (None, None) => only_device(&directories, self.purge)?,
            (name, file) => device(name, file, &directories)?,
        };
        let file = file.or_else(|| unit::usual_file(&device));
        let request = if self.purge { Request::Leave } else { Request::Stop };
        let ran = api::is_claimed(&directories.runtime, &device);
        let mut said: Vec<String> = stop(&device, request, &directories)?.into_iter().collect();
        if self.purge {
            // What stays of the one keeps nothing of the other.
            let unplugged = unplug_containers(&directories, &device);
            let forgotten = forget_network(&directories, &device)?.map(|what| forgotten(&what, file.as_deref(), ran));
            let unplugged = unplugged?;
            if said.is_empty() && (unplugged.is_some() || forgotten.is_some()) {
                said.push(format!("{device} was down"));
            }
            said.extend(unplugged.into_iter().chain(forgotten));
        }
        let said = match said.as_slice() {
            [_, ..] => said.join("; "),
            [] => {
                return Err(Failure::failed(format!(
                    "no adit daemon is running for device {device} in {}, and nothing of one is left",
                    directories.runtime.display()
                )));
            }
        };
        output::print(&format!("{said}\n")).map(drop)
    }
}

/// What is said of a node that has left its network for good, whose configuration is a file if that is known. `ran`: whether there was a daemon to say so
/// to the others.
fn forgotten(what: &Forgotten, file: Option<&Path>, ran: bool) -> String {
    let mut said = "its keys and what it knew of its network are removed".to_owned();
    if what.authority {
        said.push_str(
            ", AND WITH THEM THE AUTHORITY OF THE NETWORK, which was on this host: nobody can join that network any more, nor be removed \
             from it; make another with `adit init`, and join it anew",
        );
    } else if what.certificate {
        if !ran {
            said.push_str(
                "; its subnet was not given back, since no daemon ran, and stays its own until the lease ends",
            );
        }
        said.push_str(
            "; its name in the network is free again after `adit node remove NAME` on the host of the authority",
        );
    }
    let file = file.map_or_else(|| "the configuration file".to_owned(), |file| file.display().to_string());
    format!("{said}; {file} stays: remove it before another `adit init` or `adit join`")
}

const SIGTERM: i32 = 15;

/// What to do where no daemon is found.
const LEFT: &str = "name what a killed one left behind with `adit down --device NAME`";

/// The device of the daemon that is meant: by name, by the file it was started with, or as the only one there is.
pub(super) fn device(name: Option<String>, file: Option<PathBuf>, directories: &Directories) -> Result<String> {
    match (name, file) {
        (Some(device), _) => {
            config::check_device(&device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
            Ok(device)
        }
        (None, Some(file)) => Ok(config::device_name(&find::file(&file)?)?),
        (None, None) => only_daemon(&directories.runtime, START),
    }
}

/// That no daemon can be asked: none is there, or it has only begun.
pub(super) fn nobody(runtime_dir: &Path, remedy: &str) -> Failure {
    match api::starting(runtime_dir).first() {
        Some((device, pid)) => Failure::failed(format!(
            "the daemon of {device} (process {pid}) is starting or ending; a node may wait for its registry, as its log says then"
        ))
        .with_remedy(format!("to end it: `adit down --device {device}`")),
        None => Failure::failed(format!("no adit daemon is running in {}", runtime_dir.display())).with_remedy(remedy),
    }
}

/// The only daemon there is; `remedy` is for where there is none.
fn only_daemon(runtime_dir: &Path, remedy: &str) -> Result<String> {
    let mut devices = api::daemons(runtime_dir)?;
    match (devices.pop(), devices.is_empty()) {
        (None, _) => Err(nobody(runtime_dir, remedy)),
        (Some(device), true) => Ok(device),
        (Some(last), false) => Err(Failure::usage(format!(
            "several daemons are running: name one with --device ({}, {last})",
            devices.join(", ")
        ))),
    }
}

/// The only device there is: with a daemon, or else with what a daemon left on the host, or for `purge` with keys.
fn only_device(directories: &Directories, purge: bool) -> Result<String> {
    if !api::daemons(&directories.runtime)?.is_empty() {
        return only_daemon(&directories.runtime, LEFT);
    }
    if let [(device, _)] = api::starting(&directories.runtime).as_slice() {
        return Ok(device.clone());
    }
    let endings: &[&str] = if purge { &[".json", NETWORK] } else { &[".json"] };
    let names = fs::read_dir(&directories.state).into_iter().flatten().flatten();
    let mut left: Vec<String> = names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| !name.ends_with(DOCKER))?;
            let device = endings.iter().find_map(|ending| name.strip_suffix(ending))?;
            config::check_device(device).ok().map(|()| device.to_owned())
        })
        .collect();
    left.sort_unstable();
    left.dedup();
    match (left.pop(), left.is_empty()) {
        (None, _) => only_daemon(&directories.runtime, LEFT),
        (Some(device), true) => Ok(device),
        (Some(last), false) => Err(Failure::usage(format!(
            "no daemon is running, and several have left something: name one with --device ({}, {last})",
            left.join(", ")
        ))),
    }
}

/// What the file is called, after the name of the device, in which the plugin of Docker keeps which networks there are.
const DOCKER: &str = ".docker.json";

/// What the directory is called, after the name of the device, in which a node keeps its keys.
const NETWORK: &str = ".network";

/// Takes all containers out of the network: their devices, filters, ports and addresses go, and the bridge. Whatever runs in them goes on. Says
/// what that was. No daemon of the device may be running.
///
/// # Errors
/// A daemon that is running; what could not be removed.
fn unplug_containers(directories: &Directories, device: &str) -> Result<Option<String>> {
    let _claim = Claim::take_to_clean(&directories.runtime, device)?;
    let removed = container::remove_all(directories, device)?;
    Ok((!removed.is_empty()).then(|| format!("{} unplugged from the network", removed.join(", "))))
}

/// What of a node was removed for good.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// Whether the authority of its network was among it, and with it the registry, if that was here.
    pub(crate) authority: bool,
    /// Whether an authority had made it a node, whose name nobody else may have.
    pub(crate) certificate: bool,
}

/// Removes what a node of a network keeps while it is down, so that it could not come back as who it was: keys, credentials, what it knew of
/// other nodes, the mark of its handshakes; and the subnet files that it wrote. On the authority's host the authority and the registry go
/// with it. Answers what there was of it. No daemon of the device may be running.
///
/// # Errors
/// A daemon that is running; what could not be removed.
pub(crate) fn forget_network(directories: &Directories, device: &str) -> Result<Option<Forgotten>> {
    let claim = Claim::take_to_clean(&directories.runtime, device)?;
    SubnetFiles::of(device, &directories.state).remove()?;
    forget_node(directories, device)?;
    let at = |ending: &str| directories.state.join(format!("{device}{ending}"));
    let mut forgotten = None;
    let network = at(NETWORK);
    let (authority, certificate) = (network.join("authority").is_dir(), network.join("certificate").is_file());
    match fs::remove_dir_all(&network) {
        Ok(()) => forgotten = Some(Forgotten { authority, certificate }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed_to_remove(&network, &e)),
    }
    for ending in [".mark", ".mark.damaged", ".json.damaged", ".dns.damaged", DOCKER] {
        match fs::remove_file(at(ending)) {
            Ok(()) => drop(forgotten.get_or_insert_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed_to_remove(&at(ending), &e)),
        }
    }
    drop(claim);
    // It fails for a directory that others use as well, which that of WireGuard's tools may be.
    for directory in [&directories.state, &directories.runtime, &directories.wireguard] {
        let _ = fs::remove_dir(directory);
    }
    Ok(forgotten)
}

/// Ends that there is a node here, as far as programs go that make containers, and removes the bridge if nothing hangs on it. Says what was removed
/// of it.
fn forget_node(directories: &Directories, device: &str) -> Result<Option<String>> {
    let path = Node::path(directories, device);
    let bridge = match Node::read(directories, device) {
        Ok(node) => container::remove_unused_bridge(&node.bridge)?.then(|| format!("bridge {}", node.bridge)),
        Err(_) => None,
    };
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed_to_remove(&path, &e)),
        _ => Ok(bridge),
    }
}

fn failed_to_remove(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot remove {}: {error}", path.display()))
}

/// Stops the daemon of `device`, or cleans up after it. What was done, in a sentence; `None` if there was nothing to do.
fn stop(device: &str, request: Request, directories: &Directories) -> Result<Option<String>> {
    let path = api::control_socket(&directories.runtime, device);
    match api::call_within(&path, request, DEADLINE) {
        Ok(Response::Done) => wait(device, directories),
        Ok(Response::Changed { sentence }) => {
            let down = wait(device, directories)?;
            Ok(down.map(|down| format!("{down}; {sentence}: the other nodes list this one until its lease ends")))
        }
        Ok(Response::Error { sentence } | Response::Fault { sentence }) => {
            Err(Failure::failed(format!("{device} stays up: {sentence}")))
        }
        Ok(_) => Err(Failure::failed(format!("the daemon of {device} answered something else"))),
        Err(CallError::Absent(_) | CallError::Dead(_)) => {
            // One that still waits for its registry has no sockets, and nothing to give back.
            match api::claimant(&directories.runtime, device) {
                Some(pid) if linux::sandbox::send(pid, false, SIGTERM).is_ok() => wait(device, directories),
                _ => clean_up(device, directories),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits until the daemon has removed everything, its sockets and its lock last.
fn wait(device: &str, directories: &Directories) -> Result<Option<String>> {
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
    Ok(Some(format!("{device} is down")))
}

/// Removes what a killed daemon left: on the host, and in the runtime directory.
fn clean_up(device: &str, directories: &Directories) -> Result<Option<String>> {
    // Nobody else may be the daemon of this device while its remains are removed.
    let had_sockets = api::daemons(&directories.runtime)?.iter().any(|name| name == device);
    let claim = Claim::take_to_clean(&directories.runtime, device)?;
    // First: questions for the tunnel's resolvers would go out in the clear without it. A daemon that holds the device (with another
    // runtime directory) keeps them; it is refused below.
    let is_held = apply::observe(&mut Netlink::open()?, device, None)?.device.is_some_and(|device| device.running);
    let resolvers = if is_held { Ok(false) } else { dns::remove_leftovers(device, &directories.state) };
    let mut removed = apply::remove_leftovers(device, &directories.state)?;
    if resolvers? {
        removed.0.push("DNS servers".into());
    }
    // Before the directory that they may be in.
    SubnetFiles::of(device, &directories.state).remove()?;
    removed.0.extend(forget_node(directories, device)?);
    if had_sockets || !removed.is_empty() {
        uapi::remove_leftover(&directories.wireguard, device);
    }
    drop(claim);
    Ok(match (removed.is_empty(), had_sockets) {
        (false, _) => Some(format!("{device} was down; removed what its daemon had left: {removed}")),
        (true, true) => Some(format!("{device} was down; removed the sockets that its daemon had left")),
        (true, false) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_says_what_went_and_what_stays() {
        let said = |authority, file: Option<&str>| {
            forgotten(&Forgotten { authority, certificate: true }, file.map(Path::new), true)
        };
        let node = said(false, Some("/etc/adit/adit1.toml"));
        assert!(node.contains("/etc/adit/adit1.toml stays: remove it before") && !node.contains("AUTHORITY"), "{node}");
        let first = said(true, None);
        assert!(first.contains("THE AUTHORITY OF THE NETWORK") && first.contains("`adit init`"), "{first}");
        // What others still have of it.
        let name = "its name in the network is free again after `adit node remove NAME`";
        assert!(node.contains(name) && !node.contains("was not given back") && !first.contains(name), "{node}");
        let killed = forgotten(&Forgotten { authority: false, certificate: true }, None, false);
        assert!(killed.contains(name) && killed.contains("was not given back, since no daemon ran"), "{killed}");
        let tunnel = forgotten(&Forgotten::default(), None, false);
        assert!(!tunnel.contains("given back") && !tunnel.contains(name), "{tunnel}");
    }
}
