//! Containers of this node: the programs that make them are told what the node is, and what they made is kept as it should be.

use std::fs;
use std::io;

use super::{Control, Scope};
use crate::config::{Network, Tunnel};
use crate::container::{self, Node, Record, Stage, Store};
use crate::observe::containers::strangers;
use crate::{Failure, Result, roads};

/// What those programs are to know of this node; nothing of a tunnel from a file.
fn describe(tunnel: &Tunnel, mtu: u32, store: &Store) -> Option<Node> {
    let Network { node_name, bridge, domain, .. } = tunnel.network.as_ref()?;
    let territory = tunnel.overlay.as_ref().map(|overlay| roads::territory(overlay, &tunnel.peers));
    let (networks, subnets, mut clients) =
        territory.map_or_else(Default::default, |of| (of.networks, of.subnets, of.clients));
    clients.sort_unstable();
    Some(Node {
        device: tunnel.device.name.clone(),
        name: node_name.clone(),
        domain: domain.clone(),
        bridge: bridge.clone(),
        networks,
        subnets,
        mtu,
        clients,
        containers: store.whole_directory(),
    })
}

/// Logs what is wrong where that is news; answers what is wrong.
fn say_when_new(before: Option<String>, now: Option<String>) -> Option<String> {
    if let Some(sentence) = now.as_ref().filter(|now| before.as_ref() != Some(now)) {
        tracing::error!("{sentence}");
    }
    now
}

/// Whether a container hangs on another bridge than this.
fn is_elsewhere(record: &Record, bridge: &str) -> bool {
    record.stage != Stage::Reserved && record.bridge != bridge
}

impl Control {
    /// Checks that the bridge is no other node's, and that no container hangs on another than this.
    ///
    /// # Errors
    /// It is, one does, or it is not known.
    pub(super) fn check_bridge(&self, wanted: &str) -> Result<()> {
        container::check_bridge(&self.directories, &self.tunnel.device.name, wanted)?;
        container::check_foreign(wanted)?;
        let records = self.store.read_all()?;
        let elsewhere: Vec<&Record> = records.iter().filter(|record| is_elsewhere(record, wanted)).collect();
        let Some(first) = elsewhere.first() else { return Ok(()) };
        let hang = match elsewhere.len() {
            1 => "1 container hangs".to_owned(),
            n => format!("{n} containers hang"),
        };
        let sentence = format!("{hang} on the bridge {}, and nothing was changed", first.bridge);
        Err(Failure::usage(sentence).with_remedy("remove them first, or write what it was before"))
    }

    /// Gives addresses back of containers that ended while no daemon ran, and that nobody asked for the end of.
    pub(super) fn forget_lost_containers(&self) {
        if self.scope == Scope::Device || self.tunnel.network.is_none() || !self.store.directory().exists() {
            return;
        }
        match container::sweep_at_start(&self.store) {
            Ok(lost) if lost.is_empty() => {}
            Ok(lost) => {
                let named: Vec<String> = lost.iter().map(Record::title).collect();
                tracing::info!("ended while no daemon ran, so that their addresses are free: {}", named.join(", "));
            }
            Err(fault) => tracing::warn!("what is left of former containers stays until one is added: {fault}"),
        }
    }

    /// Says what the node is, and brings back what somebody took from its containers on the host. Answers whether that has to wait, since a program
    /// adds or removes one at this moment.
    ///
    /// # Errors
    /// What could not be said or brought back. It is tried again at the next look at the host.
    pub(super) fn keep_containers(&mut self) -> Result<bool> {
        if self.scope == Scope::Device {
            return Ok(false);
        }
        let (records, damaged) = self.store.read_each()?;
        let told = self.tell_doors(&records).and(damaged.into_iter().next().map_or(Ok(()), |fault| Err(fault.into())));
        let Some(node) = &self.told else { return told.and_then(|()| self.keep_cards(&records)) };
        self.cut_off = say_when_new(self.cut_off.take(), strangers(&records, &node.subnets));
        if records.is_empty() {
            return told.map(|()| false);
        }
        let mut outcome = container::repair(node, &self.store);
        if outcome.as_ref().is_some_and(|(_, faults)| !faults.is_empty()) {
            // What went away in this moment was not to be repaired.
            let (done, _) = outcome.unwrap_or_default();
            outcome = container::repair(node, &self.store).map(|(more, faults)| (done + more, faults));
        }
        let Some((done, faults)) = outcome else { return told.map(|()| true) };
        if done > 0 {
            self.surroundings.control.container_repairs.add(done as u64);
            tracing::info!("brought the containers' side of {} back to what it was ({done} changes)", node.device);
        }
        told?;
        match faults.into_iter().next() {
            Some(fault) => Err(fault.into()),
            None => Ok(false),
        }
    }

    /// Brings back cards of virtual machines on the bridge of a tunnel from a file; answers as [`Control::keep_containers`].
    fn keep_cards(&self, records: &[Record]) -> Result<bool> {
        let bridge = self.tunnel.ethernet.as_ref().and_then(|ethernet| ethernet.bridge.as_ref());
        let Some(bridge) = bridge.filter(|_| !records.is_empty()) else { return Ok(false) };
        let Some((done, faults)) = container::repair_cards(bridge, &self.store) else { return Ok(true) };
        if done > 0 {
            tracing::info!("brought the virtual machines' cards on {bridge} back to what they were ({done} changes)");
        }
        faults.into_iter().next().map_or(Ok(false), |fault| Err(fault.into()))
    }

    /// Says what the node is, where that is news or the file was taken away.
    ///
    /// # Errors
    /// The file cannot be written, or removed where this is no node any more.
    fn tell_doors(&mut self, records: &[Record]) -> Result<()> {
        let Some(mut node) = describe(&self.tunnel, self.device.load().mtu, &self.store) else {
            return self.silence_doors();
        };
        // Until the last of them is gone, they are all on one bridge; unless that is another node's, who keeps it as it should be for its own.
        let elsewhere = records.iter().find(|record| is_elsewhere(record, &node.bridge)).filter(|record| {
            let other = container::node::other_with(&self.directories, &node.device, &record.bridge);
            let is_news = self.told.as_ref().is_none_or(|told| told.bridge != node.bridge);
            if let Some(other) = other.as_ref().filter(|_| is_news) {
                tracing::warn!(
                    "containers hang on {}, the bridge of {other}, and reach nobody: start {} anew",
                    record.bridge,
                    record.title()
                );
            }
            other.is_none()
        });
        if let Some(record) = elsewhere {
            if self.told.as_ref().is_none_or(|told| told.bridge != record.bridge) {
                tracing::warn!(
                    "containers hang on the bridge {}: it is {} when the last of them is gone",
                    record.bridge,
                    node.bridge
                );
            }
            node.bridge.clone_from(&record.bridge);
        }
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

    /// Says what the node is by a configuration that has just come into force. What cannot be said now is at the next look at the host.
    pub(super) fn try_to_tell_doors(&mut self) {
        if self.scope == Scope::Device {
            return;
        }
        let told = self.store.read_all().map_err(Failure::from).and_then(|records| self.tell_doors(&records));
        if let Err(failure) = told {
            tracing::warn!("{failure}");
        }
    }

    /// Ends that there is a node here. Containers that there are stay on their bridge; one that nothing hangs on goes.
    ///
    /// # Errors
    /// What could not be removed.
    pub(super) fn part_with_containers(&mut self) -> Result<()> {
        let configured = self.tunnel.network.as_ref().map(|network| network.bridge.clone());
        let bridge = self.told.as_ref().map(|node| node.bridge.clone()).or(configured);
        self.silence_doors()?;
        if let Some(bridge) = bridge {
            container::remove_unused_bridge(&bridge)?;
        }
        Ok(())
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
