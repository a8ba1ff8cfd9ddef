//! Where a registry is, and who we are to it.

use std::time::Duration;

use tonic::codegen::http::Uri;
use zeroize::Zeroizing;

/// What a client needs to know. It has no `Debug`, since it holds secrets.
#[derive(Clone)]
pub struct Options {
    /// Each `http://host:port` or `https://host:port`; without a port it is etcd's, 2379.
    pub endpoints: Vec<String>,
    /// Certificates in PEM: of authorities, or of the registry itself, which is then recognised under any name. Without them it is
    /// the system's authorities that count. Endpoints with `http` have no use for this and the next one, and ignore them.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, in PEM.
    pub identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    /// User and password.
    pub user: Option<(String, Zeroizing<String>)>,
    /// How long one endpoint may take to answer before the next one is asked.
    pub request_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { endpoints: Vec::new(), ca: None, identity: None, user: None, request_timeout: Duration::from_secs(3) }
    }
}

/// Why there can be no client with these options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// None at all.
    #[error("no endpoint of a registry is given: name one, such as \"https://192.0.2.7:2379\"")]
    NoEndpoint,
    /// Not what an endpoint looks like.
    #[error("{0:?} is no endpoint of a registry: write one such as \"https://192.0.2.7:2379\"")]
    Endpoint(String),
    /// The certificates to recognise the registry by cannot be used.
    #[error("the certificates of the registry's authority (tls-ca) cannot be used: {0}")]
    Ca(String),
    /// There are no certificates at all to recognise it by.
    #[error("this system has no certificates of authorities: give those of the registry (tls-ca)")]
    NoRoots,
    /// Our own certificate or key cannot be used.
    #[error("our own certificate (tls-cert) or its key (tls-key) cannot be used: {0}")]
    Identity(String),
}

/// An endpoint, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) is_tls: bool,
    /// Without the brackets of IPv6, as certificates have it.
    pub(super) host: String,
    pub(super) uri: Uri,
    /// As it was written: for errors.
    pub(super) name: String,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, OptionsError> {
        let malformed = || OptionsError::Endpoint(text.chars().take(100).collect());
        let uri: Uri = text.trim().parse().map_err(|_| malformed())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(malformed()),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        // A password there would be shown in every error.
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(malformed());
        }
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if bare.is_empty() {
            return Err(malformed());
        }
        let port = match authority.port() {
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or_else(malformed)?,
            None if authority.as_str() == host => 2379,
            None => return Err(malformed()),
        };
        let scheme = if is_tls { "https" } else { "http" };
        let name = format!("{scheme}://{host}:{port}");
        let uri = name.parse().map_err(|_| malformed())?;
        Ok(Self { is_tls, host: bare, uri, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, name, host) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379", "127.0.0.1"),
            ("https://etcd.example/", "https://etcd.example:2379", "etcd.example"),
            (" https://[fd00::1]:7780", "https://[fd00::1]:7780", "fd00::1"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.name.as_str(), address.host.as_str()), (name, host));
            assert_eq!(address.is_tls, text.contains("https"));
        }
        for text in [
            "",
            "127.0.0.1:2379",
            "etcd.example",
            "ftp://a:1",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://a:99999",
            "http://a/b",
            "http://a?b",
            "https://user:secret@a:2379",
            "http://[fd00::1",
            "http://a b",
        ] {
            assert!(matches!(Address::parse(text), Err(OptionsError::Endpoint(_))), "{text}");
        }
    }
}
