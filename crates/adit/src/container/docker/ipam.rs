//! Addresses for Docker: its networks have those of the node's subnets, and share them.

use std::net::IpAddr;

use aws_lc_rs::rand;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::message::{ReleaseAddress, ReleasePool, RequestAddress, RequestPool};
use super::plugin::Plugin;
use crate::container::{Door, Fault, FaultKind, Key, Node, Record, Stage, detach, reserve};

/// The option that says what an address is for, and its value for that of a gateway.
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

/// Families of pools that were answered to whoever did not ask for one, and of which Docker has not said yet that it takes them.
///
/// Until version 27 Docker compares such a pool with the routes of the host, and where it lies in one, asks for another, as long as it gets
/// the same one. Ours always lies in one: that of the network. So who asks again is told [`anything`], which it takes without looking; containers get
/// the same addresses, but `docker network inspect` shows it. Who names the subnet by `--subnet` is not affected.
#[derive(Debug, Default)]
pub(super) struct Pending {
    v4: bool,
    v6: bool,
}

impl Pending {
    fn of(&mut self, v6: bool) -> &mut bool {
        if v6 { &mut self.v6 } else { &mut self.v4 }
    }
}

/// The pool that Docker does not look at.
fn anything(v6: bool) -> &'static str {
    if v6 { "::/0" } else { "0.0.0.0/0" }
}

impl Plugin {
    /// Addresses for a network.
    pub(super) fn request_pool(&self, request: &RequestPool) -> Result<Value, Fault> {
        let node = self.node()?;
        let invalid = |sentence: String| Err(Fault::new(FaultKind::Invalid, sentence));
        let v6 = request.v6;
        let Some(subnet) = node.subnets.iter().find(|subnet| subnet.addr().is_ipv6() == v6) else {
            return invalid(if v6 {
                format!("this node has no IPv6; leave --ipv6 out: `{}`", self.command(""))
            } else {
                format!(
                    "this node has no IPv4; type `{}`, with Docker 28 or later",
                    self.command(" --ipv4=false --ipv6")
                )
            });
        };
        let subnet = subnet.trunc();
        if !request.sub_pool.is_empty() {
            return invalid(format!(
                "addresses of {subnet} are given to containers by adit, not by range; leave --ip-range out: `{}`",
                self.command("")
            ));
        }
        if let Some(name) = request.options.keys().next() {
            return invalid(format!(
                "adit's IPAM driver has no option {name:?}; leave --ipam-opt out: `{}`",
                self.command("")
            ));
        }
        let pool = if request.pool.is_empty() {
            let mut pending = self.pending();
            // The first answer was not taken.
            if std::mem::replace(pending.of(v6), true) { anything(v6).to_owned() } else { subnet.to_string() }
        } else if request.pool.parse::<IpNet>().is_ok_and(|pool| pool.trunc() == subnet) {
            subnet.to_string()
        } else {
            return invalid(format!(
                "{} is not this node's: containers here have addresses of {subnet}, and other nodes their own; type `{}`",
                request.pool,
                self.command("")
            ));
        };
        Ok(json!({ "PoolID": subnet.to_string(), "Pool": pool, "Data": {} }))
    }

    /// What a pool had are addresses, which are given back one by one.
    pub(super) fn release_pool(&self, request: &ReleasePool) -> Result<(), Fault> {
        if let Ok(pool) = request.pool.parse::<IpNet>() {
            self.taken(pool);
        }
        Ok(())
    }

    /// Notes that Docker goes on with what it was told.
    fn taken(&self, pool: IpNet) {
        *self.pending().of(pool.addr().is_ipv6()) = false;
    }

    /// One address of a container, or that of the gateway.
    pub(super) fn request_address(&self, request: &RequestAddress) -> Result<Value, Fault> {
        let node = self.node()?;
        let invalid = |sentence: String| Err(Fault::new(FaultKind::Invalid, sentence));
        let Ok(pool) = request.pool.parse::<IpNet>() else {
            return invalid(format!("{:?} is no pool of adit's", request.pool));
        };
        self.taken(pool);
        let Some(node) = part(&node, pool) else { return Err(self.moved(&node, pool)) };
        let wanted: Option<IpAddr> = match request.address.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(ip) => Some(ip),
                Err(_) => return invalid(format!("{text:?} is no address")),
            },
        };
        if request.options.get(ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY) {
            let Some(gateway) = node.gateways().next() else { return Err(self.moved(&node, pool)) };
            if wanted.is_some_and(|ip| ip != gateway.addr()) {
                let sentence = format!(
                    "the gateway of containers here is {}; leave --gateway out: `{}`",
                    gateway.addr(),
                    self.command("")
                );
                return invalid(sentence);
            }
            return Ok(json!({ "Address": gateway.to_string(), "Data": {} }));
        }
        let key = Key {
            door: Door::Docker,
            network: pool.to_string(),
            container: format!("reserved-{}", random()?),
            interface: String::new(),
        };
        let record = reserve(&node, &self.store, &key, wanted.as_slice())?;
        match record.addresses.first() {
            Some(address) => Ok(json!({ "Address": address.to_string(), "Data": {} })),
            None => Err(self.moved(&node, pool)),
        }
    }

    /// Gives an address back that was reserved. One that a container has is given back with its endpoint.
    pub(super) fn release_address(&self, request: &ReleaseAddress) -> Result<(), Fault> {
        let Ok(ip) = request.address.parse::<IpAddr>() else { return Ok(()) };
        for record in self.reserved(&[ip])? {
            detach(&self.store, &record.key)?;
        }
        Ok(())
    }

    /// The reservations of these addresses.
    fn reserved(&self, ips: &[IpAddr]) -> Result<Vec<Record>, Fault> {
        let mut records = self.store.read_all()?;
        records.retain(|record| {
            record.key.door == Door::Docker
                && record.stage == Stage::Reserved
                && record.addresses.iter().any(|address| ips.contains(&address.addr()))
        });
        Ok(records)
    }

    /// One reservation that has all of these addresses: those of both families come one by one.
    pub(super) fn gather(&self, node: &Node, ips: &[IpAddr]) -> Result<Option<Key>, Fault> {
        for ip in ips {
            let missing = self.reserved(&[*ip])?.is_empty();
            if missing && let Some(subnet) = node.subnets.iter().find(|subnet| subnet.contains(ip)) {
                self.request_address(&RequestAddress {
                    pool: subnet.trunc().to_string(),
                    address: ip.to_string(),
                    options: Default::default(),
                })?;
            }
        }
        let mut reserved = self.reserved(ips)?.into_iter();
        let Some(mut first) = reserved.next() else { return Ok(None) };
        let locked = self.store.lock()?;
        for other in reserved {
            first.addresses.extend(&other.addresses);
            locked.put(&first)?;
            locked.remove(&other.key)?;
        }
        Ok(Some(first.key))
    }

    /// Why a pool that a network was made with is none any more.
    pub(super) fn moved(&self, node: &Node, pool: IpNet) -> Fault {
        let subnets: Vec<String> = node.subnets.iter().map(ToString::to_string).collect();
        let sentence = format!(
            "this Docker network was made when the node had {pool}, and now it has {}; remove it with `docker network rm NAME`, then type `{}`",
            subnets.join(" and "),
            self.command(if subnets.len() > 1 { " --ipv6" } else { "" })
        );
        Fault::new(FaultKind::Invalid, sentence)
    }
}

/// The node as if this were its only subnet; none if it is not one of its.
fn part(node: &Node, pool: IpNet) -> Option<Node> {
    let subnet = node.subnets.iter().find(|subnet| subnet.trunc() == pool)?;
    Some(Node { subnets: vec![*subnet], ..node.clone() })
}

fn random() -> Result<String, Fault> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| Fault::new(FaultKind::Kernel, "the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
