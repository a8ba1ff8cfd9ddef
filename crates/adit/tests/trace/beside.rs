//! tcpdump runs beside a trace on every device, and sees the same packets.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use linux::netns::NetNs;
use serde_json::Value;

use crate::bed::wait_for;
use crate::scene::{Scene, own_name};

/// tcpdump on one device.
struct Beside {
    host: &'static str,
    device: &'static str,
    file: PathBuf,
    child: Child,
}

impl Beside {
    fn start(directory: &tempfile::TempDir, namespace: &NetNs, host: &'static str, device: &'static str) -> Self {
        let file = directory.path().join(format!("{host}-{device}"));
        let said = file.with_extension("said");
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-i", device, "-w"]).arg(&file);
        command.args(["icmp or udp port 7777"]).stdin(Stdio::null()).stderr(fs::File::create(&said).unwrap());
        let child = namespace.run(|| command.spawn()).unwrap().unwrap();
        wait_for("tcpdump", || fs::read_to_string(&said).unwrap().contains("listening on").then_some(()));
        Self { host, device, file, child }
    }

    /// What it saw, each packet from its link-layer header on.
    fn end(mut self) -> Vec<Vec<u8>> {
        let kill = format!("kill -INT {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        packets(&fs::read(&self.file).unwrap())
    }
}

/// The packets of a file of pcap(5): a header of 24 bytes, and one of 16 before each.
fn packets(file: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut rest) = (Vec::new(), &file[24..]);
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        all.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    all
}

/// What a packet is: an echo of a probe, with its number, or a sealed datagram. Others are none of a trace's business.
fn identity(packet: &[u8], link: usize) -> Option<String> {
    let ip = packet.get(link..)?;
    let transport = ip.get(usize::from(ip.first()? & 15) * 4..)?;
    match ip.get(9)? {
        1 if transport[0] == 8 => Some(format!("request {}", u16::from_be_bytes([transport[6], transport[7]]))),
        1 if transport[0] == 0 => Some(format!("reply {}", u16::from_be_bytes([transport[6], transport[7]]))),
        17 if transport.get(8)? & 0xf0 == 0xa0 => {
            let message = &transport[8..];
            let receiver = u32::from_le_bytes(message[4..8].try_into().unwrap());
            let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
            Some(format!("sealed {receiver} {counter}"))
        }
        _ => None,
    }
}

#[test]
fn tcpdump_sees_the_same_packets_on_every_device() {
    let scene = Scene::pair("sealed", true);
    let directory = tempfile::tempdir().unwrap();
    let mut beside = Vec::new();
    for (number, host) in [(1, "host1"), (2, "host2")] {
        for device in ["adit0", "under0", "c0"] {
            beside.push(Beside::start(&directory, &scene.bed.host(number).namespace, host, device));
        }
    }
    let count = 4;
    let traced = scene.trace(1, &["10.42.0.2", "--count", &count.to_string()]);
    assert_eq!(traced.answered(), vec![true; count]);
    for watcher in beside {
        let (host, device) = (watcher.host, watcher.device);
        let link = if device == "adit0" { 0 } else { 14 };
        let mut dumped: Vec<String> = watcher.end().iter().filter_map(|packet| identity(packet, link)).collect();
        let mut told = Vec::new();
        for probe in 0..count {
            for (way, kind) in [("there", "request"), ("back", "reply")] {
                for hop in traced.hops(probe, way) {
                    let of = if hop["host"] == own_name().as_str() { "host1" } else { hop["host"].as_str().unwrap() };
                    if of == host && hop["place"]["device"] == device {
                        told.push(match &hop["sealed"] {
                            Value::Null => format!("{kind} {probe}"),
                            sealed => format!("sealed {} {}", sealed["receiver"], sealed["counter"]),
                        });
                    }
                }
            }
        }
        if device == "under0" {
            // Daemons speak about the trace by such datagrams too.
            dumped.retain(|packet| told.contains(packet));
        }
        let expected = if device == "c0" && host == "host1" { 0 } else { 2 * count };
        assert_eq!(told.len(), expected, "{host} {device}: {}", traced.json);
        // One after the other, and packet for packet.
        assert_eq!(told, dumped, "{host} {device}");
    }
}
