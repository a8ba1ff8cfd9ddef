//! docs/WIRE.md says what the records of a network look like: each table leaves no gap and is as long as its example, and each example is
//! what the page says of it.
//!
//! `WRITE_EXAMPLES=1` prints the examples anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test is to stop there")]

mod trust_bed;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use registry::trust::{Bundle, Certificate, Epoch, Record, Release, Token, Tombstone};
use trust_bed::{authority, keys, node, subnet};
use zeroize::Zeroizing;

const PAGE: &str = include_str!("../../../docs/WIRE.md");
const SECTION: &str = "## What a network's records look like";

/// A row: where a field begins, and how long it is.
type Fields = Vec<[String; 2]>;

struct Example {
    name: String,
    bytes: Vec<u8>,
    said: String,
    fields: Fields,
}

fn section() -> &'static str {
    let rest = &PAGE[PAGE.find(SECTION).unwrap() + SECTION.len()..];
    &rest[..rest.find("\n## ").unwrap()]
}

fn table<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Fields {
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        [cells[1].to_owned(), cells[2].to_owned()]
    })
    .collect()
}

fn examples() -> (Vec<Example>, Fields) {
    let (mut examples, mut fields) = (Vec::new(), Vec::new());
    let mut lines = section().lines();
    while let Some(line) = lines.next() {
        if line.starts_with("| at | bytes | field |") {
            fields = table(&mut lines.by_ref());
        } else if line == "```signed" {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let [name, hex @ .., said] = block.as_slice() else { panic!("{block:?}") };
            let digits: String = hex.iter().flat_map(|line| line.split_whitespace()).collect();
            let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
            examples.push(Example {
                name: (*name).to_owned(),
                bytes: bytes.collect(),
                said: said.strip_prefix("= ").unwrap().to_owned(),
                fields: std::mem::take(&mut fields),
            });
        }
    }
    // The last table is the token's.
    (examples, fields)
}

fn epochs() -> [Epoch; 2] {
    [1, 2].map(|number| Epoch { number, secret: Zeroizing::new([number as u8; 32]) })
}

/// What the examples hold; a bundle is another one each time.
fn made() -> Vec<(&'static str, Vec<u8>)> {
    let node = node(2);
    let [first, second] = epochs();
    let bundle = authority().bundle(&second, Some(&first), 1, &[(2, node.keys.sealed_public())]).unwrap();
    vec![
        ("certificate", node.certificate.encode()),
        ("record", node.signed(7, subnet(2))),
        ("release", STANDARD.decode(node.release(7, subnet(2))).unwrap()),
        ("tombstone", authority().bury(&Tombstone { number: 1, serial: 2 })),
        ("bundle", bundle),
    ]
}

#[test]
fn examples_are_what_the_page_says() {
    if std::env::var_os("WRITE_EXAMPLES").is_some() {
        for (name, bytes) in made() {
            let words: Vec<String> =
                bytes.chunks(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
            let lines: Vec<_> = words.chunks(8).map(|line| line.join(" ")).collect();
            println!("@{name}\n{}\n@", lines.join("\n"));
        }
    }
    let anchor = authority().anchor();
    let (examples, _) = examples();
    assert_eq!(examples.len(), 5);
    for (Example { name, bytes, said, .. }, (kind, made)) in examples.iter().zip(made()) {
        assert_eq!(name, kind);
        if kind != "bundle" {
            assert_eq!(*bytes, made, "{name} is another one");
        }
        let meaning = match kind {
            "certificate" => {
                let certificate = Certificate::open(bytes, &anchor).unwrap();
                format!("node {}, {}", certificate.serial, certificate.name)
            }
            "record" => {
                let record = Record::open(bytes, &anchor).unwrap();
                let name = &record.certificate.name;
                format!("{name}, sequence {}, {}, at {}", record.sequence, record.subnets, record.endpoints[0])
            }
            "release" => {
                let release = Release::open(bytes, &anchor).unwrap();
                format!("{}, sequence {}, {}", release.certificate.name, release.sequence, release.subnets)
            }
            "tombstone" => {
                let tombstone = Tombstone::open(bytes, &anchor).unwrap();
                format!("removal {}, node {}", tombstone.number, tombstone.serial)
            }
            _ => {
                let bundle = Bundle::open(bytes, &anchor).unwrap();
                let [first, second] = epochs();
                assert_eq!(bundle.unwrap(authority().network_id(), &keys(2), 2, Some(&first)).unwrap(), second);
                format!("epoch {}, {} removal, for node 2", bundle.epoch, bundle.removals)
            }
        };
        assert_eq!(meaning, *said, "{name}");
    }
}

#[test]
fn tables_leave_no_gap_and_are_as_long_as_their_examples() {
    let (examples, token_fields) = examples();
    let token = Token::generate(vec!["192.0.2.1:7780".into(), "a.example:1".into()], [7; 32]).unwrap();
    let token = URL_SAFE_NO_PAD.decode(token.text().strip_prefix("adit1.").unwrap()).unwrap();
    let tables: Vec<_> = examples
        .iter()
        .map(|example| (example.name.as_str(), example.bytes.len(), &example.fields))
        .chain([("token", token.len(), &token_fields)])
        .collect();
    for (name, length, fields) in tables {
        assert!(fields.len() > 4, "{name} has no table");
        // How long what varies is in the examples.
        let certificate = 187 + "node-2".len();
        let endpoints = if name == "token" { 15 + 12 } else { 7 };
        let known = BTreeMap::from([("n", 6), ("c", certificate), ("s", 6), ("e", endpoints), ("m", 0), ("k·56", 56)]);
        let sum = |text: &str| -> usize {
            let value = |term: &str| term.parse().unwrap_or_else(|_| known[term]);
            text.split(" + ").map(value).sum()
        };
        let mut at = 0;
        for [start, bytes] in fields {
            assert_eq!(sum(start), at, "{name}: {start}");
            at += sum(bytes);
        }
        assert_eq!(at, length, "{name}");
    }
}
