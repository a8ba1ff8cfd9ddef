//! The card of a virtual machine on the bridge of a tunnel from a file: a port beside adit's own device, and a neighbour of whoever is on that LAN.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::apply::Kernel;
use super::super::attach::{now, tear_down};
use super::super::record::Process;
use super::super::{Fault, FaultKind, Locked, Record, Stage, Store, Tap, ipam, plan};
use super::{Asked, Card, ROOT, list, made};
use crate::api::Status;
use crate::plan::link_address;
use crate::{Failure, Result};

/// The LAN, as the daemon knows it.
pub(super) struct Lan {
    device: String,
    bridge: String,
    reserve: Vec<IpNet>,
    /// Addresses of the device, with their networks.
    addresses: Vec<IpNet>,
    mtu: u32,
}

impl Lan {
    /// The one that this daemon's device is a port of.
    ///
    /// # Errors
    /// It is of none.
    pub(super) fn of(status: &Status) -> Result<Self> {
        let device = status.device.name.clone();
        let Some(switch) = &status.switch else {
            let sentence = format!(
                "{device} is a tunnel from a file that carries packets, and has no bridge for a virtual machine"
            );
            let remedy = "write mode = \"tap\" and bridge = \"br0\" under [device] and start it again, or make this host a node of a network with \
                          `adit init`";
            return Err(Failure::failed(sentence).with_remedy(remedy));
        };
        let Some(bridge) = &switch.bridge else {
            return Err(Failure::failed(format!("{device} carries frames and is on no bridge, where a card could be"))
                .with_remedy("write bridge = \"br0\" under [device] and start it again"));
        };
        Ok(Self {
            bridge: bridge.clone(),
            reserve: switch.reserve.clone(),
            addresses: status.device.addresses.clone(),
            mtu: status.device.mtu,
            device,
        })
    }

    /// Makes the card, or makes it whole again.
    pub(super) fn make(mut self, store: &Store, asked: &Asked) -> Result<Card> {
        let mut kernel = Kernel::open()?;
        let locked = store.lock()?;
        let actual = kernel.observe(&self.bridge, &self.device)?;
        let Some(bridge) = actual.bridge.as_ref().map(|link| link.index) else {
            return Err(Failure::failed(format!("the bridge {} is gone", self.bridge)).with_remedy(
                "its daemon makes it anew in a moment: try again, and look at `adit status` if it does not",
            ));
        };
        self.addresses
            .extend(actual.addresses.iter().filter(|net| !self.addresses.contains(net)).copied().collect::<Vec<_>>());
        let records = locked.records()?;
        let before = made(&records, &asked.key);
        let mut record = match &before {
            Some(record) => self.as_it_is(record),
            None => self.claim(&mut kernel, &locked, &records, asked)?,
        };
        let was_there = kernel.netlink.link(&record.host_interface)?.is_some();
        let built = build(&mut kernel, &record, bridge, &self.device).and_then(|()| {
            record.stage = Stage::Made;
            locked.put(&record)
        });
        if let Err(fault) = built {
            if !was_there {
                tear_down(&mut kernel, &record)?;
            }
            match &before {
                Some(before) => locked.put(before)?,
                None => locked.remove(&record.key)?,
            }
            return Err(fault.into());
        }
        drop(locked);
        store.settle(&record.key)?;
        let mut card = Card::of(&record);
        card.notes = self.notes(&record);
        Ok(card)
    }

    /// A card that is known, on the bridge that there is now.
    fn as_it_is(&self, record: &Record) -> Record {
        let mut record = record.clone();
        record.bridge.clone_from(&self.bridge);
        if let Some(tap) = &mut record.tap {
            tap.mtu = self.mtu;
        }
        record
    }

    /// Gives an address to a new one, in a record.
    fn claim(
        &self,
        kernel: &mut Kernel,
        locked: &Locked<'_>,
        records: &[Record],
        asked: &Asked,
    ) -> std::result::Result<Record, Fault> {
        let taken: HashSet<IpAddr> =
            records.iter().flat_map(|record| &record.addresses).chain(&self.addresses).map(IpNet::addr).collect();
        let addresses = ipam::of_reserve(&self.reserve, &self.addresses, &taken, &locked.last())?;
        // Two hosts may have a machine of the same name: the device's own address tells them apart.
        let host = kernel.netlink.existing_link(&self.device)?.mac.unwrap_or_default();
        let mac = link_address(&format!("{host:02x?} virtual machine"), &asked.name);
        if records.iter().any(|other| other.mac == mac) {
            let sentence =
                format!("the link-layer address that {} would have is another's; choose another name", asked.name);
            return Err(Fault::new(FaultKind::AddressTaken, sentence));
        }
        let record = Record {
            host_interface: asked.key.host_interface(),
            key: asked.key.clone(),
            stage: Stage::Making,
            maker: Process::current(),
            name: Some(asked.name.clone()),
            netns: None,
            netns_id: None,
            bridge: self.bridge.clone(),
            bridge_mtu: None,
            mac,
            addresses,
            ports: Vec::new(),
            isolated: false,
            process: None,
            tap: Some(Tap {
                owner: asked.owner.unwrap_or(ROOT),
                queues: asked.queues.unwrap_or(1),
                mtu: self.mtu,
                lan: true,
            }),
            created: now(),
        };
        locked.put(&record)?;
        locked.note_last(&record.addresses);
        Ok(record)
    }

    fn notes(&self, record: &Record) -> Vec<String> {
        if record.addresses.is_empty() {
            return vec![
                "No address is reserved for it: write reserve = [\"10.20.0.128/25\"] under [device], with a part of your LAN, or give it one that nobody \
                 has."
                    .into(),
            ];
        }
        let of_no_network: Vec<IpNet> = record
            .addresses
            .iter()
            .filter(|net| !self.addresses.iter().any(|own| own.contains(&net.addr())))
            .copied()
            .collect();
        if of_no_network.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "This host has no address on the LAN: take the length of its networks' prefixes instead of that in {}.",
            list(&of_no_network)
        )]
    }
}

fn build(kernel: &mut Kernel, record: &Record, bridge: u32, device: &str) -> std::result::Result<(), Fault> {
    let mut actual = kernel.observe(&record.bridge, device)?;
    kernel.observe_port(record, &mut actual)?;
    kernel.apply(&plan::port(record, &actual, Some(bridge)))
}
