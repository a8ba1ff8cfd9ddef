//! The authority's books: who was certified, which tokens are out, who was removed, who may write to the registry.
//!
//! A directory (0700) on the authority's host:
//!
//! | file | content |
//! |---|---|
//! | `authority.key` | the authority's private key (an Ed25519 seed), a line of base64 |
//! | `ledger.json` | the books; of tokens and passwords hashes only |
//! | `bundle-EPOCH` | bundles of the last 32 epochs, as they were signed |
//! | `tls.key`, `tls.crt` | what the host shows in TLS (PEM) |
//! | `lock` | empty; whoever changes the books holds it (flock) |
//!
//! Each change is made under the lock, on what the file says then, and replaces the file whole: the daemon and `adit token create` may write at once, and
//! a crash leaves the books before or after a change. What was decided is on disk before it is answered.

mod books;
mod join;
mod lists;
mod removal;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::files::{FileError, PrivateDirectory};
use super::{Anchor, Authority, Epoch, MAX_BUNDLE_NODES, Serial, Tombstone, TrustError, label, random, sha256};
use books::Books;

pub use join::{Admitted, Ask};
pub use lists::{Member, TokenState};
pub use removal::{KEPT_BUNDLES, Removal};

const KEY_FILE: &str = "authority.key";
const BOOKS_FILE: &str = "ledger.json";
const LOCK_FILE: &str = "lock";
const TLS_KEY: &str = "tls.key";
const TLS_CERTIFICATE: &str = "tls.crt";

/// Why something was not entered: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Of the directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Of what should have been signed.
    #[error("this cannot be certified: {0}")]
    Trust(#[from] TrustError),
    /// No such token, or not its secret: nobody is told which.
    #[error("the token is not known here: ask for another with `adit token create`")]
    UnknownToken,
    /// Its time is over.
    #[error("the token has expired: ask for another with `adit token create`")]
    ExpiredToken,
    /// Somebody took it back.
    #[error("the token was revoked: ask for another with `adit token create`")]
    RevokedToken,
    /// It was used as often as it can be: by whom.
    #[error("the token was already used by {0}: ask for another with `adit token create`")]
    UsedToken(String),
    /// Another node has the name.
    #[error(
        "there is already a node called {0}: join with another --name, or remove that one with `adit node remove {0}`"
    )]
    NameTaken(String),
    /// Another node has one of the keys: which.
    #[error(
        "these keys are those of {0}: each node needs keys of its own, which `adit join` makes where there are none"
    )]
    KeyTaken(String),
    /// The same node, under another name.
    #[error("this node has already joined as {0}")]
    AlreadyJoined(String),
    /// The keys are those of a node that was removed.
    #[error("these keys are those of {0}, which was removed: run `adit down --purge` and join again with new ones")]
    Removed(String),
    /// No node has this name.
    #[error("there is no node called {0}: `adit node list` says which there are")]
    NoSuchNode(String),
    /// No token has this id.
    #[error("there is no token {0}: `adit token list` says which there are")]
    NoSuchToken(String),
    /// The node that holds the registry.
    #[error("{0} holds the registry and lets others in: without it there is no network")]
    HoldsRegistry(String),
    /// As many nodes as a bundle has room for.
    #[error("the network is full: it has {MAX_BUNDLE_NODES} nodes")]
    Full,
    /// Many tokens that were not used.
    #[error("there are too many tokens that can still be used: revoke some with `adit token revoke`")]
    TooManyTokens,
}

/// A user of the registry.
#[derive(Clone)]
pub struct Credential {
    /// `root` or `node-SERIAL`.
    pub user: String,
    /// 32 random bytes in base64url. Only a hash of it is kept.
    pub password: Zeroizing<String>,
}

/// The authority's books.
pub struct Ledger {
    directory: PrivateDirectory,
    authority: Authority,
    /// What the file said when it was this.
    cache: Mutex<Option<(Stamp, Arc<Books>)>>,
    /// Of root's password for the registry, which is good as long as this is open: a full disk does not keep a host from starting.
    root: Mutex<Option<books::Hash>>,
}

/// What tells one state of a file from another: device, inode, length, and time of the last change in ns.
type Stamp = (u64, u64, u64, i128);

impl Ledger {
    /// Opens the books of a new network.
    ///
    /// # Errors
    /// There are books already, or they cannot be written.
    pub fn create(path: &Path, authority: Authority) -> Result<Self, LedgerError> {
        let directory = PrivateDirectory::create(path)?;
        if directory.has(KEY_FILE) {
            return Err(FileError::Exists(directory.at(KEY_FILE)).into());
        }
        // The key comes last: without it the rest was never used.
        directory.replace(BOOKS_FILE, &Books::new(&Epoch::first()?).to_bytes())?;
        directory.create_key(KEY_FILE, authority.seed())?;
        Ok(Self { directory, authority, cache: Mutex::default(), root: Mutex::default() })
    }

    /// The books that are there.
    ///
    /// # Errors
    /// There are none, they are damaged, or others could read them.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let directory = PrivateDirectory::open(path)?;
        let authority = Authority::from_seed(directory.read_key(KEY_FILE, "an authority's private key")?)?;
        let ledger = Self { directory, authority, cache: Mutex::default(), root: Mutex::default() };
        ledger.books()?;
        Ok(ledger)
    }

    /// The key that signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What the network's nodes measure everything by.
    pub fn anchor(&self) -> Anchor {
        self.authority.anchor()
    }

    /// Writes what the host shows in TLS: certificate and key in PEM.
    ///
    /// # Errors
    /// It is there already, or cannot be written.
    pub fn create_tls(&self, certificate: &[u8], key: &[u8]) -> Result<(), LedgerError> {
        self.directory.create_new(TLS_KEY, key)?;
        Ok(self.directory.create_new(TLS_CERTIFICATE, certificate)?)
    }

    /// What the host shows in TLS: certificate and key in PEM.
    ///
    /// # Errors
    /// There is none.
    pub fn tls(&self) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), LedgerError> {
        Ok((self.directory.read(TLS_CERTIFICATE)?.to_vec(), self.directory.read(TLS_KEY)?))
    }

    /// The epoch of the network's secret that is in force.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn epoch(&self) -> Result<Epoch, LedgerError> {
        Ok(self.books()?.epoch())
    }

    /// A new password for `root`, who may everything in the registry; the one before is void. It is in memory alone: whoever opens the books
    /// besides has another.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn renew_root(&self) -> Result<Credential, LedgerError> {
        let (credential, hash) = new_credential("root".to_owned())?;
        *self.root() = Some(hash);
        Ok(credential)
    }

    /// Whether a user of the registry has this password.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn has_password(&self, user: &str, password: &str) -> Result<bool, LedgerError> {
        let books = self.books()?;
        let root = self.root();
        let kept = match (user, node_of(user)) {
            ("root", _) => root.as_ref(),
            (_, Some(serial)) => books.member(serial).filter(|m| m.removed.is_none()).and_then(|m| m.password.as_ref()),
            _ => None,
        };
        let given = password_hash(password);
        // Compared in any case, so that time does not tell whether there is such a user.
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(kept.map_or(&[0; 32], |kept| &kept.0), &given);
        Ok(kept.is_some() && same.is_ok())
    }

    /// Whether a node was certified and is not removed.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn is_in(&self, serial: Serial) -> Result<bool, LedgerError> {
        Ok(self.books()?.member(serial).is_some_and(|member| member.removed.is_none()))
    }

    /// The tombstone of a node that was removed.
    ///
    /// # Errors
    /// The books cannot be read.
    pub fn tombstone(&self, serial: Serial) -> Result<Option<Vec<u8>>, LedgerError> {
        let number = self.books()?.member(serial).and_then(|member| member.removed);
        Ok(number.map(|number| self.authority.bury(&Tombstone { number, serial })))
    }

    /// The books as they are, read again only if the file was replaced.
    fn books(&self) -> Result<Arc<Books>, LedgerError> {
        let mut cache = self.cached();
        let stamp = self.stamp();
        match &*cache {
            Some((seen, books)) if stamp.is_some_and(|stamp| stamp == *seen) => Ok(Arc::clone(books)),
            _ => {
                let books = Arc::new(self.read()?);
                *cache = stamp.map(|stamp| (stamp, Arc::clone(&books)));
                Ok(books)
            }
        }
    }

    fn read(&self) -> Result<Books, LedgerError> {
        let bytes = self.directory.read(BOOKS_FILE)?;
        let fault = FileError::Content { path: self.directory.at(BOOKS_FILE), what: "an authority's books" };
        Books::from_bytes(&bytes).ok_or_else(|| fault.into())
    }

    /// Makes one change, alone, and puts it on disk. An error changes nothing.
    fn change<T>(&self, change: impl FnOnce(&mut Books) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let _lock = self.directory.lock(LOCK_FILE)?;
        let mut books = self.read()?;
        let result = change(&mut books)?;
        self.directory.replace(BOOKS_FILE, &books.to_bytes())?;
        *self.cached() = self.stamp().map(|stamp| (stamp, Arc::new(books)));
        Ok(result)
    }

    fn cached(&self) -> MutexGuard<'_, Option<(Stamp, Arc<Books>)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> MutexGuard<'_, Option<books::Hash>> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self) -> Option<Stamp> {
        let metadata = std::fs::symlink_metadata(self.directory.at(BOOKS_FILE)).ok()?;
        let changed = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Some((metadata.dev(), metadata.ino(), metadata.len(), changed))
    }
}

/// The node that a user of the registry stands for.
pub(super) fn node_of(user: &str) -> Option<Serial> {
    let serial = user.strip_prefix("node-")?.parse().ok()?;
    (user_of(serial) == user).then_some(serial)
}

/// A node as a user of the registry.
fn user_of(serial: Serial) -> String {
    format!("node-{serial}")
}

fn new_credential(user: String) -> Result<(Credential, books::Hash), LedgerError> {
    let secret = random()?;
    let mut password = Zeroizing::new(String::with_capacity(64));
    URL_SAFE_NO_PAD.encode_string(secret.as_ref(), &mut password);
    let hash = books::Hash(password_hash(&password));
    Ok((Credential { user, password }, hash))
}

fn password_hash(password: &str) -> [u8; 32] {
    sha256(&[label::PASSWORD, password.as_bytes()])
}
