//! What a tunnel refuses: it reaches nobody inside, it is counted for its reason, strangers hear nothing, and the traffic that
//! is in order goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use bed::daemon::{Configuration, Daemon, PORT, Place};
use bed::packet::{Random, UdpPacket};
use bed::sniffer::{Sniffer, Watch, contains};
use bed::traffic::{End, connection, exchange_over};
use bed::{Bed, Family, at, wait_for};
use linux::udp::{self, Flow, SendQueue};
use wire::ecn::Ecn;

/// In every packet that must not arrive.
const MARK: &[u8; 16] = b"adit-must-refuse";

/// Host 1 under test, with the peers 2 and 3; 2 is a daemon too, in 3's place is the test, and 4 is a stranger.
struct Scene {
    bed: Bed,
    places: [Place; 2],
}

impl Scene {
    fn new() -> Self {
        let bed = Bed::new(4);
        let mut configuration = Configuration::new(bed.host(1), &[2, 3], Family::V4);
        configuration.peers[1].endpoint = format!("[2001:db8::3]:{PORT}");
        configuration.listen = format!("[::]:{PORT}");
        let one = Place::new(bed.host(1), &configuration);
        let two = Place::new(bed.host(2), &Configuration::new(bed.host(2), &[1], Family::V4));
        Self { bed, places: [one, two] }
    }

    fn start(&self) -> Live<'_> {
        let [one, two] = self.places.each_ref().map(Place::start);
        let end = |n: usize| End::new(&self.bed.host(n).namespace, self.bed.host(n).inner(Family::V4));
        let flow = connection(end(1), end(2));
        let inside = Sniffer::open(&self.bed.host(1).namespace, "adit0");
        let inside = inside.watch(|_, bytes| contains(bytes, MARK).then(|| bytes.to_vec()));
        let peer = End::new(&self.bed.host(3).namespace, self.bed.host(3).underlay(Family::V6)).udp_on(PORT);
        peer.set_nonblocking(true).unwrap();
        Live { scene: self, one, _two: two, flow, inside, peer }
    }
}

/// The scene with its daemons up.
struct Live<'a> {
    scene: &'a Scene,
    one: Daemon<'a>,
    _two: Daemon<'a>,
    flow: (TcpStream, TcpStream),
    inside: Watch<Vec<u8>>,
    /// Peer 3's endpoint.
    peer: UdpSocket,
}

impl Live<'_> {
    /// Host 1, as its peer 3 reaches it.
    fn target(&self) -> SocketAddr {
        at(self.scene.bed.host(1).underlay(Family::V6), PORT)
    }

    fn inner(&self, host: usize, family: Family) -> IpAddr {
        self.scene.bed.host(host).inner(family)
    }

    /// Sends each datagram from peer 3's endpoint and waits until all were dropped for `reason`.
    fn refuses(&self, reason: &str, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.peer.send_to(datagram, self.target()).unwrap();
        }
        self.one.await_drops(reason, datagrams.len() as u64);
        self.flow_goes_on();
    }

    fn flow_goes_on(&self) {
        let mut random = Random::new(1);
        exchange_over((&self.flow.0, &self.flow.1), &random.bytes(200_001), &random.bytes(100_001));
    }

    /// Nothing of what was refused was seen inside, and nothing was sent back.
    fn end(self) {
        assert_eq!(self.inside.collect(), [[0u8; 0]; 0], "nothing reaches the inner side");
        assert_eq!(self.peer.recv(&mut [0; 2000]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let status = self.one.status();
        assert_eq!((status.peers[1].rx_packets, status.peers[1].tx_packets), (0, 0));
    }
}

fn marked(from: IpAddr, to: IpAddr) -> Vec<u8> {
    UdpPacket::new((from, 4000), (to, 5000), MARK).bytes()
}

#[test]
fn datagrams_of_strangers_are_dropped_and_nothing_is_answered() {
    let scene = Scene::new();
    let live = scene.start();
    let stranger = scene.bed.host(4);
    let packet = marked(live.inner(2, Family::V4), live.inner(1, Family::V4));
    let mut count = 0;
    for family in [Family::V4, Family::V6] {
        let seen = Sniffer::open(&stranger.namespace, "under0");
        let from_us = scene.bed.host(1).underlay(family);
        let answers = seen.watch(move |captured, bytes| {
            let packet = wire::ip::IpPacket::parse(bytes.get(14..)?).ok()?;
            // Neighbour discovery is the underlay's own.
            let discovery = packet.protocol() == 58 && matches!(packet.payload().first(), Some(133..=137));
            let incoming = captured.direction != linux::capture::Direction::Outgoing;
            (incoming && packet.source() == from_us && !discovery).then(|| bytes.to_vec())
        });
        let to = at(from_us, PORT);
        // Another host, from the very port; and a peer's host, from another port.
        let foreign = End::new(&stranger.namespace, stranger.underlay(family)).udp_on(PORT);
        let other_port = End::new(&scene.bed.host(2).namespace, scene.bed.host(2).underlay(family)).udp();
        for socket in [&foreign, &other_port] {
            for datagram in [&packet[..], b"", b"\x01\0\0\0hello", &MARK[..], &[0x45; 1400]] {
                socket.send_to(datagram, to).unwrap();
                count += 1;
            }
        }
        live.one.await_drops("unknown_endpoint", count);
        live.flow_goes_on();
        assert_eq!(answers.collect(), [[0u8; 0]; 0], "a stranger hears nothing");
        for socket in [foreign, other_port] {
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 100]).is_err(), "a stranger hears nothing");
        }
    }
    live.end();
}

#[test]
fn a_peer_speaks_for_its_own_addresses_only() {
    let scene = Scene::new();
    let live = scene.start();
    let mut datagrams = Vec::new();
    let to = |family| live.inner(1, family);
    for (family, sources) in [
        (Family::V4, ["10.77.0.2", "10.42.0.1", "10.77.0.1", "203.0.113.9", "127.0.0.1", "0.0.0.0", "255.255.255.255"]),
        (Family::V6, ["fd77::2", "fd40:2::1", "fd77::1", "2001:db8::9", "::1", "::", "ff02::1"]),
    ] {
        datagrams.extend(sources.map(|source| marked(source.parse().unwrap(), to(family))));
    }
    live.refuses("wrong_source", &datagrams);
    live.end();
}

#[test]
fn nothing_is_relayed_and_nothing_is_for_nobody() {
    let scene = Scene::new();
    let live = scene.start();
    let mut datagrams = Vec::new();
    for (family, destinations) in [
        (Family::V4, ["10.77.0.2", "10.42.0.1", "10.77.0.3", "127.0.0.1", "127.1.2.3", "0.0.0.0"]),
        (Family::V6, ["fd77::2", "fd40:2::1", "fd77::3", "fd40:3::9", "::1", "::"]),
    ] {
        let from = live.inner(3, family);
        datagrams.extend(destinations.map(|destination| marked(from, destination.parse().unwrap())));
    }
    live.refuses("not_for_us", &datagrams);
    live.end();
}

#[test]
fn messages_of_other_transports_are_named_as_such() {
    let scene = Scene::new();
    let live = scene.start();
    let mut datagrams = Vec::new();
    for first in [
        [0xa1, 0, 0, 0],
        [0xa2, 1, 2, 3],
        [0xa3, 0, 0, 0],
        [0xa4, 0, 0, 0],
        [1, 0, 0, 0],
        [2, 0, 0, 0],
        [3, 0, 0, 0],
        [4, 0, 0, 0],
    ] {
        for length in [0, 28, 88, 144, 1400] {
            datagrams.push([&first[..], &MARK[..], &vec![7; length]].concat());
        }
    }
    live.refuses("wrong_transport", &datagrams);
    live.end();
}

#[test]
fn garbage_is_malformed() {
    let scene = Scene::new();
    let live = scene.start();
    let mut datagrams =
        vec![vec![], vec![0], vec![0xff; 100], vec![0x45], vec![0x60; 39], vec![0x44; 60], MARK.to_vec()];
    for family in [Family::V4, Family::V6] {
        let whole = marked(live.inner(3, family), live.inner(1, family));
        // Cut anywhere, the packet is shorter than it says.
        datagrams.extend((1..whole.len()).step_by(5).map(|length| whole[..length].to_vec()));
        let length_at = if family == Family::V4 { 2 } else { 4 };
        let mut long = whole.clone();
        long[length_at] = 0xff;
        datagrams.push(long);
    }
    let mut short = marked(live.inner(3, Family::V4), live.inner(1, Family::V4));
    short[3] = 19;
    datagrams.push(short);
    // An extension header that reaches beyond the packet.
    let mut extended = marked(live.inner(3, Family::V6), live.inner(1, Family::V6));
    (extended[6], extended[41]) = (0, 200);
    datagrams.push(extended);
    live.refuses("malformed", &datagrams);
    live.end();
}

#[test]
fn a_bad_datagram_costs_none_of_its_neighbours() {
    let scene = Scene::new();
    let live = scene.start();
    let host = scene.bed.host(3);
    // The peer's endpoint once more, this time for trains.
    let Live { scene: _, one, _two, flow: _flow, inside, peer } = live;
    drop(peer);
    let listen = at(host.underlay(Family::V6), PORT);
    let options = udp::Options { listen, share_port: false, offload: true, dont_fragment: true, buffer: 1 << 20 };
    let train = host.namespace.run(|| udp::Socket::bind(options)).unwrap().unwrap();
    let to = at(scene.bed.host(1).underlay(Family::V6), PORT);
    for family in [Family::V4, Family::V6] {
        let address = |n: usize| scene.bed.host(n).inner(family);
        let receiver = End::new(&scene.bed.host(1).namespace, address(1)).udp_on(5000);
        let good = |i: u8| UdpPacket::new((address(3), 4000), (address(1), 5000), &[i; 16]).bytes();
        let before = one.status().drops;
        // All datagrams are of one length, so they are one message.
        let bad = [
            marked(address(2), address(1)),
            marked(address(3), address(2)),
            [&[0xa4][..], &good(0)[1..]].concat(),
            [&[0xff][..], &good(0)[1..]].concat(),
        ];
        let mut queue = SendQueue::default();
        let flow = Flow { to, from: None, ecn: Ecn::NotEct, lane: 0, tag: 0 };
        for i in 0..16 {
            let datagram = if i % 2 == 0 { good(i) } else { bad[usize::from(i) / 2 % 4].clone() };
            queue.slot(&flow, datagram.len()).unwrap().copy_from_slice(&datagram);
            queue.commit(datagram.len());
        }
        queue.flush(&train, |sent| assert!(sent.failed.is_none(), "{sent:?}"));
        for i in (0..16).step_by(2) {
            let mut buffer = [0; 100];
            let (length, source) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], source), (&[i; 16][..], at(address(3), 4000)));
        }
        for reason in ["wrong_source", "not_for_us", "wrong_transport", "malformed"] {
            one.await_drops(reason, before.get(reason).copied().unwrap_or(0) + 2);
        }
    }
    assert_eq!(inside.collect(), [[0u8; 0]; 0], "nothing reaches the inner side");
}

#[test]
fn a_stranger_of_the_host_opens_no_queue() {
    // In the namespace of an ordinary user there are no others.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let others = map.split_whitespace().nth(2).is_some_and(|count| count.parse::<u64>().unwrap() > 1);
    let live_scene = Scene::new();
    let _live = live_scene.start();
    const SCRIPT: &str = "\
import fcntl, os, struct, sys
device = os.open('/dev/net/tun', os.O_RDWR)
uid = int(sys.argv[1])
if uid:
    os.setresuid(uid, uid, uid)
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE, TUNSETIFF = 0x0001, 0x1000, 0x4000, 0x0100, 0x400454ca
try:
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH22x', b'adit0', IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE))
except PermissionError:
    sys.exit(9)
";
    let opens = |uid: &str| {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", SCRIPT, uid]);
        live_scene.bed.host(1).namespace.run(|| command.status()).unwrap().unwrap().code()
    };
    // Root may: it is the daemon's own user, and has every right.
    assert_eq!(opens("0"), Some(0));
    if others {
        assert_eq!(opens("65534"), Some(9));
    }
}

#[test]
fn whoever_holds_the_device_is_named() {
    let scene = Scene::new();
    let host = scene.bed.host(1);
    scene.places[0].start().crash();
    const SCRIPT: &str = "\
import fcntl, os, struct, sys
device = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(device, 0x400454ca, struct.pack('16sH22x', b'adit0', 0x0001 | 0x1000 | 0x4000 | 0x0100))
sys.stdin.read()
";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", SCRIPT]).stdin(std::process::Stdio::piped());
    let mut holder = host.namespace.run(|| command.spawn()).unwrap().unwrap();
    wait_for("a holder", || host.netlink().existing_link("adit0").unwrap().running.then_some(()));
    let (code, said) = scene.places[0].fail();
    assert_eq!(code, Some(1));
    let named = format!("the device adit0 is in use by process {} (python3)", holder.id());
    assert!(said.contains(&named), "{said}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    wait_for("nobody", || (!host.netlink().existing_link("adit0").unwrap().running).then_some(()));
    scene.start();
}
