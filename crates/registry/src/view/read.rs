//! One entry of the registry, by itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{PlainNode, Setting};
use crate::client::KeyValue;
use crate::schema::{Backend, LeaseValue, Subnets};
use crate::trust::{Anchor, Bundle, Record, Release, Serial, Tombstone, decode_value, open_signed};

/// The longest value that is looked at, in bytes.
const MAX_VALUE: usize = 1024 * 1024;
/// As much of a reason is kept, in characters: it may repeat what was read.
const MAX_REASON: usize = 200;

/// What was read of the entry for some subnets.
pub(super) struct Entry {
    pub(super) create_revision: i64,
    /// Of the value, so that the same is not read again.
    pub(super) hash: [u8; 32],
    pub(super) what: What,
}

/// What an entry is.
pub(super) enum What {
    /// A signed record that was believed.
    Signed {
        /// Whose.
        serial: Serial,
        sequence: u64,
        /// Whether it was compared by its number. If not, it has another certificate than the node is known by, or another record has the same number.
        counts: bool,
    },
    /// A node that signs nothing.
    Plain(PlainNode),
    /// Subnets that an administrator keeps for somebody.
    Reservation,
    /// Nothing that could be used: the reason, as the end of a sentence.
    Bad(Box<str>),
}

impl What {
    pub(super) fn serial(&self) -> Option<Serial> {
        match self {
            Self::Signed { serial, .. } => Some(*serial),
            _ => None,
        }
    }
}

/// A reason that is safe to show: bounded, and without control characters.
pub(super) fn reason(text: &dyn std::fmt::Display) -> Box<str> {
    let text = text.to_string();
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(MAX_REASON).collect()
}

/// Reads the entry of a lease. A signed record comes with its bytes.
pub(super) fn lease(subnets: &Subnets, entry: &KeyValue, setting: &Setting) -> (What, Option<(Record, Vec<u8>)>) {
    let bad = |fault: &dyn std::fmt::Display| (What::Bad(reason(fault)), None);
    if entry.value.len() > MAX_VALUE {
        return bad(&"it is longer than 1 MiB");
    }
    let value = match LeaseValue::parse(&entry.value) {
        Ok(value) => value,
        Err(error) => return bad(&format_args!("it {error}")),
    };
    if !setting.network.permits(subnets) {
        return bad(&"it is not among the subnets of the network");
    }
    if value.signed().is_none() {
        return (unsigned(subnets, entry, &value, setting), None);
    }
    let opened = decode_value(&value)
        .and_then(|signed| open_signed(&signed, &value, subnets, &setting.anchor).map(|record| (record, signed)));
    match opened {
        Ok((record, signed)) => {
            let what = What::Signed { serial: record.certificate.serial, sequence: record.sequence, counts: true };
            (what, Some((record, signed)))
        }
        Err(error) => bad(&error),
    }
}

/// A value without a signature. Only a udp network, by our own configuration, has nodes like that.
fn unsigned(subnets: &Subnets, entry: &KeyValue, value: &LeaseValue, setting: &Setting) -> What {
    let is_udp = matches!(setting.network.backend, Backend::Udp { .. });
    let says_nothing = value.backend_type.is_none() && value.backend_data.is_none();
    match (is_udp, value.public_ip) {
        _ if value.backend_type.as_deref().is_some_and(|kind| !kind.eq_ignore_ascii_case("udp")) => {
            What::Bad("it has no signature".into())
        }
        (true, Some(public_ip)) if subnets.v4.is_some() => What::Plain(PlainNode { subnets: *subnets, public_ip }),
        (true, _) => What::Bad("it has neither a signature nor a PublicIP".into()),
        (false, _) if says_nothing && entry.lease == 0 => What::Reservation,
        (false, _) => What::Bad("it has no signature".into()),
    }
}

/// The bytes of a value of ours.
fn decode(value: &[u8]) -> Result<Vec<u8>, Box<str>> {
    if value.len() > MAX_VALUE {
        return Err("it is longer than 1 MiB".into());
    }
    STANDARD.decode(value).map_err(|_| "it is not base64".into())
}

/// Reads a tombstone, with its bytes.
pub(super) fn tombstone(number: u64, value: &[u8], anchor: &Anchor) -> Result<(Tombstone, Vec<u8>), Box<str>> {
    let signed = decode(value)?;
    let tombstone = Tombstone::open(&signed, anchor).map_err(|error| reason(&error))?;
    if tombstone.number == number { Ok((tombstone, signed)) } else { Err("its key has another number".into()) }
}

/// Reads a bundle.
pub(super) fn bundle(epoch: u32, value: &[u8], anchor: &Anchor) -> Result<Bundle, Box<str>> {
    let bundle = Bundle::open(&decode(value)?, anchor).map_err(|error| reason(&error))?;
    if bundle.epoch == epoch { Ok(bundle) } else { Err("its key has another number".into()) }
}

/// Reads a release.
pub(super) fn release(serial: Serial, value: &[u8], anchor: &Anchor) -> Result<Release, Box<str>> {
    let release = Release::open(&decode(value)?, anchor).map_err(|error| reason(&error))?;
    if release.serial() == serial { Ok(release) } else { Err("its key has another number".into()) }
}
