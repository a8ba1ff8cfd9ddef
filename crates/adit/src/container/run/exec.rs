//! `adit exec`: one more command in a container of `adit run`.

use std::env;
use std::ffi::OsString;
use std::process::Command;

use linux::sandbox::{self, Namespaces, Signals};

use super::attend::Attendant;
use super::{check, exit_code, not_started};
use crate::container::{Door, Process, Store, collect};
use crate::{Directories, Failure, Result};

/// Runs a command in the container of this name, in the foreground; answers its exit code, 128 and its number for a signal.
///
/// # Errors
/// There is no such container, it is another runtime's, or the command could not be started.
pub fn exec(directories: &Directories, device: &str, name: &str, command: &[OsString]) -> Result<u8> {
    check(device)?;
    let namespaces = open(directories, device, name)?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::failed("no command is given"));
    };
    let directory = env::current_dir();
    let signals = Signals::take_over()?;
    let attendant = Attendant::new(&signals);
    namespaces.enter()?;
    // The same file system; but the directory may be below one that is covered there.
    directory
        .and_then(env::set_current_dir)
        .or_else(|_| env::set_current_dir("/"))
        .map_err(|e| Failure::failed(format!("cannot enter /: {e}")))?;
    let mut command = Command::new(program);
    sandbox::dying_with_parent(signals.delivered_to(command.args(arguments)))?;
    attendant.lend_to(&mut command);
    let child = command.spawn().map_err(|e| not_started(program, &e))?;
    Ok(exit_code(attendant.wait(child.id(), None)?))
}

/// The namespaces of a container of ours that runs.
fn open(directories: &Directories, device: &str, name: &str) -> Result<Namespaces> {
    let store = Store::of(directories, device);
    collect(&store, &|_| true)?;
    let records = store.read_all()?;
    let of_name = || records.iter().filter(|record| record.name.as_deref() == Some(name));
    let Some(record) = of_name().find(|record| record.key.door == Door::Run).or_else(|| of_name().next()) else {
        return Err(Failure::failed(format!("there is no container {name} on this node; see `adit ps`")));
    };
    let process = match (record.key.door, record.process) {
        (Door::Cni, _) => {
            return Err(Failure::failed(format!(
                "{name} is a container of another runtime; use that one, such as `podman exec {name}`"
            )));
        }
        (Door::Docker, _) => {
            return Err(Failure::failed(format!("{name} is a container of Docker; use `docker exec {name}`")));
        }
        (Door::Vm, _) => {
            return Err(Failure::failed(format!("{name} is a virtual machine; use a console of it, or ssh")));
        }
        (Door::Run, process) => process,
    };
    let ended = || Failure::failed(format!("the container {name} has ended"));
    let process: Process = process.ok_or_else(ended)?;
    let namespaces = Namespaces::of(process.pid).map_err(|_| ended())?;
    // They were that process's only if it was not another's number by then.
    if process.is_alive() { Ok(namespaces) } else { Err(ended()) }
}
