//! Who may what, and what happens to those who may not any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use registry::api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RequestOp, TxnRequest, request_op::Request,
};
use registry::client::{self, ClientError, Update};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    host::{Client, Host, Nodes, authenticate, end, run, until},
    watching::{Watch, all},
};

async fn node(host: &Host, number: u32) -> Client {
    Client::to(host.at, Some((&format!("node-{number}"), "pw"))).await
}

async fn root(host: &Host) -> Client {
    Client::to(host.at, Some(("root", "pw"))).await
}

fn nodes() -> (Host, Arc<Nodes>) {
    let policy = Arc::new(Nodes::default());
    (Host::start(policy.clone(), None, |routes| routes), policy)
}

fn denied<T>(answer: Result<T, tonic::Status>, reason: &str) {
    let status = answer.err().expect("it was permitted");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, format!("etcdserver: permission denied{reason}").as_str())
    );
}

#[test]
fn a_node_writes_what_is_free_or_its_own_in_whatever_form_it_asks() {
    let (host, _policy) = nodes();
    run(async {
        let (one, two) = (node(&host, 1).await, node(&host, 2).await);
        one.put("/net/a", "node-1").await.unwrap();
        one.put("/net/a", "node-1").await.unwrap();
        two.put("/net/b", "node-2").await.unwrap();
        denied(two.put("/net/a", "node-2").await, ": held by another node");
        denied(two.put("/other", "node-2").await, ": outside of the network");
        let delete = |key: &str, range_end| DeleteRangeRequest { key: key.into(), range_end, prev_kv: false };
        denied(two.kv.clone().delete_range(delete("/net/a", Vec::new())).await, ": held by another node");
        denied(two.kv.clone().delete_range(delete("/net/", end("/net/"))).await, ": held by another node");
        let op = |request| RequestOp { request: Some(request) };
        let own = op(Request::RequestPut(PutRequest {
            key: b"/net/c".to_vec(),
            value: b"node-2".to_vec(),
            ..Default::default()
        }));
        let foreign = op(Request::RequestDeleteRange(delete("/net/a", Vec::new())));
        let txn = TxnRequest { success: vec![own.clone(), foreign], ..TxnRequest::default() };
        denied(two.kv.clone().txn(txn.clone()).await, ": held by another node");
        let nested = TxnRequest { success: vec![own, op(Request::RequestTxn(txn))], ..TxnRequest::default() };
        // Refused before anybody is asked: it puts one key twice.
        assert_eq!(two.kv.clone().txn(nested).await.unwrap_err().code(), Code::InvalidArgument);
        let there = one.list("/net/").await.unwrap();
        let there: Vec<_> = there.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        assert_eq!(there, ["/net/a", "/net/b"], "a transaction that was refused has done nothing");
        two.kv.clone().delete_range(delete("/net/b", Vec::new())).await.unwrap();
    });
}

#[test]
fn a_node_reads_nothing_outside_of_its_network_in_whatever_form_it_asks() {
    let (host, _policy) = nodes();
    run(async {
        root(&host).await.put("/secret", "s").await.unwrap();
        let mut one = node(&host, 1).await;
        denied(one.list("/").await, "");
        denied(one.list("/secret").await, "");
        let compare = registry::api::etcdserverpb::Compare { key: b"/secret".to_vec(), ..Default::default() };
        denied(one.kv.txn(TxnRequest { compare: vec![compare], ..TxnRequest::default() }).await, "");
        let get = registry::api::etcdserverpb::RangeRequest { key: b"/secret".to_vec(), ..Default::default() };
        let get = RequestOp { request: Some(Request::RequestRange(get)) };
        denied(one.kv.txn(TxnRequest { success: vec![get], ..TxnRequest::default() }).await, "");
        denied(one.kv.put(PutRequest { key: b"/secret".to_vec(), prev_kv: true, ..Default::default() }).await, "");
        let everything = DeleteRangeRequest { key: b"/".to_vec(), range_end: vec![0], prev_kv: true };
        denied(one.kv.delete_range(everything).await, "");
    });
}

#[test]
fn compaction_and_others_leases_are_not_for_nodes() {
    let (host, _policy) = nodes();
    run(async {
        let (mut one, mut two) = (node(&host, 1).await, node(&host, 2).await);
        one.put("/net/a", "node-1").await.unwrap();
        denied(one.kv.compact(CompactionRequest { revision: 2, physical: false }).await, "");
        one.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 60 }).await.unwrap();
        let put = PutRequest { key: b"/net/a".to_vec(), value: b"node-1".to_vec(), lease: 7, ..PutRequest::default() };
        one.kv.put(put).await.unwrap();
        denied(two.lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await, ": the lease is somebody else's");
        let keep = |client: &Client| {
            let mut lease = client.lease.clone();
            async move {
                let once = tokio_stream::iter([LeaseKeepAliveRequest { id: 7 }]);
                lease.lease_keep_alive(once).await?.into_inner().message().await
            }
        };
        denied(keep(&two).await, ": the lease is somebody else's");
        // Nor may one lend it a key, with which its owner could not end it any more.
        let lent = PutRequest { key: b"/net/b".to_vec(), value: b"node-2".to_vec(), lease: 7, ..PutRequest::default() };
        denied(two.kv.put(lent).await, ": the lease is somebody else's");
        assert_eq!(keep(&one).await.unwrap().unwrap().ttl, 60);
        assert_eq!(keep(&root(&host).await).await.unwrap().unwrap().ttl, 60);
        // A key of root's is bound to the node's lease: only root may let it go.
        let foreign =
            PutRequest { key: b"/net/r".to_vec(), value: b"root".to_vec(), lease: 7, ..PutRequest::default() };
        root(&host).await.kv.put(foreign).await.unwrap();
        denied(one.lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await, ": held by another node");
        root(&host).await.lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();
        assert_eq!(one.list("/net/").await.unwrap().count, 0);
    });
}

#[test]
fn a_node_that_forgets_its_leases_gets_new_ones_and_others_keep_theirs() {
    let (host, _policy) = nodes();
    run(async {
        let (mut one, mut two) = (node(&host, 1).await, node(&host, 2).await);
        two.lease.lease_grant(LeaseGrantRequest { id: 5, ttl: 3600 }).await.unwrap();
        one.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 3600 }).await.unwrap();
        one.kv.put(PutRequest { key: b"/net/a".to_vec(), lease: 7, ..PutRequest::default() }).await.unwrap();
        for _ in 0..100 {
            one.lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 3600 }).await.unwrap();
        }
        let leases = root(&host).await.lease.lease_leases(registry::api::etcdserverpb::LeaseLeasesRequest {}).await;
        let leases: Vec<i64> = leases.unwrap().into_inner().leases.iter().map(|lease| lease.id).collect();
        assert!(leases.contains(&5) && leases.contains(&7) && leases.len() == 33, "{leases:?}");
    });
}

#[test]
fn values_of_nodes_are_small() {
    let (host, _policy) = nodes();
    run(async {
        let one = node(&host, 1).await;
        let refused = one.put("/net/a", &"x".repeat(16 * 1024 + 1)).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
        one.put("/net/a", &"x".repeat(16 * 1024)).await.unwrap();
        let root = root(&host).await;
        root.put("/net/b", &"x".repeat(1024 * 1024)).await.unwrap();
        assert!(root.put("/net/b", &"x".repeat(1024 * 1024 + 1)).await.is_err());
    });
}

/// The proof that comes with a refusal.
fn farewell(refusal: &Status) -> Option<Vec<u8>> {
    Some(refusal.metadata().get_bin("adit-farewell-bin")?.to_bytes().unwrap().to_vec())
}

#[test]
fn a_removed_node_has_no_token_no_watch_and_no_way_back() {
    let (host, policy) = nodes();
    run(async {
        let (one, two) = (node(&host, 1).await, node(&host, 2).await);
        let (mut watch, mut other) = (Watch::of(&one, all("/net/")).await, Watch::of(&two, all("/net/")).await);
        one.put("/net/a", "node-1").await.unwrap();
        assert_eq!((watch.next().await.events.len(), other.next().await.events.len()), (1, 1));
        policy.removed.lock().unwrap().insert("node-1".into());
        let begin = Instant::now();
        let status = watch.answers.message().await.unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
        assert_eq!(one.list("/net/").await.unwrap_err().code(), Code::Unauthenticated);
        let channel = Channel::from_shared(format!("http://{}", host.at)).unwrap().connect().await.unwrap();
        let refused = authenticate(&channel, "node-1", "pw").await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: authentication failed, invalid user ID or password");
        assert_eq!(farewell(&refused).as_deref(), Some(b"node-1 is out".as_slice()));
        let wrong = authenticate(&channel, "node-2", "wrong").await.unwrap_err();
        assert_eq!((wrong.message(), farewell(&wrong)), (refused.message(), None));
        two.put("/net/b", "node-2").await.unwrap();
        assert_eq!(other.next().await.events.len(), 1);
        // The token is void for good, also if the node is taken in again.
        policy.removed.lock().unwrap().clear();
        assert_eq!(one.list("/net/").await.unwrap_err().code(), Code::Unauthenticated);
        node(&host, 1).await.list("/net/").await.unwrap();
    });
}

#[test]
fn our_client_is_told_why_it_is_refused() {
    let (host, policy) = nodes();
    run(async {
        let user = Some(("node-1".into(), "pw".to_owned().into()));
        let options = client::Options { endpoints: vec![format!("http://{}", host.at)], user, ..Default::default() };
        let client = client::Client::new(options).unwrap();
        let mut watcher = client::Watcher::new(client.clone(), "/net/".into(), Duration::from_secs(60));
        assert!(matches!(watcher.next().await, Update::Listing(_)));
        policy.removed.lock().unwrap().insert("node-1".into());
        let ClientError::Unauthenticated { farewell, .. } = client.list("/net/").await.unwrap_err() else {
            panic!("it is refused for who it is");
        };
        assert_eq!(farewell.as_deref(), Some(b"node-1 is out".as_slice()));
        let lost = timeout(Duration::from_secs(20), watcher.next()).await.expect("the outage is said");
        let Update::Lost { is_stranger, farewell, .. } = lost else { panic!("{lost:?}") };
        assert_eq!((is_stranger, farewell.as_deref()), (true, Some(b"node-1 is out".as_slice())));
    });
}

#[test]
fn a_stream_that_keeps_a_lease_ends_with_its_node() {
    let (host, policy) = nodes();
    run(async {
        let mut one = node(&host, 1).await;
        one.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 60 }).await.unwrap();
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        let mut answers = one.lease.lease_keep_alive(ReceiverStream::new(stream)).await.unwrap().into_inner();
        requests.send(LeaseKeepAliveRequest { id: 7 }).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl, 60);
        policy.removed.lock().unwrap().insert("node-1".into());
        until("the stream ends", Duration::from_secs(1), || {
            let requests = requests.clone();
            async move { requests.is_closed() }
        })
        .await;
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Unauthenticated);
    });
}
