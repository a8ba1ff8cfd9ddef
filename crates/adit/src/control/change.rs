//! Another configuration, as one transaction: validated wholly, then applied, then taken back where a step fails.
//!
//! 1. what is to change, and whether it can ([`reconfigure`])
//! 2. what can fail, in an order in which each step can be taken back: new sockets are bound, marks set, the host brought to what it should
//!    look like (the record first, blackholes before routes), workers started on the new sockets
//! 3. what cannot fail: new peers and keys are told to the node, one picture is published for all of it, and peers that are not in it any
//!    more end. So a prefix that moves from one peer to another has one owner at every moment; and when the asker has its answer, no worker
//!    goes by the former picture.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use linux::clock;
use linux::netlink::Netlink;
use linux::udp::Socket;
use tunnel::handshake::Identity as OwnIdentity;
use tunnel::{PeerId, RouteTable, Time};
use wire::message::Protocol;

use super::{Control, Scope};
use crate::apply;
use crate::config::{self, Endpoint, Host, TransportKind, Tunnel};
use crate::data_path;
use crate::plan::{self, Operation, Owned, Road};
use crate::reconfigure::{self, Aspect, Change, Setting};
use crate::request::{Refusal, Summary, Wanted};
use crate::roster::{Identity, Member, Width};
use crate::switchboard;
use crate::underlay::{self, Resolved, Survey};
use crate::worker::Event;
use crate::{Failure, Result, roads};

/// A change that was validated, ready to be applied.
struct Prepared {
    tunnel: Arc<Tunnel>,
    road: Option<Road>,
    /// Where our datagrams will arrive.
    port: u16,
    identities: Vec<(Protocol, Option<OwnIdentity>)>,
    add: Vec<Member>,
    remove: Vec<PeerId>,
    edit: BTreeMap<PeerId, Edited>,
    narrowest: Option<usize>,
    /// Whether addresses, routes, or the size of packets may be other ones.
    touches_host: bool,
}

/// What changes of one peer.
struct Edited {
    /// Its place among the new peers.
    place: usize,
    aspects: HashSet<Aspect>,
    /// Where it is by the new configuration, and what fits there, if the configuration says another thing than before.
    moved: Option<(Option<SocketAddr>, Width)>,
}

/// What was done to the host.
#[derive(Default)]
struct Undo {
    steps: Vec<Operation>,
    owned: Owned,
}

impl Control {
    /// Answers what others have asked for.
    pub(super) fn answer_requests(&mut self, netlink: &mut Netlink) {
        while let Ok(request) = self.requests.try_recv() {
            let answer = self.change(netlink, request.wanted);
            if answer.as_ref().is_ok_and(|summary| *summary != Summary::default()) {
                self.surroundings.control.changes.add(1);
            }
            // Who has left in the meantime needs no answer.
            let _ = request.reply.send(answer);
        }
    }

    /// Who waits for an answer need not wait for our end.
    pub(super) fn refuse_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            let _ = request.reply.send(Err(Failure::failed("the daemon is about to end").into()));
        }
        // Who asks from now on is told at once: nobody will look into this queue again.
        self.requests = sync_channel(0).1;
    }

    fn change(&mut self, netlink: &mut Netlink, wanted: Wanted) -> std::result::Result<Summary, Refusal> {
        let (mut new, resolved) = match wanted {
            Wanted::Called(peers) => {
                let mut found = false;
                for (key, place) in peers {
                    let Some(id) = self.roster.find(&Identity::Key(TransportKind::Sealed, key)) else { continue };
                    let is_lost = self.roster.get(id).is_some_and(|member| member.endpoint.is_none());
                    if let Some(place) = place.filter(|place| is_lost && underlay::is_usable(place, self.listen())) {
                        self.moved(netlink, id, place);
                        self.switchboard.set_endpoint(id, Some(place));
                        found = true;
                    }
                    self.switchboard.call_soon(id);
                }
                if found {
                    self.publish();
                }
                return Ok(Summary::default());
            }
            Wanted::Told(id, topic, body) => {
                if !self.switchboard.tell(id, topic, &body, &self.roster) {
                    let failure =
                        Failure::failed("there is no sealed session with that peer").with_remedy("see `adit status`");
                    return Err(failure.into());
                }
                return Ok(Summary::default());
            }
            Wanted::Measured(most, reply) => {
                let _ = reply.try_send(self.switchboard.measure(most, &self.roster));
                return Ok(Summary::default());
            }
            Wanted::Whole(tunnel, resolved) => (*tunnel, resolved),
            Wanted::Edited(edit) => {
                let shown = self.as_seen();
                let mut new = edit(&shown)?;
                self.restore_endpoints(&shown, &mut new);
                (new, Resolved::new())
            }
        };
        let road = roads::settle(netlink, &mut new, &self.owned)?;
        let mut changes = reconfigure::difference(&self.tunnel, &new);
        changes.extend(self.plain_peers_elsewhere(&new, &resolved, &changes));
        reconfigure::check(&changes, &new)?;
        if let Some(network) = new.network.as_ref().filter(|_| changes.contains(&Change::Setting(Setting::Bridge))) {
            self.check_bridge(&network.bridge)?;
        }
        let summary = reconfigure::summary(&changes);
        let sockets = self.other_sockets(&new, &changes)?;
        let door = match changes.contains(&Change::Setting(Setting::Observe)) {
            true => self.web.prepare(new.observe.listen.as_ref())?,
            false => None,
        };
        let listen = sockets.as_ref().and_then(|s| s.first()).map_or(self.listen(), |socket| socket.local_address());
        let prepared = self.prepare(netlink, new, &changes, (listen, &resolved))?;
        let before: HashMap<PeerId, Option<SocketAddr>> =
            self.roster.iter().map(|(id, member)| (id, member.endpoint)).collect();
        self.apply(netlink, Prepared { road, ..prepared }, sockets)?;
        // Who is elsewhere now may be reached by another card, with another address of ours.
        let moved = self.roster.iter().filter(|(id, now)| before.get(id).is_some_and(|old| *old != now.endpoint));
        underlay::forget_other_cards(netlink, &self.tunnel, moved.map(|(_, member)| member));
        self.web.follow(self.tunnel.observe.listen.as_ref(), door);
        Ok(summary)
    }

    // ---- what is to change ---------------------------------------------------------------------------------------------

    /// The configuration as WireGuard's tools see it: an encrypted peer is where it is now.
    fn as_seen(&self) -> Tunnel {
        let mut shown = Tunnel::clone(&self.tunnel);
        for peer in shown.peers.iter_mut().filter(|peer| peer.transport.is_secure()) {
            let state = self.roster.find(&Identity::of(peer)).and_then(|id| self.switchboard.state(id));
            if let Some(address) = state.and_then(|state| state.endpoint) {
                peer.endpoint =
                    Some(Endpoint { host: Host::Address(address.ip().to_canonical()), port: address.port() });
            }
        }
        shown
    }

    /// Endpoints that came back as they were shown stay what the configuration said.
    fn restore_endpoints(&self, shown: &Tunnel, new: &mut Tunnel) {
        let before =
            shown.peers.iter().zip(&self.tunnel.peers).map(|(shown, configured)| {
                (Identity::of(shown), (shown.endpoint.as_ref(), configured.endpoint.as_ref()))
            });
        let before: HashMap<_, _> = before.collect();
        for peer in &mut new.peers {
            if let Some((shown, configured)) = before.get(&Identity::of(peer))
                && peer.endpoint.as_ref() == *shown
            {
                peer.endpoint = configured.cloned();
            }
        }
    }

    /// Plain peers whose names come to other addresses than before.
    fn plain_peers_elsewhere(&self, new: &Tunnel, resolved: &Resolved, changes: &[Change]) -> Vec<Change> {
        let moved = |peer: &&config::Peer| {
            let member = self.roster.find(&Identity::of(peer)).and_then(|id| self.roster.get(id));
            let address = peer.endpoint.as_ref().and_then(|endpoint| resolved.get(endpoint));
            address.is_some() && member.is_some_and(|member| member.configured.as_ref() != address)
        };
        let plain = new.peers.iter().filter(|peer| !peer.transport.is_secure());
        let moved = plain.filter(moved).map(|peer| Change::Peer(Identity::of(peer), Aspect::Endpoint));
        moved.filter(|change| !changes.contains(change)).collect()
    }

    /// Sockets on another port or address, where that is wanted, before the old ones are let go.
    fn other_sockets(
        &self,
        new: &Tunnel,
        changes: &[Change],
    ) -> std::result::Result<Option<Vec<Arc<Socket>>>, Refusal> {
        let (now, wanted) = (self.listen(), new.transport.listen);
        if !changes.contains(&Change::Setting(Setting::Listen)) || wanted == now {
            return Ok(None);
        }
        if wanted.port() == now.port() {
            let sentence = format!("cannot listen on {wanted} while the same port of {} is ours", now.ip());
            return Err(Failure::usage(sentence)
                .with_remedy("choose another port as well, or start adit again")
                .into());
        }
        let workers = self.surroundings.sockets.len();
        data_path::bind(&new.transport, workers, data_path::forbids_fragments(new)).map(Some)
    }

    /// Finds out all that can be known before anything is touched.
    fn prepare(
        &self,
        netlink: &mut Netlink,
        new: Tunnel,
        changes: &[Change],
        (listen, resolved): (SocketAddr, &Resolved),
    ) -> Result<Prepared> {
        let places: HashMap<Identity, usize> = new.peers.iter().map(Identity::of).zip(0..).collect();
        let mut survey = Survey::new(netlink, &new);
        let (mut add, mut remove, mut edit) = (Vec::new(), Vec::new(), BTreeMap::<PeerId, Edited>::new());
        let workers = self.surroundings.sockets.len();
        for change in changes {
            match change {
                Change::Setting(_) => {}
                Change::Remove(identity) => remove.extend(self.roster.find(identity)),
                Change::Add(identity) => {
                    let Some(peer) = places.get(identity).and_then(|place| new.peers.get(*place)) else { continue };
                    let address = underlay::locate(peer, listen, resolved)?;
                    let mut member = Member::new(peer.clone(), address, workers);
                    member.width = survey.width(peer.transport, address);
                    add.push(member);
                }
                Change::Peer(identity, aspect) => {
                    let (Some(place), Some(id)) = (places.get(identity).copied(), self.roster.find(identity)) else {
                        continue;
                    };
                    let edited = edit.entry(id);
                    let edited = edited.or_insert_with(|| Edited { place, aspects: HashSet::new(), moved: None });
                    edited.aspects.insert(*aspect);
                    let Some(peer) = new.peers.get(place).filter(|_| *aspect == Aspect::Endpoint) else { continue };
                    let address = underlay::locate(peer, listen, resolved)?;
                    let now = address.or(self.roster.get(id).and_then(|member| member.endpoint));
                    edited.moved = Some((address, survey.width(peer.transport, now)));
                }
            }
        }
        let gone: HashSet<PeerId> = remove.iter().copied().collect();
        let staying = || self.roster.iter().filter(|(id, _)| !gone.contains(id));
        let moved = |id: &PeerId| edit.get(id).and_then(|edited| edited.moved);
        underlay::check_distinct(
            staying()
                .filter(|(_, member)| !member.peer.transport.is_secure())
                .map(|(id, member)| (&member.peer, moved(&id).map_or(member.configured, |(address, _)| address)))
                .chain(add.iter().map(|member| (&member.peer, member.configured))),
        )?;
        let widths = staying().map(|(id, member)| moved(&id).map_or(member.width, |(_, width)| width));
        let narrowest = widths.chain(add.iter().map(|member| member.width)).map(|width| width.configured).min();
        if self.scope == Scope::Host {
            underlay::check_mtu(&new, narrowest)?;
        }
        let identities = self.other_identities(&new)?;
        let touches_host = self.scope == Scope::Host && changes.iter().any(touches_host);
        let port = listen.port();
        Ok(Prepared { tunnel: Arc::new(new), road: None, port, identities, add, remove, edit, narrowest, touches_host })
    }

    /// Who we are by the new configuration, in those transports in which that is somebody else.
    fn other_identities(&self, new: &Tunnel) -> Result<Vec<(Protocol, Option<OwnIdentity>)>> {
        let mut others = Vec::new();
        for ((protocol, before), (_, after)) in switchboard::keys(&self.tunnel).into_iter().zip(switchboard::keys(new))
        {
            if before.map(|key| key.public_key()) != after.map(|key| key.public_key()) {
                others.push((protocol, after.map(switchboard::identity).transpose()?));
            }
        }
        Ok(others)
    }

    // ---- doing it ------------------------------------------------------------------------------------------------------

    fn apply(&mut self, netlink: &mut Netlink, new: Prepared, sockets: Option<Vec<Arc<Socket>>>) -> Result<()> {
        let (before, after) = (self.tunnel.transport.fwmark, new.tunnel.transport.fwmark);
        // A mark comes before the rules that tell by it, and goes after them. New sockets have it already.
        let marked = sockets.is_none() && before != after && after.is_some();
        if marked {
            self.mark_sockets(after)?;
        }
        let undo = match self.change_host(netlink, &new) {
            Ok(undo) => undo,
            Err(failure) => {
                if marked && let Err(e) = self.mark_sockets(before) {
                    tracing::warn!("while taking changes back: {e}");
                }
                return Err(failure);
            }
        };
        let asks_others = new.tunnel.device.dns != self.tunnel.device.dns;
        if asks_others
            && let Some(resolvers) = &mut self.resolvers
            && let Err(failure) = resolvers.set(&new.tunnel.device.dns)
        {
            self.take_resolvers_back();
            self.take_changes_back(netlink, undo);
            return Err(failure);
        }
        match sockets {
            Some(sockets) => {
                if let Err(failure) = self.change_sockets(sockets) {
                    if asks_others {
                        self.take_resolvers_back();
                    }
                    self.take_changes_back(netlink, undo);
                    return Err(failure);
                }
            }
            None => {
                let forbidden = data_path::forbids_fragments(&new.tunnel);
                let unmarked = if after.is_none() && before.is_some() { self.mark_sockets(None) } else { Ok(()) };
                let set = self.surroundings.sockets.iter().try_for_each(|socket| socket.set_dont_fragment(forbidden));
                if let Err(e) = set.map_err(Failure::from).and(unmarked) {
                    tracing::warn!("{e}");
                }
            }
        }
        self.commit(new);
        Ok(())
    }

    fn mark_sockets(&self, mark: Option<std::num::NonZero<u32>>) -> Result<()> {
        Ok(self.surroundings.sockets.iter().try_for_each(|socket| socket.set_mark(mark))?)
    }

    /// Brings the host to what it should look like by the new configuration.
    fn change_host(&mut self, netlink: &mut Netlink, new: &Prepared) -> Result<Undo> {
        if !new.touches_host {
            return Ok(Undo { steps: Vec::new(), owned: self.owned.clone() });
        }
        let name = self.tunnel.device.name.clone();
        let mtu = underlay::device_mtu(&new.tunnel, new.narrowest);
        let desired = roads::desired(&new.tunnel, mtu, new.road, new.port);
        let actual = apply::observe(netlink, &name, desired.bridge.as_ref().map(|bridge| bridge.name.as_str()))?;
        self.check_bridge_of_others(&desired, &actual)?;
        let undo = Undo { steps: Vec::new(), owned: self.owned.clone() };
        self.owned.claim(&desired, &actual);
        let steps = plan::plan(&desired, &actual, &self.owned);
        let done = self.record.write(&self.owned).and_then(|()| apply::apply(netlink, &name, &steps));
        if let Err(failure) = done {
            self.take_changes_back(netlink, undo);
            return Err(failure);
        }
        let undo = Undo { steps, ..undo };
        // A device that is being made anew is checked then.
        let checked = match actual.device {
            Some(_) => underlay::check_no_loop(netlink, &new.tunnel, self.to_be_checked(new, &undo.steps).into_iter()),
            None => Ok(()),
        };
        if let Err(failure) = checked {
            self.take_changes_back(netlink, undo);
            return Err(failure);
        }
        self.owned.keep(&desired);
        if let Err(failure) = self.record.write(&self.owned) {
            // It names too many, which is corrected the next time.
            tracing::warn!("{failure}");
        }
        if actual.device.is_some() {
            self.set_device_mtu(desired.mtu);
        }
        Ok(undo)
    }

    /// The peers whose datagrams may go another way than before.
    fn to_be_checked<'p>(
        &'p self,
        new: &'p Prepared,
        steps: &[Operation],
    ) -> Vec<(&'p config::Peer, Option<SocketAddr>)> {
        let mut routes = RouteTable::default();
        for step in steps {
            if let Operation::AddRoute(route) = step {
                routes.insert(route.destination, ());
            }
        }
        let gone: HashSet<PeerId> = new.remove.iter().copied().collect();
        let staying = self.roster.iter().filter(|(id, _)| !gone.contains(id) && !new.edit.contains_key(id));
        let staying = staying.map(|(_, member)| (&member.peer, member.endpoint));
        let rerouted = staying.filter(|(_, at)| at.is_some_and(|at| routes.longest_match(at.ip()).is_some()));
        let edited = new.edit.iter().filter_map(|(id, edited)| {
            let now = self.roster.get(*id).and_then(|member| member.endpoint);
            let address = edited.moved.and_then(|(address, _)| address).or(now);
            Some((new.tunnel.peers.get(edited.place)?, address))
        });
        rerouted.chain(edited).chain(new.add.iter().map(|member| (&member.peer, member.configured))).collect()
    }

    fn take_changes_back(&mut self, netlink: &mut Netlink, undo: Undo) {
        apply::undo(netlink, &self.tunnel.device.name, &undo.steps);
        if self.scope == Scope::Host && self.owned != undo.owned {
            self.owned = undo.owned;
            if let Err(failure) = self.record.write(&self.owned) {
                tracing::warn!("while taking changes back: {failure}");
            }
        }
        if let Ok(Some(link)) = netlink.link(&self.tunnel.device.name)
            && self.scope == Scope::Host
        {
            self.set_device_mtu(link.mtu);
        }
    }

    fn take_resolvers_back(&mut self) {
        if let Err(failure) = self.set_resolvers() {
            tracing::warn!("while taking changes back: {failure}");
        }
    }

    /// Workers go over to other sockets; they keep the queues of the device, which notices nothing.
    fn change_sockets(&mut self, sockets: Vec<Arc<Socket>>) -> Result<()> {
        let former = std::mem::replace(&mut self.surroundings.sockets, sockets);
        let Some(running) = &mut self.running else {
            self.switchboard.set_sockets(self.surroundings.sockets.clone());
            return Ok(());
        };
        if let Err(failure) = running.restart(&self.surroundings) {
            self.surroundings.sockets = former;
            if let Err(e) = running.restart(&self.surroundings) {
                tracing::error!("{e}");
                (self.surroundings.report)(Event::WorkerFailed);
            }
            return Err(failure);
        }
        self.switchboard.set_sockets(self.surroundings.sockets.clone());
        Ok(())
    }

    /// What cannot fail.
    fn commit(&mut self, new: Prepared) {
        let now = Time::from_nanos(clock::boottime());
        for (id, edited) in new.edit {
            let (Some(member), Some(peer)) = (self.roster.get_mut(id), new.tunnel.peers.get(edited.place)) else {
                continue;
            };
            member.peer = peer.clone();
            if edited.aspects.contains(&Aspect::PresharedKey) {
                self.switchboard.set_preshared(id, peer);
            }
            if edited.aspects.contains(&Aspect::Keepalive) {
                self.switchboard.set_keepalive(id, peer);
            }
            if let Some((address, width)) = edited.moved {
                (member.configured, member.width) = (address, width);
                member.endpoint = address.or(member.endpoint);
                self.names.forget(id);
                self.switchboard.set_endpoint(id, address);
                self.switchboard.set_path(id, self.path(width));
            }
        }
        for (protocol, identity) in new.identities {
            self.switchboard.set_identity(protocol, identity);
        }
        // Before peers come: those of a network are not called until there is something to say.
        let network = switchboard::membership(&new.tunnel);
        if network != switchboard::membership(&self.tunnel) {
            self.switchboard.set_membership(network.cloned());
        }
        for member in new.add {
            let path = self.path(member.width);
            let id = self.roster.add(member, now);
            if let Some(member) = self.roster.get(id) {
                self.switchboard.add(id, member);
                self.switchboard.set_path(id, path);
            }
        }
        for id in &new.remove {
            self.roster.remove(*id, now);
            self.names.forget(*id);
        }
        (self.tunnel, self.road) = (new.tunnel, new.road);
        self.name_segment();
        self.names_due = Some(std::time::Instant::now());
        self.facts.follow(Arc::clone(&self.tunnel), &self.roster, &self.surroundings.sockets);
        self.publish();
        self.try_to_tell_doors();
        // Who asked is answered when nobody works by the former picture any more, and a peer ends when nobody sends to it.
        if let Some(running) = &self.running {
            running.await_sight(self.edition, &self.surroundings);
        }
        for id in new.remove {
            self.switchboard.remove(id);
            self.forget_addresses(id);
        }
        self.switchboard.follow_up(&self.roster);
    }
}

/// Whether what stands on the host depends on it.
fn touches_host(change: &Change) -> bool {
    match change {
        Change::Add(_) | Change::Remove(_) => true,
        Change::Peer(_, aspect) => matches!(aspect, Aspect::Endpoint | Aspect::AllowedIps),
        Change::Setting(setting) => {
            let here_alone =
                matches!(setting, Setting::PrivateKey | Setting::WireguardPrivateKey | Setting::Membership);
            !here_alone && !matches!(setting, Setting::Bridge | Setting::Domain | Setting::Observe)
        }
    }
}
