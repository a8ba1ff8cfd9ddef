//! What cannot be had is refused in a sentence, and nothing is half-made.

use std::net::TcpListener;

use adit::container::{Door, Key, Place, Request, attach};

use crate::world::{FIRST, Running, World};

#[test]
fn what_is_wrong_is_refused_in_a_sentence_that_says_what_to_do() {
    let world = World::new();
    let program = world.program();
    let listener = program.host.namespace.run(|| TcpListener::bind("0.0.0.0:9000")).unwrap().unwrap();
    let other = program.container("db", &["--publish", "8080:80"], "echo ready; read x");
    let before = program.store().read_all().unwrap();
    let long = "x".repeat(64);
    for (options, words) in [
        (&["--name", "../../etc"][..], "\"../../etc\" is no name for a container: use 1 to 63 of a to z"),
        (&["--name", "Web"], "is no name for a container"),
        (&["--name", ""], "is no name for a container"),
        (&["--name", &long], "is no name for a container"),
        (&["--name", "db"], "there is a container db already (door run); choose another name"),
        (&["--hostname", "a b"], "\"a b\" is no host name"),
        (&["--publish", "0:80"], "write HOST:CONTAINER"),
        (&["--publish", "8080:81"], "the container db has it; choose another port"),
        (&["--publish", "9000:80"], "a program of this host has it"),
        (&["--publish", "81:80", "--publish", "81:81"], "it is asked for twice"),
        (&["--ip", "192.0.2.1"], "is not one of this node, which has 10.42.7.0/24"),
        (&["--ip", "10.42.7.1"], "is no container's"),
        (&["--ip", FIRST], "is another's already"),
        (&["--device", "adit9"], "no node of a network runs here with the device adit9"),
        (&["--device", "../x"], "is not a device name"),
    ] {
        let said =
            program.fails(125, &[&["run"], options, &["--", "touch", program.path("ran").to_str().unwrap()]].concat());
        assert!(said.contains(words), "{options:?}: {said}");
        assert_eq!(program.store().read_all().unwrap(), before, "{options:?}");
    }
    assert!(!program.path("ran").exists());
    for arguments in [&["exec", "web", "--", "true"][..], &["exec", "../db", "--", "true"]] {
        let said = program.fails(125, arguments);
        assert!(said.contains("see `adit ps`"), "{said}");
    }
    assert!(program.fails(2, &["ps", "--device", "../x"]).contains("is not a device name"));
    assert!(program.fails(1, &["ps", "--device", "adit9"]).contains("no node of a network runs here"));
    drop(listener);
    other.stop();
    world.is_clean();
}

#[test]
fn a_full_subnet_is_said_and_leaves_nothing() {
    let world = World::with(&["10.42.7.0/29"], Some("adit"));
    let program = world.program();
    let running: Vec<_> = (2..7).map(|n| program.container(&format!("c{n}"), &[], "echo ready; read x")).collect();
    let said = program.fails(125, &["run", "--", "true"]);
    assert!(said.contains("no address of 10.42.7.0/29 is free"), "{said}");
    running.into_iter().for_each(Running::stop);
    program.succeeds(&["run", "--", "true"]);
    world.is_clean();
}

#[test]
fn containers_of_other_doors_are_listed_and_left_to_their_programs() {
    let world = World::new();
    let program = world.program();
    let namespace = linux::netns::NetNs::anonymous().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&namespace)).into();
    let request = Request {
        key: Key {
            door: Door::Cni,
            network: "adit".into(),
            container: "0123456789abcdef".into(),
            interface: "eth0".into(),
        },
        name: Some("pod".into()),
        wanted: Vec::new(),
        mac: None,
        ports: Vec::new(),
        isolated: false,
        mtu: None,
        default_route: true,
        place: Place::Namespace { namespace, path },
        reservation: None,
        process: None,
    };
    let node = adit::container::Node::read(
        &adit::Directories { runtime: program.path("run"), state: program.path("state"), ..Default::default() },
        "adit0",
    )
    .unwrap();
    program.host.namespace.run(|| attach(&node, &program.store(), &request)).unwrap().unwrap();
    let listed = program.listed();
    assert_eq!((&listed[0]["name"], &listed[0]["door"]), (&"pod".into(), &"cni".into()));
    let said = program.fails(125, &["exec", "pod", "--", "true"]);
    assert!(said.contains("podman exec pod"), "{said}");
    let said = program.fails(125, &["run", "--name", "pod", "--", "true"]);
    assert!(said.contains("there is a container pod already (door cni)"), "{said}");
    assert!(adit::container::collect(&program.store(), &|_| true).unwrap().is_empty());
    program.host.namespace.run(|| adit::container::detach(&program.store(), &request.key)).unwrap().unwrap();
    world.is_clean();
}

#[test]
fn nobody_but_adit_run_starts_the_first_process() {
    let world = World::new();
    let file = world.program().path("ran");
    for descriptor in ["0", "99"] {
        let said = world.program().fails(125, &["inside", descriptor, "--", "touch", file.to_str().unwrap()]);
        assert!(said.contains(&format!("cannot take descriptor {descriptor} over")), "{said}");
    }
    assert!(!file.exists());
}
