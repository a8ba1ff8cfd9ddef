//! An engine on a host, and our server beside it.

use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use linux::netns::NetNs;

use crate::bed::daemon::ADIT;
use crate::bed::fake::{FakeHost, Inside};
use crate::bed::image::Image;
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{PATIENCE, wait_for};

/// The client that comes with the engine.
const DOCKER: &str = "/usr/bin/docker";

/// How long an engine may take to start.
const START: Duration = Duration::from_secs(40);

/// The image of all containers.
pub(crate) const IMAGE: &str = "localhost/busybox:1";

/// A host that is a node, with an engine. All of it vanishes with this value.
pub(crate) struct Engine<'h, 'a> {
    pub(crate) host: &'h FakeHost<'a>,
    dockerd: Option<Inside<'h, 'a>>,
    options: Vec<String>,
}

impl<'h, 'a> Engine<'h, 'a> {
    /// Starts one with these further options, and an image.
    pub(crate) fn start(host: &'h FakeHost<'a>, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut engine = Self { host, dockerd: None, options };
        engine.run();
        engine
    }

    /// The image of containers, once per host.
    pub(crate) fn import(&self, image: &Image) {
        self.docker(&["import", image.archive().to_str().unwrap(), IMAGE]);
    }

    /// Starts it, as after its end.
    pub(crate) fn run(&mut self) {
        let group = format!("--cgroup-parent=/{}", self.host.cgroup());
        let mut arguments = vec![group.as_str(), "--storage-driver=vfs", "--log-level=warn"];
        arguments.extend(self.options.iter().map(String::as_str));
        let mut dockerd = self.host.spawn("/usr/sbin/dockerd", &arguments);
        let deadline = Instant::now() + START;
        while !self.host.try_run(DOCKER, &["version"]).status.success() {
            let late = Instant::now() > deadline;
            assert!(!late && !dockerd.has_ended(), "the engine does not start:\n{}", dockerd.said());
            thread::sleep(Duration::from_millis(50));
        }
        self.dockerd = Some(dockerd);
    }

    /// Kills it.
    pub(crate) fn crash(&mut self) {
        self.dockerd.take().unwrap().crash();
        // Its own part, which it starts, outlives it for a moment.
        self.await_no("containerd");
    }

    /// Ends it.
    pub(crate) fn terminate(&mut self) {
        self.dockerd.take().unwrap().terminate();
        self.await_no("containerd");
    }

    fn await_no(&self, program: &str) {
        self.host.try_run("pkill", &["--pidfile", "/run/docker/containerd/containerd.pid"]);
        wait_for(program, || (!self.host.try_run("pgrep", &["-x", program]).status.success()).then_some(()));
    }

    /// Runs a command of Docker's, which is to succeed; answers what it prints.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.host.try_run(DOCKER, arguments);
        let said = self.dockerd.as_ref().map(Inside::said).unwrap_or_default();
        assert!(output.status.success(), "docker {arguments:?} on {}: {output:?}\n{said}", self.host.name());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs one that is to fail; answers why.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.host.try_run(DOCKER, arguments);
        assert!(!output.status.success(), "docker {arguments:?} succeeds: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Makes a network, as people are told to.
    pub(crate) fn network(&self, name: &str, options: &[&str]) {
        self.docker(&[&["network", "create", "-d", "adit", "--ipam-driver", "adit"], options, &[name]].concat());
    }

    /// Starts a container that serves a page on port 80.
    pub(crate) fn container(&self, name: &str, options: &[&str]) -> Container<'_, 'h, 'a> {
        let serve = ["sh", "-c", "echo $HOSTNAME >/www/index.html; exec httpd -f -p 80 -h /www"];
        let run = ["run", "-d", "--name", name, "--hostname", name, "--stop-signal", "KILL"];
        self.docker(&[&run, options, &[IMAGE], &serve].concat());
        Container { engine: self, name: name.to_owned() }
    }

    /// What stands in the chain for the administrator, of one family.
    pub(crate) fn docker_user(&self, program: &str) -> Vec<String> {
        let output = self.host.try_run(program, &["--wait", "5", "-S", "DOCKER-USER"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("adit")).map(str::to_owned).collect()
    }

    /// What a page says that is fetched on the host.
    pub(crate) fn fetch(&self, from: &str) -> Option<String> {
        let line = format!("busybox wget -qO- {from}");
        let output = self.host.try_run("timeout", &["3", "sh", "-c", &line]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

/// The rights that packaging/adit-docker.service leaves our server, as setpriv(1) takes all others.
const RIGHTS: [&str; 3] = ["--no-new-privs", "--bounding-set", "-all,+net_admin,+net_raw,+net_bind_service"];

/// Our server on a host.
pub(crate) fn plugin<'h, 'a>(host: &'h FakeHost<'a>, options: &[&str]) -> Inside<'h, 'a> {
    let plugin = host.spawn("setpriv", &[&RIGHTS[..], &[ADIT, "docker-plugin"], options].concat());
    let line = plugin.lines.recv_timeout(PATIENCE);
    assert!(matches!(&line, Ok(line) if line.contains("is ready")), "{line:?}: {}", plugin.said());
    plugin
}

/// A container of an engine's.
pub(crate) struct Container<'e, 'h, 'a> {
    engine: &'e Engine<'h, 'a>,
    name: String,
}

impl Container<'_, '_, '_> {
    fn inspect(&self, format: &str) -> String {
        self.engine.docker(&["inspect", "-f", format, &self.name])
    }

    /// Its addresses, that of IPv4 first.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let text = self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}");
        text.split_whitespace().map(|text| text.parse().unwrap()).collect()
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.addresses()[0]
    }

    pub(crate) fn namespace(&self) -> NetNs {
        let pid = self.inspect("{{.State.Pid}}");
        NetNs::open(&self.engine.host.path(&format!("/proc/{pid}/ns/net"))).unwrap()
    }

    /// Runs a line of the shell in it; whether it succeeds, and what it prints.
    pub(crate) fn exec(&self, line: &str) -> (bool, String) {
        let output = self.engine.host.try_run(DOCKER, &["exec", &self.name, "sh", "-c", line]);
        (output.status.success(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// Whether one ping is answered.
    pub(crate) fn pings(&self, to: IpAddr) -> bool {
        self.exec(&format!("ping -c 1 -W 1 {to}")).0
    }

    /// Waits until pings are answered.
    pub(crate) fn reaches(&self, to: IpAddr) {
        wait_for(&format!("an answer of {to} to {}", self.name), || self.pings(to).then_some(()));
    }

    /// Both exchange pings and TCP, by each of their addresses.
    pub(crate) fn talks(&self, other: &Container<'_, '_, '_>) {
        let (ours, theirs) = (self.addresses(), other.addresses());
        let (here, there) = (self.namespace(), other.namespace());
        for (from, to) in ours.iter().zip(&theirs) {
            self.reaches(*to);
            other.reaches(*from);
            exchange_tcp(End::new(&here, *from), End::new(&there, *to), 300_000, 200_000);
            exchange_tcp(End::new(&there, *to), End::new(&here, *from), 200_000, 300_000);
        }
    }

    /// Removes it, also while it runs.
    pub(crate) fn remove(self) {
        self.engine.docker(&["rm", "-f", &self.name]);
    }
}

/// The records that a node has of containers.
pub(crate) fn records(host: &FakeHost<'_>) -> usize {
    let path = host.path("/var/lib/adit/adit0.containers");
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| Path::new(&entry.file_name()).extension().is_some_and(|end| end == "json")).count()
}

/// What there is on a host, but for what counts, and what a node keeps of addresses that it gave out.
pub(crate) fn traces(host: &FakeHost<'_>) -> Vec<String> {
    let lines = host.traces().into_iter().filter(|line| !line.ends_with("/last") && !line.ends_with("/lock"));
    lines.map(|line| without_counts(&line)).collect()
}

fn without_counts(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let is_count = |n: usize| n > 0 && matches!(words[n - 1], "packets" | "bytes");
    let kept: Vec<&str> = words.iter().enumerate().filter(|(n, _)| !is_count(*n)).map(|(_, word)| *word).collect();
    kept.join(" ")
}

/// Waits until the traces are those of before.
pub(crate) fn await_traces(host: &FakeHost<'_>, before: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = traces(host);
        let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let less: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        if more.is_empty() && less.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{}: too much: {more:#?}, too little: {less:#?}", host.name());
        thread::sleep(Duration::from_millis(50));
    }
}
