//! The fuzz targets' checks over their committed corpora, and the seeds those corpora started from.
//!
//! `WRITE_SEEDS=1 cargo test -p registry --test records_corpus` writes the seeds anew after their builders below have changed.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

#[path = "../../../fuzz/src/registry_checks.rs"]
#[allow(unreachable_pub)]
mod checks;

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use checks::{authority, good_value, how, kind, node_keys, own_anchor};
use registry::schema::LeaseValue;
use registry::trust::{Certificate, Epoch, Record, Release, Subject, Token, Tombstone};
use zeroize::Zeroizing;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 3] = [("signed", checks::signed), ("token", checks::token), ("view", checks::view)];

/// The length of a signature, which a seed leaves out.
const SIGNATURE: usize = 64;

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

/// As a fuzzer would begin; `ADIT_MUTATIONS` asks for more per target.
#[test]
fn changed_seeds_hold_too() {
    let rounds: usize = std::env::var("ADIT_MUTATIONS").map_or(300, |text| text.parse().unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound.max(1) as u64) as usize
    };
    for (target, check) in TARGETS {
        let seeds: Vec<_> = seeds().into_iter().filter(|seed| seed.0 == target).map(|seed| seed.2).collect();
        for _ in 0..rounds {
            let mut input = seeds[below(seeds.len())].clone();
            for _ in 0..=below(4) {
                let at = below(input.len());
                match below(5) {
                    0 => input.truncate(at),
                    1 => input.insert(at, below(256) as u8),
                    2 => input.extend(seeds[below(seeds.len())].clone()),
                    _ if at < input.len() => input[at] ^= 1 << below(8),
                    _ => {}
                }
            }
            check(&input);
        }
    }
}

#[test]
fn seeds_are_in_their_corpora() {
    for (target, name, bytes) in seeds() {
        let path = corpus(target).join(format!("seed-{name}"));
        if std::env::var_os("WRITE_SEEDS").is_some() {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap_or_default() == bytes, "{} is not what its builder makes", path.display());
    }
}

#[test]
fn seeds_of_signed_values_are_believed() {
    let anchor = own_anchor();
    for (target, name, bytes) in seeds() {
        if target != "signed" {
            continue;
        }
        let label: &[u8] = match bytes[0] {
            kind::CERTIFICATE => b"adit certificate v1\0",
            kind::RECORD => b"adit record v1\0",
            _ => b"adit release v1\0",
        };
        let signed = [&bytes[1..], &node_keys(1).sign(label, &bytes[1..])].concat();
        let opened = match bytes[0] {
            kind::CERTIFICATE => Certificate::open(&signed, &anchor).map(|_| ()),
            kind::RECORD => Record::open(&signed, &anchor).map(|_| ()),
            kind::RELEASE => Release::open(&signed, &anchor).map(|_| ()),
            _ => continue,
        };
        assert_eq!(opened, Ok(()), "{name}");
    }
}

/// A certificate of [`own_anchor`]'s network for node 1 itself: the authority's words about a node, signed by the one key there is.
fn own_certificate() -> Certificate {
    let keys = node_keys(1);
    let subject = Subject {
        serial: 5,
        name: "paris".to_owned(),
        record_key: keys.record_public(),
        sealed_key: keys.sealed_public(),
        roles: 1,
    };
    let elsewhere = authority().certify(subject).unwrap().encode();
    let mut body = elsewhere[..elsewhere.len() - SIGNATURE].to_vec();
    body[2..18].copy_from_slice(&own_anchor().network_id().0);
    body[18..50].copy_from_slice(&keys.record_public());
    let signature = keys.sign(b"adit certificate v1\0", &body);
    Certificate::open(&[&body[..], &signature].concat(), &own_anchor()).unwrap()
}

fn one_step(how: u8, key: &str, value: &[u8]) -> Vec<u8> {
    let mut step = vec![how, key.len() as u8];
    step.extend((value.len() as u16).to_le_bytes());
    step.extend(key.as_bytes());
    step.extend(value);
    step
}

/// Target, name and content of every seed.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let (keys, anchor) = (node_keys(1), own_anchor());
    let certificate = own_certificate();
    let subnets = good_value(7).0;
    let dual = registry::schema::Subnets::from_key("10.42.7.0-24&fd00:7::-64").unwrap();
    let record =
        Record { certificate: certificate.clone(), sequence: 9, subnets, endpoints: Vec::new(), behind_nat: true };
    let full = Record {
        endpoints: vec![([192, 0, 2, 1], 7777).into(), "[2001:db8::1]:7777".parse().unwrap()],
        subnets: dual,
        ..record.clone()
    };
    let release = Release { certificate: certificate.clone(), sequence: 9, subnets: dual };
    let epoch = Epoch { number: 1, secret: Zeroizing::new([1; 32]) };
    let next = Epoch { number: 2, secret: Zeroizing::new([2; 32]) };
    let tombstone = authority().bury(&Tombstone { number: 1, serial: 4 });
    let mut signed = |name, kind: u8, bytes: &[u8]| {
        seeds.push(("signed", name, [&[kind], &bytes[..bytes.len() - SIGNATURE]].concat()));
    };
    signed("certificate", kind::CERTIFICATE, &certificate.encode());
    signed("record", kind::RECORD, &record.sign(&keys, &anchor).unwrap());
    signed("record-full", kind::RECORD, &full.sign(&keys, &anchor).unwrap());
    signed("release", kind::RELEASE, &release.sign(&keys, &anchor).unwrap());
    let mut own_tombstone = tombstone.clone();
    own_tombstone[1..17].copy_from_slice(&anchor.network_id().0);
    signed("tombstone", kind::TOMBSTONE, &own_tombstone);
    // A bundle has a key of its own that is another one each time: here a fixed one, and one entry of zeros.
    let mut bundle = vec![1];
    bundle.extend(anchor.network_id().0);
    bundle.extend(next.number.to_le_bytes());
    bundle.extend(1u64.to_le_bytes());
    bundle.extend(node_keys(2).sealed_public());
    bundle.extend(1u32.to_le_bytes());
    bundle.extend(1u64.to_le_bytes());
    bundle.extend([0; 48 + SIGNATURE]);
    signed("bundle", kind::BUNDLE, &bundle);
    assert_eq!(epoch.number, 1);

    let token = Token {
        endpoints: vec!["192.0.2.1:7780".into(), "[2001:db8::1]:7780".into(), "a.example:1".into()],
        pin: [7; 32],
        id: [1; 8],
        secret: Zeroizing::new([2; 32]),
    };
    seeds.push(("token", "whole", token.to_string().into_bytes()));
    seeds.push(("token", "half", token.to_string().into_bytes()[..80].to_vec()));

    let (_, value) = good_value(4);
    let own_value = {
        let parsed = LeaseValue::parse(&value).unwrap();
        STANDARD.decode(parsed.signed().unwrap()).unwrap()
    };
    let plain = br#"{"PublicIP":"198.51.100.7","PublicIPv6":null}"#;
    let config = br#"{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}"#;
    let moved = good_value(1).1;
    let mut view = |name, steps: &[Vec<u8>]| seeds.push(("view", name, steps.concat()));
    view(
        "elsewhere",
        &[one_step(0, "subnets/10.42.8.0-24", &moved), one_step(how::DELETE, "subnets/10.42.8.0-24", &[])],
    );
    view("changed", &[one_step(how::WRAPPED | how::LISTED, "subnets/10.42.5.0-24", &own_value)]);
    view(
        "plain",
        &[one_step(how::UDP, "subnets/10.42.7.0-24", plain), one_step(0, "subnets/10.42.7.0-24&fd00::-64", plain)],
    );
    view("plain-refused", &[one_step(0, "subnets/10.42.7.0-24", plain)]);
    view("config", &[one_step(0, "config", config), one_step(how::LISTED, "config", b"{")]);
    view(
        "tombstone",
        &[one_step(how::WRAPPED, "adit/removed/0000000001", &tombstone), one_step(0, "adit/removed/1", b"")],
    );
    view("junk", &[one_step(0, "subnets/junk", b"\xff"), one_step(0, "adit/epochs/0000000001", b"AAAA")]);
    seeds
}
