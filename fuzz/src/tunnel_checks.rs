//! What must hold for any bytes that reach `tunnel`: one function per fuzz target, named like it. The tests of `tunnel` run
//! the same functions over the committed corpora.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is what a fuzzer looks for")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use tunnel::admission::{Admission, Verdict};
use tunnel::handshake::{Finished, Identity, Incoming, Initiator, NO_NETWORK, Shared, initiate, read_initiation};
use tunnel::mac::MacKeys;
use tunnel::{Reason, Time};
use wire::message::{Answer, CookieReply, Handshake, HandshakeHeader, Hello, Mode, Outcome, Protocol, Step, Suite};
use zeroize::Zeroizing;

const SENDER: u32 = 0x10;
const PSK: [u8; 32] = [5; 32];

/// Bits of a handshake input's first byte.
pub mod choice {
    /// WireGuard, not sealed.
    pub const WIREGUARD: u8 = 1;
    /// The rest of the input is a message; without it, it changes the bits of a genuine one and is appended to it.
    pub const RAW: u8 = 2;
    /// The genuine message is a response, not an initiation.
    pub const RESPONSE: u8 = 4;
}

/// Input: a byte of [`choice`]s, then what they say. Of all messages only the genuine ones are accepted, and none of the
/// others keeps the genuine response from being accepted later.
pub fn handshake(data: &[u8]) {
    let Some((choices, rest)) = data.split_first() else { return };
    let has = |choice| choices & choice != 0;
    let protocol = if has(choice::WIREGUARD) { Protocol::WireGuard } else { Protocol::Sealed };
    let (mut pending, initiation) = genuine_initiation(protocol);
    let response = genuine_response(protocol, &initiation);
    let message = match (has(choice::RAW), has(choice::RESPONSE)) {
        (true, _) => rest.to_vec(),
        (false, true) => changed(&response, rest),
        (false, false) => changed(&initiation, rest),
    };
    let Ok(view) = Handshake::parse(&message) else { return };
    for reader in [Protocol::Sealed, Protocol::WireGuard] {
        if let Ok(incoming) = read_initiation(reader, &identity(2), &NO_NETWORK, &view) {
            let (_, ours) = genuine_initiation(reader);
            let ours = Handshake::parse(&ours).unwrap();
            assert_eq!((view.protocol(), view.noise()), (reader, ours.noise()));
            assert!(reader == Protocol::WireGuard || view.head() == ours.head());
            assert_eq!((incoming.remote(), incoming.receiver_index()), (identity(1).public(), view.sender()));
            respond(incoming);
        }
    }
    let genuine = Handshake::parse(&response).unwrap();
    if finish(&mut pending, &view) {
        assert_eq!((view.protocol(), view.receiver(), view.noise()), (protocol, SENDER, genuine.noise()));
        assert!(!finish(&mut pending, &genuine), "two responses to one initiation");
    } else {
        assert!(finish(&mut pending, &genuine), "the pending handshake is lost");
    }
}

/// The initiation that the inputs of [`handshake`] change.
pub fn genuine_initiation(protocol: Protocol) -> (Initiator, Vec<u8>) {
    let hello = Hello { aes: true, mtu: 1420, ..Hello::default() };
    let ephemeral = Zeroizing::new([3; 32]);
    initiate(protocol, &identity(1), identity(2).public(), Shared::of_file(&PSK), SENDER, &hello, ephemeral).unwrap()
}

/// The response to it.
pub fn genuine_response(protocol: Protocol, initiation: &[u8]) -> Vec<u8> {
    respond(read_initiation(protocol, &identity(2), &NO_NETWORK, &Handshake::parse(initiation).unwrap()).unwrap())
}

fn identity(seed: u8) -> Identity {
    Identity::new(&[seed; 32]).unwrap()
}

fn respond(incoming: Incoming) -> Vec<u8> {
    let answer = Answer { outcome: Outcome::Accepted(Suite::Aes256Gcm), mode: Mode::Tun, aes: true, mtu: 1420 };
    incoming.respond(&PSK, 0x20, &answer, Zeroizing::new([4; 32])).unwrap().1
}

fn finish(pending: &mut Initiator, response: &Handshake<'_>) -> bool {
    matches!(pending.finish(response), Ok(Finished::Established { .. }))
}

fn changed(genuine: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut message = genuine.to_vec();
    message.iter_mut().zip(changes).for_each(|(byte, change)| *byte ^= change);
    message.extend(changes.get(genuine.len()..).unwrap_or_default());
    message
}

/// What a step of an [`admission`] input sends: the low three bits of its first byte.
pub mod send {
    /// An initiation.
    pub const INITIATION: u8 = 0;
    /// An initiation with the last cookie that this source got.
    pub const PROVEN: u8 = 1;
    /// A response.
    pub const RESPONSE: u8 = 2;
    /// An initiation to somebody else.
    pub const ELSEWHERE: u8 = 3;
    /// Bytes: as many as the next byte says.
    pub const RAW: u8 = 4;
    /// Beside one of these: WireGuard, not sealed.
    pub const WIREGUARD: u8 = 8;
    /// Beside one of these: the source is the endpoint of a peer.
    pub const KNOWN: u8 = 16;
}

/// Input: steps of three bytes: what to [`send`], from which source, and how many times 8 ms later. Who proves nothing about
/// our key is not answered; no answer is longer than its question; a cookie proves its source and no other; and strangers
/// get no more than their rate.
pub fn admission(data: &[u8]) {
    const PUBLIC: [u8; 32] = [9; 32];
    let protocols = [Protocol::Sealed, Protocol::WireGuard];
    let admission = Admission::new(&protocols.map(|protocol| (protocol, PUBLIC)), Zeroizing::new([8; 32]));
    let mut cookies = HashMap::new();
    let (mut elapsed, mut unproven) = (0, 0);
    let mut rest = data;
    while let Some((&[what, source, later], tail)) = rest.split_first_chunk() {
        rest = tail;
        elapsed += 8 * u64::from(later);
        let now = Time::from_nanos((1000 + elapsed) * 1_000_000);
        let from: SocketAddr = (Ipv4Addr::new(192, 0, 2, source >> 1), 51820 + u16::from(source & 1)).into();
        let protocol = protocols[usize::from(what & send::WIREGUARD != 0)];
        let (known, kind) = (what & send::KNOWN != 0, what & 7);
        let public = if kind == send::ELSEWHERE { [7; 32] } else { PUBLIC };
        let keys = MacKeys::new(protocol, &public);
        let step = if kind == send::RESPONSE { Step::Response } else { Step::Initiation };
        let cookie = cookies.get(&(from, protocol)).filter(|_| kind == send::PROVEN);
        let datagram = if kind >= send::RAW {
            let (length, tail) = rest.split_first().map_or((0, rest), |(length, tail)| (usize::from(*length), tail));
            let (bytes, tail) = tail.split_at(length.min(tail.len()));
            rest = tail;
            bytes.to_vec()
        } else {
            let header = HandshakeHeader { protocol, step, sender: SENDER, receiver: 0x20 };
            let mut message = header.emit(&vec![source; protocol.noise_len(step)]).unwrap();
            keys.sign(&mut message, cookie);
            message
        };
        let verdict = admission.admit(&datagram, from, known, now, || [6; 24]);
        if let Verdict::Cookie(reply) = verdict {
            assert!(!known && reply.len() <= datagram.len());
            let (reply, asked) = (CookieReply::parse(&reply).unwrap(), Handshake::parse(&datagram).unwrap());
            assert_eq!(
                (reply.protocol, reply.receiver, asked.step()),
                (asked.protocol(), asked.sender(), Step::Initiation)
            );
            let keys = MacKeys::new(asked.protocol(), &PUBLIC);
            let opened = keys.open_cookie(reply.nonce, asked.mac1(), reply.sealed).unwrap();
            let mut again = datagram.clone();
            keys.sign(&mut again, Some(&opened));
            let verdict = admission.admit(&again, from, known, now, || panic!("a cookie for a cookie"));
            assert!(matches!(verdict, Verdict::Pass | Verdict::Drop(Reason::RateLimited)));
            cookies.insert((from, asked.protocol()), opened);
        }
        let forged = verdict == Verdict::Drop(Reason::Forged);
        match kind {
            send::INITIATION if known => assert_eq!(verdict, Verdict::Pass),
            send::INITIATION | send::PROVEN => assert!(!forged),
            send::RESPONSE => assert_eq!(verdict, Verdict::Pass),
            send::ELSEWHERE => assert!(forged),
            _ => assert!(forged || Handshake::parse(&datagram).is_ok() || CookieReply::parse(&datagram).is_ok()),
        }
        if kind == send::INITIATION && !known && verdict == Verdict::Pass {
            unproven += 1;
        }
    }
    assert!(unproven <= 100 + elapsed / 10, "{unproven} in {elapsed} ms");
}
