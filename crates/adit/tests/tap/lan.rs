//! Machines on bridges of different hosts are neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use linux::netlink::Netlink;

use crate::bed::sniffer::Sniffer;
use crate::bed::traffic::{exchange_tcp, exchange_udp};
use crate::bed::{Family, PATIENCE, wait_for};
use crate::world::{Machine, World, switch};

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
        there.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let length = wait_for("a long datagram", || {
            // The first ones may be refused: by the news about the size.
            let _ = here.send_to(&payload, to);
            there.recv(&mut buffer).ok()
        });
        assert_eq!(buffer[..length], payload, "{family:?}");
    }
}
