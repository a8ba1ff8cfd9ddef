//! How much of the past is kept: a client that was away for a while goes on where it was, and the file stays small.
//!
//! The last 10,000 revisions, an hour, or 64 MiB of values, whichever is least. etcd keeps everything until somebody compacts it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use redb::ReadableTable;

use super::pen::Pen;
use crate::{
    api::mvccpb::{Event, event::EventType},
    server::refusal::Refusal,
};

/// Revisions that are kept at most, and how many remain when more came: so that it is not done for every one.
const REVISIONS: i64 = 10_000;
const REMAIN: i64 = 9_000;

const AGE: Duration = Duration::from_secs(3600);

/// Bytes that came since a compaction.
const BYTES: usize = 64 * 1024 * 1024;

/// How often it is noted which revision it is.
const MARK: Duration = Duration::from_secs(60);

/// Decides when history becomes too long.
#[derive(Default)]
pub(super) struct Retention {
    /// Which revision it was when.
    marks: VecDeque<(Instant, i64)>,
    bytes: usize,
    /// The revision at which half of the bytes had come.
    half: Option<i64>,
}

impl Retention {
    /// Takes note of a revision and of what came with it. Returns what is to be compacted up to, if anything.
    pub(super) fn note(&mut self, revision: i64, compacted: i64, bytes: usize, now: Instant) -> Option<i64> {
        self.bytes += bytes;
        if self.bytes >= BYTES / 2 && self.half.is_none() {
            self.half = Some(revision);
        }
        if self.marks.back().is_none_or(|(when, _)| now.duration_since(*when) >= MARK) {
            self.marks.push_back((now, revision));
        }
        let mut to = compacted;
        while let Some((when, was)) = self.marks.front()
            && now.duration_since(*when) >= AGE
        {
            to = to.max(*was);
            self.marks.pop_front();
        }
        if revision - compacted.max(0) > REVISIONS {
            to = to.max(revision - REMAIN);
        }
        if self.bytes >= BYTES {
            to = to.max(self.half.take().unwrap_or(revision));
            self.bytes = 0;
        }
        (to > compacted && to > 1).then_some(to)
    }
}

impl Pen<'_> {
    /// Forgets what was before a revision: of each key the newest version up to it stays, and all that happened in it or later.
    ///
    /// # Errors
    /// As etcd's: compacted already, or not yet there.
    pub(super) fn compact(&mut self, to: i64) -> Result<(), Refusal> {
        if to <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if to > self.revision {
            return Err(Refusal::FutureRevision);
        }
        let mut changes = Vec::new();
        for entry in self.revisions.range(..=(to, u32::MAX))? {
            let (at, key) = entry?;
            changes.push((at.value(), key.value().to_vec()));
        }
        for ((revision, place), key) in changes {
            self.forget_before(&key, revision)?;
            // What a watch from the compacted revision on is to hear stays, deletions too. (etcd 3.4 loses those.)
            if revision < to {
                if self.is_deletion(&key, revision)? {
                    self.versions.remove((key.as_slice(), revision))?;
                }
                self.revisions.remove((revision, place))?;
            }
        }
        self.compacted = to;
        self.touched = true;
        Ok(())
    }

    fn forget_before(&mut self, key: &[u8], revision: i64) -> Result<(), Refusal> {
        let mut older = Vec::new();
        for entry in self.versions.range::<(&[u8], i64)>((key, i64::MIN)..(key, revision))? {
            older.push(entry?.0.value().1);
        }
        for version in older {
            self.versions.remove((key, version))?;
        }
        Ok(())
    }

    fn is_deletion(&self, key: &[u8], revision: i64) -> Result<bool, Refusal> {
        let event = self
            .versions
            .get((key, revision))?
            .map(|event| <Event as prost::Message>::decode(event.value()))
            .transpose()?;
        Ok(event.is_some_and(|event| event.r#type() == EventType::Delete))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_by_number_age_and_size() {
        let start = Instant::now();
        let mut retention = Retention::default();
        assert_eq!(retention.note(10_000, -1, 0, start), None);
        assert_eq!(retention.note(10_001, -1, 0, start), Some(1_001));

        let mut retention = Retention::default();
        assert_eq!(retention.note(50, -1, 0, start), None);
        assert_eq!(retention.note(60, -1, 0, start + AGE - MARK), None);
        assert_eq!(retention.note(70, -1, 0, start + AGE), Some(50));
        assert_eq!(retention.note(70, 50, 0, start + AGE), None);

        let mut retention = Retention::default();
        assert_eq!(retention.note(50, -1, BYTES / 2, start), None);
        assert_eq!(retention.note(51, -1, BYTES / 2, start), Some(50));
        assert_eq!(retention.note(52, 50, 1, start), None);
    }

    #[test]
    fn an_idle_registry_is_not_compacted_over_and_over() {
        let start = Instant::now();
        let mut retention = Retention::default();
        retention.note(50, -1, 0, start);
        assert_eq!(retention.note(50, -1, 0, start + AGE), Some(50));
        assert_eq!(retention.note(50, 50, 0, start + 2 * AGE), None);
    }
}
