//! Netlink attributes: a length, a type and a value, padded to four bytes (`struct nlattr`, linux/netlink.h).
//!
//! [`attributes`] walks those of a message from the kernel without ever trusting a length; [`Writer`] builds those of a
//! request. Values that are numbers are in host order here, except where a name ends in `_be`: nf_tables keeps its numbers in
//! network order.

/// Size of the length and the type before each value.
const HEADER: usize = 4;

/// The value of this attribute is itself a list of attributes.
pub(crate) const NESTED: u16 = 0x8000;

/// The two flag bits of the type field (nested, network order), which are not part of the type.
const FLAGS: u16 = 0xc000;

/// The next multiple of four.
pub(crate) const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// One attribute of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    /// The type, without its flag bits.
    pub(crate) kind: u16,
    /// The value, without padding.
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    pub(crate) fn u32(&self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64_be(&self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The first `N` bytes of the value. Kernels lengthen structures at their end, so more bytes are no error.
    pub(crate) fn array<const N: usize>(&self) -> Option<[u8; N]> {
        self.value.first_chunk().copied()
    }

    /// Text up to the first NUL; what is not UTF-8 (names are bytes to the kernel) is shown as U+FFFD.
    pub(crate) fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(self.value.get(..end).unwrap_or_default()).into_owned()
    }

    /// An IPv4 or IPv6 address, told apart by its length.
    pub(crate) fn address(&self) -> Option<std::net::IpAddr> {
        match self.value.len() {
            4 => self.array::<4>().map(Into::into),
            16 => self.array::<16>().map(Into::into),
            _ => None,
        }
    }

    /// The attributes within this one.
    pub(crate) fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }
}

/// Walks the attributes of `bytes`; a length that cannot be true ends the walk.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(HEADER..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([c, d]) & !FLAGS, value })
    })
}

/// A list of attributes being built.
///
/// An attribute counts its length in 16 bits. A value beyond that makes the list [overlong](Self::overlong), which the
/// sender must check; the bytes are then meaningless but nothing panics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    overlong: bool,
}

impl Writer {
    /// An empty list.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether some value did not fit its length field.
    pub(crate) fn overlong(&self) -> bool {
        self.overlong
    }

    /// The bytes so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
        self
    }

    /// Text with the NUL that the kernel expects after it.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    pub(crate) fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute whose value is the list that `fill` writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start);
        self
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => {
                if let Some(field) = self.bytes.get_mut(start..start + 2) {
                    field.copy_from_slice(&length.to_ne_bytes());
                }
            }
            Err(_) => self.overlong = true,
        }
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::new();
        writer.text(1, "adit0").u32_be(2, 7).nest(3, |inner| {
            inner.u8(4, 9).bytes(5, &[]);
        });
        let read: Vec<_> = attributes(writer.as_bytes()).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].text(), "adit0");
        assert_eq!(read[1].array(), Some(7u32.to_be_bytes()));
        let inner: Vec<_> = read[2].nested().map(|attribute| (attribute.kind, attribute.value.to_vec())).collect();
        assert_eq!(inner, [(4, vec![9]), (5, vec![])]);
        assert!(!writer.overlong());
    }

    #[test]
    fn a_value_beyond_64_kib_is_noticed() {
        let mut writer = Writer::new();
        writer.bytes(1, &vec![0; 65_532]);
        assert!(writer.overlong());
    }

    #[test]
    fn a_false_length_ends_the_walk() {
        for length in [0u8, 3, 9, 255] {
            let bytes = [length, 0, 1, 0, 1, 2, 3, 4];
            assert_eq!(attributes(&bytes).count(), 0, "length {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let total: usize = attributes(&bytes).map(|attribute| {
                attribute.nested().count();
                let _ = (attribute.u8(), attribute.u32(), attribute.u64_be());
                let _ = (attribute.text(), attribute.address());
                attribute.value.len() + HEADER
            }).sum();
            prop_assert!(total <= bytes.len());
        }

        #[test]
        fn any_list_survives(list in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..64)), 0..16)) {
            let mut writer = Writer::new();
            for (kind, value) in &list {
                writer.bytes(*kind, value);
            }
            let read: Vec<_> = attributes(writer.as_bytes()).map(|a| (a.kind, a.value.to_vec())).collect();
            prop_assert_eq!(read, list);
        }
    }
}
