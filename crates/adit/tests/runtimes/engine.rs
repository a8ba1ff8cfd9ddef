//! Podman with our plugin, on two hosts.

use std::time::Instant;

use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::podman::Podman;
use crate::story::{MIB, SERVE, Two, tell_speed};

#[test]
fn containers_of_podman_on_two_hosts() {
    let bed = Bed::new(2);
    let two = Two::new(&bed);
    let bare = two.hosts.each_ref().map(|host| host.traces());
    let [daemon, other_daemon] = two.up(&[]);
    let image = Image::new();
    let engines = two.hosts.each_ref().map(|host| {
        host.adit(&["cni", "install"]);
        Podman::new(host, &image, "adit")
    });
    let before = two.hosts.each_ref().map(|host| host.traces());
    let [first, second] = &engines;

    let web = first.start("web", &["-p", "8080:80"], SERVE);
    let near = first.start("near", &[], &["sleep", "600"]);
    let far = second.start("far", &[], &["sleep", "600"]);
    for (engine, from, to) in [
        (first, "web", &far),
        (second, "far", &web),
        (first, "near", &web),
        (first, "web", &near),
        (second, "far", &near),
    ] {
        engine.reaches(from, to);
    }

    // Two hundred megabytes arrive as they were, from the other host and from the same.
    let line =
        format!("dd if=/dev/urandom of=/www/big bs=1M count={MIB} 2>/dev/null; md5sum </www/big; echo yes >/www/yes");
    let sum = first.shell("web", &line);
    for (what, engine, from) in [("to the other host", second, "far"), ("on the host", first, "near")] {
        let start = Instant::now();
        assert_eq!(engine.shell(from, &format!("wget -qO- http://{web}/big | md5sum")), sum);
        tell_speed(&format!("podman, {what}"), MIB, start);
    }

    // Published: for the other host, for this one by its own address and by the loopback's, and for a container by the host's.
    let published =
        |host: usize, address: &str| two.hosts[host].shell(&format!("busybox wget -qO- http://{address}:8080/yes"));
    for (host, address) in [(1, "192.0.2.1"), (0, "192.0.2.1"), (0, "127.0.0.1")] {
        assert_eq!(published(host, address), "yes\n", "host{} asks {address}", host + 1);
    }
    assert_eq!(first.shell("near", "wget -qO- http://192.0.2.1:8080/yes"), "yes\n");

    // It asks its node for names, and looks for them among those of its host.
    let resolvers = second.shell("far", "cat /etc/resolv.conf");
    let bridge = far.rsplit_once('.').unwrap().0.to_owned() + ".1";
    assert!(resolvers.starts_with(&format!("search host2.adit\nnameserver {bridge}\n")), "{resolvers}");

    // A pod: one address for all in it.
    let group = format!("/{}", two.hosts[1].cgroup());
    let infra = ["--infra-image", "localhost/bb:1", "--infra-command", "sleep 600", "--cgroup-parent", &group];
    second.run(&[&["pod", "create", "--name", "pod", "--network", "adit", "-p", "8081:80"], &infra[..]].concat());
    second.run(&[&["run", "-d", "--pod", "pod", "--name", "within", "localhost/bb:1"], SERVE].concat());
    second.shell("within", "echo pod >/www/yes");
    assert_eq!(two.hosts[0].shell("busybox wget -qO- http://192.0.2.2:8081/yes"), "pod\n");

    // An address of one's own choice, and one that is taken.
    let taken = first.try_run(&["run", "--rm", "--network", "adit", "--ip", &web, "localhost/bb:1", "true"]);
    let sentence = String::from_utf8_lossy(&taken.stderr);
    assert!(!taken.status.success() && sentence.contains(&web), "{sentence}");
    let chosen = web.rsplit_once('.').unwrap().0.to_owned() + ".200";
    assert_eq!(first.start("chosen", &["--ip", &chosen], &["sleep", "600"]), chosen);
    second.reaches("far", &chosen);

    // Restarted, whatever address it has then.
    first.run(&["restart", "-t", "0", "web"]);
    let web = first.address("web");
    second.reaches("far", &web);
    wait_for("the published port after a restart", || {
        let wget = ["-qO-", "http://192.0.2.1:8080/yes"];
        (two.hosts[1].try_run("busybox", &[&["wget"], &wget[..]].concat()).stdout == b"yes\n").then_some(())
    });

    // Without the daemon of their host they go on, and others come and go.
    daemon.crash();
    first.reaches("near", &web);
    let late = first.start("late", &[], &["sleep", "600"]);
    first.reaches("near", &late);
    let daemon = two.hosts[0].up();
    second.reaches("far", &late);

    // Stopped, a container has nothing; removed, nothing is left of all.
    assert!(two.hosts[0].traces().len() > before[0].len());
    first.run(&["stop", "-t", "0", "near"]);
    engines.iter().for_each(|engine| drop(engine.run(&["rm", "-f", "-t", "0", "--all"])));
    second.run(&["pod", "rm", "-f", "--all"]);
    two.hosts.iter().zip(&before).for_each(|(host, before)| host.await_traces(before));

    // Nor is anything left of the nodes, in the end.
    for ((host, mut daemon), bare) in two.hosts.iter().zip([daemon, other_daemon]).zip(&bare) {
        host.adit(&["cni", "uninstall"]);
        host.adit(&["down", "--purge"]);
        assert!(daemon.await_end().success());
        host.await_traces(bare);
        assert!(host.shell("find /opt/cni /etc/cni -name '*adit*'").is_empty());
    }
}
