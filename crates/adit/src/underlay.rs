//! The network that carries the datagrams: where peers are, and how large a packet the way to each takes.

use std::net::{IpAddr, SocketAddr};

use linux::netlink::Netlink;
use linux::udp::SendQueue;

use crate::config::{Mtu, Peer, TransportKind, Tunnel};
use crate::{Failure, Result};

/// IP and UDP header in bytes.
const IPV4_UDP: usize = 20 + 8;
const IPV6_UDP: usize = 40 + 8;

/// What a path is taken for while there is no route to the peer.
const ETHERNET: usize = 1500;

/// The smallest path MTU that is believed, IP header included: what every IPv4 host must take (RFC 791), and every IPv6 link
/// (RFC 8200, section 5). A forged "fragmentation needed" cannot press below.
const IPV4_FLOOR: usize = 576;
const IPV6_FLOOR: usize = 1280;

/// Bytes that a transport adds to a packet on the way to `endpoint`, outer IP header included.
pub fn overhead(transport: TransportKind, endpoint: IpAddr) -> usize {
    let headers = if endpoint.is_ipv4() { IPV4_UDP } else { IPV6_UDP };
    match transport {
        TransportKind::Plain => headers,
    }
}

/// The endpoint of each peer, names resolved, in the order of the configuration.
///
/// # Errors
/// A name that does not resolve.
pub fn resolve(peers: &[Peer]) -> Result<Vec<SocketAddr>> {
    peers.iter().map(resolve_one).collect()
}

fn resolve_one(peer: &Peer) -> Result<SocketAddr> {
    let name = &peer.name;
    let Some(endpoint) = &peer.endpoint else {
        return Err(Failure::usage(format!("peer {name} has no `endpoint`; a plain peer needs one")));
    };
    let addresses = endpoint.resolve().map_err(|e| {
        Failure::failed(format!("the endpoint {endpoint} of peer {name} does not resolve: {e}"))
            .with_remedy("check the name, or write an address")
    })?;
    let Some(address) = addresses.first() else {
        return Err(Failure::failed(format!("the endpoint {endpoint} of peer {name} has no address")));
    };
    Ok(*address)
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

/// The longest inner packet in bytes that fits the way to each peer.
pub fn path_mtus(netlink: &mut Netlink, tunnel: &Tunnel, endpoints: &[SocketAddr]) -> Vec<usize> {
    let path = |(peer, endpoint): (&Peer, &SocketAddr)| {
        let ip = endpoint.ip();
        let floor = if ip.is_ipv4() { IPV4_FLOOR } else { IPV6_FLOOR };
        let path = underlay_mtu(netlink, ip).unwrap_or(ETHERNET).max(floor);
        (path - overhead(peer.transport, ip)).min(SendQueue::MAX_DATAGRAM)
    };
    tunnel.peers.iter().zip(endpoints).map(path).collect()
}

/// The MTU of the route to `ip`: what a path-MTU message has left there, or its device's. `None` without a route.
fn underlay_mtu(netlink: &mut Netlink, ip: IpAddr) -> Option<usize> {
    let route = netlink.route_to(ip).inspect_err(|e| tracing::debug!("{e}")).ok()?;
    let mtu = match route.mtu {
        Some(mtu) => mtu,
        None => netlink.link_by_index(route.device).ok()??.mtu,
    };
    usize::try_from(mtu).ok()
}

/// The MTU of the device: as configured, or the smallest over the peers.
///
/// # Errors
/// The underlay leaves too little.
pub fn device_mtu(tunnel: &Tunnel, paths: &[usize]) -> Result<u32> {
    let six = tunnel.device.addresses.iter().any(|a| a.addr().is_ipv6());
    let least = if six { IPV6_FLOOR } else { IPV4_FLOOR - IPV4_UDP };
    let mtu = match tunnel.device.mtu {
        Mtu::Fixed(mtu) => usize::from(mtu),
        Mtu::Auto => paths.iter().copied().min().unwrap_or(ETHERNET - IPV6_UDP),
    };
    if mtu < least {
        let family = if six { "IPv6" } else { "IPv4" };
        return Err(Failure::failed(format!(
            "the way to a peer leaves {mtu} bytes for a packet, and {family} needs {least}"
        ))
        .with_remedy("raise the MTU of the network that carries the tunnel"));
    }
    Ok(u32::try_from(mtu).unwrap_or(u32::MAX))
}
