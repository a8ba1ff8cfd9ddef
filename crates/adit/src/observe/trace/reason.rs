//! Why a probe was not answered: where it was last seen, and what of all that hosts report explains that it went no further.
//!
//! Each rule looks for one cause at the stages where that cause can strike, and says what speaks for it. The best evidence wins: a
//! message about the probe, then a counter that moved, then what other probes say, then a setting that would explain it. Where the best
//! evidence speaks for two causes, both are named; where there is none, that is said.

use std::collections::BTreeSet;

use super::journey::{Fate, Hop, Host, Journey, Leg, Probe, Way};
use super::observation::{DeviceKind, Direction, Fact, HostReport, Place, Protocol, Trace, Unseen};
use super::rules;
use super::stage::{Stage, place, stage};

/// Where a probe, or its answer, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// On which way.
    pub way: Way,
    /// The number of the last hop; `None` if nobody saw it.
    pub last: Option<usize>,
    /// Where that is, in words: "on berlin, going to card eth0".
    pub place: String,
    /// Why.
    pub reason: Reason,
}

/// The likely reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The cause; [`Cause::NotKnown`] also where the evidence speaks for several.
    pub cause: Cause,
    /// How sure that is.
    pub certainty: Certainty,
    /// The causes that the evidence speaks for, the likely one among them.
    pub candidates: Vec<Cause>,
    /// All of it as a sentence.
    pub sentence: String,
    /// What speaks for it.
    pub evidence: Vec<String>,
    /// What to type, or to look at, next.
    pub remedy: Option<String>,
}

/// How sure a reason is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// There is no evidence, or it contradicts itself.
    NotKnown,
    /// A setting would explain it, or other probes suggest it, but nothing was counted.
    Possible,
    /// A counter moved that counts such packets, though it may have counted others; or the fate of other probes says so.
    Likely,
    /// A message or a rule says so about such a packet.
    Said,
}

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "their names in words are in `Cause::name`")]
pub enum Cause {
    Firewall,
    NoRoute,
    RpFilter,
    ForwardingOff,
    TooBig,
    HopLimit,
    PeerDown,
    Refused,
    HostUnreachable,
    Checksum,
    QueueFull,
    Daemon,
    NotPermitted,
    NoAnswer,
    NotKnown,
}

impl Cause {
    /// The key in `adit trace --json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Firewall => "firewall",
            Self::NoRoute => "no_route",
            Self::RpFilter => "rp_filter",
            Self::ForwardingOff => "forwarding_off",
            Self::TooBig => "too_big",
            Self::HopLimit => "hop_limit",
            Self::PeerDown => "peer_down",
            Self::Refused => "refused",
            Self::HostUnreachable => "host_unreachable",
            Self::Checksum => "checksum",
            Self::QueueFull => "queue_full",
            Self::Daemon => "daemon",
            Self::NotPermitted => "not_permitted",
            Self::NoAnswer => "no_answer",
            Self::NotKnown => "not_known",
        }
    }
}

impl Default for Death {
    fn default() -> Self {
        Self { way: Way::There, last: None, place: String::new(), reason: Reason::not_known() }
    }
}

impl Reason {
    fn not_known() -> Self {
        Self {
            cause: Cause::NotKnown,
            certainty: Certainty::NotKnown,
            candidates: Vec::new(),
            sentence: String::new(),
            evidence: Vec::new(),
            remedy: None,
        }
    }
}

/// What one rule found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) cause: Cause,
    pub(super) certainty: Certainty,
    /// What happened, as a clause: "a firewall of paris dropped it (table inet filter, chain forward)".
    pub(super) clause: String,
    pub(super) evidence: Vec<String>,
    pub(super) remedy: Option<String>,
}

/// All that rules look at.
pub(super) struct Scene<'s> {
    pub(super) trace: &'s Trace,
    pub(super) stage: Stage,
    pub(super) leg: Option<&'s Leg>,
    pub(super) way: Way,
    /// The name of the host where it was last seen; of the one that traces if it was not seen at all.
    pub(super) host: &'s str,
    /// Its report.
    pub(super) report: Option<&'s HostReport>,
    /// Reports of hosts that have not seen it, one of which may have it.
    pub(super) beyond: Vec<&'s HostReport>,
    /// The host that it was to come to next, if that did not look, and why.
    pub(super) blind: Option<(&'s HostReport, &'s Unseen)>,
    /// Bytes of one packet of the probe, from its IP header.
    pub(super) size: Option<u32>,
    /// Sizes of probes that were answered.
    pub(super) answered: Vec<u32>,
}

impl<'s> Scene<'s> {
    /// The facts of the host where it was last seen.
    pub(super) fn facts(&self) -> impl Iterator<Item = &'s Fact> {
        self.report.into_iter().flat_map(|report| &report.facts)
    }

    /// Facts that any host heard: errors come to whoever sent the packet, wherever they were made.
    pub(super) fn heard(&self) -> impl Iterator<Item = &'s Fact> {
        self.trace.reports.iter().flat_map(|report| &report.facts)
    }

    /// The device of the last hop.
    pub(super) fn device(&self) -> Option<(&'s str, DeviceKind, Direction)> {
        match self.leg.and_then(|leg| leg.hops.last()).map(|hop| &hop.place) {
            Some(Place::Device { name, kind, direction, .. }) => Some((name, *kind, *direction)),
            _ => None,
        }
    }
}

/// Finds the reason for each probe that was not answered.
pub(super) fn explain(trace: &Trace, hosts: &[Host], probes: &mut [Probe]) {
    // Whoever watches some device of its host watches all of them.
    let on_device = |hop: &&Hop| matches!(hop.place, Place::Device { .. });
    let watched: BTreeSet<usize> = probes.iter().flat_map(Probe::hops).filter(on_device).map(|hop| hop.host).collect();
    let answered = |probe: &&Probe| matches!(probe.fate, Fate::Answered(_));
    let sizes: Vec<u32> = probes.iter().filter(answered).filter_map(packet_size).collect();
    let deaths: Vec<Option<Death>> = probes
        .iter()
        .map(|probe| {
            let Fate::Lost(_) = probe.fate else { return None };
            let leg = probe.legs.last();
            let last = leg.and_then(|leg| leg.hops.last());
            let report = |name: &str| trace.reports.iter().find(|report| report.host == name);
            let host = last.map_or(0, |hop| hop.host);
            let host = hosts.get(host).map_or("", |host| host.name.as_str());
            let unseen = |report: &&HostReport| {
                let seen = |hop: &super::journey::Hop| hosts.get(hop.host).is_some_and(|host| host.name == report.host);
                report.host != host && !leg.is_some_and(|leg| leg.hops.iter().any(seen))
            };
            let way = leg.map_or(Way::There, |leg| leg.way);
            // Each host is asked by the one before it.
            let next = trace.reports.iter().skip_while(|report| report.host != host).nth(1);
            let blind = next.and_then(|report| Some((report, report.unseen.as_ref()?))).filter(|_| way == Way::There);
            let scene = Scene {
                trace,
                stage: stage(leg, &watched),
                leg,
                way,
                host,
                report: report(host),
                beyond: trace.reports.iter().filter(unseen).filter(|report| report.unseen.is_none()).collect(),
                blind,
                size: packet_size(probe),
                answered: sizes.clone(),
            };
            let at = last.map_or_else(|| "nowhere".to_owned(), |hop| format!("on {host}, {}", place(&hop.place)));
            let reason = judge(&scene, &at);
            Some(Death { way: scene.way, last: last.map(|hop| hop.number), place: at, reason })
        })
        .collect();
    for (probe, death) in probes.iter_mut().zip(deaths) {
        if let Some(death) = death {
            probe.fate = Fate::Lost(death);
        }
    }
}

/// Bytes of one packet on the wire: of a super-packet, one of those that it stands for.
fn packet_size(probe: &Probe) -> Option<u32> {
    let own = probe.hops().find(|hop| hop.outer.is_none() && hop.segment_size > 0 && hop.packets > 1);
    match own {
        // Of the headers it is enough to know that there are some: sizes are compared with limits that differ by more.
        Some(hop) => Some(u32::from(hop.segment_size).saturating_add(40)),
        None => probe.size,
    }
}

/// Weighs what the rules find.
fn judge(scene: &Scene<'_>, at: &str) -> Reason {
    let mut findings = rules::find(scene);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.certainty));
    let best = findings.first().map_or(Certainty::NotKnown, |finding| finding.certainty);
    findings.retain(|finding| finding.certainty == best);
    let known = findings.iter().map(|finding| finding.cause).filter(|cause| *cause != Cause::NotKnown);
    let mut candidates: Vec<Cause> = known.collect();
    candidates.dedup();
    let what = match scene.way {
        Way::There => "It was",
        Way::Back => "It arrived, and its answer was",
    };
    let seen = if scene.stage == Stage::Unseen {
        "It was not seen on any device".to_owned()
    } else {
        format!("{what} last seen {at}")
    };
    let clauses: Vec<&str> = findings.iter().map(|finding| finding.clause.as_str()).collect();
    let told = match (clauses.as_slice(), best) {
        ([], _) => format!("{seen}. Why it went no further is not known: {}.", rules::silence(scene)),
        ([one], Certainty::Said | Certainty::NotKnown) => format!("{seen}: {one}."),
        ([one], Certainty::Likely) => format!("{seen}. Likely {one}."),
        ([one], Certainty::Possible) => format!("{seen}. Possibly {one}."),
        (several, _) => {
            format!("{seen}. Why it went no further is not certain: either {}.", several.join(", or "))
        }
    };
    let lost: Vec<String> = lossy(scene);
    let sentence = if lost.is_empty() { told } else { format!("{told} {}", lost.join(" ")) };
    Reason {
        cause: match candidates.as_slice() {
            [cause] => *cause,
            _ => Cause::NotKnown,
        },
        certainty: if candidates.len() > 1 { Certainty::NotKnown } else { best },
        candidates,
        sentence,
        evidence: findings.iter().flat_map(|finding| finding.evidence.clone()).collect(),
        remedy: match findings.as_slice() {
            [one] => one.remedy.clone(),
            _ => None,
        },
    }
}

/// Says which hosts' records have gaps, so that the packet may have come further.
fn lossy(scene: &Scene<'_>) -> Vec<String> {
    let gaps = scene.report.into_iter().chain(scene.beyond.iter().copied()).filter(|report| report.lost_records > 0);
    let say = |report: &HostReport| {
        format!("The records of {} have gaps ({} lost), so it may have come further.", report.host, report.lost_records)
    };
    gaps.map(say).collect()
}

impl Journey {
    /// What the probes are, in words.
    #[must_use]
    pub fn protocol_name(&self) -> &'static str {
        match self.protocol {
            Protocol::Icmp => "ICMP echo",
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        }
    }
}
