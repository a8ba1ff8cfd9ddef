//! What cannot be had is refused in a sentence that says what to do, and the host is as it was.

use crate::bed::wait_for;
use crate::played::{standing, there_are_others};
use crate::world::World;

#[test]
fn what_is_wrong_is_refused_and_nothing_is_half_made() {
    let world = World::with(&["10.42.7.0/29"], None);
    let program = world.program();
    let web = program.container("web", &[], "echo ready; read x");
    let pod = program.attach_pod();
    // The kernel ends its namespace when it likes, and its device with it.
    let device = pod.host_interface();
    wait_for("the end of its device", || program.host.netlink().link(&device).unwrap().is_none().then_some(()));
    program.succeeds(&["vm-tap", "db"]);
    let before = standing(&program);
    let long = "x".repeat(64);
    for (code, arguments, words) in [
        (2, &["Db"][..], "\"Db\" is no name for a virtual machine: use 1 to 63 of a to z"),
        (2, &["../db"], "is no name for a virtual machine"),
        (2, &[&long], "is no name for a virtual machine"),
        (1, &["web"], "there is a container web already (door run); choose another name"),
        (1, &["pod"], "there is a container pod already (door cni); choose another name"),
        (
            2,
            &["new", "--owner", "nobody of this name"],
            "there is no user \"nobody of this name\" on this host; see `getent passwd`",
        ),
        (2, &["new", "--owner", "4294967295"], "4294967295 is no user"),
        (1, &["db", "--queues", "2"], "the virtual machine db has 1 queue; delete it with `adit vm-tap db --delete`"),
        (1, &["web", "--delete"], "web is no virtual machine; it is a command of `adit run`"),
        (1, &["pod", "--delete"], "pod is no virtual machine; remove it by its own runtime"),
        (1, &["new", "--delete"], "there is no virtual machine new on this host; see `adit ps`"),
        (1, &["new", "--device", "adit9"], "no node of a network runs here with the device adit9"),
        (2, &["new", "--device", "../x"], "is not a device name"),
    ] {
        let said = program.fails(code, &[&["vm-tap"], arguments].concat());
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(standing(&program), before, "{arguments:?}");
    }
    assert!(
        program
            .fails(125, &["run", "--name", "db", "--", "true"])
            .contains("there is a container db already (door vm)")
    );
    assert!(program.fails(125, &["exec", "db", "--", "true"]).contains("db is a virtual machine"));
    // Of 10.42.7.0/29 containers have five.
    program.succeeds(&["vm-tap", "four"]);
    program.succeeds(&["vm-tap", "five"]);
    let said = program.fails(1, &["vm-tap", "six"]);
    assert!(said.contains("no address of 10.42.7.0/29 is free"), "{said}");
    for name in ["db", "four", "five"] {
        program.succeeds(&["vm-tap", name, "--delete"]);
    }
    web.stop();
    program.host.namespace.run(|| adit::container::detach(&program.store(), &pod)).unwrap().unwrap();
    world.is_clean();
}

#[test]
fn whoever_is_not_root_is_told_so() {
    let world = World::new();
    let program = world.program();
    if !there_are_others() {
        return;
    }
    // Its directory is closed to others, and so may the program's be.
    let copy = program.path("adit");
    std::fs::copy(crate::bed::daemon::ADIT, &copy).unwrap();
    let directory = copy.parent().unwrap();
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command =
        program.command("setpriv", &["--reuid=65534", "--clear-groups", copy.to_str().unwrap(), "vm-tap", "db"]);
    let output = program.host.namespace.run(|| command.output()).unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("put `sudo` before the command"), "{said}");
    world.is_clean();
}

#[test]
fn a_card_that_cannot_be_made_leaves_nothing() {
    let world = World::new();
    let program = world.program();
    let key = adit::container::Key {
        door: adit::container::Door::Vm,
        network: "adit0".into(),
        container: "db".into(),
        interface: "tap".into(),
    };
    let device = key.host_interface();
    program.host.run("ip", &["link", "add", &device, "type", "veth", "peer", "name", "other"]);
    let before = standing(&program);
    let said = program.fails(1, &["vm-tap", "db"]);
    assert!(said.contains(&device), "{said}");
    assert_eq!(standing(&program), before);
    assert_eq!(program.store().read_all().unwrap(), []);
    program.host.run("ip", &["link", "delete", &device]);
    world.is_clean();
}
