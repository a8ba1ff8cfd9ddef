//! Sealed peers of a network: its id, and the epochs of its secret. T numbers are those of the rules of trust.

use wire::message::{CookieReply, Handshake, HandshakeHeader, Hello, Mode, Tai64n};
use zeroize::Zeroizing;

use super::*;
use crate::handshake::{NO_NETWORK, Shared, initiate};
use crate::mac::MacKeys;
use crate::network::{Epoch, Membership};
use crate::peer::{Problem, Standing};
use crate::session::REJECT_AFTER_TIME;
use crate::sim::Change;
use crate::sim::plan::{self, HostPlan, LinkPlan, NetworkPlan};
use crate::verdict::Reason;

/// How long an attempt takes that is made in the second epoch: the first one has to fail.
const SECOND_ATTEMPT: Duration = Duration::from_millis(5000 + 334 + 50);

fn epochs(newest: u32, previous: Option<u32>) -> Option<NetworkPlan> {
    Some(NetworkPlan { id: 1, newest, previous })
}

/// A pair in one network, that knows these epochs.
fn network(plans: [Option<NetworkPlan>; 2], change: impl FnOnce(&mut Plan)) -> World {
    pair(Protocol::Sealed, |plan| {
        for (host, network) in plan.hosts.iter_mut().zip(plans) {
            host.network = network;
        }
        change(plan);
    })
}

fn told(world: &mut World, host: usize, newest: u32, previous: Option<u32>) {
    world.change(host, Change::Membership(epochs(newest, previous)));
}

/// How long a packet takes, if it takes no longer than `most`.
fn takes(world: &mut World, from: usize, to: usize, most: Duration) -> Option<Duration> {
    let (packet, since) = (world.offer(from, to), world.now);
    world.run_until(most, |world| world.check.is_delivered(packet)).then(|| world.now.since(since))
}

/// Initiations of a node since `since`: when, and in which epoch.
fn calls(world: &World, host: usize, since: Time) -> Vec<(Duration, u32)> {
    let public = *plan::identity(1 - host, Protocol::Sealed).public();
    let epoch = |datagram: &[u8]| {
        let message = Handshake::parse(datagram).unwrap();
        (0..9).find(|number| {
            let network = NetworkPlan { id: 1, newest: *number, previous: None }.membership();
            MacKeys::of_network(&network, &network.epochs[0], &public).unwrap().verify_mac1(&message)
        })
    };
    let sent = sent_as(world, host, Step::Initiation, since).into_iter();
    sent.map(|sent| (sent.time.since(since), epoch(&sent.datagram).unwrap())).collect()
}

#[test]
fn a_peer_of_a_network_costs_nothing_until_there_is_traffic() {
    let mut world = network([epochs(1, None); 2], |_| {});
    world.run(seconds(400));
    assert_eq!(world.network.count, 0, "nobody is called");
    assert!(world.hosts.iter().all(|host| host.node.deadline().is_none_or(|at| at > world.now + seconds(100))));
    assert_eq!(world.hosts[0].table().claimed(), 0);
    // A packet, and after a restart who says that it knew the other.
    assert_eq!(takes(&mut world, 0, 1, seconds(1)), Some(ROUND_TRIP + ROUND_TRIP / 2));
    world.restart(1);
    world.run(seconds(1));
    let (now, since) = (world.moment(1), world.now);
    world.hosts[1].node.call_soon(PeerId(0), now);
    world.tell(1, crate::node::Notice::Watch(PeerId(0)));
    world.run(seconds(1));
    assert_eq!(calls(&world, 1, since).len(), 1);
    assert_eq!(takes(&mut world, 0, 1, seconds(1)), Some(ROUND_TRIP / 2), "it was heard of at once");
    // Whoever has a session is not called again.
    let now = world.moment(1);
    world.hosts[1].node.call_soon(PeerId(0), now);
    world.tell(1, crate::node::Notice::Watch(PeerId(0)));
    world.run(seconds(1));
    assert_eq!(calls(&world, 1, since).len(), 1);
}

#[test]
fn who_keeps_a_mapping_open_calls_by_itself() {
    let mut world = network([epochs(1, None); 2], |plan| plan.links[0].keepalive[0] = Some(seconds(20)));
    world.run(seconds(1));
    assert_eq!((state(&world, 0).standing, state(&world, 1).standing), (Standing::Up, Standing::Up));
}

#[test]
fn an_endpoint_that_never_answered_is_called_less_and_less() {
    let mut world = network([epochs(1, None); 2], |_| {});
    cut(&mut world);
    let since = world.now;
    for _ in 0..600 {
        world.offer(0, 1);
        world.run(seconds(1));
    }
    let times: Vec<_> = calls(&world, 0, since).into_iter().map(|(at, _)| at).collect();
    let pauses: Vec<_> = times.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect();
    assert_eq!(pauses[..5], [5, 10, 20, 40, 60]);
    // Packets come once a second.
    assert!(pauses[5..].iter().all(|pause| (60..=61).contains(pause)), "{pauses:?}");
    assert!(said(&world, 0, &Output::GaveUp(PeerId(1))) >= 3, "what waits for it does not wait for ever");
    // Elsewhere it is called at once, and with short pauses again.
    let since = world.now;
    world.change(0, Change::Endpoint(1, Some("192.0.2.77:7777".parse().unwrap())));
    world.run(seconds(6));
    assert_eq!(calls(&world, 0, since).len(), 2);
    // When it is heard of, all is as with others.
    world.change(0, Change::Endpoint(1, Some(world.hosts[1].address)));
    world.network.cut.clear();
    assert!(passes(&mut world, 1, 0) && passes(&mut world, 0, 1));
    cut(&mut world);
    world.sleep(0, Duration::from_millis(10));
    let since = world.now;
    for _ in 0..80 {
        world.offer(0, 1);
        world.run(seconds(1));
    }
    let calls = calls(&world, 0, since);
    let pauses = calls.windows(2).map(|two| (two[1].0 - two[0].0).as_secs());
    assert!(pauses.into_iter().all(|pause| pause == 5), "it has answered here: {calls:?}");
}

// ---- the secret ------------------------------------------------------------------------------------------------------------

#[test]
fn t6_a_rotation_under_traffic_loses_nothing() {
    for [first, second] in [[0, 1], [1, 0]] {
        for gap in [0, 1, 30, 110, 300] {
            let mut world = network([epochs(1, None); 2], |_| {});
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
            let mut packets = Vec::new();
            let mut talk = |world: &mut World, span: u64| {
                for _ in 0..span * 2 {
                    packets.extend([world.offer(0, 1), world.offer(1, 0)]);
                    world.run(Duration::from_millis(500));
                }
            };
            for epoch in 2..5 {
                told(&mut world, first, epoch, Some(epoch - 1));
                talk(&mut world, gap);
                told(&mut world, second, epoch, Some(epoch - 1));
                talk(&mut world, 300);
            }
            world.run(seconds(1));
            let lost = packets.iter().filter(|packet| !world.check.is_delivered(**packet)).count();
            assert_eq!(lost, 0, "{first} hears of it {gap} s before {second}");
        }
    }
}

#[test]
fn t6_a_rotation_with_a_bad_network_ends_no_session() {
    for seed in 0..20 {
        let mut plan = Plan::pair(Protocol::Sealed);
        plan.hosts.iter_mut().for_each(|host| host.network = epochs(1, None));
        let mut world = World::new(plan, seed);
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
        (world.network.weather.loss, world.network.weather.jitter) = (100, Duration::from_millis(50));
        for epoch in 2..5 {
            let first = world.rng.index(2);
            told(&mut world, first, epoch, Some(epoch - 1));
            let gap = world.rng.below(200);
            for second in 0..gap + 200 {
                if second == gap {
                    told(&mut world, 1 - first, epoch, Some(epoch - 1));
                }
                world.offer(0, 1);
                world.offer(1, 0);
                world.run(seconds(1));
                for host in 0..2 {
                    assert_eq!(state(&world, host).standing, Standing::Up, "seed {seed}");
                }
            }
        }
        for host in &world.hosts {
            let whole = [Reason::NoSession, Reason::UnknownSession].map(|reason| host.dropped(reason));
            assert_eq!(whole, [0, 0], "seed {seed}");
        }
    }
}

#[test]
fn t6_who_has_not_heard_of_a_rotation_is_reached_in_the_grace_and_not_after() {
    let mut world = network([epochs(2, Some(1)), epochs(1, None)], |_| {});
    let since = world.now;
    let took = takes(&mut world, 0, 1, SECOND_ATTEMPT).expect("in the grace");
    assert!(took >= seconds(5), "{took:?}");
    assert_eq!(calls(&world, 0, since).into_iter().map(|(_, epoch)| epoch).collect::<Vec<_>>(), [2, 1]);
    world.restart(1);
    assert!(takes(&mut world, 1, 0, seconds(1)).is_some(), "in the other direction at once");
    // What was agreed on in that epoch lives on without it, for the life of a session.
    told(&mut world, 0, 2, None);
    let over = world.now + REJECT_AFTER_TIME;
    let established = state(&world, 0).handshake;
    while world.now + seconds(1) < over {
        world.run(seconds(1));
        if world.now.since(established.unwrap()) < seconds(175) {
            assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
        }
    }
    assert_eq!((state(&world, 0).handshake, state(&world, 1).handshake.map(|_| ())), (established, Some(())));
    let since = world.now + seconds(10);
    for _ in 0..200 {
        let packets = [world.offer(0, 1), world.offer(1, 0)];
        world.run(seconds(1));
        assert!(world.now < since || packets.iter().all(|packet| !world.check.is_delivered(*packet)));
    }
    // Neither answers the other.
    for host in 0..2 {
        assert!(sent_as(&world, host, Step::Response, over).is_empty());
        assert_eq!(state(&world, host).problem, Some(Problem::NoAnswer));
    }
    told(&mut world, 1, 2, Some(1));
    assert!(takes(&mut world, 1, 0, seconds(1)).is_some(), "as soon as it hears of it");
}

#[test]
fn t6_a_handshake_under_way_is_begun_anew_in_the_next_epoch() {
    let mut world = network([epochs(1, None), epochs(2, None)], |_| {});
    let packet = world.offer(0, 1);
    world.run(seconds(1));
    assert!(!world.check.is_delivered(packet));
    let since = world.now;
    told(&mut world, 0, 2, Some(1));
    assert!(world.run_until(ROUND_TRIP * 2, |world| world.check.is_delivered(packet)));
    assert_eq!(calls(&world, 0, since), [(Duration::ZERO, 2)]);
    // Also where the epoch that it is made in is taken back.
    let mut world = network([epochs(2, Some(1)), epochs(2, None)], |_| {});
    world.network.cut.insert((0, 1));
    world.offer(0, 1);
    world.run(seconds(6));
    let since = world.now;
    told(&mut world, 0, 2, None);
    assert_eq!(calls(&world, 0, since), [(Duration::ZERO, 2)]);
    world.network.cut.clear();
    // An answer to what was said in it counts no more.
    let mut world = network([epochs(1, None), epochs(1, None)], |_| {});
    world.network.cut.insert((1, 0));
    world.offer(0, 1);
    world.run(seconds(1));
    let answer = last(&world, 1, Step::Response);
    told(&mut world, 0, 2, None);
    let before = world.hosts[0].dropped(Reason::Forged) + world.hosts[0].dropped(Reason::UnknownSession);
    world.give(0, answer.datagram, answer.from);
    let after = world.hosts[0].dropped(Reason::Forged) + world.hosts[0].dropped(Reason::UnknownSession);
    assert_eq!((after - before, state(&world, 0).suite), (1, None));
}

#[test]
fn t6_without_any_secret_nobody_is_called_or_answered() {
    let mut world = network([epochs(1, None); 2], |_| {});
    let nothing = Membership { id: [1; 16], epochs: Vec::new() };
    let now = world.moment(0);
    world.hosts[0].admission.set_membership(Some(&nothing));
    world.hosts[0].node.set_membership(Some(nothing), now);
    world.offer(0, 1);
    world.offer(1, 0);
    world.run(seconds(20));
    assert!(sent(&world, 0, Time::NEVER).is_empty());
    assert_eq!(state(&world, 0).problem, Some(Problem::NoSecret));
    assert!(world.hosts[0].dropped(Reason::Forged) >= 2);
}

// ---- strangers -------------------------------------------------------------------------------------------------------------

/// A true initiation from node 0's key to node 1, as somebody makes it who has this secret of this network, or none.
fn forged(network: Option<&Membership>, claimed: u32, second: u8) -> Vec<u8> {
    let (us, them) = (plan::identity(0, Protocol::Sealed), plan::identity(1, Protocol::Sealed));
    let hello = Hello {
        timestamp: Tai64n([0x40, 0, 0, 0, 0x6a, 0, 0, second, 0, 0, 0, 0]),
        epoch: claimed,
        mtu: 1440,
        mode: Mode::Tun,
        aes: true,
    };
    let psk = network.and_then(|network| network.pair(&network.epochs[0], us.public(), them.public()));
    let psk = psk.unwrap_or(Zeroizing::new([0; 32]));
    let shared = Shared { network: network.map_or(&NO_NETWORK, |network| &network.id), psk: &psk };
    let ephemeral = Zeroizing::new([9; 32]);
    let (_, mut datagram) = initiate(Protocol::Sealed, &us, them.public(), shared, 16, &hello, ephemeral).unwrap();
    let keys = network.and_then(|network| MacKeys::of_network(network, &network.epochs[0], them.public()));
    keys.unwrap_or_else(|| MacKeys::new(Protocol::Sealed, them.public())).sign(&mut datagram, None);
    datagram
}

#[test]
fn t6_a_stranger_without_the_secret_gets_no_answer_and_costs_no_agreement() {
    let mut world = network([epochs(2, Some(1)); 2], |_| {});
    let secret = |number, byte| Epoch { number, secret: Zeroizing::new([byte; 32]) };
    let own = NetworkPlan { id: 1, newest: 2, previous: None }.membership();
    let strangers = [
        // Who knows all public keys, and has even stolen a private one, but is in no network.
        None,
        // Another secret under the same number; the right one under another number; an epoch that is over; and another network.
        Some(Membership { id: own.id, epochs: vec![secret(2, 7)] }),
        Some(Membership { id: own.id, epochs: vec![Epoch { number: 3, ..own.epochs[0].clone() }] }),
        Some(NetworkPlan { id: 1, newest: 0, previous: None }.membership()),
        Some(Membership { id: [2; 16], ..own.clone() }),
        Some(NetworkPlan { id: 2, newest: 2, previous: None }.membership()),
    ];
    let mut second = 0;
    for stranger in &strangers {
        for _ in 0..50 {
            second += 1;
            let datagram = forged(stranger.as_ref(), 2, second);
            world.give(1, datagram, attacker(second));
            world.give(1, forged(stranger.as_ref(), 2, second), world.hosts[0].address);
        }
        second = 0;
    }
    // What control computes is bounded by a budget that none of them has touched, and neither has what it let in.
    let count = 2 * 50 * strangers.len() as u32;
    assert_eq!((world.network.count, world.hosts[1].dropped(Reason::Forged)), (0, count));
    assert_eq!(world.hosts[1].drops.len(), 1, "{:?}", world.hosts[1].drops);
    assert!(state(&world, 1).suite.is_none());
    let all_at_once = (0..20).map(|number| forged(Some(&own), 2, 100 + number));
    let all_at_once: Vec<_> = all_at_once.collect();
    for datagram in all_at_once {
        world.run(Duration::from_millis(21));
        world.give(1, datagram, world.hosts[0].address);
    }
    assert_eq!(world.hosts[1].dropped(Reason::RateLimited), 0);
    assert_eq!(sent_as(&world, 1, Step::Response, Time::NEVER).len(), 20, "who has key and secret is answered");
}

#[test]
fn t6_who_says_one_epoch_and_proves_another_is_refused() {
    let mut world = network([epochs(2, Some(1)); 2], |_| {});
    let own = NetworkPlan { id: 1, newest: 1, previous: None }.membership();
    for (second, claimed) in [(1, 2), (2, 3), (3, 0)] {
        let from = world.hosts[0].address;
        world.give(1, forged(Some(&own), claimed, second), from);
        world.run(seconds(1));
    }
    assert_eq!(state(&world, 1).problem, Some(Problem::Epoch));
    assert_eq!(sent_as(&world, 1, Step::Response, Time::NEVER).len(), 3);
    assert_eq!(world.hosts[1].table().claimed(), 0);
}

#[test]
fn t7_nodes_of_different_networks_or_of_none_are_silent_to_each_other() {
    let other = Some(NetworkPlan::first(2));
    for [one, two] in [[epochs(1, None), other], [epochs(1, None), None], [None, other]] {
        let mut world = network([one, two], |_| {});
        for _ in 0..60 {
            world.offer(0, 1);
            world.offer(1, 0);
            world.run(seconds(1));
        }
        for host in 0..2 {
            assert!(sent(&world, host, Time::NEVER).iter().all(|sent| step(&sent.datagram) == Some(Step::Initiation)));
            assert!(world.hosts[host].dropped(Reason::Forged) > 0);
            assert_eq!(state(&world, host).problem, Some(Problem::NoAnswer));
        }
    }
}

#[test]
fn another_network_ends_all_sealed_sessions_and_no_others() {
    let mut plan = Plan { hosts: (0..3).map(HostPlan::new).collect(), links: Vec::new() };
    plan.hosts.iter_mut().for_each(|host| host.network = epochs(1, None));
    plan.links = vec![LinkPlan::new(Protocol::Sealed, [0, 1]), LinkPlan::new(Protocol::WireGuard, [0, 2])];
    let mut world = World::new(plan, 1);
    for other in [1, 2] {
        assert!(passes(&mut world, 0, other) && passes(&mut world, other, 0));
    }
    for next in [Some(NetworkPlan::first(2)), None, epochs(5, None)] {
        let since = world.now;
        // What sealed sessions were is looked at by the change itself.
        world.change(0, Change::Membership(next));
        world.run(seconds(1));
        assert!(world.hosts[0].node.sessions(PeerId(1)).is_empty());
        let packet = world.offer(0, 1);
        assert!(passes(&mut world, 0, 2) && passes(&mut world, 2, 0));
        assert!(sent_as(&world, 2, Step::Initiation, since).is_empty(), "WireGuard knows of no networks");
        world.run(seconds(10));
        assert!(!world.check.is_delivered(packet));
        world.change(1, Change::Membership(next));
        world.run(seconds(11));
        assert!(takes(&mut world, 0, 1, seconds(11)).is_some() && passes(&mut world, 1, 0), "{next:?}");
    }
}

#[test]
fn in_a_network_no_preshared_key_counts() {
    let mut world = network([epochs(1, None); 2], |plan| plan.links[0].preshared = [[1; 32], [2; 32]]);
    let packet = world.offer(0, 1);
    world.change(0, Change::Preshared(1, [3; 32]));
    world.run(seconds(1));
    assert!(world.check.is_delivered(packet) && passes(&mut world, 1, 0));
}

#[test]
fn w43_a_cookie_is_sealed_with_the_secret_too() {
    for epoch in [1, 2] {
        let mut world =
            network([epochs(2, Some(1)).filter(|_| epoch == 2).or(epochs(1, None)), epochs(2, Some(1))], |plan| {
                plan.links[0].knows = [true, false];
            });
        let own = NetworkPlan { id: 1, newest: epoch, previous: None }.membership();
        let public = *plan::identity(1, Protocol::Sealed).public();
        let keys = MacKeys::of_network(&own, &own.epochs[0], &public).unwrap();
        let flood = |world: &mut World, count: usize| {
            for _ in 0..count {
                let sender = (world.rng.number() as u32) << 4;
                let header =
                    HandshakeHeader { protocol: Protocol::Sealed, step: Step::Initiation, sender, receiver: 0 };
                let mut noise = vec![0; Protocol::Sealed.noise_len(Step::Initiation)];
                world.rng.fill_bytes(&mut noise);
                let mut datagram = header.emit(&noise).unwrap();
                keys.sign(&mut datagram, None);
                let from = attacker(world.rng.below(250) as u8);
                world.give(1, datagram, from);
            }
        };
        flood(&mut world, 150);
        let (since, packet) = (world.now, world.offer(0, 1));
        while !world.check.is_delivered(packet) && world.now < since + Duration::from_millis(200) {
            world.run(Duration::from_millis(5));
            flood(&mut world, 2);
        }
        assert!(world.check.is_delivered(packet), "epoch {epoch}");
        let cookies = sent_as(&world, 1, Step::Cookie, since);
        let ours: Vec<_> = cookies.iter().filter(|sent| sent.to == world.hosts[0].address).collect();
        assert_eq!(ours.len(), 1);
        // Who knows the public key alone cannot read it.
        let reply = CookieReply::parse(&ours[0].datagram).unwrap();
        let asked = sent_as(&world, 0, Step::Initiation, since).remove(0).datagram;
        let mac1 = *Handshake::parse(&asked).unwrap().mac1();
        let stranger = MacKeys::new(Protocol::Sealed, &public);
        assert_eq!(stranger.open_cookie(reply.nonce, &mac1, reply.sealed), None);
        assert!(keys.open_cookie(reply.nonce, &mac1, reply.sealed).is_some());
    }
}

#[test]
fn t7_a_sealed_peer_is_not_heard_as_a_wireguard_one_nor_the_other_way_round() {
    for protocol in BOTH {
        let other = if protocol == Protocol::Sealed { Protocol::WireGuard } else { Protocol::Sealed };
        let mut world = pair(protocol, |plan| plan.hosts.iter_mut().for_each(|host| host.network = epochs(1, None)));
        world.run(seconds(1));
        // The peer's own key, in the transport that is not its own.
        let (us, them) = (plan::identity(0, protocol), plan::identity(1, other));
        let own = NetworkPlan::first(1).membership();
        let psk = match other {
            Protocol::Sealed => own.pair(&own.epochs[0], us.public(), them.public()).unwrap(),
            Protocol::WireGuard => Zeroizing::new([0; 32]),
        };
        let network = if other == Protocol::Sealed { &own.id } else { &NO_NETWORK };
        let timestamp = Tai64n([0x40, 0, 0, 0, 0x7a, 0, 0, 0, 0, 0, 0, 0]);
        let hello = Hello { timestamp, epoch: 1, ..Hello::default() };
        let shared = Shared { network, psk: &psk };
        let (_, mut datagram) =
            initiate(other, &us, them.public(), shared, 16, &hello, Zeroizing::new([9; 32])).unwrap();
        match other {
            Protocol::Sealed => MacKeys::of_network(&own, &own.epochs[0], them.public()).unwrap(),
            Protocol::WireGuard => MacKeys::new(other, them.public()),
        }
        .sign(&mut datagram, None);
        let since = world.now;
        let from = world.hosts[0].address;
        world.give(1, datagram, from);
        world.run(seconds(1));
        assert_eq!(world.hosts[1].dropped(Reason::WrongTransport), 1, "{protocol:?}");
        assert!(sent(&world, 1, since).is_empty());
        assert!(passes(&mut world, 0, 1) && passes(&mut world, 1, 0));
    }
}
