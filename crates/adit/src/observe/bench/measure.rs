//! One system, once: the loads one after the other, and what each brought.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linux::netns::NetNs;

use super::datagram;
use super::field::Lane;
use crate::lab::figures::quantile;
use crate::lab::load;
use crate::lab::start_thread;
use crate::lab::watch::Watch;
use crate::{Failure, Result};

/// What is measured of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    /// One TCP stream to the other host, in 10⁹ bits per second.
    Tcp1,
    /// One from it.
    Tcp1Back,
    /// Four streams to it, together.
    Tcp4,
    /// Four from it.
    Tcp4Back,
    /// Busy seconds of all processors for 10⁹ bytes of one stream, both ways together.
    Cpu,
    /// UDP packets of 64 bytes that arrived while a sender gave all it could, in thousands per second.
    Small,
    /// Microseconds of a round trip of 64 bytes: half of them took no longer,
    P50,
    /// and 99 of 100 no longer than this.
    P99,
    /// Between nodes: seconds that the workers of the daemon here were on processors for 10⁹ bytes of TCP.
    CpuHere,
    /// Those of the daemon there.
    CpuThere,
    /// The part of the small packets that did not arrive.
    SmallLoss,
    /// The part of the round trips that was none.
    TripLoss,
}

impl Metric {
    /// Those of a system, in the order of the table.
    pub(super) const ALL: [Self; 8] =
        [Self::Tcp1, Self::Tcp1Back, Self::Tcp4, Self::Tcp4Back, Self::Cpu, Self::Small, Self::P50, Self::P99];

    /// Those between two nodes, in the order of their table.
    pub(super) const BETWEEN: [Self; 11] = [
        Self::Tcp1,
        Self::Tcp1Back,
        Self::Tcp4,
        Self::Tcp4Back,
        Self::CpuHere,
        Self::CpuThere,
        Self::Small,
        Self::SmallLoss,
        Self::P50,
        Self::P99,
        Self::TripLoss,
    ];

    /// The key in JSON, with its unit.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1_gbps",
            Self::Tcp1Back => "tcp1_back_gbps",
            Self::Tcp4 => "tcp4_gbps",
            Self::Tcp4Back => "tcp4_back_gbps",
            Self::Cpu => "cpu_s_per_gb",
            Self::Small => "udp64_kpps",
            Self::P50 => "rtt_p50_us",
            Self::P99 => "rtt_p99_us",
            Self::CpuHere => "cpu_here_s_per_gb",
            Self::CpuThere => "cpu_there_s_per_gb",
            Self::SmallLoss => "udp64_lost",
            Self::TripLoss => "rtt_lost",
        }
    }

    /// As it is called in a sentence.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP x1",
            Self::Tcp1Back => "TCP x1 back",
            Self::Tcp4 => "TCP x4",
            Self::Tcp4Back => "TCP x4 back",
            Self::Cpu => "CPU s/GB",
            Self::Small => "UDP 64 B",
            Self::P50 => "RTT p50",
            Self::P99 => "RTT p99",
            Self::CpuHere => "CPU here",
            Self::CpuThere => "CPU there",
            Self::SmallLoss => "UDP 64 B lost",
            Self::TripLoss => "RTT lost",
        }
    }
}

/// What one round brought; what failed is not in it.
pub(super) type Figures = BTreeMap<Metric, f64>;

/// How long a count that is to stand still is looked at, and how long it may take.
const STANDSTILL: Duration = Duration::from_millis(5);
const SETTLING: Duration = Duration::from_secs(1);

/// The loads of a round, in their order.
pub(super) const LOADS: usize = 6;

/// Puts every load on a lane, each for that long; what fails is answered beside the figures of the others.
///
/// # Errors
/// A signal.
pub(super) fn round(
    lane: &Lane<'_>,
    duration: Duration,
    watch: &Watch,
    mut progress: impl FnMut(&'static str),
) -> Result<(Figures, Vec<String>)> {
    let [(here, own), (there, far)] = lane.ends;
    let mut figures = Figures::new();
    let mut faults = Vec::new();
    let mut take = |title, outcome: Result<Vec<(Metric, f64)>>| match outcome {
        Ok(brought) => figures.extend(brought),
        Err(failure) => faults.push(format!("{title}: {failure}")),
    };
    let (mut busy, mut bytes) = (0.0, 0);
    for (metric, streams, from, to) in [
        (Metric::Tcp1, 1, here, (there, far)),
        (Metric::Tcp1Back, 1, there, (here, own)),
        (Metric::Tcp4, 4, here, (there, far)),
        (Metric::Tcp4Back, 4, there, (here, own)),
    ] {
        progress(metric.title());
        let load = load::measure(from, to, streams, duration, watch);
        watch.check()?;
        if let (Ok(load), 1) = (&load, streams) {
            busy += load.cpu_seconds;
            bytes += load.bytes;
        }
        take(metric.title(), load.map(|load| vec![(metric, load.gigabits_per_second())]));
    }
    if bytes > 0 {
        take(Metric::Cpu.title(), Ok(vec![(Metric::Cpu, busy / (bytes as f64 / 1e9))]));
    }
    progress(Metric::Small.title());
    let small = small_packets(here, (there, far), own, duration, watch);
    watch.check()?;
    take(Metric::Small.title(), small.map(|kpps| vec![(Metric::Small, kpps)]));
    progress("RTT");
    let trips = round_trips(here, (there, far), own, duration, watch);
    watch.check()?;
    take("RTT", trips);
    Ok((figures, faults))
}

/// Thousands of packets per second that arrived.
fn small_packets(
    here: &NetNs,
    to: (&NetNs, Ipv4Addr),
    own: Ipv4Addr,
    duration: Duration,
    watch: &Watch,
) -> Result<f64> {
    let (arrived, sent, elapsed) = with_server(here, to, own, |socket, counted| {
        let enough = AtomicBool::new(false);
        let start = Instant::now();
        let sent = thread::scope(|scope| {
            let sending = start_thread(scope, "flood", || datagram::flood(socket, &TOKEN, &enough))?;
            let waited = watch.pause(duration);
            enough.store(true, Ordering::Relaxed);
            let sent = sending.join().map_err(|_| Failure::failed("the sender ended unexpectedly"));
            waited.and(sent)
        })?;
        let elapsed = start.elapsed();
        Ok((settled(counted, watch)?, sent, elapsed))
    })?;
    if sent == 0 || arrived == 0 {
        return Err(Failure::failed(format!("of {sent} packets none arrived")));
    }
    Ok(arrived as f64 / elapsed.as_secs_f64() / 1e3)
}

/// The count once it stands still: what is in queues when the sender stops belongs to it.
fn settled(counted: &AtomicU64, watch: &Watch) -> Result<u64> {
    let deadline = Instant::now() + SETTLING;
    let mut count = counted.load(Ordering::Relaxed);
    loop {
        watch.pause(STANDSTILL)?;
        let now = counted.load(Ordering::Relaxed);
        if (now == count && now > 0) || Instant::now() > deadline {
            return Ok(now);
        }
        count = now;
    }
}

/// The two quantiles.
fn round_trips(
    here: &NetNs,
    to: (&NetNs, Ipv4Addr),
    own: Ipv4Addr,
    duration: Duration,
    watch: &Watch,
) -> Result<Vec<(Metric, f64)>> {
    let trips = with_server(here, to, own, |socket, _| {
        let enough = AtomicBool::new(false);
        thread::scope(|scope| {
            let going = start_thread(scope, "trips", || datagram::trips(socket, &TOKEN, &enough))?;
            let waited = watch.pause(duration);
            enough.store(true, Ordering::Relaxed);
            let trips = going.join().map_err(|_| Failure::failed("the sender ended unexpectedly"));
            waited.and(trips)
        })
    })?;
    if trips.times.is_empty() {
        return Err(Failure::failed(format!("none of {} packets came back", trips.lost)));
    }
    let microseconds = |share| quantile(&trips.times, share) as f64 / 1e3;
    Ok(vec![(Metric::P50, microseconds(0.5)), (Metric::P99, microseconds(0.99))])
}

/// Within our own namespaces there is nobody to be told apart.
const TOKEN: datagram::Token = [0xad; datagram::TOKEN];

/// Does something with a socket in one namespace that is connected to a server in the other, and with the server's count.
fn with_server<T>(
    here: &NetNs,
    (there, far): (&NetNs, Ipv4Addr),
    own: Ipv4Addr,
    work: impl FnOnce(&UdpSocket, &AtomicU64) -> Result<T>,
) -> Result<T> {
    let failed = |error| Failure::failed(format!("cannot open a UDP socket to {far}: {error}"));
    let server = there.run(|| UdpSocket::bind((far, 0)))?.map_err(failed)?;
    let port = server.local_addr().map_err(failed)?.port();
    let client = here.run(|| UdpSocket::bind((own, 0)).and_then(|socket| socket.connect((far, port)).map(|()| socket)));
    let client = client?.map_err(failed)?;
    let (counted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        start_thread(scope, "serve", || datagram::serve(&server, own.into(), &TOKEN, &counted, &stop))?;
        let outcome = work(&client, &counted);
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}
