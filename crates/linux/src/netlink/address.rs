//! Addresses of devices (`RTM_*ADDR`, linux/if_addr.h).

use std::io::ErrorKind;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};

use super::{Family, NLM_F_CREATE, NLM_F_EXCL, Netlink, RouteKind, attributes};
use crate::Result;

/// Size of `struct ifaddrmsg`.
const HEADER: usize = 8;

/// How often an address that is awaited is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

const IFA_F_TENTATIVE: u32 = libc::IFA_F_TENTATIVE;
const IFA_F_PERMANENT: u32 = libc::IFA_F_PERMANENT;

/// An address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The device.
    pub index: u32,
    /// The address itself with the length of the prefix that is reached directly.
    pub net: IpNet,
    /// The other end, where the device is a point-to-point one and was told of it.
    pub peer: Option<IpAddr>,
    /// Whether duplicate address detection still runs: the address cannot be used yet.
    pub tentative: bool,
    /// Whether it stays until it is deleted; otherwise it has a lifetime.
    pub permanent: bool,
}

impl Netlink {
    /// Gives a device an address. The kernel then adds the route to its prefix itself. `no_dad` leaves out IPv6's duplicate
    /// address detection, during which (a second or more) the address cannot be used; also without it the kernel puts an IPv6
    /// address to use a moment after this returns ([`wait_for_address`](Self::wait_for_address)).
    pub fn add_address(&mut self, index: u32, net: IpNet, no_dad: bool) -> Result<()> {
        let mut message = message_for(index, net);
        if no_dad && net.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        if net.addr().is_loopback() {
            message.header.scope = AddressScope::Host;
        }
        let kind = (libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        self.acknowledge(format_args!("add address {net} to device {index}"), kind, &message)
    }

    /// Waits until packets to an address of ours are taken in, which for IPv6 is so a moment after it was added and its device
    /// was brought up; no if it is not so within `timeout`.
    pub fn wait_for_address(&mut self, address: IpAddr, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.route_to(address) {
                Ok(route) if route.kind == RouteKind::Local => return Ok(true),
                // Refusals of a route, as opposed to those of the question.
                Err(error) if !matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => {
                    return Err(error);
                }
                _ if Instant::now() >= deadline => return Ok(false),
                _ => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Takes an address from a device.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        let operation = format_args!("delete address {net} of device {index}");
        self.acknowledge(operation, (libc::RTM_DELADDR, 0), &message_for(index, net))
    }

    /// The addresses of one device, or of all.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>> {
        let mut message = AddressMessage::default();
        message.header.index = index.unwrap_or(0);
        self.dump(format_args!("list addresses"), libc::RTM_GETADDR, &message, |body| {
            parse_address(body).filter(|address| index.is_none_or(|index| address.index == index))
        })
    }
}

fn message_for(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = Family::of(net.addr()).into();
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    // "Local" is the address; "address" is the other end, the same where there is none.
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}

/// Reads an `RTM_NEWADDR`: `struct ifaddrmsg` (family, prefix length, flags, scope: u8 each; index: u32), attributes.
fn parse_address(body: &[u8]) -> Option<Address> {
    let [family, prefix_length, flags, _, i0, i1, i2, i3] = *body.first_chunk::<HEADER>()?;
    Family::from_number(family)?;
    let (mut local, mut other, mut flags) = (None, None, u32::from(flags));
    for attribute in attributes(body.get(HEADER..)?) {
        match attribute.kind {
            libc::IFA_LOCAL => local = attribute.address(),
            libc::IFA_ADDRESS => other = attribute.address(),
            libc::IFA_FLAGS => flags = attribute.u32()?,
            _ => {}
        }
    }
    let address = local.or(other)?;
    Some(Address {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        net: IpNet::new(address, prefix_length).ok()?,
        peer: other.filter(|other| *other != address),
        tentative: flags & IFA_F_TENTATIVE != 0,
        permanent: flags & IFA_F_PERMANENT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..128)) {
            parse_address(&body);
        }
    }
}
