//! Watches.

use std::time::Duration;

use registry::api::{
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RequestOp,
        TxnRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        request_op::Request, watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::told::{Told, cases};

cases![
    one_key,
    a_prefix_from_now_on,
    from_the_past,
    from_the_future,
    previous_values,
    filters,
    several_on_a_stream,
    numbers_of_watches,
    cancelled,
    from_before_the_compaction,
    from_the_compacted_revision_on,
    compacted_under_way,
    all_of_a_transaction,
    empty_and_odd_ranges,
    progress_on_request,
];

type Answers = Result<Response<Streaming<WatchResponse>>, Status>;

/// A stream of watches.
pub(crate) struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    // etcd answers to the call itself only together with its first message.
    call: Option<JoinHandle<Answers>>,
    answers: Option<Streaming<WatchResponse>>,
}

impl Stream {
    pub(crate) fn open(told: &Told) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let mut client = told.watch.clone();
        let call = tokio::spawn(async move { client.watch(ReceiverStream::new(stream)).await });
        Self { requests, call: Some(call), answers: None }
    }

    pub(crate) async fn send(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> WatchResponse {
        let next = async {
            if let Some(call) = self.call.take() {
                self.answers = Some(call.await.unwrap().unwrap().into_inner());
            }
            self.answers.as_mut().unwrap().message().await
        };
        tokio::time::timeout(Duration::from_secs(10), next)
            .await
            .expect("nothing more comes")
            .unwrap()
            .expect("the stream ends")
    }

    /// Creates a watch and writes down what is said to that.
    pub(crate) async fn create(&mut self, told: &mut Told, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create)).await;
        let answer = self.next().await;
        told.tell(answer);
    }

    /// Writes down so many events of a watch: how they are spread over answers is free.
    async fn events(&mut self, told: &mut Told, count: usize) {
        let mut events: Vec<(i64, Event)> = Vec::new();
        while events.len() < count {
            let answer = self.next().await;
            assert!(!answer.created && !answer.canceled, "{answer:?}");
            let reached = answer.header.unwrap().revision;
            assert!(answer.events.iter().all(|event| event.kv.as_ref().unwrap().mod_revision <= reached));
            events.extend(answer.events.into_iter().map(|event| (answer.watch_id, event)));
        }
        // Only of one watch there is an order.
        events.sort_by_key(|(watch, _)| *watch);
        for (watch, event) in events {
            told.say(format!("of {watch}"));
            told.tell(event);
        }
    }
}

fn one(told: &Told, name: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: told.key(name), ..WatchCreateRequest::default() }
}

fn all(told: &Told) -> WatchCreateRequest {
    WatchCreateRequest { key: told.key(""), range_end: told.end(), ..WatchCreateRequest::default() }
}

async fn delete(told: &mut Told, from: &str, end: &str) {
    let range_end = if end.is_empty() { Vec::new() } else { told.key(end) };
    told.kv.delete_range(DeleteRangeRequest { key: told.key(from), range_end, prev_kv: false }).await.unwrap();
}

async fn compact(told: &mut Told, revision: i64) {
    told.kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
}

async fn one_key(told: &mut Told) {
    told.set("a", "0").await;
    let mut stream = Stream::open(told);
    stream.create(told, one(told, "a")).await;
    for (name, value) in [("a", "1"), ("ab", "1"), ("a", "2")] {
        told.set(name, value).await;
    }
    delete(told, "a", "").await;
    delete(told, "a", "").await;
    told.set("a", "3").await;
    stream.events(told, 4).await;
}

async fn a_prefix_from_now_on(told: &mut Told) {
    told.set("a", "0").await;
    let mut stream = Stream::open(told);
    stream.create(told, all(told)).await;
    for name in ["a", "b", "c"] {
        told.set(name, "1").await;
    }
    delete(told, "a", "z").await;
    stream.events(told, 6).await;
}

async fn from_the_past(told: &mut Told) {
    for name in ["a", "b", "a", "c"] {
        told.set(name, "1").await;
    }
    delete(told, "a", "").await;
    let mut stream = Stream::open(told);
    stream.create(told, WatchCreateRequest { start_revision: told.base + 2, ..all(told) }).await;
    told.set("d", "1").await;
    stream.events(told, 5).await;
}

async fn from_the_future(told: &mut Told) {
    let mut stream = Stream::open(told);
    stream.create(told, WatchCreateRequest { start_revision: told.base + 3, ..all(told) }).await;
    for value in ["1", "2", "3", "4"] {
        told.set("a", value).await;
    }
    stream.events(told, 2).await;
}

async fn previous_values(told: &mut Told) {
    for value in ["1", "2"] {
        told.set("a", value).await;
    }
    delete(told, "a", "").await;
    told.set("a", "3").await;
    let mut stream = Stream::open(told);
    stream.create(told, WatchCreateRequest { start_revision: told.base + 1, prev_kv: true, ..all(told) }).await;
    told.set("a", "4").await;
    delete(told, "a", "").await;
    stream.events(told, 6).await;
}

async fn filters(told: &mut Told) {
    let mut stream = Stream::open(told);
    for filters in [vec![0], vec![1], vec![0, 1], vec![]] {
        stream.create(told, WatchCreateRequest { filters, ..all(told) }).await;
    }
    told.set("a", "1").await;
    delete(told, "a", "").await;
    told.set("b", "1").await;
    stream.events(told, 1 + 2 + 3).await;
}

async fn several_on_a_stream(told: &mut Told) {
    let mut stream = Stream::open(told);
    for name in ["a", "b"] {
        stream.create(told, one(told, name)).await;
    }
    stream.create(told, all(told)).await;
    for name in ["a", "b", "c", "a"] {
        told.set(name, "1").await;
    }
    stream.events(told, 3 + 4).await;
}

async fn numbers_of_watches(told: &mut Told) {
    let mut stream = Stream::open(told);
    for watch_id in [0, 7, 1, 0, 0, 7] {
        stream.create(told, WatchCreateRequest { watch_id, ..all(told) }).await;
    }
}

async fn cancelled(told: &mut Told) {
    let mut stream = Stream::open(told);
    stream.create(told, all(told)).await;
    stream.create(told, all(told)).await;
    told.set("a", "1").await;
    stream.events(told, 2).await;
    stream.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    let answer = stream.next().await;
    told.tell(answer);
    stream.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    stream.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 99 })).await;
    told.set("a", "2").await;
    stream.events(told, 1).await;
}

async fn from_before_the_compaction(told: &mut Told) {
    for value in ["1", "2", "3", "4"] {
        told.set("a", value).await;
    }
    compact(told, told.base + 3).await;
    let mut stream = Stream::open(told);
    for start_revision in [told.base + 1, told.base + 2, 1] {
        stream.create(told, WatchCreateRequest { start_revision, ..all(told) }).await;
        let answer = stream.next().await;
        told.tell(answer);
    }
    stream.create(told, all(told)).await;
    told.set("a", "5").await;
    stream.events(told, 1).await;
}

async fn from_the_compacted_revision_on(told: &mut Told) {
    for value in ["1", "2", "3", "4"] {
        told.set("a", value).await;
    }
    compact(told, told.base + 3).await;
    let mut stream = Stream::open(told);
    // Where that revision is a deletion, etcd 3.4 has lost it: asked of ours alone, in tests/server.rs.
    // And what was there before it, which etcd does not know any more, ours may still have.
    stream.create(told, WatchCreateRequest { start_revision: told.base + 3, ..all(told) }).await;
    stream.events(told, 2).await;
}

async fn compacted_under_way(told: &mut Told) {
    let mut stream = Stream::open(told);
    stream.create(told, all(told)).await;
    for value in ["1", "2", "3"] {
        told.set("a", value).await;
    }
    stream.events(told, 3).await;
    compact(told, told.base + 3).await;
    told.set("a", "4").await;
    stream.events(told, 1).await;
}

async fn all_of_a_transaction(told: &mut Told) {
    told.set("x", "0").await;
    let lease = LeaseGrantRequest { ttl: 600, id: 0x2000 };
    told.lease.lease_grant(lease).await.unwrap();
    let mut stream = Stream::open(told);
    stream.create(told, WatchCreateRequest { prev_kv: true, ..all(told) }).await;
    let put = |name: &str| {
        let put = PutRequest { key: told.key(name), value: b"1".to_vec(), lease: 0x2000, ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    let delete = DeleteRangeRequest { key: told.key("x"), ..DeleteRangeRequest::default() };
    let success = vec![put("b"), put("a"), RequestOp { request: Some(Request::RequestDeleteRange(delete)) }, put("c")];
    told.kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap();
    stream.events(told, 4).await;
    told.lease.lease_revoke(LeaseRevokeRequest { id: 0x2000 }).await.unwrap();
    stream.events(told, 3).await;
}

async fn empty_and_odd_ranges(told: &mut Told) {
    let mut stream = Stream::open(told);
    let b = told.key("b");
    for range_end in [told.key("a"), b.clone(), told.key("c"), vec![0]] {
        stream.create(told, WatchCreateRequest { key: b.clone(), range_end, ..WatchCreateRequest::default() }).await;
    }
    stream.create(told, WatchCreateRequest { range_end: vec![0], ..WatchCreateRequest::default() }).await;
    stream.create(told, WatchCreateRequest::default()).await;
    told.set("b", "1").await;
    stream.events(told, 3).await;
    told.set("c", "1").await;
    stream.events(told, 2).await;
}

async fn progress_on_request(told: &mut Told) {
    let mut stream = Stream::open(told);
    stream.create(told, all(told)).await;
    for value in ["1", "2"] {
        told.set("a", value).await;
    }
    // Only when the events are there: etcd 3.4 may tell progress before them.
    stream.events(told, 2).await;
    stream.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let answer = stream.next().await;
    told.tell(answer);
}
