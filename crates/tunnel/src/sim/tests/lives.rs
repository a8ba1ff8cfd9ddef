//! Thousands of lives out of seeds.
//!
//! `ADIT_SEEDS=100000 cargo test --release -p tunnel lives` tries more of them; `ADIT_SEED=7` replays one, with all that happens in it.

use std::env;
use std::time::Duration;

use crate::sim::chaos;

/// How many seeds each of the tests below tries.
const SEEDS: u64 = 1000;

/// Seeds that found something.
const FOUND: &[u64] = &[9, 74, 16235];

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Tries its half of the seeds; two halves, since a machine has more than one core.
fn half(which: u64) {
    if let Some(seed) = number("ADIT_SEED") {
        if seed % 2 == which {
            let report = chaos::run(seed, true);
            print!("{}", report.diary.unwrap());
        }
        return;
    }
    let seeds = number("ADIT_SEEDS").unwrap_or(2 * SEEDS);
    let first = number("ADIT_FIRST").unwrap_or(0);
    let mut longest = Duration::ZERO;
    let mut sent = 0;
    for seed in (first..first + seeds).filter(|seed| seed % 2 == which) {
        let report = chaos::run(seed, false);
        longest = longest.max(report.recovery);
        sent += report.sent;
    }
    println!("{} lives, {sent} datagrams, {longest:?} until the last one had recovered", seeds / 2);
}

#[test]
fn even_lives_end_well() {
    half(0);
}

#[test]
fn odd_lives_end_well() {
    half(1);
}

#[test]
fn what_failed_once_fails_no_more() {
    for seed in FOUND {
        let _ = chaos::run(*seed, false);
    }
}

#[test]
fn the_same_seed_gives_the_same_life() {
    for seed in 0..20 {
        let (one, other) = (chaos::run(seed, true), chaos::run(seed, true));
        assert_eq!(one, other);
        assert!(one.sent > 0 && one.trace != 0);
    }
}
