//! Connections: how many there may be, how long a stranger may stay, and the handshake of TLS.
//!
//! A stranger is whoever has not yet sent a request that was let in. It may take five seconds for the handshake and thirty in all, and where there
//! are too many connections, the oldest stranger's makes room. Those of members stay as long as they answer pings.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{
    Request,
    transport::server::{Connected, TcpConnectInfo},
};

use super::policy::Principal;

/// Connections at once: a thousand nodes have one each, and those that connect anew may have two for a while.
const CONNECTIONS: usize = 2048;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a stranger may stay.
const STRANGER: Duration = Duration::from_secs(30);

/// How long to wait after the kernel refused to hand out a connection for want of memory or file descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A connection, by both of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Visit {
    peer: SocketAddr,
    local: SocketAddr,
}

impl Visit {
    /// The connection that a request came by.
    pub(super) fn of<T>(request: &Request<T>) -> Option<Self> {
        Some(Self { peer: request.remote_addr()?, local: request.local_addr()? })
    }
}

struct Visitor {
    since: Instant,
    member: Option<Principal>,
    close: CancellationToken,
}

/// Who is connected.
#[derive(Default)]
pub(super) struct Doors {
    visitors: Mutex<HashMap<Visit, Visitor>>,
}

impl Doors {
    /// Lets somebody in, if there is room or can be made.
    fn admit(&self, visit: Visit, now: Instant) -> Option<CancellationToken> {
        let mut visitors = self.visitors();
        if visitors.len() >= CONNECTIONS {
            let oldest = visitors
                .iter()
                .filter(|(_, visitor)| visitor.member.is_none())
                .min_by_key(|(_, visitor)| visitor.since);
            let oldest = *oldest?.0;
            visitors.remove(&oldest)?.close.cancel();
        }
        let close = CancellationToken::new();
        visitors.insert(visit, Visitor { since: now, member: None, close: close.clone() });
        Some(close)
    }

    /// Takes note that a connection is a member's.
    pub(super) fn trust(&self, visit: &Visit, who: &Principal) {
        if let Some(visitor) = self.visitors().get_mut(visit)
            && visitor.member.as_ref() != Some(who)
        {
            visitor.member = Some(who.clone());
        }
    }

    /// Makes strangers of those who are no longer welcome, and ends connections of strangers who stayed too long.
    pub(super) fn sweep(&self, gone: &[Principal], now: Instant) {
        for visitor in self.visitors().values_mut() {
            if visitor.member.as_ref().is_some_and(|member| gone.contains(member)) {
                visitor.member = None;
                visitor.since = now;
            }
            if visitor.member.is_none() && now.duration_since(visitor.since) >= STRANGER {
                visitor.close.cancel();
            }
        }
    }

    fn leave(&self, visit: &Visit, close: &CancellationToken) {
        let mut visitors = self.visitors();
        // The place may have been given away, and even be another connection's of the same ends.
        if close.is_cancelled() && visitors.get(visit).is_some_and(|visitor| !visitor.close.is_cancelled()) {
            return;
        }
        visitors.remove(visit);
    }

    fn visitors(&self) -> MutexGuard<'_, HashMap<Visit, Visitor>> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the connections, given back when dropped.
struct Place {
    visit: Visit,
    close: CancellationToken,
    doors: Arc<Doors>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.doors.leave(&self.visit, &self.close);
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that tonic serves.
pub(super) struct Connection {
    wire: Wire,
    place: Place,
    closed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Connection {
    fn new(wire: Wire, place: Place) -> Self {
        let closed = Some(Box::pin(place.close.clone().cancelled_owned()));
        Self { wire, place, closed }
    }

    /// Whether nobody has asked for its end. If somebody does, whoever called this is woken.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        let open = self.closed.as_mut().is_some_and(|closed| closed.as_mut().poll(cx).is_pending());
        if !open {
            self.closed = None;
        }
        open
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: Some(self.place.visit.local), remote_addr: Some(self.place.visit.peer) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_open(cx) {
            // The end, as if the other side had closed.
            return Poll::Ready(Ok(()));
        }
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_open(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Accepts connections and hands them over once their handshake is done, until `stop`.
pub(super) async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    doors: Arc<Doors>,
    ready: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("a connection to the registry was not accepted: {error}");
                tokio::time::sleep(SHORTAGE).await;
                continue;
            }
        };
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { continue };
        let visit = Visit { peer, local };
        let Some(close) = doors.admit(visit, Instant::now()) else { continue };
        // Small answers must not wait for the ones before them to be acknowledged. A failure costs time only.
        let _ = stream.set_nodelay(true);
        let place = Place { visit, close, doors: Arc::clone(&doors) };
        tokio::spawn(welcome(stream, place, tls.clone(), ready.clone(), stop.clone()));
    }
}

async fn welcome(
    stream: TcpStream,
    place: Place,
    tls: Option<TlsAcceptor>,
    ready: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let wire = match tls {
        None => Wire::Plain(stream),
        Some(tls) => {
            let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(stream));
            let finished = tokio::select! {
                finished = handshake => finished,
                () = place.close.cancelled() => return,
                () = stop.cancelled() => return,
            };
            match finished {
                Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                Ok(Err(error)) => {
                    tracing::debug!("the TLS handshake of {} with the registry failed: {error}", place.visit.peer);
                    return;
                }
                Err(_) => return,
            }
        }
    };
    // Nobody takes it any more once the server stops.
    let _ = ready.send(Ok(Connection::new(wire, place))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(port: u16) -> Visit {
        Visit { peer: SocketAddr::from(([127, 0, 0, 1], port)), local: SocketAddr::from(([127, 0, 0, 1], 2379)) }
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_a_member_never_does() {
        let start = Instant::now();
        let doors = Doors::default();
        let first = doors.admit(visit(1), start).unwrap();
        doors.trust(&visit(1), &Principal("node-1".into()));
        let second = doors.admit(visit(2), start + Duration::from_millis(1)).unwrap();
        for port in 3..=u16::try_from(CONNECTIONS).unwrap() {
            doors.admit(visit(port), start + Duration::from_millis(u64::from(port))).unwrap();
        }
        assert!(!second.is_cancelled());
        assert!(doors.admit(visit(5000), start + Duration::from_secs(4)).is_some());
        assert!(second.is_cancelled() && !first.is_cancelled());
        for visitor in doors.visitors().values_mut() {
            visitor.member = Some(Principal::root());
        }
        assert!(doors.admit(visit(5001), start).is_none());
    }

    #[test]
    fn a_stranger_stays_thirty_seconds_and_a_member_until_it_is_removed() {
        let start = Instant::now();
        let (node, doors) = (Principal("node-1".into()), Doors::default());
        let (stranger, member) = (doors.admit(visit(1), start).unwrap(), doors.admit(visit(2), start).unwrap());
        doors.trust(&visit(2), &node);
        doors.sweep(&[], start + STRANGER);
        assert!(stranger.is_cancelled() && !member.is_cancelled());
        doors.sweep(&[node], start + STRANGER);
        assert!(!member.is_cancelled());
        doors.sweep(&[], start + 2 * STRANGER);
        assert!(member.is_cancelled());
    }
}
