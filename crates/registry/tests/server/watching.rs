//! Watches under load, and where etcd 3.4's are wrong.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use registry::api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, WatchCreateRequest, WatchProgressRequest,
    WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::host::{Client, Host, Nodes, end, run};

pub(crate) struct Watch {
    pub(crate) requests: mpsc::Sender<WatchRequest>,
    pub(crate) answers: Streaming<WatchResponse>,
}

impl Watch {
    pub(crate) async fn of(client: &Client, create: WatchCreateRequest) -> Self {
        let (requests, stream) = mpsc::channel(4);
        requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await.unwrap();
        let answers = client.watch.clone().watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let mut watch = Self { requests, answers };
        assert!(watch.next().await.created);
        watch
    }

    pub(crate) async fn next(&mut self) -> WatchResponse {
        tokio::time::timeout(Duration::from_secs(30), self.answers.message())
            .await
            .expect("nothing comes")
            .unwrap()
            .unwrap()
    }
}

pub(crate) fn all(prefix: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: prefix.into(), range_end: end(prefix), ..WatchCreateRequest::default() }
}

/// Writes so many values, from several clients at once.
async fn write(host: &Host, count: i64) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let client = host.client().await;
        writers.spawn(async move {
            for number in 0..count / 20 {
                client.put(&format!("/{writer}"), &number.to_string()).await.unwrap();
            }
        });
    }
    writers.join_all().await;
}

async fn compact_all_the_time(client: Client) {
    let mut every = tokio::time::interval(Duration::from_millis(200));
    loop {
        every.tick().await;
        let revision = client.list("/").await.unwrap().header.unwrap().revision;
        // Refused where nothing has come since.
        let _ = client.kv.clone().compact(CompactionRequest { revision, physical: true }).await;
    }
}

#[test]
fn ten_thousand_events_come_in_order_and_once_while_history_is_compacted() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        let mut watch = Watch::of(&client, all("/")).await;
        let compacting = tokio::spawn(compact_all_the_time(host.client().await));
        let hearing = async {
            let mut revisions = Vec::new();
            while revisions.len() < 10_000 {
                let answer = watch.next().await;
                assert!(!answer.canceled, "{answer:?}");
                revisions.extend(answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
            }
            revisions
        };
        let (revisions, ()) = tokio::join!(hearing, write(&host, 10_000));
        compacting.abort();
        assert_eq!(revisions, (2..10_002).collect::<Vec<_>>());
    });
}

#[test]
fn a_client_that_does_not_listen_costs_nothing_and_hears_everything_afterwards() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        let mut slow = Watch::of(&client, all("/")).await;
        let value = "x".repeat(10_000);
        for round in 0..20 {
            let mut puts = tokio::task::JoinSet::new();
            for number in 0..100 {
                let (client, value) = (host.client().await, format!("{round} {value}"));
                puts.spawn(async move { client.put(&format!("/{number}"), &value).await.unwrap() });
            }
            puts.join_all().await;
        }
        // 20 MB, of which neither the connection nor the memory of the registry held more than a part.
        let mut revisions = Vec::new();
        while revisions.len() < 2000 {
            let answer = slow.next().await;
            assert!(!answer.canceled, "{answer:?}");
            revisions.extend(answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
        }
        assert_eq!(revisions, (2..2002).collect::<Vec<_>>());
    });
}

#[test]
fn a_client_that_does_not_listen_while_history_goes_is_told_so() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        let mut slow = Watch::of(&client, all("/")).await;
        let value = "x".repeat(100_000);
        for number in 0..300 {
            client.put(&format!("/{}", number % 10), &value).await.unwrap();
        }
        let compacted = host.client().await.kv.compact(CompactionRequest { revision: 301, physical: true }).await;
        compacted.unwrap();
        let mut next = 2;
        loop {
            let answer = slow.next().await;
            for event in &answer.events {
                assert_eq!(event.kv.as_ref().unwrap().mod_revision, next);
                next += 1;
            }
            if answer.canceled {
                assert_eq!(answer.compact_revision, 301);
                break;
            }
        }
        assert!(next < 301, "it was never behind");
    });
}

#[test]
fn a_deletion_in_the_compacted_revision_is_still_told() {
    let host = Host::open();
    run(async {
        let mut client = host.client().await;
        client.put("/a", "1").await.unwrap();
        client
            .kv
            .delete_range(DeleteRangeRequest { key: b"/a".to_vec(), ..DeleteRangeRequest::default() })
            .await
            .unwrap();
        client.put("/b", "1").await.unwrap();
        client.kv.compact(CompactionRequest { revision: 3, physical: true }).await.unwrap();
        // By the file, as after a restart, and not only by what memory still has.
        let host = host.again(Arc::new(crate::host::Open));
        let client = host.client().await;
        let mut watch = Watch::of(&client, WatchCreateRequest { start_revision: 3, ..all("/") }).await;
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let events = watch.next().await.events;
            heard.extend(events.iter().map(|event| (event.r#type, event.kv.as_ref().unwrap().mod_revision)));
        }
        assert_eq!(heard, [(1, 3), (0, 4)]);
    });
}

#[test]
fn progress_is_never_told_before_the_events() {
    let host = Host::open();
    run(async {
        let client = host.client().await;
        for number in 0..2000 {
            if number % 500 == 0 {
                tokio::task::yield_now().await;
            }
            client.put(&format!("/{}", number % 7), "value").await.unwrap();
        }
        let mut watch = Watch::of(&client, WatchCreateRequest { start_revision: 2, ..all("/") }).await;
        let ask = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) };
        watch.requests.send(ask).await.unwrap();
        let (mut events, mut progress) = (0, None);
        while progress.is_none() {
            let answer = watch.next().await;
            events += answer.events.len();
            if answer.events.is_empty() {
                progress = Some((answer.watch_id, answer.header.unwrap().revision));
            }
        }
        assert_eq!((events, progress), (2000, Some((-1, 2001))));
    });
}

/// How many join at once; `ADIT_NODES` has another number.
const NODES: i64 = 200;

#[test]
fn nodes_that_join_at_once_all_hear_of_each_other() {
    let count = std::env::var("ADIT_NODES").map_or(NODES, |count| count.parse().unwrap());
    let host = Host::start(Arc::new(Nodes::default()), None, |routes| routes);
    let at = host.at;
    run(async {
        let begin = Instant::now();
        let mut nodes = tokio::task::JoinSet::new();
        for number in 0..count {
            nodes.spawn(async move {
                let name = format!("node-{number}");
                let client = Client::to(at, Some((&name, "pw"))).await;
                let mut heard = client.list("/net/").await.unwrap().header.unwrap().revision;
                let create = WatchCreateRequest { start_revision: heard + 1, ..all("/net/") };
                let mut watch = Watch::of(&client, create).await;
                let lease = client.lease.clone().lease_grant(LeaseGrantRequest { id: 0, ttl: 600 }).await.unwrap();
                // As long as a record is.
                let (value, lease) = (format!("{name:700}").into_bytes(), lease.into_inner().id);
                let put = PutRequest { key: format!("/net/{number}").into(), value, lease, ..PutRequest::default() };
                client.kv.clone().put(put).await.unwrap();
                while heard < count + 1 {
                    for event in watch.next().await.events {
                        heard += 1;
                        assert_eq!(event.kv.unwrap().mod_revision, heard);
                    }
                }
            });
        }
        nodes.join_all().await;
        println!("{count} nodes after {:?}", begin.elapsed());
    });
}
