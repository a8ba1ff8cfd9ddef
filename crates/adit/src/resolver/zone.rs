//! Who has which name, and what becomes of a question: pure.
//!
//! | Name | Whose it is |
//! |---|---|
//! | `NODE.DOMAIN` | the first address of each subnet of the node: its device; to its own containers its bridge's, of IPv6 |
//! | `NAME.NODE.DOMAIN` | the container of this name on the node, which alone knows it |
//! | reverse names of the network's addresses | the node that holds the subnet |
//!
//! All of these are answered in the network or not at all: no resolver outside is asked for them, so that none can say what they are.
//!
//! Names of nodes may have dots, and whoever joins chooses one. Where one name ends with another (`web.berlin` and `berlin`), or is the same but for
//! its letters' case, it is the node's that joined first, of which the number of its certificate tells: so nobody takes a name by coming later.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::message::{A, AAAA, ANY, Data, IN, NO_ERROR, NO_NAME, PTR, Query};
use super::name::Name;

/// As many addresses of one name are answered: with IPv6, and a name of usual length, they fit a datagram.
pub const MOST_ADDRESSES: usize = 12;

/// Questions for whole zones, and for kinds of mail that never came to be (RFC 1035, section 3.2.3; RFC 1995).
const ZONE_TRANSFERS: std::ops::RangeInclusive<u16> = 251..=254;

/// A node, as far as names go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name below the domain.
    pub name: Name,
    /// The number of its certificate.
    pub serial: u64,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
}

impl Member {
    /// The addresses of its device: the first of each subnet.
    pub fn devices(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.subnets.iter().map(IpNet::network)
    }

    /// Whether an address is of its subnets.
    pub fn holds(&self, ip: &IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(ip))
    }
}

/// A container of this node that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name below that of the node.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The host itself.
    Host,
    /// A container or client of this node.
    Own,
    /// The resolver of another node.
    Node,
    /// Nobody that we know.
    Stranger,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is answered here.
    Answer(u8, Vec<Data>),
    /// Containers of this node may have the name: the one below the node's, or that of the address.
    Container(Wanted),
    /// This node knows.
    Ask(Member),
    /// Resolvers outside are asked.
    Forward,
    /// It is not answered.
    Refuse,
}

/// By what a container is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Its name below that of the node.
    Name(Name),
    /// Its address.
    Address(IpAddr),
}

/// The nodes and their names.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    networks: Vec<IpNet>,
    /// The first is ours.
    members: Vec<Member>,
    by_name: HashMap<Name, usize>,
    /// What names of nodes end with, which no node has.
    between: HashSet<Name>,
    /// Addresses of devices.
    devices: HashMap<IpAddr, usize>,
}

impl Zone {
    /// A network of nodes under a domain; `own` is ourselves.
    pub fn new(domain: Name, networks: Vec<IpNet>, own: Member, others: impl IntoIterator<Item = Member>) -> Self {
        let members: Vec<Member> = std::iter::once(own).chain(others).collect();
        let mut zone = Self {
            domain,
            networks,
            members,
            by_name: HashMap::new(),
            between: HashSet::new(),
            devices: HashMap::new(),
        };
        for (n, member) in zone.members.iter().enumerate() {
            let first = zone.by_name.entry(member.name.clone()).or_insert(n);
            if zone.members.get(*first).is_some_and(|first| member.serial < first.serial) {
                *first = n;
            }
            zone.between.extend(member.name.suffixes().skip(1));
            for ip in member.devices() {
                zone.devices.entry(ip).or_insert(n);
            }
        }
        zone
    }

    /// The network's addresses.
    pub fn is_of_network(&self, ip: &IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(ip))
    }

    fn own(&self) -> Option<&Member> {
        self.members.first()
    }

    /// The addresses at which this node listens and is asked: device and bridge.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.own().into_iter().flat_map(|own| addresses(&own.subnets))
    }

    /// The address of our device by which another node is asked, and its own.
    pub fn way_to(&self, member: &Member) -> Option<(IpAddr, IpAddr)> {
        let ours = || self.own().into_iter().flat_map(Member::devices);
        member.devices().find_map(|theirs| Some((ours().find(|ours| ours.is_ipv4() == theirs.is_ipv4())?, theirs)))
    }

    /// Who asks from this address. Packet filters see to it that it is no other's: on each container's device, on the tunnel, and for what comes by
    /// another way.
    pub fn who(&self, ip: IpAddr) -> Asker {
        let ip = ip.to_canonical();
        if ip.is_loopback() || self.own_addresses().any(|own| own == ip) {
            Asker::Host
        } else if self.own().is_some_and(|own| own.holds(&ip)) {
            Asker::Own
        } else if self.devices.contains_key(&ip) {
            Asker::Node
        } else {
            Asker::Stranger
        }
    }

    /// What becomes of a question.
    pub fn decide(&self, asker: Asker, query: &Query) -> Decision {
        if asker == Asker::Stranger || query.class != IN || ZONE_TRANSFERS.contains(&query.kind) {
            return Decision::Refuse;
        }
        let decision = match query.name.before(&self.domain) {
            Some(rest) => self.of_domain(asker, &rest, query.kind),
            None => match query.name.reversed().filter(|net| self.networks.iter().any(|of| of.contains(net))) {
                Some(net) => self.of_addresses(net, query.kind),
                None => Decision::Forward,
            },
        };
        match decision {
            // Another node is told of ourselves only, so that no question goes round.
            Decision::Container(_) | Decision::Refuse => decision,
            Decision::Answer(..) if asker != Asker::Node || self.is_own(query) => decision,
            _ if asker == Asker::Node => Decision::Refuse,
            _ => decision,
        }
    }

    /// Whether a question is about ourselves.
    fn is_own(&self, query: &Query) -> bool {
        if let Some(rest) = query.name.before(&self.domain) {
            return self.owner(&rest) == Some(0);
        }
        let net = query.name.reversed();
        net.is_some_and(|net| self.own().is_some_and(|own| own.subnets.iter().any(|subnet| subnet.contains(&net))))
    }

    /// Whose a name below the domain is: among the nodes whose names it ends with, the first to join.
    fn owner(&self, rest: &Name) -> Option<usize> {
        let ends = rest.suffixes().filter_map(|suffix| self.by_name.get(&suffix).copied());
        ends.min_by_key(|n| self.members.get(*n).map(|member| member.serial))
    }

    fn of_domain(&self, asker: Asker, rest: &Name, kind: u16) -> Decision {
        let Some(n) = self.owner(rest) else {
            let exists = rest.is_root() || self.between.contains(rest);
            return Decision::Answer(if exists { NO_ERROR } else { NO_NAME }, Vec::new());
        };
        let Some(member) = self.members.get(n) else { return Decision::Refuse };
        match rest.before(&member.name) {
            Some(below) if below.is_root() => {
                // To our own containers the first address of IPv6 is one of their link, where it stands for any router (RFC 4291, section 2.6.1)
                // and nobody answers for it. The bridge does for its own.
                let near = |subnet: &IpNet| if subnet.addr().is_ipv6() { bridge(subnet) } else { subnet.network() };
                let answers = match asker {
                    Asker::Own if n == 0 => of_kind(member.subnets.iter().map(near), kind),
                    _ => of_kind(member.devices(), kind),
                };
                Decision::Answer(NO_ERROR, answers)
            }
            Some(below) if n == 0 => Decision::Container(Wanted::Name(below)),
            _ => Decision::Ask(member.clone()),
        }
    }

    fn of_addresses(&self, net: IpNet, kind: u16) -> Decision {
        let ip = net.addr();
        if net.prefix_len() != net.max_prefix_len() {
            return Decision::Answer(NO_ERROR, Vec::new());
        }
        let Some(n) = self.members.iter().position(|member| member.holds(&ip)) else {
            return Decision::Answer(NO_NAME, Vec::new());
        };
        let Some(member) = self.members.get(n) else { return Decision::Refuse };
        if member.subnets.iter().any(|subnet| ip == subnet.network() || ip == bridge(subnet)) {
            let name = self.name_of(member);
            let answers = name.filter(|_| matches!(kind, PTR | ANY)).map(Data::Name);
            return Decision::Answer(NO_ERROR, answers.into_iter().collect());
        }
        if n == 0 { Decision::Container(Wanted::Address(ip)) } else { Decision::Ask(member.clone()) }
    }

    fn name_of(&self, member: &Member) -> Option<Name> {
        member.name.join(&self.domain)
    }

    /// The answer from our containers.
    pub fn find(&self, wanted: &Wanted, kind: u16, containers: &[Container]) -> (u8, Vec<Data>) {
        match wanted {
            Wanted::Name(name) => {
                let found = || containers.iter().filter(|container| container.name == *name);
                if found().next().is_some() {
                    return (
                        NO_ERROR,
                        of_kind(found().flat_map(|container| container.addresses.iter().copied()), kind),
                    );
                }
                let is_between = containers.iter().any(|container| container.name.before(name).is_some());
                (if is_between { NO_ERROR } else { NO_NAME }, Vec::new())
            }
            Wanted::Address(ip) => {
                let found = containers.iter().find(|container| container.addresses.contains(ip));
                let own = self.own().and_then(|own| self.name_of(own));
                let Some(name) = found.zip(own).and_then(|(container, own)| container.name.join(&own)) else {
                    return (NO_NAME, Vec::new());
                };
                let is_asked = matches!(kind, PTR | ANY);
                (NO_ERROR, is_asked.then_some(Data::Name(name)).into_iter().collect())
            }
        }
    }

    /// Of what a node said in answer to this question, what it may say: addresses of its own for this name, or a name of its own.
    pub fn admit(&self, member: &Member, query: &Query, said: Vec<(Name, Data)>) -> Vec<Data> {
        let own = self.name_of(member);
        let may_say = |data: &Data| match data {
            Data::Address(ip) => member.holds(ip) && query.name.reversed().is_none() && is_of_kind(*ip, query.kind),
            Data::Name(name) => {
                matches!(query.kind, PTR | ANY)
                    && query.name.reversed().is_some()
                    && own.as_ref().is_some_and(|own| name.before(own).is_some())
            }
        };
        let of_question = said.into_iter().filter(|(name, _)| *name == query.name).map(|(_, data)| data);
        of_question.filter(may_say).take(MOST_ADDRESSES).collect()
    }
}

/// Whether a question of this type is for such addresses.
fn is_of_kind(ip: IpAddr, kind: u16) -> bool {
    match kind {
        A => ip.is_ipv4(),
        AAAA => ip.is_ipv6(),
        ANY => true,
        _ => false,
    }
}

/// The addresses of a node with these subnets: of its device and of its bridge.
pub fn addresses(subnets: &[IpNet]) -> impl Iterator<Item = IpAddr> {
    subnets.iter().flat_map(|subnet| [subnet.network(), bridge(subnet)])
}

/// The address of a node's bridge: the second of the subnet.
fn bridge(subnet: &IpNet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
    }
}

/// Addresses of the kind that is asked for; for any kind, those of the first family that there is (RFC 8482, section 4.1).
fn of_kind(addresses: impl Iterator<Item = IpAddr> + Clone, kind: u16) -> Vec<Data> {
    let family = match kind {
        ANY => addresses.clone().find(IpAddr::is_ipv4).or_else(|| addresses.clone().next()).map(|ip| ip.is_ipv4()),
        _ => None,
    };
    let fits = |ip: &IpAddr| is_of_kind(*ip, kind) && family.is_none_or(|four| ip.is_ipv4() == four);
    addresses.filter(fits).take(MOST_ADDRESSES).map(Data::Address).collect()
}

#[cfg(test)]
mod tests;
