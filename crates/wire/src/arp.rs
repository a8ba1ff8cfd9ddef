//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use crate::Malformed;
use crate::ethernet::{self, EthernetHeader, MacAddress, ethertype};

/// Bytes of a packet.
pub const LEN: usize = 28;
/// Bytes of a frame with an ARP packet in it, not padded.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + LEN;
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// An ARP packet by its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: MacAddress,
    /// IPv4 address of the sender; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Hardware address of the target; meaningless in a request.
    pub target_mac: MacAddress,
    /// IPv4 address of the target.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Reads the packet at the front of `bytes`, a frame's payload; padding may follow.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], or [`Malformed::Value`] for other hardware, protocols and operations.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let &[
            h0,
            h1,
            p0,
            p1,
            hl,
            pl,
            o0,
            o1, //
            a,
            b,
            c,
            d,
            e,
            f,
            s0,
            s1,
            s2,
            s3, //
            u,
            v,
            w,
            x,
            y,
            z,
            t0,
            t1,
            t2,
            t3,
        ] = bytes.first_chunk::<LEN>().ok_or(Malformed::Truncated)?;
        let operation = match ([h0, h1, p0, p1, hl, pl], [o0, o1]) {
            (ETHERNET_IPV4, [0, 1]) => Operation::Request,
            (ETHERNET_IPV4, [0, 2]) => Operation::Reply,
            _ => return Err(Malformed::Value),
        };
        Ok(Self {
            operation,
            sender_mac: MacAddress([a, b, c, d, e, f]),
            sender: Ipv4Addr::new(s0, s1, s2, s3),
            target_mac: MacAddress([u, v, w, x, y, z]),
            target: Ipv4Addr::new(t0, t1, t2, t3),
        })
    }

    /// The reply that says the target address is at `mac`; `None` for a reply, and for a node's announcement of its own
    /// address, which asks nothing.
    #[must_use]
    pub fn reply(&self, mac: MacAddress) -> Option<Self> {
        (self.operation == Operation::Request && self.sender != self.target).then_some(Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        })
    }

    /// The packet's bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..6].copy_from_slice(&ETHERNET_IPV4);
        bytes[7] = if self.operation == Operation::Request { 1 } else { 2 };
        bytes[8..14].copy_from_slice(&self.sender_mac.0);
        bytes[14..18].copy_from_slice(&self.sender.octets());
        bytes[18..24].copy_from_slice(&self.target_mac.0);
        bytes[24..28].copy_from_slice(&self.target.octets());
        bytes
    }

    /// The packet in a frame: a request to all stations, a reply to its target.
    #[must_use]
    pub fn emit_frame(&self) -> [u8; FRAME_LEN] {
        let destination = match self.operation {
            Operation::Request => MacAddress::BROADCAST,
            Operation::Reply => self.target_mac,
        };
        let mut frame = [0; FRAME_LEN];
        // FRAME_LEN has room for the header.
        let _ = EthernetHeader { destination, source: self.sender_mac, ethertype: ethertype::ARP }.emit(&mut frame);
        frame[ethernet::HEADER_LEN..].copy_from_slice(&self.emit());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; LEN] = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];

    #[test]
    fn literal_bytes_both_ways() {
        let request = ArpPacket::parse(&REQUEST).unwrap();
        assert_eq!(request.operation, Operation::Request);
        assert_eq!(request.sender_mac, MacAddress([2, 0, 0, 0, 0, 1]));
        assert_eq!((request.sender, request.target), (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(request.emit(), REQUEST);
        let mut padded = REQUEST.to_vec();
        padded.extend([0; 18]);
        assert_eq!(ArpPacket::parse(&padded).unwrap(), request);
    }

    #[test]
    fn a_reply_goes_to_who_asked() {
        let mac = MacAddress([2, 0, 0, 0, 0, 2]);
        let reply = ArpPacket::parse(&REQUEST).unwrap().reply(mac).unwrap();
        let frame = reply.emit_frame();
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6]);
        assert_eq!(frame[14..], [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        assert_eq!(reply.reply(mac), None);
    }

    #[test]
    fn an_announcement_is_not_answered() {
        let request = ArpPacket::parse(&REQUEST).unwrap();
        let announcement = ArpPacket { target: request.sender, ..request };
        assert_eq!(announcement.reply(MacAddress::default()), None);
        assert_eq!(announcement.emit_frame()[..6], [0xff; 6]);
    }

    #[test]
    fn cut_short_or_of_another_kind_is_refused() {
        for length in 0..LEN {
            assert_eq!(ArpPacket::parse(&REQUEST[..length]), Err(Malformed::Truncated));
        }
        for at in 0..8 {
            let mut other = REQUEST;
            other[at] ^= 0x40;
            assert_eq!(ArpPacket::parse(&other), Err(Malformed::Value), "{at}");
        }
    }
}
