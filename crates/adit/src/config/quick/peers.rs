//! `[Peer]`: the other ends, one by one and against each other.

use std::{collections::HashMap, num::NonZero, time::Duration};

use ipnet::IpNet;

use super::{
    super::{
        document::{Document, Located},
        endpoint::Endpoint,
        error::Error,
        names,
        prefix::parse_wireguard_network,
        resolved::{Peer, TransportKind},
        routing,
    },
    lines::{Block, Section},
    parts, refuse, shown,
};
use crate::key::{PresharedKey, PrivateKey, PublicKey, secret_from_text};

/// What one section says.
struct Written {
    public_key: PublicKey,
    preshared_key: Option<Option<PresharedKey>>,
    endpoint: Option<Endpoint>,
    keepalive: Option<Option<Duration>>,
    allowed_ips: Vec<IpNet>,
}

/// Reads all peers. As in WireGuard, a prefix is the last one's who claims it; a second section of the same key changes what it
/// says of the first, and replaces all of its prefixes; and our own key is nobody's.
pub(super) fn read(document: &Document, blocks: &[Block<'_>], own: &PrivateKey) -> Result<Vec<Peer>, Error> {
    let mut peers: Vec<(usize, Peer)> = Vec::new();
    let mut places: HashMap<PublicKey, usize> = HashMap::new();
    // The section that claimed a prefix last.
    let mut claims: HashMap<IpNet, usize> = HashMap::new();
    for (section, block) in blocks.iter().enumerate().filter(|(_, block)| block.section == Section::Peer) {
        let written = Written::read(document, block, own)?;
        if written.public_key == own.public_key() {
            let line = document.position(block.span.start).line;
            let file = document.path.display();
            tracing::warn!("{file}:{line}: this peer has our own public key and is left out, as WireGuard does");
            continue;
        }
        let place = *places.entry(written.public_key).or_insert_with(|| {
            peers.push((section, blank(written.public_key)));
            peers.len() - 1
        });
        let Some((latest, peer)) = peers.get_mut(place) else { continue };
        *latest = section;
        peer.allowed_ips = written.allowed_ips;
        peer.allowed_ips.retain(|net| claims.insert(*net, section) != Some(section));
        if let Some(preshared_key) = written.preshared_key {
            peer.preshared_key = preshared_key;
        }
        if let Some(keepalive) = written.keepalive {
            peer.keepalive = keepalive;
        }
        peer.endpoint = written.endpoint.or(peer.endpoint.take());
    }
    for (section, peer) in &mut peers {
        peer.allowed_ips.retain(|net| claims.get(net) == Some(section));
    }
    let mut peers: Vec<Peer> = peers.into_iter().map(|(_, peer)| peer).collect();
    names::name_by_keys(&mut peers);
    Ok(peers)
}

fn blank(public_key: PublicKey) -> Peer {
    Peer {
        name: String::new(),
        public_key: Some(public_key),
        endpoint: None,
        origin: crate::config::Origin::File,
        allowed_ips: Vec::new(),
        transport: TransportKind::WireGuard,
        preshared_key: None,
        keepalive: None,
        macs: Vec::new(),
    }
}

impl Written {
    fn read(document: &Document, block: &Block<'_>, own: &PrivateKey) -> Result<Self, Error> {
        let mut public_key = None;
        let (mut preshared_key, mut endpoint, mut keepalive, mut allowed_ips) = (None, None, None, Vec::new());
        for entry in &block.entries {
            let value = &entry.value;
            match entry.key.value {
                "PublicKey" => public_key = Some(self::public_key(document, value)?),
                "PresharedKey" => preshared_key = Some(self::preshared_key(document, value, own)?),
                "Endpoint" => endpoint = Some(self::endpoint(document, value)?),
                "PersistentKeepalive" => keepalive = Some(self::keepalive(document, value)?),
                // AllowedIPs: `lines` lets no other key pass.
                _ => self::allowed_ips(document, value, &mut allowed_ips)?,
            }
        }
        let Some(public_key) = public_key else {
            let sentence = "this peer has no PublicKey, by which it is known: write PublicKey = … with what `wg pubkey` prints of \
                            its private key";
            return Err(document.error(&block.span, sentence));
        };
        Ok(Self { public_key, preshared_key, endpoint, keepalive, allowed_ips })
    }
}

fn public_key(document: &Document, value: &Located<&str>) -> Result<PublicKey, Error> {
    value.value.parse().map_err(|_| {
        let sentence = "PublicKey is not a public key: write the 44 characters that `wg pubkey` prints";
        document.error(&value.span, sentence)
    })
}

/// `None` for all zeros, with which WireGuard computes where there is none.
fn preshared_key(document: &Document, value: &Located<&str>, own: &PrivateKey) -> Result<Option<PresharedKey>, Error> {
    let bytes = secret_from_text(value.value).map_err(|_| {
        let sentence = "PresharedKey is not a preshared key: write the 44 characters that `wg genpsk` prints, the same at both ends";
        document.error(&value.span, sentence)
    })?;
    let key = PresharedKey::from_bytes(bytes).ok();
    if key.as_ref().is_some_and(|key| own.is_also(key)) {
        let sentence = "PresharedKey is our private key, which no peer must know: make another one with `wg genpsk`";
        return Err(document.error(&value.span, sentence));
    }
    Ok(key)
}

fn endpoint(document: &Document, value: &Located<&str>) -> Result<Endpoint, Error> {
    let text: String = value.value.split_whitespace().collect();
    text.parse().map_err(|fault| refuse(document, value, fault))
}

fn keepalive(document: &Document, value: &Located<&str>) -> Result<Option<Duration>, Error> {
    if value.value.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let seconds = routing::decimal(value.value).and_then(|seconds| u16::try_from(seconds).ok()).ok_or_else(|| {
        refuse(document, value, "is not a keepalive: write whole seconds from 1 to 65535, such as 25, or off")
    })?;
    Ok(NonZero::new(seconds).map(|seconds| Duration::from_secs(seconds.get().into())))
}

fn allowed_ips(document: &Document, list: &Located<&str>, allowed_ips: &mut Vec<IpNet>) -> Result<(), Error> {
    for text in parts(document, list, |c| c == ',')? {
        // wg(8) takes "10.0.0.0 / 8".
        let squeezed: String = text.value.split_whitespace().collect();
        let net = parse_wireguard_network(&squeezed).map_err(|fault| {
            if squeezed == text.value {
                return refuse(document, &text, fault);
            }
            let sentence = format!("{} is not one prefix: write a comma between two", shown(text.value));
            document.error(&text.span, sentence)
        })?;
        allowed_ips.push(net);
    }
    Ok(())
}
