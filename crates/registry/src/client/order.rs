//! Which events are news. etcd 3.4 is known to repeat events and to send them out of order; what is older than what is known of its
//! key is dropped here, and what is lost comes with the next listing.

use std::collections::HashMap;

use super::{Event, KeyValue, Listing};

/// With so many keys changed since the last listing another one is cheaper to remember.
const MANY: usize = 65_536;

/// What is known of the order of things.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// All up to this revision is known, from the last listing.
    floor: i64,
    /// The revisions of keys that changed since.
    since: HashMap<String, i64>,
    /// The highest revision that was seen.
    last: i64,
}

impl Order {
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    pub(super) fn is_large(&self) -> bool {
        self.since.len() > MANY
    }

    /// Takes those events that are news, in their order.
    pub(super) fn news(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Event> {
        let mut news = Vec::new();
        for event in events {
            let revision = event.mod_revision();
            if revision <= self.floor || self.since.get(event.key()).is_some_and(|known| *known >= revision) {
                continue;
            }
            self.since.insert(event.key().to_owned(), revision);
            self.last = self.last.max(revision);
            news.push(event);
        }
        news
    }

    /// Begins anew with a listing. `meanwhile` has the news that came while it was made: the later ones of them are put into it. A
    /// listing that is older than what was seen and not made up for by those is of a registry that was set back, and counts as it is.
    pub(super) fn listed(&mut self, listing: &mut Listing, meanwhile: Vec<Event>) {
        let later: Vec<_> = meanwhile.into_iter().filter(|event| event.mod_revision() > listing.revision).collect();
        self.since.clear();
        self.floor = listing.revision;
        self.last = listing.revision;
        if later.is_empty() {
            return;
        }
        let mut entries: HashMap<String, KeyValue> =
            listing.entries.drain(..).map(|entry| (entry.key.clone(), entry)).collect();
        for event in self.news(later) {
            match event {
                Event::Put(entry) => {
                    entries.insert(entry.key.clone(), entry);
                }
                Event::Delete { key, .. } => {
                    entries.remove(&key);
                }
            }
        }
        listing.entries = entries.into_values().collect();
        listing.entries.sort_by(|one, other| one.key.cmp(&other.key));
        listing.revision = self.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn put(key: &str, revision: i64) -> Event {
        Event::Put(KeyValue {
            key: key.into(),
            value: revision.to_string().into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        })
    }

    fn delete(key: &str, mod_revision: i64) -> Event {
        Event::Delete { key: key.into(), mod_revision }
    }

    fn listing(revision: i64, entries: &[(&str, i64)]) -> Listing {
        let entry = |(key, revision): &(&str, i64)| match put(key, *revision) {
            Event::Put(entry) => entry,
            Event::Delete { .. } => unreachable!(),
        };
        Listing { revision, entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn what_is_known_is_no_news() {
        let mut order = Order::default();
        order.listed(&mut listing(10, &[("a", 9)]), Vec::new());
        assert_eq!(order.news([put("a", 9), delete("b", 10)]), []);
        assert_eq!(order.news([put("a", 12), put("a", 11), put("b", 11)]), [put("a", 12), put("b", 11)]);
        assert_eq!(order.news([put("a", 12), delete("a", 11), delete("a", 13)]), [delete("a", 13)]);
        assert_eq!(order.last(), 13);
    }

    #[test]
    fn a_registry_that_was_set_back_counts_as_it_is() {
        let mut order = Order::default();
        order.news([put("a", 100)]);
        order.listed(&mut listing(50, &[]), Vec::new());
        assert_eq!(order.last(), 50);
        assert_eq!(order.news([put("a", 51)]), [put("a", 51)]);
    }

    #[test]
    fn what_came_while_a_listing_was_made_is_put_into_it() {
        let mut order = Order::default();
        let mut made = listing(10, &[("a", 5), ("b", 6)]);
        order.listed(&mut made, vec![put("a", 10), put("c", 11), delete("b", 12)]);
        assert_eq!(made, listing(12, &[("a", 5), ("c", 11)]));
        assert_eq!(order.news([put("c", 11), put("b", 12), put("b", 13)]), [put("b", 13)]);
    }

    proptest! {
        // Events that are repeated, delayed behind others and cut off give, with the listing that follows, what the registry has;
        // and no key ever goes back on the way.
        #[test]
        fn no_key_goes_back(
            writes in prop::collection::vec((0usize..4, any::<bool>()), 1..60), swaps in prop::collection::vec((0usize..60, 0usize..60), 0..30),
            cut in 0usize..60,
        ) {
            let keys = ["a", "b", "c", "d"];
            let events: Vec<_> = writes.iter().zip(1..).map(|((key, puts), revision)| if *puts { put(keys[*key], revision) } else { delete(keys[*key], revision) }).collect();
            let mut truth = BTreeMap::new();
            for event in &events {
                match event {
                    Event::Put(entry) => { truth.insert(entry.key.clone(), entry.clone()); }
                    Event::Delete { key, .. } => { truth.remove(key); }
                }
            }
            let mut sent = events.clone();
            for (one, other) in swaps {
                if one < sent.len() && other < sent.len() {
                    sent.swap(one, other);
                    let again = sent[other].clone();
                    sent.push(again);
                }
            }
            let mut order = Order::default();
            let mut known: BTreeMap<String, i64> = BTreeMap::new();
            let cut = cut.min(sent.len());
            let meanwhile = order.news(sent.drain(..cut));
            for event in meanwhile.iter().cloned().chain(order.news(sent)) {
                let before = known.insert(event.key().to_owned(), event.mod_revision());
                prop_assert!(before < Some(event.mod_revision()));
            }
            let mut made = Listing { revision: events.len() as i64, entries: truth.values().cloned().collect() };
            let expected = made.clone();
            order.listed(&mut made, meanwhile);
            prop_assert_eq!(made, expected);
            prop_assert_eq!(order.news(events), []);
        }
    }
}
