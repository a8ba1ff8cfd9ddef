//! Other people's WireGuard: how each program is started, configured and asked.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use ipnet::IpNet;
use linux::netlink::LinkChange;
use tempfile::TempDir;

use crate::bed::daemon::{Configuration, PORT};
use crate::bed::{Family, Host, wait_for};

/// A program that runs in the foreground and is configured by `wg`.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Whether it says how old the latest handshake is where it should say when it was.
    pub(crate) tells_ages: bool,
}

pub(crate) static WIREGUARD_GO: Program =
    Program { name: "wireguard-go", arguments: &["-f"], environment: &[("LOG_LEVEL", "error")], tells_ages: false };

pub(crate) static BORINGTUN: Program = Program {
    name: "boringtun-cli",
    arguments: &["-f", "--disable-drop-privileges"],
    environment: &[],
    tells_ages: true,
};

pub(crate) static GOTATUN: Program =
    Program { name: "gotatun", arguments: &["-f", "--disable-drop-privileges"], environment: &[], tells_ages: false };

const DEVICE: &str = "wg0";

/// The configuration of one end as `wg setconf` reads it.
pub(crate) fn text(end: &Configuration) -> String {
    let key = |text: &Option<String>| text.as_ref().unwrap().trim().to_owned();
    let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", key(&end.private_key));
    for peer in &end.peers {
        let public = peer.public_key.as_ref().unwrap();
        text += &format!("[Peer]\nPublicKey = {public}\nAllowedIPs = {}\n", peer.allowed_ips.join(", "));
        if peer.preshared_key.is_some() {
            text += &format!("PresharedKey = {}\n", key(&peer.preshared_key));
        }
        if !peer.endpoint.is_empty() {
            text += &format!("Endpoint = {}\n", peer.endpoint);
        }
    }
    text
}

/// What the program says of its only peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: String,
    /// Seconds since 1970; 0 if there was none.
    pub(crate) latest_handshake: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// A program that is up on a host. It is killed when this is dropped.
pub(crate) struct Running<'a> {
    program: &'static Program,
    host: &'a Host,
    directory: TempDir,
    child: Child,
}

impl<'a> Running<'a> {
    /// Starts it, gives it its configuration, and its device addresses and routes.
    pub(crate) fn start(program: &'static Program, host: &'a Host, text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let child = spawn(program, host, &directory);
        let running = Self { program, host, directory, child };
        running.set_up(text);
        running
    }

    fn set_up(&self, text: &str) {
        wait_for("the program to answer", || self.wg(&["show", DEVICE]).status.success().then_some(()));
        self.configure(text);
        let mut netlink = self.host.netlink();
        let index = netlink.existing_link(DEVICE).unwrap().index;
        let change = LinkChange { mtu: Some(1420), up: Some(true), ..LinkChange::default() };
        netlink.change_link(index, &change).unwrap();
        for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
            netlink.add_address(index, IpNet::new(self.host.inner(family), length).unwrap(), true).unwrap();
            self.host.await_address(self.host.inner(family));
        }
    }

    /// Gives it a configuration in the place of the one it has.
    pub(crate) fn configure(&self, text: &str) {
        let path = self.path("wg.conf");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let output = self.wg(&["setconf", DEVICE, path.to_str().unwrap()]);
        assert!(output.status.success(), "{}: {output:?}", self.program.name);
    }

    /// Makes it forget its peer with all sessions, and learn of it again.
    pub(crate) fn forget_and_learn(&self, text: &str) {
        let key = text.lines().find_map(|line| line.strip_prefix("PublicKey = ")).unwrap();
        let output = self.wg(&["set", DEVICE, "peer", key, "remove"]);
        assert!(output.status.success(), "{}: {output:?}", self.program.name);
        self.configure(text);
    }

    /// Ends it as a crash would, and starts it again.
    pub(crate) fn restart(&mut self, text: &str) {
        self.kill();
        wait_for("the device to go", || self.host.netlink().link(DEVICE).unwrap().is_none().then_some(()));
        self.child = spawn(self.program, self.host, &self.directory);
        self.set_up(text);
    }

    /// What it says of its peer.
    pub(crate) fn peer(&self) -> Peer {
        let output = self.wg(&["show", DEVICE, "dump"]);
        let text = String::from_utf8(output.stdout).unwrap();
        // After the interface: public key, preshared key, endpoint, allowed IPs, latest handshake, received, sent, keepalive.
        let line = text.lines().nth(1).unwrap_or_else(|| panic!("a peer in {text:?}"));
        let fields: Vec<_> = line.split('\t').collect();
        let number = |at: usize| fields[at].parse().unwrap();
        Peer { endpoint: fields[2].into(), latest_handshake: number(4), received: number(5), sent: number(6) }
    }

    fn wg(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.child.id())).arg("wg").args(arguments);
        self.host.namespace.run(|| command.output()).unwrap().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a mount namespace with a /run of its own: there the sockets are by which programs are configured, and a test is to see only its
/// own, also where the system's directory is closed to it.
fn spawn(program: &'static Program, host: &Host, directory: &TempDir) -> Child {
    let log = File::options().create(true).append(true).open(directory.path().join("log")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", r#"mount -t tmpfs none /run && exec "$@""#, "sh", program.name]);
    command.args(program.arguments).arg(DEVICE).envs(program.environment.iter().copied());
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    host.namespace.run(|| command.spawn()).unwrap().unwrap_or_else(|e| panic!("{}: {e}", program.name))
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            let said = self.wg(&["show"]);
            eprintln!("---- {}: {}\n{log}", self.program.name, String::from_utf8_lossy(&said.stdout));
        }
        self.kill();
    }
}
