//! What is asked: an etcd in a directory of its own, and a registry in a thread of its own.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use registry::{
    api::mvccpb::KeyValue,
    server::{Policy, Principal, Store, Write, lies_under, serve},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A program of etcd's.
pub(crate) fn etcdctl(endpoint: &str) -> Command {
    let mut command = Command::new("etcdctl");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("ETCDCTL_API", "3");
    command.args(["--endpoints", endpoint]);
    command
}

/// A process that ends with the test, and all that it started with it.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        Self(command.process_group(0).spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

pub(crate) struct Etcd {
    pub(crate) endpoint: String,
    _process: Process,
    _directory: TempDir,
}

impl Etcd {
    /// Starts one with the shortest least time of leases (2 s by its defaults, 1 s so), and waits until it answers.
    pub(crate) fn start() -> Self {
        for _ in 0..5 {
            if let Some(etcd) = Self::try_start() {
                return etcd;
            }
        }
        panic!("etcd does not come up");
    }

    fn try_start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        // Free a moment ago; another start tries others where one was taken since.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = ports.map(|port| format!("http://{}", port.local_addr().unwrap()));
        let mut process = Process::start(
            Command::new("etcd")
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .current_dir(directory.path())
                .args(["--name", "one", "--data-dir", "data", "--log-level", "error", "--logger", "zap"])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("one={peer}")])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && process.0.try_wait().unwrap().is_none() {
            let health =
                etcdctl(&client).args(["endpoint", "health"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if health.expect("etcdctl is not installed").success() {
                return Some(Self { endpoint: client, _process: process, _directory: directory });
            }
        }
        None
    }

    /// As `guarded` has it: root, and alice, who has the keys under `/alice/`.
    pub(crate) fn enable_auth(&self) {
        for step in [
            "user add root:over",
            "user grant-role root root",
            "role add alice",
            "role grant-permission --prefix alice readwrite /alice/",
            "user add alice:wonder",
            "user grant-role alice alice",
            "auth enable",
        ] {
            let done = etcdctl(&self.endpoint).args(step.split(' ')).output().unwrap();
            assert!(done.status.success(), "etcdctl {step}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

pub(crate) struct Ours {
    pub(crate) endpoint: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Ours {
    pub(crate) fn start(policy: Arc<dyn Policy>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(directory.path().join("registry.redb"), 4 << 20).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            let _stopped = stopped.drop_guard();
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                serve(listener, None, Some(store), policy, |routes| routes, stopping).await.unwrap();
            });
        });
        Self { endpoint, stop, thread: Some(thread), _directory: directory }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Everybody may everything, as in an etcd without authentication.
pub(crate) fn open() -> Arc<dyn Policy> {
    Arc::new(Open)
}

struct Open;

impl Policy for Open {
    fn authenticate(&self, _: &str, _: &str) -> Option<Principal> {
        None
    }

    fn permit(&self, _: &Principal, _: &Write<'_>, _: Option<&KeyValue>) -> Result<(), String> {
        Ok(())
    }

    fn may_read(&self, _: &Principal, _: &[u8], _: &[u8]) -> bool {
        true
    }

    fn still_valid(&self, _: &Principal) -> bool {
        true
    }

    fn anonymous(&self) -> Option<Principal> {
        Some(Principal::root())
    }
}

/// Root, and alice, who has the keys under `/alice/`.
pub(crate) fn guarded() -> Arc<dyn Policy> {
    Arc::new(Guarded)
}

struct Guarded;

impl Policy for Guarded {
    fn authenticate(&self, user: &str, password: &str) -> Option<Principal> {
        [("root", "over"), ("alice", "wonder")].contains(&(user, password)).then(|| Principal(user.into()))
    }

    fn permit(&self, who: &Principal, write: &Write<'_>, _: Option<&KeyValue>) -> Result<(), String> {
        let (Write::Put { key, .. } | Write::Delete { key }) = write;
        if who.0 == "alice" && key.starts_with("/alice/") { Ok(()) } else { Err(String::new()) }
    }

    fn may_read(&self, who: &Principal, key: &[u8], range_end: &[u8]) -> bool {
        who.0 == "alice" && lies_under(b"/alice/", key, range_end)
    }

    fn still_valid(&self, _: &Principal) -> bool {
        true
    }
}
