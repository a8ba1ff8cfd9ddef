//! Changes to the host, and taking them back: the only caller of netlink that changes anything.
//!
//! What a daemon owns beyond its device (which carries our alias) is [written down](Record) before it is made.

mod record;
mod switches;

use std::fmt;
use std::path::Path;

use linux::netlink::{LinkChange, Netlink, PROTOCOL, RouteKind, Rule};
use linux::nft::{self, Nft, Ruleset};
use linux::sysctl;

use crate::plan::{self, ALIAS, Actual, ActualBridge, Operation, Owned, Territory};
use crate::{Failure, Result};

pub use record::Record;

/// Has reverse-path filters look for the way back as that of a packet with the same mark (ip-sysctl.rst of the kernel).
const VALID_MARK: [&str; 5] = ["net", "ipv4", "conf", "all", "src_valid_mark"];

/// The families of our packet filters.
const FILTERED: [nft::Family; 2] = [nft::Family::Inet, nft::Family::Arp];

/// What [`remove_leftovers`] took away, as words for a person (`device adit0`, `3 routes`).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Removed(pub Vec<String>);

impl Removed {
    /// Whether nothing was there to remove.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// The host as far as the device named `device`, the bridge it is a port of, and our routes go.
///
/// # Errors
/// A device of that name that is not ours: it is not touched. A bridge of that name that is none.
pub fn observe(netlink: &mut Netlink, device: &str, bridge: Option<&str>) -> Result<Actual> {
    let mut actual = observe_all(netlink, device, None)?;
    if let Some(name) = bridge {
        actual.bridge = observe_bridge(netlink, name, device)?;
    }
    Ok(actual)
}

/// The same with who forwards, if that is ours to say, or was, and with a bridge that is ours.
///
/// # Errors
/// As [`observe`].
pub fn observe_for(
    netlink: &mut Netlink,
    device: &str,
    (territory, bridge): (Option<&Territory>, Option<&str>),
    owned: &Owned,
) -> Result<Actual> {
    let asked = territory.is_some() || owned.territory.is_some() || !owned.settings.is_empty();
    let mut actual = observe_all(netlink, device, asked.then_some((territory, owned)))?;
    if let Some(name) = bridge.or(owned.bridge.as_deref()) {
        actual.bridge = observe_bridge(netlink, name, device)?;
    }
    Ok(actual)
}

/// The bridge of this name.
///
/// # Errors
/// A device of that name that is no bridge.
fn observe_bridge(netlink: &mut Netlink, name: &str, device: &str) -> Result<Option<ActualBridge>> {
    let Some(link) = netlink.link(name)? else { return Ok(None) };
    if link.kind.as_deref() != Some("bridge") {
        return Err(Failure::failed(format!("the device {name} is there and is no bridge"))
            .with_remedy("name another `bridge` under [device]"));
    }
    let addresses = netlink.addresses(Some(link.index))?.into_iter().map(|address| address.net).collect();
    let is_other = |port: &linux::netlink::Link| port.controller == Some(link.index) && port.name != device;
    let others = netlink.links()?.iter().filter(|port| is_other(port)).count();
    let ours = plan::is_bridge_of(&link, device);
    Ok(Some(ActualBridge { link, addresses, others, ours }))
}

fn observe_all(netlink: &mut Netlink, device: &str, asked: Option<(Option<&Territory>, &Owned)>) -> Result<Actual> {
    let link = netlink.link(device)?;
    if let Some(link) = &link
        && (link.kind.as_deref() != Some("tun") || link.alias.as_deref() != Some(ALIAS))
    {
        let kind = link.kind.as_deref().map_or(String::new(), |k| format!(" ({k})"));
        return Err(Failure::failed(format!("the device {device} exists{kind} and is not adit's")).with_remedy(
            format!("choose another `name` under [device], or remove it with `ip link delete {device}`"),
        ));
    }
    let index = link.as_ref().map(|l| l.index);
    let addresses = match index {
        Some(index) => netlink.addresses(Some(index))?.into_iter().map(|a| a.net).collect(),
        None => Vec::new(),
    };
    let mut routes = netlink.routes(None)?;
    let links = if plan::asks_for_links(&routes, index) { netlink.links()? } else { Vec::new() };
    let nearby = plan::find_nearby(&routes, &links, index);
    let (mut switches, mut to_answer, mut answered) = (None, Vec::new(), Vec::new());
    if let Some((territory, owned)) = asked {
        let of_network = territory.or(owned.territory.as_ref());
        to_answer = territory.map_or_else(Vec::new, |territory| plan::answering(territory, &routes, index));
        answered = netlink.proxies()?;
        answered.retain(|proxy| plan::may_be_ours(of_network, proxy.address));
        switches = Some(switches::read(netlink, (device, &routes), territory, owned, &to_answer)?);
    }
    routes.retain(|r| {
        let is_here =
            matches!(r.kind, RouteKind::Blackhole | RouteKind::Throw) || (index.is_some() && r.device == index);
        r.protocol == PROTOCOL && is_here
    });
    let mut rules = netlink.rules()?;
    rules.retain(|rule: &Rule| rule.protocol == PROTOCOL || rule.mark.is_some());
    // Where it cannot be read, there is no IPv4, and nothing to change.
    let valid_mark = sysctl::get(&VALID_MARK).map_or(true, |value| value != "0");
    let filters = filters(device);
    Ok(Actual {
        device: link,
        addresses,
        bridge: None,
        routes,
        rules,
        nearby,
        filters,
        valid_mark,
        switches,
        to_answer,
        answered,
    })
}

/// Chain and comment of each rule of our packet filters. A kernel that has none of any kind has none of ours.
fn filters(device: &str) -> Vec<(String, String)> {
    let table = plan::table_name(device);
    let rules = |family| Nft::open().and_then(|mut nft| nft.rules(family, &table));
    let rules = FILTERED.into_iter().flat_map(|family| {
        rules(family).unwrap_or_else(|e| {
            tracing::debug!("{e}");
            Vec::new()
        })
    });
    rules.map(|rule| (rule.chain, rule.comment)).collect()
}

/// Carries out `steps`; if one fails, takes those before it back.
pub fn apply(netlink: &mut Netlink, device: &str, steps: &[Operation]) -> Result<()> {
    for (done, step) in steps.iter().enumerate() {
        if let Err(failure) = carry_out(netlink, device, step) {
            undo(netlink, device, steps.get(..done).unwrap_or_default());
            return Err(failure);
        }
    }
    Ok(())
}

/// Takes `steps`, all of which were carried out, back.
pub fn undo(netlink: &mut Netlink, device: &str, steps: &[Operation]) {
    for step in steps.iter().rev().filter_map(Operation::inverse) {
        if let Err(failure) = carry_out(netlink, device, &step) {
            tracing::warn!("while taking changes back: {failure}");
        }
    }
}

fn carry_out(netlink: &mut Netlink, device: &str, step: &Operation) -> Result<()> {
    let change = |netlink: &mut Netlink, change: LinkChange<'_>| {
        let index = netlink.existing_link(device)?.index;
        netlink.change_link(index, &change)
    };
    let done = match step {
        Operation::Mark => change(netlink, LinkChange { alias: Some(ALIAS), ..LinkChange::default() }),
        Operation::QuietIpv6 => {
            // IN6_ADDR_GEN_MODE_NONE (linux/if_link.h). Where IPv6 is switched off there is nothing to quiet.
            if let Err(e) = linux::sysctl::set(&["net", "ipv6", "conf", device, "addr_gen_mode"], "1") {
                tracing::debug!("{e}");
            }
            Ok(())
        }
        Operation::SetMtu(mtu, _) => change(netlink, LinkChange { mtu: Some(*mtu), ..LinkChange::default() }),
        Operation::SetUp => change(netlink, LinkChange { up: Some(true), ..LinkChange::default() }),
        Operation::AddAddress(address) => {
            netlink.existing_link(device).and_then(|link| netlink.add_address(link.index, *address, true))
        }
        Operation::DeleteAddress(address) => {
            netlink.existing_link(device).and_then(|link| netlink.delete_address(link.index, *address)).or_else(absent)
        }
        Operation::MakeBridge(name, mac) => netlink.create_bridge(name, Some(*mac)).map(|()| quiet_bridge(name)),
        Operation::MarkBridge(name) => netlink.existing_link(name).and_then(|link| {
            let alias = plan::bridge_alias(device);
            netlink.change_link(link.index, &LinkChange { alias: Some(&alias), ..LinkChange::default() })
        }),
        Operation::DeleteBridge(name) => {
            netlink.existing_link(name).and_then(|link| netlink.delete_link(link.index)).or_else(absent)
        }
        Operation::AddBridgeAddress(name, address) => {
            netlink.existing_link(name).and_then(|link| netlink.add_address(link.index, *address, true))
        }
        Operation::DeleteBridgeAddress(name, address) => {
            netlink.existing_link(name).and_then(|link| netlink.delete_address(link.index, *address)).or_else(absent)
        }
        Operation::SetBridgeUp(name) => netlink.existing_link(name).and_then(|link| netlink.set_up(link.index, true)),
        Operation::Join(name) => netlink
            .existing_link(name)
            .map(|link| link.index)
            .and_then(|bridge| change(netlink, LinkChange { controller: Some(Some(bridge)), ..LinkChange::default() })),
        Operation::Part => change(netlink, LinkChange { controller: Some(None), ..LinkChange::default() }),
        Operation::AddRoute(route) => netlink.add_route(route),
        Operation::DeleteRoute(route) => netlink.delete_route(route).or_else(absent),
        Operation::AddRule(rule) => netlink.add_rule(rule),
        Operation::DeleteRule(rule) => netlink.delete_rule(rule).or_else(absent),
        Operation::ReplaceFilters(filters, _) => replace_filters(device, filters),
        Operation::DeleteFilters => replace_filters(device, &[]),
        Operation::SetValidMark(on) => sysctl::set(&VALID_MARK, if *on { "1" } else { "0" }),
        Operation::Set(setting, to, _) => sysctl::set(&setting.path(), &to.to_string()).or_else(absent),
        Operation::AddProxy(proxy) => netlink.add_proxy(proxy),
        Operation::DeleteProxy(proxy) => netlink.delete_proxy(proxy).or_else(absent),
    };
    done.map_err(|e| explain(step, e))
}

/// A host takes no router's word for it that comes over the tunnel.
fn quiet_bridge(name: &str) {
    if let Err(e) = sysctl::set(&["net", "ipv6", "conf", name, "accept_ra"], "0") {
        tracing::debug!("{e}");
    }
}

/// Leaves just these of our packet filters.
fn replace_filters(device: &str, filters: &[Ruleset]) -> linux::Result<()> {
    let (mut nft, table) = (Nft::open()?, plan::table_name(device));
    filters.iter().try_for_each(|ruleset| nft.apply(ruleset))?;
    let is_left = |family| filters.iter().any(|ruleset| ruleset.family == family);
    FILTERED
        .into_iter()
        .filter(|family| !is_left(*family))
        .try_for_each(|family| nft.delete(family, &table).or_else(absent))
}

/// What is gone already needs no removing: ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL.
fn absent(error: linux::Error) -> linux::Result<()> {
    const GONE: [i32; 4] = [2, 3, 19, 99];
    if error.errno().is_some_and(|e| GONE.contains(&e)) { Ok(()) } else { Err(error) }
}

fn explain(step: &Operation, error: linux::Error) -> Failure {
    let remedy = match (step, error.errno()) {
        (Operation::AddRoute(route), Some(17)) => {
            format!(
                "another route to {} is in the way: remove it, or take the prefix out of `allowed-ips`",
                route.destination
            )
        }
        (Operation::AddAddress(address), Some(13)) if address.addr().is_ipv6() => {
            format!(
                "IPv6 is switched off on this host: take {address} out of `addresses`, or set net.ipv6.conf.all.disable_ipv6=0"
            )
        }
        (Operation::AddRule(_), Some(17)) => {
            "another tunnel has the same rule: choose another `fwmark` under [transport]".to_owned()
        }
        (Operation::ReplaceFilters(filters, _), _) if !filters.iter().any(|ruleset| ruleset.family == nft::Family::Arp) => {
            "a node of a network needs nf_tables with nft_fib: `modprobe nft_fib_inet`, or write `ip-masq = false` and \
             `forward-rules = false` under [network] and make packet filters yourself"
                .to_owned()
        }
        (Operation::ReplaceFilters(..), _) => {
            "a tunnel that takes everything needs nf_tables: `modprobe nf_tables`, or write `table = \"off\"` under [device] \
             and make routes and rules yourself"
                .to_owned()
        }
        (Operation::Set(setting, to, _), _) => {
            format!("have {}={to} set on this host, so that packets of containers find their way", setting.path().join("."))
        }
        (Operation::SetValidMark(true), _) => {
            "have net.ipv4.conf.all.src_valid_mark=1 set on this host, which a strict reverse-path filter needs".to_owned()
        }
        _ => return error.into(),
    };
    Failure::from(error).with_remedy(remedy)
}

/// Carries out as much of `steps` as can be; answers what could not.
pub fn try_all(netlink: &mut Netlink, device: &str, steps: &[Operation]) -> Vec<Failure> {
    steps.iter().filter_map(|step| carry_out(netlink, device, step).err()).collect()
}

/// Removes the device if it is there and ours.
pub fn delete_device(netlink: &mut Netlink, device: &str) -> Result<bool> {
    match observe(netlink, device, None)?.device {
        Some(link) => netlink.delete_link(link.index).or_else(absent).map(|()| true).map_err(Failure::from),
        None => Ok(false),
    }
}

/// Removes what a killed daemon of `device` left behind: its device, routes, rules and packet filters.
///
/// # Errors
/// What could not be removed; the rest was.
pub fn remove_leftovers(device: &str, state_dir: &Path) -> Result<Removed> {
    let mut netlink = Netlink::open()?;
    let record = Record::of(device, state_dir);
    let owned = record.read()?;
    let actual = observe_for(&mut netlink, device, (None, None), &owned)?;
    // Carrier means that somebody holds a queue.
    if actual.device.as_ref().is_some_and(|device| device.running) {
        return Err(Failure::failed(format!("a daemon with another runtime directory holds the device {device}"))
            .with_remedy("name its directory with --runtime-dir"));
    }
    let mut removed = Removed::default();
    let steps = plan::removal(&actual, &owned);
    let mut failures = try_all(&mut netlink, device, &steps);
    let count = |is_one: fn(&Operation) -> bool| steps.iter().filter(|step| is_one(step)).count();
    for (count, what) in [
        (count(|step| matches!(step, Operation::DeleteRule(_))), "rule"),
        (count(|step| matches!(step, Operation::DeleteRoute(_))), "route"),
        (count(|step| matches!(step, Operation::DeleteFilters)), "set of packet filters"),
        (count(|step| matches!(step, Operation::Set(..))), "setting"),
        (count(|step| matches!(step, Operation::DeleteProxy(_))), "neighbour"),
        (count(|step| matches!(step, Operation::DeleteBridge(_))), "bridge"),
    ] {
        match count {
            0 => {}
            1 => removed.0.push(format!("1 {what}")),
            n => removed.0.push(format!("{n} {what}s")),
        }
    }
    match delete_device(&mut netlink, device) {
        Ok(true) => removed.0.push(format!("device {device}")),
        Ok(false) => {}
        Err(failure) => failures.push(failure),
    }
    if failures.is_empty() {
        record.remove()?;
        return Ok(removed);
    }
    let sentences: Vec<_> = failures.iter().map(Failure::sentence).collect();
    Err(Failure::failed(sentences.join("; ")))
}
