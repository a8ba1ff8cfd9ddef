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
//!
//! [`Coalescer::push_frame`] and [`Coalescer::push_frame_partial`] do the same with the packets in frames: those of one run have equal link-layer headers.
//!
//! [`Coalescer::push_partial`] takes packets that came authenticated and without a transport checksum, and summing is left
//! to whoever reads them from the device last. They are joined only where the sender says so, and only with each other.

use std::ops::{Deref, DerefMut};

use crate::Malformed;
use crate::checksum::Sum;
use crate::frame::{self, Frame};
use crate::ip::{self, Fragment, IpPacket, Version, protocol};
pub use crate::run::MAX_UDP_SEGMENTS;
use crate::run::{Flow, Ids, Key, Upper};
use crate::tcp::{self, flags};
use crate::udp;
use crate::vnet::{self, VnetHdr};

/// Flows held at a time; the oldest run leaves when a further flow comes.
pub const SLOTS: usize = 8;
/// Bytes of one run's buffer.
const BUFFER_LEN: usize = ip::MAX_LEN;
/// Room before a run's packets for a link-layer header; packets begin at a cache line.
const HEADROOM: usize = 64;
const _: () = assert!(HEADROOM >= frame::MAX_LINK);
/// The most memory that one coalescer takes, when all its slots are in use.
pub const MEMORY_MAX: usize = SLOTS * (HEADROOM + BUFFER_LEN);

/// Which packets the device accepts that are not complete packets as they are.
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
    /// Single packets whose checksum is partial: any device with a virtio header does.
    pub partial: bool,
}

impl Joins {
    /// Everything.
    pub const ALL: Self = Self { tcp4: true, tcp6: true, udp4: true, udp6: true, partial: true };

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
    spare: Vec<Buffer>,
    /// The run that holds the packet pushed last, if that is a partial one.
    latest: Option<usize>,
}

/// Packets of one flow, joined so far.
#[derive(Debug)]
struct Run {
    /// The first packet as it came, then the payload of the others.
    buffer: Buffer,
    /// Bytes of the link-layer header before it.
    link_len: usize,
    len: usize,
    key: Key,
    flow: Flow,
    /// Its packets came by [`Coalescer::push_partial`].
    partial: bool,
    ip_len: usize,
    header_len: usize,
    /// Payload bytes of each packet.
    step: usize,
    count: usize,
    /// FIN and PSH of the last packet.
    last_flags: u8,
    ids: Ids,
}

/// The bytes of a run, behind room for a link-layer header.
#[derive(Debug)]
struct Buffer(Box<[u8]>);

impl Buffer {
    #[cold]
    fn new() -> Self {
        Self(vec![0; HEADROOM + BUFFER_LEN].into_boxed_slice())
    }

    #[inline]
    fn set_link(&mut self, link: &[u8]) {
        self.0[HEADROOM - link.len()..HEADROOM].copy_from_slice(link);
    }

    #[inline]
    fn link(&self, len: usize) -> &[u8] {
        &self.0[HEADROOM - len..HEADROOM]
    }

    /// The link-layer header and the first bytes behind it.
    #[inline]
    fn frame(&self, link_len: usize, len: usize) -> &[u8] {
        &self.0[HEADROOM - link_len..HEADROOM + len]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0[HEADROOM..]
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0[HEADROOM..]
    }
}

/// A packet, and what it came in.
#[derive(Clone, Copy)]
struct Unit<'p, 'a> {
    /// The link-layer header; none of a packet from a TUN device.
    link: &'a [u8],
    packet: &'p IpPacket<'a>,
    /// From the first byte of the header to the last behind the packet.
    whole: &'a [u8],
}

impl<'p, 'a> Unit<'p, 'a> {
    #[inline]
    fn bare(packet: &'p IpPacket<'a>) -> Self {
        Self { link: &[], packet, whole: packet.bytes() }
    }

    #[inline]
    fn framed(frame: &Frame<'a>, packet: &'p IpPacket<'a>) -> Self {
        Self { link: frame.link(), packet, whole: frame.bytes() }
    }

    /// Whether nothing follows the packet.
    #[inline]
    fn is_tight(&self) -> bool {
        self.whole.len() == self.link.len() + self.packet.bytes().len()
    }
}

/// What a packet is to the coalescer.
enum Class<'a> {
    /// May start or continue a run.
    Joinable(Key, Upper<'a>),
    /// Belongs to a flow that may be held, but is joined with nothing.
    Single(Flow),
    /// A piece of something between two addresses: its flow is unknown.
    Piece(Flow),
    /// Nothing that could belong to a held flow.
    Stranger,
}

impl Coalescer {
    /// One that joins what the device accepts.
    #[must_use]
    pub fn new(joins: Joins) -> Self {
        Self { joins, held: Vec::with_capacity(SLOTS), spare: Vec::with_capacity(SLOTS), latest: None }
    }

    /// Takes one packet. `out` is called for every packet or super-packet that is ready, in the order in which they
    /// are to be written; this packet may be the last of them, or wait for [`Coalescer::flush`].
    #[inline]
    pub fn push(&mut self, packet: &IpPacket<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        self.take(Unit::bare(packet), out);
    }

    /// As [`Coalescer::push`], for a frame: what is written are frames.
    #[inline]
    pub fn push_frame(&mut self, frame: &Frame<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        match frame.packet() {
            Some(packet) => self.take(Unit::framed(frame, &packet), out),
            None => {
                self.latest = None;
                out(&VnetHdr::NONE, frame.bytes());
            }
        }
    }

    #[inline]
    fn take(&mut self, unit: Unit<'_, '_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        self.latest = None;
        match self.classify(&unit) {
            Class::Joinable(key, upper) => self.join(unit, key, &upper, out),
            Class::Single(flow) => {
                self.release(|run| run.flow == flow, out);
                out(&VnetHdr::NONE, unit.whole);
            }
            Class::Piece(pair) => {
                self.release(|run| run.flow.version == pair.version && run.flow.addresses == pair.addresses, out);
                out(&VnetHdr::NONE, unit.whole);
            }
            Class::Stranger => out(&VnetHdr::NONE, unit.whole),
        }
    }

    /// As [`Coalescer::push`], for a TCP or UDP packet that was authenticated on its way, and whose checksum field means
    /// nothing: it leaves with the sum of the pseudo-header there, for whoever needs a checksum to complete; or complete, if
    /// the device takes no partial one.
    ///
    /// It is joined with the packet pushed last if its sender says that it `continues` that one, and it does.
    ///
    /// # Errors
    /// The packet was not taken, and is to be dropped: [`Malformed::OffloadType`] for a fragment and for what is neither
    /// TCP nor UDP, [`Malformed::HeaderChecksum`] of IPv4, [`Malformed::TotalLength`] for a datagram that does not fill its
    /// packet and for a packet of more than [`ip::MAX_LEN`] bytes; and whatever is wrong with the upper-layer header.
    #[inline]
    pub fn push_partial(
        &mut self,
        packet: &IpPacket<'_>,
        continues: bool,
        out: &mut impl FnMut(&VnetHdr, &[u8]),
    ) -> Result<(), Malformed> {
        self.take_partial(Unit::bare(packet), continues, out)
    }

    /// As [`Coalescer::push_partial`], for a frame.
    ///
    /// # Errors
    /// As there; [`Malformed::OffloadType`] for a frame without an IP packet, [`Malformed::TotalLength`] for one with more.
    #[inline]
    pub fn push_frame_partial(
        &mut self,
        frame: &Frame<'_>,
        continues: bool,
        out: &mut impl FnMut(&VnetHdr, &[u8]),
    ) -> Result<(), Malformed> {
        let packet = frame.packet().ok_or(Malformed::OffloadType)?;
        let unit = Unit::framed(frame, &packet);
        if !unit.is_tight() {
            return Err(Malformed::TotalLength);
        }
        self.take_partial(unit, continues, out)
    }

    #[inline]
    fn take_partial(
        &mut self,
        unit: Unit<'_, '_>,
        continues: bool,
        out: &mut impl FnMut(&VnetHdr, &[u8]),
    ) -> Result<(), Malformed> {
        let packet = unit.packet;
        let latest = self.latest.take();
        let upper = Upper::parse(packet)?;
        if packet.bytes().len() > ip::MAX_LEN {
            return Err(Malformed::TotalLength);
        }
        if !packet.header_checksum_ok() {
            return Err(Malformed::HeaderChecksum);
        }
        let joinable = upper.joinable && self.joins.accepts(packet.version(), packet.protocol());
        let key = if joinable { Key::new(packet) } else { None };
        if continues
            && let Some(key) = key
            && let Some(at) = latest
            && let Some(run) = self.held.get_mut(at)
            && run.key == key
            && run.has_link(unit.link)
            && let Some(ids) = run.continues_with(packet, &upper)
            && run.append(&upper, ids)
        {
            if run.is_closed(&upper) {
                self.send(at, out);
            } else {
                self.latest = latest;
            }
            return Ok(());
        }
        let flow = Flow::new(packet, *packet.payload().first_chunk().ok_or(Malformed::Truncated)?);
        self.release(|run| run.flow == flow, out);
        match key {
            Some(key) if upper.closing == 0 => {
                let buffer = self.buffer(out);
                let run = Run::start_partial(buffer, unit, key, flow, &upper);
                self.held.push(run);
                self.latest = Some(self.held.len() - 1);
            }
            _ => self.pass_partial(unit, &upper, out),
        }
        Ok(())
    }

    /// Sends out all that is held, oldest first.
    #[inline]
    pub fn flush(&mut self, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        self.latest = None;
        for mut run in self.held.drain(..) {
            run.emit(self.joins, out);
            self.spare.push(run.buffer);
        }
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    #[inline]
    fn classify<'a>(&self, unit: &Unit<'_, 'a>) -> Class<'a> {
        let packet = unit.packet;
        if packet.fragment() != Fragment::None {
            return Class::Piece(Flow::new(packet, [0; 4]));
        }
        if !matches!(packet.protocol(), protocol::TCP | protocol::UDP) {
            return Class::Stranger;
        }
        let Some(ports) = packet.payload().first_chunk::<4>() else {
            return Class::Piece(Flow::new(packet, [0; 4]));
        };
        if self.joins.accepts(packet.version(), packet.protocol())
            && packet.bytes().len() <= ip::MAX_LEN
            && unit.is_tight()
            && let Some(key) = Key::new(packet)
            && let Ok(upper) = Upper::parse(packet)
            && upper.joinable
            && upper.checksum() != unusual_checksum(packet.protocol())
        {
            return Class::Joinable(key, upper);
        }
        Class::Single(Flow::new(packet, *ports))
    }

    #[inline]
    fn join(&mut self, unit: Unit<'_, '_>, key: Key, new: &Upper<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        let packet = unit.packet;
        // The newest run is the likeliest.
        let Some(at) = self.held.iter().rposition(|run| run.key == key && run.has_link(unit.link)) else {
            let Some(ports) = packet.payload().first_chunk() else { return };
            let flow = Flow::new(packet, *ports);
            self.release(|run| run.flow == flow, out);
            return self.start(unit, key, flow, new, out);
        };
        let run = &mut self.held[at];
        let Some(ids) = run.continues_with(packet, new).filter(|_| !run.partial) else {
            let flow = run.flow;
            self.send(at, out);
            return self.start(unit, key, flow, new, out);
        };
        if !run.append_verified(packet, new, ids) {
            self.send(at, out);
            return out(&VnetHdr::NONE, unit.whole);
        }
        if run.is_closed(new) {
            self.send(at, out);
        }
    }

    /// Starts a run with a packet whose flow holds none.
    #[inline]
    fn start(
        &mut self,
        unit: Unit<'_, '_>,
        key: Key,
        flow: Flow,
        new: &Upper<'_>,
        out: &mut impl FnMut(&VnetHdr, &[u8]),
    ) {
        if new.closing != 0 {
            return out(&VnetHdr::NONE, unit.whole);
        }
        let buffer = self.buffer(out);
        match Run::start(buffer, unit, key, flow, new) {
            Ok(run) => self.held.push(run),
            Err(buffer) => {
                self.spare.push(buffer);
                out(&VnetHdr::NONE, unit.whole);
            }
        }
    }

    /// Sends a partial packet out alone: uncopied if its checksum field already holds what it should, as that of an honest
    /// sender does.
    #[inline]
    fn pass_partial(&mut self, unit: Unit<'_, '_>, upper: &Upper<'_>, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        let (packet, link_len) = (unit.packet, unit.link.len());
        let bytes = packet.bytes();
        // Lossless: a packet of at most MAX_LEN bytes.
        let pseudo = packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16);
        if self.joins.partial && upper.checksum() == pseudo.fold() {
            let header = partial_header(packet.header_len(), upper.header.len(), upper.checksum_at);
            return out(&header.behind(link_len), unit.whole);
        }
        let mut buffer = self.spare.pop().unwrap_or_else(Buffer::new);
        buffer.set_link(unit.link);
        if let Some(copy) = buffer.get_mut(..bytes.len()) {
            copy.copy_from_slice(bytes);
            let (ip_len, upper_len) = (packet.header_len(), upper.header.len());
            let vnet = finish_single(self.joins, copy, ip_len, upper_len, packet.protocol(), pseudo);
            out(&vnet.behind(link_len), buffer.frame(link_len, bytes.len()));
        }
        self.spare.push(buffer);
    }

    /// A buffer for a further run; the oldest one leaves if there are too many.
    #[inline]
    fn buffer(&mut self, out: &mut impl FnMut(&VnetHdr, &[u8])) -> Buffer {
        if self.held.len() == SLOTS {
            self.send(0, out);
        }
        self.spare.pop().unwrap_or_else(Buffer::new)
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
        run.emit(self.joins, out);
        self.spare.push(run.buffer);
    }
}

/// The checksum with which a packet is not joined: a UDP sender computed none, and a TCP checksum of 0 can also be written as
/// 0xffff, as nobody but UDP does; joining would lose the difference.
#[inline]
fn unusual_checksum(protocol: u8) -> u16 {
    if protocol == protocol::TCP { 0xffff } else { 0 }
}

/// The virtio header of a single packet whose checksum is partial.
#[inline]
fn partial_header(ip_len: usize, upper_len: usize, checksum_at: usize) -> VnetHdr {
    VnetHdr {
        flags: vnet::NEEDS_CSUM,
        hdr_len: (ip_len + upper_len) as u16,
        csum_start: ip_len as u16,
        csum_offset: checksum_at as u16,
        ..VnetHdr::NONE
    }
}

/// Writes the checksum field of a single partial packet, partial or complete as the device wants it. `pseudo` is the sum of
/// the pseudo-header with its length.
#[inline]
fn finish_single(
    joins: Joins,
    packet: &mut [u8],
    ip_len: usize,
    upper_len: usize,
    protocol: u8,
    pseudo: Sum,
) -> VnetHdr {
    let checksum_at = if protocol == protocol::TCP { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT };
    let Some(upper) = packet.get_mut(ip_len..) else { return VnetHdr::NONE };
    let put = |upper: &mut [u8], value: u16| {
        if let Some(field) = upper.get_mut(checksum_at..checksum_at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    };
    if joins.partial {
        put(upper, pseudo.fold());
        return partial_header(ip_len, upper_len, checksum_at);
    }
    put(upper, 0);
    let sum = pseudo.add(upper);
    put(upper, if protocol == protocol::TCP { sum.finish() } else { udp::finish(sum) });
    VnetHdr::NONE
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
    fn start(mut buffer: Buffer, unit: Unit<'_, '_>, key: Key, flow: Flow, new: &Upper<'_>) -> Result<Self, Buffer> {
        let packet = unit.packet;
        let bytes = packet.bytes();
        let header_len = bytes.len() - new.payload.len();
        let (headers, body) = buffer.split_at_mut(header_len);
        headers.copy_from_slice(&bytes[..header_len]);
        let sum = header_sum(packet, new.header).copy(body, new.payload);
        if !sum.is_valid() || !packet.header_checksum_ok() {
            return Err(buffer);
        }
        Ok(Self::new(buffer, unit, key, flow, new))
    }

    /// Copies the first partial packet, of at most [`BUFFER_LEN`] bytes, to `buffer`.
    #[inline]
    fn start_partial(mut buffer: Buffer, unit: Unit<'_, '_>, key: Key, flow: Flow, new: &Upper<'_>) -> Self {
        let bytes = unit.packet.bytes();
        buffer[..bytes.len()].copy_from_slice(bytes);
        Self { partial: true, ..Self::new(buffer, unit, key, flow, new) }
    }

    #[inline]
    fn new(mut buffer: Buffer, unit: Unit<'_, '_>, key: Key, flow: Flow, new: &Upper<'_>) -> Self {
        let packet = unit.packet;
        buffer.set_link(unit.link);
        Self {
            buffer,
            link_len: unit.link.len(),
            len: packet.bytes().len(),
            key,
            flow,
            partial: false,
            ip_len: packet.header_len(),
            header_len: packet.header_len() + new.header.len(),
            step: new.payload.len(),
            count: 1,
            last_flags: 0,
            ids: Ids::Consecutive,
        }
    }

    /// Whether its packets are behind this link-layer header.
    #[inline]
    fn has_link(&self, link: &[u8]) -> bool {
        self.buffer.link(self.link_len) == link
    }

    /// Whether a packet of the same key is what segmentation would make next, and how the ids then run on.
    #[inline]
    fn continues_with(&self, packet: &IpPacket<'_>, new: &Upper<'_>) -> Option<Ids> {
        if new.payload.len() > self.step || self.len + new.payload.len() > BUFFER_LEN {
            return None;
        }
        if self.flow.protocol == protocol::TCP
            && !self.tcp_follows(&self.buffer[self.ip_len..self.header_len], new.header)
        {
            return None;
        }
        let first_id = match self.flow.version {
            Version::V4 => u16::from_be_bytes([self.buffer[4], self.buffer[5]]),
            Version::V6 => 0,
        };
        self.ids.with(first_id, self.count, packet)
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
    fn append_verified(&mut self, packet: &IpPacket<'_>, new: &Upper<'_>, ids: Ids) -> bool {
        let Some(body) = self.buffer.get_mut(self.len..self.len + new.payload.len()) else { return false };
        let sum = header_sum(packet, new.header).copy(body, new.payload);
        if !sum.is_valid() || !packet.header_checksum_ok() {
            return false;
        }
        self.appended(new, ids);
        true
    }

    /// Appends the payload of a packet that continues the run and needs no verifying.
    #[inline]
    fn append(&mut self, new: &Upper<'_>, ids: Ids) -> bool {
        let Some(body) = self.buffer.get_mut(self.len..self.len + new.payload.len()) else { return false };
        body.copy_from_slice(new.payload);
        self.appended(new, ids);
        true
    }

    #[inline]
    fn appended(&mut self, new: &Upper<'_>, ids: Ids) {
        self.ids = ids;
        self.len += new.payload.len();
        self.count += 1;
        self.last_flags = new.closing;
    }

    /// Whether nothing can follow the packet just appended.
    #[inline]
    fn is_closed(&self, last: &Upper<'_>) -> bool {
        last.closing != 0
            || last.payload.len() < self.step
            || self.len == BUFFER_LEN
            || self.flow.protocol == protocol::UDP && self.count == MAX_UDP_SEGMENTS
    }

    /// Sends the run out: a lone packet as it came, or finished if it is partial; a joined one with headers for all of it.
    #[inline]
    fn emit(&mut self, joins: Joins, out: &mut impl FnMut(&VnetHdr, &[u8])) {
        let vnet = match (self.count, self.partial) {
            (1, false) => VnetHdr::NONE,
            (1, true) => self.finish_lone(joins),
            _ => self.finish(),
        };
        out(&vnet.behind(self.link_len), self.buffer.frame(self.link_len, self.len));
    }

    #[inline]
    fn finish_lone(&mut self, joins: Joins) -> VnetHdr {
        let packet = &mut self.buffer[..self.len];
        let addresses = if self.flow.version == Version::V4 { &packet[12..20] } else { &packet[8..40] };
        let upper_len = self.len - self.ip_len;
        let pseudo = Sum::default().add(addresses).add_u16(u16::from(self.flow.protocol)).add_u16(upper_len as u16);
        finish_single(joins, packet, self.ip_len, self.header_len - self.ip_len, self.flow.protocol, pseudo)
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
