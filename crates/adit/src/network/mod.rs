//! This host as a node of a network: its registry is watched, its lease kept, and who is in the network becomes peers of the tunnel.
//!
//! All of it happens on the thread `network`, which has no rights over the host: what it finds out it puts into force through
//! [`Handle::edit`](crate::request::Handle::edit), as any other change. The data path needs it for changes only.
//!
//! | file | what it is for |
//! |---|---|
//! | `mod.rs` | how a daemon begins and ends with a network |
//! | `agent.rs`, `agent/` | the thread: what is learned, and what follows from it |
//! | `member.rs` | who we are and whom we believe: keys, certificate, secrets |
//! | `lease.rs` | our subnet: taken, kept, published, given back |
//! | `host.rs` | the registry and the enroller inside this daemon |
//! | `publish.rs` | what the authority decided → the registry |
//! | `peers.rs` | nodes and clients → peers of the tunnel (pure) |
//! | `parts.rs` | what of a change can be put into force, where the whole cannot |
//! | `report.rs` | what `adit status` shows |
//! | `clients.rs` | phones and laptops |
//! | `places.rs` | where this host is reached |
//! | `notes.rs` | what is noted for the next start |
//! | `founding.rs` | `init` and `join`: networks are made and joined |
//! | `admin.rs` | `token`, `node`, `secret`, `client`: what is decided in one |

pub mod admin;
mod agent;
pub mod clients;
pub mod founding;
mod host;
mod lease;
mod member;
mod notes;
mod parts;
mod peers;
pub mod places;
mod publish;
mod report;

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use linux::privilege;
use tokio::sync::mpsc::UnboundedSender;

use crate::config::{Origin, Overlay, Tunnel};
use crate::request::Handle;
use crate::{Directories, Failure, Result};

use agent::{Agent, Command};

/// How long the end waits for a lease to be given back.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the start looks whether it is to go on.
const LOOK: Duration = Duration::from_millis(50);

/// The directory of a node, under the state directory: named after the device.
pub fn directory(directories: &Directories, device: &str) -> PathBuf {
    directories.state.join(format!("{device}.network"))
}

/// The configuration of a node whose file was read again: what the network says stays.
pub fn with_file(present: &Tunnel, file: Tunnel) -> Tunnel {
    let mut tunnel = file;
    let others = present.peers.iter().filter(|peer| peer.origin != Origin::File);
    tunnel.peers.extend(others.cloned());
    tunnel.overlay.clone_from(&present.overlay);
    tunnel.device.private_key.clone_from(&present.device.private_key);
    tunnel.device.wireguard_private_key.clone_from(&present.device.wireguard_private_key);
    if tunnel.transport.listen_is_default
        && let Some(Overlay { port: Some(port), .. }) = tunnel.overlay
    {
        tunnel.transport.listen.set_port(port);
    }
    tunnel
}

/// The network of a running daemon.
pub struct Running {
    commands: UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// Asks the network of a running daemon, from any thread.
#[derive(Clone)]
pub struct Caller(UnboundedSender<Command>);

/// Begins to take part, as far as is needed to set up the device: waits until there is a lease, or one is remembered, and gives `tunnel` what
/// follows from it. `is_stopped` is asked meanwhile. Nothing happens for a tunnel from a file, and where the caller knows the lease already.
///
/// # Errors
/// What keeps this host from being a node: keys or files that are missing, no subnet left, a network that contradicts what is
/// configured.
pub fn begin(
    tunnel: &mut Tunnel,
    directories: &Directories,
    is_stopped: &mut dyn FnMut() -> bool,
) -> Result<Option<Running>> {
    if tunnel.network.is_none() || tunnel.overlay.is_some() {
        return Ok(None);
    }
    let agent = Agent::new(tunnel, directories)?;
    let (commands, orders) = tokio::sync::mpsc::unbounded_channel();
    let (first, answer) = sync_channel(1);
    let run = move || {
        // It asks the kernel and changes nothing there.
        if let Err(e) = privilege::keep_in_this_thread(&[]) {
            tracing::debug!("{e}");
        }
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(agent.run(first, orders));
                // A resolver that does not answer may hold a thread of it for half a minute.
                runtime.shutdown_background();
            }
            Err(e) => drop(first.send(Err(Failure::failed(format!("cannot start the network: {e}"))))),
        }
    };
    let thread = thread::Builder::new().name("network".into()).spawn(run);
    let thread = thread.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
    let running = Running { commands, thread: Some(thread) };
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(Ok((wanted, listen))) => {
                *tunnel = wanted.of(tunnel);
                tunnel.transport.listen = listen;
                return Ok(Some(running));
            }
            Ok(Err(failure)) => return Err(failure),
            Err(RecvTimeoutError::Timeout) if !is_stopped() => {}
            Err(RecvTimeoutError::Timeout) => return Err(Failure::failed("stopped before there was a lease")),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::failed("the network ended by a defect in adit; please report the log above"));
            }
        }
    }
}

impl Running {
    /// From now on what is learned is put into force, and `adit status` tells of it.
    pub fn start(&self, handle: Handle) {
        let (reply, answer) = sync_channel(1);
        self.send(Command::Start(handle, reply));
        let _ = answer.recv_timeout(PATIENCE);
    }

    /// For other threads.
    pub fn caller(&self) -> Caller {
        Caller(self.commands.clone())
    }

    fn send(&self, command: Command) {
        // A thread that has ended by a defect has said so.
        let _ = self.commands.send(command);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Caller {
    /// Clients or removals may be other ones. Who is out then is out when this returns: no worker sends to him or takes anything from him, and his keys are
    /// erased.
    ///
    /// # Errors
    /// The network is busy with something else: it is done as soon as that is.
    pub fn refresh(&self) -> Result<()> {
        let (reply, answer) = sync_channel(1);
        let _ = self.0.send(Command::Refresh(reply));
        answer.recv_timeout(PATIENCE).map_err(|_| Failure::failed("the daemon is busy, and does it as soon as it can"))
    }

    /// Gives the lease back, so that another node may have the subnet at once.
    ///
    /// # Errors
    /// The registry was not reached: the subnet is free when the lease ends.
    pub fn leave(&self) -> Result<()> {
        let (reply, answer) = sync_channel(1);
        let _ = self.0.send(Command::Leave(reply));
        answer.recv_timeout(PATIENCE).map_err(|_| Failure::failed("the registry did not answer in time"))?
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    /// A node whose file says `listen`, in a network with this port.
    fn node(listen: &str, port: Option<u16>) -> Tunnel {
        let text = format!("[device]\nname = \"adit0\"\n[transport]\n{listen}\n[network]\nregistry = \"embedded\"\n");
        let mut tunnel = config::parse(Path::new("a.toml"), text).unwrap();
        let (networks, subnets) = (Vec::new(), Vec::new());
        tunnel.overlay = Some(Overlay { networks, subnets, masquerade: true, forward: true, port, membership: None });
        tunnel
    }

    #[test]
    fn a_file_that_names_no_port_any_more_means_that_of_the_network() {
        let file = |listen: &str| Tunnel { overlay: None, ..node(listen, None) };
        for (network, port) in [(None, 7777), (Some(8285), 8285)] {
            let present = node("listen = \"[::]:7779\"", network);
            assert_eq!(with_file(&present, file("")).transport.listen.port(), port);
            assert_eq!(with_file(&present, file("listen = \"[::]:7780\"")).transport.listen.port(), 7780);
        }
    }
}
