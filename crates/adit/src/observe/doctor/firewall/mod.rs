//! Packet filters of others: where they end a packet that does not exist, whose they are, and what that owner types to let it through.
//!
//! `walk` leads a packet through the rules, `foreign` knows the matches that iptables brings along, this file knows the owners.

mod foreign;
mod walk;

pub(crate) use walk::{End, Packet, Place, walk, walk_bridge};

use linux::nft::{Family, Listing};

use super::{Facts, Finding, is_plain};

/// Who keeps a set of rules, as far as that can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// dockerd, which has the policy of the host's forwarding dropped, and a chain for those who want something else.
    Docker,
    /// Uncomplicated firewall.
    Ufw,
    /// firewalld.
    Firewalld,
    /// Somebody with iptables.
    Iptables,
    /// Somebody with nft.
    Nft,
}

impl Owner {
    /// Whose rules end a packet there.
    pub(crate) fn of(end: &End, listing: &Listing) -> Self {
        let has = |beginning: &str| {
            let same = |chain: &&linux::nft::ListedChain| (chain.family, &chain.table) == (end.family, &end.table);
            listing.chains.iter().filter(same).any(|chain| chain.name.starts_with(beginning))
        };
        let of_iptables = matches!(end.family, Family::Ip | Family::Ip6)
            && ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"].contains(&end.base.as_str());
        match end.table.as_str() {
            "firewalld" => Self::Firewalld,
            _ if !of_iptables => Self::Nft,
            _ if end.base == "FORWARD" && has("DOCKER-USER") => Self::Docker,
            _ if has("ufw-") || has("ufw6-") => Self::Ufw,
            _ => Self::Iptables,
        }
    }

    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker's firewall",
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Iptables => "the firewall (iptables)",
            Self::Nft => "the firewall (nftables)",
        }
    }
}

/// What is to be let through.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pass<'a> {
    /// Datagrams of peers to our UDP port.
    In(u16),
    /// Ours to peers.
    Out(u16),
    /// Pings of peers to this host.
    Pings(&'a str),
    /// What goes from a device to another.
    Between(&'a str, &'a str),
}

/// Says what to type, where that is for others to do.
pub(crate) fn remedy(mut finding: Finding, facts: &Facts, listing: &Listing, end: &End, pass: Pass<'_>) -> Finding {
    let owner = Owner::of(end, listing);
    if owner == Owner::Nft && listing.table(end.family, &end.table).is_some_and(|table| table.owned) {
        let sentence =
            "a program that runs has made that table its own (flag owner): the kernel lets nobody else change it";
        finding.evidence.push(sentence.into());
        return finding;
    }
    let (one, other) = match pass {
        Pass::In(_) | Pass::Out(_) => (None, None),
        Pass::Pings(device) => (Some(device), None),
        Pass::Between(from, to) => (Some(from), Some(to)),
    };
    let mut names = [Some(end.base.as_str()), Some(&end.table), one, other].into_iter().flatten();
    // Both a shell and nft would read such a name as something else.
    if names.all(is_plain) {
        finding.commands.extend(commands(end, owner, pass).into_iter().map(|command| facts.as_root(command)));
    }
    finding
}

/// What to type so that the rules that ended a packet let such through.
fn commands(end: &End, owner: Owner, pass: Pass<'_>) -> Vec<String> {
    let program = if end.family == Family::Ip6 { "ip6tables" } else { "iptables" };
    let place = format!("{} {} {}", end.family, end.table, end.base);
    match owner {
        Owner::Docker | Owner::Iptables => {
            let chain = if owner == Owner::Docker { "DOCKER-USER" } else { &end.base };
            vec![match pass {
                Pass::In(port) => format!("{program} -I {chain} -p udp --dport {port} -j ACCEPT"),
                Pass::Out(port) => format!("{program} -I {chain} -p udp --sport {port} -j ACCEPT"),
                Pass::Pings(device) => format!("{program} -I {chain} -i {device} -j ACCEPT"),
                Pass::Between(from, to) => format!("{program} -I {chain} -i {from} -o {to} -j ACCEPT"),
            }]
        }
        Owner::Nft => vec![match pass {
            Pass::In(port) => format!("nft insert rule {place} udp dport {port} accept"),
            Pass::Out(port) => format!("nft insert rule {place} udp sport {port} accept"),
            Pass::Pings(device) => format!("nft insert rule {place} iifname {device} accept"),
            Pass::Between(from, to) => format!("nft insert rule {place} iifname {from} oifname {to} accept"),
        }],
        Owner::Ufw => vec![match pass {
            Pass::In(port) => format!("ufw allow {port}/udp"),
            Pass::Out(port) => format!("ufw allow out from any port {port} proto udp"),
            Pass::Pings(device) => format!("ufw allow in on {device}"),
            Pass::Between(from, to) => format!("ufw route allow in on {from} out on {to}"),
        }],
        Owner::Firewalld => {
            let first = match pass {
                Pass::In(port) | Pass::Out(port) => format!("firewall-cmd --permanent --add-port={port}/udp"),
                Pass::Pings(device) => format!("firewall-cmd --permanent --zone=trusted --add-interface={device}"),
                Pass::Between(from, to) => {
                    format!("firewall-cmd --permanent --zone=trusted --add-interface={from} --add-interface={to}")
                }
            };
            vec![first, "firewall-cmd --reload".into()]
        }
    }
}

/// Where a packet was ended, for evidence.
pub(crate) fn place(end: &End) -> String {
    let chain = format!("chain {} of table {} {}", end.chain, end.family, end.table);
    match &end.rule {
        None => format!("{chain}: no rule lets it through, and the policy is drop"),
        Some((handle, comment)) if comment.is_empty() => format!("{chain}: rule {handle} drops it"),
        Some((handle, comment)) => format!("{chain}: rule {handle} ({comment}) drops it"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
