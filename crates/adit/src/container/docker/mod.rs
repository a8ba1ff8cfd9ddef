//! Docker's door: a server on a unix socket that dockerd asks for addresses and devices (libnetwork's remote drivers, version 1 of its plugin
//! protocol).
//!
//! ```text
//!  docker network create ── RequestPool ─ CreateNetwork ──► a line in <state>/<device>.docker.json
//!  docker run ── RequestAddress ──► reserve ── CreateEndpoint ──► attach ── Join ──► names of device and gateway
//!                                                                  └ ProgramExternalConnectivity ──► publish
//!  docker rm ── Leave ─ DeleteEndpoint ──► detach ── ReleaseAddress
//! ```
//!
//! dockerd moves the inner end of the veth pair into the container, gives it its addresses and routes, and takes it back. What was given to whom is
//! in the [records](super::record), so that neither a restart of this server nor one of dockerd loses anything. Docker drops what it forwards for
//! others; [`firewall`] asks it to let our network through, in the chain that it has for that.

mod bindings;
mod driver;
mod firewall;
mod ipam;
mod message;
mod networks;
mod options;
mod plugin;
mod program;
mod server;

pub use networks::forget;
pub use options::DockerOptions;
pub use server::{Settings, serve};
