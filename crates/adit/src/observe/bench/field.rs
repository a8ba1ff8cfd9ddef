//! Where it is measured: two hosts and, for the bridge, two containers, each a network namespace; every system stands there at the same
//! time, with devices and addresses of its own, so that systems can take turns.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use linux::netlink::{LinkChange, VethEnd, Vxlan};
use linux::netns::NetNs;
use linux::sysctl;

use super::system::System;
use crate::key::PrivateKey;
use crate::lab::daemon::{Daemon, End, Keys, Way};
use crate::lab::namespace::Namespace;
use crate::lab::watch::Watch;
use crate::lab::{await_path, ip_net, mac, new_key};
use crate::{Failure, Result};

/// What the names of all our network namespaces begin with.
pub(super) const PREFIX: &str = "adit-bench-";
/// The card of each host, an end of the veth pair that stands for the network between them.
const UNDERLAY: &str = "under0";
/// Largest packet of the network between the hosts, in bytes.
const UNDERLAY_MTU: u32 = 1500;
/// Bytes that VXLAN over IPv4 puts around a packet: Ethernet 14, VXLAN 8, UDP 8, IPv4 20.
const VXLAN_OVERHEAD: u32 = 50;
/// The number of the network in VXLAN headers.
const VXLAN_ID: u32 = 42;
/// The port of VXLAN (RFC 7348, section 8).
const VXLAN_PORT: u16 = 4789;
/// The device of the kernel's tunnel.
const VXLAN: &str = "vx0";
/// The bridge, and the card of each container on it.
const BRIDGE: &str = "br0";
const CARD: &str = "eth0";
/// The hosts.
const HOSTS: [&str; 2] = ["berlin", "paris"];
/// The containers on the bridge of the first host, and their ports there.
const CONTAINERS: [(&str, &str); 2] = [("web", "veth-web"), ("db", "veth-db")];

/// The field with what stands on it; all of it goes with this value, daemons first.
pub(super) struct Field {
    daemons: Vec<(System, [Daemon; 2])>,
    hosts: Vec<Namespace>,
    containers: Vec<Namespace>,
    vxlan: bool,
}

/// A way from one namespace to another.
#[derive(Clone, Copy)]
pub(super) struct Lane<'f> {
    pub(super) system: System,
    /// Namespace and address of each end.
    pub(super) ends: [(&'f NetNs, Ipv4Addr); 2],
    /// The largest packet, in bytes.
    pub(super) mtu: u32,
}

/// What was made, and what could not be.
pub(super) struct Built {
    pub(super) field: Field,
    /// Each with its reason, a sentence without its full stop.
    pub(super) left_out: Vec<(System, String)>,
}

impl Field {
    /// Builds the field for these systems and waits until all of them carry packets. VXLAN, which not every kernel has, is left out where it cannot
    /// be made.
    ///
    /// # Errors
    /// What the kernel refused, a daemon that does not work, or a signal. What was made so far is gone again.
    pub(super) fn build(systems: &[System], place: &Path, watch: &Watch) -> Result<Built> {
        let mut field = Self { daemons: Vec::new(), hosts: Vec::new(), containers: Vec::new(), vxlan: false };
        let mut left_out = Vec::new();
        field.add_hosts()?;
        if systems.contains(&System::Bridge) {
            field.add_containers()?;
        }
        if systems.contains(&System::Vxlan) {
            match field.add_vxlan() {
                Ok(()) => field.vxlan = true,
                Err(failure) => left_out.push((System::Vxlan, failure.sentence().to_owned())),
            }
        }
        for system in systems.iter().filter(|system| system.is_ours()) {
            watch.check()?;
            field.start(*system, place)?;
        }
        for (system, daemons) in &mut field.daemons {
            daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(watch))?;
            if matches!(system, System::Sealed | System::Tap) {
                daemons.iter().try_for_each(|daemon| daemon.wait_session(watch).map(drop))?;
            }
        }
        for system in systems.iter().filter(|system| !left_out.iter().any(|(out, _)| out == *system)) {
            let lane = field.lane(*system)?;
            let [(from, _), (_, to)] = lane.ends;
            if await_path(from, to, watch)?.is_none() {
                let title = system.title();
                return Err(Failure::failed(format!("{title} carries nothing to {to} within 5 seconds")));
            }
        }
        Ok(Built { field, left_out })
    }

    /// The two ends of a system.
    ///
    /// # Errors
    /// It is not there, or its daemon does not answer.
    pub(super) fn lane(&self, system: System) -> Result<Lane<'_>> {
        let absent = || Failure::failed(format!("{} was not built", system.title()));
        let [a, b] = if system == System::Bridge { &self.containers } else { &self.hosts }.as_slice() else {
            return Err(absent());
        };
        let mtu = match system {
            System::Veth | System::Bridge => UNDERLAY_MTU,
            System::Vxlan if self.vxlan => UNDERLAY_MTU - VXLAN_OVERHEAD,
            System::Vxlan => return Err(absent()),
            _ => {
                let (_, [daemon, _]) = self.daemons.iter().find(|(of, _)| *of == system).ok_or_else(absent)?;
                daemon.status()?.device.mtu
            }
        };
        let ends = [(a.net(), address(system, 1)), (b.net(), address(system, 2))];
        Ok(Lane { system, ends, mtu })
    }

    /// How TCP reacts to congestion there.
    pub(super) fn congestion_control(&self) -> Result<String> {
        let [host, ..] = self.hosts.as_slice() else { return Err(Failure::failed("the bench has no hosts")) };
        Ok(host.net().run(|| sysctl::get(&["net", "ipv4", "tcp_congestion_control"]))??.trim().to_owned())
    }

    /// Stops and removes everything, and answers the namespaces that are gone.
    ///
    /// # Errors
    /// The first thing that could not be removed; all others were tried as well.
    pub(super) fn remove(self) -> Result<Vec<String>> {
        let Self { daemons, mut hosts, mut containers, .. } = self;
        let stopped = Daemon::stop_all(daemons.into_iter().flat_map(|(_, pair)| pair).collect());
        let removed = Namespace::remove_all(containers.iter_mut().chain(&mut hosts));
        stopped.and(removed)
    }

    fn add_hosts(&mut self) -> Result<()> {
        for name in HOSTS {
            self.hosts.push(Namespace::create(format!("{PREFIX}{name}"), false)?);
        }
        let [berlin, paris] = self.hosts.as_slice() else { return Ok(()) };
        let end = |number, net| VethEnd {
            name: UNDERLAY,
            netns: Some(net),
            mac: Some(mac(address(System::Veth, number))),
            mtu: Some(UNDERLAY_MTU),
        };
        berlin.netlink()?.create_veth(&end(1, berlin.net()), &end(2, paris.net()))?;
        for (number, host) in (1..).zip(&self.hosts) {
            let mut netlink = host.netlink()?;
            let card = netlink.existing_link(UNDERLAY)?.index;
            netlink.add_address(card, ip_net(address(System::Veth, number), 24), true)?;
            netlink.set_up(card, true)?;
        }
        Ok(())
    }

    fn add_containers(&mut self) -> Result<()> {
        let [host, ..] = self.hosts.as_slice() else { return Ok(()) };
        let mut netlink = host.netlink()?;
        netlink.create_bridge(BRIDGE, Some(mac(address(System::Bridge, 0))))?;
        let bridge = netlink.existing_link(BRIDGE)?.index;
        netlink.set_up(bridge, true)?;
        for (number, (name, port)) in (1..).zip(CONTAINERS) {
            let container = Namespace::create(format!("{PREFIX}{name}"), false)?;
            let own = address(System::Bridge, number);
            netlink.create_veth(
                &VethEnd { name: port, netns: Some(host.net()), mac: None, mtu: Some(UNDERLAY_MTU) },
                &VethEnd { name: CARD, netns: Some(container.net()), mac: Some(mac(own)), mtu: Some(UNDERLAY_MTU) },
            )?;
            let index = netlink.existing_link(port)?.index;
            let change = LinkChange { up: Some(true), controller: Some(Some(bridge)), ..LinkChange::default() };
            netlink.change_link(index, &change)?;
            let mut inside = container.netlink()?;
            let card = inside.existing_link(CARD)?.index;
            inside.add_address(card, ip_net(own, 24), true)?;
            inside.set_up(card, true)?;
            self.containers.push(container);
        }
        Ok(())
    }

    fn add_vxlan(&self) -> Result<()> {
        for (number, host) in (1..).zip(&self.hosts) {
            let mut netlink = host.netlink()?;
            let card = netlink.existing_link(UNDERLAY)?.index;
            let own = address(System::Vxlan, number);
            netlink.create_vxlan(&Vxlan {
                name: VXLAN,
                id: VXLAN_ID,
                port: VXLAN_PORT,
                local: Some(address(System::Veth, number).into()),
                remote: Some(address(System::Veth, other(number)).into()),
                device: Some(card),
                learning: false,
                mac: Some(mac(own)),
                mtu: Some(UNDERLAY_MTU - VXLAN_OVERHEAD),
            })?;
            let device = netlink.existing_link(VXLAN)?.index;
            netlink.add_address(device, ip_net(own, 24), true)?;
            netlink.set_up(device, true)?;
        }
        Ok(())
    }

    fn start(&mut self, system: System, place: &Path) -> Result<()> {
        let keys = [new_key()?, new_key()?];
        let [one, two] = &keys;
        let [berlin, paris] = self.hosts.as_slice() else { return Ok(()) };
        let pair = [
            Daemon::start(&end(system, 1, [one, two]), berlin.net(), place)?,
            Daemon::start(&end(system, 2, [two, one]), paris.net(), place)?,
        ];
        self.daemons.push((system, pair));
        Ok(())
    }
}

/// The tunnel device of a system, its port, and the second byte of its addresses.
fn numbers(system: System) -> (&'static str, u16, u8) {
    match system {
        System::Classic => ("classic0", 7778, 78),
        System::Plain => ("plain0", 7779, 79),
        System::WireGuard => ("wireguard0", 51_820, 80),
        System::Tap => ("tap0", 7780, 81),
        System::Vxlan => (VXLAN, VXLAN_PORT, 82),
        System::Bridge => (BRIDGE, 0, 83),
        System::Sealed | System::Veth => ("adit0", 7777, 77),
    }
}

/// The address of an end, 1 or 2: on the network between the hosts those for documentation (RFC 5737).
fn address(system: System, number: u8) -> Ipv4Addr {
    match system {
        System::Veth => Ipv4Addr::new(192, 0, 2, number),
        _ => Ipv4Addr::new(10, numbers(system).2, 0, number),
    }
}

fn other(number: u8) -> u8 {
    3 - number.clamp(1, 2)
}

fn end<'a>(system: System, number: u8, [own, far]: [&'a PrivateKey; 2]) -> End<'a> {
    let keys = Keys { own, other: far.public_key() };
    let way = match system {
        System::Classic => Way::Classic,
        System::WireGuard => Way::WireGuard(keys),
        System::Sealed => Way::Sealed(keys),
        System::Tap => Way::Tap(keys),
        System::Plain | System::Veth | System::Bridge | System::Vxlan => Way::Plain,
    };
    let (device, port, _) = numbers(system);
    let [here, there] = if number == 1 { HOSTS } else { [HOSTS[1], HOSTS[0]] };
    let at = |number| SocketAddr::new(address(System::Veth, number).into(), port);
    End {
        host: here,
        device,
        own: ip_net(address(system, number), 24),
        listen: at(number),
        peer: there,
        endpoint: at(other(number)),
        allowed: vec![ip_net(address(system, other(number)), 32)],
        way,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_share_no_device_port_or_address() {
        let (mut names, mut addresses) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        for system in System::ALL {
            let (device, port, _) = numbers(system);
            assert!(linux::netlink::is_valid_name(device));
            assert!(system == System::Veth || names.insert((device, port)), "{system:?}");
            for number in 1..=2 {
                assert!(addresses.insert(address(system, number)), "{system:?}");
            }
        }
    }
}
