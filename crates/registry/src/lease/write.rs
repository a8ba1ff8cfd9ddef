//! Writes that hold only if the registry is as we last saw it.

use crate::api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use crate::client::{Client, ClientError, KeyValue};

/// What an entry has to be for a write to hold.
#[derive(Clone, Copy)]
pub(super) enum Expect {
    Absent,
    /// Last changed by this revision.
    Revision(i64),
}

/// The revisions of an entry after a write.
pub(super) struct Written {
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

pub(super) enum Outcome {
    Done(Written),
    /// The entry is not as expected: this is there.
    Other(Option<KeyValue>),
}

/// Writes an entry if it is as expected.
pub(super) async fn put(
    client: &Client,
    key: &str,
    expect: Expect,
    value: &[u8],
    lease: i64,
) -> Result<Outcome, ClientError> {
    let put = PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
    let request = TxnRequest {
        compare: vec![expect.compare(key)],
        success: vec![op(Request::RequestPut(put)), read(key)],
        failure: vec![read(key)],
    };
    let answer = client.txn(request).await?;
    let is_done = answer.succeeded;
    let entry = entry_in(answer);
    Ok(match entry {
        // Also when the answer to our first try was lost, and the second one found what that had written.
        Some(entry) if is_done || (entry.lease == lease && entry.value == value) => {
            Outcome::Done(Written { create_revision: entry.create_revision, mod_revision: entry.mod_revision })
        }
        other => Outcome::Other(other),
    })
}

/// Deletes an entry if it was last changed by this revision. Says whether it is gone.
pub(super) async fn delete(client: &Client, key: &str, mod_revision: i64) -> Result<bool, ClientError> {
    let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
    let request = TxnRequest {
        compare: vec![Expect::Revision(mod_revision).compare(key)],
        success: vec![op(Request::RequestDeleteRange(delete))],
        failure: vec![read(key)],
    };
    let answer = client.txn(request).await?;
    Ok(answer.succeeded || entry_in(answer).is_none())
}

impl Expect {
    fn compare(self, key: &str) -> Compare {
        let (target, union) = match self {
            Self::Absent => (CompareTarget::Version, TargetUnion::Version(0)),
            Self::Revision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision)),
        };
        Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: key.into(),
            target_union: Some(union),
            range_end: Vec::new(),
        }
    }
}

fn read(key: &str) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() }))
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn entry_in(answer: TxnResponse) -> Option<KeyValue> {
    answer.responses.into_iter().find_map(|ResponseOp { response }| match response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().find_map(KeyValue::read),
        _ => None,
    })
}
