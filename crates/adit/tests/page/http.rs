//! What is answered, and to whom.

use std::io::{Read, Write};

use adit::api;
use serde_json::Value;

use crate::bed::daemon::Place;
use crate::bed::{Bed, wait_for};
use crate::visitor::{Events, ask, configuration, connect, get};

fn request(line: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")
}

#[test]
fn every_route_has_its_answer_and_strict_headers() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let daemon = place.start();
    wait_for("a daemon that is ready", || (get(host, "/readyz").status == 200).then_some(()));
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "<title>adit</title>"),
        ("/?from=a-link", "text/html; charset=utf-8", "<title>adit</title>"),
        ("/status.json", "application/json", "\"pid\":"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "# TYPE adit_"),
        ("/healthz", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", "text/plain; charset=utf-8", "ready\n"),
    ] {
        let answer = get(host, path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert!(answer.body.contains(part), "{path}");
    }
    for path in ["/", "/status.json", "/healthz", "/nothing", "/index.html", "/../etc/passwd", "//", "/%00"] {
        let answer = get(host, path);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(answer.status, if matches!(path, "/" | "/status.json" | "/healthz") { 200 } else { 404 }, "{path}");
    }
    let shown: api::Status = serde_json::from_str(&get(host, "/status.json").body).unwrap();
    let said = daemon.status();
    assert_eq!((shown.pid, &shown.device, &shown.peers), (said.pid, &said.device, &said.peers));
    drop(daemon);
}

#[test]
fn events_tell_the_state_again_and_again() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let daemon = place.start();
    let mut events = Events::listen(connect(host)).unwrap_or_else(|status| panic!("{status}"));
    let first = events.next();
    assert_eq!(first["status"]["pid"], daemon.pid());
    let mut at = first["at_ms"].as_u64().unwrap();
    for _ in 0..3 {
        let next = events.next()["at_ms"].as_u64().unwrap();
        assert!((500..10_000).contains(&(next - at)), "once a second: {at}, {next}");
        at = next;
    }
    daemon.terminate();
    events.ends();
}

#[test]
fn a_site_that_answers_for_its_name_with_a_loopback_address_reads_nothing() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let _daemon = place.start();
    for path in ["/", "/status.json", "/events", "/healthz", "/nothing"] {
        let answer = ask(connect(host), &request(&format!("GET {path}"), &["Host: evil.example:7790"]));
        assert_eq!(answer.status, 421, "{path}");
        assert!(
            answer.body.contains("write http://localhost:PORT/") && !answer.body.contains("pid"),
            "{}",
            answer.body
        );
    }
    for (headers, status) in [
        (&[][..], 400),
        (&["Host: localhost:7790", "Host: evil.example"], 400),
        (&["Host: localhost:7790", "Sec-Fetch-Site: cross-site"], 403),
        (&["Host: localhost:7790", "Sec-Fetch-Site: same-origin"], 200),
        (&["Host: [::1]:7790"], 200),
        (&["Host: 127.0.0.1"], 200),
    ] {
        assert_eq!(ask(connect(host), &request("GET /status.json", headers)).status, status, "{headers:?}");
    }
    let answer = ask(connect(host), &request("GET http://evil.example/status.json", &["Host: localhost:7790"]));
    assert_eq!(answer.status, 421);
}

#[test]
fn other_methods_are_named_and_change_nothing() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let mut daemon = place.start();
    let own = [
        "Host: localhost:7790",
        "Origin: http://localhost:7790",
        "Content-Type: application/json",
        "Content-Length: 0",
    ];
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
        for path in ["/", "/status.json", "/events"] {
            let answer = ask(connect(host), &request(&format!("{method} {path}"), &own));
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.header("allow").unwrap().starts_with("GET"), "{method} {path}");
        }
    }
    let head = ask(connect(host), &request("HEAD /status.json", &own[..1]));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(daemon.is_running());
}

/// A POST as the page sends it.
fn post(origin: &str, form: &str) -> String {
    let length = format!("Content-Length: {}", form.len());
    let headers = ["Host: localhost:7790", origin, "Content-Type: application/json", &length];
    request("POST /trace", &headers) + form
}

const OWN: &str = "Origin: http://localhost:7790";

#[test]
fn a_trace_is_sent_and_drawn() {
    let bed = Bed::new(2);
    let places = [(1, 2), (2, 1)].map(|(me, peer)| Place::new(bed.host(me), &configuration(bed.host(me), &[peer])));
    let _daemons = places.each_ref().map(Place::start);
    let answer = ask(connect(bed.host(1)), &post(OWN, r#"{"destination":"10.77.0.2","size":200}"#));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{}", answer.body);
    let drawn: Value = serde_json::from_str(&answer.body).unwrap();
    assert!(drawn["svg"].as_str().unwrap().starts_with("<svg") && drawn["text"].as_str().unwrap().contains("adit0"));
    assert_eq!(drawn["journey"]["destination"], "10.77.0.2");
    assert_eq!(drawn["journey"]["probes"][0]["size"], 200);
}

#[test]
fn no_other_site_and_no_bad_form_starts_a_trace() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let mut daemon = place.start();
    let form = r#"{"destination":"10.77.0.2"}"#;
    for origin in ["Origin: http://evil.example", "Origin: http://localhost", "Origin: null", "X: none"] {
        assert_eq!(ask(connect(host), &post(origin, form)).status, 403, "{origin}");
    }
    let simple =
        request("POST /trace", &["Host: localhost:7790", OWN, "Content-Length: 0", "Content-Type: text/plain"]);
    assert_eq!(ask(connect(host), &simple).status, 415);
    let long = format!(r#"{{"destination":"{}"}}"#, "1".repeat(5000));
    for (form, part) in [
        ("", "write one such as"),
        (r#"{"destination":"berlin"}"#, "is not an address"),
        (&long, "longer than 4096 bytes"),
    ] {
        let answer = ask(connect(host), &post(OWN, form));
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.status, 400);
        assert!(told["error"].as_str().unwrap().contains(part), "{told}");
    }
    assert_eq!(ask(connect(host), &request("GET /trace", &["Host: localhost:7790"])).status, 405);
    assert!(daemon.is_running());
}

#[test]
fn one_trace_is_made_at_a_time() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let _daemon = place.start();
    // Nobody answers there, which is waited for.
    let slow = post(OWN, r#"{"destination":"10.77.0.2","count":2}"#);
    let mut first = connect(host);
    first.write_all(slow.as_bytes()).unwrap();
    let second = wait_for("a refusal", || {
        let answer = ask(connect(host), &slow);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(second.status, 409, "{}", second.body);
    assert!(second.body.contains("another trace is under way; try again when it is done"), "{}", second.body);
    assert_eq!(get(host, "/healthz").status, 200, "other questions are answered meanwhile");
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") || answer.contains("another trace"), "{answer}");
}

#[test]
fn what_is_no_request_ends_its_own_connection_only() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let mut daemon = place.start();
    let long = "x".repeat(100_000);
    let many: String = (0..5000).map(|n| format!("A{n}: b\r\n")).collect();
    for text in [
        "\r\n\r\n\r\n\r\nnonsense\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}hello in TLS\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
    ] {
        let mut stream = connect(host);
        // It may have ended before it was told all of it.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let shown = text.chars().take(60).collect::<String>();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
        assert_eq!(get(host, "/healthz").status, 200, "after {shown:?}");
    }
    assert!(daemon.is_running());
}

#[test]
fn a_daemon_that_cannot_work_is_alive_and_not_ready() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &configuration(host, &[2]));
    let _daemon = place.start();
    let down = || {
        // It is set up again within a second.
        host.run("ip", &["link", "set", "adit0", "down"]);
        let answer = get(host, "/readyz");
        (answer.status == 503).then_some(answer.body)
    };
    let said = wait_for("a device that is down", down);
    assert!(said.contains("run `ip link set adit0 up`"), "{said}");
    assert_eq!(get(host, "/healthz").status, 200);
    wait_for("a device that was mended", || (get(host, "/readyz").status == 200).then_some(()));
    let state: Value = Events::listen(connect(host)).ok().unwrap().next();
    assert_eq!(state["hindrances"], serde_json::json!([]));
}
