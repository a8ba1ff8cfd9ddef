//! Who holds which addresses: ranges that do not overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Holders of ranges. Looking up, taking and giving back cost the logarithm of how many there are.
#[derive(Debug)]
pub(super) struct Ranges<T>(BTreeMap<(bool, u128), (u128, T)>);

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy + PartialEq> Ranges<T> {
    /// Who holds addresses of this network.
    pub(super) fn holders(&self, net: &IpNet) -> impl Iterator<Item = T> {
        let (is_v6, first, last) = ends(net);
        let below = self.0.range((is_v6, 0)..=(is_v6, last)).rev();
        // They do not overlap each other, so that the first one that ends before is the last one to look at.
        below.take_while(move |(_, (end, _))| *end >= first).map(|(_, (_, holder))| *holder)
    }

    /// Gives a network to a holder, if nobody has any of it.
    pub(super) fn take(&mut self, net: &IpNet, holder: T) {
        if self.holders(net).next().is_none() {
            let (is_v6, first, last) = ends(net);
            self.0.insert((is_v6, first), (last, holder));
        }
    }

    /// Takes a network from its holder.
    pub(super) fn give_back(&mut self, net: &IpNet, holder: T) {
        let (is_v6, first, last) = ends(net);
        if self.0.get(&(is_v6, first)).is_some_and(|held| *held == (last, holder)) {
            self.0.remove(&(is_v6, first));
        }
    }
}

/// Family, first and last address.
fn ends(net: &IpNet) -> (bool, u128, u128) {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (net.addr().is_ipv6(), number(net.network()), number(net.broadcast()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_answer_like_a_list(steps in proptest::collection::vec((any::<bool>(), 0u8..=255, 20u8..=30, any::<bool>()), 0..60)) {
            let mut ranges = Ranges::default();
            let mut list: Vec<(IpNet, usize)> = Vec::new();
            for (at, (v6, byte, length, gives_back)) in steps.into_iter().enumerate() {
                let net: IpNet = if v6 {
                    ipnet::Ipv6Net::new((u128::from(byte) << 100).into(), length).unwrap().trunc().into()
                } else {
                    ipnet::Ipv4Net::new((u32::from(byte) << 4).into(), length).unwrap().trunc().into()
                };
                let expected: Vec<_> = list.iter().filter(|(held, _)| held.contains(&net) || net.contains(held)).collect();
                let mut holders: Vec<_> = ranges.holders(&net).collect();
                holders.sort_unstable();
                let mut expected_holders: Vec<_> = expected.iter().map(|(_, holder)| *holder).collect();
                expected_holders.sort_unstable();
                prop_assert_eq!(holders, expected_holders);
                if expected.is_empty() {
                    ranges.take(&net, at);
                    list.push((net, at));
                } else if gives_back {
                    let (net, holder) = *expected[0];
                    ranges.give_back(&net, usize::MAX);
                    ranges.give_back(&net, holder);
                    list.retain(|(_, other)| *other != holder);
                }
            }
        }
    }
}
