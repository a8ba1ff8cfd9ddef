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
use tunnel::Snapshot;

use crate::apply::{self, Record};
use crate::config::Tunnel;
use crate::data_path::{self, Running, Surroundings};
use crate::observe::facts::{DeviceFacts, Facts};
use crate::plan::{self, Desired};
use crate::worker::{Event, Link, View};
use crate::{Failure, Result, underlay};

/// How often path MTUs are looked up again without a cause: the kernel forgets a learned one after ten minutes.
const REFRESH: Duration = Duration::from_secs(60);

/// Changes of the host come in groups; this long after the first one they are looked at.
const SETTLE: Duration = Duration::from_millis(100);

/// A device that somebody deletes is made anew, this many times within [`REFRESH`].
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
        self.orders.fetch_or(1 << order as u8, Ordering::Release);
        self.waker.wake();
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
    endpoints: Vec<SocketAddr>,
    links: Vec<Arc<Link>>,
    surroundings: Surroundings,
    record: Record,
    /// The prefixes whose blackholes are ours, those of an earlier run included.
    owned: Vec<IpNet>,
    paths: Vec<usize>,
    facts: Arc<Facts>,
    device: Arc<ArcSwap<DeviceFacts>>,
    revivals: VecDeque<Instant>,
}

impl Control {
    /// Control of a tunnel that is not up yet.
    pub fn new(tunnel: Tunnel, endpoints: Vec<SocketAddr>, surroundings: Surroundings, record: Record) -> Result<Self> {
        let owned = record.read()?;
        let workers = surroundings.sockets.len();
        let links: Vec<_> = tunnel.peers.iter().map(|_| Arc::new(Link::new(workers))).collect();
        let device = Arc::new(ArcSwap::from_pointee(DeviceFacts::default()));
        let facts = Arc::new(Facts::new(&tunnel, &endpoints, &surroundings, &links, Arc::clone(&device)));
        Ok(Self {
            tunnel,
            endpoints,
            links,
            surroundings,
            record,
            owned,
            paths: Vec::new(),
            facts,
            device,
            revivals: VecDeque::new(),
        })
    }

    /// What `adit status` reads.
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// Opens the device and brings the host to the desired state.
    ///
    /// # Errors
    /// What could not be done; changes of the host were taken back, but for the device itself.
    pub fn open(&mut self, netlink: &mut Netlink) -> Result<Device> {
        self.paths = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints);
        let desired = self.desired()?;
        for prefix in &desired.prefixes {
            if !self.owned.contains(prefix) {
                self.owned.push(*prefix);
            }
        }
        self.record.write(&self.owned)?;
        let name = &self.tunnel.device.name;
        let queues = self.surroundings.sockets.len();
        let device = data_path::open_device(netlink, name, queues, self.tunnel.transport.offload)?;
        let actual = apply::observe(netlink, name)?;
        apply::apply(netlink, name, &plan::plan(&desired, &actual, &self.owned))?;
        underlay::check_no_loop(netlink, &self.tunnel, &self.endpoints)?;
        self.owned.clone_from(&desired.prefixes);
        self.record.write(&self.owned)?;
        self.device.store(Arc::new(DeviceFacts { mtu: desired.mtu, offloads: device.offloads.clone() }));
        self.publish();
        Ok(device)
    }

    /// Removes everything: routes, device, blackholes, and the note that they are ours.
    pub fn remove(&mut self, netlink: &mut Netlink) {
        let name = &self.tunnel.device.name;
        let mut failures = Vec::new();
        match apply::observe(netlink, name) {
            Ok(actual) => failures.extend(apply::remove(netlink, name, &plan::removal(&actual, &self.owned))),
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
    /// What made it impossible to go on.
    pub fn run(&mut self, netlink: &mut Netlink, running: Running, signals: &Signals, inbox: &Inbox) -> Result<()> {
        let mut monitor = Monitor::open()?;
        let mut running = Some(running);
        let mut refresh = Instant::now() + REFRESH;
        let mut settle: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let deadline = settle.map_or(refresh, |s| s.min(refresh));
            let wait = deadline.saturating_duration_since(now);
            let [signal, changes, orders] = readable([signals.as_fd(), monitor.as_fd(), inbox.as_fd()], Some(wait))?;
            if signal && signals.take().is_some() {
                return Ok(());
            }
            if orders {
                let orders = inbox.take();
                if orders.has(Order::Stop) {
                    return Ok(());
                }
                if orders.has(Order::SocketFailed) {
                    return Err(Failure::failed("the UDP socket failed; the cause is in the log above"));
                }
                if orders.has(Order::SuperPacketsRefused) {
                    self.super_packets_refused();
                }
                if orders.has(Order::DeviceGone) {
                    // The old threads first: two readers of one socket would share its datagrams.
                    drop(running.take());
                    running = Some(self.revive(netlink)?);
                }
                if orders.has(Order::PathTooNarrow) {
                    settle.get_or_insert(Instant::now() + SETTLE);
                }
            }
            if changes {
                monitor.drain()?;
                settle.get_or_insert(Instant::now() + SETTLE);
            }
            let now = Instant::now();
            if now >= deadline {
                settle = None;
                refresh = now + REFRESH;
                self.look_again(netlink);
            }
        }
    }

    /// Makes the device anew after somebody deleted it.
    fn revive(&mut self, netlink: &mut Netlink) -> Result<Running> {
        let name = &self.tunnel.device.name;
        let now = Instant::now();
        self.revivals.retain(|at| now.saturating_duration_since(*at) < REFRESH);
        if self.revivals.len() >= MAX_REVIVALS {
            return Err(Failure::failed(format!("the device {name} was deleted {MAX_REVIVALS} times within a minute"))
                .with_remedy("find out which program does it"));
        }
        self.revivals.push_back(now);
        tracing::warn!("the device {name} was deleted: making it anew");
        let device = self.open(netlink)?;
        Running::start(device, &self.surroundings)
    }

    /// Repairs what somebody changed, and follows the underlay. What cannot be done now is tried again with the next change.
    fn look_again(&mut self, netlink: &mut Netlink) {
        let paths = underlay::path_mtus(netlink, &self.tunnel, &self.endpoints);
        if paths != self.paths {
            tracing::info!("the underlay takes packets of {} bytes now", paths.iter().min().unwrap_or(&0));
            self.paths = paths;
            self.publish();
        }
        if let Err(failure) = self.repair(netlink) {
            tracing::warn!("{failure}");
        }
    }

    fn repair(&mut self, netlink: &mut Netlink) -> Result<()> {
        let name = &self.tunnel.device.name;
        let desired = self.desired()?;
        let actual = apply::observe(netlink, name)?;
        // A device that is gone announces itself by its worker.
        if actual.device.is_none() {
            return Ok(());
        }
        let steps = plan::plan(&desired, &actual, &self.owned);
        if steps.is_empty() {
            return Ok(());
        }
        apply::apply(netlink, name, &steps)?;
        let before = self.device.load();
        if before.mtu != desired.mtu {
            self.device.store(Arc::new(DeviceFacts { mtu: desired.mtu, ..DeviceFacts::clone(&before) }));
        }
        tracing::info!("brought {name} back to its configuration ({} changes)", steps.len());
        Ok(())
    }

    fn desired(&self) -> Result<Desired> {
        Ok(Desired {
            mtu: underlay::device_mtu(&self.tunnel, &self.paths)?,
            addresses: self.tunnel.device.addresses.clone(),
            prefixes: self.tunnel.peers.iter().flat_map(|p| p.allowed_ips.iter().copied()).collect(),
        })
    }

    /// Shows workers the peers as they are now.
    fn publish(&self) {
        let addresses: Vec<_> = self.tunnel.device.addresses.iter().map(IpNet::addr).collect();
        let peers = self.tunnel.peers.iter().zip(&self.endpoints).zip(&self.paths);
        let peers = peers
            .map(|((peer, endpoint), mtu)| tunnel::Peer {
                endpoint: *endpoint,
                mtu: *mtu,
                allowed_ips: peer.allowed_ips.clone(),
            })
            .collect();
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
