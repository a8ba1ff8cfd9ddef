//! The control protocol: one JSON line to a daemon, one JSON line back, over a unix stream socket.
//!
//! Every daemon has two sockets in its runtime directory. `<device>.sock` (0660) takes every [`Request`] from root, the
//! daemon's own user and members of group `adit`; `<device>.status.sock` (0666) answers [`Request::Status`] to anybody.
//! A connection carries one request and its answer, then the daemon closes it.
//!
//! | limit | value | at the limit |
//! |---|---|---|
//! | request | 64 KiB | refused with a sentence |
//! | answer | 16 MiB | the client gives up |
//! | time for a request to arrive, and for its answer to be taken | 5 s each | closed |
//! | connections at once | 32, of one user other than root 8 | refused with a sentence |

mod claim;
mod client;
mod examination;
mod line;
mod message;
mod rights;
mod server;
pub mod status;

pub(crate) use client::{START, STATUS_ENDING};
pub(crate) use rights::group_id;

pub use claim::{Claim, claimant, is_claimed, starting};
pub use client::{CallError, call, call_within, control_socket, daemons, status, status_socket};
pub use examination::{Examination, PeerExamination, Told};
pub use message::{MAX_REQUEST, Request, RequestError, Response, decode_request};
pub use server::{Server, Sockets};
pub use status::Status;

/// The longest answer, in bytes: the status of some 30,000 peers.
pub const MAX_ANSWER: usize = 16 << 20;

/// How long an answer to [`Request::Examine`] may take.
pub const EXAMINATION: std::time::Duration = std::time::Duration::from_secs(20);

/// How long a request may take to arrive, and its answer to be taken.
pub const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
