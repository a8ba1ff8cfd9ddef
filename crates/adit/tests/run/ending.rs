//! How containers end, and what is left.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;

use crate::bed::daemon::ADIT;
use crate::bed::wait_for;
use crate::world::{FIRST, World, inhabitants, send};

#[test]
fn the_exit_code_is_that_of_the_command() {
    let world = World::new();
    let program = world.program();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 125", 125),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        // What it has left running does not keep the container.
        ("sleep 1000 & exit 3", 3),
    ] {
        let output = program.adit(&["run", "--", "sh", "-c", script]);
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    let said = program.fails(127, &["run", "--", "nonexistent"]);
    assert_eq!(said, "adit: there is no command nonexistent here; see `echo $PATH`, or give its path\n");
    let said = program.fails(126, &["run", "--", "/etc/passwd"]);
    assert_eq!(said, "adit: cannot run /etc/passwd: Permission denied (os error 13)\n");
    world.is_clean();
}

#[test]
fn signals_arrive_once() {
    let world = World::new();
    let program = world.program();
    for signal in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"] {
        let script = format!(
            "trap 'echo got {signal}' {signal}; echo ready; while [ \"$x\" != next ]; do read x && echo $x; done; exit 4"
        );
        let mut running = program.container("web", &[], &script);
        running.signal(signal);
        assert_eq!(running.line(), format!("got {signal}"));
        // Were there a second one, it would be said before the line that is read.
        running.child.stdin.as_mut().unwrap().write_all(b"next\n").unwrap();
        assert_eq!(running.line(), "next", "{signal}");
        assert_eq!(running.ends().code(), Some(4));
    }
    let mut running = program.container("web", &[], "echo ready; exec sleep 1000");
    running.signal("TERM");
    assert_eq!(running.ends().code(), Some(143));
    world.is_clean();
}

#[test]
fn killed_it_leaves_no_process_and_its_address_is_free_again() {
    let world = World::new();
    let program = world.program();
    for next in [&["ps"][..], &["run", "--name", "web", "--ip", FIRST, "--publish", "8080:80", "--", "true"]] {
        let script = "(setsid sleep 1000 &); trap '' TERM HUP INT; sleep 1000 & echo ready; read x";
        let mut running = program.container("web", &["--ip", FIRST, "--publish", "8080:80"], script);
        let record = program.record("web");
        assert!(inhabitants(&record).len() >= 4);
        running.child.kill().unwrap();
        assert_eq!(running.ends().signal(), Some(9));
        let is_over = || program.processes().is_empty() && record.is_abandoned();
        wait_for("the end of all inside", || is_over().then_some(()));
        assert_eq!(program.store().read_all().unwrap().len(), 1, "somebody has to remove it");
        program.succeeds(next);
        world.is_clean();
    }
}

#[test]
fn whoever_comes_next_removes_the_ports_of_a_killed_one_too() {
    let world = World::new();
    let program = world.program();
    let mut running = program.container("web", &["--publish", "8080:80"], "echo ready; read x");
    let record = program.record("web");
    let ports = || program.host.run("nft", &["list", "ruleset"]).matches("8080").count();
    assert!(ports() > 0);
    running.child.kill().unwrap();
    running.ends();
    wait_for("the end of all inside", || record.is_abandoned().then_some(()));
    let key = program.attach_pod();
    assert_eq!(ports(), 0);
    program.host.namespace.run(|| adit::container::detach(&program.store(), &key)).unwrap().unwrap();
    world.is_clean();
}

#[test]
fn without_its_first_process_a_container_ends() {
    let world = World::new();
    let mut running = world.program().container("web", &[], "echo ready; read x");
    send("KILL", world.program().record("web").process.unwrap().pid);
    assert_eq!(running.ends().code(), Some(137));
    world.is_clean();
}

#[test]
fn it_reaps_what_it_has_not_started() {
    let world = World::new();
    let script = "for i in 1 2 3 4 5; do sh -c 'true & exec true'; done; echo ready; read x; grep -l '^State:.Z' /proc/[0-9]*/status; exit 0";
    let mut running = world.program().container("web", &[], script);
    running.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(running.ends().code(), Some(0));
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_that_the_next_does_not_remove() {
    let world = World::new();
    let program = world.program();
    // Each time a little later: from before the namespaces are made until after the command has ended.
    for step in 0..40 {
        let mut command = program.command(ADIT, &["run", "--name", "web", "--publish", "8080:80", "--", "true"]);
        let mut running = program.start(command.stderr(Stdio::null()));
        thread::sleep(std::time::Duration::from_millis(step * 2));
        let _ = running.child.kill();
        running.ends();
        wait_for("the end of all inside", || {
            let records = program.store().read_all().unwrap();
            (program.processes().is_empty() && records.iter().all(|record| record.is_abandoned())).then_some(())
        });
        program.succeeds(&["ps"]);
        world.is_clean();
    }
}

#[test]
fn many_at_once_have_names_and_addresses_of_their_own() {
    let world = World::new();
    let program = world.program();
    let mut running: Vec<_> = (0..12)
        .map(|_| {
            let mut command = program.command(ADIT, &["run", "--", "cat"]);
            program.start(command.stdin(Stdio::piped()))
        })
        .collect();
    let records = wait_for("all of them", || {
        let records = program.store().read_all().unwrap();
        (records.len() == 12 && records.iter().all(|record| record.stage == adit::container::Stage::Made))
            .then_some(records)
    });
    let mut seen = std::collections::HashSet::new();
    for record in records {
        assert!(
            seen.insert(record.name.clone().unwrap()) && seen.insert(record.addresses[0].to_string()),
            "{record:?}"
        );
    }
    running.iter_mut().for_each(|one| drop(one.child.stdin.take()));
    running.iter_mut().for_each(|one| assert!(one.ends().success()));
    world.is_clean();
}

/// As a service sees it that is not shown the processes of others (hidepid of proc(5), `ProtectProc=` of systemd).
#[test]
fn whoever_sees_no_processes_takes_no_containers_away() {
    let world = World::new();
    let program = world.program();
    let running = program.container("web", &[], "echo ready; read x");
    let script = "mount -t proc -o hidepid=2 proc /proc; exec setpriv --regid 65534 --clear-groups --inh-caps -all,+net_admin \
                  --bounding-set -all,+net_admin sh -c 'test ! -e /proc/1/stat && \"$ADIT\" ps'";
    let mut command = program.command("unshare", &["--mount", "--propagation", "private", "sh", "-ec", script]);
    let output = program.host.namespace.run(|| command.output()).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(program.listed().len(), 1, "{output:?}");
    running.stop();
    world.is_clean();
}
