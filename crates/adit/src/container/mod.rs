//! Containers on this node: one plan, four front doors.
//!
//! ```text
//!  cni/    a runtime calls the plugin          ┐                       ┌─ Record: addresses, pins, ports; on disk before it is made
//!  docker/ dockerd calls `adit docker-plugin`  ├─► Request ─► attach ──┤
//!  run/    a person types `adit run -- CMD`    ┤                       └─ plan ─► apply: bridge, veth or TAP, filters, inside
//!  vm/     a person types `adit vm-tap NAME`   ┘
//! ```
//!
//! A container hangs on the bridge of its node by a veth pair, a virtual machine by a TAP. Its address is one of the node's lease; the directory of [records](record) is all that
//! gives addresses out, under one lock, so that plugins that run side by side, and ones that are killed, never give one away twice. What a container
//! sends is held to its own addresses by [filters] on its device, before the bridge sees it.
//!
//! The doors are short programs with root's rights (a namespace is entered by them, never by the daemon). The daemon tells them [what the node
//! is](node), and keeps what they made as it should be.

mod apply;
mod attach;
pub mod cni;
pub mod docker;
pub mod filters;
mod inside;
pub mod ipam;
mod keep;
mod leftovers;
pub mod node;
mod plan;
pub mod ports;
pub mod record;
pub mod run;
pub mod vm;

pub use attach::{Place, Request, attach, detach, publish, reserve, sweep_at_start};
pub use keep::{check, collect, open_namespace, remove_all, remove_unused_bridge, repair, repair_cards};
pub use leftovers::Damaged;
pub use node::{Node, check_bridge, check_foreign};
pub use ports::Published;
pub use record::{Door, Found, Key, Locked, Process, Record, Stage, Store, Tap};

/// Why something cannot be done for a container, as each door has to say it in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What sort of fault it is.
    pub kind: FaultKind,
    /// A clause or sentence that says what failed, why, and what to do.
    pub sentence: String,
}

/// Sorts of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// There is no node, or it has no subnet yet: later there may be.
    NotReady,
    /// What was asked for is wrong: a name, an address that is not the node's, a port.
    Invalid,
    /// No address is free.
    Exhausted,
    /// The address that was asked for is another's.
    AddressTaken,
    /// The port that was to be published is in use.
    PortTaken,
    /// There is such an attachment, or such an interface, already.
    Exists,
    /// The namespace is not there, or is none.
    NoNamespace,
    /// There is no such attachment, or it is not as it was made.
    NotAsMade,
    /// A file could not be read or written.
    Storage,
    /// The kernel refused.
    Kernel,
}

impl Fault {
    /// A fault.
    pub fn new(kind: FaultKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Fault {}

impl From<linux::Error> for Fault {
    fn from(error: linux::Error) -> Self {
        Self::new(FaultKind::Kernel, error.to_string())
    }
}

impl From<Fault> for crate::Failure {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Invalid => Self::usage(fault.sentence),
            _ => Self::failed(fault.sentence),
        }
    }
}
