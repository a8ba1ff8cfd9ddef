//! Nodes with containers that have names, and a resolver outside.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit::Directories;
use adit::container::{self, Door, Key, Place, Record, Request, Store};
use adit::resolver::message::{self, Answer, Data, Query};
use adit::resolver::name::Name;
use ipnet::IpNet;
use linux::netns::NetNs;
use linux::sysctl;

use crate::bed::{Host, wait_for};
use crate::world::{Daemon, Node};

/// How long who asks waits, as the C library does.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container on a node, as a runtime attaches it.
pub(crate) struct Guest {
    pub(crate) namespace: NetNs,
    pub(crate) record: Record,
    store: Store,
    host: NetNs,
    /// The resolver's addresses: those of the bridge.
    pub(crate) resolvers: Vec<IpAddr>,
}

impl Guest {
    /// Attaches one with this name; an empty one is none.
    pub(crate) fn attach(node: &Node<'_>, name: &str) -> Self {
        let directories =
            Directories { runtime: node.path("run"), state: node.path("state"), ..Directories::default() };
        // A lease is told of a moment after the daemon is up.
        let what = wait_for("what the node is", || container::Node::read(&directories, "adit0").ok());
        let namespace = NetNs::anonymous().unwrap();
        namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
        let container = format!("{name}-{}", namespace.as_raw_fd());
        let request = Request {
            key: Key { door: Door::Cni, network: "names".into(), container, interface: "eth0".into() },
            name: (!name.is_empty()).then(|| name.to_owned()),
            wanted: Vec::new(),
            mac: None,
            ports: Vec::new(),
            isolated: false,
            mtu: None,
            default_route: true,
            place: Place::Namespace { namespace: namespace.clone(), path },
            reservation: None,
            process: None,
        };
        let store = Store::of(&directories, "adit0");
        let host = node.host.namespace.clone();
        let record = host.run(|| container::attach(&what, &store, &request)).unwrap().unwrap();
        let resolvers = what.gateways().map(|net| net.addr()).collect();
        Self { namespace, record, store, host, resolvers }
    }

    pub(crate) fn ip(&self, v6: bool) -> IpAddr {
        self.record.addresses.iter().map(IpNet::addr).find(|ip| ip.is_ipv6() == v6).unwrap()
    }

    /// Takes it away.
    pub(crate) fn detach(&self) {
        assert!(self.host.run(|| container::detach(&self.store, &self.record.key)).unwrap().unwrap());
    }

    /// What its resolver says: the code, and addresses and names as text.
    pub(crate) fn ask(&self, name: &str, kind: u16) -> (u8, Vec<String>) {
        ask(&self.namespace, self.resolvers[0], name, kind).unwrap_or_else(|| panic!("no answer for {name}"))
    }

    /// Waits until the first address of a name is this one.
    pub(crate) fn await_address(&self, name: &str, address: IpAddr) {
        let kind = if address.is_ipv4() { message::A } else { message::AAAA };
        let wanted = (message::NO_ERROR, vec![address.to_string()]);
        wait_for(&format!("the address {address} of {name}"), || {
            (ask(&self.namespace, self.resolvers[0], name, kind).as_ref() == Some(&wanted)).then_some(())
        });
    }
}

/// A client's socket in a namespace.
pub(crate) fn client(namespace: &NetNs, to: IpAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = namespace.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.connect((to, 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A question by UDP, and the bytes of the answer.
pub(crate) fn exchange(socket: &UdpSocket, query: &Query) -> Option<Vec<u8>> {
    socket.send(&query.to_bytes()).ok()?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    let answer = buffer[..length].to_vec();
    assert!(query.is_answered_by(query.id, &answer), "{answer:?}");
    Some(answer)
}

pub(crate) fn query(name: &str, kind: u16) -> Query {
    Query::new(0x1234, &Name::from_text(name).unwrap(), kind)
}

/// The code of an answer, and its addresses and names as text.
pub(crate) fn read(answer: &[u8]) -> (u8, Vec<String>) {
    let answer = Answer::parse(answer).unwrap();
    let text = |data| match data {
        Data::Address(ip) => IpAddr::to_string(&ip),
        Data::Name(name) => name.to_string(),
    };
    (answer.code, answer.records.into_iter().map(|(_, data)| text(data)).collect())
}

/// What a resolver says by UDP; none if it says nothing.
pub(crate) fn ask(namespace: &NetNs, to: IpAddr, name: &str, kind: u16) -> Option<(u8, Vec<String>)> {
    exchange(&client(namespace, to), &query(name, kind)).map(|answer| read(&answer))
}

/// The same by TCP.
pub(crate) fn ask_by_tcp(namespace: &NetNs, to: IpAddr, name: &str, kind: u16) -> Option<(u8, Vec<String>)> {
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&(to, 53).into(), PATIENCE)).unwrap().ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let query = query(name, kind);
    write_message(&mut stream, &query.to_bytes()).ok()?;
    let answer = read_message(&mut stream).ok()?;
    assert!(query.is_answered_by(query.id, &answer), "{answer:?}");
    Some(read(&answer))
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes].concat())
}

/// How a made-up resolver answers a question: with any number of datagrams.
pub(crate) type Script = Arc<dyn Fn(&Query, bool) -> Vec<Vec<u8>> + Send + Sync>;

/// A made-up resolver, until dropped.
pub(crate) struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// At this address of a namespace. The script is told whether the question came by TCP.
    pub(crate) fn new(namespace: &NetNs, at: IpAddr, script: Script) -> Self {
        let at = SocketAddr::new(at, 53);
        let (socket, listener) =
            namespace.run(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())).unwrap();
        let tick = Duration::from_millis(20);
        socket.set_read_timeout(Some(tick)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (asked, count, stop) = (Arc::default(), Arc::default(), Arc::default());
        let mut server = Self { asked, count, stop, threads: Vec::new() };
        let note = {
            let (asked, count) = (Arc::clone(&server.asked), Arc::clone(&server.count));
            move |query: &Query| {
                count.fetch_add(1, Ordering::Relaxed);
                asked.lock().unwrap().push(query.name.to_string());
            }
        };
        let (stop, by_tcp, noted) = (Arc::clone(&server.stop), Arc::clone(&script), note.clone());
        let udp = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(query) = Query::parse(&buffer[..length]) else { continue };
                note(&query);
                for answer in script(&query, false) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        let stop = Arc::clone(&server.stop);
        let tcp = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(tick);
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let Ok(bytes) = read_message(&mut stream) else { continue };
                let Ok(query) = Query::parse(&bytes) else { continue };
                noted(&query);
                for answer in by_tcp(&query, true) {
                    let _ = write_message(&mut stream, &answer);
                }
            }
        });
        server.threads = vec![udp, tcp];
        server
    }

    /// The names it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// An address as an answer.
pub(crate) fn address(text: &str) -> Data {
    Data::Address(text.parse().unwrap())
}

/// A network of these nodes, each with the resolvers of a host in a file of its own.
pub(crate) fn network<'n, 'h>(nodes: &'n [Node<'h>], arguments: &[&str], resolvers: &[IpAddr]) -> Vec<Daemon<'n, 'h>> {
    for node in nodes {
        set_resolvers(node, resolvers);
    }
    crate::world::network(nodes, arguments)
}

/// The host's resolvers are these from now on. The file stays the same one.
pub(crate) fn set_resolvers(node: &Node<'_>, resolvers: &[IpAddr]) {
    let text: String = resolvers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    fs::write(node.path("resolv.conf"), text).unwrap();
}

/// The device's address of a node, in IPv4.
pub(crate) fn device_of(daemon: &Daemon<'_, '_>) -> IpAddr {
    daemon.subnet().network()
}

/// Waits until a node's resolver answers at its device.
pub(crate) fn await_resolver(host: &Host, daemon: &Daemon<'_, '_>) {
    let (at, name) = (device_of(daemon), format!("host{}.adit", host.number));
    wait_for("the resolver", || ask(&host.namespace, at, &name, message::A).filter(|(code, _)| *code == 0));
}

/// How long something took.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (what(), began.elapsed())
}
