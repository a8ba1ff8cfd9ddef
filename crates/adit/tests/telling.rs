//! What a tunnel tells senders: that nobody is there, and how long a packet may be. And what it leaves alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bed::daemon::{Configuration, PORT, Place};
use bed::packet::{Random, UdpPacket};
use bed::sniffer::{Injector, Sniffer};
use bed::traffic::{End, connection, exchange_over, exchange_udp};
use bed::{Bed, Family, Host, PATIENCE, at, await_address, over, wait_for};
use linux::capture::Direction;
use linux::netlink::Route;
use linux::netns::NetNs;
use linux::udp::{self, Flow, SendError, SendQueue};
use wire::ecn::Ecn;
use wire::ip::{IpPacket, protocol};
use wire::tcp::{TcpSegment, flags};
use wire::vnet::VnetHdr;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

over! {
    plain: {
        senders_learn_how_long_a_packet_may_be
        the_device_follows_the_underlay_and_a_stream_survives
        a_stream_survives_a_path_narrower_than_the_device
        a_narrow_link_far_away_is_learned_of_and_streams_survive
        a_packet_that_may_be_fragmented_arrives_in_fragments
        the_tunnel_is_a_link_and_leaves_the_ttl_alone
        a_closed_port_is_told_of_across_the_tunnel
    }
}

over! {
    sealed: {
        senders_learn_how_long_a_packet_may_be
        the_device_follows_the_underlay_and_a_stream_survives
        a_stream_survives_a_path_narrower_than_the_device
        a_narrow_link_far_away_is_learned_of_and_streams_survive
        a_packet_that_may_be_fragmented_arrives_in_fragments
        the_tunnel_is_a_link_and_leaves_the_ttl_alone
        a_closed_port_is_told_of_across_the_tunnel
        a_connection_begins_with_segments_that_fit
    }
}

over! {
    wireguard: {
        senders_learn_how_long_a_packet_may_be
        the_device_follows_the_underlay_and_a_stream_survives
        a_stream_survives_a_path_narrower_than_the_device
        a_narrow_link_far_away_is_learned_of_and_streams_survive
    }
}

/// Two hosts and a configuration of each, as `change` makes it.
fn pair(transport: &'static str, outer: Family, change: impl Fn(&mut Configuration)) -> (Bed, [Place; 2]) {
    let bed = Bed::new(2);
    let hosts = [bed.host(1), bed.host(2)];
    let mut ends = Configuration::pair(hosts, outer, transport);
    ends.iter_mut().for_each(change);
    let places = [Place::new(hosts[0], &ends[0]), Place::new(hosts[1], &ends[1])];
    (bed, places)
}

/// Sends datagrams until the socket is told an error, as ICMP brings it.
fn refusal(socket: &UdpSocket) -> ErrorKind {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    wait_for("an error", || {
        let _ = socket.send(b"is anybody there?");
        let error = socket.recv(&mut [0; 10]).unwrap_err().kind();
        (error != ErrorKind::WouldBlock).then_some(error)
    })
}

#[test]
fn senders_learn_that_nobody_is_there() {
    let (bed, [one, _]) = pair("plain", Family::V4, |_| {});
    let daemon = one.start();
    let host = bed.host(1);
    let container = host.container();
    let mut netlink = host.netlink();
    let device = netlink.existing_link("adit0").unwrap().index;
    for (family, nowhere) in [(Family::V4, "10.99.0.0/16"), (Family::V6, "fd99::/16")] {
        // Somebody's route leads into the tunnel, and nobody lives there.
        let route = Route { device: Some(device), protocol: 4, ..Route::new(nowhere.parse().unwrap()) };
        netlink.add_route(&route).unwrap();
        let destination: IpAddr = if family == Family::V4 { "10.99.1.1" } else { "fd99::1" }.parse().unwrap();
        for (namespace, address) in [(&host.namespace, host.inner(family)), (&container, host.behind(family, 2))] {
            let before = daemon.drops("no_route");
            // Kernels tell UDP sockets of port and protocol errors only; a connection that is just made hears everything.
            let connect = || TcpStream::connect_timeout(&at(destination, 9), PATIENCE);
            await_address(namespace, address);
            let error = namespace.run(connect).unwrap().unwrap_err().kind();
            assert!(matches!(error, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable), "{error:?}");
            wait_for("the drop to be counted", || (daemon.drops("no_route") > before).then_some(()));
        }
    }
}

/// The MTU in the next ICMP error of the kind "too big" that comes out of the tunnel device.
fn too_big(sniffer: &mut Sniffer) -> u32 {
    sniffer.find("the news that a packet is too big", |captured, bytes| {
        let packet = IpPacket::parse(bytes).ok().filter(|_| captured.direction != Direction::Outgoing)?;
        let message = packet.payload();
        match (packet.protocol(), message.get(..2)?) {
            (protocol::ICMP, [3, 4]) => Some(u16::from_be_bytes(message.get(6..8)?.try_into().unwrap()).into()),
            (protocol::ICMPV6, [2, 0]) => Some(u32::from_be_bytes(message.get(4..8)?.try_into().unwrap())),
            _ => None,
        }
    })
}

/// Sends datagrams of a length that is too much, until the kernel itself refuses them.
fn refused_length(socket: &udp::Socket, to: SocketAddr, length: usize) -> SendError {
    wait_for("a refusal", || {
        let mut queue = SendQueue::unbatched();
        queue.slot(&Flow { to, from: None, ecn: Ecn::NotEct, lane: 0, tag: 0 }, length).unwrap().fill(1);
        queue.commit(length);
        let mut refused = None;
        queue.flush(socket, |sent| refused = sent.failed.map(|(_, error)| error));
        refused
    })
}

/// Waits until the tunnel knows that the underlay is narrower.
fn await_log(daemon: &bed::daemon::Daemon<'_>, words: &str) {
    wait_for(words, || daemon.log().contains(words).then_some(()));
}

fn senders_learn_how_long_a_packet_may_be(transport: &'static str) {
    for outer in FAMILIES {
        let (underlay, expected) = (1400, 1400 - outer.overhead(transport));
        let (bed, [one, two]) = pair(transport, outer, |configuration| configuration.mtu = Some(1450));
        let (daemon, _two) = (one.start(), two.start());
        let host = bed.host(1);
        let container = host.container();
        host.set_mtu("under0", underlay);
        await_log(&daemon, &format!("takes packets of {expected} bytes"));
        assert_eq!(daemon.status().device.mtu, 1450, "as configured");
        let mut sniffer = Sniffer::open(&host.namespace, "adit0");
        for family in FAMILIES {
            let headers = if family == Family::V4 { 28 } else { 48 };
            for (namespace, address) in [(&container, host.behind(family, 2)), (&host.namespace, host.inner(family))] {
                // This socket never lets its datagrams be fragmented.
                let socket = End::new(namespace, address).marked_udp(0);
                let to = at(bed.host(2).inner(family), 9);
                let before = daemon.drops("too_big");
                bed::traffic::send_marked(&socket, to, Ecn::NotEct, &vec![1; 1440 - headers]);
                assert_eq!(too_big(&mut sniffer), expected, "{family:?} in {outer:?}");
                daemon.await_drops("too_big", before + 1);
                // The kernel has taken the news to heart: it does not even send the next one.
                assert_eq!(refused_length(&socket, to, 1440 - headers), SendError::TooBig);
                // One that fits goes through: the limit is exact.
                let receiver = End::new(&bed.host(2).namespace, bed.host(2).inner(family)).udp();
                let to = receiver.local_addr().unwrap();
                let longest = vec![2; expected as usize - headers];
                bed::traffic::send_marked(&socket, to, Ecn::NotEct, &longest);
                let mut buffer = [0; 1500];
                let (length, _) = receiver.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], longest);
            }
        }
    }
}

fn the_device_follows_the_underlay_and_a_stream_survives(transport: &'static str) {
    for outer in FAMILIES {
        let (bed, [one, two]) = pair(transport, outer, |_| {});
        let (daemon, _two) = (one.start(), two.start());
        let overhead = outer.overhead(transport);
        let host = bed.host(1);
        let device_mtu = || host.netlink().existing_link("adit0").unwrap().mtu;
        assert_eq!(device_mtu(), 1500 - overhead);
        let end = |n: usize, family| End::new(&bed.host(n).namespace, bed.host(n).inner(family));
        let flows = FAMILIES.map(|family| connection(end(1, family), end(2, family)));
        // A device is never narrower than IPv6 permits.
        for mtu in [1500, 1400, 1280 + overhead, 1500] {
            // Both ends of the cable, as a device takes nothing longer than it sends.
            bed.host(2).set_mtu("under0", mtu);
            host.set_mtu("under0", mtu);
            // Not waited for: the change comes in the middle of the stream.
            for (a, b) in &flows {
                let mut random = Random::new(u64::from(mtu));
                exchange_over((a, b), &random.bytes(1_000_001), &random.bytes(1_000_003));
            }
            wait_for("the device to follow", || (device_mtu() == mtu - overhead).then_some(()));
            assert_eq!(daemon.status().device.mtu, mtu - overhead);
            for family in FAMILIES {
                exchange_udp(end(1, family), end(2, family), [1, 1200, 1472, 3000]);
            }
        }
    }
}

fn a_stream_survives_a_path_narrower_than_the_device(transport: &'static str) {
    for outer in FAMILIES {
        let (bed, [one, two]) = pair(transport, outer, |configuration| configuration.mtu = Some(1450));
        let (_one, _two) = (one.start(), two.start());
        let containers = [bed.host(1).container(), bed.host(2).container()];
        let end = |n: usize, family| End::new(&containers[n - 1], bed.host(n).behind(family, 2));
        let flows = FAMILIES.map(|family| connection(end(1, family), end(2, family)));
        for mtu in [1500, 1360] {
            for n in [1, 2] {
                bed.host(n).set_mtu("under0", mtu);
            }
            for (a, b) in &flows {
                let mut random = Random::new(u64::from(mtu));
                exchange_over((a, b), &random.bytes(1_000_001), &random.bytes(1_000_003));
            }
        }
    }
}

fn a_narrow_link_far_away_is_learned_of_and_streams_survive(transport: &'static str) {
    for outer in FAMILIES {
        // Host 3 is a router; what is behind it plays host 2.
        let bed = Bed::new(3);
        let (host, router) = (bed.host(1), bed.host(3));
        let far = Host { number: 2, namespace: router.container(), guard: Arc::clone(&router.guard) };
        let mut netlink = host.netlink();
        for (family, net) in FAMILIES.into_iter().zip(["10.43.0.0/24", "fd40:3::/64"]) {
            let route = Route { protocol: 4, ..Route::new(net.parse().unwrap()) };
            netlink.add_route(&Route { gateway: Some(router.underlay(family)), ..route }).unwrap();
        }
        let endpoint = at(router.behind(outer, 2), PORT).to_string();
        let [mut here, mut there] = Configuration::pair([host, &far], outer, transport);
        here.peers[0].endpoint.clone_from(&endpoint);
        there.listen = endpoint;
        let (one, two) = (Place::new(host, &here), Place::new(&far, &there));
        let (daemon, _two) = (one.start(), two.start());
        let overhead = outer.overhead(transport);
        assert_eq!(daemon.status().device.mtu, 1500 - overhead);

        let near = |family| End::new(&host.namespace, host.inner(family));
        let beyond = |family| End::new(&far.namespace, far.inner(family));
        let flows = FAMILIES.map(|family| connection(near(family), beyond(family)));
        let exchange = || {
            for (a, b) in &flows {
                let mut random = Random::new(1);
                exchange_over((a, b), &random.bytes(500_001), &random.bytes(500_003));
            }
        };
        exchange();
        router.set_mtu("c0", 1400);
        far.set_mtu("eth0", 1400);
        exchange();
        // WireGuard's datagrams may be fragmented on their way, so that nobody has to learn anything.
        if transport != "wireguard" {
            await_log(&daemon, &format!("takes packets of {} bytes", 1400 - overhead));
        }
        // What is learned on the way to one peer is told to those who send there; it does not narrow the device for all.
        assert_eq!(daemon.status().device.mtu, 1500 - overhead);
        for family in FAMILIES {
            exchange_udp(near(family), beyond(family), [1, 1300, 1472, 5000]);
        }
    }
}

/// The largest segment that a connection's first packet asks for.
fn first_mss(bytes: &[u8]) -> Option<u16> {
    let packet = IpPacket::parse(bytes).ok().filter(|packet| packet.protocol() == protocol::TCP)?;
    TcpSegment::parse(packet.payload()).ok().filter(|segment| segment.flags() & flags::SYN != 0)?.mss()
}

/// The device is wider than the way, as configured by somebody who did not know: without clamping each connection would begin with
/// packets that are too big.
fn a_connection_begins_with_segments_that_fit(transport: &'static str) {
    for outer in FAMILIES {
        let (bed, [one, two]) = pair(transport, outer, |configuration| configuration.mtu = Some(1500));
        let (_one, _two) = (one.start(), two.start());
        let path = u16::try_from(1500 - outer.overhead(transport)).unwrap();
        let containers = [bed.host(1).container(), bed.host(2).container()];
        for family in FAMILIES {
            let headers = if family == Family::V4 { 20 + 20 } else { 40 + 20 };
            let end = |n: usize| End::new(&containers[n - 1], bed.host(n).behind(family, 2));
            let sniffer = Sniffer::open(&containers[1], "eth0");
            let segments = sniffer.watch(|_, frame| first_mss(frame.get(14..)?));
            let (a, b) = connection(end(1), end(2));
            let mut random = Random::new(2);
            exchange_over((&a, &b), &random.bytes(100_001), &random.bytes(100_003));
            let segments = segments.collect();
            // The SYN arrived clamped; the answer is seen before it enters the tunnel.
            assert!(segments.iter().any(|&mss| mss <= path - headers), "{family:?} in {outer:?}: {segments:?}");
        }
    }
}

/// The next datagram that arrives.
fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn a_packet_that_may_be_fragmented_arrives_in_fragments(transport: &'static str) {
    let (bed, [one, two]) = pair(transport, Family::V4, |configuration| configuration.mtu = Some(1450));
    let (daemon, _two) = (one.start(), two.start());
    bed.host(1).set_mtu("under0", 600);
    let path = 600 - Family::V4.overhead(transport) as usize;
    await_log(&daemon, &format!("takes packets of {path} bytes"));
    let (from, to) = (bed.host(1).inner(Family::V4), bed.host(2).inner(Family::V4));
    let receiver = End::new(&bed.host(2).namespace, to).udp_on(5000);
    let mut injector = Injector::open(&bed.host(1).namespace, "adit0");
    let mut random = Random::new(3);
    for length in [1, path - 28, path - 27, path - 12, 1000, 1400, 1422] {
        let payload = random.bytes(length);
        let packet = UdpPacket { dont_fragment: false, ..UdpPacket::new((from, 4000), (to, 5000), &payload) };
        let sniffer = Sniffer::open(&bed.host(2).namespace, "adit0");
        let pieces = sniffer.watch(|_, bytes| Some(bytes.len()));
        injector.send(&VnetHdr::NONE, &packet.bytes()).unwrap();
        assert!(receive(&receiver) == payload, "{length} bytes");
        let pieces = pieces.collect();
        assert_eq!(pieces.len(), (8 + length).div_ceil((path - 20) / 8 * 8), "{pieces:?}");
        assert!(pieces.iter().all(|&piece| piece <= path), "{pieces:?}");
    }
}

/// Sends one packet by the tunnel device of host 1; answers it as it comes out of that of host 2.
fn through(bed: &Bed, packet: &UdpPacket) -> Vec<u8> {
    let mut sniffer = Sniffer::open(&bed.host(2).namespace, "adit0");
    let mark = packet.payload.clone();
    send_from(&bed.host(1).namespace, &packet.bytes());
    sniffer.find("the packet", |_, bytes| bed::sniffer::contains(bytes, &mark).then(|| bytes.to_vec()))
}

fn send_from(namespace: &NetNs, packet: &[u8]) {
    Injector::open(namespace, "adit0").send(&VnetHdr::NONE, packet).unwrap();
}

fn the_tunnel_is_a_link_and_leaves_the_ttl_alone(transport: &'static str) {
    let (bed, [one, two]) = pair(transport, Family::V4, |_| {});
    let (_one, _two) = (one.start(), two.start());
    for family in FAMILIES {
        let (from, to) = (bed.host(1).inner(family), bed.host(2).inner(family));
        for ttl in [1, 2, 64, 255] {
            let mark = format!("ttl-{ttl}-{family:?}-mark");
            let packet = UdpPacket { ttl, ..UdpPacket::new((from, 4000), (to, 5000), mark.as_bytes()) };
            assert_eq!(through(&bed, &packet), packet.bytes(), "not a byte of it changes");
        }
    }
}

fn a_closed_port_is_told_of_across_the_tunnel(transport: &'static str) {
    let (bed, [one, two]) = pair(transport, Family::V6, |_| {});
    let (_one, _two) = (one.start(), two.start());
    for family in FAMILIES {
        let socket = End::new(&bed.host(1).namespace, bed.host(1).inner(family)).udp();
        socket.connect((bed.host(2).inner(family), 9)).unwrap();
        assert_eq!(refusal(&socket), ErrorKind::ConnectionRefused);
    }
}
