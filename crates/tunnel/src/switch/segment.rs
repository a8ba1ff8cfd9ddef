//! Whether the bridges behind two nodes' devices are one segment already, without the tunnel: then every broadcast would go round for ever.
//!
//! Each node gives its device a [`Beacon`] every second. Where another one reads it from its own device, it asks the sender, inside their session,
//! whether the number in it is its own ([`Word::Heard`]); that one says so ([`Word::Mine`]). Now both know, and nobody else can make them
//! believe it: the number is known only to whoever is on the segment. Of nodes on one segment the one with the lowest name carries its frames, all others
//! keep still, until they have not heard of it for [`PATIENCE`]. Each node of a segment that becomes one, or falls apart, tells all peers
//! ([`Word::Changed`]), since what was behind it may be behind another one then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use wire::beacon::Beacon;

use crate::snapshot::PeerId;
use crate::time::Time;

/// Between two beacons.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// How long a segment that was heard of counts as one.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Beacons of which an answer is still believed.
const REMEMBERED: usize = 8;

/// What nodes say about beacons: `kind 1 | nonce 16`, or `3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// I heard a beacon with this number; is it yours?
    Heard([u8; 16]),
    /// It is.
    Mine([u8; 16]),
    /// Others came to my segment, or left it: addresses that were behind me may be behind another node.
    Changed,
}

impl Word {
    /// Reads the body of a note.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        match body {
            [1, nonce @ ..] => Some(Self::Heard(nonce.try_into().ok()?)),
            [2, nonce @ ..] => Some(Self::Mine(nonce.try_into().ok()?)),
            [3] => Some(Self::Changed),
            _ => None,
        }
    }

    /// The body of a note.
    #[must_use]
    pub fn emit(self) -> Vec<u8> {
        match self {
            Self::Heard(nonce) => [&[1], &nonce[..]].concat(),
            Self::Mine(nonce) => [&[2], &nonce[..]].concat(),
            Self::Changed => vec![3],
        }
    }
}

/// What a node thinks of the segment behind its device.
#[derive(Debug, Default)]
pub struct Segment {
    /// What we are known by.
    own: [u8; 16],
    /// The numbers of our last beacons.
    sent: VecDeque<[u8; 16]>,
    /// What we asked a peer about, and when.
    asked: BTreeMap<PeerId, ([u8; 16], Time)>,
    /// Who is on the segment: what it is known by, and when that was found out last.
    shared: BTreeMap<PeerId, ([u8; 16], Time)>,
    /// When our own beacon came back to us, which means a loop of this host's own.
    own_loop: Option<Time>,
    /// When a beacon of somebody came who is no peer.
    stranger: Option<Time>,
}

impl Segment {
    /// That of a node which is known by this.
    #[must_use]
    pub fn new(own: [u8; 16]) -> Self {
        Self { own, ..Self::default() }
    }

    /// We are known by another name from now on.
    pub fn rename(&mut self, own: [u8; 16]) {
        self.own = own;
    }

    /// The next beacon, with this number.
    pub fn beacon(&mut self, nonce: [u8; 16]) -> Beacon {
        self.sent.push_front(nonce);
        self.sent.truncate(REMEMBERED);
        Beacon { node: self.own, nonce }
    }

    /// Takes a beacon that came by our device; answers whom to tell what. `peer` knows who is known by what.
    pub fn heard(
        &mut self,
        beacon: &Beacon,
        peer: impl FnOnce(&[u8; 16]) -> Option<PeerId>,
        now: Time,
    ) -> Option<(PeerId, Word)> {
        if beacon.node == self.own {
            if self.sent.contains(&beacon.nonce) {
                self.own_loop = Some(now);
            }
            return None;
        }
        let Some(id) = peer(&beacon.node) else {
            self.stranger = Some(now);
            return None;
        };
        // Once per beacon, however often it goes round.
        if self.asked.get(&id).is_some_and(|(nonce, _)| *nonce == beacon.nonce) {
            return None;
        }
        self.asked.insert(id, (beacon.nonce, now));
        Some((id, Word::Heard(beacon.nonce)))
    }

    /// Takes what the peer that is known by `name` said; answers what to say to it.
    pub fn told(&mut self, (id, name): (PeerId, [u8; 16]), word: Word, now: Time) -> Option<Word> {
        match word {
            Word::Heard(nonce) if self.sent.contains(&nonce) => {
                self.shared.insert(id, (name, now));
                Some(Word::Mine(nonce))
            }
            Word::Mine(nonce) => {
                if self.asked.get(&id).is_some_and(|(asked, at)| *asked == nonce && now.since(*at) < PATIENCE) {
                    self.shared.insert(id, (name, now));
                }
                None
            }
            Word::Heard(_) | Word::Changed => None,
        }
    }

    /// Who is on our segment too.
    pub fn neighbours(&self, now: Time) -> impl Iterator<Item = PeerId> {
        self.shared.iter().filter(move |(_, (_, at))| now.since(*at) < PATIENCE).map(|(id, _)| *id)
    }

    /// Who carries the frames of our segment, if that is not us: then we keep still.
    #[must_use]
    pub fn carrier(&self, now: Time) -> Option<PeerId> {
        let fresh = self.shared.iter().filter(|(_, (_, at))| now.since(*at) < PATIENCE);
        let (id, (name, _)) = fresh.min_by_key(|(_, (name, _))| *name)?;
        (*name < self.own).then_some(*id)
    }

    /// Whether our own beacon came back by our own device.
    #[must_use]
    pub fn is_looped(&self, now: Time) -> bool {
        self.own_loop.is_some_and(|at| now.since(at) < PATIENCE)
    }

    /// Whether somebody is on the segment who is no peer of ours.
    #[must_use]
    pub fn has_stranger(&self, now: Time) -> bool {
        self.stranger.is_some_and(|at| now.since(at) < PATIENCE)
    }

    /// A peer is gone.
    pub fn forget(&mut self, id: PeerId) {
        self.asked.remove(&id);
        self.shared.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos((1000 + ms) * 1_000_000)
    }

    fn name(number: u8) -> [u8; 16] {
        [number; 16]
    }

    /// Nodes that are each other's peers; which of them hear each other without the tunnel changes.
    struct World {
        nodes: Vec<Segment>,
        nonce: u64,
    }

    impl World {
        fn new(count: u8) -> Self {
            Self { nodes: (0..count).map(|n| Segment::new(name(n))).collect(), nonce: 0 }
        }

        /// Everybody sends a beacon; it is heard within its group.
        fn second(&mut self, group: &[usize], now: Time) {
            for from in 0..self.nodes.len() {
                self.nonce += 1;
                let mut nonce = [0; 16];
                nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
                let beacon = self.nodes[from].beacon(nonce);
                for to in 0..self.nodes.len() {
                    if to == from || group[to] != group[from] {
                        continue;
                    }
                    let found = self.nodes[to].heard(&beacon, |n| Some(PeerId(u32::from(n[0]))), now);
                    let (id, word) = found.unwrap();
                    assert_eq!(id, PeerId(from as u32));
                    let peer = (PeerId(to as u32), name(to as u8));
                    let answer = self.nodes[from].told(peer, Word::parse(&word.emit()).unwrap(), now).unwrap();
                    let peer = (PeerId(from as u32), name(from as u8));
                    assert_eq!(self.nodes[to].told(peer, Word::parse(&answer.emit()).unwrap(), now), None);
                }
            }
        }

        fn carriers(&self, now: Time) -> Vec<usize> {
            (0..self.nodes.len()).filter(|n| self.nodes[*n].carrier(now).is_none()).collect()
        }
    }

    #[test]
    fn of_two_on_one_segment_one_carries_until_they_are_apart() {
        let mut world = World::new(3);
        world.second(&[0, 1, 2], at(0));
        assert_eq!(world.carriers(at(0)), [0, 1, 2]);
        world.second(&[0, 1, 1], at(1000));
        assert_eq!(world.carriers(at(1000)), [0, 1]);
        assert_eq!(world.nodes[2].carrier(at(1000)), Some(PeerId(1)));
        assert_eq!(world.nodes[1].neighbours(at(1000)).collect::<Vec<_>>(), [PeerId(2)]);
        world.second(&[0, 1, 2], at(2000));
        assert_eq!(world.carriers(at(5999)), [0, 1]);
        assert_eq!(world.carriers(at(6000)), [0, 1, 2]);
    }

    #[test]
    fn nobody_is_made_to_keep_still_who_has_not_heard() {
        let mut node = Segment::new(name(5));
        let theirs = (PeerId(0), name(0));
        assert_eq!(node.told(theirs, Word::Mine(name(9)), at(0)), None);
        assert_eq!(node.told(theirs, Word::Heard(name(9)), at(0)), None);
        // A beacon that somebody made up, in the name of a peer: that one does not say that it is its own.
        let forged = Beacon { node: name(0), nonce: name(9) };
        assert_eq!(node.heard(&forged, |_| Some(PeerId(0)), at(0)), Some((PeerId(0), Word::Heard(name(9)))));
        assert_eq!(node.heard(&forged, |_| Some(PeerId(0)), at(1)), None, "asked once");
        assert_eq!(node.told((PeerId(1), name(1)), Word::Mine(name(9)), at(1)), None);
        assert_eq!((node.carrier(at(1)), node.neighbours(at(1)).count()), (None, 0));
        assert_eq!(node.told(theirs, Word::Mine(name(9)), at(6000)), None, "too late");
        assert_eq!(node.carrier(at(6000)), None);
    }

    #[test]
    fn loops_of_this_host_and_strangers_are_noticed() {
        let mut node = Segment::new(name(5));
        let own = node.beacon(name(9));
        assert_eq!(node.heard(&own, |_| None, at(0)), None);
        assert!(node.is_looped(at(0)) && !node.is_looped(at(5000)));
        assert_eq!(node.heard(&Beacon { node: name(5), nonce: name(8) }, |_| None, at(9000)), None);
        assert!(!node.is_looped(at(9000)), "not one of ours");
        assert_eq!(node.heard(&Beacon { node: name(7), nonce: name(8) }, |_| None, at(9000)), None);
        assert!(node.has_stranger(at(9000)) && !node.has_stranger(at(14_000)));
    }

    #[test]
    fn words_are_read_back_and_nothing_else_is() {
        for word in [Word::Heard(name(3)), Word::Mine(name(4)), Word::Changed] {
            let body = word.emit();
            assert_eq!(Word::parse(&body), Some(word));
            assert_eq!(Word::parse(&body[..body.len() - 1]), None);
            assert_eq!(Word::parse(&[&body[..], &[0]].concat()), None);
        }
        assert_eq!((Word::parse(&[]), Word::parse(&[3; 17])), (None, None));
    }

    proptest! {
        /// However the segments change, after some seconds each has one carrier.
        #[test]
        fn each_segment_has_one_carrier(changes in prop::collection::vec(prop::collection::vec(0usize..3, 5), 1..4)) {
            let mut world = World::new(5);
            let mut now = 0;
            for group in changes {
                for _ in 0..6 {
                    now += 1000;
                    world.second(&group, at(now));
                }
                let carriers = world.carriers(at(now));
                for segment in 0..3 {
                    let members = (0..5).filter(|n| group[*n] == segment);
                    let count = members.clone().filter(|n| carriers.contains(n)).count();
                    prop_assert_eq!(count, usize::from(members.count() > 0));
                }
            }
        }
    }
}
