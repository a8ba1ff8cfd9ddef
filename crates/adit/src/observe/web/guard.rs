//! Which requests are answered at all: pure.
//!
//! Listening at a loopback address keeps the network out, but not web sites: a browser of this host asks whatever a page tells it to ask. Three
//! headers that a browser sets and no page can change say who is behind a request.
//!
//! - `Host` names the site that the browser believes to talk to. One that answers for its own name with 127.0.0.1 (DNS rebinding) would otherwise
//!   read all of this as its own; so only names that nobody else can answer for are taken: loopback addresses and `localhost` (RFC 6761 section
//!   6.3), at any port, as what an SSH forwarding makes of ours is another one.
//! - `Sec-Fetch-Site` says whether another site asks. It may lead a person here, and nothing else. Programs that are no browsers do not send it.
//! - `Origin` names the page that sends a form or a script's POST; that must be this one.

use std::net::{IpAddr, SocketAddr};

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NoHost,
    OtherHost,
    OtherSite,
    OtherOrigin,
    NoJson,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::OtherHost => StatusCode::MISDIRECTED_REQUEST,
            Self::OtherSite | Self::OtherOrigin => StatusCode::FORBIDDEN,
            Self::NoJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// What to type.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::NoHost => "a request needs exactly one header Host, such as Host: localhost",
            Self::OtherHost => {
                "this is served as localhost or a loopback address only, so that no web site can pass for it; write http://localhost:PORT/, and \
                 have a proxy send Host: localhost"
            }
            Self::OtherSite => "another web site asked for this; open the page by its own address",
            Self::OtherOrigin => "a POST needs the header Origin of this page: http:// and what stands in Host",
            Self::NoJson => "a POST needs Content-Type: application/json",
        }
    }
}

/// Whether a request may be answered.
///
/// # Errors
/// Why not.
pub(super) fn check(parts: &Parts) -> Result<(), Refusal> {
    let host = one(&parts.headers, &header::HOST).ok_or(Refusal::NoHost)?;
    // What the request line names counts more (RFC 9112 section 3.2.2), so both have to be ours.
    let named = parts.uri.authority().map(|authority| authority.as_str());
    if !is_ours(host) || named.is_some_and(|named| !is_ours(named)) {
        return Err(Refusal::OtherHost);
    }
    let site = parts.headers.get("sec-fetch-site").map(|site| site.as_bytes());
    let is_own = matches!(site, None | Some(b"same-origin" | b"none"));
    let leads_here = parts.method == Method::GET
        && parts.uri.path() == "/"
        && parts.headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate")
        && parts.headers.get("sec-fetch-dest").is_some_and(|place| place == "document");
    if !is_own && !leads_here {
        return Err(Refusal::OtherSite);
    }
    if parts.method == Method::POST {
        let origin = one(&parts.headers, &header::ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        if !origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host)) {
            return Err(Refusal::OtherOrigin);
        }
        // Forms cannot say so.
        let kind = one(&parts.headers, &header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
        if !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            return Err(Refusal::NoJson);
        }
    }
    Ok(())
}

fn one<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(first)
}

/// Whether what stands in `Host` can be nobody but this host.
fn is_ours(host: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.is_loopback() && (address.is_ipv4() == (bare == host));
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use proptest::prelude::*;

    fn ask(method: Method, uri: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn only_names_that_nobody_else_answers_for_are_ours() {
        for host in [
            "localhost",
            "LOCALHOST:7790",
            "127.0.0.1",
            "127.0.0.1:7790",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:7790",
            "localhost:80",
        ] {
            assert_eq!(ask(Method::GET, "/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7790",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "127.0.0.1:7790.evil.example",
            "localhost:7790@evil.example",
            "localhost:",
            "localhost:99999",
            "localhost:7790:7790",
            "192.0.2.1",
            "0.0.0.0:7790",
            "[::]",
            "[2001:db8::1]:7790",
            "::1",
            "[127.0.0.1]",
            "2130706433",
            "127.1",
            "0x7f.1",
        ] {
            assert_eq!(ask(Method::GET, "/", &[("host", host)]), Err(Refusal::OtherHost), "{host}");
        }
        assert_eq!(ask(Method::GET, "/", &[]), Err(Refusal::NoHost));
        assert_eq!(ask(Method::GET, "/", &[("host", "localhost"), ("host", "localhost")]), Err(Refusal::NoHost));
        assert_eq!(ask(Method::GET, "http://evil.example/", &[("host", "localhost")]), Err(Refusal::OtherHost));
        assert_eq!(ask(Method::GET, "http://localhost/", &[("host", "localhost")]), Ok(()));
    }

    #[test]
    fn other_sites_may_lead_here_and_nothing_else() {
        let get = |path, fetch: &[(&'static str, &'static str)]| {
            ask(Method::GET, path, &[&[("host", "localhost:7790")], fetch].concat())
        };
        let navigates =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(get("/", &navigates), Ok(()));
        assert_eq!(get("/status.json", &navigates), Err(Refusal::OtherSite));
        let frames = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        assert_eq!(get("/", &frames), Err(Refusal::OtherSite));
        // A page at another port of this host is another site's as well.
        for site in ["cross-site", "same-site", "?"] {
            assert_eq!(get("/events", &[("sec-fetch-site", site)]), Err(Refusal::OtherSite), "{site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(get("/events", &[("sec-fetch-site", site)]), Ok(()), "{site}");
        }
    }

    #[test]
    fn only_the_page_itself_may_post() {
        let json = ("content-type", "application/json; charset=utf-8");
        let post = |headers: &[(&'static str, &'static str)]| {
            ask(Method::POST, "/trace", &[&[("host", "localhost:7790")], headers].concat())
        };
        assert_eq!(post(&[("origin", "http://localhost:7790"), json]), Ok(()));
        for origin in
            ["http://localhost", "https://localhost:7790", "http://127.0.0.1:7790", "null", "http://evil.example"]
        {
            assert_eq!(post(&[("origin", origin), json]), Err(Refusal::OtherOrigin), "{origin}");
        }
        assert_eq!(post(&[json]), Err(Refusal::OtherOrigin));
        let own = ("origin", "http://localhost:7790");
        assert_eq!(post(&[own]), Err(Refusal::NoJson));
        assert_eq!(post(&[own, ("content-type", "text/plain")]), Err(Refusal::NoJson));
        assert_eq!(post(&[own, json, ("sec-fetch-site", "same-site")]), Err(Refusal::OtherSite));
    }

    proptest! {
        #[test]
        fn no_name_of_somebody_else_is_ours(host in "[a-z0-9.:\\[\\]@-]{0,40}") {
            if is_ours(&host) {
                let name = host.rsplit_once(':').filter(|(name, _)| !name.ends_with(':') && !name.is_empty()).map_or(host.as_str(), |(name, _)| name);
                let bare = name.trim_start_matches('[').trim_end_matches(']');
                prop_assert!(bare == "localhost" || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
                    || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()), "{}", host);
            }
        }
    }
}
