//! A node without a daemon: a host, and the file that says what its node is.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use adit::Directories;
use adit::container::{self, Door, Fault, Key, Node, Place, Record, Request, Store, ports};
use linux::netlink::Netlink;
use linux::netns::NetNs;
use linux::nft::{Family, Nft};
use linux::sysctl;
use tempfile::TempDir;

use crate::bed::Bed;

/// A host that is a node.
pub(crate) struct World {
    pub(crate) bed: Bed,
    pub(crate) node: Node,
    pub(crate) store: Store,
    pub(crate) directories: Directories,
    /// What containers have been told apart by so far.
    numbers: Mutex<usize>,
    _directory: TempDir,
}

/// A container: its namespace, and what was given to it.
pub(crate) struct Container {
    pub(crate) namespace: NetNs,
    pub(crate) record: Record,
}

impl Container {
    pub(crate) fn ip(&self, v6: bool) -> IpAddr {
        self.record.addresses.iter().map(ipnet::IpNet::addr).find(|ip| ip.is_ipv6() == v6).unwrap()
    }
}

impl World {
    pub(crate) fn new(subnets: &[&str]) -> Self {
        let (bed, directory) = (Bed::new(1), tempfile::tempdir().unwrap());
        let at = |name: &str| directory.path().join(name);
        let directories = Directories { runtime: at("run"), state: at("state"), ..Directories::default() };
        let node = Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: Some("adit".into()),
            bridge: "adit-br0".into(),
            networks: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1420,
            clients: Vec::new(),
            containers: None,
        };
        node.write(&directories).unwrap();
        let store = Store::of(&directories, "adit0");
        Self { bed, node, store, directories, numbers: Mutex::default(), _directory: directory }
    }

    /// Runs something on the host.
    pub(crate) fn on_host<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.bed.host(1).namespace.run(f).unwrap()
    }

    pub(crate) fn netlink(&self) -> Netlink {
        self.bed.host(1).netlink()
    }

    /// What is asked for a container in `namespace`, if nothing in particular.
    pub(crate) fn request(&self, namespace: &NetNs) -> Request {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers += 1;
        let key = Key {
            door: Door::Cni,
            network: "overlay".into(),
            container: format!("container-{numbers}"),
            interface: "eth0".into(),
        };
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
        let place = Place::Namespace { namespace: namespace.clone(), path };
        Request {
            key,
            name: Some(format!("c{numbers}")),
            wanted: Vec::new(),
            mac: None,
            ports: Vec::new(),
            isolated: false,
            mtu: None,
            default_route: true,
            place,
            reservation: None,
            process: None,
        }
    }

    pub(crate) fn attach(&self, request: &Request) -> Result<Record, Fault> {
        self.on_host(|| container::attach(&self.node, &self.store, request))
    }

    /// A container as `change` wants it.
    pub(crate) fn container_with(&self, change: impl FnOnce(&mut Request)) -> Container {
        let namespace = empty();
        let mut request = self.request(&namespace);
        change(&mut request);
        let record = self.attach(&request).unwrap();
        Container { namespace, record }
    }

    pub(crate) fn container(&self) -> Container {
        self.container_with(|_| ())
    }

    pub(crate) fn publishing(&self, what: &str) -> Container {
        self.container_with(|request| request.ports = ports::parse(what).unwrap())
    }

    pub(crate) fn detach(&self, key: &Key) -> bool {
        self.on_host(|| container::detach(&self.store, key)).unwrap()
    }

    /// Packet filters of ours: how many rules in the tables of these containers, and of published ports.
    pub(crate) fn rules(&self, family: Family, table: &str) -> usize {
        self.on_host(|| Nft::open().unwrap().rules(family, table).unwrap().len())
    }

    /// The names of all tables of the host.
    pub(crate) fn tables(&self) -> String {
        self.bed.host(1).run("nft", &["list", "tables"])
    }

    /// Names of the host's devices, sorted.
    pub(crate) fn links(&self) -> Vec<String> {
        let mut names: Vec<_> = self.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        names.sort();
        names
    }
}

/// A namespace as a runtime prepares it.
pub(crate) fn empty() -> NetNs {
    let namespace = NetNs::anonymous().unwrap();
    // The kernel's own addresses can be used at once.
    namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
    namespace
}
