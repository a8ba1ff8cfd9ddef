//! Domain names (RFC 1035, section 3.1): labels of up to 63 bytes, 255 bytes in all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The longest name on the wire, in bytes, with the empty label at its end.
const LONGEST: usize = 255;

/// The longest label, in bytes.
const LONGEST_LABEL: usize = 63;

/// A name. Two are equal whatever their letters' case (RFC 4343).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// In small letters, each behind its length, without the empty one at the end.
    wire: Vec<u8>,
}

impl Name {
    /// That of the root.
    pub const ROOT: Self = Self { wire: Vec::new() };

    /// From text, with dots between labels. None if it is no name: an empty label, one that is too long, or too many.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut name = Self::ROOT;
        for label in text.split('.') {
            name.push(label.as_bytes())?;
        }
        Some(name)
    }

    /// The name at `start` of a message, and where what follows it begins. None if there is none, also where a pointer does not lead towards the
    /// start of the message: so that no name is endless.
    pub fn read(message: &[u8], start: usize) -> Option<(Self, usize)> {
        let mut name = Self::ROOT;
        let (mut at, mut end, mut lowest) = (start, None, start);
        loop {
            let length = *message.get(at)?;
            match length >> 6 {
                0 if length == 0 => return Some((name, end.unwrap_or(at + 1))),
                0 => {
                    let label = message.get(at + 1..at + 1 + usize::from(length))?;
                    name.push(label)?;
                    at += 1 + label.len();
                }
                3 => {
                    let to = usize::from(length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                    if to >= lowest {
                        return None;
                    }
                    end = end.or(Some(at + 2));
                    (at, lowest) = (to, to);
                }
                // Kinds of labels that never came to be.
                _ => return None,
            }
        }
    }

    /// Writes it without compression.
    pub fn write(&self, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.wire);
        message.push(0);
    }

    /// How many bytes it takes so.
    pub fn length(&self) -> usize {
        self.wire.len() + 1
    }

    fn push(&mut self, label: &[u8]) -> Option<()> {
        if label.is_empty() || label.len() > LONGEST_LABEL || self.wire.len() + 1 + label.len() >= LONGEST {
            return None;
        }
        self.wire.push(label.len() as u8);
        self.wire.extend(label.iter().map(u8::to_ascii_lowercase));
        Some(())
    }

    /// Its labels, that of the host first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(label)
        })
    }

    /// Whether it has no label.
    pub fn is_root(&self) -> bool {
        self.wire.is_empty()
    }

    /// What stands before `suffix`, which may be nothing; none if it does not end so.
    pub fn before(&self, suffix: &Self) -> Option<Self> {
        let at = self.wire.len().checked_sub(suffix.wire.len())?;
        // Bytes that look like the suffix may begin within a label.
        self.starts().find(|start| *start == at)?;
        let (before, after) = self.wire.split_at_checked(at)?;
        (after == suffix.wire).then(|| Self { wire: before.to_vec() })
    }

    /// All that it ends with, the longest first: it itself, and last the root.
    pub fn suffixes(&self) -> impl Iterator<Item = Self> {
        self.starts().filter_map(|start| Some(Self { wire: self.wire.get(start..)?.to_vec() }))
    }

    /// Where labels begin, and the end.
    fn starts(&self) -> impl Iterator<Item = usize> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let start = next?;
            next = self.wire.get(start).map(|length| start + 1 + usize::from(*length));
            Some(start)
        })
    }

    /// This name before another one; none if it becomes too long.
    pub fn join(&self, suffix: &Self) -> Option<Self> {
        let wire = [&self.wire[..], &suffix.wire].concat();
        (wire.len() < LONGEST).then_some(Self { wire })
    }

    /// The addresses that a name of the reverse tree is about (RFC 1035, section 3.5; RFC 3596, section 2.5): one address, or all that begin alike.
    pub fn reversed(&self) -> Option<IpNet> {
        let labels: Vec<&[u8]> = self.labels().collect();
        let (top, labels) = labels.split_last()?;
        let (kind, digits) = labels.split_last()?;
        if *top != b"arpa" {
            return None;
        }
        let number = |label: &[u8], radix| {
            let text = std::str::from_utf8(label).ok()?;
            // `from_str_radix` takes a sign, and other names are none of addresses.
            let is_plain = text.bytes().all(|byte| byte.is_ascii_hexdigit()) && (text == "0" || !text.starts_with('0'));
            u8::from_str_radix(text, radix).ok().filter(|_| is_plain)
        };
        match *kind {
            b"in-addr" if digits.len() <= 4 => {
                let mut bytes = [0; 4];
                for (byte, label) in bytes.iter_mut().zip(digits.iter().rev()) {
                    *byte = number(label, 10)?;
                }
                IpNet::new(Ipv4Addr::from(bytes).into(), 8 * digits.len() as u8).ok()
            }
            b"ip6" if digits.len() <= 32 => {
                let mut address = 0u128;
                for (n, label) in digits.iter().rev().enumerate() {
                    address |= u128::from(number(label, 16).filter(|digit| *digit < 16)?) << (124 - 4 * n);
                }
                IpNet::new(Ipv6Addr::from(address).into(), 4 * digits.len() as u8).ok()
            }
            _ => None,
        }
    }

    /// The name of an address in the reverse tree.
    pub fn of_address(ip: IpAddr) -> Self {
        let text = match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(ip) => {
                let digits = ip.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
                digits.map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa"
            }
        };
        Self::from_text(&text).unwrap_or(Self::ROOT)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, label) in self.labels().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            write!(f, "{dot}{}", label.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}.")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn names_end_at_labels_and_have_no_case() {
        let web = name("web.Berlin.ADIT");
        assert_eq!(web, name("WEB.berlin.adit"));
        assert_eq!(web.before(&name("adit")), Some(name("web.berlin")));
        assert_eq!(web.before(&web), Some(Name::ROOT));
        assert_eq!(web.before(&Name::ROOT), Some(web.clone()));
        for other in ["lin.adit", "x.web.berlin.adit", "adi", "berlin"] {
            assert_eq!(web.before(&name(other)), None, "{other}");
        }
        let suffixes: Vec<String> = web.suffixes().map(|name| name.to_string()).collect();
        assert_eq!(suffixes, ["web.berlin.adit", "berlin.adit", "adit", ""]);
        // Within one label there may be what looks like the end of a name.
        let mut tricky = Name::ROOT;
        tricky.push(b"a\x04adit").unwrap();
        assert_eq!(tricky.before(&name("adit")), None);
        let mut dotted = Name::ROOT;
        dotted.push(b"a.b").unwrap();
        assert_ne!(dotted, name("a.b"));
    }

    #[test]
    fn what_is_no_name_is_none() {
        let long = "a".repeat(63);
        for bad in ["", ".", "a..b", "a.", &"a".repeat(64), &[&long[..]; 4].join(".")] {
            assert_eq!(Name::from_text(bad), None, "{bad}");
        }
        assert!(Name::from_text(&format!("{}.{}", [&long[..]; 3].join("."), "a".repeat(61))).is_some());
    }

    #[test]
    fn pointers_lead_backwards_only() {
        let message = b"\x03web\x00\x02ab\xc0\x00\xc0\x05\xc0\x0c\x01a\xc0\x0e\xc0\x00";
        assert_eq!(Name::read(message, 0), Some((name("web"), 5)));
        assert_eq!(Name::read(message, 5), Some((name("ab.web"), 10)));
        assert_eq!(Name::read(message, 10), Some((name("ab.web"), 12)));
        assert_eq!(Name::read(message, 12), None, "to itself");
        assert_eq!(Name::read(message, 14), None, "to its own start");
        assert_eq!(Name::read(b"\x40a\x00", 0), None);
        assert_eq!(Name::read(b"\x05abc", 0), None);
    }

    #[test]
    fn the_reverse_tree() {
        for (text, net) in [
            ("2.7.42.10.in-addr.arpa", Some("10.42.7.2/32")),
            ("7.42.10.in-addr.arpa", Some("10.42.7.0/24")),
            ("in-addr.arpa", Some("0.0.0.0/0")),
            ("1.2.7.42.10.in-addr.arpa", None),
            ("002.7.42.10.in-addr.arpa", None),
            ("+2.7.42.10.in-addr.arpa", None),
            ("256.7.42.10.in-addr.arpa", None),
            ("2.7.42.10.in-addr.example", None),
            ("7.0.0.0.2.4.d.f.ip6.arpa", Some("fd42:7::/32")),
            ("10.0.0.2.4.d.f.ip6.arpa", None),
            ("arpa", None),
        ] {
            assert_eq!(name(text).reversed(), net.map(|net| net.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(labels in prop::collection::vec("[a-zA-Z0-9_-]{1,63}", 1..5)) {
            let Some(name) = Name::from_text(&labels.join(".")) else { return Ok(()) };
            let mut message = vec![7; 12];
            name.write(&mut message);
            let end = message.len();
            message.push(9);
            prop_assert_eq!(Name::read(&message, 12), Some((name.clone(), end)));
            prop_assert_eq!(name.labels().count(), labels.len());
        }

        #[test]
        fn reading_ends(message: Vec<u8>, start in 0usize..64) {
            if let Some((name, end)) = Name::read(&message, start) {
                prop_assert!(end > start && end <= message.len() && name.wire.len() < LONGEST);
            }
        }

        #[test]
        fn addresses_have_names(four: u32, six: u128) {
            for ip in [IpAddr::V4(four.into()), IpAddr::V6(six.into())] {
                prop_assert_eq!(Name::of_address(ip).reversed(), Some(IpNet::from(ip)));
            }
        }
    }
}
