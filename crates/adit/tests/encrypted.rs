//! What is special about encrypted tunnels: who gets in, who does not, how peers find each other and move, and that nothing of what
//! is recorded on the underlay can be used again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adit::key::PrivateKey;
use bed::daemon::{Configuration, Daemon, PORT, Place};
use bed::packet::{MARK, Random, UdpPacket, frame};
use bed::sniffer::{Injector, Sniffer, contains};
use bed::traffic::{End, connection, exchange_over, exchange_tcp, exchange_udp};
use bed::{Bed, Family, Host, at, over, wait_for};
use wire::ip::{IpPacket, protocol};
use wire::message::{Message, Step, classify};
use wire::vnet::VnetHdr;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

over! {
    sealed: {
        a_plain_peer_shares_the_port_and_nothing_else
        a_preshared_key_is_a_second_lock
        a_wrong_key_opens_nothing
        a_peer_that_does_not_answer_is_told_of
        a_peer_that_nobody_knows_the_place_of_is_told_of
        a_peer_without_endpoint_calls_in
        both_may_begin_at_once
        a_stream_survives_a_peer_that_moves
        a_peer_behind_a_nat_is_reached_and_followed
        nothing_recorded_can_be_used_again
        nothing_that_was_changed_arrives
        an_old_initiation_changes_nothing
        a_restarted_peer_is_back_at_once
    }
}

over! {
    wireguard: {
        a_plain_peer_shares_the_port_and_nothing_else
        a_preshared_key_is_a_second_lock
        a_wrong_key_opens_nothing
        a_peer_that_does_not_answer_is_told_of
        a_peer_that_nobody_knows_the_place_of_is_told_of
        a_peer_without_endpoint_calls_in
        both_may_begin_at_once
        a_stream_survives_a_peer_that_moves
        a_peer_behind_a_nat_is_reached_and_followed
        nothing_recorded_can_be_used_again
        nothing_that_was_changed_arrives
        an_old_initiation_changes_nothing
    }
}

/// Two hosts of a bed, and the two ends of a tunnel between them.
fn pair(transport: &'static str, outer: Family, hosts: usize) -> (Bed, [Configuration; 2]) {
    let bed = Bed::new(hosts);
    let ends = Configuration::pair([bed.host(1), bed.host(2)], outer, transport);
    (bed, ends)
}

fn places(bed: &Bed, ends: &[Configuration; 2]) -> [Place; 2] {
    [Place::new(bed.host(1), &ends[0]), Place::new(bed.host(2), &ends[1])]
}

fn inner(bed: &Bed, host: usize, family: Family) -> End<'_> {
    let host = bed.host(host);
    End::new(&host.namespace, host.inner(family))
}

fn carries(bed: &Bed, from: usize, to: usize) {
    for family in FAMILIES {
        exchange_tcp(inner(bed, from, family), inner(bed, to, family), 100_001, 100_003);
    }
}

/// Sends by the tunnel until `done`; nothing of it may arrive at the other end.
fn knock(bed: &Bed, from: usize, to: usize, mut done: impl FnMut() -> bool) {
    let (sender, receiver) = (inner(bed, from, Family::V4).udp(), inner(bed, to, Family::V4).udp());
    receiver.set_nonblocking(true).unwrap();
    let address = receiver.local_addr().unwrap();
    wait_for("what is to happen when somebody knocks", || {
        let _ = sender.send_to(MARK, address);
        assert!(receiver.recv(&mut [0; 16]).is_err(), "nothing arrives");
        done().then_some(())
    });
}

fn endpoint(daemon: &Daemon<'_>) -> Option<String> {
    daemon.status().peers[0].endpoint.clone()
}

/// Waits for the sentence that says why nothing gets through to the first peer.
fn await_problem(daemon: &Daemon<'_>, words: &str) {
    wait_for(words, || {
        let peer = daemon.status().peers.swap_remove(0);
        assert_ne!(peer.session, "up");
        peer.problem.filter(|problem| problem.contains(words))
    });
}

/// What all the others rely on.
#[test]
#[should_panic(expected = "in the clear on the underlay")]
fn the_guard_sees_what_is_in_the_clear() {
    let (bed, ends) = pair("sealed", Family::V4, 2);
    let places = places(&bed, &ends);
    let _daemons = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    let outside = |host: usize| End::new(&bed.host(host).namespace, bed.host(host).underlay(Family::V4));
    exchange_udp(outside(1), outside(2), [100]);
}

// ---- who gets in -------------------------------------------------------------------------------------------------------------

fn a_plain_peer_shares_the_port_and_nothing_else(transport: &'static str) {
    let bed = Bed::new(3);
    let one = Configuration::new(bed.host(1), &[2, 3], Family::V4);
    let two = Configuration::new(bed.host(2), &[1], Family::V4);
    let [one, two] = Configuration::with_keys([one, two], transport);
    assert_eq!(one.peers[1].transport, "plain");
    let three = Configuration::new(bed.host(3), &[1], Family::V4);
    let places = [Place::new(bed.host(1), &one), Place::new(bed.host(2), &two), Place::new(bed.host(3), &three)];
    let [one, two, _three] = places.each_ref().map(Place::start);
    let marks = |host: &Host| {
        let sniffer = Sniffer::open(&host.namespace, "under0");
        sniffer.watch(|_, bytes| contains(bytes, MARK).then_some(()))
    };
    let (encrypted, plain) = (marks(bed.host(2)), marks(bed.host(3)));
    carries(&bed, 1, 2);
    carries(&bed, 2, 1);
    carries(&bed, 1, 3);
    assert_eq!(encrypted.collect(), []);
    assert!(!plain.collect().is_empty());
    let secure: Vec<_> = one.status().peers.iter().map(|peer| peer.secure).collect();
    assert_eq!(secure, [true, false]);

    // The way of one is none for the other: an encrypted peer is never heard in the clear, not even from its own address, and a
    // plain one never speaks for it.
    let inside = Sniffer::open(&bed.host(1).namespace, "adit0");
    let inside = inside.watch(|_, bytes| contains(bytes, b"adit-must-refuse").then(|| bytes.to_vec()));
    let drops = |reason: &str| one.drops(reason);
    let to = at(bed.host(1).underlay(Family::V4), PORT);
    for (sender, speaks_for, reason) in [(2, 2, "unknown_endpoint"), (3, 2, "wrong_transport")] {
        let (source, destination) = ((bed.host(speaks_for).inner(Family::V4), 9), (bed.host(1).inner(Family::V4), 9));
        let packet = UdpPacket::new(source, destination, b"adit-must-refuse").bytes();
        let before = drops(reason);
        let macs = (bed.host(sender).mac(), bed.host(1).mac());
        let frame = frame(macs, at(bed.host(sender).underlay(Family::V4), PORT), to, &packet);
        Injector::open(&bed.host(sender).namespace, "under0").send(&VnetHdr::NONE, &frame).unwrap();
        wait_for(reason, || (drops(reason) > before).then_some(()));
    }
    assert_eq!(inside.collect(), [[0; 0]; 0]);
    assert_eq!(endpoint(&two).as_deref(), Some("192.0.2.1:7777"));
    carries(&bed, 2, 1);
}

fn preshared(seed: u64) -> Option<String> {
    use base64::Engine;
    let mut random = Random::new(seed);
    let bytes: Vec<u8> = (0..4).flat_map(|_| random.next().to_le_bytes()).collect();
    Some(base64::engine::general_purpose::STANDARD.encode(bytes) + "\n")
}

fn a_preshared_key_is_a_second_lock(transport: &'static str) {
    let (bed, mut ends) = pair(transport, Family::V4, 2);
    // One end has a key, or both have different ones.
    for (mine, theirs) in [(preshared(1), None), (preshared(1), preshared(2))] {
        ends[0].peers[0].preshared_key = mine;
        ends[1].peers[0].preshared_key = theirs;
        let places = places(&bed, &ends);
        let [one, two] = places.each_ref().map(Place::start);
        knock(&bed, 1, 2, || one.drops("forged") > 0);
        assert!([&one, &two].iter().all(|daemon| daemon.status().peers[0].session != "up"));
        assert!(one.status().peers[0].preshared_key);
    }
    ends[1].peers[0].preshared_key = preshared(1);
    let places = places(&bed, &ends);
    let [one, _two] = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    assert!(one.status().peers[0].preshared_key);
}

fn a_wrong_key_opens_nothing(transport: &'static str) {
    let (bed, ends) = pair(transport, Family::V4, 2);
    let other = PrivateKey::generate().unwrap().public_key();
    // We take somebody else for the peer, or it does us.
    for wrong in [0, 1] {
        let mut ends = ends.clone();
        ends[wrong].peers[0].public_key = Some(other);
        let places = places(&bed, &ends);
        let [one, two] = places.each_ref().map(Place::start);
        knock(&bed, 1, 2, || two.drops("forged") > 0);
        knock(&bed, 2, 1, || one.drops("forged") > 0);
        assert!([&one, &two].iter().all(|daemon| daemon.status().peers[0].session != "up"));
    }
    let places = places(&bed, &ends);
    let _daemons = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
}

fn a_peer_that_does_not_answer_is_told_of(transport: &'static str) {
    let (bed, ends) = pair(transport, Family::V4, 2);
    let places = places(&bed, &ends);
    let one = places[0].start();
    let socket = inner(&bed, 1, Family::V4).udp();
    socket.send_to(MARK, (bed.host(2).inner(Family::V4), 9)).unwrap();
    wait_for("the call", || (one.status().peers[0].session == "handshaking").then_some(()));
    await_problem(&one, "does not answer");
    // As soon as it is there, all is well.
    let _two = places[1].start();
    carries(&bed, 1, 2);
    assert_eq!(one.status().peers[0].problem, None);
}

fn a_peer_that_nobody_knows_the_place_of_is_told_of(transport: &'static str) {
    let (bed, mut ends) = pair(transport, Family::V4, 2);
    ends.iter_mut().for_each(|end| end.peers[0].endpoint.clear());
    let places = places(&bed, &ends);
    let [one, two] = places.each_ref().map(Place::start);
    knock(&bed, 1, 2, || one.status().peers[0].problem.is_some());
    await_problem(&one, "nobody knows where the peer is");
    assert_eq!((endpoint(&one), endpoint(&two)), (None, None));
    wait_for("a drop", || (one.drops("no_session") > 0).then_some(()));
    // Nothing of this is to be seen outside; one tunnel that is whole, for the guard's sake.
    drop((one, two));
    let ends = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, transport);
    let places = self::places(&bed, &ends);
    let _daemons = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
}

// ---- how they find each other, and move --------------------------------------------------------------------------------------

fn a_peer_without_endpoint_calls_in(transport: &'static str) {
    for outer in FAMILIES {
        let (bed, mut ends) = pair(transport, outer, 2);
        ends[0].peers[0].endpoint.clear();
        ends[0].listen = format!("[::]:{PORT}");
        let places = places(&bed, &ends);
        let [one, _two] = places.each_ref().map(Place::start);
        assert!(transport == "sealed" || endpoint(&one).is_none());
        carries(&bed, 2, 1);
        carries(&bed, 1, 2);
        assert_eq!(endpoint(&one), Some(at(bed.host(2).underlay(outer), PORT).to_string()));
    }
}

fn both_may_begin_at_once(transport: &'static str) {
    let (bed, ends) = pair(transport, Family::V4, 2);
    let places = places(&bed, &ends);
    for _ in 0..5 {
        let _daemons = thread::scope(|scope| {
            let starts = places.each_ref().map(|place| scope.spawn(|| place.start()));
            starts.map(|start| start.join().unwrap())
        });
        // Both have something to say at once, too.
        thread::scope(|scope| {
            scope.spawn(|| exchange_udp(inner(&bed, 1, Family::V4), inner(&bed, 2, Family::V4), [100, 1200]));
            scope.spawn(|| exchange_udp(inner(&bed, 2, Family::V6), inner(&bed, 1, Family::V6), [100, 1200]));
        });
    }
}

/// Moves a piece of a stream, both ways.
fn stream(flow: &(std::net::TcpStream, std::net::TcpStream)) {
    let mut random = Random::new(3);
    exchange_over((&flow.0, &flow.1), &random.bytes(400_001), &random.bytes(400_003));
}

fn a_stream_survives_a_peer_that_moves(transport: &'static str) {
    for (outer, elsewhere, seen_at) in
        [(Family::V4, "192.0.2.102/24", "192.0.2.102:7777"), (Family::V6, "2001:db8::102/64", "[2001:db8::102]:7777")]
    {
        let (bed, mut ends) = pair(transport, outer, 2);
        ends[1].listen = format!("[::]:{PORT}");
        let places = places(&bed, &ends);
        let [one, _two] = places.each_ref().map(Place::start);
        let flow = connection(inner(&bed, 1, Family::V4), inner(&bed, 2, Family::V4));
        stream(&flow);
        thread::scope(|scope| {
            let moving = scope.spawn(|| {
                for _ in 0..8 {
                    stream(&flow);
                }
            });
            bed.host(2).move_to(elsewhere.parse().unwrap());
            moving.join().unwrap();
        });
        // It speaks from there, so that it is found.
        exchange_udp(inner(&bed, 2, Family::V4), inner(&bed, 1, Family::V4), [100]);
        wait_for("the new endpoint", || (endpoint(&one).as_deref() == Some(seen_at)).then_some(()));
        stream(&flow);
    }
}

/// Host 2 is a router that hides who is behind it, and forgets a flow that is silent for two seconds.
fn a_peer_behind_a_nat_is_reached_and_followed(transport: &'static str) {
    let bed = Bed::new(2);
    let (host, router) = (bed.host(1), bed.host(2));
    let hidden = Host { number: 3, namespace: router.container(), guard: Arc::clone(&router.guard) };
    let rules = "table ip hide { chain leaving { type nat hook postrouting priority 100; oifname under0 meta l4proto udp \
                 masquerade to :20000-29999 random; }; }";
    router.run("nft", &[rules]);
    for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        router.set(&["net", "netfilter", timeout], "2");
    }
    let [mut near, mut far] = Configuration::pair([host, &hidden], Family::V4, transport);
    near.peers[0].endpoint.clear();
    far.listen = format!("[::]:{PORT}");
    far.peers[0].keepalive = Some("1s");
    let (one, two) = (Place::new(host, &near), Place::new(&hidden, &far));
    let (one, _two) = (one.start(), two.start());
    let near = End::new(&host.namespace, host.inner(Family::V4));
    let far = End::new(&hidden.namespace, hidden.inner(Family::V4));
    // Nobody but the hidden peer can begin, and its keepalive makes it do so.
    let first = wait_for("the hidden peer", || endpoint(&one));
    assert!(first.starts_with("192.0.2.2:2"), "{first}");
    // Longer than the router remembers by itself.
    thread::sleep(Duration::from_secs(3));
    exchange_udp(near, far, [100]);
    let flow = connection(near, far);
    stream(&flow);
    // The router gets another address: its memory is gone, and both address and port of the peer change.
    thread::scope(|scope| {
        let moving = scope.spawn(|| {
            for _ in 0..8 {
                stream(&flow);
            }
        });
        router.move_to("192.0.2.102/24".parse().unwrap());
        moving.join().unwrap();
    });
    let moved = wait_for("the new endpoint", || endpoint(&one).filter(|now| now.starts_with("192.0.2.102:2")));
    assert_ne!(moved.rsplit(':').next(), first.rsplit(':').next(), "the port changes too");
    exchange_udp(near, far, [100]);
}

fn a_restarted_peer_is_back_at_once(transport: &'static str) {
    let (bed, ends) = pair(transport, Family::V4, 2);
    let places = places(&bed, &ends);
    let [one, two] = places.each_ref().map(Place::start);
    let flow = connection(inner(&bed, 1, Family::V4), inner(&bed, 2, Family::V4));
    stream(&flow);
    two.crash();
    let two = places[1].start();
    let begin = Instant::now();
    stream(&flow);
    // Much sooner than the timers of the one who was not restarted.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let states = [&one, &two].map(|daemon| daemon.status().peers.swap_remove(0));
    assert!(states.iter().all(|peer| peer.session == "up"), "{states:?}");
}

// ---- what is recorded ----------------------------------------------------------------------------------------------------------

/// An encrypted datagram as it was on the underlay.
#[derive(Clone)]
struct Recorded {
    header: VnetHdr,
    frame: Vec<u8>,
}

impl Recorded {
    /// One on its way to this host's daemon.
    fn new(header: VnetHdr, frame: &[u8], to: IpAddr) -> Option<Self> {
        let packet = IpPacket::parse(frame.get(14..)?).ok()?;
        let ours = packet.protocol() == protocol::UDP && packet.destination() == to;
        (ours && header.gso_type == 0 && step(packet.payload().get(8..)?).is_some())
            .then(|| Self { header, frame: frame.to_vec() })
    }

    /// The UDP payload: Ethernet, IPv4 and UDP headers are 42 bytes.
    fn datagram(&self) -> &[u8] {
        &self.frame[42..]
    }

    fn is(&self, step: Step) -> bool {
        self::step(self.datagram()) == Some(step)
    }
}

fn step(datagram: &[u8]) -> Option<Step> {
    match classify(datagram) {
        Message::Sealed(step, _) | Message::WireGuard(step, _) => Some(step),
        _ => None,
    }
}

/// Records what arrives at host 2's daemon while `traffic` goes on.
fn record(bed: &Bed, traffic: impl FnOnce()) -> Vec<Recorded> {
    let to = bed.host(2).underlay(Family::V4);
    let sniffer = Sniffer::open(&bed.host(2).namespace, "under0");
    let watch = sniffer.watch(move |captured, frame| Recorded::new(captured.vnet, frame, to));
    traffic();
    watch.collect()
}

/// Sends distinct datagrams from host 1 to host 2 within, one by one; `arrived` is asked after each.
fn count_up(sender: &UdpSocket, to: SocketAddr, numbers: std::ops::Range<u32>, mut arrived: impl FnMut(u32)) {
    for number in numbers {
        sender.send_to(&numbered(number), to).unwrap();
        arrived(number);
    }
}

fn numbered(number: u32) -> Vec<u8> {
    [&MARK[..], &number.to_be_bytes(), &[number as u8; 80]].concat()
}

/// The number in what was received.
fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[16..20].try_into().unwrap())
}

fn nothing_recorded_can_be_used_again(transport: &'static str) {
    let (bed, mut ends) = pair(transport, Family::V4, 3);
    // Only host 1 calls.
    ends[1].peers[0].endpoint.clear();
    let places = places(&bed, &ends);
    let two = places[1].start();
    let inside = Sniffer::open(&bed.host(2).namespace, "adit0");
    let inside = inside.watch(|_, bytes| contains(bytes, MARK).then(|| number(&bytes[28..])));
    let recorded = record(&bed, || {
        let _one = places[0].start();
        let (sender, receiver) = (inner(&bed, 1, Family::V4).udp(), inner(&bed, 2, Family::V4).udp());
        count_up(&sender, receiver.local_addr().unwrap(), 0..50, |sent| {
            let mut buffer = [0; 200];
            let (length, _) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], numbered(sent));
        });
        // Here it ends: what comes from now on is not its.
    });
    let count = |step| recorded.iter().filter(|one| one.is(step)).count();
    assert!(count(Step::Initiation) >= 1 && count(Step::Data) >= 50, "{}", recorded.len());

    let home = Some(at(bed.host(1).underlay(Family::V4), PORT).to_string());
    assert_eq!(endpoint(&two), home);
    let before = two.drops("replayed");
    let stranger = End::new(&bed.host(3).namespace, bed.host(3).underlay(Family::V4)).udp_on(PORT);
    let mut injector = Injector::open(&bed.host(1).namespace, "under0");
    for round in 1..=3 {
        // As it was, from the same address; and from another one.
        for one in &recorded {
            injector.send(&one.header, &one.frame).unwrap();
            stranger.send_to(one.datagram(), at(bed.host(2).underlay(Family::V4), PORT)).unwrap();
        }
        // Data, and the initiation: all of it is known.
        let expected = before + 2 * round * (count(Step::Data) + count(Step::Initiation)) as u64;
        wait_for("all to be dropped", || (two.drops("replayed") >= expected).then_some(()));
        assert_eq!(two.drops("replayed"), expected);
    }
    assert_eq!(endpoint(&two), home, "nobody has moved");
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv(&mut [0; 200]).is_err(), "nobody is answered");
    let mut arrivals = BTreeMap::new();
    inside.collect().into_iter().for_each(|number| *arrivals.entry(number).or_insert(0) += 1);
    assert_eq!(arrivals, (0..50).map(|number| (number, 1)).collect(), "each once");
}

fn nothing_that_was_changed_arrives(transport: &'static str) {
    let (bed, ends) = pair(transport, Family::V4, 3);
    let places = places(&bed, &ends);
    let [one, two] = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    let (sender, receiver) = (inner(&bed, 1, Family::V4).udp(), inner(&bed, 2, Family::V4).udp());
    let to = receiver.local_addr().unwrap();
    // Datagrams that are seen on the cable and never reach the daemon.
    bed.host(2).run(
        "nft",
        &["table netdev cut { chain arriving { type filter hook ingress device under0 priority 0; \
                              udp dport 7777 drop; }; }"],
    );
    let recorded: Vec<_> = {
        let sniffer = Sniffer::open(&bed.host(2).namespace, "under0");
        let address = bed.host(2).underlay(Family::V4);
        let watch = sniffer.watch(move |captured, frame| Recorded::new(captured.vnet, frame, address));
        // One by one: two that leave in one train are one frame on the cable.
        let mut sent = one.status().peers[0].tx_packets;
        count_up(&sender, to, 0..10, |_| {
            let more = || Some(one.status().peers[0].tx_packets).filter(|now| *now > sent);
            sent = wait_for("the datagram to leave", more);
        });
        let mut recorded = watch.collect();
        recorded.retain(|one| one.is(Step::Data) && one.datagram().len() >= 32 + 20 + 8 + 100);
        recorded
    };
    assert_eq!(recorded.len(), 10);
    bed.host(2).run("nft", &["delete table netdev cut"]);

    let home = endpoint(&two);
    let stranger = End::new(&bed.host(3).namespace, bed.host(3).underlay(Family::V4)).udp();
    let daemon = at(bed.host(2).underlay(Family::V4), PORT);
    let mut injector = Injector::open(&bed.host(1).namespace, "under0");
    let macs = (bed.host(1).mac(), bed.host(2).mac());
    let dropped = || two.status().drops.values().sum::<u64>();
    let (before, mut changed) = (dropped(), 0);
    let datagram = recorded[0].datagram();
    let length = datagram.len();
    // Every bit of the header, some of the rest; and every length.
    let bits = (0..16 * 8).chain((16 * 8..length * 8).step_by(53)).map(|bit| {
        let mut changed = datagram.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        changed
    });
    let cuts = (1..length).step_by(7).map(|length| datagram[..length].to_vec());
    let longer = [[datagram, &[0]].concat(), [datagram, datagram].concat()];
    // The lane, which is nobody's secret, is only for finding the right worker: it may be another one.
    let lane = transport == "sealed";
    for (number, bytes) in bits.chain(cuts).chain(longer).enumerate() {
        if lane && number / 8 == 4 && number % 8 < 4 {
            continue;
        }
        if number % 2 == 0 {
            stranger.send_to(&bytes, daemon).unwrap();
        } else {
            let from = at(bed.host(1).underlay(Family::V4), PORT);
            injector.send(&VnetHdr::NONE, &frame(macs, from, daemon, &bytes)).unwrap();
        }
        changed += 1;
    }
    wait_for("all to be dropped", || (dropped() >= before + changed).then_some(()));
    receiver.set_nonblocking(true).unwrap();
    assert!(receiver.recv(&mut [0; 200]).is_err(), "nothing that was changed arrives");
    assert_eq!(endpoint(&two), home);
    // Unchanged, however late and in whatever order, they do.
    receiver.set_nonblocking(false).unwrap();
    for one in recorded.iter().rev() {
        injector.send(&one.header, &one.frame).unwrap();
    }
    let mut arrived: Vec<_> = recorded
        .iter()
        .map(|_| {
            let mut buffer = [0; 200];
            receiver.recv_from(&mut buffer).unwrap();
            number(&buffer)
        })
        .collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..10).collect::<Vec<_>>());
}

fn an_old_initiation_changes_nothing(transport: &'static str) {
    let (bed, ends) = pair(transport, Family::V4, 3);
    let places = places(&bed, &ends);
    let two = places[1].start();
    let mut kept = None;
    let recorded = record(&bed, || {
        kept = Some(places[0].start());
        carries(&bed, 1, 2);
    });
    let one = kept.unwrap();
    let initiations: Vec<_> = recorded.iter().filter(|one| one.is(Step::Initiation)).cloned().collect();
    assert!(!initiations.is_empty());
    let flow = connection(inner(&bed, 1, Family::V4), inner(&bed, 2, Family::V4));
    // The one that restarts remembers none of the time stamps it saw.
    two.crash();
    let two = places[1].start();
    let stranger = End::new(&bed.host(3).namespace, bed.host(3).underlay(Family::V4)).udp_on(PORT);
    let mut injector = Injector::open(&bed.host(1).namespace, "under0");
    let again = || {
        initiations
            .iter()
            .for_each(|one| drop(stranger.send_to(one.datagram(), at(bed.host(2).underlay(Family::V4), PORT))))
    };
    again();
    initiations.iter().for_each(|one| injector.send(&one.header, &one.frame).unwrap());
    stream(&flow);
    again();
    stream(&flow);
    assert_eq!(endpoint(&two).as_deref(), Some("192.0.2.1:7777"));
    assert_eq!(endpoint(&one).as_deref(), Some("192.0.2.2:7777"));
    assert_eq!(two.status().peers[0].session, "up");
}
