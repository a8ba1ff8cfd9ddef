//! The page of a daemon: what `adit status` says, drawn and kept up to date in a browser, and what machines ask for beside it.
//!
//! ```text
//!  browser, Prometheus, a health check
//!      │  HTTP/1.1, loopback or a unix socket only
//!      ▼
//!  door ─► connection ─► guard ─────────► answer ─┬─ /                    the page: one file, in the program
//!  (who    (sizes,       (whose page      (which) ├─ /events              what it shows, once a second while somebody looks
//!  comes)   times)        asks for it?)           ├─ /status.json         the same, once
//!                                                 ├─ /metrics             for Prometheus (observe::metrics)
//!                                                 ├─ POST /trace          probes, and their picture
//!                                                 └─ /healthz, /readyz    for machines
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `mod.rs` | the thread: how it begins, how it follows the configuration, how it ends |
//! | `door.rs` | the socket, of TCP or unix |
//! | `connection.rs` | what one connection may cost |
//! | `guard.rs` | which requests are answered at all (no I/O) |
//! | `answer.rs` | from a request to its answer |
//! | `events.rs` | the state once a second, made once for all who look |
//! | `health.rs` | whether the daemon lives, and whether it does its work |
//! | `probes.rs` | a trace that the page's form asks for |
//! | `page.rs`, `page/` | the page, and what a browser is told that it may do |
//!
//! What it holds on to:
//! - *Nobody on the network gets in.* It listens at loopback addresses or at a unix socket. A browser of this host can be made to ask by any web
//!   site; it gets an answer only for its own page: `guard.rs`.
//! - *Nothing is changed.* All but `POST /trace` only reads, and that is one at a time.
//! - *The thread has no rights*: the kernel lets it do what any user may.
//! - *Who is slow, or asks for much, costs little*: connections, sizes and times have bounds, and what listeners get is made once for all.
//! - *The tunnel does its work without.* Where the page cannot be served at the start that is said and tried again.

mod answer;
mod connection;
mod door;
mod events;
mod guard;
mod health;
mod page;
mod probes;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linux::privilege;
use tokio::runtime;
use tokio::sync::Notify;

use crate::config::ObserveAt;
use crate::request::Handle;
use crate::{Failure, Result};

pub use door::Door;

/// How long answers on their way may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Between two tries to listen where that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Threads that look at the host for those who ask; a trace takes one for as long as it lasts.
const BLOCKING: usize = 4;

/// The page of a daemon as its configuration has it: none, or one that is served.
pub struct Web {
    handle: Handle,
    server: Option<Server>,
    /// When it was tried to listen last.
    tried: Option<Instant>,
}

impl Web {
    /// Not served yet.
    pub fn new(handle: Handle) -> Self {
        Self { handle, server: None, tried: None }
    }

    /// Opens the door that is wanted, unless it is open already: the step that can fail.
    ///
    /// # Errors
    /// With a remedy: somebody else listens there, or the place cannot be used.
    pub fn prepare(&self, wanted: Option<&ObserveAt>) -> Result<Option<Door>> {
        let is_open = self.server.as_ref().map(|server| &server.at) == wanted;
        wanted.filter(|_| !is_open).map(Door::open).transpose()
    }

    /// Serves at a new door, or no longer where that is not wanted any more. What is served where it should be goes on.
    pub fn follow(&mut self, wanted: Option<&ObserveAt>, door: Option<Door>) {
        if self.server.as_ref().map(|server| &server.at) != wanted {
            self.server = None;
        }
        if let Some(door) = door {
            match Server::start(door, self.handle.clone()) {
                Ok(server) => self.server = Some(server),
                Err(failure) => tracing::warn!("the page is not served: {failure}"),
            }
        }
    }

    /// Tries again where it is wanted and not served; now and then, as often as this is called.
    pub fn try_again(&mut self, wanted: Option<&ObserveAt>) {
        if wanted.is_none() || self.server.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        match self.prepare(wanted) {
            Ok(door) => self.follow(wanted, door),
            Err(failure) => tracing::debug!("the page is not served: {failure}"),
        }
    }

    /// No longer.
    pub fn stop(&mut self) {
        self.server = None;
    }
}

/// The thread that answers, until dropped.
struct Server {
    at: ObserveAt,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(door: Door, handle: Handle) -> Result<Self> {
        let (stop, at) = (Arc::new(Notify::new()), door.at().clone());
        let end = Arc::clone(&stop);
        let (ready, is_ready) = sync_channel(1);
        let run = move || {
            if let Err(e) = privilege::keep_in_this_thread(&[]) {
                tracing::debug!("{e}");
            }
            let _ = ready.send(());
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING)
                .thread_name("page-answer")
                .build();
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(serve(door, handle, &end));
                    // Whoever still looks at the host is not waited for.
                    runtime.shutdown_timeout(LAST_WORDS);
                }
                Err(e) => tracing::warn!("the page is not served: {e}"),
            }
        };
        let thread = thread::Builder::new().name("page".into()).spawn(run);
        let thread = thread.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
        let _ = is_ready.recv();
        tracing::info!("the page of this daemon is at {}", url(&at));
        Ok(Self { at, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How a person gets there.
fn url(at: &ObserveAt) -> String {
    match at {
        ObserveAt::Tcp(address) => format!("http://{address}/"),
        ObserveAt::Unix(path) => format!("the unix socket {}", path.display()),
    }
}

async fn serve(door: Door, handle: Handle, end: &Notify) {
    let answers = Arc::new(answer::Answers::new(handle));
    tokio::select! {
        () = connection::admit(door, Arc::clone(&answers)) => {}
        () = answers.refresh() => {}
        () = end.notified() => {}
    }
}
