//! The registry's memory: a file that holds keys, their past until it is compacted, and leases.
//!
//! Writes go through one thread ([`writer`]); reads see the last write that is on the disk, beside it.

mod history;
mod lessor;
mod pen;
mod plan;
mod retention;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::Instant,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use redb::{Database, DatabaseError, ReadableDatabase, StorageError, TableHandle};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::{
    history::Recent,
    lessor::Lessor,
    tables::{ATTACHED, KEYS, LEASES, META, REVISIONS, Snapshot, VERSIONS},
    writer::Job,
};
pub(super) use self::{
    history::{Changes, Revision},
    lessor::Left,
    writer::{Answer, Command},
};
use super::{policy::Mandate, refusal::Refusal};
use crate::api::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};

/// What the tables are like; another number is another program's file.
const FORMAT: i64 = 1;

/// Reads of the file at once.
const READERS: usize = 8;

/// Why a registry's file cannot be opened. None of it changes or deletes the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read, written or made.
    #[error("cannot open the registry {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the registry {} is in use by another process", .0.display())]
    Busy(PathBuf),
    /// It is something else.
    #[error("{} is not a registry: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It was a registry, and is damaged.
    #[error("the registry {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// A registry's keys, leases and history, in a file. Dropping it waits for what is being written.
pub struct Store {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    readers: Semaphore,
}

struct Shared {
    database: Database,
    path: PathBuf,
    lessor: Mutex<Lessor>,
    recent: Mutex<Recent>,
    /// The newest revision that is on the disk and in `recent`.
    revision: watch::Sender<i64>,
    compacted: AtomicI64,
    cluster: u64,
    member: u64,
    failure: OnceLock<String>,
    failed: CancellationToken,
}

impl Store {
    /// Opens a registry's file, or makes one, which only its owner can read. `cache_bytes` bounds the memory for its pages.
    ///
    /// Leases have their whole time again.
    ///
    /// # Errors
    /// See [`StoreError`]; each names the file.
    pub fn open(path: impl AsRef<Path>, cache_bytes: usize) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let io = |source| StoreError::Io { path: path.into(), source };
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
        let mut builder = Database::builder();
        let database = builder
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|error| cannot_open(path, error))?;
        let damaged = |refusal: Refusal| StoreError::Damaged { path: path.into(), reason: refusal.to_string() };
        check_format(path, &database)?;
        let start = Start::of(&database).map_err(damaged)?;
        let shared = Arc::new(Shared {
            database,
            path: path.into(),
            lessor: Mutex::new(start.lessor),
            recent: Mutex::new(Recent::default()),
            revision: watch::Sender::new(start.revision),
            compacted: AtomicI64::new(start.compacted),
            cluster: start.cluster,
            member: start.member,
            failure: OnceLock::new(),
            failed: CancellationToken::new(),
        });
        let (queue, jobs) = mpsc::channel(writer::QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(io)?;
        let writing = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                let _last = LastWord(Arc::clone(&writing));
                runtime.block_on(writer::run(writing, jobs));
            })
            .map_err(io)?;
        Ok(Self { shared, queue: Some(queue), thread: Some(thread), readers: Semaphore::new(READERS) })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.shared.revision()
    }

    /// Tells of every new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<i64> {
        self.shared.revision.subscribe()
    }

    pub(super) fn compacted(&self) -> i64 {
        self.shared.compacted()
    }

    /// Of the cluster and of its one member, random and for good.
    pub(super) fn ids(&self) -> (u64, u64) {
        (self.shared.cluster, self.shared.member)
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> i64 {
        std::fs::metadata(&self.shared.path).ok().and_then(|file| i64::try_from(file.len()).ok()).unwrap_or(0)
    }

    /// Why the file cannot be written any more, once that is so.
    pub(super) async fn failed(&self) -> String {
        self.shared.failed.cancelled().await;
        self.shared.failure.get().cloned().unwrap_or_default()
    }

    pub(super) async fn write(&self, command: Command, by: Mandate) -> Result<Answer, Refusal> {
        let (answer, result) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(Refusal::Stopped)?;
        queue.send(Job { command, by, answer }).await.map_err(|_| Refusal::Stopped)?;
        result.await.map_err(|_| Refusal::Stopped)?
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Refusal> {
        self.read(move |snapshot| snapshot.picture().range(&request)).await
    }

    /// A transaction that only reads.
    pub(super) async fn read_txn(&self, txn: TxnRequest) -> Result<TxnResponse, Refusal> {
        self.read(move |snapshot| plan::read(txn, &snapshot.picture())).await
    }

    /// Keys that are bound to a lease.
    pub(super) async fn keys_of(&self, lease: i64) -> Result<Vec<Vec<u8>>, Refusal> {
        self.read(move |snapshot| tables::keys_of(&snapshot.attached, lease)).await
    }

    /// What happened from revision `next` on.
    pub(super) async fn changes(&self, next: i64) -> Result<Changes, Refusal> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).from(next);
        match recent {
            Some(revisions) => Ok(Changes::Next(revisions)),
            None => self.read(move |snapshot| history::read(snapshot, next)).await,
        }
    }

    pub(super) fn keep_alive(&self, lease: i64) -> Option<i64> {
        self.lessor().keep_alive(lease, Instant::now())
    }

    pub(super) fn left(&self, lease: i64) -> Option<Left> {
        self.lessor().left(lease, Instant::now())
    }

    pub(super) fn owner(&self, lease: i64) -> Option<String> {
        self.lessor().get(lease).map(|lease| lease.owner.clone())
    }

    pub(super) fn leases(&self) -> Vec<i64> {
        self.lessor().all()
    }

    fn lessor(&self) -> MutexGuard<'_, Lessor> {
        self.shared.lessor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Snapshot) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let _place = self.readers.acquire().await.map_err(|_| Refusal::Stopped)?;
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let reading = shared.database.begin_read()?;
            ask(&Snapshot::of(&reading)?)
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| Refusal::Store(error.to_string()))?
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// Tells of what is on the disk now.
    fn publish(&self, compacted: i64, done: Vec<Arc<Revision>>) {
        self.compacted.store(compacted, Ordering::Release);
        let Some(newest) = done.last().map(|revision| revision.revision) else { return };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for revision in done {
            recent.push(revision);
        }
        drop(recent);
        self.revision.send_replace(newest);
    }

    fn fail(&self, reason: String) {
        tracing::error!("the registry {} cannot be written any more: {reason}", self.path.display());
        let _ = self.failure.set(reason);
        self.failed.cancel();
    }
}

/// Says so if the thread that writes ends by a panic, as redb may on a file that changed under it.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail("the thread that writes it has ended".into());
        }
    }
}

/// What is known from the file when it opens.
struct Start {
    lessor: Lessor,
    revision: i64,
    compacted: i64,
    cluster: u64,
    member: u64,
}

impl Start {
    fn of(database: &Database) -> Result<Self, Refusal> {
        let reading = database.begin_read()?;
        Snapshot::of(&reading)?;
        let meta = reading.open_table(META)?;
        let now = Instant::now();
        let mut lessor = Lessor::default();
        for entry in reading.open_table(LEASES)?.range::<i64>(..)? {
            let (id, lease) = entry?;
            let (ttl, owner) = lease.value();
            lessor.grant(id.value(), ttl, owner.into(), now);
        }
        Ok(Self {
            lessor,
            revision: tables::number(&meta, "revision")?,
            compacted: tables::number(&meta, "compacted")?,
            cluster: tables::number(&meta, "cluster")?.cast_unsigned(),
            member: tables::number(&meta, "member")?.cast_unsigned(),
        })
    }
}

fn cannot_open(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::Busy(path),
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Foreign { path, reason: format!("it has version {version} of redb's file format") }
        }
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() == io::ErrorKind::InvalidData => {
            StoreError::Foreign { path, reason: source.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(source)) => StoreError::Io { path, source },
        other => StoreError::Damaged { path, reason: other.to_string() },
    }
}

/// Makes the tables of a new file; refuses one that has others.
fn check_format(path: &Path, database: &Database) -> Result<(), StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.into(), reason };
    let foreign = |reason: String| StoreError::Foreign { path: path.into(), reason };
    let reading = database.begin_read().map_err(|error| damaged(error.to_string()))?;
    let tables: Vec<String> = reading
        .list_tables()
        .map_err(|error| damaged(error.to_string()))?
        .map(|table| table.name().to_owned())
        .collect();
    if tables.is_empty() {
        drop(reading);
        return make(database).map_err(|refusal| damaged(refusal.to_string()));
    }
    if !tables.iter().any(|name| name == META.name()) {
        return Err(foreign(format!("its tables are {}", tables.join(", "))));
    }
    let format = reading
        .open_table(META)
        .map_err(|error| foreign(error.to_string()))?
        .get("format")
        .map_err(|error| damaged(error.to_string()))?
        .map(|format| format.value());
    match format {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(foreign(format!("it has format {other}, and this version reads format {FORMAT}"))),
        None => Err(foreign("it does not say its format".into())),
    }
}

fn make(database: &Database) -> Result<(), Refusal> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| Refusal::Store("the system has no random numbers".into()))?;
    let (cluster, member) = random.split_at(8);
    let writing = database.begin_write()?;
    {
        writing.open_table(KEYS)?;
        writing.open_table(VERSIONS)?;
        writing.open_table(REVISIONS)?;
        writing.open_table(LEASES)?;
        writing.open_table(ATTACHED)?;
        let mut meta = writing.open_table(META)?;
        meta.insert("format", FORMAT)?;
        // etcd's: an empty registry is at revision 1, and nothing was ever compacted.
        meta.insert("revision", 1)?;
        meta.insert("compacted", -1)?;
        for (name, id) in [("cluster", cluster), ("member", member)] {
            meta.insert(name, id.iter().fold(0_i64, |id, byte| id << 8 | i64::from(*byte)))?;
        }
    }
    writing.commit()?;
    Ok(())
}
