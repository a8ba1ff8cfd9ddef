//! How devices come and go.

use std::fs;

use crate::bed::{Bed, Family, wait_for};
use crate::scene::{Machine, Pair, Program, file, keys};

#[test]
fn a_daemon_is_left_behind_when_it_is_ready() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    // Nothing holds the streams of who started it: this would wait for their end.
    let said = machine.run("adit-wireguard wg0");
    assert!(said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
    machine.wg("show wg0");
    let [pid] = machine.processes("[w]ireguard.wg0")[..] else { panic!("one process") };
    // A session of its own.
    assert_eq!(machine.ok(&format!("ps -o sid= -p {pid}")).trim(), pid.to_string());
    assert_eq!(machine.ok(&format!("readlink /proc/{pid}/cwd")), "/");
    let (code, sentence) = machine.fails("adit-wireguard wg0");
    assert_eq!(code, Some(1));
    assert!(sentence.starts_with("adit: ") && sentence.contains("is running for device wg0 already"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    machine.ok(&format!("kill {pid}"));
    machine.await_gone("wg0");
    assert_eq!(machine.ok("ls /run/wireguard; ls /run/adit 2> /dev/null || true"), "");
}

#[test]
fn the_foreground_is_left_by_signal_or_by_the_socket() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    for (start, end) in [
        ("adit wireguard --foreground wg0", "pkill -TERM -x adit"),
        ("adit-wireguard -f wg0", "pkill -INT -x adit-wireguard"),
        ("env WG_PROCESS_FOREGROUND=1 adit-wireguard wg0", "rm /run/wireguard/wg0.sock"),
        ("adit wireguard -f wg0", "ip link delete dev wg0"),
        ("adit wireguard -f wg0", "adit status --device wg0; adit down --device wg0"),
        ("adit wireguard -f wg0", "mv /run/wireguard/wg0.sock /run/wireguard/other.sock; rm /run/wireguard/other.sock"),
    ] {
        let daemon = machine.spawn(&format!("exec {start}"));
        wait_for("the socket", || machine.run("wg show wg0").status.success().then_some(()));
        machine.ok(end);
        assert!(daemon.end().contains("wg0 is up: "), "{start}");
        machine.await_gone("wg0");
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    for (command, code, words) in [
        ("adit-wireguard", 2, "DEVICE"),
        ("adit-wireguard wg0/x", 2, "wg0/x"),
        ("adit-wireguard sixteen-letters-", 2, "15"),
        ("WG_TUN_FD=3 adit-wireguard wg0", 2, "unset WG_TUN_FD"),
        ("WG_UAPI_FD=4 adit-wireguard wg0", 2, "unset WG_UAPI_FD"),
        ("ip link add wg0 type veth peer name other; adit-wireguard wg0", 1, "wg0"),
    ] {
        let (found, sentence) = machine.fails(command);
        assert!(found == Some(code) && sentence.contains(words), "{command}: {found:?}: {sentence}");
    }
    assert_eq!(machine.ok("ls /run/wireguard 2> /dev/null || true"), "");
}

#[test]
fn a_leftover_socket_is_replaced_and_another_programs_is_not() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    machine.ok("adit-wireguard wg0");
    machine.ok("pkill -KILL -x adit");
    wait_for("its end", || machine.run("flock --nonblock /run/adit/wg0.lock true").status.success().then_some(()));
    machine.ok("test -S /run/wireguard/wg0.sock");
    machine.ok("adit-wireguard wg0");
    assert_eq!(machine.ok("stat -c '%a %U' /run/wireguard/wg0.sock"), "600 root");
    machine.ok("rm /run/wireguard/wg0.sock");
    machine.await_gone("wg0");
    machine.ok(&format!("{} wg0", Program::WireguardGo.name()));
    wait_for("the socket", || machine.run("wg show wg0").status.success().then_some(()));
    machine.ok("ip link set wg0 name wg1");
    let (code, sentence) = machine.fails("adit-wireguard wg0");
    assert!(code == Some(1) && sentence.contains("another daemon answers"), "{sentence}");
    // And nothing of the attempt is left.
    assert!(!machine.run("ip link show wg0").status.success());
    machine.wg("show wg0");
}

#[test]
fn several_live_side_by_side() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    let [(key1, public1), (key2, public2)] = [keys(), keys()];
    machine.ok("adit-wireguard wg0; adit-wireguard wg1");
    machine.wg(&format!(
        "set wg0 private-key {} listen-port 5000 peer {public2} allowed-ips 10.1.0.2/32 endpoint 127.0.0.1:5001",
        file(&key1)
    ));
    machine.wg(&format!("set wg1 private-key {} listen-port 5001 peer {public1} allowed-ips 10.1.0.1/32", file(&key2)));
    let mut names: Vec<_> = machine.wg("show interfaces").split_whitespace().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["wg0", "wg1"]);
    assert_eq!(machine.table("show all peers").len(), 2);
    // One of them in another namespace: they reach each other, and are configured where they came from.
    machine.ok("ip netns add other 2> /dev/null; ip link set wg1 netns other");
    machine.ok("ip -n other addr add 10.1.0.2/24 dev wg1; ip -n other link set wg1 up");
    machine.ok("ip addr add 10.1.0.1/24 dev wg0; ip link set wg0 up");
    machine.ok("ping -c 3 -i 0.2 -W 5 10.1.0.2");
    machine.ok("ip netns exec other ping -c 3 -i 0.2 -W 5 10.1.0.1");
    assert!(machine.table("show wg1 latest-handshakes")[0][1] != "0");
    machine.wg(&format!("set wg1 peer {public1} persistent-keepalive 25"));
    // The end of one is not that of the other.
    machine.ok("rm /run/wireguard/wg0.sock");
    machine.await_gone("wg0");
    assert_eq!(machine.wg("show interfaces"), "wg1");
}

#[test]
fn a_tunnel_of_a_file_is_seen_by_the_tools() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    let [(private, public), (sealed, _), (_, peer), (_, other_adit)] = [keys(), keys(), keys(), keys()];
    machine.write("w.key", &private);
    machine.write("s.key", &sealed);
    let text = format!(
        "[device]\nname = \"adit7\"\naddresses = [\"10.9.0.1/24\"]\nprivate-key-file = \"s.key\"\nwireguard-private-key-file = \"w.key\"\n\
         [transport]\nlisten = \"[::]:7007\"\n\
         [[peer]]\nname = \"sealed\"\npublic-key = \"{other_adit}\"\nallowed-ips = [\"10.9.0.2/32\"]\n\
         [[peer]]\nname = \"wg\"\ntransport = \"wireguard\"\npublic-key = \"{peer}\"\nallowed-ips = [\"10.9.0.3/32\"]\nendpoint = \"192.0.2.9:7\"\n\
         [[peer]]\nname = \"plain\"\ntransport = \"plain\"\nendpoint = \"192.0.2.8:7\"\nallowed-ips = [\"10.9.0.4/32\"]\n"
    );
    let path = machine.write("tunnel.toml", &text);
    let log = machine.path("log");
    let daemon = machine.spawn(&format!("exec adit up --config {path} 2> {log}"));
    wait_for("the socket", || machine.run("wg show adit7").status.success().then_some(()));
    assert_eq!(machine.wg("show adit7 dump").lines().count(), 2);
    assert_eq!(machine.wg("show adit7 public-key"), public);
    assert_eq!(machine.wg("show adit7 allowed-ips"), format!("{peer}\t10.9.0.3/32"));
    // What is WireGuard's can be changed, routes with it.
    machine.wg(&format!("set adit7 peer {peer} allowed-ips 10.9.0.3/32,10.8.0.0/16 persistent-keepalive 5"));
    assert!(machine.ok("ip route show dev adit7").contains("10.8.0.0/16"));
    let (_, other) = keys();
    machine.wg(&format!("set adit7 peer {other} allowed-ips 10.7.0.0/16 peer {peer} remove"));
    assert!(!machine.ok("ip route show dev adit7").contains("10.8.0.0/16"));
    // What is not cannot.
    for words in [
        format!("set adit7 peer {other} allowed-ips 10.9.0.2/32"),
        format!("set adit7 peer {other} allowed-ips 10.9.0.4/32"),
        "set adit7 private-key /dev/null".into(),
        format!("set adit7 private-key {}", file(&sealed)),
    ] {
        let (_, sentence) = machine.fails(&format!("wg {words}"));
        assert!(sentence.contains("Operation not permitted"), "{words}: {sentence}");
    }
    let status = machine.ok("adit status --device adit7 --json");
    assert!(status.contains("\"sealed\"") && status.contains("\"plain\""), "{status}");
    // Without its socket it goes on.
    machine.ok("rm /run/wireguard/adit7.sock");
    wait_for("a word about it", || fs::read_to_string(&log).unwrap().contains("its socket was removed").then_some(()));
    machine.ok("adit status --device adit7 && adit down --device adit7");
    daemon.end();
}

#[test]
fn both_ends_are_up_in_whatever_order() {
    for other in [Program::Adit, Program::WireguardGo] {
        let pair = Pair::new(other, Family::V4);
        pair.ping(2, Family::V4);
        pair.ping(1, Family::V6);
    }
}
