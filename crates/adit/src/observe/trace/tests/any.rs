//! Whatever was observed, there is a drawing, a figure that is well-formed, and JSON.

use proptest::prelude::*;
use proptest::sample::select;

use super::super::drawing::{NARROWEST, drawing};
use super::super::journey::Journey;
use super::super::json::json;
use super::super::observation::*;
use super::super::svg::svg;
use super::super::testing;

/// Names that come from elsewhere, some of them from those who wish us no good.
fn name() -> impl Strategy<Value = String> {
    let hosts = vec!["berlin", "paris", "rome", "", "<svg onload=\"x\">&'", "a\u{1b}[2J\u{202e}b\0\n]]>", "東京"];
    prop_oneof![6 => select(hosts[..3].to_vec()).prop_map(String::from), 2 => select(hosts).prop_map(String::from), 1 => "\\PC{0,80}"]
}

fn place() -> impl Strategy<Value = Place> {
    use DeviceKind::{Bridge, Card, Loopback, Other, Tap, Tun, Veth};
    let kinds = select(vec![Veth, Bridge, Tun, Tap, Card, Loopback, Other]);
    let directions = select(vec![Direction::In, Direction::Out]);
    let layers = select(vec![Layer::Frames, Layer::Packets]);
    let steps = select(vec![Step::Read, Step::Sealed, Step::Sent, Step::Received, Step::Opened, Step::Written]);
    prop_oneof![
        (name(), 0u32..3, kinds, layers, directions).prop_map(|(name, index, kind, layer, direction)| Place::Device {
            name,
            index,
            kind,
            layer,
            direction
        }),
        (0u16..2, steps).prop_map(|(number, step)| Place::Worker { number, step }),
    ]
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    let heads: Vec<Vec<u8>> = testing::way().into_iter().chain(testing::super_packet()).map(|seen| seen.head).collect();
    let cut = (select(heads), 0usize..=MAX_HEAD).prop_map(|(mut head, length)| {
        head.truncate(length);
        head
    });
    prop_oneof![4 => cut, 1 => prop::collection::vec(any::<u8>(), 0..=MAX_HEAD)]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![6 => (0i64..200).prop_map(|micros| testing::START + micros * 1000), 1 => any::<i64>()]
}

fn observation() -> impl Strategy<Value = Observation> {
    let outer =
        (0u32..2, prop_oneof![0u64..60, any::<u64>()]).prop_map(|(receiver, counter)| Outer { receiver, counter });
    let checksum = select(vec![Checksum::Complete, Checksum::Partial, Checksum::Unknown]);
    let probe = prop_oneof![4 => 0u32..3, 2 => Just(UNKNOWN_PROBE), 1 => any::<u32>()];
    let sizes = (prop_oneof![0u32..2000, any::<u32>()], prop_oneof![Just(1u16), any::<u16>()], any::<u16>());
    (name(), probe, time(), place(), sizes, checksum, prop::option::of(outer), head()).prop_map(
        |(host, probe, at, place, (size, segments, segment_size), checksum, outer, head)| Observation {
            host,
            probe,
            at,
            place,
            size,
            segments,
            segment_size,
            checksum,
            outer,
            head,
        },
    )
}

fn fact() -> impl Strategy<Value = Fact> {
    let address = select(vec![testing::DESTINATION, testing::SOURCE]).prop_map(std::net::IpAddr::from);
    let kind = select(vec![
        IcmpKind::NoRoute,
        IcmpKind::HostUnreachable,
        IcmpKind::PortUnreachable,
        IcmpKind::Prohibited,
        IcmpKind::TooBig,
        IcmpKind::TimeExceeded,
        IcmpKind::Other { kind: 3, code: 200 },
    ]);
    (address, kind, name(), name(), prop::option::of(any::<u32>()), 0usize..11).prop_map(
        |(to, kind, one, other, mtu, which)| match which {
            0 => Fact::NoRoute { to },
            1 => Fact::RouteVia { to, device: one, gateway: None },
            2 => Fact::RpFilter { device: one, value: 1 },
            3 => Fact::Forwarding { family: 4, on: false },
            4 => Fact::Mtu { device: one, mtu: mtu.unwrap_or(0) },
            5 => Fact::PathMtu { peer: one, mtu: mtu.unwrap_or(0) },
            6 => Fact::PeerDown { peer: one, problem: other },
            7 | 8 => Fact::Icmp { from: to, kind, mtu },
            9 => Fact::Firewall { table: one, chain: other, handle: 7 },
            _ => Fact::Refused { peer: one },
        },
    )
}

fn report() -> impl Strategy<Value = HostReport> {
    let counters = select(vec![
        "adit:no_route",
        "adit:forged",
        "adit:too_big",
        "ip:InNoRoutes",
        "tcpext:IPReversePathFilter",
        "nft:inet filter forward 3",
        "card:eth0:tx_dropped",
        "udp:RcvbufErrors",
        "ip:FragFails",
    ]);
    let counters = prop::collection::btree_map(counters.prop_map(String::from), any::<u64>(), 0..4);
    let offset =
        prop::option::of((any::<i64>(), any::<u64>()).prop_map(|(ns, uncertainty)| ClockOffset { ns, uncertainty }));
    let unseen = prop::option::of(prop_oneof![
        Just(Unseen::Busy),
        any::<u8>().prop_map(|times| Unseen::Often { times }),
        Just(Unseen::Unable),
        name().prop_map(|transport| Unseen::Unasked { transport }),
        name().prop_map(|problem| Unseen::Silent { problem }),
    ]);
    (name(), offset, (any::<bool>(), unseen), counters, prop::collection::vec(fact(), 0..4), 0u64..3).prop_map(
        |(host, offset, (permitted, unseen), counters, facts, lost_records)| HostReport {
            host,
            offset,
            permitted,
            unseen,
            counters,
            facts,
            lost_records,
        },
    )
}

/// Anything that hosts may say.
pub(in crate::observe::trace) fn any_trace() -> impl Strategy<Value = Trace> {
    let seen = prop_oneof![
        prop::collection::vec(observation(), 0..24),
        // What is almost a way: some of it is missing, twice there, or somewhere else in time.
        prop::collection::vec((select(testing::way()), time()), 0..24)
            .prop_map(|seen| seen.into_iter().map(|(seen, at)| Observation { at, ..seen }).collect()),
    ];
    let protocol = select(vec![Protocol::Icmp, Protocol::Udp, Protocol::Tcp]);
    let answers = prop::collection::vec(prop::option::of(any::<i64>()), 0..3);
    let sizes = prop::collection::vec(any::<u32>(), 0..3);
    (name(), protocol, sizes, seen, prop::collection::vec(report(), 0..4), answers).prop_map(
        |(from, protocol, sizes, observations, reports, answered)| Trace {
            destination: testing::DESTINATION.into(),
            from,
            protocol,
            sizes,
            observations,
            reports,
            answered,
        },
    )
}

/// Checks that `text` is well-formed XML of the kind that we write: one element, closed in order, values quoted, nothing that XML
/// does not allow.
fn well_formed(text: &str) -> Result<(), String> {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if let Some(character) = text.chars().find(|c| !allowed(*c)) {
        return Err(format!("{character:?} is no character of XML"));
    }
    let references = |text: &str| -> Result<(), String> {
        for after in text.split('&').skip(1) {
            let name = after.split(';').next().filter(|name| name.len() < after.len()).ok_or("& without ;")?;
            if !["amp", "lt", "gt", "quot", "#39"].contains(&name) {
                return Err(format!("&{name};"));
            }
        }
        Ok(())
    };
    let (mut open, mut rest, mut roots) = (Vec::<&str>::new(), text.trim_end(), 0);
    while !rest.is_empty() {
        let (before, tag) = rest.split_once('<').ok_or("text behind the end")?;
        if open.is_empty() && !before.is_empty() {
            return Err(format!("text outside: {before:?}"));
        }
        if before.contains("]]>") {
            return Err("]]> in text".into());
        }
        references(before)?;
        let (tag, after) = tag.split_once('>').ok_or("< without >")?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes something else"));
            }
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if !name.chars().all(|c| c.is_ascii_alphabetic()) || name.is_empty() {
            return Err(format!("<{name}"));
        }
        let mut known = Vec::new();
        while !attributes.trim().is_empty() {
            let (key, value) = attributes.trim_start().split_once("=\"").ok_or("attribute without a value")?;
            let (value, others) = value.split_once('"').ok_or("value without an end")?;
            references(value)?;
            if value.contains('<') || known.contains(&key) || !key.chars().all(|c| c.is_ascii_alphabetic() || c == '-')
            {
                return Err(format!("{key}={value:?}"));
            }
            known.push(key);
            attributes = others;
        }
        roots += usize::from(open.is_empty());
        if !empty {
            open.push(name);
        }
    }
    if open.is_empty() && roots == 1 { Ok(()) } else { Err(format!("{roots} roots, open: {open:?}")) }
}

#[test]
fn the_check_for_xml_finds_what_is_none() {
    assert_eq!(well_formed("<a b=\"1\"><c/>x &amp; y</a>\n"), Ok(()));
    for wrong in [
        "",
        "<a>",
        "<a></b>",
        "<a/><a/>",
        "<a b=1/>",
        "<a>&nope;</a>",
        "<a>&</a>",
        "<a>\u{1b}</a>",
        "x<a/>",
        "<a b=\"1\" b=\"2\"/>",
    ] {
        assert!(well_formed(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn there_is_a_drawing_no_wider_than_it_may_be(trace in any_trace(), width in 0usize..200) {
        let drawing = drawing(&Journey::of(&trace), width);
        prop_assert!(!drawing.is_empty());
        for line in drawing.lines() {
            prop_assert!(line.chars().count() <= width.max(NARROWEST), "{}", line);
            prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
        }
    }

    #[test]
    fn there_is_a_figure_and_it_is_well_formed(trace in any_trace()) {
        prop_assert_eq!(well_formed(&svg(&Journey::of(&trace))), Ok(()));
    }

    #[test]
    fn there_is_json_with_a_reason_for_every_loss(trace in any_trace()) {
        let json = json(&Journey::of(&trace));
        for probe in json["probes"].as_array().unwrap() {
            let lost = probe["answered_ns"].is_null();
            prop_assert_eq!(lost, probe["lost"]["sentence"].as_str().is_some_and(|sentence| !sentence.is_empty()));
        }
    }

    #[test]
    fn every_observation_has_its_place_and_time_never_goes_back(trace in any_trace()) {
        let journey = Journey::of(&trace);
        let mut placed = std::collections::BTreeSet::new();
        for probe in &journey.probes {
            let hops: Vec<_> = probe.hops().collect();
            prop_assert!(hops.is_sorted_by_key(|hop| hop.at));
            prop_assert!(hops.iter().zip(1..).all(|(hop, number)| hop.number == number));
            placed.extend(hops.iter().flat_map(|hop| hop.observations.iter().copied()));
            for leg in &probe.legs {
                prop_assert!(leg.totals.classic.crossings >= leg.totals.crossings);
                prop_assert!(leg.totals.crossings >= leg.totals.crossings_seen);
            }
        }
        prop_assert_eq!(placed.len() + journey.strays, trace.observations.len());
    }
}
