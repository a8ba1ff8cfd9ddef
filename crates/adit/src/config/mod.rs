//! The configuration file, in two types: what was written (`raw`) and what it means ([`resolved`]).
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
//! | `keys.rs` | key files |
//! | `resolved.rs` | the result |

mod document;
mod endpoint;
mod error;
mod keys;
mod names;
mod nearest;
mod peers;
mod prefix;
mod raw;
mod resolve;
pub mod resolved;

use std::{fs::File, io::Read, path::Path};

use document::Document;
pub use endpoint::{Endpoint, EndpointError, Host};
pub use error::{Error, Position};
pub(crate) use names::check_device;
pub use resolved::{Device, Dns, Mtu, Peer, Table, Transport, TransportKind, Tunnel, Workers};

/// The largest file that is read, in bytes: room for 100,000 prefixes, and an end to a mistaken path such as `/dev/zero`.
const MAX_FILE: u64 = 16 << 20;

/// Reads and checks a configuration, its key files included.
///
/// # Errors
/// The first fault, with its line and column and what to do.
pub fn load(path: &Path) -> Result<Tunnel, Error> {
    parse(path, read(path)?)
}

/// Checks the text of a configuration. `path` is named in errors, and relative paths start at its directory.
///
/// # Errors
/// The first fault, with its line and column and what to do.
pub fn parse(path: &Path, text: String) -> Result<Tunnel, Error> {
    let document = Document { path: path.into(), text };
    let raw = raw::Tunnel::read(&document)?;
    resolve::tunnel(&document, raw)
}

/// Reads only the name of the device, so that a tunnel can be taken down after the rest of its file was changed.
///
/// # Errors
/// A file that cannot be read, wrong keys or types, or a name that no device can have.
pub fn device_name(path: &Path) -> Result<String, Error> {
    let document = Document { path: path.into(), text: read(path)? };
    let raw = raw::Tunnel::read(&document)?;
    resolve::device_name(&document, raw.device.name.as_ref())
}

fn read(path: &Path) -> Result<String, Error> {
    let fault = |sentence: String| Error::new(path, None, sentence);
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(|error| fault(format!("the configuration cannot be read: {error}")))?;
    if text.len() as u64 > MAX_FILE {
        return Err(fault("the configuration is larger than 16 MiB: is this the right file?".into()));
    }
    String::from_utf8(text).map_err(|_| fault("the configuration is not UTF-8 text: is this the right file?".into()))
}
