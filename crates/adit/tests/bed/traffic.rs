//! Traffic between namespaces, by real sockets; what arrives is compared with what was sent.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;

use linux::netns::NetNs;
use linux::poll::readable;
use linux::udp::{self, Flow, ReceiveBatch, SendQueue};
use wire::ecn::Ecn;

use super::packet::Random;
use super::{PATIENCE, await_address};

/// One place that sends or receives: a namespace, and an address in it.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a NetNs,
    pub(crate) address: IpAddr,
}

impl<'a> End<'a> {
    pub(crate) fn new(namespace: &'a NetNs, address: IpAddr) -> Self {
        Self { namespace, address }
    }

    /// A UDP socket there, on any port.
    pub(crate) fn udp(&self) -> UdpSocket {
        self.udp_on(0)
    }

    /// A UDP socket there.
    pub(crate) fn udp_on(&self, port: u16) -> UdpSocket {
        await_address(self.namespace, self.address);
        let socket = self.namespace.run(|| UdpSocket::bind((self.address, port))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// A UDP socket there that says and is told ECN.
    pub(crate) fn marked_udp(&self, port: u16) -> udp::Socket {
        let listen = SocketAddr::new(self.address, port);
        let options = udp::Options { listen, share_port: false, offload: false, dont_fragment: true, buffer: 1 << 20 };
        await_address(self.namespace, self.address);
        self.namespace.run(|| udp::Socket::bind(options)).unwrap().unwrap()
    }

    pub(crate) fn listen(&self) -> TcpListener {
        await_address(self.namespace, self.address);
        self.namespace.run(|| TcpListener::bind((self.address, 0))).unwrap().unwrap()
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> TcpStream {
        await_address(self.namespace, self.address);
        let stream = self.namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        timed(stream.unwrap_or_else(|e| panic!("{to} from {}: {e}", self.address)))
    }
}

fn timed(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Opens a TCP connection; answers both ends of it.
pub(crate) fn connection(client: End<'_>, server: End<'_>) -> (TcpStream, TcpStream) {
    let listener = server.listen();
    let stream = client.connect(listener.local_addr().unwrap());
    (stream, timed(listener.accept().unwrap().0))
}

/// Sends `forth` one way and `back` the other way at the same time over a connection, and compares.
pub(crate) fn exchange_over((client, server): (&TcpStream, &TcpStream), forth: &[u8], back: &[u8]) {
    thread::scope(|scope| {
        let send = |mut stream: &TcpStream, bytes: &[u8]| stream.write_all(bytes).expect("the other end takes bytes");
        let receive = |mut stream: &TcpStream, bytes: &[u8], way: &str| {
            let mut received = vec![0; bytes.len()];
            stream.read_exact(&mut received).unwrap_or_else(|e| panic!("{way}: {e}"));
            assert!(received == bytes, "{way}: other bytes arrive");
        };
        scope.spawn(move || send(client, forth));
        scope.spawn(move || send(server, back));
        scope.spawn(move || receive(server, forth, "forth"));
        scope.spawn(move || receive(client, back, "back"));
    });
}

/// Opens a connection, moves random bytes both ways, and closes it.
pub(crate) fn exchange_tcp(client: End<'_>, server: End<'_>, forth: usize, back: usize) {
    let (a, b) = connection(client, server);
    let mut random = Random::new(forth as u64);
    exchange_over((&a, &b), &random.bytes(forth), &random.bytes(back));
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&b).read(&mut [0]).unwrap(), 0, "the end arrives too");
}

/// How many datagrams may be on their way at a time; few enough for every buffer.
const WINDOW: usize = 16;

/// Sends datagrams of these sizes, has each sent back, and compares both ways. Answers how many there were.
pub(crate) fn exchange_udp(client: End<'_>, server: End<'_>, sizes: impl IntoIterator<Item = usize>) -> u64 {
    let (here, there) = (client.udp(), server.udp());
    let to = there.local_addr().unwrap();
    let mut random = Random::new(7);
    let datagrams: Vec<_> = sizes.into_iter().map(|size| random.bytes(size)).collect();
    for window in datagrams.chunks(WINDOW) {
        window.iter().for_each(|d| assert_eq!(here.send_to(d, to).unwrap(), d.len()));
        let source = receive_all(&there, window, "forth");
        window.iter().for_each(|d| assert_eq!(there.send_to(d, source).unwrap(), d.len()));
        assert_eq!(receive_all(&here, window, "back"), to);
    }
    datagrams.len() as u64
}

/// Receives as many datagrams as were sent, in any order (fragments may be overtaken); answers who sent them.
fn receive_all(socket: &UdpSocket, sent: &[Vec<u8>], way: &str) -> SocketAddr {
    let mut buffer = vec![0; 65_536];
    let mut source = None;
    let mut received: Vec<_> = sent
        .iter()
        .map(|_| {
            let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|e| {
                panic!("{way}: datagrams of {:?} bytes: {e}", sent.iter().map(Vec::len).collect::<Vec<_>>())
            });
            assert!(source.is_none_or(|source| source == from));
            source = Some(from);
            buffer[..length].to_vec()
        })
        .collect();
    let mut sent = sent.to_vec();
    sent.sort();
    received.sort();
    assert!(sent == received, "{way}: other datagrams arrive");
    source.unwrap()
}

/// Sends one datagram with ECN bits.
pub(crate) fn send_marked(socket: &udp::Socket, to: SocketAddr, ecn: Ecn, payload: &[u8]) {
    let flow = Flow { to, from: None, ecn, lane: 0, tag: 0 };
    let mut queue = SendQueue::unbatched();
    queue.slot(&flow, payload.len()).unwrap().copy_from_slice(payload);
    queue.commit(payload.len());
    queue.flush(socket, |sent| assert!(sent.failed.is_none(), "{sent:?}"));
}

/// Receives one datagram, and its ECN bits.
pub(crate) fn receive_marked(socket: &udp::Socket) -> (SocketAddr, Ecn, Vec<u8>) {
    let [ready] = readable([socket.as_fd()], Some(PATIENCE)).unwrap();
    assert!(ready, "waited in vain for a datagram");
    let mut batch = ReceiveBatch::new(1);
    batch.receive(socket, 1).unwrap();
    let datagram = batch.datagrams().next().unwrap();
    (datagram.source, datagram.ecn, datagram.bytes.to_vec())
}
