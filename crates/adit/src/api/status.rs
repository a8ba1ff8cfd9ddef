//! The state of a daemon at one moment: the schema of `adit status --json`.
//!
//! Fields are added, never renamed, removed or given another meaning or unit; docs/STATUS.md documents each. Counters start
//! at zero with the daemon and only grow.

use std::{collections::BTreeMap, net::SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the daemon (which may be older than the program that asks).
    pub version: String,
    /// The daemon's process id, in its own namespace.
    pub pid: u32,
    /// Seconds since the daemon was ready.
    pub uptime_s: u64,
    /// The virtual network card.
    pub device: DeviceStatus,
    /// The socket and the threads.
    pub transport: TransportStatus,
    /// The other ends, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// The worker threads, by number.
    pub workers: Vec<WorkerStatus>,
    /// Packets dropped, by reason; a reason that never occurred may be absent.
    pub drops: BTreeMap<String, u64>,
}

/// The virtual network card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// `tun` or `tap`.
    pub mode: String,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Host addresses with the prefix length of their network.
    pub addresses: Vec<IpNet>,
    /// What the kernel leaves to us: `csum`, `tso4`, `tso6`, `uso4`, `uso6`.
    pub offloads: Vec<String>,
    /// Why an offload is missing, if one is.
    pub reason: Option<String>,
}

/// The socket and the threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransportStatus {
    /// The UDP address.
    pub listen: SocketAddr,
    /// Pairs of device queue and socket.
    pub workers: usize,
    /// Whether super-packets are used.
    pub offload: bool,
    /// Microseconds that a worker looks again before it sleeps.
    pub busy_poll_us: u64,
    /// Bytes that the kernel granted each socket for datagrams not yet read.
    pub receive_buffer: u64,
    /// Bytes that the kernel granted each socket for datagrams not yet sent.
    pub send_buffer: u64,
}

/// Another end of the tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its key in base64, if it has one.
    pub public_key: Option<String>,
    /// Where its datagrams go now: address and port.
    pub endpoint: Option<String>,
    /// `plain`.
    pub transport: String,
    /// Whether packets are encrypted and authenticated on the way.
    pub secure: bool,
    /// What lives behind it.
    pub allowed_ips: Vec<IpNet>,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
}

/// One worker thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Inner packets from the wire to the device.
    pub rx_packets: u64,
    /// Inner packets from the device to the wire.
    pub tx_packets: u64,
    /// Reads from the socket that brought something.
    pub rx_batches: u64,
    /// Writes to the socket.
    pub tx_batches: u64,
}
