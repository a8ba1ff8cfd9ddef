//! What the demo found, as data: the schema of `adit demo --json` (docs/DEMO.md), and how it is told on a terminal.

pub(super) mod drawing;
pub(super) mod text;

use serde::Serialize;

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// The version of the program.
    pub(super) version: &'static str,
    /// Whether it ran in a user namespace, without being root.
    pub(super) rootless: bool,
    /// How long it took, removal included.
    pub(super) seconds: f64,
    /// Names of the namespaces that a killed run had left.
    pub(super) repaired: Vec<String>,
    pub(super) topology: Topology,
    pub(super) reachability: Vec<Reach>,
    /// Whether each container reached each other one.
    pub(super) pairs: Pairs,
    pub(super) throughput: Vec<Throughput>,
    /// One hop after another.
    pub(super) journey: Vec<Hop>,
    pub(super) packet: Packet,
    pub(super) buffers: Vec<Buffers>,
    pub(super) removed: Removed,
}

/// What was built.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Topology {
    pub(super) underlay: &'static str,
    pub(super) underlay_mtu: u32,
    pub(super) hosts: Vec<Host>,
}

/// A host.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Host {
    pub(super) name: &'static str,
    /// Its network namespace.
    pub(super) namespace: String,
    /// Its address on the network between the hosts, with the length of the prefix.
    pub(super) underlay: String,
    pub(super) bridge: &'static str,
    /// The bridge's address, with the length of the prefix.
    pub(super) gateway: String,
    /// The TUN device.
    pub(super) device: String,
    /// The device's addresses, with the length of the prefix.
    pub(super) addresses: Vec<String>,
    /// The largest packet of device and containers, in bytes.
    pub(super) mtu: u32,
    /// What the kernel leaves to the daemon.
    pub(super) offloads: Vec<String>,
    /// Where the daemon takes datagrams.
    pub(super) listen: String,
    /// How packets travel to the other host: `sealed`, `wireguard` or `plain`.
    pub(super) transport: String,
    /// Whether they are encrypted and authenticated on the way.
    pub(super) encrypted: bool,
    /// What encrypts them.
    pub(super) suite: Option<String>,
    /// The prefix that is routed into the device.
    pub(super) routed: String,
    pub(super) containers: Vec<Container>,
}

/// A container.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Container {
    pub(super) name: &'static str,
    pub(super) namespace: String,
    pub(super) device: &'static str,
    pub(super) address: String,
    /// The host's end of its veth pair.
    pub(super) port: &'static str,
}

/// Round trips on one path.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Reach {
    pub(super) path: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) address: String,
    pub(super) sent: usize,
    pub(super) received: usize,
    /// Microseconds.
    pub(super) min_us: f64,
    /// Microseconds.
    pub(super) median_us: f64,
}

/// Ordered pairs of different containers.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Pairs {
    pub(super) reached: usize,
    pub(super) of: usize,
}

/// One TCP stream on one path.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Throughput {
    pub(super) path: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) what: &'static str,
    /// Whether what travels between the hosts is encrypted.
    pub(super) encrypted: bool,
    /// 10⁹ bits of payload per second, the median of the rounds.
    pub(super) gbps: f64,
    /// The same per round.
    pub(super) rounds: Vec<f64>,
    /// The median of the rounds' ratios to VXLAN.
    pub(super) times_vxlan: f64,
    /// The median of the rounds' ratios to the bare veth pair.
    pub(super) times_veth: f64,
    /// Busy seconds of the whole machine per 10⁹ bytes of payload.
    pub(super) cpu_seconds_per_gb: f64,
    /// How many packets went with one system call, where daemons carried them.
    pub(super) packets_per_call: Option<PerCall>,
}

/// Packets per call: the sender's daemon reads the device and sends, the receiver's receives and writes its device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct PerCall {
    pub(super) read: f64,
    pub(super) sendmsg: f64,
    pub(super) recvmsg: f64,
    pub(super) write: f64,
}

/// The packet of the journey.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Packet {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) payload_bytes: usize,
    /// Microseconds from the sender's call to the receiver's return.
    pub(super) delivered_us: f64,
    /// How often it passed between kernel and user space: inferred from the order of the hops.
    pub(super) crossings: usize,
    /// How often its bytes were copied for that: one per crossing, by how the calls work; not measured.
    pub(super) copies_by_model: usize,
    /// Microseconds in the sender's and the receiver's daemon, from device to card and back.
    pub(super) daemons_us: [f64; 2],
    /// After the last hop.
    pub(super) last_crossing: Crossing,
}

/// One device that the packet passed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Hop {
    /// Where it passed into or out of user space since the hop before.
    pub(super) crossings: Vec<Crossing>,
    /// Microseconds since the sender's call.
    pub(super) us: f64,
    /// Host or container.
    pub(super) place: &'static str,
    pub(super) device: &'static str,
    /// `in` or `out`, seen from the place.
    pub(super) direction: &'static str,
    /// `L2` (begins with an Ethernet header) or `L3` (begins with the IP header).
    pub(super) layer: &'static str,
    /// Bytes, all headers included.
    pub(super) size: usize,
    /// How it was known to be this packet: `content`, or where it is encrypted `length` and `ciphertext`.
    pub(super) known_by: &'static str,
    /// Outermost first.
    pub(super) headers: Vec<Header>,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Header {
    pub(super) name: &'static str,
    pub(super) summary: String,
    /// 0: the packet as it travels; 1: the tunnel's message in it.
    pub(super) depth: usize,
}

/// Between kernel and user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Crossing {
    /// The system call.
    pub(super) call: &'static str,
    /// Who made it.
    pub(super) by: &'static str,
    /// Whether the bytes went into the kernel, or out of it.
    pub(super) into_kernel: bool,
}

/// What a daemon's sockets were granted, in bytes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Buffers {
    pub(super) host: &'static str,
    pub(super) receive: u64,
    pub(super) send: u64,
}

/// What is gone again.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Removed {
    /// Whether a look afterwards found nothing left.
    pub(super) complete: bool,
    pub(super) namespaces: Vec<String>,
    /// Process ids of the daemons.
    pub(super) daemons: Vec<u32>,
}
