//! Our server, the engine and the node end and come again, each at the worst of times.

use std::collections::HashSet;
use std::process::Stdio;

use crate::bed::fake::FakeHost;
use crate::bed::image::Image;
use crate::bed::{Bed, wait_for};
use crate::engine::{Engine, IMAGE, plugin, records};

#[test]
fn restarts_of_server_engine_and_node_are_survived() {
    let bed = Bed::new(1);
    let host = FakeHost::new(bed.host(1));
    host.init(&[]);
    let node = host.up();
    let mut engine = Engine::start(&host, &[]);
    engine.import(&Image::new());
    let server = plugin(&host, &[]);
    engine.network("web", &["-o", "isolated=true"]);
    let one = engine.container("one", &["--network", "web", "-p", "8080:80", "--restart", "always"]);
    let rules = wait_for("rules of ours", || Some(engine.docker_user("iptables")).filter(|rules| !rules.is_empty()));

    // Killed, our server leaves everything as it is, and the next one takes it over.
    server.crash();
    assert_eq!(engine.fetch("http://127.0.0.1:8080").as_deref(), Some("one"));
    let server = plugin(&host, &[]);
    assert_eq!(engine.docker_user("iptables"), rules);
    let two = engine.container("two", &["--network", "web"]);
    assert_ne!(one.address(), two.address());
    assert!(!two.pings(one.address()), "the network is isolated still");

    // What somebody takes out of the chain comes back, and what others have there stays.
    host.shell("iptables --wait 5 -F DOCKER-USER; iptables --wait 5 -A DOCKER-USER -s 203.0.113.7 -j DROP");
    wait_for("rules of ours again", || (engine.docker_user("iptables") == rules).then_some(()));
    assert!(host.shell("iptables --wait 5 -S DOCKER-USER").contains("203.0.113.7"));

    // The node's daemon is of no matter for containers of this host.
    node.crash();
    assert_eq!(engine.fetch("http://127.0.0.1:8080").as_deref(), Some("one"));
    let node = host.up();

    // While our server is away, containers that start wait for it.
    server.terminate();
    assert!(engine.docker_user("iptables").is_empty());
    let created = ["run", "-d", "--name", "three", "--stop-signal", "KILL", "--network", "web", IMAGE, "sleep", "1000"];
    let mut waiting = host.command("/usr/bin/docker", &created).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the start of a container", || (!engine.docker(&["ps", "-aqf", "name=three"]).is_empty()).then_some(()));
    let server = plugin(&host, &[]);
    assert!(wait_for("the container that waited", || waiting.try_wait().unwrap()).success());

    // Killed, the engine takes its containers along when it comes again; what they had is given back.
    drop((one, two));
    engine.crash();
    engine.run();
    let address = |name: &str| {
        engine.docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name])
    };
    wait_for("the container that is always to run", || engine.fetch("http://127.0.0.1:8080"));
    for name in ["two", "three"] {
        engine.docker(&["start", name]);
    }
    let addresses: HashSet<String> = ["one", "two", "three"].map(address).into();
    assert_eq!((addresses.len(), records(&host)), (3, 3), "{addresses:?}");
    wait_for("rules of ours after the engine's start", || (engine.docker_user("iptables") == rules).then_some(()));

    // Both at once.
    server.crash();
    engine.crash();
    let _server = plugin(&host, &[]);
    engine.run();
    wait_for("the container that is always to run", || engine.fetch("http://127.0.0.1:8080"));
    // As `systemctl restart docker` does it.
    engine.terminate();
    assert_eq!(records(&host), 0, "its containers ended first");
    engine.run();
    wait_for("the container that is always to run", || engine.fetch("http://127.0.0.1:8080"));
    engine.docker(&["rm", "-f", "one", "two", "three"]);
    engine.docker(&["network", "rm", "web"]);
    assert_eq!(records(&host), 0);
    let links = host.shell("ip -o link");
    assert!(!links.contains(": ad0") && !links.contains("adit-br0") && links.contains("adit0"), "{links}");
    drop(node);
}
