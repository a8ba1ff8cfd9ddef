//! Hosts with daemons, containers behind them, and traces between these.

use std::process::{Command, Output};

use linux::netlink::{LinkChange, Netlink};
use linux::netns::NetNs;
use serde_json::Value;

use crate::bed::daemon::{ADIT, Configuration, Daemon, Place};
use crate::bed::{Bed, Family, wait_for};

/// Hosts with a tunnel from each to the next, and a container behind the first and the last: 10.41.0.2, 10.(40+n).0.2.
pub(crate) struct Scene {
    // Daemons before the hosts that they are on.
    pub(crate) daemons: Vec<Daemon<'static>>,
    places: &'static [Place],
    _containers: Vec<NetNs>,
    pub(crate) bed: Bed,
}

/// What a trace said.
pub(crate) struct Traced {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
}

/// What a configuration says of traces that peers ask for.
pub(crate) fn observe(allow: bool) -> &'static str {
    if allow { "[observe]\nallow = [\"trace\"]" } else { "" }
}

impl Scene {
    /// Two hosts.
    pub(crate) fn pair(transport: &'static str, allow: bool) -> Self {
        let bed = Bed::new(2);
        let ends = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, transport);
        Self::of(bed, ends.map(|end| end.with(observe(allow))).to_vec())
    }

    /// Three hosts, of which the second is the way out for the first, under its own address, and has the third as its way out.
    pub(crate) fn chain() -> Self {
        let bed = Bed::new(3);
        let end = |number, peers: &[usize]| Configuration::new(bed.host(number), peers, Family::V4);
        let mut ends = Configuration::with_keys([end(1, &[2]), end(2, &[1, 3]), end(3, &[2])], "sealed");
        ends[0].peers[0].allowed_ips.push("10.43.0.0/16".into());
        // Only what nobody else has is passed on to a peer.
        ends[1].peers[1].allowed_ips = vec!["0.0.0.0/0".into()];
        ends[1].device_lines = "table = \"off\"\n".into();
        let scene = Self::of(bed, ends.map(|end| end.with(observe(true))).to_vec());
        let host = scene.bed.host(2);
        for net in ["10.43.0.0/16", "10.41.0.0/16"] {
            host.run("ip", &["route", "add", net, "dev", "adit0"]);
        }
        host.run("nft", &["add table ip out"]);
        host.run("nft", &["add chain ip out post { type nat hook postrouting priority srcnat; }"]);
        host.run("nft", &["add rule ip out post ip daddr 10.43.0.0/16 masquerade"]);
        scene
    }

    /// Two hosts whose bridges, with 10.88.0.1 and 10.88.0.2, are one Ethernet.
    pub(crate) fn frames() -> Self {
        let bed = Bed::new(2);
        let ends = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "sealed").map(|mut end| {
            end.addresses.clear();
            end.peers.iter_mut().for_each(|peer| peer.allowed_ips.clear());
            end.device_lines = "mode = \"tap\"\nbridge = \"br0\"\n".into();
            end.with(observe(true))
        });
        let scene = Self::of(bed, ends.to_vec());
        for number in [1, 2] {
            scene.bed.host(number).run("ip", &["address", "add", &format!("10.88.0.{number}/24"), "dev", "br0"]);
        }
        scene
    }

    fn of(bed: Bed, ends: Vec<Configuration>) -> Self {
        let _containers = bed.hosts.iter().map(|host| host.container()).collect();
        let places: Vec<_> = bed.hosts.iter().zip(&ends).map(|(host, end)| Place::new(host, end)).collect();
        let places: &'static [Place] = Box::leak(places.into_boxed_slice());
        let daemons: Vec<_> = places.iter().map(Place::start).collect();
        if ends.iter().all(|end| end.peers.iter().all(|peer| peer.transport == "sealed")) {
            wait_for("sessions", || {
                let up = |daemon: &Daemon<'_>| daemon.status().peers.iter().all(|peer| peer.session == "up");
                daemons.iter().all(up).then_some(())
            });
        }
        Self { daemons, places, _containers, bed }
    }

    /// The program with a verb's arguments, on a host and with its daemon's directories.
    pub(crate) fn run(&self, number: usize, arguments: &[&str]) -> Output {
        let place = &self.places[number - 1];
        let mut command = Command::new(ADIT);
        command.args(arguments);
        command.env("ADIT_RUNTIME_DIR", place.runtime()).env("ADIT_STATE_DIR", place.path("state"));
        self.bed.host(number).namespace.run(|| command.output()).unwrap().unwrap()
    }

    /// A trace from a host.
    pub(crate) fn trace(&self, number: usize, arguments: &[&str]) -> Traced {
        let told = self.run(number, &[&["trace", "--json"], arguments].concat());
        Traced::of(&told)
    }

    /// The drawing that a person sees.
    pub(crate) fn drawing(&self, number: usize, arguments: &[&str]) -> String {
        let told = self.run(number, &[&["trace"], arguments].concat());
        assert!(told.stderr.is_empty(), "{told:?}");
        String::from_utf8(told.stdout).unwrap()
    }

    /// A way to an address that goes into the host's underlay instead of its tunnel, whatever the main table says.
    pub(crate) fn misroute(&self, number: usize, address: &str, gateway: usize) {
        let host = self.bed.host(number);
        let gateway = self.bed.host(gateway).underlay(Family::V4).to_string();
        host.run("ip", &["route", "add", address, "via", &gateway, "dev", "under0", "table", "99"]);
        host.run("ip", &["rule", "add", "to", address, "lookup", "99"]);
    }

    /// The cable to a host takes no longer packets, and nobody is told.
    pub(crate) fn narrow_cable(&self, number: usize, mtu: u32) {
        let mut switch = Netlink::open_in(&self.bed.switch).unwrap();
        let port = switch.existing_link(&format!("port{number}")).unwrap().index;
        let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        switch.change_link(port, &change).unwrap();
    }
}

impl Traced {
    pub(crate) fn of(told: &Output) -> Self {
        let json = serde_json::from_slice(&told.stdout);
        let json = json.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&told.stderr)));
        Self { code: told.status.code(), json }
    }

    /// Whether each probe was answered.
    pub(crate) fn answered(&self) -> Vec<bool> {
        self.probes().iter().map(|probe| !probe["answered_ns"].is_null()).collect()
    }

    pub(crate) fn probes(&self) -> &[Value] {
        self.json["probes"].as_array().unwrap()
    }

    /// The hops of a probe on its way there or back.
    pub(crate) fn hops(&self, probe: usize, way: &str) -> Vec<Value> {
        let legs = self.probes()[probe]["legs"].as_array().unwrap();
        let leg = legs.iter().find(|leg| leg["way"] == way);
        leg.map_or_else(Vec::new, |leg| leg["hops"].as_array().unwrap().clone())
    }

    /// The same in words: `host2 adit0 in`, `host1 read`.
    pub(crate) fn places(&self, probe: usize, way: &str, own: &str) -> Vec<String> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = |hop: &Value| {
            let host = word(&hop["host"]);
            let host = if host == own_name() { own.to_owned() } else { host };
            let place = &hop["place"];
            match place.get("step") {
                Some(step) => format!("{host} {}", word(step)),
                None => format!("{host} {} {}", word(&place["device"]), word(&place["direction"])),
            }
        };
        self.hops(probe, way).iter().map(place).collect()
    }

    /// Where a probe was seen last, and why it went no further: the cause's key, and all words.
    pub(crate) fn end(&self, probe: usize, own: &str) -> (String, String, String) {
        let lost = &self.probes()[probe]["lost"];
        assert!(!lost.is_null(), "it was answered: {}", self.json);
        let way = lost["way"].as_str().unwrap();
        let last = self.places(probe, way, own).last().cloned().unwrap_or_default();
        let words = format!("{} {} {}", lost["sentence"], lost["evidence"], lost["remedy"]);
        (last, lost["cause"].as_str().unwrap().to_owned(), words)
    }
}

/// What a host without a network is called: all hosts of a bed share the machine's name.
pub(crate) fn own_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}
