//! The configuration file, of ours (TOML) or of wg-quick, told apart by what is in it. Ours comes in two types: what was written
//! (`raw`) and what it means ([`resolved`]).
//!
//! [`load`] is the one door: it reads a file, refuses what is unknown or cannot work, fills in the defaults and reads the
//! keys. Nothing but the file system is asked, and nothing is changed. An option of a later version is refused by name:
//! every option that is accepted does what it says.
//!
//! | file | step |
//! |---|---|
//! | `document.rs` | TOML text → values that know their place |
//! | `raw.rs` | the right keys with the right types; an unknown key names the nearest known one |
//! | `resolve.rs`, `peers.rs` | ranges, defaults; then what only shows across peers |
//! | `network.rs` | `[network]`, read and written |
//! | `keys.rs` | key files |
//! | `routing.rs` | routing tables, marks, resolvers |
//! | `quick/` | wg-quick files |
//! | `resolved.rs` | the result |

mod document;
mod endpoint;
mod error;
mod ethernet;
mod keys;
mod names;
mod nearest;
mod network;
mod observe;
mod peers;
mod prefix;
mod quick;
mod raw;
mod resolve;
pub mod resolved;
mod routing;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use document::Document;
pub use endpoint::{Endpoint, EndpointError, Host};
pub use error::{Error, Position};
pub(crate) use names::{check_device, check_peer};
pub use network::{PrefixError, RegistryError, check_key_prefix, host_name, network_file, registry_url};
pub(crate) use resolve::LISTEN;
pub use resolved::{
    Device, Dns, Ethernet, Mtu, Network, Observe, ObserveAt, Origin, Overlay, Peer, PublicIp, RegistryAt, Table,
    Transport, TransportKind, Tunnel, Workers,
};
use zeroize::Zeroizing;

/// The largest file that is read, in bytes: room for 100,000 prefixes, and an end to a mistaken path such as `/dev/zero`.
const MAX_FILE: u64 = 16 << 20;

/// Reads and checks a configuration, its key files included.
///
/// # Errors
/// The first fault, with its line and column and what to do.
pub fn load(path: &Path) -> Result<Tunnel, Error> {
    let (document, mode) = read(path)?;
    if quick::is_wg_quick(&document.text) && mode & 0o077 != 0 {
        tracing::warn!(
            "{0} has keys in it and is open to other users (mode {1:04o}): run `chmod 600 {0}`",
            path.display(),
            mode & 0o7777
        );
    }
    resolve(&document)
}

/// Checks the text of a configuration. `path` is named in errors, relative paths start at its directory, and a wg-quick file is
/// named after its device.
///
/// # Errors
/// The first fault, with its line and column and what to do.
pub fn parse(path: &Path, text: String) -> Result<Tunnel, Error> {
    resolve(&Document { path: path.into(), text: Zeroizing::new(text) })
}

fn resolve(document: &Document) -> Result<Tunnel, Error> {
    if quick::is_wg_quick(&document.text) {
        return quick::tunnel(document);
    }
    let raw = raw::Tunnel::read(document)?;
    resolve::tunnel(document, raw)
}

/// Reads only the name of the device, so that a tunnel can be taken down after the rest of its file was changed.
///
/// # Errors
/// A file that cannot be read, wrong keys or types, or a name that no device can have.
pub fn device_name(path: &Path) -> Result<String, Error> {
    let (document, _) = read(path)?;
    if quick::is_wg_quick(&document.text) {
        return quick::device_name(path);
    }
    let raw = raw::Tunnel::read(&document)?;
    resolve::device_name(&document, raw.device.name.as_ref())
}

/// A file's text, and its mode.
fn read(path: &Path) -> Result<(Document, u32), Error> {
    let fault = |sentence: String| Error::new(path, None, sentence);
    let (bytes, mode) =
        read_bytes(path).map_err(|error| fault(format!("the configuration cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fault("the configuration is larger than 16 MiB: is this the right file?".into()));
    }
    let text = str::from_utf8(&bytes)
        .map_err(|_| fault("the configuration is not UTF-8 text: is this the right file?".into()))?;
    Ok((Document { path: path.into(), text: Zeroizing::new(text.to_owned()) }, mode))
}

/// At most one byte more than [`MAX_FILE`], in memory that is erased: a buffer that grew by itself would leave copies behind.
fn read_bytes(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut file = file.take(MAX_FILE + 1);
    let mut bytes = Zeroizing::new(vec![0; 1 + usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or(0)]);
    let mut length = 0;
    loop {
        let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) else {
            // Not a regular file, or one that grew.
            let mut larger = Zeroizing::new(vec![0; (2 * length).max(4096)]);
            if let Some(start) = larger.get_mut(..length) {
                start.copy_from_slice(&bytes);
            }
            bytes = larger;
            continue;
        };
        match file.read(room) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok((bytes, metadata.mode()))
}
