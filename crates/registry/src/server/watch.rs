//! Watches: each stream of a client is one task, which owns nothing but the revision that each of its watches wants next.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    refusal::Refusal,
    service::Service,
    sessions::Member,
    store::{Changes, Revision},
    txn,
};
use crate::api::{
    etcdserverpb::{
        WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType, watch_request::RequestUnion,
        watch_server::Watch,
    },
    mvccpb::{Event, event::EventType},
};

/// Watches of one stream, and streams in all.
const WATCHES: usize = 64;
pub(super) const STREAMS: usize = 8192;

/// Answers that wait for a client to take them. When they are full, the stream waits, and its watches fall behind: the store still has what they
/// want, or tells them that it is compacted.
const ANSWERS: usize = 1;

/// Bytes of events of one answer, after which no further revision is added. A thousand streams may have two such in memory, each.
const ANSWER: usize = 64 * 1024;

/// How long a watch that asked for it is without news, until it hears which revision it has reached. (etcd: ten minutes.)
const PROGRESS: Duration = Duration::from_secs(60);

/// A watch of everything on a stream, in answers to a progress request.
const ALL: i64 = -1;

/// Serves watches.
#[derive(Clone)]
pub(super) struct Watches {
    pub(super) service: Service,
    pub(super) streams: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Watch for Watches {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let member = Member::of(&request)?;
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Refusal::TooManyRequests)?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        let session = Session {
            service: self.service.clone(),
            member,
            answers,
            watches: BTreeMap::new(),
            next_id: 0,
            _place: place,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Session {
    service: Service,
    member: Member,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    watches: BTreeMap<i64, One>,
    next_id: i64,
    _place: OwnedSemaphorePermit,
}

/// One watch.
struct One {
    key: Vec<u8>,
    end: Vec<u8>,
    /// The first revision that it has not heard of.
    next: i64,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    progress: bool,
    heard: Instant,
}

/// The client is gone, or will not be served any more.
struct Over(Option<Status>);

impl From<Refusal> for Over {
    fn from(refusal: Refusal) -> Self {
        Self(Some(refusal.into()))
    }
}

impl Session {
    async fn run(mut self, requests: Streaming<WatchRequest>) {
        let (ended, stop, answers) = (self.member.ended(), self.service.stop.clone(), self.answers.clone());
        let over = tokio::select! {
            over = self.serve(requests) => over,
            () = ended.cancelled() => Refusal::InvalidToken.into(),
            () = stop.cancelled() => Refusal::Stopped.into(),
        };
        if let Over(Some(status)) = over {
            // It may take its time to hear this; what it must not get is more events.
            let _ = tokio::time::timeout(PROGRESS, answers.send(Err(status))).await;
        }
    }

    async fn serve(&mut self, mut requests: Streaming<WatchRequest>) -> Over {
        let mut revisions = self.service.store.revisions();
        let mut progress = tokio::time::interval(PROGRESS);
        loop {
            let served = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request).await,
                    _ => return Over(None),
                },
                changed = revisions.changed() => match changed {
                    Ok(()) => self.bring_up_to_date().await,
                    Err(_) => Err(Refusal::Stopped.into()),
                },
                _ = progress.tick() => self.tell_progress().await,
            };
            if let Err(over) = served {
                return over;
            }
        }
    }

    async fn take(&mut self, request: WatchRequest) -> Result<(), Over> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                self.create(create).await?;
                self.bring_up_to_date().await
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                if self.watches.remove(&cancel.watch_id).is_none() {
                    return Ok(());
                }
                self.send(WatchResponse { watch_id: cancel.watch_id, canceled: true, ..WatchResponse::default() }).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                // Only what all watches have heard counts as progress. (etcd 3.4 may say a revision before its events came.)
                self.bring_up_to_date().await?;
                let reached = self.watches.values().map(|watch| watch.next - 1).min();
                let reached =
                    reached.map_or(self.service.store.revision(), |reached| reached.min(self.service.store.revision()));
                self.send_at(reached, WatchResponse { watch_id: ALL, ..WatchResponse::default() }).await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: WatchCreateRequest) -> Result<(), Over> {
        let now = self.service.store.revision();
        let (key, end) = normal(&create);
        let refusal = if self.member.mandate.may_read(&key, &end).is_err() {
            // etcd 3.4's words, which its clients know an error by.
            Some(format!("rpc error: code = PermissionDenied desc = {}", Refusal::Denied(String::new())))
        } else if end != [0] && !end.is_empty() && end <= key {
            Some("mvcc: watcher range is empty".into())
        } else if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream".into())
        } else if self.watches.len() >= WATCHES {
            Some(Refusal::TooManyRequests.to_string())
        } else {
            None
        };
        if let Some(cancel_reason) = refusal {
            let refused = WatchResponse {
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason,
                ..WatchResponse::default()
            };
            return self.send(refused).await;
        }
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let next = if create.start_revision > 0 { create.start_revision } else { now + 1 };
        self.send_at(now, WatchResponse { watch_id: id, created: true, ..WatchResponse::default() }).await?;
        let compacted = self.service.store.compacted();
        if next < compacted {
            return self.compacted(id, compacted).await;
        }
        let filters: Vec<FilterType> = create.filters().collect();
        let watch = One {
            key,
            end,
            next,
            puts: !filters.contains(&FilterType::Noput),
            deletes: !filters.contains(&FilterType::Nodelete),
            prev_kv: create.prev_kv,
            progress: create.progress_notify,
            heard: Instant::now(),
        };
        self.watches.insert(id, watch);
        Ok(())
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn bring_up_to_date(&mut self) -> Result<(), Over> {
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            self.bring(id).await?;
        }
        Ok(())
    }

    /// Tells one watch all that it has not heard of.
    async fn bring(&mut self, id: i64) -> Result<(), Over> {
        loop {
            let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
            if watch.next > self.service.store.revision() {
                return Ok(());
            }
            let revisions = match self.service.store.changes(watch.next).await? {
                Changes::Next(revisions) => revisions,
                Changes::Compacted(compacted) => {
                    self.watches.remove(&id);
                    return self.compacted(id, compacted).await;
                }
            };
            if revisions.is_empty() {
                return Ok(());
            }
            for answer in watch.answers(&revisions) {
                self.send_at(answer.0, WatchResponse { watch_id: id, events: answer.1, ..WatchResponse::default() })
                    .await?;
            }
        }
    }

    async fn tell_progress(&mut self) -> Result<(), Over> {
        self.bring_up_to_date().await?;
        let now = Instant::now();
        let due: Vec<(i64, i64)> = (self.watches.iter_mut())
            .filter(|(_, watch)| watch.progress && now.duration_since(watch.heard) >= PROGRESS / 2)
            .map(|(id, watch)| (*id, watch.next - 1))
            .collect();
        for (id, reached) in due {
            let reached = reached.min(self.service.store.revision());
            self.send_at(reached, WatchResponse { watch_id: id, ..WatchResponse::default() }).await?;
        }
        Ok(())
    }

    async fn compacted(&mut self, id: i64, compact_revision: i64) -> Result<(), Over> {
        // etcd's header has no revision here.
        self.send_at(0, WatchResponse { watch_id: id, canceled: true, compact_revision, ..WatchResponse::default() })
            .await
    }

    async fn send(&self, answer: WatchResponse) -> Result<(), Over> {
        self.send_at(self.service.store.revision(), answer).await
    }

    async fn send_at(&self, revision: i64, mut answer: WatchResponse) -> Result<(), Over> {
        answer.header = Some(self.service.header(revision));
        self.answers.send(Ok(answer)).await.map_err(|_| Over(None))
    }
}

impl One {
    /// What these revisions have for this watch, in answers of a size that clients take, each with the revision up to which it tells everything.
    fn answers(&mut self, revisions: &[Arc<Revision>]) -> Vec<(i64, Vec<Event>)> {
        let mut answers = Vec::new();
        let (mut events, mut bytes) = (Vec::new(), 0);
        for revision in revisions {
            self.next = revision.revision + 1;
            for event in revision.events.iter().filter_map(|event| self.wants(event)) {
                bytes += event.encoded_len();
                events.push(event);
            }
            if bytes >= ANSWER {
                answers.push((revision.revision, std::mem::take(&mut events)));
                bytes = 0;
            }
        }
        if !events.is_empty() {
            answers.push((self.next - 1, events));
        }
        if !answers.is_empty() {
            self.heard = Instant::now();
        }
        answers
    }

    fn wants(&self, event: &Event) -> Option<Event> {
        let kv = event.kv.as_ref()?;
        let kind = if event.r#type() == EventType::Put { self.puts } else { self.deletes };
        (kind && txn::within(&kv.key, &self.key, &self.end)).then(|| Event {
            r#type: event.r#type,
            kv: Some(kv.clone()),
            prev_kv: if self.prev_kv { event.prev_kv.clone() } else { None },
        })
    }
}

/// The range of a watch, whose empty key stands for the first one there could be.
fn normal(create: &WatchCreateRequest) -> (Vec<u8>, Vec<u8>) {
    let key = if create.key.is_empty() { vec![0] } else { create.key.clone() };
    (key, create.range_end.clone())
}
