//! A wg-quick file on a real host: it carries as it is, and its DNS servers are asked for as long as it is up.
//!
//! The programs that set DNS servers see an /etc and a /run of their own. resolvconf is openresolv's; resolvectl is a script that writes
//! down how it was called, since systemd-resolved does not run without systemd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use bed::daemon::{Configuration, PORT, Place, exists};
use bed::traffic::{End, exchange_tcp};
use bed::{Bed, Family, Host, PATIENCE, wait_for};
use tempfile::TempDir;

/// The host's own DNS server.
const OWN: &str = "nameserver 192.0.2.253\n";

/// The lines of a file that names others.
const DNS: &str = "DNS = 10.77.0.53, fd77::53, example.org\n";

/// Two hosts, the first with a wg-quick file, the second with one of ours.
fn pair() -> (Bed, [Place; 2]) {
    let bed = Bed::new(2);
    let hosts = [bed.host(1), bed.host(2)];
    let [one, mut two] = Configuration::pair(hosts, Family::V4, "wireguard");
    // The first has a port that the kernel chooses, and calls.
    two.peers[0].endpoint = String::new();
    let places = [Place::new(hosts[0], &one), Place::new(hosts[1], &two)];
    let peer = &one.peers[0];
    let text = format!(
        "[Interface]\nPrivateKey = {}Address = {}\n[Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = {}\n",
        one.private_key.as_ref().unwrap(),
        one.addresses.join(", "),
        peer.public_key.unwrap(),
        peer.endpoint,
        peer.allowed_ips.join(", "),
    );
    write(&places[0], &text);
    (bed, places)
}

/// A host with a wg-quick file that has these lines and no peer.
fn alone(lines: &str) -> (Bed, Place) {
    let bed = Bed::new(1);
    let mut configuration = Configuration::new(bed.host(1), &[2], Family::V4);
    let place = Place::new(bed.host(1), &configuration);
    configuration.make_key();
    write(&place, &format!("[Interface]\nPrivateKey = {}{lines}", configuration.private_key.unwrap()));
    (bed, place)
}

/// Puts a wg-quick file in the place of ours: its content tells what it is, not its name.
fn write(place: &Place, text: &str) {
    let path = place.path("adit0.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_wg_quick_file_carries_as_it_is() {
    let (bed, [one, two]) = pair();
    let before = bed.host(1).state();
    let (caller, _called) = (one.start(), two.start());
    for family in [Family::V4, Family::V6] {
        let end = |host: usize| End::new(&bed.host(host).namespace, bed.host(host).inner(family));
        exchange_tcp(end(1), end(2), 100_001, 100_003);
    }
    let status = caller.status();
    assert_eq!(status.device.mtu, 1420, "80 less than Ethernet, as wg-quick has it");
    assert!(!matches!(status.transport.listen.port(), 0 | PORT), "{}", status.transport.listen);
    assert_eq!((status.peers[0].transport.as_str(), status.peers[0].session.as_str()), ("wireguard", "up"));
    caller.terminate();
    assert_eq!(bed.host(1).state(), before);
}

#[test]
fn peers_reach_each_other_through_a_host_that_forwards() {
    let bed = Bed::new(3);
    let new = |host: usize, peers: &[usize]| Configuration::new(bed.host(host), peers, Family::V4);
    let mut ends = Configuration::with_keys([new(1, &[2, 3]), new(2, &[1]), new(3, &[1])], "wireguard");
    for (end, other) in [(1, 3), (2, 2)] {
        // All there is lies behind the host in the middle.
        ends[end].peers[0].allowed_ips.push(format!("{}/32", bed.host(other).inner(Family::V4)));
    }
    let mut text = format!("[Interface]\nPrivateKey = {}", ends[0].private_key.as_ref().unwrap());
    text += &format!("Address = {}\nListenPort = {PORT}\n", ends[0].addresses.join(", "));
    for peer in &ends[0].peers {
        text += &format!("[Peer]\nPublicKey = {}\n", peer.public_key.unwrap());
        text += &format!("Endpoint = {}\nAllowedIPs = {}\n", peer.endpoint, peer.allowed_ips.join(", "));
    }
    let places = [1, 2, 3].map(|host| Place::new(bed.host(host), &ends[host - 1]));
    bed.host(1).namespace.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
    let end = |host: usize| End::new(&bed.host(host).namespace, bed.host(host).inner(Family::V4));
    let carries = || exchange_tcp(end(2), end(3), 50_001, 50_003);
    let others = [places[1].start(), places[2].start()];
    // In a file of ours nothing goes from peer to peer.
    let hub = places[0].start();
    assert!(bed.host(2).namespace.run(|| connect(end(3).address)).unwrap().is_err());
    assert!(hub.drops("not_for_us") > 0);
    hub.terminate();
    drop(others);
    write(&places[0], &text);
    let hub = places[0].start();
    let _others = [places[1].start(), places[2].start()];
    carries();
    assert_eq!(hub.drops("not_for_us"), 0);
}

/// Tries a port of another host for a second.
fn connect(to: std::net::IpAddr) -> std::io::Result<std::net::TcpStream> {
    std::net::TcpStream::connect_timeout(&(to, 9).into(), std::time::Duration::from_secs(1))
}

#[test]
fn without_a_peer_or_an_address_it_is_up_all_the_same() {
    let (_bed, one) = alone("");
    let daemon = one.start();
    let status = daemon.status();
    assert!(status.peers.is_empty() && status.device.addresses.is_empty());
    assert_eq!(status.device.mtu, 1420);
    daemon.terminate();
}

/// What the host's programs see.
struct Private {
    directory: TempDir,
    /// A shell command more, before the daemon runs.
    before: String,
    /// While it lives, systemd-resolved seems to.
    resolved: Option<UnixListener>,
}

impl Private {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let private = Self { directory, before: String::new(), resolved: None };
        for name in ["etc", "run", "bin"] {
            fs::create_dir(private.path(name)).unwrap();
        }
        // What only root may read is not needed.
        Command::new("cp").arg("-a").arg("/etc/.").arg(private.path("etc")).stderr(Stdio::null()).status().unwrap();
        let _ = fs::remove_file(private.path("etc/resolv.conf"));
        fs::write(private.path("etc/resolv.conf"), OWN).unwrap();
        fs::write(private.path("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
        private
    }

    /// The same with systemd-resolved, of which the program writes down its calls, and fails where `fails` matches them.
    fn with_resolved(fails: &str) -> Self {
        let mut private = Self::new();
        fs::write(private.path("etc/resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
        private.script("resolvectl", fails);
        fs::create_dir_all(private.path("run/systemd/resolve")).unwrap();
        private.resolved = Some(UnixListener::bind(private.path("run/systemd/resolve/io.systemd.Resolve")).unwrap());
        private
    }

    /// A program that comes before the host's own.
    fn script(&self, name: &str, fails: &str) {
        let path = self.path(&format!("bin/{name}"));
        let calls = self.path("calls");
        let text =
            format!("#!/bin/sh\necho {name} \"$@\" >> {}\ncase \"$*\" in {fails}) exit 1;; esac\n", calls.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the host asks.
    fn servers(&self) -> String {
        fs::read_to_string(self.path("etc/resolv.conf")).unwrap()
    }

    fn asks_the_tunnel(&self) -> bool {
        let text = self.servers();
        let has = |line: &str| text.lines().any(|l| l == line);
        let all = has("nameserver 10.77.0.53") && has("nameserver fd77::53") && has("search example.org");
        assert!(all || text == OWN, "{text}");
        assert!(!(all && text.contains("192.0.2.253")), "nobody else is asked: {text}");
        all
    }

    /// How the scripts were called since the last time.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }

    /// A verb, on a host that has these.
    fn command(&self, place: &Place, verb: &str, arguments: &[&str]) -> Command {
        let inner = place.command(verb);
        let mut command = Command::new("unshare");
        let script = format!(
            "mount --bind \"$1\" /etc; mount --bind \"$2\" /run; {} PATH=\"$3:$PATH\"; shift 3; exec \"$@\"",
            self.before
        );
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
        command.args(["etc", "run", "bin"].map(|name| self.path(name)));
        command.arg(inner.get_program()).args(inner.get_args()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, host: &Host, place: &Place, verb: &str, arguments: &[&str]) -> Output {
        host.namespace.run(|| self.command(place, verb, arguments).output()).unwrap().unwrap()
    }

    /// Starts a daemon, with its file as an argument, and waits until it is ready.
    fn start(&self, host: &Host, place: &Place) -> Up {
        let log = place.path("log");
        let file = place.path("adit0.toml");
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(place, "up", &[file.to_str().unwrap()]);
        command.stdout(Stdio::piped()).stderr(stderr);
        let mut up = Up { child: host.namespace.run(|| command.spawn()).unwrap().unwrap(), log };
        let stdout = up.child.stdout.take().unwrap();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = ready.send(line);
            }
        });
        match is_ready.recv_timeout(PATIENCE) {
            Ok(line) => assert!(line.contains(" is up: "), "{line}"),
            Err(_) => panic!("the daemon does not become ready:\n{}", up.log()),
        }
        up
    }
}

/// A daemon. It is killed when this is dropped.
struct Up {
    child: Child,
    log: PathBuf,
}

impl Up {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(mut self) {
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(status.success());
        let status = wait_for("the daemon's end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Its effective capabilities.
    fn capabilities(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- the daemon\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn its_servers_are_asked_while_it_is_up() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::new());
    let before = host.state();
    for _ in 0..2 {
        let daemon = private.start(host, &one);
        assert!(private.asks_the_tunnel());
        // What sets them back has no more rights than this.
        const NET_ADMIN: u64 = 1 << 12;
        assert_eq!(daemon.capabilities(), NET_ADMIN);
        daemon.terminate();
        assert_eq!(private.servers(), OWN);
        assert_eq!(host.state(), before);
        assert_eq!(one.leftovers(), [""; 0]);
    }
}

#[test]
fn a_file_of_ours_may_name_them_as_well() {
    let bed = Bed::new(2);
    let (host, private) = (bed.host(1), Private::new());
    let configuration = Configuration::new(host, &[2], Family::V4);
    let place = Place::new(host, &configuration);
    let lines = "dns = [\"10.77.0.53\", \"fd77::53\", \"example.org\"]\n[transport]";
    fs::write(place.path("adit0.toml"), configuration.text().replace("[transport]", lines)).unwrap();
    let daemon = private.start(host, &place);
    assert!(private.asks_the_tunnel());
    daemon.terminate();
    assert_eq!(private.servers(), OWN);
}

#[test]
fn a_killed_daemon_leaves_them_and_its_successor_takes_over() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::new());
    private.start(host, &one).crash();
    assert!(private.asks_the_tunnel(), "what would go out in the clear stays caught");
    let daemon = private.start(host, &one);
    assert!(private.asks_the_tunnel());
    daemon.crash();
    private.start(host, &one).terminate();
    assert_eq!(private.servers(), OWN);
    assert_eq!(one.leftovers(), [""; 0]);
}

#[test]
fn a_successor_without_any_gives_the_host_its_own_back() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::new());
    private.start(host, &one).crash();
    let text = fs::read_to_string(one.path("adit0.toml")).unwrap();
    write(&one, &text.replace(DNS, ""));
    let daemon = private.start(host, &one);
    assert_eq!(private.servers(), OWN);
    assert!(!exists(&one.path("state/adit0.dns")));
    daemon.terminate();
}

#[test]
fn down_gives_them_back_after_a_crash() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::new());
    let before = host.state();
    private.start(host, &one).crash();
    let output = private.run(host, &one, "down", &["--device", "adit0"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("DNS servers"), "{said} {:?}", output.stderr);
    assert_eq!(private.servers(), OWN);
    assert_eq!(host.state(), before);
    assert_eq!(one.leftovers(), [""; 0]);
}

#[test]
fn down_leaves_those_of_a_daemon_that_runs() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::new());
    let daemon = private.start(host, &one);
    let elsewhere = one.path("elsewhere");
    let output = private.run(host, &one, "down", &["--device", "adit0", "--runtime-dir", elsewhere.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(private.asks_the_tunnel());
    daemon.terminate();
    assert_eq!(private.servers(), OWN);
}

#[test]
fn where_nothing_can_set_them_nothing_starts() {
    let (bed, one) = alone(DNS);
    let (host, mut private) = (bed.host(1), Private::new());
    private.before = "for f in /sbin/resolvconf /usr/sbin/resolvconf /usr/bin/resolvectl /bin/resolvectl; do \
                      ! test -e $f || mount --bind /dev/null $f; done;"
        .into();
    let before = host.state();
    let output = private.run(host, &one, "up", &["--config", one.path("adit0.toml").to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("install openresolv") && said.trim_end().lines().count() == 1, "{said}");
    assert_eq!((host.state(), one.leftovers()), (before, vec![]));
    assert_eq!(private.servers(), OWN);
}

#[test]
fn where_setting_them_fails_the_start_is_taken_back() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::new());
    private.script("resolvconf", "-a*");
    let before = host.state();
    let output = private.run(host, &one, "up", &[one.path("adit0.toml").to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`resolvconf -a adit0 -m 0 -x` failed") && said.contains("take the line"), "{said}");
    assert_eq!(private.calls(), ["resolvconf -a adit0 -m 0 -x", "resolvconf -d adit0 -f"]);
    assert_eq!(host.state(), before);
    assert_eq!(one.leftovers(), [""; 0]);
}

/// How systemd-resolved is told.
const SET: [&str; 3] = [
    "resolvectl dns adit0 10.77.0.53 fd77::53",
    "resolvectl domain adit0 ~. example.org",
    "resolvectl default-route adit0 yes",
];

#[test]
fn systemd_resolved_is_told_where_it_answers() {
    let (bed, one) = alone(DNS);
    let (host, mut private) = (bed.host(1), Private::with_resolved("never"));
    let daemon = private.start(host, &one);
    assert_eq!(private.calls(), SET);
    daemon.crash();
    assert_eq!(private.calls(), [""; 0]);
    write(&one, &fs::read_to_string(one.path("adit0.toml")).unwrap().replace(DNS, ""));
    let daemon = private.start(host, &one);
    assert_eq!(private.calls(), ["resolvectl revert adit0"], "the device is the killed daemon's");
    daemon.terminate();
    write(
        &one,
        &fs::read_to_string(one.path("adit0.toml")).unwrap().replace("[Interface]\n", &format!("[Interface]\n{DNS}")),
    );
    let daemon = private.start(host, &one);
    assert_eq!(private.calls(), SET);
    daemon.terminate();
    // The device is gone, and systemd-resolved knows no servers of it any more.
    assert_eq!(private.calls(), [""; 0]);
    assert_eq!(one.leftovers(), [""; 0]);
    // It is installed and does not run: the other one is asked.
    private.resolved = None;
    fs::write(private.path("etc/resolv.conf"), OWN).unwrap();
    let daemon = private.start(host, &one);
    assert!(private.asks_the_tunnel());
    daemon.terminate();
    assert_eq!((private.servers(), private.calls()), (OWN.to_owned(), vec![]));
}

#[test]
fn what_systemd_resolved_refuses_is_taken_back() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::with_resolved("domain*"));
    let before = host.state();
    let output = private.run(host, &one, "up", &[one.path("adit0.toml").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(private.calls(), [SET[0], SET[1], "resolvectl revert adit0"]);
    assert_eq!(host.state(), before);
}

#[test]
fn a_device_that_is_gone_took_them_along() {
    let (bed, one) = alone(DNS);
    let (host, private) = (bed.host(1), Private::with_resolved("never"));
    private.start(host, &one).crash();
    host.run("ip", &["link", "delete", "adit0"]);
    private.calls();
    let output = private.run(host, &one, "down", &["--device", "adit0"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(private.calls(), [""; 0]);
    assert!(!exists(&one.path("state/adit0.dns")));
}
