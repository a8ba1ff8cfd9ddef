//! Neighbours: which link-layer address an IP address on a device has (`RTM_*NEIGH`, linux/neighbour.h).

use std::fmt::Arguments;
use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as State};
use netlink_packet_route::route::RouteProtocol;

use super::{Family, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, attributes};
use crate::Result;

/// Size of `struct ndmsg`.
const HEADER: usize = 12;

/// Who made an entry: an attribute of linux/neighbour.h.
const NDA_PROTOCOL: u16 = 12;

/// How sure the kernel is of a neighbour (`NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Asked for, no answer yet.
    Incomplete,
    /// Known to be there.
    Reachable,
    /// Known, but not confirmed lately.
    Stale,
    /// Being confirmed: first by traffic, then by asking.
    Probing,
    /// Asked for in vain.
    Failed,
    /// Needs no resolution (loopback, multicast), or a static entry of a forwarding database.
    NoArp,
    /// Entered by hand; stays until it is deleted.
    Permanent,
    /// Any other combination.
    Other(u16),
}

impl NeighbourState {
    fn from_number(number: u16) -> Self {
        match number {
            libc::NUD_INCOMPLETE => Self::Incomplete,
            libc::NUD_REACHABLE => Self::Reachable,
            libc::NUD_STALE => Self::Stale,
            libc::NUD_DELAY | libc::NUD_PROBE => Self::Probing,
            libc::NUD_FAILED => Self::Failed,
            libc::NUD_NOARP => Self::NoArp,
            libc::NUD_PERMANENT => Self::Permanent,
            other => Self::Other(other),
        }
    }
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The device behind which it is.
    pub index: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its link-layer address, once known.
    pub mac: Option<[u8; 6]>,
    /// How sure the kernel is.
    pub state: NeighbourState,
}

/// An address that is elsewhere and that the kernel answers for on a device: to ARP, or to neighbour discovery, as if it were there.
///
/// It does so while the device forwards and the way to the address leads out by another one; with IPv6 only where the setting `proxy_ndp` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// The device.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Who made the entry; `PROTOCOL` for us.
    pub protocol: u8,
}

impl Netlink {
    /// Adds a permanent entry; EEXIST if there is one.
    pub fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let operation = format_args!("add neighbour {address} on device {index}");
        self.write_neighbour(operation, NLM_F_CREATE | NLM_F_EXCL, &message_for(index, address, Some(mac)))
    }

    /// Adds a permanent entry or replaces what there is, also what was learned.
    pub fn replace_neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let operation = format_args!("replace neighbour {address} on device {index}");
        self.write_neighbour(operation, NLM_F_CREATE | NLM_F_REPLACE, &message_for(index, address, Some(mac)))
    }

    fn write_neighbour(&mut self, operation: Arguments<'_>, flags: u16, message: &NeighbourMessage) -> Result<()> {
        self.acknowledge(operation, (libc::RTM_NEWNEIGH, flags), message)
    }

    /// Deletes an entry; ENOENT if there is none.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let operation = format_args!("delete neighbour {address} on device {index}");
        self.acknowledge(operation, (libc::RTM_DELNEIGH, 0), &message_for(index, address, None))
    }

    /// The entries of one device, or of all.
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.attributes.extend(index.map(NeighbourAttribute::IfIndex));
        self.dump(format_args!("list neighbours"), libc::RTM_GETNEIGH, &message, |body| {
            parse_neighbour(body).filter(|neighbour| index.is_none_or(|index| neighbour.index == index))
        })
    }
}

impl Netlink {
    /// Has the kernel answer for an address. There is no error if it does already; the entry is then said to be of this maker.
    pub fn add_proxy(&mut self, proxy: &Proxy) -> Result<()> {
        let operation = format_args!("answer for {} on device {}", proxy.address, proxy.index);
        self.acknowledge(operation, (libc::RTM_NEWNEIGH, NLM_F_CREATE), &proxy_message(proxy))
    }

    /// Has it not do so any more; ENOENT if it does not.
    pub fn delete_proxy(&mut self, proxy: &Proxy) -> Result<()> {
        let operation = format_args!("answer for {} on device {} no more", proxy.address, proxy.index);
        self.acknowledge(operation, (libc::RTM_DELNEIGH, 0), &proxy_message(proxy))
    }

    /// All addresses that the kernel answers for.
    pub fn proxies(&mut self) -> Result<Vec<Proxy>> {
        let mut message = NeighbourMessage::default();
        message.header.flags = NeighbourFlags::Proxy;
        self.dump(format_args!("list addresses that are answered for"), libc::RTM_GETNEIGH, &message, parse_proxy)
    }
}

fn proxy_message(proxy: &Proxy) -> NeighbourMessage {
    let mut message = message_for(proxy.index, proxy.address, None);
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(proxy.protocol)));
    message
}

fn parse_proxy(body: &[u8]) -> Option<Proxy> {
    let (header, list) = parse_header(body)?;
    Family::from_number(header.family).filter(|_| header.flags & libc::NTF_PROXY != 0)?;
    let (mut address, mut protocol) = (None, 0);
    for attribute in attributes(list) {
        match attribute.kind {
            libc::NDA_DST => address = attribute.address(),
            NDA_PROTOCOL => protocol = *attribute.value.first()?,
            _ => {}
        }
    }
    Some(Proxy { index: header.index, address: address?, protocol })
}

fn message_for(index: u32, address: IpAddr, mac: Option<[u8; 6]>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = Family::of(address).into();
    message.header.ifindex = index;
    message.header.state = State::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    message
}

/// The fixed part of an `RTM_NEWNEIGH`: `struct ndmsg` (family: u8, 3 bytes of padding, index: i32, state: u16, flags, type: u8).
pub(super) struct Header {
    pub(super) family: u8,
    pub(super) index: u32,
    pub(super) state: NeighbourState,
    pub(super) flags: u8,
}

/// Splits an `RTM_NEWNEIGH` into its fixed part and its attributes.
pub(super) fn parse_header(body: &[u8]) -> Option<(Header, &[u8])> {
    let [family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _] = *body.first_chunk::<HEADER>()?;
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    let state = NeighbourState::from_number(u16::from_ne_bytes([s0, s1]));
    Some((Header { family, index, state, flags }, body.get(HEADER..)?))
}

fn parse_neighbour(body: &[u8]) -> Option<Neighbour> {
    let (header, list) = parse_header(body)?;
    Family::from_number(header.family)?;
    let (mut address, mut mac) = (None, None);
    for attribute in attributes(list) {
        match attribute.kind {
            libc::NDA_DST => address = attribute.address(),
            libc::NDA_LLADDR => mac = <[u8; 6]>::try_from(attribute.value).ok(),
            _ => {}
        }
    }
    Some(Neighbour { index: header.index, address: address?, mac, state: header.state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..128)) {
            parse_neighbour(&body);
            parse_proxy(&body);
        }
    }
}
