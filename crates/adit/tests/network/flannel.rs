//! Among flannel's own nodes, whose bytes these are: a stand-in reads and writes etcd as flannel does and speaks its UDP format, and shares no
//! code with us but the card.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use linux::netlink::{LinkChange, Route};
use linux::poll::readable;
use linux::tun::{Device, Options, Queue};
use wire::vnet::VnetHdr;

use crate::bed::packet::{MARK, UdpPacket};
use crate::bed::sniffer::{Sniffer, contains};
use crate::bed::traffic::exchange_tcp;
use crate::bed::{Bed, at, wait_for};
use crate::etcd::{Etcd, PREFIX};
use crate::world::{Container, Daemon, Node, all_talk};

/// The network configuration that flannel's documentation has for this backend.
const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;

/// The port of flannel's udp backend.
const PORT: u16 = 8285;

/// What every packet is dropped as that no peer may send.
const DROPS: [&str; 4] = ["unknown_endpoint", "wrong_transport", "wrong_source", "unrecognised"];

// ---- the stand-in ------------------------------------------------------------------------------------------------------

/// A node of flannel's in udp mode.
struct Flannel {
    table: Arc<Mutex<Vec<(Ipv4Net, Ipv4Addr)>>>,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flannel {
    /// Takes a subnet and begins. `node` is used for its directories only.
    fn start(node: &Node<'_>, etcd: &Etcd<'_>, subnet: &str) -> Self {
        let subnet: Ipv4Net = subnet.parse().unwrap();
        let (host, public) = (node.host, node.underlay());
        let key = format!("{PREFIX}/subnets/{}-{}", subnet.network(), subnet.prefix_len());
        etcd.put_leased(&key, format!(r#"{{"PublicIP":"{public}","PublicIPv6":null}}"#).as_bytes());

        host.set(&["net", "ipv4", "ip_forward"], "1");
        let options = Options { multi_queue: false, offload: false, ..Options::new("flannel0") };
        let device = host.namespace.run(|| Device::open(options)).unwrap().unwrap();
        let mut netlink = host.netlink();
        let index = netlink.existing_link("flannel0").unwrap().index;
        let change = LinkChange { mtu: Some(1472), up: Some(true), ..LinkChange::default() };
        netlink.change_link(index, &change).unwrap();
        netlink.add_address(index, IpNet::new(subnet.network().into(), 32).unwrap(), true).unwrap();
        let route = Route::new("10.5.0.0/16".parse().unwrap());
        netlink.add_route(&Route { device: Some(index), ..route }).unwrap();
        let socket = host.namespace.run(|| UdpSocket::bind((public, PORT))).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();

        let first = Ipv4Addr::from(u32::from(subnet.network()) + 1);
        fs::create_dir_all(node.path("run")).unwrap();
        let lease = format!(
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={first}/{}\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n",
            subnet.prefix_len()
        );
        fs::write(node.path("run/subnet.env"), lease).unwrap();

        let (table, received, stop) = (Arc::default(), Arc::default(), Arc::default());
        let proxy = Proxy {
            tun: device.queues.into_iter().next().unwrap(),
            socket,
            table: Arc::clone(&table),
            received: Arc::clone(&received),
            stop: Arc::clone(&stop),
        };
        let thread = Some(thread::spawn(move || proxy.run()));
        Self { table, received, stop, thread }
    }

    /// Reads all leases but its own, and waits until there are so many.
    fn learn(&self, etcd: &Etcd<'_>, own: &Node<'_>, count: usize) {
        let others = wait_for("leases in flannel's format", || {
            let mut leases = leases_as_flannel_reads_them(etcd);
            leases.retain(|(_, public)| IpAddr::from(*public) != own.underlay());
            (leases.len() == count).then_some(leases)
        });
        *self.table.lock().unwrap() = others;
    }

    /// Datagrams that came.
    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Flannel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// flannel's `proxy_amd64.c`, by what it does.
struct Proxy {
    tun: Queue,
    socket: UdpSocket,
    table: Arc<Mutex<Vec<(Ipv4Net, Ipv4Addr)>>>,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    fn run(self) {
        let mut packet = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let _ = readable([self.tun.as_fd(), self.socket.as_fd()], Some(Duration::from_millis(20))).unwrap();
            while let Ok((_, length)) = self.tun.recv(&mut packet) {
                let packet = &mut packet[..length];
                // The kernel's own IPv6 goes nowhere.
                if packet[0] >> 4 != 4 || !forward(packet) {
                    continue;
                }
                let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
                let hop = self.table.lock().unwrap().iter().find(|(net, _)| net.contains(&to)).map(|(_, hop)| *hop);
                if let Some(hop) = hop {
                    let _ = self.socket.send_to(packet, (hop, PORT));
                }
            }
            loop {
                match self.socket.recv(&mut packet) {
                    Ok(length) => {
                        self.received.fetch_add(1, Ordering::Relaxed);
                        if length >= 20 && forward(&mut packet[..length]) {
                            let _ = self.tun.send(&VnetHdr::NONE, &packet[..length]);
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    // An ICMP error about what was sent.
                    Err(_) => {}
                }
            }
        }
    }
}

/// Lowers the TTL of an IPv4 packet by one, and makes its checksum anew; whether it lives.
fn forward(packet: &mut [u8]) -> bool {
    let length = usize::from(packet[0] & 15) * 4;
    if packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    packet[10..12].fill(0);
    let sum: u32 = packet[..length].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    true
}

/// As flannel reads etcd: its key's regular expression `(\d+\.\d+.\d+.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$`, and the field `PublicIP`. What does not
/// parse fails the test.
fn leases_as_flannel_reads_them(etcd: &Etcd<'_>) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let lease = |(key, value): (String, Vec<u8>)| {
        let name = key.rsplit('/').next().unwrap().split('&').next().unwrap();
        let (address, length) = name.split_once('-').unwrap_or_else(|| panic!("{key}"));
        let net = Ipv4Net::new(address.parse().unwrap(), length.parse().unwrap()).unwrap();
        let text = String::from_utf8(value).unwrap();
        let after = text.split_once(r#""PublicIP":""#).unwrap_or_else(|| panic!("{text}")).1;
        (net, after.split_once('"').unwrap().0.parse().unwrap())
    };
    etcd.leases().into_iter().map(lease).collect()
}

// ---- nodes of ours -----------------------------------------------------------------------------------------------------

/// Starts a node by flannel's options.
fn up<'n, 'h>(node: &'n Node<'h>, etcd: &Etcd<'_>, more: &[&str]) -> Daemon<'n, 'h> {
    let arguments = arguments(node, etcd, more);
    node.up_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn arguments(node: &Node<'_>, etcd: &Etcd<'_>, more: &[&str]) -> Vec<String> {
    let own = ["up", "--etcd-endpoints", &etcd.endpoints(), "--node-name", &format!("host{}", node.host.number)]
        .map(str::to_owned);
    own.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect()
}

/// The files of a node that knows `secret`, as options.
fn secrets(node: &Node<'_>, secret: &str) -> Vec<String> {
    let write = |name: &str, text: &str| {
        let path = node.path(name);
        fs::write(&path, text).unwrap();
        node.host.run("chmod", &["600", path.to_str().unwrap()]);
        path.to_str().unwrap().to_owned()
    };
    let key = node.adit(&["keygen"]);
    vec!["--secret-file".into(), write("secret", secret), "--private-key-file".into(), write("key", &key)]
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn dropped(daemon: &Daemon<'_, '_>) -> u64 {
    let drops = daemon.status().drops;
    DROPS.iter().filter_map(|reason| drops.get(*reason)).sum()
}

// ---- tests -------------------------------------------------------------------------------------------------------------

#[test]
fn a_node_among_flannels_own() {
    let bed = Bed::new(5);
    let etcd = Etcd::single(bed.host(5));
    etcd.put(&format!("{PREFIX}/config"), CONFIG.as_bytes());
    let (ours, theirs) = (Node::new(bed.host(1)), Node::new(bed.host(2)));
    let flannel = Flannel::start(&theirs, &etcd, "10.5.72.0/24");
    let (file, second) = (ours.path("run/subnet.env"), ours.path("flannel/subnet.env"));
    let options = [
        "--plain-from",
        "192.0.2.0/28",
        "--subnet-file",
        file.to_str().unwrap(),
        "--subnet-file",
        second.to_str().unwrap(),
        "--ip-masq",
        "--iface",
        "under0",
    ];
    let daemon = up(&ours, &etcd, &options);
    daemon.await_nodes(1);
    flannel.learn(&etcd, &theirs, 1);

    // What is in etcd, and in the file, is flannel's to the byte.
    let subnet = daemon.subnet();
    let key = format!("{PREFIX}/subnets/{}-24", subnet.addr());
    assert_eq!(String::from_utf8(etcd.get(&key)).unwrap(), r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#);
    let first = subnet.to_string().replace(".0/24", ".1/24");
    let expected =
        format!("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={first}\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n");
    for file in [&file, &second] {
        let text = wait_for("the lease in a file", || fs::read_to_string(file).ok());
        assert_eq!(text, expected);
    }
    let containers = [ours.container(), theirs.container()];
    all_talk(&containers);
    let status = ours.adit(&["status"]);
    assert!(status.contains("NOT ENCRYPTED: plain only") && status.contains("plain (not encrypted)"), "{status}");
    masquerades(&bed, &containers[0]);

    // Who is elsewhere, and who speaks in another's name, is not heard.
    intruders(&bed, &daemon, &containers);
    all_talk(&containers);

    // Restarted without anything but flannel's own file and lease, it has the same subnet.
    daemon.terminate();
    let again = up(&ours, &etcd, &options);
    assert_eq!(again.subnet(), subnet);
    again.await_nodes(1);
    all_talk(&containers);
}

/// What leaves the network for elsewhere has the host's address.
fn masquerades(bed: &Bed, container: &Container) {
    let socket = container.end().udp();
    let elsewhere = bed.host(3).namespace.run(|| UdpSocket::bind("192.0.2.3:0")).unwrap().unwrap();
    elsewhere.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut netlink = bed.host(3).netlink();
    let under = netlink.existing_link("under0").unwrap().index;
    assert!(netlink.routes(None).unwrap().iter().all(|route| route.device != Some(under) || route.gateway.is_none()));
    socket.send_to(b"out", elsewhere.local_addr().unwrap()).unwrap();
    let (_, from) = elsewhere.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), bed.host(1).underlay(crate::bed::Family::V4));
}

/// Datagrams that must not come in, from hosts 2 (a node of flannel's) and 3 (none).
fn intruders(bed: &Bed, daemon: &Daemon<'_, '_>, containers: &[Container; 2]) {
    let [inside, outside] = [containers[0].address, containers[1].address];
    let socket = containers[0].end().udp();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let port = socket.local_addr().unwrap().port();
    // Outside of plain-from.
    let mut netlink = bed.host(3).netlink();
    let under = netlink.existing_link("under0").unwrap().index;
    netlink.add_address(under, "192.0.2.77/24".parse().unwrap(), true).unwrap();
    let packet = |from: &str| UdpPacket::new((from.parse().unwrap(), 9), (inside, port), MARK).bytes();
    let attempts = [
        ("192.0.2.77", 3, packet(&outside.to_string()), "an address outside of plain-from"),
        ("192.0.2.3", 3, packet(&outside.to_string()), "an address within it that no lease names"),
        ("192.0.2.2", 2, packet("10.5.99.7"), "an inner source of nobody's"),
        ("192.0.2.2", 2, packet(&inside.to_string()), "an inner source of our own"),
        ("192.0.2.2", 2, packet("192.0.2.9"), "an inner source outside of the network"),
    ];
    for (from, host, packet, what) in attempts {
        let before = dropped(daemon);
        // On another port than the node's own, which is in use there; the address is what counts... and the port too.
        let send = || UdpSocket::bind((from, 0)).unwrap().send_to(&packet, at("192.0.2.1".parse().unwrap(), PORT));
        bed.host(host).namespace.run(send).unwrap().unwrap();
        wait_for(what, || (dropped(daemon) > before).then_some(()));
        assert!(socket.recv(&mut [0; 64]).is_err(), "{what}");
    }
}

#[test]
fn without_being_allowed_to_nobody_speaks_in_the_clear() {
    let bed = Bed::new(4);
    let etcd = Etcd::single(bed.host(4));
    etcd.put(&format!("{PREFIX}/config"), CONFIG.as_bytes());
    let (ours, theirs) = (Node::new(bed.host(1)), Node::new(bed.host(2)));
    let flannel = Flannel::start(&theirs, &etcd, "10.5.72.0/24");
    let nobody = ours.refused(&refs(&arguments(&ours, &etcd, &[])));
    assert!(nobody.contains("--secret-file") && nobody.contains("--plain-from"), "{nobody}");

    let secret = ours.adit(&["keygen", "--preshared"]);
    let daemon = up(&ours, &etcd, &refs(&secrets(&ours, &secret)));
    flannel.learn(&etcd, &theirs, 1);
    let containers = [ours.container(), theirs.container()];
    assert!(!containers[0].pings(containers[1].address), "nothing goes there");
    assert_eq!(flannel.received(), 0);
    let before = dropped(&daemon);
    assert!(!containers[1].pings(containers[0].address), "nothing comes from there");
    wait_for("drops", || (dropped(&daemon) > before).then_some(()));
    assert_eq!(flannel.received(), 0);
    let status = daemon.network();
    assert!(status.nodes.is_empty() && status.trust == "shared secret", "{status:?}");

    // One that may, but not from there.
    daemon.terminate();
    let options = [secrets(&ours, &secret), vec!["--plain-from".into(), "198.51.100.0/24".into()]].concat();
    let daemon = up(&ours, &etcd, &refs(&options));
    assert!(!containers[0].pings(containers[1].address) && !containers[1].pings(containers[0].address));
    assert_eq!(flannel.received(), 0);
    assert!(daemon.network().nodes.is_empty() && dropped(&daemon) > 0);
}

#[test]
fn among_flannels_own_ours_are_sealed_among_themselves() {
    let bed = Bed::new(4);
    let etcd = Etcd::single(bed.host(4));
    etcd.put(&format!("{PREFIX}/config"), CONFIG.as_bytes());
    let nodes: Vec<Node<'_>> = bed.hosts[..3].iter().map(Node::new).collect();
    let flannel = Flannel::start(&nodes[2], &etcd, "10.5.72.0/24");
    let secret = nodes[0].adit(&["keygen", "--preshared"]);
    let daemons = [0, 1].map(|index| {
        let options = [secrets(&nodes[index], &secret), vec!["--plain-from".into(), "192.0.2.0/24".into()]].concat();
        up(&nodes[index], &etcd, &refs(&options))
    });
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
    flannel.learn(&etcd, &nodes[2], 2);
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    let sniffer = Sniffer::open(&bed.switch, "port1").watch(|_, frame| {
        let ip = frame.get(14..34).filter(|_| frame[12..14] == [8, 0])?;
        let ends = [ip[15], ip[19]];
        (ends == [1, 2] || ends == [2, 1] || ends == [1, 3] || ends == [3, 1])
            .then(|| (ends.contains(&3), contains(frame, MARK)))
    });
    all_talk(&containers);
    exchange_tcp(containers[0].end(), containers[1].end(), 2_000_000, 10);
    let seen = sniffer.collect_what_was_seen().0;
    let count = |flannel, clear| seen.iter().filter(|frame| **frame == (flannel, clear)).count();
    assert_eq!(count(false, true), 0, "between our two everything is sealed");
    assert!(count(false, false) > 10 && count(true, true) > 10, "{} and {}", count(false, false), count(true, true));
    for (daemon, other) in daemons.iter().zip(["host2", "host1"]) {
        let nodes = daemon.network().nodes;
        let transport = |name: &str| nodes.iter().find(|node| node.name == name).map(|node| node.transport.clone());
        assert_eq!(transport(other).as_deref(), Some("sealed"));
        assert_eq!(transport("192.0.2.3").as_deref(), Some("plain"));
        assert!(daemon.network().problems.is_empty(), "{:?}", daemon.network().problems);
    }
    let status = nodes[0].adit(&["status"]);
    assert!(status.contains("plain (not encrypted)"), "{status}");

    // A record without a signature, at the address of a sealed node: that one is not spoken to in the clear, nor disturbed.
    let subnet = daemons[1].subnet();
    etcd.put(&format!("{PREFIX}/subnets/10.5.200.0-24"), br#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#);
    daemons[0].await_problem("at 192.0.2.2 there is host2, which is not spoken to in the clear");
    let sniffer = Sniffer::open(&bed.switch, "port1").watch(|_, frame| {
        let ip = frame.get(14..34).filter(|_| frame[12..14] == [8, 0])?;
        ([ip[15], ip[19]] == [1, 2] && contains(frame, MARK)).then_some(())
    });
    containers[0].end().udp().send_to(MARK, SocketAddr::from(([10, 5, 200, 9], 9))).unwrap();
    all_talk(&containers);
    assert_eq!(sniffer.collect_what_was_seen().0.len(), 0, "in the clear to a sealed node");
    assert_eq!(daemons[1].subnet(), subnet);
}

#[test]
fn configurations_that_come_late_or_do_not_fit() {
    let bed = Bed::new(3);
    let etcd = Etcd::single(bed.host(3));
    let node = Node::new(bed.host(1));
    let options = ["--plain-from", "192.0.2.0/24"];
    let config = format!("{PREFIX}/config");
    etcd.put(&config, br#"{"Network":"10.5.0.0/16"}"#);
    let refusal = node.refused(&refs(&arguments(&node, &etcd, &options)));
    assert!(refusal.contains("names no backend, which means udp to flannel and nothing to adit"), "{refusal}");
    assert!(refusal.contains(r#""Backend": {"Type": "adit"}"#), "{refusal}");
    for (text, part) in [
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, "\"vxlan\", which adit does not speak"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"adit"}}"#, "certified nodes only"),
        (r#"{"Network":"10.5.0.0/40","Backend":{"Type":"udp"}}"#, "is no network configuration"),
    ] {
        etcd.put(&config, text.as_bytes());
        let refusal = node.refused(&refs(&arguments(&node, &etcd, &options)));
        assert!(refusal.contains(part), "{text}: {refusal}");
    }

    // The daemon first, the configuration later.
    etcd.delete(&config);
    let arguments = arguments(&node, &etcd, &options);
    let daemon = node.spawn(&refs(&arguments));
    wait_for("a word about waiting", || node.log().contains(&format!("waiting for {config}")).then_some(()));
    assert!(node.host.netlink().link("adit0").unwrap().is_none(), "nothing is made yet");
    etcd.put(&config, CONFIG.as_bytes());
    let line = daemon.lines.recv_timeout(crate::bed::PATIENCE).unwrap_or_else(|_| panic!("{}", node.log()));
    assert!(line.contains(" is up: "), "{line}");
    assert!(daemon.subnet().to_string().starts_with("10.5."));
    assert_eq!(node.log().matches("waiting for").count(), 1, "{}", node.log());
}
