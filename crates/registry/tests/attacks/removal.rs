//! Who is out, and that it stays so: rule T5.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::schema::Prefix;
use registry::trust::{Epoch, Tombstone};
use registry::view::Alarm;

use crate::trust_bed::{authority, keys, node, other_authority, subnet};
use crate::world::{MINUTE, World, adit, setting};

#[test]
fn t5_a_removed_node_does_not_come_back_with_the_old_registry() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 1, subnet(2));
    let old = world.entries.clone();
    assert!(world.bury(1, 2));
    assert!(world.view.nodes().is_empty() && world.view.removed(2));
    assert!(world.problem().contains("node 2 was removed"));
    // The tombstone is gone and the record is there: presence brings nobody back.
    world.set_back(&old);
    assert!(world.view.nodes().is_empty() && world.view.removed(2));
    world.publish(&paris, 9, subnet(2));
    assert!(world.view.nodes().is_empty());
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    world.list(MINUTE);
    assert!(world.view.nodes().is_empty() && world.view.removed(2));
    assert!(!world.view.stands(&Prefix::default().removed_at(1)), "whoever puts it back has to know");
    // What it held is free.
    world.publish(&node(3), 1, subnet(3));
    world.publish(&node(4), 1, subnet(2));
    assert_eq!(world.holders(), [(3, subnet(3)), (4, subnet(2))]);
}

#[test]
fn t5_a_withheld_removal_is_noticed() {
    let mut world = World::new();
    let epoch = Epoch { number: 2, secret: zeroize::Zeroizing::new([2; 32]) };
    let first = Epoch { number: 1, secret: zeroize::Zeroizing::new([1; 32]) };
    assert!(world.bury(2, 9));
    assert_eq!(world.view.alarms(), [Alarm::Withheld(vec![1])]);
    let sentence = world.view.alarms()[0].to_string();
    assert!(sentence.contains("removal 1 is withheld"), "{sentence}");
    assert!(world.bury(1, 8));
    assert!(world.view.alarms().is_empty());
    let bundle = authority().bundle(&epoch, Some(&first), 3, &[(3, keys(3).sealed_public())]).unwrap();
    assert!(world.put(&Prefix::default().epoch_at(2), STANDARD.encode(&bundle).into_bytes()));
    assert_eq!(world.view.alarms(), [Alarm::Withheld(vec![3])]);
    assert_eq!(world.view.bundles().map(|bundle| bundle.epoch).collect::<Vec<_>>(), [2]);
    world.delete(&Prefix::default().epoch_at(2));
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    assert_eq!(world.view.alarms(), [Alarm::Withheld(vec![3])], "the count is remembered");
    assert!(world.bury(3, 7));
    assert!(world.view.alarms().is_empty());
}

#[test]
fn t5_nobody_but_the_authority_removes_or_renumbers() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 1, subnet(2));
    let prefix = Prefix::default();
    let forged = other_authority().bury(&Tombstone { number: 1, serial: 2 });
    assert!(!world.put(&prefix.removed_at(1), STANDARD.encode(&forged).into_bytes()));
    let genuine = authority().bury(&Tombstone { number: 1, serial: 9 });
    assert!(!world.put(&prefix.removed_at(4), STANDARD.encode(&genuine).into_bytes()));
    assert!(!world.put(&prefix.removed_at(5), b"nonsense".to_vec()));
    assert!(!world.put(&prefix.epoch_at(1), b"AAAA".to_vec()));
    assert!(!world.put(&prefix.release_of(2), node(3).release(9, subnet(2))));
    assert!(!world.put(&format!("{}adit/else", prefix.all()), b"x".to_vec()));
    assert!(!world.put(&format!("{}other-tool", prefix.all()), b"x".to_vec()));
    assert_eq!(world.problems().len(), 6, "{:?}", world.problems());
    // Nor does a registry that refuses us, and says that we are out.
    let us = |authority: registry::trust::Authority, number| authority.bury(&Tombstone { number, serial: 1 });
    assert!(world.view.bury(&us(other_authority(), 1)).is_err() && world.view.bury(b"out").is_err());
    assert_eq!(world.holders(), [(2, subnet(2))]);
    assert!(world.view.alarms().is_empty());
    // The authority's word does, remembered, and without the removals of others that a registry did not tell of.
    assert!(world.view.bury(&us(authority(), 3)).unwrap() && !world.view.bury(&us(authority(), 3)).unwrap());
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    assert!(world.view.removed(1) && world.view.alarms().is_empty());
}
