//! What a node keeps of its network, in a directory of its own (0700) beside the state of its device.
//!
//! | file | content |
//! |---|---|
//! | `node.key` | the X25519 private key, a line of base64; the record key follows from it |
//! | `wireguard.key` | the X25519 private key towards WireGuard clients; another one, always |
//! | `certificate` | the [`Certificate`], a line of base64 |
//! | `secrets.json` | epochs of the network's secret, the newest first |
//! | `credential` | `user:password` for the registry |
//! | `registry.crt` | certificates (PEM) by which the registry is known |
//! | `memory.json` | what [`view`](crate::view) remembers, behind a line with version and checksum |
//! | `clients.json` | WireGuard clients of this node |
//! | `lock` | empty; whoever reads something to write it changed holds it (flock) |
//!
//! Keys are made once and never written over. A `memory.json` that is damaged is set aside and counts as none: what it holds comes back from the registry.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::files::{FileError, PrivateDirectory, decode_key, key_line};
use super::keys::KEY;
use super::{Certificate, Epoch, NodeKeys, sha256};

const NODE_KEY: &str = "node.key";
const WIREGUARD_KEY: &str = "wireguard.key";
const CERTIFICATE: &str = "certificate";
const SECRETS: &str = "secrets.json";
const CREDENTIAL: &str = "credential";
const REGISTRY: &str = "registry.crt";
const MEMORY: &str = "memory.json";
const CLIENTS: &str = "clients.json";
const LOCK: &str = "lock";

/// What the first line of `memory.json` begins with.
const MEMORY_HEAD: &str = "adit memory 1 ";
/// As many epochs are kept: the one in force and the one before, which is accepted for a while.
const MAX_EPOCHS: usize = 2;

/// The directory of a node's network.
#[derive(Debug, Clone)]
pub struct NodeStore(PrivateDirectory);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WrittenEpoch {
    number: u32,
    secret: String,
}

impl Drop for WrittenEpoch {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl NodeStore {
    /// The directory of the network of `device`.
    pub fn directory(state: &Path, device: &str) -> PathBuf {
        state.join(format!("{device}.network"))
    }

    /// Whether a node that an authority certified has its files there, or some of them.
    pub fn is_certified(path: &Path) -> bool {
        [NODE_KEY, CERTIFICATE].iter().any(|name| path.join(name).exists())
    }

    /// Makes the directory (0700), unless it is there.
    ///
    /// # Errors
    /// It cannot be made, or others have rights to it.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        PrivateDirectory::create(path).map(Self)
    }

    /// The directory.
    ///
    /// # Errors
    /// There is none, or others have rights to it.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        PrivateDirectory::open(path).map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The directory of the authority's ledger, on the host that has it.
    pub fn authority(&self) -> PathBuf {
        self.0.at("authority")
    }

    /// The file of the registry, on the host that has it.
    pub fn registry_file(&self) -> PathBuf {
        self.0.at("registry.redb")
    }

    /// The node's keys.
    ///
    /// # Errors
    /// There are none, or others could read them.
    pub fn keys(&self) -> Result<NodeKeys, FileError> {
        let key = self.0.read_key(NODE_KEY, "a private key")?;
        NodeKeys::from_private(key).map_err(|_| FileError::Content { path: self.0.at(NODE_KEY), what: "a private key" })
    }

    /// Writes the node's keys, for the first and last time.
    ///
    /// # Errors
    /// There are some already, or they cannot be written.
    pub fn create_keys(&self, keys: &NodeKeys) -> Result<(), FileError> {
        self.0.create_key(NODE_KEY, keys.sealed_private())
    }

    /// The X25519 private key towards WireGuard clients.
    ///
    /// # Errors
    /// There is none, or others could read it.
    pub fn wireguard_key(&self) -> Result<Zeroizing<[u8; KEY]>, FileError> {
        self.0.read_key(WIREGUARD_KEY, "a private key")
    }

    /// Writes that key, for the first and last time.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn create_wireguard_key(&self, key: &[u8; KEY]) -> Result<(), FileError> {
        self.0.create_key(WIREGUARD_KEY, key)
    }

    /// The node's certificate, which must be for `keys`.
    ///
    /// # Errors
    /// There is none, or it is for other keys.
    pub fn certificate(&self, keys: &NodeKeys) -> Result<Certificate, FileError> {
        let text = self.0.read(CERTIFICATE)?;
        let certificate = STANDARD.decode(text.trim_ascii()).ok();
        certificate
            .and_then(|bytes| Certificate::open_own(&bytes, keys).ok())
            .ok_or_else(|| FileError::Content { path: self.0.at(CERTIFICATE), what: "a certificate for node.key" })
    }

    /// Writes the node's certificate.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_certificate(&self, certificate: &Certificate) -> Result<(), FileError> {
        self.0.replace(CERTIFICATE, format!("{}\n", STANDARD.encode(certificate.encode())).as_bytes())
    }

    /// Epochs of the network's secret, the newest first.
    ///
    /// # Errors
    /// There are none, or others could read them.
    pub fn epochs(&self) -> Result<Vec<Epoch>, FileError> {
        let fault = || FileError::Content { path: self.0.at(SECRETS), what: "secrets of a network" };
        let written: Vec<WrittenEpoch> = serde_json::from_slice(&self.0.read(SECRETS)?).map_err(|_| fault())?;
        let epochs: Option<Vec<_>> = written
            .iter()
            .map(|epoch| Some(Epoch { number: epoch.number, secret: decode_key(epoch.secret.as_bytes())? }))
            .collect();
        let epochs = epochs.filter(|epochs| !epochs.is_empty() && epochs.is_sorted_by(|a, b| a.number > b.number));
        epochs.ok_or_else(fault)
    }

    /// How long ago the epochs were written; no time at all where the clock does not know.
    pub fn epochs_age(&self) -> Duration {
        let written = std::fs::metadata(self.0.at(SECRETS)).and_then(|metadata| metadata.modified());
        written.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default()
    }

    /// Writes the newest two of these epochs.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn set_epochs(&self, epochs: &[Epoch]) -> Result<(), FileError> {
        let mut newest: Vec<&Epoch> = epochs.iter().collect();
        newest.sort_by_key(|epoch| std::cmp::Reverse(epoch.number));
        newest.dedup_by_key(|epoch| epoch.number);
        let written: Vec<_> = newest
            .iter()
            .take(MAX_EPOCHS)
            .map(|epoch| WrittenEpoch { number: epoch.number, secret: secret_text(&epoch.secret) })
            .collect();
        let mut text = Zeroizing::new(Vec::with_capacity(256 * MAX_EPOCHS));
        serde_json::to_writer(&mut *text, &written).map_err(|e| FileError::Io {
            verb: "write",
            path: self.0.at(SECRETS),
            error: e.into(),
        })?;
        self.0.replace(SECRETS, &text)
    }

    /// User and password for the registry.
    ///
    /// # Errors
    /// There are none, or others could read them.
    pub fn credential(&self) -> Result<(String, Zeroizing<String>), FileError> {
        let text = self.0.read(CREDENTIAL)?;
        let text = std::str::from_utf8(&text).ok().and_then(|text| text.trim().split_once(':'));
        text.map(|(user, password)| (user.to_owned(), Zeroizing::new(password.to_owned())))
            .ok_or_else(|| FileError::Content { path: self.0.at(CREDENTIAL), what: "user:password" })
    }

    /// Writes user and password.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn set_credential(&self, user: &str, password: &str) -> Result<(), FileError> {
        let text = Zeroizing::new(format!("{user}:{password}\n"));
        self.0.replace(CREDENTIAL, text.as_bytes())
    }

    /// Certificates (PEM) by which the registry is known.
    ///
    /// # Errors
    /// There are none, or others could change them.
    pub fn registry_ca(&self) -> Result<Vec<u8>, FileError> {
        self.0.read(REGISTRY).map(|bytes| bytes.to_vec())
    }

    /// Writes them.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn set_registry_ca(&self, pem: &[u8]) -> Result<(), FileError> {
        self.0.replace(REGISTRY, pem)
    }

    /// What was remembered; none if there is nothing, or it is damaged, in which case it is set aside.
    ///
    /// # Errors
    /// It is there and cannot be read, or others could change it.
    pub fn memory(&self) -> Result<Option<Vec<u8>>, FileError> {
        let bytes = match self.0.read(MEMORY) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let split = bytes.iter().position(|byte| *byte == b'\n').and_then(|at| bytes.split_at_checked(at + 1));
        match split {
            Some((head, body)) if head == memory_head(body).as_bytes() => Ok(Some(body.to_vec())),
            _ => self.0.set_aside(MEMORY).map(|()| None),
        }
    }

    /// Sets the memory aside, for a reader that cannot make sense of it.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn set_memory_aside(&self) -> Result<(), FileError> {
        self.0.set_aside(MEMORY)
    }

    /// Writes what is to be remembered.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_memory(&self, body: &[u8]) -> Result<(), FileError> {
        self.0.replace(MEMORY, &[memory_head(body).as_bytes(), body].concat())
    }

    /// Waits until nobody else changes what is here; it is ours to change until the file is dropped.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn lock(&self) -> Result<File, FileError> {
        self.0.lock(LOCK)
    }

    /// WireGuard clients, as they were written; none if there are none.
    ///
    /// # Errors
    /// The file is there and cannot be read, or others could change it.
    pub fn clients(&self) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
        match self.0.read(CLIENTS) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes WireGuard clients.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn set_clients(&self, bytes: &[u8]) -> Result<(), FileError> {
        self.0.replace(CLIENTS, bytes)
    }
}

/// The first line of `memory.json`.
fn memory_head(body: &[u8]) -> String {
    let sum: String = sha256(&[body]).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MEMORY_HEAD}{sum}\n")
}

/// A secret in base64, to be erased by whoever takes it.
pub(super) fn secret_text(secret: &[u8; KEY]) -> String {
    let line = key_line(secret);
    std::str::from_utf8(&line).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, Subject};
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, NodeStore) {
        let state = tempfile::tempdir().unwrap();
        let store = NodeStore::create(&NodeStore::directory(state.path(), "adit0")).unwrap();
        (state, store)
    }

    #[test]
    fn a_node_finds_again_what_it_wrote() {
        let (state, store) = store();
        assert!(store.path().ends_with("adit0.network"));
        assert!(store.keys().err().unwrap().is_missing());
        let keys = NodeKeys::generate().unwrap();
        store.create_keys(&keys).unwrap();
        assert!(matches!(store.create_keys(&NodeKeys::generate().unwrap()), Err(FileError::Exists(_))));
        let store = NodeStore::open(&NodeStore::directory(state.path(), "adit0")).unwrap();
        assert_eq!(store.keys().unwrap().record_public(), keys.record_public());

        let subject = Subject {
            serial: 3,
            name: "paris".into(),
            record_key: keys.record_public(),
            sealed_key: keys.sealed_public(),
            roles: 0,
        };
        let certificate = Authority::generate().unwrap().certify(subject).unwrap();
        store.set_certificate(&certificate).unwrap();
        assert_eq!(store.certificate(&keys).unwrap(), certificate);
        let other = store.certificate(&NodeKeys::generate().unwrap()).unwrap_err();
        assert!(other.to_string().contains("a certificate for node.key"), "{other}");

        let epoch = |number| Epoch { number, secret: Zeroizing::new([number as u8; KEY]) };
        store.set_epochs(&[epoch(1), epoch(3), epoch(2)]).unwrap();
        assert_eq!(store.epochs().unwrap(), [epoch(3), epoch(2)]);
        assert!(store.epochs_age() < Duration::from_secs(60));
        let hours = |ago: i64| {
            let now = std::time::SystemTime::now();
            let at = if ago < 0 { now + Duration::from_secs(3600) } else { now - Duration::from_secs(3600) };
            File::options().write(true).open(store.path().join(SECRETS)).unwrap().set_modified(at).unwrap();
            store.epochs_age().as_secs() / 3600
        };
        assert_eq!((hours(1), hours(-1)), (1, 0), "a clock that was set back makes nothing older");
        store.set_credential("node-3", "a:b").unwrap();
        assert_eq!(store.credential().unwrap(), ("node-3".to_owned(), Zeroizing::new("a:b".to_owned())));
        store.set_registry_ca(b"pem").unwrap();
        assert_eq!(store.registry_ca().unwrap(), b"pem");
        assert_eq!(store.clients().unwrap(), None);
        store.set_clients(b"[]").unwrap();
        assert_eq!(store.clients().unwrap().unwrap().as_slice(), b"[]");
        store.create_wireguard_key(&[4; KEY]).unwrap();
        assert_eq!(*store.wireguard_key().unwrap(), [4; KEY]);
    }

    #[test]
    fn who_changes_something_is_alone() {
        let (_state, store) = store();
        let count = |store: &NodeStore| store.clients().unwrap().map_or(0, |bytes| bytes.len());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        let _alone = store.lock().unwrap();
                        store.set_clients(&vec![b'x'; count(&store) + 1]).unwrap();
                    }
                });
            }
        });
        assert_eq!(count(&store), 32);
    }

    #[test]
    fn damaged_memory_is_set_aside_and_damaged_keys_are_an_error() {
        let (_state, store) = store();
        assert_eq!(store.memory().unwrap(), None);
        store.set_memory(b"{\"a\":\n1}").unwrap();
        assert_eq!(store.memory().unwrap().unwrap(), b"{\"a\":\n1}");
        let path = store.path().join(MEMORY);
        let good = fs::read(&path).unwrap();
        for damaged in [b"".to_vec(), good[..good.len() - 1].to_vec(), [&good[..], b" "].concat(), b"{}".to_vec()] {
            fs::write(&path, damaged).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(store.memory().unwrap(), None);
            assert!(!path.exists() && store.path().join("memory.json.corrupt").exists());
        }
        store.create_keys(&NodeKeys::generate().unwrap()).unwrap();
        let key = store.path().join(NODE_KEY);
        fs::write(&key, "half").unwrap();
        assert!(matches!(store.keys(), Err(FileError::Content { .. })));
        assert!(key.exists());
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(store.keys(), Err(FileError::Open(_, 0o640))));
    }
}
