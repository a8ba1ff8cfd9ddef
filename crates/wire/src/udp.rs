//! UDP datagrams (RFC 768).

use crate::Malformed;
use crate::checksum::Sum;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum field lies: `csum_offset` of a virtio header.
pub const CHECKSUM_AT: usize = 6;

/// A view of a UDP datagram that passed [`UdpDatagram::parse`].
#[derive(Clone, Copy, Debug)]
pub struct UdpDatagram<'a> {
    fixed: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> UdpDatagram<'a> {
    /// Validates the length of the datagram at the front of `bytes`, an IP packet's payload; what follows it is cut off.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] or [`Malformed::TotalLength`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let payload = Self::payload_len(fixed).and_then(|n| rest.get(..n)).ok_or(Malformed::TotalLength)?;
        Ok(Self { fixed, payload })
    }

    /// As [`UdpDatagram::parse`], but a datagram whose tail was cut off is accepted.
    ///
    /// # Errors
    /// As [`UdpDatagram::parse`].
    pub fn parse_cut(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let length = Self::payload_len(fixed).ok_or(Malformed::TotalLength)?;
        Ok(Self { fixed, payload: rest.get(..length).unwrap_or(rest) })
    }

    #[inline]
    fn payload_len(fixed: &[u8; HEADER_LEN]) -> Option<usize> {
        usize::from(u16::from_be_bytes([fixed[4], fixed[5]])).checked_sub(HEADER_LEN)
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

    /// The checksum field; 0 means that the sender computed none, which IPv6 allows for some tunnels only.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[6], self.fixed[7]])
    }

    /// The header.
    #[inline]
    #[must_use]
    pub fn fixed(&self) -> &'a [u8; HEADER_LEN] {
        self.fixed
    }

    /// What follows the header.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The header of a datagram to be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpHeader {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl UdpHeader {
    /// Writes header and payload to the front of `out` and completes the checksum over `pseudo`
    /// ([`crate::ip::IpPacket::pseudo_header`], length not yet added). Returns the datagram's length, or `None` if it
    /// does not fit `out` or the length field.
    pub fn emit(&self, pseudo: Sum, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let length = HEADER_LEN + payload.len();
        let length_field = u16::try_from(length).ok()?;
        let (fixed, body) = out.get_mut(..length)?.split_first_chunk_mut::<HEADER_LEN>()?;
        fixed[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        fixed[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        fixed[4..6].copy_from_slice(&length_field.to_be_bytes());
        fixed[6..8].fill(0);
        let checksum = finish(pseudo.add_u16(length_field).add(fixed).copy(body, payload));
        fixed[6..8].copy_from_slice(&checksum.to_be_bytes());
        Some(length)
    }
}

/// The checksum to store: a computed 0 travels as 0xffff, since 0 means "none" (RFC 768).
#[inline]
#[must_use]
pub fn finish(sum: Sum) -> u16 {
    match sum.finish() {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: [u8; 11] = [0x20, 0x5d, 0x12, 0xb5, 0, 11, 0xbe, 0xef, 1, 2, 3];

    #[test]
    fn literal_bytes_parse() {
        let datagram = UdpDatagram::parse(&DATAGRAM).unwrap();
        assert_eq!((datagram.source_port(), datagram.destination_port()), (8285, 4789));
        assert_eq!((datagram.checksum(), datagram.payload()), (0xbeef, &[1, 2, 3][..]));
        let longer = [&DATAGRAM[..], &[9]].concat();
        assert_eq!(UdpDatagram::parse(&longer).unwrap().payload(), [1, 2, 3]);
    }

    #[test]
    fn emitted_header_parses_back() {
        let header = UdpHeader { source_port: 8285, destination_port: 4789 };
        let mut out = [0xee; 12];
        let pseudo = Sum::default().add_u16(17);
        assert_eq!(header.emit(pseudo, &[1, 2, 3], &mut out), Some(11));
        assert!(pseudo.add_u16(11).add(&out[..11]).is_valid());
        assert_eq!((&out[..6], &out[8..]), (&DATAGRAM[..6], &[1, 2, 3, 0xee][..]));
        assert_eq!(header.emit(pseudo, &[1, 2, 3], &mut out[..10]), None);
        assert_eq!(header.emit(pseudo, &[0; 65_528], &mut vec![0; 70_000]), None);
    }

    #[test]
    fn a_checksum_of_zero_travels_as_ones() {
        assert_eq!(finish(Sum::default().add_u16(0xffff)), 0xffff);
        assert_eq!(finish(Sum::default().add_u16(1)), 0xfffe);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for length in 0..DATAGRAM.len() {
            let why = if length < 8 { Malformed::Truncated } else { Malformed::TotalLength };
            assert_eq!(UdpDatagram::parse(&DATAGRAM[..length]).unwrap_err(), why);
            let cut = UdpDatagram::parse_cut(&DATAGRAM[..length]);
            assert_eq!(cut.map(|datagram| datagram.payload().len()).ok(), length.checked_sub(8));
        }
        let mut small = DATAGRAM;
        small[5] = 7;
        assert_eq!(UdpDatagram::parse(&small).unwrap_err(), Malformed::TotalLength);
        assert_eq!(UdpDatagram::parse_cut(&small).unwrap_err(), Malformed::TotalLength);
    }
}
