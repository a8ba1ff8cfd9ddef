//! Section 2, "STATUS" and "VERSION".

use std::fs;

use adit::container::Node;
use serde_json::{Value, json};

use crate::world::{Container, Host, VERSIONS};

/// "must exit with a zero (success) return code if the plugin is ready to service ADD requests"
#[test]
fn status_is_silent_where_containers_can_be_added() {
    let host = Host::new();
    let before = host.state();
    host.of_all("STATUS").done();
    host.of_all("STATUS").without("CNI_PATH").done();
    assert_eq!(host.state(), before, "it changes nothing");
}

/// "If the plugin knows that it is not able to service ADD requests, it must exit with a non-zero return code and output an error"; 50
#[test]
fn status_tells_that_there_is_no_node() {
    let host = Host::new();
    let file = Node::path(&host.directories, "adit0");
    fs::remove_file(&file).unwrap();
    let (code, _, details) = host.of_all("STATUS").error();
    assert_eq!(code, 50);
    assert!(details.contains("adit up"), "{details}");
    Node { subnets: Vec::new(), ..host.node.clone() }.write(&host.directories).unwrap();
    assert_eq!(host.of_all("STATUS").error().0, 50);
    fs::write(&file, "{").unwrap();
    assert_eq!(host.of_all("STATUS").error().0, 50);
}

/// "if a plugin has a limited number of resources (e.g. IP addresses, hardware queues), it should return an error if those resources are exhausted"
#[test]
fn status_tells_that_no_address_is_free() {
    let (host, container) = (Host::with(&["10.42.7.0/30"]), Container::new("c1"));
    host.of_all("STATUS").done();
    host.ours("ADD", &container).result();
    let (code, _, details) = host.of_all("STATUS").error();
    assert_eq!((code, details.contains("10.42.7.0/30")), (50, true), "{details}");
    host.ours("DEL", &container).done();
    host.of_all("STATUS").done();
}

/// "if a plugin relies on an external service or daemon, it should return an error to `STATUS` if that service is unavailable"; 51
#[test]
fn status_tells_that_the_daemon_is_away() {
    let host = Host::new();
    host.kill_daemon();
    assert_eq!(host.of_all("STATUS").error().0, 51, "its device is there still");
    host.start_daemon();
    host.of_all("STATUS").done();
    host.end_daemon();
    assert_eq!(host.of_all("STATUS").error().0, 51);
}

/// What ADD would refuse in the configuration is no network to be ready for.
#[test]
fn status_refuses_a_configuration_that_add_would_refuse() {
    let host = Host::new();
    assert_eq!(host.of_all("STATUS").with("ipam", json!({"type": "host-local"})).error().0, 7);
    assert_eq!(host.of_all("STATUS").with("ipMasq", true).error().0, 2);
}

/// "Plugins should always expect other CNI operations (like `ADD`, `DEL`, etc) even if `STATUS` returns an error"
#[test]
fn other_commands_do_what_they_can_while_status_is_an_error() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.end_daemon();
    assert_eq!(host.of_all("STATUS").error().0, 51);
    host.ours("ADD", &container).result();
    host.ours("DEL", &container).done();
    host.assert_clean();
}

/// STATUS came with 1.1.0.
#[test]
fn status_is_in_the_newest_version_only() {
    let host = Host::new();
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        assert_eq!(host.of_all("STATUS").version(version).error().0, 1);
    }
}

/// "`cniVersion`: The value of `cniVersion` specified on input"; "`supportedVersions`: A list of supported specification versions"
#[test]
fn version_says_what_is_spoken() {
    let host = Host::new();
    let before = host.state();
    for version in ["1.0.0", "0.3.1", "1.1.0", "0.1.0", "9.0.0"] {
        let answer = host.of_all("VERSION").run_with(json!({"cniVersion": version}).to_string().as_bytes());
        assert_eq!(answer.exit_code, Some(0));
        let said: Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(said, json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
    assert_eq!(host.state(), before);
}

/// "Required environment parameters: `CNI_COMMAND`", and what Podman sets the others to.
#[test]
fn version_needs_nothing_else() {
    let host = Host::new();
    fs::remove_file(Node::path(&host.directories, "adit0")).unwrap();
    let ask = host.of_all("VERSION").without("CNI_PATH");
    assert_eq!(ask.run_with(br#"{"cniVersion":"1.0.0"}"#).exit_code, Some(0));
    assert_eq!(ask.run_with(b"").exit_code, Some(0), "runtimes of old say nothing");
    let podman = ask.env("CNI_NETNS", "dummy").env("CNI_IFNAME", "dummy").env("CNI_PATH", "dummy");
    assert_eq!(podman.run_with(br#"{"cniVersion":"1.0.0"}"#).exit_code, Some(0));
}

/// "Incompatible CNI version", and nothing is done.
#[test]
fn a_version_that_is_not_spoken_is_refused() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let before = host.state();
    for verb in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
        for version in ["0.1.0", "0.2.0", "0.3.0", "2.0.0", "nonsense"] {
            let (code, _, details) = host.ours(verb, &container).version(version).error();
            assert_eq!((code, details.contains("1.1.0")), (1, true), "{verb} {version}: {details}");
        }
    }
    assert_eq!(host.state(), before);
}
