//! Rules: which routing table is asked for which packets, and in which order (`RTM_*RULE`, linux/fib_rules.h).

use std::fmt;
use std::fmt::Arguments;

use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction as Action, RuleAttribute, RuleFlags, RuleMessage};

use super::{Family, NLM_F_CREATE, NLM_F_EXCL, Netlink, PROTOCOL, attributes};
use crate::Result;

/// Size of `struct fib_rule_hdr`.
const HEADER: usize = 12;

/// Holds for the packets that it does not describe (`FIB_RULE_INVERT`).
const INVERT: u32 = 2;

/// The attributes of linux/fib_rules.h that are read.
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;

/// What a rule says of the packets that it holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// This table is asked; what it has no route for goes on to the next rule.
    Lookup(u32),
    /// They are refused: ICMP answers that the host is unreachable.
    Unreachable,
    /// Any other number of `FR_ACT_*`.
    Other(u8),
}

/// A rule, as far as we make such. Start with [`Rule::new`] and fill in what differs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Whose packets.
    pub family: Family,
    /// The lower is asked first. The kernel's own: 0 for the local table, 32766 for the main one.
    pub priority: u32,
    /// Whether it holds for the packets that what follows does *not* describe.
    pub inverted: bool,
    /// The mark of the packets, as far as the mask (the second number) goes.
    pub mark: Option<(u32, u32)>,
    /// What becomes of them.
    pub action: RuleAction,
    /// Routes with a prefix of this length or shorter do not count.
    pub suppress: Option<u32>,
    /// Who made it; [`PROTOCOL`] for us.
    pub protocol: u8,
}

impl Rule {
    /// A rule of ours for all packets.
    pub fn new(family: Family, priority: u32, action: RuleAction) -> Self {
        Self { family, priority, inverted: false, mark: None, action, suppress: None, protocol: PROTOCOL }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        if let Some((mark, mask)) = self.mark {
            let not = if self.inverted { " not" } else { "" };
            write!(f, "{not} mark {mark:#x}")?;
            if mask != u32::MAX {
                write!(f, "/{mask:#x}")?;
            }
        }
        match self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}")?,
            RuleAction::Unreachable => f.write_str(" unreachable")?,
            RuleAction::Other(number) => write!(f, " action {number}")?,
        }
        match self.suppress {
            Some(length) => write!(f, " suppress {length}"),
            None => Ok(()),
        }
    }
}

impl Netlink {
    /// Adds a rule; EEXIST if there is one like it.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        self.write_rule(format_args!("add rule {rule}"), (libc::RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL), rule)
    }

    /// Deletes a rule; ENOENT if there is none such.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        self.write_rule(format_args!("delete rule {rule}"), (libc::RTM_DELRULE, 0), rule)
    }

    fn write_rule(&mut self, operation: Arguments<'_>, kind: (u16, u16), rule: &Rule) -> Result<()> {
        let mut message = RuleMessage::default();
        message.header.family = rule.family.into();
        if rule.inverted {
            message.header.flags = RuleFlags::Invert;
        }
        let list = &mut message.attributes;
        list.push(RuleAttribute::Priority(rule.priority));
        list.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
        if let Some((mark, mask)) = rule.mark {
            list.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
        }
        list.extend(rule.suppress.map(RuleAttribute::SuppressPrefixLen));
        message.header.action = match rule.action {
            RuleAction::Lookup(table) => {
                // Tables beyond 255 are in the attribute only.
                message.header.table = u8::try_from(table).unwrap_or(0);
                message.attributes.push(RuleAttribute::Table(table));
                Action::ToTable
            }
            RuleAction::Unreachable => Action::Unreachable,
            RuleAction::Other(number) => Action::from(number),
        };
        self.acknowledge(operation, kind, &message)
    }

    /// The rules of both families, in the order in which they are asked.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let mut all = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = RuleMessage::default();
            message.header.family = family.into();
            let rules = self.dump(format_args!("list rules"), libc::RTM_GETRULE, &message, |body| {
                parse_rule(body).filter(|rule| rule.family == family)
            });
            match rules {
                Ok(rules) => all.extend(rules),
                // A kernel without IPv6.
                Err(e) if family == Family::V6 && e.errno() == Some(libc::EAFNOSUPPORT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}

/// Reads an `RTM_NEWRULE`: `struct fib_rule_hdr` (family, destination length, source length, tos, table, two unused, action: u8
/// each; flags: u32), attributes.
fn parse_rule(body: &[u8]) -> Option<Rule> {
    let [family, _, _, _, table, _, _, action, f0, f1, f2, f3] = *body.first_chunk::<HEADER>()?;
    let mut table = u32::from(table);
    let (mut mark, mut mask) = (None, u32::MAX);
    let mut rule = Rule {
        inverted: u32::from_ne_bytes([f0, f1, f2, f3]) & INVERT != 0,
        protocol: 0,
        ..Rule::new(Family::from_number(family)?, 0, RuleAction::Unreachable)
    };
    for attribute in attributes(body.get(HEADER..)?) {
        match attribute.kind {
            FRA_PRIORITY => rule.priority = attribute.u32()?,
            FRA_FWMARK => mark = attribute.u32(),
            FRA_FWMASK => mask = attribute.u32()?,
            FRA_TABLE => table = attribute.u32()?,
            // All ones stand for none.
            FRA_SUPPRESS_PREFIXLEN => rule.suppress = attribute.u32().filter(|length| *length != u32::MAX),
            FRA_PROTOCOL => rule.protocol = attribute.u8()?,
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask));
    rule.action = match Action::from(action) {
        Action::ToTable => RuleAction::Lookup(table),
        Action::Unreachable => RuleAction::Unreachable,
        _ => RuleAction::Other(action),
    };
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_reads_as_it_would_be_typed() {
        let rule = Rule {
            inverted: true,
            mark: Some((0xca6c, u32::MAX)),
            suppress: Some(0),
            ..Rule::new(Family::V4, 7, RuleAction::Lookup(254))
        };
        assert_eq!(rule.to_string(), "7: not mark 0xca6c lookup 254 suppress 0");
        let rule = Rule { inverted: false, mark: Some((1, 3)), suppress: None, ..rule };
        assert_eq!(Rule { action: RuleAction::Unreachable, ..rule }.to_string(), "7: mark 0x1/0x3 unreachable");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(mut body in proptest::collection::vec(any::<u8>(), 0..256), v6: bool) {
            parse_rule(&body);
            if let Some(family) = body.first_mut() {
                *family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
            }
            parse_rule(&body);
        }
    }
}
