//! The registry is a cluster of Debian's etcd, which is treated as badly as a cluster may be.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::{Bed, PATIENCE, wait_for};
use crate::etcd::{Etcd, PREFIX, time_until};
use crate::flow::{Flow, Tally};
use crate::world::{Container, Daemon, Node, all_talk};

/// The longest that traffic may be silent: a machine that is busy otherwise is silent for a while too.
const SILENCE: Duration = Duration::from_secs(3);

/// How soon a change is to be in force everywhere, from the first read that succeeds.
const SOON: Duration = Duration::from_secs(2);

/// The same where other tests run beside this one.
const GENEROUS: Duration = Duration::from_secs(10);

/// How long the cluster is away: `ADIT_OUTAGE` seconds.
fn outage() -> Duration {
    let seconds = std::env::var("ADIT_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

fn patience() -> Duration {
    if std::env::var_os("ADIT_OUTAGE").is_some() { SOON } else { GENEROUS }
}

/// A network of the first `count` nodes, and a container on each.
fn network<'n, 'h>(nodes: &'n [Node<'h>], count: usize, endpoints: &str) -> (Vec<Daemon<'n, 'h>>, Vec<Container>) {
    let token = nodes[0].init(&["--etcd-endpoints", endpoints, "--uses", "9"]);
    let mut daemons = vec![nodes[0].up()];
    for node in &nodes[1..count] {
        node.join(&token);
        daemons.push(node.up());
    }
    daemons.iter().for_each(|daemon| daemon.await_nodes(count - 1));
    let containers: Vec<_> = nodes[..count].iter().map(Node::container).collect();
    all_talk(&containers);
    (daemons, containers)
}

/// Traffic from the first container to all others.
fn flows(containers: &[Container]) -> Vec<Flow> {
    containers[1..].iter().map(|other| Flow::between(containers[0].end(), other.end())).collect()
}

fn end(flows: Vec<Flow>) -> Tally {
    let tallies = flows.into_iter().map(|flow| flow.end(SILENCE));
    tallies.fold(Tally::default(), |sum, tally| Tally {
        asked: sum.asked + tally.asked,
        lost: sum.lost + tally.lost,
        silence: sum.silence.max(tally.silence),
    })
}

/// The next secret is made, and is in force everywhere: how long that took.
fn rotate(nodes: &[Node<'_>], daemons: &[Daemon<'_, '_>]) -> Duration {
    let epoch = daemons[0].network().epoch.unwrap();
    nodes[0].adit(&["secret", "rotate"]);
    await_epoch(daemons, epoch + 1)
}

fn await_epoch(daemons: &[Daemon<'_, '_>], epoch: u32) -> Duration {
    time_until(PATIENCE, "the next secret", || {
        daemons.iter().all(|daemon| daemon.network().epoch == Some(epoch)).then_some(())
    })
}

/// Processor time that a daemon has used, and lines that it has said.
struct Cost {
    at: Instant,
    /// Of all threads, and of those that do not carry packets, in hundredths of a second.
    ticks: [u64; 2],
    lines: usize,
}

impl Cost {
    fn of(daemon: &Daemon<'_, '_>) -> Self {
        let mut ticks = [0; 2];
        for thread in fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap() {
            // One that has just ended has no file any more.
            let Ok(stat) = fs::read_to_string(thread.unwrap().path().join("stat")) else { continue };
            // proc_pid_stat(5): utime and stime are the 14th and 15th field, and the name before them may hold anything.
            let (name, fields) = stat.rsplit_once(") ").unwrap();
            let fields: Vec<&str> = fields.split(' ').collect();
            let used: u64 = [11, 12].iter().map(|index| fields[*index].parse::<u64>().unwrap()).sum();
            ticks[0] += used;
            ticks[1] += if name.contains("(worker-") { 0 } else { used };
        }
        Self { at: Instant::now(), ticks, lines: daemon.node.log().lines().count() }
    }

    /// What was used since: which parts of a core, and which lines were said.
    fn since(&self, daemon: &Daemon<'_, '_>) -> ([f64; 2], Vec<String>) {
        let now = Self::of(daemon);
        let seconds = (now.at - self.at).as_secs_f64();
        let share = [0, 1].map(|index| now.ticks[index].saturating_sub(self.ticks[index]) as f64 / 100.0 / seconds);
        (share, daemon.node.log().lines().skip(self.lines).map(str::to_owned).collect())
    }
}

/// No cause is named more often than every ten seconds, but for a first time. Digits do not make another cause.
fn assert_no_flood(lines: &[String], passed: Duration) {
    let mut causes: HashMap<String, usize> = HashMap::new();
    for line in lines {
        let text = line.split_once(' ').map_or(line.as_str(), |(_, text)| text);
        *causes.entry(text.chars().filter(|c| !c.is_ascii_digit()).collect()).or_default() += 1;
    }
    let most = 2 + passed.as_secs() as usize / 10;
    let floods: Vec<_> = causes.iter().filter(|(_, count)| **count > most).collect();
    assert!(floods.is_empty(), "in {passed:?}: {floods:#?}");
}

#[test]
fn three_hosts_and_a_fourth_on_a_cluster_of_three() {
    let bed = Bed::new(5);
    let etcd = Etcd::cluster(bed.host(5));
    let nodes: Vec<Node<'_>> = bed.hosts[..4].iter().map(Node::new).collect();
    let (mut daemons, mut containers) = network(&nodes, 3, &etcd.endpoints());
    assert_eq!(etcd.leases().len(), 3);
    assert!(!nodes[0].path("state/adit0.network/registry.redb").exists(), "there is no registry beside the cluster");
    nodes[3].join(&nodes[0].token(&[]));
    daemons.push(nodes[3].up());
    daemons.iter().for_each(|daemon| daemon.await_nodes(3));
    containers.push(nodes[3].container());
    all_talk(&containers);
    let status = nodes[3].adit(&["status"]);
    assert!(status.contains(&etcd.endpoint(0)) && status.contains("3 other nodes"), "{status}");
    // What is given back is free at once, and what is removed is gone.
    nodes[3].adit(&["down"]);
    daemons.pop().unwrap().await_end();
    assert_eq!(etcd.leases().len(), 4, "a node that is down keeps its lease");
    nodes[0].adit(&["node", "remove", "host4"]);
    wait_for("three leases", || (etcd.leases().len() == 3).then_some(()));
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
}

#[test]
fn traffic_goes_on_while_members_die_and_while_all_are_away() {
    let bed = Bed::new(5);
    let mut etcd = Etcd::cluster(bed.host(5));
    let nodes: Vec<Node<'_>> = bed.hosts[..4].iter().map(Node::new).collect();
    let (mut daemons, containers) = network(&nodes, 4, &etcd.endpoints());
    let flows = flows(&containers[..3]);
    let removed = daemons.pop().unwrap();

    let leader = etcd.leader();
    let follower = (leader + 1) % 3;
    etcd.members[follower].kill();
    let took = rotate(&nodes, &daemons);
    println!("a member is dead: a change takes {took:?}");
    assert!(took < patience(), "{took:?}");
    etcd.start_missing();
    etcd.await_answer();
    let leader = etcd.leader();
    etcd.members[leader].kill();
    let (took, answered) = thread::scope(|scope| {
        let answered = scope.spawn(|| {
            let start = Instant::now();
            etcd.await_answer();
            start.elapsed()
        });
        (rotate(&nodes, &daemons), answered.join().unwrap())
    });
    println!("the leader is dead: the first read succeeds after {answered:?}, a change takes {took:?}");
    assert!(took < answered + patience(), "{took:?}");
    etcd.start_missing();
    etcd.await_answer();

    etcd.kill_all();
    let before: Vec<Cost> = daemons.iter().map(Cost::of).collect();
    for daemon in &daemons {
        wait_for("an outage that is noticed", || daemon.network().registry_problem.map(drop));
    }
    // Changes for when it is back: a node is out, and another has moved.
    let said = nodes[0].adit(&["node", "remove", "host4"]);
    assert!(said.contains("host4"), "{said}");
    bed.host(3).move_to("192.0.2.33/24".parse().unwrap());
    // What this test itself asks of the daemons does not count.
    let quiet: Vec<Cost> = daemons.iter().map(Cost::of).collect();
    thread::sleep(outage().saturating_sub(before[0].at.elapsed()));
    for ((daemon, before), quiet) in daemons.iter().zip(&before).zip(&quiet) {
        let (share, _) = quiet.since(daemon);
        let (_, lines) = before.since(daemon);
        let [all, own] = share.map(|share| share * 100.0);
        println!(
            "{:?} without a registry: {own:.1} % of a core, with this traffic {all:.1} %, {} lines",
            outage(),
            lines.len()
        );
        assert!(own < 5.0, "{own}: {lines:#?}");
        assert_no_flood(&lines, outage());
    }
    etcd.start_missing();
    etcd.await_answer();
    let took = time_until(patience(), "the changes", || {
        let is_out = |daemon: &Daemon<'_, '_>| daemon.network().nodes.iter().all(|node| node.name != "host4");
        let moved = |daemon: &Daemon<'_, '_>| {
            let nodes = daemon.network().nodes;
            nodes.iter().any(|node| node.name == "host3" && node.endpoints.iter().any(|e| e.starts_with("192.0.2.33:")))
        };
        (daemons.iter().all(is_out) && daemons[..2].iter().all(moved)).then_some(())
    });
    println!("changes made meanwhile are in force {took:?} after the first read");
    assert!(daemons.iter().all(|daemon| daemon.network().registry_problem.is_none()));
    drop(removed);
    println!("a change takes {:?}", rotate(&nodes, &daemons));
    println!("{:?}", end(flows));
    all_talk(&containers[..3]);
}

#[test]
fn changes_arrive_while_the_cluster_forgets_all_the_time() {
    let bed = Bed::new(4);
    let etcd = Etcd::cluster(bed.host(4));
    let nodes: Vec<Node<'_>> = bed.hosts[..3].iter().map(Node::new).collect();
    let (daemons, containers) = network(&nodes, 3, &etcd.endpoints());
    let flows = flows(&containers);
    let before: Vec<Cost> = daemons.iter().map(Cost::of).collect();
    let (stop, compactions) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            etcd.with_client(async |client| {
                let (mut writes, mut due) = (0u32, Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{PREFIX}/subnets/10.42.{}.0-24", 200 + writes % 50);
                    client
                        .put(&key, format!("{{\"PublicIP\":\"192.0.2.{}\"}}", writes % 200).as_bytes(), 0)
                        .await
                        .unwrap();
                    writes += 1;
                    if writes % 50 == 0 {
                        client.delete(&key).await.unwrap();
                    }
                    if due.elapsed() >= Duration::from_millis(200) {
                        due = Instant::now();
                        let revision = client.list("/nothing").await.unwrap().revision;
                        client.compact(revision).await.unwrap();
                        compactions.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                writes
            })
        });
        let mut slowest = Duration::ZERO;
        let mut rotations = 0;
        while compactions.load(Ordering::Relaxed) < 20 && !churn.is_finished() {
            slowest = slowest.max(rotate(&nodes, &daemons));
            rotations += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let writes = churn.join().unwrap();
        println!("{writes} writes, 20 compactions: of {rotations} changes the slowest takes {slowest:?}");
        assert!(slowest < patience(), "{slowest:?}");
    });
    for (daemon, before) in daemons.iter().zip(&before) {
        let (share, lines) = before.since(daemon);
        println!("{:.1} % of a core, {} lines", share[1] * 100.0, lines.len());
        let said: Vec<String> = lines
            .into_iter()
            .filter(|line| !["epoch", "membership", "again: nothing changed"].iter().any(|told| line.contains(told)))
            .collect();
        assert_no_flood(&said, before.at.elapsed());
    }
    println!("{:?}", end(flows));
}

#[test]
fn an_endpoint_that_swallows_everything_holds_nothing_up() {
    let bed = Bed::new(4);
    let etcd = Etcd::cluster(bed.host(4));
    // An address of the underlay from which nothing comes back, and later a port of the cluster's.
    let mut netlink = bed.host(4).netlink();
    let under = netlink.existing_link("under0").unwrap().index;
    netlink.add_address(under, "192.0.2.99/24".parse().unwrap(), true).unwrap();
    let nft = |text: &str| bed.host(4).run("nft", &[text]);
    nft("table ip hole { chain in { type filter hook input priority 0; ip daddr 192.0.2.99 drop; }; }");
    let nodes: Vec<Node<'_>> = bed.hosts[..3].iter().map(Node::new).collect();
    let endpoints = format!("http://192.0.2.99:2379,{}", etcd.endpoints());
    let (mut daemons, mut containers) = network(&nodes, 2, &endpoints);
    let flows = flows(&containers);
    println!("a change takes {:?}", rotate(&nodes, &daemons));
    // Two members fall silent with their connections open; among themselves they speak on loopback.
    nft("add rule ip hole in tcp dport { 2389, 2409 } drop");
    nft("add chain ip hole out { type filter hook output priority 0; }");
    nft("add rule ip hole out tcp sport { 2389, 2409 } drop");
    println!("two of three members are silent: a change takes {:?}", rotate(&nodes, &daemons));
    nft("flush chain ip hole out");
    nft("flush chain ip hole in");
    nft("add rule ip hole in ip daddr 192.0.2.99 drop");
    nodes[2].join(&nodes[0].token(&[]));
    daemons.push(nodes[2].up());
    daemons.iter().for_each(|daemon| daemon.await_nodes(2));
    containers.push(nodes[2].container());
    all_talk(&containers);
    println!("{:?}", end(flows));
}

/// An authority for certificates of etcd, and one that it signed: PEM of certificate, key and authority.
fn certificates(place: &str) -> [String; 3] {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([place.to_owned()]).unwrap();
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    [params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem(), authority]
}

#[test]
fn a_cluster_with_certificates_and_passwords() {
    let bed = Bed::new(3);
    let [certificate, key, authority] = certificates("192.0.2.3");
    let mut etcd = Etcd::tls(bed.host(3), &certificate, &key, &authority);
    for arguments in [
        "user add root:r00t",
        "user grant-role root root",
        "role add nodes",
        "role grant-permission nodes --prefix=true readwrite /coreos.com/network/",
        "user add nodes:s3cret-word",
        "user grant-role nodes nodes",
        "auth enable",
    ] {
        etcd.ctl(&arguments.split(' ').collect::<Vec<_>>());
    }
    etcd.with_credentials("--user=root:r00t");
    let nodes: Vec<Node<'_>> = bed.hosts[..2].iter().map(Node::new).collect();
    for node in &nodes {
        fs::write(node.path("password"), "s3cret-word\n").unwrap();
        fs::write(node.path("wrong"), "another-word\n").unwrap();
    }
    let file = |index: usize, name: &str| nodes[index].path(name).to_str().unwrap().to_owned();
    let (ca, password) = (etcd.path("ca.pem"), file(0, "password"));
    let endpoints = etcd.endpoints();
    let token = nodes[0].init(&[
        "--etcd-endpoints",
        &endpoints,
        "--etcd-cafile",
        ca.to_str().unwrap(),
        "--etcd-username",
        "nodes",
        "--etcd-password-file",
        &password,
    ]);
    let one = nodes[0].up();
    nodes[1].join(&token);
    // The authority tells where etcd is and who signs its certificates; a password it does not tell.
    let configuration = fs::read_to_string(nodes[1].path("adit.toml")).unwrap();
    let with = |password: &str| {
        configuration.replace("[network]", &format!("[network]\nuser = \"nodes\"\npassword-file = {password:?}"))
    };
    fs::write(nodes[1].path("adit.toml"), with(&file(1, "wrong"))).unwrap();
    let refused = nodes[1].spawn(&["up", "--config", &nodes[1].file()]);
    wait_for("a word about the password", || nodes[1].log().contains("refuses the user \"nodes\"").then_some(()));
    assert!(!nodes[1].log().contains("another-word"), "passwords are not said");
    drop(refused);
    fs::write(nodes[1].path("adit.toml"), with(&file(1, "password"))).unwrap();
    let two = nodes[1].up();
    [&one, &two].iter().for_each(|daemon| daemon.await_nodes(1));
    let containers: Vec<_> = nodes.iter().map(Node::container).collect();
    all_talk(&containers);
    assert_eq!(etcd.leases().len(), 2);
}
