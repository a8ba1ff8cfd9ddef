//! How much each asker may have, so that none keeps the others from theirs: pure, but for who counts.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// As many addresses are told apart.
const MOST_SOURCES: usize = 4096;

/// Questions per second, by address.
#[derive(Debug)]
pub(super) struct Rates {
    rate: f64,
    burst: f64,
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    /// So many a second, and so many at once.
    pub(super) fn new(rate: u32, burst: u32) -> Self {
        Self { rate: rate.into(), burst: burst.into(), buckets: HashMap::new() }
    }

    /// Whether a question from there is looked at.
    pub(super) fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        let mut key = source;
        if !self.buckets.contains_key(&key) && self.buckets.len() >= MOST_SOURCES {
            // Whose bucket is full again is as one that never asked.
            let rested = Duration::from_secs_f64(self.burst / self.rate);
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < rested);
            if self.buckets.len() >= MOST_SOURCES {
                // All others together are one.
                key = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { left: self.burst, at: now });
        let more = now.saturating_duration_since(bucket.at).as_secs_f64() * self.rate;
        (bucket.left, bucket.at) = ((bucket.left + more).min(self.burst), now.max(bucket.at));
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }
}

/// Places for what takes memory and descriptors: questions that wait for others' answers, connections.
#[derive(Debug, Clone)]
pub(super) struct Places {
    most: usize,
    of_one: usize,
    taken: Rc<RefCell<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    questions: HashSet<(SocketAddr, u16)>,
    by_source: HashMap<IpAddr, usize>,
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    from: SocketAddr,
    id: u16,
}

impl Places {
    /// So many, and so many of them for one address.
    pub(super) fn new(most: usize, of_one: usize) -> Self {
        Self { most, of_one, taken: Rc::default() }
    }

    /// A place for the question `id` from there. None while it has one already, since one answer is enough, and none for who has enough: nobody gets
    /// more than a quarter of what is free, so that there is something for who comes next.
    pub(super) fn take(&self, from: SocketAddr, id: u16) -> Option<Place> {
        let mut taken = self.taken.borrow_mut();
        let own = taken.by_source.get(&from.ip()).copied().unwrap_or(0);
        let free = self.most.saturating_sub(taken.questions.len());
        if own >= self.of_one.min(free.div_ceil(4)) || !taken.questions.insert((from, id)) {
            return None;
        }
        *taken.by_source.entry(from.ip()).or_default() += 1;
        Some(Place { places: self.clone(), from, id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.borrow_mut();
        taken.questions.remove(&(self.from, self.id));
        let ip = self.from.ip();
        if let Some(own) = taken.by_source.get_mut(&ip) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_source.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(0x0a2a_0000 + n).into()
    }

    #[test]
    fn a_flood_of_one_takes_nothing_from_another() {
        let mut rates = Rates::new(500, 1000);
        let start = Instant::now();
        let allowed = (0..100_000).filter(|_| rates.allow(ip(1), start)).count();
        assert_eq!(allowed, 1000);
        assert!(rates.allow(ip(2), start));
        let later = start + Duration::from_secs(1);
        let allowed = (0..100_000).filter(|_| rates.allow(ip(1), later)).count();
        assert_eq!(allowed, 500);
        // Time that stands still or goes back gives nothing.
        assert!(!rates.allow(ip(1), start));
    }

    #[test]
    fn as_many_addresses_as_one_likes_take_no_more_memory() {
        let mut rates = Rates::new(500, 1000);
        let start = Instant::now();
        for n in 0..100_000 {
            rates.allow(ip(n), start);
        }
        assert!(rates.buckets.len() <= MOST_SOURCES + 1);
        assert!(!rates.allow(ip(200_000), start), "those share what one has");
        assert!(rates.allow(ip(1), start), "who was there before is not touched");
        assert!(rates.allow(ip(200_000), start + Duration::from_secs(3)));
        assert!(rates.buckets.len() < 10);
    }

    #[test]
    fn places_are_left_for_who_comes_next() {
        let places = Places::new(192, 32);
        let mut held = Vec::new();
        for source in 1..200 {
            let before = held.len();
            held.extend((0..100).map_while(|id| places.take(SocketAddr::new(ip(source), 53), id)));
            assert!((1..=32).contains(&(held.len() - before)) || held.len() == 192, "{source}");
        }
        assert_eq!(held.len(), 192);
        drop(held);
        let taken = places.taken.borrow();
        assert!(taken.by_source.is_empty() && taken.questions.is_empty());
    }

    #[test]
    fn a_question_that_is_asked_again_waits_once() {
        let places = Places::new(192, 32);
        let from = SocketAddr::new(ip(1), 4000);
        let first = places.take(from, 7).unwrap();
        assert!(places.take(from, 7).is_none());
        let others = [places.take(from, 8), places.take(SocketAddr::new(ip(1), 4001), 7)];
        assert!(others.iter().all(Option::is_some));
        drop(first);
        assert!(places.take(from, 7).is_some());
    }
}
