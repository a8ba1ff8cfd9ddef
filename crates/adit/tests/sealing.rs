//! What the way of a packet must hold where the kernel and the device do the unexpected: each counter is used for one datagram, and
//! nobody aims a checksum at something else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::collections::HashMap;
use std::net::IpAddr;

use bed::daemon::{Configuration, Place};
use bed::packet::UdpPacket;
use bed::sniffer::{Injector, Sniffer};
use bed::traffic::{End, exchange_tcp, exchange_udp};
use bed::{Bed, Family, Host};
use wire::ip::{IpPacket, protocol};
use wire::message::DataHeader;
use wire::vnet::{NEEDS_CSUM, VnetHdr};

fn pair(transport: &'static str) -> (Bed, Place, Place) {
    let bed = Bed::new(2);
    let [a, b] = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, transport);
    let places = (Place::new(bed.host(1), &a), Place::new(bed.host(2), &b));
    (bed, places.0, places.1)
}

fn inner(host: &Host, family: Family) -> End<'_> {
    End::new(&host.namespace, host.inner(family))
}

/// The sealed datagrams in a frame of the underlay, which may be a train: their counters, each with its bytes.
fn sealed(frame: &[u8], stride: usize) -> Vec<(u32, u64, Vec<u8>)> {
    let Some(packet) = frame.get(14..).and_then(|bytes| IpPacket::parse(bytes).ok()) else { return Vec::new() };
    if packet.protocol() != protocol::UDP || packet.payload().len() <= 8 {
        return Vec::new();
    }
    let payload = &packet.payload()[8..];
    let stride = if stride == 0 { payload.len() } else { stride };
    let read = |datagram: &[u8]| {
        let header = DataHeader::parse(datagram).ok()?;
        Some((header.index(), header.counter, datagram.to_vec()))
    };
    payload.chunks(stride).filter_map(read).collect()
}

/// A card without checksum offload: kernels before 6.11 refuse trains there (EIO), and what was sealed for one is sent again as it is.
/// Whatever the kernel does, no counter is seen with two contents.
#[test]
fn no_counter_seals_two_datagrams_where_trains_are_refused() {
    let (bed, a, b) = pair("sealed");
    let (a, b) = (a.start(), b.start());
    bed.host(1).run("ethtool", &["-K", "under0", "tx-checksum-ip-generic", "off"]);
    let watch = Sniffer::open(&bed.host(1).namespace, "under0").watch(|captured, frame| {
        let stride = if captured.vnet.gso_type == 0 { 0 } else { usize::from(captured.vnet.gso_size) };
        Some(sealed(frame, stride))
    });
    exchange_tcp(inner(bed.host(1), Family::V4), inner(bed.host(2), Family::V4), 3_000_000, 100_000);
    let mut seen: HashMap<(u32, u64), Vec<u8>> = HashMap::new();
    for (index, counter, datagram) in watch.collect().into_iter().flatten() {
        if let Some(other) = seen.insert((index, counter), datagram.clone()) {
            assert!(other == datagram, "counter {counter} of session {index:#x} was used for two datagrams");
        }
    }
    assert!(seen.len() > 1000, "{} datagrams were seen", seen.len());
    for daemon in [&a, &b] {
        assert_eq!(daemon.drops("forged") + daemon.drops("replayed"), 0);
    }
}

/// Offsets of a checksum that name anything but the field that the packet has are refused, or completed by the sender; the receiver
/// never follows them.
#[test]
fn checksum_offsets_aimed_elsewhere_change_nothing() {
    let (bed, a, b) = pair("sealed");
    let (a, _b) = (a.start(), b.start());
    // There is a session.
    exchange_udp(inner(bed.host(1), Family::V4), inner(bed.host(2), Family::V4), [100]);
    let (from, to) = (bed.host(1).inner(Family::V4), bed.host(2).inner(Family::V4));
    let packet = UdpPacket::new((from, 4000), (to, 4001), b"aimed at").bytes();
    let mut sniffer = Sniffer::open(&bed.host(2).namespace, "adit0");
    let mut injector = Injector::open(&bed.host(1).namespace, "adit0");
    let before = a.drops("malformed");
    let mut aimed = 0;
    for (start, offset) in [(0, 10), (0, 2), (10, 2), (12, 0), (12, 4), (16, 0), (20, 60), (60_000, 6), (19, 7)] {
        let header = VnetHdr { flags: NEEDS_CSUM, csum_start: start, csum_offset: offset, ..VnetHdr::NONE };
        // Newer kernels refuse them themselves (`virtio_net_hdr_to_skb`); those that do not leave it to us, and `wire` has each of
        // these offsets among the tests of its own.
        aimed += u64::from(injector.send(&header, &packet).is_ok());
    }
    a.await_drops("malformed", before + aimed);
    // Right offsets, and no offsets at all, arrive with a right checksum or the kernel's promise of one, and with every byte.
    for header in [VnetHdr { flags: NEEDS_CSUM, csum_start: 20, csum_offset: 6, ..VnetHdr::NONE }, VnetHdr::NONE] {
        injector.send(&header, &packet).unwrap();
        let arrived = sniffer.find("the packet", |_, bytes| {
            let packet = IpPacket::parse(bytes).ok()?;
            (packet.source() == from && packet.payload().get(..4) == Some(&[0x0f, 0xa0, 0x0f, 0xa1]))
                .then(|| bytes.to_vec())
        });
        assert_eq!(arrived[28..], packet[28..], "the payload");
        assert_eq!(arrived[12..26], packet[12..26], "addresses, ports, length");
    }
}

/// A packet whose checksum was wrong before it was sealed arrives as wrong as it was.
#[test]
fn a_wrong_checksum_stays_wrong() {
    for transport in ["sealed", "wireguard"] {
        let (bed, a, b) = pair(transport);
        let (_a, _b) = (a.start(), b.start());
        exchange_udp(inner(bed.host(1), Family::V4), inner(bed.host(2), Family::V4), [100]);
        let (from, to) = (bed.host(1).inner(Family::V4), bed.host(2).inner(Family::V4));
        let mut packet = UdpPacket::new((from, 4000), (to, 4001), b"wrong").bytes();
        packet[26] ^= 0x55;
        let mut sniffer = Sniffer::open(&bed.host(2).namespace, "adit0");
        Injector::open(&bed.host(1).namespace, "adit0").send(&VnetHdr::NONE, &packet).unwrap();
        let arrived = sniffer.find("the packet", |captured, bytes| {
            let packet = IpPacket::parse(bytes).ok()?;
            (packet.source() == from && packet.protocol() == protocol::UDP)
                .then(|| (captured.vnet.flags & NEEDS_CSUM, bytes.to_vec()))
        });
        assert_eq!(arrived, (0, packet), "{transport}");
    }
}

/// One daemon, one port: a sealed, a WireGuard and a plain peer.
#[test]
fn all_transports_share_one_port() {
    let bed = Bed::new(4);
    let transports = ["sealed", "wireguard", "plain"];
    let mut hub: Option<Configuration> = None;
    let mut others = Vec::new();
    for (transport, other) in transports.into_iter().zip(2..) {
        let [mut ours, theirs] = Configuration::pair([bed.host(1), bed.host(other)], Family::V4, transport);
        others.push(Place::new(bed.host(other), &theirs));
        match &mut hub {
            None => hub = Some(ours),
            Some(hub) => {
                if transport == "wireguard" {
                    hub.wireguard_private_key = ours.private_key.take();
                }
                hub.peers.append(&mut ours.peers);
            }
        }
    }
    let hub = Place::new(bed.host(1), &hub.unwrap());
    let hub = hub.start();
    let _others: Vec<_> = others.iter().map(Place::start).collect();
    for other in 2..=4 {
        for family in [Family::V4, Family::V6] {
            exchange_tcp(inner(bed.host(1), family), inner(bed.host(other), family), 500_000, 400_000);
            exchange_udp(inner(bed.host(other), family), inner(bed.host(1), family), [1, 500, 1200]);
        }
    }
    let status = hub.status();
    let seen: Vec<_> = status.peers.iter().map(|peer| (peer.transport.as_str(), peer.secure)).collect();
    assert_eq!(seen, [("sealed", true), ("wireguard", true), ("plain", false)]);
    // A peer of one transport is nobody in another: its address proves nothing.
    let plain =
        UdpPacket::new((bed.host(2).inner(Family::V4), 1), (bed.host(1).inner(Family::V4), 2), b"forged").bytes();
    let IpAddr::V4(_) = bed.host(1).underlay(Family::V4) else { unreachable!("IPv4") };
    let socket = bed.host(2).namespace.run(|| std::net::UdpSocket::bind("192.0.2.2:0")).unwrap().unwrap();
    let before = hub.drops("unknown_endpoint");
    socket.send_to(&plain, (bed.host(1).underlay(Family::V4), bed::daemon::PORT)).unwrap();
    hub.await_drops("unknown_endpoint", before + 1);
}
