//! Addresses with a prefix length, as a device has them (`10.77.0.1/24`) and as a peer owns them (`10.42.7.0/24`).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Why a text is no prefix, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PrefixError {
    #[error("is not a prefix: write an address, a slash and a length, such as \"10.42.7.0/24\" or \"fd77::/64\"")]
    Malformed,
    #[error(
        "has no prefix length: write the length of its network, such as \"10.77.0.1/24\", or /32 (IPv6: /128) for none"
    )]
    NoLength,
    #[error("has a prefix length beyond {0}")]
    Length(u8),
    #[error("is an IPv4-mapped IPv6 prefix: write it as IPv4")]
    Mapped,
    #[error("is loopback, which never leaves a host")]
    Loopback,
    #[error("is multicast, which no single peer owns")]
    Multicast,
    #[error("is the unspecified address: write 0.0.0.0/0 or ::/0 for every address")]
    Unspecified,
    #[error("is the address of the network itself: choose a host address in it")]
    Network,
    #[error("is the broadcast address of its network: choose another host address in it")]
    Broadcast,
}

/// A device's address with the prefix length of its network.
pub(super) fn parse_host(text: &str) -> Result<IpNet, PrefixError> {
    let net = parse(text, BareAddress::Refused)?;
    refuse_special(net.addr())?;
    // Networks of two addresses have no network and broadcast address (RFC 3021).
    if let IpNet::V4(net) = net
        && net.prefix_len() < 31
    {
        if net.addr() == net.network() {
            return Err(PrefixError::Network);
        }
        if net.addr() == net.broadcast() {
            return Err(PrefixError::Broadcast);
        }
    }
    Ok(net)
}

/// A network behind a peer: host bits are cleared, an address without a length is itself alone.
pub(super) fn parse_network(text: &str) -> Result<IpNet, PrefixError> {
    let net = parse(text, BareAddress::IsAHost)?.trunc();
    if !is_a_start(&net) {
        refuse_special(net.addr())?;
    }
    Ok(net)
}

/// A network behind a peer, as WireGuard takes it: multicast and broadcast may have a peer there.
pub(super) fn parse_wireguard_network(text: &str) -> Result<IpNet, PrefixError> {
    let net = parse(text, BareAddress::IsAHost)?.trunc();
    match refuse_special(net.addr()) {
        Err(fault @ (PrefixError::Unspecified | PrefixError::Loopback)) if !is_a_start(&net) => Err(fault),
        _ => Ok(net),
    }
}

/// A device's address as wg-quick takes it: one without a length has no network beside it, and the address of a network will do.
pub(super) fn parse_address(text: &str) -> Result<IpNet, PrefixError> {
    let net = parse(text, BareAddress::IsAHost)?;
    refuse_special(net.addr()).map(|()| net)
}

/// Whether a network begins with the first address there is, as a default route and the lower half of one do.
fn is_a_start(net: &IpNet) -> bool {
    net.addr().is_unspecified() && net.prefix_len() < net.max_prefix_len()
}

enum BareAddress {
    IsAHost,
    Refused,
}

fn parse(text: &str, bare: BareAddress) -> Result<IpNet, PrefixError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(PrefixError::Mapped);
    }
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match (length, bare) {
        (Some(digits), _) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u8>().map_err(|_| PrefixError::Length(longest))?
        }
        (Some(_), _) => return Err(PrefixError::Malformed),
        (None, BareAddress::IsAHost) => longest,
        (None, BareAddress::Refused) => return Err(PrefixError::NoLength),
    };
    IpNet::new(address, length).map_err(|_| PrefixError::Length(longest))
}

fn refuse_special(address: IpAddr) -> Result<(), PrefixError> {
    if address.is_unspecified() {
        Err(PrefixError::Unspecified)
    } else if address.is_loopback() {
        Err(PrefixError::Loopback)
    } else if address.is_multicast() {
        Err(PrefixError::Multicast)
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Err(PrefixError::Broadcast)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn networks_are_truncated() {
        for (text, shown) in [
            ("10.42.7.9/24", "10.42.7.0/24"),
            ("10.77.0.2", "10.77.0.2/32"),
            ("10.77.0.2/32", "10.77.0.2/32"),
            ("fd77::5/64", "fd77::/64"),
            ("FD77::2", "fd77::2/128"),
            ("128.0.0.0/1", "128.0.0.0/1"),
            ("0.0.0.0/1", "0.0.0.0/1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse_network(text).map(|net| net.to_string()).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn faults_of_networks() {
        for (text, error) in [
            ("", PrefixError::Malformed),
            ("10.77.0/24", PrefixError::Malformed),
            ("10.77.0.0/", PrefixError::Malformed),
            ("10.77.0.0/+8", PrefixError::Malformed),
            ("10.77.0.0/255.255.255.0", PrefixError::Malformed),
            ("10.77.0.0/24/24", PrefixError::Malformed),
            ("10.77.0.0/33", PrefixError::Length(32)),
            ("10.77.0.0/999", PrefixError::Length(32)),
            ("fd77::/129", PrefixError::Length(128)),
            ("::ffff:10.0.0.0/104", PrefixError::Mapped),
            ("0.0.0.0", PrefixError::Unspecified),
            ("127.0.0.0/8", PrefixError::Loopback),
            ("::1", PrefixError::Loopback),
            ("224.0.0.0/4", PrefixError::Multicast),
            ("ff00::/8", PrefixError::Multicast),
        ] {
            assert_eq!(parse_network(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_wireguard_takes_beyond() {
        for (text, expected) in [
            ("224.0.0.0/4", Ok("224.0.0.0/4")),
            ("ff02::fb", Ok("ff02::fb/128")),
            ("255.255.255.255", Ok("255.255.255.255/32")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::1/1", Ok("::/1")),
            ("10.42.7.9/08", Ok("10.0.0.0/8")),
            ("0.0.0.0", Err(PrefixError::Unspecified)),
            ("127.0.0.0/8", Err(PrefixError::Loopback)),
            ("+10.0.0.0/8", Err(PrefixError::Malformed)),
        ] {
            let found = parse_wireguard_network(text).map(|net| net.to_string());
            assert_eq!(found.as_deref().map_err(|error| *error), expected, "{text}");
        }
        for (text, expected) in [
            ("10.0.0.2", Ok("10.0.0.2/32")),
            ("fd00::2", Ok("fd00::2/128")),
            ("10.0.0.0/24", Ok("10.0.0.0/24")),
            ("0.0.0.0/0", Err(PrefixError::Unspecified)),
            ("ff02::1/64", Err(PrefixError::Multicast)),
        ] {
            let found = parse_address(text).map(|net| net.to_string());
            assert_eq!(found.as_deref().map_err(|error| *error), expected, "{text}");
        }
    }

    #[test]
    fn hosts_are_hosts() {
        for (text, expected) in [
            ("10.77.0.1/24", Ok("10.77.0.1/24")),
            ("10.77.0.0/31", Ok("10.77.0.0/31")),
            ("10.77.0.0/32", Ok("10.77.0.0/32")),
            ("fd77::1/64", Ok("fd77::1/64")),
            ("10.77.0.1", Err(PrefixError::NoLength)),
            ("10.77.0.0/24", Err(PrefixError::Network)),
            ("10.77.0.255/24", Err(PrefixError::Broadcast)),
            ("127.0.0.1/8", Err(PrefixError::Loopback)),
            ("0.0.0.0/24", Err(PrefixError::Unspecified)),
        ] {
            let found = parse_host(text).map(|net| net.to_string());
            assert_eq!(found.as_deref().map_err(|error| *error), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_prefix_or_an_error(text in "[0-9a-f:./]{0,40}|.*") {
            if let Ok(net) = parse_network(&text) {
                prop_assert_eq!(parse_network(&net.to_string()), Ok(net));
                prop_assert_eq!(net, net.trunc());
            }
            if let Ok(net) = parse_host(&text) {
                prop_assert_eq!(parse_host(&net.to_string()), Ok(net));
            }
        }
    }
}
