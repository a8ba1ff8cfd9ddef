//! Who may make a node compute: the check of every message that is not data, before control hears of it.
//!
//! It keeps no state for those it turns away beyond bounded counters. Nothing is answered before the first MAC shows that
//! the sender knows whom it speaks to, and in a network has one of its secrets. Then the cheapest proof decides:
//!
//! 1. A second MAC, made with a cookie of ours, shows that the sender receives at its address. It has a rate of its own
//!    ([`PER_SOURCE`]), and no flood from elsewhere touches it.
//! 2. The endpoint of a peer passes: control has a reserved budget for those.
//! 3. Others share [`UNPROVEN`]. Who is over its own rate, or comes when that is used up, gets a cookie. One abusive address
//!    therefore never takes more of the common rate than its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use wire::message::cookie::{LEN, NONCE};
use wire::message::{CookieReply, Handshake, MAC, Message, Protocol, Step, classify};
use zeroize::Zeroizing;

use crate::limiter::{Bucket, Limiter, Rate};
use crate::mac::{MacKeys, cookie_of, derive, verify_mac2};
use crate::network::Membership;
use crate::time::Time;
use crate::verdict::Reason;

/// Initiations of one source, as in WireGuard.
pub const PER_SOURCE: Rate = Rate::new(20, 5);
/// Initiations of all sources that proved nothing, together.
pub const UNPROVEN: Rate = Rate::new(100, 100);
/// How long cookies are made with one secret, in nanoseconds. They are accepted for one period more.
const EPOCH: u64 = 120_000_000_000;

// No answer is longer than its question, so that nobody is flooded through us.
const _: () = {
    assert!(matches!(Protocol::Sealed.message_len(Step::Initiation), Some(length) if LEN <= length));
    assert!(matches!(Protocol::WireGuard.message_len(Step::Initiation), Some(length) if LEN <= length));
};

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to control.
    Pass,
    /// It does not; this goes back to where it came from.
    Cookie([u8; LEN]),
    /// It does not, and nothing goes back.
    Drop(Reason),
}

/// Who we are to others.
#[derive(Clone, Default)]
struct Ours {
    publics: Vec<(Protocol, [u8; 32])>,
    network: Option<Membership>,
    /// What follows: the keys of what is for us.
    keys: Vec<(Protocol, MacKeys)>,
}

impl Ours {
    fn derive(mut self) -> Self {
        self.keys.clear();
        for (protocol, public) in &self.publics {
            match &self.network {
                Some(network) if *protocol == Protocol::Sealed => {
                    let keys = network.accepted().filter_map(|epoch| MacKeys::of_network(network, epoch, public));
                    self.keys.extend(keys.map(|keys| (Protocol::Sealed, keys)));
                }
                _ => self.keys.push((*protocol, MacKeys::new(*protocol, public))),
            }
        }
        self
    }
}

/// The check, shared by all workers.
pub struct Admission {
    /// Changes when our keys or secrets do; a message is judged by one picture of it.
    ours: ArcSwap<Ours>,
    secret: Zeroizing<[u8; 32]>,
    proven: Mutex<Limiter>,
    unproven: Mutex<(Limiter, Bucket)>,
}

impl Admission {
    /// The check for messages to the owner of these public keys. `secret` is random, and stays the same while cookies are to
    /// be accepted.
    #[must_use]
    pub fn new(publics: &[(Protocol, [u8; 32])], secret: Zeroizing<[u8; 32]>) -> Self {
        let ours = Ours { publics: publics.to_vec(), ..Ours::default() };
        let ours = ArcSwap::from_pointee(ours.derive());
        let proven = Mutex::new(Limiter::new(PER_SOURCE));
        let unproven = Mutex::new((Limiter::new(PER_SOURCE), Bucket::default()));
        Self { ours, secret, proven, unproven }
    }

    /// Our key of a protocol is another one from now on, or none: messages to the former one are for nobody here. Say so to the
    /// [node](crate::Node::set_identity) too. For control alone: of two at once, one would be lost.
    pub fn set_identity(&self, protocol: Protocol, public: Option<&[u8; 32]>) {
        let mut ours = Ours::clone(&self.ours.load());
        ours.publics.retain(|(other, _)| *other != protocol);
        ours.publics.extend(public.map(|public| (protocol, *public)));
        self.ours.store(Arc::new(ours.derive()));
    }

    /// Sealed messages are those of this network from now on, in its epochs, or those of no network. Say so to the
    /// [node](crate::Node::set_membership) too. For control alone, as [`set_identity`](Self::set_identity).
    pub fn set_membership(&self, network: Option<&Membership>) {
        let ours = Ours { network: network.cloned(), ..Ours::clone(&self.ours.load()) };
        self.ours.store(Arc::new(ours.derive()));
    }

    /// Judges a datagram of either encrypted protocol that is not data. `known` says whether `from` is the endpoint of a
    /// peer; `nonce` gives random bytes that were not used before.
    pub fn admit(
        &self,
        datagram: &[u8],
        from: SocketAddr,
        known: bool,
        now: Time,
        nonce: impl FnOnce() -> [u8; NONCE],
    ) -> Verdict {
        let forged = Verdict::Drop(Reason::Forged);
        match classify(datagram) {
            // There is no MAC to check: control knows whether it asked for one, and under which.
            Message::Sealed(Step::Cookie, _) | Message::WireGuard(Step::Cookie, _) => {
                match CookieReply::parse(datagram) {
                    Ok(reply) if self.ours.load().keys.iter().any(|(protocol, _)| *protocol == reply.protocol) => {
                        Verdict::Pass
                    }
                    _ => forged,
                }
            }
            Message::Sealed(Step::Initiation | Step::Response, _)
            | Message::WireGuard(Step::Initiation | Step::Response, _) => {
                let Ok(message) = Handshake::parse(datagram) else { return forged };
                let ours = self.ours.load();
                match receiver(&ours.keys, &message) {
                    None => forged,
                    Some(_) if message.step() == Step::Response => Verdict::Pass,
                    Some(keys) => self.initiation(&message, keys, from, known, now, nonce),
                }
            }
            _ => forged,
        }
    }

    fn initiation(
        &self,
        message: &Handshake<'_>,
        keys: &MacKeys,
        from: SocketAddr,
        known: bool,
        now: Time,
        nonce: impl FnOnce() -> [u8; NONCE],
    ) -> Verdict {
        if self.is_proven(message, from, now) {
            let within = lock(&self.proven).take(from.ip(), now);
            return if within { Verdict::Pass } else { Verdict::Drop(Reason::RateLimited) };
        }
        if known || self.takes_unproven(from.ip(), now) {
            return Verdict::Pass;
        }
        let nonce = nonce();
        let cookie = self.cookie(message.protocol(), from, epoch(now));
        let sealed = keys.seal_cookie(&nonce, message.mac1(), &cookie);
        let (protocol, receiver) = (message.protocol(), message.sender());
        Verdict::Cookie(CookieReply { protocol, receiver, nonce: &nonce, sealed: &sealed }.emit())
    }

    fn is_proven(&self, message: &Handshake<'_>, from: SocketAddr, now: Time) -> bool {
        // Without a cookie the field is zero, as in nearly all messages: no need to compute two.
        let epoch = epoch(now);
        *message.mac2() != [0; MAC]
            && [Some(epoch), epoch.checked_sub(1)]
                .into_iter()
                .flatten()
                .any(|epoch| verify_mac2(&self.cookie(message.protocol(), from, epoch), message))
    }

    fn takes_unproven(&self, source: IpAddr, now: Time) -> bool {
        let (sources, all) = &mut *lock(&self.unproven);
        sources.take(source, now) && all.take(UNPROVEN, now)
    }

    fn cookie(&self, protocol: Protocol, from: SocketAddr, epoch: u64) -> [u8; MAC] {
        let key = Zeroizing::new(derive(&self.secret, &[&epoch.to_le_bytes()]));
        let protocol = match protocol {
            Protocol::Sealed => 1,
            Protocol::WireGuard => 2,
        };
        let address = match from.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        cookie_of(&key, &[&[protocol], &address.octets(), &from.port().to_le_bytes()])
    }
}

/// The keys of the one of us that a message is for.
fn receiver<'k>(ours: &'k [(Protocol, MacKeys)], message: &Handshake<'_>) -> Option<&'k MacKeys> {
    let ours = ours.iter().filter(|(protocol, _)| *protocol == message.protocol());
    ours.map(|(_, keys)| keys).find(|keys| keys.verify_mac1(message))
}

fn epoch(now: Time) -> u64 {
    now.as_nanos() / EPOCH
}

/// The counters are whole after every step that could fail, which none can.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
