//! Programs of this host that ask the node's own resolver for names of its domain, whatever the host's own resolvers know of them.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;

use super::PORT;
use super::message::{A, AAAA, Answer, DATAGRAM, Query};
use super::name::Name;
use crate::container::Node;

/// How long an answer is waited for: the resolver gives another node 1.5 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a name is the node's to answer.
pub fn is_ours(node: &Node, text: &str) -> bool {
    let domain = node.domain.as_deref().and_then(Name::from_text);
    name(text).zip(domain).is_some_and(|(name, domain)| name.before(&domain).is_some())
}

/// The addresses of a name, IPv4 first; none if there is no such name.
///
/// # Errors
/// Nobody answers.
pub fn lookup(node: &Node, text: &str) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    let Some(name) = name(text) else { return Ok(found) };
    // That of the device, which is there while no container is.
    let Some(server) = node.subnets.first().map(|subnet| subnet.network()) else { return Ok(found) };
    for kind in [A, AAAA] {
        found.extend(ask(server, &name, kind)?.addresses());
    }
    Ok(found)
}

fn name(text: &str) -> Option<Name> {
    Name::from_text(&text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
}

fn ask(server: IpAddr, name: &Name, kind: u16) -> io::Result<Answer> {
    let mut id = [0; 2];
    rand::fill(&mut id).map_err(|_| io::Error::other("the random generator failed"))?;
    let query = Query::new(u16::from_be_bytes(id), name, kind);
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect((server, PORT))?;
    socket.send(&query.to_bytes())?;
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = [0; DATAGRAM];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut bytes)?;
        let said = bytes.get(..length).unwrap_or_default();
        if query.is_answered_by(query.id, said)
            && let Some(answer) = Answer::parse(said)
        {
            return Ok(answer);
        }
    }
}
