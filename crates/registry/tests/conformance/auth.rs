//! Names, passwords, tokens, and what somebody may.

use registry::api::etcdserverpb::{
    AuthenticateRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCreateRequest, auth_client::AuthClient, request_op::Request,
};

use crate::{
    servers::etcdctl,
    told::{Told, cases},
    watches::Stream,
};

cases![
    names_and_passwords,
    without_a_token,
    with_a_token_of_nobody,
    alice_and_her_keys,
    transactions_of_alice,
    watches_of_alice,
    root_may_everything,
    etcdctl_with_a_user,
];

async fn authenticate(told: &mut Told, name: &str, password: &str) -> Option<String> {
    let request = AuthenticateRequest { name: name.into(), password: password.into() };
    match AuthClient::new(told.channel.clone()).authenticate(request).await {
        Ok(answer) => {
            told.say("let in");
            Some(answer.into_inner().token)
        }
        Err(status) => {
            told.say(format!("{:?}: {}", status.code(), status.message()));
            None
        }
    }
}

async fn become_one(told: &mut Told, name: &str, password: &str) {
    let token = authenticate(told, name, password).await.unwrap();
    told.use_token(&token);
}

/// Only whether it went well: others' cases move the revision.
async fn put(told: &mut Told, key: &str, prev_kv: bool) {
    let put = PutRequest { key: key.into(), value: b"1".to_vec(), prev_kv, ..PutRequest::default() };
    let answer = told.kv.put(put).await;
    said(told, answer);
}

async fn get(told: &mut Told, key: &str, end: &str) {
    let answer =
        told.kv.range(RangeRequest { key: key.into(), range_end: end.into(), ..RangeRequest::default() }).await;
    said(told, answer);
}

async fn delete(told: &mut Told, key: &str, end: &str) {
    let delete = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
    let answer = told.kv.delete_range(delete).await;
    said(told, answer);
}

fn said<T>(told: &mut Told, answer: Result<T, tonic::Status>) {
    told.say(answer.map_or_else(|status| format!("{:?}: {}", status.code(), status.message()), |_| "yes".into()));
}

async fn names_and_passwords(told: &mut Told) {
    for (name, password) in
        [("alice", "wonder"), ("alice", "wander"), ("alice", ""), ("bob", "wonder"), ("root", "over")]
    {
        authenticate(told, name, password).await;
    }
}

async fn without_a_token(told: &mut Told) {
    get(told, "/alice/a", "").await;
    put(told, "/alice/a", false).await;
    delete(told, "/alice/a", "").await;
    let answer = told.kv.txn(TxnRequest { success: vec![op(get_op("/alice/a"))], ..TxnRequest::default() }).await;
    said(told, answer);
}

async fn with_a_token_of_nobody(told: &mut Told) {
    for token in ["", "nonsense", "abcdefghijklmnop.12"] {
        told.use_token(token);
        get(told, "/alice/a", "").await;
        put(told, "/alice/a", false).await;
    }
}

async fn alice_and_her_keys(told: &mut Told) {
    become_one(told, "alice", "wonder").await;
    for key in ["/alice/a", "/alice/", "/bob/a", "/alice", "/alicf"] {
        put(told, key, false).await;
        put(told, key, true).await;
        get(told, key, "").await;
        delete(told, key, "").await;
    }
    for (key, end) in
        [("/alice/", "/alice0"), ("/alice/", "/alice1"), ("/", "/z"), ("/alice/b", "/alice/c"), ("/alice/", "\0")]
    {
        get(told, key, end).await;
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn get_op(key: &str) -> Request {
    Request::RequestRange(RangeRequest { key: key.into(), ..RangeRequest::default() })
}

fn put_op(key: &str) -> Request {
    Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() })
}

async fn transactions_of_alice(told: &mut Told) {
    become_one(told, "alice", "wonder").await;
    for [compare, then] in [["/alice/a", "/alice/a"], ["/bob/a", "/alice/a"], ["/alice/a", "/bob/a"]] {
        for request in [get_op(then), put_op(then)] {
            let compare = vec![Compare { key: compare.into(), result: 3, target: 4, ..Compare::default() }];
            // (What the branch that is not taken writes, only etcd asks.)
            let answer = told.kv.txn(TxnRequest { compare, failure: vec![op(request)], ..TxnRequest::default() }).await;
            said(told, answer);
        }
    }
}

async fn watches_of_alice(told: &mut Told) {
    become_one(told, "alice", "wonder").await;
    let mut stream = Stream::open(told);
    for (key, end) in [("/alice/a", ""), ("/bob/a", ""), ("/alice/", "/alice0"), ("/", "/z")] {
        let create = WatchCreateRequest { key: key.into(), range_end: end.into(), ..WatchCreateRequest::default() };
        stream.send(registry::api::etcdserverpb::watch_request::RequestUnion::CreateRequest(create)).await;
        let answer = stream.next().await;
        told.say(format!("{} {} {} {}", answer.created, answer.canceled, answer.watch_id, answer.cancel_reason));
    }
}

async fn root_may_everything(told: &mut Told) {
    become_one(told, "root", "over").await;
    for key in ["/alice/a", "/bob/a"] {
        put(told, key, true).await;
        get(told, key, "").await;
        delete(told, key, "").await;
    }
    get(told, "/", "\0").await;
}

async fn etcdctl_with_a_user(told: &mut Told) {
    for line in [
        "--user alice:wonder put /alice/x 1",
        "--user alice:wonder get /alice/ --prefix",
        "--user alice:wonder put /bob/x 1",
        "--user alice:wander get /alice/x",
        "--user root:over del /alice/x",
        "get /alice/x",
    ] {
        let done = etcdctl(&told.endpoint).args(line.split(' ')).output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        let err: Vec<&str> = err.lines().filter(|line| !line.starts_with('{')).collect();
        told.say(format!("{line}: {:?} {:?} {err:?}", done.status.code(), String::from_utf8_lossy(&done.stdout)));
    }
}
