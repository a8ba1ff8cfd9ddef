//! Lives out of seeds, and scripts for what has a name.

mod lives;
