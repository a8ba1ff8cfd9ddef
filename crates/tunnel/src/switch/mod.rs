//! A switch that spans hosts: which peer gets a frame of the device's, and may this one of a peer's come in.
//!
//! Its ports are the device and the peers. What comes from a peer goes to the device alone (every node has a session with every other one, so that nothing goes
//! round), and what comes from the device to one peer, or to all. Workers share it; nothing here waits.
//!
//! | module | question |
//! |---|---|
//! | [`table`] | which address is where |
//! | [`storm`] | how much may be flooded |
//! | [`neighbours`] | which question need not be flooded |
//! | [`segment`] | is there another way between two nodes' bridges |

pub mod neighbours;
pub mod segment;
pub mod storm;
pub mod table;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wire::beacon::Beacon;
use wire::ethernet::MacAddress;
use wire::frame::Frame;

use crate::snapshot::PeerId;
use crate::time::Time;
use crate::verdict::Reason;
use neighbours::{Neighbours, Side};
use storm::StormLimit;
pub use table::Owner;
use table::{Learned, MacTable};

/// What bridges tell each other, and never pass on: 01-80-C2-00-00-00 to 0F (IEEE Std 802.1Q, clause 8.6.3).
const BRIDGE_GROUPS: [u8; 5] = [0x01, 0x80, 0xc2, 0, 0];

/// How a switch is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an address that is not heard again is where it was: whole seconds.
    pub age: Duration,
    /// How many addresses a peer may have.
    pub macs_per_peer: u32,
    /// How many frames per second of one source are flooded.
    pub storm_limit: u32,
    /// Whether frames of the spanning tree protocol are carried.
    pub stp: bool,
    /// Whether questions for addresses are answered from what is known instead of flooded.
    pub suppress: bool,
}

impl Default for Settings {
    /// Five minutes, as bridges have it; 1024 addresses; 2000 frames per second.
    fn default() -> Self {
        Self { age: Duration::from_secs(300), macs_per_peer: 1024, storm_limit: 2000, stp: false, suppress: true }
    }
}

/// What the configuration says of peers' addresses, and who there is to flood to.
#[derive(Clone, Debug, Default)]
pub struct Members {
    fixed: HashMap<MacAddress, PeerId>,
    restricted: HashSet<PeerId>,
    all: Vec<PeerId>,
    blocked: bool,
}

impl Members {
    /// These peers. One that has addresses may have no others, and nobody else has those. `blocked`: another node carries the frames of our
    /// segment, and we keep still.
    #[must_use]
    pub fn new<'a>(peers: impl IntoIterator<Item = (PeerId, &'a [MacAddress])>, blocked: bool) -> Self {
        let mut members = Self { blocked, ..Self::default() };
        for (id, macs) in peers {
            members.all.push(id);
            if !macs.is_empty() {
                members.restricted.insert(id);
                members.fixed.extend(macs.iter().map(|mac| (*mac, id)));
            }
        }
        members
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[PeerId] {
        &self.all
    }
}

/// Where a frame of the device's goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// To a peer.
    To(PeerId),
    /// To all of them.
    Flood,
    /// To none: this frame is the answer.
    Answer(Vec<u8>),
    /// To none: it is a beacon, which is for us.
    Beacon(Option<Beacon>),
}

/// What a switch counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Addresses that are known: on this host's side, and with peers.
    pub local: usize,
    /// With peers.
    pub remote: usize,
    /// IP addresses whose link-layer address is known.
    pub neighbours: usize,
    /// How often an address went from one to another.
    pub moves: u64,
    /// How often there was no room for an address.
    pub refused: u64,
    /// Frames that were flooded.
    pub flooded: u64,
    /// Questions that were answered instead of flooded.
    pub answered: u64,
}

/// See the module.
pub struct Switch {
    settings: Settings,
    table: MacTable,
    storm: StormLimit,
    neighbours: Neighbours,
    moves: AtomicU64,
    refused: AtomicU64,
    flooded: AtomicU64,
    answered: AtomicU64,
}

impl Switch {
    /// A switch that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            table: MacTable::new(settings.macs_per_peer, settings.age),
            storm: StormLimit::new(settings.storm_limit),
            settings,
            neighbours: Neighbours::default(),
            moves: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            flooded: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// Where a frame of the device's goes, that stands for `count` frames.
    ///
    /// # Errors
    /// [`Reason::Malformed`] from an address that nobody can have, [`Reason::LinkControl`], [`Reason::Loop`] while another node carries our segment's frames,
    /// [`Reason::OnThisSide`], [`Reason::Storm`].
    #[inline]
    pub fn egress(&self, members: &Members, frame: &Frame<'_>, count: usize, now: Time) -> Result<Way, Reason> {
        let (source, destination) = (frame.source(), frame.destination());
        self.check(source, destination)?;
        if Beacon::is_one(frame) {
            return Ok(Way::Beacon(Beacon::parse(frame)));
        }
        if members.blocked {
            return Err(Reason::Loop);
        }
        // An address that the configuration gives to a peer is there, whoever uses it here.
        if !members.fixed.contains_key(&source) {
            self.learn(source, Owner::Local, now);
            if self.settings.suppress {
                self.neighbours.hear(frame, Side::Local, now);
            }
        }
        if !destination.is_group() {
            match self.whereabouts(members, destination, now) {
                Some(Owner::Peer(id)) => return Ok(Way::To(id)),
                Some(Owner::Local) => return Err(Reason::OnThisSide),
                None => {}
            }
        } else if self.settings.suppress {
            let is_there = |mac| matches!(self.whereabouts(members, mac, now), Some(Owner::Peer(_)));
            if let Some(answer) = self.neighbours.answer(frame, now, is_there) {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(Way::Answer(answer));
            }
        }
        if !self.storm.permits(Owner::Local, count, now) {
            return Err(Reason::Storm);
        }
        self.flooded.fetch_add(count as u64, Ordering::Relaxed);
        Ok(Way::Flood)
    }

    /// Whether a frame that a peer sealed may enter the device. Answers whether the next one of the same two addresses, a moment later, needs no look.
    ///
    /// # Errors
    /// [`Reason::Malformed`] from an address that nobody can have, [`Reason::LinkControl`], [`Reason::Loop`] while another node carries our segment's frames,
    /// [`Reason::WrongSource`] from an address that the peer may not have, [`Reason::Storm`].
    #[inline]
    pub fn ingress(&self, members: &Members, peer: PeerId, frame: &Frame<'_>, now: Time) -> Result<bool, Reason> {
        let (source, destination) = (frame.source(), frame.destination());
        self.check(source, destination)?;
        if Beacon::is_one(frame) {
            return Err(Reason::LinkControl);
        }
        if members.blocked {
            return Err(Reason::Loop);
        }
        match members.fixed.get(&source) {
            Some(owner) if *owner == peer => {}
            Some(_) => return Err(Reason::WrongSource),
            None if members.restricted.contains(&peer) => return Err(Reason::WrongSource),
            None => self.learn(source, Owner::Peer(peer), now),
        }
        if self.settings.suppress {
            self.neighbours.hear(frame, Side::Remote, now);
        }
        let is_known = !destination.is_group() && self.table.find(destination, now) == Some(Owner::Local);
        if is_known || self.storm.permits(Owner::Peer(peer), 1, now) { Ok(is_known) } else { Err(Reason::Storm) }
    }

    #[inline]
    fn check(&self, source: MacAddress, destination: MacAddress) -> Result<(), Reason> {
        if source.is_group() || source == MacAddress::default() {
            return Err(Reason::Malformed);
        }
        match destination.0 {
            [a, b, c, d, e, last @ 0..=0x0f] if [a, b, c, d, e] == BRIDGE_GROUPS => {
                if last == 0 && self.settings.stp {
                    Ok(())
                } else {
                    Err(Reason::LinkControl)
                }
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn learn(&self, mac: MacAddress, owner: Owner, now: Time) {
        match self.table.learn(mac, owner, now) {
            Learned::Known | Learned::New => {}
            Learned::Moved(_) => {
                self.moves.fetch_add(1, Ordering::Relaxed);
            }
            Learned::Refused => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[inline]
    fn whereabouts(&self, members: &Members, mac: MacAddress, now: Time) -> Option<Owner> {
        let fixed = members.fixed.get(&mac).map(|id| Owner::Peer(*id));
        // What a peer had before it was held to given addresses is not its own any more.
        let may_have = |owner: &Owner| !matches!(owner, Owner::Peer(id) if members.restricted.contains(id));
        fixed.or_else(|| self.table.find(mac, now).filter(may_have))
    }

    /// Lets go of what is too old; to be called every few seconds.
    pub fn sweep(&self, now: Time) {
        self.table.sweep(now);
        self.neighbours.sweep(now);
    }

    /// A peer is gone.
    pub fn forget(&self, peer: PeerId) {
        self.table.forget(Owner::Peer(peer));
    }

    /// Anything may be elsewhere than it was.
    pub fn forget_all(&self) {
        self.table.forget_all();
    }

    /// How many addresses a peer has.
    #[must_use]
    pub fn held_by(&self, peer: PeerId) -> usize {
        self.table.held_by(Owner::Peer(peer))
    }

    /// Every address that was learned, for people.
    #[must_use]
    pub fn entries(&self, now: Time) -> Vec<(MacAddress, Owner)> {
        self.table.entries(now)
    }

    /// What it counted.
    #[must_use]
    pub fn counts(&self, now: Time) -> Counts {
        let entries = self.table.entries(now);
        let local = entries.iter().filter(|(_, owner)| *owner == Owner::Local).count();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            local,
            remote: entries.len() - local,
            neighbours: self.neighbours.len(),
            moves: load(&self.moves),
            refused: load(&self.refused),
            flooded: load(&self.flooded),
            answered: load(&self.answered),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use wire::arp::{ArpPacket, Operation};

    use super::*;

    const BERLIN: PeerId = PeerId(0);
    const PARIS: PeerId = PeerId(1);
    const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const ALL: [u8; 6] = [0xff; 6];

    fn at(ms: u64) -> Time {
        Time::from_nanos((1000 + ms) * 1_000_000)
    }

    fn frame(from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[0x88, 0xb6], b"hello"].concat()
    }

    struct World {
        switch: Switch,
        members: Members,
    }

    impl World {
        fn new(settings: Settings) -> Self {
            let members = Members::new([(BERLIN, &[][..]), (PARIS, &[])], false);
            Self { switch: Switch::new(settings), members }
        }

        fn out(&self, from: [u8; 6], to: [u8; 6], now: Time) -> Result<Way, Reason> {
            let bytes = frame(from, to);
            self.switch.egress(&self.members, &Frame::parse(&bytes).unwrap(), 1, now)
        }

        fn enters(&self, peer: PeerId, from: [u8; 6], to: [u8; 6], now: Time) -> Result<(), Reason> {
            let bytes = frame(from, to);
            self.switch.ingress(&self.members, peer, &Frame::parse(&bytes).unwrap(), now).map(drop)
        }
    }

    #[test]
    fn a_frame_goes_where_its_address_was_heard_and_else_to_all() {
        let world = World::new(Settings::default());
        assert_eq!(world.out(HERE, THERE, at(0)), Ok(Way::Flood));
        assert_eq!(world.enters(PARIS, THERE, HERE, at(0)), Ok(()));
        assert_eq!(world.out(HERE, THERE, at(0)), Ok(Way::To(PARIS)));
        assert_eq!(world.out(HERE, ALL, at(0)), Ok(Way::Flood));
        assert_eq!(world.out(HERE, [3, 0, 0, 0, 0, 9], at(0)), Ok(Way::Flood));
        // It moves, and is followed from the first frame on.
        assert_eq!(world.enters(BERLIN, THERE, ALL, at(1)), Ok(()));
        assert_eq!(world.out(HERE, THERE, at(1)), Ok(Way::To(BERLIN)));
        // To this side.
        assert_eq!(world.out(THERE, ALL, at(2)), Ok(Way::Flood));
        assert_eq!(world.out(HERE, THERE, at(2)), Err(Reason::OnThisSide));
        let counts = world.switch.counts(at(2));
        assert_eq!((counts.local, counts.remote, counts.moves), (2, 0, 2));
        world.enters(PARIS, THERE, HERE, at(3)).unwrap();
        world.switch.forget(PARIS);
        assert_eq!(world.out(HERE, THERE, at(3)), Ok(Way::Flood));
        world.enters(PARIS, THERE, HERE, at(4)).unwrap();
        world.switch.forget_all();
        assert_eq!((world.out(HERE, THERE, at(4)), world.switch.held_by(PARIS)), (Ok(Way::Flood), 0));
    }

    #[test]
    fn addresses_that_nobody_can_have_are_learned_from_nobody() {
        let world = World::new(Settings::default());
        for source in [ALL, [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
            assert_eq!(world.out(source, THERE, at(0)), Err(Reason::Malformed));
            assert_eq!(world.enters(PARIS, source, HERE, at(0)), Err(Reason::Malformed));
        }
        assert_eq!(world.switch.entries(at(0)), []);
    }

    #[test]
    fn what_bridges_tell_each_other_stays_on_its_link() {
        let group = |last| [1, 0x80, 0xc2, 0, 0, last];
        for stp in [false, true] {
            let world = World::new(Settings { stp, ..Settings::default() });
            for last in 0..=0x10 {
                let carried = last == 0x10 || (last == 0 && stp);
                assert_eq!(world.out(HERE, group(last), at(0)).is_ok(), carried, "{last}");
                assert_eq!(world.enters(PARIS, THERE, group(last), at(0)).is_ok(), carried, "{last}");
            }
        }
    }

    #[test]
    fn a_peer_with_given_addresses_has_those_and_nobody_else_does() {
        let mut world = World::new(Settings::default());
        let mac = MacAddress(THERE);
        world.members = Members::new([(BERLIN, &[mac][..]), (PARIS, &[])], false);
        assert_eq!(world.out(HERE, THERE, at(0)), Ok(Way::To(BERLIN)), "before it was heard");
        assert_eq!(world.enters(BERLIN, THERE, HERE, at(0)), Ok(()));
        assert_eq!(world.enters(BERLIN, [2, 0, 0, 0, 0, 7], HERE, at(0)), Err(Reason::WrongSource));
        assert_eq!(world.enters(PARIS, THERE, HERE, at(0)), Err(Reason::WrongSource));
        assert_eq!(world.enters(PARIS, [2, 0, 0, 0, 0, 7], HERE, at(0)), Ok(()));
        world.out(THERE, ALL, at(0)).unwrap();
        assert_eq!(world.out(HERE, THERE, at(0)), Ok(Way::To(BERLIN)), "also if somebody uses it here");
    }

    #[test]
    fn a_storm_of_one_leaves_room_for_the_others() {
        let world = World::new(Settings { storm_limit: 100, ..Settings::default() });
        let passed = |of: &dyn Fn() -> bool| (0..1000).filter(|_| of()).count();
        assert_eq!(passed(&|| world.enters(PARIS, THERE, ALL, at(0)).is_ok()), 10);
        assert_eq!(passed(&|| world.enters(BERLIN, [2, 0, 0, 0, 0, 7], ALL, at(0)).is_ok()), 10);
        assert_eq!(passed(&|| world.out(HERE, ALL, at(0)).is_ok()), 10);
        assert_eq!(world.out(HERE, ALL, at(0)), Err(Reason::Storm));
        // What is for somebody who is known is no flood.
        assert_eq!(passed(&|| world.enters(PARIS, THERE, HERE, at(0)).is_ok()), 1000);
        assert_eq!(passed(&|| world.out(HERE, THERE, at(0)).is_ok()), 1000);
        assert_eq!(world.switch.counts(at(0)).flooded, 10);
    }

    #[test]
    fn questions_are_answered_from_what_was_heard() {
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let arp = |operation, mac, sender, target| ArpPacket {
            operation,
            sender_mac: MacAddress(mac),
            sender,
            target_mac: MacAddress::default(),
            target,
        };
        for suppress in [true, false] {
            let world = World::new(Settings { suppress, ..Settings::default() });
            let ask = arp(Operation::Request, HERE, here, there).emit_frame();
            let ask = Frame::parse(&ask).unwrap();
            assert_eq!(world.switch.egress(&world.members, &ask, 1, at(0)), Ok(Way::Flood));
            let reply = arp(Operation::Reply, THERE, there, here).emit_frame();
            world.switch.ingress(&world.members, PARIS, &Frame::parse(&reply).unwrap(), at(0)).unwrap();
            let way = world.switch.egress(&world.members, &ask, 1, at(1)).unwrap();
            assert_eq!(matches!(way, Way::Answer(_)), suppress, "{way:?}");
            // Once it is on this side it answers for itself.
            world.out(THERE, ALL, at(2)).unwrap();
            assert_eq!(world.switch.egress(&world.members, &ask, 1, at(2)), Ok(Way::Flood));
        }
    }

    #[test]
    fn beacons_end_here_and_a_node_that_keeps_still_carries_nothing() {
        let mut world = World::new(Settings::default());
        let beacon = Beacon { node: [1; 16], nonce: [2; 16] };
        let bytes = beacon.emit(MacAddress(HERE));
        let frame = Frame::parse(&bytes).unwrap();
        for blocked in [false, true] {
            world.members = Members::new([(BERLIN, &[][..])], blocked);
            assert_eq!(world.switch.egress(&world.members, &frame, 1, at(0)), Ok(Way::Beacon(Some(beacon))));
            assert_eq!(world.switch.ingress(&world.members, BERLIN, &frame, at(0)), Err(Reason::LinkControl));
            assert_eq!(world.out(HERE, ALL, at(0)) == Err(Reason::Loop), blocked);
            assert_eq!(world.enters(BERLIN, THERE, ALL, at(0)) == Err(Reason::Loop), blocked);
        }
    }
}
