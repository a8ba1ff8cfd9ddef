//! A flood of handshakes at a live daemon, from addresses that are not the sender's: the flow that was there goes on, a peer that was
//! not there gets in, nobody is flooded through us, and the daemon does not grow.
//!
//! A few seconds at a low rate in an ordinary run. `ADIT_FLOOD=60 cargo test --release --test flood -- --nocapture --test-threads 1`
//! is the long run: so many seconds at 20,000 initiations per second with a right first MAC and 50,000 without one, in rounds that
//! alternate with the same flood at a closed port of the same host. It prints what happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit::key::PublicKey;
use bed::daemon::{Configuration, Daemon, PORT, Place};
use bed::packet::{Random, frame};
use bed::sniffer::{Injector, Sniffer, Watch};
use bed::traffic::{End, connection};
use bed::{Bed, Family, Host, at, over, wait_for};
use linux::capture::Instruction;
use linux::netlink::Route;
use tunnel::mac::MacKeys;
use wire::message::{HandshakeHeader, Protocol, Step};
use wire::vnet::VnetHdr;

over! {
    sealed: {
        a_daemon_stands_in_a_flood
    }
}

over! {
    wireguard: {
        a_daemon_stands_in_a_flood
    }
}

/// How much a daemon may grow, in bytes: what is known of 65,536 sources at a time, twice, and buffers that were not used before.
const GROWTH: u64 = 24 << 20;

/// Sources: those of 198.18.0.0/15, the network for benchmarks (RFC 2544).
const SOURCES: u32 = 1 << 17;
const FIRST_SOURCE: u32 = (198 << 24) | (18 << 16);

/// Where nobody listens.
const CLOSED_PORT: u16 = 7;

/// Different messages of each kind; more differ by their source.
const MESSAGES: usize = 512;

/// How much of a flood.
#[derive(Clone, Copy, Debug)]
struct Size {
    rounds: u32,
    each: Duration,
    /// Per second.
    right: u32,
    wrong: u32,
    /// Whether numbers are wanted, and so the closed port.
    measured: bool,
}

impl Size {
    fn chosen() -> Self {
        match std::env::var("ADIT_FLOOD") {
            Ok(seconds) => {
                let seconds: u64 = seconds.parse().expect("ADIT_FLOOD is a number of seconds");
                let rounds = 6;
                let each = Duration::from_millis(1000 * seconds / u64::from(rounds));
                Self { rounds, each, right: 20_000, wrong: 50_000, measured: true }
            }
            Err(_) => Self { rounds: 1, each: Duration::from_secs(3), right: 2_000, wrong: 3_000, measured: false },
        }
    }
}

/// Initiations as frames from host 4 to host 1, sent from one source after the other.
struct Flood {
    injector: Injector,
    right: Vec<Vec<u8>>,
    wrong: Vec<Vec<u8>>,
    source: u32,
}

/// What was sent in a round.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    right: u64,
    wrong: u64,
    /// Of UDP payloads.
    bytes: u64,
}

impl Flood {
    fn new(bed: &Bed, victim: &PublicKey, protocol: Protocol, port: u16) -> Self {
        let (flooder, target) = (bed.host(4), bed.host(1));
        let to = at(target.underlay(Family::V4), port);
        let macs = MacKeys::new(protocol, victim.as_bytes());
        let mut random = Random::new(u64::from(port));
        let mut frames = |is_right: bool| -> Vec<Vec<u8>> {
            (0..MESSAGES)
                .map(|_| {
                    let (sender, length) = (random.next() as u32, protocol.noise_len(Step::Initiation));
                    let header = HandshakeHeader { protocol, step: Step::Initiation, sender, receiver: 0 };
                    let mut message = header.emit(&random.noise(length)).unwrap();
                    let mac1 = macs.sign(&mut message, None);
                    if !is_right {
                        let at = message.len() - 32;
                        message[at] ^= mac1[0] | 1;
                    }
                    let mut frame = frame((flooder.mac(), target.mac()), at(Self::address(0), 1), to, &message);
                    // The source changes with each: no checksum of UDP, which IPv4 permits.
                    frame[40..42].fill(0);
                    frame
                })
                .collect()
        };
        let (right, wrong) = (frames(true), frames(false));
        Self { injector: Injector::open(&flooder.namespace, "under0"), right, wrong, source: 0 }
    }

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(FIRST_SOURCE + number % SOURCES).into()
    }

    /// Sends at these rates for so long.
    fn run(&mut self, size: &Size) -> Sent {
        let (begin, mut sent) = (Instant::now(), Sent::default());
        while begin.elapsed() < size.each {
            let due = |rate: u32| (begin.elapsed().as_micros() as u64) * u64::from(rate) / 1_000_000;
            // In bursts of a thousandth of a second; what was missed when others had the processor is sent later, but not all at once.
            for _ in 0..due(size.right).saturating_sub(sent.right).min(200) {
                self.send(true, &mut sent);
            }
            for _ in 0..due(size.wrong).saturating_sub(sent.wrong).min(500) {
                self.send(false, &mut sent);
            }
            thread::sleep(Duration::from_micros(500));
        }
        sent
    }

    fn send(&mut self, is_right: bool, sent: &mut Sent) {
        let (frames, count) =
            if is_right { (&mut self.right, &mut sent.right) } else { (&mut self.wrong, &mut sent.wrong) };
        let frame = &mut frames[*count as usize % MESSAGES];
        let IpAddr::V4(source) = Self::address(self.source) else { unreachable!("IPv4") };
        frame[26..30].copy_from_slice(&source.octets());
        // A source has its port, so that one who answers has one place to send to.
        frame[34..36].copy_from_slice(&(1024 + (self.source % 50_000) as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        self.injector.send(&VnetHdr::NONE, frame).unwrap();
        sent.bytes += frame.len() as u64 - 42;
        *count += 1;
        self.source = self.source.wrapping_add(1);
    }
}

/// The checksum of a header whose own field is zero (RFC 1071).
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// The lengths of what the daemon sends to the addresses of the flood, which host 4 is the way to.
fn answers(bed: &Bed) -> Watch<usize> {
    let daemon = bed.host(1).underlay(Family::V4);
    let IpAddr::V4(daemon) = daemon else { unreachable!("IPv4") };
    // BPF_LD | BPF_ABS with sizes H, W and B; BPF_JMP | BPF_JEQ; BPF_RET (linux/bpf_common.h). Ethernet, IPv4 from the daemon,
    // UDP from its port.
    let program: [Instruction; 10] = [
        (0x28, 0, 0, 12),
        (0x15, 0, 7, 0x0800),
        (0x20, 0, 0, 26),
        (0x15, 0, 5, daemon.to_bits()),
        (0x30, 0, 0, 23),
        (0x15, 0, 3, 17),
        (0x28, 0, 0, 34),
        (0x15, 0, 1, u32::from(PORT)),
        (0x06, 0, 0, 64),
        (0x06, 0, 0, 0),
    ];
    let sniffer = Sniffer::open_filtered(&bed.host(4).namespace, "under0", &program);
    sniffer.watch(|captured, _| Some(captured.original_length - 42))
}

/// A stream from one host to another that goes as fast as it can; each byte that arrives is compared.
struct Stream {
    ends: (TcpStream, TcpStream),
    stop: AtomicBool,
    arrived: AtomicU64,
}

impl Stream {
    fn run(&self) {
        let blob = Random::new(9).bytes(1 << 18);
        let (mut from, mut to) = (&self.ends.0, &self.ends.1);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !self.stop.load(Ordering::Acquire) {
                    from.write_all(&blob).expect("the other end takes bytes");
                }
                from.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let (mut buffer, mut at) = (vec![0; 1 << 18], 0);
            loop {
                let length = to.read(&mut buffer).expect("the stream goes on");
                if length == 0 {
                    return;
                }
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    let piece = rest.len().min(blob.len() - at);
                    assert!(rest[..piece] == blob[at..at + piece], "other bytes arrive");
                    (rest, at) = (&rest[piece..], (at + piece) % blob.len());
                }
                self.arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn end(host: &Host) -> End<'_> {
    End::new(&host.namespace, host.inner(Family::V4))
}

/// A daemon on host 3 starts and exchanges a datagram with host 1, which does not know where it is. How long that took.
fn join(bed: &Bed, place: &Place) -> Duration {
    let begin = Instant::now();
    let newcomer = place.start();
    let (here, there) = (end(bed.host(3)).udp(), end(bed.host(1)).udp());
    // What answers comes back only if the way there and the way back stand; one packet may be lost meanwhile.
    here.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    there.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 100];
    wait_for("the new peer to get through", || {
        here.send_to(b"may I come in?", there.local_addr().unwrap()).unwrap();
        if let Ok((length, from)) = there.recv_from(&mut buffer) {
            there.send_to(&buffer[..length], from).unwrap();
        }
        here.recv_from(&mut buffer).ok()
    });
    let took = begin.elapsed();
    newcomer.terminate();
    took
}

fn drops(daemon: &Daemon<'_>, reason: &str) -> u64 {
    daemon.drops(reason)
}

fn a_daemon_stands_in_a_flood(transport: &'static str) {
    let size = Size::chosen();
    let bed = Bed::new(4);
    bed.guard.expect_a_flood();
    let [mut one, two, three] = Configuration::with_keys(
        [
            Configuration::new(bed.host(1), &[2, 3], Family::V4),
            Configuration::new(bed.host(2), &[1], Family::V4),
            Configuration::new(bed.host(3), &[1], Family::V4),
        ],
        transport,
    );
    one.peers[1].endpoint.clear();
    let victim = two.peers[0].public_key.unwrap();
    let protocol = if transport == "sealed" { Protocol::Sealed } else { Protocol::WireGuard };
    let places = [Place::new(bed.host(1), &one), Place::new(bed.host(2), &two), Place::new(bed.host(3), &three)];
    if size.measured {
        bed.host(1).guard.switch_off();
    }
    // Whatever is answered is sent, and seen.
    let way = Route {
        gateway: Some(bed.host(4).underlay(Family::V4)),
        protocol: 4,
        ..Route::new("198.18.0.0/15".parse().unwrap())
    };
    bed.host(1).netlink().add_route(&way).unwrap();

    let (mut daemon, mut other) = (places[0].start(), places[1].start());
    let ends = connection(end(bed.host(2)), end(bed.host(1)));
    let stream = Stream { ends, stop: AtomicBool::new(false), arrived: AtomicU64::new(0) };
    let mut closed = Flood::new(&bed, &victim, protocol, CLOSED_PORT);
    let mut flood = Flood::new(&bed, &victim, protocol, PORT);
    let answers = answers(&bed);
    let (mut total, mut joins, mut rates) = (Sent::default(), Vec::new(), Vec::new());
    let before = thread::scope(|scope| {
        let _end = Ending(&stream.stop);
        let running = scope.spawn(|| stream.run());
        let goal = if size.measured { 1_000_000_000 } else { 10_000_000 };
        wait_for("the stream", || (stream.arrived() > goal).then_some(()));
        let before = daemon.memory();
        for _ in 0..size.rounds {
            let measure = |flood: &mut Flood| {
                let (begin, already) = (Instant::now(), stream.arrived());
                let sent = flood.run(&size);
                (sent, (stream.arrived() - already) as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
            };
            let baseline = if size.measured { measure(&mut closed).1 } else { 0.0 };
            let (sent, rate) = thread::scope(|inner| {
                let joining = inner.spawn(|| join(&bed, &places[2]));
                let measured = measure(&mut flood);
                joins.push(joining.join().unwrap());
                measured
            });
            rates.push((baseline, rate));
            total.right += sent.right;
            total.wrong += sent.wrong;
            total.bytes += sent.bytes;
        }
        assert!(!running.is_finished(), "the stream goes on");
        let already = stream.arrived();
        wait_for("the stream to go on", || (stream.arrived() > already).then_some(()));
        before
    });

    assert!(daemon.is_running() && other.is_running());
    let grown = daemon.memory().saturating_sub(before);
    let answers = answers.collect_what_was_seen().0;
    let (count, bytes): (usize, usize) = (answers.len(), answers.iter().sum());
    if size.measured {
        let mut ratios: Vec<f64> = rates.iter().map(|(baseline, rate)| rate / baseline).collect();
        ratios.sort_by(f64::total_cmp);
        joins.sort();
        println!(
            "{transport}: {} initiations with a right first MAC and {} without in {} rounds of {:.0} s, from {SOURCES} sources; the \
             stream's rate was {:.2} of that beside the same flood at a closed port (median; rounds in Gb/s, closed and open: {:.2?}); \
             a new peer joined in {:?} (median; at most {:?}); {} bytes came in and {bytes} went out in {count} answers, {:.4} of them; \
             dropped {:?}; the daemon grew by {} KiB to {} KiB",
            total.right,
            total.wrong,
            size.rounds,
            size.each.as_secs_f64(),
            ratios[ratios.len() / 2],
            rates,
            joins[joins.len() / 2],
            joins[joins.len() - 1],
            total.bytes,
            bytes as f64 / total.bytes as f64,
            daemon.status().drops,
            grown / 1024,
            daemon.memory() / 1024,
        );
    }
    let length = protocol.message_len(Step::Initiation).unwrap();
    assert!(answers.iter().all(|&answer| answer <= length), "no answer is longer than what it answers");
    assert!(count > 0 && count as u64 <= total.right, "{count} answers, and none to {total:?} without a first MAC");
    assert!(drops(&daemon, "forged") > 0 && drops(&daemon, "rate_limited") > 0, "{:?}", daemon.status().drops);
    assert!(grown < GROWTH, "{grown} bytes of growth");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert_eq!(daemon.status().peers[0].endpoint, Some(at(bed.host(2).underlay(Family::V4), PORT).to_string()));
}
