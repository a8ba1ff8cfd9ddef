//! What a daemon holds on to when something goes wrong, and what it leaves alone because it is another's: the blackholes that keep
//! traffic from leaving in the clear above all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bed::daemon::{Configuration, Place};
use bed::traffic::{End, exchange_tcp};
use bed::{Bed, Family, Host, wait_for};
use ipnet::IpNet;
use linux::netlink::{LinkChange, Route, RouteKind};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Whether a blackhole of adit's covers this prefix on the host.
fn is_held(host: &Host, prefix: &str) -> bool {
    let ours = |r: &Route| r.kind == RouteKind::Blackhole && r.protocol == linux::netlink::PROTOCOL;
    host.netlink().routes(None).unwrap().iter().any(|r| ours(r) && r.destination == net(prefix))
}

fn pair() -> (Bed, [Place; 2]) {
    let bed = Bed::new(2);
    let place =
        |me: usize, peer: usize| Place::new(bed.host(me), &Configuration::new(bed.host(me), &[peer], Family::V4));
    let places = [place(1, 2), place(2, 1)];
    (bed, places)
}

fn carries(bed: &Bed) {
    let end = |n: usize| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V4));
    exchange_tcp(end(1), end(2), 50_001, 50_003);
}

#[test]
fn what_cannot_be_repaired_keeps_nothing_else_from_it() {
    let (bed, [one, two]) = pair();
    let (daemon, _two) = (one.start(), two.start());
    let host = bed.host(1);
    let mut netlink = host.netlink();
    let under = netlink.existing_link("under0").unwrap().index;
    let ours: Vec<Route> =
        netlink.routes(None).unwrap().into_iter().filter(|r| r.protocol == linux::netlink::PROTOCOL).collect();
    // Somebody puts a route of their own in the place of one of ours, and removes all the others.
    let in_the_way = Route { device: Some(under), protocol: 4, ..Route::new(net("10.42.0.0/16")) };
    for route in &ours {
        netlink.delete_route(route).unwrap();
    }
    netlink.add_route(&in_the_way).unwrap();
    wait_for("the other routes", || {
        let routes = netlink.routes(None).unwrap();
        let back = |r: &&Route| r.destination != in_the_way.destination || r.kind == RouteKind::Blackhole;
        let same = |a: &Route, b: &Route| a.destination == b.destination && a.kind == b.kind && a.device == b.device;
        ours.iter().filter(back).all(|o| routes.iter().any(|r| same(r, o))).then_some(())
    });
    wait_for("a sentence about the one in the way", || daemon.log().contains("10.42.0.0/16").then_some(()));
    // It does not fight: the blackholes stand at every look, and it says the same thing once.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(is_held(host, "10.42.0.0/16") && is_held(host, "10.77.0.2/32") && is_held(host, "fd40:2::/32"));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.log().matches("is in the way").count(), 1, "{}", daemon.log());
    assert!(netlink.routes(None).unwrap().iter().any(|r| r.destination == in_the_way.destination && r.protocol == 4));
    carries(&bed);
    netlink.delete_route(&in_the_way).unwrap();
    daemon.terminate();
}

#[test]
fn a_start_that_fails_takes_back_its_own_steps_only() {
    let (bed, [one, _]) = pair();
    let host = bed.host(1);
    // A daemon was killed: its blackholes stand.
    one.start().crash();
    wait_for("the device without a reader", || (!host.netlink().existing_link("adit0").unwrap().running).then_some(()));
    let before = host.state();
    // Another one for the same prefixes, on another device, must fail: the routes are taken.
    let mut configuration = Configuration::new(host, &[2], Family::V4);
    configuration.device = "adit1".into();
    configuration.addresses = vec!["10.78.0.1/24".into()];
    let second = Place::beside(&one, &configuration);
    let (code, said) = second.fail();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(host.state(), before);
    assert!(is_held(host, "10.42.0.0/16"));

    // The first one with an endpoint that its own prefixes swallow: refused, and all is as it was.
    let mut looped = Configuration::new(host, &[2], Family::V4);
    looped.peers[0].allowed_ips.push("192.0.2.0/25".into());
    one.configure(&looped);
    let (code, said) = one.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("leads into the tunnel itself"), "{said}");
    assert_eq!(host.state(), before);
}

#[test]
fn a_device_that_was_renamed_is_let_go_of_and_made_anew() {
    let (bed, [one, two]) = pair();
    let host = bed.host(1);
    let before = host.state();
    let (daemon, _two) = (one.start(), two.start());
    carries(&bed);
    let mut netlink = host.netlink();
    let index = netlink.existing_link("adit0").unwrap().index;
    let change = |up, name| LinkChange { up, name, ..LinkChange::default() };
    netlink.change_link(index, &change(Some(false), None)).unwrap();
    netlink.change_link(index, &change(None, Some("stolen"))).unwrap();
    wait_for("a new device", || {
        let links = netlink.links().unwrap();
        (links.iter().any(|l| l.name == "adit0" && l.up) && links.iter().all(|l| l.name != "stolen")).then_some(())
    });
    assert!(is_held(host, "10.42.0.0/16"));
    wait_for("the way", || {
        host.netlink()
            .routes(None)
            .unwrap()
            .iter()
            .any(|r| r.destination == net("10.42.0.0/16") && r.kind == RouteKind::Unicast)
            .then_some(())
    });
    carries(&bed);
    daemon.terminate();
    assert_eq!(host.state(), before);
}

#[test]
fn down_leaves_a_daemon_alone_that_it_cannot_reach() {
    let (bed, [one, two]) = pair();
    let (mut daemon, _two) = (one.start(), two.start());
    let elsewhere = Place::new(bed.host(1), &Configuration::new(bed.host(1), &[2], Family::V4));
    let output = elsewhere.run("down", &["--device", "adit0"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--runtime-dir"), "{said}");
    assert!(daemon.is_running());
    carries(&bed);
}

/// Runs `adit up` through a shell line (`"$@"` is the command) in a mount namespace of its own, where it must fail with these words
/// and leave nothing.
fn fails_within(line: &str, words: &str) {
    let bed = Bed::new(1);
    let host = bed.host(1);
    let (before, place) = (host.state(), Place::new(host, &Configuration::new(host, &[2], Family::V4)));
    let up = place.command("up");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", line, "sh"]).arg(up.get_program()).args(up.get_args());
    command.arg("--config").arg(place.path("adit0.toml"));
    let output = host.namespace.run(move || command.output()).unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("adit: ") && said.contains(words) && said.lines().count() == 1, "{said}");
    assert_eq!(host.state(), before);
    assert_eq!(place.leftovers(), [""; 0]);
    assert!(!place.path("state").exists() && !place.runtime().exists());
}

#[test]
fn a_host_without_tun_devices_is_told_how_to_get_them() {
    fails_within(r#"mount -t tmpfs none /dev/net && exec "$@""#, "modprobe tun");
}

#[test]
fn a_user_without_the_right_is_told_which_one() {
    fails_within(r#"exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin "$@""#, "setcap cap_net_admin+ep");
}

#[test]
fn a_ping_passes_beside_a_flood() {
    let (bed, [one, two]) = pair();
    let (_one, _two) = (one.start(), two.start());
    let from = |n: usize| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V4));
    let flood = from(1).udp();
    let to = (bed.host(2).inner(Family::V4), 9);
    let std::net::IpAddr::V4(far) = bed.host(2).inner(Family::V4) else { unreachable!("IPv4") };
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = flood.send_to(&[7; 900], to);
            }
        });
        let mut pinger = bed.host(1).namespace.run(|| linux::ping::Pinger::open(far, 9)).unwrap().unwrap();
        // The flood may crowd some out of the device's queue; none may wait for more of its kind to come.
        let answered = (0..40).filter(|_| pinger.round_trip(Duration::from_millis(500)).unwrap().is_some()).count();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(answered >= 5, "{answered} of 40 pings were answered");
    });
}
