//! `[observe]`: who may see what of this host.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::document::{Document, Located};
use super::error::Error;
use super::raw;
use super::resolve::refuse;
use super::resolved::{Observe, ObserveAt};
use crate::api::STATUS_ENDING;

/// The longest path of a socket (`sun_path` of unix(7), less its terminating zero).
const LONGEST_SOCKET: usize = 107;

/// Resolves the section.
pub(super) fn resolve(document: &Document, raw: raw::Observe) -> Result<Observe, Error> {
    let mut observe =
        Observe { listen: raw.listen.map(|text| listen(document, &text)).transpose()?, ..Observe::default() };
    for word in raw.allow.iter().flat_map(|list| &list.value) {
        match word.value.as_str() {
            "trace" => observe.trace = true,
            "bench" => observe.bench = true,
            _ => return Err(refuse(document, word, "is nothing that peers ask for: write \"trace\" or \"bench\"")),
        }
    }
    Ok(observe)
}

fn listen(document: &Document, text: &Located<String>) -> Result<ObserveAt, Error> {
    if let Some(path) = text.value.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if !path.is_absolute() {
            Err(refuse(document, text, "is not an absolute path: write one such as \"unix:/run/adit/page.sock\""))
        } else if path.as_os_str().len() > LONGEST_SOCKET {
            Err(refuse(document, text, format!("is too long for a socket: {LONGEST_SOCKET} bytes at most")))
        } else if text.value.ends_with(STATUS_ENDING) {
            Err(refuse(
                document,
                text,
                "is named as the status sockets of daemons are: write one such as \"unix:/run/adit/page.sock\"",
            ))
        } else {
            Ok(ObserveAt::Unix(path))
        };
    }
    let needed = "is neither a loopback address with a port, such as \"127.0.0.1:7790\", nor a socket, such as \"unix:/run/adit/page.sock\"";
    let address: SocketAddr = text.value.parse().map_err(|_| refuse(document, text, needed))?;
    if !address.ip().is_loopback() {
        return Err(refuse(
            document,
            text,
            "can be reached by other hosts, and the page asks nobody who they are: write \"127.0.0.1:7790\", and `ssh -L 7790:127.0.0.1:7790` \
             from elsewhere",
        ));
    }
    if address.port() == 0 {
        return Err(refuse(document, text, "has port 0, which nobody could know: choose a port, such as 7790"));
    }
    Ok(ObserveAt::Tcp(address))
}
