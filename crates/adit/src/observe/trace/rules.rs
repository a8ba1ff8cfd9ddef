//! The causes that a packet may die of, and what speaks for each: one function per cause.

use std::net::IpAddr;

use super::journey::Way;
use super::observation::{DeviceKind, Direction, Fact, HostReport, IcmpKind, Place, Protocol};
use super::reason::{Cause, Certainty, Finding, Scene};
use super::report::{LOOPBACK, NOBODY_ANSWERS, NOBODY_LISTENS};
use super::stage::Stage;
use super::words;

/// Bytes that a tunnel adds at most: IPv6, UDP and what is around a sealed packet.
const AROUND: u32 = 40 + 8 + 32;

/// What counts packets of IPv4 whose answers would leave by another device.
const RP_FILTER: &str = "IPReversePathFilter";

/// All rules.
const RULES: &[fn(&Scene<'_>) -> Option<Finding>] = &[
    firewall,
    no_route,
    rp_filter,
    forwarding,
    too_big,
    hop_limit,
    peer_down,
    refused,
    host_unreachable,
    checksum,
    queue,
    daemon,
    not_permitted,
    not_seen,
    no_answer,
];

/// What the rules find, in their order.
pub(super) fn find(scene: &Scene<'_>) -> Vec<Finding> {
    RULES.iter().filter_map(|rule| rule(scene)).collect()
}

/// Why there is no finding.
pub(super) fn silence(scene: &Scene<'_>) -> String {
    match (scene.stage, scene.report) {
        (Stage::Unseen, None) => "no host reported".to_owned(),
        (Stage::Unseen, Some(report)) => format!("nothing that {} counts or knows explains it", report.host),
        (_, None) => format!("{} did not report", scene.host),
        (Stage::Cable, Some(_)) if scene.beyond.is_empty() => {
            format!("behind {} nobody was asked", scene.host)
        }
        (Stage::Cable, Some(_)) => {
            let beyond: Vec<&str> = scene.beyond.iter().map(|report| report.host.as_str()).collect();
            format!("it did not come to {}, and no host counts or knows anything that explains it", beyond.join(" or "))
        }
        (Stage::Socket, Some(_)) => format!(
            "it did not get from the socket to a card of {}, so look there at `tc -s qdisc`, at filters of cards (nft, netdev egress), and at \
             `ip neighbour`",
            scene.host
        ),
        (_, Some(report)) => format!("nothing that {} counts or knows explains it", report.host),
    }
}

fn firewall(scene: &Scene<'_>) -> Option<Finding> {
    use Stage::{Arrived, Cable, Delivered, Egress, Socket, Stack, Unseen, Written};
    if let Some(refuser) = refuser(scene) {
        // Wherever a rule met it: who sends such an answer does not pass the probe on.
        if let Some(found) = scene.trace.reports.iter().find_map(|report| by_rule(scene, report)) {
            return Some(found);
        }
        let clause = format!("{} {}", refuser.from, refuser.says);
        let evidence = vec![format!("ICMP from {}: {}", refuser.from, refuser.message)];
        return Some(said(Cause::Firewall, clause, evidence, None));
    }
    if !matches!(scene.stage, Arrived | Cable | Delivered | Egress | Socket | Stack | Unseen | Written) {
        return None;
    }
    if let Some(found) = reports(scene).into_iter().find_map(|report| by_rule(scene, report)) {
        return Some(found);
    }
    reports(scene).into_iter().find_map(|report| {
        let moved = moved(report, |counter| counter.starts_with("nft:"));
        let host = &report.host;
        let clause = format!("a firewall of {host} dropped it");
        let remedy = Some(format!("on {host}: nft -a list ruleset"));
        (!moved.is_empty()).then(|| likely(Cause::Firewall, clause, moved, remedy))
    })
}

/// A rule of this host that ended a probe.
fn by_rule(scene: &Scene<'_>, report: &HostReport) -> Option<Finding> {
    let (table, chain, handle) = report.facts.iter().find_map(|fact| match fact {
        Fact::Firewall { table, chain, handle } => Some((table, chain, handle)),
        _ => None,
    })?;
    let host = &report.host;
    // Of a host that has the address, answers pass the rules as well, and bear the same mark.
    let what = if report.facts.iter().any(|fact| is_own(scene, fact)) { "it or its answer" } else { "it" };
    let clause = format!("a firewall of {host} dropped {what}: rule {handle} in chain {chain} of table {table}");
    let evidence = vec![format!("rule {handle} in chain {chain} of table {table} on {host} matched")];
    Some(said(Cause::Firewall, clause, evidence, command(host, "nft -a list chain", &[table, chain])))
}

/// Somebody who says by ICMP that he refuses it, though he is no closed port.
struct Refuser {
    from: IpAddr,
    says: &'static str,
    message: &'static str,
}

fn refuser(scene: &Scene<'_>) -> Option<Refuser> {
    scene.heard().find_map(|fact| match fact {
        // A route may forbid it as well.
        Fact::Icmp { from, kind: IcmpKind::Prohibited, .. } if !has_no_route(scene) => {
            Some(Refuser { from: *from, says: "answered that a firewall forbids it", message: "prohibited" })
        }
        // No stack says so of anything but UDP to an address of its own; filters that reject do, as a rule.
        Fact::Icmp { from, kind: IcmpKind::PortUnreachable, .. }
            if scene.trace.protocol != Protocol::Udp || *from != scene.trace.destination =>
        {
            let says = "refused it by an answer that firewalls give, and no closed port";
            Some(Refuser { from: *from, says, message: "port unreachable" })
        }
        _ => None,
    })
}

/// Whether a host that the probe came to has no route to its destination, or one that refuses.
fn has_no_route(scene: &Scene<'_>) -> bool {
    scene.heard().any(|fact| matches!(fact, Fact::NoRoute { to } if *to == scene.trace.destination))
}

/// Whether a fact says that its host has the destination itself.
fn is_own(scene: &Scene<'_>, fact: &Fact) -> bool {
    matches!(fact, Fact::RouteVia { to, device, .. } if *to == scene.trace.destination && device == LOOPBACK)
}

/// Whether the host where it was last seen has the destination itself.
fn is_there(scene: &Scene<'_>) -> bool {
    scene.facts().any(|fact| is_own(scene, fact))
}

fn no_route(scene: &Scene<'_>) -> Option<Finding> {
    // The daemon says so by ICMP in the name of the destination, as whoever sent the packet looks for it there.
    let by_daemon = scene.report.filter(|_| scene.stage == Stage::Egress);
    let by_daemon = by_daemon.map(|report| (report, moved(report, |counter| counter == "adit:no_route")));
    if let Some((report, moved)) = by_daemon.filter(|(_, moved)| !moved.is_empty()) {
        let clause = format!("no peer of {} has {}", report.host, scene.trace.destination);
        let remedy = Some(format!("on {}: adit status", report.host));
        let destination = scene.trace.destination;
        let is_its =
            |fact: &Fact| matches!(fact, Fact::Icmp { from, kind: IcmpKind::NoRoute, .. } if *from == destination);
        let certainty = if scene.heard().any(is_its) { Certainty::Said } else { Certainty::Likely };
        return Some(Finding { certainty, ..likely(Cause::NoRoute, clause, moved, remedy) });
    }
    if let Some(Fact::Icmp { from, .. }) = icmp(scene, |kind| kind == IcmpKind::NoRoute) {
        let clause = format!("{from} answered that it has no route");
        return Some(said(Cause::NoRoute, clause, vec![format!("ICMP from {from}: no route")], None));
    }
    let report = scene.report?;
    let host = &report.host;
    match scene.stage {
        Stage::Stack | Stage::Socket | Stage::Written | Stage::Unseen => {
            // What the kernel counts is about others, where it has a route for this one.
            let has_one = |fact: &Fact| matches!(fact, Fact::RouteVia { to, .. } if *to == scene.trace.destination);
            let is_about_it = scene.stage == Stage::Socket || scene.way == Way::Back || !scene.facts().any(has_one);
            let mut evidence = moved(report, |counter| {
                is_about_it
                    && kernel(scene, counter)
                    && (counter.ends_with("InNoRoutes") || counter.ends_with("OutNoRoutes"))
            });
            let missing = scene.facts().find_map(|fact| match fact {
                Fact::NoRoute { to } => Some(*to),
                _ => None,
            });
            evidence.extend(missing.map(|to| format!("{host} has no route to {to}")));
            let to = missing.map_or_else(|| "where it goes".to_owned(), |to| to.to_string());
            let remedy = missing.map(|to| format!("on {host}: ip route get {to}"));
            let clause = format!("{host} has no route to {to}");
            // A route may say itself that it refuses, to whoever sent the packet.
            let refused = icmp(scene, |kind| matches!(kind, IcmpKind::Prohibited | IcmpKind::HostUnreachable));
            match (missing, refused) {
                (Some(_), Some(Fact::Icmp { from, .. })) => {
                    let clause = format!("{clause}, or one that refuses, as {from} answered");
                    Some(said(Cause::NoRoute, clause, evidence, remedy))
                }
                _ => (!evidence.is_empty()).then(|| likely(Cause::NoRoute, clause, evidence, remedy)),
            }
        }
        _ => None,
    }
}

fn rp_filter(scene: &Scene<'_>) -> Option<Finding> {
    if !matches!(scene.stage, Stage::Stack | Stage::Written | Stage::Arrived) {
        return None;
    }
    let report = scene.report?;
    let mut evidence = moved(report, |counter| kernel(scene, counter) && counter.ends_with(RP_FILTER));
    if evidence.is_empty() {
        return None;
    }
    let host = &report.host;
    let came_by = scene.device().filter(|(.., direction)| *direction == Direction::In).map(|(name, ..)| name);
    let strict: Vec<(&str, u32)> = scene
        .facts()
        .filter_map(|fact| match fact {
            Fact::RpFilter { device, value } if *value > 0 => Some((device.as_str(), *value)),
            _ => None,
        })
        .collect();
    // A packet on a port of a bridge is checked as one of the bridge, so the device that it was seen on may not be the one.
    let device = strict.iter().find(|(device, _)| Some(*device) == came_by).or_else(|| strict.first());
    evidence.extend(device.map(|(device, value)| format!("rp_filter of {device} on {host} is {value}")));
    let device = device.map(|(device, _)| *device).or(came_by);
    let by = device.map_or_else(String::new, |device| format!(" by {device}"));
    let clause = format!("{host} dropped it because its answer would not leave{by} (rp_filter)");
    let remedy = device.filter(|device| word(device));
    let remedy =
        remedy.map(|device| format!("on {host}: sysctl -w net.ipv4.conf.{}.rp_filter=2", device.replace('.', "/")));
    Some(likely(Cause::RpFilter, clause, evidence, remedy))
}

fn forwarding(scene: &Scene<'_>) -> Option<Finding> {
    let came_in = scene.device().is_none_or(|(.., direction)| direction == Direction::In);
    if !matches!(scene.stage, Stage::Stack | Stage::Written) || !came_in || is_there(scene) {
        return None;
    }
    let report = scene.report?;
    let host = &report.host;
    let (family, setting) = match scene.trace.destination {
        IpAddr::V4(_) => (4, "net.ipv4.ip_forward"),
        IpAddr::V6(_) => (6, "net.ipv6.conf.all.forwarding"),
    };
    let off = |fact: &Fact| matches!(fact, Fact::Forwarding { family: of, on: false } if *of == family);
    if !scene.facts().any(off) {
        return None;
    }
    let mut evidence = vec![format!("{setting} on {host} is 0")];
    let counted = moved(report, |counter| kernel(scene, counter) && counter.ends_with("InAddrErrors"));
    let certainty = if counted.is_empty() { Certainty::Possible } else { Certainty::Likely };
    evidence.extend(counted);
    Some(Finding {
        cause: Cause::ForwardingOff,
        certainty,
        clause: format!("{host} does not forward IPv{family}"),
        evidence,
        remedy: Some(format!("on {host}: sysctl -w {setting}=1")),
    })
}

fn too_big(scene: &Scene<'_>) -> Option<Finding> {
    let size = scene.size;
    let too_big = scene.heard().filter_map(|fact| match fact {
        Fact::Icmp { from, kind: IcmpKind::TooBig, mtu } => Some((from, mtu)),
        _ => None,
    });
    // It may be about a larger probe; what is around ours counts as well, where it was the datagram that did not fit.
    let about_it = |mtu: &u32| size.is_none_or(|size| size.saturating_add(AROUND) > *mtu);
    if let Some((from, mtu)) = too_big.into_iter().find(|(_, mtu)| mtu.as_ref().is_none_or(about_it)) {
        let fits = mtu.map_or_else(String::new, |mtu| format!(", {mtu} bytes would fit"));
        let clause = format!("{from} answered that it is too big{fits}");
        return Some(said(Cause::TooBig, clause, vec![format!("ICMP from {from}: packet too big{fits}")], None));
    }
    let host = scene.host;
    let counted = scene.report.map(|report| match scene.stage {
        Stage::Egress => moved(report, |counter| counter == "adit:too_big"),
        Stage::Stack | Stage::Socket | Stage::Unseen => moved(report, |counter| {
            kernel(scene, counter) && (counter.ends_with("FragFails") || counter.ends_with("TooBigErrors"))
        }),
        _ => Vec::new(),
    });
    // Where limits are known, the narrowest that it does not fit.
    let limit = scene.facts().filter_map(|fact| match fact {
        Fact::PathMtu { peer, mtu } if matches!(scene.stage, Stage::Egress | Stage::Cable) => {
            Some((*mtu, format!("the way from {host} to {peer} takes {mtu} bytes")))
        }
        Fact::Mtu { device, mtu } if matches!(scene.stage, Stage::Stack | Stage::Unseen) => {
            Some((*mtu, format!("{device} on {host} takes {mtu} bytes")))
        }
        _ => None,
    });
    let limit = limit.filter(|(mtu, _)| size.is_some_and(|size| size > *mtu)).min().map(|(_, limit)| limit);
    let told = size.map_or_else(|| "it".to_owned(), |size| format!("its {size} bytes"));
    if let Some(mut evidence) = counted.filter(|counted| !counted.is_empty()) {
        evidence.extend(limit.clone());
        let limit = limit.map_or_else(String::new, |limit| format!(": {limit}"));
        return Some(likely(Cause::TooBig, format!("{told} did not fit{limit}"), evidence, None));
    }
    // A bridge drops without a word what does not fit its port, and counts nothing. Where it was not seen is where it was to go.
    let passed: Vec<&Place> = scene.leg.iter().flat_map(|leg| &leg.hops).map(|hop| &hop.place).collect();
    let is_ahead = |device: &str| !passed.iter().any(|at| matches!(at, Place::Device { name, .. } if name == device));
    let port = scene.facts().find_map(|fact| match fact {
        Fact::Mtu { device, mtu } if scene.stage == Stage::Stack && is_ahead(device) && size? > *mtu => {
            Some(format!("{device}, by which {host} sends it on, takes {mtu} bytes"))
        }
        _ => None,
    });
    if let Some(port) = port {
        return Some(likely(Cause::TooBig, format!("{told} did not fit: {port}"), vec![port], None));
    }
    // Without a counter and a message: a black hole, known by what fits through it.
    let most = scene.answered.iter().copied().max();
    if let (Stage::Cable | Stage::Arrived, Some(size), Some(most)) = (scene.stage, size, most)
        && size > most
    {
        let mut evidence = vec![format!("probes of up to {most} bytes were answered, none of {size}")];
        evidence.extend(limit);
        let clause =
            format!("{told} did not fit somewhere behind {host}, which nobody told the sender (an MTU black hole)");
        let remedy = Some(format!("on {host}: adit doctor"));
        return Some(likely(Cause::TooBig, clause, evidence, remedy));
    }
    let limit = limit?;
    Some(Finding {
        cause: Cause::TooBig,
        certainty: Certainty::Possible,
        clause: format!("{told} did not fit: {limit}"),
        evidence: vec![limit],
        remedy: None,
    })
}

fn hop_limit(scene: &Scene<'_>) -> Option<Finding> {
    if let Some(Fact::Icmp { from, .. }) = icmp(scene, |kind| kind == IcmpKind::TimeExceeded) {
        let clause = format!("{from} answered that it was routed too often, so it may go in circles");
        return Some(said(Cause::HopLimit, clause, vec![format!("ICMP from {from}: time exceeded")], None));
    }
    let last = scene.leg.and_then(|leg| leg.hops.last())?;
    let spent = last.ttl.is_some_and(|ttl| ttl <= 1) && scene.stage == Stage::Stack;
    spent.then(|| Finding {
        cause: Cause::HopLimit,
        certainty: Certainty::Possible,
        clause: "it may not be routed any further".to_owned(),
        evidence: vec![format!("its hop limit there was {}", last.ttl.unwrap_or(0))],
        remedy: None,
    })
}

fn peer_down(scene: &Scene<'_>) -> Option<Finding> {
    if !matches!(scene.stage, Stage::Egress | Stage::Socket | Stage::Cable) {
        return None;
    }
    let report = scene.report?;
    let host = &report.host;
    let down: Vec<(&String, &String)> = scene
        .facts()
        .filter_map(|fact| match fact {
            Fact::PeerDown { peer, problem } => Some((peer, problem)),
            _ => None,
        })
        // What did not get to a card of this host has nothing to do with the peer, unless that is what nobody answers for.
        .filter(|(_, problem)| {
            scene.stage != Stage::Socket || [NOBODY_ANSWERS, NOBODY_LISTENS].contains(&problem.as_str())
        })
        .collect();
    // And what the daemon itself could not send neither.
    let is_ours = |counter: &str| matches!(counter, "adit:unreachable" | "adit:send_failed" | "adit:send_buffer_full");
    if scene.stage != Stage::Cable && !moved(report, is_ours).is_empty() {
        return None;
    }
    let mut evidence: Vec<String> =
        down.iter().map(|(peer, problem)| format!("{host} about {peer}: {problem}")).collect();
    if scene.stage == Stage::Egress {
        evidence.extend(moved(report, |counter| matches!(counter, "adit:no_session" | "adit:unproven")));
    }
    let who: Vec<&str> = down.iter().map(|(peer, _)| peer.as_str()).collect();
    let who = if who.is_empty() { "the peer".to_owned() } else { who.join(" and ") };
    let clause = format!("{who} does not answer {host}");
    let remedy = Some(format!("on {host}: adit status"));
    (!evidence.is_empty()).then(|| likely(Cause::PeerDown, clause, evidence, remedy))
}

fn refused(scene: &Scene<'_>) -> Option<Finding> {
    let refused = scene.heard().find_map(|fact| match fact {
        Fact::Refused { peer } => Some((peer.clone(), "it refused".to_owned())),
        Fact::Icmp { from, kind: IcmpKind::PortUnreachable, .. } => {
            Some((from.to_string(), "port unreachable".to_owned()))
        }
        _ => None,
    });
    let (who, what) = refused.filter(|_| refuser(scene).is_none())?;
    if scene.trace.reports.iter().any(|report| by_rule(scene, report).is_some()) {
        return scene.trace.reports.iter().find_map(|report| by_rule(scene, report));
    }
    let clause = format!("{who} has the address and refused it: nobody listens there");
    Some(said(Cause::Refused, clause, vec![format!("answer of {who}: {what}")], None))
}

fn host_unreachable(scene: &Scene<'_>) -> Option<Finding> {
    let heard = icmp(scene, |kind| kind == IcmpKind::HostUnreachable).filter(|_| !has_no_route(scene))?;
    let Fact::Icmp { from, .. } = heard else { return None };
    let clause = format!("{from} answered that nobody there has the address");
    Some(said(Cause::HostUnreachable, clause, vec![format!("ICMP from {from}: host unreachable")], None))
}

fn checksum(scene: &Scene<'_>) -> Option<Finding> {
    if !matches!(scene.stage, Stage::Arrived | Stage::Stack | Stage::Written | Stage::Delivered) {
        return None;
    }
    let report = scene.report?;
    let moved = moved(report, |counter| kernel(scene, counter) && counter.ends_with("CsumErrors"));
    let clause = format!("{} dropped it for its checksum", report.host);
    (!moved.is_empty()).then(|| likely(Cause::Checksum, clause, moved, None))
}

fn queue(scene: &Scene<'_>) -> Option<Finding> {
    let here: fn(&str) -> bool = match scene.stage {
        Stage::Queue => |c| card(c, "tx_"),
        Stage::Socket => |c| card(c, "tx_") || c.ends_with("SndbufErrors") || c == "adit:send_buffer_full",
        Stage::Cable => |c| card(c, "tx_"),
        Stage::Arrived => |c| card(c, "rx_") || c.ends_with("RcvbufErrors"),
        Stage::Written => |c| card(c, "rx_") || c == "adit:device_refused",
        Stage::Delivered | Stage::Stack => |c| card(c, "tx_"),
        Stage::Egress => |c| c == "adit:send_buffer_full",
        Stage::Ingress => |c| c == "adit:device_refused",
        Stage::Unseen => |_| false,
    };
    let mut found: Vec<(&str, Vec<String>)> = scene
        .report
        .map(|report| (report.host.as_str(), moved(report, |c| here(c) && may_pass(scene, report, c))))
        .into_iter()
        .collect();
    if scene.stage == Stage::Cable {
        let lost = |c: &str| card(c, "rx_") || c.ends_with("RcvbufErrors");
        found.extend(scene.beyond.iter().map(|report| (report.host.as_str(), moved(report, lost))));
    }
    let (host, evidence) = found.into_iter().find(|(_, evidence)| !evidence.is_empty())?;
    let where_to = match scene.device() {
        Some((name, DeviceKind::Tun | DeviceKind::Tap, Direction::Out)) => {
            format!("the queue of {name} on {host} was full")
        }
        _ => format!("a queue of {host} was full"),
    };
    Some(likely(Cause::QueueFull, where_to, evidence, None))
}

/// Whether the probe may have been on the device that a counter is of: it was seen there, or was to leave by it. Where it left the socket for a card that it
/// did not get to, that may be any.
fn may_pass(scene: &Scene<'_>, report: &HostReport, counter: &str) -> bool {
    let Some((name, _)) = counter.strip_prefix("card:").and_then(|rest| rest.rsplit_once(':')) else { return true };
    let known = report.facts.iter().filter_map(|fact| match fact {
        Fact::Mtu { device, .. } | Fact::RouteVia { device, .. } => Some(device.as_str()),
        _ => None,
    });
    let mut known = known.peekable();
    let on_the_way = || {
        scene
            .leg
            .iter()
            .flat_map(|leg| &leg.hops)
            .any(|hop| matches!(&hop.place, Place::Device { name: at, .. } if at == name))
    };
    scene.stage == Stage::Socket || known.peek().is_none() || known.any(|device| device == name) || on_the_way()
}

/// Reasons of the daemon that have no rule of their own.
fn daemon(scene: &Scene<'_>) -> Option<Finding> {
    let on_the_way_out = ["malformed", "multicast", "loop", "unreachable", "send_failed"];
    let on_the_way_in = [
        "malformed",
        "unknown_endpoint",
        "wrong_transport",
        "forged",
        "unknown_session",
        "replayed",
        "wrong_source",
        "not_for_us",
        "congestion",
    ];
    let (reports, of): (Vec<&HostReport>, &[&str]) = match scene.stage {
        Stage::Egress | Stage::Socket => (scene.report.into_iter().collect(), &on_the_way_out),
        Stage::Arrived | Stage::Ingress => (scene.report.into_iter().collect(), &on_the_way_in),
        Stage::Cable => (scene.beyond.clone(), &on_the_way_in),
        _ => return None,
    };
    reports.into_iter().find_map(|report| {
        let counted = moved(report, |counter| counter.strip_prefix("adit:").is_some_and(|reason| of.contains(&reason)));
        let reason = of.iter().find(|reason| report.counters.get(&format!("adit:{reason}")).is_some_and(|n| *n > 0))?;
        let clause = format!("adit on {} dropped it: {}", report.host, meaning(reason));
        Some(likely(Cause::Daemon, clause, counted, Some(format!("on {}: adit status", report.host))))
    })
}

/// Reasons of the daemon in words.
fn meaning(reason: &str) -> &'static str {
    match reason {
        "multicast" => "it goes to a group, and the tunnel carries packets for one receiver",
        "loop" => "it goes to the endpoint of the very peer that owns its destination",
        "unreachable" => "the underlay has no way to the peer, or a firewall of the host forbids it",
        "send_failed" => "the socket refused it",
        "unknown_endpoint" => "no peer has the address that it came from",
        "wrong_transport" => "its sender does not use that transport",
        "forged" => "it is not authentic, so the two hosts have different keys, or it was changed on its way",
        "unknown_session" => "it is for a session that ended",
        "replayed" => "it came a second time, or much too late",
        "wrong_source" => "its source address does not belong to the peer that sent it",
        "not_for_us" => "its destination is not this host's to deliver",
        "congestion" => "congestion was marked on its way, and it cannot carry the mark",
        _ => "it is no packet, or contradicts itself",
    }
}

fn not_permitted(scene: &Scene<'_>) -> Option<Finding> {
    if scene.stage != Stage::Cable {
        return None;
    }
    let silent: Vec<&str> =
        scene.beyond.iter().filter(|report| !report.permitted).map(|report| report.host.as_str()).collect();
    let first = silent.first()?;
    let names = silent.join(" and ");
    let verb = if silent.len() > 1 { "do" } else { "does" };
    Some(Finding {
        cause: Cause::NotPermitted,
        certainty: Certainty::NotKnown,
        clause: format!("{names} {verb} not permit a look, so nobody tells what became of it there"),
        evidence: silent.iter().map(|host| format!("{host} does not permit a look")).collect(),
        remedy: Some(format!("on {first}: allow = [\"trace\"] under [observe] in its configuration, then adit reload")),
    })
}

/// Behind the last place stands a host that was to look and did not: then nobody knows, and nobody is to blame.
fn not_seen(scene: &Scene<'_>) -> Option<Finding> {
    if scene.stage != Stage::Cable {
        return None;
    }
    let (report, unseen) = scene.blind?;
    let clause =
        format!("why it went no further is not known: {} was not seen, {}", report.host, words::unseen(unseen));
    Some(Finding { cause: Cause::NotKnown, certainty: Certainty::NotKnown, clause, evidence: Vec::new(), remedy: None })
}

fn no_answer(scene: &Scene<'_>) -> Option<Finding> {
    let handed = match scene.stage {
        Stage::Delivered => format!("it was handed over on {}", scene.host),
        Stage::Stack if is_there(scene) => format!("{} has the address and took it", scene.host),
        _ => return None,
    };
    Some(Finding {
        cause: Cause::NoAnswer,
        certainty: Certainty::Possible,
        clause: format!("nobody answered there: {handed}, and nothing came back"),
        evidence: vec![handed],
        remedy: None,
    })
}

/// The report of the host where it was last seen; on the way between hosts, also those of hosts that may have it.
fn reports<'s>(scene: &Scene<'s>) -> Vec<&'s HostReport> {
    let beyond = if scene.stage == Stage::Cable { scene.beyond.as_slice() } else { &[] };
    scene.report.into_iter().chain(beyond.iter().copied()).collect()
}

fn icmp<'s>(scene: &Scene<'s>, wanted: fn(IcmpKind) -> bool) -> Option<&'s Fact> {
    scene.heard().find(|fact| matches!(fact, Fact::Icmp { kind, .. } if wanted(*kind)))
}

/// Counters that grew, in words.
fn moved(report: &HostReport, of: impl Fn(&str) -> bool) -> Vec<String> {
    let grew = report.counters.iter().filter(|(counter, by)| **by > 0 && of(counter));
    grew.map(|(counter, by)| format!("counter {counter} on {} grew by {by}", report.host)).collect()
}

/// Whether a counter is of the kernel's protocols, and not of a device, a rule or the daemon; nor of another family than what the stack had there.
fn kernel(scene: &Scene<'_>, counter: &str) -> bool {
    if ["adit:", "nft:", "card:"].iter().any(|prefix| counter.starts_with(prefix)) {
        return false;
    }
    let group = counter.split(':').next().unwrap_or_default();
    let of_v6 = group.ends_with('6');
    let of_v4 =
        matches!(group, "ip" | "ipext" | "icmp" | "icmpmsg" | "udp" | "udplite") || counter.ends_with(RP_FILTER);
    match family(scene) {
        Some(4) => !of_v6,
        Some(_) => !of_v4,
        None => true,
    }
}

/// Of which family the packet was that the stack had last: of the probe's, or of that of the datagram around it, as far as that was seen.
fn family(scene: &Scene<'_>) -> Option<u8> {
    let of_probe = if scene.trace.destination.is_ipv4() { 4 } else { 6 };
    match scene.stage {
        Stage::Socket | Stage::Cable | Stage::Arrived => {
            let headers = scene.leg.and_then(|leg| leg.hops.last()).map(|hop| &hop.headers[..]);
            headers.unwrap_or_default().iter().filter(|header| header.depth == 0).find_map(|header| match header.name {
                "IPv4" => Some(4),
                "IPv6" => Some(6),
                _ => None,
            })
        }
        _ => Some(of_probe),
    }
}

/// Whether a counter is one of a device's losses in a direction.
fn card(counter: &str, direction: &str) -> bool {
    let name = counter.strip_prefix("card:").and_then(|rest| rest.rsplit(':').next());
    name.is_some_and(|name| {
        name.starts_with(direction) && ["dropped", "errors", "fifo"].iter().any(|loss| name.contains(loss))
    })
}

/// Whether a name from elsewhere can stand in a command as it is.
fn word(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | ':'))
}

fn command(host: &str, command: &str, words: &[&str]) -> Option<String> {
    let safe = words.iter().all(|words| words.split(' ').all(word));
    safe.then(|| format!("on {host}: {command} {}", words.join(" ")))
}

fn said(cause: Cause, clause: String, evidence: Vec<String>, remedy: Option<String>) -> Finding {
    Finding { cause, certainty: Certainty::Said, clause, evidence, remedy }
}

fn likely(cause: Cause, clause: String, evidence: Vec<String>, remedy: Option<String>) -> Finding {
    Finding { cause, certainty: Certainty::Likely, clause, evidence, remedy }
}
