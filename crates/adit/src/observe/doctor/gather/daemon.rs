//! One daemon, and what of the host concerns it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::num::NonZero;
use std::time::Duration;

use ipnet::IpNet;
use linux::netlink::{Netlink, PROTOCOL, Route, RouteKind, RouteLookup};
use linux::netns::NetNs;
use linux::ping::Pinger;
use linux::privilege::{self, Capability};

use crate::api::status::NetworkStatus;
use crate::api::{self, CallError, EXAMINATION, Examination, Request, Response, Status};
use crate::container::{Node, Record, Stage, Store};
use crate::observe::containers;
use crate::observe::doctor::facts::{Answer, Container, Daemon, Ping, Seen, State, endpoint};
use crate::plan::MAIN;
use crate::{Directories, unit};

/// As many ways are looked up.
const MOST: usize = 1024;

/// As many parts of a peer's prefix that other tables have a route to.
const MOST_PARTS: usize = 64;

/// As many URLs of the registry are called, and each so long.
const MOST_URLS: usize = 8;
const CALL: Duration = Duration::from_secs(2);

/// How long an answer to a ping is waited for, and how often one is sent.
const PING: Duration = Duration::from_secs(1);
const TRIES: u32 = 2;

/// Looks at the daemon of a device; nothing if there is none.
pub(super) fn look(netlink: &mut Netlink, directories: &Directories, device: &str) -> Option<Daemon> {
    let state = match api::status(&directories.runtime, device) {
        Ok(status) => State::Up(Box::new(status)),
        Err(CallError::Absent(_)) => return None,
        Err(CallError::Dead(_)) => State::Dead,
        Err(error @ (CallError::Denied(_) | CallError::Broken(..))) => State::Silent(error.to_string()),
    };
    let mut daemon = Daemon { device: device.to_owned(), state, ..Daemon::default() };
    let has_units = unit::is_booted() && *directories == Directories::default();
    daemon.unit = unit::of_device(device).filter(|_| has_units);
    let State::Up(status) = &mut daemon.state else { return Some(daemon) };
    daemon.examination = examine(directories, device);
    if let Ok(examination) = &daemon.examination {
        daemon.unit = unit::of_file(&examination.source).filter(|_| has_units);
    }
    // What was asked of the peers may have brought sessions up, or ended some.
    if let Ok(later) = api::status(&directories.runtime, device) {
        **status = later;
    }
    let mark = daemon.examination.as_ref().ok().and_then(|examination| NonZero::new(examination.mark?));
    daemon.ways = ways(netlink, status, mark);
    daemon.behind = behind(netlink, status);
    daemon.capabilities = capabilities(status.pid);
    daemon.lost_datagrams = lost_datagrams(status.transport.listen.port());
    if let Some(network) = &status.network {
        daemon.bridge = Node::read(directories, device).ok().map(|node| node.bridge);
        daemon.registries = registries(network);
        let (records, _) = Store::of(directories, device).read_each().unwrap_or_default();
        let made = records.iter().filter(|record| record.stage == Stage::Made);
        daemon.containers =
            made.map(|record| Container { shown: containers::status(record), mac: record.mac }).collect();
        daemon.ping = records.iter().find_map(|record| ping(record, status, network));
    }
    Some(daemon)
}

fn examine(directories: &Directories, device: &str) -> Seen<Examination> {
    let path = api::control_socket(&directories.runtime, device);
    match api::call_within(&path, Request::Examine, EXAMINATION) {
        Ok(Response::Examined(examination)) => Ok(*examination),
        Ok(Response::Error { sentence } | Response::Fault { sentence }) => Err(sentence),
        Ok(_) => Err("it answered something else".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn ways(netlink: &mut Netlink, status: &Status, mark: Option<NonZero<u32>>) -> BTreeMap<IpAddr, Option<RouteLookup>> {
    let mut ways = BTreeMap::new();
    for at in status.peers.iter().filter_map(endpoint).take(MOST) {
        ways.entry(at.ip()).or_insert_with(|| netlink.route_with_mark(at.ip(), mark).ok());
    }
    ways
}

fn behind(netlink: &mut Netlink, status: &Status) -> BTreeMap<IpNet, Vec<Answer>> {
    // The local table has only what the kernel put there.
    let others: Vec<IpNet> = netlink.routes(None).unwrap_or_default().into_iter().filter_map(by_policy).collect();
    let own = status.network.as_ref().map_or(&[][..], |network| &network.subnets);
    let mut behind = BTreeMap::new();
    let prefixes = status.peers.iter().flat_map(|peer| &peer.allowed_ips).filter(|net| net.prefix_len() > 0);
    for net in prefixes.take(MOST) {
        let parts = others.iter().filter(|part| net.contains(*part) && net != *part).take(MOST_PARTS);
        let answers = std::iter::once(net).chain(parts).filter_map(|part| answer(netlink, part, own));
        behind.insert(*net, answers.collect());
    }
    behind
}

/// Where a route leads that is not judged by itself: one of another table than the main one, or one that refuses.
fn by_policy(route: Route) -> Option<IpNet> {
    let refuses = matches!(route.kind, RouteKind::Blackhole | RouteKind::Prohibit | RouteKind::Unreachable);
    let is_other = match route.table {
        MAIN => refuses && route.protocol != PROTOCOL,
        table => table != u32::from(libc::RT_TABLE_LOCAL),
    };
    (is_other && route.destination.prefix_len() > 0).then_some(route.destination)
}

/// How a packet to a host of a network would go; to none that is this host, or in its own subnets.
fn answer(netlink: &mut Netlink, net: &IpNet, own: &[IpNet]) -> Option<Answer> {
    let hosts = hosts(net).into_iter().filter(|to| !own.iter().any(|own| own.contains(to)));
    let answers = hosts.map(|to| Answer { to, way: netlink.route_to(to).map_err(|e| e.errno().unwrap_or(0)) });
    answers.into_iter().find(|answer| answer.way.is_ok_and(|way| way.kind == RouteKind::Unicast) || answer.way.is_err())
}

/// Hosts of a network: the first two, and the last but one.
fn hosts(net: &IpNet) -> Vec<IpAddr> {
    let last = match net.max_prefix_len() - net.prefix_len() {
        0 => return vec![net.addr()],
        1 => return vec![net.network(), net.broadcast()],
        _ => net.broadcast(),
    };
    let step = |from: IpAddr, by: i8| match from {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add_signed(by.into())).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add_signed(by.into())).into(),
    };
    vec![step(net.network(), 1), step(net.network(), 2), step(last, -1)]
}

/// Pings another node from within a container, where one may enter it, and there is a node to ask: each node's device has the first address of its
/// subnet.
fn ping(record: &Record, status: &Status, network: &NetworkStatus) -> Option<Ping> {
    if record.stage != Stage::Made || !privilege::has_capability(Capability::SysAdmin) {
        return None;
    }
    let is_up = |name: &str| status.peers.iter().any(|peer| peer.name == name && peer.session == "up");
    let nodes = network.nodes.iter().filter(|node| is_up(&node.name));
    let (node, to) =
        nodes.flat_map(|node| node.subnets.iter().map(move |net| (node, net))).find_map(|(node, net)| {
            let IpAddr::V4(first) = net.network() else { return None };
            Some((node, first))
        })?;
    // One that has no IPv4 address asks nobody.
    record.addresses.iter().find(|net| net.addr().is_ipv4())?;
    let namespace = NetNs::open(record.netns.as_deref()?).ok()?;
    let ask = || {
        let mut pinger = Pinger::open(to, std::process::id() as u16)?;
        for _ in 0..TRIES {
            if pinger.round_trip(PING)?.is_some() {
                return Ok::<_, linux::Error>(true);
            }
        }
        Ok(false)
    };
    let answered = namespace.run(ask).ok()?.ok()?;
    Some(Ping { from: record.title(), node: node.name.clone(), to: to.into(), answered })
}

/// The effective capabilities of a process, if it is one of ours: its number may be one of another namespace.
fn capabilities(pid: u32) -> Option<u64> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok().filter(|_| name.trim() == "adit")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Datagrams that sockets on this port have lost for want of room (proc_net_udp: the last column).
fn lost_datagrams(port: u16) -> Option<u64> {
    let mut lost = None;
    for file in ["udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        for drops in text.lines().skip(1).filter_map(|line| drops_of(line, port)) {
            lost = Some(lost.unwrap_or(0) + drops);
        }
    }
    lost
}

fn drops_of(line: &str, port: u16) -> Option<u64> {
    let mut words = line.split_whitespace();
    let (_, local) = words.nth(1)?.rsplit_once(':')?;
    (u16::from_str_radix(local, 16) == Ok(port)).then(|| words.last()?.parse().ok())?
}

/// Of each URL of a registry that is not in the daemon itself, why nobody answers.
fn registries(network: &NetworkStatus) -> BTreeMap<String, Option<String>> {
    let urls = network.registry.iter().filter(|_| !network.embedded).take(MOST_URLS);
    urls.map(|url| (url.clone(), call(url))).collect()
}

fn call(url: &str) -> Option<String> {
    let place = url.split_once("://").map_or(url, |(_, rest)| rest);
    let place = place.split('/').next().unwrap_or(place);
    let addresses = match place.to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(e) => return Some(format!("{place} is no address: {e}")),
    };
    let mut why = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CALL) {
            Ok(_) => return None,
            Err(e) => why = Some(e.to_string()),
        }
    }
    why.or(Some("it has no address".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_port() {
        let line =
            "  412: 00000000:1E61 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0000 17";
        assert_eq!((drops_of(line, 7777), drops_of(line, 7778), drops_of("", 1)), (Some(17), None, None));
    }

    #[test]
    fn nobody_at_a_url_is_told_with_the_cause() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(call(&format!("https://{at}/v3")), None);
        drop(listener);
        assert!(call(&format!("https://{at}")).unwrap().contains("refused"));
        assert!(call("https://").is_some());
    }

    #[test]
    fn a_network_is_tried_by_its_hosts() {
        for (net, expected) in [
            ("10.1.0.0/16", &["10.1.0.1", "10.1.0.2", "10.1.255.254"][..]),
            ("10.1.0.4/31", &["10.1.0.4", "10.1.0.5"]),
            ("10.1.0.7/32", &["10.1.0.7"]),
            ("fd00::/112", &["fd00::1", "fd00::2", "fd00::fffe"]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(hosts(&net.parse().unwrap()), expected, "{net}");
        }
    }
}
