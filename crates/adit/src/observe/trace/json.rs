//! A journey as JSON. The form is described in docs/TRACE.md; what is there stays, and what changes its meaning changes
//! [`VERSION`].

use serde_json::{Value, json};

use super::clocks::Clock;
use super::crossings::Crossing;
use super::headers::Header;
use super::journey::{Fate, Hop, Host, Journey, Leg, Probe, Way};
use super::observation::{Checksum, Direction, Layer, Place, Protocol};
use super::reason::{Certainty, Death};
use super::words;

/// The version of the form.
pub const VERSION: u32 = 1;

/// All of `journey`.
#[must_use]
pub fn json(journey: &Journey) -> Value {
    json!({
        "version": VERSION,
        "destination": journey.destination,
        "from": journey.from,
        "protocol": match journey.protocol {
            Protocol::Icmp => "icmp",
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        },
        "hosts": journey.hosts.iter().map(host).collect::<Vec<_>>(),
        "probes": journey.probes.iter().map(|of| probe(journey, of)).collect::<Vec<_>>(),
        "strays": journey.strays,
    })
}

fn host(host: &Host) -> Value {
    let (kind, moved_ns) = match host.clock {
        Clock::Reference => ("reference", 0),
        Clock::Measured { .. } => ("measured", 0),
        Clock::Repaired { by, .. } => ("repaired", by),
        Clock::Contradicted { by, .. } => ("contradicted", by),
        Clock::Inferred { .. } => ("inferred", 0),
    };
    json!({
        "name": host.name,
        "permitted": host.permitted,
        "unseen": host.unseen.as_ref().map(words::unseen),
        "lost_records": host.lost_records,
        "clock": { "kind": kind, "added_ns": host.shift, "uncertainty_ns": host.clock.doubt(), "moved_ns": moved_ns },
    })
}

fn probe(journey: &Journey, probe: &Probe) -> Value {
    let (answered_ns, lost) = match &probe.fate {
        Fate::Answered(ns) => (Some(*ns), None),
        Fate::Lost(of) => (None, Some(death(of))),
    };
    json!({
        "number": probe.number,
        "size": probe.size,
        "answered_ns": answered_ns,
        "lost": lost,
        "legs": probe.legs.iter().map(|of| leg(journey, of)).collect::<Vec<_>>(),
    })
}

fn death(death: &Death) -> Value {
    let reason = &death.reason;
    json!({
        "way": way(death.way),
        "last_hop": death.last,
        "cause": reason.cause.name(),
        "certainty": match reason.certainty {
            Certainty::NotKnown => "not_known",
            Certainty::Possible => "possible",
            Certainty::Likely => "likely",
            Certainty::Said => "said",
        },
        "candidates": reason.candidates.iter().map(|cause| cause.name()).collect::<Vec<_>>(),
        "sentence": reason.sentence,
        "evidence": reason.evidence,
        "remedy": reason.remedy,
    })
}

fn way(way: Way) -> &'static str {
    match way {
        Way::There => "there",
        Way::Back => "back",
    }
}

fn leg(journey: &Journey, leg: &Leg) -> Value {
    let totals = &leg.totals;
    json!({
        "way": way(leg.way),
        "hops": leg.hops.iter().map(|of| hop(journey, of)).collect::<Vec<_>>(),
        "crossings": leg.crossings.iter().map(|of| crossing(journey, leg, of)).collect::<Vec<_>>(),
        "totals": {
            "took_ns": totals.took,
            "pieces": totals.pieces,
            "crossings": totals.crossings,
            "crossings_seen": totals.crossings_seen,
            "copies_by_model": totals.copies_by_model,
            "classic": { "crossings": totals.classic.crossings, "packets": totals.classic.packets },
        },
    })
}

fn hop(journey: &Journey, hop: &Hop) -> Value {
    let place = match &hop.place {
        Place::Device { name, index, kind, layer, direction } => json!({
            "device": name,
            "index": index,
            "kind": words::kind_name(*kind),
            "layer": if *layer == Layer::Frames { 2 } else { 3 },
            "direction": if *direction == Direction::In { "in" } else { "out" },
        }),
        Place::Worker { number, step } => json!({ "worker": number, "step": words::step_name(*step) }),
    };
    json!({
        "number": hop.number,
        "host": journey.host(hop),
        "place": place,
        "at_ns": hop.at,
        "since_ns": hop.since,
        "since_uncertainty_ns": hop.doubt,
        "size": hop.size,
        "bytes": hop.bytes,
        "pieces": hop.pieces,
        "packets": hop.packets,
        "segment_size": hop.segment_size,
        "checksum": match hop.checksum {
            Checksum::Complete => "complete",
            Checksum::Partial => "partial",
            Checksum::Unknown => "unknown",
        },
        "ttl": hop.ttl,
        "sealed": hop.outer.map(|outer| json!({ "receiver": outer.receiver, "counter": outer.counter })),
        "headers": hop.headers.iter().map(header).collect::<Vec<_>>(),
    })
}

fn header(header: &Header) -> Value {
    json!({ "name": header.name, "summary": header.summary, "depth": header.depth })
}

fn crossing(journey: &Journey, leg: &Leg, crossing: &Crossing) -> Value {
    let number = |index: Option<usize>| index.and_then(|index| leg.hops.get(index)).map(|hop| hop.number);
    json!({
        "after_hop": number(crossing.before.checked_sub(1)),
        "before_hop": number(Some(crossing.before)),
        "host": journey.hosts.get(crossing.host).map(|host| host.name.as_str()),
        "call": crossing.call.trim_end_matches("()"),
        "into": if crossing.into_kernel { "kernel" } else { "user" },
        "seen": crossing.seen,
        "calls": crossing.calls,
        "packets": crossing.packets,
    })
}
