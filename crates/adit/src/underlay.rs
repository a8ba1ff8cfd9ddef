//! The network that carries the datagrams: where peers are, and how large a packet the way to each takes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use linux::netlink::Netlink;
use linux::udp::SendQueue;

use crate::config::{Mtu, Peer, TransportKind, Tunnel};
use crate::{Failure, Result};

/// IP and UDP header in bytes.
const IPV4_UDP: usize = 20 + 8;
const IPV6_UDP: usize = 40 + 8;

/// What a path is taken for while there is no route to the peer.
const ETHERNET: usize = 1500;

/// The smallest path MTU that is believed, IP header included: what Linux itself believes of IPv4 (net.ipv4.route.min_pmtu), and
/// what every IPv6 link takes (RFC 8200, section 5). A forged "fragmentation needed" cannot press below.
const IPV4_FLOOR: usize = 552;
const IPV6_FLOOR: usize = 1280;

/// Bytes that a transport adds to a packet on the way to `endpoint`, outer IP header included.
pub fn overhead(transport: TransportKind, endpoint: IpAddr) -> usize {
    let headers = if endpoint.is_ipv4() { IPV4_UDP } else { IPV6_UDP };
    match transport {
        TransportKind::Plain => headers,
    }
}

/// The endpoint of each peer, names resolved, in the order of the configuration: the first address that a socket on `listen` can
/// send to.
///
/// # Errors
/// A name that does not resolve to such an address, or to that of another peer.
pub fn resolve(peers: &[Peer], listen: SocketAddr) -> Result<Vec<SocketAddr>> {
    let mut endpoints: Vec<SocketAddr> = Vec::with_capacity(peers.len());
    for peer in peers {
        let endpoint = resolve_one(peer, listen)?;
        if let Some(other) = endpoints.iter().zip(peers).find(|(e, _)| **e == endpoint).map(|(_, other)| &other.name) {
            return Err(Failure::failed(format!(
                "the peers {other} and {} have the same endpoint {endpoint}: their datagrams could not be told apart",
                peer.name
            )));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn resolve_one(peer: &Peer, listen: SocketAddr) -> Result<SocketAddr> {
    let name = &peer.name;
    let Some(endpoint) = &peer.endpoint else {
        return Err(Failure::usage(format!("peer {name} has no `endpoint`; a plain peer needs one")));
    };
    let addresses = endpoint.resolve().map_err(|e| {
        Failure::failed(format!("the endpoint {endpoint} of peer {name} does not resolve: {e}"))
            .with_remedy("check the name, or write an address")
    })?;
    let both = listen.ip() == Ipv6Addr::UNSPECIFIED;
    let usable = |a: &&SocketAddr| {
        let ip = a.ip();
        (both || ip.is_ipv4() == listen.is_ipv4()) && !ip.is_unspecified() && !ip.is_multicast() && **a != listen
    };
    match addresses.iter().find(usable) {
        Some(address) => Ok(*address),
        None => Err(Failure::failed(format!(
            "the endpoint {endpoint} of peer {name} has no address that a socket on {listen} can send to"
        ))
        .with_remedy(format!(
            "write `listen = \"[::]:{}\"` under [transport], or an address as endpoint",
            listen.port()
        ))),
    }
}

/// Checks, once our routes stand, that no peer's datagrams would go into the tunnel instead of out to the peer.
///
/// # Errors
/// The first endpoint that lies behind the device.
pub fn check_no_loop(netlink: &mut Netlink, tunnel: &Tunnel, endpoints: &[SocketAddr]) -> Result<()> {
    let device = netlink.existing_link(&tunnel.device.name)?.index;
    for (peer, endpoint) in tunnel.peers.iter().zip(endpoints) {
        if netlink.route_to(endpoint.ip()).is_ok_and(|route| route.device == device) {
            return Err(Failure::failed(format!(
                "the way to the endpoint {endpoint} of peer {} leads into the tunnel itself",
                peer.name
            ))
            .with_remedy("take the address out of `allowed-ips`, or add a route to it outside of the tunnel"));
        }
    }
    Ok(())
}

/// What is asked about the ways to the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// What routes and cards were configured to.
    Configured,
    /// What path-MTU messages taught the kernel on top of that; anybody can send those.
    Learned,
}

/// The longest inner packet in bytes that fits the way to each peer.
pub fn path_mtus(netlink: &mut Netlink, tunnel: &Tunnel, endpoints: &[SocketAddr], knowledge: Knowledge) -> Vec<usize> {
    let path = |(peer, endpoint): (&Peer, &SocketAddr)| {
        let ip = endpoint.ip();
        let floor = if ip.is_ipv4() { IPV4_FLOOR } else { IPV6_FLOOR };
        let path = underlay_mtu(netlink, ip, knowledge).unwrap_or(ETHERNET).max(floor);
        (path - overhead(peer.transport, ip)).min(SendQueue::MAX_DATAGRAM)
    };
    tunnel.peers.iter().zip(endpoints).map(path).collect()
}

/// The MTU of the route to `ip`, or of its device. `None` without a route.
fn underlay_mtu(netlink: &mut Netlink, ip: IpAddr, knowledge: Knowledge) -> Option<usize> {
    let route = match knowledge {
        Knowledge::Configured => netlink.configured_route_to(ip),
        Knowledge::Learned => netlink.route_to(ip),
    };
    let route = route.inspect_err(|e| tracing::debug!("{e}")).ok()?;
    let mtu = match route.mtu {
        Some(mtu) => mtu,
        None => netlink.link_by_index(route.device).ok()??.mtu,
    };
    usize::try_from(mtu).ok()
}

/// The MTU of the device: as configured, or the smallest over the [configured](Knowledge::Configured) paths to the peers. Where a
/// path is narrower than that, its senders are told by ICMP.
pub fn device_mtu(tunnel: &Tunnel, paths: &[usize]) -> u32 {
    let mtu = match tunnel.device.mtu {
        Mtu::Fixed(mtu) => usize::from(mtu),
        Mtu::Auto => paths.iter().copied().min().unwrap_or(ETHERNET - IPV6_UDP).max(least_mtu(tunnel)),
    };
    u32::try_from(mtu).unwrap_or(u32::MAX)
}

/// The least that a device must take: IPv6 does not work below 1280 bytes.
fn least_mtu(tunnel: &Tunnel) -> usize {
    if carries_ipv6(tunnel) { IPV6_FLOOR } else { IPV4_FLOOR - IPV4_UDP }
}

fn carries_ipv6(tunnel: &Tunnel) -> bool {
    let prefixes = tunnel.peers.iter().flat_map(|p| &p.allowed_ips);
    tunnel.device.addresses.iter().chain(prefixes).any(|net| net.addr().is_ipv6())
}

/// Checks, before anything is set up, that the underlay leaves enough for a packet.
///
/// # Errors
/// It does not.
pub fn check_mtu(tunnel: &Tunnel, paths: &[usize]) -> Result<()> {
    let (least, mtu) = (least_mtu(tunnel), paths.iter().copied().min().unwrap_or(usize::MAX));
    if mtu < least && tunnel.device.mtu == Mtu::Auto {
        let family = if carries_ipv6(tunnel) { "IPv6" } else { "IPv4" };
        return Err(Failure::failed(format!(
            "the way to a peer leaves {mtu} bytes for a packet, and {family} needs {least}"
        ))
        .with_remedy("raise the MTU of the network that carries the tunnel"));
    }
    Ok(())
}
