//! Podman with our plugin, on two hosts.

use std::time::Instant;

use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::podman::Podman;
use crate::story::{MIB, Two, tell_speed};

/// What a container of the network serves.
const SERVE: &[&str] = &["httpd", "-f", "-p", "80", "-h", "/www"];

#[test]
fn containers_of_podman_on_two_hosts() {
    let bed = Bed::new(2);
    let two = Two::new(&bed);
    let _daemons = two.up(&[]);
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
        tell_speed(&format!("podman, {what}"), start);
    }

    // Published: for the other host, for this one by its own address and by the loopback's, and for a container by the host's.
    let published =
        |host: usize, address: &str| two.hosts[host].shell(&format!("busybox wget -qO- http://{address}:8080/yes"));
    for (host, address) in [(1, "192.0.2.1"), (0, "192.0.2.1"), (0, "127.0.0.1")] {
        assert_eq!(published(host, address), "yes\n", "host{} asks {address}", host + 1);
    }
    assert_eq!(first.shell("near", "wget -qO- http://192.0.2.1:8080/yes"), "yes\n");

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

    // Stopped, a container has nothing; removed, nothing is left of all.
    first.run(&["stop", "-t", "0", "near"]);
    engines.iter().for_each(|engine| drop(engine.run(&["rm", "-f", "-t", "0", "--all"])));
    two.hosts.iter().zip(&before).for_each(|(host, before)| host.await_traces(before));
}
