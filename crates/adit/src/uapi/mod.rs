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
mod show;

pub use edit::edit;
pub use errno::Errno;
pub use parse::{PeerSet, PrefixChange, Request, Set};
pub use show::{ShownPeer, show};
