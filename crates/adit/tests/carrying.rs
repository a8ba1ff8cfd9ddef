//! What a tunnel carries arrives as it was sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use bed::daemon::{Configuration, Daemon, PORT, Place};
use bed::packet::{Random, UdpPacket};
use bed::sniffer::{Injector, Sniffer};
use bed::traffic::{End, exchange_tcp, exchange_udp, receive_marked, send_marked};
use bed::{Bed, Family, Host, PATIENCE, at, await_address, over, wait_for};
use etherparse::PacketBuilder;
use linux::capture::Direction;
use linux::ping::Pinger;
use wire::ecn::Ecn;
use wire::vnet::VnetHdr;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

over! {
    plain: {
        tcp_and_udp_of_both_families_cross_an_ipv4_underlay
        tcp_and_udp_of_both_families_cross_an_ipv6_underlay
        a_side_without_offloads_understands_one_with_them
        two_sides_without_offloads_carry_the_same
        any_number_of_workers_carries_the_same
        busy_polling_carries_the_same
        many_flows_at_once_do_not_mix
        containers_of_two_hosts_reach_each_other
        of_three_hosts_the_longest_prefix_decides
        a_ping_comes_back
        pings_of_any_size_come_back
        congestion_marks_of_the_inner_header_survive
    }
}

over! {
    sealed: {
        tcp_and_udp_of_both_families_cross_an_ipv4_underlay
        tcp_and_udp_of_both_families_cross_an_ipv6_underlay
        a_side_without_offloads_understands_one_with_them
        two_sides_without_offloads_carry_the_same
        any_number_of_workers_carries_the_same
        busy_polling_carries_the_same
        many_flows_at_once_do_not_mix
        containers_of_two_hosts_reach_each_other
        of_three_hosts_the_longest_prefix_decides
        a_ping_comes_back
        pings_of_any_size_come_back
        congestion_marks_of_the_inner_header_survive
        a_congestion_mark_set_on_the_way_is_carried_inwards
    }
}

over! {
    wireguard: {
        tcp_and_udp_of_both_families_cross_an_ipv4_underlay
        tcp_and_udp_of_both_families_cross_an_ipv6_underlay
        a_side_without_offloads_understands_one_with_them
        any_number_of_workers_carries_the_same
        a_ping_comes_back
        pings_of_any_size_come_back
        congestion_marks_of_the_inner_header_survive
        a_congestion_mark_set_on_the_way_is_carried_inwards
    }
}

/// Two hosts, and a configuration of each.
fn pair(transport: &'static str, outer: Family, lines: [&str; 2]) -> (Bed, Place, Place) {
    let bed = Bed::new(2);
    let [one, two] = Configuration::pair([bed.host(1), bed.host(2)], outer, transport);
    let (a, b) = (Place::new(bed.host(1), &one.with(lines[0])), Place::new(bed.host(2), &two.with(lines[1])));
    (bed, a, b)
}

fn inner(host: &Host, family: Family) -> End<'_> {
    End::new(&host.namespace, host.inner(family))
}

/// Everything that sockets of two hosts exchange, both ways and in both families.
fn exchange_all(bed: &Bed) {
    let (one, two) = (bed.host(1), bed.host(2));
    for family in FAMILIES {
        let (a, b) = (inner(one, family), inner(two, family));
        exchange_tcp(a, b, 3_000_001, 2_345_677);
        exchange_tcp(b, a, 1, 65_537);
        exchange_udp(a, b, (1..1400).step_by(13));
        exchange_udp(b, a, [1390, 1399, 1400, 1401, 1415, 1424, 1444, 1453, 1500, 4000, 9001, 30_000]);
    }
}

fn tcp_and_udp_of_both_families_cross_an_ipv4_underlay(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, [""; 2]);
    let (_a, _b) = (a.start(), b.start());
    exchange_all(&bed);
}

fn tcp_and_udp_of_both_families_cross_an_ipv6_underlay(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V6, [""; 2]);
    let (_a, _b) = (a.start(), b.start());
    exchange_all(&bed);
}

fn a_side_without_offloads_understands_one_with_them(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, ["offload = false", ""]);
    let (_a, _b) = (a.start(), b.start());
    exchange_all(&bed);
}

fn two_sides_without_offloads_carry_the_same(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V6, ["offload = false"; 2]);
    let (_a, _b) = (a.start(), b.start());
    exchange_all(&bed);
}

fn any_number_of_workers_carries_the_same(transport: &'static str) {
    for (workers, others) in [(1, 4), (2, 2), (4, 1)] {
        let lines = [format!("workers = {workers}"), format!("workers = {others}")];
        let (bed, a, b) = pair(transport, Family::V4, lines.each_ref().map(String::as_str));
        let (a, _b) = (a.start(), b.start());
        assert_eq!(a.status().transport.workers, workers);
        exchange_all(&bed);
    }
}

fn busy_polling_carries_the_same(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, ["busy-poll = \"50us\""; 2]);
    let (_a, _b) = (a.start(), b.start());
    exchange_all(&bed);
}

fn many_flows_at_once_do_not_mix(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, ["workers = 2"; 2]);
    let (_a, _b) = (a.start(), b.start());
    thread::scope(|scope| {
        for i in 0..24 {
            let family = FAMILIES[i % 2];
            let (from, to) = if i % 3 == 0 { (2, 1) } else { (1, 2) };
            let (from, to) = (inner(bed.host(from), family), inner(bed.host(to), family));
            scope.spawn(move || exchange_tcp(from, to, 200_003 + i * 1009, 150_001 + i));
            if i % 4 == 0 {
                scope.spawn(move || exchange_udp(from, to, (1..1300).step_by(97)));
            }
        }
    });
}

/// Sends long datagrams until one arrives: senders behind a narrower link learn of it by a loss.
fn learn_path(from: End<'_>, to: End<'_>) {
    let (sender, receiver) = (from.udp(), to.udp());
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    wait_for("a long datagram", || {
        sender.send_to(&[1; 5000], receiver.local_addr().unwrap()).unwrap();
        receiver.recv_from(&mut [0; 5000]).ok()
    });
}

fn containers_of_two_hosts_reach_each_other(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, [""; 2]);
    let (_a, _b) = (a.start(), b.start());
    let (left, right) = (bed.host(1).container(), bed.host(2).container());
    for family in FAMILIES {
        let (from, to) =
            (End::new(&left, bed.host(1).behind(family, 2)), End::new(&right, bed.host(2).behind(family, 2)));
        exchange_tcp(from, to, 1_000_001, 999_999);
        exchange_udp(to, from, [1, 700, 1300]);
        learn_path(to, from);
        learn_path(from, to);
        exchange_udp(to, from, [1400, 5000]);
        // From the host itself, which has an address in the tunnel, into the other's container.
        exchange_tcp(inner(bed.host(1), family), to, 100_001, 7);
    }
}

fn of_three_hosts_the_longest_prefix_decides(transport: &'static str) {
    let bed = Bed::new(3);
    // 1 and 2, and 1 and 3, speak IPv4 outside; 2 and 3 speak IPv6.
    let configuration = |me: usize, four: usize, other: usize, outer| {
        let mut configuration = Configuration::new(bed.host(me), &[four], Family::V4);
        configuration.peers.extend(Configuration::new(bed.host(me), &[other], outer).peers);
        configuration.listen = format!("[::]:{PORT}");
        for peer in &mut configuration.peers {
            match peer.name.as_str() {
                // A part of host 2's networks lives behind host 3, which itself needs the rest only.
                "host3" => peer.allowed_ips.extend(["10.42.7.0/24".into(), "fd40:2:7::/48".into()]),
                "host2" if me == 3 => {
                    peer.allowed_ips.retain(|p| p != "10.42.0.0/16" && p != "fd40:2::/32");
                    peer.allowed_ips.extend(["10.42.8.0/24".into(), "fd40:2:8::/48".into()]);
                }
                _ => {}
            }
        }
        configuration
    };
    let mut ends =
        [configuration(1, 2, 3, Family::V4), configuration(2, 1, 3, Family::V6), configuration(3, 1, 2, Family::V6)];
    if transport != "plain" {
        ends = Configuration::with_keys(ends, transport);
    }
    let places: Vec<_> = bed.hosts.iter().zip(&ends).map(|(host, end)| Place::new(host, end)).collect();
    let daemons: Vec<Daemon<'_>> = places.iter().map(Place::start).collect();
    for family in FAMILIES {
        for (from, to) in [(1, 2), (2, 3), (3, 1)] {
            exchange_tcp(inner(bed.host(from), family), inner(bed.host(to), family), 100_003, 50_001);
        }
    }
    let sent = |peer: usize| daemons[0].status().peers[peer].tx_bytes;
    for (host, nets) in [(2, ["10.42.8.1/32", "fd40:2:8::1/128"]), (3, ["10.42.7.1/32", "fd40:2:7::1/128"])] {
        for (family, net) in FAMILIES.into_iter().zip(nets) {
            let net: ipnet::IpNet = net.parse().unwrap();
            bed.host(host).netlink().add_address(1, net, true).unwrap();
            let before = [sent(0), sent(1)];
            exchange_udp(inner(bed.host(1), family), End::new(&bed.host(host).namespace, net.addr()), [100, 1300]);
            // The last words of TCP connections may still come, and are shorter.
            let through = host - 2;
            wait_for("the counter of the right peer", || (sent(through) >= before[through] + 1400).then_some(()));
            assert!(sent(1 - through) < before[1 - through] + 1300, "{net} is not behind the other");
        }
    }
}

fn a_ping_comes_back(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, [""; 2]);
    let (a, _b) = (a.start(), b.start());
    let IpAddr::V4(far) = bed.host(2).inner(Family::V4) else { unreachable!("IPv4") };
    let mut pinger = bed.host(1).namespace.run(|| Pinger::open(far, 7)).unwrap().unwrap();
    for _ in 0..10 {
        let time = pinger.round_trip(PATIENCE).unwrap().expect("an answer");
        assert!(time < Duration::from_secs(1), "{time:?}");
    }
    // A worker counts a packet after it has handed it over.
    wait_for("the counters", || {
        let peer = &a.status().peers[0];
        let counters = [peer.tx_packets, peer.rx_packets, peer.tx_bytes, peer.rx_bytes];
        (counters == [10, 10, 840, 840]).then_some(())
    });
}

fn pings_of_any_size_come_back(transport: &'static str) {
    let (bed, a, b) = pair(transport, Family::V4, [""; 2]);
    let (_a, _b) = (a.start(), b.start());
    let mut random = Random::new(4);
    let mut injector = Injector::open(&bed.host(1).namespace, "adit0");
    let mut sniffer = Sniffer::open(&bed.host(1).namespace, "adit0");
    let [(IpAddr::V4(near), IpAddr::V4(far)), (IpAddr::V6(near6), IpAddr::V6(far6))] =
        FAMILIES.map(|family| (bed.host(1).inner(family), bed.host(2).inner(family)))
    else {
        unreachable!("one of each family")
    };
    await_address(&bed.host(2).namespace, far6.into());
    await_address(&bed.host(1).namespace, near6.into());
    let longest = 1500 - Family::V4.overhead(transport) as usize;
    for (sequence, size) in [16, 17, 56, 1000, 1001, longest - 48, longest - 28].into_iter().enumerate() {
        let payload = random.bytes(size);
        let mut requests = [Vec::new(), Vec::new()];
        let four = PacketBuilder::ipv4(near.octets(), far.octets(), 64).icmpv4_echo_request(7, sequence as u16);
        four.write(&mut requests[0], &payload).unwrap();
        let six = PacketBuilder::ipv6(near6.octets(), far6.octets(), 64).icmpv6_echo_request(7, sequence as u16);
        // The largest only fits without the 20 bytes more.
        let payload6 = &payload[..size.min(longest - 48)];
        six.write(&mut requests[1], payload6).unwrap();
        for (request, payload) in requests.iter().zip([&payload[..], payload6]) {
            injector.send(&VnetHdr::NONE, request).unwrap();
            sniffer.find("an answer", |captured, bytes| {
                let answer = captured.direction != Direction::Outgoing && bytes.ends_with(payload);
                (answer && bytes.len() == request.len()).then_some(())
            });
        }
    }
}

fn congestion_marks_of_the_inner_header_survive(transport: &'static str) {
    for outer in FAMILIES {
        let (bed, a, b) = pair(transport, outer, [""; 2]);
        let (_a, _b) = (a.start(), b.start());
        for family in FAMILIES {
            let from = inner(bed.host(1), family).marked_udp(0);
            let to = inner(bed.host(2), family).marked_udp(0);
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                send_marked(&from, to.local_address(), ecn, b"marked");
                assert_eq!(
                    receive_marked(&to),
                    (from.local_address(), ecn, b"marked".to_vec()),
                    "{family:?} in {outer:?}"
                );
            }
        }
    }
}

#[test]
fn a_congestion_mark_of_the_outer_header_is_carried_inwards() {
    for outer in FAMILIES {
        let bed = Bed::new(2);
        let (one, two) = (bed.host(1), bed.host(2));
        let place = Place::new(one, &Configuration::new(one, &[2], outer));
        let daemon = place.start();
        // In the place of the other daemon: it writes the outer header itself.
        let wire = End::new(&two.namespace, two.underlay(outer)).marked_udp(PORT);
        let to = at(one.underlay(outer), PORT);
        for family in FAMILIES {
            let socket = inner(one, family).marked_udp(9000);
            let source = (two.inner(family), 4000);
            let packet = |ecn| UdpPacket { ecn, ..UdpPacket::new(source, (one.inner(family), 9000), b"inner") }.bytes();
            // Outer, inner, what arrives (RFC 6040, figure 4).
            for (outside, inside, expected) in [
                (Ecn::NotEct, Ecn::NotEct, Ecn::NotEct),
                (Ecn::NotEct, Ecn::Ce, Ecn::Ce),
                (Ecn::Ect0, Ecn::NotEct, Ecn::NotEct),
                (Ecn::Ect0, Ecn::Ect1, Ecn::Ect1),
                (Ecn::Ect1, Ecn::Ect0, Ecn::Ect1),
                (Ecn::Ce, Ecn::Ect0, Ecn::Ce),
                (Ecn::Ce, Ecn::Ect1, Ecn::Ce),
                (Ecn::Ce, Ecn::Ce, Ecn::Ce),
            ] {
                send_marked(&wire, to, outside, &packet(inside));
                let arrived = receive_marked(&socket);
                assert_eq!(arrived, (source.into(), expected, b"inner".to_vec()), "{outside:?} around {inside:?}");
            }
            // A transport that does not understand marks understands loss.
            let before = daemon.drops("congestion");
            send_marked(&wire, to, Ecn::Ce, &packet(Ecn::NotEct));
            daemon.await_drops("congestion", before + 1);
        }
    }
}

/// Here the mark is set where a router would: on the way.
fn a_congestion_mark_set_on_the_way_is_carried_inwards(transport: &'static str) {
    for outer in FAMILIES {
        let (bed, a, b) = pair(transport, outer, [""; 2]);
        let (_a, b) = (a.start(), b.start());
        // A session first, so that what is marked is data.
        exchange_udp(inner(bed.host(1), Family::V4), inner(bed.host(2), Family::V4), [100]);
        let header = if outer == Family::V4 { "ip" } else { "ip6" };
        let rules = format!(
            "table netdev congestion {{ chain arriving {{ type filter hook ingress device under0 priority 0; {header} ecn != ce \
             udp dport {PORT} {header} ecn set ce; }}; }}"
        );
        bed.host(2).run("nft", &[&rules]);
        for family in FAMILIES {
            let from = inner(bed.host(1), family).marked_udp(0);
            let to = inner(bed.host(2), family).marked_udp(0);
            for ecn in [Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                send_marked(&from, to.local_address(), ecn, b"marked on the way");
                let expected = (from.local_address(), Ecn::Ce, b"marked on the way".to_vec());
                assert_eq!(receive_marked(&to), expected, "{family:?} in {outer:?}, sent with {ecn:?}");
            }
            let before = b.drops("congestion");
            send_marked(&from, to.local_address(), Ecn::NotEct, b"cannot be marked");
            wait_for("the packet to be dropped", || (b.drops("congestion") > before).then_some(()));
        }
    }
}
