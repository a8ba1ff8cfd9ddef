//! containerd, spoken to as a kubelet does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::bed::daemon::ADIT;
use crate::bed::fake::{FakeHost, Inside};
use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::cri::{
    Client, ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, Id,
    ImageSpec, LinuxPodSandboxConfig, Nothing, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusResponse,
    PortMapping, RunPodSandboxRequest, StatusResponse,
};
use crate::story::{MIB, SERVE, Two, tell_speed};

/// What is not as it comes: an image that needs no registry, and what lets it run where root may not lower its own odds of being killed, and where
/// the file system carries no overlay.
const CONFIGURATION: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"#;

const SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd on a host. It ends with this value.
pub(crate) struct Containerd<'h, 'a> {
    host: &'h FakeHost<'a>,
    client: Client,
    _daemon: Inside<'h, 'a>,
}

/// A pod with one container in it.
pub(crate) struct Pod {
    configuration: PodSandboxConfig,
    command: Vec<String>,
    id: String,
    container: String,
    address: String,
}

impl<'h, 'a> Containerd<'h, 'a> {
    pub(crate) fn start(host: &'h FakeHost<'a>, image: &str) -> Self {
        host.write("/etc/containerd/config.toml", CONFIGURATION);
        // As the packages of Kubernetes have it: the stock plugins where all plugins are, and a directory for networks.
        host.shell("mkdir -p /etc/cni/net.d /opt/cni/bin; ln -sf /usr/lib/cni/loopback /opt/cni/bin");
        let daemon = host.spawn("containerd", &["--log-level", "warn"]);
        let client = wait_for("containerd", || Client::connect(&host.path(SOCKET)).ok());
        host.run("ctr", &["--namespace", "k8s.io", "images", "import", "--snapshotter", "native", image]);
        Self { host, client, _daemon: daemon }
    }

    /// Whether a kubelet would put pods here.
    fn has_network(&self) -> bool {
        let answer: StatusResponse = self.client.call("Status", Nothing {}).unwrap();
        answer.status.unwrap().conditions.iter().any(|condition| condition.kind == "NetworkReady" && condition.holds)
    }

    /// Makes a pod with one container in it, and if it is said a port of the host that leads to its port 80.
    pub(crate) fn pod(&self, name: &str, host_port: Option<i32>, command: &[&str]) -> Pod {
        let metadata = PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        };
        let port_mappings = host_port.map(|host_port| PortMapping { container_port: 80, host_port });
        let configuration = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.into(),
            log_directory: "/run/pods".into(),
            port_mappings: port_mappings.into_iter().collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: format!("/{}", self.host.cgroup()) }),
        };
        self.make(configuration, command.iter().map(ToString::to_string).collect())
    }

    /// The same pod once more, as a kubelet does when its sandbox has ended.
    pub(crate) fn pod_again(&self, pod: &Pod) -> Pod {
        let mut configuration = pod.configuration.clone();
        configuration.metadata.as_mut().unwrap().attempt += 1;
        self.make(configuration, pod.command.clone())
    }

    fn make(&self, configuration: PodSandboxConfig, command: Vec<String>) -> Pod {
        let attempt = configuration.metadata.as_ref().unwrap().attempt;
        let request = RunPodSandboxRequest { config: Some(configuration.clone()) };
        let id = self.ask::<_, Id>("RunPodSandbox", request).id;
        let status: PodSandboxStatusResponse = self.ask("PodSandboxStatus", Id { id: id.clone() });
        let address = status.status.unwrap().network.unwrap().ip;
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".into(), attempt }),
            image: Some(ImageSpec { image: "localhost/bb:1".into() }),
            command: command.clone(),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(config),
            sandbox_config: Some(configuration.clone()),
        };
        let container = self.ask::<_, Id>("CreateContainer", request).id;
        self.ask::<_, Nothing>("StartContainer", Id { id: container.clone() });
        Pod { configuration, command, id, container, address }
    }

    fn ask<Q, A>(&self, method: &str, request: Q) -> A
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.client.call(method, request).unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    fn try_shell(&self, pod: &Pod, line: &str) -> ExecSyncResponse {
        let cmd = ["sh", "-ec", line].map(str::to_owned).to_vec();
        self.ask("ExecSync", ExecSyncRequest { container_id: pod.container.clone(), cmd, timeout: 60 })
    }

    /// Runs a line of the shell in a pod, which is to succeed; answers what it prints.
    pub(crate) fn shell(&self, pod: &Pod, line: &str) -> String {
        let answer = self.try_shell(pod, line);
        assert_eq!(answer.exit_code, 0, "{line}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Waits until an address answers to pings of a pod.
    fn reaches(&self, pod: &Pod, address: &str) {
        let name = &pod.configuration.hostname;
        wait_for(&format!("an answer of {address} to the pod {name}"), || {
            (self.try_shell(pod, &format!("ping -c 1 -W 1 {address}")).exit_code == 0).then_some(())
        });
    }

    /// Stops a pod.
    pub(crate) fn stop(&self, pod: &Pod) {
        self.ask::<_, Nothing>("StopPodSandbox", Id { id: pod.id.clone() });
    }

    /// Stops and removes a pod, in the kubelet's order.
    pub(crate) fn remove(&self, pod: &Pod) {
        self.stop(pod);
        self.ask::<_, Nothing>("RemoveContainer", Id { id: pod.container.clone() });
        self.ask::<_, Nothing>("RemovePodSandbox", Id { id: pod.id.clone() });
    }
}

/// Waits until a kubelet would put pods there.
pub(crate) fn await_network(containerd: &Containerd<'_, '_>) {
    wait_for("the network of containerd", || containerd.has_network().then_some(()));
}

/// Puts a script in the place of the plugin that notes down how the runtime calls it, and then is the plugin.
fn watch_calls(host: &FakeHost<'_>) {
    let plugin = host.path("/opt/cni/bin/adit");
    fs::remove_file(&plugin).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID netns=$CNI_NETNS\" >>/run/calls\nexec {ADIT} \"$@\"\n"
    );
    host.write("/opt/cni/bin/adit", &script);
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn pods_of_containerd_on_two_hosts() {
    let bed = Bed::new(2);
    let two = Two::new(&bed);
    let _daemons = two.up(&[]);
    let image = Image::new();
    let archive = image.saved();
    let runtimes = two.hosts.each_ref().map(|host| Containerd::start(host, archive.to_str().unwrap()));
    let [first, second] = &runtimes;
    assert!(!first.has_network());
    for runtime in &runtimes {
        runtime.host.adit(&["cni", "install"]);
        await_network(runtime);
    }
    watch_calls(&two.hosts[0]);
    let before = two.hosts.each_ref().map(FakeHost::traces);

    let web = first.pod("web", Some(8080), SERVE);
    let near = first.pod("near", None, &["sleep", "600"]);
    let far = second.pod("far", None, &["sleep", "600"]);
    for (runtime, from, to) in [(first, &web, &far), (second, &far, &web), (first, &near, &web), (second, &far, &near)]
    {
        runtime.reaches(from, &to.address);
    }
    let line =
        format!("dd if=/dev/urandom of=/www/big bs=1M count={MIB} 2>/dev/null; md5sum </www/big; echo yes >/www/yes");
    let sum = first.shell(&web, &line);
    for (what, runtime, from) in [("to the other host", second, &far), ("on the host", first, &near)] {
        let start = Instant::now();
        assert_eq!(runtime.shell(from, &format!("wget -qO- http://{}/big | md5sum", web.address)), sum);
        tell_speed(&format!("containerd, {what}"), MIB, start);
    }
    let published = two.hosts[1].shell("busybox wget -qO- http://192.0.2.1:8080/yes");
    assert_eq!(published, "yes\n");

    // containerd's own tool calls the plugin too: for the end after that of the namespace.
    let group = format!("{}/ctr", two.hosts[1].cgroup());
    let options = ["--namespace", "k8s.io", "run", "--rm", "--cni", "--snapshotter", "native", "--cgroup", &group];
    let ping = ["localhost/bb:1", "by-ctr", "ping", "-c", "1", "-W", "5", &web.address];
    two.hosts[1].run("ctr", &[&options[..], &ping].concat());

    assert!(two.hosts[0].traces().len() > before[0].len());
    let ids = [&web, &near].map(|pod| pod.id.clone());
    first.remove(&web);
    first.remove(&near);
    second.remove(&far);
    two.hosts.iter().zip(&before).for_each(|(host, before)| host.await_traces(before));

    // Each was taken away twice, the second time without a namespace.
    let calls = fs::read_to_string(two.hosts[0].path("/run/calls")).unwrap();
    for id in ids {
        let ends: Vec<_> = calls.lines().filter_map(|line| line.strip_prefix(&format!("DEL {id} netns="))).collect();
        assert!(ends.len() >= 2 && !ends[0].is_empty() && ends[ends.len() - 1].is_empty(), "{calls}");
    }
}
