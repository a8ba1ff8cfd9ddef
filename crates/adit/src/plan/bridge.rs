//! The bridge that a device which carries frames is a port of. One that is not there is made, and is ours; of one that somebody else made, the port
//! is ours and nothing more.

use ipnet::IpNet;
use linux::netlink::Link;

use super::{Actual, Desired, Operation, Owned, fingerprint, is_link_local};

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
}

/// A link-layer address of ours that is the same at every start: locally administered, for one card.
#[must_use]
pub fn link_address(owner: &str, device: &str) -> [u8; 6] {
    let [a, b, c, d] = fingerprint(&format!("{owner} {device}")).to_be_bytes();
    [0x02, 0xad, a, b, c, d]
}

/// The steps before the device is a port.
pub(super) fn steps(desired: &Desired, actual: &Actual, owned: &Owned) -> Vec<Operation> {
    let Some(bridge) = &desired.bridge else { return Vec::new() };
    let name = || bridge.name.clone();
    let mut steps = Vec::new();
    let (up, there): (bool, &[IpNet]) = match &actual.bridge {
        Some(there) => (there.link.up, &there.addresses),
        None => {
            steps.push(Operation::MakeBridge(name(), bridge.mac));
            (false, &[])
        }
    };
    if actual.bridge.is_none() || owned.bridge.as_ref() == Some(&bridge.name) {
        let foreign = there.iter().filter(|a| !bridge.addresses.contains(a) && !is_link_local(a));
        steps.extend(foreign.map(|address| Operation::DeleteBridgeAddress(name(), *address)));
        let missing = bridge.addresses.iter().filter(|a| !there.contains(a));
        steps.extend(missing.map(|address| Operation::AddBridgeAddress(name(), *address)));
        if !up {
            steps.push(Operation::SetBridgeUp(name()));
        }
    }
    steps
}

/// The step that makes the device a port.
pub(super) fn joining(desired: &Desired, actual: &Actual, device: &Link) -> Option<Operation> {
    let bridge = desired.bridge.as_ref()?;
    let is_port =
        device.controller.is_some() && device.controller == actual.bridge.as_ref().map(|there| there.link.index);
    (!is_port).then(|| Operation::Join(bridge.name.clone()))
}

/// The step that removes a bridge of ours; it stays while others use it.
pub(super) fn removal(actual: &Actual, owned: &Owned) -> Option<Operation> {
    let name = owned.bridge.as_ref()?;
    let there = actual.bridge.as_ref().filter(|there| there.link.name == *name && there.others == 0)?;
    Some(Operation::DeleteBridge(there.link.name.clone()))
}
