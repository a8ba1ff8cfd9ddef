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
use linux::udp::{Flow, LocalAddress, SendQueue, Socket};
use linux::{clock, cpu};
use tunnel::admission::Admission;
use tunnel::handshake::Identity;
use tunnel::network::Membership;
use tunnel::node::{PeerState, Random, Settings};
use tunnel::peer::{PeerSettings, Standing};
use tunnel::{Node, Now, Output, PeerId, Reason, Remote, Time};
use wire::ecn::Ecn;
use wire::message::{Mode, Protocol};
use zeroize::Zeroizing;

use crate::config::{self, TransportKind, Tunnel};
use crate::data_path::Surroundings;
use crate::key::PrivateKey;
use crate::mark::MarkFile;
use crate::roster::{Member, Roster};
use crate::worker::mailbox::{Mailbox, Told};
use crate::worker::{GapWatch, Secrets};
use crate::{Failure, Result};

/// Messages of handshakes computed before other things have their turn: some ten milliseconds' worth.
const ARRIVALS_PER_TURN: usize = 64;

/// What the host must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The largest packet that the path to a peer takes changed, in bytes.
    Path(PeerId, usize),
    /// A peer is at another address.
    Moved(PeerId, SocketAddr),
    /// A peer does not answer, wherever it was called.
    GaveUp(PeerId),
}

/// The node, shared with whoever asks for its state.
pub type SharedNode = Arc<Mutex<Node>>;

/// See the module.
pub struct Switchboard {
    node: SharedNode,
    surroundings: Surroundings,
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

/// The protocol of an encrypted transport.
pub fn protocol(kind: TransportKind) -> Option<Protocol> {
    match kind {
        TransportKind::Sealed => Some(Protocol::Sealed),
        TransportKind::WireGuard => Some(Protocol::WireGuard),
        TransportKind::Plain => None,
    }
}

/// Our key in each encrypted transport that is in use.
pub fn keys(tunnel: &Tunnel) -> [(Protocol, Option<&PrivateKey>); 2] {
    let used = |kind| tunnel.peers.iter().any(|peer| peer.transport == kind);
    let device = &tunnel.device;
    // The key of a node of a network serves sealed peers alone, before there are any too.
    let shared = device.private_key.as_ref().filter(|_| !is_node(tunnel));
    let special = device.wireguard_private_key.as_ref().or(shared);
    [
        (Protocol::Sealed, device.private_key.as_ref().filter(|_| used(TransportKind::Sealed))),
        (Protocol::WireGuard, special.filter(|_| used(TransportKind::WireGuard))),
    ]
}

/// Whether this host is a node of a network, or about to be one.
pub fn is_node(tunnel: &Tunnel) -> bool {
    tunnel.network.is_some() || tunnel.overlay.is_some()
}

/// What sealed handshakes are bound to.
pub fn membership(tunnel: &Tunnel) -> Option<&Membership> {
    tunnel.overlay.as_ref()?.membership.as_ref()
}

/// What agrees on sessions with a key.
///
/// # Errors
/// A key that is none.
pub fn identity(key: &PrivateKey) -> Result<Identity> {
    Identity::new(key.as_bytes()).map_err(|e| Failure::failed(format!("our key: {e}")))
}

fn settings(peer: &config::Peer, endpoint: Option<SocketAddr>) -> Option<PeerSettings> {
    Some(PeerSettings {
        protocol: protocol(peer.transport)?,
        public: *peer.public_key.as_ref()?.as_bytes(),
        preshared: preshared(peer),
        keepalive: peer.keepalive,
        endpoint,
    })
}

fn preshared(peer: &config::Peer) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(peer.preshared_key.as_ref().map_or([0; 32], |key| *key.as_bytes()))
}

/// The node of a configuration, and what its workers share of it.
///
/// # Errors
/// A key that is none; a mark that cannot be read.
pub fn node(tunnel: &Tunnel, roster: &Roster, mark: &MarkFile) -> Result<(SharedNode, Secrets)> {
    let mut identities = Vec::new();
    for (protocol, key) in keys(tunnel) {
        if let Some(key) = key {
            identities.push((protocol, identity(key)?));
        }
    }
    let publics: Vec<_> = identities.iter().map(|(protocol, identity)| (*protocol, *identity.public())).collect();
    let peers = roster.iter().filter_map(|(id, member)| Some((id, settings(&member.peer, member.configured)?)));
    let network = membership(tunnel).cloned();
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(secret.as_mut()).map_err(|_| Failure::failed("the random generator failed"))?;
    let admission = Admission::new(&publics, secret);
    admission.set_membership(network.as_ref());
    let mode = if tunnel.ethernet.is_some() { Mode::Tap } else { Mode::Tun };
    let settings = Settings { identities, mode, mtu: 0, aes: cpu::has_aes(), mark: mark.read()?, network };
    let node = Node::new(settings, peers.collect(), Box::new(SystemRandom));
    let (admission, mailbox) = (Arc::new(admission), Arc::new(Mailbox::default()));
    let secrets = Secrets { sessions: node.table(), admission, mailbox };
    Ok((Arc::new(Mutex::new(node)), secrets))
}

fn now() -> Now {
    Now { time: Time::from_nanos(clock::boottime()), wall: clock::realtime() }
}

impl Switchboard {
    /// The switchboard of a [`node`].
    pub fn new(node: SharedNode, surroundings: Surroundings, mark: MarkFile) -> Self {
        let gap = GapWatch::new(Arc::clone(&surroundings.gap_noticed));
        let (sender, changes) = (SendQueue::unbatched(), VecDeque::new());
        Self { node, surroundings, mark, gap, sender, changes, complaint: None }
    }

    /// The node, for whoever asks for its state.
    pub fn node(&self) -> SharedNode {
        Arc::clone(&self.node)
    }

    /// What workers share of an encrypted peer.
    pub fn remote(&self, id: PeerId) -> Option<Arc<Remote>> {
        lock(&self.node).remote(id)
    }

    /// Where we are with a peer.
    pub fn state(&self, id: PeerId) -> Option<PeerState> {
        lock(&self.node).state(id, now().time)
    }

    /// Says how large a packet the device takes, and the first link towards each peer.
    pub fn set_mtu(&mut self, device: u32, roster: &Roster) {
        let mut node = lock(&self.node);
        node.set_mtu(u16::try_from(device).unwrap_or(u16::MAX));
        for (id, member) in roster.iter() {
            node.set_path(id, member.width.learned.min(device as usize));
        }
    }

    /// Begins to call peers.
    pub fn start(&mut self, roster: &Roster) {
        lock(&self.node).start(now());
        self.carry_out(None, roster);
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
    pub fn gap(&mut self, roster: &Roster) {
        tracing::info!("the machine slept or its clock was set: every session is agreed on anew");
        self.surroundings.control.gaps.add(1);
        lock(&self.node).handle_gap(now());
        self.carry_out(None, roster);
    }

    /// Handles what workers handed over and what is due.
    pub fn work(&mut self, roster: &Roster) {
        if self.gap.gap(now().time).is_some_and(|gap| gap.first) {
            self.gap(roster);
        }
        let mailbox = Arc::clone(&self.surroundings.secrets.mailbox);
        while let Some((notice, local)) = mailbox.next_notice() {
            lock(&self.node).handle_notice(notice, now());
            self.carry_out(local, roster);
        }
        for _ in 0..ARRIVALS_PER_TURN {
            let Some(arrival) = mailbox.next_arrival() else { break };
            let outcome = lock(&self.node).handle_datagram(arrival.datagram(), arrival.from, arrival.known, now());
            match outcome {
                Ok(id) => {
                    if let Some(member) = roster.get(id) {
                        member.link.by_control.received.add(arrival.datagram().len() as u64);
                    }
                }
                Err(reason) => self.surroundings.control_drops.add(reason, 1),
            }
            self.carry_out(arrival.local, roster);
        }
        lock(&self.node).handle_timeout(now());
        self.carry_out(None, roster);
    }

    // ---- another configuration -----------------------------------------------------------------------------------------

    /// Takes an encrypted peer in.
    pub fn add(&mut self, id: PeerId, member: &Member) {
        if let Some(settings) = settings(&member.peer, member.configured) {
            lock(&self.node).add_peer(id, settings, now());
        }
    }

    /// Ends everything with a peer.
    pub fn remove(&mut self, id: PeerId) {
        lock(&self.node).remove_peer(id);
        // Packets that wait for it wait in vain.
        self.nudge();
    }

    /// The configuration says that a peer is elsewhere.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: Option<SocketAddr>) {
        lock(&self.node).set_endpoint(id, endpoint, now());
    }

    /// Its preshared key is another one.
    pub fn set_preshared(&mut self, id: PeerId, peer: &config::Peer) {
        lock(&self.node).set_preshared(id, preshared(peer));
    }

    /// Its keepalive is another one.
    pub fn set_keepalive(&mut self, id: PeerId, peer: &config::Peer) {
        lock(&self.node).set_keepalive(id, peer.keepalive, now());
    }

    /// We are somebody else in one transport, or nobody.
    pub fn set_identity(&mut self, protocol: Protocol, identity: Option<Identity>) {
        self.surroundings.secrets.admission.set_identity(protocol, identity.as_ref().map(Identity::public));
        lock(&self.node).set_identity(protocol, identity, now());
    }

    /// Sealed handshakes are bound to another secret from now on, or another network, or to none.
    pub fn set_membership(&mut self, network: Option<Membership>) {
        self.surroundings.secrets.admission.set_membership(network.as_ref());
        lock(&self.node).set_membership(network, now());
    }

    /// Asks a peer for a session before there is a packet for it.
    pub fn call_soon(&mut self, id: PeerId) {
        lock(&self.node).call_soon(id, now());
    }

    /// The first link towards a peer takes packets of this size.
    pub fn set_path(&mut self, id: PeerId, mtu: usize) {
        lock(&self.node).set_path(id, mtu);
    }

    /// Sends by other sockets from now on.
    pub fn set_sockets(&mut self, sockets: Vec<Arc<Socket>>) {
        self.surroundings.sockets = sockets;
    }

    /// Tells a peer something beside packets; answers whether there is a session to do so.
    pub fn tell(&mut self, id: PeerId, topic: u8, body: &[u8], roster: &Roster) -> bool {
        let told = lock(&self.node).tell(id, topic, body, now());
        self.carry_out(None, roster);
        told
    }

    /// Begins to measure the ways to at most `most` sealed peers that have a session; answers which, and how many more have one.
    pub fn measure(&mut self, most: usize, roster: &Roster) -> (Vec<PeerId>, usize) {
        let (mut begun, mut left_out) = (Vec::new(), 0);
        for (id, _) in roster.iter().filter(|(_, member)| member.peer.transport == TransportKind::Sealed) {
            let now = now();
            if begun.len() == most {
                left_out +=
                    usize::from(lock(&self.node).state(id, now.time).is_some_and(|s| s.standing == Standing::Up));
            } else if lock(&self.node).measure(id, now) {
                begun.push(id);
            }
        }
        self.carry_out(None, roster);
        (begun, left_out)
    }

    /// The next thing that a peer told us.
    pub fn next_note(&mut self) -> Option<(PeerId, Box<[u8]>)> {
        loop {
            let Told { index, plaintext } = self.surroundings.secrets.mailbox.next_told()?;
            if let Some(id) = lock(&self.node).handle_note(index, now()) {
                return Some((id, plaintext));
            }
            self.surroundings.control_drops.add(Reason::RateLimited, 1);
        }
    }

    /// Does what the node says by now.
    pub fn follow_up(&mut self, roster: &Roster) {
        self.carry_out(None, roster);
    }

    // ---- outputs -------------------------------------------------------------------------------------------------------

    /// Does what the node says. `local` is where the datagram came to that it was told of.
    fn carry_out(&mut self, local: Option<LocalAddress>, roster: &Roster) {
        loop {
            let Some(output) = lock(&self.node).next_output() else { break };
            match output {
                Output::Transmit { peer, to, reply, datagram } => {
                    let link = peer.and_then(|id| roster.get(id)).map(|member| &member.link);
                    let known = || link.and_then(|link| link.local.load().as_deref().copied());
                    let from = if reply { local } else { known() };
                    if self.transmit(to, from, &datagram)
                        && let Some(link) = link
                    {
                        link.by_control.sent.add(datagram.len() as u64);
                    }
                }
                Output::SessionUp(id) => {
                    self.surroundings.control.handshakes.add(1);
                    if let Some(member) = roster.get(id) {
                        let wall = u64::try_from(clock::realtime().as_nanos()).unwrap_or(u64::MAX);
                        member.link.shaken.store(wall, Ordering::Relaxed);
                    }
                    self.nudge();
                }
                Output::GaveUp(id) => {
                    roster.give_up(id, now().time);
                    self.nudge();
                    self.changes.push_back(Change::GaveUp(id));
                }
                Output::Mark(mark) => self.keep_mark(mark),
                Output::PathMtu(id, mtu) => self.changes.push_back(Change::Path(id, mtu)),
                Output::Moved(id, endpoint) => self.changes.push_back(Change::Moved(id, endpoint)),
                Output::Failed(_, problem) => self.surroundings.control.handshake_failed(problem),
                Output::RoundTrip(id, took) => {
                    let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                    self.surroundings.control.round_trips.see(took);
                    if let Some(member) = roster.get(id) {
                        member.link.round_trip.store(took, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Sends a datagram; answers whether the kernel took it.
    fn transmit(&mut self, to: SocketAddr, from: Option<LocalAddress>, datagram: &[u8]) -> bool {
        let Some(socket) = self.surroundings.sockets.first() else { return false };
        let flow = Flow { to, from, ecn: Ecn::NotEct, lane: 0, tag: 0 };
        let Ok(slot) = self.sender.slot(&flow, datagram.len()) else { return false };
        slot.copy_from_slice(datagram);
        self.sender.commit(datagram.len());
        let mut taken = true;
        self.sender.flush(socket, |sent| {
            if let Some((_, error)) = sent.failed {
                taken = false;
                tracing::debug!("a datagram to {to} was not sent: {error:?}");
            }
        });
        taken
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tunnel::admission::Verdict;
    use tunnel::mac::MacKeys;
    use tunnel::network::Epoch;
    use wire::message::{HandshakeHeader, Step};

    use super::*;
    use crate::config::Overlay;
    use crate::roster::Member;

    fn key(byte: u8) -> PrivateKey {
        PrivateKey::from_bytes(Zeroizing::new([byte & 0xf8; 32])).unwrap()
    }

    /// A node that has heard of one other and serves one client.
    fn tunnel() -> Tunnel {
        let text = "[device]\naddresses = ['10.42.7.0/32']\n[[peer]]\nname = 'other'\nallowed-ips = ['10.42.1.0/24']\n\
            transport = 'plain'\nendpoint = '192.0.2.1:1'\n";
        let mut tunnel = config::parse(Path::new("t.toml"), text.into()).unwrap();
        let epoch = Epoch { number: 3, secret: Zeroizing::new([7; 32]) };
        tunnel.overlay = Some(Overlay {
            networks: vec!["10.42.0.0/16".parse().unwrap()],
            subnets: vec!["10.42.7.0/24".parse().unwrap()],
            masquerade: false,
            forward: false,
            port: None,
            membership: Some(Membership { id: [1; 16], epochs: vec![epoch] }),
        });
        (tunnel.device.private_key, tunnel.device.wireguard_private_key) = (Some(key(0x40)), Some(key(0x48)));
        let mut peer = |transport, byte| {
            let client = tunnel.peers[0].clone();
            let public_key = Some(key(byte).public_key());
            tunnel.peers.push(config::Peer {
                name: format!("p{byte}"),
                public_key,
                transport,
                allowed_ips: vec![],
                ..client
            });
        };
        peer(TransportKind::Sealed, 0x50);
        peer(TransportKind::WireGuard, 0x58);
        tunnel
    }

    #[test]
    fn the_key_of_a_node_serves_sealed_peers_alone() {
        let publics = |tunnel: &Tunnel| keys(tunnel).map(|(_, key)| key.map(PrivateKey::public_key));
        let [sealed, wireguard] = [0x40, 0x48].map(|byte| Some(key(byte).public_key()));
        let mut node = tunnel();
        assert_eq!(publics(&node), [sealed, wireguard]);
        node.device.wireguard_private_key = None;
        assert_eq!(publics(&node), [sealed, None]);
        node.peers.retain(|peer| peer.transport == TransportKind::WireGuard);
        assert_eq!(publics(&node), [None, None]);
        // Without a network, one key may serve either transport.
        node.overlay = None;
        assert_eq!(publics(&node), [None, sealed]);
    }

    #[test]
    fn a_node_and_its_workers_begin_in_the_network() {
        let directory = tempfile::tempdir().unwrap();
        let (tunnel, mark) = (tunnel(), MarkFile::of("t", directory.path()));
        let mut roster = Roster::default();
        for peer in &tunnel.peers {
            roster.add(Member::new(peer.clone(), Some("192.0.2.1:1".parse().unwrap()), 1), now().time);
        }
        let (node, secrets) = node(&tunnel, &roster, &mark).unwrap();
        let network = membership(&tunnel).unwrap();
        let own = key(0x40).public_key();
        let judge = |keys: &MacKeys| {
            let header =
                HandshakeHeader { protocol: Protocol::Sealed, step: Step::Initiation, sender: 16, receiver: 0 };
            let mut message = header.emit(&vec![7; Protocol::Sealed.noise_len(Step::Initiation)]).unwrap();
            keys.sign(&mut message, None);
            secrets.admission.admit(&message, "192.0.2.9:9".parse().unwrap(), true, now().time, || [0; 24])
        };
        let member = MacKeys::of_network(network, &network.epochs[0], own.as_bytes()).unwrap();
        assert_eq!(judge(&member), Verdict::Pass);
        let stranger = MacKeys::new(Protocol::Sealed, own.as_bytes());
        assert_eq!(judge(&stranger), Verdict::Drop(Reason::Forged));
        // Nobody is called who has no packet.
        lock(&node).start(now());
        let mut marked = None;
        while let Some(output) = lock(&node).next_output() {
            let Output::Mark(mark) = output else { panic!("{output:?}") };
            marked = Some(mark);
        }
        lock(&node).marked(marked.unwrap(), now());
        assert!(lock(&node).next_output().is_none());
    }
}
