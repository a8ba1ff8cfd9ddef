//! Section 2, "CHECK".

use serde_json::{Value, json};

use crate::bed::wait_for;
use crate::world::{Ask, Container, Host, VERSIONS, key};

fn added(host: &Host) -> (Container, Value) {
    let container = Container::new("c1");
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let result = host.ours("ADD", &container).with("runtimeConfig", ports).result();
    (container, result)
}

fn check<'a>(host: &'a Host, container: &Container, result: &Value) -> Ask<'a> {
    host.ours("CHECK", container).previous(result)
}

/// "The plugin must handle `CHECK` being called immediately after an `ADD`"
#[test]
fn check_succeeds_at_once_after_add_and_says_nothing() {
    for version in &VERSIONS[1..] {
        let (host, container) = (Host::new(), Container::new("c1"));
        let result = host.ours("ADD", &container).version(version).result();
        check(&host, &container, &result).version(version).done();
    }
}

/// "The plugin must consult the `prevResult` to determine the expected interfaces and addresses"
#[test]
fn check_consults_the_earlier_result() {
    let host = Host::new();
    let (container, result) = added(&host);
    let (code, _, details) = host.ours("CHECK", &container).error();
    assert_eq!((code, details.contains("prevResult")), (7, true), "{details}");
    let changes: [fn(&mut Value); 3] = [
        |result| result["interfaces"][2]["name"] = "eth7".into(),
        |result| result["ips"][0]["address"] = "10.42.7.200/24".into(),
        |result| result["routes"][0]["dst"] = "198.51.100.0/24".into(),
    ];
    for change in changes {
        let mut other = result.clone();
        change(&mut other);
        assert_eq!(check(&host, &container, &other).error().0, 104, "{other}");
    }
    check(&host, &container, &result).done();
}

/// "The plugin must allow for a later chained plugin to have modified networking resources, e.g. routes, on `ADD`"
#[test]
fn check_allows_what_later_plugins_changed() {
    let host = Host::new();
    let (container, mut result) = added(&host);
    let inside = |arguments: &[&str]| drop(crate::world::run(&container.namespace, "ip", arguments));
    inside(&["route", "add", "198.51.100.0/24", "via", "10.42.7.1"]);
    inside(&["route", "replace", "default", "via", "10.42.7.1", "mtu", "1300"]);
    inside(&["address", "add", "192.0.2.9/24", "dev", "eth0"]);
    result["routes"].as_array_mut().unwrap().push(json!({"dst": "198.51.100.0/24", "gw": "10.42.7.1"}));
    result["ips"].as_array_mut().unwrap().push(json!({"address": "192.0.2.9/24", "interface": 2}));
    result["interfaces"].as_array_mut().unwrap().push(json!({"name": "ifb0"}));
    check(&host, &container, &result).done();
    // A route that was taken out of the result by whoever took it away.
    inside(&["route", "delete", "default"]);
    result["routes"].as_array_mut().unwrap().retain(|route| route["dst"] != "0.0.0.0/0");
    check(&host, &container, &result).done();
}

/// "should return an error if a resource included in the CNI Result type (interface, address or route) was created by the plugin ... but is missing or in an
/// invalid state"; "if other resources not tracked in the Result type such as ... Firewall rules ... are missing"
#[test]
fn check_tells_what_is_missing_or_wrong() {
    type Spoil = (&'static str, fn(&Host, &Container));
    let spoilt: [Spoil; 12] = [
        ("interface", |_, c| run(c, &["link", "delete", "eth0"])),
        ("interface renamed", |_, c| {
            run(c, &["link", "set", "eth0", "down"]);
            run(c, &["link", "set", "eth0", "name", "eth9"]);
        }),
        ("interface down", |_, c| run(c, &["link", "set", "eth0", "down"])),
        ("address", |_, c| run(c, &["address", "delete", "10.42.7.2/24", "dev", "eth0"])),
        ("address of IPv6", |_, c| run(c, &["address", "delete", "fd42:0:0:7::2/64", "dev", "eth0"])),
        ("route", |_, c| run(c, &["route", "delete", "default"])),
        ("route of IPv6", |_, c| run(c, &["-6", "route", "delete", "default"])),
        ("bridge", |h, _| drop(h.run("ip", &["link", "delete", "adit-br0"]))),
        ("bridge down", |h, _| drop(h.run("ip", &["link", "set", "adit-br0", "down"]))),
        ("port", |h, c| drop(h.run("ip", &["link", "set", &key(c, "eth0").host_interface(), "nomaster"]))),
        ("filters", |h, c| {
            drop(h.run("nft", &["delete", "table", "netdev", &format!("adit-{}", key(c, "eth0").host_interface())]))
        }),
        ("published ports", |h, _| drop(h.run("nft", &["flush", "table", "inet", "adit-adit0-ports"]))),
    ];
    for (what, spoil) in spoilt {
        let host = Host::new();
        let (container, result) = added(&host);
        spoil(&host, &container);
        let (code, _, details) = check(&host, &container, &result).error();
        assert_eq!(code, 104, "{what}: {details}");
    }
}

fn run(container: &Container, arguments: &[&str]) {
    crate::world::run(&container.namespace, "ip", arguments);
}

/// "IP reservations": the record that keeps its addresses from others. "Container unknown or does not exist" has a code of its own.
#[test]
fn check_of_an_unknown_container_is_told_as_such() {
    let host = Host::new();
    let (container, result) = added(&host);
    let other = Container { id: "c2".into(), ..container.clone() };
    assert_eq!(check(&host, &other, &result).error().0, 3);
    assert_eq!(check(&host, &container, &result).env("CNI_IFNAME", "eth1").error().0, 3);
    host.ours("DEL", &container).done();
    assert_eq!(check(&host, &container, &result).error().0, 3);
}

/// "External dependencies such as a daemon required for connectivity", with "a reasonable convergence delay"
#[test]
fn check_tells_that_the_daemon_is_away_unless_it_comes_back_at_once() {
    let host = Host::new();
    let (container, result) = added(&host);
    for end in [Host::kill_daemon, Host::end_daemon] {
        end(&host);
        let (code, _, details) = check(&host, &container, &result).error();
        assert_eq!(code, 11);
        assert!(details.contains("start it with `adit up`"), "{details}");
    }
    let mut asked = check(&host, &container, &result).start();
    host.start_daemon();
    let status = wait_for("CHECK to see the daemon again", || asked.try_wait().unwrap());
    assert!(status.success());
}

/// "All parameters, with the exception of `CNI_PATH`, must be the same as the corresponding `ADD`": another namespace is not that of the container.
#[test]
fn check_tells_another_namespace_from_its_own() {
    let host = Host::new();
    let (container, result) = added(&host);
    let other = Container::new("c1");
    let mut moved = result.clone();
    moved["interfaces"][2]["sandbox"] = other.path().into();
    assert_eq!(check(&host, &other, &moved).error().0, 104);
    assert_eq!(check(&host, &container, &result).env("CNI_NETNS", "/run/netns/gone").error().0, 4);
}

/// "Required environment parameters" of CHECK.
#[test]
fn check_names_the_variable_that_is_missing() {
    let host = Host::new();
    let (container, result) = added(&host);
    for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let (code, message, _) = check(&host, &container, &result).without(variable).error();
        assert_eq!((code, message.contains(variable)), (4, true), "{message}");
    }
}

/// CHECK came with 0.4.0.
#[test]
fn check_is_not_in_the_oldest_version() {
    let host = Host::new();
    let (container, result) = added(&host);
    assert_eq!(check(&host, &container, &result).version("0.3.1").error().0, 1);
}
