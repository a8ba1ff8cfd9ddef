//! Nodes that want a subnet.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry::client::{Client, KeyValue};
use registry::lease::{Describe, Keeper};
use registry::schema::{LeaseValue, NetworkConfig, Prefix, Subnets};
use serde_json::json;

pub const TTL: Duration = Duration::from_secs(3600);

/// A node with a name, which stands for its key, and an address.
pub struct Node {
    pub name: Option<String>,
    pub ip: Ipv4Addr,
    pub removed: Mutex<BTreeSet<String>>,
    sequence: AtomicU64,
}

impl Node {
    pub fn named(name: &str, ip: [u8; 4]) -> Arc<Self> {
        Arc::new(Self {
            name: Some(name.to_owned()),
            ip: ip.into(),
            removed: Mutex::default(),
            sequence: AtomicU64::new(0),
        })
    }

    /// One of flannel's: it has no key, and its address is all that it is known by.
    pub fn flannels(ip: [u8; 4]) -> Arc<Self> {
        Arc::new(Self { name: None, ip: ip.into(), removed: Mutex::default(), sequence: AtomicU64::new(0) })
    }

    fn name_in(value: &LeaseValue) -> Option<&str> {
        value.backend_data.as_ref()?.get("node")?.as_str()
    }
}

impl Describe for Node {
    fn value(&self, _: &Subnets) -> Vec<u8> {
        let mut value = LeaseValue { public_ip: Some(self.ip), ..LeaseValue::default() };
        if let Some(name) = &self.name {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
            value.backend_type = Some("adit".into());
            value.backend_data = Some(json!({ "node": name, "sequence": sequence }));
        }
        value.to_json()
    }

    fn is_ours(&self, entry: &KeyValue) -> bool {
        let Ok(value) = LeaseValue::parse(&entry.value) else { return false };
        match Self::name_in(&value) {
            Some(name) => self.name.as_deref() == Some(name),
            None => value.public_ip == Some(self.ip),
        }
    }

    fn is_free(&self, entry: &KeyValue) -> bool {
        let Ok(value) = LeaseValue::parse(&entry.value) else { return false };
        Self::name_in(&value).is_some_and(|name| self.removed.lock().unwrap().contains(name))
    }
}

pub fn prefix() -> Prefix {
    Prefix::default()
}

pub fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text.as_bytes()).unwrap()
}

/// Three subnets: 10.3.1.0/24 to 10.3.3.0/24.
pub fn small() -> NetworkConfig {
    config(r#"{"Network":"10.3.0.0/22","Backend":{"Type":"adit"}}"#)
}

pub fn keeper(client: &Client, config: &NetworkConfig, node: &Arc<Node>) -> Keeper {
    keeper_for(client, config, node, TTL, &[])
}

pub fn keeper_for(
    client: &Client,
    config: &NetworkConfig,
    node: &Arc<Node>,
    ttl: Duration,
    previous: &[&str],
) -> Keeper {
    let previous = previous.iter().map(|key| subnets(key)).collect();
    Keeper::new(client.clone(), prefix(), config.clone(), ttl, node.clone(), previous)
}

pub fn subnets(key: &str) -> Subnets {
    Subnets::from_key(key).unwrap()
}

pub fn key(subnets: &str) -> String {
    format!("/coreos.com/network/subnets/{subnets}")
}

/// What flannel's udp writes.
pub fn flannels_value(ip: &str) -> Vec<u8> {
    format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null}}"#).into_bytes()
}
