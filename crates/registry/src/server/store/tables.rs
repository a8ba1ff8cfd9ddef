//! The file's tables, and how a state of them is read: within a write, or as a snapshot beside it.
//!
//! | table | key | value |
//! |---|---|---|
//! | `keys` | key | its newest `KeyValue`; a deleted key is not in it |
//! | `versions` | key, revision | the `Event` that made that version of the key |
//! | `revisions` | revision, place in it | the key that it changed |
//! | `leases` | id | time to live in seconds, and who was granted it |
//! | `attached` | lease, key | nothing |
//! | `meta` | `format`, `revision`, `compacted`, `cluster`, `member` | a number |
//!
//! Messages are etcd's own in protobuf. A key changes at most once in a revision.

use std::ops::Bound;

use prost::Message;
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition};

use crate::{
    api::{
        etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
        mvccpb::{Event, KeyValue, event::EventType},
    },
    server::{
        range::{self, Bounds},
        refusal::Refusal,
    },
};

pub(super) const KEYS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("keys");
pub(super) const VERSIONS: TableDefinition<'static, (&[u8], i64), &[u8]> = TableDefinition::new("versions");
pub(super) const REVISIONS: TableDefinition<'static, (i64, u32), &[u8]> = TableDefinition::new("revisions");
pub(super) const LEASES: TableDefinition<'static, i64, (i64, &str)> = TableDefinition::new("leases");
pub(super) const ATTACHED: TableDefinition<'static, (i64, &[u8]), ()> = TableDefinition::new("attached");
pub(super) const META: TableDefinition<'static, &str, i64> = TableDefinition::new("meta");

type Key = &'static [u8];
type Version = (&'static [u8], i64);
type Bytes = &'static [u8];

/// What is read within a write, and beside it.
pub(super) type Written<'a, 'txn> = Picture<'a, Table<'txn, Key, Bytes>, Table<'txn, Version, Bytes>>;
pub(super) type Read<'a> = Picture<'a, ReadOnlyTable<Key, Bytes>, ReadOnlyTable<Version, Bytes>>;

/// A state of keys and their versions.
pub(super) struct Picture<'a, K, V> {
    pub(super) keys: &'a K,
    pub(super) versions: &'a V,
    /// The newest revision that is in it, with what a write under way is about to make.
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

impl<K, V> Picture<'_, K, V>
where
    K: ReadableTable<&'static [u8], &'static [u8]>,
    V: ReadableTable<(&'static [u8], i64), &'static [u8]>,
{
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Refusal> {
        Ok(self.keys.get(key)?.map(|kv| KeyValue::decode(kv.value())).transpose()?)
    }

    /// All entries of a range as they are now.
    pub(super) fn now(&self, key: &[u8], end: &[u8]) -> Result<Vec<KeyValue>, Refusal> {
        Ok(self.newest(key, end, usize::MAX)?.0)
    }

    /// # Errors
    /// Whether the revision is one that can be read.
    pub(super) fn check(&self, revision: i64) -> Result<(), Refusal> {
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        Ok(())
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        self.check(request.revision)?;
        let fetch = range::fetch(request);
        let (kvs, count) = if request.revision <= 0 || request.revision == self.revision {
            self.newest(&request.key, &request.range_end, fetch)?
        } else {
            self.at(request.revision, &request.key, &request.range_end, fetch)?
        };
        let (kvs, more) = range::arrange(request, kvs);
        let header = Some(ResponseHeader { revision: self.revision, ..ResponseHeader::default() });
        Ok(RangeResponse { header, kvs, more, count })
    }

    /// The first entries of a range as they are now, and how many there are.
    fn newest(&self, key: &[u8], end: &[u8], fetch: usize) -> Result<(Vec<KeyValue>, i64), Refusal> {
        let (mut kvs, mut count) = (Vec::new(), 0);
        let Some(bounds) = range::bounds(key, end) else { return Ok((kvs, count)) };
        for entry in self.keys.range::<&[u8]>(bounds)? {
            let (_, kv) = entry?;
            count += 1;
            if kvs.len() < fetch {
                kvs.push(KeyValue::decode(kv.value())?);
            }
        }
        Ok((kvs, count))
    }

    /// The same as of an earlier revision.
    fn at(&self, revision: i64, key: &[u8], end: &[u8], fetch: usize) -> Result<(Vec<KeyValue>, i64), Refusal> {
        let (mut kvs, mut count) = (Vec::new(), 0);
        let Some(bounds) = range::bounds(key, end) else { return Ok((kvs, count)) };
        let mut keep = |newest: Option<AccessGuard<'_, &'static [u8]>>| -> Result<(), Refusal> {
            let Some(newest) = newest else { return Ok(()) };
            let event = Event::decode(newest.value())?;
            if let (EventType::Put, Some(kv)) = (event.r#type(), event.kv) {
                count += 1;
                if kvs.len() < fetch {
                    kvs.push(kv);
                }
            }
            Ok(())
        };
        let mut of: Vec<u8> = Vec::new();
        let mut newest = None;
        for entry in self.versions.range::<(&[u8], i64)>(versions_of(bounds))? {
            let (version, event) = entry?;
            let (key, made) = version.value();
            if key != of {
                keep(newest.take())?;
                of = key.to_vec();
            }
            if made <= revision {
                newest = Some(event);
            }
        }
        keep(newest)?;
        Ok((kvs, count))
    }

    /// What a key held before a revision, as far as that is still known.
    pub(super) fn before(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Refusal> {
        let Some(entry) = self.versions.range::<(&[u8], i64)>((key, 0)..(key, revision))?.next_back() else {
            return Ok(None);
        };
        let event = Event::decode(entry?.1.value())?;
        Ok(if event.r#type() == EventType::Put { event.kv } else { None })
    }

    pub(super) fn event(&self, key: &[u8], revision: i64) -> Result<Option<Event>, Refusal> {
        Ok(self.versions.get((key, revision))?.map(|event| Event::decode(event.value())).transpose()?)
    }
}

/// Bounds of keys as bounds of all versions of these keys.
fn versions_of((from, end): Bounds<&[u8]>) -> Bounds<(&[u8], i64)> {
    let from = match from {
        Bound::Included(key) => Bound::Included((key, i64::MIN)),
        Bound::Excluded(key) => Bound::Excluded((key, i64::MAX)),
        Bound::Unbounded => Bound::Unbounded,
    };
    let end = match end {
        Bound::Included(key) => Bound::Included((key, i64::MAX)),
        Bound::Excluded(key) => Bound::Excluded((key, i64::MIN)),
        Bound::Unbounded => Bound::Unbounded,
    };
    (from, end)
}

/// The tables of a snapshot.
pub(super) struct Snapshot {
    keys: ReadOnlyTable<&'static [u8], &'static [u8]>,
    versions: ReadOnlyTable<(&'static [u8], i64), &'static [u8]>,
    pub(super) revisions: ReadOnlyTable<(i64, u32), &'static [u8]>,
    pub(super) attached: ReadOnlyTable<(i64, &'static [u8]), ()>,
    revision: i64,
    compacted: i64,
}

impl Snapshot {
    pub(super) fn of(reading: &ReadTransaction) -> Result<Self, Refusal> {
        let meta = reading.open_table(META)?;
        Ok(Self {
            keys: reading.open_table(KEYS)?,
            versions: reading.open_table(VERSIONS)?,
            revisions: reading.open_table(REVISIONS)?,
            attached: reading.open_table(ATTACHED)?,
            revision: number(&meta, "revision")?,
            compacted: number(&meta, "compacted")?,
        })
    }

    pub(super) fn picture(&self) -> Read<'_> {
        Picture { keys: &self.keys, versions: &self.versions, revision: self.revision, compacted: self.compacted }
    }
}

/// A number that every file of ours has.
pub(super) fn number(meta: &impl ReadableTable<&'static str, i64>, name: &'static str) -> Result<i64, Refusal> {
    match meta.get(name)? {
        Some(number) => Ok(number.value()),
        None => Err(Refusal::Store(format!("the file has no '{name}'"))),
    }
}

/// Keys that are bound to a lease, by key.
pub(super) fn keys_of(
    attached: &impl ReadableTable<(i64, &'static [u8]), ()>,
    lease: i64,
) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut keys = Vec::new();
    // The empty slice comes before every key, and no lease has a number above i64::MAX.
    let end = lease.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded((next, [].as_slice())));
    for entry in attached.range::<(i64, &[u8])>((Bound::Included((lease, [].as_slice())), end))? {
        keys.push(entry?.0.value().1.to_vec());
    }
    Ok(keys)
}
