//! `adit demo` from the outside, on the real kernel: what it shows, and that nothing of it stays, however it ends.
//!
//! These tests need root, or a kernel that lets an ordinary user make a user namespace; where neither is so they fail with the
//! sentence of the demo that says what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// There is one demo at a time on a machine, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody else may be running a demo on this machine: then it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a demo to its end.
fn run(arguments: &[&str]) -> Output {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = demo(arguments).output().unwrap();
        let busy = String::from_utf8_lossy(&output.stderr).contains("a demo is already running");
        if !busy || Instant::now() > deadline {
            return output;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A running demo; killed if a test fails while it runs.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts a demo and reads its output up to the first line that contains `words`.
    fn until(arguments: &[&str], words: &str) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut child = demo(arguments).stdin(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            if lines.by_ref().map_while(Result::ok).any(|line| line.contains(words)) {
                return Self { child, lines };
            }
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            let busy = error.contains("a demo is already running");
            assert!(busy && Instant::now() < deadline, "the demo ended before it said {words:?}: {error}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Reads it to its end; answers the exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        self.lines.by_ref().for_each(drop);
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (self.child.wait().unwrap().code(), error)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Namespaces, files and daemons of a demo that are there now.
fn present() -> Vec<String> {
    let names = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let mut present: Vec<String> =
        names("/run/netns").into_iter().filter(|name| name.starts_with("adit-demo-")).collect();
    present.extend(names("/run").into_iter().filter(|name| name.starts_with("adit-demo")));
    for process in names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains("/run/adit-demo/") {
            present.push(command);
        }
    }
    present
}

fn assert_nothing_is_left() {
    // Daemons of a killed demo need a moment, and somebody else's demo ends at some time.
    let deadline = Instant::now() + PATIENCE;
    while !present().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(present(), Vec::<String>::new());
}

fn document(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_document_has_every_part_and_nothing_is_left() {
    let _turn = turn();
    let document = document(&run(&["--quick", "--json"]));
    // The promise of --quick is one of optimised builds.
    let took = document["seconds"].as_f64().unwrap();
    assert!(took > 0.0 && (cfg!(debug_assertions) || took < 10.0), "{took} s");
    let list = |part: &str| document[part].as_array().unwrap_or_else(|| panic!("{part} is missing")).clone();

    let hosts = document["topology"]["hosts"].as_array().unwrap();
    assert_eq!(hosts.iter().map(|host| host["containers"].as_array().unwrap().len()).sum::<usize>(), 4);
    assert_eq!(hosts[0]["mtu"], 1440);
    for host in hosts {
        assert_eq!((&host["transport"], &host["encrypted"]), (&"sealed".into(), &true.into()), "{host}");
        assert!(["AES-256-GCM", "ChaCha20-Poly1305"].contains(&host["suite"].as_str().unwrap()), "{host}");
    }

    let reachability = list("reachability");
    let paths: Vec<_> = reachability.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["veth pair", "same bridge", "across hosts"]);
    assert!(reachability.iter().all(|row| row["received"].as_u64() > Some(0) && row["min_us"].as_f64() > Some(0.0)));
    assert_eq!((&document["pairs"]["reached"], &document["pairs"]["of"]), (&12.into(), &12.into()));

    let throughput = list("throughput");
    let paths: Vec<_> = throughput.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["veth pair", "veth + bridge", "classic TUN", "adit plain", "adit sealed", "kernel VXLAN"]);
    assert!(throughput.iter().all(|row| row["gbps"].as_f64() > Some(0.0) && row["times_vxlan"].as_f64() > Some(0.0)));
    let per_call = |row: usize| throughput[row]["packets_per_call"]["read"].as_f64().unwrap();
    assert!((0.99..=1.0).contains(&per_call(2)), "the classic path reads one packet a call, not {}", per_call(2));
    for row in [3, 4] {
        assert!(per_call(row) > 2.0, "adit reads super-packets, not {} packets a call", per_call(row));
    }
    let encrypted: Vec<_> = throughput.iter().filter(|row| row["encrypted"] == true).map(|row| &row["path"]).collect();
    assert_eq!(encrypted, ["adit sealed"]);

    journey_makes_sense(&list("journey"), &document["packet"]);
    assert!(list("buffers").iter().all(|host| host["receive"].as_u64() > Some(0)));
    assert_eq!(document["removed"]["complete"], true);
    assert_eq!(document["removed"]["namespaces"].as_array().unwrap().len(), 6);
    assert_eq!(document["rootless"], !is_root());
    assert_nothing_is_left();
}

fn journey_makes_sense(journey: &[Value], packet: &Value) {
    assert!(journey.len() >= 10);
    let us: Vec<_> = journey.iter().map(|hop| hop["us"].as_f64().unwrap()).collect();
    assert!(us.is_sorted() && us[0] >= 0.0 && packet["delivered_us"].as_f64().unwrap() >= us[us.len() - 1], "{us:?}");
    let crossings = journey.iter().map(|hop| hop["crossings"].as_array().unwrap().len()).sum::<usize>();
    assert_eq!((crossings + 1, packet["crossings"].as_u64()), (6, Some(6)));
    let payload = packet["payload_bytes"].as_u64().unwrap();
    for hop in journey {
        let headers = hop["headers"].as_array().unwrap();
        let tunnelled = headers.iter().any(|header| header["depth"] == 1);
        assert_eq!(tunnelled, hop["device"] == "under0", "{hop}");
        // Ethernet 14, IPv4 20, UDP 8; on the card once more the latter two around the packet, and 32 of the sealed message.
        let around = if hop["layer"] == "L2" { 14 } else { 0 } + if tunnelled { 88 } else { 28 };
        assert_eq!(hop["size"].as_u64(), Some(payload + around), "{hop}");
        // On the card no header is to be seen that was encrypted.
        let names: Vec<_> = headers.iter().map(|header| header["name"].as_str().unwrap()).collect();
        assert!(if tunnelled {
            names == ["Ethernet", "IPv4", "UDP", "sealed"]
        } else {
            names.ends_with(&["IPv4", "UDP"])
        });
        assert_eq!(hop["known_by"] == "content", !tunnelled, "{hop}");
    }
    let messages: Vec<_> =
        journey.iter().filter(|hop| hop["device"] == "under0").map(|hop| &hop["headers"][3]["summary"]).collect();
    assert!(messages.len() == 2 && messages[0] == messages[1], "the same message on both cards: {messages:?}");
    let encrypted = format!("encrypted {} B", payload + 28);
    assert!(messages[0].as_str().unwrap().contains(&encrypted), "{messages:?}");
}

#[test]
fn the_text_fits_and_has_no_escapes_where_no_terminal_is() {
    let _turn = turn();
    let output = run(&["--quick"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'));
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for words in [
        "What was built",
        "Round trips",
        "Throughput",
        "The journey of one packet",
        "Nothing is left.",
        "encrypted and authenticated",
        "within a host nothing is encrypted",
        "Only the sealed path is encrypted",
    ] {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
    assert_nothing_is_left();
}

#[test]
fn an_interrupt_at_any_step_removes_everything() {
    let _turn = turn();
    for (words, signal) in [("adit demo", "INT"), ("Round trips", "INT"), ("12 of 12", "TERM"), ("Throughput", "INT")] {
        let running = Running::until(&["--quick"], words);
        running.signal(signal);
        let (code, error) = running.end();
        assert_eq!(code, Some(1), "after {words:?}: {error}");
        assert_eq!(error, "adit: interrupted; everything was removed\n", "after {words:?}");
        assert_nothing_is_left();
    }
}

#[test]
fn what_a_killed_run_left_is_repaired_by_the_next() {
    let _turn = turn();
    let running = Running::until(&["--quick"], "Throughput");
    running.signal("KILL");
    assert_eq!(running.end().0, None);
    // Daemons end by themselves; names stay, where they are not in a mount namespace that ended with the demo.
    let document = document(&run(&["--quick", "--json"]));
    let repaired = document["repaired"].as_array().unwrap();
    assert_eq!(repaired.is_empty(), !is_root(), "{repaired:?}");
    assert_nothing_is_left();
}

#[test]
fn a_second_demo_is_refused_while_one_runs() {
    let _turn = turn();
    let first = Running::until(&["--quick"], "What was built");
    let second = demo(&["--quick"]).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(error.starts_with(&format!("adit: a demo is already running (pid {})", first.child.id())), "{error}");
    first.signal("INT");
    assert_eq!(first.end().0, Some(1));
    assert_nothing_is_left();
}

#[test]
fn what_is_kept_goes_at_enter() {
    let _turn = turn();
    let mut running = Running::until(&["--quick", "--keep"], "Press Enter");
    if is_root() {
        assert!(present().iter().any(|name| name == "adit-demo-web"), "{:?}", present());
    }
    running.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(running.end(), (Some(0), String::new()));
    assert_nothing_is_left();
}
