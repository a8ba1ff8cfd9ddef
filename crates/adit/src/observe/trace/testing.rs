//! Observations for tests: two hosts, a container on each, and what is seen of a probe between them.

use std::net::Ipv4Addr;

use wire::icmp::IcmpHeader;
use wire::ip::{IpHeader, protocol};
use wire::message::{DataHeader, Flags, Protocol as Transport};
use wire::tcp::TcpHeader;
use wire::udp::UdpHeader;

use super::observation::*;

pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 2);
pub(super) const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 42, 2, 2);
/// When the first probe is sent.
pub(super) const START: i64 = 1_800_000_000_000_000_000;
const PORT: u16 = 7777;
pub(super) const RECEIVER: u32 = 0x0122_3340;

/// An echo request of 84 bytes, or its reply.
pub(super) fn packet(from: Ipv4Addr, to: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let mut echo = [0; 64];
    let kind = if to == DESTINATION { 8 } else { 0 };
    IcmpHeader { kind, code: 0, rest: [0, 7, 0, 1] }.emit(None, &[0x5a; 56], &mut echo).unwrap();
    ip(from, to, ttl, protocol::ICMP, &echo)
}

/// A TCP super-packet's head.
pub(super) fn segment(ttl: u8, payload: usize) -> Vec<u8> {
    let payload = vec![0x5a; payload];
    let header = TcpHeader {
        source_port: 40_000,
        destination_port: 5201,
        sequence: 1,
        acknowledgement: 1,
        flags: wire::tcp::flags::ACK,
        window: 512,
        options: &[],
    };
    let mut bytes = vec![0; 20 + payload.len()];
    header.emit(Default::default(), &payload, &mut bytes).unwrap();
    ip(SOURCE, DESTINATION, ttl, protocol::TCP, &bytes)
}

fn ip(from: Ipv4Addr, to: Ipv4Addr, ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = IpHeader::new(from.into(), to.into(), protocol);
    header.ttl = ttl;
    let mut bytes = vec![0; 20];
    header.emit(payload.len(), &mut bytes).unwrap();
    bytes.extend(payload);
    bytes
}

/// A packet of the underlay to adit's port.
pub(super) fn datagram(message: &[u8]) -> Vec<u8> {
    let mut udp = vec![0; 8 + message.len()];
    UdpHeader { source_port: PORT, destination_port: PORT }.emit(Default::default(), message, &mut udp).unwrap();
    ip([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 64, protocol::UDP, &udp)
}

/// An Ethernet frame.
pub(super) fn frame(packet: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], packet].concat()
}

fn device(name: &str, index: u32, kind: DeviceKind, out: bool) -> Place {
    let layer = if kind == DeviceKind::Tun { Layer::Packets } else { Layer::Frames };
    let direction = if out { Direction::Out } else { Direction::In };
    Place::Device { name: name.into(), index, kind, layer, direction }
}

pub(super) fn veth(name: &str, out: bool) -> Place {
    device(name, 7, DeviceKind::Veth, out)
}

pub(super) fn bridge(name: &str, out: bool) -> Place {
    device(name, 6, DeviceKind::Bridge, out)
}

pub(super) fn tun(name: &str, out: bool) -> Place {
    device(name, 5, DeviceKind::Tun, out)
}

pub(super) fn card(name: &str, out: bool) -> Place {
    device(name, 2, DeviceKind::Card, out)
}

pub(super) fn worker(step: Step) -> Place {
    Place::Worker { number: 0, step }
}

/// A probe on its way there; what it says fits the place.
pub(super) fn at(host: &str, micros: i64, place: Place) -> Observation {
    let ttl = match &place {
        Place::Device { kind: DeviceKind::Tun, .. } | Place::Worker { .. } => 63,
        Place::Device { direction: Direction::Out, .. } => 62,
        Place::Device { .. } => 64,
    };
    let own = packet(SOURCE, DESTINATION, ttl);
    let head = match &place {
        Place::Device { layer: Layer::Frames, .. } => frame(&own),
        _ => own,
    };
    Observation {
        host: host.into(),
        probe: 0,
        at: START + micros * 1000,
        size: head.len() as u32,
        place,
        segments: 1,
        segment_size: 0,
        checksum: Checksum::Complete,
        outer: None,
        head,
    }
}

/// Makes it the sealed datagram with `counter`, of which `encrypted` bytes are encrypted.
pub(super) fn seal(observation: &mut Observation, counter: u64, encrypted: usize) {
    observation.outer = Some(Outer { receiver: RECEIVER, counter });
    let header = DataHeader { protocol: Transport::Sealed, flags: Flags::NONE, receiver: RECEIVER, counter };
    let message = [&header.emit()[..], &vec![0xee; encrypted + 16]].concat();
    let whole = match &observation.place {
        Place::Device { .. } => {
            // The card cannot read which probe it is.
            observation.probe = UNKNOWN_PROBE;
            frame(&datagram(&message))
        }
        Place::Worker { step: Step::Sent | Step::Received, .. } => message,
        Place::Worker { .. } => return,
    };
    observation.size = whole.len() as u32;
    observation.head = whole[..whole.len().min(MAX_HEAD)].to_vec();
}

/// What is seen of one probe from a container on berlin to one on paris: 14 places, in the order of its way.
pub(super) fn way() -> Vec<Observation> {
    let mut seen = vec![
        at("berlin", 0, veth("veth-web", false)),
        at("berlin", 2, bridge("adit-br0", false)),
        at("berlin", 5, tun("adit0", true)),
        at("berlin", 14, worker(Step::Read)),
        at("berlin", 16, worker(Step::Sealed)),
        at("berlin", 17, worker(Step::Sent)),
        at("berlin", 20, card("eth0", true)),
        at("paris", 22, card("eth0", false)),
        at("paris", 30, worker(Step::Received)),
        at("paris", 31, worker(Step::Opened)),
        at("paris", 32, worker(Step::Written)),
        at("paris", 34, tun("adit0", false)),
        at("paris", 38, bridge("adit-br0", true)),
        at("paris", 40, veth("veth-app", true)),
    ];
    for observation in &mut seen[4..10] {
        seal(observation, 9, 84);
    }
    seen
}

/// A report of a host that is asked and has nothing to say.
pub(super) fn report(host: &str, offset: Option<(i64, u64)>) -> HostReport {
    let offset = offset.map(|(ns, uncertainty)| ClockOffset { ns, uncertainty });
    HostReport { host: host.into(), offset, permitted: true, ..HostReport::default() }
}

/// A trace of one probe.
pub(super) fn trace(observations: Vec<Observation>, answered: Option<i64>) -> Trace {
    Trace {
        destination: DESTINATION.into(),
        from: "web on berlin".into(),
        protocol: Protocol::Icmp,
        sizes: vec![84],
        observations,
        reports: vec![report("berlin", Some((0, 0))), report("paris", Some((0, 8_000)))],
        answered: vec![answered],
    }
}

/// A super-packet of 46 segments on the same way: sealed in 46 datagrams, which travel as one train.
pub(super) fn super_packet() -> Vec<Observation> {
    const SEGMENTS: u16 = 46;
    const PAYLOAD: u16 = 1348;
    let payload = usize::from(SEGMENTS) * usize::from(PAYLOAD);
    let mut seen = Vec::new();
    for mut observation in way() {
        observation.checksum = Checksum::Partial;
        let counter = observation.outer.map(|outer| outer.counter);
        let inner = |ttl| segment(ttl, payload);
        let ttl = if observation.host == "berlin" { 64 } else { 62 };
        let (place, train) = (observation.place.clone(), usize::from(SEGMENTS) * (usize::from(PAYLOAD) + 40 + 32));
        let mut whole = |bytes: Vec<u8>, size: usize| {
            observation.size = size as u32;
            observation.head = bytes[..bytes.len().min(MAX_HEAD)].to_vec();
        };
        match &place {
            Place::Worker { step: Step::Sealed | Step::Opened, .. } => {
                // Each segment is sealed by itself.
                let bytes = segment(63, PAYLOAD.into());
                whole(bytes.clone(), bytes.len());
                observation.checksum = Checksum::Partial;
                for number in 0..u64::from(SEGMENTS) {
                    let mut each = observation.clone();
                    each.outer = Some(Outer { receiver: RECEIVER, counter: counter.unwrap_or(0) + number });
                    seen.push(each);
                }
                continue;
            }
            Place::Worker { step: Step::Sent | Step::Received, .. } => {
                seal(&mut observation, counter.unwrap_or(0), train - 32);
                observation.segment_size = PAYLOAD + 40 + 32;
                observation.checksum = Checksum::Unknown;
            }
            Place::Device { kind: DeviceKind::Card, .. } => {
                seal(&mut observation, counter.unwrap_or(0), train - 32);
                observation.segment_size = PAYLOAD + 40 + 32;
            }
            Place::Device { layer: Layer::Frames, .. } => {
                let bytes = frame(&inner(ttl));
                whole(bytes.clone(), bytes.len());
                observation.segment_size = PAYLOAD;
            }
            _ => {
                let bytes = inner(63);
                whole(bytes.clone(), bytes.len());
                observation.segment_size = PAYLOAD;
            }
        }
        observation.segments = SEGMENTS;
        seen.push(observation);
    }
    seen
}

/// A way over a host in the middle, which routes it from one peer to another.
pub(super) fn by_rome() -> Vec<Observation> {
    let mut seen = way();
    let mut rome = vec![
        at("rome", 21, card("eth0", false)),
        at("rome", 22, worker(Step::Received)),
        at("rome", 23, worker(Step::Opened)),
        at("rome", 23, worker(Step::Written)),
        at("rome", 24, tun("adit0", false)),
        at("rome", 25, tun("adit0", true)),
        at("rome", 26, worker(Step::Read)),
        at("rome", 27, worker(Step::Sealed)),
        at("rome", 28, worker(Step::Sent)),
        at("rome", 29, card("eth0", true)),
    ];
    for observation in &mut rome[..3] {
        seal(observation, 9, 84);
    }
    for observation in &mut rome[5..9] {
        observation.head = packet(SOURCE, DESTINATION, 62);
    }
    for observation in &mut rome[7..] {
        seal(observation, 3, 84);
    }
    for observation in &mut seen[7..] {
        observation.at += 20_000;
        if observation.outer.is_some() {
            let probe = observation.probe;
            seal(observation, 3, 84);
            observation.probe = probe;
        }
        if !matches!(observation.place, Place::Device { layer: Layer::Frames, .. }) && observation.outer.is_none() {
            observation.head = packet(SOURCE, DESTINATION, 62);
        }
        if matches!(observation.place, Place::Worker { step: Step::Opened, .. }) {
            observation.head = packet(SOURCE, DESTINATION, 62);
        }
    }
    seen.splice(7..7, rome);
    seen
}
