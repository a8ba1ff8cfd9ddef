//! WireGuard's behaviours by the numbers of docs/WIREGUARD.md, the second part: networks around a tunnel, and its configuration.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use linux::netlink::VethEnd;

use crate::bed::{Bed, Family, wait_for};
use crate::scene::{Machine, Pair, Program, file, keys};

const PROGRAMS: [Program; 2] = [Program::Adit, Program::WireguardGo];

/// A device of ours that has nothing yet.
fn device() -> (Bed, Machine) {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    machine.ok("adit-wireguard wg0");
    (bed, machine)
}

#[test]
fn w15_w16_a_keepalive_holds_a_nat_open_and_none_is_silent() {
    let bed = Bed::new(2);
    let inside = Machine::within(bed.host(1).container());
    let router = Machine::new(bed.host(1));
    let server = Machine::new(bed.host(2));
    let rules =
        "table ip nat { chain post { type nat hook postrouting priority 100; oifname \"under0\" masquerade\n}\n}\n";
    let rules = router.write("rules", rules);
    router.ok(&format!(
        "nft -f {rules}; echo 2 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout; \
         echo 2 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream"
    ));
    let [(key1, public1), (key2, public2)] = [keys(), keys()];
    for (machine, key, peer, own, there, endpoint) in
        [(&inside, &key1, &public2, 1, 2, "endpoint 192.0.2.2:51820"), (&server, &key2, &public1, 2, 1, "")]
    {
        machine.ok("adit-wireguard wg0");
        machine.wg(&format!(
            "set wg0 private-key {} listen-port 51820 peer {peer} allowed-ips 10.77.0.{there}/32 {endpoint}",
            file(key)
        ));
        machine.ok(&format!("ip addr add 10.77.0.{own}/24 dev wg0; ip link set wg0 up"));
    }
    inside.ok("ping -c 1 -W 5 10.77.0.2");
    let endpoint = server.wg("show wg0 endpoints");
    assert!(endpoint.starts_with(&format!("{public1}\t192.0.2.1:")), "{endpoint}");
    inside.wg(&format!("set wg0 peer {public2} persistent-keepalive 1"));
    // Longer than the router remembers.
    let sent = || inside.table("show wg0 transfer")[0][2].parse::<u64>().unwrap();
    let before = sent();
    wait_for("keepalives for three seconds", || (sent() >= before + 4 * 32).then_some(()));
    server.ok("ping -c 1 -W 2 10.77.0.1");
    inside.wg(&format!("set wg0 peer {public2} persistent-keepalive 0"));
    // What is still owed is sent within ten seconds; then nothing is.
    let mut quiet = (sent(), Instant::now());
    wait_for("four seconds of silence", || {
        let now = sent();
        if now != quiet.0 {
            quiet = (now, Instant::now());
        }
        (quiet.1.elapsed() > Duration::from_secs(4)).then_some(())
    });
}

#[test]
fn w17_a_socket_bound_to_the_device_also_where_a_mark_routes_anew() {
    let pair = Pair::ours();
    let machine = pair.machine(1);
    machine.ok("ping -I wg0 -c 1 -W 5 10.77.0.2");
    let rules =
        machine.write("rules", "table ip t { chain c { type route hook output priority 0; meta mark set 1\n}\n}\n");
    machine.ok(&format!("nft -f {rules}"));
    machine.ok("ping -c 1 -W 5 10.77.0.2; ping -I wg0 -c 1 -W 5 10.77.0.2");
}

#[test]
fn w18_a_peer_behind_our_own_tunnel() {
    let pair = Pair::ours();
    let [(private, public)] = [keys()];
    let (one, two) = (pair.machine(1), pair.machine(2));
    one.wg(&format!("set wg0 peer {public} allowed-ips 10.78.0.2/32 endpoint 10.77.0.2:5"));
    one.ok("ip addr add 10.78.0.1/24 dev wg0");
    two.ok("adit-wireguard wg1");
    two.wg(&format!(
        "set wg1 private-key {} listen-port 5 peer {} allowed-ips 10.78.0.1/32",
        file(&private),
        pair.public[0]
    ));
    two.ok("ip addr add 10.78.0.2/24 dev wg1; ip link set wg1 up");
    one.ok("ping -c 1 -W 5 10.78.0.2");
    two.ok("ip link del wg1");
    // An endpoint that is behind itself.
    one.wg(&format!("set wg0 peer {public} endpoint 10.78.0.2:5"));
    one.fails("ping -c 1 -W 1 10.78.0.2");
    one.wg(&format!("set wg0 peer {public} remove"));
    pair.ping(1, Family::V4);
}

#[test]
fn w19_a_default_route_by_mark_and_rules() {
    let pair = Pair::ours();
    let (one, two) = (pair.machine(1), pair.machine(2));
    two.ok("ip addr add 198.51.100.7/32 dev wg0; ip addr add 2001:db8:99::7/128 dev wg0 nodad");
    one.ok("ip -6 route add default via 2001:db8::2; ip route add default via 192.0.2.2");
    one.wg(&format!(
        "set wg0 fwmark 51820 peer {} allowed-ips 198.51.100.7/32,2001:db8:99::7/128,10.77.0.2/32,fd77::2/128",
        pair.public[1]
    ));
    for family in ["-4", "-6"] {
        one.ok(&format!(
            "ip {family} route add default dev wg0 table 51820; ip {family} rule add not fwmark 51820 table 51820; \
             ip {family} rule add table main suppress_prefixlength 0"
        ));
    }
    one.ok("echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark");
    pair.bed.host(2).await_address("2001:db8:99::7".parse().unwrap());
    for to in ["198.51.100.7", "2001:db8:99::7"] {
        one.flood("wg0", 100, to);
    }
    let sent = pair.transfer(1).1;
    assert!((2 * 100 * 128..40_000).contains(&sent), "no recursion: {sent}");
}

#[test]
fn w20_where_there_is_no_peer_the_sender_is_told() {
    let pair = Pair::ours();
    let machine = pair.machine(1);
    machine.wg(&format!("set wg0 peer {} remove", pair.public[1]));
    for (ping, to) in [("ping", "10.77.0.2"), ("ping", "fd77::2")] {
        let said = machine.run(&format!("{ping} -c 1 -W 5 {to}"));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.to_lowercase().contains("unreachable"), "{to}: {said}");
    }
}

#[test]
fn w21_a_source_address_that_is_gone_is_forgotten() {
    for other in PROGRAMS {
        for (first, second) in [("192.0.2.1/24", "192.0.2.77/24"), ("2001:db8::1/64", "2001:db8::77/64")] {
            let outer = if first.contains(':') { Family::V6 } else { Family::V4 };
            let pair = Pair::new(other, outer);
            pair.ping(1, Family::V4);
            pair.bed.host(1).set(&["net", "ipv4", "conf", "under0", "promote_secondaries"], "1");
            pair.machine(1).ok(&format!(
                "ip addr add {second} dev under0 $(test {} = 6 && echo nodad)",
                if outer == Family::V6 { 6 } else { 4 }
            ));
            pair.bed.host(1).await_address(second.split('/').next().unwrap().parse().unwrap());
            pair.machine(1).ok(&format!("ip addr del {first} dev under0"));
            pair.ping(1, Family::V4);
            pair.ping(2, Family::V4);
        }
    }
}

/// Machine 2 calls each of these addresses of machine 1, and is answered from there: it would move otherwise.
fn answers_from(pair: &Pair, addresses: &[&str]) {
    for address in addresses {
        let endpoint = crate::bed::at(address.parse().unwrap(), crate::scene::port(1)).to_string();
        pair.machine(2).wg(&format!("set wg0 peer {} endpoint {endpoint}", pair.public[0]));
        pair.ping(2, Family::V4);
        pair.ping(2, Family::V6);
        assert_eq!(pair.shown_endpoint(2), endpoint);
    }
}

#[test]
fn w22_an_answer_comes_from_the_address_that_was_called() {
    for other in PROGRAMS {
        let pair = Pair::new(other, Family::V4);
        pair.machine(1).ok("ip addr add 192.0.2.50/24 dev under0; ip addr add 2001:db8::50/64 dev under0 nodad");
        pair.bed.host(1).await_address("2001:db8::50".parse().unwrap());
        answers_from(&pair, &["192.0.2.50", "192.0.2.1", "192.0.2.50", "2001:db8::50", "2001:db8::1", "192.0.2.50"]);
    }
}

#[test]
fn w23_also_from_an_address_of_another_device() {
    let pair = Pair::ours();
    pair.machine(1).ok("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; \
         ip addr add 198.51.100.50/32 dev v0; ip addr add 2001:db8:50::1/128 dev v0 nodad");
    pair.bed.host(1).await_address("2001:db8:50::1".parse().unwrap());
    pair.machine(2)
        .ok("ip route add 198.51.100.50/32 via 192.0.2.1; ip -6 route add 2001:db8:50::1/128 via 2001:db8::1");
    answers_from(&pair, &["198.51.100.50", "2001:db8:50::1"]);
}

#[test]
fn w24_a_better_way_is_taken() {
    let pair = Pair::ours();
    pair.ping(1, Family::V4);
    assert_eq!(pair.shown_endpoint(2), "192.0.2.1:51821");
    // A second line to the other, with addresses of its own, by which it is reached from now on.
    let (v1, v2) = (VethEnd { name: "v1", ..VethEnd::default() }, &pair.bed.host(2).namespace);
    let v2 = VethEnd { name: "v2", netns: Some(v2), ..VethEnd::default() };
    pair.bed.host(1).netlink().create_veth(&v1, &v2).unwrap();
    pair.machine(2).ok("ip addr add 203.0.113.2/24 dev v2; ip link set v2 up");
    pair.machine(1)
        .ok("ip addr add 203.0.113.1/24 dev v1; ip link set v1 up; ip route add 192.0.2.2/32 dev v1 src 203.0.113.1");
    pair.machine(2).ok("for i in all v2; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done");
    pair.ping(1, Family::V4);
    wait_for("the better way", || {
        pair.ping(1, Family::V4);
        (pair.shown_endpoint(2) == "203.0.113.1:51821").then_some(())
    });
}

/// A file for `wg setconf` with peers of so many prefixes.
fn configuration(peers: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("[Interface]\nPrivateKey = {}\n", keys().0);
    for nets in peers {
        write!(text, "[Peer]\nPublicKey = {}\n", keys().1).unwrap();
        for net in nets {
            writeln!(text, "AllowedIPs = {net}").unwrap();
        }
    }
    text
}

#[test]
fn w25_130560_prefixes_are_read_back() {
    let (_bed, machine) = device();
    let nets = (1..=255u32).flat_map(|a| (0..=255u32).map(move |b| (a, b)));
    let mut all: Vec<String> =
        nets.flat_map(|(a, b)| [format!("{a}.{b}.0.0/16"), format!("2001:{a:x}{b:02x}::/32")]).collect();
    let path = machine.write("many.conf", &configuration([all.clone()]));
    let begin = Instant::now();
    machine.wg(&format!("setconf wg0 {path}"));
    let set = begin.elapsed();
    let mut shown: Vec<String> = machine.table("show wg0 allowed-ips")[0][1]
        .split(' ')
        .map(|net| net.parse::<ipnet::IpNet>().unwrap().to_string())
        .collect();
    let read = begin.elapsed() - set;
    all.iter_mut().for_each(|net| *net = net.parse::<ipnet::IpNet>().unwrap().to_string());
    all.sort();
    shown.sort();
    assert_eq!(shown.len(), 130_560);
    assert!(shown == all);
    println!("130,560 prefixes: set in {set:?}, read in {read:?}");
    // A machine that is busy with other tests may take its time.
    assert!(set < Duration::from_secs(20) && read < Duration::from_secs(10), "{set:?}, {read:?}");
    // And each of them can be moved.
    let (_, other) = keys();
    machine.wg(&format!("set wg0 peer {other} allowed-ips 7.7.0.0/16"));
    assert!(machine.wg("show wg0 allowed-ips").contains(&format!("{other}\t7.7.0.0/16")));
}

#[test]
fn w26_many_peers_are_read_back() {
    let (_bed, machine) = device();
    let set = |text: &str| {
        let path = machine.write("many.conf", text);
        machine.wg(&format!("setconf wg0 {path}"));
        let mut counts: Vec<_> = machine
            .table("show wg0 allowed-ips")
            .iter()
            .map(|row| row[1].split(' ').filter(|net| *net != "(none)").count())
            .collect();
        counts.sort_unstable();
        counts
    };
    let many = |a: usize| (1..=52).map(|b| format!("{a}.{b}.0.0/16")).collect();
    assert_eq!(set(&configuration((1..=40).map(many))), [52; 40]);
    let mut last = vec![Vec::new(); 30];
    last[29] = vec!["255.2.3.4/32".into(), "abcd::255/128".into()];
    let counts = set(&configuration(last));
    assert_eq!((counts.len(), counts[28], counts[29]), (30, 0, 2));
    let six = (1..=197).map(|a| format!("abcd:{a}::/32")).collect();
    assert_eq!(set(&configuration([Vec::new(), six])), [0, 197]);
    assert!(machine.wg("show wg0 allowed-ips").contains("(none)"));
    machine.wg("showconf wg0");
}

#[test]
fn w27_a_device_that_is_not_there_is_an_error() {
    let (_bed, machine) = device();
    for words in ["show doesnotexist", "showconf doesnotexist", "set doesnotexist listen-port 1"] {
        assert_eq!(machine.fails(&format!("wg {words}")).0, Some(1), "{words}");
    }
}

#[test]
fn w28_keys_are_set_shown_and_cleared() {
    let (_bed, machine) = device();
    let [(private, _), (psk, _), (_, peer)] = [keys(), keys(), keys()];
    machine.wg(&format!("set wg0 private-key {} peer {peer} preshared-key {}", file(&private), file(&psk)));
    assert_eq!(machine.wg("show wg0 private-key"), private);
    assert_eq!(machine.wg("show wg0 preshared-keys"), format!("{peer}\t{psk}"));
    machine.wg(&format!("set wg0 private-key /dev/null peer {peer} preshared-key /dev/null"));
    assert_eq!(machine.wg("show wg0 private-key"), "(none)");
    assert_eq!(machine.wg("show wg0 public-key"), "(none)");
    assert_eq!(machine.wg("show wg0 preshared-keys"), format!("{peer}\t(none)"));
}

#[test]
fn w29_our_own_key_is_no_peer_and_keys_are_clamped() {
    let (_bed, machine) = device();
    let (private, public) = keys();
    machine.wg(&format!("set wg0 private-key {}", file(&private)));
    machine.wg(&format!("set wg0 peer {public} allowed-ips 10.0.0.0/8"));
    assert_eq!(machine.wg("show wg0 peers"), "");
    for (first, shown) in [('/', '+'), ('0', '0'), ('B', 'A')] {
        machine.wg(&format!("set wg0 private-key {}", file(&format!("{first}{}", &private[1..]))));
        let text = machine.wg("show wg0 private-key");
        // The first letter is six bits of the first byte, of which the lowest three are cleared.
        let expected = if first == '0' { "0" } else { &shown.to_string() };
        assert!(text.starts_with(expected), "{first}: {text}");
    }
}

#[test]
fn w30_prefixes_may_overlap_and_have_odd_lengths() {
    let (_bed, machine) = device();
    let [(private, _), (_, peer)] = [keys(), keys()];
    machine.wg(&format!("set wg0 private-key {}", file(&private)));
    for nets in [
        "0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16",
        "0.0.0.0/0",
        "::/0,1700::/111,5000::/4,e000::/37,9000::/75",
        "::/0",
        "0.0.0.0/0,::/0,127.0.0.0/8,224.0.0.0/4,ff00::/8,::1/128,255.255.255.255/32,0.0.0.0/32,::ffff:10.0.0.0/104",
    ] {
        machine.wg(&format!("set wg0 peer {peer} allowed-ips {nets}"));
        let sorted = |text: &str, separator| {
            let mut list: Vec<_> = text.split(separator).map(|net| net.parse::<ipnet::IpNet>().unwrap()).collect();
            list.sort();
            list
        };
        assert_eq!(sorted(&machine.table("show wg0 allowed-ips")[0][1], ' '), sorted(nets, ','));
    }
}

#[test]
fn w31_nothing_is_sent_to_keys_without_a_secret() {
    let (bed, machine) = device();
    let low = [
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
        "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
        "7P///////////////////////////////////////38=",
        "7f///////////////////////////////////////38=",
        "7v///////////////////////////////////////38=",
    ];
    let (private, _) = keys();
    let sniffer = machine.spawn("python3 -uc 'import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind((\"127.0.0.1\",1111)); print(s.recv(1)); print(s.recv(1))'");
    wait_for("the listener", || machine.ok("ss -ulnH").contains(":1111 ").then_some(()));
    machine.ok("ip link set wg0 up");
    machine.wg(&format!("set wg0 private-key {}", file(&private)));
    for key in low {
        machine.wg(&format!("set wg0 peer {key} persistent-keepalive 1 endpoint 127.0.0.1:1111"));
    }
    assert_eq!(machine.wg("show wg0 peers").lines().count(), low.len());
    // A peer with a key that is one, after them, is called: by then the others would have been.
    thread::sleep(Duration::from_millis(2500));
    for row in machine.table("show wg0 transfer") {
        assert_eq!(row[1..], ["0", "0"], "{row:?}");
    }
    machine.wg(&format!("set wg0 peer {} persistent-keepalive 1 endpoint 127.0.0.1:1111", keys().1));
    let sent = || machine.table("show wg0 transfer").iter().map(|row| row[2].parse::<u64>().unwrap()).sum::<u64>();
    wait_for("one call", || (sent() > 0).then_some(()));
    assert_eq!(sent(), 148);
    drop((sniffer, bed));
}

#[test]
fn w32_a_device_ends_with_the_namespace_it_was_moved_to() {
    let (_bed, machine) = device();
    machine.ok("adit-wireguard wg1; ip netns add other; ip link set wg0 netns other; ip link set wg1 netns other");
    machine.ok("ip -n other link set wg0 up; ip -n other addr add 10.1.1.1/24 dev wg0");
    machine.wg("show wg0");
    machine.ok("ip netns del other");
    machine.await_gone("wg0");
    machine.await_gone("wg1");
    assert_eq!(machine.ok("ls /run/adit 2> /dev/null || true"), "");
}

#[test]
fn w34_up_and_down_by_the_hundred() {
    let pair = Pair::ours();
    pair.ping(1, Family::V4);
    let machine = pair.machine(1);
    let [pid] = machine.processes("[w]ireguard.wg0")[..] else { panic!("one process") };
    let count = || machine.ok(&format!("ls /proc/{pid}/fd | wc -l; ls /proc/{pid}/task | wc -l"));
    let before = count();
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| machine.ok("for i in $(seq 50); do ip link set wg0 down; ip link set wg0 up; done"));
        }
    });
    machine.ok("ip link set wg0 up; ip addr replace fd77::1/64 dev wg0 nodad");
    pair.bed.host(1).await_address("fd77::1".parse().unwrap());
    pair.ping(1, Family::V4);
    pair.ping(2, Family::V6);
    // Threads that answered us may be on their way out.
    wait_for("nothing to be left over", || (count() == before).then_some(()));
}

#[test]
fn w35_a_thousand_changes_under_traffic() {
    let pair = Pair::ours();
    pair.ping(1, Family::V4);
    let (one, two) = (pair.machine(1), pair.machine(2));
    let (own, peer) = (&pair.public[0], &pair.public[1]);
    let mut traffic = two.spawn("exec ping -i 0.002 10.77.0.1");
    one.ok(&format!("for i in $(seq 1000); do wg set wg0 peer {peer} persistent-keepalive $((i % 100 + 1)); done"));
    // Another port, many times; the key, and back.
    one.ok("for i in $(seq 50); do wg set wg0 listen-port $((52000 + i)); done; wg set wg0 listen-port 51821");
    let private = file(&pair.private[0]);
    for _ in 0..20 {
        one.wg(&format!("set wg0 private-key {}", file(&keys().0)));
        one.wg(&format!("set wg0 private-key {private}"));
    }
    assert!(traffic.is_running());
    drop(traffic);
    assert_eq!(one.wg("show wg0 public-key"), *own);
    // Who calls more often than every five seconds may have to wait for that.
    wait_for("an answer", || pair.pings(1, Family::V4).then_some(()));
    two.flood("wg0", 500, "10.77.0.1");
}

#[test]
fn w36_prefixes_replaced_a_thousand_times_under_load() {
    let bed = Bed::new(3);
    let machines = [1, 2, 3].map(|number| Machine::new(bed.host(number)));
    let keys: Vec<_> = (0..3).map(|_| keys()).collect();
    for (number, machine) in (1..).zip(&machines) {
        machine.ok("adit-wireguard wg0");
        machine.wg(&format!("set wg0 private-key {} listen-port 51820", file(&keys[number - 1].0)));
        for other in (1..=3).filter(|other| *other != number && (number == 1 || *other == 1)) {
            machine.wg(&format!(
                "set wg0 peer {} endpoint 192.0.2.{other}:51820 allowed-ips 10.77.0.{other}/32",
                keys[other - 1].1
            ));
        }
        machine.ok(&format!("ip addr add 10.77.0.{number}/24 dev wg0; ip link set wg0 up"));
        // What moves: both have it, and tell who got what by their counts.
        if number > 1 {
            machine.ok("ip addr add 10.88.0.1/32 dev lo");
        }
    }
    let [one, two, three] = &machines;
    one.ok("ip route add 10.88.0.0/16 dev wg0; ping -c 1 -W 5 10.77.0.2; ping -c 1 -W 5 10.77.0.3");
    let (a, b) = (&keys[1].1, &keys[2].1);
    let turn = |times: usize| {
        one.ok(&format!(
            "for i in $(seq {times}); do wg set wg0 peer {a} allowed-ips 10.77.0.2/32,10.88.0.0/16; \
             wg set wg0 peer {b} allowed-ips 10.77.0.3/32,10.88.0.0/16; done"
        ));
    };
    turn(1);
    // What the former owner still answers is not let in, as it should be.
    let dropped = || {
        one.ok("adit status --device wg0 --json | python3 -c 'import json,sys; d=json.load(sys.stdin)[\"drops\"]; \
             d.pop(\"wrong_source\",0); print(d)'")
    };
    let lost = || machines.iter().map(Machine::lost_in_queues).sum::<u64>();
    let (before, lost_before) = (dropped(), lost());
    // To those who stay, all the time: none may be lost but in a queue of the kernel's, where the load may leave no room.
    let _echoes = [two.echo("10.77.0.2"), three.echo("10.77.0.3")];
    let steady = [2, 3].map(|number| one.steady(format!("10.77.0.{number}"), 4000));
    let load = one.spawn(
        "exec python3 -c 'import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         while True:\n  [s.sendto(bytes(1000),(\"10.88.0.1\",9)) for i in range(50)]\n  time.sleep(0.002)'",
    );
    for _ in 0..10 {
        turn(50);
    }
    drop(load);
    let missing: u64 = steady.map(|steady| steady.end().trim().parse::<u64>().unwrap()).iter().sum();
    let lost = lost() - lost_before;
    assert!(missing <= lost, "{missing} are missing, and {lost} were lost in queues");
    assert_eq!(dropped(), before);
    // Whose it is in the end has it, and the other has none of it.
    let count = |machine: &Machine| machine.table("show wg0 transfer")[0][1].parse::<u64>().unwrap();
    let (before2, before3) = (count(two), count(three));
    one.ok("ping -c 50 -f -W 5 10.88.0.1");
    assert!(count(three) - before3 >= 50 * 128);
    assert!(count(two) - before2 < 128, "what is {b}'s goes to nobody else");
    assert_eq!(one.table("show wg0 allowed-ips").len(), 2);
}

#[test]
fn peers_reach_each_other_through_a_host_that_forwards() {
    let bed = Bed::new(3);
    let machines = [1, 2, 3].map(|number| Machine::new(bed.host(number)));
    let keys: Vec<_> = (0..3).map(|_| keys()).collect();
    for (number, machine) in (1..).zip(&machines) {
        machine.ok("adit-wireguard wg0");
        machine.wg(&format!("set wg0 private-key {} listen-port 51820", file(&keys[number - 1].0)));
        machine.ok(&format!("ip addr add 10.77.0.{number}/24 dev wg0; ip addr add fd77::{number}/64 dev wg0 nodad"));
        machine.ok("ip link set wg0 up; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        if number > 1 {
            machine
                .wg(&format!("set wg0 peer {} allowed-ips 10.77.0.0/24,fd77::/64 endpoint 192.0.2.1:51820", keys[0].1));
            machines[0].wg(&format!(
                "set wg0 peer {} allowed-ips 10.77.0.{number}/32,fd77::{number}/128 endpoint 192.0.2.{number}:51820",
                keys[number - 1].1
            ));
        }
    }
    let [_, two, three] = &machines;
    two.ok("ping -c 1 -W 5 10.77.0.3; ping -c 1 -W 5 fd77::3");
    three.flood("wg0", 50, "10.77.0.2");
}
