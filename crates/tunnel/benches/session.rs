//! What a session costs: sealing and opening in bytes of plaintext per second, the marks of the replay window, a handshake from the
//! first message to the keys on both sides, and what somebody who proves nothing makes a node compute.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tunnel::admission::{Admission, Verdict};
use tunnel::handshake::{Finished, Identity, Initiator, Keys, NO_NETWORK, Shared, initiate, read_initiation};
use tunnel::mac::MacKeys;
use tunnel::replay::{Mark, WINDOW, Window};
use tunnel::session::{Parts, Session};
use tunnel::{PeerId, Time};
use wire::message::data::DATA_OVERHEAD;
use wire::message::{
    Answer, DataHeader, Flags, Handshake, HandshakeHeader, Hello, Mode, Outcome, Protocol, Step, Suite,
};
use zeroize::Zeroizing;

const NOW: Time = Time::from_nanos(1_000_000_000);
/// Packets of a train that fill one message to the socket.
const TRAIN: usize = 44;
/// The largest inner packet over IPv4 and Ethernet.
const MTU: usize = 1440;

fn session(suite: Suite, initiator: bool) -> Session {
    let [one, two] = [[7; 32], [9; 32]];
    let (send, receive) = if initiator { (one, two) } else { (two, one) };
    let keys = Keys { send: Zeroizing::new(send), receive: Zeroizing::new(receive), suite };
    let (index, peer_index) = if initiator { (0x10, 0x20) } else { (0x20, 0x10) };
    let protocol = Protocol::Sealed;
    Session::new(Parts { protocol, peer: PeerId(0), index, peer_index, keys, initiator, since: NOW }).unwrap()
}

/// Seals packets one behind the other into `train`, as a worker does: counters are reserved for all of them at once.
fn seal(session: &Session, packets: &[Vec<u8>], train: &mut [u8]) {
    let counter = session.reserve(packets.len(), NOW).unwrap();
    let mut rest = train;
    for (counter, packet) in (counter..).zip(packets) {
        let (datagram, behind) = rest.split_at_mut(packet.len() + DATA_OVERHEAD);
        assert!(session.seal(counter, Flags::NONE, 5, black_box(packet), datagram));
        rest = behind;
    }
}

fn open(session: &Session, train: &mut [u8], length: usize) {
    for datagram in train.chunks_exact_mut(length) {
        let header = DataHeader::parse(black_box(datagram)).unwrap();
        black_box(session.open(&header, datagram, NOW).unwrap());
    }
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    for (suite, name) in [(Suite::Aes256Gcm, "aes-256-gcm"), (Suite::ChaCha20Poly1305, "chacha20-poly1305")] {
        let (ours, theirs) = (session(suite, true), session(suite, false));
        for (count, size) in [(1, 64), (1, MTU), (TRAIN, MTU)] {
            let packets = vec![vec![0x45; size]; count];
            let mut train = vec![0; count * (size + DATA_OVERHEAD)];
            group.throughput(Throughput::Bytes((count * size) as u64));
            group.bench_function(format!("seal/{name}/{count}x{size}"), |b| {
                b.iter(|| seal(&ours, &packets, &mut train));
            });
            // Opening is in place, so each round needs its own copy, which is not measured.
            group.bench_function(format!("open/{name}/{count}x{size}"), |b| {
                let again = || train.clone();
                b.iter_batched_ref(again, |train| open(&theirs, train, size + DATA_OVERHEAD), BatchSize::LargeInput);
            });
        }
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(1));
    let mut window = Window::default();
    let mut counter = 0;
    group.bench_function("in_order", |b| {
        b.iter(|| {
            counter += 1;
            assert_ne!(window.mark(black_box(counter)), Mark::Replay);
        });
    });
    // Pairs that overtook each other, from an even number on.
    counter |= 1;
    group.bench_function("swapped", |b| {
        b.iter(|| {
            counter += 1;
            assert_ne!(window.mark(black_box(counter ^ 1)), Mark::Replay);
        });
    });
    window.mark(counter);
    group.bench_function("replayed", |b| b.iter(|| assert_eq!(window.mark(black_box(counter)), Mark::Replay)));
    group.bench_function("leap_over_the_window", |b| {
        b.iter(|| {
            counter += 2 * WINDOW;
            assert_ne!(window.mark(black_box(counter)), Mark::Replay);
        });
    });
    group.finish();
}

fn identity(seed: u8) -> Identity {
    Identity::new(&[seed; 32]).unwrap()
}

fn key(seed: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([seed; 32])
}

fn begin(protocol: Protocol, us: &Identity, them: &Identity) -> (Initiator, Vec<u8>) {
    let hello = Hello { aes: true, ..Hello::default() };
    initiate(protocol, us, them.public(), Shared::of_file(&[0; 32]), 0x10, &hello, key(3)).unwrap()
}

fn respond(protocol: Protocol, them: &Identity, message: &[u8]) -> Vec<u8> {
    let answer = Answer { outcome: Outcome::Accepted(Suite::Aes256Gcm), mode: Mode::Tun, mtu: MTU as u16, aes: true };
    let incoming = read_initiation(protocol, them, &NO_NETWORK, &Handshake::parse(message).unwrap()).unwrap();
    incoming.respond(&[0; 32], 0x20, &answer, key(4)).unwrap().1
}

fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    let (us, them) = (identity(1), identity(2));
    for (protocol, name) in [(Protocol::Sealed, "sealed"), (Protocol::WireGuard, "wireguard")] {
        let (_, initiation) = begin(protocol, &us, &them);
        group.bench_function(format!("initiate/{name}"), |b| b.iter(|| begin(protocol, &us, black_box(&them))));
        group.bench_function(format!("respond/{name}"), |b| {
            b.iter(|| respond(protocol, &them, black_box(&initiation)));
        });
        group.bench_function(format!("round/{name}"), |b| {
            b.iter(|| {
                let (mut pending, initiation) = begin(protocol, &us, &them);
                let response = respond(protocol, &them, black_box(&initiation));
                let finished = pending.finish(&Handshake::parse(&response).unwrap()).unwrap();
                assert!(matches!(finished, Finished::Established { .. }));
            });
        });
    }
    group.finish();
}

fn admission(c: &mut Criterion) {
    let mut group = c.benchmark_group("admission");
    group.throughput(Throughput::Elements(1));
    let protocol = Protocol::Sealed;
    let from: SocketAddr = ([192, 0, 2, 7], 7777).into();
    let header = HandshakeHeader { protocol, step: Step::Initiation, sender: 0x10, receiver: 0 };
    let bad = header.emit(&vec![7; protocol.noise_len(Step::Initiation)]).unwrap();
    let mut good = bad.clone();
    MacKeys::new(protocol, &[9; 32]).sign(&mut good, None);
    let admission = Admission::new(&[(protocol, [9; 32])], Zeroizing::new([5; 32]));
    let admit = |message: &[u8]| admission.admit(black_box(message), from, false, NOW, || [3; 24]);
    group.bench_function("bad_mac1", |b| b.iter(|| assert!(matches!(admit(&bad), Verdict::Drop(_)))));
    // Time stands still, so that the source is over its rate after a few and gets cookies from then on.
    while !matches!(admit(&good), Verdict::Cookie(_)) {}
    group.bench_function("good_mac1_cookie", |b| b.iter(|| assert!(matches!(admit(&good), Verdict::Cookie(_)))));
    group.finish();
}

criterion_group!(benches, data, replay, handshake, admission);
criterion_main!(benches);
