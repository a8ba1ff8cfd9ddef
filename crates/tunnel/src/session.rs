//! A session: the keys that two nodes agreed on, and the counters that keep each of them from being used twice.
//!
//! Everything here may be called from any thread. Sending takes counters in blocks from one atomic; receiving marks counters in a
//! [`Window`] under a lock that is held for the marks of one batch and nothing else. A session cannot be cloned, and its keys never
//! leave it.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use crossbeam_utils::CachePadded;
use wire::message::data::{DATA_HEADER, DATA_OVERHEAD, LANE_MASK};
use wire::message::{DataHeader, Flags, Protocol, Suite, TAG};

use crate::handshake::Keys;
use crate::replay::{Mark, Window};
use crate::snapshot::PeerId;
use crate::time::Time;

/// A session older than this is renewed by the side that began it, as soon as it sends (WireGuard whitepaper, section 6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);

/// A session older than this neither seals nor opens.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// A session this old is renewed by the side that began it also when it only receives: `REJECT_AFTER_TIME` less the time that a
/// passive keepalive and one retry of the handshake take.
pub const REKEY_ON_RECEIVE: Duration = Duration::from_secs(180 - 10 - 5);

/// WireGuard pads packets to a multiple of this.
const PADDING: usize = 16;

/// How many messages one key takes.
struct Limits {
    rekey: u64,
    reject: u64,
}

const fn limits(protocol: Protocol) -> Limits {
    match protocol {
        Protocol::Sealed => Limits { rekey: 1 << 32, reject: 1 << 33 },
        // Whitepaper, section 6.1: what is left before 2^64 is the length of the window.
        Protocol::WireGuard => Limits { rekey: 1 << 60, reject: u64::MAX - (1 << 13) },
    }
}

/// Why a session does not seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// It is too old, or was ended.
    #[error("the session is too old")]
    Old,
    /// Its counters are used up.
    #[error("the session has no counters left")]
    Counters,
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Not a data message of this session, or one that somebody changed or made up.
    #[error("the datagram is not authentic")]
    Forged,
    /// The session is too old to open anything.
    #[error("the session is too old")]
    Old,
}

/// What lay in a datagram that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its counter, which is to be [marked](Session::mark) before anything is done with it.
    pub counter: u64,
    /// What the sender says about the packet.
    pub flags: Flags,
    /// Where the plaintext lies in the datagram.
    pub plaintext: Range<usize>,
}

/// What a session is made of.
pub struct Parts {
    /// How its datagrams look.
    pub protocol: Protocol,
    /// Whom it is with.
    pub peer: PeerId,
    /// The index that we chose: datagrams to us carry it.
    pub index: u32,
    /// The index that the peer chose.
    pub peer_index: u32,
    /// Its keys.
    pub keys: Keys,
    /// Whether we asked for it; then it is ours to renew, and the peer's to wait for our first datagram.
    pub initiator: bool,
    /// When its handshake was complete.
    pub since: Time,
}

/// Two keys and their counters.
pub struct Session {
    protocol: Protocol,
    suite: Suite,
    peer: PeerId,
    index: u32,
    peer_index: u32,
    initiator: bool,
    since: Time,
    sending: LessSafeKey,
    receiving: LessSafeKey,
    /// The counter of the next datagram.
    next: CachePadded<AtomicU64>,
    window: Mutex<Window>,
    /// Whether the peer has shown that it has the keys too.
    confirmed: AtomicBool,
    /// Whether somebody was told that it is time for another one.
    renewing: AtomicBool,
    /// Whether it may neither seal nor open any more, whatever its age.
    ended: AtomicBool,
}

/// The keys were not those of an algorithm. Cannot happen with keys of a [handshake](crate::handshake).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session's keys are not usable")]
pub struct BadKeys;

impl Session {
    /// A session at the end of its handshake.
    ///
    /// # Errors
    /// [`BadKeys`].
    pub fn new(parts: Parts) -> Result<Self, BadKeys> {
        let algorithm = match parts.keys.suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = |bytes: &[u8; 32]| UnboundKey::new(algorithm, bytes).map(LessSafeKey::new).map_err(|_| BadKeys);
        Ok(Self {
            protocol: parts.protocol,
            suite: parts.keys.suite,
            peer: parts.peer,
            index: parts.index,
            peer_index: parts.peer_index,
            initiator: parts.initiator,
            since: parts.since,
            sending: key(&parts.keys.send)?,
            receiving: key(&parts.keys.receive)?,
            next: CachePadded::new(AtomicU64::new(0)),
            window: Mutex::new(Window::default()),
            confirmed: AtomicBool::new(parts.initiator),
            renewing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    /// How its datagrams look.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its cipher.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whom it is with.
    #[inline]
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The index that datagrams to us carry.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// When its handshake was complete.
    #[must_use]
    pub fn since(&self) -> Time {
        self.since
    }

    /// Whether we asked for it.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Whether it may still seal and open at `now`.
    #[inline]
    #[must_use]
    pub fn is_alive(&self, now: Time) -> bool {
        now.since(self.since) < REJECT_AFTER_TIME && !self.ended.load(Ordering::Relaxed)
    }

    /// Ends it, whoever holds it: nothing is sealed or opened any more. For a peer that was removed; for keys that changed; and for a
    /// machine that slept or was restored from a copy of itself, whose counters may have been used already.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    // ---- sending -------------------------------------------------------------------------------------------------------

    /// Takes `count` counters, of which the first is answered. They are never given back: what is not sealed with them is lost.
    ///
    /// # Errors
    /// The session must not seal any more.
    #[inline]
    pub fn reserve(&self, count: usize, now: Time) -> Result<u64, Spent> {
        if !self.is_alive(now) {
            return Err(Spent::Old);
        }
        let (reject, count) = (limits(self.protocol).reject, count as u64);
        let take = |next: u64| next.checked_add(count).filter(|next| *next <= reject);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Spent::Counters)
    }

    /// Whether it is time to ask for another session, now that something is sent or received. True once in its life.
    #[inline]
    pub fn wants_renewal(&self, now: Time, sends: bool) -> bool {
        let age = now.since(self.since);
        let old = self.initiator && age >= if sends { REKEY_AFTER_TIME } else { REKEY_ON_RECEIVE };
        let used = sends && self.next.load(Ordering::Relaxed) >= limits(self.protocol).rekey;
        (old || used) && !self.renewing.swap(true, Ordering::Relaxed)
    }

    /// Lets [`wants_renewal`](Self::wants_renewal) ask once more, after a handshake that came to nothing.
    pub fn renewal_failed(&self) {
        self.renewing.store(false, Ordering::Relaxed);
    }

    /// Bytes of the datagram that carries `length` bytes of plaintext. WireGuard pads, but not above `mtu`.
    #[inline]
    #[must_use]
    pub fn datagram_len(&self, length: usize, mtu: usize) -> usize {
        length + self.padding(length, mtu) + DATA_OVERHEAD
    }

    #[inline]
    fn padding(&self, length: usize, mtu: usize) -> usize {
        match self.protocol {
            Protocol::Sealed => 0,
            Protocol::WireGuard => length.next_multiple_of(PADDING).min(mtu.max(length)) - length,
        }
    }

    /// Seals `plaintext` into `datagram`, whose length [`datagram_len`](Self::datagram_len) answers. `counter` was
    /// [reserved](Self::reserve) and is used for this datagram alone. `lane` (of which the lowest four bits count) is for
    /// [`Protocol::Sealed`] only, as are flags.
    ///
    /// Answers whether it was sealed: not if the lengths do not fit.
    #[inline]
    #[must_use]
    pub fn seal(&self, counter: u64, flags: Flags, lane: u32, plaintext: &[u8], datagram: &mut [u8]) -> bool {
        let Some((header, body)) = datagram.split_first_chunk_mut::<DATA_HEADER>() else { return false };
        let Some((ciphertext, rest)) = body.split_at_mut_checked(plaintext.len()) else { return false };
        let Some(padding) = rest.len().checked_sub(TAG).and_then(|length| ZEROS.get(..length)) else { return false };
        let sealed = self.protocol == Protocol::Sealed;
        let receiver = if sealed { self.peer_index | (lane & LANE_MASK) } else { self.peer_index };
        *header = DataHeader { protocol: self.protocol, flags, receiver, counter }.emit();
        let associated: &[u8] = if sealed { header } else { &[] };
        let (nonce, associated) = (nonce(counter), Aad::from(associated));
        self.sending.seal_out_of_place_scatter(nonce, associated, plaintext, ciphertext, padding, rest).is_ok()
    }

    // ---- receiving -----------------------------------------------------------------------------------------------------

    /// Opens a datagram where it lies. Nothing is marked yet, and nothing to be delivered.
    ///
    /// # Errors
    /// Why not. The datagram's content is then undefined.
    #[inline]
    pub fn open(&self, header: &DataHeader, datagram: &mut [u8], now: Time) -> Result<Opened, Unopened> {
        if !self.is_alive(now) {
            return Err(Unopened::Old);
        }
        if header.protocol != self.protocol || header.counter >= limits(self.protocol).reject {
            return Err(Unopened::Forged);
        }
        let (associated, body) = datagram.split_first_chunk_mut::<DATA_HEADER>().ok_or(Unopened::Forged)?;
        let (ciphertext, tag) = body.split_last_chunk_mut::<TAG>().ok_or(Unopened::Forged)?;
        let associated: &[u8] = if self.protocol == Protocol::Sealed { associated } else { &[] };
        let plaintext = DATA_HEADER..DATA_HEADER + ciphertext.len();
        self.receiving
            .open_in_place_separate_tag(nonce(header.counter), Aad::from(associated), tag, ciphertext)
            .map_err(|_| Unopened::Forged)?;
        Ok(Opened { counter: header.counter, flags: header.flags, plaintext })
    }

    /// The window, for the marks of one batch.
    ///
    /// Threads that share a session check what is plainly a replay before they open anything, and mark what they opened before
    /// they deliver it: of the same counter on two sockets, one mark is fresh.
    #[inline]
    pub fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        // A thread that panicked while it held the lock left bits that are right as far as they are set.
        self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Marks one counter; see [`window`](Self::window).
    pub fn mark(&self, counter: u64) -> Mark {
        self.window().mark(counter)
    }

    /// Notes that something of the peer's was opened; answers whether it was the first, which lets the side that was asked send.
    #[inline]
    pub fn confirm(&self) -> bool {
        !self.confirmed.load(Ordering::Relaxed) && !self.confirmed.swap(true, Ordering::AcqRel)
    }

    /// Whether the peer has shown that it has the keys too.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }
}

const ZEROS: [u8; PADDING] = [0; PADDING];

/// 4 zero bytes and the counter, in both protocols.
#[inline]
fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    const SUITES: [(Protocol, Suite); 3] = [
        (Protocol::Sealed, Suite::Aes256Gcm),
        (Protocol::Sealed, Suite::ChaCha20Poly1305),
        (Protocol::WireGuard, Suite::ChaCha20Poly1305),
    ];
    const START: Time = Time::from_nanos(1_000_000_000);

    fn session(protocol: Protocol, suite: Suite, initiator: bool) -> Session {
        let [one, two] = [[7; 32], [9; 32]];
        let (send, receive, index, peer_index) =
            if initiator { (one, two, 0x10, 0x20) } else { (two, one, 0x20, 0x10) };
        let keys = Keys { send: Zeroizing::new(send), receive: Zeroizing::new(receive), suite };
        Session::new(Parts { protocol, peer: PeerId(0), index, peer_index, keys, initiator, since: START }).unwrap()
    }

    fn pair(protocol: Protocol, suite: Suite) -> (Session, Session) {
        (session(protocol, suite, true), session(protocol, suite, false))
    }

    pub(crate) fn session_with(index: u32) -> Session {
        let keys = Keys { send: Zeroizing::new([1; 32]), receive: Zeroizing::new([2; 32]), suite: Suite::Aes256Gcm };
        let protocol = Protocol::Sealed;
        let parts = Parts { protocol, peer: PeerId(0), index, peer_index: 0x40, keys, initiator: true, since: START };
        Session::new(parts).unwrap()
    }

    fn seal(session: &Session, flags: Flags, plaintext: &[u8]) -> Vec<u8> {
        let counter = session.reserve(1, START).unwrap();
        let mut datagram = vec![0; session.datagram_len(plaintext.len(), 1420)];
        assert!(session.seal(counter, flags, 5, plaintext, &mut datagram));
        datagram
    }

    fn open(session: &Session, mut datagram: Vec<u8>) -> Result<(Opened, Vec<u8>), Unopened> {
        let header = DataHeader::parse(&datagram).map_err(|_| Unopened::Forged)?;
        let opened = session.open(&header, &mut datagram, START)?;
        let plaintext = datagram[opened.plaintext.clone()].to_vec();
        Ok((opened, plaintext))
    }

    #[test]
    fn what_is_sealed_is_opened_by_the_other_end_alone() {
        for (protocol, suite) in SUITES {
            let (a, b) = pair(protocol, suite);
            for length in [0, 1, 15, 16, 17, 1419, 1420] {
                let plaintext: Vec<u8> = (0..length).map(|i| i as u8).collect();
                let datagram = seal(&a, Flags::NONE, &plaintext);
                assert!(open(&a, datagram.clone()).is_err(), "not by its own end");
                let (_, opened) = open(&b, datagram).unwrap();
                assert_eq!(opened[..length], plaintext);
                assert!(opened[length..].iter().all(|byte| *byte == 0), "padding is zeros");
            }
        }
    }

    #[test]
    fn wireguard_pads_to_sixteen_but_not_above_the_mtu() {
        let (a, _) = pair(Protocol::WireGuard, Suite::ChaCha20Poly1305);
        for (length, mtu, datagram) in
            [(0, 1420, 32), (1, 1420, 48), (16, 1420, 48), (1409, 1420, 1452), (1420, 1420, 1452), (1500, 1420, 1532)]
        {
            assert_eq!(a.datagram_len(length, mtu), datagram, "{length} of {mtu}");
        }
        let (a, _) = pair(Protocol::Sealed, Suite::Aes256Gcm);
        assert_eq!(a.datagram_len(1, 1420), 33);
    }

    #[test]
    fn every_bit_of_a_datagram_counts() {
        for (protocol, suite) in SUITES {
            let (a, b) = pair(protocol, suite);
            let datagram = seal(&a, Flags::NONE, b"a packet");
            for bit in 0..datagram.len() * 8 {
                let mut changed = datagram.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                // WireGuard authenticates neither its receiver index nor what else lies before the counter.
                let free = protocol == Protocol::WireGuard && (32..64).contains(&bit);
                assert_eq!(open(&b, changed).is_ok(), free, "{suite:?}, bit {bit}");
            }
            for length in 0..datagram.len() {
                assert!(open(&b, datagram[..length].to_vec()).is_err(), "{length} bytes of it");
            }
        }
    }

    #[test]
    fn the_lane_travels_in_sealed_only() {
        let (a, _) = pair(Protocol::Sealed, Suite::Aes256Gcm);
        assert_eq!(DataHeader::parse(&seal(&a, Flags::CONTINUES, b"x")).unwrap().receiver, 0x25);
        let (a, _) = pair(Protocol::WireGuard, Suite::ChaCha20Poly1305);
        assert_eq!(DataHeader::parse(&seal(&a, Flags::NONE, b"x")).unwrap().receiver, 0x20);
    }

    #[test]
    fn age_ends_a_session_and_asks_for_another_first() {
        let (a, b) = pair(Protocol::Sealed, Suite::Aes256Gcm);
        let at = |seconds| START + Duration::from_secs(seconds);
        assert!(!a.wants_renewal(at(119), true) && !a.wants_renewal(at(120), false));
        assert!(a.wants_renewal(at(120), true), "who began it renews when it sends");
        assert!(!a.wants_renewal(at(121), true), "once");
        a.renewal_failed();
        assert!(a.wants_renewal(at(165), false), "and late also when it only receives");
        assert!(!b.wants_renewal(at(179), true) && !b.wants_renewal(at(179), false), "who was asked does not");
        assert!(a.reserve(1, at(179)).is_ok());
        assert_eq!(a.reserve(1, at(180)), Err(Spent::Old));
        let datagram = seal(&a, Flags::NONE, b"late");
        let header = DataHeader::parse(&datagram).unwrap();
        assert_eq!(b.open(&header, &mut datagram.clone(), at(180)), Err(Unopened::Old));
        b.end();
        assert_eq!(b.reserve(1, at(1)), Err(Spent::Old));
    }

    #[test]
    fn counters_near_their_limit_are_refused_and_never_wrap() {
        for (protocol, suite) in SUITES {
            let Limits { rekey, reject } = limits(protocol);
            let (a, b) = pair(protocol, suite);
            a.next.store(rekey - 1, Ordering::Relaxed);
            assert!(!a.wants_renewal(START, true));
            assert_eq!(a.reserve(1, START), Ok(rekey - 1));
            assert!(a.wants_renewal(START, true));
            assert!(!b.wants_renewal(START, true));
            a.next.store(reject - 10, Ordering::Relaxed);
            assert_eq!(a.reserve(11, START), Err(Spent::Counters), "more than are left");
            assert_eq!(a.reserve(10, START), Ok(reject - 10));
            assert_eq!(a.reserve(1, START), Err(Spent::Counters));
            assert_eq!(a.reserve(usize::MAX, START), Err(Spent::Counters));
            // And a peer that goes on beyond is not believed.
            let mut datagram = vec![0; 33];
            assert!(a.seal(reject, Flags::NONE, 0, b"x", &mut datagram[..]) || protocol == Protocol::WireGuard);
            assert!(open(&b, datagram).is_err());
        }
    }

    #[test]
    fn the_first_datagram_confirms_who_was_asked() {
        let (a, b) = pair(Protocol::Sealed, Suite::Aes256Gcm);
        assert!(a.is_confirmed() && !a.confirm());
        assert!(!b.is_confirmed() && b.confirm() && !b.confirm() && b.is_confirmed());
    }

    #[test]
    fn threads_never_share_a_counter_and_one_mark_is_fresh() {
        let (a, _) = pair(Protocol::Sealed, Suite::Aes256Gcm);
        let taken = Mutex::new(Vec::new());
        let fresh = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let blocks: Vec<u64> = (0..500).map(|_| a.reserve(7, START).unwrap()).collect();
                    taken.lock().unwrap().extend(blocks);
                    for counter in 0..5000 {
                        fresh.fetch_add(u64::from(a.mark(counter) != Mark::Replay), Ordering::Relaxed);
                    }
                });
            }
        });
        let mut taken = taken.into_inner().unwrap();
        taken.sort_unstable();
        assert!(taken.iter().enumerate().all(|(i, counter)| *counter == 7 * i as u64));
        assert_eq!(fresh.into_inner(), 5000);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), plaintext in 0usize..100, room in 0usize..200) {
            for (protocol, suite) in SUITES {
                let (a, b) = pair(protocol, suite);
                prop_assert!(open(&b, bytes.clone()).is_err());
                let mut datagram = vec![0; room];
                let fits = room.checked_sub(plaintext + DATA_OVERHEAD).is_some_and(|padding| padding <= PADDING);
                prop_assert_eq!(a.seal(0, Flags::NONE, 0, &vec![0; plaintext], &mut datagram), fits);
            }
        }
    }
}
