//! Frames are split and joined as the packets in them are, and come out with the link headers that they had.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

mod support;

use proptest::prelude::*;
use support::{Segment, Stream, stream, with_one_zero, without_checksum};
use wire::coalesce::{Coalescer, Joins};
use wire::frame::Frame;
use wire::ip::IpPacket;
use wire::segment::SuperPacket;
use wire::vnet::VnetHdr;

type Written = Vec<(VnetHdr, Vec<u8>)>;

/// Link headers up to the ethertype: addresses, and up to two VLAN tags.
fn link() -> impl Strategy<Value = Vec<u8>> {
    let tag = (prop::sample::select(vec![0x8100u16, 0x88a8]), any::<u16>());
    (any::<[u8; 12]>(), prop::collection::vec(tag, 0..3)).prop_map(|(addresses, tags)| {
        let mut link = addresses.to_vec();
        for (kind, id) in tags {
            link.extend_from_slice(&kind.to_be_bytes());
            link.extend_from_slice(&id.to_be_bytes());
        }
        link
    })
}

/// A packet behind a link header, and so many bytes of padding behind it.
fn framed(link: &[u8], packet: &[u8], padding: usize) -> Vec<u8> {
    let kind: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    [link, &kind.to_be_bytes(), packet, &vec![0; padding]].concat()
}

fn join_frames(joins: Joins, frames: &[Vec<u8>]) -> Written {
    let mut written = Written::new();
    let mut out = |vnet: &VnetHdr, bytes: &[u8]| written.push((*vnet, bytes.to_vec()));
    let mut coalescer = Coalescer::new(joins);
    for frame in frames {
        coalescer.push_frame(&Frame::parse(frame).unwrap(), &mut out);
    }
    coalescer.flush(&mut out);
    assert!(coalescer.is_empty());
    written
}

fn join_packets(joins: Joins, packets: &[Vec<u8>]) -> Written {
    let mut written = Written::new();
    let mut out = |vnet: &VnetHdr, bytes: &[u8]| written.push((*vnet, bytes.to_vec()));
    let mut coalescer = Coalescer::new(joins);
    for packet in packets {
        coalescer.push(&IpPacket::parse(packet).unwrap(), &mut out);
    }
    coalescer.flush(&mut out);
    written
}

/// The frames that a device makes of what was written to it.
fn split(written: &Written) -> Vec<Vec<u8>> {
    let one = |(vnet, bytes): &(VnetHdr, Vec<u8>)| {
        let whole = SuperPacket::parse_frame(*vnet, &Frame::parse(bytes).unwrap()).unwrap();
        let emit = |index| {
            let mut segment = vec![0; whole.segment_len()];
            let length = whole.emit(index, &mut segment);
            assert_eq!(length, whole.len_of(index));
            segment.truncate(length);
            segment
        };
        (0..whole.count()).map(emit).collect::<Vec<_>>()
    };
    written.iter().flat_map(one).collect()
}

fn bytes_of(stream: &Stream) -> Vec<Vec<u8>> {
    stream.segments().iter().map(Segment::bytes).collect()
}

proptest! {
    #[test]
    fn frames_are_joined_as_the_packets_in_them(link in link(), streams in prop::collection::vec(stream(), 1..5), joins in any::<[bool; 4]>()) {
        let [tcp4, tcp6, udp4, udp6] = joins;
        let joins = Joins { tcp4, tcp6, udp4, udp6, partial: true };
        let packets: Vec<_> = streams.iter().flat_map(bytes_of).collect();
        let frames: Vec<_> = packets.iter().map(|packet| framed(&link, packet, 0)).collect();
        let expected: Written = join_packets(joins, &packets)
            .into_iter()
            .map(|(vnet, packet)| {
                (vnet.behind(link.len() + 2), framed(&link, &packet, 0))
            })
            .collect();
        let written = join_frames(joins, &frames);
        prop_assert_eq!(&written, &expected);
        // Flows may pass each other.
        let [mut got, mut frames] = [split(&written), frames];
        got.sort();
        frames.sort();
        prop_assert!(got == frames);
    }

    #[test]
    fn what_differs_in_its_link_header_is_never_joined(
        links in prop::collection::vec(link(), 2..4),
        stream in stream(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        // One flow, whose packets say that they are of several links by turns, as a switch may see while a machine moves.
        let packets = bytes_of(&stream);
        let frames: Vec<_> =
            packets.iter().zip(picks.iter().cycle()).map(|(packet, pick)| framed(pick.get::<Vec<u8>>(&links), packet, 0)).collect();
        prop_assert!(split(&join_frames(Joins::ALL, &frames)) == frames);
    }

    #[test]
    fn padding_tags_and_other_protocols_come_out_as_they_are(
        link in link(),
        stream in stream(),
        (kinds, noise) in (prop::collection::vec(0..3u8, 1..20), prop::collection::vec(any::<u8>(), 0..80)),
    ) {
        let frames: Vec<_> = bytes_of(&stream)
            .iter()
            .zip(kinds.iter().cycle())
            .map(|(packet, kind)| match kind {
                0 => framed(&link, packet, 0),
                1 => framed(&link, packet, 7),
                _ => [&link[..], &[0x88, 0xb5], &noise].concat(),
            })
            .collect();
        let mut sorted = split(&join_frames(Joins::ALL, &frames));
        // Of one flow the order is kept; frames that are no packets belong to none.
        let of_flow = |frames: &[Vec<u8>]| frames.iter().filter(|frame| Frame::parse(frame).unwrap().packet().is_some()).cloned().collect::<Vec<_>>();
        prop_assert!(of_flow(&sorted) == of_flow(&frames));
        let mut frames = frames;
        frames.sort();
        sorted.sort();
        prop_assert!(sorted == frames);
    }

    #[test]
    fn frames_without_checksum_get_theirs(link in link(), stream in stream(), garbage in any::<u16>(), said in any::<bool>()) {
        let packets = bytes_of(&stream);
        let mut written = Written::new();
        let mut out = |vnet: &VnetHdr, bytes: &[u8]| written.push((*vnet, bytes.to_vec()));
        let mut coalescer = Coalescer::new(Joins::ALL);
        for (index, packet) in packets.iter().enumerate() {
            let frame = framed(&link, &without_checksum(packet, garbage), 0);
            coalescer.push_frame_partial(&Frame::parse(&frame).unwrap(), said && index > 0, &mut out).unwrap();
        }
        coalescer.flush(&mut out);
        let header = link.len() + 2;
        let got: Vec<_> = split(&written).into_iter().map(|frame| (frame[..header].to_vec(), with_one_zero(frame[header..].to_vec()))).collect();
        let expected: Vec<_> = packets.into_iter().map(|packet| (framed(&link, &packet, 0)[..header].to_vec(), with_one_zero(packet))).collect();
        prop_assert_eq!(got, expected);
        if said {
            prop_assert_eq!(written.len(), 1);
        }
    }

    #[test]
    fn a_frame_with_more_than_its_packet_is_not_taken_without_a_checksum(link in link(), stream in stream(), padding in 1..40usize) {
        let packet = &bytes_of(&stream)[0];
        let mut coalescer = Coalescer::new(Joins::ALL);
        for frame in [framed(&link, packet, padding), [&link[..], &[0x88, 0xb5], &packet[..]].concat()] {
            let taken = coalescer.push_frame_partial(&Frame::parse(&frame).unwrap(), false, &mut |_, _| {});
            prop_assert!(taken.is_err());
        }
        prop_assert!(coalescer.is_empty());
    }

    #[test]
    fn no_bytes_and_no_offload_metadata_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        link in link(),
        stream in stream(),
        (flags, gso_type, gso_size, hdr_len, csum_start, csum_offset) in any::<(u8, u8, u16, u16, u16, u16)>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let vnet = VnetHdr { flags, gso_type, gso_size, hdr_len, csum_start, csum_offset };
        let whole = framed(&link, &stream.super_packet().1, 0);
        for frame in [&bytes[..], &whole[..], &whole[..cut.index(whole.len())]] {
            let Ok(frame) = Frame::parse(frame) else { continue };
            if let Ok(whole) = SuperPacket::parse_frame(vnet, &frame) {
                let mut out = vec![0; whole.segment_len()];
                for index in 0..whole.count() {
                    whole.emit(index, &mut out);
                    whole.emit_partial(index, &mut out);
                }
            }
            let mut coalescer = Coalescer::new(Joins::ALL);
            let mut count = 0;
            coalescer.push_frame(&frame, &mut |_, _| count += 1);
            let _ = coalescer.push_frame_partial(&frame, true, &mut |_, _| count += 1);
            coalescer.flush(&mut |_, _| count += 1);
            prop_assert!(count >= 1);
        }
    }
}
