//! Who holds a subnet, and for how long: rule T3.

use std::collections::BTreeMap;
use std::time::Duration;

use registry::client::Update;
use registry::schema::Prefix;
use registry::view::Alarm;

use crate::trust_bed::{authority, node, subnet, subnets};
use crate::world::{MINUTE, TTL, World, adit, network, setting};

#[test]
fn t3_a_held_subnet_stays_although_another_record_stands_there() {
    let mut world = World::new();
    let (paris, mallory) = (node(2), node(3));
    world.publish(&paris, 1, subnet(2));
    assert!(!world.publish(&mallory, 1, subnet(2)));
    assert_eq!(world.holders(), [(2, subnet(2))]);
    let dispute = Alarm::Dispute { claimant: "node-3".into(), subnets: subnet(2), holder: "node-2".into() };
    assert_eq!(world.view.alarms(), [dispute]);
    assert!(world.problem().contains("node-2 holds some of its addresses"));
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, subnet(2))], "holders are remembered");
    // One who claims more than a subnet does not even wait.
    let wide = subnets("10.42.0.0-16");
    world.publish(&node(4), 1, wide);
    assert!(world.problems().iter().any(|p| p.contains("not among the subnets of the network")));
    // Her own word frees it at once.
    assert!(world.release(&paris, 1, subnet(2)));
    assert_eq!(world.holders(), [(3, subnet(2))]);
}

#[test]
fn t3_a_held_subnet_moves_after_one_ttl_without_record_and_without_a_packet() {
    let mut world = World::new();
    let (paris, rome) = (node(2), node(3));
    world.publish(&paris, 1, subnet(2));
    world.list(MINUTE);
    world.publish(&rome, 1, subnet(2));
    world.heard.insert(2, world.now);
    let began = world.now;
    // Not by time alone: listings have to show it.
    world.now += 3 * TTL;
    world.publish(&rome, 2, subnet(2));
    assert_eq!(world.holders(), [(2, subnet(2))]);
    world.now = began;
    let mut passed = Duration::ZERO;
    while passed + Duration::from_secs(3600) < TTL {
        world.list(Duration::from_secs(3600));
        passed += Duration::from_secs(3600);
        assert_eq!(world.holders(), [(2, subnet(2))], "{passed:?}");
    }
    // Heard an hour ago: it stays, whatever the registry says.
    world.heard.insert(2, world.now);
    world.list(Duration::from_secs(3600));
    world.list(Duration::from_secs(3600));
    assert_eq!(world.holders(), [(2, subnet(2))]);
    assert_eq!(world.view.alarms().len(), 1);
    world.list(TTL);
    assert_eq!(world.holders(), [(3, subnet(2))]);
    assert!(world.view.alarms().is_empty());
}

#[test]
fn t3_who_is_not_there_gets_nothing_new() {
    let mut world = World::new();
    let (paris, rome, oslo) = (node(2), node(3), node(4));
    world.publish(&paris, 1, subnet(2));
    world.publish(&rome, 1, subnet(2));
    world.delete(&World::key(subnet(2)));
    world.release(&paris, 1, subnet(2));
    assert!(world.view.nodes().is_empty(), "who claimed it once is gone");
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    assert!(world.view.nodes().is_empty());
    world.publish(&oslo, 1, subnet(2));
    assert_eq!(world.holders(), [(4, subnet(2))]);
    // And who is there again is heard again.
    world.release(&oslo, 1, subnet(2));
    world.publish(&rome, 1, subnet(2));
    assert_eq!(world.holders(), [(3, subnet(2))]);
}

#[test]
fn t3_time_without_a_registry_counts_against_nobody() {
    let mut world = World::new();
    let (paris, rome) = (node(2), node(3));
    world.publish(&paris, 1, subnet(2));
    world.list(MINUTE);
    world.publish(&rome, 1, subnet(2));
    world.tell(&Update::Lost { reason: "down".into(), is_stranger: false, farewell: None });
    world.now += 5 * TTL;
    world.tell(&Update::Back);
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, subnet(2))]);
    world.list(TTL - 2 * MINUTE);
    assert_eq!(world.holders(), [(2, subnet(2))]);
    world.list(2 * MINUTE);
    assert_eq!(world.holders(), [(3, subnet(2))]);
}

#[test]
fn t3_revisions_decide_a_race_for_a_free_subnet() {
    // Dual stack, where the keys differ and the subnets overlap; the order of keys is against the order of revisions.
    let config =
        network(r#"{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd42::/48","Backend":{"Type":"adit"}}"#);
    let mut world = World::with(setting(authority().anchor(), config, Some(1)));
    let (first, second) = (subnets("10.42.2.0-24&fd42:0:0:9::-64"), subnets("10.42.2.0-24&fd42:0:0:1::-64"));
    let value = node(2).value(1, first);
    world.write(&World::key(first), value);
    let value = node(3).value(1, second);
    world.write(&World::key(second), value);
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, first)]);
    assert!(world.problem().contains("node-2 holds some of its addresses"));
    // And who left and who took are told apart although all comes in one listing.
    world.write(&World::key(second), node(3).value(2, second));
    world.entries.remove(&World::key(first));
    let elsewhere = subnets("10.42.7.0-24&fd42:0:0:7::-64");
    world.write(&World::key(elsewhere), node(2).value(2, elsewhere));
    world.list(MINUTE);
    assert_eq!(world.holders(), [(2, elsewhere), (3, second)]);
}

#[test]
fn t3_an_emptied_registry_empties_nothing() {
    let mut world = World::new();
    for serial in 2..40 {
        world.publish(&node(serial), 1, subnet(serial as u8));
        world.heard.insert(serial, world.now);
    }
    world.list(MINUTE);
    let holders = world.holders();
    assert_eq!(holders.len(), 38);
    world.set_back(&BTreeMap::new());
    assert_eq!(world.holders(), holders);
    world.list(TTL / 2);
    assert_eq!(world.holders(), holders);
    // Those who are still heard stay for as long as they are.
    world.heard.insert(7, world.now);
    world.list(TTL / 2);
    assert_eq!(world.holders(), [(7, subnet(7))]);
}

#[test]
fn t3_our_own_subnet_is_ours() {
    let mut world = World::new();
    let (ours, mallory) = (node(1), node(3));
    world.publish(&mallory, 1, subnet(1));
    assert_eq!(world.holders(), [(3, subnet(1))]);
    world.view.publish(&ours.signed(5, subnet(1))).unwrap();
    assert!(world.view.nodes().is_empty());
    assert_eq!(world.view.holder(&subnet(1)), Some(1));
    let dispute = Alarm::Dispute { claimant: "node-3".into(), subnets: subnet(1), holder: "this node".into() };
    assert_eq!(world.view.alarms(), [dispute]);
    // We left it for another: then it is theirs.
    world.view.publish(&ours.signed(6, subnet(9))).unwrap();
    assert_eq!(world.holders(), [(3, subnet(1))]);
    assert!(world.view.publish(&mallory.signed(1, subnet(3))).is_err());
}

#[test]
fn a_release_frees_what_it_names_and_old_words_stay_void() {
    let mut world = World::new();
    let paris = node(2);
    world.publish(&paris, 3, subnet(2));
    assert!(!world.release(&paris, 2, subnet(2)), "an older release says nothing of record 3");
    assert!(!world.release(&paris, 9, subnet(5)), "it frees what it names");
    assert_eq!(world.holders(), [(2, subnet(2))]);
    assert!(world.release(&paris, 10, subnet(2)));
    assert!(world.view.nodes().is_empty());
    assert!(world.problem().contains("gave it up"), "{:?}", world.problems());
    world.delete(&Prefix::default().release_of(2));
    world.restart(setting(authority().anchor(), adit(), Some(1)));
    world.list(MINUTE);
    world.publish(&paris, 4, subnet(2));
    world.list(MINUTE);
    assert!(world.view.nodes().is_empty(), "replayed");
    assert!(world.publish(&paris, 11, subnet(2)));
    assert_eq!(world.holders(), [(2, subnet(2))]);
}

#[test]
fn reservations_are_no_problem() {
    let mut world = World::new();
    let mut entry = world.write(&World::key(subnet(9)), br#"{"PublicIP":"198.51.100.9"}"#.to_vec());
    entry.lease = 0;
    world.entries.insert(entry.key.clone(), entry);
    world.list(MINUTE);
    assert!(world.problems().is_empty() && world.view.nodes().is_empty() && world.view.plain_nodes().is_empty());
}
