//! What must hold for any bytes that reach `registry`: one function per fuzz target, named like it. The tests of `registry` run
//! the same functions over the committed corpora.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is what a fuzzer looks for")]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::client::{Event, KeyValue, Listing, Update};
use registry::schema::{LeaseValue, NetworkConfig, Prefix, Subnets};
use registry::trust::{
    Anchor, Authority, Bundle, Certificate, NodeKeys, Record, Release, Serial, Subject, Token, Tombstone,
};
use registry::view::{Memory, Setting, View};
use zeroize::Zeroizing;

/// What an input of [`signed`] begins with: which value the rest is, without its signature.
pub mod kind {
    /// A certificate.
    pub const CERTIFICATE: u8 = 0;
    /// A record.
    pub const RECORD: u8 = 1;
    /// A release.
    pub const RELEASE: u8 = 2;
    /// A tombstone.
    pub const TOMBSTONE: u8 = 3;
    /// A bundle.
    pub const BUNDLE: u8 = 4;
}

/// The keys of a node.
pub fn node_keys(number: u8) -> NodeKeys {
    let mut private = Zeroizing::new([0x40; 32]);
    private[8] = number;
    NodeKeys::from_private(private).unwrap()
}

/// A network whose authority is the record key of node 1, so that one key signs everything.
pub fn own_anchor() -> Anchor {
    Anchor::Authority(node_keys(1).record_public())
}

/// Input: a [`kind`] and what is to be signed. Whatever is read then has no other encoding.
pub fn signed(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    let (keys, anchor) = (node_keys(1), own_anchor());
    let label: &[u8] = match kind {
        kind::CERTIFICATE => b"adit certificate v1\0",
        kind::RECORD => b"adit record v1\0",
        kind::RELEASE => b"adit release v1\0",
        kind::TOMBSTONE => b"adit tombstone v1\0",
        kind::BUNDLE => b"adit bundle v1\0",
        _ => return,
    };
    let bytes = [body, &keys.sign(label, body)].concat();
    // Ed25519 signs the same words the same way, so that the same content is the same bytes.
    match kind {
        kind::CERTIFICATE => {
            if let Ok(certificate) = Certificate::open(&bytes, &anchor) {
                assert_eq!(certificate.encode(), bytes);
            }
        }
        kind::RECORD => {
            if let Ok(record) = Record::open(&bytes, &anchor) {
                assert_eq!(record.sign(&keys, &anchor).unwrap(), bytes);
            }
        }
        kind::RELEASE => {
            if let Ok(release) = Release::open(&bytes, &anchor) {
                assert_eq!(release.sign(&keys, &anchor).unwrap(), bytes);
            }
        }
        kind::TOMBSTONE => {
            if let Ok(Tombstone { number, serial }) = Tombstone::open(&bytes, &anchor) {
                let expected = [&number.to_le_bytes()[..], &serial.to_le_bytes()].concat();
                assert_eq!(bytes[17..33], expected);
            }
        }
        _ => {
            if let Ok(bundle) = Bundle::open(&bytes, &anchor) {
                assert!(!bundle.is_for(0) || bytes.len() > 129);
                assert!(bundle.unwrap(anchor.network_id(), &keys, 1, None).is_err());
            }
        }
    }
    // Under another key nothing of it is believed.
    let other = Anchor::Authority(node_keys(2).record_public());
    assert!(Certificate::open(&bytes, &other).is_err() && Record::open(&bytes, &other).is_err());
    assert!(Tombstone::open(&bytes, &other).is_err() && Bundle::open(&bytes, &other).is_err());
}

/// Input: a text.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string(), text.trim());
        assert!(!token.endpoints.is_empty());
    }
}

/// How one step of [`view`] begins.
pub mod how {
    /// It is deleted, not written.
    pub const DELETE: u8 = 1;
    /// It comes with a listing, not as an event.
    pub const LISTED: u8 = 2;
    /// The value is signed bytes: they are put into the value of a lease, or into base64.
    pub const WRAPPED: u8 = 4;
    /// The network is flannel's udp. Of the first step only.
    pub const UDP: u8 = 8;
}

/// The authority of [`view`].
pub fn authority() -> Authority {
    Authority::from_seed(Zeroizing::new([0xa1; 32])).unwrap()
}

/// The value of the lease of node `number`, which is good.
pub fn good_value(number: u8) -> (Subnets, Vec<u8>) {
    let keys = node_keys(number);
    let certificate = authority()
        .certify(Subject {
            serial: number.into(),
            name: format!("node-{number}"),
            record_key: keys.record_public(),
            sealed_key: keys.sealed_public(),
            roles: 0,
        })
        .unwrap();
    let subnets = Subnets::from_key(&format!("10.42.{number}.0-24")).unwrap();
    let endpoints = vec![([192, 0, 2, number], 7777).into()];
    let record = Record { certificate, sequence: 3, subnets, endpoints, behind_nat: false };
    (subnets, wrapped(&record.sign(&keys, &authority().anchor()).unwrap(), number))
}

/// The value of a lease with these signed bytes.
pub fn wrapped(signed: &[u8], host: u8) -> Vec<u8> {
    LeaseValue {
        public_ip: Some([192, 0, 2, host].into()),
        backend_type: Some("adit".to_owned()),
        backend_data: Some(serde_json::json!({ "signed": STANDARD.encode(signed) })),
        ..LeaseValue::default()
    }
    .to_json()
}

/// Input: steps, each a byte of [`how`], the length of a key below the prefix, the length of a value (2 bytes, little endian), key and value. Three good nodes stay
/// what they are, whatever stands beside them.
pub fn view(data: &[u8]) {
    let prefix = Prefix::default();
    let is_udp = data.first().is_some_and(|first| first & how::UDP != 0);
    let backend = if is_udp { "udp" } else { "adit" };
    let config = format!(r#"{{"Network":"10.42.0.0/16","Backend":{{"Type":"{backend}"}}}}"#);
    let setting = Setting {
        prefix: prefix.clone(),
        anchor: authority().anchor(),
        network: NetworkConfig::parse(config.as_bytes()).unwrap(),
        own: Some(9),
        lease_ttl: Duration::from_secs(86_400),
    };
    let mut world = Steps { view: View::new(setting.clone(), Memory::default()), entries: Vec::new(), revision: 0 };
    let good: Vec<String> = (1..4)
        .map(|number| {
            let (subnets, value) = good_value(number);
            let key = prefix.subnet(&subnets);
            world.put(key.clone(), value, false);
            key
        })
        .collect();
    let nodes = world.view.nodes();
    assert_eq!(nodes.iter().map(|node| node.serial).collect::<Vec<Serial>>(), [1, 2, 3]);
    let mut rest = data;
    while let [how, key_len, low, high, after @ ..] = rest {
        let Some((key, after)) = after.split_at_checked(usize::from(*key_len)) else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (value, after) = after.split_at(length);
        rest = after;
        let Ok(key) = std::str::from_utf8(key) else { continue };
        let key = prefix.all() + key;
        let is_listed = how & how::LISTED != 0;
        if good.contains(&key) {
            continue;
        }
        if how & how::DELETE != 0 {
            world.delete(&key, is_listed);
            continue;
        }
        let is_lease = key.starts_with(&prefix.subnets());
        let value = match how & how::WRAPPED != 0 {
            true if is_lease => wrapped(value, 4),
            true => STANDARD.encode(value).into_bytes(),
            false => value.to_vec(),
        };
        world.put(key, value, is_listed);
        assert_eq!(world.good(), nodes);
    }
    world.list();
    assert_eq!(world.good(), nodes);
    let problems = world.view.problems();
    assert!(problems.named.len() <= 64 && problems.named.len() <= problems.count);
    assert!(problems.count <= world.entries.len());
    for node in world.view.plain_nodes() {
        assert!(is_udp && nodes.iter().all(|signed| !signed.subnets.overlaps(&node.subnets)));
    }
    let memory = Memory::from_bytes(&world.view.memory().to_bytes()).unwrap();
    let again = View::new(setting, memory);
    assert_eq!((again.nodes(), again.plain_nodes()), (world.view.nodes(), world.view.plain_nodes()));
}

struct Steps {
    view: View,
    entries: Vec<KeyValue>,
    revision: i64,
}

impl Steps {
    /// The good nodes. An input can hold the record of another one.
    fn good(&self) -> Vec<registry::view::Node> {
        self.view.nodes().into_iter().filter(|node| node.serial < 4).collect()
    }

    fn put(&mut self, key: String, value: Vec<u8>, is_listed: bool) {
        self.revision += 1;
        let (create_revision, mod_revision) = (self.revision, self.revision);
        let entry = KeyValue { key, value, create_revision, mod_revision, version: 1, lease: 7 };
        self.entries.retain(|before| before.key != entry.key);
        self.entries.push(entry.clone());
        self.tell(Event::Put(entry), is_listed);
    }

    fn delete(&mut self, key: &str, is_listed: bool) {
        self.revision += 1;
        self.entries.retain(|entry| entry.key != key);
        self.tell(Event::Delete { key: key.to_owned(), mod_revision: self.revision }, is_listed);
    }

    fn tell(&mut self, event: Event, is_listed: bool) {
        if is_listed {
            self.list();
        } else {
            self.update(&Update::Events { revision: self.revision, events: vec![event] });
        }
    }

    fn list(&mut self) {
        let entries = self.entries.clone();
        self.update(&Update::Listing(Listing { revision: self.revision, entries }));
    }

    fn update(&mut self, update: &Update) {
        self.view.handle(update, Duration::from_secs(self.revision.unsigned_abs()), &|_| None);
    }
}
