//! What a running daemon knows about itself, readable from any thread at any time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use linux::clock;
use linux::tun::{Offload, Offloads};
use linux::udp::Socket;
use tunnel::node::PeerState;
use tunnel::peer::Standing;
use tunnel::{PeerId, Reason, Time};
use wire::message::Suite;

use crate::api::status::{DeviceStatus, PeerStatus, Status, TransportStatus, WorkerStatus};
use crate::config::{Peer, Tunnel};
use crate::counters::{Drops, PerWorker, Traffic, WorkerCounters};
use crate::data_path::Surroundings;
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

/// Everything that `adit status` shows.
pub struct Facts {
    started: Instant,
    name: String,
    addresses: Vec<IpNet>,
    transport: TransportStatus,
    peers: Vec<PeerFacts>,
    device: Arc<ArcSwap<DeviceFacts>>,
    counters: Arc<PerWorker<WorkerCounters>>,
    control_drops: Arc<Drops>,
    node: SharedNode,
    sockets: Vec<Arc<Socket>>,
}

struct PeerFacts {
    peer: Peer,
    endpoint: Option<SocketAddr>,
    link: Arc<Link>,
}

impl Facts {
    /// The facts of a daemon with these parts. `endpoints` and `links` are in the order of the peers; `node` knows those
    /// that are encrypted.
    pub fn new(
        tunnel: &Tunnel,
        endpoints: &[Option<SocketAddr>],
        surroundings: &Surroundings,
        (links, node): (&[Arc<Link>], SharedNode),
        device: Arc<ArcSwap<DeviceFacts>>,
    ) -> Self {
        let first = surroundings.sockets.first();
        let (receive_buffer, send_buffer) = first.map_or((0, 0), |s| s.buffers());
        let peers = tunnel.peers.iter().zip(endpoints).zip(links);
        Self {
            started: Instant::now(),
            name: tunnel.device.name.clone(),
            addresses: tunnel.device.addresses.clone(),
            transport: TransportStatus {
                listen: first.map_or(tunnel.transport.listen, |s| s.local_address()),
                workers: surroundings.sockets.len(),
                offload: tunnel.transport.offload,
                segmentation: tunnel.transport.offload,
                busy_poll_us: u64::try_from(tunnel.transport.busy_poll.as_micros()).unwrap_or(u64::MAX),
                receive_buffer: receive_buffer as u64,
                send_buffer: send_buffer as u64,
            },
            peers: peers
                .map(|((peer, endpoint), link)| PeerFacts {
                    peer: peer.clone(),
                    endpoint: *endpoint,
                    link: Arc::clone(link),
                })
                .collect(),
            device,
            counters: Arc::clone(&surroundings.counters),
            control_drops: Arc::clone(&surroundings.control_drops),
            node,
            sockets: surroundings.sockets.clone(),
        }
    }

    /// The name of the device.
    pub fn device_name(&self) -> &str {
        &self.name
    }

    /// The addresses of the device, with the prefix length of their network.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// One line for a person who waits for it to be up.
    pub fn ready_line(&self) -> String {
        let addresses = match &self.addresses[..] {
            [] => "no address".to_owned(),
            some => some.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", "),
        };
        let device = self.device.load();
        let peers = match self.peers.len() {
            1 => "1 peer".to_owned(),
            n => format!("{n} peers"),
        };
        let insecure = match self.peers.iter().filter(|p| !p.peer.transport.is_secure()).count() {
            0 => String::new(),
            all if all == self.peers.len() => ", NOT ENCRYPTED (plain)".into(),
            some => format!(", {some} of them NOT ENCRYPTED (plain)"),
        };
        format!(
            "{} is up: {}, mtu {}, {peers} by UDP {}, {} worker{}{insecure}",
            self.name,
            addresses,
            device.mtu,
            self.transport.listen,
            self.transport.workers,
            if self.transport.workers == 1 { "" } else { "s" },
        )
    }

    /// The state at this moment.
    pub fn status(&self) -> Status {
        let device = self.device.load();
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
        let now = Time::from_nanos(clock::boottime());
        let states: Vec<_> = {
            let node = switchboard::lock(&self.node);
            (0..).map(PeerId).zip(&self.peers).map(|(id, _)| node.state(id, now)).collect()
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            device: DeviceStatus {
                name: self.name.clone(),
                mode: "tun".into(),
                mtu: device.mtu,
                addresses: self.addresses.clone(),
                offloads: offload_names(device.offloads.level),
                reason: device.offloads.reason.clone(),
            },
            transport: TransportStatus {
                segmentation: self.sockets.iter().all(|socket| socket.segmentation()),
                ..self.transport.clone()
            },
            peers: self.peers.iter().zip(&states).map(|(peer, state)| peer.status(state.as_ref(), now)).collect(),
            workers: workers.collect(),
            drops: Reason::ALL.iter().copied().map(drops).filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>(),
        }
    }
}

impl PeerFacts {
    fn status(&self, state: Option<&PeerState>, now: Time) -> PeerStatus {
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
            name: self.peer.name.clone(),
            public_key: self.peer.public_key.as_ref().map(ToString::to_string),
            endpoint: state.map_or(self.endpoint, |state| state.endpoint).as_ref().map(ToString::to_string),
            transport: self.peer.transport.to_string(),
            secure: self.peer.transport.is_secure(),
            session: state.map_or("none", |state| standing(state.standing)).into(),
            handshake_s: state.and_then(|state| state.handshake).map(|at| now.since(at).as_secs()),
            suite: state.and_then(|state| state.suite).map(|suite| suite_name(suite).to_owned()),
            problem: state.and_then(|state| state.problem).map(|problem| problem.sentence().to_owned()),
            preshared_key: self.peer.preshared_key.is_some(),
            keepalive_s: self.peer.keepalive.map(|keepalive| keepalive.as_secs()),
            path_mtu: state.map(|state| state.mtu as u64).filter(|mtu| *mtu > 0),
            allowed_ips: self.peer.allowed_ips.clone(),
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
