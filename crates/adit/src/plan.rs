//! From what the host should look like and what it looks like, the steps between: pure, so that start-up, repair and removal
//! share it and every case is a table test.

use ipnet::IpNet;
use linux::netlink::{Link, PROTOCOL, Route, RouteKind};

/// The alias that marks a device as ours (`ip link show` prints it).
pub const ALIAS: &str = "adit";

/// Metric of the blackholes that stand behind our routes: worse than any metric in common use, so that they are met only when
/// the route proper is gone.
pub const BLACKHOLE_METRIC: u32 = 0xadad_adad;

/// What the host should look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Largest packet of the device, in bytes.
    pub mtu: u32,
    /// Addresses of the device, with the prefix length of their network.
    pub addresses: Vec<IpNet>,
    /// What lives behind the peers.
    pub prefixes: Vec<IpNet>,
}

/// What the host looks like, as far as it is ours.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    /// Our device.
    pub device: Option<Link>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// The routes with our protocol number: all unicast ones through our device, and all blackholes of the host.
    pub routes: Vec<Route>,
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
    /// Adds a route.
    AddRoute(Route),
    /// Removes a route.
    DeleteRoute(Route),
}

impl Operation {
    /// What takes the step back; `None` where nothing needs to.
    pub fn inverse(&self) -> Option<Self> {
        match self {
            Self::Mark | Self::QuietIpv6 | Self::SetUp => None,
            Self::SetMtu(new, old) => Some(Self::SetMtu(*old, *new)),
            Self::AddAddress(address) => Some(Self::DeleteAddress(*address)),
            Self::DeleteAddress(address) => Some(Self::AddAddress(*address)),
            Self::AddRoute(route) => Some(Self::DeleteRoute(route.clone())),
            Self::DeleteRoute(route) => Some(Self::AddRoute(route.clone())),
        }
    }
}

/// The steps from `actual` to `desired`, in an order in which nothing leaves unprotected: blackholes stand before the device is
/// up, and fall after the routes. `owned` are the prefixes whose blackholes are ours to remove.
///
/// Without a device (it is made by opening it) there is nothing to do but the blackholes.
pub fn plan(desired: &Desired, actual: &Actual, owned: &[IpNet]) -> Vec<Operation> {
    let mut steps: Vec<Operation> =
        desired.prefixes.iter().map(|p| blackhole(*p)).filter(|r| !has(actual, r)).map(Operation::AddRoute).collect();
    if let Some(device) = &actual.device {
        steps.extend(device_steps(desired, actual, device));
    }
    let stale = actual.routes.iter().filter(|r| {
        r.kind == RouteKind::Blackhole && owned.contains(&r.destination) && !desired.prefixes.contains(&r.destination)
    });
    steps.extend(stale.cloned().map(Operation::DeleteRoute));
    steps
}

fn device_steps(desired: &Desired, actual: &Actual, device: &Link) -> Vec<Operation> {
    let mut steps = Vec::new();
    if device.alias.as_deref() != Some(ALIAS) {
        steps.push(Operation::Mark);
    }
    if device.mtu != desired.mtu {
        steps.push(Operation::SetMtu(desired.mtu, device.mtu));
    }
    // Obsolete routes go before the addresses that they may hang on.
    let routes: Vec<Route> =
        desired.prefixes.iter().filter(|p| !is_connected(desired, p)).map(|p| through(*p, device.index)).collect();
    let obsolete = actual.routes.iter().filter(|r| r.kind == RouteKind::Unicast && !routes.iter().any(|d| same(d, r)));
    steps.extend(obsolete.cloned().map(Operation::DeleteRoute));
    let foreign = actual.addresses.iter().filter(|a| !desired.addresses.contains(a) && !is_link_local(a));
    steps.extend(foreign.copied().map(Operation::DeleteAddress));
    if !device.up {
        steps.push(Operation::QuietIpv6);
    }
    let missing = desired.addresses.iter().filter(|a| !actual.addresses.contains(a));
    steps.extend(missing.copied().map(Operation::AddAddress));
    if !device.up {
        steps.push(Operation::SetUp);
    }
    steps.extend(routes.into_iter().filter(|r| !has(actual, r)).map(Operation::AddRoute));
    steps
}

/// The steps that remove our routes and the blackholes of `owned`; the device itself goes by its descriptor or by name.
pub fn removal(actual: &Actual, owned: &[IpNet]) -> Vec<Operation> {
    let ours = |r: &&Route| r.kind == RouteKind::Unicast || owned.contains(&r.destination);
    // Routes first: while they stand, blackholes must too.
    let (unicast, blackholes): (Vec<_>, Vec<_>) =
        actual.routes.iter().filter(ours).cloned().partition(|r| r.kind == RouteKind::Unicast);
    unicast.into_iter().chain(blackholes).map(Operation::DeleteRoute).collect()
}

/// Whether a blackhole of ours or of another daemon covers the prefix.
pub fn has_blackhole(actual: &Actual, prefix: &IpNet) -> bool {
    has(actual, &blackhole(*prefix))
}

/// Whether the kernel routes just this prefix through the device already, because it is the network of an address there. A part
/// of such a network does not count: its blackhole is the longer prefix, which wins whatever its metric.
fn is_connected(desired: &Desired, prefix: &IpNet) -> bool {
    desired.addresses.iter().any(|a| a.trunc() == prefix.trunc())
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(a) if a.addr().is_unicast_link_local())
}

fn through(prefix: IpNet, device: u32) -> Route {
    Route { device: Some(device), ..Route::new(prefix) }
}

fn blackhole(prefix: IpNet) -> Route {
    Route { kind: RouteKind::Blackhole, metric: Some(BLACKHOLE_METRIC), ..Route::new(prefix) }
}

/// Equal in what tells our routes apart: the kernel fills in the rest.
fn same(a: &Route, b: &Route) -> bool {
    let device = |r: &Route| r.device.filter(|_| r.kind == RouteKind::Unicast);
    a.destination.trunc() == b.destination.trunc() && a.kind == b.kind && a.table == b.table && device(a) == device(b)
}

fn has(actual: &Actual, route: &Route) -> bool {
    actual.routes.iter().any(|r| r.protocol == PROTOCOL && same(r, route))
}

#[cfg(test)]
mod tests {
    use linux::netlink::{Layer, Statistics};

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn desired() -> Desired {
        Desired {
            mtu: 1472,
            addresses: vec![net("10.77.0.1/24")],
            prefixes: vec![net("10.77.0.2/32"), net("10.42.7.0/24"), net("fd42::/64")],
        }
    }

    fn device() -> Link {
        Link {
            index: 7,
            name: "adit0".into(),
            kind: Some("tun".into()),
            layer: Layer::None,
            mac: None,
            mtu: 1500,
            up: false,
            running: false,
            controller: None,
            port: None,
            lower: None,
            alias: None,
            tx_queue_len: 500,
            gso_max_size: 65536,
            gso_max_segs: 65535,
            statistics: Statistics::default(),
        }
    }

    /// What the steps lead to.
    fn after(mut actual: Actual, steps: &[Operation]) -> Actual {
        for step in steps {
            let device = actual.device.as_mut();
            match step {
                Operation::Mark => device.unwrap().alias = Some(ALIAS.into()),
                Operation::QuietIpv6 => {}
                Operation::SetMtu(mtu, _) => device.unwrap().mtu = *mtu,
                Operation::SetUp => device.unwrap().up = true,
                Operation::AddAddress(a) => actual.addresses.push(*a),
                Operation::DeleteAddress(a) => actual.addresses.retain(|x| x != a),
                Operation::AddRoute(r) => actual.routes.push(r.clone()),
                Operation::DeleteRoute(r) => actual.routes.retain(|x| x != r),
            }
        }
        actual
    }

    fn started() -> Actual {
        let fresh = Actual { device: Some(device()), ..Actual::default() };
        let steps = plan(&desired(), &fresh, &desired().prefixes);
        after(fresh, &steps)
    }

    #[test]
    fn a_fresh_device_gets_everything_and_then_nothing_more() {
        let actual = started();
        let unicast: Vec<_> =
            actual.routes.iter().filter(|r| r.kind == RouteKind::Unicast).map(|r| r.destination).collect();
        assert_eq!(unicast, desired().prefixes);
        assert_eq!(actual.routes.len(), 6);
        assert_eq!(plan(&desired(), &actual, &desired().prefixes), []);
    }

    #[test]
    fn every_blackhole_has_a_route_of_its_length_before_it() {
        let network = net("10.77.0.0/24");
        for prefixes in [vec![network], vec![network, net("10.77.0.2/32")], vec![net("10.77.0.0/16")]] {
            let desired = Desired { prefixes, ..desired() };
            let fresh = Actual { device: Some(device()), ..Actual::default() };
            let actual = after(fresh.clone(), &plan(&desired, &fresh, &[]));
            for blackhole in actual.routes.iter().filter(|r| r.kind == RouteKind::Blackhole) {
                let prefix = blackhole.destination;
                let own = actual.routes.iter().any(|r| r.kind == RouteKind::Unicast && r.destination == prefix);
                // The kernel adds the route to the network of an address itself.
                assert!(own != (prefix == network), "{prefix}: {:?}", actual.routes);
            }
        }
    }

    #[test]
    fn blackholes_stand_before_the_device_is_up() {
        let fresh = Actual { device: Some(device()), ..Actual::default() };
        let steps = plan(&desired(), &fresh, &[]);
        let up = steps.iter().position(|s| *s == Operation::SetUp).unwrap();
        let last =
            steps.iter().rposition(|s| matches!(s, Operation::AddRoute(r) if r.kind == RouteKind::Blackhole)).unwrap();
        assert!(last < up);
    }

    #[test]
    fn what_somebody_removed_comes_back() {
        let mut actual = started();
        actual.addresses.clear();
        actual.routes.retain(|r| r.destination != net("10.42.7.0/24"));
        actual.device.as_mut().unwrap().up = false;
        let steps = plan(&desired(), &actual, &desired().prefixes);
        assert_eq!(plan(&desired(), &after(actual, &steps), &desired().prefixes), []);
    }

    #[test]
    fn a_new_configuration_leaves_nothing_of_the_old_one() {
        let new = Desired { mtu: 1400, addresses: vec![net("10.78.0.1/24")], prefixes: vec![net("10.43.0.0/16")] };
        let actual = started();
        let steps = plan(&new, &actual, &desired().prefixes);
        let actual = after(actual, &steps);
        assert_eq!(actual.addresses, new.addresses);
        assert_eq!(actual.routes.len(), 2);
        assert!(actual.routes.iter().all(|r| r.destination == net("10.43.0.0/16")));
    }

    #[test]
    fn blackholes_of_another_daemon_stay() {
        let mut actual = started();
        actual.routes.push(blackhole(net("10.99.0.0/16")));
        assert_eq!(plan(&desired(), &actual, &desired().prefixes), []);
        let left = after(actual.clone(), &removal(&actual, &desired().prefixes));
        assert_eq!(left.routes, [blackhole(net("10.99.0.0/16"))]);
    }

    #[test]
    fn every_step_that_changes_something_can_be_taken_back() {
        let fresh = Actual { device: Some(device()), ..Actual::default() };
        let steps = plan(&desired(), &fresh, &[]);
        let undo: Vec<_> = steps.iter().rev().filter_map(Operation::inverse).collect();
        let back = after(after(fresh.clone(), &steps), &undo);
        assert_eq!((back.addresses, back.routes, back.device.map(|d| d.mtu)), (vec![], vec![], Some(1500)));
    }
}
