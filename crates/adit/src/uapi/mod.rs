//! What WireGuard's own tools say to a daemon: the configuration protocol of wireguard.com/xplatform, by which `wg` and `wg-quick` reach
//! implementations outside the kernel.
//!
//! A request is lines of `key=value` that end with an empty one, over the stream socket `/var/run/wireguard/DEVICE.sock`. `get=1`
//! asks for the state, `set=1` changes it; an answer ends with `errno=N` (0, or a number of errno(3), negative) and an empty line.
//! A connection carries any number of requests, one after the other.
//!
//! A `set` is one transaction: all of it happens or nothing does. Only `wireguard` peers are shown, and only they can be changed.
//!
//! | file | question |
//! |---|---|
//! | `parse.rs` | What was asked? |
//! | `edit.rs` | Which configuration does that make of the present one? (pure) |
//! | `show.rs` | What is the answer to `get`? (pure) |
//! | `server.rs` | the socket, and who may wait on it for how long |
//!
//! | limit | value | at the limit |
//! |---|---|---|
//! | line | 4 KiB | EIO |
//! | request | 32 MiB: some 700,000 prefixes | EMSGSIZE, closed |
//! | time for a request to arrive once it has begun, and for its answer to be taken | 10 s each | closed |
//! | time between two requests | 30 s | closed |
//! | connections at once | 32 | closed |

mod edit;
mod errno;
mod parse;
mod server;
mod show;

use std::path::Path;

use zeroize::Zeroizing;

use crate::{
    Failure, Result,
    request::{Handle, Refusal},
};

pub use edit::edit;
pub use errno::Errno;
pub use parse::{PeerSet, PrefixChange, Request, Set};
pub use server::{Device, Server, remove_leftover};
pub use show::show;

/// What the daemon does when its socket is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// It ends, as implementations of WireGuard do.
    End,
    /// It goes on without.
    GoOn,
}

/// Answers WireGuard's tools on the socket of `device` in `directory`, until the answer is dropped.
///
/// # Errors
/// The socket could not be made.
pub fn serve(handle: &Handle, directory: &Path, device: &str, abandoned: Abandoned) -> Result<Server> {
    let name = device.to_owned();
    Server::start(directory, device, Daemon { handle: handle.clone(), name, abandoned })
}

/// A daemon as its tools meet it.
struct Daemon {
    handle: Handle,
    name: String,
    abandoned: Abandoned,
}

impl Device for Daemon {
    fn get(&self) -> Zeroizing<String> {
        let picture = self.handle.picture();
        show(&picture.tunnel, picture.listen.port(), picture.peers())
    }

    fn set(&self, set: Set) -> std::result::Result<(), Errno> {
        let change = move |present: &_| {
            edit(present, set).map_err(|errno| {
                Refusal::new(
                    errno.number(),
                    Failure::failed("it concerns peers that are not WireGuard's, or a network's"),
                )
            })
        };
        match self.handle.edit(Box::new(change)) {
            Ok(summary) => {
                tracing::debug!("{}: {summary}, as WireGuard's tools asked", self.name);
                Ok(())
            }
            Err(refusal) => {
                tracing::warn!("{}: what WireGuard's tools asked was not done: {refusal}", self.name);
                Err(Errno::from_number(refusal.errno()))
            }
        }
    }

    fn abandoned(&self) {
        match self.abandoned {
            Abandoned::End => {
                tracing::info!("{}: its socket was removed, so that it ends", self.name);
                self.handle.stop();
            }
            Abandoned::GoOn => tracing::warn!("{}: its socket was removed, so that `wg` cannot reach it", self.name),
        }
    }
}
