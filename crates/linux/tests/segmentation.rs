//! The kernel's segmentation and ours give the same bytes; what the kernel leaves unsplit we split right; and what we join the
//! kernel takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod packets;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink};
use linux::netns::NetNs;
use linux::poll::readable;
use linux::sysctl;
use linux::tun::{Device, MAX_PACKET, Offload, Options, Queue};
use linux::udp::{self, Flow, SendQueue};
use packets::{Packet, Seen, Tcp, examine, pattern};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::fresh;
use wire::coalesce::{Coalescer, Joins};
use wire::ecn::Ecn;
use wire::ip::IpPacket;
use wire::segment::SuperPacket;
use wire::vnet::{self, VnetHdr};

/// Largest packet of the devices here: two sizes of segments beyond Ethernet's.
const MTU: u32 = 9000;

const PATIENCE: Duration = Duration::from_secs(5);

/// A device with addresses, up. Without duplicate address detection and without words of the kernel's own on it.
fn device(namespace: &NetNs, netlink: &mut Netlink, name: &str, offload: bool, addresses: [&str; 2]) -> Device {
    let device = namespace.run(|| Device::open(Options { offload, ..Options::new(name) })).unwrap().unwrap();
    namespace
        .run(|| {
            // No link-local address, so that no router is solicited.
            sysctl::set(&["net", "ipv6", "conf", name, "addr_gen_mode"], "1").unwrap();
            sysctl::set(&["net", "ipv4", "conf", name, "rp_filter"], "0").unwrap();
        })
        .unwrap();
    let index = netlink.existing_link(name).unwrap().index;
    let change = LinkChange { mtu: Some(MTU), up: Some(true), tx_queue_len: Some(10_000), ..LinkChange::default() };
    netlink.change_link(index, &change).unwrap();
    for address in addresses {
        let net: IpNet = address.parse().unwrap();
        netlink.add_address(index, net, true).unwrap();
        assert!(netlink.wait_for_address(net.addr(), PATIENCE).unwrap());
    }
    device
}

/// The next packet that the kernel sends into the device.
fn next(queue: &Queue) -> (VnetHdr, Vec<u8>) {
    let mut packet = vec![0; MAX_PACKET];
    loop {
        match queue.recv(&mut packet) {
            Ok((header, length)) => {
                packet.truncate(length);
                return (header, packet);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let [ready] = readable([queue.as_fd()], Some(PATIENCE)).unwrap();
                assert!(ready, "waited in vain for a packet");
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// All segments of a super-packet, by our segmentation.
fn segments_of(header: VnetHdr, bytes: &[u8]) -> Vec<Vec<u8>> {
    let packets = SuperPacket::parse(header, IpPacket::parse(bytes).unwrap()).unwrap();
    let mut out = vec![0; MAX_PACKET];
    let segment = |i| {
        let length = packets.emit(i, &mut out);
        out[..length].to_vec()
    };
    (0..packets.count()).map(segment).collect()
}

/// A router in a namespace: `left` takes super-packets, `right` has no offloads, so the kernel splits what it forwards.
struct Router {
    left: Queue,
    right: Queue,
}

impl Router {
    fn new() -> Self {
        let (namespace, mut netlink) = fresh();
        namespace
            .run(|| {
                sysctl::set(&["net", "ipv4", "conf", "all", "rp_filter"], "0").unwrap();
                sysctl::set(&["net", "ipv4", "ip_forward"], "1").unwrap();
                sysctl::set(&["net", "ipv6", "conf", "all", "forwarding"], "1").unwrap();
            })
            .unwrap();
        let mut left = device(&namespace, &mut netlink, "left", true, ["10.1.0.1/16", "fd01::1/64"]);
        let mut right = device(&namespace, &mut netlink, "right", false, ["10.2.0.1/16", "fd02::1/64"]);
        assert_eq!(left.offloads.level, Offload::Udp, "this kernel has all offloads: {:?}", left.offloads.reason);
        Self { left: left.queues.remove(0), right: right.queues.remove(0) }
    }

    /// What comes out on the right for a super-packet written on the left, `count` packets.
    fn forward(&self, header: &VnetHdr, bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
        // What a case that failed has left; proptest then tries smaller ones.
        while self.right.recv(&mut [0; 1]).is_ok() {}
        self.left.send(header, bytes).unwrap();
        (0..count).map(|_| next(&self.right).1).collect()
    }

    /// Compares the kernel's segments of a packet with ours.
    fn agrees(&self, packet: &Packet, size: u16) {
        let (header, bytes) = packet.super_packet(size);
        // What forwarding changes is the TTL, and with it the checksum of the IPv4 header: ours starts from there.
        let (_, forwarded) = Packet { ttl: packet.ttl - 1, ..packet.clone() }.super_packet(size);
        let ours = segments_of(header, &forwarded);
        let theirs = self.forward(&header, &bytes, ours.len());
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours, theirs, "segment {i} of {packet:?}, size {size}");
            examine(ours);
        }
    }
}

fn ends(six: bool) -> (&'static str, &'static str) {
    if six { ("[fd01::2]:4000", "[fd02::2]:5000") } else { ("10.1.0.2:4000", "10.2.0.2:5000") }
}

#[test]
fn our_segments_are_the_kernels_own_byte_for_byte() {
    let router = Router::new();
    let timestamps = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    for six in [false, true] {
        let (from, to) = ends(six);
        for (size, length) in
            [(1448, 65_000), (1448, 1449), (1448, 2896), (536, 10_001), (8928, 60_000), (1, 40), (100, 101), (7, 700)]
        {
            for options in [vec![], timestamps.clone()] {
                for (fin, psh, cwr, ece) in
                    [(false, false, false, false), (true, true, false, false), (false, true, true, true)]
                {
                    let tcp = Tcp {
                        sequence: 0xffff_f000,
                        acknowledgement: 17,
                        fin,
                        psh,
                        cwr,
                        ece,
                        options: options.clone(),
                        syn: false,
                    };
                    let packet = Packet { id: 0xfff0, ..Packet::new(from, to, Some(tcp), pattern(length)) };
                    router.agrees(&packet, size);
                }
            }
            if length / usize::from(size) < 128 {
                for (class, dont_fragment) in [(0, true), (0xb8, false), (2, true)] {
                    let packet =
                        Packet { class, dont_fragment, id: 0xfff0, ..Packet::new(from, to, None, pattern(length)) };
                    router.agrees(&packet, size);
                }
            }
        }
    }
}

prop_compose! {
    /// A super-packet and the size of its segments.
    fn any_packet()(
        [six, tcp, fin, psh, cwr, ece, dont_fragment, more] in any::<[bool; 8]>(),
        (sequence, acknowledgement, id, class) in any::<(u32, u32, u16, u8)>(),
        (ttl, words) in (2..255u8, 0..=10usize),
        (size, count, tail) in (1..8000u16, 1..100usize, any::<prop::sample::Index>()),
    ) -> (Packet, u16) {
        let (from, to) = ends(six);
        let bytes = usize::from(size);
        let count = count.min(56_000 / bytes).max(1);
        let length = bytes * count + 1 + tail.index(bytes) * usize::from(more);
        let options = vec![1; words * 4];
        let tcp = tcp.then_some(Tcp { sequence, acknowledgement, syn: false, fin, psh, cwr, ece, options });
        (Packet { ttl, class, id, dont_fragment, ..Packet::new(from, to, tcp, pattern(length)) }, size)
    }
}

#[test]
fn our_segments_are_the_kernels_own_for_any_packet() {
    let router = Router::new();
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let test = |(packet, size): (Packet, u16)| {
        router.agrees(&packet, size);
        Ok(())
    };
    runner.run(&any_packet(), test).unwrap();
}

#[test]
fn a_lone_packet_with_a_partial_checksum_is_completed_as_the_kernel_does() {
    let router = Router::new();
    for six in [false, true] {
        let (from, to) = ends(six);
        for tcp in [Some(Tcp { psh: true, ..Tcp::default() }), None] {
            for length in [0, 1, 2, 3, 100, 1401] {
                let packet = Packet::new(from, to, tcp.clone(), pattern(length));
                let partial = |packet: &Packet| {
                    let (header, bytes) = packet.super_packet(0);
                    (VnetHdr { gso_type: vnet::GSO_NONE, ..header }, bytes)
                };
                let (header, bytes) = partial(&packet);
                let (_, forwarded) = partial(&Packet { ttl: 63, ..packet.clone() });
                let theirs = router.forward(&header, &bytes, 1);
                assert_eq!(segments_of(header, &forwarded), theirs, "{packet:?}");
                examine(&theirs[0]);
            }
        }
    }
}

/// A namespace whose one device has all offloads; the test is the network behind it.
fn host() -> (NetNs, Queue) {
    let (namespace, mut netlink) = fresh();
    let mut device = device(&namespace, &mut netlink, "tun", true, ["10.1.0.1/16", "fd01::1/64"]);
    (namespace, device.queues.remove(0))
}

fn addresses(six: bool) -> (SocketAddr, SocketAddr) {
    let (host, far) = if six { ("[fd01::1]:0", "[fd01::2]:5000") } else { ("10.1.0.1:0", "10.1.0.2:5000") };
    (host.parse().unwrap(), far.parse().unwrap())
}

/// The next TCP packet, in segments; anything else the kernel may say is passed over.
fn next_tcp(queue: &Queue) -> (VnetHdr, Vec<Seen>) {
    loop {
        let (header, bytes) = next(queue);
        let packet = IpPacket::parse(&bytes).unwrap();
        if packet.protocol() == wire::ip::protocol::TCP {
            return (header, segments_of(header, &bytes).iter().map(|segment| examine(segment)).collect());
        }
    }
}

#[test]
fn what_a_tcp_socket_sends_is_split_into_right_segments() {
    for six in [false, true] {
        let (namespace, queue) = host();
        let (_, far) = addresses(six);
        let sent = pattern(300_001);
        let expected = sent.clone();
        let client = namespace.clone();
        let writer = std::thread::spawn(move || {
            let mut stream = client.run(|| TcpStream::connect_timeout(&far, PATIENCE)).unwrap().unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&sent).unwrap();
        });
        let (_, syn) = next_tcp(&queue);
        let opening = syn[0].tcp.clone().unwrap();
        assert!(opening.syn);
        let host = SocketAddr::new(addresses(six).0.ip(), syn[0].ports.0);
        // Maximum segment size 1,460, window scale 7.
        let options = vec![2, 4, 0x05, 0xb4, 1, 3, 3, 7];
        let mut answer = Tcp {
            sequence: 1_000,
            acknowledgement: opening.sequence_number.wrapping_add(1),
            syn: true,
            options,
            ..Tcp::default()
        };
        let say = |tcp: &Tcp| {
            let packet = Packet { from: far, to: host, ..Packet::new("[::]:0", "[::]:0", Some(tcp.clone()), vec![]) };
            queue.send(&VnetHdr::NONE, &packet.bytes()).unwrap();
        };
        say(&answer);
        answer = Tcp { sequence: 1_001, syn: false, options: vec![], ..answer };
        let mut received = Vec::<u8>::new();
        let mut most = 0;
        while received.len() < expected.len() {
            let (header, segments) = next_tcp(&queue);
            most = most.max(segments.len());
            for segment in &segments {
                let tcp = segment.tcp.clone().unwrap();
                // A retransmission may come where this machine is slow; what is new starts where the last ended.
                if tcp.sequence_number == answer.acknowledgement {
                    received.extend(&segment.payload);
                    answer.acknowledgement = answer.acknowledgement.wrapping_add(segment.payload.len() as u32);
                }
                assert!(header.gso_size == 0 || segment.payload.len() <= usize::from(header.gso_size));
            }
            say(&answer);
        }
        assert!(received == expected, "the bytes of the stream");
        assert!(most >= 10, "the kernel left segments unsplit: {most}");
        writer.join().unwrap();
    }
}

#[test]
fn what_a_udp_socket_sends_in_trains_is_split_into_right_datagrams() {
    let (namespace, queue) = host();
    for six in [false, true] {
        let (listen, far) = addresses(six);
        let options = udp::Options { listen, share_port: false, offload: true, dont_fragment: true, buffer: 1 << 20 };
        let socket = namespace.run(|| udp::Socket::bind(options)).unwrap().unwrap();
        for (size, count, last) in [(1000, 60, 999), (8900, 6, 1), (1, 64, 1), (1472, 2, 1472), (33, 1, 1)] {
            let mut trains = SendQueue::default();
            let flow = Flow { to: far, from: None, ecn: Ecn::Ect0, lane: 0, tag: 0 };
            let mut expected = Vec::new();
            for length in std::iter::repeat_n(size, count - 1).chain([last]) {
                let payload = pattern(length + expected.len() % 7)[..length].to_vec();
                trains.slot(&flow, length).unwrap().copy_from_slice(&payload);
                trains.commit(length);
                expected.push(payload);
            }
            trains.flush(&socket, |sent| assert!(sent.failed.is_none(), "{sent:?}"));
            let mut received = Vec::new();
            let mut reads = 0;
            while received.len() < expected.len() {
                let (header, bytes) = next(&queue);
                let packet = IpPacket::parse(&bytes).unwrap();
                if packet.protocol() != wire::ip::protocol::UDP {
                    continue;
                }
                assert_eq!(packet.ecn(), Ecn::Ect0);
                received.extend(segments_of(header, &bytes).iter().map(|datagram| examine(datagram).payload));
                reads += 1;
            }
            assert!(received == expected, "{count} datagrams of {size} bytes, the last of {last}");
            assert_eq!(reads, 1, "they came as one super-packet");
        }
    }
}

/// Writes packets as a worker does, and answers how many super-packets there were.
fn write_joined(queue: &Queue, packets: &[Vec<u8>]) -> usize {
    let mut coalescer = Coalescer::new(Joins::ALL);
    let mut joined = 0;
    let mut out = |header: &VnetHdr, bytes: &[u8]| {
        queue.send(header, bytes).unwrap();
        joined += usize::from(header.gso_type != vnet::GSO_NONE);
    };
    for packet in packets {
        coalescer.push(&IpPacket::parse(packet).unwrap(), &mut out);
    }
    coalescer.flush(&mut out);
    joined
}

#[test]
fn joined_datagrams_reach_a_socket_one_by_one() {
    let (namespace, queue) = host();
    for six in [false, true] {
        let (host, far) = addresses(six);
        let socket = namespace.run(|| UdpSocket::bind(host)).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = socket.local_addr().unwrap();
        for (size, count, last) in [(1000, 40, 17), (1472, 44, 1472), (1, 100, 1), (8000, 8, 7999), (20_000, 3, 5)] {
            let payloads: Vec<_> = std::iter::repeat_n(size, count - 1)
                .chain([last])
                .enumerate()
                .map(|(i, n)| pattern(n + i)[i..].to_vec())
                .collect();
            let packet = |(i, payload): (usize, &Vec<u8>)| Packet {
                from: far,
                to: host,
                id: 100 + i as u16,
                ..Packet::new("[::]:0", "[::]:0", None, payload.clone())
            };
            let packets: Vec<_> = payloads.iter().enumerate().map(packet).map(|p| p.bytes()).collect();
            assert!(write_joined(&queue, &packets) > 0);
            let mut buffer = vec![0; MAX_PACKET];
            for payload in &payloads {
                let (length, source) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(source, far);
                assert!(buffer[..length] == payload[..], "{count} datagrams of {size} bytes");
            }
        }
    }
}

#[test]
fn joined_segments_reach_a_socket_as_one_stream() {
    for six in [false, true] {
        let (namespace, queue) = host();
        let (host, far) = addresses(six);
        let listener = namespace.run(|| TcpListener::bind(host)).unwrap().unwrap();
        let host = listener.local_addr().unwrap();
        let packet = |tcp: &Tcp, payload: &[u8]| Packet {
            from: far,
            to: host,
            ..Packet::new("[::]:0", "[::]:0", Some(tcp.clone()), payload.to_vec())
        };
        // The opening one has no ACK: that bit is cleared, and the checksum follows.
        let mut opening =
            packet(&Tcp { sequence: 999, syn: true, options: vec![2, 4, 0x05, 0xb4], ..Tcp::default() }, &[]).bytes();
        let tcp_at = if six { 40 } else { 20 };
        opening[tcp_at + 13] &= !0x10;
        let sum = u16::from_be_bytes([opening[tcp_at + 16], opening[tcp_at + 17]]);
        let corrected = u32::from(sum) + 0x10;
        let corrected = (corrected & 0xffff) + (corrected >> 16);
        opening[tcp_at + 16..][..2].copy_from_slice(&(corrected as u16).to_be_bytes());
        queue.send(&VnetHdr::NONE, &opening).unwrap();
        let (_, answer) = next_tcp(&queue);
        let answer = answer[0].tcp.clone().unwrap();
        assert!(answer.syn && answer.ack && answer.acknowledgment_number == 1000, "{answer:?}");
        let mut tcp = Tcp { sequence: 1000, acknowledgement: answer.sequence_number.wrapping_add(1), ..Tcp::default() };
        queue.send(&VnetHdr::NONE, &packet(&tcp, &[]).bytes()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for (size, length) in [(1000, 30_000), (1460, 20_001), (1, 40), (536, 536 * 5)] {
            let sent = pattern(length);
            let segments: Vec<_> = sent
                .chunks(size)
                .enumerate()
                .map(|(i, piece)| {
                    tcp.psh = (i + 1) * size >= length;
                    let bytes = Packet { id: i as u16, ..packet(&tcp, piece) }.bytes();
                    tcp.sequence = tcp.sequence.wrapping_add(piece.len() as u32);
                    bytes
                })
                .collect();
            assert!(write_joined(&queue, &segments) > 0);
            let mut received = vec![0; length];
            stream.read_exact(&mut received).unwrap();
            assert!(received == sent, "{length} bytes in segments of {size}");
        }
    }
}
