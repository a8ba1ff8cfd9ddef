//! How often may one source ask: a token bucket for each IPv4 address and each IPv6 /64, in bounded memory.
//!
//! A bucket is one number, the time at which it will be full again (the generic cell rate algorithm), so that an entry is
//! 16 bytes. Entries live in two generations: what is used moves to the young one, and once a second the old one is
//! forgotten as a whole. A bucket that was not used for a second is full again, so nothing is lost with it, and nothing has
//! to be walked while others wait for the lock.

use std::collections::HashMap;
use std::mem;
use std::net::IpAddr;
use std::time::Duration;

use crate::time::Time;

/// The most sources that are known at once; to any other the answer is "over".
pub const MAX_SOURCES: usize = 65_536;
/// How long an entry is kept at least after its last use.
const GENERATION: Duration = Duration::from_secs(1);

/// A rate with a burst.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The time one token takes to come back.
    interval: Duration,
    /// How far ahead of now "full again" may lie when a token is taken.
    slack: Duration,
}

impl Rate {
    /// `per_second` tokens a second, `burst` at once; both at least one.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval = 1_000_000_000 / if per_second == 0 { 1 } else { per_second as u64 };
        let slack = interval * burst.saturating_sub(1) as u64;
        Self { interval: Duration::from_nanos(interval), slack: Duration::from_nanos(slack) }
    }
}

/// One token bucket, full at the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at: Time,
}

impl Bucket {
    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Time) -> bool {
        if self.full_at.since(now) > rate.slack {
            return false;
        }
        self.full_at = self.full_at.max(now) + rate.interval;
        true
    }
}

/// The buckets of all sources.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    young: HashMap<u64, Bucket>,
    old: HashMap<u64, Bucket>,
    /// When the young generation began.
    since: Time,
}

impl Limiter {
    /// A limiter that has seen nobody. The burst of `rate` must come back within a second, or forgetting gives it early.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, young: HashMap::new(), old: HashMap::new(), since: Time::NEVER }
    }

    /// Takes one token of a source. False if it is over its rate, or unknown while there are [`MAX_SOURCES`] others.
    pub fn take(&mut self, source: IpAddr, now: Time) -> bool {
        self.turn(now);
        let key = key(source);
        if let Some(bucket) = self.young.get_mut(&key) {
            return bucket.take(self.rate, now);
        }
        let mut bucket = match self.old.remove(&key) {
            Some(bucket) => bucket,
            None if self.len() < MAX_SOURCES => Bucket::default(),
            None => return false,
        };
        let granted = bucket.take(self.rate, now);
        self.young.insert(key, bucket);
        granted
    }

    /// How many sources are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets who was not seen for a generation.
    fn turn(&mut self, now: Time) {
        let age = now.since(self.since);
        if age < GENERATION {
            return;
        }
        self.since = now;
        mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
        if age >= 2 * GENERATION {
            self.old.clear();
        }
        // What a flood made large becomes small again behind it.
        self.young.shrink_to(self.old.len());
    }
}

/// An IPv4 address, however it is written, or the upper half of an IPv6 address: one customer's network, who has all of its
/// addresses. The two do not collide, for ::/32 holds no host that sends.
fn key(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate::new(20, 5);
    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn at(millis: u64) -> Time {
        Time::from_nanos((1000 + millis) * 1_000_000)
    }

    fn spoofed(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn a_burst_of_five_and_twenty_a_second() {
        let mut limiter = Limiter::new(RATE);
        for _ in 0..5 {
            assert!(limiter.take(SOURCE, at(0)));
        }
        assert!(!limiter.take(SOURCE, at(0)));
        for (now, granted) in [(49, false), (50, true), (51, false), (99, false), (100, true), (101, false)] {
            assert_eq!(limiter.take(SOURCE, at(now)), granted, "{now} ms");
        }
        for _ in 0..5 {
            assert!(limiter.take(SOURCE, at(1000)));
        }
        assert!(!limiter.take(SOURCE, at(1000)));
    }

    #[test]
    fn a_mapped_address_is_the_same_source() {
        let mut limiter = Limiter::new(RATE);
        for _ in 0..5 {
            assert!(limiter.take(SOURCE, at(0)));
        }
        assert!(!limiter.take("::ffff:192.0.2.1".parse().unwrap(), at(0)));
        assert!(limiter.take("192.0.2.2".parse().unwrap(), at(0)));
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let mut limiter = Limiter::new(RATE);
        for host in 0..5 {
            assert!(limiter.take(Ipv6Addr::from_bits(0x2001_0db8 << 96 | host).into(), at(0)));
        }
        assert!(!limiter.take("2001:db8::ffff".parse().unwrap(), at(0)));
        assert!(limiter.take("2001:db8:0:1::1".parse().unwrap(), at(0)));
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut limiter = Limiter::new(RATE);
        let granted = (0..70_000).filter(|number| limiter.take(spoofed(*number), at(0))).count();
        assert_eq!((granted, limiter.len()), (MAX_SOURCES, MAX_SOURCES));
        assert!(!limiter.take(SOURCE, at(500)), "full");
        assert!(limiter.take(spoofed(1), at(500)), "known");
        // One second later they are old, two seconds later gone.
        assert!(!limiter.take(SOURCE, at(1100)));
        assert!(limiter.take(spoofed(1), at(1100)));
        assert!(limiter.take(SOURCE, at(2200)));
        assert_eq!(limiter.len(), 2);
        assert!(limiter.take(SOURCE, at(3300)) && limiter.take(SOURCE, at(4400)));
        assert_eq!(limiter.len(), 1);
        assert!(limiter.young.capacity() + limiter.old.capacity() < 100);
    }

    #[test]
    fn a_bucket_in_use_is_not_forgotten() {
        let mut limiter = Limiter::new(RATE);
        let granted = (0..10_000).filter(|millis| limiter.take(SOURCE, at(*millis))).count();
        assert!((200..=205).contains(&granted), "{granted} in 10 s");
    }

    #[test]
    fn a_clock_a_little_behind_harms_nothing() {
        let mut limiter = Limiter::new(RATE);
        assert!(limiter.take(SOURCE, at(10)));
        for _ in 0..3 {
            assert!(limiter.take(SOURCE, at(9)));
        }
        assert!(!limiter.take(SOURCE, at(9)));
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_rate(
            steps in proptest::collection::vec((0_u64..400, 0_u32..4), 1..400), burst in 1_u32..8, rate in 8_u32..200,
        ) {
            let mut limiter = Limiter::new(Rate::new(rate, burst));
            let (mut now, mut counts) = (0, [0_u64; 4]);
            for (step, source) in steps {
                now += step;
                counts[source as usize] += u64::from(limiter.take(spoofed(source), at(now)));
            }
            for count in counts {
                // The interval is rounded down to nanoseconds: one token more in a very long time.
                prop_assert!(count <= u64::from(burst) + now * u64::from(rate) / 1000 + 1);
            }
        }
    }
}
