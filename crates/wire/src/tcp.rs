//! TCP segments (RFC 9293, section 3.1), with an iterator over the options.

use crate::Malformed;
use crate::checksum::Sum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of the longest header.
pub const MAX_HEADER_LEN: usize = 60;
/// Where the checksum field lies: `csum_offset` of a virtio header.
pub const CHECKSUM_AT: usize = 16;

/// The flag bits of byte 13.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push to the application.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// A view of a TCP segment that passed [`TcpSegment::parse`].
#[derive(Clone, Copy, Debug)]
pub struct TcpSegment<'a> {
    fixed: &'a [u8; HEADER_LEN],
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// Validates the header length of the segment that fills `bytes`, an IP packet's payload.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] or [`Malformed::HeaderLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let length = usize::from(fixed[12] >> 4) * 4;
        if length < HEADER_LEN {
            return Err(Malformed::HeaderLength);
        }
        let (header, payload) = bytes.split_at_checked(length).ok_or(Malformed::HeaderLength)?;
        Ok(Self { fixed, header, payload })
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// Sequence number of the first payload byte, or of the SYN.
    #[inline]
    #[must_use]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// Acknowledgement number.
    #[inline]
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// The bits of [`flags`].
    #[inline]
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.fixed[13]
    }

    /// Receive window, unscaled.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.fixed[14], self.fixed[15]])
    }

    /// The checksum field.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[16], self.fixed[17]])
    }

    /// Urgent pointer.
    #[inline]
    #[must_use]
    pub fn urgent(&self) -> u16 {
        u16::from_be_bytes([self.fixed[18], self.fixed[19]])
    }

    /// The fixed part of the header.
    #[inline]
    #[must_use]
    pub fn fixed(&self) -> &'a [u8; HEADER_LEN] {
        self.fixed
    }

    /// The header with its options.
    #[inline]
    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// The bytes of the options, padding included.
    #[inline]
    #[must_use]
    pub fn option_bytes(&self) -> &'a [u8] {
        &self.header[HEADER_LEN..]
    }

    /// The options in order. Ends at an end-of-list option and at the first one that is malformed.
    #[inline]
    #[must_use]
    pub fn options(&self) -> Options<'a> {
        Options { rest: self.option_bytes() }
    }

    /// The maximum segment size option, in bytes (RFC 9293, section 3.7.1).
    #[must_use]
    pub fn mss(&self) -> Option<u16> {
        self.options().find_map(|option| match option {
            TcpOption::MaximumSegmentSize(size) => Some(size),
            _ => None,
        })
    }

    /// What follows the header.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// One TCP option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpOption<'a> {
    /// Kind 2: the largest segment the sender of this SYN takes, in bytes.
    MaximumSegmentSize(u16),
    /// Kind 3 (RFC 7323): the shift of the window field.
    WindowScale(u8),
    /// Kind 4 (RFC 2018).
    SackPermitted,
    /// Kind 8 (RFC 7323): the sender's clock and its echo of ours.
    Timestamps(u32, u32),
    /// Any other: its kind and its bytes after kind and length.
    Other(u8, &'a [u8]),
}

/// Iterator of [`TcpSegment::options`].
#[derive(Clone, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Options<'a> {
    /// The bytes behind the option that came last.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<TcpOption<'a>> {
        loop {
            let (kind, rest) = self.rest.split_first()?;
            match kind {
                0 => return None,
                1 => self.rest = rest,
                _ => {
                    let length = usize::from(*rest.first()?);
                    let option = self.rest.get(2..length)?;
                    self.rest = &self.rest[length..];
                    return Some(match (*kind, option) {
                        (2, &[a, b]) => TcpOption::MaximumSegmentSize(u16::from_be_bytes([a, b])),
                        (3, &[shift]) => TcpOption::WindowScale(shift),
                        (4, []) => TcpOption::SackPermitted,
                        (8, &[a, b, c, d, e, f, g, h]) => {
                            TcpOption::Timestamps(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
                        }
                        (kind, bytes) => TcpOption::Other(kind, bytes),
                    });
                }
            }
        }
    }
}

/// The header of a segment to be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader<'a> {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The bits of [`flags`].
    pub flags: u8,
    /// Receive window.
    pub window: u16,
    /// Options as bytes, at most 40; padded with zeros to a multiple of four.
    pub options: &'a [u8],
}

impl TcpHeader<'_> {
    /// Bytes of the header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len().next_multiple_of(4)
    }

    /// Writes header and payload to the front of `out` and completes the checksum over `pseudo`
    /// ([`crate::ip::IpPacket::pseudo_header`], length not yet added). Returns the segment's length, or `None` if it
    /// does not fit `out`, the options are too long, or it is longer than an IP packet may be.
    pub fn emit(&self, pseudo: Sum, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let header_len = self.header_len();
        let length = header_len + payload.len();
        if header_len > MAX_HEADER_LEN {
            return None;
        }
        let pseudo = pseudo.add_u16(u16::try_from(length).ok()?);
        let (header, body) = out.get_mut(..length)?.split_at_mut(header_len);
        let (fixed, options) = header.split_first_chunk_mut::<HEADER_LEN>()?;
        fixed[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        fixed[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        fixed[12] = (header_len as u8 / 4) << 4;
        fixed[13] = self.flags;
        fixed[14..16].copy_from_slice(&self.window.to_be_bytes());
        fixed[16..20].fill(0);
        options.fill(0);
        options[..self.options.len()].copy_from_slice(self.options);
        let checksum = pseudo.add(header).copy(body, payload).finish();
        header[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A SYN with MSS 1460, SACK permitted, timestamps, window scale 7, as Linux sends it.
    const SYN: [u8; 40] = [
        0x9c, 0x40, 0x14, 0x51, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0xab, 0xcd, 0, 9, //
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7,
    ];

    #[test]
    fn literal_bytes_parse() {
        let segment = TcpSegment::parse(&SYN).unwrap();
        assert_eq!((segment.source_port(), segment.destination_port()), (40_000, 5201));
        assert_eq!((segment.sequence(), segment.acknowledgement()), (0x0102_0304, 0));
        assert_eq!((segment.flags(), segment.window()), (flags::SYN, 64_240));
        assert_eq!((segment.checksum(), segment.urgent()), (0xabcd, 9));
        assert_eq!(segment.mss(), Some(1460));
        assert_eq!(
            segment.options().collect::<Vec<_>>(),
            [
                TcpOption::MaximumSegmentSize(1460),
                TcpOption::SackPermitted,
                TcpOption::Timestamps(1, 2),
                TcpOption::WindowScale(7),
            ]
        );
        assert_eq!((segment.header().len(), segment.payload().len()), (40, 0));
    }

    #[test]
    fn emitted_header_parses_back() {
        let header = TcpHeader {
            source_port: 1,
            destination_port: 2,
            sequence: 3,
            acknowledgement: 4,
            flags: flags::ACK | flags::PSH,
            window: 5,
            options: &[3, 3, 7],
        };
        let mut out = [0xee; 40];
        let pseudo = Sum::default().add_u16(6);
        assert_eq!(header.emit(pseudo, b"data!", &mut out), Some(29));
        assert!(pseudo.add_u16(29).add(&out[..29]).is_valid());
        let segment = TcpSegment::parse(&out[..29]).unwrap();
        assert_eq!((segment.source_port(), segment.destination_port()), (1, 2));
        assert_eq!((segment.sequence(), segment.acknowledgement(), segment.window()), (3, 4, 5));
        assert_eq!((segment.flags(), segment.option_bytes()), (flags::ACK | flags::PSH, &[3, 3, 7, 0][..]));
        assert_eq!((segment.payload(), out[29]), (&b"data!"[..], 0xee));
        assert_eq!(header.emit(pseudo, b"data!", &mut out[..28]), None);
        assert_eq!(TcpHeader { options: &[1; 41], ..header }.emit(pseudo, &[], &mut [0; 99]), None);
        assert_eq!(header.emit(pseudo, &[0; 65_535], &mut vec![0; 70_000]), None);
    }

    #[test]
    fn cut_short_is_refused() {
        for length in 0..SYN.len() {
            let why = if length < 20 { Malformed::Truncated } else { Malformed::HeaderLength };
            assert_eq!(TcpSegment::parse(&SYN[..length]).unwrap_err(), why);
        }
        let mut small = SYN;
        small[12] = 0x4f;
        assert_eq!(TcpSegment::parse(&small).unwrap_err(), Malformed::HeaderLength);
    }

    #[test]
    fn malformed_options_end_the_list() {
        for options in [[2, 0, 1, 1], [2, 1, 1, 1], [2, 5, 1, 1], [0, 2, 4, 5], [1, 1, 1, 2]] {
            let mut bytes = SYN;
            bytes[12] = 0x60;
            bytes[20..24].copy_from_slice(&options);
            assert_eq!(TcpSegment::parse(&bytes).unwrap().options().count(), 0, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_parses_or_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80), offset in 4..8u8) {
            if let Some(byte) = bytes.get_mut(12) {
                *byte = offset << 4;
            }
            if let Ok(segment) = TcpSegment::parse(&bytes) {
                prop_assert!(segment.options().count() <= 20);
                prop_assert_eq!([segment.header(), segment.payload()].concat(), bytes);
            }
        }
    }
}
