//! Names and addresses: two hosts, two containers on each, and four lanes between the hosts.
//!
//! A *lane* is a way to carry packets from host to host. Each has prefixes of its own, in which every container has an
//! address, so that the destination alone decides which lane a packet takes, and lanes can be compared side by side.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;

use crate::lab::daemon::{End, Way};
use crate::lab::{ip_net, net};

/// What the names of all our network namespaces begin with.
pub(super) const PREFIX: &str = "adit-demo-";
/// The bridge on each host.
pub(super) const BRIDGE: &str = "adit-br0";
/// The card of each host, an end of the veth pair that stands for the network between them.
pub(super) const UNDERLAY: &str = "under0";
/// The card of each container.
pub(super) const CARD: &str = "eth0";
/// Largest packet of the network between the hosts, in bytes.
pub(super) const UNDERLAY_MTU: u32 = 1500;
/// Bytes that VXLAN over IPv4 puts around a packet: Ethernet 14, VXLAN 8, UDP 8, IPv4 20.
pub(super) const VXLAN_OVERHEAD: u32 = 50;

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    /// Its place in every address: 1 or 2.
    pub(super) number: u8,
    pub(super) name: &'static str,
    pub(super) containers: [Container; 2],
}

/// A container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Container {
    /// The last byte of its addresses.
    pub(super) number: u8,
    pub(super) name: &'static str,
    /// The host's end of its veth pair.
    pub(super) port: &'static str,
}

const fn container(number: u8, name: &'static str, port: &'static str) -> Container {
    Container { number, name, port }
}

/// The hosts.
pub(super) const HOSTS: [Host; 2] = [
    Host { number: 1, name: "berlin", containers: [container(2, "web", "veth-web"), container(3, "db", "veth-db")] },
    Host {
        number: 2,
        name: "paris",
        containers: [container(2, "app", "veth-app"), container(3, "cache", "veth-cache")],
    },
];

impl Host {
    /// The name of its network namespace.
    pub(super) fn namespace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// Its address on the network between the hosts, from those for documentation (RFC 5737).
    pub(super) fn underlay(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }

    /// The other one.
    pub(super) fn other(&self) -> &'static Self {
        let [first, second] = &HOSTS;
        if self.number == first.number { second } else { first }
    }
}

impl Container {
    /// The name of its network namespace.
    pub(super) fn namespace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

/// A way to carry packets from host to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane {
    /// The device on each host.
    pub(super) device: &'static str,
    /// The second byte of the containers' addresses.
    containers: u8,
    /// The second byte of the devices' own addresses.
    nodes: u8,
    /// The UDP port that its datagrams go to.
    pub(super) port: u16,
}

/// adit as it is: encrypted.
pub(super) const ADIT: Lane = Lane { device: "adit0", containers: 42, nodes: 77, port: 7777 };
/// adit without encryption.
pub(super) const PLAIN: Lane = Lane { device: "plain0", containers: 45, nodes: 80, port: 7779 };
/// adit without encryption and without offloads, one packet per system call: what programs on TUN devices were like.
pub(super) const CLASSIC: Lane = Lane { device: "classic0", containers: 43, nodes: 78, port: 7778 };
/// The kernel's own tunnel.
pub(super) const VXLAN: Lane = Lane { device: "vx0", containers: 44, nodes: 79, port: 4789 };

impl Lane {
    /// The prefix of a host's containers.
    pub(super) fn subnet(&self, host: &Host) -> Ipv4Net {
        net(Ipv4Addr::new(10, self.containers, host.number, 0), 24)
    }

    /// The bridge's address in that prefix, the containers' gateway.
    pub(super) fn gateway(&self, host: &Host) -> Ipv4Addr {
        Ipv4Addr::new(10, self.containers, host.number, 1)
    }

    /// A container's address in that prefix.
    pub(super) fn address(&self, host: &Host, container: &Container) -> Ipv4Addr {
        Ipv4Addr::new(10, self.containers, host.number, container.number)
    }

    /// The device's own address.
    pub(super) fn node(&self, host: &Host) -> Ipv4Addr {
        Ipv4Addr::new(10, self.nodes, 0, host.number)
    }

    /// The tunnel's end on a host.
    pub(super) fn end<'a>(&self, host: &Host, way: Way<'a>) -> End<'a> {
        let other = host.other();
        End {
            host: host.name,
            device: self.device,
            own: ip_net(self.node(host), 24),
            listen: self.endpoint(host),
            peer: other.name,
            endpoint: self.endpoint(other),
            allowed: vec![ip_net(self.node(other), 32), self.subnet(other).into()],
            way,
        }
    }

    /// Where a host takes the lane's datagrams.
    pub(super) fn endpoint(&self, host: &Host) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(host.underlay()), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_and_hosts_share_no_address() {
        let mut seen = std::collections::HashSet::new();
        for lane in [ADIT, PLAIN, CLASSIC, VXLAN] {
            for host in HOSTS {
                assert!(seen.insert(lane.node(&host)));
                assert!(seen.insert(lane.gateway(&host)));
                for container in host.containers {
                    let address = lane.address(&host, &container);
                    assert!(seen.insert(address));
                    assert!(lane.subnet(&host).contains(&address));
                    assert!(!lane.subnet(host.other()).contains(&address));
                }
            }
        }
    }

    #[test]
    fn device_names_are_the_kernels() {
        let ports = HOSTS.iter().flat_map(|host| host.containers).map(|container| container.port);
        for name in ports.chain([BRIDGE, UNDERLAY, CARD, ADIT.device, PLAIN.device, CLASSIC.device, VXLAN.device]) {
            assert!(linux::netlink::is_valid_name(name), "{name}");
        }
    }
}
