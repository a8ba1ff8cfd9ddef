//! All checks, for the fuzz targets.

mod checks;
mod cni_checks;
mod names_checks;
mod registry_checks;
mod tunnel_checks;

pub use checks::*;
pub use cni_checks::*;
pub use names_checks::*;
pub use registry_checks::*;
pub use tunnel_checks::*;
