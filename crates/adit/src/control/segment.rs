//! A device that carries frames: the table of addresses is kept, and loops are found.
//!
//! Once a second a beacon goes out by the device, and what others' beacons tell is asked about inside sessions
//! ([`tunnel::switch::segment`]). While another node carries the frames of our segment, workers drop all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use linux::clock;
use linux::netlink::Netlink;
use tunnel::switch::segment::{INTERVAL, Segment, Word};
use tunnel::switch::{Members, Switch};
use tunnel::{PeerId, Time};
use wire::ethernet::MacAddress;

use super::Control;
use crate::config::Tunnel;
use crate::key::PublicKey;
use crate::notes::topic;
use crate::worker::Frames;

/// How often addresses that were not heard again are let go of.
const SWEEP: Duration = Duration::from_secs(10);

/// How often all peers are told of a change.
const TOLD: u8 = 3;

/// Between two times that a peer makes us forget where its addresses are: each costs a look at the whole table.
const FORGETTING: Duration = Duration::from_millis(500);

/// Beacons that are looked at in a second: more than these are made up.
const BEACONS: usize = 32;

/// What there is of a switch beside the view.
pub(super) struct Ethernet {
    switch: Arc<Switch>,
    segment: Segment,
    /// When the next beacon goes out.
    due: Instant,
    swept: Instant,
    /// Beacons that may still be looked at before the next one of ours.
    left: usize,
    /// As workers were told: who carries the frames of our segment instead of us.
    carrier: Option<PeerId>,
    /// What was said last of loops.
    said: Option<String>,
    /// Who was on our segment then.
    neighbours: Vec<PeerId>,
    /// How often all peers are still to be told of a change: what is told may be lost.
    to_tell: u8,
    /// When each peer last made us forget its addresses.
    forgot: BTreeMap<PeerId, Instant>,
}

impl Ethernet {
    /// That of a configuration, if its device carries frames.
    pub(super) fn of(tunnel: &Tunnel) -> Option<Self> {
        let ethernet = tunnel.ethernet.as_ref()?;
        let now = Instant::now();
        Some(Self {
            switch: Arc::new(Switch::new(ethernet.switch.clone())),
            segment: Segment::new(own_name(tunnel)),
            due: now,
            swept: now,
            left: BEACONS,
            carrier: None,
            said: None,
            neighbours: Vec::new(),
            to_tell: 0,
            forgot: BTreeMap::new(),
        })
    }

    pub(super) fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }
}

/// What a node is known by in beacons: half of its public key, which nobody can choose freely.
fn known_by(key: &PublicKey) -> [u8; 16] {
    let [half @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *key.as_bytes();
    half
}

/// What this node is known by.
fn own_name(tunnel: &Tunnel) -> [u8; 16] {
    tunnel.device.private_key.as_ref().map(|key| known_by(&key.public_key())).unwrap_or_default()
}

fn now() -> Time {
    Time::from_nanos(clock::boottime())
}

impl Control {
    /// What workers need to know of frames.
    pub(super) fn frames(&self) -> Option<Frames> {
        let ethernet = self.ethernet.as_ref()?;
        let peers = self.roster.iter().map(|(id, member)| (id, member.peer.macs.as_slice()));
        Some(Frames { switch: Arc::clone(&ethernet.switch), members: Members::new(peers, ethernet.carrier.is_some()) })
    }

    /// Our key may be another one, by which peers know us.
    pub(super) fn name_segment(&mut self) {
        if let Some(ethernet) = &mut self.ethernet {
            ethernet.segment.rename(own_name(&self.tunnel));
        }
    }

    /// A peer is gone: its number will be another one's.
    pub(super) fn forget_addresses(&mut self, id: PeerId) {
        if let Some(ethernet) = &mut self.ethernet {
            ethernet.switch.forget(id);
            ethernet.segment.forget(id);
            ethernet.forgot.remove(&id);
        }
    }

    /// How long nothing is due.
    pub(super) fn wait_for_segment(&self, now: Instant) -> Duration {
        self.ethernet.as_ref().map_or(Duration::MAX, |ethernet| ethernet.due.saturating_duration_since(now))
    }

    /// Hears beacons, and sends one where it is time.
    pub(super) fn look_at_segment(&mut self, netlink: &mut Netlink, clock: Instant) {
        let mailbox = Arc::clone(&self.surroundings.secrets.mailbox);
        while let Some(beacon) = mailbox.next_beacon() {
            let Some(ethernet) = &mut self.ethernet else { return };
            let Some(left) = ethernet.left.checked_sub(1) else { continue };
            ethernet.left = left;
            let roster = &self.roster;
            let by_name = |name: &[u8; 16]| {
                let is_it = |(_, member): &(PeerId, &crate::roster::Member)| {
                    member.peer.public_key.is_some_and(|key| known_by(&key) == *name)
                };
                roster.iter().find(is_it).map(|(id, _)| id)
            };
            if let Some((id, word)) = ethernet.segment.heard(&beacon, by_name, now()) {
                self.switchboard.tell(id, topic::LOOP, &word.emit(), &self.roster);
            }
        }
        let Some(ethernet) = &mut self.ethernet else { return };
        if clock < ethernet.due {
            return;
        }
        ethernet.due = clock + INTERVAL;
        ethernet.left = BEACONS;
        if clock.saturating_duration_since(ethernet.swept) >= SWEEP {
            ethernet.swept = clock;
            ethernet.switch.sweep(now());
        }
        self.send_beacon(netlink);
        self.settle_segment(netlink);
        self.tell_of_change();
    }

    fn tell_of_change(&mut self) {
        let Some(ethernet) = &mut self.ethernet else { return };
        let Some(left) = ethernet.to_tell.checked_sub(1) else { return };
        ethernet.to_tell = left;
        let all: Vec<PeerId> = self.roster.iter().map(|(id, _)| id).collect();
        for id in all {
            self.switchboard.tell(id, topic::LOOP, &Word::Changed.emit(), &self.roster);
        }
    }

    fn send_beacon(&mut self, netlink: &mut Netlink) {
        let mut nonce = [0; 16];
        let (Some(ethernet), Some(running), Ok(())) = (&mut self.ethernet, &self.running, rand::fill(&mut nonce))
        else {
            return;
        };
        let mac = netlink.link(&self.tunnel.device.name).ok().flatten().and_then(|link| link.mac);
        if let Some(mac) = mac {
            running.give_to_device(&ethernet.segment.beacon(nonce).emit(MacAddress(mac)));
        }
    }

    /// What a peer said about beacons.
    pub(super) fn told_of_segment(&mut self, netlink: &mut Netlink, id: PeerId, body: &[u8]) {
        let (Some(ethernet), Some(word)) = (&mut self.ethernet, Word::parse(body)) else { return };
        if word == Word::Changed {
            let clock = Instant::now();
            let last = ethernet.forgot.get(&id);
            if last.is_none_or(|at| clock.saturating_duration_since(*at) >= FORGETTING) {
                ethernet.forgot.insert(id, clock);
                // Its own alone: it has no say about where others' are.
                ethernet.switch.forget(id);
            }
            return;
        }
        let name = self.roster.get(id).and_then(|member| member.peer.public_key).map(|key| known_by(&key));
        let Some(name) = name else { return };
        if let Some(answer) = ethernet.segment.told((id, name), word, now()) {
            self.switchboard.tell(id, topic::LOOP, &answer.emit(), &self.roster);
        }
        self.settle_segment(netlink);
    }

    /// Has workers keep still, or not any more, and says so once.
    fn settle_segment(&mut self, netlink: &mut Netlink) {
        let Some(ethernet) = &mut self.ethernet else { return };
        let time = now();
        let name =
            |id: PeerId| self.roster.get(id).map_or_else(|| "a peer".to_owned(), |member| member.peer.name.clone());
        let carrier = ethernet.segment.carrier(time);
        let neighbours: Vec<String> = ethernet.segment.neighbours(time).map(name).collect();
        let device = &self.tunnel.device.name;
        let problem = match carrier {
            Some(id) => Some(format!(
                "a loop: the network behind {device} is joined to that of {} beside the tunnel too; {} carries its frames, and {device} keeps still",
                neighbours.join(", "),
                name(id),
            )),
            None if !neighbours.is_empty() => Some(format!(
                "a loop: the network behind {device} is joined to that of {} beside the tunnel too; {device} carries its frames, and the others keep still",
                neighbours.join(", "),
            )),
            None if ethernet.segment.is_looped(time) => Some(format!(
                "a loop: what {device} sends into the network behind it comes back; look for bridges that are joined twice"
            )),
            None if ethernet.segment.has_stranger(time) => Some(format!(
                "the network behind {device} is joined to that of another adit, which is no peer of ours: frames may go round"
            )),
            None => None,
        };
        if ethernet.said != problem {
            match &problem {
                Some(problem) => tracing::warn!("{problem}"),
                None => tracing::info!("the loop behind {device} is gone"),
            }
            self.facts.set_switch_problem(problem.clone());
            ethernet.said = problem;
        }
        let present: Vec<PeerId> = ethernet.segment.neighbours(time).collect();
        if ethernet.carrier == carrier && ethernet.neighbours == present {
            return;
        }
        // What was behind one of a segment's nodes is behind another now, so that each of them says so.
        ethernet.neighbours = present;
        ethernet.to_tell = TOLD;
        let moved = std::mem::replace(&mut ethernet.carrier, carrier) != carrier;
        // What was learned while frames went round, or by the way that is closed now, is nothing to go by.
        ethernet.switch.forget_all();
        self.flush_port(netlink);
        if moved {
            self.publish();
        }
        self.tell_of_change();
    }

    /// Has the bridge forget what it learned at our device.
    fn flush_port(&self, netlink: &mut Netlink) {
        let link = netlink.link(&self.tunnel.device.name).ok().flatten();
        let Some(link) = link.filter(|link| link.controller.is_some()) else { return };
        if let Err(e) = netlink.flush_port(link.index) {
            tracing::debug!("{e}");
        }
    }
}
