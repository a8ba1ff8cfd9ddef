//! The bed itself: hosts that have everything of their own, and leave nothing behind.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::bed::fake::FakeHost;
use crate::bed::{Bed, wait_for};

#[test]
fn hosts_are_apart_and_carry_a_network() {
    let bed = Bed::new(2);
    let hosts: Vec<_> = bed.hosts.iter().map(FakeHost::new).collect();
    for host in &hosts {
        assert_eq!(host.run("uname", &["-n"]).trim(), host.name());
        assert!(host.shell("ls /sys/class/net").split_whitespace().eq(["lo", "under0"]), "{}", host.name());
        host.write("/etc/adit-test", &host.name());
        host.write("/var/lib/cni/adit-test", &host.name());
        host.write("/run/adit-test", &host.name());
    }
    for host in &hosts {
        let files = host.shell("cat /etc/adit-test /var/lib/cni/adit-test /run/adit-test");
        assert_eq!(files, host.name().repeat(3));
    }
    assert!(!Path::new("/etc/adit-test").exists() && !Path::new("/run/adit-test").exists());

    let token = hosts[0].init(&[]);
    let one = hosts[0].up();
    hosts[1].join(&token);
    let two = hosts[1].up();
    // The device of the other node has the first address of its subnet; the second one is for the bridge of its containers.
    let bridge = hosts[1].subnet_env("FLANNEL_SUBNET");
    let device = bridge.replace(".1/24", ".0");
    wait_for("the way to the other node", || hosts[0].pings(&device).then_some(()));
    two.terminate();
    one.crash();
}

#[test]
fn a_host_goes_with_all_that_was_on_it() {
    let bed = Bed::new(1);
    let mut gone = Vec::new();
    let hierarchy = if Path::new("/sys/fs/cgroup/pids").exists() { "/sys/fs/cgroup/pids" } else { "/sys/fs/cgroup" };
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let host = FakeHost::new(bed.host(1));
        // One that nobody waits for, in a control group and with a named namespace and a mount of its own.
        let group = format!("{hierarchy}/{}", host.cgroup());
        let groups = format!("{group}/deeper");
        host.shell(&format!("mkdir -p {groups} /run/here; mount -t tmpfs here /run/here; ip netns add left"));
        let line = format!("echo $$ >{groups}/cgroup.procs; exec sleep 3600");
        host.shell(&format!("setsid sh -c '{line}' >/dev/null 2>&1 &"));
        let stays = host.spawn("sleep", &["3601"]);
        wait_for("a group with a process", || {
            (!fs::read_to_string(format!("{groups}/cgroup.procs")).unwrap().is_empty()).then_some(())
        });
        gone.push(group);
        gone.push(host.directory.path().to_str().unwrap().to_owned());
        drop(stays);
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(failed.is_err() && gone.len() == 2);
    gone.iter().for_each(|path| assert!(!Path::new(path).exists(), "{path}"));
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        [&b"sleep\x003600\0"[..], b"sleep\x003601\0"].contains(&line.as_slice()).then_some(entry.file_name())
    });
    assert_eq!(processes.count(), 0, "no process is left");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!gone.iter().any(|path| mounts.contains(path.as_str())), "{mounts}");
}
