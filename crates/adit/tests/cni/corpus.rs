//! The fuzz target's checks over its committed corpus, and the seeds that it started from.
//!
//! `WRITE_SEEDS=1 cargo test -p adit --test cni corpus` writes the seeds anew after their builders below have changed.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cni_checks::cni;

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |arguments: &str, more: Value| {
        let mut configuration = json!({"cniVersion": "1.1.0", "name": "overlay", "type": "adit"});
        for (key, value) in more.as_object().unwrap() {
            configuration[key] = value.clone();
        }
        [arguments.as_bytes(), &[0], configuration.to_string().as_bytes()].concat()
    };
    let runtime = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}],
        "ips": ["10.42.7.9/24", "fd42::9"], "mac": "02:00:00:00:00:01", "aliases": {"overlay": ["web"]},
        "dns": {"servers": ["192.0.2.53"], "searches": ["example.org"], "options": ["ndots:5"]},
    });
    let previous = json!({
        "interfaces": [{"name": "eth1", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/c1"}],
        "ips": [{"version": "4", "address": "192.0.2.7/24", "gateway": "192.0.2.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}], "dns": {},
    });
    vec![
        ("plain", seed("", json!({}))),
        ("podman", seed("IgnoreUnknown=1;K8S_POD_NAME=c1;IP=10.42.7.77;MAC=02:00:00:00:00:07", json!({}))),
        ("runtime", seed("", json!({"runtimeConfig": runtime}))),
        (
            "keys",
            seed("", json!({"isDefaultGateway": false, "portIsolation": true, "mtu": 1300, "dns": {"search": ["a"]}})),
        ),
        ("previous", seed("", json!({"cniVersion": "0.4.0", "prevResult": previous}))),
        ("valid", seed("", json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}))),
        ("places", seed("", json!({"device": "adit1", "runtimeDir": "/run/adit", "stateDir": "/var/lib/adit"}))),
        ("args", seed("", json!({"args": {"cni": {"ips": ["10.42.7.9"], "mac": "02:00:00:00:00:03"}}}))),
        ("ipam", seed("", json!({"ipam": {"type": "host-local"}, "ipMasq": true}))),
    ]
}

#[test]
fn the_corpus_holds_and_has_its_seeds() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/cni");
    if std::env::var_os("WRITE_SEEDS").is_some() {
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in seeds() {
            fs::write(directory.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
    for (name, bytes) in seeds() {
        assert_eq!(fs::read(directory.join(format!("seed-{name}"))).unwrap(), bytes, "{name}");
    }
    let files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(files.len() >= seeds().len());
    files.iter().for_each(|bytes| cni(bytes));
}

#[test]
fn damaged_seeds_hold_as_well() {
    for (_, bytes) in seeds() {
        for at in 0..bytes.len() {
            for byte in [0, b'"', b'{', b'[', b'-', b'9', 0xff, bytes[at].wrapping_add(1)] {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                cni(&bytes);
                bytes.truncate(at);
                cni(&bytes);
            }
        }
    }
}
