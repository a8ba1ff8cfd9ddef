//! A container comes and goes. What is made for it stands in its record first, so that whoever finds the record can remove all of it.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use linux::clock;
use linux::netlink::{LinkChange, RouteKind, VethEnd, is_valid_name};
use linux::netns::NetNs;
use linux::nft::Family;

use super::apply::Kernel;
use super::record::{Process, Stage};
use super::{
    Door, Fault, FaultKind, Key, Locked, Node, Published, Record, Store, Tap, filters, inside, ipam, leftovers, node,
    plan, ports,
};
use crate::plan::ALIAS;

/// Where the inner end of the veth pair goes.
#[derive(Debug, Clone)]
pub enum Place {
    /// It is born in this namespace, and gets addresses and routes there.
    Namespace {
        /// The namespace.
        namespace: NetNs,
        /// How whoever asked knows it.
        path: PathBuf,
    },
    /// Docker moves and configures it: it is born on the host, as [`Key::inner_interface`].
    Host,
    /// There is no pair but a TAP, which a virtual machine has for its card.
    Machine(Tap),
}

/// What is asked for a container.
#[derive(Debug, Clone)]
pub struct Request {
    /// What tells the attachment apart.
    pub key: Key,
    /// The name under which others find it.
    pub name: Option<String>,
    /// Addresses that are asked for by name, at most one per family.
    pub wanted: Vec<IpAddr>,
    /// The link-layer address, if a certain one is asked for.
    pub mac: Option<[u8; 6]>,
    /// Ports of the host that are to lead to it.
    pub ports: Vec<Published>,
    /// Whether it may speak to no other isolated container of this host.
    pub isolated: bool,
    /// Largest packet in bytes, if less than the bridge's.
    pub mtu: Option<u32>,
    /// Whether it reaches everything by way of the node, or the network alone.
    pub default_route: bool,
    /// Where its device goes.
    pub place: Place,
    /// The record of addresses that were reserved for it: these become its own, and no others.
    pub reservation: Option<Key>,
    /// Of `adit run`: the first process inside.
    pub process: Option<Process>,
}

/// Checks that the daemon looks where we do: else addresses and ports that are in use would be given again.
fn check_store(node: &Node, store: &Store) -> Result<(), Fault> {
    let Some(kept) = node.containers.as_ref().filter(|kept| store.whole_directory().as_ref() != Some(kept)) else {
        return Ok(());
    };
    let state = kept.parent().unwrap_or(kept).display();
    let sentence = format!(
        "the daemon of {} keeps its containers in {state}, and this would be kept in {}; use the same: --state-dir {state}",
        node.device,
        store.directory().parent().unwrap_or(store.directory()).display(),
    );
    Err(Fault::new(FaultKind::NotReady, sentence))
}

/// Attaches a container: all of it or nothing.
///
/// # Errors
/// What could not be had or made. Everything is taken back, and there is no record.
pub fn attach(node: &Node, store: &Store, request: &Request) -> Result<Record, Fault> {
    check_request(request)?;
    check_store(node, store)?;
    let mut kernel = Kernel::open()?;
    let mut record = {
        let locked = store.lock()?;
        let records = sweep(&mut kernel, &locked)?;
        if let Some(other) = store.other_on(&node.bridge) {
            let sentence = format!(
                "containers of another network, that of {other}, hang on the bridge {}; write another `bridge` under [network] and type `adit reload`",
                node.bridge
            );
            return Err(Fault::new(FaultKind::NotReady, sentence));
        }
        let mtu = kernel.bridge_mtu(node, &records)?;
        check_mtu(request, mtu.max(node.mtu))?;
        let record = claim(node, &locked, &records, request, Some(mtu))?;
        let prepared = kernel.observe(&node.bridge, &node.device).and_then(|actual| {
            kernel.apply(&plan::bridge(node, mtu, &actual, publishes(&records) || !record.ports.is_empty())?)
        });
        if let Err(fault) = prepared {
            // Nothing but the record is there, or a bridge that goes with the last of them.
            forget(&mut kernel, &locked, &record)?;
            return Err(fault);
        }
        record
    };
    let settled = store.settle(&record.key);
    let made = settled.and_then(|()| build(&mut kernel, node, &record, request)).and_then(|()| {
        record.stage = Stage::Made;
        if record.ports.is_empty() {
            store.update(&record)
        } else {
            let locked = store.lock()?;
            locked.put(&record)?;
            put_ports(&mut kernel, node, &locked.records()?)
        }
    });
    match made {
        Ok(()) => {
            warn_of_absent(&mut kernel, &record.ports);
            Ok(record)
        }
        Err(fault) => {
            if let Err(left) = detach(store, &request.key) {
                tracing::warn!("while taking a container back: {left}");
            }
            Err(fault)
        }
    }
}

fn check_request(request: &Request) -> Result<(), Fault> {
    let invalid = |sentence: String| Err(Fault::new(FaultKind::Invalid, sentence));
    if !is_valid_name(&request.key.interface) {
        return invalid(format!(
            "{:?} is no name for a device: 1 to 15 bytes, without '/', ':' and white space",
            request.key.interface
        ));
    }
    if let Some(mac) = request.mac
        && (mac[0] & 1 != 0 || mac == [0; 6])
    {
        return invalid("the link-layer address is that of a group, or of nobody".into());
    }
    Ok(())
}

fn check_mtu(request: &Request, most: u32) -> Result<(), Fault> {
    match request.mtu {
        Some(mtu) if !(68..=most).contains(&mtu) => {
            let sentence = format!("an MTU of {mtu} does not fit: the network takes packets of up to {most} bytes");
            Err(Fault::new(FaultKind::Invalid, sentence))
        }
        _ => Ok(()),
    }
}

/// Removes what killed programs left half-made, and answers the records that stay.
fn sweep(kernel: &mut Kernel, locked: &Locked<'_>) -> Result<Vec<Record>, Fault> {
    let found = locked.survey()?;
    leftovers::clear(kernel, locked, &found.damaged, &found.unfinished)?;
    for record in &found.abandoned {
        tear_down(kernel, record)?;
        forget(kernel, locked, record)?;
    }
    sweep_lost(kernel, locked, found.records)
}

/// Removes what was lost while no daemon ran: after a power cut, all. Nothing is done where another program gives addresses out at this moment, since
/// that one does the same. Answers what was removed.
///
/// # Errors
/// What could not be removed.
pub fn sweep_at_start(store: &Store) -> Result<Vec<Record>, Fault> {
    let Some(locked) = store.try_lock()? else { return Ok(Vec::new()) };
    let mut kernel = Kernel::open()?;
    let mut lost = locked.records()?;
    let left = sweep(&mut kernel, &locked)?;
    lost.retain(|record| !left.iter().any(|other| other.key == record.key));
    for record in &lost {
        if !left.iter().any(|other| other.stage != Stage::Reserved && other.bridge == record.bridge) {
            kernel.delete_bridge(&record.bridge)?;
        }
    }
    Ok(lost)
}

/// Removes what a runtime has lost: its namespace ended without anybody asking the plugin for its end, as when the host's power is cut, and with it went
/// the veth. Podman then starts the same container again. Docker, which moves devices about, is believed to know its own until the host was
/// started anew. Answers the records that stay.
fn sweep_lost(kernel: &mut Kernel, locked: &Locked<'_>, records: Vec<Record>) -> Result<Vec<Record>, Fault> {
    let devices: HashSet<String> = kernel.netlink.links()?.into_iter().map(|link| link.name).collect();
    if !devices.contains(locked.device()) {
        // Where the node's device is not, there is nothing to see of its containers either.
        return Ok(records);
    }
    let boot = clock::realtime().saturating_sub(Duration::from_nanos(clock::boottime())).as_secs();
    let (lost, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| {
        let may_be = record.key.door == Door::Cni || record.created < boot;
        // A TAP that is gone is made again.
        may_be && record.tap.is_none() && record.stage == Stage::Made && !devices.contains(&record.host_interface)
    });
    lost.iter().try_for_each(|record| tear_down(kernel, record))?;
    // Nothing leads to an address before it is somebody else's.
    if let Some(record) = lost.iter().find(|record| !record.ports.is_empty()) {
        let actual = kernel.observe(&record.bridge, locked.device())?;
        if let Some(step) = plan::published(locked.device(), &made(&records), &actual) {
            kernel.carry_out(&step)?;
        }
    }
    lost.iter().try_for_each(|record| locked.remove(&record.key))?;
    Ok(records)
}

/// Says which ports nobody reaches, since the host does not have their address: not yet, as where it moves between hosts or is given by a server, or never.
fn warn_of_absent(kernel: &mut Kernel, ports: &[Published]) {
    let addresses: BTreeSet<IpAddr> = ports.iter().filter_map(|port| port.ip).collect();
    for address in addresses {
        let route = kernel.netlink.route_to(address);
        if !route.is_ok_and(|route| route.kind == RouteKind::Local) {
            tracing::warn!(
                "this host does not have the address {address}, so that nobody reaches what is published there until it does: `ip address` shows \
                 those that it has; without an address a port is published at all of them"
            );
        }
    }
}

pub(super) fn publishes(records: &[Record]) -> bool {
    records.iter().any(|record| !record.ports.is_empty())
}

/// Gives addresses and ports to the container, in a record. `mtu`: of the bridge, if it hangs on that.
fn claim(
    node: &Node,
    locked: &Locked<'_>,
    records: &[Record],
    request: &Request,
    mtu: Option<u32>,
) -> Result<Record, Fault> {
    let key = &request.key;
    if records.iter().any(|record| record.key == *key) {
        let sentence =
            format!("the container {} is attached as {} already; remove it first", key.container, key.interface);
        return Err(Fault::new(FaultKind::Exists, sentence));
    }
    let named = |door| matches!(door, Door::Run | Door::Vm);
    let namesake = |record: &&Record| named(key.door) && named(record.key.door) && record.name == request.name;
    if let Some(record) = records.iter().find(namesake) {
        let sentence = format!("there is a container {} already; choose another name, or end that one", record.title());
        return Err(Fault::new(FaultKind::Exists, sentence));
    }
    let reserved = request.reservation.as_ref().and_then(|key| records.iter().find(|record| record.key == *key));
    let others: Vec<Record> =
        records.iter().filter(|record| reserved.is_none_or(|r| r.key != record.key)).cloned().collect();
    let wanted: Vec<IpAddr> = match reserved {
        Some(record) => record.addresses.iter().map(IpNet::addr).collect(),
        None => request.wanted.clone(),
    };
    ports::check(&request.ports, &others)?;
    let mut addresses = ipam::choose(node, &ipam::taken(node, &others), &wanted, &locked.last())?;
    if reserved.is_some() {
        addresses.retain(|address| wanted.contains(&address.addr()));
    }
    let record = new_record(node, request, addresses, mtu);
    if record.mac == node.bridge_mac() || others.iter().any(|other| other.mac == record.mac) {
        let mac = record.mac.map(|byte| format!("{byte:02x}")).join(":");
        let sentence = format!("the link-layer address {mac} is another's already; ask for another one, or for none");
        return Err(Fault::new(FaultKind::AddressTaken, sentence));
    }
    locked.put(&record)?;
    if wanted.is_empty() {
        locked.note_last(&record.addresses);
    }
    if let Some(key) = reserved.map(|record| &record.key) {
        locked.remove(key)?;
    }
    Ok(record)
}

fn new_record(node: &Node, request: &Request, addresses: Vec<IpNet>, mtu: Option<u32>) -> Record {
    let (netns, netns_id) = match &request.place {
        Place::Namespace { namespace, path } => (Some(path.clone()), Some(namespace.id())),
        Place::Host | Place::Machine(_) => (None, None),
    };
    let first = addresses.first().map(IpNet::addr);
    Record {
        key: request.key.clone(),
        stage: Stage::Making,
        maker: Process::current(),
        name: request.name.clone(),
        netns,
        netns_id,
        bridge: node.bridge.clone(),
        bridge_mtu: mtu,
        host_interface: request.key.host_interface(),
        mac: request.mac.or_else(|| first.map(node::mac_of)).unwrap_or_default(),
        addresses,
        ports: request.ports.clone(),
        isolated: request.isolated,
        process: request.process,
        tap: match request.place {
            Place::Machine(tap) => Some(Tap { mtu: mtu.unwrap_or(tap.mtu), ..tap }),
            Place::Namespace { .. } | Place::Host => None,
        },
        created: now(),
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes what the record says; the bridge is there.
fn build(kernel: &mut Kernel, node: &Node, record: &Record, request: &Request) -> Result<(), Fault> {
    let mtu = Some(record.mtu(node, request.mtu));
    let inner_name = request.key.inner_interface();
    // What a killed program left under this name, which is nobody else's.
    kernel.delete_link(&record.host_interface, record.kind())?;
    let inner = match &request.place {
        Place::Namespace { namespace, .. } => {
            VethEnd { name: &record.key.interface, netns: Some(namespace), mac: Some(record.mac), mtu }
        }
        Place::Host => VethEnd { name: &inner_name, netns: None, mac: Some(record.mac), mtu },
        Place::Machine(_) => return put_port(kernel, node, record),
    };
    let host = VethEnd { name: &record.host_interface, mtu, ..VethEnd::default() };
    kernel.netlink.create_veth(&host, &inner).map_err(|error| match error.errno() {
        Some(17) => Fault::new(
            FaultKind::Exists,
            format!("the container has a device {} already; choose another name", inner.name),
        ),
        _ => error.into(),
    })?;
    let index = kernel.netlink.existing_link(&record.host_interface)?.index;
    kernel.netlink.change_link(index, &LinkChange { alias: Some(ALIAS), ..LinkChange::default() })?;
    put_port(kernel, node, record)?;
    match &request.place {
        Place::Namespace { namespace, .. } => inside::configure(namespace, node, record, request.default_route),
        Place::Host | Place::Machine(_) => Ok(()),
    }
}

/// The device of an attachment on the host, as it should be.
pub(super) fn put_port(kernel: &mut Kernel, node: &Node, record: &Record) -> Result<(), Fault> {
    let mut actual = kernel.observe(&record.bridge, &node.device)?;
    kernel.observe_port(record, &mut actual)?;
    let bridge = actual.bridge.as_ref().map(|link| link.index);
    kernel.apply(&plan::port(record, &actual, bridge))
}

fn put_ports(kernel: &mut Kernel, node: &Node, records: &[Record]) -> Result<(), Fault> {
    let actual = kernel.observe(&node.bridge, &node.device)?;
    plan::published(&node.device, records, &actual).map_or(Ok(()), |step| kernel.carry_out(&step))
}

/// Removes everything of an attachment; answers whether there was one. Neither its namespace nor a daemon is needed. With the last one the
/// bridge goes.
///
/// # Errors
/// What could not be removed; the record is there still.
pub fn detach(store: &Store, key: &Key) -> Result<bool, Fault> {
    let record = match store.read(key) {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(false),
        Err(fault) => return leftovers::detach(store, key, &fault).map(|()| true),
    };
    let mut kernel = Kernel::open()?;
    // A TAP would be brought back meanwhile.
    let held = record.tap.map(|_| store.lock()).transpose()?;
    tear_down(&mut kernel, &record)?;
    let locked = held.map_or_else(|| store.lock(), Ok)?;
    forget(&mut kernel, &locked, &record)?;
    Ok(true)
}

/// Removes the device and the filters of an attachment.
pub(super) fn tear_down(kernel: &mut Kernel, record: &Record) -> Result<(), Fault> {
    // Its filters go after the device whose packets they hold.
    kernel.delete_link(&record.host_interface, record.kind())?;
    kernel.delete_filters(Family::Netdev, &filters::table(&record.host_interface))
}

/// Ends that an address is somebody's: first nothing leads there any more.
fn forget(kernel: &mut Kernel, locked: &Locked<'_>, record: &Record) -> Result<(), Fault> {
    let mut others = locked.records()?;
    others.retain(|other| other.key != record.key);
    if !record.ports.is_empty() {
        let actual = kernel.observe(&record.bridge, locked.device())?;
        if let Some(step) = plan::published(locked.device(), &made(&others), &actual) {
            kernel.carry_out(&step)?;
        }
    }
    // The record goes last: without it nobody would look for what is left by one that is killed here.
    if !others.iter().any(|other| other.stage != Stage::Reserved && other.bridge == record.bridge) {
        kernel.delete_bridge(&record.bridge)?;
    }
    locked.remove(&record.key)
}

/// Those that ports lead to.
fn made(records: &[Record]) -> Vec<Record> {
    records.iter().filter(|record| record.stage == Stage::Made).cloned().collect()
}

/// Gives addresses out of which nothing is made yet.
///
/// # Errors
/// As those of [`attach`].
pub fn reserve(node: &Node, store: &Store, key: &Key, wanted: &[IpAddr]) -> Result<Record, Fault> {
    let request = Request {
        key: key.clone(),
        name: None,
        wanted: wanted.to_vec(),
        mac: None,
        ports: Vec::new(),
        isolated: false,
        mtu: None,
        default_route: false,
        place: Place::Host,
        reservation: None,
        process: None,
    };
    check_store(node, store)?;
    let locked = store.lock()?;
    let records = locked.records()?;
    let mut record = claim(node, &locked, &records, &request, None)?;
    record.stage = Stage::Reserved;
    locked.put(&record)?;
    drop(locked);
    store.settle(key)?;
    Ok(record)
}

/// Has these ports of the host, and no others, lead to a container.
///
/// # Errors
/// There is no such attachment ([`FaultKind::NotAsMade`]), or a port is in use; then the ports are as they were.
pub fn publish(node: &Node, store: &Store, key: &Key, ports: Vec<Published>) -> Result<Record, Fault> {
    let mut kernel = Kernel::open()?;
    let locked = store.lock()?;
    let mut records = locked.records()?;
    let others: Vec<Record> = records.iter().filter(|record| record.key != *key).cloned().collect();
    let Some(record) = records.iter_mut().find(|record| record.key == *key) else {
        return Err(Fault::new(FaultKind::NotAsMade, format!("there is no container {} on this node", key.container)));
    };
    let new: Vec<Published> = ports.iter().filter(|port| !record.ports.contains(port)).copied().collect();
    ports::check(&ports, &others).or_else(|fault| if new.is_empty() { Ok(()) } else { Err(fault) })?;
    let before = record.clone();
    record.ports = ports;
    let after = record.clone();
    locked.put(&after)?;
    let outcome = (|| {
        let mut actual = kernel.observe(&after.bridge, &node.device)?;
        kernel.observe_port(&after, &mut actual)?;
        let bridge = actual.bridge.as_ref().map(|link| link.index);
        let mtu = kernel.bridge_mtu(node, &records)?;
        let mut steps = plan::bridge(node, mtu, &actual, publishes(&records))?;
        steps.extend(plan::port(&after, &actual, bridge));
        steps.extend(plan::published(&node.device, &made(&records), &actual));
        kernel.apply(&steps)
    })();
    if let Err(fault) = outcome {
        locked.put(&before)?;
        return Err(fault);
    }
    drop(locked);
    store.settle(key)?;
    warn_of_absent(&mut kernel, &new);
    Ok(after)
}
