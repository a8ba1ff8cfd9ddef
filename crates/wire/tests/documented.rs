//! docs/WIRE.md says what the code does: each table of fields leaves no gap, is as long as its example, and each example parses to
//! what the page says of it. And the tests that docs/SECURITY.md names are there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test is to stop there")]

use std::collections::HashSet;
use std::path::Path;

use wire::describe::{LinkLayer, TunnelPorts, describe};
use wire::ip::{IpHeader, protocol};
use wire::message::handshake::MAX_LEN;
use wire::message::{Answer, Control, Hello, Mode, Outcome, Protocol, Step};
use wire::udp::UdpHeader;

const PAGE: &str = include_str!("../../../docs/WIRE.md");
const PORT: u16 = 7777;

struct Example {
    name: String,
    bytes: Vec<u8>,
    /// What the page says of it.
    said: String,
    /// The rows of the table before it: where a field begins and how long it is.
    fields: Vec<[String; 2]>,
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut fields = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("| at | bytes | field |") {
            let rows = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
            fields = rows
                .map(|row| {
                    let cells: Vec<_> = row.split('|').map(str::trim).collect();
                    [cells[1].to_owned(), cells[2].to_owned()]
                })
                .collect();
        } else if line == "```hex" {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let [name, hex @ .., said] = block.as_slice() else { panic!("{block:?}") };
            examples.push(Example {
                name: (*name).to_owned(),
                bytes: unhex(&hex.join(" ")),
                said: said.strip_prefix("= ").unwrap().to_owned(),
                fields: std::mem::take(&mut fields),
            });
        }
    }
    examples
}

/// What somebody between two nodes sees of a datagram.
fn seen(datagram: &[u8]) -> String {
    let mut udp = vec![0; 8 + datagram.len()];
    UdpHeader { source_port: PORT, destination_port: PORT }.emit(Default::default(), datagram, &mut udp).unwrap();
    let mut bytes = vec![0; 20];
    let header = IpHeader::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), protocol::UDP);
    header.emit(udp.len(), &mut bytes).unwrap();
    bytes.extend(udp);
    let layers = describe(LinkLayer::Ip, &bytes, &TunnelPorts { adit: Some(PORT), vxlan: None });
    let inside: Vec<_> = layers.iter().skip(2).map(|layer| format!("{}: {}", layer.name, layer.summary)).collect();
    inside.join("; ")
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Tun => "tun",
        Mode::Tap => "tap",
    }
}

fn hello(bytes: &[u8]) -> String {
    let hello = Hello::parse(bytes.try_into().unwrap()).unwrap();
    assert_eq!(hello.emit(), bytes);
    let timestamp: String = hello.timestamp.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let Hello { epoch, mtu, .. } = hello;
    let aes = if hello.aes { ", aes" } else { "" };
    format!("timestamp {timestamp}, epoch {epoch}, mtu {mtu}, mode {}{aes}", mode(hello.mode))
}

fn answer(bytes: &[u8]) -> String {
    let answer = Answer::parse(bytes.try_into().unwrap()).unwrap();
    assert_eq!(answer.emit(), bytes);
    let outcome = match answer.outcome {
        Outcome::Accepted(suite) => format!("accepted, suite {}", suite.number()),
        Outcome::RefusedMode => "refused for the mode".to_owned(),
        Outcome::RefusedEpoch => "refused for the epoch".to_owned(),
    };
    let aes = if answer.aes { ", aes" } else { "" };
    format!("{outcome}, mode {}, mtu {}{aes}", mode(answer.mode), answer.mtu)
}

fn control(bytes: &[u8]) -> String {
    let control = Control::parse(bytes).unwrap();
    let mut again = vec![0xff; bytes.len()];
    assert_eq!(control.emit(&mut again), Some(bytes.len()));
    assert_eq!(again, bytes);
    match control {
        Control::Probe { id } => format!("probe {id}"),
        Control::Ack { id, length } => format!("ack {id}, length {length}"),
    }
}

#[test]
fn every_example_is_what_the_page_says() {
    for Example { name, bytes, said, .. } in examples() {
        let meaning = match name.as_str() {
            "hello" => hello(&bytes),
            "answer" => answer(&bytes),
            "probe" | "ack" => control(&bytes),
            _ => seen(&bytes),
        };
        assert_eq!(meaning, said, "{name}");
    }
}

#[test]
fn tables_leave_no_gap_and_are_as_long_as_their_examples() {
    for Example { name, bytes, fields, .. } in examples() {
        assert!(!fields.is_empty(), "{name} has no table");
        let (mut at, mut open) = (0, String::new());
        for [start, length] in fields {
            let expected = if open.is_empty() { at.to_string() } else { format!("{at}{open}") };
            assert_eq!(start, expected, "{name}");
            match length.parse::<usize>() {
                Ok(length) => at += length,
                Err(_) => open = format!(" + {length}"),
            }
        }
        assert!(if open.is_empty() { bytes.len() == at } else { bytes.len() >= at }, "{name}: {} bytes", bytes.len());
    }
}

#[test]
fn every_message_has_its_example() {
    let names: HashSet<_> = examples().into_iter().map(|example| example.name).collect();
    let expected = [
        "plain packet",
        "sealed initiation",
        "hello",
        "sealed response",
        "answer",
        "sealed cookie reply",
        "sealed data",
        "probe",
        "ack",
        "wireguard initiation",
        "wireguard response",
        "wireguard cookie reply",
        "wireguard data",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
    for protocol in [Protocol::Sealed, Protocol::WireGuard] {
        for step in [Step::Initiation, Step::Response, Step::Cookie] {
            let length = protocol.message_len(step).unwrap();
            assert!(length <= MAX_LEN && PAGE.contains(&format!(", {length} bytes:")), "{protocol:?} {step:?}");
        }
    }
}

#[test]
fn tests_that_promises_rest_on_are_there() {
    let page = include_str!("../../../docs/SECURITY.md");
    let named: Vec<_> = page.split('`').skip(1).step_by(2).filter(|text| text.ends_with(".rs")).collect();
    assert!(named.len() > 20, "{named:?}");
    for path in named {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        assert!(file.is_file(), "{path} is named and not there");
    }
}
