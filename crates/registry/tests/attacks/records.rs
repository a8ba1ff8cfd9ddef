//! Records that are forged, swapped, old or double: rules T1 and T2.

use registry::view::Alarm;

use crate::trust_bed::{
    Node, authority, endpoint, keys, lease_value, member, node, node_of, other_authority, subject, subnet, value_of,
};
use crate::world::{MINUTE, World, adit, setting};

#[test]
fn nodes_come_change_and_go() {
    let mut world = World::new();
    let (paris, rome) = (node(2), node(3));
    assert!(world.publish(&paris, 1, subnet(2)));
    assert!(world.publish(&rome, 1, subnet(3)));
    assert_eq!(world.holders(), [(2, subnet(2)), (3, subnet(3))]);
    let seen = &world.view.nodes()[0];
    assert_eq!((seen.name.as_str(), seen.sealed_key), ("node-2", paris.keys.sealed_public()));
    assert_eq!((seen.endpoints.as_slice(), seen.behind_nat), (&[endpoint(2)][..], false));
    assert!(!world.publish(&paris, 2, subnet(2)), "a renewal changes nothing");
    let mut moved = paris.record(3, subnet(2));
    moved.endpoints = vec!["192.0.2.77:1".parse().unwrap()];
    assert!(world.put(&World::key(subnet(2)), value_of(&moved, &paris.keys, &paris.anchor)));
    assert_eq!(world.view.nodes()[0].endpoints, moved.endpoints);
    assert!(!world.list(MINUTE));
    assert!(world.problems().is_empty());
    assert!(world.publish(&paris, 4, subnet(4)), "a node that moves says so itself");
    assert_eq!(world.holders(), [(2, subnet(4)), (3, subnet(3))]);
    assert!(world.problem().contains("older than record 4 of node-2"), "{:?}", world.problems());
    world.delete(&World::key(subnet(2)));
    assert_eq!(world.holders().len(), 2);
    assert!(world.problems().is_empty() && world.view.alarms().is_empty());
}

#[test]
fn t1_a_member_cannot_swap_anothers_key() {
    let mut world = World::new();
    let (paris, mallory) = (node(2), node(3));
    world.publish(&paris, 1, subnet(2));
    // Mallory signs with his own key a record that carries the certificate of Paris, or hers with his sealed key in it.
    let record = paris.record(9, subnet(2));
    let mut signed = paris.signed(9, subnet(2));
    let end = signed.len() - 64;
    let forged = mallory.keys.sign(b"adit record v1\0", &signed[..end]);
    signed[end..].copy_from_slice(&forged);
    assert!(!world.put(&World::key(subnet(2)), lease_value(&record, &signed)));
    assert!(world.problem().contains("its signature does not fit"));
    let mut swapped = paris.signed(9, subnet(2));
    let at = swapped.windows(32).position(|part| part == paris.keys.sealed_public()).unwrap();
    swapped[at..at + 32].copy_from_slice(&mallory.keys.sealed_public());
    assert!(!world.put(&World::key(subnet(2)), lease_value(&record, &swapped)));
    assert!(world.problem().contains("its signature does not fit"));
    assert_eq!(world.view.nodes()[0].sealed_key, paris.keys.sealed_public());
}

#[test]
fn t1_a_record_of_another_network_is_skipped() {
    let mut world = World::new();
    let stranger = node_of(&other_authority(), 5);
    assert!(!world.publish(&stranger, 1, subnet(5)));
    assert!(world.problem().contains("it belongs to another network"));
    let shared_one = member(5, "x");
    assert!(!world.publish(&shared_one, 1, subnet(5)));
    assert!(world.problem().contains("it belongs to another network"));
    assert!(world.view.nodes().is_empty());
}

#[test]
fn t1_a_registry_writer_cannot_map_a_subnet_to_another_key_or_address() {
    let mut world = World::new();
    let paris = node(2);
    // Her record under the key of other subnets.
    assert!(!world.put(&World::key(subnet(9)), paris.value(1, subnet(2))));
    assert!(world.problem().contains("its key names other subnets"));
    world.delete(&World::key(subnet(9)));
    // flannel's outer fields say another address.
    let record = paris.record(1, subnet(2));
    let value = String::from_utf8(paris.value(1, subnet(2))).unwrap();
    let address = endpoint(2).ip().to_string();
    for (other, fault) in [
        (value.replace(&address, "198.51.100.66"), "its address is not one of its signed record"),
        (value.replace("\"PublicIPv6\":null", "\"PublicIPv6\":\"2001:db8::66\""), "its address is not one"),
        (value.replace("\"adit\"", "\"vxlan\""), "its BackendType is not"),
        (value.replace("\"BackendType\":\"adit\",", ""), "its BackendType is not"),
    ] {
        assert_ne!(other, value);
        assert!(!world.put(&World::key(subnet(2)), other.into_bytes()));
        assert!(world.problem().contains(fault), "{:?}", world.problems());
    }
    assert!(world.put(&World::key(subnet(2)), value_of(&record, &paris.keys, &paris.anchor)));
    assert!(world.problems().is_empty());
}

#[test]
fn t2_an_older_record_lowers_nothing_not_even_after_a_restart() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 1, subnet(2));
    let old = world.entries.clone();
    world.publish(&paris, 2, subnet(3));
    world.delete(&World::key(subnet(2)));
    assert_eq!(world.holders(), [(2, subnet(3))]);
    world.set_back(&old);
    assert_eq!(world.holders(), [(2, subnet(3))]);
    assert!(world.problem().contains("older than record 2 of node-2"));
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    assert_eq!(world.holders(), [(2, subnet(3))], "peers are there before the registry is");
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, subnet(3))]);
    assert!(world.problem().contains("older than record 2"));
}

#[test]
fn t2_the_same_words_in_other_bytes_are_the_same_record_and_other_words_with_its_number_are_none() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 7, subnet(2));
    // The same record, in a value that is written otherwise.
    let value = String::from_utf8(paris.value(7, subnet(2))).unwrap().replace(":{\"signed\"", ": {\"signed\"");
    assert!(!world.put(&World::key(subnet(2)), value.into_bytes()));
    assert!(world.problems().is_empty());
    // Another signature of the same bytes that a careless verifier would take.
    let record = paris.record(8, subnet(2));
    let signed = paris.signed(8, subnet(2));
    let malleable = with_another_s(&signed);
    assert!(!world.put(&World::key(subnet(2)), lease_value(&record, &malleable)));
    assert!(world.problem().contains("its signature does not fit"));
    // Two records with one number: the first stays.
    let mut twin = paris.record(7, subnet(2));
    twin.endpoints = vec!["192.0.2.99:9".parse().unwrap()];
    assert!(!world.put(&World::key(subnet(2)), value_of(&twin, &paris.keys, &paris.anchor)));
    assert!(world.problem().contains("another record 7"), "{:?}", world.problems());
    assert_eq!(world.view.nodes()[0].endpoints, [endpoint(2)]);
}

/// The same record with S + L in place of S in its signature.
fn with_another_s(signed: &[u8]) -> Vec<u8> {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut other = signed.to_vec();
    let start = other.len() - 32;
    let mut carry = 0;
    for (byte, more) in other[start..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    other
}

#[test]
fn t2_a_certificate_used_for_two_subnets_holds_the_newer_one_only() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 1, subnet(2));
    world.publish(&paris, 2, subnet(3));
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, subnet(3))]);
    assert!(world.problem().contains("10.42.2.0-24: it is older than record 2"));
    // With one number for both the first one stays.
    let mut world = World::new();
    world.publish(&paris, 1, subnet(2));
    world.publish(&paris, 1, subnet(3));
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, subnet(2))]);
    assert!(world.problem().contains("10.42.3.0-24"), "{:?}", world.problems());
}

#[test]
fn t2_a_second_certificate_for_a_known_key_or_serial_is_skipped() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 1, subnet(2));
    let again = |serial, name: &str, keys: registry::trust::NodeKeys| Node {
        certificate: authority().certify(subject(serial, name, &keys)).unwrap(),
        keys,
        anchor: authority().anchor(),
    };
    for (other, fault) in [
        (again(2, "node-2", keys(99)), "known by another certificate"),
        (again(2, "other", keys(2)), "known by another certificate"),
        (again(3, "other", keys(2)), "has one of its keys"),
        (again(4, "node-2", keys(99)), "is called node-2 already"),
    ] {
        assert!(!world.publish(&other, 9, subnet(9)));
        assert!(world.problem().contains(fault), "{:?}", world.problems());
        assert_eq!(world.holders(), [(2, subnet(2))]);
        world.delete(&World::key(subnet(9)));
    }
}

#[test]
fn t2_endpoints_inside_of_the_network_or_our_own_are_not_used() {
    let mut world = World::new();
    let ours = node(1);
    world.view.publish(&ours.signed(1, subnet(1))).unwrap();
    let paris = node(2);
    let mut record = paris.record(1, subnet(2));
    record.endpoints = vec!["10.42.9.9:7777".parse().unwrap(), endpoint(1), endpoint(2)];
    assert!(world.put(&World::key(subnet(2)), value_of(&record, &paris.keys, &paris.anchor)));
    assert_eq!(world.view.nodes()[0].endpoints, [endpoint(2)]);
    assert!(world.problem().contains("inside of the network, or our own"));
}

#[test]
fn t1_a_second_machine_with_our_certificate_is_an_alarm() {
    let mut world = World::new();
    let ours = node(1);
    world.publish(&ours, 4, subnet(1));
    assert_eq!(world.view.own_sequence(), 4, "what an earlier life of ours said");
    assert!(world.view.alarms().is_empty());
    world.view.publish(&ours.signed(5, subnet(1))).unwrap();
    world.publish(&ours, 5, subnet(1));
    assert!(world.view.alarms().is_empty() && world.problems().is_empty());
    world.publish(&ours, 6, subnet(8));
    assert_eq!(world.view.alarms(), [Alarm::Doubled]);
    assert_eq!(world.view.own_sequence(), 6);
    assert!(world.problem().contains("another machine speaks with our certificate"));
    assert!(world.view.nodes().is_empty());
    // A registry that was set back to our older words is none.
    let mut world = World::new();
    world.view.publish(&ours.signed(5, subnet(1))).unwrap();
    world.publish(&ours, 4, subnet(1));
    assert!(world.view.alarms().is_empty());
    assert_eq!(world.view.own_sequence(), 5);
}
