//! Where a peer is, and what its path takes.

use super::*;
use crate::sim::network::Weather;
use crate::sim::plan::MTU;

const ELSEWHERE: &str = "198.51.100.7:4000";

#[test]
fn w08_a_peer_that_moves_is_followed_with_its_first_packet() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let new: SocketAddr = ELSEWHERE.parse().unwrap();
        world.relocate(0, new);
        let packet = world.offer(0, 1);
        world.run(ROUND_TRIP / 2);
        assert!(world.check.is_delivered(packet));
        assert_eq!(path(&world, 1), Some((new, protocol == Protocol::WireGuard)), "{protocol:?}");
        world.run(ROUND_TRIP);
        assert_eq!(path(&world, 1), Some((new, true)), "{protocol:?}: it answered a probe");
        assert!(passes(&mut world, 1, 0));
    }
}

#[test]
fn probes_of_both_sides_measure_the_round_trip_and_lost_ones_nothing() {
    let mut world = connected(Protocol::Sealed);
    world.run(seconds(1));
    let measured = |world: &World, host: usize| -> Vec<Duration> {
        let took = |output: &Output| if let Output::RoundTrip(_, took) = output { Some(*took) } else { None };
        world.hosts[host].said.iter().filter_map(|(_, output)| took(output)).collect()
    };
    for host in 0..2 {
        let took = measured(&world, host);
        assert!(!took.is_empty() && took.iter().all(|took| *took == ROUND_TRIP), "{took:?}");
    }
    let before = [0, 1].map(|host| measured(&world, host).len());
    cut(&mut world);
    world.offer(0, 1);
    world.run(seconds(30));
    assert_eq!([0, 1].map(|host| measured(&world, host).len()), before);
}

#[test]
fn w09_a_peer_that_changes_between_ipv4_and_ipv6_is_followed() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        for address in
            ["[2001:db8::7]:4000", "[2001:db8::7]:4001", "[2001:db8:1::7]:4001", ELSEWHERE, "[2001:db8::7]:1"]
        {
            let new: SocketAddr = address.parse().unwrap();
            world.relocate(0, new);
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0), "{protocol:?} {address}");
            world.run(ROUND_TRIP);
            assert_eq!(path(&world, 1), Some((new, true)));
        }
    }
}

#[test]
fn w37_an_mtu_that_changes_all_the_time_costs_no_packet() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let mut packets = Vec::new();
        for round in 0..60 {
            let mtu = 1280 + (round * 37) % 160;
            for host in 0..2 {
                let peer = PeerId(1 - host as u32);
                world.hosts[host].node.set_mtu(mtu as u16);
                world.hosts[host].node.set_path(peer, mtu);
                assert!(state(&world, host).mtu <= mtu);
            }
            for _ in 0..10 {
                packets.extend([world.offer_as(0, 1, None, 1280), world.offer_as(1, 0, None, 1280)]);
                world.run(Duration::from_millis(100));
            }
        }
        world.run(seconds(1));
        assert!(packets.iter().all(|packet| world.check.is_delivered(*packet)), "{protocol:?}");
    }
}

#[test]
fn an_address_that_does_not_answer_gets_three_times_its_bytes_and_is_left_again() {
    let mut world = connected(Protocol::Sealed);
    world.run(seconds(20));
    let home = path(&world, 1);
    // One packet takes another way; it never arrives on its own.
    world.network.cut.insert((0, 1));
    world.offer_as(0, 1, None, 200);
    let diverted = last(&world, 0, Step::Data);
    world.network.cut.clear();
    let since = world.now;
    world.give(1, diverted.datagram.clone(), attacker(1));
    assert_eq!(path(&world, 1), Some((attacker(1), false)));
    for _ in 0..40 {
        world.offer_as(1, 0, None, 100);
        world.run(Duration::from_millis(50));
    }
    let got: usize = sent(&world, 1, since).iter().filter(|s| s.to == attacker(1)).map(|s| s.datagram.len()).sum();
    assert!(got > 56 && got <= 3 * diverted.datagram.len(), "{got} bytes for {}", diverted.datagram.len());
    world.run(seconds(2));
    assert_eq!(path(&world, 1), home, "three probes went unanswered");
    assert!(passes(&mut world, 1, 0) && passes(&mut world, 0, 1));
}

#[test]
fn an_unproven_address_is_not_called_more_often_than_it_may_be() {
    // The session ends while the peer is believed to be elsewhere. The books count what goes there.
    let mut world = connected(Protocol::Sealed);
    cut(&mut world);
    world.offer_as(0, 1, None, 28);
    let diverted = last(&world, 0, Step::Data);
    world.give(1, diverted.datagram, attacker(1));
    world.sleep(1, Duration::from_millis(10));
    world.run(seconds(100));
    world.network.cut.clear();
    world.offer(0, 1);
    world.run(seconds(20));
    assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
}

#[test]
fn an_address_that_was_silent_for_a_moment_is_asked_again() {
    let mut world = connected(Protocol::Sealed);
    world.run(seconds(20));
    world.restart(1);
    // The first packet of the new session comes from another address than the initiation, and nothing goes back for a while.
    world.offer(0, 1);
    world.run_until(seconds(20), |world| !sent_as(world, 0, Step::Initiation, world.now).is_empty());
    world.run_until(seconds(1), |world| !sent_as(world, 1, Step::Response, world.now).is_empty());
    world.relocate(0, ELSEWHERE.parse().unwrap());
    let response = last(&world, 1, Step::Response);
    world.network.cut.insert((1, 0));
    world.give(0, response.datagram, response.from);
    for _ in 0..5 {
        world.offer(0, 1);
        world.run(seconds(1));
    }
    assert_eq!(path(&world, 1).map(|path| path.1), Some(false), "nobody answered");
    world.network.cut.clear();
    for _ in 0..12 {
        world.offer(0, 1);
        world.run(seconds(1));
    }
    assert_eq!(path(&world, 1), Some((ELSEWHERE.parse().unwrap(), true)));
}

#[test]
fn u5_a_replay_moves_nothing_and_the_original_does() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let before = path(&world, 1);
        let old = last(&world, 0, Step::Data);
        world.give(1, old.datagram, attacker(2));
        assert_eq!(path(&world, 1), before, "{protocol:?}: a counter that was opened");
        world.network.cut.insert((0, 1));
        world.offer(0, 1);
        let overtaken = last(&world, 0, Step::Data);
        world.network.cut.clear();
        assert!(passes(&mut world, 0, 1));
        world.give(1, overtaken.datagram, attacker(2));
        assert_eq!(path(&world, 1), before, "{protocol:?}: a counter that is not the newest");
    }
}

#[test]
fn two_that_lost_each_other_meet_where_their_configurations_say() {
    for protocol in BOTH {
        let mut world = pair(protocol, |_| ());
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
        for host in 0..2 {
            let home = world.hosts[host].address;
            world.relocate(host, ([198, 51, 100, host as u8], 4000).into());
            assert!(passes(&mut world, host, 1 - host) && passes(&mut world, 1 - host, host));
            world.network.weather.loss = 1000;
            world.relocate(host, home);
            world.network.weather = Weather::FAIR;
            if host == 0 {
                world.relocate(host, ([198, 51, 100, 9], 4000).into());
                assert!(passes(&mut world, 0, 1));
            }
        }
        let home = world.plan.hosts[0].address;
        world.relocate(0, home);
        let mut passed = [false; 2];
        for _ in 0..60 {
            passed[0] |= passes(&mut world, 0, 1);
            passed[1] |= passes(&mut world, 1, 0);
        }
        assert_eq!(passed, [true; 2], "{protocol:?}");
    }
}

#[test]
fn a_black_hole_is_found_and_what_passes_through_it_is_told() {
    for limit in [1300, 1401, 1470, 9000] {
        let mut world = pair(Protocol::Sealed, |_| ());
        world.network.weather.mtu = Some(limit);
        assert!(passes(&mut world, 0, 1));
        for _ in 0..40 {
            world.offer_as(0, 1, None, 100);
            world.run(seconds(1));
        }
        // The header and the tag are not the packet's.
        let passing = (limit - 32).min(usize::from(MTU));
        for host in 0..2 {
            let found = state(&world, host).mtu;
            assert!(found <= passing && found + 8 >= passing, "node {host} found {found} where {passing} pass");
            let told = world.hosts[host].said.iter().rev().find_map(|(_, output)| match output {
                Output::PathMtu(_, mtu) => Some(*mtu),
                _ => None,
            });
            assert_eq!(told, Some(found));
        }
    }
}

#[test]
fn another_path_is_measured_anew() {
    let mut world = connected(Protocol::Sealed);
    world.run(seconds(5));
    assert_eq!(state(&world, 1).mtu, usize::from(MTU));
    world.network.weather.mtu = Some(1332);
    world.relocate(0, ELSEWHERE.parse().unwrap());
    for _ in 0..40 {
        world.offer_as(0, 1, None, 100);
        world.run(seconds(1));
    }
    let found = state(&world, 1).mtu;
    assert!((1292..=1300).contains(&found), "{found}");
}

#[test]
fn how_large_a_packet_the_first_link_permits_may_be_said_at_any_time() {
    let mut world = connected(Protocol::Sealed);
    world.run(seconds(20));
    world.network.weather.mtu = Some(1232);
    let since = world.now;
    world.hosts[1].node.set_path(PeerId(0), 1300);
    world.run(seconds(60));
    assert_eq!(sent(&world, 1, since).iter().map(|sent| sent.datagram.len()).max(), Some(1332));
    assert!((1192..=1200).contains(&state(&world, 1).mtu));
}
