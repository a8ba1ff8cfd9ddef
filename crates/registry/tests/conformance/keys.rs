//! Ranges, puts, deletions and compaction.

use registry::api::etcdserverpb::{
    AuthenticateRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RangeResponse, StatusRequest, auth_client::AuthClient,
};

use crate::told::{Told, cases};

cases![
    put_and_get,
    put_answers_with_what_was_there,
    put_that_leaves_the_value_or_the_lease,
    put_refused,
    delete_one_and_many,
    ranges,
    order,
    order_of_equals_with_a_limit,
    filters,
    past_revisions,
    compaction,
    binary_keys,
    large_values,
    status,
    nobody_needs_a_password,
];

fn range(told: &Told) -> RangeRequest {
    RangeRequest { key: told.key(""), range_end: told.end(), ..RangeRequest::default() }
}

async fn ask(told: &mut Told, request: RangeRequest) -> Option<RangeResponse> {
    let answer = told.kv.range(request).await;
    told.hear(answer)
}

async fn put(told: &mut Told, request: PutRequest) {
    let answer = told.kv.put(request).await;
    told.hear(answer);
}

async fn delete(told: &mut Told, request: DeleteRangeRequest) {
    let answer = told.kv.delete_range(request).await;
    told.hear(answer);
}

async fn put_and_get(told: &mut Told) {
    for (name, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "")] {
        put(told, PutRequest { key: told.key(name), value: value.into(), ..PutRequest::default() }).await;
    }
    for name in ["a", "b", "c", "d"] {
        ask(told, RangeRequest { key: told.key(name), ..RangeRequest::default() }).await;
    }
    ask(told, RangeRequest::default()).await;
}

async fn put_answers_with_what_was_there(told: &mut Told) {
    let request = PutRequest { key: told.key("a"), value: b"1".to_vec(), prev_kv: true, ..PutRequest::default() };
    put(told, request.clone()).await;
    put(told, PutRequest { value: b"2".to_vec(), ..request }).await;
    ask(told, range(told)).await;
}

async fn put_that_leaves_the_value_or_the_lease(told: &mut Told) {
    let lease = 0x1000;
    let granted = told.lease.lease_grant(LeaseGrantRequest { ttl: 600, id: lease }).await;
    told.hear(granted);
    let key = told.key("a");
    let keep_value = PutRequest { key: key.clone(), lease, ignore_value: true, ..PutRequest::default() };
    put(told, keep_value.clone()).await;
    put(told, PutRequest { key: key.clone(), value: b"1".to_vec(), ..PutRequest::default() }).await;
    put(told, keep_value).await;
    ask(told, range(told)).await;
    put(
        told,
        PutRequest {
            key: key.clone(),
            value: b"2".to_vec(),
            ignore_lease: true,
            prev_kv: true,
            ..PutRequest::default()
        },
    )
    .await;
    ask(told, range(told)).await;
    put(told, PutRequest { key: key.clone(), value: b"3".to_vec(), ..PutRequest::default() }).await;
    ask(told, range(told)).await;
    put(told, PutRequest { key: told.key("b"), value: b"3".to_vec(), ignore_lease: true, ..PutRequest::default() })
        .await;
}

async fn put_refused(told: &mut Told) {
    let key = told.key("a");
    put(told, PutRequest { value: b"1".to_vec(), ..PutRequest::default() }).await;
    put(told, PutRequest { key: key.clone(), value: b"1".to_vec(), lease: 77_777, ..PutRequest::default() }).await;
    put(told, PutRequest { key: key.clone(), value: b"1".to_vec(), ignore_value: true, ..PutRequest::default() }).await;
    put(told, PutRequest { key: key.clone(), lease: 3, ignore_lease: true, ..PutRequest::default() }).await;
    put(told, PutRequest { key, lease: -3, ..PutRequest::default() }).await;
    ask(told, range(told)).await;
}

async fn delete_one_and_many(told: &mut Told) {
    for name in ["a", "b", "c", "d", "e"] {
        told.set(name, name).await;
    }
    delete(told, DeleteRangeRequest::default()).await;
    delete(told, DeleteRangeRequest { key: told.key("x"), ..DeleteRangeRequest::default() }).await;
    delete(told, DeleteRangeRequest { key: told.key("a"), ..DeleteRangeRequest::default() }).await;
    delete(told, DeleteRangeRequest { key: told.key("b"), range_end: told.key("d"), prev_kv: true }).await;
    delete(told, DeleteRangeRequest { key: told.key("e"), range_end: told.key("d"), prev_kv: true }).await;
    ask(told, range(told)).await;
    delete(told, DeleteRangeRequest { key: told.key(""), range_end: told.end(), prev_kv: false }).await;
    told.set("a", "again").await;
    ask(told, range(told)).await;
}

async fn ranges(told: &mut Told) {
    for name in ["a", "b", "ba", "c", "d"] {
        told.set(name, name).await;
    }
    let all = range(told);
    for request in [
        RangeRequest { limit: 2, ..all.clone() },
        RangeRequest { limit: 5, ..all.clone() },
        RangeRequest { limit: -1, ..all.clone() },
        RangeRequest { count_only: true, ..all.clone() },
        RangeRequest { count_only: true, limit: 2, ..all.clone() },
        RangeRequest { keys_only: true, ..all.clone() },
        RangeRequest { serializable: true, ..all.clone() },
        RangeRequest { key: told.key("b"), range_end: told.key("c"), ..RangeRequest::default() },
        RangeRequest { key: told.key("c"), range_end: told.key("c"), ..RangeRequest::default() },
        RangeRequest { key: told.key("d"), range_end: told.key("a"), ..RangeRequest::default() },
        RangeRequest { key: told.key("ba"), range_end: vec![0], limit: 3, ..RangeRequest::default() },
        RangeRequest { range_end: vec![0], ..RangeRequest::default() },
    ] {
        // What others have after these keys differs in number only between the two servers' histories, not at all here.
        let answer = told.kv.range(request).await.map(|mut answer| {
            answer.get_mut().kvs.retain(|kv| kv.key.starts_with(told.prefix.as_bytes()));
            answer
        });
        told.hear(answer);
    }
}

async fn order(told: &mut Told) {
    for (name, value) in [("c", "1"), ("a", "3"), ("d", "2"), ("b", "4"), ("a", "5"), ("a", "0"), ("c", "9")] {
        told.set(name, value).await;
    }
    for target in 0..5 {
        for order in 0..3 {
            // Of versions and of values, only those that differ: etcd's sort is not stable.
            let request = RangeRequest { sort_target: target, sort_order: order, ..range(told) };
            if target == 1 {
                let mut versions: Vec<i64> =
                    told.kv.range(request).await.unwrap().into_inner().kvs.iter().map(|kv| kv.version).collect();
                versions.dedup();
                told.say(format!("{versions:?}"));
            } else {
                ask(told, request).await;
            }
        }
    }
}

async fn order_of_equals_with_a_limit(told: &mut Told) {
    for (name, value) in [("c", "1"), ("a", "3"), ("d", "2"), ("b", "4")] {
        told.set(name, value).await;
    }
    for order in 0..3 {
        ask(told, RangeRequest { limit: 2, sort_target: 4, sort_order: order, ..range(told) }).await;
        ask(told, RangeRequest { limit: 2, sort_order: order, keys_only: true, ..range(told) }).await;
        ask(told, RangeRequest { limit: 2, sort_order: order, count_only: true, ..range(told) }).await;
    }
}

async fn filters(told: &mut Told) {
    for name in ["a", "b", "c", "a", "d", "b"] {
        told.set(name, name).await;
    }
    let base = told.base;
    for request in [
        RangeRequest { min_mod_revision: base + 4, ..range(told) },
        RangeRequest { max_mod_revision: base + 4, ..range(told) },
        RangeRequest { min_create_revision: base + 2, ..range(told) },
        RangeRequest { max_create_revision: base + 2, ..range(told) },
        RangeRequest { min_mod_revision: base + 4, max_create_revision: base + 2, limit: 1, ..range(told) },
        RangeRequest { min_mod_revision: base + 4, count_only: true, ..range(told) },
        RangeRequest { min_mod_revision: base + 100, ..range(told) },
    ] {
        ask(told, request).await;
    }
}

async fn past_revisions(told: &mut Told) {
    for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        told.set(name, value).await;
    }
    let gone = DeleteRangeRequest { key: told.key(""), range_end: told.end(), ..DeleteRangeRequest::default() };
    delete(told, gone).await;
    told.set("a", "4").await;
    let base = told.base;
    for revision in [base, base + 1, base + 2, base + 3, base + 4, base + 5, base + 6, -1] {
        ask(told, RangeRequest { revision, ..range(told) }).await;
        ask(told, RangeRequest { key: told.key("a"), revision, ..RangeRequest::default() }).await;
        ask(told, RangeRequest { revision, limit: 1, ..range(told) }).await;
        ask(told, RangeRequest { revision, count_only: true, ..range(told) }).await;
    }
}

async fn compaction(told: &mut Told) {
    for (name, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("a", "5")] {
        told.set(name, value).await;
    }
    delete(told, DeleteRangeRequest { key: told.key("c"), ..DeleteRangeRequest::default() }).await;
    let base = told.base;
    for revision in [base + 3, base + 3, base + 2, base + 7, base + 5, base + 6, base + 6] {
        let answer = told.kv.compact(CompactionRequest { revision, physical: revision == base + 5 }).await;
        told.hear(answer);
        for revision in [base + 1, base + 2, base + 3, base + 4, base + 5, base + 6] {
            ask(told, RangeRequest { revision, ..range(told) }).await;
        }
    }
    ask(told, range(told)).await;
}

async fn binary_keys(told: &mut Told) {
    let mut keys = vec![told.key("\0"), told.key("\u{7f}")];
    for last in [[0xff, 0xff], [0xff, 0], [0x80, 1], [0, 0xff]] {
        let mut key = told.key("");
        key.extend(last);
        keys.push(key);
    }
    for key in keys.clone() {
        put(told, PutRequest { key, value: vec![0, 0xff], ..PutRequest::default() }).await;
    }
    ask(told, range(told)).await;
    for key in keys {
        delete(told, DeleteRangeRequest { key, ..DeleteRangeRequest::default() }).await;
    }
}

async fn large_values(told: &mut Told) {
    put(told, PutRequest { key: told.key("a"), value: vec![7; 1_000_000], ..PutRequest::default() }).await;
    put(told, PutRequest { key: told.key("a"), value: vec![7; 1_600_000], ..PutRequest::default() }).await;
    let answer = ask(told, RangeRequest { count_only: true, ..range(told) }).await;
    assert_eq!(answer.unwrap().count, 1);
}

async fn status(told: &mut Told) {
    let status = told.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    let header = status.header.unwrap();
    let version = status.version.split('.').take(2).collect::<Vec<_>>().join(".");
    told.say(format!("{version} {} {} {}", status.leader == header.member_id, status.is_learner, status.errors.len()));
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.raft_index > 0 && status.raft_term > 0);
}

async fn nobody_needs_a_password(told: &mut Told) {
    let request = AuthenticateRequest { name: "root".into(), password: "over".into() };
    let refused = AuthClient::new(told.channel.clone()).authenticate(request).await.unwrap_err();
    told.say(format!("{:?}: {}", refused.code(), refused.message()));
}
