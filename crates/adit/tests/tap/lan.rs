//! Machines on bridges of different hosts are neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use linux::netlink::Netlink;
use wire::arp::{ArpPacket, Operation};
use wire::ethernet::MacAddress;

use crate::bed::sniffer::Sniffer;
use crate::bed::traffic::{exchange_tcp, exchange_udp};
use crate::bed::{Family, PATIENCE, wait_for};
use crate::world::{ALL, Machine, World, switch};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn machines_of_two_hosts_reach_each_other_as_on_one_bridge() {
    let world = World::new(2, |_, _| {});
    let daemons = world.start();
    let [a, b] = [world.machine(1, 1), world.machine(2, 2)];
    for family in FAMILIES {
        exchange_tcp(a.end(family), b.end(family), 2_000_001, 1_000_003);
        exchange_tcp(b.end(family), a.end(family), 100_001, 2_000_003);
        exchange_udp(a.end(family), b.end(family), [1, 100, 1200, 8, 1300]);
    }
    // Each knows the other by its own link-layer address: nobody stands between them.
    let mut netlink = Netlink::open_in(&a.namespace).unwrap();
    let index = netlink.existing_link("eth0").unwrap().index;
    let known = netlink.neighbours(Some(index)).unwrap();
    for family in FAMILIES {
        let neighbour = known.iter().find(|n| n.address == b.ip(family)).unwrap();
        assert_eq!(neighbour.mac, Some(b.mac()), "{family:?}");
    }
    // Super-packets cross whole: far fewer writes than frames.
    let status = daemons[1].status();
    assert_eq!(status.device.mode, "tap");
    let writes: u64 = status.workers.iter().map(|worker| worker.device_writes).sum();
    let packets: u64 = status.workers.iter().map(|worker| worker.rx_packets).sum();
    assert!(writes * 3 < packets, "{writes} writes of {packets} frames");
    let switch = switch(&daemons[0]);
    assert!(switch.local_macs >= 1 && switch.peer_macs >= 1, "{switch:?}");
    assert_eq!((switch.problem, switch.peers.keys().map(String::as_str).collect::<Vec<_>>()), (None, vec!["host2"]));
}

#[test]
fn a_question_whose_answer_is_known_is_not_asked_of_everybody() {
    let world = World::new(2, |_, _| {});
    let daemons = world.start();
    let [a, b, c] = [world.machine(1, 1), world.machine(2, 2), world.machine(1, 3)];
    for family in FAMILIES {
        exchange_udp(a.end(family), b.end(family), [100]);
    }
    // Another machine of the first host asks for the same: its questions are answered there.
    let before = switch(&daemons[0]).answered;
    let asks = |bytes: &[u8], asker: [u8; 6]| bytes.get(6..12) == Some(&asker[..]) && bytes[0] & 1 != 0;
    let mac = c.mac();
    let watch = Sniffer::open(&b.namespace, "eth0").watch(move |_, bytes| asks(bytes, mac).then(|| bytes.to_vec()));
    for family in FAMILIES {
        exchange_udp(c.end(family), b.end(family), [100]);
    }
    assert!(switch(&daemons[0]).answered >= before + 2);
    let is_question = |frame: &Vec<u8>| frame[12..14] == [8, 6] || (frame[12..14] == [0x86, 0xdd] && frame[54] == 135);
    let questions: Vec<_> = watch.collect().into_iter().filter(is_question).collect();
    assert!(questions.is_empty(), "{questions:x?}");
}

#[test]
fn who_claims_what_nobody_asked_for_is_not_believed_and_the_owner_is_asked() {
    let world = World::new(3, |_, _| {});
    let daemons = world.start();
    let [asker, owner] = [world.machine(1, 1), world.machine(3, 30)];
    let forger = world.card(2, 6);
    let IpAddr::V4(address) = owner.ip(Family::V4) else { unreachable!() };
    let claim = ArpPacket {
        operation: Operation::Reply,
        sender_mac: MacAddress(forger.mac),
        sender: address,
        target_mac: MacAddress::BROADCAST,
        target: address,
    };
    forger.send(&claim.emit_frame());
    wait_for("the claim to be heard", || (switch(&daemons[0]).peers.get("host2") >= Some(&1)).then_some(()));
    exchange_udp(asker.end(Family::V4), owner.end(Family::V4), [100]);
    // Where the owner was heard as well there is a dispute, and each question goes to everybody again: the forger hears it, and the owner answers.
    let _ = forger.find(Duration::from_millis(10), |_| None::<()>);
    forger.send(&claim.emit_frame());
    let mac = asker.mac();
    let to = owner.ip(Family::V4).to_string();
    wait_for("a question that everybody hears", || {
        let run = |program: &str, arguments: &[&str]| {
            asker.namespace.run(|| Command::new(program).args(arguments).output()).unwrap().unwrap().status.success()
        };
        assert!(run("ip", &["neighbour", "flush", "dev", "eth0"]));
        let answered = run("ping", &["-c1", "-W1", &to]);
        let is_question = |bytes: &[u8]| bytes[..6] == ALL && bytes[6..12] == mac && bytes[12..14] == [8, 6];
        let heard = forger.find(Duration::from_millis(100), |bytes| is_question(bytes).then_some(()));
        heard.filter(|()| answered)
    });
}

#[test]
fn a_narrow_way_to_one_says_nothing_of_the_ways_to_others() {
    let world = World::new(3, |_, end| end.mtu = Some(1500));
    let daemons = world.start();
    // The way to the third takes less, and whoever is meant is behind the second, where nobody has heard of it yet.
    world.host(1).run("ip", &["route", "add", "192.0.2.3/32", "dev", "under0", "mtu", "1400"]);
    wait_for("a narrow way", || {
        daemons[0].status().peers.iter().find(|peer| peer.name == "host3")?.path_mtu.filter(|mtu| *mtu <= 1340)
    });
    let [asker, owner] = [world.machine(1, 1), world.machine(2, 20)];
    let mac = owner.mac().map(|byte| format!("{byte:02x}")).join(":");
    let to = owner.ip(Family::V4).to_string();
    let ping = |size: &str| {
        let ping = || Command::new("ping").args(["-c1", "-W1", "-M", "do", "-s", size, &to]).output();
        let output = asker.namespace.run(ping).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let known = || {
        asker
            .namespace
            .run(|| Command::new("ip").args(["neighbour", "replace", &to, "lladdr", &mac, "dev", "eth0"]).status())
    };
    assert!(known().unwrap().unwrap().success());
    // 1,398 bytes with their headers: too long for the way to the third, and not for that to the second.
    let said = wait_for("an answer", || {
        Some(ping("1370")).filter(|said| said.contains("1 received") || said.contains("Frag needed"))
    });
    assert!(said.contains("1 received"), "{said}");
    // What is longer than the way to its owner takes is told.
    wait_for("the news", || ping("1470").contains("Frag needed").then_some(()));
}

/// A program that is ended with its value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The programs of busybox, which are in many an image.
#[test]
fn a_stock_dhcp_client_gets_its_address_of_a_stock_server_on_another_host() {
    let world = World::new(2, |_, _| {});
    let _daemons = world.start();
    let server = world.machine(1, 1);
    let client = Machine::bare(world.host(2), 2);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let configuration = format!(
        "start 10.88.0.100\nend 10.88.0.120\ninterface eth0\nlease_file {}\npidfile {}\noption subnet 255.255.255.0\n\
         option router 10.88.0.1\noption lease 600\n",
        path("leases"),
        path("pid")
    );
    std::fs::write(path("udhcpd.conf"), configuration).unwrap();
    std::fs::write(path("leases"), "").unwrap();
    let run = |machine: &Machine, arguments: &[&str]| {
        let mut command = Command::new("busybox");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Program(machine.namespace.run(|| command.spawn()).unwrap().unwrap())
    };
    let _server = run(&server, &["udhcpd", "-f", &path("udhcpd.conf")]);
    let script = path("script");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ \"$1\" = bound ] && ip address add \"$ip/24\" dev \"$interface\" && exit 0\nexit 0\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let _client = run(&client, &["udhcpc", "-f", "-i", "eth0", "-s", &script, "-t", "20", "-T", "1"]);
    let got = wait_for("an address by DHCP", || {
        let addresses = Netlink::open_in(&client.namespace).unwrap().addresses(None).unwrap();
        addresses.into_iter().map(|a| a.net.addr()).find(|ip| ip.to_string().starts_with("10.88.0.1"))
    });
    let IpAddr::V4(got) = got else { panic!("{got}") };
    assert!((100..=120).contains(&got.octets()[3]), "{got}");
    exchange_tcp(
        crate::bed::traffic::End::new(&client.namespace, got.into()),
        server.end(Family::V4),
        100_000,
        100_000,
    );
}

#[test]
fn what_is_sent_to_a_group_arrives_on_every_host() {
    let world = World::new(3, |_, _| {});
    let _daemons = world.start();
    let sender = world.machine(1, 1);
    let receivers = [world.machine(2, 2), world.machine(3, 3), world.machine(1, 4)];
    let four = Ipv4Addr::new(239, 7, 7, 7);
    let six: Ipv6Addr = "ff02::4242".parse().unwrap();
    for family in FAMILIES {
        let index_in =
            |machine: &Machine| Netlink::open_in(&machine.namespace).unwrap().existing_link("eth0").unwrap().index;
        let sockets: Vec<UdpSocket> = receivers
            .iter()
            .map(|machine| {
                let everywhere: SocketAddr = match family {
                    Family::V4 => "0.0.0.0:7000".parse().unwrap(),
                    Family::V6 => "[::]:7000".parse().unwrap(),
                };
                let socket = machine.namespace.run(|| UdpSocket::bind(everywhere)).unwrap().unwrap();
                match (family, machine.ip(Family::V4)) {
                    (Family::V4, IpAddr::V4(own)) => socket.join_multicast_v4(&four, &own).unwrap(),
                    _ => socket.join_multicast_v6(&six, index_in(machine)).unwrap(),
                }
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            })
            .collect();
        let socket = sender.end(family).udp();
        let to: SocketAddr = match family {
            Family::V4 => (four, 7000).into(),
            Family::V6 => std::net::SocketAddrV6::new(six, 7000, 0, index_in(&sender)).into(),
        };
        if family == Family::V4 {
            // A way for groups, as a machine with a default route has it.
            let run = || Command::new("ip").args(["route", "add", "224.0.0.0/4", "dev", "eth0"]).status();
            assert!(sender.namespace.run(run).unwrap().unwrap().success());
        }
        socket.send_to(b"to all who listen", to).unwrap();
        for socket in &sockets {
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"to all who listen");
            assert_eq!(from.ip(), sender.ip(family));
        }
    }
}

#[test]
fn a_machine_that_sends_longer_packets_is_told_or_served() {
    // The bridge lets through what machines with the usual 1500 bytes send.
    let world = World::new(2, |_, end| end.mtu = Some(1500));
    let _daemons = world.start();
    let [a, b] = [world.machine(1, 1), world.machine(2, 2)];
    for family in FAMILIES {
        exchange_tcp(a.end(family), b.end(family), 1_000_001, 1_000_003);
    }
    // IPv4 without "don't fragment" is cut on the way; with it, and IPv6, the sender learns the size and cuts by itself.
    for family in FAMILIES {
        let (here, there) = (a.end(family).udp(), b.end(family).udp());
        let to = there.local_addr().unwrap();
        let payload = vec![7; 1440];
        let mut buffer = [0; 2000];
        there.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let length = wait_for("a long datagram", || {
            // The first ones may be refused: by the news about the size.
            let _ = here.send_to(&payload, to);
            there.recv(&mut buffer).ok()
        });
        assert_eq!(buffer[..length], payload, "{family:?}");
    }
}
