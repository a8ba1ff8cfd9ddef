//! Being told when devices, addresses, routes, rules, settings or packet filters change, by whomever.
//!
//! A [`Monitor`] says only what sort of thing changed. Who wants the new state reads it with a [`Netlink`](super::Netlink):
//! notifications can be lost (the kernel then says so), a reading cannot.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::socket::{Socket, messages};
use crate::netns::NetNs;
use crate::syscall::syscall;
use crate::{Error, Result};

/// The group of those who are told of changes to nf_tables (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const FILTERS: u32 = 7;

/// `RTM_DELNETCONF` (linux/rtnetlink.h), which libc has for some targets only.
const DELNETCONF: u16 = 81;

/// A subscription to changes in one network namespace. Its descriptor is readable when there are some.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    filters: Option<Socket>,
    settings: bool,
    /// An epoll(7) descriptor over both, so that there is one to wait for.
    ready: OwnedFd,
}

/// What changed since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The devices that were made, changed or deleted, sorted.
    pub links: Vec<u32>,
    /// Whether addresses came or went.
    pub addresses: bool,
    /// Whether routes came or went.
    pub routes: bool,
    /// Whether rules of policy routing came or went.
    pub rules: bool,
    /// Whether settings of devices changed that routing goes by, as `net.ipv4.conf.*.forwarding` (`RTM_NEWNETCONF`, linux/netconf.h);
    /// told only to who [watches them](Monitor::watch_settings).
    pub settings: bool,
    /// Whether packet filters changed; told only to who [watches them](Monitor::watch_filters).
    pub filters: bool,
    /// Whether notifications were lost, so that anything may have changed.
    pub overflowed: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Monitor {
    /// Subscribes in the network namespace of the calling thread. Changes from here on are told.
    pub fn open() -> Result<Self> {
        let socket = Socket::open_with(libc::NETLINK_ROUTE, libc::SOCK_NONBLOCK)?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ] {
            socket.join(group)?;
        }
        // No pointers are passed.
        let ready =
            syscall!(epoll_create1(libc::EPOLL_CLOEXEC)).map_err(|e| Error::new("make an epoll descriptor", e))?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let ready = unsafe { OwnedFd::from_raw_fd(ready) };
        let monitor = Self { socket, filters: None, settings: false, ready };
        monitor.wait_for(&monitor.socket)?;
        Ok(monitor)
    }

    /// Subscribes to changes of packet filters (nf_tables) too, in the network namespace of the calling thread. Needs
    /// CAP_NET_ADMIN, and a host that changes them all the time tells of it all the time.
    pub fn watch_filters(&mut self) -> Result<()> {
        if self.filters.is_none() {
            let socket = Socket::open_with(libc::NETLINK_NETFILTER, libc::SOCK_NONBLOCK)?;
            socket.join(FILTERS)?;
            self.wait_for(&socket)?;
            self.filters = Some(socket);
        }
        Ok(())
    }

    /// Subscribes to changes of devices' settings too. A new device is told of as well.
    pub fn watch_settings(&mut self) -> Result<()> {
        if !self.settings {
            self.socket.join(libc::RTNLGRP_IPV4_NETCONF)?;
            self.socket.join(libc::RTNLGRP_IPV6_NETCONF)?;
            self.settings = true;
        }
        Ok(())
    }

    fn wait_for(&self, socket: &Socket) -> Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // The event is on this stack frame; the kernel copies it.
        syscall!(epoll_ctl(self.ready.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_fd().as_raw_fd(), &raw mut event))
            .map(drop)
            .map_err(|e| Error::new("wait for network changes", e))
    }

    /// Subscribes in another network namespace.
    pub fn open_in(namespace: &NetNs) -> Result<Self> {
        namespace.run(Self::open)?
    }

    /// What changed since the last call; does not wait.
    pub fn drain(&mut self) -> Result<Changes> {
        let mut changes = Changes::default();
        let lost = read(&mut self.socket, |datagram| note(&mut changes, datagram))?;
        changes.overflowed = lost;
        if let Some(filters) = &mut self.filters {
            let lost = read(filters, |_| changes.filters = true)?;
            changes.filters |= lost;
        }
        changes.links.sort_unstable();
        changes.links.dedup();
        Ok(changes)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// Reads what is there; answers whether some was lost.
fn read(socket: &mut Socket, mut take: impl FnMut(&[u8])) -> Result<bool> {
    let mut lost = false;
    loop {
        match socket.receive() {
            Ok(datagram) => take(datagram),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
            // The kernel says once that it had to drop some; what it kept is still to be read.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
            Err(error) => return Err(Error::new("read network changes", error)),
        }
    }
}

fn note(changes: &mut Changes, datagram: &[u8]) {
    for message in messages(datagram) {
        match message.kind {
            // `struct ifinfomsg`: the index is in the bytes 4 to 7.
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let index = message.body.get(4..8).and_then(|bytes| bytes.first_chunk());
                changes.links.extend(index.map(|bytes| u32::from_ne_bytes(*bytes)));
            }
            libc::RTM_NEWADDR | libc::RTM_DELADDR => changes.addresses = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changes.routes = true,
            libc::RTM_NEWRULE | libc::RTM_DELRULE => changes.rules = true,
            libc::RTM_NEWNETCONF | DELNETCONF => changes.settings = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_datagram_is_read_without_panic(datagram in proptest::collection::vec(any::<u8>(), 0..128)) {
            note(&mut Changes::default(), &datagram);
        }
    }
}
