//! The network that carries the datagrams: where peers are, and how large a packet the way to each takes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;

use linux::netlink::{Netlink, RouteKind, RouteLookup};
use linux::udp::{LocalAddress, SendQueue};
use wire::ethernet::HEADER_LEN;

use crate::config::{Endpoint, Mtu, Origin, Peer, Transport, TransportKind, Tunnel};
use crate::roster::{Member, Width};
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

/// Addresses of names.
pub type Resolved = HashMap<Endpoint, SocketAddr>;

/// The addresses of plain peers, which cannot be without, by what the configuration says. Blocks while names are resolved.
///
/// # Errors
/// A name that does not resolve to an address that a socket on `listen` can send to; a plain peer without endpoint.
pub fn resolve_plain(peers: &[Peer], listen: SocketAddr) -> Result<Resolved> {
    let mut resolved = Resolved::new();
    for peer in peers.iter().filter(|peer| !peer.transport.is_secure()) {
        let name = &peer.name;
        let Some(endpoint) = &peer.endpoint else {
            return Err(Failure::usage(format!("peer {name} has no `endpoint`; a plain peer needs one")));
        };
        let addresses = endpoint.resolve().map_err(|e| {
            Failure::failed(format!("the endpoint {endpoint} of peer {name} does not resolve: {e}"))
                .with_remedy("check the name, or write an address")
        })?;
        let address = addresses.into_iter().find(|address| is_usable(address, listen));
        resolved.insert(endpoint.clone(), address.ok_or_else(|| unusable(peer, endpoint, listen))?);
    }
    Ok(resolved)
}

/// Where the configuration says that a peer is; `None` for one that is to call us, and for one whose name is still to be resolved.
///
/// # Errors
/// An address that a socket on `listen` cannot send to; a plain peer whose address is not among those that were `resolved`.
pub fn locate(peer: &Peer, listen: SocketAddr, resolved: &Resolved) -> Result<Option<SocketAddr>> {
    let Some(endpoint) = &peer.endpoint else { return Ok(None) };
    match endpoint.address().or_else(|| resolved.get(endpoint).copied()) {
        Some(address) if is_usable(&address, listen) => Ok(Some(address)),
        None if peer.transport.is_secure() => Ok(None),
        _ => Err(unusable(peer, endpoint, listen)),
    }
}

/// Whether a socket on `listen` can send to this address.
pub fn is_usable(address: &SocketAddr, listen: SocketAddr) -> bool {
    let (ip, both) = (address.ip(), listen.ip() == Ipv6Addr::UNSPECIFIED);
    (both || ip.is_ipv4() == listen.is_ipv4()) && !ip.is_unspecified() && !ip.is_multicast() && *address != listen
}

fn unusable(peer: &Peer, endpoint: &Endpoint, listen: SocketAddr) -> Failure {
    let name = &peer.name;
    Failure::failed(format!(
        "the endpoint {endpoint} of peer {name} has no address that a socket on {listen} can send to"
    ))
    .with_remedy(format!("write `listen = \"[::]:{}\"` under [transport], or an address as endpoint", listen.port()))
}

/// Checks that no two plain peers are at one address, which is all that they are told apart by.
///
/// # Errors
/// Two of them are.
pub fn check_distinct<'p>(peers: impl Iterator<Item = (&'p Peer, Option<SocketAddr>)>) -> Result<()> {
    let mut there: HashMap<SocketAddr, &Peer> = HashMap::new();
    for (peer, address) in peers.filter_map(|(peer, address)| Some((peer, address?))) {
        let Some(other) = there.insert(address, peer) else { continue };
        let same = format!("the peers {} and {} have the same endpoint {address}", other.name, peer.name);
        if !peer.transport.is_secure() && !other.transport.is_secure() {
            return Err(Failure::failed(format!("{same}: their datagrams could not be told apart")));
        }
        // Two names may come to the same address for a while, and an encrypted peer is known by its key.
        tracing::warn!("{same}, though one socket is one peer as a rule");
        if !other.transport.is_secure() {
            there.insert(address, other);
        }
    }
    Ok(())
}

/// Checks, once our routes stand, that the datagrams to none of these peers would go into the tunnel instead of out.
///
/// A node of the network chose its endpoint itself, and keeps no other peer from us by a bad one: of such it is only noted.
///
/// # Errors
/// The first endpoint that lies behind the device.
pub fn check_no_loop<'p>(
    netlink: &mut Netlink,
    tunnel: &Tunnel,
    peers: impl Iterator<Item = (&'p Peer, Option<SocketAddr>)>,
) -> Result<()> {
    let device = netlink.existing_link(&tunnel.device.name)?.index;
    for (peer, endpoint) in peers {
        let Some(endpoint) = endpoint else { continue };
        if netlink.route_with_mark(endpoint.ip(), tunnel.transport.fwmark).is_ok_and(|route| route.device == device) {
            if peer.origin == Origin::Network {
                tracing::debug!(
                    "the way to the endpoint {endpoint} of node {} leads into the tunnel itself",
                    peer.name
                );
                continue;
            }
            return Err(Failure::failed(format!(
                "the way to the endpoint {endpoint} of peer {} leads into the tunnel itself",
                peer.name
            ))
            .with_remedy("take the address out of `allowed-ips`, or add a route to it outside of the tunnel"));
        }
    }
    Ok(())
}

/// Lets go of our own address towards each peer whose datagrams leave by another card now than they came by, or that is ours no more:
/// the routes choose anew. Kept, it would be the address of a network that is left behind, and so would it be if it was taken again
/// for datagrams that the peer still sends there.
pub fn forget_other_cards<'p>(netlink: &mut Netlink, tunnel: &Tunnel, peers: impl Iterator<Item = &'p Member>) {
    let mut known: HashMap<(LocalAddress, IpAddr), Leaving> = HashMap::new();
    for Member { endpoint, link, .. } in peers {
        let Some(endpoint) = endpoint else { continue };
        let mut way = |local: LocalAddress| {
            *known
                .entry((local, endpoint.ip()))
                .or_insert_with(|| leaving(netlink.route_from(local.ip, endpoint.ip(), tunnel.transport.fwmark), local))
        };
        if link.elsewhere.load_full().is_some_and(|local| way(*local) != Leaving::Elsewhere) {
            link.elsewhere.store(None);
        }
        let Some(local) = link.local.load_full() else { continue };
        match way(*local) {
            Leaving::There => {}
            Leaving::Nowhere => link.local.store(None),
            Leaving::Elsewhere => {
                link.elsewhere.store(Some(local));
                link.local.store(None);
            }
        }
    }
}

/// How a datagram with an address of ours as source would leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// By the card that datagrams to that address come by.
    There,
    /// By another.
    Elsewhere,
    /// Not at all: it is not ours, or there is no way.
    Nowhere,
}

fn leaving(route: linux::Result<RouteLookup>, local: LocalAddress) -> Leaving {
    match route {
        // Towards this host itself it is the loopback device, whatever the address.
        Ok(route) if route.kind != RouteKind::Unicast || local.device == 0 || route.device == local.device => {
            Leaving::There
        }
        Ok(_) => Leaving::Elsewhere,
        Err(_) => Leaving::Nowhere,
    }
}

/// What is asked about the ways to the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// What routes and cards were configured to.
    Configured,
    /// What path-MTU messages taught the kernel on top of that; anybody can send those.
    Learned,
}

/// One look at the ways to many peers: what is at the same address is asked for once.
pub struct Survey<'n> {
    netlink: &'n mut Netlink,
    listen: SocketAddr,
    mark: Option<NonZero<u32>>,
    /// Whether the device is to suit a way by IPv6 as well.
    suits_both: bool,
    seen: HashMap<IpAddr, [Option<usize>; 2]>,
}

impl<'n> Survey<'n> {
    /// Nothing seen yet.
    pub fn new(netlink: &'n mut Netlink, tunnel: &Tunnel) -> Self {
        let Transport { listen, fwmark: mark, .. } = tunnel.transport;
        Self { netlink, listen, mark, suits_both: tunnel.device.mtu == Mtu::AsWireGuard, seen: HashMap::new() }
    }

    /// The longest inner packet that fits the way to a peer. Of one whose endpoint is not known yet the worst is assumed: Ethernet, and
    /// IPv6 if we can send that.
    pub fn width(&mut self, transport: TransportKind, endpoint: Option<SocketAddr>) -> Width {
        let Some(ip) = endpoint.map(|endpoint| endpoint.ip()) else {
            let worst = inner_mtu(transport, unspecified(self.listen), None);
            return Width { configured: worst, learned: worst };
        };
        let (netlink, mark) = (&mut *self.netlink, self.mark);
        let [configured, learned] = *self.seen.entry(ip).or_insert_with(|| {
            [Knowledge::Configured, Knowledge::Learned].map(|knowledge| underlay_mtu(netlink, ip, mark, knowledge))
        });
        let fits = inner_mtu(transport, ip, configured);
        // A datagram by IPv4 is not shorter for that.
        let configured = if self.suits_both && ip.is_ipv4() { fits.saturating_sub(IPV6_UDP - IPV4_UDP) } else { fits };
        Width { configured, learned: inner_mtu(transport, ip, learned) }
    }
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

/// The MTU of the device: as configured, or the [narrowest way](Width::configured) to a peer. Where one is narrower than that by what was
/// learned, its senders are told by ICMP.
pub fn device_mtu(tunnel: &Tunnel, narrowest: Option<usize>) -> u32 {
    let mtu = match tunnel.device.mtu {
        Mtu::Fixed(mtu) => usize::from(mtu),
        Mtu::Auto | Mtu::AsWireGuard => {
            let fits = narrowest.unwrap_or(ETHERNET - IPV6_UDP - SEALING);
            fits.saturating_sub(header(tunnel)).max(least_mtu(tunnel))
        }
    };
    u32::try_from(mtu).unwrap_or(u32::MAX)
}

/// Bytes of a frame beside what the device counts.
fn header(tunnel: &Tunnel) -> usize {
    if tunnel.ethernet.is_some() { HEADER_LEN } else { 0 }
}

/// The least that a device must take: IPv6 does not work below 1280 bytes, and less than the narrowest way leaves is never needed.
fn least_mtu(tunnel: &Tunnel) -> usize {
    let added = tunnel.peers.iter().map(|peer| sealing(peer.transport)).max().unwrap_or(0);
    if carries_ipv6(tunnel) { IPV6_FLOOR } else { IPV4_FLOOR - IPV4_UDP - added }
}

fn carries_ipv6(tunnel: &Tunnel) -> bool {
    let prefixes = tunnel.peers.iter().flat_map(|p| &p.allowed_ips);
    let networks = tunnel.overlay.iter().flat_map(|overlay| &overlay.networks);
    tunnel.device.addresses.iter().chain(prefixes).chain(networks).any(|net| net.addr().is_ipv6())
}

/// Checks, before anything is set up, that the underlay leaves enough for a packet.
///
/// # Errors
/// It does not.
pub fn check_mtu(tunnel: &Tunnel, narrowest: Option<usize>) -> Result<()> {
    let (least, mtu) = (least_mtu(tunnel), narrowest.map_or(usize::MAX, |fits| fits.saturating_sub(header(tunnel))));
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
            origin: crate::config::Origin::File,
            allowed_ips: Vec::new(),
            transport,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
        };
        let listen = "[::]:7777".parse().unwrap();
        let there = Some("192.0.2.2:7777");
        let distinct = |peers: &[Peer]| {
            let resolved = resolve_plain(peers, listen)?;
            let located = peers.iter().map(|peer| Ok((peer, locate(peer, listen, &resolved)?)));
            let located = located.collect::<Result<Vec<_>>>()?;
            check_distinct(located.iter().copied())?;
            Ok::<_, Failure>(located.into_iter().map(|(_, address)| address).collect::<Vec<_>>())
        };
        let sealed = [peer("a", TransportKind::Sealed, None), peer("b", TransportKind::Sealed, there)];
        assert_eq!(distinct(&sealed).unwrap(), [None, there.map(|text| text.parse().unwrap())]);
        let named = [peer("a", TransportKind::Sealed, Some("nowhere.invalid:7777"))];
        assert_eq!(distinct(&named).unwrap(), [None], "its name is resolved later");
        let mixed = [peer("a", TransportKind::Sealed, there), peer("b", TransportKind::Plain, there)];
        assert_eq!(distinct(&mixed).unwrap().len(), 2);
        let plain = [peer("a", TransportKind::Plain, there), peer("b", TransportKind::Plain, there)];
        assert!(distinct(&plain).unwrap_err().to_string().contains("told apart"));
        let hidden = [&plain[..1], &sealed[1..], &plain[1..]].concat();
        assert!(distinct(&hidden).unwrap_err().to_string().contains("told apart"));
        assert!(distinct(&[peer("a", TransportKind::Plain, None)]).is_err());
        let other_family = [peer("a", TransportKind::Sealed, there)];
        assert!(locate(&other_family[0], "[::1]:7777".parse().unwrap(), &Resolved::new()).is_err());
    }
}
