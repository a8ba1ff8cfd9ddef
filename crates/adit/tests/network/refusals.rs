//! Bad input says what to do, and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use registry::enrol;
use registry::trust::{NodeKeys, NodeStore, Token};

use crate::bed::{Bed, wait_for};
use crate::world::{Node, network};

/// What a verb refuses on a host, with nothing of the host changed: the sentence.
fn refused(node: &Node<'_>, arguments: &[&str]) -> String {
    let (files, state) = (node.files(), node.state());
    let sentence = node.refused(arguments);
    assert_eq!(node.files(), files, "{sentence}");
    node.check_state(&state);
    sentence
}

/// The same for `adit join`.
fn refused_joining(node: &Node<'_>, token: &str, name: &str) -> String {
    refused(node, &["join", token, "--config", &node.file(), "--name", name, "--no-start"])
}

fn says(sentence: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(sentence.contains(part), "{part:?} is not in: {sentence}"));
    assert!(!sentence.contains("panicked"), "{sentence}");
}

fn nodes(bed: &Bed) -> Vec<Node<'_>> {
    bed.hosts.iter().map(Node::new).collect()
}

#[test]
fn a_node_is_not_made_twice_and_no_file_is_written_over() {
    let bed = Bed::new(2);
    let [one, two] = &nodes(&bed)[..] else { panic!() };
    let token = one.init(&["--uses", "2"]);
    let _daemon = one.up();
    let other = one.path("other.toml").display().to_string();
    for arguments in [
        &["init", "--config", &other, "--no-start"][..],
        &["init", "--config", &one.file(), "--no-start"],
        &["join", &token, "--config", &other, "--no-start"],
    ] {
        // The daemon's own files change while it runs.
        let sentence = one.refused(arguments);
        says(&sentence, &["this host is a node already", "adit up", "--purge", "--device"]);
        assert!(!one.path("other.toml").exists());
    }
    fs::write(two.file(), "# mine\n").unwrap();
    let is_there = ["is there already", "remove it, or choose another with --config"];
    says(&refused(two, &["init", "--config", &two.file(), "--no-start"]), &is_there);
    says(&refused_joining(two, &token, "host2"), &is_there);
    fs::remove_file(two.file()).unwrap();
    two.join(&token);
    says(&refused_joining(two, &token, "host2"), &["this host is a node already"]);
    says(&refused(two, &["init", "--device", "a/b", "--config", "/tmp/x"]), &["a/b"]);
}

#[test]
fn a_token_that_is_not_good_says_why() {
    let bed = Bed::new(4);
    let [one, two, three, four] = &nodes(&bed)[..] else { panic!() };
    let good = one.init(&["--uses", "3"]);
    let daemon = one.up();
    says(&refused_joining(two, "nonsense", "host2"), &["not a token", "adit1."]);
    says(&refused_joining(two, &good[..good.len() - 3], "host2"), &["damaged", "copy the whole of it"]);
    says(&refused(two, &["join", "--token-file", "/nowhere/token", "--no-start"]), &["/nowhere/token"]);
    says(&refused_joining(two, &good, "host1"), &["already a node called host1", "--name", "adit node remove host1"]);
    says(&refused_joining(two, &good, "a b"), &["a b"]);

    let another = "adit token create";
    let short = one.token(&["--ttl", "1s"]);
    wait_for("the token's end", || one.adit(&["token", "list"]).contains("expired").then_some(()));
    says(&refused_joining(two, &short, "host2"), &["expired", another]);
    let revoked = one.token(&[]);
    let id: Token = revoked.parse().unwrap();
    let id: String = id.id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(one.adit(&["token", "revoke", &id]).contains("revoked"));
    says(&refused_joining(two, &revoked, "host2"), &["revoked", another]);
    says(&one.refused(&["token", "revoke", "0123456789abcdef"]), &["no token 0123456789abcdef", "adit token list"]);
    says(&one.refused(&["token", "revoke", "x"]), &["adit token list"]);
    let mut foreign: Token = good.parse().unwrap();
    foreign.id = [7; 8];
    says(&refused_joining(two, &foreign.text(), "host2"), &["not known here", another]);

    // Somebody else answers in the enroller's place.
    three.init(&["--network", "10.43.0.0/16"]);
    let _other = three.up();
    let mut between: Token = good.parse().unwrap();
    between.endpoints = vec![format!("{}:7780", three.underlay())];
    says(&refused_joining(two, &between.text(), "host2"), &["192.0.2.3:7780", "in between"]);
    // One of theirs is none of ours, wherever it is used.
    between = three.token(&[]).parse().unwrap();
    let pin = good.parse::<Token>().unwrap();
    (between.endpoints, between.pin) = (pin.endpoints, pin.pin);
    says(&refused_joining(two, &between.text(), "host2"), &["not known here"]);

    // The token is as good as before; another's keys are not.
    two.join(&good);
    let keys = NodeStore::open(&two.path("state/adit0.network")).unwrap().keys().unwrap();
    says(&joined_with(four, &good, "host4", &keys), &["this node has already joined as host2"]);
    let list = one.adit(&["token", "list"]);
    assert!(list.contains("1 of 3") && list.contains("host2"), "{list}");

    daemon.terminate();
    let nobody = ["nobody lets us in at 192.0.2.1:7780", "check that the daemon runs there"];
    says(&refused_joining(four, &good, "host4"), &nobody);
}

/// What a host is told that joins with keys of its choice.
fn joined_with(node: &Node<'_>, token: &str, name: &str, keys: &NodeKeys) -> String {
    let token: Token = token.parse().unwrap();
    let join = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(enrol::join(&token, name, keys)).map(|_| "joined".to_owned())
    };
    node.host.namespace.run(join).unwrap().unwrap_or_else(|e| e.to_string())
}

#[test]
fn addresses_in_use_are_noticed_before_anything_is_changed() {
    let bed = Bed::new(3);
    let [one, two, three] = &nodes(&bed)[..] else { panic!() };
    let token = one.init(&[]);
    let _daemon = one.up();
    let unused = || one.adit(&["token", "list"]).contains("0 of 1");
    let remedy = " away";
    for (overlap, undo) in [
        ("route add 10.42.9.0/24 dev under0", "route delete 10.42.9.0/24"),
        ("route add 10.0.0.0/9 dev under0", "route delete 10.0.0.0/9"),
        ("address add 10.42.3.1/24 dev under0", "address delete 10.42.3.1/24 dev under0"),
        ("address add 10.42.200.7/32 dev lo", "address delete 10.42.200.7/32 dev lo"),
    ] {
        let ip = |line: &str| two.host.run("ip", &line.split(' ').collect::<Vec<_>>());
        ip(overlap);
        says(&refused_joining(two, &token, "host2"), &["10.42.0.0/16 overlap", remedy]);
        assert!(unused(), "the token is used up");
        says(&refused(two, &["init", "--config", &two.file(), "--no-start"]), &["10.42.0.0/16 overlap", "--network"]);
        ip(undo);
    }
    // It works elsewhere.
    three.join(&token);
    three.up().await_nodes(1);
}

#[test]
fn what_is_for_nodes_or_for_the_authority_is_refused_elsewhere() {
    let bed = Bed::new(3);
    let nodes = nodes(&bed);
    let daemons = network(&nodes[..2], &[]);
    let [one, two, none] = &nodes[..] else { panic!() };
    for arguments in [
        &["token", "create"][..],
        &["token", "list"],
        &["token", "revoke", "0123456789abcdef"],
        &["secret", "rotate"],
        &["node", "remove", "host1"],
    ] {
        for node in [two, none] {
            let sentence = node.refused(arguments);
            says(&sentence, &["authority is not on this host", "where `adit init` made the network"]);
        }
    }
    says(&one.refused(&["node", "remove", "host1"]), &["host1 holds the registry"]);
    says(&one.refused(&["node", "remove", "paris"]), &["no node called paris", "adit node list"]);
    says(&two.refused(&["client", "remove", "phone"]), &["no client phone", "adit client list"]);
    two.adit(&["client", "add", "phone"]);
    says(&two.refused(&["client", "add", "phone"]), &["a client phone already", "adit client remove phone"]);
    says(&two.refused(&["client", "add", "a b"]), &["a b"]);
    says(&refused(none, &["client", "add", "phone"]), &["no node of a network", "adit join"]);
    says(&refused(none, &["client", "list"]), &["no node of a network", "adit join"]);
    says(&refused(none, &["node", "list"]), &["adit0"]);

    // Nodes that are there, and are not up.
    fs::copy(two.file(), none.file()).unwrap();
    says(
        &refused(none, &["up", "--config", &none.file()]),
        &["no node of a network yet", "adit init", "adit join TOKEN"],
    );
    let file = fs::read_to_string(two.file()).unwrap();
    drop(daemons);
    two.await_no_reader();
    says(&refused(two, &["client", "add", "laptop"]), &["does not run"]);
    let url = file.lines().find(|line| line.starts_with("registry = ")).unwrap();
    fs::write(two.file(), file.replace(url, "registry = \"embedded\"")).unwrap();
    says(&two.refused(&["up", "--config", &two.file()]), &["embedded", "not that host", "adit join TOKEN"]);
    fs::write(two.file(), file).unwrap();
    drop(two.up());
}

#[test]
fn files_that_are_gone_or_damaged_are_named() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    drop(network(&nodes, &[]));
    let [one, two] = &nodes[..] else { panic!() };
    let at = |name: &str| two.path("state/adit0.network").join(name);
    let up = ["up", "--config", &two.file()];
    // The device stands from before; nothing else may change.
    for name in ["certificate", "node.key", "secrets.json", "wireguard.key"] {
        let aside = two.path("aside");
        fs::rename(at(name), &aside).unwrap();
        says(&two.refused(&up), &[&at(name).display().to_string(), "does not exist", "join"]);
        fs::write(at(name), "rubbish").unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).unwrap();
        says(&two.refused(&up), &[&at(name).display().to_string(), "does not hold"]);
        fs::rename(&aside, at(name)).unwrap();
    }
    fs::set_permissions(at("node.key"), fs::Permissions::from_mode(0o644)).unwrap();
    says(&two.refused(&up), &["node.key is open to other users", "chmod go= "]);
    fs::set_permissions(at("node.key"), fs::Permissions::from_mode(0o600)).unwrap();

    // What is only remembered comes back from the registry.
    let first = one.up();
    for name in ["memory.json", "lease.json"] {
        fs::write(at(name), "rubbish").unwrap();
        let daemon = two.up();
        daemon.await_nodes(1);
        assert!(two.log().contains(name), "{}", two.log());
        drop(daemon);
    }
    drop(first);

    let registry = one.path("state/adit0.network/registry.redb");
    let good = fs::read(&registry).unwrap();
    for (bad, part) in [(&b"rubbish"[..], "is not a registry"), (&good[..good.len() / 2], "registry.redb")] {
        fs::write(&registry, bad).unwrap();
        says(&one.refused(&["up", "--config", &one.file()]), &[part, &registry.display().to_string()]);
        assert_eq!(fs::read(&registry).unwrap(), bad, "it is left for whoever can mend it");
    }
    fs::write(&registry, &good).unwrap();
    let _one = one.up();
    let two = two.up();
    two.await_nodes(1);
}

#[test]
fn what_cannot_be_changed_while_a_node_runs_is_named() {
    let bed = Bed::new(1);
    let one = Node::new(bed.host(1));
    one.init(&["--ipv6-network", "fd42::/48"]);
    let daemon = one.up();
    let before = fs::read_to_string(one.file()).unwrap();
    one.configure("lease-ttl = \"1h\"\nip-masq = false");
    let said = one.refused(&["reload"]);
    says(&said, &["another lease-ttl and ip-masq under [network] needs another start", "systemctl restart adit"]);
    // What no file can say: that the network has IPv6.
    fs::write(one.file(), format!("[device]\nmtu = 1279\n{}", before.trim_start_matches("[device]\n"))).unwrap();
    says(&one.refused(&["reload"]), &["mtu = 1279 is too small for IPv6, which this network has", "1280"]);
    says(&one.refused(&["up", "--config", &one.file()]), &["adit is running"]);
    // Another's device is no bridge, and whose it is is nothing to delete.
    fs::write(one.file(), format!("{before}bridge = \"under0\"\n")).unwrap();
    let said = one.refused(&["reload"]);
    says(&said, &["the device under0 exists", "is not adit's; choose another `bridge`"]);
    assert!(!said.contains("delete"), "{said}");
    fs::write(one.file(), before).unwrap();
    assert!(one.adit(&["reload"]).contains("nothing changed"));
    daemon.terminate();
    let text = fs::read_to_string(one.file()).unwrap();
    fs::write(one.file(), format!("[device]\nmtu = 1279\n{}", text.trim_start_matches("[device]\n"))).unwrap();
    says(&one.refused(&["up", "--config", &one.file()]), &["mtu = 1279 is too small for IPv6", "\"auto\""]);
}

#[test]
fn a_daemon_that_waits_for_its_registry_is_seen_and_ended() {
    let bed = Bed::new(2);
    let [one, two] = [1, 2].map(|number| Node::new(bed.host(number)));
    let token = one.init(&[]);
    let first = one.up();
    two.join(&token);
    first.terminate();
    let mut waiting = two.spawn(&["up", "--config", &two.file()]);
    wait_for("a daemon that waits", || two.log().contains("; waiting for it").then_some(()));
    let pid = format!("(process {})", waiting.child.id());
    for verb in ["status", "reload"] {
        says(&two.refused(&[verb]), &["the daemon of adit0", &pid, "is starting", "`adit down --device adit0`"]);
    }
    assert!(two.adit(&["down"]).contains("adit0 is down"));
    wait_for("its end", || waiting.child.try_wait().unwrap());
}

#[test]
fn who_leaves_unheard_is_told_what_the_others_still_have() {
    let bed = Bed::new(3);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let mut daemons = network(&nodes, &[]);
    // One whose registry is away, and one that does not run.
    daemons.pop().unwrap().terminate();
    let mut second = daemons.pop().unwrap();
    daemons.pop().unwrap().terminate();
    let said = nodes[1].adit(&["down", "--purge"]);
    second.await_end();
    says(&said, &["adit0 is down; the lease was not given back: ", "`adit node remove NAME`"]);
    let said = nodes[2].adit(&["down", "--device", "adit0", "--purge"]);
    says(&said, &["its subnet was not given back, since no daemon ran", "`adit node remove NAME`"]);
}

#[test]
fn a_host_that_has_moved_is_joined_where_it_is() {
    let bed = Bed::new(2);
    let [one, two] = [1, 2].map(|number| Node::new(bed.host(number)));
    one.init(&[]);
    let first = one.up();
    // From the addresses that the token was founded with to another one.
    let moved = "ip address add 192.0.2.91/25 dev under0 && ip address delete 192.0.2.1/24 dev under0 && \
                 ip address delete 2001:db8::1/64 dev under0";
    let status = one.host.namespace.run(|| Command::new("sh").args(["-c", moved]).status()).unwrap().unwrap();
    assert!(status.success());
    wait_for("its new address", || {
        first.network().public.iter().any(|public| public.starts_with("192.0.2.91:")).then_some(())
    });
    two.join(&one.token(&[]));
    let second = two.up();
    second.await_nodes(1);
}
