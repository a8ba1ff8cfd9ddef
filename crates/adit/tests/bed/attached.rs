//! Containers that hang on a node's own bridge, made as any door makes them.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use adit::Directories;
use adit::container::{self, Door, Fault, Key, Node, Place, Record, Request, Store};
use ipnet::IpNet;
use linux::netns::NetNs;

use super::traffic::End;
use super::{Host, await_address};

/// A container's namespace, and what was given to it.
pub(crate) struct Attached {
    pub(crate) namespace: NetNs,
    pub(crate) record: Record,
}

/// The directories of a daemon whose files are all in one.
pub(crate) fn directories(of: &Path) -> Directories {
    Directories { runtime: of.join("run"), state: of.join("state"), wireguard: of.join("wireguard") }
}

/// Attaches a container to the node of `adit0` on a host, as `change` wants it.
pub(crate) fn try_attach(
    host: &Host,
    directories: &Directories,
    name: &str,
    change: impl FnOnce(&mut Request) + Send,
) -> Result<Attached, Fault> {
    try_attach_to("adit0", host, directories, name, change)
}

/// The same to the node of another device.
pub(crate) fn try_attach_to(
    device: &str,
    host: &Host,
    directories: &Directories,
    name: &str,
    change: impl FnOnce(&mut Request) + Send,
) -> Result<Attached, Fault> {
    let namespace = super::namespace();
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
    let mut request = Request {
        key: Key {
            door: Door::Cni,
            network: "overlay".into(),
            container: format!("id-of-{name}"),
            interface: "eth0".into(),
        },
        name: Some(name.into()),
        wanted: Vec::new(),
        mac: None,
        ports: Vec::new(),
        isolated: false,
        mtu: None,
        default_route: true,
        place: Place::Namespace { namespace: namespace.clone(), path },
        reservation: None,
        process: None,
    };
    change(&mut request);
    let record = host.namespace.run(|| {
        let node = Node::read(directories, device)?;
        container::attach(&node, &Store::of(directories, device), &request)
    });
    let record = record.unwrap()?;
    record.addresses.iter().for_each(|net| await_address(&namespace, net.addr()));
    Ok(Attached { namespace, record })
}

/// The same, which is to succeed.
pub(crate) fn attach(host: &Host, directories: &Directories, name: &str) -> Attached {
    attach_with(host, directories, name, |_| ())
}

/// The same with what else is asked for.
pub(crate) fn attach_with(
    host: &Host,
    directories: &Directories,
    name: &str,
    change: impl FnOnce(&mut Request) + Send,
) -> Attached {
    try_attach(host, directories, name, change).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

impl Attached {
    /// Its address of this family.
    pub(crate) fn ip(&self, v6: bool) -> IpAddr {
        self.record.addresses.iter().map(IpNet::addr).find(|ip| ip.is_ipv6() == v6).unwrap()
    }

    pub(crate) fn end(&self, v6: bool) -> End<'_> {
        End::new(&self.namespace, self.ip(v6))
    }

    /// Takes it from the network.
    pub(crate) fn detach(&self, host: &Host, directories: &Directories) {
        let detach = || container::detach(&Store::of(directories, "adit0"), &self.record.key);
        assert!(host.namespace.run(detach).unwrap().unwrap());
    }
}
