//! Forwarding databases: behind which port of a bridge, or which host of a VXLAN, a link-layer address is.
//!
//! The kernel keeps them among the neighbours, in the family `AF_BRIDGE`. There are two sorts, which `bridge fdb` calls
//! `master` and `self`: that of a bridge, whose entries name one of its ports, and that of a device itself, as a VXLAN has it,
//! whose entries name a remote host.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as State};

use super::neighbour::parse_header;
use super::{NLM_F_CREATE, NLM_F_REPLACE, NeighbourState, Netlink, attributes};
use crate::Result;

const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;

/// The address of a VXLAN's entries for frames to unknown, broadcast and group addresses; there may be several of them, and
/// each of them gets a copy.
pub const EVERYONE: [u8; 6] = [0; 6];

/// Whose forwarding database an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// That of the bridge of which the device is a port (`master`).
    Bridge,
    /// The device's own (`self`), as of a VXLAN or of a bridge itself.
    Device,
}

/// An entry of a forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The port of the bridge, or the VXLAN device.
    pub index: u32,
    /// Frames to this address …
    pub mac: [u8; 6],
    /// … go to this host, on a VXLAN.
    pub destination: Option<IpAddr>,
    /// Whose database it is in.
    pub database: Database,
    /// Permanent (in a bridge's database: frames for this host itself), no-ARP (static), or reachable and stale (learned).
    pub state: NeighbourState,
}

impl Netlink {
    /// Adds a static entry to the database of the bridge of which `port` is one: frames to `mac` leave there and nowhere else.
    pub fn add_bridge_forwarding(&mut self, port: u32, mac: [u8; 6]) -> Result<()> {
        let operation = format_args!("add {} to the bridge's forwarding, port {port}", Mac(mac));
        let message = message_for((port, Database::Bridge), mac, None);
        self.acknowledge(operation, (libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE), &message)
    }

    /// Adds a permanent entry to the database of a VXLAN device: frames to `mac` go to the host `destination`. What there was
    /// for `mac` is replaced, except for [`EVERYONE`], which gets one more host.
    pub fn add_vxlan_forwarding(&mut self, index: u32, mac: [u8; 6], destination: IpAddr) -> Result<()> {
        let operation = format_args!("add {} to the forwarding of device {index}", Mac(mac));
        let flags = if mac == EVERYONE { NLM_F_APPEND } else { NLM_F_REPLACE };
        let message = message_for((index, Database::Device), mac, Some(destination));
        self.acknowledge(operation, (libc::RTM_NEWNEIGH, NLM_F_CREATE | flags), &message)
    }

    /// Deletes an entry; of several for [`EVERYONE`], that to the entry's destination.
    pub fn delete_forwarding(&mut self, entry: &Forwarding) -> Result<()> {
        let operation = format_args!("delete {} from the forwarding of device {}", Mac(entry.mac), entry.index);
        let message = message_for((entry.index, entry.database), entry.mac, entry.destination);
        self.acknowledge(operation, (libc::RTM_DELNEIGH, 0), &message)
    }

    /// The entries of one device, in both databases.
    pub fn forwarding(&mut self, index: u32) -> Result<Vec<Forwarding>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::IfIndex(index));
        self.dump(format_args!("list the forwarding of device {index}"), libc::RTM_GETNEIGH, &message, |body| {
            parse_forwarding(body).filter(|entry| entry.index == index)
        })
    }
}

fn message_for((index, database): (u32, Database), mac: [u8; 6], destination: Option<IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    (message.header.flags, message.header.state) = match database {
        Database::Bridge => (NeighbourFlags::Controller, State::Noarp),
        Database::Device => (NeighbourFlags::Own, State::Permanent),
    };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message.attributes.extend(destination.map(|address| NeighbourAttribute::Destination(address.into())));
    message
}

fn parse_forwarding(body: &[u8]) -> Option<Forwarding> {
    let (header, list) = parse_header(body)?;
    if i32::from(header.family) != libc::AF_BRIDGE {
        return None;
    }
    let (mut mac, mut destination) = (None, None);
    for attribute in attributes(list) {
        match attribute.kind {
            libc::NDA_LLADDR => mac = <[u8; 6]>::try_from(attribute.value).ok(),
            libc::NDA_DST => destination = attribute.address(),
            _ => {}
        }
    }
    let database = if header.flags & libc::NTF_SELF != 0 { Database::Device } else { Database::Bridge };
    Some(Forwarding { index: header.index, mac: mac?, destination, database, state: header.state })
}

/// A link-layer address as it is written.
struct Mac([u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(mut body in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Some(family) = body.first_mut() {
                *family = libc::AF_BRIDGE as u8;
            }
            parse_forwarding(&body);
        }
    }
}
