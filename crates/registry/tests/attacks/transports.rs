//! Transports, and networks that share a secret: rules T7 and T9.

use registry::schema::Prefix;
use registry::trust::Anchor;
use registry::view::{Alarm, PlainNode};

use crate::trust_bed::{Node, authority, keys, member, node, shared, subnet};
use crate::world::{MINUTE, World, adit, setting, udp};

#[test]
fn t7_a_registry_that_says_udp_now_changes_no_transport() {
    let mut world = World::new();
    world.publish(&node(2), 1, subnet(2));
    let prefix = Prefix::default();
    for (config, word) in [
        (r#"{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}"#, "udp on port 8285"),
        (r#"{"Network":"10.42.0.0/16"}"#, "none, which means udp"),
        (r#"{"Network":"10.43.0.0/16","Backend":{"Type":"adit"}}"#, "10.43.0.0/16"),
        (r#"{"Network":"10.42.0.0/16","SubnetLen":25,"Backend":{"Type":"adit"}}"#, "/25"),
        (r#"{"Network":"10.42.0.0/16","Backend":{"Type":"\u001b[31mx"}}"#, "\\u{1b}[31mx"),
        ("{", "network configuration in the registry"),
    ] {
        assert!(!world.put(&prefix.config(), config.as_bytes().to_vec()));
        let alarms = world.view.alarms();
        assert!(matches!(&alarms[..], [Alarm::Configuration(sentence)] if sentence.contains(word)), "{alarms:?}");
        // flannel's own record is no node here, whatever the registry says.
        world.put(&World::key(subnet(7)), br#"{"PublicIP":"198.51.100.7","PublicIPv6":null}"#.to_vec());
        assert!(world.view.plain_nodes().is_empty());
        assert!(world.problem().contains("it has no signature"));
        assert_eq!(world.holders(), [(2, subnet(2))]);
    }
    world.put(&prefix.config(), adit().to_json());
    assert!(world.view.alarms().is_empty());
}

#[test]
fn t7_plain_records_take_nothing_from_signed_ones() {
    let mut world = World::with(setting(authority().anchor(), udp(), Some(1)));
    let plain = |number| format!(r#"{{"PublicIP":"198.51.100.{number}","PublicIPv6":null}}"#).into_bytes();
    assert!(world.put(&World::key(subnet(7)), plain(7)));
    assert!(world.put(&World::key(subnet(8)), plain(8)));
    let of = |number: u8| PlainNode { subnets: subnet(number), public_ip: [198, 51, 100, number].into() };
    assert_eq!(world.view.plain_nodes(), [of(7), of(8)]);
    world.publish(&node(2), 1, subnet(2));
    // Over a signed one: it stays.
    world.put(&World::key(subnet(2)), plain(2));
    assert_eq!((world.view.plain_nodes(), world.holders()), (vec![of(7), of(8)], vec![(2, subnet(2))]));
    assert!(world.problem().contains("another node holds some of its addresses"));
    // A signed one over plain.
    assert!(world.publish(&node(3), 1, subnet(7)));
    assert_eq!((world.view.plain_nodes(), world.holders().len()), (vec![of(8)], 2));
    world.put(&World::key(subnet(9)), br#"{"PublicIP":"198.51.100.9","BackendType":"vxlan"}"#.to_vec());
    world.put(&World::key(subnet(10)), b"{}".to_vec());
    assert_eq!(world.view.plain_nodes(), [of(8)]);
    world.restart(setting(authority().anchor(), udp(), Some(1)));
    assert_eq!(world.view.plain_nodes(), [of(8)]);
    assert!(world.delete(&World::key(subnet(8))) || world.list(MINUTE));
    assert!(world.view.plain_nodes().is_empty());
}

#[test]
fn t9_a_guessed_secret_is_none_and_names_are_pinned_at_first_sight() {
    let mut world = World::shared();
    let paris = member(2, "paris");
    assert!(world.publish(&paris, 1, subnet(2)));
    let other = Anchor::Shared(zeroize::Zeroizing::new([0x5f; 32]));
    let guess = {
        let keys = keys(3);
        let certificate = registry::trust::Certificate::self_certified("rome", &keys, &other).unwrap();
        Node { keys, certificate, anchor: other }
    };
    assert!(!world.publish(&guess, 1, subnet(3)));
    assert!(world.problem().contains("another network"));
    world.delete(&World::key(subnet(3)));
    // A member who knows the secret takes another's name: the first one stays, also after a restart.
    let impostor = member(4, "paris");
    assert!(!world.publish(&impostor, 99, subnet(4)));
    assert!(world.problem().contains("is called paris already"), "{:?}", world.problems());
    world.delete(&World::key(subnet(4)));
    // In capitals it is the same name.
    let impostor = member(5, "PARIS");
    assert!(!world.publish(&impostor, 99, subnet(4)));
    assert!(world.problem().contains("is called PARIS already"), "{:?}", world.problems());
    world.restart(setting(shared(), adit(), Some(member(1, "self").serial())));
    world.list(MINUTE);
    assert_eq!(world.holders(), [(paris.serial(), subnet(2))]);
    // Nobody removes anybody.
    world.bury(1, paris.serial());
    assert_eq!(world.holders(), [(paris.serial(), subnet(2))]);
    assert!(world.problems().iter().any(|problem| problem.contains("no authority")));
    // Who leaves by his own word may come back under another name.
    world.release(&paris, 2, subnet(2));
    assert_eq!(world.holders(), [(impostor.serial(), subnet(4))]);
    assert!(world.publish(&member(2, "lyon"), 3, subnet(2)));
    assert_eq!(world.holders().len(), 2);
}
