//! When something is due.

use super::*;
use crate::peer::Problem;

/// The longest jitter.
const JITTER: Duration = Duration::from_millis(334);

#[test]
fn w38_a_restarted_peer_is_called_again_after_15_seconds() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        world.run(seconds(20));
        world.restart(1);
        let since = world.now;
        world.offer(0, 1);
        assert!(world.run_until(seconds(20), |world| !sent_as(world, 0, Step::Initiation, since).is_empty()));
        let waited = world.now.since(since);
        assert!(waited >= seconds(15) && waited <= seconds(15) + JITTER, "{protocol:?}: {waited:?}");
        world.run(ROUND_TRIP * 2);
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn w39_a_call_is_repeated_every_5_seconds_for_90_and_again_when_there_is_a_packet() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        cut(&mut world);
        let since = world.now;
        world.offer(0, 1);
        world.run(seconds(300));
        let calls: Vec<_> = sent_as(&world, 0, Step::Initiation, since).into_iter().map(|sent| sent.time).collect();
        for pause in calls.windows(2).map(|pair| pair[1].since(pair[0])) {
            assert!(pause >= seconds(5) && pause <= seconds(5) + JITTER, "{pause:?}");
        }
        assert!((16..=18).contains(&calls.len()), "{} calls", calls.len());
        assert!(calls.last().unwrap().since(calls[0]) < seconds(90));
        assert_eq!(said(&world, 0, &Output::GaveUp(PeerId(1))), 1);
        assert_eq!(said(&world, 0, &Output::Failed(PeerId(1), Problem::NoAnswer)), 1);
        world.network.cut.clear();
        assert!(passes(&mut world, 0, 1), "{protocol:?}: resumes with the next packet");
    }
}

#[test]
fn w39_what_waited_leaves_in_order_and_is_at_most_128_packets() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        cut(&mut world);
        let packets: Vec<_> = (0..200).map(|_| world.offer(0, 1)).collect();
        world.network.cut.clear();
        let since = world.now;
        world.run(seconds(6));
        let arrived: Vec<_> = packets.iter().filter(|packet| world.check.is_delivered(**packet)).collect();
        assert_eq!(arrived.len(), 128);
        assert_eq!(arrived.last(), Some(&&packets[127]));
        let packets = sent_as(&world, 0, Step::Data, since).into_iter();
        let counters = packets.filter(|sent| sent.datagram[1] == 0);
        let counters: Vec<_> = counters.map(|s| u64::from_le_bytes(s.datagram[8..16].try_into().unwrap())).collect();
        assert!(counters.is_sorted());
    }
}

#[test]
fn w40_only_who_began_a_session_renews_it_after_120_seconds() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let since = world.now;
        for _ in 0..130 {
            world.offer(0, 1);
            world.offer(1, 0);
            world.run(seconds(1));
        }
        let calls = sent_as(&world, 0, Step::Initiation, since);
        assert_eq!(calls.len(), 1, "{protocol:?}");
        let age = calls[0].time.since(since) + seconds(2);
        assert!((seconds(120)..seconds(122)).contains(&age), "{age:?}");
        assert!(sent_as(&world, 1, Step::Initiation, since).is_empty());
    }
}

#[test]
fn w40_who_only_receives_renews_after_165_seconds() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let since = world.now;
        for _ in 0..170 {
            world.offer(1, 0);
            world.run(seconds(1));
        }
        let calls = sent_as(&world, 0, Step::Initiation, since);
        assert_eq!(calls.len(), 1, "{protocol:?}");
        assert!((seconds(162)..seconds(166)).contains(&calls[0].time.since(since)));
    }
}

#[test]
fn w40_after_180_seconds_nothing_is_sealed_or_opened_and_the_keys_are_gone() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let established = state(&world, 1).handshake.unwrap();
        world.run(seconds(20));
        world.network.cut.insert((0, 1));
        world.run(seconds(100));
        let packet = world.offer(0, 1);
        let late = last(&world, 0, Step::Data);
        world.run((established + seconds(180)).since(world.now) + Duration::from_millis(100));
        for host in 0..2 {
            assert_eq!(
                world.hosts[host].table().claimed(),
                usize::from(state(&world, host).standing == crate::peer::Standing::Calling)
            );
            assert!(world.hosts[host].remotes[&PeerId(1 - host as u32)].session.load().is_none());
        }
        world.give(1, late.datagram, late.from);
        assert!(!world.check.is_delivered(packet));
        world.network.cut.clear();
        let since = world.now;
        let packet = world.offer(0, 1);
        assert!(sent_as(&world, 0, Step::Data, since).is_empty());
        world.run(seconds(6));
        assert!(world.check.is_delivered(packet));
    }
}

#[test]
fn w40_the_previous_keys_open_what_was_on_its_way() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        world.run(seconds(117));
        cut(&mut world);
        let packets = [world.offer(0, 1), world.offer(1, 0)];
        let late = [last(&world, 0, Step::Data), last(&world, 1, Step::Data)];
        world.network.cut.clear();
        world.run(seconds(2));
        let since = world.now;
        assert!(passes(&mut world, 0, 1));
        assert_eq!(sent_as(&world, 0, Step::Initiation, since).len(), 1);
        world.run(seconds(1));
        for (host, late) in [(1, &late[0]), (0, &late[1])] {
            world.give(host, late.datagram.clone(), late.from);
        }
        assert!(packets.iter().all(|packet| world.check.is_delivered(*packet)), "{protocol:?}");
    }
}

#[test]
fn w41_a_keepalive_comes_10_seconds_after_data_and_is_not_answered() {
    let mut world = connected(Protocol::WireGuard);
    world.run(seconds(30));
    let since = world.now;
    let packet = world.offer(0, 1);
    world.run(seconds(60));
    assert!(world.check.is_delivered(packet));
    assert_eq!(sent(&world, 0, since).len(), 1, "the packet, and no answer to the keepalive");
    let answers = sent(&world, 1, since);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].datagram.len(), 32, "a packet of no bytes");
    let waited = answers[0].time.since(since);
    assert_eq!(waited, seconds(10) + ROUND_TRIP / 2);
}

#[test]
fn w41_a_sealed_keepalive_is_a_probe_whose_ack_is_not_answered() {
    let mut world = connected(Protocol::Sealed);
    world.run(seconds(30));
    let since = world.now;
    world.offer(0, 1);
    world.run(seconds(60));
    let (ours, theirs) = (sent(&world, 0, since), sent(&world, 1, since));
    assert_eq!((ours.len(), theirs.len()), (2, 1), "packet and ack; keepalive");
    assert_eq!((ours[1].datagram.len(), theirs[0].datagram.len()), (56, 56));
    assert_eq!(theirs[0].time.since(since), seconds(10) + ROUND_TRIP / 2);
}

#[test]
fn w16_an_idle_tunnel_is_silent() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        world.run(seconds(12));
        let count = world.network.count;
        world.run(seconds(300));
        assert_eq!(world.network.count, count, "{protocol:?}");
        assert!(world.hosts.iter().all(|host| host.node.deadline().is_none()), "nothing is to be done any more");
    }
}

#[test]
fn w15_a_persistent_keepalive_keeps_a_mapping_of_2_seconds() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| {
            plan.links[0].knows = [true, false];
            plan.links[0].keepalive = [Some(seconds(1)), None];
        });
        // What a NAT makes of its address.
        let outside = "198.51.100.7:4000".parse().unwrap();
        world.relocate(0, outside);
        world.run(seconds(3));
        assert!(passes(&mut world, 1, 0), "{protocol:?}: it called by itself");
        assert_eq!(state(&world, 1).endpoint, Some(outside));
        let since = world.now;
        world.run(seconds(400));
        let times: Vec<_> = sent(&world, 0, since).into_iter().map(|sent| sent.time).collect();
        assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) <= seconds(1) + ROUND_TRIP), "{protocol:?}");
        assert!(times.len() < 850, "{}", times.len());
        assert!(passes(&mut world, 1, 0), "{protocol:?}");
    }
}
