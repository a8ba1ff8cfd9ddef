//! Policy routing: which rule or route of others it may be that leads a packet elsewhere than into the tunnel.
//!
//! A rule may go by much that is not read here (sources, devices, ports, users), so the kernel is asked where a packet would go, and this file finds only
//! what fits the answer.

use linux::netlink::{Family, PROTOCOL, Route, RouteKind, Rule, RuleAction};

use super::facts::{Answer, Host};
use super::word;
use crate::plan::MAIN;

/// Numbers of `FR_ACT_*` (linux/fib_rules.h).
const BLACKHOLE: u8 = 6;
const PROHIBIT: u8 = 8;

/// Who leads a packet elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Culprit<'a> {
    /// A route that is more exact than any other of its table.
    Route(&'a Route),
    /// A rule; with the route that it comes to, if there is one that is for others as well.
    Rule(&'a Rule, Option<&'a Route>),
}

/// All that fit the answer, in the order in which the kernel asks the rules.
pub(crate) fn culprits<'a>(host: &'a Host, answer: &Answer) -> Vec<Culprit<'a>> {
    let family = Family::of(answer.to);
    let may_hold = |rule: &&Rule| {
        let is_for_the_marked = rule.mark.is_some() && !rule.inverted;
        rule.family == family && rule.protocol != PROTOCOL && !is_for_the_marked
    };
    let mut found: Vec<Culprit<'a>> = Vec::new();
    for rule in host.rules.iter().filter(may_hold) {
        let culprit = match rule.action {
            RuleAction::Lookup(table) => route_of(host, table, answer).map(|route| {
                // A route to a part of the world is there for this; one to all of it may have other uses.
                let is_exact = table == MAIN || route.destination.prefix_len() > 0;
                if is_exact { Culprit::Route(route) } else { Culprit::Rule(rule, Some(route)) }
            }),
            action => refuses(action, answer).then_some(Culprit::Rule(rule, None)),
        };
        // Two rules may ask the same table.
        if let Some(culprit) = culprit.filter(|culprit| !found.contains(culprit)) {
            found.push(culprit);
        }
    }
    found
}

/// The route of a table that leads a packet as the kernel says it goes.
fn route_of<'a>(host: &'a Host, table: u32, answer: &Answer) -> Option<&'a Route> {
    let covers = |route: &&Route| route.table == table && route.destination.contains(&answer.to);
    let nearest = host
        .routes
        .iter()
        .filter(covers)
        .max_by_key(|route| (route.destination.prefix_len(), std::cmp::Reverse(route.metric.unwrap_or(0))))?;
    let fits = match (answer.way, nearest.kind) {
        (Ok(way), RouteKind::Unicast) => nearest.device == Some(way.device) && nearest.gateway == way.gateway,
        (Err(libc::EINVAL), RouteKind::Blackhole) | (Err(libc::EACCES), RouteKind::Prohibit) => true,
        (Err(libc::EHOSTUNREACH | libc::ENETUNREACH), RouteKind::Unreachable) => true,
        _ => false,
    };
    (fits && nearest.protocol != PROTOCOL).then_some(nearest)
}

/// Whether a rule that says this makes a sender see that error.
fn refuses(action: RuleAction, answer: &Answer) -> bool {
    matches!(
        (action, answer.way),
        (RuleAction::Other(BLACKHOLE), Err(libc::EINVAL))
            | (RuleAction::Other(PROHIBIT), Err(libc::EACCES))
            | (RuleAction::Unreachable, Err(libc::ENETUNREACH | libc::EHOSTUNREACH))
    )
}

impl Culprit<'_> {
    /// For evidence.
    pub(crate) fn describe(&self, host: &Host) -> String {
        match self {
            Self::Route(route) => format!("route {}", words(route, host)),
            Self::Rule(rule, None) => format!("rule {}: {}", rule.priority, action(rule)),
            Self::Rule(rule, Some(route)) => {
                format!("rule {}: {}, and there {}", rule.priority, action(rule), words(route, host))
            }
        }
    }

    /// What takes it away.
    pub(crate) fn remove(&self, host: &Host) -> String {
        match self {
            Self::Route(route) => {
                let six = if route.destination.addr().is_ipv6() { "-6 " } else { "" };
                format!("ip {six}route del {}", words(route, host))
            }
            Self::Rule(rule, _) => {
                let six = if rule.family == Family::V6 { "-6 " } else { "" };
                format!("ip {six}rule del prio {} {}", rule.priority, action(rule))
            }
        }
    }
}

/// What shows the rules that a packet passes.
pub(crate) fn show(answer: &Answer) -> &'static str {
    if answer.to.is_ipv6() { "ip -6 rule show" } else { "ip rule show" }
}

/// A rule's action as `ip rule` has it.
fn action(rule: &Rule) -> String {
    match rule.action {
        RuleAction::Lookup(table) => format!("lookup {table}"),
        RuleAction::Unreachable => "unreachable".into(),
        RuleAction::Other(BLACKHOLE) => "blackhole".into(),
        RuleAction::Other(PROHIBIT) => "prohibit".into(),
        RuleAction::Other(number) => format!("action {number}"),
    }
}

/// A route as `ip route` has it.
fn words(route: &Route, host: &Host) -> String {
    let kind = match route.kind {
        RouteKind::Blackhole => "blackhole ",
        RouteKind::Prohibit => "prohibit ",
        RouteKind::Unreachable => "unreachable ",
        _ => "",
    };
    let mut words = format!("{kind}{}", route.destination);
    if let Some(gateway) = route.gateway {
        // One of the other family is written so.
        let family = if gateway.is_ipv6() && route.destination.addr().is_ipv4() { "inet6 " } else { "" };
        words += &format!(" via {family}{gateway}");
    }
    // Refusing routes of IPv6 have a device that is none.
    if let Some(device) = route.device.filter(|_| kind.is_empty()) {
        words += &format!(" dev {}", word(host.device(device)));
    }
    if let Some(metric) = route.metric.filter(|metric| *metric > 0) {
        words += &format!(" metric {metric}");
    }
    if route.table != MAIN {
        words += &format!(" table {}", route.table);
    }
    words
}
