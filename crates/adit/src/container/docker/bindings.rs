//! What Docker wants published, as ports of ours.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::message::PortBinding;
use crate::container::ports::{self, Protocol};
use crate::container::{Fault, FaultKind, Published, Record};

/// Where ports are taken from that Docker leaves to us: those that nobody is to count on (RFC 6335, section 6), as Docker itself does.
const ANY: RangeInclusive<u16> = 49152..=65535;

/// The ports that these bindings mean: what the container has already stays as it is, and of what Docker leaves to us the first free one is taken.
/// `records`: all of the node, `own` its own.
///
/// # Errors
/// A protocol or an address that cannot be published, or that no port is free. Whether the others are in use is seen when they are published.
pub(super) fn ports(bindings: &[PortBinding], own: &Record, records: &[Record]) -> Result<Vec<Published>, Fault> {
    let mut chosen: Vec<Published> = Vec::new();
    let others: Vec<Record> = records.iter().filter(|record| record.key != own.key).cloned().collect();
    for binding in bindings {
        let protocol = protocol(binding.proto)?;
        let ip = address(&binding.host_ip)?;
        let port = |host: u16| Published { ip, host, container: binding.port, protocol };
        let last = binding.host_port_end.max(binding.host_port);
        let range = if binding.host_port == 0 { ANY } else { binding.host_port..=last };
        if range.start() == range.end() {
            // Docker names a port twice, once per family, that all addresses of the host have.
            if !chosen.contains(&port(binding.host_port)) {
                chosen.push(port(binding.host_port));
            }
            continue;
        }
        // Once per family too, unless it was asked for by another number.
        if binding.host_port == 0 && chosen.iter().any(|other| port(other.host) == *other) {
            continue;
        }
        let kept = own.ports.iter().find(|before| port(before.host) == **before && range.contains(&before.host));
        let free = |host: &u16| {
            !chosen.iter().any(|other| other.collides(&port(*host))) && ports::check(&[port(*host)], &others).is_ok()
        };
        let host = kept.map(|port| port.host).or_else(|| range.clone().find(free)).ok_or_else(|| {
            let sentence = format!(
                "no port from {} to {} is free for port {}/{protocol} of the container; choose another one",
                range.start(),
                range.end(),
                binding.port
            );
            Fault::new(FaultKind::PortTaken, sentence)
        })?;
        chosen.push(port(host));
    }
    Ok(chosen)
}

fn protocol(number: u8) -> Result<Protocol, Fault> {
    match number {
        6 => Ok(Protocol::Tcp),
        17 => Ok(Protocol::Udp),
        132 => Err(Fault::new(FaultKind::Invalid, "ports of sctp cannot be published; publish tcp and udp alone")),
        _ => Err(Fault::new(FaultKind::Invalid, format!("ports of IP protocol {number} cannot be published"))),
    }
}

/// The address of the host; none for all of them.
fn address(text: &str) -> Result<Option<IpAddr>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        Fault::new(FaultKind::Invalid, format!("{text:?} is no address at which a port could be published"))
    })?;
    Ok((!ip.is_unspecified()).then_some(ip))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::container::record::tests::record;

    fn binding(host_ip: &str, host_port: u16, host_port_end: u16, port: u16) -> PortBinding {
        PortBinding { proto: 6, port, host_ip: host_ip.into(), host_port, host_port_end }
    }

    fn words(bindings: &[PortBinding]) -> Vec<String> {
        let own = Record { ports: Vec::new(), ..record("own", &["10.42.7.2/24"]) };
        ports(bindings, &own, std::slice::from_ref(&own)).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn bindings_are_read() {
        assert_eq!(words(&[binding("", 8080, 8080, 80)]), ["8080:80/tcp"]);
        assert_eq!(words(&[binding("127.0.0.1", 8080, 0, 80)]), ["127.0.0.1:8080:80/tcp"]);
        assert_eq!(words(&[PortBinding { proto: 17, ..binding("::1", 53, 53, 53) }]), ["[::1]:53:53/udp"]);
        // As Docker says it for both families, in versions that do.
        assert_eq!(words(&[binding("0.0.0.0", 8080, 8080, 80), binding("::", 8080, 8080, 80)]), ["8080:80/tcp"]);
        assert_eq!(words(&[binding("0.0.0.0", 0, 0, 80), binding("::", 0, 0, 80)]).len(), 1);
    }

    #[test]
    fn a_port_that_is_left_to_us_is_a_free_one_and_stays() {
        let own = Record { ports: Vec::new(), ..record("own", &["10.42.7.2/24"]) };
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let used = listener.local_addr().unwrap().port();
        let other =
            Record { ports: ports::parse(&format!("{}:80", used - 1)).unwrap(), ..record("other", &["10.42.7.3/24"]) };
        let all = [own.clone(), other];
        let range = [binding("", used - 1, used + 20, 80)];
        let port = ports(&range, &own, &all).unwrap()[0];
        assert!(port.host > used, "{port}");
        let before = Record { ports: vec![port], ..own.clone() };
        assert_eq!(ports(&range, &before, &all).unwrap(), [port]);
        let fault = ports(&[binding("", used - 1, used, 80)], &own, &all).unwrap_err();
        assert!(fault.kind == FaultKind::PortTaken && fault.sentence.contains("80/tcp"), "{fault}");
        let any = ports(&[binding("", 0, 0, 80), binding("", 0, 0, 81)], &own, &all).unwrap();
        assert!(any.iter().all(|port| ANY.contains(&port.host)) && any[0].host != any[1].host, "{any:?}");
    }

    #[test]
    fn what_cannot_be_published_is_refused() {
        let own = record("own", &["10.42.7.2/24"]);
        for wrong in [
            PortBinding { proto: 132, ..binding("", 80, 80, 80) },
            PortBinding { proto: 1, ..binding("", 80, 80, 80) },
            binding("localhost", 80, 80, 80),
        ] {
            assert_eq!(
                ports(std::slice::from_ref(&wrong), &own, &[]).unwrap_err().kind,
                FaultKind::Invalid,
                "{wrong:?}"
            );
        }
    }
}
