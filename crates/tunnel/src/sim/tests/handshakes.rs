//! How two nodes come to a session, and how not.

use super::*;
use crate::peer::{Problem, Standing};
use crate::sim::plan::HostPlan;
use crate::verdict::Reason;

const LOW_ORDER: [[u8; 32]; 7] = {
    const fn ends(first: u8, last: u8) -> [u8; 32] {
        let mut key = [0xff; 32];
        key[0] = first;
        key[31] = last;
        key
    }
    let mut one = [0; 32];
    one[0] = 1;
    [
        [0; 32],
        one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
        ends(0xec, 0x7f),
        ends(0xed, 0x7f),
        ends(0xee, 0x7f),
    ]
};

#[test]
fn w31_a_peer_with_a_low_order_key_never_gets_a_datagram() {
    for protocol in BOTH {
        for key in LOW_ORDER {
            let mut world = pair(protocol, |plan| {
                plan.links[0].key = Some(key);
                plan.links[0].knows = [true, false];
                plan.links[0].keepalive = [Some(seconds(1)), None];
            });
            for _ in 0..20 {
                world.offer(0, 1);
                world.run(seconds(1));
            }
            assert_eq!(world.network.count, 0, "{protocol:?} {key:02x?}");
            assert_eq!(state(&world, 0).problem, Some(Problem::Key));
        }
    }
}

#[test]
fn w45_two_that_call_each_other_at_once_have_a_session_after_a_round_trip() {
    for seed in 0..1000 {
        let mut world = World::new(Plan::pair(BOTH[seed as usize % 2]), seed);
        world.network.weather.delay = world.rng.millis(1..30);
        world.network.weather.jitter = world.rng.millis(1..30);
        let first = [world.offer(0, 1), world.offer(1, 0)];
        world.run(Duration::from_millis(250));
        assert!(first.iter().all(|packet| world.check.is_delivered(*packet)), "seed {seed}");
        for _ in 0..3 {
            let next = [world.offer(0, 1), world.offer(1, 0)];
            world.run(Duration::from_millis(60));
            assert!(next.iter().all(|packet| world.check.is_delivered(*packet)), "seed {seed}");
        }
    }
}

#[test]
fn w46_with_different_preshared_keys_there_is_no_session() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].preshared = [[1; 32], [2; 32]]);
        for _ in 0..200 {
            world.offer(0, 1);
            world.offer(1, 0);
            world.run(seconds(1));
        }
        for host in 0..2 {
            assert_eq!(said(&world, host, &Output::SessionUp(PeerId(1 - host as u32))), 0);
            assert!(sent_as(&world, host, Step::Data, Time::NEVER).is_empty());
            assert!(world.hosts[host].dropped(Reason::Forged) > 0);
        }
    }
}

#[test]
fn w44_an_initiation_is_answered_once_and_an_older_one_never() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let old = last(&world, 0, Step::Initiation);
        world.sleep(0, seconds(1));
        world.run(seconds(3));
        let new = last(&world, 0, Step::Initiation);
        assert_ne!(old.datagram, new.datagram);
        let since = world.now;
        for replay in [&old, &new, &old, &new] {
            world.run(seconds(1));
            world.give(1, replay.datagram.clone(), replay.from);
        }
        assert!(sent(&world, 1, since).iter().all(|sent| step(&sent.datagram) == Some(Step::Data)));
        assert_eq!(world.hosts[1].dropped(Reason::Replayed), 4, "{protocol:?}");
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn w44_a_restart_within_the_tick_of_a_timestamp_connects() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        for _ in 0..5 {
            world.restart(0);
            world.offer(0, 1);
            world.run(Duration::from_millis(3));
        }
        let packet = world.offer(0, 1);
        assert!(world.run_until(seconds(6), |world| world.check.is_delivered(packet)), "{protocol:?}");
    }
}

#[test]
fn w44_a_replayed_response_is_ignored() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let response = last(&world, 1, Step::Response);
        let since = world.now;
        world.give(0, response.datagram.clone(), response.from);
        assert_eq!(world.hosts[0].dropped(Reason::UnknownSession), 1);
        // Also while another handshake is under way.
        cut(&mut world);
        world.sleep(0, seconds(1));
        world.run(seconds(2));
        world.give(0, response.datagram, response.from);
        assert!(sent_as(&world, 0, Step::Data, since).is_empty());
        world.network.cut.clear();
        world.run(seconds(6));
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn a_forged_response_does_not_end_the_handshake() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        world.network.cut.insert((1, 0));
        let packet = world.offer(0, 1);
        world.run(seconds(1));
        let genuine = last(&world, 1, Step::Response);
        let keys = crate::mac::MacKeys::new(protocol, crate::sim::plan::identity(0, protocol).public());
        for at in 12..genuine.datagram.len() - 32 {
            let mut forged = genuine.datagram.clone();
            forged[at] ^= 4;
            keys.sign(&mut forged, None);
            world.give(0, forged, genuine.from);
            // The budget of handshakes is for all who say that they answer.
            world.run(Duration::from_millis(10));
        }
        assert!(sent_as(&world, 0, Step::Data, Time::NEVER).is_empty());
        world.give(0, genuine.datagram, genuine.from);
        world.run(seconds(1));
        assert!(world.check.is_delivered(packet), "{protocol:?}");
    }
}

#[test]
fn nodes_of_different_modes_refuse_each_other_and_both_say_why() {
    let mut world = pair(Protocol::Sealed, |plan| plan.hosts[1].mode = wire::message::Mode::Tap);
    for _ in 0..60 {
        world.offer(0, 1);
        world.run(seconds(1));
    }
    for host in 0..2 {
        let state = state(&world, host);
        assert_eq!(state.problem, Some(Problem::Mode));
        assert!(matches!(state.standing, Standing::Refused | Standing::Calling));
        assert!(sent_as(&world, host, Step::Data, Time::NEVER).is_empty());
        let calls = sent_as(&world, host, Step::Initiation, Time::NEVER).len();
        assert!(calls <= 13, "node {host} called {calls} times in a minute");
        assert!(said(&world, host, &Output::Failed(PeerId(1 - host as u32), Problem::Mode)) >= calls);
    }
}

#[test]
fn the_suite_follows_from_both_cpus() {
    use wire::message::Suite;
    for (one, other) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = pair(Protocol::Sealed, |plan| (plan.hosts[0].aes, plan.hosts[1].aes) = (one, other));
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
        let due = Suite::of(one, other);
        assert_eq!((state(&world, 0).suite, state(&world, 1).suite), (Some(due), Some(due)));
    }
}

#[test]
fn r27_a_clock_that_was_ten_years_ahead_bricks_nobody() {
    const TEN_YEARS: i64 = 10 * 365 * 86_400 * 1_000_000_000;
    for protocol in BOTH {
        for restart in [false, true] {
            let mut world = connected(protocol);
            for skew in [TEN_YEARS, 0, -TEN_YEARS, 0] {
                world.hosts[0].skew = skew;
                if restart {
                    world.restart(0);
                } else {
                    world.sleep(0, seconds(1));
                    world.run(seconds(1));
                }
                let packet = world.offer(0, 1);
                let back = world.run_until(seconds(6), |world| world.check.is_delivered(packet));
                assert!(back, "{protocol:?}, skew {skew}, restart {restart}");
                assert!(passes(&mut world, 1, 0));
            }
        }
    }
}

#[test]
fn no_timestamp_is_used_before_its_mark_is_on_disk() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| {
            plan.links[0].knows = [true, false];
            plan.hosts[0].disk = seconds(3);
        });
        let packet = world.offer(0, 1);
        world.run(Duration::from_millis(2999));
        assert_eq!(world.network.count, 0, "{protocol:?}");
        world.run(Duration::from_millis(101));
        assert!(world.check.is_delivered(packet), "what waited for the disk leaves when it has answered");
    }
}

#[test]
fn a_disk_that_was_full_is_asked_again() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        world.hosts[0].disk_full = true;
        world.offer(0, 1);
        world.run(seconds(60));
        assert_eq!(world.network.count, 0);
        world.hosts[0].disk_full = false;
        let packet = world.offer(0, 1);
        assert!(world.run_until(seconds(7), |world| world.check.is_delivered(packet)), "{protocol:?}");
    }
}

#[test]
fn after_a_gap_nothing_is_sealed_before_another_handshake() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let index = last(&world, 0, Step::Data).datagram[4..8].to_vec();
        world.sleep(0, seconds(30));
        world.run(seconds(29));
        let since = world.now;
        world.run(seconds(2));
        let sent = sent(&world, 0, since);
        assert_eq!(step(&sent[0].datagram), Some(Step::Initiation), "{protocol:?}");
        let data = sent.iter().filter(|sent| step(&sent.datagram) == Some(Step::Data));
        assert!(data.into_iter().all(|sent| sent.datagram[4..8] != index[..]));
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn after_a_gap_the_answer_to_an_earlier_call_gives_no_keys() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        world.network.cut.insert((1, 0));
        world.offer(0, 1);
        world.run(seconds(1));
        let early = last(&world, 1, Step::Response);
        world.sleep(0, seconds(1));
        world.run(seconds(1));
        let since = world.now;
        world.give(0, early.datagram, early.from);
        assert!(sent_as(&world, 0, Step::Data, since).is_empty(), "{protocol:?}");
        world.network.cut.clear();
        world.run(seconds(6));
        assert!(passes(&mut world, 0, 1));
    }
}

#[test]
fn one_node_speaks_both_protocols_with_different_peers() {
    let links = BOTH.into_iter().enumerate();
    let links = links.map(|(number, protocol)| crate::sim::LinkPlan::new(protocol, [0, number + 1])).collect();
    let mut world = World::new(Plan { hosts: (0..3).map(HostPlan::new).collect(), links }, 1);
    for other in 1..3 {
        assert!(passes(&mut world, 0, other) && passes(&mut world, other, 0));
    }
    let kinds = sent_as(&world, 0, Step::Data, Time::NEVER).into_iter().map(|sent| sent.datagram[0]);
    let kinds: std::collections::BTreeSet<_> = kinds.collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0x04, 0xa4]);
}
