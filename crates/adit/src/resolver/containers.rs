//! The containers of this node that have names, from their records: read when something has changed in their directory.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::watch::Watch;

use super::name::Name;
use super::zone::Container;
use crate::container::{Fault, Stage, Store};

/// How long a reading rests, in multiples of what it took: with thousands of containers that come and go, questions for their names take a fifth of
/// a processor.
const REST: u32 = 4;

/// How long it rests at most, and after it failed.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Containers {
    store: Store,
    watch: Option<Watch>,
    /// None if they could not be read.
    known: Option<Rc<[Container]>>,
    is_stale: bool,
    again: Instant,
}

/// What is known at this moment.
#[derive(Debug)]
pub(super) enum Look {
    /// All of them.
    Known(Rc<[Container]>),
    /// Too little time has passed since the last reading.
    Later(Instant),
    /// They cannot be read.
    Failed,
}

impl Containers {
    pub(super) fn of(store: Store) -> Self {
        Self { store, watch: None, known: None, is_stale: true, again: Instant::now() }
    }

    /// Looks, and reads if it must.
    pub(super) fn look(&mut self) -> Look {
        // Without a directory there is nothing to watch, and little to read.
        self.is_stale |= self.watch.as_ref().is_none_or(Watch::reset);
        let began = Instant::now();
        if self.is_stale && began < self.again && self.known.is_some() {
            return Look::Later(self.again);
        }
        if self.is_stale && began >= self.again {
            // First the watch, then the reading: what changes in between is told. The directory may be another one by now.
            self.watch = Watch::directory(self.store.directory()).ok();
            let read = self.read();
            let rest = if read.is_ok() { began.elapsed().saturating_mul(REST).min(LONGEST_REST) } else { LONGEST_REST };
            self.again = Instant::now() + rest;
            self.is_stale = read.is_err();
            self.known = read.map_err(|fault| tracing::warn!("containers have no names: {fault}")).ok();
        }
        self.known.as_ref().map_or(Look::Failed, |known| Look::Known(Rc::clone(known)))
    }

    fn read(&self) -> Result<Rc<[Container]>, Fault> {
        let records = self.store.read_all()?;
        let there = records.into_iter().filter(|record| record.stage == Stage::Made && !record.is_abandoned());
        let named = there.filter_map(|record| {
            let name = Name::from_text(record.name.as_deref()?)?;
            Some(Container { name, addresses: record.addresses.iter().map(IpNet::addr).collect() })
        });
        Ok(named.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Directories;
    use crate::container::{Door, Key, Record};

    fn record(container: &str, name: Option<&str>, stage: Stage) -> Record {
        let key =
            Key { door: Door::Cni, network: "adit".into(), container: container.into(), interface: "eth0".into() };
        let text = serde_json::json!({
            "door": "cni", "network": "adit", "container": container, "interface": "eth0", "stage": stage,
            "name": name, "bridge": "adit-br0", "host_interface": key.host_interface(), "mac": [10, 88, 10, 42, 7, 2],
            "addresses": ["10.42.7.2/24", "fd42::2/64"], "created": 1_795_000_000,
        });
        serde_json::from_value(text).unwrap()
    }

    /// Those that are known, once it may be looked.
    fn known(containers: &mut Containers) -> Vec<String> {
        loop {
            match containers.look() {
                Look::Known(known) => return known.iter().map(|container| container.name.to_string()).collect(),
                Look::Later(at) => std::thread::sleep(at.saturating_duration_since(Instant::now())),
                Look::Failed => panic!("they cannot be read"),
            }
        }
    }

    #[test]
    fn records_are_followed_as_they_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { state: directory.path().into(), ..Directories::default() };
        let store = Store::of(&directories, "adit0");
        let mut containers = Containers::of(store.clone());
        assert!(known(&mut containers).is_empty());
        let web = record("c1", Some("Web"), Stage::Made);
        store.lock().unwrap().put(&web).unwrap();
        assert_eq!(known(&mut containers), ["web"]);
        for (container, name, stage) in [
            ("c2", Some("half"), Stage::Making),
            ("c3", None, Stage::Made),
            ("c4", Some(""), Stage::Made),
            ("c5", Some("a..b"), Stage::Made),
            ("c6", Some("db.shop"), Stage::Made),
        ] {
            store.lock().unwrap().put(&record(container, name, stage)).unwrap();
        }
        let mut names = known(&mut containers);
        names.sort();
        assert_eq!(names, ["db.shop", "web"]);
        store.update(&record("c6", Some("db.store"), Stage::Made)).unwrap();
        store.lock().unwrap().remove(&web.key).unwrap();
        assert_eq!(known(&mut containers), ["db.store"]);
        // Another directory in its place, as after a purge.
        std::fs::remove_dir_all(store.directory()).unwrap();
        assert!(known(&mut containers).is_empty());
        store.lock().unwrap().put(&web).unwrap();
        assert_eq!(known(&mut containers), ["web"]);
    }

    #[test]
    fn what_cannot_be_read_is_no_reason_to_say_that_there_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let directories = Directories { state: directory.path().into(), ..Directories::default() };
        let store = Store::of(&directories, "adit0");
        std::fs::write(store.directory(), "no directory").unwrap();
        let mut containers = Containers::of(store.clone());
        for _ in 0..3 {
            assert!(matches!(containers.look(), Look::Failed));
        }
        std::fs::remove_file(store.directory()).unwrap();
        containers.again = Instant::now();
        assert!(known(&mut containers).is_empty());
    }
}
