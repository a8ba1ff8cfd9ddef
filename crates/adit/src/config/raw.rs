//! What was written in a configuration file: the right keys with the right types, and not a word about their meaning.

use std::ops::Range;

use super::{
    document::{Document, Located, Section, WordOrNumber},
    error::Error,
};

pub(super) type Text = Option<Located<String>>;
pub(super) type Texts = Option<Located<Vec<Located<String>>>>;

/// A whole file.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) device: Device,
    pub(super) transport: Transport,
    pub(super) peers: Vec<Peer>,
    pub(super) network: Option<Network>,
    pub(super) observe: Observe,
    pub(super) switch: Switch,
}

/// `[device]`
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) span: Range<usize>,
    pub(super) name: Text,
    pub(super) mode: Text,
    pub(super) addresses: Texts,
    pub(super) mtu: Option<Located<WordOrNumber>>,
    pub(super) private_key_file: Text,
    pub(super) wireguard_private_key_file: Text,
    pub(super) table: Option<Located<WordOrNumber>>,
    pub(super) dns: Texts,
    pub(super) bridge: Text,
    pub(super) reserve: Texts,
}

/// `[transport]`
#[derive(Debug, Default)]
pub(super) struct Transport {
    pub(super) listen: Text,
    pub(super) workers: Option<Located<WordOrNumber>>,
    pub(super) offload: Option<Located<bool>>,
    pub(super) busy_poll: Text,
    pub(super) fwmark: Option<Located<WordOrNumber>>,
}

/// `[[peer]]`
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) span: Range<usize>,
    pub(super) name: Text,
    pub(super) public_key: Text,
    pub(super) endpoint: Text,
    pub(super) allowed_ips: Texts,
    pub(super) transport: Text,
    pub(super) preshared_key_file: Text,
    pub(super) keepalive: Text,
    pub(super) macs: Texts,
}

/// `[network]`
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) span: Range<usize>,
    pub(super) registry: Texts,
    pub(super) node_name: Text,
    pub(super) prefix: Text,
    pub(super) public_ip: Texts,
    pub(super) interface: Text,
    pub(super) lease_ttl: Text,
    pub(super) bridge: Text,
    pub(super) domain: Text,
    pub(super) tls_ca: Text,
    pub(super) tls_cert: Text,
    pub(super) tls_key: Text,
    pub(super) user: Text,
    pub(super) password_file: Text,
    pub(super) secret_file: Text,
    pub(super) plain: Option<Located<bool>>,
    pub(super) plain_from: Texts,
    pub(super) ip_masq: Option<Located<bool>>,
    pub(super) forward_rules: Option<Located<bool>>,
    pub(super) subnet_files: Texts,
    pub(super) registry_listen: Text,
}

/// `[observe]`
#[derive(Debug, Default)]
pub(super) struct Observe {
    pub(super) listen: Text,
    pub(super) allow: Texts,
}

/// `[switch]`
#[derive(Debug, Default)]
pub(super) struct Switch {
    pub(super) span: Range<usize>,
    pub(super) age: Text,
    pub(super) macs_per_peer: Option<Located<WordOrNumber>>,
    pub(super) storm_limit: Option<Located<WordOrNumber>>,
    pub(super) stp: Option<Located<bool>>,
    pub(super) suppress: Option<Located<bool>>,
}

/// Where each key lives, to help whoever wrote it into another section.
const HOMES: &[(&str, &[&str])] = &[
    (
        "[device]",
        &["mode", "addresses", "mtu", "private-key-file", "wireguard-private-key-file", "table", "dns", "reserve"],
    ),
    ("[transport]", &["listen", "workers", "offload", "busy-poll", "fwmark"]),
    ("[[peer]]", &["public-key", "endpoint", "allowed-ips", "preshared-key-file", "keepalive", "macs"]),
    (
        "[network]",
        &[
            "registry",
            "node-name",
            "prefix",
            "public-ip",
            "interface",
            "lease-ttl",
            "bridge",
            "domain",
            "tls-ca",
            "tls-cert",
            "tls-key",
            "user",
            "password-file",
            "secret-file",
            "plain",
            "plain-from",
            "ip-masq",
            "forward-rules",
            "subnet-files",
            "registry-listen",
        ],
    ),
    ("[observe]", &["allow"]),
    ("[switch]", &["age", "macs-per-peer", "storm-limit", "stp", "suppress"]),
];

fn home(key: &str) -> Option<&'static str> {
    HOMES.iter().find(|(_, keys)| keys.contains(&key)).map(|(section, _)| *section)
}

impl Tunnel {
    /// Reads a document.
    pub(super) fn read(document: &Document) -> Result<Self, Error> {
        let mut top = document.parse()?;
        let device = top.table("device", "[device]")?.map(Device::read).transpose()?.unwrap_or_default();
        let transport = top.table("transport", "[transport]")?.map(Transport::read).transpose()?.unwrap_or_default();
        let peers = top.tables("peer", "[[peer]]")?.into_iter().map(Peer::read).collect::<Result<_, _>>()?;
        let network = top.table("network", "[network]")?.map(Network::read).transpose()?;
        let observe = top.table("observe", "[observe]")?.map(Observe::read).transpose()?.unwrap_or_default();
        let switch = top.table("switch", "[switch]")?.map(Switch::read).transpose()?.unwrap_or_default();
        top.finish(home)?;
        Ok(Self { device, transport, peers, network, observe, switch })
    }
}

impl Device {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        let device = Self {
            span: section.span(),
            name: section.string("name", "a string such as \"adit0\"")?,
            mode: section.string("mode", "\"tun\" or \"tap\"")?,
            addresses: section.strings("addresses", "a list of strings such as [\"10.77.0.1/24\"]")?,
            mtu: section.word_or_number("mtu", "\"auto\" or a number of bytes")?,
            private_key_file: section.string("private-key-file", "a string, the path of a file")?,
            wireguard_private_key_file: section.string("wireguard-private-key-file", "a string, the path of a file")?,
            table: section.word_or_number("table", "\"auto\", \"off\" or a number")?,
            dns: section.strings("dns", "a list of strings such as [\"10.0.0.53\", \"example.org\"]")?,
            bridge: section.string("bridge", "a string such as \"br0\"")?,
            reserve: section.strings("reserve", "a list of strings such as [\"10.77.0.64/26\"]")?,
        };
        section.finish(home)?;
        Ok(device)
    }
}

impl Transport {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        let transport = Self {
            listen: section.string("listen", "a string such as \"[::]:7777\"")?,
            workers: section.word_or_number("workers", "\"auto\" or a number")?,
            offload: section.boolean("offload")?,
            busy_poll: section.string("busy-poll", "a string such as \"50us\"")?,
            fwmark: section.word_or_number("fwmark", "a number such as 51820, or \"off\"")?,
        };
        section.finish(home)?;
        Ok(transport)
    }
}

impl Peer {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        let peer = Self {
            span: section.span(),
            name: section.string("name", "a string such as \"berlin\"")?,
            public_key: section.string("public-key", "a string, the key in base64")?,
            endpoint: section.string("endpoint", "a string such as \"192.0.2.2:7777\"")?,
            allowed_ips: section.strings("allowed-ips", "a list of strings such as [\"10.77.0.2/32\"]")?,
            transport: section.string("transport", "a string such as \"sealed\"")?,
            preshared_key_file: section.string("preshared-key-file", "a string, the path of a file")?,
            keepalive: section.string("keepalive", "a string such as \"25s\"")?,
            macs: section.strings("macs", "a list of strings such as [\"52:54:00:12:34:56\"]")?,
        };
        section.finish(home)?;
        Ok(peer)
    }
}

impl Network {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        const FILE: &str = "a string, the path of a file";
        let network = Self {
            span: section.span(),
            registry: section.string_or_strings(
                "registry",
                "\"embedded\", a URL such as \"https://192.0.2.1:2379\", or a list of URLs",
            )?,
            node_name: section.string("node-name", "a string such as \"berlin\"")?,
            prefix: section.string("prefix", "a string such as \"/coreos.com/network\"")?,
            public_ip: section.string_or_strings("public-ip", "\"auto\", an address, or a list of addresses")?,
            interface: section.string("interface", "a string such as \"eth0\"")?,
            lease_ttl: section.string("lease-ttl", "a string such as \"24h\"")?,
            bridge: section.string("bridge", "a string such as \"adit-br0\"")?,
            domain: section.string("domain", "a string such as \"adit\"")?,
            tls_ca: section.string("tls-ca", FILE)?,
            tls_cert: section.string("tls-cert", FILE)?,
            tls_key: section.string("tls-key", FILE)?,
            user: section.string("user", "a string such as \"adit\"")?,
            password_file: section.string("password-file", FILE)?,
            secret_file: section.string("secret-file", FILE)?,
            plain: section.boolean("plain")?,
            plain_from: section.strings("plain-from", "a list of strings such as [\"192.0.2.0/24\"]")?,
            ip_masq: section.boolean("ip-masq")?,
            forward_rules: section.boolean("forward-rules")?,
            subnet_files: section.strings("subnet-files", "a list of strings such as [\"/run/flannel/subnet.env\"]")?,
            registry_listen: section.string("registry-listen", "a string such as \"[::]:7780\"")?,
        };
        section.finish(home)?;
        Ok(network)
    }
}

impl Switch {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        let switch = Self {
            span: section.span(),
            age: section.string("age", "a string such as \"5m\"")?,
            macs_per_peer: section.word_or_number("macs-per-peer", "a number of addresses")?,
            storm_limit: section.word_or_number("storm-limit", "a number of frames per second")?,
            stp: section.boolean("stp")?,
            suppress: section.boolean("suppress")?,
        };
        section.finish(home)?;
        Ok(switch)
    }
}

impl Observe {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        let observe = Self {
            listen: section.string("listen", "a string such as \"127.0.0.1:7790\"")?,
            allow: section.strings("allow", "a list of strings such as [\"trace\", \"bench\"]")?,
        };
        section.finish(home)?;
        Ok(observe)
    }
}
