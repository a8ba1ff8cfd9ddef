//! The fuzz targets' checks over their committed corpora, and the seeds those corpora started from.
//!
//! `WRITE_SEEDS=1 cargo test -p tunnel --test corpus` writes the seeds anew after their builders below have changed.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

#[path = "../../../fuzz/src/tunnel_checks.rs"]
#[allow(unreachable_pub)]
mod checks;

use std::fs;
use std::path::PathBuf;

use checks::{choice, send};
use wire::message::{CookieReply, Protocol};

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 2] = [("handshake", checks::handshake), ("admission", checks::admission)];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

#[test]
fn every_corpus_replays() {
    for (target, check) in TARGETS {
        let mut count = 0;
        for entry in fs::read_dir(corpus(target)).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{target} has no corpus");
    }
}

#[test]
fn seeds_are_in_their_corpora() {
    for (target, name, bytes) in seeds() {
        let path = corpus(target).join(name);
        if std::env::var_os("WRITE_SEEDS").is_some() {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap_or_default() == bytes, "{} is not what its builder makes", path.display());
    }
}

/// Target, file name and content of every seed.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (protocol, name, bit) in
        [(Protocol::Sealed, "sealed", 0), (Protocol::WireGuard, "wireguard", choice::WIREGUARD)]
    {
        let (_, initiation) = checks::genuine_initiation(protocol);
        let response = checks::genuine_response(protocol, &initiation);
        let mut seed = |kind: &str, bytes: Vec<u8>| seeds.push(("handshake", format!("seed-{name}-{kind}"), bytes));
        seed("initiation", vec![bit]);
        seed("initiation-raw", [&[bit | choice::RAW][..], &initiation].concat());
        let other = choice::WIREGUARD - bit;
        seed("initiation-crossed", [&[other | choice::RAW][..], &initiation].concat());
        seed("initiation-index", [bit, 0, 0, 0, 0, 1].to_vec());
        seed("initiation-ephemeral", [&[bit][..], &[0; 8], &[1]].concat());
        seed("response", vec![bit | choice::RESPONSE]);
        seed("response-raw", [&[bit | choice::RAW][..], &response].concat());
        seed("response-index", [&[bit | choice::RESPONSE][..], &[0; 4], &[1]].concat());
        seed("response-elsewhere", [&[bit | choice::RESPONSE][..], &[0; 8], &[1]].concat());
        seed("response-payload", [&[bit | choice::RESPONSE][..], &[0; 44], &[1]].concat());
        seed("response-longer", [&[bit | choice::RESPONSE][..], &vec![0; response.len()], &[1]].concat());
    }
    for (protocol, name, bit) in [(Protocol::Sealed, "sealed", 0), (Protocol::WireGuard, "wireguard", send::WIREGUARD)]
    {
        let mut seed = |kind: &str, bytes: Vec<u8>| seeds.push(("admission", format!("seed-{name}-{kind}"), bytes));
        let one = |what: u8| [what | bit, 2, 1];
        let abuser = [one(send::INITIATION), one(send::PROVEN), one(send::RESPONSE), one(send::ELSEWHERE)].concat();
        seed("abuser", abuser.repeat(12));
        seed("peer", one(send::INITIATION | send::KNOWN).repeat(20));
        seed("many", (0..240).flat_map(|source| [send::INITIATION | bit, source, 0]).collect());
        let epochs = [[send::INITIATION | bit, 2, 0]; 8].concat();
        let later = [[send::ELSEWHERE | bit, 2, 255]; 60].concat();
        seed("epochs", [&epochs[..], &later, &one(send::PROVEN), &later, &one(send::PROVEN), &epochs].concat());
        let (_, initiation) = checks::genuine_initiation(protocol);
        let reply = CookieReply { protocol, receiver: 1, nonce: &[2; 24], sealed: &[3; 32] }.emit();
        for (kind, message) in [("unsigned", &initiation[..]), ("cookie", &reply)] {
            seed(kind, [&one(send::RAW)[..], &[message.len() as u8], message].concat());
        }
    }
    seeds
}
