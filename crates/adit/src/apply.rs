//! Changes to the host, and taking them back: the only caller of netlink that changes anything.
//!
//! What a daemon owns beyond its device (which carries our alias) is written down in its state directory before it is made, so
//! that it can be removed after a crash: the prefixes whose blackholes are its own.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink, PROTOCOL, Route, RouteKind};
use serde::{Deserialize, Serialize};

use crate::plan::{self, ALIAS, Actual, Operation};
use crate::{Failure, Result};

/// What [`remove_leftovers`] took away, as words for a person (`device adit0`, `3 routes`).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Removed(pub Vec<String>);

impl Removed {
    /// Whether nothing was there to remove.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// The host as far as the device named `device` and our routes go.
///
/// # Errors
/// A device of that name that is not ours: it is not touched.
pub fn observe(netlink: &mut Netlink, device: &str) -> Result<Actual> {
    let link = netlink.link(device)?;
    if let Some(link) = &link
        && (link.kind.as_deref() != Some("tun") || link.alias.as_deref() != Some(ALIAS))
    {
        let kind = link.kind.as_deref().map_or(String::new(), |k| format!(" ({k})"));
        return Err(Failure::failed(format!("the device {device} exists{kind} and is not adit's")).with_remedy(
            format!("choose another `name` under [device], or remove it with `ip link delete {device}`"),
        ));
    }
    let index = link.as_ref().map(|l| l.index);
    let addresses = match index {
        Some(index) => netlink.addresses(Some(index))?.into_iter().map(|a| a.net).collect(),
        None => Vec::new(),
    };
    let ours = |r: &Route| {
        r.protocol == PROTOCOL && (r.kind == RouteKind::Blackhole || (index.is_some() && r.device == index))
    };
    let routes = netlink.routes(None)?.into_iter().filter(ours).collect();
    Ok(Actual { device: link, addresses, routes })
}

/// Carries out `steps`; if one fails, takes those before it back.
pub fn apply(netlink: &mut Netlink, device: &str, steps: &[Operation]) -> Result<()> {
    for (done, step) in steps.iter().enumerate() {
        if let Err(failure) = carry_out(netlink, device, step) {
            undo(netlink, device, steps.get(..done).unwrap_or_default());
            return Err(failure);
        }
    }
    Ok(())
}

/// Takes `steps`, all of which were carried out, back.
pub fn undo(netlink: &mut Netlink, device: &str, steps: &[Operation]) {
    for step in steps.iter().rev().filter_map(Operation::inverse) {
        if let Err(failure) = carry_out(netlink, device, &step) {
            tracing::warn!("while taking changes back: {failure}");
        }
    }
}

fn carry_out(netlink: &mut Netlink, device: &str, step: &Operation) -> Result<()> {
    let change = |netlink: &mut Netlink, change: LinkChange<'_>| {
        let index = netlink.existing_link(device)?.index;
        netlink.change_link(index, &change)
    };
    let done = match step {
        Operation::Mark => change(netlink, LinkChange { alias: Some(ALIAS), ..LinkChange::default() }),
        Operation::QuietIpv6 => {
            // IN6_ADDR_GEN_MODE_NONE (linux/if_link.h). Where IPv6 is switched off there is nothing to quiet.
            if let Err(e) = linux::sysctl::set(&["net", "ipv6", "conf", device, "addr_gen_mode"], "1") {
                tracing::debug!("{e}");
            }
            Ok(())
        }
        Operation::SetMtu(mtu, _) => change(netlink, LinkChange { mtu: Some(*mtu), ..LinkChange::default() }),
        Operation::SetUp => change(netlink, LinkChange { up: Some(true), ..LinkChange::default() }),
        Operation::AddAddress(address) => {
            netlink.existing_link(device).and_then(|link| netlink.add_address(link.index, *address, true))
        }
        Operation::DeleteAddress(address) => {
            netlink.existing_link(device).and_then(|link| netlink.delete_address(link.index, *address)).or_else(absent)
        }
        Operation::AddRoute(route) => netlink.add_route(route),
        Operation::DeleteRoute(route) => netlink.delete_route(route).or_else(absent),
    };
    done.map_err(|e| explain(step, e))
}

/// What is gone already needs no removing: ESRCH, ENODEV, EADDRNOTAVAIL.
fn absent(error: linux::Error) -> linux::Result<()> {
    const GONE: [i32; 3] = [3, 19, 99];
    if error.errno().is_some_and(|e| GONE.contains(&e)) { Ok(()) } else { Err(error) }
}

fn explain(step: &Operation, error: linux::Error) -> Failure {
    let remedy = match (step, error.errno()) {
        (Operation::AddRoute(route), Some(17)) => {
            format!(
                "another route to {} is in the way: remove it, or take the prefix out of `allowed-ips`",
                route.destination
            )
        }
        (Operation::AddAddress(address), Some(13)) if address.addr().is_ipv6() => {
            format!(
                "IPv6 is switched off on this host: take {address} out of `addresses`, or set net.ipv6.conf.all.disable_ipv6=0"
            )
        }
        _ => return error.into(),
    };
    Failure::from(error).with_remedy(remedy)
}

/// Carries out as much of `steps` as can be; answers what could not.
pub fn try_all(netlink: &mut Netlink, device: &str, steps: &[Operation]) -> Vec<Failure> {
    steps.iter().filter_map(|step| carry_out(netlink, device, step).err()).collect()
}

/// Removes the device if it is there and ours.
pub fn delete_device(netlink: &mut Netlink, device: &str) -> Result<bool> {
    match observe(netlink, device)?.device {
        Some(link) => netlink.delete_link(link.index).or_else(absent).map(|()| true).map_err(Failure::from),
        None => Ok(false),
    }
}

/// Removes what a killed daemon of `device` left behind: its device, routes and blackholes.
///
/// # Errors
/// What could not be removed; the rest was.
pub fn remove_leftovers(device: &str, state_dir: &Path) -> Result<Removed> {
    let mut netlink = Netlink::open()?;
    let record = Record::of(device, state_dir);
    let owned = record.read()?;
    let actual = observe(&mut netlink, device)?;
    // Carrier means that somebody holds a queue.
    if actual.device.as_ref().is_some_and(|device| device.running) {
        return Err(Failure::failed(format!("a daemon with another runtime directory holds the device {device}"))
            .with_remedy("name its directory with --runtime-dir"));
    }
    let mut removed = Removed::default();
    let steps = plan::removal(&actual, &owned);
    let mut failures = try_all(&mut netlink, device, &steps);
    match steps.len() {
        0 => {}
        1 => removed.0.push("1 route".into()),
        n => removed.0.push(format!("{n} routes")),
    }
    match delete_device(&mut netlink, device) {
        Ok(true) => removed.0.push(format!("device {device}")),
        Ok(false) => {}
        Err(failure) => failures.push(failure),
    }
    if failures.is_empty() {
        record.remove()?;
        return Ok(removed);
    }
    let sentences: Vec<_> = failures.iter().map(Failure::sentence).collect();
    Err(Failure::failed(sentences.join("; ")))
}

/// The file that says what a daemon owns beyond its device.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// Whether the directory is there because of us, and is to go with the record if nothing else is in it.
    made_directory: Cell<bool>,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    blackholes: Vec<IpNet>,
}

impl Record {
    /// The record of the daemon of `device`.
    pub fn of(device: &str, state_dir: &Path) -> Self {
        Self { path: state_dir.join(format!("{device}.json")), made_directory: Cell::new(false) }
    }

    /// The prefixes whose blackholes are its own; none if there is no record. One that cannot be understood is set aside, not
    /// deleted.
    pub fn read(&self) -> Result<Vec<IpNet>> {
        match fs::read(&self.path) {
            Ok(bytes) => match serde_json::from_slice::<Contents>(&bytes) {
                Ok(contents) => Ok(contents.blackholes),
                Err(e) => {
                    let aside = self.path.with_extension("json.damaged");
                    tracing::warn!("{} is damaged ({e}) and was moved to {}", self.path.display(), aside.display());
                    fs::rename(&self.path, &aside).map_err(|e| self.failed("set aside", &e))?;
                    Ok(Vec::new())
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.failed("read", &e)),
        }
    }

    /// Replaces the record as a whole: after a crash there is the old one or the new one.
    pub fn write(&self, blackholes: &[IpNet]) -> Result<()> {
        let text = serde_json::to_vec(&Contents { blackholes: blackholes.to_vec() })
            .map_err(|e| Failure::failed(format!("cannot write {}: {e}", self.path.display())))?;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let temporary = self.path.with_extension("json.new");
        let write = || {
            if !directory.exists() {
                fs::create_dir_all(directory)?;
                self.made_directory.set(true);
            }
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|e| {
            self.failed("write", &e).with_remedy("make the directory writable, or choose another with --state-dir")
        })
    }

    /// Removes the record.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.failed("remove", &e)),
            _ => {}
        }
        if let (true, Some(directory)) = (self.made_directory.get(), self.path.parent()) {
            // It fails for a directory that others use as well.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    fn failed(&self, verb: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot {verb} {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_damaged_one_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::of("adit0", directory.path());
        assert_eq!(record.read().unwrap(), []);
        let prefixes = ["10.77.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        record.write(&prefixes).unwrap();
        assert_eq!(record.read().unwrap(), prefixes);
        let text = fs::read(&record.path).unwrap();
        for cut in 0..text.len() {
            fs::write(&record.path, &text[..cut]).unwrap();
            assert_eq!(record.read().unwrap(), []);
            assert!(directory.path().join("adit0.json.damaged").exists());
        }
        record.remove().unwrap();
        record.remove().unwrap();
    }
}
