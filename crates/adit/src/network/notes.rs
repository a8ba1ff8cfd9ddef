//! What a node notes for its next start beside what it knows of others: `lease.json` in its directory. Losing it costs the choice of the
//! same subnet, nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Failure, Result, files};

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Notes {
    /// The network configuration that this node goes by, as it is in the registry.
    pub(super) network: Option<String>,
    /// The subnets it held last.
    pub(super) subnets: Vec<IpNet>,
    /// The number of the record it signed last.
    pub(super) sequence: u64,
    /// The address that it was seen from when it joined, if that was none of its own: a NAT's.
    pub(super) seen: Option<IpAddr>,
    /// Its own address at which that call began.
    pub(super) called_from: Option<IpAddr>,
    /// The keys (base64) of the nodes that it had sessions with.
    pub(super) recent: Vec<String>,
    /// Where those of them were that no record tells of, since they are behind NAT, by their keys.
    pub(super) places: BTreeMap<String, SocketAddr>,
}

impl Notes {
    /// Whether this node, which has these addresses, was seen from one that is not its own. Where it has moved since, that says nothing any more.
    pub(super) fn were_translated(&self, local: &[IpAddr]) -> bool {
        let is_local = |address: IpAddr| local.contains(&address);
        self.seen.is_some_and(|seen| !is_local(seen) && !seen.is_loopback()) && self.called_from.is_none_or(is_local)
    }
}

/// Where they are.
#[derive(Debug, Clone)]
pub(super) struct NotesFile(PathBuf);

impl NotesFile {
    /// In the directory of a node.
    pub(super) fn within(directory: &Path) -> Self {
        Self(directory.join("lease.json"))
    }

    /// What was noted; what cannot be read was not.
    pub(super) fn read(&self) -> Notes {
        let small = fs::metadata(&self.0).is_ok_and(|m| m.len() <= LARGEST);
        let text = if small { fs::read(&self.0).ok() } else { None };
        let Some(text) = text else { return Notes::default() };
        serde_json::from_slice(&text).unwrap_or_else(|e| {
            tracing::warn!("{} is not what we wrote ({e}); going on without", self.0.display());
            Notes::default()
        })
    }

    /// Puts them in place of what was noted before, on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, notes: &Notes) -> Result<()> {
        let written = serde_json::to_vec(notes)
            .map_err(std::io::Error::from)
            .and_then(|text| files::replace(&self.0, &text, 0o600));
        written.map_err(|e| Failure::failed(format!("cannot write {}: {e}", self.0.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_behind_nat_until_it_moves() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let notes = |seen, from| Notes { seen: Some(ip(seen)), called_from: Some(ip(from)), ..Notes::default() };
        let private = [ip("127.0.0.1"), ip("192.168.1.2")];
        assert!(notes("192.0.2.3", "192.168.1.2").were_translated(&private));
        assert!(!notes("192.168.1.2", "192.168.1.2").were_translated(&private));
        assert!(!notes("192.0.2.3", "192.0.2.3").were_translated(&private), "it moved");
        assert!(!notes("192.0.2.3", "192.168.7.7").were_translated(&[ip("198.51.100.1")]), "it moved");
        assert!(!Notes::default().were_translated(&private));
    }

    #[test]
    fn notes_survive_and_rubbish_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = NotesFile::within(directory.path());
        assert_eq!(file.read(), Notes::default());
        let notes = Notes { sequence: 7, subnets: vec!["10.42.7.0/24".parse().unwrap()], ..Notes::default() };
        file.write(&notes).unwrap();
        assert_eq!(file.read(), notes);
        fs::write(directory.path().join("lease.json"), "{").unwrap();
        assert_eq!(file.read(), Notes::default());
    }
}
