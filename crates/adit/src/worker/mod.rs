//! The way of a packet. Each thread `worker-N` owns one queue of the device and one UDP socket, and runs every packet it
//! takes up to its end; workers share nothing that is written per packet.
//!
//! Each turn takes what came from the wire first: the acknowledgements that it raises leave in the same turn.
//!
//! **Ingress** (wire → device, `ingress.rs`)
//! 1. receive runs of datagrams, each run from one sender ([`ReceiveBatch`])
//! 2. tell who speaks: for `plain`, the peer whose endpoint the source address is; else the session that the datagram names. What is no
//!    data goes to control, after a check that needs no state
//! 3. encrypted: open in place, and mark the counter ([`tunnel::open`])
//! 4. admit each packet: its kind, the congestion mark of the outer header, its form, the owner of its source address
//! 5. join neighbours into super-packets ([`Coalescer`]): `plain` and `wireguard` verify each checksum, `sealed` has authenticated
//!    that there is none to verify
//! 6. write each super-packet to the device
//!
//! **Egress** (device → wire, `egress.rs`)
//! 1. read one packet or super-packet with its virtio header from the device
//! 2. validate it once, for all its segments
//! 3. look up the peer that owns the destination; tell the sender by ICMP if there is none, or if the path is too narrow. Without a
//!    session the packet waits (`stage.rs`) and control is told
//! 4. write each segment into a train: `plain` with headers and checksums of its own, encrypted ones sealed on the way
//! 5. send the trains
//!
//! With a device that carries frames a switch says whom step 3 is for, and what step 4 lets in (`frames.rs`).
//!
//! Both end in one verdict: the packet went on, or it was dropped for a [`Reason`], which is counted.

mod device;
mod egress;
mod frames;
mod ingress;
pub mod mailbox;
mod stage;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::cache::Cache;
use arc_swap::{ArcSwap, ArcSwapOption};
use linux::clock;
use linux::poll::{Waker, readable};
use linux::tun::{self, Offload};
use linux::udp::{self, BATCH, LocalAddress, ReceiveBatch, SendQueue};
use tunnel::admission::Admission;
use tunnel::open::Batch;
use tunnel::table::SessionTable;
use tunnel::{Notice, PeerId, Reason, Snapshot, Time};
use wire::coalesce::{Coalescer, Joins};
use wire::frame::MAX_LEN;
use wire::run::Continuity;

use crate::counters::{PeerTraffic, PerWorker, Wire, WorkerCounters};
pub use frames::Frames;
use mailbox::Mailbox;
use stage::Stage;

/// Bytes that one direction moves before the other one has its turn: acknowledgements that wait behind a longer batch make a stream
/// stutter.
const TURN_BYTES: usize = 256 << 10;

/// ICMP errors a worker sends per second at most (the kernel's own limit is icmp_msgs_per_sec, 1000).
const ERRORS_PER_SECOND: u32 = 1000;

/// The errno of a queue whose device was deleted ("file descriptor in bad state").
const EBADFD: i32 = 77;

/// What control publishes and workers read once per turn.
#[derive(Default)]
pub struct View {
    /// The peers.
    pub snapshot: Snapshot,
    /// What workers know of each peer beside that, by its number.
    pub links: Vec<Arc<Link>>,
    /// The largest packet of the device, in bytes, above which nothing is padded.
    pub mtu: usize,
    /// With a device that carries frames: where they go.
    pub frames: Option<Frames>,
    /// Each that is published has a greater one.
    pub edition: u64,
}

/// The state of a peer that workers write.
#[derive(Default)]
pub struct Link {
    /// Where its last datagram came to; answers leave from there.
    pub local: ArcSwapOption<LocalAddress>,
    /// An address of ours from which nothing leaves although datagrams come to it: the routes lead by another card.
    pub elsewhere: ArcSwapOption<LocalAddress>,
    /// What each worker exchanged with it.
    pub traffic: PerWorker<PeerTraffic>,
    /// When control last gave it up, in nanoseconds: what has waited for it since then or longer waits in vain.
    pub given_up: AtomicU64,
    /// What control exchanged with it: bytes of datagrams.
    pub by_control: Wire,
    /// When the last handshake with it was complete, in nanoseconds since 1970; 0 if none was.
    pub shaken: AtomicU64,
}

impl Link {
    /// A peer of which nothing is known yet.
    pub fn new(workers: usize) -> Self {
        Self { traffic: crate::counters::per_worker(workers), ..Self::default() }
    }

    #[inline]
    fn answer_from(&self, local: Option<LocalAddress>) {
        let Some(local) = local else { return };
        if self.local.load().as_deref() != Some(&local) && self.elsewhere.load().as_deref() != Some(&local) {
            self.local.store(Some(Arc::new(local)));
        }
    }
}

/// What a worker tells control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The underlay refused a datagram to this peer as too long: look up its path MTU again.
    PathTooNarrow(PeerId),
    /// The device took no super-packets of a kind that it had agreed to; they are sent in segments from now on.
    SuperPacketsRefused,
    /// Something lies in the mailbox.
    Mail,
    /// The machine slept, or was restored from a copy of itself; the sessions that there were have been ended.
    Gap,
    /// The device is gone. The worker has ended.
    DeviceGone,
    /// The socket failed for good. The worker has ended.
    SocketFailed,
    /// The worker ended by a defect.
    WorkerFailed,
}

/// How events reach control: never blocks.
pub type Report = Arc<dyn Fn(Event) + Send + Sync>;

/// What all workers share about encryption.
#[derive(Clone)]
pub struct Secrets {
    /// The sessions, by the index that their datagrams carry.
    pub sessions: Arc<SessionTable>,
    /// Whether a message of a handshake may go to control.
    pub admission: Arc<Admission>,
    /// What goes to control.
    pub mailbox: Arc<Mailbox>,
}

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
    /// Sessions, admission, mailbox.
    pub secrets: Secrets,
    /// Where it counts.
    pub counters: Arc<PerWorker<WorkerCounters>>,
    /// Woken when the worker is to end.
    pub stop: Arc<Waker>,
    /// Woken when packets that wait may go, or wait in vain.
    pub nudge: Arc<Waker>,
    /// See [`GapWatch`].
    pub gap_noticed: Arc<AtomicU64>,
    /// Where it notes by which edition of the view it works: none before that is used any more.
    pub seen: Arc<PerWorker<AtomicU64>>,
    /// How it reaches control.
    pub report: Report,
    /// How long it looks again before it sleeps.
    pub busy_poll: Duration,
}

/// One pair of device queue and socket.
pub struct Worker {
    view: Cache<Arc<ArcSwap<View>>, Arc<View>>,
    stop: Arc<Waker>,
    nudge: Arc<Waker>,
    busy_poll: Duration,
    seen: Arc<PerWorker<AtomicU64>>,
    path: Path,
}

/// Everything of a worker but the view: a turn borrows both.
struct Path {
    number: usize,
    queue: tun::Queue,
    socket: Arc<udp::Socket>,
    secrets: Secrets,
    counters: Arc<PerWorker<WorkerCounters>>,
    report: Report,
    /// One packet per system call, as flannel's UDP mode was: no batches either way.
    classic: bool,
    ended: bool,
    /// The time of this turn.
    now: Time,
    gap: GapWatch,
    received: ReceiveBatch,
    /// Receives of the next turn: as many as bring [`TURN_BYTES`], if they are like those of the last one.
    receive_limit: usize,
    batch: Batch,
    joins: Joins,
    coalescer: Coalescer,
    packet: Box<[u8]>,
    scratch: Box<[u8]>,
    trains: SendQueue,
    /// Whether the last turn left trains that may grow.
    waits: bool,
    stage: Stage,
    /// What was sealed last in this batch: the session's index, the counter, and whether the next packet may continue it.
    sealed: Option<(u32, u64)>,
    continuity: Continuity,
    errors: Allowance,
}

/// Whether a direction may have more to do right away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Idle,
    Drained,
    More,
}

impl Worker {
    /// A worker that has done nothing yet.
    pub fn new(parts: Parts) -> Self {
        let joins = joins(parts.offload);
        let classic = parts.offload == Offload::None;
        Self {
            view: Cache::new(parts.view),
            stop: parts.stop,
            nudge: parts.nudge,
            busy_poll: parts.busy_poll,
            seen: parts.seen,
            path: Path {
                number: parts.number,
                queue: parts.queue,
                socket: parts.socket,
                secrets: parts.secrets,
                counters: parts.counters,
                report: parts.report,
                classic,
                ended: false,
                now: Time::from_nanos(clock::boottime()),
                gap: GapWatch::new(Arc::clone(&parts.gap_noticed)),
                received: ReceiveBatch::new(if classic { 1 } else { BATCH }),
                receive_limit: 1,
                batch: Batch::default(),
                joins,
                coalescer: Coalescer::new(joins),
                packet: vec![0; MAX_LEN].into_boxed_slice(),
                scratch: vec![0; MAX_LEN].into_boxed_slice(),
                trains: if classic { SendQueue::unbatched() } else { SendQueue::default() },
                waits: false,
                stage: Stage::default(),
                sealed: None,
                continuity: Continuity::default(),
                errors: Allowance::new(),
            },
        }
    }

    /// Moves packets until it is told to stop, or until device or socket fail for good.
    pub fn run(mut self) {
        let mut wire_ready = true;
        let (mut nudged, mut edition) = (false, None);
        while !self.path.ended && !self.stop.is_woken() {
            let view = self.view.load();
            if edition.replace(view.edition) != Some(view.edition)
                && let Some(seen) = self.seen.get(self.path.number)
            {
                seen.store(view.edition, Ordering::Release);
            }
            self.path.begin_turn(view);
            if nudged {
                self.nudge.reset();
                self.path.look_at_stage(view);
            }
            let ingress = if wire_ready { self.path.ingress(view) } else { Progress::Idle };
            let egress = self.path.egress(view);
            wire_ready = true;
            nudged = !self.path.stage.is_empty() && self.nudge.is_woken();
            if ingress == Progress::More || egress == Progress::More {
                continue;
            }
            let idle = ingress == Progress::Idle && egress == Progress::Idle;
            if !self.busy_poll.is_zero() && (!idle || self.look_again()) {
                continue;
            }
            let sources = [self.path.socket.as_fd(), self.path.queue.as_fd(), self.stop.as_fd(), self.nudge.as_fd()];
            match readable(sources, None) {
                Ok([wire, _, _, nudge]) => (wire_ready, nudged) = (wire, nudge),
                Err(e) => {
                    tracing::error!("worker-{} ends: {e}", self.path.number);
                    return (self.path.report)(Event::SocketFailed);
                }
            }
        }
        // Trains that were left to grow.
        self.path.send_all(self.view.load());
    }

    /// Spends the busy-poll time looking; answers whether something came.
    fn look_again(&mut self) -> bool {
        let until = Instant::now() + self.busy_poll;
        loop {
            match readable([self.path.socket.as_fd(), self.path.queue.as_fd()], Some(Duration::ZERO)) {
                // Whoever else wants this processor may be the one that we wait for.
                Ok([false, false]) if Instant::now() < until => std::thread::yield_now(),
                Ok([wire, device]) => return wire || device,
                Err(_) => return false,
            }
        }
    }
}

impl Path {
    /// Reads the clock; and where that tells that another copy of us may have used our counters, ends every session before anything is
    /// sealed.
    fn begin_turn(&mut self, view: &View) {
        self.now = Time::from_nanos(clock::boottime());
        if view.snapshot.has_secure()
            && let Some(gap) = self.gap.gap(self.now)
        {
            for remote in view.snapshot.peers().filter_map(tunnel::Peer::remote) {
                if let Some(session) = remote.session.load().as_ref().filter(|session| session.since() < gap.before) {
                    session.end();
                }
            }
            if gap.first {
                (self.report)(Event::Gap);
            }
        }
    }

    fn notify(&self, notice: Notice, local: Option<LocalAddress>) {
        if self.secrets.mailbox.notify(notice, local) {
            (self.report)(Event::Mail);
        }
    }

    fn device_gone(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            (self.report)(Event::DeviceGone);
        }
    }

    fn dropped(&self, reason: Reason, packets: usize) {
        if let Some(counters) = self.counters.get(self.number) {
            counters.dropped(reason, packets);
        }
    }
}

/// Tells when the machine slept (CLOCK_BOOTTIME moves against CLOCK_MONOTONIC), or was restored from a copy of its memory or had its clock
/// set (CLOCK_REALTIME moves against CLOCK_BOOTTIME). Each thread that seals looks for itself.
pub struct GapWatch {
    asleep: i128,
    wall: i128,
    looked: Time,
    /// When the last gap was noticed by any thread.
    noticed: Arc<AtomicU64>,
}

/// A gap that a thread noticed.
pub struct Gap {
    /// Sessions agreed on before this are not to be used.
    pub before: Time,
    /// Whether this thread is the first to notice.
    pub first: bool,
}

/// Clocks drift apart by microseconds between two looks; what is more than this was a leap.
const LEAP: i128 = 1_000_000_000;

impl GapWatch {
    /// One of the threads that share `noticed`.
    pub fn new(noticed: Arc<AtomicU64>) -> Self {
        let (asleep, wall) = Self::look();
        Self { asleep, wall, looked: Time::from_nanos(clock::boottime()), noticed }
    }

    fn look() -> (i128, i128) {
        let boottime = i128::from(clock::boottime());
        let wall = i128::try_from(clock::realtime().as_nanos()).unwrap_or(i128::MAX);
        (boottime - i128::from(clock::monotonic()), wall - boottime)
    }

    /// Whether there was a gap since the last look.
    pub fn gap(&mut self, now: Time) -> Option<Gap> {
        let (asleep, wall) = Self::look();
        let leapt = (asleep - self.asleep).abs() > LEAP || (wall - self.wall).abs() > LEAP;
        let looked = std::mem::replace(&mut self.looked, now);
        // Slow drift (NTP slews) is followed.
        (self.asleep, self.wall) = (asleep, wall);
        if !leapt {
            return None;
        }
        // Who noticed it since our last look has had sessions made anew meanwhile.
        let noticed = Time::from_nanos(self.noticed.load(Ordering::Acquire));
        let first = noticed <= looked;
        if first {
            self.noticed.store(now.as_nanos(), Ordering::Release);
        }
        Some(Gap { before: if first { now } else { noticed }, first })
    }
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
