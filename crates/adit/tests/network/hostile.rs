//! The registry lies: whoever can write it does what he can, and the nodes of the network go on as before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry::api::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};
use registry::schema::{LeaseValue, Subnets};
use registry::trust::{Anchor, NodeStore, Record};

use crate::bed::{Bed, PATIENCE, wait_at_most, wait_for};
use crate::etcd::{Etcd, PREFIX, etcdctl};
use crate::flow::Flow;
use crate::world::{Container, Daemon, Node, all_talk};

/// The longest that traffic may be silent: a machine that is busy otherwise is silent for a while too.
const SILENCE: Duration = Duration::from_secs(3);

/// What other nodes are to a node: all that an attacker would like to change.
type Others = BTreeMap<String, (Option<String>, String, Vec<String>, Option<String>)>;

/// Three nodes that talk, on one member of etcd that anybody may write.
struct Network<'n, 'h> {
    nodes: &'n [Node<'h>],
    daemons: Vec<Daemon<'n, 'h>>,
    containers: Vec<Container>,
    flows: Vec<Flow>,
    before: Vec<Others>,
}

fn others(daemon: &Daemon<'_, '_>) -> Others {
    let peers = daemon.status().peers.into_iter();
    let other = |peer: adit::api::status::PeerStatus| {
        let nets = peer.allowed_ips.iter().map(ToString::to_string).collect();
        (peer.name, (peer.public_key, peer.transport, nets, peer.endpoint))
    };
    peers.map(other).collect()
}

impl<'n, 'h> Network<'n, 'h> {
    fn new(nodes: &'n [Node<'h>], etcd: &Etcd<'_>) -> Self {
        let token = nodes[0].init(&["--etcd-endpoints", &etcd.endpoints(), "--uses", "9"]);
        let mut daemons = vec![nodes[0].up()];
        for node in &nodes[1..] {
            node.join(&token);
            daemons.push(node.up());
        }
        daemons.iter().for_each(|daemon| daemon.await_nodes(nodes.len() - 1));
        let containers: Vec<_> = nodes.iter().map(Node::container).collect();
        all_talk(&containers);
        let flows = containers[1..].iter().map(|other| Flow::between(containers[0].end(), other.end())).collect();
        let before = daemons.iter().map(others).collect();
        Self { nodes, daemons, containers, flows, before }
    }

    /// Fails if any node is anything else to another one than it was.
    fn assert_undisturbed(&self) {
        for (daemon, before) in self.daemons.iter().zip(&self.before) {
            assert_eq!(others(daemon), *before, "host{}", daemon.node.host.number);
        }
    }

    /// Waits for something, while nothing else changes.
    fn await_undisturbed(&self, what: &str, mut condition: impl FnMut() -> bool) {
        wait_for(what, || {
            self.assert_undisturbed();
            condition().then_some(())
        });
        self.assert_undisturbed();
    }

    fn problem(&self, index: usize, part: &str) -> bool {
        self.daemons[index].network().problems.iter().any(|problem| problem.contains(part))
    }

    /// Ends it: traffic among the first `count` nodes never stopped.
    fn end(self, count: usize) {
        let Self { flows, containers, .. } = self;
        flows.into_iter().take(count - 1).for_each(|flow| println!("{:?}", flow.end(SILENCE)));
        all_talk(&containers);
    }
}

/// The key of a node's lease.
fn key_of(daemon: &Daemon<'_, '_>) -> String {
    format!("{PREFIX}/subnets/{}-24", daemon.subnet().addr())
}

fn with_registry(bed: &Bed) -> Etcd<'_> {
    Etcd::single(bed.hosts.last().unwrap())
}

fn nodes(bed: &Bed) -> Vec<Node<'_>> {
    bed.hosts[..bed.hosts.len() - 1].iter().map(Node::new).collect()
}

#[test]
fn records_that_are_swapped_damaged_or_deleted_move_nobody() {
    let bed = Bed::new(4);
    let etcd = with_registry(&bed);
    let nodes = nodes(&bed);
    let network = Network::new(&nodes, &etcd);
    let keys: Vec<String> = network.daemons.iter().map(key_of).collect();
    let values = || keys.iter().map(|key| etcd.list(key).remove(key)).collect::<Vec<_>>();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    // Each node puts its own record back; that it is its own is seen by its signature, so that the numbers are compared first.
    let restored = |wrong: &[Option<Vec<u8>>]| {
        values().iter().zip(wrong).all(|(now, wrong)| now.is_some() && (wrong.is_none() || now != wrong))
    };

    let [one, two, three] = [0, 1, 2].map(|index| etcd.get(&keys[index]));
    // The records of two nodes stand in each other's place.
    etcd.put(&keys[1], &three);
    etcd.put(&keys[2], &two);
    network.await_undisturbed("swapped records", || restored(&[None, Some(three.clone()), Some(two.clone())]));

    // The signed part of one in the address of another, an address that nobody signed, and another type.
    let signed = |value: &[u8]| {
        let value = LeaseValue::parse(value).unwrap();
        value.signed().unwrap().to_owned()
    };
    let wrong = [
        text(&one).replace(&signed(&one), &signed(&two)),
        text(&two).replace("192.0.2.2", "192.0.2.66"),
        text(&three).replace(r#""BackendType":"adit""#, r#""BackendType":"udp""#),
    ];
    keys.iter().zip(&wrong).for_each(|(key, wrong)| etcd.put(key, wrong.as_bytes()));
    let wrong = wrong.map(|wrong| Some(wrong.into_bytes()));
    network.await_undisturbed("damaged records", || restored(&wrong));

    // Nonsense in all of them, without a lease and as what an administrator would write.
    for nonsense in [
        &b"\xff\xfe{"[..],
        b"",
        b"{}",
        br#"{"PublicIP":"192.0.2.66"}"#,
        br#"{"PublicIP":"192.0.2.66","PublicIPv6":null,"BackendType":"vxlan"}"#,
    ] {
        keys.iter().for_each(|key| etcd.put(key, nonsense));
        let wrong = vec![Some(nonsense.to_vec()); 3];
        network.await_undisturbed("nonsense in their place", || restored(&wrong));
    }

    // All is gone, first the leases and then everything.
    etcd.ctl(&["del", "--prefix", &format!("{PREFIX}/subnets/")]);
    network.await_undisturbed("leases that were deleted", || etcd.leases().len() == 3);
    etcd.ctl(&["del", "--prefix", ""]);
    network.await_undisturbed("leases that were deleted with all else", || etcd.leases().len() == 3);
    let _ = network.nodes[0].try_adit(&["reload"]);
    network.await_undisturbed("the configuration", || etcd.list(&format!("{PREFIX}/config")).len() == 1);

    // One that cannot put its record back stays who it was.
    network.daemons[2].signal("STOP");
    etcd.delete(&keys[2]);
    let gone = |daemon: &Daemon<'_, '_>, before: &Others| assert_eq!(others(daemon), *before);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        network.daemons[..2].iter().zip(&network.before).for_each(|(daemon, before)| gone(daemon, before));
        std::thread::sleep(Duration::from_millis(50));
    }
    network.daemons[2].signal("CONT");
    network.await_undisturbed("the third node's record", || etcd.leases().len() == 3);
    // Its own traffic waited meanwhile.
    network.end(2);
}

#[test]
fn another_configuration_in_the_registry_changes_nothing_and_stops_a_start() {
    let bed = Bed::new(4);
    let etcd = with_registry(&bed);
    let nodes = nodes(&bed);
    let mut network = Network::new(&nodes, &etcd);
    let config = format!("{PREFIX}/config");
    let right = etcd.get(&config);
    for (wrong, part) in [
        (&br#"{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}"#[..], "udp on port 8285"),
        (br#"{"Network":"10.99.0.0/16","Backend":{"Type":"adit"}}"#, "10.99.0.0/16"),
        (br#"{"Network":"10.42.0.0/16","SubnetLen":26,"Backend":{"Type":"adit"}}"#, "/26"),
        (b"\xff", "is not a JSON object"),
    ] {
        etcd.put(&config, wrong);
        for index in 0..3 {
            network.await_undisturbed("an alarm", || network.problem(index, part));
        }
        // At a restart it is not followed either.
        let third = network.daemons.pop().unwrap();
        third.terminate();
        if wrong == b"\xff" {
            // Nonsense contradicts nothing: it goes by what it remembers.
            network.daemons.push(nodes[2].up());
            etcd.put(&config, &right);
            wait_for("no alarm", || (!network.problem(2, part)).then_some(()));
            continue;
        }
        let refusal = nodes[2].refused(&["up", "--config", &nodes[2].file()]);
        assert!(
            refusal.contains("contradicts what this node goes by") || refusal.contains("is no network configuration"),
            "{refusal}"
        );
        etcd.put(&config, &right);
        network.daemons.push(nodes[2].up());
        network.daemons[2].await_nodes(2);
        wait_for("the third node again", || network.containers[0].pings(network.containers[2].address).then_some(()));
        for index in 0..3 {
            network.await_undisturbed("no alarm", || !network.problem(index, part));
        }
    }
    // The third was away now and then.
    network.end(2);
}

#[test]
fn what_was_removed_stays_so_whatever_the_registry_hides() {
    let bed = Bed::new(5);
    let etcd = with_registry(&bed);
    let nodes = nodes(&bed);
    let mut network = Network::new(&nodes, &etcd);
    let (key, record) = (key_of(&network.daemons[3]), etcd.get(&key_of(&network.daemons[3])));
    let saved = nodes[3].path("saved");
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    copy(&nodes[3].path("state"), &saved);
    // The third is away when the fourth is removed.
    network.daemons.remove(2).crash();
    nodes[0].adit(&["node", "remove", "host4"]);
    network.daemons[..2].iter().for_each(|daemon| {
        wait_for("a removal", || daemon.network().nodes.iter().all(|node| node.name != "host4").then_some(()))
    });
    network.daemons.pop().unwrap().terminate();
    // The tombstone vanishes while the authority's host cannot put it back, and the old record is there again, and so is the old state of the
    // node that was removed.
    network.daemons[0].signal("STOP");
    etcd.ctl(&["del", "--prefix", &format!("{PREFIX}/adit/removed/")]);
    etcd.put_leased(&key, &record);
    fs::remove_dir_all(nodes[3].path("state")).unwrap();
    copy(&saved, &nodes[3].path("state"));
    let back = nodes[3].spawn(&["up", "--config", &nodes[3].file()]);
    let is_out = |daemon: &Daemon<'_, '_>| daemon.network().nodes.iter().all(|node| node.name != "host4");
    // Who was told once knows it also after a restart.
    network.daemons.pop().unwrap().crash();
    network.daemons.push(nodes[1].up());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        assert!(is_out(&network.daemons[1]));
        assert!(!network.containers[3].pings(network.containers[1].address));
    }
    // Who was not told notices that something is missing.
    let third = nodes[2].up();
    third.await_problem("removal 1 is withheld");
    network.daemons[0].signal("CONT");
    // The authority's host puts it there again, and then it is everywhere as it was.
    wait_for("the removal", || is_out(&third).then_some(()));
    wait_for("no alarm", || (!third.network().problems.iter().any(|p| p.contains("withheld"))).then_some(()));
    for index in [0, 2] {
        assert!(!network.containers[3].pings(network.containers[index].address));
    }
    drop(back);
    all_talk(&network.containers[..3]);
}

#[test]
fn an_older_record_is_not_followed() {
    let bed = Bed::new(4);
    let etcd = with_registry(&bed);
    let nodes = nodes(&bed);
    let mut network = Network::new(&nodes, &etcd);
    let (key, old) = (key_of(&network.daemons[1]), etcd.get(&key_of(&network.daemons[1])));
    bed.host(2).move_to("192.0.2.22/24".parse().unwrap());
    let at = |daemon: &Daemon<'_, '_>, start: &str| {
        let nodes = daemon.network().nodes;
        nodes.iter().any(|node| node.name == "host2" && node.endpoints.iter().any(|e| e.starts_with(start)))
    };
    wait_for("the new address", || {
        (at(&network.daemons[0], "192.0.2.22:") && at(&network.daemons[2], "192.0.2.22:")).then_some(())
    });
    wait_for("the new record", || (etcd.get(&key) != old).then_some(()));
    // While the node is there, it puts its own in place of it; while it is away, the others know better.
    etcd.put_leased(&key, &old);
    wait_for("the new record again", || (etcd.get(&key) != old).then_some(()));
    assert!(at(&network.daemons[0], "192.0.2.22:"));
    network.daemons.remove(1).crash();
    etcd.put_leased(&key, &old);
    for daemon in &network.daemons {
        daemon.await_problem("is older than record");
        assert!(at(daemon, "192.0.2.22:"));
    }
    // Also who has started since.
    network.daemons.pop().unwrap().crash();
    let third = nodes[2].up();
    third.await_problem("is older than record");
    assert!(at(&third, "192.0.2.22:"));
    let second = nodes[1].up();
    wait_for("no problem", || third.network().skipped.eq(&0).then_some(()));
    second.await_nodes(2);
    all_talk(&network.containers);
}

/// A record that a node signs itself: it has a certificate, and means harm.
fn signed_by(node: &Node<'_>, subnet: &str, sequence: u64, endpoints: &[&str]) -> Vec<u8> {
    let store = NodeStore::open(&node.path("state/adit0.network")).unwrap();
    let keys = store.keys().unwrap();
    let certificate = store.certificate(&keys).unwrap();
    let anchor = Anchor::Authority(certificate.authority);
    let subnets = Subnets::new(Some(subnet.parse().unwrap()), None).unwrap();
    let endpoints: Vec<_> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
    let public_ip = endpoints
        .first()
        .and_then(|e: &std::net::SocketAddr| if let std::net::IpAddr::V4(ip) = e.ip() { Some(ip) } else { None });
    let record = Record { certificate, sequence, subnets, endpoints, behind_nat: false };
    let signed = STANDARD.encode(record.sign(&keys, &anchor).unwrap());
    let backend_data = Some(serde_json::json!({ "signed": signed }));
    LeaseValue { public_ip, backend_type: Some("adit".into()), backend_data, ..LeaseValue::default() }.to_json()
}

#[test]
fn a_member_that_writes_the_registry_gets_nobodys_subnet() {
    let bed = Bed::new(5);
    let etcd = with_registry(&bed);
    let nodes = nodes(&bed);
    let mut network = Network::new(&nodes, &etcd);
    // The fourth is the one that means harm: what it holds, it writes itself from here on.
    network.daemons.pop().unwrap().terminate();
    network.before.pop();
    let own =
        etcd.leases().into_iter().find(|(_, value)| String::from_utf8_lossy(value).contains("192.0.2.4")).unwrap();
    let mine = own.0.rsplit('/').next().unwrap().replace('-', "/");
    let (victim, key) = (network.daemons[1].subnet().to_string(), key_of(&network.daemons[1]));
    let mut sequence = 1 << 60;
    let mut sign = |subnet: &str, endpoints: &[&str]| {
        sequence += 1;
        signed_by(&nodes[3], subnet, sequence, endpoints)
    };
    // Another's subnet, in that one's place.
    let claim = sign(&victim, &["192.0.2.4:7777"]);
    etcd.put(&key, &claim);
    wait_for("the owner's record", || {
        let nodes: Vec<_> = network
            .daemons
            .iter()
            .map(|d| d.network().nodes.iter().map(|n| (n.name.clone(), n.subnets.clone())).collect::<BTreeMap<_, _>>())
            .collect();
        assert!(nodes[0]["host2"][0].to_string() == victim && nodes[2]["host2"][0].to_string() == victim);
        assert_eq!(network.daemons[1].network().subnets[0].to_string(), victim, "its owner keeps it");
        (etcd.get(&key) != claim).then_some(())
    });
    assert!(network.containers[0].pings(network.containers[1].address));

    // Addresses that would make others speak to themselves, to the overlay, or to nobody.
    let inside = network.containers[1].address.to_string() + ":7777";
    for endpoints in [["192.0.2.1:7777", &inside], ["192.0.2.2:7777", "10.42.9.9:53"]] {
        etcd.put_leased(&own.0, &sign(&mine, &endpoints));
        network.daemons[0].await_problem("inside of the network, or our own");
        let told = network.daemons[0].network().nodes.into_iter().find(|node| node.name == "host4");
        assert!(
            told.iter()
                .flat_map(|node| &node.endpoints)
                .all(|e| !e.starts_with("10.42.") && !e.starts_with("192.0.2.1:")),
            "{told:?}"
        );
    }
    for (daemon, before) in network.daemons.iter().zip(&network.before) {
        let (mut now, mut before) = (others(daemon), before.clone());
        now.remove("host4");
        before.remove("host4");
        assert_eq!(now, before);
    }
    let Network { flows, containers, .. } = network;
    flows.into_iter().take(2).for_each(|flow| println!("{:?}", flow.end(SILENCE)));
    all_talk(&containers[..3]);
}

/// How many bad records there are: `ADIT_RECORDS`.
fn records() -> usize {
    std::env::var("ADIT_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// A record that means nothing or harm, at a key of its own.
fn bad_record(index: usize, signed: &[u8]) -> (String, Vec<u8>) {
    let n = index / 8;
    let (b, c, d) = (n / 65_536, n / 256 % 256, n % 256);
    match index % 8 {
        // The first few are subnets of the network, and its bulk is everywhere.
        0 if n < 200 => (format!("subnets/10.42.{n}.0-24"), b"{".to_vec()),
        0 => (format!("subnets/10.{}.{c}.{d}-30", 100 + b), b"{".to_vec()),
        1 => (format!("subnets/10.42.{c}.{d}-30"), signed.to_vec()),
        2 => (format!("subnets/$(touch /tmp/{index});`id`|&;<>'\"\\\u{1b}[2J"), b"\xff\xfe\x00".to_vec()),
        3 => (format!("subnets/10.{}.{c}.{d}-24", 120 + b), br#"{"PublicIP":"127.0.0.1","PublicIPv6":null}"#.to_vec()),
        4 => (format!("adit/removed/{index:010}"), STANDARD.encode([7; 80]).into_bytes()),
        5 => (format!("adit/epochs/{:010}", 1000 + index), b"AAAA".to_vec()),
        6 => (format!("adit/releases/{index:010}"), signed.to_vec()),
        _ => (
            format!("subnets/10.42.{c}.0-{}&fd00::{index:x}-64", 8 + n % 24),
            br#"{"PublicIP":"10.42.0.1","BackendType":"adit","BackendData":{"signed":"AAAA"}}"#.to_vec(),
        ),
    }
}

#[test]
fn many_bad_records_disturb_no_good_one() {
    let count = records();
    let bed = Bed::new(5);
    let etcd = with_registry(&bed);
    let nodes = nodes(&bed);
    let mut network = Network::new(&nodes[..3], &etcd);
    let signed = etcd.get(&key_of(&network.daemons[1]));
    let taken = etcd.leases();
    let memory: Vec<u64> = network.daemons.iter().map(memory_of).collect();
    let start = Instant::now();
    let keys: std::collections::BTreeSet<String> = etcd.with_client(async |client| {
        // etcd's limits are 128 operations and 1.5 MiB.
        let bad: Vec<_> = (0..count)
            .map(|index| bad_record(index, &signed))
            .map(|(key, value)| (format!("{PREFIX}/{key}"), value))
            .filter(|(key, _)| !taken.contains_key(key))
            .collect();
        let unique: BTreeMap<_, _> = bad.into_iter().collect();
        let all: Vec<_> = unique.iter().collect();
        for batch in all.chunks(100) {
            let put = |(key, value): &(&String, &Vec<u8>)| RequestOp {
                request: Some(Request::RequestPut(PutRequest {
                    key: key.as_bytes().to_vec(),
                    value: (*value).clone(),
                    ..Default::default()
                })),
            };
            let request = TxnRequest { success: batch.iter().map(put).collect(), ..Default::default() };
            client.txn(request).await.unwrap();
        }
        for megabyte in 0..3 {
            client.put(&format!("{PREFIX}/subnets/10.42.{}.0-24x", megabyte), &vec![b'x'; 1 << 20], 0).await.unwrap();
            client
                .put(&format!("{PREFIX}/adit/removed/{:010}", 3_000_000_000u64 + megabyte), &vec![b'x'; 1 << 20], 0)
                .await
                .unwrap();
        }
        unique.into_keys().collect()
    });
    println!("{} bad records in {:?}", keys.len(), start.elapsed());
    let expected = keys.len() as u64 + 6;
    let patience = PATIENCE + Duration::from_secs(count as u64 / 500);
    for index in 0..3 {
        wait_at_most(patience, "records that are counted", || {
            network.assert_undisturbed();
            let skipped = network.daemons[index].network().skipped;
            (skipped == expected || count > 200_000).then_some(())
        });
    }
    println!("all are counted after {:?}", start.elapsed());
    let status = network.daemons[1].network();
    assert!(
        status.problems.len() <= 100 && status.problems.iter().all(|p| p.len() < 600 && !p.contains(char::is_control)),
        "{:?}",
        status.problems
    );
    let shown = nodes[1].adit(&["status"]);
    assert!(shown.contains(&format!("{expected} records of the registry")), "{shown}");
    for (daemon, before) in network.daemons.iter().zip(&memory) {
        let grown = memory_of(daemon).saturating_sub(*before);
        println!("memory {} MiB, {} MiB more than before", memory_of(daemon) >> 20, grown >> 20);
        assert!(grown < (64 << 20) + count as u64 * 2048, "{grown} bytes for {count} records");
    }
    // A node that comes now gets a subnet, and one that comes again has what it had.
    nodes[3].join(&nodes[0].token(&[]));
    let fourth = nodes[3].up();
    wait_at_most(patience, "the fourth", || (fourth.network().nodes.len() == 3).then_some(()));
    let subnet = network.daemons[2].subnet();
    network.daemons.pop().unwrap().crash();
    let third = nodes[2].up();
    assert_eq!(third.subnet(), subnet);
    let mut flows = std::mem::take(&mut network.flows).into_iter();
    println!("{:?}", flows.next().unwrap().end(SILENCE));
    let mut containers = std::mem::take(&mut network.containers);
    containers.push(nodes[3].container());
    all_talk(&containers);
}

/// Resident memory in bytes.
fn memory_of(daemon: &Daemon<'_, '_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_nodes_credential_writes_its_own_record_and_nothing_else() {
    let bed = Bed::new(3);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let token = nodes[0].init(&["--uses", "2"]);
    let mut daemons = vec![nodes[0].up()];
    for node in &nodes[1..] {
        node.join(&token);
        daemons.push(node.up());
    }
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
    let home = nodes[1].path("state/adit0.network");
    let credential = fs::read_to_string(home.join("credential")).unwrap();
    let ca = format!("--cacert={}", home.join("registry.crt").display());
    let credentials =
        [ca.clone(), "--endpoints=https://192.0.2.1:7780".into(), format!("--user={}", credential.trim())];
    let run = |arguments: &[&str], input: &[u8]| etcdctl(nodes[1].host, &credentials, arguments, input);
    let denied = |arguments: &[&str], input: &[u8]| {
        let output = run(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("permission denied"), "{arguments:?}: {output:?}");
    };
    let listing = run(&["get", "--prefix", &format!("{PREFIX}/"), "--keys-only"], b"");
    assert!(listing.status.success(), "{listing:?}");
    let (own, other) = (key_of(&daemons[1]), key_of(&daemons[2]));
    let read =
        |key: &str| String::from_utf8(run(&["get", "--print-value-only", key], b"").stdout).unwrap().trim().to_owned();
    let (mine, theirs) = (read(&own), read(&other));
    assert!(mine.contains("signed") && theirs.contains("signed"));
    let granted = run(&["lease", "grant", "600"], b"");
    let lease = String::from_utf8(granted.stdout).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let leased = format!("--lease={lease}");
    for key in ["config", "adit/removed/0000000001", "adit/epochs/0000000009", "adit/releases/0000000001", "else"] {
        denied(&["put", &format!("{PREFIX}/{key}")], b"x");
    }
    denied(&["put", &leased, &other], mine.as_bytes());
    denied(&["put", &leased, &other], theirs.as_bytes());
    denied(&["put", &leased, &own], theirs.as_bytes());
    denied(&["put", &leased, &own], b"{}");
    denied(&["put", &own], mine.as_bytes());
    denied(&["put", &leased, &format!("{PREFIX}/subnets/10.42.250.0-24")], mine.as_bytes());
    denied(&["put", "/elsewhere"], b"x");
    for key in [&other, &format!("{PREFIX}/config")] {
        denied(&["del", key], b"");
    }
    denied(&["del", "--prefix", PREFIX], b"");
    denied(&["get", "--prefix", "/"], b"");
    // Another's lease, which is where its record is.
    let leases = String::from_utf8(run(&["lease", "list"], b"").stdout).unwrap();
    for lease in leases.lines().skip(1).filter(|line| *line != lease) {
        let _ = run(&["lease", "revoke", lease], b"");
    }
    assert_eq!(read(&other), theirs);
    // Others' users, no user, and who was removed.
    for user in ["root:x", "node-1:x", "node-3:x", "node-2:"] {
        let arguments = [ca.clone(), credentials[1].clone(), format!("--user={user}")];
        let output = etcdctl(nodes[1].host, &arguments, &["get", &own], b"");
        assert!(!output.status.success(), "{user}: {output:?}");
    }
    let output = etcdctl(nodes[1].host, &credentials[..2], &["get", &own], b"");
    assert!(!output.status.success(), "{output:?}");
    nodes[0].adit(&["node", "remove", "host2"]);
    wait_for("a credential that is withdrawn", || (!run(&["get", &own], b"").status.success()).then_some(()));
    daemons.iter().step_by(2).for_each(|daemon| daemon.await_nodes(1));
}
