//! The journey from observations to its drawings: what it must tell of ways that are known, and what holds for any.

mod any;
mod reasons;
mod told;

pub(super) use any::any_trace;
