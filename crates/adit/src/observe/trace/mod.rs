//! `adit trace`: probes are sent and seen at every place that they pass.
//!
//! What is seen:
//!
//! | module | what it is for |
//! |---|---|
//! | [`observation`] | what was seen, as it travels between hosts |
//! | `probe` | what probes look like, and how they are known again |
//! | `filter`, `capture` | which packets the kernel picks, and what is made of them |
//! | [`helper`] | the process that may capture |
//! | [`watch`] | what workers see |
//! | [`desk`] | one trace on this host: armed, watched, gathered; who may ask for it |
//! | `talk`, `remote`, `blob` | what hosts say to each other about it |
//! | `report` | counters, and what is set on a host |
//! | [`send`] | sending, and waiting for answers |
//!
//! What is made of it, without any I/O:
//!
//! | module | what it is for |
//! |---|---|
//! | [`journey`] | the hops of each probe over all hosts, in order |
//! | `clean`, `links`, `headers`, `clocks`, `order` | its steps: text made fit to be shown; what belongs together; what was read; one time for all hosts; what came first |
//! | [`crossings`] | crossings between kernel and user space, and the sums |
//! | [`reason`], `stage`, `rules` | where a probe ended, and the likely reason |
//! | [`drawing`], [`svg`], [`json`], [`pcapng`] | the journey on a terminal, as a figure, for programs, as a capture file; with `lanes` (columns) and `words` |

pub mod blob;
mod capture;
mod clean;
pub mod clocks;
pub mod crossings;
pub mod desk;
pub mod drawing;
mod filter;
pub mod headers;
pub mod helper;
pub mod journey;
pub mod json;
mod lanes;
mod links;
pub mod observation;
mod order;
pub mod pcapng;
mod probe;
pub mod reason;
mod remote;
mod report;
mod rules;
pub mod send;
mod stage;
pub mod svg;
mod talk;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod watch;
mod words;

pub use blob::Gathered;
pub use desk::Desk;
pub use probe::Sought;
pub use send::Wish;

use observation::Trace;
use send::Sent;

use crate::Result;
use crate::request::Handle;

/// Sends probes from the host of a daemon, in its own process and with the rights that it has, and answers what was seen. Takes some
/// seconds.
///
/// # Errors
/// Another trace is under way; the host cannot capture, or send such probes.
pub fn start(handle: &Handle, wish: Wish) -> Result<Trace> {
    wish.check()?;
    let desk = handle.trace();
    let wish = if send::may_send(&wish) { wish } else { wish.by_udp() };
    let (id, sought) = desk.begin(handle, &wish)?;
    let sent = send::run(&wish, &sought);
    // Also where nothing was sent: it must end.
    let gathered = desk.collect(handle, id)?;
    Ok(told(&wish, desk.own_name(handle), sent?, gathered))
}

/// All that is known of a trace, put together.
#[must_use]
pub fn told(wish: &Wish, from: String, sent: Sent, gathered: Gathered) -> Trace {
    let Sent { sizes, answered } = sent;
    Trace {
        destination: wish.destination,
        from,
        protocol: wish.protocol,
        sizes,
        observations: gathered.observations,
        reports: gathered.reports,
        answered,
    }
}
