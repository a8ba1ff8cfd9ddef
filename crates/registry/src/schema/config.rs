//! The network configuration: where subnets are given out, and how packets travel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use super::go::{self, Fields};
use super::{JsonError, Subnets};

/// The port of flannel's udp, if its configuration names none.
pub const FLANNEL_PORT: u16 = 8285;

/// Why a network configuration cannot be used, as the end of a sentence that began with where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not an object, or with fields of other types.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Both families are off.
    #[error("switches both IPv4 and IPv6 off")]
    NoFamily,
    /// A family is on and has no network.
    #[error("has no \"{0}\": write one, such as \"Network\":\"10.42.0.0/16\"")]
    NoNetwork(&'static str),
    /// A network, or an end of its range, is not written as one.
    #[error("has a \"{field}\" {text:?} that is not {expected}")]
    Malformed {
        /// Which field.
        field: &'static str,
        /// What stands there.
        text: String,
        /// What should.
        expected: &'static str,
    },
    /// Loopback, multicast, unspecified, or everything there is.
    #[error("has the network {0}, in which no host can be")]
    Special(IpNet),
    /// A subnet has no room for a device, a bridge and a container.
    #[error("has subnets of length /{len}: /{longest} is the longest of use")]
    SubnetTooLong {
        /// Of the subnets.
        len: u8,
        /// 30 or 126.
        longest: u8,
    },
    /// Fewer than four subnets fit; the first of them is not used.
    #[error("has the network {network} for subnets of length /{len}: it must have room for four of them")]
    TooFew {
        /// The network.
        network: IpNet,
        /// Of the subnets.
        len: u64,
    },
    /// No length was given, and the network is too small for one to be chosen.
    #[error("has the network {0}, which is too small")]
    TooSmall(IpNet),
    /// An end of the range is outside of the network.
    #[error("has a \"{field}\" {address} that is not in {network}")]
    Outside {
        /// Which end.
        field: &'static str,
        /// Where it is.
        address: IpAddr,
        /// Where it should be.
        network: IpNet,
    },
    /// An end of the range is no network of the subnets' length.
    #[error("has a \"{field}\" {address} that is not the beginning of a /{len}")]
    Unaligned {
        /// Which end.
        field: &'static str,
        /// Where it is.
        address: IpAddr,
        /// Of the subnets.
        len: u8,
    },
    /// The range ends before it begins.
    #[error("has a range of subnets that ends at {max}, before it begins at {min}")]
    Reversed {
        /// The first.
        min: IpAddr,
        /// The last.
        max: IpAddr,
    },
    /// There is a backend without a type.
    #[error("has a \"Backend\" without a \"Type\": write one, such as \"Backend\":{{\"Type\":\"adit\"}}")]
    NoBackendType,
    /// The port of flannel's udp is none.
    #[error("has a \"Port\" that is not a number from 1 to 65535")]
    Port,
}

/// Where the subnets of one family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// All of them, and what is never given out.
    pub network: IpNet,
    /// The prefix length of each.
    pub subnet_len: u8,
    /// The first address of the first one.
    pub min: IpAddr,
    /// The first address of the last one.
    pub max: IpAddr,
}

/// How packets travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Ours: records are signed and packets are sealed.
    Adit,
    /// flannel's: raw IPv4 packets in UDP.
    Udp {
        /// The port of every node.
        port: u16,
    },
    /// Another one of flannel's, in lower case: not spoken here.
    Other(String),
}

impl Backend {
    /// The port of every node, where they all have the same.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Udp { port } => Some(*port),
            Self::Adit | Self::Other(_) => None,
        }
    }
}

/// The configuration of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Of IPv4, unless that is off.
    pub v4: Option<Pool>,
    /// Of IPv6, if that is on.
    pub v6: Option<Pool>,
    /// How packets travel.
    pub backend: Backend,
    /// Whether it says so: without a word flannel takes udp, which an adit node does only if it is told to.
    pub backend_is_written: bool,
}

/// What differs between the families.
struct Family {
    network: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
    bits: u8,
    longest: u8,
    /// The smallest network that is large enough for `preferred`.
    roomy: u8,
    preferred: u8,
    smallest: u8,
}

const V4: Family = Family {
    network: "Network",
    len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    bits: 32,
    longest: 30,
    roomy: 22,
    preferred: 24,
    smallest: 28,
};

const V6: Family = Family {
    network: "IPv6Network",
    len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    bits: 128,
    longest: 126,
    roomy: 62,
    preferred: 64,
    smallest: 124,
};

impl Pool {
    /// A pool with flannel's defaults for what is not given: subnets of /24 (IPv6: /64), or of two bits more than the network where
    /// that is small; all but the first one.
    ///
    /// # Errors
    /// [`ConfigError`], by flannel's rules.
    pub fn new(
        network: IpNet,
        len: Option<u64>,
        min: Option<IpAddr>,
        max: Option<IpAddr>,
    ) -> Result<Self, ConfigError> {
        let network = network.trunc();
        let family = Family::of(&network);
        let address = network.addr();
        if network.prefix_len() == 0 || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(ConfigError::Special(network));
        }
        let subnet_len = family.subnet_len(&network, len.filter(|len| *len != 0))?;
        let size = 1u128 << (family.bits - subnet_len);
        let first = number(network.addr());
        let last = number(network.broadcast()) & !(size - 1);
        let given = |address: Option<IpAddr>| address.filter(|address| !address.is_unspecified());
        let end = |field, address: IpAddr| {
            if !network.contains(&address) {
                return Err(ConfigError::Outside { field, address, network });
            }
            if number(address) & (size - 1) != 0 {
                return Err(ConfigError::Unaligned { field, address, len: subnet_len });
            }
            Ok(address)
        };
        let min = end(family.min, given(min).unwrap_or_else(|| family.address(first + size)))?;
        let max = end(family.max, given(max).unwrap_or_else(|| family.address(last)))?;
        if min > max {
            return Err(ConfigError::Reversed { min, max });
        }
        Ok(Self { network, subnet_len, min, max })
    }

    /// Whether this is one of the subnets that are given out.
    #[must_use]
    pub fn holds(&self, subnet: &IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len
            && subnet.addr() == subnet.network()
            && self.network.contains(subnet)
            && (self.min..=self.max).contains(&subnet.addr())
    }

    /// The subnets that are given out, in their order. There can be 2^125 of them.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + use<> {
        let Self { subnet_len, min, max, .. } = *self;
        let family = Family::of(&self.network);
        let size = 1u128 << (family.bits - subnet_len);
        let next = move |at: &u128| at.checked_add(size).filter(|at| *at <= number(max));
        std::iter::successors(Some(number(min)), next)
            .filter_map(move |at| IpNet::new(family.address(at), subnet_len).ok())
    }

    fn read(fields: &Fields, family: &Family) -> Result<Self, ConfigError> {
        let is_v4 = family.bits == 32;
        let expected = if is_v4 { "a network such as \"10.42.0.0/16\"" } else { "a network such as \"fd42::/48\"" };
        let malformed = |field, text: &str, expected| ConfigError::Malformed { field, text: short(text), expected };
        let Some(text) = fields.text(family.network, expected)?.filter(|text| !text.is_empty()) else {
            return Err(ConfigError::NoNetwork(family.network));
        };
        let network: IpNet = text.parse().map_err(|_| malformed(family.network, text, expected))?;
        if network.addr().is_ipv4() != is_v4 {
            return Err(malformed(family.network, text, expected));
        }
        let end = |field| {
            let expected = if is_v4 { "an IPv4 address" } else { "an IPv6 address" };
            let Some(text) = fields.text(field, expected)? else { return Ok(None) };
            match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == is_v4 => Ok(Some(address)),
                _ => Err(malformed(field, text, expected)),
            }
        };
        Self::new(network, fields.number(family.len)?, end(family.min)?, end(family.max)?)
    }

    /// Range and length as far as they are not the defaults.
    fn written(&self) -> (Option<IpAddr>, Option<IpAddr>, u8) {
        let usual = Self::new(self.network, Some(u64::from(self.subnet_len)), None, None).ok();
        let min = Some(self.min).filter(|min| usual.is_none_or(|usual| usual.min != *min));
        let max = Some(self.max).filter(|max| usual.is_none_or(|usual| usual.max != *max));
        (min, max, self.subnet_len)
    }
}

impl Family {
    fn of(network: &IpNet) -> &'static Self {
        if network.addr().is_ipv4() { &V4 } else { &V6 }
    }

    fn subnet_len(&self, network: &IpNet, len: Option<u64>) -> Result<u8, ConfigError> {
        let least = network.prefix_len() + 2;
        match len {
            Some(len) => {
                let short = u8::try_from(len).unwrap_or(u8::MAX);
                if short > self.longest {
                    return Err(ConfigError::SubnetTooLong { len: short, longest: self.longest });
                }
                if short < least {
                    return Err(ConfigError::TooFew { network: *network, len });
                }
                Ok(short)
            }
            None if network.prefix_len() > self.smallest => Err(ConfigError::TooSmall(*network)),
            None if network.prefix_len() <= self.roomy => Ok(self.preferred),
            None => Ok(least),
        }
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.bits == 32 { Ipv4Addr::from_bits(number as u32).into() } else { Ipv6Addr::from_bits(number).into() }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// As much of a text as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Backend {
    fn read(value: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::of(value).ok_or(ConfigError::NoBackendType)?;
        let kind = fields.text("Type", "a text")?.unwrap_or_default().to_lowercase();
        match kind.as_str() {
            "" => Err(ConfigError::NoBackendType),
            "adit" => Ok(Self::Adit),
            "udp" => {
                let port = fields.number("Port").map_err(|_| ConfigError::Port)?.unwrap_or(FLANNEL_PORT.into());
                match u16::try_from(port) {
                    Ok(port) if port != 0 => Ok(Self::Udp { port }),
                    _ => Err(ConfigError::Port),
                }
            }
            other => Ok(Self::Other(short(other))),
        }
    }
}

#[derive(Serialize)]
struct WrittenBackend<'a> {
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "Port", skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// In the order of flannel's own.
#[derive(Default, Serialize)]
struct Written<'a> {
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    enable_v4: Option<bool>,
    #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
    enable_v6: Option<bool>,
    #[serde(rename = "Network", skip_serializing_if = "Option::is_none")]
    v4: Option<IpNet>,
    #[serde(rename = "IPv6Network", skip_serializing_if = "Option::is_none")]
    v6: Option<IpNet>,
    #[serde(rename = "SubnetMin", skip_serializing_if = "Option::is_none")]
    v4_min: Option<IpAddr>,
    #[serde(rename = "SubnetMax", skip_serializing_if = "Option::is_none")]
    v4_max: Option<IpAddr>,
    #[serde(rename = "IPv6SubnetMin", skip_serializing_if = "Option::is_none")]
    v6_min: Option<IpAddr>,
    #[serde(rename = "IPv6SubnetMax", skip_serializing_if = "Option::is_none")]
    v6_max: Option<IpAddr>,
    #[serde(rename = "SubnetLen", skip_serializing_if = "Option::is_none")]
    v4_len: Option<u8>,
    #[serde(rename = "IPv6SubnetLen", skip_serializing_if = "Option::is_none")]
    v6_len: Option<u8>,
    #[serde(rename = "Backend", skip_serializing_if = "Option::is_none")]
    backend: Option<WrittenBackend<'a>>,
}

impl NetworkConfig {
    /// Reads `<prefix>/config`.
    ///
    /// # Errors
    /// [`ConfigError`], by flannel's rules and two of ours: a backend without a type, and a range that ends before it begins, are
    /// errors here already.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let fields = Fields::parse(text)?;
        let pool = |on, family| if on { Pool::read(&fields, family).map(Some) } else { Ok(None) };
        let v4 = pool(fields.switch("EnableIPv4", true)?, &V4)?;
        let v6 = pool(fields.switch("EnableIPv6", false)?, &V6)?;
        if v4.is_none() && v6.is_none() {
            return Err(ConfigError::NoFamily);
        }
        let written = fields.written("Backend");
        let backend = written.map_or(Ok(Backend::Udp { port: FLANNEL_PORT }), Backend::read)?;
        Ok(Self { v4, v6, backend, backend_is_written: written.is_some() })
    }

    /// The JSON of it, which comes back by [`parse`](Self::parse), and which flannel reads.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let backend = match &self.backend {
            Backend::Adit => WrittenBackend { kind: "adit", port: None },
            Backend::Udp { port } => WrittenBackend { kind: "udp", port: Some(*port) },
            Backend::Other(kind) => WrittenBackend { kind, port: None },
        };
        let mut written = Written {
            enable_v4: self.v4.is_none().then_some(false),
            enable_v6: self.v6.is_some().then_some(true),
            backend: self.backend_is_written.then_some(backend),
            ..Written::default()
        };
        if let Some(pool) = &self.v4 {
            let (min, max, len) = pool.written();
            (written.v4, written.v4_min, written.v4_max, written.v4_len) = (Some(pool.network), min, max, Some(len));
        }
        if let Some(pool) = &self.v6 {
            let (min, max, len) = pool.written();
            (written.v6, written.v6_min, written.v6_max, written.v6_len) = (Some(pool.network), min, max, Some(len));
        }
        go::write(&written)
    }

    /// The networks of both families, IPv4 first.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        [&self.v4, &self.v6].into_iter().flatten().map(|pool| pool.network).collect()
    }

    /// Whether a node may have these subnets: one of each family that there is, of the right length, in the range.
    #[must_use]
    pub fn permits(&self, subnets: &Subnets) -> bool {
        let fits = |pool: &Option<Pool>, subnet: Option<IpNet>| match (pool, subnet) {
            (Some(pool), Some(subnet)) => pool.holds(&subnet),
            (None, None) => true,
            _ => false,
        };
        let some = self.v4.is_some() || self.v6.is_some();
        some && fits(&self.v4, subnets.v4.map(IpNet::V4)) && fits(&self.v6, subnets.v6.map(IpNet::V6))
    }
}

#[cfg(test)]
mod tests;
