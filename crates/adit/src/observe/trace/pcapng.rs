//! A trace as a capture file (pcapng, draft-ietf-opsawg-pcapng): what was seen on devices, with their names, the direction of each packet,
//! and comments that tell which frames are one packet, inside and outside of the tunnel.
//!
//! Times are those of the journey, so that frames of all hosts are in one order. Of each packet its head is there, and its whole length
//! is told.

use std::collections::BTreeMap;

use super::clean::clean;
use super::journey::{Hop, Journey, Probe, Way};
use super::observation::{Checksum, Direction, Layer, Observation, Place, Trace, UNKNOWN_PROBE};
use super::words;

/// Types of blocks (section 4).
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Says by its order that all numbers are little-endian (section 4.1).
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Options (sections 3.5, 4.1, 4.2, 4.3).
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
/// Link types (draft-ietf-opsawg-pcaplinktype): Ethernet, and packets that begin with an IP header.
const ETHERNET: u16 = 1;
const RAW: u16 = 101;

/// A device of a host.
type Interface<'t> = (&'t str, &'t str, u32, Layer);

/// What was seen on one device: a frame of the file.
struct Frame<'t> {
    /// Its index in the trace.
    index: usize,
    observation: &'t Observation,
    interface: Interface<'t>,
    direction: Direction,
    /// Nanoseconds since 1970, by the clock of the host that traces.
    at: i64,
}

/// The file.
#[must_use]
pub fn pcapng(trace: &Trace) -> Vec<u8> {
    let journey = Journey::of(trace);
    let trace = &clean(trace);
    let frames = frames(trace, &journey);
    let mut interfaces: Vec<Interface<'_>> = Vec::new();
    for frame in &frames {
        if !interfaces.contains(&frame.interface) {
            interfaces.push(frame.interface);
        }
    }
    let comments = comments(&journey, &frames);
    let mut file = section(&journey);
    for interface in &interfaces {
        block(&mut file, INTERFACE, &described(&journey, interface));
    }
    for (frame, comments) in frames.iter().zip(&comments) {
        let interface = interfaces.iter().position(|interface| *interface == frame.interface).unwrap_or(0);
        block(&mut file, PACKET, &packet(frame, u32::try_from(interface).unwrap_or(u32::MAX), comments));
    }
    file
}

/// All that devices saw, in the order of its journey.
fn frames<'t>(trace: &'t Trace, journey: &Journey) -> Vec<Frame<'t>> {
    let numbers: BTreeMap<usize, usize> = journey
        .probes
        .iter()
        .flat_map(Probe::hops)
        .flat_map(|hop| hop.observations.iter().map(|index| (*index, hop.number)))
        .collect();
    let frame = |(index, observation): (usize, &'t Observation)| match &observation.place {
        Place::Device { name, index: number, layer, direction, .. } => {
            let shift = journey.hosts.iter().find(|host| host.name == observation.host).map_or(0, |host| host.shift);
            Some(Frame {
                index,
                observation,
                interface: (&observation.host, name, *number, *layer),
                direction: *direction,
                at: observation.at.saturating_add(shift),
            })
        }
        Place::Worker { .. } => None,
    };
    let mut frames: Vec<Frame<'_>> = trace.observations.iter().enumerate().filter_map(frame).collect();
    frames.sort_by_key(|frame| (frame.at, numbers.get(&frame.index).copied(), frame.index));
    frames
}

/// What is said about each frame. Frames are numbered from 1, as Wireshark does.
fn comments(journey: &Journey, frames: &[Frame<'_>]) -> Vec<Vec<String>> {
    let number: BTreeMap<usize, usize> = frames.iter().zip(1..).map(|(frame, number)| (frame.index, number)).collect();
    let mut comments: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for probe in &journey.probes {
        for leg in &probe.legs {
            for (at, hop) in leg.hops.iter().enumerate() {
                let (before, after) = leg.hops.split_at(at);
                let after = after.get(1..).unwrap_or_default();
                let (last, next) = (other(before.iter().rev(), hop, &number), other(after.iter(), hop, &number));
                let links = links(hop, last, next);
                let way = if leg.way == Way::There { "there" } else { "back" };
                let place = format!("{}, {}", words::place(&hop.place), words::sort(&hop.place));
                for index in &hop.observations {
                    let mut comment = format!(
                        "adit trace: probe {}, on its way {way}, hop {} on {}: {place}",
                        probe.number,
                        hop.number,
                        journey.host(hop)
                    );
                    for link in &links {
                        comment += "; ";
                        comment += link;
                    }
                    comments.entry(*index).or_default().push(comment);
                }
            }
        }
    }
    let strange = |frame: &Frame<'_>| {
        let what = if frame.observation.probe == UNKNOWN_PROBE { "adit trace: of no probe" } else { "adit trace" };
        vec![what.to_owned()]
    };
    frames
        .iter()
        .map(|frame| {
            let mut said = comments.remove(&frame.index).unwrap_or_else(|| strange(frame));
            said.extend(state(frame.observation));
            said
        })
        .collect()
}

/// The frame of the nearest of `hops` that is on the other side of the seal than `hop`.
fn other<'h>(hops: impl Iterator<Item = &'h Hop>, hop: &Hop, number: &BTreeMap<usize, usize>) -> Option<usize> {
    let device =
        |other: &&Hop| matches!(other.place, Place::Device { .. }) && other.outer.is_some() != hop.outer.is_some();
    hops.into_iter()
        .filter(device)
        .find_map(|other| other.observations.iter().find_map(|index| number.get(index)).copied())
}

/// How a frame is linked with those on the other side of the seal.
fn links(hop: &Hop, last: Option<usize>, next: Option<usize>) -> Vec<String> {
    match hop.outer {
        Some(outer) => {
            let mut links = vec![format!("sealed for receiver {:#010x}, counter {}", outer.receiver, outer.counter)];
            links.extend(last.map(|frame| format!("carries the packet of frame {frame}")));
            links.extend(next.map(|frame| format!("which comes out as frame {frame}")));
            links
        }
        None => {
            let came = last.map(|frame| format!("came in frame {frame}"));
            came.into_iter().chain(next.map(|frame| format!("goes on in frame {frame}"))).collect()
        }
    }
}

/// What the bytes do not tell.
fn state(observation: &Observation) -> Vec<String> {
    let mut said = Vec::new();
    if observation.segments > 1 {
        let what = if observation.outer.is_some() { "a train" } else { "a super-packet" };
        let (segments, each) = (observation.segments, observation.segment_size);
        said.push(format!("{what}: stands for {segments} with {each} bytes of payload each"));
    }
    if observation.checksum == Checksum::Partial {
        said.push("its checksum is left to the device (offload), so it is not wrong here".to_owned());
    }
    said
}

fn section(journey: &Journey) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(BYTE_ORDER.to_le_bytes());
    body.extend(1u16.to_le_bytes());
    body.extend(0u16.to_le_bytes());
    // The length of the section is not told.
    body.extend((-1i64).to_le_bytes());
    let told = format!(
        "From {} to {}, {}. Packets are cut after their headers. Times of all hosts are by one clock; see the interfaces.",
        journey.from,
        journey.destination,
        journey.protocol_name()
    );
    option(&mut body, COMMENT, told.as_bytes());
    option(&mut body, APPLICATION, concat!("adit ", env!("CARGO_PKG_VERSION")).as_bytes());
    end_of_options(&mut body);
    let mut file = Vec::new();
    block(&mut file, SECTION, &body);
    file
}

fn described(journey: &Journey, (host, device, index, layer): &Interface<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(if *layer == Layer::Frames { ETHERNET } else { RAW }.to_le_bytes());
    body.extend(0u16.to_le_bytes());
    // No limit is told, as each packet tells its length.
    body.extend(0u32.to_le_bytes());
    option(&mut body, NAME, format!("{host}:{device}").as_bytes());
    option(&mut body, DESCRIPTION, format!("{device} on {host}, number {index}").as_bytes());
    let clock = journey.hosts.iter().find(|of| of.name == *host);
    if let Some(of) = clock {
        let doubt = of.clock.doubt().map_or_else(|| "not known".to_owned(), |doubt| format!("{doubt} ns"));
        let told = format!("{} ns were added to the times of {host}; their uncertainty is {doubt}", of.shift);
        option(&mut body, COMMENT, told.as_bytes());
    }
    option(&mut body, RESOLUTION, &[9]);
    end_of_options(&mut body);
    body
}

fn packet(frame: &Frame<'_>, interface: u32, comments: &[String]) -> Vec<u8> {
    let head = &frame.observation.head;
    let captured = u32::try_from(head.len()).unwrap_or(u32::MAX);
    let at = u64::try_from(frame.at).unwrap_or(0);
    let mut body = Vec::new();
    body.extend(interface.to_le_bytes());
    body.extend(((at >> 32) as u32).to_le_bytes());
    body.extend((at as u32).to_le_bytes());
    body.extend(captured.to_le_bytes());
    body.extend(frame.observation.size.max(captured).to_le_bytes());
    padded(&mut body, head);
    for comment in comments {
        option(&mut body, COMMENT, comment.as_bytes());
    }
    // Bits 0 and 1: 01 inbound, 10 outbound.
    let direction: u32 = if frame.direction == Direction::In { 1 } else { 2 };
    option(&mut body, FLAGS, &direction.to_le_bytes());
    end_of_options(&mut body);
    body
}

/// Writes a block. `body` is a whole number of words.
fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = u32::try_from(body.len().saturating_add(12)).unwrap_or(u32::MAX);
    file.extend(kind.to_le_bytes());
    file.extend(length.to_le_bytes());
    file.extend(body);
    file.extend(length.to_le_bytes());
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Text is cut long before this on its way in.
    let value = value.get(..value.len().min(usize::from(u16::MAX))).unwrap_or_default();
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded(body, value);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Writes bytes and fills up the last word.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len() + (4 - bytes.len() % 4) % 4, 0);
}

#[cfg(test)]
mod tests;
