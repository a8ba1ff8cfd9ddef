//! A client of etcd's v3 API: for etcd itself and for the registry inside adit.
//!
//! [`Client`] asks one of several endpoints and goes on to the next when it fails or does not answer in time; [`Watcher`] tells all
//! that changes under a prefix, for ever. Neither says anything of a registry that it could not read: a failed listing is an error,
//! never an empty one.
//!
//! | file | question |
//! |---|---|
//! | `options.rs` | where is the registry, and who are we to it? |
//! | `verify.rs` | is it the right one? |
//! | `rotation.rs` | which endpoint is asked? |
//! | `line.rs` | how is one asked, with which token? |
//! | `watch.rs`, `order.rs` | what changed, in which order? |
//! | `error.rs` | what went wrong, and what to do? |

mod backoff;
mod error;
mod line;
mod options;
mod order;
mod rotation;
mod verify;
mod watch;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::api::{etcdserverpb as pb, mvccpb};
use line::{Line, Lines};
use rotation::Rotation;

pub use error::{ClientError, Failure};
pub use options::{Options, OptionsError};
pub use watch::{Update, Watcher};

pub(crate) use backoff::{Backoff, jitter, random};

/// The most that a listing holds in memory, in bytes of keys and values: a thousand nodes take less than one MiB.
const MAX_LISTING: usize = 256 << 20;
/// How long each of several endpoints may take at first: a member that has just lost its leader lets questions lie, and another one may have the next
/// leader already. Only when none was as quick are they asked with patience.
const IMPATIENT: Duration = Duration::from_secs(1);
/// How many entries are asked for at once.
const PAGE: i64 = 1000;

/// One entry of the registry. Entries whose key is not UTF-8 are nobody's here, and are left out everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key.
    pub key: String,
    /// What stands there.
    pub value: Vec<u8>,
    /// The revision that made it.
    pub create_revision: i64,
    /// The revision that last changed it.
    pub mod_revision: i64,
    /// How often it was written since it was made.
    pub version: i64,
    /// The lease that it ends with; 0 if none.
    pub lease: i64,
}

impl KeyValue {
    pub(crate) fn read(entry: mvccpb::KeyValue) -> Option<Self> {
        let mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease } = entry;
        Some(Self { key: String::from_utf8(key).ok()?, value, create_revision, mod_revision, version, lease })
    }
}

/// All entries under a prefix at one revision, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The registry's revision.
    pub revision: i64,
    /// The entries.
    pub entries: Vec<KeyValue>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was made or written.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Delete {
        /// The whole key.
        key: String,
        /// The revision that deleted it.
        mod_revision: i64,
    },
}

impl Event {
    /// The whole key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }

    fn read(event: mvccpb::Event) -> Option<Self> {
        let deletes = event.r#type == i32::from(mvccpb::event::EventType::Delete);
        let entry = KeyValue::read(event.kv?)?;
        Some(if deletes { Self::Delete { key: entry.key, mod_revision: entry.mod_revision } } else { Self::Put(entry) })
    }
}

/// A client; a clone is the same one. It connects when it is first asked something, within a runtime of tokio.
///
/// A call goes to the next endpoint when the answer is lost, so that it may be carried out twice: ask for conditions
/// ([`txn`](Self::txn)) where that matters.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    lines: Lines,
    rotation: Mutex<Rotation>,
    token: Mutex<Option<Arc<Zeroizing<String>>>>,
    user: Option<(String, Zeroizing<String>)>,
    /// How long one endpoint may take to answer.
    deadline: Duration,
}

/// What is left of a call to one endpoint.
enum Attempt<T> {
    Done(T),
    /// The endpoint answered, and the answer is no.
    Refused(Status),
    /// The endpoint failed, or what it said shows that another should be asked.
    Failed(String),
}

impl Client {
    /// # Errors
    /// [`OptionsError`]: what is wrong with the options. Nothing is asked yet.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let lines = Lines::new(&options)?;
        let rotation = Mutex::new(Rotation::new(lines.len(), random() as usize));
        let Options { user, request_timeout: deadline, .. } = options;
        Ok(Self(Arc::new(Inner { lines, rotation, token: Mutex::new(None), user, deadline })))
    }

    /// The entry at a key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, ClientError> {
        let request = pb::RangeRequest { key: key.into(), ..Default::default() };
        Ok(self.range(request).await?.kvs.into_iter().find_map(KeyValue::read))
    }

    /// All entries whose keys begin with `prefix`, as they are at one moment.
    ///
    /// # Errors
    /// [`ClientError`]. There is no partial listing.
    pub async fn list(&self, prefix: &str) -> Result<Listing, ClientError> {
        let mut tries = 0;
        loop {
            match self.pages(prefix).await {
                // The revision of the first page was compacted before the last one was read.
                Err(ClientError::Compacted) if tries < 3 => tries += 1,
                other => return other,
            }
        }
    }

    async fn pages(&self, prefix: &str) -> Result<Listing, ClientError> {
        let range_end = end_of(prefix.as_bytes());
        let mut request = pb::RangeRequest { key: prefix.into(), range_end, limit: PAGE, ..Default::default() };
        let mut listing = Listing::default();
        let mut size = 0usize;
        loop {
            let page = match self.range(request.clone()).await {
                Err(ClientError::TooLarge) if request.limit > 1 => {
                    request.limit /= 4;
                    request.limit = request.limit.max(1);
                    continue;
                }
                other => other?,
            };
            if request.revision == 0 {
                listing.revision = page.header.map_or(0, |header| header.revision);
                request.revision = listing.revision;
            }
            let Some(last) = page.kvs.last().map(|entry| entry.key.clone()) else { return Ok(listing) };
            size += page.kvs.iter().map(|entry| entry.key.len() + entry.value.len()).sum::<usize>();
            if size > MAX_LISTING {
                return Err(ClientError::TooLarge);
            }
            listing.entries.extend(page.kvs.into_iter().filter_map(KeyValue::read));
            if !page.more {
                return Ok(listing);
            }
            request.key = last;
            request.key.push(0);
        }
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, ClientError> {
        self.call(|line| {
            let request = request.clone();
            async move { Ok(line.kv().range(line.ask(request)?).await?.into_inner()) }
        })
        .await
    }

    /// Writes an entry; `lease` is 0 for one that stays.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(&self, key: &str, value: &[u8], lease: i64) -> Result<(), ClientError> {
        let request = pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
        self.call(|line| {
            let request = request.clone();
            async move { line.kv().put(line.ask(request)?).await.map(|_| ()) }
        })
        .await
    }

    /// Deletes an entry; says whether there was one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, key: &str) -> Result<bool, ClientError> {
        let request = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
        self.call(|line| {
            let request = request.clone();
            async move { Ok(line.kv().delete_range(line.ask(request)?).await?.into_inner().deleted > 0) }
        })
        .await
    }

    /// A transaction.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ClientError> {
        self.call(|line| {
            let request = request.clone();
            async move { Ok(line.kv().txn(line.ask(request)?).await?.into_inner()) }
        })
        .await
    }

    /// A lease for `ttl` seconds: its number, and how many seconds the registry gave. One whose answer is lost ends by itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn grant(&self, ttl: i64) -> Result<(i64, i64), ClientError> {
        self.call(|line| async move {
            let granted = line.lease().lease_grant(line.ask(pb::LeaseGrantRequest { ttl, id: 0 })?).await?.into_inner();
            Ok((granted.id, granted.ttl))
        })
        .await
    }

    /// Ends a lease, and deletes what is bound to it.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::NoLease`] if it had ended.
    pub async fn revoke(&self, lease: i64) -> Result<(), ClientError> {
        self.call(|line| async move {
            let request = line.ask(pb::LeaseRevokeRequest { id: lease })?;
            line.lease().lease_revoke(request).await.map(|_| ())
        })
        .await
    }

    /// Lets a lease begin again; says how many seconds it has.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::NoLease`] if it had ended.
    pub async fn keep_alive_once(&self, lease: i64) -> Result<i64, ClientError> {
        let ttl = self.call(|line| async move {
            let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease });
            let mut answers = line.lease().lease_keep_alive(line.ask(once)?).await?.into_inner();
            let answer = answers.message().await?.ok_or_else(|| Status::unavailable("no answer to a keepalive"))?;
            Ok(answer.ttl)
        });
        match ttl.await? {
            ttl if ttl > 0 => Ok(ttl),
            _ => Err(ClientError::NoLease),
        }
    }

    /// How many seconds a lease still has.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::NoLease`] if it had ended.
    pub async fn time_to_live(&self, lease: i64) -> Result<i64, ClientError> {
        let ttl = self.call(|line| async move {
            let request = line.ask(pb::LeaseTimeToLiveRequest { id: lease, keys: false })?;
            Ok(line.lease().lease_time_to_live(request).await?.into_inner().ttl)
        });
        match ttl.await? {
            ttl if ttl >= 0 => Ok(ttl),
            _ => Err(ClientError::NoLease),
        }
    }

    /// Forgets what was before a revision.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Compacted`] if it was forgotten before.
    pub async fn compact(&self, revision: i64) -> Result<(), ClientError> {
        self.call(|line| async move {
            let request = line.ask(pb::CompactionRequest { revision, physical: false })?;
            line.kv().compact(request).await.map(|_| ())
        })
        .await
    }

    /// What an endpoint says of itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<pb::StatusResponse, ClientError> {
        self.call(
            |line| async move { Ok(line.maintenance().status(line.ask(pb::StatusRequest {})?).await?.into_inner()) },
        )
        .await
    }

    /// Asks one endpoint after the other, until one answers.
    async fn call<T, F>(&self, ask: impl Fn(Line) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let order = lock(&self.0.rotation).order(Instant::now());
        let short = if order.len() > 1 { self.0.deadline.min(IMPATIENT) } else { self.0.deadline };
        let mut failures: Vec<Failure> = Vec::new();
        let mut tries: VecDeque<(usize, Duration)> = order.into_iter().map(|index| (index, short)).collect();
        // A member that says it cannot do it just now soon can: who asks comes again sooner than one that says nothing would be waited for.
        let mut has_word = false;
        while let Some((index, patience)) = tries.pop_front() {
            if has_word && patience > short {
                break;
            }
            let attempt = timeout(patience, self.attempt(index, &ask)).await;
            let cause = match attempt {
                Ok(Attempt::Done(answer)) => {
                    lock(&self.0.rotation).worked(index);
                    return Ok(answer);
                }
                Ok(Attempt::Refused(status)) => {
                    lock(&self.0.rotation).worked(index);
                    let user = self.0.user.as_ref().map(|(user, _)| user.as_str());
                    return Err(ClientError::refused(self.0.lines.name(index), user, &status));
                }
                Ok(Attempt::Failed(cause)) => {
                    has_word |= error::is_word(&cause);
                    cause
                }
                Err(_) => {
                    if patience < self.0.deadline {
                        // It may be slow and no more than that.
                        tries.push_back((index, self.0.deadline));
                    }
                    error::no_answer(patience)
                }
            };
            let endpoint = self.0.lines.name(index);
            tracing::debug!(endpoint, cause, "no answer");
            self.failed(index);
            failures.retain(|failure| failure.endpoint != endpoint);
            failures.push(Failure { endpoint: endpoint.to_owned(), cause });
        }
        Err(ClientError::Unreachable(failures))
    }

    /// Another endpoint is asked from now on, and this one over a new connection when its turn comes: the present one may be dead.
    fn failed(&self, index: usize) {
        lock(&self.0.rotation).failed(index, Instant::now());
        self.0.lines.renew(index);
    }

    async fn attempt<T, F>(&self, index: usize, ask: &impl Fn(Line) -> F) -> Attempt<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut fresh = false;
        loop {
            let token = match self.token(index).await {
                Ok(token) => token,
                Err(status) => return Self::judge(status),
            };
            let answer = match self.0.lines.line(index, token.clone()) {
                Ok(line) => ask(line).await,
                Err(status) => Err(status),
            };
            let status = match answer {
                Ok(answer) => return Attempt::Done(answer),
                Err(status) => status,
            };
            match token {
                Some(token) if !fresh && error::token_is_refused(&status) => {
                    self.forget(&token);
                    fresh = true;
                }
                _ => return Self::judge(status),
            }
        }
    }

    fn judge<T>(status: Status) -> Attempt<T> {
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Unknown
            | Code::Internal
            | Code::Unimplemented
            | Code::DataLoss => Attempt::Failed(error::cause(&status)),
            _ => Attempt::Refused(status),
        }
    }

    /// The token that goes with every call, if there is a user. One without authentication of its own needs none.
    async fn token(&self, index: usize) -> Result<Option<Arc<Zeroizing<String>>>, Status> {
        let Some((user, password)) = &self.0.user else { return Ok(None) };
        let present = lock(&self.0.token).clone();
        if present.is_some() {
            return Ok(present);
        }
        let line = self.0.lines.line(index, None)?;
        let request = pb::AuthenticateRequest { name: user.clone(), password: password.to_string() };
        let token = match line.auth().authenticate(request).await {
            Ok(answer) => Arc::new(Zeroizing::new(answer.into_inner().token)),
            Err(status) if error::needs_no_token(&status) => return Ok(None),
            Err(status) => return Err(status),
        };
        *lock(&self.0.token) = Some(token.clone());
        Ok(Some(token))
    }

    fn forget(&self, refused: &Arc<Zeroizing<String>>) {
        lock(&self.0.token).take_if(|token| Arc::ptr_eq(token, refused));
    }

    /// Follows changes under a prefix from a revision on, once the registry has agreed.
    async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, ClientError> {
        let request = pb::WatchCreateRequest {
            key: prefix.into(),
            range_end: end_of(prefix.as_bytes()),
            start_revision: from,
            fragment: true,
            ..Default::default()
        };
        let request = pb::watch_request::RequestUnion::CreateRequest(request);
        let request = pb::WatchRequest { request_union: Some(request) };
        self.call(|line| {
            let request = request.clone();
            async move {
                // The stream of requests stays open: its end would be the end of the watch.
                let requests = tokio_stream::once(request).chain(tokio_stream::pending());
                let mut ask = line.ask(requests)?;
                // A member that has lost the cluster's leader must say so instead of saying nothing.
                ask.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
                let mut responses = line.watch().watch(ask).await?.into_inner();
                let created = responses.message().await?.ok_or_else(|| Status::unavailable("no answer to a watch"))?;
                if created.canceled && created.compact_revision == 0 {
                    return Err(error::of_cancelled(&created.cancel_reason));
                }
                let header = created.header.unwrap_or_default();
                Ok(Watch {
                    index: line.index(),
                    responses,
                    revision: header.revision,
                    cluster: header.cluster_id,
                    compacted: created.compact_revision != 0,
                })
            }
        })
        .await
    }
}

/// A watch that the registry agreed to.
struct Watch {
    index: usize,
    responses: tonic::Streaming<pb::WatchResponse>,
    /// Of the registry when it agreed.
    revision: i64,
    cluster: u64,
    /// What it should begin with is forgotten.
    compacted: bool,
}

/// The first key that does not begin with `prefix`, as etcd's ranges end.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Nothing is beyond: etcd's word for all keys that follow.
    vec![0]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_prefix_ends() {
        for (prefix, end) in [("/a/", "/a0".as_bytes()), ("a", b"b"), ("", b"\0")] {
            assert_eq!(end_of(prefix.as_bytes()), end, "{prefix}");
        }
        assert_eq!(end_of(b"a\xff\xff"), b"b");
        assert_eq!(end_of(b"\xff"), b"\0");
    }
}
