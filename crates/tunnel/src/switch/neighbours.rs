//! Which IP address is at which link-layer address, as ARP and neighbour discovery said within earshot: so that a question whose answer is
//! known need not be flooded to all peers.
//!
//! An answer of ours is what the owner said itself a minute ago at most, and only while its address is with a peer. Whoever is asked by us alone cannot hear
//! that another answers in his place, so three rules keep what one peer says from being believed where the owner would have objected:
//!
//! * What a peer says of an address is noted if this side has just asked for it, by a flood that its owner heard too. What nobody asked for is not.
//! * Two link-layer addresses that claim one IP address within a minute are a dispute: for as long again, all questions for it are flooded.
//! * Nothing is answered that asks whether an address is free (RFC 5227, RFC 4862): the question has to be heard by whoever has it.
//!
//! So no peer can fill the table either: it has room for what this side asks for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use wire::arp::{ArpPacket, Operation};
use wire::ethernet::{MacAddress, ethertype};
use wire::frame::Frame;
use wire::ndp::{self, Neighbour};

use crate::time::Time;

/// Addresses that are known at most.
const CAPACITY: usize = 8192;

/// How many of them may be on this side: of these nothing is answered, but they may be disputed.
const LOCAL_CAPACITY: usize = CAPACITY / 2;

/// Questions of this side whose answers are waited for at most.
const QUESTIONS: usize = 1024;

/// How long what was said counts: twice the time in which Linux asks again whether a neighbour is there.
const AGE: Duration = Duration::from_secs(60);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two times that a full table is looked through for what is old.
const TIDY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct Binding {
    mac: MacAddress,
    side: Side,
    router: bool,
    said: Time,
    /// Whether another one claimed the IP address too. Then `mac` is who did so last, and nobody makes it last longer by saying the same again.
    disputed: bool,
}

/// By which side something was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// By the device.
    Local,
    /// By a peer.
    Remote,
}

/// See the module.
#[derive(Default)]
pub struct Neighbours(Mutex<Known>);

#[derive(Default)]
struct Known {
    bindings: HashMap<IpAddr, Binding>,
    /// How many of them are of this side.
    local: usize,
    /// What this side asked, and when.
    asked: HashMap<IpAddr, Time>,
    tidied: Option<Time>,
}

impl Known {
    /// Makes room by what is old, but not more often than it pays.
    fn tidy(&mut self, now: Time) {
        if self.tidied.is_some_and(|at| now.since(at) < TIDY) {
            return;
        }
        self.tidied = Some(now);
        self.bindings.retain(|_, binding| now.since(binding.said) <= AGE);
        self.asked.retain(|_, at| now.since(*at) <= PATIENCE);
        self.local = self.bindings.values().filter(|binding| binding.side == Side::Local).count();
    }

    fn is_full(&self, side: Side) -> bool {
        self.bindings.len() >= CAPACITY || (side == Side::Local && self.local >= LOCAL_CAPACITY)
    }

    fn note(&mut self, address: IpAddr, (mac, side): (MacAddress, Side), router: Option<bool>, now: Time) {
        let before = self.bindings.get(&address).copied().filter(|before| now.since(before.said) <= AGE);
        let Some(before) = before else {
            let is_asked = || self.asked.get(&address).is_some_and(|at| now.since(*at) <= PATIENCE);
            if side == Side::Remote && !is_asked() {
                return;
            }
            self.put(address, Binding { mac, side, router: router.unwrap_or(false), said: now, disputed: false }, now);
            return;
        };
        let same = before.mac == mac;
        if same && before.disputed {
            return;
        }
        let router = router.unwrap_or(same && before.router);
        self.put(address, Binding { mac, side, router, said: now, disputed: !same }, now);
    }

    fn put(&mut self, address: IpAddr, binding: Binding, now: Time) {
        let former = self.bindings.get(&address).map(|former| former.side);
        if former != Some(binding.side) && self.is_full(binding.side) {
            self.tidy(now);
            if self.is_full(binding.side) {
                // Rather no answer than one that may be old.
                self.remove(address);
                return;
            }
        }
        self.remove(address);
        self.local += usize::from(binding.side == Side::Local);
        self.bindings.insert(address, binding);
    }

    fn remove(&mut self, address: IpAddr) {
        if let Some(former) = self.bindings.remove(&address) {
            self.local -= usize::from(former.side == Side::Local);
        }
    }

    /// Notes that this side asks for an address, and everybody is asked.
    fn ask(&mut self, address: IpAddr, now: Time) {
        if self.asked.len() >= QUESTIONS && !self.asked.contains_key(&address) {
            self.tidy(now);
            if self.asked.len() >= QUESTIONS {
                return;
            }
        }
        self.asked.insert(address, now);
    }
}

/// A question that a frame asks everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Arp(ArpPacket),
    Solicitation { asker: std::net::Ipv6Addr, mac: MacAddress, target: std::net::Ipv6Addr },
}

/// Whether a frame may say or ask where an address is.
#[inline]
fn concerns(frame: &Frame<'_>) -> bool {
    // ICMPv6, without extension headers: the next header and the type.
    let is_discovery = || {
        let payload = frame.payload();
        payload.get(6) == Some(&wire::ip::protocol::ICMPV6) && matches!(payload.get(40), Some(135 | 136))
    };
    !frame.is_tagged()
        && match frame.ethertype() {
            ethertype::ARP => true,
            ethertype::IPV6 => is_discovery(),
            _ => false,
        }
}

impl Neighbours {
    /// Notes what a frame says of its own sender.
    #[inline]
    pub fn hear(&self, frame: &Frame<'_>, side: Side, now: Time) {
        if concerns(frame)
            && let Some((address, router)) = said(frame)
        {
            self.note(address, (frame.source(), side), router, now);
        }
    }

    #[cold]
    fn note(&self, address: IpAddr, by: (MacAddress, Side), router: Option<bool>, now: Time) {
        // Another worker has it: what was said is said again.
        let Ok(mut known) = self.0.try_lock() else { return };
        known.note(address, by, router, now);
    }

    /// The frame that answers what `frame`, of this side, asks everybody, if that is known; `is_there` says whether an address is with a peer. Where there
    /// is no answer, everybody is to be asked.
    pub fn answer(&self, frame: &Frame<'_>, now: Time, is_there: impl FnOnce(MacAddress) -> bool) -> Option<Vec<u8>> {
        if !concerns(frame) {
            return None;
        }
        let question = question(frame)?;
        let target: IpAddr = match question {
            Question::Arp(arp) => arp.target.into(),
            Question::Solicitation { target, .. } => target.into(),
        };
        let mut known = match self.0.try_lock() {
            Ok(known) => known,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return None,
        };
        let is_sure =
            |binding: &&Binding| now.since(binding.said) <= AGE && !binding.disputed && binding.side == Side::Remote;
        let Some(binding) =
            known.bindings.get(&target).filter(is_sure).filter(|binding| is_there(binding.mac)).copied()
        else {
            known.ask(target, now);
            return None;
        };
        drop(known);
        match question {
            Question::Arp(arp) => Some(arp.reply(binding.mac)?.emit_frame().to_vec()),
            Question::Solicitation { asker, mac, target } => {
                ndp::advertisement((target, binding.mac), (asker, mac), binding.router)
            }
        }
    }

    /// How many are known, whether or not they still count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().map_or(0, |known| known.bindings.len())
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets go of what does not count any more.
    pub fn sweep(&self, now: Time) {
        if let Ok(mut known) = self.0.lock() {
            known.tidied = None;
            known.tidy(now);
        }
    }
}

/// The address that a frame's sender says it has, and whether it is a router if it says that too. Only of itself does anybody speak.
fn said(frame: &Frame<'_>) -> Option<(IpAddr, Option<bool>)> {
    let is_own = |mac: Option<MacAddress>| mac.is_none_or(|mac| mac == frame.source());
    if frame.ethertype() == ethertype::ARP {
        let arp = ArpPacket::parse(frame.payload()).ok()?;
        let usable = !arp.sender.is_unspecified() && !arp.sender.is_multicast() && !arp.sender.is_broadcast();
        return (usable && is_own(Some(arp.sender_mac))).then_some((arp.sender.into(), None));
    }
    match Neighbour::parse(&frame.packet()?).ok()? {
        Neighbour::Solicitation { source, link: Some(mac), .. } if !source.is_unspecified() && is_own(Some(mac)) => {
            Some((source.into(), None))
        }
        Neighbour::Advertisement { target, link, router } if is_own(link) && !target.is_multicast() => {
            Some((target.into(), Some(router)))
        }
        _ => None,
    }
}

/// What a frame asks everybody.
fn question(frame: &Frame<'_>) -> Option<Question> {
    if !frame.destination().is_group() {
        return None;
    }
    if frame.ethertype() == ethertype::ARP {
        let arp = ArpPacket::parse(frame.payload()).ok()?;
        let asks = arp.operation == Operation::Request
            && arp.sender != Ipv4Addr::UNSPECIFIED
            && arp.sender != arp.target
            && arp.sender_mac == frame.source();
        return asks.then_some(Question::Arp(arp));
    }
    match Neighbour::parse(&frame.packet()?).ok()? {
        Neighbour::Solicitation { source, target, link: Some(mac), .. }
            if !source.is_unspecified() && mac == frame.source() =>
        {
            Some(Question::Solicitation { asker: source, mac, target })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const B: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const IP_A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const IP_B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const SIX_A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const SIX_B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    fn at(second: u64) -> Time {
        Time::from_nanos(second * 1_000_000_000)
    }

    fn arp(operation: Operation, (sender_mac, sender): (MacAddress, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
        ArpPacket { operation, sender_mac, sender, target_mac: MacAddress::default(), target }.emit_frame().to_vec()
    }

    fn solicitation((mac, source): (MacAddress, Ipv6Addr), target: Ipv6Addr, link: bool) -> Vec<u8> {
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2]);
        let mut frame = [&[0x33, 0x33, 0xff, 0, 0, 2][..], &mac.0, &[0x86, 0xdd]].concat();
        let body = [&target.octets()[..], if link { &[1, 1] } else { &[] }, if link { &mac.0 } else { &[] }].concat();
        let builder = etherparse_like(source, group, 255);
        let mut packet = builder(&body);
        frame.append(&mut packet);
        frame
    }

    /// An ICMPv6 solicitation by our own writers.
    fn etherparse_like(source: Ipv6Addr, to: Ipv6Addr, ttl: u8) -> impl Fn(&[u8]) -> Vec<u8> {
        move |body| {
            let ip = wire::ip::IpHeader { ttl, ..wire::ip::IpHeader::new(source.into(), to.into(), 58) };
            let mut packet = vec![0; 48 + body.len()];
            let at = ip.emit(8 + body.len(), &mut packet).unwrap();
            let header = wire::icmp::IcmpHeader { kind: 135, code: 0, rest: [0; 4] };
            header.emit(Some(ip.pseudo_header()), body, &mut packet[at..]).unwrap();
            packet
        }
    }

    fn answer(known: &Neighbours, frame: &[u8], now: Time, there: bool) -> Option<Vec<u8>> {
        known.answer(&Frame::parse(frame).unwrap(), now, |_| there)
    }

    fn hear(known: &Neighbours, frame: &[u8], now: Time) {
        known.hear(&Frame::parse(frame).unwrap(), Side::Remote, now);
    }

    /// This side asks, and a peer answers.
    fn ask(known: &Neighbours, frame: &[u8], now: Time) {
        assert_eq!(answer(known, frame, now, true), None);
    }

    #[test]
    fn a_question_whose_answer_was_heard_is_answered_for_a_minute() {
        let known = Neighbours::default();
        let ask = arp(Operation::Request, (A, IP_A), IP_B);
        assert_eq!(answer(&known, &ask, at(1), true), None);
        hear(&known, &arp(Operation::Reply, (B, IP_B), IP_A), at(1));
        let reply = answer(&known, &ask, at(61), true).unwrap();
        let frame = Frame::parse(&reply).unwrap();
        assert_eq!((frame.source(), frame.destination()), (B, A));
        let arp_reply = ArpPacket::parse(frame.payload()).unwrap();
        assert_eq!((arp_reply.sender, arp_reply.sender_mac, arp_reply.operation), (IP_B, B, Operation::Reply));
        assert_eq!(answer(&known, &ask, at(61), false), None, "its address is not with a peer");
        assert_eq!(answer(&known, &ask, at(62), true), None);
        known.sweep(at(62));
        assert!(known.is_empty());
    }

    #[test]
    fn neighbour_discovery_is_answered_too() {
        let known = Neighbours::default();
        let ask = solicitation((A, SIX_A), SIX_B, true);
        assert_eq!(answer(&known, &ask, at(1), true), None);
        // Who asks says where it is, too.
        hear(&known, &solicitation((B, SIX_B), SIX_A, true), at(1));
        let reply = answer(&known, &ask, at(2), true).unwrap();
        let frame = Frame::parse(&reply).unwrap();
        assert_eq!((frame.source(), frame.destination()), (B, A));
        let read = Neighbour::parse(&frame.packet().unwrap()).unwrap();
        assert_eq!(read, Neighbour::Advertisement { target: SIX_B, link: Some(B), router: false });
        // An advertisement of a router, which stays one when it asks something.
        hear(&known, &ndp::advertisement((SIX_B, B), (SIX_A, A), true).unwrap(), at(3));
        hear(&known, &solicitation((B, SIX_B), SIX_A, true), at(4));
        let reply = answer(&known, &ask, at(5), true).unwrap();
        let read = Neighbour::parse(&Frame::parse(&reply).unwrap().packet().unwrap()).unwrap();
        assert_eq!(read, Neighbour::Advertisement { target: SIX_B, link: Some(B), router: true });
    }

    #[test]
    fn who_asks_whether_an_address_is_free_asks_everybody() {
        let known = Neighbours::default();
        ask(&known, &arp(Operation::Request, (A, IP_A), IP_B), at(1));
        ask(&known, &solicitation((A, SIX_A), SIX_B, true), at(1));
        hear(&known, &arp(Operation::Reply, (B, IP_B), IP_A), at(1));
        hear(&known, &solicitation((B, SIX_B), SIX_A, true), at(1));
        assert_eq!(known.len(), 2);
        for frame in [
            arp(Operation::Request, (A, Ipv4Addr::UNSPECIFIED), IP_B),
            arp(Operation::Request, (A, IP_B), IP_B),
            solicitation((A, Ipv6Addr::UNSPECIFIED), SIX_B, false),
        ] {
            assert_eq!(answer(&known, &frame, at(1), true), None);
            let before = known.len();
            hear(&known, &frame, at(1));
            assert!(known.len() == before);
        }
    }

    #[test]
    fn nobody_speaks_for_another() {
        let known = Neighbours::default();
        ask(&known, &arp(Operation::Request, (A, IP_A), IP_B), at(1));
        ask(&known, &solicitation((A, SIX_A), SIX_B, true), at(1));
        let mut frame = arp(Operation::Reply, (B, IP_B), IP_A);
        frame[6..12].copy_from_slice(&A.0);
        hear(&known, &frame, at(1));
        let mut frame = solicitation((B, SIX_B), SIX_A, true);
        frame[6..12].copy_from_slice(&A.0);
        hear(&known, &frame, at(1));
        assert!(known.is_empty());
    }

    #[test]
    fn a_peer_is_believed_what_it_was_asked_for_and_nobody_else_claims() {
        const FORGER: MacAddress = MacAddress([2, 0, 0, 0, 6, 0x66]);
        let known = Neighbours::default();
        let question = arp(Operation::Request, (A, IP_A), IP_B);
        let owner = arp(Operation::Reply, (B, IP_B), IP_A);
        let forged = arp(Operation::Reply, (FORGER, IP_B), IP_A);
        // What nobody asked for is not noted, and what comes too late neither.
        hear(&known, &forged, at(1));
        ask(&known, &question, at(1));
        hear(&known, &forged, at(5));
        assert!(known.is_empty());
        // Whoever answers first or last: where two claim it, everybody is asked again.
        for answers in [[&owner, &forged], [&forged, &owner]] {
            let known = Neighbours::default();
            ask(&known, &question, at(1));
            answers.iter().for_each(|frame| hear(&known, frame, at(1)));
            // One that says it over and over does not outlast the dispute, and is then to answer a question as everybody is.
            for second in 2..=61 {
                hear(&known, &forged, at(second));
                assert_eq!(answer(&known, &question, at(second), true), None, "second {second}");
            }
            hear(&known, &forged, at(70));
            assert_eq!(answer(&known, &question, at(70), true), None);
            hear(&known, &owner, at(70));
            assert!(answer(&known, &question, at(71), true).is_some(), "the dispute is over");
            hear(&known, &forged, at(72));
            assert_eq!(answer(&known, &question, at(73), true), None, "there is another");
        }
    }

    #[test]
    fn what_this_side_has_is_nobody_elses_to_claim() {
        let known = Neighbours::default();
        let question = arp(Operation::Request, (A, IP_A), IP_B);
        known.hear(&Frame::parse(&arp(Operation::Reply, (B, IP_B), IP_A)).unwrap(), Side::Local, at(1));
        ask(&known, &question, at(1));
        hear(&known, &arp(Operation::Reply, (MacAddress([2; 6]), IP_B), IP_A), at(1));
        assert_eq!(answer(&known, &question, at(2), true), None);
        // A machine that moved to a peer with its address: it is known when somebody asks again.
        let known = Neighbours::default();
        known.hear(&Frame::parse(&arp(Operation::Reply, (B, IP_B), IP_A)).unwrap(), Side::Local, at(1));
        ask(&known, &question, at(2));
        hear(&known, &arp(Operation::Reply, (B, IP_B), IP_A), at(2));
        assert!(answer(&known, &question, at(3), true).is_some());
    }

    #[test]
    fn memory_is_bounded_and_neither_side_takes_the_others_room() {
        let known = Neighbours::default();
        let number = |n: u32| Ipv4Addr::from(0x0b00_0001 + n);
        let says = |n: u32| arp(Operation::Reply, (B, number(n)), IP_A);
        for n in 0..20_000u32 {
            hear(&known, &says(n), at(1));
        }
        assert!(known.is_empty(), "nobody asked");
        for n in 0..20_000u32 {
            known.hear(&Frame::parse(&says(n)).unwrap(), Side::Local, at(1));
        }
        assert_eq!(known.len(), LOCAL_CAPACITY);
        for n in 20_000..40_000u32 {
            ask(&known, &arp(Operation::Request, (A, IP_A), number(n)), at(2));
        }
        for n in 20_000..40_000u32 {
            hear(&known, &says(n), at(3));
        }
        assert_eq!(known.len(), LOCAL_CAPACITY + QUESTIONS);
        ask(&known, &arp(Operation::Request, (A, IP_A), IP_B), at(100));
        hear(&known, &arp(Operation::Reply, (B, IP_B), IP_A), at(100));
        known.sweep(at(100));
        assert_eq!(known.len(), 1, "what is old goes");
    }

    proptest! {
        #[test]
        fn any_frame_is_heard_and_answered_without_harm(bytes in prop::collection::vec(any::<u8>(), 14..120), kind in 0usize..3) {
            let mut bytes = bytes;
            bytes[12..14].copy_from_slice(&[[8, 6], [0x86, 0xdd], [8, 0]][kind]);
            let (known, frame) = (Neighbours::default(), Frame::parse(&bytes).unwrap());
            for side in [Side::Local, Side::Remote] {
                let _ = known.answer(&frame, at(1), |_| true);
                known.hear(&frame, side, at(1));
            }
            let _ = known.answer(&frame, at(1), |_| true);
        }
    }
}
