//! The program: what a verb does, from its arguments to the kernel and back.
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`] | verbs: what was typed, turned into a call of one of the modules below |
//! | [`config`] | the configuration file: raw (what was written) → resolved (checked, defaults filled in) |
//! | [`key`] | X25519 keys: files, text, generation |
//! | [`logging`] | lines on standard error, and how many of a kind |
//! | [`api`] | the control protocol between a daemon and `status` or `down` |
//! | [`uapi`] | the protocol of WireGuard's tools: `wg`, `wg-quick` |
//! | [`observe`] | what a person reads about a running daemon |
//! | [`up`] | the daemon's life, from its configuration to a clean stop |
//! | [`control`] | the thread that decides: events, repairs, changes, what workers see |
//! | [`request`] | how other threads ask it for another configuration, and what it is now |
//! | [`reconfigure`] | from two configurations, what is to change between them |
//! | [`roster`] | what it knows of each peer, by number |
//! | [`switchboard`] | the encrypted peers, on the same thread |
//! | [`names`] | host names of peers, resolved in threads of their own |
//! | [`network`] | this host as a node of a network: its registry watched, its lease kept, its nodes made peers |
//! | [`resolver`] | names of nodes and containers, for those who ask on this host |
//! | [`notify`] | what the service manager is told |
//! | [`subnet_env`] | the lease in flannel's format, for CNI plugins and others |
//! | [`mod@unit`] | which unit of systemd starts a configuration |
//! | [`underlay`] | where peers are, and how large a packet the way to each takes |
//! | [`plan`] | from what the host should look like and what it looks like, the steps between |
//! | [`apply`] | changes to the host, and taking them back |
//! | [`data_path`] | device, sockets and worker threads: opened, started, stopped |
//! | [`worker`] | the way of a packet |
//! | [`counters`] | what workers count |
//! | [`dns`] | resolvers of a tunnel, set and given back through the host's own programs |
//! | [`container`] | containers on this node, by CNI, Docker, or `adit run` |
//! | [`files`] | files that are replaced as a whole |
//! | [`demo`] | two hosts with containers, built in namespaces |
//! | `lab` | what `demo` and `bench` are made of: namespaces, daemons in them, loads, removal |
#![forbid(unsafe_code)]

pub mod api;
pub mod apply;
pub mod cli;
pub mod config;
pub mod container;
pub mod control;
pub mod counters;
pub mod data_path;
pub mod demo;
mod directories;
pub mod dns;
mod failure;
pub mod files;
pub mod key;
mod lab;
pub mod logging;
pub mod mark;
pub mod names;
pub mod network;
pub mod notes;
pub mod notify;
pub mod observe;
pub mod plan;
pub mod reconfigure;
pub mod request;
pub mod resolver;
pub mod roads;
pub mod roster;
pub mod subnet_env;
pub mod switchboard;
pub mod uapi;
pub mod underlay;
pub mod unit;
pub mod up;
pub mod worker;

pub use directories::Directories;
pub use failure::{Failure, Result};
