//! Systems in namespaces.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::assert_documented;
use crate::bed::daemon::ADIT;
use crate::bed::wait_for;

/// There is one bench at a time on a machine, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Somebody else may be running a bench on this machine: then it is waited for.
const PATIENCE: Duration = Duration::from_secs(150);

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(ADIT);
    command.arg("bench").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a bench to its end.
fn run(arguments: &[&str]) -> Output {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = bench(arguments).output().unwrap();
        let busy = String::from_utf8_lossy(&output.stderr).contains("a bench is already running");
        if !busy || Instant::now() > deadline {
            return output;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Namespaces, files and daemons of a bench that are there now.
fn present() -> Vec<String> {
    let names = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let namespaces = names("/run/netns").into_iter().filter(|name| name.starts_with("adit-bench-"));
    let files = names("/run").into_iter().filter(|name| name.starts_with("adit-bench"));
    namespaces.chain(files).chain(daemons()).collect()
}

/// The command lines of a bench's daemons.
fn daemons() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let lines = processes.filter_map(|process| fs::read(process.join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains("/run/adit-bench/")).collect()
}

fn assert_nothing_is_left() {
    let deadline = Instant::now() + PATIENCE;
    while !present().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(present(), Vec::<String>::new());
}

/// A running bench; killed if a test fails while it runs.
struct Running(Child);

impl Running {
    /// Starts a bench and waits until it has so many daemons.
    fn with_daemons(count: usize, arguments: &[&str]) -> Self {
        assert_nothing_is_left();
        let mut running = Self(bench(arguments).spawn().unwrap());
        wait_for(&format!("{count} daemons"), || {
            if let Some(status) = running.0.try_wait().unwrap() {
                let mut error = String::new();
                running.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                panic!("the bench ended early: {status}, {error}");
            }
            (daemons().len() >= count).then_some(())
        });
        running
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Reads it to its end; answers the exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let (mut text, mut error) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (self.0.wait().unwrap().code(), error)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The figures of a system.
const FIGURES: [&str; 8] = [
    "cpu_s_per_gb",
    "rtt_p50_us",
    "rtt_p99_us",
    "tcp1_back_gbps",
    "tcp1_gbps",
    "tcp4_back_gbps",
    "tcp4_gbps",
    "udp64_kpps",
];

#[test]
fn every_system_is_measured_compared_and_removed() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let figure = directory.path().join("bench.svg");
    let document = document(&run(&["--rounds", "2", "--seconds", "0.1", "--json", "--svg", figure.to_str().unwrap()]));
    assert_documented(&document);
    assert_eq!((&document["kind"], &document["rounds"]), (&"systems".into(), &2.into()));
    assert_eq!(document["rootless"], fs::metadata("/proc/self").unwrap().uid() != 0);

    let systems = document["systems"].as_array().unwrap();
    let left_out: Vec<_> = document["left_out"].as_array().unwrap().iter().map(|out| &out["name"]).collect();
    let expected = ["veth", "bridge", "classic", "plain", "sealed", "wireguard", "tap", "vxlan"];
    let expected: Vec<_> = expected.into_iter().filter(|name| !left_out.contains(&&Value::from(*name))).collect();
    let names: Vec<_> = systems.iter().map(|system| system["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected, "only VXLAN may be missing: {left_out:?}");
    assert!(left_out.iter().all(|name| **name == "vxlan"));
    let yardstick = if left_out.is_empty() { "vxlan" } else { "veth" };
    assert_eq!(document["yardstick"], yardstick);
    for system in systems {
        let name = system["name"].as_str().unwrap();
        assert_eq!(system["encrypted"], ["sealed", "wireguard", "tap"].contains(&name), "{name}");
        let figures = system["figures"].as_object().unwrap();
        assert_eq!(figures.keys().map(String::as_str).collect::<Vec<_>>(), FIGURES, "{name}");
        for (key, figure) in figures {
            let value = |field: &str| figure[field].as_f64().unwrap();
            assert!(value("min") > 0.0 || key == "cpu_s_per_gb", "{name} {key}: {figure}");
            assert!(value("min") <= value("median") && value("median") <= value("max"), "{name} {key}: {figure}");
            assert_eq!(figure["rounds"].as_array().unwrap().len(), 2, "{name} {key}");
            assert!(
                figure["ratio"].is_null() == (name == yardstick) || key == "cpu_s_per_gb",
                "{name} {key}: {figure}"
            );
        }
    }
    // Of a packet of 1500 bytes: 28 around it, and 32 more of a sealed message.
    let mtu = |name: &str| systems.iter().find(|system| system["name"] == name).map(|system| system["mtu"].clone());
    assert_eq!((mtu("veth"), mtu("plain"), mtu("sealed")), (Some(1500.into()), Some(1472.into()), Some(1440.into())));
    assert_eq!(document["faults"], serde_json::json!([]));
    assert_eq!(document["removed"].as_array().unwrap().len(), 4);

    let figure = fs::read_to_string(figure).unwrap();
    assert!(figure.starts_with("<svg ") && figure.ends_with("</svg>\n"));
    for system in systems {
        assert!(figure.contains(&format!(">{}</text>", system["title"].as_str().unwrap())), "{figure}");
    }
    assert_nothing_is_left();
}

#[test]
fn the_table_fits_and_says_what_is_noise() {
    let _turn = turn();
    let output = run(&["sealed", "veth", "sealed", "--rounds", "2", "--seconds", "0.1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "no escapes where no terminal is");
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for words in
        ["TCP x1", "Divided by veth pair in the same round", "Noise: ", "Encrypted: adit sealed.", "2 rounds of 0.1 s"]
    {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
    // Named twice, measured once; and the order is that of the command line.
    let rows: Vec<_> = text.lines().skip_while(|line| !line.contains("TCP x1")).skip(2).take(3).collect();
    assert!(rows[0].starts_with("adit sealed") && rows[1].starts_with("veth pair") && rows[2].is_empty(), "{rows:?}");
    assert_nothing_is_left();
}

#[test]
fn an_interrupt_removes_everything() {
    let _turn = turn();
    // While it builds, and while it measures: of two systems all four daemons are there.
    for (count, signal) in [(1, "INT"), (4, "TERM"), (4, "INT")] {
        let running = Running::with_daemons(count, &["plain", "sealed", "--rounds", "1000"]);
        running.signal(signal);
        let (code, error) = running.end();
        assert_eq!(
            (code, error.as_str()),
            (Some(1), "adit: interrupted; everything was removed\n"),
            "{count} {signal}"
        );
        assert_nothing_is_left();
    }
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let _turn = turn();
    let running = Running::with_daemons(2, &["plain", "--rounds", "1000"]);
    running.signal("KILL");
    assert_eq!(running.end().0, None);
    let output = run(&["veth", "--rounds", "1", "--seconds", "0.05"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_nothing_is_left();
}

#[test]
fn a_second_bench_is_refused_while_one_runs() {
    let _turn = turn();
    let first = Running::with_daemons(1, &["plain", "--rounds", "1000"]);
    let second = bench(&["veth"]).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(error.starts_with(&format!("adit: a bench is already running (pid {})", first.0.id())), "{error}");
    first.signal("INT");
    assert_eq!(first.end().0, Some(1));
    assert_nothing_is_left();
}

#[test]
fn a_figure_that_cannot_be_written_is_refused_before_the_work() {
    let _turn = turn();
    let output = run(&["veth", "--svg", "/nowhere/bench.svg"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("adit: cannot write /nowhere/bench.svg: "), "{error}");
    assert!(output.stdout.is_empty());
    assert_nothing_is_left();
}

#[test]
fn more_time_than_another_node_gives_is_wrong_usage() {
    let output = bench(&["--to", "host2", "--rounds", "100", "--seconds", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("take 600 s, and another node gives 300 s at most"));
}
