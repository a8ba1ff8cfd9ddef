//! Who gets through to control, who gets a cookie, and who gets nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test prepares must succeed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tunnel::admission::{Admission, Verdict};
use tunnel::limiter::MAX_SOURCES;
use tunnel::mac::MacKeys;
use tunnel::network::{Epoch, Membership};
use tunnel::{Reason, Time};
use wire::message::{CookieReply, DataHeader, Flags, Handshake, HandshakeHeader, Protocol, Step};
use zeroize::Zeroizing;

const BOTH: [Protocol; 2] = [Protocol::Sealed, Protocol::WireGuard];
const PUBLIC: [u8; 32] = [9; 32];
const FORGED: Verdict = Verdict::Drop(Reason::Forged);
const LIMITED: Verdict = Verdict::Drop(Reason::RateLimited);

fn at(millis: u64) -> Time {
    Time::from_nanos((1_000_000 + millis) * 1_000_000)
}

fn admission() -> Admission {
    Admission::new(&BOTH.map(|protocol| (protocol, PUBLIC)), Zeroizing::new([5; 32]))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn spoofed(number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(0x0a00_0000 + number), 4000).into()
}

fn keys(protocol: Protocol) -> MacKeys {
    MacKeys::new(protocol, &PUBLIC)
}

fn message(protocol: Protocol, step: Step, cookie: Option<&[u8; 16]>) -> Vec<u8> {
    let header = HandshakeHeader { protocol, step, sender: 0x30, receiver: 0x40 };
    let mut message = header.emit(&vec![7; protocol.noise_len(step)]).unwrap();
    keys(protocol).sign(&mut message, cookie);
    message
}

fn initiation(protocol: Protocol) -> Vec<u8> {
    message(protocol, Step::Initiation, None)
}

fn admit(admission: &Admission, datagram: &[u8], from: SocketAddr, now: Time) -> Verdict {
    admission.admit(datagram, from, false, now, || [3; 24])
}

/// Uses up what all unproven sources may ask for at once.
fn exhaust(admission: &Admission, now: Time) {
    for number in 0..100 {
        let verdict = admit(admission, &initiation(Protocol::Sealed), spoofed(1_000_000 + number), now);
        assert_eq!(verdict, Verdict::Pass);
    }
}

/// The cookie for `from`, got as a stranger gets it.
fn cookie(admission: &Admission, protocol: Protocol, from: SocketAddr, now: Time) -> [u8; 16] {
    let sent = initiation(protocol);
    for _ in 0..200 {
        if let Verdict::Cookie(reply) = admit(admission, &sent, from, now) {
            let reply = CookieReply::parse(&reply).unwrap();
            assert_eq!((reply.protocol, reply.receiver), (protocol, 0x30));
            let mac1 = Handshake::parse(&sent).unwrap().mac1();
            return keys(protocol).open_cookie(reply.nonce, mac1, reply.sealed).unwrap();
        }
    }
    panic!("no cookie");
}

#[test]
fn nothing_that_is_not_for_us_is_answered() {
    for protocol in BOTH {
        for step in [Step::Initiation, Step::Response] {
            let genuine = message(protocol, step, None);
            assert_eq!(admit(&admission(), &genuine, spoofed(1), at(0)), Verdict::Pass);
            let mut elsewhere = genuine.clone();
            MacKeys::new(protocol, &[8; 32]).sign(&mut elsewhere, None);
            assert_eq!(admit(&admission(), &elsewhere, spoofed(1), at(0)), FORGED);
            for bit in 0..(genuine.len() - 16) * 8 {
                let mut forged = genuine.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let verdict = admission().admit(&forged, spoofed(1), true, at(0), || panic!("answered"));
                assert_eq!(verdict, FORGED, "{protocol:?} {step:?} bit {bit}");
            }
            for length in 0..genuine.len() {
                assert_eq!(admit(&admission(), &genuine[..length], spoofed(1), at(0)), FORGED);
            }
            assert_eq!(admit(&admission(), &[&genuine[..], &[0]].concat(), spoofed(1), at(0)), FORGED);
        }
    }
}

#[test]
fn a_protocol_without_a_key_is_not_answered() {
    for (ours, other) in [(Protocol::Sealed, Protocol::WireGuard), (Protocol::WireGuard, Protocol::Sealed)] {
        let admission = Admission::new(&[(ours, PUBLIC)], Zeroizing::new([5; 32]));
        assert_eq!(admit(&admission, &initiation(ours), spoofed(1), at(0)), Verdict::Pass);
        assert_eq!(admit(&admission, &initiation(other), spoofed(1), at(0)), FORGED);
        let reply = CookieReply { protocol: other, receiver: 1, nonce: &[0; 24], sealed: &[0; 32] }.emit();
        assert_eq!(admit(&admission, &reply, spoofed(1), at(0)), FORGED);
    }
}

#[test]
fn every_one_of_several_keys_is_ours() {
    let publics = [(Protocol::Sealed, [1; 32]), (Protocol::Sealed, PUBLIC)];
    let admission = Admission::new(&publics, Zeroizing::new([5; 32]));
    assert_eq!(admit(&admission, &initiation(Protocol::Sealed), spoofed(1), at(0)), Verdict::Pass);
}

#[test]
fn cookie_replies_and_responses_are_for_control_to_judge() {
    let admission = admission();
    exhaust(&admission, at(0));
    for protocol in BOTH {
        let reply = CookieReply { protocol, receiver: 1, nonce: &[0; 24], sealed: &[0; 32] }.emit();
        for _ in 0..50 {
            assert_eq!(admit(&admission, &reply, spoofed(1), at(0)), Verdict::Pass);
            let response = message(protocol, Step::Response, None);
            assert_eq!(admit(&admission, &response, spoofed(1), at(0)), Verdict::Pass);
        }
        assert_eq!(admit(&admission, &reply[..63], spoofed(1), at(0)), FORGED);
    }
}

#[test]
fn data_and_packets_are_not_admitted() {
    let header = DataHeader { protocol: Protocol::Sealed, flags: Flags::NONE, receiver: 1, counter: 1 };
    let data = [&header.emit()[..], &[0; 16]].concat();
    for datagram in [&data[..], &[0x45; 40], &[]] {
        assert_eq!(admit(&admission(), datagram, spoofed(1), at(0)), FORGED);
    }
}

#[test]
fn a_source_over_its_rate_gets_a_cookie_and_takes_nothing_from_others() {
    let admission = admission();
    let (sent, abuser) = (initiation(Protocol::WireGuard), address("192.0.2.1:51820"));
    let mut passed = 0;
    for millis in 0..10_000 {
        match admit(&admission, &sent, abuser, at(millis)) {
            Verdict::Pass => passed += 1,
            Verdict::Cookie(_) => {}
            Verdict::Drop(reason) => panic!("{reason}"),
        }
        if millis % 20 == 19 {
            let other = spoofed(millis as u32);
            assert_eq!(admit(&admission, &sent, other, at(millis)), Verdict::Pass, "{millis} ms");
        }
    }
    assert!((200..=205).contains(&passed), "{passed} in 10 s");
}

#[test]
fn all_unproven_sources_share_a_hundred_a_second() {
    let admission = admission();
    exhaust(&admission, at(0));
    let sent = initiation(Protocol::Sealed);
    assert!(matches!(admit(&admission, &sent, spoofed(1), at(0)), Verdict::Cookie(_)));
    assert_eq!(admit(&admission, &sent, spoofed(2), at(10)), Verdict::Pass);
    assert!(matches!(admit(&admission, &sent, spoofed(3), at(10)), Verdict::Cookie(_)));
}

#[test]
fn endpoints_of_peers_need_no_cookie() {
    let admission = admission();
    exhaust(&admission, at(0));
    let sent = initiation(Protocol::Sealed);
    for _ in 0..1000 {
        assert_eq!(admission.admit(&sent, spoofed(1), true, at(0), || panic!("answered")), Verdict::Pass);
    }
}

#[test]
fn a_cookie_is_for_one_address_port_and_protocol() {
    for (protocol, other) in [(Protocol::Sealed, Protocol::WireGuard), (Protocol::WireGuard, Protocol::Sealed)] {
        let admission = admission();
        exhaust(&admission, at(0));
        let from = address("192.0.2.1:51820");
        let cookie = cookie(&admission, protocol, from, at(0));
        let proven = message(protocol, Step::Initiation, Some(&cookie));
        assert_eq!(admit(&admission, &proven, from, at(0)), Verdict::Pass);
        assert_eq!(admit(&admission, &proven, address("[::ffff:192.0.2.1]:51820"), at(0)), Verdict::Pass);
        for elsewhere in ["192.0.2.1:51821", "192.0.2.2:51820", "[2001:db8::1]:51820"] {
            let verdict = admit(&admission, &proven, address(elsewhere), at(0));
            assert!(matches!(verdict, Verdict::Cookie(_)), "{elsewhere}");
        }
        let crossed = message(other, Step::Initiation, Some(&cookie));
        assert!(matches!(admit(&admission, &crossed, from, at(0)), Verdict::Cookie(_)));
    }
}

#[test]
fn a_cookie_is_for_one_node() {
    let (one, other) = (admission(), Admission::new(&[(Protocol::Sealed, PUBLIC)], Zeroizing::new([6; 32])));
    let from = address("192.0.2.1:51820");
    exhaust(&other, at(0));
    let proven = message(Protocol::Sealed, Step::Initiation, Some(&cookie(&one, Protocol::Sealed, from, at(0))));
    assert!(matches!(admit(&other, &proven, from, at(0)), Verdict::Cookie(_)));
}

#[test]
fn a_cookie_lasts_for_its_epoch_and_the_next() {
    let from = address("[2001:db8::1]:51820");
    // 1000 s after the beginning: 40 s into an epoch of 120 s.
    for (millis, lasts) in [(79_000, true), (81_000, true), (199_000, true), (200_000, false), (400_000, false)] {
        let admission = admission();
        let cookie = cookie(&admission, Protocol::Sealed, from, at(0));
        let proven = message(Protocol::Sealed, Step::Initiation, Some(&cookie));
        exhaust(&admission, at(millis));
        let verdict = admit(&admission, &proven, from, at(millis));
        assert_eq!(verdict == Verdict::Pass, lasts, "after {millis} ms: {verdict:?}");
    }
}

#[test]
fn who_is_proven_has_a_rate_too() {
    let admission = admission();
    let from = address("192.0.2.1:51820");
    let cookie = cookie(&admission, Protocol::Sealed, from, at(0));
    let proven = message(Protocol::Sealed, Step::Initiation, Some(&cookie));
    for _ in 0..5 {
        assert_eq!(admit(&admission, &proven, from, at(0)), Verdict::Pass);
    }
    assert_eq!(admit(&admission, &proven, from, at(0)), LIMITED);
    assert_eq!(admit(&admission, &proven, from, at(50)), Verdict::Pass);
}

#[test]
fn a_flood_from_everywhere_stops_nobody_who_receives_at_its_address() {
    let admission = admission();
    let sent = initiation(Protocol::Sealed);
    let (mut passed, mut cookies) = (0, 0);
    for number in 0..70_000 {
        match admit(&admission, &sent, spoofed(number), at(0)) {
            Verdict::Pass => passed += 1,
            Verdict::Cookie(_) => cookies += 1,
            Verdict::Drop(reason) => panic!("{reason}"),
        }
    }
    assert_eq!((passed, cookies), (100, 70_000 - 100));
    const { assert!(MAX_SOURCES < 70_000, "a stranger finds the table full") };
    let stranger = address("203.0.113.1:51820");
    let cookie = cookie(&admission, Protocol::Sealed, stranger, at(0));
    let proven = message(Protocol::Sealed, Step::Initiation, Some(&cookie));
    assert_eq!(admit(&admission, &proven, stranger, at(0)), Verdict::Pass);
}

#[test]
fn workers_share_one_check() {
    let (admission, passed) = (admission(), AtomicUsize::new(0));
    let sent = initiation(Protocol::Sealed);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (admission, passed, sent) = (&admission, &passed, &sent);
            scope.spawn(move || {
                for number in 0..500 {
                    if admit(admission, sent, spoofed(worker * 500 + number), at(0)) == Verdict::Pass {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 100);
}

proptest! {
    #[test]
    fn no_bytes_are_answered_at_greater_length(
        mut datagram in proptest::collection::vec(any::<u8>(), 0..200), first in 0_u8..5, sealed in any::<bool>(),
    ) {
        if let [kind, rest @ ..] = &mut datagram[..] {
            *kind = if sealed { 0xa0 | first } else { first };
            rest.iter_mut().take(3).for_each(|byte| *byte = 0);
            if let (true, [version, ..]) = (sealed, rest) {
                *version = 1;
            }
        }
        let protocol = if sealed { Protocol::Sealed } else { Protocol::WireGuard };
        keys(protocol).sign(&mut datagram, None);
        let admission = admission();
        for _ in 0..7 {
            if let Verdict::Cookie(reply) = admit(&admission, &datagram, spoofed(1), at(0)) {
                prop_assert!(reply.len() <= datagram.len());
                prop_assert!(Handshake::parse(&datagram).is_ok());
            }
        }
    }
}

#[test]
fn our_key_can_change_while_it_judges() {
    for protocol in BOTH {
        let admission = admission();
        let other = if protocol == Protocol::Sealed { Protocol::WireGuard } else { Protocol::Sealed };
        let judge = |protocol, public: &[u8; 32]| {
            let header = HandshakeHeader { protocol, step: Step::Initiation, sender: 16, receiver: 0 };
            let mut message = header.emit(&vec![7; protocol.noise_len(Step::Initiation)]).unwrap();
            MacKeys::new(protocol, public).sign(&mut message, None);
            admission.admit(&message, "192.0.2.1:7".parse().unwrap(), true, Time::from_nanos(1_000_000_000), || [0; 24])
        };
        let forged = Verdict::Drop(Reason::Forged);
        admission.set_identity(protocol, Some(&[77; 32]));
        assert_eq!((judge(protocol, &PUBLIC), judge(protocol, &[77; 32])), (forged, Verdict::Pass));
        assert_eq!(judge(other, &PUBLIC), Verdict::Pass, "the other one stays");
        admission.set_identity(protocol, None);
        assert_eq!((judge(protocol, &PUBLIC), judge(protocol, &[77; 32])), (forged, forged));
        admission.set_identity(protocol, Some(&PUBLIC));
        assert_eq!(judge(protocol, &PUBLIC), Verdict::Pass);
    }
}

fn epoch(number: u32) -> Epoch {
    Epoch { number, secret: Zeroizing::new([number as u8; 32]) }
}

fn network(id: u8, epochs: &[u32]) -> Membership {
    Membership { id: [id; 16], epochs: epochs.iter().map(|number| epoch(*number)).collect() }
}

#[test]
fn in_a_network_only_who_has_an_accepted_secret_is_let_in() {
    let admission = admission();
    let judge = |network: &Membership, number: u32, step| {
        let mut message = message(Protocol::Sealed, step, None);
        MacKeys::of_network(network, &epoch(number), &PUBLIC).unwrap().sign(&mut message, None);
        admission.admit(&message, spoofed(1), true, at(0), || panic!("answered"))
    };
    let accepted = |network: &Membership| -> Vec<u32> {
        let both = [Step::Initiation, Step::Response];
        let verdicts = (0..6).map(|number| (number, both.map(|step| judge(network, number, step))));
        verdicts
            .filter(|(_, verdicts)| *verdicts != [FORGED; 2])
            .map(|(number, verdicts)| {
                assert_eq!(verdicts, [Verdict::Pass; 2]);
                number
            })
            .collect()
    };
    let stranger = || {
        [Step::Initiation, Step::Response].map(|step| {
            admission.admit(&message(Protocol::Sealed, step, None), spoofed(1), true, at(0), || panic!("answered"))
        })
    };
    for (epochs, expected) in
        [(&[1][..], &[1][..]), (&[2, 1], &[1, 2]), (&[2], &[2]), (&[5, 4, 3], &[4, 5]), (&[], &[])]
    {
        admission.set_membership(Some(&network(1, epochs)));
        assert_eq!(accepted(&network(1, &[])), expected);
        assert_eq!(accepted(&network(2, &[])), [], "of another network");
        assert_eq!(stranger(), [FORGED; 2], "who knows our public key alone");
        let wireguard = admission.admit(&initiation(Protocol::WireGuard), spoofed(1), true, at(0), || [0; 24]);
        assert_eq!(wireguard, Verdict::Pass, "which knows of no networks");
    }
    // Another key of ours is in the network too.
    admission.set_membership(Some(&network(1, &[2, 1])));
    admission.set_identity(Protocol::Sealed, Some(&[77; 32]));
    assert_eq!(accepted(&network(1, &[])), []);
    admission.set_identity(Protocol::Sealed, Some(&PUBLIC));
    assert_eq!(accepted(&network(1, &[])), [1, 2]);
    admission.set_membership(None);
    assert_eq!((accepted(&network(1, &[])), stranger()), (Vec::new(), [Verdict::Pass; 2]));
}

#[test]
fn in_a_network_a_cookie_is_for_who_has_the_secret() {
    let (admission, network) = (admission(), network(1, &[2, 1]));
    admission.set_membership(Some(&network));
    for number in [1, 2] {
        let own = MacKeys::of_network(&network, &epoch(number), &PUBLIC).unwrap();
        let mut sent = initiation(Protocol::Sealed);
        let mac1 = own.sign(&mut sent, None);
        let reply = (0..200).find_map(|_| match admit(&admission, &sent, spoofed(1), at(0)) {
            Verdict::Cookie(reply) => Some(reply),
            _ => None,
        });
        let reply = reply.unwrap();
        let reply = CookieReply::parse(&reply).unwrap();
        let cookie = own.open_cookie(reply.nonce, &mac1, reply.sealed).unwrap();
        let other = MacKeys::of_network(&network, &epoch(3 - number), &PUBLIC).unwrap();
        for stranger in [keys(Protocol::Sealed), other] {
            assert_eq!(stranger.open_cookie(reply.nonce, &mac1, reply.sealed), None);
        }
        own.sign(&mut sent, Some(&cookie));
        assert_eq!(admit(&admission, &sent, spoofed(1), at(0)), Verdict::Pass);
    }
}
