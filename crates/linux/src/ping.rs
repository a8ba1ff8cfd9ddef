//! Round trips by ICMP echo (RFC 792), over a raw socket.
//!
//! A raw socket needs CAP_NET_RAW over the network namespace. The unprivileged kind (`SOCK_DGRAM`) would not, but a namespace
//! that was just made permits it to nobody (`net.ipv4.ping_group_range` is empty there).

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use wire::icmp::{HEADER_LEN, IcmpHeader, IcmpMessage, v4};
use wire::ip::IpPacket;

use crate::poll::readable;
use crate::syscall::syscall;
use crate::{Error, Result};

/// Bytes behind the ICMP header, as many as ping(8) sends.
pub const PAYLOAD: usize = 56;

/// The kind of messages that a raw ICMP socket does not receive, one bit per type (linux/icmp.h; libc does not name it).
const ICMP_FILTER: libc::c_int = 1;

/// An IPv4 address to be asked for echoes, from the network namespace of the thread that made this.
#[derive(Debug)]
pub struct Pinger {
    fd: OwnedFd,
    destination: Ipv4Addr,
    identifier: u16,
    sequence: u16,
}

impl Pinger {
    /// Opens a socket. `identifier` tells our echoes from those of others who ask the same host.
    ///
    /// # Errors
    /// EPERM: no CAP_NET_RAW here; ENETUNREACH and the like: no route to the destination.
    pub fn open(destination: Ipv4Addr, identifier: u16) -> Result<Self> {
        let failed = |source| Error::new(format!("open a socket to ping {destination}"), source);
        // All arguments are plain numbers.
        let fd =
            syscall!(socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP)).map_err(failed)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let unwanted = !(1u32 << v4::ECHO_REPLY);
        let (pointer, length) = (std::ptr::from_ref(&unwanted).cast(), size_of_val(&unwanted) as libc::socklen_t);
        // Pointer and length describe a mask on this stack frame.
        syscall!(setsockopt(fd.as_raw_fd(), libc::SOL_RAW, ICMP_FILTER, pointer, length)).map_err(failed)?;
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(destination).to_be() },
            sin_zero: [0; 8],
        };
        let length = size_of_val(&address) as libc::socklen_t;
        // Pointer and length describe an address on this stack frame. Connected, the socket receives from there only.
        syscall!(connect(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length)).map_err(failed)?;
        Ok(Self { fd, destination, identifier, sequence: 0 })
    }

    /// Sends one echo request and waits for its answer; `None` if none came within `timeout`, or if the network said that the
    /// destination cannot be reached.
    ///
    /// # Errors
    /// What else the kernel said.
    pub fn round_trip(&mut self, timeout: Duration) -> Result<Option<Duration>> {
        let failed = |source| Error::new(format!("ping {}", self.destination), source);
        self.sequence = self.sequence.wrapping_add(1);
        let request = echo_request(self.identifier, self.sequence);
        let start = Instant::now();
        // Pointer and length describe the request.
        match syscall!(send(self.fd.as_raw_fd(), request.as_ptr().cast(), request.len(), 0)) {
            Ok(_) => {}
            Err(error) if is_unreachable(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let mut answer = [0u8; 20 + HEADER_LEN + PAYLOAD + 40];
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            let [ready] = readable([self.fd.as_fd()], Some(left))?;
            if !ready {
                continue;
            }
            // Pointer and length describe the buffer.
            let received =
                syscall!(recv(self.fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT));
            let elapsed = start.elapsed();
            match received {
                Ok(length) => {
                    let packet = answer.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
                    if is_echo_reply(packet, self.identifier, self.sequence) {
                        return Ok(Some(elapsed));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if is_unreachable(&error) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn is_unreachable(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ECONNREFUSED))
}

fn echo_request(identifier: u16, sequence: u16) -> [u8; HEADER_LEN + PAYLOAD] {
    let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    let mut message = [0; HEADER_LEN + PAYLOAD];
    let header = IcmpHeader { kind: v4::ECHO_REQUEST, code: 0, rest: [a, b, c, d] };
    // The buffer is as long as header and payload: it always fits.
    let _ = header.emit(None, &[0xad; PAYLOAD], &mut message);
    message
}

/// Whether a packet, from its IP header on, answers the request with these numbers.
fn is_echo_reply(packet: &[u8], identifier: u16, sequence: u16) -> bool {
    let Ok(packet) = IpPacket::parse(packet) else { return false };
    let Ok(message) = IcmpMessage::parse(packet.payload()) else { return false };
    let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    message.kind() == v4::ECHO_REPLY && message.rest() == [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::checksum::Sum;

    use super::*;

    #[test]
    fn a_request_has_a_valid_checksum_and_our_numbers() {
        let request = echo_request(0x1234, 0x5678);
        assert_eq!(&request[4..8], &[0x12, 0x34, 0x56, 0x78]);
        assert!(Sum::default().add(&request).is_valid());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            is_echo_reply(&bytes, 1, 1);
        }
    }
}
