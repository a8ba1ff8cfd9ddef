//! A container that may send what it likes by its device (CAP_NET_RAW and more): its neighbours notice nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use adit::container::filters::link_local;
use etherparse::PacketBuilder;
use linux::capture::Direction;
use linux::netlink::Netlink;
use wire::vnet::VnetHdr;

use crate::bed::packet;
use crate::bed::sniffer::{Injector, Sniffer};
use crate::bed::traffic::{End, exchange_tcp};
use crate::world::{Container, World};

const DUAL: &[&str] = &["10.42.7.0/24", "fd42:0:0:7::/64"];
const EVERYBODY: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// An attacker and its neighbour on one node.
struct Scene {
    world: World,
    attacker: Container,
    victim: Container,
}

impl Scene {
    fn new() -> Self {
        let world = World::new(DUAL);
        let [attacker, victim] = [world.container(), world.container()];
        // Both are known, as after some traffic.
        for v6 in [false, true] {
            let gateway = world.node.gateways().map(|net| net.addr()).find(|ip| ip.is_ipv6() == v6).unwrap();
            let host = End::new(&world.bed.host(1).namespace, gateway);
            for container in [&victim, &attacker] {
                exchange_tcp(End::new(&container.namespace, container.ip(v6)), host, 10, 10);
            }
            let to = End::new(&victim.namespace, victim.ip(v6));
            exchange_tcp(End::new(&attacker.namespace, attacker.ip(v6)), to, 10, 10);
        }
        Self { world, attacker, victim }
    }

    fn macs(&self) -> ([u8; 6], [u8; 6]) {
        (self.attacker.record.mac, self.victim.record.mac)
    }

    fn v4(container: &Container) -> Ipv4Addr {
        let IpAddr::V4(ip) = container.ip(false) else { panic!("IPv4") };
        ip
    }

    fn v6(container: &Container) -> Ipv6Addr {
        let IpAddr::V6(ip) = container.ip(true) else { panic!("IPv6") };
        ip
    }

    /// What the victim, and all others of the bridge, know: neighbours of the victim and of the host, and behind which port an address is.
    fn knowledge(&self) -> Vec<String> {
        let mut known = Vec::new();
        let inside = Netlink::open_in(&self.victim.namespace).unwrap();
        for (mut netlink, device) in [(inside, "eth0"), (self.world.netlink(), "adit-br0")] {
            let index = netlink.existing_link(device).unwrap().index;
            for neighbour in netlink.neighbours(Some(index)).unwrap() {
                // Groups have entries too, which nobody taught: whoever reports to a group makes one.
                if neighbour.address.is_multicast() {
                    continue;
                }
                known.extend(neighbour.mac.map(|mac| format!("{device}: {} is at {mac:02x?}", neighbour.address)));
            }
            let mut routes = netlink.routes(None).unwrap();
            routes.retain(|route| route.device == Some(index));
            known.extend(routes.iter().map(|route| format!("{device}: {route}")));
        }
        let mut host = self.world.netlink();
        for container in [&self.attacker, &self.victim] {
            let port = host.existing_link(&container.record.host_interface).unwrap().index;
            let macs = host.forwarding(port).unwrap();
            known.extend(macs.iter().map(|entry| format!("{}: {:02x?}", container.record.host_interface, entry.mac)));
        }
        known.sort();
        known.dedup();
        known
    }

    fn compare(&self, before: &[String]) {
        let now = self.knowledge();
        let (new, lost): (Vec<_>, Vec<_>) = (
            now.iter().filter(|fact| !before.contains(fact)).collect(),
            before.iter().filter(|fact| !now.contains(fact)).collect(),
        );
        assert!(new.is_empty() && lost.is_empty(), "others know {new:?} now, and no more {lost:?}");
    }

    /// The attacker sends these frames; none of them comes to the victim, and nobody knows anything else than before.
    fn attack(&self, frames: &[(&str, Vec<u8>)]) {
        let before = self.knowledge();
        let mut sniffer = Sniffer::open(&self.victim.namespace, "eth0");
        let mut host = Sniffer::open(&self.world.bed.host(1).namespace, "adit-br0");
        let mut injector = Injector::open(&self.attacker.namespace, "eth0");
        for (what, frame) in frames {
            injector.send(&VnetHdr::NONE, frame).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        // What it may send arrives, behind all that it may not.
        let (mac, to) = self.macs();
        let ip = Self::v4(&self.attacker);
        for destination in [(to, Self::v4(&self.victim)), (self.world.node.bridge_mac(), Ipv4Addr::new(10, 42, 7, 1))] {
            let (from, to) = (SocketAddr::from((ip, 9)), SocketAddr::from((destination.1, 9)));
            injector.send(&VnetHdr::NONE, &packet::frame((mac, destination.0), from, to, packet::MARK)).unwrap();
        }
        for (who, sniffer) in [("the neighbour", &mut sniffer), ("the host", &mut host)] {
            let seen = sniffer.find("what it may send", |captured, bytes| {
                if captured.direction == Direction::Outgoing {
                    return None;
                }
                let attack = frames.iter().find(|(_, frame)| is_same(bytes, frame));
                match attack {
                    Some((what, _)) => Some(Some(*what)),
                    None => crate::bed::sniffer::contains(bytes, packet::MARK).then_some(None),
                }
            });
            assert_eq!(seen, None, "{who} gets what should have ended");
        }
        self.compare(&before);
        exchange_tcp(
            End::new(&self.victim.namespace, self.victim.ip(false)),
            End::new(&self.world.bed.host(1).namespace, "10.42.7.1".parse().unwrap()),
            1000,
            1000,
        );
    }
}

/// Whether these are the bytes of that frame, maybe without its VLAN tag, and padded.
fn is_same(bytes: &[u8], frame: &[u8]) -> bool {
    bytes.starts_with(frame)
        || (frame[12..14] == [0x81, 0] && bytes.len() > 12 && bytes[12..].starts_with(&frame[16..]))
}

fn ethernet(from: [u8; 6], to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An ARP packet (RFC 826): operation 1 asks, 2 answers.
fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    [&head[..], &operation.to_be_bytes(), &sender.0, &sender.1.octets(), &target.0, &target.1.octets()].concat()
}

/// An ICMPv6 message in a frame, with its checksum.
fn icmpv6(macs: ([u8; 6], [u8; 6]), ips: (Ipv6Addr, Ipv6Addr), kind: u8, body: &[u8]) -> Vec<u8> {
    let rest: [u8; 4] = body[..4].try_into().unwrap();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv6(ips.0.octets(), ips.1.octets(), 255);
    let mut frame = Vec::new();
    builder.icmpv6_raw(kind, 0, rest).write(&mut frame, &body[4..]).unwrap();
    frame
}

/// The body of a neighbour advertisement (RFC 4861, section 4.4) that overrides: this address is at that link-layer address.
fn advertisement(target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat()
}

/// The body of a router advertisement (section 4.2): a default route for half an hour, and a prefix to have addresses of.
fn router_advertisement(mac: [u8; 6]) -> Vec<u8> {
    let prefix = [
        &[3, 4, 64, 0xc0, 0, 0, 0x20, 0, 0, 0, 0x10, 0, 0, 0, 0, 0][..],
        &[0x20, 1, 0xd, 0xb8, 0, 0x66, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1, 1], &mac, &prefix.concat()].concat()
}

/// The same frame with extension headers before the ICMPv6 message.
fn behind_options(frame: &[u8]) -> Vec<u8> {
    let mut longer = frame.to_vec();
    // Hop-by-hop options (0), six bytes of padding in them (RFC 8200, section 4.3).
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    longer[18..20].copy_from_slice(&length.to_be_bytes());
    longer[20] = 0;
    longer.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    longer
}

fn udp(macs: ([u8; 6], [u8; 6]), from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    let kind = if from.0.is_ipv4() { 0x0800 } else { 0x86dd };
    ethernet(macs.0, macs.1, kind, &packet::UdpPacket::new(from, to, b"an attack of sixteen bytes or more").bytes())
}

#[test]
fn arp_for_others() {
    let scene = Scene::new();
    let (own, victim) = scene.macs();
    let (ip, victim_ip) = (Scene::v4(&scene.attacker), Scene::v4(&scene.victim));
    let gateway = Ipv4Addr::new(10, 42, 7, 1);
    scene.attack(&[
        ("it is the gateway", ethernet(own, victim, 0x0806, &arp(2, (own, gateway), (victim, victim_ip)))),
        ("it is the gateway, to all", ethernet(own, EVERYBODY, 0x0806, &arp(1, (own, gateway), ([0; 6], gateway)))),
        (
            "it is the victim",
            ethernet(own, scene.world.node.bridge_mac(), 0x0806, &arp(2, (own, victim_ip), ([0; 6], gateway))),
        ),
        ("it asks as the victim", ethernet(own, EVERYBODY, 0x0806, &arp(1, (own, victim_ip), ([0; 6], gateway)))),
        ("it is at another's", ethernet(own, victim, 0x0806, &arp(2, (victim, ip), (victim, victim_ip)))),
        ("as somebody else", ethernet([2, 0, 0, 0, 0, 9], victim, 0x0806, &arp(2, (own, ip), (victim, victim_ip)))),
    ]);
}

#[test]
fn addresses_of_others() {
    let scene = Scene::new();
    let macs = scene.macs();
    let (own4, own6) = (scene.attacker.ip(false), scene.attacker.ip(true));
    let (to4, to6) = ((scene.victim.ip(false), 5353), (scene.victim.ip(true), 5353));
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let bridge = scene.world.node.bridge_mac();
    scene.attack(&[
        ("another link-layer address", udp(([2, 0, 0, 0, 0, 9], macs.1), (own4, 1000), to4)),
        ("the victim's link-layer address", udp((macs.1, macs.1), (own4, 1000), to4)),
        ("the bridge's link-layer address", udp((bridge, macs.1), (own4, 1000), to4)),
        ("the gateway's address", udp(macs, (ip("10.42.7.1"), 53), to4)),
        ("an unused address", udp(macs, (ip("10.42.7.99"), 53), to4)),
        ("another node's", udp(macs, (ip("10.42.8.2"), 53), to4)),
        ("the world's", udp(macs, (ip("198.51.100.1"), 53), to4)),
        ("no address", udp((macs.0, EVERYBODY), (ip("0.0.0.0"), 68), (ip("255.255.255.255"), 67))),
        ("the host's loopback", udp(macs, (ip("127.0.0.1"), 53), to4)),
        ("the gateway's, IPv6", udp(macs, (ip("fd42:0:0:7::1"), 53), to6)),
        ("an unused one, IPv6", udp(macs, (ip("fd42:0:0:7::99"), 53), to6)),
        ("the victim's own, IPv6", udp(macs, to6, to6)),
        ("another's on the link", udp(macs, (IpAddr::V6(link_local(macs.1)), 53), to6)),
        ("the victim's to the host", udp((macs.0, bridge), to4, (ip("10.42.7.1"), 9))),
        ("own with another link-layer address, IPv6", udp(([2, 0, 0, 0, 0, 9], macs.1), (own6, 9), to6)),
    ]);
}

#[test]
fn rogue_routers_and_dhcp_servers() {
    let scene = Scene::new();
    let (own, victim) = scene.macs();
    let link = link_local(own);
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let router = icmpv6((own, ALL_NODES), (link, all), 134, &router_advertisement(own));
    let to_victim = icmpv6((own, victim), (link, Scene::v6(&scene.victim)), 134, &router_advertisement(own));
    let redirect = [&[0; 4][..], &link.octets(), &"2001:db8::9".parse::<Ipv6Addr>().unwrap().octets()].concat();
    let (ip4, ip6) = (scene.attacker.ip(false), IpAddr::V6(link));
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    scene.attack(&[
        ("a router behind options", behind_options(&router)),
        ("a router", router),
        ("a router, to the victim alone", to_victim),
        ("a redirect", icmpv6((own, victim), (link, link_local(victim)), 137, &redirect)),
        ("a DHCP server", udp((own, EVERYBODY), (ip4, 67), (ip("255.255.255.255"), 68))),
        ("a DHCP server, to the victim alone", udp((own, victim), (ip4, 67), (scene.victim.ip(false), 68))),
        ("a DHCPv6 server", udp((own, victim), (ip6, 547), (IpAddr::V6(link_local(victim)), 546))),
    ]);
    // Nor does anybody believe one that came by another way.
    for (namespace, device) in [(&scene.victim.namespace, "eth0"), (&scene.world.bed.host(1).namespace, "adit-br0")] {
        let heed = namespace.run(|| linux::sysctl::get(&["net", "ipv6", "conf", device, "accept_ra"])).unwrap();
        assert_eq!(heed.unwrap(), "0");
    }
}

#[test]
fn neighbours_that_are_others() {
    let scene = Scene::new();
    let (own, victim) = scene.macs();
    let (ip, to) = (Scene::v6(&scene.attacker), Scene::v6(&scene.victim));
    let gateway: Ipv6Addr = "fd42:0:0:7::1".parse().unwrap();
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let nobody = Ipv6Addr::UNSPECIFIED;
    let asks = [&[0; 4][..], &to.octets()].concat();
    scene.attack(&[
        ("it is the gateway", icmpv6((own, victim), (ip, to), 136, &advertisement(gateway, own))),
        ("it is the gateway, to all", icmpv6((own, ALL_NODES), (ip, all), 136, &advertisement(gateway, own))),
        ("it is the victim", icmpv6((own, ALL_NODES), (link_local(own), all), 136, &advertisement(to, own))),
        (
            "it is the victim, behind options",
            behind_options(&icmpv6((own, ALL_NODES), (ip, all), 136, &advertisement(to, own))),
        ),
        ("it wants the victim's address", icmpv6((own, victim), (nobody, to), 135, &asks)),
        ("nobody advertises", icmpv6((own, victim), (nobody, to), 136, &advertisement(gateway, own))),
    ]);
}

#[test]
fn frames_that_are_not_ip() {
    let scene = Scene::new();
    let (own, victim) = scene.macs();
    let gateway = Ipv4Addr::new(10, 42, 7, 1);
    let bridges = [0x01, 0x80, 0xc2, 0, 0, 0];
    // A configuration BPDU behind an LLC header: the best bridge there is (IEEE 802.1D, section 9.3.1).
    let bpdu = [
        &[0x42, 0x42, 3, 0, 0, 0, 0, 0][..],
        &[0; 8],
        &own,
        &[0; 4],
        &[0; 8],
        &own,
        &[0x80, 1],
        &[0, 0, 20, 0, 2, 0, 15, 0],
    ]
    .concat();
    let tagged = [&[0, 7, 8, 6][..], &arp(2, (own, gateway), (victim, Scene::v4(&scene.victim)))].concat();
    scene.attack(&[
        ("spanning tree", ethernet(own, bridges, u16::try_from(bpdu.len()).unwrap(), &bpdu)),
        ("spanning tree, to the victim", ethernet(own, victim, u16::try_from(bpdu.len()).unwrap(), &bpdu)),
        ("LLDP", ethernet(own, victim, 0x88cc, &[2, 7, 4, 1, 2, 3, 4, 5, 6, 0, 0])),
        ("pause", ethernet(own, [0x01, 0x80, 0xc2, 0, 0, 1], 0x8808, &[0, 1, 0xff, 0xff])),
        ("in a VLAN", ethernet(own, victim, 0x8100, &tagged)),
        ("in two VLANs", ethernet(own, victim, 0x88a8, &[&[0, 3, 0x81, 0][..], &tagged].concat())),
        ("a private protocol", ethernet(own, victim, 0x88b5, &[0; 46])),
    ]);
}

#[test]
fn the_hosts_loopback_is_out_of_reach() {
    let scene = Scene::new();
    let host = &scene.world.bed.host(1).namespace;
    // A published port lets the host itself in by 127.0.0.1, for which its bridge routes such addresses.
    let web = scene.world.publishing("8080:80");
    let heard = host.run(|| UdpSocket::bind("127.0.0.1:5300")).unwrap().unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let macs = (scene.attacker.record.mac, scene.world.node.bridge_mac());
    let to = ("127.0.0.1".parse().unwrap(), 5300);
    scene.attack(&[("to 127.0.0.1", udp(macs, (scene.attacker.ip(false), 1000), to))]);
    assert!(heard.recv(&mut [0; 64]).is_err());
    let listener = web.namespace.run(|| TcpListener::bind((web.ip(false), 80))).unwrap().unwrap();
    let stream = host.run(|| TcpStream::connect("127.0.0.1:8080")).unwrap().unwrap();
    assert_eq!(listener.accept().unwrap().0.local_addr().unwrap(), (web.ip(false), 80).into());
    drop(stream);
}

#[test]
fn a_container_that_changes_itself_is_cut_off_alone() {
    let scene = Scene::new();
    let mut inside = Netlink::open_in(&scene.attacker.namespace).unwrap();
    let link = inside.existing_link("eth0").unwrap();
    // The victim's address as its own.
    inside.add_address(link.index, "10.42.7.200/24".parse().unwrap(), true).unwrap();
    let before = scene.knowledge();
    let to: SocketAddr = (scene.victim.ip(false), 9).into();
    let as_other = scene.attacker.namespace.run(|| UdpSocket::bind("10.42.7.200:0")).unwrap().unwrap();
    let mut sniffer = Sniffer::open(&scene.victim.namespace, "eth0");
    as_other.send_to(packet::MARK, to).unwrap();
    let own = scene.attacker.namespace.run(|| UdpSocket::bind((scene.attacker.ip(false), 0))).unwrap().unwrap();
    own.send_to(b"it may send this", to).unwrap();
    let first = sniffer.find("what it may send", |_, bytes| {
        let contains = |what| crate::bed::sniffer::contains(bytes, what);
        if contains(packet::MARK) { Some("spoofed") } else { contains(b"it may send this").then_some("own") }
    });
    assert_eq!(first, "own");
    scene.compare(&before);
}
