//! What cannot be had is refused in a sentence, and nothing is half-made.

use std::net::TcpListener;

use linux::netlink::LinkChange;

use crate::world::{FIRST, GATEWAY, Running, World};

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
    let key = program.attach_pod();
    let listed = program.listed();
    assert_eq!((&listed[0]["name"], &listed[0]["door"]), (&"pod".into(), &"cni".into()));
    let said = program.fails(125, &["exec", "pod", "--", "true"]);
    assert!(said.contains("podman exec pod"), "{said}");
    let said = program.fails(125, &["run", "--name", "pod", "--", "true"]);
    assert!(said.contains("there is a container pod already (door cni)"), "{said}");
    assert!(adit::container::collect(&program.store(), &|_| true).unwrap().is_empty());
    program.host.namespace.run(|| adit::container::detach(&program.store(), &key)).unwrap().unwrap();
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

#[test]
fn a_bridge_that_was_left_half_made_is_taken_over_and_anothers_is_not() {
    let world = World::new();
    let program = world.program();
    let mut netlink = program.host.netlink();
    // Killed between the making and the marking.
    netlink.create_bridge("adit-br0", Some([0x0a, 0x58, 10, 42, 7, 1])).unwrap();
    let said = program.succeeds(&["run", "--", "ip", "route"]);
    assert!(said.starts_with(&format!("default via {GATEWAY}")), "{said}");
    world.is_clean();
    for (mac, up, alias) in [
        ([2, 0, 0, 0, 0, 1], false, None),
        ([0x0a, 0x58, 10, 42, 7, 1], true, None),
        ([0x0a, 0x58, 10, 42, 7, 1], false, Some("mine")),
    ] {
        netlink.create_bridge("adit-br0", Some(mac)).unwrap();
        let index = netlink.existing_link("adit-br0").unwrap().index;
        netlink.change_link(index, &LinkChange { up: Some(up), alias, ..LinkChange::default() }).unwrap();
        let said = program.fails(125, &["run", "--", "true"]);
        assert!(
            said.contains("the device adit-br0 exists (bridge) and is not adit's; choose another `bridge`"),
            "{said}"
        );
        assert_eq!(program.store().read_all().unwrap(), []);
        netlink.delete_link(index).unwrap();
    }
    world.is_clean();
}
