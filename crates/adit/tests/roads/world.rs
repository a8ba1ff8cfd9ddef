//! A host with two cards in public networks and one in a private one, the router of all of them, and a host behind the router
//! that is the other end of the tunnel and, for the sake of tests, the rest of the world.
//!
//! ```text
//!   lan (192.168.7.2) ── lan0 ┐                     ┌ port1 ┐
//!                             host ── eth0 ─────────┤       router ── out ── far (203.0.113.2, and all of the world)
//!                                  └─ eth1 ─────────┤ port2 ┘
//! ```

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use linux::capture::{Captured, Direction};
use linux::netlink::{Netlink, Route, VethEnd};
use linux::netns::NetNs;
use linux::nft::{self, Nft};
use linux::sysctl;

use crate::bed::daemon::{Configuration, PORT, Place};
use crate::bed::guard::Guard;
use crate::bed::packet::Random;
use crate::bed::sniffer::{Sniffer, Watch};
use crate::bed::traffic::{End, connection, exchange_over, exchange_tcp};
use crate::bed::{Family, Host, PATIENCE, await_address, enter, wait_for};

/// Where the router is, as the host's cards see it.
pub(crate) const GATEWAYS: [[&str; 2]; 2] = [["192.0.2.254", "2001:db8:1::fe"], ["198.51.100.254", "2001:db8:2::fe"]];

/// Hosts in the world, which the far end is.
pub(crate) const WORLD: [&str; 2] = ["9.9.9.9", "2620:fe::fe"];

/// The far end's address on the underlay.
pub(crate) const FAR: [&str; 2] = ["203.0.113.2", "2001:db8:3::2"];

/// A neighbour in the private network.
pub(crate) const NEIGHBOUR: [&str; 2] = ["192.168.7.2", "fd07::2"];

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) router: NetNs,
    pub(crate) far: Host,
    pub(crate) lan: NetNs,
}

/// Joins two namespaces by a pair of devices with addresses.
fn join(ends: [(&NetNs, &str, [&str; 2]); 2]) {
    let [a, b] = ends.map(|(namespace, name, _)| VethEnd { name, netns: Some(namespace), ..VethEnd::default() });
    Netlink::open().unwrap().create_veth(&a, &b).unwrap();
    for (namespace, name, addresses) in ends {
        let mut netlink = Netlink::open_in(namespace).unwrap();
        let index = netlink.existing_link(name).unwrap().index;
        netlink.set_up(index, true).unwrap();
        for address in addresses {
            let net: IpNet = address.parse().unwrap();
            netlink.add_address(index, net, true).unwrap();
            await_address(namespace, net.addr());
        }
    }
}

fn set(namespace: &NetNs, name: &[&str], value: &str) {
    namespace.run(|| sysctl::set(name, value)).unwrap().unwrap();
}

pub(crate) fn which(family: Family) -> usize {
    usize::from(family == Family::V6)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A route as somebody types it: `ip route add` understands both families.
pub(crate) fn route(host: &Host, verb: &str, words: &str) {
    let family = if words.contains(':') { "-6" } else { "-4" };
    let arguments: Vec<_> = [family, "route", verb].into_iter().chain(words.split(' ')).collect();
    host.run("ip", &arguments);
}

impl World {
    pub(crate) fn new() -> Self {
        enter();
        let fresh = || {
            let namespace = NetNs::anonymous().unwrap();
            set(&namespace, &["net", "ipv6", "conf", "default", "accept_dad"], "0");
            Netlink::open_in(&namespace).unwrap().set_up(1, true).unwrap();
            namespace
        };
        let (host, router, far, lan) = (fresh(), fresh(), fresh(), fresh());
        // From the first card on: a card takes it from there.
        for of in ["all", "default"] {
            set(&host, &["net", "ipv4", "conf", of, "rp_filter"], "1");
        }
        set(&router, &["net", "ipv4", "ip_forward"], "1");
        set(&router, &["net", "ipv6", "conf", "all", "forwarding"], "1");
        join([
            (&host, "eth0", ["192.0.2.1/24", "2001:db8:1::1/64"]),
            (&router, "port1", ["192.0.2.254/24", "2001:db8:1::fe/64"]),
        ]);
        join([
            (&host, "eth1", ["198.51.100.1/24", "2001:db8:2::1/64"]),
            (&router, "port2", ["198.51.100.254/24", "2001:db8:2::fe/64"]),
        ]);
        join([
            (&router, "out", ["203.0.113.254/24", "2001:db8:3::fe/64"]),
            (&far, "under0", ["203.0.113.2/24", "2001:db8:3::2/64"]),
        ]);
        join([(&host, "lan0", ["192.168.7.1/24", "fd07::1/64"]), (&lan, "eth0", ["192.168.7.2/24", "fd07::2/64"])]);
        // Witnesses look closer, and a host whose tunnel was stopped may show what it was.
        let guard = Arc::new(Guard::new(&router, 0));
        guard.switch_off();
        let as_host =
            |number, namespace: &NetNs| Host { number, namespace: namespace.clone(), guard: Arc::clone(&guard) };
        let world = Self { host: as_host(1, &host), router, far: as_host(2, &far), lan };
        for family in FAMILIES {
            let i = which(family);
            let everywhere = ["0.0.0.0/0", "::/0"][i];
            // Whatever the host sends in the clear finds its way: a leak would be answered.
            for (place, gateway) in [
                (&world.host.namespace, GATEWAYS[0][i]),
                (&world.far.namespace, ["203.0.113.254", "2001:db8:3::fe"][i]),
                (&world.router, FAR[i]),
            ] {
                let default =
                    Route { gateway: Some(ip(gateway)), protocol: 4, ..Route::new(everywhere.parse().unwrap()) };
                Netlink::open_in(place).unwrap().add_route(&default).unwrap();
            }
            // The first address of a device is the source of what has no other.
            let net: IpNet = ip(WORLD[i]).into();
            Netlink::open_in(&world.far.namespace).unwrap().add_address(1, net, true).unwrap();
            await_address(&world.far.namespace, ip(WORLD[i]));
        }
        world
    }

    /// Both ends of a tunnel that takes everything, over this family.
    pub(crate) fn pair(&self, outer: Family, transport: &'static str) -> [Configuration; 2] {
        let (i, listen) = (which(outer), format!("[::]:{PORT}"));
        let mut pair = [Configuration::new(&self.host, &[2], outer), Configuration::new(&self.far, &[1], outer)];
        for end in &mut pair {
            end.listen.clone_from(&listen);
        }
        // As in files of wg-quick: no network beside the address.
        pair[0].addresses = vec!["10.77.0.1/32".into(), "fd77::1/128".into()];
        pair[0].peers[0].allowed_ips = vec!["0.0.0.0/0".into(), "::/0".into()];
        pair[0].peers[0].endpoint = crate::bed::at(ip(FAR[i]), PORT).to_string();
        // It calls; the other one is called.
        pair[1].peers[0].endpoint = String::new();
        if transport == "plain" {
            pair[1].peers[0].endpoint = crate::bed::at(ip(["192.0.2.1", "2001:db8:1::1"][i]), PORT).to_string();
            return pair;
        }
        Configuration::with_keys(pair, transport)
    }

    pub(crate) fn places(&self, [one, two]: &[Configuration; 2]) -> [Place; 2] {
        [Place::new(&self.host, one), Place::new(&self.far, two)]
    }

    /// The host's end in the tunnel.
    pub(crate) fn inner(&self, family: Family) -> End<'_> {
        End::new(&self.host.namespace, self.host.inner(family))
    }

    /// Somebody in the world.
    pub(crate) fn world(&self, family: Family) -> End<'_> {
        End::new(&self.far.namespace, ip(WORLD[which(family)]))
    }

    /// A connection from wherever the host's tables say, which the world takes for one from inside the tunnel.
    pub(crate) fn reaches_the_world(&self) {
        let mut ours = Vec::new();
        for family in FAMILIES {
            let (a, b) = connection(self.inner(family), self.world(family));
            assert_eq!(b.peer_addr().unwrap().ip(), self.host.inner(family));
            ours.push(a.local_addr().unwrap().to_string());
            let mut random = Random::new(3);
            exchange_over((&a, &b), &random.bytes(100_001), &random.bytes(100_003));
        }
        // Said again when the tunnel is gone, the last words of a connection would leave in the clear.
        wait_for("the connections' last words", || {
            let sockets = self.host.run("ss", &["-Htan"]);
            let speaks =
                |line: &str| !line.starts_with("TIME-WAIT") && ours.iter().any(|end| line.contains(end.as_str()));
            (!sockets.lines().any(speaks)).then_some(())
        });
    }

    /// The same with the neighbour, which needs no tunnel.
    pub(crate) fn reaches_its_neighbour(&self) {
        for family in FAMILIES {
            let own = End::new(&self.host.namespace, ip(["192.168.7.1", "fd07::1"][which(family)]));
            let neighbour = End::new(&self.lan, ip(NEIGHBOUR[which(family)]));
            exchange_tcp(own, neighbour, 10_001, 10_003);
            exchange_tcp(neighbour, own, 10_001, 10_003);
        }
    }

    /// Whether the world can be reached in the clear.
    pub(crate) fn reaches_the_world_in_the_clear(&self) {
        for family in FAMILIES {
            let listener = self.world(family).listen();
            let stream = self.world_stream(listener.local_addr().unwrap());
            let peer = listener.accept().unwrap().1.ip();
            assert_eq!(peer, ip(["192.0.2.1", "2001:db8:1::1"][which(family)]));
            drop(stream);
        }
    }

    fn world_stream(&self, to: SocketAddr) -> TcpStream {
        self.host.namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap()
    }

    /// Tries to send whatever a host sends, to whomever; nothing of it has to arrive.
    pub(crate) fn try_everything(&self) {
        let mut random = Random::new(9);
        for to in [
            "9.9.9.9",
            "1.1.1.1",
            "192.0.2.77",
            "198.51.100.77",
            "203.0.113.2",
            "203.0.113.254",
            "10.9.9.9",
            "172.16.0.9",
            "192.168.8.9",
            "100.64.0.9",
            "129.0.0.1",
            "2620:fe::fe",
            "2606:4700::1",
            "fd99::1",
            "2001:db8:1::77",
            "2001:db8:3::2",
        ] {
            let to = ip(to);
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            self.host
                .namespace
                .run(|| {
                    let socket = UdpSocket::bind((any, 0)).unwrap();
                    for (port, length) in [(53, 40), (443, 1200), (PORT, 148)] {
                        let _ = socket.send_to(&random.bytes(length), (to, port));
                    }
                    let _ = TcpStream::connect_timeout(&SocketAddr::new(to, 443), Duration::from_millis(20));
                })
                .unwrap();
        }
        // Pings, and such as choose the card themselves.
        let pings = [
            "-4 9.9.9.9",
            "-6 2620:fe::fe",
            "-4 192.0.2.254",
            "-4 -I eth0 9.9.9.9",
            "-6 -I eth0 2620:fe::fe",
            "-4 -I eth1 9.9.9.9",
            "-4 -I eth0 10.9.9.9",
            "-4 -I 192.0.2.1 9.9.9.9",
            "-6 -I 2001:db8:1::1 2620:fe::fe",
        ];
        let running = pings.map(|words| {
            let mut command = Command::new("ping");
            command.args(["-n", "-c", "1", "-W", "1", "-w", "1"]).args(words.split(' '));
            command.stdout(Stdio::null()).stderr(Stdio::null());
            self.host.namespace.run(|| command.spawn()).unwrap().unwrap()
        });
        for mut ping in running {
            ping.wait().unwrap();
        }
    }

    /// Watches both cards in public networks from the other side of their cables.
    pub(crate) fn watch(&self) -> Witness {
        let watch = |port: &str, gateways: [&'static str; 2]| {
            let name = port.to_owned();
            Sniffer::open(&self.router, port).watch(move |captured, frame| {
                (captured.direction == Direction::Incoming)
                    .then(|| judge(captured, frame, gateways).map_err(|what| format!("{name} sees {what}")))
            })
        };
        Witness([watch("port1", GATEWAYS[0]), watch("port2", GATEWAYS[1])])
    }

    /// Rules, the tunnel's table, packet filters and the setting, as they are printed. What was counted so far is left out.
    pub(crate) fn roads(&self) -> String {
        let script = "ip rule; ip -6 rule; ip route show table 51820; ip -6 route show table 51820; ip route show table 51821; \
                      ip -6 route show table 51821; nft list ruleset; \
                      sysctl net.ipv4.conf.all.src_valid_mark";
        let text = self.host.namespace.run(|| Command::new("sh").args(["-c", script]).output()).unwrap().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        let words = text.split(' ').scan(0, |skip, word| {
            let left_out = *skip > 0;
            *skip = if matches!(word, "packets" | "bytes") { 1 } else { 0 };
            Some(if left_out { "" } else { word })
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// How many packets to the tunnel's addresses were turned away.
    pub(crate) fn intruders(&self) -> u64 {
        let rules = Nft::open_in(&self.host.namespace).unwrap().rules(nft::Family::Inet, "adit-adit0").unwrap();
        rules
            .iter()
            .filter(|rule| rule.chain == "arrive")
            .filter_map(|rule| rule.counter)
            .map(|(packets, _)| packets)
            .sum()
    }

    /// Checks that the host is as it was.
    pub(crate) fn check(&self, before: &[String]) {
        let after = self.state();
        let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let less: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        assert!(after == before, "too much: {more:#?}, too little: {less:#?}");
    }

    /// All that the program must leave as it was.
    pub(crate) fn state(&self) -> Vec<String> {
        let commands = [
            "ip -d link",
            "ip address",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
            "nft list ruleset",
            "sysctl -a -r ^net.ipv[46].conf.(all|default|eth0|eth1|lan0)",
        ];
        let all = commands.map(|command| {
            let mut words = command.split(' ');
            self.host.run(words.next().unwrap(), &words.collect::<Vec<_>>())
        });
        // A device that was made anew has another number.
        let line = |line: &str| match line.split_once(": ") {
            Some((number, rest)) if rest.starts_with("adit") && number.parse::<u32>().is_ok() => rest.to_owned(),
            _ => line.to_owned(),
        };
        all.iter().flat_map(|text| text.lines().map(line)).collect()
    }
}

/// Those who watch.
pub(crate) struct Witness([Watch<Result<(), String>>; 2]);

impl Witness {
    /// Nothing but our datagrams passed; answers how many, per card.
    pub(crate) fn testify(self) -> [usize; 2] {
        self.0.map(|watch| {
            let seen = watch.collect();
            let leaks: Vec<_> = seen.iter().filter_map(|seen| seen.as_ref().err()).take(5).collect();
            assert!(leaks.is_empty(), "around the tunnel: {leaks:#?}");
            seen.len()
        })
    }

    /// What passed that is not ours.
    pub(crate) fn leaks(self) -> Vec<String> {
        self.0.into_iter().flat_map(Watch::collect).filter_map(Result::err).collect()
    }
}

/// What may leave the host: our datagrams, and what a card needs to find its router.
fn judge(captured: &Captured, frame: &[u8], gateways: [&str; 2]) -> Result<(), String> {
    let start = &frame[..frame.len().min(80)];
    let leak = |what: &str| Err(format!("{what}, {} bytes: {start:02x?}", captured.length));
    let packet = &frame[14..];
    let is_gateway = |bytes: &[u8]| {
        gateways.iter().any(|gateway| match ip(gateway) {
            IpAddr::V4(gateway) => bytes == gateway.octets(),
            IpAddr::V6(gateway) => bytes == gateway.octets(),
        })
    };
    let is_far = |bytes: &[u8]| {
        FAR.iter().any(|far| match ip(far) {
            IpAddr::V4(far) => bytes == far.octets(),
            IpAddr::V6(far) => bytes == far.octets(),
        })
    };
    match captured.protocol {
        0x0806 if is_gateway(&packet[24..28]) => Ok(()),
        0x0806 => leak("a question for a neighbour who is not the router"),
        0x0800 | 0x86dd => {
            let (protocol, destination, payload) = if captured.protocol == 0x0800 {
                (packet[9], &packet[16..20], &packet[20..])
            } else {
                (packet[6], &packet[24..40], &packet[40..])
            };
            let to = payload.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
            match protocol {
                17 if is_far(destination) && to == Some(PORT) && payload[..2] == PORT.to_be_bytes() => Ok(()),
                // Neighbour discovery: whoever is asked for is the router, and so is who is answered.
                58 if payload[0] == 135 && (is_gateway(&payload[8..24]) || payload[8..].starts_with(&[0xfe, 0x80])) => {
                    Ok(())
                }
                58 if payload[0] == 136 && (is_gateway(destination) || destination.starts_with(&[0xfe, 0x80])) => {
                    Ok(())
                }
                58 if payload[0] == 133 => Ok(()),
                // Reports of group membership (MLD), in a hop-by-hop header.
                0 if destination.starts_with(&[0xff, 2]) => Ok(()),
                _ => leak("a packet"),
            }
        }
        _ => leak("something"),
    }
}
