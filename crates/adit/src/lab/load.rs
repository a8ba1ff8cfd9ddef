//! The built-in load: TCP streams between two namespaces, over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linux::netns::NetNs;
use linux::poll::readable;

use super::processor::busy_seconds;
use super::start_thread;
use super::watch::Watch;
use crate::{Failure, Result};

/// Bytes handed over in one call. Larger ones gain nothing: the kernel cuts them into super-packets of 64 KiB.
const BUFFER: usize = 128 * 1024;
/// How long a connection may take, and how long data may stop in the middle.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a load brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Bytes received after the first read of each stream.
    pub(crate) bytes: u64,
    /// Time from the first read to the last, of all streams.
    pub(crate) elapsed: Duration,
    /// Seconds that the processors of the whole machine were busy meanwhile.
    pub(crate) cpu_seconds: f64,
}

impl Load {
    /// 10⁹ bits per second.
    pub(crate) fn gigabits_per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 * 8.0 / 1e9 / seconds } else { 0.0 }
    }

    /// Busy seconds of all processors per 10⁹ bytes.
    pub(crate) fn cpu_seconds_per_gigabyte(&self) -> f64 {
        if self.bytes > 0 { self.cpu_seconds / (self.bytes as f64 / 1e9) } else { 0.0 }
    }
}

/// Sends `streams` at once from one namespace to `address` in another for the time of `duration`.
///
/// # Errors
/// No connection, or one that broke; or a signal.
pub(crate) fn measure(
    from: &NetNs,
    to: (&NetNs, Ipv4Addr),
    streams: usize,
    duration: Duration,
    watch: &Watch,
) -> Result<Load> {
    let pairs = connect(from, to, streams)?;
    let stop = AtomicBool::new(false);
    let busy_before = busy_seconds();
    thread::scope(|scope| {
        let stop = &stop;
        let mut threads = Vec::new();
        let mut started = Ok(());
        for (sender, receiver) in pairs {
            // Where one does not start, those before it end by themselves: the streams that they wait for are closed.
            let both = start_thread(scope, "receive", move || receive(receiver).map(Some))
                .and_then(|receiving| {
                    threads.push(receiving);
                    start_thread(scope, "send", move || {
                        // Dropping the stream then tells the receiver that this was all.
                        let sender = sender;
                        send(&sender, stop).map(|()| None)
                    })
                })
                .map(|sending| threads.push(sending));
            started = started.and(both);
        }
        let waited = started.and_then(|()| watch.pause(duration));
        stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        waited?;
        let cpu_seconds = (busy_seconds() - busy_before).max(0.0);
        let mut received = Vec::new();
        for outcome in ended {
            received.extend(outcome.map_err(|_| Failure::failed("a thread of the load ended unexpectedly"))??);
        }
        let first = received.iter().map(|one| one.first).min();
        let last = received.iter().map(|one| one.last).max();
        let elapsed = first.zip(last).map_or(Duration::ZERO, |(first, last)| last.duration_since(first));
        Ok(Load { bytes: received.iter().map(|one| one.bytes).sum(), elapsed, cpu_seconds })
    })
}

/// What one stream brought, from its first read to its last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// After the first read.
    pub(crate) bytes: u64,
    pub(crate) first: Instant,
    pub(crate) last: Instant,
}

/// Sockets stay in the namespace where they were made, whoever uses them afterwards.
fn connect(from: &NetNs, (to, address): (&NetNs, Ipv4Addr), streams: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let failed = |error| Failure::failed(format!("cannot connect to {address} for the load: {error}"));
    let listener = to.run(|| TcpListener::bind((address, 0)))?.map_err(failed)?;
    let listening = listener.local_addr().map_err(failed)?;
    let mut pairs = Vec::with_capacity(streams);
    for _ in 0..streams {
        let sender =
            from.run(|| TcpStream::connect_timeout(&SocketAddr::from((address, listening.port())), PATIENCE))?;
        let sender = sender.map_err(failed)?;
        let [ready] = readable([listener.as_fd()], Some(PATIENCE))?;
        if !ready {
            return Err(failed(ErrorKind::TimedOut.into()));
        }
        let (receiver, _) = listener.accept().map_err(failed)?;
        sender
            .set_write_timeout(Some(PATIENCE))
            .and_then(|()| receiver.set_read_timeout(Some(PATIENCE)))
            .map_err(failed)?;
        pairs.push((sender, receiver));
    }
    Ok(pairs)
}

/// Sends until `stop`.
///
/// # Errors
/// The connection broke, or nothing was taken for as long as its timeout.
pub(crate) fn send(mut stream: &TcpStream, stop: &AtomicBool) -> Result<()> {
    let buffer = vec![0xad; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&buffer).map_err(broke)?;
    }
    Ok(())
}

/// Receives until the other end closes.
///
/// # Errors
/// The connection broke, or nothing came for as long as its timeout.
pub(crate) fn receive(mut stream: TcpStream) -> Result<Received> {
    let mut buffer = vec![0; BUFFER];
    let mut received: Option<Received> = None;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => {
                let now = Instant::now();
                return Ok(received.unwrap_or(Received { bytes: 0, first: now, last: now }));
            }
            Ok(length) => {
                let now = Instant::now();
                match &mut received {
                    None => received = Some(Received { bytes: 0, first: now, last: now }),
                    Some(received) => {
                        received.bytes += length as u64;
                        received.last = now;
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(broke(error)),
        }
    }
}

fn broke(error: std::io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "nothing moved for 5 seconds".to_owned(),
        _ => error.to_string(),
    };
    Failure::failed(format!("the load's connection broke: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_per_second_and_per_gigabyte() {
        let load = Load { bytes: 2_500_000_000, elapsed: Duration::from_secs(2), cpu_seconds: 5.0 };
        assert_eq!((load.gigabits_per_second(), load.cpu_seconds_per_gigabyte()), (10.0, 2.0));
        let nothing = Load { bytes: 0, elapsed: Duration::ZERO, cpu_seconds: 5.0 };
        assert_eq!((nothing.gigabits_per_second(), nothing.cpu_seconds_per_gigabyte()), (0.0, 0.0));
    }
}
