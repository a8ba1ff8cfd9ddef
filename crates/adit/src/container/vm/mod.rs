//! `adit vm-tap`: the card of a virtual machine, a TAP that is a port of a bridge.
//!
//! ```text
//!  a node of a network    ─► node.rs  as a container: an address of the lease, filters, a name; the bridge of containers
//!  a tunnel from a file   ─► lan.rs   a port of the bridge beside adit's own device; an address of `reserve`, no filters
//! ```
//!
//! Both write the same [records](super::record), by which the daemon makes the card again where it is gone. Whoever runs the same command again gets
//! the same card, so that it can stand in the script that starts the machine.

mod card;
mod lan;
mod node;

pub use card::Card;

use ipnet::IpNet;
use linux::privilege;

use super::run::name::is_label;
use super::{Door, Key, Node, Record, Stage, Store, collect, detach};
use crate::{Directories, Failure, Result, api, config};

/// What stands for the device inside, whose name the machine gives.
const INTERFACE: &str = "tap";

/// The user that owns a card for which nobody is named.
const ROOT: u32 = 0;

/// What is asked of `adit vm-tap`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The name of the machine.
    pub name: String,
    /// The user that is to open the card, by name or number; none: as it is, or root.
    pub owner: Option<String>,
    /// Pairs of queues; none: as it is, or one.
    pub queues: Option<u16>,
}

/// The same, checked.
struct Asked {
    key: Key,
    name: String,
    owner: Option<u32>,
    queues: Option<u16>,
}

/// Makes the card of this name, or makes it whole again.
///
/// # Errors
/// It cannot be; then nothing is left of it, or all is as it was.
pub fn make(directories: &Directories, device: &str, options: &Options) -> Result<Card> {
    check(device, &options.name)?;
    let owner = options.owner.as_deref().map(user).transpose()?;
    let asked = Asked { key: key(device, &options.name), name: options.name.clone(), owner, queues: options.queues };
    let store = Store::of(directories, device);
    match api::status(&directories.runtime, device) {
        Ok(status) if status.network.is_none() => {
            let lan = lan::Lan::of(&status)?;
            prepare(&store, &asked, true)?;
            lan.make(&store, &asked)
        }
        // The node says what it is while no daemon runs, too.
        _ => {
            let node = Node::read(directories, device).map_err(|fault| match has_lan(&store) {
                true => {
                    Failure::failed(format!("the daemon of {device} does not run, which knows the LAN of its cards"))
                        .with_remedy("start it with `adit up FILE`, with the file of that tunnel")
                }
                false => fault.into(),
            })?;
            prepare(&store, &asked, false)?;
            node::make(&node, &store, &asked)
        }
    }
}

/// Whether there is a card on the bridge of a tunnel from a file.
fn has_lan(store: &Store) -> bool {
    store.read_all().is_ok_and(|records| records.iter().any(|record| record.tap.is_some_and(|tap| tap.lan)))
}

/// Whether the daemon of this device runs a tunnel from a file on whose bridge there may be cards.
pub fn is_lan(directories: &Directories, device: &str) -> bool {
    let status = api::status(&directories.runtime, device);
    status.is_ok_and(|status| status.switch.is_some_and(|switch| switch.bridge.is_some()))
}

/// Removes the card of this name; says what that was.
///
/// # Errors
/// There is none, or it cannot be removed.
pub fn delete(directories: &Directories, device: &str, name: &str) -> Result<String> {
    check(device, name)?;
    let store = Store::of(directories, device);
    let key = key(device, name);
    let record = match store.read(&key) {
        Ok(Some(record)) => Some(record),
        Ok(None) => return Err(nothing_to_delete(&store, name)),
        // It is known by its name alone.
        Err(_) => None,
    };
    detach(&store, &key)?;
    let mut freed = format!("{name} is deleted: its device {} is gone", key.host_interface());
    let addresses: Vec<String> =
        record.iter().flat_map(|record| &record.addresses).map(|net| net.addr().to_string()).collect();
    if !addresses.is_empty() {
        freed.push_str(&format!(", and another may get {}", addresses.join(" and ")));
    }
    Ok(freed)
}

fn nothing_to_delete(store: &Store, name: &str) -> Failure {
    let records = store.read_all().unwrap_or_default();
    match records.iter().find(|record| record.title() == name) {
        Some(record) => Failure::failed(format!("{name} is no virtual machine; {}", end_it(record))),
        None => Failure::failed(format!("there is no virtual machine {name} on this host; see `adit ps`")),
    }
}

/// How a container of another door is ended.
fn end_it(record: &Record) -> String {
    let title = record.title();
    match record.key.door {
        Door::Cni => format!("remove it by its own runtime, such as `podman rm -f {title}`"),
        Door::Docker => format!("remove it with `docker rm -f {title}`"),
        Door::Run => {
            format!("it is a command of `adit run`, and goes when that ends: `adit exec {title} -- ps` shows it")
        }
        Door::Vm => format!("delete it with `adit vm-tap {title} --delete`"),
    }
}

fn key(device: &str, name: &str) -> Key {
    Key { door: Door::Vm, network: device.into(), container: name.into(), interface: INTERFACE.into() }
}

fn check(device: &str, name: &str) -> Result<()> {
    config::check_device(device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
    if !is_label(name) {
        return Err(Failure::usage(format!(
            "{name:?} is no name for a virtual machine: use 1 to 63 of a to z, 0 to 9 and '-', with no '-' at either end"
        )));
    }
    if privilege::is_root() {
        return Ok(());
    }
    Err(Failure::failed(
        "cards of virtual machines are made by root alone; put `sudo` before the command, and name with --owner who is to run QEMU",
    ))
}

/// The number of a user.
fn user(text: &str) -> Result<u32> {
    // A name of digits alone is nobody's.
    if let Ok(number) = text.parse() {
        // The last one means none (chown(2)).
        return match number {
            u32::MAX => {
                Err(Failure::usage(format!("{text} is no user: the largest number of one is {}", u32::MAX - 1)))
            }
            number => Ok(number),
        };
    }
    privilege::user_id(text)?.ok_or_else(|| {
        Failure::usage(format!(
            "there is no user {text:?} on this host; see `getent passwd`, or give the number of a user"
        ))
    })
}

/// Removes what killed programs left, and refuses what contradicts what there is.
fn prepare(store: &Store, asked: &Asked, lan: bool) -> Result<()> {
    collect(store, &|_| true)?;
    let name = &asked.name;
    let again = |what: &str| {
        let sentence = format!("the virtual machine {name} has {what}");
        Err(Failure::failed(sentence).with_remedy(format!(
            "delete it with `adit vm-tap {name} --delete`, then make it anew, or leave the option out"
        )))
    };
    for record in store.read_all()? {
        if record.key != asked.key {
            if record.name.as_ref() == Some(name) {
                let door = record.key.door.as_str();
                return Err(Failure::failed(format!("there is a container {name} already (door {door})"))
                    .with_remedy("choose another name, or end that one"));
            }
            continue;
        }
        let Some(tap) = record.tap else { continue };
        if tap.lan != lan {
            let sentence = format!("the virtual machine {name} was made when {} was another network's", store.device());
            let remedy = format!("delete it with `adit vm-tap {name} --delete`, then make it anew");
            return Err(Failure::failed(sentence).with_remedy(remedy));
        }
        if asked.owner.is_some_and(|owner| owner != tap.owner) {
            return again(&format!("another owner, {}", card::user_title(tap.owner)));
        }
        if asked.queues.is_some_and(|queues| queues != tap.queues) {
            return again(&match tap.queues {
                1 => "1 queue".to_owned(),
                n => format!("{n} queues"),
            });
        }
    }
    Ok(())
}

/// The record of this key, if it was made.
fn made(records: &[Record], key: &Key) -> Option<Record> {
    records.iter().find(|record| record.key == *key && record.stage == Stage::Made).cloned()
}

/// The addresses as a list, for a sentence.
fn list(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
