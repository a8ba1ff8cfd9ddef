//! The thread `network`: what is learned of the network, and what follows from it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use linux::netlink::Netlink;
use registry::client::{Client, Event, KeyValue, Update, Watcher};
use registry::schema::{Backend, Key, NetworkConfig, Subnets};
use registry::trust::Serial;
use registry::view::{self, PlainNode, View};
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver};
use tokio::time::{Instant as Later, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::host::Host;
use super::lease::{self, Lease};
use super::member::Member;
use super::notes::{Notes, NotesFile};
use super::parts::{self, Outcome};
use super::peers::{self, Turns, Wanted};
use super::publish::Publisher;
use super::report::{self, Situation};
use super::{clients, places};
use crate::config::{self, Network, Origin, Overlay, Tunnel};
use crate::key::PublicKey;
use crate::request::{Handle, Picture, Summary};
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

/// When what could not be put into force is tried again, if nothing changes before.
const AGAIN: Duration = Duration::from_secs(30);

/// So many refusals are shown.
const REFUSALS: usize = 16;

/// How long a start waits for the registry if it remembers how things were.
const SHORT: Duration = Duration::from_secs(1);

/// How long nobody may answer at one of several endpoints before the next one is tried: longer than a peer may be silent that has nothing to
/// say (10 s).
const TRY: Duration = Duration::from_secs(15);

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
    turns: Turns,
    calling: HashMap<String, Instant>,
    heard: HashMap<Serial, Heard>,
    /// Changes of the lease that came while something else was looked at.
    waiting: VecDeque<lease::Change>,
    public: Vec<IpAddr>,
    behind_nat: bool,
    lost: Option<String>,
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
        match self.find_places() {
            // It comes when the host has addresses.
            Err(failure) if remembered => tracing::warn!("{failure}; going on with what is remembered"),
            other => drop(other?),
        }
        let patience = if remembered { Later::now() + SHORT } else { Later::now() + Duration::from_secs(1 << 30) };
        let mut told = false;
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
            let Ok(outcome) = timeout_at(patience, lease.acquire()).await else {
                tracing::warn!("the registry is slow: going on with what is remembered");
                return self.wanted();
            };
            match outcome {
                Ok(()) => {
                    // A full disk is no reason not to carry packets.
                    let noted = self.note_lease();
                    self.follow(Topic::Notes, noted);
                    return self.wanted();
                }
                Err(lease::Trouble::Registry(reason)) => tracing::warn!("no lease yet: {reason}"),
                Err(lease::Trouble::Fatal(failure)) => return Err(failure),
            }
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
                                lease.give_back().await
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

    // ---- what is learned -----------------------------------------------------------------------------------------------

    /// Takes in what the registry says; answers whether anything follows from it.
    fn learn(&mut self, update: Update) -> Result<bool> {
        match &update {
            Update::Lost(reason) => {
                if self.lost.is_none() {
                    tracing::warn!("the registry cannot be reached: {reason}; traffic goes on");
                }
                self.lost = Some(reason.clone());
            }
            Update::Back => {
                if self.lost.take().is_some() {
                    tracing::info!("the registry is reached again");
                }
            }
            Update::Listing(listing) => {
                self.lost = None;
                if let Some(publisher) = &self.publisher {
                    publisher.compare(listing);
                }
                self.learn_network(&listing.entries)?;
                self.learn_secrets(&listing.entries);
            }
            Update::Events { events, .. } => {
                // What the authority said is not for others to take away.
                let is_decision = |event: &Event| {
                    matches!(event, Event::Delete { key, .. }
                        if matches!(self.member.prefix.read(key), Some(Key::Config | Key::Removed(_) | Key::Epoch(_))))
                };
                if let Some(publisher) = self.publisher.as_ref().filter(|_| events.iter().any(is_decision)) {
                    publisher.look();
                }
                let put: Vec<KeyValue> = events
                    .iter()
                    .filter_map(|event| match event {
                        Event::Put(entry) => Some(entry.clone()),
                        Event::Delete { .. } => None,
                    })
                    .collect();
                self.learn_network(&put)?;
                self.learn_secrets(&put);
            }
        }
        // What we have signed comes before what the registry makes of it.
        self.take_signed();
        let now = self.began.elapsed();
        let heard = &self.heard;
        let when = |serial: Serial| heard.get(&serial).filter(|heard| heard.ever).map(|heard| heard.at);
        let Some(view) = &mut self.view else { return Ok(true) };
        let mut news = view.handle(&update, now, &when);
        news |= matches!(update, Update::Lost(_) | Update::Back | Update::Listing(_));
        if let Some(lease) = &self.lease {
            lease.set_known(view.removals(), view.sequences());
            lease.observe(&update);
        }
        self.tell_alarms();
        Ok(news)
    }

    /// Takes in the records that we have signed. Other changes of the lease wait for their turn.
    fn take_signed(&mut self) {
        while let Some(Ok(change)) = self.lease.as_mut().map(|lease| lease.changes().try_recv()) {
            match change {
                lease::Change::Signed(record) => self.know_own(&record),
                other => self.waiting.push_back(other),
            }
        }
    }

    fn know_own(&mut self, record: &[u8]) {
        if let Some(Err(e)) = self.view.as_mut().map(|view| view.publish(record)) {
            self.alarm(Topic::Record, format!("our own record is not believed: {e}"));
        }
    }

    /// What network this is. The first word counts; another one later is an alarm.
    fn learn_network(&mut self, entries: &[KeyValue]) -> Result<()> {
        let key = self.member.prefix.config();
        let Some(entry) = entries.iter().find(|entry| entry.key == key) else { return Ok(()) };
        let said = match NetworkConfig::parse(&entry.value) {
            Ok(said) => said,
            // The view says so too.
            Err(_) if self.view.is_some() => return Ok(()),
            Err(e) => {
                return Err(Failure::failed(format!("{key} in the registry is no network configuration: {e}")));
            }
        };
        let before = match (&self.network, &self.notes.network) {
            (Some(before), _) => Some(before.clone()),
            (None, Some(text)) => NetworkConfig::parse(text.as_bytes()).ok(),
            (None, None) => None,
        };
        if let Some(contradiction) = before.as_ref().and_then(|before| view::contradiction(before, &said)) {
            if self.handle.is_some() {
                // The view says so too.
                return Ok(());
            }
            return Err(Failure::failed(format!("the registry contradicts what this node goes by: {contradiction}"))
                .with_remedy("if the network was really made anew, run `adit down --purge` here and join again"));
        }
        self.alarms.remove(&Topic::Configuration);
        if self.network.is_none() {
            self.go_by(said, Some(String::from_utf8_lossy(&entry.value).into_owned()))?;
        }
        Ok(())
    }

    fn go_by(&mut self, network: NetworkConfig, text: Option<String>) -> Result<()> {
        self.member.check(&network, &self.settings)?;
        if self.view.is_none() {
            self.view = Some(self.member.view(&network, &self.settings));
        }
        // All of flannel's nodes have the same port.
        if let (Backend::Udp { port }, true, None) = (&network.backend, self.listen_is_default, &self.handle) {
            self.listen.set_port(*port);
        }
        self.network = Some(network);
        if text.is_some() && self.notes.network != text {
            self.notes.network = text;
            self.write_notes();
        }
        Ok(())
    }

    fn learn_secrets(&mut self, entries: &[KeyValue]) {
        for entry in entries {
            if let Some(Key::Epoch(number)) = self.member.prefix.read(&entry.key) {
                let learned = self.member.learn_secret(number, &entry.value);
                if learned != Ok(false) {
                    self.follow(Topic::Secret, learned.map(drop));
                }
            }
        }
    }

    /// What an earlier run knew; answers whether that is enough to go on with.
    fn recall(&mut self) -> bool {
        let Some(network) = self.notes.network.as_ref().and_then(|text| NetworkConfig::parse(text.as_bytes()).ok())
        else {
            return false;
        };
        if self.notes.subnets.is_empty() {
            return false;
        }
        self.go_by(network, None).is_ok()
    }

    /// Something is wrong: said once, and shown until it is not any more.
    fn alarm(&mut self, topic: Topic, sentence: String) {
        if self.alarms.get(&topic) != Some(&sentence) {
            tracing::error!("{sentence}");
            self.alarms.insert(topic, sentence);
        }
    }

    /// As [`alarm`](Self::alarm) for a failure, and the end of it for a success.
    fn follow<E: fmt::Display>(&mut self, topic: Topic, outcome: std::result::Result<(), E>) {
        match outcome {
            Ok(()) => drop(self.alarms.remove(&topic)),
            Err(e) => self.alarm(topic, e.to_string()),
        }
    }

    /// Logs what the view raises, each once.
    fn tell_alarms(&mut self) {
        let Some(view) = &self.view else { return };
        let raised: Vec<String> = view.alarms().iter().map(ToString::to_string).collect();
        for sentence in raised.iter().filter(|sentence| !self.raised.contains(sentence)) {
            tracing::error!("{sentence}");
        }
        self.raised = raised;
    }

    // ---- our lease -----------------------------------------------------------------------------------------------------

    fn begin_lease(&mut self) -> Result<()> {
        let (None, Some(network)) = (&self.lease, &self.network) else { return Ok(()) };
        let previous: Vec<_> = previous(&self.notes, &self.subnet_files);
        let ttl = self.settings.lease_ttl;
        self.lease = Some(Lease::new(
            &self.client,
            &self.member,
            network,
            ttl,
            &previous,
            self.places(),
            self.notes.sequence.max(self.view.as_ref().map_or(0, View::own_sequence)),
        ));
        Ok(())
    }

    fn places(&self) -> lease::Places {
        let (public, port) = (self.public.clone(), self.listen.port());
        lease::Places { public, port, behind_nat: self.behind_nat }
    }

    fn note_lease(&mut self) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let subnets: Vec<IpNet> = lease.subnets().iter().flat_map(Subnets::iter).collect();
        let sequence = lease.sequence();
        if !self.notes.subnets.is_empty() && !subnets.is_empty() && self.notes.subnets != subnets {
            let sentence = format!(
                "the subnet {} that this node had is another node's; it has {} now, and containers with addresses of the former are cut off",
                list(&self.notes.subnets),
                list(&subnets)
            );
            self.alarm(Topic::Renumbered, sentence);
        }
        self.notes.sequence = sequence;
        if !subnets.is_empty() {
            self.notes.subnets = subnets;
        }
        self.notes_file.write(&self.notes)
    }

    fn write_notes(&mut self) {
        if let Some(lease) = &self.lease {
            self.notes.sequence = self.notes.sequence.max(lease.sequence());
        }
        let written = self.notes_file.write(&self.notes);
        self.follow(Topic::Notes, written);
    }

    fn follow_lease(&mut self, change: lease::Change) -> bool {
        match change {
            lease::Change::Held => {
                self.alarms.remove(&Topic::Lease);
                let noted = self.note_lease();
                self.follow(Topic::Notes, noted);
            }
            lease::Change::Signed(record) => self.know_own(&record),
            lease::Change::Lost => {}
            lease::Change::Failing(sentence) => self.alarm(Topic::Lease, sentence),
            lease::Change::Taken(by) => self.step_back(&by),
        }
        true
    }

    /// Another node has our subnet. Without containers we take another one; with some, nothing is renumbered behind their backs.
    fn step_back(&mut self, by: &str) {
        let lost = list(&self.notes.subnets);
        let is_inhabited = self.is_inhabited();
        // Whose it is, the others know by its record; a restart must not take it up again by what is noted.
        if let Some(view) = &mut self.view {
            view.unpublish();
        }
        self.notes.subnets.clear();
        self.write_notes();
        if is_inhabited {
            let sentence = format!(
                "{lost} is {by}'s now: we step back from it, and containers here that have its addresses are cut off; remove them, and \
                 start adit again to take another subnet"
            );
            self.alarm(Topic::Lease, sentence);
            return;
        }
        tracing::warn!("{lost} is {by}'s now: we step back from it, and take another subnet");
        if let Some(lease) = &self.lease {
            lease.acquire_later();
        }
    }

    /// Whether something on this host has an address of our subnets beside our device.
    fn is_inhabited(&self) -> bool {
        let look = || -> Result<bool> {
            let mut netlink = Netlink::open()?;
            let ours = netlink.link(&self.device)?.map(|link| link.index);
            let addresses = netlink.addresses(None)?;
            let within = |ip: IpAddr| self.notes.subnets.iter().any(|net| net.contains(&ip));
            Ok(addresses.iter().any(|a| Some(a.index) != ours && within(a.net.addr())))
        };
        // Not knowing is no reason to take addresses away.
        look().unwrap_or(true)
    }

    // ---- what follows --------------------------------------------------------------------------------------------------

    /// Peers, addresses and secrets as they are to be.
    fn wanted(&self) -> Result<Wanted> {
        let (Some(network), Some(view)) = (&self.network, &self.view) else {
            return Err(Failure::failed("it is not known yet what network this is"));
        };
        let held: Vec<_> = match &self.lease {
            Some(lease) if lease.subnets().is_some() => lease.subnets().iter().flat_map(Subnets::iter).collect(),
            Some(lease) if lease.is_taken() => Vec::new(),
            _ => self.notes.subnets.clone(),
        };
        let overlay = Overlay {
            networks: network.networks(),
            subnets: held.clone(),
            masquerade: self.settings.ip_masq,
            forward: self.settings.forward_rules,
            membership: self.member.membership(),
        };
        // Who has no subnet speaks for nobody: nothing is sent then, and nothing accepted.
        if held.is_empty() {
            return Ok(Wanted { overlay, peers: Vec::new() });
        }
        let mut peers: Vec<config::Peer> =
            view.nodes().iter().map(|node| peers::of_node(node, self.listen, self.behind_nat, &self.turns)).collect();
        if let Backend::Udp { port } = &network.backend {
            let (plain, _) = self.plain_nodes(view);
            peers.extend(plain.iter().map(|node| peers::of_plain_node(node, *port)));
        }
        let serves = |client: &&clients::Client| {
            client.addresses.iter().all(|address| held.iter().any(|subnet| subnet.contains(address)))
        };
        peers.extend(self.clients.iter().filter(serves).map(peers::of_client));
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Wanted { overlay, peers })
    }

    /// Nodes of flannel's own that are spoken to, and why others that might be are not.
    fn plain_nodes(&self, view: &View) -> (Vec<PlainNode>, Vec<String>) {
        let mut plain = if self.settings.plain { view.plain_nodes() } else { Vec::new() };
        plain.retain(|node| {
            let address = IpAddr::from(node.public_ip);
            self.settings.plain_from.iter().any(|net| net.contains(&address)) && !self.public.contains(&address)
        });
        // Whose word is signed is not spoken to in the clear, whoever writes that somebody else is there.
        let signed = view.nodes();
        let at =
            |address: IpAddr| signed.iter().find(|node| node.endpoints.iter().any(|endpoint| endpoint.ip() == address));
        let mut apart = Vec::new();
        plain.retain(|node| {
            let other = at(node.public_ip.into());
            if let (Some(other), true) = (other, apart.len() < NAMED) {
                let PlainNode { subnets, public_ip } = node;
                apart.push(format!(
                    "{subnets} is not reached: at {public_ip} there is {}, which is not spoken to in the clear",
                    other.name
                ));
            }
            other.is_none()
        });
        (plain, apart)
    }

    async fn put_into_force(&mut self) {
        let Some(handle) = self.handle.clone() else { return };
        let Ok(wanted) = self.wanted() else { return };
        if self.in_force.as_deref() != Some(&wanted) {
            let wanted = Arc::new(wanted);
            self.refused = wanted.conflicts(&handle.picture().tunnel);
            match edit(&handle, &wanted).await {
                Ok(summary) => {
                    tracing::info!("the network: {summary}");
                    self.in_force = Some(wanted);
                    self.again = None;
                }
                Err(refusal) => {
                    self.refused.push(refusal);
                    self.put_in_parts(&handle, &wanted).await;
                    self.again = Some(Instant::now() + AGAIN);
                }
            }
        }
        self.remember();
        self.write_subnet_files(&handle);
        self.report(&handle);
    }

    /// Not all can be put into force: what can be is.
    async fn put_in_parts(&mut self, handle: &Handle, wanted: &Wanted) {
        let before = self.in_force.clone();
        let outcome = parts::put(before.as_deref(), wanted, async |next: &Wanted| {
            edit(handle, &Arc::new(next.clone())).await.map(drop)
        });
        let Some(Outcome { good, left_out }) = outcome.await else { return };
        for sentence in left_out {
            tracing::warn!("{sentence}");
            self.refused.push(sentence);
        }
        self.refused.truncate(REFUSALS);
        self.in_force = Some(Arc::new(good));
    }

    /// Notes what is known: a removal at once, everything else not too often.
    fn remember(&mut self) {
        let Some(view) = &mut self.view else { return };
        self.unsaved |= view.is_unsaved();
        let removals = view.removals().count();
        let (last, noted) = self.remembered;
        let is_due = removals != noted || last.is_none_or(|last| last.elapsed() >= TICK);
        if self.unsaved && is_due {
            self.remembered = (Some(Instant::now()), removals);
            self.remember_now();
        }
    }

    fn remember_now(&mut self) {
        let Some(view) = &mut self.view else { return };
        self.unsaved |= view.is_unsaved();
        if self.unsaved {
            let outcome = self.member.remember(&view.memory());
            // What could not be written is tried again.
            self.unsaved = outcome.is_err();
            self.follow(Topic::Memory, outcome);
        }
    }

    fn write_subnet_files(&mut self, handle: &Handle) {
        let Some(wanted) = &self.in_force else { return };
        if wanted.overlay.subnets.is_empty() {
            if self.written_env.take().is_some() {
                let outcome = self.written.remove();
                self.follow(Topic::SubnetFiles, outcome);
            }
            return;
        }
        let content = SubnetEnv::new(&wanted.overlay, handle.facts().mtu());
        let text = content.to_string();
        let is_so = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|present| present == text);
        if self.written_env.as_ref() == Some(&content) && self.subnet_files.iter().all(is_so) {
            return;
        }
        let outcome = self.written.write(&self.subnet_files, &content);
        self.written_env = outcome.is_ok().then_some(content);
        self.follow(Topic::SubnetFiles, outcome);
    }

    fn report(&self, handle: &Handle) {
        let mut refused = self.refused.clone();
        if let Some(view) = &self.view {
            refused.extend(self.plain_nodes(view).1);
        }
        let heard =
            self.heard.iter().filter(|(_, heard)| heard.ever).map(|(serial, heard)| (*serial, heard.at)).collect();
        let situation = Situation {
            member: &self.member,
            view: self.view.as_ref(),
            wanted: self.in_force.as_deref(),
            lease: self.lease.as_ref(),
            clients: &self.clients,
            public: &self.public,
            port: self.listen.port(),
            behind_nat: self.behind_nat,
            lost: self.lost.as_deref(),
            embedded: self.host.as_ref().is_some_and(Host::has_registry),
            alarms: self.alarms.values().collect(),
            refused: &refused,
            heard: &heard,
        };
        handle.facts().set_network(report::status(&situation));
    }

    // ---- from time to time ---------------------------------------------------------------------------------------------

    /// Traffic, addresses and times; answers whether anything follows.
    fn look_around(&mut self) -> bool {
        let mut news = self.member.forget_old_secrets() | self.again.is_some_and(|again| again <= Instant::now());
        self.remember();
        if let Some(outcome) = self.publisher.as_ref().map(Publisher::outcome) {
            self.follow(Topic::Authority, outcome);
        }
        // A file that was read again may say another port.
        let listen = self.handle.as_ref().map_or(self.listen, |handle| handle.facts().listen());
        let moved = std::mem::replace(&mut self.listen, listen) != listen;
        match self.find_places() {
            Ok(changed) => {
                let places = self.places();
                if let Some(lease) = self.lease.as_mut().filter(|_| changed || moved) {
                    lease.publish(places);
                }
                news |= changed || moved;
            }
            // The host may be between two addresses.
            Err(failure) => tracing::debug!("{failure}"),
        }
        if let Some(handle) = self.handle.clone() {
            news |= self.listen_to_peers(&handle);
            self.write_subnet_files(&handle);
            self.report(&handle);
        }
        news
    }

    /// Calls those that we had sessions with before a restart: theirs with us are worth nothing now.
    fn call_recent(&self, handle: &Handle) {
        let keys: Vec<PublicKey> = self.notes.recent.iter().filter_map(|key| key.parse().ok()).collect();
        if !keys.is_empty() {
            let handle = handle.clone();
            tokio::task::spawn_blocking(move || handle.call(keys));
        }
    }

    /// Notes who we have sessions with.
    fn note_recent(&mut self, picture: &Picture) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_recent = |at: Duration| now.saturating_sub(at) < SESSION;
        let called = |key: &PublicKey| self.began.elapsed() < SESSION && self.notes.recent.contains(&key.to_string());
        let mut recent: Vec<String> = picture
            .peers()
            // Those of the run before as well, until they had time to answer: this one may be short.
            .filter(|(peer, now)| {
                let is_known = || peer.public_key.as_ref().is_some_and(called);
                peer.origin == Origin::Network && (now.handshake.is_some_and(is_recent) || is_known())
            })
            .filter_map(|(peer, _)| peer.public_key.as_ref().map(ToString::to_string))
            .collect();
        recent.sort();
        if recent != self.notes.recent {
            self.notes.recent = recent;
            self.write_notes();
        }
    }

    /// Who was heard, and who does not answer where it was called.
    fn listen_to_peers(&mut self, handle: &Handle) -> bool {
        let (picture, now) = (handle.picture(), Instant::now());
        self.note_recent(&picture);
        let Some(view) = &self.view else { return false };
        let nodes: HashMap<[u8; 32], view::Node> =
            view.nodes().into_iter().map(|node| (node.sealed_key, node)).collect();
        let names: HashSet<&str> = nodes.values().map(|node| node.name.as_str()).collect();
        self.heard.retain(|serial, _| view.name(*serial).is_some());
        self.calling.retain(|name, _| names.contains(name.as_str()));
        self.turns.keep(|name| names.contains(name));
        let mut news = false;
        for (peer, state) in picture.peers().filter(|(peer, _)| peer.origin == Origin::Network) {
            let Some(node) = peer.public_key.as_ref().and_then(|key| nodes.get(key.as_bytes())) else { continue };
            let heard = self.heard.entry(node.serial).or_default();
            // A peer that was away and is there again counts from nothing.
            (heard.received, heard.sent) = (heard.received.min(state.received), heard.sent.min(state.sent));
            if state.received > heard.received {
                *heard = Heard { received: state.received, sent: state.sent, at: self.began.elapsed(), ever: true };
                self.calling.remove(&peer.name);
            } else if state.sent > heard.sent && peers::choices(node, self.listen) > 1 {
                let since = *self.calling.entry(peer.name.clone()).or_insert(now);
                if now.saturating_duration_since(since) > TRY {
                    self.turns.advance(&peer.name);
                    self.calling.remove(&peer.name);
                    heard.sent = state.sent;
                    news = true;
                }
            }
        }
        news
    }

    /// Where we are reached now; answers whether that is news.
    fn find_places(&mut self) -> Result<bool> {
        let networks = self.network.as_ref().map(NetworkConfig::networks).unwrap_or_default();
        let inside = |address: IpAddr| networks.iter().any(|net| net.contains(&address));
        let mut netlink = Netlink::open()?;
        let mut public =
            places::public_addresses(&mut netlink, &self.settings.public_ip, &self.member.registry_addresses, &inside)?;
        if self.listen.is_ipv4() {
            public.retain(IpAddr::is_ipv4);
        }
        let local = places::local_addresses(&mut netlink)?;
        let behind_nat = self.settings.public_ip == config::PublicIp::Auto
            && (self.notes.were_translated(&local) || places::are_translated(&public, &self.member.registry_addresses));
        let news = (&self.public, self.behind_nat) != (&public, behind_nat);
        (self.public, self.behind_nat) = (public, behind_nat);
        Ok(news)
    }

    /// Files may have changed. What they say is in force here when this is done; a removal does not wait for the registry.
    async fn refresh(&mut self) {
        self.clients = self.member.clients();
        if let Some(publisher) = &self.publisher {
            publisher.look();
            let removals = publisher.removals();
            let learned = removals.and_then(|removals| self.learn(removals).map_err(|e| e.to_string()));
            self.follow(Topic::Authority, learned.map(drop));
        }
        self.put_into_force().await;
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
