//! What a capture makes of what it sees: observations of probes, and the headers of datagrams that may hold some.

use std::collections::HashMap;
use std::net::IpAddr;

use linux::capture::{self, Capture, Captured};
use linux::netlink::{self, Netlink};
use serde::{Deserialize, Serialize};
use wire::ethernet::EthernetFrame;
use wire::icmp::{IcmpMessage, v4, v6};
use wire::ip::{IpPacket, Version, protocol};
use wire::message::DataHeader;
use wire::tcp::TcpSegment;
use wire::udp::UdpDatagram;
use wire::vnet::{GSO_ECN, GSO_NONE, VnetHdr};

use super::filter;
use super::observation::{
    Checksum, DeviceKind, Direction, Fact, IcmpKind, Layer, MAX_HEAD, Observation, Outer, Place, UNKNOWN_PROBE,
};
use super::probe::{Course, Sought};

/// Observations of probes that one host makes in one trace at most.
pub(super) const MAX_OBSERVATIONS: usize = 4096;

/// Runs of sealed datagrams that are remembered at most, with about 260 bytes each.
const MAX_DATAGRAMS: usize = 16_384;

/// Things heard of at most.
const MAX_FACTS: usize = 64;

/// Packets that are read in one go, so that whoever asks something is heard.
const BATCH: usize = 256;

/// How many such goes what has passed already is worth at the end.
const LAST_LOOKS: usize = 64;

/// A device's own name for itself, by its number.
#[derive(Clone)]
struct Device {
    name: String,
    kind: DeviceKind,
    layer: Layer,
}

/// Sealed datagrams with counters that follow on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// The first.
    pub(super) receiver: u32,
    /// Its counter.
    pub(super) counter: u64,
    /// How many.
    pub(super) count: u16,
}

impl Run {
    fn overlaps(&self, other: &Self) -> bool {
        let end = |run: &Self| run.counter.saturating_add(run.count.into());
        self.receiver == other.receiver && self.counter < end(other) && other.counter < end(self)
    }

    /// Joins datagrams that follow on each other.
    pub(super) fn join(outers: impl IntoIterator<Item = Outer>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for Outer { receiver, counter } in outers {
            match runs.last_mut() {
                Some(run)
                    if run.receiver == receiver
                        && run.counter.checked_add(run.count.into()) == Some(counter)
                        && run.count < u16::MAX =>
                {
                    run.count += 1;
                }
                _ => runs.push(Self { receiver, counter, count: 1 }),
            }
        }
        runs
    }
}

/// Datagrams of ours that passed a device, which may or may not hold a probe.
struct Passed {
    run: Run,
    at: i64,
    device: u32,
    direction: Direction,
    size: u32,
    segments: u16,
    stride: u16,
    checksum: Checksum,
    head: ([u8; MAX_HEAD], usize),
}

/// A capture that is under way.
pub(super) struct Watch {
    /// None once it has ended.
    capture: Option<Capture>,
    sought: Sought,
    port: u16,
    netlink: Netlink,
    devices: HashMap<u32, Device>,
    observations: Vec<Observation>,
    datagrams: Vec<Passed>,
    facts: Vec<Fact>,
    about_datagrams: Vec<Fact>,
    /// When the last packet passed: the kernel gives a bridge the time of its port.
    last: i64,
    lost: u64,
    buffer: Box<[u8]>,
}

/// What a [`Watch`] has seen.
pub(super) struct Collected {
    pub(super) observations: Vec<Observation>,
    pub(super) facts: Vec<Fact>,
    /// ICMP errors about datagrams between daemons, which may or may not have held a probe.
    pub(super) about_datagrams: Vec<Fact>,
    pub(super) lost: u64,
}

impl Watch {
    /// Begins to watch all devices of this namespace.
    ///
    /// # Errors
    /// No right to it (CAP_NET_RAW).
    pub(super) fn open(sought: Sought, port: u16) -> linux::Result<Self> {
        let netlink = Netlink::open()?;
        let capture = Capture::open_everywhere(&filter::program(&sought, port))?;
        let mut watch = Self {
            capture: Some(capture),
            sought,
            port,
            netlink,
            devices: HashMap::new(),
            observations: Vec::new(),
            datagrams: Vec::new(),
            facts: Vec::new(),
            about_datagrams: Vec::new(),
            last: 0,
            lost: 0,
            buffer: vec![0; 1 << 16].into_boxed_slice(),
        };
        watch.list_devices();
        Ok(watch)
    }

    /// What becomes readable when something passed, until the end.
    pub(super) fn capture(&self) -> Option<&Capture> {
        self.capture.as_ref()
    }

    /// Captures no longer. What passed so far stays.
    pub(super) fn end(&mut self) {
        for _ in 0..LAST_LOOKS {
            if !self.look() {
                break;
            }
        }
        let tally = self.capture.take().and_then(|mut capture| capture.tally().ok());
        self.lost += tally.map_or(0, |tally| tally.lost + tally.unreadable);
    }

    /// Takes what passed since the last call; answers whether there may be more.
    pub(super) fn look(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut taken = 0;
        while taken < BATCH {
            let Some(capture) = &mut self.capture else { break };
            match capture.recv(&mut buffer) {
                Ok(Some(captured)) => {
                    taken += 1;
                    let bytes = buffer.get(..captured.length).unwrap_or_default();
                    self.note(&captured, bytes);
                }
                Ok(None) => break,
                Err(error) => {
                    // ENETDOWN: a device went down; the others go on.
                    tracing::debug!("{error}");
                    break;
                }
            }
        }
        self.buffer = buffer;
        taken == BATCH
    }

    /// What was seen so far; of sealed datagrams those of these runs.
    pub(super) fn collect(&mut self, wanted: &[Run]) -> Collected {
        self.look();
        let matching = self.datagrams.iter().filter(|passed| wanted.iter().any(|run| run.overlaps(&passed.run)));
        let found: Vec<Observation> = matching.filter_map(|passed| self.observe_passed(passed)).collect();
        let room = MAX_OBSERVATIONS.saturating_sub(self.observations.len());
        let tally = self.capture.as_mut().and_then(|capture| capture.tally().ok());
        let lost = self.lost + tally.map_or(0, |tally| tally.lost + tally.unreadable);
        let lost = lost + found.len().saturating_sub(room) as u64;
        let observations = self.observations.iter().cloned().chain(found.into_iter().take(room)).collect();
        Collected { observations, facts: self.facts.clone(), about_datagrams: self.about_datagrams.clone(), lost }
    }

    fn list_devices(&mut self) {
        for link in self.netlink.links().unwrap_or_default() {
            let layer = if link.layer == netlink::Layer::Ethernet { Layer::Frames } else { Layer::Packets };
            let kind = match (link.kind.as_deref(), layer) {
                (Some("veth"), _) => DeviceKind::Veth,
                (Some("bridge"), _) => DeviceKind::Bridge,
                (Some("tun"), Layer::Packets) => DeviceKind::Tun,
                (Some("tun"), Layer::Frames) => DeviceKind::Tap,
                (None, _) if link.name == "lo" => DeviceKind::Loopback,
                (None | Some("vlan" | "bond" | "macvlan" | "ipvlan" | "team"), _) => DeviceKind::Card,
                _ => DeviceKind::Other,
            };
            self.devices.insert(link.index, Device { name: link.name, kind, layer });
        }
    }

    fn device(&mut self, index: u32) -> Option<Device> {
        if !self.devices.contains_key(&index) {
            self.list_devices();
        }
        self.devices.get(&index).cloned()
    }

    /// Looks at one captured packet.
    fn note(&mut self, captured: &Captured, bytes: &[u8]) {
        let (link, packet) = match captured.layer {
            // The loopback device has frames too, without addresses.
            netlink::Layer::Ethernet | netlink::Layer::Loopback => match EthernetFrame::parse(bytes) {
                Ok(frame) => (frame.header_len(), frame.payload()),
                Err(_) => return,
            },
            _ => (0, bytes),
        };
        let at = i64::try_from(captured.timestamp_ns).unwrap_or(0);
        // Times that are equal would hide the order.
        let at = if at == self.last { at + 1 } else { at };
        self.last = at.max(self.last);
        let direction = match captured.direction {
            capture::Direction::Outgoing => Direction::Out,
            capture::Direction::Incoming | capture::Direction::Passing => Direction::In,
        };
        let seen = Sight { captured, bytes, link, at, direction };
        if let Some(spotted) = self.sought.spot(packet) {
            if is_icmp_error(packet) {
                note(&mut self.facts, icmp_fact(packet));
            }
            if spotted.course == Course::Error {
                // It says why the probe went no further, and is none itself.
                return;
            }
            if refuses(packet) {
                let peer = IpPacket::parse_cut(packet).map(|packet| packet.source().to_string()).unwrap_or_default();
                note(&mut self.facts, Some(Fact::Refused { peer }));
            }
            return self.observe(&seen, spotted.probe, false);
        }
        let Ok(ip) = IpPacket::parse_cut(packet) else { return };
        match ip.protocol() {
            protocol::UDP => self.note_datagram(&seen, ip.payload()),
            // About a datagram of ours: the capture's program lets no others through.
            protocol::ICMP | protocol::ICMPV6 => note(&mut self.about_datagrams, icmp_fact(packet)),
            _ => {}
        }
    }

    /// A datagram of our port: sealed, or with a packet in it that can be read.
    fn note_datagram(&mut self, seen: &Sight<'_>, bytes: &[u8]) {
        let Ok(datagram) = UdpDatagram::parse_cut(bytes) else { return };
        if datagram.source_port() != self.port && datagram.destination_port() != self.port {
            return;
        }
        let payload = datagram.payload();
        let vnet = &seen.captured.vnet;
        let stride = if is_super(vnet) { usize::from(vnet.gso_size).max(1) } else { payload.len().max(1) };
        if let Some(spotted) = payload
            .chunks(stride)
            .find_map(|inner| self.sought.spot(inner))
            .filter(|spotted| spotted.course != Course::Error)
        {
            return self.observe(seen, spotted.probe, true);
        }
        let headers = payload.chunks(stride).filter_map(|message| DataHeader::parse(message).ok());
        let runs = Run::join(headers.map(|header| Outer { receiver: header.receiver, counter: header.counter }));
        for run in runs {
            if self.datagrams.len() >= MAX_DATAGRAMS {
                self.lost += 1;
                return;
            }
            let mut head = [0; MAX_HEAD];
            let kept = seen.bytes.len().min(MAX_HEAD);
            head.iter_mut().zip(seen.bytes).for_each(|(to, from)| *to = *from);
            self.datagrams.push(Passed {
                run,
                at: seen.at,
                device: seen.captured.index,
                direction: seen.direction,
                size: seen.captured.original_length as u32,
                segments: u16::try_from(payload.len().div_ceil(stride)).unwrap_or(u16::MAX),
                stride: if is_super(vnet) { vnet.gso_size } else { 0 },
                checksum: checksum(vnet),
                head: (head, kept),
            });
        }
    }

    fn observe_passed(&self, passed: &Passed) -> Option<Observation> {
        let device = self.devices.get(&passed.device)?;
        let (head, kept) = &passed.head;
        Some(Observation {
            host: String::new(),
            probe: UNKNOWN_PROBE,
            at: passed.at,
            place: place(device, passed.device, passed.direction, true),
            size: passed.size,
            segments: passed.run.count.max(1).min(passed.segments.max(1)),
            segment_size: passed.stride,
            checksum: passed.checksum,
            outer: Some(Outer { receiver: passed.run.receiver, counter: passed.run.counter }),
            head: head.get(..*kept).unwrap_or_default().to_vec(),
        })
    }

    fn observe(&mut self, seen: &Sight<'_>, probe: u32, is_card: bool) {
        let captured = seen.captured;
        let Some(device) = self.device(captured.index) else { return };
        if self.observations.len() >= MAX_OBSERVATIONS {
            self.lost += 1;
            return;
        }
        let packet = seen.bytes.get(seen.link..).unwrap_or_default();
        let (segments, segment_size) =
            segments(&captured.vnet, packet, captured.original_length.saturating_sub(seen.link));
        self.observations.push(Observation {
            host: String::new(),
            probe,
            at: seen.at,
            place: place(&device, captured.index, seen.direction, is_card),
            size: captured.original_length as u32,
            segments,
            segment_size,
            checksum: checksum(&captured.vnet),
            outer: None,
            head: seen.bytes.get(..MAX_HEAD).unwrap_or(seen.bytes).to_vec(),
        });
    }
}

/// Keeps what was heard, once.
fn note(facts: &mut Vec<Fact>, fact: Option<Fact>) {
    facts.extend(fact.filter(|fact| facts.len() < MAX_FACTS && !facts.contains(fact)));
}

/// One captured packet, taken apart as far as the IP header.
struct Sight<'a> {
    captured: &'a Captured,
    bytes: &'a [u8],
    /// Bytes of the link-layer header.
    link: usize,
    at: i64,
    direction: Direction,
}

fn place(device: &Device, index: u32, direction: Direction, is_card: bool) -> Place {
    // What carries datagrams between hosts is a card to us, whatever it is.
    let kind = if is_card && device.kind != DeviceKind::Loopback { DeviceKind::Card } else { device.kind };
    Place::Device { name: device.name.clone(), index, kind, layer: device.layer, direction }
}

fn is_super(vnet: &VnetHdr) -> bool {
    vnet.gso_type & !GSO_ECN != GSO_NONE && vnet.gso_size > 0
}

pub(super) fn checksum(vnet: &VnetHdr) -> Checksum {
    if vnet.needs_csum() { Checksum::Partial } else { Checksum::Complete }
}

/// For how many packets one stands, and the payload of each; `total` is its length from the IP header on.
pub(super) fn segments(vnet: &VnetHdr, packet: &[u8], total: usize) -> (u16, u16) {
    if !is_super(vnet) {
        return (1, 0);
    }
    let headers = IpPacket::parse_cut(packet).map_or(0, |ip| {
        ip.header_len()
            + match ip.protocol() {
                protocol::TCP => TcpSegment::parse(ip.payload()).map_or(0, |segment| segment.header().len()),
                _ => wire::udp::HEADER_LEN,
            }
    });
    let payload = total.saturating_sub(headers);
    let count = payload.div_ceil(usize::from(vnet.gso_size)).max(1);
    (u16::try_from(count).unwrap_or(u16::MAX), vnet.gso_size)
}

/// Whether a packet is an ICMP message that is no echo.
fn is_icmp_error(packet: &[u8]) -> bool {
    IpPacket::parse_cut(packet).is_ok_and(|ip| {
        let kind = IcmpMessage::parse(ip.payload()).map(|message| message.kind());
        match ip.protocol() {
            protocol::ICMP => !matches!(kind, Ok(v4::ECHO_REQUEST | v4::ECHO_REPLY)),
            protocol::ICMPV6 => kind.is_ok_and(|kind| kind < v6::INFORMATIONAL),
            _ => false,
        }
    })
}

/// Whether a packet is a TCP reset.
fn refuses(packet: &[u8]) -> bool {
    IpPacket::parse_cut(packet).is_ok_and(|ip| {
        ip.protocol() == protocol::TCP
            && TcpSegment::parse(ip.payload()).is_ok_and(|segment| segment.flags() & wire::tcp::flags::RST != 0)
    })
}

/// What an ICMP error says, from its IP header on.
fn icmp_fact(packet: &[u8]) -> Option<Fact> {
    let ip = IpPacket::parse_cut(packet).ok()?;
    let message = IcmpMessage::parse(ip.payload()).ok()?;
    let (kind, code) = (message.kind(), message.code());
    let [a, b, c, d] = message.rest();
    let other = IcmpKind::Other { kind, code };
    let (kind, mtu) = match (ip.version(), kind, code) {
        (Version::V4, v4::UNREACHABLE, 0 | 6) => (IcmpKind::NoRoute, None),
        (Version::V4, v4::UNREACHABLE, 1) => (IcmpKind::HostUnreachable, None),
        (Version::V4, v4::UNREACHABLE, 3) => (IcmpKind::PortUnreachable, None),
        (Version::V4, v4::UNREACHABLE, 4) => (IcmpKind::TooBig, Some(u32::from(u16::from_be_bytes([c, d])))),
        (Version::V4, v4::UNREACHABLE, 9 | 10 | 13) => (IcmpKind::Prohibited, None),
        (Version::V4, v4::TIME_EXCEEDED, _) => (IcmpKind::TimeExceeded, None),
        (Version::V6, v6::UNREACHABLE, 0) => (IcmpKind::NoRoute, None),
        (Version::V6, v6::UNREACHABLE, 3) => (IcmpKind::HostUnreachable, None),
        (Version::V6, v6::UNREACHABLE, 4) => (IcmpKind::PortUnreachable, None),
        (Version::V6, v6::UNREACHABLE, 1 | 5 | 6) => (IcmpKind::Prohibited, None),
        (Version::V6, v6::PACKET_TOO_BIG, _) => (IcmpKind::TooBig, Some(u32::from_be_bytes([a, b, c, d]))),
        (Version::V6, v6::TIME_EXCEEDED, _) => (IcmpKind::TimeExceeded, None),
        _ => (other, None),
    };
    let from: IpAddr = ip.source();
    Some(Fact::Icmp { from, kind, mtu })
}
