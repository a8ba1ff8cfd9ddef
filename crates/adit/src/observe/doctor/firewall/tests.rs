use linux::nft::{Decision, Element, Expression, ListedBase, ListedChain, ListedRule, ListedSet, ListedTable};

use super::*;

/// A chain of rules; with a hook, one that packets enter.
pub(crate) fn chain(
    table: (Family, &str),
    name: &str,
    hook: Option<(u32, bool)>,
    rules: Vec<Vec<Expression>>,
) -> ListedChain {
    let base =
        hook.map(|(hook, drops)| ListedBase { kind: "filter".into(), hook, priority: 0, drops, devices: Vec::new() });
    let rules =
        rules.into_iter().zip(1..).map(|(program, handle)| ListedRule { handle, comment: String::new(), program });
    ListedChain { family: table.0, table: table.1.into(), name: name.into(), base, rules: rules.collect() }
}

/// Where a rule accepts UDP to a port, or drops it.
pub(crate) fn udp_to(port: u16, decision: Decision) -> Vec<Expression> {
    vec![
        Expression::Meta { key: 16, to: 1 },
        Expression::Compare { from: 1, operation: 0, value: vec![17] },
        Expression::Payload { base: 2, offset: 2, length: 2, to: 1 },
        Expression::Compare { from: 1, operation: 0, value: port.to_be_bytes().to_vec() },
        Expression::Decide(decision),
    ]
}

fn decide(decision: Decision) -> Vec<Expression> {
    vec![Expression::Decide(decision)]
}

const INET: (Family, &str) = (Family::Inet, "filter");

fn datagram() -> Packet {
    Packet {
        v6: false,
        established: false,
        input: Some(("eth0".into(), 2)),
        output: None,
        from: Some("192.0.2.2".parse().unwrap()),
        to: None,
        protocol: 17,
        source_port: Some(7777),
        port: Some(7777),
        icmp: None,
    }
}

fn end(chains: Vec<ListedChain>, sets: Vec<ListedSet>) -> Option<End> {
    walk(&Listing { chains, sets, ..Listing::default() }, &datagram(), &[Place::Input])
}

#[test]
fn a_policy_or_a_rule_ends_a_packet_and_an_accept_saves_it() {
    let input = |drops, rules| vec![chain(INET, "input", Some((1, drops)), rules)];
    assert_eq!(end(input(false, vec![]), vec![]), None);
    let by_policy = end(input(true, vec![]), vec![]).unwrap();
    assert_eq!((by_policy.rule.clone(), by_policy.certain), (None, true));
    assert!(place(&by_policy).contains("the policy is drop"));
    assert_eq!(end(input(true, vec![udp_to(7777, Decision::Accept)]), vec![]), None);
    assert!(end(input(true, vec![udp_to(7778, Decision::Accept)]), vec![]).is_some());
    let by_rule = end(input(false, vec![udp_to(7777, Decision::Drop)]), vec![]).unwrap();
    assert_eq!(by_rule.rule, Some((1, String::new())));
    // A chain of another place, and of the other family, is not passed.
    assert_eq!(end(vec![chain(INET, "forward", Some((2, true)), vec![])], vec![]), None);
    assert_eq!(end(vec![chain((Family::Ip6, "filter"), "INPUT", Some((1, true)), vec![])], vec![]), None);
}

#[test]
fn a_table_that_is_switched_off_ends_nothing() {
    let ends = |dormant| {
        let table = ListedTable { family: Family::Inet, name: "filter".into(), dormant, owned: false };
        let chains = vec![chain(INET, "input", Some((1, true)), vec![])];
        let listing = Listing { tables: vec![table], chains, sets: vec![] };
        walk(&listing, &datagram(), &[Place::Input]).is_some()
    };
    assert_eq!((ends(false), ends(true)), (true, false));
}

#[test]
fn other_chains_are_followed_and_come_back() {
    let chains = |inner: Vec<Vec<Expression>>| {
        let base = chain(
            INET,
            "input",
            Some((1, true)),
            vec![decide(Decision::Jump("mine".into())), decide(Decision::Accept)],
        );
        vec![base, chain(INET, "mine", None, inner)]
    };
    assert_eq!(end(chains(vec![]), vec![]), None);
    assert_eq!(end(chains(vec![decide(Decision::Return), decide(Decision::Drop)]), vec![]), None);
    let dropped = end(chains(vec![decide(Decision::Drop)]), vec![]).unwrap();
    assert_eq!((dropped.chain.as_str(), dropped.base.as_str()), ("mine", "input"));
    // One that leads to itself ends.
    let endless = chain(INET, "input", Some((1, true)), vec![decide(Decision::Jump("input".into()))]);
    assert!(end(vec![endless], vec![]).is_some());
}

#[test]
fn what_depends_on_the_unknown_is_not_certain() {
    let maybe = |decision| vec![Expression::Other("limit".into()), Expression::Decide(decision)];
    let input = |drops, rules| vec![chain(INET, "input", Some((1, drops)), rules)];
    assert!(!end(input(true, vec![maybe(Decision::Accept)]), vec![]).unwrap().certain);
    assert!(end(input(true, vec![maybe(Decision::Drop)]), vec![]).unwrap().certain);
    assert_eq!(end(input(false, vec![maybe(Decision::Drop)]), vec![]), None, "a drop that may be is none");
}

#[test]
fn sets_and_maps_are_looked_up() {
    let element = |key: u16, ends, decision| Element { key: key.to_be_bytes().to_vec(), last: None, ends, decision };
    let lookup = |to| {
        vec![
            Expression::Payload { base: 2, offset: 2, length: 2, to: 1 },
            Expression::Lookup { set: "s".into(), from: 1, to, inverted: false },
            Expression::Decide(Decision::Accept),
        ]
    };
    let set = |elements| vec![ListedSet { family: Family::Inet, table: "filter".into(), name: "s".into(), elements }];
    let input = |to| vec![chain(INET, "input", Some((1, true)), vec![lookup(to)])];
    for (elements, passes) in [
        (vec![element(53, false, None), element(7777, false, None)], true),
        (vec![element(53, false, None)], false),
        (vec![element(7000, false, None), element(8000, true, None)], true),
        (vec![element(7000, false, None), element(7777, true, None)], false),
        (vec![element(7000, false, None), element(7777, true, None), element(7777, false, None)], true),
        (vec![], false),
    ] {
        assert_eq!(end(input(None), set(Some(elements.clone()))).is_none(), passes, "{elements:?}");
    }
    let map = set(Some(vec![element(7777, false, Some(Decision::Accept))]));
    assert_eq!(end(input(Some(0)), map), None);
    // A set that was not read may hold anything.
    assert!(!end(input(None), set(None)).unwrap().certain);
}

#[test]
fn owners_are_known_by_their_chains_and_told_in_their_language() {
    let listing = |table: (Family, &str), names: &[&str]| {
        let chains = names.iter().zip([true, false, false]).map(|(name, base)| {
            let hook = match *name {
                "INPUT" | "input" => 1,
                _ => 2,
            };
            chain(table, name, base.then_some((hook, true)), vec![])
        });
        Listing { chains: chains.collect(), ..Listing::default() }
    };
    let ip = (Family::Ip, "filter");
    for (listing, owner, first) in [
        (listing(ip, &["FORWARD", "DOCKER-USER"]), Owner::Docker, "iptables -I DOCKER-USER -i a -o b -j ACCEPT"),
        (listing(ip, &["FORWARD", "ufw-user-forward"]), Owner::Ufw, "ufw route allow in on a out on b"),
        (listing(ip, &["FORWARD"]), Owner::Iptables, "iptables -I FORWARD -i a -o b -j ACCEPT"),
        (listing((Family::Ip6, "filter"), &["FORWARD"]), Owner::Iptables, "ip6tables -I FORWARD"),
        (listing(INET, &["forward"]), Owner::Nft, "nft insert rule inet filter forward iifname a oifname b accept"),
        (listing((Family::Inet, "firewalld"), &["filter_FORWARD"]), Owner::Firewalld, "firewall-cmd --permanent"),
    ] {
        let v6 = listing.chains[0].family == Family::Ip6;
        let packet = Packet { v6, output: Some(("b".into(), 3)), ..datagram() };
        let end = walk(&listing, &packet, &[Place::Forward]).unwrap();
        assert_eq!(Owner::of(&end, &listing), owner);
        assert!(commands(&end, owner, Pass::Between("a", "b"))[0].starts_with(first), "{owner:?}");
    }
}
