//! What crashes left beside whole records: records that cannot be read, and files that were never finished.
//!
//! Nobody knows which addresses a container has whose record cannot be read. While its device is there, nothing may be given out; once that is gone
//! the container is, and the record with it. Its names follow from the name of its file, so that it can be removed as any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use linux::nft::Family;

use super::apply::Kernel;
use super::record::{Process, Stage};
use super::{Fault, FaultKind, Key, Locked, Record, Store, filters, plan};

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its file.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub fault: Fault,
}

impl Damaged {
    /// The veth end on the host of the attachment that it was of.
    pub fn host_interface(&self) -> Option<String> {
        let stem = self.path.file_stem()?.to_str()?;
        (stem.len() == 16 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| format!("ad{stem:.12}"))
    }
}

/// Removes what is nobody's any more.
///
/// # Errors
/// A container lives whose record cannot be read.
pub(super) fn clear(
    kernel: &mut Kernel,
    locked: &Locked<'_>,
    damaged: &[Damaged],
    unfinished: &[PathBuf],
) -> Result<(), Fault> {
    for path in unfinished.iter().filter(|path| writer(path).is_none_or(|pid| !Process::may_be_there(pid))) {
        tracing::debug!("removing {}, which nobody will finish", path.display());
        remove(path)?;
    }
    for record in damaged {
        // What is no record of ours is nobody's attachment.
        let Some(device) = record.host_interface() else { continue };
        if kernel.netlink.link(&device)?.is_some() {
            let sentence = format!(
                "{}; while its container has the device {device}, nobody knows which address to keep from others: remove the container, or its \
                 device with `ip link delete {device}`",
                record.fault
            );
            return Err(Fault::new(FaultKind::Storage, sentence));
        }
        kernel.delete_filters(Family::Netdev, &filters::table(&device))?;
        remove(&record.path)?;
        lead_ports(kernel, locked)?;
    }
    Ok(())
}

/// Removes everything of an attachment whose record cannot be read.
pub(super) fn detach(store: &Store, key: &Key, fault: &Fault) -> Result<(), Fault> {
    tracing::warn!("{fault}; it is removed with what was its container's");
    let mut kernel = Kernel::open()?;
    let device = key.host_interface();
    let bridge = match kernel.netlink.link(&device)?.and_then(|link| link.controller) {
        Some(index) => kernel.netlink.link_by_index(index)?.map(|link| link.name),
        None => None,
    };
    kernel.delete_link(&device, "veth")?;
    kernel.delete_link(&device, "tun")?;
    kernel.delete_filters(Family::Netdev, &filters::table(&device))?;
    let locked = store.lock()?;
    locked.remove(key)?;
    lead_ports(&mut kernel, &locked)?;
    let others = locked.records()?;
    match bridge {
        Some(bridge) if !others.iter().any(|other| other.stage != Stage::Reserved && other.bridge == bridge) => {
            kernel.delete_bridge(&bridge).map(drop)
        }
        _ => Ok(()),
    }
}

/// Has the ports that are published lead to those containers that are known, and to no others.
fn lead_ports(kernel: &mut Kernel, locked: &Locked<'_>) -> Result<(), Fault> {
    let made: Vec<Record> = locked.records()?.into_iter().filter(|record| record.stage == Stage::Made).collect();
    let actual = kernel.observe_ports(locked.device())?;
    plan::published(locked.device(), &made, &actual).map_or(Ok(()), |step| kernel.carry_out(&step))
}

/// Which process writes an unfinished file: `.NAME.PID.new`.
fn writer(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_suffix(".new")?.rsplit_once('.')?.1.parse().ok()
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Fault::new(FaultKind::Storage, format!("cannot remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}
