//! Machines: hosts of the bed on which WireGuard's stock tools find a userspace implementation, ours or another.
//!
//! The tools look for sockets in /run/wireguard and nowhere else, and implementations become daemons. So each machine has a mount
//! and a process namespace of its own, with an empty /run: all that was started in it ends with it.

use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use adit::key::PrivateKey;
use linux::netns::NetNs;
use tempfile::TempDir;

use crate::bed::daemon::ADIT;
use crate::bed::{Bed, Family, Host, wait_for};

/// What makes a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Adit,
    WireguardGo,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Adit => "adit-wireguard",
            Self::WireguardGo => "wireguard-go",
        }
    }
}

/// A host with namespaces of its own for files and processes.
pub(crate) struct Machine {
    namespace: NetNs,
    directory: TempDir,
    /// The first process of the namespace, by its number outside.
    init: u32,
    holder: Child,
}

impl Machine {
    pub(crate) fn new(host: &Host) -> Self {
        Self::within(host.namespace.clone())
    }

    pub(crate) fn within(namespace: NetNs) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        symlink(ADIT, directory.path().join("bin/adit-wireguard")).unwrap();
        symlink(ADIT, directory.path().join("bin/adit")).unwrap();
        let script = "mount -t tmpfs -o mode=755 none /run && mkdir /run/lock && echo ready && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = namespace.run(|| command.spawn()).unwrap().expect("unshare");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let pid = holder.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let init = children.trim().parse().unwrap();
        Self { namespace, directory, init, holder }
    }

    /// A path of a file that all see.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file that nobody else can read; answers its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A script of bash on this machine.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.init)).arg(format!("--pid=/proc/{}/ns/pid", self.init));
        command.args(["bash", "-e", "-o", "pipefail", "-c", script]);
        let path = format!("{}:{}", self.path("bin"), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("ADIT_STATE_DIR", self.path("state"));
        command.env_remove("LOG_LEVEL").env_remove("ADIT_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a script to its end.
    pub(crate) fn run(&self, script: &str) -> Output {
        let mut command = self.command(script);
        self.namespace.run(|| command.output()).unwrap().unwrap()
    }

    /// Runs a script that is to succeed; answers what it prints, without the last line feed.
    #[track_caller]
    pub(crate) fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        let (said, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}: {}\n{said}\n{errors}", output.status);
        said.trim_end_matches('\n').to_owned()
    }

    /// Runs a script that is to fail; answers its code and what it said about that.
    #[track_caller]
    pub(crate) fn fails(&self, script: &str) -> (Option<i32>, String) {
        let output = self.run(script);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{script} succeeds: {}", String::from_utf8_lossy(&output.stdout));
        (output.status.code(), errors)
    }

    /// A script that goes on, and is killed when this is dropped.
    pub(crate) fn spawn(&self, script: &str) -> Background {
        let mut command = self.command(script);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Background { child: Some(self.namespace.run(|| command.spawn()).unwrap().unwrap()), script: script.to_owned() }
    }

    /// `wg` with these words, which are to be taken.
    #[track_caller]
    pub(crate) fn wg(&self, words: &str) -> String {
        self.ok(&format!("wg {words}"))
    }

    /// The lines of a table of `wg`, each in its fields.
    #[track_caller]
    pub(crate) fn table(&self, words: &str) -> Vec<Vec<String>> {
        let fields = |line: &str| line.split('\t').map(str::to_owned).collect();
        self.wg(words).lines().map(fields).collect()
    }

    /// Packets that have come out of a device.
    fn received(&self, device: &str) -> u64 {
        let script = format!("awk '$1 == \"{device}:\" {{ print $3 }}' /proc/net/dev");
        self.ok(&script).parse().unwrap()
    }

    /// Packets that the kernel lost at the queues of this machine's devices and sockets, since nobody took them in time; and those of the
    /// whole computer's backlog.
    pub(crate) fn lost_in_queues(&self) -> u64 {
        let script = "ip -s -j link | python3 -c 'import json, sys\n\
            lost = sum(l[\"stats64\"][way][\"dropped\"] for l in json.load(sys.stdin) for way in (\"rx\", \"tx\"))\n\
            snmp = [line.split() for line in open(\"/proc/net/snmp\") if line.startswith(\"Udp:\")]\n\
            lost += int(dict(zip(*snmp))[\"RcvbufErrors\"])\n\
            lost += sum(int(line.split()[1], 16) for line in open(\"/proc/net/softnet_stat\"))\n\
            print(lost)'";
        self.ok(script).parse().unwrap()
    }

    /// A flood of pings by a device that carries nothing else, each of which is to be answered. The device says so: `ping` does not wait
    /// for the last answer longer than for two of the others.
    #[track_caller]
    pub(crate) fn flood(&self, device: &str, count: u64, to: impl Display) {
        let before = self.received(device);
        self.run(&format!("ping -q -c {count} -f -W 5 {to}"));
        wait_for(&format!("{count} answers of {to}"), || (self.received(device) >= before + count).then_some(()));
    }

    /// Sends so many datagrams to a port of [`echo`](Self::echo), one each two milliseconds; its end answers how many did not come back.
    pub(crate) fn steady(&self, to: impl Display, count: usize) -> Background {
        let script = self.write(
            "steady.py",
            "import select, socket, sys, time\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)\n\
             s.connect((sys.argv[1], 7))\n\
             missing = set()\n\
             def take(wait):\n \
               while select.select([s], [], [], wait)[0]:\n  \
                 missing.discard(int(s.recv(99)))\n  \
                 wait = 0\n\
             for n in range(int(sys.argv[2])):\n \
               missing.add(n)\n \
               s.send(str(n).encode())\n \
               take(0.002)\n\
             end = time.time() + 10\n\
             while missing and time.time() < end: take(0.1)\n\
             print(len(missing))\n",
        );
        self.spawn(&format!("exec python3 {script} {to} {count}"))
    }

    /// Sends back what comes to port 7 of an address.
    pub(crate) fn echo(&self, address: impl Display) -> Background {
        let script = self.write(
            "echo.py",
            "import socket, sys\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)\n\
             s.bind((sys.argv[1], 7))\n\
             while True: s.sendto(*s.recvfrom(99))\n",
        );
        let echo = self.spawn(&format!("exec python3 {script} {address}"));
        wait_for("the echo", || self.ok("ss -ulnH").contains(&format!("{address}:7 ")).then_some(()));
        echo
    }

    /// Processes of a program.
    pub(crate) fn processes(&self, name: &str) -> Vec<u32> {
        let found = self.ok(&format!("pgrep -f {name} || true"));
        // The shell that asks has the name in its own command line.
        let is_one = |pid: &u32| {
            let line = self.ok(&format!("tr '\\0' ' ' < /proc/{pid}/cmdline || true"));
            !line.is_empty() && !line.contains("pgrep") && !line.starts_with("bash")
        };
        found.lines().map(|line| line.parse().unwrap()).filter(is_one).collect()
    }

    /// Waits until nothing is left of a device: link, socket, process.
    pub(crate) fn await_gone(&self, device: &str) {
        let is_gone = || {
            let link = self.run(&format!("ip link show dev {device}"));
            let socket = self.run(&format!("test -e /run/wireguard/{device}.sock"));
            let process = self.processes(&format!("[w]ireguard.*{device}"));
            (!link.status.success() && !socket.status.success() && process.is_empty()).then_some(())
        };
        wait_for(&format!("{device} to be gone"), is_gone);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let said = self.run("wg show all dump 2>&1; ip -br addr; cat /proc/net/dev | head -8");
            eprintln!("---- {}", String::from_utf8_lossy(&said.stdout));
        }
        // The end of the first process is that of all others.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A script that goes on.
pub(crate) struct Background {
    child: Option<Child>,
    script: String,
}

impl Background {
    /// Waits for its end, which is to be a success; answers what it printed.
    pub(crate) fn end(mut self) -> String {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {}\n{said}\n{errors}", self.script, output.status);
        said.into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // All of its group: `nsenter` has a child of its own in the namespace of processes.
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            let status = child.wait();
            if thread::panicking() {
                let mut errors = String::new();
                let _ = child.stderr.take().map(|mut stream| stream.read_to_string(&mut errors));
                eprintln!("---- {}: {status:?}\n{errors}", self.script);
            }
        }
    }
}

/// A new private key and its public half, as text.
pub(crate) fn keys() -> (String, String) {
    let key = PrivateKey::generate().unwrap();
    let mut text = Vec::new();
    key.write(&mut text).unwrap();
    (String::from_utf8(text).unwrap().trim().to_owned(), key.public_key().to_string())
}

/// Words of bash for a file with this content, which `wg` reads keys from.
pub(crate) fn file(text: &str) -> String {
    format!("<(echo '{text}')")
}

/// Two machines with a device `wg0` each, which know each other.
pub(crate) struct Pair {
    // Machines first: what runs in them ends before the bed does.
    pub(crate) machines: [Machine; 2],
    pub(crate) private: [String; 2],
    pub(crate) public: [String; 2],
    pub(crate) bed: Bed,
    pub(crate) outer: Family,
}

/// The port of machine n, less n.
pub(crate) const PORTS: u16 = 51820;

impl Pair {
    /// The first is ours. Both know where the other is.
    pub(crate) fn new(other: Program, outer: Family) -> Self {
        let bed = Bed::new(2);
        let machines = [1, 2].map(|number| Machine::new(bed.host(number)));
        let [(private1, public1), (private2, public2)] = [keys(), keys()];
        let pair = Self { machines, private: [private1, private2], public: [public1, public2], bed, outer };
        for (number, program) in [(1, Program::Adit), (2, other)] {
            pair.start(number, program);
            pair.set_up(number);
        }
        pair
    }

    /// Two of ours.
    pub(crate) fn ours() -> Self {
        Self::new(Program::Adit, Family::V4)
    }

    pub(crate) fn start(&self, number: usize, program: Program) {
        self.machine(number).ok(&format!("{} wg0", program.name()));
    }

    /// Gives a device its key, its peer and its addresses.
    pub(crate) fn set_up(&self, number: usize) {
        let other = 3 - number;
        let machine = self.machine(number);
        let endpoint = self.endpoint(other);
        let [inner4, inner6] = [Family::V4, Family::V6].map(|family| self.inner(other, family));
        machine.wg(&format!(
            "set wg0 private-key {} listen-port {} peer {} endpoint {endpoint} allowed-ips {inner4}/32,{inner6}/128",
            file(&self.private[number - 1]),
            port(number),
            self.public[other - 1],
        ));
        let [own4, own6] = [Family::V4, Family::V6].map(|family| self.inner(number, family));
        machine.ok(&format!(
            "ip addr add {own4}/24 dev wg0; ip addr add {own6}/64 dev wg0 nodad; ip link set wg0 up mtu 1420"
        ));
        self.bed.host(number).await_address(own6);
    }

    pub(crate) fn machine(&self, number: usize) -> &Machine {
        &self.machines[number - 1]
    }

    /// Its address in the tunnel.
    pub(crate) fn inner(&self, number: usize, family: Family) -> IpAddr {
        self.bed.host(number).inner(family)
    }

    /// Its address on the underlay.
    pub(crate) fn underlay(&self, number: usize) -> IpAddr {
        self.bed.host(number).underlay(self.outer)
    }

    /// Where it is, as `wg` shows it.
    pub(crate) fn endpoint(&self, number: usize) -> String {
        crate::bed::at(self.underlay(number), port(number)).to_string()
    }

    /// One ping from a machine to the other.
    #[track_caller]
    pub(crate) fn ping(&self, from: usize, family: Family) {
        self.machine(from).ok(&format!("ping -c 1 -W 5 {}", self.inner(3 - from, family)));
    }

    /// Whether a machine's ping is answered.
    pub(crate) fn pings(&self, from: usize, family: Family) -> bool {
        self.machine(from).run(&format!("ping -c 1 -W 1 {}", self.inner(3 - from, family))).status.success()
    }

    /// Where a machine believes the other to be.
    pub(crate) fn shown_endpoint(&self, at: usize) -> String {
        let key = &self.public[2 - at];
        let rows = self.machine(at).table("show wg0 endpoints");
        rows.into_iter().find(|row| row[0] == *key).unwrap().swap_remove(1)
    }

    /// Bytes received and sent, by a machine's own count.
    pub(crate) fn transfer(&self, at: usize) -> (u64, u64) {
        let rows = self.machine(at).table("show wg0 transfer");
        (rows[0][1].parse().unwrap(), rows[0][2].parse().unwrap())
    }
}

pub(crate) fn port(number: usize) -> u16 {
    PORTS + number as u16
}
