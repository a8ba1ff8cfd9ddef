use proptest::prelude::*;

use super::super::message::REFUSED;
use super::*;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn member(text: &str, serial: u64, number: u8) -> Member {
    let subnets = [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number}::/64")];
    Member { name: name(text), serial, subnets: subnets.map(|net| net.parse().unwrap()).into() }
}

/// Berlin, which is us, and Paris; somebody called as a container of Berlin's might be, and somebody called as Paris is, both later.
fn zone() -> Zone {
    let others =
        [member("paris", 2, 8), member("web.berlin", 9, 9), member("PARIS", 8, 10), member("host.example.com", 3, 11)];
    let networks = ["10.42.0.0/16", "fd42::/48"].map(|net| net.parse().unwrap()).into();
    Zone::new(name("adit"), networks, member("Berlin", 1, 7), others)
}

fn containers() -> Vec<Container> {
    let container = |text: &str, addresses: &[&str]| Container {
        name: name(text),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    };
    vec![
        container("web", &["10.42.7.2", "fd42:0:0:7::2"]),
        container("db.shop", &["10.42.7.3"]),
        container("twice", &["10.42.7.4"]),
        container("twice", &["10.42.7.5"]),
    ]
}

fn decide(asker: Asker, text: &str, kind: u16) -> Decision {
    zone().decide(asker, &Query::new(1, &name(text), kind))
}

/// The answer of this node alone.
fn answer(asker: Asker, text: &str, kind: u16) -> (u8, Vec<String>) {
    let (code, data) = match decide(asker, text, kind) {
        Decision::Answer(code, data) => (code, data),
        Decision::Container(wanted) => zone().find(&wanted, kind, &containers()),
        Decision::Refuse => (REFUSED, Vec::new()),
        other => panic!("{text}: {other:?}"),
    };
    let text = |data: Data| match data {
        Data::Address(ip) => ip.to_string(),
        Data::Name(name) => name.to_string(),
    };
    (code, data.into_iter().map(text).collect())
}

fn asks(text: &str, kind: u16) -> String {
    match decide(Asker::Own, text, kind) {
        Decision::Ask(member) => member.name.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn who_asks_is_known_by_the_address() {
    let zone = zone();
    for (from, asker) in [
        ("127.0.0.1", Asker::Host),
        ("::1", Asker::Host),
        ("10.42.7.0", Asker::Host),
        ("10.42.7.1", Asker::Host),
        ("fd42:0:0:7::1", Asker::Host),
        ("10.42.7.2", Asker::Own),
        ("::ffff:10.42.7.2", Asker::Own),
        ("fd42:0:0:7::9", Asker::Own),
        ("10.42.8.0", Asker::Node),
        ("fd42:0:0:8::", Asker::Node),
        ("10.42.8.1", Asker::Stranger),
        ("10.42.8.2", Asker::Stranger),
        ("10.42.12.0", Asker::Stranger),
        ("192.0.2.1", Asker::Stranger),
        ("fe80::1", Asker::Stranger),
    ] {
        assert_eq!(zone.who(ip(from)), asker, "{from}");
    }
}

#[test]
fn own_names_are_answered() {
    for (text, kind, code, data) in [
        ("web.berlin.adit", A, NO_ERROR, &["10.42.7.2"][..]),
        ("WEB.Berlin.ADIT", AAAA, NO_ERROR, &["fd42:0:0:7::2"]),
        ("web.berlin.adit", ANY, NO_ERROR, &["10.42.7.2"]),
        ("web.berlin.adit", 15, NO_ERROR, &[]),
        ("db.shop.berlin.adit", A, NO_ERROR, &["10.42.7.3"]),
        ("db.shop.berlin.adit", AAAA, NO_ERROR, &[]),
        ("shop.berlin.adit", A, NO_ERROR, &[]),
        ("twice.berlin.adit", A, NO_ERROR, &["10.42.7.4", "10.42.7.5"]),
        ("none.berlin.adit", A, NO_NAME, &[]),
        ("x.web.berlin.adit", A, NO_NAME, &[]),
        ("berlin.adit", A, NO_ERROR, &["10.42.7.0"]),
        ("berlin.adit", PTR, NO_ERROR, &[]),
        ("paris.adit", A, NO_ERROR, &["10.42.8.0"]),
        ("host.example.com.adit", A, NO_ERROR, &["10.42.11.0"]),
        ("com.adit", A, NO_ERROR, &[]),
        ("adit", A, NO_ERROR, &[]),
        ("rome.adit", A, NO_NAME, &[]),
        ("web.rome.adit", A, NO_NAME, &[]),
        ("2.7.42.10.in-addr.arpa", PTR, NO_ERROR, &["web.berlin.adit"]),
        ("2.7.42.10.in-addr.arpa", A, NO_ERROR, &[]),
        ("9.7.42.10.in-addr.arpa", PTR, NO_NAME, &[]),
        ("0.7.42.10.in-addr.arpa", PTR, NO_ERROR, &["berlin.adit"]),
        ("1.7.42.10.in-addr.arpa", PTR, NO_ERROR, &["berlin.adit"]),
        ("1.8.42.10.in-addr.arpa", PTR, NO_ERROR, &["paris.adit"]),
        ("7.42.10.in-addr.arpa", PTR, NO_ERROR, &[]),
        ("9.99.42.10.in-addr.arpa", PTR, NO_NAME, &[]),
    ] {
        for asker in [Asker::Own, Asker::Host] {
            let expected = (code, data.iter().map(|text| (*text).to_owned()).collect());
            assert_eq!(answer(asker, text, kind), expected, "{text} {kind}");
        }
    }
    // Its own containers ask for the host on their link, where the first address is no host's.
    for (asker, expected) in
        [(Asker::Own, "fd42:0:0:7::1"), (Asker::Host, "fd42:0:0:7::"), (Asker::Node, "fd42:0:0:7::")]
    {
        assert_eq!(answer(asker, "berlin.adit", AAAA), (NO_ERROR, vec![expected.into()]), "{asker:?}");
    }
    let six = Name::of_address(ip("fd42:0:0:7::2")).to_string();
    assert_eq!(answer(Asker::Own, &six, PTR), (NO_ERROR, vec!["web.berlin.adit".into()]));
}

#[test]
fn names_of_others_are_asked_of_them_and_nobody_takes_one_by_coming_later() {
    assert_eq!(asks("web.paris.adit", A), "paris");
    assert_eq!(asks("5.8.42.10.in-addr.arpa", PTR), "paris");
    let Decision::Ask(member) = decide(Asker::Own, "web.paris.adit", A) else { panic!() };
    assert_eq!(member.serial, 2, "not who came later with the same name");
    // The node web.berlin came after Berlin, whose container has the name.
    assert_eq!(answer(Asker::Own, "web.berlin.adit", A).1, ["10.42.7.2"]);
    assert_eq!(answer(Asker::Own, "x.web.berlin.adit", A).0, NO_NAME);
    assert_eq!(zone().way_to(&member), Some((ip("10.42.7.0"), ip("10.42.8.0"))));
}

#[test]
fn everything_else_is_asked_outside_and_nothing_of_ours_is() {
    for text in
        ["example.com", "aditx", "x.notadit", "adit.example.com", "10.in-addr.arpa", "1.2.0.192.in-addr.arpa", "arpa"]
    {
        for asker in [Asker::Own, Asker::Host] {
            assert_eq!(decide(asker, text, A), Decision::Forward, "{text}");
        }
    }
}

#[test]
fn another_node_is_told_of_ourselves_only_and_a_stranger_of_nothing() {
    assert_eq!(answer(Asker::Node, "web.berlin.adit", A).1, ["10.42.7.2"]);
    assert_eq!(answer(Asker::Node, "none.berlin.adit", A).0, NO_NAME);
    assert_eq!(answer(Asker::Node, "berlin.adit", A).1, ["10.42.7.0"]);
    assert_eq!(answer(Asker::Node, "2.7.42.10.in-addr.arpa", PTR).1, ["web.berlin.adit"]);
    for text in ["web.paris.adit", "paris.adit", "rome.adit", "adit", "example.com", "2.8.42.10.in-addr.arpa"] {
        assert_eq!(decide(Asker::Node, text, PTR), Decision::Refuse, "{text}");
    }
    for text in ["web.berlin.adit", "berlin.adit", "paris.adit", "example.com", "2.7.42.10.in-addr.arpa"] {
        assert_eq!(decide(Asker::Stranger, text, A), Decision::Refuse, "{text}");
    }
}

#[test]
fn zones_and_other_classes_are_not_given_out() {
    for kind in [251, 252, 253, 254] {
        assert_eq!(decide(Asker::Own, "adit", kind), Decision::Refuse);
        assert_eq!(decide(Asker::Own, "example.com", kind), Decision::Refuse);
    }
    let mut chaos = Query::new(1, &name("version.bind"), 16);
    chaos.class = 3;
    assert_eq!(zone().decide(Asker::Own, &chaos), Decision::Refuse);
}

#[test]
fn a_node_speaks_for_itself_only() {
    let zone = zone();
    let paris = member("paris", 2, 8);
    let address = |text: &str| Data::Address(ip(text));
    let admit = |text: &str, kind: u16, said: &[(&str, Data)]| {
        let said = said.iter().map(|(owner, data)| (name(owner), data.clone())).collect();
        zone.admit(&paris, &Query::new(1, &name(text), kind), said)
    };
    let web = "web.paris.adit";
    assert_eq!(admit(web, A, &[("WEB.paris.adit", address("10.42.8.2"))]), [address("10.42.8.2")]);
    for (what, owner, data) in [
        ("another's container", web, address("10.42.7.2")),
        ("an address outside", web, address("192.0.2.1")),
        ("the host itself", web, address("127.0.0.1")),
        ("another name", "web.berlin.adit", address("10.42.8.2")),
        ("another family", web, address("fd42:0:0:8::2")),
        ("a name for a name", web, Data::Name(name("web.paris.adit"))),
    ] {
        assert_eq!(admit(web, A, &[(owner, data)]), [], "{what}");
    }
    let reverse = "2.8.42.10.in-addr.arpa";
    let names = |text: &str| Data::Name(name(text));
    assert_eq!(admit(reverse, PTR, &[(reverse, names("web.paris.adit"))]), [names("web.paris.adit")]);
    for other in ["web.berlin.adit", "bank.example", "paris.adit.example", "xparis.adit"] {
        assert_eq!(admit(reverse, PTR, &[(reverse, names(other))]), [], "{other}");
    }
    assert_eq!(admit(reverse, PTR, &[(reverse, address("10.42.8.2"))]), []);
    let many: Vec<_> = (2..250).map(|n| (web, Data::Address(IpAddr::from([10, 42, 8, n])))).collect();
    assert_eq!(admit(web, A, &many).len(), MOST_ADDRESSES);
}

proptest! {
    /// Whatever is asked, nothing of the network goes outside, and nothing of others is answered to a node.
    #[test]
    fn no_question_of_the_network_leaves_it(
        labels in prop::collection::vec("[a-z]{1,4}|web|berlin|paris|adit|[0-9]{1,3}|in-addr|arpa", 0..6),
        tail in prop::sample::select(vec!["adit", "42.10.in-addr.arpa", "2.4.d.f.ip6.arpa", "example"]),
        kind: u16,
    ) {
        let text = labels.iter().map(String::as_str).chain([tail]).collect::<Vec<_>>().join(".");
        let query = Query::new(1, &name(&text), kind);
        for asker in [Asker::Own, Asker::Host] {
            let is_ours = query.name.before(&name("adit")).is_some()
                || query.name.reversed().is_some_and(|net| zone().networks.iter().any(|of| of.contains(&net)));
            prop_assert!(!is_ours || zone().decide(asker, &query) != Decision::Forward);
        }
        match zone().decide(Asker::Node, &query) {
            Decision::Answer(..) | Decision::Container(_) => prop_assert!(zone().is_own(&query)),
            Decision::Refuse => {}
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert_eq!(zone().decide(Asker::Stranger, &query), Decision::Refuse);
    }
}
