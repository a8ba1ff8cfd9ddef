//! What a configuration, an earlier run and the host itself have to say about roads.

use std::fs;

use linux::netlink::{PROTOCOL, RouteKind};

use crate::bed::Family;
use crate::bed::daemon::{Configuration, PORT};
use crate::bed::traffic::{connection, exchange_over};
use crate::world::World;

#[test]
fn routes_go_where_the_configuration_says() {
    let world = World::new();
    let before = world.state();
    let pair = world.pair(Family::V4, "sealed");
    let [one, two] = world.places(&pair);
    let _far = two.start();
    let ours = || world.host.netlink().routes(None).unwrap().into_iter().filter(|r| r.protocol == PROTOCOL);
    for (table, fwmark) in [("\"off\"", None), ("1234", Some(99))] {
        let mut configuration = pair[0].clone();
        configuration.device_lines = format!("table = {table}\n");
        if let Some(mark) = fwmark {
            configuration = configuration.with(&format!("fwmark = {mark}"));
        }
        one.configure(&configuration);
        let daemon = one.start();
        let tables: Vec<_> = ours().map(|route| (route.table, route.kind, route.destination.prefix_len())).collect();
        match fwmark {
            None => assert_eq!(tables, []),
            Some(_) => {
                let both = [(1234, RouteKind::Unicast, 0), (1234, RouteKind::Blackhole, 0)];
                assert_eq!(tables, [both, both].concat());
                // The host's own rules send packets there.
                for family in ["-4", "-6"] {
                    let rule = [family, "rule", "add", "not", "fwmark", "99", "lookup", "1234"];
                    world.host.run("ip", &rule);
                }
                world.host.set(&["net", "ipv4", "conf", "all", "rp_filter"], "0");
                world.host.set(&["net", "ipv4", "conf", "eth0", "rp_filter"], "0");
                world.reaches_the_world();
                for family in ["-4", "-6"] {
                    world.host.run("ip", &[family, "rule", "delete", "not", "fwmark", "99", "lookup", "1234"]);
                }
                for of in ["all", "eth0"] {
                    world.host.set(&["net", "ipv4", "conf", of, "rp_filter"], "1");
                }
            }
        }
        daemon.terminate();
        world.check(&before);
    }
}

#[test]
fn a_mark_that_is_configured_or_was_chosen_stays() {
    let world = World::new();
    let before = world.state();
    let pair = world.pair(Family::V4, "sealed");
    let [one, two] = world.places(&pair);
    let _far = two.start();
    let marks = || {
        let rules = world.host.netlink().rules().unwrap().into_iter().filter(|rule| rule.protocol == PROTOCOL);
        let mut marks: Vec<_> = rules.map(|rule| (rule.mark.unwrap().0, rule.priority)).collect();
        marks.dedup();
        marks
    };
    // Somebody has a rule and a table with the usual numbers.
    let taken = |verb: &str| {
        world.host.run("ip", &["rule", verb, "fwmark", "51820", "lookup", "51821", "priority", "17301"]);
        world.host.run("ip", &["route", verb, "blackhole", "10.255.0.0/16", "table", "51822"]);
    };
    taken("add");
    one.start().crash();
    let is_chosen = || marks().iter().all(|(mark, priority)| *mark == 51_823 && (17_304..17_307).contains(priority));
    assert!(is_chosen(), "{:?}", marks());
    taken("delete");
    // Others are free now, but what stands is adopted.
    let daemon = one.start();
    world.reaches_the_world();
    assert!(is_chosen(), "{:?}", marks());
    daemon.crash();
    // Another mark by configuration; the old road goes.
    one.configure(&pair[0].clone().with("fwmark = 0x63"));
    let daemon = one.start();
    world.reaches_the_world();
    assert!(marks().iter().all(|(mark, _)| *mark == 0x63), "{:?}", marks());
    daemon.terminate();
    world.check(&before);
}

#[test]
fn a_setting_that_others_rely_on_stays() {
    let world = World::new();
    let [one, two] = world.places(&world.pair(Family::V4, "sealed"));
    let _far = two.start();
    let setting = || world.host.run("sysctl", &["-n", "net.ipv4.conf.all.src_valid_mark"]).trim() == "1";
    let daemon = one.start();
    assert!(setting());
    world.host.run("ip", &["rule", "add", "not", "fwmark", "7", "lookup", "7"]);
    daemon.terminate();
    assert!(setting());
    world.host.run("ip", &["rule", "delete", "not", "fwmark", "7", "lookup", "7"]);
    // Whoever had set it before keeps it.
    one.start().terminate();
    assert!(setting());
}

#[test]
fn a_start_that_fails_leaves_no_roads() {
    let world = World::new();
    let before = world.state();
    let mut pair = world.pair(Family::V4, "sealed");
    pair[0].addresses.push("10.77.0.3/32".into());
    let [one, _] = world.places(&pair);
    // A route of the host's own is in the way of the last of ours.
    pair[0].peers[0].allowed_ips.push("10.200.0.0/16".into());
    one.configure(&pair[0]);
    world.host.run("ip", &["route", "add", "blackhole", "10.200.0.0/16", "metric", "2913840557"]);
    let (code, said) = one.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10.200.0.0/16"), "{said}");
    world.host.run("ip", &["route", "delete", "blackhole", "10.200.0.0/16", "metric", "2913840557"]);
    world.check(&before);
    assert_eq!(one.leftovers(), [""; 0]);
}

#[test]
fn a_name_that_nobody_can_be_asked_for_is_remembered() {
    let world = World::new();
    let before = world.state();
    let mut pair = world.pair(Family::V4, "sealed");
    pair[0].peers[0].endpoint = format!("far.example:{PORT}");
    let [one, two] = world.places(&pair);
    let _far = two.start();
    let hosts = |text: &str| fs::write(one.path("hosts"), text).unwrap();
    // Without an address nothing would ever get out.
    let (code, said) = one.fail();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("far.example:7777 of peer host2 does not resolve"), "{said}");
    assert_eq!(world.state(), before);
    hosts("203.0.113.2 far.example\n");
    let daemon = one.start_with_hosts("hosts");
    world.reaches_the_world();
    daemon.crash();
    hosts("");
    let daemon = one.start();
    world.reaches_the_world();
    daemon.terminate();
    world.check(&before);
}

#[test]
fn a_running_daemon_takes_everything_and_lets_it_go_again() {
    let world = World::new();
    let pair = world.pair(Family::V6, "sealed");
    let mut small = pair.clone();
    small[0].peers[0].allowed_ips = vec!["9.9.9.9/32".into(), "2620:fe::fe/128".into()];
    let [one, two] = world.places(&small);
    let (_far, daemon) = (two.start(), one.start());
    world.reaches_the_world();
    let before = world.state();
    let reload = |configuration: &Configuration| {
        one.configure(configuration);
        let output = one.run("reload", &["--device", "adit0"]);
        assert!(output.status.success(), "{output:?}");
    };
    let (a, b) = connection(world.inner(Family::V4), world.world(Family::V4));
    for _ in 0..3 {
        reload(&pair[0]);
        let witness = world.watch();
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        world.try_everything();
        // Another mark and another port while it takes everything.
        let mut other = pair[0].clone().with("fwmark = 77");
        reload(&other);
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        world.try_everything();
        witness.testify();
        other.listen = "[::]:7790".into();
        reload(&other);
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        reload(&small[0]);
        exchange_over((&a, &b), &[7; 100_000], &[7; 100_000]);
        world.check(&before);
    }
    drop(daemon);
}
