//! A daemon's life and death: what it leaves, what it repairs, what it does not touch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bed::daemon::{Configuration, Daemon, PORT, Place, exists};
use bed::packet::{MARK, Random};
use bed::sniffer::{Sniffer, contains};
use bed::traffic::{End, connection, exchange_over, exchange_tcp, exchange_udp};
use bed::{Bed, Family, Host, await_address, over, wait_at_most, wait_for};
use linux::netlink::{PROTOCOL, Route, RouteKind, VethEnd};
use linux::tun::{Device, Options};
use wire::ip::{IpPacket, protocol};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

over! {
    plain: {
        a_stop_by_signal_leaves_the_host_as_it_was
        a_stop_comes_through_under_full_load
        a_killed_daemon_leaks_nothing_and_its_successor_takes_over
        a_deleted_device_is_back_within_two_seconds
        answers_leave_from_the_address_that_was_written_to
    }
}

over! {
    sealed: {
        a_stop_by_signal_leaves_the_host_as_it_was
        a_stop_comes_through_under_full_load
        a_killed_daemon_leaks_nothing_and_its_successor_takes_over
        a_deleted_device_is_back_within_two_seconds
        answers_leave_from_the_address_that_was_written_to
    }
}

over! {
    wireguard: {
        a_killed_daemon_leaks_nothing_and_its_successor_takes_over
        answers_leave_from_the_address_that_was_written_to
    }
}

/// How soon a daemon has repaired what somebody broke.
const REPAIR: Duration = Duration::from_secs(2);

fn pair() -> (Bed, [Place; 2]) {
    pair_by("plain")
}

fn pair_by(transport: &'static str) -> (Bed, [Place; 2]) {
    let bed = Bed::new(2);
    let hosts = [bed.host(1), bed.host(2)];
    let [one, two] = Configuration::pair(hosts, Family::V4, transport);
    let places = [Place::new(hosts[0], &one), Place::new(hosts[1], &two)];
    (bed, places)
}

fn place(host: &Host, peers: &[usize]) -> Place {
    Place::new(host, &Configuration::new(host, peers, Family::V4))
}

fn inner(bed: &Bed, host: usize, family: Family) -> End<'_> {
    End::new(&bed.host(host).namespace, bed.host(host).inner(family))
}

fn carries(bed: &Bed) {
    for family in FAMILIES {
        exchange_tcp(inner(bed, 1, family), inner(bed, 2, family), 100_001, 100_003);
    }
}

fn ifindex(host: &Host) -> u32 {
    host.netlink().existing_link("adit0").unwrap().index
}

fn a_stop_by_signal_leaves_the_host_as_it_was(transport: &'static str) {
    let (bed, [one, two]) = pair_by(transport);
    let before = bed.host(1).state();
    let _two = two.start();
    for _ in 0..3 {
        let daemon = one.start();
        assert_ne!(bed.host(1).state(), before);
        carries(&bed);
        daemon.terminate();
        assert_eq!(bed.host(1).state(), before);
        // How far the time stamps of handshakes went outlives the daemon: its successor must not use an older one.
        let kept: &[&str] = if transport == "plain" { &[] } else { &["adit0.mark"] };
        assert_eq!(one.leftovers(), kept);
    }
}

fn a_stop_comes_through_under_full_load(transport: &'static str) {
    let (bed, [one, two]) = pair_by(transport);
    let before = bed.host(1).state();
    let (daemon, _two) = (one.start(), two.start());
    carries(&bed);
    let sent = |daemon: &Daemon<'_>| daemon.status().peers[0].tx_packets;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Ending(&stop);
        for family in FAMILIES {
            let socket = inner(&bed, 1, family).udp();
            let to = (bed.host(2).inner(family), 9);
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let _ = socket.send_to(&[7; 1000], to);
                }
            });
        }
        // Never idle: each look finds more.
        let start = sent(&daemon);
        wait_for("load", || (sent(&daemon) > start + 10_000).then_some(()));
        daemon.terminate();
    });
    assert_eq!(bed.host(1).state(), before);
}

#[test]
fn adit_down_leaves_the_host_as_it_was() {
    let (bed, [one, two]) = pair();
    let before = bed.host(1).state();
    let (mut daemon, _two) = (one.start(), two.start());
    carries(&bed);
    let output = one.run("down", &[]);
    assert!(output.status.success(), "{output:?}");
    // All is gone when the command returns.
    assert_eq!(bed.host(1).state(), before);
    assert_eq!(one.leftovers(), [""; 0]);
    assert!(daemon.await_end().success());
}

#[test]
fn adit_down_removes_what_a_killed_daemon_left() {
    let (bed, [one, _]) = pair();
    let before = bed.host(1).state();
    one.start().crash();
    assert_ne!(bed.host(1).state(), before);
    let output = one.run("down", &["--device", "adit0"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(bed.host(1).state(), before);
    assert_eq!(one.leftovers(), [""; 0]);
    let output = one.run("down", &["--device", "adit0"]);
    assert_eq!(output.status.code(), Some(1), "there is nothing any more: {output:?}");
}

/// Sends marked datagrams and tries marked connections to everything behind host 2, until it is stopped.
struct Talker<'a> {
    stop: &'a AtomicBool,
    attempts: &'a AtomicU64,
}

impl Talker<'_> {
    fn run(&self, host: &Host, peer: &Host) {
        let destinations = FAMILIES.map(|family| [(family, peer.inner(family)), (family, peer.behind(family, 9))]);
        let sockets: Vec<_> = destinations
            .into_iter()
            .flatten()
            .map(|(family, to)| (End::new(&host.namespace, host.inner(family)).udp(), to))
            // Also without an address of the tunnel's: whatever source the kernel would choose.
            .chain(destinations.into_iter().flatten().map(|(family, to)| {
                let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
                (host.namespace.run(|| std::net::UdpSocket::bind(any)).unwrap().unwrap(), to)
            }))
            .collect();
        while !self.stop.load(Ordering::Acquire) {
            for (socket, to) in &sockets {
                // Refusals are what is expected while there is no daemon.
                let _ = socket.send_to(MARK, (*to, 9));
                self.attempts.fetch_add(1, Ordering::Release);
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits until so many more datagrams were tried.
    fn await_more(&self, count: u64) {
        let goal = self.attempts.load(Ordering::Acquire) + count;
        wait_for("more traffic", || (self.attempts.load(Ordering::Acquire) >= goal).then_some(()));
    }
}

fn a_killed_daemon_leaks_nothing_and_its_successor_takes_over(transport: &'static str) {
    let (bed, [one, two]) = pair_by(transport);
    let (host, peer) = (bed.host(1), bed.host(2));
    // What the tunnel does not take would leave by the underlay.
    let mut netlink = host.netlink();
    for (family, everywhere) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
        let route =
            Route { gateway: Some(peer.underlay(family)), protocol: 4, ..Route::new(everywhere.parse().unwrap()) };
        netlink.add_route(&route).unwrap();
    }
    let before = host.state();
    let (daemon, _two) = (one.start(), two.start());
    let index = ifindex(host);
    let flows = FAMILIES.map(|family| connection(inner(&bed, 1, family), inner(&bed, 2, family)));
    let exchange = || {
        let mut random = Random::new(9);
        flows.iter().for_each(|(a, b)| exchange_over((a, b), &random.bytes(100_001), &random.bytes(100_003)));
    };
    exchange();

    let sniffer = Sniffer::open(&host.namespace, "under0");
    let in_clear = sniffer.watch(|_, bytes| {
        let packet = IpPacket::parse(bytes.get(14..)?).ok()?;
        // Our datagrams, and what ICMP says about those that nobody received.
        let tunnelled = match packet.protocol() {
            protocol::UDP => packet.payload().get(2..4) == Some(&PORT.to_be_bytes()),
            other => other == protocol::ICMP,
        };
        (contains(bytes, MARK) && !tunnelled).then(|| bytes.to_vec())
    });
    let (stop, attempts) = (AtomicBool::new(false), AtomicU64::new(0));
    let talker = Talker { stop: &stop, attempts: &attempts };
    // After a clean stop traffic may go where the host's own routes lead; until then it may not.
    let daemon = thread::scope(|scope| {
        // However this ends, the talker does too.
        let _end = Ending(&stop);
        scope.spawn(|| talker.run(host, peer));
        talker.await_more(500);
        daemon.crash();
        talker.await_more(500);

        let daemon = one.start();
        assert_eq!(ifindex(host), index, "the device is taken over");
        exchange();
        talker.await_more(500);

        daemon.crash();
        netlink.delete_link(index).unwrap();
        talker.await_more(500);
        let mut daemon = one.start();
        exchange();
        talker.await_more(500);
        assert!(daemon.is_running());
        daemon
    });
    let leaked = in_clear.collect();
    assert!(leaked.is_empty(), "{} packets in the clear, the first {:02x?}", leaked.len(), leaked[0]);
    daemon.terminate();
    assert_eq!(host.state(), before);
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn a_deleted_device_is_back_within_two_seconds(transport: &'static str) {
    let (bed, [one, two]) = pair_by(transport);
    let (host, _two) = (bed.host(1), two.start());
    let before = host.state();
    let mut daemon = one.start();
    carries(&bed);
    for _ in 0..3 {
        let old = ifindex(host);
        host.netlink().delete_link(old).unwrap();
        wait_at_most(REPAIR, "the device", || {
            host.netlink().link("adit0").unwrap().filter(|link| link.index != old && link.up)
        });
        // Until the way stands again, its blackhole refuses what is sent.
        wait_at_most(REPAIR, "the routes", || {
            let routes = host.netlink().routes(None).unwrap();
            let ours = |kind| routes.iter().filter(move |r| r.protocol == PROTOCOL && r.kind == kind);
            (ours(RouteKind::Unicast).count() == ours(RouteKind::Blackhole).count()).then_some(())
        });
        carries(&bed);
        assert!(daemon.is_running());
    }
    let status = daemon.status();
    assert!(status.peers[0].rx_packets > 0);
    daemon.terminate();
    assert_eq!(host.state(), before);
}

#[test]
fn what_somebody_removes_is_back_within_two_seconds_and_what_is_foreign_stays() {
    let (bed, [one, two]) = pair();
    let host = bed.host(1);
    let (daemon, _two) = (one.start(), two.start());
    let mut netlink = host.netlink();
    let index = ifindex(host);
    let underlay = netlink.existing_link("under0").unwrap().index;
    // Somebody's own routes: past the tunnel, into it, and a blackhole.
    for route in [
        Route { device: Some(underlay), protocol: 4, ..Route::new("198.51.100.0/24".parse().unwrap()) },
        Route { device: Some(index), protocol: 4, ..Route::new("10.200.0.0/16".parse().unwrap()) },
        Route { kind: RouteKind::Blackhole, protocol: 4, ..Route::new("10.201.0.0/16".parse().unwrap()) },
        Route { kind: RouteKind::Blackhole, protocol: PROTOCOL, ..Route::new("10.202.0.0/16".parse().unwrap()) },
        Route { device: Some(index), protocol: 4, ..Route::new("fd99::/16".parse().unwrap()) },
    ] {
        netlink.add_route(&route).unwrap();
    }
    for family in FAMILIES {
        await_address(&host.namespace, host.inner(family));
    }
    let whole = host.state();
    let is_whole = |what: &str| {
        wait_at_most(REPAIR, what, || (host.state() == whole).then_some(()));
        carries(&bed);
    };

    let ours: Vec<_> = netlink.routes(None).unwrap().into_iter().filter(|r| r.protocol == PROTOCOL).collect();
    assert!(ours.len() >= 8, "{ours:?}");
    for route in ours.iter().filter(|r| r.destination != "10.202.0.0/16".parse().unwrap()) {
        netlink.delete_route(route).unwrap();
    }
    is_whole("the routes");

    for family in FAMILIES {
        let address = netlink.addresses(Some(index)).unwrap();
        let address = address.iter().find(|a| a.net.addr() == host.inner(family)).unwrap();
        netlink.delete_address(index, address.net).unwrap();
    }
    // With the last IPv6 address the kernel may take foreign IPv6 routes of the device too.
    wait_at_most(REPAIR, "the addresses", || {
        let addresses = netlink.addresses(Some(index)).unwrap();
        FAMILIES.iter().all(|&f| addresses.iter().any(|a| a.net.addr() == host.inner(f))).then_some(())
    });
    carries(&bed);

    host.set_mtu("adit0", 1300);
    wait_at_most(REPAIR, "the MTU", || (netlink.existing_link("adit0").unwrap().mtu == 1472).then_some(()));

    netlink.set_up(index, false).unwrap();
    wait_at_most(REPAIR, "the device to be up", || netlink.existing_link("adit0").unwrap().up.then_some(()));
    carries(&bed);

    daemon.terminate();
    let left = netlink.routes(None).unwrap();
    for foreign in ["198.51.100.0/24", "10.201.0.0/16", "10.202.0.0/16"] {
        assert!(left.iter().any(|r| r.destination == foreign.parse().unwrap()), "{foreign} is not ours to remove");
    }
}

#[test]
fn two_daemons_live_side_by_side() {
    let bed = Bed::new(3);
    let before = bed.host(1).state();
    let shared = Configuration::new(bed.host(1), &[2], Family::V4);
    let first = Place::new(bed.host(1), &shared);
    let mut other = Configuration::new(bed.host(1), &[3], Family::V4);
    (other.device, other.addresses) = ("adit1".into(), vec!["10.78.0.1/24".into(), "fd78::1/64".into()]);
    other.listen = "192.0.2.1:7778".into();
    other.peers[0].allowed_ips = vec!["10.78.0.3/32".into(), "10.43.0.0/16".into(), "fd78::3/128".into()];
    let second = Place::beside(&first, &other);
    let mut third = Configuration::new(bed.host(3), &[1], Family::V4);
    (third.addresses, third.peers[0].endpoint) =
        (vec!["10.78.0.3/24".into(), "fd78::3/64".into()], "192.0.2.1:7778".into());
    third.peers[0].allowed_ips = vec!["10.78.0.1/32".into(), "fd78::1/128".into()];
    let (at_two, at_three) = (place(bed.host(2), &[1]), Place::new(bed.host(3), &third));

    let (_two, _three) = (at_two.start(), at_three.start());
    let (one, another) = (first.start(), second.start());
    let through_second = || {
        for address in ["10.78.0.", "fd78::"] {
            let end = |n: usize| End::new(&bed.host(n).namespace, format!("{address}{n}").parse().unwrap());
            exchange_tcp(end(1), end(3), 50_001, 50_003);
        }
    };
    carries(&bed);
    through_second();
    one.terminate();
    through_second();
    assert_eq!(another.status().device.name, "adit1");
    let one = first.start();
    another.terminate();
    carries(&bed);
    one.terminate();
    assert_eq!(bed.host(1).state(), before);
    assert_eq!(first.leftovers(), [""; 0]);
}

/// Tries to start a daemon that must be refused: with this exit code, these words, and the host untouched.
fn refused(place: &Place, host: &Host, words: &str) {
    let before = host.state();
    let (code, said) = place.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(words), "{words:?} in {said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("adit: ")).count(), 1, "one sentence: {said}");
    assert_eq!(host.state(), before);
}

#[test]
fn a_second_daemon_for_a_device_is_refused() {
    let (bed, [one, two]) = pair();
    let (mut daemon, _two) = (one.start(), two.start());
    let host = bed.host(1);
    refused(&one, host, "already");
    // One that knows nothing of the first: other directories, another port.
    let mut other = Configuration::new(host, &[2], Family::V4);
    other.listen = "192.0.2.1:7778".into();
    let stranger = Place::new(host, &other);
    refused(&stranger, host, "adit0");
    assert_eq!(stranger.leftovers(), [""; 0]);
    assert!(daemon.is_running());
    carries(&bed);
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_left() {
    let (bed, [one, _]) = pair();
    let host = bed.host(1);
    for workers in [1, 2] {
        one.configure(&Configuration::new(host, &[2], Family::V4).with(&format!("workers = {workers}")));
        let socket = End::new(&host.namespace, host.underlay(Family::V4)).udp_on(PORT);
        refused(&one, host, "7777");
        assert_eq!(one.leftovers(), [""; 0]);
        drop(socket);
    }
    one.start().terminate();
}

#[test]
fn a_device_of_somebody_else_is_refused_and_untouched() {
    let (bed, [one, _]) = pair();
    let host = bed.host(1);
    let mut netlink = host.netlink();
    netlink.create_bridge("adit0", None).unwrap();
    refused(&one, host, "adit0");
    netlink.delete_link(ifindex(host)).unwrap();

    let ends = (VethEnd { name: "adit0", ..VethEnd::default() }, VethEnd { name: "other", ..VethEnd::default() });
    netlink.create_veth(&ends.0, &ends.1).unwrap();
    refused(&one, host, "adit0");
    netlink.delete_link(ifindex(host)).unwrap();

    // A TUN device too, of a program that runs or of one that has left it behind.
    for persistent in [false, true] {
        let options = Options { persistent: Some(persistent), ..Options::new("adit0") };
        let device = host.namespace.run(|| Device::open(options)).unwrap().unwrap();
        refused(&one, host, "adit0");
        if persistent {
            drop(device);
            refused(&one, host, "adit0");
            netlink.delete_link(ifindex(host)).unwrap();
        }
    }
    assert_eq!(one.leftovers(), [""; 0]);
    one.start().terminate();
}

fn answers_leave_from_the_address_that_was_written_to(transport: &'static str) {
    for (outer, extra, endpoint) in
        [(Family::V4, "192.0.2.101/24", "192.0.2.101:7777"), (Family::V6, "2001:db8::101/64", "[2001:db8::101]:7777")]
    {
        let bed = Bed::new(2);
        let (host, peer) = (bed.host(1), bed.host(2));
        let mut netlink = host.netlink();
        let index = netlink.existing_link("under0").unwrap().index;
        let net: ipnet::IpNet = extra.parse().unwrap();
        netlink.add_address(index, net, true).unwrap();
        host.await_address(net.addr());
        let [mut near, mut far] = Configuration::pair([host, peer], outer, transport);
        near.listen = format!("[::]:{PORT}");
        far.peers[0].endpoint = endpoint.into();
        let (one, two) = (Place::new(host, &near), Place::new(peer, &far));
        let one = one.start();
        // It calls from any of its addresses, and would move the other one there: that is over, in vain, before there is another.
        wait_for("it calls", || {
            (transport != "sealed" || one.status().peers[0].session == "handshaking").then_some(())
        });
        let two = two.start();
        for family in FAMILIES {
            // The far end speaks first; from any other address it would refuse the answers.
            exchange_udp(inner(&bed, 2, family), inner(&bed, 1, family), [100, 1400]);
            exchange_tcp(inner(&bed, 2, family), inner(&bed, 1, family), 500_001, 500_003);
        }
        assert_eq!(two.drops("unknown_endpoint"), 0);
        assert_eq!(two.status().peers[0].endpoint.as_deref(), Some(endpoint), "it has not moved");
    }
}

/// The capabilities in force of each thread of a process.
fn capabilities(daemon: &Daemon<'_>) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let of = |directory: fs::DirEntry| {
        let status = fs::read_to_string(directory.path().join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("CapEff:")).unwrap().to_owned();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    threads.map(|thread| of(thread.unwrap())).collect()
}

#[test]
fn a_running_daemon_has_the_right_to_configure_networks_and_no_other() {
    let (_bed, [one, _]) = pair();
    let daemon = one.start();
    let held = capabilities(&daemon);
    assert!(held.len() > 2);
    assert!(held.iter().all(|&held| held == 1 << 12), "CAP_NET_ADMIN alone: {held:x?}");
}

#[test]
fn a_namespace_that_ends_takes_a_daemons_device_with_it() {
    let (bed, [one, _]) = pair();
    one.start().crash();
    assert!(exists(&one.path("state/adit0.json")));
    drop(bed);
    // The next start, in a namespace without anything of the last, is like the first.
    let fresh = Bed::new(2);
    let again = one.moved(fresh.host(1));
    let before = fresh.host(1).state();
    again.start().terminate();
    assert_eq!(fresh.host(1).state(), before);
    assert_eq!(again.leftovers(), [""; 0]);
}
