//! Whose word counts: the formats that a network's authority and its nodes sign, and the files that hold what only they may know.
//!
//! Who writes the registry can withhold and delay; he cannot pose as a node, read, or choose keys and subnets for us, because only signed bytes are
//! used. What is signed, and by whom:
//!
//! | value | signed by | says | label before the signed bytes |
//! |---|---|---|---|
//! | [`Certificate`] | authority | who a node is: serial, name, keys | `adit certificate v1` |
//! | [`Record`] | node | where it is and which subnets it holds | `adit record v1` |
//! | [`Release`] | node | that it gave subnets up | `adit release v1` |
//! | [`Tombstone`] | authority | that a node is removed, for good | `adit tombstone v1` |
//! | [`Bundle`] | authority | the secret of an epoch, wrapped for each node | `adit bundle v1` |
//!
//! Each label ends in a zero byte, so that no value can be taken for one of another kind. Signatures are Ed25519 (RFC 8032) over the label and all bytes
//! of the value before the signature. Every value begins with a version byte, has one encoding only and ends where its fields end; docs/WIRE.md has the
//! tables. Two values are the same if their content is, whatever their signatures: who has a key can sign the same words twice.
//!
//! A network without an authority ([`Anchor::Shared`]) has a secret that all members know. There a node certifies itself, its serial follows from its
//! record key, and its words carry a MAC under the secret. That proves that a member speaks, and not which: members can impersonate each other until one of them was seen first.
//!
//! Files: [`NodeStore`] is what a node keeps, [`Ledger`] what the authority does. [`LedgerPolicy`] is what a node may write to a registry that asks.

mod anchor;
mod bytes;
mod certificate;
mod epoch;
mod files;
mod keys;
mod ledger;
mod permit;
mod record;
mod release;
mod signed;
mod store;
mod token;
mod tombstone;

use aws_lc_rs::digest;

pub use anchor::Anchor;
pub use certificate::{Authority, Certificate, ROLE_REGISTRY, Subject, is_name};
pub use epoch::{Bundle, Epoch, MAX_BUNDLE_NODES};
pub use files::FileError;
pub use keys::{NetworkId, NodeKeys, random};
pub use ledger::{Admitted, Ask, Credential, KEPT_BUNDLES, Ledger, LedgerError, Member, Removal, TokenState};
pub use permit::{LedgerPolicy, Present, Wanted};
pub use record::{MAX_ENDPOINTS, Record, is_endpoint};
pub use release::Release;
pub use signed::{BACKEND_TYPE, SignedError, open_value};
pub(crate) use signed::{decode_value, open_signed};
pub use store::NodeStore;
pub use token::{Token, TokenError};
pub use tombstone::Tombstone;

/// The number of a certificate. An authority counts from 1 and never uses one twice; in a network without authority the topmost bit is set and the
/// others follow from the record key.
pub type Serial = u64;

/// The version of all formats here.
const VERSION: u8 = 1;

/// The bit of serials that no authority gave.
const SELF_CERTIFIED: Serial = 1 << 63;

/// What stands before bytes that are signed, authenticated or hashed, so that no value of one kind is one of another.
pub(crate) mod label {
    pub(crate) const NETWORK: &[u8] = b"adit network v1\0";
    pub(crate) const SHARED_NETWORK: &[u8] = b"adit shared network v1";
    pub(crate) const SHARED_MAC: &[u8] = b"adit shared record mac v1";
    pub(crate) const SHARED_EPOCH: &[u8] = b"adit shared epoch v1";
    pub(crate) const RECORD_KEY: &[u8] = b"adit record key v1";
    pub(crate) const CERTIFICATE: &[u8] = b"adit certificate v1\0";
    pub(crate) const RECORD: &[u8] = b"adit record v1\0";
    pub(crate) const RELEASE: &[u8] = b"adit release v1\0";
    pub(crate) const TOMBSTONE: &[u8] = b"adit tombstone v1\0";
    pub(crate) const BUNDLE: &[u8] = b"adit bundle v1\0";
    pub(crate) const WRAP: &[u8] = b"adit epoch wrap v1\0";
    pub(crate) const TOKEN: &[u8] = b"adit token v1\0";
    pub(crate) const TOKEN_SECRET: &[u8] = b"adit token secret v1\0";
    pub(crate) const PASSWORD: &[u8] = b"adit registry password v1\0";
    pub(crate) const JOIN: &[u8] = b"adit join v1\0";
}

/// Why bytes are not what they should be. What is said of them is a sentence's end ("the record is skipped: ...").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Shorter or longer than its fields.
    #[error("it is cut short, or bytes follow its end")]
    Length,
    /// A version that is not ours: its number.
    #[error("its version is {0}, and only version 1 is known here")]
    Version(u8),
    /// A field with a value that it cannot have, or in another encoding than the one: which.
    #[error("its field \"{0}\" is not as it must be")]
    Field(&'static str),
    /// Signed by another key, changed since, or not signed.
    #[error("its signature does not fit")]
    Signature,
    /// Not made with this network's secret.
    #[error("it was made without this network's secret")]
    Secret,
    /// Of another network.
    #[error("it belongs to another network, or to this one with another secret")]
    Network,
    /// Keys that are not those of the certificate.
    #[error("the certificate is for other keys")]
    Keys,
    /// A network of a shared secret has no authority to say this.
    #[error("this network has no authority who could say that")]
    NoAuthority,
    /// A bundle has nothing for this serial.
    #[error("it has no entry for node {0}")]
    NoEntry(Serial),
    /// The cryptographic library failed, such as for want of randomness.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// SHA-256 over parts in order.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    /// The same signature with S + L in place of S, where that fits into 32 bytes: another encoding that a careless verifier accepts.
    pub(super) fn with_another_s(signature: &[u8; 64]) -> [u8; 64] {
        const L: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut other = *signature;
        let mut carry = 0;
        for (byte, more) in other[32..].iter_mut().zip(L) {
            let sum = u16::from(*byte) + u16::from(more) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_ne!(&other, signature);
        other
    }
}
