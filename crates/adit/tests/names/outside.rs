//! Names of others: asked of the host's own resolvers, and what those may not do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit::resolver::message::{self, A, AAAA, Data, NO_ERROR, NO_NAME, PTR, Query, REFUSED, SERVER_FAILURE};

use crate::bed::{Bed, Family, wait_for};
use crate::scene::{
    Guest, Script, Server, address, ask, ask_by_tcp, await_resolver, client, exchange, network, query, set_resolvers,
    timed,
};
use crate::world::Node;

/// As many addresses do not fit a datagram.
const MANY: u8 = 100;

/// A resolver of the world: some of its names are as one expects.
fn script() -> Script {
    Arc::new(|query: &Query, by_tcp: bool| {
        let say = |data: &[Data]| vec![query.answer(NO_ERROR, false, data, 65_535)];
        match query.name.to_string().as_str() {
            "a.example" => match query.kind {
                A => say(&[address("198.51.100.7")]),
                AAAA => say(&[address("2001:db8:7::7")]),
                _ => say(&[]),
            },
            "big.example" if by_tcp => {
                say(&(0..MANY).map(|n| Data::Address([198, 51, 100, n].into())).collect::<Vec<_>>())
            }
            "big.example" => vec![query.truncated(512)],
            // Larger than was asked for, and does not say so.
            "rude.example" => say(&(0..MANY).map(|n| Data::Address([198, 51, 100, n].into())).collect::<Vec<_>>()),
            "spoofed.example" => {
                let right = query.answer(NO_ERROR, false, &[address("198.51.100.8")], 512);
                let false_one = query.answer(NO_ERROR, false, &[address("203.0.113.66")], 512);
                let (mut number, mut name) = (false_one.clone(), false_one.clone());
                number[1] ^= 1;
                name[13] ^= 1;
                let question = query.to_bytes();
                vec![number, name, question, false_one[..11].to_vec(), right]
            }
            "rebinding.example" => say(&[address("198.51.100.9"), address("10.42.0.9")]),
            "six.example" => say(&[address("::ffff:10.42.1.2")]),
            "broken.example" => {
                let mut answer = query.answer(NO_ERROR, false, &[address("198.51.100.9")], 512);
                answer.truncate(answer.len() - 2);
                vec![answer]
            }
            "failing.example" => vec![query.answer(SERVER_FAILURE, false, &[], 512)],
            "silent.example" => Vec::new(),
            _ => vec![query.answer(NO_NAME, false, &[], 512)],
        }
    })
}

#[test]
fn the_hosts_resolvers_are_asked_for_everything_else() {
    let bed = Bed::new(2);
    let nodes = [Node::new(bed.host(1))];
    let (world, upstream) = (&bed.host(2).namespace, bed.host(2).underlay(Family::V4));
    let server = Server::new(world, upstream, script());
    let _daemons = network(&nodes, &[], &[upstream]);
    let web = Guest::attach(&nodes[0], "web");
    web.await_address("web.host1.adit", web.ip(false));
    assert_eq!(web.ask("a.example", A), (NO_ERROR, vec!["198.51.100.7".into()]));
    assert_eq!(web.ask("a.example", AAAA), (NO_ERROR, vec!["2001:db8:7::7".into()]));
    assert_eq!(web.ask("a.example", 16), (NO_ERROR, Vec::new()));
    assert_eq!(web.ask("none.example", A).0, NO_NAME);
    assert_eq!(ask(&nodes[0].host.namespace, web.resolvers[0], "a.example", A).unwrap().1, ["198.51.100.7"]);
    // What does not fit comes by TCP.
    let socket = client(&web.namespace, web.resolvers[0]);
    for name in ["big.example", "rude.example"] {
        let answer = exchange(&socket, &query(name, A)).unwrap();
        assert!(message::is_truncated(&answer) && answer.len() <= 512, "{name}");
        let (code, addresses) = ask_by_tcp(&web.namespace, web.resolvers[0], name, A).unwrap();
        assert_eq!((code, addresses.len()), (NO_ERROR, MANY.into()), "{name}");
    }
    let asked = server.asked();
    assert!(asked.iter().all(|name| name.ends_with(".example")), "{asked:?}");
    // Whatever is asked about the network stays in it.
    for (name, kind) in [("web.none.adit", A), ("none.adit", 15), ("adit", 2), ("9.9.42.10.in-addr.arpa", PTR)] {
        web.ask(name, kind);
    }
    assert_eq!(server.count() as usize, asked.len(), "{:?}", server.asked());
}

#[test]
fn what_is_said_outside_is_believed_as_far_as_it_may_be() {
    let bed = Bed::new(2);
    let nodes = [Node::new(bed.host(1))];
    let upstream = bed.host(2).underlay(Family::V4);
    let server = Server::new(&bed.host(2).namespace, upstream, script());
    let _daemons = network(&nodes, &["--ipv6-network", "fd42::/48"], &[upstream]);
    let web = Guest::attach(&nodes[0], "web");
    web.await_address("web.host1.adit", web.ip(false));
    // Others' numbers, names and kinds are waited out.
    assert_eq!(web.ask("spoofed.example", A), (NO_ERROR, vec!["198.51.100.8".into()]));
    // Names of strangers that lead into the network, and what cannot be read.
    for (name, kind) in [("rebinding.example", A), ("six.example", AAAA), ("broken.example", A), ("failing.example", A)]
    {
        let (answer, took) = timed(|| web.ask(name, kind));
        assert_eq!(answer, (SERVER_FAILURE, Vec::new()), "{name}");
        assert!(took < Duration::from_secs(2), "{name}: {took:?}");
    }
    let (answer, took) = timed(|| web.ask("silent.example", A));
    assert_eq!(answer.0, SERVER_FAILURE);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(server.asked().iter().filter(|name| *name == "silent.example").count() <= 3);
}

#[test]
fn another_resolver_is_asked_where_the_first_is_of_no_help() {
    let bed = Bed::new(3);
    let nodes = [Node::new(bed.host(1))];
    let [one, two] = [2, 3].map(|number| bed.host(number).underlay(Family::V4));
    // Nobody listens at the first one.
    let server = Server::new(&bed.host(3).namespace, two, script());
    let _daemons = network(&nodes, &[], &[one, two]);
    let web = Guest::attach(&nodes[0], "web");
    web.await_address("web.host1.adit", web.ip(false));
    let found = (NO_ERROR, vec!["198.51.100.7".to_owned()]);
    let (answer, took) = timed(|| web.ask("a.example", A));
    assert_eq!(answer, found);
    assert!(took < Duration::from_secs(1), "{took:?}");
    // Who fails is passed over, and the one who answers is asked first from then on.
    let refusing: Script = Arc::new(|query: &Query, _| vec![query.answer(REFUSED, false, &[], 512)]);
    let useless = Server::new(&bed.host(2).namespace, one, refusing);
    assert_eq!(web.ask("a.example", A), found);
    assert_eq!(useless.count(), 0, "the one that answered last is asked first");
    drop(server);
    assert_eq!(web.ask("a.example", A).0, REFUSED, "what the only one says is said");
    assert!(useless.count() > 0);
    // The file of the host is another one.
    drop(useless);
    let six = bed.host(3).underlay(Family::V6);
    let _server = Server::new(&bed.host(3).namespace, six, script());
    set_resolvers(&nodes[0], &[six]);
    wait_for("the other resolver", || (web.ask("a.example", A) == found).then_some(()));
    set_resolvers(&nodes[0], &[]);
    wait_for("no resolver", || (web.ask("a.example", A).0 == SERVER_FAILURE).then_some(()));
}

#[test]
fn no_question_goes_round() {
    let bed = Bed::new(1);
    let nodes = [Node::new(bed.host(1))];
    let stub: IpAddr = "127.0.0.53".parse().unwrap();
    let daemons = network(&nodes, &[], &[stub]);
    let web = Guest::attach(&nodes[0], "web");
    web.await_address("web.host1.adit", web.ip(false));
    await_resolver(nodes[0].host, &daemons[0]);
    // A resolver of the host that asks us everything, as where somebody set us as the host's server.
    let (host, ours) = (nodes[0].host.namespace.clone(), web.resolvers[0]);
    let around: Script = Arc::new(move |query: &Query, _| {
        let ours = ask(&host, ours, &query.name.to_string(), query.kind);
        let code = ours.map_or(SERVER_FAILURE, |(code, _)| code);
        vec![query.answer(code, false, &[], 512)]
    });
    let server = Server::new(&nodes[0].host.namespace, stub, around);
    let (answer, took) = timed(|| web.ask("a.example", A));
    assert_eq!(answer.0, SERVER_FAILURE);
    assert_eq!(server.count(), 1, "{:?}", server.asked());
    eprintln!("a ring is told of after {took:.1?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let (answer, _) = timed(|| ask(&nodes[0].host.namespace, ours, "b.example", A));
    assert_eq!(answer.unwrap().0, SERVER_FAILURE);
    assert_eq!(server.count(), 1, "the host is not asked what it asks");
    // Our own addresses are nobody to ask.
    let device = crate::scene::device_of(&daemons[0]);
    set_resolvers(&nodes[0], &[ours, device]);
    wait_for("an answer without the stub", || {
        let before = server.count();
        let (answer, took) = timed(|| web.ask("c.example", A));
        (answer.0 == SERVER_FAILURE && server.count() == before && took < Duration::from_millis(500)).then_some(())
    });
}
