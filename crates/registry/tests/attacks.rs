//! What somebody who writes the registry, or a member, can try, and that it fails: the rules of trust by their numbers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test is to stop there")]

mod trust_bed;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Event, KeyValue, Listing, Update};
use registry::schema::{Backend, NetworkConfig, Prefix, Subnets};
use registry::trust::{Anchor, Epoch, Record, Serial, Tombstone};
use registry::view::{Alarm, Memory, PlainNode, Setting, View};
use trust_bed::{
    Node, authority, endpoint, keys, lease_value, member, node, node_of, other_authority, shared, subject, subnet,
    subnets, value_of,
};

const TTL: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

/// A registry as somebody who may write everything has it, and a view that follows it.
struct World {
    view: View,
    entries: BTreeMap<String, KeyValue>,
    revision: i64,
    now: Duration,
    heard: BTreeMap<Serial, Duration>,
}

fn network(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text.as_bytes()).unwrap()
}

fn adit() -> NetworkConfig {
    network(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"adit"}}"#)
}

fn udp() -> NetworkConfig {
    network(r#"{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}"#)
}

fn setting(anchor: Anchor, network: NetworkConfig, own: Option<Serial>) -> Setting {
    Setting { prefix: Prefix::default(), anchor, network, own, lease_ttl: TTL }
}

impl World {
    fn with(setting: Setting) -> Self {
        let view = View::new(setting, Memory::default());
        Self { view, entries: BTreeMap::new(), revision: 0, now: MINUTE, heard: BTreeMap::new() }
    }

    /// A network with an authority, as node 1 sees it.
    fn new() -> Self {
        Self::with(setting(authority().anchor(), adit(), Some(1)))
    }

    fn shared() -> Self {
        Self::with(setting(shared(), adit(), Some(member(1, "self").serial())))
    }

    fn tell(&mut self, update: &Update) -> bool {
        let heard = self.heard.clone();
        self.view.handle(update, self.now, &|serial| heard.get(&serial).copied())
    }

    fn write(&mut self, key: &str, value: Vec<u8>) -> KeyValue {
        self.revision += 1;
        let before = self.entries.get(key);
        let entry = KeyValue {
            key: key.to_owned(),
            value,
            create_revision: before.map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            version: before.map_or(1, |before| before.version + 1),
            lease: 7,
        };
        self.entries.insert(key.to_owned(), entry.clone());
        entry
    }

    /// Writes an entry and tells of it.
    fn put(&mut self, key: &str, value: Vec<u8>) -> bool {
        let entry = self.write(key, value);
        self.tell(&Update::Events { revision: self.revision, events: vec![Event::Put(entry)] })
    }

    fn delete(&mut self, key: &str) -> bool {
        self.revision += 1;
        self.entries.remove(key).unwrap();
        let event = Event::Delete { key: key.to_owned(), mod_revision: self.revision };
        self.tell(&Update::Events { revision: self.revision, events: vec![event] })
    }

    /// Tells of everything anew, after some time.
    fn list(&mut self, after: Duration) -> bool {
        self.now += after;
        let entries = self.entries.values().cloned().collect();
        self.tell(&Update::Listing(Listing { revision: self.revision, entries }))
    }

    /// The registry is set back to what it was.
    fn set_back(&mut self, entries: &BTreeMap<String, KeyValue>) {
        self.entries.clone_from(entries);
        self.list(MINUTE);
    }

    fn key(subnets: Subnets) -> String {
        Prefix::default().subnet(&subnets)
    }

    fn publish(&mut self, node: &Node, sequence: u64, subnets: Subnets) -> bool {
        self.put(&Self::key(subnets), node.value(sequence, subnets))
    }

    fn bury(&mut self, number: u64, serial: Serial) -> bool {
        let signed = authority().bury(&Tombstone { number, serial });
        self.put(&Prefix::default().removed_at(number), STANDARD.encode(signed).into_bytes())
    }

    fn release(&mut self, node: &Node, sequence: u64, subnets: Subnets) -> bool {
        self.put(&Prefix::default().release_of(node.serial()), node.release(sequence, subnets))
    }

    /// Who holds what, by serial.
    fn holders(&self) -> Vec<(Serial, Subnets)> {
        self.view.nodes().into_iter().map(|node| (node.serial, node.subnets)).collect()
    }

    /// What is said to be wrong, with the last part of the key.
    fn problems(&self) -> Vec<String> {
        let problems = self.view.problems();
        assert_eq!(problems.count, problems.named.len());
        problems.named.into_iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect()
    }

    fn problem(&self) -> String {
        let mut problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    /// Goes through a restart with what is remembered, through its bytes.
    fn restart(&mut self, setting: Setting) {
        let memory = Memory::from_bytes(&self.view.memory().to_bytes()).unwrap();
        self.view = View::new(setting, memory);
    }
}

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

#[test]
fn memory_is_only_what_this_network_signed() {
    let mut world = World::new();
    world.publish(&node(2), 1, subnet(2));
    assert!(world.view.is_unsaved() && !world.view.is_unsaved());
    world.list(MINUTE);
    assert!(!world.view.is_unsaved());
    let memory = world.view.memory();
    assert_eq!(memory.config(), Some(adit()));
    let elsewhere = View::new(setting(other_authority().anchor(), adit(), None), memory.clone());
    assert!(elsewhere.nodes().is_empty());
    let narrower = network(r#"{"Network":"10.43.0.0/16","Backend":{"Type":"adit"}}"#);
    assert!(View::new(setting(authority().anchor(), narrower, None), memory.clone()).nodes().is_empty());
    assert_eq!(View::new(setting(authority().anchor(), adit(), None), memory.clone()).nodes(), world.view.nodes());
    let bytes = memory.to_bytes();
    assert!(Memory::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    let newer = String::from_utf8(bytes).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(Memory::from_bytes(newer.as_bytes()).is_err());
}

/// Deterministic noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next(256) as u8).collect()
    }
}

/// A value that no node wrote, and where it stands.
fn bad(noise: &mut Noise, good: &[Vec<u8>], signed: &[Vec<u8>]) -> (String, Vec<u8>) {
    let subnets =
        |noise: &mut Noise| format!("subnets/10.42.{}.{}-{}", noise.next(256), noise.next(16) * 16, 24 + noise.next(6));
    let key = match noise.next(8) {
        0 => format!("subnets/{}", STANDARD.encode(noise.bytes(6))),
        1 => format!("adit/removed/{:010}", noise.next(1000)),
        2 => format!("adit/releases/{:010}", noise.next(1000)),
        3 => format!("adit/epochs/{:010}", noise.next(1000)),
        4 => format!("subnets/10.{}.7.0-24", noise.next(256)),
        _ => subnets(noise),
    };
    let mut value = good[noise.next(good.len())].clone();
    match noise.next(8) {
        0 => value = noise.bytes(60),
        1 => value.truncate(noise.next(value.len())),
        2 => {
            let at = noise.next(value.len());
            value[at] = noise.next(256) as u8;
        }
        3 => value = br#"{"PublicIP":"198.51.100.1","PublicIPv6":null}"#.to_vec(),
        4 => value = STANDARD.encode(noise.bytes(100)).into_bytes(),
        5 => value = "[".repeat(noise.next(3000)).into_bytes(),
        // A changed bit in a signed record, or one that belongs elsewhere.
        6 => {
            let mut changed = signed[noise.next(signed.len())].clone();
            let at = noise.next(changed.len());
            changed[at] ^= 1 << noise.next(8);
            let text = STANDARD.encode(&changed);
            value = format!(r#"{{"PublicIP":"192.0.0.2","PublicIPv6":null,"BackendType":"adit","BackendData":{{"signed":"{text}"}}}}"#).into_bytes();
        }
        _ => {}
    }
    (Prefix::default().all() + &key, value)
}

/// `ADIT_RECORDS` asks for another number.
#[test]
fn bad_records_disturb_no_good_node() {
    let count: usize = std::env::var("ADIT_RECORDS").map_or(100_000, |text| text.parse().unwrap());
    let mut world = World::new();
    let nodes: Vec<_> = (2..52).map(node).collect();
    for node in &nodes {
        world.publish(node, 3, subnet(node.serial() as u8));
    }
    let good: Vec<_> = nodes.iter().map(|node| node.value(3, subnet(node.serial() as u8))).collect();
    let signed: Vec<_> = nodes.iter().map(|node| node.signed(3, subnet(node.serial() as u8))).collect();
    let holders = world.holders();
    let nodes_before = world.view.nodes();
    let taken: Vec<_> = nodes.iter().map(|node| World::key(subnet(node.serial() as u8))).collect();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut written = 0;
    while written < count {
        let (key, value) = bad(&mut noise, &good, &signed);
        if taken.contains(&key) {
            continue;
        }
        written += 1;
        // Half come one by one, half with listings.
        if written % 2 == 0 {
            assert!(!world.put(&key, value), "{key}");
        } else {
            world.write(&key, value);
        }
        if written % (count / 10) == 0 {
            assert!(!world.list(MINUTE));
            assert_eq!(world.view.nodes(), nodes_before);
        }
    }
    assert_eq!(world.holders(), holders);
    let problems = world.view.problems();
    assert_eq!(problems.named.len(), 64);
    assert!(problems.count > world.entries.len() / 2, "{} of {}", problems.count, world.entries.len());
    for problem in &problems.named {
        assert!(problem.key.chars().count() <= 200 && !problem.key.chars().any(char::is_control));
        assert!(problem.reason.chars().count() <= 200 && !problem.reason.chars().any(char::is_control));
    }
    assert!(world.view.alarms().is_empty(), "{:?}", world.view.alarms());
    // And good ones still come in among them.
    assert!(world.publish(&node(60), 1, subnet(60)));
    assert_eq!(world.holders().len(), holders.len() + 1);
}

#[test]
fn listings_again_cost_no_signatures() {
    let mut world = World::with(setting(
        authority().anchor(),
        network(r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"adit"}}"#),
        Some(1),
    ));
    for serial in 2..402 {
        let subnets = subnets(&format!("10.{}.{}.0-24", 1 + serial / 250, serial % 250));
        let value = node(serial).value(1, subnets);
        world.write(&World::key(subnets), value);
    }
    let began = std::time::Instant::now();
    assert!(world.list(MINUTE));
    let first = began.elapsed();
    assert_eq!(world.view.nodes().len(), 400);
    let began = std::time::Instant::now();
    for _ in 0..4 {
        assert!(!world.list(MINUTE));
    }
    let again = began.elapsed() / 4;
    assert!(again * 4 < first, "{again:?} again, {first:?} at first");
}

#[test]
fn records_of_a_whole_network_open_by_themselves() {
    // What a listing holds is what nodes sign: a record opens without the view.
    let paris = node(2);
    let record = Record::open(&paris.signed(1, subnet(2)), &authority().anchor()).unwrap();
    assert_eq!(record, paris.record(1, subnet(2)));
    assert!(matches!(udp().backend, Backend::Udp { port: 8285 }));
}
