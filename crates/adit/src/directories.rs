//! Where a daemon keeps what others may find: its sockets and its state.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Failure, Result};

/// The directories of a daemon. Several daemons may share them: everything inside is named after the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Sockets and the lock, gone after a reboot (`/run/adit`).
    pub runtime: PathBuf,
    /// What must survive a reboot (`/var/lib/adit`).
    pub state: PathBuf,
    /// Sockets for WireGuard's tools (`/var/run/wireguard`).
    pub wireguard: PathBuf,
}

impl Directories {
    /// The default of [`Directories::runtime`].
    pub const RUNTIME: &'static str = "/run/adit";
    /// The default of [`Directories::state`].
    pub const STATE: &'static str = "/var/lib/adit";
    /// The default of [`Directories::wireguard`], and the only one in which the tools look.
    pub const WIREGUARD: &'static str = "/var/run/wireguard";

    /// Checks that both can still be reached after root's override of permissions (CAP_DAC_OVERRIDE) was given up: a daemon that
    /// could not would leave its files behind.
    ///
    /// # Errors
    /// A directory on the way that is another user's and closed to others.
    pub fn check_reachable(&self) -> Result<()> {
        if !linux::privilege::is_root() {
            return Ok(());
        }
        for (directory, option) in [(&self.runtime, "--runtime-dir"), (&self.state, "--state-dir")] {
            let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
            if let Some(closed) = absolute.ancestors().find(|path| is_closed(path)) {
                return Err(Failure::failed(format!(
                    "{} lies in {}, which only its owner may enter, and the daemon gives root's override of that up",
                    directory.display(),
                    closed.display()
                ))
                .with_remedy(format!("choose another directory with {option}")));
            }
        }
        Ok(())
    }
}

/// Whether root needs its override to pass: another user's directory that others may not search.
fn is_closed(path: &Path) -> bool {
    const SEARCH_BY_OTHERS: u32 = 0o001;
    fs::metadata(path).is_ok_and(|m| m.uid() != 0 && m.mode() & SEARCH_BY_OTHERS == 0)
}

impl Default for Directories {
    fn default() -> Self {
        Self { runtime: Self::RUNTIME.into(), state: Self::STATE.into(), wireguard: Self::WIREGUARD.into() }
    }
}
