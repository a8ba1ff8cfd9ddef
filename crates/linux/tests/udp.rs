//! UDP sockets against the real kernel: trains, answers from the right address, marks, limits, steering.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod packets;
mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::time::Duration;

use linux::netlink::{Family, LinkChange, Netlink, Rule, RuleAction, VethEnd};
use linux::netns::NetNs;
use linux::poll::readable;
use linux::udp::{Flow, Full, LocalAddress, Options, ReceiveBatch, SendError, SendQueue, Socket, steer};
use packets::{Packet, Tcp, pattern};
use support::fresh;
use wire::ecn::Ecn;

const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 7777;

/// Two namespaces joined by a veth pair, each with two addresses of each family.
struct Pair {
    left: NetNs,
    right: NetNs,
    left_netlink: Netlink,
}

const LEFT: [&str; 2] = ["10.0.0.1", "fd00::1"];
const RIGHT: [&str; 2] = ["10.0.0.2", "fd00::2"];
const RIGHT_TOO: [&str; 2] = ["10.0.0.102", "fd00::102"];

fn pair() -> Pair {
    let (left, mut left_netlink) = fresh();
    let (right, mut right_netlink) = fresh();
    let b = VethEnd { name: "right", netns: Some(&right), ..VethEnd::default() };
    left_netlink.create_veth(&VethEnd { name: "left", ..VethEnd::default() }, &b).unwrap();
    let up = |netlink: &mut Netlink, name: &str, addresses: &[&str]| {
        let index = netlink.existing_link(name).unwrap().index;
        netlink.set_up(index, true).unwrap();
        for address in addresses {
            let length = if address.contains(':') { 64 } else { 24 };
            netlink.add_address(index, format!("{address}/{length}").parse().unwrap(), true).unwrap();
        }
    };
    up(&mut left_netlink, "left", &LEFT);
    up(&mut right_netlink, "right", &[RIGHT, RIGHT_TOO].concat());
    for (netlink, addresses) in [(&mut left_netlink, vec![LEFT]), (&mut right_netlink, vec![RIGHT, RIGHT_TOO])] {
        for address in addresses.concat() {
            assert!(netlink.wait_for_address(address.parse().unwrap(), PATIENCE).unwrap());
        }
    }
    Pair { left, right, left_netlink }
}

fn options(ip: &str, port: u16) -> Options {
    let listen = SocketAddr::new(ip.parse().unwrap(), port);
    Options { listen, share_port: false, offload: true, dont_fragment: true, buffer: 1 << 20 }
}

fn bind(namespace: &NetNs, options: Options) -> Socket {
    namespace.run(|| Socket::bind(options)).unwrap().unwrap()
}

fn flow(to: SocketAddr) -> Flow {
    Flow { to, from: None, ecn: Ecn::NotEct, lane: 0, tag: 0 }
}

fn queue(flow: &Flow, datagrams: &[Vec<u8>]) -> SendQueue {
    let mut queue = SendQueue::default();
    for datagram in datagrams {
        queue.slot(flow, datagram.len()).unwrap().copy_from_slice(datagram);
        queue.commit(datagram.len());
    }
    queue
}

/// Sends what waits, which the kernel must take.
fn flush(queue: &mut SendQueue, socket: &Socket) {
    queue.flush(socket, |sent| assert!(sent.failed.is_none(), "{sent:?}"));
}

/// What one receive brought, kept.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    source: SocketAddr,
    local: IpAddr,
    ecn: Ecn,
    stride: usize,
    bytes: Vec<u8>,
}

/// Receives until `length` bytes have come.
fn receive(socket: &Socket, length: usize) -> Vec<Received> {
    let mut batch = ReceiveBatch::new(32);
    let mut all = Vec::new();
    while all.iter().map(|r: &Received| r.bytes.len()).sum::<usize>() < length {
        let [ready] = readable([socket.as_fd()], Some(PATIENCE)).unwrap();
        assert!(ready, "waited in vain for {length} bytes");
        batch.receive(socket, linux::udp::BATCH).unwrap();
        all.extend(batch.datagrams().map(|d| Received {
            source: d.source,
            local: d.local.unwrap().ip,
            ecn: d.ecn,
            stride: d.stride,
            bytes: d.bytes.to_vec(),
        }));
    }
    all
}

#[test]
fn a_train_arrives_as_one_with_its_stride() {
    let pair = pair();
    for (i, any) in [(0, "0.0.0.0"), (1, "::"), (0, "::")] {
        let (from, to) = (bind(&pair.left, options(LEFT[i], 0)), bind(&pair.right, options(any, PORT)));
        for (size, count, last) in [(1000, 21, 300), (1472 - 20 * i, 40, 1472 - 20 * i), (1, 64, 1), (100, 2, 99)] {
            let sizes = std::iter::repeat_n(size, count - 1).chain([last]);
            let datagrams: Vec<_> = sizes.enumerate().map(|(n, size)| pattern(size + n)[n..].to_vec()).collect();
            let mut queue = queue(&flow(SocketAddr::new(RIGHT[i].parse().unwrap(), PORT)), &datagrams);
            let expected = datagrams.concat();
            assert_eq!(queue.waiting(), expected.len());
            let mut reports = Vec::new();
            queue.flush(&from, |sent| reports.push((sent.datagrams, sent.bytes, sent.failed)));
            assert_eq!(reports, [(count, expected.len(), None)]);
            assert!(queue.is_empty() && queue.waiting() == 0);
            let received = receive(&to, expected.len());
            let train = Received {
                source: from.local_address(),
                local: RIGHT[i].parse().unwrap(),
                ecn: Ecn::NotEct,
                stride: size,
                bytes: expected,
            };
            assert_eq!(received, [train], "{count} datagrams of {size} bytes");
        }
    }
}

#[test]
fn without_offload_each_datagram_comes_alone() {
    let pair = pair();
    let (from, to) = (
        bind(&pair.left, Options { offload: false, dont_fragment: true, ..options(LEFT[0], 0) }),
        bind(&pair.right, Options { offload: false, dont_fragment: true, ..options(RIGHT[0], PORT) }),
    );
    assert!(!from.segmentation());
    let datagrams: Vec<_> = (0..12).map(|i| pattern(500 + i % 3)).collect();
    let mut queue = queue(&flow(to.local_address()), &datagrams);
    let mut count = 0;
    queue.flush(&from, |sent| count += sent.datagrams);
    assert_eq!(count, 12);
    let received = receive(&to, datagrams.concat().len());
    assert_eq!(received.iter().map(|r| r.bytes.clone()).collect::<Vec<_>>(), datagrams);
    assert!(received.iter().all(|r| r.stride == r.bytes.len()));
}

#[test]
fn datagrams_of_one_flow_keep_their_order_whatever_their_sizes() {
    let pair = pair();
    let (from, to) = (bind(&pair.left, options(LEFT[1], 0)), bind(&pair.right, options(RIGHT[1], PORT)));
    let mut waiting = SendQueue::default();
    let mut expected = Vec::new();
    for i in 0..200usize {
        let datagram = pattern(1 + i * 7919 % 1400);
        let slot = match waiting.slot(&flow(to.local_address()), datagram.len()) {
            Ok(slot) => slot,
            Err(Full) => {
                flush(&mut waiting, &from);
                waiting.slot(&flow(to.local_address()), datagram.len()).unwrap()
            }
        };
        slot.copy_from_slice(&datagram);
        waiting.commit(datagram.len());
        expected.push(datagram);
    }
    flush(&mut waiting, &from);
    let received = receive(&to, expected.concat().len());
    let datagrams = received.iter().flat_map(|r| r.bytes.chunks(r.stride).map(<[u8]>::to_vec));
    assert_eq!(datagrams.collect::<Vec<_>>(), expected);
}

#[test]
fn answers_leave_from_the_address_that_was_written_to() {
    let pair = pair();
    for (i, any) in [(0, "0.0.0.0"), (1, "::"), (0, "::")] {
        let here = bind(&pair.left, options(LEFT[i], 0));
        let there = bind(&pair.right, options(any, PORT));
        for target in [RIGHT_TOO[i], RIGHT[i]] {
            let to = SocketAddr::new(target.parse().unwrap(), PORT);
            flush(&mut queue(&flow(to), &[b"question".to_vec()]), &here);
            let mut batch = ReceiveBatch::new(1);
            assert!(readable([there.as_fd()], Some(PATIENCE)).unwrap()[0]);
            batch.receive(&there, linux::udp::BATCH).unwrap();
            let (source, local) = batch.datagrams().map(|d| (d.source, d.local)).next().unwrap();
            assert_eq!(local.unwrap().ip, to.ip());
            let back = Flow { from: local, ..flow(source) };
            flush(&mut queue(&back, &[b"answer".to_vec(), b"answer".to_vec()]), &there);
            assert!(receive(&here, 12).iter().all(|answer| answer.source == to));
            // An address that is no longer ours is let go of.
            let gone = ["192.0.2.1", "2001:db8::1"][i].parse().unwrap();
            let back = Flow { from: Some(LocalAddress { ip: gone, device: 0 }), ..flow(source) };
            flush(&mut queue(&back, &[b"answer".to_vec()]), &there);
            assert_eq!(receive(&here, 6).len(), 1);
        }
    }
}

#[test]
fn congestion_marks_are_sent_and_told_in_both_families() {
    let pair = pair();
    for (i, any) in [(0, "0.0.0.0"), (1, "::"), (0, "::")] {
        let (from, to) = (bind(&pair.left, options(any, 0)), bind(&pair.right, options(any, PORT)));
        for ecn in [Ecn::Ect0, Ecn::NotEct, Ecn::Ce, Ecn::Ect1] {
            let flow = Flow { ecn, ..flow(SocketAddr::new(RIGHT[i].parse().unwrap(), PORT)) };
            for datagrams in [vec![pattern(10)], vec![pattern(10); 5]] {
                flush(&mut queue(&flow, &datagrams), &from);
                let received = receive(&to, datagrams.concat().len());
                assert!(received.iter().all(|r| r.ecn == ecn), "{ecn:?}: {received:?}");
            }
        }
    }
}

#[test]
fn what_is_longer_than_the_path_is_refused_as_that() {
    let mut pair = pair();
    for i in [0, 1] {
        let (from, to) = (bind(&pair.left, options(LEFT[i], 0)), bind(&pair.right, options(RIGHT[i], PORT)));
        let longest = 1500 - [28, 48][i];
        let outcome = |length: usize, count: usize| {
            let mut reports = Vec::new();
            let mut queue = queue(&flow(to.local_address()), &vec![pattern(length); count]);
            queue.flush(&from, |sent| reports.push((sent.datagrams, sent.failed)));
            reports
        };
        assert_eq!(outcome(longest, 1), [(1, None)]);
        assert_eq!(outcome(longest, 3), [(3, None)]);
        assert_eq!(outcome(longest + 1, 1), [(0, Some((1, SendError::TooBig)))]);
        assert_eq!(outcome(longest + 1, 3), [(0, Some((3, SendError::TooBig)))]);
        receive(&to, longest * 4);
    }
    // A narrower link counts at once.
    let index = pair.left_netlink.existing_link("left").unwrap().index;
    pair.left_netlink.change_link(index, &LinkChange { mtu: Some(1400), ..LinkChange::default() }).unwrap();
    let from = bind(&pair.left, options(LEFT[0], 0));
    let mut reports = Vec::new();
    let to = SocketAddr::new(RIGHT[0].parse().unwrap(), PORT);
    queue(&flow(to), &[pattern(1373)]).flush(&from, |sent| reports.push(sent.failed));
    assert_eq!(reports, [Some((1, SendError::TooBig))]);
}

#[test]
fn what_may_be_fragmented_arrives_whole() {
    let mut pair = pair();
    let index = pair.left_netlink.existing_link("left").unwrap().index;
    pair.left_netlink.change_link(index, &LinkChange { mtu: Some(1400), ..LinkChange::default() }).unwrap();
    for (i, any) in [(0, "0.0.0.0"), (1, "::"), (0, "::")] {
        let free = Options { dont_fragment: false, ..options(any, 0) };
        let (from, to) = (bind(&pair.left, free), bind(&pair.right, options(any, PORT)));
        let to_address = SocketAddr::new(RIGHT[i].parse().unwrap(), PORT);
        for (length, count) in [(1452, 1), (9000, 1), (1452, 5), (1300, 5)] {
            let datagrams: Vec<_> = (0..count).map(|n| pattern(length - n % 2)).collect();
            flush(&mut queue(&flow(to_address), &datagrams), &from);
            let received = receive(&to, datagrams.concat().len());
            let arrived: Vec<_> = received.iter().flat_map(|r| r.bytes.chunks(r.stride).map(<[u8]>::to_vec)).collect();
            assert_eq!(arrived, datagrams, "{any} {length} {count}");
            let train = vec![pattern(length); count];
            flush(&mut queue(&flow(to_address), &train), &from);
            let received = receive(&to, length * count);
            assert_eq!(received.iter().flat_map(|r| r.bytes.clone()).collect::<Vec<_>>(), train.concat());
        }
    }
}

#[test]
fn where_there_is_no_way_that_is_said() {
    let pair = pair();
    for (from, to) in [(LEFT[0], "192.0.2.1:9"), (LEFT[1], "[2001:db8::1]:9")] {
        let socket = bind(&pair.left, options(from, 0));
        let mut reports = Vec::new();
        queue(&flow(to.parse().unwrap()), &vec![pattern(10); 3]).flush(&socket, |sent| reports.push(sent.failed));
        assert_eq!(reports, [Some((3, SendError::Unreachable))]);
    }
}

#[test]
fn a_queue_is_full_in_time() {
    let mut queue = SendQueue::default();
    let flow = |tag| Flow { tag, ..flow("192.0.2.1:9".parse().unwrap()) };
    assert_eq!(queue.slot(&flow(0), 0).unwrap_err(), Full);
    assert_eq!(queue.slot(&flow(0), SendQueue::MAX_DATAGRAM + 1).unwrap_err(), Full);
    let mut flows = 0;
    while let Ok(slot) = queue.slot(&flow(flows), SendQueue::MAX_DATAGRAM) {
        slot.fill(1);
        queue.commit(SendQueue::MAX_DATAGRAM);
        flows += 1;
        assert!(flows < 1000, "memory is bounded");
    }
    assert!(flows >= 8);
}

const GROUP: usize = 4;

/// A group of steered sockets on the right, and a sender on the left.
struct Steered {
    _pair: Pair,
    group: Vec<Socket>,
    sender: Socket,
}

impl Steered {
    fn new() -> Self {
        let pair = pair();
        let shared = Options { share_port: true, ..options("::", PORT) };
        let group: Vec<_> = (0..GROUP).map(|_| bind(&pair.right, shared)).collect();
        steer(&group[0], GROUP).unwrap();
        let sender = bind(&pair.left, options("::", 0));
        Self { _pair: pair, group, sender }
    }

    /// The socket that a datagram lands on.
    fn landed(&self, packet: &[u8], outer: usize) -> usize {
        let to = SocketAddr::new(RIGHT[outer].parse().unwrap(), PORT);
        flush(&mut queue(&flow(to), &[packet.to_vec()]), &self.sender);
        let ready = readable::<GROUP>(std::array::from_fn(|i| self.group[i].as_fd()), Some(PATIENCE)).unwrap();
        let at = ready.iter().position(|&ready| ready).expect("it lands somewhere");
        assert_eq!(ready.iter().filter(|&&ready| ready).count(), 1);
        assert_eq!(receive(&self.group[at], packet.len())[0].bytes, packet);
        at
    }
}

#[test]
fn a_lane_lands_on_its_socket() {
    let steered = Steered::new();
    for outer in [0, 1] {
        for first in [0xa4, 0x04] {
            for lane in 0..16u32 {
                let index = 0xdead_bee0 | lane;
                let datagram = [&[first, 0, 0, 0][..], &index.to_le_bytes(), &pattern(40)].concat();
                assert_eq!(steered.landed(&datagram, outer), lane as usize % GROUP, "{first:#x} {lane}");
            }
        }
        for first in [0xa1, 0xa2, 0xa3, 0x01, 0x02, 0x03] {
            let handshake = [&[first, 0, 0, 0, 0xff][..], &pattern(143)].concat();
            assert_eq!(steered.landed(&handshake, outer), 0, "{first:#x}");
        }
    }
}

#[test]
fn both_directions_of_a_flow_meet_on_one_socket_of_a_group() {
    let steered = Steered::new();
    let landed = |packet: &[u8], outer| steered.landed(packet, outer);
    let mut used = [0; GROUP];
    for n in 0..64u16 {
        for (a, b) in [("10.1.0.1", "10.2.0.1"), ("[fd01::1]", "[fd02::1]")] {
            for tcp in [Some(Tcp::default()), None] {
                let (a, b) = (format!("{a}:{}", 30_000 + 2 * n), format!("{b}:443"));
                let there = Packet::new(&a, &b, tcp.clone(), pattern(20)).bytes();
                let back = Packet::new(&b, &a, tcp, pattern(900)).bytes();
                let outer = usize::from(n % 2);
                let at = landed(&there, outer);
                assert_eq!(at, landed(&back, 1 - outer), "{a} {b}");
                used[at] += 1;
            }
        }
    }
    assert!(used.iter().all(|&flows| flows > 16), "{used:?}");
    // What has no ports goes to the first.
    for stranger in [&b"x"[..], &[0xa1; 50], &[0x45; 21]] {
        assert_eq!(landed(stranger, 0), 0);
    }
}

#[test]
fn buffers_are_as_large_as_was_asked_where_that_is_permitted() {
    let (namespace, _netlink) = fresh();
    let socket = bind(&namespace, Options { buffer: 8 << 20, ..options("127.0.0.1", 0) });
    // The kernel doubles what is asked for (socket(7)). Over its limit it goes for the first user namespace only.
    let forced = std::fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    let limit = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}_max")).unwrap();
        2 * text.trim().parse::<usize>().unwrap()
    };
    let expected = |name| if forced { 16 << 20 } else { limit(name).min(16 << 20) };
    assert_eq!(socket.buffers(), (expected("rmem"), expected("wmem")));
}

#[test]
fn errors_of_binding_are_told_apart() {
    let (namespace, _netlink) = fresh();
    let error = |options| namespace.run(|| Socket::bind(options)).unwrap().unwrap_err();
    let taken = bind(&namespace, options("::", PORT));
    assert_eq!(error(options("0.0.0.0", PORT)).kind(), ErrorKind::AddrInUse);
    assert_eq!(error(Options { share_port: true, ..options("::", PORT) }).kind(), ErrorKind::AddrInUse);
    assert_eq!(error(options("192.0.2.1", PORT)).kind(), ErrorKind::AddrNotAvailable);
    assert_eq!(taken.local_address().port(), PORT);
    assert_ne!(bind(&namespace, options("127.0.0.1", 0)).local_address().port(), 0);
    let mut batch = ReceiveBatch::new(4);
    assert_eq!(batch.receive(&taken, linux::udp::BATCH).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_mark_is_what_rules_tell_datagrams_by() {
    let mut pair = pair();
    for (family, left, right) in [(Family::V4, LEFT[0], RIGHT[0]), (Family::V6, LEFT[1], RIGHT[1])] {
        let mark = 0x8000_0001;
        let rule = Rule { mark: Some((mark, u32::MAX)), ..Rule::new(family, 0, RuleAction::Unreachable) };
        pair.left_netlink.add_rule(&rule).unwrap();
        let socket = pair.left.run(|| Socket::bind(options(left, PORT))).unwrap().unwrap();
        let to = SocketAddr::new(right.parse().unwrap(), 9);
        let send = || {
            let flow = Flow { to, from: None, ecn: Ecn::NotEct, lane: 0, tag: 0 };
            let mut queue = SendQueue::unbatched();
            queue.slot(&flow, 1).unwrap();
            queue.commit(1);
            let mut failed = false;
            queue.flush(&socket, |sent| failed = sent.failed.is_some());
            !failed
        };
        assert!(send());
        socket.set_mark(NonZero::new(mark)).unwrap();
        assert!(!send());
        socket.set_mark(NonZero::new(2)).unwrap();
        assert!(send());
        socket.set_mark(NonZero::new(mark)).unwrap();
        assert!(!send());
        socket.set_mark(None).unwrap();
        assert!(send());
    }
}
