//! From what the host should look like for its containers and what it looks like, the steps between: pure, so that attaching, repairing and
//! removing share it.

use std::collections::HashMap;

use ipnet::IpNet;
use linux::netlink::{Link, Port};
use linux::nft::{Family, Ruleset};

use super::record::Stage;
use super::{Fault, FaultKind, Node, Record, Tap, filters, ports};
use crate::plan::ALIAS;

/// The length of the prefix of addresses of a link (RFC 4291, section 2.5.6).
const LINK_LOCAL: u8 = 64;

/// Chain and comment of each rule of a table.
pub(super) type Told = Vec<(String, String)>;

/// The host as far as its containers go.
#[derive(Debug, Clone, Default)]
pub(super) struct Actual {
    /// The bridge.
    pub(super) bridge: Option<Link>,
    /// Its addresses.
    pub(super) addresses: Vec<IpNet>,
    /// Host ends of veth pairs, and TAPs, by name.
    pub(super) devices: HashMap<String, Link>,
    /// The filters of each, by its name.
    pub(super) filters: HashMap<String, Told>,
    /// The table of published ports.
    pub(super) ports: Told,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Makes the bridge, if that was not done yet, and marks it as ours.
    CreateBridge { name: String, mac: [u8; 6] },
    /// Changes the largest packet of a device.
    SetMtu { name: String, mtu: u32 },
    /// Changes the link-layer address of a device.
    SetMac { name: String, mac: [u8; 6] },
    /// Adds an address to a device.
    AddAddress { name: String, address: IpNet },
    /// Removes one.
    DeleteAddress { name: String, address: IpNet },
    /// Sets a device up.
    SetUp { name: String },
    /// Changes a setting of the kernel's on a device of ours; one that the host does not have is passed over.
    Set { path: [String; 5], value: &'static str },
    /// Puts packet filters in the place of those of their table.
    ReplaceFilters(Ruleset),
    /// Removes a table of packet filters.
    DeleteFilters { family: Family, table: String },
    /// Makes the card of a virtual machine.
    CreateTap { name: String, tap: Tap },
    /// Makes a device a port of the bridge.
    Join { name: String, bridge: String, hairpin: bool, isolated: bool },
}

/// Largest packet of the bridge in bytes. While anything hangs on it, that stays what it was when the first came, whatever the device's is by now, and
/// whoever comes gets the same: between its ports a bridge drops what is too long for one of them without a word, but between bridge and device
/// the kernel routes, and tells the sender by ICMP. Where a record does not say it, its device does.
pub(super) fn bridge_mtu(node: &Node, records: &[Record], actual: &Actual) -> u32 {
    let of_device = |record: &Record| actual.devices.get(&record.host_interface).map(|link| link.mtu);
    let hanging = records.iter().filter(|record| record.stage != Stage::Reserved && record.bridge == node.bridge);
    hanging.filter_map(|record| record.bridge_mtu.or_else(|| of_device(record))).min().unwrap_or(node.mtu)
}

/// The steps that make the bridge what it should be. `publishes`: whether ports of this host lead to containers.
///
/// # Errors
/// Another's device has its name.
pub(super) fn bridge(node: &Node, mtu: u32, actual: &Actual, publishes: bool) -> Result<Vec<Operation>, Fault> {
    let name = || node.bridge.clone();
    let mut steps = Vec::new();
    let mut wanted: Vec<IpNet> = node.gateways().collect();
    // Without an address of its link it could ask for no container of IPv6. The kernel gives it one, and no second one where that was taken.
    if wanted.iter().any(|net| net.addr().is_ipv6()) {
        wanted.extend(IpNet::new(filters::link_local(node.bridge_mac()).into(), LINK_LOCAL));
    }
    if let Some(link) = &actual.bridge {
        if is_half_made(link) {
            steps.push(Operation::CreateBridge { name: name(), mac: node.bridge_mac() });
        } else if !is_ours(link) {
            return Err(foreign(link));
        }
        let foreign = actual.addresses.iter().filter(|address| !wanted.contains(address) && !is_link_local(address));
        steps.extend(foreign.map(|address| Operation::DeleteAddress { name: name(), address: *address }));
        if link.mac != Some(node.bridge_mac()) {
            steps.push(Operation::SetMac { name: name(), mac: node.bridge_mac() });
        }
    } else {
        steps.push(Operation::CreateBridge { name: name(), mac: node.bridge_mac() });
    }
    let link = actual.bridge.as_ref();
    if link.is_none_or(|link| link.mtu != mtu) {
        steps.push(Operation::SetMtu { name: name(), mtu });
    }
    if link.is_none_or(|link| !link.up) {
        let set = |family: &str, setting: &str, value| Operation::Set {
            path: ["net", family, "conf", &node.bridge, setting].map(str::to_owned),
            value,
        };
        // Nobody on the bridge is believed to be a router, and its own addresses are nobody else's.
        steps.extend([set("ipv6", "accept_ra", "0"), set("ipv6", "accept_dad", "0")]);
        steps.extend([set("ipv4", "forwarding", "1"), set("ipv6", "force_forwarding", "1")]);
    }
    let missing = wanted.iter().filter(|address| !actual.addresses.contains(address));
    steps.extend(missing.map(|address| Operation::AddAddress { name: name(), address: *address }));
    if publishes {
        // So that this host reaches published ports by 127.0.0.1. What containers send to such addresses ends at their veth.
        let path = ["net", "ipv4", "conf", &node.bridge, "route_localnet"].map(str::to_owned);
        steps.push(Operation::Set { path, value: "1" });
    }
    if link.is_none_or(|link| !link.up) {
        steps.push(Operation::SetUp { name: name() });
    }
    Ok(steps)
}

/// That a device has the name of our bridge and is another's.
pub(super) fn foreign(link: &Link) -> Fault {
    let kind = link.kind.as_deref().map_or(String::new(), |kind| format!(" ({kind})"));
    let sentence = format!(
        "the device {} exists{kind} and is not adit's; choose another `bridge` under [network], and type `adit reload`",
        link.name
    );
    Fault::new(FaultKind::Exists, sentence)
}

/// Whether a bridge of our name is ours.
pub(super) fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge") && (link.alias.as_deref() == Some(ALIAS) || is_half_made(link))
}

/// Whether it is one that was made by somebody who was killed before he marked it: the kernel takes no mark together with the request to make one.
/// Nobody has set it up yet, and it has such an address as [`mac_of`](super::node::mac_of) gives.
fn is_half_made(link: &Link) -> bool {
    let as_ours = matches!(link.mac, Some([0x0a, 0x58 | 0x5a, ..]));
    link.kind.as_deref() == Some("bridge") && link.alias.is_none() && !link.up && as_ours
}

/// The steps for the host's end of an attachment. A veth pair has to be there; a TAP is made. `bridge`: the number of the bridge, if that is there already.
pub(super) fn port(record: &Record, actual: &Actual, bridge: Option<u32>) -> Vec<Operation> {
    let name = || record.host_interface.clone();
    let mut steps = Vec::new();
    let link = actual.devices.get(&record.host_interface);
    match (link, record.tap) {
        (Some(link), Some(tap)) if link.mtu != tap.mtu => steps.push(Operation::SetMtu { name: name(), mtu: tap.mtu }),
        (None, Some(tap)) => steps.push(Operation::CreateTap { name: name(), tap }),
        (None, None) => return steps,
        _ => {}
    }
    // Before it can send.
    if record.tap.is_none_or(|tap| !tap.lan) {
        let ruleset = filters::ruleset(record);
        // Those of a device that is gone went with it, even if their table is there.
        if link.is_none() || actual.filters.get(&record.host_interface) != Some(&filters::told(&ruleset)) {
            steps.push(Operation::ReplaceFilters(ruleset));
        }
    }
    let hairpin = !record.ports.is_empty();
    let is_port = |link: &Link| link.controller.is_some() && link.controller == bridge;
    let is_so = |port: &Port| port.hairpin == hairpin && port.isolated == record.isolated;
    if !link.is_some_and(|link| is_port(link) && link.port.as_ref().is_some_and(is_so)) {
        steps.push(Operation::Join { name: name(), bridge: record.bridge.clone(), hairpin, isolated: record.isolated });
    }
    if link.is_none_or(|link| !link.up) {
        // The end on the host has no address, and speaks to nobody.
        let path = ["net", "ipv6", "conf", &record.host_interface, "disable_ipv6"].map(str::to_owned);
        steps.push(Operation::Set { path, value: "1" });
        steps.push(Operation::SetUp { name: name() });
    }
    steps
}

/// The step that leads published ports to these containers, and no others; none if it is so.
pub(super) fn published(device: &str, records: &[Record], actual: &Actual) -> Option<Operation> {
    match ports::ruleset(device, records) {
        Some(ruleset) => (actual.ports != filters::told(&ruleset)).then_some(Operation::ReplaceFilters(ruleset)),
        None => (!actual.ports.is_empty())
            .then(|| Operation::DeleteFilters { family: Family::Inet, table: ports::table(device) }),
    }
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(a) if a.addr().is_unicast_link_local())
}
