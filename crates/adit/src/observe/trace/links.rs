//! Which observations are of one packet: probes by their number, sealed datagrams by theirs, and the one within the other.

use std::collections::{BTreeMap, BTreeSet};

use super::headers::{Look, look};
use super::journey::Way;
use super::observation::{Direction, Observation, Place, Step, Trace, UNKNOWN_PROBE};

/// An observation, and what is known of it from others.
#[derive(Debug)]
pub(super) struct Sighting<'t> {
    pub(super) observation: &'t Observation,
    /// An index into the hosts.
    pub(super) host: usize,
    pub(super) look: Look,
    /// The probes that it is, or that it carries.
    pub(super) probes: BTreeSet<u32>,
    pub(super) way: Way,
    /// The hop limit of the probe, read here or where the same datagram was seen open.
    pub(super) ttl: Option<u8>,
    /// Other sightings of the same sealed datagram, or of a train that has it.
    pub(super) others: Vec<usize>,
}

impl Sighting<'_> {
    pub(super) fn at(&self) -> i64 {
        self.observation.at
    }

    /// Whether its datagram is still on the host that sends it.
    pub(super) fn leaves(&self) -> bool {
        leaves(&self.observation.place)
    }

    /// Whether its datagram is on the host that receives it.
    pub(super) fn arrives(&self) -> bool {
        arrives(&self.observation.place)
    }
}

/// How many packets of a probe a sighting stands for: of a train that others share, the datagrams that are known to be the probe's.
pub(super) fn packets(seen: &[Sighting<'_>], sighting: &Sighting<'_>, probe: u32) -> u32 {
    let all = u32::from(sighting.observation.segments.max(1));
    let Some(outer) = sighting.observation.outer.filter(|_| sighting.observation.probe == UNKNOWN_PROBE) else {
        return all;
    };
    let end = |observation: &Observation, first: u64| first.saturating_add(observation.segments.max(1).into());
    let (first, last) = (outer.counter, end(sighting.observation, outer.counter));
    let theirs =
        sighting.others.iter().filter_map(|other| seen.get(*other)).filter(|other| other.observation.probe == probe);
    let known: BTreeSet<u64> = theirs
        .filter_map(|other| Some((other.observation.outer?.counter, other.observation)))
        .flat_map(|(counter, observation)| counter.max(first)..end(observation, counter).min(last))
        .collect();
    if known.is_empty() { all } else { u32::try_from(known.len()).unwrap_or(all) }
}

/// Whether a sealed datagram seen there is on the host that sends it.
pub(super) fn leaves(place: &Place) -> bool {
    match place {
        Place::Device { direction, .. } => *direction == Direction::Out,
        Place::Worker { step, .. } => matches!(step, Step::Read | Step::Sealed | Step::Sent),
    }
}

/// Whether a sealed datagram seen there is on the host that receives it.
pub(super) fn arrives(place: &Place) -> bool {
    match place {
        Place::Device { direction, .. } => *direction == Direction::In,
        Place::Worker { step, .. } => matches!(step, Step::Received | Step::Opened | Step::Written),
    }
}

/// The names of all hosts: those that report in their order, then others.
pub(super) fn hosts(trace: &Trace) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    let reported = trace.reports.iter().map(|report| &report.host);
    for host in reported.chain(trace.observations.iter().map(|observation| &observation.host)) {
        if !hosts.contains(host) {
            hosts.push(host.clone());
        }
    }
    hosts
}

/// Reads all observations and finds what belongs together.
pub(super) fn sightings<'t>(trace: &'t Trace, hosts: &[String]) -> Vec<Sighting<'t>> {
    let numbers: BTreeMap<&str, usize> = hosts.iter().map(String::as_str).zip(0..).collect();
    let mut seen: Vec<Sighting<'_>> = trace
        .observations
        .iter()
        .map(|observation| {
            let look = look(observation, trace.destination);
            let known = (observation.probe != UNKNOWN_PROBE).then_some(observation.probe);
            Sighting {
                observation,
                host: numbers.get(observation.host.as_str()).copied().unwrap_or(0),
                probes: known.into_iter().collect(),
                way: look.way.unwrap_or(Way::There),
                ttl: look.ttl,
                look,
                others: Vec::new(),
            }
        })
        .collect();
    let spans = Spans::of(trace);
    let others: Vec<Vec<usize>> = (0..seen.len()).map(|number| spans.same(trace, number)).collect();
    let learnt: Vec<_> = others.iter().map(|others| learn(&seen, others)).collect();
    for ((sighting, others), (probes, way, ttl)) in seen.iter_mut().zip(others).zip(learnt) {
        if sighting.probes.is_empty() {
            sighting.probes = probes;
        }
        if sighting.look.way.is_none() {
            sighting.way = way.unwrap_or(sighting.way);
            sighting.ttl = ttl;
        }
        sighting.others = others;
    }
    seen
}

/// What others who saw the same datagram know.
fn learn(seen: &[Sighting<'_>], others: &[usize]) -> (BTreeSet<u32>, Option<Way>, Option<u8>) {
    let others = || others.iter().filter_map(|other| seen.get(*other));
    (
        others().flat_map(|other| other.probes.iter().copied()).collect(),
        others().find_map(|other| other.look.way),
        others().find_map(|other| other.ttl),
    )
}

/// The datagrams of each observation, sorted: receiver, first counter, the counter after the last, number of the observation.
struct Spans(Vec<(u32, u64, u64, usize)>);

impl Spans {
    fn of(trace: &Trace) -> Self {
        let span = |(number, observation): (usize, &Observation)| {
            let outer = observation.outer?;
            let end = outer.counter.saturating_add(u64::from(observation.segments.max(1)));
            Some((outer.receiver, outer.counter, end, number))
        };
        let mut spans: Vec<_> = trace.observations.iter().enumerate().filter_map(span).collect();
        spans.sort_unstable();
        Self(spans)
    }

    /// The other observations that have a datagram of this one.
    fn same(&self, trace: &Trace, number: usize) -> Vec<usize> {
        let Some(observation) = trace.observations.get(number) else { return Vec::new() };
        let Some(outer) = observation.outer else { return Vec::new() };
        let end = outer.counter.saturating_add(u64::from(observation.segments.max(1)));
        // None begins further before it than the longest train.
        let earliest = outer.counter.saturating_sub(u64::from(u16::MAX));
        let from = self.0.partition_point(|(receiver, first, ..)| (*receiver, *first) < (outer.receiver, earliest));
        let candidates = self.0.get(from..).unwrap_or_default().iter();
        candidates
            .take_while(|(receiver, first, ..)| *receiver == outer.receiver && *first < end)
            .filter(|(_, _, last, other)| *last > outer.counter && *other != number)
            .map(|(.., other)| *other)
            .collect()
    }
}
