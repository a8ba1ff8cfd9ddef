//! Ports of the host that lead to a container: how they are written, and the packet filters that do it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use linux::nft::{Action, AddressType, Base, Chain, ChainKind, Family, Hook, Match, Policy, Rule, Ruleset, Transport};
use serde::{Deserialize, Serialize};

use super::{Fault, FaultKind, Record};

/// The most ports that one word may name.
const MOST: u16 = 1000;

/// A port of the host, and that of the container it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The address of the host; none: all of them.
    pub ip: Option<IpAddr>,
    /// The port of the host.
    pub host: u16,
    /// The port of the container.
    pub container: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl FromStr for Protocol {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(Fault::new(FaultKind::Invalid, format!("{text:?} has no ports here: write tcp or udp"))),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As [`parse`] reads it: `192.0.2.1:8080:80/tcp`.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host, self.container, self.protocol)
    }
}

/// Reads what a person writes: `8080:80`, `8080:80/udp`, `192.0.2.1:8080:80`, `[2001:db8::1]:8080:80`, `8000-8010:9000-9010/tcp`, and `80` for
/// `80:80`.
///
/// # Errors
/// [`FaultKind::Invalid`], with the form that was expected.
pub fn parse(text: &str) -> Result<Vec<Published>, Fault> {
    let wrong = |why: &str| {
        Fault::new(
            FaultKind::Invalid,
            format!(
                "{text:?} does not say which port: {why}; write HOST:CONTAINER, such as 8080:80/tcp, 192.0.2.1:8080:80 or 8000-8010:9000-9010/udp"
            ),
        )
    };
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, protocol)) => (ports, protocol.parse::<Protocol>().map_err(|e| wrong(&e.sentence))?),
        None => (text, Protocol::Tcp),
    };
    let (ip, ports) = if let Some(rest) = ports.strip_prefix('[') {
        let (ip, ports) = rest.split_once("]:").ok_or_else(|| wrong("the address does not end"))?;
        (Some(IpAddr::V6(ip.parse::<Ipv6Addr>().map_err(|_| wrong("the address is none"))?)), ports)
    } else if ports.matches(':').count() == 2 {
        let (ip, ports) = ports.split_once(':').unwrap_or_default();
        (Some(IpAddr::V4(ip.parse::<Ipv4Addr>().map_err(|_| wrong("the address is none"))?)), ports)
    } else {
        (None, ports)
    };
    let (host, container) = ports.split_once(':').unwrap_or((ports, ports));
    let range = |text: &str| -> Result<(u16, u16), Fault> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten().filter(|port| *port != 0)
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok((first, last)),
            (Some(_), Some(_)) => Err(wrong("a range begins with its lower port")),
            _ => Err(wrong("a port is a number from 1 to 65535")),
        }
    };
    let (host, container) = (range(host)?, range(container)?);
    if host.1 - host.0 != container.1 - container.0 {
        return Err(wrong("both ranges must have as many ports"));
    }
    if host.1 - host.0 >= MOST {
        return Err(wrong("that is more than 1000 ports"));
    }
    let ip = ip.filter(|ip| !ip.is_unspecified());
    Ok((0..=host.1 - host.0)
        .map(|n| Published { ip, host: host.0 + n, container: container.0 + n, protocol })
        .collect())
}

impl Published {
    /// Whether one of the addresses of both is the same, and the port.
    pub fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host == other.host
            && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }

    /// Whether packets of this family come by it.
    fn has(&self, v6: bool) -> bool {
        self.ip.is_none_or(|ip| ip.is_ipv6() == v6)
    }
}

/// Whether ports can be published: none of them twice, by another container, or by a program of the host.
///
/// # Errors
/// [`FaultKind::PortTaken`], with who has it as far as that is known.
pub fn check(ports: &[Published], records: &[Record]) -> Result<(), Fault> {
    let taken = |port: &Published, by: &dyn fmt::Display| {
        Fault::new(
            FaultKind::PortTaken,
            format!("port {port} cannot be published: {by}; choose another port of the host"),
        )
    };
    for (n, port) in ports.iter().enumerate() {
        // The kernel masquerades no connection of its own by that address.
        if port.ip == Some(Ipv6Addr::LOCALHOST.into()) {
            let sentence =
                format!("port {port} cannot be published: ::1 leads to no container; write 127.0.0.1, or no address");
            return Err(Fault::new(FaultKind::Invalid, sentence));
        }
        if ports.iter().take(n).any(|other| port.collides(other)) {
            return Err(taken(port, &"it is asked for twice"));
        }
        if let Some(record) = records.iter().find(|record| record.ports.iter().any(|other| port.collides(other))) {
            return Err(taken(port, &format_args!("the container {} has it", record.title())));
        }
        if let Some(error) = is_bound(port) {
            return Err(taken(port, &format_args!("a program of this host has it ({error})")));
        }
    }
    Ok(())
}

/// Why the port cannot be had by a program; nothing if it can.
fn is_bound(port: &Published) -> Option<std::io::Error> {
    let addresses: Vec<IpAddr> = match port.ip {
        Some(ip) => vec![ip],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let bind = |ip: IpAddr| match port.protocol {
        Protocol::Tcp => TcpListener::bind(SocketAddr::new(ip, port.host)).map(drop),
        Protocol::Udp => UdpSocket::bind(SocketAddr::new(ip, port.host)).map(drop),
    };
    let errors = addresses.into_iter().filter_map(|ip| bind(ip).err());
    // A host without IPv6, or an address that it has not got yet, is no collision.
    errors.into_iter().find(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// The name of the table.
pub fn table(device: &str) -> String {
    format!("adit-{device}-ports")
}

/// The packet filters that lead all published ports to their containers; none if there are none.
///
/// | Chain | Where | What it does |
/// |---|---|---|
/// | `arriving` | prerouting | what comes for a published port of this host goes to its container; not by its loopback addresses |
/// | `own` | output | the same for what this host itself sends, to its loopback addresses (of IPv4) too |
/// | `leaving` | postrouting | containers of this host that call one by its published port (itself too), and this host by its loopback address, come from the host's address on the bridge, to which answers go |
pub fn ruleset(device: &str, records: &[Record]) -> Option<Ruleset> {
    let (mut arriving, mut leads, mut loops) = (Vec::new(), Vec::new(), Vec::new());
    for record in records.iter().filter(|record| !record.ports.is_empty()) {
        for address in &record.addresses {
            let ip = address.addr();
            // Without this the answer would go past the host, by the bridge, from an address that was not asked.
            loops.push(
                Rule::new(format!("its host's containers to {}", record.title()))
                    .when(Match::Source(address.trunc()))
                    .when(Match::Destination(ip.into()))
                    .when(Match::Redirected)
                    .then(Action::Masquerade { random_fully: false }),
            );
            if let Some(loopback) = loopback().filter(|_| ip.is_ipv4()) {
                loops.push(
                    Rule::new(format!("this host to {}", record.title()))
                        .when(Match::Source(loopback))
                        .when(Match::Destination(ip.into()))
                        .then(Action::Masquerade { random_fully: false }),
                );
            }
            for port in record.ports.iter().filter(|port| port.has(ip.is_ipv6())) {
                // A neighbour on the link may send to loopback addresses, which the kernel would refuse only after this.
                if !port.ip.is_some_and(|ip| ip.is_loopback()) {
                    let rule = lead(record, port, ip);
                    let is_for_any = port.ip.is_none() && ip.is_ipv4();
                    let not_loopback = loopback().filter(|_| is_for_any).map(|net| Match::Destination(net).not());
                    arriving
                        .push(Rule { matches: not_loopback.into_iter().chain(rule.matches.clone()).collect(), ..rule });
                }
                // Nor would an answer come back to ::1: there nobody listens.
                let not_loopback = port.ip.is_none() && ip.is_ipv6();
                let not_loopback =
                    not_loopback.then(|| Match::Destination(IpAddr::from(Ipv6Addr::LOCALHOST).into()).not());
                let rule = lead(record, port, ip);
                leads.push(Rule { matches: not_loopback.into_iter().chain(rule.matches.clone()).collect(), ..rule });
            }
        }
    }
    if leads.is_empty() {
        return None;
    }
    let chain = |name: &str, hook, priority, rules| Chain {
        name: name.into(),
        base: Some(Base { kind: ChainKind::Nat, hook, priority, device: None, policy: Policy::Accept }),
        rules,
    };
    let chains = vec![
        chain("arriving", Hook::Prerouting, -100, arriving),
        chain("own", Hook::Output, -100, leads),
        // Before that of the network, which takes connections of our subnet as they are.
        chain("leaving", Hook::Postrouting, 99, loops),
    ];
    let mut ruleset = Ruleset { family: Family::Inet, table: table(device), sets: Vec::new(), chains };
    super::filters::sign(&mut ruleset);
    Some(ruleset)
}

fn loopback() -> Option<ipnet::IpNet> {
    ipnet::Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).ok().map(ipnet::IpNet::V4)
}

fn lead(record: &Record, port: &Published, to: IpAddr) -> Rule {
    let transport = match port.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    let rule = Rule::new(format!("{port} to {}", record.title()));
    let family = super::filters::family(to.is_ipv6());
    let rule = match port.ip {
        Some(ip) => rule.when(Match::Destination(ip.into())),
        None => rule.when(family),
    };
    // Whoever names an address that is not this host's (or not yet) gets nothing of what goes there.
    rule.when(Match::DestinationType(AddressType::Local))
        .when(Match::DestinationPort(transport, port.host..=port.host))
        .then(Action::DestinationNat(to, Some(port.container)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        parse(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_person_writes_is_read() {
        for (text, ports) in [
            ("8080:80", &["8080:80/tcp"][..]),
            ("8080:80/tcp", &["8080:80/tcp"]),
            ("53:5353/UDP", &["53:5353/udp"]),
            ("80", &["80:80/tcp"]),
            ("192.0.2.1:8080:80", &["192.0.2.1:8080:80/tcp"]),
            ("0.0.0.0:8080:80", &["8080:80/tcp"]),
            ("[2001:db8::1]:8080:80/udp", &["[2001:db8::1]:8080:80/udp"]),
            ("8000-8002:9000-9002", &["8000:9000/tcp", "8001:9001/tcp", "8002:9002/tcp"]),
        ] {
            assert_eq!(words(text), ports, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused_with_the_form() {
        for text in [
            "",
            ":",
            "0:80",
            "80:0",
            "65536:80",
            "8080:80:80:80",
            "8080:80/sctp",
            "a:80",
            "8000-8002:9000",
            "9-8:9-8",
            "+80:80",
            "-",
            "1-65535:1-65535",
            "[::1]8080:80",
            "[::1:8080:80",
            "192.0.2:8080:80",
            "8080:80/",
            "8080 :80",
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid, "{text}");
            assert!(fault.sentence.contains("write HOST:CONTAINER"), "{fault}");
        }
        assert!(parse("9-8:9-8").unwrap_err().sentence.contains("begins with its lower port"));
    }

    #[test]
    fn nothing_is_published_where_it_could_not_be_reached() {
        let fault = check(&parse("[::1]:8080:80").unwrap(), &[]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
        assert!(fault.sentence.contains("write 127.0.0.1, or no address"), "{fault}");
    }

    #[test]
    fn a_port_that_is_in_use_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap().port();
        let port = |ip: Option<&str>, host| Published {
            ip: ip.map(|ip| ip.parse().unwrap()),
            host,
            container: 80,
            protocol: Protocol::Tcp,
        };
        for ip in [None, Some("127.0.0.1")] {
            let fault = check(&[port(ip, bound)], &[]).unwrap_err();
            assert!(fault.kind == FaultKind::PortTaken && fault.sentence.contains("a program of this host"), "{fault}");
        }
        drop(listener);
        check(&[port(None, bound)], &[]).unwrap();
        assert!(check(&[port(None, bound), port(Some("127.0.0.1"), bound)], &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:./\\[\\]a-f-]{0,30}") {
            if let Ok(ports) = parse(&text) {
                for port in ports {
                    prop_assert_eq!(parse(&port.to_string()).unwrap(), vec![port]);
                }
            }
        }
    }
}
