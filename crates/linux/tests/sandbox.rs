//! Programs in namespaces of their own against the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use linux::sandbox::{self, Arrival, Namespaces, Signals, mount};
use support::{enter, wait_for};

/// How long what happens at once may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A shell as the first process of new namespaces. It ends with this value.
struct Inside(Child);

impl Inside {
    fn start(script: &str, hand_over: &impl AsFd) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(sandbox::spawn(command, hand_over.as_fd()).unwrap())
    }

    fn says(mut self) -> String {
        drop(self.0.stdin.take());
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs something on a thread that is not used for anything else afterwards.
fn on_a_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join().unwrap())
}

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap().into_os_string().into_string().unwrap()
}

#[test]
fn the_first_process_has_namespaces_of_its_own_and_ours_stay_ours() {
    enter();
    let null = File::open("/dev/null").unwrap();
    let kinds = ["net", "mnt", "uts", "ipc", "pid"];
    on_a_thread(|| {
        let before = kinds.map(own);
        let script = "echo $$; for kind in net mnt uts ipc pid; do readlink /proc/self/ns/$kind; done";
        let said = Inside::start(script, &null).says();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "1");
        for (kind, (line, own)) in kinds.iter().zip(lines[1..].iter().zip(&before)) {
            assert!(line.starts_with(kind) && line != own, "{line}");
        }
        assert_eq!(kinds.map(own), before);
        // Children of this thread are outside again, and it can start threads.
        let outside = Command::new("sh").args(["-c", "echo $$"]).output().unwrap();
        assert_ne!(outside.stdout, b"1\n");
        on_a_thread(|| assert_eq!(kinds.map(own), before));
    });
}

#[test]
fn what_is_handed_over_arrives_under_its_number() {
    enter();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    // The number may have two digits, which not every shell takes.
    let inside = Inside::start(&format!("bash -c 'cat <&{}'", theirs.as_raw_fd()), &theirs);
    drop(theirs);
    ours.write_all(b"orders").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(inside.says(), "orders");
}

#[test]
fn a_program_that_is_not_there_leaves_nothing() {
    enter();
    let null = File::open("/dev/null").unwrap();
    on_a_thread(|| {
        let error = sandbox::spawn(Command::new("/nonexistent"), null.as_fd()).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
        assert!(Command::new("true").status().unwrap().success());
        on_a_thread(|| ());
    });
}

#[test]
fn only_what_was_handed_over_is_taken() {
    // What this program has opened itself is closed at exec, and somebody else's.
    let ours = File::open("/dev/null").unwrap();
    for number in [-1, 0, 1, 2, 1_000_000, ours.as_raw_fd()] {
        assert_eq!(sandbox::inherited(number).unwrap_err().errno(), Some(libc::EBADF), "{number}");
    }
}

#[test]
fn whoever_enters_is_where_that_process_is() {
    enter();
    let null = File::open("/dev/null").unwrap();
    let inside = Inside::start("hostname inside; echo ready; read line", &null);
    let pid = inside.0.id();
    wait_for("the host name inside", || {
        let names = Command::new("nsenter").args(["--uts", "--target", &pid.to_string(), "hostname"]).output().unwrap();
        (names.stdout == b"inside\n").then_some(())
    });
    let (said, entered) = on_a_thread(|| {
        Namespaces::of(pid).unwrap().enter().unwrap();
        let said = Command::new("sh").args(["-c", "hostname; echo $$"]).output().unwrap();
        (String::from_utf8(said.stdout).unwrap(), ["net", "mnt", "uts", "ipc"].map(own))
    });
    let number: u32 = said.strip_prefix("inside\n").unwrap().trim_end().parse().unwrap();
    assert!((2..100).contains(&number), "a number of its own counting: {number}");
    for link in entered {
        let kind = link.split(':').next().unwrap();
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(theirs.to_str(), Some(&*link));
        assert_ne!(own(kind), link);
    }
    drop(inside);
    assert!(Namespaces::of(pid).is_err());
}

#[test]
fn a_program_dies_with_the_thread_that_started_it() {
    let mut child = on_a_thread(|| {
        let mut command = Command::new("sleep");
        sandbox::dying_with_parent(command.arg("1000")).unwrap().spawn().unwrap()
    });
    let status = wait_for("the end of the program", || child.try_wait().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
}

#[test]
fn what_is_mounted_is_seen_nowhere_else() {
    enter();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["mem", "sys", "proc"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("file"), "the host's").unwrap();
    on_a_thread(|| {
        // SAFETY: the call takes flags only, and concerns this thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWNET) }, 0);
        mount::keep_to_oneself().unwrap();
        mount::memory(&at("mem")).unwrap();
        fs::write(at("mem/text"), "ours").unwrap();
        mount::bind(&at("mem/text"), &at("file")).unwrap();
        mount::unmount(&at("mem")).unwrap();
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "ours");
        assert!(fs::read_dir(at("mem")).unwrap().next().is_none());
        mount::processes(&at("proc")).unwrap();
        assert!(at("proc/self/status").exists());
        mount::devices(&at("sys")).unwrap();
        let devices: Vec<_> = fs::read_dir(at("sys/class/net")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(devices, ["lo"]);
        let refused = fs::write(at("sys/class/net/lo/mtu"), "1000").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        mount::set_host_name("adit-test").unwrap();
        assert!(mount::set_host_name(&"x".repeat(65)).is_err());
        let error = mount::bind(Path::new("/nonexistent"), &at("file")).unwrap_err().to_string();
        assert!(error.starts_with("cannot mount /nonexistent at ") && error.ends_with("(os error 2)"), "{error}");
    });
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "the host's");
    assert!(!at("proc/self").exists() && !at("sys/class").exists());
}

#[test]
fn signals_are_asked_for_here_and_arrive_in_a_program_that_is_started() {
    on_a_thread(|| {
        let signals = Signals::take_over().unwrap();
        assert_eq!(signals.take(), None);
        for number in [libc::SIGTERM, libc::SIGUSR1] {
            // SAFETY: it asks nothing of its caller.
            let this = unsafe { libc::pthread_self() };
            // SAFETY: the thread is this one, which lives.
            assert_eq!(unsafe { libc::pthread_kill(this, number) }, 0);
            let [ready] = linux::poll::readable([signals.as_fd()], Some(PATIENCE)).unwrap();
            assert!(ready);
            assert_eq!(signals.take(), Some(Arrival { number, sent: true }));
        }
        let mut command = Command::new("sh");
        command.args(["-c", "kill -TERM $$; echo deaf"]).stdout(Stdio::piped());
        let deaf = command.output().unwrap();
        assert_eq!(deaf.stdout, b"deaf\n", "it inherits that they are blocked");
        let status = signals.delivered_to(&mut command).output().unwrap();
        assert_eq!((status.stdout, std::os::unix::process::ExitStatusExt::signal(&status.status)), (vec![], Some(15)));
    });
}

#[test]
fn a_signal_is_never_sent_to_everybody() {
    for (pid, group) in [(0, false), (0, true), (1, false), (1, true), (u32::MAX, false)] {
        assert_eq!(sandbox::send(pid, group, 0).unwrap_err().errno(), Some(libc::ESRCH));
    }
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    sandbox::send(child.id(), false, libc::SIGTERM).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGTERM));
}
