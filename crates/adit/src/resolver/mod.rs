//! Names of nodes and containers: a resolver (RFC 1035) on thread `names`, for those who ask on this host.
//!
//! ```text
//!  container ─┐                            ┌─ names of nodes ──────────── from the network's view
//!  host ──────┼─► who asks? ─► whose is it?┼─ containers of this node ─── from their records
//!  node ──────┘    (zone)        (zone)    ├─ containers of others ────── their node is asked, through the tunnel
//!                                          └─ all else ────────────────── the host's own resolvers
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `mod.rs` | the thread: how it begins, what it follows, how it ends |
//! | `name.rs`, `message.rs` | what is said: names, questions, answers (no I/O) |
//! | `zone.rs` | who asks, whose a name is, what another node may say (no I/O) |
//! | `budget.rs` | how much each asker may have |
//! | `listen.rs` | UDP and TCP |
//! | `desk.rs` | the way of a question |
//! | `containers.rs`, `outside.rs` | records of containers, and the host's `resolv.conf` |
//! | `ask.rs` | asking others |
//! | `lookup.rs` | asking this resolver, for verbs of the same host |
//!
//! What it holds on to:
//! - *Nothing is kept.* Each question is asked anew, so that there is no cache to poison; who asked may keep an answer for 5 s.
//! - *No question goes round.* Another node is told of this node only; a resolver of this host is not asked what the host asks us; our own addresses
//!   are never asked.
//! - *Nobody speaks for others.* A node is asked by its device's address and believed for its own subnets and its own name. Resolvers outside are
//!   never asked for the network's names and addresses, and what they say must not lead into the network.
//! - *Nobody outside gets an answer*, but that it is refused, which is no longer than the question.
//! - *Nobody takes it all.* Askers have queues, rates and shares (`listen.rs`, `budget.rs`).
//!
//! The thread may use ports below 1024 and nothing else. It listens at the first address of each subnet of the node, which is the device's, and at the
//! second, which is the bridge's, whether or not these are there yet.

mod ask;
mod budget;
mod containers;
mod desk;
mod listen;
pub mod lookup;
pub mod message;
pub mod name;
mod outside;
pub mod zone;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use linux::privilege::{self, Capability};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::container::Store;
use crate::observe::facts::Facts;
use crate::{Directories, Failure, Result};

use desk::Desk;
use listen::Ear;

/// Where resolvers listen.
const PORT: u16 = 53;

/// When it is tried again to listen where somebody else does.
const AGAIN: Duration = Duration::from_secs(5);

/// The resolver of a running daemon, until dropped.
pub struct Running {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread. When this returns it has no right but the one to ports below 1024, as far as the caller has that.
///
/// # Errors
/// The thread cannot be started.
pub fn start(facts: Arc<Facts>, directories: &Directories) -> Result<Running> {
    let store = Store::of(directories, facts.device_name());
    let stop = Arc::new(Notify::new());
    let end = Arc::clone(&stop);
    let (ready, is_ready) = sync_channel(1);
    let run = move || {
        if let Err(e) = privilege::keep_in_this_thread(&[Capability::NetBindService]) {
            tracing::debug!("{e}");
        }
        let _ = ready.send(());
        let desk = Rc::new(Desk::new(facts, store, PathBuf::from(outside::FILE)));
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => LocalSet::new().block_on(&runtime, follow(desk, &end)),
            Err(e) => tracing::warn!("names are not answered: {e}"),
        }
    };
    let thread = thread::Builder::new().name("names".into()).spawn(run);
    let thread = thread.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
    let _ = is_ready.recv();
    Ok(Running { stop, thread: Some(thread) })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens where this node's addresses are, until the end.
async fn follow(desk: Rc<Desk>, end: &Notify) {
    let seats = listen::seats();
    let mut ears: HashMap<IpAddr, Ear> = HashMap::new();
    let mut known = Vec::new();
    loop {
        let (wanted, network) = desk.addresses();
        let is_other = network != known;
        known = network;
        for (_, ear) in ears.extract_if(|ip, _| is_other || !wanted.contains(ip)) {
            ear.close().await;
        }
        let mut failures = Vec::new();
        for ip in wanted {
            if ears.contains_key(&ip) {
                continue;
            }
            match Ear::open(ip, &known, &desk, &seats) {
                Ok(ear) => drop(ears.insert(ip, ear)),
                Err(e) => failures.push(format!(
                    "names are not answered at {ip}: {e}; see who listens there with `ss -lntup 'sport = {PORT}'`, and have that program listen on \
                     other addresses, or write domain = \"\" under [network] to do without names"
                )),
            }
        }
        let has_failed = !failures.is_empty();
        desk.facts().set_names_problems(failures);
        tokio::select! {
            () = end.notified() => return,
            () = desk.facts().changed() => {}
            () = sleep(AGAIN), if has_failed => {}
        }
    }
}
