//! The host as the configuration wants it: made at the start, taken back where that fails, removed at the end.

use std::sync::Arc;

use linux::netlink::Netlink;
use linux::tun::Device;

use super::{BARE_MTU, Control, Scope};
use crate::Result;
use crate::apply;
use crate::data_path;
use crate::observe::facts::DeviceFacts;
use crate::plan::{self, Desired, Operation, Owned};
use crate::roads;
use crate::underlay::{self, Survey};

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
        self.switchboard.set_mtu(mtu, &self.roster);
        self.publish();
        Ok(Opened { device, undo })
    }

    fn open_with_host(&mut self, netlink: &mut Netlink) -> Result<(Device, Undo, u32)> {
        let name = self.tunnel.device.name.clone();
        underlay::check_mtu(&self.tunnel, self.narrowest())?;
        let desired = self.desired(self.narrowest());
        let before = apply::observe(netlink, &name)?;
        let mut undo = Undo { steps: Vec::new(), device_was_there: before.device.is_some(), owned: self.owned.clone() };
        self.owned.claim(&desired, &before);
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

    fn set_up(&self, netlink: &mut Netlink, name: &str, desired: &Desired, undo: &mut Undo) -> Result<Device> {
        let queues = self.surroundings.sockets.len();
        let device = data_path::open_device(netlink, name, queues, self.tunnel.transport.offload)?;
        let actual = apply::observe(netlink, name)?;
        let steps = plan::plan(desired, &actual, &self.owned);
        apply::apply(netlink, name, &steps)?;
        undo.steps = steps;
        let everybody = self.roster.members().map(|member| (&member.peer, member.configured));
        underlay::check_no_loop(netlink, &self.tunnel, everybody)?;
        Ok(device)
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
        }
        self.owned.clone_from(&undo.owned);
        let noted = if self.owned.is_empty() { self.record.remove() } else { self.record.write(&self.owned) };
        failures.extend(noted.err());
        for failure in failures {
            tracing::warn!("while taking changes back: {failure}");
        }
    }

    /// Removes everything: routes, device, blackholes, and the note that they are ours.
    pub fn remove(&mut self, netlink: &mut Netlink) {
        if self.scope == Scope::Device {
            // It went with its queues, wherever it was.
            return;
        }
        let name = &self.tunnel.device.name;
        let mut failures = Vec::new();
        match apply::observe(netlink, name) {
            Ok(actual) => failures.extend(apply::try_all(netlink, name, &plan::removal(&actual, &self.owned))),
            Err(failure) => failures.push(failure),
        }
        failures.extend(apply::delete_device(netlink, name).err());
        if failures.is_empty() {
            failures.extend(self.record.remove().err());
        }
        for failure in failures {
            tracing::error!("{failure}");
        }
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
