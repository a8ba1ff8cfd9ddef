//! Traces between containers of nodes, of every door.

use std::process::{Child, Stdio};

use crate::bed::Bed;
use crate::bed::attached::{attach, attach_with, directories};
use crate::bed::wait_for;
use crate::scene::{Traced, observe};
use crate::world::{Daemon, Node, token};

/// A container of `adit run`, which ends with this.
struct Sleeping(Child);

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two nodes of these names that permit traces, each knowing of the other.
fn network<'n, 'h>(nodes: &'n [Node<'h>], names: [&str; 2]) -> [Daemon<'n, 'h>; 2] {
    let files = [nodes[0].file(), nodes[1].file()];
    let printed = nodes[0].adit(&["init", "--config", &files[0], "--name", names[0], "--no-start", "--uses", "2"]);
    let token = token(&printed);
    nodes[0].configure(observe(true));
    let first = nodes[0].up();
    nodes[1].adit(&["join", &token, "--config", &files[1], "--name", names[1], "--no-start"]);
    nodes[1].configure(observe(true));
    let daemons = [first, nodes[1].up()];
    daemons.iter().for_each(|daemon| daemon.await_nodes(1));
    daemons
}

/// A container of `adit run` on a node.
fn sleeping(node: &Node<'_>, name: &str) -> Sleeping {
    let mut run = node.command(&["run", "--name", name, "--", "sleep", "1000"]);
    run.stdout(Stdio::null()).stderr(Stdio::null());
    let sleeping = Sleeping(node.host.namespace.run(|| run.spawn()).unwrap().unwrap());
    wait_for(name, || node.adit(&["ps"]).contains(name).then_some(()));
    sleeping
}

/// Where docs/pictures/take wants the figure of the documents, if it runs this.
#[test]
fn the_figure_of_the_documents_can_be_drawn() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&nodes, ["berlin", "paris"]);
    let _web = sleeping(&nodes[0], "web");
    let _app = sleeping(&nodes[1], "app");
    let place = tempfile::tempdir().unwrap();
    let svg = std::env::var_os("ADIT_PICTURES").map_or(place.path().to_owned(), Into::into).join("trace.svg");
    let listed: serde_json::Value = serde_json::from_str(&nodes[1].adit(&["ps", "--json"])).unwrap();
    let app = listed[0]["addresses"][0].as_str().unwrap().split('/').next().unwrap().to_owned();
    let wanted = ["trace", &app, "--from", "web", "--super", "--count", "1", "--svg", svg.to_str().unwrap()];
    // The first packets find the neighbours and the session; a figure is of what goes on every day.
    nodes[0].try_adit(&wanted);
    let told = nodes[0].try_adit(&wanted);
    print!("{}", String::from_utf8_lossy(&told.stdout));
    let figure = std::fs::read_to_string(&svg).unwrap();
    assert!(figure.contains("<svg") && figure.contains("paris"), "{}", String::from_utf8_lossy(&told.stderr));
}

#[test]
fn a_probe_goes_from_container_to_container() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&nodes, ["host1", "host2"]);
    let web = attach(nodes[0].host, &directories(nodes[0].directory.path()), "web");
    let other = attach(nodes[1].host, &directories(nodes[1].directory.path()), "other");
    let destination = other.ip(false).to_string();
    let _shell = sleeping(&nodes[0], "shell");

    for from in ["web", "shell", "id-of-web"] {
        let told = nodes[0].try_adit(&["trace", &destination, "--from", from, "--json", "--count", "2"]);
        let traced = Traced::of(&told);
        assert_eq!(traced.answered(), [true; 2], "{from}: {}", traced.json);
        let name = if from == "id-of-web" { "web" } else { from };
        let there = traced.places(1, "there", "host1");
        // Out of the container, by its veth and the bridge into the stack, through the tunnel, and by bridge and veth into the other.
        assert_eq!(there[0], format!("host1 {name}:eth0 out"), "{there:?}");
        let veth = |host: &str, way: &str| {
            there.iter().position(|place| place.starts_with(&format!("{host} ad")) && place.ends_with(way))
        };
        assert!(veth("host1", " in").is_some() && veth("host2", " out").is_some(), "{there:?}");
        for step in ["read", "sealed", "sent"] {
            assert!(there.contains(&format!("host1 {step}")), "{there:?}");
        }
        for step in ["received", "opened", "written"] {
            assert!(there.contains(&format!("host2 {step}")), "{there:?}");
        }
        assert_eq!(traced.json["from"], format!("{name} on host1"));
    }
    // A container of this host is known by its name.
    let told = nodes[0].try_adit(&["trace", "web", "--json", "--count", "1"]);
    assert_eq!(Traced::of(&told).answered(), [true]);
    drop((web, other));
}

#[test]
fn the_port_that_a_packet_does_not_fit_is_named() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&nodes, ["host1", "host2"]);
    let place = |n: usize| directories(nodes[n].directory.path());
    let narrow = attach_with(nodes[1].host, &place(1), "narrow", |request| request.mtu = Some(1300));
    let beside = attach(nodes[1].host, &place(1), "beside");
    let to = narrow.ip(false).to_string();
    // By a tunnel and a router, and past both.
    for (node, from) in [(&nodes[0], None), (&nodes[1], Some("beside"))] {
        let arguments = ["trace", &to, "--size", "1400", "--count", "1", "--json"];
        let told = node.try_adit(&[&arguments[..], &from.map_or(vec![], |from| vec!["--from", from])].concat());
        let traced = Traced::of(&told);
        let lost = &traced.probes()[0]["lost"];
        assert_eq!((&lost["cause"], &lost["certainty"]), (&"too_big".into(), &"likely".into()), "{from:?} {lost}");
        let sentence = lost["sentence"].as_str().unwrap();
        assert!(sentence.contains(&narrow.record.host_interface) && sentence.contains("takes 1300 bytes"), "{lost}");
    }
    drop(beside);
}

/// What `adit trace` refuses with.
fn refused(node: &Node<'_>, arguments: &[&str], code: i32) -> String {
    let told = node.try_adit(&[&["trace", "--count", "1"], arguments].concat());
    assert_eq!(told.status.code(), Some(code), "{told:?}");
    String::from_utf8(told.stderr).unwrap()
}

#[test]
fn names_of_the_network_are_found_and_who_cannot_send_is_told_what_to_do() {
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&nodes, ["host1", "host2"]);
    let web = attach(nodes[1].host, &directories(nodes[1].directory.path()), "web");
    let there = Traced::of(&nodes[0].try_adit(&["trace", "Web.host2.adit", "--json", "--count", "1"]));
    assert_eq!((there.answered(), &there.json["destination"]), (vec![true], &web.ip(false).to_string().into()));
    let node = Traced::of(&nodes[0].try_adit(&["trace", "host2.adit", "--json", "--count", "1"]));
    assert_eq!(node.answered(), [true], "{}", node.json);
    let said = refused(&nodes[0], &["nobody.host2.adit"], 2);
    assert!(said.contains("nobody in the network is called") && said.contains("adit node list"), "{said}");

    let made: serde_json::Value = serde_json::from_str(&nodes[0].adit(&["vm-tap", "db", "--json"])).unwrap();
    let said = refused(&nodes[0], &[&web.ip(false).to_string(), "--from", "db"], 1);
    assert!(said.contains("db is a virtual machine") && said.contains("`adit trace db`"), "{said}");
    assert!(made["device"].is_string());
}

#[test]
fn a_member_of_the_group_traces_without_being_root() {
    const GROUP: &str = "4242";
    // In a user namespace of one user there is nobody else to be.
    if !std::fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295") {
        return;
    }
    let bed = Bed::new(2);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    std::fs::write(nodes[0].path("group"), format!("root:x:0:\nnogroup:x:65534:\nadit:x:{GROUP}:nobody\n")).unwrap();
    let _daemons = network(&nodes, ["host1", "host2"]);
    let web = attach(nodes[0].host, &directories(nodes[0].directory.path()), "web");
    let other = attach(nodes[1].host, &directories(nodes[1].directory.path()), "other");
    let program = nodes[0].path("adit");
    std::fs::copy(crate::bed::daemon::ADIT, &program).unwrap();
    let trace = |group: &str, arguments: &[&str]| {
        let mut command = nodes[0].command(&[]);
        let mut member = std::process::Command::new("setpriv");
        member.args(["--reuid=65534", "--regid=65534", &format!("--groups={group}"), "--inh-caps=-all"]);
        member.arg(&program).args(["trace", "--count", "1"]).args(arguments);
        member.envs(command.stdin(Stdio::null()).get_envs().filter_map(|(name, value)| Some((name, value?))));
        nodes[0].host.namespace.run(|| member.output()).unwrap().unwrap()
    };
    // By number, by a name of the network, by that of a container of this host, and whether or not it may send echo requests.
    for ping in ["1 0", "0 65535"] {
        nodes[0].host.set(&["net", "ipv4", "ping_group_range"], ping);
        for (to, ip) in [
            (other.ip(false).to_string(), other.ip(false)),
            ("other.host2.adit".into(), other.ip(false)),
            ("web".into(), web.ip(false)),
        ] {
            let told = trace(GROUP, &[&to, "--json"]);
            let traced = Traced::of(&told);
            assert_eq!((traced.answered(), &traced.json["destination"]), (vec![true], &ip.to_string().into()));
            assert_eq!(traced.json["protocol"], if ping == "1 0" { "udp" } else { "icmp" });
        }
    }
    let said = |group: &str, arguments: &[&str]| String::from_utf8(trace(group, arguments).stderr).unwrap();
    let to = other.ip(false).to_string();
    assert!(said(GROUP, &[&to, "--from", "web"]).contains("put `sudo` before the command"));
    assert!(said(GROUP, &[&to, "--tcp", "80"]).contains("only root may send such a packet"));
    assert!(said("65534", &[&to]).contains("as a member of group adit"));
}
