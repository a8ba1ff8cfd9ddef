//! Traffic that goes on while something happens: questions and answers over one TCP connection and in single datagrams, without a break.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bed::packet::Random;
use crate::bed::traffic::{End, connection};

/// One question and its answer per this time, of each kind.
const PACE: Duration = Duration::from_millis(25);

/// How long a datagram may take before it is lost.
const LOST: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    /// Datagrams without an answer; of a connection none are.
    pub(crate) lost: u64,
    /// The longest time between two answers.
    pub(crate) silence: Duration,
}

/// See the module.
pub(crate) struct Flow {
    what: String,
    stop: Arc<AtomicBool>,
    stream: JoinHandle<io::Result<Tally>>,
    datagrams: JoinHandle<Tally>,
}

impl Flow {
    /// Begins between two ends that reach each other.
    pub(crate) fn between(client: End<'_>, server: End<'_>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asks, answers) = connection(client, server);
        let (here, there) = (client.udp(), server.udp());
        thread::spawn(move || echo_stream(answers));
        here.connect(there.local_addr().unwrap()).unwrap();
        let (ends, stops) = (Arc::clone(&stop), Arc::clone(&stop));
        thread::spawn(move || echo_datagrams(&there, &ends));
        let stream = thread::spawn({
            let stop = Arc::clone(&stop);
            move || ask_stream(asks, &stop)
        });
        let datagrams = thread::spawn(move || ask_datagrams(&here, &stops));
        Self { what: format!("{} to {}", client.address, server.address), stop, stream, datagrams }
    }

    /// Ends it. The connection has to be as it was, no datagram in a hundred may be lost, and nothing silent for longer than `silence`.
    pub(crate) fn end(self, silence: Duration) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let stream =
            self.stream.join().unwrap().unwrap_or_else(|e| panic!("the connection of {} broke: {e}", self.what));
        let datagrams = self.datagrams.join().unwrap();
        for tally in [stream, datagrams] {
            assert!(tally.silence <= silence && tally.lost * 100 <= tally.asked, "{}: {tally:?}", self.what);
        }
        assert!(stream.asked > 0 && datagrams.asked > 0, "{}", self.what);
        Tally {
            asked: stream.asked + datagrams.asked,
            lost: datagrams.lost,
            silence: stream.silence.max(datagrams.silence),
        }
    }
}

fn echo_stream(mut stream: TcpStream) {
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(LOST)).unwrap();
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn ask_stream(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<Tally> {
    let (mut tally, mut random, mut last) = (Tally::default(), Random::new(3), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let question = random.bytes(200);
        let mut answer = vec![0; question.len()];
        stream.write_all(&question)?;
        stream.read_exact(&mut answer)?;
        assert!(question == answer, "other bytes arrive");
        tally.asked += 1;
        tally.silence = tally.silence.max(last.elapsed());
        last = Instant::now();
        thread::sleep(PACE);
    }
    stream.shutdown(Shutdown::Both)?;
    Ok(tally)
}

fn ask_datagrams(socket: &UdpSocket, stop: &AtomicBool) -> Tally {
    let (mut tally, mut random, mut last) = (Tally::default(), Random::new(4), Instant::now());
    let mut answer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        let mut question = random.bytes(64);
        question.extend(tally.asked.to_le_bytes());
        tally.asked += 1;
        let deadline = Instant::now() + LOST;
        let sent = socket.send(&question);
        let answered = sent.is_ok()
            && loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break false;
                }
                socket.set_read_timeout(Some(left)).unwrap();
                match socket.recv(&mut answer) {
                    Ok(length) if answer[..length] == question => break true,
                    // The answer to an earlier one, which counts as lost.
                    Ok(_) => {}
                    Err(e)
                        if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    }
                    Err(_) => break false,
                }
            };
        if answered {
            tally.silence = tally.silence.max(last.elapsed());
            last = Instant::now();
        } else {
            tally.lost += 1;
        }
        thread::sleep(PACE);
    }
    tally
}
