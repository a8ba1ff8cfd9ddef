//! The device's end of ingress: writes, counts, and finds a way where the kernel refuses a super-packet.

use std::io;

use linux::tun;
use tunnel::Reason;
use wire::coalesce::Joins;
use wire::ethernet::ethertype;
use wire::frame::Frame;
use wire::ip::IpPacket;
use wire::segment::SuperPacket;
use wire::vnet::{self, VnetHdr};

use super::EBADFD;
use crate::counters::WorkerCounters;

/// Writes what one receive brought.
pub(super) struct DeviceWriter<'a> {
    pub(super) queue: &'a tun::Queue,
    pub(super) counters: &'a WorkerCounters,
    pub(super) scratch: &'a mut [u8],
    /// What the kernel has not refused yet.
    pub(super) joins: Joins,
    /// Whether the device takes frames.
    pub(super) frames: bool,
    pub(super) gone: bool,
}

impl DeviceWriter<'_> {
    #[inline]
    pub(super) fn write(&mut self, header: &VnetHdr, packet: &[u8]) {
        match self.queue.send(header, packet) {
            Ok(()) => self.counters.device_writes.add(1),
            Err(e) => self.failed(header, packet, &e),
        }
    }

    #[cold]
    fn failed(&mut self, header: &VnetHdr, packet: &[u8], error: &io::Error) {
        self.gone |= error.raw_os_error() == Some(EBADFD);
        let packets = if self.frames {
            Frame::parse(packet).and_then(|frame| SuperPacket::parse_frame(*header, &frame))
        } else {
            IpPacket::parse(packet).and_then(|packet| SuperPacket::parse(*header, packet))
        };
        let Ok(packets) = packets else { return self.counters.dropped(Reason::DeviceRefused, 1) };
        if error.kind() != io::ErrorKind::InvalidInput || packets.count() == 1 {
            return self.counters.dropped(Reason::DeviceRefused, packets.count());
        }
        let is_v4 = match self.frames {
            true => Frame::parse(packet).is_ok_and(|frame| frame.ethertype() == ethertype::IPV4),
            false => packet.first().is_some_and(|b| b >> 4 == 4),
        };
        match (header.gso_type & !vnet::GSO_ECN, is_v4) {
            (vnet::GSO_TCPV4, _) => self.joins.tcp4 = false,
            (vnet::GSO_TCPV6, _) => self.joins.tcp6 = false,
            (_, true) => self.joins.udp4 = false,
            _ => self.joins.udp6 = false,
        }
        for i in 0..packets.count() {
            let length = packets.emit(i, self.scratch);
            match self.queue.send(&VnetHdr::NONE, self.scratch.get(..length).unwrap_or_default()) {
                Ok(()) => self.counters.device_writes.add(1),
                Err(_) => self.counters.dropped(Reason::DeviceRefused, 1),
            }
        }
    }
}
