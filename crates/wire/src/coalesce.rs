//! Segments become super-packets again, each byte copied and summed in one pass.
//!
//! One write of a joined packet to a TUN device costs the kernel little more than one of a segment. What may be joined
//! follows the kernel's own receive offload (`tcp_gro_receive` in net/ipv4/tcp_offload.c, `udp_gro_receive` in
//! net/ipv4/udp_offload.c, `inet_gro_receive` and include/net/gro.h), but stricter: **what is joined here and then split
//! by [`crate::segment`] or by the kernel is the same bytes again**, but for the id of datagrams that have none
//! (`Ids::Fixed`, below). So no field is ever lost, and a receiver cannot tell that a tunnel was there.
//!
//! 1. [`Coalescer::push`] sorts a packet by what it is (`Class`): joinable, of a flow, or neither.
//! 2. It looks for the run its flow already holds, and appends the payload if the packet is exactly what comes next.
//! 3. A packet that closes a run (a shorter one, PSH, FIN) or fills it sends it out at once; else it waits for
//!    [`Coalescer::flush`], which ends every batch: nothing is held across a wait.
//!
//! Within a flow the order never changes. A packet whose checksum is wrong leaves alone, as it came.

use crate::checksum::Sum;
use crate::ip::{self, Fragment, IpPacket, V4_DONT_FRAGMENT, V4_HEADER_LEN, Version, protocol};
use crate::tcp::{self, TcpSegment, flags};
use crate::udp::{self, UdpDatagram};
use crate::vnet::{self, VnetHdr};

/// Flows held at a time; the oldest run leaves when a further flow comes.
pub const SLOTS: usize = 8;
/// The most datagrams in one UDP super-packet: `UDP_MAX_SEGMENTS` in include/linux/udp.h, which is 128 since Linux 6.9 and was 64
/// before; a TUN device refuses more.
pub const MAX_UDP_SEGMENTS: usize = 64;
/// Bytes of one run's buffer.
const BUFFER_LEN: usize = ip::MAX_LEN;
/// The most memory that one coalescer takes, when all its slots are in use.
pub const MEMORY_MAX: usize = SLOTS * BUFFER_LEN;

/// Which joined packets the device accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Joins {
    /// TCP over IPv4 (`TUN_F_TSO4`).
    pub tcp4: bool,
    /// TCP over IPv6 (`TUN_F_TSO6`).
    pub tcp6: bool,
    /// UDP over IPv4 (`TUN_F_USO4`).
    pub udp4: bool,
    /// UDP over IPv6 (`TUN_F_USO6`).
    pub udp6: bool,
}

impl Joins {
    /// Everything.
    pub const ALL: Self = Self { tcp4: true, tcp6: true, udp4: true, udp6: true };

    #[inline]
    fn accepts(self, version: Version, protocol: u8) -> bool {
        match (protocol, version) {
            (protocol::TCP, Version::V4) => self.tcp4,
            (protocol::TCP, Version::V6) => self.tcp6,
            (protocol::UDP, Version::V4) => self.udp4,
            (protocol::UDP, Version::V6) => self.udp6,
            _ => false,
        }
    }
}

/// Joins the packets of a batch. Buffers are allocated when first needed and kept.
#[derive(Debug)]
pub struct Coalescer {
    joins: Joins,
    /// Oldest first.
    held: Vec<Run>,
    spare: Vec<Box<[u8]>>,
}

/// Packets of one flow, joined so far.
#[derive(Debug)]
struct Run {
    /// The first packet as it came, then the payload of the others.
    buffer: Box<[u8]>,
    len: usize,
    flow: Flow,
    ip_len: usize,
    header_len: usize,
    /// Payload bytes of each packet.
    step: usize,
    count: usize,
    /// FIN and PSH of the last packet.
    last_flags: u8,
    ids: Ids,
}

/// How the IPv4 id runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ids {
    /// Each is the previous one plus 1, as segmentation will number them; also while there is but one packet.
    Consecutive,
    /// All are 0, with DF set: an id that means nothing (RFC 6864, section 4.1), as Linux sends from unconnected UDP
    /// sockets. Segmentation will number them.
    Fixed,
}

/// Addresses, ports and protocol, for comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flow {
    ports: [u8; 4],
    protocol: u8,
    version: Version,
    addresses: [u64; 4],
}

/// What a packet is to the coalescer.
enum Class<'a> {
    /// May start or continue a run.
    Joinable(Candidate<'a>),
    /// Belongs to a flow that may be held, but is joined with nothing.
    Single(Flow),
    /// A piece of something between two addresses: its flow is unknown.
    Piece(Flow),
    /// Nothing that could belong to a held flow.
    Stranger,
}

/// A packet that has the shape of a segment.
struct Candidate<'a> {
    flow: Flow,
    upper_header: &'a [u8],
    payload: &'a [u8],
    /// FIN and PSH; either closes a run.
    closing: u8,
}

impl Coalescer {
    /// One that joins what the device accepts.
    #[must_use]
    pub fn new(joins: Joins) -> Self {
        Self { joins, held: Vec::with_capacity(SLOTS), spare: Vec::with_capacity(SLOTS) }
    }

    /// Takes one packet. `out` is called for every packet or super-packet that is ready, in the order in which they
    /// are to be written; this packet may be the last of them, or wait for [`Coalescer::flush`].
    #[inline]
    pub fn push(&mut self, packet: &IpPacket<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        match self.classify(packet) {
            Class::Joinable(candidate) => self.join(packet, &candidate, out),
            Class::Single(flow) => {
                self.release(|run| run.flow == flow, out);
                out(&VnetHdr::NONE, packet.bytes());
            }
            Class::Piece(pair) => {
                self.release(|run| run.flow.version == pair.version && run.flow.addresses == pair.addresses, out);
                out(&VnetHdr::NONE, packet.bytes());
            }
            Class::Stranger => out(&VnetHdr::NONE, packet.bytes()),
        }
    }

    /// Sends out all that is held, oldest first.
    #[inline]
    pub fn flush(&mut self, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        for mut run in self.held.drain(..) {
            run.emit(out);
            self.spare.push(run.buffer);
        }
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    #[inline]
    fn classify<'a>(&self, packet: &IpPacket<'a>) -> Class<'a> {
        if packet.fragment() != Fragment::None {
            return Class::Piece(Flow::new(packet, [0; 4]));
        }
        if !matches!(packet.protocol(), protocol::TCP | protocol::UDP) {
            return Class::Stranger;
        }
        let Some(ports) = packet.payload().first_chunk::<4>() else {
            return Class::Piece(Flow::new(packet, [0; 4]));
        };
        let flow = Flow::new(packet, *ports);
        if !self.joins.accepts(packet.version(), packet.protocol()) {
            return Class::Single(flow);
        }
        match candidate(packet, flow) {
            Some(candidate) => Class::Joinable(candidate),
            None => Class::Single(flow),
        }
    }

    #[inline]
    fn join(&mut self, packet: &IpPacket<'_>, new: &Candidate<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        // The newest run is the likeliest.
        let Some(at) = self.held.iter().rposition(|run| run.flow == new.flow) else {
            return self.start(packet, new, out);
        };
        let run = &mut self.held[at];
        if !run.continues_with(packet, new) {
            self.send(at, out);
            return self.start(packet, new, out);
        }
        if !run.append(packet, new) {
            self.send(at, out);
            return out(&VnetHdr::NONE, packet.bytes());
        }
        if run.is_closed(new) {
            self.send(at, out);
        }
    }

    /// Starts a run with a packet whose flow holds none.
    #[inline]
    fn start(&mut self, packet: &IpPacket<'_>, new: &Candidate<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        if new.closing != 0 {
            return out(&VnetHdr::NONE, packet.bytes());
        }
        if self.held.len() == SLOTS {
            self.send(0, out);
        }
        let buffer = self.spare.pop().unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice());
        match Run::start(buffer, packet, new) {
            Ok(run) => self.held.push(run),
            Err(buffer) => {
                self.spare.push(buffer);
                out(&VnetHdr::NONE, packet.bytes());
            }
        }
    }

    /// Sends out the runs that `matches` names.
    #[inline]
    fn release(&mut self, matches: impl Fn(&Run) -> bool, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        while let Some(at) = self.held.iter().position(&matches) {
            self.send(at, out);
        }
    }

    #[inline]
    fn send(&mut self, at: usize, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        let mut run = self.held.remove(at);
        run.emit(out);
        self.spare.push(run.buffer);
    }
}

impl Flow {
    #[inline]
    fn new(packet: &IpPacket<'_>, ports: [u8; 4]) -> Self {
        Self { ports, protocol: packet.protocol(), version: packet.version(), addresses: packet.address_words() }
    }
}

/// The packet as a segment, if it has the shape of one: no IPv4 options or IPv6 extensions, data in it, nothing but ACK,
/// ECE, PSH and FIN among its flags, a UDP checksum.
#[inline]
fn candidate<'a>(packet: &IpPacket<'a>, flow: Flow) -> Option<Candidate<'a>> {
    let plain = match packet.version() {
        Version::V4 => packet.header_len() == V4_HEADER_LEN && packet.v4_fragment_word() & !V4_DONT_FRAGMENT == 0,
        Version::V6 => packet.header_len() == ip::V6_HEADER_LEN,
    };
    // A checksum of 0 can also be written as 0xffff, as nobody but UDP does; joining would lose the difference.
    if !plain || packet.bytes().len() > ip::MAX_LEN || packet.v4_header_checksum() == 0xffff {
        return None;
    }
    let (upper_header, payload, closing) = if packet.protocol() == protocol::TCP {
        let segment = TcpSegment::parse(packet.payload()).ok()?;
        let flags = segment.flags();
        if flags & !(flags::ECE | flags::PSH | flags::FIN) != flags::ACK || segment.checksum() == 0xffff {
            return None;
        }
        (segment.header(), segment.payload(), flags & (flags::PSH | flags::FIN))
    } else {
        let datagram = UdpDatagram::parse(packet.payload()).ok()?;
        if datagram.checksum() == 0 || udp::HEADER_LEN + datagram.payload().len() != packet.payload().len() {
            return None;
        }
        (&datagram.fixed()[..], datagram.payload(), 0)
    };
    (!payload.is_empty()).then_some(Candidate { flow, upper_header, payload, closing })
}

/// The sum of a packet without its payload: valid if the payload's is added and the checksum is right.
#[inline]
fn header_sum(packet: &IpPacket<'_>, upper_header: &[u8]) -> Sum {
    // Lossless: a candidate is at most MAX_LEN bytes.
    packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16).add(upper_header)
}

impl Run {
    /// Copies the first packet to `buffer`; gives the buffer back if a checksum is wrong.
    #[inline]
    fn start(mut buffer: Box<[u8]>, packet: &IpPacket<'_>, new: &Candidate<'_>) -> Result<Self, Box<[u8]>> {
        let bytes = packet.bytes();
        let header_len = bytes.len() - new.payload.len();
        let (headers, body) = buffer.split_at_mut(header_len);
        headers.copy_from_slice(&bytes[..header_len]);
        let sum = header_sum(packet, new.upper_header).copy(body, new.payload);
        if !sum.is_valid() || !packet.header_checksum_ok() {
            return Err(buffer);
        }
        Ok(Self {
            buffer,
            len: bytes.len(),
            flow: new.flow,
            ip_len: packet.header_len(),
            header_len,
            step: new.payload.len(),
            count: 1,
            last_flags: 0,
            ids: Ids::Consecutive,
        })
    }

    /// Whether the packet is what segmentation would make next.
    #[inline]
    fn continues_with(&self, packet: &IpPacket<'_>, new: &Candidate<'_>) -> bool {
        let (ip, upper) = self.buffer[..self.header_len].split_at(self.ip_len);
        let new_ip = packet.headers();
        let fits = new.payload.len() <= self.step && self.len + new.payload.len() <= BUFFER_LEN;
        let same_ip = match self.flow.version {
            // TOS; DF; TTL.
            Version::V4 => ip[1] == new_ip[1] && ip[6..9] == new_ip[6..9] && self.id_follows(packet),
            // Traffic class and flow label; hop limit.
            Version::V6 => ip[..4] == new_ip[..4] && ip[7] == new_ip[7],
        };
        let same_upper = match self.flow.protocol {
            protocol::TCP => self.tcp_follows(upper, new.upper_header),
            _ => true,
        };
        fits && same_ip && same_upper
    }

    #[inline]
    fn id_follows(&self, packet: &IpPacket<'_>) -> bool {
        let first = u16::from_be_bytes([self.buffer[4], self.buffer[5]]);
        let id = packet.v4_id();
        let consecutive = id == first.wrapping_add(self.count as u16);
        let fixed = first == 0 && id == 0 && packet.dont_fragment();
        match self.ids {
            Ids::Consecutive => consecutive || fixed && self.count == 1,
            Ids::Fixed => fixed,
        }
    }

    /// Sequence next; acknowledgement, header length and reserved bits, flags but for PSH and FIN, window, urgent
    /// pointer and options equal.
    #[inline]
    fn tcp_follows(&self, first: &[u8], new: &[u8]) -> bool {
        let (Some(a), Some(b)) = (first.first_chunk::<{ tcp::HEADER_LEN }>(), new.first_chunk::<{ tcp::HEADER_LEN }>())
        else {
            return false;
        };
        let first_sequence = u32::from_be_bytes([a[4], a[5], a[6], a[7]]);
        let sequence = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        sequence == first_sequence.wrapping_add((self.count * self.step) as u32)
            && a[8..13] == b[8..13]
            && (a[13] ^ b[13]) & !(flags::PSH | flags::FIN) == 0
            && a[14..16] == b[14..16]
            && a[18..] == b[18..]
            && first[tcp::HEADER_LEN..] == new[tcp::HEADER_LEN..]
    }

    /// Appends the payload of a packet that continues the run. If a checksum is wrong the run is as before, and the
    /// answer `false`.
    #[inline]
    fn append(&mut self, packet: &IpPacket<'_>, new: &Candidate<'_>) -> bool {
        let Some(body) = self.buffer.get_mut(self.len..self.len + new.payload.len()) else { return false };
        let sum = header_sum(packet, new.upper_header).copy(body, new.payload);
        if !sum.is_valid() || !packet.header_checksum_ok() {
            return false;
        }
        if self.count == 1 && packet.version() == Version::V4 && packet.v4_id() == 0 {
            let first_is_zero = self.buffer[4..6] == [0, 0];
            self.ids = if first_is_zero { Ids::Fixed } else { Ids::Consecutive };
        }
        self.len += new.payload.len();
        self.count += 1;
        self.last_flags = new.closing;
        true
    }

    /// Whether nothing can follow the packet just appended.
    #[inline]
    fn is_closed(&self, last: &Candidate<'_>) -> bool {
        last.closing != 0
            || last.payload.len() < self.step
            || self.len == BUFFER_LEN
            || self.flow.protocol == protocol::UDP && self.count == MAX_UDP_SEGMENTS
    }

    /// Sends the run out: a lone packet as it came, a joined one with headers for all of it.
    #[inline]
    fn emit(&mut self, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        let vnet = if self.count == 1 { VnetHdr::NONE } else { self.finish() };
        out(&vnet, &self.buffer[..self.len]);
    }

    /// Rewrites the headers of the first packet for the whole run.
    #[inline]
    fn finish(&mut self) -> VnetHdr {
        let (ip, upper) = self.buffer[..self.header_len].split_at_mut(self.ip_len);
        let upper_len = self.len - self.ip_len;
        let addresses = match self.flow.version {
            Version::V4 => {
                ip[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                ip[10..12].fill(0);
                let checksum = Sum::default().add(ip).finish();
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                &ip[12..20]
            }
            Version::V6 => {
                ip[4..6].copy_from_slice(&(upper_len as u16).to_be_bytes());
                &ip[8..40]
            }
        };
        let pseudo = Sum::default().add(addresses).add_u16(u16::from(self.flow.protocol)).add_u16(upper_len as u16);
        let (gso_type, checksum_at) = match (self.flow.protocol, self.flow.version) {
            (protocol::TCP, version) => {
                upper[13] |= self.last_flags;
                (if version == Version::V4 { vnet::GSO_TCPV4 } else { vnet::GSO_TCPV6 }, tcp::CHECKSUM_AT)
            }
            _ => {
                upper[4..6].copy_from_slice(&(upper_len as u16).to_be_bytes());
                (vnet::GSO_UDP_L4, udp::CHECKSUM_AT)
            }
        };
        upper[checksum_at..checksum_at + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
        VnetHdr {
            flags: vnet::NEEDS_CSUM,
            gso_type,
            hdr_len: self.header_len as u16,
            gso_size: self.step as u16,
            csum_start: self.ip_len as u16,
            csum_offset: checksum_at as u16,
        }
    }
}
