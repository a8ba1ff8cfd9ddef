//! Handshakes of both protocols between two identities, genuine and forged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test prepares must succeed")]

use proptest::prelude::*;
use tunnel::handshake::{
    Failure, Finished, Identity, Incoming, Initiator, Keys, NO_NETWORK, Shared, Suite, initiate, read_initiation,
};
use tunnel::mac::MacKeys;
use wire::message::{Answer, Handshake, Hello, Mode, Outcome, Protocol, Tai64n};
use zeroize::Zeroizing;

const BOTH: [Protocol; 2] = [Protocol::Sealed, Protocol::WireGuard];
const INITIATOR: u32 = 0x0102_0310;
const RESPONDER: u32 = 0x0a0b_0c20;
const NO_PSK: [u8; 32] = [0; 32];
const ACCEPT: Answer = Answer { outcome: Outcome::Accepted(Suite::Aes256Gcm), mode: Mode::Tap, aes: true, mtu: 1400 };

fn identity(seed: u8) -> Identity {
    Identity::new(&[seed; 32]).unwrap()
}

fn key(seed: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([seed; 32])
}

fn hello() -> Hello {
    let timestamp = Tai64n([0x40, 0, 0, 0, 0x68, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
    Hello { timestamp, epoch: 7, mtu: 1420, mode: Mode::Tap, aes: true }
}

fn begin(protocol: Protocol, psk: &[u8; 32]) -> (Initiator, Vec<u8>) {
    let them = identity(0x22);
    initiate(protocol, &identity(0x11), them.public(), Shared::of_file(psk), INITIATOR, &hello(), key(0x33)).unwrap()
}

fn read(protocol: Protocol, message: &[u8]) -> Result<Incoming, Failure> {
    read_initiation(protocol, &identity(0x22), &NO_NETWORK, &Handshake::parse(message).unwrap())
}

fn answer(protocol: Protocol, message: &[u8], psk: &[u8; 32]) -> (Option<Keys>, Vec<u8>) {
    read(protocol, message).unwrap().respond(psk, RESPONDER, &ACCEPT, key(0x44)).unwrap()
}

fn finish(pending: &mut Initiator, response: &[u8]) -> Result<Finished, Failure> {
    pending.finish(&Handshake::parse(response).unwrap())
}

fn established(finished: Result<Finished, Failure>) -> (Keys, u32, Option<Answer>) {
    match finished {
        Ok(Finished::Established { keys, receiver_index, answer }) => (keys, receiver_index, answer),
        Ok(Finished::Refused(_)) => panic!("refused"),
        Err(failure) => panic!("{failure}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn both_sides_get_the_same_keys() {
    for protocol in BOTH {
        for psk in [NO_PSK, [0x55; 32]] {
            let (mut pending, initiation) = begin(protocol, &psk);
            let incoming = read(protocol, &initiation).unwrap();
            assert_eq!(incoming.remote(), identity(0x11).public());
            assert_eq!(incoming.receiver_index(), INITIATOR);
            assert_eq!(incoming.hello().timestamp, hello().timestamp);
            assert_eq!(*incoming.hello() == hello(), protocol == Protocol::Sealed);
            let (theirs, response) = incoming.respond(&psk, RESPONDER, &ACCEPT, key(0x44)).unwrap();
            let theirs = theirs.unwrap();
            let (ours, index, answer) = established(finish(&mut pending, &response));
            assert_eq!((&ours.send, &ours.receive), (&theirs.receive, &theirs.send));
            assert_ne!(ours.send, ours.receive);
            assert_eq!((index, ours.suite), (RESPONDER, theirs.suite));
            match protocol {
                Protocol::Sealed => assert_eq!((answer, ours.suite), (Some(ACCEPT), Suite::Aes256Gcm)),
                Protocol::WireGuard => assert_eq!((answer, ours.suite), (None, Suite::ChaCha20Poly1305)),
            }
        }
    }
}

/// Computed once by another implementation: a page of Python after the WireGuard paper, with `hashlib` and `cryptography`.
#[test]
fn every_byte_is_what_another_implementation_computes() {
    let cases = [
        (
            Protocol::WireGuard,
            "01000000100302017b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b1481e498317da959fba4666957\
             2516a5e6c021bfa620bb6c56ca0082e1feae14988c2c64d024c617734a263f76a008df04d0f94bad83b4afc2f3f63f2db4aa918b\
             9162bcca19abf831a4ebf011bc08879ebee16499bfef32ef9d9668be00000000000000000000000000000000",
            "02000000200c0b0a10030201ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b2c2d753ce9be754c\
             a8ffd7fe4c831f8ec9573ed368624fd4899afff9f263f8fd00000000000000000000000000000000",
            "a007faf842d83f5bd3be20a14e0ffcec34c84867b78b051980602713205922de",
            "d982d5cd10d34a7802b6c19fa441cd9164d70e4f4d62007ab416879ee8bd1b99",
        ),
        (
            Protocol::Sealed,
            "a1010000100302017b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b146ebed51196766a5ec7cb069c\
             700ada5771507f9a29698025a407e244c4cb031314ff33fefaebcdbac193cd5ab1495f718c7cd28b5d2ba29757ba10a2668d85ee\
             aa3cd8120bb6b8c1e765236fd5148fd18b6cecc4d82eaa9bb3e0201e170e6f8852a647736841b26b000000000000000000000000\
             00000000",
            "a2010000200c0b0a10030201ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b409dcc35b752ec3e\
             95d97d84ea7ed84b0c2bdb65838ee94d11d24ee0cb4bfac4ad04154e9ac64f2b00000000000000000000000000000000",
            "983a0a6f97e839d9362a5d5b6aa8ceb2fd86613110d8fd2342b5040939a90ead",
            "783003933974c2d8dfcea4e08e13eb94a4af4954dceeaa21ef61a732cf5efff1",
        ),
    ];
    for (protocol, initiation, response, from_us, from_them) in cases {
        let psk = [0x55; 32];
        let (mut pending, mut message) = begin(protocol, &psk);
        MacKeys::new(protocol, identity(0x22).public()).sign(&mut message, None);
        assert_eq!(hex(&message), initiation);
        let (_, mut message) = answer(protocol, &message, &psk);
        MacKeys::new(protocol, identity(0x11).public()).sign(&mut message, None);
        assert_eq!(hex(&message), response);
        let (keys, ..) = established(finish(&mut pending, &message));
        assert_eq!((hex(&keys.send[..]), hex(&keys.receive[..])), (from_us.to_owned(), from_them.to_owned()));
    }
}

#[test]
fn the_suite_is_aes_if_and_only_if_both_have_it() {
    for (initiator, responder) in [(true, true), (true, false), (false, true), (false, false)] {
        let hello = Hello { aes: initiator, ..hello() };
        let (us, them) = (identity(0x11), identity(0x22));
        let (mut pending, message) =
            initiate(Protocol::Sealed, &us, them.public(), Shared::of_file(&NO_PSK), 16, &hello, key(0x33)).unwrap();
        let incoming = read(Protocol::Sealed, &message).unwrap();
        let suite = incoming.suite(responder);
        assert_eq!(suite == Suite::Aes256Gcm, initiator && responder);
        let answer = Answer { outcome: Outcome::Accepted(suite), aes: responder, ..ACCEPT };
        let (theirs, response) = incoming.respond(&NO_PSK, 32, &answer, key(0x44)).unwrap();
        let (ours, ..) = established(finish(&mut pending, &response));
        assert_eq!((ours.suite, theirs.unwrap().suite), (suite, suite));
    }
}

#[test]
fn a_refusal_is_told_and_gives_no_keys() {
    for outcome in [Outcome::RefusedMode, Outcome::RefusedEpoch] {
        let (mut pending, message) = begin(Protocol::Sealed, &NO_PSK);
        let refusal = Answer { outcome, ..ACCEPT };
        let incoming = read(Protocol::Sealed, &message).unwrap();
        let (keys, response) = incoming.respond(&NO_PSK, RESPONDER, &refusal, key(0x44)).unwrap();
        assert!(keys.is_none());
        assert!(matches!(finish(&mut pending, &response), Ok(Finished::Refused(answer)) if answer == refusal));
        assert_eq!(finish(&mut pending, &response).err(), Some(Failure::Over));
    }
}

#[test]
fn a_wrong_psk_is_not_authentic() {
    for protocol in BOTH {
        let (mut pending, message) = begin(protocol, &[1; 32]);
        let (_, response) = answer(protocol, &message, &[2; 32]);
        assert_eq!(finish(&mut pending, &response).err(), Some(Failure::NotAuthentic));
        let (_, response) = answer(protocol, &message, &[1; 32]);
        established(finish(&mut pending, &response));
    }
}

#[test]
fn forged_responses_leave_the_handshake_pending() {
    for protocol in BOTH {
        let (mut pending, message) = begin(protocol, &NO_PSK);
        let (keys, genuine) = answer(protocol, &message, &NO_PSK);
        for at in 12..genuine.len() - 32 {
            let mut forged = genuine.clone();
            forged[at] ^= 1;
            assert_eq!(finish(&mut pending, &forged).err(), Some(Failure::NotAuthentic), "byte {at}");
        }
        let mut low_order = genuine.clone();
        low_order[12..44].fill(0);
        assert_eq!(finish(&mut pending, &low_order).err(), Some(Failure::LowOrder));
        let mut misdirected = genuine.clone();
        misdirected[8] ^= 1;
        assert_eq!(finish(&mut pending, &misdirected).err(), Some(Failure::WrongReceiver));
        assert_eq!(finish(&mut pending, &message).err(), Some(Failure::WrongMessage));
        let (keys, theirs) = (established(finish(&mut pending, &genuine)).0, keys.unwrap());
        assert_eq!((&keys.send, &keys.receive), (&theirs.receive, &theirs.send));
        assert_eq!(finish(&mut pending, &genuine).err(), Some(Failure::Over));
    }
}

/// A sealed responder's index is not in the Noise transcript, but it is in the keys.
#[test]
fn a_changed_index_gives_other_keys() {
    let (mut pending, message) = begin(Protocol::Sealed, &NO_PSK);
    let (theirs, mut response) = answer(Protocol::Sealed, &message, &NO_PSK);
    response[4] ^= 0x10;
    let (ours, ..) = established(finish(&mut pending, &response));
    assert_ne!(ours.send, theirs.unwrap().receive);
}

#[test]
fn every_changed_byte_of_an_initiation_is_noticed() {
    for protocol in BOTH {
        let (_, genuine) = begin(protocol, &NO_PSK);
        let first = if protocol == Protocol::Sealed { 4 } else { 8 };
        for at in first..genuine.len() - 32 {
            let mut forged = genuine.clone();
            forged[at] ^= 1;
            assert_eq!(read(protocol, &forged).err(), Some(Failure::NotAuthentic), "byte {at}");
        }
        let mut low_order = genuine.clone();
        low_order[8..40].fill(0);
        assert_eq!(read(protocol, &low_order).err(), Some(Failure::LowOrder));
        let version = [&genuine[..1], &[2], &genuine[2..]].concat();
        assert!(Handshake::parse(&version).is_err());
    }
}

#[test]
fn an_initiation_opens_for_its_receiver_only() {
    for protocol in BOTH {
        let (_, message) = begin(protocol, &NO_PSK);
        let stranger = read_initiation(protocol, &identity(0x77), &NO_NETWORK, &Handshake::parse(&message).unwrap());
        assert_eq!(stranger.err(), Some(Failure::NotAuthentic));
    }
}

#[test]
fn the_two_protocols_do_not_mix() {
    for (one, other) in [(Protocol::Sealed, Protocol::WireGuard), (Protocol::WireGuard, Protocol::Sealed)] {
        let (_, message) = begin(one, &NO_PSK);
        assert_eq!(read(other, &message).err(), Some(Failure::WrongMessage));
        let (_, response) = answer(one, &message, &NO_PSK);
        assert_eq!(read(one, &response).err(), Some(Failure::WrongMessage));
        let (mut pending, _) = begin(other, &NO_PSK);
        assert_eq!(finish(&mut pending, &response).err(), Some(Failure::WrongMessage));
    }
}

#[test]
fn nobody_shakes_hands_with_themselves() {
    for protocol in BOTH {
        let us = identity(0x22);
        let begun = initiate(protocol, &us, us.public(), Shared::of_file(&NO_PSK), 16, &hello(), key(0x33));
        assert_eq!(begun.err(), Some(Failure::OwnKey));
    }
}

#[test]
fn a_peer_of_low_order_fails_at_once() {
    for protocol in BOTH {
        let begun = initiate(protocol, &identity(0x11), &[0; 32], Shared::of_file(&NO_PSK), 16, &hello(), key(0x33));
        assert_eq!(begun.err(), Some(Failure::LowOrder));
    }
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    for protocol in BOTH {
        let (_, one) = begin(protocol, &NO_PSK);
        let (_, again) = begin(protocol, &NO_PSK);
        assert_eq!(one, again);
        assert_eq!(answer(protocol, &one, &NO_PSK).1, answer(protocol, &one, &NO_PSK).1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_two_identities_agree(
        ours in any::<[u8; 32]>(), theirs in any::<[u8; 32]>(), psk in any::<[u8; 32]>(), aes in any::<bool>(),
        ephemerals in any::<[[u8; 32]; 2]>(), indices in any::<[u32; 2]>(), sealed in any::<bool>(),
    ) {
        let protocol = if sealed { Protocol::Sealed } else { Protocol::WireGuard };
        let (us, them) = (Identity::new(&ours).unwrap(), Identity::new(&theirs).unwrap());
        prop_assume!(us.public() != them.public());
        let [one, other] = ephemerals.map(Zeroizing::new);
        let (mut pending, message) =
            initiate(protocol, &us, them.public(), Shared::of_file(&psk), indices[0], &hello(), one).unwrap();
        let incoming = read_initiation(protocol, &them, &NO_NETWORK, &Handshake::parse(&message).unwrap()).unwrap();
        prop_assert_eq!(incoming.remote(), us.public());
        let answer = Answer { outcome: Outcome::Accepted(incoming.suite(aes)), aes, ..ACCEPT };
        let (theirs, response) = incoming.respond(&psk, indices[1], &answer, other).unwrap();
        let (ours, index, _) = established(finish(&mut pending, &response));
        let theirs = theirs.unwrap();
        prop_assert_eq!((&ours.send, &ours.receive), (&theirs.receive, &theirs.send));
        prop_assert_eq!(index, indices[1]);
    }
}
