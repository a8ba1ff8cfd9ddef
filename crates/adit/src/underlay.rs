//! The network that carries the datagrams: where peers are, and how large a packet the way to each takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;

use linux::netlink::{Netlink, RouteKind};
use linux::udp::{LocalAddress, SendQueue};

use crate::config::{Mtu, Peer, TransportKind, Tunnel};
use crate::worker::Link;
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

/// What an encrypted transport adds: 16 bytes of header before the packet and a tag of 16 after it, in both.
const SEALING: usize = 16 + 16;

/// Bytes that a transport adds to a packet within a datagram.
pub fn sealing(transport: TransportKind) -> usize {
    if transport.is_secure() { SEALING } else { 0 }
}

/// Bytes that a transport adds to a packet on the way to `endpoint`, outer IP header included.
pub fn overhead(transport: TransportKind, endpoint: IpAddr) -> usize {
    let headers = if endpoint.is_ipv4() { IPV4_UDP } else { IPV6_UDP };
    headers + sealing(transport)
}

/// The endpoint of each peer, names resolved, in the order of the configuration: the first address that a socket on `listen` can
/// send to, or `None` for a peer that is to call us.
///
/// # Errors
/// A name that does not resolve to such an address; a plain peer at that of another one.
pub fn resolve(peers: &[Peer], listen: SocketAddr) -> Result<Vec<Option<SocketAddr>>> {
    let mut endpoints: Vec<Option<SocketAddr>> = Vec::with_capacity(peers.len());
    for peer in peers {
        let endpoint = resolve_one(peer, listen)?;
        if let Some(address) = endpoint
            && let Some((_, other)) = endpoints.iter().zip(peers).find(|(known, _)| **known == endpoint)
        {
            let same = format!("the peers {} and {} have the same endpoint {address}", other.name, peer.name);
            if !peer.transport.is_secure() && !other.transport.is_secure() {
                return Err(Failure::failed(format!("{same}: their datagrams could not be told apart")));
            }
            // Two names may come to the same address for a while, and an encrypted peer is known by its key.
            tracing::warn!("{same}, though one socket is one peer as a rule");
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// The endpoint of one peer: see [`resolve`]. Blocks while a name is resolved.
///
/// # Errors
/// A name that does not resolve to an address that a socket on `listen` can send to; a plain peer without endpoint.
pub fn resolve_one(peer: &Peer, listen: SocketAddr) -> Result<Option<SocketAddr>> {
    let name = &peer.name;
    let endpoint = match &peer.endpoint {
        Some(endpoint) => endpoint,
        None if peer.transport.is_secure() => return Ok(None),
        None => return Err(Failure::usage(format!("peer {name} has no `endpoint`; a plain peer needs one"))),
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
        Some(address) => Ok(Some(*address)),
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
pub fn check_no_loop(netlink: &mut Netlink, tunnel: &Tunnel, endpoints: &[Option<SocketAddr>]) -> Result<()> {
    let device = netlink.existing_link(&tunnel.device.name)?.index;
    for (peer, endpoint) in tunnel.peers.iter().zip(endpoints) {
        let Some(endpoint) = endpoint else { continue };
        if netlink.route_with_mark(endpoint.ip(), tunnel.transport.fwmark).is_ok_and(|route| route.device == device) {
            return Err(Failure::failed(format!(
                "the way to the endpoint {endpoint} of peer {} leads into the tunnel itself",
                peer.name
            ))
            .with_remedy("take the address out of `allowed-ips`, or add a route to it outside of the tunnel"));
        }
    }
    Ok(())
}

/// Lets go of our own address towards each peer whose datagrams leave by another card now than they came by: the routes choose
/// anew. Kept, it would be the address of a network that is left behind, and so would it be if it was taken again for datagrams that
/// the peer still sends there.
pub fn forget_other_cards(
    netlink: &mut Netlink,
    tunnel: &Tunnel,
    endpoints: &[Option<SocketAddr>],
    links: &[Arc<Link>],
) {
    for (endpoint, link) in endpoints.iter().zip(links) {
        let Some(endpoint) = endpoint else { continue };
        let mut leaves_elsewhere = |local: &LocalAddress| {
            let route = netlink.route_from(local.ip, endpoint.ip(), tunnel.transport.fwmark);
            // Towards this host itself it is the loopback device, whatever the address.
            route.is_ok_and(|route| route.kind == RouteKind::Unicast && route.device != local.device)
        };
        if link.elsewhere.load_full().is_some_and(|local| !leaves_elsewhere(&local)) {
            link.elsewhere.store(None);
        }
        if let Some(local) = link.local.load_full().filter(|local| leaves_elsewhere(local)) {
            link.elsewhere.store(Some(local));
            link.local.store(None);
        }
    }
}

/// What is asked about the ways to the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// What routes and cards were configured to.
    Configured,
    /// What path-MTU messages taught the kernel on top of that; anybody can send those.
    Learned,
}

/// The longest inner packet in bytes that fits the way to each peer. Of one whose endpoint is not known yet the worst is assumed:
/// Ethernet, and IPv6 if we can send that.
pub fn path_mtus(
    netlink: &mut Netlink,
    tunnel: &Tunnel,
    endpoints: &[Option<SocketAddr>],
    knowledge: Knowledge,
) -> Vec<usize> {
    // The device is to suit a way by IPv6 as well, but a datagram by IPv4 is not shorter for that.
    let suits_both = knowledge == Knowledge::Configured && tunnel.device.mtu == Mtu::AsWireGuard;
    let path = |(peer, endpoint): (&Peer, &Option<SocketAddr>)| match endpoint {
        Some(endpoint) => {
            let ip = endpoint.ip();
            let fits = inner_mtu(peer.transport, ip, underlay_mtu(netlink, ip, tunnel.transport.fwmark, knowledge));
            if suits_both && ip.is_ipv4() { fits.saturating_sub(IPV6_UDP - IPV4_UDP) } else { fits }
        }
        None => inner_mtu(peer.transport, unspecified(tunnel.transport.listen), None),
    };
    tunnel.peers.iter().zip(endpoints).map(path).collect()
}

/// The family of a peer that may call from anywhere, as an address.
fn unspecified(listen: SocketAddr) -> IpAddr {
    if listen.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The longest inner packet in bytes that fits a way to `endpoint` whose own MTU is `path`; `None` if there is no way now.
fn inner_mtu(transport: TransportKind, endpoint: IpAddr, path: Option<usize>) -> usize {
    let floor = if endpoint.is_ipv4() { IPV4_FLOOR } else { IPV6_FLOOR };
    let fits = path.unwrap_or(ETHERNET).max(floor) - overhead(transport, endpoint);
    fits.min(SendQueue::MAX_DATAGRAM - sealing(transport))
}

/// The MTU of the route that our datagrams take to `ip`, or of its device. `None` without a route.
fn underlay_mtu(netlink: &mut Netlink, ip: IpAddr, mark: Option<NonZero<u32>>, knowledge: Knowledge) -> Option<usize> {
    let route = match knowledge {
        Knowledge::Configured => netlink.configured_route_to(ip, mark),
        Knowledge::Learned => netlink.route_with_mark(ip, mark),
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
        Mtu::Auto | Mtu::AsWireGuard => {
            paths.iter().copied().min().unwrap_or(ETHERNET - IPV6_UDP - SEALING).max(least_mtu(tunnel))
        }
    };
    u32::try_from(mtu).unwrap_or(u32::MAX)
}

/// The least that a device must take: IPv6 does not work below 1280 bytes, and less than the narrowest way leaves is never needed.
fn least_mtu(tunnel: &Tunnel) -> usize {
    let added = tunnel.peers.iter().map(|peer| sealing(peer.transport)).max().unwrap_or(0);
    if carries_ipv6(tunnel) { IPV6_FLOOR } else { IPV4_FLOOR - IPV4_UDP - added }
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
    if mtu < least && !matches!(tunnel.device.mtu, Mtu::Fixed(_)) {
        let family = if carries_ipv6(tunnel) { "IPv6" } else { "IPv4" };
        return Err(Failure::failed(format!(
            "the way to a peer leaves {mtu} bytes for a packet, and {family} needs {least}"
        ))
        .with_remedy("raise the MTU of the network that carries the tunnel"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_packet_costs_on_the_way() {
        let (four, six) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        for (transport, over_four, over_six) in
            [(TransportKind::Plain, 28, 48), (TransportKind::Sealed, 60, 80), (TransportKind::WireGuard, 60, 80)]
        {
            assert_eq!((overhead(transport, four), overhead(transport, six)), (over_four, over_six), "{transport}");
        }
    }

    #[test]
    fn a_packet_fits_its_way() {
        let (four, six) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        use TransportKind::{Plain, Sealed};
        for (transport, endpoint, path, inner) in [
            (Plain, four, Some(1500), 1472),
            (Sealed, four, Some(1500), 1440),
            (Sealed, six, Some(1500), 1420),
            (Sealed, six, None, 1420),
            (Sealed, six, Some(1280), 1200),
            // What nobody may press it below.
            (Sealed, four, Some(68), 492),
            (Sealed, six, Some(68), 1200),
            // Loopback, where the datagram is the limit.
            (Plain, four, Some(65_536), SendQueue::MAX_DATAGRAM),
            (Sealed, four, Some(65_536), SendQueue::MAX_DATAGRAM - 32),
        ] {
            assert_eq!(inner_mtu(transport, endpoint, path), inner, "{transport} to {endpoint} by {path:?}");
        }
    }

    #[test]
    fn who_may_call_from_anywhere_may_call_by_ipv6() {
        assert!(unspecified("[::]:7777".parse().unwrap()).is_ipv6());
        assert!(unspecified("0.0.0.0:7777".parse().unwrap()).is_ipv4());
    }

    #[test]
    fn an_encrypted_peer_may_be_found_by_its_key_alone() {
        let peer = |name: &str, transport, endpoint: Option<&str>| Peer {
            name: name.into(),
            public_key: None,
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            allowed_ips: Vec::new(),
            transport,
            preshared_key: None,
            keepalive: None,
        };
        let listen = "[::]:7777".parse().unwrap();
        let there = Some("192.0.2.2:7777");
        let sealed = [peer("a", TransportKind::Sealed, None), peer("b", TransportKind::Sealed, there)];
        assert_eq!(resolve(&sealed, listen).unwrap(), [None, there.map(|text| text.parse().unwrap())]);
        let mixed = [peer("a", TransportKind::Sealed, there), peer("b", TransportKind::Plain, there)];
        assert_eq!(resolve(&mixed, listen).unwrap().len(), 2);
        let plain = [peer("a", TransportKind::Plain, there), peer("b", TransportKind::Plain, there)];
        assert!(resolve(&plain, listen).unwrap_err().to_string().contains("told apart"));
        assert!(resolve(&[peer("a", TransportKind::Plain, None)], listen).is_err());
    }
}
