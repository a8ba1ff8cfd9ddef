//! Rules that drop traced packets, as the kernel names them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::net::UdpSocket;
use std::process::Command;

use linux::nft::{Family, Header, Match, Nft, Refused, Tracer};
use support::{fresh, wait_for};

#[test]
fn the_rule_that_dropped_a_traced_packet_is_named() {
    let (namespace, mut netlink) = fresh();
    netlink.set_up(1, true).unwrap();
    let nft = |line: &str| {
        let output = namespace.run(|| Command::new("nft").args(["-a", line]).output().unwrap()).unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    nft("add table ip guard");
    nft("add chain ip guard way { type filter hook output priority 0; }");
    nft("add rule ip guard way udp dport 1 accept");
    nft("add rule ip guard way udp dport 2 drop");
    let listed = nft("list chain ip guard way");
    let line = listed.lines().find(|line| line.contains("udp dport 2 drop")).unwrap();
    let handle = line.rsplit(' ').next().unwrap().parse().unwrap();

    let marked = Match::Bytes { header: Header::Transport, offset: 8, value: b"marked!!".to_vec(), mask: Vec::new() };
    let mut tracer = namespace.run(|| Tracer::start("adit-trace", &[vec![marked]])).unwrap().unwrap();
    let send = |text: &[u8], port: u16| {
        let send = || UdpSocket::bind("127.0.0.1:0").unwrap().send_to(text, ("127.0.0.1", port));
        // One that is dropped is refused.
        let _ = namespace.run(send).unwrap();
    };
    send(b"marked!! and more", 1);
    send(b"another", 2);
    assert_eq!(tracer.refusals().unwrap(), []);
    send(b"marked!! and more", 2);
    let refused = Refused { table: "ip guard".into(), chain: "way".into(), handle: Some(handle) };
    assert_eq!(wait_for("a refusal", || tracer.refusals().ok().filter(|all| !all.is_empty())), [refused]);
    // The table goes with its maker.
    let exists = || Nft::open_in(&namespace).unwrap().exists(Family::Inet, "adit-trace").unwrap();
    assert!(exists());
    drop(tracer);
    wait_for("the end of the table", || (!exists()).then_some(()));
}
