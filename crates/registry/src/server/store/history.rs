//! What changed, revision by revision: the newest in memory, the rest in the file until it is compacted.
//!
//! A watch owns no queue. It knows which revision it wants next and asks here, so that a slow one costs nothing, loses nothing, and
//! hears that it was compacted away if it was.

use std::{collections::VecDeque, sync::Arc};

use prost::Message;

use super::tables::Snapshot;
use crate::{api::mvccpb::Event, server::refusal::Refusal};

/// What is kept in memory, in revisions and in bytes of their events.
const REVISIONS: usize = 4096;
const BYTES: usize = 8 * 1024 * 1024;

/// What is handed out at once, likewise. A revision is never cut.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 128 * 1024;

/// All that happened in one revision; each event has the previous value of its key.
#[derive(Debug)]
pub(in crate::server) struct Revision {
    pub(in crate::server) revision: i64,
    pub(in crate::server) events: Vec<Event>,
}

impl Revision {
    fn bytes(&self) -> usize {
        self.events.iter().map(Message::encoded_len).sum()
    }
}

/// What came from a revision on.
#[derive(Debug)]
pub(in crate::server) enum Changes {
    /// The next ones, empty where nothing came yet.
    Next(Vec<Arc<Revision>>),
    /// They are gone; the first that is not is this one.
    Compacted(i64),
}

/// The newest revisions without a gap.
#[derive(Default)]
pub(super) struct Recent {
    revisions: VecDeque<(Arc<Revision>, usize)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn push(&mut self, revision: Arc<Revision>) {
        let bytes = revision.bytes();
        self.bytes += bytes;
        self.revisions.push_back((revision, bytes));
        while self.revisions.len() > REVISIONS || self.bytes > BYTES {
            let Some((_, bytes)) = self.revisions.pop_front() else { break };
            self.bytes -= bytes;
        }
    }

    /// The revisions from `next` on, None where they begin later.
    pub(super) fn from(&self, next: i64) -> Option<Vec<Arc<Revision>>> {
        let first = self.revisions.front()?.0.revision;
        let skip = usize::try_from(next.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let mut chunk = Vec::new();
        for (revision, size) in self.revisions.range(skip.min(self.revisions.len())..).take(CHUNK) {
            chunk.push(Arc::clone(revision));
            bytes += size;
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        Some(chunk)
    }
}

/// The revisions from `next` on by the file.
pub(super) fn read(snapshot: &Snapshot, next: i64) -> Result<Changes, Refusal> {
    let picture = snapshot.picture();
    if next < picture.compacted {
        return Ok(Changes::Compacted(picture.compacted));
    }
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let mut current = Revision { revision: next, events: Vec::new() };
    for entry in snapshot.revisions.range((next, 0)..)? {
        let (at, key) = entry?;
        let (revision, _) = at.value();
        if revision != current.revision {
            let full = std::mem::replace(&mut current, Revision { revision, events: Vec::new() });
            if !full.events.is_empty() {
                chunk.push(Arc::new(full));
            }
            if chunk.len() >= CHUNK || bytes >= CHUNK_BYTES {
                return Ok(Changes::Next(chunk));
            }
        }
        let Some(mut event) = picture.event(key.value(), revision)? else {
            return Err(Refusal::Store(format!("revision {revision} has a key without a version")));
        };
        event.prev_kv = picture.before(key.value(), revision)?;
        bytes += event.encoded_len();
        current.events.push(event);
    }
    if !current.events.is_empty() {
        chunk.push(Arc::new(current));
    }
    Ok(Changes::Next(chunk))
}
