//! The fuzz target's checks over its committed corpus, and the seeds that it started from.
//!
//! `WRITE_SEEDS=1 cargo test -p adit --test names corpus` writes the seeds anew after their builders below have changed.

use std::fs;
use std::path::PathBuf;

use adit::resolver::message::{A, Data, NO_ERROR, PTR};
use adit::resolver::name::Name;

use crate::names_checks::names;
use crate::scene::{address, query};

/// A question with EDNS and a cookie, as `dig` writes it.
const DIG: &[u8] = b"\x12\x34\x01\x20\x00\x01\x00\x00\x00\x00\x00\x01\x03wEb\x06berlin\x04adit\x00\x00\x01\x00\x01\
                     \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x08ABCDEFGH";

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (web, reverse) = (query("web.berlin.adit", A), query("2.7.42.10.in-addr.arpa", PTR));
    let data = [address("10.42.7.2"), address("fd42::2")];
    let name = [Data::Name(Name::from_text("web.berlin.adit").unwrap())];
    vec![
        ("dig", DIG.to_vec()),
        ("question", web.to_bytes()),
        ("reverse", reverse.to_bytes()),
        ("addresses", web.answer(NO_ERROR, true, &data, 512)),
        ("name", reverse.answer(NO_ERROR, true, &name, 512)),
        ("outside", query("a.example", A).to_bytes()),
        ("pointers", b"\x03web\x00\x02ab\xc0\x00\xc0\x05\xc0\x0c\x01a\xc0\x0e\xc0\x00".to_vec()),
    ]
}

#[test]
fn the_corpus_holds_and_has_its_seeds() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/names");
    if std::env::var_os("WRITE_SEEDS").is_some() {
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in seeds() {
            fs::write(directory.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
    for (name, bytes) in seeds() {
        assert_eq!(fs::read(directory.join(format!("seed-{name}"))).unwrap(), bytes, "{name}");
    }
    let files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(files.len() >= seeds().len());
    files.iter().for_each(|bytes| names(bytes));
}

#[test]
fn damaged_seeds_hold_as_well() {
    for (_, bytes) in seeds() {
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff, bytes[at].wrapping_add(1)] {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                names(&bytes);
                bytes.truncate(at);
                names(&bytes);
            }
        }
    }
}

/// As a fuzzer would begin; `ADIT_MUTATIONS` asks for more.
#[test]
fn changed_seeds_hold_too() {
    let rounds: usize = std::env::var("ADIT_MUTATIONS").map_or(3000, |text| text.parse().unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound.max(1) as u64) as usize
    };
    let seeds = seeds();
    for _ in 0..rounds {
        let mut input = seeds[below(seeds.len())].1.clone();
        for _ in 0..=below(4) {
            let at = below(input.len());
            match below(5) {
                0 => input.truncate(at),
                1 => input.insert(at, below(256) as u8),
                2 => input.extend(seeds[below(seeds.len())].1.clone()),
                _ if at < input.len() => input[at] ^= 1 << below(8),
                _ => {}
            }
        }
        names(&input);
    }
}
