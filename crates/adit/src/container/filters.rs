//! What a container may send: a table of packet filters per veth, before the bridge sees a frame.
//!
//! | A container sends | It goes on |
//! |---|---|
//! | from another link-layer address than its own | never |
//! | IPv4 | from its own address; not to a loopback address, not as a DHCP server |
//! | ARP | as itself: its own link-layer and its own IPv4 address, or a probe (RFC 5227) |
//! | IPv6 | from its own addresses; not as a router (advertisement, redirect) or DHCPv6 server; what it advertises as its own must be |
//! | to a neighbour by way of the host, if it is isolated | never |
//! | anything else (STP, other protocols) | never |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use linux::nft::{Action, Base, Chain, ChainKind, Family, Header, Hook, Match, Policy, Rule, Ruleset, Transport};

use super::{Record, node};
use crate::plan;

const ARP: u16 = 0x0806;

/// Where in an ARP packet its sender's link-layer address is, which is followed by its protocol address (RFC 826).
const ARP_SENDER: u32 = 8;

/// Where in a neighbour solicitation or advertisement its target is (RFC 4861, sections 4.3 and 4.4).
const TARGET: u32 = 8;

/// Types of ICMPv6 messages (RFC 4861, RFC 3810).
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 143;

/// The most characters of a comment, of which nf_tables takes 127 bytes.
const COMMENT: usize = 28;

/// Ports of DHCP servers.
const DHCP: u16 = 67;
const DHCPV6: u16 = 547;

/// Being of an IP version.
pub(super) fn family(v6: bool) -> Match {
    let ip: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    Match::Source(IpNet::new_assert(ip, 0))
}

/// The name of the table for what comes from this veth.
pub fn table(host_interface: &str) -> String {
    format!("adit-{host_interface}")
}

/// The filters for what this container sends.
pub fn ruleset(record: &Record) -> Ruleset {
    let drop = |rule: Rule| rule.then(Action::Counter).then(Action::Drop);
    let accept = |rule: Rule| rule.then(Action::Accept);
    let mut rules = vec![drop(Rule::new("not its link-layer address").when(Match::SourceMac(record.mac).not()))];
    for ip in record.addresses.iter().map(IpNet::addr).filter(IpAddr::is_ipv4) {
        let own = || Match::Source(ip.into());
        let server = Match::SourcePort(Transport::Udp, DHCP..=DHCP);
        rules.push(drop(Rule::new("a DHCP server").when(own()).when(server)));
        if let Ok(loopback) = Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8) {
            let to = Match::Destination(loopback.into());
            rules.push(drop(Rule::new("to loopback addresses of the host").when(own()).when(to)));
        }
        rules.extend(around_isolation(record, own()).map(drop));
        rules.push(accept(Rule::new("its IPv4").when(own())));
    }
    for ip in record.addresses.iter().map(IpNet::addr).filter(IpAddr::is_ipv4) {
        let sender = |ip: Ipv4Addr| Match::Bytes {
            header: Header::Network,
            offset: ARP_SENDER,
            value: record.mac.iter().copied().chain(ip.octets()).collect(),
            mask: Vec::new(),
        };
        if let IpAddr::V4(ip) = ip {
            for (what, ip) in [("its ARP", ip), ("an ARP probe", Ipv4Addr::UNSPECIFIED)] {
                rules.push(accept(Rule::new(what).when(Match::EtherType(ARP)).when(sender(ip))));
            }
        }
    }
    let six: Vec<IpAddr> = record.addresses.iter().map(IpNet::addr).filter(IpAddr::is_ipv6).collect();
    rules.extend(six.iter().filter_map(|ip| around_isolation(record, Match::Source((*ip).into()))).map(drop));
    if !six.is_empty() {
        let six = ipv6(record.mac, &six).into_iter();
        rules.extend(six.map(|(rule, goes)| if goes { accept(rule) } else { drop(rule) }));
    }
    rules.push(drop(Rule::new("anything else")));
    let base = Base {
        kind: ChainKind::Filter,
        hook: Hook::Ingress,
        priority: -500,
        device: Some(record.host_interface.clone()),
        policy: Policy::Drop,
    };
    let chains = vec![Chain { name: "from".into(), base: Some(base), rules }];
    let mut ruleset =
        Ruleset { family: Family::Netdev, table: table(&record.host_interface), sets: Vec::new(), chains };
    sign(&mut ruleset);
    ruleset
}

/// Writes behind each rule's comment of which whole it is a part: comments are what the kernel tells of rules.
pub(super) fn sign(ruleset: &mut Ruleset) {
    let fingerprint = plan::fingerprint(&format!("{ruleset:?}"));
    for rule in ruleset.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        let words: String = rule.comment.chars().take(COMMENT).collect();
        rule.comment = format!("{words} [{fingerprint:08x}]");
    }
}

/// Chain and comment of each rule, as the kernel would tell of them.
pub(super) fn told(ruleset: &Ruleset) -> Vec<(String, String)> {
    plan::what_is_told_of(std::slice::from_ref(ruleset))
}

/// What an isolated container would send to a neighbour by way of the host, which routes it back: the bridge keeps only those apart that it carries
/// from port to port.
fn around_isolation(record: &Record, own: Match) -> Option<Rule> {
    let v6 = matches!(&own, Match::Source(IpNet::V6(_)));
    let subnet = record.addresses.iter().find(|net| net.addr().is_ipv6() == v6).filter(|_| record.isolated)?.trunc();
    let bridge = record.addresses.first().and_then(node::gateway)?;
    let rule =
        Rule::new("a neighbour by way of the host").when(own).when(Match::DestinationMac(node::mac_of(bridge.addr())));
    let hosts = [subnet.network(), node::gateway(&subnet)?.addr()];
    Some(
        hosts
            .into_iter()
            .fold(rule.when(Match::Destination(subnet)), |rule, ip| rule.when(Match::Destination(ip.into()).not())),
    )
}

/// The rules for IPv6, each with whether what it is for goes on.
fn ipv6(mac: [u8; 6], addresses: &[IpAddr]) -> Vec<(Rule, bool)> {
    let six = || family(true);
    let own: Vec<IpAddr> = addresses.iter().copied().chain([IpAddr::V6(link_local(mac))]).collect();
    let target = |ip: &IpAddr| Match::Bytes {
        header: Header::Transport,
        offset: TARGET,
        value: match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        mask: Vec::new(),
    };
    let mut rules = vec![
        (Rule::new("a router").when(six()).when(Match::Icmpv6Type(ROUTER_ADVERTISEMENT)), false),
        (Rule::new("a redirect").when(six()).when(Match::Icmpv6Type(REDIRECT)), false),
        (Rule::new("a DHCPv6 server").when(six()).when(Match::SourcePort(Transport::Udp, DHCPV6..=DHCPV6)), false),
    ];
    let foreign = Rule::new("another's address as its own").when(six()).when(Match::Icmpv6Type(ADVERTISEMENT));
    rules.push((own.iter().fold(foreign, |rule, ip| rule.when(target(ip).not())), false));
    rules.extend(own.iter().map(|ip| (Rule::new("its IPv6").when(Match::Source((*ip).into())), true)));
    // Before it uses an address it asks for it, and joins the groups that others ask there, without one.
    let nobody = || Match::Source(IpAddr::V6(Ipv6Addr::UNSPECIFIED).into());
    let asks = |ip: &IpAddr| {
        let rule = Rule::new("whether its address is free").when(nobody()).when(Match::Icmpv6Type(SOLICITATION));
        (rule.when(target(ip)), true)
    };
    rules.extend(own.iter().map(asks));
    rules.push((Rule::new("its groups").when(nobody()).when(Match::Icmpv6Type(LISTENER_REPORT)), true));
    rules
}

/// The address that the kernel gives a device on its link (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, ((a ^ 2) << 8) | b, (c << 8) | 0xff, 0xfe00 | d, (e << 8) | f)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn the_kernels_own_address_is_known() {
        // ip -6 address of a device with this link-layer address.
        let mac = [0x0a, 0x58, 0x0a, 0x2a, 0x07, 0x02];
        assert_eq!(link_local(mac), "fe80::858:aff:fe2a:702".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn what_is_not_allowed_ends() {
        let ruleset = ruleset(&record("c1", &["10.42.7.2/24"]));
        let chain = &ruleset.chains[0];
        assert_eq!(chain.base.as_ref().unwrap().policy, Policy::Drop);
        assert!(chain.rules.last().unwrap().matches.is_empty());
        assert!(chain.rules.iter().all(|rule| !rule.comment.contains("IPv6")), "a container without IPv6 sends none");
        let both = super::ruleset(&record("c1", &["10.42.7.2/24", "fd77::2/64"]));
        assert!(both.chains[0].rules.len() > chain.rules.len());
    }
}
