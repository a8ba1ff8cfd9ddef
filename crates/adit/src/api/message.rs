//! What is said over the control sockets.

use serde::{Deserialize, Serialize};

use super::{Examination, Status};
use crate::observe::trace::{Gathered, Sought, Wish};

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
    /// Read the file again that the daemon was started with, and put it into force.
    Reload,
    /// Give the lease of a node's subnet back, then stop, and remove what was set up.
    Leave,
    /// Look again at what a node of a network has in its files beside the configuration: clients, and what its authority decided.
    Refresh,
    /// Measure the ways to the peers, for `adit doctor`. It takes up to [`EXAMINATION`](super::EXAMINATION).
    Examine,
    /// Watch where the probes pass that will be sent: `{"verb":"trace-begin","trace":{…}}`.
    TraceBegin {
        /// Which.
        trace: Wish,
    },
    /// End that, and say what was seen: `{"verb":"trace-collect","id":7}`.
    TraceCollect {
        /// The number that the answer to the former had.
        id: u64,
    },
}

impl Request {
    /// Whether the request changes anything, or has the daemon send something, and so is refused on the status socket.
    pub fn changes(self) -> bool {
        match self {
            Self::Status => false,
            Self::Stop | Self::Reload | Self::Leave | Self::Refresh | Self::Examine => true,
            // What others' packets meet is not everybody's affair, and one trace keeps others waiting.
            Self::TraceBegin { .. } | Self::TraceCollect { .. } => true,
        }
    }
}

/// What a daemon answers: `{"answer":"status","body":{…}}`, `{"answer":"examined","body":{…}}`, `{"answer":"done"}`, `{"answer":"changed","body":{"sentence":"…"}}`,
/// `{"answer":"fault","body":{"sentence":"…"}}`, `{"answer":"error","body":{"sentence":"…"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "body", rename_all = "kebab-case")]
pub enum Response {
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
    /// The answer to [`Request::Examine`].
    Examined(Box<Examination>),
    /// It is done, or will be at once.
    Done,
    /// It is done, and this is what is other than before.
    Changed {
        /// `2 peers added, 1 removed`
        sentence: String,
    },
    /// Probes that look like this are watched, on this host and others.
    Tracing {
        /// The number of the trace.
        id: u64,
        /// What its probes look like.
        sought: Sought,
        /// What this host is called in it.
        host: String,
    },
    /// What was seen of them.
    Traced(Box<Gathered>),
    /// It is not done, since what the request leads to is wrong: the configuration.
    Fault {
        /// Where the fault is, and what to do.
        sentence: String,
    },
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
    #[error(
        "this version knows the verbs \"status\", \"stop\", \"reload\", \"leave\", \"refresh\", \"examine\", \"trace-begin\" and \"trace-collect\" only"
    )]
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
        trace: Option<Wish>,
        id: Option<u64>,
    }
    if line.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|_| RequestError::Malformed)?;
    match (line.verb.as_ref(), line.trace, line.id) {
        ("trace-begin", Some(trace), None) => return Ok(Request::TraceBegin { trace }),
        ("trace-collect", None, Some(id)) => return Ok(Request::TraceCollect { id }),
        ("trace-begin" | "trace-collect", ..) | (_, Some(_), _) | (_, _, Some(_)) => {
            return Err(RequestError::Malformed);
        }
        (_, None, None) => {}
    }
    match line.verb.as_ref() {
        "status" => Ok(Request::Status),
        "stop" => Ok(Request::Stop),
        "reload" => Ok(Request::Reload),
        "leave" => Ok(Request::Leave),
        "refresh" => Ok(Request::Refresh),
        "examine" => Ok(Request::Examine),
        _ => Err(RequestError::UnknownVerb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::trace::observation::Protocol;
    use proptest::prelude::*;

    #[test]
    fn requests_survive_their_line() {
        let trace = Wish {
            destination: "fd42::1".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 443,
            size: None,
            super_packet: false,
            count: 3,
        };
        let of_traces = [Request::TraceBegin { trace }, Request::TraceCollect { id: u64::MAX }];
        let requests =
            [Request::Status, Request::Stop, Request::Reload, Request::Leave, Request::Refresh, Request::Examine];
        for request in requests.into_iter().chain(of_traces) {
            let line = serde_json::to_vec(&request).unwrap();
            assert_eq!(decode_request(&line), Ok(request));
        }
        assert_eq!(decode_request(b" {\"verb\" : \"sta\\u0074us\"}\r\n"), Ok(Request::Status));
    }

    #[test]
    fn faults_have_their_own_names() {
        for (line, error) in [
            (&b""[..], RequestError::Malformed),
            (b"status", RequestError::Malformed),
            (b"\"status\"", RequestError::Malformed),
            (b"{}", RequestError::Malformed),
            (b"{\"verb\":1}", RequestError::Malformed),
            (b"{\"verb\":\"status\",\"peer\":\"berlin\"}", RequestError::Malformed),
            (b"{\"verb\":\"status\"}{}", RequestError::Malformed),
            (b"{\"verb\":\"status\",\"id\":1}", RequestError::Malformed),
            (b"{\"verb\":\"trace-begin\"}", RequestError::Malformed),
            (b"{\"verb\":\"trace-begin\",\"trace\":{\"destination\":\"here\"}}", RequestError::Malformed),
            (b"{\"verb\":\"trace-collect\",\"id\":-1}", RequestError::Malformed),
            (b"{\"verb\":\"Status\"}", RequestError::UnknownVerb),
            (b"{\"verb\":\"purge\"}", RequestError::UnknownVerb),
        ] {
            assert_eq!(decode_request(line), Err(error), "{}", String::from_utf8_lossy(line));
        }
        let long = vec![b' '; MAX_REQUEST + 1];
        assert_eq!(decode_request(&long), Err(RequestError::TooLong));
        // Deep nesting ends in an error and not on the stack.
        let deep = format!("{{\"verb\":{}", "[".repeat(MAX_REQUEST - 8));
        assert_eq!(decode_request(deep.as_bytes()), Err(RequestError::Malformed));
    }

    #[test]
    fn answers_have_the_documented_form() {
        let text = |response: &Response| serde_json::to_string(response).unwrap();
        assert_eq!(text(&Response::Done), r#"{"answer":"done"}"#);
        let error = Response::Error { sentence: "no".into() };
        assert_eq!(text(&error), r#"{"answer":"error","body":{"sentence":"no"}}"#);
        let changed = Response::Changed { sentence: "1 peer added".into() };
        assert_eq!(text(&changed), r#"{"answer":"changed","body":{"sentence":"1 peer added"}}"#);
        assert!(
            text(&Response::Status(Box::new(crate::api::status::tests::sample())))
                .starts_with(r#"{"answer":"status","body":{"version":"#)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(&line);
        }

        #[test]
        fn any_json_is_a_request_or_an_error(line in "\\{\"verb\":(\"[a-z]{0,8}\"|[0-9.]{1,5}|\\[\\]|null)[,}]?\\}?") {
            let _ = decode_request(line.as_bytes());
        }
    }
}
