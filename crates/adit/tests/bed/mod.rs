//! A bed for tests against the real kernel: hosts in namespaces on one underlay, containers behind them, daemons in them, and
//! traffic between all of these. Everything vanishes with its value, also when a test fails, and nothing is shared between
//! tests, so that they may run side by side.
//!
//! The underlay is a bridge in a namespace of its own. Host `n` has 192.0.2.n and 2001:db8::n on it; its tunnel device `adit0`
//! has 10.77.0.n and fd77::n, and 10.(40+n).0.0/16 and fd40:n::/32 live behind it.
//!
//! Where all tunnels are encrypted, a [`guard`] sees to it that the underlay shows nothing of what they carry.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test program uses a part of it")]

pub(crate) mod attached;
pub(crate) mod daemon;
pub(crate) mod fake;
pub(crate) mod guard;
pub(crate) mod image;
pub(crate) mod packet;
pub(crate) mod sniffer;
pub(crate) mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use linux::netlink::{Address, LinkChange, Netlink, Route, VethEnd};
use linux::netns::NetNs;
use linux::privilege::{self, Capability};
use linux::sysctl;

use guard::Guard;

/// How long anything may take that does not fail. Generous, since tests share their machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// IPv4 or IPv6, outside or inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Bytes that a transport adds to a packet outside, IP header included.
    pub(crate) fn overhead(self, transport: &str) -> u32 {
        let headers = if self == Self::V4 { 20 + 8 } else { 40 + 8 };
        headers + if transport == "plain" { 0 } else { 16 + 16 }
    }
}

/// Makes a test of each of these functions for each of these transports, whose name is their argument: `sealed::it_works`.
macro_rules! over {
    ($($transport:ident)+: $tests:tt) => { $(crate::bed::over!(@ $transport $tests);)+ };
    (@ $transport:ident { $($test:ident)+ }) => {
        mod $transport {
            $(
                #[test]
                fn $test() {
                    super::$test(stringify!($transport));
                }
            )+
        }
    };
}
pub(crate) use over;

/// Hosts on one underlay.
pub(crate) struct Bed {
    pub(crate) switch: NetNs,
    pub(crate) hosts: Vec<Host>,
    pub(crate) guard: Arc<Guard>,
}

/// One host: a namespace with the device `under0`.
pub(crate) struct Host {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) namespace: NetNs,
    pub(crate) guard: Arc<Guard>,
}

impl Bed {
    /// As many hosts, up and reachable.
    pub(crate) fn new(hosts: usize) -> Self {
        enter();
        let switch = namespace();
        let mut netlink = Netlink::open_in(&switch).unwrap();
        netlink.create_bridge("switch", Some([2, 0, 0, 0, 0, 0xfe])).unwrap();
        let bridge = netlink.existing_link("switch").unwrap().index;
        netlink.set_up(bridge, true).unwrap();
        let guard = Arc::new(Guard::new(&switch, hosts));
        let hosts = (1..=hosts).map(|number| Host::plug_in(&mut netlink, bridge, number, Arc::clone(&guard))).collect();
        Self { switch, hosts, guard }
    }

    /// How many encrypted datagrams the [`guard`] has seen so far.
    pub(crate) fn encrypted(&self) -> u64 {
        self.guard.encrypted()
    }

    /// Host `number`, from 1.
    pub(crate) fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.guard.end();
    }
}

impl Host {
    fn plug_in(switch: &mut Netlink, bridge: u32, number: usize, guard: Arc<Guard>) -> Self {
        let namespace = namespace();
        let port = format!("port{number}");
        let (a, b) = (
            VethEnd { name: &port, ..VethEnd::default() },
            VethEnd { name: "under0", netns: Some(&namespace), ..VethEnd::default() },
        );
        switch.create_veth(&a, &b).unwrap();
        let index = switch.existing_link(&port).unwrap().index;
        let change = LinkChange { controller: Some(Some(bridge)), up: Some(true), ..LinkChange::default() };
        switch.change_link(index, &change).unwrap();
        let host = Self { number, namespace, guard };
        // The kernel says nothing by itself there.
        host.set(&["net", "ipv6", "conf", "under0", "addr_gen_mode"], "1");
        let mut netlink = host.netlink();
        let index = netlink.existing_link("under0").unwrap().index;
        netlink.set_up(index, true).unwrap();
        for family in [Family::V4, Family::V6] {
            let length = if family == Family::V4 { 24 } else { 64 };
            netlink.add_address(index, IpNet::new(host.underlay(family), length).unwrap(), true).unwrap();
        }
        host.await_address(host.underlay(Family::V6));
        host
    }

    pub(crate) fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.namespace).unwrap()
    }

    /// Its address on the underlay.
    pub(crate) fn underlay(&self, family: Family) -> IpAddr {
        address(family, ["192.0.2.", "2001:db8::"], self.number)
    }

    /// Its address in the tunnel.
    pub(crate) fn inner(&self, family: Family) -> IpAddr {
        address(family, ["10.77.0.", "fd77::"], self.number)
    }

    /// The link-layer address of its device on the underlay.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.netlink().existing_link("under0").unwrap().mac.unwrap()
    }

    /// Gives it another address on the underlay, and takes the first one away.
    pub(crate) fn move_to(&self, address: IpNet) {
        // Otherwise an address of IPv4 takes with it those that came later.
        self.set(&["net", "ipv4", "conf", "under0", "promote_secondaries"], "1");
        let mut netlink = self.netlink();
        let index = netlink.existing_link("under0").unwrap().index;
        netlink.add_address(index, address, true).unwrap();
        self.await_address(address.addr());
        let family = if address.addr().is_ipv4() { Family::V4 } else { Family::V6 };
        netlink.delete_address(index, IpNet::new(self.underlay(family), address.prefix_len()).unwrap()).unwrap();
    }

    /// Waits until an address of this host can be used.
    pub(crate) fn await_address(&self, address: IpAddr) {
        await_address(&self.namespace, address);
    }

    /// Sets a link of this host to another largest packet.
    pub(crate) fn set_mtu(&self, link: &str, mtu: u32) {
        let mut netlink = self.netlink();
        let index = netlink.existing_link(link).unwrap().index;
        netlink.change_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).unwrap();
    }

    /// Runs a program on this host, which is to succeed; answers what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.namespace.run(|| Command::new(program).args(arguments).output()).unwrap();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Changes a kernel setting of this host's.
    pub(crate) fn set(&self, name: &[&str], value: &str) {
        self.namespace.run(|| sysctl::set(name, value)).unwrap().unwrap();
    }

    /// A container: a namespace with `eth0`, 10.(40+n).0.2 and fd40:n::2, behind this host, which forwards.
    pub(crate) fn container(&self) -> NetNs {
        let container = namespace();
        self.set(&["net", "ipv4", "ip_forward"], "1");
        self.set(&["net", "ipv6", "conf", "all", "forwarding"], "1");
        let mut outside = self.netlink();
        let ends = (
            VethEnd { name: "c0", ..VethEnd::default() },
            VethEnd { name: "eth0", netns: Some(&container), ..VethEnd::default() },
        );
        outside.create_veth(&ends.0, &ends.1).unwrap();
        let mut inside = Netlink::open_in(&container).unwrap();
        for (netlink, name, last) in [(&mut outside, "c0", 1), (&mut inside, "eth0", 2)] {
            let index = netlink.existing_link(name).unwrap().index;
            netlink.set_up(index, true).unwrap();
            for family in [Family::V4, Family::V6] {
                let length = if family == Family::V4 { 24 } else { 64 };
                netlink.add_address(index, IpNet::new(self.behind(family, last), length).unwrap(), true).unwrap();
            }
        }
        let index = inside.existing_link("eth0").unwrap().index;
        for (family, everywhere) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
            let route = Route::new(everywhere.parse().unwrap());
            inside.add_route(&Route { gateway: Some(self.behind(family, 1)), device: Some(index), ..route }).unwrap();
        }
        let inside = Self { number: self.number, namespace: container, guard: Arc::clone(&self.guard) };
        inside.await_address(self.behind(Family::V6, 2));
        self.await_address(self.behind(Family::V6, 1));
        inside.namespace
    }

    /// An address on the network behind this host.
    pub(crate) fn behind(&self, family: Family, last: usize) -> IpAddr {
        let number = self.number;
        let network = [format!("10.{}.0.", 40 + number), format!("fd40:{number}::")];
        address(family, network.each_ref().map(String::as_str), last)
    }

    /// What [`adit`](daemon) must leave as it was: links, addresses, routes of all tables.
    pub(crate) fn state(&self) -> State {
        let mut netlink = self.netlink();
        let mut links: Vec<_> = netlink.links().unwrap().into_iter().map(|l| (l.index, l.name, l.mtu, l.up)).collect();
        let mut addresses = netlink.addresses(None).unwrap();
        let mut routes = netlink.routes(None).unwrap();
        links.sort();
        addresses.sort_by_key(|a| (a.index, a.net));
        routes.sort_by_key(|r| format!("{r:?}"));
        State { links, addresses, routes }
    }
}

/// The state of a host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    links: Vec<(u32, String, u32, bool)>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

fn address(family: Family, networks: [&str; 2], last: usize) -> IpAddr {
    let network = networks[usize::from(family == Family::V6)];
    format!("{network}{last}").parse().unwrap()
}

/// The same with a port.
pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A namespace with its loopback device up.
fn namespace() -> NetNs {
    let namespace = NetNs::anonymous().unwrap();
    // Link-local addresses can be used at once; a router cannot even look for its neighbours without.
    namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
    Netlink::open_in(&namespace).unwrap().set_up(1, true).unwrap();
    namespace
}

/// Waits until an address can be used: also without duplicate address detection the kernel makes an IPv6 address local a moment
/// after it was added.
pub(crate) fn await_address(namespace: &NetNs, address: IpAddr) {
    let found = Netlink::open_in(namespace).unwrap().wait_for_address(address, PATIENCE).unwrap();
    assert!(found, "waited in vain for the address {address}");
}

/// Makes sure that this test program may make namespaces. An ordinary user's is started once more as root of a user namespace,
/// with the same arguments, and its verdict is ours; where that is forbidden, the sentence that says what to do ends it.
pub(crate) fn enter() {
    static ENTERED: Once = Once::new();
    ENTERED.call_once(|| {
        let verdict = if privilege::has_capability(Capability::SysAdmin) {
            match privilege::check_tun() {
                Ok(()) => return,
                Err(e) => {
                    eprintln!("cannot test: {e}");
                    1
                }
            }
        } else {
            let mut again = Command::new("/proc/self/exe");
            match privilege::in_user_namespace(again.args(std::env::args_os().skip(1))).status() {
                Ok(status) => status.code().unwrap_or(1),
                Err(e) => {
                    eprintln!("cannot test without root: {}", privilege::user_namespace_remedy(&e));
                    1
                }
            }
        };
        std::process::exit(verdict);
    });
}

/// Waits until `condition` has something.
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_at_most(PATIENCE, what, condition)
}

/// Waits until `condition` has something, but not longer than `patience`.
pub(crate) fn wait_at_most<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
