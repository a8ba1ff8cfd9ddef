//! All that changes under a prefix, for ever: through failures of endpoints, compaction, and a registry that was set back.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::order::Order;
use super::{Backoff, Client, ClientError, Event, Listing, Watch, error, jitter};
use crate::api::etcdserverpb::WatchResponse;

/// How many updates may wait for who asks for them. The registry waits with the rest.
const WAITING: usize = 16;
/// How many events may come while a listing is made before they wait for it.
const MEANWHILE: usize = 16_384;

/// The longest pause between tries: a registry that is there again is to be noticed within two seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a watcher tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// All there is: at the start, regularly, and where changes may have been missed. What is not in it is not there.
    Listing(Listing),
    /// Changes, each newer than what was told of its key before.
    Events {
        /// The highest revision seen.
        revision: i64,
        /// In their order.
        events: Vec<Event>,
    },
    /// The registry cannot be followed. It is said once, and once more where a registry that was away is there and does not know us; a
    /// [`Listing`](Self::Listing) may come before [`Back`](Self::Back), when the registry can be read already and not yet be followed.
    Lost {
        /// Why not.
        reason: String,
        /// Whether it answers, and refuses the user or its password.
        is_stranger: bool,
        /// With what proof that we were put out: signed bytes, not yet believed.
        farewell: Option<Vec<u8>>,
    },
    /// It can be followed again. The listing was told.
    Back,
}

/// Follows a prefix. It works in a task of its own, which ends when this is dropped.
pub struct Watcher {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Begins to follow all keys that begin with `prefix`, within a runtime of tokio. Every `relist` all of them are read again,
    /// since a watch may have missed something without knowing.
    #[must_use]
    pub fn new(client: Client, prefix: String, relist: Duration) -> Self {
        let (sender, updates) = mpsc::channel(WAITING);
        let follower = Follower {
            client,
            prefix,
            relist,
            order: Order::default(),
            is_listed: false,
            is_lost: false,
            is_stranger: false,
            failures: 0,
            cluster: None,
            backoff: Backoff::up_to(LONGEST_PAUSE),
            next_listing: Instant::now(),
            sender,
        };
        Self { updates, task: tokio::spawn(follower.run()) }
    }

    /// The next update. It can be dropped and called again without losing one.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // The task ends with this watcher only.
            None => pending().await,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why the task ends.
struct Gone;

/// Why a watch ended.
enum End {
    /// It is to be taken up where it was.
    Cut(String),
    /// All has to be read again.
    Relist,
    /// The registry cannot be read.
    Failed(ClientError),
    Gone(Gone),
}

impl From<Gone> for End {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

type Listed = Pin<Box<dyn Future<Output = Result<Listing, ClientError>> + Send>>;

struct Follower {
    client: Client,
    prefix: String,
    relist: Duration,
    order: Order,
    /// What was told is complete up to `order`, and a watch can go on from there.
    is_listed: bool,
    is_lost: bool,
    /// Whether it was said that the registry does not know us.
    is_stranger: bool,
    /// Since it was last followed.
    failures: u32,
    cluster: Option<u64>,
    backoff: Backoff,
    next_listing: Instant,
    sender: mpsc::Sender<Update>,
}

impl Follower {
    async fn run(mut self) {
        // It fails only when nobody is there to be told.
        while self.round().await.is_ok() {}
    }

    async fn tell(&self, update: Update) -> Result<(), Gone> {
        self.sender.send(update).await.map_err(|_| Gone)
    }

    /// Reads all, if that is needed, and follows until something goes wrong.
    async fn round(&mut self) -> Result<(), Gone> {
        if !self.is_listed {
            match self.client.list(&self.prefix).await {
                Ok(listing) => self.listed(listing, Vec::new()).await?,
                Err(error) => return self.lost(&error).await,
            }
        }
        let watch = match self.client.watch(&self.prefix, self.order.last() + 1).await {
            Ok(watch) => watch,
            Err(ClientError::Compacted) => return self.again().await,
            Err(error) => return self.lost(&error).await,
        };
        let cluster = self.cluster.replace(watch.cluster);
        // A registry behind what was seen was set back, or is one member that is late: a listing tells.
        let is_other = cluster.is_some_and(|cluster| cluster != watch.cluster);
        if watch.compacted || is_other || watch.revision < self.order.last() {
            return self.again().await;
        }
        if std::mem::take(&mut self.is_lost) {
            self.is_stranger = false;
            self.tell(Update::Back).await?;
        }
        self.failures = 0;
        self.backoff.began(Instant::now());
        match self.follow(watch).await {
            End::Cut(reason) => {
                tracing::debug!(reason, "the watch ended");
                self.rest().await;
                Ok(())
            }
            End::Relist => self.again().await,
            End::Failed(error) => self.lost(&error).await,
            End::Gone(gone) => Err(gone),
        }
    }

    async fn follow(&mut self, mut watch: Watch) -> End {
        let mut listing: Option<Listed> = None;
        let mut meanwhile = Vec::new();
        loop {
            tokio::select! {
                made = async { match &mut listing { Some(listing) => listing.await, None => pending().await } } => {
                    listing = None;
                    let made = match made {
                        Ok(made) => made,
                        Err(error) => return End::Failed(error),
                    };
                    let before = self.order.last();
                    if let Err(gone) = self.listed(made, std::mem::take(&mut meanwhile)).await {
                        return gone.into();
                    }
                    if self.order.last() < before {
                        // Set back, under a watch that goes on: it waits for a revision that may never come.
                        return End::Cut("the registry was set back".to_owned());
                    }
                }
                message = watch.responses.message(), if listing.is_none() || meanwhile.len() < MEANWHILE => {
                    let response = match message {
                        Ok(Some(response)) => response,
                        Ok(None) => return End::Cut("the registry ended the watch".to_owned()),
                        Err(status) => {
                            self.client.failed(watch.index);
                            return End::Cut(error::cause(&status));
                        }
                    };
                    if let Some(end) = ended(&response) {
                        return end;
                    }
                    let events = self.order.news(response.events.into_iter().filter_map(Event::read));
                    if events.is_empty() {
                        continue;
                    }
                    if listing.is_some() {
                        meanwhile.extend(events.iter().cloned());
                    }
                    if let Err(gone) = self.tell(Update::Events { revision: self.order.last(), events }).await {
                        return gone.into();
                    }
                    if self.order.is_large() {
                        self.next_listing = Instant::now();
                    }
                }
                () = sleep_until(self.next_listing), if listing.is_none() => {
                    let (client, prefix) = (self.client.clone(), self.prefix.clone());
                    listing = Some(Box::pin(async move { client.list(&prefix).await }));
                }
            }
        }
    }

    async fn listed(&mut self, mut listing: Listing, meanwhile: Vec<Event>) -> Result<(), Gone> {
        self.order.listed(&mut listing, meanwhile);
        self.is_listed = true;
        self.next_listing = Instant::now() + jitter(self.relist);
        self.tell(Update::Listing(listing)).await
    }

    /// All has to be read again, and can be.
    async fn again(&mut self) -> Result<(), Gone> {
        self.is_listed = false;
        self.rest().await;
        Ok(())
    }

    /// One failure is no outage yet: a call may have met the end of a connection.
    async fn lost(&mut self, error: &ClientError) -> Result<(), Gone> {
        self.failures += 1;
        if self.failures == 1 && self.is_listed {
            self.rest().await;
            return Ok(());
        }
        self.is_listed = false;
        let (is_stranger, farewell) = match error {
            ClientError::Unauthenticated { user: Some(_), farewell, .. } => (true, farewell.clone()),
            _ => (false, None),
        };
        if !self.is_lost || (is_stranger && !self.is_stranger) {
            (self.is_lost, self.is_stranger) = (true, is_stranger);
            self.tell(Update::Lost { reason: error.to_string(), is_stranger, farewell }).await?;
        }
        self.rest().await;
        Ok(())
    }

    async fn rest(&mut self) {
        let pause = self.backoff.pause(Instant::now());
        sleep(pause).await;
    }
}

fn ended(response: &WatchResponse) -> Option<End> {
    if response.compact_revision != 0 {
        Some(End::Relist)
    } else if response.canceled {
        Some(End::Cut(response.cancel_reason.clone()))
    } else {
        None
    }
}
