//! The configuration file, in two types: what was written ([`raw`]) and what it means ([`resolved`]).
//!
//! [`load`] is the one door: it reads a file, refuses what is unknown or cannot work, fills in the defaults and reads the
//! keys. Nothing outside of the file system is asked, and nothing is changed.

pub mod resolved;

pub use resolved::{Device, Endpoint, Host, Mtu, Peer, Transport, TransportKind, Tunnel, Workers};
