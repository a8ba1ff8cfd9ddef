//! Socket addresses in the kernel's form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// One of our own addresses, and the device it was seen on: where a datagram came to, and where the answer leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddress {
    /// IPv4 in IPv4 form, also on a socket for both families.
    pub ip: IpAddr,
    /// Index of the device; 0 leaves the choice to the routes.
    pub device: u32,
}

/// A `sockaddr_in` or `sockaddr_in6` in a buffer that holds either.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress {
    storage: libc::sockaddr_in6,
}

impl RawAddress {
    // All fields are integers, zero is "no address" (AF_UNSPEC).
    pub(crate) const EMPTY: Self = Self {
        storage: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// `six`: for a socket of AF_INET6, on which IPv4 addresses are written as mapped ones.
    pub(crate) fn new(address: SocketAddr, six: bool) -> Self {
        let mut raw = Self::EMPTY;
        match address {
            SocketAddr::V4(v4) if !six => {
                let four = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a sockaddr_in is shorter than a sockaddr_in6 (asserted below) and not more strictly aligned,
                // and both are plain integers.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in>().write(four) };
            }
            SocketAddr::V4(v4) => raw.set_six(v4.ip().to_ipv6_mapped(), v4.port(), 0),
            SocketAddr::V6(v6) => raw.set_six(*v6.ip(), v6.port(), v6.scope_id()),
        }
        raw
    }

    fn set_six(&mut self, ip: Ipv6Addr, port: u16, scope: u32) {
        self.storage.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        self.storage.sin6_port = port.to_be();
        self.storage.sin6_addr.s6_addr = ip.octets();
        self.storage.sin6_scope_id = scope;
    }

    /// The address in our form; mapped IPv4 addresses come out as IPv4.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.sin6_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel (or `new`) wrote a sockaddr_in here; it is shorter than the
                // storage, not more strictly aligned, and plain integers.
                let four = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(four.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(four.sin_port))))
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(self.storage.sin6_addr.s6_addr);
                let port = u16::from_be(self.storage.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(four) => SocketAddr::V4(SocketAddrV4::new(four, port)),
                    None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, self.storage.sin6_scope_id)),
                })
            }
            _ => None,
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
    }

    /// Bytes in use.
    pub(crate) fn len(&self) -> libc::socklen_t {
        let length = if i32::from(self.storage.sin6_family) == libc::AF_INET {
            size_of::<libc::sockaddr_in>()
        } else {
            size_of::<libc::sockaddr_in6>()
        };
        length as libc::socklen_t
    }

    /// Bytes there are.
    pub(crate) fn capacity(&self) -> libc::socklen_t {
        size_of_val(&self.storage) as libc::socklen_t
    }
}

const _: () = assert!(size_of::<libc::sockaddr_in>() <= size_of::<libc::sockaddr_in6>());
const _: () = assert!(align_of::<libc::sockaddr_in>() <= align_of::<libc::sockaddr_in6>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for (address, six) in [
            ("192.0.2.7:7777", false),
            ("192.0.2.7:7777", true),
            ("[2001:db8::7]:1", true),
            ("[fe80::1%4]:65535", true),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(RawAddress::new(address, six).decode(), Some(address));
        }
        assert_eq!(RawAddress::EMPTY.decode(), None);
    }
}
