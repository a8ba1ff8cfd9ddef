//! What `demo` and `bench` are made of: hosts in network namespaces, daemons in them, loads between them, and the removal of it all.
//!
//! | module | what it is for |
//! |---|---|
//! | `place` | one run of a kind at a time, and where it keeps its files |
//! | `namespace` | a named network namespace that goes with its value |
//! | `daemon` | this same program as `adit up`, on a configuration that we write |
//! | `load` | TCP streams between two namespaces |
//! | `processor` | how busy the machine was, and single threads |
//! | `figures` | medians and how far rounds lie apart |
//! | `watch` | Ctrl-C, as an error between steps |
//! | `screen` | the terminal |

pub(crate) mod daemon;
pub(crate) mod figures;
pub(crate) mod load;
pub(crate) mod namespace;
pub(crate) mod place;
pub(crate) mod processor;
pub(crate) mod screen;
pub(crate) mod watch;

use std::io::Write;
use std::net::Ipv4Addr;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use linux::netns::NetNs;
use linux::ping::Pinger;
use linux::privilege::{self, Capability, has_capability};

use crate::key::PrivateKey;
use crate::{Failure, Result};
use watch::Watch;

/// How long a new path may take to carry its first packet: carriers come up, neighbours are asked for.
const FIRST: Duration = Duration::from_secs(5);

/// Whether this program was built as one that is to be measured.
pub(crate) const OPTIMISED: bool = !cfg!(debug_assertions);

/// What is said beside figures if it was not.
pub(crate) const NOT_OPTIMISED: &str = "This adit was built without optimisation, so that its own figures say little: `cargo build --release` makes one to measure.";

/// Makes sure that namespaces, devices and captures can be made; answers whether it took a user namespace. Before the first thread starts.
///
/// # Errors
/// There are no TUN devices, or neither rights nor a user namespace to have them in.
pub(crate) fn become_able() -> Result<bool> {
    privilege::check_tun()?;
    let needed = [Capability::SysAdmin, Capability::NetAdmin, Capability::NetRaw];
    let rootless = !needed.into_iter().all(has_capability);
    if rootless {
        privilege::reenter_user_namespace()?;
    }
    Ok(rootless)
}

/// A key for this run. Its file is removed with all others.
///
/// # Errors
/// The kernel has no random numbers to give.
pub(crate) fn new_key() -> Result<PrivateKey> {
    PrivateKey::generate().map_err(|error| Failure::failed(format!("cannot make a key: {error}")))
}

/// Waits until packets travel from a namespace to an address, and answers the socket that found out; `None` if they do not within five
/// seconds.
///
/// # Errors
/// A socket could not be opened, or a signal.
pub(crate) fn await_path(from: &NetNs, to: Ipv4Addr, watch: &Watch) -> Result<Option<Pinger>> {
    let identifier = (std::process::id() & 0xffff) as u16;
    let mut pinger = from.run(|| Pinger::open(to, identifier))??;
    let reached = watch.until(FIRST, || Ok(pinger.round_trip(Duration::from_millis(100))?))?;
    Ok(reached.map(|_| pinger))
}

/// Starts a thread that ends within `scope`.
///
/// # Errors
/// The kernel has no more threads to give.
pub(crate) fn start_thread<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let spawned = thread::Builder::new().name(name.into()).spawn_scoped(scope, work);
    spawned.map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))
}

/// An address with the length of its network's prefix; a length beyond 32 counts as 32.
pub(crate) fn net(address: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(address, prefix).unwrap_or_else(|_| Ipv4Net::from(address))
}

/// The same for interfaces that take both families.
pub(crate) fn ip_net(address: Ipv4Addr, prefix: u8) -> IpNet {
    IpNet::V4(net(address, prefix))
}

/// A link-layer address that spells an IPv4 address, so that captures can be read; locally administered (IEEE 802, bit 1).
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x00, a, b, c, d]
}

/// Prints a document for programs.
///
/// # Errors
/// Standard output takes nothing.
pub(crate) fn print_json(report: &impl serde::Serialize) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("cannot write the report: {error}"));
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(&error))?;
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| failed(&error)),
    }
}
