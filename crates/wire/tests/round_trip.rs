//! Splitting and joining are each other's inverse, whatever happens to the packets in between.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

mod support;

use std::collections::HashMap;

use proptest::prelude::*;
use support::{Segment, Stream, split, stream, with_one_zero, without_checksum};
use wire::coalesce::{Coalescer, Joins, MAX_UDP_SEGMENTS};
use wire::ip::IpPacket;
use wire::run::Continuity;
use wire::segment::{InPlace, SuperPacket};
use wire::vnet::VnetHdr;

type Written = Vec<(VnetHdr, Vec<u8>)>;

/// What a coalescer writes to the device for these packets.
fn join(joins: Joins, packets: &[Vec<u8>]) -> Written {
    let mut written = Written::new();
    let mut out = |vnet: &VnetHdr, bytes: &[u8]| written.push((*vnet, bytes.to_vec()));
    let mut coalescer = Coalescer::new(joins);
    for packet in packets {
        coalescer.push(&IpPacket::parse(packet).unwrap(), &mut out);
    }
    coalescer.flush(&mut out);
    assert!(coalescer.is_empty());
    written
}

/// How a packet is pushed: `None` for a complete one, else whether it is said to continue the one before, and what its checksum field
/// holds.
type Pushed = Option<(bool, u16)>;

/// As [`join`], for packets of both kinds.
fn join_mixed(joins: Joins, packets: &[Vec<u8>], how: impl Fn(usize) -> Pushed) -> Written {
    let mut written = Written::new();
    let mut out = |vnet: &VnetHdr, bytes: &[u8]| written.push((*vnet, bytes.to_vec()));
    let mut coalescer = Coalescer::new(joins);
    for (index, packet) in packets.iter().enumerate() {
        match how(index) {
            None => coalescer.push(&IpPacket::parse(packet).unwrap(), &mut out),
            Some((continues, garbage)) => {
                let packet = without_checksum(packet, garbage);
                coalescer.push_partial(&IpPacket::parse(&packet).unwrap(), continues, &mut out).unwrap();
            }
        }
    }
    coalescer.flush(&mut out);
    assert!(coalescer.is_empty());
    written
}

fn one_zero(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    packets.iter().cloned().map(with_one_zero).collect()
}

fn split_all(written: &Written) -> Vec<Vec<u8>> {
    written.iter().flat_map(|(vnet, bytes)| split(*vnet, bytes)).collect()
}

fn bytes_of(segments: &[Segment]) -> Vec<Vec<u8>> {
    segments.iter().map(Segment::bytes).collect()
}

/// A change to one packet that keeps it valid, but may make it no longer the next of its run.
#[derive(Clone, Copy, Debug)]
enum Twist {
    None,
    Class,
    Ttl,
    Id,
    DontFragment,
    Label,
    Sequence,
    Acknowledgement,
    Window,
    Urgent,
    Reserved,
    Push,
    Fin,
    Syn,
    CongestionEcho,
    WindowReduced,
    Options,
    Shorter,
    Longer,
    Empty,
}

fn twist() -> impl Strategy<Value = Twist> {
    use Twist::*;
    let odd = prop::sample::select(vec![
        Class,
        Ttl,
        Id,
        DontFragment,
        Label,
        Sequence,
        Acknowledgement,
        Window,
        Urgent,
        Reserved,
        Push,
        Fin,
        Syn,
        CongestionEcho,
        WindowReduced,
        Options,
        Shorter,
        Longer,
        Empty,
    ]);
    prop_oneof![8 => Just(None), 1 => odd]
}

fn apply(twist: Twist, segment: &mut Segment) {
    match twist {
        Twist::None => {}
        Twist::Class => segment.class ^= 1,
        Twist::Ttl => segment.ttl ^= 1,
        Twist::Id => segment.id ^= 1,
        Twist::DontFragment => segment.dont_fragment ^= true,
        Twist::Label => segment.label ^= 1,
        Twist::Sequence => segment.sequence ^= 1,
        Twist::Acknowledgement => segment.acknowledgement ^= 1,
        Twist::Window => segment.window ^= 1,
        Twist::Urgent => segment.urgent ^= 1,
        Twist::Reserved => segment.reserved ^= true,
        Twist::Push => segment.push = true,
        Twist::Fin => segment.fin = true,
        Twist::Syn => segment.syn = true,
        Twist::CongestionEcho => segment.congestion_echo ^= true,
        Twist::WindowReduced => segment.window_reduced = true,
        Twist::Options => segment.options = vec![1; (segment.options.len() + 4) % 44],
        Twist::Shorter => segment.payload.truncate(segment.payload.len() / 2),
        Twist::Longer => segment.payload.push(0xaa),
        Twist::Empty => segment.payload.clear(),
    }
}

/// Streams whose packets arrive interleaved, each stream's own in order.
fn interleave(streams: &[Vec<Segment>], picks: &[prop::sample::Index]) -> Vec<Segment> {
    let mut queues: Vec<_> = streams.iter().map(|segments| segments.iter()).collect();
    let mut mixed = Vec::new();
    for turn in 0.. {
        queues.retain(|queue| queue.len() > 0);
        if queues.is_empty() {
            break;
        }
        let pick = picks[turn % picks.len()].index(queues.len());
        mixed.extend(queues[pick].next().cloned());
    }
    mixed
}

/// Packets by flow, in order of arrival.
fn by_flow(packets: &[Vec<u8>]) -> HashMap<Vec<u8>, Vec<&[u8]>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        let ip = IpPacket::parse(packet).unwrap();
        let mut key = ip.addresses().to_vec();
        key.push(ip.protocol());
        key.extend(&ip.payload()[..4]);
        flows.entry(key).or_default().push(&packet[..]);
    }
    flows
}

proptest! {
    #[test]
    fn a_stream_becomes_one_super_packet_and_the_same_stream_again(stream in stream()) {
        let packets = bytes_of(&stream.segments());
        let written = join(Joins::ALL, &packets);
        let (vnet, bytes) = stream.super_packet();
        prop_assert_eq!(written.len(), 1);
        prop_assert_eq!(written[0].0, vnet);
        prop_assert!(written[0].1 == bytes);
        prop_assert!(split_all(&written) == packets);
    }

    #[test]
    fn a_super_packet_becomes_the_senders_segments(mut stream in stream(), reduced in any::<bool>()) {
        stream.first.window_reduced = stream.first.tcp && reduced;
        let (vnet, bytes) = stream.super_packet();
        prop_assert!(split(vnet, &bytes) == bytes_of(&stream.segments()));
    }

    #[test]
    fn segments_made_in_place_are_those_made_by_copy(
        stream in stream(),
        size in prop_oneof![1..100u16, any::<u16>()],
        (flags, gso, start, offset) in (0..4u8, 0..3u8, 0..200u16, prop::sample::select(vec![0u16, 1, 6, 16])),
        alone in any::<bool>(),
    ) {
        let (vnet, bytes) = stream.super_packet();
        let vnet = match gso {
            0 => VnetHdr { gso_size: size.max(1), ..vnet },
            1 => VnetHdr { flags, gso_type: 0, ..vnet },
            _ => VnetHdr { flags, gso_type: 0, csum_start: start, csum_offset: offset, ..vnet },
        };
        let Ok(whole) = SuperPacket::parse(vnet, IpPacket::parse(&bytes).unwrap()) else { return Ok(()) };
        let mut out = vec![0; whole.segment_len()];
        let mut buffer = bytes.clone();
        let mut split = InPlace::parse(vnet, &mut buffer).unwrap().unwrap();
        for index in 0..whole.count() {
            // Either kind at any time.
            let partial = alone || index % 3 == 0;
            let length = if partial { whole.emit_partial(index, &mut out) } else { whole.emit(index, &mut out) };
            let segment = if partial { split.next_partial() } else { split.next_complete() };
            prop_assert!(*segment.unwrap() == out[..length]);
        }
        prop_assert!(split.next_partial().is_none());
    }

    #[test]
    fn any_stream_keeps_its_bytes_and_order(
        stream in stream(),
        twists in prop::collection::vec(twist(), 1..40),
        joins in any::<[bool; 4]>(),
    ) {
        let mut segments = stream.segments();
        for (segment, twist) in segments.iter_mut().zip(twists.iter().cycle()) {
            apply(*twist, segment);
        }
        let packets = bytes_of(&segments);
        let [tcp4, tcp6, udp4, udp6] = joins;
        let written = join(Joins { tcp4, tcp6, udp4, udp6, partial: true }, &packets);
        prop_assert!(split_all(&written) == packets);
    }

    #[test]
    fn interleaved_flows_keep_their_order(
        streams in prop::collection::vec((stream(), prop::collection::vec(twist(), 1..40)), 1..14),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
    ) {
        let streams: Vec<_> = streams
            .into_iter()
            .map(|(stream, twists)| {
                let mut segments = Stream { full: stream.full.min(20), ..stream }.segments();
                segments.iter_mut().zip(twists.into_iter().cycle()).for_each(|(segment, twist)| apply(twist, segment));
                segments
            })
            .collect();
        let packets = bytes_of(&interleave(&streams, &picks));
        let again = split_all(&join(Joins::ALL, &packets));
        prop_assert_eq!(again.len(), packets.len());
        prop_assert!(by_flow(&again) == by_flow(&packets));
    }

    #[test]
    fn a_corrupt_segment_leaves_alone_and_unchanged(
        stream in stream(),
        victim in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut packets = bytes_of(&stream.segments());
        let victim = victim.index(packets.len());
        let ip_len = if stream.first.v6 { 40 } else { 20 };
        // Not the ports, which would make it another flow's.
        let at = ip_len + 4 + at.index(packets[victim].len() - ip_len - 4);
        packets[victim][at] ^= 1u8 << bit;
        let written = join(Joins::ALL, &packets);
        prop_assert!(written.contains(&(VnetHdr::NONE, packets[victim].clone())));
        prop_assert!(written.len() <= 3);
        prop_assert!(split_all(&written) == packets);
    }

    #[test]
    fn runs_longer_than_a_super_packet_leave_in_full_ones(stream in stream(), times in 2..4usize) {
        let long = Stream { full: stream.full * times, last: 0, push: false, fin: false, ..stream };
        let packets = bytes_of(&long.segments());
        let written = join(Joins::ALL, &packets);
        let by_bytes = (65_535 - long.header_len()) / long.size;
        let most = if long.first.tcp { by_bytes } else { by_bytes.min(MAX_UDP_SEGMENTS) };
        prop_assert_eq!(written.len(), long.full.div_ceil(most));
        prop_assert!(split_all(&written) == packets);
    }
    #[test]
    fn a_partial_stream_becomes_the_same_super_packet(stream in stream(), garbage in any::<u16>()) {
        let packets = bytes_of(&stream.segments());
        let written = join_mixed(Joins::ALL, &packets, |index| Some((index > 0, garbage)));
        prop_assert_eq!(written.len(), 1);
        let (vnet, bytes) = stream.super_packet();
        prop_assert_eq!(written[0].0, vnet);
        prop_assert!(written[0].1 == bytes);
    }

    #[test]
    fn a_partial_stream_keeps_its_bytes_and_order(
        stream in stream(),
        twists in prop::collection::vec(twist(), 1..40),
        pushed in prop::collection::vec(prop::option::weighted(0.9, (prop::bool::weighted(0.9), any::<u16>())), 1..40),
        joins in any::<[bool; 5]>(),
    ) {
        let mut segments = stream.segments();
        for (segment, twist) in segments.iter_mut().zip(twists.iter().cycle()) {
            apply(*twist, segment);
        }
        let packets = bytes_of(&segments);
        let [tcp4, tcp6, udp4, udp6, partial] = joins;
        let joins = Joins { tcp4, tcp6, udp4, udp6, partial };
        let written = join_mixed(joins, &packets, |index| pushed[index % pushed.len()]);
        prop_assert!(one_zero(&split_all(&written)) == one_zero(&packets));
        for (vnet, _) in &written {
            prop_assert!(partial || !vnet.needs_csum() || vnet.gso_type != 0);
        }
    }

    #[test]
    fn interleaved_partial_flows_keep_their_order(
        streams in prop::collection::vec((stream(), prop::collection::vec(twist(), 1..40)), 1..14),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
        pushed in prop::collection::vec(prop::option::weighted(0.7, any::<(bool, u16)>()), 1..40),
    ) {
        let streams: Vec<_> = streams
            .into_iter()
            .map(|(stream, twists)| {
                let mut segments = Stream { full: stream.full.min(20), ..stream }.segments();
                segments.iter_mut().zip(twists.into_iter().cycle()).for_each(|(segment, twist)| apply(twist, segment));
                segments
            })
            .collect();
        let packets = bytes_of(&interleave(&streams, &picks));
        let again = one_zero(&split_all(&join_mixed(Joins::ALL, &packets, |index| pushed[index % pushed.len()])));
        prop_assert_eq!(again.len(), packets.len());
        prop_assert!(by_flow(&again) == by_flow(&one_zero(&packets)));
    }

    #[test]
    fn what_a_sender_says_to_continue_is_joined_and_nothing_else_could_be(
        stream in stream(),
        twists in prop::collection::vec(twist(), 1..40),
        more in 1..3usize,
        meaningless in any::<bool>(),
    ) {
        let mut first = stream.first;
        first.tcp = false;
        let mut segments = Stream { first, full: stream.full * more, push: false, fin: false, ..stream }.segments();
        for (segment, twist) in segments.iter_mut().zip(twists.iter().cycle()) {
            if meaningless {
                (segment.id, segment.dont_fragment) = (0, true);
            }
            apply(*twist, segment);
        }
        let packets = bytes_of(&segments);
        let mut continuity = Continuity::default();
        let told: Vec<_> = packets.iter().map(|packet| continuity.continues(&[], &IpPacket::parse(packet).unwrap())).collect();
        let told_to = join_mixed(Joins::ALL, &packets, |index| Some((told[index], 0)));
        prop_assert_eq!(told_to.len(), told.iter().filter(|told| !**told).count());
        let always = join_mixed(Joins::ALL, &packets, |_| Some((true, 0)));
        prop_assert!(told_to == always);
    }
}
