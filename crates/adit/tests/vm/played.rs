//! A virtual machine that we play: a network stack of its own, whose card is joined to the TAP as a hypervisor joins them.

use std::fmt::Debug;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::IpNet;
use linux::netlink::{LinkChange, Netlink};
use linux::netns::NetNs;
use linux::poll::readable;
use linux::tun::{Device, Layer, Options, Queue};
use serde_json::Value;
use wire::frame::MAX_LEN;
use wire::vnet::VnetHdr;

use crate::bed::traffic::End;
use crate::bed::{Host, await_address};
use crate::world::Program;

/// How long a joint may sleep before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What a verb may change: devices and their places, records, packet filters without what they counted. Not addresses and routes, which the kernel
/// makes usable when it likes.
pub(crate) fn standing(program: &Program<'_>) -> impl PartialEq + Debug {
    let mut links: Vec<_> = program.host.netlink().links().unwrap().into_iter().collect();
    links.sort_by_key(|link| link.index);
    let links: Vec<_> =
        links.into_iter().map(|link| (link.index, link.name, link.mtu, link.mac, link.up, link.controller)).collect();
    (links, program.store().read_all().unwrap(), program.host.run("nft", &["-s", "list", "ruleset"]))
}

/// The strings of a list.
pub(crate) fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The link-layer address in what `adit vm-tap --json` says.
pub(crate) fn mac(card: &Value) -> [u8; 6] {
    let bytes: Vec<u8> =
        card["mac"].as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Opens the TAP of a card as a hypervisor does, without offloads.
pub(crate) fn open(host: &Host, card: &Value) -> Device {
    let name = card["device"].as_str().unwrap();
    let options = Options { layer: Layer::Frames, offload: false, multi_queue: false, ..Options::new(name) };
    host.namespace.run(|| Device::open(options)).unwrap().unwrap()
}

/// A machine that runs.
pub(crate) struct Machine {
    pub(crate) namespace: NetNs,
    pub(crate) addresses: Vec<IpAddr>,
    ended: Arc<AtomicBool>,
    joint: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts it, and types in it what `adit vm-tap` says.
    pub(crate) fn start(host: &Host, card: &Value) -> Self {
        let namespace = NetNs::anonymous().unwrap();
        let inside = Options { layer: Layer::Frames, offload: false, multi_queue: false, ..Options::new("eth0") };
        let inside = namespace.run(|| Device::open(inside)).unwrap().unwrap();
        let mut netlink = Netlink::open_in(&namespace).unwrap();
        let index = netlink.existing_link("eth0").unwrap().index;
        netlink.change_link(index, &LinkChange { mac: Some(mac(card)), ..LinkChange::default() }).unwrap();
        netlink.set_up(1, true).unwrap();
        let outside = open(host, card);
        let ended = Arc::new(AtomicBool::new(false));
        let joint = thread::spawn({
            let ended = Arc::clone(&ended);
            move || join(&inside.queues[0], &outside.queues[0], &ended)
        });
        // Names are looked for by the machine that QEMU runs: here /etc is everybody's.
        for line in strings(&card["guest"]).iter().filter(|line| !line.contains("/etc/")) {
            let output = namespace.run(|| Command::new("sh").args(["-c", line]).output()).unwrap().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
        }
        let addresses: Vec<IpAddr> =
            strings(&card["addresses"]).iter().map(|net| net.parse::<IpNet>().unwrap().addr()).collect();
        addresses.iter().for_each(|address| await_address(&namespace, *address));
        Self { namespace, addresses, ended, joint: Some(joint) }
    }

    pub(crate) fn end(&self, v6: bool) -> End<'_> {
        End::new(&self.namespace, *self.addresses.iter().find(|ip| ip.is_ipv6() == v6).unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.joint.take().unwrap().join();
    }
}

fn join(one: &Queue, other: &Queue, ended: &AtomicBool) {
    let mut frame = vec![0; MAX_LEN];
    while !ended.load(Ordering::Relaxed) {
        let _ = readable([one.as_fd(), other.as_fd()], Some(LOOK));
        for (from, to) in [(one, other), (other, one)] {
            while let Ok((_, length)) = from.recv(&mut frame) {
                // What a device does not take is lost, as on a wire.
                let _ = to.send(&VnetHdr::NONE, &frame[..length]);
            }
        }
    }
}

/// Whether a program of this user, without rights over the network, opens the TAP.
pub(crate) fn opens_as(host: &Host, uid: u32, card: &Value) -> bool {
    const SCRIPT: &str = "\
import fcntl, os, struct, sys
device = os.open('/dev/net/tun', os.O_RDWR)
uid = int(sys.argv[2])
if uid:
    os.setresuid(uid, uid, uid)
IFF_TAP, IFF_NO_PI, TUNSETIFF = 0x0002, 0x1000, 0x400454ca
try:
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH22x', sys.argv[1].encode(), IFF_TAP | IFF_NO_PI))
except PermissionError:
    sys.exit(9)
";
    let arguments = ["--bounding-set=-all", "--inh-caps=-all", "python3", "-c", SCRIPT];
    let mut command = if uid == 0 { Command::new("setpriv") } else { Command::new("python3") };
    command.args(if uid == 0 { &arguments[..] } else { &arguments[3..] });
    command.args([card["device"].as_str().unwrap(), &uid.to_string()]);
    let output = host.namespace.run(|| command.output()).unwrap().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 9)), "{output:?}");
    output.status.success()
}

/// Whether there are other users than root here: in the namespace of an ordinary user there are none.
pub(crate) fn there_are_others() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().nth(2).is_some_and(|count| count.parse::<u64>().unwrap() > 1)
}
