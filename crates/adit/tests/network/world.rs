//! Hosts that make a network as a person would, by the verbs, and containers on a bridge of each.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use adit::api::status::NetworkStatus;
use adit::api::{self, Status};
use ipnet::IpNet;
use linux::netlink::{Link, LinkChange, Netlink, Route, VethEnd};
use linux::netns::NetNs;
use linux::sysctl;
use tempfile::TempDir;

use crate::bed::attached::Attached;
use crate::bed::daemon::ADIT;
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Family, Host, PATIENCE, await_address, wait_for};

/// One host with directories of its own, as if it had a disk of its own.
pub(crate) struct Node<'a> {
    pub(crate) host: &'a Host,
    pub(crate) directory: TempDir,
}

impl<'a> Node<'a> {
    pub(crate) fn new(host: &'a Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { host, directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(&self) -> String {
        self.path("adit.toml").to_str().unwrap().to_owned()
    }

    /// The program, on this host and with its directories.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ADIT);
        command.args(arguments).stdin(Stdio::null());
        command.env("ADIT_RUNTIME_DIR", self.path("run")).env("ADIT_STATE_DIR", self.path("state"));
        command.env("ADIT_WIREGUARD_DIR", self.path("wireguard"));
        command
    }

    pub(crate) fn try_adit(&self, arguments: &[&str]) -> Output {
        self.host.namespace.run(|| self.command(arguments).output()).unwrap().unwrap()
    }

    /// Runs a verb, which is to succeed; answers what it prints.
    pub(crate) fn adit(&self, arguments: &[&str]) -> String {
        let output = self.try_adit(arguments);
        assert!(output.status.success(), "adit {arguments:?}: {}\n{}", said(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb, which is to fail; answers its sentence.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.try_adit(arguments);
        assert!(!output.status.success(), "adit {arguments:?} succeeds: {}", String::from_utf8_lossy(&output.stdout));
        said(&output)
    }

    /// Makes a network; answers the token for the next host.
    pub(crate) fn init(&self, arguments: &[&str]) -> String {
        let name = format!("host{}", self.host.number);
        let file = self.file();
        let all: Vec<&str> =
            ["init", "--config", &file, "--name", &name, "--no-start"].iter().chain(arguments).copied().collect();
        token(&self.adit(&all))
    }

    /// A token more.
    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let all: Vec<&str> = ["token", "create"].iter().chain(arguments).copied().collect();
        token(&self.adit(&all))
    }

    /// Joins a network.
    pub(crate) fn join(&self, token: &str) {
        let name = format!("host{}", self.host.number);
        self.adit(&["join", token, "--config", &self.file(), "--name", &name, "--no-start"]);
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn up(&self) -> Daemon<'_, 'a> {
        let file = self.file();
        self.up_with(&["up", "--config", &file])
    }

    /// The same with other arguments.
    pub(crate) fn up_with(&self, arguments: &[&str]) -> Daemon<'_, 'a> {
        let daemon = self.spawn(arguments);
        match daemon.lines.recv_timeout(PATIENCE) {
            Ok(line) => assert!(line.contains(" is up: "), "{line}"),
            Err(_) => panic!("the daemon does not become ready:\n{}", self.log()),
        }
        daemon
    }

    /// Starts the daemon; none if it gives up.
    pub(crate) fn try_up(&self) -> Option<Daemon<'_, 'a>> {
        let daemon = self.spawn(&["up", "--config", &self.file()]);
        daemon.lines.recv_timeout(PATIENCE).ok().map(|_| daemon)
    }

    /// Starts the daemon without waiting.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Daemon<'_, 'a> {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command(arguments);
        let own: Vec<&str> = ["resolv.conf", "group"].into_iter().filter(|name| self.path(name).exists()).collect();
        if !own.is_empty() {
            // As if the host had files of its own.
            let mounts = own.iter().map(|name| format!("mount --bind \"$0/{name}\" /etc/{name} && "));
            let script = mounts.collect::<String>() + "exec \"$@\"";
            let mut within = Command::new("unshare");
            within.args(["--mount", "sh", "-c", &script]).arg(self.directory.path()).arg(ADIT).args(arguments);
            within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
            command = within;
        }
        let spawn = || command.stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = self.host.namespace.run(spawn).unwrap().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Daemon { node: self, child, lines }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The lease as flannel's file has it: a variable.
    pub(crate) fn subnet_env(&self, name: &str) -> String {
        self.find_in_subnet_env(name).unwrap_or_else(|| panic!("{name} is not in subnet.env"))
    }

    fn find_in_subnet_env(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path("run/subnet.env")).unwrap();
        text.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).map(str::to_owned)
    }

    /// A container on a bridge of this host, as any runtime makes one from the lease: the first address is the bridge's, this one's the second.
    pub(crate) fn container(&self) -> Container {
        let mut outside = self.host.netlink();
        outside.create_bridge("br0", Some([2, 0, 0, 0, 1, 1])).unwrap();
        let bridge = outside.existing_link("br0").unwrap().index;
        outside.set_up(bridge, true).unwrap();
        let namespace = NetNs::anonymous().unwrap();
        namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
        Netlink::open_in(&namespace).unwrap().set_up(1, true).unwrap();
        let ends = (
            VethEnd { name: "c0", ..VethEnd::default() },
            VethEnd { name: "eth0", netns: Some(&namespace), ..VethEnd::default() },
        );
        outside.create_veth(&ends.0, &ends.1).unwrap();
        let port = outside.existing_link("c0").unwrap().index;
        let change = LinkChange { controller: Some(Some(bridge)), up: Some(true), ..LinkChange::default() };
        outside.change_link(port, &change).unwrap();
        let mut inside = Netlink::open_in(&namespace).unwrap();
        let index = inside.existing_link("eth0").unwrap().index;
        inside.set_up(index, true).unwrap();
        let mtu = self.subnet_env("FLANNEL_MTU").parse().unwrap();
        inside.change_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).unwrap();
        let mut addresses = Vec::new();
        for (name, everywhere) in [("FLANNEL_SUBNET", "0.0.0.0/0"), ("FLANNEL_IPV6_SUBNET", "::/0")] {
            let Some(gateway) = self.find_in_subnet_env(name) else { continue };
            let gateway: IpNet = gateway.parse().unwrap();
            let address = match gateway.addr() {
                IpAddr::V4(first) => IpAddr::from(Ipv4Addr::from(u32::from(first) + 1)),
                IpAddr::V6(first) => IpAddr::from(Ipv6Addr::from(u128::from(first) + 1)),
            };
            outside.add_address(bridge, gateway, true).unwrap();
            inside.add_address(index, IpNet::new(address, gateway.prefix_len()).unwrap(), true).unwrap();
            await_address(&namespace, address);
            await_address(&self.host.namespace, gateway.addr());
            let route = Route::new(everywhere.parse().unwrap());
            inside.add_route(&Route { gateway: Some(gateway.addr()), device: Some(index), ..route }).unwrap();
            addresses.push(address);
        }
        Container { namespace, address: addresses[0], addresses }
    }

    /// Takes the bridge of containers away.
    pub(crate) fn remove_bridge(&self) {
        let mut netlink = self.host.netlink();
        for name in ["c0", "br0"] {
            if let Some(link) = netlink.link(name).unwrap() {
                netlink.delete_link(link.index).unwrap();
            }
        }
    }

    pub(crate) fn underlay(&self) -> IpAddr {
        self.host.underlay(Family::V4)
    }

    /// Adds a line to the configuration, under its last heading, which is `[network]`.
    pub(crate) fn configure(&self, line: &str) {
        let text = fs::read_to_string(self.file()).unwrap();
        fs::write(self.file(), format!("{text}{line}\n")).unwrap();
    }

    /// The device of the node.
    pub(crate) fn device(&self) -> Link {
        self.host.netlink().existing_link("adit0").unwrap()
    }

    /// Waits until nobody reads from the device, as is so a moment after a daemon's end.
    pub(crate) fn await_no_reader(&self) {
        wait_for("a device without a reader", || (!self.device().running).then_some(()));
    }

    /// All files under this host's directory, as `path mode content`; the log is the test's.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                let shown = path.strip_prefix(&self.directory).unwrap().display().to_string();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if metadata.is_dir() {
                    folders.push(path);
                }
                if shown != "log" {
                    files.push(format!("{shown} {:o} {content:02x?}", metadata.permissions().mode()));
                }
            }
        }
        files.sort();
        files
    }

    /// All of the host's network that a daemon could change, as programs print it.
    pub(crate) fn state(&self) -> Vec<String> {
        let commands = [
            "ip link",
            "ip address",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
            "ip neighbour show proxy",
            "ip -6 neighbour show proxy",
            "nft list ruleset",
            "ls -A /run/netns",
            "sysctl -a -r ^net[.](core|ipv4|ipv6|netfilter|unix)[.]",
        ];
        let mut lines = Vec::new();
        for command in commands {
            let mut words = command.split(' ');
            let (program, arguments) = (words.next().unwrap(), words);
            let output = self.host.namespace.run(|| Command::new(program).args(arguments).output()).unwrap().unwrap();
            // Some settings cannot be read, and the directory of named namespaces need not be there.
            let may_fail = matches!(program, "sysctl" | "ls");
            assert!(output.status.success() || may_fail, "{command}: {}", said(&output));
            let text = String::from_utf8(output.stdout).unwrap();
            lines.extend(text.lines().filter(|line| !is_volatile(line)).map(|line| format!("{command}: {line}")));
        }
        lines.sort();
        lines
    }

    /// Checks that the host's network is as it was.
    pub(crate) fn check_state(&self, before: &[String]) {
        let after = self.state();
        let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let less: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        assert!(more.is_empty() && less.is_empty(), "too much: {more:#?}, too little: {less:#?}");
    }
}

/// Whether a line tells of something that changes by itself: what is counted, what ends, what the kernel computes.
fn is_volatile(line: &str) -> bool {
    ["nf_conntrack_count", "nf_conntrack_dccp", "expires", "tcp_mem", "udp_mem", "route.flush", "file_max"]
        .iter()
        .any(|word| line.contains(word))
}

/// A network of these hosts, with a daemon on each; all know each other when this returns.
pub(crate) fn network<'n, 'h>(nodes: &'n [Node<'h>], arguments: &[&str]) -> Vec<Daemon<'n, 'h>> {
    let uses = nodes.len().to_string();
    let token = nodes[0].init(&[arguments, &["--uses", &uses]].concat());
    let mut daemons = vec![nodes[0].up()];
    for node in &nodes[1..] {
        node.join(&token);
        daemons.push(node.up());
    }
    daemons.iter().for_each(|daemon| daemon.await_nodes(nodes.len() - 1));
    daemons
}

/// What a verb said on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The token in what a verb printed.
pub(crate) fn token(text: &str) -> String {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("adit join "));
    line.unwrap_or_else(|| panic!("no token in {text}")).to_owned()
}

/// A namespace behind a bridge.
pub(crate) struct Container {
    pub(crate) namespace: NetNs,
    /// The first of them.
    pub(crate) address: IpAddr,
    /// One of each family that the network has.
    pub(crate) addresses: Vec<IpAddr>,
}

impl From<Attached> for Container {
    fn from(attached: Attached) -> Self {
        let addresses: Vec<_> = attached.record.addresses.iter().map(IpNet::addr).collect();
        Self { namespace: attached.namespace, address: addresses[0], addresses }
    }
}

impl Container {
    pub(crate) fn end(&self) -> End<'_> {
        End::new(&self.namespace, self.address)
    }

    /// Whether one ping to an address is answered.
    pub(crate) fn pings(&self, to: IpAddr) -> bool {
        let run = || Command::new("ping").args(["-c", "1", "-W", "1", "-n", &to.to_string()]).output();
        self.namespace.run(run).unwrap().unwrap().status.success()
    }

    /// Waits until pings to an address are answered.
    pub(crate) fn reaches(&self, to: &Self) {
        for address in &to.addresses {
            wait_for(&format!("an answer of {address} to {}", self.address), || self.pings(*address).then_some(()));
        }
    }
}

/// Each of them exchanges pings and TCP with each other.
pub(crate) fn all_talk(containers: &[Container]) {
    for (i, one) in containers.iter().enumerate() {
        for other in &containers[i + 1..] {
            one.reaches(other);
            other.reaches(one);
            for (a, b) in one.addresses.iter().zip(&other.addresses) {
                exchange_tcp(End::new(&one.namespace, *a), End::new(&other.namespace, *b), 300_000, 200_000);
            }
        }
    }
}

/// A daemon. It is killed when this is dropped.
pub(crate) struct Daemon<'n, 'h> {
    pub(crate) node: &'n Node<'h>,
    pub(crate) child: Child,
    pub(crate) lines: mpsc::Receiver<String>,
}

impl Daemon<'_, '_> {
    pub(crate) fn status(&self) -> Status {
        match api::status(&self.node.path("run"), "adit0") {
            Ok(status) => status,
            Err(e) => panic!("{e}\n{}", self.node.log()),
        }
    }

    pub(crate) fn network(&self) -> NetworkStatus {
        self.status().network.expect("it is a node")
    }

    /// Waits until it knows so many other nodes.
    pub(crate) fn await_nodes(&self, count: usize) {
        wait_for(&format!("{count} other nodes of host{}", self.node.host.number), || {
            (self.network().nodes.len() == count).then_some(())
        });
    }

    /// Waits until something is said to be wrong.
    pub(crate) fn await_problem(&self, part: &str) -> String {
        wait_for(&format!("a problem with {part:?}"), || {
            self.network().problems.into_iter().find(|problem| problem.contains(part))
        })
    }

    pub(crate) fn subnet(&self) -> IpNet {
        wait_for("a subnet", || self.network().subnets.first().copied())
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn crash(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    pub(crate) fn terminate(mut self) {
        self.signal("TERM");
        self.await_end();
    }

    /// Waits until it ends well.
    pub(crate) fn await_end(&mut self) {
        let status = wait_for("the daemon's end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.node.log());
    }
}

impl Drop for Daemon<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let status = api::status(&self.node.path("run"), "adit0");
            let told =
                status.map_or_else(|e| e.to_string(), |s| format!("{:?}\n{:?}\n{:?}", s.network, s.peers, s.drops));
            eprintln!("---- host{}: {told}\n{}", self.node.host.number, self.node.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
