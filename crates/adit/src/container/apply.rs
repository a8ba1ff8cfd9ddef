//! What the plan says, done to the host.

use linux::netlink::{LinkChange, Netlink, PortChange};
use linux::nft::{Family, Nft};
use linux::sysctl;
use linux::tun::{self, Device};

use super::plan::{self, Actual, Operation, Told};
use super::{Fault, FaultKind, Node, Record, Tap, filters, ports};
use crate::plan::{ALIAS, is_bridge_of_ours};

/// The kernel's two sides that containers need.
pub(super) struct Kernel {
    pub(super) netlink: Netlink,
    pub(super) nft: Nft,
}

impl Kernel {
    /// That of the calling thread's namespace.
    pub(super) fn open() -> Result<Self, Fault> {
        let nft = Nft::open().map_err(|e| explain_filters(&e))?;
        Ok(Self { netlink: Netlink::open()?, nft })
    }

    /// The host as far as its bridge goes.
    pub(super) fn observe(&mut self, bridge: &str, device: &str) -> Result<Actual, Fault> {
        let mut actual = Actual { bridge: self.netlink.link(bridge)?, ..Actual::default() };
        if let Some(link) = &actual.bridge {
            actual.addresses =
                self.netlink.addresses(Some(link.index))?.into_iter().map(|address| address.net).collect();
        }
        actual.ports = self.told(Family::Inet, &ports::table(device))?;
        Ok(actual)
    }

    /// The host as far as published ports go.
    pub(super) fn observe_ports(&mut self, device: &str) -> Result<Actual, Fault> {
        Ok(Actual { ports: self.told(Family::Inet, &ports::table(device))?, ..Actual::default() })
    }

    /// Adds what there is of an attachment.
    pub(super) fn observe_port(&mut self, record: &Record, actual: &mut Actual) -> Result<(), Fault> {
        let name = &record.host_interface;
        // Another kind of device is another's.
        if let Some(link) = self.netlink.link(name)?.filter(|link| link.kind.as_deref() == Some(record.kind())) {
            actual.devices.insert(name.clone(), link);
        }
        let told = self.told(Family::Netdev, &filters::table(name))?;
        if !told.is_empty() {
            actual.filters.insert(name.clone(), told);
        }
        Ok(())
    }

    /// Largest packet of the node's bridge in bytes, with these records.
    pub(super) fn bridge_mtu(&mut self, node: &Node, records: &[Record]) -> Result<u32, Fault> {
        let mut actual = Actual::default();
        for record in records.iter().filter(|record| record.bridge_mtu.is_none() && record.bridge == node.bridge) {
            if let Some(link) = self.netlink.link(&record.host_interface)? {
                actual.devices.insert(record.host_interface.clone(), link);
            }
        }
        Ok(plan::bridge_mtu(node, records, &actual))
    }

    fn told(&mut self, family: Family, table: &str) -> Result<Told, Fault> {
        let rules = self.nft.rules(family, table).map_err(|e| explain_filters(&e))?;
        Ok(rules.into_iter().map(|rule| (rule.chain, rule.comment)).collect())
    }

    /// Does these steps in order, up to the first that fails.
    pub(super) fn apply(&mut self, steps: &[Operation]) -> Result<(), Fault> {
        steps.iter().try_for_each(|step| self.carry_out(step))
    }

    /// Does one step.
    pub(super) fn carry_out(&mut self, step: &Operation) -> Result<(), Fault> {
        let netlink = &mut self.netlink;
        match step {
            Operation::CreateBridge { name, mac } => {
                netlink.create_bridge(name, Some(*mac)).or_else(|e| ignore(e, EXISTS))?;
                let index = netlink.existing_link(name)?.index;
                netlink.change_link(index, &LinkChange { alias: Some(ALIAS), ..LinkChange::default() })?;
            }
            Operation::SetMtu { name, mtu } => {
                let index = netlink.existing_link(name)?.index;
                netlink.change_link(index, &LinkChange { mtu: Some(*mtu), ..LinkChange::default() })?;
            }
            Operation::SetMac { name, mac } => {
                let index = netlink.existing_link(name)?.index;
                netlink.change_link(index, &LinkChange { mac: Some(*mac), ..LinkChange::default() })?;
            }
            Operation::AddAddress { name, address } => {
                let index = netlink.existing_link(name)?.index;
                netlink.add_address(index, *address, true).or_else(|e| ignore(e, EXISTS))?;
            }
            Operation::DeleteAddress { name, address } => {
                let index = netlink.existing_link(name)?.index;
                netlink.delete_address(index, *address).or_else(|e| ignore(e, ABSENT))?;
            }
            Operation::SetUp { name } => {
                let index = netlink.existing_link(name)?.index;
                netlink.set_up(index, true)?;
            }
            Operation::Set { path, value } => {
                let path = path.each_ref().map(String::as_str);
                if let Err(e) = sysctl::set(&path, value) {
                    tracing::debug!("{e}");
                }
            }
            Operation::ReplaceFilters(ruleset) => {
                let created = match self.nft.create(ruleset) {
                    Err(e) if e.errno().is_some_and(|code| EXISTS.contains(&code)) => self.nft.apply(ruleset),
                    created => created,
                };
                created.map_err(|e| explain_filters(&e))?;
            }
            Operation::DeleteFilters { family, table } => {
                self.nft.delete(*family, table).or_else(|e| ignore(e, ABSENT))?;
            }
            Operation::CreateTap { name, tap } => self.create_tap(name, *tap)?,
            Operation::Join { name, bridge, hairpin, isolated } => {
                let (index, bridge) = (netlink.existing_link(name)?.index, netlink.existing_link(bridge)?.index);
                netlink.change_link(index, &LinkChange { controller: Some(Some(bridge)), ..LinkChange::default() })?;
                let change = PortChange { hairpin: Some(*hairpin), isolated: Some(*isolated), ..PortChange::default() };
                netlink.change_port(index, &change)?;
            }
        }
        Ok(())
    }

    fn create_tap(&mut self, name: &str, tap: Tap) -> Result<(), Fault> {
        let device = Device::open(tun::Options {
            layer: tun::Layer::Frames,
            multi_queue: tap.queues > 1,
            persistent: Some(true),
            // Of a device without an owner anybody may open a queue.
            owner: Some(tap.owner),
            exclusive: true,
            ..tun::Options::new(name)
        })?;
        let marked = device.forget_offloads().and_then(|()| {
            let index = self.netlink.existing_link(name)?.index;
            let change = LinkChange { alias: Some(ALIAS), mtu: Some(tap.mtu), ..LinkChange::default() };
            self.netlink.change_link(index, &change)
        });
        if marked.is_err() {
            device.set_persistent(false)?;
        }
        Ok(marked?)
    }

    /// Removes a device of ours; one that is not there is removed already.
    pub(super) fn delete_link(&mut self, name: &str, kind: &str) -> Result<(), Fault> {
        let Some(link) = self.netlink.link(name)? else { return Ok(()) };
        if link.kind.as_deref() != Some(kind) {
            return Ok(());
        }
        Ok(self.netlink.delete_link(link.index).or_else(|e| ignore(e, ABSENT))?)
    }

    /// Removes the bridge, unless something hangs on it still, or it is another's.
    pub(super) fn delete_bridge(&mut self, name: &str) -> Result<bool, Fault> {
        let Some(bridge) = self.netlink.link(name)? else { return Ok(false) };
        if !plan::is_ours(&bridge) && !is_bridge_of_ours(&bridge) {
            return Ok(false);
        }
        if self.netlink.links()?.iter().any(|link| link.controller == Some(bridge.index)) {
            return Ok(false);
        }
        self.netlink.delete_link(bridge.index).or_else(|e| ignore(e, ABSENT))?;
        Ok(true)
    }

    /// Removes a table of packet filters.
    pub(super) fn delete_filters(&mut self, family: Family, table: &str) -> Result<(), Fault> {
        Ok(self.nft.delete(family, table).or_else(|e| ignore(e, ABSENT))?)
    }
}

/// EEXIST.
const EXISTS: &[i32] = &[17];

/// ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL.
const ABSENT: &[i32] = &[2, 3, 19, 99];

fn ignore(error: linux::Error, codes: &[i32]) -> linux::Result<()> {
    if error.errno().is_some_and(|code| codes.contains(&code)) { Ok(()) } else { Err(error) }
}

fn explain_filters(error: &linux::Error) -> Fault {
    let remedy = match error.errno() {
        Some(1 | 13) => "run as root",
        _ => "containers need nf_tables with its netdev family: `modprobe nf_tables nft_fib_inet nft_nat nft_masq`",
    };
    Fault::new(FaultKind::Kernel, format!("{error}; {remedy}"))
}
