//! The namespaces, cards, bridges and routes; all of it goes when the value goes.
//!
//! Devices are born in the namespaces they belong to: nothing is ever made in the caller's own.

use std::net::Ipv4Addr;

use linux::netlink::{LinkChange, Route, VethEnd, Vxlan};

use super::layout::{ADIT, BRIDGE, CARD, Container, HOSTS, Host, Lane, UNDERLAY, UNDERLAY_MTU, VXLAN, VXLAN_OVERHEAD};
use crate::lab::namespace::Namespace;
use crate::lab::{ip_net, mac};
use crate::{Failure, Result};

/// The number of the network in VXLAN headers.
const VXLAN_ID: u32 = 42;
/// The hosts with what is on them.
#[derive(Debug)]
pub(super) struct Topology {
    hosts: Vec<Namespace>,
    containers: Vec<Namespace>,
}

impl Topology {
    /// Makes the two hosts and the network between them.
    ///
    /// # Errors
    /// What the kernel refused. What was made so far is gone again.
    pub(super) fn hosts() -> Result<Self> {
        let mut topology = Self { hosts: Vec::new(), containers: Vec::new() };
        for host in &HOSTS {
            topology.hosts.push(Namespace::create(host.namespace(), true)?);
        }
        let [berlin, paris] = &HOSTS;
        let end = |host: &Host, netns| VethEnd {
            name: UNDERLAY,
            netns: Some(netns),
            mac: Some(mac(host.underlay())),
            mtu: Some(UNDERLAY_MTU),
        };
        let (first, second) = (topology.host(berlin)?, topology.host(paris)?);
        first.netlink()?.create_veth(&end(berlin, first.net()), &end(paris, second.net()))?;
        for host in &HOSTS {
            let mut netlink = topology.host(host)?.netlink()?;
            let card = netlink.existing_link(UNDERLAY)?.index;
            netlink.add_address(card, ip_net(host.underlay(), 24), true)?;
            netlink.set_up(card, true)?;
        }
        Ok(topology)
    }

    /// Adds a bridge with two containers to each host. `mtu` is what a packet between hosts may have, in bytes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn add_containers(&mut self, mtu: u32) -> Result<()> {
        for host in &HOSTS {
            let mut netlink = self.host(host)?.netlink()?;
            let gateway = ADIT.gateway(host);
            netlink.create_bridge(BRIDGE, Some(mac(gateway)))?;
            let bridge = netlink.existing_link(BRIDGE)?.index;
            netlink.change_link(bridge, &LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() })?;
            netlink.add_address(bridge, ip_net(gateway, 24), true)?;
            for container in &host.containers {
                self.add_container(host, container, bridge, mtu)?;
            }
        }
        Ok(())
    }

    fn add_container(&mut self, host: &Host, container: &Container, bridge: u32, mtu: u32) -> Result<()> {
        let inside = Namespace::create(container.namespace(), false)?;
        let outside = self.host(host)?;
        let mut netlink = outside.netlink()?;
        let address = ADIT.address(host, container);
        netlink.create_veth(
            &VethEnd { name: container.port, netns: Some(outside.net()), mac: None, mtu: Some(mtu) },
            &VethEnd { name: CARD, netns: Some(inside.net()), mac: Some(mac(address)), mtu: Some(mtu) },
        )?;
        let port = netlink.existing_link(container.port)?.index;
        let change = LinkChange { up: Some(true), controller: Some(Some(bridge)), ..LinkChange::default() };
        netlink.change_link(port, &change)?;

        let mut netlink = inside.netlink()?;
        let card = netlink.existing_link(CARD)?.index;
        netlink.add_address(card, ip_net(address, 24), true)?;
        netlink.set_up(card, true)?;
        let gateway = Some(ADIT.gateway(host).into());
        netlink.add_route(&Route { gateway, ..Route::new(ip_net(Ipv4Addr::UNSPECIFIED, 0)) })?;
        self.containers.push(inside);
        Ok(())
    }

    /// Gives bridges and containers addresses in a lane's prefixes, and the containers a route to those of the other host. `mtu`
    /// is what the lane carries, in bytes; the containers' cards may take less.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn add_lane(&self, lane: &Lane, mtu: u32) -> Result<()> {
        for host in &HOSTS {
            let mut netlink = self.host(host)?.netlink()?;
            let bridge = netlink.existing_link(BRIDGE)?.index;
            netlink.add_address(bridge, ip_net(lane.gateway(host), 24), true)?;
            for container in &host.containers {
                let mut netlink = self.container(container)?.netlink()?;
                let card = netlink.existing_link(CARD)?;
                let address = lane.address(host, container);
                netlink.add_address(card.index, ip_net(address, 24), true)?;
                netlink.add_route(&Route {
                    gateway: Some(lane.gateway(host).into()),
                    source: Some(address.into()),
                    // A route that promised more than the card takes would be believed.
                    mtu: Some(mtu.min(card.mtu)),
                    ..Route::new(lane.subnet(host.other()).into())
                })?;
            }
        }
        Ok(())
    }

    /// Takes [`add_lane`](Self::add_lane) back; routes go with the addresses.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn remove_lane(&self, lane: &Lane) -> Result<()> {
        for host in &HOSTS {
            for container in &host.containers {
                let mut netlink = self.container(container)?.netlink()?;
                let card = netlink.existing_link(CARD)?.index;
                netlink.delete_address(card, ip_net(lane.address(host, container), 24))?;
            }
            let mut netlink = self.host(host)?.netlink()?;
            let bridge = netlink.existing_link(BRIDGE)?.index;
            netlink.delete_address(bridge, ip_net(lane.gateway(host), 24))?;
        }
        Ok(())
    }

    /// Makes the kernel's tunnel between the hosts, and answers what it carries, in bytes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn add_vxlan(&self) -> Result<u32> {
        let mtu = UNDERLAY_MTU - VXLAN_OVERHEAD;
        for host in &HOSTS {
            let mut netlink = self.host(host)?.netlink()?;
            let card = netlink.existing_link(UNDERLAY)?.index;
            netlink.create_vxlan(&Vxlan {
                name: VXLAN.device,
                id: VXLAN_ID,
                port: VXLAN.port,
                local: Some(host.underlay().into()),
                remote: Some(host.other().underlay().into()),
                device: Some(card),
                learning: false,
                mac: Some(mac(VXLAN.node(host))),
                mtu: Some(mtu),
            })?;
            let device = netlink.existing_link(VXLAN.device)?.index;
            netlink.add_address(device, ip_net(VXLAN.node(host), 24), true)?;
            netlink.set_up(device, true)?;
            let gateway = Some(VXLAN.node(host.other()).into());
            netlink.add_route(&Route { gateway, ..Route::new(VXLAN.subnet(host.other()).into()) })?;
        }
        Ok(mtu)
    }

    /// Removes the kernel's tunnel.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn remove_vxlan(&self) -> Result<()> {
        for host in &HOSTS {
            let mut netlink = self.host(host)?.netlink()?;
            let device = netlink.existing_link(VXLAN.device)?.index;
            netlink.delete_link(device)?;
        }
        Ok(())
    }

    /// The namespace of a host.
    pub(super) fn host(&self, host: &Host) -> Result<&Namespace> {
        find(&self.hosts, &host.namespace())
    }

    /// The namespace of a container.
    pub(super) fn container(&self, container: &Container) -> Result<&Namespace> {
        find(&self.containers, &container.namespace())
    }

    /// Removes everything and answers the names that are gone.
    ///
    /// # Errors
    /// The first namespace that could not be removed; all others were tried as well.
    pub(super) fn remove(mut self) -> Result<Vec<String>> {
        Namespace::remove_all(self.containers.iter_mut().chain(&mut self.hosts))
    }
}

fn find<'n>(namespaces: &'n [Namespace], name: &str) -> Result<&'n Namespace> {
    // Asked for before it was made: a fault of ours that is told, not one to die of.
    namespaces
        .iter()
        .find(|namespace| namespace.name() == name)
        .ok_or_else(|| Failure::failed(format!("the demo has no namespace {name} yet")))
}
