//! What a daemon tells of itself over time: metrics, the state as it is watched, and the log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

#[path = "../bed/mod.rs"]
mod bed;
mod dashboard;
mod logs;
mod reader;
mod scraped;
#[allow(dead_code, reason = "a part of it is needed here")]
#[path = "../page/visitor.rs"]
mod visitor;
mod watched;
#[allow(dead_code, reason = "a part of it is needed here")]
#[path = "../network/world.rs"]
mod world;

use std::io::Write;
use std::process::{Command, Stdio};

use adit::observe::metrics::Format;

use bed::Host;
use reader::Read;
use visitor::{ask, connect};

/// What a host's daemon tells in a format.
fn scrape(host: &Host, format: Format) -> (String, Read) {
    let accept = match format {
        Format::Text => "text/plain",
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0, text/plain; q=0.5",
    };
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: localhost:7790\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let answer = ask(connect(host), &request);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(format.content_type())), "{}", answer.body);
    let read = Read::strictly(&answer.body, format);
    (answer.body, read)
}

/// One number of a host's daemon; 0 where there is none.
fn number(host: &Host, name: &str, labels: &[(&str, &str)]) -> f64 {
    scrape(host, Format::OpenMetrics).1.value(name, labels).unwrap_or(0.0)
}

/// Runs Prometheus' own tool on an input, which is to find nothing wrong with it.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("promtool, of the package prometheus: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{}\n{input}", String::from_utf8_lossy(&said));
    assert!(arguments != ["check", "metrics"] || said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
