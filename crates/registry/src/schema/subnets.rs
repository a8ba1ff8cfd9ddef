//! The subnets of one node: of either family or of both.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The subnets that one lease is for. At least one family is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnets {
    /// The IPv4 subnet.
    pub v4: Option<Ipv4Net>,
    /// The IPv6 subnet.
    pub v6: Option<Ipv6Net>,
}

impl Subnets {
    /// Subnets without host bits; none if there is neither family.
    #[must_use]
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Option<Self> {
        let subnets = Self { v4: v4.map(|net| net.trunc()), v6: v6.map(|net| net.trunc()) };
        (v4.is_some() || v6.is_some()).then_some(subnets)
    }

    /// The last part of the key in the registry: `10.42.7.0-24`, or `10.42.7.0-24&fd00:42:7::-64`. Where there is no IPv4 subnet,
    /// flannel writes `0.0.0.0-0` for it.
    #[must_use]
    pub fn to_key(&self) -> String {
        let v4 = self.v4.unwrap_or_default();
        let v4 = format!("{}-{}", v4.addr(), v4.prefix_len());
        match self.v6 {
            Some(v6) => format!("{v4}&{}-{}", v6.addr(), v6.prefix_len()),
            None => v4,
        }
    }

    /// The subnets of a key. A subnet has one key only, the one that [`to_key`](Self::to_key) makes: texts that mean the same
    /// but are written otherwise (host bits, `fd00:0::`, leading zeros) are none. Nor are single addresses (`/32`, `/128`).
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        let (v4, v6) = match key.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (key, None),
        };
        let (address, length) = split(v4)?;
        let v4 = Ipv4Net::new(address.parse::<Ipv4Addr>().ok()?, length).ok().filter(|_| length < 32)?;
        let v6 = match v6 {
            Some(v6) => {
                let (address, length) = split(v6)?;
                Some(Ipv6Net::new(address.parse::<Ipv6Addr>().ok()?, length).ok().filter(|_| length < 128)?)
            }
            None => None,
        };
        let subnets = Self::new((v4 != Ipv4Net::default()).then_some(v4), v6)?;
        (subnets.to_key() == key).then_some(subnets)
    }

    /// The one or two of them, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.iter().any(|ours| other.iter().any(|theirs| ours.contains(&theirs) || theirs.contains(&ours)))
    }
}

impl fmt::Display for Subnets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(formatter, "{v4} and {v6}"),
            (Some(v4), None) => write!(formatter, "{v4}"),
            (None, Some(v6)) => write!(formatter, "{v6}"),
            (None, None) => formatter.write_str("nothing"),
        }
    }
}

fn split(text: &str) -> Option<(&str, u8)> {
    let (address, length) = text.split_once('-')?;
    Some((address, length.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnets(v4: &str, v6: &str) -> Subnets {
        Subnets::new(v4.parse().ok(), v6.parse().ok()).unwrap()
    }

    #[test]
    fn keys_are_flannels() {
        for (key, expected) in [
            ("10.12.13.0-24", subnets("10.12.13.0/24", "")),
            ("10.12.13.0-24&fd00:12:13::-56", subnets("10.12.13.0/24", "fd00:12:13::/56")),
            ("0.0.0.0-0&fd00:12:13::-56", subnets("", "fd00:12:13::/56")),
            ("10.3.7.128-31", subnets("10.3.7.128/31", "")),
        ] {
            assert_eq!(Subnets::from_key(key), Some(expected), "{key}");
            assert_eq!(expected.to_key(), key);
        }
    }

    #[test]
    fn what_is_no_key_of_a_subnet() {
        for key in [
            "",
            "-",
            "&",
            "10.12.13.0",
            "10.12.13.0-",
            "10.12.13.0/24",
            "10.12.13-24",
            "10.12.13.256-24",
            "10.12.13.0-32",
            "10.12.13.0-99",
            "10.12.13.0-+24",
            "10.12.13.0-024",
            "10.12.13.7-24",
            "010.12.13.0-24",
            "x10.12.13.0-24",
            "a/10.12.13.0-24",
            "10.12.13.0-24x",
            "10.12.13.0-24/x",
            " 10.12.13.0-24",
            "10.12.13.0-24\n",
            "10x12.13.0-24",
            "0.0.0.0-0",
            "10.0.0.0-0",
            "10.12.13.0-24&",
            "&fd00::-64",
            "fd00::-64",
            "10.12.13.0-24&fd00::-128",
            "10.12.13.0-24&fd00:0:0::-64",
            "10.12.13.0-24&FD00::-64",
            "10.12.13.0-24&fd00::1-64",
            "10.12.13.0-24&10.0.0.0-24",
            "10.12.13.0-24&fd00::-64&fd01::-64",
        ] {
            assert_eq!(Subnets::from_key(key), None, "{key:?}");
        }
    }

    #[test]
    fn overlaps_of_any_length_and_family() {
        let one = subnets("10.1.2.0/24", "fd00:1::/64");
        for (other, expected) in [
            (subnets("10.1.2.0/24", ""), true),
            (subnets("10.1.0.0/16", ""), true),
            (subnets("10.1.2.128/25", ""), true),
            (subnets("10.1.3.0/24", ""), false),
            (subnets("10.1.3.0/24", "fd00:1::/96"), true),
            (subnets("", "fd00:2::/64"), false),
        ] {
            assert_eq!(one.overlaps(&other), expected, "{other}");
            assert_eq!(other.overlaps(&one), expected, "{other}");
        }
    }

    pub(crate) fn any_subnets() -> impl Strategy<Value = Subnets> {
        let v4 = (any::<u32>(), 1u8..32).prop_map(|(bits, len)| Ipv4Net::new(Ipv4Addr::from_bits(bits), len).unwrap());
        let v6 =
            (any::<u128>(), 0u8..128).prop_map(|(bits, len)| Ipv6Net::new(Ipv6Addr::from_bits(bits), len).unwrap());
        (prop::option::of(v4), prop::option::of(v6)).prop_filter_map("neither family", |(v4, v6)| Subnets::new(v4, v6))
    }

    proptest! {
        #[test]
        fn a_key_comes_back(subnets in any_subnets()) {
            prop_assert_eq!(Subnets::from_key(&subnets.to_key()), Some(subnets));
        }

        #[test]
        fn a_subnet_has_one_key(key in "[0-9a-f.:&-]{0,40}|[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.0-[0-9]{1,2}(&[0-9a-f:]{2,9}-[0-9]{1,3})?") {
            if let Some(subnets) = Subnets::from_key(&key) {
                prop_assert_eq!(subnets.to_key(), key);
            }
        }

        #[test]
        fn any_text_is_judged(key in any::<String>()) {
            let _ = Subnets::from_key(&key);
        }
    }
}
