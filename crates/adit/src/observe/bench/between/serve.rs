//! What is served: a TCP listener and a UDP socket on one port of the tunnel device, for one address.
//!
//! A connection begins with the token, a byte that says what for, and a number (4 bytes, big-endian):
//!
//! | byte | what for | number | then |
//! |---|---|---|---|
//! | 1 | control | | each byte that comes is answered with a line of JSON ([`State`]); when it closes, the service ends |
//! | 2 | sink | | everything is read until the client closes its side; the answer is a line of JSON ([`Taken`]) |
//! | 3 | source | milliseconds | so long as much is sent as is taken |

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use linux::bound;
use linux::poll::readable;
use serde::{Deserialize, Serialize};

use crate::lab::processor;
use crate::observe::bench::datagram::{self, TOKEN, Token};
use crate::{Failure, Result};

/// Bytes of TCP that one bench may move, both ways together: 128 GiB, five minutes at 3.6 Gb/s or 10 s at 100 Gb/s.
pub(super) const MAX_BYTES: u64 = 128 << 30;
/// Connections at once: control, four streams, and some that are just ending.
const MAX_CONNECTIONS: usize = 12;
/// How long a connection may take to say what it is for, and control to come at all.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long a wait is before one looks whether all is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes handed over in one call.
const BUFFER: usize = 128 * 1024;
/// Bytes before the first of a connection's own.
pub(super) const HEAD: usize = TOKEN + 1 + 4;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    Sink,
    /// So many milliseconds.
    Source(u32),
}

impl Purpose {
    /// The first bytes of a connection.
    pub(super) fn head(self, token: &Token) -> [u8; HEAD] {
        let (byte, number) = match self {
            Self::Control => (1, 0),
            Self::Sink => (2, 0),
            Self::Source(milliseconds) => (3, milliseconds),
        };
        let mut head = [0; HEAD];
        for (place, byte) in head.iter_mut().zip(token.iter().copied().chain([byte]).chain(number.to_be_bytes())) {
            *place = byte;
        }
        head
    }

    /// What those bytes say, if they have the token.
    fn read(head: &[u8; HEAD], token: &Token) -> Option<Self> {
        let (theirs, rest) = head.split_first_chunk::<TOKEN>()?;
        let (byte, number) = rest.split_first()?;
        let number = u32::from_be_bytes(*number.first_chunk()?);
        if aws_lc_rs::constant_time::verify_slices_are_equal(theirs, token).is_err() {
            return None;
        }
        match byte {
            1 => Some(Self::Control),
            2 => Some(Self::Sink),
            3 => Some(Self::Source(number)),
            _ => None,
        }
    }
}

/// What the serving side knows at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Small packets that arrived so far.
    pub(super) counted: u64,
    /// Nanoseconds that its workers have spent on processors since they started, if the kernel tells.
    pub(super) worker_ns: Option<u64>,
}

/// What a sink has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    /// Bytes after the first read.
    pub(super) bytes: u64,
    /// From the first read to the last.
    pub(super) nanoseconds: u64,
}

/// A service that runs. It ends by itself, and when this is dropped.
pub(super) struct Service {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    token: Token,
    from: IpAddr,
    stop: AtomicBool,
    ended: AtomicBool,
    counted: AtomicU64,
    bytes: AtomicU64,
    connections: AtomicUsize,
    controlled: AtomicBool,
}

impl Service {
    /// The port of TCP and UDP.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether its threads and sockets are gone.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Serves `from` at the address `to` of a device, for no longer than `limit`.
///
/// # Errors
/// No socket or no thread.
pub(super) fn start(device: &str, (from, to): (IpAddr, IpAddr), token: Token, limit: Duration) -> Result<Service> {
    let listener = bound::listen(device, SocketAddr::new(to, 0))?;
    let failed = |error: io::Error| Failure::failed(format!("cannot serve at {to}: {error}"));
    let port = listener.local_addr().map_err(failed)?.port();
    // Of UDP another program may have it; then this try fails, and the next one gets another port.
    let socket = bound::datagrams(device, SocketAddr::new(to, port))?;
    listener.set_nonblocking(true).map_err(failed)?;
    let shared = Arc::new(Shared {
        token,
        from,
        stop: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        counted: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        connections: AtomicUsize::new(0),
        controlled: AtomicBool::new(false),
    });
    let own = Arc::clone(&shared);
    thread::Builder::new()
        .name("bench-serve".into())
        .spawn(move || {
            run(&listener, &socket, &own, Instant::now() + limit);
            drop((listener, socket));
            own.ended.store(true, Ordering::Release);
        })
        .map_err(failed)?;
    Ok(Service { port, shared })
}

fn run(listener: &TcpListener, socket: &UdpSocket, shared: &Shared, deadline: Instant) {
    let introduction = Instant::now() + INTRODUCTION;
    thread::scope(|scope| {
        let small = || datagram::serve(socket, shared.from, &shared.token, &shared.counted, &shared.stop);
        if thread::Builder::new().name("bench-udp".into()).spawn_scoped(scope, small).is_err() {
            return;
        }
        while !shared.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            if now > deadline || (now > introduction && !shared.controlled.load(Ordering::Acquire)) {
                break;
            }
            match readable([listener.as_fd()], Some(LOOK)) {
                Ok([true]) => accept(scope, listener, shared),
                Ok([false]) => {}
                Err(_) => break,
            }
        }
        shared.stop.store(true, Ordering::Release);
    });
}

fn accept<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, listener: &TcpListener, shared: &'env Shared) {
    let Ok((stream, from)) = listener.accept() else { return };
    if from.ip().to_canonical() != shared.from || shared.connections.load(Ordering::Acquire) >= MAX_CONNECTIONS {
        return;
    }
    shared.connections.fetch_add(1, Ordering::AcqRel);
    let work = || {
        if let Err(error) = converse(stream, shared) {
            tracing::debug!("a connection of a bench ended early: {error}");
        }
        shared.connections.fetch_sub(1, Ordering::AcqRel);
    };
    if thread::Builder::new().name("bench-tcp".into()).spawn_scoped(scope, work).is_err() {
        shared.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(INTRODUCTION))?;
    stream.set_write_timeout(Some(LOOK))?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    stream.set_read_timeout(Some(LOOK))?;
    match Purpose::read(&head, &shared.token) {
        Some(Purpose::Control) => control(stream, shared),
        Some(Purpose::Sink) => sink(stream, shared),
        Some(Purpose::Source(milliseconds)) => source(stream, milliseconds, shared),
        None => Err(ErrorKind::PermissionDenied.into()),
    }
}

fn control(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    shared.controlled.store(true, Ordering::Release);
    let outcome = loop {
        match patiently(shared, || stream.read(&mut [0])) {
            Ok(0) => break Ok(()),
            Ok(_) => {
                let counted = shared.counted.load(Ordering::Relaxed);
                let worker_ns = processor::worker_nanoseconds(None);
                if let Err(error) = say(&mut stream, &State { counted, worker_ns }) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    shared.stop.store(true, Ordering::Release);
    outcome
}

fn sink(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut taken = Taken::default();
    let mut first: Option<Instant> = None;
    loop {
        match patiently(shared, || stream.read(&mut buffer))? {
            0 => return say(&mut stream, &taken),
            length => {
                shared.spend(length)?;
                match first {
                    None => first = Some(Instant::now()),
                    Some(first) => {
                        taken.bytes += length as u64;
                        taken.nanoseconds = u64::try_from(first.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    }
                }
            }
        }
    }
}

fn source(mut stream: TcpStream, milliseconds: u32, shared: &Shared) -> io::Result<()> {
    let buffer = vec![0xad; BUFFER];
    let end = Instant::now() + Duration::from_millis(milliseconds.into());
    while Instant::now() < end {
        let written = patiently(shared, || stream.write(&buffer))?;
        shared.spend(written)?;
    }
    Ok(())
}

impl Shared {
    /// Fails once all bytes of this bench have been moved.
    fn spend(&self, bytes: usize) -> io::Result<()> {
        if self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) > MAX_BYTES {
            self.stop.store(true, Ordering::Release);
            return Err(io::Error::other("more bytes than one bench may move"));
        }
        Ok(())
    }
}

/// Tries again until something moved, or all is to end.
fn patiently(shared: &Shared, mut step: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match step() {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            outcome => return outcome,
        }
        if shared.stop.load(Ordering::Acquire) {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

fn say(stream: &mut TcpStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Token = [7; TOKEN];

    #[test]
    fn a_head_says_what_for_to_whom_has_the_token() {
        for purpose in [Purpose::Control, Purpose::Sink, Purpose::Source(1234)] {
            assert_eq!(Purpose::read(&purpose.head(&OURS), &OURS), Some(purpose));
            assert_eq!(Purpose::read(&purpose.head(&[8; TOKEN]), &OURS), None);
        }
    }

    proptest! {
        #[test]
        fn any_head_is_read_without_panic(head: [u8; HEAD]) {
            Purpose::read(&head, &OURS);
        }
    }
}
