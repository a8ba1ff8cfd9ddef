//! A transaction, from its comparisons to what is to be done; and the whole of one that only reads.

use redb::ReadableTable;

use super::tables::Picture;
use crate::{
    api::etcdserverpb::{
        RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op::Request, response_op::Response,
    },
    server::{refusal::Refusal, txn},
};

/// A transaction whose comparisons are decided, nested ones too, before anything of it is done.
pub(super) struct Plan {
    pub(super) succeeded: bool,
    pub(super) ops: Vec<Op>,
}

pub(super) enum Op {
    Plain(Request),
    Nested(Plan),
}

/// Decides what is to be done.
pub(super) fn plan<K, V>(txn: TxnRequest, picture: &Picture<'_, K, V>) -> Result<Plan, Refusal>
where
    K: ReadableTable<&'static [u8], &'static [u8]>,
    V: ReadableTable<(&'static [u8], i64), &'static [u8]>,
{
    let mut succeeded = true;
    for compare in &txn.compare {
        if !txn::holds(compare, &picture.now(&compare.key, &compare.range_end)?) {
            succeeded = false;
            break;
        }
    }
    let branch = if succeeded { txn.success } else { txn.failure };
    let mut ops = Vec::with_capacity(branch.len());
    for RequestOp { request } in branch {
        ops.push(match request {
            Some(Request::RequestTxn(inner)) => Op::Nested(plan(inner, picture)?),
            Some(plain) => Op::Plain(plain),
            None => return Err(Refusal::KeyNotFound),
        });
    }
    Ok(Plan { succeeded, ops })
}

/// Whether all revisions that it reads can be read.
pub(super) fn check_ranges<K, V>(plan: &Plan, picture: &Picture<'_, K, V>) -> Result<(), Refusal>
where
    K: ReadableTable<&'static [u8], &'static [u8]>,
    V: ReadableTable<(&'static [u8], i64), &'static [u8]>,
{
    plan.ops.iter().try_for_each(|op| match op {
        Op::Plain(Request::RequestRange(range)) => picture.check(range.revision),
        Op::Plain(_) => Ok(()),
        Op::Nested(inner) => check_ranges(inner, picture),
    })
}

/// A transaction that only reads, of a snapshot.
pub(super) fn read<K, V>(txn: TxnRequest, picture: &Picture<'_, K, V>) -> Result<TxnResponse, Refusal>
where
    K: ReadableTable<&'static [u8], &'static [u8]>,
    V: ReadableTable<(&'static [u8], i64), &'static [u8]>,
{
    fn answer<K, V>(plan: Plan, picture: &Picture<'_, K, V>) -> Result<TxnResponse, Refusal>
    where
        K: ReadableTable<&'static [u8], &'static [u8]>,
        V: ReadableTable<(&'static [u8], i64), &'static [u8]>,
    {
        let mut responses = Vec::with_capacity(plan.ops.len());
        for op in plan.ops {
            let response = match op {
                Op::Plain(Request::RequestRange(range)) => Response::ResponseRange(picture.range(&range)?),
                Op::Plain(_) => continue,
                Op::Nested(inner) => Response::ResponseTxn(answer(inner, picture)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: plan.succeeded, responses })
    }
    let plan = plan(txn, picture)?;
    check_ranges(&plan, picture)?;
    let mut answer = answer(plan, picture)?;
    answer.header = header(picture.revision);
    Ok(answer)
}

pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}
