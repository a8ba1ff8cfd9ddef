//! Where this host is reached: the addresses that its record names.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use linux::netlink::Netlink;

use crate::config::PublicIp;
use crate::{Failure, Result};

/// The most addresses that are named.
const MOST: usize = 4;

/// An address of each family that no route of ours needs to exist for (RFC 5737, RFC 3849): the way to it is the default route.
const ELSEWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// How many ports are tried.
const PORTS: u16 = 100;

/// Where datagrams can arrive: at this port, or the next that no program of this host has.
pub(super) fn free_for_datagrams(first: SocketAddr) -> SocketAddr {
    free(first, &|address| UdpSocket::bind(address).map(drop))
}

/// The same for connections.
pub(super) fn free_for_connections(first: SocketAddr) -> SocketAddr {
    free(first, &|address| TcpListener::bind(address).map(drop))
}

/// The first where binding does not meet another program; what else is wrong with it is said when the daemon starts.
fn free(first: SocketAddr, bind: &dyn Fn(SocketAddr) -> io::Result<()>) -> SocketAddr {
    let ports = first.port()..first.port().saturating_add(PORTS);
    let is_free = |address: &SocketAddr| !bind(*address).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse);
    ports.map(|port| SocketAddr::new(first.ip(), port)).find(is_free).unwrap_or(first)
}

/// Where packets to `there` would leave from, by the kernel's routes. Nothing is sent.
pub(super) fn source_towards(there: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if there.is_ipv4() { "0.0.0.0:0".parse().ok()? } else { "[::]:0".parse().ok()? };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(there).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// The addresses that others are told.
///
/// With `auto`: those that the ways to `others` (the registry) begin with; without any, those of the default routes; and without these, those
/// of the first card that has some. Addresses in `inside`, the overlay's, are never among them.
///
/// # Errors
/// There are none, or the card does not exist.
pub fn public_addresses(
    netlink: &mut Netlink,
    wanted: &PublicIp,
    others: &[SocketAddr],
    inside: &dyn Fn(IpAddr) -> bool,
) -> Result<Vec<IpAddr>> {
    let usable = |address: &IpAddr| is_public(*address) && !inside(*address);
    let mut found: Vec<IpAddr> = match wanted {
        PublicIp::Addresses(addresses) => return Ok(addresses.clone()),
        PublicIp::Interface(name) => {
            let index = netlink.existing_link(name)?.index;
            let addresses = netlink.addresses(Some(index))?;
            addresses.into_iter().filter(|a| !a.tentative).map(|a| a.net.addr()).filter(usable).collect()
        }
        PublicIp::Auto => {
            let elsewhere = ELSEWHERE.iter().filter_map(|text| text.parse().ok());
            let ways = others.iter().copied().filter(|other| !other.ip().is_loopback()).chain(elsewhere);
            ways.filter_map(source_towards).filter(usable).collect()
        }
    };
    if found.is_empty() && *wanted == PublicIp::Auto {
        found = of_any_card(netlink, &usable)?;
    }
    // One of each family is what a peer needs; the first is the best.
    let mut chosen: Vec<IpAddr> = Vec::new();
    for address in found {
        if !chosen.contains(&address) && chosen.len() < MOST {
            chosen.push(address);
        }
    }
    if chosen.is_empty() {
        let (what, remedy) = match wanted {
            PublicIp::Interface(name) => (format!("the card {name} has no address"), "choose another `interface`"),
            _ => (
                "this host has no address that others could reach".to_owned(),
                "give it one, or say which with `public-ip`",
            ),
        };
        return Err(Failure::failed(what).with_remedy(remedy));
    }
    Ok(chosen)
}

fn of_any_card(netlink: &mut Netlink, usable: &dyn Fn(&IpAddr) -> bool) -> Result<Vec<IpAddr>> {
    let mut links = netlink.links()?;
    links.retain(|link| link.up && !matches!(link.kind.as_deref(), Some("tun" | "bridge")));
    links.sort_by_key(|link| link.index);
    for link in links {
        let addresses: Vec<_> =
            netlink.addresses(Some(link.index))?.into_iter().map(|a| a.net.addr()).filter(usable).collect();
        if !addresses.is_empty() {
            return Ok(addresses);
        }
    }
    Ok(Vec::new())
}

/// All addresses of this host.
///
/// # Errors
/// The kernel does not say.
pub fn local_addresses(netlink: &mut Netlink) -> Result<Vec<IpAddr>> {
    Ok(netlink.addresses(None)?.into_iter().map(|a| a.net.addr()).collect())
}

/// Whether somebody between us and `others` (the registry) must be translating our addresses: they are where everybody is, and we are not.
pub(super) fn are_translated(public: &[IpAddr], others: &[SocketAddr]) -> bool {
    let is_everywhere = |ip: IpAddr| is_public(ip) && !is_private(ip);
    others.iter().any(|other| is_everywhere(other.ip())) && !public.iter().any(|ip| is_everywhere(*ip))
}

/// Addresses that many networks have (RFC 1918, RFC 6598, RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn is_public(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::BROADCAST,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_host_can_reach_is_not_named() {
        for (address, public) in [
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.1.1", false),
            ("224.0.0.1", false),
            ("fe80::1", false),
            ("::1", false),
            ("10.0.0.1", true),
            ("192.0.2.1", true),
            ("fd00::1", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn who_is_private_before_a_public_registry_is_translated() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let registry = |text: &str| [text.parse::<SocketAddr>().unwrap()];
        for (public, other, expected) in [
            (&["192.168.1.2"][..], "192.0.2.1:7780", true),
            (&["100.64.3.2", "fd00::2"], "192.0.2.1:7780", true),
            (&["192.168.1.2", "2001:db8::2"], "192.0.2.1:7780", false),
            (&["192.168.1.2"], "192.168.7.1:7780", false),
            (&["192.168.1.2"], "127.0.0.1:7780", false),
            (&["198.51.100.2"], "192.0.2.1:7780", false),
        ] {
            assert_eq!(are_translated(&ips(public), &registry(other)), expected, "{public:?} {other}");
        }
    }

    #[test]
    fn the_way_to_ourselves_begins_at_ourselves() {
        assert_eq!(source_towards("127.0.0.1:9".parse().unwrap()), Some("127.0.0.1".parse().unwrap()));
    }
}
