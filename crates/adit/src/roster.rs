//! What control knows of each peer, by its number.
//!
//! A number is a slot. That of a removed peer stays empty for as long as a session lives ([`REST`]), so that nobody who still looks at an
//! older picture takes one peer for another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tunnel::{PeerId, Time};

use crate::config::{self, TransportKind};
use crate::key::PublicKey;
use crate::worker::Link;

/// How long an empty slot is not given out: REJECT_AFTER_TIME, after which no session of the former peer opens anything.
pub const REST: Duration = Duration::from_secs(180);

/// Who a peer is, whatever else of it changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An encrypted peer: a public key, in one transport.
    Key(TransportKind, PublicKey),
    /// A plain one.
    Name(String),
}

impl Identity {
    /// That of a peer.
    pub fn of(peer: &config::Peer) -> Self {
        match peer.public_key {
            Some(key) if peer.transport.is_secure() => Self::Key(peer.transport, key),
            _ => Self::Name(peer.name.clone()),
        }
    }
}

/// One peer.
pub struct Member {
    /// As configured.
    pub peer: config::Peer,
    /// Where the configuration says that it is, if it does and its name resolves.
    pub configured: Option<SocketAddr>,
    /// Where it is now.
    pub endpoint: Option<SocketAddr>,
    /// What workers know of it.
    pub link: Arc<Link>,
    /// The longest inner packet that the way to it takes, in bytes.
    pub width: Width,
    /// The same as probes found out.
    pub found: Option<usize>,
}

/// What the first link towards a peer permits: the longest inner packet in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Width {
    /// As routes and cards are configured.
    pub configured: usize,
    /// As path-MTU messages taught the kernel on top of that.
    pub learned: usize,
}

impl Member {
    /// A peer that is where the configuration says.
    pub fn new(peer: config::Peer, configured: Option<SocketAddr>, workers: usize) -> Self {
        let (link, width) = (Arc::new(Link::new(workers)), Width::default());
        Self { peer, configured, endpoint: configured, link, width, found: None }
    }

    /// The longest inner packet that may be sent to it.
    pub fn mtu(&self) -> usize {
        // What the first link permits, unless probes or the peer's own device say less.
        self.found.map_or(self.width.learned, |found| found.min(self.width.learned))
    }
}

enum Slot {
    Taken(Box<Member>),
    Free { since: Time },
}

/// All of them.
pub struct Roster {
    slots: Vec<Slot>,
    by_identity: HashMap<Identity, PeerId>,
    /// Stands for nobody in the lists of workers. What waits for nobody waits in vain.
    nobody: Arc<Link>,
}

impl Default for Roster {
    fn default() -> Self {
        let nobody = Link { given_up: AtomicU64::new(u64::MAX), ..Link::default() };
        Self { slots: Vec::new(), by_identity: HashMap::new(), nobody: Arc::new(nobody) }
    }
}

impl Roster {
    /// Takes a peer in; answers its number.
    pub fn add(&mut self, member: Member, now: Time) -> PeerId {
        let rested = |slot: &Slot| matches!(slot, Slot::Free { since } if now.since(*since) >= REST);
        let number = self.slots.iter().position(rested).unwrap_or(self.slots.len());
        let id = PeerId(u32::try_from(number).unwrap_or(u32::MAX));
        self.by_identity.insert(Identity::of(&member.peer), id);
        let slot = Slot::Taken(Box::new(member));
        match self.slots.get_mut(number) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        id
    }

    /// Lets a peer go.
    pub fn remove(&mut self, id: PeerId, now: Time) -> Option<Member> {
        let slot = self.slots.get_mut(id.0 as usize).filter(|slot| matches!(slot, Slot::Taken(_)))?;
        let Slot::Taken(member) = std::mem::replace(slot, Slot::Free { since: now }) else { return None };
        // Another one may have its identity by now.
        let identity = Identity::of(&member.peer);
        if self.by_identity.get(&identity) == Some(&id) {
            self.by_identity.remove(&identity);
        }
        Some(*member)
    }

    /// The number of the peer that is this.
    pub fn find(&self, identity: &Identity) -> Option<PeerId> {
        self.by_identity.get(identity).copied()
    }

    /// One peer.
    pub fn get(&self, id: PeerId) -> Option<&Member> {
        match self.slots.get(id.0 as usize)? {
            Slot::Taken(member) => Some(member),
            Slot::Free { .. } => None,
        }
    }

    /// One peer.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Member> {
        match self.slots.get_mut(id.0 as usize)? {
            Slot::Taken(member) => Some(member),
            Slot::Free { .. } => None,
        }
    }

    /// All peers, by number.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Member)> {
        self.slots().filter_map(|(id, member)| Some((id, member?)))
    }

    /// All peers.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.iter().map(|(_, member)| member)
    }

    /// All peers.
    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Taken(member) => Some(&mut **member),
            Slot::Free { .. } => None,
        })
    }

    /// All slots, the empty ones too.
    pub fn slots(&self) -> impl Iterator<Item = (PeerId, Option<&Member>)> {
        (0..).map(PeerId).zip(&self.slots).map(|(id, slot)| match slot {
            Slot::Taken(member) => (id, Some(&**member)),
            Slot::Free { .. } => (id, None),
        })
    }

    /// What workers know of each, by number.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.slots().map(|(_, member)| Arc::clone(member.map_or(&self.nobody, |member| &member.link))).collect()
    }

    /// What has waited for this peer until now waits in vain.
    pub fn give_up(&self, id: PeerId, now: Time) {
        if let Some(member) = self.get(id) {
            member.link.given_up.store(now.as_nanos(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(name: &str) -> Member {
        let peer = config::Peer {
            name: name.into(),
            public_key: None,
            endpoint: None,
            origin: config::Origin::File,
            allowed_ips: Vec::new(),
            transport: TransportKind::Plain,
            preshared_key: None,
            keepalive: None,
            macs: Vec::new(),
        };
        Member::new(peer, None, 1)
    }

    fn at(seconds: u64) -> Time {
        Time::from_nanos(1) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_number_rests_before_another_peer_gets_it() {
        let mut roster = Roster::default();
        let [a, b] = ["a", "b"].map(|name| roster.add(plain(name), at(0)));
        assert_eq!((a, b), (PeerId(0), PeerId(1)));
        assert!(roster.remove(a, at(10)).is_some() && roster.remove(a, at(10)).is_none());
        assert_eq!(roster.add(plain("c"), at(10 + 179)), PeerId(2));
        assert_eq!(roster.add(plain("d"), at(10 + 180)), a);
        assert_eq!(roster.add(plain("e"), at(10 + 180)), PeerId(3));
        assert_eq!(roster.find(&Identity::Name("d".into())), Some(a));
        assert_eq!(roster.find(&Identity::Name("a".into())), None);
    }

    #[test]
    fn nothing_waits_for_an_empty_slot() {
        let mut roster = Roster::default();
        let [a, b] = ["a", "b"].map(|name| roster.add(plain(name), at(0)));
        roster.remove(a, at(1));
        let given_up: Vec<_> = roster.links().iter().map(|link| link.given_up.load(Ordering::Acquire)).collect();
        assert_eq!(given_up, [u64::MAX, 0]);
        roster.give_up(b, at(2));
        assert_eq!(roster.links()[1].given_up.load(Ordering::Acquire), at(2).as_nanos());
        assert_eq!(roster.iter().map(|(id, _)| id).collect::<Vec<_>>(), [b]);
    }

    #[test]
    fn an_identity_that_came_again_stays_with_the_later_peer() {
        let mut roster = Roster::default();
        let first = roster.add(plain("a"), at(0));
        let second = roster.add(plain("a"), at(0));
        roster.remove(first, at(1));
        assert_eq!(roster.find(&Identity::Name("a".into())), Some(second));
    }
}
