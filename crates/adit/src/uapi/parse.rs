//! From lines to a request. Every value is checked here; what follows meets only what has a meaning.

use std::{net::IpAddr, num::NonZero, str::FromStr, time::Duration};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Errno;
use crate::{
    config::{Endpoint, Host},
    key::{self, PresharedKey, PrivateKey, PublicKey},
};

/// The longest line, in bytes. The longest that has a meaning is an endpoint or a key, of less than a hundred.
pub(super) const LONGEST_LINE: usize = 4096;

/// The longest request, in bytes.
pub(super) const LONGEST_REQUEST: usize = 32 << 20;

/// What was asked.
pub enum Request {
    /// The state of the device and its peers.
    Get,
    /// Changes.
    Set(Box<Set>),
}

/// Changes of a device. What is `None` stays as it is.
#[derive(Default)]
pub struct Set {
    /// Our key, or none.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port; 0 for any.
    pub listen_port: Option<u16>,
    /// The mark of our datagrams.
    pub fwmark: Option<Option<NonZero<u32>>>,
    /// Whether all peers go before those below come.
    pub replace_peers: bool,
    /// In the order of the request, in which a key may come more than once.
    pub peers: Vec<PeerSet>,
}

/// Changes of a peer, which is made if it is not there.
#[derive(Debug)]
pub struct PeerSet {
    /// Who it is.
    pub public_key: PublicKey,
    /// Whether it goes.
    pub remove: bool,
    /// Whether nothing happens if it is not there.
    pub update_only: bool,
    /// The secret beside the keys, or none.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Where it is.
    pub endpoint: Option<Endpoint>,
    /// How often it hears from us; none for never.
    pub keepalive: Option<Option<Duration>>,
    /// What lives behind it, in the order of the request.
    pub prefixes: Vec<PrefixChange>,
}

/// A change of what lives behind a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixChange {
    /// Nothing does.
    Clear,
    /// This does, and behind no other peer.
    Add(IpNet),
    /// This does no longer.
    Remove(IpNet),
}

/// What a line led to.
pub(super) enum Step {
    /// The request goes on.
    More,
    /// A whole request.
    Request(Request),
    /// The end of a request that was none.
    Refused(Errno),
    /// Nothing that follows can be understood: answer and close.
    Close(Errno),
}

/// Reads requests line by line.
#[derive(Default)]
pub(super) struct Parser {
    state: State,
    /// Bytes of this request so far.
    length: usize,
}

#[derive(Default)]
enum State {
    /// Between requests.
    #[default]
    Idle,
    Get,
    Set(Box<Set>),
    /// Something was wrong; the rest is passed over, so that the next request is found.
    Failed(Errno),
}

impl Parser {
    /// Whether a request has begun and not ended.
    pub(super) fn is_within(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// Takes a line, without its line feed.
    pub(super) fn line(&mut self, line: &[u8]) -> Step {
        self.length = self.length.saturating_add(line.len()).saturating_add(1);
        if self.length > LONGEST_REQUEST {
            *self = Self::default();
            return Step::Close(Errno::EMSGSIZE);
        }
        if line.is_empty() && self.is_within() {
            self.length = 0;
            return match std::mem::take(&mut self.state) {
                State::Get => Step::Request(Request::Get),
                State::Set(set) => Step::Request(Request::Set(set)),
                State::Failed(errno) => Step::Refused(errno),
                State::Idle => Step::More,
            };
        }
        if line.len() > LONGEST_LINE {
            return self.fail(Errno::EIO);
        }
        match &mut self.state {
            State::Idle => match line {
                b"get=1" => self.state = State::Get,
                b"set=1" => self.state = State::Set(Box::default()),
                // Where a request ends that we do not know cannot be known either.
                _ => return Step::Close(Errno::EPROTO),
            },
            State::Get => return self.fail(Errno::EINVAL),
            State::Set(set) => {
                if let Err(errno) = set.line(line) {
                    return self.fail(errno);
                }
            }
            State::Failed(_) => {}
        }
        Step::More
    }

    fn fail(&mut self, errno: Errno) -> Step {
        // The first fault is the one that is answered.
        if !matches!(self.state, State::Failed(_)) {
            self.state = State::Failed(errno);
        }
        Step::More
    }
}

impl Set {
    fn line(&mut self, line: &[u8]) -> Result<(), Errno> {
        let at = line.iter().position(|byte| *byte == b'=').ok_or(Errno::EPROTO)?;
        let (key, value) = line.split_at_checked(at).ok_or(Errno::EPROTO)?;
        let value = value.get(1..).and_then(|value| str::from_utf8(value).ok()).ok_or(Errno::EINVAL)?;
        if key == b"public_key" {
            self.peers.push(PeerSet::new(PublicKey::from_bytes(*key_bytes(value)?)));
            return Ok(());
        }
        match self.peers.last_mut() {
            Some(peer) => peer.line(key, value),
            None => self.device_line(key, value),
        }
    }

    fn device_line(&mut self, key: &[u8], value: &str) -> Result<(), Errno> {
        match key {
            b"private_key" => self.private_key = Some(private_key(value)?),
            b"listen_port" => self.listen_port = Some(number(value)?),
            b"fwmark" => self.fwmark = Some(NonZero::new(number(value)?)),
            b"replace_peers" => self.replace_peers = truth(value)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

impl PeerSet {
    /// No changes.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            prefixes: Vec::new(),
        }
    }

    fn line(&mut self, key: &[u8], value: &str) -> Result<(), Errno> {
        match key {
            b"remove" => self.remove = truth(value)?,
            b"update_only" => self.update_only = truth(value)?,
            // Zeros are how the protocol says "none".
            b"preshared_key" => self.preshared_key = Some(PresharedKey::from_bytes(key_bytes(value)?).ok()),
            b"endpoint" => self.endpoint = Some(endpoint(value)?),
            b"persistent_keepalive_interval" => {
                let seconds: u16 = number(value)?;
                self.keepalive = Some((seconds > 0).then(|| Duration::from_secs(seconds.into())));
            }
            b"replace_allowed_ips" => {
                truth(value)?;
                self.prefixes.push(PrefixChange::Clear);
            }
            b"allowed_ip" => self.prefixes.push(match value.strip_prefix('-') {
                Some(value) => PrefixChange::Remove(prefix(value)?),
                None => PrefixChange::Add(prefix(value)?),
            }),
            b"protocol_version" => {
                if value != "1" {
                    return Err(Errno::EINVAL);
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

fn truth(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(Errno::EINVAL) }
}

/// Plain digits: `FromStr` would also take `+7`.
fn number<T: FromStr>(value: &str) -> Result<T, Errno> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    value.parse().map_err(|_| Errno::EINVAL)
}

/// 32 bytes in hexadecimal.
fn key_bytes(value: &str) -> Result<Zeroizing<[u8; key::LENGTH]>, Errno> {
    let mut bytes = Zeroizing::new([0; key::LENGTH]);
    let (digits, []) = value.as_bytes().as_chunks::<2>() else { return Err(Errno::EINVAL) };
    if digits.len() != bytes.len() {
        return Err(Errno::EINVAL);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(digits) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Ok(bytes)
}

fn digit(letter: u8) -> Result<u8, Errno> {
    char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(Errno::EINVAL)
}

/// A key as X25519 uses it, which is also how it is shown afterwards (RFC 7748, section 5); zeros are none.
fn private_key(value: &str) -> Result<Option<PrivateKey>, Errno> {
    let mut bytes = key_bytes(value)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    key::clamp(&mut bytes);
    PrivateKey::from_bytes(bytes).map(Some).map_err(|_| Errno::EINVAL)
}

/// An address and port: names are resolved by the tools.
fn endpoint(value: &str) -> Result<Endpoint, Errno> {
    let endpoint: Endpoint = value.parse().map_err(|_| Errno::EINVAL)?;
    if matches!(endpoint.host, Host::Address(_)) { Ok(endpoint) } else { Err(Errno::EINVAL) }
}

/// A network; bits beyond its length are cleared.
fn prefix(value: &str) -> Result<IpNet, Errno> {
    let (address, length) = value.split_once('/').ok_or(Errno::EINVAL)?;
    let address: IpAddr = address.parse().map_err(|_| Errno::EINVAL)?;
    IpNet::new(address, number(length)?).map(|net| net.trunc()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    const KEY: &str = "585b57d14d6c8f6d5d3e5b1d6f7a8b9c0d1e2f303132333435363738393a3b7c";

    /// What becomes of a text, up to the end of its first request.
    fn parse(text: &str) -> Result<Request, Errno> {
        let mut parser = Parser::default();
        for line in text.split('\n') {
            match parser.line(line.as_bytes()) {
                Step::More => {}
                Step::Request(request) => return Ok(request),
                Step::Refused(errno) | Step::Close(errno) => return Err(errno),
            }
        }
        panic!("no end: {text}");
    }

    fn set(lines: &str) -> Result<Set, Errno> {
        match parse(&format!("set=1\n{lines}\n"))? {
            Request::Set(set) => Ok(*set),
            Request::Get => panic!("a get"),
        }
    }

    fn peer(lines: &str) -> Result<PeerSet, Errno> {
        let mut set = set(&format!("public_key={KEY}\n{lines}\n"))?;
        assert_eq!(set.peers.len(), 1);
        Ok(set.peers.remove(0))
    }

    #[test]
    fn a_device_in_full() {
        let set =
            set(&format!("private_key={KEY}\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true\n")).unwrap();
        let key = set.private_key.unwrap().unwrap();
        assert_eq!(key.as_bytes()[..2], [0x58, 0x5b]);
        assert_eq!((set.listen_port, set.fwmark), (Some(51820), Some(NonZero::new(u32::MAX))));
        assert!(set.replace_peers && set.peers.is_empty());
    }

    #[test]
    fn nothing_said_is_nothing_changed() {
        let set = set("").unwrap();
        assert!(set.private_key.is_none() && set.listen_port.is_none() && set.fwmark.is_none());
        assert!(!set.replace_peers && set.peers.is_empty());
        let peer = peer("").unwrap();
        assert!(!peer.remove && !peer.update_only && peer.preshared_key.is_none() && peer.endpoint.is_none());
        assert!(peer.keepalive.is_none() && peer.prefixes.is_empty());
    }

    #[test]
    fn zeros_are_none() {
        let device = set(&format!("private_key={ZEROS}\nfwmark=0\nlisten_port=0\n")).unwrap();
        assert!(device.private_key.unwrap().is_none());
        assert_eq!((device.fwmark, device.listen_port), (Some(None), Some(0)));
        let peer = peer(&format!("preshared_key={ZEROS}\npersistent_keepalive_interval=0\n")).unwrap();
        assert_eq!((peer.preshared_key, peer.keepalive), (Some(None), Some(None)));
    }

    #[test]
    fn a_private_key_is_clamped_and_a_preshared_one_is_not() {
        let all = "f".repeat(64);
        let key = set(&format!("private_key={all}\n")).unwrap().private_key.unwrap().unwrap();
        assert_eq!((key.as_bytes()[0], key.as_bytes()[31]), (0xf8, 0x7f));
        let peer = peer(&format!("preshared_key={}\n", all.to_uppercase())).unwrap();
        assert_eq!(peer.preshared_key.unwrap().unwrap().as_bytes(), &[0xff; 32]);
    }

    #[test]
    fn a_peer_in_full() {
        let peer = peer(
            "protocol_version=1\nendpoint=[2001:db8::2]:51820\npersistent_keepalive_interval=65535\n\
             replace_allowed_ips=true\nallowed_ip=10.1.2.3/16\nallowed_ip=-10.1.0.0/24\nallowed_ip=::/0\n",
        )
        .unwrap();
        assert_eq!(peer.endpoint.unwrap().address(), Some("[2001:db8::2]:51820".parse().unwrap()));
        assert_eq!(peer.keepalive, Some(Some(Duration::from_secs(65535))));
        let prefix = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(
            peer.prefixes,
            [
                PrefixChange::Clear,
                PrefixChange::Add(prefix("10.1.0.0/16")),
                PrefixChange::Remove(prefix("10.1.0.0/24")),
                PrefixChange::Add(prefix("::/0")),
            ]
        );
    }

    #[test]
    fn peers_follow_each_other_and_may_come_again() {
        let lines = format!("public_key={KEY}\nremove=true\npublic_key={KEY}\nupdate_only=true\nallowed_ip=::1/128\n");
        let peers = set(&lines).unwrap().peers;
        assert_eq!(peers.len(), 2);
        assert!(peers[0].remove && !peers[0].update_only && peers[0].prefixes.is_empty());
        assert!(!peers[1].remove && peers[1].update_only && peers[1].prefixes.len() == 1);
    }

    #[test]
    fn what_is_no_value_is_invalid() {
        for line in [
            "private_key=",
            "private_key=ff",
            &format!("private_key={ZEROS}00"),
            &format!("private_key={}zz", &ZEROS[2..]),
            &format!("public_key={}", &ZEROS[1..]),
            "listen_port=",
            "listen_port=65536",
            "listen_port=-1",
            "listen_port=+1",
            "listen_port= 1",
            "listen_port=0x10",
            "fwmark=4294967296",
            "fwmark=off",
            "replace_peers=false",
            "replace_peers=1",
            // No such keys, or not there.
            "nonsense=1",
            "=1",
            "endpoint=192.0.2.2:1",
            "protocol_version=1",
            "last_handshake_time_sec=1",
        ] {
            assert_eq!(set(&format!("{line}\n")).err(), Some(Errno::EINVAL), "{line}");
        }
        for line in [
            "remove=false",
            "update_only=",
            "replace_allowed_ips=yes",
            "protocol_version=2",
            "preshared_key=00",
            "persistent_keepalive_interval=65536",
            "persistent_keepalive_interval=off",
            "allowed_ip=10.0.0.1",
            "allowed_ip=10.0.0.1/",
            "allowed_ip=10.0.0.1/33",
            "allowed_ip=::/129",
            "allowed_ip=10.0.0/8",
            "allowed_ip=/8",
            "allowed_ip=--10.0.0.0/8",
            "allowed_ip=+10.0.0.0/8",
            "allowed_ip=fe80::1%eth0/64",
            "endpoint=example.org:51820",
            "endpoint=192.0.2.2",
            "endpoint=192.0.2.2:65536",
            "endpoint=2001:db8::1:51820",
            "endpoint=[fe80::1%2]:51820",
            "endpoint=0.0.0.0:51820",
            "nonsense=1",
            // A device's keys do not come after the first peer.
            "listen_port=1",
            "replace_peers=true",
        ] {
            assert_eq!(peer(&format!("{line}\n")).err(), Some(Errno::EINVAL), "{line}");
        }
    }

    #[test]
    fn what_is_not_the_protocol_says_so() {
        assert_eq!(set("listen_port\n").err(), Some(Errno::EPROTO));
        assert_eq!(peer("remove\n").err(), Some(Errno::EPROTO));
        for text in ["\n", "get=2\n\n", "get\n\n", "set=1 \n\n", "GET / HTTP/1.1\n\n", "set=1\r\n\r\n"] {
            let mut parser = Parser::default();
            let first = text.split('\n').next().unwrap();
            assert!(matches!(parser.line(first.as_bytes()), Step::Close(Errno::EPROTO)), "{text:?}");
        }
        assert_eq!(parse("get=1\nx=1\n\n").err(), Some(Errno::EINVAL));
    }

    #[test]
    fn after_a_fault_the_next_request_is_found_and_the_first_fault_is_told() {
        let mut parser = Parser::default();
        let mut told = Vec::new();
        for line in "set=1\nlisten_port=x\nnonsense\nget=1\n\nget=1\n\nset=1\nfwmark=7\n\n".split('\n') {
            match parser.line(line.as_bytes()) {
                Step::More => {}
                Step::Refused(errno) => told.push(format!("{errno}")),
                Step::Request(Request::Get) => told.push("get".into()),
                Step::Request(Request::Set(set)) => told.push(format!("{:?}", set.fwmark)),
                Step::Close(errno) => {
                    // Only the empty line after the last request.
                    assert_eq!((errno, told.len()), (Errno::EPROTO, 3));
                }
            }
        }
        assert_eq!(told, ["-22", "get", "Some(Some(7))"]);
    }

    #[test]
    fn lines_and_requests_have_a_longest() {
        let long = "x".repeat(LONGEST_LINE + 1);
        assert_eq!(set(&format!("{long}\n")).err(), Some(Errno::EIO));
        assert_eq!(set(&format!("{}\n", &long[1..])).err(), Some(Errno::EPROTO));
        let mut parser = Parser::default();
        assert!(matches!(parser.line(b"set=1"), Step::More));
        let line = [b'x'; LONGEST_LINE];
        let whole = (LONGEST_REQUEST - 6) / (LONGEST_LINE + 1);
        for _ in 0..whole {
            assert!(matches!(parser.line(&line), Step::More));
        }
        assert!(matches!(parser.line(&line), Step::Close(Errno::EMSGSIZE)));
        // A connection with many requests is not a long one.
        let mut parser = Parser::default();
        for _ in 0..(LONGEST_REQUEST / 8) {
            assert!(matches!(parser.line(b"get=1"), Step::More));
            assert!(matches!(parser.line(b""), Step::Request(Request::Get)));
        }
    }

    /// Lines like those of requests, with things missing and things too much.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let keys = prop::sample::select(vec![
            "get",
            "set",
            "private_key",
            "listen_port",
            "fwmark",
            "replace_peers",
            "public_key",
            "remove",
            "update_only",
            "preshared_key",
            "endpoint",
            "persistent_keepalive_interval",
            "replace_allowed_ips",
            "allowed_ip",
            "protocol_version",
            "errno",
        ]);
        let values = prop_oneof![
            Just("1".to_owned()),
            Just("true".to_owned()),
            Just(ZEROS.to_owned()),
            "[0-9a-f]{64}",
            "-?[0-9.:a-f]{0,20}/[0-9]{0,4}",
            "\\[?[0-9.:a-f%]{0,20}\\]?:[0-9]{0,6}",
            "[0-9]{0,12}",
            ".{0,8}",
        ];
        prop_oneof![
            8 => (keys, values).prop_map(|(key, value)| format!("{key}={value}").into_bytes()),
            1 => Just(Vec::new()),
            1 => prop::collection::vec(any::<u8>(), 0..80),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(lines in prop::collection::vec(line(), 0..64)) {
            let mut parser = Parser::default();
            for line in &lines {
                let begun = parser.is_within();
                match parser.line(line) {
                    Step::More => prop_assert!(parser.is_within()),
                    Step::Request(_) | Step::Refused(_) => prop_assert!(begun && line.is_empty() && !parser.is_within()),
                    Step::Close(_) => prop_assert!(!begun),
                }
            }
        }

        #[test]
        fn keys_and_prefixes_are_read_as_they_were_written(bytes: [u8; 32], v6: bool, address: u128, length in 0..=128u8) {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(*key_bytes(&hex).unwrap(), bytes);
            let net = if v6 {
                IpNet::new(std::net::Ipv6Addr::from(address).into(), length).unwrap()
            } else {
                IpNet::new(std::net::Ipv4Addr::from(address as u32).into(), length.min(32)).unwrap()
            };
            prop_assert_eq!(prefix(&net.to_string()), Ok(net.trunc()));
        }
    }
}
