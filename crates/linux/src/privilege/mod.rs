//! What a process may do: finding out, getting more in a namespace of its own, giving up what it no longer needs.
//!
//! A daemon gives up its rights in stages, each a function here, in this order: open what needs them, then
//! [`forbid_new_privileges`], [`forbid_dumps`] and [`keep_capabilities`] (or all three with [`drop_to_net_admin`]), and only
//! then start threads and read the first packet.

mod capability;
mod peer;
mod user_namespace;

pub use capability::{
    Capability, drop_to, drop_to_net_admin, forbid_dumps, forbid_new_privileges, has_capability, keep_capabilities,
    keep_in_this_thread,
};
pub use peer::{Credentials, peer_credentials, user_id, user_in_group, user_name};
pub use user_namespace::{in_user_namespace, reenter_user_namespace, user_namespace_remedy};

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// Whether the process runs as root, of the system or of its user namespace.
pub fn is_root() -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The number of the user with whose rights the process runs.
pub fn effective_user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether TUN and TAP devices can be had: opens `/dev/net/tun`, and says what to do if that fails.
pub fn check_tun() -> Result<()> {
    let path = Path::new("/dev/net/tun");
    let Err(source) = OpenOptions::new().read(true).write(true).open(path) else { return Ok(()) };
    let remedy = tun_remedy(&source, path.exists());
    Err(Error::new("open /dev/net/tun", source).with_detail(remedy))
}

fn tun_remedy(error: &io::Error, exists: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => "the kernel's tun module is not loaded: type `sudo modprobe tun`",
        Some(libc::EACCES) => "this user may not open it: run as root, or type `sudo chmod 0666 /dev/net/tun`",
        Some(libc::EPERM) => "this container may not use it: start the container with `--device /dev/net/tun`",
        _ if !exists => {
            "it is not there: type `sudo modprobe tun`, or start the container with `--device /dev/net/tun`"
        }
        _ => "it cannot be used",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_remedy() {
        for (errno, exists, words) in [
            (libc::ENOENT, false, "--device /dev/net/tun"),
            (libc::ENODEV, true, "modprobe tun"),
            (libc::EACCES, true, "chmod"),
            (libc::EPERM, true, "--device"),
        ] {
            let remedy = tun_remedy(&io::Error::from_raw_os_error(errno), exists);
            assert!(remedy.contains(words), "{errno}: {remedy}");
        }
    }
}
