//! Transactions as etcd checks and compares them, before anything of them is done.

use std::{cmp::Ordering, collections::BTreeSet};

use super::{policy::Mandate, refusal::Refusal};
use crate::api::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
    mvccpb::KeyValue,
};

/// Operations in one transaction, all of its nested ones included on the way down (etcd's `--max-txn-ops`).
const MAX_OPS: usize = 128;

/// Operations in one transaction and all that are nested in it, whichever branch they are in. etcd counts them only on the way down, so that a
/// request of 1.5 MiB could hold a quarter of a million.
const MAX_ALL_OPS: usize = 4096;

pub(super) fn check_range(range: &RangeRequest) -> Result<(), Refusal> {
    if range.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

pub(super) fn check_put(put: &PutRequest) -> Result<(), Refusal> {
    if put.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

pub(super) fn check_delete(delete: &DeleteRangeRequest) -> Result<(), Refusal> {
    if delete.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// What can be refused without looking at any key.
///
/// # Errors
/// The refusal that etcd has for it.
pub(super) fn check(txn: &TxnRequest) -> Result<(), Refusal> {
    let mut all = MAX_ALL_OPS;
    check_ops(txn, MAX_OPS, &mut all)?;
    puts_and_deletes(&txn.success)?;
    puts_and_deletes(&txn.failure)?;
    Ok(())
}

fn check_ops(txn: &TxnRequest, left: usize, all: &mut usize) -> Result<(), Refusal> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let every = 1 + txn.compare.len() + txn.success.len() + txn.failure.len();
    if ops > left || every > *all {
        return Err(Refusal::TooManyOps);
    }
    *all -= every;
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(Request::RequestTxn(inner)) => check_ops(inner, left - ops, all)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// Ranges of keys that a branch deletes.
#[derive(Default)]
struct Deletes(Vec<(Vec<u8>, Vec<u8>)>);

impl Deletes {
    fn hit(&self, key: &[u8]) -> bool {
        self.0.iter().any(|(from, end)| within(key, from, end))
    }
}

/// Whether a key lies in a range whose ends are as in etcd's requests.
pub(super) fn within(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        _ => key >= from && key < end,
    }
}

/// What a branch puts and deletes; refused where one key would be written twice in one revision. The branches of a nested transaction exclude
/// each other, so that both may put the same key. (etcd lets a second nested transaction delete what a first one put, which makes two events of
/// one key in one revision; here that is refused as well.)
fn puts_and_deletes(ops: &[RequestOp]) -> Result<(BTreeSet<Vec<u8>>, Deletes), Refusal> {
    let mut puts = BTreeSet::new();
    let mut deletes = Deletes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.0.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(inner)) = &op.request else { continue };
        let (then, then_deletes) = puts_and_deletes(&inner.success)?;
        let (other, other_deletes) = puts_and_deletes(&inner.failure)?;
        let taken = |key: &Vec<u8>| puts.contains(key) || deletes.hit(key);
        let undone = |key: &Vec<u8>| then_deletes.hit(key) || other_deletes.hit(key);
        if then.iter().chain(&other).any(taken) || puts.iter().any(undone) {
            return Err(Refusal::DuplicateKey);
        }
        puts.extend(then);
        puts.extend(other);
        deletes.0.extend(then_deletes.0);
        deletes.0.extend(other_deletes.0);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if deletes.hit(&put.key) || !puts.insert(put.key.clone()) {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

/// Whether any branch may change something.
pub(super) fn writes(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(inner)) => writes(inner),
        _ => false,
    })
}

/// Whether whoever asks may read all that any branch reads, comparisons and previous values included.
///
/// # Errors
/// Permission denied.
pub(super) fn may_read(txn: &TxnRequest, by: &Mandate) -> Result<(), Refusal> {
    for compare in &txn.compare {
        by.may_read(&compare.key, &compare.range_end)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => by.may_read(&range.key, &range.range_end)?,
            Some(Request::RequestPut(put)) if put.prev_kv => by.may_read(&put.key, &[])?,
            Some(Request::RequestDeleteRange(delete)) if delete.prev_kv => {
                by.may_read(&delete.key, &delete.range_end)?
            }
            Some(Request::RequestTxn(inner)) => may_read(inner, by)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether a comparison holds for what its range has.
pub(super) fn holds(compare: &Compare, present: &[KeyValue]) -> bool {
    if present.is_empty() {
        // A value that is not there equals nothing, not even the empty one.
        return compare.target() != CompareTarget::Value && holds_for(compare, &KeyValue::default());
    }
    present.iter().all(|kv| holds_for(compare, kv))
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let wanted = |number: Option<i64>| number.unwrap_or_default();
    let order = match (compare.target(), &compare.target_union) {
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => kv.value.cmp(value),
        (CompareTarget::Value, _) => kv.value.as_slice().cmp(&[]),
        (CompareTarget::Version, union) => kv.version.cmp(&wanted(match union {
            Some(TargetUnion::Version(number)) => Some(*number),
            _ => None,
        })),
        (CompareTarget::Create, union) => kv.create_revision.cmp(&wanted(match union {
            Some(TargetUnion::CreateRevision(number)) => Some(*number),
            _ => None,
        })),
        (CompareTarget::Mod, union) => kv.mod_revision.cmp(&wanted(match union {
            Some(TargetUnion::ModRevision(number)) => Some(*number),
            _ => None,
        })),
        (CompareTarget::Lease, union) => kv.lease.cmp(&wanted(match union {
            Some(TargetUnion::Lease(number)) => Some(*number),
            _ => None,
        })),
    };
    match compare.result() {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    }
}
