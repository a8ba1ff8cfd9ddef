//! What is said over the control sockets.

use serde::{Deserialize, Serialize};

use super::Status;

/// The longest request, in bytes, line feed included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What a daemon may be asked: `{"verb":"status"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Everything that `adit status` shows.
    Status,
    /// Stop, and remove what was set up. The answer comes first, then the work.
    Stop,
}

impl Request {
    /// Whether the request changes anything, and so needs [`Rights::Control`].
    pub fn changes(self) -> bool {
        match self {
            Self::Status => false,
            Self::Stop => true,
        }
    }
}

/// What the asking process may do, by socket and peer credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Look only.
    Read,
    /// Everything.
    Control,
}

/// What a daemon answers: `{"answer":"status","body":{…}}`, `{"answer":"done"}`,
/// `{"answer":"error","body":{"sentence":"…"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "body", rename_all = "kebab-case")]
pub enum Response {
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
    /// It is done, or will be at once.
    Done,
    /// It is not done.
    Error {
        /// What failed, why, and what to do.
        sentence: String,
    },
}

/// Why bytes are not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`MAX_REQUEST`].
    #[error("the request is longer than 65536 bytes")]
    TooLong,
    /// Not a JSON object with a verb and nothing else.
    #[error("the request is not one line of JSON with a \"verb\"")]
    Malformed,
    /// A verb of another version.
    #[error("this version knows the verbs \"status\" and \"stop\" only")]
    UnknownVerb,
}

/// Reads one request from a line, with or without its line feed.
///
/// # Errors
/// See [`RequestError`].
pub fn decode_request(line: &[u8]) -> Result<Request, RequestError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line<'a> {
        #[serde(borrow)]
        verb: std::borrow::Cow<'a, str>,
    }
    if line.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|_| RequestError::Malformed)?;
    match line.verb.as_ref() {
        "status" => Ok(Request::Status),
        "stop" => Ok(Request::Stop),
        _ => Err(RequestError::UnknownVerb),
    }
}
