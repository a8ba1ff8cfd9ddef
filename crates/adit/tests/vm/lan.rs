//! A virtual machine on the bridge of a tunnel from a file is one more machine of that LAN.

use std::path::PathBuf;

use serde_json::Value;

use crate::bed::daemon::Place;
use crate::bed::traffic::exchange_tcp;
use crate::bed::{Family, wait_for};
use crate::lans::{World, await_sessions};
use crate::played::{Machine, standing, strings};
use crate::world::Program;

/// The directory of a place, in which our program looks for the same things.
fn directory(place: &Place) -> PathBuf {
    place.runtime().parent().unwrap().to_owned()
}

fn card(program: &Program<'_>, name: &str) -> Value {
    serde_json::from_str(&program.succeeds(&["vm-tap", name, "--json"])).unwrap()
}

fn is_there(program: &Program<'_>, card: &Value) -> bool {
    let mut netlink = program.host.netlink();
    let bridge = netlink.link("br0").unwrap().map(|bridge| bridge.index);
    let link = netlink.link(card["device"].as_str().unwrap()).unwrap();
    link.is_some_and(|link| link.up && link.controller.is_some() && link.controller == bridge)
}

#[test]
fn machines_on_bridges_of_two_hosts_are_neighbours() {
    let world = World::new(2, |number, end| {
        end.device_lines += match number {
            1 => "reserve = [\"10.88.0.64/26\", \"fd88::40/122\"]\n",
            _ => "reserve = [\"10.88.0.128/26\", \"fd88::80/122\"]\n",
        };
        end.addresses = vec![format!("10.88.0.{number}/24"), format!("fd88::{number}/64")];
    });
    let before = world.host(1).state();
    let mut daemons = world.start();
    let directories: Vec<_> = world.places.iter().map(directory).collect();
    let programs: Vec<_> = [1, 2]
        .iter()
        .zip(&directories)
        .map(|(number, directory)| Program { host: world.host(*number), directory })
        .collect();
    let cards: Vec<_> = programs.iter().map(|program| card(program, "db")).collect();
    assert_eq!(strings(&cards[0]["addresses"]), ["10.88.0.64/24", "fd88::40/64"]);
    assert_eq!(strings(&cards[1]["addresses"]), ["10.88.0.128/24", "fd88::80/64"]);
    assert_ne!(cards[0]["mac"], cards[1]["mac"], "of one name on two hosts of one LAN");
    assert_eq!(cards[0]["mac"].as_str().unwrap().as_bytes()[1] & 3, 2, "locally administered, of one card");
    assert_eq!(strings(&cards[0]["notes"]), Vec::<String>::new());
    let machines: Vec<_> =
        programs.iter().zip(&cards).map(|(program, card)| Machine::start(program.host, card)).collect();
    let other = world.machine(2, 9);
    for (v6, family) in [(false, Family::V4), (true, Family::V6)] {
        exchange_tcp(machines[0].end(v6), machines[1].end(v6), 1_000_000, 700_000);
        exchange_tcp(other.end(family), machines[0].end(v6), 300_000, 300_000);
    }
    drop(machines);
    assert_eq!(programs[0].listed()[0]["door"], "vm");
    let second = card(&programs[0], "web");
    assert_eq!(strings(&second["addresses"]), ["10.88.0.65/24", "fd88::41/64"]);
    // The daemon brings back what somebody takes away, and the verb does without waiting.
    let device = cards[0]["device"].as_str().unwrap();
    for command in [&["link", "delete", device][..], &["link", "set", device, "nomaster"], &["link", "delete", "br0"]] {
        world.host(1).run("ip", command);
        wait_for("the card", || is_there(&programs[0], &cards[0]).then_some(()));
        assert_eq!(card(&programs[0], "db"), cards[0]);
    }
    // After a crash of the daemon it is there, and after a restart of the host the daemon makes it.
    daemons.remove(0).crash();
    let said = programs[0].fails(1, &["vm-tap", "db"]);
    assert!(said.contains("the daemon of adit0 does not run") && said.contains("adit up FILE"), "{said}");
    world.host(1).run("ip", &["link", "delete", device]);
    let again = world.places[0].start();
    await_sessions(&again);
    wait_for("the card", || is_there(&programs[0], &cards[0]).then_some(()));
    // Where the tunnel takes less, so does the card, also one that is made again.
    let mut end = world.ends[0].clone();
    end.mtu = Some(1300);
    world.places[0].configure(&end);
    again.reload();
    let mtu = || programs[0].host.netlink().link(device).unwrap().map(|link| link.mtu);
    wait_for("a smaller card", || (mtu() == Some(1300)).then_some(()));
    world.host(1).run("ip", &["link", "delete", device]);
    wait_for("the card", || is_there(&programs[0], &cards[0]).then_some(()));
    assert_eq!(mtu(), Some(1300));
    programs[0].succeeds(&["vm-tap", "db", "--delete"]);
    programs[0].succeeds(&["vm-tap", "web", "--delete"]);
    assert_eq!(programs[0].succeeds(&["ps", "--json"]), "[]\n");
    again.terminate();
    assert_eq!(world.host(1).state(), before);
}

#[test]
fn without_a_reserve_no_address_is_promised_and_a_full_one_is_said() {
    let world = World::new(2, |number, end| {
        if number == 2 {
            end.device_lines += "reserve = [\"10.88.0.9/32\"]\n";
        }
    });
    let _daemons = world.start();
    let directories: Vec<_> = world.places.iter().map(directory).collect();
    let [bare, one] = [0, 1].map(|n| Program { host: world.host(n + 1), directory: &directories[n] });
    let said = bare.succeeds(&["vm-tap", "db"]);
    assert!(said.contains("No address is reserved for it") && said.contains("  address  -\n"), "{said}");
    let first = card(&one, "db");
    assert_eq!(strings(&first["addresses"]), ["10.88.0.9/32"]);
    assert!(strings(&first["notes"])[0].contains("no address on the LAN"), "{first}");
    let before = standing(&one);
    let said = one.fails(1, &["vm-tap", "web"]);
    assert!(said.contains("no address of 10.88.0.9/32 is free; delete a card"), "{said}");
    assert_eq!(standing(&one), before);
    let said = one.succeeds(&["vm-tap", "db", "--delete"]);
    assert!(said.contains("another may get 10.88.0.9"), "{said}");
    assert_eq!(strings(&card(&one, "web")["addresses"]), ["10.88.0.9/32"]);
}

#[test]
fn a_tunnel_without_a_bridge_says_what_to_write() {
    for (lines, words) in [
        ("", "carries packets, and has no bridge for a virtual machine; write mode = \"tap\""),
        ("mode = \"tap\"\n", "carries frames and is on no bridge, where a card could be; write bridge = \"br0\""),
    ] {
        let world = World::new(2, |number, end| {
            end.device_lines = lines.into();
            end.addresses = vec![format!("10.77.0.{number}/24")];
            if lines.is_empty() {
                end.peers.iter_mut().for_each(|peer| peer.allowed_ips = vec![format!("10.77.0.{}/32", 3 - number)]);
            }
        });
        let _daemons = world.start();
        let directory = directory(&world.places[0]);
        let program = Program { host: world.host(1), directory: &directory };
        let before = standing(&program);
        let said = program.fails(1, &["vm-tap", "db"]);
        assert!(said.contains(words), "{said}");
        assert_eq!(standing(&program), before);
    }
}
