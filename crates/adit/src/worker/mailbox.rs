//! What workers hand to control: messages of handshakes, notices about peers, and what peers tell inside sessions. All queues are bounded and nobody waits at them: what
//! finds no room is lost, and asked or told again.

use std::net::SocketAddr;

use crossbeam_queue::ArrayQueue;
use linux::udp::LocalAddress;
use tunnel::Notice;
use wire::beacon::Beacon;
use wire::message::handshake::MAX_LEN;

/// Messages of handshakes that wait; each may cost Diffie-Hellman, so that more would only be late.
const ARRIVALS: usize = 512;

/// Notices that wait.
const NOTICES: usize = 4096;

/// What peers tell that waits: with a thousand bytes each, a quarter of a megabyte.
const NOTES: usize = 256;

/// Beacons that wait; they come once a second from each node of a segment, and from whoever makes some up.
const BEACONS: usize = 64;

/// A message that passed [`Admission`](tunnel::admission::Admission).
#[derive(Clone, Copy)]
pub struct Arrival {
    bytes: [u8; MAX_LEN],
    length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it came to.
    pub local: Option<LocalAddress>,
    /// Whether the configuration says that a peer is there.
    pub known: bool,
}

impl Arrival {
    /// The message.
    pub fn datagram(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// What a peer told us inside a session.
pub struct Told {
    /// Our index of the session.
    pub index: u32,
    /// A note, well-formed.
    pub plaintext: Box<[u8]>,
}

/// The queues.
pub struct Mailbox {
    arrivals: ArrayQueue<Arrival>,
    notices: ArrayQueue<(Notice, Option<LocalAddress>)>,
    notes: ArrayQueue<Told>,
    beacons: ArrayQueue<Beacon>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            arrivals: ArrayQueue::new(ARRIVALS),
            notices: ArrayQueue::new(NOTICES),
            notes: ArrayQueue::new(NOTES),
            beacons: ArrayQueue::new(BEACONS),
        }
    }
}

impl Mailbox {
    /// Puts a message in; answers whether there was room, and it was no longer than any message of a handshake.
    pub(super) fn deliver(&self, datagram: &[u8], from: SocketAddr, local: Option<LocalAddress>, known: bool) -> bool {
        let mut bytes = [0; MAX_LEN];
        let Some(room) = bytes.get_mut(..datagram.len()) else { return false };
        room.copy_from_slice(datagram);
        self.arrivals.push(Arrival { bytes, length: datagram.len(), from, local, known }).is_ok()
    }

    /// Puts a notice in; `local` is where the datagram that it is about came to.
    pub(super) fn notify(&self, notice: Notice, local: Option<LocalAddress>) -> bool {
        self.notices.push((notice, local)).is_ok()
    }

    /// Puts in what a peer told us.
    pub(super) fn tell(&self, index: u32, plaintext: &[u8]) -> bool {
        self.notes.push(Told { index, plaintext: plaintext.into() }).is_ok()
    }

    /// Puts in a beacon that the device brought; answers whether control is to be told.
    pub(super) fn hear(&self, beacon: Beacon) -> bool {
        self.beacons.push(beacon).is_ok()
    }

    /// The next beacon.
    pub fn next_beacon(&self) -> Option<Beacon> {
        self.beacons.pop()
    }

    /// The next thing that a peer told us.
    pub fn next_told(&self) -> Option<Told> {
        self.notes.pop()
    }

    /// The next message.
    pub fn next_arrival(&self) -> Option<Arrival> {
        self.arrivals.pop()
    }

    /// The next notice.
    pub fn next_notice(&self) -> Option<(Notice, Option<LocalAddress>)> {
        self.notices.pop()
    }
}
