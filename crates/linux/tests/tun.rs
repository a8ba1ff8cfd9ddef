//! TUN and TAP devices against the real kernel: making, adopting, refusing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod packets;
mod support;

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use linux::netlink::{self, Netlink};
use linux::netns::NetNs;
use linux::poll::readable;
use linux::tun::{Device, Layer, MAX_PACKET, Offload, Options, Queue};
use packets::{Packet, examine};
use support::fresh;
use wire::arp::ArpPacket;
use wire::ethernet::{EthernetFrame, MacAddress};
use wire::vnet::VnetHdr;

const PATIENCE: Duration = Duration::from_secs(5);

const EINVAL: Option<i32> = Some(22);
const EBUSY: Option<i32> = Some(16);

fn open(namespace: &NetNs, options: Options<'_>) -> linux::Result<Device> {
    namespace.run(|| Device::open(options)).unwrap()
}

fn index(netlink: &mut Netlink, name: &str) -> Option<u32> {
    netlink.link(name).unwrap().map(|link| link.index)
}

fn up(netlink: &mut Netlink, name: &str, address: &str) {
    let index = netlink.existing_link(name).unwrap().index;
    netlink.set_up(index, true).unwrap();
    netlink.add_address(index, address.parse().unwrap(), true).unwrap();
}

/// The next packet that any of the queues has, and which it was.
fn next(queues: &[Queue], mut wanted: impl FnMut(&[u8]) -> bool) -> (usize, Vec<u8>) {
    let mut buffer = vec![0; MAX_PACKET];
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        for (i, queue) in queues.iter().enumerate() {
            while let Ok((_, length)) = queue.recv(&mut buffer) {
                if wanted(&buffer[..length]) {
                    return (i, buffer[..length].to_vec());
                }
            }
        }
        let _ = readable([queues[0].as_fd()], Some(Duration::from_millis(5))).unwrap();
    }
    panic!("waited in vain for a packet");
}

#[test]
fn a_device_goes_with_its_descriptors_unless_it_is_persistent() {
    let (namespace, mut netlink) = fresh();
    let device = open(&namespace, Options::new("tun7")).unwrap();
    assert_eq!((device.name.as_str(), device.queues.len()), ("tun7", 1));
    assert_eq!((device.offloads.level, device.offloads.reason.clone()), (Offload::Udp, None));
    let link = netlink.existing_link("tun7").unwrap();
    assert_eq!((link.kind.as_deref(), link.layer), (Some("tun"), netlink::Layer::None));
    drop(device);
    assert_eq!(index(&mut netlink, "tun7"), None);

    let persistent = Options { persistent: Some(true), ..Options::new("tun7") };
    drop(open(&namespace, persistent).unwrap());
    let left = index(&mut netlink, "tun7").expect("it stays");
    let adopted = open(&namespace, Options { queues: 3, ..Options::new("tun7") }).unwrap();
    assert_eq!(index(&mut netlink, "tun7"), Some(left), "the same device");
    drop(adopted);
    assert_eq!(index(&mut netlink, "tun7"), Some(left), "adopting does not change how long it stays");
    let adopted = open(&namespace, Options { persistent: Some(false), ..Options::new("tun7") }).unwrap();
    drop(adopted);
    assert_eq!(index(&mut netlink, "tun7"), None);
}

#[test]
fn an_adopted_device_gets_the_offloads_of_its_new_owner() {
    let (namespace, mut netlink) = fresh();
    let classic = Options { offload: false, persistent: Some(true), ..Options::new("tun7") };
    let device = open(&namespace, classic).unwrap();
    assert_eq!(device.offloads.level, Offload::None);
    assert!(device.offloads.reason.is_some());
    drop(device);
    assert_eq!(open(&namespace, Options::new("tun7")).unwrap().offloads.level, Offload::Udp);
    let device = open(&namespace, classic).unwrap();
    up(&mut netlink, "tun7", "10.0.0.1/24");
    // Without offloads nothing is left to us: neither a header before the packet nor a checksum.
    let socket = namespace.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    socket.send_to(b"hello", "10.0.0.2:9").unwrap();
    let (_, packet) = next(&device.queues, |bytes| bytes[0] == 0x45);
    assert_eq!(examine(&packet).payload, b"hello");
}

#[test]
fn a_device_of_another_kind_is_refused_and_stays() {
    let (namespace, mut netlink) = fresh();
    let persistent = Options { persistent: Some(true), ..Options::new("tun7") };
    drop(open(&namespace, persistent).unwrap());
    let left = index(&mut netlink, "tun7");
    for wrong in [
        Options { layer: Layer::Frames, ..Options::new("tun7") },
        Options { multi_queue: false, ..Options::new("tun7") },
    ] {
        assert_eq!(open(&namespace, wrong).unwrap_err().errno(), EINVAL);
    }
    assert_eq!(open(&namespace, Options { exclusive: true, ..Options::new("tun7") }).unwrap_err().errno(), EBUSY);
    assert_eq!(index(&mut netlink, "tun7"), left);
    netlink.create_bridge("bridge", None).unwrap();
    assert_eq!(open(&namespace, Options::new("bridge")).unwrap_err().errno(), EINVAL);
    assert_eq!(netlink.existing_link("bridge").unwrap().kind.as_deref(), Some("bridge"));
    assert_eq!(open(&namespace, Options::new("a-name-too-long-for-it")).unwrap_err().errno(), EINVAL);
}

#[test]
fn a_single_queue_device_takes_one_holder() {
    let (namespace, _netlink) = fresh();
    let single = Options { multi_queue: false, ..Options::new("tun7") };
    let _device = open(&namespace, single).unwrap();
    assert_eq!(open(&namespace, single).unwrap_err().errno(), EBUSY);
}

#[test]
fn an_exclusive_device_is_new() {
    let (namespace, mut netlink) = fresh();
    let exclusive = Options { exclusive: true, queues: 2, ..Options::new("tun7") };
    let device = open(&namespace, exclusive).unwrap();
    assert_eq!(open(&namespace, exclusive).unwrap_err().errno(), EBUSY);
    drop(device);
    assert_eq!(index(&mut netlink, "tun7"), None);
}

#[test]
fn the_kernel_spreads_flows_over_queues_and_takes_packets_from_each() {
    let (namespace, mut netlink) = fresh();
    let device = open(&namespace, Options { queues: 4, ..Options::new("tun7") }).unwrap();
    assert_eq!(device.queues.len(), 4);
    up(&mut netlink, "tun7", "10.0.0.1/24");
    let mut used = [0; 4];
    for _ in 0..64 {
        let socket = namespace.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"hello", "10.0.0.2:9").unwrap();
        let (queue, packet) = next(&device.queues, |bytes| bytes[0] == 0x45);
        used[queue] += 1;
        // The answer, by the same queue.
        let to = socket.local_addr().unwrap().to_string();
        assert_eq!(packet[12..16], [10, 0, 0, 1]);
        device.queues[queue]
            .send(&VnetHdr::NONE, &Packet::new("10.0.0.2:9", &to, None, b"you".to_vec()).bytes())
            .unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 3);
    }
    assert!(used.iter().all(|&flows| flows > 0), "{used:?}");
}

#[test]
fn a_device_that_is_down_or_gone_says_so() {
    let (namespace, mut netlink) = fresh();
    let device = open(&namespace, Options::new("tun7")).unwrap();
    let packet = Packet::new("10.0.0.2:9", "10.0.0.1:9", None, vec![]).bytes();
    let queue = &device.queues[0];
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(queue.send(&VnetHdr::NONE, &packet)), Some(5), "EIO");
    up(&mut netlink, "tun7", "10.0.0.1/24");
    queue.send(&VnetHdr::NONE, &packet).unwrap();
    let link = netlink.existing_link("tun7").unwrap().index;
    netlink.delete_link(link).unwrap();
    assert_eq!(errno(queue.send(&VnetHdr::NONE, &packet)), Some(77), "EBADFD");
    assert_eq!(queue.recv(&mut [0; 100]).unwrap_err().raw_os_error(), Some(77), "EBADFD");
}

#[test]
fn a_tap_device_speaks_ethernet() {
    let (namespace, mut netlink) = fresh();
    let device = open(&namespace, Options { layer: Layer::Frames, ..Options::new("tap7") }).unwrap();
    up(&mut netlink, "tap7", "10.0.0.1/24");
    let link = netlink.existing_link("tap7").unwrap();
    assert_eq!((link.kind.as_deref(), link.layer), (Some("tun"), netlink::Layer::Ethernet));
    let socket = namespace.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    socket.send_to(b"hello", "10.0.0.2:9").unwrap();
    // Before the datagram comes the question who has its address.
    let (_, frame) = next(&device.queues, |frame| frame[12..14] == [8, 6]);
    let question = ArpPacket::parse(EthernetFrame::parse(&frame).unwrap().payload()).unwrap();
    let ours = MacAddress([2, 0, 0, 0, 0, 9]);
    let answer = question.reply(ours).expect("a question");
    device.queues[0].send(&VnetHdr::NONE, &answer.emit_frame()).unwrap();
    let (_, frame) = next(&device.queues, |frame| frame[12..14] == [8, 0]);
    let frame = EthernetFrame::parse(&frame).unwrap();
    assert_eq!((frame.destination(), frame.source()), (ours, MacAddress(link.mac.unwrap())));
    assert!(frame.payload().ends_with(b"hello"));
}

/// Set in the process that this program starts as another user.
const INSIDE: &str = "ADIT_TEST_INSIDE";

#[test]
fn the_owner_of_a_device_needs_no_right_to_attach() {
    if std::env::var_os(INSIDE).is_some() {
        // Now an ordinary user, in the namespace that was prepared.
        assert_eq!(Device::open(Options::new("tun7")).unwrap().queues.len(), 1);
        assert_eq!(Device::open(Options::new("tun8")).unwrap_err().errno(), Some(1), "EPERM");
        return;
    }
    let (namespace, mut netlink) = fresh();
    // In a user namespace of one user there is nobody else to be, and he has every right.
    let others = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    let nobody = if others { 65_534 } else { 0 };
    for (name, owner) in [("tun7", nobody), ("tun8", 0)] {
        drop(open(&namespace, Options { persistent: Some(true), owner: Some(owner), ..Options::new(name) }).unwrap());
        assert!(index(&mut netlink, name).is_some());
    }
    if !others {
        drop(open(&namespace, Options::new("tun7")).unwrap());
        return;
    }
    // A copy, since this user may not be let into the directory where this program stands.
    let directory = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = directory.path().join("tun");
    fs::copy("/proc/self/exe", &program).unwrap();
    // A device file that is open to all, as udev makes it; not every system has it so.
    let line = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
                exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", line, "sh"])
        .arg(&program)
        .args(["--exact", "the_owner_of_a_device_needs_no_right_to_attach"])
        .env(INSIDE, "1");
    let output = namespace.run(|| command.output()).unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
