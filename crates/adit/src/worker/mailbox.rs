//! What workers hand to control: messages of handshakes, and notices about peers. Both queues are bounded and nobody waits at them: what
//! finds no room is lost, and asked or told again.

use std::net::SocketAddr;

use crossbeam_queue::ArrayQueue;
use linux::udp::LocalAddress;
use tunnel::Notice;
use wire::message::handshake::MAX_LEN;

/// Messages of handshakes that wait; each may cost Diffie-Hellman, so that more would only be late.
const ARRIVALS: usize = 512;

/// Notices that wait.
const NOTICES: usize = 4096;

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

/// The two queues.
pub struct Mailbox {
    arrivals: ArrayQueue<Arrival>,
    notices: ArrayQueue<(Notice, Option<LocalAddress>)>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self { arrivals: ArrayQueue::new(ARRIVALS), notices: ArrayQueue::new(NOTICES) }
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

    /// The next message.
    pub fn next_arrival(&self) -> Option<Arrival> {
        self.arrivals.pop()
    }

    /// The next notice.
    pub fn next_notice(&self) -> Option<(Notice, Option<LocalAddress>)> {
        self.notices.pop()
    }
}
