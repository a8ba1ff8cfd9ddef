//! Floods: the table stays bounded, and what one does is not the others' harm.

use std::time::Duration;

use crate::bed::packet::Random;
use crate::bed::traffic::{connection, exchange_over, exchange_tcp};
use crate::bed::{Family, wait_for};
use crate::world::{ALL, World, strange, switch};

#[test]
fn whoever_sends_from_many_addresses_takes_nobody_elses_place() {
    let world = World::new(3, |_, end| end.device_lines += "[switch]\nmacs-per-peer = 256\nstorm-limit = 1000000\n");
    let daemons = world.start();
    let flooder = world.card(2, 2);
    let [here, there] = [world.machine(1, 1), world.machine(3, 3)];
    exchange_tcp(here.end(Family::V4), there.end(Family::V4), 10_000, 10_000);
    let memory = daemons[0].memory();
    let to = here.mac();
    let mut frame = strange([2, 0xaa, 0, 0, 0, 0], to, &[0; 46]);
    for number in 0..100_000u32 {
        frame[8..12].copy_from_slice(&number.to_be_bytes());
        flooder.send(&frame);
        if number % 1000 == 0 {
            // As fast as they are taken, so that few are lost at the device.
            std::thread::yield_now();
        }
    }
    let held = wait_for("the flood to arrive", || {
        let held = switch(&daemons[0]);
        (held.peers.get("host2") == Some(&256)).then_some(held)
    });
    assert!(held.peers["host3"] >= 1 && held.peer_macs <= 256 + 8, "{held:?}");
    assert!(daemons[0].memory() < memory + (8 << 20), "{} and then {}", memory, daemons[0].memory());
    // The others are known as before: what is for them is not flooded.
    let flooded = switch(&daemons[0]).flooded;
    exchange_tcp(here.end(Family::V4), there.end(Family::V4), 1_000_000, 1_000_000);
    assert!(switch(&daemons[0]).flooded < flooded + 50);
}

#[test]
fn a_storm_is_cut_and_counted_and_a_stream_goes_on() {
    let world = World::new(3, |_, end| end.device_lines += "[switch]\nstorm-limit = 100\n");
    let daemons = world.start();
    let stormy = world.card(2, 2);
    let [here, there] = [world.machine(1, 1), world.machine(3, 3)];
    let (a, b) = connection(here.end(Family::V4), there.end(Family::V4));
    let frame = strange(stormy.mac, ALL, &[7; 100]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20_000 {
                stormy.send(&frame);
                if number % 100 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut random = Random::new(1);
        exchange_over((&a, &b), &random.bytes(2_000_000), &random.bytes(2_000_000));
    });
    wait_for("the storm to be cut", || (daemons[1].drops("storm") > 1000).then_some(()));
    // What passed is what may pass, however long it took.
    let passed = switch(&daemons[1]).flooded;
    assert!(passed < 20_000 - 1000, "{passed}");
}

#[test]
fn frames_of_random_bytes_harm_nobody() {
    let world = World::new(2, |_, _| {});
    let mut daemons = world.start();
    let [a, b] = [world.card(1, 1), world.card(2, 2)];
    let mut random = Random::new(11);
    for number in 0..20_000 {
        let length = 14 + random.below(if number % 50 == 0 { 1400 } else { 120 });
        let mut frame = random.noise(length);
        if number % 2 == 0 {
            // From somebody, and of a protocol that is looked into.
            frame[..12].copy_from_slice(&[&b.mac[..], &a.mac].concat());
            let kind = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0x88, 0xb5]][random.below(6)];
            frame[12..14].copy_from_slice(&kind);
            if kind == [8, 0] && length > 40 {
                frame[14..24].copy_from_slice(&[0x45, 0, 0, (length - 14).min(255) as u8, 0, 0, 0, 0, 64, 6]);
            }
        }
        a.send(&frame);
    }
    let last = strange(a.mac, b.mac, b"and then one that is well-formed, which arrives as ever");
    wait_for("a frame behind them", || {
        a.send(&last);
        b.find(Duration::from_millis(200), |bytes| (bytes == last).then_some(()))
    });
    assert!(daemons.iter_mut().all(|daemon| daemon.is_running()));
}
