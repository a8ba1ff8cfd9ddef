//! What workers know: an immutable picture of the peers, made by control and read once per batch.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use wire::ip::IpPacket;

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
    /// This host: an address of the device.
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
        /// Its address in the configuration, if there is one.
        configured: Option<SocketAddr>,
        /// The session, the path and the times, as they change.
        remote: Arc<Remote>,
    },
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
        Self { peers, table, endpoints, known, secure, open: false }
    }

    /// The same, as WireGuard has it: where packets go is the host's matter alone. Peers reach each other by way of a host that forwards,
    /// and a group has the peer whose prefix it is in.
    #[must_use]
    pub fn open(self) -> Self {
        Self { open: true, ..self }
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
    /// nor one that no host on this side can have, unless the snapshot is [`open`](Self::open).
    ///
    /// # Errors
    /// [`Reason::WrongSource`], [`Reason::NotForUs`].
    #[inline]
    pub fn ingress(&self, peer: PeerId, packet: &IpPacket<'_>) -> Result<(), Reason> {
        if self.owner(packet.source()) != Some(Target::Peer(peer)) {
            return Err(Reason::WrongSource);
        }
        if self.open {
            return Ok(());
        }
        let destination = packet.destination();
        let nobody = destination.is_loopback() || destination.is_unspecified() || is_link_local(destination);
        if nobody || is_group(destination) || matches!(self.owner(destination), Some(Target::Peer(_))) {
            return Err(Reason::NotForUs);
        }
        Ok(())
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
