//! Resolvers of a tunnel: questions for names go to them while it is up, and to the host's own again afterwards, also after a crash.
//!
//! The host's own program sets them, as wg-quick(8) has it: `resolvectl` where systemd-resolved answers, else `resolvconf`. Where there
//! is neither, nothing starts: a tunnel beside which all names are asked for in the clear would be worse than none. What is run is looked
//! for in the search path, and no word of a configuration gets into its arguments but addresses and domains that were checked.
//!
//! It runs after the daemon gave its rights up, with those that are left: the user, and CAP_NET_ADMIN. So whatever could be set can be
//! unset, and no process with more rights is kept for it. That it is set is written down before it is, for `adit down` and the
//! next start after a crash.

mod record;
mod way;

use std::path::Path;

use record::Record;
use way::Way;

use crate::config::Dns;
use crate::{Failure, Result};

/// The resolvers of one device.
#[derive(Debug)]
pub struct Resolvers {
    device: String,
    record: Record,
    /// How they are set, if they are.
    set: Option<Way>,
}

impl Resolvers {
    /// Looks, before the host is changed, whether they can be set. What an earlier daemon of the device left set stays until
    /// [`Resolvers::set`] replaces it, and is unset at once if nothing will.
    ///
    /// # Errors
    /// There is no program that could; what is left cannot be unset.
    pub fn prepare(device: &str, dns: &Dns, state_dir: &Path) -> Result<Self> {
        let record = Record::of(device, state_dir);
        let left = record.read()?;
        let mut resolvers = Self { device: device.into(), record, set: left };
        if dns.servers.is_empty() {
            resolvers.remove()?;
        } else {
            Way::find(device)?;
        }
        Ok(resolvers)
    }

    /// Sets these, in place of what was set before; none: the host's own. To be called again when the device was made anew.
    ///
    /// # Errors
    /// The host's program failed; then the host's own are asked.
    pub fn set(&mut self, dns: &Dns) -> Result<()> {
        if dns.servers.is_empty() {
            return self.remove();
        }
        let way = Way::find(&self.device)?;
        if self.set.as_ref().is_some_and(|before| *before != way) {
            self.remove()?;
        }
        self.record.write(&way)?;
        self.set = Some(way.clone());
        if let Err(failure) = way.set(&self.device, dns) {
            if let Err(second) = self.remove() {
                tracing::warn!("while taking changes back: {second}");
            }
            let remedy =
                "its words are in the log above; or take the line with the DNS servers out of the configuration";
            return Err(failure.with_remedy(remedy));
        }
        Ok(())
    }

    /// Gives the host its own back. Whether there was anything to do is in no way an error.
    ///
    /// # Errors
    /// The host's program failed; it remains written down.
    pub fn remove(&mut self) -> Result<()> {
        let Some(way) = &self.set else { return Ok(()) };
        way.unset(&self.device)?;
        self.record.remove()?;
        self.set = None;
        Ok(())
    }
}

/// Unsets what a killed daemon of `device` left set; answers whether it had.
///
/// # Errors
/// The host's program failed; it remains written down.
pub fn remove_leftovers(device: &str, state_dir: &Path) -> Result<bool> {
    let record = Record::of(device, state_dir);
    let set = record.read()?;
    let found = set.is_some();
    Resolvers { device: device.into(), record, set }.remove()?;
    Ok(found)
}

/// A failure of the host's program.
fn failed(program: &str, arguments: &[&str], why: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("`{program} {}` failed: {why}", arguments.join(" ")))
}
