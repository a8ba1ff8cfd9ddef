//! Tries out whether the kernel splits super-packets as it should: in a namespace that ends with this, one device takes super-packets, and another, that
//! has no offloads, gets what the kernel forwards. So it has to split, and what comes out is compared byte for byte with what our own segmentation, which
//! is tested against other implementations, makes of the same.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink};
use linux::netns::NetNs;
use linux::poll::readable;
use linux::privilege::{self, Capability};
use linux::sysctl;
use linux::tun::{Device, MAX_PACKET, Offload, Options, Queue};
use wire::checksum::Sum;
use wire::ip::IpPacket;
use wire::segment::SuperPacket;
use wire::vnet::{self, VnetHdr};

use crate::observe::doctor::facts::{Seen, Segmentation};

/// How long the kernel may take for the segments of one super-packet.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long an address may take until it is in use.
const READY: Duration = Duration::from_secs(3);

/// Room for segments of jumbo frames.
const MTU: u32 = 9000;

/// Sizes of segments and of what is split: many, few, one byte over, nothing over, jumbo.
const SIZES: [(u16, usize); 5] = [(1448, 60_000), (1448, 1449), (1000, 3000), (536, 10_001), (8900, 60_000)];

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// The port that packets go to, by which they are told from the kernel's own.
const PORT: u16 = 5000;

/// Segments of a UDP super-packet at most (`UDP_MAX_SEGMENTS` of linux/udp.h, as it was at first).
const MOST_DATAGRAMS: usize = 64;

/// Tries everything.
pub(super) fn try_out() -> Seen<Vec<Segmentation>> {
    if !privilege::has_capability(Capability::SysAdmin) {
        return Err("making a namespace for it needs CAP_SYS_ADMIN".into());
    }
    let router = Router::new().map_err(|e| e.to_string())?;
    let kinds = [(TCP, false), (TCP, true), (UDP, false), (UDP, true)];
    let offered = |protocol| router.level >= if protocol == TCP { Offload::Tcp } else { Offload::Udp };
    let one = |(protocol, v6)| {
        let what = format!("{} over {}", if protocol == TCP { "TCP" } else { "UDP" }, if v6 { "IPv6" } else { "IPv4" });
        let fits = |(size, length): &&(u16, usize)| protocol == TCP || *length <= usize::from(*size) * MOST_DATAGRAMS;
        let wrong = SIZES.iter().filter(fits).find_map(|(size, length)| router.compare((protocol, v6), *size, *length));
        Segmentation { what, wrong }
    };
    Ok(kinds.into_iter().filter(|(protocol, _)| offered(*protocol)).map(one).collect())
}

/// A router between two devices, of which one takes super-packets, and the other none.
struct Router {
    level: Offload,
    left: Queue,
    right: Queue,
}

impl Router {
    fn new() -> linux::Result<Self> {
        let namespace = NetNs::anonymous()?;
        namespace.run(|| {
            for setting in
                [&["net", "ipv4", "conf", "all", "rp_filter"][..], &["net", "ipv4", "conf", "default", "rp_filter"]]
            {
                sysctl::set(setting, "0")?;
            }
            sysctl::set(&["net", "ipv4", "ip_forward"], "1")?;
            // A kernel without IPv6 says nothing of it; packets then do not come out, and are told of.
            let _ = sysctl::set(&["net", "ipv6", "conf", "all", "forwarding"], "1");
            Ok(())
        })??;
        let mut netlink = Netlink::open_in(&namespace)?;
        let left = device(&namespace, &mut netlink, ("left", true), ["10.1.0.1/16", "fd01::1/64"])?;
        let right = device(&namespace, &mut netlink, ("right", false), ["10.2.0.1/16", "fd02::1/64"])?;
        let level = left.offloads.level;
        let queue = |device: Device| {
            let none = || linux::Error::from_errno("open a queue of a device", libc::ENODEV);
            device.queues.into_iter().next().ok_or_else(none)
        };
        Ok(Self { level, left: queue(left)?, right: queue(right)? })
    }

    /// What is wrong with what the kernel makes of a super-packet.
    fn compare(&self, (protocol, v6): (u8, bool), size: u16, length: usize) -> Option<String> {
        let what = format!("{length} bytes in segments of {size}");
        let (header, bytes) = super_packet((protocol, v6), (size, length), 64);
        // What forwarding changes is the time to live, and with it the checksum of the IPv4 header.
        let (_, forwarded) = super_packet((protocol, v6), (size, length), 63);
        let expected = segments(header, &forwarded)?;
        if let Err(e) = self.left.send(&header, &bytes) {
            return Some(format!("{what}: the kernel does not take it: {e}"));
        }
        let deadline = Instant::now() + PATIENCE;
        for (number, expected) in expected.iter().enumerate() {
            let count = number + 1;
            match self.next(protocol, deadline) {
                None => return Some(format!("{what}: segment {count} did not come out")),
                Some(packet) if packet != *expected => {
                    let at = packet.iter().zip(expected).position(|(a, b)| a != b);
                    let at = at.unwrap_or(packet.len().min(expected.len()));
                    return Some(format!("{what}: segment {count} is another from byte {at} on"));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// The next packet of ours that comes out.
    fn next(&self, protocol: u8, deadline: Instant) -> Option<Vec<u8>> {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            match self.right.recv(&mut buffer) {
                Ok((_, length)) => {
                    let bytes = buffer.get(..length)?;
                    let is_ours = IpPacket::parse(bytes).is_ok_and(|packet| {
                        packet.protocol() == protocol && packet.payload().get(2..4) == Some(&PORT.to_be_bytes()[..])
                    });
                    if is_ours {
                        return Some(bytes.to_vec());
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !readable([self.right.as_fd()], Some(left)).is_ok_and(|[ready]| ready) && left.is_zero() {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }
}

/// A device with addresses, up.
fn device(
    namespace: &NetNs,
    netlink: &mut Netlink,
    (name, offload): (&str, bool),
    addresses: [&str; 2],
) -> linux::Result<Device> {
    let device = namespace.run(|| {
        let device = Device::open(Options { offload, ..Options::new(name) })?;
        // No link-local address, so that no router is solicited; a kernel without IPv6 has no such setting.
        let _ = sysctl::set(&["net", "ipv6", "conf", name, "addr_gen_mode"], "1");
        Ok::<_, linux::Error>(device)
    })??;
    let index = netlink.existing_link(name)?.index;
    let change = LinkChange { mtu: Some(MTU), up: Some(true), tx_queue_len: Some(1000), ..LinkChange::default() };
    netlink.change_link(index, &change)?;
    for net in addresses.into_iter().filter_map(|text| text.parse::<IpNet>().ok()) {
        match netlink.add_address(index, net, true) {
            // Without IPv6 there is nothing to be had.
            Err(_) if net.addr().is_ipv6() => {}
            added => {
                added?;
                netlink.wait_for_address(net.addr(), READY)?;
            }
        }
    }
    Ok(device)
}

/// All segments, by our segmentation.
fn segments(header: VnetHdr, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let packets = SuperPacket::parse(header, IpPacket::parse(bytes).ok()?).ok()?;
    let mut out = vec![0; MAX_PACKET];
    let segment = |i| {
        let length = packets.emit(i, &mut out);
        out.get(..length).map(<[u8]>::to_vec)
    };
    (0..packets.count()).map(segment).collect()
}

/// A super-packet of `length` bytes, to be split into segments of `size`, as a device with offloads hands it over: its checksum is still to be made.
fn super_packet((protocol, v6): (u8, bool), (size, length): (u16, usize), hops: u8) -> (VnetHdr, Vec<u8>) {
    let addresses: Vec<u8> = if v6 {
        [Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 2)]
            .iter()
            .flat_map(Ipv6Addr::octets)
            .collect()
    } else {
        [Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 2, 0, 2)].iter().flat_map(Ipv4Addr::octets).collect()
    };
    let upper = if protocol == TCP { 20 } else { 8 };
    let total = u16::try_from(upper + length).unwrap_or(u16::MAX);
    // What stands in the checksum until then: the sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
    let pseudo = Sum::default().add(&addresses).add_u16(u16::from(protocol)).add_u16(total).fold();
    let mut bytes = Vec::with_capacity(60 + length);
    if v6 {
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([protocol, hops]);
        bytes.extend(&addresses);
    } else {
        let mut header = vec![0x45, 0];
        header.extend(total.saturating_add(20).to_be_bytes());
        header.extend([0xff, 0xf0, 0x40, 0, hops, protocol]);
        let sum = Sum::default().add(&header).add(&addresses).finish();
        header.extend(sum.to_be_bytes());
        header.extend(&addresses);
        bytes.extend(header);
    }
    let start = bytes.len();
    bytes.extend(4000u16.to_be_bytes());
    bytes.extend(PORT.to_be_bytes());
    let (offset, kind) = if protocol == TCP {
        // Sequence numbers that wrap around, PSH and ACK.
        bytes.extend(0xffff_f000u32.to_be_bytes());
        bytes.extend(17u32.to_be_bytes());
        bytes.extend([0x50, 0x18, 0x10, 0x00]);
        bytes.extend(pseudo.to_be_bytes());
        bytes.extend([0, 0]);
        (16, if v6 { vnet::GSO_TCPV6 } else { vnet::GSO_TCPV4 })
    } else {
        bytes.extend(total.to_be_bytes());
        bytes.extend(pseudo.to_be_bytes());
        (6, vnet::GSO_UDP_L4)
    };
    let header = VnetHdr {
        flags: vnet::NEEDS_CSUM,
        gso_type: kind,
        hdr_len: bytes.len() as u16,
        gso_size: size,
        csum_start: start as u16,
        csum_offset: offset,
    };
    bytes.extend((0..length).map(|i| (i * 7 + i / 251) as u8));
    (header, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn super_packets_are_as_the_kernel_makes_them() {
        for protocol in [TCP, UDP] {
            for v6 in [false, true] {
                let (header, bytes) = super_packet((protocol, v6), (1000, 2500), 64);
                let packet = IpPacket::parse(&bytes).unwrap();
                assert_eq!((packet.protocol(), packet.destination().is_ipv6()), (protocol, v6));
                let all = segments(header, &bytes).unwrap();
                assert_eq!(all.len(), 3);
                let payload: usize = all.iter().map(|s| s.len() - usize::from(header.hdr_len)).sum();
                assert_eq!(payload, 2500);
            }
        }
    }
}
