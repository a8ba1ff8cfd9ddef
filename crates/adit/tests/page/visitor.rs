//! Somebody who asks a daemon's server, by bytes on a connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::bed::daemon::Configuration;
use crate::bed::{Family, Host, PATIENCE};

/// Where the page is, if a test does not say otherwise.
pub(crate) const PAGE: &str = "127.0.0.1:7790";

/// A tunnel whose page is at [`PAGE`].
pub(crate) fn configuration(host: &Host, peers: &[usize]) -> Configuration {
    with_page(host, peers, PAGE)
}

/// The same with another place.
pub(crate) fn with_page(host: &Host, peers: &[usize], listen: &str) -> Configuration {
    Configuration::new(host, peers, Family::V4).with(&format!("[observe]\nlisten = {listen:?}"))
}

/// A connection, by TCP or a unix socket.
pub(crate) trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// Connects to an address of the host, from the host.
pub(crate) fn connect_to(host: &Host, address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    let stream = host.namespace.run(|| TcpStream::connect(address)).unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub(crate) fn connect(host: &Host) -> TcpStream {
    connect_to(host, PAGE).unwrap()
}

/// Connects to a unix socket.
pub(crate) fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// An answer with its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// What a header says.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Asks for a path as a program does.
pub(crate) fn get(host: &Host, path: &str) -> Answer {
    ask(connect(host), &format!("GET {path} HTTP/1.1\r\nHost: localhost:7790\r\nConnection: close\r\n\r\n"))
}

/// Sends these bytes, and reads the answer and that nothing comes after it.
pub(crate) fn ask(mut stream: impl Stream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        // What was sent and not read makes an end a reset.
        Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("{e} after {}", String::from_utf8_lossy(&text)),
        _ => {}
    }
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request:?}: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A stream of events, read as far as its first state.
pub(crate) struct Events {
    stream: Box<dyn Stream>,
    read: String,
}

impl Events {
    /// Begins to listen; the answer's status if that is refused.
    pub(crate) fn listen(mut stream: impl Stream + 'static) -> Result<Self, u16> {
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost:7790\r\n\r\n").unwrap();
        let mut events = Self { stream: Box::new(stream), read: String::new() };
        let head = events.until("\r\n\r\n");
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 200 { Ok(events) } else { Err(status) }
    }

    /// The next state.
    pub(crate) fn next(&mut self) -> serde_json::Value {
        loop {
            let event = self.until("\n\n");
            if let Some((_, data)) = event.split_once("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// Reads to the end of the answer.
    pub(crate) fn ends(mut self) {
        let mut bytes = [0; 4096];
        // A reset is an end as well.
        while let Ok(1..) = self.stream.read(&mut bytes) {}
    }

    fn until(&mut self, end: &str) -> String {
        loop {
            if let Some((text, rest)) = self.read.split_once(end) {
                let text = text.to_owned();
                self.read = rest.to_owned();
                return text;
            }
            let mut bytes = [0; 4096];
            let length = self.stream.read(&mut bytes).unwrap();
            assert!(length > 0, "it ended after {:?}", self.read);
            self.read += std::str::from_utf8(&bytes[..length]).unwrap();
        }
    }
}
