//! What was seen: plain data, so that a check is a function of it, and a test can make a host up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use linux::netlink::{Address, Link, Neighbour, Route, RouteLookup, Rule};
use linux::nft::Listing;

use crate::api::status::{ContainerStatus, NetworkStatus, PeerStatus};
use crate::api::{Examination, PeerExamination, Status};

/// Something that was looked at, or why it could not be.
pub type Seen<T> = Result<T, String>;

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What concerns all daemons.
    pub host: Host,
    /// Those that are looked at, by device.
    pub daemons: Vec<Daemon>,
}

/// The host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Whether we have CAP_NET_ADMIN, so that `sudo` need not be said.
    pub root: bool,
    /// Whether `/dev/net/tun` can be used; otherwise the errno and the sentence that say why not.
    pub tun: Result<(), (i32, String)>,
    /// The devices.
    pub links: Vec<Link>,
    /// Addresses of all devices.
    pub addresses: Vec<Address>,
    /// Routes of all tables.
    pub routes: Vec<Route>,
    /// Which tables are asked, and what is refused before: policy routing, in the kernel's order.
    pub rules: Vec<Rule>,
    /// Who is behind which link-layer address, as far as the kernel knows.
    pub neighbours: Vec<Neighbour>,
    /// The packet filters of nf_tables.
    pub filters: Seen<Listing>,
    /// Tables of the former iptables that have rules, or policies that drop, which cannot be read as those of nf_tables.
    pub legacy_tables: Vec<String>,
    /// Kernel settings by their path under `/proc/sys`, with dots between its parts; devices' names are one part.
    pub settings: BTreeMap<String, i64>,
    /// Whether a time service keeps the clock.
    pub synchronised: Option<bool>,
    /// The time of day since 1970.
    pub now: Duration,
    /// Whether the processor has instructions for AES-GCM.
    pub aes: bool,
    /// Packets that the reverse-path filter has dropped: before and after the daemons sent something to their peers.
    pub reverse_filtered: Option<(u64, u64)>,
    /// Of each kind of super-packet, what the kernel made of one.
    pub segmentation: Seen<Vec<Segmentation>>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            name: String::new(),
            root: false,
            tun: Ok(()),
            links: Vec::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            neighbours: Vec::new(),
            filters: Ok(Listing::default()),
            legacy_tables: Vec::new(),
            settings: BTreeMap::new(),
            synchronised: None,
            now: Duration::ZERO,
            aes: true,
            reverse_filtered: None,
            segmentation: Ok(Vec::new()),
        }
    }
}

/// What the kernel made of a super-packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segmentation {
    /// Such as `TCP over IPv4`.
    pub what: String,
    /// What is wrong with it; nothing if it was as it should be.
    pub wrong: Option<String>,
}

/// A daemon, or what is left of one.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Its device.
    pub device: String,
    /// What it says of itself.
    pub state: State,
    /// Its capabilities, as in `/proc/PID/status`.
    pub capabilities: Option<u64>,
    /// The unit of systemd that starts it, if there is one.
    pub unit: Option<String>,
    /// What it measured.
    pub examination: Seen<Examination>,
    /// How datagrams would go to each address that peers are at.
    pub ways: BTreeMap<IpAddr, Option<RouteLookup>>,
    /// How packets into each prefix of the peers would go: to one host of it, and to one of each part that has a route of its own elsewhere.
    pub behind: BTreeMap<IpNet, Vec<Answer>>,
    /// The bridge of its containers, and what was given to whom.
    pub bridge: Option<String>,
    /// The containers of the node, with their link-layer addresses.
    pub containers: Vec<Container>,
    /// Whether a container was answered by another node.
    pub ping: Option<Ping>,
    /// Of each URL of the registry, why nobody answers there; nothing if somebody does.
    pub registries: BTreeMap<String, Option<String>>,
    /// Datagrams that were lost since the buffer of a socket was full.
    pub lost_datagrams: Option<u64>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            device: String::new(),
            state: State::Dead,
            capabilities: None,
            unit: None,
            examination: Err("it was not asked".into()),
            ways: BTreeMap::new(),
            behind: BTreeMap::new(),
            bridge: None,
            containers: Vec::new(),
            ping: None,
            registries: BTreeMap::new(),
            lost_datagrams: None,
        }
    }
}

/// What the kernel answers to the question how a packet would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where to.
    pub to: IpAddr,
    /// How; or the errno that a sender would see.
    pub way: Result<RouteLookup, i32>,
}

/// What a daemon says of itself.
#[derive(Debug, Clone)]
pub enum State {
    /// It was killed, and has left a device or a socket.
    Dead,
    /// It does not answer, for this reason.
    Silent(String),
    /// This.
    Up(Box<Status>),
}

/// A ping from within a container to the device of another node that there is a session with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The container.
    pub from: String,
    /// The other node.
    pub node: String,
    /// The address of its device.
    pub to: IpAddr,
    /// Whether there was an answer.
    pub answered: bool,
}

/// A container of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// What `adit ps` shows.
    pub shown: ContainerStatus,
    /// The link-layer address of its device.
    pub mac: [u8; 6],
}

impl Facts {
    /// The daemons that answered, each with what it said.
    pub fn up(&self) -> impl Iterator<Item = (&Daemon, &Status)> {
        self.daemons.iter().filter_map(|daemon| match &daemon.state {
            State::Up(status) => Some((daemon, &**status)),
            State::Dead | State::Silent(_) => None,
        })
    }

    /// A command with `sudo` before it, where that is needed.
    pub fn as_root(&self, command: impl std::fmt::Display) -> String {
        if self.host.root { command.to_string() } else { format!("sudo {command}") }
    }
}

impl Host {
    /// The device with this number.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The name of the device with this number.
    pub fn device(&self, index: u32) -> &str {
        self.link(index).map_or("?", |link| &link.name)
    }

    /// The number of the device with this name.
    pub fn index(&self, name: &str) -> Option<u32> {
        self.links.iter().find(|link| link.name == name).map(|link| link.index)
    }

    /// A setting: `setting(&["net", "ipv4", "conf", "eth0", "rp_filter"])`.
    pub fn setting(&self, path: &[&str]) -> Option<i64> {
        self.settings.get(&path.join(".")).copied()
    }

    /// Whether an address is one of this host.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.net.addr() == address)
    }

    /// The device that has an address.
    pub fn card_of(&self, address: IpAddr) -> Option<u32> {
        self.addresses.iter().find(|own| own.net.addr() == address).map(|own| own.index)
    }
}

impl Daemon {
    /// What was measured of a peer.
    pub fn measured(&self, peer: &PeerStatus) -> Option<&PeerExamination> {
        self.examination.as_ref().ok()?.peers.iter().find(|measured| measured.name == peer.name)
    }

    /// Whether a peer with a session answered nothing of what was just sent within it: neither probes nor the question.
    pub fn is_unanswered(&self, peer: &PeerStatus) -> bool {
        let is_mute = |measured: &PeerExamination| measured.size == 0 && measured.told.is_none();
        peer.session == "up" && self.measured(peer).is_some_and(is_mute)
    }

    /// The file it was started with, for advice; a word where nobody knows.
    pub fn file(&self) -> String {
        self.source().map_or_else(|| "the configuration".into(), |source| source.display().to_string())
    }

    /// The same, where it is known.
    pub fn source(&self) -> Option<&Path> {
        let source = &self.examination.as_ref().ok()?.source;
        (!source.as_os_str().is_empty()).then_some(source.as_path())
    }

    /// How a datagram would go to a peer.
    pub fn way(&self, peer: &PeerStatus) -> Option<RouteLookup> {
        *self.ways.get(&endpoint(peer)?.ip())?
    }
}

/// Where a peer is.
pub fn endpoint(peer: &PeerStatus) -> Option<std::net::SocketAddr> {
    peer.endpoint.as_ref()?.parse().ok()
}

/// Whether a node carries packets of others than itself: of containers, or of clients.
pub fn carries(network: &NetworkStatus) -> bool {
    !network.containers.is_empty() || !network.clients.is_empty()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            layer: linux::netlink::Layer::Ethernet,
            mac: None,
            mtu: 1500,
            up: true,
            running: true,
            controller: None,
            port: None,
            lower: None,
            alias: None,
            tx_queue_len: 1000,
            gso_max_size: 65536,
            gso_max_segs: 65535,
            statistics: linux::netlink::Statistics::default(),
        }
    }

    pub(crate) fn address(index: u32, net: &str) -> Address {
        Address { index, net: net.parse().unwrap(), peer: None, tentative: false, permanent: true }
    }

    pub(crate) fn route(destination: &str, device: u32, protocol: u8) -> Route {
        Route { device: Some(device), protocol, ..Route::new(destination.parse().unwrap()) }
    }

    /// That a packet would go by a device.
    pub(crate) fn answer(to: &str, device: u32) -> Answer {
        let kind = linux::netlink::RouteKind::Unicast;
        Answer {
            to: to.parse().unwrap(),
            way: Ok(RouteLookup { device, source: None, gateway: None, mtu: None, kind }),
        }
    }

    /// A host with a card and a tunnel to one sealed peer, all well.
    pub(crate) fn tunnel() -> Facts {
        let mut status = crate::api::status::tests::sample();
        status.device.reason = None;
        status.device.offloads = ["csum", "tso4", "tso6", "uso4", "uso6"].map(str::to_owned).into();
        status.transport.receive_buffer = 16 << 20;
        status.transport.send_buffer = 16 << 20;
        status.transport.listen = "0.0.0.0:7777".parse().unwrap();
        status.peers.truncate(1);
        let peer = &mut status.peers[0];
        (peer.transport, peer.secure, peer.session) = ("sealed".into(), true, "up".into());
        (peer.public_key, peer.handshake_s) = (Some("theirs".into()), Some(60));
        let examination = Examination {
            source: "/etc/adit/adit.toml".into(),
            public_keys: vec!["ours".into()],
            mark: None,
            asked_buffer: 8 << 20,
            peers: vec![PeerExamination {
                name: "berlin".into(),
                size: 1440,
                target: 1440,
                in_use: 1440,
                round_trip_us: Some(900),
                local: Some(("192.0.2.1".parse().unwrap(), 2)),
                told: Some(crate::api::Told {
                    seen_at: Some("192.0.2.1:7777".parse().unwrap()),
                    ahead_ns: 1000,
                    uncertain_ns: 1000,
                }),
            }],
            left_out: 0,
            silent: Vec::new(),
        };
        let lookup = RouteLookup {
            device: 2,
            source: Some("192.0.2.1".parse().unwrap()),
            gateway: None,
            mtu: None,
            kind: linux::netlink::RouteKind::Unicast,
        };
        let daemon = Daemon {
            device: "adit0".into(),
            state: State::Up(Box::new(status)),
            capabilities: Some(1 << 12),
            unit: Some("adit.service".into()),
            examination: Ok(examination),
            ways: BTreeMap::from([("192.0.2.2".parse().unwrap(), Some(lookup))]),
            behind: BTreeMap::from([("10.77.0.2/32".parse().unwrap(), vec![answer("10.77.0.2", 3)])]),
            lost_datagrams: Some(0),
            ..Daemon::default()
        };
        let mut tun = link(3, "adit0", Some("tun"));
        tun.alias = Some(crate::plan::ALIAS.into());
        let settings = [("all", 0), ("default", 0), ("eth0", 0), ("adit0", 0), ("lo", 0)];
        let host = Host {
            name: "oslo".into(),
            root: true,
            links: vec![link(1, "lo", None), link(2, "eth0", None), tun],
            addresses: vec![address(2, "192.0.2.1/24"), address(3, "10.77.0.1/24")],
            routes: vec![
                route("0.0.0.0/0", 2, 3),
                route("192.0.2.0/24", 2, 2),
                route("10.77.0.0/24", 3, 2),
                route("10.77.0.2/32", 3, linux::netlink::PROTOCOL),
            ],
            settings: settings.iter().map(|(d, v)| (format!("net.ipv4.conf.{d}.rp_filter"), *v)).collect(),
            synchronised: Some(true),
            now: Duration::from_secs(1_795_000_000),
            reverse_filtered: Some((7, 7)),
            ..Host::default()
        };
        Facts { host, daemons: vec![daemon] }
    }

    /// A node of a network with a container.
    pub(crate) fn node() -> Facts {
        let mut facts = tunnel();
        let network = crate::api::status::tests::node().network.unwrap();
        let [daemon] = &mut facts.daemons[..] else { unreachable!() };
        daemon.bridge = Some("adit-br0".into());
        let container = Container { shown: network.containers[0].clone(), mac: [10, 88, 10, 42, 7, 2] };
        daemon.containers = vec![container];
        let to = "10.42.8.0".parse().unwrap();
        daemon.ping = Some(Ping { from: "web".into(), node: "berlin".into(), to, answered: true });
        daemon.registries = BTreeMap::from([("https://192.0.2.1:7780".to_owned(), None)]);
        daemon.behind = BTreeMap::from([("10.42.8.0/24".parse().unwrap(), vec![answer("10.42.8.1", 3)])]);
        if let State::Up(status) = &mut daemon.state {
            status.peers[0].allowed_ips = vec!["10.42.8.0/24".parse().unwrap()];
            let public = vec!["192.0.2.1:7777".to_owned()];
            status.network = Some(NetworkStatus { public, ..network });
        }
        let host = &mut facts.host;
        host.links.push(link(4, "adit-br0", Some("bridge")));
        host.addresses.push(address(4, "10.42.7.1/24"));
        host.routes = vec![
            route("0.0.0.0/0", 2, 3),
            route("192.0.2.0/24", 2, 2),
            route("10.42.8.0/24", 3, linux::netlink::PROTOCOL),
            route("10.42.7.0/24", 4, 2),
        ];
        host.settings
            .extend(["adit0", "adit-br0", "eth0"].map(|device| (format!("net.ipv4.conf.{device}.forwarding"), 1)));
        facts
    }

    /// The status of the first daemon.
    pub(crate) fn status(facts: &mut Facts) -> &mut Status {
        match &mut facts.daemons[0].state {
            State::Up(status) => status,
            State::Dead | State::Silent(_) => panic!("it is up"),
        }
    }

    /// The first peer answers nothing.
    pub(crate) fn mute(facts: &mut Facts) {
        let peer = measured(facts);
        (peer.size, peer.told) = (0, None);
    }

    /// What was measured of the first peer.
    pub(crate) fn measured(facts: &mut Facts) -> &mut PeerExamination {
        &mut facts.daemons[0].examination.as_mut().unwrap().peers[0]
    }
}
