//! What is said over the control sockets.

use serde::{Deserialize, Serialize};

use super::{Examination, Status};
use crate::observe::bench;
use crate::observe::trace::{Gathered, Sought, Wish};

/// The longest request, in bytes, line feed included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What a daemon may be asked: `{"verb":"status"}`, `{"verb":"bench","body":{…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verb", content = "body", rename_all = "kebab-case")]
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
    /// Watch where the probes pass that will be sent: `{"verb":"trace-begin","body":{…}}`.
    TraceBegin(Wish),
    /// End that, and say what was seen; with the number that the answer to the former had: `{"verb":"trace-collect","body":7}`.
    TraceCollect(u64),
    /// Ask a peer to serve a bench for us: `adit bench --to`.
    Bench(bench::Wish),
}

impl Request {
    /// Whether the request changes anything, or has the daemon send something, and so is refused on the status socket.
    pub fn changes(&self) -> bool {
        match self {
            Self::Status => false,
            Self::Stop | Self::Reload | Self::Leave | Self::Refresh | Self::Examine | Self::Bench(_) => true,
            // What others' packets meet is not everybody's affair, and one trace keeps others waiting.
            Self::TraceBegin(_) | Self::TraceCollect(_) => true,
        }
    }
}

fn of<T: serde::de::DeserializeOwned>(
    body: serde_json::Value,
    request: fn(T) -> Request,
) -> Result<Request, RequestError> {
    serde_json::from_value(body).map(request).map_err(|_| RequestError::Malformed)
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
    /// The answer to [`Request::Bench`]: the peer serves.
    Bench(bench::Terms),
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
    /// Not a JSON object with a verb, the body that the verb needs, and nothing else.
    #[error("the request is not one line of JSON with a \"verb\"")]
    Malformed,
    /// A verb of another version.
    #[error(
        "this version knows the verbs \"status\", \"stop\", \"reload\", \"leave\", \"refresh\", \"examine\", \"trace-begin\", \"trace-collect\" and \"bench\" only"
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
        #[serde(default)]
        body: Option<serde_json::Value>,
    }
    if line.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|_| RequestError::Malformed)?;
    match (line.verb.as_ref(), line.body) {
        ("status", None) => Ok(Request::Status),
        ("stop", None) => Ok(Request::Stop),
        ("reload", None) => Ok(Request::Reload),
        ("leave", None) => Ok(Request::Leave),
        ("refresh", None) => Ok(Request::Refresh),
        ("examine", None) => Ok(Request::Examine),
        ("trace-begin", Some(body)) => of(body, Request::TraceBegin),
        ("trace-collect", Some(body)) => of(body, Request::TraceCollect),
        ("bench", Some(body)) => of(body, Request::Bench),
        (
            "status" | "stop" | "reload" | "leave" | "refresh" | "examine" | "trace-begin" | "trace-collect" | "bench",
            _,
        ) => Err(RequestError::Malformed),
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
        let bench = Request::Bench(bench::Wish { node: "paris".into(), seconds: 18 });
        let with_body = [Request::TraceBegin(trace), Request::TraceCollect(u64::MAX), bench];
        let requests =
            [Request::Status, Request::Stop, Request::Reload, Request::Leave, Request::Refresh, Request::Examine];
        for request in requests.into_iter().chain(with_body) {
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
            (b"{\"verb\":\"status\",\"body\":{}}", RequestError::Malformed),
            (b"{\"verb\":\"trace-begin\"}", RequestError::Malformed),
            (b"{\"verb\":\"trace-begin\",\"body\":{\"destination\":\"here\"}}", RequestError::Malformed),
            (b"{\"verb\":\"trace-collect\",\"body\":-1}", RequestError::Malformed),
            (b"{\"verb\":\"bench\"}", RequestError::Malformed),
            (b"{\"verb\":\"bench\",\"body\":{\"node\":1}}", RequestError::Malformed),
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
