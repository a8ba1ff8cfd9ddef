//! What dockerd asks and is answered, as libnetwork writes it (`drivers/remote/api` and `ipams/remote/api` of github.com/moby/moby). Fields that
//! say nothing to us are left out, and `null` is as good as nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Options by name. Most are of the kind that Docker calls generic.
pub(super) type Options = BTreeMap<String, Value>;

/// What says nothing, written as `null`.
fn nullable<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `IpamDriver.RequestPool`: addresses for a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    /// `--subnet`; empty: any.
    #[serde(deserialize_with = "nullable")]
    pub(super) pool: String,
    /// `--ip-range`.
    #[serde(deserialize_with = "nullable")]
    pub(super) sub_pool: String,
    /// `--ipam-opt`.
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Options,
    /// Of which family.
    pub(super) v6: bool,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Deserialize)]
pub(super) struct ReleasePool {
    /// As it was answered to [`RequestPool`].
    #[serde(rename = "PoolID")]
    pub(super) pool: String,
}

/// `IpamDriver.RequestAddress`: one of a container, or that of the gateway.
#[derive(Debug, Deserialize)]
pub(super) struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool: String,
    /// `--ip`, `--gateway` or `--aux-address`; empty: any.
    #[serde(rename = "Address", default, deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: Options,
}

/// `IpamDriver.ReleaseAddress`.
#[derive(Debug, Deserialize)]
pub(super) struct ReleaseAddress {
    #[serde(rename = "Address", default, deserialize_with = "nullable")]
    pub(super) address: String,
}

/// Addresses that a network has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PoolData {
    /// Which driver they are of, as far as that can be told: what its `GetDefaultAddressSpaces` said.
    #[serde(deserialize_with = "nullable")]
    pub(super) address_space: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) pool: String,
    /// Addresses that no container is to get, by name, with a prefix length.
    #[serde(deserialize_with = "nullable")]
    pub(super) aux_addresses: BTreeMap<String, String>,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Deserialize)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: Options,
    #[serde(rename = "IPv4Data", default, deserialize_with = "nullable")]
    pub(super) v4: Vec<PoolData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "nullable")]
    pub(super) v6: Vec<PoolData>,
}

/// `NetworkDriver.DeleteNetwork`.
#[derive(Debug, Deserialize)]
pub(super) struct DeleteNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
}

/// A container's device, as far as it is known.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    /// With a prefix length.
    #[serde(deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    pub(super) address6: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) mac_address: String,
}

/// `NetworkDriver.CreateEndpoint`: a container comes.
#[derive(Debug, Deserialize)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
    #[serde(rename = "Interface", default, deserialize_with = "nullable")]
    pub(super) interface: Interface,
}

/// What names an endpoint, and nothing more: `Join`, `Leave`, `DeleteEndpoint`, `EndpointOperInfo`, `RevokeExternalConnectivity`.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
}

/// `NetworkDriver.ProgramExternalConnectivity`: ports of this host are to lead to a container.
#[derive(Debug, Deserialize)]
pub(super) struct ProgramExternalConnectivity {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
    #[serde(rename = "Options", default, deserialize_with = "nullable")]
    pub(super) options: External,
}

/// Those of its options that we go by.
#[derive(Debug, Default, Deserialize)]
pub(super) struct External {
    #[serde(rename = "com.docker.network.portmap", default, deserialize_with = "nullable")]
    pub(super) ports: Vec<PortBinding>,
}

/// `-p`, or one port of it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PortBinding {
    /// The number of the protocol (RFC 790).
    pub(super) proto: u8,
    /// That of the container.
    pub(super) port: u16,
    #[serde(rename = "HostIP", deserialize_with = "nullable")]
    pub(super) host_ip: String,
    /// 0: any.
    pub(super) host_port: u16,
    /// The last of a range of which any will do.
    pub(super) host_port_end: u16,
}

/// The answer to `NetworkDriver.CreateEndpoint`: what the request did not say.
#[derive(Debug, Default, Serialize)]
pub(super) struct CreatedEndpoint {
    #[serde(rename = "Interface")]
    pub(super) interface: CreatedInterface,
}

/// See [`CreatedEndpoint`].
#[derive(Debug, Default, Serialize)]
pub(super) struct CreatedInterface {
    #[serde(rename = "MacAddress", skip_serializing_if = "String::is_empty")]
    pub(super) mac_address: String,
}

/// The answer to `NetworkDriver.Join`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) gateway: String,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "String::is_empty")]
    pub(super) gateway6: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) static_routes: Vec<StaticRoute>,
    /// Docker is not to add a bridge of its own for the way out.
    pub(super) disable_gateway_service: bool,
}

/// Which device dockerd moves, and what its name begins with inside.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: &'static str,
}

/// A route by way of another host on the link.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StaticRoute {
    pub(super) destination: String,
    /// 0: by way of the next hop.
    pub(super) route_type: u8,
    pub(super) next_hop: String,
}
