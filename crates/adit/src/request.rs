//! What a running daemon is asked that says more than "look again": another configuration, and what it does now.
//!
//! A [`Handle`] may be cloned and sent to any thread. It puts a request with its contents into a bounded queue, tells control by
//! [`Order::Request`], and waits for the answer. Whatever the source of a change (the file re-read, `wg set`), it is one
//! transaction: validated wholly, then applied, then taken back where a step fails.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tunnel::PeerId;

use crate::config::{self, Tunnel};
use crate::control::{Inbox, Order};
use crate::key::PublicKey;
use crate::notes::Notes;
use crate::observe::facts::Facts;
use crate::observe::trace::Desk;
use crate::reconfigure::{network_keys, same_network};
use crate::underlay::Resolved;
use crate::{Failure, network, notify, underlay};

/// Requests that wait; each waits for the ones before it, and its asker with it.
const QUEUE: usize = 16;

/// EIO, EINVAL and EAGAIN of errno(3), which UAPI answers with.
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    failure: Failure,
    errno: i32,
}

impl Refusal {
    /// A refusal with the number that UAPI answers, such as EADDRINUSE.
    pub fn new(errno: i32, failure: Failure) -> Self {
        Self { failure, errno }
    }

    /// The number that UAPI answers, positive.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The sentence for a person, and the exit code for a script.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }
}

/// What was wrong with the request is EINVAL, and what could not be done is EIO.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let errno = if failure.exit_code() == 2 { EINVAL } else { EIO };
        Self { failure, errno }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        refusal.failure
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl std::error::Error for Refusal {}

/// What a transaction changed. As text: `2 peers added, 1 removed, 1 changed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Peers that are new.
    pub added: usize,
    /// Peers that are gone.
    pub removed: usize,
    /// Peers of which something is other than before.
    pub changed: usize,
    /// What of `[device]` and `[transport]` is other than before, as words (`listen`, `mtu`).
    pub settings: Vec<&'static str>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = false;
        for (count, what) in [(self.added, "added"), (self.removed, "removed"), (self.changed, "changed")] {
            let noun = match (said, count) {
                (_, 0) => continue,
                (true, _) => "",
                (false, 1) => " peer",
                (false, _) => " peers",
            };
            write!(f, "{}{count}{noun} {what}", if said { ", " } else { "" })?;
            said = true;
        }
        match self.settings.as_slice() {
            [] if said => Ok(()),
            [] => f.write_str("nothing changed"),
            words => write!(f, "{}changed: {}", if said { "; " } else { "" }, words.join(", ")),
        }
    }
}

/// Makes the configuration that is wanted from the one that there is. There the endpoint of an encrypted peer is its address at this moment, as
/// WireGuard knows no other; one that comes back as it was stays what the file says, a name or none.
pub type Edit = Box<dyn FnOnce(&Tunnel) -> Result<Tunnel, Refusal> + Send>;

/// What is wanted.
pub enum Wanted {
    /// This configuration, with the addresses of those peers that cannot be without.
    Whole(Box<Tunnel>, Resolved),
    /// What this makes of the present one.
    Edited(Edit),
    /// As it is; sealed peers with these keys are called, though no packet waits for them.
    Called(Vec<(PublicKey, Option<SocketAddr>)>),
    /// As it is; a peer is told this.
    Told(PeerId, u8, Vec<u8>),
    /// As it is; the ways to so many peers are measured. Answered by which, and how many more could be.
    Measured(usize, SyncSender<(Vec<PeerId>, usize)>),
}

/// One request, and where its answer goes.
pub struct Request {
    pub(crate) wanted: Wanted,
    pub(crate) reply: SyncSender<Result<Summary, Refusal>>,
}

/// A daemon's configuration and state at one moment, for `wg show`.
#[derive(Clone)]
pub struct Picture {
    /// The configuration in force. With `listen` port 0 the kernel chose one, see [`listen`](Self::listen).
    pub tunnel: Arc<Tunnel>,
    /// The address and port that the sockets are bound to.
    pub listen: SocketAddr,
    /// In the order of `tunnel.peers`.
    pub peers: Vec<PeerNow>,
}

impl Picture {
    /// Each peer as configured (key, preshared key, keepalive, prefixes) and as it is now.
    pub fn peers(&self) -> impl Iterator<Item = (&config::Peer, &PeerNow)> + Clone {
        self.tunnel.peers.iter().zip(&self.peers)
    }
}

/// A peer at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerNow {
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was complete, since 1970-01-01.
    pub handshake: Option<Duration>,
    /// Bytes of authentic datagrams received, handshakes and keepalives included, without IP and UDP headers.
    pub received: u64,
    /// Bytes of datagrams sent, likewise.
    pub sent: u64,
}

/// How other threads reach the control thread of a daemon.
#[derive(Clone)]
pub struct Handle {
    inbox: Arc<Inbox>,
    requests: SyncSender<Request>,
    facts: Arc<Facts>,
    notes: Arc<Notes>,
    trace: Arc<Desk>,
}

impl Handle {
    /// A handle, and the queue that control takes requests from.
    pub fn new(inbox: Arc<Inbox>, facts: Arc<Facts>, trace: Arc<Desk>) -> (Self, Receiver<Request>) {
        let (requests, queue) = sync_channel(QUEUE);
        (Self { inbox, requests, facts, notes: Arc::default(), trace }, queue)
    }

    /// Where traces are asked for.
    pub fn trace(&self) -> &Arc<Desk> {
        &self.trace
    }

    /// What peers tell.
    pub fn notes(&self) -> &Arc<Notes> {
        &self.notes
    }

    /// Tells a sealed peer something; it may be lost on the way.
    ///
    /// # Errors
    /// There is no session with it; the daemon is about to end.
    pub fn tell(&self, peer: PeerId, topic: u8, body: Vec<u8>) -> Result<(), Refusal> {
        self.ask(Wanted::Told(peer, topic, body)).map(drop)
    }

    /// Begins to measure the ways to at most `most` sealed peers that have a session. Answers which, and how many more have one; what comes of it
    /// is in [`Facts::measured`].
    ///
    /// # Errors
    /// The daemon is about to end.
    pub fn measure(&self, most: usize) -> Result<(Vec<PeerId>, usize), Refusal> {
        let (sender, begun) = sync_channel(1);
        self.ask(Wanted::Measured(most, sender))?;
        begun.recv().map_err(|_| Failure::failed("the daemon is about to end").into())
    }

    /// What the daemon does now. What a change that was answered has made is in it.
    pub fn picture(&self) -> Picture {
        self.facts.picture()
    }

    /// What `adit status` shows.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Changes the configuration, and waits until that is done.
    ///
    /// # Errors
    /// What `edit` refused, or what stands against its result; nothing has changed.
    pub fn edit(&self, edit: Edit) -> Result<Summary, Refusal> {
        self.ask(Wanted::Edited(edit))
    }

    /// Calls sealed peers.
    ///
    /// # Errors
    /// The daemon is about to end.
    pub fn call(&self, keys: impl IntoIterator<Item = PublicKey>) -> Result<(), Refusal> {
        self.call_at(keys.into_iter().map(|key| (key, None)).collect())
    }

    /// Calls sealed peers, so that they find us at once after a restart: their former sessions with us are gone. Where nobody knows the address of one,
    /// at that beside its key.
    ///
    /// # Errors
    /// The daemon is about to end.
    pub fn call_at(&self, peers: Vec<(PublicKey, Option<SocketAddr>)>) -> Result<(), Refusal> {
        self.ask(Wanted::Called(peers)).map(drop)
    }

    /// Reads the file that the daemon was started with once more, puts it into force, and waits until that is done. The names of plain peers are
    /// resolved here, in the asker's thread.
    ///
    /// # Errors
    /// A fault of the file, with its line, or what stands against it; nothing has changed.
    pub fn reload(&self) -> Result<Summary, Refusal> {
        let Picture { tunnel, listen, .. } = self.picture();
        if tunnel.source.as_os_str().is_empty() {
            return Err(Failure::failed("this daemon was started without a file: change it with `wg set`").into());
        }
        let new = config::load(&tunnel.source).map_err(Failure::from)?;
        if !same_network(new.network.as_ref(), tunnel.network.as_ref()) {
            let keys = new.network.as_ref().zip(tunnel.network.as_ref()).map(|(a, b)| network_keys(a, b));
            let (sentence, remedy) = match keys {
                Some(keys) => (
                    format!("another {} under [network] needs another start, and nothing was changed", keys.join(" and ")),
                    "end the daemon by SIGTERM and start it again (`systemctl restart adit`, or Ctrl-C and `adit up`); traffic goes on in between",
                ),
                None => (
                    "a tunnel does not become a node of a network, nor the other way round, while it runs; nothing was changed".into(),
                    "run `adit down` and `adit up`",
                ),
            };
            return Err(Failure::usage(sentence).with_remedy(remedy).into());
        }
        if new.network.is_some() {
            return self.edit(Box::new(move |present| Ok(network::with_file(present, new))));
        }
        let resolved = underlay::resolve_plain(&new.peers, listen)?;
        self.ask(Wanted::Whole(Box::new(new), resolved))
    }

    /// The same, and says so to the log and to the service manager.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    pub fn reload_and_tell(&self) -> Result<Summary, Refusal> {
        notify::reloading();
        let outcome = self.reload();
        if let Ok(summary) = &outcome {
            tracing::info!("read {} again: {summary}", self.picture().tunnel.source.display());
        }
        notify::ready(&self.facts.ready_line());
        outcome
    }

    /// Tells the daemon to end and to remove everything. The answer comes at once, then the work.
    pub fn stop(&self) {
        self.inbox.send(Order::Stop);
    }

    fn ask(&self, wanted: Wanted) -> Result<Summary, Refusal> {
        let (reply, answer) = sync_channel(1);
        let ending = || Refusal::from(Failure::failed("the daemon is about to end"));
        self.requests.try_send(Request { wanted, reply }).map_err(|error| match error {
            TrySendError::Full(_) => {
                Refusal::new(EAGAIN, Failure::failed("too many changes at once").with_remedy("try again in a moment"))
            }
            TrySendError::Disconnected(_) => ending(),
        })?;
        self.inbox.send(Order::Request);
        answer.recv().map_err(|_| ending())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_as_a_sentence() {
        let summary = |added, removed, changed, settings: &[&'static str]| {
            Summary { added, removed, changed, settings: settings.to_vec() }.to_string()
        };
        assert_eq!(summary(2, 1, 1, &[]), "2 peers added, 1 removed, 1 changed");
        assert_eq!(summary(1, 0, 0, &[]), "1 peer added");
        assert_eq!(summary(0, 0, 3, &["mtu"]), "3 peers changed; changed: mtu");
        assert_eq!(summary(0, 0, 0, &["listen", "addresses"]), "changed: listen, addresses");
        assert_eq!(summary(0, 0, 0, &[]), "nothing changed");
    }

    #[test]
    fn what_was_wrong_and_what_failed_have_numbers() {
        assert_eq!(Refusal::from(Failure::usage("x")).errno(), EINVAL);
        assert_eq!(Refusal::from(Failure::failed("x")).errno(), EIO);
    }
}
