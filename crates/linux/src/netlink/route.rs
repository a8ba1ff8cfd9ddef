//! Routes (`RTM_*ROUTE`, linux/rtnetlink.h).

use std::fmt;
use std::fmt::Arguments;
use std::net::IpAddr;
use std::num::NonZero;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::{Attribute, Family, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, attributes, invalid};
use crate::Result;

/// The protocol number in adit's own routes, by which they are known again. Below 186 and above 99 nothing is registered in
/// linux/rtnetlink.h or in iproute2's `rt_protos`. To have `ip route` show a name, put `173 adit` into a file of
/// `/etc/iproute2/rt_protos.d/`.
pub const PROTOCOL: u8 = 173;

/// Size of `struct rtmsg`.
const HEADER: usize = 12;

/// Size of `struct rtnexthop`.
const NEXT_HOP_HEADER: usize = 8;

/// The main table (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;

/// The MTU among a route's metrics (linux/rtnetlink.h).
const RTAX_MTU: u16 = 2;

/// Set on cached results (`RTM_F_CLONED`), which are no routes.
const CLONED: u32 = 0x200;

/// What becomes of packets to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// They are sent to the gateway or device.
    Unicast,
    /// They are for this host.
    Local,
    /// They are a broadcast of a directly attached network.
    Broadcast,
    /// They are for the nearest of several hosts.
    Anycast,
    /// They are for a group.
    Multicast,
    /// They vanish; a sender on this host sees EINVAL.
    Blackhole,
    /// ICMP answers that the host is unreachable.
    Unreachable,
    /// ICMP answers that it is forbidden.
    Prohibit,
    /// The lookup goes on with the next rule.
    Throw,
    /// Any other number of `RTN_*`.
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => libc::RTN_UNICAST,
            Self::Local => libc::RTN_LOCAL,
            Self::Broadcast => libc::RTN_BROADCAST,
            Self::Anycast => libc::RTN_ANYCAST,
            Self::Multicast => libc::RTN_MULTICAST,
            Self::Blackhole => libc::RTN_BLACKHOLE,
            Self::Unreachable => libc::RTN_UNREACHABLE,
            Self::Prohibit => libc::RTN_PROHIBIT,
            Self::Throw => libc::RTN_THROW,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            libc::RTN_UNICAST => Self::Unicast,
            libc::RTN_LOCAL => Self::Local,
            libc::RTN_BROADCAST => Self::Broadcast,
            libc::RTN_ANYCAST => Self::Anycast,
            libc::RTN_MULTICAST => Self::Multicast,
            libc::RTN_BLACKHOLE => Self::Blackhole,
            libc::RTN_UNREACHABLE => Self::Unreachable,
            libc::RTN_PROHIBIT => Self::Prohibit,
            libc::RTN_THROW => Self::Throw,
            other => Self::Other(other),
        }
    }
}

/// A route. Start with [`Route::new`] and fill in what differs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where packets go; the bits beyond the prefix are ignored.
    pub destination: IpNet,
    /// What becomes of them.
    pub kind: RouteKind,
    /// The next hop; may be an IPv6 address for an IPv4 destination. Of several, the first.
    pub gateway: Option<IpAddr>,
    /// The device they leave by. Of several, the first.
    pub device: Option<u32>,
    /// Source address for packets of this host that have none yet.
    pub source: Option<IpAddr>,
    /// The lower wins. The kernel's default is 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
    /// Table, 254 for the main one.
    pub table: u32,
    /// Who made it; [`PROTOCOL`] for us. When deleting, 0 matches any.
    pub protocol: u8,
    /// How far away the destination is (`RT_SCOPE_*`); `None`: as fits the kind (IPv4), or any when deleting.
    pub scope: Option<u8>,
    /// Largest packet in bytes on this route.
    pub mtu: Option<u32>,
    /// The gateway counts as reachable even though no address of ours is in its network.
    pub onlink: bool,
}

impl Route {
    /// A unicast route of ours in the main table, so far without gateway and device.
    pub fn new(destination: IpNet) -> Self {
        Self {
            destination,
            kind: RouteKind::Unicast,
            gateway: None,
            device: None,
            source: None,
            metric: None,
            table: MAIN_TABLE,
            protocol: PROTOCOL,
            scope: None,
            mtu: None,
            onlink: false,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != RouteKind::Unicast {
            write!(f, "{} ", format!("{:?}", self.kind).to_lowercase())?;
        }
        write!(f, "{}", self.destination)?;
        let parts = [("metric", self.metric), ("mtu", self.mtu), ("device", self.device)];
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        for (name, value) in parts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(f, " {name} {value}")?;
        }
        Ok(())
    }
}

/// How the kernel would send a packet to some address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLookup {
    /// The device it would leave by.
    pub device: u32,
    /// The source address it would get.
    pub source: Option<IpAddr>,
    /// The next hop, unless the address is attached directly.
    pub gateway: Option<IpAddr>,
    /// Largest packet in bytes, where a route or a learned path MTU says less than the device.
    pub mtu: Option<u32>,
    /// Unicast, or local when the address is one of this host's.
    pub kind: RouteKind,
}

impl Netlink {
    /// Adds a route; EEXIST if there is one to that destination with that metric.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        self.write_route(format_args!("add route {route}"), NLM_F_CREATE | NLM_F_EXCL, route)
    }

    /// Adds a route or replaces that to the same destination with the same metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.write_route(format_args!("replace route {route}"), NLM_F_CREATE | NLM_F_REPLACE, route)
    }

    fn write_route(&mut self, operation: Arguments<'_>, flags: u16, route: &Route) -> Result<()> {
        let mut message = route_message(operation, route)?;
        message.header.scope = RouteScope::from(route.scope.unwrap_or_else(|| match route.kind {
            RouteKind::Local => libc::RT_SCOPE_HOST,
            RouteKind::Unicast if route.gateway.is_none() => libc::RT_SCOPE_LINK,
            RouteKind::Broadcast | RouteKind::Multicast | RouteKind::Anycast => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        }));
        self.acknowledge(operation, (libc::RTM_NEWROUTE, flags), &message)
    }

    /// Deletes a route. Destination, table and kind must agree, and of the rest what is given; ESRCH if there is none such.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let operation = format_args!("delete route {route}");
        let mut message = route_message(operation, route)?;
        message.header.scope = RouteScope::from(route.scope.unwrap_or(libc::RT_SCOPE_NOWHERE));
        self.acknowledge(operation, (libc::RTM_DELROUTE, 0), &message)
    }

    /// The routes of all tables, of one family or both. The local table (255) is among them.
    pub fn routes(&mut self, family: Option<Family>) -> Result<Vec<Route>> {
        let mut all = Vec::new();
        for wanted in [Family::V4, Family::V6].into_iter().filter(|wanted| family.is_none_or(|only| only == *wanted)) {
            let mut message = RouteMessage::default();
            message.header.address_family = wanted.into();
            // A kernel without IPv6 answers with what other families have.
            all.extend(self.dump(format_args!("list routes"), libc::RTM_GETROUTE, &message, |body| {
                parse_route(body).filter(|route| Family::of(route.destination.addr()) == wanted)
            })?);
        }
        Ok(all)
    }

    /// How a packet to `address` would go. Without a route, or where it leads into a blackhole or the like, that is an error:
    /// ENETUNREACH, EHOSTUNREACH, EINVAL (blackhole), EACCES (prohibit).
    pub fn route_to(&mut self, address: IpAddr) -> Result<RouteLookup> {
        self.lookup(address, (None, None), RouteFlags::empty())
    }

    /// As [`Netlink::route_to`], for a packet with a mark (SO_MARK), by which rules may tell it from others.
    pub fn route_with_mark(&mut self, address: IpAddr, mark: Option<NonZero<u32>>) -> Result<RouteLookup> {
        self.lookup(address, (None, mark), RouteFlags::empty())
    }

    /// As [`Netlink::route_with_mark`], for a packet whose source is chosen; EINVAL if it is not an address of this host.
    pub fn route_from(&mut self, source: IpAddr, address: IpAddr, mark: Option<NonZero<u32>>) -> Result<RouteLookup> {
        self.lookup(address, (Some(source), mark), RouteFlags::empty())
    }

    /// As [`Netlink::route_with_mark`], but the route as somebody configured it: without what path-MTU messages taught the kernel.
    pub fn configured_route_to(&mut self, address: IpAddr, mark: Option<NonZero<u32>>) -> Result<RouteLookup> {
        self.lookup(address, (None, mark), RouteFlags::FibMatch)
    }

    fn lookup(
        &mut self,
        address: IpAddr,
        (source, mark): (Option<IpAddr>, Option<NonZero<u32>>),
        flags: RouteFlags,
    ) -> Result<RouteLookup> {
        let operation = format_args!("find a route to {address}");
        let mut message = RouteMessage::default();
        message.header.flags = flags;
        message.header.address_family = Family::of(address).into();
        message.header.destination_prefix_length = IpNet::from(address).max_prefix_len();
        message.attributes.push(RouteAttribute::Destination(address.into()));
        if let Some(source) = source {
            message.header.source_prefix_length = IpNet::from(source).max_prefix_len();
            message.attributes.push(RouteAttribute::Source(source.into()));
        }
        message.attributes.extend(mark.map(|mark| RouteAttribute::Mark(mark.get())));
        let route = self.query(operation, libc::RTM_GETROUTE, &message, parse_any_route)?;
        // IPv6 returns the refusing route instead of an error.
        let errno = match route.kind {
            RouteKind::Blackhole => libc::EINVAL,
            RouteKind::Prohibit => libc::EACCES,
            RouteKind::Unreachable => libc::EHOSTUNREACH,
            _ if route.device.is_none() => libc::ENETUNREACH,
            _ => 0,
        };
        let Some(device) = route.device.filter(|_| errno == 0) else {
            return Err(crate::Error::from_errno(operation.to_string(), errno));
        };
        Ok(RouteLookup { device, source: route.source, gateway: route.gateway, mtu: route.mtu, kind: route.kind })
    }
}

fn route_message(operation: Arguments<'_>, route: &Route) -> Result<RouteMessage> {
    let destination = route.destination.trunc();
    let family = Family::of(destination.addr());
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family.into();
    header.destination_prefix_length = destination.prefix_len();
    // Tables beyond 255 are in the attribute only.
    header.table = u8::try_from(route.table).unwrap_or(0);
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = RouteType::from(route.kind.number());
    if route.onlink {
        header.flags = RouteFlags::Onlink;
    }
    let list = &mut message.attributes;
    list.push(RouteAttribute::Destination(destination.addr().into()));
    list.push(RouteAttribute::Table(route.table));
    match (family, route.gateway) {
        (Family::V4, Some(IpAddr::V6(gateway))) => list.push(RouteAttribute::Via(RouteVia::Inet6(gateway))),
        (Family::V6, Some(IpAddr::V4(_))) => {
            return Err(invalid(operation, "an IPv6 destination cannot have an IPv4 gateway"));
        }
        (_, gateway) => list.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into()))),
    }
    if route.source.is_some_and(|source| Family::of(source) != family) {
        return Err(invalid(operation, "the source address is of the other family"));
    }
    list.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    list.extend(route.device.map(RouteAttribute::Oif));
    list.extend(route.metric.map(RouteAttribute::Priority));
    list.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    Ok(message)
}

/// Reads an `RTM_NEWROUTE` of a table; cached results are left out.
fn parse_route(body: &[u8]) -> Option<Route> {
    let flags = u32::from_ne_bytes(*body.get(8..HEADER)?.first_chunk()?);
    if flags & CLONED != 0 { None } else { parse_any_route(body) }
}

/// Reads an `RTM_NEWROUTE`: `struct rtmsg` (family, destination length, source length, tos, table, protocol, scope, type: u8
/// each; flags: u32), attributes.
fn parse_any_route(body: &[u8]) -> Option<Route> {
    let [family, length, _, _, table, protocol, scope, kind, f0, f1, f2, f3] = *body.first_chunk::<HEADER>()?;
    // No address at all stands for the default route.
    let anywhere: IpAddr = match Family::from_number(family)? {
        Family::V4 => [0; 4].into(),
        Family::V6 => [0; 16].into(),
    };
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut route = Route {
        kind: RouteKind::from_number(kind),
        table: u32::from(table),
        protocol,
        scope: Some(scope),
        onlink: flags & RouteFlags::Onlink.bits() != 0,
        ..Route::new(IpNet::new(anywhere, length).ok()?)
    };
    for attribute in attributes(body.get(HEADER..)?) {
        match attribute.kind {
            libc::RTA_DST => route.destination = IpNet::new(attribute.address()?, length).ok()?,
            libc::RTA_PREFSRC => route.source = attribute.address(),
            libc::RTA_PRIORITY => route.metric = attribute.u32(),
            libc::RTA_TABLE => route.table = attribute.u32()?,
            libc::RTA_METRICS => {
                let mtu = attribute.nested().find(|metric| metric.kind == RTAX_MTU);
                route.mtu = mtu.and_then(|metric| metric.u32());
            }
            libc::RTA_MULTIPATH => parse_first_hop(&attribute, &mut route),
            _ => parse_hop(&attribute, &mut route),
        }
    }
    Some(route)
}

/// Gateway and device stand in a route itself, or in each of its next hops.
fn parse_hop(attribute: &Attribute<'_>, route: &mut Route) {
    match attribute.kind {
        libc::RTA_GATEWAY => route.gateway = attribute.address(),
        // `struct rtvia`: the family in two bytes, then the address.
        libc::RTA_VIA => {
            let address = attribute.value.get(2..).and_then(|value| Attribute { kind: 0, value }.address());
            route.gateway = address;
        }
        libc::RTA_OIF => route.device = attribute.u32(),
        _ => {}
    }
}

/// Reads the first `struct rtnexthop` (length: u16, flags, hops: u8; device: i32), followed by attributes.
fn parse_first_hop(attribute: &Attribute<'_>, route: &mut Route) {
    let Some([l0, l1, _, _, i0, i1, i2, i3]) = attribute.array::<NEXT_HOP_HEADER>() else { return };
    route.device = Some(u32::from_ne_bytes([i0, i1, i2, i3]));
    let length = usize::from(u16::from_ne_bytes([l0, l1]));
    for attribute in attributes(attribute.value.get(NEXT_HOP_HEADER..length).unwrap_or_default()) {
        parse_hop(&attribute, route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_route_reads_as_it_would_be_typed() {
        let route = Route {
            gateway: Some([10, 0, 0, 1].into()),
            metric: Some(7),
            ..Route::new("10.1.0.0/16".parse().unwrap())
        };
        assert_eq!(route.to_string(), "10.1.0.0/16 via 10.0.0.1 metric 7");
        let hole = Route { kind: RouteKind::Blackhole, ..route };
        assert_eq!(hole.to_string(), "blackhole 10.1.0.0/16 via 10.0.0.1 metric 7");
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for number in 0..=255 {
            assert_eq!(RouteKind::from_number(number).number(), number);
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(mut body in proptest::collection::vec(any::<u8>(), 0..256), v6: bool) {
            parse_route(&body);
            if let Some(family) = body.first_mut() {
                *family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
            }
            parse_any_route(&body);
        }
    }
}
