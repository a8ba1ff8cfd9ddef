//! Where a daemon keeps what others may find: its sockets and its state.

use std::path::PathBuf;

/// The two directories of a daemon. Several daemons may share them: everything inside is named after the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Sockets and the lock, gone after a reboot (`/run/adit`).
    pub runtime: PathBuf,
    /// What must survive a reboot (`/var/lib/adit`).
    pub state: PathBuf,
}

impl Directories {
    /// The default of [`Directories::runtime`].
    pub const RUNTIME: &'static str = "/run/adit";
    /// The default of [`Directories::state`].
    pub const STATE: &'static str = "/var/lib/adit";
}

impl Default for Directories {
    fn default() -> Self {
        Self { runtime: Self::RUNTIME.into(), state: Self::STATE.into() }
    }
}
