//! Who is in the network: a client of etcd's v3 API, a registry of our own that speaks it, leases of subnets as flannel has them, and
//! the trust that lets a registry be wrong without harm.
//!
//! | module | question |
//! |---|---|
//! | [`api`] | what is said to a registry? |
//! | [`schema`] | what do its keys and values mean? (flannel's, to the byte) |
//! | [`client`] | how is a registry asked and watched? |
//! | [`lease`] | which subnet is ours? |
//! | [`server`] | the registry inside adit |
//! | [`trust`] | whose word counts? |
//! | [`view`] | who is in the network, by all records and all we remember? |
//! | [`enrol`] | how does a node come in? |

#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod enrol;
pub mod lease;
pub mod schema;
pub mod server;
pub mod trust;
pub mod view;
