//! Containers of two engines.

use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::engine::{Engine, await_traces, plugin, records, traces};

#[test]
fn containers_of_two_engines_talk_and_leave_nothing() {
    let bed = Bed::new(2);
    let hosts: Vec<_> = bed.hosts.iter().map(FakeHost::new).collect();
    let image = Image::new();
    let token = hosts[0].init(&[]);
    let _node1 = hosts[0].up();
    hosts[1].join(&token);
    let _node2 = hosts[1].up();
    let engines: Vec<_> = hosts.iter().map(|host| Engine::start(host, &[])).collect();
    engines.iter().for_each(|engine| engine.import(&image));
    let before: Vec<_> = hosts.iter().map(traces).collect();

    let plugins: Vec<_> = hosts.iter().map(|host| plugin(host, &[])).collect();
    engines.iter().for_each(|engine| engine.network("web", &[]));
    let one = engines[0].container("one", &["--network", "web", "-p", "8080:80"]);
    let two = engines[0].container("two", &["--network", "web"]);
    let far = engines[1].container("far", &["--network", "web"]);
    one.talks(&two);
    one.talks(&far);
    far.talks(&two);
    assert_eq!(
        far.exec("ip link show eth0 | grep -o 'mtu [0-9]*'").1,
        format!("mtu {}", hosts[1].subnet_env("FLANNEL_MTU"))
    );

    let published = || {
        for from in ["http://127.0.0.1:8080", "http://192.0.2.1:8080"] {
            assert_eq!(engines[0].fetch(from).as_deref(), Some("one"), "{from}");
        }
        assert_eq!(engines[1].fetch("http://192.0.2.1:8080").as_deref(), Some("one"), "from beyond");
        assert_eq!(far.exec("wget -qO- http://192.0.2.1:8080"), (true, "one".into()), "from a container");
        assert_eq!(one.exec("wget -qO- http://192.0.2.1:8080"), (true, "one".into()), "from itself");
    };
    published();
    // Docker knows names within one engine.
    assert_eq!(two.exec("wget -qO- http://one"), (true, "one".into()));

    engines[0].docker(&["restart", "one"]);
    one.talks(&far);
    published();

    for container in [one, two, far] {
        container.remove();
    }
    assert!(engines[0].fetch("http://127.0.0.1:8080").is_none());
    assert_eq!(hosts.iter().map(records).collect::<Vec<_>>(), [0, 0]);
    engines.iter().for_each(|engine| drop(engine.docker(&["network", "rm", "web"])));
    for plugin in plugins {
        plugin.terminate();
    }
    for (engine, before) in engines.iter().zip(&before) {
        wait_for("no rules of ours", || engine.docker_user("iptables").is_empty().then_some(()));
        await_traces(engine.host, before);
        assert!(!engine.host.path("/run/docker/plugins/adit.sock").exists());
        assert!(!engine.host.path("/var/lib/adit/adit0.docker.json").exists());
    }
}
