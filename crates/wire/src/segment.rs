//! A super-packet becomes its segments, each byte of payload copied and summed in one pass, or left in its place.
//!
//! The kernel hands a TUN device up to 64 KiB of TCP or UDP under one set of headers and leaves it to the reader to
//! split them (TSO, USO). The segments are the same bytes the kernel's own segmentation would make: `tcp_gso_segment` in
//! net/ipv4/tcp_offload.c, `__udp_gso_segment` in net/ipv4/udp_offload.c, `inet_gso_segment` in net/ipv4/af_inet.c.
//!
//! 1. [`SuperPacket::parse`] finds the headers by its own parse (lengths in the virtio header are hints that a kernel
//!    may get wrong), and sums once what all segments share.
//!    [`SuperPacket::parse_frame`] does the same behind a link-layer header, which every segment then begins with.
//! 2. [`SuperPacket::emit`] writes one segment: copies the headers, changes the fields that differ, copies the payload.
//!    [`InPlace`] does the same without copying the payload, for a reader that copies it anyway.

use std::ops::Range;

use crate::Malformed;
use crate::checksum::Sum;
use crate::frame::Frame;
use crate::ip::{Fragment, IpPacket, V6_HEADER_LEN, Version, protocol};
use crate::tcp::{self, TcpSegment, flags};
use crate::udp::{self, UdpDatagram};
use crate::vnet::{self, VnetHdr};

/// A packet from a device, validated together with its virtio header.
#[derive(Clone, Copy, Debug)]
pub struct SuperPacket<'a> {
    /// What every segment starts with: all headers, or what lies before the sum of [`Kind::Checksum`].
    headers: &'a [u8],
    /// What is divided among the segments.
    payload: &'a [u8],
    layout: Layout,
}

/// How a validated packet is divided: all that [`SuperPacket`] knows about it but for the bytes themselves.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes before the IP header, in a frame.
    link_len: usize,
    /// Those and the headers behind them.
    header_len: usize,
    payload_len: usize,
    kind: Kind,
    /// Payload bytes in each segment but the last.
    step: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// One packet, copied as it is.
    Whole,
    /// One packet whose checksum is to be completed; `at` is the field's place in the payload. `upper` says that it is
    /// the TCP or UDP checksum our own parse knows, and that the field holds the sum of the pseudo-header it knows.
    Checksum { at: usize, upper: bool },
    /// TCP or UDP to be split.
    Split { ip: Ip, upper: Upper },
}

/// The IP headers that all segments share.
#[derive(Clone, Copy, Debug)]
struct Ip {
    len: usize,
    version: Version,
    /// IPv4: the header's sum without length, id and checksum.
    header_sum: Sum,
    /// IPv4: id of the first segment.
    id: u16,
    /// The pseudo-header without length.
    pseudo: Sum,
}

#[derive(Clone, Copy, Debug)]
enum Upper {
    /// `sum` is that of the header without sequence, the word of the flags, and checksum.
    Tcp { sequence: u32, offset: u8, flags: u8, sum: Sum },
    /// `sum` is that of the ports.
    Udp { sum: Sum },
}

impl<'a> SuperPacket<'a> {
    /// Validates `packet` against the virtio header it came with.
    ///
    /// # Errors
    /// [`Malformed::OffloadType`] if the type is unknown or not what the packet is, [`Malformed::SegmentSize`] for an
    /// offload without one, [`Malformed::ChecksumOffsets`] if they do not name the field that this type of packet has,
    /// or, without an offload, a field behind the IP headers and within the packet; and whatever is wrong with the
    /// upper-layer header.
    #[inline]
    pub fn parse(vnet: VnetHdr, packet: IpPacket<'a>) -> Result<Self, Malformed> {
        if vnet.gso_type == vnet::GSO_NONE {
            return Self::parse_single(vnet, packet);
        }
        if packet.fragment() != Fragment::None {
            return Err(Malformed::OffloadType);
        }
        let step = usize::from(vnet.gso_size);
        if step == 0 {
            return Err(Malformed::SegmentSize);
        }
        let (upper, upper_len, checksum_at) = match (vnet.gso_type, packet.version(), packet.protocol()) {
            (vnet::GSO_UDP_L4, _, protocol::UDP) => Upper::parse_udp(&packet)?,
            (gso_type, version, protocol::TCP)
                if matches!(
                    (gso_type & !vnet::GSO_ECN, version),
                    (vnet::GSO_TCPV4, Version::V4) | (vnet::GSO_TCPV6, Version::V6)
                ) =>
            {
                Upper::parse_tcp(&packet)?
            }
            _ => return Err(Malformed::OffloadType),
        };
        let offsets = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
        if vnet.needs_csum() && offsets != (packet.header_len(), checksum_at) {
            return Err(Malformed::ChecksumOffsets);
        }
        let (headers, payload) = packet.bytes().split_at(packet.header_len() + upper_len);
        let count = payload.len().div_ceil(step).max(1);
        Ok(Self::new(headers, payload, Kind::Split { ip: Ip::new(&packet), upper }, step, count))
    }

    /// Validates a frame against the virtio header it came with. What follows an IP packet in its frame is kept, unless the packet is to be split or its
    /// checksum is to be completed: then it is padding, and ends here. Frames without an IP packet stay as they are, but for such a checksum.
    ///
    /// # Errors
    /// As [`SuperPacket::parse`]; [`Malformed::OffloadType`] for one to be split without an IP packet that could be.
    #[inline]
    pub fn parse_frame(vnet: VnetHdr, frame: &Frame<'a>) -> Result<Self, Malformed> {
        let link_len = frame.link().len();
        let Some(packet) = frame.packet() else { return Self::parse_strange(vnet, frame) };
        let inner = Self::parse(vnet.without(link_len).ok_or(Malformed::ChecksumOffsets)?, packet)?;
        if matches!(inner.layout.kind, Kind::Whole) {
            return Ok(Self::new(&[], frame.bytes(), Kind::Whole, frame.bytes().len(), 1));
        }
        let Layout { header_len, kind, step, count, .. } = inner.layout;
        let headers = frame.bytes().get(..link_len + header_len).ok_or(Malformed::Truncated)?;
        let mut whole = Self::new(headers, inner.payload, kind, step, count);
        whole.layout.link_len = link_len;
        Ok(whole)
    }

    /// A frame whose inside we do not know.
    fn parse_strange(vnet: VnetHdr, frame: &Frame<'a>) -> Result<Self, Malformed> {
        if vnet.gso_type != vnet::GSO_NONE {
            return Err(Malformed::OffloadType);
        }
        let (split_at, kind) = if vnet.needs_csum() {
            let (start, at) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
            if start < frame.link().len() || start + at + 2 > frame.bytes().len() {
                return Err(Malformed::ChecksumOffsets);
            }
            (start, Kind::Checksum { at, upper: false })
        } else {
            (0, Kind::Whole)
        };
        let (headers, payload) = frame.bytes().split_at(split_at);
        Ok(Self::new(headers, payload, kind, payload.len(), 1))
    }

    /// A packet that is not to be split.
    #[inline]
    fn parse_single(vnet: VnetHdr, packet: IpPacket<'a>) -> Result<Self, Malformed> {
        let (split_at, kind) = if vnet.needs_csum() {
            let (start, at) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
            if start < packet.header_len() || start + at + 2 > packet.bytes().len() {
                return Err(Malformed::ChecksumOffsets);
            }
            let upper = start == packet.header_len()
                && packet.fragment() == Fragment::None
                && matches!(
                    (packet.protocol(), at),
                    (protocol::TCP, tcp::CHECKSUM_AT) | (protocol::UDP, udp::CHECKSUM_AT)
                )
                && holds_pseudo_header(&packet, at);
            (start, Kind::Checksum { at, upper })
        } else {
            (0, Kind::Whole)
        };
        let (headers, payload) = packet.bytes().split_at(split_at);
        Ok(Self::new(headers, payload, kind, payload.len(), 1))
    }

    #[inline]
    fn new(headers: &'a [u8], payload: &'a [u8], kind: Kind, step: usize, count: usize) -> Self {
        let layout = Layout { link_len: 0, header_len: headers.len(), payload_len: payload.len(), kind, step, count };
        Self { headers, payload, layout }
    }

    /// Its layout, which borrows nothing.
    #[inline]
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// As [`Layout::count`].
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.layout.count()
    }

    /// As [`Layout::len_of`].
    #[inline]
    #[must_use]
    pub fn len_of(&self, index: usize) -> usize {
        self.layout.len_of(index)
    }

    /// As [`Layout::segment_len`].
    #[inline]
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.layout.segment_len()
    }

    /// As [`Layout::has_partial`].
    #[inline]
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.layout.has_partial()
    }

    /// Writes segment `index` to the front of `out`, all checksums complete, and returns its length; 0, with nothing
    /// written, if there is no such segment or `out` is too short.
    #[inline]
    pub fn emit(&self, index: usize, out: &mut [u8]) -> usize {
        self.write::<true>(index, out).unwrap_or(0)
    }

    /// As [`SuperPacket::emit`], but the TCP or UDP checksum field is left with the folded sum of the pseudo-header
    /// (`CHECKSUM_PARTIAL`), and the payload is not summed. A checksum that is neither ([`SuperPacket::has_partial`])
    /// is completed.
    #[inline]
    pub fn emit_partial(&self, index: usize, out: &mut [u8]) -> usize {
        self.write::<false>(index, out).unwrap_or(0)
    }

    #[inline]
    fn write<const COMPLETE: bool>(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let piece = self.payload.get(self.layout.piece(index)?)?;
        let length = self.headers.len() + piece.len();
        let (headers, body) = out.get_mut(..length)?.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        if self.layout.needs_sum::<COMPLETE>() {
            let sum = Sum::default().copy(body, piece);
            self.layout.finish::<COMPLETE>(index, sum, headers, body)?;
        } else {
            body.copy_from_slice(piece);
            self.layout.finish::<COMPLETE>(index, Sum::default(), headers, body)?;
        }
        Some(length)
    }
}

impl Layout {
    /// How many segments there are; at least 1.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of segment `index`, headers included; 0 if there is no such segment.
    #[inline]
    #[must_use]
    pub fn len_of(&self, index: usize) -> usize {
        self.piece(index).map_or(0, |piece| self.header_len + piece.len())
    }

    /// Bytes of the longest segment, which is the first.
    #[inline]
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.header_len + self.payload_len.min(self.step)
    }

    /// Whether [`SuperPacket::emit_partial`] and [`InPlace::next_partial`] leave a partial checksum.
    #[inline]
    #[must_use]
    pub fn has_partial(&self) -> bool {
        matches!(self.kind, Kind::Split { .. } | Kind::Checksum { upper: true, .. })
    }

    /// Splits the packet inside the buffer that holds it: the one this layout was made from, unchanged since. `None` if
    /// there is more than one segment and the headers are longer than [`InPlace::MAX_HEADERS`], or if the buffer is too
    /// short.
    #[inline]
    #[must_use]
    pub fn in_place(self, buffer: &mut [u8]) -> Option<InPlace<'_>> {
        let buffer = buffer.get_mut(..self.header_len + self.payload_len)?;
        let mut headers = [0; InPlace::MAX_HEADERS];
        if self.count > 1 {
            headers.get_mut(..self.header_len)?.copy_from_slice(buffer.get(..self.header_len)?);
        }
        Some(InPlace { layout: self, buffer, headers, next: 0 })
    }

    /// Where the payload of segment `index` lies in that of the packet.
    #[inline]
    fn piece(&self, index: usize) -> Option<Range<usize>> {
        if index >= self.count {
            return None;
        }
        // Below payload_len for every index but a lone 0, so it cannot overflow.
        let start = index * self.step;
        Some(start..self.payload_len.min(start + self.step))
    }

    /// Whether [`Layout::finish`] needs the sum of the payload.
    #[inline]
    fn needs_sum<const COMPLETE: bool>(&self) -> bool {
        match self.kind {
            Kind::Whole => false,
            Kind::Checksum { upper, .. } => COMPLETE || !upper,
            Kind::Split { .. } => COMPLETE,
        }
    }

    /// Writes what segment `index` differs in to a copy of the headers, and to the payload `body`, whose sum is `sum`.
    #[inline]
    fn finish<const COMPLETE: bool>(&self, index: usize, sum: Sum, headers: &mut [u8], body: &mut [u8]) -> Option<()> {
        match &self.kind {
            Kind::Whole => {}
            Kind::Checksum { at, .. } => {
                if self.needs_sum::<COMPLETE>() {
                    // As skb_checksum_help() does: 0 would mean "no checksum" to UDP, and both are right for the others.
                    let checksum = udp::finish(sum);
                    body.get_mut(*at..)?.first_chunk_mut::<2>()?.copy_from_slice(&checksum.to_be_bytes());
                }
            }
            Kind::Split { ip, upper } => {
                let (_, headers) = headers.split_at_mut_checked(self.link_len)?;
                let length = headers.len() + body.len();
                let (ip_header, upper_header) = headers.split_at_mut_checked(ip.len)?;
                ip.patch(index, length, ip_header)?;
                let upper_len = length - ip.len;
                let pseudo = ip.pseudo.add_u16(upper_len as u16);
                let (is_first, is_last) = (index == 0, index + 1 == self.count);
                let place = Place { offset: index * self.step, upper_len, is_first, is_last };
                upper.patch::<COMPLETE>(&place, pseudo, sum, upper_header)?;
            }
        }
        Some(())
    }
}

/// The segments of a packet, one after the other, each made inside the buffer that the packet lies in: its headers are
/// written right before its payload, over the end of the payload before, which went out with the segment before. For a
/// reader that copies each segment anyway, as encryption does on the way to a train: it saves a copy of the payload.
///
/// The segments are the same bytes as [`SuperPacket::emit`] and [`SuperPacket::emit_partial`] write. What the buffer holds
/// in the end is of no use.
#[derive(Debug)]
pub struct InPlace<'b> {
    layout: Layout,
    buffer: &'b mut [u8],
    /// Those of the packet, which the second segment may overwrite.
    headers: [u8; InPlace::MAX_HEADERS],
    next: usize,
}

impl<'b> InPlace<'b> {
    /// Bytes of the longest headers of a packet to be split that are kept: IPv6 and TCP at their longest take 100, which
    /// leaves room for extension headers.
    pub const MAX_HEADERS: usize = 256;

    /// Validates the packet in `buffer` as [`SuperPacket::parse`] does, and splits it. `None` as for [`Layout::in_place`].
    ///
    /// # Errors
    /// As [`IpPacket::parse`] and [`SuperPacket::parse`].
    #[inline]
    pub fn parse(vnet: VnetHdr, buffer: &'b mut [u8]) -> Result<Option<Self>, Malformed> {
        let layout = SuperPacket::parse(vnet, IpPacket::parse(buffer)?)?.layout();
        Ok(layout.in_place(buffer))
    }

    /// The next segment, all checksums complete.
    #[inline]
    pub fn next_complete(&mut self) -> Option<&mut [u8]> {
        self.advance::<true>()
    }

    /// The next segment, its checksums as [`SuperPacket::emit_partial`] leaves them.
    #[inline]
    pub fn next_partial(&mut self) -> Option<&mut [u8]> {
        self.advance::<false>()
    }

    #[inline]
    fn advance<const COMPLETE: bool>(&mut self) -> Option<&mut [u8]> {
        let index = self.next;
        let piece = self.layout.piece(index)?;
        let header_len = self.layout.header_len;
        // The payload lies behind the first segment's headers, so this starts `header_len` bytes before the piece.
        let segment = self.buffer.get_mut(piece.start..header_len + piece.end)?;
        let (headers, body) = segment.split_at_mut_checked(header_len)?;
        if index > 0 {
            headers.copy_from_slice(self.headers.get(..header_len)?);
        }
        let sum = if self.layout.needs_sum::<COMPLETE>() { Sum::default().add(body) } else { Sum::default() };
        self.layout.finish::<COMPLETE>(index, sum, headers, body)?;
        self.next += 1;
        Some(segment)
    }
}

/// Whether the field at `at` of a packet's payload holds the sum of the pseudo-header, which is what a receiver will take it for.
/// It does not if a routing header names another destination for it (RFC 8200, section 8.1).
#[inline]
fn holds_pseudo_header(packet: &IpPacket<'_>, at: usize) -> bool {
    let pseudo = packet.pseudo_header(packet.protocol()).add_u16(packet.payload().len() as u16).fold();
    packet.payload().get(at..at + 2) == Some(&pseudo.to_be_bytes())
}

/// Where a segment lies in its super-packet.
struct Place {
    /// Payload bytes before it.
    offset: usize,
    /// Bytes of the upper-layer header and payload.
    upper_len: usize,
    is_first: bool,
    is_last: bool,
}

impl Ip {
    #[inline]
    fn new(packet: &IpPacket<'_>) -> Self {
        let header_sum = match packet.headers().split_first_chunk::<20>() {
            Some((h, options)) if packet.version() == Version::V4 => {
                Sum::default().add(&h[..2]).add(&h[6..10]).add(&h[12..]).add(options)
            }
            _ => Sum::default(),
        };
        Self {
            len: packet.header_len(),
            version: packet.version(),
            header_sum,
            id: packet.v4_id(),
            pseudo: packet.pseudo_header(packet.protocol()),
        }
    }

    /// Writes the fields in which segment `index` of `length` bytes differs. A segment is no longer than its
    /// super-packet, whose length fits the same field.
    #[inline]
    fn patch(&self, index: usize, length: usize, header: &mut [u8]) -> Option<()> {
        let fixed = header.first_chunk_mut::<20>()?;
        match self.version {
            Version::V4 => {
                let length = length as u16;
                let id = self.id.wrapping_add(index as u16);
                let checksum = self.header_sum.add_u16(length).add_u16(id).finish();
                fixed[2..4].copy_from_slice(&length.to_be_bytes());
                fixed[4..6].copy_from_slice(&id.to_be_bytes());
                fixed[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Version::V6 => {
                let payload_len = length.checked_sub(V6_HEADER_LEN)? as u16;
                fixed[4..6].copy_from_slice(&payload_len.to_be_bytes());
            }
        }
        Some(())
    }
}

impl Upper {
    /// The header, its length, and where its checksum lies.
    #[inline]
    fn parse_tcp(packet: &IpPacket<'_>) -> Result<(Self, usize, usize), Malformed> {
        let segment = TcpSegment::parse(packet.payload())?;
        let h = segment.fixed();
        let sum = Sum::default().add(&h[..4]).add(&h[8..12]).add(&h[14..16]).add(&h[18..]).add(segment.option_bytes());
        let upper = Self::Tcp { sequence: segment.sequence(), offset: h[12], flags: segment.flags(), sum };
        Ok((upper, segment.header().len(), tcp::CHECKSUM_AT))
    }

    /// The header, its length, and where its checksum lies.
    #[inline]
    fn parse_udp(packet: &IpPacket<'_>) -> Result<(Self, usize, usize), Malformed> {
        let datagram = UdpDatagram::parse(packet.payload())?;
        if udp::HEADER_LEN + datagram.payload().len() != packet.payload().len() {
            return Err(Malformed::TotalLength);
        }
        let sum = Sum::default().add(&datagram.fixed()[..4]);
        Ok((Self::Udp { sum }, udp::HEADER_LEN, udp::CHECKSUM_AT))
    }

    /// Writes the fields in which a segment differs. `pseudo` has its length, `payload` is the payload's sum.
    #[inline]
    fn patch<const COMPLETE: bool>(&self, place: &Place, pseudo: Sum, payload: Sum, header: &mut [u8]) -> Option<()> {
        match *self {
            Self::Tcp { sequence, offset, flags: all, sum } => {
                let fixed = header.first_chunk_mut::<{ tcp::HEADER_LEN }>()?;
                let sequence = sequence.wrapping_add(place.offset as u32);
                let mut flags = all;
                if !place.is_first {
                    flags &= !flags::CWR;
                }
                if !place.is_last {
                    flags &= !(flags::FIN | flags::PSH);
                }
                fixed[4..8].copy_from_slice(&sequence.to_be_bytes());
                fixed[13] = flags;
                let checksum = if COMPLETE {
                    let flag_word = u16::from_be_bytes([offset, flags]);
                    pseudo.add_sum(payload).add_sum(sum).add_u32(sequence).add_u16(flag_word).finish()
                } else {
                    pseudo.fold()
                };
                fixed[tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
            }
            Self::Udp { sum } => {
                let fixed = header.first_chunk_mut::<{ udp::HEADER_LEN }>()?;
                let length = place.upper_len as u16;
                fixed[4..6].copy_from_slice(&length.to_be_bytes());
                let checksum = if COMPLETE {
                    udp::finish(pseudo.add_sum(payload).add_sum(sum).add_u16(length))
                } else {
                    pseudo.fold()
                };
                fixed[6..8].copy_from_slice(&checksum.to_be_bytes());
            }
        }
        Some(())
    }
}
