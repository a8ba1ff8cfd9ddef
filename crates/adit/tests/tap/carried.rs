//! Which frames are carried, byte for byte, which are not, and to whom.

use std::time::Duration;

use crate::bed::packet::Random;
use crate::world::{ALL, World, strange, switch};

/// After the last frame that counts nothing more is waited for than what was sent before it.
fn end(from: [u8; 6]) -> Vec<u8> {
    strange(from, ALL, b"this is the end of it, and all that was sent before has come or will not come")
}

#[test]
fn frames_of_all_kinds_arrive_as_they_were() {
    let world = World::new(2, |_, _| {});
    let _daemons = world.start();
    // Else the kernel's bridges cut off what follows a packet in its frame.
    for host in [1, 2] {
        world.host(host).set(&["net", "bridge", "bridge-nf-call-iptables"], "0");
        world.host(host).set(&["net", "bridge", "bridge-nf-call-ip6tables"], "0");
    }
    let [a, b] = [world.card(1, 1), world.card(2, 2)];
    let mut random = Random::new(3);
    let udp = crate::bed::packet::frame(
        (a.mac, b.mac),
        "10.88.0.1:9".parse().unwrap(),
        "10.88.0.2:9".parse().unwrap(),
        b"hello",
    );
    let tagged = |tag: &[u8], frame: &[u8]| [&frame[..12], tag, &frame[12..]].concat();
    let padded = [&udp[..], &random.bytes(18)].concat();
    let mut frames = vec![
        ("an unknown protocol", strange(a.mac, b.mac, &random.bytes(700))),
        ("to all", strange(a.mac, ALL, &random.bytes(700))),
        ("to a group", strange(a.mac, [3, 0, 0, 0, 0, 7], &random.bytes(60))),
        ("the shortest", strange(a.mac, b.mac, b"")),
        ("IEEE 802.3 with its length", [&b.mac[..], &a.mac, &[0, 9], b"\xaa\xaa\x03sixteen"].concat()),
        ("UDP", udp.clone()),
        ("UDP with padding", padded),
        ("tagged UDP", tagged(&[0x81, 0, 0x20, 5], &udp)),
        ("twice tagged UDP", tagged(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5], &udp)),
        ("thrice tagged UDP", tagged(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3], &udp)),
        ("tagged and unknown", tagged(&[0x81, 0, 0x20, 5], &strange(a.mac, b.mac, &random.bytes(90)))),
        ("a broken IP packet", [&b.mac[..], &a.mac, &[8, 0, 0x45, 0, 0xff, 0xff, 1, 2]].concat()),
        ("IPv6 that is IPv4", [&b.mac[..], &a.mac, &[0x86, 0xdd], &udp[14..]].concat()),
        ("as long as may be", strange(a.mac, b.mac, &random.bytes(1426))),
    ];
    // A wrong checksum arrives wrong.
    let mut wrong = udp;
    *wrong.last_mut().unwrap() ^= 1;
    frames.push(("a wrong checksum", wrong));
    for (what, frame) in &frames {
        a.send(frame);
        b.await_frame(what, frame);
    }
}

#[test]
fn an_address_that_moves_to_another_host_is_followed_with_its_first_frame() {
    let world = World::new(3, |_, _| {});
    let daemons = world.start();
    let [asker, before, after] = [world.card(1, 1), world.card(2, 2), world.card(3, 3)];
    let moving = [2, 0x99, 0, 0, 0, 0x42];
    let hello = |card: u8| strange(moving, ALL, &[card; 50]);
    for round in 0..3u8 {
        for (here, there) in [(&before, &after), (&after, &before)] {
            here.send(&hello(round));
            asker.await_frame("the first frame from there", &hello(round));
            // From now on what is for it goes there, and to nobody else.
            let frame = strange(asker.mac, moving, &[round; 60]);
            asker.send(&frame);
            here.await_frame("the answer", &frame);
            asker.send(&end(asker.mac));
            assert!(!there.until(&end(asker.mac)).contains(&frame), "it also came to where it was");
            let _ = here.until(&end(asker.mac));
        }
    }
    assert!(switch(&daemons[0]).moves >= 5);
    // And to the asker's own host.
    let local = world.card(1, 9);
    local.send(&hello(9));
    before.await_frame("it is elsewhere", &hello(9));
    let frame = strange(before.mac, moving, &[9; 60]);
    before.send(&frame);
    local.await_frame("what is for it", &frame);
}

#[test]
fn what_bridges_tell_each_other_stays_on_its_host_unless_it_is_wanted() {
    let group = |last| [1, 0x80, 0xc2, 0, 0, last];
    for stp in [false, true] {
        let world = World::new(2, |_, end| {
            // The bridge of this host speaks no STP, and so passes it on like any other frame.
            end.device_lines += if stp { "[switch]\nstp = true\n" } else { "" };
        });
        let daemons = world.start();
        let [a, b] = [world.card(1, 1), world.card(2, 2)];
        let bpdu = [&group(0)[..], &a.mac, &[0, 38, 0x42, 0x42, 3], &[0; 35]].concat();
        a.send(&bpdu);
        if stp {
            // Two workers may carry two frames in another order.
            b.await_frame("what bridges say", &bpdu);
        } else {
            crate::bed::wait_for("it to be dropped", || (daemons[0].drops("link_control") > 0).then_some(()));
            a.send(&end(a.mac));
            assert!(!b.until(&end(a.mac)).contains(&bpdu));
        }
        assert_eq!(daemons[0].drops("link_control") > 0, !stp);
    }
}

#[test]
fn a_peer_that_has_given_addresses_speaks_by_no_others() {
    let world = World::new(3, |number, end| {
        if number == 1 {
            let peer = end.peers.iter_mut().find(|peer| peer.name == "host2").unwrap();
            peer.macs = vec!["02:99:00:00:00:02".into()];
        }
    });
    let daemons = world.start();
    let [a, b, c] = [world.card(1, 1), world.card(2, 2), world.card(3, 3)];
    let (own, others) = (strange(b.mac, ALL, &[1; 50]), strange([2, 0x99, 0, 0, 0, 0x77], ALL, &[2; 50]));
    b.send(&others);
    b.send(&own);
    let seen = a.until(&own);
    assert!(!seen.contains(&others));
    crate::bed::wait_for("a refusal", || (daemons[0].drops("wrong_source") >= 1).then_some(()));
    // Nobody else has that address either.
    let stolen = strange(b.mac, ALL, &[3; 50]);
    c.send(&stolen);
    c.send(&end(c.mac));
    assert!(!a.until(&end(c.mac)).contains(&stolen));
    // Its own host had believed the other one, once that came there too.
    b.await_frame("what another says in its name", &stolen);
    b.send(&own);
    a.await_frame("what it may say", &own);
    let frame = strange(a.mac, b.mac, &[4; 50]);
    a.send(&frame);
    b.await_frame("what is for it", &frame);
    a.send(&end(a.mac));
    assert!(!c.until(&end(a.mac)).contains(&frame), "it went to whom it is for");
}

#[test]
fn who_is_not_there_is_waited_for_and_others_are_served_meanwhile() {
    let world = World::new(3, |_, _| {});
    let first = world.places[0].start();
    let second = world.places[1].start();
    crate::bed::wait_for("a session", || first.status().peers.iter().any(|peer| peer.session == "up").then_some(()));
    let [a, b] = [world.card(1, 1), world.card(2, 2)];
    let frame = strange(a.mac, ALL, &[1; 50]);
    a.send(&frame);
    b.await_frame("a frame to all", &frame);
    // Who comes later gets what waited for it, once; and nobody else gets it again.
    let third = world.places[2].start();
    let c = world.card(3, 3);
    crate::world::await_sessions(&third);
    crate::world::await_sessions(&first);
    let last = end(a.mac);
    a.send(&last);
    assert!(c.until(&last).iter().filter(|seen| **seen == frame).count() <= 1);
    assert!(!b.until(&last).contains(&frame), "once is enough");
    assert!(b.find(Duration::from_millis(50), |bytes| (bytes == frame).then_some(())).is_none());
    drop(second);
}
