//! Debian's etcd on a host of the bed, of one member or three, and `etcdctl` beside it. Members end with their value, and with the test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Client, Options};
use serde_json::Value;
use tempfile::TempDir;

use crate::bed::{Family, Host, wait_at_most};

/// How long a cluster may take to have a leader: three members on a machine that is busy otherwise.
const ELECTION: Duration = Duration::from_secs(60);

/// The prefix of a network's keys.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// A cluster.
pub(crate) struct Etcd<'a> {
    pub(crate) host: &'a Host,
    pub(crate) members: Vec<Member>,
    directory: TempDir,
    scheme: &'static str,
    /// What `etcdctl` is told beside endpoints.
    credentials: Vec<String>,
}

/// A process of it.
pub(crate) struct Member {
    number: usize,
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl<'a> Etcd<'a> {
    /// One member that answers.
    pub(crate) fn single(host: &'a Host) -> Self {
        Self::start_all(host, 1, None)
    }

    /// Three members that have a leader.
    pub(crate) fn cluster(host: &'a Host) -> Self {
        Self::start_all(host, 3, None)
    }

    /// One member that speaks TLS, with certificates in PEM: its own, its key, and that of who signed it.
    pub(crate) fn tls(host: &'a Host, certificate: &str, key: &str, authority: &str) -> Self {
        Self::start_all(host, 1, Some([certificate, key, authority]))
    }

    fn start_all(host: &'a Host, count: usize, tls: Option<[&str; 3]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        for (name, text) in ["cert.pem", "key.pem", "ca.pem"].iter().zip(tls.into_iter().flatten()) {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let members = (1..=count).map(|number| Member { number, child: None }).collect();
        let mut etcd = Self { host, members, directory, scheme, credentials: Vec::new() };
        if tls.is_some() {
            etcd.credentials = vec![format!("--cacert={}", etcd.path("ca.pem").display())];
        }
        (0..count).for_each(|index| etcd.start(index));
        etcd.await_answer();
        etcd
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where a member is called.
    pub(crate) fn endpoint(&self, index: usize) -> String {
        format!("{}://{}:{}", self.scheme, self.host.underlay(Family::V4), 2379 + 10 * (index + 1))
    }

    /// Where all are, as options have it.
    pub(crate) fn endpoints(&self) -> String {
        (0..self.members.len()).map(|index| self.endpoint(index)).collect::<Vec<_>>().join(",")
    }

    /// Starts a member with the data that it has.
    pub(crate) fn start(&mut self, index: usize) {
        let count = self.members.len();
        let log = File::options().create(true).append(true).open(self.path(&format!("m{index}.log"))).unwrap();
        let peer = |number: usize| format!("http://127.0.0.1:{}", 2380 + 10 * number);
        let cluster: Vec<String> = (1..=count).map(|number| format!("m{number}={}", peer(number))).collect();
        let number = self.members[index].number;
        let client = self.endpoint(index);
        let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), self.host.namespace.as_raw_fd());
        // It ends with the thread of the test, also when that is killed; so it is no thread inside the namespace that starts it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter", &namespace, "etcd", "--log-level=warn"]);
        command.args(["--heartbeat-interval=50", "--election-timeout=500"]);
        command.arg(format!("--name=m{number}"));
        command.arg(format!("--data-dir={}", self.path(&format!("m{number}")).display()));
        command.args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")]);
        command.args([format!("--listen-peer-urls={}", peer(number))]);
        command.args([format!("--initial-advertise-peer-urls={}", peer(number))]);
        command.arg(format!("--initial-cluster={}", cluster.join(",")));
        if self.scheme == "https" {
            command.arg(format!("--cert-file={}", self.path("cert.pem").display()));
            command.arg(format!("--key-file={}", self.path("key.pem").display()));
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        assert!(self.members[index].child.replace(child).is_none());
    }

    /// kill -9 of all members.
    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Starts those that do not run.
    pub(crate) fn start_missing(&mut self) {
        let missing: Vec<usize> =
            (0..self.members.len()).filter(|index| self.members[*index].child.is_none()).collect();
        missing.into_iter().for_each(|index| self.start(index));
    }

    /// Waits until a read succeeds.
    pub(crate) fn await_answer(&self) {
        wait_at_most(ELECTION, "an answer of etcd", || {
            self.try_ctl(&["--dial-timeout=1s", "--command-timeout=1s", "get", "/"], b"").status.success().then_some(())
        });
    }

    /// Which member leads.
    pub(crate) fn leader(&self) -> usize {
        let leads = |index: &usize| {
            let endpoint = format!("--endpoints={}", self.endpoint(*index));
            let output = self.run(&[&endpoint, "endpoint", "status", "-w", "json"], b"");
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let status = status.get(0)?.get("Status")?;
            (status.get("leader")? == status.get("header")?.get("member_id")?).then_some(*index)
        };
        wait_at_most(ELECTION, "a leader", || (0..self.members.len()).find_map(|index| leads(&index)))
    }

    // ---- etcdctl -------------------------------------------------------------------------------------------------------

    /// From now on `etcdctl` is told this too.
    pub(crate) fn with_credentials(&mut self, argument: &str) {
        self.credentials.push(argument.into());
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        etcdctl(self.host, &self.credentials, arguments, input)
    }

    /// Runs etcdctl against all members.
    pub(crate) fn try_ctl(&self, arguments: &[&str], input: &[u8]) -> Output {
        let endpoints = format!("--endpoints={}", self.endpoints());
        let all: Vec<&str> = [endpoints.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        self.run(&all, input)
    }

    /// The same, which is to succeed; what it prints.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_with(arguments, b"")
    }

    fn ctl_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let output = self.try_ctl(arguments, input);
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes an entry; `etcdctl` takes an empty one from its arguments only.
    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        if value.is_empty() {
            self.ctl(&["put", key, ""]);
        } else {
            self.ctl_with(&["put", key], value);
        }
    }

    /// Writes an entry with a lease of a day, as flannel does.
    pub(crate) fn put_leased(&self, key: &str, value: &[u8]) {
        let granted = self.ctl(&["lease", "grant", "86400"]);
        let lease = granted.split_whitespace().nth(1).unwrap();
        self.ctl_with(&["put", &format!("--lease={lease}"), key], value);
    }

    pub(crate) fn delete(&self, key: &str) {
        assert_eq!(self.ctl(&["del", key]).trim(), "1", "{key}");
    }

    /// All entries under a prefix.
    pub(crate) fn list(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let listing: Value = serde_json::from_str(&self.ctl(&["get", "--prefix", prefix, "-w", "json"])).unwrap();
        let bytes = |entry: &Value, field: &str| match entry.get(field) {
            Some(text) => STANDARD.decode(text.as_str().unwrap()).unwrap(),
            None => Vec::new(),
        };
        let entries = listing.get("kvs").and_then(Value::as_array).into_iter().flatten();
        entries
            .map(|entry| (String::from_utf8_lossy(&bytes(entry, "key")).into_owned(), bytes(entry, "value")))
            .collect()
    }

    /// An entry that is there.
    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        self.list(key).remove(key).unwrap_or_else(|| panic!("{key} is not there"))
    }

    /// The network's leases: keys and values.
    pub(crate) fn leases(&self) -> BTreeMap<String, Vec<u8>> {
        self.list(&format!("{PREFIX}/subnets/"))
    }

    /// Runs `work` with a client of the registry crate's own, on this host.
    pub(crate) fn with_client<T: Send>(&self, work: impl AsyncFnOnce(Client) -> T + Send) -> T {
        let endpoints = (0..self.members.len()).map(|index| self.endpoint(index)).collect();
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let options = Options { endpoints, request_timeout: Duration::from_secs(30), ..Options::default() };
            runtime.block_on(async { work(Client::new(options).unwrap()).await })
        };
        self.host.namespace.run(run).unwrap()
    }
}

impl Drop for Etcd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for index in 0..self.members.len() {
                let log = fs::read_to_string(self.path(&format!("m{index}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                eprintln!("---- etcd {index}: {tail:#?}");
            }
        }
    }
}

/// Runs etcdctl on a host.
pub(crate) fn etcdctl(host: &Host, credentials: &[String], arguments: &[&str], input: &[u8]) -> Output {
    let run = || {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(credentials).args(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("etcdctl");
        // One that takes no input may have ended.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    host.namespace.run(run).unwrap()
}

/// How long something took that is waited for.
pub(crate) fn time_until(patience: Duration, what: &str, condition: impl FnMut() -> Option<()>) -> Duration {
    let start = Instant::now();
    wait_at_most(patience, what, condition);
    start.elapsed()
}
