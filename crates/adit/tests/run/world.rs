//! A node without a daemon, and the program on it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use adit::Directories;
use adit::container::{Door, Key, Node, Place, Record, Request, Store, attach};
use linux::netns::NetNs;
use linux::poll::readable;
use serde_json::Value;
use tempfile::TempDir;

use crate::bed::daemon::ADIT;
use crate::bed::{Bed, Host, PATIENCE, wait_for};

/// The address of the bridge of the node, and of the first containers.
pub(crate) const GATEWAY: &str = "10.42.7.1";
pub(crate) const FIRST: &str = "10.42.7.2";

/// The program on a host, with directories of its own.
#[derive(Clone, Copy)]
pub(crate) struct Program<'a> {
    pub(crate) host: &'a Host,
    pub(crate) directory: &'a Path,
}

/// A host that is a node.
pub(crate) struct World {
    pub(crate) bed: Bed,
    directory: TempDir,
    /// The names of devices and tables before anything was made.
    before: (Vec<String>, String),
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&["10.42.7.0/24", "fd42:0:0:7::/64"], Some("adit"))
    }

    pub(crate) fn with(subnets: &[&str], domain: Option<&str>) -> Self {
        let (bed, directory) = (Bed::new(1), tempfile::tempdir().unwrap());
        let node = Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: domain.map(str::to_owned),
            bridge: "adit-br0".into(),
            networks: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1420,
            clients: Vec::new(),
            containers: None,
        };
        let mut world = Self { bed, directory, before: Default::default() };
        node.write(&world.program().directories()).unwrap();
        world.before = world.program().made();
        world
    }

    pub(crate) fn program(&self) -> Program<'_> {
        Program { host: self.bed.host(1), directory: self.directory.path() }
    }

    /// Checks that nothing of any container is on the host.
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.program().made(), self.before, "{:?}", self.program().store().read_all());
        assert_eq!(self.program().store().read_all().unwrap(), []);
    }
}

impl<'a> Program<'a> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn directories(&self) -> Directories {
        Directories { runtime: self.path("run"), state: self.path("state"), ..Directories::default() }
    }

    pub(crate) fn store(&self) -> Store {
        Store::of(&self.directories(), "adit0")
    }

    /// The record of the container of this name, once it is there.
    pub(crate) fn record(&self, name: &str) -> Record {
        wait_for(&format!("the container {name}"), || {
            self.store().read_all().unwrap().into_iter().find(|record| record.name.as_deref() == Some(name))
        })
    }

    /// Names of devices, and of tables of packet filters.
    fn made(&self) -> (Vec<String>, String) {
        let mut links: Vec<_> = self.host.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        links.sort();
        (links, self.host.run("nft", &["list", "tables"]))
    }

    /// Any program on the host, which finds ours and our directories.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // Whoever runs the tests may ignore signals, which programs inherit.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,QUIT,TSTP", program]).args(arguments).stdin(Stdio::null());
        command.env("ADIT_RUNTIME_DIR", self.path("run")).env("ADIT_STATE_DIR", self.path("state"));
        command.env("ADIT", ADIT).env_remove("ADIT_LOG");
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn adit(&self, arguments: &[&str]) -> Output {
        self.host.namespace.run(|| self.command(ADIT, arguments).output()).unwrap().unwrap()
    }

    /// Runs a verb that is to succeed; answers what it prints.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.adit(arguments);
        assert!(output.status.success(), "adit {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that is to end with this code; answers its only line on standard error.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.adit(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "adit {arguments:?}: {said}");
        assert!(said.starts_with("adit: ") && said.lines().count() == 1, "adit {arguments:?}: {said}");
        said
    }

    /// Starts a program on the host, and goes on.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        Running { child: self.host.namespace.run(|| command.spawn()).unwrap().unwrap(), said: None }
    }

    /// Starts `adit run --name NAME` of a shell script, and waits until the script says `ready`.
    pub(crate) fn container(&self, name: &str, options: &[&str], script: &str) -> Running {
        let arguments = [&["run", "--name", name], options, &["--", "sh", "-c", script]].concat();
        let mut running = self.start(self.command(ADIT, &arguments).stdin(Stdio::piped()).stdout(Stdio::piped()));
        running.said = running.child.stdout.take().map(BufReader::new);
        while running.line() != "ready" {}
        running
    }

    /// All processes that were started with our directories in their environment, by us or by one of them.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let state = format!("ADIT_STATE_DIR={}", self.path("state").display());
        let has_it = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == state.as_bytes())
        };
        numbers().filter(has_it).collect()
    }

    /// Attaches a container `pod` as a runtime does that calls plugins; its namespace is gone when this returns.
    pub(crate) fn attach_pod(&self) -> Key {
        let namespace = NetNs::anonymous().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()).into();
        let key = Key {
            door: Door::Cni,
            network: "adit".into(),
            container: "0123456789abcdef".into(),
            interface: "eth0".into(),
        };
        let request = Request {
            key: key.clone(),
            name: Some("pod".into()),
            wanted: Vec::new(),
            mac: None,
            ports: Vec::new(),
            isolated: false,
            mtu: None,
            default_route: true,
            place: Place::Namespace { namespace, path },
            reservation: None,
            process: None,
        };
        let node = Node::read(&self.directories(), "adit0").unwrap();
        self.host.namespace.run(|| attach(&node, &self.store(), &request)).unwrap().unwrap();
        key
    }

    /// What `adit ps --json` says.
    pub(crate) fn listed(&self) -> Vec<Value> {
        serde_json::from_str(&self.succeeds(&["ps", "--json"])).unwrap()
    }
}

/// A program. It is killed when this is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// What it says from now on.
    said: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn signal(&self, name: &str) {
        send(name, self.child.id());
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> String {
        let said = self.said.as_mut().unwrap();
        if !said.buffer().contains(&b'\n') {
            let [ready] = readable([said.get_ref().as_fd()], Some(PATIENCE)).unwrap();
            assert!(ready, "waited in vain for a line");
        }
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it says no more");
        line.trim_end_matches('\n').to_owned()
    }

    /// Ends it as a person does; by its return nothing is left.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        self.ends();
    }

    /// Waits until it ends.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        wait_for("the end of the program", || self.child.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub(crate) fn send(name: &str, pid: u32) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success());
}

/// The processes whose network namespace is that of this record.
pub(crate) fn inhabitants(record: &Record) -> Vec<u32> {
    let number = record.netns_id.unwrap().1;
    numbers()
        .filter(|pid| {
            let link = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default();
            link.to_str() == Some(&format!("net:[{number}]"))
        })
        .collect()
}

/// The numbers of all processes.
fn numbers() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}
