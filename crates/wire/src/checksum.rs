//! The Internet checksum: 16-bit one's complement sums (RFC 1071), their incremental update (RFC 1624), and a copy that
//! sums in the same pass.
//!
//! The sum does not depend on byte order (RFC 1071, section 2 (B)), so words are added as they lie in memory, 32 bits at
//! a time into 64-bit lanes, and only the folded result is brought to host order. The loops are written so that the
//! compiler turns them into SIMD on any x86-64 and aarch64 without a run-time probe; `benches/checksum.rs` watches that.

/// A running one's complement sum. The default is the empty sum.
///
/// Holds the sum of 16-bit words in memory order, unfolded, below 2^34.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// Bytes per turn of the SIMD loops.
const BLOCK: usize = 64;

/// Lanes of one turn: eight 64-bit loads, each split in two 32-bit halves.
type Lanes = [u64; BLOCK / 8];

impl Sum {
    /// Adds `bytes`, which must start at an even offset of what is summed; an odd length is allowed for the last part
    /// only, and is padded with a zero byte.
    #[inline]
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "`Sum + bytes` would hide that parity matters")]
    pub fn add(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        if blocks.is_empty() {
            return self.add_tail(rest);
        }
        let (mut low, mut high) = (Lanes::default(), Lanes::default());
        for block in blocks {
            add_block(&mut low, &mut high, block);
        }
        self.add_lanes(&low, &high).add_tail(rest)
    }

    /// Adds one 16-bit value given in host order, as if its big-endian bytes were added.
    #[inline]
    #[must_use]
    pub fn add_u16(self, value: u16) -> Self {
        self.add_word(u64::from(value.to_be()))
    }

    /// Adds one 32-bit value given in host order, as if its big-endian bytes were added.
    #[inline]
    #[must_use]
    pub fn add_u32(self, value: u32) -> Self {
        self.add_word(u64::from(value.to_be()))
    }

    /// Adds another sum, of a part that starts at an even offset.
    #[inline]
    #[must_use]
    pub fn add_sum(self, other: Self) -> Self {
        self.add_word(other.0)
    }

    /// Copies `src` to the front of `dst` and adds it, in one pass; the rules of [`Sum::add`] apply. If `dst` is
    /// shorter than `src`, only what fits is copied and added.
    #[inline]
    #[must_use]
    pub fn copy(self, dst: &mut [u8], src: &[u8]) -> Self {
        let length = src.len().min(dst.len());
        let (src_blocks, src_rest) = src[..length].as_chunks::<BLOCK>();
        let (dst_blocks, dst_rest) = dst[..length].as_chunks_mut::<BLOCK>();
        if src_blocks.is_empty() {
            dst_rest.copy_from_slice(src_rest);
            return self.add_tail(src_rest);
        }
        let (mut low, mut high) = (Lanes::default(), Lanes::default());
        for (to, from) in dst_blocks.iter_mut().zip(src_blocks) {
            *to = *from;
            add_block(&mut low, &mut high, from);
        }
        dst_rest.copy_from_slice(src_rest);
        self.add_lanes(&low, &high).add_tail(src_rest)
    }

    /// The 16-bit one's complement sum in host order, not complemented. This is what `CHECKSUM_PARTIAL` keeps in a
    /// checksum field when it covers a pseudo-header.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The complement of [`Sum::fold`]: the value to store, big-endian, in a checksum field.
    #[inline]
    #[must_use]
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    /// Whether the bytes summed, their checksum field among them, carry a correct checksum.
    #[inline]
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }

    /// `word` is below 2^34, in memory order.
    #[inline]
    fn add_word(self, word: u64) -> Self {
        let sum = self.0 + word;
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }

    /// A lane overflows after 2^32 turns, 256 GiB: no slice of a packet comes near. Each lane is folded to 33 bits
    /// before the lanes are added to each other.
    #[inline]
    fn add_lanes(self, low: &Lanes, high: &Lanes) -> Self {
        let mut sum = self.0;
        for lane in low.iter().chain(high) {
            sum += (lane & 0xffff_ffff) + (lane >> 32);
        }
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }

    /// Adds fewer than [`BLOCK`] bytes. Without SIMD, whose set-up and reduction would cost more than they save here.
    #[inline]
    fn add_tail(self, rest: &[u8]) -> Self {
        let (words, rest) = rest.as_chunks::<8>();
        let mut sum = self.0;
        for word in words {
            let (word, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
            // The carry of 64 bits is worth 1 in one's complement, and cannot overflow again.
            sum = word + u64::from(carry);
        }
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        sum += u64::from(match *rest {
            [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
            [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
            [a] => u32::from_ne_bytes([a, 0, 0, 0]),
            _ => 0,
        });
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }
}

#[inline(always)]
fn add_block(low: &mut Lanes, high: &mut Lanes, block: &[u8; BLOCK]) {
    let (words, _) = block.as_chunks::<8>();
    for ((low, high), word) in low.iter_mut().zip(high).zip(words) {
        let word = u64::from_ne_bytes(*word);
        *low += word & 0xffff_ffff;
        *high += word >> 32;
    }
}

/// The checksum after one 16-bit word it covers changed from `old` to `new` (RFC 1624, equation 3). All host order.
#[inline]
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default().add_u16(!checksum).add_u16(!old).add_u16(new).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 3: the worked example.
    #[test]
    fn example_of_the_rfc() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn an_ipv4_header_is_valid() {
        let mut header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199];
        assert!(Sum::default().add(&header).is_valid());
        header[8] -= 1;
        assert!(!Sum::default().add(&header).is_valid());
        let old = u16::from_be_bytes([0x40, 0x11]);
        assert_eq!(update(0xb861, old, old - 0x100), 0xb961);
    }

    #[test]
    fn nothing_sums_to_zero() {
        assert_eq!((Sum::default().fold(), Sum::default().finish()), (0, 0xffff));
        assert_eq!(Sum::default().add(&[]).fold(), 0);
        assert!(!Sum::default().add(&[0; 100]).is_valid());
    }

    #[test]
    fn ones_do_not_overflow() {
        let ones = vec![0xff; 1 << 20];
        let sum = (0..100).fold(Sum::default(), |sum, _| sum.add(&ones));
        assert_eq!(sum.fold(), 0xffff);
        let sum = (0..100_000).fold(sum, |sum, _| sum.add_u32(u32::MAX).add_u16(u16::MAX).add_sum(sum));
        assert_eq!(sum.fold(), 0xffff);
    }

    #[test]
    fn a_copy_stops_at_the_shorter_end() {
        let mut short = [0; 3];
        assert_eq!(Sum::default().copy(&mut short, &[1, 2, 3, 4]).fold(), 0x0402);
        assert_eq!(short, [1, 2, 3]);
        let mut long = [9; 5];
        assert_eq!(Sum::default().copy(&mut long, &[1, 2, 3, 4]).fold(), 0x0406);
        assert_eq!(long, [1, 2, 3, 4, 9]);
    }

    /// RFC 1071 as it is written: 16-bit words, end-around carry.
    fn by_the_book(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0u16, |sum, word| {
            let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    /// 0 and 0xffff are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || a % 0xffff == b % 0xffff
    }

    proptest! {
        #[test]
        fn equals_the_book(bytes in prop::collection::vec(any::<u8>(), 0..400), offset in 0..8usize) {
            let bytes = &bytes[offset.min(bytes.len())..];
            prop_assert_eq!(Sum::default().add(bytes).fold(), by_the_book(bytes));
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(Sum::default().copy(&mut copy, bytes).fold(), by_the_book(bytes));
            prop_assert_eq!(&copy[..], bytes);
        }

        #[test]
        fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>()) {
            let (front, back) = bytes.split_at(at.index(bytes.len() / 2 + 1) * 2);
            let whole = Sum::default().add(&bytes).fold();
            prop_assert_eq!(Sum::default().add(front).add(back).fold(), whole);
            prop_assert_eq!(Sum::default().add(back).add_sum(Sum::default().add(front)).fold(), whole);
        }

        #[test]
        fn values_are_their_big_endian_bytes(a in any::<u16>(), b in any::<u32>()) {
            let sum = Sum::default().add(&a.to_be_bytes()).add(&b.to_be_bytes());
            prop_assert_eq!(Sum::default().add_u16(a).add_u32(b).fold(), sum.fold());
        }

        #[test]
        fn an_update_equals_a_new_sum(mut words in prop::collection::vec(any::<u16>(), 2..20), new in any::<u16>()) {
            let sum = |words: &[u16]| words.iter().fold(Sum::default(), |sum, word| sum.add_u16(*word)).finish();
            let (before, old) = (sum(&words), words[1]);
            words[1] = new;
            prop_assert!(same(update(before, old, new), sum(&words)));
        }
    }
}
