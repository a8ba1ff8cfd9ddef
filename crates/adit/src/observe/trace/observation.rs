//! What was seen of a trace: the material from which a journey is told. It travels between hosts in notes and through the control
//! socket, so all of it can be written and read with serde.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Bytes of a packet that an observation keeps at most.
pub const MAX_HEAD: usize = 192;

/// The number of a probe that the place could not tell, as that of a sealed datagram on the underlay card. The journey finds it
/// by [`Observation::outer`].
pub const UNKNOWN_PROBE: u32 = u32::MAX;

/// A probe, or the datagram around it, seen at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The host's name.
    pub host: String,
    /// Which probe: an index into [`Trace::sizes`], or [`UNKNOWN_PROBE`].
    pub probe: u32,
    /// Nanoseconds since 1970, by that host's clock.
    pub at: i64,
    /// Where.
    pub place: Place,
    /// Bytes of the packet as there, without a virtio header.
    pub size: u32,
    /// 1, or for how many packets a super-packet (or for how many datagrams a train) stands.
    pub segments: u16,
    /// Bytes of payload in each of these packets; 0 if it stands for itself alone.
    pub segment_size: u16,
    /// The state of its checksum.
    pub checksum: Checksum,
    /// Which sealed datagram: set at the worker's steps sealed, sent, received and opened, and on the underlay card. Of a train the
    /// first; the other [`Self::segments`] follow with the next counters.
    pub outer: Option<Outer>,
    /// The first bytes, at most [`MAX_HEAD`], as there: from the link-layer header on a device with frames; from the IP header on
    /// one with packets; at the worker's steps sent and received, the message in the datagram (what follows the UDP header); at its
    /// other steps the inner packet (or frame, if the device is a TAP).
    #[serde(with = "base64_bytes")]
    pub head: Vec<u8>,
}

/// Names a sealed datagram; on its way no other has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Outer {
    /// The receiver's index as it stands in the header, its lane included.
    pub receiver: u32,
    /// The counter as it stands in the header.
    pub counter: u64,
}

/// Where something was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On a network device.
    Device {
        /// Its name.
        name: String,
        /// Its number in its namespace.
        index: u32,
        /// What sort of device it is.
        kind: DeviceKind,
        /// What its packets begin with.
        layer: Layer,
        /// Which way.
        direction: Direction,
    },
    /// In a worker thread of the daemon.
    Worker {
        /// Which one.
        number: u16,
        /// At which step of a packet's way.
        step: Step,
    },
}

/// What sort of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// One end of a virtual cable: a container's.
    Veth,
    /// A bridge.
    Bridge,
    /// The tunnel's device for packets.
    Tun,
    /// The tunnel's device for frames.
    Tap,
    /// What goes to other hosts: a network card, or what stands for one.
    Card,
    /// `lo`.
    Loopback,
    /// Anything else.
    Other,
}

/// What the bytes of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// An Ethernet header.
    Frames,
    /// An IP header.
    Packets,
}

/// Which way, seen from the stack of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It comes from the device into the stack.
    In,
    /// The stack hands it to the device.
    Out,
}

/// The steps of a packet's way through a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Read from the device.
    Read,
    /// Sealed for a peer.
    Sealed,
    /// About to be given to the socket.
    Sent,
    /// Taken from the socket.
    Received,
    /// Opened: its seal is good, and its sender may send it.
    Opened,
    /// About to be written to the device.
    Written,
}

/// The state of a packet's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// It is filled in.
    Complete,
    /// It is left to the device (offload).
    Partial,
    /// Nobody said.
    Unknown,
}

/// What moved on a host while the probes were under way, and what is set there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The host's name, as in [`Observation::host`].
    pub host: String,
    /// How to read its times beside those of the host that traces; `None` if nothing is known of its clock.
    pub offset: Option<ClockOffset>,
    /// Whether it permits others to look (`observe.allow`); if not, there are no observations of it.
    pub permitted: bool,
    /// Why it did not look although it permits it, as it said itself or as whoever asked it found; `None` if it looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Unseen>,
    /// Counters that grew, and by how much: `adit:no_route` (the key of a reason in `adit status --json`), `ip:InNoRoutes` and
    /// `tcpext:IPReversePathFilter` (/proc/net/snmp, snmp6, netstat; the group in lower case), `nft:…` (a counter of a rule),
    /// `card:eth0:tx_dropped` (statistics of a device).
    pub counters: BTreeMap<String, u64>,
    /// What is set there, or was heard there.
    pub facts: Vec<Fact>,
    /// Observations lost there because nobody took them in time.
    pub lost_records: u64,
}

/// Why a host did not look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unseen {
    /// It looks for the probes of another trace.
    Busy,
    /// Peers had it look so many times in this minute, which is as often as it does.
    Often {
        /// How many times.
        times: u8,
    },
    /// It cannot capture.
    Unable,
    /// It is a peer of a transport that knows no such questions.
    Unasked {
        /// Which.
        transport: String,
    },
    /// Its daemon did not answer.
    Silent {
        /// A clause that says more.
        problem: String,
    },
}

/// How another host's clock differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Nanoseconds to add to its times, to have them by the clock of the host that traces.
    pub ns: i64,
    /// By how many nanoseconds that may be wrong, either way. 0 for the host that traces.
    pub uncertainty: u64,
}

/// What is set on a host, or was heard there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// The host has no route to this address.
    NoRoute {
        /// The address.
        to: IpAddr,
    },
    /// The route that the host takes.
    RouteVia {
        /// The address.
        to: IpAddr,
        /// The device.
        device: String,
        /// The next router, if there is one.
        gateway: Option<IpAddr>,
    },
    /// The check of source addresses on a device that packets of the trace came in by.
    RpFilter {
        /// The device.
        device: String,
        /// What counts there, the larger of the device's and that of `all`: 0 off, 1 strict, 2 loose.
        value: u32,
    },
    /// Whether the host forwards.
    Forwarding {
        /// 4 or 6.
        family: u8,
        /// Whether.
        on: bool,
    },
    /// The largest packet of a device.
    Mtu {
        /// The device.
        device: String,
        /// Bytes.
        mtu: u32,
    },
    /// The largest inner packet that the way to a peer takes, as far as the daemon knows.
    PathMtu {
        /// The peer's name.
        peer: String,
        /// Bytes.
        mtu: u32,
    },
    /// A peer of the way that does not answer.
    PeerDown {
        /// The peer's name.
        peer: String,
        /// What the daemon says about it.
        problem: String,
    },
    /// An ICMP error about a probe, or about the datagram around it.
    Icmp {
        /// Who sent it.
        from: IpAddr,
        /// What it says.
        kind: IcmpKind,
        /// With [`IcmpKind::TooBig`], what would fit.
        mtu: Option<u32>,
    },
    /// A rule of a packet filter that dropped or refused a probe: its counter moved, or it was traced.
    Firewall {
        /// Family and name of the table: `inet filter`.
        table: String,
        /// The chain.
        chain: String,
        /// The number of the rule.
        handle: u64,
    },
    /// Whoever has the address answered that it will not have it: a TCP reset, a port that is closed.
    Refused {
        /// Who.
        peer: String,
    },
}

/// What an ICMP or ICMPv6 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IcmpKind {
    /// There is no route to the network or host.
    NoRoute,
    /// The host does not answer for its address.
    HostUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// A filter forbids it.
    Prohibited,
    /// The packet is too big.
    TooBig,
    /// Its hop limit came to an end.
    TimeExceeded,
    /// Anything else.
    Other {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
}

/// What the probes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Echo requests.
    Icmp,
    /// UDP datagrams.
    Udp,
    /// TCP SYN.
    Tcp,
}

/// All that was seen of one trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Where the probes went.
    pub destination: IpAddr,
    /// Where they came from: the name of the host, or of the container and its host.
    pub from: String,
    /// What they are.
    pub protocol: Protocol,
    /// The size of each probe's packet, from its IP header.
    pub sizes: Vec<u32>,
    /// In any order.
    pub observations: Vec<Observation>,
    /// One of each host that is asked, the host that traces first.
    pub reports: Vec<HostReport>,
    /// Of each probe how long its answer took, in nanoseconds, or that none came.
    pub answered: Vec<Option<i64>>,
}

/// Bytes as base64: a third of what JSON makes of a list of numbers.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_read_as_it_was_written_and_fits_a_note() {
        let observation = Observation {
            host: "a-host-with-a-name.example.net".into(),
            probe: 7,
            at: 1_800_000_000_123_456_789,
            place: Place::Device {
                name: "veth0123456789a".into(),
                index: 4_000_000_000,
                kind: DeviceKind::Veth,
                layer: Layer::Frames,
                direction: Direction::In,
            },
            size: 65_550,
            segments: 46,
            segment_size: 1420,
            checksum: Checksum::Complete,
            outer: Some(Outer { receiver: u32::MAX, counter: u64::MAX }),
            head: vec![0xff; MAX_HEAD],
        };
        let text = serde_json::to_string(&observation).unwrap();
        assert_eq!(serde_json::from_str::<Observation>(&text).unwrap(), observation);
        assert!(text.len() < 1000, "{} bytes", text.len());
    }
}
