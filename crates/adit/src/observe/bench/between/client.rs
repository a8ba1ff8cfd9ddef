//! The loads between two nodes, from the process of `adit bench --to`: it speaks to the service of the other daemon through the tunnel, as any
//! program of this host would.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linux::bound;
use serde::de::DeserializeOwned;

use super::report::{Fault, Report, Way};
use super::serve::{Purpose, State, Taken};
use super::{MAX_SECONDS, Terms, Wish};
use crate::api::status::PeerStatus;
use crate::api::{self, Request, Response, Status};
use crate::lab::figures::quantile;
use crate::lab::screen::Screen;
use crate::lab::watch::Watch;
use crate::lab::{OPTIMISED, load, print_json, processor, start_thread};
use crate::observe::bench::datagram::{self, Token};
use crate::observe::bench::measure::{Figures, Metric};
use crate::observe::bench::summary;
use crate::{Failure, Result};

/// How long a connection through the tunnel may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the other side may take to say what it has seen, beyond the load.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to read what is on its way to it when a load ends.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the daemon here may take to get an answer from there.
const AGREEMENT: Duration = Duration::from_secs(10);
/// Loads of a round.
const LOADS: f64 = 6.0;

/// What `adit bench --to` was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The other node, as `adit status` names it.
    pub node: String,
    /// Our device, where it is not clear.
    pub device: Option<String>,
    /// Where daemons have their sockets.
    pub runtime: PathBuf,
    /// How often each load is put on.
    pub rounds: usize,
    /// For how long each time.
    pub load: Duration,
    /// One JSON document on standard output in place of the table.
    pub json: bool,
}

/// Measures between this host and a node, and says what came out.
///
/// # Errors
/// What the node or the daemon here refused, or what failed; each with what to do.
pub fn run(options: &Options) -> Result<()> {
    let seconds = (options.load.as_secs_f64() * LOADS * options.rounds as f64).ceil();
    if seconds > f64::from(MAX_SECONDS) {
        return Err(Failure::usage(format!(
            "{} rounds of six loads of {} s take {seconds:.0} s, and another node gives {MAX_SECONDS} s at most: ask for fewer --rounds or \
             --seconds",
            options.rounds,
            options.load.as_secs_f64()
        )));
    }
    let watch = Watch::new()?;
    let screen = Screen::new(options.json);
    let start = Instant::now();
    let (device, status) = find(options)?;
    screen.progress(&format!("asking {}", options.node));
    let wish = Wish { node: options.node.clone(), seconds: seconds as u32 };
    let terms =
        match api::call_within(&api::control_socket(&options.runtime, &device), Request::Bench(wish), AGREEMENT)? {
            Response::Bench(terms) => terms,
            Response::Error { sentence } => return Err(Failure::failed(sentence)),
            Response::Fault { sentence } => return Err(Failure::usage(sentence)),
            _ => return Err(Failure::failed(format!("the daemon of {device} answered something else"))),
        };
    // Where the device is a port of a bridge, that has the addresses.
    let bridge = status.switch.as_ref().and_then(|switch| switch.bridge.as_deref());
    let mut bench = Bench::open(bridge.unwrap_or(&device), &options.node, terms, status.pid)?;
    let (mut rounds, mut faults) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let (figures, failed) = bench.round(options.load, &watch, |title| {
            screen.progress(&format!("round {round} of {}: {title}", options.rounds));
        })?;
        rounds.push(figures);
        faults.extend(failed.into_iter().map(|what| Fault { round, what }));
    }
    screen.clear_progress();
    // As it is after the loads: a path's size may have been found meanwhile.
    let after = api::status(&options.runtime, &device)?;
    let peer = after.peers.iter().find(|peer| peer.name == options.node);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        kind: "nodes",
        optimised: OPTIMISED,
        node: options.node.clone(),
        node_version: bench.terms.version.clone(),
        way: way(&device, &after, peer, &bench.terms),
        rounds: options.rounds,
        load_seconds: options.load.as_secs_f64(),
        seconds: start.elapsed().as_secs_f64(),
        figures: summary::figures(&rounds, &Metric::BETWEEN),
        faults,
    };
    if options.json {
        print_json(&report)?;
    } else {
        screen.say(report.text(screen.style()).trim_end());
    }
    match report.faults.first() {
        Some(Fault { what, .. }) => Err(Failure::failed(format!("a load failed: {what}"))),
        None => Ok(()),
    }
}

/// The daemon that has the node as a peer.
fn find(options: &Options) -> Result<(String, Status)> {
    let runtime: &Path = &options.runtime;
    if let Some(device) = &options.device {
        return Ok((device.clone(), api::status(runtime, device)?));
    }
    let all: Vec<_> = api::daemons(runtime)?
        .into_iter()
        .filter_map(|device| api::status(runtime, &device).ok().map(|status| (device, status)))
        .collect();
    let knows = |status: &Status| status.peers.iter().any(|peer| peer.name == options.node);
    let mut found: Vec<_> = all.iter().filter(|(_, status)| knows(status)).cloned().collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some((device, _)), false) => Err(Failure::usage(format!(
            "several daemons have a peer {:?}: say which, such as --device {device}",
            options.node
        ))),
        (None, _) if all.is_empty() => Err(Failure::failed(format!(
            "no adit daemon is running in {}: start one with `adit up --config FILE`",
            runtime.display()
        ))),
        (None, _) => {
            let names = all.iter().flat_map(|(_, status)| &status.peers).map(|peer| peer.name.as_str()).take(8);
            let names: Vec<_> = names.collect();
            let known =
                if names.is_empty() { "there are none".into() } else { format!("there are {}", names.join(", ")) };
            Err(Failure::failed(format!("no daemon here has a peer {:?}: {known}", options.node))
                .with_remedy("`adit status` lists them all"))
        }
    }
}

fn way(device: &str, status: &Status, peer: Option<&PeerStatus>, terms: &Terms) -> Way {
    Way {
        device: device.to_owned(),
        from: terms.from.to_string(),
        to: terms.to.to_string(),
        endpoint: peer.and_then(|peer| peer.endpoint.clone()),
        transport: peer.map(|peer| peer.transport.clone()).unwrap_or_default(),
        encrypted: peer.is_some_and(|peer| peer.secure),
        suite: peer.and_then(|peer| peer.suite.clone()),
        mtu: status.device.mtu,
        path_mtu: peer.and_then(|peer| peer.path_mtu),
    }
}

/// An open bench; the other side ends it when this is dropped.
struct Bench {
    device: String,
    node: String,
    terms: Terms,
    token: Token,
    pid: u32,
    control: BufReader<TcpStream>,
}

impl Bench {
    fn open(device: &str, node: &str, terms: Terms, pid: u32) -> Result<Self> {
        let token = terms.token().ok_or_else(|| Failure::failed(format!("{node} gave no token")))?;
        let at = SocketAddr::new(terms.to, terms.port);
        let control = bound::connect(device, terms.from, at, CONNECT).map_err(|error| {
            Failure::from(error).with_remedy(format!(
                "{node} waits there, so a firewall may stand before it: let TCP and UDP from {} in by the tunnel device on {node}",
                terms.from
            ))
        })?;
        let broke = |error| broke(node, &error);
        control.set_read_timeout(Some(ANSWER)).map_err(broke)?;
        (&control).write_all(&Purpose::Control.head(&token)).map_err(broke)?;
        let (device, node) = (device.to_owned(), node.to_owned());
        Ok(Self { device, node, terms, token, pid, control: BufReader::new(control) })
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::new(self.terms.to, self.terms.port)
    }

    fn broke(&self, error: std::io::Error) -> Failure {
        broke(&self.node, &error)
    }

    /// What the other side knows now.
    fn state(&mut self) -> Result<State> {
        let asked = self.control.get_mut().write_all(b"?");
        asked.map_err(|error| self.broke(error))?;
        read_line(&mut self.control).map_err(|error| self.broke(error))
    }

    /// Processor time of the workers, here and there, in nanoseconds.
    fn workers(&mut self) -> Result<[Option<u64>; 2]> {
        Ok([processor::worker_nanoseconds(Some(self.pid)), self.state()?.worker_ns])
    }

    /// Every load once; what fails is answered beside the figures of the others.
    fn round(
        &mut self,
        duration: Duration,
        watch: &Watch,
        mut progress: impl FnMut(&'static str),
    ) -> Result<(Figures, Vec<String>)> {
        let mut figures = Figures::new();
        let mut faults = Vec::new();
        let (mut bytes, before) = (0.0, self.workers()?);
        for (metric, streams) in [(Metric::Tcp1, 1), (Metric::Tcp1Back, 1), (Metric::Tcp4, 4), (Metric::Tcp4Back, 4)] {
            progress(metric.title());
            let back = matches!(metric, Metric::Tcp1Back | Metric::Tcp4Back);
            let moved = if back { self.fetch(streams, duration, watch) } else { self.send(streams, duration, watch) };
            watch.check()?;
            match moved {
                Ok(moved) => {
                    bytes += moved.bytes;
                    figures.insert(metric, moved.bits_per_second / 1e9);
                }
                Err(failure) => faults.push(format!("{}: {failure}", metric.title())),
            }
        }
        let after = self.workers()?;
        for (metric, (before, after)) in
            [Metric::CpuHere, Metric::CpuThere].into_iter().zip(before.into_iter().zip(after))
        {
            if let (Some(before), Some(after), true) = (before, after, bytes > 0.0) {
                figures.insert(metric, after.saturating_sub(before) as f64 / bytes);
            }
        }
        progress(Metric::Small.title());
        let small = self.small(duration, watch);
        watch.check()?;
        progress("RTT");
        let trips = self.trips(duration, watch);
        watch.check()?;
        for (title, outcome) in [(Metric::Small.title(), small), ("RTT", trips)] {
            match outcome {
                Ok(brought) => figures.extend(brought),
                Err(failure) => faults.push(format!("{title}: {failure}")),
            }
        }
        Ok((figures, faults))
    }

    fn connect(&self, purpose: Purpose) -> Result<TcpStream> {
        let mut stream = bound::connect(&self.device, self.terms.from, self.at(), CONNECT)?;
        let broke = |error| self.broke(error);
        stream.set_write_timeout(Some(ANSWER)).and_then(|()| stream.set_read_timeout(Some(ANSWER))).map_err(broke)?;
        stream.write_all(&purpose.head(&self.token)).map_err(broke)?;
        Ok(stream)
    }

    /// Streams for a purpose, and each once more, to end those who wait for it.
    fn streams(&self, count: usize, purpose: Purpose) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
        let streams = (0..count).map(|_| self.connect(purpose)).collect::<Result<Vec<_>>>()?;
        let again = streams.iter().map(TcpStream::try_clone).collect::<std::io::Result<_>>();
        Ok((streams, again.map_err(|error| self.broke(error))?))
    }

    /// Streams to the node.
    fn send(&self, count: usize, duration: Duration, watch: &Watch) -> Result<Moved> {
        let stop = AtomicBool::new(false);
        let taken = self.at_once(count, Purpose::Sink, (duration, watch), &stop, |stream| -> Result<Taken> {
            load::send(&stream, &stop)?;
            // What is still in queues belongs to it, and a slow way takes its time.
            stream
                .shutdown(Shutdown::Write)
                .and_then(|()| stream.set_read_timeout(Some(DRAIN)))
                .and_then(|()| read_line(&mut BufReader::new(stream)))
                .map_err(|error| self.broke(error))
        })?;
        Ok(Moved::of(taken.into_iter().map(|taken| (taken.bytes, Duration::from_nanos(taken.nanoseconds)))))
    }

    /// Streams from the node.
    fn fetch(&self, count: usize, duration: Duration, watch: &Watch) -> Result<Moved> {
        let milliseconds = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let stop = AtomicBool::new(false);
        let purpose = Purpose::Source(milliseconds);
        let received = self.at_once(count, purpose, (duration, watch), &stop, load::receive)?;
        Ok(Moved::of(received.into_iter().map(|one| (one.bytes, one.last.duration_since(one.first)))))
    }

    /// Works on so many streams, each on a thread of its own, and says `stop` after a while; at a signal all of them end at once.
    fn at_once<T: Send>(
        &self,
        count: usize,
        purpose: Purpose,
        (duration, watch): (Duration, &Watch),
        stop: &AtomicBool,
        work: impl Fn(TcpStream) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let (streams, again) = self.streams(count, purpose)?;
        thread::scope(|scope| {
            let work = &work;
            let mut workers = Vec::new();
            let mut started = Ok(());
            for stream in streams {
                let worker = start_thread(scope, "load", move || work(stream));
                started = started.and(worker.map(|worker| workers.push(worker)));
            }
            let waited = started.and_then(|()| watch.pause(duration));
            stop.store(true, Ordering::Relaxed);
            if waited.is_err() {
                again.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            }
            // Else the other end would not see that we are done.
            drop(again);
            let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            waited?;
            ended.into_iter().map(|outcome| outcome.map_err(|_| died())?).collect()
        })
    }

    fn datagrams(&self) -> Result<UdpSocket> {
        let socket = bound::datagrams(&self.device, SocketAddr::new(self.terms.from, 0))?;
        socket.connect(self.at()).map_err(|error| self.broke(error))?;
        Ok(socket)
    }

    /// Small packets, as many as this host can give.
    fn small(&mut self, duration: Duration, watch: &Watch) -> Result<BTreeMap<Metric, f64>> {
        let socket = self.datagrams()?;
        let before = self.state()?.counted;
        let start = Instant::now();
        let (sent, elapsed) =
            during(duration, watch, |stop| (datagram::flood(&socket, &self.token, stop), start.elapsed()))?;
        // What is still in queues belongs to it: counted until no more comes.
        let deadline = Instant::now() + ANSWER;
        let mut counted = self.state()?.counted;
        while Instant::now() < deadline {
            watch.pause(Duration::from_millis(30))?;
            let now = self.state()?.counted;
            if now == counted {
                break;
            }
            counted = now;
        }
        let arrived = counted.saturating_sub(before);
        if sent == 0 || arrived == 0 {
            return Err(Failure::failed(format!("of {sent} packets none arrived")));
        }
        let loss = 1.0 - (arrived as f64 / sent as f64).min(1.0);
        Ok([(Metric::Small, arrived as f64 / elapsed.as_secs_f64() / 1e3), (Metric::SmallLoss, loss)].into())
    }

    /// One small packet at a time, there and back.
    fn trips(&self, duration: Duration, watch: &Watch) -> Result<BTreeMap<Metric, f64>> {
        let socket = self.datagrams()?;
        let trips = during(duration, watch, |stop| datagram::trips(&socket, &self.token, stop))?;
        let all = trips.times.len() as u64 + trips.lost;
        if trips.times.is_empty() {
            return Err(Failure::failed(format!("none of {all} packets came back")));
        }
        let microseconds = |share| quantile(&trips.times, share) as f64 / 1e3;
        let lost = trips.lost as f64 / all as f64;
        Ok([(Metric::P50, microseconds(0.5)), (Metric::P99, microseconds(0.99)), (Metric::TripLoss, lost)].into())
    }
}

/// What streams moved together.
struct Moved {
    bytes: f64,
    bits_per_second: f64,
}

impl Moved {
    /// Streams that ran at the same time: their speeds are added.
    fn of(streams: impl Iterator<Item = (u64, Duration)>) -> Self {
        let mut moved = Self { bytes: 0.0, bits_per_second: 0.0 };
        for (bytes, time) in streams.filter(|(_, time)| !time.is_zero()) {
            moved.bytes += bytes as f64;
            moved.bits_per_second += bytes as f64 * 8.0 / time.as_secs_f64();
        }
        moved
    }
}

/// Does something on another thread for so long.
fn during<T: Send>(duration: Duration, watch: &Watch, work: impl FnOnce(&AtomicBool) -> T + Send) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let working = start_thread(scope, "load", move || work(stop))?;
        let waited = watch.pause(duration);
        stop.store(true, Ordering::Relaxed);
        let outcome = working.join().map_err(|_| died());
        waited.and(outcome)
    })
}

fn died() -> Failure {
    Failure::failed("a thread of the load ended unexpectedly")
}

/// The longest line of the other side, in bytes.
const LINE: u64 = 4096;

/// What became of a connection through the tunnel.
fn broke(node: &str, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind;
    let why = match error.kind() {
        // What a socket says whose time is up.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("nothing came for {} s", ANSWER.as_secs()),
        ErrorKind::UnexpectedEof => "it was closed there".to_owned(),
        _ => error.to_string(),
    };
    Failure::failed(format!("the connection to {node} broke: {why}"))
        .with_remedy("`adit status` says how the session is")
}

fn read_line<T: DeserializeOwned>(reader: &mut BufReader<TcpStream>) -> std::io::Result<T> {
    use std::io::Read;
    let mut line = Vec::new();
    reader.take(LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}
