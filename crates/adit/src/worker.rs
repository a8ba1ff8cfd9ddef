//! The way of a packet. Each thread `worker-N` owns one queue of the device and one UDP socket, and runs every packet it
//! takes up to its end; workers share nothing that is written per packet.
//!
//! Each turn takes what came from the wire first: the acknowledgements that it raises leave in the same turn.
//!
//! **Ingress** (wire → device)
//! 1. receive runs of datagrams, each run from one sender ([`ReceiveBatch`])
//! 2. tell who speaks: for `plain`, the peer whose endpoint the source address is
//! 3. admit each packet: its kind, the congestion mark of the outer header, its form, the owner of its source address
//! 4. join neighbours into super-packets, verifying the checksum of each ([`Coalescer`])
//! 5. write each super-packet to the device
//!
//! **Egress** (device → wire)
//! 1. read one packet or super-packet with its virtio header from the device
//! 2. validate it once, for all its segments
//! 3. look up the peer that owns the destination; tell the sender by ICMP if there is none, or if the path is too narrow
//! 4. write each segment into a train, with headers and checksums of its own ([`SendQueue`])
//! 5. send the trains
//!
//! Both end in one verdict: the packet went on, or it was dropped for a [`Reason`], which is counted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::cache::Cache;
use arc_swap::{ArcSwap, ArcSwapOption};
use linux::poll::{Waker, readable};
use linux::tun::{self, MAX_PACKET, Offload};
use linux::udp::{self, BATCH, Flow, LocalAddress, ReceiveBatch, SendError, SendQueue, Sent};
use tunnel::{PeerId, Reason, Snapshot};
use wire::coalesce::{Coalescer, Joins};
use wire::ecn::{self, Ecn};
use wire::icmp::{self, Unreachable};
use wire::ip::{IpPacket, protocol};
use wire::message::{self, Message};
use wire::segment::SuperPacket;
use wire::vnet::{self, VnetHdr};

use crate::counters::{PeerTraffic, PerWorker, WorkerCounters};

/// Packets read from the device before the wire has its turn again.
const DEVICE_BATCH: usize = 64;

/// Bytes that one direction moves before the other one has its turn: acknowledgements that wait behind a longer batch make a stream
/// stutter.
const TURN_BYTES: usize = 256 << 10;

/// Bytes that wait in trains before the full ones are sent in the middle of a batch: about one full train, which is still in
/// the processor's nearest caches then.
const SEND_THRESHOLD: usize = 60_000;

/// ICMP errors a worker sends per second at most (the kernel's own limit is icmp_msgs_per_sec, 1000).
const ERRORS_PER_SECOND: u32 = 1000;

/// What control publishes and workers read once per turn.
#[derive(Debug, Default)]
pub struct View {
    /// The peers.
    pub snapshot: Snapshot,
    /// What workers know of each peer beside that, by its number.
    pub links: Vec<Arc<Link>>,
}

/// The state of a peer that workers write.
#[derive(Debug, Default)]
pub struct Link {
    /// Where its last datagram came to; answers leave from there.
    pub local: ArcSwapOption<LocalAddress>,
    /// What each worker exchanged with it.
    pub traffic: PerWorker<PeerTraffic>,
}

/// What a worker tells control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The underlay refused a datagram to this peer as too long: look up its path MTU again.
    PathTooNarrow(PeerId),
    /// The device took no super-packets of a kind that it had agreed to; they are sent in segments from now on.
    SuperPacketsRefused,
    /// The device is gone. The worker has ended.
    DeviceGone,
    /// The socket failed for good. The worker has ended.
    SocketFailed,
    /// The worker ended by a defect.
    WorkerFailed,
}

/// How events reach control: never blocks.
pub type Report = Arc<dyn Fn(Event) + Send + Sync>;

/// What a worker is made of.
pub struct Parts {
    /// Its number, from 0.
    pub number: usize,
    /// Its queue of the device.
    pub queue: tun::Queue,
    /// What the device agreed to.
    pub offload: Offload,
    /// Its socket.
    pub socket: Arc<udp::Socket>,
    /// What control publishes.
    pub view: Arc<ArcSwap<View>>,
    /// Where it counts.
    pub counters: Arc<PerWorker<WorkerCounters>>,
    /// Woken when the worker is to end.
    pub stop: Arc<Waker>,
    /// How it reaches control.
    pub report: Report,
    /// How long it looks again before it sleeps.
    pub busy_poll: Duration,
}

/// One pair of device queue and socket.
pub struct Worker {
    view: Cache<Arc<ArcSwap<View>>, Arc<View>>,
    stop: Arc<Waker>,
    busy_poll: Duration,
    path: Path,
}

/// Everything of a worker but the view: a turn borrows both.
struct Path {
    number: usize,
    queue: tun::Queue,
    socket: Arc<udp::Socket>,
    counters: Arc<PerWorker<WorkerCounters>>,
    report: Report,
    /// One packet per system call, as flannel's UDP mode was: no batches either way.
    classic: bool,
    ended: bool,
    received: ReceiveBatch,
    /// Receives of the next turn: as many as bring [`TURN_BYTES`], if they are like those of the last one.
    receive_limit: usize,
    joins: Joins,
    coalescer: Coalescer,
    packet: Box<[u8]>,
    scratch: Box<[u8]>,
    trains: SendQueue,
    /// Whether the last turn left trains that may grow.
    waits: bool,
    errors: Allowance,
}

/// Whether a direction may have more to do right away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Idle,
    Drained,
    More,
}

/// Which trains are to be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Full,
}

impl Worker {
    /// A worker that has done nothing yet.
    pub fn new(parts: Parts) -> Self {
        let joins = joins(parts.offload);
        let classic = parts.offload == Offload::None;
        Self {
            view: Cache::new(parts.view),
            stop: parts.stop,
            busy_poll: parts.busy_poll,
            path: Path {
                number: parts.number,
                queue: parts.queue,
                socket: parts.socket,
                counters: parts.counters,
                report: parts.report,
                classic,
                ended: false,
                received: ReceiveBatch::new(if classic { 1 } else { BATCH }),
                receive_limit: 1,
                joins,
                coalescer: Coalescer::new(joins),
                packet: vec![0; MAX_PACKET].into_boxed_slice(),
                scratch: vec![0; MAX_PACKET].into_boxed_slice(),
                trains: if classic { SendQueue::unbatched() } else { SendQueue::default() },
                waits: false,
                errors: Allowance::new(),
            },
        }
    }

    /// Moves packets until it is told to stop, or until device or socket fail for good.
    pub fn run(mut self) {
        let mut wire_ready = true;
        while !self.path.ended && !self.stop.is_woken() {
            let view = self.view.load();
            let ingress = if wire_ready { self.path.ingress(view) } else { Progress::Idle };
            let egress = self.path.egress(view);
            wire_ready = true;
            if ingress == Progress::More || egress == Progress::More {
                continue;
            }
            let idle = ingress == Progress::Idle && egress == Progress::Idle;
            if !self.busy_poll.is_zero() && (!idle || self.look_again()) {
                continue;
            }
            match readable([self.path.socket.as_fd(), self.path.queue.as_fd(), self.stop.as_fd()], None) {
                Ok([wire, _, _]) => wire_ready = wire,
                Err(e) => {
                    tracing::error!("worker-{} ends: {e}", self.path.number);
                    return (self.path.report)(Event::SocketFailed);
                }
            }
        }
        // Trains that were left to grow.
        self.path.send(self.view.load(), Which::All);
    }

    /// Spends the busy-poll time looking; answers whether something came.
    fn look_again(&mut self) -> bool {
        let until = Instant::now() + self.busy_poll;
        loop {
            match readable([self.path.socket.as_fd(), self.path.queue.as_fd()], Some(Duration::ZERO)) {
                Ok([false, false]) if Instant::now() < until => std::hint::spin_loop(),
                Ok([wire, device]) => return wire || device,
                Err(_) => return false,
            }
        }
    }
}

impl Path {
    // ---- ingress: wire → device ----------------------------------------------------------------------------------------

    fn ingress(&mut self, view: &View) -> Progress {
        let limit = self.receive_limit;
        let receives = match self.received.receive(&self.socket, limit) {
            Ok(receives) => receives,
            Err(e) => return self.receive_failed(&e),
        };
        let Some(counters) = self.counters.get(self.number) else { return Progress::Idle };
        counters.receives.add(receives as u64);
        let mut device =
            DeviceWriter { queue: &self.queue, counters, scratch: &mut self.scratch, joins: self.joins, gone: false };
        let mut total = 0;
        for datagrams in self.received.datagrams() {
            total += datagrams.bytes.len();
            let stride = datagrams.stride.max(1);
            let count = datagrams.bytes.len().div_ceil(stride).max(1);
            let peer = match view.snapshot.speaker(datagrams.source) {
                Ok(peer) => peer,
                Err(reason) => {
                    counters.dropped(reason, count);
                    continue;
                }
            };
            let Some(link) = view.links.get(peer.0 as usize) else { continue };
            if datagrams.bytes.is_empty() {
                counters.dropped(Reason::Malformed, 1);
                continue;
            }
            let mut admission = Admission::new(&view.snapshot, peer, datagrams.ecn);
            let (mut packets, mut bytes) = (0, 0);
            for datagram in datagrams.bytes.chunks_mut(stride) {
                match admission.admit(datagram) {
                    Ok(packet) => {
                        packets += 1;
                        bytes += packet.bytes().len();
                        self.coalescer.push(&packet, &mut |header, packet| device.write(header, packet));
                    }
                    Err(reason) => counters.dropped(reason, 1),
                }
            }
            if packets > 0 {
                link.answer_from(datagrams.local);
                counters.ingress.add(packets, bytes);
                if let Some(traffic) = link.traffic.get(self.number) {
                    traffic.ingress.add(packets, bytes);
                }
            }
        }
        self.coalescer.flush(&mut |header, packet| device.write(header, packet));
        let DeviceWriter { joins, gone, .. } = device;
        if joins != self.joins {
            self.join_only(joins);
        }
        if gone {
            self.device_gone();
        }
        self.receive_limit = (TURN_BYTES * receives / total.max(1)).clamp(1, BATCH);
        if self.classic || receives == limit { Progress::More } else { Progress::Drained }
    }

    fn receive_failed(&mut self, error: &io::Error) -> Progress {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
            // What an ICMP error brought back for an earlier datagram; reading it has cleared it.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {}
            _ => {
                tracing::error!("worker-{} ends: cannot receive from the UDP socket: {error}", self.number);
                self.ended = true;
                (self.report)(Event::SocketFailed);
            }
        }
        Progress::Idle
    }

    /// The kernel refused a super-packet of a kind that it had agreed to (such kernels were released): none of that kind from
    /// now on.
    fn join_only(&mut self, joins: Joins) {
        self.joins = joins;
        self.coalescer = Coalescer::new(joins);
        (self.report)(Event::SuperPacketsRefused);
    }

    fn device_gone(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            (self.report)(Event::DeviceGone);
        }
    }

    // ---- egress: device → wire -----------------------------------------------------------------------------------------

    fn egress(&mut self, view: &View) -> Progress {
        let mut packet = std::mem::take(&mut self.packet);
        let batch = if self.classic { 1 } else { DEVICE_BATCH };
        let (mut taken, mut bytes) = (0, 0);
        let mut progress = Progress::More;
        while taken < batch && bytes < TURN_BYTES {
            match self.queue.recv(&mut packet) {
                Ok((header, length)) => {
                    taken += 1;
                    bytes += length;
                    if let Err(reason) = self.forward(view, header, packet.get(..length).unwrap_or_default()) {
                        self.dropped(reason, 1);
                    }
                }
                Err(e) => {
                    // EAGAIN: nothing there. EBADFD: the device was deleted. Others do not last.
                    if e.raw_os_error() == Some(EBADFD) {
                        self.device_gone();
                    }
                    progress = if taken == 0 { Progress::Idle } else { Progress::Drained };
                    break;
                }
            }
        }
        self.packet = packet;
        if let Some(counters) = self.counters.get(self.number) {
            counters.device_reads.add(taken as u64);
        }
        // With more to come in the next turn, trains that take more wait for it, but no longer than that.
        self.waits = progress == Progress::More && !self.classic && !self.waits;
        self.send(view, if self.waits { Which::Full } else { Which::All });
        progress
    }

    fn forward(&mut self, view: &View, header: VnetHdr, bytes: &[u8]) -> Result<(), Reason> {
        let packet = IpPacket::parse(bytes).map_err(|_| Reason::Malformed)?;
        let (id, peer) = match view.snapshot.egress(packet.destination()) {
            Ok(found) => found,
            Err(reason) => {
                if reason == Reason::NoRoute {
                    self.tell_sender(&packet, Unreachable::NoRoute);
                }
                return Err(reason);
            }
        };
        if is_own_datagram(&packet, peer.endpoint) {
            return Err(Reason::Loop);
        }
        let packets = SuperPacket::parse(header, packet).map_err(|_| Reason::Malformed)?;
        let local = view.links.get(id.0 as usize).and_then(|link| link.local.load().as_deref().copied());
        let flow = Flow { to: peer.endpoint, from: local, ecn: packet.ecn(), lane: packet.flow_hash(), tag: id.0 };
        if packets.segment_len() > peer.mtu {
            return self.forward_narrow(view, &flow, &packet, &packets, peer.mtu);
        }
        for i in 0..packets.count() {
            let length = packets.len_of(i);
            let slot = match self.trains.slot(&flow, length) {
                Ok(slot) => slot,
                Err(udp::Full) => {
                    self.send(view, Which::All);
                    self.trains.slot(&flow, length).map_err(|_| Reason::TooBig)?
                }
            };
            let written = packets.emit(i, slot);
            self.trains.commit(written);
        }
        if self.trains.waiting() >= SEND_THRESHOLD {
            self.send(view, Which::Full);
        }
        Ok(())
    }

    /// A packet longer than the path takes: fragments if its sender allows them, else the news that it is too big.
    #[cold]
    fn forward_narrow(
        &mut self,
        view: &View,
        flow: &Flow,
        packet: &IpPacket<'_>,
        packets: &SuperPacket<'_>,
        mtu: usize,
    ) -> Result<(), Reason> {
        if packet.dont_fragment() {
            self.tell_sender(packet, Unreachable::TooBig { mtu: u32::try_from(mtu).unwrap_or(u32::MAX) });
            self.dropped(Reason::TooBig, packets.count().saturating_sub(1));
            return Err(Reason::TooBig);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        for i in 0..packets.count() {
            let length = packets.emit(i, &mut scratch);
            let Ok(segment) = IpPacket::parse(scratch.get(..length).unwrap_or_default()) else {
                self.dropped(Reason::Malformed, 1);
                continue;
            };
            let split = wire::fragment::fragment_v4(&segment, mtu, &mut |header, payload| {
                let length = header.len() + payload.len();
                if self.trains.slot(flow, length).is_err() {
                    self.send(view, Which::All);
                }
                match self.trains.slot(flow, length) {
                    Ok(slot) => {
                        let (front, back) = slot.split_at_mut(header.len());
                        front.copy_from_slice(header);
                        back.copy_from_slice(payload);
                        self.trains.commit(length);
                    }
                    Err(udp::Full) => self.dropped(Reason::SendFailed, 1),
                }
            });
            if split.is_err() {
                self.dropped(Reason::TooBig, 1);
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Writes an ICMP error for `packet` into the device. It comes from the address that cannot be reached: the kernel takes
    /// nothing from a device whose source is an address of its own (`fib_validate_source` in net/ipv4/fib_frontend.c), while
    /// the way back to this one leads through this device, as reverse-path filters want it.
    #[cold]
    fn tell_sender(&mut self, packet: &IpPacket<'_>, what: Unreachable) {
        if !self.errors.take(Instant::now()) {
            return;
        }
        let length = icmp::error_reply(packet, packet.destination(), what, &mut self.scratch);
        if let Some(reply) = length.and_then(|l| self.scratch.get(..l)) {
            // An error that the device does not take is lost, as errors may be.
            let _ = self.queue.send(&VnetHdr::NONE, reply);
        }
    }

    /// Sends what waits; in the middle of a batch only the trains that are full, since more of the same flow is likely to come.
    fn send(&mut self, view: &View, which: Which) {
        if self.trains.is_empty() {
            return;
        }
        let Some(counters) = self.counters.get(self.number) else { return };
        let (number, report) = (self.number, &self.report);
        let account = |sent: Sent<'_>| {
            counters.sends.add(1);
            counters.egress.add(sent.datagrams, sent.bytes);
            if let Some(traffic) = view.links.get(sent.flow.tag as usize).and_then(|link| link.traffic.get(number)) {
                traffic.egress.add(sent.datagrams, sent.bytes);
            }
            if sent.source_lost
                && let Some(link) = view.links.get(sent.flow.tag as usize)
            {
                link.local.store(None);
            }
            if let Some((datagrams, error)) = sent.failed {
                counters.dropped(reason(error), datagrams);
                if error == SendError::TooBig {
                    report(Event::PathTooNarrow(PeerId(sent.flow.tag)));
                }
            }
        };
        match which {
            Which::All => self.trains.flush(&self.socket, account),
            Which::Full => self.trains.flush_closed(&self.socket, account),
        }
    }

    fn dropped(&self, reason: Reason, packets: usize) {
        if let Some(counters) = self.counters.get(self.number) {
            counters.dropped(reason, packets);
        }
    }
}

/// The errno of a queue whose device was deleted ("file descriptor in bad state").
const EBADFD: i32 = 77;

/// Step 3 of ingress, for the datagrams of one peer. Neighbours mostly belong to one flow, so that the answer for the last pair of
/// addresses is kept.
struct Admission<'a> {
    snapshot: &'a Snapshot,
    peer: PeerId,
    outer: Ecn,
    /// Source and destination address of the last packet that was admitted, one after the other.
    admitted: ([u8; 32], usize),
}

impl<'a> Admission<'a> {
    fn new(snapshot: &'a Snapshot, peer: PeerId, outer: Ecn) -> Self {
        Self { snapshot, peer, outer, admitted: ([0; 32], 0) }
    }

    /// The congestion mark is carried inwards before the packet is read, so that what follows sees the packet as the device
    /// will.
    #[inline]
    fn admit<'d>(&mut self, datagram: &'d mut [u8]) -> Result<IpPacket<'d>, Reason> {
        match message::classify(datagram) {
            Message::Plain(_) => {}
            Message::Sealed(..) | Message::WireGuard(..) => return Err(Reason::WrongTransport),
            Message::Unknown(_) => return Err(Reason::Malformed),
        }
        if self.outer != Ecn::NotEct {
            let inner = IpPacket::parse(datagram).map_err(|_| Reason::Malformed)?.ecn();
            let combined = ecn::decapsulate(self.outer, inner).map_err(|_| Reason::Congestion)?;
            if combined != inner {
                ecn::set(datagram, combined);
            }
        }
        let packet = IpPacket::parse(datagram).map_err(|_| Reason::Malformed)?;
        let addresses = packet.addresses();
        let (last, length) = &mut self.admitted;
        if last.get(..*length) != Some(addresses) {
            self.snapshot.ingress(self.peer, &packet)?;
            *length = addresses.len();
            if let Some(last) = last.get_mut(..addresses.len()) {
                last.copy_from_slice(addresses);
            }
        }
        Ok(packet)
    }
}

impl Link {
    /// A peer of which nothing is known yet.
    pub fn new(workers: usize) -> Self {
        Self { local: ArcSwapOption::empty(), traffic: crate::counters::per_worker(workers) }
    }

    #[inline]
    fn answer_from(&self, local: Option<LocalAddress>) {
        let Some(local) = local else { return };
        if self.local.load().as_deref() != Some(&local) {
            self.local.store(Some(Arc::new(local)));
        }
    }
}

/// The device's end of ingress: writes, counts, and finds a way where the kernel refuses a super-packet.
struct DeviceWriter<'a> {
    queue: &'a tun::Queue,
    counters: &'a WorkerCounters,
    scratch: &'a mut [u8],
    /// What the kernel has not refused yet.
    joins: Joins,
    gone: bool,
}

impl DeviceWriter<'_> {
    #[inline]
    fn write(&mut self, header: &VnetHdr, packet: &[u8]) {
        match self.queue.send(header, packet) {
            Ok(()) => self.counters.device_writes.add(1),
            Err(e) => self.failed(header, packet, &e),
        }
    }

    #[cold]
    fn failed(&mut self, header: &VnetHdr, packet: &[u8], error: &io::Error) {
        self.gone |= error.raw_os_error() == Some(EBADFD);
        let packets = IpPacket::parse(packet).and_then(|packet| SuperPacket::parse(*header, packet));
        let Ok(packets) = packets else { return self.counters.dropped(Reason::DeviceRefused, 1) };
        if error.kind() != io::ErrorKind::InvalidInput || packets.count() == 1 {
            return self.counters.dropped(Reason::DeviceRefused, packets.count());
        }
        match (header.gso_type & !vnet::GSO_ECN, packet.first().map(|b| b >> 4)) {
            (vnet::GSO_TCPV4, _) => self.joins.tcp4 = false,
            (vnet::GSO_TCPV6, _) => self.joins.tcp6 = false,
            (_, Some(4)) => self.joins.udp4 = false,
            _ => self.joins.udp6 = false,
        }
        for i in 0..packets.count() {
            let length = packets.emit(i, self.scratch);
            match self.queue.send(&VnetHdr::NONE, self.scratch.get(..length).unwrap_or_default()) {
                Ok(()) => self.counters.device_writes.add(1),
                Err(_) => self.counters.dropped(Reason::DeviceRefused, 1),
            }
        }
    }
}

/// Whether a packet of the device's looks like the datagrams in which we carry packets to this peer: the routes lead them into the
/// tunnel itself.
#[inline]
fn is_own_datagram(packet: &IpPacket<'_>, endpoint: SocketAddr) -> bool {
    packet.destination() == endpoint.ip()
        && packet.protocol() == protocol::UDP
        && packet.payload().get(2..4) == Some(&endpoint.port().to_be_bytes())
}

/// How many ICMP errors may still be sent in this second.
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: ERRORS_PER_SECOND, since: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { left: ERRORS_PER_SECOND, since: now };
        }
        self.left.checked_sub(1).inspect(|left| self.left = *left).is_some()
    }
}

fn joins(offload: Offload) -> Joins {
    let (tcp, udp) = (offload >= Offload::Tcp, offload >= Offload::Udp);
    Joins { tcp4: tcp, tcp6: tcp, udp4: udp, udp6: udp, partial: offload >= Offload::Checksum }
}

fn reason(error: SendError) -> Reason {
    match error {
        SendError::TooBig => Reason::TooBig,
        SendError::Full => Reason::SendBufferFull,
        SendError::Unreachable => Reason::Unreachable,
        SendError::Other(_) => Reason::SendFailed,
    }
}
