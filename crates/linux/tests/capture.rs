//! Captures against the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use linux::capture::{Capture, Captured, Direction};
use linux::netlink::{Layer, VethEnd};
use linux::netns::NetNs;
use linux::poll::readable;
use support::fresh;

/// Two namespaces joined by a veth pair; `a` has 10.0.0.1, `b` has 10.0.0.2.
fn joined() -> (NetNs, NetNs) {
    let (left, mut left_netlink) = fresh();
    let (right, mut right_netlink) = fresh();
    let (a, b) =
        (VethEnd { name: "a", ..VethEnd::default() }, VethEnd { name: "b", netns: Some(&right), ..VethEnd::default() });
    left_netlink.create_veth(&a, &b).unwrap();
    for (netlink, name, address) in [(&mut left_netlink, "a", "10.0.0.1/24"), (&mut right_netlink, "b", "10.0.0.2/24")]
    {
        let index = netlink.existing_link(name).unwrap().index;
        netlink.add_address(index, address.parse().unwrap(), true).unwrap();
        netlink.set_up(index, true).unwrap();
    }
    (left, right)
}

/// The next packet for which `wanted` holds, and its bytes.
fn next(capture: &mut Capture, buffer: &mut [u8], wanted: impl Fn(&Captured, &[u8]) -> bool) -> (Captured, Vec<u8>) {
    loop {
        while let Some(captured) = capture.recv(buffer).unwrap() {
            let bytes = &buffer[..captured.length];
            if wanted(&captured, bytes) {
                return (captured, bytes.to_vec());
            }
        }
        let [ready] = readable([capture.as_fd()], Some(Duration::from_secs(5))).unwrap();
        assert!(ready, "waited in vain for a packet");
    }
}

fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

#[test]
fn a_packet_is_seen_leaving_one_end_and_entering_the_other() {
    let (left, right) = joined();
    let mut leaving = left.run(|| Capture::open("a")).unwrap().unwrap();
    let mut entering = right.run(|| Capture::open("b")).unwrap().unwrap();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let sender = left.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    sender.send_to(b"a marked datagram", "10.0.0.2:9").unwrap();
    let mut buffer = vec![0; 65536];
    let (out, bytes) = next(&mut leaving, &mut buffer, |_, bytes| contains(bytes, b"a marked datagram"));
    let (into, same) = next(&mut entering, &mut buffer, |_, bytes| contains(bytes, b"a marked datagram"));
    assert_eq!((out.direction, into.direction), (Direction::Outgoing, Direction::Incoming));
    assert_eq!((out.protocol, out.layer, out.vlan), (0x0800, Layer::Ethernet, None));
    assert_eq!(out.length, 14 + 20 + 8 + 17);
    assert_eq!(bytes[..34], same[..34]);
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(before <= out.timestamp_ns && out.timestamp_ns <= into.timestamp_ns && into.timestamp_ns <= after);
    assert!(out.vnet.needs_csum(), "the checksum is left to the device");
}

#[test]
fn a_short_buffer_keeps_the_head_and_tells_the_length() {
    let (left, _right) = joined();
    let mut capture = left.run(|| Capture::open("a")).unwrap().unwrap();
    let sender = left.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    sender.send_to(&[7; 1000], "10.0.0.2:9").unwrap();
    let mut buffer = [0; 64];
    let (captured, _) = next(&mut capture, &mut buffer, |captured, _| captured.protocol == 0x0800);
    assert_eq!((captured.length, captured.original_length), (64, 1042));
}

#[test]
fn a_super_packet_shows_as_one() {
    let (left, right) = joined();
    let mut capture = left.run(|| Capture::open("a")).unwrap().unwrap();
    let listener = right.run(|| TcpListener::bind("10.0.0.2:80")).unwrap().unwrap();
    let mut stream = left.run(|| TcpStream::connect("10.0.0.2:80")).unwrap().unwrap();
    let reader =
        std::thread::spawn(move || std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap());
    stream.write_all(&vec![1; 1 << 20]).unwrap();
    drop(stream);
    assert_eq!(reader.join().unwrap(), 1 << 20);
    let mut buffer = vec![0; 65536];
    let (captured, _) = next(&mut capture, &mut buffer, |captured, _| captured.length > 1514);
    assert_eq!((captured.vnet.gso_type, captured.vnet.gso_size), (wire::vnet::GSO_TCPV4, 1448));
    assert!(captured.vnet.needs_csum());
}

#[test]
fn a_filter_lets_through_what_it_names() {
    let (left, _right) = joined();
    // Only UDP to port 4242: EtherType, protocol, destination port (headers without options).
    let program = [
        (0x28, 0, 0, 12),
        (0x15, 0, 5, 0x0800),
        (0x30, 0, 0, 23),
        (0x15, 0, 3, 17),
        (0x28, 0, 0, 36),
        (0x15, 0, 1, 4242),
        (0x06, 0, 0, 65535),
        (0x06, 0, 0, 0),
    ];
    let mut capture = left.run(|| Capture::open_filtered("a", &program)).unwrap().unwrap();
    let sender = left.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    for port in [1, 4242, 2] {
        sender.send_to(b"x", ("10.0.0.2", port)).unwrap();
    }
    let mut buffer = [0; 128];
    let (_, bytes) = next(&mut capture, &mut buffer, |_, _| true);
    assert_eq!(bytes[36..38], 4242u16.to_be_bytes());
    assert_eq!(capture.recv(&mut buffer).unwrap(), None);
    let tally = capture.tally().unwrap();
    assert_eq!((tally.seen, tally.lost, tally.unreadable), (1, 0, 0));
}

#[test]
fn errors_name_the_device() {
    let error = Capture::open("no-such-device").unwrap_err();
    assert_eq!((error.operation(), error.errno()), ("capture on device no-such-device", Some(libc::ENODEV)));
    assert!(Capture::open_filtered("lo", &[(0xffff, 0, 0, 0)]).is_err(), "the kernel checks a program");
}
