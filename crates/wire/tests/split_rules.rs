//! What a segment differs in from its super-packet, and which super-packets are refused.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

mod support;

use support::{Segment, Stream, plain, split};
use wire::Malformed;
use wire::checksum::Sum;
use wire::ip::{IpHeader, IpPacket, protocol};
use wire::segment::{InPlace, SuperPacket};
use wire::tcp::{TcpSegment, flags};
use wire::vnet::{self, VnetHdr};

fn stream(v6: bool, tcp: bool) -> Stream {
    Stream { first: plain(v6, tcp, &[]), size: 100, full: 3, last: 7, push: tcp, fin: tcp }
}

fn parse(vnet: VnetHdr, bytes: &[u8]) -> Result<SuperPacket<'_>, Malformed> {
    SuperPacket::parse(vnet, IpPacket::parse(bytes).unwrap())
}

#[test]
fn flags_sequence_and_id_run_through_a_tcp_super_packet() {
    let mut stream = stream(false, true);
    stream.first.window_reduced = true;
    stream.first.congestion_echo = true;
    let (vnet, bytes) = stream.super_packet();
    let segments = split(VnetHdr { gso_type: vnet.gso_type | vnet::GSO_ECN, ..vnet }, &bytes);
    let fields: Vec<_> = segments
        .iter()
        .map(|bytes| {
            let ip = IpPacket::parse(bytes).unwrap();
            let tcp = TcpSegment::parse(ip.payload()).unwrap();
            (ip.v4_id(), tcp.sequence(), tcp.flags(), tcp.payload().len())
        })
        .collect();
    let always = flags::ACK | flags::ECE;
    let expected = [
        (0xfffe, 0xffff_fff0, always | flags::CWR, 100),
        (0xffff, 0x54, always, 100),
        (0, 0xb8, always, 100),
        (1, 0x11c, always | flags::PSH | flags::FIN, 7),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_partial_segment_differs_in_its_checksum_only() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let (vnet, bytes) = stream(v6, tcp).super_packet();
        let whole = parse(vnet, &bytes).unwrap();
        assert!(whole.has_partial());
        let mut out = vec![0; whole.segment_len()];
        for (index, complete) in split(vnet, &bytes).into_iter().enumerate() {
            let length = whole.emit_partial(index, &mut out);
            let packet = IpPacket::parse(&out[..length]).unwrap();
            let at = packet.header_len() + if tcp { 16 } else { 6 };
            let pseudo = packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16);
            assert_eq!(out[at..at + 2], pseudo.fold().to_be_bytes());
            assert_eq!((&out[..at], &out[at + 2..length]), (&complete[..at], &complete[at + 2..]));
        }
    }
}

#[test]
fn a_partial_checksum_without_offload_is_completed() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let stream = Stream { full: 1, last: 0, ..stream(v6, tcp) };
        let (vnet, bytes) = stream.super_packet();
        let single = VnetHdr { gso_type: vnet::GSO_NONE, gso_size: 0, ..vnet };
        assert_eq!(split(single, &bytes), [stream.segments()[0].bytes()]);
        let whole = parse(single, &bytes).unwrap();
        assert!(whole.has_partial());
        let mut out = vec![0; bytes.len()];
        assert_eq!(whole.emit_partial(0, &mut out), bytes.len());
        assert_eq!(out, bytes);
        // A receiver would write another sum.
        let mut other = bytes.clone();
        other[usize::from(vnet.csum_start + vnet.csum_offset)] ^= 1;
        assert!(!parse(single, &other).unwrap().has_partial());
        // A receiver could not tell where a fragment's checksum ends.
        if !v6 {
            let mut fragment = bytes.clone();
            fragment[6] |= 0x20;
            assert!(!parse(single, &fragment).unwrap().has_partial());
        }
    }
}

#[test]
fn any_field_behind_the_ip_header_may_be_completed() {
    // ICMP, whose checksum has no pseudo-header; at an odd place, as no kernel would ask.
    let ip = IpHeader::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol::ICMP);
    let mut bytes = vec![0; 20];
    ip.emit(11, &mut bytes).unwrap();
    bytes.extend([8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
    for (start, offset) in [(20, 2), (21, 1), (20, 9), (29, 0)] {
        let vnet = VnetHdr { flags: vnet::NEEDS_CSUM, csum_start: start, csum_offset: offset, ..VnetHdr::NONE };
        let whole = parse(vnet, &bytes).unwrap();
        assert!(!whole.has_partial());
        let mut expected = bytes.clone();
        let at = usize::from(start + offset);
        let checksum = Sum::default().add(&bytes[usize::from(start)..]).finish();
        expected[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut out = vec![0; bytes.len()];
        assert_eq!(whole.emit(0, &mut out), bytes.len());
        assert_eq!(out, expected);
        out.fill(0);
        assert_eq!(whole.emit_partial(0, &mut out), bytes.len());
        assert_eq!(out, expected);
    }
    for (start, offset) in [(0, 10), (19, 0), (20, 10), (31, 0), (u16::MAX, u16::MAX), (30, u16::MAX)] {
        let vnet = VnetHdr { flags: vnet::NEEDS_CSUM, csum_start: start, csum_offset: offset, ..VnetHdr::NONE };
        assert_eq!(parse(vnet, &bytes).unwrap_err(), Malformed::ChecksumOffsets, "{start} {offset}");
    }
}

#[test]
fn a_packet_that_needs_nothing_is_copied() {
    let bytes = plain(false, false, b"data").bytes();
    for flags in [0, vnet::DATA_VALID] {
        let vnet = VnetHdr { flags, hdr_len: 999, csum_start: 999, ..VnetHdr::NONE };
        assert!(!parse(vnet, &bytes).unwrap().has_partial());
        assert_eq!(split(vnet, &bytes), std::slice::from_ref(&bytes));
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    // The last two bytes are chosen so that the sum comes out as all ones.
    let mut datagram = plain(false, false, &[0, 0]);
    let bytes = datagram.bytes();
    datagram.payload = bytes[26..28].to_vec();
    let stream = Stream { size: 2, full: 1, last: 0, ..stream(false, false) };
    let (vnet, mut bytes) = stream.super_packet();
    let end = bytes.len() - 2;
    bytes[end..].copy_from_slice(&datagram.payload);
    assert_eq!(split(vnet, &bytes)[0][26..28], [0xff, 0xff]);
    let single = VnetHdr { gso_type: vnet::GSO_NONE, ..vnet };
    assert_eq!(split(single, &bytes)[0][26..28], [0xff, 0xff]);
}

#[test]
fn options_and_extension_headers_are_in_every_segment() {
    // IPv4 with a router alert, IPv6 with a hop-by-hop header.
    for v6 in [false, true] {
        let (vnet, bytes) = stream(v6, true).super_packet();
        let (ip_len, extra) = if v6 { (40, &[6, 0, 5, 2, 0, 0, 1, 0][..]) } else { (20, &[148, 4, 0, 0][..]) };
        let mut longer = [&bytes[..ip_len], extra, &bytes[ip_len..]].concat();
        let length = longer.len() as u16;
        if v6 {
            longer[4..6].copy_from_slice(&(length - 40).to_be_bytes());
            longer[6] = protocol::HOP_BY_HOP;
        } else {
            longer[0] = 0x46;
            longer[2..4].copy_from_slice(&length.to_be_bytes());
        }
        let vnet = VnetHdr { csum_start: vnet.csum_start + extra.len() as u16, ..vnet };
        let segments = split(vnet, &longer);
        assert_eq!(segments.len(), 4);
        for segment in segments {
            let packet = IpPacket::parse(&segment).unwrap();
            assert_eq!(packet.headers()[ip_len..], *extra);
            let sum = packet.pseudo_header(protocol::TCP).add_u16(packet.payload().len() as u16);
            assert!(packet.header_checksum_ok() && sum.add(packet.payload()).is_valid());
        }
    }
}

#[test]
fn the_kernels_header_length_is_not_believed() {
    let (vnet, bytes) = stream(false, true).super_packet();
    for hdr_len in [0, 1, 20, u16::MAX] {
        assert_eq!(split(VnetHdr { hdr_len, ..vnet }, &bytes), split(vnet, &bytes));
    }
    let no_checksum = VnetHdr { flags: 0, csum_start: 0, csum_offset: 0, ..vnet };
    assert_eq!(split(no_checksum, &bytes), split(vnet, &bytes));
}

#[test]
fn a_short_buffer_is_left_alone() {
    let (vnet, bytes) = stream(false, true).super_packet();
    let whole = parse(vnet, &bytes).unwrap();
    let mut out = vec![0xee; whole.segment_len() - 1];
    assert_eq!((whole.emit(0, &mut out), whole.emit_partial(1, &mut out)), (0, 0));
    assert!(out.iter().all(|byte| *byte == 0xee));
    assert!(whole.emit(3, &mut out) > 0);
    assert_eq!((whole.emit(4, &mut out), whole.len_of(4)), (0, 0));
    assert_eq!((whole.emit(usize::MAX, &mut out), whole.len_of(usize::MAX)), (0, 0));
}

#[test]
fn an_offload_must_fit_its_packet() {
    let refused = |v6, tcp, gso_type| {
        let (vnet, bytes) = stream(v6, tcp).super_packet();
        parse(VnetHdr { gso_type, ..vnet }, &bytes).unwrap_err()
    };
    for (v6, tcp, fitting) in [
        (false, true, vnet::GSO_TCPV4),
        (true, true, vnet::GSO_TCPV6),
        (false, false, vnet::GSO_UDP_L4),
        (true, false, vnet::GSO_UDP_L4),
    ] {
        for gso_type in 1..=255u8 {
            let with_ecn = tcp && gso_type == fitting | vnet::GSO_ECN;
            if gso_type != fitting && !with_ecn {
                assert_eq!(refused(v6, tcp, gso_type), Malformed::OffloadType, "{gso_type:#x}");
            }
        }
    }
}

#[test]
fn contradictions_are_refused() {
    let (vnet, bytes) = stream(false, true).super_packet();
    assert_eq!(parse(VnetHdr { gso_size: 0, ..vnet }, &bytes).unwrap_err(), Malformed::SegmentSize);
    for wrong in [VnetHdr { csum_start: 24, ..vnet }, VnetHdr { csum_offset: 6, ..vnet }] {
        assert_eq!(parse(wrong, &bytes).unwrap_err(), Malformed::ChecksumOffsets);
    }
    let mut fragment = bytes.clone();
    fragment[6] |= 0x20;
    assert_eq!(parse(vnet, &fragment).unwrap_err(), Malformed::OffloadType);
    let mut header = bytes.clone();
    header[32] = 0x4f;
    assert_eq!(parse(vnet, &header).unwrap_err(), Malformed::HeaderLength);
    let short = Segment { payload: vec![], options: vec![], ..plain(false, true, &[]) }.bytes();
    let mut short = short[..39].to_vec();
    short[3] = 39;
    assert_eq!(parse(vnet, &short).unwrap_err(), Malformed::Truncated);

    let (vnet, mut bytes) = stream(true, false).super_packet();
    bytes[45] -= 1;
    assert_eq!(parse(vnet, &bytes).unwrap_err(), Malformed::TotalLength);
}

#[test]
fn the_longest_packets_split() {
    // IPv6 counts its payload only: 40 bytes more than IPv4 can be.
    for (v6, longest) in [(false, 65_535), (true, 65_575)] {
        for tcp in [false, true] {
            let mut stream = Stream { size: longest, full: 1, last: 0, ..stream(v6, tcp) };
            stream.size -= stream.header_len();
            let (vnet, bytes) = stream.super_packet();
            assert_eq!(bytes.len(), longest);
            assert!(split(vnet, &bytes) == [stream.segments()[0].bytes()]);
            let halves = split(VnetHdr { gso_size: 40_000, ..vnet }, &bytes);
            assert_eq!(halves.iter().map(Vec::len).sum::<usize>(), longest + stream.header_len());
        }
    }
}

#[test]
fn one_byte_segments_and_no_payload() {
    let (vnet, bytes) = stream(false, false).super_packet();
    let whole = VnetHdr { gso_size: 1, ..vnet };
    assert_eq!(split(whole, &bytes).len(), 307);
    let (vnet, bytes) = Stream { full: 0, last: 0, ..stream(false, true) }.super_packet();
    assert_eq!(split(vnet, &bytes).len(), 1);
}

/// Splits in place and by copy, with checksums complete and partial, and compares.
fn same_in_place(vnet: VnetHdr, bytes: &[u8]) -> usize {
    let whole = parse(vnet, bytes).unwrap();
    let mut out = vec![0; whole.segment_len()];
    for complete in [false, true] {
        let mut buffer = [bytes, &[0xee; 9]].concat();
        let mut split = InPlace::parse(vnet, &mut buffer).unwrap().unwrap();
        for index in 0..whole.count() {
            let length = if complete { whole.emit(index, &mut out) } else { whole.emit_partial(index, &mut out) };
            let segment = if complete { split.next_complete() } else { split.next_partial() };
            assert!(*segment.unwrap() == out[..length], "{index} {complete}");
        }
        assert!(split.next_complete().is_none() && split.next_partial().is_none());
        assert!(buffer.ends_with(&[0xee; 9]));
    }
    whole.count()
}

#[test]
fn segments_are_the_same_made_in_place() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let (vnet, bytes) = stream(v6, tcp).super_packet();
        assert_eq!(same_in_place(vnet, &bytes), 4);
        // Segments shorter than their headers.
        assert_eq!(same_in_place(VnetHdr { gso_size: 1, ..vnet }, &bytes), 307);
        assert_eq!(same_in_place(VnetHdr { gso_size: u16::MAX, ..vnet }, &bytes), 1);
        assert_eq!(same_in_place(VnetHdr { gso_type: vnet::GSO_NONE, ..vnet }, &bytes), 1);
        assert_eq!(same_in_place(VnetHdr::NONE, &bytes), 1);
        let at = if v6 { 40 } else { 20 };
        for (start, offset) in [(at, 0), (at + 3, 2), (at + 200, 7)] {
            let odd = VnetHdr { flags: vnet::NEEDS_CSUM, csum_start: start, csum_offset: offset, ..VnetHdr::NONE };
            assert_eq!(same_in_place(odd, &bytes), 1);
        }
    }
}

#[test]
fn headers_too_long_to_be_kept_are_not_split_in_place() {
    let (vnet, bytes) = stream(true, true).super_packet();
    let with = |units: u8| {
        let mut extra = vec![0; (usize::from(units) + 1) * 8];
        (extra[0], extra[1]) = (protocol::TCP, units);
        let mut longer = [&bytes[..40], &extra, &bytes[40..]].concat();
        let length = (longer.len() - 40) as u16;
        longer[4..6].copy_from_slice(&length.to_be_bytes());
        longer[6] = protocol::DESTINATION_OPTIONS;
        (VnetHdr { csum_start: 40 + extra.len() as u16, ..vnet }, longer)
    };
    // 40 + 32 of IPv6 and TCP with timestamps leave 184 bytes.
    let (vnet, mut bytes) = with(22);
    assert_eq!(same_in_place(vnet, &bytes), 4);
    let layout = parse(vnet, &bytes).unwrap().layout();
    let end = bytes.len() - 1;
    assert!(layout.in_place(&mut bytes[..end]).is_none());
    let (vnet, mut bytes) = with(23);
    assert!(InPlace::parse(vnet, &mut bytes).unwrap().is_none());
    assert_eq!(same_in_place(VnetHdr { gso_size: 400, ..vnet }, &bytes), 1);
    assert_eq!(InPlace::parse(vnet, &mut bytes[..30]).unwrap_err(), Malformed::Truncated);
}
