//! Cases of [`plan`], [`removal`] and [`Owned`], as tables.

use linux::netlink::{Layer, Statistics};

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn desired() -> Desired {
    Desired {
        mtu: 1472,
        addresses: vec![net("10.77.0.1/24")],
        prefixes: ["10.77.0.2/32", "10.42.7.0/24", "fd42::/64"].map(main).into(),
        full: None,
        device: "adit0".into(),
        territory: None,
        bridge: None,
        frames: false,
    }
}

fn main(prefix: &str) -> Prefix {
    Prefix { net: net(prefix), table: MAIN }
}

fn owned(desired: &Desired) -> Owned {
    let mut owned = Owned::default();
    owned.claim(desired, &Actual::default());
    owned.claim_bridge(desired, &Actual::default());
    owned
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
            Operation::AddRule(r) => actual.rules.push(r.clone()),
            Operation::DeleteRule(r) => actual.rules.retain(|x| x != r),
            Operation::ReplaceFilters(filters, was) => {
                assert_eq!(*was, !actual.filters.is_empty());
                actual.filters = what_is_told_of(filters);
            }
            Operation::DeleteFilters => actual.filters.clear(),
            Operation::SetValidMark(on) => actual.valid_mark = *on,
            Operation::Set(setting, to, was) => {
                let switches = actual.switches.as_mut().unwrap();
                assert_eq!(switches.values.insert(setting.clone(), *to), Some(*was));
            }
            Operation::MakeBridge(name, mac) => {
                let link = Link {
                    index: 9,
                    name: name.clone(),
                    kind: Some("bridge".into()),
                    mac: Some(*mac),
                    ..self::device()
                };
                assert!(is_bridge_of(&link, "adit0"), "one that was not marked yet is known by its address");
                actual.bridge = Some(ActualBridge { link, addresses: Vec::new(), others: 0, ours: true });
            }
            Operation::MarkBridge(_) => {
                let there = actual.bridge.as_mut().unwrap();
                there.link.alias = Some(bridge_alias("adit0"));
                there.ours = is_bridge_of(&there.link, "adit0");
            }
            Operation::DeleteBridge(_) => actual.bridge = None,
            Operation::AddBridgeAddress(_, a) => actual.bridge.as_mut().unwrap().addresses.push(*a),
            Operation::DeleteBridgeAddress(_, a) => actual.bridge.as_mut().unwrap().addresses.retain(|x| x != a),
            Operation::SetBridgeUp(_) => actual.bridge.as_mut().unwrap().link.up = true,
            Operation::Join(_) => device.unwrap().controller = Some(actual.bridge.as_ref().unwrap().link.index),
            Operation::Part => device.unwrap().controller = None,
            Operation::AddProxy(proxy) => actual.answered.push(*proxy),
            Operation::DeleteProxy(proxy) => actual.answered.retain(|x| x != proxy),
        }
    }
    actual
}

fn started() -> Actual {
    let fresh = Actual { device: Some(device()), ..Actual::default() };
    let steps = plan(&desired(), &fresh, &owned(&desired()));
    after(fresh, &steps)
}

#[test]
fn a_fresh_device_gets_everything_and_then_nothing_more() {
    let actual = started();
    let unicast: Vec<_> =
        actual.routes.iter().filter(|r| r.kind == RouteKind::Unicast).map(|r| r.destination).collect();
    assert_eq!(unicast, desired().prefixes.iter().map(|prefix| prefix.net).collect::<Vec<_>>());
    assert_eq!(actual.routes.len(), 6);
    assert_eq!(plan(&desired(), &actual, &owned(&desired())), []);
}

#[test]
fn every_blackhole_has_a_route_of_its_length_before_it() {
    let network = main("10.77.0.0/24");
    for prefixes in [vec![network], vec![network, main("10.77.0.2/32")], vec![main("10.77.0.0/16")]] {
        let desired = Desired { prefixes, ..desired() };
        let fresh = Actual { device: Some(device()), ..Actual::default() };
        let actual = after(fresh.clone(), &plan(&desired, &fresh, &Owned::default()));
        for blackhole in actual.routes.iter().filter(|r| r.kind == RouteKind::Blackhole) {
            let prefix = blackhole.destination;
            let own = actual.routes.iter().any(|r| r.kind == RouteKind::Unicast && r.destination == prefix);
            // The kernel adds the route to the network of an address itself.
            assert!(own != (prefix == network.net), "{prefix}: {:?}", actual.routes);
        }
    }
}

#[test]
fn blackholes_stand_before_the_device_is_up() {
    let fresh = Actual { device: Some(device()), ..Actual::default() };
    let steps = plan(&desired(), &fresh, &Owned::default());
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
    let steps = plan(&desired(), &actual, &owned(&desired()));
    assert_eq!(plan(&desired(), &after(actual, &steps), &owned(&desired())), []);
}

#[test]
fn a_new_configuration_leaves_nothing_of_the_old_one() {
    let new =
        Desired { mtu: 1400, addresses: vec![net("10.78.0.1/24")], prefixes: vec![main("10.43.0.0/16")], ..desired() };
    let actual = started();
    let steps = plan(&new, &actual, &owned(&desired()));
    let actual = after(actual, &steps);
    assert_eq!(actual.addresses, new.addresses);
    assert_eq!(actual.routes.len(), 2);
    assert!(actual.routes.iter().all(|r| r.destination == net("10.43.0.0/16")));
}

#[test]
fn blackholes_of_another_daemon_stay() {
    let mut actual = started();
    actual.routes.push(main("10.99.0.0/16").blackhole());
    assert_eq!(plan(&desired(), &actual, &owned(&desired())), []);
    let left = after(actual.clone(), &removal(&actual, &owned(&desired())));
    assert_eq!(left.routes, [main("10.99.0.0/16").blackhole()]);
}

#[test]
fn every_step_that_changes_something_can_be_taken_back() {
    let fresh = Actual { device: Some(device()), ..Actual::default() };
    let steps = plan(&desired(), &fresh, &Owned::default());
    let undo: Vec<_> = steps.iter().rev().filter_map(Operation::inverse).collect();
    let back = after(after(fresh.clone(), &steps), &undo);
    assert_eq!((back.addresses, back.routes, back.device.map(|d| d.mtu)), (vec![], vec![], Some(1500)));
}

const ROAD: Road = Road { mark: 51_820, table: 51_821, stop: 51_822, priority: FIRST_PRIORITY };

/// Everything goes into the tunnel.
fn everything() -> Desired {
    let full = FullTunnel { road: ROAD, device: "adit0".into(), port: 7777 };
    let mut desired = Desired { full: Some(full), ..desired() };
    let table = ROAD.table;
    desired.prefixes.extend(["0.0.0.0/0", "::/0"].map(|all| Prefix { net: net(all), table }));
    desired
}

fn surrounded() -> Actual {
    let networks = ["192.168.1.0/24", "172.17.0.0/16"].map(|text| Nearby::Network(net(text)));
    let others = [Nearby::Tunnel(net("203.0.113.0/25")), Nearby::Blackhole(net("198.51.100.0/24"))];
    // Ours stand in the main table too, and are not nearby.
    let nearby = networks.into_iter().chain(others).chain([Nearby::Blackhole(net("10.42.7.0/24"))]).collect();
    Actual { device: Some(device()), nearby, ..Actual::default() }
}

#[test]
fn a_full_tunnel_has_a_table_of_its_own_and_leaves_the_main_one_to_what_is_near() {
    let (desired, fresh) = (everything(), surrounded());
    let mut owned = owned(&desired);
    let steps = plan(&desired, &fresh, &owned);
    let actual = after(fresh, &steps);
    assert_eq!(plan(&desired, &actual, &owned), []);
    let of_kind = |kind| {
        let ours = actual.routes.iter().filter(move |r| r.table == ROAD.table && r.kind == kind);
        ours.map(|r| r.destination.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of_kind(RouteKind::Unicast), ["0.0.0.0/0", "::/0"]);
    assert_eq!(of_kind(RouteKind::Blackhole), ["0.0.0.0/0", "::/0"]);
    let near = ["172.17.0.0/16", "192.168.1.0/24", "198.51.100.0/24", "203.0.113.0/25"];
    assert_eq!(of_kind(RouteKind::Throw), near);
    let rules: Vec<_> = actual.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "17301: not mark 0xca6c lookup 254 suppress 15",
            "17300: not mark 0xca6c lookup 51821",
            "17302: not mark 0xca6c lookup 51822",
            "17300: not mark 0xca6c lookup 51821",
            "17302: not mark 0xca6c lookup 51822",
        ]
    );
    let stops = actual.routes.iter().filter(|r| r.table == ROAD.stop && r.kind == RouteKind::Blackhole);
    assert_eq!(stops.count(), 2);
    // Rules come last, filters and blackholes first.
    let first_rule = steps.iter().position(|s| matches!(s, Operation::AddRule(_))).unwrap();
    assert!(steps[first_rule..].iter().all(|s| matches!(s, Operation::AddRule(_))));
    assert!(matches!(steps[..2], [Operation::SetValidMark(true), Operation::ReplaceFilters(_, false)]));
    // What is near changes, and with it all that speaks of it.
    let moved = Actual { nearby: vec![Nearby::Network(net("192.168.2.0/24"))], ..actual };
    let steps = plan(&desired, &moved, &owned);
    let moved = after(moved, &steps);
    assert_eq!(plan(&desired, &moved, &owned), []);
    assert_eq!(moved.routes.iter().filter(|r| r.kind == RouteKind::Throw).count(), 1);
    assert!(moved.rules.iter().any(|rule| rule.suppress == Some(23)));
    assert!(!moved.rules.iter().any(|rule| rule.suppress == Some(15)));
    // A configuration without it takes all of it away.
    let steps = plan(&self::desired(), &moved, &owned);
    owned.keep(&self::desired());
    let left = after(moved, &steps);
    assert_eq!(plan(&self::desired(), &left, &owned), []);
    assert!(left.routes.iter().all(|r| r.table == MAIN));
    assert_eq!((left.rules, left.filters, left.valid_mark), (vec![], vec![], false));
}

#[test]
fn what_is_taken_from_a_full_tunnel_comes_back_before_packets_find_out() {
    let (desired, fresh) = (everything(), surrounded());
    let owned = owned(&desired);
    let actual = after(fresh.clone(), &plan(&desired, &fresh, &owned));
    let mut broken = actual.clone();
    broken.rules.remove(1);
    broken.filters.pop();
    broken.routes.retain(|r| r.table == MAIN);
    broken.valid_mark = false;
    let steps = plan(&desired, &broken, &owned);
    let whole = after(broken, &steps);
    assert_eq!(plan(&desired, &whole, &owned), []);
    assert_eq!(whole.filters, actual.filters);
}

#[test]
fn another_tunnels_rules_and_tables_are_not_ours() {
    let (desired, fresh) = (everything(), surrounded());
    let owned = owned(&desired);
    let mut actual = after(fresh.clone(), &plan(&desired, &fresh, &owned));
    let mut other = desired.clone();
    other.full.as_mut().unwrap().road = Road { mark: 9, table: 9, stop: 10, priority: FIRST_PRIORITY + PRIORITY_STEP };
    other.prefixes = vec![Prefix { net: net("0.0.0.0/0"), table: 9 }];
    let theirs = other.full.as_ref().unwrap().layout(&other, &actual, &Owned::default());
    actual.rules.extend(theirs.rules.iter().cloned());
    let routes: Vec<_> = theirs.routes.iter().cloned().chain([other.prefixes[0].blackhole()]).collect();
    actual.routes.extend(routes.iter().cloned());
    assert_eq!(plan(&desired, &actual, &owned), []);
    let left = after(actual.clone(), &removal(&actual, &owned));
    assert_eq!((left.rules, left.routes, left.filters), (theirs.rules, routes, vec![]));
    // Their rule goes by a mark, which reverse-path filters must go on heeding.
    assert!(left.valid_mark);
}

#[test]
fn a_full_tunnel_can_be_taken_back_step_by_step() {
    let (desired, fresh) = (everything(), surrounded());
    let steps = plan(&desired, &fresh, &owned(&desired));
    let undo: Vec<_> = steps.iter().rev().filter_map(Operation::inverse).collect();
    let back = after(after(fresh, &steps), &undo);
    assert_eq!((back.routes, back.rules, back.filters, back.valid_mark), (vec![], vec![], vec![], false));
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn territory() -> Territory {
    Territory {
        networks: nets(&["10.42.0.0/16", "fd42::/48"]),
        subnets: nets(&["10.42.7.0/24", "fd42:0:0:7::/64"]),
        masquerade: true,
        forward: true,
        clients: Vec::new(),
    }
}

/// A node with a route per network, and none per peer.
fn node() -> Desired {
    let territory = territory();
    // Another node, a phone in our own subnet, one of another node's, and a site beyond.
    let peers = nets(&["10.42.8.0/24", "fd42:0:0:8::/64", "10.42.7.200/32", "10.42.8.200/32", "192.168.9.0/24"]);
    Desired {
        mtu: 1420,
        addresses: territory.addresses().collect(),
        prefixes: prefixes(Some(&territory), peers.into_iter(), |_| Some(MAIN)),
        full: None,
        device: "adit0".into(),
        territory: Some(territory),
        bridge: None,
        frames: false,
    }
}

#[test]
fn a_network_has_one_route_however_many_nodes_it_has() {
    let desired = node();
    assert_eq!(desired.addresses, nets(&["10.42.7.0/32", "fd42:0:0:7::/128"]));
    let routes: Vec<_> = desired.prefixes.iter().map(|prefix| prefix.net).collect();
    assert_eq!(routes, nets(&["10.42.0.0/16", "fd42::/48", "10.42.7.200/32", "192.168.9.0/24"]));
    let fresh = Actual { device: Some(device()), ..Actual::default() };
    let actual = after(fresh.clone(), &plan(&desired, &fresh, &owned(&desired)));
    assert_eq!(plan(&desired, &actual, &owned(&desired)), []);
    for kind in [RouteKind::Unicast, RouteKind::Blackhole] {
        assert_eq!(actual.routes.iter().filter(|route| route.kind == kind).count(), 4);
    }
    // A table of its own, or no routes at all, as the configuration says.
    let other = prefixes(Some(&territory()), std::iter::empty(), |_| Some(7));
    assert!(other.len() == 2 && other.iter().all(|prefix| prefix.table == 7));
    assert_eq!(prefixes(Some(&territory()), std::iter::empty(), |_| None), []);
}

#[test]
fn what_a_network_filters_is_one_whole_with_what_a_full_tunnel_does() {
    let mut desired = everything();
    let alone = filters(
        &desired,
        Some(&desired.full.as_ref().unwrap().layout(&desired, &surrounded(), &Owned::default()).filters),
    );
    desired.territory = Some(territory());
    let (fresh, owned) = (surrounded(), owned(&desired));
    let actual = after(fresh.clone(), &plan(&desired, &fresh, &owned));
    assert_eq!(plan(&desired, &actual, &owned), []);
    let chains: HashSet<_> = actual.filters.iter().map(|(chain, _)| chain.as_str()).collect();
    assert_eq!(chains, ["arrive", "mark", "leave", "guard", "forward", "postrouting"].into());
    assert!(actual.filters.len() > what_is_told_of(&alone).len());
    // Each of them goes for itself; what is left is told apart from what was.
    for (full, territory) in [(None, desired.territory.clone()), (desired.full.clone(), None), (None, None)] {
        let other = Desired { full, territory, ..desired.clone() };
        let moved = after(actual.clone(), &plan(&other, &actual, &owned));
        assert_eq!(moved.filters.is_empty(), other.full.is_none() && other.territory.is_none());
        assert!(!moved.filters.iter().any(|rule| actual.filters.contains(rule)));
        let rest: Vec<_> = plan(&other, &moved, &owned).into_iter().collect();
        assert_eq!(rest, []);
    }
    let left = after(actual.clone(), &removal(&actual, &owned));
    assert!(left.filters.is_empty());
}

#[test]
fn a_network_without_either_wish_has_no_filters() {
    let without = Territory { masquerade: false, forward: false, ..territory() };
    assert_eq!(without.filters("adit0"), None);
    let chains = |territory: Territory| {
        territory.filters("adit0").unwrap().chains.into_iter().map(|chain| chain.name).collect::<Vec<_>>()
    };
    assert_eq!(chains(Territory { masquerade: false, ..territory() }), ["guard", "forward"]);
    assert_eq!(chains(Territory { forward: false, ..territory() }), ["guard", "postrouting"]);
    // Another subnet is another whole, though no rule names it.
    let other = Territory { subnets: nets(&["10.42.9.0/24"]), ..territory() };
    let told = |territory| what_is_told_of(&filters(&Desired { territory: Some(territory), ..desired() }, None));
    assert_ne!(told(other), told(territory()));
}

#[test]
fn nothing_is_forwarded_before_it_is_guarded() {
    let desired = node();
    let values = [(Setting::Forward4("adit0".into()), 0)].into();
    let switches = Switches { values, ways: [vec!["adit0".into()], vec![]], ..Switches::default() };
    let fresh = Actual { device: Some(device()), switches: Some(switches), ..Actual::default() };
    let mut owned = Owned::default();
    owned.claim(&desired, &fresh);
    let steps = plan(&desired, &fresh, &owned);
    let at = |is: fn(&Operation) -> bool| steps.iter().position(is).unwrap();
    assert!(at(|s| matches!(s, Operation::ReplaceFilters(..))) < at(|s| matches!(s, Operation::Set(..))));
    let actual = after(fresh.clone(), &steps);
    let removed = after(actual.clone(), &removal(&actual, &owned));
    assert_eq!(removed.switches, fresh.switches);
    // Whoever did not look says nothing of it.
    let unseen = Actual { switches: None, ..actual };
    assert!(!plan(&desired, &unseen, &owned).iter().any(|step| matches!(step, Operation::Set(..))));
}

/// A port of a bridge.
fn port() -> Desired {
    let bridge = Bridge { name: "br0".into(), addresses: nets(&["10.77.0.1/24"]), mac: link_address("key", "br0") };
    Desired { addresses: Vec::new(), prefixes: Vec::new(), bridge: Some(bridge), frames: true, ..desired() }
}

#[test]
fn a_bridge_that_is_not_there_is_made_and_goes_again_unless_others_use_it() {
    let (desired, fresh) = (port(), Actual { device: Some(device()), ..Actual::default() });
    let owned = owned(&desired);
    assert_eq!(owned.bridge.as_deref(), Some("br0"));
    let actual = after(fresh.clone(), &plan(&desired, &fresh, &owned));
    let bridge = actual.bridge.as_ref().unwrap();
    assert!(bridge.link.up && bridge.addresses == nets(&["10.77.0.1/24"]));
    assert_eq!(actual.device.as_ref().unwrap().controller, Some(9));
    assert_eq!(plan(&desired, &actual, &owned), []);
    // Somebody takes the port out, sets the bridge down and gives it another address.
    let mut changed = actual.clone();
    changed.device.as_mut().unwrap().controller = None;
    changed.bridge.as_mut().unwrap().link.up = false;
    changed.bridge.as_mut().unwrap().addresses = nets(&["192.0.2.1/24", "fe80::1/64"]);
    let mended = after(changed.clone(), &plan(&desired, &changed, &owned));
    assert_eq!(mended.bridge.unwrap().addresses, nets(&["fe80::1/64", "10.77.0.1/24"]));
    assert_eq!(mended.device.unwrap().controller, Some(9));
    assert_eq!(removal(&actual, &owned), [Operation::DeleteBridge("br0".into())]);
    let mut shared = actual;
    shared.bridge.as_mut().unwrap().others = 1;
    assert_eq!(removal(&shared, &owned), []);
}

#[test]
fn of_a_bridge_that_was_there_only_the_port_is_ours() {
    let mut desired = port();
    desired.bridge.as_mut().unwrap().addresses.clear();
    let link = Link { index: 9, name: "br0".into(), kind: Some("bridge".into()), up: false, ..device() };
    let bridge = Some(ActualBridge { link, addresses: nets(&["192.0.2.1/24"]), others: 3, ours: false });
    let there = Actual { device: Some(device()), bridge, ..Actual::default() };
    let mut owned = Owned::default();
    owned.claim_bridge(&desired, &there);
    assert_eq!(owned.bridge, None);
    let steps = plan(&desired, &there, &owned);
    assert_eq!(steps.last(), Some(&Operation::Join("br0".into())));
    assert!(!steps.iter().any(|step| matches!(step, Operation::SetBridgeUp(_) | Operation::DeleteBridgeAddress(..))));
    let actual = after(there, &steps);
    assert_eq!((plan(&desired, &actual, &owned), removal(&actual, &owned)), (vec![], vec![]));
}

#[test]
fn a_card_among_others_keeps_its_link_local_address_and_a_port_gets_none() {
    let fresh = Actual { device: Some(device()), ..Actual::default() };
    for (desired, quiet) in [(desired(), true), (port(), true), (Desired { bridge: None, ..port() }, false)] {
        let steps = plan(&desired, &fresh, &owned(&desired));
        assert_eq!(steps.contains(&Operation::QuietIpv6), quiet);
    }
    let (one, other) = (link_address("key", "adit0"), link_address("key", "br0"));
    assert!(one != other && one[0] & 3 == 2 && one == link_address("key", "adit0"));
}
