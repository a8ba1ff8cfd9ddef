//! The program as its user meets it: what each verb prints, where, and with which exit code. Daemons are played by the
//! test itself, over real sockets.
// Helpers of tests may fail as tests do; the lint only knows functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use adit::api::{
    Claim, Request, Response, Server, Status, control_socket,
    status::{DeviceStatus, PeerStatus, TransportStatus, WorkerStatus},
};
use serde_json::Value;

/// A world of its own: directories for sockets and state that do not exist yet.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .args(line.split_whitespace())
            .current_dir(self.directory.path())
            .env_remove("ADIT_LOG")
            .env("ADIT_RUNTIME_DIR", self.path("run"))
            .env("ADIT_STATE_DIR", self.path("state"));
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs with a text on standard input.
    fn feed(&self, line: &str, input: &str) -> Output {
        let mut child =
            self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Plays a daemon that counts a packet with every look and stops when asked.
    fn daemon(&self, device: &str) -> Daemon {
        let run = self.path("run");
        let claim = Claim::take(&run, device).unwrap();
        let (stop, stops) = mpsc::channel();
        let packets = AtomicU64::new(1);
        let name = device.to_owned();
        let server = Server::bind(&run, device, move |request| match request {
            Request::Status => {
                let packets = packets.fetch_add(1, Ordering::Relaxed);
                Response::Status(Box::new(status(&name, packets)))
            }
            Request::Stop => {
                stop.send(()).unwrap();
                Response::Done
            }
            Request::TraceBegin(_) | Request::TraceCollect(_) => {
                Response::Error { sentence: "another trace is under way on this host".into() }
            }
            Request::Reload | Request::Leave | Request::Refresh | Request::Examine | Request::Bench(_) => {
                match name.as_str() {
                    "adit1" => Response::Fault { sentence: "t.toml:3:1: no".into() },
                    _ => Response::Changed { sentence: "1 peer added".into() },
                }
            }
        })
        .unwrap();
        let thread = thread::spawn(move || {
            let asked = stops.recv().is_ok();
            drop(server);
            drop(claim);
            asked
        });
        Daemon { thread }
    }
}

/// A daemon that ends when it is asked to.
struct Daemon {
    thread: thread::JoinHandle<bool>,
}

fn status(device: &str, packets: u64) -> Status {
    Status {
        version: "9.8.7".into(),
        pid: 4711,
        uptime_s: 61,
        device: DeviceStatus {
            name: device.into(),
            mode: "tun".into(),
            mtu: 1472,
            addresses: vec!["10.77.0.1/24".parse().unwrap()],
            offloads: vec!["csum".into()],
            reason: None,
        },
        transport: TransportStatus {
            listen: "[::]:7777".parse().unwrap(),
            workers: 1,
            offload: true,
            segmentation: true,
            busy_poll_us: 0,
            receive_buffer: 1 << 20,
            send_buffer: 1 << 20,
        },
        peers: vec![PeerStatus {
            name: "berlin".into(),
            public_key: None,
            endpoint: Some("192.0.2.2:7777".into()),
            transport: "plain".into(),
            secure: false,
            session: "none".into(),
            handshake_s: None,
            suite: None,
            problem: None,
            preshared_key: false,
            keepalive_s: None,
            path_mtu: Some(1472),
            round_trip_us: None,
            allowed_ips: vec!["10.77.0.2/32".parse().unwrap()],
            rx_bytes: 1000 * packets,
            tx_bytes: 0,
            rx_packets: packets,
            tx_packets: 0,
        }],
        workers: vec![WorkerStatus::default()],
        network: None,
        switch: None,
        drops: [("no_route".to_owned(), 3)].into(),
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Checks that a verb failed with this code, one sentence on standard error that says all of `phrases`, and no output.
fn assert_fails(output: &Output, code: i32, phrases: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("adit: ") && said.ends_with('\n') && said.matches('\n').count() == 1, "{said:?}");
    for phrase in phrases {
        assert!(said.contains(phrase), "{said:?} does not say {phrase:?}");
    }
    assert_eq!(text(&output.stdout), "");
}

fn assert_succeeds(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_faulty_configuration_ends_with_2_and_creates_nothing() {
    let world = World::new();
    for (configuration, phrase) in [
        ("[device]\nadresses = []\n", "c.toml:2:1: unknown key \"adresses\""),
        ("[device]\naddresses = [\"10.77.0.1/24\"]\n", "there is no peer"),
        (
            "[device]\naddresses = [\"10.77.0.1/24\"]\nprivate-key-file = \"key\"\n[[peer]]\nname = \"b\"\n\
             endpoint = \"192.0.2.2:1\"\nallowed-ips = [\"10.77.0.2\"]\ntransport = \"plain\"\n",
            "does not exist",
        ),
        ("[[peer]]\nname = \"b\"\n[device]\naddresses = [\"10.77.0.1/24\"]\n", "\"sealed\""),
    ] {
        fs::write(world.path("c.toml"), configuration).unwrap();
        assert_fails(&world.run("up --config c.toml"), 2, &[phrase]);
        let left: Vec<_> = fs::read_dir(world.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["c.toml"]);
    }
    assert_fails(&world.run("up --config absent.toml"), 2, &["absent.toml: ", "No such file"]);
}

#[test]
fn keys_are_made_and_derived() {
    let world = World::new();
    let private = world.run("keygen");
    let private = assert_succeeds(&private);
    assert_eq!((private.len(), private.trim_end().len()), (45, 44));
    let public = world.feed("pubkey", private);
    let public = assert_succeeds(&public);
    assert_eq!((public.len(), public.trim_end().len()), (45, 44));
    assert_ne!(private, public);
    let preshared = [(); 2].map(|()| assert_succeeds(&world.run("keygen --preshared")).to_owned());
    assert_eq!(preshared.each_ref().map(String::len), [45; 2]);
    assert_ne!(preshared[0], preshared[1]);
    // RFC 7748, section 6.1
    let bob = world.feed("pubkey", "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=\n");
    assert_eq!(assert_succeeds(&bob), "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\n");
    let refused = world.feed("pubkey", "hunter2\n");
    assert_fails(&refused, 2, &["not a private key", "adit keygen"]);
    assert!(!text(&refused.stderr).contains("hunter2"));
}

#[test]
fn a_key_in_a_file_that_others_can_read_is_warned_of() {
    let world = World::new();
    let path = world.path("key");
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        let file = fs::File::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let output = world.command("keygen").stdout(file).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stderr).contains("chmod 600"), warned, "{mode:o}: {}", text(&output.stderr));
        assert_eq!(fs::read(&path).unwrap().len(), 45);
    }
}

#[test]
fn status_without_a_daemon() {
    let world = World::new();
    assert_fails(&world.run("status"), 1, &["no adit daemon is running in", "adit up --config"]);
    assert_fails(&world.run("status --watch"), 1, &["no adit daemon is running in"]);
    assert_fails(&world.run("status --device adit0"), 1, &["no adit daemon is running at", "adit0.status.sock"]);
    assert_fails(&world.run("status --device a/b"), 2, &["\"a/b\" is not a device name"]);
    assert!(!world.path("run").exists());
}

#[test]
fn status_of_one_and_of_several() {
    let world = World::new();
    let _first = world.daemon("adit0");
    let output = world.run("status");
    let shown = assert_succeeds(&output);
    for phrase in ["adit0  up 1 min 1 s, adit 9.8.7", "plain (not encrypted)", "192.0.2.2:7777", "no_route 3"] {
        assert!(shown.contains(phrase), "{shown}");
    }
    let json: Value = serde_json::from_slice(&world.run("status --json").stdout).unwrap();
    assert_eq!(json["device"]["name"], "adit0");
    assert_eq!(json["peers"][0]["secure"], false);

    let _second = world.daemon("adit1");
    let output = world.run("status --json");
    let names: Vec<Value> = assert_succeeds(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["device"]["name"].clone())
        .collect();
    assert_eq!(names, ["adit0", "adit1"]);
    let output = world.run("status --device adit1");
    let shown = assert_succeeds(&output);
    assert!(shown.contains("adit1  up") && !shown.contains("adit0  up"), "{shown}");
}

#[test]
fn status_of_a_killed_daemon_says_so() {
    let world = World::new();
    let _alive = world.daemon("adit1");
    // As after SIGKILL: a socket with nobody behind it.
    for name in ["adit0.sock", "adit0.status.sock"] {
        drop(UnixListener::bind(world.path("run").join(name)).unwrap());
    }
    let output = world.run("status");
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(shown.contains("adit0  down: its daemon was killed") && shown.contains("adit1  up"), "{shown}");
    let said = text(&output.stderr);
    assert!(said.contains("was killed") && said.contains("adit down"), "{said}");
    let output = world.run("status --json --device adit0");
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["device"]["name"], "adit0");
    assert!(json["error"].as_str().unwrap().contains("was killed"));
}

#[test]
fn watch_prints_a_line_each_second_with_rates() {
    let world = World::new();
    let _daemon = world.daemon("adit0");
    let mut child = world.command("status --watch").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("adit0  receiving 0 bit/s"), "{first}");
    let second = lines.next().unwrap().unwrap();
    // A thousand bytes more with each look.
    assert!(second.contains("kbit/s") && second.contains("sending 0 bit/s"), "{second}");
    // The reader leaves: so does the program, and that is no failure.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let world = World::new();
    let _daemon = world.daemon("adit0");
    for line in ["status", "status --json", "keygen", "completions bash", "man"] {
        let mut child = world.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
    }
}

#[test]
fn down_stops_the_daemon_and_waits_for_it() {
    let world = World::new();
    let daemon = world.daemon("adit0");
    let output = world.run("down");
    assert_eq!(assert_succeeds(&output), "adit0 is down\n");
    assert!(daemon.thread.join().unwrap());
    assert!(!world.path("run").exists());
}

#[test]
fn down_among_several_wants_a_name() {
    let world = World::new();
    let first = world.daemon("adit0");
    let _second = world.daemon("adit1");
    assert_fails(&world.run("down"), 2, &["several daemons", "--device (adit0, adit1)"]);
    fs::write(world.path("c.toml"), "[device]\nname = \"adit0\"\nmtu = 1\n").unwrap();
    let output = world.run("down --config c.toml");
    assert_eq!(assert_succeeds(&output), "adit0 is down\n");
    assert!(first.thread.join().unwrap());
    assert_eq!(assert_succeeds(&world.run("status --json")).lines().count(), 1);
}

#[test]
fn down_without_a_daemon() {
    let world = World::new();
    assert_fails(&world.run("down"), 1, &["no adit daemon is running in", "adit down --device NAME"]);
    assert_fails(&world.run("reload"), 1, &["no adit daemon is running in", "start one with `adit up`"]);
    assert_fails(&world.run("down --device a/b"), 2, &["\"a/b\" is not a device name"]);
    assert!(!world.path("run").exists());
}

#[test]
fn down_removes_what_a_killed_daemon_left() {
    let world = World::new();
    fs::create_dir(world.path("run")).unwrap();
    // A name that no device of this host has: what is left over are the sockets alone.
    for name in ["adit-was-killed.sock", "adit-was-killed.status.sock"] {
        drop(UnixListener::bind(world.path("run").join(name)).unwrap());
    }
    let output = world.run("down");
    assert!(assert_succeeds(&output).starts_with("adit-was-killed was down; removed"));
    assert_eq!(fs::read_dir(world.path("run")).unwrap().count(), 0);
    assert_fails(&world.run("down --device adit-was-killed"), 1, &["nothing of one is left"]);
}

#[test]
fn a_daemon_that_does_not_end_is_reported() {
    let world = World::new();
    let run = world.path("run");
    let _claim = Claim::take(&run, "adit0").unwrap();
    let _server = Server::bind(&run, "adit0", |_| Response::Error { sentence: "not now".into() }).unwrap();
    assert_fails(&world.run("down"), 1, &["adit0 stays up: not now"]);
    assert!(control_socket(&run, "adit0").exists());
}

#[test]
fn wrong_usage_ends_with_2_and_names_the_help() {
    let world = World::new();
    for line in ["", "upp", "up", "status --colour", "--log loud=very status", "keygen private"] {
        let output = world.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{line}");
    }
    let output = world.run("up --help");
    assert!(assert_succeeds(&output).contains("adit up tunnel.toml"));
}

#[test]
fn completions_and_manual_pages() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = world.run(&format!("completions {shell}"));
        assert!(assert_succeeds(&output).contains("keygen"), "{shell}");
    }
    assert!(assert_succeeds(&world.run("man")).contains(".TH adit 1"));
    fs::create_dir(world.path("man")).unwrap();
    assert_succeeds(&world.run("man man"));
    let mut pages: Vec<String> = fs::read_dir(world.path("man"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert!(pages.contains(&"adit.1".to_owned()) && pages.contains(&"adit-up.1".to_owned()), "{pages:?}");
    let page = fs::read_to_string(world.path("man/adit-up.1")).unwrap();
    assert!(page.contains("adit up") || page.contains("adit\\-up"), "{page}");
    assert_fails(&world.run("man absent"), 1, &["cannot write"]);
}

#[test]
fn a_silent_daemon_does_not_hang_its_client() {
    let world = World::new();
    fs::create_dir(world.path("run")).unwrap();
    let silent = UnixListener::bind(world.path("run/adit0.status.sock")).unwrap();
    let began = Instant::now();
    assert_fails(&world.run("status --device adit0"), 1, &["does not answer", "within 5 s"]);
    assert!(began.elapsed() < Duration::from_secs(9));
    drop(silent);
}
