//! Why a packet was dropped. The reason is the label of the metric, the field of the log and the assertion of the test.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in `adit status` and in metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// From the device or the wire: not an IP packet, or one that contradicts itself.
    Malformed = "malformed",
    /// From the device: no peer owns the destination.
    NoRoute = "no_route",
    /// From the device: to a group or to everybody on the link; the tunnel carries packets for one receiver.
    Multicast = "multicast",
    /// From the device: a datagram to the endpoint of the peer that owns its destination; carrying it would make another one. Of frames, either way:
    /// the bridges of two nodes are one segment already, and the other node carries its frames.
    Loop = "loop",
    /// From the device: longer than the path to its peer takes, and not to be fragmented.
    TooBig = "too_big",
    /// From the wire: no peer has this endpoint.
    UnknownEndpoint = "unknown_endpoint",
    /// From the wire: a message of a transport that this peer does not use, or an inner source address that belongs to a peer of another one.
    WrongTransport = "wrong_transport",
    /// From the wire: a message of a length, version or reserved bit that does not exist, for nobody here, or that is not authentic.
    Forged = "forged",
    /// From the wire: for no session of ours; the sender holds one that ended.
    UnknownSession = "unknown_session",
    /// From the wire: its counter was opened before, or is too old to tell.
    Replayed = "replayed",
    /// From the wire: a handshake beyond what one source, or all of them, may ask for.
    RateLimited = "rate_limited",
    /// From the device: no session with the peer came about in time, or too many packets waited for one.
    NoSession = "no_session",
    /// From the device: the peer's new address has not proved itself yet and got as much as it may.
    Unproven = "unproven",
    /// From the wire: the inner source address belongs to another peer, to us or to nobody.
    WrongSource = "wrong_source",
    /// From the wire: the inner destination would leave through the tunnel again, is not this node's of a network, or can be nobody's.
    NotForUs = "not_for_us",
    /// From the wire: congestion was marked on the way of a packet that cannot carry the mark (RFC 6040).
    Congestion = "congestion",
    /// Of frames, either way: what bridges tell each other on a link (spanning tree, LLDP, LACP, pause), or a node about loops.
    LinkControl = "link_control",
    /// Of frames, from the device: for an address that is on this side too.
    OnThisSide = "on_this_side",
    /// Of frames, either way: more to everybody, to a group or to an unknown address than one source may send.
    Storm = "storm",
    /// The device did not take the packet: it is down, or out of memory.
    DeviceRefused = "device_refused",
    /// The socket's send buffer stayed full.
    SendBufferFull = "send_buffer_full",
    /// The underlay has no way to the peer, or a firewall of this host forbids it.
    Unreachable = "unreachable",
    /// The socket refused the datagram for another cause.
    SendFailed = "send_failed",
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its number, below [`COUNT`](Self::COUNT).
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(Reason::ALL[..i].iter().all(|r| r.name() != reason.name()));
        }
    }
}
