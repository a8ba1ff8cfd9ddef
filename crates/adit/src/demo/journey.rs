//! The way of one packet from a container on one host to a container on the other, as captures on every device of the way see
//! it.
//!
//! What is seen is where the packet was, when, and with which bytes. That it passed through user space in between follows from
//! the order: a packet that leaves by the TUN device and comes out of the card within a datagram was read and sent by the daemon.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use linux::capture::{Capture, Direction};
use linux::netlink::Layer;
use linux::netns::NetNs;
use wire::describe::{self, LinkLayer, TunnelPorts};

use super::layout::{ADIT, BRIDGE, CARD, HOSTS, UNDERLAY};
use super::report::{Crossing, Header, Hop, Packet};
use super::topology::Topology;
use super::watch::Watch;
use crate::{Failure, Result};

/// The UDP port on both ends, one that nothing is registered for.
const PORT: u16 = 4242;
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
    let mut hops = Vec::with_capacity(stations.len());
    for (station, capture) in stations.iter().zip(&mut captures) {
        let sighting = find(capture, station, payload.as_bytes())?.ok_or_else(|| {
            Failure::failed(format!(
                "the packet of the journey was not seen on {} of {}",
                station.device, station.place
            ))
        })?;
        hops.push(hop(station, &sighting, start_ns));
    }
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

/// The first packet with `payload` that passed in the station's direction. All of them were there before it was delivered.
fn find(capture: &mut Capture, station: &Station<'_>, payload: &[u8]) -> Result<Option<Sighting>> {
    let mut buffer = vec![0; 65_536];
    while let Some(captured) = capture.recv(&mut buffer)? {
        let bytes = buffer.get(..captured.length).unwrap_or_default();
        let ours = bytes.windows(payload.len()).any(|window| window == payload);
        if ours && (captured.direction == Direction::Outgoing) == station.out {
            return Ok(Some(Sighting {
                timestamp_ns: captured.timestamp_ns,
                layer: captured.layer,
                size: captured.original_length,
                bytes: bytes.to_vec(),
            }));
        }
    }
    Ok(None)
}

fn hop(station: &Station<'_>, sighting: &Sighting, start_ns: u64) -> Hop {
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
        headers: stacked(describe::describe(link, &sighting.bytes, &ports)),
    }
}

/// Tells what is inside the tunnel from what is around it: inside begins with the second IP header.
fn stacked(layers: Vec<describe::Layer>) -> Vec<Header> {
    let mut ip_headers = 0usize;
    layers
        .into_iter()
        .map(|layer| {
            ip_headers += usize::from(matches!(layer.name, "IPv4" | "IPv6"));
            Header { name: layer.name, summary: layer.summary, depth: ip_headers.saturating_sub(1) }
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
    use super::*;

    #[test]
    fn what_the_tunnel_carries_lies_one_deeper() {
        let layer = |name| describe::Layer { name, summary: String::new() };
        let headers = stacked(["Ethernet", "IPv4", "UDP", "IPv4", "UDP"].map(layer).into());
        assert_eq!(headers.iter().map(|header| header.depth).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
    }
}
