//! What a follower of updates knows.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::client::{Event, KeyValue, Listing, Update, Watcher};
use tokio::time::{Instant, timeout_at};

/// All entries, by the updates so far.
#[derive(Debug, Default)]
pub struct State {
    pub entries: BTreeMap<String, KeyValue>,
    pub listings: usize,
    pub events: usize,
    pub lost: Vec<String>,
    pub back: usize,
}

impl State {
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Listing(Listing { entries, .. }) => {
                self.listings += 1;
                self.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            }
            Update::Events { revision, events } => {
                self.events += events.len();
                for event in events {
                    assert!(event.mod_revision() <= revision);
                    match event {
                        Event::Put(entry) => {
                            let before = self.entries.insert(entry.key.clone(), entry.clone());
                            assert!(before.is_none_or(|before| before.mod_revision < entry.mod_revision));
                        }
                        Event::Delete { key, .. } => {
                            self.entries.remove(&key);
                        }
                    }
                }
            }
            Update::Lost { reason, .. } => {
                assert!(self.lost.len() <= self.back, "an outage is said once: {reason}");
                self.lost.push(reason);
            }
            Update::Back => {
                self.back += 1;
                assert_eq!(self.back, self.lost.len());
            }
        }
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|entry| std::str::from_utf8(&entry.value).unwrap())
    }

    pub fn keys(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// Takes updates until something is so; says how long that took.
    pub async fn until(&mut self, watcher: &mut Watcher, within: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is_so(self) {
            match timeout_at(start + within, watcher.next()).await {
                Ok(update) => self.apply(update),
                Err(_) => panic!("not within {within:?}: {self:?}"),
            }
        }
        start.elapsed()
    }

    /// Takes all updates that come in a time.
    pub async fn during(&mut self, watcher: &mut Watcher, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(update) = timeout_at(end, watcher.next()).await {
            self.apply(update);
        }
    }
}
