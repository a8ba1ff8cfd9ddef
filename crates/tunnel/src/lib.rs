//! Who are the peers, and where does an address live: decisions without I/O.
//!
//! Nothing here opens a socket, asks a clock or makes randomness; this crate knows `wire` and no other. It has two halves, which share
//! [`Remote`] and [`table`]:
//!
//! * **control**, a state machine: [`Node`] takes one input and the time, and says what is to be done;
//! * **data**, plain functions for workers: [`Snapshot`] says whose a packet is, a [session] seals and opens it. Both ways end
//!   in one verdict: the packet goes on, or it is dropped for a [`Reason`].
//!
//! | module | question |
//! |---|---|
//! | [`node`], [`peer`], `timers`, `work` | what follows from an input; what is known of a peer; when is something due; how much may it cost |
//! | [`handshake`], `noise`, [`mac`] | how two nodes agree on keys, and who may ask |
//! | [`admission`], [`limiter`] | may a message be looked at, or is a cookie asked for first |
//! | [`stamp`] | timestamps that only grow, also over restarts |
//! | `probe` | is somebody at this address, and how large a packet passes |
//! | [`session`], [`open`], [`replay`], [`table`] | sealing and opening, one by one and in batches; which counters came already; which session a datagram is for |
//! | [`remote`] | what control and workers both know of a peer |
//! | [`forwarding`], [`snapshot`] | which prefix is the longest that an address matches; which peer gets a packet, and may this one come from it |
//! | [`switch`] | the same of frames: which address is where, what is flooded, is there a loop |
//! | [`time`], [`verdict`] | when; why was it dropped |
//! | `sim` | a world in simulated time in which all of it is tested |
#![forbid(unsafe_code)]

pub mod admission;
pub mod forwarding;
pub mod gauge;
pub mod handshake;
pub mod limiter;
pub mod mac;
pub mod network;
pub mod node;
mod noise;
pub mod open;
pub mod peer;
mod probe;
pub mod remote;
pub mod replay;
pub mod session;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod snapshot;
pub mod stamp;
pub mod switch;
pub mod table;
pub mod time;
mod timers;
pub mod verdict;
mod work;

pub use forwarding::RouteTable;
pub use node::{Node, Notice, Now, Output};
pub use remote::Remote;
pub use snapshot::{Peer, PeerId, Snapshot, Target, Way};
pub use time::Time;
pub use verdict::Reason;
