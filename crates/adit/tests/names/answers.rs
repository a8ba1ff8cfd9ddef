//! What is answered to those who may ask.

use std::fs;
use std::process::Command;
use std::time::Duration;

use adit::resolver::message::{A, AAAA, ANY, NO_ERROR, NO_NAME, PTR, SERVER_FAILURE};
use adit::resolver::name::Name;

use crate::bed::{Bed, wait_for};
use crate::scene::{Guest, Server, address, ask, ask_by_tcp, await_resolver, device_of, network, timed};
use crate::world::Node;

fn nodes(bed: &Bed) -> Vec<Node<'_>> {
    bed.hosts.iter().map(Node::new).collect()
}

#[test]
fn nodes_and_containers_have_names_everywhere() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let daemons = network(&nodes, &["--ipv6-network", "fd42::/48"], &[]);
    let [web, other] = [Guest::attach(&nodes[0], "web"), Guest::attach(&nodes[1], "Web")];
    let plain = Guest::attach(&nodes[0], "");
    let data = |data: &[String]| (NO_ERROR, data.to_vec());
    let empty = data(&[]);
    // The first packet to another node may wait for a handshake.
    web.await_address("web.host2.adit", other.ip(false));
    for (guest, here, there) in [(&web, &web, &other), (&other, &other, &web), (&plain, &web, &other)] {
        let (near, far) = if std::ptr::eq(guest, &raw const other) { ("host2", "host1") } else { ("host1", "host2") };
        for (name, at) in [(near, here), (far, there)] {
            let name = format!("web.{name}.adit");
            assert_eq!(guest.ask(&name, A), data(&[at.ip(false).to_string()]));
            assert_eq!(guest.ask(&name, AAAA), data(&[at.ip(true).to_string()]));
            assert_eq!(guest.ask(&name, ANY), data(&[at.ip(false).to_string()]));
            assert_eq!(guest.ask(&name, 16), empty, "there is such a name, without text");
            for v6 in [false, true] {
                assert_eq!(guest.ask(&Name::of_address(at.ip(v6)).to_string(), PTR), data(std::slice::from_ref(&name)));
            }
        }
        for host in [near, far] {
            assert_eq!(guest.ask(&format!("none.{host}.adit"), A), (NO_NAME, Vec::new()));
        }
    }
    assert_eq!(web.ask("none.adit", A).0, NO_NAME);
    assert_eq!(web.ask("adit", A), empty);
    let nameless = Name::of_address(plain.ip(false)).to_string();
    assert_eq!(web.ask(&nameless, PTR).0, NO_NAME);
    assert_eq!(other.ask(&nameless, PTR).0, NO_NAME);
    for daemon in &daemons {
        let device = device_of(daemon);
        let host = format!("host{}.adit", daemon.node.host.number);
        assert_eq!(web.ask(&host, A), data(&[device.to_string()]));
        assert_eq!(other.ask(&Name::of_address(device).to_string(), PTR), data(&[host]));
    }
    // By both families, by TCP, and by the host itself at each of its addresses.
    for resolver in &web.resolvers {
        let expected = Some(data(&[other.ip(true).to_string()]));
        assert_eq!(ask(&web.namespace, *resolver, "web.host2.adit", AAAA), expected);
        assert_eq!(ask_by_tcp(&web.namespace, *resolver, "web.host2.adit", AAAA), expected);
        assert_eq!(ask(&nodes[0].host.namespace, *resolver, "web.host2.adit", AAAA), expected);
    }
    let device = device_of(&daemons[0]);
    assert_eq!(ask(&nodes[0].host.namespace, device, "web.host2.adit", A), Some(data(&[other.ip(false).to_string()])));
    // As others see it: flags, sections, and what a program makes of it.
    let server = format!("@{}", web.resolvers[0]);
    let dig = |arguments: &[&str]| {
        let run = || Command::new("dig").args([&server, "+time=5", "+tries=1"]).args(arguments).output();
        String::from_utf8(web.namespace.run(run).unwrap().unwrap().stdout).unwrap()
    };
    let said = dig(&["web.host2.adit", "A"]);
    assert!(said.contains("status: NOERROR") && said.contains("flags: qr aa rd ra;"), "{said}");
    assert!(said.contains(&format!("web.host2.adit.\t\t5\tIN\tA\t{}", other.ip(false))), "{said}");
    assert!(!said.contains("WARNING") && said.contains("EDNS: version: 0"), "{said}");
    let said = dig(&["-x", &other.ip(true).to_string(), "+short"]);
    assert_eq!(said.trim(), "web.host2.adit.");
    assert!(dig(&["+edns=1", "+noednsnegotiation", "web.host2.adit"]).contains("status: BADVERS"));
    assert!(dig(&["adit", "AXFR"]).contains("Transfer failed"));
}

#[test]
fn names_follow_containers_as_they_come_and_go() {
    let bed = Bed::new(1);
    let nodes = nodes(&bed);
    let daemons = network(&nodes, &[], &[]);
    await_resolver(nodes[0].host, &daemons[0]);
    assert!(nodes[0].host.netlink().link("adit-br0").unwrap().is_none(), "the host is answered without containers");
    let asker = Guest::attach(&nodes[0], "asker");
    assert_eq!(asker.ask("web.host1.adit", A).0, NO_NAME);
    for _ in 0..10 {
        // What is attached has its name when that is said, and none when it is gone.
        let web = Guest::attach(&nodes[0], "web");
        assert_eq!(asker.ask("web.host1.adit", A), (NO_ERROR, vec![web.ip(false).to_string()]));
        web.detach();
        assert_eq!(asker.ask("web.host1.adit", A).0, NO_NAME);
    }
    // The bridge goes with the last of them, and comes again.
    let resolver = asker.resolvers[0];
    asker.detach();
    let again = Guest::attach(&nodes[0], "again");
    assert_eq!(again.resolvers[0], resolver);
    assert_eq!(again.ask("again.host1.adit", A), (NO_ERROR, vec![again.ip(false).to_string()]));
}

#[test]
fn a_node_that_is_dead_is_told_of_soon_and_found_when_it_is_back() {
    let bed = Bed::new(2);
    let nodes = nodes(&bed);
    let mut daemons = network(&nodes, &[], &[]);
    let [web, other] = [Guest::attach(&nodes[0], "web"), Guest::attach(&nodes[1], "web")];
    web.await_address("web.host2.adit", other.ip(false));
    daemons.pop().unwrap().crash();
    for name in ["web.host2.adit".to_owned(), Name::of_address(other.ip(false)).to_string()] {
        let (answer, took) = timed(|| web.ask(&name, A));
        assert_eq!(answer.0, SERVER_FAILURE);
        eprintln!("a dead node is told of after {took:.1?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let (answer, took) = timed(|| web.ask("web.host1.adit", A));
    assert_eq!(answer, (NO_ERROR, vec![web.ip(false).to_string()]));
    assert!(took < Duration::from_millis(500), "{took:?}");
    let _again = nodes[1].up();
    web.await_address("web.host2.adit", other.ip(false));
}

#[test]
fn names_can_be_renamed_and_switched_off() {
    let bed = Bed::new(1);
    let nodes = nodes(&bed);
    let daemons = network(&nodes, &[], &[]);
    let web = Guest::attach(&nodes[0], "web");
    web.await_address("web.host1.adit", web.ip(false));
    let text = fs::read_to_string(nodes[0].file()).unwrap();
    let reload = |line: &str| {
        fs::write(nodes[0].file(), format!("{text}{line}\n")).unwrap();
        nodes[0].adit(&["reload", "--config", &nodes[0].file()]);
    };
    reload("domain = \"corp.example\"");
    web.await_address("web.host1.corp.example", web.ip(false));
    reload("domain = \"\"");
    wait_for("nobody who answers", || {
        ask(&web.namespace, web.resolvers[0], "web.host1.adit", A).is_none().then_some(())
    });
    reload("");
    web.await_address("web.host1.adit", web.ip(false));
    assert_eq!(daemons[0].network().problems, Vec::<String>::new());
}

#[test]
fn who_listens_there_already_is_named_and_names_are_answered_when_it_is_gone() {
    let bed = Bed::new(1);
    let nodes = nodes(&bed);
    let everywhere = "0.0.0.0".parse().unwrap();
    let script = |query: &adit::resolver::message::Query, _: bool| {
        vec![query.answer(NO_ERROR, true, &[address("192.0.2.99")], 512)]
    };
    let squatter = Server::new(&nodes[0].host.namespace, everywhere, std::sync::Arc::new(script));
    let daemons = network(&nodes, &[], &[]);
    let problem = daemons[0].await_problem("names are not answered at ");
    assert!(problem.contains("Address already in use") && problem.contains("sport = 53"), "{problem}");
    assert!(nodes[0].adit(&["status"]).contains("names are not answered"));
    let web = Guest::attach(&nodes[0], "web");
    assert_eq!(web.ask("web.host1.adit", A).1, ["192.0.2.99"]);
    drop(squatter);
    web.await_address("web.host1.adit", web.ip(false));
    wait_for("no problem any more", || daemons[0].network().problems.is_empty().then_some(()));
}

#[test]
fn the_thread_may_bind_low_ports_and_nothing_else() {
    let bed = Bed::new(1);
    let nodes = nodes(&bed);
    let daemons = network(&nodes, &[], &[]);
    await_resolver(nodes[0].host, &daemons[0]);
    let mut seen = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", daemons[0].child.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let find = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        let held = ["CapPrm:", "CapEff:"].map(|key| u64::from_str_radix(&find(key), 16).unwrap());
        seen.push((find("Name:"), held));
    }
    let names: Vec<_> = seen.iter().filter(|(name, _)| name == "names").collect();
    assert_eq!(names.len(), 1, "{seen:?}");
    assert_eq!(names[0].1, [1 << 10; 2], "CAP_NET_BIND_SERVICE: {seen:?}");
    let others = seen.iter().filter(|(name, _)| name != "names");
    assert!(
        others.clone().count() > 3 && others.clone().all(|(_, held)| held.iter().all(|held| held & !(1 << 12) == 0)),
        "{seen:?}"
    );
}
