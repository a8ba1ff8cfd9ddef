//! The log of real daemons: what a cause may say, how it looks, and what it never says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use adit::key::PrivateKey;
use adit::logging::ALLOWANCE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::bed::daemon::{Configuration, Place};
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, Family, wait_for};
use crate::number;
use crate::visitor::{PAGE, configuration};
use crate::world::Node;

#[test]
fn a_cause_that_floods_the_log_has_a_few_lines_and_a_number() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let good = configuration(host, &[2]);
    let place = Place::new(host, &good);
    let daemon = place.start();
    let mut bad = good.clone();
    bad.addresses = vec!["10.77.0.1/99".into()];
    place.configure(&bad);
    let withheld = || number(host, "adit_log_withheld_lines_total", &[("level", "error")]);
    wait_for("lines that are withheld", || {
        daemon.signal("HUP");
        (withheld() >= 5.0).then_some(())
    });
    let said = |log: &str| log.lines().filter(|line| line.contains("nothing was changed")).count();
    assert_eq!(said(&daemon.log()), ALLOWANCE as usize, "{}", daemon.log());
    // Another cause is heard, and at the end the number is.
    place.configure(&good);
    let log = place.path("log");
    let read = || fs::read_to_string(&log).unwrap();
    let repaired = || {
        host.run("ip", &["address", "flush", "dev", "adit0"]);
        read().contains("brought adit0 back to its configuration").then_some(())
    };
    wait_for("a line of another cause", repaired);
    daemon.terminate();
    let told = read();
    let last: Vec<&str> = told.lines().filter(|line| line.contains("more of these, the last: nothing was")).collect();
    assert_eq!(last.len(), 1, "{told}");
    assert!(last[0].contains("ERROR adit::control: and "), "{last:?}");
    assert_eq!(said(&told), ALLOWANCE as usize + 1);
}

#[test]
fn a_log_in_json_is_an_object_per_line() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let daemon = place.start_in(&[("ADIT_LOG_FORMAT", "json".to_owned()), ("ADIT_LOG", "debug".to_owned())]);
    // A device that is taken down while the daemon still sets it up comes up without a word.
    let repaired = || {
        let told = daemon.log().contains("brought adit0 back").then_some(());
        if told.is_none() && host.run("ip", &["link", "show", "adit0"]).contains(",UP") {
            host.run("ip", &["link", "set", "adit0", "down"]);
        }
        told
    };
    wait_for("a repair in the log", repaired);
    let log = place.path("log");
    daemon.terminate();
    let log = fs::read_to_string(log).unwrap();
    let mut repairs = 0;
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for name in ["time", "level", "target", "message"] {
            assert!(object[name].as_str().is_some_and(|text| !text.is_empty()), "{line}");
        }
        if object["message"].as_str().unwrap().starts_with("brought adit0 back") {
            assert_eq!((&object["level"], &object["thread"]), (&"info".into(), &"main".into()));
            repairs += 1;
        }
    }
    assert!(repairs >= 1, "{log}");
}

/// The ways in which somebody could write a secret down.
fn spellings(bytes: &[u8]) -> [String; 4] {
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    [STANDARD.encode(bytes).trim_end_matches('=').to_owned(), hexadecimal.to_uppercase(), hexadecimal, list(bytes)]
}

fn keeps(log: &str, what: &str, secret: &[u8]) {
    for spelling in spellings(secret) {
        assert!(!log.contains(&spelling), "the log holds {what}");
    }
}

#[test]
fn no_level_of_the_log_of_a_tunnel_holds_a_key() {
    let bed = Bed::new(2);
    let hosts = [bed.host(1), bed.host(2)];
    for transport in ["sealed", "wireguard"] {
        let mut ends = Configuration::pair(hosts, Family::V4, transport);
        let shared = STANDARD.encode(PrivateKey::generate().unwrap().as_bytes());
        for end in &mut ends {
            end.peers[0].preshared_key = Some(shared.clone() + "\n");
            *end = end.clone().with(&format!("[observe]\nlisten = {PAGE:?}"));
        }
        let places = [Place::new(hosts[0], &ends[0]), Place::new(hosts[1], &ends[1])];
        let trace = [("ADIT_LOG", "trace".to_owned())];
        let daemons = places.each_ref().map(|place| place.start_in(&trace));
        let pair = [1, 2].map(|n| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V4)));
        exchange_tcp(pair[0], pair[1], 100_000, 100_000);
        // Another key, one that is none, and a file that cannot be read.
        let mut changed = ends[0].clone();
        changed.make_key();
        let second = changed.private_key.clone().unwrap();
        places[0].configure(&changed);
        daemons[0].reload();
        let broken = "dGhpcyBpcyBub3QgYSBrZXksIGJ1dCBpdCBpcyBzZWNyZXQ=x";
        changed.private_key = Some(broken.into());
        places[0].configure(&changed);
        let refused = places[0].run("reload", &[]);
        assert_eq!(refused.status.code(), Some(2));
        let logs = daemons.each_ref().map(|daemon| daemon.log());
        daemons.into_iter().for_each(|daemon| daemon.terminate());
        let log = logs.concat() + &String::from_utf8_lossy(&refused.stderr);
        assert!(log.contains("changed: private key") && log.contains("does not hold a private key"), "{log}");
        let decode = |text: &str| STANDARD.decode(text.trim()).unwrap();
        for (what, text) in [
            ("a private key", ends[0].private_key.as_deref().unwrap()),
            ("a private key", ends[1].private_key.as_deref().unwrap()),
            ("a later private key", &second),
            ("the preshared key", &shared),
        ] {
            keeps(&log, what, &decode(text));
        }
        assert!(!log.contains(&broken[..24]), "the log holds what should have been a key: {log}");
    }
}

/// Files that nobody else may read, under a directory.
fn private_files(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let (mut files, mut folders) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() && metadata.permissions().mode() & 0o077 == 0 {
                files.push(entry.path());
            }
        }
    }
    files
}

/// What looks like a key in a file's text: 32 bytes in base64 or hexadecimal.
fn keys(text: &str) -> impl Iterator<Item = Vec<u8>> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || "+/=".contains(letter)));
    words.filter_map(|word| {
        let bytes = STANDARD.decode(word).ok().filter(|bytes| bytes.len() == 32);
        let pairs = || word.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        bytes.or_else(|| (word.len() == 64).then(|| pairs().collect::<Option<Vec<u8>>>()).flatten())
    })
}

#[test]
fn no_level_of_the_log_of_a_network_holds_a_key_a_secret_or_a_token() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&["--uses", "2"]);
    let trace = |node: &Node<'_>| node.file();
    let files = [trace(&nodes[0]), trace(&nodes[1])];
    let first = nodes[0].up_with(&["--log", "trace", "up", "--config", &files[0]]);
    let joined =
        nodes[1].adit(&["--log", "trace", "join", &token, "--config", &files[1], "--name", "host2", "--no-start"]);
    let second = nodes[1].up_with(&["--log", "trace", "up", "--config", &files[1]]);
    first.await_nodes(1);
    second.await_nodes(1);
    let another = nodes[0].token(&[]);
    nodes[0].adit(&["secret", "rotate"]);
    let epoch = || [&first, &second].iter().all(|daemon| daemon.network().epoch == Some(2)).then_some(());
    wait_for("the next secret", epoch);
    let log = nodes.iter().map(Node::log).collect::<String>() + &joined;
    assert!(log.len() > 2000, "{log}");
    for token in [&token, &another] {
        // Its beginning says where to call; the rest is the secret.
        let tail = &token[token.len() / 2..];
        assert!(!log.contains(tail), "the log holds a token");
    }
    // What is in public too is no secret: keys of others' certificates, the network's id.
    let shown = nodes[0].adit(&["status", "--json"]) + &nodes[0].adit(&["node", "list"]);
    let public: BTreeSet<Vec<u8>> = keys(&shown).collect();
    let mut secrets = 0;
    for node in &nodes {
        for path in private_files(&node.path("state")) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for key in keys(&text).filter(|key| !public.contains(key)) {
                keeps(&log, &format!("a key of {}", path.display()), &key);
                secrets += 1;
            }
        }
    }
    assert!(secrets >= 4, "{secrets} keys were looked for: the files are not as this test believes");
}
