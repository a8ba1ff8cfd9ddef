//! Daemons: their configuration, their start, their end.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

use adit::api::{self, Status};
use adit::key::{PrivateKey, PublicKey};
use linux::netns::NetNs;
use tempfile::TempDir;

use super::guard::Guard;
use super::{Family, Host, PATIENCE, wait_for};

/// The program under test.
pub(crate) const ADIT: &str = env!("CARGO_BIN_EXE_adit");

/// The port of all daemons, if a test does not say otherwise.
pub(crate) const PORT: u16 = 7777;

/// A configuration file, as far as tests vary it.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// What others call this end.
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) addresses: Vec<String>,
    /// `None` for `auto`.
    pub(crate) mtu: Option<u32>,
    /// Further lines under `[device]`.
    pub(crate) device_lines: String,
    pub(crate) listen: String,
    /// Further lines under `[transport]`.
    pub(crate) transport: String,
    /// The text of our private key, which is written to a file beside the configuration.
    pub(crate) private_key: Option<String>,
    /// That of `wireguard` peers, if it is another one.
    pub(crate) wireguard_private_key: Option<String>,
    pub(crate) peers: Vec<Peer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// Empty for none.
    pub(crate) endpoint: String,
    pub(crate) allowed_ips: Vec<String>,
    /// `plain`, `sealed` or `wireguard`.
    pub(crate) transport: &'static str,
    pub(crate) public_key: Option<PublicKey>,
    /// The text of a preshared key, which is written to a file beside the configuration.
    pub(crate) preshared_key: Option<String>,
    /// Such as `25s`.
    pub(crate) keepalive: Option<&'static str>,
    /// The only link-layer addresses that it may have; empty: any.
    pub(crate) macs: Vec<String>,
}

impl Peer {
    /// A plain peer.
    pub(crate) fn plain(name: String, endpoint: String, allowed_ips: Vec<String>) -> Self {
        Self {
            name,
            endpoint,
            allowed_ips,
            transport: "plain",
            public_key: None,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
        }
    }

    fn preshared_key_file(&self, device: &str) -> String {
        format!("{device}.{}.psk", self.name)
    }
}

impl Configuration {
    /// A tunnel from `host` to the hosts numbered `peers`, over an underlay of one family: the addresses of the bed.
    pub(crate) fn new(host: &Host, peers: &[usize], outer: Family) -> Self {
        let endpoint = |number: usize| match outer {
            Family::V4 => format!("192.0.2.{number}:{PORT}"),
            Family::V6 => format!("[2001:db8::{number}]:{PORT}"),
        };
        let number = host.number;
        let peer = |&number: &usize| {
            let behind = vec![
                format!("10.77.0.{number}/32"),
                format!("10.{}.0.0/16", 40 + number),
                format!("fd77::{number}/128"),
                format!("fd40:{number}::/32"),
            ];
            Peer::plain(format!("host{number}"), endpoint(number), behind)
        };
        Self {
            name: format!("host{number}"),
            device: "adit0".into(),
            addresses: vec![format!("10.77.0.{number}/24"), format!("fd77::{number}/64")],
            mtu: None,
            device_lines: String::new(),
            listen: endpoint(number),
            transport: String::new(),
            private_key: None,
            wireguard_private_key: None,
            peers: peers.iter().map(peer).collect(),
        }
    }

    /// The same with a line more under `[transport]`.
    pub(crate) fn with(mut self, line: &str) -> Self {
        writeln!(self.transport, "{line}").unwrap();
        self
    }

    /// The two ends of a tunnel between two hosts, by this transport, with keys that fit unless it is plain.
    pub(crate) fn pair(hosts: [&Host; 2], outer: Family, transport: &'static str) -> [Self; 2] {
        let [one, two] = hosts;
        let pair = [Self::new(one, &[two.number], outer), Self::new(two, &[one.number], outer)];
        if transport == "plain" { pair } else { Self::with_keys(pair, transport) }
    }

    /// The same ends with a new key each, of which those among them that are peers know each other: by this transport. Other peers stay
    /// as they are.
    pub(crate) fn with_keys<const N: usize>(mut ends: [Self; N], transport: &'static str) -> [Self; N] {
        let public = ends.each_mut().map(|end| (end.name.clone(), end.make_key()));
        for peer in ends.iter_mut().flat_map(|end| &mut end.peers) {
            if let Some((_, key)) = public.iter().find(|(name, _)| *name == peer.name) {
                (peer.transport, peer.public_key) = (transport, Some(*key));
            }
        }
        ends
    }

    /// Gives this end a new private key; answers the public one.
    pub(crate) fn make_key(&mut self) -> PublicKey {
        let key = PrivateKey::generate().unwrap();
        let mut text = Vec::new();
        key.write(&mut text).unwrap();
        self.private_key = Some(String::from_utf8(text).unwrap());
        key.public_key()
    }

    /// The files that the text names, with their contents.
    fn secrets(&self) -> Vec<(String, &str)> {
        let own = self.private_key.as_deref().map(|key| (self.private_key_file(), key));
        let shared = self
            .peers
            .iter()
            .filter_map(|peer| peer.preshared_key.as_deref().map(|key| (peer.preshared_key_file(&self.device), key)));
        let second = self.wireguard_private_key.as_deref().map(|key| (self.wireguard_key_file(), key));
        own.into_iter().chain(second).chain(shared).collect()
    }

    fn wireguard_key_file(&self) -> String {
        format!("{}-wireguard.key", self.device)
    }

    fn private_key_file(&self) -> String {
        format!("{}.key", self.device)
    }

    /// The file's text.
    pub(crate) fn text(&self) -> String {
        let list = |items: &[String]| items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ");
        let mut text = format!("[device]\nname = {:?}\n", self.device);
        if !self.addresses.is_empty() {
            writeln!(text, "addresses = [{}]", list(&self.addresses)).unwrap();
        }
        if let Some(mtu) = self.mtu {
            writeln!(text, "mtu = {mtu}").unwrap();
        }
        if self.private_key.is_some() {
            writeln!(text, "private-key-file = {:?}", self.private_key_file()).unwrap();
        }
        if self.wireguard_private_key.is_some() {
            writeln!(text, "wireguard-private-key-file = {:?}", self.wireguard_key_file()).unwrap();
        }
        text += &self.device_lines;
        writeln!(text, "[transport]\nlisten = {:?}\n{}", self.listen, self.transport).unwrap();
        for peer in &self.peers {
            writeln!(text, "[[peer]]\nname = {:?}\ntransport = {:?}", peer.name, peer.transport).unwrap();
            for (key, items) in [("allowed-ips", &peer.allowed_ips), ("macs", &peer.macs)] {
                if !items.is_empty() {
                    writeln!(text, "{key} = [{}]", list(items)).unwrap();
                }
            }
            let line = |key: &str, value: Option<String>| value.map(|v| format!("{key} = {v:?}\n")).unwrap_or_default();
            text += &line("endpoint", Some(peer.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()));
            text += &line("public-key", peer.public_key.as_ref().map(ToString::to_string));
            text +=
                &line("preshared-key-file", peer.preshared_key.as_ref().map(|_| peer.preshared_key_file(&self.device)));
            text += &line("keepalive", peer.keepalive.map(str::to_owned));
        }
        text
    }
}

/// Where a daemon keeps its things: they survive it, so that another one may take over.
pub(crate) struct Place {
    namespace: NetNs,
    directory: Arc<TempDir>,
    file: String,
    device: String,
    listen: String,
    guard: Arc<Guard>,
}

impl Place {
    /// A place on a host, with a configuration.
    pub(crate) fn new(host: &Host, configuration: &Configuration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Others are to reach the status socket.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        Self::within(host.namespace.clone(), Arc::new(directory), configuration, Arc::clone(&host.guard))
    }

    /// A place of another device on the same host, that shares the directories.
    pub(crate) fn beside(other: &Self, configuration: &Configuration) -> Self {
        Self::within(other.namespace.clone(), Arc::clone(&other.directory), configuration, Arc::clone(&other.guard))
    }

    /// The same directories and configuration on another host.
    pub(crate) fn moved(&self, host: &Host) -> Self {
        let (device, listen, file) = (self.device.clone(), self.listen.clone(), self.file.clone());
        let (directory, guard) = (Arc::clone(&self.directory), Arc::clone(&host.guard));
        Self { namespace: host.namespace.clone(), directory, file, device, listen, guard }
    }

    fn within(namespace: NetNs, directory: Arc<TempDir>, configuration: &Configuration, guard: Arc<Guard>) -> Self {
        let (device, listen) = (configuration.device.clone(), configuration.listen.clone());
        let place = Self { namespace, directory, file: format!("{device}.toml"), device, listen, guard };
        place.configure(configuration);
        place
    }

    /// Writes another configuration, for the next start.
    pub(crate) fn configure(&self, configuration: &Configuration) {
        self.guard.note(configuration);
        for (name, secret) in configuration.secrets() {
            let mut options = File::options();
            let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(self.path(&name)).unwrap();
            file.write_all(secret.as_bytes()).unwrap();
        }
        fs::write(self.path(&self.file), configuration.text()).unwrap();
    }

    /// A path within.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// The program with a verb, in the host's namespace and with this place's directories.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(ADIT);
        command.arg(verb).arg("--runtime-dir").arg(self.runtime()).arg("--state-dir").arg(self.path("state"));
        command.env("ADIT_WIREGUARD_DIR", self.path("wireguard")).stdin(Stdio::null());
        command
    }

    fn up(&self) -> Command {
        let mut command = self.command("up");
        command.arg("--config").arg(self.path(&self.file));
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        self.namespace.run(|| self.command(verb).args(arguments).output()).unwrap().unwrap()
    }

    /// Starts a daemon that is expected to give up at once; answers its exit code and what it said.
    pub(crate) fn fail(&self) -> (Option<i32>, String) {
        let log = self.path("refusal");
        let file = File::create(&log).unwrap();
        let spawn = || self.up().stdout(Stdio::null()).stderr(file).spawn();
        let mut daemon = Daemon { place: self, child: self.namespace.run(spawn).unwrap().unwrap() };
        let status = daemon.await_end();
        (status.code(), fs::read_to_string(log).unwrap())
    }

    /// Starts a daemon and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon<'_> {
        self.start_by(self.up())
    }

    /// The same where host names are those of a file (hosts(5)) of this place, which may change meanwhile.
    pub(crate) fn start_with_hosts(&self, hosts: &str) -> Daemon<'_> {
        let up = self.up();
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            "mount --bind \"$0\" /etc/hosts && exec \"$@\"",
        ]);
        command.arg(self.path(hosts)).arg(up.get_program()).args(up.get_args()).stdin(Stdio::null());
        command.env("ADIT_WIREGUARD_DIR", self.path("wireguard"));
        self.start_by(command)
    }

    /// Starts a device without a configuration, as WireGuard's tools do, and waits until it is ready.
    pub(crate) fn start_bare(&self) -> Daemon<'_> {
        let mut command = self.command("wireguard");
        command.args(["-f", &self.device]);
        self.start_by(command)
    }

    /// What the daemon answers to a request in the language of WireGuard's tools.
    pub(crate) fn ask_as_wg(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.path("wireguard").join(format!("{}.sock", self.device))).unwrap();
        stream.write_all(format!("{request}\n\n").as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
        lines.map(|line| line + "\n").collect()
    }

    /// The same with further variables in its environment.
    pub(crate) fn start_in(&self, environment: &[(&str, String)]) -> Daemon<'_> {
        let mut command = self.up();
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        self.start_by(command)
    }

    fn start_by(&self, mut command: Command) -> Daemon<'_> {
        let log = self.path("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let spawn = || command.stdout(Stdio::piped()).stderr(file).spawn();
        let mut child = self.namespace.run(spawn).unwrap().unwrap();
        let stdout = child.stdout.take().unwrap();
        let daemon = Daemon { place: self, child };
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = ready.send(line);
            }
        });
        match is_ready.recv_timeout(PATIENCE) {
            Ok(line) => assert!(line.contains(" is up: "), "{line}"),
            Err(_) => panic!("the daemon does not become ready:\n{}", daemon.log()),
        }
        daemon
    }

    /// The names of what remains in its runtime and state directory.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let list = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().map(name);
        list(self.runtime()).chain(list(self.path("state"))).collect()
    }
}

/// A daemon that is up. It is killed when this is dropped.
pub(crate) struct Daemon<'a> {
    pub(crate) place: &'a Place,
    child: Child,
}

impl Daemon<'_> {
    /// What `adit status --json` would print.
    pub(crate) fn status(&self) -> Status {
        match api::status(&self.place.runtime(), &self.place.device) {
            Ok(status) => status,
            Err(e) => panic!("{e}\n{}", self.log()),
        }
    }

    /// How many packets it has dropped for a reason.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        assert!(tunnel::Reason::ALL.iter().any(|r| r.name() == reason), "{reason} is a reason");
        self.status().drops.get(reason).copied().unwrap_or(0)
    }

    /// Waits until so many packets were dropped for a reason.
    pub(crate) fn await_drops(&self, reason: &str, count: u64) {
        wait_for(&format!("{count} drops as {reason}"), || (self.drops(reason) >= count).then_some(()));
        assert_eq!(self.drops(reason), count, "{reason}");
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Asks it to read its file again, which is to succeed; answers what changed.
    pub(crate) fn reload(&self) -> String {
        let path = api::control_socket(&self.place.runtime(), &self.place.device);
        match api::call_within(&path, api::Request::Reload, PATIENCE) {
            Ok(api::Response::Changed { sentence }) => sentence,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// Sends it a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of its own in bytes. Pages of the program's file, which all daemons share and the kernel may drop, are as many as the
    /// program is large, which a build without optimisation is.
    pub(crate) fn memory(&self) -> u64 {
        self.resident(&["RssAnon:", "RssShmem:"])
    }

    /// All resident memory in bytes.
    pub(crate) fn all_memory(&self) -> u64 {
        self.resident(&["VmRSS:"])
    }

    fn resident(&self, names: &[&str]) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kilobytes = |name: &&str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        names.iter().map(kilobytes).sum::<u64>() * 1024
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it as a crash would, without a word.
    pub(crate) fn crash(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Asks it by signal to end, and waits until it has.
    pub(crate) fn terminate(mut self) {
        signal(self.pid(), "TERM");
        let status = self.await_end();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Waits until it ends.
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        wait_for("the daemon's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let status = api::status(&self.place.runtime(), &self.place.device);
            let told = status.map_or_else(|e| e.to_string(), |s| format!("{:?}, dropped {:?}", s.peers, s.drops));
            eprintln!("---- the daemon with {}: {told}\n{}", self.place.listen, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by its name.
fn signal(pid: u32, name: &str) {
    // The shell's own `kill`: nothing in the standard library sends a signal other than SIGKILL.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success());
}

/// Whether a path is there.
pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
