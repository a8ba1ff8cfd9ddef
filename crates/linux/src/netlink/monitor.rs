//! Being told when devices, addresses or routes change, by whomever.
//!
//! A [`Monitor`] says only what sort of thing changed. Who wants the new state reads it with a [`Netlink`](super::Netlink):
//! notifications can be lost (the kernel then says so), a reading cannot.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::socket::{Socket, messages};
use crate::netns::NetNs;
use crate::{Error, Result};

/// A subscription to changes in one network namespace. Its descriptor is readable when there are some.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
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
        ] {
            socket.join(group)?;
        }
        Ok(Self { socket })
    }

    /// Subscribes in another network namespace.
    pub fn open_in(namespace: &NetNs) -> Result<Self> {
        namespace.run(Self::open)?
    }

    /// What changed since the last call; does not wait.
    pub fn drain(&mut self) -> Result<Changes> {
        let mut changes = Changes::default();
        loop {
            match self.socket.receive() {
                Ok(datagram) => note(&mut changes, datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The kernel says once that it had to drop some; what it kept is still to be read.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changes.overflowed = true,
                Err(error) => return Err(Error::new("read network changes", error)),
            }
        }
        changes.links.sort_unstable();
        changes.links.dedup();
        Ok(changes)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
