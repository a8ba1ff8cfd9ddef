//! What packets of one run have in common: the rules by which packets are joined, which a sender asks too.
//!
//! A run is what segmentation makes of one super-packet: packets of one flow whose headers differ only in length, IPv4 id,
//! checksums, TCP sequence number, and PSH and FIN of the last. [`crate::coalesce`] joins runs. [`Continuity`] tells the
//! sender of single datagrams which of them make one, so that the receiver may join them (flag `continues` of the
//! transport `sealed`).

use crate::Malformed;
use crate::frame::MAX_LINK;
use crate::ip::{self, Fragment, IpPacket, V4_DONT_FRAGMENT, V4_HEADER_LEN, V6_HEADER_LEN, Version, protocol};
use crate::tcp::{self, TcpSegment, flags};
use crate::udp::{self, UdpDatagram};

/// The most datagrams in one UDP super-packet: `UDP_MAX_SEGMENTS` in include/linux/udp.h, which is 128 since Linux 6.9 and was 64
/// before; a TUN device refuses more.
pub const MAX_UDP_SEGMENTS: usize = 64;

/// Addresses, ports and protocol: packets of one flow keep their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flow {
    pub(crate) ports: [u8; 4],
    pub(crate) protocol: u8,
    pub(crate) version: Version,
    pub(crate) addresses: [u64; 4],
}

impl Flow {
    #[inline]
    pub(crate) fn new(packet: &IpPacket<'_>, ports: [u8; 4]) -> Self {
        Self { ports, protocol: packet.protocol(), version: packet.version(), addresses: packet.address_words() }
    }
}

/// The IP header and the ports, but for what differs within a run: lengths, IPv4 id and header checksum. Packets with equal
/// keys are of one flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key([u64; 6]);

impl PartialEq for Key {
    /// Word by word: a call of `memcmp` would read in wide words what was just written in narrow ones, and wait for it. That is
    /// half the time that joining a small datagram takes.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    }
}

impl Key {
    /// `None` for packets that are never joined for their IP headers: options or extension headers, a fragment, the
    /// reserved bit of the fragment word, a header checksum of 0 written as 0xffff (which joining would lose); and for those
    /// without ports.
    #[inline]
    pub(crate) fn new(packet: &IpPacket<'_>) -> Option<Self> {
        const fn mask(bytes: [u8; 8]) -> u64 {
            u64::from_ne_bytes(bytes)
        }
        // Version, header length and TOS, then fragment word; TTL and protocol, then source.
        const V4: [u64; 2] = [mask([255, 255, 0, 0, 0, 0, 255, 255]), mask([255, 255, 0, 0, 255, 255, 255, 255])];
        // Version, class and label, then next header and hop limit.
        const V6: u64 = mask([255, 255, 255, 255, 0, 0, 255, 255]);
        let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
        match packet.version() {
            Version::V4 => {
                let (words, _) = packet.bytes().first_chunk::<{ V4_HEADER_LEN + 4 }>()?.as_chunks();
                let [a, b, c] = words else { return None };
                let plain = packet.header_len() == V4_HEADER_LEN
                    && packet.v4_fragment_word() & !V4_DONT_FRAGMENT == 0
                    && packet.v4_header_checksum() != 0xffff;
                plain.then(|| Self([word(a) & V4[0], word(b) & V4[1], word(c), 0, 0, 0]))
            }
            Version::V6 => {
                let (words, rest) = packet.bytes().first_chunk::<{ V6_HEADER_LEN + 4 }>()?.as_chunks();
                let ([a, b, c, d, e], Some(ports)) = (words, rest.first_chunk()) else { return None };
                let ports = u64::from(u32::from_ne_bytes(*ports));
                (packet.header_len() == V6_HEADER_LEN)
                    .then(|| Self([word(a) & V6, word(b), word(c), word(d), word(e), ports]))
            }
        }
    }
}

/// How the IPv4 id runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ids {
    /// Each is the previous one plus 1, as segmentation will number them; also while there is but one packet.
    Consecutive,
    /// All are 0, with DF set: an id that means nothing (RFC 6864, section 4.1), as Linux sends from unconnected UDP
    /// sockets. Segmentation will number them.
    Fixed,
}

impl Ids {
    /// How the ids run on with `packet` behind `count` packets of which the first has the id `first`; `None` if they do not.
    #[inline]
    pub(crate) fn with(self, first: u16, count: usize, packet: &IpPacket<'_>) -> Option<Self> {
        let id = packet.v4_id();
        let fixed = first == 0 && id == 0 && (packet.version() == Version::V6 || packet.dont_fragment());
        if fixed && (self == Self::Fixed || count == 1) {
            return Some(Self::Fixed);
        }
        (self == Self::Consecutive && id == first.wrapping_add(count as u16)).then_some(Self::Consecutive)
    }
}

/// The TCP segment or UDP datagram in a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upper<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// Where the checksum field lies in the header.
    pub(crate) checksum_at: usize,
    /// FIN and PSH; either closes a run.
    pub(crate) closing: u8,
    /// Has the shape of a segment: data in it, nothing but ACK, ECE, PSH and FIN among its flags.
    pub(crate) joinable: bool,
}

impl<'a> Upper<'a> {
    /// Parses the payload of a packet.
    ///
    /// # Errors
    /// [`Malformed::OffloadType`] if it is a fragment or neither TCP nor UDP; whatever is wrong with the header;
    /// [`Malformed::TotalLength`] if the datagram does not fill the packet.
    #[inline]
    pub(crate) fn parse(packet: &IpPacket<'a>) -> Result<Self, Malformed> {
        if packet.fragment() != Fragment::None {
            return Err(Malformed::OffloadType);
        }
        match packet.protocol() {
            protocol::TCP => {
                let segment = TcpSegment::parse(packet.payload())?;
                let flags = segment.flags();
                let (header, payload) = (segment.header(), segment.payload());
                let joinable = flags & !(flags::ECE | flags::PSH | flags::FIN) == flags::ACK && !payload.is_empty();
                let closing = flags & (flags::PSH | flags::FIN);
                Ok(Self { header, payload, checksum_at: tcp::CHECKSUM_AT, closing, joinable })
            }
            protocol::UDP => {
                let datagram = UdpDatagram::parse(packet.payload())?;
                let (header, payload) = (&datagram.fixed()[..], datagram.payload());
                if header.len() + payload.len() != packet.payload().len() {
                    return Err(Malformed::TotalLength);
                }
                let joinable = !payload.is_empty();
                Ok(Self { header, payload, checksum_at: udp::CHECKSUM_AT, closing: 0, joinable })
            }
            _ => Err(Malformed::OffloadType),
        }
    }

    /// The checksum field.
    #[inline]
    pub(crate) fn checksum(&self) -> u16 {
        match self.header.get(self.checksum_at..).and_then(<[u8]>::first_chunk) {
            Some(field) => u16::from_be_bytes(*field),
            None => 0,
        }
    }
}

/// Which of a sender's single datagrams continue the one before.
///
/// TCP is not looked at: the segments of one super-packet are known to belong together, and a kernel that has more than
/// one to send makes one. UDP comes datagram by datagram unless the application asks for more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Continuity(Option<Series>);

/// The link-layer header of a frame; of a packet there is none.
#[derive(Clone, Copy, Debug)]
struct Link {
    bytes: [u8; MAX_LINK],
    len: usize,
}

impl Link {
    #[inline]
    fn new(link: &[u8]) -> Self {
        let mut bytes = [0; MAX_LINK];
        if let Some(room) = bytes.get_mut(..link.len()) {
            room.copy_from_slice(link);
        }
        Self { bytes, len: link.len() }
    }

    #[inline]
    fn is(&self, link: &[u8]) -> bool {
        self.bytes.get(..self.len) == Some(link)
    }
}

/// Datagrams that continue each other.
#[derive(Clone, Copy, Debug)]
struct Series {
    link: Link,
    key: Key,
    /// Payload bytes of each.
    step: usize,
    /// Bytes they would take as one packet.
    len: usize,
    count: usize,
    first_id: u16,
    ids: Ids,
}

impl Continuity {
    /// Takes the next packet to the same peer, whose checksum is partial, behind the `link` header that it has in a frame, and answers whether it continues the one before:
    /// [`crate::coalesce::Coalescer::push_partial`] would join it.
    #[inline]
    pub fn continues(&mut self, link: &[u8], packet: &IpPacket<'_>) -> bool {
        let before = self.0.take();
        if packet.protocol() != protocol::UDP {
            return false;
        }
        let Some(key) = Key::new(packet) else { return false };
        let Ok(upper) = Upper::parse(packet) else { return false };
        if !upper.joinable {
            return false;
        }
        let size = upper.payload.len();
        let extended = before
            .filter(|series| series.key == key && series.link.is(link))
            .and_then(|series| series.with(packet, size));
        // A shorter one ends its series, and so does the last one that there is room for.
        let is_open = |series: &Series| size == series.step && series.count < MAX_UDP_SEGMENTS;
        match extended {
            Some(series) => {
                self.0 = Some(series).filter(is_open);
                true
            }
            None => {
                let (len, first_id) = (packet.bytes().len(), packet.v4_id());
                self.0 = Some(Series {
                    link: Link::new(link),
                    key,
                    step: size,
                    len,
                    count: 1,
                    first_id,
                    ids: Ids::Consecutive,
                });
                false
            }
        }
    }

    /// Forgets the last packet: something else was sent to the peer in between, or the batch has ended.
    #[inline]
    pub fn interrupt(&mut self) {
        self.0 = None;
    }
}

impl Series {
    #[inline]
    fn with(self, packet: &IpPacket<'_>, size: usize) -> Option<Self> {
        let len = self.len + size;
        if size > self.step || len > ip::MAX_LEN {
            return None;
        }
        let ids = self.ids.with(self.first_id, self.count, packet)?;
        Some(Self { len, count: self.count + 1, ids, ..self })
    }
}
