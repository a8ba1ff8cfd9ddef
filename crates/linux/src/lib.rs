//! A safe interface to the Linux kernel's network devices: one file per facility, no policy.
//!
//! This is the only crate of the workspace in which `unsafe` may stand; each block says why it is sound. Everything here is
//! blocking and runs in the network namespace of the calling thread (see [`netns`] for running in another one).
//!
//! | module | facility |
//! |---|---|
//! | [`tun`] | TUN and TAP devices, multi-queue, with a virtio-net header and probed offloads |
//! | [`udp`] | UDP sockets: batches, segmentation trains, GRO, packet info, path-MTU errors, steering |
//! | [`bound`] | sockets of the standard library that speak by one device only |
//! | [`service`] | sockets of a service on an address that may come later, with a queue per group of senders |
//! | [`netlink`] | links, addresses, routes, neighbours, forwarding database |
//! | [`netns`] | network namespaces: named and anonymous, running code inside them |
//! | [`ping`] | round trips by ICMP echo |
//! | [`probe`] | sockets that send single packets whose answers are waited for |
//! | [`nft`] | nf_tables rule sets, replaced in one transaction |
//! | [`capture`] | AF_PACKET capture with kernel timestamps |
//! | [`clock`] | the time since start, and of day |
//! | [`cpu`] | what the processor can do |
//! | [`privilege`] | user-namespace re-entry, capabilities, and what a process gives up |
//! | [`terminal`] | how large a terminal is |
//! | [`sandbox`] | programs in namespaces of their own: mounts, signals, the terminal |
//! | [`local`] | sockets in the file system |
//! | [`name_service`] | whom a program without shared libraries asks for names |
//! | [`daemon`] | leaving the session and the streams of whoever started the process |
//! | [`watch`] | being told when a file is removed or replaced, or what a directory holds changes |
//! | [`poll`] | readiness of file descriptors, wake-ups between threads |

mod syscall;

pub mod bound;
pub mod capture;
pub mod clock;
pub mod cpu;
pub mod daemon;
pub mod local;
pub mod name_service;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod ping;
pub mod poll;
pub mod privilege;
pub mod probe;
pub mod sandbox;
pub mod service;
pub mod sysctl;
pub mod terminal;
pub mod tun;
pub mod udp;
pub mod watch;

mod error;
pub use error::{Error, Result};
