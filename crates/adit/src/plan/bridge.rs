//! The bridge that a device which carries frames is a port of. One that is not there at the start is made, and is ours, which its mark says, and not its
//! name: somebody may remove it and make one of his own. Of one that somebody else made, the port is ours and nothing more.

use ipnet::IpNet;
use linux::netlink::Link;

use super::{ALIAS, Actual, Desired, Operation, Owned, fingerprint, is_link_local};

/// The bridge as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its addresses, if it is ours.
    pub addresses: Vec<IpNet>,
    /// Its link-layer address, if it is ours: given, so that no other program gives it another.
    pub mac: [u8; 6],
}

/// The bridge as it is.
#[derive(Debug, Clone)]
pub struct ActualBridge {
    /// The device.
    pub link: Link,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// How many ports it has beside our device.
    pub others: usize,
    /// Whether it was made for our device.
    pub ours: bool,
}

/// The first bytes of link-layer addresses that are ours: locally administered, for one card.
const OURS: [u8; 2] = [0x02, 0xad];

/// What a bridge is marked with that was made for a device.
#[must_use]
pub fn bridge_alias(device: &str) -> String {
    format!("{ALIAS}:{device}")
}

/// Whether a bridge was made for this device.
#[must_use]
pub fn is_bridge_of(link: &Link, device: &str) -> bool {
    link.kind.as_deref() == Some("bridge") && (link.alias == Some(bridge_alias(device)) || is_half_made(link))
}

/// Whether it was made for one of our devices.
#[must_use]
pub fn is_bridge_of_ours(link: &Link) -> bool {
    let is_marked =
        link.alias.as_ref().and_then(|alias| alias.strip_prefix(ALIAS)).is_some_and(|rest| rest.starts_with(':'));
    link.kind.as_deref() == Some("bridge") && (is_marked || is_half_made(link))
}

/// Whether whoever made it was killed before he marked it: the kernel takes no mark together with the request to make one.
fn is_half_made(link: &Link) -> bool {
    link.alias.is_none() && !link.up && link.mac.is_some_and(|mac| mac.starts_with(&OURS))
}

/// A link-layer address of ours that is the same at every start.
#[must_use]
pub fn link_address(owner: &str, device: &str) -> [u8; 6] {
    let [a, b, c, d] = fingerprint(&format!("{owner} {device}")).to_be_bytes();
    let [first, second] = OURS;
    [first, second, a, b, c, d]
}

/// The steps before the device is a port.
pub(super) fn steps(desired: &Desired, actual: &Actual, owned: &Owned) -> Vec<Operation> {
    let Some(bridge) = &desired.bridge else { return Vec::new() };
    let name = || bridge.name.clone();
    let mut steps = Vec::new();
    let (up, there): (bool, &[IpNet]) = match &actual.bridge {
        Some(there) if !there.ours => return steps,
        Some(there) => {
            if there.link.alias.is_none() {
                steps.push(Operation::MarkBridge(name()));
            }
            (there.link.up, &there.addresses)
        }
        // Whoever made it may be about to make it again.
        None if !owned.is_bridge(&bridge.name) => return steps,
        None => {
            steps.extend([Operation::MakeBridge(name(), bridge.mac), Operation::MarkBridge(name())]);
            (false, &[])
        }
    };
    let foreign = there.iter().filter(|a| !bridge.addresses.contains(a) && !is_link_local(a));
    steps.extend(foreign.map(|address| Operation::DeleteBridgeAddress(name(), *address)));
    let missing = bridge.addresses.iter().filter(|a| !there.contains(a));
    steps.extend(missing.map(|address| Operation::AddBridgeAddress(name(), *address)));
    if !up {
        steps.push(Operation::SetBridgeUp(name()));
    }
    steps
}

/// The step that makes the device a port.
pub(super) fn joining(desired: &Desired, actual: &Actual, owned: &Owned, device: &Link) -> Option<Operation> {
    let bridge = desired.bridge.as_ref()?;
    let will_be_there = actual.bridge.is_some() || owned.is_bridge(&bridge.name);
    let is_port =
        device.controller.is_some() && device.controller == actual.bridge.as_ref().map(|there| there.link.index);
    (will_be_there && !is_port).then(|| Operation::Join(bridge.name.clone()))
}

/// The step that removes a bridge of ours; it stays while others use it.
pub(super) fn removal(actual: &Actual) -> Option<Operation> {
    let there = actual.bridge.as_ref().filter(|there| there.ours && there.others == 0)?;
    Some(Operation::DeleteBridge(there.link.name.clone()))
}
