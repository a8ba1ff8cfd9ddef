//! The formats of trust: what is written is read, nothing else is, and no one else's words are believed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test is to stop there")]

mod trust_bed;

use std::net::SocketAddr;

use proptest::prelude::*;
use registry::trust::{
    Anchor, Bundle, Certificate, Epoch, MAX_ENDPOINTS, NodeKeys, ROLE_REGISTRY, Record, Release, Tombstone, TrustError,
    is_name,
};
use trust_bed::{authority, keys, member, node, node_of, other_authority, shared, subject, subnet, subnets};
use zeroize::Zeroizing;

#[test]
fn a_certificate_is_believed_in_its_own_network_only() {
    let node = node(7);
    let bytes = node.certificate.encode();
    assert_eq!(Certificate::open(&bytes, &node.anchor).unwrap(), node.certificate);
    assert_eq!(Certificate::open(&bytes, &other_authority().anchor()), Err(TrustError::Network));
    assert_eq!(Certificate::open(&bytes, &shared()), Err(TrustError::Network));
    assert_eq!(Certificate::open_own(&bytes, &node.keys).unwrap(), node.certificate);
    assert_eq!(Certificate::open_own(&bytes, &keys(8)), Err(TrustError::Keys));
    assert!(bytes.len() <= Certificate::MAX_LEN);
}

#[test]
fn what_cannot_be_certified_is_not() {
    let authority = authority();
    let good = subject(1, "paris", &keys(1));
    let refused = |change: fn(&mut registry::trust::Subject)| {
        let mut subject = good.clone();
        change(&mut subject);
        authority.certify(subject).unwrap_err()
    };
    assert_eq!(refused(|s| s.serial = 0), TrustError::Field("serial"));
    assert_eq!(refused(|s| s.serial = 1 << 63), TrustError::Field("serial"));
    assert_eq!(refused(|s| s.name.clear()), TrustError::Field("name"));
    assert_eq!(refused(|s| s.name = "a b".into()), TrustError::Field("name"));
    assert_eq!(refused(|s| s.name = "a".repeat(64)), TrustError::Field("name"));
    assert_eq!(refused(|s| s.sealed_key = [0; 32]), TrustError::Field("sealed key"));
    assert_eq!(refused(|s| s.sealed_key[31] |= 0x80), TrustError::Field("sealed key"));
    assert_eq!(refused(|s| s.record_key = [0; 32]), TrustError::Field("record key"));
    assert!(is_name("a-B_0.example") && is_name(&"a".repeat(63)));
    assert_eq!(authority.certify(subject(1, "a", &keys(1))).map(|c| c.roles), Ok(0));
    assert_eq!(
        authority.certify(registry::trust::Subject { roles: ROLE_REGISTRY, ..good.clone() }).map(|c| c.roles),
        Ok(ROLE_REGISTRY)
    );
}

#[test]
fn a_record_of_either_kind_of_network_comes_back() {
    for node in [node(3), member(3, "paris")] {
        let mut record = node.record(u64::MAX, subnets("10.42.7.0-24&fd00:42:7::-64"));
        record.behind_nat = true;
        record.endpoints = vec!["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:65535".parse().unwrap()];
        let bytes = record.sign(&node.keys, &node.anchor).unwrap();
        assert_eq!(Record::open(&bytes, &node.anchor).unwrap(), record);
        record.endpoints.clear();
        record.subnets = subnets("0.0.0.0-0&fd00:42:7::-64");
        let bytes = record.sign(&node.keys, &node.anchor).unwrap();
        assert_eq!(Record::open(&bytes, &node.anchor).unwrap(), record);
    }
}

#[test]
fn every_changed_bit_and_every_other_length_is_refused() {
    for node in [node(3), member(3, "paris")] {
        let epoch = Epoch::first().unwrap();
        let signed: [(&str, Vec<u8>, Opens); 3] = [
            ("certificate", node.certificate.encode(), |bytes, anchor| Certificate::open(bytes, anchor).is_ok()),
            ("record", node.signed(1, subnet(7)), |bytes, anchor| Record::open(bytes, anchor).is_ok()),
            (
                "release",
                Release { certificate: node.certificate.clone(), sequence: 1, subnets: subnet(7) }
                    .sign(&node.keys, &node.anchor)
                    .unwrap(),
                |bytes, anchor| Release::open(bytes, anchor).is_ok(),
            ),
        ];
        check_all(signed.to_vec(), &node.anchor);
        let by_authority: Vec<(&str, Vec<u8>, Opens)> = vec![
            ("tombstone", authority().bury(&Tombstone { number: 1, serial: 3 }), |bytes, anchor| {
                Tombstone::open(bytes, anchor).is_ok()
            }),
            (
                "bundle",
                authority().bundle(&epoch, None, 0, &[(3, node.keys.sealed_public())]).unwrap(),
                |bytes, anchor| Bundle::open(bytes, anchor).is_ok(),
            ),
        ];
        check_all(by_authority, &authority().anchor());
    }
}

type Opens = fn(&[u8], &Anchor) -> bool;

fn check_all(signed: Vec<(&str, Vec<u8>, Opens)>, anchor: &Anchor) {
    for (name, bytes, opens) in signed {
        assert!(opens(&bytes, anchor), "{name}");
        for cut in 0..bytes.len() {
            assert!(!opens(&bytes[..cut], anchor), "{name} cut to {cut}");
        }
        assert!(!opens(&[&bytes[..], &[0]].concat(), anchor), "{name} with a byte more");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(&changed, anchor), "{name} with bit {bit} changed");
        }
    }
}

#[test]
fn records_are_neither_signed_nor_read_with_what_cannot_be_in_them() {
    let node = node(3);
    let sign = |change: &dyn Fn(&mut Record)| {
        let mut record = node.record(1, subnet(7));
        change(&mut record);
        record.sign(&node.keys, &node.anchor).err()
    };
    let with = |text: &str| {
        let endpoint: SocketAddr = text.parse().unwrap();
        sign(&move |record: &mut Record| record.endpoints = vec![endpoint])
    };
    for bad in [
        "127.0.0.1:1",
        "0.0.0.0:1",
        "0.1.2.3:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "169.254.1.1:1",
        "192.0.2.1:0",
        "[::]:1",
        "[::1]:1",
        "[ff02::1]:1",
        "[fe80::1]:1",
        "[::ffff:192.0.2.1]:1",
        "[::192.0.2.1]:1",
    ] {
        assert_eq!(with(bad), Some(TrustError::Field("endpoints")), "{bad}");
    }
    for good in ["10.0.0.1:1", "[fd00::1]:1", "[2001:db8::1]:65535"] {
        assert_eq!(with(good), None, "{good}");
    }
    assert!(sign(&|record| record.endpoints = vec!["192.0.2.1:1".parse().unwrap(); 2]).is_some());
    let many = |count: usize| {
        move |record: &mut Record| {
            record.endpoints = (1..=count).map(|at| SocketAddr::new([192, 0, 2, at as u8].into(), 1)).collect();
        }
    };
    assert_eq!(sign(&many(MAX_ENDPOINTS)), None);
    assert_eq!(sign(&many(MAX_ENDPOINTS + 1)), Some(TrustError::Field("endpoints")));
    assert_eq!(sign(&|record| record.subnets.v4 = None), Some(TrustError::Field("subnets")));
    let host_bits = "10.42.7.1/24".parse().unwrap();
    assert_eq!(sign(&move |record| record.subnets.v4 = Some(host_bits)), Some(TrustError::Field("subnets")));
    assert_eq!(node.record(1, subnet(7)).sign(&keys(4), &node.anchor), Err(TrustError::Keys));
}

#[test]
fn a_secret_network_believes_only_who_has_its_secret() {
    let node = member(3, "paris");
    let bytes = node.signed(1, subnet(7));
    let other = Anchor::Shared(Zeroizing::new([0x5f; 32]));
    assert!(matches!(Record::open(&bytes, &other), Err(TrustError::Network | TrustError::Secret)));
    assert_eq!(Record::open(&bytes, &authority().anchor()), Err(TrustError::Network));
    assert_eq!(
        Tombstone::open(&authority().bury(&Tombstone { number: 1, serial: 3 }), &shared()),
        Err(TrustError::NoAuthority)
    );
    assert!(node.serial() >> 63 == 1);
    assert_eq!(shared().shared_epoch(), shared().shared_epoch());
    assert_ne!(shared().shared_epoch(), other.shared_epoch());
    assert!(authority().anchor().shared_epoch().is_none());
    assert!(!format!("{:?}", shared()).contains("5e5e"));
}

#[test]
fn bundles_are_unwrapped_in_order_by_those_that_they_are_for() {
    let authority = authority();
    let anchor = authority.anchor();
    let id = authority.network_id();
    let nodes = [node(1), node(2), node(9)];
    let first = Epoch::first().unwrap();
    let second = first.next().unwrap();
    let third = second.next().unwrap();
    let all: Vec<_> = nodes.iter().rev().map(|node| (node.serial(), node.keys.sealed_public())).collect();
    let bundle = |epoch: &Epoch, previous: Option<&Epoch>, nodes: &[(u64, [u8; 32])]| {
        Bundle::open(&authority.bundle(epoch, previous, 1, nodes).unwrap(), &anchor).unwrap()
    };
    let one = bundle(&first, None, &all);
    let two = bundle(&second, Some(&first), &all[1..]);
    let three = bundle(&third, Some(&second), &all);
    for node in &nodes {
        assert_eq!(one.unwrap(id, &node.keys, node.serial(), None).unwrap(), first);
    }
    let away = &nodes[0];
    let got = one.unwrap(id, &away.keys, 1, None).unwrap();
    assert!(three.unwrap(id, &away.keys, 1, Some(&got)).is_err(), "an epoch was left out");
    let got = two.unwrap(id, &away.keys, 1, Some(&got)).unwrap();
    assert_eq!(three.unwrap(id, &away.keys, 1, Some(&got)).unwrap(), third);
    // Node 9 is not in the second one: it has no way to the third without an epoch from elsewhere.
    assert_eq!(two.unwrap(id, &nodes[2].keys, 9, Some(&first)), Err(TrustError::NoEntry(9)));
    assert!(three.unwrap(id, &nodes[2].keys, 9, Some(&first)).is_err());
    let wrong = Epoch { number: 2, secret: Zeroizing::new([1; 32]) };
    assert_eq!(three.unwrap(id, &nodes[2].keys, 9, Some(&wrong)), Err(TrustError::Secret));
    // A serial's copy is not another's.
    assert_eq!(two.unwrap(id, &nodes[1].keys, 1, Some(&first)), Err(TrustError::Secret));
    assert_eq!((one.removals, one.is_for(9), two.is_for(9)), (1, true, false));
    assert_eq!(authority.bundle(&first, None, 0, &[all[0], all[0]]), Err(TrustError::Field("entries")));
    assert!(authority.bundle(&third, Some(&first), 0, &all).is_err());
    assert!(!format!("{first:?}").contains(&first.secret[0].to_string()) || first.secret[0] < 10);
}

#[test]
fn the_same_words_signed_again_are_the_same() {
    // A certificate signed twice by the authority: with Ed25519 the bytes are the same too, but nothing here relies on it.
    let one = node(3);
    let mut again = one.certificate.encode();
    let end = again.len() - 1;
    again[end] ^= 1;
    assert!(Certificate::open(&again, &one.anchor).is_err());
    assert_eq!(node_of(&authority(), 3).certificate, one.certificate);
    assert_ne!(node_of(&other_authority(), 3).certificate, one.certificate);
}

fn endpoints() -> impl Strategy<Value = Vec<SocketAddr>> {
    let any = any::<(bool, [u8; 16], u16)>().prop_map(|(v4, bytes, port)| {
        let [a, b, c, d, ..] = bytes;
        if v4 { SocketAddr::new([a, b, c, d].into(), port) } else { SocketAddr::new(bytes.into(), port) }
    });
    proptest::collection::vec(any.prop_filter("can be reached", registry::trust::is_endpoint), 0..=MAX_ENDPOINTS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_record_comes_back(
        private: [u8; 32], serial in 1u64..1 << 63, sequence: u64, name in "[A-Za-z0-9._-]{1,63}",
        endpoints in endpoints(), v4 in proptest::option::of((any::<u32>(), 1u8..=32)), v6 in (any::<u128>(), 1u8..=128), nat: bool, tagged: bool
    ) {
        prop_assume!(private != [0; 32]);
        let keys = NodeKeys::from_private(Zeroizing::new(private)).unwrap();
        let anchor = if tagged { shared() } else { authority().anchor() };
        let certificate = if tagged {
            Certificate::self_certified(&name, &keys, &anchor).unwrap()
        } else {
            authority().certify(subject(serial, &name, &keys)).unwrap()
        };
        let v6 = (v4.is_none() || v6.1 % 2 == 0).then(|| ipnet::Ipv6Net::new(v6.0.into(), v6.1).unwrap());
        let v4 = v4.map(|(bits, length)| ipnet::Ipv4Net::new(bits.into(), length).unwrap());
        let subnets = registry::schema::Subnets::new(v4, v6).unwrap();
        let record = Record { certificate, sequence, subnets, endpoints, behind_nat: nat };
        match record.sign(&keys, &anchor) {
            Ok(bytes) => prop_assert_eq!(Record::open(&bytes, &anchor), Ok(record)),
            Err(error) => prop_assert_eq!(error, TrustError::Field("endpoints"), "twice the same"),
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), tagged: bool) {
        let anchor = if tagged { shared() } else { authority().anchor() };
        prop_assert!(Record::open(&bytes, &anchor).is_err());
        prop_assert!(Release::open(&bytes, &anchor).is_err());
        prop_assert!(Certificate::open(&bytes, &anchor).is_err());
        prop_assert!(Tombstone::open(&bytes, &anchor).is_err());
        prop_assert!(Bundle::open(&bytes, &anchor).is_err());
    }
}
