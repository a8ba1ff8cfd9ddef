//! What makes a tunnel take everything: a routing table of its own, rules that ask it for all but our own datagrams, and packet
//! filters that keep both honest.
//!
//! Of each family with a prefix of length 0:
//!
//! | Priority | Rule | Why |
//! |---|---|---|
//! | p | not mark N: lookup T | T has the default route into the device, a blackhole behind it, and a throw per local network |
//! | p + 1 | not mark N: lookup main, only routes as long as the shortest of the local networks | where what was thrown goes |
//! | p + 2 | not mark N: lookup S | S is a blackhole: what was thrown for a network that is there no more gets to no other table |
//!
//! So whatever somebody puts into the main table (a DHCP server may: routes to halves of the world, to single hosts, a default
//! route of better metric) is not asked for packets that are not local, and marked datagrams always follow the main table.
//!
//! All routes in T and S have the scope of the world. When somebody adds a route by a gateway and names no device, the kernel looks for
//! the gateway by these rules, among routes of the scope of a link: it passes ours by, and finds the card.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use linux::netlink::{Family, Route, RouteKind, Rule, RuleAction};
use linux::nft::{self, Base, Chain, ChainKind, Header, Hook, Match, Policy, Ruleset, Set, Transport};

use super::{Actual, Desired, MAIN, Nearby, Owned, Prefix, table_name};

/// The priorities of our rules: after those that an administrator numbers by hand, before the main table (32766) and what
/// programs are given without asking for a number (from 32765 down).
pub const FIRST_PRIORITY: u32 = 17_300;

/// From the rules of one tunnel to those of the next.
pub const PRIORITY_STEP: u32 = 4;

/// How many tunnels that take everything have room.
pub const MOST: u32 = 25;

/// Where the routes of a tunnel that takes everything are, and what tells its datagrams from all others. Chosen once, and kept
/// over restarts: it is how what stands on the host is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Road {
    /// The mark of our datagrams.
    pub mark: u32,
    /// The routing table.
    pub table: u32,
    /// The table of blackholes.
    pub stop: u32,
    /// The first of its rules.
    pub priority: u32,
}

impl Road {
    /// Whether this is one of its rules.
    pub fn owns(&self, rule: &Rule) -> bool {
        rule.protocol == linux::netlink::PROTOCOL
            && (self.priority..self.priority + PRIORITY_STEP).contains(&rule.priority)
    }
}

/// A tunnel that takes everything, or everything of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullTunnel {
    /// Its mark, table and rules.
    pub road: Road,
    /// The name of its device.
    pub device: String,
    /// Where our datagrams arrive.
    pub port: u16,
}

/// What has to stand on the host for it.
pub(super) struct Layout {
    /// Beside those to prefixes: local networks, in the tunnel's table, and blackholes in the other.
    pub(super) routes: Vec<Route>,
    /// In the order in which they are made.
    pub(super) rules: Vec<Rule>,
    /// Without what tells that they belong together.
    pub(super) filters: Vec<Ruleset>,
}

impl FullTunnel {
    /// What `desired` needs in these surroundings.
    pub(super) fn layout(&self, desired: &Desired, actual: &Actual, owned: &Owned) -> Layout {
        let families: Vec<Family> = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| {
                let is_everything = |net: &IpNet| net.prefix_len() == 0 && Family::of(net.addr()) == *family;
                desired.prefixes.iter().any(|prefix| prefix.table == self.road.table && is_everything(&prefix.net))
            })
            .collect();
        let local: Vec<IpNet> =
            local_networks(desired, actual, owned).filter(|net| families.contains(&Family::of(net.addr()))).collect();
        let stop = |family: &Family| Prefix { net: everywhere(*family), table: self.road.stop }.blackhole();
        let throw = |net: &IpNet| Route { kind: RouteKind::Throw, table: self.road.table, ..Route::new(*net) };
        Layout {
            routes: families.iter().map(stop).chain(local.iter().map(throw)).collect(),
            rules: families.iter().flat_map(|family| self.rules(*family, &local)).collect(),
            filters: self.filters(&families, &desired.addresses, &local),
        }
    }

    fn rules(&self, family: Family, local: &[IpNet]) -> Vec<Rule> {
        let rule = |place, action| Rule {
            inverted: true,
            mark: Some((self.road.mark, u32::MAX)),
            ..Rule::new(family, self.road.priority + place, action)
        };
        let shortest = local.iter().filter(|net| Family::of(net.addr()) == family).map(IpNet::prefix_len).min();
        let main = shortest.map(|length| Rule {
            suppress: Some(u32::from(length.saturating_sub(1))),
            ..rule(1, RuleAction::Lookup(MAIN))
        });
        let everything = rule(0, RuleAction::Lookup(self.road.table));
        let nothing = rule(2, RuleAction::Lookup(self.road.stop));
        main.into_iter().chain([everything, nothing]).collect()
    }

    /// * `arrive`: nobody but the tunnel reaches its addresses.
    /// * `mark`: our datagrams carry the mark on their way in too, since a strict reverse-path filter (rp_filter=1) asks whether
    ///   an answer would leave by the same card. So does ARP, or the network's router could not find us.
    /// * `leave`: a program may bind its socket to a card and so choose the way itself, and then the rules do not hold.
    fn filters(&self, families: &[Family], addresses: &[IpNet], local: &[IpNet]) -> Vec<Ruleset> {
        let sets =
            [("own", addresses.iter().map(|net| IpNet::from(net.addr())).collect()), ("local", reachable(local))]
                .into_iter()
                .flat_map(|(name, prefixes): (&str, Vec<IpNet>)| {
                    let (v6, v4) = prefixes.into_iter().partition(|net| net.addr().is_ipv6());
                    [(false, v4), (true, v6)].map(|(v6, prefixes)| Set { name: set(name, v6), v6, prefixes })
                })
                .collect();
        let chain = |name: &str, kind, hook, priority, rules| {
            let base = Base { kind, hook, priority, device: None, policy: Policy::Accept };
            Chain { name: name.into(), base: Some(base), rules }
        };
        let filter = ChainKind::Filter;
        let inet = Ruleset {
            family: nft::Family::Inet,
            table: table_name(&self.device),
            sets,
            chains: vec![
                // -300: before connection tracking; -150: where marks are set.
                chain("arrive", filter, Hook::Prerouting, -300, self.arrive()),
                chain("mark", filter, Hook::Prerouting, -150, self.mark()),
                // 300: after whatever may send a packet another way.
                chain("leave", filter, Hook::Output, 300, self.leave(families)),
            ],
        };
        let mut arp = Ruleset { family: nft::Family::Arp, sets: vec![], chains: vec![], ..inet.clone() };
        if families.contains(&Family::V4) {
            let rule = self.set_mark("a neighbour asks for us", vec![]);
            arp.chains.push(chain("mark", filter, Hook::Input, -150, vec![rule]));
        }
        vec![inet, arp]
    }

    fn by_other_devices(&self, comment: &str) -> nft::Rule {
        nft::Rule::new(comment).when(Match::InputDevice(self.device.clone()).not())
    }

    fn arrive(&self) -> Vec<nft::Rule> {
        [false, true]
            .into_iter()
            .map(|v6| {
                let rule = self.by_other_devices("to an address of the tunnel, but not by it");
                let rule = rule.when(Match::InputDevice("lo".into()).not()).when(Match::DestinationIn(set("own", v6)));
                rule.then(nft::Action::Counter).then(nft::Action::Drop)
            })
            .collect()
    }

    fn set_mark(&self, comment: &str, matches: Vec<Match>) -> nft::Rule {
        let rule = matches.into_iter().fold(self.by_other_devices(comment), nft::Rule::when);
        rule.then(nft::Action::SetMark(self.road.mark, u32::MAX))
    }

    fn mark(&self) -> Vec<nft::Rule> {
        let here = Match::DestinationType(nft::AddressType::Local);
        let bytes = |offset, value: &[u8]| Match::Bytes {
            header: Header::Transport,
            offset,
            value: value.to_vec(),
            mask: vec![],
        };
        let datagram = vec![Match::DestinationPort(Transport::Udp, self.port..=self.port), here.clone()];
        // ICMP type 3, which path MTUs are learned from. Behind its 8 bytes is the header that it is about (20 bytes without
        // options, protocol UDP), then the source port, which is ours (RFC 792).
        let error = vec![
            Match::Source(IpNet::V4(Ipv4Net::default())),
            Match::Protocol(1),
            bytes(0, &[3]),
            bytes(8, &[0x45]),
            bytes(17, &[17]),
            bytes(28, &self.port.to_be_bytes()),
            here,
        ];
        vec![self.set_mark("our datagram arrives", datagram), self.set_mark("an error about our datagram", error)]
    }

    fn leave(&self, families: &[Family]) -> Vec<nft::Rule> {
        let accept = |comment: &str, what| nft::Rule::new(comment).when(what).then(nft::Action::Accept);
        let mut rules = vec![
            accept("by the tunnel", Match::OutputDevice(self.device.clone())),
            accept("to ourselves", Match::OutputDevice("lo".into())),
            accept("our datagram", Match::Mark(self.road.mark, u32::MAX)),
            accept("to a local network", Match::DestinationIn(set("local", false))),
            accept("to a local network", Match::DestinationIn(set("local", true))),
            accept("DHCP", Match::DestinationPort(Transport::Udp, 67..=67))
                .when(Match::SourcePort(Transport::Udp, 68..=68)),
        ];
        // Looking for routers and neighbours (RFC 4861, section 4): IPv6 does not work without.
        rules.extend((133..=136).map(|kind| accept("neighbour discovery", Match::Icmpv6Type(kind))));
        rules.extend(families.iter().map(|family| {
            let everywhere = everywhere(*family);
            let rule = nft::Rule::new("around the tunnel").when(Match::Destination(everywhere));
            rule.then(nft::Action::Counter).then(nft::Action::Drop)
        }));
        rules
    }
}

/// All addresses of a family.
pub fn everywhere(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    }
}

fn set(name: &str, v6: bool) -> String {
    format!("{name}{}", if v6 { 6 } else { 4 })
}

/// What the main table knows better than the tunnel, of the families that it takes.
fn local_networks<'a>(desired: &'a Desired, actual: &'a Actual, owned: &'a Owned) -> impl Iterator<Item = IpNet> + 'a {
    let own = desired.prefixes.iter().chain(&owned.blackholes).filter(|prefix| prefix.table == MAIN);
    let own: std::collections::HashSet<IpNet> = own.map(|prefix| prefix.net).collect();
    let other = |nearby: &Nearby| match nearby {
        Nearby::Network(net) | Nearby::Tunnel(net) => Some(*net),
        Nearby::Blackhole(net) => Some(*net).filter(|net| !own.contains(net)),
    };
    let mut all: Vec<IpNet> = actual.nearby.iter().filter_map(other).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

/// Local networks, and what never leaves a link or a site: groups (RFC 5771, RFC 2365, RFC 4291), broadcast.
fn reachable(local: &[IpNet]) -> Vec<IpNet> {
    let v4 = |octets: [u8; 4], length| Ipv4Net::new(octets.into(), length).ok().map(IpNet::V4);
    let groups = [v4([224, 0, 0, 0], 24), v4([239, 255, 0, 0], 16), v4([255; 4], 32)];
    let link = Ipv6Net::new([0xff02, 0, 0, 0, 0, 0, 0, 0].into(), 16).ok().map(IpNet::V6);
    groups.into_iter().chain([link]).flatten().chain(local.iter().copied()).collect()
}
