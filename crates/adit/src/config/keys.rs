//! The secrets that a configuration names: our own key, and those shared with peers. They are read last, so that a fault elsewhere
//! is found without touching them.

use std::path::{Path, PathBuf};

use super::{
    document::{Document, Located},
    error::Error,
    raw,
    resolved::{Network, Peer, TransportKind},
};
use crate::key::{PresharedKey, PrivateKey};

/// Reads our own keys: that of `private-key-file`, and that of `wireguard-private-key-file`. One key serves one encrypted transport:
/// what proves who we are in one of them must say nothing in the other.
pub(super) fn private_keys(
    document: &Document,
    device: &raw::Device,
    peers: &[Peer],
) -> Result<(Option<PrivateKey>, Option<PrivateKey>), Error> {
    let find = |kind| peers.iter().find(|peer| peer.transport == kind);
    let (sealed, wireguard) = (find(TransportKind::Sealed), find(TransportKind::WireGuard));
    let own = &device.wireguard_private_key_file;
    match (sealed, wireguard, own) {
        (_, None, Some(file)) => {
            let sentence = "no peer is wireguard, so that wireguard-private-key-file has no meaning: remove it";
            return Err(document.error(&file.span, sentence));
        }
        (Some(sealed), Some(wireguard), None) => {
            let sentence = format!(
                "peer {:?} is sealed and peer {:?} is wireguard, and one private key must not serve both: run `umask 077 && adit \
                 keygen > wireguard.key` and write wireguard-private-key-file = \"wireguard.key\" beside private-key-file",
                sealed.name, wireguard.name
            );
            return Err(document.error(&device.span, sentence));
        }
        _ => {}
    }
    let needs = sealed.or(wireguard.filter(|_| own.is_none()));
    let main = match (&device.private_key_file, needs) {
        (Some(file), _) => Some(private_key(document, file, peers)?),
        (None, None) => None,
        (None, Some(peer)) => {
            let sentence = format!(
                "there is no private-key-file, and peer {:?} is {}, which needs one: run `umask 077 && adit keygen > private.key` \
                 here and write private-key-file = \"private.key\" under [device]",
                peer.name, peer.transport
            );
            return Err(document.error(&device.span, sentence));
        }
    };
    let Some(file) = own else { return Ok((main, None)) };
    let second = private_key(document, file, peers)?;
    if main.as_ref().is_some_and(|main| main.public_key() == second.public_key()) {
        let sentence = "private-key-file holds the same key, and one private key must not serve both encrypted transports: run \
                        `umask 077 && adit keygen > wireguard.key`";
        return Err(document.error(&file.span, sentence));
    }
    Ok((main, Some(second)))
}

/// Keys of a node: its own in a network that has a secret and no authority, and none in others, where `adit init` and `adit join` make and keep
/// them.
pub(super) fn of_a_node(
    document: &Document,
    device: &raw::Device,
    network: &Network,
    peers: &[Peer],
) -> Result<(Option<PrivateKey>, Option<PrivateKey>), Error> {
    if network.secret_file.is_some() {
        if device.private_key_file.is_none() {
            let sentence = "a network's secret-file needs a key of this node beside it: run `umask 077 && adit keygen > private.key` here and \
                            write private-key-file = \"private.key\" under [device]";
            return Err(document.error(&device.span, sentence));
        }
        return private_keys(document, device, peers);
    }
    let files = [
        ("private-key-file", &device.private_key_file),
        ("wireguard-private-key-file", &device.wireguard_private_key_file),
    ];
    match files.into_iter().find_map(|(key, file)| Some((key, file.as_ref()?))) {
        None => Ok((None, None)),
        Some((key, file)) => {
            let sentence = format!(
                "{key} has no place beside [network]: the keys of a node are made by `adit init` or `adit join` and are in the state \
                 directory; remove it"
            );
            Err(document.error(&file.span, sentence))
        }
    }
}

fn private_key(document: &Document, file: &Located<String>, peers: &[Peer]) -> Result<PrivateKey, Error> {
    let key =
        PrivateKey::read_file(&path(document, file)).map_err(|fault| document.error(&file.span, fault.to_string()))?;
    if let Some(peer) = peers.iter().find(|peer| peer.public_key == Some(key.public_key())) {
        return Err(document.error(
            &file.span,
            format!("the key file belongs to the public key of peer {:?}: each end needs a key of its own", peer.name),
        ));
    }
    Ok(key)
}

/// Reads the preshared keys of `peers`, whose files are in the same order.
pub(super) fn preshared_keys(
    document: &Document,
    files: &[raw::Text],
    own: &[&PrivateKey],
    peers: &mut [Peer],
) -> Result<(), Error> {
    for (peer, file) in peers.iter_mut().zip(files) {
        let Some(file) = file else { continue };
        let key = PresharedKey::read_file(&path(document, file))
            .map_err(|fault| document.error(&file.span, fault.to_string()))?;
        if own.iter().any(|own| own.is_also(&key)) {
            let sentence = format!(
                "the preshared key is our private key, which peer {:?} must not know: make another one with `umask 077 && adit \
                 keygen --preshared > preshared.key`",
                peer.name
            );
            return Err(document.error(&file.span, sentence));
        }
        peer.preshared_key = Some(key);
    }
    Ok(())
}

/// Relative paths start where the configuration is.
fn path(document: &Document, file: &Located<String>) -> PathBuf {
    document.path.parent().unwrap_or(Path::new("")).join(&file.value)
}
