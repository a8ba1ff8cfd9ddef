//! The thread `network`: what is learned of the network, and what follows from it.
//!
//! | file | what it is for |
//! |---|---|
//! | `agent.rs` | the thread: how it begins, what it waits for |
//! | `agent/learn.rs` | what the registry says |
//! | `agent/holding.rs` | our lease |
//! | `agent/force.rs` | what follows: peers, files, status |
//! | `agent/look.rs` | what is looked at from time to time |

mod force;
mod holding;
mod learn;
mod look;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use registry::client::{Client, Update, Watcher};
use registry::schema::NetworkConfig;
use registry::trust::Serial;
use registry::view::View;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};
use tokio::time::{Instant as Later, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use super::clients;
use super::host::Host;
use super::lease::{self, Lease};
use super::member::Member;
use super::notes::{Notes, NotesFile};
use super::peers::{Turns, Wanted};
use super::publish::Publisher;
use crate::config::{Network, Tunnel};
use crate::container::Store;
use crate::request::{Handle, Summary};
use crate::subnet_env::{Previous, SubnetEnv, SubnetFiles};
use crate::{Directories, Failure, Result};

/// The registry is listed anew at least this often: watches of etcd 3.4 may miss something. Where leases are short it is more often, since what is
/// absent counts by listings.
const RELIST: Duration = Duration::from_secs(50);
const RELIST_AT_MOST: Duration = Duration::from_secs(1);

/// Changes come in groups; this long after the first one they are put into force.
const SETTLE: Duration = Duration::from_millis(50);

/// How often traffic, addresses and times are looked at.
const TICK: Duration = Duration::from_secs(2);

/// So many peers are noted for the next start at every change.
const LITTLE: usize = 64;

/// When what could not be put into force is tried again, if nothing changes before.
const AGAIN: Duration = Duration::from_secs(30);

/// So many refusals are shown.
const REFUSALS: usize = 16;

/// How long a start waits for the registry if it remembers how things were.
const SHORT: Duration = Duration::from_secs(1);

/// How long nobody may answer at one of several endpoints before the next one is tried: longer than a peer may be silent that has nothing to
/// say (10 s).
const TRY: Duration = Duration::from_secs(15);

/// How long the end waits for a lease to be given back.
const GIVE_BACK: Duration = Duration::from_secs(4);

/// How long after its handshake a session may be used ([`tunnel::session::REJECT_AFTER_TIME`]).
const SESSION: Duration = Duration::from_secs(180);

/// What the thread is told.
pub(super) enum Command {
    /// The tunnel is up. Answered when `adit status` tells of the network.
    Start(Handle, SyncSender<()>),
    /// Files may have changed. Answered when what they say is in force.
    Refresh(SyncSender<()>),
    /// Give the lease back.
    Leave(SyncSender<Result<()>>),
    /// End.
    Stop,
}

/// As many plain nodes that are not spoken to are named.
const NAMED: usize = 8;

/// What may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Configuration,
    Lease,
    Renumbered,
    Secret,
    Record,
    Notes,
    Memory,
    SubnetFiles,
    Authority,
}

/// When a node was last heard of.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// Bytes that had come from it by then.
    received: u64,
    /// Bytes that we had sent it by then: more say that we are calling it in vain.
    sent: u64,
    /// Since we began; never, if nothing has come.
    at: Duration,
    ever: bool,
}

/// See the module.
pub(super) struct Agent {
    settings: Network,
    member: Member,
    host: Option<Host>,
    publisher: Option<Publisher>,
    client: Client,
    notes_file: NotesFile,
    notes: Notes,
    device: String,
    listen: SocketAddr,
    listen_is_default: bool,
    subnet_files: Vec<PathBuf>,
    written: SubnetFiles,
    began: Instant,
    /// What the registry says that the network is, and since when we go by it.
    network: Option<NetworkConfig>,
    view: Option<View>,
    lease: Option<Lease>,
    clients: Vec<clients::Client>,
    containers: Store,
    turns: Turns,
    calling: HashMap<String, Instant>,
    heard: HashMap<Serial, Heard>,
    /// Changes of the lease that came while something else was looked at.
    waiting: VecDeque<lease::Change>,
    public: Vec<IpAddr>,
    behind_nat: bool,
    lost: Option<String>,
    /// Whether the registry does not know the user any more that it gave us.
    is_stranger: bool,
    /// That we are in the network no more, as a sentence.
    removed: Option<String>,
    /// What revision the registry spoke of last, and when.
    said: Option<(i64, Instant)>,
    alarms: BTreeMap<Topic, String>,
    /// What the view has raised, so that each is logged once.
    raised: Vec<String>,
    handle: Option<Handle>,
    in_force: Option<Arc<Wanted>>,
    /// When what could not be put into force is tried again.
    again: Option<Instant>,
    /// Whether there is something to remember, when that was done last, and how many removals there were then.
    unsaved: bool,
    remembered: (Option<Instant>, usize),
    refused: Vec<String>,
    /// What the subnet files say.
    written_env: Option<SubnetEnv>,
}

impl Agent {
    /// Of a daemon that is about to start. `tunnel` is given the keys.
    ///
    /// # Errors
    /// What of the node is missing or wrong.
    pub(super) fn new(tunnel: &mut Tunnel, directories: &Directories) -> Result<Self> {
        let Some(settings) = tunnel.network.clone() else {
            return Err(Failure::usage("there is no [network] in the configuration"));
        };
        let directory = super::directory(directories, &tunnel.device.name);
        let member = Member::load(&settings, &directory, tunnel)?;
        let notes_file = NotesFile::within(&directory);
        let notes = notes_file.read();
        let host = Host::open(&settings, &directory, &member)?;
        let client = member.client(&settings, host.as_ref())?;
        let mut files = settings.subnet_files.clone();
        if files.is_empty() {
            files.push(directories.runtime.join("subnet.env"));
        }
        Ok(Self {
            clients: member.clients(),
            containers: Store::of(directories, &tunnel.device.name),
            device: tunnel.device.name.clone(),
            listen: tunnel.transport.listen,
            listen_is_default: tunnel.transport.listen_is_default,
            subnet_files: files,
            written: SubnetFiles::of(&tunnel.device.name, &directories.state),
            began: Instant::now(),
            settings,
            member,
            host,
            publisher: None,
            client,
            notes_file,
            notes,
            network: None,
            view: None,
            lease: None,
            turns: Turns::default(),
            calling: HashMap::new(),
            heard: HashMap::new(),
            waiting: VecDeque::new(),
            public: Vec::new(),
            behind_nat: false,
            lost: None,
            is_stranger: false,
            removed: None,
            said: None,
            alarms: BTreeMap::new(),
            raised: Vec::new(),
            handle: None,
            in_force: None,
            again: None,
            unsaved: false,
            remembered: (None, 0),
            refused: Vec::new(),
            written_env: None,
        })
    }

    // ---- the thread ----------------------------------------------------------------------------------------------------

    /// Takes part until it is told to stop. `first` is told what is to be in force at the start.
    pub(super) async fn run(
        mut self,
        first: SyncSender<Result<(Wanted, SocketAddr)>>,
        mut orders: UnboundedReceiver<Command>,
    ) {
        if let Some(Err(failure)) = self.host.as_mut().map(Host::serve) {
            let _ = first.send(Err(failure));
            return;
        }
        let decisions = self.host.as_ref().map(|host| host.decisions(&self.member.prefix));
        self.publisher = decisions.map(|decisions| Publisher::start(decisions, self.client.clone()));
        let mut updates = self.watch();
        let wanted = tokio::select! {
            wanted = self.begin(&mut updates) => wanted,
            // Nobody waits for us any more.
            () = stopped(&mut orders) => return,
        };
        self.in_force = wanted.as_ref().ok().cloned().map(Arc::new);
        let is_ready = wanted.is_ok();
        if first.send(wanted.map(|wanted| (wanted, self.listen))).is_err() || !is_ready {
            return;
        }
        self.go_on(updates, orders).await;
    }

    /// All keys of the network, as they change. The watch has a task of its own, so that nothing of it is lost while we do something else.
    fn watch(&self) -> Receiver<Update> {
        let (sender, receiver) = mpsc::channel(64);
        let relist = (self.settings.lease_ttl / 3).clamp(RELIST_AT_MOST, RELIST);
        let mut watcher = Watcher::new(self.client.clone(), self.member.prefix.all(), relist);
        tokio::spawn(async move {
            loop {
                let update = watcher.next().await;
                if sender.send(update).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// What is in force at the start: by the registry, or by what is remembered if that does not answer soon.
    async fn begin(&mut self, updates: &mut Receiver<Update>) -> Result<Wanted> {
        let remembered = self.recall();
        self.member.find_registries().await;
        match self.find_places() {
            // It comes when the host has addresses.
            Err(failure) if remembered => tracing::warn!("{failure}; going on with what is remembered"),
            other => drop(other?),
        }
        let patience = if remembered { Later::now() + SHORT } else { Later::now() + Duration::from_secs(1 << 30) };
        let (mut told, mut said) = (false, false);
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return Err(Failure::failed("the watch ended")) };
                    self.learn(update)?;
                }
                () = sleep_until(patience) => {
                    tracing::warn!("the registry does not answer: going on with what is remembered");
                    self.begin_lease()?;
                    return self.wanted();
                }
            }
            if self.view.is_none() {
                if !told && self.lost.is_none() {
                    tracing::info!("waiting for {} in the registry", self.member.prefix.config());
                    told = true;
                }
                continue;
            }
            self.begin_lease()?;
            let Some(lease) = &mut self.lease else { continue };
            let outcome = loop {
                match timeout_at(patience, lease.acquire()).await {
                    Ok(Err(lease::Trouble::Registry(reason))) => {
                        if !std::mem::replace(&mut said, true) {
                            tracing::warn!("no lease yet: {reason}");
                        }
                        sleep_until(patience.min(Later::now() + SHORT)).await;
                    }
                    other => break other,
                }
            };
            match outcome {
                Ok(Ok(())) => {
                    // A full disk is no reason not to carry packets.
                    let noted = self.note_lease();
                    self.follow(Topic::Notes, noted);
                }
                Ok(Err(lease::Trouble::Fatal(failure))) => return Err(failure),
                Ok(Err(lease::Trouble::Registry(_))) | Err(_) => {
                    tracing::warn!("the registry is slow: going on with what is remembered");
                }
            }
            return self.wanted();
        }
    }

    async fn go_on(&mut self, mut updates: Receiver<Update>, mut orders: UnboundedReceiver<Command>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due: Option<Later> = None;
        let never = || Later::now() + Duration::from_secs(1 << 30);
        loop {
            if let Some(change) = self.waiting.pop_front() {
                if self.follow_lease(change) {
                    due.get_or_insert_with(|| Later::now() + SETTLE);
                }
                continue;
            }
            let changes = self.lease.as_mut().map(Lease::changes);
            let news = tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => self.learn(update).unwrap_or_else(|failure| {
                        self.alarm(Topic::Configuration, failure.to_string());
                        true
                    }),
                    None => return,
                },
                change = lease::next(changes) => self.follow_lease(change),
                () = sleep_until(due.unwrap_or_else(never)) => {
                    due = None;
                    self.put_into_force().await;
                    false
                }
                _ = tick.tick() => self.look_around(),
                order = orders.recv() => match order {
                    Some(Command::Start(handle, reply)) => {
                        self.listen = handle.picture().listen;
                        self.write_subnet_files(&handle);
                        self.report(&handle);
                        self.call_recent(&handle);
                        self.handle = Some(handle);
                        let _ = reply.send(());
                        true
                    }
                    Some(Command::Refresh(reply)) => {
                        self.refresh().await;
                        let _ = reply.send(());
                        false
                    }
                    Some(Command::Leave(reply)) => {
                        let outcome = match &mut self.lease {
                            Some(lease) => {
                                if let Some(view) = &mut self.view {
                                    view.unpublish();
                                }
                                // It goes on by itself if it takes longer: an end is not to wait for a registry.
                                timeout(GIVE_BACK, lease.give_back()).await.unwrap_or_else(|_| {
                                    Err(Failure::failed("the registry did not answer in time"))
                                })
                            }
                            None => Ok(()),
                        };
                        let _ = reply.send(outcome);
                        false
                    }
                    Some(Command::Stop) | None => {
                        self.remember_now();
                        return;
                    }
                },
            };
            if news && due.is_none() {
                due = Some(Later::now() + SETTLE);
            }
        }
    }
}

/// Puts a configuration into force, and waits until that is done.
async fn edit(handle: &Handle, wanted: &Arc<Wanted>) -> std::result::Result<Summary, String> {
    let (handle, wanted) = (handle.clone(), Arc::clone(wanted));
    let made = tokio::task::spawn_blocking(move || handle.edit(Box::new(move |present| Ok(wanted.of(present)))));
    made.await.map_err(|e| e.to_string())?.map_err(|refusal| refusal.to_string())
}

/// The subnets of an earlier run, by our notes or by flannel's file.
fn previous(notes: &Notes, files: &[PathBuf]) -> Vec<IpNet> {
    if !notes.subnets.is_empty() {
        return notes.subnets.clone();
    }
    let read = files.iter().map(|file| Previous::read(file));
    let named = read.map(|named| [named.v4.map(IpNet::V4), named.v6.map(IpNet::V6)].into_iter().flatten().collect());
    named.into_iter().find(|nets: &Vec<IpNet>| !nets.is_empty()).unwrap_or_default()
}

async fn stopped(orders: &mut UnboundedReceiver<Command>) {
    while let Some(order) = orders.recv().await {
        match order {
            Command::Stop => return,
            Command::Leave(reply) => drop(reply.send(Ok(()))),
            Command::Refresh(reply) => drop(reply.send(())),
            Command::Start(..) => {}
        }
    }
}

fn list(nets: &[IpNet]) -> String {
    nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" and ")
}
