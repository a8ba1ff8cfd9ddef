//! A node's own containers and its daemon: what it tells the programs that make them, what it brings back, what stays when it ends.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use adit::Directories;
use adit::container::{self, FaultKind, Node as Told, Record, Store};
use linux::netlink::Netlink;
use linux::nft::{Family as Table, Nft};

use crate::bed::attached::{Attached, attach, attach_with, directories, try_attach};
use crate::bed::traffic::exchange_tcp;
use crate::bed::{wait_at_most, wait_for};
use crate::world::{Node, REPAIR, World, inside};

fn places(node: &Node<'_>) -> Directories {
    directories(&node.place.path(""))
}

/// Each of them talks to each other, in both families.
fn all_talk(containers: &[&Attached]) {
    for (n, one) in containers.iter().enumerate() {
        for other in &containers[n + 1..] {
            for v6 in [false, true] {
                exchange_tcp(one.end(v6), other.end(v6), 50_000, 30_000);
                exchange_tcp(other.end(v6), one.end(v6), 100, 100);
            }
        }
    }
}

/// Whether the port 8080 of the host leads to the container's port 80.
fn is_published(world: &World, web: &Attached) -> bool {
    let host = &world.host(1).namespace;
    let listener = web.namespace.run(|| TcpListener::bind((web.ip(false), 80))).unwrap().unwrap();
    let own: IpAddr = inside(1, crate::bed::Family::V4, "1");
    let to: SocketAddr = (own, 8080).into();
    host.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1))).unwrap().is_ok() && listener.accept().is_ok()
}

#[test]
fn what_somebody_takes_from_containers_comes_back_within_two_seconds() {
    let world = World::without_containers();
    let [one, two] = world.nodes();
    // Somebody else's, which are to stay as they are.
    let host = world.host(1);
    let foreign = ["add table inet foreign; add chain inet foreign c { type filter hook forward priority 0; }"];
    host.run("nft", &foreign);
    let mut netlink = host.netlink();
    netlink.create_bridge("foreign0", Some([2, 0, 0, 0, 9, 9])).unwrap();
    let index = netlink.existing_link("foreign0").unwrap().index;
    netlink.add_address(index, "198.51.100.1/24".parse().unwrap(), true).unwrap();
    netlink.set_up(index, true).unwrap();
    let before = one.state();
    let (daemon, _two) = (one.start(), two.start());
    let web = attach_with(host, &places(&one), "web", |request| {
        request.ports = container::ports::parse("8080:80").unwrap();
    });
    let other = attach(host, &places(&one), "other");
    let far = attach(world.host(2), &places(&two), "far");
    let all = [&web, &other, &far];
    let talk = || {
        all_talk(&all);
        assert!(is_published(&world, &web));
    };
    wait_for("a bridge that forwards", || {
        (host.run("sysctl", &["-n", "net.ipv4.conf.adit-br0.forwarding"]).trim() == "1").then_some(())
    });
    talk();
    let whole = one.state();
    let veth = web.record.host_interface.as_str();
    let run = |words: &str| {
        let words: Vec<_> = words.split(' ').collect();
        host.run(words[0], &words[1..]);
    };
    let cases: &[&[&str]] = &[
        &["ip link delete adit-br0"],
        &["ip address delete 10.42.1.1/24 dev adit-br0"],
        &["ip address flush dev adit-br0"],
        &["ip link set adit-br0 down"],
        &["ip link set adit-br0 mtu 1280"],
        &["ip address add 10.42.1.77/24 dev adit-br0"],
        &["ip link set VETH nomaster"],
        &["ip link set VETH down"],
        &["nft delete table netdev adit-VETH"],
        &["nft flush table netdev adit-VETH"],
        &["nft delete table inet adit-adit0-ports"],
        &["nft flush table inet adit-adit0-ports"],
        &["sysctl -q -w net.ipv4.conf.adit-br0.forwarding=0"],
        &["ip link delete adit-br0", "ip link delete adit0", "nft delete table inet adit-adit0-ports"],
    ];
    // Linux 6.17 and later have it.
    let by_device = host.namespace.run(|| linux::sysctl::get(&["net", "ipv6", "conf", "adit-br0", "force_forwarding"]));
    let of_ipv6: &[&[&str]] = &[&["sysctl -q -w net.ipv6.conf.adit-br0.force_forwarding=0"]];
    let of_ipv6 = if by_device.unwrap().is_ok() { of_ipv6 } else { &[] };
    for breakage in cases.iter().chain(of_ipv6) {
        breakage.iter().for_each(|words| run(&words.replace("VETH", veth)));
        wait_at_most(REPAIR, &format!("repair after {breakage:?}"), || (one.state() == whole).then_some(()));
        talk();
    }
    run("nft flush ruleset");
    host.run("nft", &foreign);
    wait_at_most(REPAIR, "repair after all packet filters were flushed", || (one.state() == whole).then_some(()));
    talk();
    // What somebody else takes away is somebody else's matter, and a container that goes by itself is not brought back.
    drop(other.namespace);
    wait_for("the end of a device", || {
        host.netlink().link(&other.record.host_interface).unwrap().is_none().then_some(())
    });
    run("ip link delete adit-br0");
    wait_at_most(REPAIR, "the bridge", || is_published(&world, &web).then_some(()));
    exchange_tcp(web.end(false), far.end(false), 100, 100);
    for container in [&web.record.key, &other.record.key] {
        host.namespace.run(|| container::detach(&Store::of(&places(&one), "adit0"), container)).unwrap().unwrap();
    }
    one.run("down", &["--device", "adit0"]);
    daemon.await_end();
    one.check(&before);
}

#[test]
fn what_was_broken_while_no_daemon_ran_is_brought_back_by_the_next() {
    let world = World::without_containers();
    let [one, _] = world.nodes();
    let host = world.host(1);
    let daemon = one.start();
    let [a, b] = ["a", "b"].map(|name| attach(host, &places(&one), name));
    all_talk(&[&a, &b]);
    daemon.crash();
    assert!(Told::read(&places(&one), "adit0").is_ok(), "containers come and go while the daemon is away");
    host.run("ip", &["link", "delete", "adit-br0"]);
    let veth = &b.record.host_interface;
    host.namespace.run(|| Nft::open().unwrap().delete(Table::Netdev, &format!("adit-{veth}")).unwrap()).unwrap();
    let daemon = one.start();
    wait_at_most(REPAIR, "the bridge and the filters", || {
        let node = Told::read(&places(&one), "adit0").unwrap();
        let check = || container::check(&node, &a.record).and_then(|()| container::check(&node, &b.record));
        host.namespace.run(check).unwrap().ok()
    });
    all_talk(&[&a, &b]);
    drop(daemon);
}

#[test]
fn what_was_before_the_host_was_started_gives_its_addresses_back() {
    let world = World::without_containers();
    let [one, _] = world.nodes();
    let host = world.host(1);
    let places = places(&one);
    let daemon = one.start();
    let [old, odd, new] = ["old", "odd", "new"].map(|name| attach(host, &places, name));
    daemon.crash();
    // A container that ended has no device any more; one that has is of this boot, whatever the clock said.
    let store = Store::of(&places, "adit0");
    for record in [&old.record, &odd.record] {
        store.lock().unwrap().put(&Record { created: 1, ..record.clone() }).unwrap();
    }
    for gone in [old, new] {
        drop(gone.namespace);
        let device = gone.record.host_interface;
        wait_for("the end of a device", || host.netlink().link(&device).unwrap().is_none().then_some(()));
    }
    let _daemon = one.start();
    let names = || store.read_all().unwrap().iter().map(Record::title).collect::<Vec<_>>();
    wait_for("the end of two records", || (names() == ["odd"]).then_some(()));
    wait_for("the log", || one.log().contains("their addresses are free: old, new").then_some(()));
    exchange_tcp(odd.end(false), attach(host, &places, "next").end(false), 100, 100);
}

#[test]
fn a_program_that_holds_the_lock_holds_nobody_else_up() {
    let world = World::without_containers();
    let [one, _] = world.nodes();
    let host = world.host(1);
    let daemon = one.start();
    let container = attach(host, &places(&one), "a");
    let store = Store::of(&places(&one), "adit0");
    let locked = store.lock().unwrap();
    host.run("ip", &["link", "delete", "adit-br0"]);
    // It goes on repairing what is its own.
    host.run("nft", &["delete", "table", "inet", "adit-adit0"]);
    wait_at_most(REPAIR, "its own packet filters", || {
        Nft::open_in(&host.namespace).unwrap().exists(Table::Inet, "adit-adit0").unwrap().then_some(())
    });
    assert!(host.netlink().link("adit-br0").unwrap().is_none());
    drop(locked);
    wait_at_most(REPAIR, "the bridge", || host.netlink().link("adit-br0").unwrap().map(drop));
    drop((daemon, container));
}

#[test]
fn down_leaves_containers_on_their_bridge_and_purge_unplugs_them() {
    let world = World::without_containers();
    let [one, two] = world.nodes();
    let host = world.host(1);
    let before = one.state();
    let _two = two.start();
    let far = attach(world.host(2), &places(&two), "far");
    for running in [true, false] {
        let daemon = one.start();
        let [a, b] = ["a", "b"].map(|name| attach(host, &places(&one), name));
        all_talk(&[&a, &b, &far]);
        let told = one.place.path("run/adit0.node");
        if running {
            one.run("down", &[]);
            daemon.await_end();
        } else {
            daemon.terminate();
            assert!(told.exists());
            one.run("down", &[]);
        }
        assert!(!told.exists());
        all_talk(&[&a, &b]);
        let refused = try_attach(host, &places(&one), "c", |_| ()).err().unwrap();
        assert!(refused.kind == FaultKind::NotReady && refused.sentence.contains("adit up"), "{refused}");
        // It comes back, and so do they.
        let daemon = one.start();
        all_talk(&[&a, &b, &far]);
        let said = if running {
            let said = one.run("down", &["--purge"]);
            daemon.await_end();
            said
        } else {
            daemon.terminate();
            one.run("down", &["--purge"])
        };
        assert!(said.contains("2 containers unplugged from the network"), "{said}");
        one.check(&before);
        assert_eq!(one.place.leftovers(), [""; 0]);
        let inside = Netlink::open_in(&a.namespace).unwrap().links().unwrap();
        assert_eq!(inside.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
    }
    // A bridge that nothing hangs on goes with the node; another's stays.
    for ours in [true, false] {
        let daemon = one.start();
        let container = attach(host, &places(&one), "a");
        let file = fs::read_dir(one.place.path("state/adit0.containers")).unwrap().map(|entry| entry.unwrap().path());
        for path in file.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            fs::remove_file(path).unwrap();
        }
        drop(container.namespace);
        wait_for("the end of a device", || {
            host.netlink().link(&container.record.host_interface).unwrap().is_none().then_some(())
        });
        if !ours {
            host.run("ip", &["link", "set", "adit-br0", "alias", "mine"]);
        }
        one.run("down", &[]);
        daemon.await_end();
        assert_eq!(host.netlink().link("adit-br0").unwrap().is_none(), ours);
    }
}
