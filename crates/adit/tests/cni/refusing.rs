//! What cannot be done: the right error, a host as it was before, and nothing half-made in the container.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;

use adit::container::Node;
use serde_json::{Value, json};

use crate::bed::wait_for;
use crate::world::{Ask, Container, Host, key};

/// Runs ADD, which is to fail with this code, and to leave host and container as they were.
fn refused(
    host: &Host,
    container: &Container,
    what: &str,
    code: u64,
    change: impl FnOnce(Ask<'_>) -> Ask<'_>,
) -> String {
    let before = (host.state(), inside(container));
    let (is, message, details) = change(host.ours("ADD", container)).error();
    assert_eq!(is, code, "{what}: {message}: {details}");
    assert!(!details.is_empty() && !details.ends_with('.'), "{what}: {details}");
    assert_eq!((host.state(), inside(container)), before, "{what}");
    details
}

fn inside(container: &Container) -> Vec<String> {
    container.netlink().links().unwrap().into_iter().map(|link| link.name).collect()
}

/// A value for `runtimeConfig`.
fn port(port: Value) -> Value {
    json!({"portMappings": [port]})
}

#[test]
fn variables_that_are_wrong() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let long = "x".repeat(16);
    for (name, value) in [
        ("CNI_CONTAINERID", "../../etc/passwd"),
        ("CNI_CONTAINERID", "a/../b"),
        ("CNI_CONTAINERID", "c1\n"),
        ("CNI_IFNAME", "../../eth0"),
        ("CNI_IFNAME", &long),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "eth0:1"),
        ("CNI_COMMAND", "UPDATE"),
        ("CNI_COMMAND", ""),
        ("CNI_ARGS", "IP=10.42.7.300"),
        ("CNI_ARGS", "UNKNOWN=1"),
        ("CNI_ARGS", "MAC=ff:ff:ff:ff:ff:ff"),
        ("CNI_ARGS", "=;=;;;IP"),
    ] {
        refused(&host, &container, &format!("{name}={value}"), 4, |ask| ask.env(name, value));
    }
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS", "CNI_COMMAND"] {
        let no_text = OsString::from_vec(vec![b'c', 0xff, 0xfe]);
        refused(&host, &container, name, 4, |ask| ask.env(name, no_text));
    }
}

#[test]
fn namespaces_that_are_none() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let at = |name: &str| host.directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    crate::world::run(&host.namespace, "mkfifo", &[&at("pipe")]);
    for path in [
        "/run/netns/there-is-no-such",
        "/dev/null",
        "/dev/zero",
        "/",
        "/proc/self/ns/mnt",
        "/proc/self/ns/user",
        "/proc/1000000000/ns/net",
        "../..",
        &at("file"),
        &at("loop"),
        &at("pipe"),
        &at("file/below"),
        &"x/".repeat(3000),
    ] {
        let details = refused(&host, &container, path, 4, |ask| ask.env("CNI_NETNS", path));
        assert!(details.len() > 20, "{details}");
    }
    // That of the host itself: the device would be the host's.
    let details = refused(&host, &container, "its own", 4, |ask| ask.env("CNI_NETNS", "/proc/self/ns/net"));
    assert!(details.contains("of the host"), "{details}");
    // By a link it is found as well as by its own path.
    std::os::unix::fs::symlink(container.path(), at("link")).unwrap();
    host.ours("ADD", &container).env("CNI_NETNS", at("link")).result();
}

#[test]
fn configurations_that_are_none() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let whole = host.configuration().to_string();
    let nested = |levels: usize| {
        format!("{},\"x\":{}{}}}", whole.strip_suffix('}').unwrap(), "[".repeat(levels), "]".repeat(levels))
            .into_bytes()
    };
    let padded =
        |length: usize| format!("{},\"x\":\"{}\"}}", whole.strip_suffix('}').unwrap(), "x".repeat(length)).into_bytes();
    let mut texts = vec![
        Vec::new(),
        b" ".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\0".to_vec(),
        vec![0xff; 64],
        b"{\"cniVersion\":\"1.0.0\"".to_vec(),
        [whole.as_bytes(), b"}"].concat(),
        [b"\xef\xbb\xbf", whole.as_bytes()].concat(),
        nested(1000),
        nested(100_000),
        padded(1 << 20),
        vec![b'['; 1 << 20],
        vec![b' '; 3 << 20],
    ];
    texts.extend((1..whole.len()).step_by(7).map(|length| whole.as_bytes()[..length].to_vec()));
    for text in texts {
        let before = (host.state(), inside(&container));
        let (code, ..) = host.ours("ADD", &container).run_with(&text).error();
        assert_eq!(code, 6, "{:?}…", String::from_utf8_lossy(&text[..text.len().min(80)]));
        assert_eq!((host.state(), inside(&container)), before);
    }
    // Just as much as is read.
    let most = padded((1 << 20) - whole.len() - 8);
    assert!((1 << 20) - most.len() < 8);
    assert_eq!(host.ours("ADD", &container).run_with(&most).exit_code, Some(0));
}

#[test]
fn values_that_cannot_be_followed() {
    let (host, container) = (Host::new(), Container::new("c1"));
    for (code, name, value) in [
        (7, "name", json!("../adit")),
        (7, "name", json!("")),
        (7, "device", json!("../../adit0")),
        (7, "device", json!("sixteen-letters-")),
        (7, "stateDir", json!("state")),
        (7, "runtimeDir", json!("../run")),
        (7, "mtu", json!(1421)),
        (7, "mtu", json!(67)),
        (6, "mtu", json!(-1)),
        (6, "mtu", json!(5_000_000_000_u64)),
        (6, "mtu", json!("1400")),
        (6, "isDefaultGateway", json!("true")),
        (6, "dns", json!("192.0.2.53")),
        (7, "ipam", json!({"type": "../../bin/sh"})),
        (2, "ipMasq", json!(true)),
        (2, "runtimeConfig", json!({"bandwidth": {"ingressRate": 1000}})),
        (2, "runtimeConfig", json!({"ipRanges": [[{"subnet": "10.1.0.0/24"}]]})),
        (7, "runtimeConfig", json!({"ips": ["10.42.8.2"]})),
        (7, "runtimeConfig", json!({"ips": ["10.42.7.1"]})),
        (7, "runtimeConfig", json!({"ips": ["10.42.7.255"]})),
        (7, "runtimeConfig", json!({"ips": ["10.42.7.9/16"]})),
        (7, "runtimeConfig", json!({"ips": ["10.42.7.9", "10.42.7.10"]})),
        (7, "runtimeConfig", json!({"ips": ["ten"]})),
        (7, "runtimeConfig", json!({"mac": "33:33:00:00:00:01"})),
        (7, "runtimeConfig", port(json!({"hostPort": 0, "containerPort": 80}))),
        (7, "runtimeConfig", port(json!({"hostPort": 65536, "containerPort": 80}))),
        (7, "runtimeConfig", port(json!({"hostPort": 80, "containerPort": 80, "protocol": "sctp"}))),
        (7, "runtimeConfig", port(json!({"hostPort": 80, "containerPort": 80, "hostIP": "localhost"}))),
    ] {
        refused(&host, &container, &format!("{name}: {value}"), code, |ask| ask.with(name, value));
    }
}

#[test]
fn addresses_that_are_all_given_out_or_another_s() {
    let host = Host::with(&["10.42.7.0/29"]);
    let [taker, late] = ["c0", "late"].map(Container::new);
    host.ours("ADD", &taker).env("CNI_ARGS", "IP=10.42.7.4").result();
    refused(&host, &late, "taken", 101, |ask| ask.env("CNI_ARGS", "IP=10.42.7.4"));
    let others: Vec<_> = (1..5).map(|n| Container::new(&format!("c{n}"))).collect();
    for other in &others {
        host.ours("ADD", other).result();
    }
    let details = refused(&host, &late, "exhausted", 100, |ask| ask);
    assert!(details.contains("10.42.7.0/29"), "{details}");
    host.ours("DEL", &others[2]).done();
    host.ours("ADD", &late).result();
}

#[test]
fn ports_that_are_in_use() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let asking = |number: u16| port(json!({"hostPort": number, "containerPort": 80, "protocol": "tcp"}));
    let listener = host.namespace.run(|| TcpListener::bind("0.0.0.0:0")).unwrap().unwrap();
    let bound = listener.local_addr().unwrap().port();
    let details = refused(&host, &container, "a program's", 102, |ask| ask.with("runtimeConfig", asking(bound)));
    assert!(details.contains("a program of this host"), "{details}");
    let other = Container::new("c2");
    host.ours("ADD", &other).with("runtimeConfig", asking(8080)).result();
    let rules = host.published();
    assert!(rules > 0);
    refused(&host, &container, "a container's", 102, |ask| ask.with("runtimeConfig", asking(8080)));
    assert_eq!(host.published(), rules);
    let twice = json!({"portMappings": [{"hostPort": 1, "containerPort": 1}, {"hostPort": 1, "containerPort": 2}]});
    refused(&host, &container, "twice", 102, |ask| ask.with("runtimeConfig", twice));
    host.ours("DEL", &other).done();
    host.ours("ADD", &container).with("runtimeConfig", asking(8080)).result();
}

#[test]
fn nodes_that_are_not_there_or_damaged() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let file = Node::path(&host.directories, "adit0");
    for (text, code) in [("{", 5), ("", 5), ("{\"device\":\"adit0\"}", 5), ("[]", 5)] {
        fs::write(&file, text).unwrap();
        let details = refused(&host, &container, text, code, |ask| ask);
        assert!(details.contains("adit reload"), "{details}");
    }
    fs::write(&file, vec![b' '; 1 << 20]).unwrap();
    refused(&host, &container, "a long one", 5, |ask| ask);
    fs::remove_file(&file).unwrap();
    let details = refused(&host, &container, "none", 11, |ask| ask);
    assert!(details.contains("adit up"), "{details}");
    refused(&host, &container, "another", 11, |ask| ask.with("device", "adit7"));
    Node { subnets: Vec::new(), ..host.node.clone() }.write(&host.directories).unwrap();
    refused(&host, &container, "one without a subnet", 11, |ask| ask);
}

#[test]
fn a_bridge_that_is_another_s() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.netlink().create_bridge("adit-br0", None).unwrap();
    let details = refused(&host, &container, "a bridge", 103, |ask| ask);
    assert!(details.contains("choose another `bridge`") && !details.contains("delete"), "{details}");
}

#[test]
fn a_store_that_cannot_be_written() {
    let (host, container) = (Host::new(), Container::new("c1"));
    fs::write(&host.directories.state, "a file in the place of the directory").unwrap();
    refused(&host, &container, "a file", 5, |ask| ask);
}

/// While its container lives, nobody knows which address a damaged record kept; once it is gone the record goes too.
#[test]
fn a_record_that_is_damaged() {
    let (host, first, second) = (Host::new(), Container::new("c1"), Container::new("c2"));
    host.ours("ADD", &first).with("runtimeConfig", port(json!({"hostPort": 8080, "containerPort": 80}))).result();
    let file = host.record_file(&first);
    let whole = fs::read(&file).unwrap();
    for text in [&b""[..], b"{", b"\0\0\0\0", &whole[..whole.len() / 2], b"[]"] {
        fs::write(&file, text).unwrap();
        let details = refused(&host, &second, "a damaged record", 5, |ask| ask);
        assert!(details.contains(file.to_str().unwrap()) && details.contains("ip link delete ad"), "{details}");
    }
    assert_eq!(host.of_all("STATUS").error().0, 50);
    let end = key(&first, "eth0").host_interface();
    drop(first);
    wait_for("the end of the pair to go with its namespace", || {
        host.netlink().link(&end).unwrap().is_none().then_some(())
    });
    host.ours("ADD", &second).result();
    assert!(!file.exists());
    assert_eq!(host.published(), 0);
    host.ours("DEL", &second).done();
    host.assert_clean();
}

/// What a runtime is not told of is not kept: it would never ask for its end.
#[test]
fn a_result_that_nobody_reads_is_taken_back() {
    let (host, container) = (Host::new(), Container::new("c1"));
    let mut child = host.ours("ADD", &container).start();
    drop(child.stdout.take());
    let status = wait_for("ADD to end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    assert!(container.link("eth0").is_none());
    host.assert_clean();
}

/// A host that starts anew has records of containers whose devices are gone; Podman adds them again by the same names.
#[test]
fn a_container_whose_device_went_with_the_host_is_added_again() {
    let (host, container) = (Host::new(), Container::new("c1"));
    host.ours("ADD", &container).result();
    host.run("ip", &["link", "delete", &key(&container, "eth0").host_interface()]);
    let again = Container::new("c1");
    let result = host.ours("ADD", &again).version("1.1.0").result();
    host.ours("CHECK", &again).version("1.1.0").previous(&result).done();
    assert_eq!(host.records().len(), 1);
}
