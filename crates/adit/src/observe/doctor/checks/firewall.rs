//! Firewalls of others in the way of datagrams, of containers' packets, and of pings: packets that do not exist are led through the rules that the kernel
//! has now. Whether datagrams really get through, the sessions of the peers say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::facts::{Daemon, carries, endpoint};
use super::super::firewall::{End, Owner, Packet, Pass, Place, place, remedy, walk};
use super::super::{Check, Facts, Finding, Kind};
use crate::api::Status;
use crate::plan::MAIN;
use linux::netlink::Layer;
use linux::nft::Listing;

/// Peers that rules are tried with.
const TRIED: usize = 64;

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const ICMP: u8 = libc::IPPROTO_ICMP as u8;
const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;

/// Echo requests (RFC 792, RFC 4443).
const ECHO: u8 = 8;
const ECHO6: u8 = 128;

static IN: Kind = Kind::broken("firewall-in", "the firewall of this host drops the datagrams of a peer");
static IN_LATER: Kind = Kind::warning(
    "firewall-in-later",
    "the firewall drops the first datagram of a peer: it has a session only since this host called",
);
static OUT: Kind = Kind::broken("firewall-out", "the firewall drops the datagrams that this host sends to a peer");
static FORWARD: Kind = Kind::broken("firewall-forward", "the firewall drops packets between containers and the tunnel");
static DEAF: Kind = Kind::warning(
    "container-deaf",
    "a container gets no answer from another node that there is a session with, and no rule here explains it",
);
static INNER: Kind =
    Kind::warning("firewall-inner", "the firewall drops pings that come out of the tunnel to this host");
static UNSURE: Kind =
    Kind::note("firewall-unsure", "the firewall may drop datagrams of peers: it depends on what cannot be foreseen");
static LEGACY: Kind = Kind::unseen("firewall-legacy", "there are rules of the former iptables, which are not read");
static UNSEEN: Kind = Kind::unseen("firewall-unseen", "the firewall could not be read");

/// Firewalls.
pub(in super::super) const CHECK: Check = Check {
    id: "firewall",
    title: "no firewall is in the way of datagrams, containers and pings",
    kinds: &[&IN, &IN_LATER, &OUT, &FORWARD, &DEAF, &INNER, &UNSURE, &LEGACY, &UNSEEN],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.host.filters {
        Err(why) => {
            findings.push(UNSEEN.found("the firewall could not be read").seen(why.clone()).run("sudo adit doctor"))
        }
        Ok(listing) => {
            for (daemon, status) in facts.up() {
                let judge = Judge { facts, listing, daemon, status };
                let found = [judge.datagrams(false), judge.datagrams(true), judge.forwarded(), judge.pings()].concat();
                findings.extend(found.into_iter().map(|finding| finding.on(&daemon.device)));
            }
        }
    }
    if !facts.host.legacy_tables.is_empty() {
        findings.push(
            LEGACY
                .found("this host has rules of the former iptables too, which are not read")
                .seen(format!("tables in use: {}", facts.host.legacy_tables.join(", ")))
                .run(facts.as_root("iptables-legacy-save")),
        );
    }
    findings
}

/// What comes of a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It has no session.
    NoSession,
    /// It has one, and the rules drop all that belongs to it.
    Nothing,
    /// It has one, and answered nothing that it was just asked.
    NoAnswer,
    /// It has one, and nothing speaks against it.
    Answers,
}

struct Judge<'a> {
    facts: &'a Facts,
    listing: &'a Listing,
    daemon: &'a Daemon,
    status: &'a Status,
}

impl Judge<'_> {
    /// A device with its number.
    fn device(&self, name: &str) -> Option<(String, u32)> {
        Some((name.to_owned(), self.facts.host.index(name)?))
    }

    /// Datagrams to and from peers.
    fn datagrams(&self, out: bool) -> Vec<Finding> {
        let port = self.status.transport.listen.port();
        let mut seen: Vec<(End, Heard, Vec<&str>)> = Vec::new();
        for peer in self.status.peers.iter().take(TRIED) {
            let at = endpoint(peer);
            let (card, ours) = match (at, self.daemon.way(peer)) {
                (Some(_), Some(way)) => (Some(way.device), way.source),
                // One that is to call first comes by the card that leads to the world, as far as one can know.
                (None, _) if !out => (self.card(), None),
                _ => continue,
            };
            let Some(card) = card.map(|index| Some((self.facts.host.device(index).to_owned(), index))) else {
                continue;
            };
            let theirs = at.map(|at| at.ip());
            let packet = Packet {
                v6: at.is_some_and(|at| at.is_ipv6()),
                established: false,
                input: card.clone().filter(|_| !out),
                output: card.filter(|_| out),
                from: if out { ours } else { theirs },
                to: if out { theirs } else { ours },
                protocol: UDP,
                source_port: if out { Some(port) } else { at.map(|at| at.port()) },
                port: if out { at.map(|at| at.port()) } else { Some(port) },
                icmp: None,
            };
            let places: &[Place] =
                if out { &[Place::Output, Place::Postrouting] } else { &[Place::Prerouting, Place::Input] };
            let first = walk(self.listing, &packet, places);
            let later = walk(self.listing, &Packet { established: true, ..packet }, places);
            let later = later.filter(|end| end.certain && peer.session == "up" && !out);
            let heard = match &later {
                Some(_) => Heard::Nothing,
                None if self.daemon.is_unanswered(peer) => Heard::NoAnswer,
                None if peer.session == "up" => Heard::Answers,
                None => Heard::NoSession,
            };
            let Some(end) = later.or(first) else { continue };
            match seen.iter_mut().find(|(known, was, _)| (known, *was) == (&end, heard)) {
                Some((.., names)) => names.push(&peer.name),
                None => seen.push((end, heard, vec![&peer.name])),
            }
        }
        let finding = |(end, heard, names): (End, Heard, Vec<&str>)| {
            let owner = Owner::of(&end, self.listing);
            let whom = match names.as_slice() {
                [one] => (*one).to_owned(),
                many => format!("{} peers", many.len()),
            };
            let (kind, sentence) = match (out, end.certain, heard) {
                (_, false, Heard::NoSession) => {
                    (&UNSURE, format!("{} may drop datagrams to UDP port {port}", owner.name()))
                }
                (_, false, _) => return None,
                (true, true, _) => (&OUT, format!("{} drops what this host sends to {whom}", owner.name())),
                (false, true, Heard::NoSession | Heard::NoAnswer | Heard::Nothing) => {
                    (&IN, format!("{} drops what {whom} sends to UDP port {port}", owner.name()))
                }
                (false, true, Heard::Answers) => (
                    &IN_LATER,
                    format!(
                        "{} drops the first datagram of {whom} to UDP port {port}: only this host can call",
                        owner.name()
                    ),
                ),
            };
            let pass = if out { Pass::Out(port) } else { Pass::In(port) };
            let mut finding = kind.found(sentence).seen(place(&end));
            match heard {
                Heard::Answers if kind == &IN_LATER => {
                    finding = finding.seen("there is a session, since answers to what this host sends pass");
                }
                Heard::Nothing => {
                    finding = finding.seen("there is a session, and what belongs to it is dropped as well")
                }
                Heard::NoAnswer => {
                    finding =
                        finding.seen("there is a session, and nothing that was sent within it just now was answered");
                }
                Heard::Answers | Heard::NoSession => {}
            }
            Some(remedy(finding, self.facts, self.listing, &end, pass))
        };
        seen.into_iter().filter_map(finding).collect()
    }

    /// The card that leads to the world, or the first that has an address.
    fn card(&self) -> Option<u32> {
        let host = &self.facts.host;
        let everywhere = host.routes.iter().filter(|route| route.destination.prefix_len() == 0 && route.table == MAIN);
        let is_card = |index: &u32| {
            host.link(*index)
                .is_some_and(|link| link.layer == Layer::Ethernet && link.kind.as_deref() != Some("bridge"))
        };
        let by_address = host.addresses.iter().map(|own| own.index);
        everywhere.filter_map(|route| route.device).chain(by_address).find(is_card)
    }

    /// Packets between containers and the tunnel.
    fn forwarded(&self) -> Vec<Finding> {
        let device = self.daemon.device.as_str();
        let bridge = self.daemon.bridge.as_deref().filter(|bridge| self.device(bridge).is_some());
        let Some(bridge) = bridge.filter(|_| self.device(device).is_some()) else { return Vec::new() };
        let Some(network) = self.status.network.as_ref().filter(|network| carries(network)) else { return Vec::new() };
        let mut findings: Vec<Finding> = Vec::new();
        let mut seen: Vec<(End, (&str, &str))> = Vec::new();
        for (from, to) in [(bridge, device), (device, bridge)] {
            for v6 in [false, true] {
                let mut own = network.subnets.iter().filter(|subnet| subnet.addr().is_ipv6() == v6);
                let Some(own) = own.next() else { continue };
                let other = network.nodes.iter().flat_map(|node| &node.subnets).find(|net| net.addr().is_ipv6() == v6);
                let container = self.container(v6).unwrap_or_else(|| own.addr());
                let ends = [Some(container), other.map(|net| second(net.network()))];
                let [source, destination] = if from == bridge { ends } else { [ends[1], ends[0]] };
                let packet = Packet {
                    v6,
                    established: false,
                    input: self.device(from),
                    output: self.device(to),
                    from: source,
                    to: destination,
                    protocol: TCP,
                    source_port: None,
                    port: None,
                    icmp: None,
                };
                let places = [Place::Prerouting, Place::Forward, Place::Postrouting];
                let end = walk(self.listing, &packet, &places).filter(|end| end.certain);
                let Some(end) = end else { continue };
                if !seen.iter().any(|(known, way)| {
                    (&known.base, &known.table, known.family, *way) == (&end.base, &end.table, end.family, (from, to))
                }) {
                    seen.push((end, (from, to)));
                }
            }
        }
        for (end, (from, to)) in seen {
            let owner = Owner::of(&end, self.listing);
            let sentence = format!("{} drops what goes from {from} to {to}: containers are cut off", owner.name());
            let mut finding = FORWARD.found(sentence).seen(place(&end));
            finding.evidence.extend(self.unanswered());
            if owner == Owner::Docker {
                finding = finding.advise(format!(
                    "`adit docker-plugin` keeps such rules for containers of Docker; for others put them where the host starts: {} is \
                     made anew with dockerd",
                    end.base
                ));
            }
            findings.push(remedy(finding, self.facts, self.listing, &end, Pass::Between(from, to)));
        }
        if let (true, Some(unanswered)) = (findings.is_empty(), self.unanswered()) {
            findings.push(
                DEAF.found("a container gets no answer from another node").seen(unanswered).advise(
                    "have `adit doctor` look on that node too, and see what else is found here: forwarding, rp_filter, subnets",
                ),
            );
        }
        findings
    }

    /// What a real packet says of it.
    fn unanswered(&self) -> Option<String> {
        let ping = self.daemon.ping.as_ref().filter(|ping| !ping.answered)?;
        Some(format!("the container {} got no answer to pings of {}, the device of {}", ping.from, ping.to, ping.node))
    }

    fn container(&self, v6: bool) -> Option<IpAddr> {
        let addresses = self.daemon.containers.iter().flat_map(|container| &container.shown.addresses);
        addresses.map(ipnet::IpNet::addr).find(|ip| ip.is_ipv6() == v6)
    }

    /// Pings of peers to this host.
    fn pings(&self) -> Vec<Finding> {
        let device = self.daemon.device.as_str();
        let mut findings: Vec<Finding> = Vec::new();
        for v6 in [false, true] {
            let own = self.status.device.addresses.iter().map(ipnet::IpNet::addr).find(|ip| ip.is_ipv6() == v6);
            let all = self.status.peers.iter().flat_map(|peer| &peer.allowed_ips);
            let theirs = all.filter(|net| net.prefix_len() > 0).map(ipnet::IpNet::addr).find(|ip| ip.is_ipv6() == v6);
            let (Some(own), Some(theirs), Some(_)) = (own, theirs, self.device(device)) else { continue };
            let packet = Packet {
                v6,
                established: false,
                input: self.device(device),
                output: None,
                from: Some(theirs),
                to: Some(own),
                protocol: if v6 { ICMPV6 } else { ICMP },
                source_port: None,
                port: None,
                icmp: Some(if v6 { ECHO6 } else { ECHO }),
            };
            let end = walk(self.listing, &packet, &[Place::Prerouting, Place::Input]).filter(|end| end.certain);
            let Some(end) = end else { continue };
            let owner = Owner::of(&end, self.listing);
            let finding = INNER
                .found(format!("{} drops pings that come out of {device} to this host", owner.name()))
                .seen(place(&end))
                .advise("if peers are not meant to reach this host itself, all is well");
            let finding = remedy(finding, self.facts, self.listing, &end, Pass::Pings(device));
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        findings
    }
}

/// Somebody within a prefix.
fn second(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).saturating_add(2)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).saturating_add(2)).into(),
    }
}

#[cfg(test)]
mod tests {
    use linux::nft::{Decision, Expression, Family, ListedChain, ListedTable};

    use super::super::super::facts::tests::{mute, status};
    use super::super::super::firewall::tests::{chain, udp_to};
    use super::super::tests::{found, found_on_node, ids};
    use super::*;

    const INET: (Family, &str) = (Family::Inet, "filter");

    fn put(facts: &mut Facts, chains: Vec<ListedChain>) {
        facts.host.filters = Ok(Listing { chains, ..Listing::default() });
    }

    #[test]
    fn a_policy_that_drops_is_broken_whether_there_is_a_session_or_not() {
        for session in ["handshaking", "up"] {
            let findings = found(&CHECK, |facts| {
                status(facts).peers[0].session = session.into();
                put(facts, vec![chain(INET, "input", Some((1, true)), vec![])]);
            });
            assert_eq!(ids(&findings), ["firewall-in", "firewall-inner"]);
            assert_eq!(findings[0].commands, ["nft insert rule inet filter input udp dport 7777 accept"]);
        }
    }

    #[test]
    fn what_drops_a_session_that_looks_up_is_broken() {
        let stateless = vec![chain(INET, "input", Some((1, false)), vec![udp_to(7777, Decision::Drop)])];
        let findings = found(&CHECK, |facts| put(facts, stateless.clone()));
        assert_eq!(ids(&findings), ["firewall-in"]);
        assert!(findings[0].evidence[1].contains("dropped as well"), "{findings:?}");
        // Answers pass by the rules, and do not come all the same.
        let state = |key| Expression::Connection { key, to: 1 };
        let mask = |value: u32| value.to_ne_bytes().to_vec();
        let answers = vec![
            state(0),
            Expression::Bitwise { from: 1, to: 1, mask: mask(6), xor: mask(0) },
            Expression::Compare { from: 1, operation: 1, value: mask(0) },
            Expression::Decide(Decision::Accept),
        ];
        let stateful = vec![chain(INET, "input", Some((1, false)), vec![answers, udp_to(7777, Decision::Drop)])];
        assert_eq!(ids(&found(&CHECK, |facts| put(facts, stateful.clone()))), ["firewall-in-later"]);
        let findings = found(&CHECK, |facts| {
            mute(facts);
            put(facts, stateful);
        });
        assert_eq!(ids(&findings), ["firewall-in"]);
        assert!(findings[0].evidence[1].contains("was answered"), "{findings:?}");
    }

    #[test]
    fn no_command_is_told_that_would_be_refused_or_read_as_another() {
        let owned = |facts: &mut Facts| {
            put(facts, vec![chain(INET, "input", Some((1, true)), vec![])]);
            let table = ListedTable { family: INET.0, name: INET.1.into(), dormant: false, owned: true };
            facts.host.filters.as_mut().unwrap().tables.push(table);
        };
        let findings = found(&CHECK, owned);
        assert_eq!(ids(&findings), ["firewall-in", "firewall-inner"]);
        assert!(findings.iter().all(|finding| finding.commands.is_empty()), "{findings:?}");
        assert!(findings[0].evidence.iter().any(|line| line.contains("flag owner")), "{findings:?}");
        let strange =
            |facts: &mut Facts| put(facts, vec![chain((INET.0, "a;$(id)"), "input", Some((1, true)), vec![])]);
        assert!(found(&CHECK, strange).iter().all(|finding| finding.commands.is_empty()));
    }

    #[test]
    fn output_is_looked_at_too() {
        let findings = found(&CHECK, |facts| {
            put(facts, vec![chain(INET, "output", Some((3, false)), vec![udp_to(7777, Decision::Drop)])]);
        });
        assert_eq!(ids(&findings), ["firewall-out"]);
        assert!(findings[0].evidence[0].contains("rule 1 drops it"), "{findings:?}");
    }

    #[test]
    fn dockers_policy_cuts_containers_off() {
        let findings = found_on_node(&CHECK, |facts| {
            let filter = (Family::Ip, "filter");
            put(
                facts,
                vec![chain(filter, "FORWARD", Some((2, true)), vec![]), chain(filter, "DOCKER-USER", None, vec![])],
            );
        });
        assert_eq!(ids(&findings), ["firewall-forward"; 2]);
        assert!(findings[0].sentence.starts_with("Docker's firewall"));
        let commands: Vec<_> = findings.iter().flat_map(|finding| &finding.commands).collect();
        assert_eq!(
            commands,
            [
                "iptables -I DOCKER-USER -i adit-br0 -o adit0 -j ACCEPT",
                "iptables -I DOCKER-USER -i adit0 -o adit-br0 -j ACCEPT"
            ]
        );
    }

    #[test]
    fn a_real_packet_has_the_last_word() {
        let silence = |facts: &mut Facts| facts.daemons[0].ping.as_mut().unwrap().answered = false;
        let findings = found_on_node(&CHECK, silence);
        assert_eq!(ids(&findings), ["container-deaf"]);
        let findings = found_on_node(&CHECK, |facts| {
            silence(facts);
            put(facts, vec![chain(INET, "forward", Some((2, true)), vec![])]);
        });
        assert_eq!(ids(&findings), ["firewall-forward"; 2]);
        assert!(findings[0].evidence[1].contains("10.42.8.0, the device of berlin"), "{findings:?}");
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        assert_eq!(ids(&found(&CHECK, |facts| facts.host.filters = Err("no".into()))), ["firewall-unseen"]);
        assert_eq!(ids(&found(&CHECK, |f| f.host.legacy_tables = vec!["filter".into()])), ["firewall-legacy"]);
    }
}
