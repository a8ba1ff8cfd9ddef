//! WireGuard's behaviours by the numbers of docs/WIREGUARD.md, the first part: what goes through a tunnel, and where peers are.
//!
//! What is stated of two ends is tried with ours at both, and with wireguard-go at the other where the other end has a part in it.

use crate::bed::{Bed, Family, wait_for};
use crate::scene::{Machine, Pair, Program, file, keys, port};

const PROGRAMS: [Program; 2] = [Program::Adit, Program::WireguardGo];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Floods of pings each way, by both families.
fn flood(pair: &Pair) {
    for family in FAMILIES {
        for from in [1, 2] {
            pair.machine(from).flood("wg0", 10, pair.inner(3 - from, family));
        }
    }
}

/// Streams of TCP and UDP from each to the other, by both families, and many at once.
fn streams(pair: &Pair, bytes: &str, many: &[usize]) {
    for family in FAMILIES {
        let to = pair.inner(2, family);
        let serve = |count: usize| {
            let commands: Vec<_> = (0..count).map(|_| format!("iperf3 -s -1 -B {to}")).collect();
            let server = pair.machine(2).spawn(&commands.join(" && "));
            wait_for("the server", || pair.machine(2).ok("ss -tlnH").contains(":5201").then_some(()));
            server
        };
        let server = serve(1);
        pair.machine(1).ok(&format!("iperf3 -c {to} -n {bytes}"));
        server.end();
        let server = serve(1);
        pair.machine(1).ok(&format!("iperf3 -u -b 0 -c {to} -n {bytes}"));
        server.end();
        for streams in many {
            let server = serve(1);
            pair.machine(1).ok(&format!("iperf3 -P {streams} -c {to} -n {bytes}"));
            server.end();
        }
    }
}

#[test]
fn w01_pings_flood_without_loss() {
    for other in PROGRAMS {
        flood(&Pair::new(other, Family::V4));
    }
}

#[test]
fn w02_byte_counters() {
    for other in PROGRAMS {
        let pair = Pair::new(other, Family::V4);
        pair.machine(1).flood("wg0", 10, pair.inner(2, Family::V4));
        // A response and ten packets of 84 bytes, padded to 96: 92 + 10 × (96 + 32). With an initiation: 148, and a keepalive if the
        // response was confirmed before the first packet came by.
        let (received, sent) = pair.transfer(1);
        assert!(received == 1372 && [1428, 1460].contains(&sent), "{other:?}: {received}, {sent}");
        let (received, sent) = pair.transfer(2);
        assert!([1428, 1460].contains(&received) && sent == 1372, "{other:?}: {received}, {sent}");
        for machine in &pair.machines {
            assert_ne!(machine.table("show wg0 latest-handshakes")[0][1], "0");
        }
    }
}

#[test]
fn w03_w04_streams_of_tcp_and_udp_by_the_dozen() {
    streams(&Pair::ours(), "30M", &[4, 5, 50]);
}

#[test]
fn w03_w04_streams_with_another_implementation() {
    streams(&Pair::new(Program::WireguardGo, Family::V4), "30M", &[4, 50]);
}

#[test]
fn w05_all_of_it_by_ipv6() {
    for other in PROGRAMS {
        let pair = Pair::new(other, Family::V6);
        flood(&pair);
        streams(&pair, "10M", &[5]);
    }
}

#[test]
fn w06_all_of_it_in_large_packets() {
    for outer in FAMILIES {
        let pair = Pair::new(Program::Adit, outer);
        for machine in &pair.machines {
            machine.ok(&format!("ip link set wg0 mtu {}", 34816 - 1500 + 1420));
        }
        flood(&pair);
        // Not in fragments inside: the datagrams are what is cut.
        for family in FAMILIES {
            let to = pair.inner(2, family);
            pair.machine(1).ok(&format!("ping -M do -c 3 -i 0.2 -W 5 -s 30000 {to}"));
        }
        streams(&pair, "10M", &[5]);
    }
}

#[test]
fn w07_padding_stays_within_the_mtu() {
    for other in PROGRAMS {
        let pair = Pair::new(other, Family::V4);
        for machine in &pair.machines {
            machine.ok("ip link set wg0 mtu 1299");
        }
        // 1299 and 60 bytes of headers and tag.
        let nft = "table ip t { chain c { type filter hook input priority 0; meta l4proto udp ip length > 1359 counter drop\n}\n}\n";
        let rules = pair.machine(1).write("rules", nft);
        for machine in &pair.machines {
            machine.ok(&format!("nft -f {rules}"));
        }
        wait_for("the size to be known", || {
            let said = pair.machine(1).run(&format!("ping -c 1 -W 1 -s 1269 {}", pair.inner(2, Family::V4)));
            said.status.success().then_some(())
        });
        for size in 1240..=1271 {
            pair.machine(1).ok(&format!("ping -c 1 -W 5 -s {size} {}", pair.inner(2, Family::V4)));
        }
    }
}

/// Machine 1 has another address and port; one ping, and the other knows.
fn roams(other: Program, from: Family, to: Family) {
    let pair = Pair::new(other, from);
    pair.ping(1, Family::V4);
    let key = &pair.public[1];
    let address = match to {
        Family::V4 => "192.0.2.99",
        Family::V6 => "2001:db8::99",
    };
    let net = format!("{address}/{}", if to == Family::V4 { 24 } else { 64 });
    pair.bed.host(1).move_to(net.parse().unwrap());
    let machine = pair.machine(1);
    machine.wg("set wg0 listen-port 9999");
    let there = crate::bed::at(pair.bed.host(2).underlay(to), port(2));
    machine.wg(&format!("set wg0 peer {key} endpoint {there}"));
    pair.ping(1, Family::V6);
    let now = crate::bed::at(address.parse().unwrap(), 9999).to_string();
    assert_eq!(pair.shown_endpoint(2), now, "{other:?}, {from:?} to {to:?}");
    pair.ping(2, Family::V4);
}

#[test]
fn w08_a_peer_roams_by_ipv4() {
    for other in PROGRAMS {
        roams(other, Family::V4, Family::V4);
    }
}

#[test]
fn w09_a_peer_roams_by_ipv6_and_to_the_other_family() {
    for other in PROGRAMS {
        roams(other, Family::V6, Family::V6);
        roams(other, Family::V4, Family::V6);
        roams(other, Family::V6, Family::V4);
    }
}

#[test]
fn w10_w11_a_longer_prefix_of_another_peer_shuts_out_but_lets_roam() {
    for other in PROGRAMS {
        let pair = Pair::new(other, Family::V4);
        let (one, two) = (pair.machine(1), pair.machine(2));
        one.wg(&format!("set wg0 peer {} allowed-ips 10.77.0.0/24", pair.public[1]));
        let (own, theirs) = (pair.inner(1, Family::V4), pair.inner(2, Family::V4));
        let send = || {
            two.ok(&format!("echo X | python3 -c 'import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind((\"{theirs}\",0)); s.sendto(b\"X\",(\"{own}\",1111))'"))
        };
        let hear = || {
            let server = one.spawn(&format!("python3 -c 'import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind((\"{own}\",1111)); s.settimeout(60); print(s.recv(9))'"));
            wait_for("the server", || one.ok("ss -ulnH").contains(":1111 ").then_some(()));
            server
        };
        let server = hear();
        send();
        assert_eq!(server.end(), "b'X'\n");
        let (_, longer) = keys();
        one.wg(&format!("set wg0 peer {longer} allowed-ips {theirs}/32"));
        two.wg("set wg0 listen-port 9997");
        let mut server = hear();
        send();
        // It has moved there, by what was not let in.
        wait_for("the move", || (pair.shown_endpoint(1) == "192.0.2.2:9997").then_some(()));
        assert!(server.is_running());
        one.wg(&format!("set wg0 peer {longer} remove"));
        assert_eq!(one.wg("show wg0 endpoints"), format!("{}\t192.0.2.2:9997", pair.public[1]));
        send();
        assert_eq!(server.end(), "b'X'\n");
        pair.ping(1, Family::V4);
    }
}

#[test]
fn w12_a_new_key_of_ours_shakes_hands_at_once() {
    for other in PROGRAMS {
        let pair = Pair::new(other, Family::V4);
        let psk = file("K2b3oXkhNvsBkjl0CmWwZwW4Oq0RfXcgmkUb2xuKQ3o=");
        pair.machine(2).wg(&format!("set wg0 peer {} preshared-key {psk}", pair.public[0]));
        pair.machine(1).wg(&format!("set wg0 peer {} preshared-key {psk}", pair.public[1]));
        pair.ping(1, Family::V4);
        let (private, public) = keys();
        let inner = pair.inner(1, Family::V4);
        pair.machine(1).wg(&format!("set wg0 private-key {}", file(&private)));
        pair.machine(2).wg(&format!(
            "set wg0 peer {public} preshared-key {psk} allowed-ips {inner}/32 peer {} remove",
            pair.public[0]
        ));
        let to = pair.inner(2, Family::V4);
        pair.machine(1).ok(&format!("ping -c 1 -W 1 {to}"));
        pair.machine(2).wg(&format!("set wg0 peer {public} remove"));
        assert!(!pair.pings(1, Family::V4));
    }
}

#[test]
fn w13_a_tunnel_in_a_tunnel() {
    let pair = Pair::ours();
    let keys: Vec<_> = (0..2).map(|_| keys()).collect();
    for number in [1, 2] {
        let machine = pair.machine(number);
        machine.ok("adit-wireguard wg1");
        machine.wg(&format!(
            "set wg1 private-key {} listen-port 4000 peer {} allowed-ips 10.78.0.{}/32 endpoint 10.77.0.{}:4000",
            file(&keys[number - 1].0),
            keys[2 - number].1,
            3 - number,
            3 - number
        ));
        machine.ok(&format!("ip addr add 10.78.0.{number}/24 dev wg1; ip link set wg1 up mtu 1340"));
    }
    pair.machine(1).flood("wg1", 10, "10.78.0.2");
    let server = pair.machine(2).spawn("iperf3 -s -1 -B 10.78.0.2");
    wait_for("the server", || pair.machine(2).ok("ss -tlnH").contains(":5201").then_some(()));
    pair.machine(1).ok("iperf3 -c 10.78.0.2 -P 4 -n 20M");
    server.end();
}

#[test]
fn w14_a_loop_of_two_tunnels_does_not_grow() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    machine.ok("adit-wireguard wg0; adit-wireguard wg1");
    let [(key0, _), (key1, _), (_, peer0), (_, peer1)] = [keys(), keys(), keys(), keys()];
    // The way to the peer of each is through the other.
    for (device, key, peer, own, there) in
        [("wg0", key0, peer0, "10.78.0.1", "10.79.0.2"), ("wg1", key1, peer1, "10.79.0.1", "10.78.0.2")]
    {
        machine.wg(&format!(
            "set {device} private-key {} peer {peer} allowed-ips 0.0.0.0/0 endpoint {there}:1",
            file(&key)
        ));
        machine.ok(&format!("ip addr add {own}/24 dev {device}; ip link set {device} up"));
    }
    for to in ["10.78.0.2", "10.79.0.2"] {
        machine.fails(&format!("ping -W 1 -c 10 -f {to}"));
    }
    for device in ["wg0", "wg1"] {
        let sent: u64 = machine.table(&format!("show {device} transfer"))[0][2].parse().unwrap();
        let through: u64 = machine.ok(&format!("cat /sys/class/net/{device}/statistics/tx_bytes || ip -s link show {device} | tail -1 | awk '{{print $1}}'")).parse().unwrap();
        assert!(sent < 70_000 && through < 70_000, "{device}: {sent}, {through}");
    }
    // And all live on.
    machine.wg("show all");
}
