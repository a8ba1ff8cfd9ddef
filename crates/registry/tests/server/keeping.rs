//! What is kept: over a restart, over a kill, and under load.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::ReadableDatabase;
use registry::{
    api::etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseTimeToLiveRequest,
        PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
    },
    server::{Store, StoreError},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::host::{Client, Host, Open, Process, end, file, run};

#[test]
fn a_restart_keeps_keys_history_revisions_and_leases() {
    let host = Host::open();
    let before = run(async {
        let mut client = host.client().await;
        client.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 100 }).await.unwrap();
        for number in 0..5 {
            client.put("/a", &number.to_string()).await.unwrap();
        }
        let leased = PutRequest { key: b"/leased".to_vec(), lease: 7, ..PutRequest::default() };
        client.kv.put(leased).await.unwrap();
        client
            .kv
            .delete_range(DeleteRangeRequest { key: b"/a".to_vec(), ..DeleteRangeRequest::default() })
            .await
            .unwrap();
        client.kv.compact(CompactionRequest { revision: 3, physical: true }).await.unwrap();
        client.list("/").await.unwrap()
    });
    let host = host.again(Arc::new(Open));
    run(async {
        let mut client = host.client().await;
        let after = client.list("/").await.unwrap();
        assert_eq!(before, after);
        assert_eq!(after.header.unwrap().revision, 8);
        let past = RangeRequest { key: b"/a".to_vec(), revision: 5, ..RangeRequest::default() };
        assert_eq!(client.kv.range(past.clone()).await.unwrap().into_inner().kvs[0].value, b"3");
        let compacted = client.kv.range(RangeRequest { revision: 2, ..past }).await.unwrap_err();
        assert_eq!(compacted.message(), "etcdserver: mvcc: required revision has been compacted");
        let left =
            client.lease.lease_time_to_live(LeaseTimeToLiveRequest { id: 7, keys: true }).await.unwrap().into_inner();
        assert!(left.ttl >= 98 && left.granted_ttl == 100, "{left:?}");
        assert_eq!(left.keys, [b"/leased".to_vec()]);
        assert_eq!(client.put("/a", "new").await.unwrap(), 9);
        assert_eq!(client.list("/a").await.unwrap().kvs[0].version, 1);
    });
}

#[test]
fn a_lease_that_was_kept_alive_ends_when_nobody_does_any_more() {
    let host = Host::open();
    run(async {
        let mut client = host.client().await;
        client.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 1 }).await.unwrap();
        client.kv.put(PutRequest { key: b"/a".to_vec(), lease: 7, ..PutRequest::default() }).await.unwrap();
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        let mut answers = client.lease.lease_keep_alive(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(2500) {
            requests.send(LeaseKeepAliveRequest { id: 7 }).await.unwrap();
            assert_eq!(answers.message().await.unwrap().unwrap().ttl, 1);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(client.list("/").await.unwrap().count, 1);
        let last = Instant::now();
        crate::host::until("the key goes with its lease", Duration::from_secs(3), || async {
            client.list("/").await.unwrap().count == 0
        })
        .await;
        assert!(last.elapsed() > Duration::from_millis(700));
        requests.send(LeaseKeepAliveRequest { id: 7 }).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().ttl, 0);
    });
}

#[test]
fn a_thousand_puts_at_once_share_their_syncs() {
    let host = Host::open();
    run(async {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(host.client().await);
        }
        let begin = Instant::now();
        let mut puts = tokio::task::JoinSet::new();
        for number in 0..1000 {
            let client: &Client = &clients[number % clients.len()];
            let client = client.clone();
            puts.spawn(async move { client.put(&format!("/{number}"), "value").await.unwrap() });
        }
        let mut revisions = puts.join_all().await;
        let took = begin.elapsed();
        revisions.sort_unstable();
        assert_eq!(revisions, (2..1002).collect::<Vec<_>>());
        assert_eq!(client_count(&host).await, 1000);
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

async fn client_count(host: &Host) -> i64 {
    host.client().await.list("/").await.unwrap().count
}

/// The other half of the test after it, in a process of its own: serves until it is killed. Otherwise it does nothing.
#[test]
fn serving_until_it_is_killed() {
    let Some(directory) = std::env::var_os("REGISTRY_UNTIL_KILLED") else { return };
    let directory = Path::new(&directory);
    let store = Arc::new(Store::open(file(directory), 4 << 20).unwrap());
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("\nat {}", listener.local_addr().unwrap());
        let stop = tokio_util::sync::CancellationToken::new();
        registry::server::serve(listener, None, Some(store), Arc::new(Open), |routes| routes, stop).await.unwrap();
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut process = Process::start(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "keeping::serving_until_it_is_killed", "--nocapture"])
                .env("REGISTRY_UNTIL_KILLED", directory.path())
                .stdout(Stdio::piped()),
        );
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let at = loop {
            let line = lines.next().expect("the registry did not start").unwrap();
            if let Some(at) = line.strip_prefix("at ") {
                break at.parse().unwrap();
            }
        };
        run(async {
            let client = Client::to(at, None).await;
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..8 {
                let client = client.clone();
                writers.spawn(async move {
                    let mut done = Vec::new();
                    for number in 0.. {
                        let key = format!("/{round}/{writer}/{number}");
                        let Ok(revision) = client.put(&key, "value").await else { break };
                        done.push((key, revision));
                    }
                    done
                });
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            process.kill();
            acknowledged.extend(writers.join_all().await.into_iter().flatten());
        });
    }
    assert!(acknowledged.len() > 100, "{} writes", acknowledged.len());
    let host = Host::start_in(Arc::new(directory), Arc::new(Open), None, |routes| routes);
    run(async {
        let there = host.client().await.list("/").await.unwrap();
        let revisions: std::collections::HashMap<_, _> =
            there.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        for (key, revision) in &acknowledged {
            assert_eq!(revisions.get(key.as_bytes()), Some(revision), "{key}");
        }
    });
}

#[test]
fn history_is_bounded_without_anybody_compacting() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..40 {
            let client = client.clone();
            writers.spawn(async move {
                for number in 0..260 {
                    client.put(&format!("/{writer}"), &number.to_string()).await.unwrap();
                }
            });
        }
        writers.join_all().await;
        let past = |revision| RangeRequest { key: b"/0".to_vec(), revision, ..RangeRequest::default() };
        assert!(client.kv.clone().range(past(2)).await.is_err());
        assert!(client.kv.clone().range(past(10_401 - 9_000)).await.is_ok());
        assert_eq!(client.list("/").await.unwrap().count, 40);
    });
}

#[test]
fn a_nested_transaction_may_not_delete_what_another_has_put() {
    let host = Host::open();
    run(async {
        let mut client = host.client().await;
        let nested = |request| {
            let success = vec![RequestOp { request: Some(request) }];
            RequestOp { request: Some(Request::RequestTxn(TxnRequest { success, ..TxnRequest::default() })) }
        };
        let put = Request::RequestPut(PutRequest { key: b"/a".to_vec(), ..PutRequest::default() });
        let delete = DeleteRangeRequest { key: b"/".to_vec(), range_end: end("/"), prev_kv: false };
        let success = vec![nested(put), nested(Request::RequestDeleteRange(delete))];
        let refused = client.kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: duplicate key given in txn request");
    });
}

#[test]
fn a_file_that_is_none_of_ours_is_refused_by_name_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path());
    let refuse = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(&path, 1 << 20).err().expect("it opens");
        assert!(error.to_string().contains("registry.redb"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{error}");
        error
    };
    assert!(matches!(refuse(b"[network]\n"), StoreError::Foreign { .. }));
    assert!(matches!(refuse(&[0x5a; 100_000]), StoreError::Foreign { .. }));

    let other = directory.path().join("other.redb");
    let database = redb::Database::create(&other).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(redb::TableDefinition::<u64, u64>::new("ages")).unwrap().insert(1, 2).unwrap();
    writing.commit().unwrap();
    assert!(database.begin_read().is_ok());
    drop(database);
    let error = Store::open(&other, 1 << 20).err().unwrap();
    assert!(matches!(&error, StoreError::Foreign { reason, .. } if reason.contains("ages")), "{error}");
    assert!(matches!(Store::open(directory.path(), 1 << 20), Err(StoreError::Io { .. })));
}

#[test]
fn a_damaged_file_is_refused_by_name() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        for number in 0..300 {
            client.put(&format!("/{number}"), &"x".repeat(200)).await.unwrap();
        }
    });
    let directory = Arc::clone(&host.directory);
    drop(host);
    let path = file(directory.path());
    let whole = std::fs::read(&path).unwrap();
    // Wherever values lie, something of each page is changed.
    let mut damaged = whole;
    for at in 0..damaged.len() - 4 {
        if damaged[at..at + 4] == *b"xxxx" {
            damaged[at] = b'y';
        }
    }
    std::fs::write(&path, &damaged).unwrap();
    let error = Store::open(&path, 1 << 20).err().expect("it opens");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("registry.redb"), "{error}");
}

#[test]
fn a_file_has_one_user_and_one_reader_on_the_host() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::open();
    let path = file(host.directory.path());
    assert!(matches!(Store::open(&path, 1 << 20), Err(StoreError::Busy(busy)) if busy == path));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
