//! What a running daemon knows about itself, readable from any thread at any time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use linux::clock;
use linux::tun::{Offload, Offloads};
use linux::udp::{LocalAddress, Socket};
use tokio::sync::Notify;
use tunnel::gauge::Measured;
use tunnel::node::PeerState;
use tunnel::peer::Standing;
use tunnel::switch::Switch;
use tunnel::{PeerId, Reason, Time};
use wire::message::Suite;

use crate::api::status::{
    DeviceStatus, NetworkStatus, PeerStatus, Status, SwitchStatus, TransportStatus, WorkerStatus,
};
use crate::config::{Peer, Tunnel};
use crate::container::{Record, Store};
use crate::counters::{ControlCounters, Counter, Drops, NamesCounters, PerWorker, Traffic, Wire, WorkerCounters};
use crate::data_path::Surroundings;
use crate::observe::containers;
use crate::request::{PeerNow, Picture};
use crate::roster::{Identity, Roster};
use crate::switchboard::{self, SharedNode};
use crate::worker::Link;

/// What can change about the device while it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Largest packet in bytes.
    pub mtu: u32,
    /// What the kernel agreed to.
    pub offloads: Offloads,
}

impl Default for DeviceFacts {
    fn default() -> Self {
        Self { mtu: 0, offloads: Offloads { level: Offload::None, reason: None } }
    }
}

/// Everything that `adit status` and `wg show` show.
pub struct Facts {
    started: Instant,
    began: Duration,
    name: String,
    known: ArcSwap<Known>,
    device: Arc<ArcSwap<DeviceFacts>>,
    counters: Arc<PerWorker<WorkerCounters>>,
    control_drops: Arc<Drops>,
    control: Arc<ControlCounters>,
    names: NamesCounters,
    node: SharedNode,
    network: ArcSwapOption<NetworkStatus>,
    containers: Store,
    names_problems: ArcSwap<Vec<String>>,
    switch: Option<Arc<Switch>>,
    switch_problem: ArcSwapOption<String>,
    changed: Notify,
    turn: Turn,
}

/// When control looked last, and what it saw.
#[derive(Default)]
struct Turn {
    /// Nanoseconds after the start.
    at: AtomicU64,
    works: AtomicBool,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// What it is called.
    pub name: String,
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Where on this host its datagrams arrive.
    pub local: Option<LocalAddress>,
    /// The largest packet that is sent there, in bytes; 0 while that is not known.
    pub mtu: usize,
}

/// What another configuration changes.
struct Known {
    tunnel: Arc<Tunnel>,
    sockets: Vec<Arc<Socket>>,
    buffers: (usize, usize),
    /// In the order of the configuration.
    peers: Vec<PeerFacts>,
}

struct PeerFacts {
    id: PeerId,
    endpoint: Option<SocketAddr>,
    link: Arc<Link>,
}

impl Known {
    fn new(tunnel: Arc<Tunnel>, roster: &Roster, sockets: &[Arc<Socket>]) -> Self {
        let facts = |peer: &Peer| {
            let id = roster.find(&Identity::of(peer))?;
            let member = roster.get(id)?;
            Some(PeerFacts { id, endpoint: member.configured, link: Arc::clone(&member.link) })
        };
        let peers = tunnel.peers.iter().filter_map(facts).collect();
        let buffers = sockets.first().map_or((0, 0), |socket| socket.buffers());
        Self { tunnel, sockets: sockets.to_vec(), buffers, peers }
    }

    fn listen(&self) -> SocketAddr {
        self.sockets.first().map_or(self.tunnel.transport.listen, |socket| socket.local_address())
    }
}

impl Facts {
    /// The facts of a daemon with these parts. `node` knows those peers that are encrypted.
    pub fn new(
        tunnel: Arc<Tunnel>,
        roster: &Roster,
        surroundings: &Surroundings,
        (node, device): (SharedNode, Arc<ArcSwap<DeviceFacts>>),
        (containers, switch): (Store, Option<Arc<Switch>>),
    ) -> Self {
        Self {
            started: Instant::now(),
            began: clock::realtime(),
            name: tunnel.device.name.clone(),
            known: ArcSwap::from_pointee(Known::new(tunnel, roster, &surroundings.sockets)),
            device,
            counters: Arc::clone(&surroundings.counters),
            control_drops: Arc::clone(&surroundings.control_drops),
            control: Arc::clone(&surroundings.control),
            names: NamesCounters::default(),
            node,
            network: ArcSwapOption::empty(),
            containers,
            names_problems: ArcSwap::default(),
            switch,
            switch_problem: ArcSwapOption::empty(),
            changed: Notify::new(),
            turn: Turn::default(),
        }
    }

    /// What is to be said of the network that this host is a node of.
    pub fn set_network(&self, status: NetworkStatus) {
        self.network.store(Some(Arc::new(status)));
        self.changed.notify_one();
    }

    /// The network as it was said to be last.
    pub fn network(&self) -> Option<Arc<NetworkStatus>> {
        self.network.load_full()
    }

    /// The configuration in force.
    pub fn tunnel(&self) -> Arc<Tunnel> {
        Arc::clone(&self.known.load().tunnel)
    }

    /// Waits until network or configuration may be other ones. For one who waits: the resolver.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What keeps names from being answered, each as a sentence without its full stop.
    pub fn set_names_problems(&self, problems: Vec<String>) {
        self.names_problems.store(Arc::new(problems));
    }

    /// Control lives, and whether the workers do.
    pub fn set_turn(&self, works: bool) {
        self.turn.works.store(works, Ordering::Relaxed);
        self.turn.at.store(u64::try_from(self.uptime().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago control looked last; it does so once a minute at the latest.
    pub fn since_turn(&self) -> Duration {
        self.uptime().saturating_sub(Duration::from_nanos(self.turn.at.load(Ordering::Relaxed)))
    }

    /// Whether all workers lived when control looked last.
    pub fn is_working(&self) -> bool {
        self.turn.works.load(Ordering::Relaxed)
    }

    /// How long ago the daemon began to set up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What is wrong with the network behind the device, as a sentence without its full stop.
    pub fn set_switch_problem(&self, problem: Option<String>) {
        self.switch_problem.store(problem.map(Arc::new));
    }

    /// Another configuration is in force, its peers are in the roster.
    pub fn follow(&self, tunnel: Arc<Tunnel>, roster: &Roster, sockets: &[Arc<Socket>]) {
        self.known.store(Arc::new(Known::new(tunnel, roster, sockets)));
        self.changed.notify_one();
    }

    /// The name of the device.
    pub fn device_name(&self) -> &str {
        &self.name
    }

    /// The device on this host of the container that has this address.
    pub fn port_of_container(&self, address: IpAddr) -> Option<String> {
        let (records, _) = self.containers.read_each().ok()?;
        let its = |record: &Record| record.addresses.iter().any(|net| net.addr() == address);
        records.into_iter().find(its).map(|record| record.host_interface)
    }

    /// The largest packet of the device, in bytes.
    pub fn mtu(&self) -> u32 {
        self.device.load().mtu
    }

    /// The addresses of the device, with the prefix length of their network.
    pub fn addresses(&self) -> Vec<IpNet> {
        self.known.load().tunnel.addresses().collect()
    }

    /// The peer of this name, as it is configured, and its number.
    pub fn peer_named(&self, name: &str) -> Option<(PeerId, Peer)> {
        self.find_peer(|_, peer| peer.name == name)
    }

    /// The peer of this number, as it is configured.
    pub fn peer(&self, id: PeerId) -> Option<Peer> {
        self.find_peer(|facts, _| facts.id == id).map(|(_, peer)| peer)
    }

    fn find_peer(&self, is_meant: impl Fn(&PeerFacts, &Peer) -> bool) -> Option<(PeerId, Peer)> {
        let known = self.known.load();
        let mut all = known.peers.iter().zip(&known.tunnel.peers);
        all.find(|(facts, peer)| is_meant(facts, peer)).map(|(facts, peer)| (facts.id, peer.clone()))
    }

    /// The address and port that the sockets are bound to.
    pub fn listen(&self) -> SocketAddr {
        self.known.load().listen()
    }

    /// One line for a person who waits for it to be up.
    pub fn ready_line(&self) -> String {
        let (device, known) = (self.device.load(), self.known.load());
        let tunnel = &known.tunnel;
        let mut addresses: Vec<_> = tunnel.device.addresses.iter().map(IpNet::to_string).collect();
        if let Some(overlay) = &tunnel.overlay {
            let list = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" and ");
            addresses.push(format!("{} of {}", list(&overlay.subnets), list(&overlay.networks)));
        }
        if addresses.is_empty() {
            addresses.push("no address".into());
        }
        let peers = match tunnel.peers.len() {
            1 => "1 peer".to_owned(),
            n => format!("{n} peers"),
        };
        let insecure = match tunnel.peers.iter().filter(|peer| !peer.transport.is_secure()).count() {
            0 => String::new(),
            all if all == tunnel.peers.len() => ", NOT ENCRYPTED (plain)".into(),
            some => format!(", {some} of them NOT ENCRYPTED (plain)"),
        };
        format!(
            "{} is up: {}, mtu {}, {peers} by UDP {}, {} worker{}{insecure}",
            self.name,
            addresses.join(", "),
            device.mtu,
            known.listen(),
            known.sockets.len(),
            if known.sockets.len() == 1 { "" } else { "s" },
        )
    }

    /// What workers count.
    pub fn workers(&self) -> &PerWorker<WorkerCounters> {
        &self.counters
    }

    /// What control counts.
    pub fn control(&self) -> &ControlCounters {
        &self.control
    }

    /// What the resolver counts.
    pub fn names(&self) -> &NamesCounters {
        &self.names
    }

    /// When the daemon began to set up, since 1970-01-01 as the clock was then.
    pub fn began(&self) -> Duration {
        self.began
    }

    /// The state at this moment.
    pub fn status(&self) -> Status {
        self.status_and_peers().0
    }

    /// The state at this moment, and more of each peer in it, in the same order.
    pub fn status_and_peers(&self) -> (Status, Vec<PeerNow>) {
        let (device, known) = (self.device.load(), self.known.load_full());
        let workers = self.counters.iter().map(|w| WorkerStatus {
            rx_packets: w.ingress.packets.get(),
            tx_packets: w.egress.packets.get(),
            rx_batches: w.receives.get(),
            tx_batches: w.sends.get(),
            device_reads: w.device_reads.get(),
            device_writes: w.device_writes.get(),
        });
        let drops = |reason: Reason| {
            let of_workers = self.counters.iter().map(|w| w.drops(reason)).sum::<u64>();
            (reason.name().to_owned(), of_workers + self.control_drops.get(reason))
        };
        let (now, states) = self.states(&known);
        let transport = &known.tunnel.transport;
        let peers = known.tunnel.peers.iter().zip(&known.peers).zip(&states);
        let mut network = self.network.load_full().map(|status| NetworkStatus::clone(&status));
        if let Some(network) = &mut network {
            containers::add(network, &self.containers);
            network.problems.extend(self.names_problems.load().iter().cloned());
        }
        let more = known.peers.iter().zip(&states).map(|(facts, state)| facts.now(state.as_ref())).collect();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            device: DeviceStatus {
                name: self.name.clone(),
                mode: if known.tunnel.ethernet.is_some() { "tap" } else { "tun" }.into(),
                mtu: device.mtu,
                addresses: known.tunnel.addresses().collect(),
                offloads: offload_names(device.offloads.level),
                reason: device.offloads.reason.clone(),
            },
            transport: TransportStatus {
                listen: known.listen(),
                workers: known.sockets.len(),
                offload: transport.offload,
                segmentation: known.sockets.iter().all(|socket| socket.segmentation()),
                busy_poll_us: u64::try_from(transport.busy_poll.as_micros()).unwrap_or(u64::MAX),
                receive_buffer: known.buffers.0 as u64,
                send_buffer: known.buffers.1 as u64,
            },
            peers: peers.map(|((peer, facts), state)| facts.status(peer, state.as_ref(), now)).collect(),
            workers: workers.collect(),
            drops: Reason::ALL.iter().copied().map(drops).filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>(),
            network,
            switch: self.switch_status(&known, now),
        };
        (status, more)
    }

    fn switch_status(&self, known: &Known, now: Time) -> Option<SwitchStatus> {
        let switch = self.switch.as_ref()?;
        let counts = switch.counts(now);
        let held = known.tunnel.peers.iter().zip(&known.peers);
        let held = held.map(|(peer, facts)| (peer.name.clone(), switch.held_by(facts.id) as u64));
        Some(SwitchStatus {
            bridge: known.tunnel.ethernet.as_ref().and_then(|ethernet| ethernet.bridge.clone()),
            reserve: known.tunnel.ethernet.as_ref().map(|ethernet| ethernet.reserve.clone()).unwrap_or_default(),
            local_macs: counts.local as u64,
            peer_macs: counts.remote as u64,
            neighbours: counts.neighbours as u64,
            moves: counts.moves,
            refused: counts.refused,
            flooded: counts.flooded,
            answered: counts.answered,
            peers: held.filter(|(_, macs)| *macs > 0).collect(),
            problem: self.switch_problem.load().as_deref().cloned(),
        })
    }

    /// Configuration and state at this moment.
    pub fn picture(&self) -> Picture {
        let known = self.known.load_full();
        let (_, states) = self.states(&known);
        let peers = known.peers.iter().zip(&states).map(|(facts, state)| facts.now(state.as_ref()));
        Picture { tunnel: Arc::clone(&known.tunnel), listen: known.listen(), peers: peers.collect() }
    }

    /// Where a peer is now, and what it is called.
    pub fn whereabouts(&self, id: PeerId) -> Option<Whereabouts> {
        let known = self.known.load();
        let (peer, facts) = known.tunnel.peers.iter().zip(&known.peers).find(|(_, facts)| facts.id == id)?;
        let state = switchboard::lock(&self.node).state(id, Time::from_nanos(clock::boottime()));
        Some(Whereabouts {
            name: peer.name.clone(),
            endpoint: state.map_or(facts.endpoint, |state| state.endpoint),
            local: facts.link.local.load().as_deref().copied(),
            mtu: state.map_or(0, |state| state.mtu),
        })
    }

    /// What measuring the way to a peer has found by now; see [`Handle::measure`](crate::request::Handle::measure).
    pub fn measured(&self, id: PeerId) -> Option<Measured> {
        switchboard::lock(&self.node).measured(id)
    }

    fn states(&self, known: &Known) -> (Time, Vec<Option<PeerState>>) {
        let now = Time::from_nanos(clock::boottime());
        let node = switchboard::lock(&self.node);
        (now, known.peers.iter().map(|peer| node.state(peer.id, now)).collect())
    }
}

impl PeerFacts {
    fn now(&self, state: Option<&PeerState>) -> PeerNow {
        let link = &self.link;
        let sum = |of: fn(&Wire) -> &Counter| {
            link.traffic.iter().map(|traffic| of(&traffic.wire).get()).sum::<u64>() + of(&link.by_control).get()
        };
        let shaken = link.shaken.load(Ordering::Relaxed);
        PeerNow {
            endpoint: state.map_or(self.endpoint, |state| state.endpoint),
            handshake: (shaken != 0).then(|| Duration::from_nanos(shaken)),
            received: sum(|wire| &wire.received),
            sent: sum(|wire| &wire.sent),
        }
    }

    fn status(&self, peer: &Peer, state: Option<&PeerState>, now: Time) -> PeerStatus {
        let sum = |of: fn(&crate::counters::PeerTraffic) -> &Traffic| {
            self.link
                .traffic
                .iter()
                .map(|t| of(t))
                .fold((0, 0), |(packets, bytes), t| (packets + t.packets.get(), bytes + t.bytes.get()))
        };
        let (rx_packets, rx_bytes) = sum(|t| &t.ingress);
        let (tx_packets, tx_bytes) = sum(|t| &t.egress);
        PeerStatus {
            name: peer.name.clone(),
            public_key: peer.public_key.as_ref().map(ToString::to_string),
            endpoint: state.map_or(self.endpoint, |state| state.endpoint).as_ref().map(ToString::to_string),
            transport: peer.transport.to_string(),
            secure: peer.transport.is_secure(),
            session: state.map_or("none", |state| standing(state.standing)).into(),
            handshake_s: state.and_then(|state| state.handshake).map(|at| now.since(at).as_secs()),
            suite: state.and_then(|state| state.suite).map(|suite| suite_name(suite).to_owned()),
            problem: state.and_then(|state| state.problem).map(|problem| problem.sentence().to_owned()),
            preshared_key: peer.preshared_key.is_some(),
            keepalive_s: peer.keepalive.map(|keepalive| keepalive.as_secs()),
            path_mtu: state.map(|state| state.mtu as u64).filter(|mtu| *mtu > 0),
            round_trip_us: Some(self.link.round_trip.load(Ordering::Relaxed))
                .filter(|ns| *ns > 0)
                .map(|ns| ns.div_ceil(1000)),
            allowed_ips: peer.allowed_ips.clone(),
            rx_bytes,
            tx_bytes,
            rx_packets,
            tx_packets,
        }
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Idle => "none",
        Standing::Calling => "handshaking",
        Standing::Up => "up",
        Standing::Refused => "refused",
    }
}

fn suite_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes256Gcm => "AES-256-GCM",
        Suite::ChaCha20Poly1305 => "ChaCha20-Poly1305",
    }
}

fn offload_names(level: Offload) -> Vec<String> {
    let steps = [
        (Offload::Checksum, ["csum"].as_slice()),
        (Offload::Tcp, &["tso4", "tso6"]),
        (Offload::Udp, &["uso4", "uso6"]),
    ];
    steps
        .iter()
        .filter(|(step, _)| *step <= level)
        .flat_map(|(_, names)| names.iter().map(|n| (*n).to_owned()))
        .collect()
}
