//! From what was written to what it means: the peers, one by one and against each other.

use std::{collections::HashMap, time::Duration};

use ipnet::IpNet;

use super::{
    document::{Document, Located},
    endpoint::{Endpoint, Host},
    error::Error,
    ethernet, names,
    prefix::parse_network,
    raw,
    resolve::refuse,
    resolved::{Peer, Transport, TransportKind},
};
use crate::key::PublicKey;

/// The longest keepalive: as many seconds as WireGuard's 16 bits count.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(u16::MAX as u64);

/// What peers are beside.
pub(super) struct Surroundings<'a> {
    pub(super) transport: &'a Transport,
    pub(super) in_a_network: bool,
    /// Whether the device carries frames, so that peers have no prefixes.
    pub(super) tap: bool,
}

/// Resolves all peers, without their preshared keys. Prefixes may nest (the longest wins) but one prefix has one peer.
pub(super) fn resolve(
    document: &Document,
    raw: Vec<raw::Peer>,
    own_addresses: &[IpNet],
    surroundings: &Surroundings<'_>,
) -> Result<Vec<Peer>, Error> {
    if raw.is_empty() {
        return Err(document.error_of_file("there is no peer: write one [[peer]] for each other end of the tunnel"));
    }
    let mut taken = Taken::default();
    let mut peers = Vec::with_capacity(raw.len());
    let mut endpoints = Vec::with_capacity(raw.len());
    for raw in raw {
        endpoints.push(raw.endpoint.clone());
        if surroundings.in_a_network {
            refuse_sealed(document, &raw)?;
        }
        peers.push(peer(document, raw, own_addresses, surroundings.tap, &mut taken)?);
    }
    for (peer, typed) in peers.iter().zip(&endpoints) {
        if let (Some(endpoint), Some(typed)) = (&peer.endpoint, typed) {
            check_reachable(document, typed, endpoint, surroundings.transport, &taken)?;
        }
    }
    Ok(peers)
}

/// Refuses a sealed peer beside a network: it could never shake hands with us.
fn refuse_sealed(document: &Document, raw: &raw::Peer) -> Result<(), Error> {
    if transport_kind(document, raw)? != TransportKind::Sealed {
        return Ok(());
    }
    let span = raw.transport.as_ref().map_or(&raw.span, |text| &text.span);
    let sentence = "a [[peer]] beside [network] cannot be sealed, since sealed handshakes are bound to the network there: give the other \
                    end a token with `adit join`, or write transport = \"wireguard\" (or \"plain\")";
    Err(document.error(span, sentence))
}

/// What belongs to a peer already, and the byte where that is said: lines are counted when somebody is to be told.
#[derive(Default)]
struct Taken {
    names: HashMap<String, Owner>,
    keys: HashMap<PublicKey, Owner>,
    endpoints: HashMap<Endpoint, Owner>,
    prefixes: HashMap<IpNet, Owner>,
}

#[derive(Clone)]
struct Owner {
    peer: String,
    at: usize,
}

fn peer(
    document: &Document,
    raw: raw::Peer,
    own_addresses: &[IpNet],
    tap: bool,
    taken: &mut Taken,
) -> Result<Peer, Error> {
    let name = name(document, &raw, taken)?;
    let owner = |span: &std::ops::Range<usize>| Owner { peer: name.clone(), at: span.start };
    let kind = transport_kind(document, &raw)?;
    refuse_meaningless(document, &raw, kind)?;

    let public_key = public_key(document, &raw, kind, &name)?;
    if let (Some(text), Some(key)) = (&raw.public_key, public_key)
        && let Some(other) = taken.keys.insert(key, owner(&text.span))
    {
        return Err(twice(document, text, "the public key", &other, "each peer has a key of its own"));
    }
    let endpoint = endpoint(document, &raw, kind, &name)?;
    if let (Some(text), Some(endpoint)) = (&raw.endpoint, &endpoint)
        && let Some(other) = taken.endpoints.insert(endpoint.clone(), owner(&text.span))
    {
        let remedy = if kind.is_secure() {
            "one socket is one peer; write each its own, or none for a peer that calls us"
        } else {
            "one socket is one peer, and datagrams of plain ones could not be told apart"
        };
        return Err(twice(document, text, "the endpoint", &other, remedy));
    }
    let keepalive = keepalive(document, raw.keepalive.as_ref())?;

    let allowed_ips = match &raw.allowed_ips {
        Some(typed) if tap => return Err(ethernet::refuse_prefixes(document, &typed.span)),
        _ if tap => Vec::new(),
        typed => prefixes(document, &raw, typed.as_ref(), (&name, own_addresses), taken)?,
    };
    Ok(Peer {
        name,
        public_key,
        endpoint,
        allowed_ips,
        transport: kind,
        preshared_key: None,
        keepalive,
        macs: Vec::new(),
        origin: crate::config::Origin::File,
    })
}

/// The prefixes behind a peer.
fn prefixes(
    document: &Document,
    raw: &raw::Peer,
    typed: Option<&Located<Vec<Located<String>>>>,
    (name, own_addresses): (&str, &[IpNet]),
    taken: &mut Taken,
) -> Result<Vec<IpNet>, Error> {
    let owner = |span: &std::ops::Range<usize>| Owner { peer: name.to_owned(), at: span.start };
    let needed = format!(
        "peer {name:?} has no allowed-ips, so that nothing could reach it: write allowed-ips = [\"10.77.0.2/32\"], \
         with its own addresses"
    );
    let Some(typed) = typed else { return Err(document.error(&raw.span, needed)) };
    if typed.value.is_empty() {
        return Err(document.error(&typed.span, needed));
    }
    let mut allowed_ips = Vec::with_capacity(typed.value.len());
    for text in &typed.value {
        let net = parse_network(&text.value).map_err(|fault| refuse(document, text, fault))?;
        if net.prefix_len() == net.max_prefix_len() && own_addresses.iter().any(|own| own.addr() == net.addr()) {
            return Err(refuse(document, text, "is this device's own address: write the peer's"));
        }
        match taken.prefixes.insert(net, owner(&text.span)) {
            // Written twice for the same peer: no harm, no second entry.
            Some(other) if other.peer == name => {}
            Some(other) => {
                let remedy = "a prefix has one peer, though a longer prefix within it may have another";
                return Err(twice(document, text, &format!("the prefix {net}"), &other, remedy));
            }
            None => allowed_ips.push(net),
        }
    }
    Ok(allowed_ips)
}

fn twice(document: &Document, text: &Located<String>, what: &str, owner: &Owner, remedy: &str) -> Error {
    let line = document.position(owner.at).line;
    let sentence = format!("{what} belongs to peer {:?} already (line {line}): {remedy}", owner.peer);
    document.error(&text.span, sentence)
}

fn name(document: &Document, raw: &raw::Peer, taken: &mut Taken) -> Result<String, Error> {
    let Some(text) = &raw.name else {
        return Err(document.error(&raw.span, "this peer has no name: write name = \"berlin\", with one of your own"));
    };
    names::check_peer(&text.value).map_err(|fault| refuse(document, text, fault))?;
    let owner = Owner { peer: text.value.clone(), at: text.span.start };
    // Names turn up where case is lost, as in host names.
    if let Some(other) = taken.names.insert(text.value.to_ascii_lowercase(), owner) {
        return Err(twice(document, text, "the name", &other, "give each peer another one"));
    }
    Ok(text.value.clone())
}

/// The transport, which nothing but this word chooses: what is not written is sealed, and never plain.
fn transport_kind(document: &Document, raw: &raw::Peer) -> Result<TransportKind, Error> {
    let Some(text) = &raw.transport else { return Ok(TransportKind::Sealed) };
    match text.value.as_str() {
        "sealed" => Ok(TransportKind::Sealed),
        "wireguard" => Ok(TransportKind::WireGuard),
        "plain" => Ok(TransportKind::Plain),
        _ => Err(refuse(
            document,
            text,
            "is not a transport: write \"sealed\" for an adit, \"wireguard\" for a WireGuard, or \"plain\" for no encryption",
        )),
    }
}

/// Options of encrypted transports are refused, so that nobody takes a plain peer for an encrypted one.
fn refuse_meaningless(document: &Document, raw: &raw::Peer, kind: TransportKind) -> Result<(), Error> {
    if kind.is_secure() {
        return Ok(());
    }
    if let Some(text) = &raw.preshared_key_file {
        let sentence = "preshared-key-file has no meaning for a plain peer, which nothing encrypts: remove it";
        return Err(document.error(&text.span, sentence));
    }
    if let Some(text) = &raw.keepalive {
        let sentence = "keepalive has no meaning for a plain peer, which keeps no session: remove it";
        return Err(document.error(&text.span, sentence));
    }
    Ok(())
}

fn public_key(
    document: &Document,
    raw: &raw::Peer,
    kind: TransportKind,
    name: &str,
) -> Result<Option<PublicKey>, Error> {
    let Some(text) = &raw.public_key else {
        if !kind.is_secure() {
            return Ok(None);
        }
        let tool = if kind == TransportKind::WireGuard { "wg" } else { "adit" };
        let sentence = format!(
            "peer {name:?} has no public-key, by which a {kind:?} peer is known: run `{tool} pubkey < private.key` on its host and \
             write public-key = \"…\" with what it prints",
            kind = kind.as_str()
        );
        return Err(document.error(&raw.span, sentence));
    };
    let key = text
        .value
        .parse()
        .map_err(|fault| document.error(&text.span, format!("the public key of peer {name:?} is {fault}")))?;
    Ok(Some(key))
}

fn endpoint(document: &Document, raw: &raw::Peer, kind: TransportKind, name: &str) -> Result<Option<Endpoint>, Error> {
    match &raw.endpoint {
        Some(text) => text.value.parse().map(Some).map_err(|fault| refuse(document, text, fault)),
        None if kind.is_secure() => Ok(None),
        None => {
            let sentence = format!(
                "peer {name:?} has no endpoint, and a plain peer is known by nothing else: write endpoint = \"host:port\""
            );
            Err(document.error(&raw.span, sentence))
        }
    }
}

/// Whole seconds, as the protocols count them; none and zero are off.
fn keepalive(document: &Document, typed: Option<&Located<String>>) -> Result<Option<Duration>, Error> {
    let Some(text) = typed else { return Ok(None) };
    let duration = humantime::parse_duration(&text.value)
        .map_err(|_| refuse(document, text, "is not a duration: write a number and its unit, such as \"25s\""))?;
    if duration.is_zero() {
        Ok(None)
    } else if duration.subsec_nanos() != 0 {
        Err(refuse(document, text, "is not a keepalive: write whole seconds, such as \"25s\""))
    } else if duration > LONGEST_KEEPALIVE {
        Err(refuse(document, text, "is too long for a keepalive: write \"65535s\" or less, or \"0s\" for none"))
    } else {
        Ok(Some(duration))
    }
}

/// Refuses an endpoint that our socket cannot send to, or whose datagrams would enter the tunnel again.
fn check_reachable(
    document: &Document,
    typed: &Located<String>,
    endpoint: &Endpoint,
    transport: &Transport,
    taken: &Taken,
) -> Result<(), Error> {
    let Host::Address(address) = endpoint.host else { return Ok(()) };
    let listen = transport.listen;
    let dual_stack = listen.is_ipv6() && listen.ip().is_unspecified();
    if !dual_stack && listen.is_ipv4() != address.is_ipv4() {
        let (theirs, ours) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let fault =
            format!("is {theirs} but we listen on {ours} only ({listen}): listen on \"[::]:{}\"", listen.port());
        return Err(refuse(document, typed, fault));
    }
    if endpoint.address() == Some(listen) {
        return Err(refuse(document, typed, "is where we listen ourselves: write the peer's address"));
    }
    if let Some(owner) = taken.prefixes.get(&IpNet::from(address)) {
        let fault = format!(
            "is also in the allowed-ips of peer {:?} (line {}), so that datagrams to it would enter the tunnel again: \
             write an address outside the tunnel",
            owner.peer,
            document.position(owner.at).line
        );
        return Err(refuse(document, typed, fault));
    }
    Ok(())
}
