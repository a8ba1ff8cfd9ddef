//! The device, the sockets and the worker threads between them: opened, started, stopped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use linux::netlink::{LinkChange, Netlink};
use linux::poll::Waker;
use linux::privilege;
use linux::tun::{self, Device, Layer, Offload};
use linux::udp::{self, Socket};

use crate::config::{Transport, TransportKind, Tunnel, Workers};
use crate::counters::{ControlCounters, Drops, PerWorker, WorkerCounters};
use crate::observe::trace::Desk;
use crate::plan::{ALIAS, link_address};
use crate::request::Refusal;
use crate::worker::{Event, Parts, Report, Secrets, View, Worker};
use crate::{Failure, Result, apply};

/// Asked-for size of each socket's buffers in bytes. Smaller ones lose datagrams of a fast TCP stream: with the kernel's default of
/// 208 KiB a stream keeps three quarters of its speed, with 1 MiB it still has thousands of retransmissions.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// Workers that `auto` starts at most: beyond, a tunnel is bound by its flows rather than by processors.
const MAX_AUTO_WORKERS: usize = 16;

/// How long control waits for workers to see another view, and how often it looks meanwhile. A turn takes a millisecond; a processor that
/// many want may make it a hundred.
const TURN_PATIENCE: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_micros(50);

/// How many workers a configuration means on this machine.
pub fn workers(transport: &Transport) -> usize {
    match transport.workers {
        Workers::Fixed(n) => n.get(),
        // One packet per system call is the classic path, and that had one thread.
        Workers::Auto if !transport.offload => 1,
        Workers::Auto => thread::available_parallelism().map_or(1, |n| n.get().min(MAX_AUTO_WORKERS)),
    }
}

/// Whether datagrams that are too long for their path are to be refused: WireGuard lets the network fragment its own; the others are told
/// how much fits, and keep to it.
pub fn forbids_fragments(tunnel: &Tunnel) -> bool {
    tunnel.peers.iter().any(|peer| peer.transport != TransportKind::WireGuard)
}

/// One socket per worker, all on the same port. `dont_fragment`: a datagram that is too long for the path is refused; without, the
/// network may fragment it.
///
/// # Errors
/// With a remedy: the port is taken, the address is not ours, the port needs a right that we do not have.
pub fn bind(
    transport: &Transport,
    workers: usize,
    dont_fragment: bool,
) -> std::result::Result<Vec<Arc<Socket>>, Refusal> {
    let options = |listen| udp::Options {
        listen,
        share_port: workers > 1,
        offload: transport.offload,
        dont_fragment,
        buffer: SOCKET_BUFFER,
    };
    // Sockets that share a port would share it with another daemon's too: one that does not share finds out whether it is free.
    let probe = |listen| Socket::bind(udp::Options { share_port: false, ..options(listen) });
    let listen = match probe(transport.listen) {
        // Where the kernel chooses the port, all sockets take the one that it chose for the first.
        Ok(first) => SocketAddr::new(transport.listen.ip(), first.local_address().port()),
        // Without IPv6 on this host, both families means IPv4.
        Err(e) if transport.listen_is_default && matches!(e.errno(), Some(EAFNOSUPPORT | EADDRNOTAVAIL)) => {
            let four = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), transport.listen.port());
            let first = probe(four).map_err(|e| explain(&e, four))?;
            SocketAddr::new(four.ip(), first.local_address().port())
        }
        Err(e) => return Err(explain(&e, transport.listen)),
    };
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = Socket::bind(options(listen)).map_err(|e| explain(&e, listen))?;
        if transport.fwmark.is_some() {
            // Before the first datagram: none may leave unmarked.
            socket.set_mark(transport.fwmark).map_err(Failure::from)?;
        }
        sockets.push(Arc::new(socket));
    }
    if let (true, Some(first)) = (workers > 1, sockets.first()) {
        udp::steer(first, workers).map_err(Failure::from)?;
    }
    Ok(sockets)
}

const EACCES: i32 = 13;
const EAFNOSUPPORT: i32 = 97;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;

fn explain(error: &linux::Error, listen: SocketAddr) -> Refusal {
    let (port, ip) = (listen.port(), listen.ip());
    let failure = match error.errno() {
        Some(EADDRINUSE) => Failure::failed(format!("UDP port {port} on {ip} is in use by another program"))
            .with_remedy("stop it, or choose another port in `listen` under [transport]"),
        Some(EADDRNOTAVAIL) => Failure::failed(format!("{ip} is not an address of this host"))
            .with_remedy("write one that `ip address` shows in `listen` under [transport], or leave `listen` out"),
        Some(EAFNOSUPPORT) => Failure::failed("this host has no IPv6")
            .with_remedy(format!("write `listen = \"0.0.0.0:{port}\"` under [transport]")),
        Some(EACCES) => Failure::failed(format!("no permission to listen on UDP port {port}"))
            .with_remedy("run as root, or choose a port above 1023 in `listen` under [transport]"),
        _ => Failure::failed(error.to_string()),
    };
    match error.errno() {
        Some(errno) => Refusal::new(errno, failure),
        None => failure.into(),
    }
}

/// Opens the device with one queue per worker, makes it ours, and lets it outlive us. If this fails, a device that was not there
/// before is gone again.
///
/// # Errors
/// A device of that name that is not ours; no right to make one.
pub fn open_device(netlink: &mut Netlink, tunnel: &Tunnel, queues: usize) -> Result<Device> {
    let (name, offload) = (tunnel.device.name.as_str(), tunnel.transport.offload);
    // Ours or not there: else this fails.
    apply::observe(netlink, name, None)?;
    let layer = if tunnel.ethernet.is_some() { Layer::Frames } else { Layer::Packets };
    // Of a device without an owner every user of the host could open a queue, and read and write as the tunnel does.
    let owner = Some(privilege::effective_user());
    let options = tun::Options { layer, queues, offload, owner, ..tun::Options::new(name) };
    let device = Device::open(options).map_err(|e| explain_device(&e, name))?;
    // Marked first: a device that outlives us must carry our mark.
    let index = netlink.existing_link(name)?.index;
    netlink.change_link(index, &LinkChange { alias: Some(ALIAS), ..LinkChange::default() })?;
    if layer == Layer::Frames {
        let mac = Some(link_address(&tunnel.link_owner(), name));
        netlink.change_link(index, &LinkChange { mac, ..LinkChange::default() })?;
        // A host takes no router's word for it that comes over the tunnel.
        if let Err(e) = linux::sysctl::set(&["net", "ipv6", "conf", name, "accept_ra"], "0") {
            tracing::debug!("{e}");
        }
    }
    device.set_persistent(true)?;
    Ok(device)
}

/// Makes a device that goes with its descriptors, with one queue per worker, and leaves the rest of it to others: it has `mtu`, no
/// address, and is not up.
///
/// # Errors
/// There is a device of that name; no right to make one.
pub fn open_bare_device(netlink: &mut Netlink, name: &str, queues: usize, offload: bool, mtu: u32) -> Result<Device> {
    let owner = Some(privilege::effective_user());
    let options =
        tun::Options { queues, offload, owner, exclusive: true, persistent: Some(false), ..tun::Options::new(name) };
    let device = Device::open(options).map_err(|e| explain_device(&e, name))?;
    let index = netlink.existing_link(name)?.index;
    netlink.change_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })?;
    // IN6_ADDR_GEN_MODE_NONE (linux/if_link.h): WireGuard's device has no link-local address either.
    if let Err(e) = linux::sysctl::set(&["net", "ipv6", "conf", name, "addr_gen_mode"], "1") {
        tracing::debug!("{e}");
    }
    Ok(device)
}

fn explain_device(error: &linux::Error, name: &str) -> Failure {
    match error.errno() {
        // TUNSETIFF without CAP_NET_ADMIN.
        Some(1) => Failure::failed(format!("no permission to make the device {name}"))
            .with_remedy("run as root, or give the program the right with `setcap cap_net_admin+ep`"),
        Some(22) => Failure::failed(format!("the device {name} is left from a program that opened it in another way"))
            .with_remedy(format!("remove it with `ip link delete {name}`")),
        Some(16) => Failure::failed(format!("the device {name} is in use by another program"))
            .with_remedy("stop it, or choose another `name` under [device]"),
        _ => Failure::failed(error.to_string()),
    }
}

/// What worker threads need beside the device; outlives it.
#[derive(Clone)]
pub struct Surroundings {
    /// One per worker.
    pub sockets: Vec<Arc<Socket>>,
    /// What control publishes.
    pub view: Arc<ArcSwap<View>>,
    /// Sessions, admission, mailbox.
    pub secrets: Secrets,
    /// One per worker: woken when packets that wait for a session may go, or wait in vain, or when there is another view to see.
    pub nudges: Vec<Arc<Waker>>,
    /// By which edition of the view each worker works.
    pub seen: Arc<PerWorker<AtomicU64>>,
    /// When a gap in time was noticed last, for all threads that seal.
    pub gap_noticed: Arc<AtomicU64>,
    /// Where workers count.
    pub counters: Arc<PerWorker<WorkerCounters>>,
    /// Messages of handshakes that control dropped.
    pub control_drops: Arc<Drops>,
    /// What else control did.
    pub control: Arc<ControlCounters>,
    /// Where traces are asked for, and where workers see whether one is under way.
    pub trace: Arc<Desk>,
    /// How they reach control.
    pub report: Report,
    /// How long they look again before they sleep.
    pub busy_poll: Duration,
}

/// The running threads. They end when this is dropped.
pub struct Running {
    threads: Vec<(JoinHandle<()>, Arc<Waker>)>,
    /// A hold on the device that depends neither on its name nor on the threads: while they are started anew it keeps its carrier.
    queues: Vec<tun::Queue>,
    offload: Offload,
}

/// Tells control when a worker ends by a defect instead of by order: its share of the flows would die in silence.
struct Guard(Report);

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.0)(Event::WorkerFailed);
        }
    }
}

impl Running {
    /// Starts one thread per queue of the device, which they take.
    pub fn start(device: &mut Device, surroundings: &Surroundings) -> Result<Self> {
        if device.queues.is_empty() {
            return Err(Failure::failed("the device has no queue"));
        }
        let queues = device.queues.drain(..).collect();
        let mut running = Self { threads: Vec::new(), queues, offload: device.offloads.level };
        running.spawn(surroundings)?;
        Ok(running)
    }

    /// Ends the threads and starts others on the same queues, with what surrounds them now: other sockets. The device notices nothing.
    ///
    /// # Errors
    /// No thread runs then.
    pub fn restart(&mut self, surroundings: &Surroundings) -> Result<()> {
        self.end_threads();
        let spawned = self.spawn(surroundings);
        if spawned.is_err() {
            self.end_threads();
        }
        spawned
    }

    /// Waits until every worker works by this edition of the view, so that what is not in it any more is not used either; but no longer
    /// than a worker may take for a turn at the worst.
    pub fn await_sight(&self, edition: u64, surroundings: &Surroundings) {
        let deadline = Instant::now() + TURN_PATIENCE;
        surroundings.nudges.iter().for_each(|nudge| nudge.wake());
        while surroundings.seen.iter().any(|seen| seen.load(Ordering::Acquire) < edition) {
            if !self.is_alive() || Instant::now() >= deadline {
                return;
            }
            thread::sleep(GLANCE);
        }
    }

    /// Whether every thread still runs.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|(thread, _)| !thread.is_finished())
    }

    fn spawn(&mut self, surroundings: &Surroundings) -> Result<()> {
        let parts = self.queues.iter().zip(&surroundings.sockets).zip(&surroundings.nudges);
        for (number, ((queue, socket), nudge)) in parts.enumerate() {
            let stop = Arc::new(Waker::new()?);
            let worker = Worker::new(Parts {
                number,
                queue: queue.try_clone()?,
                offload: self.offload,
                socket: Arc::clone(socket),
                view: Arc::clone(&surroundings.view),
                secrets: surroundings.secrets.clone(),
                gap_noticed: Arc::clone(&surroundings.gap_noticed),
                counters: Arc::clone(&surroundings.counters),
                stop: Arc::clone(&stop),
                nudge: Arc::clone(nudge),
                seen: Arc::clone(&surroundings.seen),
                trace: Arc::clone(surroundings.trace.gate()),
                report: Arc::clone(&surroundings.report),
                busy_poll: surroundings.busy_poll,
            });
            let guard = Guard(Arc::clone(&surroundings.report));
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let _guard = guard;
                    worker.run();
                })
                .map_err(|e| Failure::failed(format!("cannot start a worker thread: {e}")))?;
            self.threads.push((thread, stop));
        }
        Ok(())
    }

    fn end_threads(&mut self) {
        for (_, stop) in &self.threads {
            stop.wake();
        }
        for (thread, _) in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or("worker").to_owned();
            if thread.join().is_err() {
                tracing::error!("{name} ended by a defect in adit");
            }
        }
    }

    /// Gives the device a frame, as if it had come from a peer. One that it does not take is lost.
    pub fn give_to_device(&self, frame: &[u8]) {
        if let Some(Err(e)) = self.queues.first().map(|queue| queue.send(&wire::vnet::VnetHdr::NONE, frame)) {
            tracing::debug!("a frame was not taken by the device: {e}");
        }
    }

    /// Lets the device go with the threads, whatever name it has and wherever it was moved by now.
    pub fn release_device(&self) {
        // It fails only for a device that is gone already.
        if let Some(Err(e)) = self.queues.first().map(|queue| queue.set_persistent(false)) {
            tracing::debug!("{e}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_threads();
    }
}
