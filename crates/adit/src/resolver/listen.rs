//! Listening: by UDP with a queue per group of askers, and by TCP.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use linux::service;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinSet, spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::PORT;
use super::ask::{self, Way};
use super::budget::Places;
use super::desk::{Desk, Outcome};
use super::message::DATAGRAM;

/// Queues per address, and one more for strangers. Containers get addresses in order, so that up to so many have one of their own.
const LANES: u8 = 16;

/// Datagrams of a queue that are looked at before the next queue.
const BATCH: usize = 64;

/// How long a queue rests of which most was passed over. What comes meanwhile the kernel drops, at less cost.
const REST: Duration = Duration::from_millis(5);

/// Connections at once, and of one address.
const CONNECTIONS: usize = 48;
const OF_ONE: usize = 6;

/// How long a connection waits for the next question, and for one to be written and an answer to be taken.
const IDLE: Duration = Duration::from_secs(5);

/// As many questions by one connection.
const QUESTIONS: usize = 200;

/// What is listened to at an address, until dropped.
pub(super) struct Ear {
    tasks: JoinSet<()>,
}

/// Places for connections.
pub(super) fn seats() -> Places {
    Places::new(CONNECTIONS, OF_ONE)
}

impl Ear {
    /// Listens there. Who is in the network has other queues than who is not.
    ///
    /// # Errors
    /// Those of [`service::udp`].
    pub(super) fn open(ip: IpAddr, network: &[IpNet], desk: &Rc<Desk>, seats: &Places) -> linux::Result<Self> {
        let at = SocketAddr::new(ip, PORT);
        let failed = |e| linux::Error::new(format!("listen on {at}"), e);
        let (lanes, listener) = (service::udp(at, LANES, network)?, service::tcp(at)?);
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let mut tasks = JoinSet::new();
        for lane in lanes {
            let socket = Rc::new(UdpSocket::from_std(lane).map_err(failed)?);
            tasks.spawn_local(by_udp(Rc::clone(desk), socket));
        }
        tasks.spawn_local(by_tcp(Rc::clone(desk), listener, seats.clone()));
        Ok(Self { tasks })
    }

    /// Listens no more when this is done, so that somebody else may.
    pub(super) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn by_udp(desk: Rc<Desk>, socket: Rc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    // Ends with the socket.
    while socket.readable().await.is_ok() {
        let mut passed_over = 0;
        for _ in 0..BATCH {
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else { break };
            let bytes = buffer.get(..length).unwrap_or_default();
            match desk.take(bytes, from, Way::Udp) {
                Outcome::Nothing => passed_over += 1,
                // Who does not take answers loses them.
                Outcome::Answer(answer) => drop(socket.try_send_to(&answer, from)),
                Outcome::Later(job) => {
                    // Who waits does not keep the socket: another one at this address would lose what is for it.
                    let (desk, socket) = (Rc::clone(&desk), Rc::downgrade(&socket));
                    spawn_local(async move {
                        let answer = desk.finish(*job).await;
                        let _ = socket.upgrade().map(|socket| socket.try_send_to(&answer, from));
                    });
                }
            }
        }
        if passed_over > BATCH / 2 { sleep(REST).await } else { yield_now().await }
    }
}

async fn by_tcp(desk: Rc<Desk>, listener: TcpListener, seats: Places) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // For want of memory or descriptors.
            sleep(REST).await;
            continue;
        };
        if !desk.knows(from.ip()) {
            continue;
        }
        let Some(seat) = seats.take(from, 0) else { continue };
        let desk = Rc::clone(&desk);
        spawn_local(async move {
            converse(&desk, stream, from).await;
            drop(seat);
        });
    }
}

async fn converse(desk: &Desk, mut stream: TcpStream, from: SocketAddr) {
    for _ in 0..QUESTIONS {
        let Ok(Ok(question)) = timeout(IDLE, ask::read(&mut stream, DATAGRAM)).await else { return };
        let answer = match desk.take(&question, from, Way::Tcp) {
            Outcome::Nothing => return,
            Outcome::Answer(answer) => answer,
            Outcome::Later(job) => desk.finish(*job).await,
        };
        if !matches!(timeout(IDLE, ask::write(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}
