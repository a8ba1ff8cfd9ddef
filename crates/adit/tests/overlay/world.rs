//! Two nodes of a network with containers behind them, and a host that is none, on one underlay.
//!
//! ```text
//!   container (10.42.1.2) ── br0 ── node 1 ── 192.0.2.1 ┐
//!                                                       ├ switch ── outsider (192.0.2.3)
//!   container (10.42.2.2) ── br0 ── node 2 ── 192.0.2.2 ┘
//! ```
//!
//! Of IPv6 they have fd42:0:0:n::/64. No host forwards anything unless somebody tells it to.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use adit::config::{self, Network, Origin, Overlay, RegistryAt};
use adit::{Directories, up};
use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink, Route, VethEnd};
use linux::netns::NetNs;
use linux::sysctl;

use crate::bed::daemon::{Configuration, Peer, Place};
use crate::bed::traffic::{End, connection, exchange_over};
use crate::bed::{Bed, Family, Host, await_address, wait_for};

/// How soon a daemon has repaired what somebody broke.
pub(crate) const REPAIR: Duration = Duration::from_secs(2);

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The network, per family.
pub(crate) const NETWORK: [&str; 2] = ["10.42.0.0/16", "fd42::/48"];

/// By this a test program knows that it is to be a daemon, and which.
const ROLE: &str = "ADIT_TEST_NODE";

pub(crate) struct World {
    pub(crate) bed: Bed,
    pub(crate) containers: [NetNs; 2],
}

pub(crate) fn which(family: Family) -> usize {
    usize::from(family == Family::V6)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fresh() -> NetNs {
    let namespace = NetNs::anonymous().unwrap();
    namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
    Netlink::open_in(&namespace).unwrap().set_up(1, true).unwrap();
    namespace
}

/// An address of a node's subnet.
pub(crate) fn inside(node: usize, family: Family, last: &str) -> IpAddr {
    ip(&[format!("10.42.{node}.{last}"), format!("fd42:0:0:{node}::{last}")][which(family)])
}

/// The subnet of a node.
pub(crate) fn subnet(node: usize, family: Family) -> IpNet {
    [format!("10.42.{node}.0/24"), format!("fd42:0:0:{node}::/64")][which(family)].parse().unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(true)
    }

    /// The same without the containers and their bridges.
    pub(crate) fn without_containers() -> Self {
        Self::with(false)
    }

    fn with(bridges: bool) -> Self {
        let bed = Bed::new(3);
        // The outsider is spoken to in the clear.
        bed.guard.switch_off();
        for host in &bed.hosts {
            for of in ["all", "default"] {
                host.set(&["net", "ipv4", "conf", of, "forwarding"], "0");
                host.set(&["net", "ipv6", "conf", of, "forwarding"], "0");
            }
        }
        let containers =
            if bridges { [1, 2].map(|node| container(bed.host(node), "c0", "2")) } else { [fresh(), fresh()] };
        // Both know a way to the world, which is the outsider: what leaks is answered.
        for node in [1, 2] {
            for family in FAMILIES {
                let default = Route {
                    gateway: Some(bed.host(3).underlay(family)),
                    protocol: 4,
                    ..Route::new(["0.0.0.0/0", "::/0"][which(family)].parse().unwrap())
                };
                bed.host(node).netlink().add_route(&default).unwrap();
            }
        }
        Self { bed, containers }
    }

    pub(crate) fn host(&self, node: usize) -> &Host {
        self.bed.host(node)
    }

    /// The configurations of both nodes, which know each other's keys.
    pub(crate) fn pair(&self) -> [Configuration; 2] {
        let end = |node: usize| {
            let other = 3 - node;
            let mut configuration = Configuration::new(self.host(node), &[other], Family::V4);
            configuration.addresses = vec![format!("10.77.0.{node}/32")];
            let nets = FAMILIES.map(|family| subnet(other, family).to_string()).to_vec();
            let peer = Peer::plain(format!("host{other}"), format!("192.0.2.{other}:7777"), nets);
            configuration.peers = vec![peer];
            configuration.listen = "[::]:7777".into();
            configuration
        };
        Configuration::with_keys([end(1), end(2)], "sealed")
    }

    pub(crate) fn nodes(&self) -> [Node<'_>; 2] {
        let [one, two] = self.pair();
        [Node::new(self.host(1), &one), Node::new(self.host(2), &two)]
    }

    /// A container's end.
    pub(crate) fn container(&self, node: usize, family: Family) -> End<'_> {
        End::new(&self.containers[node - 1], inside(node, family, "2"))
    }

    /// The outsider's end.
    pub(crate) fn outsider(&self, family: Family) -> End<'_> {
        let host = self.host(3);
        End::new(&host.namespace, host.underlay(family))
    }

    /// Containers of both nodes talk, as who they are.
    pub(crate) fn containers_talk(&self) {
        for family in FAMILIES {
            assert_eq!(seen(self.container(1, family), self.container(2, family)), inside(1, family, "2"));
            assert_eq!(seen(self.container(2, family), self.container(1, family)), inside(2, family, "2"));
        }
    }
}

/// Connects, moves some bytes both ways, and answers as whom the server sees the client.
pub(crate) fn seen(client: End<'_>, server: End<'_>) -> IpAddr {
    let (a, b) = connection(client, server);
    exchange_over((&a, &b), &[7; 20_001], &[8; 20_003]);
    b.peer_addr().unwrap().ip().to_canonical()
}

/// A container on the bridge `br0` of a host, which is made with the first.
pub(crate) fn container(host: &Host, port: &str, last: &str) -> NetNs {
    let container = fresh();
    let mut outside = host.netlink();
    if outside.link("br0").unwrap().is_none() {
        outside.create_bridge("br0", Some([2, 0, 0, 0, 1, 1])).unwrap();
        let bridge = outside.existing_link("br0").unwrap().index;
        outside.set_up(bridge, true).unwrap();
        for family in FAMILIES {
            let length = subnet(host.number, family).prefix_len();
            outside.add_address(bridge, IpNet::new(inside(host.number, family, "1"), length).unwrap(), true).unwrap();
        }
    }
    let bridge = outside.existing_link("br0").unwrap().index;
    let end = VethEnd { name: "eth0", netns: Some(&container), ..VethEnd::default() };
    outside.create_veth(&VethEnd { name: port, ..VethEnd::default() }, &end).unwrap();
    let index = outside.existing_link(port).unwrap().index;
    let change = LinkChange { controller: Some(Some(bridge)), up: Some(true), ..LinkChange::default() };
    outside.change_link(index, &change).unwrap();
    let mut netlink = Netlink::open_in(&container).unwrap();
    let index = netlink.existing_link("eth0").unwrap().index;
    netlink.set_up(index, true).unwrap();
    for family in FAMILIES {
        let address = inside(host.number, family, last);
        let length = subnet(host.number, family).prefix_len();
        netlink.add_address(index, IpNet::new(address, length).unwrap(), true).unwrap();
        await_address(&container, address);
        let everywhere = ["0.0.0.0/0", "::/0"][which(family)].parse().unwrap();
        let gateway = Some(inside(host.number, family, "1"));
        netlink.add_route(&Route { gateway, device: Some(index), ..Route::new(everywhere) }).unwrap();
        await_address(&host.namespace, inside(host.number, family, "1"));
    }
    container
}

/// Where a node's daemon keeps its things.
pub(crate) struct Node<'a> {
    pub(crate) host: &'a Host,
    pub(crate) place: Place,
}

/// What the lease of a daemon says, and whether it is one of a network.
#[derive(Clone, Copy)]
pub(crate) struct Lease {
    /// No lease, as before the registry is heard of.
    pub(crate) known: bool,
    pub(crate) in_network: bool,
    pub(crate) masquerade: bool,
    pub(crate) forward: bool,
}

impl Lease {
    pub(crate) const WHOLE: Self = Self { known: true, in_network: true, masquerade: true, forward: true };
}

impl<'a> Node<'a> {
    pub(crate) fn new(host: &'a Host, configuration: &Configuration) -> Self {
        Self { host, place: Place::new(host, configuration) }
    }

    pub(crate) fn start(&self) -> Running<'_> {
        self.start_with(Lease::WHOLE)
    }

    /// Starts a daemon with this lease, and waits until it is ready.
    pub(crate) fn start_with(&self, lease: Lease) -> Running<'_> {
        // A daemon takes its signals in one thread, and blocks them before there are others; here there is one already.
        let mut command = Command::new("env");
        command.arg("--block-signal=TERM,INT,HUP").arg(std::env::current_exe().unwrap());
        command.args(["--exact", "world::a_daemon_with_a_lease", "--nocapture"]);
        let Lease { known, in_network, masquerade, forward } = lease;
        let directory = self.place.path("");
        let role = format!("{} {} {known} {in_network} {masquerade} {forward}", directory.display(), self.host.number);
        let (log, out) = (self.place.path("log"), self.place.path("out"));
        let appended = fs::File::options().create(true).append(true).open(&log).unwrap();
        let out_file = fs::File::create(&out).unwrap();
        command.env(ROLE, role).stdin(Stdio::null()).stdout(out_file).stderr(appended);
        let child = self.host.namespace.run(|| command.spawn()).unwrap().unwrap();
        let mut running = Running { node: self, child };
        wait_for("a daemon", || {
            if let Some(status) = running.child.try_wait().unwrap() {
                panic!("the daemon gave up, {status}: {}", running.log());
            }
            fs::read_to_string(&out).unwrap().contains(" is up: ").then_some(())
        });
        running
    }

    /// Runs a verb to its end, which is to succeed.
    pub(crate) fn run(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.place.run(verb, arguments);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// All of the host's network, as it is printed.
    pub(crate) fn state(&self) -> Vec<String> {
        let commands = [
            "ip link",
            "ip address",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
            "nft list ruleset",
            "sysctl -a -r ^net.ipv[46].(ip_forward|conf..*.(forwarding|force_forwarding|accept_ra|src_valid_mark))",
        ];
        let all = commands.map(|command| {
            let mut words = command.split(' ');
            self.host.run(words.next().unwrap(), &words.collect::<Vec<_>>())
        });
        let line = |line: &str| {
            // A device that was made anew has another number; what was counted goes on.
            let line = match line.split_once(": ") {
                Some((number, rest)) if rest.starts_with("adit") && number.parse::<u32>().is_ok() => rest,
                _ => line,
            };
            let words = line.split(' ').scan(false, |skip, word| {
                let left_out = std::mem::replace(skip, matches!(word, "packets" | "bytes"));
                Some(if left_out { "" } else { word })
            });
            // A device without link layer has no state of its own.
            words.collect::<Vec<_>>().join(" ").replace("state UNKNOWN", "state UP")
        };
        let volatile = |line: &String| line.contains("NO-CARRIER") || line.contains("expires");
        let mut lines: Vec<_> =
            all.iter().flat_map(|text| text.lines().map(line)).filter(|line| !volatile(line)).collect();
        // What comes back stands behind what stayed.
        lines.sort();
        lines
    }

    /// Checks that the host is as it was.
    pub(crate) fn check(&self, before: &[String]) {
        let after = self.state();
        let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let less: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        assert!(after == before, "too much: {more:#?}, too little: {less:#?}");
    }
}

/// A daemon that is up. It is killed when this is dropped.
pub(crate) struct Running<'a> {
    node: &'a Node<'a>,
    child: Child,
}

impl Running<'_> {
    pub(crate) fn log(&self) -> String {
        self.node.log()
    }

    fn end(&mut self, signal: &str) {
        let kill = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.child.id())]).status().unwrap();
        assert!(kill.success());
        let status = wait_for("the daemon's end", || self.child.try_wait().unwrap());
        assert!(signal == "KILL" || status.success(), "{status}\n{}", self.log());
    }

    pub(crate) fn terminate(mut self) {
        self.end("TERM");
    }

    pub(crate) fn crash(mut self) {
        self.end("KILL");
    }

    /// Waits until it has ended by itself.
    pub(crate) fn await_end(mut self) {
        let status = wait_for("the daemon's end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- node {}:\n{}", self.node.host.number, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a test program is when [`Node::start`] starts it: a daemon whose lease is given, so that nothing depends on a registry. Otherwise
/// there is nothing to do.
#[test]
fn a_daemon_with_a_lease() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    let [directory, node, lease @ ..] = &words[..] else { panic!("{role}") };
    let [known, in_network, masquerade, forward] = lease else { panic!("{role}") };
    let is = |word: &str| word == "true";
    let directory = Path::new(directory);
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let mut tunnel = config::load(&directory.join("adit0.toml")).unwrap();
    tunnel.peers.iter_mut().filter(|peer| peer.name.starts_with("host")).for_each(|peer| peer.origin = Origin::Network);
    if is(known) {
        tunnel.overlay = Some(Overlay {
            networks: NETWORK.map(|net| net.parse().unwrap()).to_vec(),
            subnets: FAMILIES.map(|family| subnet(node.parse().unwrap(), family)).to_vec(),
            masquerade: is(masquerade),
            forward: is(forward),
            port: None,
            membership: None,
        });
    }
    if is(in_network) {
        let nowhere = RegistryAt::Endpoints(vec!["http://127.0.0.1:1".into()]);
        tunnel.network = Some(Network::new(nowhere, format!("host{node}")));
    }
    let at = |name: &str| -> PathBuf { directory.join(name) };
    let directories = Directories { runtime: at("run"), state: at("state"), wireguard: at("wireguard") };
    up::run(tunnel, &directories, up::Lifetime::UntilStopped).unwrap();
}
