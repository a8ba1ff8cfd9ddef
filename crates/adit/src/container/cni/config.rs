//! The configuration that a runtime gives on standard input: what was written, and what it means.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::environment::{Arguments, Attachment};
use super::{Code, Error};
use crate::Directories;
use crate::container::Published;

/// The most bytes that are read.
pub(super) const MAX: usize = 1 << 20;

/// A link-layer address of a single device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no link-layer address of a container: {why}");
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
            *octet = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| wrong("write it as 02:00:00:00:00:01"))?;
        }
        if parts.next().is_some() {
            return Err(wrong("write it as 02:00:00:00:00:01"));
        }
        if octets[0] & 1 != 0 || octets == [0; 6] {
            return Err(wrong("it stands for many, or for none"));
        }
        Ok(Self(octets))
    }
}

/// What containers are told of name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of servers, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nameservers: Option<Vec<String>>,
    /// The domain of short names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains in which short names are looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
}

/// Which network of which node: all that taking an attachment away needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    /// What the runtime calls it.
    pub(super) name: String,
    /// The device of the node.
    pub(super) device: String,
    /// Where the node keeps what it knows.
    pub(super) directories: Directories,
}

/// What an attachment is to be like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wishes {
    /// Whether all that is nowhere else goes to the network; else only what belongs to it.
    pub(super) default_route: bool,
    /// Whether it may speak to no other isolated container of this host.
    pub(super) isolated: bool,
    /// The largest packet, if not that of the node.
    pub(super) mtu: Option<u32>,
    /// What to tell of name servers; none: what the node says.
    pub(super) dns: Option<Dns>,
    /// The addresses that are wanted, each with its prefix length if that was said.
    pub(super) ips: Vec<(IpAddr, Option<u8>)>,
    /// The link-layer address that is wanted.
    pub(super) mac: Option<Mac>,
    /// Ports of the host that are to lead to it.
    pub(super) ports: Vec<Published>,
    /// The name under which others are to find it.
    pub(super) name: Option<String>,
}

/// As it was written. What we do not know is passed over, as other plugins of the chain may want it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNetwork {
    name: Option<String>,
    device: Option<String>,
    runtime_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawWishes {
    is_default_gateway: Option<bool>,
    port_isolation: Option<bool>,
    mtu: Option<u32>,
    dns: Option<Dns>,
    ipam: Option<Value>,
    ip_masq: Option<Value>,
    args: Option<RawArgs>,
    runtime_config: Option<RawRuntime>,
}

#[derive(Debug, Default, Deserialize)]
struct RawArgs {
    cni: Option<RawCniArgs>,
}

#[derive(Debug, Default, Deserialize)]
struct RawCniArgs {
    ips: Option<Vec<String>>,
    mac: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRuntime {
    port_mappings: Option<Vec<RawPort>>,
    ips: Option<Vec<String>>,
    mac: Option<String>,
    aliases: Option<Value>,
    dns: Option<RawServers>,
    bandwidth: Option<Value>,
    ip_ranges: Option<Value>,
    #[serde(rename = "infinibandGUID")]
    infiniband_guid: Option<Value>,
    #[serde(rename = "deviceID")]
    device_id: Option<Value>,
}

/// containerd writes capital letters in these, since plugins in Go take them for the same.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(alias = "HostPort")]
    host_port: i64,
    #[serde(alias = "ContainerPort")]
    container_port: i64,
    #[serde(alias = "Protocol")]
    protocol: Option<String>,
    #[serde(rename = "hostIP", alias = "HostIP")]
    host_ip: Option<String>,
}

/// The capability `dns`, whose words are not those of the configuration; containerd begins them with capitals too.
#[derive(Debug, Deserialize)]
struct RawServers {
    #[serde(alias = "Servers")]
    servers: Option<Vec<String>>,
    #[serde(alias = "Searches")]
    searches: Option<Vec<String>>,
    #[serde(alias = "Options")]
    options: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawPrevious {
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
}

#[derive(Deserialize)]
struct RawValid {
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

/// Sees that it is JSON, and nothing in it nested deeper than its reader goes, also in what nobody here reads.
///
/// # Errors
/// As [`decode`].
pub(super) fn check(text: &[u8]) -> Result<(), Error> {
    decode::<Value>(text).map(drop)
}

/// Reads a part of the configuration.
///
/// # Errors
/// It is no JSON, nested too deep, or a value is of another type.
pub(super) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|e| {
        let details = format!("the network configuration on standard input cannot be read: {e}");
        Error::new(Code::Decode, details)
    })
}

fn invalid(details: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfiguration, details)
}

/// Which network is meant.
///
/// # Errors
/// There is no name, or a word has a form that leads astray.
pub(super) fn network(text: &[u8]) -> Result<Network, Error> {
    let raw: RawNetwork = decode(text)?;
    let name = raw.name.unwrap_or_default();
    if !is_identifier(&name) {
        let details = format!(
            "the name of the network is {name:?}; it has to begin with a letter or digit, and go on with letters, digits, '_', '.' and '-'"
        );
        return Err(invalid(details));
    }
    let device = raw.device.unwrap_or_else(|| "adit0".into());
    if !linux::netlink::is_valid_name(&device) {
        return Err(invalid(format!(
            "device is {device:?}, which is no name of a device; `adit status` shows that of this node"
        )));
    }
    let defaults = Directories::default();
    let directories = Directories {
        runtime: absolute("runtimeDir", raw.runtime_dir, defaults.runtime)?,
        state: absolute("stateDir", raw.state_dir, defaults.state)?,
        wireguard: defaults.wireguard,
    };
    Ok(Network { name, device, directories })
}

/// A directory as it was given: whoever calls us works in a directory of its own.
fn absolute(key: &str, path: Option<PathBuf>, default: PathBuf) -> Result<PathBuf, Error> {
    match path {
        None => Ok(default),
        Some(path) if path.is_absolute() => Ok(path),
        Some(path) => Err(invalid(format!("{key} is {path:?}; write the whole path, from / on"))),
    }
}

/// What an attachment to this network is to be like.
///
/// # Errors
/// It cannot be had.
pub(super) fn wishes(text: &[u8], network: &Network, arguments: Arguments) -> Result<Wishes, Error> {
    let raw: RawWishes = decode(text)?;
    refuse_ipam(raw.ipam)?;
    if let Some(value) = raw.ip_masq {
        let details = "whether the network is masqueraded is the node's to say: leave the key out here, and set `ip-masq` in the node's configuration";
        return Err(Error::unsupported("ipMasq", &value, details));
    }
    let runtime = raw.runtime_config.unwrap_or_default();
    for (capability, value, instead) in [
        ("bandwidth", runtime.bandwidth, "chain the plugin bandwidth behind this one, with that capability"),
        ("ipRanges", runtime.ip_ranges, "addresses are those of the node's subnet"),
        ("infinibandGUID", runtime.infiniband_guid, "devices are Ethernet here"),
        ("deviceID", runtime.device_id, "devices are made here"),
    ] {
        if let Some(value) = value {
            let key = format!("runtimeConfig.{capability}");
            return Err(Error::unsupported(
                &key,
                &value,
                format!("take the capability {capability} away from this plugin: {instead}"),
            ));
        }
    }
    let args = raw.args.and_then(|args| args.cni).unwrap_or_default();
    // The deprecated variable counts only if nothing else says the same (CONVENTIONS.md of the specification).
    let ips = match runtime.ips.or(args.ips).filter(|ips| !ips.is_empty()) {
        Some(ips) => ips.iter().map(|ip| wanted(ip)).collect::<Result<_, _>>().map_err(invalid)?,
        None => arguments.ips,
    };
    let mac = match runtime.mac.or(args.mac).filter(|mac| !mac.is_empty()) {
        Some(mac) => Some(mac.parse().map_err(invalid)?),
        None => arguments.mac,
    };
    let servers = runtime.dns.map(|dns| Dns {
        nameservers: dns.servers,
        domain: None,
        search: dns.searches,
        options: dns.options,
    });
    Ok(Wishes {
        default_route: raw.is_default_gateway.unwrap_or(true),
        isolated: raw.port_isolation.unwrap_or(false),
        mtu: raw.mtu.filter(|mtu| *mtu != 0),
        dns: servers.or(raw.dns).filter(|dns| *dns != Dns::default()),
        ips,
        mac,
        ports: runtime.port_mappings.unwrap_or_default().iter().map(published).collect::<Result<_, _>>()?,
        name: arguments.name.or_else(|| runtime.aliases.as_ref().and_then(|aliases| alias(aliases, &network.name))),
    })
}

/// Addresses come from the node's lease, by no other plugin.
fn refuse_ipam(ipam: Option<Value>) -> Result<(), Error> {
    match ipam {
        None => Ok(()),
        Some(Value::Object(keys)) if keys.is_empty() => Ok(()),
        Some(ipam) => {
            let kind = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
            let details = format!(
                "ipam is given ({kind:?}), but adit gives the addresses of its subnet itself: take ipam away, or use the plugin bridge with the subnet of \
                 /run/adit/subnet.env"
            );
            Err(invalid(details))
        }
    }
}

/// The first alias that can be a name. They are a list, or, as Podman gives them, lists by network.
fn alias(aliases: &Value, network: &str) -> Option<String> {
    let list = if aliases.is_object() { aliases.get(network)? } else { aliases };
    list.as_array()?.iter().filter_map(Value::as_str).find_map(label)
}

fn published(port: &RawPort) -> Result<Published, Error> {
    let number = |key: &str, number: i64| {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| invalid(format!("{key} is {number}; a port is a number from 1 to 65535")))
    };
    let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty());
    let ip = ip.map(|ip| ip.parse::<IpAddr>().map_err(|_| invalid(format!("hostIP is {ip:?}, which is no address"))));
    let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("tcp");
    Ok(Published {
        ip: ip.transpose()?.filter(|ip| !ip.is_unspecified()),
        host: number("hostPort", port.host_port)?,
        container: number("containerPort", port.container_port)?,
        protocol: protocol.parse().map_err(Error::of)?,
    })
}

/// The result of the plugins before us, or of the whole ADD.
///
/// # Errors
/// It is no JSON.
pub(super) fn previous(text: &[u8]) -> Result<Option<Value>, Error> {
    Ok(decode::<RawPrevious>(text)?.previous)
}

/// The attachments that GC is to leave.
///
/// # Errors
/// They are not said: then nothing may be taken away.
pub(super) fn valid(text: &[u8]) -> Result<Vec<Attachment>, Error> {
    let valid = decode::<RawValid>(text)?.valid.ok_or_else(|| {
        invalid("cni.dev/valid-attachments is not there, so nothing is taken away; the runtime has to say which attachments are to stay")
    })?;
    Ok(valid.into_iter().map(|raw| Attachment { container: raw.container, interface: raw.interface }).collect())
}

/// An address as it is asked for, with or without its prefix length.
pub(super) fn wanted(text: &str) -> Result<(IpAddr, Option<u8>), String> {
    let wrong = || format!("{text:?} is no address; write it as 10.42.7.9 or 10.42.7.9/24");
    let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.map(|length| length.parse::<u8>().ok().filter(|length| *length <= most).ok_or_else(wrong));
    Ok((ip, length.transpose()?))
}

/// The form of container ids and of network names.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// A name as names have it (RFC 1123): what is none in any case of letters has no name, which is no error.
pub(super) fn label(text: &str) -> Option<String> {
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    is_label.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
