//! Which rule stopped a packet: packets that certain rules match are traced through all tables of the namespace, and the kernel tells of
//! each rule that decided on one (`meta nftrace`, as `nft monitor trace` shows it).

use std::io;

use super::number::*;
use super::ruleset::{Action, Base, Chain, ChainKind, Family, Hook, Match, Policy, Rule, Ruleset};
use super::{Nft, message_type};
use crate::netlink::{Attribute, Socket, attributes, messages};
use crate::{Error, Result};

/// Before connection tracking and everything that others have.
const FIRST: i32 = -450;

/// Verdicts of other messages that are kept at most.
const KEPT: usize = 256;

/// Messages of the kernel that are read in one go at most: whoever sends enough would have it go on for ever.
const DATAGRAMS: usize = 4096;

/// `NFNLGRP_NFTRACE` (linux/netfilter/nfnetlink.h).
const GROUP: libc::c_uint = 9;

/// A rule, or the policy of a chain, that dropped a traced packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Refused {
    /// Family and name of the table: `inet filter`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The number of the rule; none if it was the chain's policy.
    pub handle: Option<u64>,
}

/// Traces packets as long as it lives; the table in which the matching rules stand goes with it, also when the process is killed.
#[derive(Debug)]
pub struct Tracer {
    // The table ends with this connection.
    _table: Nft,
    told: Socket,
}

impl Tracer {
    /// Traces what one of `what` (all of its matches) holds for, where it comes into the namespace and where programs send it. Needs
    /// CAP_NET_ADMIN.
    ///
    /// # Errors
    /// EEXIST: there is a table of that name already; EOPNOTSUPP or EINVAL: a kernel before 5.12.
    pub fn start(table: &str, what: &[Vec<Match>]) -> Result<Self> {
        let told = Socket::open_with(libc::NETLINK_NETFILTER, libc::SOCK_NONBLOCK)?;
        told.join(GROUP)?;
        let rules = || {
            what.iter().map(|matches| {
                let rule = Rule::new("adit trace: probes of a trace that is under way");
                matches.iter().cloned().fold(rule, Rule::when).then(Action::Trace)
            })
        };
        let chain = |name: &str, hook| Chain {
            name: name.into(),
            base: Some(Base { kind: ChainKind::Filter, hook, priority: FIRST, device: None, policy: Policy::Accept }),
            rules: rules().collect(),
        };
        let chains = vec![chain("arriving", Hook::Prerouting), chain("leaving", Hook::Output)];
        let ruleset = Ruleset { family: Family::Inet, table: table.into(), sets: Vec::new(), chains };
        let mut connection = Nft::open()?;
        connection.create_owned(&ruleset)?;
        Ok(Self { _table: connection, told })
    }

    /// Who dropped a traced packet since the last call, each once; does not wait, and does not read on for as long as more comes.
    pub fn refusals(&mut self) -> Result<Vec<Refused>> {
        let mut refusals = Vec::new();
        for _ in 0..DATAGRAMS {
            match self.told.receive() {
                Ok(datagram) => {
                    for message in messages(datagram).filter(|message| message.kind == message_type(TRACE)) {
                        let refused = parse(message.body).filter(|refused| !refusals.contains(refused));
                        refusals.extend(refused.filter(|_| refusals.len() < KEPT));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(refusals),
                // Some were lost; what was kept is still to be read.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(Error::new("read what rules did with traced packets", error)),
            }
        }
        Ok(refusals)
    }
}

/// A message of the kernel's, if it tells of a drop. Its body begins with the family of the table (`struct nfgenmsg`).
fn parse(body: &[u8]) -> Option<Refused> {
    let (head, list) = body.split_first_chunk::<4>()?;
    let (mut table, mut chain, mut handle) = (String::new(), String::new(), None);
    let mut dropped = false;
    for attribute in attributes(list) {
        match attribute.kind {
            TRACE_TABLE => table = attribute.text(),
            TRACE_CHAIN => chain = attribute.text(),
            TRACE_RULE_HANDLE => handle = attribute.u64_be(),
            TRACE_VERDICT => {
                let code = attribute.nested().find(|verdict| verdict.kind == VERDICT_CODE);
                dropped |= code.and_then(|code| big(&code)) == Some(VERDICT_DROP);
            }
            TRACE_POLICY => dropped |= big(&attribute) == Some(VERDICT_DROP),
            _ => {}
        }
    }
    let family = match i32::from(head[0]) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_BRIDGE => "bridge",
        libc::NFPROTO_NETDEV => "netdev",
        _ => "other",
    };
    dropped.then(|| Refused { table: format!("{family} {table}"), chain, handle })
}

fn big(attribute: &Attribute<'_>) -> Option<u32> {
    attribute.array().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Writer;

    fn message(code: u32) -> Vec<u8> {
        let mut list = Writer::new();
        list.text(TRACE_TABLE, "filter").text(TRACE_CHAIN, "forward").u64_be(TRACE_RULE_HANDLE, 7);
        list.nest(TRACE_VERDICT, |verdict| {
            verdict.u32_be(VERDICT_CODE, code);
        });
        [&[libc::NFPROTO_INET as u8, 0, 0, 0], list.as_bytes()].concat()
    }

    #[test]
    fn only_drops_are_refusals() {
        let refused = Refused { table: "inet filter".into(), chain: "forward".into(), handle: Some(7) };
        assert_eq!(parse(&message(VERDICT_DROP)), Some(refused));
        assert_eq!(parse(&message(VERDICT_ACCEPT)), None);
        assert_eq!(parse(&message(VERDICT_RETURN)), None);
        assert_eq!(parse(&[2]), None);
    }

    #[test]
    fn a_policy_has_no_rule() {
        let mut list = Writer::new();
        list.text(TRACE_TABLE, "t").text(TRACE_CHAIN, "c").u32_be(TRACE_POLICY, VERDICT_DROP);
        let body = [&[libc::NFPROTO_IPV4 as u8, 0, 0, 0], list.as_bytes()].concat();
        assert_eq!(parse(&body), Some(Refused { table: "ip t".into(), chain: "c".into(), handle: None }));
    }
}
