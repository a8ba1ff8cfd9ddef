//! `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h): what the kernel says about a packet it reads from or
//! writes to a TUN or TAP device with `IFF_VNET_HDR`.
//!
//! Ten bytes in the host's byte order, which is what a device without `TUNSETVNETLE` or `TUNSETVNETBE` speaks.

/// [`VnetHdr::flags`]: the checksum field holds a partial sum; the checksum from `csum_start` on is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// [`VnetHdr::flags`]: the kernel has verified the checksum.
pub const DATA_VALID: u8 = 2;

/// [`VnetHdr::gso_type`]: one packet as it is.
pub const GSO_NONE: u8 = 0;
/// [`VnetHdr::gso_type`]: TCP over IPv4, to be split.
pub const GSO_TCPV4: u8 = 1;
/// [`VnetHdr::gso_type`]: UDP to be fragmented by IP (UFO); long gone from the kernel.
pub const GSO_UDP: u8 = 3;
/// [`VnetHdr::gso_type`]: TCP over IPv6, to be split.
pub const GSO_TCPV6: u8 = 4;
/// [`VnetHdr::gso_type`]: UDP to be split into datagrams (USO), either IP version.
pub const GSO_UDP_L4: u8 = 5;
/// [`VnetHdr::gso_type`], or-ed to a TCP type: the first segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// The virtio header of one packet. Offsets count from the first byte of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHdr {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` types, [`GSO_ECN`] or-ed.
    pub gso_type: u8,
    /// Bytes of all headers. A hint: who splits must parse for himself.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksum's coverage starts.
    pub csum_start: u16,
    /// Where the checksum field lies, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Bytes on the device.
    pub const LEN: usize = 10;
    /// A packet that needs nothing.
    pub const NONE: Self =
        Self { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// Reads a header; every bit pattern is one.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// The header of the same packet behind `link` bytes more, of a link-layer header.
    #[inline]
    #[must_use]
    pub fn behind(self, link: usize) -> Self {
        let moved = |at: u16| at.saturating_add(u16::try_from(link).unwrap_or(u16::MAX));
        let hdr_len = if self.hdr_len == 0 { 0 } else { moved(self.hdr_len) };
        let csum_start = if self.needs_csum() { moved(self.csum_start) } else { self.csum_start };
        Self { hdr_len, csum_start, ..self }
    }

    /// The header of what follows the first `link` bytes; `None` if the checksum starts among those.
    #[inline]
    #[must_use]
    pub fn without(self, link: usize) -> Option<Self> {
        let link = u16::try_from(link).ok()?;
        let csum_start = if self.needs_csum() { self.csum_start.checked_sub(link)? } else { self.csum_start };
        Some(Self { hdr_len: self.hdr_len.saturating_sub(link), csum_start, ..self })
    }

    /// Whether the checksum is still to be completed.
    #[inline]
    #[must_use]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes_both_ways() {
        let header = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4 | GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
        };
        let mut bytes = [1, 0x81, 1, 2, 3, 4, 5, 6, 7, 8];
        if cfg!(target_endian = "little") {
            bytes[2..].chunks_mut(2).for_each(<[u8]>::reverse);
        }
        assert_eq!(header.emit(), bytes);
        assert_eq!(VnetHdr::parse(&bytes), header);
        assert!(header.needs_csum());
    }

    #[test]
    fn offsets_count_from_the_first_byte() {
        let packet = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 40,
            gso_size: 1000,
            csum_start: 20,
            csum_offset: 16,
        };
        let frame = packet.behind(14);
        assert_eq!((frame.hdr_len, frame.csum_start, frame.csum_offset), (54, 34, 16));
        assert_eq!((frame.without(14), frame.without(35)), (Some(packet), None));
        assert_eq!((VnetHdr::NONE.behind(14), VnetHdr::NONE.without(14)), (VnetHdr::NONE, Some(VnetHdr::NONE)));
    }

    #[test]
    fn none_is_zeros() {
        assert_eq!(VnetHdr::NONE.emit(), [0; VnetHdr::LEN]);
        assert_eq!(VnetHdr::NONE, VnetHdr::default());
        assert!(!VnetHdr::parse(&[0; 10]).needs_csum());
    }
}
