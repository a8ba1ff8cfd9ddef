//! A virtual machine on a node of a network is as a container.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Instant;

use etherparse::PacketBuilder;
use linux::netns::NetNs;
use linux::nft::Family as Table;
use serde_json::Value;
use wire::vnet::VnetHdr;

use crate::bed::daemon::ADIT;
use crate::bed::sniffer::{Sniffer, contains};
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, packet, wait_for};
use crate::nodes::{self, network};
use crate::played::{self, Machine, mac};
use crate::world::{FIRST, GATEWAY, Program, World};

fn card(program: &Program<'_>, arguments: &[&str]) -> Value {
    serde_json::from_str(&program.succeeds(&[&["vm-tap"], arguments, &["--json"]].concat())).unwrap()
}

fn is_there(program: &Program<'_>, card: &Value) -> bool {
    let mut netlink = program.host.netlink();
    let Some(link) = netlink.link(card["device"].as_str().unwrap()).unwrap() else { return false };
    let bridge = netlink.link(card["bridge"].as_str().unwrap()).unwrap().map(|bridge| bridge.index);
    link.up && link.controller.is_some() && link.controller == bridge && u64::from(link.mtu) == card["mtu"]
}

#[test]
fn a_card_is_made_listed_made_again_and_deleted() {
    let world = World::new();
    let program = world.program();
    let text = program.succeeds(&["vm-tap", "db"]);
    let first = card(&program, &["db"]);
    assert_eq!(first["addresses"][0], format!("{FIRST}/24"));
    assert_eq!((&first["gateways"][0], &first["names"][0]), (&GATEWAY.into(), &"db.berlin.adit".into()));
    assert_eq!((&first["owner"], &first["queues"], &first["mtu"]), (&"root".into(), &1.into(), &1420.into()));
    for word in [first["qemu"].as_str().unwrap(), first["device"].as_str().unwrap(), "db.berlin.adit", GATEWAY] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(is_there(&program, &first));
    assert_eq!(program.listed()[0]["door"], "vm");
    assert_eq!(program.listed()[0]["interface"], first["device"]);
    assert!(program.succeeds(&["ps"]).lines().any(|line| line.starts_with("db    vm    10.42.7.2 ")));
    // Whatever is gone of it comes back, and the address is the same.
    let device = first["device"].as_str().unwrap();
    for command in [
        &["link", "delete", device][..],
        &["link", "set", device, "nomaster"],
        &["link", "set", device, "down"],
        &["link", "delete", "adit-br0"],
    ] {
        program.host.run("ip", command);
        assert!(!is_there(&program, &first), "{command:?}");
        assert_eq!(card(&program, &["db"]), first, "{command:?}");
        assert!(is_there(&program, &first), "{command:?}");
    }
    let second = card(&program, &["web"]);
    assert_ne!(
        (&second["device"], &second["mac"], &second["addresses"]),
        (&first["device"], &first["mac"], &first["addresses"])
    );
    let said = program.succeeds(&["vm-tap", "db", "--delete"]);
    assert!(said.contains("db is deleted") && said.contains(FIRST), "{said}");
    assert!(program.fails(1, &["vm-tap", "db", "--delete"]).contains("there is no virtual machine db"));
    program.succeeds(&["vm-tap", "web", "--delete"]);
    world.is_clean();
}

#[test]
fn a_card_has_the_mtu_of_its_bridge() {
    let world = World::new();
    let program = world.program();
    let [db, _] = ["db", "web"].map(|name| card(&program, &[name]));
    let file = program.path("run/adit0.node");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"mtu\":1420", "\"mtu\":1440")).unwrap();
    // Beside others it keeps what they have; alone it gets what the device has by now.
    assert_eq!(card(&program, &["db"]), db);
    program.succeeds(&["vm-tap", "web", "--delete"]);
    let alone = card(&program, &["db"]);
    assert_eq!(alone["mtu"], 1440);
    assert!(is_there(&program, &alone));
    program.succeeds(&["vm-tap", "db", "--delete"]);
    world.is_clean();
}

#[test]
fn who_is_killed_half_way_is_followed_by_one_who_mends_it() {
    let world = World::new();
    let program = world.program();
    let begin = Instant::now();
    let usual = card(&program, &["first"]);
    let (life, mut random, mut killed) = (begin.elapsed(), packet::Random::new(5), 0);
    let names: Vec<String> = (0..24).map(|number| format!("db{number}")).collect();
    for name in &names {
        let mut running = program.start(program.command(ADIT, &["vm-tap", name]).stdout(Stdio::null()));
        // Not a wait for anything to happen: where in its work it is hit is what is drawn.
        std::thread::sleep(life.mul_f64(random.below(1000) as f64 / 1000.0));
        running.child.kill().unwrap();
        killed += usize::from(running.child.wait().unwrap().code().is_none());
    }
    assert!(killed > 0, "none was hit in its work");
    // Whatever stage it was left in, the next one makes it whole, and no address is two machines'.
    let mut addresses = vec![usual["addresses"].to_string()];
    for name in &names {
        let made = card(&program, &[name]);
        assert!(is_there(&program, &made), "{made}");
        addresses.push(made["addresses"].to_string());
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), names.len() + 1);
    for name in names.iter().map(String::as_str).chain(["first"]) {
        program.succeeds(&["vm-tap", name, "--delete"]);
    }
    world.is_clean();
}

#[test]
fn a_card_of_several_queues_is_one_and_other_options_are_refused() {
    let world = World::new();
    let program = world.program();
    let made = card(&program, &["db", "--queues", "4", "--owner", "0"]);
    assert!(
        made["qemu"].as_str().unwrap().contains(",queues=4") && made["qemu"].as_str().unwrap().contains("vectors=10")
    );
    assert_eq!(card(&program, &["db"]), made, "what is left out is as it is");
    let said = program.fails(1, &["vm-tap", "db", "--queues", "2"]);
    assert!(said.contains("has 4 queues") && said.contains("adit vm-tap db --delete"), "{said}");
    let name = made["device"].as_str().unwrap();
    let options = linux::tun::Options { layer: linux::tun::Layer::Frames, queues: 4, ..linux::tun::Options::new(name) };
    let four = program.host.namespace.run(|| linux::tun::Device::open(options)).unwrap().unwrap();
    assert_eq!(four.queues.len(), 4);
    program.succeeds(&["vm-tap", "db", "--delete"]);
    world.is_clean();
}

#[test]
fn nobody_but_its_owner_opens_a_card() {
    let world = World::new();
    let program = world.program();
    let of_root = card(&program, &["root"]);
    assert!(played::opens_as(program.host, 0, &of_root));
    if played::there_are_others() {
        assert!(!played::opens_as(program.host, 65_534, &of_root), "a device without an owner is everybody's");
        let of_another = card(&program, &["another", "--owner", "nobody"]);
        assert_eq!(of_another["owner"], "nobody");
        assert!(played::opens_as(program.host, 65_534, &of_another));
        assert!(!played::opens_as(program.host, 65_533, &of_another));
        assert!(!played::opens_as(program.host, 0, &of_another), "without rights root is one of many");
        let said = program.fails(1, &["vm-tap", "another", "--owner", "root"]);
        assert!(said.contains("has another owner, nobody"), "{said}");
    }
}

#[test]
fn what_it_sends_is_held_to_its_addresses() {
    let world = World::new();
    let program = world.program();
    let card = card(&program, &["db"]);
    let device = played::open(program.host, &card);
    let mut bridge = Sniffer::open(&program.host.namespace, "adit-br0");
    let (own, gateway) = (mac(&card), program.host.netlink().existing_link("adit-br0").unwrap().mac.unwrap());
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
    let to = at(GATEWAY);
    let mut other = own;
    other[5] ^= 1;
    let six = played::strings(&card["addresses"])[1].split('/').next().unwrap().to_owned();
    let frame6 = |payload: &[u8], from: &str| {
        let [from, to]: [std::net::Ipv6Addr; 2] = [from, "fd42:0:0:7::1"].map(|ip| ip.parse().unwrap());
        let builder = PacketBuilder::ethernet2(own, gateway).ipv6(from.octets(), to.octets(), 64).udp(9, 9);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    };
    for frame in [
        packet::frame((other, gateway), at(FIRST), to, b"FOREIGN"),
        packet::frame((own, gateway), at("10.42.7.77"), to, b"FOREIGN"),
        packet::frame((own, gateway), at("192.0.2.9"), to, b"FOREIGN"),
        frame6(b"FOREIGN", "fd42:0:0:7::77"),
        crate::lans::strange(own, gateway, b"FOREIGN"),
        frame6(packet::MARK, &six),
        packet::frame((own, gateway), at(FIRST), to, packet::MARK),
    ] {
        device.queues[0].send(&VnetHdr::NONE, &frame).unwrap();
    }
    for v4 in [false, true] {
        bridge.find("what it may send", |_, bytes| {
            assert!(!contains(bytes, b"FOREIGN"), "{bytes:02x?}");
            (contains(bytes, packet::MARK) && (bytes.get(12) == Some(&8)) == v4).then_some(())
        });
    }
    let table = adit::container::filters::table(card["device"].as_str().unwrap());
    let mut nft = program.host.namespace.run(linux::nft::Nft::open).unwrap().unwrap();
    assert!(!nft.rules(Table::Netdev, &table).unwrap().is_empty());
}

#[test]
fn a_machine_and_a_container_of_another_host_reach_each_other_and_the_daemon_keeps_its_card() {
    let bed = Bed::new(2);
    let hosts: Vec<nodes::Node<'_>> = bed.hosts.iter().map(nodes::Node::new).collect();
    let mut daemons = network(&hosts, &["--network", "10.42.0.0/16", "--ipv6-network", "fd42::/48"]);
    let programs: Vec<_> =
        hosts.iter().map(|node| Program { host: node.host, directory: node.directory.path() }).collect();
    let running = programs[1].container("web", &[], "echo ready; read x");
    let record = programs[1].record("web");
    let container = NetNs::open(record.netns.as_ref().unwrap()).unwrap();
    let made = card(&programs[0], &["db"]);
    let exchange = |machine: &Machine| {
        for net in &record.addresses {
            let (ours, theirs) = (machine.end(net.addr().is_ipv6()), End::new(&container, net.addr()));
            exchange_tcp(ours, theirs, 500_000, 300_000);
            exchange_tcp(theirs, ours, 300_000, 500_000);
        }
    };
    let machine = Machine::start(programs[0].host, &made);
    exchange(&machine);
    let addresses: Vec<String> = machine.addresses.iter().map(ToString::to_string).collect();
    wait_for("the name of the machine", || {
        let found = programs[1].adit(&["exec", "web", "--", "getent", "ahosts", "db.host1.adit"]).stdout;
        let found = String::from_utf8(found).unwrap();
        addresses.iter().all(|address| found.contains(address.as_str())).then_some(())
    });
    let status = adit::api::status(&hosts[0].path("run"), "adit0").unwrap();
    let listed = &status.network.unwrap().containers[0];
    assert_eq!((listed.name.as_str(), listed.door.as_str()), ("db", "vm"));
    // The card outlives the daemon, and the machine notices nothing of its restart.
    daemons.remove(0).crash();
    assert!(is_there(&programs[0], &made));
    daemons.insert(0, hosts[0].up());
    daemons[0].await_nodes(1);
    exchange(&machine);
    drop(machine);
    // Somebody deletes the card, or takes it out: it is back, with its filters.
    let device = made["device"].as_str().unwrap();
    for command in [&["link", "delete", device][..], &["link", "set", device, "nomaster"]] {
        programs[0].host.run("ip", command);
        wait_for("the card", || is_there(&programs[0], &made).then_some(()));
    }
    let machine = Machine::start(programs[0].host, &made);
    exchange(&machine);
    drop(machine);
    running.stop();
    let said = hosts[0].adit(&["down", "--purge"]);
    assert!(said.contains("1 virtual machine unplugged from the network"), "{said}");
    assert!(programs[0].host.netlink().link(device).unwrap().is_none());
    assert!(programs[0].host.netlink().link("adit-br0").unwrap().is_none());
}
