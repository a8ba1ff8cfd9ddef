//! Podman 4 with its CNI backend.

use std::process::Output;

use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::bed::wait_for;

/// Podman as it is set up for CNI. What is besides is for machines of tests: limits that need no rights, no systemd, and a storage that any
/// file system carries.
const CONTAINERS: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "cni"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"#;

const STORAGE: &str = r#"
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"#;

/// Podman on a host, with the image `localhost/bb:1`.
pub(crate) struct Podman<'h, 'a> {
    host: &'h FakeHost<'a>,
    network: &'static str,
}

impl<'h, 'a> Podman<'h, 'a> {
    /// Sets it up, with a network that is there.
    pub(crate) fn new(host: &'h FakeHost<'a>, image: &Image, network: &'static str) -> Self {
        host.write("/etc/containers/containers.conf", CONTAINERS);
        host.write("/etc/containers/storage.conf", STORAGE);
        let podman = Self::on(host, network);
        podman.run(&["import", "-c", r#"CMD ["/bin/sh"]"#, image.archive().to_str().unwrap(), "localhost/bb:1"]);
        podman
    }

    /// As it is set up there.
    pub(crate) fn on(host: &'h FakeHost<'a>, network: &'static str) -> Self {
        Self { host, network }
    }

    /// Runs a command of podman, which is to succeed; answers what it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.host.run("podman", arguments)
    }

    /// Runs a command of podman.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        self.host.try_run("podman", arguments)
    }

    /// Starts a container; answers its address.
    pub(crate) fn start(&self, name: &str, options: &[&str], command: &[&str]) -> String {
        let group = format!("/{}", self.host.cgroup());
        // Podman's containers may not ping otherwise.
        let ping = ["--cap-add", "NET_RAW"];
        let own = ["run", "-d", "--name", name, "--network", self.network, "--cgroup-parent", &group];
        self.run(&[&own[..], &ping, options, &["localhost/bb:1"], command].concat());
        self.address(name)
    }

    /// The address of a container on the network.
    pub(crate) fn address(&self, name: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks {:?}).IPAddress}}}}", self.network);
        let address = self.run(&["inspect", "-f", &format, name]).trim().to_owned();
        assert!(!address.is_empty(), "{name} has no address on {}", self.network);
        address
    }

    /// Runs a line of the shell in a container, which is to succeed; answers what it prints.
    pub(crate) fn shell(&self, container: &str, line: &str) -> String {
        self.run(&["exec", container, "sh", "-ec", line])
    }

    /// Waits until an address answers to pings of a container.
    pub(crate) fn reaches(&self, container: &str, address: &str) {
        wait_for(&format!("an answer of {address} to {container} of {}", self.host.name()), || {
            let ping = self.try_run(&["exec", container, "ping", "-c", "1", "-W", "1", address]);
            ping.status.success().then_some(())
        });
    }
}
