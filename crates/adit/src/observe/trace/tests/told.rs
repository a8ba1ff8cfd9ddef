//! Ways that are known: their order, their crossings, their sums, and how they are drawn.

use super::super::clocks::Clock;
use super::super::drawing::drawing;
use super::super::journey::{Fate, Journey, Leg, Way};
use super::super::json::json;
use super::super::observation::*;
use super::super::svg::svg;
use super::super::testing::{self, report, trace};
use super::super::words;

/// Compares with a text that a person has read.
fn same(text: &str, golden: &str) {
    assert!(text.trim_end() == golden.trim_end(), "what is drawn now:\n{text}\n");
}

fn places(journey: &Journey, leg: &Leg) -> Vec<String> {
    leg.hops.iter().map(|hop| format!("{} {}", journey.host(hop), words::place(&hop.place))).collect()
}

const WAY: [&str; 14] = [
    "berlin veth-web",
    "berlin adit-br0",
    "berlin adit0",
    "berlin worker-0 read",
    "berlin worker-0 sealed",
    "berlin worker-0 sent",
    "berlin eth0",
    "paris eth0",
    "paris worker-0 received",
    "paris worker-0 opened",
    "paris worker-0 written",
    "paris adit0",
    "paris adit-br0",
    "paris veth-app",
];

#[test]
fn hops_come_in_the_order_of_the_way_in_whatever_order_they_were_told() {
    let mut seen = testing::way();
    seen.reverse();
    seen.swap(2, 9);
    let journey = Journey::of(&trace(seen, Some(91_000)));
    let leg = &journey.probes[0].legs[0];
    assert_eq!(places(&journey, leg), WAY);
    assert_eq!(journey.hosts[1].clock, Clock::Measured { uncertainty: 8_000 });
    assert_eq!((leg.totals.took, leg.totals.crossings, leg.totals.crossings_seen), (40_000, 4, 4));
    let calls: Vec<_> = leg.crossings.iter().map(|crossing| (crossing.call, crossing.into_kernel)).collect();
    assert_eq!(calls, [("read()", false), ("sendmsg()", true), ("recvmsg()", false), ("write()", true)]);
    assert_eq!(leg.totals.copies_by_model, 4);
}

#[test]
fn a_clock_within_its_uncertainty_is_moved_until_nothing_arrives_before_it_was_sent() {
    let behind = |by: i64| {
        let mut seen = testing::way();
        for observation in seen.iter_mut().filter(|observation| observation.host == "paris") {
            observation.at -= by;
        }
        Journey::of(&trace(seen, Some(91_000)))
    };
    // It arrived at 22, and was sent at 20: 5 µs behind it would have arrived before.
    let journey = behind(5_000);
    assert_eq!(journey.hosts[1].clock, Clock::Repaired { by: 3_000, uncertainty: 8_000 });
    assert_eq!(places(&journey, &journey.probes[0].legs[0]), WAY);
    assert_eq!(journey.probes[0].legs[0].hops[7].since, Some(0));
    let journey = behind(500_000);
    assert_eq!(journey.hosts[1].clock, Clock::Contradicted { by: 498_000, uncertainty: 8_000 });
    assert_eq!(places(&journey, &journey.probes[0].legs[0]), WAY);
    assert_eq!(journey.probes[0].legs[0].hops[7].doubt, None);
}

#[test]
fn a_worker_that_stamps_a_whole_batch_moves_no_clock() {
    let mut seen = testing::way();
    // It noted that it had sent long after it had, and that it had received before it could.
    seen[5].at += 300_000;
    seen[8].at -= 300_000;
    let journey = Journey::of(&trace(seen, Some(91_000)));
    assert_eq!(journey.hosts[1].clock, Clock::Measured { uncertainty: 8_000 });
    assert_eq!(places(&journey, &journey.probes[0].legs[0]), WAY);
}

#[test]
fn without_a_measured_clock_datagrams_both_ways_tell() {
    let mut seen = testing::way();
    let mut answer = vec![
        testing::at("paris", 60, testing::card("eth0", true)),
        testing::at("berlin", 64, testing::card("eth0", false)),
    ];
    for observation in &mut answer {
        testing::seal(observation, 700, 84);
    }
    let mut sealed = testing::at("paris", 58, testing::worker(Step::Sealed));
    sealed.head = testing::packet(testing::DESTINATION, testing::SOURCE, 63);
    testing::seal(&mut sealed, 700, 84);
    seen.extend(answer);
    seen.push(sealed);
    let hour = 3_600_000_000_000;
    for observation in seen.iter_mut().filter(|observation| observation.host == "paris") {
        observation.at += hour;
    }
    let mut trace = trace(seen, Some(91_000));
    trace.reports[1] = report("paris", None);
    let journey = Journey::of(&trace);
    // There it took 2 µs and back 4 by the true clock; each way may have taken from nothing to all of them.
    assert_eq!(journey.hosts[1].clock, Clock::Inferred { uncertainty: Some(3_000) });
    assert_eq!(journey.hosts[1].shift, 1_000 - hour);
    let probe = &journey.probes[0];
    assert_eq!(places(&journey, &probe.legs[0]), WAY);
    assert_eq!((probe.legs[1].way, probe.legs[1].hops.len()), (Way::Back, 3));
}

#[test]
fn what_stands_for_many_packets_is_one_hop_and_crosses_once() {
    let journey = Journey::of(&trace(testing::super_packet(), Some(91_000)));
    let leg = &journey.probes[0].legs[0];
    assert_eq!(places(&journey, leg), WAY);
    assert!(leg.hops.iter().all(|hop| hop.packets == 46));
    assert_eq!(leg.hops.iter().map(|hop| hop.pieces).collect::<Vec<_>>(), [1, 1, 1, 1, 46, 1, 1, 1, 1, 46, 1, 1, 1, 1]);
    assert_eq!((leg.totals.crossings, leg.totals.classic.crossings, leg.totals.classic.packets), (4, 184, 46));
}

#[test]
fn a_host_in_the_middle_is_passed_up_and_down() {
    let mut trace = trace(testing::by_rome(), Some(91_000));
    trace.reports.push(report("rome", Some((0, 1_000))));
    let journey = Journey::of(&trace);
    let leg = &journey.probes[0].legs[0];
    let mut way: Vec<String> = WAY.map(String::from).into();
    let rome = [
        "eth0",
        "worker-0 received",
        "worker-0 opened",
        "worker-0 written",
        "adit0",
        "adit0",
        "worker-0 read",
        "worker-0 sealed",
        "worker-0 sent",
        "eth0",
    ];
    way.splice(7..7, rome.map(|place| format!("rome {place}")));
    assert_eq!(places(&journey, leg), way);
    assert_eq!(leg.totals.crossings, 8);
    let drawing = drawing(&journey, 160);
    assert!(drawing.contains("┌─ rome ▲") && drawing.contains("┌─ rome ▼"), "{drawing}");
    assert!(super::super::drawing::drawing(&journey, 80).contains("goes on with hop 13:"));
}

#[test]
fn a_loop_is_told_pass_by_pass() {
    let mut seen = Vec::new();
    for (ttl, at) in [(64, 0), (63, 10), (62, 20)] {
        for (place, after) in [(testing::tun("adit0", true), 0), (testing::tun("adit0", false), 5)] {
            let mut observation = testing::at("berlin", at + after, place);
            observation.head = testing::packet(testing::SOURCE, testing::DESTINATION, ttl);
            seen.push(observation);
        }
    }
    let journey = Journey::of(&trace(seen, None));
    let ttls: Vec<_> = journey.probes[0].hops().filter_map(|hop| hop.ttl).collect();
    assert_eq!(ttls, [64, 64, 63, 63, 62, 62]);
}

#[test]
fn crossings_that_nobody_saw_are_inferred_and_said_to_be() {
    let seen: Vec<_> = testing::way().into_iter().filter(|seen| matches!(seen.place, Place::Device { .. })).collect();
    let mut seen: Vec<_> = seen;
    for observation in &mut seen {
        observation.probe = 0;
    }
    let journey = Journey::of(&trace(seen, Some(91_000)));
    let totals = &journey.probes[0].legs[0].totals;
    assert_eq!((totals.crossings, totals.crossings_seen), (4, 0));
    assert!(drawing(&journey, 100).contains("4 crossings (0 seen, the others inferred)"));
}

#[test]
fn other_traffic_of_the_tunnel_is_no_hop() {
    let mut seen = testing::way();
    let mut stranger = testing::at("berlin", 19, testing::card("eth0", true));
    testing::seal(&mut stranger, 8, 84);
    seen.push(stranger);
    let journey = Journey::of(&trace(seen, Some(91_000)));
    assert_eq!((journey.strays, journey.probes[0].legs[0].hops.len()), (1, 14));
}

#[test]
fn two_hosts_and_a_super_packet_are_drawn_as_a_person_wants_to_see_them() {
    let mut trace = trace(testing::super_packet(), Some(91_000));
    trace.protocol = Protocol::Tcp;
    trace.sizes = vec![62_048];
    same(&drawing(&Journey::of(&trace), 100), include_str!("../golden/super-packet.txt"));
}

/// The second probe is dropped by a firewall of paris, when it comes from the tunnel.
fn dropped() -> Trace {
    let mut second: Vec<_> = testing::way().into_iter().take(12).collect();
    for observation in &mut second {
        observation.at += 1_000_000;
        if observation.outer.is_some() {
            let known = observation.probe;
            testing::seal(observation, 10, 84);
            observation.probe = known;
        }
        if observation.probe == 0 {
            observation.probe = 1;
        }
    }
    let mut trace = trace(testing::way().into_iter().chain(second).collect(), Some(91_000));
    trace.sizes.push(84);
    trace.answered.push(None);
    let rule = Fact::Firewall { table: "inet filter".into(), chain: "forward".into(), handle: 12 };
    trace.reports[1].facts.push(rule);
    trace.reports[1].counters.insert("nft:inet filter forward 12".into(), 1);
    trace
}

#[test]
fn a_death_by_a_firewall_is_drawn_where_it_happened() {
    same(&drawing(&Journey::of(&dropped()), 100), include_str!("../golden/firewall.txt"));
}

#[test]
fn the_figure_shows_all_of_it_and_needs_nothing_else() {
    let figure = svg(&Journey::of(&dropped()));
    for text in
        ["veth-web", "paris", "last seen here", "read() kernel → user", "<title", "<desc", "prefers-color-scheme: dark"]
    {
        assert!(figure.contains(text), "{text}");
    }
    let links = figure.replace("http://www.w3.org/2000/svg", "");
    for reference in ["href", "http", "url(http", "@import", "<script", "<image"] {
        assert!(!links.contains(reference), "{reference}");
    }
}

#[test]
fn programs_are_told_by_the_names_that_are_described() {
    let json = json(&Journey::of(&dropped()));
    let keys = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&json), ["destination", "from", "hosts", "probes", "protocol", "strays", "version"]);
    assert_eq!(keys(&json["hosts"][1]), ["clock", "lost_records", "name", "permitted", "unseen"]);
    assert_eq!(keys(&json["hosts"][1]["clock"]), ["added_ns", "kind", "moved_ns", "uncertainty_ns"]);
    let probe = &json["probes"][1];
    assert_eq!(keys(probe), ["answered_ns", "legs", "lost", "number", "size"]);
    assert_eq!(
        keys(&probe["lost"]),
        ["candidates", "cause", "certainty", "evidence", "last_hop", "remedy", "sentence", "way"]
    );
    assert_eq!(keys(&probe["legs"][0]), ["crossings", "hops", "totals", "way"]);
    let hop = &probe["legs"][0]["hops"][6];
    let of_hop = [
        "at_ns",
        "bytes",
        "checksum",
        "headers",
        "host",
        "number",
        "packets",
        "pieces",
        "place",
        "sealed",
        "segment_size",
        "since_ns",
        "since_uncertainty_ns",
        "size",
        "ttl",
    ];
    assert_eq!(keys(hop), of_hop);
    assert_eq!(keys(&hop["place"]), ["device", "direction", "index", "kind", "layer"]);
    assert_eq!(keys(&probe["legs"][0]["hops"][4]["place"]), ["step", "worker"]);
    assert_eq!(
        keys(&probe["legs"][0]["crossings"][0]),
        ["after_hop", "before_hop", "call", "calls", "host", "into", "packets", "seen"]
    );
    assert_eq!(
        keys(&probe["legs"][0]["totals"]),
        ["classic", "copies_by_model", "crossings", "crossings_seen", "pieces", "took_ns"]
    );
    assert_eq!((probe["lost"]["cause"].as_str(), probe["lost"]["last_hop"].as_u64()), (Some("firewall"), Some(12)));
    let crossing = &probe["legs"][0]["crossings"][1];
    assert_eq!((crossing["after_hop"].as_u64(), crossing["before_hop"].as_u64()), (Some(6), Some(7)));
}

#[test]
fn a_lost_answer_is_told_as_such() {
    let mut seen = testing::way();
    let mut answer = testing::at("paris", 50, testing::veth("veth-app", false));
    answer.head = testing::frame(&testing::packet(testing::DESTINATION, testing::SOURCE, 64));
    seen.push(answer);
    let journey = Journey::of(&trace(seen, None));
    let Fate::Lost(death) = &journey.probes[0].fate else { panic!("it was lost") };
    assert_eq!((death.way, death.last), (Way::Back, Some(15)));
    assert!(
        death.reason.sentence.starts_with("It arrived, and its answer was last seen on paris"),
        "{}",
        death.reason.sentence
    );
    assert!(drawing(&journey, 100).contains("its answer was lost"));
}
