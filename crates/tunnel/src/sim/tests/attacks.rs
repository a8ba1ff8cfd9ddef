//! What somebody does who reads, writes and holds back datagrams.

use wire::message::{CookieReply, HandshakeHeader};

use super::*;
use crate::mac::MacKeys;
use crate::sim::plan;
use crate::verdict::Reason;

/// Initiations to the second node that look right from outside, from as many addresses.
fn flood(world: &mut World, protocol: Protocol, count: usize) {
    let keys = MacKeys::new(protocol, plan::identity(1, protocol).public());
    for number in 0..count {
        let header = HandshakeHeader { protocol, step: Step::Initiation, sender: number as u32, receiver: 0 };
        let mut noise = vec![0; protocol.noise_len(Step::Initiation)];
        world.rng.fill_bytes(&mut noise);
        let mut datagram = header.emit(&noise).unwrap();
        keys.sign(&mut datagram, None);
        let from = attacker(world.rng.below(250) as u8);
        world.give(1, datagram, from);
    }
}

#[test]
fn w43_under_load_a_cookie_is_asked_for_and_its_bearer_connects() {
    for (protocol, within) in [(Protocol::Sealed, Duration::from_millis(200)), (Protocol::WireGuard, seconds(6))] {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        flood(&mut world, protocol, 150);
        let since = world.now;
        let packet = world.offer(0, 1);
        while !world.check.is_delivered(packet) && world.now < since + within {
            world.run(Duration::from_millis(5));
            flood(&mut world, protocol, 2);
        }
        assert!(world.check.is_delivered(packet), "{protocol:?}");
        let cookies = sent_as(&world, 1, Step::Cookie, since);
        assert!(cookies.iter().all(|sent| sent.datagram.len() == 64));
        let ours = cookies.iter().filter(|sent| sent.to == world.hosts[0].address).count();
        assert_eq!((ours, sent_as(&world, 0, Step::Initiation, since).len()), (1, 2), "{protocol:?}");
    }
}

#[test]
fn w43_a_cookie_that_answers_a_response_is_used_for_the_next_one() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        world.network.cut.insert((1, 0));
        world.offer(0, 1);
        world.run(seconds(1));
        let response = last(&world, 1, Step::Response);
        let mac1: [u8; 16] = response.datagram[response.datagram.len() - 32..][..16].try_into().unwrap();
        let keys = MacKeys::new(protocol, plan::identity(0, protocol).public());
        let receiver = u32::from_le_bytes(response.datagram[4..8].try_into().unwrap());
        let sealed = keys.seal_cookie(&[1; 24], &mac1, &[2; 16]);
        let reply = CookieReply { protocol, receiver, nonce: &[1; 24], sealed: &sealed }.emit();
        world.give(1, reply.to_vec(), response.to);
        world.run(seconds(6));
        let next = last(&world, 1, Step::Response);
        assert_ne!(next.datagram, response.datagram);
        let covered = next.datagram.len() - 16;
        assert_eq!(next.datagram[covered..], crate::mac::mac2(&[2; 16], &next.datagram[..covered]), "{protocol:?}");
    }
}

#[test]
fn a_flood_leaves_a_known_peer_room() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, true]);
        for _ in 0..20 {
            flood(&mut world, protocol, 100);
            world.run(Duration::from_millis(10));
        }
        world.restart(0);
        let packet = world.offer(0, 1);
        for _ in 0..10 {
            flood(&mut world, protocol, 100);
            world.run(Duration::from_millis(10));
        }
        assert!(world.check.is_delivered(packet), "{protocol:?}");
        assert!(world.hosts[1].dropped(Reason::Forged) < 400, "what is computed for strangers is bounded");
    }
}

#[test]
fn w47_what_is_not_exactly_a_message_is_dropped_in_silence() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        cut(&mut world);
        world.offer(0, 1);
        world.sleep(0, Duration::from_millis(1));
        world.run(Duration::from_millis(500));
        let genuine = [last(&world, 0, Step::Initiation), last(&world, 0, Step::Data)];
        let response = last(&world, 1, Step::Response);
        for (to, sent) in [(1, &genuine[0]), (1, &genuine[1]), (0, &response)] {
            let mut wrong: Vec<Vec<u8>> = Vec::new();
            let mut change = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut copy = sent.datagram.clone();
                change(&mut copy);
                wrong.push(copy);
            };
            for at in 1..4 {
                change(&|copy| copy[at] ^= 0x80);
            }
            for kind in [0, 5, 255, 0x40, 0x60, 0xa0, 0xa5] {
                change(&|copy| copy[0] = kind);
            }
            for length in [0, 1, 4, 15, 16, 31, sent.datagram.len() - 1] {
                change(&|copy| copy.truncate(length));
            }
            change(&|copy| copy.push(0));
            change(&|copy| copy[6] ^= 1);
            change(&|copy| copy.resize(65_507, 0));
            let count = world.network.count;
            for wrong in wrong {
                world.give(to, wrong, sent.from);
            }
            assert_eq!(world.network.count, count, "{protocol:?}");
        }
        assert_eq!(world.hosts[1].said.iter().filter(|(time, _)| *time == world.now).count(), 0);
        world.network.cut.clear();
        world.run(seconds(6));
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn an_old_initiation_replayed_after_a_restart_changes_neither_endpoint_nor_session() {
    for protocol in BOTH {
        for knows in [false, true] {
            let mut world = pair(protocol, |plan| plan.links[0].knows = [true, knows]);
            world.offer(0, 1);
            world.run(seconds(2));
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
            let old = sent_as(&world, 0, Step::Initiation, Time::NEVER).remove(0);
            cut(&mut world);
            world.restart(1);
            let before = path(&world, 1);
            world.give(1, old.datagram.clone(), attacker(9));
            world.run(seconds(1));
            assert_eq!(path(&world, 1), before, "{protocol:?}");
            assert!(state(&world, 1).suite.is_none());
            assert!(sent_as(&world, 1, Step::Data, Time::NEVER).iter().all(|sent| sent.to != attacker(9)));
            // Nor when there is a session again.
            world.network.cut.clear();
            world.offer(0, 1);
            world.run(seconds(20));
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
            let (session, before) = (state(&world, 1), path(&world, 1));
            world.give(1, old.datagram, attacker(9));
            assert_eq!((state(&world, 1), path(&world, 1)), (session, before));
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
        }
    }
}

#[test]
fn u3_a_recording_played_again_delivers_nothing() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        for _ in 0..150 {
            world.offer(0, 1);
            world.offer(1, 0);
            world.run(seconds(1));
        }
        for restart in [false, true] {
            if restart {
                world.restart(1);
            }
            let recording: Vec<_> = world.network.sent.iter().cloned().collect();
            let endpoint = path(&world, 0);
            for sent in recording {
                // The books notice what is delivered twice.
                world.give(1 - sent.host, sent.datagram, attacker(3));
            }
            assert_eq!(path(&world, 0), endpoint);
        }
    }
}

#[test]
fn a_message_of_the_other_transport_is_dropped() {
    for protocol in BOTH {
        let other = if protocol == Protocol::Sealed { Protocol::WireGuard } else { Protocol::Sealed };
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        world.network.cut.insert((1, 0));
        let packet = world.offer(0, 1);
        world.run(seconds(1));
        let (call, genuine) = (last(&world, 0, Step::Initiation), last(&world, 1, Step::Response));
        let receiver = u32::from_le_bytes(call.datagram[4..8].try_into().unwrap());
        let header = HandshakeHeader { protocol: other, step: Step::Response, sender: 16, receiver };
        let mut response = header.emit(&vec![9; other.noise_len(Step::Response)]).unwrap();
        MacKeys::new(other, plan::identity(0, other).public()).sign(&mut response, None);
        world.give(0, response, genuine.from);
        let cookie = CookieReply { protocol: other, receiver, nonce: &[1; 24], sealed: &[2; 32] }.emit();
        world.give(0, cookie.to_vec(), genuine.from);
        assert_eq!(world.hosts[0].dropped(Reason::WrongTransport), 2, "{protocol:?}");
        world.give(0, genuine.datagram, genuine.from);
        world.run(seconds(1));
        assert!(world.check.is_delivered(packet));
        // A data message under the other's name is not authentic.
        cut(&mut world);
        world.offer(0, 1);
        let mut data = last(&world, 0, Step::Data).datagram;
        data[0] = if protocol == Protocol::Sealed { 0x04 } else { 0xa4 };
        let before = world.hosts[1].dropped(Reason::Forged) + world.hosts[1].dropped(Reason::UnknownSession);
        world.give(1, data, call.from);
        let after = world.hosts[1].dropped(Reason::Forged) + world.hosts[1].dropped(Reason::UnknownSession);
        assert_eq!(after, before + 1);
    }
}

#[test]
fn p1_a_peer_cannot_speak_for_another() {
    let link = |ends| crate::sim::LinkPlan::new(Protocol::Sealed, ends);
    let hosts = (0..3).map(crate::sim::HostPlan::new).collect();
    let mut world = World::new(Plan { hosts, links: vec![link([0, 1]), link([0, 2]), link([1, 2])] }, 1);
    assert!(passes(&mut world, 1, 0) && passes(&mut world, 0, 2));
    for (from, posing) in [(1, 2), (1, 0), (2, 1)] {
        // Node 0 owns a prefix around all the others'; theirs are longer.
        let packet = world.offer_as(from, 0, Some(posing), 64);
        world.run(seconds(1));
        assert!(!world.check.is_delivered(packet));
    }
    let packet = world.offer_as(0, 2, Some(1), 64);
    world.run(seconds(1));
    assert!(!world.check.is_delivered(packet));
    assert_eq!(world.hosts[0].dropped(Reason::WrongSource) + world.hosts[2].dropped(Reason::WrongSource), 4);
}
