//! The socket: a thread that admits, and one per connection that answers.
//!
//! Only root and the daemon's own user may connect. A client that says nonsense, stops in the middle or does not take its answer costs a
//! thread for a while, and nobody else anything.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use linux::poll::{Waker, readable};
use linux::watch::Watch;
use zeroize::Zeroizing;

use super::{
    Errno, Set,
    parse::{LONGEST_LINE, Parser, Request, Step},
};
use crate::{Failure, Result};

/// How long a request may take to arrive once it has begun, and its answer to be taken.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be silent between two requests.
const SILENCE: Duration = Duration::from_secs(30);

/// Connections at once. With what is read at a time and a stack each, 32 × (64 + 256) KiB, and their answers.
const MAX_CONNECTIONS: usize = 32;

/// The stack of a thread that answers.
const STACK: usize = 256 * 1024;

/// What is read at a time.
const CHUNK: usize = 64 * 1024;

/// How long to wait after the kernel refused to hand out a connection for want of memory or file descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);

/// What is asked and changed over a socket.
pub trait Device: Send + Sync + 'static {
    /// The lines of the answer to `get`, without the number that ends it.
    fn get(&self) -> Zeroizing<String>;

    /// Makes all these changes, or none. Not called twice at a time.
    ///
    /// # Errors
    /// Why none was made.
    fn set(&self, set: Set) -> std::result::Result<(), Errno>;

    /// The socket was removed or replaced, so that nobody can connect any more.
    fn abandoned(&self);
}

/// A socket on which requests are answered until this is dropped, or the socket is removed.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    socket: SocketFile,
    device: Box<dyn Device>,
    ending: AtomicBool,
    abandoned: AtomicBool,
    wake: Waker,
    connections: AtomicUsize,
    /// Changes wait for each other.
    changing: Mutex<()>,
}

/// The socket's file, removed when this is dropped, unless another file has its name by then.
struct SocketFile {
    path: PathBuf,
    owner: u32,
    number: (u64, u64),
    /// The name was found to be no longer ours. From then on the number means nothing: another file may have it.
    lost: AtomicBool,
}

/// Removes the socket that a killed daemon of `device` left in `directory`. One that somebody listens on stays.
pub fn remove_leftover(directory: &Path, device: &str) {
    let path = directory.join(format!("{device}.sock"));
    let is_dead = UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_dead && let Err(error) = fs::remove_file(&path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

impl Server {
    /// Makes the socket `directory`/`device`.sock (0600), in the place of one that nobody listens on, and answers.
    ///
    /// # Errors
    /// Somebody listens there; or the directory is not ours alone to write to.
    pub fn start(directory: &Path, name: &str, device: impl Device) -> Result<Self> {
        let path = directory.join(format!("{name}.sock"));
        prepare(directory)?;
        let failed = |error: io::Error| Failure::failed(format!("cannot make the socket {}: {error}", path.display()));
        if UnixStream::connect(&path).is_ok() {
            return Err(Failure::failed(format!("another daemon answers on the socket {}", path.display()))
                .with_remedy("stop it, or choose another device"));
        }
        let (listener, socket) = listen(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let watch = Watch::new(&path)?;
        let shared = Arc::new(Shared {
            socket,
            device: Box::new(device),
            ending: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            wake: Waker::new()?,
            connections: AtomicUsize::new(0),
            changing: Mutex::new(()),
        });
        let ours = Arc::clone(&shared);
        let admit = move || {
            if let Err(error) = admit(&listener, &watch, &ours) {
                tracing::error!("the socket {} answers no longer: {error}", ours.socket.path.display());
            }
        };
        let thread = thread::Builder::new().name("uapi".into()).stack_size(STACK).spawn(admit);
        let thread = thread.map_err(|error| Failure::failed(format!("cannot start the thread \"uapi\": {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Threads that answer may go on for a while; the name goes now. Once it was lost, a file with the same number may be another's.
        if !self.shared.abandoned.load(Ordering::Acquire) {
            self.shared.socket.remove();
        }
    }
}

impl SocketFile {
    /// Whether the name is still that of our socket.
    fn is_there(&self) -> bool {
        let is_ours = || fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.number);
        let there = !self.lost.load(Ordering::Acquire) && is_ours();
        if !there {
            self.lost.store(true, Ordering::Release);
        }
        there
    }

    fn remove(&self) {
        if self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Makes the directory if need be, and refuses one in which others could plant or exchange sockets.
fn prepare(directory: &Path) -> Result<()> {
    let failed = |verb: &str, error: io::Error| {
        Failure::failed(format!("cannot {verb} the directory {}: {error}", directory.display()))
            .with_remedy("run as root")
    };
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|error| failed("make", error))?;
    let metadata = fs::metadata(directory).map_err(|error| failed("look at", error))?;
    if metadata.mode() & 0o022 != 0 {
        return Err(Failure::failed(format!("others may write to the directory {}", directory.display()))
            .with_remedy(format!("run `chmod 755 {}`", directory.display())));
    }
    Ok(())
}

/// Makes a socket whose name never has a wider mode than it should: it is made under another name, then renamed, which also replaces
/// a leftover.
fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // The tools take every name that ends in .sock for a device's.
    let new = path.with_extension("sock.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    let named = || {
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(&new)?;
        fs::rename(&new, path)?;
        let number = (metadata.dev(), metadata.ino());
        Ok(SocketFile { path: path.into(), owner: metadata.uid(), number, lost: AtomicBool::new(false) })
    };
    match named() {
        Ok(socket) => Ok((listener, socket)),
        Err(error) => {
            let _ = fs::remove_file(&new);
            Err(error)
        }
    }
}

/// Takes connections until the server ends or its socket is removed.
fn admit(listener: &UnixListener, watch: &Watch, shared: &Arc<Shared>) -> linux::Result<()> {
    loop {
        // Looked at first, since it may have gone before it was watched.
        if !shared.socket.is_there() {
            shared.abandoned.store(true, Ordering::Release);
            shared.device.abandoned();
            return Ok(());
        }
        let [came, _, _] = readable([listener.as_fd(), watch.as_fd(), shared.wake.as_fd()], None)?;
        if shared.ending.load(Ordering::Acquire) {
            return Ok(());
        }
        watch.reset();
        if !came {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = seat(stream, shared) {
                    tracing::debug!("cannot serve a connection of WireGuard's tools: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!("cannot take a connection of WireGuard's tools: {error}");
                readable([shared.wake.as_fd()], Some(SHORTAGE))?;
            }
        }
    }
}

/// Gives a connection its thread, or closes it.
fn seat(stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    // The mode of the socket says the same; for a moment it had none yet.
    let user = linux::privilege::peer_credentials(&stream).map_err(io::Error::other)?.uid;
    if user != 0 && user != shared.socket.owner {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let Some(seat) = Seat::take(shared) else { return Err(io::Error::other("there are too many")) };
    thread::Builder::new().name("uapi-answer".into()).stack_size(STACK).spawn(move || {
        if let Err(error) = converse(&stream, &seat.0) {
            tracing::debug!("a connection of WireGuard's tools ended early: {error}");
        }
    })?;
    Ok(())
}

/// A connection's place among [`MAX_CONNECTIONS`], free again when dropped.
struct Seat(Arc<Shared>);

impl Seat {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let more = |taken| (taken < MAX_CONNECTIONS).then_some(taken + 1);
        shared.connections.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Requests and answers until the client has had enough.
fn converse(stream: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut lines = Lines::new(stream);
    let mut parser = Parser::default();
    let mut deadline = Instant::now() + SILENCE;
    loop {
        let begun = parser.is_within();
        let Some(line) = lines.next(deadline)? else {
            // Whoever closes one direction only may still read.
            return if begun { answer(stream, "", Err(Errno::EPROTO)) } else { Ok(()) };
        };
        match parser.line(line) {
            Step::More if begun => {}
            Step::More => deadline = Instant::now() + TIMEOUT,
            Step::Request(request) => {
                match request {
                    Request::Get => answer(stream, &shared.device.get(), Ok(()))?,
                    Request::Set(set) => {
                        let outcome = {
                            let _turn = shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
                            shared.device.set(*set)
                        };
                        answer(stream, "", outcome)?;
                    }
                }
                deadline = Instant::now() + SILENCE;
            }
            Step::Refused(errno) => {
                answer(stream, "", Err(errno))?;
                deadline = Instant::now() + SILENCE;
            }
            Step::Close(errno) => return answer(stream, "", Err(errno)),
        }
    }
}

fn answer(stream: &UnixStream, lines: &str, outcome: std::result::Result<(), Errno>) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let end = match outcome {
        Ok(()) => "errno=0\n\n".to_owned(),
        Err(errno) => format!("errno={errno}\n\n"),
    };
    write(stream, lines.as_bytes(), deadline)?;
    write(stream, end.as_bytes(), deadline)
}

/// What is left until `deadline`; an error when nothing is. Who trickles bytes gains no time by it.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn write(mut stream: &UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lines of a stream, in memory that is erased.
struct Lines<'a> {
    stream: &'a UnixStream,
    bytes: Zeroizing<Vec<u8>>,
    /// What was read and not handed out yet.
    waiting: std::ops::Range<usize>,
}

impl<'a> Lines<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self { stream, bytes: Zeroizing::new(vec![0; CHUNK]), waiting: 0..0 }
    }

    /// The next line without its line feed, or `None` at the end of the stream, where a line without its end counts for nothing. One
    /// that is too long comes cut off, yet longer than the longest.
    fn next(&mut self, deadline: Instant) -> io::Result<Option<&[u8]>> {
        /// What is kept of a line that is too long.
        const CUT: usize = LONGEST_LINE + 1;
        let mut searched = 0;
        loop {
            let waiting = self.bytes.get(self.waiting.clone()).unwrap_or_default();
            let unsearched = waiting.get(searched..).unwrap_or_default();
            if let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.waiting.start..self.waiting.start + searched + at;
                self.waiting.start = line.end + 1;
                return Ok(self.bytes.get(line));
            }
            searched = waiting.len();
            if searched > CUT {
                // The rest of the line is joined to its beginning, and passed over with it.
                self.waiting.end = self.waiting.start + CUT;
                searched = CUT;
            }
            if self.waiting.start > 0 {
                self.bytes.copy_within(self.waiting.clone(), 0);
                self.waiting = 0..searched;
            }
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            let room = self.bytes.get_mut(self.waiting.end..).unwrap_or_default();
            match (&mut &*self.stream).read(room) {
                Ok(0) => return Ok(None),
                Ok(read) => self.waiting.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::Shutdown;
    use std::os::unix::fs::FileTypeExt;
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Tunnel;
    use crate::uapi::{edit, edit::tests::tunnel, show};

    /// A device that is only a configuration.
    struct Paper {
        tunnel: Mutex<Tunnel>,
        abandoned: Mutex<mpsc::Sender<()>>,
    }

    impl Device for Paper {
        fn get(&self) -> Zeroizing<String> {
            let tunnel = self.tunnel.lock().unwrap();
            show(&tunnel, tunnel.transport.listen.port(), std::iter::empty())
        }

        fn set(&self, set: Set) -> std::result::Result<(), Errno> {
            let mut tunnel = self.tunnel.lock().unwrap();
            *tunnel = edit(&tunnel, set)?;
            if tunnel.transport.listen.port() == 666 { Err(Errno::from_number(libc::EADDRINUSE)) } else { Ok(()) }
        }

        fn abandoned(&self) {
            self.abandoned.lock().unwrap().send(()).unwrap();
        }
    }

    struct House {
        directory: tempfile::TempDir,
        abandoned: mpsc::Receiver<()>,
        server: Option<Server>,
    }

    fn start(directory: &Path) -> Result<(Server, mpsc::Receiver<()>)> {
        let (sender, abandoned) = mpsc::channel();
        let paper = Paper { tunnel: Mutex::new(tunnel()), abandoned: Mutex::new(sender) };
        Ok((Server::start(&directory.join("wireguard"), "wg0", paper)?, abandoned))
    }

    fn house() -> House {
        let directory = tempfile::tempdir().unwrap();
        let (server, abandoned) = start(directory.path()).unwrap();
        House { directory, abandoned, server: Some(server) }
    }

    impl House {
        fn path(&self) -> PathBuf {
            self.directory.path().join("wireguard/wg0.sock")
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(self.path()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }
    }

    /// The next answer.
    fn read(stream: &mut impl BufRead) -> String {
        let mut text = String::new();
        while !text.ends_with("\n\n") {
            assert!(stream.read_line(&mut text).unwrap() > 0, "closed after {text:?}");
        }
        text
    }

    fn ask(stream: &UnixStream, request: &str) -> String {
        (&mut &*stream).write_all(request.as_bytes()).unwrap();
        read(&mut BufReader::new(stream))
    }

    #[test]
    fn a_connection_carries_many_requests() {
        let house = house();
        let stream = house.connect();
        assert_eq!(ask(&stream, "get=1\n\n"), "errno=0\n\n");
        assert_eq!(ask(&stream, "set=1\nlisten_port=51820\nfwmark=7\n\n"), "errno=0\n\n");
        assert_eq!(ask(&stream, "get=1\n\n"), "listen_port=51820\nfwmark=7\nerrno=0\n\n");
        assert_eq!(ask(&stream, "set=1\nlisten_port=x\n\n"), "errno=-22\n\n");
        assert_eq!(ask(&stream, "set=1\nlisten_port=666\n\n"), "errno=-98\n\n");
        assert_eq!(ask(&house.connect(), "get=1\n\n"), "listen_port=666\nfwmark=7\nerrno=0\n\n");
        // In one piece, too.
        (&mut &stream).write_all(b"set=1\nfwmark=8\nlisten_port=1\n\nget=1\n\nset=2\n\n").unwrap();
        let mut reader = BufReader::new(&stream);
        assert_eq!(read(&mut reader), "errno=0\n\n");
        assert_eq!(read(&mut reader), "listen_port=1\nfwmark=8\nerrno=0\n\n");
        assert_eq!(read(&mut reader), "errno=-71\n\n");
        assert_eq!(reader.read_line(&mut String::new()).unwrap(), 0);
    }

    #[test]
    fn nobody_else_may_connect_and_nothing_stays() {
        let mut house = house();
        let metadata = fs::symlink_metadata(house.path()).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(house.directory.path().join("wireguard")).unwrap().count(), 1);
        house.server = None;
        assert_eq!(fs::read_dir(house.directory.path().join("wireguard")).unwrap().count(), 0);
        assert!(house.abandoned.try_recv().is_err());
    }

    #[test]
    fn a_leftover_is_replaced_and_a_neighbour_is_not() {
        let house = house();
        let Err(refused) = start(house.directory.path()) else { panic!("took the socket of another") };
        assert!(refused.sentence().contains("another daemon answers"), "{refused}");
        assert_eq!(ask(&house.connect(), "get=1\n\n"), "errno=0\n\n");

        let other = tempfile::tempdir().unwrap();
        fs::create_dir(other.path().join("wireguard")).unwrap();
        drop(UnixListener::bind(other.path().join("wireguard/wg0.sock")).unwrap());
        start(other.path()).unwrap();
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("wireguard")).unwrap();
        fs::set_permissions(top.path().join("wireguard"), Permissions::from_mode(0o777)).unwrap();
        let Err(refused) = start(top.path()) else { panic!("made a socket there") };
        assert!(refused.sentence().contains("chmod 755"), "{refused}");
    }

    #[test]
    fn a_socket_that_is_removed_or_replaced_is_told() {
        let mut first = house();
        fs::remove_file(first.path()).unwrap();
        first.abandoned.recv_timeout(Duration::from_secs(20)).unwrap();
        // What took its name is not ours to remove.
        fs::write(first.path(), "").unwrap();
        first.server = None;
        assert!(first.path().exists());

        let second = house();
        let new = second.path().with_extension("other");
        fs::write(&new, "").unwrap();
        fs::rename(&new, second.path()).unwrap();
        second.abandoned.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn half_a_request_changes_nothing() {
        let house = house();
        let stream = house.connect();
        (&mut &stream).write_all(b"set=1\nlisten_port=7\nfwmark=9").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&mut BufReader::new(&stream)), "errno=-71\n\n");
        assert_eq!(ask(&house.connect(), "get=1\n\n"), "errno=0\n\n");
    }

    #[test]
    fn a_client_that_says_nothing_or_too_much_harms_nobody() {
        let house = house();
        let _silent: Vec<_> = (0..8).map(|_| house.connect()).collect();
        let mut greedy = house.connect();
        greedy.write_all(b"set=1\n").unwrap();
        let writer = thread::spawn(move || {
            // A line without an end. The server hangs up when its time is over.
            while greedy.write_all(&[b'x'; 65536]).is_ok() {}
        });
        let stream = house.connect();
        assert_eq!(ask(&stream, &format!("set=1\n{}\nfwmark=1\n\n", "x".repeat(200_000))), "errno=-5\n\n");
        assert_eq!(ask(&stream, "get=1\n\n"), "errno=0\n\n");
        // One that does not take its answers.
        let deaf = house.connect();
        deaf.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        while (&mut &deaf).write_all(b"get=1\n\n").is_ok() {}
        assert_eq!(ask(&house.connect(), "get=1\n\n"), "errno=0\n\n");
        writer.join().unwrap();
    }

    #[test]
    fn connections_have_a_most() {
        let house = house();
        let held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| house.connect()).collect();
        for stream in &held {
            assert_eq!(ask(stream, "get=1\n\n"), "errno=0\n\n");
        }
        let mut one_more = house.connect();
        let mut text = String::new();
        // Closed with or without what was written being read.
        let _ = one_more.write_all(b"get=1\n\n");
        assert!(one_more.read_to_string(&mut text).is_err() || text.is_empty());
        drop(held);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut stream = house.connect();
            let mut text = String::new();
            let _ = stream.write_all(b"get=1\n\n").and_then(|()| stream.shutdown(Shutdown::Write));
            if stream.read_to_string(&mut text).is_ok() && text == "errno=0\n\n" {
                break;
            }
            assert!(Instant::now() < deadline, "no connection becomes free");
            thread::sleep(Duration::from_millis(5));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn lines_are_the_same_in_whatever_pieces_they_come(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>().prop_filter("no end", |b| *b != b'\n'), 0..40), 0..40),
            long in prop::option::of(LONGEST_LINE..3 * CHUNK),
            sizes in prop::collection::vec(1..5000usize, 1..20),
        ) {
            let mut lines = lines;
            lines.extend(long.map(|length| vec![b'x'; length]));
            lines.push(b"the last".to_vec());
            let bytes: Vec<u8> = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).chain(*b"no line").collect();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let writer = thread::spawn(move || {
                let mut rest = &bytes[..];
                for size in sizes.iter().cycle() {
                    let piece;
                    (piece, rest) = rest.split_at(rest.len().min(*size));
                    theirs.write_all(piece).unwrap();
                    if rest.is_empty() {
                        break;
                    }
                }
            });
            let mut reader = Lines::new(&ours);
            let deadline = Instant::now() + Duration::from_secs(20);
            for line in &lines {
                let found = reader.next(deadline).unwrap().unwrap();
                if line.len() > LONGEST_LINE {
                    prop_assert!(found.len() > LONGEST_LINE);
                } else {
                    prop_assert_eq!(found, &line[..]);
                }
            }
            prop_assert!(reader.next(deadline).unwrap().is_none());
            writer.join().unwrap();
        }
    }
}
