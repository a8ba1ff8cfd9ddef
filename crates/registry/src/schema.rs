//! flannel's keys and values, to the byte, so that its nodes, its tools and ours read each other; and the paths of our own keys.
//!
//! A network's keys stand under one prefix, `/coreos.com/network` unless told otherwise:
//!
//! | key | value |
//! |---|---|
//! | `<prefix>/config` | [`NetworkConfig`] |
//! | `<prefix>/subnets/10.42.7.0-24` or `…/10.42.7.0-24&fd00:42:7::-64` | [`LeaseValue`], bound to a lease of etcd; without one it is a reservation |
//! | `<prefix>/adit/removed/<number>`, `…/epochs/<epoch>`, `…/releases/<serial>` | ours (see [`trust`](crate::trust)) |
//!
//! What comes from a registry was written by anybody: it is parsed with bounds, and what does not parse is an error of that one value.
//! JSON is read as Go reads it, since that is what flannel does: names of fields without regard to case, the last of equal ones,
//! unknown ones ignored.

mod config;
mod go;
mod prefix;
mod subnets;
mod value;

pub use config::{Backend, ConfigError, FLANNEL_PORT, NetworkConfig, Pool};
pub use go::{JsonError, MAX_LEN};
pub use prefix::{Key, Prefix, PrefixError};
pub use subnets::Subnets;
pub use value::{LeaseValue, ValueError};
