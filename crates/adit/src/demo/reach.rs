//! Who reaches whom, and how long a round trip takes.

use std::net::Ipv4Addr;
use std::time::Duration;

use linux::netns::NetNs;

use super::layout::{ADIT, HOSTS, Host};
use super::report::{Pairs, Reach};
use super::topology::Topology;
use crate::lab::watch::Watch;
use crate::{Failure, Result, lab};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_millis(500);

/// A path to be tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try<'a> {
    pub(super) path: &'static str,
    pub(super) from: (&'static str, &'a NetNs),
    pub(super) to: (&'static str, Ipv4Addr),
}

/// The three paths of the demo: the bare pair, one bridge, across hosts.
///
/// # Errors
/// The topology is not complete.
pub(super) fn paths(topology: &Topology) -> Result<[Try<'_>; 3]> {
    let [berlin, paris] = &HOSTS;
    let ([web, db], [app, _]) = (&berlin.containers, &paris.containers);
    let from_web = (web.name, topology.container(web)?.net());
    let pair = (paris.name, paris.underlay());
    Ok([
        Try { path: "veth pair", from: (berlin.name, topology.host(berlin)?.net()), to: pair },
        Try { path: "same bridge", from: from_web, to: (db.name, ADIT.address(berlin, db)) },
        Try { path: "across hosts", from: from_web, to: (app.name, ADIT.address(paris, app)) },
    ])
}

/// Waits until the path carries packets, then measures `count` round trips.
///
/// # Errors
/// Nothing comes back in time, or a signal.
pub(super) fn measure(attempt: &Try<'_>, count: usize, watch: &Watch) -> Result<Reach> {
    let (to, address) = attempt.to;
    let Some(mut pinger) = lab::await_path(attempt.from.1, address, watch)? else {
        let (from, path) = (attempt.from.0, attempt.path);
        return Err(Failure::failed(format!("{from} does not reach {to} at {address} ({path}) within 5 seconds")));
    };
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        watch.check()?;
        times.extend(pinger.round_trip(ANSWER)?);
    }
    times.sort_unstable();
    let microseconds = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_nanos() as f64 / 1e3);
    Ok(Reach {
        path: attempt.path,
        from: attempt.from.0,
        to,
        address: address.to_string(),
        sent: count,
        received: times.len(),
        min_us: microseconds(times.first()),
        median_us: microseconds(times.get(times.len() / 2)),
    })
}

/// Tries every ordered pair of different containers once.
///
/// # Errors
/// A socket could not be opened, or a signal.
pub(super) fn all_pairs(topology: &Topology, watch: &Watch) -> Result<Pairs> {
    let containers = || HOSTS.iter().flat_map(|host: &Host| host.containers.iter().map(move |c| (host, c)));
    let mut pairs = Pairs::default();
    for (_, from) in containers() {
        for (host, to) in containers().filter(|(_, to)| *to != from) {
            watch.check()?;
            pairs.of += 1;
            // The first packet to a container may be lost to a carrier that is just coming up.
            let answer = lab::await_path(topology.container(from)?.net(), ADIT.address(host, to), watch)?;
            pairs.reached += usize::from(answer.is_some());
        }
    }
    Ok(pairs)
}
