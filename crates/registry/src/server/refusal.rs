//! What a request is refused with: etcd's words and codes (its `api/v3rpc/rpctypes`), by which its clients know what happened.

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::api::FAREWELL;

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: request is too large")]
    TooLarge,
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// The same, with the proof that whoever had this name was put out.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    PutOut(Vec<u8>),
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    #[error("etcdserver: invalid auth token")]
    InvalidToken,
    #[error("etcdserver: permission denied{}", because(.0))]
    Denied(String),
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The file cannot be read or written any more.
    #[error("registry: {0}")]
    Store(String),
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::EmptyKey
            | Refusal::KeyNotFound
            | Refusal::ValueProvided
            | Refusal::LeaseProvided
            | Refusal::TooManyOps
            | Refusal::DuplicateKey
            | Refusal::TooLarge
            | Refusal::UserEmpty
            | Refusal::AuthFailed
            | Refusal::PutOut(_) => Code::InvalidArgument,
            Refusal::Compacted | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => Code::OutOfRange,
            Refusal::LeaseNotFound => Code::NotFound,
            Refusal::LeaseExists | Refusal::AuthNotEnabled => Code::FailedPrecondition,
            Refusal::TooManyRequests => Code::ResourceExhausted,
            Refusal::InvalidToken => Code::Unauthenticated,
            Refusal::Denied(_) => Code::PermissionDenied,
            Refusal::Stopped => Code::Unavailable,
            Refusal::Store(_) => Code::Internal,
        };
        let mut metadata = MetadataMap::new();
        if let Refusal::PutOut(farewell) = &refusal {
            metadata.insert_bin(FAREWELL, MetadataValue::from_bytes(farewell));
        }
        Self::with_metadata(code, refusal.to_string(), metadata)
    }
}

/// Everything that redb reports is the file's failure, to be told in its words.
macro_rules! of_the_file {
    ($($error:ty),*) => { $(impl From<$error> for Refusal {
        fn from(error: $error) -> Self {
            Self::Store(error.to_string())
        }
    })* };
}
of_the_file!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, prost::DecodeError);
