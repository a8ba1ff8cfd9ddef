//! Who is there, and how they are configured.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use wire::message::{Mode, Protocol};

use crate::handshake::Identity;

/// The MTU of a simulated device, in bytes.
pub const MTU: u16 = 1440;

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
}

/// Two nodes that are peers of each other.
#[derive(Clone, Debug)]
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
        Self { address, aes: true, mode: Mode::Tun, disk: Duration::from_millis(1) }
    }
}

impl LinkPlan {
    /// Two peers that know each other's address, without keepalives.
    #[must_use]
    pub fn new(protocol: Protocol, ends: [usize; 2]) -> Self {
        Self { ends, protocol, preshared: [[0; 32]; 2], keepalive: [None; 2], knows: [true; 2], key: None }
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

    /// Whether packets can ever pass between two nodes.
    #[must_use]
    pub fn can_pass(&self, one: usize, other: usize) -> bool {
        self.link(one, other).is_some_and(|link| {
            let same_mode = self.hosts[one].mode == self.hosts[other].mode || link.protocol == Protocol::WireGuard;
            link.preshared[0] == link.preshared[1] && link.key.is_none() && same_mode
        })
    }
}

/// The key of a node for a protocol: two nodes never have the same, nor one node the same twice.
#[must_use]
pub fn identity(number: usize, protocol: Protocol) -> Identity {
    let role = if protocol == Protocol::Sealed { 0x51 } else { 0x57 };
    let mut secret = [role; 32];
    secret[1] = number as u8;
    Identity::new(&secret).expect("any secret has a public key")
}

/// The inner address of a node.
#[must_use]
pub fn inner(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, number as u8, 1)
}
