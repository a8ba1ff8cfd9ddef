//! From a question of dockerd's to its answer: what the methods have in common.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use linux::netlink::Netlink;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ipam::Pending;
use super::networks::Networks;
use crate::Directories;
use crate::container::{Door, Fault, FaultKind, Key, Node, Record, Stage, Store, collect};

/// The server without its socket.
pub(super) struct Plugin {
    pub(super) directories: Directories,
    pub(super) device: String,
    /// What Docker calls us: the name of the socket without its ending.
    pub(super) driver: String,
    pub(super) store: Store,
    networks: Mutex<Networks>,
    pending: Mutex<Pending>,
    /// Called when something may have changed what Docker's packet filters have to let through.
    changed: Box<dyn Fn() + Send + Sync>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// We have no such method; Docker asks for some that not every driver has.
    Unknown,
    /// It cannot be done.
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Plugin {
    /// One for the node of this device, that Docker knows by the name of this socket.
    ///
    /// # Errors
    /// What is known of Docker's networks cannot be read.
    pub(super) fn new(
        directories: &Directories,
        device: &str,
        socket: &Path,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, Fault> {
        let driver = socket.file_stem().map_or_else(|| "adit".into(), |stem| stem.to_string_lossy().into_owned());
        let networks = Networks::read(&Networks::path(directories, device))?;
        Ok(Self {
            directories: directories.clone(),
            device: device.to_owned(),
            driver,
            store: Store::of(directories, device),
            networks: Mutex::new(networks),
            pending: Mutex::default(),
            changed: Box::new(changed),
        })
    }

    /// Answers a method, such as `NetworkDriver.Join`. It may take as long as the kernel and the disk do.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(super) fn answer(&self, method: &str, body: &[u8]) -> Result<Value, Refusal> {
        let answer = match method {
            "Plugin.Activate" => {
                // dockerd has just started: what it was about before, it has forgotten.
                self.clean()?;
                (self.changed)();
                json!({ "Implements": ["NetworkDriver", "IpamDriver"] })
            }
            // Each host makes its networks itself; containers of different hosts reach each other.
            "NetworkDriver.GetCapabilities" => json!({ "Scope": "local", "ConnectivityScope": "global" }),
            "NetworkDriver.CreateNetwork" => {
                self.create_network(&read(body)?)?;
                (self.changed)();
                done()
            }
            "NetworkDriver.DeleteNetwork" => self.delete_network(&read(body)?).map(|()| done())?,
            "NetworkDriver.CreateEndpoint" => say(&self.create_endpoint(&read(body)?)?)?,
            "NetworkDriver.DeleteEndpoint" => self.delete_endpoint(&read(body)?).map(|()| done())?,
            "NetworkDriver.Join" => {
                (self.changed)();
                say(&self.join(&read(body)?)?)?
            }
            "NetworkDriver.ProgramExternalConnectivity" => self.publish(&read(body)?).map(|()| done())?,
            "NetworkDriver.RevokeExternalConnectivity" => self.revoke(&read(body)?).map(|()| done())?,
            "NetworkDriver.EndpointOperInfo" => json!({ "Value": {} }),
            // What is to go goes with the endpoint; other hosts are known without Docker.
            "NetworkDriver.Leave" | "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => done(),
            "IpamDriver.GetCapabilities" => json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }),
            "IpamDriver.GetDefaultAddressSpaces" => {
                json!({ "LocalDefaultAddressSpace": self.space(), "GlobalDefaultAddressSpace": self.space() })
            }
            "IpamDriver.RequestPool" => self.request_pool(&read(body)?)?,
            "IpamDriver.ReleasePool" => self.release_pool(&read(body)?).map(|()| done())?,
            "IpamDriver.RequestAddress" => self.request_address(&read(body)?)?,
            "IpamDriver.ReleaseAddress" => self.release_address(&read(body)?).map(|()| done())?,
            _ => return Err(Refusal::Unknown),
        };
        Ok(answer)
    }

    /// Removes what nobody will ask for again: addresses that were reserved for containers that never came, and what a container left whose
    /// namespace has ended without Docker having told us, as when the host did.
    ///
    /// # Errors
    /// What could not be read or removed.
    pub(super) fn clean(&self) -> Result<(), Fault> {
        let mut netlink = Netlink::open()?;
        let links: Vec<String> = netlink.links()?.into_iter().map(|link| link.name).collect();
        let networks = self.networks();
        let removed = collect(&self.store, &|record| match (record.key.door, record.stage) {
            (Door::Docker, Stage::Reserved) => record.addresses.iter().any(|address| networks.keeps(address.addr())),
            (Door::Docker, Stage::Made) => links.contains(&record.host_interface),
            _ => true,
        })?;
        for record in removed {
            tracing::info!("removed what was left of {}", record.title());
        }
        Ok(())
    }

    /// What the node is at this moment.
    pub(super) fn node(&self) -> Result<Node, Fault> {
        Node::read(&self.directories, &self.device)
    }

    /// By what Docker tells our addresses from others'.
    pub(super) fn space(&self) -> &str {
        &self.driver
    }

    /// The command that makes a network.
    pub(super) fn command(&self, more: &str) -> String {
        let Self { driver, .. } = self;
        format!("docker network create -d {driver} --ipam-driver {driver}{more} NAME")
    }

    pub(super) fn networks(&self) -> MutexGuard<'_, Networks> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attachment of an endpoint.
    pub(super) fn record(&self, key: &Key) -> Result<Record, Fault> {
        self.store.read(key)?.ok_or_else(|| {
            let sentence =
                format!("the endpoint {:.12} is not known to adit; start the container again", key.container);
            Fault::new(FaultKind::NotAsMade, sentence)
        })
    }
}

/// The answer of whoever has nothing to say.
fn done() -> Value {
    json!({})
}

/// The key of an endpoint. What its device is called inside is up to Docker.
pub(super) fn key(network: &str, endpoint: &str) -> Key {
    Key { door: Door::Docker, network: network.into(), container: endpoint.into(), interface: "eth0".into() }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|e| {
        Fault::new(
            FaultKind::Invalid,
            format!("what Docker asks is not understood: {e}; adit may be too old for this Docker"),
        )
    })
}

fn say<T: Serialize>(answer: &T) -> Result<Value, Fault> {
    serde_json::to_value(answer).map_err(|e| Fault::new(FaultKind::Invalid, e.to_string()))
}
