//! What each command does, once all that was said is read: a thin layer on [attach](crate::container::attach()) and its kin.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::netlink::Netlink;
use linux::netns::NetNs;
use serde_json::Value;

use super::config::{Network, Wishes};
use super::environment::Attachment;
use super::result::{self, Made};
use super::{Code, Error, Version};
use crate::container::{self, Door, Fault, FaultKind, Key, Node, Place, Request, Store, ipam};
use crate::{api, unit};

/// How long CHECK waits for a daemon that is being started anew.
const PATIENCE: Duration = Duration::from_secs(2);

impl Network {
    fn store(&self) -> Store {
        Store::of(&self.directories, &self.device)
    }

    fn node(&self) -> Result<Node, Fault> {
        Node::read(&self.directories, &self.device)
    }

    /// Whether the daemon is there, and its device: that stays when it is killed.
    fn runs(&self) -> Result<bool, Error> {
        Ok(api::is_claimed(&self.directories.runtime, &self.device) && has_device(&self.device)?)
    }

    pub(super) fn key(&self, attachment: Attachment) -> Key {
        Key {
            door: Door::Cni,
            network: self.name.clone(),
            container: attachment.container,
            interface: attachment.interface,
        }
    }
}

/// Attaches a container.
///
/// # Errors
/// What cannot be had or made; then nothing is left of it.
pub(super) fn add(
    version: Version,
    network: &Network,
    attachment: Attachment,
    netns: PathBuf,
    wishes: Wishes,
    previous: Option<Value>,
) -> Result<Value, Error> {
    let namespace = open(&netns)?;
    let node = network.node().map_err(Error::of)?;
    let request = Request {
        key: network.key(attachment),
        name: wishes.name,
        wanted: wanted(&node, &wishes.ips)?,
        mac: wishes.mac.map(|mac| mac.0),
        ports: wishes.ports,
        isolated: wishes.isolated,
        mtu: wishes.mtu,
        default_route: wishes.default_route,
        place: Place::Namespace { namespace, path: netns.clone() },
        reservation: None,
        process: None,
    };
    // Before anything is made: a chain that we cannot go on with is not begun.
    if let Some(previous) = &previous {
        result::check(version, previous)?;
    }
    let store = network.store();
    let record = container::attach(&node, &store, &request).map_err(Error::of)?;
    let made = Made {
        node: &node,
        record: &record,
        netns: &netns,
        host_mac: mac_of(&record.host_interface),
        mtu: record.mtu(&node, wishes.mtu),
        default_route: wishes.default_route,
        dns: wishes.dns,
    };
    result::result(version, &made, previous).inspect_err(|_| take_back(network, &request.key))
}

/// Takes an attachment away of which its runtime was not told.
pub(super) fn take_back(network: &Network, key: &Key) {
    if let Err(fault) = container::detach(&network.store(), key) {
        tracing::warn!("while taking a container back: {fault}");
    }
}

/// Takes an attachment away, by its names alone; one that is not there is away already.
///
/// # Errors
/// Something of it could not be removed, and is there still.
pub(super) fn del(network: &Network, attachment: Attachment) -> Result<(), Error> {
    container::detach(&network.store(), &network.key(attachment)).map(drop).map_err(Error::of)
}

/// Sees whether an attachment is as it was made, and whether the network can be reached by it.
///
/// # Errors
/// What is not as it should be.
pub(super) fn check(
    network: &Network,
    attachment: Attachment,
    netns: &Path,
    previous: Option<Value>,
) -> Result<(), Error> {
    let previous = previous.ok_or_else(|| {
        Error::new(
            Code::InvalidConfiguration,
            "prevResult is not there; CHECK needs the result of ADD, which the runtime keeps",
        )
    })?;
    let key = network.key(attachment);
    let Some(record) = network.store().read(&key).map_err(Error::of)? else {
        let details = format!(
            "the container {} is not attached as {} to the network {}",
            key.container, key.interface, key.network
        );
        return Err(Error::new(Code::UnknownContainer, details));
    };
    let namespace = open(netns)?;
    if record.netns_id.is_some_and(|id| id != namespace.id()) {
        let details = format!(
            "{} is another namespace than that which the container {} was attached in",
            netns.display(),
            key.container
        );
        return Err(Error::new(Code::NotAsMade, details));
    }
    result::agrees(&previous, &record, netns)?;
    let node = network.node().map_err(Error::of)?;
    container::check(&node, &record).map_err(Error::of)?;
    check_routes(&namespace, result::routes(&previous, &node)?)?;
    // A daemon that is started anew is away for a moment.
    let deadline = Instant::now() + PATIENCE;
    while !network.runs()? {
        if Instant::now() >= deadline {
            return Err(Error::new(Code::TryAgain, absent(&network.device)));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Sees that the routes by way of our bridge are there, whatever else plugins after us changed about them.
fn check_routes(namespace: &NetNs, expected: Vec<(IpNet, IpAddr)>) -> Result<(), Error> {
    let routes = Netlink::open_in(namespace).and_then(|mut netlink| netlink.routes(None));
    let routes = routes.map_err(|e| Error::of(e.into()))?;
    let is_there =
        |(to, by): &(IpNet, IpAddr)| routes.iter().any(|route| route.destination == *to && route.gateway == Some(*by));
    match expected.iter().find(|route| !is_there(route)) {
        Some((to, by)) => {
            Err(Error::new(Code::NotAsMade, format!("the container has lost its route to {to} by way of {by}")))
        }
        None => Ok(()),
    }
}

/// Sees whether a container could be attached.
///
/// # Errors
/// Why it could not, or would reach only a part of the network.
pub(super) fn status(network: &Network) -> Result<(), Error> {
    let unavailable = |fault: Fault| Error::new(Code::NotAvailable, fault.sentence);
    let node = network.node().map_err(unavailable)?;
    let found = network.store().survey().map_err(unavailable)?;
    ipam::choose(&node, &ipam::taken(&node, &found.records), &[], &[]).map_err(unavailable)?;
    for damaged in found.damaged {
        // As long as its container lives, nothing is given out.
        if let Some(end) = damaged.host_interface()
            && has_device(&end)?
        {
            return Err(unavailable(damaged.fault));
        }
    }
    if network.runs()? {
        return Ok(());
    }
    Err(Error::new(Code::LimitedConnectivity, absent(&network.device)))
}

/// Takes all attachments to this network away but those that are named, and what killed plugins left.
///
/// # Errors
/// What could not be removed; all else is.
pub(super) fn gc(network: &Network, valid: &[Attachment]) -> Result<(), Error> {
    let is_valid = |record: &container::Record| {
        let key = &record.key;
        key.door != Door::Cni
            || key.network != network.name
            || valid.iter().any(|valid| valid.container == key.container && valid.interface == key.interface)
    };
    container::collect(&network.store(), &is_valid).map(drop).map_err(Error::of)
}

/// The namespace of a container: whoever gives our own would have a device on the host.
fn open(netns: &Path) -> Result<NetNs, Error> {
    let namespace = container::open_namespace(netns).map_err(Error::of)?;
    let own = NetNs::current().map_err(|e| Error::of(e.into()))?;
    if namespace == own {
        let details = format!(
            "CNI_NETNS is {}, which is the network namespace of the host; a container needs one of its own",
            netns.display()
        );
        return Err(Error::variable("CNI_NETNS", details));
    }
    Ok(namespace)
}

/// The addresses that are wanted. A prefix length that is said has to be that of the subnet: containers have no other.
fn wanted(node: &Node, ips: &[(IpAddr, Option<u8>)]) -> Result<Vec<IpAddr>, Error> {
    for (ip, length) in ips {
        let subnet = node.subnets.iter().find(|subnet| subnet.contains(ip));
        if let (Some(length), Some(subnet)) = (length, subnet)
            && *length != subnet.prefix_len()
        {
            let details =
                format!("{ip}/{length} is asked for, but addresses of {subnet} have its prefix length; write {ip}");
            return Err(Error::of(Fault::new(FaultKind::Invalid, details)));
        }
    }
    Ok(ips.iter().map(|(ip, _)| *ip).collect())
}

fn mac_of(device: &str) -> Option<[u8; 6]> {
    Netlink::open().and_then(|mut netlink| netlink.link(device)).ok().flatten()?.mac
}

fn has_device(device: &str) -> Result<bool, Error> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(device));
    link.map(|link| link.is_some()).map_err(|e| Error::of(e.into()))
}

fn absent(device: &str) -> String {
    format!(
        "the daemon of {device} does not run, and containers reach only those of this host; start it with {}",
        unit::how_to_start(device)
    )
}
