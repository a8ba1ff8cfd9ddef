//! Transactions.

use registry::api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare::TargetUnion,
    request_op::Request,
};

use crate::told::{Told, cases};

cases![
    compare_and_swap,
    every_comparison,
    comparisons_of_ranges,
    one_revision_for_all,
    reads_between_writes,
    nested,
    nested_comparisons_see_the_beginning,
    duplicates,
    refused_and_nothing_done,
    too_many,
];

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(told: &Told, name: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest {
        key: told.key(name),
        value: value.into(),
        prev_kv: true,
        ..PutRequest::default()
    }))
}

fn get(told: &Told, from: &str, end: &str) -> RequestOp {
    let range_end = if end.is_empty() { Vec::new() } else { told.key(end) };
    op(Request::RequestRange(RangeRequest { key: told.key(from), range_end, ..RangeRequest::default() }))
}

fn delete(told: &Told, from: &str, end: &str) -> RequestOp {
    let range_end = if end.is_empty() { Vec::new() } else { told.key(end) };
    op(Request::RequestDeleteRange(DeleteRangeRequest { key: told.key(from), range_end, prev_kv: true }))
}

fn txn(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

fn inner(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { compare, success, failure }))
}

fn version(told: &Told, name: &str, version: i64) -> Compare {
    Compare { key: told.key(name), target_union: Some(TargetUnion::Version(version)), ..Compare::default() }
}

async fn ask(told: &mut Told, request: TxnRequest) {
    let answer = told.kv.txn(request).await;
    told.hear(answer);
}

async fn show(told: &mut Told) {
    let answer =
        told.kv.range(RangeRequest { key: told.key(""), range_end: told.end(), ..RangeRequest::default() }).await;
    told.hear(answer);
}

async fn compare_and_swap(told: &mut Told) {
    for expected in [0, 0, 1, 7] {
        let request = TxnRequest {
            compare: vec![version(told, "a", expected)],
            success: vec![put(told, "a", &expected.to_string())],
            failure: vec![get(told, "a", "")],
        };
        ask(told, request).await;
    }
    ask(told, TxnRequest::default()).await;
    show(told).await;
}

async fn every_comparison(told: &mut Told) {
    told.set("a", "m").await;
    told.set("a", "n").await;
    let base = told.base;
    let of = |number: i64| {
        [
            TargetUnion::Version(number),
            TargetUnion::CreateRevision(base + number),
            TargetUnion::ModRevision(base + number),
            TargetUnion::Value(vec![b'l' + u8::try_from(number).unwrap()]),
            TargetUnion::Lease(number),
        ]
    };
    for key in ["a", "nothing"] {
        for number in 0..4 {
            for (target, target_union) in of(number).into_iter().enumerate() {
                let mut holds = Vec::new();
                for result in 0..4 {
                    let compare = Compare {
                        result,
                        target: i32::try_from(target).unwrap(),
                        key: told.key(key),
                        target_union: Some(target_union.clone()),
                        range_end: Vec::new(),
                    };
                    let request = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
                    holds.push(told.kv.txn(request).await.unwrap().into_inner().succeeded);
                }
                told.say(format!("{key} {number} {target}: {holds:?}"));
            }
        }
    }
    // What is compared with something of another kind, or with nothing.
    for target in 0..5 {
        for target_union in [None, Some(TargetUnion::Version(2)), Some(TargetUnion::Lease(0))] {
            let compare = Compare { target, key: told.key("a"), target_union, ..Compare::default() };
            ask(told, TxnRequest { compare: vec![compare], ..TxnRequest::default() }).await;
        }
    }
    ask(told, TxnRequest { compare: vec![Compare::default()], ..TxnRequest::default() }).await;
}

async fn comparisons_of_ranges(told: &mut Told) {
    for name in ["a", "b", "c", "c"] {
        told.set(name, name).await;
    }
    for (from, end) in [("a", "c"), ("a", "d"), ("x", "z"), ("c", "a")] {
        for number in 0..3 {
            let compare = Compare { range_end: told.key(end), ..version(told, from, number) };
            ask(told, TxnRequest { compare: vec![compare.clone()], ..TxnRequest::default() }).await;
            let value =
                Compare { target: 3, target_union: Some(TargetUnion::Value(b"a".to_vec())), result: 3, ..compare };
            ask(told, TxnRequest { compare: vec![value], ..TxnRequest::default() }).await;
        }
    }
}

async fn one_revision_for_all(told: &mut Told) {
    told.set("x", "old").await;
    ask(told, txn(vec![put(told, "a", "1"), put(told, "b", "2"), delete(told, "x", ""), delete(told, "y", "z")])).await;
    show(told).await;
    ask(told, txn(vec![delete(told, "nothing", ""), get(told, "a", "")])).await;
    show(told).await;
}

async fn reads_between_writes(told: &mut Told) {
    told.set("a", "0").await;
    let past = op(Request::RequestRange(RangeRequest {
        key: told.key("a"),
        revision: told.base + 1,
        ..RangeRequest::default()
    }));
    let ops = vec![
        get(told, "a", "z"),
        put(told, "a", "1"),
        get(told, "a", "z"),
        delete(told, "b", "c"),
        put(told, "d", "2"),
        past,
        get(told, "a", "z"),
        delete(told, "e", "f"),
    ];
    ask(told, txn(ops)).await;
}

async fn nested(told: &mut Told) {
    told.set("a", "0").await;
    let deepest = inner(vec![version(told, "b", 0)], vec![put(told, "b", "then")], vec![put(told, "b", "else")]);
    let middle = inner(vec![version(told, "a", 1)], vec![put(told, "a", "then"), deepest], vec![get(told, "a", "")]);
    ask(told, txn(vec![middle.clone(), put(told, "c", "1")])).await;
    ask(told, txn(vec![middle, put(told, "c", "2"), inner(vec![], vec![], vec![])])).await;
    show(told).await;
}

async fn nested_comparisons_see_the_beginning(told: &mut Told) {
    let later = inner(vec![version(told, "a", 0)], vec![put(told, "saw", "nothing")], vec![put(told, "saw", "a")]);
    ask(told, txn(vec![put(told, "a", "1"), later])).await;
    show(told).await;
}

async fn duplicates(told: &mut Told) {
    let both = inner(vec![], vec![put(told, "a", "1")], vec![put(told, "a", "2")]);
    let deletes = inner(vec![], vec![delete(told, "a", "c")], vec![]);
    for ops in [
        vec![put(told, "a", "1"), put(told, "a", "2")],
        vec![put(told, "a", "1"), delete(told, "a", "")],
        vec![delete(told, "a", "c"), put(told, "b", "1")],
        vec![put(told, "c", "1"), delete(told, "a", "c")],
        vec![delete(told, "a", ""), delete(told, "a", "z")],
        vec![both.clone()],
        vec![both.clone(), put(told, "a", "3")],
        vec![both.clone(), both.clone()],
        vec![both.clone(), delete(told, "a", "b")],
        vec![deletes.clone(), put(told, "b", "3")],
        vec![deletes.clone(), both.clone()],
        // The other way round, etcd 3.4 makes two events of one key in one revision: asked of ours alone, in tests/server.rs.
        vec![deletes.clone(), deletes],
    ] {
        ask(told, txn(ops.clone())).await;
        ask(told, TxnRequest { failure: ops, ..TxnRequest::default() }).await;
    }
    show(told).await;
}

async fn refused_and_nothing_done(told: &mut Told) {
    let base = told.base;
    told.set("a", "0").await;
    let range =
        |revision| op(Request::RequestRange(RangeRequest { key: told.key("a"), revision, ..RangeRequest::default() }));
    let (future, lease) = (range(base + 50), PutRequest { key: told.key("c"), lease: 12_345, ..PutRequest::default() });
    let keep = PutRequest { key: told.key("d"), ignore_value: true, ..PutRequest::default() };
    for wrong in [
        future,
        op(Request::RequestPut(lease)),
        op(Request::RequestPut(keep)),
        op(Request::RequestPut(PutRequest::default())),
        op(Request::RequestRange(RangeRequest::default())),
        op(Request::RequestDeleteRange(DeleteRangeRequest::default())),
        RequestOp::default(),
    ] {
        ask(told, txn(vec![put(told, "b", "1"), wrong.clone()])).await;
        ask(told, txn(vec![put(told, "b", "1"), inner(vec![], vec![wrong], vec![])])).await;
        show(told).await;
    }
}

async fn too_many(told: &mut Told) {
    let many = |count: usize| (0..count).map(|number| get(told, &number.to_string(), "")).collect::<Vec<_>>();
    let (fits, over, half) = (many(128), many(129), many(64));
    for request in [
        txn(over.clone()),
        TxnRequest { failure: over, ..TxnRequest::default() },
        TxnRequest {
            compare: (0..129).map(|number| version(told, &number.to_string(), 0)).collect(),
            ..TxnRequest::default()
        },
        txn([half.clone(), vec![inner(vec![], half.clone(), vec![])]].concat()),
    ] {
        ask(told, request).await;
    }
    let fits = told.kv.txn(txn(fits)).await.unwrap().into_inner();
    told.say(format!("{}", fits.responses.len()));
    let nested = told.kv.txn(txn(vec![inner(vec![], half.clone(), vec![]), inner(vec![], half, vec![])])).await;
    told.say(format!("{}", nested.unwrap().into_inner().responses.len()));
}
