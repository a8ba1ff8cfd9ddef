//! `adit trace`: probes are sent and seen at every place that they pass.
//!
//! | module | what it is for |
//! |---|---|
//! | [`observation`] | what was seen, as it travels between hosts |
//! | [`journey`] | from that, the hops of each probe over all hosts, in order |
//! | `clean`, `links`, `headers`, `clocks`, `order` | its steps: text made fit to be shown; what belongs together; what was read; one time for all hosts; what came first |
//! | [`crossings`] | crossings between kernel and user space, and the sums |
//! | [`reason`], `stage`, `rules` | where a probe ended, and the likely reason |
//! | [`drawing`], [`svg`], [`json`], [`pcapng`] | the journey on a terminal, as a figure, for programs, as a capture file; with `lanes` (columns) and `words` |

mod clean;
pub mod clocks;
pub mod crossings;
pub mod drawing;
pub mod headers;
pub mod journey;
pub mod json;
mod lanes;
mod links;
pub mod observation;
mod order;
pub mod pcapng;
pub mod reason;
mod rules;
mod stage;
pub mod svg;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod words;
