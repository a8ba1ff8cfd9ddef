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
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) span: Range<usize>,
    pub(super) name: Text,
    pub(super) public_key: Text,
    pub(super) endpoint: Text,
    pub(super) allowed_ips: Texts,
    pub(super) transport: Text,
    pub(super) preshared_key_file: Text,
    pub(super) keepalive: Text,
}

/// Where each key lives, to help whoever wrote it into another section.
const HOMES: &[(&str, &[&str])] = &[
    ("[device]", &["mode", "addresses", "mtu", "private-key-file", "wireguard-private-key-file", "table", "dns"]),
    ("[transport]", &["listen", "workers", "offload", "busy-poll", "fwmark"]),
    ("[[peer]]", &["public-key", "endpoint", "allowed-ips", "preshared-key-file", "keepalive"]),
];

fn home(key: &str) -> Option<&'static str> {
    HOMES.iter().find(|(_, keys)| keys.contains(&key)).map(|(section, _)| *section)
}

impl Tunnel {
    /// Reads a document.
    pub(super) fn read(document: &Document) -> Result<Self, Error> {
        let mut top = document.parse()?;
        if let Some(section) = top.table("network", "[network]")? {
            return Err(document.error(
                &section.span(),
                "[network] is not in this version yet: remove it, and write each peer as [[peer]]",
            ));
        }
        let device = top.table("device", "[device]")?.map(Device::read).transpose()?.unwrap_or_default();
        let transport = top.table("transport", "[transport]")?.map(Transport::read).transpose()?.unwrap_or_default();
        let peers = top.tables("peer", "[[peer]]")?.into_iter().map(Peer::read).collect::<Result<_, _>>()?;
        top.finish(home)?;
        Ok(Self { device, transport, peers })
    }
}

impl Device {
    fn read(mut section: Section<'_>) -> Result<Self, Error> {
        let device = Self {
            span: section.span(),
            name: section.string("name", "a string such as \"adit0\"")?,
            mode: section.string("mode", "\"tun\"")?,
            addresses: section.strings("addresses", "a list of strings such as [\"10.77.0.1/24\"]")?,
            mtu: section.word_or_number("mtu", "\"auto\" or a number of bytes")?,
            private_key_file: section.string("private-key-file", "a string, the path of a file")?,
            wireguard_private_key_file: section.string("wireguard-private-key-file", "a string, the path of a file")?,
            table: section.word_or_number("table", "\"auto\", \"off\" or a number")?,
            dns: section.strings("dns", "a list of strings such as [\"10.0.0.53\", \"example.org\"]")?,
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
        };
        section.finish(home)?;
        Ok(peer)
    }
}
