//! Our subnet: taken, kept, published, given back. A task of its own drives the [`Keeper`], so that a registry that is slow holds nothing
//! else up.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use registry::client::{Client, KeyValue, Update};
use registry::lease::{self, Describe, Held, Keeper, LeaseError};
use registry::schema::{Backend, Key, LeaseValue, NetworkConfig, Prefix, Subnets};
use registry::trust::{Anchor, Certificate, NodeKeys, Record, Release, Serial, open_value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::member::Member;
use crate::{Failure, Result};

/// How soon a registry that had no lease for us is asked again, and at the latest.
const AGAIN: Duration = Duration::from_secs(1);
const AT_THE_LATEST: Duration = Duration::from_secs(30);

/// The type that our records have in flannel's schema.
const BACKEND: &str = "adit";

/// Where we are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Our addresses.
    pub(super) public: Vec<IpAddr>,
    /// Our port.
    pub(super) port: u16,
    /// Whether they cannot be called.
    pub(super) behind_nat: bool,
}

/// What became of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is ours: for the first time, anew, or published anew.
    Held,
    /// It is gone, and is being reclaimed.
    Lost,
    /// Somebody else has the subnet.
    Taken(String),
    /// There is none to be had.
    Failing(String),
    /// We have signed this record, which will be published.
    Signed(Vec<u8>),
}

/// Why there is no lease yet.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The registry did not do it; it may later.
    Registry(String),
    /// It will not help to ask again.
    Fatal(Failure),
}

enum Order {
    Acquire(oneshot::Sender<std::result::Result<(), Trouble>>),
    Observe(Update),
    Publish,
    GiveBack(oneshot::Sender<Result<()>>),
}

/// What others may know of it.
#[derive(Debug, Clone, Default)]
struct State {
    held: Option<Held>,
    /// Since when.
    since: Option<Instant>,
    taken: bool,
    lost: bool,
}

impl State {
    /// Ours from now on.
    fn held(held: Held) -> Self {
        Self { held: Some(held), since: Some(Instant::now()), ..Self::default() }
    }
}

/// See the module.
pub(super) struct Lease {
    orders: mpsc::UnboundedSender<Order>,
    changes: mpsc::UnboundedReceiver<Change>,
    state: Arc<Mutex<State>>,
    signer: Arc<Signer>,
}

impl Lease {
    /// Of a node that has none yet. `previous` are subnets that it had; `sequence` the number of the record it signed last.
    pub(super) fn new(
        client: &Client,
        member: &Member,
        network: &NetworkConfig,
        ttl: Duration,
        previous: &[IpNet],
        places: Places,
        sequence: u64,
    ) -> Self {
        let (outbox, changes) = mpsc::unbounded_channel();
        let signer = Arc::new(Signer {
            signer: member.signer(),
            prefix: member.prefix.clone(),
            is_udp: matches!(network.backend, Backend::Udp { .. }),
            published: Mutex::new(Published { places, sequence, removed: HashSet::new(), newest: Vec::new() }),
            outbox: outbox.clone(),
        });
        let describe: Arc<dyn Describe> = Arc::clone(&signer) as Arc<dyn Describe>;
        let previous = subnets(previous).into_iter().collect();
        let keeper = Keeper::new(client.clone(), member.prefix.clone(), network.clone(), ttl, describe, previous);
        let (orders, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State::default()));
        let task = Task {
            keeper,
            client: client.clone(),
            prefix: member.prefix.clone(),
            ttl,
            signer: Arc::clone(&signer),
            state: Arc::clone(&state),
            outbox,
        };
        tokio::spawn(task.run(inbox));
        Self { orders, changes, state, signer }
    }

    /// Takes a subnet.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub(super) async fn acquire(&mut self) -> std::result::Result<(), Trouble> {
        let (reply, answer) = oneshot::channel();
        self.send(Order::Acquire(reply));
        answer.await.unwrap_or_else(|_| Err(Trouble::Fatal(Failure::failed("the lease's task ended"))))
    }

    /// Takes a subnet as soon as there is one; what comes of it is a [`Change`].
    pub(super) fn acquire_later(&self) {
        self.send(Order::Acquire(oneshot::channel().0));
    }

    /// Takes notice of what the registry says.
    pub(super) fn observe(&self, update: &Update) {
        self.send(Order::Observe(update.clone()));
    }

    /// Tells the others where we are reached now.
    pub(super) fn publish(&mut self, places: Places) {
        self.signer.lock().places = places;
        self.send(Order::Publish);
    }

    /// Who was removed, and the highest number of the records of each node, by ascending serial: what stands there in the name of the former, and
    /// what is older, holds nothing.
    pub(super) fn set_known(&self, removed: impl Iterator<Item = Serial>, newest: impl Iterator<Item = (Serial, u64)>) {
        let mut published = self.signer.lock();
        published.removed = removed.collect();
        published.newest.clear();
        published.newest.extend(newest);
    }

    /// Gives the subnet back.
    ///
    /// # Errors
    /// The registry was not reached.
    pub(super) async fn give_back(&mut self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Order::GiveBack(reply));
        answer.await.unwrap_or_else(|_| Err(Failure::failed("the lease's task ended")))
    }

    /// What becomes of it.
    pub(super) fn changes(&mut self) -> &mut mpsc::UnboundedReceiver<Change> {
        &mut self.changes
    }

    /// What is ours now.
    pub(super) fn subnets(&self) -> Option<Subnets> {
        lock(&self.state).held.as_ref().map(|held| held.subnets)
    }

    /// Whether another node has what was ours.
    pub(super) fn is_taken(&self) -> bool {
        lock(&self.state).taken
    }

    /// A word for `adit status`.
    pub(super) fn state(&self) -> &'static str {
        match &*lock(&self.state) {
            State { taken: true, .. } => "taken",
            State { lost: true, .. } => "lost",
            State { held: Some(held), .. } if held.reserved => "reserved",
            State { held: Some(_), .. } => "held",
            State { held: None, .. } => "waiting",
        }
    }

    /// How long it lives if the registry is not reached again.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let expires = lock(&self.state).held.as_ref()?.expires?;
        Some(expires.saturating_duration_since(Instant::now()))
    }

    /// How long it is ours.
    pub(super) fn age(&self) -> Option<Duration> {
        lock(&self.state).since.map(|since| since.elapsed())
    }

    /// The number of the record that was signed last.
    pub(super) fn sequence(&self) -> u64 {
        self.signer.lock().sequence
    }

    fn send(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

/// Waits for what becomes of a lease; for ever if there is none.
pub(super) async fn next(changes: Option<&mut mpsc::UnboundedReceiver<Change>>) -> Change {
    if let Some(changes) = changes
        && let Some(change) = changes.recv().await
    {
        return change;
    }
    std::future::pending().await
}

/// Networks of both families as one lease has them.
fn subnets(nets: &[IpNet]) -> Option<Subnets> {
    let v4 = nets.iter().find_map(|net| if let IpNet::V4(net) = net { Some(net.trunc()) } else { None });
    let v6 = nets.iter().find_map(|net| if let IpNet::V6(net) = net { Some(net.trunc()) } else { None });
    Subnets::new(v4, v6)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the task ----------------------------------------------------------------------------------------------------------

struct Task {
    keeper: Keeper,
    client: Client,
    prefix: Prefix,
    ttl: Duration,
    signer: Arc<Signer>,
    state: Arc<Mutex<State>>,
    outbox: mpsc::UnboundedSender<Change>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        // When a lease that was not to be had is asked for again, and how long is waited then.
        let mut again: Option<Instant> = None;
        let mut pause = AGAIN;
        let mut later = |outcome: bool| {
            pause = if outcome { AGAIN } else { (2 * pause).min(AT_THE_LATEST) };
            (!outcome).then(|| Instant::now() + pause)
        };
        loop {
            let due = again.unwrap_or_else(|| self.keeper.due());
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(Order::Acquire(reply)) => {
                        let outcome = self.acquire().await;
                        again = later(outcome.is_ok());
                        let _ = reply.send(outcome);
                    }
                    Some(Order::Observe(update)) => {
                        self.keeper.observe(&update);
                        // The registry is there (again): no reason to wait longer.
                        if matches!(update, Update::Listing(_) | Update::Back) {
                            again = again.map(|at| at.min(Instant::now()));
                        }
                    }
                    Some(Order::Publish) => {
                        let change = self.keeper.republish().await;
                        self.follow(change);
                    }
                    Some(Order::GiveBack(reply)) => {
                        let outcome = self.give_back().await;
                        let _ = reply.send(outcome);
                        return;
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(due) => {
                    if again.is_some() {
                        again = later(self.acquire().await.is_ok());
                    } else {
                        let change = self.keeper.maintain().await;
                        self.follow(change);
                    }
                }
            }
        }
    }

    async fn acquire(&mut self) -> std::result::Result<(), Trouble> {
        match self.keeper.acquire().await {
            Ok(held) => {
                *lock(&self.state) = State::held(held);
                let _ = self.outbox.send(Change::Held);
                Ok(())
            }
            Err(e @ LeaseError::OutOfSubnets(_)) => {
                let _ = self.outbox.send(Change::Failing(e.to_string()));
                Err(Trouble::Fatal(Failure::failed(e.to_string())))
            }
            Err(e) => Err(Trouble::Registry(e.to_string())),
        }
    }

    fn follow(&mut self, change: lease::Change) {
        let said = {
            let mut state = lock(&self.state);
            state.held = self.keeper.held().cloned().or_else(|| state.held.take());
            match change {
                lease::Change::Nothing => return,
                lease::Change::Working => {
                    state.lost = false;
                    Change::Held
                }
                lease::Change::Reclaimed(held) => {
                    *state = State::held(held);
                    Change::Held
                }
                lease::Change::Taken { by } => {
                    *state = State { taken: true, ..State::default() };
                    Change::Taken(self.signer.owner(&by))
                }
                lease::Change::Failing(e) => {
                    tracing::debug!("the lease: {e}");
                    state.lost =
                        state.held.as_ref().and_then(|held| held.expires).is_some_and(|at| at <= Instant::now());
                    Change::Lost
                }
            }
        };
        let _ = self.outbox.send(said);
    }

    async fn give_back(&mut self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Failure::failed(e.to_string());
        if let (Some(held), Some((keys, certificate, anchor))) = (self.keeper.held(), &self.signer.signer) {
            let serial = certificate.serial;
            let sequence = self.signer.lock().sequence;
            let release = Release { certificate: certificate.clone(), sequence, subnets: held.subnets };
            let bytes = release.sign(keys, anchor).map_err(|e| failed(&e))?;
            let ttl = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
            let (lease, _) = self.client.grant(ttl).await.map_err(|e| failed(&e))?;
            let value = STANDARD.encode(bytes);
            self.client.put(&self.prefix.release_of(serial), value.as_bytes(), lease).await.map_err(|e| failed(&e))?;
        }
        self.keeper.release().await.map_err(|e| failed(&e))?;
        *lock(&self.state) = State::default();
        Ok(())
    }
}

// ---- our record --------------------------------------------------------------------------------------------------------

/// Signs our record.
struct Signer {
    /// None for a node that is plain only.
    signer: Option<(Arc<NodeKeys>, Certificate, Anchor)>,
    prefix: Prefix,
    /// Whether nodes that sign nothing have a place in this network.
    is_udp: bool,
    published: Mutex<Published>,
    outbox: mpsc::UnboundedSender<Change>,
}

struct Published {
    places: Places,
    sequence: u64,
    removed: HashSet<Serial>,
    /// By ascending serial.
    newest: Vec<(Serial, u64)>,
}

impl Published {
    /// Whether a record holds what it names no more, by what else is known.
    fn is_past(&self, record: &Record) -> bool {
        let serial = record.certificate.serial;
        let newest = self.newest.binary_search_by_key(&serial, |(serial, _)| *serial).ok();
        let newest = newest.and_then(|index| self.newest.get(index)).map_or(0, |(_, sequence)| *sequence);
        record.sequence < newest || self.removed.contains(&serial)
    }
}

impl Signer {
    fn lock(&self) -> MutexGuard<'_, Published> {
        lock(&self.published)
    }

    /// Whose an entry is, for people.
    fn owner(&self, entry: &KeyValue) -> String {
        let record = self.record(entry);
        record.map_or_else(|| entry.key.clone(), |record| record.certificate.name)
    }

    fn record(&self, entry: &KeyValue) -> Option<Record> {
        let (_, _, anchor) = self.signer.as_ref()?;
        let value = LeaseValue::parse(&entry.value).ok()?;
        let bytes = STANDARD.decode(value.signed()?).ok()?;
        Record::open(&bytes, anchor).ok()
    }
}

impl Describe for Signer {
    fn value(&self, subnets: &Subnets) -> Vec<u8> {
        let mut published = self.lock();
        // Beyond what any earlier run signed, also if its notes were lost.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        published.sequence = (published.sequence + 1).max(u64::try_from(clock).unwrap_or(u64::MAX));
        let Places { public, port, behind_nat } = &published.places;
        // What stands outside of the signature must stand inside as well.
        let shown: &[IpAddr] = if *behind_nat { &[] } else { public };
        let public_ip = shown.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        // flannel names one in networks of IPv6 only.
        let public_ipv6 = shown.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        let public_ipv6 = public_ipv6.filter(|_| subnets.v6.is_some() || public_ip.is_none());
        let mut value =
            LeaseValue { public_ip, public_ipv6, backend_type: None, backend_data: None, backend_v6_data: None };
        let Some((keys, certificate, anchor)) = &self.signer else { return value.to_json() };
        let endpoints = shown.iter().map(|ip| SocketAddr::new(*ip, *port)).collect();
        let record = Record {
            certificate: certificate.clone(),
            sequence: published.sequence,
            subnets: *subnets,
            endpoints,
            behind_nat: *behind_nat,
        };
        match record.sign(keys, anchor) {
            Ok(bytes) => {
                value.backend_type = Some(BACKEND.into());
                value.backend_data = Some(serde_json::json!({ "signed": STANDARD.encode(&bytes) }));
                let _ = self.outbox.send(Change::Signed(bytes));
            }
            // Without a signature nobody uses it, and the lease is kept all the same.
            Err(e) => tracing::error!("our record cannot be signed: {e}"),
        }
        value.to_json()
    }

    fn is_ours(&self, entry: &KeyValue) -> bool {
        let Ok(value) = LeaseValue::parse(&entry.value) else { return false };
        if value.signed().is_some() {
            let serial = self.record(entry).map(|record| record.certificate.serial);
            return serial.is_some() && serial == self.signer.as_ref().map(|(_, certificate, _)| certificate.serial);
        }
        // Without a key the address is all there is, as flannel has it; where nodes have keys, only a reservation may name us so.
        let by_address = self.signer.is_none() || entry.lease == 0;
        let public = &self.lock().places.public;
        by_address && value.public_ip.is_some_and(|ip| public.contains(&IpAddr::V4(ip)))
    }

    fn is_free(&self, entry: &KeyValue) -> bool {
        let Ok(value) = LeaseValue::parse(&entry.value) else { return true };
        let says_nothing = value.backend_type.is_none() && value.backend_data.is_none();
        if value.signed().is_none() {
            let is_reservation = says_nothing && entry.lease == 0;
            let is_flannels = self.is_udp && value.public_ip.is_some();
            return !is_reservation && !is_flannels;
        }
        // Who has no anchor cannot tell.
        let Some((_, _, anchor)) = &self.signer else { return false };
        let Some(Key::Subnets(subnets)) = self.prefix.read(&entry.key) else { return true };
        open_value(&value, &subnets, anchor).map_or(true, |record| self.lock().is_past(&record))
    }
}
