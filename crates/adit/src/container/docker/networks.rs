//! Docker's networks that we serve: the file `<state>/<device>.docker.json`, which is on disk before Docker is told that a network is there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::{Fault, FaultKind};
use crate::{Directories, files};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A network as `docker network create` made it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    /// Whether its containers do not reach each other, and other isolated ones, on this host (`-o isolated=true`).
    #[serde(default)]
    pub(super) isolated: bool,
    /// Largest packet in bytes, if less than the node's (`-o mtu=1280`).
    #[serde(default)]
    pub(super) mtu: Option<u32>,
    /// Whether its containers reach the network alone (`--internal`).
    #[serde(default)]
    pub(super) internal: bool,
    /// Addresses that no container gets (`--aux-address`).
    #[serde(default)]
    pub(super) kept: Vec<IpAddr>,
}

/// Forgets all of Docker's networks of this device, as when the node goes for good. Docker refuses containers in them from the next start of
/// the server on, and says how to make them anew.
///
/// # Errors
/// The file cannot be removed.
pub fn forget(directories: &Directories, device: &str) -> Result<(), Fault> {
    let path = Networks::path(directories, device);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Fault::new(FaultKind::Storage, format!("cannot remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

/// All of them, by their ids.
#[derive(Debug)]
pub(super) struct Networks {
    path: PathBuf,
    known: BTreeMap<String, Network>,
}

impl Networks {
    /// Where they are on disk.
    pub(super) fn path(directories: &Directories, device: &str) -> PathBuf {
        directories.state.join(format!("{device}.docker.json"))
    }

    /// Reads them.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is damaged: going on without would make isolated networks open ones.
    pub(super) fn read(path: &Path) -> Result<Self, Fault> {
        let failed = |what: &dyn std::fmt::Display| {
            let sentence = format!(
                "cannot read {}, which says what Docker's networks are like: {what}; remove the file, then remove these networks and make \
                 them anew",
                path.display()
            );
            Fault::new(FaultKind::Storage, sentence)
        };
        let known = match fs::metadata(path).and_then(|metadata| Ok((metadata.len(), fs::read(path)?))) {
            Ok((length, _)) if length > MAX_FILE => return Err(failed(&"it is too long")),
            Ok((_, text)) => serde_json::from_slice(&text).map_err(|e| failed(&e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(failed(&e)),
        };
        Ok(Self { path: path.into(), known })
    }

    /// The network with this id.
    pub(super) fn get(&self, id: &str) -> Option<&Network> {
        self.known.get(id)
    }

    /// Whether an address is none for containers of one of them.
    pub(super) fn keeps(&self, ip: IpAddr) -> bool {
        self.known.values().any(|network| network.kept.contains(&ip))
    }

    /// Notes a network, on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written: then it is not noted.
    pub(super) fn insert(&mut self, id: &str, network: Network) -> Result<(), Fault> {
        let mut known = self.known.clone();
        known.insert(id.to_owned(), network);
        self.write(known)
    }

    /// Forgets a network; one that is not known is forgotten already.
    ///
    /// # Errors
    /// The file cannot be written: then it is known still.
    pub(super) fn remove(&mut self, id: &str) -> Result<(), Fault> {
        let mut known = self.known.clone();
        if known.remove(id).is_some() { self.write(known) } else { Ok(()) }
    }

    fn write(&mut self, known: BTreeMap<String, Network>) -> Result<(), Fault> {
        let written = || {
            if known.is_empty() {
                return match fs::remove_file(&self.path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(()),
                };
            }
            files::replace(&self.path, &serde_json::to_vec(&known)?, 0o600)
        };
        written().map_err(|e: io::Error| {
            let sentence = format!(
                "cannot write {}: {e}; make its directory writable for root, with room on its disk",
                self.path.display()
            );
            Fault::new(FaultKind::Storage, sentence)
        })?;
        self.known = known;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_outlive_the_server_and_the_last_takes_the_file_along() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adit0.docker.json");
        let mut networks = Networks::read(&path).unwrap();
        let kept = "10.42.7.9".parse().unwrap();
        let one = Network { isolated: true, mtu: Some(1280), internal: true, kept: vec![kept] };
        networks.insert("one", one.clone()).unwrap();
        networks.insert("two", Network::default()).unwrap();
        let mut networks = Networks::read(&path).unwrap();
        assert_eq!((networks.get("one"), networks.get("two")), (Some(&one), Some(&Network::default())));
        assert!(networks.keeps(kept) && !networks.keeps("10.42.7.8".parse().unwrap()));
        networks.remove("one").unwrap();
        networks.remove("one").unwrap();
        assert!(path.exists() && networks.get("one").is_none());
        networks.remove("two").unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adit0.docker.json");
        fs::write(&path, "{\"one\":").unwrap();
        let fault = Networks::read(&path).unwrap_err();
        assert!(fault.kind == FaultKind::Storage && fault.sentence.contains("remove the file"), "{fault}");
        assert!(path.exists());
    }

    #[test]
    fn what_cannot_be_written_is_not_known() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let mut networks = Networks { path: directory.path().join("file/adit0.docker.json"), known: BTreeMap::new() };
        assert_eq!(networks.insert("one", Network::default()).unwrap_err().kind, FaultKind::Storage);
        assert!(networks.get("one").is_none());
    }
}
