//! Nodes that are in an authority's books and in its registry, and nowhere else: certified as any node is, each with a record that it signs itself, a credential
//! and a lease of its own. Nobody is at their addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use registry::client::{Client, Options};
use registry::enrol;
use registry::schema::{LeaseValue, NetworkConfig, Prefix, Subnets};
use registry::trust::{Anchor, Ask, BACKEND_TYPE, Certificate, Ledger, NodeKeys, Record};
use zeroize::Zeroizing;

/// Their subnets begin here: real nodes take one of the first hundred.
const FIRST: u32 = 256;

/// Where they say that they are: addresses for measurements (RFC 2544).
const ADDRESSES: u32 = u32::from_be_bytes([198, 18, 0, 1]);

/// How long their leases live, in seconds.
const LEASE: i64 = 3600;

/// See the module.
pub(crate) struct Crowd {
    url: String,
    ca: Vec<u8>,
    prefix: Prefix,
    anchor: Anchor,
    nodes: Vec<Arc<One>>,
}

struct One {
    keys: NodeKeys,
    certificate: Certificate,
    credential: (String, Zeroizing<String>),
    subnets: Subnets,
    endpoint: SocketAddr,
}

impl Crowd {
    /// Lets `count` nodes into the network whose authority is in `directory`, the first `called` of them by the call that a host makes which joins, at
    /// `enroller` (`host:port`). The network's own file is read there for its addresses.
    pub(crate) async fn admit(directory: &Path, enroller: &str, count: usize, called: usize) -> Self {
        let ledger = Ledger::open(directory).unwrap();
        let network = NetworkConfig::parse(&std::fs::read(directory.join("network.json")).unwrap()).unwrap();
        let (ca, _) = ledger.tls().unwrap();
        let pin = enrol::pin(&ca).unwrap();
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let uses = u32::try_from(count.max(1)).unwrap();
        let token = ledger.create_token(vec![enroller.to_owned()], pin, hour, uses, now).unwrap();
        let mut nodes = Vec::new();
        for number in 0..count {
            let (keys, name) = (NodeKeys::generate().unwrap(), format!("many{number}"));
            let (record_key, sealed_key) = (keys.record_public(), keys.sealed_public());
            let (certificate, credential) = if number < called {
                let joined = enrol::join(&token, &name, &keys).await.unwrap();
                (joined.certificate, (joined.user, joined.password))
            } else {
                let ask = Ask {
                    token_id: &token.id,
                    token_secret: &token.secret,
                    name: &name,
                    record_key: &record_key,
                    sealed_key: &sealed_key,
                };
                let admitted = ledger.admit(&ask, now).unwrap();
                (admitted.certificate, (admitted.credential.user, admitted.credential.password))
            };
            let index = u32::try_from(number).unwrap();
            let endpoint = SocketAddr::new(Ipv4Addr::from_bits(ADDRESSES + index).into(), 7777);
            nodes.push(Arc::new(One { keys, certificate, credential, subnets: subnets(&network, index), endpoint }));
        }
        let prefix = Prefix::new("/coreos.com/network").unwrap();
        Self { url: format!("https://{enroller}"), ca, prefix, anchor: ledger.anchor(), nodes }
    }

    /// Writes the records of nodes `from..to`, by `writers` at once.
    pub(crate) async fn publish(self: &Arc<Self>, from: usize, to: usize, writers: usize) {
        let next = Arc::new(AtomicUsize::new(from));
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let (crowd, next) = (Arc::clone(self), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(node) = crowd.nodes.get(number).filter(|_| number < to) else { return };
                        crowd.write(node).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// As a node does it: with a connection and a credential of its own, bound to a lease.
    async fn write(&self, node: &One) {
        let options = Options {
            endpoints: vec![self.url.clone()],
            ca: Some(self.ca.clone()),
            user: Some(node.credential.clone()),
            request_timeout: Duration::from_secs(30),
            ..Options::default()
        };
        let client = Client::new(options).unwrap();
        let record = Record {
            certificate: node.certificate.clone(),
            sequence: 1,
            subnets: node.subnets,
            endpoints: vec![node.endpoint],
            behind_nat: false,
        };
        let signed = STANDARD.encode(record.sign(&node.keys, &self.anchor).unwrap());
        let SocketAddr::V4(at) = node.endpoint else { return };
        let value = LeaseValue {
            public_ip: Some(*at.ip()),
            backend_type: Some(BACKEND_TYPE.into()),
            backend_data: Some(serde_json::json!({ "signed": signed })),
            ..LeaseValue::default()
        };
        let (lease, _) = client.grant(LEASE).await.unwrap();
        client.put(&self.prefix.subnet(&node.subnets), &value.to_json(), lease).await.unwrap();
    }
}

fn subnets(network: &NetworkConfig, index: u32) -> Subnets {
    let pool = network.v4.as_ref().unwrap();
    let std::net::IpAddr::V4(first) = pool.network.network() else { panic!("{}", pool.network) };
    let size = 1 << (32 - u32::from(pool.subnet_len));
    let net = Ipv4Net::new(Ipv4Addr::from_bits(first.to_bits() + (FIRST + index) * size), pool.subnet_len).unwrap();
    Subnets::new(Some(net), None).unwrap()
}
