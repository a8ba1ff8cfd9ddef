//! The daemon's side of the control sockets: a thread per socket that admits, and a short one per connection that answers.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    MAX_REQUEST, Request, Response, TIMEOUT,
    client::{control_socket, status_socket},
    decode_request, line,
    rights::{self, Door},
};
use crate::{Failure, Result};

/// Connections at once. With the stacks below, the worst case is 32 × (256 + 64) KiB, about 10 MiB, mostly never touched.
const MAX_CONNECTIONS: usize = 32;

/// Connections at once of any one user but root, so that no user can lock the others out.
const MAX_PER_USER: usize = 8;

/// The stack of a thread that answers one request.
const STACK: usize = 256 * 1024;

/// How long a server that ends waits for answers on their way.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long to wait after the kernel refused to hand out a connection for want of memory or file descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Both sockets of a daemon, made but not answering: clients that come already wait. Dropping removes them.
pub struct Sockets {
    open: Vec<Listening>,
    owner: u32,
}

/// Both sockets of a daemon, answering until dropped. Dropping waits for answers on their way and removes the sockets.
pub struct Server {
    shared: Arc<Shared>,
    doors: Vec<(Handle, thread::JoinHandle<()>)>,
}

struct Listening {
    listener: UnixListener,
    door: Door,
    handle: Handle,
}

/// What remains in our hand of a socket that a thread listens on. Dropping ends the listening and removes the socket.
struct Handle {
    path: PathBuf,
    // The same socket: a listener itself cannot be shut down in the standard library.
    stream: UnixStream,
}

struct Shared {
    answer: Box<dyn Fn(Request) -> Response + Send + Sync>,
    owner: u32,
    ending: AtomicBool,
    visitors: Mutex<Visitors>,
    left: Condvar,
}

#[derive(Default)]
struct Visitors {
    count: usize,
    by_user: HashMap<u32, usize>,
}

impl Sockets {
    /// Makes the sockets. It takes no thread, and it may need rights that a daemon gives up afterwards (to the group of
    /// the control socket), which is why it is a step of its own.
    ///
    /// The caller holds the [`Claim`](super::Claim) of `device`, so sockets that are there already are leftovers.
    ///
    /// # Errors
    /// A socket could not be made; then neither is left behind.
    pub fn bind(runtime_dir: &Path, device: &str) -> Result<Self> {
        let mut sockets = Self { open: Vec::new(), owner: 0 };
        for (door, path) in
            [(Door::Control, control_socket(runtime_dir, device)), (Door::Status, status_socket(runtime_dir, device))]
        {
            let (listening, owner) = listen(&path, door).map_err(|error| {
                let remedy = match error.kind() {
                    io::ErrorKind::InvalidInput => "its path is too long for a socket: choose a shorter --runtime-dir",
                    _ => "run as root, or choose another directory with --runtime-dir",
                };
                Failure::failed(format!("cannot make the socket {}: {error}", path.display())).with_remedy(remedy)
            })?;
            sockets.open.push(listening);
            sockets.owner = owner;
        }
        Ok(sockets)
    }

    /// Answers requests with `answer`, which is called from several threads at once and should take no longer than a
    /// client waits ([`TIMEOUT`]).
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn serve(self, answer: impl Fn(Request) -> Response + Send + Sync + 'static) -> Result<Server> {
        let shared = Shared {
            answer: Box::new(answer),
            owner: self.owner,
            ending: AtomicBool::new(false),
            visitors: Mutex::default(),
            left: Condvar::new(),
        };
        let mut server = Server { shared: Arc::new(shared), doors: Vec::new() };
        for Listening { listener, door, handle } in self.open {
            let name = match door {
                Door::Control => "api",
                Door::Status => "api-status",
            };
            let shared = Arc::clone(&server.shared);
            let thread = thread::Builder::new()
                .name(name.into())
                .stack_size(STACK)
                .spawn(move || admit(&listener, door, &shared))
                .map_err(|error| Failure::failed(format!("cannot start the thread \"{name}\": {error}")))?;
            server.doors.push((handle, thread));
        }
        Ok(server)
    }
}

impl Server {
    /// Makes the sockets and answers on them at once: [`Sockets::bind`] and [`Sockets::serve`].
    ///
    /// # Errors
    /// As theirs.
    pub fn bind(
        runtime_dir: &Path,
        device: &str,
        answer: impl Fn(Request) -> Response + Send + Sync + 'static,
    ) -> Result<Self> {
        Sockets::bind(runtime_dir, device)?.serve(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.left.notify_all();
        for (handle, thread) in self.doors.drain(..) {
            drop(handle);
            let _ = thread.join();
        }
        let visitors = self.shared.visitors();
        let _ = self.shared.left.wait_timeout_while(visitors, LAST_WORDS, |visitors| visitors.count > 0);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Wakes the thread: accept(2) fails on a socket that was shut down (unix_accept in net/unix/af_unix.c).
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a socket that never has a wider mode than it should, in place of a leftover: it is made under another name, then
/// renamed. The second value is the user that it belongs to.
fn listen(path: &Path, door: Door) -> io::Result<(Listening, u32)> {
    let new = path.with_extension("sock.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    let stream = UnixStream::from(OwnedFd::from(listener.try_clone()?));
    // Removes the socket under its first name, should a step fail.
    let mut handle = Handle { path: new, stream };
    let mode = match door {
        Door::Control => 0o660,
        Door::Status => 0o666,
    };
    if door == Door::Control
        && let Some(group) = rights::group_id()
        // A daemon that was started with this group needs no right to give it away.
        && fs::symlink_metadata(&handle.path)?.gid() != group
    {
        chown(&handle.path, None, Some(group))?;
    }
    fs::set_permissions(&handle.path, Permissions::from_mode(mode))?;
    let owner = fs::symlink_metadata(&handle.path)?.uid();
    fs::rename(&handle.path, path)?;
    handle.path = path.into();
    Ok((Listening { listener, door, handle }, owner))
}

/// Takes connections until the server ends.
fn admit(listener: &UnixListener, door: Door, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.ending.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = seat(stream, door, shared) {
                    tracing::debug!("cannot serve a connection to the control socket: {error}");
                }
            }
            Err(error) => {
                tracing::debug!("cannot take a connection to the control socket: {error}");
                let visitors = shared.visitors();
                let _ = shared.left.wait_timeout_while(visitors, SHORTAGE, |_| !shared.ending.load(Ordering::Acquire));
            }
        }
    }
}

/// Gives a connection its thread, or refuses it.
fn seat(stream: UnixStream, door: Door, shared: &Arc<Shared>) -> io::Result<()> {
    let user = rights::user(&stream)?;
    if door == Door::Control && !rights::may_control(user, shared.owner) {
        return refuse(&stream, "permission denied: run as root, or as a member of group adit");
    }
    let Some(seat) = Seat::take(shared, user) else {
        return refuse(&stream, "too many connections at once: try again in a moment");
    };
    thread::Builder::new().name("api-answer".into()).stack_size(STACK).spawn(move || {
        if let Err(error) = converse(&stream, door, &seat.shared) {
            tracing::debug!("a connection to the control socket ended early: {error}");
        }
    })?;
    Ok(())
}

/// Says why not, without waiting: one line always fits into the buffer of a new connection.
fn refuse(stream: &UnixStream, sentence: &str) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    send(stream, &Response::Error { sentence: sentence.into() })
}

/// One request, one answer.
fn converse(stream: &UnixStream, door: Door, shared: &Shared) -> io::Result<()> {
    let request = line::read(stream, MAX_REQUEST, Instant::now() + TIMEOUT)?;
    let response = match decode_request(&request) {
        Err(error) => Response::Error { sentence: error.to_string() },
        Ok(request) if request.changes() && door == Door::Status => {
            Response::Error { sentence: "this socket only answers status".into() }
        }
        Ok(request) => (shared.answer)(request),
    };
    send(stream, &response)
}

fn send(stream: &UnixStream, response: &Response) -> io::Result<()> {
    let mut answer = serde_json::to_vec(response)?;
    answer.push(b'\n');
    line::write(stream, &answer, Instant::now() + TIMEOUT)
}

impl Shared {
    fn visitors(&self) -> MutexGuard<'_, Visitors> {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among [`MAX_CONNECTIONS`], free again when dropped.
struct Seat {
    shared: Arc<Shared>,
    user: u32,
}

impl Seat {
    fn take(shared: &Arc<Shared>, user: u32) -> Option<Self> {
        let mut visitors = shared.visitors();
        if visitors.count >= MAX_CONNECTIONS {
            return None;
        }
        let own = visitors.by_user.entry(user).or_default();
        if user != 0 && *own >= MAX_PER_USER {
            return None;
        }
        *own += 1;
        visitors.count += 1;
        Some(Self { shared: Arc::clone(shared), user })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut visitors = self.shared.visitors();
        visitors.count = visitors.count.saturating_sub(1);
        if let Some(own) = visitors.by_user.get_mut(&self.user) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                visitors.by_user.remove(&self.user);
            }
        }
        drop(visitors);
        self.shared.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        sync::mpsc,
    };

    use super::*;
    use crate::api::{self, CallError, Claim, status::tests::sample};

    struct House {
        directory: tempfile::TempDir,
        stops: mpsc::Receiver<()>,
        server: Option<Server>,
        claim: Option<Claim>,
    }

    fn house() -> House {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let claim = Claim::take(directory.path(), "adit0").unwrap();
        let (stop, stops) = mpsc::channel();
        let server = Server::bind(directory.path(), "adit0", move |request| match request {
            Request::Status => Response::Status(Box::new(sample())),
            Request::Stop => {
                stop.send(()).unwrap();
                Response::Done
            }
            Request::TraceBegin(_) | Request::TraceCollect(_) => {
                Response::Error { sentence: "another trace is under way".into() }
            }
            Request::Reload | Request::Leave | Request::Refresh | Request::Examine | Request::Bench(_) => {
                Response::Changed { sentence: "1 peer added".into() }
            }
        })
        .unwrap();
        House { directory, stops, server: Some(server), claim: Some(claim) }
    }

    impl House {
        fn control(&self) -> PathBuf {
            control_socket(self.directory.path(), "adit0")
        }

        fn ask(&self, bytes: &[u8]) -> String {
            let mut stream = UnixStream::connect(self.control()).unwrap();
            // The daemon may answer and close before it has read everything.
            let _ = stream.write_all(bytes);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        }
    }

    #[test]
    fn status_and_stop() {
        let house = house();
        assert_eq!(api::status(house.directory.path(), "adit0").unwrap(), sample());
        assert!(matches!(api::call(&house.control(), Request::Status).unwrap(), Response::Status(_)));
        assert_eq!(api::call(&house.control(), Request::Stop).unwrap(), Response::Done);
        house.stops.recv().unwrap();
        let Response::Error { sentence } =
            api::call(&status_socket(house.directory.path(), "adit0"), Request::Stop).unwrap()
        else {
            panic!("the status socket stopped the daemon")
        };
        assert!(sentence.contains("only answers status"));
        assert!(house.stops.try_recv().is_err());
        assert_eq!(api::daemons(house.directory.path()).unwrap(), ["adit0"]);
    }

    #[test]
    fn modes_are_exact_and_nothing_stays_behind() {
        let mut house = house();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&house.control()), 0o660);
        assert_eq!(mode(&status_socket(house.directory.path(), "adit0")), 0o666);
        drop(house.server.take());
        assert!(matches!(api::call(&house.control(), Request::Status), Err(CallError::Absent(_))));
        drop(house.claim.take());
        assert_eq!(fs::read_dir(house.directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_socket_is_told_from_none_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = control_socket(directory.path(), "adit0");
        assert!(matches!(api::call(&path, Request::Status), Err(CallError::Absent(_))));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(api::call(&path, Request::Status), Err(CallError::Dead(_))));
        let server = Server::bind(directory.path(), "adit0", |_| Response::Done).unwrap();
        assert_eq!(api::call(&path, Request::Stop).unwrap(), Response::Done);
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn nonsense_is_answered_with_a_sentence() {
        let house = house();
        for nonsense in [&b"\n"[..], b"hello\n", b"{\"verb\":\"explode\"}\n", b"\xff\xfe\n", b"{\"verb\":\"status\"\n"]
        {
            let answer = house.ask(nonsense);
            assert!(answer.starts_with(r#"{"answer":"error","body":{"sentence":"#), "{answer}");
        }
        let answer = house.ask(&[b'x'; MAX_REQUEST + 1]);
        assert!(answer.contains("longer than"), "{answer}");
        assert!(house.ask(b"{\"verb\":\"status\"}\n{\"verb\":\"stop\"}\n").contains(r#""answer":"status""#));
        assert!(house.stops.try_recv().is_err());
    }

    #[test]
    fn connections_beyond_the_limit_are_refused_and_seats_come_back() {
        let house = house();
        let full = |streams: &[UnixStream]| house.server.as_ref().unwrap().shared.visitors().count == streams.len();
        let deadline = Instant::now() + Duration::from_secs(4);
        let mut idle = Vec::new();
        while idle.len() < MAX_PER_USER {
            idle.push(UnixStream::connect(house.control()).unwrap());
        }
        while !full(&idle) && Instant::now() < deadline {
            thread::yield_now();
        }
        assert!(full(&idle));
        // Root has no limit of its own but that of all.
        let user = rights::user(&idle[0]).unwrap();
        if user == 0 {
            while idle.len() < MAX_CONNECTIONS {
                idle.push(UnixStream::connect(house.control()).unwrap());
            }
            while !full(&idle) && Instant::now() < deadline {
                thread::yield_now();
            }
        }
        assert!(house.ask(b"{\"verb\":\"status\"}\n").contains("too many connections"));
        drop(idle);
        while !full(&[]) && Instant::now() < deadline {
            thread::yield_now();
        }
        assert!(house.ask(b"{\"verb\":\"status\"}\n").contains(r#""answer":"status""#));
    }

    #[test]
    fn no_user_can_take_all_seats() {
        let house = house();
        let shared = &house.server.as_ref().unwrap().shared;
        let mut seats = Vec::new();
        for user in [1001, 1002, 1003] {
            seats.extend((0..MAX_PER_USER).map(|_| Seat::take(shared, user).unwrap()));
            assert!(Seat::take(shared, user).is_none());
        }
        assert!(Seat::take(shared, 0).is_some());
        drop(seats);
        assert!(shared.visitors().by_user.is_empty());
    }

    #[test]
    fn clients_wait_until_a_daemon_answers() {
        let directory = tempfile::tempdir().unwrap();
        let sockets = Sockets::bind(directory.path(), "adit0").unwrap();
        let path = control_socket(directory.path(), "adit0");
        let client = thread::spawn({
            let path = path.clone();
            move || api::call(&path, Request::Stop)
        });
        let server = sockets.serve(|_| Response::Done).unwrap();
        assert_eq!(client.join().unwrap().unwrap(), Response::Done);
        drop(server);
        drop(Sockets::bind(directory.path(), "adit0").unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn ending_does_not_wait_for_an_idle_client() {
        let mut house = house();
        let idle = UnixStream::connect(house.control()).unwrap();
        let began = Instant::now();
        drop(house.server.take());
        assert!(began.elapsed() < Duration::from_secs(4));
        drop(idle);
    }

    #[test]
    fn a_daemon_that_talks_nonsense_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = control_socket(directory.path(), "adit0");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = [
            &b""[..],
            b"\n",
            b"hello\n",
            b"{\"answer\":\"maybe\"}\n",
            b"{\"answer\":\"status\",\"body\":{}}\n",
            b"\xff\n",
        ];
        let daemon = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(answer).unwrap();
            }
        });
        for answer in answers {
            let error = api::call(&path, Request::Status).unwrap_err();
            assert!(matches!(error, CallError::Broken(..)), "{answer:?}: {error}");
        }
        daemon.join().unwrap();
    }

    #[test]
    fn a_path_too_long_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let Err(failure) = Server::bind(&long, "adit0", |_| Response::Done) else { panic!("bound") };
        assert!(failure.sentence().contains("shorter --runtime-dir"), "{failure}");
    }
}
