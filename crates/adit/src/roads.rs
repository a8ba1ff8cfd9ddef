//! The roads that packets take into the tunnel: which table says so, and with what mark our own datagrams go around it.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZero;

use ipnet::IpNet;
use linux::netlink::{Family, Netlink, PROTOCOL, Rule, RuleAction};

use crate::config::{self, Host, Overlay, Table, Tunnel};
use crate::plan::{
    self, Desired, FIRST_PRIORITY, FullTunnel, MAIN, MOST, Owned, PRIORITY_STEP, Road, Territory, everywhere,
};
use crate::roster::{Member, Roster};
use crate::{Failure, Result};

/// The first mark and table that are tried where none is configured: those of wg-quick, which people know.
const FIRST_NUMBER: u32 = 51_820;

/// How many are tried.
const TRIES: u32 = 1000;

/// Tables that the kernel has rules for (`rt_class_t` of linux/rtnetlink.h: unspecified, default, main, local).
const RESERVED: [u32; 4] = [0, 253, MAIN, 255];

/// Chooses the road of a tunnel that takes everything, and gives its datagrams the mark. One that an earlier run chose, or this run
/// before its configuration was changed, stays as it is.
///
/// Without such a tunnel, or where routes are somebody else's affair, there is none, and the mark stays as configured.
///
/// # Errors
/// Another tunnel of ours takes everything already; there is no free number.
pub fn settle(netlink: &mut Netlink, tunnel: &mut Tunnel, owned: &Owned) -> Result<Option<Road>> {
    let families = taken(tunnel);
    if families.is_empty() {
        return Ok(None);
    }
    let rules = netlink.rules()?;
    let is_ours = |rule: &Rule| owned.roads.iter().any(|road| road.owns(rule));
    for family in &families {
        let takes_everything = |rule: &&Rule| {
            let first = rule.priority.wrapping_sub(FIRST_PRIORITY);
            rule.protocol == PROTOCOL
                && rule.family == *family
                && !is_ours(rule)
                && first < MOST * PRIORITY_STEP
                && first.is_multiple_of(PRIORITY_STEP)
        };
        if let Some(rule) = rules.iter().find(takes_everything) {
            let what = everywhere(*family);
            let whose = whose(netlink, rule).map_or(String::new(), |name| format!(", {name},"));
            return Err(Failure::failed(format!("another tunnel{whose} takes {what} already"))
                .with_remedy(format!("stop that one with `adit down`, or take {what} out of `allowed-ips`")));
        }
    }
    let configured = tunnel.transport.fwmark;
    let fits = |road: &&Road| configured.is_none_or(|mark| mark.get() == road.mark);
    let road = match owned.roads.iter().find(fits) {
        Some(road) => *road,
        None => choose(netlink, &rules, configured)?,
    };
    tunnel.transport.fwmark = NonZero::new(road.mark);
    Ok(Some(road))
}

/// The families of which the tunnel takes everything, by routes that we make.
fn taken(tunnel: &Tunnel) -> Vec<Family> {
    if tunnel.device.table != Table::Auto {
        return Vec::new();
    }
    let has = |family: &Family| tunnel.peers.iter().any(|peer| peer.allowed_ips.contains(&everywhere(*family)));
    [Family::V4, Family::V6].into_iter().filter(has).collect()
}

/// The device that a rule of another tunnel leads to.
fn whose(netlink: &mut Netlink, rule: &Rule) -> Option<String> {
    let RuleAction::Lookup(table) = rule.action else { return None };
    let routes = netlink.routes(Some(rule.family)).ok()?;
    let index = routes
        .iter()
        .filter(|r| r.table == table && r.protocol == PROTOCOL)
        .find_map(|r| r.device.filter(|_| r.kind == linux::netlink::RouteKind::Unicast))?;
    netlink.link_by_index(index).ok().flatten().map(|link| link.name)
}

/// A road that nothing on the host uses.
fn choose(netlink: &mut Netlink, rules: &[Rule], mark: Option<NonZero<u32>>) -> Result<Road> {
    let mut tables: HashSet<u32> = netlink.routes(None)?.iter().map(|route| route.table).collect();
    tables.extend(RESERVED);
    tables.extend(rules.iter().filter_map(|rule| match rule.action {
        RuleAction::Lookup(table) => Some(table),
        _ => None,
    }));
    let marks: HashSet<u32> = rules.iter().filter_map(|rule| rule.mark).map(|(mark, _)| mark).collect();
    let free = |number: &u32| !tables.contains(number) && (mark.is_some() || !marks.contains(number));
    let numbers = FIRST_NUMBER..FIRST_NUMBER + TRIES;
    // The configured mark as table too, as wg-quick has it, unless somebody uses that.
    let mut numbers = mark.map(NonZero::get).into_iter().chain(numbers).filter(free);
    let (table, stop) = (numbers.next(), numbers.next());
    let is_free = |place: &u32| {
        let mut priorities = *place..*place + PRIORITY_STEP;
        !priorities.any(|priority| rules.iter().any(|rule| rule.priority == priority))
    };
    let priority = (0..MOST).map(|slot| FIRST_PRIORITY + slot * PRIORITY_STEP).find(is_free);
    match (table.zip(stop), priority) {
        (Some((table, stop)), Some(priority)) => {
            Ok(Road { mark: mark.map_or(table, NonZero::get), table, stop, priority })
        }
        (None, _) => {
            Err(Failure::failed("no routing table is free for a tunnel that takes everything").with_remedy(format!(
                "free one of the tables {FIRST_NUMBER} to {}, or choose a `fwmark` under [transport]",
                FIRST_NUMBER + TRIES - 1
            )))
        }
        (_, None) => Err(Failure::failed("no place is free among the rules for a tunnel that takes everything")
            .with_remedy(format!(
                "free priorities {FIRST_PRIORITY} to {}: `ip rule` shows them",
                FIRST_PRIORITY + MOST * PRIORITY_STEP - 1
            ))),
    }
}

/// What the host should look like: `mtu` is that of the device, `road` what [`settle`] chose, `port` where our datagrams arrive.
pub fn desired(tunnel: &Tunnel, mtu: u32, road: Option<Road>, port: u16) -> Desired {
    let table = |length| match (tunnel.device.table, road) {
        (Table::Off, _) => None,
        (Table::Number(number), _) => Some(number.get()),
        (Table::Auto, _) if length > 0 => Some(MAIN),
        (Table::Auto, road) => road.map(|road| road.table),
    };
    let territory = tunnel.overlay.as_ref().map(|overlay| territory(overlay, &tunnel.peers));
    let mut addresses: Vec<IpNet> = territory.iter().flat_map(Territory::addresses).collect();
    addresses.extend(
        tunnel.device.addresses.iter().filter(|address| !addresses.contains(address)).copied().collect::<Vec<_>>(),
    );
    let peers = tunnel.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    let bridge = tunnel.ethernet.as_ref().and_then(|ethernet| ethernet.bridge.clone()).map(|name| {
        let mac = plan::link_address(&tunnel.link_owner(), &name);
        plan::Bridge { name, addresses: std::mem::take(&mut addresses), mac }
    });
    Desired {
        mtu,
        addresses,
        prefixes: plan::prefixes(territory.as_ref(), peers, table),
        full: road.map(|road| FullTunnel { road, device: tunnel.device.name.clone(), port }),
        device: tunnel.device.name.clone(),
        territory,
        bridge,
        frames: tunnel.ethernet.is_some(),
    }
}

/// What of a lease is the host's matter.
pub fn territory(overlay: &Overlay, peers: &[config::Peer]) -> Territory {
    let Overlay { networks, subnets, masquerade, forward, .. } = overlay;
    let all = peers.iter().flat_map(|peer| &peer.allowed_ips);
    let is_client = |net: &&IpNet| {
        net.prefix_len() == net.max_prefix_len() && subnets.iter().any(|subnet| subnet.contains(&net.addr()))
    };
    Territory {
        networks: networks.clone(),
        subnets: subnets.clone(),
        masquerade: *masquerade,
        forward: *forward,
        clients: all.filter(is_client).map(IpNet::addr).collect(),
    }
}

/// What the names of endpoints came to, to be remembered.
pub fn addresses(roster: &Roster) -> BTreeMap<String, SocketAddr> {
    let named = roster.members().filter_map(|member| Some((member.peer.endpoint.as_ref()?, member.configured?)));
    let named = named.filter(|(endpoint, _)| matches!(endpoint.host, Host::Name(_)));
    named.map(|(endpoint, address)| (endpoint.to_string(), address)).collect()
}

/// Checks that somebody is known to whom everything can go. Whoever resolves names may be behind the tunnel, and then it would never be
/// known.
///
/// # Errors
/// The name of a peer that takes everything was not resolved.
pub fn check_names(roster: &Roster) -> Result<()> {
    let takes_all = |member: &&Member| member.peer.allowed_ips.iter().any(|net| net.prefix_len() == 0);
    let mut unknown = roster.members().filter(takes_all).filter(|member| member.configured.is_none());
    match unknown.find_map(|member| Some((member, member.peer.endpoint.as_ref()?))) {
        None => Ok(()),
        Some((member, endpoint)) => Err(Failure::failed(format!(
            "the endpoint {endpoint} of peer {} does not resolve, and nobody can be asked for it once everything goes there",
            member.peer.name
        ))
        .with_remedy("check the name and the network, or write an address")),
    }
}

/// Says what a person may not expect: packets of the other family go where they went before.
pub fn warn(netlink: &mut Netlink, tunnel: &Tunnel) {
    let families = taken(tunnel);
    for other in
        [Family::V4, Family::V6].into_iter().filter(|family| !families.is_empty() && !families.contains(family))
    {
        let has_way_out = |routes: Vec<linux::netlink::Route>| {
            routes.iter().any(|route| route.table == MAIN && route.destination == everywhere(other))
        };
        if netlink.routes(Some(other)).is_ok_and(has_way_out) {
            let (name, all) = match other {
                Family::V4 => ("IPv4", "0.0.0.0/0"),
                Family::V6 => ("IPv6", "::/0"),
            };
            tracing::warn!(
                "{name} leaves this host around the tunnel, which takes everything of the other family: to have it inside \
                 too, add \"{all}\" to `allowed-ips` and an {name} address to the device"
            );
        }
    }
}
