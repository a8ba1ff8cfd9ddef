//! Section 2, "DEL".

use std::fs;

use adit::container::Node;

use crate::world::{Container, Host, VERSIONS, addresses, key};

/// "delete the interface defined by `CNI_IFNAME` inside the container at `CNI_NETNS`"
#[test]
fn del_removes_the_interface_and_all_that_was_made() {
    for version in VERSIONS {
        let (host, container) = (Host::new(), Container::new("c1"));
        let result = host.ours("ADD", &container).version(version).result();
        host.ours("DEL", &container).version(version).previous(&result).done();
        assert!(container.link("eth0").is_none());
        host.assert_clean();
    }
}

/// "release an IP allocation"
#[test]
fn del_gives_the_address_back() {
    let host = Host::with(&["10.42.7.0/30"]);
    let [one, two] = ["c1", "c2"].map(Container::new);
    let first = host.ours("ADD", &one).result();
    assert_eq!(host.ours("ADD", &two).error().0, 100);
    host.ours("DEL", &one).done();
    assert_eq!(addresses(&host.ours("ADD", &two).result()), addresses(&first));
}

/// "Plugins should still return without error if `prevResult` is empty for a `DEL` command"
#[test]
fn del_needs_no_earlier_result() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for previous in [serde_json::json!({}), serde_json::Value::Null] {
        host.ours("ADD", &container).result();
        host.ours("DEL", &container).previous(&previous).done();
        host.assert_clean();
    }
}

/// "Optional environment parameters: `CNI_NETNS`"
#[test]
fn del_needs_no_namespace() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for netns in [None, Some(""), Some("/run/netns/gone"), Some("/proc/self/ns/net")] {
        host.ours("ADD", &container).result();
        let ask = host.ours("DEL", &container).without("CNI_NETNS");
        netns.map_or(ask.clone(), |netns| ask.env("CNI_NETNS", netns)).done();
        assert!(container.link("eth0").is_none());
        host.assert_clean();
    }
}

/// "even if the container network namespace no longer exists"
#[test]
fn del_succeeds_when_the_namespace_is_gone() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.ours("ADD", &container).result();
    let ask = host.ours("DEL", &container);
    let end = key(&container, "eth0").host_interface();
    drop(container);
    crate::bed::wait_for("the end of the pair to go with its namespace", || {
        host.netlink().link(&end).unwrap().is_none().then_some(())
    });
    ask.done();
    host.assert_clean();
}

/// "Plugins MUST accept multiple `DEL` calls for the same (`CNI_CONTAINERID`, `CNI_IFNAME`) pair, and return success if the interface in question, or any
/// modifications added, are missing"
#[test]
fn del_succeeds_as_often_as_it_is_called() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.ours("DEL", &container).done();
    host.ours("ADD", &container).result();
    for _ in 0..3 {
        host.ours("DEL", &container).done();
    }
    host.ours("ADD", &container).result();
    let mut netlink = container.netlink();
    let index = netlink.existing_link("eth0").unwrap().index;
    netlink.delete_link(index).unwrap();
    host.ours("DEL", &container).done();
    host.assert_clean();
}

/// "plugins should always complete a `DEL` action without error to the fullest extent possible, even if some resources or state are missing"
#[test]
fn del_succeeds_whatever_is_missing() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let ports = serde_json::json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let missing: [&dyn Fn(); 6] = [
        &|| fs::remove_file(Node::path(&host.directories, "adit0")).unwrap(),
        &|| host.end_daemon(),
        &|| drop(host.run("ip", &["link", "delete", "adit-br0"])),
        &|| drop(host.run("ip", &["link", "delete", &key(&container, "eth0").host_interface()])),
        &|| drop(host.run("nft", &["flush", "ruleset"])),
        &|| fs::write(host.record_file(&container), "").unwrap(),
    ];
    for (n, take_away) in missing.iter().enumerate() {
        host.node.write(&host.directories).unwrap();
        host.ours("ADD", &container).with("runtimeConfig", ports.clone()).result();
        take_away();
        let answer = host.ours("DEL", &container).run();
        assert_eq!((answer.exit_code, answer.text.as_str()), (Some(0), ""), "{n}: {answer:?}");
        host.assert_clean();
    }
}

/// "It must still be executed even if the add fails" (section 3): what the configuration cannot be followed in does not hinder it.
#[test]
fn del_after_an_add_that_failed_succeeds() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for (key, value) in
        [("ipam", serde_json::json!({"type": "host-local"})), ("mtu", "large".into()), ("dns", 1.into())]
    {
        let before = host.state();
        host.ours("ADD", &container).with(key, value.clone()).error();
        host.ours("DEL", &container).with(key, value).env("CNI_ARGS", "UNKNOWN").done();
        assert_eq!(host.state(), before);
    }
}

/// One attachment goes, no other.
#[test]
fn del_leaves_what_was_not_meant() {
    let host = Host::new();
    let [one, two] = ["c1", "c2"].map(Container::new);
    let results = [&one, &two].map(|container| host.ours("ADD", container).version("1.1.0").result());
    host.ours("DEL", &one).with("name", "another").done();
    host.ours("DEL", &one).env("CNI_IFNAME", "eth1").done();
    for (container, result) in [&one, &two].into_iter().zip(&results) {
        host.ours("CHECK", container).version("1.1.0").previous(result).done();
    }
    host.ours("DEL", &one).done();
    host.ours("CHECK", &two).version("1.1.0").previous(&results[1]).done();
    two.reaches("10.42.7.1".parse().unwrap());
}

/// "Required environment parameters" of DEL.
#[test]
fn del_names_the_variable_that_is_missing() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for variable in ["CNI_CONTAINERID", "CNI_IFNAME"] {
        let (code, message, _) = host.ours("DEL", &container).without(variable).error();
        assert_eq!((code, message.contains(variable)), (4, true), "{message}");
    }
}
