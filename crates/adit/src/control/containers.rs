//! Containers of this node: the programs that make them are told what the node is, and what they made is kept as it should be.

use std::fs;
use std::io;

use ipnet::IpNet;

use super::{Control, Scope};
use crate::config::{Network, Origin, Tunnel};
use crate::container::Node;
use crate::{Failure, Result};

/// What those programs are to know of this node; nothing of a tunnel from a file.
fn describe(tunnel: &Tunnel, mtu: u32) -> Option<Node> {
    let Network { node_name, bridge, domain, .. } = tunnel.network.as_ref()?;
    let of_overlay = |part: fn(&crate::config::Overlay) -> &Vec<IpNet>| {
        tunnel.overlay.as_ref().map(part).cloned().unwrap_or_default()
    };
    let clients = tunnel.peers.iter().filter(|peer| peer.origin == Origin::Client);
    let mut clients: Vec<_> = clients.flat_map(|peer| &peer.allowed_ips).map(IpNet::addr).collect();
    clients.sort_unstable();
    Some(Node {
        device: tunnel.device.name.clone(),
        name: node_name.clone(),
        domain: domain.clone(),
        bridge: bridge.clone(),
        networks: of_overlay(|overlay| &overlay.networks),
        subnets: of_overlay(|overlay| &overlay.subnets),
        mtu,
        clients,
    })
}

impl Control {
    /// Checks that nothing hangs on the bridge, which is to be another one.
    ///
    /// # Errors
    /// There are containers, or it is not known.
    pub(super) fn check_no_containers(&self) -> Result<()> {
        let Some(network) = &self.tunnel.network else { return Ok(()) };
        match self.store.read_all()?.len() {
            0 => Ok(()),
            n => Err(Failure::usage(format!(
                "{n} container{} on the bridge {}, and nothing was changed",
                if n == 1 { " hangs" } else { "s hang" },
                network.bridge
            ))
            .with_remedy("remove them first, or write what it was before")),
        }
    }

    /// Says what the node is, where that is news or the file was taken away.
    ///
    /// # Errors
    /// The file cannot be written, or removed where this is no node any more. It is tried again at the next look at the host.
    pub(super) fn tell_doors(&mut self) -> Result<()> {
        if self.scope == Scope::Device {
            return Ok(());
        }
        let node = describe(&self.tunnel, self.device.load().mtu);
        let Some(node) = node else { return self.silence_doors() };
        if self.told.as_ref() == Some(&node) && Node::path(&self.directories, &node.device).exists() {
            return Ok(());
        }
        node.write(&self.directories).map_err(|e| {
            let path = Node::path(&self.directories, &node.device);
            Failure::failed(format!("cannot write {}: {e}", path.display()))
                .with_remedy("make its directory writable; until then no container can be added")
        })?;
        self.told = Some(node);
        Ok(())
    }

    /// The same where it is no reason to stop.
    pub(super) fn try_to_tell_doors(&mut self) {
        if let Err(failure) = self.tell_doors() {
            tracing::warn!("{failure}");
        }
    }

    /// Says that there is no node here.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(super) fn silence_doors(&mut self) -> Result<()> {
        self.told = None;
        let path = Node::path(&self.directories, &self.tunnel.device.name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Failure::failed(format!("cannot remove {}: {e}", path.display())))
            }
            _ => Ok(()),
        }
    }
}
