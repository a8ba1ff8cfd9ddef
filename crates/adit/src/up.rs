//! The daemon's life, from its configuration to a clean stop.

use crate::{Directories, Failure, Result, config};

/// Runs the tunnel in the foreground until it is asked to stop.
///
/// # Errors
/// What could not be set up, after everything done so far was taken back.
pub fn run(_tunnel: config::Tunnel, _directories: Directories) -> Result<()> {
    Err(Failure::failed("this build has no daemon yet"))
}
