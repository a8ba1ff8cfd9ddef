//! The fuzz targets' checks over their committed corpora, and the seeds those corpora started from.
//!
//! `WRITE_SEEDS=1 cargo test -p wire --test corpus` writes the seeds anew after their builders below have changed.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

#[path = "../../../fuzz/src/checks.rs"]
#[allow(unreachable_pub)]
mod checks;
mod support;

use std::fs;
use std::path::PathBuf;

use support::{Segment, Stream, plain};
use wire::arp::{ArpPacket, Operation};
use wire::ethernet::MacAddress;
use wire::icmp::{self, IcmpHeader, Unreachable};
use wire::ip::{IpHeader, IpPacket, protocol};
use wire::message::{
    Answer, Control, CookieReply, DataHeader, Flags, HandshakeHeader, Hello, Mode, Outcome, Protocol, Step, Suite,
    Tai64n,
};

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 7] = [
    ("ip_packet", checks::ip_packet),
    ("super_packet", checks::super_packet),
    ("coalesce", checks::coalesce),
    ("ethernet_arp", checks::ethernet_arp),
    ("icmp_error", checks::icmp_error),
    ("describe", checks::describe),
    ("message", checks::message),
];

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
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let stream = stream(v6, tcp);
        let name = format!("seed-{}-ipv{}", if tcp { "tcp" } else { "udp" }, if v6 { 6 } else { 4 });
        let packet = stream.segments()[0].bytes();
        let (vnet, whole) = stream.super_packet();
        seeds.push(("super_packet", name.clone(), [&vnet.emit()[..], &whole].concat()));
        seeds.push(("coalesce", name.clone(), batch(&stream, 0)));
        let partial = batch(&stream, checks::step::PARTIAL | checks::step::CONTINUES);
        seeds.push(("coalesce", format!("{name}-partial"), partial));
        seeds.push(("icmp_error", name.clone(), [&[2, 0, 0, 5, 0][..], &packet].concat()));
        seeds.push(("describe", name.clone(), [&[1][..], &tunnel(8285, &packet)].concat()));
        seeds.push(("message", name.clone(), packet.clone()));
        seeds.push(("ip_packet", name, packet));
    }
    for (v6, name) in [(false, "seed-echo-ipv4"), (true, "seed-echo-ipv6")] {
        let ping = ping(v6);
        seeds.push(("ip_packet", name.to_owned(), ping.clone()));
        seeds.push(("icmp_error", name.to_owned(), [&[0; 5][..], &ping].concat()));
        let parsed = IpPacket::parse(&ping).unwrap();
        let mut error = vec![0; icmp::ERROR_MAX];
        let length = icmp::error_reply(&parsed, parsed.destination(), Unreachable::NoRoute, &mut error).unwrap();
        seeds.push(("describe", name.to_owned(), [&[1][..], &error[..length]].concat()));
    }
    let request = ArpPacket {
        operation: Operation::Request,
        sender_mac: MacAddress([2, 0, 0, 0, 0, 1]),
        sender: [10, 0, 0, 1].into(),
        target_mac: MacAddress::default(),
        target: [10, 0, 0, 2].into(),
    };
    let frame = request.emit_frame();
    let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &frame].concat();
    seeds.push(("describe", "seed-vxlan-arp".to_owned(), [&[1][..], &tunnel(4789, &vxlan)].concat()));
    seeds.push(("describe", "seed-tagged-arp".to_owned(), [&[0][..], &tagged].concat()));
    seeds.push(("ethernet_arp", "seed-request".to_owned(), frame.to_vec()));
    seeds.push(("ethernet_arp", "seed-tagged".to_owned(), tagged));
    seeds.push(("message", "seed-wireguard".to_owned(), vec![4, 0, 0, 0, 1, 2, 3, 4]));
    seeds.push(("message", "seed-sealed".to_owned(), vec![0xa4, 0, 0, 0, 1, 2, 3, 4]));
    seeds.extend(messages().into_iter().map(|(name, bytes)| ("message", name, bytes)));
    seeds.extend(extensions().map(|(name, bytes)| ("ip_packet", name.to_owned(), bytes)));
    seeds
}

/// Every message of both encrypted protocols, and what the sealed one says inside.
fn messages() -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    for (protocol, name) in [(Protocol::Sealed, "sealed"), (Protocol::WireGuard, "wireguard")] {
        for (step, kind) in [(Step::Initiation, "initiation"), (Step::Response, "response")] {
            let header = HandshakeHeader { protocol, step, sender: 0x10, receiver: 0x20 };
            let noise = vec![7; protocol.noise_len(step)];
            messages.push((format!("seed-{name}-{kind}"), header.emit(&noise).unwrap()));
        }
        let reply = CookieReply { protocol, receiver: 0x10, nonce: &[3; 24], sealed: &[4; 32] };
        messages.push((format!("seed-{name}-cookie"), reply.emit().to_vec()));
        let data = DataHeader { protocol, flags: Flags::NONE, receiver: 0x25, counter: 9 };
        messages.push((format!("seed-{name}-data"), [&data.emit()[..], &[5; 16]].concat()));
    }
    let timestamp = Tai64n([0x40, 0, 0, 0, 0x68, 0, 0, 0, 0, 0, 0, 1]);
    let hello = Hello { timestamp, epoch: 1, mtu: 1420, mode: Mode::Tun, aes: true };
    messages.push(("seed-hello".to_owned(), hello.emit().to_vec()));
    let outcome = Outcome::Accepted(Suite::Aes256Gcm);
    messages
        .push(("seed-answer".to_owned(), Answer { outcome, mode: Mode::Tun, aes: true, mtu: 1420 }.emit().to_vec()));
    for (name, control) in [("probe", Control::Probe { id: 7 }), ("ack", Control::Ack { id: 7, length: 72 })] {
        let mut plaintext = vec![0; 40];
        let length = control.emit(&mut plaintext).unwrap();
        messages.push((format!("seed-{name}"), plaintext[..length].to_vec()));
    }
    messages
}

fn stream(v6: bool, tcp: bool) -> Stream {
    Stream { first: plain(v6, tcp, &[]), size: 48, full: 3, last: 7, push: tcp, fin: false }
}

/// The stream as a batch: the first packet whole, the others as its continuation.
fn batch(stream: &Stream, steps: u8) -> Vec<u8> {
    let mut bytes = vec![0];
    for (index, segment) in stream.segments().iter().enumerate() {
        let (step, content) = match index {
            0 => (checks::step::FIX, segment.bytes()),
            _ if segment.push => (checks::step::NEXT | checks::step::PUSH, segment.payload.clone()),
            _ => (checks::step::NEXT, segment.payload.clone()),
        };
        bytes.push(step | steps);
        bytes.extend((content.len() as u16).to_be_bytes());
        bytes.extend(content);
    }
    bytes
}

/// `inner` in a UDP datagram over IPv4.
fn tunnel(port: u16, inner: &[u8]) -> Vec<u8> {
    Segment { ports: (port, port), ..plain(false, false, inner) }.bytes()
}

fn ping(v6: bool) -> Vec<u8> {
    let (source, destination, protocol) = if v6 {
        ([0xfd; 16].into(), [0xfc; 16].into(), protocol::ICMPV6)
    } else {
        ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol::ICMP)
    };
    let ip = IpHeader::new(source, destination, protocol);
    let kind = if v6 { icmp::v6::ECHO_REQUEST } else { icmp::v4::ECHO_REQUEST };
    let mut bytes = vec![0; 128];
    let ip_len = ip.emit(24, &mut bytes).unwrap();
    let header = IcmpHeader { kind, code: 0, rest: [0, 1, 0, 2] };
    let pseudo = v6.then(|| ip.pseudo_header());
    let length = header.emit(pseudo, b"sixteen bytes ok", &mut bytes[ip_len..]).unwrap();
    bytes.truncate(ip_len + length);
    bytes
}

/// IPv6 with every extension header there is, IPv6 fragments, and IPv4 with options of both kinds.
fn extensions() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let v6 = |next: u8, payload: &[u8]| {
        let ip = IpHeader::new([0xfd; 16].into(), [0xfc; 16].into(), next);
        let mut bytes = vec![0; 40];
        ip.emit(payload.len(), &mut bytes).unwrap();
        bytes.extend(payload);
        bytes
    };
    let udp = [0, 1, 0, 2, 0, 8, 0, 0];
    let chain = [
        &[43, 0, 1, 4, 0, 0, 0, 0][..],         // hop-by-hop, padding
        &[60, 0, 0, 0, 0, 0, 0, 0],             // routing
        &[51, 0, 1, 4, 0, 0, 0, 0],             // destination options
        &[44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], // authentication
        &[17, 0, 0, 0, 0, 0, 0, 7],             // atomic fragment
        &udp,
    ]
    .concat();
    let first = [&[17, 0, 0, 1, 0, 0, 0, 7][..], &udp].concat();
    let later = [&[17, 0, 0, 8, 0, 0, 0, 7][..], &udp].concat();
    let mut options = vec![0x48, 0, 0, 100, 0, 9, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    // No operation, record route (not copied), loose source route (copied), end of list.
    options.extend([1, 7, 3, 4, 131, 3, 4, 0, 0, 0, 0, 0]);
    options.extend([0xab; 68]);
    [
        ("seed-extensions", v6(0, &chain)),
        ("seed-first-fragment", v6(44, &first)),
        ("seed-later-fragment", v6(44, &later)),
        ("seed-options", options),
    ]
    .into_iter()
}
