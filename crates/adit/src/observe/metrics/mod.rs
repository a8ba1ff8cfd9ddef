//! What a daemon counts, for Prometheus and whatever else reads its formats. docs/METRICS.md has all names.
//!
//! | file | what it is for |
//! |---|---|
//! | `mod.rs` | from what the daemon knows to samples |
//! | `families.rs` | all metrics that there are |
//! | `exposition.rs` | the two formats |
//! | `accept.rs` | which of them a client gets |

pub mod accept;
pub mod exposition;
pub mod families;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crossbeam_utils::CachePadded;
use tunnel::Reason;

pub use accept::Format;
use exposition::{Exposition, Family};
use families as f;

use super::facts::Facts;
use crate::api::Status;
use crate::api::status::{NetworkStatus, PeerStatus, SwitchStatus};
use crate::counters::{Batches, ControlCounters, Histogram, NamesCounters, WorkerCounters};
use crate::logging;
use crate::request::PeerNow;

/// Peers that have series of their own, in the order of the configuration; what the others move is summed under [`OTHERS`]. Prometheus takes
/// tens of thousands of series of one target without pain, and a peer has fifteen.
pub const NAMED_PEERS: usize = 1000;

/// The name of those that have no series of their own: no peer may be called so.
pub const OTHERS: &str = "(others)";

const SESSIONS: [&str; 4] = ["none", "handshaking", "up", "refused"];
const LEASES: [&str; 5] = ["waiting", "held", "reserved", "lost", "taken"];
const DOORS: [&str; 3] = ["cni", "docker", "run"];
const OFFLOADS: [&str; 5] = ["csum", "tso4", "tso6", "uso4", "uso6"];
const DIRECTIONS: [&str; 2] = ["receive", "transmit"];

/// The metrics at this moment: what goes into `Content-Type`, and the body. `accept` is what the client says in `Accept`.
pub fn render(facts: &Facts, accept: Option<&str>) -> (String, String) {
    let format = Format::of(accept);
    let (status, peers) = facts.status_and_peers();
    let sample = Sample {
        status: &status,
        peers: &peers,
        began: facts.began(),
        workers: facts.workers(),
        control: facts.control(),
        names: facts.names(),
        log: logging::counts(),
    };
    (format.content_type().to_owned(), text(&sample, format))
}

/// What is known at one moment.
struct Sample<'a> {
    status: &'a Status,
    /// More of each of its peers.
    peers: &'a [PeerNow],
    /// Since 1970-01-01.
    began: Duration,
    workers: &'a [CachePadded<WorkerCounters>],
    control: &'a ControlCounters,
    names: &'a NamesCounters,
    log: logging::Counts,
}

fn text(sample: &Sample<'_>, format: Format) -> String {
    let mut text = Exposition::new(format);
    daemon(&mut text, sample);
    workers(&mut text, sample);
    drops(&mut text, sample.status);
    peers(&mut text, sample);
    sessions(&mut text, sample.control);
    upkeep(&mut text, sample);
    if let Some(status) = &sample.status.switch {
        switch(&mut text, status);
    }
    if let Some(status) = &sample.status.network {
        network(&mut text, status);
        let mut questions = text.family(&f::NAMES);
        for (result, count) in sample.names.results() {
            questions.sample(&[result], count);
        }
    }
    text.finish()
}

fn daemon(text: &mut Exposition, sample: &Sample<'_>) {
    let Status { version, device, transport, network, .. } = sample.status;
    let node = network.as_ref().map_or("", |network| network.node.as_str());
    text.family(&f::BUILD).sample(&[version], 1);
    text.family(&f::START_TIME).sample(&[], sample.began.as_secs_f64());
    text.family(&f::DEVICE).sample(&[&device.name, &device.mode, node], 1);
    text.family(&f::DEVICE_MTU).sample(&[], device.mtu);
    one_of(text, &f::DEVICE_OFFLOAD, &OFFLOADS, |offload| device.offloads.iter().any(|given| given == offload));
    let mut buffers = text.family(&f::SOCKET_BUFFER);
    for (direction, bytes) in DIRECTIONS.iter().zip([transport.receive_buffer, transport.send_buffer]) {
        buffers.sample(&[direction], bytes);
    }
}

fn workers(text: &mut Exposition, sample: &Sample<'_>) {
    type Of<T> = fn(&WorkerCounters) -> T;
    type OfBatches = fn(&Batches) -> &Histogram;
    let numbers: Vec<String> = (0..sample.workers.len()).map(|number| number.to_string()).collect();
    let each = || numbers.iter().map(String::as_str).zip(sample.workers.iter().map(|worker| &**worker));
    let both: [(&'static Family, Of<[u64; 2]>); 2] = [
        (&f::WORKER_PACKETS, |worker| [worker.ingress.packets.get(), worker.egress.packets.get()]),
        (&f::WORKER_BYTES, |worker| [worker.ingress.bytes.get(), worker.egress.bytes.get()]),
    ];
    for (family, of) in both {
        let mut samples = text.family(family);
        for (number, worker) in each() {
            for (direction, value) in DIRECTIONS.iter().zip(of(worker)) {
                samples.sample(&[number, direction], value);
            }
        }
    }
    let alone: [(&'static Family, Of<u64>); 4] = [
        (&f::WORKER_DEVICE_READS, |worker| worker.device_reads.get()),
        (&f::WORKER_DEVICE_WRITES, |worker| worker.device_writes.get()),
        (&f::WORKER_RECEIVES, |worker| worker.receives.get()),
        (&f::WORKER_SENDS, |worker| worker.sends.get()),
    ];
    for (family, of) in alone {
        let mut samples = text.family(family);
        for (number, worker) in each() {
            samples.sample(&[number], of(worker));
        }
    }
    let histograms: [(&'static Family, OfBatches); 4] = [
        (&f::DEVICE_BATCH, |batches| &batches.device),
        (&f::RECEIVE_BATCH, |batches| &batches.received),
        (&f::SEND_BATCH, |batches| &batches.sent),
        (&f::TURN, |batches| &batches.turns),
    ];
    for (family, of) in histograms {
        let mut samples = text.family(family);
        for (number, worker) in each() {
            samples.histogram(&[number], of(&worker.batches));
        }
    }
}

fn drops(text: &mut Exposition, status: &Status) {
    let mut samples = text.family(&f::DROPPED);
    for reason in Reason::ALL {
        samples.sample(&[reason.name()], status.drops.get(reason.name()).copied().unwrap_or(0));
    }
}

fn peers(text: &mut Exposition, sample: &Sample<'_>) {
    type Of<T> = fn(&PeerStatus, &PeerNow) -> T;
    let status = sample.status;
    let mut samples = text.family(&f::PEERS);
    for session in SESSIONS {
        samples.sample(&[session], status.peers.iter().filter(|peer| peer.session == session).count());
    }
    // A family without samples is none.
    if status.peers.is_empty() {
        return;
    }
    let all = || status.peers.iter().zip(sample.peers);
    let named = || all().take(NAMED_PEERS);
    let mut samples = text.family(&f::PEER);
    for (peer, _) in named() {
        samples.sample(&[&peer.name, &peer.transport], 1);
    }
    let both: [(&'static Family, Of<[u64; 2]>); 3] = [
        (&f::PEER_PACKETS, |peer, _| [peer.rx_packets, peer.tx_packets]),
        (&f::PEER_BYTES, |peer, _| [peer.rx_bytes, peer.tx_bytes]),
        (&f::PEER_WIRE_BYTES, |_, now| [now.received, now.sent]),
    ];
    for (family, of) in both {
        let mut samples = text.family(family);
        for (peer, now) in named() {
            for (direction, value) in DIRECTIONS.iter().zip(of(peer, now)) {
                samples.sample(&[&peer.name, direction], value);
            }
        }
        if status.peers.len() > NAMED_PEERS {
            let others = all().skip(NAMED_PEERS).map(|(peer, now)| of(peer, now));
            let sum = others.fold([0u64; 2], |[a, b], [c, d]| [a.wrapping_add(c), b.wrapping_add(d)]);
            for (direction, value) in DIRECTIONS.iter().zip(sum) {
                samples.sample(&[OTHERS, direction], value);
            }
        }
    }
    if named().any(|(peer, _)| peer.secure) {
        let mut samples = text.family(&f::PEER_SESSION);
        for (peer, _) in named().filter(|(peer, _)| peer.secure) {
            for session in SESSIONS {
                samples.sample(&[&peer.name, session], u8::from(peer.session == session));
            }
        }
    }
    let gauges: [(&'static Family, Of<Option<f64>>); 3] = [
        (&f::PEER_HANDSHAKE, |_, now| now.handshake.map(|at| at.as_secs_f64())),
        (&f::PEER_MTU, |peer, _| peer.path_mtu.map(|mtu| mtu as f64)),
        (&f::PEER_ROUND_TRIP, |peer, _| peer.round_trip_us.map(|took| took as f64 / 1e6)),
    ];
    for (family, of) in gauges {
        let known: Vec<_> = named().filter_map(|(peer, now)| Some((peer, of(peer, now)?))).collect();
        if !known.is_empty() {
            let mut samples = text.family(family);
            for (peer, value) in known {
                samples.sample(&[&peer.name], value);
            }
        }
    }
}

fn sessions(text: &mut Exposition, control: &ControlCounters) {
    text.family(&f::HANDSHAKES).sample(&[], control.handshakes.get());
    let mut samples = text.family(&f::HANDSHAKE_FAILURES);
    for (cause, count) in control.failed_handshakes() {
        samples.sample(&[cause.name()], count);
    }
    text.family(&f::ROUND_TRIP).histogram(&[], &control.round_trips);
    text.family(&f::GAPS).sample(&[], control.gaps.get());
}

fn upkeep(text: &mut Exposition, sample: &Sample<'_>) {
    let Sample { status, control, log, .. } = sample;
    let mut samples = text.family(&f::REPAIRS);
    let repairs =
        [("host", &control.repairs), ("containers", &control.container_repairs), ("device", &control.revivals)];
    for (what, count) in repairs {
        samples.sample(&[what], count.get());
    }
    text.family(&f::CHANGES).sample(&[], control.changes.get());
    let of_peers = status.peers.iter().filter(|peer| peer.problem.is_some()).count();
    let of_network = status
        .network
        .as_ref()
        .map_or(0, |network| network.problems.len() + usize::from(network.registry_problem.is_some()));
    let of_switch = usize::from(status.switch.as_ref().is_some_and(|switch| switch.problem.is_some()));
    text.family(&f::PROBLEMS).sample(&[], of_peers + of_network + of_switch);
    for (family, counts) in [(&f::LOG_LINES, log.written), (&f::LOG_WITHHELD, log.withheld)] {
        let mut samples = text.family(family);
        for (level, count) in logging::LEVELS.iter().zip(counts) {
            samples.sample(&[level], count);
        }
    }
}

fn switch(text: &mut Exposition, switch: &SwitchStatus) {
    let mut samples = text.family(&f::SWITCH_MACS);
    samples.sample(&["local"], switch.local_macs);
    samples.sample(&["peers"], switch.peer_macs);
    for (family, value) in [
        (&f::SWITCH_NEIGHBOURS, switch.neighbours),
        (&f::SWITCH_MOVES, switch.moves),
        (&f::SWITCH_REFUSED, switch.refused),
        (&f::SWITCH_FLOODED, switch.flooded),
        (&f::SWITCH_ANSWERED, switch.answered),
    ] {
        text.family(family).sample(&[], value);
    }
}

fn network(text: &mut Exposition, network: &NetworkStatus) {
    text.family(&f::REGISTRY_CONNECTED).sample(&[], u8::from(network.registry_problem.is_none()));
    let known = [
        (&f::REGISTRY_REVISION, network.registry_revision),
        (&f::REGISTRY_AGE, network.registry_age_s.map(|age| i64::try_from(age).unwrap_or(i64::MAX))),
        (&f::LEASE_AGE, network.lease_age_s.map(|age| i64::try_from(age).unwrap_or(i64::MAX))),
        (&f::LEASE_LEFT, network.lease_s.map(|left| i64::try_from(left).unwrap_or(i64::MAX))),
        (&f::SECRET_EPOCH, network.epoch.map(i64::from)),
    ];
    for (family, value) in known {
        if let Some(value) = value {
            text.family(family).sample(&[], value);
        }
    }
    text.family(&f::REGISTRY_SKIPPED).sample(&[], network.skipped);
    one_of(text, &f::LEASE, &LEASES, |state| network.lease == state);
    text.family(&f::NODES).sample(&[], network.nodes.len());
    text.family(&f::CLIENTS).sample(&[], network.clients.len());
    let mut samples = text.family(&f::CONTAINERS);
    for door in DOORS {
        samples.sample(&[door], network.containers.iter().filter(|container| container.door == door).count());
    }
}

/// A sample for each word: 1 where it holds.
fn one_of(text: &mut Exposition, family: &'static Family, words: &[&str], holds: impl Fn(&str) -> bool) {
    let mut samples = text.family(family);
    for word in words {
        samples.sample(&[word], u8::from(holds(word)));
    }
}
