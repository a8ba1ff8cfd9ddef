//! Splitting and joining, in bytes of super-packet per second: TCP over IPv4 at an MTU of 1472, and UDP of 1472 and 64 bytes.
#![allow(clippy::unwrap_used, reason = "what a test prepares must succeed")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::coalesce::{Coalescer, Joins};
use wire::ip::{IpHeader, IpPacket, protocol};
use wire::run::Continuity;
use wire::segment::{InPlace, SuperPacket};
use wire::tcp::{TcpHeader, flags};
use wire::udp::UdpHeader;
use wire::vnet::{self, VnetHdr};

/// Headers of 52 bytes: IPv4, TCP, timestamps.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

fn tcp_super_packet(payload_len: usize, mtu: usize) -> (VnetHdr, Vec<u8>) {
    let tcp = TcpHeader {
        source_port: 1,
        destination_port: 2,
        flags: flags::ACK,
        options: &TIMESTAMPS,
        ..TcpHeader::default()
    };
    let bytes =
        packet(protocol::TCP, 32 + payload_len, |ip, out| tcp.emit(ip.pseudo_header(), &vec![7; payload_len], out));
    let vnet = VnetHdr {
        flags: vnet::NEEDS_CSUM,
        gso_type: vnet::GSO_TCPV4,
        hdr_len: 52,
        gso_size: (mtu - 52) as u16,
        csum_start: 20,
        csum_offset: 16,
    };
    (vnet, bytes)
}

fn udp_super_packet(payload_len: usize, size: usize) -> (VnetHdr, Vec<u8>) {
    let udp = UdpHeader { source_port: 1, destination_port: 2 };
    let bytes =
        packet(protocol::UDP, 8 + payload_len, |ip, out| udp.emit(ip.pseudo_header(), &vec![7; payload_len], out));
    let vnet = VnetHdr {
        flags: vnet::NEEDS_CSUM,
        gso_type: vnet::GSO_UDP_L4,
        hdr_len: 28,
        gso_size: size as u16,
        csum_start: 20,
        csum_offset: 6,
    };
    (vnet, bytes)
}

fn packet(protocol: u8, payload_len: usize, upper: impl Fn(&IpHeader, &mut [u8]) -> Option<usize>) -> Vec<u8> {
    let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    let ip = IpHeader::new(address(1), address(2), protocol);
    let mut bytes = vec![0; 20 + payload_len];
    ip.emit(payload_len, &mut bytes).unwrap();
    upper(&ip, &mut bytes[20..]).unwrap();
    bytes
}

fn split(vnet: VnetHdr, bytes: &[u8], partial: bool, out: &mut [u8]) -> usize {
    let packet = SuperPacket::parse(vnet, IpPacket::parse(bytes).unwrap()).unwrap();
    let mut at = 0;
    for index in 0..packet.count() {
        let out = &mut out[at..];
        at += if partial { packet.emit_partial(index, out) } else { packet.emit(index, out) };
    }
    at
}

fn offload(c: &mut Criterion) {
    let mut group = c.benchmark_group("offload");
    for (name, (vnet, bytes)) in [
        ("tcp_44x1472", tcp_super_packet(44 * 1420, 1472)),
        ("udp_44x1472", udp_super_packet(44 * 1444, 1444)),
        ("udp_128x64", udp_super_packet(128 * 64, 64)),
    ] {
        let mut train = vec![0; 1 << 17];
        let length = split(vnet, &bytes, false, &mut train);
        let first = SuperPacket::parse(vnet, IpPacket::parse(&bytes).unwrap()).unwrap().segment_len();
        let segments: Vec<Vec<u8>> = train[..length].chunks(first).map(<[u8]>::to_vec).collect();

        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("split/{name}"), |b| {
            b.iter(|| split(black_box(vnet), black_box(&bytes), false, &mut train));
        });
        group.bench_function(format!("split_partial/{name}"), |b| {
            b.iter(|| split(black_box(vnet), black_box(&bytes), true, &mut train));
        });
        // What is split in place is gone; the headers are all that must be put back for another round.
        let mut buffer = bytes.clone();
        let header_len = usize::from(vnet.hdr_len);
        for (mode, partial) in [("split_in_place", false), ("split_in_place_partial", true)] {
            group.bench_function(format!("{mode}/{name}"), |b| {
                b.iter(|| {
                    buffer[..header_len].copy_from_slice(&bytes[..header_len]);
                    let mut split = InPlace::parse(black_box(vnet), black_box(&mut buffer)).unwrap().unwrap();
                    while let Some(segment) = if partial { split.next_partial() } else { split.next_complete() } {
                        black_box(segment);
                    }
                });
            });
        }
        group.bench_function(format!("continuity/{name}"), |b| {
            b.iter(|| {
                let mut continuity = Continuity::default();
                let told = |segment| continuity.continues(&[], &IpPacket::parse(black_box(segment)).unwrap());
                black_box(segments.iter().map(Vec::as_slice).map(told).filter(|told| *told).count())
            });
        });
        let mut coalescer = Coalescer::new(Joins::ALL);
        group.bench_function(format!("join/{name}"), |b| {
            b.iter(|| {
                let mut out = |vnet: &VnetHdr, bytes: &[u8]| {
                    black_box((vnet, bytes));
                };
                for segment in &segments {
                    coalescer.push(&IpPacket::parse(black_box(segment)).unwrap(), &mut out);
                }
                coalescer.flush(&mut out);
            });
        });
        group.bench_function(format!("join_partial/{name}"), |b| {
            b.iter(|| {
                let mut out = |vnet: &VnetHdr, bytes: &[u8]| {
                    black_box((vnet, bytes));
                };
                for segment in &segments {
                    let packet = IpPacket::parse(black_box(segment)).unwrap();
                    coalescer.push_partial(&packet, true, &mut out).unwrap();
                }
                coalescer.flush(&mut out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, offload);
criterion_main!(benches);
