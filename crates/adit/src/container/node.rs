//! What doors have to know of the node: a file that its daemon writes, and that stays when the daemon is killed, since the lease does too.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use linux::netlink::Netlink;

use super::{Fault, FaultKind, Store, plan};
use crate::config::Network;
use crate::{Directories, files, unit};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// A node, as far as its containers go: the file `<runtime>/<device>.node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The device of the tunnel.
    pub device: String,
    /// The node's name in the network.
    pub name: String,
    /// Under which domain nodes have their names; none: there are no names.
    pub domain: Option<String>,
    /// The bridge that containers hang on.
    pub bridge: String,
    /// All addresses of the network.
    pub networks: Vec<IpNet>,
    /// Those of this node, at most one prefix per family.
    pub subnets: Vec<IpNet>,
    /// Largest packet of the device in bytes. The first container on the bridge gets it, and all that come while it is there have what it has.
    pub mtu: u32,
    /// Addresses of the subnets that are no container's: clients of this node.
    #[serde(default)]
    pub clients: Vec<IpAddr>,
    /// Where the daemon keeps its containers; unknown, if an older one wrote this.
    #[serde(default)]
    pub containers: Option<PathBuf>,
}

impl Node {
    /// Where the daemon of `device` says it.
    pub fn path(directories: &Directories, device: &str) -> PathBuf {
        directories.runtime.join(format!("{device}.node"))
    }

    /// Reads it.
    ///
    /// # Errors
    /// There is none, which is [`FaultKind::NotReady`]; or it is damaged.
    pub fn read(directories: &Directories, device: &str) -> Result<Self, Fault> {
        let path = Self::path(directories, device);
        let damaged = |what: &dyn std::fmt::Display| {
            let sentence = format!("cannot read {}: {what}; `adit reload` writes it anew", path.display());
            Fault::new(FaultKind::Storage, sentence)
        };
        let text = match fs::metadata(&path).and_then(|metadata| Ok((metadata.len(), fs::read(&path)?))) {
            Ok((length, _)) if length > MAX_FILE => return Err(damaged(&"it is too long")),
            Ok((_, text)) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let sentence = format!(
                    "no node of a network runs here with the device {device} ({} is not there); start it with {}",
                    path.display(),
                    unit::how_to_start(device)
                );
                return Err(Fault::new(FaultKind::NotReady, sentence));
            }
            Err(e) => return Err(damaged(&e)),
        };
        let node: Self = serde_json::from_slice(&text).map_err(|e| damaged(&e))?;
        if node.subnets.is_empty() {
            let sentence = format!("the node {} has no subnet yet; see `adit status`", node.name);
            return Err(Fault::new(FaultKind::NotReady, sentence));
        }
        Ok(node)
    }

    /// Writes it, for everybody to read; whoever reads finds the old or the new one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, directories: &Directories) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        files::replace(&Self::path(directories, &self.device), &text, 0o644)
    }

    /// The addresses of the bridge: the second of each subnet, with the length of its prefix. The first is the device's.
    pub fn gateways(&self) -> impl Iterator<Item = IpNet> {
        self.subnets.iter().filter_map(gateway)
    }

    /// The link-layer address of the bridge: always the same, so that nobody (udev, networkd) makes up another, and so that containers keep
    /// what they know when the bridge is made anew.
    pub fn bridge_mac(&self) -> [u8; 6] {
        self.gateways().next().map_or([0x0a, 0x58, 0, 0, 0, 1], |gateway| mac_of(gateway.addr()))
    }
}

/// The device of another node of this host that has this bridge: whose containers hang on it, or who is going to make it.
pub fn other_with(directories: &Directories, device: &str, bridge: &str) -> Option<String> {
    let with_containers = Store::of(directories, device).other_on(bridge);
    let says_so = || {
        let entries = fs::read_dir(&directories.runtime).into_iter().flatten().flatten();
        let mut others = entries.filter_map(|entry| {
            let other = entry.file_name().to_str()?.strip_suffix(".node")?.to_owned();
            (other != device).then(|| Node::read(directories, &other).ok()).flatten()
        });
        others.find(|other| other.bridge == bridge).map(|other| other.device)
    };
    with_containers.or_else(says_so)
}

/// Checks that the node of `device` may have this bridge.
///
/// # Errors
/// It is that of another node of this host. One that has it by mistake and without any container does not keep it from the node whose it is by default.
pub fn check_bridge(directories: &Directories, device: &str, bridge: &str) -> Result<(), Fault> {
    let other = match bridge == Network::bridge_of(device) {
        true => Store::of(directories, device).other_on(bridge),
        false => other_with(directories, device, bridge),
    };
    let Some(other) = other else { return Ok(()) };
    let own = Network::bridge_of(device);
    let remedy = match bridge == own {
        true => format!(
            "remove its containers, and write bridge = \"{}\" under [network] there",
            Network::bridge_of(&other)
        ),
        false => format!("write bridge = \"{own}\" under [network]"),
    };
    let sentence = format!("the bridge {bridge} is in use by {other}, another node of this host; {remedy}");
    Err(Fault::new(FaultKind::Invalid, sentence))
}

/// Checks that there is no device of this name, or that it is a bridge of ours.
///
/// # Errors
/// It is another's; or the kernel's.
pub fn check_foreign(bridge: &str) -> Result<(), Fault> {
    let there = Netlink::open().and_then(|mut netlink| netlink.link(bridge))?;
    there.filter(|link| !plan::is_ours(link)).map_or(Ok(()), |link| Err(plan::foreign(&link)))
}

/// The address of the bridge in a subnet.
pub fn gateway(subnet: &IpNet) -> Option<IpNet> {
    let second = match subnet.network() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip).saturating_add(1))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip).saturating_add(1))),
    };
    IpNet::new(second, subnet.prefix_len()).ok()
}

/// The link-layer address of whoever has this address: locally administered, and the same whenever the address is given out.
pub fn mac_of(ip: IpAddr) -> [u8; 6] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [0x0a, 0x58, a, b, c, d]
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [0x0a, 0x5a, a, b, c, d]
        }
    }
}
