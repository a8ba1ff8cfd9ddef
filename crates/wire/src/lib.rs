//! Bytes and their meaning: every header, packet and datagram that crosses a device or the wire.
//!
//! No I/O, no clock, no allocation while parsing. A parser validates once, at one door, and hands out a view whose
//! accessors cannot fail; whatever arrives, nothing here panics. The packet's way through this crate:
//!
//! 1. [`ip::IpPacket::parse`] validates what a device or a peer delivered;
//! 2. [`segment::SuperPacket`] splits what the kernel left unsplit, each byte copied and summed in one pass;
//! 3. [`message::classify`] tells what kind of datagram arrived at the far end;
//! 4. [`coalesce::Coalescer`] joins segments again, verifying every checksum in the pass that copies, unless the packet came
//!    authenticated without one.
//!
//! Files of one header have the same parts in the same order: what the header is, constants, the view with `parse` and
//! its accessors, the owned header with `emit`, tests.
#![forbid(unsafe_code)]

use std::fmt;

pub mod arp;
pub mod beacon;
pub mod checksum;
pub mod coalesce;
pub mod describe;
pub mod ecn;
pub mod ethernet;
pub mod fragment;
pub mod frame;
pub mod icmp;
pub mod ip;
pub mod message;
pub mod mss;
pub mod ndp;
pub mod run;
pub mod segment;
pub mod tcp;
pub mod udp;
pub mod vnet;

/// Why bytes are not the thing that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Fewer bytes than the fixed part of the header.
    Truncated,
    /// The IP version is neither 4 nor 6.
    Version,
    /// A header length field is below its minimum or reaches past the packet.
    HeaderLength,
    /// A total or payload length field contradicts the headers or exceeds the bytes that are there.
    TotalLength,
    /// The chain of IPv6 extension headers is too long or runs out of the packet.
    ExtensionHeaders,
    /// The packet does not fit the offload type in its virtio header.
    OffloadType,
    /// An offload without a segment size.
    SegmentSize,
    /// The checksum offsets of a virtio header point outside the packet, into the IP header or at another field.
    ChecksumOffsets,
    /// The checksum of an IPv4 header is wrong.
    HeaderChecksum,
    /// A field holds a value this protocol does not define.
    Value,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "too short for its header",
            Self::Version => "not IP version 4 or 6",
            Self::HeaderLength => "header length out of range",
            Self::TotalLength => "length field contradicts the bytes received",
            Self::ExtensionHeaders => "IPv6 extension headers too many or cut short",
            Self::OffloadType => "offload type does not fit the packet",
            Self::SegmentSize => "offload without a segment size",
            Self::ChecksumOffsets => "checksum offsets do not fit the packet",
            Self::HeaderChecksum => "wrong IPv4 header checksum",
            Self::Value => "undefined value in a header field",
        })
    }
}

impl std::error::Error for Malformed {}
