//! A network namespace with a name; it goes with its value, and what is inside with it.

use linux::netlink::Netlink;
use linux::netns::NetNs;
use linux::sysctl;

use crate::{Failure, Result};

/// The loopback device is the first of every namespace.
const LOOPBACK: u32 = 1;

/// A named network namespace; the name goes with this value, and what is inside with the name.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    net: NetNs,
    removed: bool,
}

impl Namespace {
    /// Makes one with its loopback device up. A `router` forwards IPv4.
    ///
    /// # Errors
    /// What the kernel refused. What was made so far is gone again.
    pub(crate) fn create(name: String, router: bool) -> Result<Self> {
        let net = NetNs::create_named(&name)?;
        let namespace = Self { name, net, removed: false };
        namespace.netlink()?.set_up(LOOPBACK, true)?;
        namespace.net.run(|| settings(router))??;
        Ok(namespace)
    }

    /// The names of namespaces that begin with `prefix`.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(crate) fn present(prefix: &str) -> Result<Vec<String>> {
        Ok(NetNs::list_named()?.into_iter().filter(|name| name.starts_with(prefix)).collect())
    }

    /// Removes the namespaces of a run that was killed, and answers their names.
    ///
    /// # Errors
    /// A namespace cannot be removed.
    pub(crate) fn remove_leftovers(prefix: &str) -> Result<Vec<String>> {
        let names = Self::present(prefix)?;
        for name in &names {
            NetNs::delete_named(name)?;
        }
        Ok(names)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The namespace itself.
    pub(crate) fn net(&self) -> &NetNs {
        &self.net
    }

    /// A connection to its kernel's configuration.
    ///
    /// # Errors
    /// No socket.
    pub(crate) fn netlink(&self) -> Result<Netlink> {
        Ok(Netlink::open_in(&self.net)?)
    }

    /// Removes all of them and answers their names.
    ///
    /// # Errors
    /// The first that could not be removed; all others were tried as well.
    pub(crate) fn remove_all<'n>(namespaces: impl Iterator<Item = &'n mut Self>) -> Result<Vec<String>> {
        let (mut names, mut outcome) = (Vec::new(), Ok(()));
        for namespace in namespaces {
            match namespace.remove() {
                Ok(()) => names.push(namespace.name.clone()),
                Err(failure) => outcome = outcome.and(Err(failure)),
            }
        }
        outcome.map(|()| names)
    }

    fn remove(&mut self) -> Result<()> {
        if !self.removed {
            self.removed = true;
            NetNs::delete_named(&self.name)?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// Settings of the calling thread's namespace.
fn settings(router: bool) -> Result<()> {
    // A yardstick must not change with the machine's default; a kernel without it measures with what it has.
    let _ = sysctl::set(&["net", "ipv4", "tcp_congestion_control"], "cubic");
    if router {
        sysctl::set(&["net", "ipv4", "ip_forward"], "1").map_err(|error| {
            Failure::from(error)
                .with_remedy("in a container, start it with `--privileged` or with a writable /proc/sys")
        })?;
    }
    Ok(())
}
