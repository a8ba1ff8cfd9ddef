//! From what was written to what it means: the device and the transport. Peers are resolved in `peers.rs`.

use std::{collections::HashSet, fmt::Display, net::SocketAddr, num::NonZero, time::Duration};

use ipnet::IpNet;

use super::{
    document::{Document, Located, WordOrNumber},
    error::{Error, quoted},
    ethernet, keys, names, network, observe, peers,
    prefix::parse_host,
    raw,
    resolved::{Device, Dns, Mtu, Peer, Table, Transport, Tunnel, Workers},
    routing,
};
use crate::underlay;

/// The device's name where the file gives none.
pub(super) const DEVICE_NAME: &str = "adit0";

/// One UDP port serves every transport and both IP families.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 7777);

/// The smallest packet that every IPv4 host takes whole (RFC 791, section 3.1): less breaks what relies on it.
const SMALLEST_MTU_IPV4: u16 = 576;

/// The smallest MTU on which the kernel keeps IPv6 (RFC 8200, section 5).
const SMALLEST_MTU_IPV6: u16 = 1280;

/// The largest payload of one UDP datagram over IPv4: 65535 less 20 and 8 bytes of headers. A packet must fit into one, with what
/// its transport adds.
const LARGEST_PAYLOAD: u16 = 65507;

/// More threads than this gain nothing on any machine we know, and a TUN device has at most 256 queues.
const MOST_WORKERS: usize = 64;

/// A sleep and wake-up cost tens of microseconds; looking for longer than this only heats a processor.
const LONGEST_BUSY_POLL: Duration = Duration::from_millis(1);

/// An error about a written value: the value in quotes, then `fault` as the end of the sentence.
pub(super) fn refuse(document: &Document, value: &Located<String>, fault: impl Display) -> Error {
    document.error(&value.span, format!("{} {fault}", quoted(&value.value)))
}

/// Resolves a whole file.
pub(super) fn tunnel(document: &Document, raw: raw::Tunnel) -> Result<Tunnel, Error> {
    let raw::Tunnel { device, transport, peers, network, observe, switch } = raw;
    let observe = observe::resolve(document, observe)?;
    let name = device_name(document, device.name.as_ref())?;
    let tap = ethernet::is_tap(document, device.mode.as_ref())?;
    if tap && let Some(mode) = device.mode.as_ref().filter(|_| network.is_some()) {
        return Err(refuse(
            document,
            mode,
            "is no mode of a network's node, which routes packets: leave `mode` out, or leave [network] out",
        ));
    }
    if !tap {
        ethernet::refuse_without(document, &device, &switch, &peers)?;
    }
    let ethernet = if tap { Some(ethernet::resolve(document, &device, switch)?) } else { None };
    let network = network.map(|raw| network::network(document, raw, &name)).transpose()?;
    let addresses = match (&device.addresses, &network) {
        // They come with the lease.
        (None, Some(_)) => Vec::new(),
        // A port of a bridge has none.
        (None, None) if tap => Vec::new(),
        (typed, _) => addresses(document, &device.span, typed.as_ref())?,
    };
    if tap {
        ethernet::check_reserve(document, &device, &addresses)?;
    }
    let transport = self::transport(document, transport)?;
    let typed_peers = if tap { peers.clone() } else { Vec::new() };
    let preshared: Vec<raw::Text> = peers.iter().map(|peer| peer.preshared_key_file.clone()).collect();
    let mut peers = match (peers.is_empty(), &network) {
        (true, Some(_)) => Vec::new(),
        (_, network) => peers::resolve(
            document,
            peers,
            &addresses,
            &peers::Surroundings { transport: &transport, in_a_network: network.is_some(), tap },
        )?,
    };
    if tap {
        ethernet::check_peers(document, &typed_peers, &mut peers)?;
    }
    let largest = if tap {
        largest_sealed_mtu() - u16::try_from(wire::frame::MAX_LINK).unwrap_or(u16::MAX)
    } else if network.is_some() {
        largest_sealed_mtu()
    } else {
        largest_mtu(&peers)
    };
    let mtu = mtu(document, device.mtu.as_ref(), carries_ipv6(&addresses, &peers), largest)?;
    let (private_key, wireguard_private_key) = match &network {
        Some(network) => keys::of_a_node(document, &device, network, &peers)?,
        None => keys::private_keys(document, &device, &peers)?,
    };
    let own: Vec<_> = private_key.iter().chain(&wireguard_private_key).collect();
    keys::preshared_keys(document, &preshared, &own, &mut peers)?;
    let table = device.table.map_or(Ok(Table::Auto), |typed| table(document, &typed))?;
    let dns = device.dns.map_or(Ok(Dns::default()), |typed| dns(document, &typed))?;
    let device = Device { name, addresses, mtu, private_key, wireguard_private_key, table, dns };
    Ok(Tunnel {
        device,
        transport,
        peers,
        open: false,
        source: document.path.clone(),
        network,
        overlay: None,
        observe,
        ethernet,
    })
}

/// The device's name, or the default.
pub(super) fn device_name(document: &Document, name: Option<&Located<String>>) -> Result<String, Error> {
    let Some(name) = name else { return Ok(DEVICE_NAME.into()) };
    names::check_device(&name.value).map_err(|fault| refuse(document, name, fault))?;
    Ok(name.value.clone())
}

fn addresses(
    document: &Document,
    device: &std::ops::Range<usize>,
    typed: Option<&Located<Vec<Located<String>>>>,
) -> Result<Vec<IpNet>, Error> {
    let needed = "the device needs an address: write addresses = [\"10.77.0.1/24\"] under [device], with your own";
    let Some(typed) = typed else {
        // A file without [device] has no place for the fault.
        return Err(if device.is_empty() { document.error_of_file(needed) } else { document.error(device, needed) });
    };
    if typed.value.is_empty() {
        return Err(document.error(&typed.span, needed));
    }
    let mut addresses = Vec::with_capacity(typed.value.len());
    let mut seen = HashSet::new();
    for text in &typed.value {
        let net = parse_host(&text.value).map_err(|fault| refuse(document, text, fault))?;
        if !seen.insert(net.addr()) {
            return Err(refuse(document, text, "is an address that the device has already: remove one of them"));
        }
        addresses.push(net);
    }
    Ok(addresses)
}

pub(super) fn carries_ipv6(addresses: &[IpNet], peers: &[Peer]) -> bool {
    let is_v6 = |net: &IpNet| matches!(net, IpNet::V6(_));
    addresses.iter().any(is_v6) || peers.iter().flat_map(|peer| &peer.allowed_ips).any(is_v6)
}

/// The largest packet that fits into a datagram to every peer.
pub(super) fn largest_mtu(peers: &[Peer]) -> u16 {
    let added = peers.iter().map(|peer| underlay::sealing(peer.transport)).max().unwrap_or(0);
    LARGEST_PAYLOAD.saturating_sub(u16::try_from(added).unwrap_or(u16::MAX))
}

/// The largest packet that fits into a datagram to another node.
fn largest_sealed_mtu() -> u16 {
    let added = underlay::sealing(super::TransportKind::Sealed);
    LARGEST_PAYLOAD.saturating_sub(u16::try_from(added).unwrap_or(u16::MAX))
}

fn mtu(document: &Document, typed: Option<&Located<WordOrNumber>>, ipv6: bool, largest: u16) -> Result<Mtu, Error> {
    let Some(typed) = typed else { return Ok(Mtu::Auto) };
    let refuse = |sentence: String| Err(document.error(&typed.span, sentence));
    let number = match &typed.value {
        WordOrNumber::Word(word) if word == "auto" => return Ok(Mtu::Auto),
        WordOrNumber::Word(word) => {
            return refuse(format!("{} is not an MTU: write \"auto\" or a number without quotes", quoted(word)));
        }
        WordOrNumber::Number(number) => *number,
    };
    fitting_mtu(number, ipv6, largest, "write \"auto\"").map(Mtu::Fixed).or_else(refuse)
}

/// An MTU that fits, or what is wrong with it; `remedy` says how to have none.
pub(super) fn fitting_mtu(number: i64, ipv6: bool, largest: u16, remedy: &str) -> Result<u16, String> {
    let (smallest, carried) = if ipv6 { (SMALLEST_MTU_IPV6, "IPv6") } else { (SMALLEST_MTU_IPV4, "IPv4") };
    match u16::try_from(number) {
        Ok(mtu) if (smallest..=largest).contains(&mtu) => Ok(mtu),
        Ok(mtu) if mtu < smallest => {
            Err(format!("an MTU of {number} is too small: {carried} needs {smallest} or more, or {remedy}"))
        }
        _ if number < 0 => Err(format!("an MTU of {number} is too small: {remedy}, or write a number from {smallest}")),
        _ => Err(format!("an MTU of {number} is too large: one datagram carries {largest} at most, or {remedy}")),
    }
}

fn table(document: &Document, typed: &Located<WordOrNumber>) -> Result<Table, Error> {
    let table = match &typed.value {
        WordOrNumber::Word(word) => routing::table(word),
        WordOrNumber::Number(number) => {
            u32::try_from(*number).map_err(|_| routing::RoutingError::Table).and_then(routing::table_number)
        }
    };
    table.map_err(|fault| refuse_either(document, typed, fault))
}

fn fwmark(document: &Document, typed: &Located<WordOrNumber>) -> Result<Option<NonZero<u32>>, Error> {
    let mark = match &typed.value {
        WordOrNumber::Word(word) => routing::mark(word),
        WordOrNumber::Number(number) => {
            u32::try_from(*number).map(NonZero::new).map_err(|_| routing::RoutingError::Mark)
        }
    };
    mark.map_err(|fault| refuse_either(document, typed, fault))
}

fn refuse_either(document: &Document, typed: &Located<WordOrNumber>, fault: impl Display) -> Error {
    let shown = match &typed.value {
        WordOrNumber::Word(word) => quoted(word),
        WordOrNumber::Number(number) => number.to_string(),
    };
    document.error(&typed.span, format!("{shown} {fault}"))
}

fn dns(document: &Document, typed: &Located<Vec<Located<String>>>) -> Result<Dns, Error> {
    let mut dns = Dns::default();
    for text in &typed.value {
        routing::resolver(&text.value, &mut dns).map_err(|fault| refuse(document, text, fault))?;
    }
    if dns.servers.is_empty() && !dns.domains.is_empty() {
        let sentence = "dns names domains and no server to ask: write the address of one, such as \"10.0.0.53\"";
        return Err(document.error(&typed.span, sentence));
    }
    Ok(dns)
}

fn transport(document: &Document, raw: raw::Transport) -> Result<Transport, Error> {
    Ok(Transport {
        listen_is_default: raw.listen.is_none(),
        listen: raw.listen.map_or(Ok(LISTEN), |text| listen(document, &text, LISTEN.port()))?,
        workers: raw.workers.map_or(Ok(Workers::Auto), |typed| workers(document, &typed))?,
        offload: raw.offload.is_none_or(|offload| offload.value),
        busy_poll: raw.busy_poll.map_or(Ok(Duration::ZERO), |text| busy_poll(document, &text))?,
        fwmark: raw.fwmark.map_or(Ok(None), |typed| fwmark(document, &typed))?,
    })
}

/// An address and port of this host; `usual` is the port of examples.
pub(super) fn listen(document: &Document, text: &Located<String>, usual: u16) -> Result<SocketAddr, Error> {
    let refuse = |fault: String| refuse(document, text, fault);
    let listen: SocketAddr = text.value.parse().map_err(|_| {
        refuse(format!(
            "is not an address and port to listen on: write one such as \"[::]:{usual}\" or \"192.0.2.1:{usual}\""
        ))
    })?;
    let listen = match listen.ip().to_canonical() {
        // Keep the scope of a link-local address.
        address if address == listen.ip() => listen,
        address => SocketAddr::new(address, listen.port()),
    };
    if listen.port() == 0 {
        return Err(refuse(format!("has port 0, which no peer could know: choose a port, such as {usual}")));
    }
    if listen.ip().is_multicast() || listen.ip() == std::net::IpAddr::from([255; 4]) {
        return Err(refuse(format!(
            "is not an address of this host: write one of its own, or \"[::]:{usual}\" for all"
        )));
    }
    Ok(listen)
}

fn workers(document: &Document, typed: &Located<WordOrNumber>) -> Result<Workers, Error> {
    let refuse = |sentence: String| Err(document.error(&typed.span, sentence));
    match &typed.value {
        WordOrNumber::Word(word) if word == "auto" => Ok(Workers::Auto),
        WordOrNumber::Word(word) => {
            refuse(format!("{} is not a number of workers: write \"auto\" or a number without quotes", quoted(word)))
        }
        WordOrNumber::Number(number) => match usize::try_from(*number).ok().and_then(NonZero::new) {
            Some(workers) if workers.get() <= MOST_WORKERS => Ok(Workers::Fixed(workers)),
            _ => refuse(format!(
                "{number} workers are not possible: write \"auto\" or a number from 1 to {MOST_WORKERS}"
            )),
        },
    }
}

fn busy_poll(document: &Document, text: &Located<String>) -> Result<Duration, Error> {
    let duration = humantime::parse_duration(&text.value)
        .map_err(|_| refuse(document, text, "is not a duration: write a number and its unit, such as \"50us\""))?;
    if duration > LONGEST_BUSY_POLL {
        return Err(refuse(document, text, "is too long for busy-poll: write \"1ms\" or less"));
    }
    Ok(duration)
}
