//! Containers as they were made: looked at, brought back, collected, removed all together.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use linux::netns::NetNs;
use linux::nft::Family;

use super::apply::Kernel;
use super::plan::Operation;
use super::record::Stage;
use super::{Fault, FaultKind, Node, Record, Store, detach, docker, filters, inside, leftovers, plan, ports};
use crate::Directories;

/// Whether an attachment is as it was made, on the host and inside.
///
/// # Errors
/// [`FaultKind::NotAsMade`] says what is not; [`FaultKind::NoNamespace`]: its namespace is gone, or another.
pub fn check(node: &Node, record: &Record) -> Result<(), Fault> {
    let mut kernel = Kernel::open()?;
    let mut actual = kernel.observe(&record.bridge, &node.device)?;
    kernel.observe_port(record, &mut actual)?;
    let wrong = |what: String| Err(Fault::new(FaultKind::NotAsMade, what));
    let Some(bridge) = &actual.bridge else { return wrong(format!("the bridge {} is gone", record.bridge)) };
    if !actual.devices.contains_key(&record.host_interface) {
        return wrong(format!("the device {} of the container {} is gone", record.host_interface, record.title()));
    }
    let mtu = record.bridge_mtu.unwrap_or(bridge.mtu);
    if let Some(step) = plan::bridge(node, mtu, &actual, false)?.first() {
        return wrong(format!("the bridge {} is not as it was made: {}", record.bridge, describe(step)));
    }
    if let Some(step) = plan::port(record, &actual, Some(bridge.index)).first() {
        return wrong(format!("{} is not as it was made: {}", record.host_interface, describe(step)));
    }
    // What stands behind the words is of the whole table, with the ports of all containers.
    let words = |rule: &(String, String)| {
        let (chain, comment) = rule;
        (chain.clone(), comment.rsplit_once(" [").map_or(comment.as_str(), |(words, _)| words).to_owned())
    };
    let present: HashSet<_> = actual.ports.iter().map(words).collect();
    let expected = ports::ruleset(&node.device, std::slice::from_ref(record)).map(|ruleset| filters::told(&ruleset));
    if let Some((_, rule)) = expected.iter().flatten().map(words).find(|rule| !present.contains(rule)) {
        return wrong(format!("the published ports are not as they were made: there is no rule {rule:?}"));
    }
    let (Some(path), Some(id)) = (&record.netns, record.netns_id) else { return Ok(()) };
    let namespace = open_namespace(path)?;
    if namespace.id() != id {
        let sentence = format!("{} is another namespace than that of the container {}", path.display(), record.title());
        return Err(Fault::new(FaultKind::NoNamespace, sentence));
    }
    inside::check(&namespace, record)
}

/// Opens the namespace at a path.
///
/// # Errors
/// [`FaultKind::NoNamespace`].
pub fn open_namespace(path: &Path) -> Result<NetNs, Fault> {
    NetNs::open(path).map_err(|e| Fault::new(FaultKind::NoNamespace, e.to_string()))
}

fn describe(step: &Operation) -> String {
    match step {
        Operation::CreateBridge { .. } => "it is gone".into(),
        Operation::SetMtu { mtu, .. } => format!("its MTU should be {mtu}"),
        Operation::SetMac { .. } => "it has another link-layer address".into(),
        Operation::AddAddress { address, .. } => format!("its address {address} is missing"),
        Operation::DeleteAddress { address, .. } => format!("it has a foreign address {address}"),
        Operation::SetUp { .. } => "it is down".into(),
        Operation::Set { path, value } => format!("{} should be {value}", path.join(".")),
        Operation::ReplaceFilters(_) | Operation::DeleteFilters { .. } => "its packet filters are other ones".into(),
        Operation::CreateTap { .. } => "it is gone".into(),
        Operation::Join { bridge, .. } => format!("it is no port of {bridge}, or not such a one"),
    }
}

/// Removes all attachments that are abandoned, or that whoever knows them does not call valid; answers which.
///
/// # Errors
/// The first that could not be removed; the others were.
pub fn collect(store: &Store, valid: &dyn Fn(&Record) -> bool) -> Result<Vec<Record>, Fault> {
    let (mut removed, mut outcome) = (Vec::new(), Ok(()));
    let found = store.survey()?;
    let stale = found.records.into_iter().filter(|record| !valid(record));
    for record in found.abandoned.into_iter().chain(stale) {
        match detach(store, &record.key) {
            Ok(_) => removed.push(record),
            Err(fault) => outcome = outcome.and(Err(fault)),
        }
    }
    if !found.damaged.is_empty() || !found.unfinished.is_empty() {
        let cleared = Kernel::open()
            .and_then(|mut kernel| leftovers::clear(&mut kernel, &store.lock()?, &found.damaged, &found.unfinished));
        outcome = outcome.and(cleared);
    }
    outcome.map(|()| removed)
}

/// Brings back what somebody has taken from the host's side of containers: the bridge, what hangs on it, filters, published ports. A veth that is
/// gone cannot come back, since its other end was in the container; a TAP can.
///
/// It waits for nobody: nothing is answered where something is amiss while somebody gives addresses out, who may be about to do what is missing.
/// Where all is well nobody is kept from giving addresses out meanwhile. Otherwise it answers how many steps were done, and what could not be.
pub fn repair(node: &Node, store: &Store) -> Option<(usize, Vec<Fault>)> {
    carry_out(store, &|records| missing(node, records))
}

fn carry_out(
    store: &Store,
    missing: &dyn Fn(Vec<Record>) -> Result<(Kernel, Vec<Operation>), Fault>,
) -> Option<(usize, Vec<Fault>)> {
    let repaired = (|| {
        if missing(store.read_each()?.0)?.1.is_empty() {
            return Ok(Some((0, Vec::new())));
        }
        let Some(locked) = store.try_lock()? else { return Ok(None) };
        let (mut kernel, steps) = missing(locked.records()?)?;
        let mut failures = Vec::new();
        let done = steps.iter().filter(|step| kernel.carry_out(step).map_err(|fault| failures.push(fault)).is_ok());
        Ok(Some((done.count(), failures)))
    })();
    repaired.unwrap_or_else(|fault| Some((0, vec![fault])))
}

/// The same for cards of virtual machines on a bridge that is a LAN: the TAPs, and that they are ports.
pub fn repair_cards(bridge: &str, store: &Store) -> Option<(usize, Vec<Fault>)> {
    let missing = |records: Vec<Record>| {
        let mut kernel = Kernel::open()?;
        let mut actual = kernel.observe(bridge, store.device())?;
        let index = actual.bridge.as_ref().map(|link| link.index);
        let is_kept = |record: &&Record| {
            record.stage == Stage::Made && record.bridge == bridge && record.tap.is_some_and(|tap| tap.lan)
        };
        let device = kernel.netlink.link(store.device())?;
        let mut steps = Vec::new();
        for record in records.iter().filter(is_kept).filter(|_| index.is_some()) {
            // A card takes what the device takes, which may be something else than when it was made.
            let mut record = record.clone();
            if let (Some(tap), Some(device)) = (&mut record.tap, &device) {
                tap.mtu = device.mtu;
            }
            kernel.observe_port(&record, &mut actual)?;
            steps.extend(plan::port(&record, &actual, index));
        }
        Ok((kernel, steps))
    };
    carry_out(store, &missing)
}

/// What is missing on the host's side of these containers.
fn missing(node: &Node, records: Vec<Record>) -> Result<(Kernel, Vec<Operation>), Fault> {
    let mut kernel = Kernel::open()?;
    let mtu = kernel.bridge_mtu(node, &records)?;
    let kept: Vec<Record> =
        records.into_iter().filter(|record| record.stage == Stage::Made && record.bridge == node.bridge).collect();
    if kept.is_empty() {
        return Ok((kernel, Vec::new()));
    }
    let mut actual = kernel.observe(&node.bridge, &node.device)?;
    let mut steps = plan::bridge(node, mtu, &actual, kept.iter().any(|record| !record.ports.is_empty()))?;
    // What is set each time, and may be so already, is no news.
    if steps.iter().all(|step| matches!(step, Operation::Set { .. })) {
        steps.clear();
    }
    for record in &kept {
        kernel.observe_port(record, &mut actual)?;
    }
    let bridge = actual.bridge.as_ref().map(|link| link.index);
    steps.extend(kept.iter().flat_map(|record| plan::port(record, &actual, bridge)));
    steps.extend(plan::published(&node.device, &kept, &actual));
    Ok((kernel, steps))
}

/// Removes the bridge, unless something hangs on it; answers whether it was there. Another's of this name stays.
///
/// # Errors
/// The kernel refused.
pub fn remove_unused_bridge(name: &str) -> Result<bool, Fault> {
    Kernel::open()?.delete_bridge(name)
}

/// Removes all that there is of containers: their devices, filters, ports, records, and the bridge. Answers what that was, in words.
///
/// # Errors
/// What could not be removed; the rest was.
pub fn remove_all(directories: &Directories, device: &str) -> Result<Vec<String>, Fault> {
    let store = Store::of(directories, device);
    let records = store.read_all()?;
    let (mut containers, mut cards, mut outcome) = (0_usize, 0_usize, Ok(()));
    let bridges: std::collections::BTreeSet<_> = records.iter().map(|record| record.bridge.clone()).collect();
    for record in &records {
        match detach(&store, &record.key) {
            Ok(_) if record.tap.is_some() => cards += 1,
            Ok(_) => containers += 1,
            Err(fault) => outcome = outcome.and(Err(fault)),
        }
    }
    outcome?;
    let mut removed = Vec::new();
    for (count, what) in [(containers, "container"), (cards, "virtual machine")] {
        match count {
            0 => {}
            1 => removed.push(format!("1 {what}")),
            n => removed.push(format!("{n} {what}s")),
        }
    }
    if let Ok(mut kernel) = Kernel::open() {
        kernel.delete_filters(Family::Inet, &ports::table(device))?;
        for bridge in bridges {
            kernel.delete_bridge(&bridge)?;
        }
    }
    docker::forget(directories, device)?;
    match fs::remove_dir_all(store.directory()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            let sentence = format!("cannot remove {}: {e}", store.directory().display());
            Err(Fault::new(FaultKind::Storage, sentence))
        }
        _ => Ok(removed),
    }
}
