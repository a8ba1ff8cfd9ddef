//! Who are the peers, and where does an address live: decisions without I/O.
//!
//! Nothing here opens a socket or asks the clock; this crate knows `wire` and no other. Workers read an immutable
//! [`Snapshot`] that control publishes, and both sides of a packet's way end in one verdict: it goes on, or it is dropped
//! for a [`Reason`].
//!
//! | module | question |
//! |---|---|
//! | [`forwarding`] | which prefix is the longest that an address matches |
//! | [`handshake`] | who speaks, and under which keys |
//! | [`mac`] | does a sender know its receiver, and receive where it sends from |
//! | [`snapshot`] | which peer gets a packet, and may this packet have come from that peer |
//! | [`time`] | when |
//! | [`verdict`] | why was it dropped |
#![forbid(unsafe_code)]

pub mod forwarding;
pub mod handshake;
pub mod mac;
mod noise;
pub mod snapshot;
pub mod time;
pub mod verdict;

pub use forwarding::RouteTable;
pub use snapshot::{Peer, PeerId, Snapshot, Target};
pub use time::Time;
pub use verdict::Reason;
