//! What stands in `ledger.json`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use crate::trust::files::decode_key;
use crate::trust::store::secret_text;
use crate::trust::{Epoch, MAX_BUNDLE_NODES, SELF_CERTIFIED, Serial, is_name};

const VERSION: u32 = 1;

/// 32 bytes that are no secret, in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = decode_key(text.as_bytes()).ok_or_else(|| serde::de::Error::custom("not 32 bytes in base64"))?;
        Ok(Self(*bytes))
    }
}

/// A node that was certified.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct MemberEntry {
    pub(super) serial: Serial,
    pub(super) name: String,
    pub(super) record_key: Hash,
    pub(super) sealed_key: Hash,
    pub(super) roles: u8,
    /// When, in seconds since 1970.
    pub(super) joined: u64,
    /// The number of its tombstone.
    pub(super) removed: Option<u64>,
    /// Of its password for the registry.
    pub(super) password: Option<Hash>,
}

/// A token that was given out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TokenEntry {
    /// 16 hexadecimal digits.
    pub(super) id: String,
    pub(super) secret: Hash,
    /// In seconds since 1970.
    pub(super) created: u64,
    pub(super) expires: u64,
    pub(super) uses: u32,
    pub(super) used_by: Vec<Serial>,
    pub(super) revoked: bool,
}

impl TokenEntry {
    /// Whether it can still be used.
    pub(super) fn is_open(&self, now: u64) -> bool {
        !self.revoked && now < self.expires && (self.used_by.len() as u64) < u64::from(self.uses)
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct EpochEntry {
    number: u32,
    secret: String,
}

impl Drop for EpochEntry {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// All of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Books {
    version: u32,
    pub(super) next_serial: Serial,
    /// By ascending serial.
    pub(super) members: Vec<MemberEntry>,
    pub(super) tokens: Vec<TokenEntry>,
    /// Who was removed; the first with number 1.
    pub(super) removals: Vec<Serial>,
    epoch: EpochEntry,
}

impl Books {
    pub(super) fn new(epoch: &Epoch) -> Self {
        Self {
            version: VERSION,
            next_serial: 1,
            members: Vec::new(),
            tokens: Vec::new(),
            removals: Vec::new(),
            epoch: written(epoch),
        }
    }

    /// The books, if these are such, whole and by their own rules.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let books: Self = serde_json::from_slice(bytes).ok()?;
        let in_order = books.members.is_sorted_by(|a, b| a.serial < b.serial);
        let counted = books.members.iter().all(|m| m.serial != 0 && m.serial < books.next_serial && is_name(&m.name));
        let removed = books
            .removals
            .iter()
            .enumerate()
            .all(|(at, serial)| books.member(*serial).is_some_and(|member| member.removed == Some(at as u64 + 1)));
        let epoch = decode_key(books.epoch.secret.as_bytes()).is_some() && books.epoch.number != 0;
        let known = books.version == VERSION && books.next_serial < SELF_CERTIFIED;
        (known && in_order && counted && removed && epoch).then_some(books)
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it at once, so that no piece of the secret stays behind.
        let room = 1024 + 512 * self.members.len() + 512 * self.tokens.len() + 24 * self.removals.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        // Nothing in it can fail to be written to memory.
        let _ = serde_json::to_writer_pretty(&mut *bytes, self);
        bytes.push(b'\n');
        bytes
    }

    pub(super) fn epoch(&self) -> Epoch {
        let secret = decode_key(self.epoch.secret.as_bytes()).unwrap_or_default();
        Epoch { number: self.epoch.number, secret }
    }

    pub(super) fn set_epoch(&mut self, epoch: &Epoch) {
        self.epoch = written(epoch);
    }

    pub(super) fn member(&self, serial: Serial) -> Option<&MemberEntry> {
        let at = self.members.binary_search_by_key(&serial, |member| member.serial).ok()?;
        self.members.get(at)
    }

    pub(super) fn member_mut(&mut self, serial: Serial) -> Option<&mut MemberEntry> {
        let at = self.members.binary_search_by_key(&serial, |member| member.serial).ok()?;
        self.members.get_mut(at)
    }

    /// Those that are in.
    pub(super) fn present(&self) -> impl Iterator<Item = &MemberEntry> {
        self.members.iter().filter(|member| member.removed.is_none())
    }

    pub(super) fn is_full(&self) -> bool {
        self.present().count() >= MAX_BUNDLE_NODES
    }

    /// The names of these nodes, for a sentence.
    pub(super) fn names(&self, serials: &[Serial]) -> String {
        const SHOWN: usize = 3;
        let names: Vec<_> =
            serials.iter().filter_map(|serial| self.member(*serial)).map(|member| member.name.as_str()).collect();
        match names.get(..SHOWN) {
            Some(shown) if names.len() > SHOWN => format!("{} and others", shown.join(", ")),
            _ => names.join(", "),
        }
    }
}

fn written(epoch: &Epoch) -> EpochEntry {
    EpochEntry { number: epoch.number, secret: secret_text(&epoch.secret) }
}
