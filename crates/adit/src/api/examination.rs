//! What a daemon measures when `adit doctor` asks: the ways to its peers, and what peers say of us.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The answer to [`Request::Examine`](super::Request::Examine).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// The file that the daemon was started with; empty for none.
    pub source: PathBuf,
    /// Our public keys in base64, for each transport that is in use.
    pub public_keys: Vec<String>,
    /// The mark of our datagrams.
    pub mark: Option<u32>,
    /// Bytes that each buffer of a socket was asked to have. The kernel shows twice as much.
    pub asked_buffer: u64,
    /// The sealed peers with a session, as many as were measured.
    pub peers: Vec<PeerExamination>,
    /// How many others there are with a session, that were not measured.
    pub left_out: usize,
    /// Sealed peers that had no session, were called, and did not answer.
    #[serde(default)]
    pub silent: Vec<String>,
}

/// The way to one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerExamination {
    /// What it is called.
    pub name: String,
    /// The largest inner packet that a probe brought there and back, in bytes; 0 if none did.
    pub size: u64,
    /// The largest that was tried: what the first link permits.
    pub target: u64,
    /// The largest that is sent there now, in bytes.
    pub in_use: u64,
    /// The shortest time there and back, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Where its datagrams arrive on this host: the address, and the number of the device.
    pub local: Option<(IpAddr, u32)>,
    /// What it says of us; nothing if its version cannot say it.
    pub told: Option<Told>,
}

/// What a peer says of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Where it sees us.
    pub seen_at: Option<SocketAddr>,
    /// Nanoseconds that its clock is ahead of ours.
    pub ahead_ns: i64,
    /// Nanoseconds that this may be wrong by.
    pub uncertain_ns: i64,
}
