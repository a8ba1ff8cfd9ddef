//! Links, addresses, routes, rules, neighbours and forwarding entries, over `NETLINK_ROUTE`.
//!
//! [`Netlink`] is one blocking socket in one network namespace; the files beside this one each add the methods of one kind of
//! object, and [`Monitor`] tells when any of them changed. Requests are built with `netlink-packet-route`. Answers are read
//! with our own walker over attributes: of the hundred a device has we need fifteen, and an attribute that a newer kernel has
//! lengthened must not stop a daemon, as it does where every one of them is decoded. None of that crate's types are in our
//! interface.
//!
//! ```no_run
//! # fn main() -> linux::Result<()> {
//! # use linux::{netlink::{Netlink, Route, VethEnd}, netns::NetNs};
//! let container = NetNs::anonymous()?;
//! let mut host = Netlink::open()?;
//! let inside = VethEnd { name: "eth0", netns: Some(&container), ..VethEnd::default() };
//! host.create_veth(&VethEnd { name: "veth-c1", ..VethEnd::default() }, &inside)?;
//! let port = host.existing_link("veth-c1")?;
//! host.set_up(port.index, true)?;
//! host.add_route(&Route { device: Some(port.index), ..Route::new(std::net::IpAddr::from([10, 0, 0, 7]).into()) })?;
//! # Ok(()) }
//! ```
//!
//! Errors name the operation, then the kernel's own explanation where it gives one (extended acknowledgement), then the errno.

mod address;
mod attribute;
mod fdb;
mod link;
mod monitor;
mod neighbour;
mod route;
mod rule;
mod socket;

pub use address::Address;
pub use fdb::{Database, EVERYONE, Forwarding};
pub use link::{Layer, Link, LinkChange, Port, PortChange, Statistics, VethEnd, Vxlan, is_valid_name};
pub use monitor::{Changes, Monitor};
pub use neighbour::{Neighbour, NeighbourState, Proxy};
pub use route::{PROTOCOL, Route, RouteKind, RouteLookup};
pub use rule::{Rule, RuleAction};

pub(crate) use attribute::{Attribute, NESTED, Writer, attributes};
pub(crate) use socket::{Socket, Verdict, append_message, messages};

use std::fmt::Arguments;
use std::net::IpAddr;

use netlink_packet_core::Emitable;
use netlink_packet_route::AddressFamily;

use crate::netns::NetNs;
use crate::{Error, Result};

const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
const NLM_F_EXCL: u16 = libc::NLM_F_EXCL as u16;
const NLM_F_REPLACE: u16 = libc::NLM_F_REPLACE as u16;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.number() == number)
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        Self::from(family.number())
    }
}

/// A connection to the kernel's network configuration.
///
/// It belongs to the network namespace of the thread that opened it, and stays there wherever it is moved. Methods block until
/// the kernel has answered, which is at most a few milliseconds.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a connection in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_ROUTE)? })
    }

    /// Opens a connection in another network namespace. Needs CAP_SYS_ADMIN over it (for entering), later methods do not.
    pub fn open_in(namespace: &NetNs) -> Result<Self> {
        namespace.run(Self::open)?
    }

    /// Sends one request and waits for its acknowledgement.
    fn acknowledge(&mut self, operation: Arguments<'_>, kind: (u16, u16), body: &impl Emitable) -> Result<()> {
        self.socket.request(operation, kind, &emit(body), |_| ())
    }

    /// Sends one request that has one answer.
    fn query<T>(
        &mut self,
        operation: Arguments<'_>,
        kind: u16,
        body: &impl Emitable,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T> {
        let mut answer = None;
        self.socket
            .request(operation, (kind, 0), &emit(body), |message| answer = parse(message.body).or(answer.take()))?;
        answer.ok_or_else(|| {
            Error::from_errno(operation.to_string(), libc::EBADMSG).with_detail("the kernel's answer is not understood")
        })
    }

    /// Asks for a table and collects what `parse` makes of its entries.
    fn dump<T>(
        &mut self,
        operation: Arguments<'_>,
        kind: u16,
        body: &impl Emitable,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.socket.dump(operation, kind, &emit(body), |message| parse(message.body))
    }
}

fn emit(body: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; body.buffer_len()];
    body.emit(&mut bytes);
    bytes
}

/// An error of `operation` that we find ourselves, before the kernel is asked.
fn invalid(operation: Arguments<'_>, detail: impl Into<String>) -> Error {
    Error::from_errno(operation.to_string(), libc::EINVAL).with_detail(detail)
}
