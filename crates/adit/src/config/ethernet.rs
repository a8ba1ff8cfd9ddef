//! `mode = "tap"`: the device carries frames, and adit is a switch. What that needs, what it refuses, and `[switch]`.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;
use tunnel::switch::Settings;
use tunnel::switch::table::{CAPACITY, MAX_PEERS};
use wire::ethernet::MacAddress;

use super::document::{Document, Located, WordOrNumber};
use super::error::{Error, quoted};
use super::names;
use super::prefix::parse_network;
use super::raw;
use super::resolve::refuse;
use super::resolved::{Ethernet, Peer, TransportKind};

/// How long an address may be kept that is not heard again, and how short: IEEE Std 802.1Q, clause 8.8.3, table 8-6.
const AGES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(1_000_000);

/// Flooded frames per second: fewer than ten would be none in most tenths of a second.
const STORM_LIMITS: std::ops::RangeInclusive<i64> = 10..=10_000_000;

/// Addresses of one peer that the configuration may name.
const MOST_MACS: usize = 1024;

/// Whether the device carries frames.
pub(super) fn is_tap(document: &Document, mode: Option<&Located<String>>) -> Result<bool, Error> {
    let Some(mode) = mode else { return Ok(false) };
    match mode.value.as_str() {
        "tun" => Ok(false),
        "tap" => Ok(true),
        _ => Err(refuse(document, mode, "is not a mode: write \"tun\" for packets, or \"tap\" for frames")),
    }
}

/// What the switch is to be like, of a file with `mode = "tap"`.
pub(super) fn resolve(document: &Document, device: &raw::Device, switch: raw::Switch) -> Result<Ethernet, Error> {
    let bridge = device.bridge.as_ref().map(|text| bridge(document, text, device.name.as_ref())).transpose()?;
    if let Some(typed) = &device.table {
        let sentence = "table has no meaning with mode = \"tap\", where frames go by their addresses and no route is made: remove it";
        return Err(document.error(&typed.span, sentence));
    }
    let mut reserve: Vec<IpNet> = Vec::new();
    for text in device.reserve.iter().flat_map(|typed| &typed.value) {
        let net = parse_network(&text.value).map_err(|fault| refuse(document, text, fault))?;
        if reserve.iter().any(|other| other.contains(&net) || net.contains(other)) {
            return Err(refuse(document, text, "overlaps another range that is reserved: remove one of them"));
        }
        reserve.push(net);
    }
    if let Some(typed) = device.reserve.as_ref().filter(|_| bridge.is_none()) {
        let sentence = "reserve is for cards of virtual machines, which are ports of a bridge: name it with bridge = \"br0\", or remove reserve";
        return Err(document.error(&typed.span, sentence));
    }
    Ok(Ethernet { bridge, reserve, switch: settings(document, switch)? })
}

/// Refuses ranges that are not of the bridge's own networks, as far as the file says those, or that hold an address of its own.
pub(super) fn check_reserve(document: &Document, device: &raw::Device, addresses: &[IpNet]) -> Result<(), Error> {
    for text in device.reserve.iter().flat_map(|typed| &typed.value) {
        let range = parse_network(&text.value).map_err(|fault| refuse(document, text, fault))?;
        if let Some(own) = addresses.iter().find(|own| range.contains(&own.addr())) {
            let fault = format!("contains {}, which the device has: choose a range beside it", own.addr());
            return Err(refuse(document, text, fault));
        }
        if !addresses.is_empty() && !addresses.iter().any(|own| own.trunc().contains(&range)) {
            let networks: Vec<String> = addresses.iter().map(|own| own.trunc().to_string()).collect();
            let fault = format!("is not of the device's network: choose a part of {}", networks.join(" or "));
            return Err(refuse(document, text, fault));
        }
        if let Some(fault) = no_room(&range, addresses) {
            return Err(refuse(document, text, fault));
        }
    }
    Ok(())
}

/// Why no machine can have an address of a range, if that is so.
fn no_room(range: &IpNet, addresses: &[IpNet]) -> Option<&'static str> {
    let is_link_local = match range {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    };
    if is_link_local {
        return Some("is of a link alone: machines give themselves such addresses");
    }
    if addresses.is_empty() && range.prefix_len() < if range.addr().is_ipv4() { 8 } else { 32 } {
        return Some("is more than a LAN has: write this host's part of it");
    }
    let network = addresses.iter().find(|own| own.contains(range)).map_or(*range, IpNet::trunc);
    let ends = [range.network(), range.broadcast()];
    let is_edge = |ip: &std::net::IpAddr| *ip == network.network() || (ip.is_ipv4() && *ip == network.broadcast());
    let is_small = network.prefix_len() + 1 >= network.max_prefix_len();
    let two_at_most = range.prefix_len() + 1 >= range.max_prefix_len();
    (two_at_most && !is_small && ends.iter().all(is_edge))
        .then_some("has no address that a machine can have: write a larger one")
}

/// Refuses what only a switch has, of a file with `mode = "tun"`.
pub(super) fn refuse_without(
    document: &Document,
    device: &raw::Device,
    switch: &raw::Switch,
    peers: &[raw::Peer],
) -> Result<(), Error> {
    let bridge = device.bridge.as_ref().map(|text| ("bridge", &text.span));
    let reserve = device.reserve.as_ref().map(|text| ("reserve", &text.span));
    let macs = peers.iter().find_map(|peer| peer.macs.as_ref()).map(|text| ("macs", &text.span));
    let section = (!switch.span.is_empty()).then_some(("[switch]", &switch.span));
    let Some((what, span)) = bridge.or(reserve).or(macs).or(section) else { return Ok(()) };
    let sentence = format!(
        "{what} is for frames, and this device carries packets: write mode = \"tap\" under [device], or remove it"
    );
    Err(document.error(span, sentence))
}

fn bridge(document: &Document, text: &Located<String>, device: Option<&Located<String>>) -> Result<String, Error> {
    names::check_device(&text.value).map_err(|fault| refuse(document, text, fault))?;
    let device = device.map_or(super::resolve::DEVICE_NAME, |name| name.value.as_str());
    if device == text.value {
        return Err(refuse(document, text, "is the device itself: the bridge needs another name"));
    }
    Ok(text.value.clone())
}

fn settings(document: &Document, raw: raw::Switch) -> Result<Settings, Error> {
    let default = Settings::default();
    let age = raw.age.as_ref().map(|text| age(document, text)).transpose()?.unwrap_or(default.age);
    let number = |typed: Option<Located<WordOrNumber>>, range: std::ops::RangeInclusive<i64>, what: &str, or: u32| {
        let Some(typed) = typed else { return Ok(or) };
        match typed.value {
            WordOrNumber::Number(number) if range.contains(&number) => Ok(u32::try_from(number).unwrap_or(or)),
            WordOrNumber::Number(number) => Err(document.error(
                &typed.span,
                format!("{what} of {number} is not possible: write a number from {} to {}", range.start(), range.end()),
            )),
            WordOrNumber::Word(word) => {
                let sentence = format!("{} is not a number: write one without quotes, such as {or}", quoted(&word));
                Err(document.error(&typed.span, sentence))
            }
        }
    };
    let most = i64::try_from(CAPACITY).unwrap_or(i64::MAX);
    Ok(Settings {
        age,
        macs_per_peer: number(raw.macs_per_peer, 1..=most, "a macs-per-peer", default.macs_per_peer)?,
        storm_limit: number(raw.storm_limit, STORM_LIMITS, "a storm-limit", default.storm_limit)?,
        stp: raw.stp.map_or(default.stp, |typed| typed.value),
        suppress: raw.suppress.map_or(default.suppress, |typed| typed.value),
    })
}

fn age(document: &Document, text: &Located<String>) -> Result<Duration, Error> {
    let duration = humantime::parse_duration(&text.value)
        .map_err(|_| refuse(document, text, "is not a duration: write a number and its unit, such as \"5m\""))?;
    if !AGES.contains(&duration) || duration.subsec_nanos() != 0 {
        return Err(refuse(
            document,
            text,
            "is no age of an address: write whole seconds from \"10s\" to \"1000000s\"",
        ));
    }
    Ok(duration)
}

/// The addresses of each peer that may have no others, and whatever contradicts a switch.
pub(super) fn check_peers(document: &Document, raw: &[raw::Peer], peers: &mut [Peer]) -> Result<(), Error> {
    if let Some(extra) = raw.get(MAX_PEERS) {
        let sentence = format!("with mode = \"tap\" every frame to all is sent to each peer: {MAX_PEERS} are the most");
        return Err(document.error(&extra.span, sentence));
    }
    let mut owners: HashMap<MacAddress, String> = HashMap::new();
    for (raw, peer) in raw.iter().zip(peers) {
        if peer.transport != TransportKind::Sealed {
            let span = raw.transport.as_ref().map_or(&raw.span, |text| &text.span);
            let sentence = format!(
                "a {:?} peer takes packets only, and this device carries frames: write transport = \"sealed\"",
                peer.transport.as_str()
            );
            return Err(document.error(span, sentence));
        }
        peer.macs = macs(document, raw, &peer.name, &mut owners)?;
    }
    Ok(())
}

/// Refuses prefixes beside frames.
pub(super) fn refuse_prefixes(document: &Document, span: &Range<usize>) -> Error {
    let sentence = "allowed-ips has no meaning with mode = \"tap\", where frames go by their addresses: remove it, or name the addresses that the \
                    peer may have with macs = [\"52:54:00:12:34:56\"]";
    document.error(span, sentence)
}

fn macs(
    document: &Document,
    raw: &raw::Peer,
    peer: &str,
    owners: &mut HashMap<MacAddress, String>,
) -> Result<Vec<MacAddress>, Error> {
    let Some(typed) = &raw.macs else { return Ok(Vec::new()) };
    if typed.value.is_empty() || typed.value.len() > MOST_MACS {
        let sentence = format!("macs names 1 to {MOST_MACS} addresses: leave it out for a peer that may have any");
        return Err(document.error(&typed.span, sentence));
    }
    let mut macs = Vec::with_capacity(typed.value.len());
    for text in &typed.value {
        let mac: MacAddress = text.value.parse().map_err(|_| {
            refuse(document, text, "is not a link-layer address: write one such as \"52:54:00:12:34:56\"")
        })?;
        if mac.is_group() || mac == MacAddress::default() {
            return Err(refuse(
                document,
                text,
                "is not the address of one card: write one such as \"52:54:00:12:34:56\"",
            ));
        }
        match owners.insert(mac, peer.to_owned()) {
            Some(other) if other != peer => {
                return Err(refuse(
                    document,
                    text,
                    format!("belongs to peer {other:?} already: remove it from one of them"),
                ));
            }
            Some(_) => {}
            None => macs.push(mac),
        }
    }
    Ok(macs)
}
