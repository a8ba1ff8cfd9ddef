//! Networks and endpoints: what Docker makes and removes, and containers that come and go.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::bindings;
use super::message::{
    CreateEndpoint, CreateNetwork, CreatedEndpoint, CreatedInterface, DeleteNetwork, Endpoint, InterfaceName, Joined,
    Options, PoolData, ProgramExternalConnectivity, StaticRoute,
};
use super::networks::Network;
use super::plugin::{Plugin, key};
use crate::container::{Fault, FaultKind, Place, Record, Request, Stage, attach, detach, publish};

/// Where options of `-o` are, and what `--internal` is.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";

/// What Docker's own drivers call [`Network::mtu`].
const MTU: &str = "com.docker.network.driver.mtu";

impl Plugin {
    /// `docker network create`.
    pub(super) fn create_network(&self, request: &CreateNetwork) -> Result<(), Fault> {
        let pools: Vec<&PoolData> = request.v4.iter().chain(&request.v6).collect();
        if pools.is_empty() || pools.iter().any(|pool| pool.address_space != self.space()) {
            let pool = pools.first().map_or("", |pool| pool.pool.as_str());
            let sentence = format!(
                "the addresses of this network{} are not of this node, so that no other node would find its containers; type `{}`",
                if pool.is_empty() { String::new() } else { format!(", {pool},") },
                self.command(if request.v6.is_empty() { "" } else { " --ipv6" })
            );
            return Err(Fault::new(FaultKind::Invalid, sentence));
        }
        let mut network = settings(&request.options)?;
        if let Some(mtu) = network.mtu {
            let most = self.node()?.mtu;
            if !(1280..=most).contains(&mtu) {
                let sentence = format!("an MTU of {mtu} does not fit: write a number from 1280 to {most}");
                return Err(Fault::new(FaultKind::Invalid, sentence));
            }
        }
        network.kept =
            pools.iter().flat_map(|pool| pool.aux_addresses.values()).filter_map(|text| address_of(text)).collect();
        self.networks().insert(&request.network, network)
    }

    /// `docker network rm`.
    pub(super) fn delete_network(&self, request: &DeleteNetwork) -> Result<(), Fault> {
        self.networks().remove(&request.network)
    }

    /// A container comes: its device is made.
    pub(super) fn create_endpoint(&self, request: &CreateEndpoint) -> Result<CreatedEndpoint, Fault> {
        let node = self.node()?;
        let Some(network) = self.networks().get(&request.network).cloned() else {
            let sentence = format!(
                "the network {:.12} is not known to adit any more; remove it with `docker network rm`, then type `{}`",
                request.network,
                self.command("")
            );
            return Err(Fault::new(FaultKind::NotAsMade, sentence));
        };
        let asked = &request.interface;
        let wanted: Vec<IpAddr> =
            [&asked.address, &asked.address6].into_iter().filter_map(|text| address_of(text)).collect();
        if let Some(foreign) = wanted.iter().find(|ip| !node.subnets.iter().any(|subnet| subnet.contains(*ip))) {
            return Err(self.moved(&node, IpNet::from(*foreign)));
        }
        if wanted.is_empty() {
            return Err(Fault::new(FaultKind::Invalid, "Docker gives the container no address"));
        }
        let mac = match asked.mac_address.as_str() {
            "" => None,
            text => Some(parse_mac(text).ok_or_else(|| {
                Fault::new(FaultKind::Invalid, format!("{text:?} is no link-layer address, such as 0a:58:0a:2a:07:02"))
            })?),
        };
        let key = key(&request.network, &request.endpoint);
        let record = match self.store.read(&key)?.filter(|record| is_so(record, &wanted)) {
            // We were restarted before the answer went out, and are asked again.
            Some(record) => record,
            None => attach(
                &node,
                &self.store,
                &Request {
                    reservation: self.gather(&node, &wanted)?,
                    key,
                    // Docker tells drivers no names of containers.
                    name: None,
                    wanted,
                    mac,
                    ports: Vec::new(),
                    isolated: network.isolated,
                    mtu: network.mtu,
                    default_route: !network.internal,
                    place: Place::Host,
                    process: None,
                },
            )?,
        };
        let mac_address = if mac.is_none() { show_mac(record.mac) } else { String::new() };
        Ok(CreatedEndpoint { interface: CreatedInterface { mac_address } })
    }

    /// Its device is to be moved into it.
    pub(super) fn join(&self, request: &Endpoint) -> Result<Joined, Fault> {
        let node = self.node()?;
        let key = key(&request.network, &request.endpoint);
        let record = self.record(&key)?;
        let gateway = |v6: bool| -> Option<String> {
            let has = record.addresses.iter().any(|address| address.addr().is_ipv6() == v6);
            node.gateways().map(|net| net.addr()).find(|ip| has && ip.is_ipv6() == v6).map(|ip| ip.to_string())
        };
        let interface_name = InterfaceName { src_name: key.inner_interface(), dst_prefix: "eth" };
        let is_internal = self.networks().get(&request.network).is_some_and(|network| network.internal);
        if !is_internal {
            let (gateway, gateway6) = (gateway(false), gateway(true).unwrap_or_default());
            // For the way out Docker looks at IPv4 alone.
            let disable_gateway_service = gateway.is_none();
            let gateway = gateway.unwrap_or_default();
            return Ok(Joined { interface_name, gateway, gateway6, disable_gateway_service, ..Joined::default() });
        }
        let static_routes = node
            .networks
            .iter()
            .filter_map(|net| {
                let next_hop = gateway(net.addr().is_ipv6())?;
                Some(StaticRoute { destination: net.trunc().to_string(), route_type: 0, next_hop })
            })
            .collect();
        Ok(Joined { interface_name, static_routes, disable_gateway_service: true, ..Joined::default() })
    }

    /// Ports of this host are to lead to it.
    pub(super) fn publish(&self, request: &ProgramExternalConnectivity) -> Result<(), Fault> {
        let key = key(&request.network, &request.endpoint);
        let record = self.record(&key)?;
        let ports = bindings::ports(&request.options.ports, &record, &self.store.read_all()?)?;
        if ports != record.ports {
            publish(&self.node()?, &self.store, &key, ports)?;
        }
        Ok(())
    }

    /// They are not to any more.
    pub(super) fn revoke(&self, request: &Endpoint) -> Result<(), Fault> {
        let key = key(&request.network, &request.endpoint);
        if self.store.read(&key)?.is_some_and(|record| !record.ports.is_empty()) {
            publish(&self.node()?, &self.store, &key, Vec::new())?;
        }
        Ok(())
    }

    /// A container is gone.
    pub(super) fn delete_endpoint(&self, request: &Endpoint) -> Result<(), Fault> {
        detach(&self.store, &key(&request.network, &request.endpoint)).map(drop)
    }
}

/// Whether an attachment is that of who asks for these addresses.
fn is_so(record: &Record, wanted: &[IpAddr]) -> bool {
    record.stage == Stage::Made
        && record.addresses.len() == wanted.len()
        && record.addresses.iter().all(|address| wanted.contains(&address.addr()))
}

/// What `docker network create` said.
fn settings(options: &Options) -> Result<Network, Fault> {
    let mut network = Network { internal: options.get(INTERNAL) == Some(&Value::Bool(true)), ..Network::default() };
    let Some(Value::Object(generic)) = options.get(GENERIC) else { return Ok(network) };
    for (name, value) in generic {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let wrong =
            |form: &str| Fault::new(FaultKind::Invalid, format!("-o {name}={text} is not understood: write {form}"));
        match name.as_str() {
            "isolated" => network.isolated = text.parse().map_err(|_| wrong("-o isolated=true, or false"))?,
            "mtu" | MTU => {
                network.mtu = Some(text.parse().map_err(|_| wrong("a number of bytes, such as -o mtu=1280"))?)
            }
            _ => {
                let sentence = format!("adit's networks have no option {name}: there are isolated and mtu");
                return Err(Fault::new(FaultKind::Invalid, sentence));
            }
        }
    }
    Ok(network)
}

/// The address of a text, which may have a prefix length.
fn address_of(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten()).collect();
    bytes?.try_into().ok()
}

fn show_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
