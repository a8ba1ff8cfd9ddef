//! The control protocol: one JSON line to a daemon, one JSON line back, over a unix stream socket.
//!
//! Every daemon has two sockets in its runtime directory. `<device>.sock` takes every [`Request`] from root, the daemon's
//! own user and members of group `adit`; `<device>.status.sock` answers [`Request::Status`] to anybody.

mod message;
pub mod status;

pub use message::{MAX_REQUEST, Request, RequestError, Response, Rights, decode_request};
pub use status::Status;
