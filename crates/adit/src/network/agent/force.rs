//! What follows from all that is known: put into force, remembered, written, reported.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use registry::schema::{Backend, Subnets};
use registry::view::{self, PlainNode, View};

use super::super::clients;
use super::super::host::Host;
use super::super::parts::{self, Outcome};
use super::super::peers::{self, Wanted};
use super::super::report::{self, Situation};
use super::{AGAIN, Agent, LITTLE, NAMED, REFUSALS, TICK, Topic, edit};
use crate::config::{self, Overlay};
use crate::request::Handle;
use crate::subnet_env::SubnetEnv;
use crate::{Failure, Result};

impl Agent {
    /// Peers, addresses and secrets as they are to be.
    pub(super) fn wanted(&self) -> Result<Wanted> {
        let (Some(network), Some(view)) = (&self.network, &self.view) else {
            return Err(Failure::failed("it is not known yet what network this is"));
        };
        let held: Vec<_> = match &self.lease {
            Some(lease) if lease.subnets().is_some() => lease.subnets().iter().flat_map(Subnets::iter).collect(),
            Some(lease) if lease.is_taken() => Vec::new(),
            _ => self.notes.subnets.clone(),
        };
        let overlay = Overlay {
            networks: network.networks(),
            subnets: held.clone(),
            masquerade: self.settings.ip_masq,
            forward: self.settings.forward_rules,
            port: network.backend.port(),
            membership: self.member.membership(),
        };
        // Who has no subnet speaks for nobody: nothing is sent then, and nothing accepted.
        if held.is_empty() {
            return Ok(Wanted { overlay, peers: Vec::new() });
        }
        let mut peers: Vec<config::Peer> =
            view.nodes().iter().map(|node| peers::of_node(node, self.listen, self.behind_nat, &self.turns)).collect();
        if let Backend::Udp { port } = &network.backend {
            let (plain, _) = self.plain_nodes(view);
            peers.extend(plain.iter().map(|node| peers::of_plain_node(node, *port)));
        }
        let serves = |client: &&clients::Client| {
            client.addresses.iter().all(|address| held.iter().any(|subnet| subnet.contains(address)))
        };
        peers.extend(self.clients.iter().filter(serves).map(peers::of_client));
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Wanted { overlay, peers })
    }

    /// Nodes of flannel's own that are spoken to, and why others that might be are not.
    pub(super) fn plain_nodes(&self, view: &View) -> (Vec<PlainNode>, Vec<String>) {
        let mut plain = if self.settings.plain { view.plain_nodes() } else { Vec::new() };
        plain.retain(|node| {
            let address = IpAddr::from(node.public_ip);
            self.settings.plain_from.iter().any(|net| net.contains(&address)) && !self.public.contains(&address)
        });
        // Whose word is signed is not spoken to in the clear, whoever writes that somebody else is there.
        let signed = if plain.is_empty() { Vec::new() } else { view.nodes() };
        let places = signed.iter().flat_map(|node| node.endpoints.iter().map(move |endpoint| (endpoint.ip(), node)));
        let at: HashMap<IpAddr, &view::Node> = places.collect();
        let mut apart = Vec::new();
        plain.retain(|node| {
            let other = at.get(&IpAddr::from(node.public_ip));
            if let (Some(other), true) = (other, apart.len() < NAMED) {
                let PlainNode { subnets, public_ip } = node;
                apart.push(format!(
                    "{subnets} is not reached: at {public_ip} there is {}, which is not spoken to in the clear",
                    other.name
                ));
            }
            other.is_none()
        });
        (plain, apart)
    }

    pub(super) async fn put_into_force(&mut self) {
        let Some(handle) = self.handle.clone() else { return };
        let Ok(wanted) = self.wanted() else { return };
        if self.in_force.as_deref() != Some(&wanted) {
            let wanted = Arc::new(wanted);
            self.refused = wanted.conflicts(&handle.picture().tunnel);
            match edit(&handle, &wanted).await {
                Ok(summary) => {
                    tracing::info!("the network: {summary}");
                    self.in_force = Some(wanted);
                    self.again = None;
                }
                Err(refusal) => {
                    self.refused.push(refusal);
                    self.put_in_parts(&handle, &wanted).await;
                    self.again = Some(Instant::now() + AGAIN);
                }
            }
        }
        self.remember();
        self.write_subnet_files(&handle);
        self.report(&handle);
    }

    /// Not all can be put into force: what can be is.
    pub(super) async fn put_in_parts(&mut self, handle: &Handle, wanted: &Wanted) {
        let before = self.in_force.clone();
        let outcome = parts::put(before.as_deref(), wanted, async |next: &Wanted| {
            edit(handle, &Arc::new(next.clone())).await.map(drop)
        });
        let Some(Outcome { good, left_out }) = outcome.await else { return };
        for sentence in left_out {
            tracing::warn!("{sentence}");
            self.refused.push(sentence);
        }
        self.refused.truncate(REFUSALS);
        self.in_force = Some(Arc::new(good));
    }

    /// Notes what is known: a removal at once, and all else where that is little; otherwise not too often.
    pub(super) fn remember(&mut self) {
        let Some(view) = &mut self.view else { return };
        self.unsaved |= view.is_unsaved();
        let removals = view.removals().count();
        let (last, noted) = self.remembered;
        let is_little = self.in_force.as_ref().is_none_or(|wanted| wanted.peers.len() <= LITTLE);
        let is_due = is_little || removals != noted || last.is_none_or(|last| last.elapsed() >= TICK);
        if self.unsaved && is_due {
            self.remembered = (Some(Instant::now()), removals);
            self.remember_now();
        }
    }

    pub(super) fn remember_now(&mut self) {
        let Some(view) = &mut self.view else { return };
        self.unsaved |= view.is_unsaved();
        if self.unsaved {
            let outcome = self.member.remember(&view.memory());
            // What could not be written is tried again.
            self.unsaved = outcome.is_err();
            self.follow(Topic::Memory, outcome);
        }
    }

    pub(super) fn write_subnet_files(&mut self, handle: &Handle) {
        let Some(wanted) = &self.in_force else { return };
        if wanted.overlay.subnets.is_empty() {
            if self.written_env.take().is_some() {
                let outcome = self.written.remove();
                self.follow(Topic::SubnetFiles, outcome);
            }
            return;
        }
        let content = SubnetEnv::new(&wanted.overlay, handle.facts().mtu());
        let text = content.to_string();
        let is_so = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|present| present == text);
        if self.written_env.as_ref() == Some(&content) && self.subnet_files.iter().all(is_so) {
            return;
        }
        let outcome = self.written.write(&self.subnet_files, &content);
        self.written_env = outcome.is_ok().then_some(content);
        self.follow(Topic::SubnetFiles, outcome);
    }

    pub(super) fn report(&self, handle: &Handle) {
        let mut refused = self.refused.clone();
        if let Some(view) = &self.view {
            refused.extend(self.plain_nodes(view).1);
        }
        let heard =
            self.heard.iter().filter(|(_, heard)| heard.ever).map(|(serial, heard)| (*serial, heard.at)).collect();
        let situation = Situation {
            member: &self.member,
            view: self.view.as_ref(),
            wanted: self.in_force.as_deref(),
            lease: self.lease.as_ref(),
            clients: &self.clients,
            public: &self.public,
            port: self.listen.port(),
            behind_nat: self.behind_nat,
            lost: self.lost.as_deref(),
            removed: self.removed.as_deref(),
            said: self.said,
            embedded: self.host.as_ref().is_some_and(Host::has_registry),
            alarms: self.alarms.values().collect(),
            refused: &refused,
            heard: &heard,
        };
        handle.facts().set_network(report::status(&situation));
    }
}
