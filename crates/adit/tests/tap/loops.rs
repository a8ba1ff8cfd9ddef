//! Bridges that are joined twice.

use std::process::Command;
use std::time::{Duration, Instant};

use linux::netlink::VethEnd;

use crate::bed::daemon::{Configuration, Daemon};
use crate::bed::sniffer::Sniffer;
use crate::bed::traffic::{exchange_tcp, exchange_udp};
use crate::bed::{Bed, Family, wait_for};
use crate::world::{ALL, Machine, World, await_sessions, plug, strange, switch};

/// Joins the bridges of two hosts by a cable beside the tunnel.
fn cable(bed: &Bed, hosts: [usize; 2]) {
    let [one, other] = hosts.map(|number| bed.host(number));
    let far = VethEnd { name: "cable", netns: Some(&other.namespace), ..VethEnd::default() };
    one.netlink().create_veth(&VethEnd { name: "cable", ..VethEnd::default() }, &far).unwrap();
    plug(&mut one.netlink(), "cable", "br0");
    plug(&mut other.netlink(), "cable", "br0");
}

fn cut(bed: &Bed, host: usize) {
    let mut netlink = bed.host(host).netlink();
    let index = netlink.existing_link("cable").unwrap().index;
    netlink.delete_link(index).unwrap();
}

/// Waits until bridges know again where each is: frames that went round have taught them otherwise.
fn reaches(one: &Machine, other: &Machine, family: Family) {
    let to = other.ip(family).to_string();
    let ping = || Command::new("ping").args(["-c1", "-W1", &to]).output().unwrap().status.success();
    wait_for("a way to the other", || one.namespace.run(ping).unwrap().then_some(()));
}

fn problem(daemon: &Daemon<'_>) -> Option<String> {
    switch(daemon).problem
}

#[test]
fn a_loop_is_found_said_and_cut_and_the_network_is_whole_with_and_without_it() {
    let world = World::new(3, |_, _| {});
    let daemons = world.start();
    let [a, b, c] = [world.machine(1, 1), world.machine(2, 2), world.machine(3, 3)];
    exchange_tcp(a.end(Family::V4), b.end(Family::V4), 10_000, 10_000);
    assert!(daemons.iter().all(|daemon| problem(daemon).is_none()));

    cable(&world.bed, [1, 2]);
    // Something goes round until it is found: broadcasts, as there always are some.
    let card = world.card(1, 9);
    card.send(&strange(card.mac, ALL, &[1; 60]));
    let said = wait_for("both to say so", || problem(&daemons[0]).zip(problem(&daemons[1])));
    assert!(said.0.contains("host2") && said.1.contains("host1"), "{said:?}");
    let still = [&said.0, &said.1].map(|sentence| sentence.contains("keeps still"));
    assert!(still[0] != still[1], "one of them carries: {said:?}");
    assert_eq!(problem(&daemons[2]), None);
    assert!(daemons[0].log().contains("a loop") && daemons[1].log().contains("a loop"));
    // What is sent once arrives once, and goes round no more.
    let frame = strange(card.mac, ALL, &[2; 60]);
    let seen = frame.clone();
    let watch = Sniffer::open(&c.namespace, "eth0").watch(move |_, bytes| (bytes == seen).then(Instant::now));
    wait_for("the end of the storm", || {
        let before = switch(&daemons[0]).flooded + switch(&daemons[1]).flooded;
        std::thread::sleep(Duration::from_millis(200));
        let after = switch(&daemons[0]).flooded + switch(&daemons[1]).flooded;
        (after - before < 20).then_some(())
    });
    card.send(&frame);
    for (one, other) in [(&a, &b), (&a, &c), (&b, &c)] {
        for family in [Family::V4, Family::V6] {
            reaches(one, other, family);
            exchange_udp(one.end(family), other.end(family), [100, 1000]);
        }
        exchange_tcp(one.end(Family::V4), other.end(Family::V4), 100_000, 100_000);
    }
    assert_eq!(watch.collect().len(), 1, "once, by the one that carries");

    cut(&world.bed, 1);
    wait_for("both to say that it is gone", || {
        (problem(&daemons[0]).is_none() && problem(&daemons[1]).is_none()).then_some(())
    });
    for (one, other) in [(&a, &b), (&b, &c)] {
        reaches(one, other, Family::V4);
        exchange_tcp(one.end(Family::V4), other.end(Family::V4), 100_000, 100_000);
    }
}

#[test]
fn a_loop_is_cut_after_keys_were_changed_too() {
    let world = World::new(2, |_, _| {});
    let daemons = world.start();
    // Each end gets another key, and the other's.
    let mut ends = world.ends.clone();
    let keys: Vec<_> = ends.iter_mut().map(Configuration::make_key).collect();
    for (number, end) in ends.iter_mut().enumerate() {
        end.peers[0].public_key = Some(keys[1 - number]);
        world.places[number].configure(end);
    }
    daemons.iter().for_each(|daemon| drop(daemon.reload()));
    daemons.iter().for_each(await_sessions);
    cable(&world.bed, [1, 2]);
    let said = wait_for("both to say so", || problem(&daemons[0]).zip(problem(&daemons[1])));
    let still = [&said.0, &said.1].map(|sentence| sentence.contains("keeps still"));
    assert!(still[0] != still[1], "one of them carries: {said:?}");
}

#[test]
fn a_beacon_that_somebody_makes_up_silences_nobody() {
    let world = World::new(2, |_, _| {});
    let daemons = world.start();
    let card = world.card(1, 1);
    // A true one, heard on its own host and replayed there, and ones in the name of the other node.
    let beacon = card
        .find(crate::bed::PATIENCE, |bytes| (bytes[..6] == wire::beacon::GROUP.0).then(|| bytes.to_vec()))
        .expect("beacons go out by the device");
    let mut forged = beacon.clone();
    let key: Vec<u8> = world.ends[0].peers[0].public_key.unwrap().as_bytes()[..16].to_vec();
    for number in 0..50u8 {
        forged[22..38].copy_from_slice(&key);
        forged[38..].fill(number);
        card.send(&forged);
    }
    let [a, b] = [world.machine(1, 3), world.machine(2, 4)];
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        exchange_udp(a.end(Family::V4), b.end(Family::V4), [100]);
        assert_eq!((problem(&daemons[0]), problem(&daemons[1])), (None, None));
    }
    // Its own one, back from the network behind it, is a loop of that network.
    card.send(&beacon);
    let said = wait_for("its own beacon to be noticed", || {
        let fresh =
            card.find(Duration::from_secs(2), |bytes| (bytes[..6] == wire::beacon::GROUP.0).then(|| bytes.to_vec()));
        fresh.inspect(|beacon| card.send(beacon));
        problem(&daemons[0])
    });
    assert!(said.contains("comes back"), "{said}");
    exchange_udp(a.end(Family::V4), b.end(Family::V4), [100]);
}
