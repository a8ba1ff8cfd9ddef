//! What a daemon owns beyond its device, in its state directory: written before it is made, so that it can be removed after a
//! crash.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::plan::{MAIN, Owned, Prefix, Road, Setting, Territory};
use crate::{Failure, Result, files};

/// The file that says what a daemon owns beyond its device.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// Whether the directory is there because of us, and is to go with the record if nothing else is in it.
    made_directory: Cell<bool>,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    /// In the main table.
    blackholes: Vec<IpNet>,
    /// In others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blackholes_elsewhere: Vec<(u32, IpNet)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roads: Vec<Road>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    src_valid_mark: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    addresses: BTreeMap<String, SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    territory: Option<Territory>,
    /// With what they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settings: Vec<(Setting, u8)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
}

impl From<&Owned> for Contents {
    fn from(owned: &Owned) -> Self {
        let (main, elsewhere): (Vec<Prefix>, Vec<Prefix>) =
            owned.blackholes.iter().partition(|prefix| prefix.table == MAIN);
        Self {
            blackholes: main.into_iter().map(|prefix| prefix.net).collect(),
            blackholes_elsewhere: elsewhere.into_iter().map(|prefix| (prefix.table, prefix.net)).collect(),
            roads: owned.roads.clone(),
            src_valid_mark: owned.valid_mark,
            addresses: owned.addresses.clone(),
            territory: owned.territory.clone(),
            settings: owned.settings.clone().into_iter().collect(),
            bridge: owned.bridge.clone(),
        }
    }
}

impl From<Contents> for Owned {
    fn from(contents: Contents) -> Self {
        let main = contents.blackholes.into_iter().map(|net| (MAIN, net));
        let all = main.chain(contents.blackholes_elsewhere).map(|(table, net)| Prefix { net, table });
        let mut blackholes: Vec<_> = all.collect();
        blackholes.sort_unstable();
        Self {
            blackholes,
            roads: contents.roads,
            valid_mark: contents.src_valid_mark,
            addresses: contents.addresses,
            territory: contents.territory,
            settings: contents.settings.into_iter().collect(),
            bridge: contents.bridge,
        }
    }
}

impl Record {
    /// The record of the daemon of `device`.
    pub fn of(device: &str, state_dir: &Path) -> Self {
        Self { path: state_dir.join(format!("{device}.json")), made_directory: Cell::new(false) }
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What is its own; nothing if there is no record. One that cannot be understood is set aside, not deleted.
    pub fn read(&self) -> Result<Owned> {
        match fs::read(&self.path) {
            Ok(bytes) => match serde_json::from_slice::<Contents>(&bytes) {
                Ok(contents) => Ok(contents.into()),
                Err(e) => {
                    let aside = self.path.with_extension("json.damaged");
                    tracing::warn!("{} is damaged ({e}) and was moved to {}", self.path.display(), aside.display());
                    fs::rename(&self.path, &aside).map_err(|e| self.failed("set aside", &e))?;
                    Ok(Owned::default())
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Owned::default()),
            Err(e) => Err(self.failed("read", &e)),
        }
    }

    /// Replaces the record as a whole: after a crash there is the old one or the new one.
    pub fn write(&self, owned: &Owned) -> Result<()> {
        let text = serde_json::to_vec(&Contents::from(owned))
            .map_err(|e| Failure::failed(format!("cannot write {}: {e}", self.path.display())))?;
        let directory = self.directory();
        if !directory.exists() {
            self.made_directory.set(true);
        }
        files::replace(&self.path, &text, 0o644).map_err(|e| {
            self.failed("write", &e).with_remedy("make the directory writable, or choose another with --state-dir")
        })
    }

    /// Removes the record.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.failed("remove", &e)),
            _ => {}
        }
        if let (true, Some(directory)) = (self.made_directory.get(), self.path.parent()) {
            // It fails for a directory that others use as well.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    fn failed(&self, verb: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot {verb} {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_damaged_one_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::of("adit0", directory.path());
        assert_eq!(record.read().unwrap(), Owned::default());
        let prefix = |net: &str, table| Prefix { net: net.parse().unwrap(), table };
        let owned = Owned {
            blackholes: vec![prefix("0.0.0.0/0", 51_820), prefix("10.77.0.0/24", MAIN), prefix("fd00::/64", MAIN)],
            roads: vec![Road { mark: 7, table: 51_820, stop: 51_821, priority: 17_300 }],
            valid_mark: true,
            addresses: [("far.example:7777".to_owned(), "192.0.2.2:7777".parse().unwrap())].into(),
            territory: Some(Territory {
                networks: vec!["10.42.0.0/16".parse().unwrap()],
                subnets: vec!["10.42.7.0/24".parse().unwrap()],
                masquerade: true,
                forward: false,
                clients: vec!["10.42.7.254".parse().unwrap()],
            }),
            settings: [(Setting::Forward4("eth0".into()), 0), (Setting::ForwardAll6, 0)].into(),
            bridge: Some("br0".into()),
        };
        record.write(&owned).unwrap();
        assert_eq!(record.read().unwrap(), owned);
        let text = fs::read(&record.path).unwrap();
        for cut in 0..text.len() {
            fs::write(&record.path, &text[..cut]).unwrap();
            assert_eq!(record.read().unwrap(), Owned::default());
            assert!(directory.path().join("adit0.json.damaged").exists());
        }
        record.remove().unwrap();
        record.remove().unwrap();
    }

    #[test]
    fn a_record_of_an_earlier_version_is_understood() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::of("adit0", directory.path());
        fs::write(&record.path, r#"{"blackholes":["10.77.0.0/24"]}"#).unwrap();
        let blackholes = vec![Prefix { net: "10.77.0.0/24".parse().unwrap(), table: MAIN }];
        assert_eq!(record.read().unwrap(), Owned { blackholes, ..Owned::default() });
    }
}
