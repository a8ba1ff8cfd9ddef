//! Getting and giving up rights, each in a process of its own: this program starts itself once more with one test named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use linux::netlink::Netlink;
use linux::netns::NetNs;
use linux::privilege::{self, Capability};
use support::{enter, unique};

/// Set in the processes that this program starts.
const INSIDE: &str = "ADIT_TEST_INSIDE";

/// This program, to run the test `name` alone, which then finds [`INSIDE`] set.
fn again(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", name, "--test-threads=1"]).env(INSIDE, "1");
    command
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

#[test]
fn an_ordinary_user_is_root_of_his_own_namespaces() {
    if !inside() {
        let mut command = again("an_ordinary_user_is_root_of_his_own_namespaces");
        // Where all users exist (outside of any user namespace), root becomes an ordinary one for this.
        if privilege::is_root() && std::fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
            command.uid(65534).gid(65534);
        }
        return succeeds(privilege::in_user_namespace(&mut command));
    }
    assert!(privilege::is_root() && privilege::has_capability(Capability::NetAdmin));
    let mut netlink = Netlink::open().unwrap();
    assert_eq!(netlink.links().unwrap().iter().filter(|link| link.up).count(), 0, "a namespace of its own");
    netlink.set_up(1, true).unwrap();
    netlink.create_bridge("bridge", None).unwrap();
    let name = unique("adit-test");
    let named = NetNs::create_named(&name).unwrap();
    Netlink::open_in(&named).unwrap().create_bridge("bridge", None).unwrap();
    assert_eq!(NetNs::list_named().unwrap(), [name.as_str()]);
    NetNs::delete_named(&name).unwrap();
    std::fs::write("/run/a-file", "").unwrap();
    linux::sysctl::set(&["net", "ipv4", "ip_forward"], "1").unwrap();
    // Whether tun devices can be had in the namespace is up to the system: its device file is open to all, or it is not.
    match (privilege::check_tun(), std::fs::metadata("/dev/net/tun").map(|m| m.mode() & 0o006 == 0o006)) {
        (Ok(()), Ok(true)) => {}
        (Err(error), Ok(false)) => assert!(error.to_string().contains("chmod"), "{error}"),
        (Err(error), Err(_)) => assert!(error.to_string().contains("modprobe tun"), "{error}"),
        (answer, open) => panic!("{answer:?}, though open to all is {open:?}"),
    }
}

#[test]
fn what_was_given_up_cannot_be_had_again() {
    if !inside() {
        enter();
        return succeeds(&mut again("what_was_given_up_cannot_be_had_again"));
    }
    // libtest runs a test on a thread of its own beside the main one, so a fork makes the single thread that this needs.
    let mut child = Command::new("/bin/sh");
    child.args(["-c", "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs):' /proc/self/status; ulimit -c"]);
    let drop = || privilege::drop_to_net_admin().map_err(|error| std::io::Error::other(error.to_string()));
    // SAFETY: this allocates after fork, which glibc permits in a child of a process whose other threads hold no lock of
    // its allocator; a test may rely on that.
    unsafe { child.pre_exec(drop) };
    let output = child.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let net_admin = format!("{:016x}", 1 << 12);
    assert_eq!(value("CapBnd:"), net_admin);
    // Run as root, a program gets what the bounding set still has.
    assert_eq!((value("CapPrm:"), value("CapEff:")), (net_admin.clone(), net_admin));
    assert_eq!((value("CapInh:"), value("CapAmb:")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(text.lines().last(), Some("0"), "no core files");
}

#[test]
fn a_process_that_forbids_dumps_can_be_neither_dumped_nor_looked_into() {
    if !inside() {
        return succeeds(&mut again("a_process_that_forbids_dumps_can_be_neither_dumped_nor_looked_into"));
    }
    let core_files = || {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // SAFETY: the call takes numbers only.
    let dumpable = || unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
    assert_eq!(dumpable(), 1);
    privilege::forbid_dumps().unwrap();
    assert_eq!((dumpable(), core_files()), (0, vec!["0".to_owned(); 2]));
    privilege::forbid_dumps().unwrap();
}

#[test]
fn giving_up_is_refused_once_there_are_threads() {
    let error = privilege::keep_capabilities(&[Capability::NetAdmin]).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EBUSY));
}

#[test]
fn a_thread_gives_up_for_itself_and_those_it_starts() {
    let held = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        (value("CapEff:"), value("CapPrm:"))
    };
    let before = held();
    let weak = std::thread::spawn(move || {
        privilege::keep_in_this_thread(&[]).unwrap();
        std::thread::spawn(held).join().unwrap()
    });
    assert_eq!(weak.join().unwrap(), ("0".repeat(16), "0".repeat(16)));
    assert_eq!(held(), before);
}
