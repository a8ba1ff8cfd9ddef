//! The program by which the kernel picks packets for a capture: the probes of one trace, and the datagrams of our own UDP port. What
//! is let through for a peer is then also held to the destination of its probes ([`Sought::only`]), since a peer chooses the number.
//!
//! Classic BPF (filter.txt of the kernel's documentation): register A, index register X, a few words of memory, jumps forward only. A load
//! beyond the packet's end ends the program, and the packet is not captured.

use std::collections::HashMap;

use linux::capture::{HARDWARE, Instruction, WITH_ETHERNET};
use wire::ethernet::{self, ethertype};
use wire::ip::{V4_HEADER_LEN, V6_HEADER_LEN, protocol};

use super::observation::{MAX_HEAD, Protocol};
use super::probe::{MAX_PROBES, Sought};

/// Bytes kept of a probe: what is shown of it.
const HEAD: u32 = MAX_HEAD as u32 + 64;

/// Bytes kept of our own datagrams: of a train the header of each is read.
const WHOLE: u32 = 0xffff;

// Codes of linux/bpf_common.h and linux/filter.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_HALF_AT: u16 = 0x48;
const LOAD_BYTE_AT: u16 = 0x50;
const LOAD_WORD_AT: u16 = 0x40;
const LOAD_NUMBER: u16 = 0x00;
const LOAD_MEMORY: u16 = 0x60;
const STORE: u16 = 0x02;
const ADD: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const SUBTRACT: u16 = 0x14;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const TO_X: u16 = 0x07;
const FROM_X: u16 = 0x87;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const ANSWER: u16 = 0x06;

/// Where the transport protocol is kept.
const PROTOCOL: u32 = 0;

/// Where the packet came to.
type Label = &'static str;

/// Code, operand, and where to go on if a condition holds and if it does not; none: with what follows.
type Step = (u16, u32, Option<Label>, Option<Label>);

/// A program whose jumps have names yet.
#[derive(Default)]
struct Program {
    steps: Vec<Step>,
    places: HashMap<Label, usize>,
}

impl Program {
    fn at(&mut self, label: Label) {
        self.places.insert(label, self.steps.len());
    }

    fn then(&mut self, code: u16, operand: u32) {
        self.steps.push((code, operand, None, None));
    }

    fn jump(&mut self, to: Label) {
        self.steps.push((JUMP, 0, Some(to), None));
    }

    /// Jumps where the condition holds, else goes on.
    fn when(&mut self, condition: u16, operand: u32, to: Label) {
        self.steps.push((condition, operand, Some(to), None));
    }

    /// Jumps where the condition does not hold, else goes on.
    fn unless(&mut self, condition: u16, operand: u32, to: Label) {
        self.steps.push((condition, operand, None, Some(to)));
    }

    fn instructions(&self) -> Vec<Instruction> {
        let distance = |here: usize, label: &Label| {
            self.places.get(label).and_then(|place| place.checked_sub(here + 1)).unwrap_or_default()
        };
        let jumps = |(here, (code, operand, yes, no)): (usize, &Step)| {
            let [yes, no] = [yes, no].map(|label| label.as_ref().map_or(0, |label| distance(here, label)));
            match *code {
                JUMP => (JUMP, 0, 0, yes as u32),
                code => (code, yes as u8, no as u8, *operand),
            }
        };
        self.steps.iter().enumerate().map(jumps).collect()
    }
}

/// The program for the probes of a trace, and for datagrams from and to a UDP port of ours.
#[must_use]
pub(super) fn program(sought: &Sought, port: u16) -> Vec<Instruction> {
    let mut program = Program::default();
    let p = &mut program;
    // X: where the IP header is.
    p.then(LOAD_WORD, HARDWARE);
    for kind in WITH_ETHERNET {
        p.when(IF_EQUAL, kind, "frame");
    }
    p.then(LOAD_NUMBER, 0);
    p.jump("ip");
    p.at("frame");
    p.then(LOAD_HALF, 12);
    p.when(IF_EQUAL, ethertype::IPV4.into(), "frame of ip");
    p.unless(IF_EQUAL, ethertype::IPV6.into(), "nothing");
    p.at("frame of ip");
    p.then(LOAD_NUMBER, ethernet::HEADER_LEN as u32);
    p.at("ip");
    p.then(TO_X, 0);
    p.then(LOAD_BYTE_AT, 0);
    p.then(AND, 0xf0);
    p.when(IF_EQUAL, 0x40, "four");
    p.unless(IF_EQUAL, 0x60, "nothing");
    // Extension headers are not stepped over: neither probes nor our datagrams have any.
    p.then(LOAD_BYTE_AT, 6);
    p.then(STORE, PROTOCOL);
    p.then(FROM_X, 0);
    p.then(ADD, V6_HEADER_LEN as u32);
    p.then(TO_X, 0);
    p.jump("transport");
    p.at("four");
    p.then(LOAD_HALF_AT, 6);
    p.when(IF_ANY_BIT, 0x1fff, "nothing");
    p.then(LOAD_BYTE_AT, 9);
    p.then(STORE, PROTOCOL);
    p.then(LOAD_BYTE_AT, 0);
    p.then(AND, 0x0f);
    p.then(SHIFT_LEFT, 2);
    p.then(ADD_X, 0);
    p.then(TO_X, 0);
    // X: where the header of the transport is.
    p.at("transport");
    p.then(LOAD_MEMORY, PROTOCOL);
    p.when(IF_EQUAL, protocol::ICMP.into(), "icmp");
    p.when(IF_EQUAL, protocol::ICMPV6.into(), "icmp");
    p.when(IF_EQUAL, protocol::UDP.into(), "udp");
    p.when(IF_EQUAL, protocol::TCP.into(), "tcp");
    p.jump("nothing");
    p.at("udp");
    for at in [0, 2] {
        p.then(LOAD_HALF_AT, at);
        p.when(IF_EQUAL, port.into(), "ours");
    }
    marked(p, sought, 8, "nothing");
    p.at("icmp");
    if sought.protocol == Protocol::Icmp {
        marked(p, sought, 8, "error");
    }
    p.at("error");
    p.then(LOAD_BYTE_AT, 8);
    p.then(AND, 0xf0);
    p.when(IF_EQUAL, 0x40, "about four");
    p.unless(IF_EQUAL, 0x60, "nothing");
    quoted(p, sought, port, V6_HEADER_LEN as u32);
    p.at("about four");
    quoted(p, sought, port, V4_HEADER_LEN as u32);
    p.at("tcp");
    if sought.protocol == Protocol::Tcp {
        numbered(p, sought.sequence(), 4);
        numbered(p, sought.sequence().wrapping_add(1), 8);
    }
    p.jump("nothing");
    p.at("ours");
    p.then(ANSWER, WHOLE);
    p.at("probe");
    p.then(ANSWER, HEAD);
    p.at("nothing");
    p.then(ANSWER, 0);
    program.instructions()
}

/// To "probe" if the marker stands at X and this.
fn marked(p: &mut Program, sought: &Sought, at: u32, otherwise: Label) {
    for (part, more) in [((sought.marker >> 32) as u32, 0), (sought.marker as u32, 4)] {
        p.then(LOAD_WORD_AT, at + more);
        p.unless(IF_EQUAL, part, otherwise);
    }
    p.jump("probe");
}

/// To "probe" if an ICMP error quotes one of ours, whose IP header is this long.
fn quoted(p: &mut Program, sought: &Sought, port: u16, header: u32) {
    let transport = 8 + header;
    for at in [0, 2] {
        p.then(LOAD_HALF_AT, transport + at);
        p.when(IF_EQUAL, port.into(), "probe");
    }
    match sought.protocol {
        Protocol::Tcp => {
            numbered(p, sought.sequence(), transport + 4);
            p.jump("nothing");
        }
        Protocol::Icmp | Protocol::Udp => marked(p, sought, transport + 8, "nothing"),
    }
}

/// To "probe" if the number at X and this is one of those from `first` on.
fn numbered(p: &mut Program, first: u32, at: u32) {
    p.then(LOAD_WORD_AT, at);
    p.then(SUBTRACT, first);
    p.unless(IF_AT_LEAST, MAX_PROBES, "probe");
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use wire::ip::IpHeader;
    use wire::udp::UdpHeader;

    use super::*;

    /// What the kernel would do: how many bytes it keeps, on a device with or without Ethernet headers.
    fn run(program: &[Instruction], hardware: u32, packet: &[u8]) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
        let mut at = 0;
        loop {
            let (code, yes, no, k) = program[at];
            at += 1;
            let load = |from: u32, length: usize| {
                let bytes = packet.get(from as usize..from as usize + length)?;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
            };
            let loaded = match code {
                LOAD_WORD if k == HARDWARE => Some(hardware),
                LOAD_WORD => load(k, 4),
                LOAD_HALF => load(k, 2),
                LOAD_WORD_AT => load(x + k, 4),
                LOAD_HALF_AT => load(x + k, 2),
                LOAD_BYTE_AT => load(x + k, 1),
                LOAD_NUMBER => Some(k),
                LOAD_MEMORY => Some(memory[k as usize]),
                ADD => Some(a + k),
                ADD_X => Some(a + x),
                SUBTRACT => Some(a.wrapping_sub(k)),
                AND => Some(a & k),
                SHIFT_LEFT => Some(a << k),
                FROM_X => Some(x),
                STORE => {
                    memory[k as usize] = a;
                    Some(a)
                }
                TO_X => {
                    x = a;
                    Some(a)
                }
                JUMP => {
                    at += k as usize;
                    Some(a)
                }
                IF_EQUAL | IF_AT_LEAST | IF_ANY_BIT => {
                    let holds = match code {
                        IF_EQUAL => a == k,
                        IF_AT_LEAST => a >= k,
                        _ => a & k != 0,
                    };
                    at += usize::from(if holds { yes } else { no });
                    Some(a)
                }
                ANSWER => return k,
                other => panic!("no such instruction: {other:#x}"),
            };
            match loaded {
                Some(value) => a = value,
                None => return 0,
            }
        }
    }

    const ETHER: u32 = 1;
    const NONE: u32 = 0xfffe;

    fn sought(protocol: Protocol) -> Sought {
        Sought { protocol, marker: 0x0123_4567_89ab_cdef, port: 4000, only: None }
    }

    fn ends(six: bool) -> (IpAddr, IpAddr) {
        if six {
            ("fd77::1".parse().unwrap(), "fd77::2".parse().unwrap())
        } else {
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
        }
    }

    fn ip(six: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let (from, to) = ends(six);
        let header = IpHeader::new(from, to, protocol);
        let mut packet = vec![0; header.header_len() + payload.len()];
        header.emit(payload.len(), &mut packet).unwrap();
        packet[header.header_len()..].copy_from_slice(payload);
        packet
    }

    fn udp(six: bool, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let (from, to) = ends(six);
        let mut datagram = vec![0; 8 + payload.len()];
        let header = UdpHeader { source_port: ports.0, destination_port: ports.1 };
        let pseudo = IpHeader::new(from, to, protocol::UDP).pseudo_header();
        header.emit(pseudo, payload, &mut datagram).unwrap();
        ip(six, protocol::UDP, &datagram)
    }

    fn probe(sought: &Sought, six: bool, number: u32) -> Vec<u8> {
        let (from, to) = ends(six);
        match sought.protocol {
            Protocol::Icmp => {
                let protocol = if six { protocol::ICMPV6 } else { protocol::ICMP };
                ip(six, protocol, &sought.echo_request(number, 100, from, to))
            }
            Protocol::Udp => udp(six, (999, sought.port), &sought.payload(number, 100, 50)),
            Protocol::Tcp => ip(six, protocol::TCP, &sought.syn(number, from, to)),
        }
    }

    fn framed(packet: &[u8]) -> Vec<u8> {
        let kind = if packet[0] >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 };
        [&[0u8; 12][..], &kind.to_be_bytes(), packet].concat()
    }

    #[test]
    fn probes_are_kept_on_every_sort_of_device_and_others_are_not() {
        for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
            let ours = sought(protocol);
            let filter = program(&ours, 7777);
            for six in [false, true] {
                for number in [0, MAX_PROBES - 1] {
                    let packet = probe(&ours, six, number);
                    assert_eq!(run(&filter, NONE, &packet), HEAD, "{protocol:?} {six}");
                    assert_eq!(run(&filter, ETHER, &framed(&packet)), HEAD, "{protocol:?} {six}");
                    assert_eq!(ours.spot(&packet).unwrap().probe, number);
                    assert_eq!(ours.spot(&packet).unwrap().course, super::super::probe::Course::Forth);
                }
                let others = Sought { marker: !ours.marker, ..ours };
                assert_eq!(run(&filter, NONE, &probe(&others, six, 0)), 0, "{protocol:?} {six}");
                assert_eq!(ours.spot(&probe(&others, six, 0)), None);
                // A peer that asks may see what goes where its probes go, and nothing that only looks like one.
                let (here, there) = ends(six);
                let packet = probe(&ours, six, 0);
                assert!(Sought { only: Some(there), ..ours }.spot(&packet).is_some());
                assert_eq!(Sought { only: Some(here), ..ours }.spot(&packet), None);
            }
        }
    }

    #[test]
    fn errors_about_probes_are_kept() {
        for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
            let ours = sought(protocol);
            let filter = program(&ours, 7777);
            for six in [false, true] {
                let mut error = vec![0; 2000];
                let packet = probe(&ours, six, 3);
                let original = wire::ip::IpPacket::parse(&packet).unwrap();
                let what = wire::icmp::Unreachable::Prohibited;
                let length = wire::icmp::error_reply(&original, ends(six).1, what, &mut error).unwrap();
                assert_eq!(run(&filter, NONE, &error[..length]), HEAD, "{protocol:?} {six}");
                let spotted = ours.spot(&error[..length]).unwrap();
                assert_eq!((spotted.probe, spotted.course), (3, super::super::probe::Course::Error));
                let (here, there) = ends(six);
                assert_eq!(Sought { only: Some(there), ..ours }.spot(&error[..length]), Some(spotted));
                assert_eq!(Sought { only: Some(here), ..ours }.spot(&error[..length]), None);
            }
        }
    }

    #[test]
    fn datagrams_of_our_port_are_kept_whole() {
        let filter = program(&sought(Protocol::Icmp), 7777);
        for ports in [(7777, 1), (1, 7777)] {
            for six in [false, true] {
                assert_eq!(run(&filter, ETHER, &framed(&udp(six, ports, &[0; 4]))), WHOLE);
            }
        }
        assert_eq!(run(&filter, ETHER, &framed(&udp(false, (7778, 7776), &[0; 40]))), 0);
    }

    proptest! {
        #[test]
        fn nothing_else_is_kept(bytes in prop::collection::vec(any::<u8>(), 0..200), hardware in prop::sample::select(vec![ETHER, NONE])) {
            for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
                // A port that these bytes can hardly name; and whatever it keeps is what it should be.
                let ours = sought(protocol);
                let kept = run(&program(&ours, 7777), hardware, &bytes);
                if kept == HEAD && protocol != Protocol::Tcp {
                    prop_assert!(bytes.windows(8).any(|part| part == ours.marker.to_be_bytes()) || bytes.windows(2).any(|part| part == 7777u16.to_be_bytes()));
                }
            }
        }

        #[test]
        fn any_bytes_are_a_probe_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
                let _ = sought(protocol).spot(&bytes);
            }
        }
    }
}
