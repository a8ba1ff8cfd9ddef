//! A device whose addresses and routes are somebody else's, and what WireGuard's tools are told of bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use adit::key::PrivateKey;
use bed::daemon::{Configuration, PORT, Place};
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_tcp};
use bed::{Bed, Family, wait_for};
use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The values of a key in an answer.
fn values<'a>(answer: &'a str, key: &str) -> Vec<&'a str> {
    answer.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// As WireGuard counts them: datagrams whole, handshakes and keepalives included.
#[test]
fn bytes_are_counted_as_wireguard_does() {
    let bed = Bed::new(2);
    let ends = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "wireguard");
    let places = [Place::new(bed.host(1), &ends[0]), Place::new(bed.host(2), &ends[1])];
    let _daemons = places.each_ref().map(Place::start);
    let before = places[0].ask_as_wg("get=1");
    assert_eq!((values(&before, "rx_bytes"), values(&before, "tx_bytes")), (vec!["0"], vec!["0"]));
    bed.host(1).run("ping", &["-c", "10", "-i", "0.05", "-W", "5", "10.77.0.2"]);
    // Ten answers of 128 bytes and the response of 92; ten packets, the initiation of 148, and at most one keepalive of 32.
    let answer = places[0].ask_as_wg("get=1");
    assert_eq!(values(&answer, "rx_bytes"), ["1372"]);
    let sent = values(&answer, "tx_bytes")[0];
    assert!(["1428", "1460"].contains(&sent), "{sent}");
    let other = places[1].ask_as_wg("get=1");
    assert_eq!((values(&other, "rx_bytes"), values(&other, "tx_bytes")), (vec![sent], vec!["1372"]));
    let shaken: u64 = values(&answer, "last_handshake_time_sec")[0].parse().unwrap();
    let now = linux::clock::realtime().as_secs();
    assert!(shaken <= now && now - shaken < 60, "{shaken}");
}

/// What `wg` is shown of an endpoint is where the peer is now; what it does not touch stays what the file says, and what it says counts.
#[test]
fn endpoints_that_wg_does_not_touch_stay_names() {
    let bed = Bed::new(3);
    let mut ends = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "wireguard");
    ends[0].peers[0].endpoint = format!("two.example:{PORT}");
    ends[0].peers[0].keepalive = Some("1s");
    let places = [Place::new(bed.host(1), &ends[0]), Place::new(bed.host(2), &ends[1])];
    std::fs::write(places[0].path("hosts"), "192.0.2.2 two.example\n").unwrap();
    let _two = places[1].start();
    let one = places[0].start_with_hosts("hosts");
    wait_for("a session", || (one.status().peers[0].session == "up").then_some(()));
    assert_eq!(values(&places[0].ask_as_wg("get=1"), "endpoint"), [format!("192.0.2.2:{PORT}")]);
    assert_eq!(places[0].ask_as_wg("set=1\nfwmark=7"), "errno=0\n");
    assert_eq!(one.reload(), "changed: fwmark", "and not the endpoint");
    let key = hex(ends[0].peers[0].public_key.unwrap().as_bytes());
    let set = format!("set=1\npublic_key={key}\nendpoint=192.0.2.3:{PORT}");
    assert_eq!(places[0].ask_as_wg(&set), "errno=0\n");
    assert_eq!(one.status().peers[0].endpoint, Some(format!("192.0.2.3:{PORT}")));
    assert_eq!(one.reload(), "1 peer changed");
    wait_for("the address of the name", || {
        (one.status().peers[0].endpoint == Some(format!("192.0.2.2:{PORT}"))).then_some(())
    });
}

#[test]
fn a_bare_device_goes_where_others_take_it() {
    let bed = Bed::new(2);
    let [_, two] = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "wireguard");
    let key = PrivateKey::generate().unwrap();
    let mut two = two;
    let theirs = two.make_key();
    two.peers[0].public_key = Some(key.public_key());
    let place = Place::new(bed.host(1), &Configuration::new(bed.host(1), &[], Family::V4));
    let far = Place::new(bed.host(2), &two);
    let _far = far.start();
    let before = bed.host(1).state();
    let one = place.start_bare();
    let mut netlink = bed.host(1).netlink();
    let link = netlink.existing_link("adit0").unwrap();
    assert_eq!((link.mtu, link.up), (1420, false));
    assert_eq!(netlink.addresses(Some(link.index)).unwrap(), []);

    let set = format!(
        "set=1\nprivate_key={}\nlisten_port={PORT}\npublic_key={}\nendpoint=192.0.2.2:{PORT}\nallowed_ip=10.77.0.2/32\nallowed_ip=fd77::2/128",
        hex(key.as_bytes()),
        hex(theirs.as_bytes()),
    );
    assert_eq!(place.ask_as_wg(&set), "errno=0\n");
    // Somebody else's MTU is followed, and not put back.
    netlink.change_link(link.index, &LinkChange { mtu: Some(1380), ..LinkChange::default() }).unwrap();
    wait_for("the other MTU", || (one.status().device.mtu == 1380).then_some(()));
    assert_eq!(netlink.existing_link("adit0").unwrap().mtu, 1380);

    let room = bed.host(1).container();
    netlink.change_link(link.index, &LinkChange { netns: Some(&room), ..LinkChange::default() }).unwrap();
    let mut inside = Netlink::open_in(&room).unwrap();
    let moved = inside.existing_link("adit0").unwrap();
    for address in ["10.77.0.1/24", "fd77::1/64"] {
        inside.add_address(moved.index, address.parse::<IpNet>().unwrap(), true).unwrap();
    }
    inside.set_up(moved.index, true).unwrap();
    let far_end = End::new(&bed.host(2).namespace, bed.host(2).inner(Family::V4));
    let near_end = End::new(&room, bed.host(1).inner(Family::V4));
    exchange_tcp(near_end, far_end, 100_001, 100_003);
    let (a, b) = connection(near_end, far_end);
    let mut random = Random::new(5);
    for port in [PORT + 1, PORT + 2] {
        assert_eq!(place.ask_as_wg(&format!("set=1\nlisten_port={port}")), "errno=0\n");
        exchange_over((&a, &b), &random.bytes(200_001), &random.bytes(200_003));
        let link = inside.existing_link("adit0").unwrap();
        assert_eq!((link.index, link.running, link.up), (moved.index, true, true));
    }
    // It is not made anew, nor missed by who looks for it here.
    assert!(netlink.link("adit0").unwrap().is_none());
    one.crash();
    assert!(inside.link("adit0").unwrap().is_none(), "it goes with its daemon");
    drop(room);
    let links = |state: &bed::State| format!("{state:?}").matches("adit0").count();
    assert_eq!(links(&bed.host(1).state()), links(&before));
}

#[test]
fn a_bare_device_that_is_deleted_ends_its_daemon() {
    let bed = Bed::new(1);
    let place = Place::new(bed.host(1), &Configuration::new(bed.host(1), &[], Family::V4));
    let before = bed.host(1).state();
    let mut one = place.start_bare();
    let mut netlink = bed.host(1).netlink();
    let link = netlink.existing_link("adit0").unwrap();
    netlink.delete_link(link.index).unwrap();
    assert!(one.await_end().success(), "{}", one.log());
    assert_eq!(bed.host(1).state(), before);
    assert_eq!(place.leftovers(), [""; 0]);
}
