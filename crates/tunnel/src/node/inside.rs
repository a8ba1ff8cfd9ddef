//! What a node says inside its sessions: keepalives, probes, and answers to probes.

use std::net::SocketAddr;

use wire::message::data::ACK;
use wire::message::{Control, Flags, Note, Protocol};

use super::{Node, Now, Output};
use crate::gauge::{Gauge, Measured};
use crate::peer::Peer;
use crate::probe::{Look, Step, Validation};
use crate::session::Session;
use crate::snapshot::PeerId;
use crate::timers::KEEPALIVE_TIMEOUT;

impl Node {
    /// A message that says nothing but that we are there.
    pub(super) fn keepalive(&mut self, id: PeerId, now: Now) {
        let number = self.number();
        let Some(peer) = self.peer(id) else { return };
        peer.kept_alive = now.time;
        match peer.settings.protocol {
            Protocol::Sealed => {
                peer.probe = Some((number, now.time));
                self.send_probe(id, number, 0, now);
            }
            Protocol::WireGuard => {
                let Some(session) = peer.current.clone() else { return };
                self.send(id, &session, Flags::NONE, &[], None, now);
            }
        }
    }

    /// A probe in a datagram as long as that of an inner packet of `mtu` bytes, or as short as may be.
    pub(super) fn send_probe(&mut self, id: PeerId, number: u64, mtu: usize, now: Now) {
        self.send_control(id, &Control::Probe { id: number }, None, mtu.max(ACK), now);
    }

    pub(super) fn send_control(
        &mut self,
        id: PeerId,
        message: &Control,
        reply_to: Option<SocketAddr>,
        length: usize,
        now: Now,
    ) {
        let Some(session) = self.peer(id).and_then(|peer| peer.current.clone()) else { return };
        let mut plaintext = vec![0; length];
        if message.emit(&mut plaintext).is_some() {
            self.send(id, &session, Flags::CONTROL, &plaintext, reply_to, now);
        }
    }

    /// Tells a peer something beside packets; answers whether there is a session to do so, and the peer understands notes. It may be lost, as
    /// any datagram.
    pub fn tell(&mut self, id: PeerId, topic: u8, body: &[u8], now: Now) -> bool {
        let sealed = |peer: &&mut Peer| peer.settings.protocol == Protocol::Sealed;
        let Some(session) = self.peer(id).filter(sealed).and_then(|peer| peer.current.clone()) else { return false };
        let Some(plaintext) = (Note { topic, body }).emit() else { return false };
        if !session.is_alive(now.time) {
            return false;
        }
        self.send(id, &session, Flags::CONTROL, &plaintext, None, now);
        self.review(id, now);
        true
    }

    pub(super) fn send(
        &mut self,
        id: PeerId,
        session: &Session,
        flags: Flags,
        plaintext: &[u8],
        reply_to: Option<SocketAddr>,
        now: Now,
    ) {
        let Ok(counter) = session.reserve(1, now.time) else { return };
        let mut datagram = vec![0; session.datagram_len(plaintext.len(), plaintext.len())];
        if !session.seal(counter, flags, 0, plaintext, &mut datagram) {
            return;
        }
        let Some(peer) = self.peer(id) else { return };
        let Some(to) = reply_to.or_else(|| peer.endpoint()) else { return };
        if !peer.may_get(to, datagram.len()) {
            return;
        }
        peer.remote.activity.sent(now.time, false);
        self.outputs.push_back(Output::Transmit { peer: Some(id), to, reply: reply_to.is_some(), datagram });
    }

    pub(super) fn look_at_probes(&mut self, id: PeerId, now: Now) {
        let number = self.number();
        let Some(peer) = self.peer(id) else { return };
        match peer.validation.as_mut().map(|validation| validation.step(now.time)) {
            Some(Step::Send(number)) => self.send_probe(id, number, 0, now),
            Some(Step::Failed) => {
                let fallback = peer.validation.take().and_then(|validation| validation.fallback);
                if let Some(path) = fallback {
                    let endpoint = path.endpoint;
                    peer.remote.path.store(Some(path));
                    self.outputs.push_back(Output::Moved(id, endpoint));
                }
            }
            Some(Step::Wait(_)) | None => {}
        }
        self.ask_again(id, now);
        let Some(peer) = self.peer(id) else { return };
        // Without a session nothing can be asked, and nothing is to be concluded; nor where large probes are not sent.
        if !peer.can_search(now.time) {
            return self.report_mtu(id);
        }
        if peer.search.is_untried() {
            peer.search.begin(number, now.time);
        }
        if let Look::Send(size, number) = peer.search.look(number, now.time) {
            self.send_probe(id, number, size, now);
        }
        self.report_mtu(id);
    }

    /// Measures now how large a packet the way to a peer takes; answers whether it can. What comes of it is in [`measured`](Self::measured).
    pub fn measure(&mut self, id: PeerId, now: Now) -> bool {
        let Some(target) = self.peer(id).filter(|peer| peer.can_search(now.time)).map(|peer| peer.search.target())
        else {
            return false;
        };
        if target == 0 {
            return false;
        }
        let gauge = Gauge::new(target, now.time, || self.number());
        if let Some(peer) = self.peer(id) {
            peer.gauge = Some(gauge);
        }
        self.review(id, now);
        true
    }

    /// What measuring has found out by now, if it was asked for.
    #[must_use]
    pub fn measured(&self, id: PeerId) -> Option<Measured> {
        self.peer_ref(id)?.gauge.as_ref().map(Gauge::measured)
    }

    /// Sends what measuring needs. What it says at the end of a way that is narrower than was believed is looked into for good.
    pub(super) fn look_at_gauge(&mut self, id: PeerId, now: Now) {
        let Some(mut gauge) = self.peer(id).and_then(|peer| peer.gauge.take()) else { return };
        let was_done = gauge.measured().done;
        let probes = gauge.step(now.time, || self.number());
        let found = gauge.measured();
        let Some(peer) = self.peer(id) else { return };
        peer.gauge = Some(gauge);
        if found.done && !was_done && found.is_black_hole() && found.size < peer.search.mtu() {
            peer.search.forget();
        }
        for (size, number) in probes {
            self.send_probe(id, number, size, now);
        }
    }

    /// Asks an address once more that did not answer, if the peer is heard from there and is nowhere else.
    pub(super) fn ask_again(&mut self, id: PeerId, now: Now) {
        let number = self.number();
        let Some(peer) = self.peer(id).filter(|peer| peer.settings.protocol == Protocol::Sealed) else { return };
        let path = peer.remote.path.load_full().filter(|path| path.budget.is_some() && peer.validation.is_none());
        let heard = peer.remote.activity.last_received().is_some_and(|at| now.time.since(at) < KEEPALIVE_TIMEOUT);
        if let Some(path) = path.filter(|_| heard && peer.is_up(now.time)) {
            peer.validation = Some(Validation::new(path.endpoint, None, number, now.time));
            self.send_probe(id, number, 0, now);
        }
    }

    /// Says what the path takes, as far as the probes and the peer's own device permit.
    pub(super) fn report_mtu(&mut self, id: PeerId) {
        let Some(peer) = self.peer(id) else { return };
        let mtu = peer.mtu();
        if mtu > 0 && peer.reported_mtu != mtu {
            peer.reported_mtu = mtu;
            self.outputs.push_back(Output::PathMtu(id, mtu));
        }
    }
}
