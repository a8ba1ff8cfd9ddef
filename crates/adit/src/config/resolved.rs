//! A configuration that was checked: every value is in range, every default filled in.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

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
