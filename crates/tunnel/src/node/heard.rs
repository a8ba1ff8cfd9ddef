//! What workers tell of sessions: that one is wanted or renewed, that its first datagram came, from where, and what it says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::message::data::ACK;
use wire::message::{Control, Protocol};

use super::{Node, Notice, Now, Output};
use crate::probe::Validation;
use crate::remote::Path;
use crate::snapshot::PeerId;

/// Probes of one peer that are answered in a second.
const ANSWERS_PER_SECOND: u32 = 10;

/// Notes of one peer that are passed on in a second.
const NOTES_PER_SECOND: u32 = 100;

impl Node {
    /// Takes what a worker tells.
    pub fn handle_notice(&mut self, notice: Notice, now: Now) {
        match notice {
            Notice::Wanted(id) | Notice::Renew(id) => {
                self.call(id, now);
                self.review(id, now);
            }
            Notice::Watch(id) => self.review(id, now),
            Notice::Confirmed { index, from, bytes } => self.confirmed(index, from, bytes, now),
            Notice::Roamed { index, from, bytes } => self.roamed(index, from, bytes, now),
            Notice::Control { index, from, message, bytes } => self.control(index, from, message, bytes, now),
        }
    }

    pub(super) fn confirmed(&mut self, index: u32, from: SocketAddr, bytes: usize, now: Now) {
        let Some(id) = self.owner(index) else { return };
        let table = Arc::clone(&self.table);
        let Some(peer) = self.peer(id).filter(|peer| peer.next.as_ref().is_some_and(|next| next.index() == index))
        else {
            return;
        };
        peer.promote(&table);
        peer.peer_mtu = peer.next_mtu.or(peer.peer_mtu);
        // There is a way now, whatever becomes of what we asked for ourselves.
        if let Some(attempt) = &mut peer.attempt {
            attempt.settled = true;
        }
        if peer.next_from == Some(from) {
            // What we answered to that address arrived there.
            self.settle_at(id, from);
        } else {
            self.roamed(index, from, bytes, now);
        }
        self.session_is_up(id, now);
    }

    pub(super) fn session_is_up(&mut self, id: PeerId, now: Now) {
        let number = self.number();
        if let Some(peer) = self.peer(id).filter(|peer| peer.can_search(now.time)) {
            peer.search.begin(number, now.time);
        }
        self.report_mtu(id);
        self.outputs.push_back(Output::SessionUp(id));
        self.review(id, now);
    }

    pub(super) fn roamed(&mut self, index: u32, from: SocketAddr, bytes: usize, now: Now) {
        let Some(id) = self.owner(index) else { return };
        let number = self.number();
        let Some(peer) = self.peer(id) else { return };
        if peer.known_at() == Some(from) {
            return;
        }
        let trusted = peer.settings.protocol == Protocol::WireGuard
            || peer.proven == Some(from)
            || peer.settings.endpoint == Some(from);
        if trusted {
            self.settle_at(id, from);
            return self.review(id, now);
        }
        let fallback = match peer.validation.take() {
            Some(earlier) => earlier.fallback,
            None => peer.remote.path.load_full(),
        };
        peer.remote.path.store(Some(Arc::new(Path::unproven(from, bytes))));
        peer.validation = Some(Validation::new(from, fallback, number, now.time));
        self.send_probe(id, number, 0, now);
        self.outputs.push_back(Output::Moved(id, from));
        self.review(id, now);
    }

    /// The peer is at this address, and has proved it.
    pub(super) fn settle_at(&mut self, id: PeerId, address: SocketAddr) {
        let Some(peer) = self.peer(id) else { return };
        let moved = peer.known_at() != Some(address);
        if moved || !peer.is_proven() {
            peer.search.forget();
        }
        peer.validation = None;
        peer.proven = Some(address);
        peer.remote.path.store(Some(Arc::new(Path::proven(address))));
        if moved {
            self.outputs.push_back(Output::Moved(id, address));
        }
    }

    /// Whose note came by the session with this index; `None` for one of nobody any more, and for more than a peer may tell in a second.
    pub fn handle_note(&mut self, index: u32, now: Now) -> Option<PeerId> {
        let id = self.owner(index)?;
        let peer = self.peer(id)?;
        let (count, since) = peer.told;
        let (count, since) =
            if now.time.since(since) >= Duration::from_secs(1) { (0, now.time) } else { (count, since) };
        peer.told = (count.saturating_add(1), since);
        (count < NOTES_PER_SECOND).then_some(id)
    }

    pub(super) fn control(&mut self, index: u32, from: SocketAddr, message: Control, bytes: usize, now: Now) {
        let Some(id) = self.owner(index) else { return };
        let next = self.number();
        let Some(peer) = self.peer(id) else { return };
        match message {
            Control::Probe { id: number } => {
                let (count, since) = peer.answered;
                let (count, since) =
                    if now.time.since(since) >= Duration::from_secs(1) { (0, now.time) } else { (count, since) };
                peer.answered = (count + 1, since);
                if count < ANSWERS_PER_SECOND {
                    let ack = Control::Ack { id: number, length: u16::try_from(bytes).unwrap_or(u16::MAX) };
                    self.send_control(id, &ack, Some(from), ACK, now);
                }
            }
            Control::Ack { id: number, .. } => {
                let alone = peer.probe.take_if(|(probe, _)| *probe == number).map(|(_, sent)| now.time.since(sent));
                let took = alone.or_else(|| peer.search.round_trip(number, now.time));
                if peer.validation.as_ref().is_some_and(|v| v.is_answered_by(number, from)) {
                    self.settle_at(id, from);
                } else if peer.search.answered(number, next, now.time) {
                    self.report_mtu(id);
                } else if let Some(gauge) = &mut peer.gauge {
                    gauge.answered(number, now.time);
                }
                self.outputs.extend(took.map(|took| Output::RoundTrip(id, took)));
            }
        }
        self.review(id, now);
    }
}
