//! Asking others: another node, or the host's resolvers. Each question goes out by a port of its own, which the kernel chooses at random, with a
//! random number, and the kernel lets only the one who was asked answer to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::PORT;
use super::message::{self, Answer, DATAGRAM, Query};

/// How long a node is waited for until it is asked again, and how often it is asked: a node that is gone is told of after 1.5 s.
const NODE_PATIENCE: Duration = Duration::from_millis(750);
const NODE_TRIES: usize = 2;

/// After this time without an answer the next resolver is asked as well; the first ones are still listened to.
const NEXT: Duration = Duration::from_millis(800);

/// A resolver is asked again after this time.
const AGAIN: Duration = Duration::from_millis(1600);

/// How long all of this may take: who asks gives up after 5 s, as a rule.
const PATIENCE: Duration = Duration::from_secs(4);

/// So many datagrams that do not answer the question are looked at: whoever guesses numbers has no more tries.
const WRONG: usize = 8;

/// How a question came, and so how it is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
}

/// Whether what a resolver outside says may be passed on.
pub(super) type Check = Rc<dyn Fn(&[u8]) -> bool>;

/// Asks another node's resolver, by our own device's address: what comes from there came through the tunnel, from that node.
pub(super) async fn node(ours: IpAddr, theirs: IpAddr, query: &Query) -> Option<Answer> {
    let socket = UdpSocket::bind((ours, 0)).await.ok()?;
    socket.connect((theirs, PORT)).await.ok()?;
    let own = Query::new(random(), &query.name, query.kind);
    let bytes = own.to_bytes();
    for _ in 0..NODE_TRIES {
        socket.send(&bytes).await.ok()?;
        if let Ok(answer) = timeout(NODE_PATIENCE, receive(&socket, &own, own.id)).await {
            return Answer::parse(&answer.ok()?);
        }
    }
    None
}

/// Asks resolvers outside, the first one first; answers who said what. A resolver on this
/// host is not asked what the host itself asks us: it is the one who asks.
pub(super) async fn outside(
    servers: &[SocketAddr],
    (query, bytes): (&Rc<Query>, &Rc<[u8]>),
    way: Way,
    asked_by_host: bool,
    is_sound: Check,
) -> Option<(SocketAddr, Vec<u8>)> {
    let mut left = servers.iter().copied();
    let mut running = JoinSet::new();
    let mut start = |running: &mut JoinSet<(SocketAddr, io::Result<Vec<u8>>)>| {
        let Some(server) = left.next() else { return false };
        let (query, bytes, is_sound) = (Rc::clone(query), Rc::clone(bytes), Rc::clone(&is_sound));
        running.spawn_local(async move {
            let answer = one(server, (&query, &bytes), way, asked_by_host).await;
            (server, answer.and_then(|answer| if is_sound(&answer) { Ok(answer) } else { Err(nonsense()) }))
        });
        true
    };
    // What somebody said who cannot help, should nobody else.
    let mut poor = None;
    let all = async {
        let mut is_more = start(&mut running);
        while !running.is_empty() {
            tokio::select! {
                Some(done) = running.join_next() => {
                    match done {
                        Ok((server, Ok(answer))) if !is_poor(&answer) => return Some((server, answer)),
                        Ok((server, Ok(answer))) => poor = poor.take().or(Some((server, answer))),
                        Ok((server, Err(e))) => tracing::debug!("the resolver {server} is of no help: {e}"),
                        Err(_) => {}
                    }
                    is_more = start(&mut running);
                }
                () = sleep(NEXT), if is_more => is_more = start(&mut running),
            }
        }
        None
    };
    let best = timeout(PATIENCE, all).await.ok().flatten();
    best.or(poor)
}

/// Whether another one might know better.
fn is_poor(answer: &[u8]) -> bool {
    matches!(message::code(answer), message::SERVER_FAILURE | message::REFUSED | message::NOT_IMPLEMENTED)
}

async fn one(
    server: SocketAddr,
    (query, bytes): (&Query, &[u8]),
    way: Way,
    asked_by_host: bool,
) -> io::Result<Vec<u8>> {
    let id = random();
    let mut bytes = bytes.to_vec();
    message::set_id(&mut bytes, id);
    match way {
        Way::Udp => {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(server).await?;
            check_loop(socket.local_addr()?, server, asked_by_host)?;
            loop {
                socket.send(&bytes).await?;
                if let Ok(answer) = timeout(AGAIN, receive(&socket, query, id)).await {
                    return answer;
                }
            }
        }
        Way::Tcp => {
            let mut stream = TcpStream::connect(server).await?;
            check_loop(stream.local_addr()?, server, asked_by_host)?;
            write(&mut stream, &bytes).await?;
            let answer = read(&mut stream, u16::MAX.into()).await?;
            if query.is_answered_by(id, &answer) { Ok(answer) } else { Err(nonsense()) }
        }
    }
}

/// The way to an address of this host begins at that address, or at one of loopback.
fn check_loop(from: SocketAddr, server: SocketAddr, asked_by_host: bool) -> io::Result<()> {
    let is_here = server.ip().is_loopback() || from.ip() == server.ip();
    if is_here && asked_by_host {
        return Err(io::Error::other("it is on this host, which asks us"));
    }
    Ok(())
}

fn nonsense() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "its answer makes no sense, or gives an address of the network to a name that is not of it",
    )
}

async fn receive(socket: &UdpSocket, query: &Query, id: u16) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..WRONG {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).filter(|answer| query.is_answered_by(id, answer)) {
            return Ok(answer.to_vec());
        }
    }
    Err(nonsense())
}

/// Reads a message from a stream (RFC 1035, section 4.2.2).
pub(super) async fn read(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(nonsense());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes one.
pub(super) async fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| nonsense())?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    // aws-lc ends the process rather than to run out of randomness.
    let _ = rand::fill(&mut bytes);
    u16::from_be_bytes(bytes)
}
