//! What comes from nodes without a session: messages of handshakes, and cookies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wire::message::{Answer, CookieReply, Handshake, Outcome, Protocol, Step, Suite};

use super::terms::{Terms, epoch_of, network};
use super::{Node, Now, Output, fresh_cookie, identity};
use crate::handshake::{self, Finished, Keys, NO_NETWORK};
use crate::peer::{Peer, Problem, Responded};
use crate::session::{Parts, Session};
use crate::snapshot::PeerId;
use crate::time::Time;
use crate::verdict::Reason;
use crate::work::Work;

/// A peer may ask for a handshake this often (drivers/net/wireguard/messages.h, INITIATIONS_PER_SECOND).
const BETWEEN_INITIATIONS: Duration = Duration::from_millis(20);

impl Node {
    /// Takes a message of a handshake, or a cookie, that [`Admission`](crate::admission::Admission) let pass; answers whose it was. `known`:
    /// it came from where a peer is known to be.
    ///
    /// # Errors
    /// Why it came to nothing. Nobody is told.
    pub fn handle_datagram(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        known: bool,
        now: Now,
    ) -> Result<PeerId, Reason> {
        if let Ok(message) = Handshake::parse(datagram) {
            return match message.step() {
                Step::Initiation => self.initiation(&message, from, known, now),
                _ => self.response(&message, now),
            };
        }
        self.cookie(&CookieReply::parse(datagram).map_err(|_| Reason::Forged)?, now)
    }

    fn initiation(
        &mut self,
        message: &Handshake<'_>,
        from: SocketAddr,
        known: bool,
        now: Now,
    ) -> Result<PeerId, Reason> {
        let protocol = message.protocol();
        let identity = identity(&self.settings, protocol).ok_or(Reason::Forged)?;
        let network = network(&self.settings, protocol);
        // Once more: it may have been let in before a secret, or the network, became another one.
        let epoch = match network {
            Some(network) => Some(epoch_of(network, identity, message).ok_or(Reason::Forged)?),
            None => None,
        };
        let [sealed, wireguard] = &mut self.work;
        let work = if protocol == Protocol::Sealed { sealed } else { wireguard };
        if !work.take(now.time, known) {
            return Err(Reason::RateLimited);
        }
        let bound = network.map_or(&NO_NETWORK, |network| &network.id);
        let incoming = handshake::read_initiation(protocol, identity, bound, message).map_err(|_| Reason::Forged)?;
        let id = self.speaker(protocol, incoming.remote())?;
        let hello = *incoming.hello();
        let (mode, mtu, aes) = (self.settings.mode, self.settings.mtu, self.settings.aes);
        let peer = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Reason::Forged)?;
        if hello.timestamp <= peer.greatest {
            return Err(Reason::Replayed);
        }
        if peer.asked != Time::NEVER && now.time.since(peer.asked) < BETWEEN_INITIATIONS {
            return Err(Reason::RateLimited);
        }
        peer.greatest = hello.timestamp;
        peer.asked = now.time;
        peer.unheard = None;
        let terms = Terms::new(&self.settings, &peer.settings, |network| network.epochs.get(epoch?));
        let terms = terms.map_err(|_| Reason::Forged)?;
        let outcome = match protocol {
            Protocol::Sealed if hello.mode != mode => Outcome::RefusedMode,
            // Whose MAC is of one epoch and whose hello of another contradicts itself; without a network there are none.
            Protocol::Sealed if hello.epoch != terms.epoch => Outcome::RefusedEpoch,
            Protocol::Sealed | Protocol::WireGuard => Outcome::Accepted(Suite::of(hello.aes, aes)),
        };
        let answer = Answer { outcome, mode, aes, mtu };
        let index = self.claim(protocol).ok_or(Reason::RateLimited)?;
        let done = self.ephemeral().and_then(|ephemeral| incoming.respond(&terms.psk, index, &answer, ephemeral).ok());
        let Some((keys, mut datagram)) = done else {
            self.table.release(index);
            return Err(Reason::Forged);
        };
        let Some(peer) = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut) else { return Err(Reason::Forged) };
        let cookie = fresh_cookie(peer, now.time);
        let mac1 = terms.macs.sign(&mut datagram, cookie.as_ref());
        peer.responded = Some(Responded { index, mac1, macs: terms.macs });
        match keys {
            Some(keys) => {
                peer.next_mtu = (protocol == Protocol::Sealed).then(|| usize::from(hello.mtu));
                let parts = parts(peer, index, message.sender(), keys, false, now.time);
                let session = Arc::new(Session::new(parts).map_err(|_| Reason::Forged)?);
                self.table.insert(Arc::clone(&session));
                if let Some(unused) = peer.next.replace(session) {
                    self.table.release(unused.index());
                }
                peer.next_from = Some(from);
            }
            None => {
                self.table.release(index);
                peer.problem = refusal(outcome);
                self.outputs.extend(peer.problem.map(|problem| Output::Failed(id, problem)));
            }
        }
        self.outputs.push_back(Output::Transmit { peer: Some(id), to: from, reply: true, datagram });
        self.review(id, now);
        Ok(id)
    }

    /// The peer with this key.
    fn speaker(&self, protocol: Protocol, public: &[u8; 32]) -> Result<PeerId, Reason> {
        let known = |protocol| self.by_public.get(&(protocol, *public)).copied();
        let elsewhere = || [Protocol::Sealed, Protocol::WireGuard].into_iter().find_map(known);
        known(protocol).ok_or_else(|| if elsewhere().is_some() { Reason::WrongTransport } else { Reason::Forged })
    }

    fn response(&mut self, message: &Handshake<'_>, now: Now) -> Result<PeerId, Reason> {
        let id = *self.attempts.get(&message.receiver()).ok_or(Reason::UnknownSession)?;
        if !self.work_for(message.protocol()).take(now.time, true) {
            return Err(Reason::RateLimited);
        }
        let peer = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Reason::UnknownSession)?;
        if peer.settings.protocol != message.protocol() {
            return Err(Reason::WrongTransport);
        }
        let attempt = peer.attempt.as_mut().filter(|a| a.index == message.receiver()).ok_or(Reason::UnknownSession)?;
        // A forged response leaves the attempt as it was: the true one may still come.
        let finished = attempt.initiator.finish(message).map_err(|_| Reason::Forged)?;
        let (index, asked_at, again) = (attempt.index, attempt.to, attempt.tries > 1);
        self.attempts.remove(&index);
        (peer.attempt, peer.unheard) = (None, None);
        let (keys, peer_index, answer) = match finished {
            Finished::Established { keys, receiver_index, answer } => (keys, receiver_index, answer),
            Finished::Refused(answer) => {
                let problem = refusal(answer.outcome).unwrap_or(Problem::NoAnswer);
                self.table.release(index);
                self.give_up(id, problem, now);
                self.review(id, now);
                return Ok(id);
            }
        };
        if let Some(answer) = answer {
            peer.peer_mtu = Some(usize::from(answer.mtu));
        }
        let parts = parts(peer, index, peer_index, keys, true, now.time);
        let session = Arc::new(Session::new(parts).map_err(|_| Reason::Forged)?);
        self.table.insert(Arc::clone(&session));
        peer.adopt(session, &self.table);
        peer.remote.activity.forgive();
        if again && peer.settings.endpoint == Some(asked_at) && peer.endpoint() != Some(asked_at) {
            // It was not where we believed it to be, but where the configuration says.
            self.settle_at(id, asked_at);
        }
        // It shows the peer that we have the keys, so that it may send.
        self.keepalive(id, now);
        self.session_is_up(id, now);
        Ok(id)
    }

    fn cookie(&mut self, reply: &CookieReply<'_>, now: Now) -> Result<PeerId, Reason> {
        let id = self.attempts.get(&reply.receiver).copied().or_else(|| self.owner(reply.receiver));
        let id = id.ok_or(Reason::UnknownSession)?;
        let peer = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Reason::UnknownSession)?;
        if peer.settings.protocol != reply.protocol {
            return Err(Reason::WrongTransport);
        }
        // WireGuard under load wants a cookie in responses too. The next one will have it.
        if let Some(responded) = peer.responded.as_ref().filter(|responded| responded.index == reply.receiver) {
            let Responded { macs, mac1, .. } = responded;
            let cookie = macs.open_cookie(reply.nonce, mac1, reply.sealed).ok_or(Reason::Forged)?;
            peer.cookie = Some((cookie, now.time));
            return Ok(id);
        }
        let attempt = peer.attempt.as_mut().filter(|a| a.index == reply.receiver).ok_or(Reason::UnknownSession)?;
        let cookie = attempt.macs.open_cookie(reply.nonce, &attempt.mac1, reply.sealed).ok_or(Reason::Forged)?;
        peer.cookie = Some((cookie, now.time));
        // The message was not looked at, so that it may be said once more, now with the cookie. WireGuard waits for its timer.
        if peer.settings.protocol == Protocol::Sealed && !std::mem::replace(&mut attempt.again, true) {
            attempt.macs.sign(&mut attempt.datagram, Some(&cookie));
            let (to, datagram) = (attempt.to, attempt.datagram.clone());
            if peer.may_get(to, datagram.len()) {
                self.outputs.push_back(Output::Transmit { peer: Some(id), to, reply: false, datagram });
            }
        }
        Ok(id)
    }

    fn work_for(&mut self, protocol: Protocol) -> &mut Work {
        let [sealed, wireguard] = &mut self.work;
        match protocol {
            Protocol::Sealed => sealed,
            Protocol::WireGuard => wireguard,
        }
    }
}

fn parts(peer: &Peer, index: u32, peer_index: u32, keys: Keys, initiator: bool, since: Time) -> Parts {
    Parts { protocol: peer.settings.protocol, peer: peer.id, index, peer_index, keys, initiator, since }
}

fn refusal(outcome: Outcome) -> Option<Problem> {
    match outcome {
        Outcome::Accepted(_) => None,
        Outcome::RefusedMode => Some(Problem::Mode),
        Outcome::RefusedEpoch => Some(Problem::Epoch),
    }
}
