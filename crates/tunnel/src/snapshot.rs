//! What workers know: an immutable picture of the peers, made by control and read once per batch.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use wire::ip::IpPacket;
use wire::message::Protocol;

use crate::forwarding::RouteTable;
use crate::remote::Remote;
use crate::verdict::Reason;

/// The number of a peer. That of a removed one is given to another only after [`REJECT_AFTER_TIME`](crate::session::REJECT_AFTER_TIME),
/// so that nobody who looks at an old picture takes one for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// Who owns an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This host: an address of the device, or one of a subnet that it [serves](Snapshot::serving).
    Local,
    /// A peer.
    Peer(PeerId),
}

/// A peer as workers see it.
#[derive(Clone)]
pub struct Peer {
    /// How packets travel between us.
    pub way: Way,
    /// The longest inner packet that fits the path to it, in bytes.
    pub mtu: usize,
    /// The prefixes that live behind it.
    pub allowed_ips: Vec<IpNet>,
}

impl Peer {
    /// The session, the path and the times of an encrypted peer.
    #[inline]
    pub fn remote(&self) -> Option<&Arc<Remote>> {
        match &self.way {
            Way::Plain(_) => None,
            Way::Secure { remote, .. } => Some(remote),
        }
    }
}

/// How packets travel to and from a peer, for its life.
#[derive(Clone)]
pub enum Way {
    /// As they are: to this address, which is the only one that they are accepted from.
    Plain(SocketAddr),
    /// Encrypted.
    Secure {
        /// How.
        protocol: Protocol,
        /// Its address in the configuration, if there is one.
        configured: Option<SocketAddr>,
        /// The session, the path and the times, as they change.
        remote: Arc<Remote>,
    },
}

impl Way {
    /// How it is encrypted, if it is.
    fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Plain(_) => None,
            Self::Secure { protocol, .. } => Some(*protocol),
        }
    }
}

/// The peers at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// By number; none where a number is free.
    peers: Vec<Option<Peer>>,
    table: RouteTable<Target>,
    /// Of plain peers.
    endpoints: HashMap<SocketAddr, PeerId>,
    /// Where the configuration says that encrypted peers are.
    known: HashSet<SocketAddr>,
    secure: bool,
    /// Whether packets may go wherever the host sends them.
    open: bool,
    /// The subnets of a node of a network.
    served: Option<Vec<IpNet>>,
}

impl Snapshot {
    /// A snapshot of `peers`, each at its number; numbers may be free. `local` are our own addresses, which belong to us even inside
    /// a peer's prefix. Where two peers claim the same prefix or endpoint the later one has it.
    pub fn new(peers: Vec<Option<Peer>>, local: &[IpAddr]) -> Self {
        let mut table = RouteTable::default();
        let (mut endpoints, mut known, mut secure) = (HashMap::new(), HashSet::new(), false);
        for (id, peer) in (0..).map(PeerId).zip(&peers) {
            let Some(peer) = peer else { continue };
            match &peer.way {
                Way::Plain(endpoint) => {
                    endpoints.insert(canonical(*endpoint), id);
                }
                Way::Secure { configured, .. } => {
                    secure = true;
                    known.extend(configured.map(canonical));
                }
            }
            for prefix in &peer.allowed_ips {
                table.insert(*prefix, Target::Peer(id));
            }
        }
        for address in local {
            table.insert(IpNet::from(*address), Target::Local);
        }
        Self { peers, table, endpoints, known, secure, open: false, served: None }
    }

    /// The same, as WireGuard has it: where packets go is the host's matter alone. Peers reach each other by way of a host that forwards,
    /// and a group has the peer whose prefix it is in.
    #[must_use]
    pub fn open(self) -> Self {
        Self { open: true, ..self }
    }

    /// The same for a node of a network, which has these subnets and serves `wireguard` peers as its clients. What comes from a peer must be for
    /// an address of ours or for a client; and only what comes from a client may be for another peer. So no node sends through another, and
    /// nothing that came in the clear is relayed as if it were authentic. Addresses of the subnets that no client has are never behind a peer,
    /// whatever prefixes that has. It counts also for an [`open`](Self::open) snapshot.
    #[must_use]
    pub fn serving(mut self, subnets: &[IpNet]) -> Self {
        for (id, peer) in (0..).map(PeerId).zip(&self.peers) {
            let Some(peer) = peer.as_ref().filter(|peer| peer.way.protocol() != Some(Protocol::WireGuard)) else {
                continue;
            };
            for prefix in peer.allowed_ips.iter().filter(|prefix| subnets.iter().any(|subnet| subnet.contains(*prefix)))
            {
                if self.table.exact(*prefix) == Some(Target::Peer(id)) {
                    self.table.remove(*prefix);
                }
            }
        }
        for subnet in subnets {
            self.table.insert(*subnet, Target::Local);
        }
        Self { served: Some(subnets.to_vec()), ..self }
    }

    /// The peers, in the order of their numbers.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    /// One peer.
    #[inline]
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_ref()
    }

    /// Who owns `address`.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<Target> {
        self.table.longest_match(address)
    }

    /// The peer that a packet of the device's goes to.
    ///
    /// # Errors
    /// [`Reason::NoRoute`], [`Reason::Multicast`].
    #[inline]
    pub fn egress(&self, destination: IpAddr) -> Result<(PeerId, &Peer), Reason> {
        match self.owner(destination) {
            Some(Target::Peer(id)) if self.open || !is_group(destination) => {
                Ok((id, self.peer(id).ok_or(Reason::NoRoute)?))
            }
            _ if is_group(destination) => Err(Reason::Multicast),
            _ => Err(Reason::NoRoute),
        }
    }

    /// Whether any peer is encrypted.
    #[inline]
    pub fn has_secure(&self) -> bool {
        self.secure
    }

    /// Whether the configuration says that an encrypted peer is at `source`.
    pub fn is_known(&self, source: SocketAddr) -> bool {
        self.known.contains(&canonical(source))
    }

    /// The plain peer that speaks from `source`, an address of the underlay.
    ///
    /// # Errors
    /// [`Reason::UnknownEndpoint`].
    #[inline]
    pub fn speaker(&self, source: SocketAddr) -> Result<PeerId, Reason> {
        self.endpoints.get(&canonical(source)).copied().ok_or(Reason::UnknownEndpoint)
    }

    /// Whether a packet that `peer` sent may enter the device: its source address must be that peer's own (by longest match,
    /// so that a peer with a /16 cannot speak for another's /24 inside it), and its destination must not be another peer's,
    /// nor one that no host on this side can have, unless the snapshot is [`open`](Self::open) or [`serving`](Self::serving).
    ///
    /// # Errors
    /// [`Reason::WrongSource`], [`Reason::WrongTransport`] if the source is a peer's of another transport, [`Reason::NotForUs`].
    #[inline]
    pub fn ingress(&self, peer: PeerId, packet: &IpPacket<'_>) -> Result<(), Reason> {
        let owner = self.owner(packet.source());
        if owner != Some(Target::Peer(peer)) {
            return Err(self.misattributed(peer, owner));
        }
        if self.open && self.served.is_none() {
            return Ok(());
        }
        let destination = packet.destination();
        let nobody = destination.is_loopback() || destination.is_unspecified() || is_link_local(destination);
        let here = match &self.served {
            None => !self.lives_behind_a_peer(destination),
            Some(subnets) => self.is_served(subnets, peer, destination),
        };
        if nobody || is_group(destination) || !here { Err(Reason::NotForUs) } else { Ok(()) }
    }

    /// Why `peer` may not use an address that has this owner.
    #[cold]
    fn misattributed(&self, peer: PeerId, owner: Option<Target>) -> Reason {
        let protocol = |id| self.peer(id).map(|peer| peer.way.protocol());
        match owner {
            Some(Target::Peer(owner)) if protocol(owner) != protocol(peer) => Reason::WrongTransport,
            _ => Reason::WrongSource,
        }
    }

    /// Whether a node with these subnets takes a packet of `peer`'s for this address.
    fn is_served(&self, subnets: &[IpNet], peer: PeerId, address: IpAddr) -> bool {
        let owner = match self.owner(address) {
            Some(Target::Local) => return true,
            Some(Target::Peer(owner)) if owner != peer => owner,
            _ => return false,
        };
        let protocol = |id| self.peer(id).and_then(|peer| peer.way.protocol());
        match (protocol(peer), protocol(owner)) {
            (Some(Protocol::WireGuard), _) | (Some(Protocol::Sealed), Some(Protocol::WireGuard)) => true,
            (None, Some(Protocol::WireGuard)) => subnets.iter().any(|subnet| subnet.contains(&address)),
            _ => false,
        }
    }

    /// Whether a peer has this address by name, so to speak. By a prefix for everything, or for half of it, it only has what nobody
    /// else has: a host that sends all of its packets to that peer has networks of its own nevertheless.
    #[inline]
    fn lives_behind_a_peer(&self, address: IpAddr) -> bool {
        matches!(self.table.longest_match_and_length(address), Some((Target::Peer(_), length)) if length > 1)
    }
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    }
}

/// One form per endpoint: IPv4 addresses as IPv4, without flow labels.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(mut six) => {
            six.set_flowinfo(0);
            match six.ip().to_ipv4_mapped() {
                Some(four) => SocketAddr::new(four.into(), six.port()),
                None => six.into(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BERLIN: PeerId = PeerId(0);
    const PARIS: PeerId = PeerId(1);

    fn snapshot() -> Snapshot {
        let peer = |endpoint: &str, prefixes: &[&str]| Peer {
            way: Way::Plain(endpoint.parse().unwrap()),
            mtu: 1472,
            allowed_ips: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        };
        Snapshot::new(
            vec![
                Some(peer("192.0.2.1:7777", &["10.42.0.0/16", "10.77.0.0/24", "fd00::/16"])),
                Some(peer("[2001:db8::2]:7777", &["10.42.7.0/24"])),
            ],
            &["10.77.0.9".parse().unwrap(), "10.9.0.1".parse().unwrap()],
        )
    }

    fn packet(source: &str, destination: &str) -> Vec<u8> {
        match (source.parse().unwrap(), destination.parse().unwrap()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let mut p = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0];
                p.extend(s.octets());
                p.extend(d.octets());
                p
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let mut p = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
                p.extend(s.octets());
                p.extend(d.octets());
                p
            }
            _ => unreachable!("one family"),
        }
    }

    fn ingress(peer: PeerId, source: &str, destination: &str) -> Result<(), Reason> {
        snapshot().ingress(peer, &IpPacket::parse(&packet(source, destination)).unwrap())
    }

    #[test]
    fn a_packet_goes_to_the_longest_prefix() {
        let s = snapshot();
        assert_eq!(s.egress("10.42.7.1".parse().unwrap()).unwrap().0, PARIS);
        assert_eq!(s.egress("10.42.8.1".parse().unwrap()).unwrap().0, BERLIN);
        assert_eq!(s.egress("10.43.8.1".parse().unwrap()).err(), Some(Reason::NoRoute));
        assert_eq!(s.egress("10.77.0.9".parse().unwrap()).err(), Some(Reason::NoRoute));
        assert_eq!(s.egress("ff02::2".parse().unwrap()).err(), Some(Reason::Multicast));
    }

    #[test]
    fn a_free_number_is_nobody() {
        let paris = Peer {
            way: Way::Plain("192.0.2.2:7777".parse().unwrap()),
            mtu: 1472,
            allowed_ips: vec!["10.42.7.0/24".parse().unwrap()],
        };
        let s = Snapshot::new(vec![None, Some(paris), None], &[]);
        assert_eq!(s.egress("10.42.7.1".parse().unwrap()).unwrap().0, PARIS);
        assert_eq!(s.speaker("192.0.2.2:7777".parse().unwrap()), Ok(PARIS));
        assert_eq!((s.peers().count(), s.peer(BERLIN).is_none(), s.peer(PARIS).is_some()), (1, true, true));
    }

    #[test]
    fn only_the_owner_of_a_source_address_may_use_it() {
        assert_eq!(ingress(BERLIN, "10.42.8.1", "10.9.0.5"), Ok(()));
        assert_eq!(ingress(BERLIN, "10.42.7.1", "10.9.0.5"), Err(Reason::WrongSource));
        assert_eq!(ingress(PARIS, "10.42.7.1", "10.9.0.5"), Ok(()));
        assert_eq!(ingress(PARIS, "10.42.8.1", "10.9.0.5"), Err(Reason::WrongSource));
        assert_eq!(ingress(BERLIN, "10.77.0.9", "10.9.0.5"), Err(Reason::WrongSource));
        assert_eq!(ingress(BERLIN, "127.0.0.1", "10.9.0.5"), Err(Reason::WrongSource));
        assert_eq!(ingress(BERLIN, "fd00::1", "2001:db8::9"), Ok(()));
    }

    #[test]
    fn who_sends_everything_to_a_peer_has_networks_of_its_own() {
        let peer = |endpoint: &str, prefixes: &[&str]| Peer {
            way: Way::Plain(endpoint.parse().unwrap()),
            mtu: 1420,
            allowed_ips: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        };
        let gateway = peer("192.0.2.1:7777", &["0.0.0.0/0", "::/1", "8000::/1"]);
        let peers = vec![Some(gateway), Some(peer("192.0.2.2:7777", &["10.42.7.0/24"]))];
        let snapshot = Snapshot::new(peers, &["10.77.0.9".parse().unwrap()]);
        let ingress = |peer, source: &str, destination: &str| {
            let bytes = packet(source, destination);
            snapshot.ingress(peer, &IpPacket::parse(&bytes).unwrap())
        };
        for destination in ["10.77.0.9", "10.88.0.2", "192.168.1.7"] {
            assert_eq!(ingress(BERLIN, "9.9.9.9", destination), Ok(()), "{destination}");
            assert_eq!(ingress(PARIS, "10.42.7.1", destination), Ok(()), "{destination}");
        }
        assert_eq!(ingress(BERLIN, "2620:fe::fe", "fd00::7"), Ok(()));
        assert_eq!(ingress(BERLIN, "9.9.9.9", "10.42.7.1"), Err(Reason::NotForUs));
        assert_eq!(ingress(BERLIN, "10.42.7.1", "10.77.0.9"), Err(Reason::WrongSource));
        assert_eq!(ingress(BERLIN, "9.9.9.9", "127.0.0.1"), Err(Reason::NotForUs));
    }

    #[test]
    fn nothing_is_relayed_from_peer_to_peer() {
        assert_eq!(ingress(BERLIN, "10.42.8.1", "10.42.7.1"), Err(Reason::NotForUs));
        assert_eq!(ingress(BERLIN, "10.42.8.1", "10.42.8.2"), Err(Reason::NotForUs));
        assert_eq!(ingress(BERLIN, "10.42.8.1", "127.0.0.1"), Err(Reason::NotForUs));
        assert_eq!(ingress(BERLIN, "10.42.8.1", "0.0.0.0"), Err(Reason::NotForUs));
        for nobody in ["224.0.0.1", "255.255.255.255", "169.254.169.254"] {
            assert_eq!(ingress(BERLIN, "10.42.8.1", nobody), Err(Reason::NotForUs));
        }
        assert_eq!(ingress(BERLIN, "fd00::1", "ff02::1"), Err(Reason::NotForUs));
        assert_eq!(ingress(BERLIN, "10.77.0.1", "10.77.0.9"), Ok(()));
    }

    #[test]
    fn an_open_one_asks_only_who_speaks() {
        let mut peers: Vec<_> = snapshot().peers().cloned().map(Some).collect();
        peers[1].as_mut().unwrap().allowed_ips.push("224.0.0.0/24".parse().unwrap());
        let s = Snapshot::new(peers, &[]).open();
        let may = |source: &str, destination: &str| {
            s.ingress(BERLIN, &IpPacket::parse(&packet(source, destination)).unwrap())
        };
        for destination in ["10.42.7.1", "10.42.8.2", "224.0.0.1", "255.255.255.255", "169.254.169.254"] {
            assert_eq!(may("10.42.8.1", destination), Ok(()));
            assert_eq!(may("10.42.7.1", destination), Err(Reason::WrongSource));
        }
        assert_eq!(s.egress("224.0.0.5".parse().unwrap()).unwrap().0, PARIS);
        assert_eq!(s.egress("224.0.1.5".parse().unwrap()).err(), Some(Reason::Multicast));
    }

    /// A node with 10.42.7.0/24 and fd42:0:0:7::/64: peer 0 and 1 are sealed nodes, 2 a plain one, 3 and 4 clients, of which the second has an
    /// address of its own choice.
    fn node() -> Snapshot {
        let secure = |protocol| Way::Secure { protocol, configured: None, remote: Arc::default() };
        let peer = |way, prefixes: &[&str]| {
            Some(Peer { way, mtu: 1440, allowed_ips: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect() })
        };
        let peers = vec![
            peer(secure(Protocol::Sealed), &["10.42.1.0/24", "fd42:0:0:1::/64", "10.42.7.128/25", "10.42.7.0/24"]),
            peer(secure(Protocol::Sealed), &["10.42.2.0/24", "10.42.0.0/16"]),
            peer(Way::Plain("192.0.2.3:8285".parse().unwrap()), &["10.42.3.0/24", "10.42.7.64/32"]),
            peer(secure(Protocol::WireGuard), &["10.42.7.200/32", "fd42:0:0:7::c8/128"]),
            peer(secure(Protocol::WireGuard), &["10.99.0.1/32"]),
        ];
        let subnets = ["10.42.7.0/24", "fd42:0:0:7::/64"].map(|subnet| subnet.parse().unwrap());
        Snapshot::new(peers, &["10.42.7.0".parse().unwrap(), "10.88.0.1".parse().unwrap()]).open().serving(&subnets)
    }

    #[test]
    fn what_is_for_a_subnet_of_ours_goes_to_no_peer_but_a_client() {
        let node = node();
        for (destination, expected) in [
            ("10.42.1.9", Ok(PeerId(0))),
            ("10.42.2.9", Ok(PeerId(1))),
            ("10.42.9.9", Ok(PeerId(1))),
            ("10.42.3.9", Ok(PeerId(2))),
            ("10.42.7.200", Ok(PeerId(3))),
            ("fd42:0:0:7::c8", Ok(PeerId(3))),
            ("10.99.0.1", Ok(PeerId(4))),
            // Others have prefixes there, which count for nothing.
            ("10.42.7.0", Err(Reason::NoRoute)),
            ("10.42.7.9", Err(Reason::NoRoute)),
            ("10.42.7.64", Err(Reason::NoRoute)),
            ("10.42.7.201", Err(Reason::NoRoute)),
            ("fd42:0:0:7::9", Err(Reason::NoRoute)),
        ] {
            let way = node.egress(destination.parse().unwrap()).map(|(id, _)| id);
            assert_eq!(way, expected, "{destination}");
        }
    }

    #[test]
    fn only_what_is_for_this_node_or_its_clients_is_taken_and_clients_reach_all() {
        let node = node();
        let ingress = |peer, source: &str, destination: &str| {
            node.ingress(PeerId(peer), &IpPacket::parse(&packet(source, destination)).unwrap())
        };
        let (own, beside, abroad) = ("10.42.7.9", "10.88.0.1", "198.51.100.7");
        let (client, roamer) = ("10.42.7.200", "10.99.0.1");
        let (first, second, plain) = ("10.42.1.9", "10.42.2.9", "10.42.3.9");
        for (peer, source, taken) in [
            (0, first, &[own, beside, client, roamer][..]),
            (1, second, &[own, beside, client, roamer]),
            (2, plain, &[own, beside, client]),
            (3, client, &[own, beside, roamer, first, second, plain]),
            (4, roamer, &[own, beside, client, first, second, plain]),
        ] {
            for destination in
                [own, beside, client, roamer, first, second, plain, abroad, "127.0.0.1", "224.0.0.1", "169.254.1.1"]
            {
                let expected = if taken.contains(&destination) { Ok(()) } else { Err(Reason::NotForUs) };
                assert_eq!(ingress(peer, source, destination), expected, "{source} to {destination}");
            }
        }
        assert_eq!(ingress(0, "fd42:0:0:1::9", "fd42:0:0:7::9"), Ok(()));
        assert_eq!(ingress(0, "fd42:0:0:1::9", "2001:db8::9"), Err(Reason::NotForUs));
    }

    #[test]
    fn nobody_speaks_for_a_subnet_of_ours_nor_for_a_peer_of_another_transport() {
        let node = node();
        let ingress =
            |peer, source: &str| node.ingress(PeerId(peer), &IpPacket::parse(&packet(source, "10.42.7.9")).unwrap());
        for peer in 0..5 {
            assert_eq!(ingress(peer, "10.42.7.130"), Err(Reason::WrongSource));
            assert_eq!(ingress(peer, "198.51.100.7"), Err(Reason::WrongSource));
        }
        assert_eq!(ingress(0, "10.42.2.9"), Err(Reason::WrongSource));
        assert_eq!(ingress(3, "10.99.0.1"), Err(Reason::WrongSource));
        for (peer, source) in [
            (2, "10.42.1.9"),
            (2, "10.42.7.200"),
            (3, "10.42.1.9"),
            (3, "10.42.3.9"),
            (0, "10.42.3.9"),
            (0, "10.99.0.1"),
        ] {
            assert_eq!(ingress(peer, source), Err(Reason::WrongTransport), "{peer} as {source}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_same_endpoint() {
        let s = snapshot();
        assert_eq!(s.speaker("192.0.2.1:7777".parse().unwrap()), Ok(BERLIN));
        assert_eq!(s.speaker("[::ffff:192.0.2.1]:7777".parse().unwrap()), Ok(BERLIN));
        assert_eq!(s.speaker("[2001:db8::2]:7777".parse().unwrap()), Ok(PARIS));
        assert_eq!(s.speaker("192.0.2.1:7778".parse().unwrap()), Err(Reason::UnknownEndpoint));
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (0u32..16, 24u8..=32)
            .prop_map(|(low, length)| IpNet::new(Ipv4Addr::from(0x0a00_0000 + low * 17).into(), length).unwrap())
    }

    proptest! {
        /// Against a linear scan of what each has.
        #[test]
        fn a_node_takes_what_is_for_it_whatever_prefixes_others_have(
            peers in prop::collection::vec((0u8..3, prop::collection::vec(prefix(), 0..4)), 0..8), subnet in prefix(),
        ) {
            let way = |kind| match kind {
                0 => Way::Plain("192.0.2.1:7777".parse().unwrap()),
                kind => Way::Secure {
                    protocol: if kind == 1 { Protocol::Sealed } else { Protocol::WireGuard },
                    configured: None,
                    remote: Arc::default(),
                },
            };
            let there = peers.iter().map(|(kind, prefixes)| Some(Peer { way: way(*kind), mtu: 1472, allowed_ips: prefixes.clone() }));
            // A prefix has one owner.
            let mut all: Vec<_> = peers.iter().flat_map(|(_, prefixes)| prefixes.iter().map(IpNet::trunc)).collect();
            all.sort_unstable();
            prop_assume!(all.windows(2).all(|two| two[0] != two[1]));
            let s = Snapshot::new(there.collect(), &[]).serving(&[subnet]);
            let owner = |address: IpAddr| {
                let all = (0..).map(PeerId).zip(&peers).flat_map(|(id, (kind, prefixes))| prefixes.iter().map(move |prefix| (id, *kind, prefix)));
                let there = all.filter(|(_, kind, prefix)| prefix.contains(&address) && (*kind == 2 || !subnet.contains(*prefix)) && prefix.trunc() != subnet.trunc());
                let there = there.map(|(id, kind, prefix)| (prefix.prefix_len(), Some((id, kind))));
                there.chain(subnet.contains(&address).then_some((subnet.prefix_len(), None))).max_by_key(|(length, _)| *length).map(|(_, owner)| owner)
            };
            for low in 0..=255u32 {
                let address = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + low));
                let expected = owner(address).map(|owner| owner.map_or(Target::Local, |(id, _)| Target::Peer(id)));
                prop_assert_eq!(s.owner(address), expected);
                let Some(Some((source, kind))) = owner(address) else { continue };
                for low in (0..=255u32).step_by(5) {
                    let destination = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + low));
                    let bytes = packet(&address.to_string(), &destination.to_string());
                    let taken = s.ingress(source, &IpPacket::parse(&bytes).unwrap());
                    let expected = match owner(destination) {
                        Some(None) => true,
                        Some(Some((id, other))) if id != source => match (kind, other) {
                            (2, _) | (1, 2) => true,
                            (0, 2) => subnet.contains(&destination),
                            _ => false,
                        },
                        _ => false,
                    };
                    prop_assert_eq!(taken, if expected { Ok(()) } else { Err(Reason::NotForUs) });
                }
            }
        }

        #[test]
        fn whatever_numbers_are_free_a_packet_goes_to_the_longest_prefix_of_who_is_there(
            peers in prop::collection::vec(prop::option::of(prop::collection::vec(prefix(), 0..4)), 0..8),
        ) {
            let there = peers.iter().map(|prefixes| prefixes.clone().map(|allowed_ips| {
                Peer { way: Way::Plain("192.0.2.1:7777".parse().unwrap()), mtu: 1472, allowed_ips }
            }));
            let s = Snapshot::new(there.collect(), &[]);
            prop_assert_eq!(s.peers().count(), peers.iter().flatten().count());
            for low in 0..=255u32 {
                let address = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + low));
                let all = (0..).map(PeerId).zip(&peers).flat_map(|(id, p)| p.iter().flatten().map(move |prefix| (id, prefix)));
                let matching = all.filter(|(_, prefix)| prefix.contains(&address));
                let longest = matching.max_by_key(|(id, prefix)| (prefix.prefix_len(), *id)).map(|(id, _)| Target::Peer(id));
                prop_assert_eq!(s.owner(address), longest);
            }
        }
    }
}
