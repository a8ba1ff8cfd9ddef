//! A daemon whose configuration changes while it runs: what changes, what does not, and who notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod bed;

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use adit::key::PrivateKey;
use bed::daemon::{Configuration, Daemon, PORT, Peer, Place};
use bed::packet::Random;
use bed::traffic::{End, connection, exchange_over, exchange_tcp, exchange_udp};
use bed::{Bed, Family, over, wait_at_most, wait_for};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

over! {
    sealed: {
        changes_disturb_nobody_else
        a_prefix_that_moves_has_one_owner
        another_port_is_taken_without_a_pause
        another_key_of_ours_makes_another_handshake
        a_preshared_key_is_changed_on_the_way
        a_name_is_resolved_when_there_is_somebody_to_ask
    }
}

over! {
    wireguard: {
        changes_disturb_nobody_else
        a_prefix_that_moves_has_one_owner
        another_port_is_taken_without_a_pause
        another_key_of_ours_makes_another_handshake
        a_preshared_key_is_changed_on_the_way
        a_name_is_resolved_when_there_is_somebody_to_ask
    }
}

over! {
    plain: {
        changes_disturb_nobody_else
        a_prefix_that_moves_has_one_owner
    }
}

fn inner(bed: &Bed, host: usize, family: Family) -> End<'_> {
    let host = bed.host(host);
    End::new(&host.namespace, host.inner(family))
}

fn carries(bed: &Bed, from: usize, to: usize) {
    for family in FAMILIES {
        exchange_tcp(inner(bed, from, family), inner(bed, to, family), 50_001, 50_003);
    }
}

/// Host 1 with all others as its peers, and each of those with host 1 as its only one.
fn star<const N: usize>(bed: &Bed, transport: &'static str) -> [Configuration; N] {
    let others: Vec<_> = (2..=N).collect();
    let configuration = |i: usize| {
        let peers: &[usize] = if i == 0 { &others } else { &[1] };
        Configuration::new(bed.host(i + 1), peers, Family::V4)
    };
    let ends = std::array::from_fn(configuration);
    if transport == "plain" { ends } else { Configuration::with_keys(ends, transport) }
}

fn places<const N: usize>(bed: &Bed, ends: &[Configuration; N]) -> [Place; N] {
    std::array::from_fn(|i| Place::new(bed.host(i + 1), &ends[i]))
}

/// How many changes a test makes of those that make many.
fn changes() -> u32 {
    std::env::var("ADIT_CHANGES").map_or(200, |text| text.parse().expect("ADIT_CHANGES is a number"))
}

/// Sets a flag when it goes, also in a test that fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn a_peer_that_is_nowhere(number: u32, transport: &'static str) -> Peer {
    let prefixes = vec![format!("10.200.{}.0/24", number % 250), format!("fd99:{number:x}::/64")];
    let endpoint = if transport == "plain" || number.is_multiple_of(2) {
        format!("192.0.2.{}:{}", 100 + number % 100, 1000 + number)
    } else {
        String::new()
    };
    let mut peer = Peer::plain(format!("nowhere{number}"), endpoint, prefixes);
    if transport != "plain" {
        (peer.transport, peer.public_key) = (transport, Some(PrivateKey::generate().unwrap().public_key()));
    }
    peer
}

fn drops(daemon: &Daemon<'_>) -> std::collections::BTreeMap<String, u64> {
    let mut drops = daemon.status().drops;
    // A peer that is nowhere answers by the kernel of the underlay that it is not there.
    drops.retain(|reason, _| reason != "unreachable");
    drops
}

/// A stream to one peer goes on while others come, change and go; not one datagram of it is lost.
fn changes_disturb_nobody_else(transport: &'static str) {
    let bed = Bed::new(3);
    let ends = star::<3>(&bed, transport);
    let places = places(&bed, &ends);
    let [one, two, _three] = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    carries(&bed, 1, 3);
    let before = [drops(&one), drops(&two)];
    let base = ends[0].clone();
    let (done, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let _end = Ending(&done);
        let streams = FAMILIES.map(|family| {
            let (bed, done, rounds) = (&bed, &done, &rounds);
            scope.spawn(move || {
                let (a, b) = connection(inner(bed, 1, family), inner(bed, 2, family));
                let mut random = Random::new(1);
                while !done.load(Ordering::Acquire) {
                    // Each datagram that is lost is one waited for in vain.
                    exchange_udp(inner(bed, 1, family), inner(bed, 2, family), [1200; 64]);
                    exchange_over((&a, &b), &random.bytes(40_000), &random.bytes(40_000));
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let mut others: Vec<Peer> = Vec::new();
        for change in 0..changes() {
            let mut next = base.clone();
            match change % 5 {
                0 | 1 => others.push(a_peer_that_is_nowhere(change, transport)),
                2 => others[0].name = format!("renamed{change}"),
                3 => {
                    let last = others.last_mut().unwrap();
                    last.allowed_ips.push(format!("10.201.{}.0/24", change % 250));
                    last.keepalive = (transport != "plain").then_some("7s");
                }
                _ => drop(others.remove(0)),
            }
            // The third host is a peer half of the time.
            if change % 4 > 1 {
                next.peers.truncate(1);
            }
            next.peers.extend(others.iter().cloned());
            places[0].configure(&next);
            let said = one.reload();
            assert!(said.contains("peer"), "{change}: {said}");
            if others.len() > 20 {
                others.drain(..10);
            }
            assert!(streams.iter().all(|stream| !stream.is_finished()), "both streams go on");
        }
        let seen = rounds.load(Ordering::Relaxed);
        wait_for("both streams after the last change", || (rounds.load(Ordering::Relaxed) > seen + 3).then_some(()));
    });
    places[0].configure(&base);
    one.reload();
    carries(&bed, 1, 3);
    carries(&bed, 1, 2);
    assert_eq!(drops(&two), before[1]);
    // What the third host asked while nobody knew it.
    const STRANGE: [&str; 4] = ["unknown_session", "forged", "rate_limited", "unknown_endpoint"];
    let after = drops(&one);
    let more: Vec<_> = after.keys().filter(|r| after.get(*r) != before[0].get(*r)).collect();
    assert!(more.iter().all(|reason| STRANGE.contains(&reason.as_str())), "{after:?}");
}

/// Under load, a packet reaches who owns its prefix or who owned it next, but never who did before.
fn a_prefix_that_moves_has_one_owner(transport: &'static str) {
    const MOVING: &str = "10.90.0.9/32";
    let bed = Bed::new(4);
    let mut ends = star::<4>(&bed, transport);
    for end in &mut ends[1..] {
        end.addresses.push(MOVING.into());
    }
    let base = ends[0].clone();
    ends[0].peers[0].allowed_ips.push(MOVING.into());
    let places = places(&bed, &ends);
    let daemons = places.each_ref().map(Place::start);
    (2..=4).for_each(|host| carries(&bed, 1, host));
    let before = daemons.each_ref().map(drops);
    let bind = |i: usize| {
        let namespace = &bed.host(i + 2).namespace;
        let socket = namespace.run(|| UdpSocket::bind("10.90.0.9:9")).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket
    };
    let receivers: [UdpSocket; 3] = std::array::from_fn(bind);
    let sender = inner(&bed, 1, Family::V4).udp();
    let (done, moves) = (AtomicBool::new(false), AtomicU32::new(0));
    let (sent, arrived) = (AtomicU32::new(0), AtomicU32::new(0));
    let total = changes();
    let (received, strict): (Vec<u32>, Vec<u32>) = thread::scope(|scope| {
        let _end = Ending(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let epoch = moves.load(Ordering::SeqCst);
                sender.send_to(&epoch.to_be_bytes(), "10.90.0.9:9").unwrap();
                let sent = sent.fetch_add(1, Ordering::Relaxed) + 1;
                // Fewer on their way than any queue takes: one that is lost is missed.
                while sent - arrived.load(Ordering::Acquire) >= 64 && !done.load(Ordering::Acquire) {
                    thread::yield_now();
                }
            }
        });
        let (done, moves, arrived) = (&done, &moves, &arrived);
        let receive = |(owner, socket): (u32, UdpSocket)| {
            scope.spawn(move || {
                let (mut count, mut strict, mut buffer) = (0, 0, [0; 16]);
                loop {
                    let last = done.load(Ordering::Acquire);
                    match socket.recv(&mut buffer) {
                        Ok(4) => {
                            count += 1;
                            arrived.fetch_add(1, Ordering::Release);
                            let epoch = u32::from_be_bytes(buffer[..4].try_into().unwrap());
                            // It was looked at between then and now, and the next move may have begun.
                            let now = moves.load(Ordering::SeqCst) + 1;
                            strict += u32::from(now - epoch < 2);
                            let rightful = (epoch..=now).any(|moment| moment % 3 == owner);
                            assert!(rightful, "{owner} got a packet of epoch {epoch} at {now}");
                        }
                        Ok(other) => panic!("{other} bytes"),
                        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && last => {
                            return (count, strict);
                        }
                        Err(e) => assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{e}"),
                    }
                }
            })
        };
        let receivers: Vec<_> = (0..).zip(receivers).map(receive).collect();
        for epoch in 1..=total {
            let mut next = base.clone();
            next.peers[epoch as usize % 3].allowed_ips.push(MOVING.into());
            places[0].configure(&next);
            assert_eq!(daemons[0].reload(), "2 peers changed");
            moves.store(epoch, Ordering::SeqCst);
            assert!(receivers.iter().all(|receiver| !receiver.is_finished()), "all receivers go on");
        }
        let before = sent.load(Ordering::Relaxed);
        wait_for("some more packets", || (sent.load(Ordering::Relaxed) > before + 100).then_some(()));
        done.store(true, Ordering::Release);
        receivers.into_iter().map(|receiver| receiver.join().unwrap()).unzip()
    });
    let sent = sent.into_inner();
    assert_eq!(received.iter().sum::<u32>(), sent, "every packet had an owner: {received:?}");
    assert!(received.iter().all(|count| *count > 0) || total < 3, "{received:?}");
    assert!(strict.iter().sum::<u32>() > sent / 2, "most of them would be a fault at the former owner: {strict:?}");
    assert_eq!(daemons.each_ref().map(drops), before);
}

#[test]
fn a_file_with_a_fault_changes_nothing() {
    let bed = Bed::new(2);
    let ends = star::<2>(&bed, "sealed");
    let places = places(&bed, &ends);
    let [one, _two] = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    let (state, peers) = (bed.host(1).state(), one.status().peers);
    let unchanged = |one: &Daemon<'_>| {
        assert_eq!(bed.host(1).state(), state);
        let now = one.status().peers;
        assert_eq!((now.len(), &now[0].allowed_ips, &now[0].name), (1, &peers[0].allowed_ips, &peers[0].name));
        carries(&bed, 1, 2);
    };
    let refused = |one: &Daemon<'_>, code: i32, words: &[&str]| {
        let output = places[0].run("reload", &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        unchanged(one);
    };
    let file = places[0].path("adit0.toml");
    let good = fs::read_to_string(&file).unwrap();

    let line = good.lines().count() + 1;
    fs::write(&file, format!("{good}allowed-ipz = []\n")).unwrap();
    refused(&one, 2, &[&format!("adit0.toml:{line}:1"), "allowed-ips"]);
    // The same by signal: the log says so.
    let logged = one.log().len();
    one.signal("HUP");
    wait_for("the fault in the log", || {
        let log = one.log();
        log[logged..].contains(&format!("adit0.toml:{line}:1")).then_some(())
    });
    unchanged(&one);

    places[0].configure(&ends[0].clone().with("workers = 7").with("offload = false"));
    refused(&one, 2, &["workers and offload", "restart"]);

    // A name that nobody knows, of a peer that cannot be without.
    let mut nowhere = ends[0].clone();
    nowhere.peers.push(Peer::plain("x".into(), "nowhere.invalid:1".into(), vec!["10.99.0.0/24".into()]));
    bed.host(1).guard.switch_off();
    places[0].configure(&nowhere);
    refused(&one, 1, &["nowhere.invalid", "does not resolve"]);

    // What the kernel refuses half-way: another's address of IPv6 on a host without.
    let mut blocked = ends[0].clone();
    blocked.peers[0].allowed_ips.push("10.98.0.0/24".into());
    blocked.addresses.push("fd88::1/64".into());
    bed.host(1).set(&["net", "ipv6", "conf", "adit0", "disable_ipv6"], "1");
    let state_without = bed.host(1).state();
    places[0].configure(&blocked);
    let output = places[0].run("reload", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(bed.host(1).state(), state_without, "the route and the blackhole of the new prefix are gone again");
    bed.host(1).set(&["net", "ipv6", "conf", "adit0", "disable_ipv6"], "0");

    fs::write(&file, good).unwrap();
    let output = places[0].run("reload", &["--device", "adit0"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "adit0: nothing changed\n");
}

#[test]
fn a_reload_leads_to_what_a_start_leads_to() {
    let bed = Bed::new(2);
    let (host, peer) = (bed.host(1), bed.host(2));
    let before = host.state();
    let old = Configuration::new(host, &[2], Family::V4);
    let one = Place::new(host, &old);
    let two = Place::new(peer, &Configuration::new(peer, &[1], Family::V4));
    let _two = two.start();
    let mut new = old.clone();
    new.mtu = Some(1300);
    new.addresses = vec!["10.77.0.1/25".into(), "fd77::1/64".into(), "10.99.0.1/24".into()];
    new.peers[0].allowed_ips.retain(|prefix| prefix != "10.42.0.0/16");
    new.peers[0].allowed_ips.push("10.44.0.0/16".into());
    new.peers.push(Peer::plain("new".into(), "192.0.2.99:1".into(), vec!["10.45.0.0/16".into()]));
    one.configure(&new);
    let settled = || {
        // The number of the device is another one each time, and with it the order of what is sorted by it.
        let index = host.netlink().existing_link("adit0").unwrap().index;
        let state = format!("{:?}", host.state()).replace(&format!("({index}, \"adit0\""), "(N, \"adit0\"");
        let state = state.replace(&format!("index: {index}"), "index: N").replace(&format!("Some({index})"), "Some(N)");
        let mut parts: Vec<_> = state.split(['[', ']']).flat_map(|list| list.split("}, ")).map(str::to_owned).collect();
        parts.iter_mut().for_each(|part| *part = part.trim_end_matches(" }").to_owned());
        parts.sort();
        parts
    };
    // The kernel puts addresses of IPv6 to use a moment later.
    let becomes = |expected: &Vec<String>| {
        let deadline = std::time::Instant::now() + bed::PATIENCE;
        while settled() != *expected && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(settled(), *expected);
    };
    let daemon = one.start();
    let expected = settled();
    daemon.terminate();
    assert_eq!(host.state(), before);
    one.configure(&old);
    let daemon = one.start();
    let started = settled();
    for _ in 0..2 {
        one.configure(&new);
        assert_eq!(daemon.reload(), "1 peer added, 1 changed; changed: addresses, mtu");
        becomes(&expected);
        carries(&bed, 1, 2);
        let status = daemon.status();
        assert_eq!((status.device.mtu, status.peers.len(), status.device.addresses.len()), (1300, 2, 3));
        one.configure(&old);
        assert_eq!(daemon.reload(), "1 peer removed, 1 changed; changed: addresses, mtu");
        becomes(&started);
        carries(&bed, 1, 2);
    }
    one.configure(&new);
    daemon.reload();
    // What was added is ours to remove, also after a crash.
    daemon.crash();
    let output = one.run("down", &["--device", "adit0"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(host.state(), before);
}

fn another_port_is_taken_without_a_pause(transport: &'static str) {
    let bed = Bed::new(2);
    let ends = star::<2>(&bed, transport);
    let places = places(&bed, &ends);
    let [one, _two] = places.each_ref().map(Place::start);
    let (a, b) = connection(inner(&bed, 1, Family::V4), inner(&bed, 2, Family::V4));
    let mut random = Random::new(3);
    let mut exchange = || exchange_over((&a, &b), &random.bytes(300_001), &random.bytes(300_003));
    exchange();
    let link = || {
        let link = bed.host(1).netlink().existing_link("adit0").unwrap();
        (link.index, link.running)
    };
    let before = link();
    let listen = |port: u16| {
        let mut other = ends[0].clone();
        other.listen = format!("192.0.2.1:{port}");
        places[0].configure(&other);
    };
    for port in [PORT + 1, PORT + 2, PORT] {
        listen(port);
        assert_eq!(one.reload(), "changed: listen");
        assert_eq!(one.status().transport.listen.port(), port);
        // The peer learns it from what it is sent.
        exchange();
        assert_eq!(link(), before);
    }
    let taken = bed.host(1).namespace.run(|| UdpSocket::bind(("0.0.0.0", PORT + 3))).unwrap().unwrap();
    listen(PORT + 3);
    let output = places[0].run("reload", &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("in use by another program"), "{said}");
    assert_eq!(one.status().transport.listen.port(), PORT);
    exchange();
    drop(taken);
    assert_eq!(one.reload(), "changed: listen");
    exchange();
}

fn another_key_of_ours_makes_another_handshake(transport: &'static str) {
    let bed = Bed::new(3);
    let mut ends = star::<3>(&bed, transport);
    let places = places(&bed, &ends);
    let daemons = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    carries(&bed, 1, 3);
    let public = ends[0].make_key();
    for end in &mut ends[1..] {
        end.peers[0].public_key = Some(public);
    }
    for i in 0..3 {
        places[i].configure(&ends[i]);
        let said = daemons[i].reload();
        assert_eq!(said, if i == 0 { "changed: private key" } else { "1 peer added, 1 removed" });
    }
    carries(&bed, 1, 2);
    carries(&bed, 3, 1);
}

fn a_preshared_key_is_changed_on_the_way(transport: &'static str) {
    let bed = Bed::new(2);
    let mut ends = star::<2>(&bed, transport);
    let places = places(&bed, &ends);
    let [one, two] = places.each_ref().map(Place::start);
    carries(&bed, 1, 2);
    let mut text = Vec::new();
    adit::key::PresharedKey::generate().unwrap().write(&mut text).unwrap();
    for (end, (place, daemon)) in ends.iter_mut().zip([(&places[0], &one), (&places[1], &two)]) {
        end.peers[0].preshared_key = Some(String::from_utf8(text.clone()).unwrap());
        place.configure(end);
        assert_eq!(daemon.reload(), "1 peer changed");
        assert!(daemon.status().peers[0].preshared_key);
    }
    // The session that there was goes on; a restarted peer gets in by the new key alone.
    carries(&bed, 1, 2);
    two.crash();
    let _two = places[1].start();
    wait_at_most(Duration::from_secs(40), "the peer with the new key", || {
        (one.status().peers[0].handshake_s? < 5).then_some(())
    });
    carries(&bed, 2, 1);
}

fn a_name_is_resolved_when_there_is_somebody_to_ask(transport: &'static str) {
    let bed = Bed::new(2);
    let mut ends = star::<2>(&bed, transport);
    ends[0].peers[0].endpoint = format!("two.example:{PORT}");
    ends[0].peers[0].keepalive = Some("1s");
    let places = places(&bed, &ends);
    let _two = places[1].start();
    let hosts = places[0].path("hosts");
    let write = |text: &str| fs::write(&hosts, format!("127.0.0.1 localhost\n{text}")).unwrap();
    write("");
    // Nobody knows the name: the tunnel is up all the same.
    let one = places[0].start_with_hosts("hosts");
    assert!(one.log().contains("two.example:7777 of peer host2 does not resolve"), "{}", one.log());
    write("192.0.2.77 two.example\n");
    // Nobody is where it points to first.
    wait_for("the first address", || {
        (one.status().peers[0].endpoint.as_deref() == Some("192.0.2.77:7777")).then_some(())
    });
    write("192.0.2.2 two.example\n");
    wait_at_most(Duration::from_secs(40), "the second address", || {
        (one.status().peers[0].session == "up").then_some(())
    });
    assert_eq!(one.status().peers[0].endpoint.as_deref(), Some("192.0.2.2:7777"));
    carries(&bed, 1, 2);
}

#[test]
fn a_plain_peer_cannot_be_without_an_address() {
    let bed = Bed::new(1);
    let mut end = Configuration::new(bed.host(1), &[2], Family::V4);
    end.peers[0].endpoint = "nowhere.invalid:7777".into();
    let (code, said) = Place::new(bed.host(1), &end).fail();
    assert!(code == Some(1) && said.contains("does not resolve"), "{said}");
}

#[test]
fn the_service_manager_is_told() {
    let bed = Bed::new(1);
    let end = Configuration::new(bed.host(1), &[2], Family::V4);
    let place = Place::new(bed.host(1), &end);
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(bed::PATIENCE)).unwrap();
    let path = place.path("notify").to_str().unwrap().to_owned();
    let daemon = place.start_in(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000".into())]);
    let mut seen = Vec::new();
    let mut await_line = |wanted: &str| {
        wait_for(wanted, || {
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            seen.push(text.clone());
            text.lines().any(|line| line.starts_with(wanted)).then_some(text)
        })
    };
    assert!(await_line("READY=1").contains("STATUS=adit0 is up: "));
    (0..3).for_each(|_| drop(await_line("WATCHDOG=1")));
    daemon.signal("HUP");
    let reloading = await_line("RELOADING=1");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    let time: u64 = time.parse().unwrap();
    assert!(linux::clock::monotonic() / 1000 - time < 60_000_000, "{time}");
    await_line("READY=1");
    await_line("WATCHDOG=1");
    daemon.terminate();
    await_line("STOPPING=1");
}
