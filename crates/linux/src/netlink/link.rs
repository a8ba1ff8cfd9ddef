//! Devices: reading, creating, changing, deleting (`RTM_*LINK`, linux/if_link.h).

use std::fmt::Arguments;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};

use super::{Attribute, NLM_F_CREATE, NLM_F_EXCL, Netlink, attributes, invalid};
use crate::netns::NetNs;
use crate::{Error, Result};

/// Size of `struct ifinfomsg`.
const HEADER: usize = 16;

/// The longest alias the kernel takes (`IFALIASZ` without its NUL).
const ALIAS_LENGTH: usize = 255;

/// The device below a VXLAN device (linux/if_link.h, IFLA_VXLAN_LINK).
const VXLAN_LINK: u16 = 3;

// Attributes of a bridge port (linux/if_link.h, IFLA_BRPORT_*).
const BRPORT_MODE: u16 = 4;
const BRPORT_GUARD: u16 = 5;
const BRPORT_LEARNING: u16 = 8;
const BRPORT_UNICAST_FLOOD: u16 = 9;
const BRPORT_NEIGH_SUPPRESS: u16 = 32;
const BRPORT_ISOLATED: u16 = 33;

/// What a frame on the device begins with (`ARPHRD_*`, linux/if_arp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header: TAP, veth, bridge, VXLAN, network cards.
    Ethernet,
    /// The IP header itself: TUN.
    None,
    /// The loopback device, whose frames have an Ethernet header of zeros.
    Loopback,
    /// Any other number.
    Other(u16),
}

impl From<u16> for Layer {
    fn from(number: u16) -> Self {
        match number {
            libc::ARPHRD_ETHER => Self::Ethernet,
            libc::ARPHRD_NONE => Self::None,
            libc::ARPHRD_LOOPBACK => Self::Loopback,
            other => Self::Other(other),
        }
    }
}

/// What a device has counted since it was made (`struct rtnl_link_stats64`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it: direction and what was counted")]
pub struct Statistics {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// How a bridge treats one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Frames pass to and from ports only that are not isolated.
    pub isolated: bool,
    /// A frame may leave through the port it came in by.
    pub hairpin: bool,
    /// Source addresses seen here enter the forwarding database.
    pub learning: bool,
    /// Spanning-tree frames from here are dropped.
    pub guard: bool,
    /// Frames to unknown addresses are sent here too.
    pub flood: bool,
    /// The bridge answers ARP and neighbour solicitations from its own neighbour table instead of flooding them here.
    pub neighbour_suppression: bool,
}

/// A device as the kernel described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kernel's word for what it is (`veth`, `bridge`, `tun` (TAP too), `vxlan`); a plain network card has none.
    pub kind: Option<String>,
    /// What its frames begin with.
    pub layer: Layer,
    /// Its link-layer address, if that is six bytes long.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes, without the link-layer header.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it can carry traffic: up, with carrier (`IFF_LOWER_UP`).
    pub running: bool,
    /// The bridge (or bond, …) it is a port of.
    pub controller: Option<u32>,
    /// How that bridge treats it.
    pub port: Option<Port>,
    /// The device it sits on, or its veth peer. The number may be one of another namespace.
    pub lower: Option<u32>,
    /// Free text, which adit uses to mark what it owns.
    pub alias: Option<String>,
    /// Packets its queue holds.
    pub tx_queue_len: u32,
    /// Largest super-packet in bytes that the stack hands to it.
    pub gso_max_size: u32,
    /// Most segments in such a super-packet.
    pub gso_max_segs: u32,
    /// Counters.
    pub statistics: Statistics,
}

/// One end of a veth pair to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace it is born in; none: that of the connection.
    pub netns: Option<&'a NetNs>,
    /// Its address; none: random.
    pub mac: Option<[u8; 6]>,
    /// Its MTU; none: 1500.
    pub mtu: Option<u32>,
}

/// A VXLAN device to be (RFC 7348).
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// The network identifier, 24 bits.
    pub id: u32,
    /// UDP port, ours and the peers'. The registered one is 4789; flannel and old kernels use 8472.
    pub port: u16,
    /// Source address of the outer packets.
    pub local: Option<IpAddr>,
    /// Where frames go for which the forwarding database has no entry; a group or one host.
    pub remote: Option<IpAddr>,
    /// The device that carries the outer packets.
    pub device: Option<u32>,
    /// Whether the forwarding database learns from what arrives.
    pub learning: bool,
    /// Its address; none: random.
    pub mac: Option<[u8; 6]>,
    /// Its MTU; none: that of `device` less the headers.
    pub mtu: Option<u32>,
}

/// What to change on a device; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Link-layer address.
    pub mac: Option<[u8; 6]>,
    /// Becomes a port of this bridge, or (`Some(None)`) of none.
    pub controller: Option<Option<u32>>,
    /// Free text of at most 255 bytes; empty removes it.
    pub alias: Option<&'a str>,
    /// Packets its queue holds.
    pub tx_queue_len: Option<u32>,
    /// Largest super-packet in bytes.
    pub gso_max_size: Option<u32>,
    /// Most segments in a super-packet.
    pub gso_max_segs: Option<u32>,
    /// A new name.
    pub name: Option<&'a str>,
    /// Moves to this namespace; its addresses and routes are lost.
    pub netns: Option<&'a NetNs>,
}

/// What to change on a port of a bridge; what is `None` stays. The meanings are those of [`Port`].
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "described at Port")]
pub struct PortChange {
    pub isolated: Option<bool>,
    pub hairpin: Option<bool>,
    pub learning: Option<bool>,
    pub guard: Option<bool>,
    pub flood: Option<bool>,
    pub neighbour_suppression: Option<bool>,
}

/// Whether the kernel would take `name` for a device (`dev_valid_name`): 1 to 15 bytes, none of `/`, `:`, white space.
pub fn is_valid_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| matches!(byte, 0 | b'/' | b':') || byte.is_ascii_whitespace() || byte == 0x0b)
}

impl Netlink {
    /// The device of this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let operation = format_args!("read device {name}");
        let mut message = LinkMessage::default();
        message.attributes.push(name_attribute(operation, name)?);
        absent_is_none(self.query(operation, libc::RTM_GETLINK, &message, parse_link))
    }

    /// The device of this name, or ENODEV.
    pub fn existing_link(&mut self, name: &str) -> Result<Link> {
        self.link(name)?.ok_or_else(|| Error::from_errno(format!("read device {name}"), libc::ENODEV))
    }

    /// The device of this number, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        absent_is_none(self.query(
            format_args!("read device {index}"),
            libc::RTM_GETLINK,
            &message_for(index),
            parse_link,
        ))
    }

    /// All devices of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.dump(format_args!("list devices"), libc::RTM_GETLINK, &LinkMessage::default(), parse_link)
    }

    /// Makes a veth pair. Each end is born in its namespace, so it is never seen elsewhere and needs no move.
    pub fn create_veth(&mut self, a: &VethEnd<'_>, b: &VethEnd<'_>) -> Result<()> {
        let operation = format_args!("create veth pair {} - {}", a.name, b.name);
        let mut peer = LinkMessage::default();
        peer.attributes = end_attributes(operation, b)?;
        let mut message = LinkMessage::default();
        message.attributes = end_attributes(operation, a)?;
        let data = InfoData::Veth(InfoVeth::Peer(peer));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]));
        self.create(operation, &message)
    }

    /// Makes a bridge. Without an address of its own it takes the lowest of its ports', which changes as they come and go.
    pub fn create_bridge(&mut self, name: &str, mac: Option<[u8; 6]>) -> Result<()> {
        let operation = format_args!("create bridge {name}");
        let mut message = LinkMessage::default();
        message.attributes.push(name_attribute(operation, name)?);
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create(operation, &message)
    }

    /// Makes a VXLAN device.
    pub fn create_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<()> {
        let operation = format_args!("create VXLAN device {}", vxlan.name);
        if vxlan.id >= 1 << 24 {
            return Err(invalid(operation, format!("the network identifier {} has more than 24 bits", vxlan.id)));
        }
        let mut data = vec![InfoVxlan::Id(vxlan.id), InfoVxlan::Port(vxlan.port), InfoVxlan::Learning(vxlan.learning)];
        data.extend(vxlan.device.map(InfoVxlan::Link));
        data.extend(vxlan.local.map(|address| match address {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        }));
        data.extend(vxlan.remote.map(|address| match address {
            IpAddr::V4(address) => InfoVxlan::Group(address),
            IpAddr::V6(address) => InfoVxlan::Group6(address),
        }));
        let mut message = LinkMessage::default();
        message.attributes.push(name_attribute(operation, vxlan.name)?);
        message.attributes.extend(vxlan.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.extend(vxlan.mtu.map(LinkAttribute::Mtu));
        let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.create(operation, &message)
    }

    fn create(&mut self, operation: Arguments<'_>, message: &LinkMessage) -> Result<()> {
        self.acknowledge(operation, (libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL), message)
    }

    /// Changes a device. The kernel applies the parts one after another: after an error some may have been applied.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let operation = format_args!("change device {index}");
        let mut message = message_for(index);
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        if let Some(alias) = change.alias {
            if alias.len() > ALIAS_LENGTH {
                return Err(invalid(operation, format!("an alias has at most {ALIAS_LENGTH} bytes")));
            }
            // Without the NUL that the typed attribute would add: the kernel takes an alias by its length.
            message.attributes.push(LinkAttribute::Other(DefaultNla::new(libc::IFLA_IFALIAS, alias.into())));
        }
        if let Some(name) = change.name {
            message.attributes.push(name_attribute(operation, name)?);
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(change.controller.map(|controller| LinkAttribute::Controller(controller.unwrap_or(0))));
        attributes.extend(change.tx_queue_len.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.gso_max_size.map(LinkAttribute::GsoMaxSize));
        attributes.extend(change.gso_max_segs.map(LinkAttribute::GsoMaxSegs));
        attributes.extend(change.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
        self.acknowledge(operation, (libc::RTM_NEWLINK, 0), &message)
    }

    /// Brings a device up or down. A fresh namespace has its loopback device (index 1) down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        self.change_link(index, &LinkChange { up: Some(up), ..LinkChange::default() })
    }

    /// Changes how a bridge treats a port, which must be one already.
    pub fn change_port(&mut self, index: u32, change: &PortChange) -> Result<()> {
        let port: Vec<_> = [
            change.isolated.map(InfoBridgePort::Isolated),
            change.hairpin.map(InfoBridgePort::HairpinMode),
            change.learning.map(InfoBridgePort::Learning),
            change.guard.map(InfoBridgePort::Guard),
            change.flood.map(InfoBridgePort::UnicastFlood),
            change.neighbour_suppression.map(InfoBridgePort::NeighSupress),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.set_port(index, port)
    }

    /// Has a bridge let go of all addresses that it learned at a port.
    pub fn flush_port(&mut self, index: u32) -> Result<()> {
        self.set_port(index, vec![InfoBridgePort::Flush])
    }

    fn set_port(&mut self, index: u32, port: Vec<InfoBridgePort>) -> Result<()> {
        let mut message = message_for(index);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(port)),
        ]));
        self.acknowledge(format_args!("change bridge port {index}"), (libc::RTM_NEWLINK, 0), &message)
    }

    /// Deletes a device; of a veth pair, both ends.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.acknowledge(format_args!("delete device {index}"), (libc::RTM_DELLINK, 0), &message_for(index))
    }
}

fn message_for(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.header.index = index;
    message
}

fn name_attribute(operation: Arguments<'_>, name: &str) -> Result<LinkAttribute> {
    if !is_valid_name(name) {
        return Err(invalid(operation, "a device name has 1 to 15 bytes, without '/', ':' and white space"));
    }
    Ok(LinkAttribute::IfName(name.to_owned()))
}

fn end_attributes(operation: Arguments<'_>, end: &VethEnd<'_>) -> Result<Vec<LinkAttribute>> {
    let mut attributes = vec![name_attribute(operation, end.name)?];
    attributes.extend(end.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(end.mtu.map(LinkAttribute::Mtu));
    Ok(attributes)
}

fn absent_is_none(result: Result<Link>) -> Result<Option<Link>> {
    match result {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads an `RTM_NEWLINK`: `struct ifinfomsg` (family, pad, type: u16, index: i32, flags: u32, change: u32), attributes.
fn parse_link(body: &[u8]) -> Option<Link> {
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *body.first_chunk::<HEADER>()?;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut link = Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        kind: None,
        layer: Layer::from(u16::from_ne_bytes([t0, t1])),
        mac: None,
        mtu: 0,
        up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_LOWER_UP as u32 != 0,
        controller: None,
        port: None,
        lower: None,
        alias: None,
        tx_queue_len: 0,
        gso_max_size: 0,
        gso_max_segs: 0,
        statistics: Statistics::default(),
    };
    for attribute in attributes(body.get(HEADER..)?) {
        match attribute.kind {
            libc::IFLA_IFNAME => link.name = attribute.text(),
            libc::IFLA_ADDRESS => link.mac = <[u8; 6]>::try_from(attribute.value).ok(),
            libc::IFLA_MTU => link.mtu = attribute.u32()?,
            libc::IFLA_MASTER => link.controller = attribute.u32(),
            libc::IFLA_LINK => link.lower = attribute.u32().filter(|index| *index != 0),
            libc::IFLA_IFALIAS => link.alias = Some(attribute.text()),
            libc::IFLA_TXQLEN => link.tx_queue_len = attribute.u32()?,
            libc::IFLA_GSO_MAX_SIZE => link.gso_max_size = attribute.u32()?,
            libc::IFLA_GSO_MAX_SEGS => link.gso_max_segs = attribute.u32()?,
            libc::IFLA_STATS64 => link.statistics = parse_statistics(&attribute)?,
            libc::IFLA_LINKINFO => parse_info(&attribute, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(attribute: &Attribute<'_>, link: &mut Link) {
    let mut port_kind = String::new();
    for info in attribute.nested() {
        match info.kind {
            libc::IFLA_INFO_KIND => link.kind = Some(info.text()),
            libc::IFLA_INFO_DATA if link.kind.as_deref() == Some("vxlan") => {
                link.lower = info.nested().find(|item| item.kind == VXLAN_LINK).and_then(|item| item.u32());
            }
            libc::IFLA_INFO_SLAVE_KIND => port_kind = info.text(),
            libc::IFLA_INFO_SLAVE_DATA if port_kind == "bridge" => link.port = Some(parse_port(&info)),
            _ => {}
        }
    }
}

fn parse_port(attribute: &Attribute<'_>) -> Port {
    let flag = |kind| attribute.nested().find(|item| item.kind == kind).and_then(|item| item.u8()).unwrap_or(0) != 0;
    Port {
        isolated: flag(BRPORT_ISOLATED),
        hairpin: flag(BRPORT_MODE),
        learning: flag(BRPORT_LEARNING),
        guard: flag(BRPORT_GUARD),
        flood: flag(BRPORT_UNICAST_FLOOD),
        neighbour_suppression: flag(BRPORT_NEIGH_SUPPRESS),
    }
}

/// The first eight counters of `struct rtnl_link_stats64`.
fn parse_statistics(attribute: &Attribute<'_>) -> Option<Statistics> {
    let (words, _) = attribute.value.as_chunks::<8>();
    let [rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped] =
        words.first_chunk::<8>()?.map(u64::from_ne_bytes);
    Some(Statistics { rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_as_the_kernel_takes_them() {
        for name in ["a", "adit0", "fifteen-bytes-x", "veth.1", "é"] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", ".", "..", "sixteen-bytes-xy", "a/b", "a:b", "a b", "a\tb", "a\u{b}b", "a\0b"] {
            assert!(!is_valid_name(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            parse_link(&body);
        }

        #[test]
        fn any_attribute_is_read_without_panic(kind in 0u16..70, value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut writer = crate::netlink::attribute::Writer::new();
            writer.bytes(kind, &value);
            parse_link(&[&[0; HEADER], writer.as_bytes()].concat());
        }
    }
}
