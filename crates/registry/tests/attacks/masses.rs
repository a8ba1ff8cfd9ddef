//! What is remembered, and records by the hundred thousand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::schema::{Backend, Prefix};
use registry::trust::Record;
use registry::view::{Memory, View};

use crate::trust_bed::{authority, node, other_authority, subnet, subnets};
use crate::world::{MINUTE, World, adit, network, setting, udp};

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
