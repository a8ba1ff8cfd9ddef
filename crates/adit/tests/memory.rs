//! How much memory a daemon takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::thread;
use std::time::{Duration, Instant};

use bed::daemon::{Configuration, Place};
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_udp};
use bed::{Bed, Family};

const MIB: u64 = 1 << 20;

/// Of a daemon that has nothing to do: memory of its own.
const IDLE: u64 = 8 * MIB;

/// The same with the program's pages, as it is installed; a build without optimisation is many times as large.
const IDLE_WITH_PROGRAM: u64 = 16 * MIB;

/// Of each worker of a daemon that had much to do.
const BUSY: u64 = 64 * MIB;

/// How long the load lasts: long enough for every buffer to have been full.
const LOAD: Duration = Duration::from_secs(2);

#[test]
fn a_daemon_is_small_when_idle_and_bounded_under_load() {
    for workers in [1, 2, 4] {
        let bed = Bed::new(2);
        let places = [(1, 2), (2, 1)].map(|(me, peer)| {
            let host = bed.host(me);
            Place::new(host, &Configuration::new(host, &[peer], Family::V4).with(&format!("workers = {workers}")))
        });
        let daemons = places.each_ref().map(Place::start);
        let end = |n: usize, family| End::new(&bed.host(n).namespace, bed.host(n).inner(family));
        exchange_udp(end(1, Family::V4), end(2, Family::V4), [100]);
        let idle = daemons.each_ref().map(|d| d.memory());
        assert!(idle.iter().all(|&bytes| bytes < IDLE), "idle with {workers} workers: {idle:?}");
        if !cfg!(debug_assertions) {
            let all = daemons.each_ref().map(|d| d.all_memory());
            assert!(all.iter().all(|&bytes| bytes < IDLE_WITH_PROGRAM), "idle with {workers} workers: {all:?}");
        }
        let until = Instant::now() + LOAD;
        thread::scope(|scope| {
            for i in 0..4 * workers {
                let family = [Family::V4, Family::V6][i % 2];
                let (a, b) = connection(end(1, family), end(2, family));
                scope.spawn(move || {
                    let mut random = Random::new(i as u64);
                    let (forth, back) = (random.bytes(1_000_000), random.bytes(1_000_000));
                    while Instant::now() < until {
                        exchange_over((&a, &b), &forth, &back);
                    }
                });
            }
        });
        let busy = daemons.each_ref().map(|d| d.memory());
        println!("{workers} workers: idle {} KiB, after load {} KiB", idle[0] / 1024, busy[0] / 1024);
        assert!(busy.iter().all(|&bytes| bytes < BUSY * workers as u64), "busy with {workers} workers: {busy:?}");
    }
}
