//! The way of one packet from a container on one host to a container on the other, as captures on every device of the way see
//! it.
//!
//! What is seen is where the packet was, when, and with which bytes. That it passed through user space in between follows from
//! the order: a packet that leaves by the TUN device and comes out of the card within a datagram was read and sent by the daemon.
//!
//! Within the hosts the packet is known by what it says. Between them it is encrypted: there it is the one datagram that has its
//! length and passed at its time, and on the second card the one with the same ciphertext.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use linux::capture::{Capture, Direction};
use linux::netlink::Layer;
use linux::netns::NetNs;
use wire::describe::{self, LinkLayer, TunnelPorts};
use wire::ethernet::EthernetFrame;
use wire::ip::IpPacket;
use wire::message::data::DATA_OVERHEAD;
use wire::message::{DataHeader, Flags};
use wire::udp::UdpDatagram;

use super::layout::{ADIT, BRIDGE, CARD, HOSTS, UNDERLAY};
use super::report::{Crossing, Header, Hop, Packet};
use super::topology::Topology;
use crate::lab::watch::Watch;
use crate::{Failure, Result};

/// The UDP port on both ends, one that nothing is registered for.
const PORT: u16 = 4242;
/// Bytes of the packet's own headers, IPv4 and UDP.
const HEADERS: usize = 20 + 8;
/// How long the packet may take.
const DELIVERY: Duration = Duration::from_secs(2);
/// How often it is tried: a packet may be lost, and the clock may be set while it travels.
const ATTEMPTS: usize = 3;

const SEND: Crossing = Crossing { call: "sendto()", by: "a program in web", into_kernel: true };
const RECEIVE: Crossing = Crossing { call: "recvfrom()", by: "a program in app", into_kernel: false };
const BERLIN: [Crossing; 2] = [
    Crossing { call: "read()", by: "adit on berlin", into_kernel: false },
    Crossing { call: "sendmsg()", by: "adit on berlin", into_kernel: true },
];
const PARIS: [Crossing; 2] = [
    Crossing { call: "recvmsg()", by: "adit on paris", into_kernel: false },
    Crossing { call: "write()", by: "adit on paris", into_kernel: true },
];

/// A device on the way.
struct Station<'a> {
    crossings: &'static [Crossing],
    place: &'static str,
    net: &'a NetNs,
    device: &'static str,
    out: bool,
}

/// What one device saw.
#[derive(Clone)]
struct Sighting {
    timestamp_ns: u64,
    layer: Layer,
    size: usize,
    bytes: Vec<u8>,
}

/// Sends a packet and follows it.
///
/// # Errors
/// It does not arrive, or is not seen on its way; or a signal.
pub(super) fn follow(topology: &Topology, watch: &Watch) -> Result<(Packet, Vec<Hop>)> {
    let mut outcome = Err(Failure::failed("the packet of the journey was not sent"));
    for attempt in 1..=ATTEMPTS {
        watch.check()?;
        outcome = once(topology, attempt);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn stations(topology: &Topology) -> Result<Vec<Station<'_>>> {
    let [berlin, paris] = &HOSTS;
    let ([web, _], [app, _]) = (&berlin.containers, &paris.containers);
    let (first, second) = (topology.host(berlin)?.net(), topology.host(paris)?.net());
    let in_berlin = |crossings, device, out| Station { crossings, place: berlin.name, net: first, device, out };
    let in_paris = |crossings, device, out| Station { crossings, place: paris.name, net: second, device, out };
    let in_web = topology.container(web)?.net();
    let in_app = topology.container(app)?.net();
    Ok(vec![
        Station { crossings: &[SEND], place: web.name, net: in_web, device: CARD, out: true },
        in_berlin(&[], web.port, false),
        in_berlin(&[], BRIDGE, false),
        in_berlin(&[], ADIT.device, true),
        in_berlin(&BERLIN, UNDERLAY, true),
        in_paris(&[], UNDERLAY, false),
        in_paris(&PARIS, ADIT.device, false),
        in_paris(&[], BRIDGE, true),
        in_paris(&[], app.port, true),
        Station { crossings: &[], place: app.name, net: in_app, device: CARD, out: false },
    ])
}

fn once(topology: &Topology, attempt: usize) -> Result<(Packet, Vec<Hop>)> {
    let [berlin, paris] = &HOSTS;
    let ([web, _], [app, _]) = (&berlin.containers, &paris.containers);
    let failed = |error: std::io::Error| Failure::failed(format!("cannot send the packet of the journey: {error}"));
    let (from, to) =
        (SocketAddr::from((ADIT.address(berlin, web), PORT)), SocketAddr::from((ADIT.address(paris, app), PORT)));
    let receiver = topology.container(app)?.net().run(|| UdpSocket::bind(to))?.map_err(failed)?;
    let sender = topology.container(web)?.net().run(|| UdpSocket::bind(from))?.map_err(failed)?;
    receiver.set_read_timeout(Some(DELIVERY)).map_err(failed)?;

    let stations = stations(topology)?;
    let mut captures = Vec::with_capacity(stations.len());
    for station in &stations {
        captures.push(station.net.run(|| Capture::open(station.device))??);
    }
    // The first packet wakes what sleeps (processors, time stamping, neighbour entries) and is not looked at.
    let mut buffer = [0; 256];
    sender.send_to(b"make way", to).map_err(failed)?;
    receiver.recv(&mut buffer).map_err(not_arrived)?;

    let payload = format!("adit demo {}, journey {attempt}: hello app", std::process::id());
    let start = SystemTime::now();
    sender.send_to(payload.as_bytes(), to).map_err(failed)?;
    loop {
        let length = receiver.recv(&mut buffer).map_err(not_arrived)?;
        if buffer.get(..length) == Some(payload.as_bytes()) {
            break;
        }
    }
    let delivered = SystemTime::now();

    let start_ns = nanoseconds(start);
    let mut seen = Vec::with_capacity(stations.len());
    for (station, capture) in stations.iter().zip(&mut captures) {
        seen.push(sightings(capture, station)?);
    }
    let found = recognise(&stations, &seen, payload.as_bytes())?;
    let hops: Vec<_> =
        stations.iter().zip(&found).map(|(station, (sighting, by))| hop(station, sighting, by, start_ns)).collect();
    if !hops.is_sorted_by(|a, b| a.us <= b.us) {
        return Err(Failure::failed("the system's clock was set during the journey of the packet"));
    }
    let between = |from: usize, to: usize| match (hops.get(from), hops.get(to)) {
        (Some(from), Some(to)) => to.us - from.us,
        _ => 0.0,
    };
    let crossings = hops.iter().map(|hop| hop.crossings.len()).sum::<usize>() + 1;
    let packet = Packet {
        from: from.to_string(),
        to: to.to_string(),
        payload_bytes: payload.len(),
        delivered_us: microseconds(nanoseconds(delivered), start_ns),
        crossings,
        copies_by_model: crossings,
        daemons_us: [between(3, 4), between(5, 6)],
        last_crossing: RECEIVE,
    };
    Ok((packet, hops))
}

fn not_arrived(error: std::io::Error) -> Failure {
    Failure::failed(format!("the packet of the journey did not arrive: {error}"))
}

/// All that passed in the station's direction. The packet is among it: it was there before it was delivered.
fn sightings(capture: &mut Capture, station: &Station<'_>) -> Result<Vec<Sighting>> {
    let mut buffer = vec![0; 65_536];
    let mut seen = Vec::new();
    while let Some(captured) = capture.recv(&mut buffer)? {
        if (captured.direction == Direction::Outgoing) == station.out {
            seen.push(Sighting {
                timestamp_ns: captured.timestamp_ns,
                layer: captured.layer,
                size: captured.original_length,
                bytes: buffer.get(..captured.length).unwrap_or_default().to_vec(),
            });
        }
    }
    Ok(seen)
}

/// Finds the packet in what each station saw, and says how it was known.
fn recognise<'s>(
    stations: &[Station<'_>],
    seen: &'s [Vec<Sighting>],
    payload: &[u8],
) -> Result<Vec<(&'s Sighting, &'static str)>> {
    let says_it = |sighting: &&Sighting| sighting.bytes.windows(payload.len()).any(|window| window == payload);
    let in_clear: Vec<_> = seen.iter().map(|seen| seen.iter().find(says_it)).collect();
    let mut found: Vec<(&Sighting, &'static str)> = Vec::with_capacity(seen.len());
    let mut ciphertext = None;
    for (number, (station, seen)) in stations.iter().zip(seen).enumerate() {
        let lost = |why| {
            let (device, place) = (station.device, station.place);
            Failure::failed(format!("the packet of the journey {why} on {device} of {place}"))
        };
        let sighting = if station.device != UNDERLAY {
            (in_clear.get(number).copied().flatten().ok_or_else(|| lost("was not seen"))?, "content")
        } else if let Some(ciphertext) = ciphertext {
            let same = |sighting: &&Sighting| sealed(sighting) == Some(ciphertext);
            (seen.iter().find(same).ok_or_else(|| lost("was not seen"))?, "ciphertext")
        } else {
            let after = found.last().map_or(0, |(sighting, _)| sighting.timestamp_ns);
            let before = in_clear.iter().skip(number).flatten().next().map_or(u64::MAX, |next| next.timestamp_ns);
            let fits = |sighting: &&Sighting| {
                (after..=before).contains(&sighting.timestamp_ns)
                    && sealed(sighting).is_some_and(|message| message.len() == DATA_OVERHEAD + HEADERS + payload.len())
            };
            let mut fitting = seen.iter().filter(fits);
            let first = fitting.next().ok_or_else(|| lost("was not seen"))?;
            if fitting.next().is_some() {
                return Err(lost("could not be told from another"));
            }
            ciphertext = sealed(first);
            (first, "length")
        };
        found.push(sighting);
    }
    Ok(found)
}

/// The sealed message with a packet in it that a card saw.
fn sealed(sighting: &Sighting) -> Option<&[u8]> {
    let frame = EthernetFrame::parse(&sighting.bytes).ok()?;
    let packet = IpPacket::parse_cut(frame.payload()).ok()?;
    let message = UdpDatagram::parse_cut(packet.payload()).ok()?.payload();
    DataHeader::parse(message).ok().filter(|header| !header.flags.contains(Flags::CONTROL)).map(|_| message)
}

fn hop(station: &Station<'_>, sighting: &Sighting, known_by: &'static str, start_ns: u64) -> Hop {
    let ethernet = sighting.layer == Layer::Ethernet;
    let link = if ethernet { LinkLayer::Ethernet } else { LinkLayer::Ip };
    let ports = TunnelPorts { adit: Some(ADIT.port), vxlan: None };
    Hop {
        crossings: station.crossings.to_vec(),
        us: microseconds(sighting.timestamp_ns, start_ns),
        place: station.place,
        device: station.device,
        direction: if station.out { "out" } else { "in" },
        layer: if ethernet { "L2" } else { "L3" },
        size: sighting.size,
        known_by,
        headers: stacked(describe::describe(link, &sighting.bytes, &ports)),
    }
}

/// Tells what is the tunnel's from what is around it: that begins with an encrypted message, or with the second IP header.
fn stacked(layers: Vec<describe::Layer>) -> Vec<Header> {
    let mut begun = 0usize;
    layers
        .into_iter()
        .map(|layer| {
            begun += usize::from(matches!(layer.name, "IPv4" | "IPv6" | "sealed" | "WireGuard"));
            Header { name: layer.name, summary: layer.summary, depth: begun.saturating_sub(1) }
        })
        .collect()
}

/// Since 1970, as the kernel stamps packets.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Negative where a time stamp lies before the start, which only a clock that was set explains.
fn microseconds(at_ns: u64, start_ns: u64) -> f64 {
    let after = at_ns.saturating_sub(start_ns) as f64;
    let before = start_ns.saturating_sub(at_ns) as f64;
    (after - before) / 1e3
}

#[cfg(test)]
mod tests {
    use wire::udp::UdpHeader;

    use super::*;

    #[test]
    fn what_the_tunnel_carries_lies_one_deeper() {
        let layer = |name| describe::Layer { name, summary: String::new() };
        let headers = stacked(["Ethernet", "IPv4", "UDP", "IPv4", "UDP"].map(layer).into());
        assert_eq!(headers.iter().map(|header| header.depth).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
        let headers = stacked(["Ethernet", "IPv4", "UDP", "sealed"].map(layer).into());
        assert_eq!(headers.iter().map(|header| header.depth).collect::<Vec<_>>(), [0, 0, 0, 1]);
    }

    fn frame(timestamp_ns: u64, payload: &[u8]) -> Sighting {
        use wire::ip::{IpHeader, protocol};
        let mut udp = vec![0; 8 + payload.len()];
        UdpHeader { source_port: 7777, destination_port: 7777 }.emit(Default::default(), payload, &mut udp).unwrap();
        let mut bytes = vec![0; 34];
        bytes[12] = 8;
        let header = IpHeader::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), protocol::UDP);
        header.emit(udp.len(), &mut bytes[14..]).unwrap();
        bytes.extend(udp);
        Sighting { timestamp_ns, layer: Layer::Ethernet, size: bytes.len(), bytes }
    }

    fn message(counter: u64, flags: Flags, length: usize) -> Vec<u8> {
        let header = DataHeader { protocol: wire::message::Protocol::Sealed, flags, receiver: 0x20, counter };
        [&header.emit()[..], &vec![counter as u8; length + 16]].concat()
    }

    #[test]
    fn between_the_hosts_it_is_known_by_its_length_and_then_by_its_ciphertext() {
        let net = NetNs::current().unwrap();
        let station = |device| Station { crossings: &[], place: "berlin", net: &net, device, out: true };
        let stations = ["adit0", UNDERLAY, UNDERLAY, "adit0"].map(station);
        let (before, ours, after) =
            (message(1, Flags::NONE, 33), message(2, Flags::NONE, 33), message(3, Flags::NONE, 33));
        let (probe, other) = (message(4, Flags::CONTROL, 33), message(5, Flags::NONE, 34));
        let cable: Vec<_> =
            [(5, &before), (11, &probe), (12, &ours), (13, &other), (21, &after)].map(|(at, m)| frame(at, m)).into();
        let seen = [vec![frame(10, b"hello")], cable.clone(), cable.clone(), vec![frame(20, b"hello")]];
        let found = recognise(&stations, &seen, b"hello").unwrap();
        let found: Vec<_> = found.iter().map(|(sighting, by)| (sighting.timestamp_ns, *by)).collect();
        assert_eq!(found, [(10, "content"), (12, "length"), (12, "ciphertext"), (20, "content")]);

        let mut doubtful = seen.clone();
        doubtful[1].push(frame(14, &message(6, Flags::NONE, 33)));
        assert!(recognise(&stations, &doubtful, b"hello").is_err());
        let mut lost = seen;
        lost[2].clear();
        assert!(recognise(&stations, &lost, b"hello").is_err());
    }
}
