//! Which free subnets are taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::client::random;
use crate::schema::{NetworkConfig, Pool, Subnets};

/// Among so many of the first free ones one is chosen at random, as flannel does: nodes that come together meet seldom.
const AMONG: usize = 100;

pub(super) struct Choice<'a> {
    pub(super) config: &'a NetworkConfig,
    /// What others have.
    pub(super) taken: &'a [Subnets],
    /// What is only taken when there is nothing else.
    pub(super) avoid: &'a [Subnets],
    /// What others got first, or the registry did not give.
    pub(super) refused: &'a [Subnets],
}

impl Choice<'_> {
    /// The first of `previous` that is free; else any that is.
    pub(super) fn choose(&self, previous: &[Subnets]) -> Option<Subnets> {
        let is_free = |subnets: &&Subnets| {
            self.config.permits(subnets) && !self.taken.iter().chain(self.refused).any(|other| other.overlaps(subnets))
        };
        if let Some(subnets) = previous.iter().find(is_free) {
            return Some(*subnets);
        }
        let v4 = match &self.config.v4 {
            Some(pool) => match self.any(pool)? {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            },
            None => None,
        };
        let v6 = match &self.config.v6 {
            Some(pool) => match self.any(pool)? {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            },
            None => None,
        };
        Subnets::new(v4, v6)
    }

    /// One of the first free subnets of a family. One of a pair that was refused may be free: it is tried when nothing else is there.
    fn any(&self, pool: &Pool) -> Option<IpNet> {
        let all: [&[&[Subnets]]; 3] =
            [&[self.taken, self.refused, self.avoid], &[self.taken, self.refused], &[self.taken]];
        let mut free = all.iter().map(|without| free(pool, without)).find(|free| !free.is_empty())?;
        Some(free.swap_remove((random() % free.len() as u64) as usize))
    }
}

/// The first free subnets, in their order. A record that claims a whole network costs one step, not one for each of its subnets.
fn free(pool: &Pool, without: &[&[Subnets]]) -> Vec<IpNet> {
    let is_v4 = pool.network.addr().is_ipv4();
    let mut taken: Vec<(u128, u128)> = without
        .iter()
        .flat_map(|all| all.iter())
        .flat_map(Subnets::iter)
        .filter(|net| net.addr().is_ipv4() == is_v4)
        .map(|net| (number(net.network()), number(net.broadcast())))
        .collect();
    taken.sort_unstable();
    let size = 1u128 << (pool.network.max_prefix_len() - pool.subnet_len);
    let last = number(pool.max);
    let mut taken = taken.into_iter().peekable();
    let mut free = Vec::new();
    let mut at = Some(number(pool.min));
    while let Some(start) = at.filter(|start| *start <= last && free.len() < AMONG) {
        let end = start | (size - 1);
        match taken.peek() {
            Some((_, until)) if *until < start => {
                taken.next();
            }
            Some((from, until)) if *from <= end => at = (until | (size - 1)).checked_add(1),
            _ => {
                free.extend(net(start, pool.subnet_len, is_v4));
                at = end.checked_add(1);
            }
        }
    }
    free
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn net(number: u128, len: u8, is_v4: bool) -> Option<IpNet> {
    if is_v4 {
        Ipv4Net::new(Ipv4Addr::from_bits(u32::try_from(number).ok()?), len).ok().map(IpNet::V4)
    } else {
        Ipv6Net::new(Ipv6Addr::from_bits(number), len).ok().map(IpNet::V6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config(text: &str) -> NetworkConfig {
        NetworkConfig::parse(text.as_bytes()).unwrap()
    }

    fn keys(keys: &[&str]) -> Vec<Subnets> {
        keys.iter().map(|key| Subnets::from_key(key).unwrap()).collect()
    }

    fn chosen(
        config: &NetworkConfig,
        taken: &[&str],
        avoid: &[&str],
        refused: &[&str],
        previous: &[&str],
    ) -> BTreeSet<String> {
        let (taken, avoid, refused) = (keys(taken), keys(avoid), keys(refused));
        let choice = Choice { config, taken: &taken, avoid: &avoid, refused: &refused };
        (0..200).filter_map(|_| choice.choose(&keys(previous))).map(|subnets| subnets.to_key()).collect()
    }

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn any_of_those_that_are_free() {
        let config = config(r#"{"Network":"10.3.0.0/22"}"#);
        let all = ["10.3.1.0-24", "10.3.2.0-24", "10.3.3.0-24"];
        assert_eq!(chosen(&config, &[], &[], &[], &[]), set(&all));
        assert_eq!(chosen(&config, &["10.3.2.0-24"], &[], &[], &[]), set(&["10.3.1.0-24", "10.3.3.0-24"]));
        assert_eq!(
            chosen(&config, &["10.3.2.64-26", "10.9.0.0-24"], &[], &[], &[]),
            set(&["10.3.1.0-24", "10.3.3.0-24"])
        );
        assert_eq!(chosen(&config, &["10.3.0.0-23"], &[], &[], &[]), set(&["10.3.2.0-24", "10.3.3.0-24"]));
        assert_eq!(chosen(&config, &["10.0.0.0-8"], &[], &[], &[]), set(&[]));
        assert_eq!(chosen(&config, &all, &[], &[], &[]), set(&[]));
    }

    #[test]
    fn the_former_one_first_if_it_is_free_and_fits() {
        let config = config(r#"{"Network":"10.3.0.0/22"}"#);
        assert_eq!(chosen(&config, &[], &[], &[], &["10.4.0.0-24", "10.3.2.0-24"]), set(&["10.3.2.0-24"]));
        assert_eq!(chosen(&config, &["10.3.2.0-24", "10.3.1.0-24"], &[], &[], &["10.3.2.0-24"]), set(&["10.3.3.0-24"]));
        assert!(chosen(&config, &[], &[], &[], &["10.3.0.0-24"]).len() == 3, "the first one is not given out");
    }

    #[test]
    fn what_is_avoided_and_what_was_refused_come_last() {
        let config = config(r#"{"Network":"10.3.0.0/22"}"#);
        assert_eq!(chosen(&config, &["10.3.1.0-24"], &["10.3.2.0-24"], &[], &[]), set(&["10.3.3.0-24"]));
        assert_eq!(chosen(&config, &["10.3.1.0-24", "10.3.3.0-24"], &["10.3.2.0-24"], &[], &[]), set(&["10.3.2.0-24"]));
        assert_eq!(chosen(&config, &["10.3.1.0-24"], &["10.3.2.0-24"], &["10.3.3.0-24"], &[]), set(&["10.3.2.0-24"]));
    }

    #[test]
    fn both_families() {
        let config = config(r#"{"EnableIPv6":true,"Network":"10.3.0.0/22","IPv6Network":"fd00::/62"}"#);
        let taken = ["10.3.1.0-24&fd00:0:0:1::-64", "10.3.2.0-24&fd00:0:0:3::-64"];
        assert_eq!(chosen(&config, &taken, &[], &[], &[]), set(&["10.3.3.0-24&fd00:0:0:2::-64"]));
        let v6 = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/62","IPv6SubnetMin":"fd00:0:0:3::"}"#;
        assert_eq!(chosen(&super::tests::config(v6), &[], &[], &[], &[]), set(&["0.0.0.0-0&fd00:0:0:3::-64"]));
    }

    #[test]
    fn among_the_first_hundred_of_many() {
        let config = config(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/16","IPv6SubnetLen":126}"#);
        let free = free(&config.v6.unwrap(), &[&keys(&["0.0.0.0-0&fd00::-64"])]);
        assert_eq!(free.len(), AMONG);
        assert_eq!(free.first().unwrap().to_string(), "fd00:0:0:1::/126");
    }

    proptest! {
        #[test]
        fn free_is_what_overlaps_nothing(claims in prop::collection::vec((any::<u16>(), 14u8..31), 0..40), len in 18u8..28) {
            let config = config(&format!(r#"{{"Network":"10.3.0.0/16","SubnetLen":{len}}}"#));
            let pool = config.v4.unwrap();
            let taken: Vec<Subnets> = claims
                .into_iter()
                .filter_map(|(bits, len)| Subnets::new(Some(Ipv4Net::new(Ipv4Addr::from_bits(0x0a03_0000 | u32::from(bits)), len).unwrap()), None))
                .collect();
            let expected: Vec<IpNet> = pool
                .subnets()
                .filter(|net| !taken.iter().any(|claim| claim.overlaps(&Subnets::new(Some(net.to_string().parse().unwrap()), None).unwrap())))
                .take(AMONG)
                .collect();
            prop_assert_eq!(free(&pool, &[&taken]), expected);
        }
    }
}
