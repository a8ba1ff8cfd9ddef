//! The thread that decides: it owns the configuration and the picture that workers see, keeps the host as it should be, and
//! answers what it is asked. One input at a time, then everything that follows from it, then it waits.
//!
//! | file | what it is for |
//! |---|---|
//! | `control.rs` | the loop: signals, orders, repairs; what workers see |
//! | `inbox.rs` | orders: how other threads wake it |
//! | `host.rs` | device, addresses, routes and blackholes: made, taken back, removed |
//! | `change.rs` | another configuration, as one transaction |
//! | `containers.rs` | what containers' programs are told of the node, and what they made kept as it should be |
//! | `segment.rs` | a switch: its table kept, loops found |
//! | `places.rs` | peers that move, and host names that are resolved again |

mod change;
mod containers;
mod host;
mod inbox;
mod places;
mod segment;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use linux::netlink::{Monitor, Netlink};
use linux::poll::{Signals, readable};
use tunnel::{Snapshot, Way};

use crate::apply::Record;
use crate::config::Tunnel;
use crate::container::{Node, Store};
use crate::data_path::{Running, Surroundings};
use crate::dns::Resolvers;
use crate::names::Names;
use crate::notes::{Note, topic};
use crate::notify::{self, Watchdog};
use crate::observe::facts::{DeviceFacts, Facts};
use crate::observe::web::{Door, Web};
use crate::plan::{Owned, Road};
use crate::request::{Handle, Request};
use crate::roster::{Member, Roster, Width};
use crate::switchboard::{self, Switchboard};
use crate::worker::View;
use crate::{Directories, Failure, Result, logging, underlay};

pub use host::Opened;
pub use inbox::{Inbox, Order};
use segment::Ethernet;

/// How often path MTUs are looked up again without a cause: the kernel forgets a learned one after ten minutes.
const REFRESH: Duration = Duration::from_secs(60);

/// Changes of the host come in groups; this long after the first one they are looked at.
const SETTLE: Duration = Duration::from_millis(100);

/// Between two looks at the host, so that somebody who changes it all the time does not keep us busy all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// A device that somebody deletes is made anew at once, this many times within [`REFRESH`]; beyond, once per [`REFRESH`].
const MAX_REVIVALS: usize = 10;

/// The MTU of a device that others take care of: that of WireGuard, which fits Ethernet and IPv6.
const BARE_MTU: u32 = 1420;

/// SIGHUP of signal(7).
const SIGHUP: i32 = 1;

/// What of the host is ours beside the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// All that the configuration says: the device outlives us, is kept as it should be, and made anew where it is lost.
    #[default]
    Host,
    /// The device, as long as we live. It has no address and no route of ours, and may be renamed, moved to another namespace, and given
    /// another MTU by others; where it is deleted, we end.
    Device,
}

/// What the thread owns.
pub struct Control {
    scope: Scope,
    tunnel: Arc<Tunnel>,
    directories: Directories,
    store: Store,
    roster: Roster,
    surroundings: Surroundings,
    record: Record,
    /// What is ours beyond the device, of earlier runs too.
    owned: Owned,
    /// Of a tunnel that takes everything.
    road: Option<Road>,
    facts: Arc<Facts>,
    device: Arc<ArcSwap<DeviceFacts>>,
    /// The encrypted peers.
    switchboard: Switchboard,
    /// Those of the host, where the tunnel has its own.
    resolvers: Option<Resolvers>,
    names: Names,
    /// When names are looked at again; never without a peer that has one.
    names_due: Option<Instant>,
    handle: Handle,
    requests: Receiver<Request>,
    /// SIGHUPs that were not followed yet.
    reloads: Arc<AtomicUsize>,
    running: Option<Running>,
    /// What a browser is shown.
    web: Web,
    /// Of the view that was published last.
    edition: u64,
    revivals: VecDeque<Instant>,
    /// What went wrong last, so that it is said once.
    complaint: Option<String>,
    /// What programs that make containers were told of the node.
    told: Option<Node>,
    /// Which containers have addresses that are not ours any more, so that it is said once.
    cut_off: Option<String>,
    /// Whether it was `adit down` that ended us.
    told_to_stop: bool,
    /// Of a device that carries frames.
    ethernet: Option<Ethernet>,
}

/// What a [`Control`] is made of.
pub struct Parts {
    /// What of the host is ours.
    pub scope: Scope,
    /// The configuration, whose peers are in the roster.
    pub tunnel: Tunnel,
    /// Where its files are.
    pub directories: Directories,
    /// What [`crate::roads::settle`] chose.
    pub road: Option<Road>,
    /// The peers.
    pub roster: Roster,
    /// What workers need.
    pub surroundings: Surroundings,
    /// What an earlier run owned.
    pub record: Record,
    /// The encrypted peers.
    pub switchboard: Switchboard,
    /// Names that are being resolved.
    pub names: Names,
    /// How the resolvers of the tunnel are set; nobody's affair for a device alone.
    pub resolvers: Option<Resolvers>,
    /// Where orders will come from.
    pub inbox: Arc<Inbox>,
}

impl Control {
    /// Control of a tunnel that is not up yet.
    ///
    /// # Errors
    /// The record of an earlier run cannot be read.
    pub fn new(parts: Parts) -> Result<Self> {
        let Parts {
            scope,
            tunnel,
            directories,
            road,
            roster,
            surroundings,
            record,
            switchboard,
            names,
            resolvers,
            inbox,
        } = parts;
        let owned = if scope == Scope::Host { record.read()? } else { Owned::default() };
        let device = Arc::new(ArcSwap::from_pointee(DeviceFacts::default()));
        let tunnel = Arc::new(tunnel);
        let (node, shown) = (switchboard.node(), Arc::clone(&device));
        let ethernet = Ethernet::of(&tunnel);
        let switch = ethernet.as_ref().map(|ethernet| Arc::clone(ethernet.switch()));
        let store = Store::of(&directories, &tunnel.device.name);
        let facts =
            Arc::new(Facts::new(Arc::clone(&tunnel), &roster, &surroundings, (node, shown), (store.clone(), switch)));
        let (handle, requests) = Handle::new(inbox, Arc::clone(&facts), Arc::clone(&surroundings.trace));
        Ok(Self {
            scope,
            tunnel,
            directories,
            store,
            roster,
            surroundings,
            record,
            owned,
            road,
            facts,
            device,
            switchboard,
            resolvers,
            names,
            names_due: Some(Instant::now()),
            web: Web::new(handle.clone()),
            handle,
            requests,
            reloads: Arc::default(),
            running: None,
            edition: 0,
            revivals: VecDeque::new(),
            complaint: None,
            told: None,
            cut_off: None,
            told_to_stop: false,
            ethernet,
        })
    }

    /// What `adit status` reads.
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// What of the host is ours.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// How others ask for changes.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Starts the workers on a device that was opened.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(&self, opened: &mut Opened) -> Result<Running> {
        Running::start(&mut opened.device, &self.surroundings)
    }

    /// Opens the door of the page, if there is to be one. The tunnel does its work without.
    pub fn open_page(&self) -> Option<Door> {
        self.web.prepare(self.tunnel.observe.listen.as_ref()).unwrap_or_else(|failure| {
            tracing::warn!("{failure}; it is tried again");
            None
        })
    }

    /// Serves the page at its door.
    pub fn serve_page(&mut self, door: Option<Door>) {
        self.web.follow(self.tunnel.observe.listen.as_ref(), door);
    }

    /// Runs until it is told to stop. The workers have ended when it returns.
    ///
    /// # Errors
    /// What made it impossible to go on. Device, routes and blackholes stand then as after a kill.
    pub fn run(&mut self, netlink: &mut Netlink, running: Running, signals: &Signals, inbox: &Inbox) -> Result<()> {
        self.running = Some(running);
        let outcome = self.serve(netlink, signals, inbox);
        self.web.stop();
        notify::stopping();
        self.refuse_requests();
        if outcome.is_ok()
            && !self.leaves_host()
            && let Some(running) = &self.running
        {
            running.release_device();
        }
        self.running = None;
        outcome
    }

    fn serve(&mut self, netlink: &mut Netlink, signals: &Signals, inbox: &Inbox) -> Result<()> {
        let mut monitor = Monitor::open()?;
        let mut watchdog = Watchdog::of_environment();
        // What was lost and broken while nobody looked.
        self.forget_lost_containers();
        let mut look =
            Instant::now() + self.keep_containers().map_or(PAUSE, |waits| if waits { PAUSE } else { REFRESH });
        let mut looked = Instant::now();
        self.switchboard.start(&self.roster);
        loop {
            if self.has_filters() {
                monitor.watch_filters()?;
            }
            if self.tunnel.overlay.is_some() {
                monitor.watch_settings()?;
            }
            let mut soon = self.follow(netlink);
            let now = Instant::now();
            let names = self.names_due.map_or(Duration::MAX, |due| due.saturating_duration_since(now));
            let others = names.min(watchdog.wait(now)).min(self.switchboard.wait()).min(self.wait_for_segment(now));
            let wait = if soon { Duration::ZERO } else { look.saturating_duration_since(now).min(others) };
            let [signal, changes, orders] = readable([signals.as_fd(), monitor.as_fd(), inbox.as_fd()], Some(wait))?;
            while signal && let Some(number) = signals.take() {
                if number != SIGHUP {
                    return Ok(());
                }
                self.reload();
            }
            soon |= changes && !monitor.drain()?.is_empty();
            if orders {
                let orders = inbox.take();
                if orders.has(Order::Stop) {
                    self.told_to_stop = true;
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
                    self.switchboard.gap(&self.roster);
                }
                if orders.has(Order::SuperPacketsRefused) {
                    self.super_packets_refused();
                }
                if orders.has(Order::DeviceGone) {
                    if self.scope == Scope::Device {
                        tracing::info!("the device {} was deleted", self.tunnel.device.name);
                        return Ok(());
                    }
                    self.part_with_device(inbox);
                }
                soon |= orders.has(Order::PathTooNarrow) || orders.has(Order::DeviceGone);
                if orders.has(Order::Request) {
                    self.answer_requests(netlink);
                }
            }
            self.switchboard.work(&self.roster);
            self.hand_out_notes(netlink);
            self.look_at_segment(netlink, now);
            soon |= self.look_at_names(netlink);
            let now = Instant::now();
            if soon {
                look = look.min((now + SETTLE).max(looked + PAUSE));
            }
            if now >= look {
                looked = now;
                look = now + self.look_again(netlink, inbox);
            }
            self.facts.set_turn(self.running.as_ref().is_some_and(Running::is_alive));
            // A device that is being made anew has no workers; ones that ended without a word are another matter.
            if self.running.as_ref().is_none_or(Running::is_alive) {
                watchdog.look(now);
            }
        }
    }

    /// Passes on what peers told.
    fn hand_out_notes(&mut self, netlink: &mut Netlink) {
        while let Some((peer, plaintext)) = self.switchboard.next_note() {
            let Ok(told) = wire::message::Note::parse(&plaintext) else { continue };
            let Some(member) = self.roster.get(peer) else { continue };
            if told.topic == topic::LOOP {
                self.told_of_segment(netlink, peer, told.body);
                continue;
            }
            let note = Note { peer, name: member.peer.name.clone(), topic: told.topic, body: told.body.to_vec() };
            self.handle.notes().hand_out(&note);
        }
    }

    /// Reads the file again, in a thread of its own: names may have to be resolved, and the answer is ours to give.
    fn reload(&self) {
        if self.reloads.fetch_add(1, Ordering::AcqRel) > 0 {
            // Who is at it will begin again.
            return;
        }
        let (handle, reloads) = (self.handle.clone(), Arc::clone(&self.reloads));
        let follow = move || {
            loop {
                let asked = reloads.load(Ordering::Acquire);
                if let Err(refusal) = handle.reload_and_tell() {
                    tracing::error!("nothing was changed: {refusal}");
                }
                if reloads.fetch_sub(asked, Ordering::AcqRel) == asked {
                    return;
                }
            }
        };
        if let Err(e) = thread::Builder::new().name("reload".into()).spawn(follow) {
            tracing::error!("cannot start a thread: {e}");
            self.reloads.store(0, Ordering::Release);
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
        logging::tell_withheld();
        let outcome = match (self.scope, &self.running) {
            (Scope::Device, _) => self.follow_device(netlink),
            (Scope::Host, Some(_)) => self.repair(netlink, inbox),
            (Scope::Host, None) => self.revive(netlink),
        };
        self.web.try_again(self.tunnel.observe.listen.as_ref());
        // What cannot be mended of the one keeps nothing of the other from it.
        let (busy, outcome) = match self.keep_containers() {
            Ok(busy) => (busy, outcome),
            Err(failure) => (false, outcome.and(Err(failure))),
        };
        let complaint = outcome.err().map(|failure| failure.to_string());
        if let Some(complaint) = complaint.as_deref().filter(|c| self.complaint.as_deref() != Some(c)) {
            tracing::warn!("{complaint}");
        }
        self.complaint = complaint;
        match (&self.running, &self.complaint) {
            // What cannot be done now may be possible later.
            (Some(_), Some(_)) => 10 * PAUSE,
            (Some(_), None) if busy => PAUSE,
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
        match self.start(&mut opened) {
            Ok(running) => self.running = Some(running),
            Err(failure) => {
                self.close(netlink, opened);
                return Err(failure);
            }
        }
        tracing::warn!("made the device {} anew", self.tunnel.device.name);
        self.surroundings.control.revivals.add(1);
        // They may have gone with it.
        self.set_resolvers()
    }

    /// Follows the underlay.
    fn follow_paths(&mut self, netlink: &mut Netlink) {
        underlay::forget_other_cards(netlink, &self.tunnel, self.roster.members());
        if self.survey(netlink) {
            let narrowest = self.roster.members().map(|member| member.width.learned).min();
            tracing::info!("the narrowest way to a peer takes packets of {} bytes now", narrowest.unwrap_or(0));
            self.switchboard.set_mtu(self.inner_mtu(self.device.load().mtu), &self.roster);
            self.publish();
        }
    }

    /// The MTU of the device is another one.
    fn set_device_mtu(&mut self, mtu: u32) {
        let before = self.device.load();
        if before.mtu != mtu {
            self.device.store(Arc::new(DeviceFacts { mtu, ..DeviceFacts::clone(&before) }));
            self.switchboard.set_mtu(self.inner_mtu(mtu), &self.roster);
            self.publish();
            self.try_to_tell_doors();
        }
    }

    /// A device that others take care of: its MTU is theirs, as long as it is where we can see it.
    fn follow_device(&mut self, netlink: &mut Netlink) -> Result<()> {
        self.follow_paths(netlink);
        let link = netlink.link(&self.tunnel.device.name)?;
        if let Some(link) = link.filter(|link| link.kind.as_deref() == Some("tun")) {
            self.set_device_mtu(link.mtu);
        }
        Ok(())
    }

    fn repair(&mut self, netlink: &mut Netlink, inbox: &Inbox) -> Result<()> {
        self.follow_paths(netlink);
        self.remember_addresses();
        let desired = self.desired(self.narrowest());
        let (has_device, failures) = self.put_right(netlink, &desired)?;
        if !has_device {
            self.part_with_device(inbox);
            return self.revive(netlink);
        }
        self.set_device_mtu(desired.mtu);
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => {
                let everybody = self.roster.members().map(|member| (&member.peer, member.endpoint));
                underlay::check_no_loop(netlink, &self.tunnel, everybody)
            }
        }
    }

    /// Bytes of the largest packet, or frame, inside a datagram, with a device of this MTU.
    fn inner_mtu(&self, device: u32) -> u32 {
        let link = if self.ethernet.is_some() { wire::frame::MAX_LINK } else { 0 };
        device.saturating_add(u32::try_from(link).unwrap_or(u32::MAX))
    }

    /// Bytes of the largest packet, or frame, that the way to a peer takes and this device gives.
    fn path(&self, width: Width) -> usize {
        let device = usize::try_from(self.inner_mtu(self.device.load().mtu)).unwrap_or(usize::MAX);
        width.learned.min(device)
    }

    /// Shows workers the peers as they are now.
    fn publish(&mut self) {
        self.edition += 1;
        let addresses: Vec<_> = self.tunnel.device.addresses.iter().map(IpNet::addr).collect();
        let peer = |(id, member): (_, Option<&Member>)| {
            let member = member?;
            let way = match self.switchboard.remote(id).zip(switchboard::protocol(member.peer.transport)) {
                Some((remote, protocol)) => Way::Secure { protocol, configured: member.endpoint, remote },
                // Plain peers have an endpoint: `underlay::locate` sees to it.
                None => Way::Plain(member.endpoint?),
            };
            // Whoever gave the device its largest packet has to know: what is too long for the underlay is cut there, as WireGuard has it.
            let mtu = if self.scope == Scope::Device { usize::MAX } else { member.mtu() };
            Some(tunnel::Peer { way, mtu, allowed_ips: member.peer.allowed_ips.clone() })
        };
        let snapshot = Snapshot::new(self.roster.slots().map(peer).collect(), &addresses);
        let snapshot = if self.tunnel.open { snapshot.open() } else { snapshot };
        let snapshot = match &self.tunnel.overlay {
            Some(overlay) => snapshot.serving(&overlay.subnets),
            None => snapshot,
        };
        let (links, edition) = (self.roster.links(), self.edition);
        let mtu = usize::try_from(self.inner_mtu(self.device.load().mtu)).unwrap_or(usize::MAX);
        let frames = self.frames();
        self.surroundings.view.store(Arc::new(View { snapshot, links, mtu, frames, edition }));
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
