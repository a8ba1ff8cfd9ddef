//! Which packets are joined, which are not, and in which order they leave.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

mod support;

use support::{Segment, Stream, plain, without_checksum};
use wire::Malformed;
use wire::checksum::Sum;
use wire::coalesce::{Coalescer, Joins, MAX_UDP_SEGMENTS, SLOTS};
use wire::ip::{IpHeader, IpPacket, protocol};
use wire::run::Continuity;
use wire::vnet::{GSO_UDP_L4, NEEDS_CSUM, VnetHdr};

/// Number of packets in each write, and the writes.
struct Device {
    coalescer: Coalescer,
    written: Vec<(VnetHdr, Vec<u8>)>,
}

impl Device {
    fn new() -> Self {
        Self { coalescer: Coalescer::new(Joins::ALL), written: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
        let packet = IpPacket::parse(bytes).unwrap();
        self.coalescer.push(&packet, &mut |vnet, bytes| self.written.push((*vnet, bytes.to_vec())));
    }

    fn push_partial(&mut self, bytes: &[u8], continues: bool) {
        let bytes = without_checksum(bytes, 0xabcd);
        let packet = IpPacket::parse(&bytes).unwrap();
        let out = &mut |vnet: &VnetHdr, bytes: &[u8]| self.written.push((*vnet, bytes.to_vec()));
        self.coalescer.push_partial(&packet, continues, out).unwrap();
    }

    fn flush(&mut self) {
        self.coalescer.flush(&mut |vnet, bytes| self.written.push((*vnet, bytes.to_vec())));
    }

    /// What has been written since the last call, as packets per write.
    fn take(&mut self) -> Vec<usize> {
        self.written.drain(..).map(|(vnet, bytes)| support::split(vnet, &bytes).len()).collect()
    }
}

fn run(packets: &[Vec<u8>]) -> Vec<usize> {
    let mut device = Device::new();
    packets.iter().for_each(|packet| device.push(packet));
    device.flush();
    device.take()
}

fn segments(v6: bool, tcp: bool, count: usize) -> Vec<Segment> {
    Stream { first: plain(v6, tcp, &[]), size: 10, full: count, last: 0, push: false, fin: false }.segments()
}

/// Four packets of a run of which the second is changed: nothing may be joined with it.
fn alone(v6: bool, tcp: bool, change: impl Fn(&mut Segment)) {
    let mut run_of = segments(v6, tcp, 4);
    change(&mut run_of[1]);
    let packets: Vec<_> = run_of.iter().map(Segment::bytes).collect();
    assert_eq!(run(&packets), [1, 1, 2], "IPv{} {}", if v6 { 6 } else { 4 }, if tcp { "TCP" } else { "UDP" });
}

#[test]
fn what_differs_in_a_header_is_not_joined() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            alone(v6, tcp, |segment| segment.class ^= 1);
            alone(v6, tcp, |segment| segment.class ^= 4);
            alone(v6, tcp, |segment| segment.ttl -= 1);
        }
        alone(v6, true, |segment| segment.sequence += 1);
        alone(v6, true, |segment| segment.acknowledgement += 1);
        alone(v6, true, |segment| segment.window += 1);
        alone(v6, true, |segment| segment.urgent += 1);
        alone(v6, true, |segment| segment.reserved = true);
        alone(v6, true, |segment| segment.congestion_echo = true);
        alone(v6, true, |segment| segment.window_reduced = true);
        alone(v6, true, |segment| segment.syn = true);
        alone(v6, true, |segment| segment.options.clear());
        alone(v6, true, |segment| segment.options[5] += 1);
        alone(v6, true, |segment| segment.payload.clear());
        alone(true, v6, |segment| segment.label += 1);
        alone(false, v6, |segment| segment.id ^= 2);
        alone(false, v6, |segment| segment.dont_fragment ^= true);
    }
}

#[test]
fn a_longer_packet_starts_a_run_of_its_own() {
    let mut run_of = segments(false, false, 4);
    run_of[1].payload.push(0);
    let packets: Vec<_> = run_of.iter().map(Segment::bytes).collect();
    // The third is shorter than the second, so it may close that one's run.
    assert_eq!(run(&packets), [1, 2, 1]);
}

#[test]
fn a_shorter_packet_push_and_fin_close_a_run() {
    let changes: [fn(&mut Segment); 3] =
        [|segment| segment.push = true, |segment| segment.fin = true, |segment| segment.payload.truncate(9)];
    for change in changes {
        let mut run_of = segments(false, true, 4);
        change(&mut run_of[1]);
        let mut device = Device::new();
        run_of[..2].iter().for_each(|segment| device.push(&segment.bytes()));
        assert_eq!(device.take(), [2], "leaves at once");
        run_of[2..].iter().for_each(|segment| device.push(&segment.bytes()));
        device.flush();
        assert_eq!(device.take(), [2]);
    }
}

#[test]
fn a_closing_packet_of_its_own_does_not_wait() {
    let mut device = Device::new();
    let packet = Segment { push: true, ..plain(true, true, b"x") }.bytes();
    device.push(&packet);
    assert_eq!(device.written, [(VnetHdr::NONE, packet)]);
    assert!(device.coalescer.is_empty());
}

#[test]
fn a_lone_packet_leaves_as_it_came() {
    let mut device = Device::new();
    let packet = plain(false, false, b"data").bytes();
    device.push(&packet);
    assert!(device.written.is_empty() && !device.coalescer.is_empty());
    device.flush();
    assert_eq!(device.written, [(VnetHdr::NONE, packet)]);
}

#[test]
fn ids_that_mean_nothing_are_joined() {
    let same_id = |id, dont_fragment| {
        let mut run_of = segments(false, false, 4);
        run_of.iter_mut().for_each(|segment| (segment.id, segment.dont_fragment) = (id, dont_fragment));
        run(&run_of.iter().map(Segment::bytes).collect::<Vec<_>>())
    };
    assert_eq!(same_id(0, true), [4]);
    assert_eq!(same_id(0, false), [1; 4]);
    assert_eq!(same_id(7, true), [1; 4]);
    // 0, 0, 1 and 0, 1, 0: neither may go on as the other.
    for ids in [[0, 0, 1], [0, 1, 0]] {
        let mut run_of = segments(false, true, 3);
        run_of.iter_mut().zip(ids).for_each(|(segment, id)| segment.id = id);
        assert_eq!(run(&run_of.iter().map(Segment::bytes).collect::<Vec<_>>()), [2, 1]);
    }
}

#[test]
fn wrong_or_missing_checksums_pass_alone() {
    // Offsets of the IPv4 header checksum, the TCP checksum, and the payload.
    for at in [10, 36, 52] {
        for victim in 0..4 {
            let mut packets: Vec<_> = segments(false, true, 4).iter().map(Segment::bytes).collect();
            packets[victim][at] ^= 0x40;
            let expected: &[usize] = match victim {
                0 => &[1, 3],
                1 => &[1, 1, 2],
                2 => &[2, 1, 1],
                _ => &[3, 1],
            };
            assert_eq!(run(&packets), expected, "{at} {victim}");
        }
    }
    let mut unsummed: Vec<_> = segments(false, false, 3).iter().map(Segment::bytes).collect();
    unsummed.iter_mut().for_each(|packet| packet[26..28].fill(0));
    assert_eq!(run(&unsummed), [1, 1, 1]);
}

#[test]
fn joined_datagrams_say_how_to_split_them() {
    let mut device = Device::new();
    segments(true, false, 3).iter().for_each(|segment| device.push(&segment.bytes()));
    device.flush();
    let expected =
        VnetHdr { flags: 1, gso_type: GSO_UDP_L4, hdr_len: 48, gso_size: 10, csum_start: 40, csum_offset: 6 };
    assert_eq!(device.written[0].0, expected);
}

#[test]
fn a_further_flow_pushes_the_oldest_out() {
    let mut device = Device::new();
    let flow = |port: u16, index: usize| Segment { ports: (port, 1), ..segments(false, false, 2).swap_remove(index) };
    for port in 0..=SLOTS as u16 {
        device.push(&flow(port, 0).bytes());
    }
    assert_eq!(device.written, [(VnetHdr::NONE, flow(0, 0).bytes())]);
    device.written.clear();
    device.push(&flow(2, 1).bytes());
    device.flush();
    let ports: Vec<_> = device.written.iter().map(|(_, bytes)| bytes[21]).collect();
    assert_eq!(ports, (1..=SLOTS as u8).collect::<Vec<_>>(), "oldest first");
    assert_eq!(device.take(), [1, 2, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn a_fragment_pushes_out_what_its_hosts_sent() {
    let held = plain(false, false, b"held").bytes();
    let other = Segment { hosts: (3, 2), ..plain(false, false, b"other") }.bytes();
    let mut fragment = plain(false, false, b"piece").bytes();
    fragment[6..8].copy_from_slice(&[0, 1]);
    let mut device = Device::new();
    [&other, &held, &fragment].iter().for_each(|packet| device.push(packet));
    let sent: Vec<_> = device.written.drain(..).map(|(_, bytes)| bytes).collect();
    assert_eq!(sent, [held, fragment]);
    device.flush();
    assert_eq!(device.take(), [1]);
}

#[test]
fn a_packet_without_a_flow_overtakes() {
    let ip = IpHeader::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol::ICMP);
    let mut ping = vec![0; 28];
    ip.emit(8, &mut ping).unwrap();
    let mut device = Device::new();
    device.push(&plain(false, true, b"held").bytes());
    device.push(&ping);
    assert_eq!(device.written, [(VnetHdr::NONE, ping)]);
}

#[test]
fn a_packet_with_options_keeps_its_place_in_the_flow() {
    let held = plain(false, false, b"held").bytes();
    let mut optional = [&held[..20], &[1, 1, 1, 0], &held[20..]].concat();
    optional[0] = 0x46;
    optional[3] += 4;
    let mut device = Device::new();
    device.push(&held);
    device.push(&optional);
    let sent: Vec<_> = device.written.drain(..).map(|(_, bytes)| bytes).collect();
    assert_eq!(sent, [held, optional]);
}

#[test]
fn what_the_device_refuses_is_not_even_copied() {
    let off = Joins::default();
    for (v6, tcp, joins) in [
        (false, true, Joins { tcp4: true, ..off }),
        (true, true, Joins { tcp6: true, ..off }),
        (false, false, Joins { udp4: true, ..off }),
        (true, false, Joins { udp6: true, ..off }),
    ] {
        let packet = plain(v6, tcp, b"data").bytes();
        let view = IpPacket::parse(&packet).unwrap();
        for (joins, waits) in [(joins, true), (off, false)] {
            let mut coalescer = Coalescer::new(joins);
            let mut passed = false;
            coalescer.push(&view, &mut |vnet, bytes| {
                passed = *vnet == VnetHdr::NONE && std::ptr::eq(bytes, view.bytes());
            });
            assert_eq!((coalescer.is_empty(), passed), (!waits, !waits));
        }
    }
}

#[test]
fn the_other_way_to_write_a_checksum_of_zero_is_kept() {
    // Where the checksum lies, and the fields by which it is brought to 0: the payload's first word, the id.
    type Bring = fn(&mut [Segment], u16);
    let by_payload: Bring = |run_of, word| run_of[0].payload[..2].copy_from_slice(&word.to_be_bytes());
    let by_id: Bring = |run_of, word| (run_of[0].id, run_of[1].id) = (word, word.wrapping_add(1));
    for (tcp, at, bring, usual) in
        [(true, 36, by_payload, 0), (false, 26, by_payload, 0xffffu16), (true, 10, by_id, 0), (false, 10, by_id, 0)]
    {
        let mut run_of = segments(false, tcp, 2);
        (run_of[0].id, run_of[1].id) = (0, 1);
        run_of[0].payload[..2].fill(0);
        let before = run_of[0].bytes();
        bring(&mut run_of, u16::from_be_bytes([before[at], before[at + 1]]));
        let mut packets: Vec<_> = run_of.iter().map(Segment::bytes).collect();
        assert_eq!(packets[0][at..at + 2], usual.to_be_bytes());
        assert_eq!(run(&packets), [2]);
        packets[0][at..at + 2].copy_from_slice(&(!usual).to_be_bytes());
        assert_eq!(run(&packets), [1, 1]);
    }
}

#[test]
fn the_reserved_fragment_bit_passes_alone() {
    let mut packets: Vec<_> = segments(false, true, 2).iter().map(Segment::bytes).collect();
    for packet in &mut packets {
        packet[6] |= 0x80;
        packet[10..12].fill(0);
        let checksum = Sum::default().add(&packet[..20]).finish();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    assert_eq!(run(&packets), [1, 1]);
}

fn run_partial(packets: &[Vec<u8>]) -> Vec<usize> {
    let mut device = Device::new();
    packets.iter().for_each(|packet| device.push_partial(packet, true));
    device.flush();
    device.take()
}

#[test]
fn partial_packets_are_joined_by_the_same_rules() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let packets: Vec<_> = segments(v6, tcp, 4).iter().map(Segment::bytes).collect();
        assert_eq!(run_partial(&packets), [4]);
        let changes: [fn(&mut Segment); 5] = [
            |segment| segment.class ^= 1,
            |segment| segment.ttl -= 1,
            |segment| (segment.sequence, segment.id) = (segment.sequence + 1, segment.id ^ 2),
            |segment| (segment.syn, segment.ports.0) = (true, segment.ports.0 + 1),
            |segment| segment.payload.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            // Nothing of IPv6 UDP says that one is missing.
            if !(number == 2 && v6 && !tcp) {
                let mut run_of = segments(v6, tcp, 4);
                change(&mut run_of[1]);
                let packets: Vec<_> = run_of.iter().map(Segment::bytes).collect();
                assert_eq!(run_partial(&packets), [1, 1, 2], "{v6} {tcp} {number}");
            }
        }
    }
    let reduced = |segment: &mut Segment| segment.window_reduced = true;
    let mut run_of = segments(false, true, 4);
    reduced(&mut run_of[0]);
    assert_eq!(run_partial(&run_of.iter().map(Segment::bytes).collect::<Vec<_>>()), [1, 3]);
}

#[test]
fn a_lone_partial_packet_leaves_with_a_partial_checksum() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let start = if v6 { 40 } else { 20 };
        for push in [false, true] {
            let stream = stream_of(&Segment { push, ..plain(v6, tcp, &[]) });
            let segment = stream.segments().swap_remove(0);
            let mut device = Device::new();
            device.push_partial(&segment.bytes(), false);
            assert_eq!(device.written.len(), usize::from(push && tcp), "a closing one does not wait");
            device.flush();
            let (vnet, bytes) = &device.written[0];
            let expected = VnetHdr {
                flags: NEEDS_CSUM,
                hdr_len: start + if tcp { 32 } else { 8 },
                csum_start: start,
                csum_offset: if tcp { 16 } else { 6 },
                ..VnetHdr::NONE
            };
            assert_eq!(*vnet, expected);
            assert_eq!(*bytes, stream.super_packet().1);
            assert_eq!(support::split(*vnet, bytes), [segment.bytes()]);
        }
    }
}

fn stream_of(first: &Segment) -> Stream {
    Stream { first: first.clone(), size: 4, full: 1, last: 0, push: first.push && first.tcp, fin: first.fin }
}

#[test]
fn partial_packets_are_joined_only_with_the_one_before_and_if_told() {
    let packets: Vec<_> = segments(false, true, 4).iter().map(Segment::bytes).collect();
    let other = Segment { hosts: (3, 2), ..plain(false, true, b"other") }.bytes();
    let mut device = Device::new();
    packets.iter().for_each(|packet| device.push_partial(packet, false));
    device.flush();
    assert_eq!(device.take(), [1; 4]);
    // Another flow in between, partial or not, or a packet without a flow; and the end of a batch.
    let ip = IpHeader::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol::ICMP);
    let mut ping = vec![0; 28];
    ip.emit(8, &mut ping).unwrap();
    let between: [&dyn Fn(&mut Device); 5] = [
        &|device| device.push_partial(&other, true),
        &|device| device.push(&other),
        &|device| device.push(&ping),
        &|device| {
            assert!(device.coalescer.push_partial(&IpPacket::parse(&ping).unwrap(), true, &mut |_, _| {}).is_err())
        },
        &|device| device.flush(),
    ];
    for between in between {
        let mut device = Device::new();
        packets[..2].iter().for_each(|packet| device.push_partial(packet, true));
        between(&mut device);
        packets[2..].iter().for_each(|packet| device.push_partial(packet, true));
        device.flush();
        let joined = device.take();
        assert_eq!(joined.iter().filter(|&&count| count == 2).count(), 2, "{joined:?}");
        assert!(joined.iter().all(|&count| count <= 2));
    }
}

#[test]
fn partial_and_verified_packets_are_not_joined_with_each_other() {
    let packets: Vec<_> = segments(false, false, 4).iter().map(Segment::bytes).collect();
    for first_is_partial in [false, true] {
        let mut device = Device::new();
        for (index, packet) in packets.iter().enumerate() {
            if (index < 2) == first_is_partial { device.push_partial(packet, true) } else { device.push(packet) }
        }
        device.flush();
        let again: Vec<_> = device.written.iter().flat_map(|(vnet, bytes)| support::split(*vnet, bytes)).collect();
        assert_eq!(again, packets);
        assert_eq!(device.take(), [2, 2]);
    }
}

#[test]
fn what_cannot_have_a_partial_checksum_is_not_taken() {
    let refused = |bytes: &[u8]| {
        let mut coalescer = Coalescer::new(Joins::ALL);
        let mut out = |_: &VnetHdr, _: &[u8]| panic!("nothing leaves");
        let answer = coalescer.push_partial(&IpPacket::parse(bytes).unwrap(), true, &mut out);
        assert!(coalescer.is_empty());
        answer.unwrap_err()
    };
    let fix = |mut bytes: Vec<u8>| {
        bytes[10..12].fill(0);
        let checksum = Sum::default().add(&bytes[..20]).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    let good = plain(false, false, b"data").bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        fix(bytes)
    };
    assert_eq!(refused(&with(9, protocol::ICMP)), Malformed::OffloadType);
    assert_eq!(refused(&with(6, 0x20)), Malformed::OffloadType);
    assert_eq!(refused(&with(7, 1)), Malformed::OffloadType);
    assert_eq!(refused(&with(3, 27)), Malformed::Truncated);
    assert_eq!(refused(&with(25, 11)), Malformed::TotalLength);
    assert_eq!(refused(&with(25, 13)), Malformed::TotalLength);
    assert_eq!(refused(&with(25, 7)), Malformed::TotalLength);
    assert_eq!(refused(&with(9, protocol::TCP)), Malformed::Truncated);
    let mut wrong = good.clone();
    wrong[10] ^= 1;
    assert_eq!(refused(&wrong), Malformed::HeaderChecksum);
    let mut tcp = plain(true, true, b"data").bytes();
    tcp[52] = 0xf0;
    assert_eq!(refused(&tcp), Malformed::HeaderLength);
    let long = Segment { options: vec![], ..plain(true, true, &vec![0; 65_515]) }.bytes();
    assert_eq!(refused(&long), Malformed::TotalLength);
}

#[test]
fn a_packet_that_needs_no_change_leaves_uncopied() {
    let segment = Segment { push: true, ..plain(false, true, b"data") };
    let bytes = stream_of(&segment).super_packet().1;
    let packet = IpPacket::parse(&bytes).unwrap();
    let mut same = false;
    let mut out = |_: &VnetHdr, out: &[u8]| same = std::ptr::eq(out, packet.bytes());
    Coalescer::new(Joins::ALL).push_partial(&packet, false, &mut out).unwrap();
    assert!(same);
}

#[test]
fn checksums_are_completed_for_a_device_that_takes_no_partial_ones() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let packets: Vec<_> = segments(v6, tcp, 3).iter().map(Segment::bytes).collect();
        for (joins, writes) in [(Joins::default(), 3), (Joins { partial: false, ..Joins::ALL }, 1)] {
            let mut device = Device { coalescer: Coalescer::new(joins), written: Vec::new() };
            packets.iter().for_each(|packet| device.push_partial(packet, true));
            device.flush();
            assert_eq!(device.written.len(), writes);
            let again: Vec<_> = device.written.iter().flat_map(|(vnet, bytes)| support::split(*vnet, bytes)).collect();
            assert_eq!(again, packets);
            assert_eq!(device.written[0].0 == VnetHdr::NONE, writes == 3);
            device.written.clear();
            device.push_partial(&packets[1], true);
            device.flush();
            assert_eq!(device.written, [(VnetHdr::NONE, packets[1].clone())]);
        }
    }
}

#[test]
fn partial_packets_with_options_keep_their_place_in_the_flow() {
    let held = plain(false, false, b"held").bytes();
    let mut optional = [&held[..20], &[1, 1, 1, 0], &held[20..]].concat();
    optional[0] = 0x46;
    optional[3] += 4;
    optional[10..12].fill(0);
    let checksum = Sum::default().add(&optional[..24]).finish();
    optional[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut device = Device::new();
    device.push_partial(&held, true);
    device.push_partial(&optional, true);
    let again: Vec<_> = device.written.iter().flat_map(|(vnet, bytes)| support::split(*vnet, bytes)).collect();
    assert_eq!(again, [held, optional]);
    assert_eq!(device.written[1].0.csum_start, 24);
}

#[test]
fn a_sender_knows_which_datagrams_continue() {
    let mut run_of = segments(false, false, MAX_UDP_SEGMENTS + 3);
    let last = run_of.len() - 1;
    run_of[last - 1].payload.truncate(3);
    let mut continuity = Continuity::default();
    let told: Vec<_> =
        run_of.iter().map(|segment| continuity.continues(&[], &IpPacket::parse(&segment.bytes()).unwrap())).collect();
    let starts: Vec<_> = (0..told.len()).filter(|index| !told[*index]).collect();
    assert_eq!(starts, [0, MAX_UDP_SEGMENTS, last], "a full run and a shorter datagram end it");
    continuity.interrupt();
    assert!(!continuity.continues(&[], &IpPacket::parse(&run_of[last].bytes()).unwrap()));
    // TCP comes in super-packets.
    for segment in segments(false, true, 2) {
        assert!(!continuity.continues(&[], &IpPacket::parse(&segment.bytes()).unwrap()));
    }
}
