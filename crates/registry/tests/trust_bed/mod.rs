//! Networks for tests: an authority, its nodes and what they sign.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test takes what it needs")]

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::schema::{LeaseValue, Subnets};
use registry::trust::{Anchor, Authority, Certificate, NodeKeys, Record, Release, Serial, Subject};
use zeroize::Zeroizing;

/// A node with keys and certificate.
pub struct Node {
    pub keys: NodeKeys,
    pub certificate: Certificate,
    pub anchor: Anchor,
}

/// The authority of tests, always the same.
pub fn authority() -> Authority {
    Authority::from_seed(Zeroizing::new([0xa1; 32])).unwrap()
}

/// The authority of another network.
pub fn other_authority() -> Authority {
    Authority::from_seed(Zeroizing::new([0xb2; 32])).unwrap()
}

/// The anchor of a network with a secret in place of an authority.
pub fn shared() -> Anchor {
    Anchor::Shared(Zeroizing::new([0x5e; 32]))
}

/// Keys that follow from a number.
pub fn keys(number: u64) -> NodeKeys {
    let mut private = Zeroizing::new([0x40; 32]);
    private[8..16].copy_from_slice(&number.to_le_bytes());
    NodeKeys::from_private(private).unwrap()
}

pub fn subject(serial: Serial, name: &str, keys: &NodeKeys) -> Subject {
    let (record_key, sealed_key) = (keys.record_public(), keys.sealed_public());
    Subject { serial, name: name.to_owned(), record_key, sealed_key, roles: 0 }
}

/// Node `serial` of `authority`, named `node-SERIAL`.
pub fn node_of(authority: &Authority, serial: Serial) -> Node {
    let keys = keys(serial);
    let certificate = authority.certify(subject(serial, &format!("node-{serial}"), &keys)).unwrap();
    Node { keys, certificate, anchor: authority.anchor() }
}

/// Node `serial` of the authority of tests.
pub fn node(serial: Serial) -> Node {
    node_of(&authority(), serial)
}

/// A node of the network with the shared secret.
pub fn member(number: u64, name: &str) -> Node {
    let (keys, anchor) = (keys(number), shared());
    let certificate = Certificate::self_certified(name, &keys, &anchor).unwrap();
    Node { keys, certificate, anchor }
}

pub fn subnets(text: &str) -> Subnets {
    Subnets::from_key(text).unwrap()
}

/// `10.42.N.0/24`.
pub fn subnet(number: u8) -> Subnets {
    subnets(&format!("10.42.{number}.0-24"))
}

pub fn endpoint(serial: Serial) -> SocketAddr {
    let [low, high, ..] = serial.to_le_bytes();
    SocketAddr::new([192, 0, high, low].into(), 7777)
}

impl Node {
    pub fn serial(&self) -> Serial {
        self.certificate.serial
    }

    pub fn record(&self, sequence: u64, subnets: Subnets) -> Record {
        Record {
            certificate: self.certificate.clone(),
            sequence,
            subnets,
            endpoints: vec![endpoint(self.serial())],
            behind_nat: false,
        }
    }

    pub fn signed(&self, sequence: u64, subnets: Subnets) -> Vec<u8> {
        self.record(sequence, subnets).sign(&self.keys, &self.anchor).unwrap()
    }

    /// The value of its lease.
    pub fn value(&self, sequence: u64, subnets: Subnets) -> Vec<u8> {
        value_of(&self.record(sequence, subnets), &self.keys, &self.anchor)
    }

    pub fn release(&self, sequence: u64, subnets: Subnets) -> Vec<u8> {
        let release = Release { certificate: self.certificate.clone(), sequence, subnets };
        STANDARD.encode(release.sign(&self.keys, &self.anchor).unwrap()).into_bytes()
    }
}

/// The value of a lease with this record.
pub fn value_of(record: &Record, keys: &NodeKeys, anchor: &Anchor) -> Vec<u8> {
    lease_value(record, &record.sign(keys, anchor).unwrap())
}

/// The value of a lease with these signed bytes, whose outer fields follow the record.
pub fn lease_value(record: &Record, signed: &[u8]) -> Vec<u8> {
    let v4 = record.endpoints.iter().find_map(|endpoint| match endpoint {
        SocketAddr::V4(v4) => Some(*v4.ip()),
        SocketAddr::V6(_) => None,
    });
    LeaseValue {
        public_ip: v4,
        backend_type: Some("adit".to_owned()),
        backend_data: Some(serde_json::json!({ "signed": STANDARD.encode(signed) })),
        ..LeaseValue::default()
    }
    .to_json()
}
