//! Hosts on which real runtimes run: beside a network namespace each has a mount, a hostname and a process namespace, and in them
//! its own `/run`, `/etc`, `/opt`, `/var/lib`, `/proc` and `/sys`. Programs in them have the paths and defaults that they have anywhere.
//!
//! The first process of such a host reads from a pipe of ours and ends with it; all others end with that one, as the kernel
//! has it for process namespaces, and with the last the mounts. So nothing outlives a test, also if it was killed, but the control groups.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::daemon::ADIT;
use super::{Host, PATIENCE, wait_at_most, wait_for};

/// What is on the disk of a host before it is started for the first time.
const DISK: &str = r#"
mkdir "$1/cgroup" "$1/etc" "$1/opt" "$1/lib"
cp -a /etc/. "$1/etc"
echo "127.0.0.1 localhost $2" >"$1/etc/hosts"
rm -rf "$1"/etc/adit "$1"/etc/cni "$1"/etc/containers/containers.conf
"#;

/// The first process: makes the host, says so, reaps what others leave behind, and ends when its standard input does.
const FIRST: &str = r#"
set -e
echo "$2" >/proc/sys/kernel/hostname
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount --bind "$1/etc" /etc
mount --bind "$1/opt" /opt
mount --bind "$1/lib" /var/lib
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 shm /dev/shm
mkdir -p /run/lock /run/children
exec 3<&0
cat <&3 >/dev/null &
echo made
wait $!
"#;

/// How long a program on such a host may take, in seconds; then it is killed.
const BOUND: &str = "60";

/// A host with everything of its own. It vanishes with this value.
pub(crate) struct FakeHost<'a> {
    pub(crate) host: &'a Host,
    first: Child,
    children: AtomicU32,
    cgroup: String,
    /// A directory that all hosts see by the same path; files of this host's.
    pub(crate) directory: TempDir,
}

impl<'a> FakeHost<'a> {
    /// Makes one of a host of the bed.
    pub(crate) fn new(host: &'a Host) -> Self {
        let mapping = fs::read_to_string("/proc/self/uid_map").unwrap();
        let is_root = mapping.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
        assert!(is_root, "runtimes of containers need root itself, not that of a user namespace: run ./test as root");
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let name = format!("host{}", host.number);
        let made = Command::new("sh").args(["-ec", DISK, "disk"]).arg(&disk).arg(&name).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let first = boot(host, &disk, &name);
        let cgroup = format!("adit-test-{}-{}", std::process::id(), first.id());
        Self { host, first, children: AtomicU32::new(0), cgroup, directory }
    }

    /// Cuts its power and starts it again: everything is gone but what is on its disk.
    pub(crate) fn reboot(&mut self) {
        self.end();
        let mut netlink = self.host.netlink();
        for link in netlink.links().unwrap() {
            if !["lo", "under0"].contains(&link.name.as_str()) {
                // The other end of one that went before is gone too.
                let _ = netlink.delete_link(link.index);
            }
        }
        self.host.run("nft", &["flush", "ruleset"]);
        self.host.run("ip", &["route", "flush", "table", "all", "proto", "173"]);
        self.first = boot(self.host, &self.directory.path().join("disk"), &self.name());
    }

    /// Ends the first process, and all others with it, and takes the control groups away.
    fn end(&mut self) {
        drop(self.first.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.first.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // With it goes the first process, and with that all others.
                let _ = self.first.kill();
                let _ = self.first.wait();
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            remove_cgroups(&hierarchy.join(&self.cgroup));
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        format!("host{}", self.host.number)
    }

    /// The control group under which runtimes are to make theirs, a name in the root of each hierarchy. It is taken away at the end.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Where a file of this host is for us. Links in it that are absolute lead elsewhere.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.first.id()))
    }

    /// Writes a file of this host, and the directories that lead there.
    pub(crate) fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap_or_else(|e| panic!("{inside}: {e}"));
    }

    /// The program on this host, without a bound.
    fn enter(&self) -> Command {
        let first = format!("/proc/{}/ns", self.first.id());
        let mut command = Command::new("nsenter");
        command.args(["net", "mnt", "uts"].map(|kind| {
            let option = if kind == "mnt" { "mount" } else { kind };
            format!("--{option}={first}/{kind}")
        }));
        // The first process is a child of the one whose number is known.
        command.arg(format!("--pid={first}/pid_for_children")).arg("--").stdin(Stdio::null());
        command
    }

    /// A program that is run on this host, in the foreground, and killed when it takes a minute.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.enter();
        command.args(["timeout", "--kill-after=5", BOUND, program]).args(arguments);
        command
    }

    /// Runs a program to its end.
    pub(crate) fn try_run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// Runs a program, which is to succeed; answers what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.try_run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?} on {}: {output:?}", self.name());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a line of the shell, which is to succeed; answers what it prints.
    pub(crate) fn shell(&self, line: &str) -> String {
        self.run("sh", &["-ec", line])
    }

    /// Whether one ping from this host is answered.
    pub(crate) fn pings(&self, to: &str) -> bool {
        self.try_run("ping", &["-c", "1", "-W", "1", "-n", to]).status.success()
    }

    /// Starts a program that stays; what it says goes to a file, its lines on standard output to [`Inside::lines`] too.
    pub(crate) fn spawn(&self, program: &str, arguments: &[&str]) -> Inside<'_, 'a> {
        self.spawn_with(program, arguments, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn spawn_with(&self, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Inside<'_, 'a> {
        let number = self.children.fetch_add(1, Ordering::Relaxed);
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        let log = self.directory.path().join(format!("{name}.{number}.log"));
        let number = format!("/run/children/{number}");
        let mut command = self.enter();
        // Which process it is in its own namespace, by which it can be signalled.
        command.args(["sh", "-c", r#"echo $$ >"$0.new"; mv "$0.new" "$0"; exec "$@""#, &number, program]);
        command.args(arguments).envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let (stdout, mut also) = (child.stdout.take().unwrap(), File::options().append(true).open(&log).unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = writeln!(also, "{line}");
                let _ = sender.send(line);
            }
        });
        let process = wait_for(program, || fs::read_to_string(self.path(&number)).ok()).trim().to_owned();
        Inside { on: self, name: name.to_owned(), child, process, log, lines }
    }

    // ---- a node of ours, with the paths that it has by default ------------------------------------------------------------

    /// Runs a verb, which is to succeed; answers what it prints.
    pub(crate) fn adit(&self, arguments: &[&str]) -> String {
        self.run(ADIT, arguments)
    }

    /// Runs a verb, which is to fail; answers its sentence.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.try_run(ADIT, arguments);
        assert!(!output.status.success(), "adit {arguments:?} succeeds: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Makes a network; answers the token for other hosts.
    pub(crate) fn init(&self, arguments: &[&str]) -> String {
        let name = self.name();
        let text = self.adit(&[&["init", "--name", &name, "--no-start"], arguments].concat());
        let line = text.lines().find_map(|line| line.trim().strip_prefix("adit join "));
        line.unwrap_or_else(|| panic!("no token in {text}")).to_owned()
    }

    /// Joins a network.
    pub(crate) fn join(&self, token: &str) {
        self.adit(&["join", token, "--name", &self.name(), "--no-start"]);
    }

    /// Starts the daemon, and waits until it is ready.
    pub(crate) fn up(&self) -> Inside<'_, 'a> {
        let daemon = self.spawn(ADIT, &["up"]);
        let line = daemon.lines.recv_timeout(PATIENCE);
        assert!(matches!(&line, Ok(line) if line.contains(" is up: ")), "{line:?}: {}", daemon.said());
        daemon
    }

    /// A variable of the node's subnet file.
    pub(crate) fn subnet_env(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("/run/adit/subnet.env")).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        value.unwrap_or_else(|| panic!("{name} is not in {text}")).to_owned()
    }

    // ---- what is left -----------------------------------------------------------------------------------------------------

    /// What runtimes and nodes leave on a host: links, addresses, routes, packet filters, named namespaces, records of addresses.
    pub(crate) fn traces(&self) -> Vec<String> {
        let commands = [
            "ip -o link | sed 's/^[0-9]*: //; s/@.*//; s/: .*//'",
            "ip -o address | awk '{ print $2, $4 }'",
            "ip route show table all | sed 's/ linkdown//'",
            "ip rule",
            "nft list ruleset | grep -E '^table|chain|(jump|dnat|snat|masquerade|drop|accept)'",
            "find /run/netns -mindepth 1",
            // The lock and the mark of the latest address stay with the node.
            "find /var/lib/cni /var/lib/adit/*.containers ! -type d ! -name lock ! -name last",
        ];
        let mut lines = Vec::new();
        for command in commands {
            let output = self.try_run("sh", &["-c", command]);
            let text = String::from_utf8(output.stdout).unwrap();
            lines.extend(text.lines().map(|line| format!("{command}: {line}")));
        }
        lines.sort();
        lines
    }

    /// Waits until the traces are those of before.
    pub(crate) fn await_traces(&self, before: &[String]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let after = self.traces();
            if after == before {
                return;
            }
            let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
            let less: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
            assert!(Instant::now() < deadline, "{}: too much: {more:#?}, too little: {less:#?}", self.name());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for FakeHost<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the first process of a host, and waits until it has made it.
fn boot(host: &Host, disk: &Path, name: &str) -> Child {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "--uts", "--pid", "--fork", "--kill-child", "--"]);
    command.args(["sh", "-c", FIRST, "first"]).arg(disk).arg(name);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = host.namespace.run(|| command.spawn()).unwrap().unwrap();
    let line = BufReader::new(first.stdout.take().unwrap()).lines().next();
    assert!(matches!(&line, Some(Ok(line)) if line == "made"), "the first process says {line:?}");
    first
}

/// Removes a control group and those under it. A process that ended may still be counted for a moment.
fn remove_cgroups(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    for _ in 0..200 {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    eprintln!("the control group {} stays", path.display());
}

/// A program that runs on a fake host. It is killed when this is dropped.
pub(crate) struct Inside<'h, 'a> {
    on: &'h FakeHost<'a>,
    name: String,
    child: Child,
    /// Its number within the host.
    process: String,
    log: PathBuf,
    /// What it prints on standard output.
    pub(crate) lines: mpsc::Receiver<String>,
}

impl Inside<'_, '_> {
    /// All that it has said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal: `TERM`, `KILL`, …
    pub(crate) fn signal(&self, name: &str) {
        self.on.run("kill", &["-s", name, &self.process]);
    }

    /// Waits until it has ended.
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_at_most(PATIENCE, &what, || self.child.try_wait().unwrap())
    }

    /// Asks it to end, and waits until it has, well.
    pub(crate) fn terminate(mut self) {
        self.signal("TERM");
        let status = self.await_end();
        assert!(status.success(), "{}: {status}: {}", self.name, self.said());
    }

    /// Kills it.
    pub(crate) fn crash(mut self) {
        self.signal("KILL");
        self.await_end();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Inside<'_, '_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.on.try_run("kill", &["-s", "KILL", &self.process]);
            // Who waits for it in our own namespace ends after it.
            let deadline = Instant::now() + PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("---- {} on {}:\n{}", self.name, self.on.name(), self.said());
        }
    }
}
