//! Debian's etcd for tests: one member or three, on loopback, with their data in a directory that goes with them.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]

pub mod node;
pub mod proxy;
pub mod state;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use registry::client::{Client, Options};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Certificates for a member, in PEM.
pub struct Tls {
    pub certificate: String,
    pub key: String,
    /// Whom clients must be signed by.
    pub client_ca: Option<String>,
}

/// A cluster, whose members end with it.
pub struct Etcd {
    pub members: Vec<Member>,
    dir: TempDir,
}

pub struct Member {
    pub client: SocketAddr,
    peer: SocketAddr,
    name: String,
    data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    scheme: &'static str,
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    /// One member that answers.
    pub async fn single() -> Self {
        Self::start(1, None, &[]).await
    }

    /// Three members that have a leader.
    pub async fn cluster() -> Self {
        Self::start(3, None, &["--heartbeat-interval=50", "--election-timeout=500"]).await
    }

    /// One member that speaks TLS.
    pub async fn tls(tls: Tls) -> Self {
        Self::start(1, Some(tls), &[]).await
    }

    pub async fn start(count: usize, tls: Option<Tls>, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        if let Some(tls) = &tls {
            args.push(file(dir.path(), "cert", &tls.certificate));
            args.push(file(dir.path(), "key", &tls.key));
            if let Some(ca) = &tls.client_ca {
                args.extend(["--client-cert-auth".to_owned(), file(dir.path(), "trusted-ca", ca)]);
            }
        }
        let mut members: Vec<Member> = (0..count)
            .map(|index| Member {
                client: free_address(),
                peer: free_address(),
                name: format!("m{index}"),
                data: dir.path().join(format!("m{index}")),
                log: dir.path().join(format!("m{index}.log")),
                args: Vec::new(),
                scheme,
                child: None,
            })
            .collect();
        let cluster: Vec<String> =
            members.iter().map(|member| format!("{}=http://{}", member.name, member.peer)).collect();
        args.push(format!("--initial-cluster={}", cluster.join(",")));
        for member in &mut members {
            member.args.clone_from(&args);
            member.start();
        }
        let etcd = Self { members, dir };
        etcd.ready().await;
        etcd
    }

    pub fn endpoint(&self, index: usize) -> String {
        self.members[index].endpoint()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// A client of all members. With TLS this is not enough.
    pub fn client(&self) -> Client {
        client(&self.endpoints())
    }

    /// Waits until all members that run answer `/health` with a leader; with TLS until they listen.
    pub async fn ready(&self) {
        for member in self.members.iter().filter(|member| member.child.is_some()) {
            member.ready().await;
        }
    }

    /// Which member is the leader.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (index, member) in self.members.iter().enumerate().filter(|(_, member)| member.child.is_some()) {
                if let Ok(status) = client(&[member.endpoint()]).status().await
                    && status.leader != 0
                    && status.header.is_some_and(|header| header.member_id == status.leader)
                {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "no leader: {}", self.logs());
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn logs(&self) -> String {
        self.members.iter().map(Member::tail).collect()
    }

    /// Runs etcdctl on the first member.
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint(0)))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Member {
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.client)
    }

    /// Starts it, with the data that it has.
    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let (client, peer) = (self.endpoint(), format!("http://{}", self.peer));
        // It ends with the thread of the test, also when that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--log-level=warn"])
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data.display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub async fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_ready = if self.scheme == "http" {
                client(&[self.endpoint()]).get("/").await.is_ok()
            } else {
                std::net::TcpStream::connect(self.client).is_ok()
            };
            if is_ready {
                return;
            }
            assert!(Instant::now() < deadline, "{} does not answer: {}", self.name, self.tail());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it as a service manager does.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let _ = self.child.take().unwrap().wait();
    }

    /// Lets it answer nothing, with its connections open.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Keeps a copy of its data, while it does not run.
    pub fn save(&self, to: &Path) {
        assert!(self.child.is_none());
        copy(&self.data, to);
    }

    /// Goes back to a copy of its data, while it does not run.
    pub fn restore(&self, from: &Path) {
        assert!(self.child.is_none());
        fs::remove_dir_all(&self.data).unwrap();
        copy(from, &self.data);
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        format!("\n{}: {}", self.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn file(dir: &Path, kind: &str, text: &str) -> String {
    let path = dir.join(format!("{kind}.pem"));
    fs::write(&path, text).unwrap();
    format!("--{kind}-file={}", path.display())
}

/// An address that nobody listens on, and that no other test of this process was given.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address;
        }
    }
}

pub fn options(endpoints: &[String]) -> Options {
    Options { endpoints: endpoints.to_vec(), ..Options::default() }
}

pub fn client(endpoints: &[String]) -> Client {
    Client::new(options(endpoints)).unwrap()
}
