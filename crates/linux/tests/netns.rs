//! Network namespaces against the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::path::Path;
use std::process::Command;

use linux::netlink::{Netlink, VethEnd};
use linux::netns::{DIRECTORY, NetNs};
use support::{Named, fresh, unique};

#[test]
fn a_named_one_is_listed_opened_and_gone_after_deletion() {
    let named = Named::create();
    assert!(NetNs::list_named().unwrap().contains(&named.name));
    assert_eq!(NetNs::named(&named.name).unwrap(), named.namespace);
    assert_ne!(NetNs::current().unwrap(), named.namespace);
    assert_eq!(NetNs::create_named(&named.name).unwrap_err().errno(), Some(libc::EEXIST));
    NetNs::delete_named(&named.name).unwrap();
    assert!(!NetNs::list_named().unwrap().contains(&named.name));
    assert_eq!(NetNs::named(&named.name).unwrap_err().errno(), Some(libc::ENOENT));
    assert_eq!(NetNs::delete_named(&named.name).unwrap_err().errno(), Some(libc::ENOENT));
    // Who holds it can still use it.
    Netlink::open_in(&named.namespace).unwrap().create_bridge("bridge", None).unwrap();
}

#[test]
fn iproute2_sees_ours_and_we_see_its() {
    let named = Named::create();
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.split(' ').next() == Some(&named.name)));
    let executed = Command::new("ip").args(["netns", "exec", &named.name, "true"]).status().unwrap();
    assert!(executed.success());

    let theirs = unique("adit-test-ip");
    assert!(Command::new("ip").args(["netns", "add", &theirs]).status().unwrap().success());
    let opened = NetNs::named(&theirs);
    NetNs::delete_named(&theirs).unwrap();
    assert!(opened.is_ok());
    assert!(!Path::new(DIRECTORY).join(&theirs).exists());
}

#[test]
fn deleting_clears_away_a_half_made_name() {
    let named = Named::create();
    let half = unique("adit-test-half");
    std::fs::write(Path::new(DIRECTORY).join(&half), "").unwrap();
    assert!(NetNs::named(&half).is_err());
    NetNs::delete_named(&half).unwrap();
    assert!(!NetNs::list_named().unwrap().contains(&half));
    drop(named);
}

#[test]
fn code_runs_inside_and_the_caller_stays_outside() {
    let (namespace, mut netlink) = fresh();
    let before = NetNs::current().unwrap();
    let inside = namespace.run(|| NetNs::current().unwrap()).unwrap();
    assert_eq!((inside, NetNs::current().unwrap()), (namespace.clone(), before));
    netlink.create_bridge("here", None).unwrap();
    let child = namespace.run(|| Command::new("cat").arg("/proc/self/net/dev").output().unwrap()).unwrap();
    assert!(String::from_utf8_lossy(&child.stdout).contains("here:"));
    let borrowed = String::from("borrowed");
    assert_eq!(namespace.run(|| borrowed.len()).unwrap(), 8);
}

#[test]
fn a_panic_inside_goes_on_outside() {
    let (namespace, _) = fresh();
    let caught = std::panic::catch_unwind(|| namespace.run(|| panic!("from within")));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"from within"));
}

#[test]
fn an_anonymous_one_ends_with_its_last_holder() {
    let (namespace, mut netlink) = fresh();
    let (other, mut outside) = fresh();
    let (a, b) = (
        VethEnd { name: "in", ..Default::default() },
        VethEnd { name: "out", netns: Some(&other), ..Default::default() },
    );
    netlink.create_veth(&a, &b).unwrap();
    assert!(outside.link("out").unwrap().is_some());
    drop((netlink, namespace));
    // The kernel takes the namespace down in the background, and with it the other end of the pair.
    support::wait_for("the end of the namespace", || outside.link("out").unwrap().is_none().then_some(()));
}
