//! The host as the configuration wants it: made at the start, taken back where that fails, removed at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use linux::netlink::Netlink;
use linux::tun::Device;

use super::{BARE_MTU, Control, Scope};
use crate::apply;
use crate::data_path;
use crate::dns::Resolvers;
use crate::observe::facts::DeviceFacts;
use crate::plan::{self, Actual, Desired, Operation, Owned, Territory};
use crate::roads;
use crate::subnet_env::SubnetFiles;
use crate::underlay::{self, Survey};
use crate::{Failure, Result};

/// What [`Control::open`] did, to be taken back if what follows fails.
pub struct Opened {
    /// The device, for the workers.
    pub device: Device,
    undo: Undo,
}

struct Undo {
    steps: Vec<Operation>,
    device_was_there: bool,
    owned: Owned,
}

impl Control {
    /// Opens the device and brings the host to the desired state.
    ///
    /// # Errors
    /// What could not be done; the host is as it was before.
    pub fn open(&mut self, netlink: &mut Netlink) -> Result<Opened> {
        self.survey(netlink);
        let (device, undo, mtu) = match self.scope {
            Scope::Host => self.open_with_host(netlink)?,
            Scope::Device => {
                let (queues, offload) = (self.surroundings.sockets.len(), self.tunnel.transport.offload);
                let device = data_path::open_bare_device(netlink, &self.tunnel.device.name, queues, offload, BARE_MTU)?;
                (device, Undo { steps: Vec::new(), device_was_there: false, owned: Owned::default() }, BARE_MTU)
            }
        };
        self.device.store(Arc::new(DeviceFacts { mtu, offloads: device.offloads.clone() }));
        self.switchboard.set_mtu(self.inner_mtu(mtu), &self.roster);
        self.publish();
        self.try_to_tell_doors();
        Ok(Opened { device, undo })
    }

    fn open_with_host(&mut self, netlink: &mut Netlink) -> Result<(Device, Undo, u32)> {
        let name = self.tunnel.device.name.clone();
        underlay::check_mtu(&self.tunnel, self.narrowest())?;
        let desired = self.desired(self.narrowest());
        let before = apply::observe_for(netlink, &name, asked(&desired), &self.owned)?;
        self.check_bridge_of_others(&desired, &before)?;
        self.part_with_former_bridge(netlink, &desired)?;
        let mut undo = Undo { steps: Vec::new(), device_was_there: before.device.is_some(), owned: self.owned.clone() };
        self.owned.claim(&desired, &before);
        self.owned.claim_bridge(&desired, &before);
        self.note_addresses();
        let opened = self.record.write(&self.owned).and_then(|()| self.set_up(netlink, &name, &desired, &mut undo));
        let device = match opened {
            Ok(device) => device,
            Err(failure) => {
                self.take_back(netlink, &undo);
                return Err(failure);
            }
        };
        self.owned.keep(&desired);
        self.record.write(&self.owned)?;
        Ok((device, undo, desired.mtu))
    }

    /// A bridge that is not ours has the addresses that whoever made it gave it, and only he makes it again.
    pub(super) fn check_bridge_of_others(&self, desired: &Desired, actual: &Actual) -> Result<()> {
        let Some(bridge) = &desired.bridge else { return Ok(()) };
        match &actual.bridge {
            Some(there) if !there.ours && !bridge.addresses.is_empty() => {
                Err(Failure::failed(format!("the bridge {} is not adit's, which gives it no addresses", bridge.name))
                    .with_remedy("take `addresses` out of [device], or name a bridge that is not there yet"))
            }
            _ => Ok(()),
        }
    }

    /// The bridge of an earlier start that was killed, where the configuration names another one now. It stays if others use it.
    fn part_with_former_bridge(&self, netlink: &mut Netlink, desired: &Desired) -> Result<()> {
        let wanted = desired.bridge.as_ref().map(|bridge| &bridge.name);
        let Some(former) = self.owned.bridge.as_ref().filter(|former| Some(*former) != wanted) else { return Ok(()) };
        let name = &self.tunnel.device.name;
        let actual = apply::observe(netlink, name, Some(former))?;
        for failure in apply::try_all(netlink, name, &plan::removal_of_bridge(&actual)) {
            tracing::warn!("{failure}");
        }
        Ok(())
    }

    /// Notes what names came to, where that may be needed; answers whether it is news.
    fn note_addresses(&mut self) -> bool {
        let addresses = if self.road.is_some() { roads::addresses(&self.roster) } else { BTreeMap::new() };
        let is_news = self.owned.addresses != addresses;
        self.owned.addresses = addresses;
        is_news
    }

    /// Writes down what names came to since.
    pub(super) fn remember_addresses(&mut self) {
        if self.note_addresses()
            && let Err(failure) = self.record.write(&self.owned)
        {
            tracing::warn!("{failure}");
        }
    }

    fn set_up(&mut self, netlink: &mut Netlink, name: &str, desired: &Desired, undo: &mut Undo) -> Result<Device> {
        let queues = self.surroundings.sockets.len();
        let device = data_path::open_device(netlink, &self.tunnel, queues)?;
        let actual = apply::observe_for(netlink, name, asked(desired), &self.owned)?;
        // The device has settings of its own.
        if self.owned.claim_settings(desired, &actual) {
            self.record.write(&self.owned)?;
        }
        let steps = plan::plan(desired, &actual, &self.owned);
        apply::apply(netlink, name, &steps)?;
        say_who_forwards(&steps);
        undo.steps = steps;
        let everybody = self.roster.members().map(|member| (&member.peer, member.configured));
        underlay::check_no_loop(netlink, &self.tunnel, everybody)?;
        Ok(device)
    }

    /// Brings the host back to what it should look like, as far as that can be: each step for itself, so that one that cannot be mended keeps
    /// none of the others from it, least of all a blackhole. Answers whether there is a device, and what failed.
    pub(super) fn put_right(&mut self, netlink: &mut Netlink, desired: &Desired) -> Result<(bool, Vec<Failure>)> {
        let name = self.tunnel.device.name.clone();
        let actual = apply::observe_for(netlink, &name, asked(desired), &self.owned)?;
        if actual.device.is_none() {
            return Ok((false, Vec::new()));
        }
        if self.owned.claim_settings(desired, &actual) {
            self.record.write(&self.owned)?;
        }
        let steps = plan::plan(desired, &actual, &self.owned);
        let mut failures = apply::try_all(netlink, &name, &steps);
        if steps.len() > failures.len() {
            self.surroundings.control.repairs.add((steps.len() - failures.len()) as u64);
            tracing::info!("brought {name} back to its configuration ({} changes)", steps.len() - failures.len());
        }
        say_who_forwards(&steps);
        if let (Some(bridge), None) = (&desired.bridge, &actual.bridge)
            && self.owned.bridge.as_ref() != Some(&bridge.name)
        {
            let failure = Failure::failed(format!("the bridge {} is gone, and {name} is a port of none", bridge.name));
            failures.push(failure.with_remedy("make it again, since it was not adit's: it is joined then"));
        }
        failures.extend(self.check_bridge_of_others(desired, &actual).err());
        if failures.is_empty() && self.owned.keep_settings(desired, &actual) {
            self.record.write(&self.owned)?;
        }
        Ok((true, failures))
    }

    /// Takes a start back of which a later step failed.
    pub fn close(&mut self, netlink: &mut Netlink, opened: Opened) {
        drop(opened.device);
        if self.scope == Scope::Host {
            self.take_back(netlink, &opened.undo);
        }
    }

    fn take_back(&mut self, netlink: &mut Netlink, undo: &Undo) {
        let name = &self.tunnel.device.name;
        apply::undo(netlink, name, &undo.steps);
        let mut failures = Vec::new();
        if !undo.device_was_there {
            failures.extend(apply::delete_device(netlink, name).err());
            failures.extend(self.silence_doors().err());
        }
        self.owned.clone_from(&undo.owned);
        let noted = if self.owned.is_empty() { self.record.remove() } else { self.record.write(&self.owned) };
        failures.extend(noted.err());
        for failure in failures {
            tracing::warn!("while taking changes back: {failure}");
        }
    }

    /// Lets the host ask the resolvers of the tunnel.
    ///
    /// # Errors
    /// The host's program for it failed; then its own are asked.
    pub fn set_resolvers(&mut self) -> Result<()> {
        let dns = &self.tunnel.device.dns;
        self.resolvers.as_mut().map_or(Ok(()), |resolvers| resolvers.set(dns))
    }

    /// Whether all of the host is to stay as it is when we end: a node stays in its network until somebody takes it out. The next daemon
    /// takes it over; until then packets go nowhere instead of out in the clear.
    pub(super) fn leaves_host(&self) -> bool {
        self.tunnel.network.is_some() && !self.told_to_stop
    }

    /// Removes everything: resolvers, routes, device, blackholes, and the note that they are ours. Of a node of a network only when it was told
    /// to (`adit down`), not when its daemon ends by a signal.
    pub fn remove(&mut self, netlink: &mut Netlink) {
        if self.scope == Scope::Device || self.leaves_host() {
            // A bare device went with its queues, wherever it was.
            return;
        }
        // First: questions for the tunnel's resolvers would go out in the clear without it.
        if let Some(Err(failure)) = self.resolvers.as_mut().map(Resolvers::remove) {
            tracing::error!("{failure}");
        }
        let mut failures: Vec<Failure> = self.part_with_containers().err().into_iter().collect();
        let name = &self.tunnel.device.name;
        match apply::observe_for(netlink, name, (None, None), &self.owned) {
            Ok(actual) => failures.extend(apply::try_all(netlink, name, &plan::removal(&actual, &self.owned))),
            Err(failure) => failures.push(failure),
        }
        failures.extend(apply::delete_device(netlink, name).err());
        failures.extend(SubnetFiles::of(name, self.record.directory()).remove().err());
        if failures.is_empty() {
            failures.extend(self.record.remove().err());
        }
        for failure in failures {
            tracing::error!("{failure}");
        }
    }

    /// Whether some of the packet filters are ours.
    pub(super) fn has_filters(&self) -> bool {
        self.road.is_some() || self.tunnel.overlay.is_some()
    }

    /// What the host should look like; `narrowest`: the narrowest way to a peer.
    pub(super) fn desired(&self, narrowest: Option<usize>) -> Desired {
        let mtu = underlay::device_mtu(&self.tunnel, narrowest);
        roads::desired(&self.tunnel, mtu, self.road, self.listen().port())
    }

    /// Looks up how large a packet the way to each peer takes; answers whether that is another one than before.
    pub(super) fn survey(&mut self, netlink: &mut Netlink) -> bool {
        let mut survey = Survey::new(netlink, &self.tunnel);
        let mut changed = false;
        for member in self.roster.members_mut() {
            let width = survey.width(member.peer.transport, member.endpoint);
            changed |= width.learned != member.width.learned;
            member.width = width;
        }
        changed
    }

    pub(super) fn narrowest(&self) -> Option<usize> {
        self.roster.members().map(|member| member.width.configured).min()
    }
}

/// What of the host is to be looked at beyond the device.
fn asked(desired: &Desired) -> (Option<&Territory>, Option<&str>) {
    (desired.territory.as_ref(), desired.bridge.as_ref().map(|bridge| bridge.name.as_str()))
}

/// A host that becomes a router is told so.
fn say_who_forwards(steps: &[Operation]) {
    for step in steps {
        if let Operation::Set(setting, to, was) = step {
            tracing::info!("{} is {to} now, and was {was}", setting.path().join("."));
        }
    }
}
