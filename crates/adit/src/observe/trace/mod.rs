//! `adit trace`: probes are sent and seen at every place that they pass.
//!
//! | module | what it is for |
//! |---|---|
//! | [`observation`] | what was seen, as it travels between hosts |

pub mod observation;
