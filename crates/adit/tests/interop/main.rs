//! `transport = "wireguard"` against other people's WireGuard, in namespaces: wireguard-go, boringtun and gotatun.
//!
//! Each program is called and calls, by IPv4 and IPv6, with and without a preshared key; inside go IPv4 and IPv6, TCP and UDP of many
//! sizes, compared byte for byte, and the program's own counters are asked. Sessions are replaced under load, which in an ordinary
//! run is forced from the other side. `ADIT_INTEROP_GB=4 cargo test --release --test interop long -- --nocapture --test-threads 1`
//! moves so many gigabytes each way for so long that WireGuard's own rekeying, after 120 s, happens under load, and prints a line
//! for each program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod program;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bed::daemon::{Configuration, Daemon, PORT, Place};
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_tcp, exchange_udp};
use bed::{Bed, Family, at, wait_for};
use program::{BORINGTUN, GOTATUN, Program, Running, WIREGUARD_GO};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Who has an endpoint to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Adit,
    Other,
    Both,
}

/// What a tunnel's two ends have in common.
#[derive(Clone, Copy, Debug)]
struct Case {
    program: &'static Program,
    caller: Caller,
    outer: Family,
    preshared: bool,
}

/// Host 1 has adit, host 2 the other program.
struct Scene {
    bed: Bed,
    case: Case,
    place: Place,
    text: String,
}

impl Scene {
    fn new(case: Case) -> Self {
        let bed = Bed::new(2);
        let [mut ours, mut theirs] = Configuration::pair([bed.host(1), bed.host(2)], case.outer, "wireguard");
        // What all of them have by default.
        ours.mtu = Some(1420);
        if case.caller == Caller::Other {
            ours.peers[0].endpoint.clear();
        }
        if case.caller == Caller::Adit {
            theirs.peers[0].endpoint.clear();
        }
        if case.preshared {
            for end in [&mut ours, &mut theirs] {
                end.peers[0].preshared_key = Some("K2b3oXkhNvsBkjl0CmWwZwW4Oq0RfXcgmkUb2xuKQ3o=\n".into());
            }
        }
        let place = Place::new(bed.host(1), &ours);
        Self { text: program::text(&theirs), bed, case, place }
    }

    fn start(&self) -> (Daemon<'_>, Running<'_>) {
        (self.place.start(), Running::start(self.case.program, self.bed.host(2), &self.text))
    }

    fn end(&self, host: usize, family: Family) -> End<'_> {
        let host = self.bed.host(host);
        End::new(&host.namespace, host.inner(family))
    }

    /// Both ends of a connection, opened by the one who may call.
    fn connection(&self, family: Family) -> (TcpStream, TcpStream) {
        match self.case.caller {
            Caller::Other => connection(self.end(2, family), self.end(1, family)),
            _ => connection(self.end(1, family), self.end(2, family)),
        }
    }
}

/// Everything that sockets of both hosts exchange, and what the other program says of it.
fn understands(case: Case) {
    let Case { program, caller, outer, preshared } = case;
    println!("{}, {caller:?} calls by {outer:?}, preshared key: {preshared}", program.name);
    let scene = Scene::new(case);
    let (daemon, other) = scene.start();
    let (from, to) = if case.caller == Caller::Other { (2, 1) } else { (1, 2) };
    for family in FAMILIES {
        let (a, b) = (scene.end(from, family), scene.end(to, family));
        exchange_tcp(a, b, 2_000_003, 1_500_001);
        exchange_tcp(b, a, 1, 65_537);
        exchange_udp(a, b, (1..1420 - 48).step_by(11));
        exchange_udp(b, a, 1360..1420 - 28);
        // In fragments.
        exchange_udp(a, b, [1420, 2000, 4000, 9001]);
        exchange_udp(b, a, [1420, 2000, 4000, 9001]);
    }
    let us = other.peer();
    assert!(us.received > 3_400_000 && us.sent > 3_400_000, "{us:?}");
    assert!(case.program.tells_ages || us.latest_handshake > 1_700_000_000, "{us:?}");
    assert_eq!(us.endpoint, at(scene.bed.host(1).underlay(case.outer), PORT).to_string());
    let peer = daemon.status().peers.swap_remove(0);
    assert_eq!((peer.session.as_str(), peer.suite.as_deref()), ("up", Some("ChaCha20-Poly1305")));
    assert_eq!(peer.endpoint, Some(at(scene.bed.host(2).underlay(case.outer), PORT).to_string()));
    assert_eq!(peer.preshared_key, case.preshared);
    assert!(scene.bed.encrypted() > 0);
}

fn all(program: &'static Program, caller: Caller) {
    for outer in FAMILIES {
        for preshared in [false, true] {
            understands(Case { program, caller, outer, preshared });
        }
    }
}

/// Streams both ways, until told to stop: of each family one.
struct Load<'a> {
    flows: &'a [(TcpStream, TcpStream); 2],
    stop: AtomicBool,
    /// Bytes that arrived in each direction, all of them the right ones.
    moved: AtomicU64,
}

impl Load<'_> {
    /// Bytes of one piece, which is sent each way.
    const PIECE: usize = 1_000_003;

    fn run(&self) {
        thread::scope(|scope| {
            for (number, (a, b)) in (0..).zip(self.flows) {
                scope.spawn(move || {
                    let mut random = Random::new(number);
                    let (forth, back) = (random.bytes(Self::PIECE), random.bytes(Self::PIECE));
                    while !self.stop.load(Ordering::Acquire) {
                        exchange_over((a, b), &forth, &back);
                        self.moved.fetch_add(Self::PIECE as u64, Ordering::Relaxed);
                    }
                });
            }
        });
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes more have arrived each way.
    fn await_more(&self, bytes: u64) {
        let goal = self.moved() + bytes;
        wait_for("the streams to go on", || (self.moved() >= goal).then_some(()));
    }
}

/// Ends the load, also if the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The streams survive what forces a new session: the other program forgets us, and either of the two starts anew.
fn survives(program: &'static Program) {
    let scene = Scene::new(Case { program, caller: Caller::Both, outer: Family::V4, preshared: true });
    let (daemon, mut other) = scene.start();
    let flows = FAMILIES.map(|family| scene.connection(family));
    let load = Load { flows: &flows, stop: AtomicBool::new(false), moved: AtomicU64::new(0) };
    // The last daemon outlives the streams.
    let _daemon = thread::scope(|scope| {
        let _end = Ending(&load.stop);
        scope.spawn(|| load.run());
        load.await_more(4_000_000);
        for _ in 0..3 {
            other.forget_and_learn(&scene.text);
            load.await_more(4_000_000);
        }
        other.restart(&scene.text);
        load.await_more(4_000_000);
        daemon.crash();
        let daemon = scene.place.start();
        load.await_more(4_000_000);
        assert_eq!(daemon.status().peers[0].session, "up");
        daemon
    });
}

/// Longer than WireGuard uses a session before it asks for the next one (120 s), with some seconds to do so.
const REKEYED: Duration = Duration::from_secs(135);

fn long(program: &'static Program) {
    let gigabytes = std::env::var("ADIT_INTEROP_GB").ok();
    let gigabytes = gigabytes.map(|text| text.parse::<f64>().expect("ADIT_INTEROP_GB is a number"));
    // An ordinary run does not wait for new sessions: `survives` forces them.
    let (gigabytes, least, sessions) = gigabytes.map_or((0.005, Duration::ZERO, 1), |number| (number, REKEYED, 2));
    let goal = (gigabytes * 1e9) as u64;
    for caller in [Caller::Adit, Caller::Other] {
        let scene = Scene::new(Case { program, caller, outer: Family::V4, preshared: true });
        let (daemon, other) = scene.start();
        let flows = FAMILIES.map(|family| scene.connection(family));
        let load = Load { flows: &flows, stop: AtomicBool::new(false), moved: AtomicU64::new(0) };
        let (begin, mut handshakes, mut last) = (Instant::now(), 0, u64::MAX);
        thread::scope(|scope| {
            let _end = Ending(&load.stop);
            let running = scope.spawn(|| load.run());
            while begin.elapsed() < least || load.moved() < goal {
                assert!(!running.is_finished(), "the streams go on");
                // Younger than it was: another one.
                let age = daemon.status().peers[0].handshake_s.unwrap_or(u64::MAX);
                handshakes += u32::from(age < last);
                last = age;
                thread::sleep(Duration::from_millis(100));
            }
        });
        let us = other.peer();
        println!(
            "{}, {caller:?} calls: {:.1} GB each way in {:.0} s, each byte as sent; {handshakes} handshakes; by its own count it \
             received {:.1} GB and sent {:.1} GB",
            program.name,
            load.moved() as f64 / 1e9,
            begin.elapsed().as_secs_f64(),
            us.received as f64 / 1e9,
            us.sent as f64 / 1e9,
        );
        assert!(handshakes >= sessions, "there was a new session under load");
    }
}

macro_rules! with {
    ($($name:ident = $program:ident)+) => {
        $(mod $name {
            use super::*;

            #[test]
            fn answers_our_call() {
                all(&$program, Caller::Adit);
            }

            #[test]
            fn calls_us() {
                all(&$program, Caller::Other);
            }

            #[test]
            fn streams_survive_new_sessions() {
                survives(&$program);
            }

            #[test]
            fn long_streams_survive_rekeying() {
                long(&$program);
            }
        })+
    };
}

with! { wireguard_go = WIREGUARD_GO boringtun = BORINGTUN gotatun = GOTATUN }
