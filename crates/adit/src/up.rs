//! The daemon's life, from its configuration to a clean stop.
//!
//! 1. check what can be checked without touching anything: rights, the lock, endpoints, the port
//! 2. write down what will be ours, open the device, and bring the host to the desired state (`plan`, `apply`)
//! 3. give rights up, start the control sockets and the workers, say that it is ready
//! 4. control: events, repairs, path MTUs (see [`crate::control`])
//! 5. on a clean stop, remove everything; on a failure at any step, what that step and those before it made

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use linux::clock;
use linux::netlink::Netlink;
use linux::poll::{Signals, Waker};
use linux::privilege::{self, Capability};
use linux::tun;
use tunnel::Time;

use crate::apply::{self, Record};
use crate::config::{self, Dns, Host, Mtu, Table, TransportKind, Tunnel, Workers};
use crate::control::{Control, Inbox, Opened, Order, Parts, Scope};
use crate::counters::per_worker;
use crate::data_path::{self, Running, Surroundings};
use crate::dns::Resolvers;
use crate::key::PrivateKey;
use crate::mark::MarkFile;
use crate::names::Names;
use crate::observe::bench;
use crate::observe::doctor;
use crate::observe::facts::Facts;
use crate::observe::table::clean;
use crate::observe::trace::Desk;
use crate::observe::trace::helper::Helper;
use crate::request::Handle;
use crate::roster::{Member, Roster};
use crate::switchboard::{self, Switchboard};
use crate::worker::View;
use crate::{
    Directories, Failure, Result, api, container, network, notify, reconfigure, resolver, roads, uapi, underlay,
};

/// How long an address may take to be in use.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the start waits for names. Encrypted peers whose names have not been resolved by then are called as soon as they are.
const NAME_PATIENCE: Duration = Duration::from_secs(3);

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
    // A device without any peer is one that `wg` may give some.
    let is_wireguard = |peer: &config::Peer| peer.transport == TransportKind::WireGuard;
    // And a node may get clients.
    let for_tools = tunnel.network.is_some() || tunnel.peers.is_empty() || tunnel.peers.iter().any(is_wireguard);
    let device = tunnel.device.name.clone();
    run_with(tunnel, Scope::Host, directories, lifetime, |handle| {
        let serve = || uapi::serve(handle, &directories.wireguard, &device, uapi::Abandoned::GoOn);
        let server = for_tools.then(serve).transpose();
        // The tunnel does its work without.
        Ok(server.unwrap_or_else(|failure| {
            tracing::warn!("`wg` cannot reach this device: {failure}");
            None
        }))
    })
}

/// Runs a device as WireGuard's tools expect it ([`Scope::Device`]) until it is asked to stop, or the device is deleted: without a key, a
/// peer or an address, on a port that the kernel chooses. `serve` is called when the device is there and workers run, before it is said
/// that all is ready; what it answers lives as long as the daemon.
///
/// # Errors
/// As [`run`], and what `serve` refused.
pub fn run_bare<S>(
    device: &str,
    directories: &Directories,
    lifetime: Lifetime,
    serve: impl FnOnce(&Handle) -> Result<S>,
) -> Result<()> {
    run_with(bare(device), Scope::Device, directories, lifetime, serve)
}

/// The configuration of a device that has none.
fn bare(device: &str) -> Tunnel {
    Tunnel {
        device: config::Device {
            name: device.into(),
            addresses: Vec::new(),
            mtu: Mtu::Auto,
            private_key: None,
            wireguard_private_key: None,
            table: Table::Off,
            dns: Dns::default(),
        },
        transport: config::Transport {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
            listen_is_default: true,
            workers: Workers::Auto,
            offload: true,
            busy_poll: Duration::ZERO,
            fwmark: None,
        },
        network: None,
        overlay: None,
        observe: config::Observe::default(),
        ethernet: None,
        peers: Vec::new(),
        open: true,
        source: PathBuf::new(),
    }
}

/// The configuration of a node that has no file: what flannel's options say.
///
/// # Errors
/// A key file that cannot be read.
pub fn node(device: &str, network: config::Network, private_key_file: Option<&Path>) -> Result<Tunnel> {
    let mut tunnel = bare(device);
    let key = private_key_file.map(PrivateKey::read_file).transpose();
    tunnel.device.private_key = key.map_err(|e| Failure::failed(e.to_string()))?;
    tunnel.device.table = Table::Auto;
    tunnel.transport.listen = config::LISTEN;
    tunnel.open = false;
    tunnel.network = Some(network);
    Ok(tunnel)
}

fn run_with<S>(
    mut tunnel: Tunnel,
    scope: Scope,
    directories: &Directories,
    lifetime: Lifetime,
    serve: impl FnOnce(&Handle) -> Result<S>,
) -> Result<()> {
    let signals = Signals::termination()?;
    privilege::check_tun()?;
    directories.check_reachable()?;
    let _claim = api::Claim::take(&directories.runtime, &tunnel.device.name)?;
    if let Some(network) = &tunnel.network {
        container::check_bridge(directories, &tunnel.device.name, &network.bridge)?;
    }
    let network = network::begin(&mut tunnel, directories, &mut || signals.take().is_some())?;
    reconfigure::check_mtu(&tunnel)?;
    let mut netlink = Netlink::open()?;
    let record = Record::of(&tunnel.device.name, &directories.state);
    // Before there are sockets: it says how their datagrams are marked.
    let owned = record.read()?;
    let road = roads::settle(&mut netlink, &mut tunnel, &owned)?;
    roads::warn(&mut netlink, &tunnel);
    let workers = data_path::workers(&tunnel.transport);
    let sockets = data_path::bind(&tunnel.transport, workers, data_path::forbids_fragments(&tunnel))?;
    let listen = sockets.first().map_or(tunnel.transport.listen, |socket| socket.local_address());
    let inbox = Arc::new(Inbox::new()?);
    let (reports, answers) = (Arc::clone(&inbox), Arc::clone(&inbox));
    let mut names = Names::new(Arc::new(move || answers.send(Order::Answer)));
    let roster = enlist(&tunnel, (listen, workers), &mut names, &owned.addresses)?;
    if road.is_some() {
        roads::check_names(&roster)?;
    }
    let mark = MarkFile::of(&tunnel.device.name, &directories.state);
    let (node, secrets) = switchboard::node(&tunnel, &roster, &mark)?;
    let view = Arc::new(ArcSwap::from_pointee(View::default()));
    let surroundings = Surroundings {
        trace: Arc::new(Desk::new(start_helper(), Arc::default(), Arc::clone(&view))),
        nudges: sockets.iter().map(|_| Waker::new().map(Arc::new)).collect::<linux::Result<_>>()?,
        sockets,
        secrets,
        gap_noticed: Arc::default(),
        control_drops: Arc::default(),
        control: Arc::default(),
        view,
        counters: Arc::new(per_worker(workers)),
        seen: Arc::new(per_worker(workers)),
        report: Arc::new(move |event| reports.send(Order::from(event))),
        busy_poll: tunnel.transport.busy_poll,
    };
    // Carrier means that somebody holds a queue: a daemon with another runtime directory, with which ours would share the packets, or somebody who
    // opened one of a device that had no owner.
    if scope == Scope::Host
        && let Some(device) =
            apply::observe(&mut netlink, &tunnel.device.name, None)?.device.filter(|device| device.running)
    {
        return Err(in_use(&device.name));
    }
    let resolvers = match scope {
        Scope::Host => Some(Resolvers::prepare(&tunnel.device.name, &tunnel.device.dns, &directories.state)?),
        Scope::Device => None,
    };
    let switchboard = Switchboard::new(node, surroundings.clone(), mark);
    let (shared, places) = (Arc::clone(&inbox), directories.clone());
    let parts = Parts {
        scope,
        tunnel,
        directories: places,
        road,
        roster,
        surroundings,
        record,
        switchboard,
        names,
        resolvers,
        inbox: shared,
    };
    let mut control = Control::new(parts)?;

    // From here on the host changes.
    let mut opened = control.open(&mut netlink)?;
    let caller = network.as_ref().map(network::Running::caller);
    let started = start(&mut control, &mut opened, directories, &inbox, lifetime, caller)
        .and_then(|(running, server, names)| Ok((running, (server, names), serve(&control.handle())?)))
        .and_then(|started| control.set_resolvers().map(|()| started));
    let (running, server, served) = match started {
        Ok(started) => started,
        Err(failure) => {
            control.close(&mut netlink, opened);
            return Err(failure);
        }
    };
    if let Some(network) = &network {
        network.start(control.handle());
    }
    await_addresses(&mut netlink, &control.facts());
    announce(&control.facts());
    let outcome = control.run(&mut netlink, running, &signals, &inbox);
    drop((server, served, network));
    match outcome {
        Ok(()) => control.remove(&mut netlink),
        Err(failure) if scope == Scope::Device => return Err(failure),
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

/// The peers of a configuration, their names resolved as far as that is possible now; until then they are where they were in an
/// earlier run, if that is `known`.
///
/// # Errors
/// A plain peer without an address, or two at one; an address that a socket on `listen` cannot send to.
fn enlist(
    tunnel: &Tunnel,
    (listen, workers): (SocketAddr, usize),
    names: &mut Names,
    known: &BTreeMap<String, SocketAddr>,
) -> Result<Roster> {
    let resolved = underlay::resolve_plain(&tunnel.peers, listen)?;
    let now = Time::from_nanos(clock::boottime());
    let mut roster = Roster::default();
    for peer in &tunnel.peers {
        let address = underlay::locate(peer, listen, &resolved)?;
        let id = roster.add(Member::new(peer.clone(), address, workers), now);
        if let Some(endpoint) = peer.endpoint.as_ref().filter(|endpoint| matches!(endpoint.host, Host::Name(_)))
            && peer.transport.is_secure()
        {
            names.ask(id, endpoint, Duration::ZERO, Instant::now());
            let address = known.get(&endpoint.to_string()).copied();
            if let Some(member) = roster.get_mut(id) {
                (member.configured, member.endpoint) = (address, address);
            }
        }
    }
    let deadline = Instant::now() + NAME_PATIENCE;
    // A name that was resolved before is not waited for: it may be that nobody can be asked.
    let is_missing = |member: &Member| member.configured.is_none() && member.peer.endpoint.is_some();
    while roster.members().any(is_missing)
        && let Some(answer) = names.wait_for_answer(deadline)
    {
        let Some(member) = roster.get_mut(answer.id) else { continue };
        let (name, endpoint) = (&member.peer.name, &answer.endpoint);
        let usable = |addresses: Vec<_>| addresses.into_iter().find(|address| underlay::is_usable(address, listen));
        match answer.addresses.map(usable) {
            Ok(Some(address)) => (member.configured, member.endpoint) = (Some(address), Some(address)),
            Ok(None) => tracing::warn!(
                "the endpoint {endpoint} of peer {name} has no address that a socket on {listen} can send to; it is looked for again"
            ),
            Err(e) => tracing::warn!("the endpoint {endpoint} of peer {name} does not resolve: {e}; it is tried again"),
        }
    }
    if names.is_asking() {
        tracing::warn!("the resolver is slow: peers whose names it has not answered yet are called as soon as it has");
    }
    underlay::check_distinct(roster.members().map(|member| (&member.peer, member.configured)))?;
    Ok(roster)
}

fn start(
    control: &mut Control,
    opened: &mut Opened,
    directories: &Directories,
    inbox: &Arc<Inbox>,
    lifetime: Lifetime,
    network: Option<network::Caller>,
) -> Result<(Running, api::Server, Option<resolver::Running>)> {
    let facts = control.facts();
    let sockets = api::Sockets::bind(&directories.runtime, facts.device_name())?;
    let page = control.open_page();
    // Before the first thread: each takes over the rights of the one that starts it. A test bed may not let us; then we keep
    // what we have.
    let kept: &[Capability] = match control.scope() {
        Scope::Host => &[Capability::NetAdmin],
        // Its port is chosen while it runs.
        Scope::Device => &[Capability::NetAdmin, Capability::NetBindService],
    };
    // Names are answered at a port below 1024, by a thread that may do just that. What gives rights up for good goes last.
    let until_names = [kept, &[Capability::NetBindService, Capability::SetPcap]].concat();
    let dropped = privilege::drop_to(&until_names);
    let names = network.as_ref().map(|_| resolver::start(Arc::clone(control.handle().facts()), directories));
    let names = names.transpose()?;
    if let Err(e) = dropped.and_then(|()| privilege::keep_in_this_thread(kept)) {
        tracing::warn!("{e}; going on with more rights than needed");
    }
    if lifetime == Lifetime::UntilStdinCloses {
        watch_stdin(Arc::clone(inbox))?;
    }
    let handle = control.handle();
    handle.trace().serve(handle.clone())?;
    doctor::examine::answer_peers(handle.clone())?;
    bench::between::start(&handle)?;
    let server = sockets.serve(move |request| answer(request, &handle, network.as_ref()))?;
    let running = control.start(opened)?;
    control.serve_page(page);
    Ok((running, server, names))
}

/// The process that captures for traces, started while there is the right to do so. A tunnel does its work without.
fn start_helper() -> Option<Helper> {
    Helper::start().map_err(|e| tracing::warn!("`adit trace` will not see this host: cannot start a process: {e}")).ok()
}

fn answer(request: api::Request, handle: &Handle, network: Option<&network::Caller>) -> api::Response {
    match request {
        api::Request::Status => api::Response::Status(Box::new(handle.facts().status())),
        api::Request::Examine => match doctor::examine::examine(handle) {
            Ok(examination) => api::Response::Examined(Box::new(examination)),
            Err(refusal) => api::Response::Error { sentence: refusal.failure().sentence().to_owned() },
        },
        api::Request::Stop => {
            handle.stop();
            api::Response::Done
        }
        api::Request::Leave => {
            // Whether or not the registry hears of it: the lease ends by itself.
            let kept = network.and_then(|network| network.leave().err());
            handle.stop();
            match kept {
                Some(failure) => {
                    let sentence = format!("the lease was not given back: {}", failure.sentence());
                    tracing::warn!("{sentence}");
                    api::Response::Changed { sentence }
                }
                None => api::Response::Done,
            }
        }
        api::Request::Refresh => match network.map(network::Caller::refresh) {
            Some(Ok(())) => api::Response::Done,
            Some(Err(failure)) => api::Response::Error { sentence: failure.sentence().to_owned() },
            None => api::Response::Error { sentence: "this daemon is no node of a network".into() },
        },
        api::Request::TraceBegin(trace) => match handle.trace().begin(handle, &trace) {
            Ok((id, sought)) => api::Response::Tracing { id, sought, host: handle.trace().own_name(handle) },
            Err(failure) => api::Response::Error { sentence: failure.sentence().to_owned() },
        },
        api::Request::TraceCollect(id) => match handle.trace().collect(handle, id) {
            Ok(gathered) => api::Response::Traced(Box::new(gathered)),
            Err(failure) => api::Response::Error { sentence: failure.sentence().to_owned() },
        },
        api::Request::Bench(wish) => match bench::between::ask(handle, &wish) {
            Ok(terms) => api::Response::Bench(terms),
            Err(failure) => api::Response::Error { sentence: failure.sentence().to_owned() },
        },
        api::Request::Reload => match handle.reload_and_tell() {
            Ok(summary) => api::Response::Changed { sentence: summary.to_string() },
            Err(refusal) => {
                let sentence = refusal.failure().sentence().to_owned();
                match refusal.failure().exit_code() {
                    2 => api::Response::Fault { sentence },
                    _ => api::Response::Error { sentence },
                }
            }
        },
    }
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
    notify::ready(&line);
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

/// The device is there, and somebody has a queue of it.
fn in_use(device: &str) -> Failure {
    let holders: Vec<_> =
        tun::holders(device).iter().map(|h| format!("process {} ({})", h.pid, clean(&h.name))).collect();
    let whom = if holders.is_empty() { "another program".to_owned() } else { holders.join(" and ") };
    Failure::failed(format!("the device {device} is in use by {whom}"))
        .with_remedy("stop that one, or choose another `name` under [device]")
}
