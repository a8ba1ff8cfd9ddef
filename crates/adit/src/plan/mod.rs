//! From what the host should look like and what it looks like, the steps between: pure, so that start-up, repair and removal
//! share it and every case is a table test.

mod answering;
mod bridge;
mod forwarding;
mod full_tunnel;
mod nearby;
mod owned;
mod territory;
#[cfg(test)]
mod tests;

pub use answering::{answering, may_be_ours};
pub use bridge::{ActualBridge, Bridge, bridge_alias, is_bridge_of, is_bridge_of_ours, link_address};
pub use forwarding::{Setting, Switches};
pub use full_tunnel::{FIRST_PRIORITY, FullTunnel, MOST, PRIORITY_STEP, Road, everywhere};
pub use nearby::{Nearby, asks_for_links, find as find_nearby};
pub use owned::Owned;
pub use territory::{Territory, prefixes};

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use linux::netlink::{Link, PROTOCOL, Proxy, Route, RouteKind, Rule};
use linux::nft::Ruleset;

/// The alias that marks a device as ours (`ip link show` prints it).
pub const ALIAS: &str = "adit";

/// Metric of the blackholes that stand behind our routes: worse than any metric in common use, so that they are met only when
/// the route proper is gone.
pub const BLACKHOLE_METRIC: u32 = 0xadad_adad;

/// The main routing table (`RT_TABLE_MAIN`, linux/rtnetlink.h).
pub const MAIN: u32 = 254;

/// The scope of routes to anywhere (`RT_SCOPE_UNIVERSE`, linux/rtnetlink.h).
const WORLD: u8 = 0;

/// What lives behind a peer, and the table that is to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The prefix.
    pub net: IpNet,
    /// The table.
    pub table: u32,
}

impl Prefix {
    fn through(&self, device: u32, source: Option<IpAddr>) -> Route {
        // In a table of its own, not a route to find gateways by.
        let scope = (self.table != MAIN).then_some(WORLD);
        Route { device: Some(device), table: self.table, scope, source, ..Route::new(self.net) }
    }

    fn blackhole(&self) -> Route {
        Route { kind: RouteKind::Blackhole, metric: Some(BLACKHOLE_METRIC), table: self.table, ..Route::new(self.net) }
    }
}

/// What the host should look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Largest packet of the device, in bytes.
    pub mtu: u32,
    /// Addresses of the device, with the prefix length of their network.
    pub addresses: Vec<IpNet>,
    /// What lives behind the peers, as far as there are to be routes.
    pub prefixes: Vec<Prefix>,
    /// Whether the tunnel takes everything, of the families whose prefix of length 0 is in its table.
    pub full: Option<FullTunnel>,
    /// The name of the device, by which our packet filters are known.
    pub device: String,
    /// What is ours in a network, of a node.
    pub territory: Option<Territory>,
    /// The bridge that the device is a port of, if it carries frames.
    pub bridge: Option<Bridge>,
    /// Whether the device carries frames.
    pub frames: bool,
}

/// What the host looks like, as far as it is ours.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    /// Our device.
    pub device: Option<Link>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// The bridge that is asked for, or is ours.
    pub bridge: Option<ActualBridge>,
    /// The routes with our protocol number: all unicast ones through our device, and all blackholes and throws of the host.
    pub routes: Vec<Route>,
    /// The rules that go by a mark, and those with our protocol number.
    pub rules: Vec<Rule>,
    /// What a tunnel that takes everything leaves to the main table.
    pub nearby: Vec<Nearby>,
    /// Chain and comment of each rule of our packet filters.
    pub filters: Vec<(String, String)>,
    /// Whether reverse-path filters heed marks (`net.ipv4.conf.all.src_valid_mark`).
    pub valid_mark: bool,
    /// Who forwards, as far as that was asked for.
    pub switches: Option<Switches>,
    /// The clients to be answered for, each on a device behind which it is looked for.
    pub to_answer: Vec<Proxy>,
    /// The addresses of the network that are answered for.
    pub answered: Vec<Proxy>,
}

/// One step, on our device where it says nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Marks the device as ours.
    Mark,
    /// Keeps the kernel from giving itself a link-local IPv6 address and from soliciting routers through the tunnel.
    QuietIpv6,
    /// Sets the largest packet; the second number is what it was.
    SetMtu(u32, u32),
    /// Adds an address.
    AddAddress(IpNet),
    /// Removes an address.
    DeleteAddress(IpNet),
    /// Sets the device up.
    SetUp,
    /// Makes a bridge with this link-layer address.
    MakeBridge(String, [u8; 6]),
    /// Marks a bridge as ours.
    MarkBridge(String),
    /// Removes a bridge.
    DeleteBridge(String),
    /// Adds an address to a bridge.
    AddBridgeAddress(String, IpNet),
    /// Removes an address from a bridge.
    DeleteBridgeAddress(String, IpNet),
    /// Sets a bridge up.
    SetBridgeUp(String),
    /// Makes the device a port of a bridge.
    Join(String),
    /// Makes it none any more.
    Part,
    /// Adds a route.
    AddRoute(Route),
    /// Removes a route.
    DeleteRoute(Route),
    /// Adds a rule.
    AddRule(Rule),
    /// Removes a rule.
    DeleteRule(Rule),
    /// Puts our packet filters in place of those there are (the second says whether there are).
    ReplaceFilters(Vec<Ruleset>, bool),
    /// Removes our packet filters.
    DeleteFilters,
    /// Has reverse-path filters heed marks, or not.
    SetValidMark(bool),
    /// Changes a setting of the kernel's to the first number; the second is what it was.
    Set(Setting, u8, u8),
    /// Has the kernel answer for a client.
    AddProxy(Proxy),
    /// Has it do so no more.
    DeleteProxy(Proxy),
}

impl Operation {
    /// What takes the step back; `None` where nothing needs to.
    pub fn inverse(&self) -> Option<Self> {
        match self {
            Self::Mark
            | Self::QuietIpv6
            | Self::SetUp
            | Self::ReplaceFilters(_, true)
            | Self::DeleteFilters
            | Self::DeleteBridge(_)
            | Self::MarkBridge(_)
            | Self::SetBridgeUp(_)
            | Self::Part => None,
            Self::SetMtu(new, old) => Some(Self::SetMtu(*old, *new)),
            Self::AddAddress(address) => Some(Self::DeleteAddress(*address)),
            Self::DeleteAddress(address) => Some(Self::AddAddress(*address)),
            Self::MakeBridge(name, _) => Some(Self::DeleteBridge(name.clone())),
            Self::AddBridgeAddress(name, address) => Some(Self::DeleteBridgeAddress(name.clone(), *address)),
            Self::DeleteBridgeAddress(name, address) => Some(Self::AddBridgeAddress(name.clone(), *address)),
            Self::Join(_) => Some(Self::Part),
            Self::AddRoute(route) => Some(Self::DeleteRoute(route.clone())),
            Self::DeleteRoute(route) => Some(Self::AddRoute(route.clone())),
            Self::AddRule(rule) => Some(Self::DeleteRule(rule.clone())),
            Self::DeleteRule(rule) => Some(Self::AddRule(rule.clone())),
            Self::ReplaceFilters(_, false) => Some(Self::DeleteFilters),
            Self::SetValidMark(on) => Some(Self::SetValidMark(!on)),
            Self::Set(setting, to, was) => Some(Self::Set(setting.clone(), *was, *to)),
            Self::AddProxy(proxy) => Some(Self::DeleteProxy(*proxy)),
            Self::DeleteProxy(proxy) => Some(Self::AddProxy(*proxy)),
        }
    }
}

/// The steps from `actual` to `desired`, in an order in which nothing leaves unprotected: filters and blackholes stand before the
/// device is up, blackholes fall after the routes, and packets are sent into the tunnel when all of it is there.
///
/// Without a device (it is made by opening it) there is nothing to do but what needs none.
pub fn plan(desired: &Desired, actual: &Actual, owned: &Owned) -> Vec<Operation> {
    let layout = desired.full.as_ref().map(|full| full.layout(desired, actual, owned));
    let (routes, rules) =
        layout.as_ref().map_or((&[][..], &[][..]), |layout| (layout.routes.as_slice(), layout.rules.as_slice()));
    let mut steps = Vec::new();
    if layout.is_some() && !actual.valid_mark {
        steps.push(Operation::SetValidMark(true));
    }
    let filters = filters(desired, layout.as_ref().map(|layout| layout.filters.as_slice()));
    if !filters.is_empty() && actual.filters != what_is_told_of(&filters) {
        steps.push(Operation::ReplaceFilters(filters.clone(), !actual.filters.is_empty()));
    }
    let standing = Known::standing(actual);
    let wanted: Vec<Route> = desired.prefixes.iter().map(Prefix::blackhole).chain(routes.iter().cloned()).collect();
    steps.extend(wanted.iter().filter(|route| !standing.has(route)).cloned().map(Operation::AddRoute));
    steps.extend(bridge::steps(desired, actual, owned));
    if let Some(device) = &actual.device {
        steps.extend(device_steps(desired, actual, device, &standing));
        steps.extend(bridge::joining(desired, actual, owned, device));
    }
    steps.extend(rules.iter().filter(|rule| !actual.rules.contains(rule)).cloned().map(Operation::AddRule));
    let obsolete = actual.rules.iter().filter(|rule| owned.owns_rule(rule) && !rules.contains(rule));
    steps.extend(obsolete.cloned().map(Operation::DeleteRule));
    let wanted = Known::new(&wanted);
    let stale = actual.routes.iter().filter(|r| r.kind != RouteKind::Unicast && owned.owns(r) && !wanted.has(r));
    steps.extend(stale.cloned().map(Operation::DeleteRoute));
    // Nothing is forwarded before what guards it stands.
    steps.extend(switching(desired.territory.as_ref(), actual, owned));
    steps.extend(answering::steps(actual));
    if filters.is_empty() && !actual.filters.is_empty() {
        steps.push(Operation::DeleteFilters);
    }
    if layout.is_none() {
        steps.extend(owned.may_reset_valid_mark(actual).then_some(Operation::SetValidMark(false)));
    }
    steps
}

fn switching(territory: Option<&Territory>, actual: &Actual, owned: &Owned) -> Vec<Operation> {
    let Some(switches) = &actual.switches else { return Vec::new() };
    let changes = forwarding::changes(territory, switches, &owned.settings);
    changes.into_iter().map(|(setting, to, was)| Operation::Set(setting, to, was)).collect()
}

/// Our packet filters: those of a tunnel that takes everything and those of a network are one whole.
fn filters(desired: &Desired, full: Option<&[Ruleset]>) -> Vec<Ruleset> {
    let mut all = full.unwrap_or_default().to_vec();
    if let Some(of_network) = desired.territory.as_ref().and_then(|territory| territory.filters(&desired.device)) {
        match all.iter_mut().find(|ruleset| ruleset.family == of_network.family) {
            Some(ruleset) => {
                ruleset.sets.extend(of_network.sets);
                ruleset.chains.extend(of_network.chains);
            }
            None => all.push(of_network),
        }
    }
    // What the kernel tells of rules are their comments: by this they say of which whole they are a part.
    let fingerprint = fingerprint(&format!("{all:?}"));
    for rule in all.iter_mut().flat_map(|ruleset| &mut ruleset.chains).flat_map(|chain| &mut chain.rules) {
        rule.comment = format!("{} [{fingerprint:08x}]", rule.comment);
    }
    all
}

/// FNV-1a: the same in every build, as what stands on the host may be of another.
pub(crate) fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The name of our tables of packet filters, one per device.
pub fn table_name(device: &str) -> String {
    format!("adit-{device}")
}

fn device_steps(desired: &Desired, actual: &Actual, device: &Link, standing: &Known) -> Vec<Operation> {
    let mut steps = Vec::new();
    if device.alias.as_deref() != Some(ALIAS) {
        steps.push(Operation::Mark);
    }
    if device.mtu != desired.mtu {
        steps.push(Operation::SetMtu(desired.mtu, device.mtu));
    }
    // Obsolete routes go before the addresses that they may hang on.
    let source = |prefix: &Prefix| desired.territory.as_ref().and_then(|territory| territory.source(&prefix.net));
    let routes: Vec<Route> = desired
        .prefixes
        .iter()
        .filter(|p| !is_connected(desired, p))
        .map(|p| p.through(device.index, source(p)))
        .collect();
    let wanted = Known::new(&routes);
    let obsolete = actual.routes.iter().filter(|r| r.kind == RouteKind::Unicast && !wanted.has(r));
    steps.extend(obsolete.cloned().map(Operation::DeleteRoute));
    let foreign = actual.addresses.iter().filter(|a| !desired.addresses.contains(a) && !is_link_local(a));
    steps.extend(foreign.copied().map(Operation::DeleteAddress));
    // A card of its own among others has a link-local address, as they have; a port of a bridge needs none.
    if !device.up && (!desired.frames || desired.bridge.is_some()) {
        steps.push(Operation::QuietIpv6);
    }
    let missing = desired.addresses.iter().filter(|a| !actual.addresses.contains(a));
    steps.extend(missing.copied().map(Operation::AddAddress));
    if !device.up {
        steps.push(Operation::SetUp);
    }
    steps.extend(routes.into_iter().filter(|r| !standing.has(r)).map(Operation::AddRoute));
    steps
}

/// The steps that remove what is ours; the device itself goes by its descriptor or by name.
pub fn removal(actual: &Actual, owned: &Owned) -> Vec<Operation> {
    let rules = actual.rules.iter().filter(|rule| owned.owns_rule(rule)).cloned().map(Operation::DeleteRule);
    // Routes before blackholes: while they stand, blackholes must too.
    let (unicast, others): (Vec<_>, Vec<_>) =
        actual.routes.iter().filter(|r| owned.owns(r)).cloned().partition(|r| r.kind == RouteKind::Unicast);
    let routes = unicast.into_iter().chain(others).map(Operation::DeleteRoute);
    let filters = (!actual.filters.is_empty()).then_some(Operation::DeleteFilters);
    let mark = owned.may_reset_valid_mark(actual).then_some(Operation::SetValidMark(false));
    let mark = mark.into_iter().chain(bridge::removal(actual));
    let answers = answering::steps(actual);
    rules.chain(routes).chain(answers).chain(switching(None, actual, owned)).chain(filters).chain(mark).collect()
}

/// The steps that remove the bridge, if it is ours and nobody uses it.
pub fn removal_of_bridge(actual: &Actual) -> Vec<Operation> {
    bridge::removal(actual).into_iter().collect()
}

/// Whether the kernel routes just this prefix through the device already, because it is the network of an address there. A part
/// of such a network does not count: its blackhole is the longer prefix, which wins whatever its metric.
fn is_connected(desired: &Desired, prefix: &Prefix) -> bool {
    prefix.table == MAIN && desired.addresses.iter().any(|a| a.trunc() == prefix.net.trunc())
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(a) if a.addr().is_unicast_link_local())
}

/// Chain and comment of each rule, as the kernel would tell of them.
pub(crate) fn what_is_told_of(filters: &[Ruleset]) -> Vec<(String, String)> {
    let chains = filters.iter().flat_map(|ruleset| &ruleset.chains);
    chains.flat_map(|chain| chain.rules.iter().map(|rule| (chain.name.clone(), rule.comment.clone()))).collect()
}

/// What tells our routes apart: destination, kind, table, and the device and source of unicast ones. The kernel fills in the rest.
type Key = (IpNet, RouteKind, u32, Option<u32>, Option<IpAddr>);

fn key(route: &Route) -> Key {
    let is_unicast = route.kind == RouteKind::Unicast;
    let (device, source) = (route.device.filter(|_| is_unicast), route.source.filter(|_| is_unicast));
    (route.destination.trunc(), route.kind, route.table, device, source)
}

/// Routes that are looked for by what tells them apart: there may be tens of thousands.
struct Known(HashSet<Key>);

impl Known {
    fn new<'a>(routes: impl IntoIterator<Item = &'a Route>) -> Self {
        Self(routes.into_iter().map(key).collect())
    }

    /// Those with our protocol number.
    fn standing(actual: &Actual) -> Self {
        Self::new(actual.routes.iter().filter(|route| route.protocol == PROTOCOL))
    }

    fn has(&self, route: &Route) -> bool {
        self.0.contains(&key(route))
    }
}
