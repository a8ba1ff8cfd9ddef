//! Our server on a host without an engine, and whoever speaks to it as one does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use adit::Directories;
use adit::container::{Node, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bed::daemon::ADIT;
use crate::bed::{Host, wait_for};

/// A host with the file of a node, whose daemon does not matter here.
pub(crate) struct Place<'a> {
    pub(crate) host: &'a Host,
    pub(crate) directory: TempDir,
}

impl<'a> Place<'a> {
    pub(crate) fn new(host: &'a Host) -> Self {
        let place = Self { host, directory: tempfile::tempdir().unwrap() };
        place.write(&["10.42.7.0/24", "fd77:0:0:7::/64"]);
        place
    }

    pub(crate) fn directories(&self) -> Directories {
        let path = |name: &str| self.directory.path().join(name);
        Directories { runtime: path("run"), state: path("state"), wireguard: path("wireguard") }
    }

    /// Gives the node these subnets.
    pub(crate) fn write(&self, subnets: &[&str]) {
        let node = Node {
            device: "adit0".into(),
            name: "berlin".into(),
            domain: None,
            bridge: "adit-br0".into(),
            networks: vec!["10.42.0.0/16".parse().unwrap(), "fd77::/48".parse().unwrap()],
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1420,
            clients: Vec::new(),
            containers: None,
        };
        node.write(&self.directories()).unwrap();
    }

    pub(crate) fn store(&self) -> Store {
        Store::of(&self.directories(), "adit0")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("plugins/adit.sock")
    }

    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let Directories { runtime, state, .. } = self.directories();
        let mut command = Command::new(ADIT);
        command.arg("docker-plugin").arg("--socket").arg(self.socket()).args(options);
        command.arg("--runtime-dir").arg(runtime).arg("--state-dir").arg(state);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, options: &[&str]) -> Server<'_, 'a> {
        let child = self.host.namespace.run(|| self.command(options).spawn()).unwrap().unwrap();
        let server = Server { place: self, child };
        wait_for("the server", || UnixStream::connect(self.socket()).ok());
        server
    }

    /// What `iptables` or another says that is run on the host.
    pub(crate) fn shell(&self, line: &str) -> String {
        self.host.run("sh", &["-ec", line])
    }

    pub(crate) fn records(&self) -> usize {
        self.store().read_all().unwrap().len()
    }
}

/// Our server. It is killed when this is dropped.
pub(crate) struct Server<'p, 'a> {
    place: &'p Place<'a>,
    child: Child,
}

impl Server<'_, '_> {
    /// Posts a text; the status, and the answer.
    pub(crate) fn post(&self, method: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.place.socket()).unwrap();
        let length = body.len();
        let head =
            format!("POST /{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // It may have answered before it has read all of it.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method}: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn try_ask(&self, method: &str, request: &Value) -> Value {
        let (status, body) = self.post(method, &request.to_string());
        assert_eq!(status, 200, "{method}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Asks something that is answered.
    pub(crate) fn ask(&self, method: &str, request: Value) -> Value {
        let answer = self.try_ask(method, &request);
        assert!(answer.get("Err").is_none() && answer.get("Error").is_none(), "{method}: {answer}");
        answer
    }

    /// Asks something that is refused, in the words of both kinds of drivers.
    pub(crate) fn refused(&self, method: &str, request: Value) -> String {
        let answer = self.try_ask(method, &request);
        assert_eq!(answer["Err"], answer["Error"]);
        answer["Err"].as_str().unwrap_or_else(|| panic!("{method}: {answer}")).to_owned()
    }

    /// A network of IPv4, and of IPv6 too.
    pub(crate) fn network(&self, id: &str, v6: bool) {
        let data = |pool: &str| json!([{ "AddressSpace": "adit", "Pool": pool, "Gateway": "", "AuxAddresses": null }]);
        let v6 = if v6 { data("fd77:0:0:7::/64") } else { Value::Null };
        self.ask(
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": id, "Options": { "com.docker.network.generic": {} }, "IPv4Data": data("10.42.7.0/24"), "IPv6Data": v6 }),
        );
    }

    /// An address, as for a container.
    pub(crate) fn address(&self, pool: &str) -> String {
        let answer = self.ask("IpamDriver.RequestAddress", json!({ "PoolID": pool, "Address": "", "Options": null }));
        answer["Address"].as_str().unwrap().to_owned()
    }

    pub(crate) fn endpoint(&self, network: &str, id: &str, v4: &str, v6: &str) -> Value {
        let interface = json!({ "Address": v4, "AddressIPv6": v6, "MacAddress": "" });
        self.ask(
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": network, "EndpointID": id, "Interface": interface, "Options": null }),
        )
    }

    pub(crate) fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        let status = wait_for("the end of the server", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server<'_, '_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let mut said = String::new();
            let _ = self.child.stderr.take().unwrap().read_to_string(&mut said);
            eprintln!("---- docker-plugin\n{said}");
        }
    }
}

pub(crate) fn endpoint(network: &str, id: &str) -> Value {
    json!({ "NetworkID": network, "EndpointID": id })
}
