//! The thread that decides: it owns the configuration and the picture that workers see, keeps the host as it should be, and
//! answers what it is asked. One input at a time, then everything that follows from it, then it waits.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use linux::netlink::{Monitor, Netlink};

use linux::poll::{Signals, Waker, readable};
use linux::tun::Device;
use tunnel::{PeerId, Snapshot, Way};

use crate::apply::{self, Record};
use crate::config::Tunnel;
use crate::data_path::{self, Running, Surroundings};
use crate::observe::facts::{DeviceFacts, Facts};
use crate::plan::{self, Desired, Operation, Owned, Road};
use crate::switchboard::{Change, Switchboard};
use crate::underlay::{self, Knowledge};
use crate::worker::{Event, Link, View};
use crate::{Failure, Result, roads};

/// How often path MTUs are looked up again without a cause: the kernel forgets a learned one after ten minutes.
const REFRESH: Duration = Duration::from_secs(60);

/// Changes of the host come in groups; this long after the first one they are looked at.
const SETTLE: Duration = Duration::from_millis(100);

/// Between two looks at the host, so that somebody who changes it all the time does not keep us busy all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// A device that somebody deletes is made anew at once, this many times within [`REFRESH`]; beyond, once per [`REFRESH`].
const MAX_REVIVALS: usize = 10;

/// What control is told. Each is a hint to look at something, so that the same one twice is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// End, and remove everything.
    Stop,
    /// The underlay refused a datagram as too long.
    PathTooNarrow,
    /// The device took no super-packets of a kind that it had agreed to.
    SuperPacketsRefused,
    /// The device is gone.
    DeviceGone,
    /// A socket failed for good.
    SocketFailed,
    /// A worker ended by a defect.
    WorkerFailed,
    /// Something lies in the mailbox.
    Mail,
    /// The machine slept, or was restored from a copy of itself.
    Gap,
}

/// Where orders arrive, from any thread; sending never blocks and never fails.
#[derive(Debug)]
pub struct Inbox {
    orders: AtomicU32,
    waker: Waker,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Result<Self> {
        Ok(Self { orders: AtomicU32::new(0), waker: Waker::new()? })
    }

    /// Puts an order in.
    pub fn send(&self, order: Order) {
        // Who put the same one in before has woken us for it.
        if self.orders.fetch_or(1 << order as u8, Ordering::AcqRel) & (1 << order as u8) == 0 {
            self.waker.wake();
        }
    }

    /// Takes one order back, if it is there.
    fn forget(&self, order: Order) {
        self.orders.fetch_and(!(1 << order as u8), Ordering::AcqRel);
    }

    fn take(&self) -> Orders {
        self.waker.reset();
        Orders(self.orders.swap(0, Ordering::Acquire))
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl From<Event> for Order {
    fn from(event: Event) -> Self {
        match event {
            Event::PathTooNarrow(_) => Self::PathTooNarrow,
            Event::SuperPacketsRefused => Self::SuperPacketsRefused,
            Event::DeviceGone => Self::DeviceGone,
            Event::SocketFailed => Self::SocketFailed,
            Event::WorkerFailed => Self::WorkerFailed,
            Event::Mail => Self::Mail,
            Event::Gap => Self::Gap,
        }
    }
}

#[derive(Clone, Copy)]
struct Orders(u32);

impl Orders {
    fn has(self, order: Order) -> bool {
        self.0 & (1 << order as u8) != 0
    }
}

/// What the thread owns.
pub struct Control {
    tunnel: Tunnel,
    endpoints: Vec<Option<SocketAddr>>,
    links: Vec<Arc<Link>>,
    surroundings: Surroundings,
    record: Record,
    /// What is ours beyond the device, of earlier runs too.
    owned: Owned,
    /// Of a tunnel that takes everything.
    road: Option<Road>,
    /// The longest packet that the way to each peer takes now.
    paths: Vec<usize>,
    facts: Arc<Facts>,
    device: Arc<ArcSwap<DeviceFacts>>,
    /// The encrypted peers.
    switchboard: Switchboard,
    running: Option<Running>,
    revivals: VecDeque<Instant>,
    /// What went wrong last, so that it is said once.
    complaint: Option<String>,
}

/// What [`Control::open`] did, to be taken back if what follows fails.
pub struct Opened {
    /// The device, for the workers.
    pub device: Device,
    undo: Undo,
}

struct Undo {
    steps: Vec<Operation>,
    device_was_there: bool,
    owned: Owned,
}

impl Control {
    /// Control of a tunnel that is not up yet; endpoints and links are in the order of its peers.
    pub fn new(
        tunnel: Tunnel,
        (endpoints, links): (Vec<Option<SocketAddr>>, Vec<Arc<Link>>),
        surroundings: Surroundings,
        record: Record,
        switchboard: Switchboard,
    ) -> Result<Self> {
        let owned = record.read()?;
        let device = Arc::new(ArcSwap::from_pointee(DeviceFacts::default()));
        let parts = (links.as_slice(), switchboard.node());
        let facts = Arc::new(Facts::new(&tunnel, &endpoints, &surroundings, parts, Arc::clone(&device)));
        Ok(Self {
            tunnel,
            endpoints,
            links,
            surroundings,
            record,
            owned,
            road: None,
            paths: Vec::new(),
            facts,
            device,
            switchboard,
            running: None,
            revivals: VecDeque::new(),
            complaint: None,
        })
    }

    /// The same with what [`roads::settle`] chose.
    pub fn by(mut self, road: Option<Road>) -> Self {
        self.road = road;
        self
    }

    /// What `adit status` reads.
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// Opens the device and brings the host to the desired state.
    ///
    /// # Errors
    /// What could not be done; the host is as it was before.
    pub fn open(&mut self, netlink: &mut Netlink) -> Result<Opened> {
        let name = self.tunnel.device.name.clone();
        let base = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints, Knowledge::Configured);
        underlay::check_mtu(&self.tunnel, &base)?;
        self.paths = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints, Knowledge::Learned);
        let desired = self.desired(&base);
        let before = apply::observe(netlink, &name)?;
        let mut undo = Undo { steps: Vec::new(), device_was_there: before.device.is_some(), owned: self.owned.clone() };
        self.owned.claim(&desired, &before);
        let opened = self.record.write(&self.owned).and_then(|()| self.set_up(netlink, &name, &desired, &mut undo));
        let device = match opened {
            Ok(device) => device,
            Err(failure) => {
                self.take_back(netlink, &undo);
                return Err(failure);
            }
        };
        self.owned.keep(&desired);
        self.record.write(&self.owned)?;
        self.device.store(Arc::new(DeviceFacts { mtu: desired.mtu, offloads: device.offloads.clone() }));
        self.switchboard.set_mtu(desired.mtu, &self.paths);
        self.publish();
        Ok(Opened { device, undo })
    }

    fn set_up(&self, netlink: &mut Netlink, name: &str, desired: &Desired, undo: &mut Undo) -> Result<Device> {
        let queues = self.surroundings.sockets.len();
        let device = data_path::open_device(netlink, name, queues, self.tunnel.transport.offload)?;
        let actual = apply::observe(netlink, name)?;
        let steps = plan::plan(desired, &actual, &self.owned);
        apply::apply(netlink, name, &steps)?;
        undo.steps = steps;
        underlay::check_no_loop(netlink, &self.tunnel, &self.endpoints)?;
        Ok(device)
    }

    /// Takes a start back of which a later step failed.
    pub fn close(&mut self, netlink: &mut Netlink, opened: Opened) {
        drop(opened.device);
        self.take_back(netlink, &opened.undo);
    }

    fn take_back(&mut self, netlink: &mut Netlink, undo: &Undo) {
        let name = &self.tunnel.device.name;
        apply::undo(netlink, name, &undo.steps);
        let mut failures = Vec::new();
        if !undo.device_was_there {
            failures.extend(apply::delete_device(netlink, name).err());
        }
        self.owned.clone_from(&undo.owned);
        let noted = if self.owned.is_empty() { self.record.remove() } else { self.record.write(&self.owned) };
        failures.extend(noted.err());
        for failure in failures {
            tracing::warn!("while taking changes back: {failure}");
        }
    }

    /// Removes everything: routes, device, blackholes, and the note that they are ours.
    pub fn remove(&mut self, netlink: &mut Netlink) {
        let name = &self.tunnel.device.name;
        let mut failures = Vec::new();
        match apply::observe(netlink, name) {
            Ok(actual) => failures.extend(apply::try_all(netlink, name, &plan::removal(&actual, &self.owned))),
            Err(failure) => failures.push(failure),
        }
        failures.extend(apply::delete_device(netlink, name).err());
        if failures.is_empty() {
            failures.extend(self.record.remove().err());
        }
        for failure in failures {
            tracing::error!("{failure}");
        }
    }

    /// Runs until it is told to stop. The workers have ended when it returns.
    ///
    /// # Errors
    /// What made it impossible to go on. Device, routes and blackholes stand then as after a kill.
    pub fn run(&mut self, netlink: &mut Netlink, running: Running, signals: &Signals, inbox: &Inbox) -> Result<()> {
        self.running = Some(running);
        let outcome = self.serve(netlink, signals, inbox);
        if outcome.is_ok()
            && let Some(running) = &self.running
        {
            running.release_device();
        }
        self.running = None;
        outcome
    }

    fn serve(&mut self, netlink: &mut Netlink, signals: &Signals, inbox: &Inbox) -> Result<()> {
        let mut monitor = Monitor::open()?;
        if self.road.is_some() {
            monitor.watch_filters()?;
        }
        let mut look = Instant::now() + REFRESH;
        let mut looked = Instant::now();
        self.switchboard.start();
        loop {
            self.follow(netlink);
            let wait = look.saturating_duration_since(Instant::now()).min(self.switchboard.wait());
            let [signal, changes, orders] = readable([signals.as_fd(), monitor.as_fd(), inbox.as_fd()], Some(wait))?;
            if signal && signals.take().is_some() {
                return Ok(());
            }
            let mut soon = changes && !monitor.drain()?.is_empty();
            if orders {
                let orders = inbox.take();
                if orders.has(Order::Stop) {
                    return Ok(());
                }
                if orders.has(Order::SocketFailed) {
                    return Err(Failure::failed("the UDP socket failed; the cause is in the log above"));
                }
                if orders.has(Order::WorkerFailed) {
                    return Err(Failure::failed(
                        "a worker thread ended by a defect in adit; please report the log above",
                    ));
                }
                if orders.has(Order::Gap) {
                    self.switchboard.gap();
                }
                if orders.has(Order::SuperPacketsRefused) {
                    self.super_packets_refused();
                }
                if orders.has(Order::DeviceGone) {
                    self.part_with_device(inbox);
                }
                soon |= orders.has(Order::PathTooNarrow) || orders.has(Order::DeviceGone);
            }
            self.switchboard.work();
            let now = Instant::now();
            if soon {
                look = look.min((now + SETTLE).max(looked + PAUSE));
            }
            if now >= look {
                looked = now;
                look = now + self.look_again(netlink, inbox);
            }
        }
    }

    /// Does what the encrypted peers have asked for.
    fn follow(&mut self, netlink: &mut Netlink) {
        let mut changed = false;
        while let Some(change) = self.switchboard.next_change() {
            match change {
                Change::Path(_) => changed = true,
                Change::Moved(id, endpoint) => {
                    if let Some(slot) = self.endpoints.get_mut(id.0 as usize) {
                        *slot = Some(endpoint);
                    }
                    let paths = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints, Knowledge::Learned);
                    if paths != self.paths {
                        self.paths = paths;
                        self.switchboard.set_mtu(self.device.load().mtu, &self.paths);
                        changed = true;
                    }
                }
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Lets go of a device that is no longer where it was. The old threads end before new ones start: two readers of one socket
    /// would share its datagrams.
    fn part_with_device(&mut self, inbox: &Inbox) {
        if let Some(running) = self.running.take() {
            tracing::warn!("the device {} was deleted, renamed or moved away", self.tunnel.device.name);
            running.release_device();
        }
        // Each of the workers said so.
        inbox.forget(Order::DeviceGone);
    }

    /// Repairs what somebody changed, and follows the underlay. Answers when to look again at the latest.
    fn look_again(&mut self, netlink: &mut Netlink, inbox: &Inbox) -> Duration {
        let outcome = match self.running {
            Some(_) => self.repair(netlink, inbox),
            None => self.revive(netlink),
        };
        let complaint = outcome.err().map(|failure| failure.to_string());
        if let Some(complaint) = complaint.as_deref().filter(|c| self.complaint.as_deref() != Some(c)) {
            tracing::warn!("{complaint}");
        }
        self.complaint = complaint;
        match (&self.running, &self.complaint) {
            // What cannot be done now may be possible later.
            (Some(_), Some(_)) => 10 * PAUSE,
            (None, _) if self.revivals.len() < MAX_REVIVALS => PAUSE,
            _ => REFRESH,
        }
    }

    /// Makes the device anew.
    fn revive(&mut self, netlink: &mut Netlink) -> Result<()> {
        let now = Instant::now();
        self.revivals.retain(|at| now.saturating_duration_since(*at) < REFRESH);
        self.revivals.push_back(now);
        let mut opened = self.open(netlink)?;
        match Running::start(&mut opened.device, &self.surroundings) {
            Ok(running) => self.running = Some(running),
            Err(failure) => {
                self.close(netlink, opened);
                return Err(failure);
            }
        }
        tracing::warn!("made the device {} anew", self.tunnel.device.name);
        Ok(())
    }

    fn repair(&mut self, netlink: &mut Netlink, inbox: &Inbox) -> Result<()> {
        let paths = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints, Knowledge::Learned);
        if paths != self.paths {
            tracing::info!(
                "the narrowest way to a peer takes packets of {} bytes now",
                paths.iter().min().unwrap_or(&0)
            );
            self.paths = paths;
            self.switchboard.set_mtu(self.device.load().mtu, &self.paths);
            self.publish();
        }
        underlay::forget_other_cards(netlink, &self.tunnel, &self.endpoints, &self.links);
        let base = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints, Knowledge::Configured);
        let desired = self.desired(&base);
        let name = &self.tunnel.device.name;
        let actual = apply::observe(netlink, name)?;
        if actual.device.is_none() {
            self.part_with_device(inbox);
            return self.revive(netlink);
        }
        let steps = plan::plan(&desired, &actual, &self.owned);
        // Each for itself: one that cannot be mended keeps none of the others from it, least of all a blackhole.
        let failures = apply::try_all(netlink, name, &steps);
        if steps.len() > failures.len() {
            tracing::info!("brought {name} back to its configuration ({} changes)", steps.len() - failures.len());
        }
        let before = self.device.load();
        if before.mtu != desired.mtu {
            self.device.store(Arc::new(DeviceFacts { mtu: desired.mtu, ..DeviceFacts::clone(&before) }));
            self.switchboard.set_mtu(desired.mtu, &self.paths);
        }
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => underlay::check_no_loop(netlink, &self.tunnel, &self.endpoints),
        }
    }

    /// `base`: the [configured](Knowledge::Configured) paths to the peers.
    fn desired(&self, base: &[usize]) -> Desired {
        let port = self.surroundings.sockets.first().map_or(0, |socket| socket.local_address().port());
        roads::desired(&self.tunnel, underlay::device_mtu(&self.tunnel, base), self.road, port)
    }

    /// Shows workers the peers as they are now.
    fn publish(&self) {
        let addresses: Vec<_> = self.tunnel.device.addresses.iter().map(IpNet::addr).collect();
        let peers = (0..).map(PeerId).zip(&self.tunnel.peers).zip(self.endpoints.iter().zip(&self.paths));
        let peers = peers.filter_map(|((id, peer), (endpoint, mtu))| {
            let way = match self.switchboard.remote(id) {
                Some(remote) => Way::Secure { configured: *endpoint, remote },
                // Plain peers have an endpoint: `underlay::resolve` sees to it.
                None => Way::Plain((*endpoint)?),
            };
            // What the first link permits, unless probes or the peer's own device say less.
            let mtu = self.switchboard.path_mtu(id).map_or(*mtu, |found| found.min(*mtu));
            Some(tunnel::Peer { way, mtu, allowed_ips: peer.allowed_ips.clone() })
        });
        let peers = peers.collect();
        let snapshot = Snapshot::new(peers, &addresses);
        self.surroundings.view.store(Arc::new(View { snapshot, links: self.links.clone() }));
    }

    fn super_packets_refused(&self) {
        let before = self.device.load();
        let mut facts = DeviceFacts::clone(&before);
        facts.offloads.reason =
            Some("the kernel refuses super-packets that it had agreed to; they are written in segments".into());
        tracing::warn!("{}: {}", self.tunnel.device.name, facts.offloads.reason.as_deref().unwrap_or_default());
        self.device.store(Arc::new(facts));
    }
}
