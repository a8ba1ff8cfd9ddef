//! Hosts whose power is cut while containers run: nobody asked the plugin for their end.

use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::containerd::{Containerd, await_network};
use crate::podman::Podman;
use crate::story::SERVE;

/// The records of a host's containers.
fn records(host: &FakeHost<'_>) -> usize {
    host.shell("ls /var/lib/adit/adit0.containers").lines().filter(|name| name.ends_with(".json")).count()
}

#[test]
fn podman_after_its_host_was_restarted() {
    let bed = Bed::new(1);
    let mut host = FakeHost::new(bed.host(1));
    let image = Image::new();
    host.init(&[]);
    let before = {
        let _daemon = host.up();
        host.adit(&["cni", "install"]);
        let podman = Podman::new(&host, &image, "adit");
        let before = host.traces();
        podman.start("web", &["-p", "8080:80"], SERVE);
        podman.start("other", &["-p", "8081:80"], &["sleep", "600"]);
        podman.start("gone", &["-p", "8082:80"], &["sleep", "600"]);
        assert_eq!(records(&host), 3);
        before
    };
    host.reboot();
    let _daemon = host.up();
    let podman = Podman::on(&host, "adit");
    wait_for("nobody of those that were", || (records(&host) == 0).then_some(()));

    // Podman starts the same containers again, with the ports that they had.
    podman.run(&["rm", "-f", "gone"]);
    podman.run(&["start", "web"]);
    assert_eq!(records(&host), 1);
    podman.shell("web", "echo yes >/www/yes");
    assert_eq!(host.shell("busybox wget -qO- http://192.0.2.1:8080/yes"), "yes\n");
    podman.run(&["start", "other"]);
    podman.reaches("other", &podman.address("web"));
    podman.run(&["rm", "-f", "-t", "0", "--all"]);
    // Podman does not ask for the end of what it has not started again, and keeps what it knew of that.
    host.shell("rm -f /var/lib/cni/results/*");
    host.await_traces(&before);
}

#[test]
fn pods_after_their_host_was_restarted() {
    let bed = Bed::new(1);
    let mut host = FakeHost::new(bed.host(1));
    let image = Image::new();
    let archive = image.saved();
    let archive = archive.to_str().unwrap();
    host.init(&[]);
    let (before, former) = {
        let _daemon = host.up();
        host.adit(&["cni", "install"]);
        let containerd = Containerd::start(&host, archive);
        await_network(&containerd);
        let before = host.traces();
        (before, containerd.pod("web", Some(8080), SERVE))
    };
    host.reboot();
    let _daemon = host.up();
    let containerd = Containerd::start(&host, archive);
    await_network(&containerd);
    // A kubelet ends the pod that it finds, and makes another one of the same name and with the same port.
    containerd.stop(&former);
    let pod = containerd.pod_again(&former);
    containerd.shell(&pod, "echo yes >/www/yes");
    assert_eq!(host.shell("busybox wget -qO- http://192.0.2.1:8080/yes"), "yes\n");
    containerd.remove(&former);
    containerd.remove(&pod);
    host.await_traces(&before);
}
