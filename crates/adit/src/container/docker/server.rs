//! The socket that dockerd finds us by, and what comes over it: HTTP with a JSON document each way.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use linux::poll::{Signals, Waker, readable};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::firewall::{Firewall, Nudge};
use super::plugin::{Plugin, Refusal};
use crate::{Directories, Failure, Result, notify};

/// The largest request, in bytes. One with a thousand published ports has about 100 KiB.
const MAX_REQUEST: usize = 1 << 20;

/// How many requests are worked on at a time; Docker waits for the others.
const AT_ONCE: usize = 16;

/// How long an answer on its way may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What Docker calls this form of documents.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// What `adit docker-plugin` was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the node's daemon keeps its things.
    pub directories: Directories,
    /// The device of the node.
    pub device: String,
    /// Where dockerd looks for us. Its name without its ending is that of the driver.
    pub socket: PathBuf,
    /// Whether to have Docker let our network through (`firewall`).
    pub docker_user: bool,
}

/// Serves dockerd until SIGTERM or Ctrl-C. `ready` is called when it can ask.
///
/// # Errors
/// The socket is another's or cannot be made, or what is known of Docker's networks cannot be read.
pub fn serve(settings: &Settings, ready: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    // Before any thread starts.
    let signals = Signals::termination()?;
    let nudge = Nudge::new()?;
    let changed = nudge.clone();
    let plugin = Plugin::new(&settings.directories, &settings.device, &settings.socket, move || changed.wake())?;
    if let Err(fault) = plugin.node() {
        tracing::warn!("{fault}; until then Docker gets no addresses");
    }
    let socket = Socket::bind(&settings.socket)?;
    plugin.clean()?;
    let firewall =
        settings.docker_user.then(|| Firewall::keep(&settings.directories, &settings.device, nudge)).transpose()?;
    let driver = plugin.driver.clone();
    let outcome = run(&socket, &signals, plugin, || {
        let sentence = format!("driver {driver} for the node of {} on {}", settings.device, settings.socket.display());
        notify::ready(&sentence);
        ready(&sentence)
    });
    notify::stopping();
    drop((socket, firewall));
    outcome
}

/// Answers until a signal comes; requests that are being worked on are carried to their end.
fn run(socket: &Socket, signals: &Signals, plugin: Plugin, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let ended = Waker::new()?;
    let (end, until) = tokio::sync::oneshot::channel();
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let outcome = answer_all(&socket.listener, plugin, until);
            ended.wake();
            outcome.map_err(|e| Failure::failed(format!("cannot serve Docker: {e}")))
        });
        let waited = ready().and_then(|()| {
            // An interrupted wait answers that neither is so.
            while readable([signals.as_fd(), ended.as_fd()], None)? == [false, false] {}
            Ok(())
        });
        let _ = end.send(());
        let outcome =
            answering.join().unwrap_or_else(|_| Err(Failure::failed("cannot serve Docker: a defect in adit")));
        waited.and(outcome)
    })
}

fn answer_all(listener: &UnixListener, plugin: Plugin, until: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(AT_ONCE)
        .thread_name("docker-answer")
        .build()?;
    let outcome = runtime.block_on(async {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (end, ending) = oneshot::channel::<()>();
        let mut serving = axum::serve(listener, router(Arc::new(plugin)))
            .with_graceful_shutdown(async {
                let _ = ending.await;
            })
            .into_future();
        tokio::select! {
            outcome = &mut serving => return outcome,
            _ = until => {}
        }
        let _ = end.send(());
        // Whoever keeps a connection open without asking for anything is not waited for.
        timeout(LAST_WORDS, serving).await.unwrap_or(Ok(()))
    });
    // Nor is an answer that waits for somebody else.
    runtime.shutdown_timeout(LAST_WORDS);
    outcome
}

fn router(plugin: Arc<Plugin>) -> Router {
    Router::new().fallback(answer).layer(DefaultBodyLimit::max(MAX_REQUEST)).with_state(plugin)
}

/// One request. The method is the path; what HTTP calls a method is always POST.
async fn answer(State(plugin): State<Arc<Plugin>>, uri: Uri, body: Bytes) -> Response {
    let method = uri.path().trim_start_matches('/').to_owned();
    let asked = method.clone();
    let answer = tokio::task::spawn_blocking(move || plugin.answer(&asked, &body)).await;
    let (status, document) = match answer {
        Ok(Ok(document)) => {
            tracing::debug!("{method}: {document}");
            (StatusCode::OK, document)
        }
        Ok(Err(Refusal::Unknown)) => (StatusCode::NOT_FOUND, fault(&format!("adit has no method {method}"))),
        Ok(Err(Refusal::Fault(refusal))) => {
            tracing::warn!("{method}: {refusal}");
            (StatusCode::OK, fault(&refusal.sentence))
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, fault(&format!("adit failed on {method}: {e}"))),
    };
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], document.to_string()).into_response()
}

/// Network drivers say `Err`, IPAM drivers `Error`.
fn fault(sentence: &str) -> Value {
    json!({ "Err": sentence, "Error": sentence })
}

/// The socket; it is gone when this is dropped.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes it, in the place of one that nobody listens on any more.
    fn bind(path: &Path) -> Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(Failure::failed(format!("another program serves {} already", path.display()))
                .with_remedy("stop that one, or choose another --socket"));
        }
        let made = || {
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            directory.map_or(Ok(()), fs::create_dir_all)?;
            // Under another name first, so that it never has a wider mode than it should.
            let mut new = path.as_os_str().to_owned();
            new.push(".adit-new");
            let new = PathBuf::from(new);
            remove(&new)?;
            check(path)?;
            let listener = UnixListener::bind(&new)?;
            fs::set_permissions(&new, Permissions::from_mode(0o600))?;
            fs::rename(&new, path)?;
            Ok(Self { listener, path: path.into() })
        };
        made().map_err(|e: io::Error| {
            Failure::failed(format!("cannot make the socket {}: {e}", path.display()))
                .with_remedy("run as root, or choose another --socket")
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// Checks that nothing is there but a socket, if anything: what else there is, somebody may want to keep.
fn check(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there, and is no socket", path.display())))
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    check(path)?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_socket_gives_way_to_a_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        for at in [path.clone(), directory.path().join("x.sock.adit-new")] {
            fs::write(&at, "important").unwrap();
            let refused = Socket::bind(&path).err().unwrap().to_string();
            assert!(refused.contains("is no socket") && refused.contains("choose another --socket"), "{refused}");
            assert_eq!(fs::read_to_string(&at).unwrap(), "important");
            fs::remove_file(&at).unwrap();
        }
        // One that nobody listens on any more does, and it goes when we do.
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok() && Socket::bind(&path).is_err());
        drop(socket);
        assert!(fs::symlink_metadata(&path).is_err());
    }
}
