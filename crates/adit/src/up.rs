//! The daemon's life, from its configuration to a clean stop.
//!
//! 1. check what can be checked without touching anything: rights, the lock, endpoints, the port
//! 2. write down what will be ours, open the device, and bring the host to the desired state (`plan`, `apply`)
//! 3. give rights up, start the control sockets and the workers, say that it is ready
//! 4. control: events, repairs, path MTUs (see [`crate::control`])
//! 5. on a clean stop, remove everything; on a failure at any step, what that step and those before it made

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use linux::netlink::Netlink;
use linux::poll::{Signals, Waker};
use linux::privilege;

use crate::apply::{self, Record};
use crate::config::{TransportKind, Tunnel};
use crate::control::{Control, Inbox, Opened, Order};
use crate::counters::per_worker;
use crate::data_path::{self, Running, Surroundings};
use crate::dns::Resolvers;
use crate::mark::MarkFile;
use crate::observe::facts::Facts;
use crate::switchboard::{self, Switchboard};
use crate::worker::{Link, View};
use crate::{Directories, Failure, Result, api, underlay};

/// How long an address may take to be in use.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

/// When a daemon ends beside SIGTERM, SIGINT and `adit down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// Not before.
    #[default]
    UntilStopped,
    /// When its standard input is closed, which happens by itself when the process that started it dies.
    UntilStdinCloses,
}

/// Runs the tunnel in the foreground until it is asked to stop.
///
/// # Errors
/// What could not be set up, after everything done so far was taken back.
pub fn run(tunnel: Tunnel, directories: &Directories, lifetime: Lifetime) -> Result<()> {
    let signals = Signals::termination()?;
    privilege::check_tun()?;
    directories.check_reachable()?;
    let _claim = api::Claim::take(&directories.runtime, &tunnel.device.name)?;
    let workers = data_path::workers(&tunnel.transport);
    // WireGuard lets the network fragment its datagrams; the others are told how much fits, and keep to it.
    let dont_fragment = tunnel.peers.iter().any(|peer| peer.transport != TransportKind::WireGuard);
    let sockets = data_path::bind(&tunnel.transport, workers, dont_fragment)?;
    let listen = sockets.first().map_or(tunnel.transport.listen, |socket| socket.local_address());
    let endpoints = underlay::resolve(&tunnel.peers, listen)?;
    let mut netlink = Netlink::open()?;
    let inbox = Arc::new(Inbox::new()?);
    let reports = Arc::clone(&inbox);
    let mark = MarkFile::of(&tunnel.device.name, &directories.state);
    let (node, secrets) = switchboard::node(&tunnel, &endpoints, &mark)?;
    let surroundings = Surroundings {
        nudges: sockets.iter().map(|_| Waker::new().map(Arc::new)).collect::<linux::Result<_>>()?,
        sockets,
        secrets,
        gap_noticed: Arc::default(),
        control_drops: Arc::default(),
        view: Arc::new(ArcSwap::from_pointee(View::default())),
        counters: Arc::new(per_worker(workers)),
        report: Arc::new(move |event| reports.send(Order::from(event))),
        busy_poll: tunnel.transport.busy_poll,
    };
    let record = Record::of(&tunnel.device.name, &directories.state);
    // Carrier means that somebody holds a queue: a daemon with another runtime directory, with which ours would share the
    // packets.
    if let Some(device) = apply::observe(&mut netlink, &tunnel.device.name)?.device.filter(|device| device.running) {
        return Err(Failure::failed(format!("the device {} is in use by another daemon", device.name))
            .with_remedy("stop that one, or choose another `name` under [device]"));
    }
    let dns = tunnel.device.dns.clone();
    let mut resolvers = Resolvers::prepare(&tunnel.device.name, &dns, &directories.state)?;
    let links: Vec<_> = tunnel.peers.iter().map(|_| Arc::new(Link::new(workers))).collect();
    let switchboard = Switchboard::new(node, surroundings.clone(), links.clone(), mark);
    let mut control = Control::new(tunnel, (endpoints, links), surroundings.clone(), record, switchboard)?;

    // From here on the host changes.
    let mut opened = control.open(&mut netlink)?;
    let started = start(&control, &mut opened, &surroundings, directories, &inbox, lifetime);
    let (running, server) = match started.and_then(|started| resolvers.set(&dns).map(|()| started)) {
        Ok(started) => started,
        Err(failure) => {
            control.close(&mut netlink, opened);
            return Err(failure);
        }
    };
    await_addresses(&mut netlink, &control.facts());
    announce(&control.facts());
    let outcome = control.run(&mut netlink, running, &signals, &inbox);
    drop(server);
    match outcome {
        Ok(()) => {
            // First: questions for the tunnel's resolvers would go out in the clear without it.
            if let Err(failure) = resolvers.remove() {
                tracing::error!("{failure}");
            }
            control.remove(&mut netlink);
        }
        Err(failure) => {
            let device = control.facts().device_name().to_owned();
            return Err(failure.with_remedy(format!(
                "device, routes, blackholes and DNS servers stay, so that nothing leaves in the clear: `adit up` takes them over, \
                 `adit down --device {device}` removes them"
            )));
        }
    }
    Ok(())
}

fn start(
    control: &Control,
    opened: &mut Opened,
    surroundings: &Surroundings,
    directories: &Directories,
    inbox: &Arc<Inbox>,
    lifetime: Lifetime,
) -> Result<(Running, api::Server)> {
    let facts = control.facts();
    let sockets = api::Sockets::bind(&directories.runtime, facts.device_name())?;
    // Before the first thread: each takes over the rights of the one that starts it. A test bed may not let us; then we keep
    // what we have.
    if let Err(e) = privilege::drop_to_net_admin() {
        tracing::warn!("{e}; going on with more rights than needed");
    }
    if lifetime == Lifetime::UntilStdinCloses {
        watch_stdin(Arc::clone(inbox))?;
    }
    let inbox = Arc::clone(inbox);
    let server = sockets.serve(move |request| match request {
        api::Request::Status => api::Response::Status(Box::new(facts.status())),
        api::Request::Stop => {
            inbox.send(Order::Stop);
            api::Response::Done
        }
    })?;
    Ok((Running::start(&mut opened.device, surroundings)?, server))
}

/// The kernel puts an IPv6 address to use a moment after it was added, and drops what comes for it until then.
fn await_addresses(netlink: &mut Netlink, facts: &Facts) {
    for address in facts.addresses().iter().map(IpNet::addr).filter(IpAddr::is_ipv6) {
        match netlink.wait_for_address(address, ADDRESS_PATIENCE) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the kernel has not put {address} to use yet"),
            Err(e) => tracing::warn!("cannot see whether {address} is in use: {e}"),
        }
    }
}

/// The line that says "ready", on standard output and to the service manager.
fn announce(facts: &Facts) {
    let line = facts.ready_line();
    let mut out = io::stdout().lock();
    // A closed standard output is no reason to go down.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        tracing::debug!("{line}");
    }
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&line)]) {
        tracing::warn!("cannot notify the service manager: {e}");
    }
}

fn watch_stdin(inbox: Arc<Inbox>) -> Result<()> {
    let watch = move || {
        let mut buffer = [0; 256];
        while matches!(io::stdin().read(&mut buffer), Ok(n) if n > 0) {}
        inbox.send(Order::Stop);
    };
    thread::Builder::new()
        .name("stdin".into())
        .spawn(watch)
        .map(drop)
        .map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))
}
