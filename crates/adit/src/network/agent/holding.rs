//! Our lease, as its task tells of it.

use std::net::IpAddr;

use ipnet::IpNet;
use linux::netlink::Netlink;
use registry::schema::Subnets;
use registry::view::View;

use super::super::lease::{self, Lease};
use super::{Agent, Topic, list, previous};
use crate::Result;

impl Agent {
    pub(super) fn begin_lease(&mut self) -> Result<()> {
        let (None, Some(network)) = (&self.lease, &self.network) else { return Ok(()) };
        let previous: Vec<_> = previous(&self.notes, &self.subnet_files);
        let ttl = self.settings.lease_ttl;
        self.lease = Some(Lease::new(
            &self.client,
            &self.member,
            network,
            ttl,
            &previous,
            self.places(),
            self.notes.sequence.max(self.view.as_ref().map_or(0, View::own_sequence)),
        ));
        Ok(())
    }

    pub(super) fn places(&self) -> lease::Places {
        let (public, port) = (self.public.clone(), self.listen.port());
        lease::Places { public, port, behind_nat: self.behind_nat }
    }

    pub(super) fn note_lease(&mut self) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let subnets: Vec<IpNet> = lease.subnets().iter().flat_map(Subnets::iter).collect();
        let sequence = lease.sequence();
        if !self.notes.subnets.is_empty() && !subnets.is_empty() && self.notes.subnets != subnets {
            let sentence = format!(
                "the subnet {} that this node had is another node's; it has {} now, and containers with addresses of the former are cut off",
                list(&self.notes.subnets),
                list(&subnets)
            );
            self.alarm(Topic::Renumbered, sentence);
        }
        self.notes.sequence = sequence;
        if !subnets.is_empty() {
            self.notes.subnets = subnets;
        }
        self.notes_file.write(&self.notes)
    }

    pub(super) fn write_notes(&mut self) {
        if let Some(lease) = &self.lease {
            self.notes.sequence = self.notes.sequence.max(lease.sequence());
        }
        let written = self.notes_file.write(&self.notes);
        self.follow(Topic::Notes, written);
    }

    pub(super) fn follow_lease(&mut self, change: lease::Change) -> bool {
        match change {
            lease::Change::Held => {
                self.alarms.remove(&Topic::Lease);
                let noted = self.note_lease();
                self.follow(Topic::Notes, noted);
            }
            lease::Change::Signed(record) => self.know_own(&record),
            lease::Change::Lost => {}
            lease::Change::Failing(sentence) => self.alarm(Topic::Lease, sentence),
            lease::Change::Taken(by) => self.step_back(&by),
        }
        true
    }

    /// Another node has our subnet. Without containers we take another one; with some, nothing is renumbered behind their backs.
    pub(super) fn step_back(&mut self, by: &str) {
        let lost = list(&self.notes.subnets);
        let is_inhabited = self.is_inhabited();
        // Whose it is, the others know by its record; a restart must not take it up again by what is noted.
        if let Some(view) = &mut self.view {
            view.unpublish();
        }
        self.notes.subnets.clear();
        self.write_notes();
        if is_inhabited {
            let sentence = format!(
                "{lost} is {by}'s now: we step back from it, and containers here that have its addresses are cut off; remove them, and \
                 start adit again to take another subnet"
            );
            self.alarm(Topic::Lease, sentence);
            return;
        }
        tracing::warn!("{lost} is {by}'s now: we step back from it, and take another subnet");
        if let Some(lease) = &self.lease {
            lease.acquire_later();
        }
    }

    /// Whether something on this host has an address of our subnets beside our device: a container of ours, or whatever another program has made.
    pub(super) fn is_inhabited(&self) -> bool {
        let look = || -> Result<bool> {
            let within = |ip: IpAddr| self.notes.subnets.iter().any(|net| net.contains(&ip));
            let records = self.containers.read_all()?;
            if records.iter().flat_map(|record| &record.addresses).any(|net| within(net.addr())) {
                return Ok(true);
            }
            let mut netlink = Netlink::open()?;
            let ours = netlink.link(&self.device)?.map(|link| link.index);
            let addresses = netlink.addresses(None)?;
            Ok(addresses.iter().any(|a| Some(a.index) != ours && within(a.net.addr())))
        };
        // Not knowing is no reason to take addresses away.
        look().unwrap_or(true)
    }
}
