//! From a trace to a journey: per probe its hops over all hosts in the order in which they happened, what they say, where it
//! crossed between kernel and user space, and where it ended.
//!
//! What is seen is where the packet was, when, and with which bytes. Crossings follow from where it was seen before and after. Copies
//! are by the model of `Totals::copies_by_model`, and never counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::clean::clean;
use super::clocks::{self, Clock};
use super::crossings::{Crossing, Totals, crossings, totals};
use super::headers::Header;
use super::links::{self, Sighting};
use super::observation::{Checksum, Outer, Place, Protocol, Trace, Unseen};
use super::order;
use super::reason::{self, Death};

/// What is told of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journey {
    /// Where the probes went.
    pub destination: IpAddr,
    /// Where they came from.
    pub from: String,
    /// What they are.
    pub protocol: Protocol,
    /// The hosts: the one that traces, then the others that were asked or seen.
    pub hosts: Vec<Host>,
    /// The probes in the order of their numbers.
    pub probes: Vec<Probe>,
    /// Observations that belong to no probe: other traffic of the tunnel at the same time.
    pub strays: usize,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Whether it permits a look.
    pub permitted: bool,
    /// Why it did not look although it permits it.
    pub unseen: Option<Unseen>,
    /// How its times were made comparable.
    pub clock: Clock,
    /// Nanoseconds that were added to its times for that.
    pub shift: i64,
    /// Observations that it lost.
    pub lost_records: u64,
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its number.
    pub number: u32,
    /// Bytes of its packet, from the IP header; `None` if it is seen but was not announced.
    pub size: Option<u32>,
    /// Its way there, and that of its answer as far as it was seen.
    pub legs: Vec<Leg>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered after so many nanoseconds.
    Answered(i64),
    /// No answer came.
    Lost(Death),
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To the destination.
    There,
    /// From it.
    Back,
}

/// A way of a packet, as far as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Which.
    pub way: Way,
    /// In the order in which they happened; never empty.
    pub hops: Vec<Hop>,
    /// Between hops, in their order.
    pub crossings: Vec<Crossing>,
    /// The sums.
    pub totals: Totals,
}

/// The packet at one place. A super-packet may be seen there as several datagrams; they are one hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Counted from 1 over all of a probe's legs.
    pub number: usize,
    /// An index into [`Journey::hosts`].
    pub host: usize,
    /// Where.
    pub place: Place,
    /// When it was first seen there: nanoseconds since the probe's first hop.
    pub at: i64,
    /// Nanoseconds since the hop before; `None` for the first.
    pub since: Option<i64>,
    /// By how many nanoseconds that may be wrong because the two hosts' clocks differ; `None` if nobody knows. 0 within one host.
    pub doubt: Option<u64>,
    /// How many packets, super-packets or trains were seen there.
    pub pieces: u32,
    /// At how many different times: as many calls, if it is a step of a worker.
    pub times: u32,
    /// For how many packets they stand.
    pub packets: u32,
    /// Bytes of payload in each of them; 0 if they stand for themselves.
    pub segment_size: u16,
    /// Bytes of the first, as there.
    pub size: u32,
    /// Bytes of all, as there.
    pub bytes: u64,
    /// The state of the first one's checksum.
    pub checksum: Checksum,
    /// The headers of the first, outermost first.
    pub headers: Vec<Header>,
    /// The hop limit of the probe's own packet.
    pub ttl: Option<u8>,
    /// The first sealed datagram.
    pub outer: Option<Outer>,
    /// Its observations, by their index in [`Trace::observations`].
    pub observations: Vec<usize>,
}

impl Journey {
    /// Tells the journey of `trace`, whatever it holds.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let trace = &clean(trace);
        let names = links::hosts(trace);
        let seen = links::sightings(trace, &names);
        let aligned = clocks::align(&names, &trace.reports, &seen);
        let hosts: Vec<Host> = names
            .into_iter()
            .zip(&aligned)
            .map(|(name, (shift, clock))| {
                let report = trace.reports.iter().find(|report| report.host == name);
                Host {
                    permitted: report.is_none_or(|report| report.permitted),
                    unseen: report.and_then(|report| report.unseen.clone()),
                    lost_records: report.map_or(0, |report| report.lost_records),
                    clock: *clock,
                    shift: *shift,
                    name,
                }
            })
            .collect();
        let announced = 0..u32::try_from(trace.sizes.len()).unwrap_or(u32::MAX);
        let numbers: BTreeSet<u32> =
            announced.chain(seen.iter().flat_map(|sighting| sighting.probes.iter().copied())).collect();
        let mut probes: Vec<Probe> =
            numbers.into_iter().map(|number| probe(trace, number, &hosts, &seen, &aligned)).collect();
        reason::explain(trace, &hosts, &mut probes);
        Self {
            destination: trace.destination,
            from: trace.from.clone(),
            protocol: trace.protocol,
            strays: seen.iter().filter(|sighting| sighting.probes.is_empty()).count(),
            hosts,
            probes,
        }
    }

    /// The name of a hop's host.
    #[must_use]
    pub fn host(&self, hop: &Hop) -> &str {
        self.hosts.get(hop.host).map_or("", |host| host.name.as_str())
    }
}

impl Probe {
    /// The hops of both ways.
    pub fn hops(&self) -> impl Iterator<Item = &Hop> {
        self.legs.iter().flat_map(|leg| &leg.hops)
    }
}

fn probe(trace: &Trace, number: u32, hosts: &[Host], seen: &[Sighting<'_>], aligned: &[(i64, Clock)]) -> Probe {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    let mut groups: BTreeMap<(Way, usize, &Place, Option<u8>), Vec<usize>> = BTreeMap::new();
    for (index, sighting) in seen.iter().enumerate().filter(|(_, sighting)| sighting.probes.contains(&number)) {
        let key = (sighting.way, sighting.host, &sighting.observation.place, sighting.ttl);
        groups.entry(key).or_default().push(index);
    }
    let mut legs = Vec::new();
    for way in [Way::There, Way::Back] {
        let of_way = groups.iter().filter(|((of, ..), _)| *of == way);
        let hops: Vec<Hop> = of_way.filter_map(|(_, observations)| hop(number, observations, seen, aligned)).collect();
        let hops = order::ordered(hops, seen);
        if !hops.is_empty() {
            legs.push(Leg { way, hops, crossings: Vec::new(), totals: Totals::default() });
        }
    }
    count(&mut legs, aligned);
    for leg in &mut legs {
        leg.crossings = crossings(&leg.hops, hosts);
        leg.totals = totals(&leg.hops, &leg.crossings);
    }
    let fate = match trace.answered.get(index).copied().flatten() {
        Some(ns) => Fate::Answered(ns),
        None => Fate::Lost(Death::default()),
    };
    Probe { number, size: trace.sizes.get(index).copied(), legs, fate }
}

/// One hop of the observations that were made at one place; its time is still that of the reference clock.
fn hop(probe: u32, observations: &[usize], seen: &[Sighting<'_>], aligned: &[(i64, Clock)]) -> Option<Hop> {
    let mut observations = observations.to_vec();
    observations.sort_by_key(|index| {
        seen.get(*index).map(|sighting| (sighting.at(), sighting.observation.outer, sighting.observation.size))
    });
    let first = seen.get(*observations.first()?)?;
    let all = || observations.iter().filter_map(|index| seen.get(*index));
    let times: BTreeSet<i64> = all().map(Sighting::at).collect();
    let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(Hop {
        number: 0,
        host: first.host,
        place: first.observation.place.clone(),
        at: first.at().saturating_add(aligned.get(first.host).map_or(0, |(shift, _)| *shift)),
        since: None,
        doubt: Some(0),
        pieces: many(observations.len()),
        times: many(times.len()),
        packets: all().fold(0u32, |sum, sighting| sum.saturating_add(links::packets(seen, sighting, probe))),
        segment_size: first.observation.segment_size,
        size: first.observation.size,
        bytes: all().map(|sighting| u64::from(sighting.observation.size)).fold(0, u64::saturating_add),
        checksum: first.observation.checksum,
        headers: first.look.headers.clone(),
        ttl: first.ttl,
        outer: first.observation.outer,
        observations,
    })
}

/// Numbers the hops, and tells their times from the first one on. Where the order is known better than the times, times wait.
fn count(legs: &mut [Leg], aligned: &[(i64, Clock)]) {
    let Some(start) = legs.first().and_then(|leg| leg.hops.first()).map(|hop| hop.at) else { return };
    let doubt = |host: usize| aligned.get(host).and_then(|(_, clock)| clock.doubt());
    let mut before: Option<(usize, i64)> = None;
    for (number, hop) in legs.iter_mut().flat_map(|leg| &mut leg.hops).enumerate() {
        hop.number = number + 1;
        hop.at = hop.at.saturating_sub(start);
        if let Some((host, at)) = before {
            hop.at = hop.at.max(at);
            hop.since = Some(hop.at.saturating_sub(at));
            if host != hop.host {
                hop.doubt = doubt(host).zip(doubt(hop.host)).map(|(a, b)| a.saturating_add(b));
            }
        }
        before = Some((hop.host, hop.at));
    }
}
