//! The longest prefix that an address matches, for IPv4 and IPv6.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// A map from prefixes to `T`, asked by address.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    four: PrefixMap<Ipv4Net, T>,
    six: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { four: PrefixMap::new(), six: PrefixMap::new() }
    }
}

impl<T: Copy> RouteTable<T> {
    /// Maps `prefix` (host bits do not count) to `value`; answers what it was mapped to before.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.four.insert(prefix.trunc(), value),
            IpNet::V6(prefix) => self.six.insert(prefix.trunc(), value),
        }
    }

    /// Takes out what exactly `prefix` is mapped to.
    pub fn remove(&mut self, prefix: IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.four.remove(&prefix.trunc()),
            IpNet::V6(prefix) => self.six.remove(&prefix.trunc()),
        }
    }

    /// What exactly `prefix` is mapped to.
    pub fn exact(&self, prefix: IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.four.get(&prefix.trunc()).copied(),
            IpNet::V6(prefix) => self.six.get(&prefix.trunc()).copied(),
        }
    }

    /// The value of the longest prefix that all of `prefix` lies in, which may be itself.
    pub fn covering(&self, prefix: IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.four.get_lpm(&prefix.trunc()).map(|(_, value)| *value),
            IpNet::V6(prefix) => self.six.get_lpm(&prefix.trunc()).map(|(_, value)| *value),
        }
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn longest_match(&self, address: IpAddr) -> Option<T> {
        self.longest_match_and_length(address).map(|(value, _)| value)
    }

    /// The same, and the length of the prefix.
    #[inline]
    pub fn longest_match_and_length(&self, address: IpAddr) -> Option<(T, u8)> {
        match address {
            IpAddr::V4(address) => {
                self.four.get_lpm(&Ipv4Net::from(address)).map(|(net, value)| (*value, net.prefix_len()))
            }
            IpAddr::V6(address) => {
                self.six.get_lpm(&Ipv6Net::from(address)).map(|(net, value)| (*value, net.prefix_len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn table(prefixes: &[&str]) -> RouteTable<usize> {
        let mut table = RouteTable::default();
        for (i, prefix) in prefixes.iter().enumerate() {
            table.insert(prefix.parse().unwrap(), i);
        }
        table
    }

    fn lookup(table: &RouteTable<usize>, address: &str) -> Option<usize> {
        table.longest_match(address.parse().unwrap())
    }

    #[test]
    fn the_longer_prefix_wins_in_any_order() {
        let table = table(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"]);
        assert_eq!(lookup(&table, "10.1.2.3"), Some(3));
        assert_eq!(lookup(&table, "10.1.2.4"), Some(2));
        assert_eq!(lookup(&table, "10.1.3.4"), Some(1));
        assert_eq!(lookup(&table, "10.2.3.4"), Some(0));
        assert_eq!(lookup(&table, "11.2.3.4"), None);
    }

    #[test]
    fn the_default_route_matches_everything_of_its_family() {
        let table = table(&["0.0.0.0/0"]);
        assert_eq!(lookup(&table, "203.0.113.9"), Some(0));
        assert_eq!(lookup(&table, "2001:db8::1"), None);
    }

    #[test]
    fn host_bits_of_a_prefix_do_not_count() {
        let mut table = table(&["10.1.2.3/24"]);
        assert_eq!(lookup(&table, "10.1.2.250"), Some(0));
        assert_eq!(table.insert("10.1.2.0/24".parse().unwrap(), 7), Some(0));
    }

    fn net() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that prefixes nest and addresses hit them.
        prop_oneof![
            (0u32..64, 0u8..=32).prop_map(|(a, l)| IpNet::new(Ipv4Addr::from(a << 24 | a).into(), l).unwrap()),
            (0u128..64, 0u8..=128).prop_map(|(a, l)| IpNet::new(Ipv6Addr::from(a << 120 | a).into(), l).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn it_answers_what_a_linear_scan_answers(prefixes in prop::collection::vec(net(), 0..40), asked in prop::collection::vec(net(), 1..40)) {
            let mut table = RouteTable::default();
            for (i, prefix) in prefixes.iter().enumerate() {
                table.insert(*prefix, i);
            }
            for address in asked.iter().map(IpNet::addr) {
                let scan = prefixes.iter().enumerate().filter(|(_, p)| p.contains(&address)).max_by_key(|(i, p)| (p.prefix_len(), *i));
                prop_assert_eq!(table.longest_match(address), scan.map(|(i, _)| i));
            }
            for prefix in asked {
                let around = prefixes.iter().enumerate().filter(|(_, p)| p.contains(&prefix));
                let closest = around.max_by_key(|(i, p)| (p.prefix_len(), *i)).map(|(i, _)| i);
                prop_assert_eq!(table.covering(prefix), closest);
                let same = closest.filter(|i| prefixes[*i].trunc() == prefix.trunc());
                let mut less = table.clone();
                prop_assert_eq!((less.exact(prefix), less.remove(prefix), less.exact(prefix)), (same, same, None));
            }
        }
    }
}
