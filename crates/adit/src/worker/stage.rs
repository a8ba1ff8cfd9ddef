//! Packets that wait for a session: what the device handed over while the peer was being called.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tunnel::{PeerId, Time};
use wire::vnet::VnetHdr;

/// Packets and super-packets per peer; beyond, the oldest is dropped (as WireGuard's MAX_STAGED_PACKETS).
const PER_PEER: usize = 128;

/// Packets and super-packets of all peers.
const ALL: usize = 1024;

/// Their bytes: bounds the memory of a worker's stage.
const BYTES: usize = 4 << 20;

/// Control is told again that a peer is wanted after this long, should the first word have been lost.
const AGAIN: Duration = Duration::from_secs(1);

/// One packet or super-packet as the device gave it.
pub(super) struct Staged {
    pub(super) header: VnetHdr,
    pub(super) packet: Box<[u8]>,
    since: Time,
}

/// The packets that wait.
#[derive(Default)]
pub(super) struct Stage {
    peers: HashMap<PeerId, Waiting>,
    packets: usize,
    bytes: usize,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Staged>,
    told: Option<Time>,
}

/// What became of a packet that was to wait.
pub(super) struct Placed {
    /// Packets dropped for it.
    pub(super) dropped: usize,
    /// Whether control is to be told that the peer is wanted.
    pub(super) tell: bool,
}

impl Stage {
    /// Keeps a packet.
    pub(super) fn put(&mut self, peer: PeerId, header: VnetHdr, packet: &[u8], now: Time) -> Placed {
        let waiting = self.peers.entry(peer).or_default();
        let tell = waiting.told.is_none_or(|told| now.since(told) >= AGAIN);
        if tell {
            waiting.told = Some(now);
        }
        let mut dropped = 0;
        if waiting.queue.len() >= PER_PEER
            && let Some(oldest) = waiting.queue.pop_front()
        {
            self.packets -= 1;
            self.bytes -= oldest.packet.len();
            dropped += 1;
        }
        if self.packets >= ALL || self.bytes + packet.len() > BYTES {
            dropped += 1;
        } else {
            self.packets += 1;
            self.bytes += packet.len();
            waiting.queue.push_back(Staged { header, packet: packet.into(), since: now });
        }
        Placed { dropped, tell }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// The peers for which something waits.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.peers.iter().filter(|(_, waiting)| !waiting.queue.is_empty()).map(|(peer, _)| *peer).collect()
    }

    /// Takes all that waits for a peer, in order.
    pub(super) fn take(&mut self, peer: PeerId) -> VecDeque<Staged> {
        let queue = self.peers.remove(&peer).unwrap_or_default().queue;
        self.packets -= queue.len();
        self.bytes -= queue.iter().map(|staged| staged.packet.len()).sum::<usize>();
        queue
    }

    /// Drops what has waited for a peer since `until` or longer; answers how many packets that were.
    pub(super) fn drop_until(&mut self, peer: PeerId, until: Time) -> usize {
        let Some(waiting) = self.peers.get_mut(&peer) else { return 0 };
        let mut dropped = 0;
        while let Some(oldest) = waiting.queue.pop_front_if(|staged| staged.since <= until) {
            self.packets -= 1;
            self.bytes -= oldest.packet.len();
            dropped += 1;
        }
        if waiting.queue.is_empty() {
            self.peers.remove(&peer);
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: PeerId = PeerId(0);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn packets_wait_in_order_and_the_oldest_make_room() {
        let mut stage = Stage::default();
        for i in 0..130u8 {
            let placed = stage.put(BERLIN, VnetHdr::NONE, &[i], at(1));
            assert_eq!((placed.dropped, placed.tell), (usize::from(i >= 128), i == 0));
        }
        assert!(stage.put(BERLIN, VnetHdr::NONE, &[130], at(2)).tell, "told again after a while");
        assert_eq!(stage.peers(), [BERLIN]);
        let taken: Vec<_> = stage.take(BERLIN).into_iter().map(|staged| staged.packet[0]).collect();
        assert_eq!(taken, (3..=130).collect::<Vec<u8>>());
        assert!(stage.is_empty() && stage.bytes == 0 && stage.take(BERLIN).is_empty());
    }

    #[test]
    fn memory_is_bounded_over_all_peers() {
        let mut stage = Stage::default();
        let large = vec![0; 60_000];
        let dropped: usize = (0..200).map(|i| stage.put(PeerId(i), VnetHdr::NONE, &large, at(1)).dropped).sum();
        assert_eq!(dropped, 200 - BYTES / 60_000);
        let dropped: usize = (0..2000).map(|i| stage.put(PeerId(i), VnetHdr::NONE, &[0], at(1)).dropped).sum();
        assert_eq!((stage.packets, dropped), (ALL, 2000 - (ALL - BYTES / 60_000)));
    }

    #[test]
    fn what_waited_in_vain_is_dropped_and_what_came_later_stays() {
        let mut stage = Stage::default();
        for second in 1..=5 {
            stage.put(BERLIN, VnetHdr::NONE, &[second as u8], at(second));
        }
        assert_eq!(stage.drop_until(BERLIN, at(3)), 3);
        assert_eq!(stage.drop_until(BERLIN, at(3)), 0);
        assert_eq!(stage.take(BERLIN).len(), 2);
        assert_eq!(stage.drop_until(PeerId(7), at(3)), 0);
    }
}
