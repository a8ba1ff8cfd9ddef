//! The secrets that a configuration names: our own key, and those shared with peers. They are read last, so that a fault elsewhere
//! is found without touching them.

use std::path::{Path, PathBuf};

use super::{
    document::{Document, Located},
    error::Error,
    raw,
    resolved::Peer,
};
use crate::key::{PresharedKey, PrivateKey};

/// Reads our own key, which encrypted peers need.
pub(super) fn private_key(
    document: &Document,
    device: &raw::Device,
    peers: &[Peer],
) -> Result<Option<PrivateKey>, Error> {
    let Some(file) = &device.private_key_file else {
        let Some(peer) = peers.iter().find(|peer| peer.transport.is_secure()) else { return Ok(None) };
        let sentence = format!(
            "there is no private-key-file, and peer {:?} is {}, which needs one: run `umask 077 && adit keygen > private.key` \
             here and write private-key-file = \"private.key\" under [device]",
            peer.name, peer.transport
        );
        return Err(document.error(&device.span, sentence));
    };
    let key =
        PrivateKey::read_file(&path(document, file)).map_err(|fault| document.error(&file.span, fault.to_string()))?;
    if let Some(peer) = peers.iter().find(|peer| peer.public_key == Some(key.public_key())) {
        return Err(document.error(
            &file.span,
            format!("the key file belongs to the public key of peer {:?}: each end needs a key of its own", peer.name),
        ));
    }
    Ok(Some(key))
}

/// Reads the preshared keys of `peers`, whose files are in the same order.
pub(super) fn preshared_keys(
    document: &Document,
    files: &[raw::Text],
    own: Option<&PrivateKey>,
    peers: &mut [Peer],
) -> Result<(), Error> {
    for (peer, file) in peers.iter_mut().zip(files) {
        let Some(file) = file else { continue };
        let key = PresharedKey::read_file(&path(document, file))
            .map_err(|fault| document.error(&file.span, fault.to_string()))?;
        if own.is_some_and(|own| own.is_also(&key)) {
            let sentence = format!(
                "the preshared key is our private key, which peer {:?} must not know: make another one with `umask 077 && head \
                 -c 32 /dev/urandom | base64 > preshared.key`",
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
