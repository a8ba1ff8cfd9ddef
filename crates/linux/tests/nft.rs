//! Rule sets against the real kernel: as the `nft` program shows them, and as packets find them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ipnet::IpNet;
use linux::netlink::{Netlink, Route, VethEnd};
use linux::netns::NetNs;
use linux::nft::{
    Action, AddressType, Base, Chain, ChainKind, ConnectionState, Decision, Expression, Family, Header, Hook, Match,
    Mss, Nft, Policy, Rejection, Rule, Ruleset, Set, Transport,
};
use linux::sysctl;
use support::{fresh, wait_for};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base { kind, hook, priority, device: None, policy: Policy::Accept })
}

fn chain(name: &str, base: Option<Base>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), base, rules }
}

fn table(family: Family, chains: Vec<Chain>) -> Ruleset {
    Ruleset { family, table: "adit".into(), sets: vec![], chains }
}

/// What the `nft` program shows of the table, line by line, without indentation.
fn shown(namespace: &NetNs, family: &str) -> Vec<String> {
    let output =
        namespace.run(|| Command::new("nft").args(["list", "table", family, "adit"]).output().unwrap()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim().to_owned()).collect()
}

/// Checks that ours is to the `nft` program what it makes of `expected` itself: one of its rules for each of ours, in order.
fn check_shown(ruleset: &Ruleset, expected: &[&str]) {
    let family = ruleset.family.to_string();
    let (ours, mut netlink) = fresh();
    netlink.create_bridge("port0", None).unwrap();
    Nft::open_in(&ours).unwrap().apply(ruleset).unwrap();

    let (theirs, mut netlink) = fresh();
    netlink.create_bridge("port0", None).unwrap();
    let mut empty = ruleset.clone();
    empty.chains.iter_mut().for_each(|chain| chain.rules.clear());
    Nft::open_in(&theirs).unwrap().apply(&empty).unwrap();
    let chains = ruleset.chains.iter().flat_map(|chain| chain.rules.iter().map(|_| chain.name.as_str()));
    assert_eq!(chains.clone().count(), expected.len());
    for (chain, rule) in chains.zip(expected) {
        let command = format!("add rule {family} adit {chain} {rule} comment \"x\"");
        let status = theirs.run(|| Command::new("nft").arg(&command).status().unwrap()).unwrap();
        assert!(status.success(), "{command}");
    }
    let (ours, theirs) = (shown(&ours, &family), shown(&theirs, &family));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn every_match_is_shown_as_what_it_means() {
    let drop = |what: Match| Rule::new("x").when(what).then(Action::Drop);
    let rules = vec![
        drop(Match::InputDevice("veth*".into())),
        drop(Match::OutputDevice("eth0".into()).not()),
        drop(Match::Source(net("10.1.0.0/20"))),
        drop(Match::Destination(net("10.0.0.1/32")).not()),
        drop(Match::Source(net("fd00::/64"))),
        drop(Match::Destination(net("::/0"))),
        drop(Match::SourceIn("hosts".into())),
        drop(Match::DestinationIn("hosts6".into()).not()),
        drop(Match::SourceMac([2, 0, 0, 0, 0, 1])),
        drop(Match::DestinationMac([2, 0, 0, 0, 0, 2]).not()),
        drop(Match::EtherType(0x0806)),
        drop(Match::Protocol(47)),
        drop(Match::Protocol(17).not()),
        drop(Match::SourcePort(Transport::Tcp, 80..=80)),
        drop(Match::DestinationPort(Transport::Udp, 1000..=2000)),
        drop(Match::DestinationPort(Transport::Udp, 5..=7).not()),
        drop(Match::TcpSyn),
        drop(Match::Icmpv6Type(134)),
        drop(Match::Connection(ConnectionState::ESTABLISHED | ConnectionState::RELATED)),
        drop(Match::Connection(ConnectionState::INVALID).not()),
        drop(Match::Redirected),
        drop(Match::DestinationType(AddressType::Local)),
        drop(Match::WayBack),
        drop(Match::WayBack.not()),
        drop(Match::WayBackBy("eth0".into())),
        drop(Match::Mark(7, u32::MAX)),
        drop(Match::Mark(0x0a00, 0xff00).not()),
        drop(Match::Bytes { header: Header::Transport, offset: 8, value: vec![1, 2, 3, 4], mask: vec![] }),
    ];
    let hosts = Set {
        name: "hosts".into(),
        v6: false,
        prefixes: vec![net("10.0.0.0/24"), net("10.0.1.0/25"), net("192.168.0.0/16")],
    };
    let hosts6 = Set { name: "hosts6".into(), v6: true, prefixes: vec![net("fd00::/64")] };
    let ruleset = Ruleset {
        sets: vec![hosts, hosts6],
        ..table(Family::Inet, vec![chain("rules", base(ChainKind::Filter, Hook::Prerouting, 0), rules)])
    };
    check_shown(
        &ruleset,
        &[
            "iifname \"veth*\" drop",
            "oifname != \"eth0\" drop",
            "ip saddr 10.1.0.0/20 drop",
            "ip daddr != 10.0.0.1 drop",
            "ip6 saddr fd00::/64 drop",
            "meta nfproto ipv6 drop",
            "ip saddr @hosts drop",
            "ip6 daddr != @hosts6 drop",
            "ether saddr 02:00:00:00:00:01 drop",
            "ether daddr != 02:00:00:00:00:02 drop",
            "meta protocol arp drop",
            "meta l4proto gre drop",
            "meta l4proto != udp drop",
            "tcp sport 80 drop",
            "udp dport 1000-2000 drop",
            "udp dport != 5-7 drop",
            "tcp flags & (syn | rst) == syn drop",
            "icmpv6 type nd-router-advert drop",
            "ct state established,related drop",
            "ct state ! invalid drop",
            "ct status dnat drop",
            "fib daddr type local drop",
            "fib saddr . iif oif exists drop",
            "fib saddr . iif oif missing drop",
            "fib saddr oifname \"eth0\" drop",
            "meta mark 0x00000007 drop",
            "meta mark & 0x0000ff00 != 0x00000a00 drop",
            "@th,64,32 0x1020304 drop",
        ],
    );
}

#[test]
fn the_sets_are_shown_with_their_members() {
    let (namespace, _) = fresh();
    let set = Set {
        name: "hosts".into(),
        v6: false,
        prefixes: vec![net("10.0.0.0/24"), net("10.0.1.0/25"), net("192.168.0.0/16")],
    };
    let ruleset = Ruleset { sets: vec![set], ..table(Family::Ip, vec![]) };
    Nft::open_in(&namespace).unwrap().apply(&ruleset).unwrap();
    let text = shown(&namespace, "ip").join(" ");
    assert!(
        text.contains("type ipv4_addr flags interval elements = { 10.0.0.0-10.0.1.127, 192.168.0.0/16 }"),
        "{text}"
    );
}

#[test]
fn every_action_is_shown_as_what_it_does() {
    let all = |action: Action| Rule::new("x").then(action);
    let filter = vec![
        all(Action::Counter).then(Action::Accept),
        all(Action::Drop),
        all(Action::Return),
        all(Action::Jump("other".into())),
        all(Action::Goto("other".into())),
        all(Action::Reject(Rejection::PortUnreachable)),
        all(Action::Reject(Rejection::Prohibited)),
        Rule::new("x").when(Match::Protocol(6)).then(Action::Reject(Rejection::TcpReset)),
        all(Action::SetMark(7, u32::MAX)),
        all(Action::SetMark(0x0a00, 0xff00)),
        Rule::new("x").when(Match::TcpSyn).then(Action::ClampMss(Mss::Fixed(1300))),
        Rule::new("x").when(Match::TcpSyn).then(Action::ClampMss(Mss::PathMtu)),
    ];
    let before = vec![all(Action::NoTrack)];
    let destination = vec![
        Rule::new("x")
            .when(Match::DestinationPort(Transport::Tcp, 80..=80))
            .then(Action::DestinationNat(ip("10.0.0.5"), Some(8080))),
        all(Action::DestinationNat(ip("fd00::5"), None)),
    ];
    let source = vec![
        Rule::new("x").when(Match::Source(net("10.0.0.0/24"))).then(Action::Masquerade { random_fully: true }),
        all(Action::Masquerade { random_fully: false }),
        all(Action::SourceNat(ip("192.0.2.1"))),
    ];
    let ruleset = table(
        Family::Inet,
        vec![
            chain("other", None, vec![]),
            chain("filter", base(ChainKind::Filter, Hook::Forward, 0), filter),
            chain("before", base(ChainKind::Filter, Hook::Prerouting, -300), before),
            chain("destination", base(ChainKind::Nat, Hook::Prerouting, -100), destination),
            chain("source", base(ChainKind::Nat, Hook::Postrouting, 100), source),
        ],
    );
    check_shown(
        &ruleset,
        &[
            "counter packets 0 bytes 0 accept",
            "drop",
            "return",
            "jump other",
            "goto other",
            "reject",
            "reject with icmpx admin-prohibited",
            "meta l4proto tcp reject with tcp reset",
            "meta mark set 0x00000007",
            "meta mark set meta mark & 0xffff0aff | 0x00000a00",
            "tcp flags & (syn | rst) == syn tcp option maxseg size set 1300",
            "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",
            "notrack",
            "tcp dport 80 meta nfproto ipv4 dnat ip to 10.0.0.5:8080",
            "meta nfproto ipv6 dnat ip6 to fd00::5",
            "ip saddr 10.0.0.0/24 masquerade fully-random",
            "masquerade",
            "meta nfproto ipv4 snat ip to 192.0.2.1",
        ],
    );
}

#[test]
fn the_other_families_say_the_same_in_their_way() {
    let rules = vec![
        Rule::new("x")
            .when(Match::SourceMac([2, 0, 0, 0, 0, 1]))
            .when(Match::Source(net("10.0.0.1/32")))
            .then(Action::Accept),
        Rule::new("x").when(Match::EtherType(0x0806)).then(Action::Drop),
    ];
    let expected = ["ether saddr 02:00:00:00:00:01 ip saddr 10.0.0.1 accept", "meta protocol arp drop"];
    check_shown(
        &table(Family::Bridge, vec![chain("c", base(ChainKind::Filter, Hook::Forward, 0), rules.clone())]),
        &expected,
    );
    let ingress = Base { device: Some("port0".into()), ..base(ChainKind::Filter, Hook::Ingress, 0).unwrap() };
    check_shown(
        &table(Family::Netdev, vec![chain("c", Some(ingress), rules)]),
        &["ether saddr 02:00:00:00:00:01 ip saddr 10.0.0.1 accept", "meta protocol arp drop"],
    );
    let refuse =
        vec![Rule::new("x").when(Match::Source(net("10.0.0.0/8"))).then(Action::Reject(Rejection::PortUnreachable))];
    check_shown(
        &table(Family::Ip, vec![chain("c", base(ChainKind::Filter, Hook::Input, 0), refuse)]),
        &["ip saddr 10.0.0.0/8 reject"],
    );
    let refuse = vec![Rule::new("x").when(Match::Source(net("fd00::/8"))).then(Action::Reject(Rejection::Prohibited))];
    check_shown(
        &table(Family::Ip6, vec![chain("c", base(ChainKind::Filter, Hook::Input, 0), refuse)]),
        &["ip6 saddr fd00::/8 reject with icmpv6 admin-prohibited"],
    );
}

#[test]
fn a_refused_part_is_named_and_nothing_has_changed() {
    let (namespace, _) = fresh();
    let mut nft = Nft::open_in(&namespace).unwrap();
    let filter = || base(ChainKind::Filter, Hook::Input, 0);
    nft.apply(&table(Family::Inet, vec![chain("input", filter(), vec![Rule::new("first").then(Action::Counter)])]))
        .unwrap();

    let rules = vec![Rule::new("good").then(Action::Accept), Rule::new("bad").then(Action::Jump("nowhere".into()))];
    let error = nft.apply(&table(Family::Inet, vec![chain("input", filter(), rules)])).unwrap_err();
    assert_eq!(error.operation(), "add rule 2 (bad) to chain input of table inet adit");
    assert_eq!(error.errno(), Some(libc::ENOENT));
    let masquerade = vec![Rule::new("elsewhere").then(Action::Masquerade { random_fully: false })];
    let error = nft.apply(&table(Family::Inet, vec![chain("input", filter(), masquerade)])).unwrap_err();
    assert_eq!(error.operation(), "add rule 1 (elsewhere) to chain input of table inet adit");
    let nat = base(ChainKind::Nat, Hook::Forward, 0);
    let error = nft.apply(&table(Family::Inet, vec![chain("wrong", nat, vec![])])).unwrap_err();
    assert_eq!(error.operation(), "add chain wrong of table inet adit");

    // What we find ourselves.
    let both = Rule::new("both").when(Match::Source(net("10.0.0.0/8"))).when(Match::Destination(net("fd00::/8")));
    let error = nft.apply(&table(Family::Inet, vec![chain("input", filter(), vec![both])])).unwrap_err();
    assert!(
        error.to_string().contains("rule 1 (both) to chain input") && error.to_string().contains("both IPv4 and IPv6"),
        "{error}"
    );
    for wrong in [
        Match::InputDevice("a name that is too long".into()),
        Match::Source(net("0.0.0.0/0")).not(),
        Match::SourceIn("nothing".into()),
        Match::Bytes { header: Header::Link, offset: 0, value: vec![], mask: vec![] },
        Match::Mark(1, 1).not().not(),
    ] {
        let rule = Rule::new("wrong").when(wrong);
        assert_eq!(
            nft.apply(&table(Family::Inet, vec![chain("input", filter(), vec![rule])])).unwrap_err().errno(),
            Some(libc::EINVAL)
        );
    }
    let unnamed = table(Family::Inet, vec![chain("", None, vec![])]);
    assert_eq!(nft.apply(&unnamed).unwrap_err().errno(), Some(libc::EINVAL));

    let installed = nft.rules(Family::Inet, "adit").unwrap();
    assert_eq!(installed.len(), 1);
    assert_eq!(
        (installed[0].chain.as_str(), installed[0].comment.as_str(), installed[0].counter),
        ("input", "first", Some((0, 0)))
    );
}

#[test]
fn a_table_is_replaced_and_deleted_and_others_are_left_alone() {
    let (namespace, _) = fresh();
    let mut nft = Nft::open_in(&namespace).unwrap();
    let foreign = "table inet foreign { chain c { type filter hook input priority 0; counter accept; }; }";
    assert!(namespace.run(|| Command::new("nft").arg(foreign).status().unwrap()).unwrap().success());
    assert!(!nft.exists(Family::Inet, "adit").unwrap());
    assert_eq!(nft.delete(Family::Inet, "adit").unwrap_err().errno(), Some(libc::ENOENT));
    assert_eq!(nft.rules(Family::Inet, "adit").unwrap(), []);
    for round in 0..3 {
        let rules = (0..=round).map(|number| Rule::new(format!("rule {number}")).then(Action::Counter)).collect();
        nft.apply(&table(Family::Inet, vec![chain("c", base(ChainKind::Filter, Hook::Input, 0), rules)])).unwrap();
        let comments: Vec<_> = nft.rules(Family::Inet, "adit").unwrap().into_iter().map(|rule| rule.comment).collect();
        assert_eq!(comments, (0..=round).map(|number| format!("rule {number}")).collect::<Vec<_>>());
    }
    nft.delete(Family::Inet, "adit").unwrap();
    assert!(!nft.exists(Family::Inet, "adit").unwrap());
    assert!(nft.exists(Family::Inet, "foreign").unwrap());
}

#[test]
fn a_table_is_made_where_there_is_none_and_one_that_is_there_stays() {
    let (namespace, _) = fresh();
    let mut nft = Nft::open_in(&namespace).unwrap();
    let with = |comment: &str| {
        let rules = vec![Rule::new(comment).then(Action::Counter)];
        table(Family::Inet, vec![chain("c", base(ChainKind::Filter, Hook::Input, 0), rules)])
    };
    nft.create(&with("first")).unwrap();
    assert_eq!(nft.create(&with("second")).unwrap_err().errno(), Some(libc::EEXIST));
    let rules = nft.rules(Family::Inet, "adit").unwrap();
    assert_eq!(rules.iter().map(|rule| rule.comment.as_str()).collect::<Vec<_>>(), ["first"]);
}

#[test]
fn a_large_rule_set_goes_in_at_once() {
    let (namespace, _) = fresh();
    let mut nft = Nft::open_in(&namespace).unwrap();
    // Every other /24, so that none touch.
    let prefixes = (0..5000u32).map(|i| IpNet::new(IpAddr::V4((0x0a00_0000 + (i << 9)).into()), 24).unwrap()).collect();
    let rules = (0..1000)
        .map(|number| Rule::new(format!("rule {number}")).when(Match::SourceIn("many".into())).then(Action::Counter))
        .collect();
    let ruleset = Ruleset {
        sets: vec![Set { name: "many".into(), v6: false, prefixes }],
        ..table(Family::Inet, vec![chain("c", base(ChainKind::Filter, Hook::Input, 0), rules)])
    };
    nft.apply(&ruleset).unwrap();
    assert_eq!(nft.rules(Family::Inet, "adit").unwrap().len(), 1000);
    let elements = shown(&namespace, "inet").iter().map(|line| line.matches("/24").count()).sum::<usize>();
    assert_eq!(elements, 5000);
}

/// Three namespaces in a row: `inside` (10.0.0.2) — `router` (10.0.0.1, 192.0.2.1) — `outside` (192.0.2.2, no route back).
struct Row {
    inside: NetNs,
    router: NetNs,
    outside: NetNs,
}

fn row() -> Row {
    let (inside, mut inside_netlink) = fresh();
    let (router, mut router_netlink) = fresh();
    let (outside, mut outside_netlink) = fresh();
    let end = |name: &'static str, netns| VethEnd { name, netns: Some(netns), ..VethEnd::default() };
    router_netlink.create_veth(&end("in", &router), &end("eth0", &inside)).unwrap();
    router_netlink.create_veth(&end("out", &router), &end("eth0", &outside)).unwrap();
    let up = |netlink: &mut Netlink, name: &str, address: &str| {
        let index = netlink.existing_link(name).unwrap().index;
        netlink.add_address(index, net(address), true).unwrap();
        netlink.set_up(index, true).unwrap();
    };
    up(&mut inside_netlink, "eth0", "10.0.0.2/24");
    up(&mut router_netlink, "in", "10.0.0.1/24");
    up(&mut router_netlink, "out", "192.0.2.1/24");
    up(&mut outside_netlink, "eth0", "192.0.2.2/24");
    let default = Route { gateway: Some(ip("10.0.0.1")), ..Route::new(net("0.0.0.0/0")) };
    wait_for("the way out", || inside_netlink.replace_route(&default).ok());
    router.run(|| sysctl::set(&["net", "ipv4", "ip_forward"], "1")).unwrap().unwrap();
    Row { inside, router, outside }
}

#[test]
fn arp_is_marked_on_its_way_in() {
    let mark = Rule::new("x").when(Match::InputDevice("port0".into()).not()).then(Action::SetMark(7, u32::MAX));
    let input = chain("input", base(ChainKind::Filter, Hook::Input, 0), vec![mark]);
    let ruleset = table(Family::Arp, vec![input]);
    check_shown(&ruleset, &["iifname != \"port0\" meta mark set 7"]);
    let address = Rule::new("x").when(Match::Source(net("10.0.0.0/8"))).then(Action::Drop);
    let refused = table(Family::Arp, vec![chain("input", None, vec![address])]);
    let (namespace, _) = fresh();
    assert!(Nft::open_in(&namespace).unwrap().apply(&refused).unwrap_err().to_string().contains("no IP packets"));
}

/// Sends datagrams from inside until one arrives outside; answers where it seems to come from.
fn arrives(row: &Row, port: u16) -> Option<IpAddr> {
    let receiver = row.outside.run(|| UdpSocket::bind(("192.0.2.2", port))).unwrap().unwrap();
    let sender = row.inside.run(|| UdpSocket::bind("10.0.0.2:0")).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    (0..5).find_map(|_| {
        let _ = sender.send_to(b"x", ("192.0.2.2", port));
        receiver.recv_from(&mut [0; 8]).ok().map(|(_, from)| from.ip())
    })
}

#[test]
fn packets_meet_the_rules() {
    let row = row();
    let mut nft = Nft::open_in(&row.router).unwrap();
    // The devices become ready a moment after they are up.
    assert_eq!(wait_for("the first packet", || arrives(&row, 7)), ip("10.0.0.2"));

    let forward = |rules| chain("forward", base(ChainKind::Filter, Hook::Forward, 0), rules);
    let from = |prefix: &str| Set { name: "from".into(), v6: false, prefixes: vec![net(prefix), net("172.16.0.0/12")] };
    let drop =
        Rule::new("drop").when(Match::SourceIn("from".into())).when(Match::DestinationPort(Transport::Udp, 7..=7));
    let drop = drop.then(Action::Counter).then(Action::Drop);
    let ruleset = Ruleset { sets: vec![from("10.0.0.0/24")], ..table(Family::Inet, vec![forward(vec![drop.clone()])]) };
    nft.apply(&ruleset).unwrap();
    assert_eq!(arrives(&row, 7), None);
    assert_eq!(arrives(&row, 8), Some(ip("10.0.0.2")));
    let (packets, bytes) = nft.rules(Family::Inet, "adit").unwrap()[0].counter.unwrap();
    assert_eq!((packets, bytes), (5, 5 * 29));

    // The same with a set that the source is below, then above all of.
    for other in ["10.0.1.0/24", "9.0.0.0/8"] {
        let ruleset = Ruleset { sets: vec![from(other)], ..table(Family::Inet, vec![forward(vec![drop.clone()])]) };
        nft.apply(&ruleset).unwrap();
        assert_eq!(arrives(&row, 7), Some(ip("10.0.0.2")), "{other}");
    }

    let masquerade =
        Rule::new("masquerade").when(Match::OutputDevice("out".into())).when(Match::Source(net("10.0.0.0/24")));
    let masquerade = masquerade.then(Action::Masquerade { random_fully: true });
    let source = chain("source", base(ChainKind::Nat, Hook::Postrouting, 100), vec![masquerade]);
    let publish = Rule::new("publish").when(Match::DestinationType(AddressType::Local));
    let publish = publish.when(Match::DestinationPort(Transport::Tcp, 8080..=8080));
    let publish = publish.then(Action::DestinationNat(ip("10.0.0.2"), Some(80)));
    let destination = chain("destination", base(ChainKind::Nat, Hook::Prerouting, -100), vec![publish]);
    let clamp = Rule::new("clamp").when(Match::TcpSyn).then(Action::ClampMss(Mss::Fixed(1000))).then(Action::Counter);
    nft.apply(&table(Family::Inet, vec![source, destination, forward(vec![clamp])])).unwrap();
    assert_eq!(arrives(&row, 9), Some(ip("192.0.2.1")));
    let listener = row.inside.run(|| TcpListener::bind("10.0.0.2:80")).unwrap().unwrap();
    let connected = row.outside.run(|| TcpStream::connect("192.0.2.1:8080")).unwrap().unwrap();
    let (accepted, client) = listener.accept().unwrap();
    assert_eq!(client, connected.local_addr().unwrap());
    for stream in [&accepted, &connected] {
        assert!(support::segment_size(stream) <= 1000, "{}", support::segment_size(stream));
    }

    // Nobody outside sends as somebody inside.
    let spoofed = Rule::new("spoofed").when(Match::WayBack.not()).then(Action::Counter).then(Action::Drop);
    let elsewhere = Rule::new("elsewhere").when(Match::WayBackBy("in".into())).then(Action::Counter);
    nft.apply(&table(
        Family::Inet,
        vec![chain("raw", base(ChainKind::Filter, Hook::Prerouting, -300), vec![spoofed, elsewhere])],
    ))
    .unwrap();
    let counted = |nft: &mut Nft| {
        nft.rules(Family::Inet, "adit").unwrap().iter().map(|r| r.counter.unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(arrives(&row, 7), Some(ip("10.0.0.2")));
    assert_eq!(counted(&mut nft), [0, 1]);
    let mut outside = Netlink::open_in(&row.outside).unwrap();
    outside.add_address(1, net("10.0.0.77/32"), true).unwrap();
    let liar = row.outside.run(|| UdpSocket::bind("10.0.0.77:0")).unwrap().unwrap();
    liar.send_to(b"x", "192.0.2.1:7").unwrap();
    wait_for("the liar's packet", || (counted(&mut nft)[0] == 1).then_some(()));

    let reject = Rule::new("reject").when(Match::Protocol(6)).then(Action::Reject(Rejection::TcpReset));
    nft.apply(&table(Family::Inet, vec![forward(vec![reject])])).unwrap();
    let refused = row.inside.run(|| TcpStream::connect("192.0.2.2:1")).unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn rules_of_others_are_listed_with_their_sets_and_maps() {
    let (namespace, _netlink) = fresh();
    let run = |program: &str, arguments: &[&str]| {
        let output = namespace.run(|| Command::new(program).args(arguments).output().unwrap()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(
        "nft",
        &["table inet filter { chain input { type filter hook input priority 5; policy drop; \
           ct state vmap { established : accept, invalid : drop }; udp dport { 53, 7000-7010 } accept; counter reject; }; \
           chain other { }; chain more { ip saddr 10.0.0.0/8 goto other; }; }"],
    );
    run("iptables", &["-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "REJECT"]);
    run("nft", &["table inet off { flags dormant; }"]);
    let listing = Nft::open_in(&namespace).unwrap().listing().unwrap();
    let flags = |name: &str| listing.table(Family::Inet, name).map(|table| (table.dormant, table.owned)).unwrap();
    assert_eq!((flags("filter"), flags("off")), ((false, false), (true, false)));
    let chain = |name: &str| listing.chains.iter().find(|chain| chain.name == name).unwrap();
    let base = chain("input").base.as_ref().unwrap();
    assert_eq!((base.kind.as_str(), base.hook, base.priority, base.drops), ("filter", 1, 5, true));
    let [states, ports, rest] = &chain("input").rules[..] else { panic!("{listing:#?}") };
    assert!(matches!(&states.program[1], Expression::Lookup { to: Some(0), inverted: false, .. }), "{states:?}");
    let set = |rule: &linux::nft::ListedRule| {
        let name = rule.program.iter().find_map(|step| match step {
            Expression::Lookup { set, .. } => Some(set.clone()),
            _ => None,
        });
        listing.sets.iter().find(|set| Some(&set.name) == name.as_ref()).unwrap().elements.clone().unwrap()
    };
    let decisions: Vec<_> = set(states).into_iter().map(|element| element.decision).collect();
    assert!(
        decisions.len() == 2
            && decisions.contains(&Some(Decision::Accept))
            && decisions.contains(&Some(Decision::Drop))
    );
    let mut bounds: Vec<_> = set(ports).into_iter().map(|element| (element.key, element.ends)).collect();
    bounds.retain(|(key, _)| key.as_slice() >= &53u16.to_be_bytes()[..]);
    bounds.sort();
    let expected = [(53u16, false), (54, true), (7000, false), (7011, true)];
    assert_eq!(bounds, expected.map(|(port, ends)| (port.to_be_bytes().to_vec(), ends)));
    assert_eq!(rest.program, [Expression::Aside("counter".into()), Expression::Reject]);
    assert!(
        matches!(chain("more").rules[0].program.last(), Some(Expression::Decide(Decision::Goto(to))) if to == "other")
    );
    assert!(chain("more").base.is_none());
    let foreign: Vec<_> = chain("INPUT").rules[0]
        .program
        .iter()
        .filter_map(|step| match step {
            Expression::Foreign { target, name, .. } => Some((*target, name.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(foreign, [(false, "conntrack"), (true, "REJECT")]);
}
