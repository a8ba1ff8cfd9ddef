//! Small packets: as many as a sender can give, and one at a time there and back.
//!
//! A datagram of the bench is 64 bytes: 16 that only the two ends know, what is to be done with it, a number. Whatever else arrives at such
//! a socket is ignored.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linux::clock;

/// Bytes of a datagram.
pub(super) const SIZE: usize = 64;
/// Bytes that only the two ends know.
pub(super) const TOKEN: usize = 16;
/// How long a server waits for a datagram before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long an answer may take before it counts as lost.
const LOST: Duration = Duration::from_millis(250);

/// What only the two ends of one bench know.
pub(super) type Token = [u8; TOKEN];

/// What is to be done with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is counted.
    Count = 1,
    /// It is sent back.
    Echo = 2,
}

fn make(token: &Token, kind: Kind, number: u64) -> [u8; SIZE] {
    let mut datagram = [0; SIZE];
    let fields = token.iter().copied().chain([kind as u8]).chain(number.to_be_bytes());
    for (place, byte) in datagram.iter_mut().zip(fields) {
        *place = byte;
    }
    datagram
}

/// What a datagram with our token is for, and its number.
fn read(bytes: &[u8], token: &Token) -> Option<(Kind, u64)> {
    let (theirs, rest) = bytes.split_first_chunk::<TOKEN>()?;
    let (kind, rest) = rest.split_first()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    let kind = match kind {
        1 => Kind::Count,
        2 => Kind::Echo,
        _ => return None,
    };
    (bytes.len() == SIZE && theirs == token).then(|| (kind, u64::from_be_bytes(*number)))
}

/// Counts and answers what `from` sends, until `stop`.
pub(super) fn serve(socket: &UdpSocket, from: IpAddr, token: &Token, counted: &AtomicU64, stop: &AtomicBool) {
    let _ = socket.set_read_timeout(Some(LOOK));
    // One byte more than a datagram of ours has, so that a longer one is seen to be longer.
    let mut buffer = [0; SIZE + 1];
    while !stop.load(Ordering::Relaxed) {
        // Errors are those of answers that did not arrive (ECONNREFUSED), and the end of a wait.
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        let datagram = buffer.get(..length).unwrap_or_default();
        match read(datagram, token).filter(|_| source.ip().to_canonical() == from) {
            Some((Kind::Count, _)) => drop(counted.fetch_add(1, Ordering::Relaxed)),
            Some((Kind::Echo, _)) => drop(socket.send_to(datagram, source)),
            None => {}
        }
    }
}

/// Sends datagrams to be counted, as fast as they are taken, until `stop`; answers how many. The socket is connected.
pub(super) fn flood(socket: &UdpSocket, token: &Token, stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        // A full queue refuses some (ENOBUFS): these were not sent.
        sent += u64::from(socket.send(&make(token, Kind::Count, sent)).is_ok());
    }
    sent
}

/// Round trips, one at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trips {
    /// Nanoseconds of each, sorted.
    pub(super) times: Vec<u64>,
    /// Datagrams that did not come back.
    pub(super) lost: u64,
}

/// Sends one datagram after the other, each when the one before it came back, until `stop` says so. The socket is connected.
pub(super) fn trips(socket: &UdpSocket, token: &Token, stop: &AtomicBool) -> Trips {
    let _ = socket.set_read_timeout(Some(LOST));
    let mut trips = Trips::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let start = clock::monotonic();
        match socket.send(&make(token, Kind::Echo, number)).ok().and_then(|_| await_answer(socket, token, number)) {
            Some(end) => trips.times.push(end.saturating_sub(start)),
            None => trips.lost += 1,
        }
    }
    trips.times.sort_unstable();
    trips
}

/// When the answer with this number came, in nanoseconds of the monotonic clock. Late answers to earlier ones are passed over.
fn await_answer(socket: &UdpSocket, token: &Token, number: u64) -> Option<u64> {
    let deadline = Instant::now() + LOST;
    let mut buffer = [0; SIZE + 1];
    while Instant::now() < deadline {
        match socket.recv(&mut buffer) {
            Ok(length) if read(buffer.get(..length).unwrap_or_default(), token) == Some((Kind::Echo, number)) => {
                return Some(clock::monotonic());
            }
            Err(error) if error.kind() != ErrorKind::Interrupted => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const TOKEN: Token = [7; super::TOKEN];

    #[test]
    fn what_is_sent_is_counted_and_answered() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let (counted, stop, enough) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| serve(&server, "127.0.0.1".parse().unwrap(), &TOKEN, &counted, &stop));
            // Those of others are neither.
            client.send(&make(&[8; super::TOKEN], Kind::Count, 1)).unwrap();
            client.send(&[0; 2000]).unwrap();
            client.send(&make(&TOKEN, Kind::Count, 1)).unwrap();
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(30));
                enough.store(true, Ordering::Relaxed);
            });
            let trips = trips(&client, &TOKEN, &enough);
            assert!(!trips.times.is_empty() && trips.times.is_sorted());
            assert_eq!((trips.lost, counted.load(Ordering::Relaxed)), (0, 1));
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn nobody_else_is_served() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.send(&make(&TOKEN, Kind::Count, 1)).unwrap();
        let (counted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| serve(&server, "127.0.0.2".parse().unwrap(), &TOKEN, &counted, &stop));
            client.send(&make(&TOKEN, Kind::Echo, 1)).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            client.recv(&mut [0; SIZE]).unwrap_err();
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(counted.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            read(&bytes, &TOKEN);
        }

        #[test]
        fn what_was_made_is_read(token: Token, other: Token, number: u64) {
            let datagram = make(&token, Kind::Echo, number);
            prop_assert_eq!(read(&datagram, &token), Some((Kind::Echo, number)));
            prop_assert_eq!(read(&datagram, &other).is_some(), token == other);
        }
    }
}
