//! All checks, for the fuzz targets.

mod checks;
mod tunnel_checks;

pub use checks::*;
pub use tunnel_checks::*;
