//! A storm of datagrams and frames that no honest sender sends, at a live daemon: it stays up, does not grow, counts what it
//! drops, and the flow that was there before goes on without losing a byte.
//!
//! 10,000 of them in an ordinary run. `ADIT_STORM=10000000 cargo test --release --test storm -- --nocapture` is the long run,
//! by the same code; it prints what happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bed::daemon::{Configuration, Daemon, PORT, Place};
use bed::packet::{Random, UdpPacket};
use bed::sniffer::Injector;
use bed::traffic::{End, connection, exchange_over};
use bed::{Bed, Family, Host, at, wait_for};
use linux::udp::{self, Flow, SendQueue};
use wire::ecn::Ecn;
use wire::vnet::{self, VnetHdr};

/// How much a daemon may grow under the storm, in bytes.
const GROWTH: u64 = 4 << 20;

/// The longest UDP payload over IPv4.
const LONGEST: usize = 65_507;

/// Bytes that may wait for the daemon before more is sent: its receive buffers hold 16 MiB each.
const WAITING: u64 = 1 << 20;

/// How many datagrams and frames there are in all.
fn size() -> u64 {
    std::env::var("ADIT_STORM").map_or(10_000, |text| text.parse().expect("ADIT_STORM is a number"))
}

/// What falls from the sky.
struct Weather {
    random: Random,
    /// Packets in good order to start from: as the peer sends them, and as it must not.
    sound: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Weather {
    fn new(seed: u64, bed: &Bed, from: usize) -> Self {
        let mut random = Random::new(seed);
        let mut sound = Vec::new();
        for family in [Family::V4, Family::V6] {
            let address = |n: usize| (bed.host(n).inner(family), 9);
            for (source, destination) in [(from, 1), (from, 2), (2, 1), (from, from), (1, 1), (from, 3)] {
                for length in [0, 1, 100, 1300] {
                    let payload = random.bytes(length);
                    let packet = UdpPacket::new(address(source), address(destination), &payload);
                    sound.push(UdpPacket { dont_fragment: length % 2 == 0, ..packet }.bytes());
                }
            }
        }
        // TCP and ICMP too, with whatever then stands in their headers.
        for i in 0..sound.len() {
            let mut other = sound[i].clone();
            let (protocol_at, protocols) = if other[0] >> 4 == 4 { (9, [6, 1]) } else { (6, [6, 58]) };
            other[protocol_at] = protocols[i % 2];
            sound.push(other);
        }
        Self { random, sound, buffer: Vec::new() }
    }

    /// The next one: random, sound, truncated, mutated, with a header of another kind, of another size, or too long.
    fn next(&mut self) -> &[u8] {
        let which = self.random.below(self.sound.len());
        let sound = &self.sound[which];
        self.buffer.clear();
        match self.random.below(256) {
            0..64 => {
                let length = self.random.below(200);
                self.buffer.extend(self.random.bytes(length));
            }
            64..80 => self.buffer.extend(sound),
            80..120 => self.buffer.extend(&sound[..self.random.below(sound.len() + 1)]),
            120..220 => {
                self.buffer.extend(sound);
                for _ in 0..=self.random.below(8) {
                    // Mostly in the headers, where it matters.
                    let limit = if self.random.below(4) == 0 { sound.len() } else { sound.len().min(60) };
                    let at = self.random.below(limit);
                    self.buffer[at] ^= 1 << self.random.below(8);
                }
            }
            220..250 => {
                let kinds = [0x45, 0x46, 0x4f, 0x60, 0x6f, 0xa1, 0xa4, 1, 4, 0];
                self.buffer.push(kinds[self.random.below(kinds.len())]);
                let length = self.random.below(1400);
                self.buffer.extend(self.random.bytes(length));
            }
            250..254 => {
                self.buffer.extend(sound);
                let length = self.random.below(1400);
                self.buffer.extend(self.random.bytes(length));
            }
            _ => {
                self.buffer.extend(sound);
                self.buffer.resize(1500 + self.random.below(LONGEST - 1500), 0xa5);
            }
        }
        &self.buffer
    }
}

/// The kernel's own view of the daemon's sockets (`/proc/net/udp`): what waits to be read, and what found no room.
struct Gauge(File);

impl Gauge {
    fn new(host: &Host) -> Self {
        // The file belongs to the namespace of the thread that opened it.
        Self(host.namespace.run(|| File::open("/proc/thread-self/net/udp")).unwrap().unwrap())
    }

    /// Bytes that wait, and datagrams lost since the daemon began.
    fn read(&mut self) -> (u64, u64) {
        let mut text = String::new();
        self.0.rewind().unwrap();
        self.0.read_to_string(&mut text).unwrap();
        let port = format!(":{PORT:04X}");
        let sockets = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = sockets.filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&port)));
        ours.fold((0, 0), |(waiting, lost), fields| {
            let (_, queue) = fields[4].split_once(':').unwrap();
            (waiting + u64::from_str_radix(queue, 16).unwrap(), lost + fields.last().unwrap().parse::<u64>().unwrap())
        })
    }
}

/// Datagrams to host 1's daemon, in turn from peer 3's endpoint, in trains and one by one, and from a stranger.
fn hail(bed: &Bed, count: u64) {
    let to = at(bed.host(1).underlay(Family::V4), PORT);
    let mut weather = Weather::new(count, bed, 3);
    let peer = End::new(&bed.host(3).namespace, bed.host(3).underlay(Family::V4));
    let stranger = End::new(&bed.host(4).namespace, bed.host(4).underlay(Family::V4)).udp();
    let mut gauge = Gauge::new(bed.host(1));
    let mut sent = 0;
    while sent < count {
        let burst = (count - sent).min(256);
        match (sent / 256) % 3 {
            // In a train bad ones travel between good ones. The sockets that send trains never fragment, so the longest
            // datagrams leave by another one from the same port.
            0 => train(&sender(bed.host(3), PORT), to, &mut weather, burst),
            1 => pour(&peer.udp_on(PORT), to, &mut weather, burst),
            _ => pour(&stranger, to, &mut weather, burst),
        }
        sent += burst;
        wait_for("the daemon to take datagrams", || (gauge.read().0 < WAITING).then_some(()));
    }
}

fn sender(host: &Host, port: u16) -> udp::Socket {
    let listen = at(host.underlay(Family::V4), port);
    let options = udp::Options { listen, share_port: false, offload: true, dont_fragment: true, buffer: 8 << 20 };
    host.namespace.run(|| udp::Socket::bind(options)).unwrap().unwrap()
}

fn pour(socket: &UdpSocket, to: SocketAddr, weather: &mut Weather, count: u64) {
    for _ in 0..count {
        socket.send_to(weather.next(), to).unwrap();
    }
}

/// As [`pour`], in trains of datagrams that are equally long; what does not fit the path unfragmented is left out.
fn train(socket: &udp::Socket, to: SocketAddr, weather: &mut Weather, count: u64) {
    let mut queue = SendQueue::default();
    let mut left = count;
    while left > 0 {
        let datagram = weather.next();
        let datagram = &datagram[..datagram.len().min(1472)];
        if datagram.is_empty() {
            continue;
        }
        let flow = Flow { to, from: None, ecn: Ecn::from_bits(left as u8), lane: 0, tag: 0 };
        match queue.slot(&flow, datagram.len()) {
            Ok(slot) => {
                slot.copy_from_slice(datagram);
                queue.commit(datagram.len());
                left -= 1;
            }
            Err(udp::Full) => queue.flush(socket, |_| {}),
        }
    }
    queue.flush(socket, |_| {});
}

/// Frames into the device of host 1, until the kernel has taken so many (it refuses some itself). Answers how many it took.
fn sleet(bed: &Bed, daemon: &Daemon<'_>, count: u64) -> u64 {
    let mut weather = Weather::new(count ^ 1, bed, 1);
    let mut injector = Injector::open(&bed.host(1).namespace, "adit0");
    let mut random = Random::new(5);
    let mark = UdpPacket::new(("10.77.0.1".parse().unwrap(), 9), ("224.0.0.1".parse().unwrap(), 9), &[]).bytes();
    let mut taken = 0;
    while taken < count {
        let header = match random.below(8) {
            // The kernel refuses most of these before the daemon sees them.
            0 => VnetHdr {
                flags: random.below(4) as u8,
                gso_type: [vnet::GSO_TCPV4, vnet::GSO_TCPV6, vnet::GSO_UDP_L4, vnet::GSO_TCPV4 | vnet::GSO_ECN]
                    [random.below(4)],
                hdr_len: random.below(100) as u16,
                gso_size: random.below(1500) as u16,
                csum_start: [20, 40, random.below(64) as u16][random.below(3)],
                csum_offset: [16, 6, random.below(32) as u16][random.below(3)],
            },
            _ => VnetHdr::NONE,
        };
        taken += u64::from(injector.send(&header, weather.next()).is_ok());
        if random.below(64) == 0 {
            // A frame to a group is dropped under a name of its own: when it is counted, those before it were read. It may
            // get lost itself, so this does not wait for long.
            let seen = daemon.drops("multicast");
            taken += u64::from(injector.send(&VnetHdr::NONE, &mark).is_ok());
            let until = Instant::now() + Duration::from_millis(20);
            while daemon.drops("multicast") == seen && Instant::now() < until {
                thread::yield_now();
            }
        }
    }
    taken
}

#[test]
fn a_daemon_weathers_whatever_falls_on_it() {
    let bed = Bed::new(4);
    let place = |me: usize, peers: &[usize]| {
        let host = bed.host(me);
        // Each frame of up to the largest size is to reach the daemon.
        let configuration = Configuration { mtu: Some(9000), ..Configuration::new(host, peers, Family::V4) };
        Place::new(host, &configuration.with("workers = 2"))
    };
    let (one, two) = (place(1, &[2, 3]), place(2, &[1]));
    let (mut daemon, mut other) = (one.start(), two.start());
    let end = |n: usize| -> End<'_> {
        let address: IpAddr = bed.host(n).inner(Family::V4);
        End::new(&bed.host(n).namespace, address)
    };
    let (a, b) = connection(end(1), end(2));
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = size();

    let begin = Instant::now();
    let (sent, taken, grown) = thread::scope(|scope| {
        let _end = Ending(&stop);
        let flow = scope.spawn(|| {
            let mut random = Random::new(11);
            let (forth, back) = (random.bytes(300_001), random.bytes(100_001));
            while !stop.load(Ordering::Acquire) {
                exchange_over((&a, &b), &forth, &back);
                moved.fetch_add((forth.len() + back.len()) as u64, Ordering::Relaxed);
            }
        });
        let storm = |datagrams: u64, frames: u64| {
            thread::scope(|inner| {
                let frames = inner.spawn(|| sleet(&bed, &daemon, frames));
                hail(&bed, datagrams);
                frames.join().unwrap()
            })
        };
        // Buffers become resident as they are first used, some megabytes in all; what comes after that would be growth.
        let warm_up = ((count / 10).max(8192), (count / 30).max(2048));
        let taken = storm(warm_up.0, warm_up.1);
        let before = daemon.memory();
        let (datagrams, frames) = (count * 3 / 4, count / 4);
        let taken = taken + storm(datagrams, frames);
        let grown = daemon.memory().saturating_sub(before);
        assert!(!flow.is_finished(), "the flow goes on");
        (datagrams + warm_up.0, taken, grown)
    });
    let took = begin.elapsed();

    assert!(daemon.is_running() && other.is_running());
    let (status, (_, lost)) = (daemon.status(), Gauge::new(bed.host(1)).read());
    let unread = bed.host(1).netlink().existing_link("adit0").unwrap().statistics.tx_dropped;
    println!(
        "{sent} datagrams, of which {lost} found no room in the kernel's buffer, and {taken} frames, of which {unread} the \
         device dropped, in {:.1} s; dropped {:?}; {} bytes of the flow arrived meanwhile; the daemon grew by {} KiB to {} KiB",
        took.as_secs_f64(),
        status.drops,
        moved.load(Ordering::Relaxed),
        grown / 1024,
        daemon.memory() / 1024,
    );
    assert!(grown < GROWTH, "{grown} bytes of growth");
    assert!(moved.load(Ordering::Relaxed) > 0);
    for reason in ["malformed", "unknown_endpoint", "wrong_transport", "wrong_source", "not_for_us", "no_route"] {
        assert!(status.drops.get(reason).is_some_and(|&n| n > 0), "{reason}: {:?}", status.drops);
    }
    assert!(lost * 100 <= sent, "nearly all reach the daemon: {lost} of {sent} do not");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.terminate();
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
