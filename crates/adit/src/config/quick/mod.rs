//! wg-quick files, as they are: what wg-quick(8) and wg(8) take, with the same meaning and the same defaults.
//!
//! | file | step |
//! |---|---|
//! | `lines.rs` | text → sections of keys and values that know their place |
//! | `interface.rs` | `[Interface]` |
//! | `peers.rs` | `[Peer]`, and what only shows across peers |
//!
//! Where the two programs would run a command of the file, or write the file anew, we refuse it with a sentence. No error shows a
//! value that could be a key: the text has them in it, and is erased when it was read.

mod interface;
mod lines;
mod peers;

use std::{
    fmt::Display,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

pub(super) use lines::is_wg_quick;

use super::{
    document::{Document, Located},
    error::{Error, quoted},
    names, resolve,
    resolved::{Device, Mtu, Transport, Tunnel, Workers},
};
use crate::key::TEXT_LENGTH;

/// Resolves a whole file.
pub(super) fn tunnel(document: &Document) -> Result<Tunnel, Error> {
    let name = device_name(&document.path)?;
    let blocks = lines::read(document)?;
    let interface = interface::Interface::read(document, &blocks)?;
    let peers = peers::read(document, &blocks, &interface.private_key)?;
    let mtu = match &interface.mtu {
        None => Mtu::AsWireGuard,
        Some(typed) => {
            let (ipv6, largest) = (resolve::carries_ipv6(&interface.addresses, &peers), resolve::largest_mtu(&peers));
            let mtu = resolve::fitting_mtu(typed.value, ipv6, largest, "remove the line");
            Mtu::Fixed(mtu.map_err(|sentence| document.error(&typed.span, sentence))?)
        }
    };
    Ok(Tunnel {
        device: Device {
            name,
            addresses: interface.addresses,
            mtu,
            private_key: Some(interface.private_key),
            wireguard_private_key: None,
            table: interface.table,
            dns: interface.dns,
        },
        transport: Transport {
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), interface.listen_port),
            // A host without IPv6 listens on IPv4.
            listen_is_default: true,
            workers: Workers::Auto,
            offload: true,
            busy_poll: Duration::ZERO,
            fwmark: interface.fwmark,
        },
        peers,
        network: None,
        overlay: None,
        observe: super::resolved::Observe::default(),
        ethernet: None,
        open: true,
        source: document.path.clone(),
    })
}

/// The device's name: that of the file without its extension.
pub(super) fn device_name(path: &Path) -> Result<String, Error> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    names::check_device(&stem).map_err(|fault| {
        let sentence = format!(
            "a wg-quick file is named after its device, and {} {fault}: rename the file, such as to \"wg0.conf\"",
            quoted(&stem)
        );
        Error::new(path, None, sentence)
    })?;
    Ok(stem.into_owned())
}

/// An error about a written value: the value in quotes, then `fault` as the end of the sentence.
fn refuse(document: &Document, value: &Located<&str>, fault: impl Display) -> Error {
    document.error(&value.span, format!("{} {fault}", shown(value.value)))
}

/// A value as an error may show it: none that could be a key.
fn shown(value: &str) -> String {
    let of_a_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    match value.split(|c: char| !of_a_key(c)).any(|run| run.len() + 2 >= TEXT_LENGTH) {
        true => "this".into(),
        false if value.is_empty() => "nothing".into(),
        false => quoted(value),
    }
}

/// The parts of a list, none of which is empty.
fn parts<'d>(
    document: &Document,
    list: &Located<&'d str>,
    is_separator: fn(char) -> bool,
) -> Result<Vec<Located<&'d str>>, Error> {
    let mut parts = Vec::new();
    let mut start = list.span.start;
    for piece in list.value.split_inclusive(is_separator) {
        let part = piece.trim_end_matches(is_separator);
        let (trimmed, begin) = (part.trim(), start + part.len() - part.trim_start().len());
        if !trimmed.is_empty() {
            parts.push(Located { value: trimmed, span: begin..begin + trimmed.len() });
        }
        start += piece.len();
    }
    if parts.is_empty() && !list.value.is_empty() {
        return Err(document.error(&list.span, "there is nothing between the commas: write what belongs there"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_like_a_key_is_shown() {
        let key = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        for secret in [key.to_owned(), format!("x {key}"), format!("\"{key}\","), key[..43].into(), key.repeat(2)] {
            assert_eq!(shown(&secret), "this", "{secret}");
        }
        assert_eq!(shown("10.0.0.0/33"), "\"10.0.0.0/33\"");
        assert_eq!(shown(""), "nothing");
    }

    #[test]
    fn a_file_is_named_after_its_device() {
        for (path, name) in [("/etc/wireguard/wg0.conf", "wg0"), ("wg0", "wg0"), ("a/to.berlin.conf", "to.berlin")] {
            assert_eq!(device_name(Path::new(path)).as_deref(), Ok(name));
        }
        for path in ["/etc/wireguard/my long name.conf", "sixteen-letters-.conf", "..", "/", "", "all.conf"] {
            let error = device_name(Path::new(path)).unwrap_err();
            assert!(error.sentence().contains("rename the file"), "{error}");
        }
    }
}
