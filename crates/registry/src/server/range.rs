//! Options of a range: which entries of it are wanted, in what order, and how many.

use std::ops::Bound;

use crate::api::{
    etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

/// Where a range begins and ends.
pub(super) type Bounds<T> = (Bound<T>, Bound<T>);

/// A range as bounds for a table, None where no key can be in it.
pub(super) fn bounds<'a>(key: &'a [u8], end: &'a [u8]) -> Option<Bounds<&'a [u8]>> {
    match end {
        [] => Some((Bound::Included(key), Bound::Included(key))),
        [0] => Some((Bound::Included(key), Bound::Unbounded)),
        _ if end <= key => None,
        _ => Some((Bound::Included(key), Bound::Excluded(end))),
    }
}

/// How many entries must be fetched: one more than asked for, which tells whether there are more. All of them where order or filters decide
/// which are wanted.
pub(super) fn fetch(request: &RangeRequest) -> usize {
    let filtered =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if request.count_only {
        return 0;
    }
    if request.sort_order() != SortOrder::None || filtered.iter().any(|bound| *bound != 0) {
        return usize::MAX;
    }
    match usize::try_from(request.limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit.saturating_add(1),
    }
}

/// What is wanted of the fetched entries, and whether there are more.
pub(super) fn arrange(request: &RangeRequest, mut kvs: Vec<KeyValue>) -> (Vec<KeyValue>, bool) {
    kvs.retain(|kv| {
        let within = |min: i64, max: i64, revision: i64| (min == 0 || revision >= min) && (max == 0 || revision <= max);
        within(request.min_mod_revision, request.max_mod_revision, kv.mod_revision)
            && within(request.min_create_revision, request.max_create_revision, kv.create_revision)
    });
    // They come by key, ascending; another target without an order means ascending, as etcd has it.
    let order = match (request.sort_order(), request.sort_target()) {
        (SortOrder::None, SortTarget::Key) => SortOrder::None,
        (SortOrder::None, _) => SortOrder::Ascend,
        (order, _) => order,
    };
    if order != SortOrder::None {
        kvs.sort_by(|a, b| {
            let ascending = match request.sort_target() {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if order == SortOrder::Descend { ascending.reverse() } else { ascending }
        });
    }
    let more = match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && kvs.len() > limit => {
            kvs.truncate(limit);
            true
        }
        _ => false,
    };
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Vec::new();
        }
    }
    (kvs, more)
}
