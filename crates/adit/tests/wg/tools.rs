//! `wg` in all its forms, and what it is answered.

use crate::bed::{Bed, Family, wait_for};
use crate::scene::{Machine, Pair, Program, file, keys};

/// A machine with a device of ours that has nothing yet.
fn device() -> (Bed, Machine) {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    machine.ok("adit-wireguard wg0");
    (bed, machine)
}

#[test]
fn show_has_all_forms() {
    let pair = Pair::ours();
    let machine = pair.machine(1);
    let (other, own) = (&pair.public[1], &pair.public[0]);
    let psk = "K2b3oXkhNvsBkjl0CmWwZwW4Oq0RfXcgmkUb2xuKQ3o=";
    // Whoever calls first must have the same key already.
    pair.machine(2).wg(&format!("set wg0 peer {own} preshared-key {}", file(psk)));
    machine.wg(&format!("set wg0 fwmark 0xca6c peer {other} preshared-key {} persistent-keepalive 25", file(psk)));
    pair.ping(1, Family::V4);

    for words in ["show", "show wg0", "show all"] {
        let text = machine.wg(words);
        for line in [
            "interface: wg0",
            &format!("  public key: {own}"),
            "  private key: (hidden)",
            "  listening port: 51821",
            "  fwmark: 0xca6c",
            &format!("peer: {other}"),
            "  preshared key: (hidden)",
            "  endpoint: 192.0.2.2:51822",
            "  allowed ips: 10.77.0.2/32, fd77::2/128",
            "  persistent keepalive: every 25 seconds",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
        assert!(text.contains("  latest handshake: ") && text.contains(" B received, "), "{text}");
    }
    assert_eq!(machine.wg("show interfaces"), "wg0");
    for (field, value) in [
        ("public-key", own.clone()),
        ("private-key", pair.private[0].clone()),
        ("listen-port", "51821".into()),
        ("fwmark", "0xca6c".into()),
        ("peers", other.clone()),
        ("preshared-keys", format!("{other}\t{psk}")),
        ("endpoints", format!("{other}\t192.0.2.2:51822")),
        ("allowed-ips", format!("{other}\t10.77.0.2/32 fd77::2/128")),
        ("persistent-keepalive", format!("{other}\t25")),
    ] {
        assert_eq!(machine.wg(&format!("show wg0 {field}")), value, "{field}");
        let of_all: Vec<_> = value.lines().map(|line| format!("wg0\t{line}")).collect();
        assert_eq!(machine.wg(&format!("show all {field}")), of_all.join("\n"), "{field}");
    }
    let now: u64 = machine.ok("date +%s").parse().unwrap();
    let handshake: u64 = machine.table("show wg0 latest-handshakes")[0][1].parse().unwrap();
    assert!((now - 20..=now).contains(&handshake), "{handshake} at {now}");
    let dump = machine.table("show wg0 dump");
    assert_eq!(dump[0], [pair.private[0].as_str(), own, "51821", "0xca6c"]);
    let peer = [other.as_str(), psk, "192.0.2.2:51822", "10.77.0.2/32,fd77::2/128", &handshake.to_string()];
    assert_eq!(dump[1][..5], peer);
    assert_eq!(dump[1][7], "25");
    assert!(dump[1][5].parse::<u64>().unwrap() > 0 && dump[1][6].parse::<u64>().unwrap() > 0);
    assert_eq!(machine.table("show all dump")[1][1..6], dump[1][..5]);
}

#[test]
fn a_device_without_anything_shows_nothing() {
    let (_bed, machine) = device();
    let port: u16 = machine.wg("show wg0 listen-port").parse().unwrap();
    assert_ne!(port, 0);
    assert_eq!(machine.wg("show wg0 dump"), format!("(none)\t(none)\t{port}\toff"));
    assert_eq!(machine.wg("show"), format!("interface: wg0\n  listening port: {port}"));
    assert_eq!(machine.wg("showconf wg0"), format!("[Interface]\nListenPort = {port}"));
    let link = machine.ok("ip -br addr show dev wg0");
    assert!(!link.contains("10.") && !link.contains("::"), "{link}");
    assert!(machine.ok("ip link show dev wg0").contains(" mtu 1420 "));
    assert_eq!(machine.ok("ip route show dev wg0; ip -6 route show dev wg0 table all"), "");
}

#[test]
fn set_takes_every_option() {
    let (_bed, machine) = device();
    let (private, public) = keys();
    let (_, peer) = keys();
    machine.wg(&format!("set wg0 private-key {}", file(&private)));
    assert_eq!(machine.wg("show wg0 public-key"), public);
    machine.wg("set wg0 listen-port 5555 fwmark 7");
    machine.wg(&format!(
        "set wg0 peer {peer} endpoint [2001:db8::9]:7 persistent-keepalive 65535 allowed-ips 10.1.2.3/8,2001:db8::/32,0.0.0.0/0"
    ));
    assert_eq!(machine.wg("show wg0 listen-port"), "5555");
    assert_eq!(machine.wg("show wg0 fwmark"), "0x7");
    assert_eq!(machine.wg("show wg0 endpoints"), format!("{peer}\t[2001:db8::9]:7"));
    assert_eq!(machine.wg("show wg0 persistent-keepalive"), format!("{peer}\t65535"));
    assert_eq!(machine.wg("show wg0 allowed-ips"), format!("{peer}\t10.0.0.0/8 2001:db8::/32 0.0.0.0/0"));
    // The socket is where it is said to be, and has the mark.
    assert!(machine.ok("ss -ulnH").contains(":5555 "));
    // And back.
    machine.wg("set wg0 fwmark off");
    machine.wg(&format!("set wg0 peer {peer} persistent-keepalive off endpoint 192.0.2.9:7 allowed-ips ''"));
    assert_eq!(machine.wg("show wg0 fwmark"), "off");
    assert_eq!(machine.wg("show wg0 persistent-keepalive"), format!("{peer}\toff"));
    assert_eq!(machine.wg("show wg0 endpoints"), format!("{peer}\t192.0.2.9:7"));
    assert_eq!(machine.wg("show wg0 allowed-ips"), format!("{peer}\t(none)"));
    // Also one of those that not everybody may have.
    machine.wg("set wg0 listen-port 53");
    assert!(machine.ok("ss -ulnH").contains(":53 "));
    // Any port, which is another one.
    machine.wg("set wg0 listen-port 0");
    let any: u16 = machine.wg("show wg0 listen-port").parse().unwrap();
    assert!(any != 0 && any != 53);
    // The one that we have may be asked for by its number.
    machine.wg(&format!("set wg0 listen-port {any}"));
    assert_eq!(machine.wg("show wg0 listen-port"), any.to_string());
    // The name of a host, which `wg` resolves.
    machine.wg(&format!("set wg0 peer {peer} endpoint localhost:9"));
    assert!(machine.wg("show wg0 endpoints").ends_with(":9"));
    machine.wg(&format!("set wg0 peer {peer} remove"));
    assert_eq!(machine.wg("show wg0 peers"), "");
}

#[test]
fn files_are_set_added_and_synchronised() {
    let (_bed, machine) = device();
    let (private, _) = keys();
    let [(_, a), (_, b), (_, c)] = [keys(), keys(), keys()];
    let text = |port: u16, peers: &[(&str, &str)]| {
        let peers = peers.iter().map(|(key, nets)| format!("[Peer]\nPublicKey = {key}\nAllowedIPs = {nets}\n"));
        format!("[Interface]\nPrivateKey = {private}\nListenPort = {port}\n{}", peers.collect::<String>())
    };
    let one = machine.write("one.conf", &text(5001, &[(&a, "10.1.0.0/16"), (&b, "10.2.0.0/16, fd02::/16")]));
    machine.wg(&format!("setconf wg0 {one}"));
    let shown = |field: &str| {
        let mut rows = machine.table(&format!("show wg0 {field}"));
        rows.sort();
        rows
    };
    let row = |key: &str, value: &str| vec![key.to_owned(), value.to_owned()];
    let sorted = |mut rows: Vec<Vec<String>>| {
        rows.sort();
        rows
    };
    assert_eq!(shown("allowed-ips"), sorted(vec![row(&a, "10.1.0.0/16"), row(&b, "10.2.0.0/16 fd02::/16")]));
    // Added: the others stay, and a prefix moves.
    let two = machine.write("two.conf", &format!("[Peer]\nPublicKey = {c}\nAllowedIPs = 10.1.0.0/16\n"));
    machine.wg(&format!("addconf wg0 {two}"));
    let expected = vec![row(&a, "(none)"), row(&b, "10.2.0.0/16 fd02::/16"), row(&c, "10.1.0.0/16")];
    assert_eq!(shown("allowed-ips"), sorted(expected));
    assert_eq!(machine.wg("show wg0 listen-port"), "5001");
    // Synchronised: what is not there goes, the rest is left in peace.
    let three = machine.write("three.conf", &text(5001, &[(&c, "10.1.0.0/16"), (&b, "10.2.0.0/16")]));
    machine.wg(&format!("syncconf wg0 {three}"));
    assert_eq!(shown("allowed-ips"), sorted(vec![row(&b, "10.2.0.0/16"), row(&c, "10.1.0.0/16")]));
    // What is shown as a file is one.
    let file = machine.wg("showconf wg0");
    assert!(file.contains(&format!("PrivateKey = {private}")) && file.contains("ListenPort = 5001"), "{file}");
    let again = machine.write("again.conf", &file);
    machine.wg(&format!("setconf wg0 {again}"));
    assert_eq!(machine.wg("showconf wg0"), file);
    machine.wg(&format!("setconf wg0 {}", self::file("[Interface]")));
    assert_eq!(machine.wg("show wg0 peers"), "");
    assert_eq!(machine.wg("show wg0 private-key"), "(none)");
}

#[test]
fn a_synchronised_file_disturbs_nobody() {
    let pair = Pair::ours();
    pair.ping(1, Family::V4);
    let machine = pair.machine(1);
    let before = machine.wg("show wg0 latest-handshakes");
    let (_, stranger) = keys();
    let file = machine.wg("showconf wg0") + &format!("\n[Peer]\nPublicKey = {stranger}\nAllowedIPs = 10.9.0.0/16\n");
    let path = machine.write("more.conf", &file);
    machine.wg(&format!("syncconf wg0 {path}"));
    assert_eq!(machine.table("show wg0 peers").len(), 2);
    pair.ping(1, Family::V4);
    let after = machine.wg("show wg0 latest-handshakes");
    assert!(after.contains(&before), "{before}: {after}");
}

/// What a request is answered, word for word.
fn ask(machine: &Machine, request: &str) -> String {
    let program = "import socket,sys\n\
        s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect('/run/wireguard/wg0.sock')\n\
        s.sendall(sys.argv[1].encode()); s.shutdown(socket.SHUT_WR)\n\
        b=b''\n\
        while True:\n \
          d=s.recv(65536)\n \
          if not d: break\n \
          b+=d\n\
        sys.stdout.write(b.decode())";
    let path = machine.write("ask.py", program);
    let request = request.replace('\n', "\\n");
    machine.ok(&format!("python3 {path} $'{request}'; echo .")).trim_end_matches('.').to_owned()
}

#[test]
fn every_fault_has_its_number() {
    let (_bed, machine) = device();
    let taken = machine.spawn("python3 -c 'import socket,time; s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.bind((\"::\",7771)); print(flush=True); time.sleep(600)'");
    wait_for("the port to be taken", || machine.ok("ss -ulnH").contains(":7771 ").then_some(()));
    let key = "11".repeat(32);
    let before = machine.wg("showconf wg0");
    for (request, answer) in [
        // A port that somebody else has: EADDRINUSE.
        ("set=1\nlisten_port=7771\n\n", "errno=-98\n\n"),
        // A value that is none, a key that does not exist: EINVAL.
        ("set=1\nlisten_port=65536\n\n", "errno=-22\n\n"),
        ("set=1\nfwmark=x\n\n", "errno=-22\n\n"),
        ("set=1\nprivate_key=12\n\n", "errno=-22\n\n"),
        ("set=1\nnonsense=1\n\n", "errno=-22\n\n"),
        (&format!("set=1\npublic_key={key}\nendpoint=localhost:7\n\n"), "errno=-22\n\n"),
        (&format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.0\n\n"), "errno=-22\n\n"),
        (&format!("set=1\npublic_key={key}\nprotocol_version=2\n\n"), "errno=-22\n\n"),
        ("get=1\nx=1\n\n", "errno=-22\n\n"),
        // Not the protocol: EPROTO.
        ("set=1\nlisten_port\n\n", "errno=-71\n\n"),
        ("set=1\nlisten_port=5\n", "errno=-71\n\n"),
        ("hello\n\n", "errno=-71\n\n"),
        // A line that is too long: EIO.
        (&format!("set=1\nfwmark={}\n\n", "1".repeat(5000)), "errno=-5\n\n"),
        // What was right before the fault has not happened either.
        (&format!("set=1\nfwmark=7\npublic_key={key}\nallowed_ip=10.0.0.0/8\nnonsense=1\n\n"), "errno=-22\n\n"),
        // And nothing keeps the next from being done.
        ("set=1\nnonsense=1\n\nset=1\n\n", "errno=-22\n\nerrno=0\n\n"),
    ] {
        assert_eq!(ask(&machine, request), answer, "{request}");
        assert_eq!(machine.wg("showconf wg0"), before, "{request}");
    }
    drop(taken);
    // As `wg` tells them.
    let blocker = machine.spawn("python3 -c 'import socket,time; s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.bind((\"::\",7781)); time.sleep(600)'");
    wait_for("the port to be taken", || machine.ok("ss -ulnH").contains(":7781 ").then_some(()));
    let (code, sentence) = machine.fails("wg set wg0 listen-port 7781");
    assert!(code == Some(1) && sentence.contains("Address already in use"), "{sentence}");
    drop(blocker);
}

/// The same requests to wireguard-go: where its answers are other ones, docs/WIREGUARD.md says why.
#[test]
fn faults_are_answered_as_by_another_implementation() {
    let key = "11".repeat(32);
    let answers = |program: Program| {
        let bed = Bed::new(1);
        let machine = Machine::new(bed.host(1));
        machine.ok(&format!("{} wg0", program.name()));
        wait_for("the socket", || machine.run("wg show wg0").status.success().then_some(()));
        [
            "set=1\nlisten_port=65536\n\n".to_owned(),
            "set=1\nlisten_port=\n\n".into(),
            "set=1\nfwmark=off\n\n".into(),
            "set=1\nreplace_peers=false\n\n".into(),
            "set=1\nprivate_key=12\n\n".into(),
            "set=1\nendpoint=192.0.2.1:7\n\n".into(),
            "set=1\nnonsense=1\n\n".into(),
            "set=1\nlisten_port\n\n".into(),
            format!("set=1\npublic_key={}\n\n", &key[1..]),
            format!("set=1\npublic_key={key}\nupdate_only=1\n\n"),
            format!("set=1\npublic_key={key}\nremove=false\n\n"),
            format!("set=1\npublic_key={key}\npreshared_key=z\n\n"),
            format!("set=1\npublic_key={key}\nendpoint=192.0.2.1\n\n"),
            format!("set=1\npublic_key={key}\npersistent_keepalive_interval=65536\n\n"),
            format!("set=1\npublic_key={key}\nreplace_allowed_ips=no\n\n"),
            format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.0/33\n\n"),
            format!("set=1\npublic_key={key}\nprotocol_version=0\n\n"),
            format!("set=1\npublic_key={key}\nlisten_port=1\n\n"),
            format!("set=1\npublic_key={key}\nupdate_only=true\nallowed_ip=10.0.0.0/8\n\n"),
            format!("set=1\npublic_key={key}\nremove=true\n\n"),
            "set=1\n\n".into(),
        ]
        .map(|request| {
            let answer = ask(&machine, &request);
            // What follows a fault is another matter.
            (request, answer.split("\n\n").next().unwrap().to_owned())
        })
    };
    assert_eq!(answers(Program::Adit), answers(Program::WireguardGo));
}

#[test]
fn requests_follow_each_other_on_a_connection() {
    let (_bed, machine) = device();
    let key = "11".repeat(32);
    let answer = ask(
        &machine,
        &format!(
            "set=1\nlisten_port=5001\n\nset=1\npublic_key={key}\nallowed_ip=10.0.0.0/8\nallowed_ip=-10.0.0.0/8\nallowed_ip=::/0\n\nget=1\n\n"
        ),
    );
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines[..4], ["errno=0", "", "errno=0", ""]);
    assert!(lines.contains(&"listen_port=5001") && lines.contains(&format!("public_key={key}").as_str()), "{answer}");
    let nets: Vec<_> = lines.iter().filter(|line| line.starts_with("allowed_ip=")).collect();
    assert_eq!(nets, [&"allowed_ip=::/0"]);
    assert!(answer.ends_with("errno=0\n\n"), "{answer}");
}

#[test]
fn secrets_are_in_no_log() {
    let bed = Bed::new(1);
    let machine = Machine::new(bed.host(1));
    let log = machine.path("log");
    let daemon = machine.spawn(&format!("ADIT_LOG=trace adit wireguard -f wg0 2> {log}"));
    wait_for("the socket", || machine.run("wg show wg0").status.success().then_some(()));
    let [(private, _), (psk, _), (_, peer)] = [keys(), keys(), keys()];
    machine.wg(&format!(
        "set wg0 private-key {} peer {peer} preshared-key {} endpoint 192.0.2.9:7 persistent-keepalive 1",
        file(&private),
        file(&psk)
    ));
    machine.wg("show wg0 dump");
    assert_eq!(ask(&machine, "set=1\nprivate_key=1122334455\n\n"), "errno=-22\n\n");
    let hex = |key: &str| machine.ok(&format!("echo {key} | base64 -d | od -An -tx1 -v | tr -d ' \\n'"));
    wait_for("a log", || machine.ok(&format!("cat {log}")).contains("wg0").then_some(()));
    let text = machine.ok(&format!("cat {log}")).to_lowercase();
    for secret in [private.to_lowercase(), psk.to_lowercase(), hex(&private), hex(&psk)] {
        assert!(!text.contains(&secret), "{text}");
        assert!(!text.contains("1122334455"), "{text}");
    }
    drop(daemon);
}
