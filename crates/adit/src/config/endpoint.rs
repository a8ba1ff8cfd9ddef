//! Where a peer is: `192.0.2.2:7777`, `[2001:db8::2]:7777` or `berlin.example.org:7777`.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    str::FromStr,
};

/// Where a peer is: an address and port, or a name and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The UDP port, not 0.
    pub port: u16,
}

/// The host part of an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A unicast address; IPv4-mapped ones are written as IPv4.
    Address(IpAddr),
    /// A host name, lower case, to be resolved when it is needed.
    Name(String),
}

/// Why a text is not an endpoint, as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// `192.0.2.2`
    #[error("has no port: write host:port, such as \"192.0.2.2:7777\" or \"[2001:db8::2]:7777\"")]
    NoPort,
    /// `2001:db8::2:7777`
    #[error("is an IPv6 address without brackets: write [address]:port, such as \"[2001:db8::2]:7777\"")]
    NoBrackets,
    /// `192.0.2.2:http`, `192.0.2.2:0`
    #[error("needs a port from 1 to 65535")]
    Port,
    /// `[2001:db8::g]:7777`, `192.0.2.256:7777`
    #[error("has no valid address: write host:port, such as \"192.0.2.2:7777\" or \"[2001:db8::2]:7777\"")]
    Address,
    /// `ber lin:7777`
    #[error("has no valid host name: letters, digits, '-' and '.' only")]
    Name,
    /// `0.0.0.0:7777`
    #[error("is the unspecified address: write the address where the peer can be reached")]
    Unspecified,
    /// `224.0.0.1:7777`, `255.255.255.255:7777`
    #[error("is a multicast or broadcast address: write the peer's own address")]
    NotUnicast,
    /// `[fe80::1]:7777`
    #[error("is a link-local address, which means nothing without a card: write another address of the peer")]
    LinkLocal,
}

impl Endpoint {
    /// The socket address, if no name must be resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Address(address) => Some(SocketAddr::new(address, self.port)),
            Host::Name(_) => None,
        }
    }

    /// All addresses of the endpoint, in the resolver's order. Blocks while a name is resolved.
    ///
    /// # Errors
    /// What the resolver said.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Address(address) => Ok(vec![SocketAddr::new(*address, self.port)]),
            Host::Name(name) => Ok((name.as_str(), self.port).to_socket_addrs()?.collect()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(EndpointError::NoBrackets);
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        if text.ends_with(']') {
            return Err(EndpointError::NoPort);
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(EndpointError::NoBrackets);
        }
        let port = parse_port(port).ok_or(EndpointError::Port)?;
        let host = match bracketed {
            Some(address) => {
                let address: Ipv6Addr = address.parse().map_err(|_| EndpointError::Address)?;
                Host::Address(unicast(IpAddr::V6(address))?)
            }
            None => match host.parse::<IpAddr>() {
                Ok(address) => Host::Address(unicast(address)?),
                Err(_) => Host::Name(parse_name(host)?),
            },
        };
        Ok(Self { host, port })
    }
}

/// A port in plain digits, as `u16::from_str` would also take `+7777`.
fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

fn unicast(address: IpAddr) -> Result<IpAddr, EndpointError> {
    let address = address.to_canonical();
    if address.is_unspecified() {
        Err(EndpointError::Unspecified)
    } else if address.is_multicast() || address == IpAddr::from([255; 4]) {
        Err(EndpointError::NotUnicast)
    } else if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        Err(EndpointError::LinkLocal)
    } else {
        Ok(address)
    }
}

/// A host name (RFC 1123, section 2.1), and underscores, which resolvers take as well.
pub(super) fn parse_name(text: &str) -> Result<String, EndpointError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label_is_valid) {
        return Err(EndpointError::Name);
    }
    // No top-level domain is a number, so 192.0.2.256 is a mistyped address and not a name.
    if name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(EndpointError::Address);
    }
    Ok(name.to_ascii_lowercase())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => write!(f, "{}", SocketAddr::new(*address, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, EndpointError> {
        text.parse::<Endpoint>().map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn addresses_and_names() {
        for (text, shown) in [
            ("192.0.2.2:7777", "192.0.2.2:7777"),
            ("[2001:db8::2]:7777", "[2001:db8::2]:7777"),
            ("[2001:0DB8:0::2]:07777", "[2001:db8::2]:7777"),
            ("[::ffff:192.0.2.2]:1", "192.0.2.2:1"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("Berlin.Example.org:7777", "berlin.example.org:7777"),
            ("berlin.example.org.:7777", "berlin.example.org:7777"),
            ("db-1_a:7777", "db-1_a:7777"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn faults_have_their_own_names() {
        use EndpointError::*;
        for (text, error) in [
            ("", NoPort),
            ("192.0.2.2", NoPort),
            ("berlin", NoPort),
            ("[2001:db8::2]", NoPort),
            ("2001:db8::2", NoBrackets),
            ("2001:db8::2:7777", NoBrackets),
            ("2001:db8:0:0:0:0:0:2:7777", NoBrackets),
            ("192.0.2.2:", Port),
            ("192.0.2.2:0", Port),
            ("192.0.2.2:+7777", Port),
            ("192.0.2.2:65536", Port),
            ("192.0.2.256:7777", Address),
            ("[192.0.2.2]:7777", Address),
            ("[fe80::1%2]:7777", Address),
            (":7777", Name),
            ("ber lin:7777", Name),
            ("-berlin:7777", Name),
            ("a..b:7777", Name),
            ("bérlin:7777", Name),
            ("0.0.0.0:7777", Unspecified),
            ("[::]:7777", Unspecified),
            ("[::ffff:0.0.0.0]:7777", Unspecified),
            ("224.0.0.1:7777", NotUnicast),
            ("[ff02::1]:7777", NotUnicast),
            ("255.255.255.255:7777", NotUnicast),
            ("[fe80::1]:7777", LinkLocal),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_endpoint_or_an_error(text in ".*") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }

        #[test]
        fn what_is_shown_is_what_was_meant(address: std::net::IpAddr, port in 1_u16..) {
            if let Ok(address) = unicast(address) {
                let endpoint = Endpoint { host: Host::Address(address), port };
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }
    }
}
