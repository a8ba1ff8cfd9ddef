//! Hosts with a bridge each, joined by adit; machines on these bridges; and machines of which we see every frame.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use adit::api::status::SwitchStatus;
use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink, VethEnd};
use linux::netns::NetNs;
use linux::poll::readable;
use linux::sysctl;
use linux::tun::{Device, Layer, Options};
use wire::frame::MAX_LEN;
use wire::vnet::VnetHdr;

use crate::bed::daemon::{Configuration, Daemon, Peer, Place};
use crate::bed::traffic::End;
use crate::bed::{Bed, Family, Host, PATIENCE, await_address, wait_for};

/// Hosts and what they are configured to.
pub(crate) struct World {
    pub(crate) bed: Bed,
    pub(crate) ends: Vec<Configuration>,
    pub(crate) places: Vec<Place>,
}

impl World {
    /// As many hosts, each the peer of each other, with a bridge `br0` that adit makes; `change` is done to each configuration.
    pub(crate) fn new(hosts: usize, change: impl Fn(usize, &mut Configuration)) -> Self {
        let bed = Bed::new(hosts);
        let mut ends: Vec<Configuration> = (1..=hosts)
            .map(|number| {
                let others: Vec<usize> = (1..=hosts).filter(|other| *other != number).collect();
                let mut end = Configuration::new(bed.host(number), &others, Family::V4);
                end.addresses.clear();
                end.device_lines = "mode = \"tap\"\nbridge = \"br0\"\n".into();
                end
            })
            .collect();
        let keys: Vec<_> = ends.iter_mut().map(|end| (end.name.clone(), end.make_key())).collect();
        for peer in ends.iter_mut().flat_map(|end| &mut end.peers) {
            let key = keys.iter().find(|(name, _)| *name == peer.name).unwrap().1;
            *peer = Peer { transport: "sealed", public_key: Some(key), allowed_ips: Vec::new(), ..peer.clone() };
        }
        for (number, end) in (1..).zip(&mut ends) {
            change(number, end);
        }
        let places = (1..).zip(&ends).map(|(number, end)| Place::new(bed.host(number), end)).collect();
        Self { bed, ends, places }
    }

    /// Starts all of them, and waits until each has a session with each other one.
    pub(crate) fn start(&self) -> Vec<Daemon<'_>> {
        let daemons: Vec<_> = self.places.iter().map(Place::start).collect();
        for daemon in &daemons {
            await_sessions(daemon);
        }
        daemons
    }

    pub(crate) fn host(&self, number: usize) -> &Host {
        self.bed.host(number)
    }

    /// A machine on the bridge of a host, with 10.88.0.`last` and fd88::`last`.
    pub(crate) fn machine(&self, host: usize, last: u8) -> Machine {
        let machine = Machine::bare(self.host(host), last);
        machine.add_addresses();
        machine
    }

    /// A machine whose card we hold, on the bridge of a host.
    pub(crate) fn card(&self, host: usize, last: u8) -> Card {
        Card::new(self.host(host), last)
    }
}

/// Waits until a daemon has a session with each of its peers.
pub(crate) fn await_sessions(daemon: &Daemon<'_>) {
    wait_for("sessions", || daemon.status().peers.iter().all(|peer| peer.session == "up").then_some(()));
}

pub(crate) fn switch(daemon: &Daemon<'_>) -> SwitchStatus {
    daemon.status().switch.unwrap()
}

/// Plugs a device of a host into a bridge.
pub(crate) fn plug(netlink: &mut Netlink, device: &str, bridge: &str) {
    let bridge = wait_for("the bridge", || netlink.link(bridge).unwrap()).index;
    let index = netlink.existing_link(device).unwrap().index;
    let change = LinkChange { controller: Some(Some(bridge)), up: Some(true), ..LinkChange::default() };
    netlink.change_link(index, &change).unwrap();
}

/// A machine with a network stack of its own.
pub(crate) struct Machine {
    pub(crate) namespace: NetNs,
    last: u8,
}

impl Machine {
    /// One without addresses.
    pub(crate) fn bare(host: &Host, last: u8) -> Self {
        let namespace = NetNs::anonymous().unwrap();
        namespace.run(|| sysctl::set(&["net", "ipv6", "conf", "default", "accept_dad"], "0")).unwrap().unwrap();
        let mut netlink = host.netlink();
        let port = format!("m{last}");
        let mac = Some([2, 0x88, 0, 0, 0, last]);
        let inside = VethEnd { name: "eth0", netns: Some(&namespace), mac, ..VethEnd::default() };
        netlink.create_veth(&VethEnd { name: &port, ..VethEnd::default() }, &inside).unwrap();
        plug(&mut netlink, &port, "br0");
        let mut inside = Netlink::open_in(&namespace).unwrap();
        inside.set_up(1, true).unwrap();
        let index = inside.existing_link("eth0").unwrap().index;
        inside.set_up(index, true).unwrap();
        Self { namespace, last }
    }

    pub(crate) fn add_addresses(&self) {
        let mut netlink = Netlink::open_in(&self.namespace).unwrap();
        let index = netlink.existing_link("eth0").unwrap().index;
        for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
            netlink.add_address(index, IpNet::new(self.ip(family), length).unwrap(), true).unwrap();
            await_address(&self.namespace, self.ip(family));
        }
    }

    pub(crate) fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => format!("10.88.0.{}", self.last),
            Family::V6 => format!("fd88::{:x}", self.last),
        }
        .parse()
        .unwrap()
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        [2, 0x88, 0, 0, 0, self.last]
    }

    pub(crate) fn end(&self, family: Family) -> End<'_> {
        End::new(&self.namespace, self.ip(family))
    }
}

/// A card whose wire we hold: what the bridge sends to it we read as it is, and what we write comes from it.
pub(crate) struct Card {
    device: Device,
    pub(crate) mac: [u8; 6],
}

impl Card {
    fn new(host: &Host, last: u8) -> Self {
        let name = format!("card{last}");
        let options = Options { layer: Layer::Frames, offload: false, multi_queue: false, ..Options::new(&name) };
        let device = host.namespace.run(|| Device::open(options)).unwrap().unwrap();
        // Its own address is of no importance, but no other must have it: the machine's is another.
        plug(&mut host.netlink(), &name, "br0");
        Self { device, mac: [2, 0x99, 0, 0, 0, last] }
    }

    /// Gives a frame to the bridge.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.device.queues[0].send(&VnetHdr::NONE, frame).unwrap();
    }

    /// The next frame for which `wanted` has something, within a time.
    pub(crate) fn find<T>(&self, patience: Duration, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; MAX_LEN];
        loop {
            while let Ok((_, length)) = self.device.queues[0].recv(&mut buffer) {
                if let Some(found) = wanted(&buffer[..length]) {
                    return Some(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let _ = readable([self.device.queues[0].as_fd()], Some(left)).unwrap();
        }
    }

    /// Waits until exactly this frame comes.
    pub(crate) fn await_frame(&self, what: &str, frame: &[u8]) {
        let found = self.find(PATIENCE, |bytes| (bytes == frame).then_some(()));
        assert!(found.is_some(), "waited in vain for {what}");
    }

    /// What has come until a frame comes that says so; `stop` is not among it.
    pub(crate) fn until(&self, stop: &[u8]) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        let ended = self.find(PATIENCE, |bytes| {
            if bytes == stop {
                return Some(());
            }
            seen.push(bytes.to_vec());
            None
        });
        assert!(ended.is_some(), "waited in vain for the last frame");
        seen
    }
}

/// A frame of a protocol that nobody knows (IEEE local experimental EtherType 2).
pub(crate) fn strange(from: [u8; 6], to: [u8; 6], payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb6], payload].concat()
}

pub(crate) const ALL: [u8; 6] = [0xff; 6];
