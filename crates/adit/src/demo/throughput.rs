//! The same TCP load on six paths, in turns, so that all of them see the machine's good and bad moments.

use std::net::Ipv4Addr;
use std::path::Path as FilePath;
use std::time::Duration;

use linux::netns::NetNs;

use super::layout::{ADIT, CLASSIC, HOSTS, Host, Lane, PLAIN, VXLAN};
use super::reach::{self, Try};
use super::report::{PerCall, Throughput};
use super::topology::Topology;
use crate::Result;
use crate::api::Status;
use crate::api::status::WorkerStatus;
use crate::lab::daemon::{Daemon, Way};
use crate::lab::figures::median;
use crate::lab::load::{self, Load};
use crate::lab::namespace::Namespace;
use crate::lab::screen::Screen;
use crate::lab::watch::Watch;

/// Names of the two paths that others are compared with.
const VETH_PATH: &str = "veth pair";
const VXLAN_PATH: &str = "kernel VXLAN";
/// Names of the three paths that daemons carry.
pub(super) const CLASSIC_PATH: &str = "classic TUN";
pub(super) const PLAIN_PATH: &str = "adit plain";
pub(super) const SEALED_PATH: &str = "adit sealed";

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) duration: Duration,
    pub(super) rounds: usize,
}

/// A path to be measured.
struct Path<'a> {
    name: &'static str,
    what: &'static str,
    from: (&'static str, &'a NetNs),
    to: (&'static str, &'a NetNs, Ipv4Addr),
    encrypted: bool,
    /// Who carries it: the sender's daemon and the receiver's.
    daemons: Option<[&'a Daemon; 2]>,
}

/// What is there only to compare with: daemons that do not encrypt, and the kernel's tunnel.
struct Rivals<'a> {
    topology: &'a Topology,
    plain: Vec<Daemon>,
    classic: Vec<Daemon>,
}

impl<'a> Rivals<'a> {
    fn build(topology: &'a Topology, place: &FilePath, watch: &Watch) -> Result<Self> {
        let start = |lane: &Lane, way| {
            HOSTS
                .iter()
                .map(|host| Daemon::start(&lane.end(host, way), topology.host(host)?.net(), place))
                .collect::<Result<Vec<_>>>()
        };
        let (mut plain, mut classic) = (start(&PLAIN, Way::Plain)?, start(&CLASSIC, Way::Classic)?);
        for (lane, daemons) in [(&PLAIN, &mut plain), (&CLASSIC, &mut classic)] {
            daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(watch))?;
            let mtu = daemons.first().map_or(Ok(0), |daemon| daemon.status().map(|status| status.device.mtu))?;
            topology.add_lane(lane, mtu)?;
        }
        let mtu = topology.add_vxlan()?;
        topology.add_lane(&VXLAN, mtu)?;
        Ok(Self { topology, plain, classic })
    }

    fn remove(self) -> Result<()> {
        let Self { topology, plain, classic } = self;
        topology.remove_lane(&VXLAN)?;
        topology.remove_vxlan()?;
        topology.remove_lane(&CLASSIC)?;
        topology.remove_lane(&PLAIN)?;
        Daemon::stop_all(plain.into_iter().chain(classic).collect())
    }
}

/// Measures every path; `daemons` are adit's, in the order of the hosts.
///
/// # Errors
/// A path that does not carry the load, or a signal.
pub(super) fn measure(
    topology: &Topology,
    daemons: &[Daemon],
    place: &FilePath,
    plan: Plan,
    (screen, watch): (&Screen, &Watch),
) -> Result<Vec<Throughput>> {
    screen.progress("setting up the paths to compare with");
    let rivals = Rivals::build(topology, place, watch)?;
    let paths = paths(topology, daemons, &rivals)?;
    for path in &paths {
        let attempt = Try { path: path.name, from: path.from, to: (path.to.0, path.to.2) };
        reach::measure(&attempt, 1, watch)?;
    }
    let mut last = String::new();
    let mut rounds: Vec<Vec<(Load, Option<PerCall>)>> = Vec::new();
    for round in 1..=plan.rounds {
        let mut measured = Vec::new();
        for (number, path) in (1..).zip(&paths) {
            let (name, all) = (path.name, paths.len());
            screen.progress(&format!("{number}/{all}  {name}, round {round} of {}{last}", plan.rounds));
            let outcome = one(path, plan.duration, watch)?;
            last = format!("   ({name}: {:.1} Gb/s)", outcome.0.gigabits_per_second());
            measured.push(outcome);
        }
        rounds.push(measured);
    }
    let table = summarise(&paths, &rounds);
    drop(paths);
    rivals.remove()?;
    Ok(table)
}

fn paths<'a>(topology: &'a Topology, sealed: &'a [Daemon], rivals: &'a Rivals<'_>) -> Result<Vec<Path<'a>>> {
    let [berlin, paris] = &HOSTS;
    let ([web, db], [app, _]) = (&berlin.containers, &paris.containers);
    let host = |host: &Host| topology.host(host).map(Namespace::net);
    let from = (web.name, topology.container(web)?.net());
    let target = topology.container(app)?.net();
    let across = |name, what, lane: &Lane, daemons| Path {
        name,
        what,
        from,
        to: (app.name, target, lane.address(paris, app)),
        encrypted: false,
        daemons,
    };
    Ok(vec![
        Path {
            name: VETH_PATH,
            what: "the bare cable",
            from: (berlin.name, host(berlin)?),
            to: (paris.name, host(paris)?, paris.underlay()),
            encrypted: false,
            daemons: None,
        },
        Path {
            name: "veth + bridge",
            what: "on one host",
            from,
            to: (db.name, topology.container(db)?.net(), ADIT.address(berlin, db)),
            encrypted: false,
            daemons: None,
        },
        across(CLASSIC_PATH, "one packet per call", &CLASSIC, pair(&rivals.classic)),
        across(PLAIN_PATH, "super-packets", &PLAIN, pair(&rivals.plain)),
        Path { encrypted: true, ..across(SEALED_PATH, "the same, encrypted", &ADIT, pair(sealed)) },
        across(VXLAN_PATH, "all in the kernel", &VXLAN, None),
    ])
}

fn pair(daemons: &[Daemon]) -> Option<[&Daemon; 2]> {
    match daemons {
        [sender, receiver, ..] => Some([sender, receiver]),
        _ => None,
    }
}

fn one(path: &Path<'_>, duration: Duration, watch: &Watch) -> Result<(Load, Option<PerCall>)> {
    let status = || path.daemons.map(|daemons| daemons.map(Daemon::status));
    let before = status();
    let load = load::measure(path.from.1, (path.to.1, path.to.2), 1, duration, watch)?;
    let per_call = match (before, status()) {
        (Some([sender_before, receiver_before]), Some([sender, receiver])) => {
            Some(per_call([&sender_before?, &sender?], [&receiver_before?, &receiver?]))
        }
        _ => None,
    };
    Ok((load, per_call))
}

/// Packets per call between two moments, from each daemon's counters. The acknowledgements that go the other way share some of
/// the calls; they are counted with the packets of their direction only.
fn per_call([sender_before, sender]: [&Status; 2], [receiver_before, receiver]: [&Status; 2]) -> PerCall {
    let ratio = |before: &Status, after: &Status, packets: Counter, calls: Counter| {
        let grown = |of: Counter| {
            let sum = |status: &Status| status.workers.iter().map(of).fold(0u64, u64::saturating_add);
            sum(after).saturating_sub(sum(before)) as f64
        };
        if grown(calls) > 0.0 { grown(packets) / grown(calls) } else { 0.0 }
    };
    let sent = |calls| ratio(sender_before, sender, |worker| worker.tx_packets, calls);
    let taken = |calls| ratio(receiver_before, receiver, |worker| worker.rx_packets, calls);
    PerCall {
        read: sent(|worker| worker.device_reads),
        sendmsg: sent(|worker| worker.tx_batches),
        recvmsg: taken(|worker| worker.rx_batches),
        write: taken(|worker| worker.device_writes),
    }
}

/// One of a worker's counters.
type Counter = fn(&WorkerStatus) -> u64;

fn summarise(paths: &[Path<'_>], rounds: &[Vec<(Load, Option<PerCall>)>]) -> Vec<Throughput> {
    let at = |name: &str| paths.iter().position(|path| path.name == name).unwrap_or(0);
    let speeds_of = |place: usize| -> Vec<f64> {
        rounds.iter().filter_map(|round| round.get(place)).map(|(load, _)| load.gigabits_per_second()).collect()
    };
    let ratios_to = |speeds: &[f64], name: &str| {
        let others = speeds_of(at(name));
        median(speeds.iter().zip(others).map(|(own, other)| if other > 0.0 { own / other } else { 0.0 }).collect())
    };
    paths
        .iter()
        .enumerate()
        .map(|(place, path)| {
            let speeds = speeds_of(place);
            let loads = || rounds.iter().filter_map(|round| round.get(place));
            Throughput {
                path: path.name,
                from: path.from.0,
                to: path.to.0,
                what: path.what,
                encrypted: path.encrypted,
                gbps: median(speeds.clone()),
                times_vxlan: ratios_to(&speeds, VXLAN_PATH),
                times_veth: ratios_to(&speeds, VETH_PATH),
                rounds: speeds,
                cpu_seconds_per_gb: median(loads().map(|(load, _)| load.cpu_seconds_per_gigabyte()).collect()),
                packets_per_call: loads().filter_map(|(_, per_call)| *per_call).next_back(),
            }
        })
        .collect()
}
