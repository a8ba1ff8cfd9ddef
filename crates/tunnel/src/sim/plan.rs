//! Who is there, and how they are configured.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use wire::message::{Mode, Protocol};
use zeroize::Zeroizing;

use crate::handshake::Identity;
use crate::network::{Epoch, Membership};
use crate::peer::PeerSettings;
use crate::snapshot::PeerId;

/// The MTU of a simulated device, in bytes.
pub const MTU: u16 = 1440;

/// The most nodes of a world. A node gives another one the number of that, and the next time, while the former is not free yet, this
/// many more.
pub const MOST: u32 = 16;

/// One node.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Where it is at first, and where others are configured to find it.
    pub address: SocketAddr,
    /// Whether its CPU has AES instructions.
    pub aes: bool,
    /// What its device carries.
    pub mode: Mode,
    /// How long its disk takes to write a mark.
    pub disk: Duration,
    /// Which of its keys it has: for `sealed`, and for WireGuard.
    pub keys: [u32; 2],
    /// The network that it is in, as far as it knows.
    pub network: Option<NetworkPlan>,
}

/// What a node knows of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Which network.
    pub id: u8,
    /// The epoch that it begins handshakes in.
    pub newest: u32,
    /// The one that it accepts too.
    pub previous: Option<u32>,
}

impl NetworkPlan {
    /// A network whose secret is the first.
    #[must_use]
    pub fn first(id: u8) -> Self {
        Self { id, newest: 1, previous: None }
    }

    /// As the node is told. Two networks have different secrets.
    #[must_use]
    pub fn membership(self) -> Membership {
        let epoch = |number: u32| {
            let mut secret = [self.id; 32];
            secret[..4].copy_from_slice(&number.to_le_bytes());
            Epoch { number, secret: Zeroizing::new(secret) }
        };
        Membership { id: [self.id; 16], epochs: self.epochs().map(epoch).collect() }
    }

    /// The epochs that it accepts.
    pub fn epochs(self) -> impl Iterator<Item = u32> {
        [Some(self.newest), self.previous].into_iter().flatten()
    }

    /// Whether two that know this have an epoch in common.
    #[must_use]
    pub fn agrees_with(self, other: Self) -> bool {
        self.id == other.id && self.epochs().any(|epoch| other.epochs().any(|theirs| epoch == theirs))
    }
}

/// Two nodes that are peers of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// Their numbers.
    pub ends: [usize; 2],
    /// How packets travel between them.
    pub protocol: Protocol,
    /// The pre-shared key at each end; they should be the same.
    pub preshared: [[u8; 32]; 2],
    /// How often each end says that it is there.
    pub keepalive: [Option<Duration>; 2],
    /// Whether each end is configured with the address of the other.
    pub knows: [bool; 2],
    /// The public key that the first end believes the second to have, if not the true one.
    pub key: Option<[u8; 32]>,
    /// Whether each end has the other as its peer.
    pub present: [bool; 2],
    /// Where each end is configured to find the other, if not where that is at first.
    pub at: [Option<SocketAddr>; 2],
    /// Which of the other's keys each end knows.
    pub believes: [u32; 2],
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes.
    pub hosts: Vec<HostPlan>,
    /// Who is whose peer; two nodes at most once.
    pub links: Vec<LinkPlan>,
}

impl HostPlan {
    /// A node with AES and a fast disk.
    #[must_use]
    pub fn new(number: usize) -> Self {
        let address = (Ipv4Addr::new(192, 0, 2, number as u8 + 1), 7777).into();
        Self { address, aes: true, mode: Mode::Tun, disk: Duration::from_millis(1), keys: [0; 2], network: None }
    }

    /// Which of its keys it has.
    #[must_use]
    pub fn key(&self, protocol: Protocol) -> u32 {
        self.keys[index(protocol)]
    }
}

/// The place of a protocol among both.
#[must_use]
pub fn index(protocol: Protocol) -> usize {
    usize::from(protocol == Protocol::WireGuard)
}

impl LinkPlan {
    /// Two peers that know each other's address, without keepalives.
    #[must_use]
    pub fn new(protocol: Protocol, ends: [usize; 2]) -> Self {
        Self {
            ends,
            protocol,
            preshared: [[0; 32]; 2],
            keepalive: [None; 2],
            knows: [true; 2],
            key: None,
            present: [true; 2],
            at: [None; 2],
            believes: [0; 2],
        }
    }

    /// Which of its ends a node is.
    #[must_use]
    pub fn end(&self, number: usize) -> usize {
        usize::from(self.ends[1] == number)
    }

    /// Whether this is the link between two nodes.
    #[must_use]
    pub fn joins(&self, one: usize, other: usize) -> bool {
        self.ends == [one, other] || self.ends == [other, one]
    }
}

impl Plan {
    /// Two nodes that are peers.
    #[must_use]
    pub fn pair(protocol: Protocol) -> Self {
        Self { hosts: (0..2).map(HostPlan::new).collect(), links: vec![LinkPlan::new(protocol, [0, 1])] }
    }

    /// The link between two nodes.
    #[must_use]
    pub fn link(&self, one: usize, other: usize) -> Option<&LinkPlan> {
        self.links.iter().find(|link| link.joins(one, other))
    }

    /// As [`link`](Self::link), to change it.
    pub fn link_mut(&mut self, one: usize, other: usize) -> Option<&mut LinkPlan> {
        self.links.iter_mut().find(|link| link.joins(one, other))
    }

    /// The link by which one node has another as its peer.
    #[must_use]
    pub fn peer(&self, one: usize, other: usize) -> Option<&LinkPlan> {
        self.link(one, other).filter(|link| link.present[link.end(one)])
    }

    /// Where one node is configured to find another.
    #[must_use]
    pub fn endpoint(&self, one: usize, other: usize) -> Option<SocketAddr> {
        let link = self.peer(one, other)?;
        let end = link.end(one);
        link.knows[end].then(|| link.at[end].unwrap_or(self.hosts[other].address))
    }

    /// Another node as one is configured to have it.
    #[must_use]
    pub fn settings(&self, one: usize, other: usize) -> Option<PeerSettings> {
        let link = self.peer(one, other)?;
        let end = link.end(one);
        let believed = *key(other, link.protocol, link.believes[end]).public();
        Some(PeerSettings {
            protocol: link.protocol,
            public: link.key.filter(|_| end == 0).unwrap_or(believed),
            preshared: Zeroizing::new(link.preshared[end]),
            keepalive: link.keepalive[end],
            endpoint: self.endpoint(one, other),
        })
    }

    /// Whether packets can pass between two nodes as they are configured.
    #[must_use]
    pub fn can_pass(&self, one: usize, other: usize) -> bool {
        self.link(one, other).is_some_and(|link| {
            let same_mode = self.hosts[one].mode == self.hosts[other].mode || link.protocol == Protocol::WireGuard;
            let known = [0, 1].map(|end| link.believes[end] == self.hosts[link.ends[1 - end]].key(link.protocol));
            let both = link.present == [true; 2] && known == [true; 2];
            let networks = [one, other].map(|number| self.hosts[number].network);
            let same_secret = match networks {
                [Some(one), Some(other)] if link.protocol == Protocol::Sealed => one.agrees_with(other),
                [None, None] => link.preshared[0] == link.preshared[1],
                _ => link.protocol == Protocol::WireGuard && link.preshared[0] == link.preshared[1],
            };
            both && same_secret && link.key.is_none() && same_mode
        })
    }
}

/// The first key of a node for a protocol.
#[must_use]
pub fn identity(number: usize, protocol: Protocol) -> Identity {
    key(number, protocol, 0)
}

/// A key of a node for a protocol: two nodes never have the same, nor one node the same twice.
#[must_use]
pub fn key(number: usize, protocol: Protocol, generation: u32) -> Identity {
    let role = if protocol == Protocol::Sealed { 0x51 } else { 0x57 };
    let mut secret = [role; 32];
    secret[1] = number as u8;
    secret[4..8].copy_from_slice(&(generation ^ u32::from_le_bytes([role; 4])).to_le_bytes());
    Identity::new(&secret).expect("any secret has a public key")
}

/// Which node a peer is.
#[must_use]
pub fn node(id: PeerId) -> usize {
    (id.0 % MOST) as usize
}

/// The inner address of a node.
#[must_use]
pub fn inner(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, number as u8, 1)
}
