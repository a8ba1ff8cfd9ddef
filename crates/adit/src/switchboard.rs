//! The encrypted peers, on the control thread: feeds the [`Node`] with what workers hand over and with time, and does what it says.
//!
//! The node decides and this carries out: it sends datagrams by the first socket, keeps the mark of the timestamps on disk, wakes
//! workers whose packets wait, and passes on what concerns the host as a [`Change`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use linux::udp::{Flow, LocalAddress, SendQueue};
use linux::{clock, cpu};
use tunnel::admission::Admission;
use tunnel::handshake::Identity;
use tunnel::node::{Random, Settings};
use tunnel::peer::PeerSettings;
use tunnel::{Node, Now, Output, PeerId, Remote, Time};
use wire::ecn::Ecn;
use wire::message::{Mode, Protocol};
use zeroize::Zeroizing;

use crate::config::{TransportKind, Tunnel};
use crate::data_path::Surroundings;
use crate::mark::MarkFile;
use crate::worker::mailbox::Mailbox;
use crate::worker::{GapWatch, Link, Secrets};
use crate::{Failure, Result};

/// Messages of handshakes computed before other things have their turn: some ten milliseconds' worth.
const ARRIVALS_PER_TURN: usize = 64;

/// What the host must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The largest packet that the path to a peer takes changed.
    Path(PeerId),
    /// A peer is at another address.
    Moved(PeerId, SocketAddr),
}

/// The node, shared with whoever asks for its state.
pub type SharedNode = Arc<Mutex<Node>>;

/// See the module.
pub struct Switchboard {
    node: SharedNode,
    surroundings: Surroundings,
    links: Vec<Arc<Link>>,
    path_mtus: Vec<Option<usize>>,
    mark: MarkFile,
    gap: GapWatch,
    sender: SendQueue,
    changes: VecDeque<Change>,
    complaint: Option<String>,
}

/// Randomness of the operating system.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        rand::fill(bytes).is_ok()
    }
}

fn protocol(kind: TransportKind) -> Option<Protocol> {
    match kind {
        TransportKind::Sealed => Some(Protocol::Sealed),
        TransportKind::WireGuard => Some(Protocol::WireGuard),
        TransportKind::Plain => None,
    }
}

/// The node of a configuration, and what its workers share of it.
///
/// # Errors
/// A key that is none; a mark that cannot be read.
pub fn node(tunnel: &Tunnel, endpoints: &[Option<SocketAddr>], mark: &MarkFile) -> Result<(SharedNode, Secrets)> {
    let mut identities = Vec::new();
    for kind in [TransportKind::Sealed, TransportKind::WireGuard] {
        let used = tunnel.peers.iter().any(|peer| peer.transport == kind);
        let special = tunnel.device.wireguard_private_key.as_ref().filter(|_| kind == TransportKind::WireGuard);
        let key = special.or(tunnel.device.private_key.as_ref());
        if let (Some(protocol), Some(key), true) = (protocol(kind), key, used) {
            let identity = Identity::new(key.as_bytes()).map_err(|e| Failure::failed(format!("our key: {e}")))?;
            identities.push((protocol, identity));
        }
    }
    let publics: Vec<_> = identities.iter().map(|(protocol, identity)| (*protocol, *identity.public())).collect();
    let peers = (0..).map(PeerId).zip(&tunnel.peers).zip(endpoints).filter_map(|((id, peer), endpoint)| {
        let settings = PeerSettings {
            protocol: protocol(peer.transport)?,
            public: *peer.public_key.as_ref()?.as_bytes(),
            preshared: Zeroizing::new(peer.preshared_key.as_ref().map_or([0; 32], |key| *key.as_bytes())),
            keepalive: peer.keepalive,
            endpoint: *endpoint,
        };
        Some((id, settings))
    });
    let settings = Settings { identities, mode: Mode::Tun, mtu: 0, aes: cpu::has_aes(), mark: mark.read()? };
    let node = Node::new(settings, peers.collect(), Box::new(SystemRandom));
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(secret.as_mut()).map_err(|_| Failure::failed("the random generator failed"))?;
    let secrets = Secrets {
        sessions: node.table(),
        admission: Arc::new(Admission::new(&publics, secret)),
        mailbox: Arc::new(Mailbox::default()),
    };
    Ok((Arc::new(Mutex::new(node)), secrets))
}

fn now() -> Now {
    Now { time: Time::from_nanos(clock::boottime()), wall: clock::realtime() }
}

impl Switchboard {
    /// The switchboard of a [`node`].
    pub fn new(node: SharedNode, surroundings: Surroundings, links: Vec<Arc<Link>>, mark: MarkFile) -> Self {
        let gap = GapWatch::new(Arc::clone(&surroundings.gap_noticed));
        let path_mtus = links.iter().map(|_| None).collect();
        Self {
            node,
            surroundings,
            links,
            path_mtus,
            mark,
            gap,
            sender: SendQueue::unbatched(),
            changes: VecDeque::new(),
            complaint: None,
        }
    }

    /// The node, for whoever asks for its state.
    pub fn node(&self) -> SharedNode {
        Arc::clone(&self.node)
    }

    /// What workers share of an encrypted peer.
    pub fn remote(&self, id: PeerId) -> Option<Arc<Remote>> {
        lock(&self.node).remote(id)
    }

    /// The largest packet that the path to a peer takes, if that was found out.
    pub fn path_mtu(&self, id: PeerId) -> Option<usize> {
        self.path_mtus.get(id.0 as usize).copied().flatten()
    }

    /// Says how large a packet the device takes, and the first link towards each peer.
    pub fn set_mtu(&mut self, device: u32, paths: &[usize]) {
        let mut node = lock(&self.node);
        node.set_mtu(u16::try_from(device).unwrap_or(u16::MAX));
        for (id, path) in (0..).map(PeerId).zip(paths) {
            node.set_path(id, (*path).min(device as usize));
        }
    }

    /// Begins to call peers.
    pub fn start(&mut self) {
        lock(&self.node).start(now());
        self.carry_out(None);
    }

    /// How long nothing has to be done if nothing happens.
    pub fn wait(&self) -> Duration {
        let deadline = lock(&self.node).deadline();
        deadline.map_or(Duration::MAX, |deadline| deadline.since(now().time))
    }

    /// The next change that the host must follow.
    pub fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// The machine slept, as a worker has noticed.
    pub fn gap(&mut self) {
        tracing::info!("the machine slept or its clock was set: every session is agreed on anew");
        lock(&self.node).handle_gap(now());
        self.carry_out(None);
    }

    /// Handles what workers handed over and what is due.
    pub fn work(&mut self) {
        if self.gap.gap(now().time).is_some_and(|gap| gap.first) {
            self.gap();
        }
        let mailbox = Arc::clone(&self.surroundings.secrets.mailbox);
        while let Some((notice, local)) = mailbox.next_notice() {
            lock(&self.node).handle_notice(notice, now());
            self.carry_out(local);
        }
        for _ in 0..ARRIVALS_PER_TURN {
            let Some(arrival) = mailbox.next_arrival() else { break };
            let outcome = lock(&self.node).handle_datagram(arrival.datagram(), arrival.from, arrival.known, now());
            if let Err(reason) = outcome {
                self.surroundings.control_drops.add(reason, 1);
            }
            self.carry_out(arrival.local);
        }
        lock(&self.node).handle_timeout(now());
        self.carry_out(None);
    }

    /// Does what the node says. `local` is where the datagram came to that it was told of.
    fn carry_out(&mut self, local: Option<LocalAddress>) {
        loop {
            let Some(output) = lock(&self.node).next_output() else { break };
            match output {
                Output::Transmit { peer, to, reply, datagram } => {
                    let link = peer.and_then(|id| self.links.get(id.0 as usize));
                    let known = || link.and_then(|link| link.local.load().as_deref().copied());
                    let from = if reply { local } else { known() };
                    self.transmit(to, from, &datagram);
                }
                Output::SessionUp(_) => self.nudge(),
                Output::GaveUp(id) => {
                    if let Some(link) = self.links.get(id.0 as usize) {
                        link.given_up.store(now().time.as_nanos(), Ordering::Release);
                    }
                    self.nudge();
                }
                Output::Mark(mark) => self.keep_mark(mark),
                Output::PathMtu(id, mtu) => {
                    if let Some(slot) = self.path_mtus.get_mut(id.0 as usize) {
                        *slot = Some(mtu);
                    }
                    self.changes.push_back(Change::Path(id));
                }
                Output::Moved(id, endpoint) => self.changes.push_back(Change::Moved(id, endpoint)),
            }
        }
    }

    fn transmit(&mut self, to: SocketAddr, from: Option<LocalAddress>, datagram: &[u8]) {
        let Some(socket) = self.surroundings.sockets.first() else { return };
        let flow = Flow { to, from, ecn: Ecn::NotEct, lane: 0, tag: 0 };
        let Ok(slot) = self.sender.slot(&flow, datagram.len()) else { return };
        slot.copy_from_slice(datagram);
        self.sender.commit(datagram.len());
        self.sender.flush(socket, |sent| {
            if let Some((_, error)) = sent.failed {
                tracing::debug!("a datagram to {to} was not sent: {error:?}");
            }
        });
    }

    fn nudge(&self) {
        for nudge in &self.surroundings.nudges {
            nudge.wake();
        }
    }

    fn keep_mark(&mut self, mark: Duration) {
        match self.mark.write(mark) {
            Ok(()) => {
                self.complaint = None;
                lock(&self.node).marked(mark, now());
            }
            Err(failure) => {
                // What is agreed on goes on; a new handshake waits until the disk takes the mark.
                let complaint = failure.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!("{complaint}; no handshake can be begun until then");
                }
                self.complaint = Some(complaint);
            }
        }
    }
}

/// A thread that panicked with the lock left a node that is whole: it changes nothing half.
pub fn lock(node: &SharedNode) -> MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}
