//! What people change while nodes run.

use super::*;
use crate::session::REJECT_AFTER_TIME;
use crate::sim::plan::{self, HostPlan, LinkPlan, MOST};
use crate::sim::{Change, Plan};
use crate::verdict::Reason;

/// After this, workers have seen every change.
const SHOWN: Duration = Duration::from_millis(5);

/// The first node has a link to each of the others: of this protocol to the second, of the other one to the third.
fn three(protocol: Protocol) -> World {
    let other = if protocol == Protocol::Sealed { Protocol::WireGuard } else { Protocol::Sealed };
    let links = vec![LinkPlan::new(protocol, [0, 1]), LinkPlan::new(other, [0, 2])];
    World::new(Plan { hosts: (0..3).map(HostPlan::new).collect(), links }, 1)
}

/// The last datagrams of data of a pair, that were lost on their way.
fn lost(world: &mut World) -> [Sent; 2] {
    cut(world);
    world.offer(0, 1);
    world.offer(1, 0);
    world.network.cut.clear();
    world.run(Duration::from_millis(1));
    [last(world, 0, Step::Data), last(world, 1, Step::Data)]
}

#[test]
fn r17_of_a_removed_peer_nothing_is_opened_and_to_it_nothing_is_sealed() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let [late, _] = lost(&mut world);
        let held = world.hosts[1].remotes[&PeerId(0)].session.load_full().unwrap();
        world.change(1, Change::Remove(0));
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "its keys go with the last who holds it");
        assert!(world.hosts[1].remotes.contains_key(&PeerId(0)), "workers see it a moment later");
        let since = world.now;
        world.give(1, late.datagram.clone(), late.from);
        world.offer(1, 0);
        for _ in 0..200 {
            let packet = world.offer(0, 1);
            world.offer(1, 0);
            world.run(Duration::from_millis(100));
            assert!(!world.check.is_delivered(packet), "{protocol:?}");
        }
        assert_eq!(sent(&world, 1, since).len(), 0);
        assert_eq!((world.hosts[1].table().claimed(), world.hosts[1].node.deadline()), (0, None));
        // Nor when it is there again, with what it was.
        world.change(1, Change::Add(0));
        world.give(1, late.datagram, late.from);
        assert_eq!(sent_as(&world, 1, Step::Data, since).len(), 0);
        world.run(seconds(20));
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn the_answer_to_a_peer_that_was_removed_meanwhile_comes_to_nothing() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].knows = [true, false]);
        world.network.cut.insert((1, 0));
        world.offer(0, 1);
        world.run(seconds(1));
        let [call, answer] = [last(&world, 0, Step::Initiation), last(&world, 1, Step::Response)];
        world.change(0, Change::Remove(1));
        let count = world.network.count;
        world.give(0, answer.datagram, answer.from);
        assert_eq!(world.hosts[0].dropped(Reason::UnknownSession), 1);
        // The other one has a session that nobody has confirmed.
        world.change(1, Change::Remove(0));
        world.give(1, call.datagram, call.from);
        world.run(seconds(200));
        assert_eq!(world.network.count, count, "{protocol:?}");
        assert!(world.hosts.iter().all(|host| host.table().claimed() == 0 && host.node.deadline().is_none()));
        world.network.cut.clear();
        world.unite(0, 1);
        world.run(SHOWN);
        let packet = world.offer(0, 1);
        assert!(world.run_until(seconds(6), |world| world.check.is_delivered(packet)));
    }
}

#[test]
fn an_initiation_from_before_does_no_harm_when_the_peer_is_there_again() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let old = last(&world, 0, Step::Initiation);
        world.change(1, Change::Remove(0));
        world.change(1, Change::Add(0));
        // The timestamps that came were forgotten with the peer; who replays one gets an answer and can do nothing with it.
        let before = path(&world, 1);
        world.give(1, old.datagram, attacker(4));
        assert_eq!(path(&world, 1), before, "{protocol:?}");
        world.run(seconds(1));
        assert!(state(&world, 1).suite.is_none());
        world.offer(1, 0);
        assert!(sent_as(&world, 1, Step::Data, world.now).is_empty());
        world.offer(0, 1);
        world.run(seconds(20));
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}

#[test]
fn what_is_changed_of_one_peer_costs_the_others_no_packet() {
    for protocol in BOTH {
        let mut world = three(protocol);
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0) && passes(&mut world, 0, 2));
        let other = world.plan.links[1].protocol;
        let (calls, mut packets) = (sent_as(&world, 0, Step::Initiation, Time::NEVER).len(), Vec::new());
        let (mut changes, mut crowd) = ((0..).map(|number| change(number, other)), 0);
        for _ in 0..1000 {
            if let Some(change) = changes.next().flatten() {
                world.change(0, change);
            }
            for _ in 0..2 {
                packets.extend([world.offer(0, 1), world.offer(1, 0)]);
                world.offer(0, 2);
                world.offer(2, 0);
                world.run(Duration::from_micros(2500));
            }
            // The table grows several times.
            crowd += 1;
            let stranger = crate::peer::PeerSettings {
                public: *plan::key(9, other, crowd).public(),
                endpoint: None,
                ..plan::Plan::pair(other).settings(0, 1).unwrap()
            };
            let now = world.moment(0);
            world.hosts[0].node.add_peer(PeerId(50_000 + crowd), stranger, now);
        }
        world.run(seconds(1));
        let lost: Vec<_> = packets.iter().filter(|packet| !world.check.is_delivered(**packet)).collect();
        assert!(lost.is_empty(), "{protocol:?}: {lost:?}");
        let to = world.hosts[1].address;
        let again = sent_as(&world, 0, Step::Initiation, Time::NEVER).into_iter().filter(|sent| sent.to == to);
        assert!(again.count() <= calls, "nor a handshake");
    }
}

/// One change after another of the third node, as the first has it.
fn change(number: u32, protocol: Protocol) -> Option<Change> {
    Some(match number % 8 {
        0 => Change::Remove(2),
        1 => Change::Add(2),
        2 => Change::Preshared(2, [number as u8; 32]),
        3 => Change::Keepalive(2, Some(seconds(u64::from(number % 5 + 1)))),
        4 => Change::Endpoint(2, Some(([198, 51, 100, 3], number as u16).into())),
        5 => Change::Endpoint(2, None),
        6 => Change::Identity(protocol, number),
        _ => return None,
    })
}

#[test]
fn who_comes_and_goes_all_the_time_leaves_nothing_behind() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        for round in 0..100 {
            world.part(0, 1);
            world.run(Duration::from_millis(50 * (round % 5)));
            world.unite(0, 1);
            world.offer(0, 1);
            world.run(Duration::from_millis(30 * (round % 7)));
        }
        // No number is given out twice within the life of a session.
        let number = world.hosts[0].peers[&1];
        assert_eq!(number, PeerId(1 + 100 * MOST));
        world.run(REJECT_AFTER_TIME);
        world.part(0, 1);
        world.unite(0, 1);
        assert_eq!((world.hosts[0].peers[&1], world.hosts[1].peers[&0]), (PeerId(1), PeerId(0)));
        world.run(SHOWN);
        let packet = world.offer(0, 1);
        assert!(world.run_until(seconds(6), |world| world.check.is_delivered(packet)), "{protocol:?}");
        let (attempts, deadlines, sessions) = world.hosts[0].node.census();
        assert!(attempts <= 1 && deadlines <= 1 && sessions <= 4);
    }
}

#[test]
fn w10_w11_a_prefix_that_another_peer_gets_is_its_own_and_returns_with_it() {
    let hosts = (0..3).map(HostPlan::new).collect();
    let links = vec![LinkPlan::new(Protocol::WireGuard, [0, 1]), LinkPlan::new(Protocol::WireGuard, [1, 2])];
    let mut world = World::new(Plan { hosts, links }, 1);
    assert!(passes(&mut world, 0, 1) && passes(&mut world, 2, 1));
    let speaks_for_the_third = |world: &mut World| {
        let packet = world.offer_as(0, 1, Some(2), 64);
        world.run(seconds(1));
        world.check.is_delivered(packet)
    };
    // The first node owns what nobody owns more closely.
    assert!(!speaks_for_the_third(&mut world), "the third one does");
    world.change(1, Change::Remove(2));
    world.run(SHOWN);
    assert!(speaks_for_the_third(&mut world), "and does not any more");
    world.change(1, Change::Add(2));
    world.run(SHOWN);
    let moved = "198.51.100.7:4000".parse().unwrap();
    world.relocate(0, moved);
    assert!(!speaks_for_the_third(&mut world));
    assert_eq!(state(&world, 1).endpoint, Some(moved), "what is dropped was authentic all the same");
}

#[test]
fn w12_with_another_key_of_ours_the_next_packet_makes_a_handshake_at_once() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let late = lost(&mut world);
        let since = world.now;
        world.change(0, Change::Identity(protocol, 1));
        world.give(0, late[1].datagram.clone(), late[1].from);
        assert_eq!(world.hosts[0].dropped(Reason::UnknownSession), 1);
        world.change(1, Change::Learn(0));
        world.run(seconds(1));
        assert_eq!(sent_as(&world, 0, Step::Initiation, since).len(), 0, "without a packet there is no need");
        let packet = world.offer(0, 1);
        assert_eq!(sent_as(&world, 0, Step::Initiation, world.now).len(), 1, "{protocol:?}");
        world.run(ROUND_TRIP * 2);
        assert!(world.check.is_delivered(packet) && passes(&mut world, 1, 0));
        // What was said to the former key is for nobody.
        let old = last(&world, 1, Step::Response);
        world.change(0, Change::Identity(protocol, 2));
        let before = world.hosts[0].dropped(Reason::Forged);
        world.give(0, old.datagram, old.from);
        assert_eq!(world.hosts[0].dropped(Reason::Forged), before + 1);
    }
}

#[test]
fn a_session_that_a_slow_worker_puts_back_is_of_no_use() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let remote = world.hosts[0].remotes[&PeerId(1)].clone();
        let held = remote.session.load_full().unwrap();
        world.change(0, Change::Identity(protocol, 1));
        world.change(1, Change::Learn(0));
        world.run(SHOWN);
        remote.session.store(Some(held.clone()));
        let packet = world.offer(0, 1);
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "{protocol:?}");
        world.run(ROUND_TRIP * 2);
        assert!(world.check.is_delivered(packet));
    }
}

#[test]
fn w12_another_key_is_no_matter_of_the_other_protocol() {
    for protocol in BOTH {
        let mut world = three(protocol);
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 0, 2));
        world.change(0, Change::Identity(protocol, 1));
        assert!(passes(&mut world, 0, 2) && passes(&mut world, 2, 0));
        let packet = world.offer(0, 1);
        world.run(seconds(10));
        assert!(!world.check.is_delivered(packet), "nobody told the peer");
        world.change(1, Change::Learn(0));
        assert!(world.run_until(seconds(6), |world| world.check.is_delivered(packet)), "{protocol:?}");
    }
}

#[test]
fn w46_another_preshared_key_counts_from_the_next_handshake_on() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        world.change(0, Change::Preshared(1, [5; 32]));
        for _ in 0..100 {
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0), "{protocol:?}: the session goes on");
            world.run(seconds(1));
        }
        world.run(seconds(20));
        for _ in 0..80 {
            world.offer(0, 1);
            world.run(seconds(1));
        }
        assert!(world.hosts[0].dropped(Reason::Forged) > 0, "no answer opens");
        let packet = world.offer(0, 1);
        world.run(seconds(5));
        assert!(!world.check.is_delivered(packet));
        world.change(1, Change::Preshared(0, [5; 32]));
        assert!(world.run_until(seconds(6), |world| world.check.is_delivered(packet)), "{protocol:?}");
    }
}

#[test]
fn w46_another_preshared_key_counts_for_the_handshake_under_way() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| {
            plan.links[0].knows = [true, false];
            plan.links[0].preshared[1] = [5; 32];
        });
        world.network.cut.insert((1, 0));
        let packet = world.offer(0, 1);
        world.run(seconds(1));
        let answer = last(&world, 1, Step::Response);
        world.give(0, answer.datagram.clone(), answer.from);
        world.change(0, Change::Preshared(1, [5; 32]));
        world.give(0, answer.datagram, answer.from);
        world.network.cut.clear();
        world.run(ROUND_TRIP);
        assert!(world.check.is_delivered(packet), "{protocol:?}");
    }
}

#[test]
fn w16_a_keepalive_that_is_turned_off_stops_and_one_that_is_turned_on_begins() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        world.run(seconds(12));
        let since = world.now;
        world.run(seconds(20));
        assert_eq!(sent(&world, 0, since).len(), 0);
        let since = world.now;
        world.change(0, Change::Keepalive(1, Some(seconds(1))));
        world.run(seconds(20));
        let times: Vec<_> = sent(&world, 0, since).into_iter().map(|sent| sent.time).collect();
        assert_eq!(times[0], since, "{protocol:?}: at once");
        assert!((20..=42).contains(&times.len()), "{}", times.len());
        world.change(0, Change::Keepalive(1, None));
        world.run(seconds(12));
        let count = world.network.count;
        world.run(seconds(60));
        assert_eq!(world.network.count, count, "{protocol:?}");
    }
}

#[test]
fn a_peer_is_where_people_say_until_it_is_heard_from_elsewhere() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let nowhere: SocketAddr = "198.51.100.9:9".parse().unwrap();
        world.change(1, Change::Endpoint(0, Some(nowhere)));
        assert_eq!(path(&world, 1), Some((nowhere, true)));
        assert_eq!(said(&world, 1, &Output::Moved(PeerId(0), nowhere)), 1);
        world.run(SHOWN);
        let packet = world.offer(1, 0);
        world.run(seconds(1));
        assert!(!world.check.is_delivered(packet), "{protocol:?}");
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
        // Told nothing, it stays where it is.
        let before = path(&world, 1);
        world.change(1, Change::Endpoint(0, None));
        assert_eq!(path(&world, 1), before);
        assert!(passes(&mut world, 1, 0));
    }
}

#[test]
fn a_call_to_nobody_goes_on_at_once_where_people_say() {
    for protocol in BOTH {
        let mut world = pair(protocol, |plan| plan.links[0].at[0] = Some("198.51.100.9:9".parse().unwrap()));
        world.change(1, Change::Endpoint(0, None));
        cut(&mut world);
        let packet = world.offer(0, 1);
        world.run(seconds(2));
        world.network.cut.clear();
        let home = world.hosts[1].address;
        world.change(0, Change::Endpoint(1, Some(home)));
        world.run(ROUND_TRIP * 2);
        assert!(world.check.is_delivered(packet), "{protocol:?}");
    }
}

#[test]
fn who_has_no_key_says_nothing_until_there_is_one() {
    for protocol in BOTH {
        let mut world = connected(protocol);
        let (now, since) = (world.moment(0), world.now);
        world.hosts[0].node.set_identity(protocol, None, now);
        for _ in 0..30 {
            world.offer(0, 1);
            world.run(seconds(1));
        }
        assert!(sent(&world, 0, since).is_empty(), "{protocol:?}");
        assert_eq!(state(&world, 0).problem, Some(crate::peer::Problem::NoIdentity));
        let now = world.moment(0);
        world.hosts[0].node.set_identity(protocol, Some(plan::identity(0, protocol)), now);
        let packet = world.offer(0, 1);
        assert!(world.run_until(ROUND_TRIP * 2, |world| world.check.is_delivered(packet)));
    }
}
