//! The device and its bridge: made, used, mended, removed; and what is refused.

use std::process::Command;

use crate::bed::daemon::{Configuration, Daemon};
use crate::bed::traffic::{connection, exchange_over, exchange_tcp};
use crate::bed::{Family, wait_for};
use crate::world::{World, await_sessions, strange};

fn controller(world: &World, host: usize, device: &str) -> Option<String> {
    let mut netlink = world.host(host).netlink();
    let index = netlink.link(device).unwrap()?.controller?;
    netlink.link_by_index(index).unwrap().map(|link| link.name)
}

#[test]
fn a_bridge_of_ours_has_the_addresses_and_goes_with_us() {
    let world =
        World::new(2, |number, end| end.addresses = vec![format!("10.88.0.{number}/24"), format!("fd88::{number}/64")]);
    let before = world.host(1).state();
    let mut daemons = world.start();
    let end = |number: usize, family| {
        let ip = match family {
            Family::V4 => format!("10.88.0.{number}"),
            Family::V6 => format!("fd88::{number}"),
        };
        crate::bed::traffic::End::new(&world.host(number).namespace, ip.parse().unwrap())
    };
    for family in [Family::V4, Family::V6] {
        exchange_tcp(end(1, family), end(2, family), 300_001, 300_003);
    }
    assert_eq!(controller(&world, 1, "adit0").as_deref(), Some("br0"));
    let mac = world.host(1).netlink().existing_link("br0").unwrap().mac;
    // Somebody takes the port out, then the whole bridge away: both come back.
    world.host(1).run("ip", &["link", "set", "adit0", "nomaster"]);
    wait_for("the port", || (controller(&world, 1, "adit0").as_deref() == Some("br0")).then_some(()));
    world.host(1).run("ip", &["link", "delete", "br0"]);
    wait_for("the bridge", || (controller(&world, 1, "adit0").as_deref() == Some("br0")).then_some(()));
    assert_eq!(world.host(1).netlink().existing_link("br0").unwrap().mac, mac, "it is known by the same address");
    exchange_tcp(end(1, Family::V4), end(2, Family::V4), 1000, 1000);
    // A crash leaves both, and the next one takes them over.
    daemons.remove(0).crash();
    assert_eq!(controller(&world, 1, "adit0").as_deref(), Some("br0"));
    let again = world.places[0].start();
    await_sessions(&again);
    exchange_tcp(end(1, Family::V4), end(2, Family::V4), 1000, 1000);
    again.terminate();
    assert_eq!(world.host(1).state(), before);
    assert!(
        world.places[0].leftovers().iter().all(|name| name.ends_with(".mark")),
        "{:?}",
        world.places[0].leftovers()
    );
}

#[test]
fn a_bridge_that_others_use_stays_and_one_of_others_is_only_joined() {
    let world = World::new(2, |_, _| {});
    world.host(2).run("ip", &["link", "add", "br0", "type", "bridge"]);
    world.host(2).run("ip", &["address", "add", "192.0.2.77/32", "dev", "br0"]);
    // Else the kernel gives it an address, which becomes usable while we look.
    world.host(2).run("ip", &["link", "set", "br0", "addrgenmode", "none"]);
    world.host(2).run("ip", &["link", "set", "br0", "up"]);
    let foreign = world.host(2).state();
    let daemons = world.start();
    assert_eq!(controller(&world, 2, "adit0").as_deref(), Some("br0"));
    let machine = world.machine(1, 1);
    for daemon in daemons {
        daemon.terminate();
    }
    assert_eq!(world.host(2).state(), foreign);
    assert!(world.host(1).netlink().link("br0").unwrap().is_some(), "a machine is plugged into it");
    drop(machine);
}

#[test]
fn a_bridge_with_somebody_elses_port_is_ours_at_the_next_start_too() {
    let world = World::new(2, |number, end| {
        if number == 1 {
            end.addresses = vec!["10.88.0.101/24".into()];
        }
    });
    let before = world.host(1).state();
    let [daemon, _other] = start_both(&world);
    let machine = world.machine(1, 1);
    daemon.terminate();
    let mut netlink = world.host(1).netlink();
    assert!(netlink.link("br0").unwrap().is_some() && netlink.link("adit0").unwrap().is_none());
    // Once with its address, as it was, and once without.
    let daemon = world.places[0].start();
    assert_eq!(addresses(&world, 1), ["10.88.0.101/24"]);
    daemon.terminate();
    let mut end = world.ends[0].clone();
    end.addresses.clear();
    world.places[0].configure(&end);
    let daemon = world.places[0].start();
    assert_eq!((addresses(&world, 1), controller(&world, 1, "adit0").as_deref()), (vec![], Some("br0")));
    world.host(1).run("ip", &["link", "delete", "m1"]);
    drop(machine);
    daemon.terminate();
    assert_eq!(world.host(1).state(), before, "it goes with us when nobody is left on it");
}

#[test]
fn a_bridge_that_somebody_put_in_the_place_of_ours_is_his() {
    let world = World::new(2, |number, end| {
        if number == 1 {
            end.addresses = vec!["10.88.0.101/24".into()];
        }
    });
    let host = world.host(1);
    let another = || {
        host.run("ip", &["link", "add", "br0", "type", "bridge"]);
        host.run("ip", &["address", "add", "172.16.5.1/24", "dev", "br0"]);
        host.run("ip", &["link", "set", "br0", "up"]);
    };
    let [daemon, _other] = start_both(&world);
    assert_eq!(addresses(&world, 1), ["10.88.0.101/24"]);
    host.run(
        "sh",
        &["-c", "ip link delete br0 && ip link add br0 type bridge && ip address add 172.16.5.1/24 dev br0"],
    );
    wait_for("the port", || (controller(&world, 1, "adit0").as_deref() == Some("br0")).then_some(()));
    wait_for("a word about it", || daemon.log().contains("the bridge br0 is not adit's").then_some(()));
    assert_eq!(addresses(&world, 1), ["172.16.5.1/24"]);
    daemon.terminate();
    assert_eq!(addresses(&world, 1), ["172.16.5.1/24"], "it is there still");
    // The same where we were killed, and the host was started anew since.
    host.run("ip", &["link", "delete", "br0"]);
    world.places[0].start().crash();
    host.run("ip", &["link", "delete", "br0"]);
    host.run("ip", &["link", "delete", "adit0"]);
    another();
    let mut end = world.ends[0].clone();
    end.addresses.clear();
    world.places[0].configure(&end);
    let daemon = world.places[0].start();
    assert_eq!(controller(&world, 1, "adit0").as_deref(), Some("br0"));
    assert_eq!(addresses(&world, 1), ["172.16.5.1/24"]);
    // Whoever takes it away makes it again, and finds its name free; it is joined then.
    host.run("ip", &["link", "delete", "br0"]);
    wait_for("a word about it", || daemon.log().contains("the bridge br0 is gone").then_some(()));
    another();
    wait_for("the port", || (controller(&world, 1, "adit0").as_deref() == Some("br0")).then_some(()));
    daemon.terminate();
    assert_eq!(addresses(&world, 1), ["172.16.5.1/24"]);
}

#[test]
fn a_bridge_of_another_name_is_removed_after_a_crash() {
    let world = World::new(2, |_, _| ());
    let [daemon, _other] = start_both(&world);
    daemon.crash();
    let mut end = world.ends[0].clone();
    end.device_lines = end.device_lines.replace("br0", "br1");
    world.places[0].configure(&end);
    let _daemon = world.places[0].start();
    assert_eq!(controller(&world, 1, "adit0").as_deref(), Some("br1"));
    assert!(world.host(1).netlink().link("br0").unwrap().is_none());
}

/// Two daemons, with something to say to each other.
fn start_both(world: &World) -> [Daemon<'_>; 2] {
    let daemons = world.start();
    let [here, there] = [world.card(1, 8), world.card(2, 9)];
    let frame = strange(here.mac, there.mac, &[7; 100]);
    here.send(&frame);
    there.await_frame("a frame", &frame);
    daemons.try_into().unwrap_or_else(|_| unreachable!())
}

/// The IPv4 addresses of a host's bridge.
fn addresses(world: &World, host: usize) -> Vec<String> {
    let mut netlink = world.host(host).netlink();
    let index = netlink.existing_link("br0").unwrap().index;
    let all = netlink.addresses(Some(index)).unwrap().into_iter().map(|address| address.net.to_string());
    all.filter(|net| net.contains('.')).collect()
}

#[test]
fn peers_addresses_and_sizes_change_while_frames_pass() {
    let world = World::new(3, |number, end| {
        if number == 1 {
            end.addresses = vec!["10.88.0.101/24".into()];
        }
    });
    // That of the second host is somebody else's.
    world.host(2).run("ip", &["link", "add", "br0", "type", "bridge"]);
    world.host(2).run("ip", &["link", "set", "br0", "up"]);
    let mut daemons = world.start();
    let [here, there] = [world.machine(1, 1), world.machine(2, 2)];
    let (client, server) = connection(here.end(Family::V4), there.end(Family::V4));
    let passes = || exchange_over((&client, &server), &[1; 100_000], &[2; 100_000]);
    passes();
    let reload = |number: usize, change: &dyn Fn(&mut Configuration)| {
        let mut end = world.ends[number - 1].clone();
        change(&mut end);
        world.places[number - 1].configure(&end);
        let said = daemons[number - 1].reload();
        assert_eq!(controller(&world, number, "adit0").as_deref(), Some("br0"), "{said}");
        passes();
        said
    };
    for number in [1, 2] {
        for other in ["host3", if number == 1 { "host2" } else { "host1" }] {
            if other != "host3" {
                // The stream waits meanwhile.
                let mut end = world.ends[number - 1].clone();
                end.peers.retain(|peer| peer.name != other);
                world.places[number - 1].configure(&end);
                assert_eq!(daemons[number - 1].reload(), "1 peer removed");
            } else {
                assert_eq!(reload(number, &|end| end.peers.retain(|peer| peer.name != other)), "1 peer removed");
            }
            assert_eq!(reload(number, &|_| ()), "1 peer added");
        }
    }
    // A way that was made by a reload takes what one of the start does: 1426 bytes in a frame.
    let to = there.ip(Family::V4).to_string();
    let ping = |size: &str| {
        let ping = || {
            Command::new("ping").args(["-c1", "-W1", "-M", "do", "-s", size, &to]).output().unwrap().status.success()
        };
        here.namespace.run(ping).unwrap()
    };
    wait_for("a large packet", || ping("1398").then_some(()));
    assert_eq!(addresses(&world, 1), ["10.88.0.101/24"]);
    reload(1, &|end| end.addresses = vec!["10.88.0.102/24".into()]);
    assert_eq!(addresses(&world, 1), ["10.88.0.102/24"]);
    reload(1, &|end| {
        end.addresses = vec!["10.88.0.102/24".into()];
        end.device_lines += "mtu = 1300\n";
    });
    assert_eq!(world.host(1).netlink().existing_link("adit0").unwrap().mtu, 1300);
    // A bridge of others gets no addresses by the back door either, and all stays as it was.
    let mut end = world.ends[1].clone();
    end.addresses = vec!["10.88.0.9/24".into()];
    world.places[1].configure(&end);
    let path = adit::api::control_socket(&world.places[1].runtime(), "adit0");
    let answer = adit::api::call_within(&path, adit::api::Request::Reload, crate::bed::PATIENCE);
    assert!(
        matches!(&answer, Ok(adit::api::Response::Error { sentence } | adit::api::Response::Fault { sentence }) if sentence.contains("is not adit's")),
        "{answer:?}"
    );
    passes();
    // It goes without taking the other's bridge along.
    daemons.remove(1).terminate();
    assert!(world.host(2).netlink().link("br0").unwrap().is_some());
    assert!(world.host(2).netlink().link("adit0").unwrap().is_none());
}

#[test]
fn a_card_without_a_bridge_is_a_card() {
    let world = World::new(2, |number, end| {
        end.device_lines = "mode = \"tap\"\n".into();
        end.addresses = vec![format!("10.77.0.{number}/24"), format!("fd77::{number}/64")];
    });
    let _daemons = world.start();
    for family in [Family::V4, Family::V6] {
        let end = |number: usize| {
            crate::bed::traffic::End::new(&world.host(number).namespace, world.host(number).inner(family))
        };
        exchange_tcp(end(1), end(2), 1_000_001, 1_000_003);
    }
    let link = world.host(1).netlink().existing_link("adit0").unwrap();
    assert_eq!(link.mtu, 1500 - 60 - 14);
    assert!(matches!(link.layer, linux::netlink::Layer::Ethernet));
    let addresses = world.host(1).netlink().addresses(Some(link.index)).unwrap();
    assert!(addresses.iter().any(|a| a.net.to_string().starts_with("fe80:")), "as every card has: {addresses:?}");
}

#[test]
fn two_ends_of_different_modes_refuse_each_other_with_a_sentence_on_both_sides() {
    let world = World::new(2, |number, end| {
        if number == 2 {
            end.device_lines.clear();
            end.addresses = vec!["10.77.0.2/24".into()];
            for peer in &mut end.peers {
                peer.allowed_ips = vec!["10.77.0.1/32".into()];
            }
        }
    });
    // There is no session to watch.
    world.bed.guard.switch_off();
    let daemons: Vec<_> = world.places.iter().map(crate::bed::daemon::Place::start).collect();
    for daemon in &daemons {
        let said = wait_for("a refusal", || {
            daemon.status().peers[0].problem.clone().filter(|problem| problem.contains("refused"))
        });
        assert!(said.contains("\"tun\"") && said.contains("\"tap\"") && said.contains("the same on both"), "{said}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    let world = World::new(2, |_, _| {});
    world.bed.guard.switch_off();
    let place = &world.places[0];
    let mut end: Configuration = world.ends[0].clone();
    let before = world.host(1).state();
    // A device of that name that is no bridge, and one of others with addresses of ours.
    end.device_lines = "mode = \"tap\"\nbridge = \"under0\"\n".into();
    place.configure(&end);
    let (code, said) = place.fail();
    assert!(code == Some(1) && said.contains("is no bridge") && said.contains("another `bridge`"), "{said}");
    assert_eq!(world.host(1).state(), before);
    world.host(1).run("ip", &["link", "add", "foreign", "type", "bridge"]);
    let before = world.host(1).state();
    end.device_lines = "mode = \"tap\"\nbridge = \"foreign\"\n".into();
    end.addresses = vec!["10.88.0.1/24".into()];
    place.configure(&end);
    let (code, said) = place.fail();
    assert!(code == Some(1) && said.contains("not adit's") && said.contains("`addresses`"), "{said}");
    assert_eq!(world.host(1).state(), before);
    // A device that is there as the other kind.
    end.device_lines = "mode = \"tap\"\n".into();
    world.host(1).run("ip", &["tuntap", "add", "adit0", "mode", "tun", "multi_queue", "vnet_hdr"]);
    world.host(1).run("ip", &["link", "set", "adit0", "alias", "adit"]);
    place.configure(&end);
    let (code, said) = place.fail();
    assert!(code == Some(1) && said.contains("ip link delete adit0"), "{said}");
    world.host(1).run("ip", &["link", "delete", "adit0"]);
}

#[test]
fn another_switch_needs_another_start_and_addresses_of_a_peer_do_not() {
    let world = World::new(2, |_, _| {});
    let daemons = world.start();
    let mut end = world.ends[0].clone();
    end.peers[0].macs = vec!["02:99:00:00:00:02".into()];
    world.places[0].configure(&end);
    assert_eq!(daemons[0].reload(), "1 peer changed");
    let [a, b] = [world.card(1, 1), world.card(2, 2)];
    let frame = strange([2, 9, 9, 9, 9, 9], a.mac, &[1; 50]);
    b.send(&frame);
    // What the bridge there says of itself counts too.
    wait_for("a refusal of it", || (daemons[0].drops("wrong_source") >= 1).then_some(()));
    b.send(&strange(b.mac, a.mac, &[2; 50]));
    a.await_frame("what comes from its own address", &strange(b.mac, a.mac, &[2; 50]));
    end.device_lines += "[switch]\nstp = true\n";
    world.places[0].configure(&end);
    let path = adit::api::control_socket(&world.places[0].runtime(), "adit0");
    let answer = adit::api::call_within(&path, adit::api::Request::Reload, crate::bed::PATIENCE);
    assert!(
        matches!(&answer, Ok(adit::api::Response::Fault { sentence }) if sentence.contains("needs a restart") || sentence.contains("need a restart")),
        "{answer:?}"
    );
}
