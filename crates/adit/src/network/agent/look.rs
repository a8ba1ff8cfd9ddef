//! What is looked at from time to time: traffic, addresses, and what others decided on files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use linux::netlink::Netlink;
use registry::schema::NetworkConfig;
use registry::view::{self};

use super::super::peers::{self};
use super::super::places;
use super::super::publish::Publisher;
use super::{Agent, Heard, SESSION, TRY, Topic};
use crate::Result;
use crate::config::{self, Origin};
use crate::key::PublicKey;
use crate::request::{Handle, Picture};

impl Agent {
    /// Traffic, addresses and times; answers whether anything follows.
    pub(super) fn look_around(&mut self) -> bool {
        let mut news = self.member.forget_old_secrets() | self.again.is_some_and(|again| again <= Instant::now());
        self.remember();
        if let Some(outcome) = self.publisher.as_ref().map(Publisher::outcome) {
            self.follow(Topic::Authority, outcome);
        }
        // A file that was read again may say another port.
        let listen = self.handle.as_ref().map_or(self.listen, |handle| handle.facts().listen());
        let moved = std::mem::replace(&mut self.listen, listen) != listen;
        match self.find_places() {
            Ok(changed) => {
                let places = self.places();
                if let Some(lease) = self.lease.as_mut().filter(|_| changed || moved) {
                    lease.publish(places);
                }
                news |= changed || moved;
            }
            // The host may be between two addresses.
            Err(failure) => tracing::debug!("{failure}"),
        }
        if let Some(handle) = self.handle.clone() {
            news |= self.listen_to_peers(&handle);
            self.write_subnet_files(&handle);
            self.report(&handle);
        }
        news
    }

    /// Calls those that we had sessions with before a restart: theirs with us are worth nothing now.
    pub(super) fn call_recent(&self, handle: &Handle) {
        let place = |key: &String| self.notes.places.get(key).copied();
        let peers: Vec<(PublicKey, Option<SocketAddr>)> =
            self.notes.recent.iter().filter_map(|key| Some((key.parse().ok()?, place(key)))).collect();
        if !peers.is_empty() {
            let handle = handle.clone();
            tokio::task::spawn_blocking(move || handle.call_at(peers));
        }
    }

    /// Notes who we have sessions with.
    pub(super) fn note_recent(&mut self, picture: &Picture) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_recent = |at: Duration| now.saturating_sub(at) < SESSION;
        let called = |key: &PublicKey| self.began.elapsed() < SESSION && self.notes.recent.contains(&key.to_string());
        let (mut recent, mut places) = (Vec::new(), BTreeMap::new());
        let those = picture
            .peers()
            // Those of the run before as well, until they had time to answer: this one may be short.
            .filter(|(peer, now)| {
                let is_known = || peer.public_key.as_ref().is_some_and(called);
                peer.origin == Origin::Network && (now.handshake.is_some_and(is_recent) || is_known())
            })
            .filter_map(|(peer, now)| Some((peer.public_key.as_ref()?.to_string(), peer, now)));
        for (key, peer, now) in those {
            // A peer that was not heard since our start is where it was.
            let place = now.endpoint.or_else(|| self.notes.places.get(&key).copied());
            if let Some(place) = place.filter(|_| peer.endpoint.is_none()) {
                places.insert(key.clone(), place);
            }
            recent.push(key);
        }
        recent.sort();
        if recent != self.notes.recent || places != self.notes.places {
            (self.notes.recent, self.notes.places) = (recent, places);
            self.write_notes();
        }
    }

    /// Who was heard, and who does not answer where it was called.
    pub(super) fn listen_to_peers(&mut self, handle: &Handle) -> bool {
        let (picture, now) = (handle.picture(), Instant::now());
        self.note_recent(&picture);
        let Some(view) = &self.view else { return false };
        let nodes: HashMap<[u8; 32], view::Node> =
            view.nodes().into_iter().map(|node| (node.sealed_key, node)).collect();
        let names: HashSet<&str> = nodes.values().map(|node| node.name.as_str()).collect();
        self.heard.retain(|serial, _| view.name(*serial).is_some());
        self.calling.retain(|name, _| names.contains(name.as_str()));
        self.turns.keep(|name| names.contains(name));
        let mut news = false;
        for (peer, state) in picture.peers().filter(|(peer, _)| peer.origin == Origin::Network) {
            let Some(node) = peer.public_key.as_ref().and_then(|key| nodes.get(key.as_bytes())) else { continue };
            let heard = self.heard.entry(node.serial).or_default();
            // A peer that was away and is there again counts from nothing.
            (heard.received, heard.sent) = (heard.received.min(state.received), heard.sent.min(state.sent));
            if state.received > heard.received {
                *heard = Heard { received: state.received, sent: state.sent, at: self.began.elapsed(), ever: true };
                self.calling.remove(&peer.name);
            } else if state.sent > heard.sent && peers::choices(node, self.listen) > 1 {
                let since = *self.calling.entry(peer.name.clone()).or_insert(now);
                if now.saturating_duration_since(since) > TRY {
                    self.turns.advance(&peer.name);
                    self.calling.remove(&peer.name);
                    heard.sent = state.sent;
                    news = true;
                }
            }
        }
        news
    }

    /// Where we are reached now; answers whether that is news.
    pub(super) fn find_places(&mut self) -> Result<bool> {
        let networks = self.network.as_ref().map(NetworkConfig::networks).unwrap_or_default();
        let inside = |address: IpAddr| networks.iter().any(|net| net.contains(&address));
        let mut netlink = Netlink::open()?;
        let mut public =
            places::public_addresses(&mut netlink, &self.settings.public_ip, &self.member.registry_addresses, &inside)?;
        if self.listen.is_ipv4() {
            public.retain(IpAddr::is_ipv4);
        }
        let local = places::local_addresses(&mut netlink)?;
        let behind_nat = self.settings.public_ip == config::PublicIp::Auto
            && (self.notes.were_translated(&local) || places::are_translated(&public, &self.member.registry_addresses));
        let news = (&self.public, self.behind_nat) != (&public, behind_nat);
        (self.public, self.behind_nat) = (public, behind_nat);
        Ok(news)
    }

    /// Files may have changed. What they say is in force here when this is done; a removal does not wait for the registry.
    pub(super) async fn refresh(&mut self) {
        self.clients = self.member.clients();
        if let Some(publisher) = &self.publisher {
            publisher.look();
            let removals = publisher.removals();
            let learned = removals.and_then(|removals| self.learn(removals).map_err(|e| e.to_string()));
            self.follow(Topic::Authority, learned.map(drop));
        }
        self.put_into_force().await;
    }
}
