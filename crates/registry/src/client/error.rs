//! What can go wrong with a registry, in sentences that say what to do. None of them holds a password or a token.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};

use crate::api::FAREWELL;

/// Why a registry did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No endpoint answered.
    #[error("no registry answers ({}): {}", Failures(.0), remedy(.0))]
    Unreachable(Vec<Failure>),
    /// It does not know the user, or asks for one.
    #[error("the registry at {endpoint} {}: give it the right user and password", Unknown(.user.as_deref()))]
    Unauthenticated {
        /// Who said so.
        endpoint: String,
        /// Who we said we are.
        user: Option<String>,
        /// With what proof that this user was put out, if it is adit's registry: signed bytes, not yet believed.
        farewell: Option<Vec<u8>>,
    },
    /// It knows us, and does not let us.
    #[error("the registry at {endpoint} does not permit this ({reason}): give the user a role with the right to it")]
    Denied {
        /// Who said so.
        endpoint: String,
        /// In its words.
        reason: String,
    },
    /// The revision that was asked for is forgotten.
    #[error("the registry no longer has that revision")]
    Compacted,
    /// The lease has ended, or never was.
    #[error("the registry does not have that lease")]
    NoLease,
    /// More than can be held.
    #[error("the registry's answer is too large: see what stands under the prefix")]
    TooLarge,
    /// Another refusal.
    #[error("the registry at {endpoint} refuses: {reason}")]
    Refused {
        /// Who said so.
        endpoint: String,
        /// In its words.
        reason: String,
    },
}

/// One endpoint that did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub endpoint: String,
    /// Why not.
    pub cause: String,
}

impl ClientError {
    pub(super) fn refused(endpoint: &str, user: Option<&str>, status: &Status) -> Self {
        let (endpoint, reason) = (endpoint.to_owned(), words(status.message()));
        match status.code() {
            Code::Unauthenticated => Self::unknown(endpoint, user, status),
            Code::InvalidArgument if says(status, "authentication failed") || says(status, "user name is empty") => {
                Self::unknown(endpoint, user, status)
            }
            Code::PermissionDenied => Self::Denied { endpoint, reason },
            Code::OutOfRange if says(status, "compacted") => Self::Compacted,
            Code::OutOfRange if says(status, "message length too large") => Self::TooLarge,
            Code::NotFound if says(status, "lease not found") => Self::NoLease,
            _ => Self::Refused { endpoint, reason },
        }
    }

    fn unknown(endpoint: String, user: Option<&str>, status: &Status) -> Self {
        Self::Unauthenticated { endpoint, user: user.map(str::to_owned), farewell: farewell(status) }
    }
}

/// A user who was put out is told so by this: signed bytes.
fn farewell(status: &Status) -> Option<Vec<u8>> {
    let bytes = status.metadata().get_bin(FAREWELL)?.to_bytes().ok()?;
    Some(bytes.to_vec())
}

fn says(status: &Status, words: &str) -> bool {
    status.message().contains(words)
}

/// Whether a call with another token could do better. etcd calls a watch with an old one not permitted.
pub(super) fn token_is_refused(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
        || says(status, "revision of auth store is old")
}

/// Whether a registry has no users at all.
pub(super) fn needs_no_token(status: &Status) -> bool {
    status.code() == Code::Unimplemented || says(status, "authentication is not enabled")
}

/// What a watch that ended at once would have said as a call.
pub(super) fn of_cancelled(reason: &str) -> Status {
    let code = if reason.contains("permission denied") { Code::PermissionDenied } else { Code::Unavailable };
    Status::new(code, words(reason))
}

/// Whether a cause is etcd's own word, and not what became of a connection.
pub(super) fn is_word(cause: &str) -> bool {
    cause.starts_with("etcdserver: ")
}

pub(super) fn no_answer(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs_f32())
}

/// The reason behind a failed call: what is innermost, since the outer errors only say that something failed.
pub(super) fn cause(status: &Status) -> String {
    let mut innermost: Option<&dyn Error> = status.source();
    while let Some(next) = innermost.and_then(Error::source) {
        innermost = Some(next);
    }
    innermost.map_or_else(|| words(status.message()), |error| words(&error.to_string()))
}

/// What others say, fit for one line.
fn words(text: &str) -> String {
    let words: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if words.trim().is_empty() { "it gives no reason".to_owned() } else { words }
}

/// What is said of a connection that one side ends because it does not understand the other, and of one whose other side ended.
const ENDED: [&str; 6] = ["eof", "broken pipe", "closed", "reset", "corrupt message", "HTTP/2"];

fn remedy(failures: &[Failure]) -> &'static str {
    let any = |part: &str| failures.iter().any(|failure| failure.cause.contains(part));
    if failures.is_empty() {
        "name its endpoints"
    } else if any("certificate") || any("UnknownIssuer") {
        "give the certificate of the authority that signed the registry's own (tls-ca), and the name that is in it"
    } else if ENDED.iter().any(|part| any(part)) {
        "see that it runs, that it is a registry, and which endpoints speak TLS (https://) and which do not (http://)"
    } else {
        "see that it runs, that its address is right, and that no firewall is in between"
    }
}

struct Failures<'a>(&'a [Failure]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Failure { endpoint, cause }) in self.0.iter().enumerate() {
            write!(formatter, "{}{endpoint}: {cause}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

struct Unknown<'a>(Option<&'a str>);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(user) => write!(formatter, "refuses the user {user:?} with this password"),
            None => formatter.write_str("asks for a user"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, message: &str) -> ClientError {
        ClientError::refused("http://a:2379", Some("me"), &Status::new(code, message))
    }

    #[test]
    fn refusals_are_told_apart() {
        assert_eq!(
            refused(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            ClientError::Compacted
        );
        assert_eq!(refused(Code::NotFound, "etcdserver: requested lease not found"), ClientError::NoLease);
        let unknown = refused(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
        assert_eq!(
            unknown.to_string(),
            "the registry at http://a:2379 refuses the user \"me\" with this password: give it the right user and password"
        );
        let denied = refused(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(denied.to_string().contains("does not permit this (etcdserver: permission denied)"));
        let long = refused(Code::ResourceExhausted, &format!("a\n{}", "b".repeat(10_000))).to_string();
        assert!(long.contains("refuses: a bbb") && long.len() < 300);
    }

    #[test]
    fn what_to_do_about_an_outage() {
        let failure = |cause: &str| Failure { endpoint: "https://a:2379".into(), cause: cause.into() };
        let text =
            ClientError::Unreachable(vec![failure("no answer within 3 s"), failure("Connection refused")]).to_string();
        assert_eq!(
            text,
            "no registry answers (https://a:2379: no answer within 3 s; https://a:2379: Connection refused): see that it runs, \
             that its address is right, and that no firewall is in between"
        );
        assert!(
            ClientError::Unreachable(vec![failure("invalid peer certificate: UnknownIssuer")])
                .to_string()
                .contains("tls-ca")
        );
    }
}
