//! A configuration that was checked: every value is in range, every default filled in.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    time::Duration,
};

use aws_lc_rs::digest;
use ipnet::IpNet;
use wire::ethernet::MacAddress;

use super::endpoint::Endpoint;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// A tunnel from a file. No two peers with the same name, prefix, key or endpoint.
#[derive(Clone)]
pub struct Tunnel {
    /// The device and its addresses.
    pub device: Device,
    /// The socket and the threads.
    pub transport: Transport,
    /// The other ends, in the order of the file.
    pub peers: Vec<Peer>,
    /// Whether where packets of peers go is the host's matter alone, so that one that forwards takes them from peer to peer: WireGuard has
    /// it so, and files of wg-quick rely on it. Ours do not.
    pub open: bool,
    /// The file it was read from.
    pub source: PathBuf,
    /// The network that this host is a node of, and how it takes part.
    pub network: Option<Network>,
    /// What the lease says, once there is one.
    pub overlay: Option<Overlay>,
    /// Who may see what of this host.
    pub observe: Observe,
    /// Of a device that carries frames (`mode = "tap"`).
    pub ethernet: Option<Ethernet>,
}

/// A device that carries frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ethernet {
    /// The bridge that the device is a port of.
    pub bridge: Option<String>,
    /// Ranges of addresses that this host gives its virtual machines; none overlaps another.
    pub reserve: Vec<IpNet>,
    /// How frames are switched.
    pub switch: tunnel::switch::Settings,
}

/// Who may see what of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observe {
    /// Where the page and the metrics are served, if they are.
    pub listen: Option<ObserveAt>,
    /// Whether peers may ask where their probes pass here.
    pub trace: bool,
    /// Whether peers may measure how fast the way here is.
    pub bench: bool,
}

/// Where the page and the metrics are served: nowhere that another host reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObserveAt {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A socket file, by its absolute path.
    Unix(PathBuf),
}

impl Tunnel {
    /// What the link-layer addresses of its devices follow from: who it is.
    pub fn link_owner(&self) -> String {
        self.device.private_key.as_ref().map(|key| key.public_key().to_string()).unwrap_or_default()
    }

    /// The addresses of the device: those of the file, and the first one of each subnet that the lease gives.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        let subnets = self.overlay.iter().flat_map(|overlay| &overlay.subnets);
        self.device.addresses.iter().copied().chain(subnets.map(|subnet| IpNet::from(subnet.network())))
    }
}

/// How this host takes part in a network of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Where the registry is.
    pub registry: RegistryAt,
    /// What this node is called.
    pub node_name: String,
    /// The prefix of the registry's keys, as flannel's `--etcd-prefix`.
    pub prefix: String,
    /// Where others reach us.
    pub public_ip: PublicIp,
    /// How long a lease lives that nobody renews: at least 5 seconds.
    pub lease_ttl: Duration,
    /// The bridge that containers hang on.
    pub bridge: String,
    /// Under which domain nodes and containers have names; none: they have none.
    pub domain: Option<String>,
    /// PEM files: by whom the registry's certificate is to be signed, and who we are to it.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Who we are to an etcd with authentication.
    pub user: Option<String>,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// A file with the network's secret (base64, 32 bytes), of a network without an authority.
    pub secret_file: Option<PathBuf>,
    /// Whether flannel's own nodes of a `udp` network are spoken to, in the clear.
    pub plain: bool,
    /// Where those may be.
    pub plain_from: Vec<IpNet>,
    /// Whether what leaves the network for elsewhere is masqueraded, as flannel's `--ip-masq`.
    pub ip_masq: bool,
    /// Whether forwarding to and from the network is accepted, as flannel's `--iptables-forward-rules`.
    pub forward_rules: bool,
    /// Where the lease is written to in flannel's format; empty: `subnet.env` in the runtime directory.
    pub subnet_files: Vec<PathBuf>,
    /// Where the embedded registry and the enroller listen.
    pub registry_listen: SocketAddr,
}

impl Network {
    /// Flannel's `--etcd-prefix`, by default.
    pub const PREFIX: &'static str = "/coreos.com/network";
    /// How long a lease lives that nobody renews, by default: as long as flannel's.
    pub const LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);
    /// The domain of names, by default.
    pub const DOMAIN: &'static str = "adit";
    /// Where the embedded registry and the enroller listen, by default.
    pub const REGISTRY_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7780);

    /// The bridge of containers of the node of `device`, by default: `adit-br0` of `adit0`, `adit-br-office` of `office`. It is one device's alone, and begins as
    /// what other programs of the host are told to leave alone.
    pub fn bridge_of(device: &str) -> String {
        let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match device.strip_prefix("adit").filter(is_number) {
            Some(number) if number.len() <= 8 => format!("adit-br{number}"),
            _ if device.len() <= 7 => format!("adit-br-{device}"),
            _ => {
                // A name has 15 bytes at most; `_` keeps these apart from those above.
                let digest = digest::digest(&digest::SHA256, device.as_bytes());
                let hash: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                format!("adit-br_{hash:.7}")
            }
        }
    }

    /// Part of the network of `adit0` in which everything else is as if it was left out.
    pub fn new(registry: RegistryAt, node_name: String) -> Self {
        Self {
            registry,
            node_name,
            prefix: Self::PREFIX.into(),
            public_ip: PublicIp::Auto,
            lease_ttl: Self::LEASE_TTL,
            bridge: Self::bridge_of(super::resolve::DEVICE_NAME),
            domain: Some(Self::DOMAIN.into()),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            user: None,
            password_file: None,
            secret_file: None,
            plain: false,
            plain_from: Vec::new(),
            ip_masq: true,
            forward_rules: true,
            subnet_files: Vec::new(),
            registry_listen: Self::REGISTRY_LISTEN,
        }
    }
}

/// Where the registry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryAt {
    /// In this daemon.
    Embedded,
    /// URLs of etcd, or of another node's registry.
    Endpoints(Vec<String>),
}

/// Where others reach us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicIp {
    /// At the address that the way to the registry begins with.
    Auto,
    /// At these.
    Addresses(Vec<IpAddr>),
    /// At the addresses of this card.
    Interface(String),
}

/// What is ours in a network, by its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// All addresses of the network.
    pub networks: Vec<IpNet>,
    /// Those of this node.
    pub subnets: Vec<IpNet>,
    /// See [`Network::ip_masq`].
    pub masquerade: bool,
    /// See [`Network::forward_rules`].
    pub forward: bool,
    /// The UDP port of all its nodes that are told no other, where that is not ours: flannel's nodes take it for granted.
    pub port: Option<u16>,
    /// What sealed handshakes are bound to; without it they are those of a file.
    pub membership: Option<tunnel::network::Membership>,
}

/// The virtual network card.
#[derive(Clone)]
pub struct Device {
    /// A name that the kernel takes: 1 to 15 bytes.
    pub name: String,
    /// Host addresses, each with the prefix length of its network; at least one unless the file is wg-quick's.
    pub addresses: Vec<IpNet>,
    /// The largest packet, in bytes, IP header included.
    pub mtu: Mtu,
    /// Our identity; present unless every peer is plain.
    pub private_key: Option<PrivateKey>,
    /// Our identity towards wireguard peers, where it is another one; always present beside sealed peers.
    pub wireguard_private_key: Option<PrivateKey>,
    /// Where routes to the peers' prefixes go.
    pub table: Table,
    /// Who answers questions for names while the tunnel is up.
    pub dns: Dns,
}

/// The routing table of the routes to the peers' prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Table {
    /// The main table; a prefix of length 0 goes to a table of its own, which is asked for all but our own datagrams.
    #[default]
    Auto,
    /// No routes.
    Off,
    /// This table, which rules of the host's own ask.
    Number(NonZero<u32>),
}

/// Resolvers, and the domains in which short names are looked for. Empty: the host's own stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Addresses of resolvers.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub domains: Vec<String>,
}

/// The largest packet of the device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// What the underlay leaves after our headers.
    Auto,
    /// 80 bytes less than the underlay takes, whatever its family, as wg-quick has it.
    AsWireGuard,
    /// As configured: at least 576, and 1280 if IPv6 is carried.
    Fixed(u16),
}

/// How datagrams leave and enter this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// The UDP address; `[::]` takes both IP families. Port 0, which only wg-quick files may have: one that the kernel chooses.
    pub listen: SocketAddr,
    /// Whether the file said nothing about the address, so that a host without IPv6 may listen on IPv4.
    pub listen_is_default: bool,
    /// How many worker threads.
    pub workers: Workers,
    /// Super-packets and segmentation offloads; without them, one packet per system call.
    pub offload: bool,
    /// How long a worker looks again before it sleeps: zero to one millisecond.
    pub busy_poll: Duration,
    /// The mark of every datagram that we send, for rules of the host to tell them by.
    pub fwmark: Option<NonZero<u32>>,
}

/// How many pairs of device queue and socket, a thread each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// As the machine has processors to give.
    Auto,
    /// As configured: 1 to 64.
    Fixed(NonZero<usize>),
}

/// Another end of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Unique in the file (also without regard to case): 1 to 63 letters, digits, `-`, `_` or `.`.
    pub name: String,
    /// Its identity; present unless it is plain.
    pub public_key: Option<PublicKey>,
    /// Where its datagrams go at first; always present for plain. An encrypted peer without one is heard from first.
    pub endpoint: Option<Endpoint>,
    /// What lives behind it: networks with no host bits set, without duplicates; at least one unless the file is wg-quick's.
    pub allowed_ips: Vec<IpNet>,
    /// How packets travel between us, for the life of the peer.
    pub transport: TransportKind,
    /// A secret beside the keys, for an encrypted peer.
    pub preshared_key: Option<PresharedKey>,
    /// How often at least an encrypted peer hears from us: 1 to 65535 whole seconds.
    pub keepalive: Option<Duration>,
    /// The link-layer addresses that it may have, with a device that carries frames; empty: any.
    pub macs: Vec<MacAddress>,
    /// Who says that it is a peer.
    pub origin: Origin,
}

/// Who says that somebody is a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// The configuration file, or WireGuard's tools.
    #[default]
    File,
    /// The network's records.
    Network,
    /// `adit client add`.
    Client,
}

/// How packets travel between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// Encrypted and authenticated, between two adits.
    Sealed,
    /// Encrypted and authenticated, as WireGuard does it.
    WireGuard,
    /// One IP packet per datagram, without encryption or authentication.
    Plain,
}

impl TransportKind {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::WireGuard => "wireguard",
            Self::Plain => "plain",
        }
    }

    /// Whether packets are encrypted and authenticated on the way.
    pub fn is_secure(self) -> bool {
        match self {
            Self::Sealed | Self::WireGuard => true,
            Self::Plain => false,
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_a_bridge_of_its_own() {
        for (device, bridge) in [("adit0", "adit-br0"), ("adit1", "adit-br1"), ("adit12345678", "adit-br12345678")] {
            assert_eq!(Network::bridge_of(device), bridge);
        }
        assert_eq!(Network::bridge_of("office"), "adit-br-office");
        let devices = [
            "adit0",
            "adit00",
            "adit",
            "office",
            "br0",
            "adit-br",
            "adit123456789",
            "adit123456780",
            "headquarters",
            "headquarters2",
            "abcdefghijklmno",
            "wg-0",
        ];
        let bridges: std::collections::HashSet<_> = devices.iter().map(|device| Network::bridge_of(device)).collect();
        assert_eq!(bridges.len(), devices.len(), "{bridges:?}");
        for bridge in bridges {
            assert!(linux::netlink::is_valid_name(&bridge) && bridge.starts_with("adit-br"), "{bridge}");
        }
    }
}
