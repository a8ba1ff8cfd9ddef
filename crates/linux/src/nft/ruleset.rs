//! The vocabulary of a rule set.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::netlink::is_valid_name;
use crate::{Error, Result};

/// Names of tables, chains and sets have fewer bytes (`NFT_NAME_MAXLEN`).
const NAME_LENGTH: usize = 256;

/// A comment has at most as many bytes, so that the `nft` program shows it.
const COMMENT_LENGTH: usize = 127;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames that a bridge forwards.
    Bridge,
    /// Everything on a device, before any other processing.
    Netdev,
    /// ARP: its input and output.
    Arp,
}

impl Family {
    /// `NFPROTO_*` (linux/netfilter.h).
    pub(super) fn number(self) -> u8 {
        let number = match self {
            Self::Inet => libc::NFPROTO_INET,
            Self::Ip => libc::NFPROTO_IPV4,
            Self::Ip6 => libc::NFPROTO_IPV6,
            Self::Bridge => libc::NFPROTO_BRIDGE,
            Self::Netdev => libc::NFPROTO_NETDEV,
            Self::Arp => libc::NFPROTO_ARP,
        };
        number as u8
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
            Self::Arp => "arp",
        })
    }
}

/// A table with all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Which packets it sees.
    pub family: Family,
    /// Its name. Whatever has this name is replaced: choose one that is ours.
    pub table: String,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A named set of prefixes of one IP version, looked up in logarithmic time however many they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name, for [`Match::SourceIn`] and [`Match::DestinationIn`].
    pub name: String,
    /// Whether its members are IPv6; otherwise IPv4.
    pub v6: bool,
    /// Its members; they may touch and overlap.
    pub prefixes: Vec<IpNet>,
}

/// A list of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; without, only by [`Action::Jump`] and [`Action::Goto`].
    pub base: Option<Base>,
    /// Its rules, first to last.
    pub rules: Vec<Rule>,
}

/// Where on their way packets enter a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// At which place.
    pub hook: Hook,
    /// In which order among the chains there: the lower first. Usual ones are -300 (before connection tracking), -150
    /// (mangle), -100 (destination NAT), 0 (filter), 100 (source NAT).
    pub priority: i32,
    /// The device whose packets, for [`Hook::Ingress`] and [`Hook::Egress`].
    pub device: Option<String>,
    /// What becomes of packets that no rule decides on.
    pub policy: Policy,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Let through and drop.
    Filter,
    /// Rewrite addresses; sees the first packet of each connection only.
    Nat,
    /// Change what routing depends on; on [`Hook::Output`].
    Route,
}

impl ChainKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// A place on a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// After it came in, before routing.
    Prerouting,
    /// It is for this host.
    Input,
    /// It goes from one device to another.
    Forward,
    /// This host made it.
    Output,
    /// Just before it leaves.
    Postrouting,
    /// On a device, before anything else (netdev; inet too).
    Ingress,
    /// On a device, after everything else (netdev).
    Egress,
}

impl Hook {
    /// `NF_INET_*`, which those of a bridge agree with, `NF_NETDEV_*` (linux/netfilter.h) and `NF_ARP_*` (linux/netfilter_arp.h).
    pub(super) fn number(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Ingress, Family::Netdev) | (Self::Prerouting, _) | (Self::Input, Family::Arp) => 0,
            (Self::Egress, _) | (Self::Input, _) | (Self::Output, Family::Arp) => 1,
            (Self::Forward, _) => 2,
            (Self::Output, _) => 3,
            (Self::Postrouting, _) => 4,
            (Self::Ingress, _) => 5,
        }
    }
}

/// What becomes of packets at the end of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They vanish.
    Drop,
}

/// A rule: if all of its matches hold, its actions are done in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// A word or two by which errors and listings name it; at most 127 bytes.
    pub comment: String,
    /// What must hold.
    pub matches: Vec<Match>,
    /// What is done.
    pub actions: Vec<Action>,
}

impl Rule {
    /// A rule that holds for every packet and does nothing yet.
    pub fn new(comment: impl Into<String>) -> Self {
        Self { comment: comment.into(), ..Self::default() }
    }

    /// The same rule for fewer packets.
    #[must_use]
    pub fn when(mut self, what: Match) -> Self {
        self.matches.push(what);
        self
    }

    /// The same rule with one more thing to do.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }
}

/// TCP or UDP, where ports are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which header [`Match::Bytes`] counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The link-layer header.
    Link,
    /// The network header: IP, ARP.
    Network,
    /// The transport header: TCP, UDP, ICMP.
    Transport,
}

/// Sorts of addresses (`RTN_*`, linux/rtnetlink.h) as [`Match::DestinationType`] tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressType {
    /// Another host's.
    Unicast,
    /// One of this host's.
    Local,
    /// A broadcast address.
    Broadcast,
    /// A group's.
    Multicast,
}

/// What connection tracking says of a packet; several can be or-ed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionState(pub(super) u32);

impl ConnectionState {
    /// It fits no connection.
    pub const INVALID: Self = Self(1);
    /// Its connection has seen packets both ways.
    pub const ESTABLISHED: Self = Self(2);
    /// It belongs to another connection, as an ICMP error does.
    pub const RELATED: Self = Self(4);
    /// It is the first of its connection.
    pub const NEW: Self = Self(8);
    /// It is not tracked.
    pub const UNTRACKED: Self = Self(64);
}

impl std::ops::BitOr for ConnectionState {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Something that holds for a packet or not. What it presupposes (that the packet is IPv4, or TCP) is part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The opposite. What the inner one presupposes must still hold: not from 10.0.0.0/8 is IPv4 from elsewhere.
    Not(Box<Self>),
    /// It came in by this device; a `*` at the end stands for any rest.
    InputDevice(String),
    /// It will leave by this device; a `*` at the end stands for any rest.
    OutputDevice(String),
    /// Its source is in this prefix.
    Source(IpNet),
    /// Its destination is in this prefix.
    Destination(IpNet),
    /// Its source is in this set.
    SourceIn(String),
    /// Its destination is in this set.
    DestinationIn(String),
    /// Its link-layer source.
    SourceMac([u8; 6]),
    /// Its link-layer destination.
    DestinationMac([u8; 6]),
    /// What it is: 0x0800 IPv4, 0x86dd IPv6, 0x0806 ARP.
    EtherType(u16),
    /// Its transport protocol (`IPPROTO_*`), behind IPv6 extension headers too.
    Protocol(u8),
    /// Its source port is one of these.
    SourcePort(Transport, RangeInclusive<u16>),
    /// Its destination port is one of these.
    DestinationPort(Transport, RangeInclusive<u16>),
    /// It opens a TCP connection: SYN is set, RST is not.
    TcpSyn,
    /// It is an ICMPv6 message of this type; 134 is a router advertisement.
    Icmpv6Type(u8),
    /// Connection tracking says one of these of it.
    Connection(ConnectionState),
    /// Its connection was led elsewhere than its first packet was sent to ([`Action::DestinationNat`]).
    Redirected,
    /// Its destination, by the routing tables of this host, is of this sort.
    DestinationType(AddressType),
    /// The way back to its source, by the routing tables of this host, leads out by the device that it came in by. Of IPv6 a
    /// shorter route by that device may do, if the longest leads out by another and no blackhole is in between.
    WayBack,
    /// The way back to its source, by the routing tables of this host, leads out by this device.
    WayBackBy(String),
    /// Its mark, as far as the mask (the second number) goes, is the first number.
    Mark(u32, u32),
    /// The bytes at this offset of a header, as far as the mask goes, are these: at most 16.
    Bytes {
        /// Which header.
        header: Header,
        /// Where in it.
        offset: u32,
        /// What must be there.
        value: Vec<u8>,
        /// Which bits of it count; as long as the value, empty for all.
        mask: Vec<u8>,
    },
}

impl Match {
    /// The opposite.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "the operator would hide what a negation keeps")]
    pub fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

/// How a packet is refused, so that its sender learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// ICMP says that the port is unreachable.
    PortUnreachable,
    /// ICMP says that it is administratively prohibited.
    Prohibited,
    /// TCP resets the connection; the rule must match TCP.
    TcpReset,
}

/// To which size TCP segments are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mss {
    /// This many bytes.
    Fixed(u16),
    /// What fits the route's MTU.
    PathMtu,
}

/// What is done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is counted, with its bytes.
    Counter,
    /// It goes on; later chains at the same place still see it.
    Accept,
    /// It vanishes.
    Drop,
    /// It is refused.
    Reject(Rejection),
    /// The chain ends, as if its last rule had been passed.
    Return,
    /// Another chain goes on, and comes back.
    Jump(String),
    /// Another chain goes on, and does not come back.
    Goto(String),
    /// Those bits of its mark that the mask (the second number) has become those of the first.
    SetMark(u32, u32),
    /// Its source becomes the address of the device it leaves by.
    Masquerade {
        /// Ports are chosen at random, so that they cannot be guessed and two threads seldom choose the same.
        random_fully: bool,
    },
    /// Its source becomes this address.
    SourceNat(IpAddr),
    /// Its destination becomes this address and, if given, this port (the rule must match a transport protocol).
    DestinationNat(IpAddr, Option<u16>),
    /// The segment size that a TCP connection announces becomes at most this. The rule must match [`Match::TcpSyn`].
    ClampMss(Mss),
    /// What rules of all tables do with it from here on is told to every [`Tracer`](super::Tracer).
    Trace,
    /// Connection tracking leaves it alone; before that, at priority -300 in prerouting or output.
    NoTrack,
}

impl Ruleset {
    /// Finds what the kernel would not, or would refuse without saying why.
    pub(super) fn check(&self) -> Result<()> {
        let operation = || format!("replace table {} {}", self.family, self.table);
        let refuse = |detail: String| Err(Error::from_errno(operation(), libc::EINVAL).with_detail(detail));
        let chains = self.chains.iter().map(|chain| ("chain", &chain.name));
        let sets = self.sets.iter().map(|set| ("set", &set.name));
        for (what, name) in [("table", &self.table)].into_iter().chain(chains).chain(sets) {
            if name.is_empty() || name.len() >= NAME_LENGTH || name.contains('\0') {
                return refuse(format!("{name:?} is not a name for a {what}"));
            }
        }
        if let Some(set) =
            self.sets.iter().find(|set| set.prefixes.iter().any(|prefix| prefix.addr().is_ipv6() != set.v6))
        {
            return refuse(format!("set {} has a prefix of the other IP version", set.name));
        }
        for chain in &self.chains {
            if let Some(device) =
                chain.base.as_ref().and_then(|base| base.device.as_ref()).filter(|name| !is_valid_name(name))
            {
                return refuse(format!("{device:?} is not a device name"));
            }
            for rule in &chain.rules {
                if rule.comment.len() > COMMENT_LENGTH || rule.comment.contains('\0') {
                    return refuse(format!("{:?} is not a comment: at most {COMMENT_LENGTH} bytes", rule.comment));
                }
            }
        }
        Ok(())
    }
}
