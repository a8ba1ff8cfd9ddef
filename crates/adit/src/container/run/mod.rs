//! `adit run`: a command in namespaces of its own on the network, with the file system of the host; and `adit exec`, one more in the same namespaces.
//!
//! ```text
//!  adit run ── spawn ──► adit inside, the first process of the namespaces ──► the command
//!    1. spawn: it waits for orders, with a network namespace that has nothing
//!    2. attach: the record names that process, so that whoever finds it dead may take the address
//!    3. orders: it mounts, starts the command, reaps; signals are passed on; the terminal is lent to it
//!    4. it ends as the command did, and everything inside with it; detach
//! ```
//!
//! Killed at any moment, `adit run` leaves no process: the kernel kills the first one inside with it, and with that one all others. What stands on the
//! host by then is in the record, and the next program that looks there removes it.

mod attend;
mod exec;
mod files;
mod inside;
pub(super) mod name;

pub use exec::exec;
pub use inside::{Orders, inside};

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use linux::netlink::Netlink;
use linux::netns::NetNs;
use linux::sandbox::{self, Signals};

use super::{Door, Key, Node, Place, Process, Record, Request, Store, attach, collect, detach, ports};
use crate::{Directories, Failure, Result, config};
use attend::Attendant;

/// The exit code for what failed before there was a command (as of `docker run`).
pub const FAILED: u8 = 125;
/// The exit code for a command that is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// The exit code for a command that is not there.
const NOT_FOUND: u8 = 127;

/// The device inside.
const INTERFACE: &str = "eth0";

/// How long an address may take to be usable once it was added: the kernel does so in a moment.
const ADDRESS: Duration = Duration::from_secs(2);

/// What is asked of `adit run`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The name of the container; none: one is made up.
    pub name: Option<String>,
    /// The host name inside; none: the name of the container.
    pub hostname: Option<String>,
    /// Ports to publish, as they were typed.
    pub publish: Vec<String>,
    /// Addresses that are asked for, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Whether it may speak to no other isolated container of this host.
    pub isolated: bool,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// Runs a command in the foreground; answers its exit code, 128 and its number for a signal.
///
/// # Errors
/// It could not be started; then nothing is left of it.
pub fn run(directories: &Directories, device: &str, options: &Options) -> Result<u8> {
    check(device)?;
    let node = Node::read(directories, device)?;
    let store = Store::of(directories, device);
    let request = Asked::check(&node, &store, options)?;
    let signals = Signals::take_over()?;
    let attendant = Attendant::new(&signals);
    let (orders, theirs) = UnixStream::pair().map_err(|e| Failure::failed(format!("cannot make a socket: {e}")))?;
    let mut first = First::start(&theirs, &options.command, attendant.lends())?;
    drop(theirs);
    let attached = Attached::make(&node, &store, request.for_process(&first)?)?;
    if let Some(number) = attendant.asked_to_end() {
        return Ok(128u8.saturating_add(number));
    }
    attendant.lend(first.pid())?;
    first.command(orders.try_clone(), &request.orders(&node, &attached.record))?;
    let status = attendant.wait(first.pid(), Some(&orders))?;
    first.has_ended();
    Ok(exit_code(status))
}

/// Whether containers of the node with this device can be asked for at all: it is a name, and we may make namespaces.
///
/// # Errors
/// The sentence for that.
pub fn check(device: &str) -> Result<()> {
    config::check_device(device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
    if linux::privilege::is_root() {
        return Ok(());
    }
    Err(Failure::failed("containers are made and listed by root alone; put `sudo` before the command"))
}

/// The exit code of a program that ended, as shells have it.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number)).unwrap_or(i32::from(FAILED));
    u8::try_from(code).unwrap_or(FAILED)
}

/// Why a command did not start, in words and as a code.
fn not_started(command: &std::ffi::OsStr, error: &std::io::Error) -> Failure {
    let command = command.to_string_lossy();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::failed(format!("there is no command {command} here; see `echo $PATH`, or give its path"))
                .with_exit_code(NOT_FOUND)
        }
        _ => Failure::failed(format!("cannot run {command}: {error}")).with_exit_code(CANNOT_RUN),
    }
}

/// What was asked for, checked as far as that is possible before anything is made.
struct Asked {
    name: String,
    hostname: String,
    addresses: Vec<IpAddr>,
    ports: Vec<super::Published>,
    isolated: bool,
    files: files::Host,
}

impl Asked {
    fn check(node: &Node, store: &Store, options: &Options) -> Result<Self> {
        let mut published = Vec::new();
        for text in &options.publish {
            published.extend(ports::parse(text)?);
        }
        if let Some(name) = &options.name {
            name::check(name)?;
        }
        if let Some(hostname) = &options.hostname {
            name::check_host(hostname)?;
        }
        collect(store, &|_| true)?;
        let records = store.read_all()?;
        let taken = |name: &str| records.iter().find(|record| record.name.as_deref() == Some(name));
        let name = match &options.name {
            Some(name) => name.clone(),
            None => name::invent(|name| taken(name).is_some())?,
        };
        if let Some(record) = taken(&name) {
            let by = record.key.door.as_str();
            return Err(Failure::failed(format!(
                "there is a container {name} already (door {by}); choose another name, or end that one"
            )));
        }
        Ok(Self {
            hostname: options.hostname.clone().unwrap_or_else(|| name.clone()),
            name,
            addresses: options.addresses.clone(),
            ports: published,
            isolated: options.isolated,
            files: files::Host::read(node.domain.is_some()),
        })
    }

    /// The attachment of the namespaces whose first process this is.
    fn for_process(&self, first: &First) -> Result<Request> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", first.pid()));
        let namespace = NetNs::open(&path)?;
        let process = Process::find(first.pid())
            .ok_or_else(|| Failure::failed("the first process of the container ended at once"))?;
        Ok(Request {
            // The name is unique among those that run; the number among all.
            key: Key { door: Door::Run, network: String::new(), container: name::id()?, interface: INTERFACE.into() },
            name: Some(self.name.clone()),
            wanted: self.addresses.clone(),
            mac: None,
            ports: self.ports.clone(),
            isolated: self.isolated,
            mtu: None,
            default_route: true,
            place: Place::Namespace { namespace, path },
            reservation: None,
            process: Some(process),
        })
    }

    fn orders(&self, node: &Node, record: &Record) -> Orders {
        Orders {
            hostname: self.hostname.clone(),
            hosts: files::hosts(node, record, &self.name, &self.hostname),
            resolv_conf: self.files.resolv_conf(node),
            hide_resolvers: node.domain.is_some(),
        }
    }
}

/// The first process inside. It is killed when this is dropped.
struct First {
    child: Option<Child>,
    pid: u32,
}

impl First {
    fn start(socket: &UnixStream, command: &[OsString], own_group: bool) -> Result<Self> {
        // By its name, which is then that of the process; where that is another program's by now, as what it is.
        let this = std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into());
        let mut first = Command::new(this);
        first.arg0("adit").arg("inside").arg(socket.as_raw_fd().to_string()).arg("--").args(command);
        if own_group {
            first.process_group(0);
        }
        let child = sandbox::spawn(first, socket.as_fd())?;
        Ok(Self { pid: child.id(), child: Some(child) })
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it go on.
    fn command(&mut self, socket: std::io::Result<UnixStream>, orders: &Orders) -> Result<()> {
        let send = || {
            let mut socket = socket?;
            socket.write_all(&serde_json::to_vec(orders)?)?;
            socket.shutdown(Shutdown::Write)
        };
        send().map_err(|e: std::io::Error| Failure::failed(format!("cannot tell the container what to do: {e}")))
    }

    /// Nobody is to wait for it any more: that has been done, and its number may be another's.
    fn has_ended(&mut self) {
        self.child = None;
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An attachment, which is removed when this is dropped.
struct Attached<'a> {
    store: &'a Store,
    record: Record,
}

impl<'a> Attached<'a> {
    fn make(node: &Node, store: &'a Store, request: Request) -> Result<Self> {
        let record = attach(node, store, &request)?;
        let attached = Self { store, record };
        if let Place::Namespace { namespace, .. } = &request.place {
            let mut netlink = Netlink::open_in(namespace)?;
            for address in &attached.record.addresses {
                netlink.wait_for_address(address.addr(), ADDRESS)?;
            }
        }
        Ok(attached)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if let Err(fault) = detach(self.store, &self.record.key) {
            tracing::warn!("while the container {} was removed: {fault}; `adit ps` tries again", self.record.title());
        }
    }
}
