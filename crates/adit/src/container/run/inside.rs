//! The first process of a container: mounts what the command is to see, starts it, and reaps whatever ends inside.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use linux::poll::readable;
use linux::sandbox::{self, Change, Signals, mount};
use serde::{Deserialize, Serialize};

use super::{FAILED, exit_code, not_started};
use crate::{Failure, Result};

const SIGCHLD: i32 = 17;

/// Sockets by which programs ask a resolver of the host past `/etc/resolv.conf`: systemd's, and the cache of the C library.
const RESOLVERS: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];

/// What the first process is told, once the container is attached.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The host name.
    pub hostname: String,
    /// What `/etc/hosts` says.
    pub hosts: String,
    /// What `/etc/resolv.conf` says.
    pub resolv_conf: String,
    /// Whether the host's own resolvers are to be hidden.
    pub hide_resolvers: bool,
}

/// Waits for orders on this descriptor, runs a command as they say, and answers its exit code.
///
/// # Errors
/// The orders cannot be carried out, or the command not be started.
pub fn inside(descriptor: i32, command: &[OsString]) -> Result<u8> {
    sandbox::die_with_parent()?;
    let mut socket = UnixStream::from(sandbox::inherited(descriptor)?);
    let signals = Signals::take_over()?;
    let mut text = Vec::new();
    socket.read_to_end(&mut text).map_err(|e| Failure::failed(format!("cannot read the orders of adit run: {e}")))?;
    if text.is_empty() {
        // Whoever started us has ended, or has said already why there is no container.
        return Ok(FAILED);
    }
    let orders: Orders = serde_json::from_slice(&text)
        .map_err(|e| Failure::failed(format!("the orders of adit run are damaged: {e}")))?;
    prepare(&orders)?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::failed("no command is given"));
    };
    let mut command = Command::new(program);
    let child = signals.delivered_to(command.args(arguments)).spawn().map_err(|e| not_started(program, &e))?;
    attend(&signals, &socket, child.id())
}

/// Until the command ends.
fn attend(signals: &Signals, mut socket: &UnixStream, pid: u32) -> Result<u8> {
    loop {
        while let Some((who, change)) = sandbox::reap() {
            match change {
                Change::Ended(status) if who == pid => return Ok(exit_code(status)),
                // Whoever waits outside is to stop too; where he is gone, so are we in a moment.
                Change::Stopped if who == pid => drop(socket.write(&[0])),
                // Somebody's whose parent has ended.
                _ => {}
            }
        }
        readable([signals.as_fd()], None)?;
        while let Some(arrival) = signals.take() {
            if arrival.sent && arrival.number != SIGCHLD {
                let _ = sandbox::send(pid, false, arrival.number);
            }
        }
    }
}

/// Mounts what is the container's own over what is the host's.
fn prepare(orders: &Orders) -> Result<()> {
    mount::keep_to_oneself()?;
    mount::set_host_name(&orders.hostname)?;
    mount::processes(Path::new("/proc"))?;
    let (sys, groups) = (Path::new("/sys"), Path::new("/sys/fs/cgroup"));
    // Of the host's /sys this stays: programs read there how much memory they may have.
    let kept = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(groups).ok();
    put_files(sys, orders)?;
    mount::devices(sys)?;
    if let Some(kept) = kept.filter(|_| groups.is_dir()) {
        mount::bind(Path::new(&format!("/proc/self/fd/{}", kept.as_raw_fd())), groups)?;
    }
    Ok(())
}

/// Puts our text in the place of files of `/etc`; where they lie is covered, for a moment, by `stage`.
fn put_files(stage: &Path, orders: &Orders) -> Result<()> {
    if orders.hide_resolvers {
        for resolver in RESOLVERS.map(Path::new).into_iter().filter(|path| path.is_dir()) {
            mount::memory(resolver)?;
            // Where /etc/resolv.conf is a link, it leads to one of these.
            for name in ["resolv.conf", "stub-resolv.conf"] {
                write(&resolver.join(name), &orders.resolv_conf)?;
            }
        }
    }
    mount::memory(stage)?;
    let hostname = format!("{}\n", orders.hostname);
    for (name, text) in [("resolv.conf", &orders.resolv_conf), ("hosts", &orders.hosts), ("hostname", &hostname)] {
        let (source, target) = (stage.join(name), Path::new("/etc").join(name));
        if fs::metadata(&target).is_ok() {
            write(&source, text)?;
            mount::bind(&source, &target)?;
        } else if name != "hostname" {
            let target = target.display();
            tracing::warn!(
                "names are not resolved inside, since this host has no {target}; make one with `touch {target}`"
            );
        }
    }
    // The files stay where they are bound.
    mount::unmount(stage).map_err(Into::into)
}

fn write(path: &Path, text: &str) -> Result<()> {
    // For everybody to read, whatever files of this process are otherwise (umask).
    let write = || {
        let mut file = File::create(path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))
}
