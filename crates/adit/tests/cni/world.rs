//! A host that is a node, containers as runtimes prepare them, and calls of plugins: ours, and the stock ones beside it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use adit::Directories;
use adit::api::Claim;
use adit::container::{Door, Key, Node, Record, Store};
use ipnet::IpNet;
use linux::netlink::{Link, Netlink};
use linux::netns::NetNs;
use linux::nft::{Family, Nft};
use linux::sysctl;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bed;

/// The program under test.
pub(crate) const ADIT: &str = env!("CARGO_BIN_EXE_adit");

/// Where Debian puts the stock plugins.
pub(crate) const STOCK: &str = "/usr/lib/cni";

/// All versions that we speak.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The node's subnets, unless a test says otherwise.
pub(crate) const SUBNETS: [&str; 2] = ["10.42.7.0/24", "fd42:0:0:7::/64"];

/// Which plugin makes the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plugin {
    Ours,
    /// The stock bridge, with host-local.
    Stock,
}

/// A host.
pub(crate) struct Host {
    pub(crate) namespace: NetNs,
    pub(crate) node: Node,
    /// What shows that the daemon runs.
    daemon: Mutex<Option<Claim>>,
    pub(crate) directories: Directories,
    pub(crate) directory: TempDir,
}

/// A container as its runtime knows it.
#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) namespace: NetNs,
}

/// A call of a plugin.
#[derive(Clone)]
pub(crate) struct Ask<'a> {
    host: &'a Host,
    program: PathBuf,
    environment: BTreeMap<String, OsString>,
    configuration: Value,
}

/// What a plugin says.
#[derive(Debug)]
pub(crate) struct Answer {
    is_ours: bool,
    pub(crate) exit_code: Option<i32>,
    pub(crate) text: String,
    pub(crate) log: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(&SUBNETS)
    }

    /// A host whose node has these subnets.
    pub(crate) fn with(subnets: &[&str]) -> Self {
        bed::enter();
        let (namespace, directory) = (NetNs::anonymous().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| directory.path().join(name);
        let directories = Directories { runtime: at("run"), state: at("state"), ..Directories::default() };
        let node = Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: Some("adit".into()),
            bridge: "adit-br0".into(),
            networks: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1420,
            clients: Vec::new(),
            containers: None,
        };
        node.write(&directories).unwrap();
        let host = Self { namespace, node, daemon: Mutex::default(), directories, directory };
        let mut netlink = host.netlink();
        netlink.set_up(1, true).unwrap();
        host.start_daemon();
        host
    }

    pub(crate) fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.namespace).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        Store::of(&self.directories, "adit0")
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.store().read_all().unwrap()
    }

    /// The record file of an attachment.
    pub(crate) fn record_file(&self, container: &Container) -> PathBuf {
        let digits = key(container, "eth0").host_interface();
        let digits = digits.strip_prefix("ad").unwrap();
        let mut files = fs::read_dir(self.store().directory()).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(digits)).unwrap()
    }

    /// Runs a program on the host, which is to succeed; answers what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(&self.namespace, program, arguments)
    }

    /// A daemon, whose device a bridge stands for.
    pub(crate) fn start_daemon(&self) {
        *self.daemon.lock().unwrap() = Some(Claim::take(&self.directories.runtime, "adit0").unwrap());
        let mut netlink = self.netlink();
        if netlink.link("adit0").unwrap().is_none() {
            netlink.create_bridge("adit0", None).unwrap();
        }
    }

    /// The daemon is killed, which leaves its device.
    pub(crate) fn kill_daemon(&self) {
        drop(self.daemon.lock().unwrap().take());
    }

    /// The daemon ends, and its device with it.
    pub(crate) fn end_daemon(&self) {
        self.kill_daemon();
        let mut netlink = self.netlink();
        let index = netlink.existing_link("adit0").unwrap().index;
        netlink.delete_link(index).unwrap();
    }

    /// A call of `plugin` for a container, as a runtime makes it that knows version 1.0.0.
    pub(crate) fn ask(&self, plugin: Plugin, verb: &str, container: &Container) -> Ask<'_> {
        let (program, configuration) = match plugin {
            Plugin::Ours => (PathBuf::from(ADIT), self.configuration()),
            Plugin::Stock => (Path::new(STOCK).join("bridge"), self.stock_configuration()),
        };
        let mut ask = Ask { host: self, program, environment: BTreeMap::new(), configuration };
        for (name, value) in [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", container.id.clone()),
            ("CNI_NETNS", container.path()),
            ("CNI_IFNAME", "eth0".into()),
            ("CNI_PATH", STOCK.into()),
        ] {
            ask.environment.insert(name.into(), value.into());
        }
        ask
    }

    /// A call of ours.
    pub(crate) fn ours(&self, verb: &str, container: &Container) -> Ask<'_> {
        self.ask(Plugin::Ours, verb, container)
    }

    /// A call of ours that is about no container, in the version that has all commands.
    pub(crate) fn of_all(&self, verb: &str) -> Ask<'_> {
        let nobody = Container { id: String::new(), namespace: self.namespace.clone() };
        let ask = self.ours(verb, &nobody).version("1.1.0");
        ask.without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME")
    }

    pub(crate) fn configuration(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "overlay",
            "type": "adit",
            "runtimeDir": self.directories.runtime,
            "stateDir": self.directories.state,
        })
    }

    fn stock_configuration(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "overlay",
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": true,
            "hairpinMode": false,
            "mtu": 1420,
            "ipam": {
                "type": "host-local",
                "dataDir": self.directory.path().join("host-local"),
                "ranges": [[{"subnet": "10.43.7.0/24"}], [{"subnet": "fd43:0:0:7::/64"}]],
            },
        })
    }

    /// All that a plugin could change on the host: devices, addresses, routes, filters, records.
    pub(crate) fn state(&self) -> String {
        let mut netlink = self.netlink();
        let links = netlink.links().unwrap();
        let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        let mut lines: Vec<String> =
            links.iter().map(|l| format!("{} {} {} {:?}", l.name, l.mtu, l.up, l.alias)).collect();
        // The kernel's own of IPv6 come a moment later.
        let addresses = netlink.addresses(None).unwrap().into_iter().filter(|address| !is_link_local(address.net));
        lines.extend(addresses.map(|address| format!("{:?} {}", name(address.index), address.net)));
        let routes = netlink.routes(None).unwrap().into_iter().filter(|route| route.gateway.is_some());
        lines.extend(routes.map(|route| format!("{:?} via {:?}", route.destination, route.gateway)));
        lines.sort();
        lines.push(self.run("nft", &["-s", "list", "ruleset"]));
        lines.extend(self.files());
        lines.join("\n")
    }

    /// What the store has, but for what is there for good: the lock, and the hint of what was given out last.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store().directory()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "lock" && name != "last").collect();
        names.sort();
        names
    }

    /// What must be so when nobody is attached: only what was there before is.
    pub(crate) fn assert_clean(&self) {
        let mut links: Vec<_> = self.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
        links.retain(|name| name != "lo" && name != "adit0" && name != "cni0");
        assert!(links.is_empty(), "devices are left: {links:?}");
        let tables = self.run("nft", &["list", "tables"]);
        assert!(!tables.contains("adit"), "filters are left: {tables}");
        assert!(self.files().is_empty(), "files are left: {:?}", self.files());
    }

    /// How many rules the table of published ports has.
    pub(crate) fn published(&self) -> usize {
        let rules = || Nft::open().unwrap().rules(Family::Inet, "adit-adit0-ports").unwrap().len();
        self.namespace.run(rules).unwrap()
    }
}

/// What tells the attachment of a container apart.
pub(crate) fn key(container: &Container, interface: &str) -> Key {
    Key { door: Door::Cni, network: "overlay".into(), container: container.id.clone(), interface: interface.into() }
}

fn is_link_local(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Runs a program in a namespace, which is to succeed; answers what it prints.
pub(crate) fn run(namespace: &NetNs, program: &str, arguments: &[&str]) -> String {
    let output = namespace.run(|| Command::new(program).args(arguments).output()).unwrap();
    let output = output.unwrap_or_else(|e| panic!("{program} is one of packaging/test-packages: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Container {
    pub(crate) fn new(id: &str) -> Self {
        let namespace = NetNs::anonymous().unwrap();
        namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
        Self { id: id.into(), namespace }
    }

    /// How programs find its namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    pub(crate) fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.namespace).unwrap()
    }

    pub(crate) fn link(&self, name: &str) -> Option<Link> {
        self.netlink().link(name).unwrap()
    }

    /// Its addresses, but for those that every device has.
    pub(crate) fn addresses(&self, device: &str) -> Vec<IpNet> {
        let mut netlink = self.netlink();
        let index = netlink.existing_link(device).unwrap().index;
        let addresses = netlink.addresses(Some(index)).unwrap().into_iter().map(|address| address.net);
        let mut addresses: Vec<_> = addresses.filter(|net| !is_link_local(*net)).collect();
        addresses.sort();
        addresses
    }

    /// Where it sends what is for `destination`.
    pub(crate) fn gateway(&self, destination: &str) -> Option<IpAddr> {
        let destination: IpNet = destination.parse().unwrap();
        let routes = self.netlink().routes(None).unwrap();
        routes.into_iter().find(|route| route.destination == destination).and_then(|route| route.gateway)
    }

    /// Asserts that it reaches an address.
    pub(crate) fn reaches(&self, ip: IpAddr) {
        run(&self.namespace, "ping", &["-c", "1", "-W", "5", &ip.to_string()]);
    }
}

impl Ask<'_> {
    /// Another program, with this configuration in the place of ours; its network is the same.
    pub(crate) fn plugin(mut self, name: &str, mut configuration: Value) -> Self {
        self.program = Path::new(STOCK).join(name);
        for key in ["cniVersion", "name"] {
            configuration[key] = self.configuration[key].clone();
        }
        configuration["type"] = name.into();
        self.configuration = configuration;
        self
    }

    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// A key more of the configuration, or another value of one.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.configuration[key] = value.into();
        self
    }

    pub(crate) fn version(self, version: &str) -> Self {
        self.with("cniVersion", version)
    }

    pub(crate) fn previous(self, result: &Value) -> Self {
        self.with("prevResult", result.clone())
    }

    /// Starts the program; it has read its configuration, or will.
    pub(crate) fn start(&self) -> Child {
        self.start_with(self.configuration.to_string().as_bytes())
    }

    fn start_with(&self, text: &[u8]) -> Child {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.host.namespace.run(|| command.spawn()).unwrap();
        let mut child = child.unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        // Whoever has read enough reads no more.
        let _ = child.stdin.take().unwrap().write_all(text);
        child
    }

    pub(crate) fn run(&self) -> Answer {
        Answer::of(self.start(), self.program.starts_with(STOCK))
    }

    /// Runs it with any bytes for a configuration.
    pub(crate) fn run_with(&self, text: &[u8]) -> Answer {
        Answer::of(self.start_with(text), self.program.starts_with(STOCK))
    }

    /// Runs it, which is to succeed; answers its result.
    pub(crate) fn result(&self) -> Value {
        let answer = self.run();
        assert_eq!(answer.exit_code, Some(0), "{answer:?}");
        serde_json::from_str(&answer.text).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
    }

    /// Runs it, which is to succeed and to say nothing.
    pub(crate) fn done(&self) {
        let answer = self.run();
        assert_eq!((answer.exit_code, answer.text.as_str()), (Some(0), ""), "{answer:?}");
    }

    /// Runs it, which is to fail; answers code, message and details.
    pub(crate) fn error(&self) -> (u64, String, String) {
        self.run().error()
    }
}

impl Answer {
    /// What a program says when it has ended.
    pub(crate) fn of(child: Child, is_stock: bool) -> Self {
        let output = child.wait_with_output().unwrap();
        Self {
            is_ours: !is_stock,
            exit_code: output.status.code(),
            text: String::from_utf8(output.stdout).unwrap(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The code, the short message and the details of an error. Ours has all of what the specification names.
    pub(crate) fn error(&self) -> (u64, String, String) {
        assert!(self.exit_code.is_some_and(|code| code != 0), "{self:?}");
        let error: Value = serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if self.is_ours {
            assert!(VERSIONS.contains(&text("cniVersion").as_str()), "{self:?}");
            assert!(!text("details").is_empty(), "{self:?}");
        }
        assert!(!text("msg").is_empty(), "{self:?}");
        (error["code"].as_u64().unwrap(), text("msg"), text("details"))
    }
}

/// The addresses of a result, and the gateways.
pub(crate) fn ips(result: &Value, key: &str) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip[key].as_str().unwrap().to_owned()).collect()
}

/// The addresses of a result without their prefix lengths.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    ips(result, "address").iter().map(|text| text.parse::<IpNet>().unwrap().addr()).collect()
}
