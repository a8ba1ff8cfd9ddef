//! Section 2, "GC".

use std::fs;

use adit::container::{Node, Stage};
use serde_json::{Value, json};

use crate::bed::wait_for;
use crate::world::{Ask, Container, Host, key};

fn valid<'a>(host: &'a Host, containers: &[&Container]) -> Ask<'a> {
    let valid: Vec<Value> =
        containers.iter().map(|container| json!({"containerID": container.id, "ifname": "eth0"})).collect();
    host.of_all("GC").with("cni.dev/valid-attachments", valid)
}

/// "A plugin SHOULD remove as many stale resources as possible. For example, a plugin should remove any IPAM reservations associated with attachments not
/// in the provided list"; "No output on success"
#[test]
fn gc_removes_what_is_not_in_the_list_and_keeps_what_is() {
    let host = Host::new();
    let [kept, stale, gone] = ["c1", "c2", "c3"].map(Container::new);
    let results = [&kept, &stale, &gone].map(|container| host.ours("ADD", container).version("1.1.0").result());
    let other = host.ours("ADD", &kept).env("CNI_IFNAME", "eth1").result();
    let id = gone.id.clone();
    drop(gone);
    valid(&host, &[&kept]).done();
    let left: Vec<_> = host.records().into_iter().map(|record| (record.key.container, record.key.interface)).collect();
    assert_eq!(left, [("c1".to_owned(), "eth0".to_owned())]);
    assert!(stale.link("eth0").is_none() && kept.link("eth1").is_none());
    host.ours("CHECK", &kept).version("1.1.0").previous(&results[0]).done();
    // All that was theirs is free.
    let again = Container::new(&id);
    let wanted = json!({"ips": crate::world::ips(&other, "address")});
    host.ours("ADD", &again).with("runtimeConfig", wanted).result();
    valid(&host, &[]).done();
    host.assert_clean();
}

/// What belongs to other networks, or came by other doors, is not this network's to collect.
#[test]
fn gc_leaves_other_networks_alone() {
    let host = Host::new();
    let container = Container::new("c1");
    host.ours("ADD", &container).with("name", "another").result();
    valid(&host, &[]).done();
    assert_eq!(host.records().len(), 1);
    assert!(container.link("eth0").is_some());
}

/// What a plugin that was killed left half-made is nobody's, whatever the list says.
#[test]
fn gc_removes_what_was_never_finished() {
    let host = Host::new();
    let container = Container::new("c1");
    host.ours("ADD", &container).result();
    let mut record = host.records().remove(0);
    // Its maker has ended long ago.
    record.stage = Stage::Making;
    host.store().update(&record).unwrap();
    valid(&host, &[&container]).done();
    host.assert_clean();
}

/// "Plugins should generally complete a `GC` action without error. If an error is encountered, a plugin should continue"
#[test]
fn gc_goes_on_whatever_is_missing() {
    let host = Host::new();
    let [one, two, three] = ["c1", "c2", "c3"].map(Container::new);
    for container in [&one, &two, &three] {
        host.ours("ADD", container).result();
    }
    host.run("ip", &["link", "delete", &key(&one, "eth0").host_interface()]);
    host.run("ip", &["link", "delete", "adit-br0"]);
    let (file, end) = (host.record_file(&two), key(&two, "eth0").host_interface());
    fs::write(file, "{").unwrap();
    drop(two);
    wait_for("the end of the pair to go with its namespace", || {
        host.netlink().link(&end).unwrap().is_none().then_some(())
    });
    host.end_daemon();
    fs::remove_file(Node::path(&host.directories, "adit0")).unwrap();
    valid(&host, &[]).done();
    host.assert_clean();
}

/// "The runtime must provide" the list: without it nothing may be taken for stale.
#[test]
fn gc_without_a_list_removes_nothing() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.ours("ADD", &container).result();
    let before = host.state();
    for ask in [host.of_all("GC"), host.of_all("GC").with("cni.dev/valid-attachments", Value::Null)] {
        assert_eq!(ask.error().0, 7);
    }
    for wrong in [json!("c1"), json!([1]), json!([{"containerID": "c1"}])] {
        assert_eq!(host.of_all("GC").with("cni.dev/valid-attachments", wrong).error().0, 6);
    }
    assert_eq!(host.state(), before);
}

/// GC came with 1.1.0.
#[test]
fn gc_is_in_the_newest_version_only() {
    let host = Host::new();
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        assert_eq!(valid(&host, &[]).version(version).error().0, 1);
    }
}
