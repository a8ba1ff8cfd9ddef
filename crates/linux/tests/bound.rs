//! Sockets that are bound to a device, against the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use linux::bound;
use linux::netlink::VethEnd;
use linux::netns::NetNs;
use support::fresh;

const PATIENCE: Duration = Duration::from_millis(300);

/// Two namespaces joined by two veth pairs, of which the second has no address.
fn pair() -> (NetNs, NetNs) {
    let ((left, mut one), (right, mut two)) = (fresh(), fresh());
    for name in ["a", "b"] {
        let far = VethEnd { name, netns: Some(&right), ..VethEnd::default() };
        one.create_veth(&VethEnd { name, ..VethEnd::default() }, &far).unwrap();
        for (netlink, address) in [(&mut one, "10.0.0.1/24"), (&mut two, "10.0.0.2/24")] {
            let index = netlink.existing_link(name).unwrap().index;
            netlink.set_up(index, true).unwrap();
            if name == "a" {
                netlink.add_address(index, address.parse().unwrap(), true).unwrap();
            }
        }
    }
    (left, right)
}

fn at(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], port))
}

#[test]
fn what_comes_by_the_device_is_taken_and_nothing_else() {
    let (left, right) = pair();
    let listener = right.run(|| bound::listen("a", at(2, 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let own: IpAddr = at(1, 0).ip();
    let mut client = left.run(|| bound::connect("a", own, address, PATIENCE)).unwrap().unwrap();
    assert_eq!(client.local_addr().unwrap().ip(), own);
    let (mut server, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), own);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    // By the other device it is the same host, but not the socket.
    let error = left.run(|| bound::connect("b", own, address, PATIENCE)).unwrap().unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot connect to TCP {address} by b: ")), "{error}");
}

#[test]
fn datagrams_keep_to_their_device() {
    let (left, right) = pair();
    let server = right.run(|| bound::datagrams("a", at(2, 0))).unwrap().unwrap();
    let client = left.run(|| bound::datagrams("a", at(1, 0))).unwrap().unwrap();
    client.send_to(b"x", server.local_addr().unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (length, from) = server.recv_from(&mut [0; 8]).unwrap();
    assert_eq!((length, from), (1, client.local_addr().unwrap()));
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let (left, _right) = pair();
    let error = left.run(|| bound::listen("c", at(1, 0))).unwrap().unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENODEV));
}
