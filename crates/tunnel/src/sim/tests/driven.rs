//! The fuzz target `node` over its committed corpus, over the seeds that this started from, and over any bytes.
//!
//! `WRITE_SEEDS=1 cargo test -p tunnel driven` writes the seeds anew after their builder below has changed.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use crate::sim::drive::{CHANGE, choice, drive, op};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/node")
}

#[test]
fn the_corpus_replays() {
    let mut count = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        drive(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn seeds_are_in_the_corpus() {
    for (name, bytes) in seeds() {
        let path = corpus().join(name);
        if std::env::var_os("WRITE_SEEDS").is_some() {
            fs::create_dir_all(corpus()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap_or_default() == bytes, "{} is not what its builder makes", path.display());
    }
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    // The nodes have started: their disks are done.
    let begin = [op::MILLIS, 1, op::FLUSH, op::MILLIS, 2, op::FLUSH];
    let both = [op::OFFER, op::OFFER | 0x10, op::FLUSH];
    for (name, bits) in [("sealed", 0), ("network", choice::NETWORK), ("wireguard", choice::WIREGUARD)] {
        for (kind, more) in [
            ("", 0),
            ("-three", choice::THREE),
            ("-blind", choice::BLIND),
            ("-strangers", choice::STRANGERS),
            ("-tap", choice::TAP),
            ("-keepalive", choice::KEEPALIVE | choice::NO_AES),
        ] {
            let mut seed = |what: &str, steps: &[&[u8]]| {
                let bytes = [&[bits | more][..], &begin, &both, &steps.concat(), &both].concat();
                seeds.push((format!("seed-{name}{kind}-{what}"), bytes));
            };
            seed("talk", &[]);
            if more != 0 && more != choice::BLIND {
                continue;
            }
            let later = [op::SECONDS, 121, op::OFFER, op::OFFER | 0x10, op::FLUSH];
            seed("renew", &[&later, &later]);
            seed("restart", &[&[op::RESTART | 0x10, op::OFFER, op::FLUSH, op::SECONDS, 16, op::FLUSH]]);
            let replays: Vec<_> = (0..12).flat_map(|which| [op::REPLAY | 0x10, which, op::REPLAY, which]).collect();
            seed("replay", &[&replays, &[op::RESTART | 0x10], &replays]);
            let mutations: Vec<_> = (0..40).flat_map(|at| [op::MUTATE | (at << 4), at % 6, at * 5]).collect();
            seed("mutate", &[&mutations]);
            let moves = [op::MOVE, 1, op::OFFER, op::FLUSH, op::MOVE | 0x10, 2, op::OFFER | 0x10, op::FLUSH];
            seed("move", &[&moves, &[op::SECONDS, 4], &moves]);
            let sleep = [op::SLEEP, 3, op::SECONDS, 4, op::FLUSH, op::FLUSH];
            seed("sleep", &[&sleep, &[op::DISK, op::JUMP, 100], &sleep, &[op::DISK, op::JUMP, 156], &sleep]);
            let notices: Vec<_> = (0..30).flat_map(|what| [op::NOTICE | ((what % 2) << 4), what, what / 6]).collect();
            seed("notices", &[&notices, &[op::SECONDS, 3], &notices]);
            let change = |host: u8, what: u8, which: u8| [op::NOTICE | (host << 4), CHANGE + what, which];
            let again = [op::MILLIS, 1, op::OFFER, op::OFFER | 0x10, op::FLUSH];
            for (name, [there, back]) in
                [("peer", [0, 1]), ("preshared", [3, 3]), ("endpoint", [5, 4]), ("key", [7, 2])]
            {
                let steps: Vec<_> =
                    (0..2).map(|host| [change(host, there, 1), change(1 - host, back, 2)].concat()).collect();
                let one_by_one: Vec<_> = steps.iter().map(|step| [&step[..], &again].concat()).collect();
                let later = [op::SECONDS, 125, op::FLUSH];
                seed(&format!("change-{name}"), &[&one_by_one.concat(), &later, &steps.concat(), &again]);
            }
            seed("lost", &[&[op::OFFER, op::DROP, op::SECONDS, 20, op::DROP, op::SECONDS, 5, op::FLUSH]]);
            seed("raw", &[&[op::RAW, 5, 0xa4, 0, 0, 0, 1, op::RAW | 0x90, 4, 1, 0, 0, 0, op::POSE, op::POSE | 0x10]]);
        }
    }
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_bytes_say_does_harm(bytes in prop::collection::vec(any::<u8>(), 1..400)) {
        drive(&bytes);
    }
}
