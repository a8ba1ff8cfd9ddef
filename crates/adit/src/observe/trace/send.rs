//! Sending probes and waiting for their answers: from this process, in the network namespace of the calling thread.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use linux::netlink::{Netlink, RouteKind};
use linux::poll::readable;
use linux::probe::{Kind, Socket};
use serde::{Deserialize, Serialize};
use wire::icmp::{HEADER_LEN, IcmpMessage};
use wire::ip::{V4_HEADER_LEN, V6_HEADER_LEN};

use super::capture::Watch;
use super::observation::{Observation, Protocol};
use super::probe::{Course, SMALL, STAMP, SUPER_PACKET, Sought};
use super::watch::now;
use crate::{Failure, Result};

/// Probes that a person may ask for: with the pauses between them they end before the watching does.
pub const MAX_COUNT: u32 = 20;

/// How long the answer to a probe is waited for before the next one leaves.
const PACE: Duration = Duration::from_millis(250);

/// How long the answer to the first one is: neighbours, and a session, may have to be found first.
const FIRST: Duration = Duration::from_millis(1200);

/// How long the last answers are.
const LAST: Duration = Duration::from_millis(600);

/// How long it is when none has come at all: a router looks for a host that is not there for three seconds before it says so.
const SILENCE: Duration = Duration::from_millis(3200);

/// Probes take no longer than this together, so that they are still watched at their end.
const ALTOGETHER: Duration = Duration::from_millis(7500);

/// A probe longer than this may be too long for its way; a small one tells whether that is so.
const LARGE: u32 = 576;

/// Where traceroute(8) sends to.
pub const TRACEROUTE: u16 = 33434;

/// Of errno(3).
const EINVAL: i32 = 22;
const EMSGSIZE: i32 = 90;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Where to.
    pub destination: IpAddr,
    /// What.
    pub protocol: Protocol,
    /// To which port, of UDP and TCP.
    pub port: u16,
    /// The size of each packet from its IP header, in bytes; without, 84.
    pub size: Option<u32>,
    /// The first probe is a super-packet of 32 KiB (UDP only).
    pub super_packet: bool,
    /// How many.
    pub count: u32,
}

impl Wish {
    /// Checks what can be checked without sending.
    ///
    /// # Errors
    /// The sentence that says what to ask for instead.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_COUNT).contains(&self.count) {
            return Err(Failure::usage(format!("{} probes cannot be sent: ask for 1 to {MAX_COUNT}", self.count)));
        }
        if self.destination.is_unspecified() || self.destination.is_multicast() {
            return Err(Failure::usage(format!("{} is not the address of a host", self.destination)));
        }
        if self.protocol != Protocol::Icmp && self.port == 0 {
            return Err(Failure::usage("port 0 is none: write one from 1 to 65535"));
        }
        if self.super_packet && self.protocol != Protocol::Udp {
            return Err(Failure::usage("a super-packet is sent by UDP: write `--super` alone, or with `--udp PORT`"));
        }
        let Some(size) = self.size else { return Ok(()) };
        if self.protocol == Protocol::Tcp {
            return Err(Failure::usage("a TCP SYN has a size of its own: leave `--size` out, or ask for ICMP or UDP"));
        }
        let smallest = (self.header() + HEADER_LEN + STAMP) as u32;
        if !(smallest..=65_000).contains(&size) {
            return Err(Failure::usage(format!("a probe has {smallest} to 65000 bytes, its IP header included")));
        }
        Ok(())
    }

    /// The same by datagrams to a port that probes of paths are known by, which anybody may send: from the port's being closed they have an
    /// answer.
    #[must_use]
    pub fn by_udp(self) -> Self {
        match self.protocol {
            Protocol::Icmp => Self { protocol: Protocol::Udp, port: TRACEROUTE, ..self },
            Protocol::Udp | Protocol::Tcp => self,
        }
    }

    fn header(&self) -> usize {
        if self.destination.is_ipv4() { V4_HEADER_LEN } else { V6_HEADER_LEN }
    }
}

/// What became of the probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// The size of each.
    pub sizes: Vec<u32>,
    /// How long the answer to each took, in nanoseconds.
    pub answered: Vec<Option<i64>>,
}

impl Sent {
    /// Nothing left.
    fn nothing(wish: &Wish) -> Self {
        let count = wish.count as usize;
        Self { sizes: vec![wish.size.unwrap_or(SMALL); count], answered: vec![None; count] }
    }
}

/// One way to the destination.
struct Sender<'a> {
    wish: &'a Wish,
    sought: &'a Sought,
    socket: Socket,
    /// When each left.
    left: Vec<i64>,
    /// Whether something was heard about each: an answer, or an error.
    over: Vec<bool>,
    sent: Sent,
    buffer: Vec<u8>,
}

/// Whether there is no route, or one that leads nowhere on purpose (a blackhole: EINVAL).
fn is_no_route(error: &linux::Error) -> bool {
    matches!(error.errno(), Some(ENETUNREACH | EHOSTUNREACH | EINVAL))
}

/// What the kernel says of the way to an address that a socket may not send to, as a rule for want of rights.
enum Way {
    /// A route forbids it (prohibit).
    Forbidden,
    /// It is that of all hosts of a network.
    Broadcast,
    /// Nothing: the rights are missing.
    Open,
}

fn way(destination: IpAddr) -> Way {
    match Netlink::open().and_then(|mut netlink| netlink.route_to(destination)) {
        Ok(route) if route.kind == RouteKind::Broadcast => Way::Broadcast,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Way::Forbidden,
        Ok(_) | Err(_) => Way::Open,
    }
}

/// Whether this process has the right to send what is wished.
#[must_use]
pub fn may_send(wish: &Wish) -> bool {
    wish.protocol != Protocol::Icmp
        || match Socket::open(Kind::Icmp, SocketAddr::new(wish.destination, 0)) {
            Ok(_) => true,
            Err(error) => {
                error.kind() != io::ErrorKind::PermissionDenied || !matches!(way(wish.destination), Way::Open)
            }
        }
}

/// Sends what is wished, and waits for the answers.
///
/// # Errors
/// No right to send such packets; no way to the destination; packets that are larger than the way's first device takes.
pub fn run(wish: &Wish, sought: &Sought) -> Result<Sent> {
    let (kind, port) = match wish.protocol {
        Protocol::Icmp => (Kind::Icmp, 0),
        Protocol::Udp => (Kind::Udp, wish.port),
        Protocol::Tcp => (Kind::Tcp, 0),
    };
    let socket = match Socket::open(kind, SocketAddr::new(wish.destination, port)) {
        Ok(socket) => socket,
        // That is for the trace to tell, too.
        Err(error) if is_no_route(&error) => return Ok(Sent::nothing(wish)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match way(wish.destination) {
            Way::Forbidden => return Ok(Sent::nothing(wish)),
            Way::Broadcast => {
                return Err(Failure::usage(format!("{} is the address of all hosts of a network", wish.destination))
                    .with_remedy("name one of them"));
            }
            Way::Open => return Err(explain(wish, &error)),
        },
        Err(error) => return Err(explain(wish, &error)),
    };
    let (sent, buffer) = (Sent::default(), vec![0; 1 << 16]);
    let mut sender = Sender { wish, sought, socket, left: Vec::new(), over: Vec::new(), sent, buffer };
    let began = Instant::now();
    for number in 0..wish.count {
        if wish.super_packet && number == 0 {
            sender.send_super_packet()?;
        } else {
            sender.send(wish.size.unwrap_or(SMALL))?;
        }
        sender.await_answers(if number == 0 { FIRST } else { PACE });
    }
    let silent = sender.sent.answered.iter().all(Option::is_none);
    let left = ALTOGETHER.saturating_sub(began.elapsed());
    sender.await_answers(if silent { SILENCE.min(left).max(LAST) } else { LAST });
    let large = wish.super_packet || wish.size.is_some_and(|size| size > LARGE);
    if large && sender.sent.answered.iter().all(Option::is_none) {
        sender.send(SMALL)?;
        sender.await_answers(LAST);
    }
    Ok(sender.sent)
}

/// The same, and watches the devices of the calling thread's namespace meanwhile, where there is the right to do so.
///
/// # Errors
/// As [`run`].
pub fn run_and_watch(wish: &Wish, sought: &Sought) -> Result<(Sent, Vec<Observation>)> {
    // No datagram of a tunnel passes here.
    let watch = Watch::open(*sought, 0);
    let sent = run(wish, sought)?;
    let seen = watch.map_or_else(|_| Vec::new(), |mut watch| watch.collect(&[]).observations);
    Ok((sent, seen))
}

fn explain(wish: &Wish, error: &linux::Error) -> Failure {
    let failure = Failure::failed(error.to_string());
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.with_remedy(match wish.protocol {
            Protocol::Tcp => "only root may send such a packet",
            _ => "run as root, or send UDP with `--udp PORT`",
        }),
        _ => failure,
    }
}

impl Sender<'_> {
    fn note_sent(&mut self, size: u32, at: i64) {
        self.left.push(at);
        self.over.push(false);
        self.sent.sizes.push(size);
        self.sent.answered.push(None);
    }

    fn number(&self) -> u32 {
        u32::try_from(self.left.len()).unwrap_or(u32::MAX)
    }

    fn send(&mut self, size: u32) -> Result<()> {
        let (from, to, number) = (self.socket.local(), self.wish.destination, self.number());
        let message = match self.wish.protocol {
            Protocol::Icmp => self.sought.echo_request(number, size, from, to),
            Protocol::Udp => {
                let length = (size as usize).saturating_sub(self.wish.header() + wire::udp::HEADER_LEN).max(STAMP);
                self.sought.payload(number, length, length)
            }
            Protocol::Tcp => self.sought.syn(number, from, to),
        };
        let headers = self.wish.header() + if self.wish.protocol == Protocol::Udp { wire::udp::HEADER_LEN } else { 0 };
        let at = now();
        let outcome = self.socket.send(&message);
        self.note_sent((headers + message.len()) as u32, at);
        self.judge(outcome, size)
    }

    fn send_super_packet(&mut self) -> Result<()> {
        let headers = self.wish.header() + wire::udp::HEADER_LEN;
        let fits = (self.socket.mtu() as usize).saturating_sub(headers).max(STAMP);
        let wished = self.wish.size.map(|size| (size as usize).saturating_sub(headers).max(STAMP));
        let segment = wished.unwrap_or(fits).min(fits);
        // The kernel takes 64 segments in a train (UDP_MAX_SEGMENTS before 6.9).
        let length = SUPER_PACKET.min(segment * 64);
        let payload = self.sought.payload(self.number(), length, segment);
        let at = now();
        let outcome = self.socket.send_train(&payload, u16::try_from(segment).unwrap_or(u16::MAX));
        self.note_sent((headers + length) as u32, at);
        self.judge(outcome, (headers + segment) as u32)
    }

    /// What the kernel says to a probe that leaves: some of it is an answer, and where it dies here already is for the trace to tell.
    fn judge(&mut self, outcome: io::Result<()>, size: u32) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        match error.kind() {
            // What ICMP said about an earlier one.
            io::ErrorKind::ConnectionRefused => self.answer_oldest(now()),
            _ if error.raw_os_error() == Some(EMSGSIZE) => {
                return Err(Failure::failed(format!(
                    "a packet of {size} bytes does not leave: the way to {} begins with a device that takes {}",
                    self.wish.destination,
                    self.socket.mtu()
                ))
                .with_remedy(format!("choose a `--size` up to {}, or `--super`", self.socket.mtu())));
            }
            _ => tracing::debug!("a probe was not sent: {error}"),
        }
        Ok(())
    }

    fn await_answers(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.over.contains(&false) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !readable([self.socket.as_fd()], Some(left)).is_ok_and(|[ready]| ready) {
                return;
            }
            self.take_answer();
        }
    }

    fn take_answer(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        match self.socket.receive(&mut buffer) {
            Ok(length) => {
                let at = now();
                let bytes = buffer.get(..length).unwrap_or_default();
                if let Some(probe) = self.answered_by(bytes) {
                    self.answer(probe as usize, at);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.answer_oldest(now()),
            Err(_) => {}
        }
        self.buffer = buffer;
    }

    /// Which probe an incoming message answers.
    fn answered_by(&mut self, bytes: &[u8]) -> Option<u32> {
        if self.wish.protocol == Protocol::Udp {
            // Whoever answers need not return what was sent; and then it is the oldest.
            return self.sought.number(bytes).or_else(|| self.oldest());
        }
        if self.socket.with_header() {
            let spotted = self.sought.spot(bytes)?;
            if spotted.course == Course::Error
                && let Some(over) = self.over.get_mut(spotted.probe as usize)
            {
                *over = true;
            }
            // Answers of a host to itself are seen with their questions.
            return (spotted.course == Course::Back).then_some(spotted.probe);
        }
        if self.wish.protocol == Protocol::Tcp {
            let spotted = self.sought.spot_tcp(bytes)?;
            return (spotted.course == Course::Back).then_some(spotted.probe);
        }
        let message = IcmpMessage::parse(bytes).ok()?;
        let is_reply = matches!(message.kind(), wire::icmp::v4::ECHO_REPLY | wire::icmp::v6::ECHO_REPLY);
        self.sought.number(message.payload()).filter(|_| is_reply)
    }

    fn oldest(&self) -> Option<u32> {
        self.sent.answered.iter().position(Option::is_none).and_then(|at| u32::try_from(at).ok())
    }

    fn answer_oldest(&mut self, at: i64) {
        if let Some(oldest) = self.oldest() {
            self.answer(oldest as usize, at);
        }
    }

    fn answer(&mut self, probe: usize, at: i64) {
        if let (Some(answered), Some(left)) = (self.sent.answered.get_mut(probe), self.left.get(probe)) {
            answered.get_or_insert(at.saturating_sub(*left));
            self.over.get_mut(probe).into_iter().for_each(|over| *over = true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(protocol: Protocol) -> Wish {
        Wish {
            destination: "10.42.1.1".parse().unwrap(),
            protocol,
            port: if protocol == Protocol::Icmp { 0 } else { 9 },
            size: None,
            super_packet: false,
            count: 3,
        }
    }

    #[test]
    fn what_cannot_be_sent_has_a_sentence() {
        for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
            wish(protocol).check().unwrap();
        }
        for (wrong, part) in [
            (Wish { count: 0, ..wish(Protocol::Icmp) }, "1 to 20"),
            (Wish { count: 21, ..wish(Protocol::Icmp) }, "1 to 20"),
            (Wish { size: Some(39), ..wish(Protocol::Icmp) }, "40 to 65000"),
            (Wish { size: Some(65_001), ..wish(Protocol::Udp) }, "40 to 65000"),
            (Wish { size: Some(100), ..wish(Protocol::Tcp) }, "--size"),
            (Wish { super_packet: true, ..wish(Protocol::Icmp) }, "--super"),
            (Wish { port: 0, ..wish(Protocol::Tcp) }, "port 0"),
            (Wish { destination: "224.0.0.1".parse().unwrap(), ..wish(Protocol::Icmp) }, "address of a host"),
        ] {
            let failure = wrong.check().unwrap_err();
            assert!(failure.exit_code() == 2 && failure.sentence().contains(part), "{failure}");
        }
    }
}
