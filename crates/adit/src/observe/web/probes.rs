//! `POST /trace`: from what the page's form says to a picture. One at a time.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::{self, Body};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use crate::observe::trace::drawing::drawing;
use crate::observe::trace::journey::Journey;
use crate::observe::trace::json::json;
use crate::observe::trace::observation::Protocol;
use crate::observe::trace::svg::svg;
use crate::observe::trace::{self, Wish};
use crate::request::Handle;
use crate::{Failure, Result};

/// The longest form, in bytes.
const LONGEST: usize = 4096;

/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// How wide the text is, in columns.
const COLUMNS: usize = 110;

/// Where probes of UDP go that name no port: where traceroute(8) sends to. Those of TCP go where a web server would be.
const UDP_PORT: u16 = 33434;
const TCP_PORT: u16 = 80;

/// What the form says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    destination: String,
    protocol: Option<Protocol>,
    port: Option<u16>,
    size: Option<u32>,
    #[serde(default)]
    super_packet: bool,
    count: Option<u32>,
}

/// Reads what is wanted.
///
/// # Errors
/// The form is none, or asks for what cannot be sent: what to write instead.
pub(super) async fn read(body: Incoming) -> Result<Wish> {
    let bytes = timeout(PATIENCE, body::to_bytes(Body::new(body), LONGEST)).await;
    let bytes = bytes.map_err(|_| Failure::usage("the form did not arrive in time"))?;
    wish(&bytes.map_err(|_| Failure::usage(format!("the form is longer than {LONGEST} bytes, or came in part")))?)
}

fn wish(form: &[u8]) -> Result<Wish> {
    let form: Form = serde_json::from_slice(form).map_err(|e| {
        Failure::usage(format!("this is no form of a trace: {e}; write one such as {{\"destination\": \"10.42.7.2\"}}"))
    })?;
    let destination: IpAddr = form.destination.trim().parse().map_err(|_| {
        Failure::usage(format!("{:?} is not an address: write one such as 10.42.7.2", shortened(&form.destination)))
    })?;
    let otherwise = if form.super_packet { Protocol::Udp } else { Protocol::Icmp };
    let protocol = form.protocol.unwrap_or(otherwise);
    let port = form.port.unwrap_or(if protocol == Protocol::Tcp { TCP_PORT } else { UDP_PORT });
    let wish = Wish {
        destination,
        protocol,
        port,
        size: form.size,
        super_packet: form.super_packet,
        count: form.count.unwrap_or(1),
    };
    wish.check()?;
    Ok(wish)
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Sends the probes and draws what was seen of them: the JSON that the page gets. Takes some seconds.
///
/// # Errors
/// Another trace is under way; this host cannot send or see such probes.
pub(super) fn run(handle: &Handle, wish: Wish) -> Result<String> {
    let journey = Journey::of(&trace::start(handle, wish)?);
    let answer = json!({ "svg": svg(&journey), "text": drawing(&journey, COLUMNS), "journey": json(&journey) });
    Ok(answer.to_string())
}

/// The JSON of a refusal.
pub(super) fn refusal(failure: &Failure) -> String {
    json!({ "error": failure.sentence() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_form_says_what_is_sent() {
        let all =
            br#"{"destination":" 10.42.7.2 ","protocol":"udp","port":53,"size":1400,"super_packet":true,"count":3}"#;
        let sent = wish(all).unwrap();
        assert_eq!((sent.destination.to_string().as_str(), sent.protocol, sent.port), ("10.42.7.2", Protocol::Udp, 53));
        assert_eq!((sent.size, sent.super_packet, sent.count), (Some(1400), true, 3));
        let least = wish(br#"{"destination":"fd77::2"}"#).unwrap();
        assert_eq!((least.protocol, least.size, least.super_packet, least.count), (Protocol::Icmp, None, false, 1));
        assert_eq!(wish(br#"{"destination":"10.42.7.2","super_packet":true}"#).unwrap().protocol, Protocol::Udp);
        assert_eq!(wish(br#"{"destination":"10.42.7.2","protocol":"tcp"}"#).unwrap().port, TCP_PORT);
    }

    #[test]
    fn what_is_no_form_is_told_what_to_write() {
        for (form, part) in [
            ("", "write one such as"),
            ("[]", "write one such as"),
            ("{}", "missing field `destination`"),
            (r#"{"destination":"berlin"}"#, "\"berlin\" is not an address"),
            (r#"{"destination":"10.42.7.2/32"}"#, "is not an address"),
            (r#"{"destination":"10.42.7.2","colour":"red"}"#, "unknown field `colour`"),
            (r#"{"destination":"10.42.7.2","protocol":"carrier pigeon"}"#, "unknown variant"),
            (r#"{"destination":"10.42.7.2","port":70000}"#, "70000"),
            (r#"{"destination":"10.42.7.2","count":1000000}"#, "cannot be sent"),
            (r#"{"destination":"10.42.7.2","size":5}"#, "a probe has"),
            (r#"{"destination":"224.0.0.1"}"#, "is not the address of a host"),
        ] {
            let refused = wish(form.as_bytes()).unwrap_err();
            assert!(refused.sentence().contains(part) && refused.exit_code() == 2, "{form}: {refused}");
        }
        let long = format!(r#"{{"destination":"{}"}}"#, "x".repeat(3000));
        assert!(wish(long.as_bytes()).unwrap_err().sentence().len() < 200);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_form_or_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = wish(&bytes);
        }

        #[test]
        fn any_values_are_a_form_or_a_refusal(address in "[0-9a-f.:]{0,20}", port in any::<i64>(), size in any::<i64>(), count in any::<i64>()) {
            let form = format!(r#"{{"destination":"{address}","port":{port},"size":{size},"count":{count}}}"#);
            let _ = wish(form.as_bytes());
        }
    }
}
