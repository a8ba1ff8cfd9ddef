//! The built-in load: one TCP stream between two namespaces, over real sockets.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linux::netns::NetNs;
use linux::poll::readable;

use super::watch::Watch;
use crate::{Failure, Result};

/// Bytes handed over in one call. Larger ones gain nothing: the kernel cuts them into super-packets of 64 KiB.
const BUFFER: usize = 128 * 1024;
/// How long a connection may take, and how long data may stop in the middle.
const PATIENCE: Duration = Duration::from_secs(5);
/// Units of `/proc/stat`: USER_HZ, which is 100 on every architecture that Rust's std runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a load brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Bytes received after the first read.
    pub(super) bytes: u64,
    /// Time from the first read to the last.
    pub(super) elapsed: Duration,
    /// Seconds that the processors of the whole machine were busy meanwhile.
    pub(super) cpu_seconds: f64,
}

impl Load {
    /// 10⁹ bits per second.
    pub(super) fn gigabits_per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 * 8.0 / 1e9 / seconds } else { 0.0 }
    }

    /// Busy seconds of all processors per 10⁹ bytes.
    pub(super) fn cpu_seconds_per_gigabyte(&self) -> f64 {
        if self.bytes > 0 { self.cpu_seconds / (self.bytes as f64 / 1e9) } else { 0.0 }
    }
}

/// Sends from one namespace to `address` in another for the time of `duration`.
///
/// # Errors
/// No connection, or one that broke; or a signal.
pub(super) fn measure(from: &NetNs, to: (&NetNs, Ipv4Addr), duration: Duration, watch: &Watch) -> Result<Load> {
    let (sender, receiver) = connect(from, to)?;
    let stop = AtomicBool::new(false);
    let busy_before = busy_seconds();
    thread::scope(|scope| {
        let start = |name: &str, work: Box<dyn FnOnce() -> Result<Received> + Send>| {
            thread::Builder::new().name(name.into()).spawn_scoped(scope, work).map_err(|error| {
                stop.store(true, Ordering::Relaxed);
                Failure::failed(format!("cannot start a thread: {error}"))
            })
        };
        let stop = &stop;
        let sending = start("send", Box::new(move || send(sender, stop)))?;
        let receiving = start("receive", Box::new(move || receive(receiver)));
        let waited = receiving.as_ref().map_or(Ok(()), |_| watch.pause(duration));
        stop.store(true, Ordering::Relaxed);
        let died = || Failure::failed("a thread of the load ended unexpectedly");
        let sent = sending.join().map_err(|_| died())?;
        let received = receiving?.join().map_err(|_| died())?;
        waited?;
        let (received, _) = (received?, sent?);
        let cpu_seconds = (busy_seconds() - busy_before).max(0.0);
        Ok(Load { bytes: received.bytes, elapsed: received.elapsed, cpu_seconds })
    })
}

#[derive(Debug, Clone, Copy, Default)]
struct Received {
    bytes: u64,
    elapsed: Duration,
}

/// Sockets stay in the namespace where they were made, whoever uses them afterwards.
fn connect(from: &NetNs, (to, address): (&NetNs, Ipv4Addr)) -> Result<(TcpStream, TcpStream)> {
    let failed = |error| Failure::failed(format!("cannot connect to {address} for the load: {error}"));
    let listener = to.run(|| TcpListener::bind((address, 0)))?.map_err(failed)?;
    let listening = listener.local_addr().map_err(failed)?;
    let sender = from.run(|| TcpStream::connect_timeout(&SocketAddr::from((address, listening.port())), PATIENCE))?;
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
    Ok((sender, receiver))
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<Received> {
    let buffer = vec![0xad; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&buffer).map_err(broke)?;
    }
    // Dropping the stream tells the receiver that this was all.
    Ok(Received::default())
}

fn receive(mut stream: TcpStream) -> Result<Received> {
    let mut buffer = vec![0; BUFFER];
    let mut first: Option<Instant> = None;
    let mut received = Received::default();
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(received),
            Ok(length) => match first {
                None => first = Some(Instant::now()),
                Some(first) => {
                    received.bytes += length as u64;
                    received.elapsed = first.elapsed();
                }
            },
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

/// Seconds that all processors have been busy since the machine started; 0 where the kernel does not tell.
fn busy_seconds() -> f64 {
    fs::read_to_string("/proc/stat").ok().and_then(|text| parse_busy(&text)).unwrap_or(0.0)
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
fn parse_busy(text: &str) -> Option<f64> {
    let fields: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8).filter_map(|f| f.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, rest @ ..] = fields.as_slice() else { return None };
    let busy = [user, nice, system].into_iter().chain(rest).fold(0u64, |sum, field| sum.saturating_add(*field));
    Some(busy as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(parse_busy("cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 1\n"), Some(1.71));
        assert_eq!(parse_busy("cpu0 1 2 3"), None);
    }

    #[test]
    fn figures_are_per_second_and_per_gigabyte() {
        let load = Load { bytes: 2_500_000_000, elapsed: Duration::from_secs(2), cpu_seconds: 5.0 };
        assert_eq!((load.gigabits_per_second(), load.cpu_seconds_per_gigabyte()), (10.0, 2.0));
        let nothing = Load { bytes: 0, elapsed: Duration::ZERO, cpu_seconds: 5.0 };
        assert_eq!((nothing.gigabits_per_second(), nothing.cpu_seconds_per_gigabyte()), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            parse_busy(&text);
        }

        #[test]
        fn any_numbers_are_added_without_overflow(numbers in proptest::collection::vec(any::<u64>(), 0..10)) {
            let line: Vec<_> = numbers.iter().map(u64::to_string).collect();
            parse_busy(&format!("cpu  {}", line.join(" ")));
        }
    }
}
