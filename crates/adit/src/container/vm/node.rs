//! The card of a virtual machine on a node of a network: one more container, as far as the node goes.

use std::net::IpAddr;

use super::super::apply::Kernel;
use super::super::attach::{publishes, put_port};
use super::super::{Fault, FaultKind, Node, Place, Record, Request, Store, Tap, attach, plan};
use super::{Asked, Card, ROOT, made};
use crate::Result;

/// Makes it, or makes it whole again.
pub(super) fn make(node: &Node, store: &Store, asked: &Asked) -> Result<Card> {
    let record = match made(&store.read_all()?, &asked.key) {
        Some(record) => restore(node, store, &record)?,
        None => attach(node, store, &request(node, asked))?,
    };
    let of_its_families = |ip: &IpAddr| record.addresses.iter().any(|net| net.addr().is_ipv4() == ip.is_ipv4());
    let gateways: Vec<IpAddr> = node.gateways().map(|net| net.addr()).filter(of_its_families).collect();
    let mut card = Card::of(&record);
    if let Some(domain) = &node.domain {
        let of_node = format!("{}.{domain}", node.name);
        card.names = vec![format!("{}.{of_node}", asked.name)];
        card.resolvers.clone_from(&gateways);
        card.search = vec![of_node, domain.clone()];
    }
    card.gateways = gateways;
    Ok(card)
}

fn request(node: &Node, asked: &Asked) -> Request {
    let tap = Tap { owner: asked.owner.unwrap_or(ROOT), queues: asked.queues.unwrap_or(1), mtu: node.mtu, lan: false };
    Request {
        key: asked.key.clone(),
        name: Some(asked.name.clone()),
        wanted: Vec::new(),
        mac: None,
        ports: Vec::new(),
        isolated: false,
        mtu: None,
        default_route: true,
        place: Place::Machine(tap),
        reservation: None,
        process: None,
    }
}

/// Brings the bridge and the card to what the record says.
fn restore(node: &Node, store: &Store, record: &Record) -> std::result::Result<Record, Fault> {
    if let Some(net) =
        record.addresses.iter().find(|net| !node.subnets.iter().any(|subnet| subnet.contains(&net.addr())))
    {
        let name = record.title();
        let sentence = format!(
            "the virtual machine {name} has {}, and this node does not hold {} any more; delete it with `adit vm-tap {name} --delete`, then make it anew",
            net.addr(),
            net.trunc()
        );
        return Err(Fault::new(FaultKind::NotReady, sentence));
    }
    let mut kernel = Kernel::open()?;
    let locked = store.lock()?;
    let mut record = record.clone();
    let before = record.clone();
    record.bridge.clone_from(&node.bridge);
    let records = locked.records()?;
    // Alone on its bridge it may have what the device has by now: the person at the machine is told.
    let others: Vec<Record> = records.iter().filter(|other| other.key != record.key).cloned().collect();
    let mtu = kernel.bridge_mtu(node, &others)?;
    record.bridge_mtu = Some(mtu);
    if let Some(tap) = &mut record.tap {
        tap.mtu = mtu;
    }
    let actual = kernel.observe(&record.bridge, &node.device)?;
    let steps = plan::bridge(node, mtu, &actual, publishes(&records))?;
    let was_there = kernel.netlink.link(&record.host_interface)?.is_some();
    let restored = kernel.apply(&steps).and_then(|()| put_port(&mut kernel, node, &record));
    if let Err(fault) = restored {
        if !was_there {
            kernel.delete_link(&record.host_interface, record.kind())?;
        }
        return Err(fault);
    }
    if record != before {
        locked.put(&record)?;
    }
    Ok(record)
}
