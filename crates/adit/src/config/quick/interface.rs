//! `[Interface]`: the device, its key and its roads.

use std::{collections::HashSet, net::IpAddr, num::NonZero};

use ipnet::IpNet;

use super::{
    super::{
        document::{Document, Located},
        error::Error,
        prefix::parse_address,
        resolved::{Dns, Table},
        roads,
    },
    lines::{Block, Section},
    parts, refuse,
};
use crate::key::{PrivateKey, secret_from_text};

/// The section, all parts of it together.
pub(super) struct Interface {
    pub(super) private_key: PrivateKey,
    /// 0: the kernel chooses.
    pub(super) listen_port: u16,
    pub(super) fwmark: Option<NonZero<u32>>,
    pub(super) addresses: Vec<IpNet>,
    pub(super) dns: Dns,
    pub(super) mtu: Option<Located<i64>>,
    pub(super) table: Table,
}

impl Interface {
    /// Reads every `[Interface]` of the file. Of a key with one value, the last line counts; lists add up.
    pub(super) fn read(document: &Document, blocks: &[Block<'_>]) -> Result<Self, Error> {
        let sections: Vec<_> = blocks.iter().filter(|block| block.section == Section::Interface).collect();
        let Some(first) = sections.first() else {
            return Err(document.error_of_file("there is no [Interface]: write it, with PrivateKey = … below"));
        };
        let mut private_key = None;
        let (mut listen_port, mut fwmark, mut mtu, mut table) = (0, None, None, Table::Auto);
        let (mut addresses, mut dns) = (Vec::new(), Dns::default());
        let mut seen = HashSet::new();
        for entry in sections.iter().flat_map(|block| &block.entries) {
            let value = &entry.value;
            match entry.key.value {
                "PrivateKey" => private_key = Some(self::private_key(document, value)?),
                "ListenPort" => listen_port = self::listen_port(document, value)?,
                "FwMark" => fwmark = roads::mark(value.value).map_err(|fault| refuse(document, value, fault))?,
                "MTU" => mtu = Some(self::mtu(document, value)?),
                "Table" => table = roads::table(value.value).map_err(|fault| refuse(document, value, fault))?,
                "Address" => self::addresses(document, value, &mut addresses, &mut seen)?,
                "DNS" => self::dns(document, value, &mut dns)?,
                "SaveConfig" => save_config(document, value)?,
                hook => return Err(document.error(&entry.key.span, hook_sentence(hook))),
            }
        }
        let Some(private_key) = private_key else {
            let sentence = "[Interface] has no PrivateKey, without which no peer talks to us: write PrivateKey = … with \
                            what `wg genkey` or `adit keygen` prints";
            return Err(document.error(&first.span, sentence));
        };
        if dns.servers.is_empty() && !dns.domains.is_empty() {
            tracing::warn!(
                "{}: DNS names domains and no server, and means nothing so, as for wg-quick: add the address of a server",
                document.path.display()
            );
            dns = Dns::default();
        }
        Ok(Self { private_key, listen_port, fwmark, addresses, dns, mtu, table })
    }
}

fn private_key(document: &Document, value: &Located<&str>) -> Result<PrivateKey, Error> {
    secret_from_text(value.value).and_then(PrivateKey::from_bytes).map_err(|_| {
        let sentence =
            "PrivateKey is not a private key: write the 44 characters that `wg genkey` or `adit keygen` prints";
        document.error(&value.span, sentence)
    })
}

fn listen_port(document: &Document, value: &Located<&str>) -> Result<u16, Error> {
    let fault = "is not a UDP port: write a number from 1 to 65535, or remove the line for one that the kernel chooses";
    roads::decimal(value.value).and_then(|port| u16::try_from(port).ok()).ok_or_else(|| refuse(document, value, fault))
}

fn mtu(document: &Document, value: &Located<&str>) -> Result<Located<i64>, Error> {
    let number = roads::decimal(value.value).and_then(|number| i64::try_from(number).ok());
    let fault = "is not an MTU: write a number of bytes such as 1420, or remove the line";
    let value = number
        .ok_or_else(|| refuse(document, value, fault))
        .map(|number| Located { value: number, span: value.span.clone() });
    value
}

fn addresses(
    document: &Document,
    list: &Located<&str>,
    addresses: &mut Vec<IpNet>,
    seen: &mut HashSet<IpAddr>,
) -> Result<(), Error> {
    let texts = parts(document, list, |c| c == ',' || c.is_whitespace())?;
    if texts.is_empty() {
        return Err(document.error(&list.span, "Address is empty: write one such as 10.0.0.2/24, or remove the line"));
    }
    for text in texts {
        let net = parse_address(text.value).map_err(|fault| refuse(document, &text, fault))?;
        if !seen.insert(net.addr()) {
            return Err(refuse(document, &text, "is an address that the device has already: remove one of them"));
        }
        addresses.push(net);
    }
    Ok(())
}

fn dns(document: &Document, list: &Located<&str>, dns: &mut Dns) -> Result<(), Error> {
    let texts = parts(document, list, |c| c == ',' || c.is_whitespace())?;
    if texts.is_empty() {
        return Err(document.error(&list.span, "DNS is empty: write an address such as 10.0.0.53, or remove the line"));
    }
    for text in texts {
        roads::resolver(text.value, dns).map_err(|fault| refuse(document, &text, fault))?;
    }
    Ok(())
}

fn save_config(document: &Document, value: &Located<&str>) -> Result<(), Error> {
    if value.value.eq_ignore_ascii_case("false") {
        Ok(())
    } else if value.value.eq_ignore_ascii_case("true") {
        let sentence = "SaveConfig = true would have this file written anew on every stop, and adit never writes a \
                        configuration: write false or remove the line; `wg showconf` prints what is set";
        Err(document.error(&value.span, sentence))
    } else {
        Err(refuse(document, value, "is neither true nor false: write SaveConfig = false, or remove the line"))
    }
}

/// Why a command of the file is not run, and where it belongs.
fn hook_sentence(hook: &str) -> String {
    let unit = match hook {
        "PreUp" => "ExecStartPre",
        "PostUp" => "ExecStartPost",
        "PreDown" => "ExecStop",
        _ => "ExecStopPost",
    };
    format!(
        "{hook} is a command, and adit runs none from a configuration: remove the line, and write the command into a script around \
         `adit up`, or as {unit}= into the unit that starts it"
    )
}
