//! `adit bench --to NODE`: between this host and another, through the tunnel that runs.
//!
//! ```text
//!  adit bench ──1 Bench──► daemon here ──2 note: ask──► daemon there    permitted? [observe] allow = ["bench"]
//!             ◄──4 terms──             ◄──3 note: serve──      └─ serves on its own address, to ours only, for a while
//!             ──────────────── 5 TCP and UDP through the tunnel ───────►
//! ```
//!
//! What is asked and answered travels inside the sealed session, the random token that opens the service too. The service is bound to the
//! tunnel device, or to the bridge that this is a port of, takes connections from the one address that the session's owner has, one bench at a time, and ends by itself: when the
//! client leaves, after the time that was agreed, or after `serve::MAX_BYTES`.
//!
//! | module | what it is for |
//! |---|---|
//! | `message` | what daemons tell each other |
//! | `ask` | the daemon that asks (2, 3) |
//! | `desk` | the daemon that is asked |
//! | `serve` | what it serves |
//! | `client` | the loads (5), in the process of `adit bench` |
//! | `report` | what came out |

mod ask;
mod client;
mod desk;
mod message;
mod report;
mod serve;

use std::net::IpAddr;

use ipnet::IpNet;
use linux::netlink::Netlink;
use serde::{Deserialize, Serialize};

use crate::config::Peer;
use crate::observe::bench::datagram::Token;
use crate::observe::facts::Facts;

pub use ask::ask;
pub use client::{Options, run};
pub use desk::start;

/// Who speaks for a tunnel: the device that has the addresses, and these. Of a device that carries frames and is a port of a bridge, that is the bridge.
fn speaker(facts: &Facts) -> (String, Vec<IpNet>) {
    let tunnel = facts.tunnel();
    let bridge = tunnel.ethernet.as_ref().and_then(|ethernet| ethernet.bridge.clone());
    let Some(bridge) = bridge else { return (facts.device_name().to_owned(), facts.addresses()) };
    // A bridge of somebody else's has what he gave it.
    let addresses = Netlink::open().and_then(|mut netlink| {
        let index = netlink.existing_link(&bridge)?.index;
        netlink.addresses(Some(index))
    });
    let is_global = |net: &IpNet| !matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let addresses = match addresses {
        Ok(addresses) => addresses.into_iter().map(|address| address.net).filter(is_global).collect(),
        Err(_) => facts.addresses(),
    };
    (bridge, addresses)
}

/// Whether packets to an address go to this peer: it lies within its prefixes, or the device carries frames, where peers have none, and it lies
/// within a network of the device.
fn is_of(address: IpAddr, peer: &Peer, own: &[IpNet]) -> bool {
    match peer.allowed_ips.as_slice() {
        [] => own.iter().any(|net| net.contains(&address) && net.addr() != address),
        prefixes => prefixes.iter().any(|prefix| prefix.contains(&address)),
    }
}

/// The longest bench between nodes, in seconds.
pub const MAX_SECONDS: u32 = 300;

/// What `adit bench --to` asks its daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// The peer, by its name.
    pub node: String,
    /// How long the loads take together.
    pub seconds: u32,
}

/// What was agreed: where the peer serves, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Our address, which alone is served.
    pub from: IpAddr,
    /// The peer's address.
    pub to: IpAddr,
    /// The port, of TCP and UDP.
    pub port: u16,
    /// What opens it, in 32 hexadecimal digits.
    pub token: String,
    /// The version of the peer's program.
    pub version: String,
}

impl Terms {
    /// The token's bytes.
    fn token(&self) -> Option<Token> {
        u128::from_str_radix(&self.token, 16).ok().map(u128::to_be_bytes)
    }
}
