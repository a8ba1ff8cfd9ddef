//! What must hold for what comes to the resolver of names. The tests of `adit` run the same functions over the committed corpora.
#![allow(clippy::unwrap_used, reason = "a failed expectation is what a fuzzer looks for")]

use adit::resolver::message::{self, Answer, IN, NO_ERROR, Query, REFUSED};
use adit::resolver::name::Name;
use adit::resolver::zone::{Asker, Decision, Member, Zone};

/// Input: a datagram. As a question it has one meaning, is refused to a stranger at no greater length, and does not leave the network if it is about
/// it; as an answer it has as many records as it says, or is none.
pub fn names(data: &[u8]) {
    match Query::parse(data) {
        Ok(query) => question(data, &query),
        Err(Some(answer)) => assert!(answer.len() <= data.len().max(message::PLAIN)),
        Err(None) => {}
    }
    if let Some(answer) = Answer::parse(data) {
        assert!(answer.records.len() <= usize::from(u16::from_be_bytes([data[6], data[7]])));
        assert!(answer.code < 16);
    }
    for start in 0..data.len().min(64) {
        if let Some((name, end)) = Name::read(data, start) {
            assert!(end > start && end <= data.len() && name.length() <= 255);
            let mut written = Vec::new();
            name.write(&mut written);
            assert_eq!(Name::read(&written, 0), Some((name, written.len())));
        }
    }
}

fn question(data: &[u8], query: &Query) {
    let refusal = query.answer(REFUSED, false, &[], query.limit());
    assert!(refusal.len() <= data.len() && query.is_answered_by(query.id, &refusal));
    assert_eq!(Query::parse(&refusal), Err(None), "an answer is never answered");
    let again = Query::new(query.id, &query.name, query.kind);
    assert_eq!(Query::parse(&again.to_bytes()).unwrap().name, query.name);

    let domain = Name::from_text("adit").unwrap();
    let networks: Vec<_> = ["10.42.0.0/16", "fd42::/48"].map(|net| net.parse().unwrap()).into();
    let member = |name: &str, serial, subnet: &str| Member {
        name: Name::from_text(name).unwrap(),
        serial,
        subnets: vec![subnet.parse().unwrap()],
    };
    let others = [member("paris", 2, "10.42.8.0/24")];
    let zone = Zone::new(domain.clone(), networks.clone(), member("berlin", 1, "10.42.7.0/24"), others);
    let of_network = query.name.reversed().is_some_and(|net| networks.iter().any(|network| network.contains(&net)));
    let is_ours = query.name.before(&domain).is_some() || of_network;
    let decision = zone.decide(Asker::Own, query);
    assert!(query.class == IN || decision == Decision::Refuse);
    assert!(!is_ours || decision != Decision::Forward);
    assert_eq!(zone.decide(Asker::Stranger, query), Decision::Refuse);
    match zone.decide(Asker::Node, query) {
        Decision::Forward | Decision::Ask(_) => panic!("a question goes round: {query:?}"),
        Decision::Answer(code, _) => assert_eq!(code, NO_ERROR),
        Decision::Container(_) | Decision::Refuse => {}
    }
}
