//! A registry as somebody who may write everything has it, and a view that follows it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Event, KeyValue, Listing, Update};
use registry::schema::{NetworkConfig, Prefix, Subnets};
use registry::trust::{Anchor, Serial, Tombstone};
use registry::view::{Memory, Setting, View};

use crate::trust_bed::{Node, authority, member, shared};

pub(crate) const TTL: Duration = Duration::from_secs(24 * 3600);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A registry as somebody who may write everything has it, and a view that follows it.
pub(crate) struct World {
    pub(crate) view: View,
    pub(crate) entries: BTreeMap<String, KeyValue>,
    pub(crate) revision: i64,
    pub(crate) now: Duration,
    pub(crate) heard: BTreeMap<Serial, Duration>,
}

pub(crate) fn network(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text.as_bytes()).unwrap()
}

pub(crate) fn adit() -> NetworkConfig {
    network(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"adit"}}"#)
}

pub(crate) fn udp() -> NetworkConfig {
    network(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}"#)
}

pub(crate) fn setting(anchor: Anchor, network: NetworkConfig, own: Option<Serial>) -> Setting {
    Setting { prefix: Prefix::default(), anchor, network, own, lease_ttl: TTL }
}

impl World {
    pub(crate) fn with(setting: Setting) -> Self {
        let view = View::new(setting, Memory::default());
        Self { view, entries: BTreeMap::new(), revision: 0, now: MINUTE, heard: BTreeMap::new() }
    }

    /// A network with an authority, as node 1 sees it.
    pub(crate) fn new() -> Self {
        Self::with(setting(authority().anchor(), adit(), Some(1)))
    }

    pub(crate) fn shared() -> Self {
        Self::with(setting(shared(), adit(), Some(member(1, "self").serial())))
    }

    pub(crate) fn tell(&mut self, update: &Update) -> bool {
        let heard = self.heard.clone();
        self.view.handle(update, self.now, &|serial| heard.get(&serial).copied())
    }

    pub(crate) fn write(&mut self, key: &str, value: Vec<u8>) -> KeyValue {
        self.revision += 1;
        let before = self.entries.get(key);
        let entry = KeyValue {
            key: key.to_owned(),
            value,
            create_revision: before.map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            version: before.map_or(1, |before| before.version + 1),
            lease: 7,
        };
        self.entries.insert(key.to_owned(), entry.clone());
        entry
    }

    /// Writes an entry and tells of it.
    pub(crate) fn put(&mut self, key: &str, value: Vec<u8>) -> bool {
        let entry = self.write(key, value);
        self.tell(&Update::Events { revision: self.revision, events: vec![Event::Put(entry)] })
    }

    pub(crate) fn delete(&mut self, key: &str) -> bool {
        self.revision += 1;
        self.entries.remove(key).unwrap();
        let event = Event::Delete { key: key.to_owned(), mod_revision: self.revision };
        self.tell(&Update::Events { revision: self.revision, events: vec![event] })
    }

    /// Tells of everything anew, after some time.
    pub(crate) fn list(&mut self, after: Duration) -> bool {
        self.now += after;
        let entries = self.entries.values().cloned().collect();
        self.tell(&Update::Listing(Listing { revision: self.revision, entries }))
    }

    /// The registry is set back to what it was.
    pub(crate) fn set_back(&mut self, entries: &BTreeMap<String, KeyValue>) {
        self.entries.clone_from(entries);
        self.list(MINUTE);
    }

    pub(crate) fn key(subnets: Subnets) -> String {
        Prefix::default().subnet(&subnets)
    }

    pub(crate) fn publish(&mut self, node: &Node, sequence: u64, subnets: Subnets) -> bool {
        self.put(&Self::key(subnets), node.value(sequence, subnets))
    }

    pub(crate) fn bury(&mut self, number: u64, serial: Serial) -> bool {
        let signed = authority().bury(&Tombstone { number, serial });
        self.put(&Prefix::default().removed_at(number), STANDARD.encode(signed).into_bytes())
    }

    pub(crate) fn release(&mut self, node: &Node, sequence: u64, subnets: Subnets) -> bool {
        self.put(&Prefix::default().release_of(node.serial()), node.release(sequence, subnets))
    }

    /// Who holds what, by serial.
    pub(crate) fn holders(&self) -> Vec<(Serial, Subnets)> {
        self.view.nodes().into_iter().map(|node| (node.serial, node.subnets)).collect()
    }

    /// What is said to be wrong, with the last part of the key.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.view.problems();
        assert_eq!(problems.count, problems.named.len());
        problems.named.into_iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect()
    }

    pub(crate) fn problem(&self) -> String {
        let mut problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    /// Goes through a restart with what is remembered, through its bytes.
    pub(crate) fn restart(&mut self, setting: Setting) {
        let memory = Memory::from_bytes(&self.view.memory().to_bytes()).unwrap();
        self.view = View::new(setting, memory);
    }
}
