//! Networks of those who know a secret, without an authority (T9).

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry::schema::{LeaseValue, Subnets};
use registry::trust::{Anchor, Certificate, NodeKeys, Record};
use zeroize::Zeroizing;

use crate::bed::{Bed, wait_for};
use crate::etcd::{Etcd, PREFIX};
use crate::world::{Daemon, Node, all_talk};

const CONFIG: &str = r#"{"Network":"10.9.0.0/16","Backend":{"Type":"adit"}}"#;

/// Writes a file that only its owner may read; its path.
fn file(node: &Node<'_>, name: &str, text: &str) -> String {
    let path = node.path(name);
    fs::write(&path, text).unwrap();
    node.host.run("chmod", &["600", path.to_str().unwrap()]);
    path.to_str().unwrap().to_owned()
}

fn options(node: &Node<'_>, name: &str, etcd: &Etcd<'_>, secret: &str) -> Vec<String> {
    let key = if node.path("key").exists() {
        node.path("key").to_str().unwrap().to_owned()
    } else {
        file(node, "key", &node.adit(&["keygen"]))
    };
    let secret = file(node, "secret", secret);
    [
        "up",
        "--etcd-endpoints",
        &etcd.endpoints(),
        "--node-name",
        name,
        "--secret-file",
        &secret,
        "--private-key-file",
        &key,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn up<'n, 'h>(node: &'n Node<'h>, name: &str, etcd: &Etcd<'_>, secret: &str) -> Daemon<'n, 'h> {
    let options = options(node, name, etcd, secret);
    node.up_with(&options.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What somebody who knows the secret can sign: a record with a new key.
fn forged(secret: &str, name: &str, subnet: &str, sequence: u64) -> Vec<u8> {
    let secret: [u8; 32] = STANDARD.decode(secret.trim()).unwrap().try_into().unwrap();
    let anchor = Anchor::Shared(Zeroizing::new(secret));
    let keys = NodeKeys::generate().unwrap();
    let certificate = Certificate::self_certified(name, &keys, &anchor).unwrap();
    let subnets = Subnets::new(Some(subnet.parse().unwrap()), None).unwrap();
    let endpoints = vec!["192.0.2.3:7777".parse().unwrap()];
    let record = Record { certificate, sequence, subnets, endpoints, behind_nat: false };
    let signed = STANDARD.encode(record.sign(&keys, &anchor).unwrap());
    let value = LeaseValue {
        public_ip: Some("192.0.2.3".parse().unwrap()),
        backend_type: Some("adit".into()),
        backend_data: Some(serde_json::json!({ "signed": signed })),
        ..LeaseValue::default()
    };
    value.to_json()
}

#[test]
fn who_knows_the_secret_is_in() {
    let bed = Bed::new(4);
    let etcd = Etcd::single(bed.host(4));
    etcd.put(&format!("{PREFIX}/config"), CONFIG.as_bytes());
    let nodes: Vec<Node<'_>> = bed.hosts[..3].iter().map(Node::new).collect();
    let secret = nodes[0].adit(&["keygen", "--preshared"]);

    // Without one there is nobody to speak to, and it is said what to do.
    let refusal = nodes[0].refused(&["up", "--etcd-endpoints", &etcd.endpoints()]);
    assert!(refusal.contains("--secret-file and --private-key-file"), "{refusal}");
    let plain = nodes[0].refused(&["up", "--etcd-endpoints", &etcd.endpoints(), "--plain-from", "192.0.2.0/24"]);
    assert!(plain.contains("--secret-file") || plain.contains("udp"), "{plain}");

    let one = up(&nodes[0], "one", &etcd, &secret);
    let two = up(&nodes[1], "two", &etcd, &secret);
    [&one, &two].iter().for_each(|daemon| daemon.await_nodes(1));
    let containers: Vec<_> = nodes[..2].iter().map(Node::container).collect();
    all_talk(&containers);
    let status = nodes[0].adit(&["status"]);
    assert!(status.contains("shared secret: members can impersonate each other"), "{status}");
    assert!(status.contains("sealed "), "{status}");

    // Another secret is another network: it is believed by nobody, and gets no answer.
    let other = nodes[0].adit(&["keygen", "--preshared"]);
    let stranger = up(&nodes[2], "three", &etcd, &other);
    wait_for("a record that is not believed", || {
        (one.network().skipped == 1 && two.network().skipped == 1).then_some(())
    });
    assert_eq!(stranger.network().skipped, 2);
    assert!(stranger.network().nodes.is_empty());
    let problems = one.network().problems;
    assert!(problems.iter().any(|problem| problem.contains("secret") || problem.contains("network")), "{problems:?}");
    all_talk(&containers);
    stranger.terminate();
    let right = up(&nodes[2], "three", &etcd, &secret);
    [&one, &two, &right].iter().for_each(|daemon| daemon.await_nodes(2));
    let mut containers = containers;
    containers.push(nodes[2].container());
    all_talk(&containers);
}

#[test]
fn the_key_that_was_seen_first_counts() {
    let bed = Bed::new(3);
    let etcd = Etcd::single(bed.host(3));
    etcd.put(&format!("{PREFIX}/config"), CONFIG.as_bytes());
    let nodes: Vec<Node<'_>> = bed.hosts[..2].iter().map(Node::new).collect();
    let secret = nodes[0].adit(&["keygen", "--preshared"]);
    let one = up(&nodes[0], "one", &etcd, &secret);
    let two = up(&nodes[1], "two", &etcd, &secret);
    [&one, &two].iter().for_each(|daemon| daemon.await_nodes(1));
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    let keys = |daemon: &Daemon<'_, '_>| {
        daemon.status().peers.iter().map(|peer| (peer.name.clone(), peer.public_key.clone())).collect::<Vec<_>>()
    };
    let before = keys(&one);

    // A member poses as another: by its name, and by a part of its subnet.
    etcd.put(&format!("{PREFIX}/subnets/10.9.250.0-24"), &forged(&secret, "two", "10.9.250.0/24", u64::MAX / 2));
    one.await_problem("subnets/10.9.250.0-24 is not used");
    assert_eq!(keys(&one), before);
    let subnet = two.subnet();
    let key = format!("{PREFIX}/subnets/{}-24", subnet.addr());
    etcd.put(&key, &forged(&secret, "other", &subnet.to_string(), u64::MAX / 2));
    let said = format!("other claims {subnet}, which two holds: it stays where it is");
    wait_for("a word about it", || nodes[0].log().contains(&said).then_some(()));
    assert_eq!(keys(&one), before);
    wait_for("the owner's record", || (!String::from_utf8_lossy(&etcd.get(&key)).contains("192.0.2.3")).then_some(()));
    assert_eq!(two.subnet(), subnet);
    // Also after a restart.
    one.crash();
    let one =
        nodes[0].up_with(&options(&nodes[0], "one", &etcd, &secret).iter().map(String::as_str).collect::<Vec<_>>());
    one.await_problem("subnets/10.9.250.0-24 is not used");
    assert_eq!(keys(&one), before);
    all_talk(&containers);
}

#[test]
fn the_same_from_a_file() {
    let bed = Bed::new(3);
    let etcd = Etcd::single(bed.host(3));
    etcd.put("/net/config", CONFIG.as_bytes());
    let nodes: Vec<Node<'_>> = bed.hosts[..2].iter().map(Node::new).collect();
    let secret = nodes[0].adit(&["keygen", "--preshared"]);
    for node in &nodes {
        let (key, secret) = (file(node, "node.key", &node.adit(&["keygen"])), file(node, "secret", &secret));
        let (etcd, number) = (etcd.endpoints(), node.host.number);
        let text = format!(
            "[device]\nprivate-key-file = {key:?}\n\n[network]\nregistry = [{etcd:?}]\nprefix = \"/net\"\nnode-name = \"node-{number}\"\n\
             secret-file = {secret:?}\nlease-ttl = \"1h\"\n"
        );
        fs::write(node.path("adit.toml"), text).unwrap();
    }
    let daemons: Vec<_> = nodes.iter().map(Node::up).collect();
    daemons.iter().for_each(|daemon| daemon.await_nodes(1));
    all_talk(&nodes.iter().map(Node::container).collect::<Vec<_>>());
    let status = nodes[1].adit(&["status"]);
    assert!(status.contains("node-2 with 10.9.") && status.contains("members can impersonate each other"), "{status}");
    let left = daemons[0].network().lease_s.unwrap();
    assert!((3000..=3600).contains(&left), "{left}");
    assert_eq!(etcd.list("/net/subnets/").len(), 2);

    // The key of the node is missing from the file.
    let text = fs::read_to_string(nodes[0].path("adit.toml")).unwrap();
    let without = text.lines().filter(|line| !line.starts_with("private-key-file")).collect::<Vec<_>>().join("\n");
    fs::write(nodes[0].path("without.toml"), without).unwrap();
    drop(daemons);
    let refusal = nodes[0].refused(&["up", "--config", nodes[0].path("without.toml").to_str().unwrap()]);
    assert!(refusal.contains("private-key-file"), "{refusal}");
}
