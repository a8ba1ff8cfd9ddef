//! A table of deaths: how far a probe came, what hosts report, and what must be said.

use std::net::IpAddr;

use super::super::journey::{Fate, Journey};
use super::super::observation::*;
use super::super::reason::{Cause, Certainty, Reason};
use super::super::report;
use super::super::testing::{self, trace};

/// What berlin and paris report of a probe that was seen at the first places of its way.
struct Case<'c> {
    places: usize,
    berlin: (&'c [&'c str], Vec<Fact>),
    paris: (&'c [&'c str], Vec<Fact>),
}

const NOTHING: &[&str] = &[];

fn reason_in(case: Case<'_>, change: impl FnOnce(&mut Trace)) -> Reason {
    let mut trace = trace(testing::way().into_iter().take(case.places).collect(), None);
    for (report, (counters, facts)) in trace.reports.iter_mut().zip([case.berlin, case.paris]) {
        report.counters = counters.iter().map(|counter| ((*counter).to_owned(), 1)).collect();
        report.facts = facts;
    }
    change(&mut trace);
    let journey = Journey::of(&trace);
    match journey.probes.into_iter().find(|probe| matches!(probe.fate, Fate::Lost(_))).map(|probe| probe.fate) {
        Some(Fate::Lost(death)) => death.reason,
        _ => panic!("it was lost"),
    }
}

fn at_berlin(places: usize, counters: &[&str], facts: Vec<Fact>) -> Reason {
    reason_in(Case { places, berlin: (counters, facts), paris: (NOTHING, Vec::new()) }, |_| {})
}

fn at_paris(places: usize, counters: &[&str], facts: Vec<Fact>) -> Reason {
    reason_in(Case { places, berlin: (NOTHING, Vec::new()), paris: (counters, facts) }, |_| {})
}

/// What is said, and how sure it is.
#[track_caller]
fn says(reason: &Reason, cause: Cause, certainty: Certainty, words: &[&str]) {
    assert_eq!((reason.cause, reason.certainty), (cause, certainty), "{reason:?}");
    for word in words {
        assert!(reason.sentence.contains(word), "{}", reason.sentence);
    }
    assert_eq!(reason.evidence.is_empty(), cause == Cause::NotKnown && reason.candidates.is_empty(), "{reason:?}");
}

fn icmp(kind: IcmpKind, mtu: Option<u32>) -> Vec<Fact> {
    vec![Fact::Icmp { from: [192, 0, 2, 9].into(), kind, mtu }]
}

const DESTINATION: IpAddr = IpAddr::V4(testing::DESTINATION);

#[test]
fn a_firewall_is_named_with_its_rule() {
    let rule = || vec![Fact::Firewall { table: "inet filter".into(), chain: "forward".into(), handle: 12 }];
    let words = ["on berlin, coming from bridge adit-br0", "rule 12 in chain forward of table inet filter"];
    let reason = at_berlin(2, NOTHING, rule());
    says(&reason, Cause::Firewall, Certainty::Said, &words);
    assert_eq!(reason.remedy.as_deref(), Some("on berlin: nft -a list chain inet filter forward"));
    says(&at_paris(12, NOTHING, rule()), Cause::Firewall, Certainty::Said, &["on paris, coming from TUN device adit0"]);
    says(&at_paris(8, NOTHING, rule()), Cause::Firewall, Certainty::Said, &["on paris, coming from card eth0"]);
    says(&at_berlin(6, NOTHING, rule()), Cause::Firewall, Certainty::Said, &["given to the socket"]);
    says(
        &at_paris(12, &["nft:inet filter input 3"], Vec::new()),
        Cause::Firewall,
        Certainty::Likely,
        &["a firewall of paris"],
    );
    let forbidden = icmp(IcmpKind::Prohibited, None);
    says(&at_berlin(7, NOTHING, forbidden), Cause::Firewall, Certainty::Said, &["192.0.2.9 answered"]);
}

#[test]
fn no_command_is_made_of_a_name_that_would_be_more_than_a_name() {
    let rule = Fact::Firewall { table: "inet filter".into(), chain: "x; reboot".into(), handle: 12 };
    let reason = at_berlin(2, NOTHING, vec![rule]);
    says(&reason, Cause::Firewall, Certainty::Said, &[]);
    assert_eq!(reason.remedy, None);
}

#[test]
fn a_host_that_did_not_look_is_blamed_for_nothing() {
    let unseen = |places, why: Unseen, facts: Vec<Fact>| {
        reason_in(Case { places, berlin: (NOTHING, facts), paris: (NOTHING, Vec::new()) }, |trace| {
            trace.reports[1].unseen = Some(why);
        })
    };
    let often = || Unseen::Often { times: 12 };
    let words = [
        "last seen on berlin, going to card eth0: why it went no further is not known: paris was not seen",
        "it permits 12 traces a minute",
        "try again in a minute",
    ];
    says(&unseen(7, often(), Vec::new()), Cause::NotKnown, Certainty::NotKnown, &words);
    says(&unseen(7, Unseen::Busy, Vec::new()), Cause::NotKnown, Certainty::NotKnown, &["busy", "in ten seconds"]);
    // What is known otherwise is said as ever; and where it ended here, nobody else had to look.
    let down = || vec![Fact::PeerDown { peer: "paris".into(), problem: "it does not answer".into() }];
    says(&unseen(7, often(), down()), Cause::PeerDown, Certainty::Likely, &["paris does not answer berlin"]);
    let missing = vec![Fact::NoRoute { to: DESTINATION }];
    says(&unseen(2, often(), missing), Cause::NoRoute, Certainty::Likely, &["berlin has no route"]);
    // One that is further away than it came to has nothing to do with it.
    let beyond = reason_in(Case { places: 7, berlin: (NOTHING, Vec::new()), paris: (NOTHING, Vec::new()) }, |trace| {
        trace.reports.push(HostReport { unseen: Some(often()), ..testing::report("rome", None) });
    });
    says(&beyond, Cause::NotKnown, Certainty::NotKnown, &["did not come to paris"]);
}

#[test]
fn a_missing_route_is_named() {
    let missing = vec![Fact::NoRoute { to: DESTINATION }];
    let reason = at_berlin(2, &["ip:InNoRoutes"], missing.clone());
    says(&reason, Cause::NoRoute, Certainty::Likely, &["berlin has no route to 10.42.2.2"]);
    assert_eq!(reason.remedy.as_deref(), Some("on berlin: ip route get 10.42.2.2"));
    says(&at_berlin(2, NOTHING, missing.clone()), Cause::NoRoute, Certainty::Likely, &["no route"]);
    says(&at_paris(12, &["ip:OutNoRoutes"], Vec::new()), Cause::NoRoute, Certainty::Likely, &["paris has no route"]);
    says(
        &at_berlin(4, &["adit:no_route"], Vec::new()),
        Cause::NoRoute,
        Certainty::Likely,
        &["no peer of berlin has 10.42.2.2"],
    );
    // The daemon answers in the name of the destination, which is no person.
    let answered = vec![Fact::Icmp { from: DESTINATION, kind: IcmpKind::NoRoute, mtu: None }];
    let reason = at_berlin(4, &["adit:no_route"], answered);
    says(&reason, Cause::NoRoute, Certainty::Said, &["no peer of berlin has 10.42.2.2"]);
    says(&at_berlin(7, NOTHING, icmp(IcmpKind::NoRoute, None)), Cause::NoRoute, Certainty::Said, &["192.0.2.9"]);
    // Where it was not in the stack, it did not die of a route.
    says(&at_paris(9, NOTHING, missing), Cause::NotKnown, Certainty::NotKnown, &["not known"]);
}

#[test]
fn the_check_of_source_addresses_is_named_where_it_counted() {
    let strict = vec![Fact::RpFilter { device: "adit0".into(), value: 1 }];
    let reason = at_paris(12, &["tcpext:IPReversePathFilter"], strict.clone());
    says(&reason, Cause::RpFilter, Certainty::Likely, &["on paris", "by adit0 (rp_filter)"]);
    assert_eq!(reason.remedy.as_deref(), Some("on paris: sysctl -w net.ipv4.conf.adit0.rp_filter=2"));
    // Strict is the default of many systems, and no evidence by itself.
    says(&at_paris(12, NOTHING, strict), Cause::NotKnown, Certainty::NotKnown, &["not known"]);
}

#[test]
fn forwarding_that_is_off_is_named() {
    let off = || vec![Fact::Forwarding { family: 4, on: false }];
    let reason = at_paris(12, NOTHING, off());
    says(&reason, Cause::ForwardingOff, Certainty::Possible, &["Possibly paris does not forward IPv4"]);
    assert_eq!(reason.remedy.as_deref(), Some("on paris: sysctl -w net.ipv4.ip_forward=1"));
    says(&at_paris(12, &["ip:InAddrErrors"], off()), Cause::ForwardingOff, Certainty::Likely, &[]);
    let other = vec![Fact::Forwarding { family: 6, on: false }];
    says(&at_paris(12, NOTHING, other), Cause::NotKnown, Certainty::NotKnown, &[]);
}

#[test]
fn counters_of_the_other_family_explain_nothing() {
    for counter in ["ip6:OutNoRoutes", "ip6:InNoRoutes", "ip6:FragFails", "ip6:InTooBigErrors", "udp6:InCsumErrors"] {
        says(&at_berlin(2, &[counter], Vec::new()), Cause::NotKnown, Certainty::NotKnown, &["not known"]);
        says(&at_paris(12, &[counter], Vec::new()), Cause::NotKnown, Certainty::NotKnown, &["not known"]);
    }
    // A datagram of the underlay has a family of its own.
    says(&at_paris(8, &["udp6:InCsumErrors"], Vec::new()), Cause::NotKnown, Certainty::NotKnown, &["not known"]);
    says(&at_paris(8, &["udp:InCsumErrors"], Vec::new()), Cause::Checksum, Certainty::Likely, &["checksum"]);
    let of_v6 = |counter: &'static str| {
        reason_in(Case { places: 2, berlin: (&[counter], Vec::new()), paris: (NOTHING, Vec::new()) }, |trace| {
            trace.destination = "fd77::2".parse().unwrap();
        })
    };
    says(&of_v6("ip:OutNoRoutes"), Cause::NotKnown, Certainty::NotKnown, &["not known"]);
    says(&of_v6("ip6:OutNoRoutes"), Cause::NoRoute, Certainty::Likely, &["berlin has no route"]);
}

#[test]
fn a_port_that_it_does_not_fit_is_named() {
    let takes = |device: &str, mtu| Fact::Mtu { device: device.into(), mtu };
    let narrow = at_paris(13, NOTHING, vec![takes("adit-br0", 1440), takes("ad0123456789ab", 60)]);
    let words = ["its 84 bytes did not fit: ad0123456789ab, by which paris sends it on, takes 60 bytes"];
    says(&narrow, Cause::TooBig, Certainty::Likely, &words);
    // Where it was seen, it fits.
    let passed = at_paris(13, NOTHING, vec![takes("adit-br0", 1440), takes("ad0123456789ab", 84)]);
    says(&passed, Cause::NotKnown, Certainty::NotKnown, &["not known"]);
}

#[test]
fn what_does_not_fit_is_named_with_what_would() {
    says(
        &at_berlin(7, NOTHING, icmp(IcmpKind::TooBig, Some(80))),
        Cause::TooBig,
        Certainty::Said,
        &["80 bytes would fit"],
    );
    let way = vec![Fact::PathMtu { peer: "paris".into(), mtu: 60 }];
    says(
        &at_berlin(4, &["adit:too_big"], way.clone()),
        Cause::TooBig,
        Certainty::Likely,
        &["84 bytes", "takes 60 bytes"],
    );
    says(&at_berlin(7, NOTHING, way), Cause::TooBig, Certainty::Possible, &["from berlin to paris takes 60 bytes"]);
    says(&at_berlin(2, &["ip:FragFails"], Vec::new()), Cause::TooBig, Certainty::Likely, &[]);
    let wide = vec![Fact::PathMtu { peer: "paris".into(), mtu: 1400 }];
    says(&at_berlin(7, NOTHING, wide), Cause::NotKnown, Certainty::NotKnown, &["did not come to paris"]);
    // A message about a larger packet is not about this one.
    let larger = icmp(IcmpKind::TooBig, Some(1400));
    says(&at_berlin(7, NOTHING, larger), Cause::NotKnown, Certainty::NotKnown, &[]);
}

#[test]
fn a_black_hole_is_known_by_what_fits_through_it() {
    let silent = || Case { places: 7, berlin: (NOTHING, Vec::new()), paris: (NOTHING, Vec::new()) };
    let hole = |answered: u32, lost: u32| {
        reason_in(silent(), |trace| {
            trace.sizes = vec![lost, answered];
            trace.answered = vec![None, Some(90_000)];
        })
    };
    let words = ["1472 bytes", "an MTU black hole", "behind berlin"];
    says(&hole(1400, 1472), Cause::TooBig, Certainty::Likely, &words);
    // Where a larger one came through, it was not the size.
    says(&hole(1472, 1400), Cause::NotKnown, Certainty::NotKnown, &[]);
}

#[test]
fn a_peer_that_is_down_is_named() {
    let down = || vec![Fact::PeerDown { peer: "paris".into(), problem: "no answer for 12 s".into() }];
    says(
        &at_berlin(4, &["adit:no_session"], down()),
        Cause::PeerDown,
        Certainty::Likely,
        &["paris does not answer berlin"],
    );
    let reason = at_berlin(7, NOTHING, down());
    says(&reason, Cause::PeerDown, Certainty::Likely, &["paris does not answer"]);
    assert_eq!(reason.evidence, ["berlin about paris: no answer for 12 s"]);
    // It was up when the packet came to it.
    says(&at_paris(12, NOTHING, Vec::new()), Cause::NotKnown, Certainty::NotKnown, &[]);
}

#[test]
fn whoever_refuses_or_does_not_answer_is_told_apart() {
    let refused = vec![Fact::Refused { peer: "app".into() }];
    says(&at_paris(14, NOTHING, refused), Cause::Refused, Certainty::Said, &["app has the address and refused it"]);
    // Of UDP a closed port says so itself; of anything else, or in the name of another, a firewall does.
    let closed = |from: IpAddr, protocol: Protocol| {
        let facts = vec![Fact::Icmp { from, kind: IcmpKind::PortUnreachable, mtu: None }];
        let case = Case { places: 14, berlin: (NOTHING, facts), paris: (NOTHING, Vec::new()) };
        reason_in(case, |trace| trace.protocol = protocol)
    };
    let router = IpAddr::from([192, 0, 2, 9]);
    says(&closed(DESTINATION, Protocol::Udp), Cause::Refused, Certainty::Said, &["nobody listens there"]);
    for (from, protocol) in [(router, Protocol::Udp), (DESTINATION, Protocol::Icmp), (DESTINATION, Protocol::Tcp)] {
        says(&closed(from, protocol), Cause::Firewall, Certainty::Said, &["an answer that firewalls give"]);
    }
    // The rule is named, wherever it is.
    let rule = vec![Fact::Firewall { table: "ip filter".into(), chain: "INPUT".into(), handle: 2 }];
    let facts = vec![Fact::Icmp { from: DESTINATION, kind: IcmpKind::PortUnreachable, mtu: None }];
    let reason = reason_in(Case { places: 3, berlin: (NOTHING, facts), paris: (NOTHING, rule.clone()) }, |_| {});
    says(&reason, Cause::Firewall, Certainty::Said, &["a firewall of paris dropped it: rule 2 in chain INPUT"]);
    let facts = vec![Fact::Refused { peer: "app".into() }];
    let reason = reason_in(Case { places: 14, berlin: (NOTHING, facts), paris: (NOTHING, rule) }, |_| {});
    says(&reason, Cause::Firewall, Certainty::Said, &["rule 2 in chain INPUT"]);
    says(&at_berlin(13, NOTHING, icmp(IcmpKind::HostUnreachable, None)), Cause::HostUnreachable, Certainty::Said, &[]);
    says(
        &at_paris(14, NOTHING, Vec::new()),
        Cause::NoAnswer,
        Certainty::Possible,
        &["nobody answered there", "veth-app"],
    );
    let local = Fact::RouteVia { to: DESTINATION, device: "lo".into(), gateway: None };
    says(&at_paris(12, NOTHING, vec![local.clone()]), Cause::NoAnswer, Certainty::Possible, &["paris has the address"]);
    // Whoever has the address need not forward, and what its kernel counts without a route is others'.
    let off = Fact::Forwarding { family: 4, on: false };
    let reason = at_paris(12, &["ip:OutNoRoutes"], vec![local.clone(), off]);
    says(&reason, Cause::NoAnswer, Certainty::Possible, &["paris has the address"]);
    // A rule there may have met the answer.
    let rule = Fact::Firewall { table: "inet f".into(), chain: "output".into(), handle: 2 };
    let reason = at_paris(12, NOTHING, vec![local, rule]);
    says(&reason, Cause::Firewall, Certainty::Said, &["dropped it or its answer: rule 2"]);
}

#[test]
fn what_others_met_explains_nothing() {
    let to_app = || Fact::RouteVia { to: DESTINATION, device: "adit-br0".into(), gateway: None };
    for counter in ["card:n0:tx_dropped", "ip:OutNoRoutes"] {
        says(&at_paris(12, &[counter], vec![to_app()]), Cause::NotKnown, Certainty::NotKnown, &[]);
    }
    let reason = at_paris(12, &["card:adit-br0:tx_dropped"], vec![to_app()]);
    says(&reason, Cause::QueueFull, Certainty::Likely, &["queue of paris"]);
}

#[test]
fn what_did_not_leave_the_host_is_not_the_peers_fault() {
    let down = |problem: &str| vec![Fact::PeerDown { peer: "paris".into(), problem: problem.into() }];
    says(&at_berlin(5, &["adit:unreachable"], down("no answer")), Cause::Daemon, Certainty::Likely, &["the underlay"]);
    says(&at_berlin(6, NOTHING, down("no answer")), Cause::NotKnown, Certainty::NotKnown, &["tc -s qdisc"]);
    let reason = at_berlin(6, NOTHING, down(report::NOBODY_ANSWERS));
    says(&reason, Cause::PeerDown, Certainty::Likely, &["paris does not answer"]);
}

#[test]
fn a_route_that_refuses_is_told_from_a_firewall() {
    let missing = || vec![Fact::NoRoute { to: DESTINATION }];
    for kind in [IcmpKind::Prohibited, IcmpKind::HostUnreachable] {
        let case = Case { places: 12, berlin: (NOTHING, icmp(kind, None)), paris: (NOTHING, missing()) };
        says(&reason_in(case, |_| {}), Cause::NoRoute, Certainty::Said, &["paris has no route", "192.0.2.9 answered"]);
    }
}

#[test]
fn a_host_that_permits_no_look_is_named_and_nothing_is_made_up() {
    let silent = || Case { places: 7, berlin: (NOTHING, Vec::new()), paris: (NOTHING, Vec::new()) };
    let reason = reason_in(silent(), |trace| trace.reports[1].permitted = false);
    says(&reason, Cause::NotPermitted, Certainty::NotKnown, &["paris does not permit a look", "card eth0"]);
    assert!(reason.remedy.as_deref().is_some_and(|remedy| remedy.contains("allow = [\"trace\"]")));
    // What is known is said all the same.
    let down = vec![Fact::PeerDown { peer: "paris".into(), problem: "gone".into() }];
    let case = Case { places: 7, berlin: (NOTHING, down), paris: (NOTHING, Vec::new()) };
    let reason = reason_in(case, |trace| trace.reports[1].permitted = false);
    says(&reason, Cause::PeerDown, Certainty::Likely, &[]);
}

#[test]
fn what_daemons_and_devices_drop_is_named() {
    let words = ["adit on paris dropped it: it is not authentic"];
    says(&at_paris(9, &["adit:forged"], Vec::new()), Cause::Daemon, Certainty::Likely, &words);
    says(
        &at_paris(7, &["adit:unknown_session"], Vec::new()),
        Cause::Daemon,
        Certainty::Likely,
        &["a session that ended"],
    );
    says(&at_paris(10, &["adit:wrong_source"], Vec::new()), Cause::Daemon, Certainty::Likely, &["opened by worker-0"]);
    says(&at_berlin(4, &["adit:loop"], Vec::new()), Cause::Daemon, Certainty::Likely, &["owns its destination"]);
    says(
        &at_berlin(3, &["card:adit0:tx_dropped"], Vec::new()),
        Cause::QueueFull,
        Certainty::Likely,
        &["queue of adit0"],
    );
    says(&at_paris(8, &["udp:RcvbufErrors"], Vec::new()), Cause::QueueFull, Certainty::Likely, &["queue of paris"]);
    says(&at_paris(8, &["udp:InCsumErrors"], Vec::new()), Cause::Checksum, Certainty::Likely, &["checksum"]);
    // What moved on the way in explains nothing on the way out.
    says(&at_berlin(4, &["adit:forged"], Vec::new()), Cause::NotKnown, Certainty::NotKnown, &[]);
}

#[test]
fn routed_too_often_is_named() {
    says(&at_berlin(2, NOTHING, icmp(IcmpKind::TimeExceeded, None)), Cause::HopLimit, Certainty::Said, &["in circles"]);
    let case = Case { places: 2, berlin: (NOTHING, Vec::new()), paris: (NOTHING, Vec::new()) };
    let reason = reason_in(case, |trace| {
        for observation in &mut trace.observations {
            observation.head = testing::frame(&testing::packet(testing::SOURCE, testing::DESTINATION, 1));
        }
    });
    says(&reason, Cause::HopLimit, Certainty::Possible, &[]);
}

#[test]
fn evidence_that_contradicts_itself_is_said_to() {
    let reason = at_paris(12, &["tcpext:IPReversePathFilter", "nft:inet filter forward 4"], Vec::new());
    assert_eq!((reason.cause, reason.certainty), (Cause::NotKnown, Certainty::NotKnown));
    assert_eq!(reason.candidates, [Cause::Firewall, Cause::RpFilter]);
    assert!(reason.sentence.contains("is not certain: either a firewall of paris dropped it, or paris dropped it"));
    assert_eq!((reason.evidence.len(), reason.remedy), (2, None));
    // A message about the probe decides.
    let rule = Fact::Firewall { table: "inet filter".into(), chain: "forward".into(), handle: 4 };
    let reason = at_paris(12, &["tcpext:IPReversePathFilter"], vec![rule]);
    says(&reason, Cause::Firewall, Certainty::Said, &[]);
}

#[test]
fn without_evidence_it_says_that_it_does_not_know() {
    for places in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
        let reason = at_berlin(places, NOTHING, Vec::new());
        says(&reason, Cause::NotKnown, Certainty::NotKnown, &["Why it went no further is not known"]);
    }
    says(&at_berlin(0, NOTHING, Vec::new()), Cause::NotKnown, Certainty::NotKnown, &["not seen on any device"]);
    let case = Case { places: 12, berlin: (NOTHING, Vec::new()), paris: (NOTHING, Vec::new()) };
    let reason = reason_in(case, |trace| trace.reports.truncate(1));
    says(&reason, Cause::NotKnown, Certainty::NotKnown, &["paris did not report"]);
    let case = Case { places: 7, berlin: (NOTHING, Vec::new()), paris: (NOTHING, Vec::new()) };
    let reason = reason_in(case, |trace| trace.reports[1].lost_records = 3);
    says(&reason, Cause::NotKnown, Certainty::NotKnown, &["The records of paris have gaps (3 lost)"]);
}
